"""The levels of nested dictionaries: which latents each adds, and which residuals train them."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from sae.architecture import Architecture


def segments(architecture: Architecture, n_latents: int) -> list[slice]:
    """The latents of each level that are not in the level before."""
    return [slice(*ends) for ends in pairwise((0, *(architecture.levels or (n_latents,))))]


def residuals_by_segment(residuals: list[Tensor], detach: bool) -> list[Tensor]:
    """The residuals of the levels that train each segment, summed and divided by the number of levels, in the memory of
    the residuals. These are all levels that contain the segment; with `detach`, its own and the last."""
    for inner, outer in pairwise(range(len(residuals) - 1, -1, -1)):
        residuals[outer] += residuals[-1 if detach else inner]
    return [r.div_(len(residuals)) for r in residuals] if len(residuals) > 1 else residuals
