"""Dictionaries in a running model: splicing, edits and attribution."""
