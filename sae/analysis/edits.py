"""Edits of a dictionary's codes in a running model; defined in :mod:`sae.analysis.intervention.edits`."""

from sae.analysis.intervention.edits import Edit, add, clamp, only, scale, steer, zero

__all__ = ["Edit", "add", "clamp", "only", "scale", "steer", "zero"]
