"""Nonlinear codes, one file each."""
