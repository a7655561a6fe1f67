"""Toy data with known features: feature distributions, toy networks, attention toys and nonlinear codes."""
