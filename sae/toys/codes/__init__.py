"""The nonlinear codes, one file each."""
