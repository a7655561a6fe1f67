"""The kinds of dictionary, one file an architecture.

Each file has ``KIND``, the final `Dictionary` class that :func:`sae.load` builds. Those that can be trained have
a ``Config`` too; the others (``lasso``) come out of classical methods and better encoders.
"""
