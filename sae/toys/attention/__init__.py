"""Attention toys: small attention-only transformers, and the algorithmic tasks that they are trained on."""
