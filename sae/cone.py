"""Rows that stay near where they began.

    cos(w, a) >= c        the cone of half angle arccos(c) around a row's first direction a

A row outside goes to the border of its cone on the shortest way that leaves its norm: with u the unit vector of what
is orthogonal to a in w, ``w = |w| (c a + sqrt(1 - c^2) u)``. At c = 1 only its length is free.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

OPPOSITE = 1e-6
"""How little of a row's length is aside from where it began, for it to point the opposite way up to rounding."""


def into_cone_(w: Float[Tensor, "*rows d_in"], began: Float[Tensor, "*rows d_in"], least: float) -> None:
    """Brings every row of `w` to a cosine of at least `least` with its row of `began`, whose norm is one; rows that
    are there keep their bits. A row that points the opposite way goes to where it began."""
    norm, along = w.norm(dim=-1, keepdim=True), (w * began).sum(-1, keepdim=True)
    outside = along < least * norm
    aside = w - along * began
    far = aside.norm(dim=-1, keepdim=True)
    border = least * began + (1 - least**2) ** 0.5 * aside / far.clamp_min(1e-30)
    border = torch.where(far > OPPOSITE * norm, border, began)
    w.copy_(torch.where(outside, norm * border, w))
