"""The kinds of encoder, one file each: other ways to compute codes from a dictionary's directions than its own layer.

``own`` leaves the dictionary as it is. ``threshold`` is one layer, ``stagewise`` and ``lista`` a few; ``fista``,
``omp`` and ``nnls`` solve an optimisation problem for each sample. The method `multiply_adds` gives the cost of each.
"""
