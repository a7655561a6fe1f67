"""Attention heads, position and LayerNorm: which component of a model does what."""
