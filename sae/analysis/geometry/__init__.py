"""Geometry of decoder rows, embeddings and neurons."""
