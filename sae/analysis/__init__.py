"""Analyses of trained dictionaries, models and toy models."""
