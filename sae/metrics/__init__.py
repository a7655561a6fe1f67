"""Families of scores, one file per family."""
