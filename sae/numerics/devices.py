"""Whether a device that somebody names is there."""

from __future__ import annotations

import torch

from sae.registry import UserError


def check_device(setting: str, device: str | torch.device, remedy: str = "use 'cpu'") -> None:
    """Raises `UserError`, naming the setting, where this machine has no such device."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"{setting} = {str(device)!r}: no such device on this machine; {remedy}") from None
