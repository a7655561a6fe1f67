"""Configs: TOML tables, their validation, sweeps, and the names of settings."""
