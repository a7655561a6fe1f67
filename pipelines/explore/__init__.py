"""Dashboards of a dictionary's latents as a folder of static pages, which work without a server and fetch nothing."""

from pipelines.explore.command import write_pages

__all__ = ["write_pages"]
