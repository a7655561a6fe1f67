"""Staged runs over the library: from a config to a scored dictionary."""
