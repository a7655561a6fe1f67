"""Dictionaries spliced into a running model, edits of their codes, and attribution."""
