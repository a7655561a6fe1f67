"""The kinds of dictionary, one file per architecture.

Each file has ``KIND``, the final `Dictionary` class that :func:`sae.load` builds. Kinds that can be trained have a
``Config`` too; `standardised` and `transcoder` have none, they exist only to load third-party checkpoints. Kinds that
result from better encoders are in ``sae/encoders/``.
"""
