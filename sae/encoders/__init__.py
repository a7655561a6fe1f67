"""The kinds of encoder, one file each: other ways to read a dictionary's directions than by its own layer.

``own`` leaves the dictionary as it is. ``threshold`` stays one layer; ``lista`` is a few; ``fista``, ``omp`` and
``nnls`` optimise. What each costs is its `multiply_adds`.
"""
