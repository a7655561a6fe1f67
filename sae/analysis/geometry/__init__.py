"""Geometry of decoder rows, embeddings and neuron weights."""
