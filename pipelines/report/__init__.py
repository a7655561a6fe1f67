"""The report of a run: tables, figures, pages and the terminal."""
