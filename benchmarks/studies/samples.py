"""Double descent with few samples (Henighan et al. 2023), and scaling with falling frequencies (Liu et al. 2025)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.studies import Fact, best, listed, trained
from sae.analysis.geometry.geometry import dimensionality


def double_descent() -> Iterator[Fact]:
    """With few samples the hidden vectors of the samples form the polygon, with many those of the features; in between,
    the test loss has a peak."""
    sizes = [3, 5, 8, 15, 30, 100, 300, 1000, 2000]
    losses, samples, features = list[float](), list[float](), list[float]()
    for n in sizes:
        s = trained(
            1000,
            0.01,
            2,
            unit=True,
            instances=2,
            training={
                "steps": 3000,
                "n_samples": n,
                "lr": 1e-3,
                "decay": "cosine",
                "warm_up": 0.05,
                "weight_decay": 0.01,
            },
        )
        i = best(s)[0]
        losses.append(float(s.tensors["loss"][i]))
        rows = s.inputs.rows(0, n)
        hidden = s.networks.instance(i)(rows[None], depth=1).output[0]
        samples.append(float(dimensionality(hidden).max()))
        features.append(float(dimensionality(s.networks.W[i]).max()))
    scale = losses[-1]
    yield Fact(
        f"test loss divided by the last, T = {listed(sizes, 'd')}",
        "a peak between",
        listed([x / scale for x in losses], ".2f"),
    )
    yield Fact("largest D of a sample", "2/T at small T", listed(samples, ".2f"))
    yield Fact("largest D of a feature", "pentagon at large T: .4", listed(features, ".2f"))


def scaling() -> Iterator[Fact]:
    """In strong superposition (negative weight decay) the loss falls like 1/m for any frequencies; in weak
    superposition it is the mass of the features that were not learned."""
    widths = [8, 16, 32, 64, 128]
    p = (torch.arange(1, 1001).double() ** -1.2).numpy()
    probability = (p / p.sum()).tolist()
    for name, decay in (("strong", -1.0), ("weak", 1.0)):
        losses, n_represented = list[float](), list[int]()
        for m in widths:
            s = trained(
                1000,
                probability,
                m,
                values={"kind": "uniform", "low": 0.0, "high": 2.0},
                network={"start": "unit"},
                instances=1,
                training={"steps": 3000, "batch_size": 512, "lr": 5e-3, "weight_decay": decay},
            )
            losses.append(float(s.tensors["loss"][0]))
            n_represented.append(int((s.networks.W[0].norm(dim=1) > 0.5).sum()))
        slope = _slope(widths, losses)
        yield Fact(
            f"{name}: exponent of the loss over m = 8 to 128", "-1" if decay < 0 else "shallower", f"{slope:.2f}"
        )
        yield Fact(f"{name}: represented of 1000", "all" if decay < 0 else "about m", listed(n_represented, "d"))


def _slope(x: list[int], y: list[float]) -> float:
    """Least-squares slope of log y over log x."""
    u, v = (torch.tensor(values).double().log() for values in (x, y))
    return float(((u - u.mean()) * (v - v.mean())).sum() / (u - u.mean()).square().sum())
