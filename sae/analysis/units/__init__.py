"""Single units, neurons or latents: how many are monosemantic, and which of them represent a feature."""
