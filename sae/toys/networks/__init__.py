"""Toy networks: small models that are trained on features that are known, many instances at once.

What a network is made of and what it computes are settings (:mod:`sae.toys.networks.settings`,
:mod:`sae.toys.networks.tasks`);
:mod:`sae.toys.networks.model` runs a stack of instances with batched products, :mod:`sae.toys.networks.training`
trains it.
As a source of activations they are the kind ``network``, :mod:`sae.sources.network`.
"""
