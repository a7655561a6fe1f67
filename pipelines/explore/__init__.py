"""Dashboards of a dictionary's latents: static pages that need no server and load nothing from elsewhere."""

from pipelines.explore.command import write_export, write_pages

__all__ = ["write_export", "write_pages"]
