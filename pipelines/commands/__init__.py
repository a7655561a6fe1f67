"""The commands of `sae`, one module each."""
