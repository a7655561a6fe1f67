"""Analyses of single units (neurons or latents): which are monosemantic, and which represent a feature."""
