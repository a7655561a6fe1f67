"""Toy data whose features are known: feature distributions, toy networks, attention toys, nonlinear codes."""
