"""Where models run, if not on the device of the other work: on another GPU, or in parts on all of them."""

from __future__ import annotations

ALL = "auto"
"""Stands for all GPUs: the layers of a model are spread over them, and over the CPU where they do not fit."""
_chosen: str | None = None


def run_models_on(device: str | None) -> None:
    """Makes models that this process loads from now on run on `device`, or on all GPUs (:data:`ALL`), whatever device
    they are loaded for; None: on that device. Like torch's number of threads, it is a setting of the process."""
    global _chosen
    _chosen = device


def device_for_models(device: str) -> str:
    """Where a model that is loaded for work on `device` runs."""
    return _chosen or device
