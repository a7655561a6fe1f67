"""With other libraries installed, torchvision may not match torch; the programs have the same workaround."""

from __future__ import annotations

from benchmarks.isolated import stand_in_for_torchvision

stand_in_for_torchvision()
