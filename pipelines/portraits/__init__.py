"""What sources show of themselves in a report: one file per kind of source, named like it.

Each has ``draw(directory)``, which takes the directory of the source's finished step and yields
``(file name, title, caption, figure)``, the figure None where there is nothing to show; the figures themselves are
pure functions beside it.
"""
