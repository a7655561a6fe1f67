"""The kinds of dictionary, one file an architecture.

Each file has ``KIND``, the final `Dictionary` class that :func:`sae.load` builds. What can be trained has a ``Config``
too; `standardised` and `transcoder` have none, they are what others' files need beside. Kinds that come out of better
encoders are in ``sae/encoders/``.
"""
