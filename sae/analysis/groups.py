"""Latents that differ between two groups of documents; defined in :mod:`sae.analysis.latents.group_rates`."""

from sae.analysis.latents.group_rates import FiringComparison, compare_firing, compare_texts

__all__ = ["FiringComparison", "compare_firing", "compare_texts"]
