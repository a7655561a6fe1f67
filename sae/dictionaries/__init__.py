"""The kinds of dictionary, one file an architecture.

Each file has ``KIND``, the final `Dictionary` class that :func:`sae.load` builds. They are
trained, so that each has a ``Config`` too; kinds that come out of better encoders are in ``sae/encoders/``.
"""
