"""Stages of a run, one per file; each reads the directories of its inputs and fills a directory."""
