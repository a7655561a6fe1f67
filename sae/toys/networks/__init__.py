"""Toy networks: small models trained on known features, many instances at once.

:mod:`sae.toys.networks.settings` and :mod:`sae.toys.networks.tasks` hold the settings of a network and the functions it
computes; :mod:`sae.toys.networks.model` runs a stack of instances with batched products, and
:mod:`sae.toys.networks.training` trains it. The source ``network`` (:mod:`sae.sources.network`) yields activations
of a hidden layer.
"""
