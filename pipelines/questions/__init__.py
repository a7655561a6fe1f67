"""The questions of `sae ask`: one module per kind, with the name of the kind."""
