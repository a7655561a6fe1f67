"""Beside other libraries, this process may have a torchvision that does not fit its torch, as the programs may."""

from __future__ import annotations

from benchmarks.isolated import stand_in_for_torchvision

stand_in_for_torchvision()
