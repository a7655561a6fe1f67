"""Dashboards of a dictionary's latents as a folder of static pages, which work without a server and fetch nothing."""

from pipelines.explore.command import explore

__all__ = ["explore"]
