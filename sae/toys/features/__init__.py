"""Distributions of features: which are active, how strongly, and in which directions they point."""
