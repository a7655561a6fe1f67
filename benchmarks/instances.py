"""Times training many toy networks at once, against a loop that trains one at a time.

python -m benchmarks.instances
"""

from __future__ import annotations

import torch

from benchmarks.clock import mean_seconds
from benchmarks.isolated import call
from benchmarks.lines import Line, emit, run
from sae.sources.network import Config
from sae.toys.networks.training import train_networks

SHAPES = {
    "pentagon": {"n_features": 5, "hidden": 2, "batch": 256},
    "demo": {"n_features": 20, "hidden": 5, "batch": 256},
    "geometry": {"n_features": 200, "hidden": 20, "batch": 256},
}
PROBABILITY = 0.05
ROUNDS = 5


def instances(*, n: int = 64, threads: int = 1, steps: int = 200) -> list[Line]:
    """Print a result for every shape.

    Parameters
    ----------
    n
        Number of networks trained at once.
    threads
        Threads of the process.
    steps
        Steps in each of five series.
    """
    lines: list[Line] = []
    for name, shape in SHAPES.items():
        timing = call("benchmarks.instances:measure", {**shape, "n": n, "steps": steps}, threads)
        line: Line = {"name": name, **shape, "n": n, "threads": threads, **timing}
        line["loop_instances"] = line["together_ms"] / line["one_ms"]
        lines.append(emit("instances", line))
    return lines


def measure(n_features: int, hidden: int, batch: int, n: int, steps: int) -> dict[str, float]:
    """Milliseconds per step of `n` networks together, and of one network in a plain loop. The two take turns."""
    together = AllAtOnce(n_features, hidden, batch, n, steps)
    loop = Loop(n_features, hidden, batch, steps)
    times: dict[str, list[float]] = {"together_ms": [], "one_ms": []}
    for _ in range(ROUNDS):
        times["together_ms"].append(1000 * mean_seconds(together.series, at_least=0) / steps)
        times["one_ms"].append(1000 * mean_seconds(loop.series, at_least=0) / steps)
    return {name: sorted(values)[ROUNDS // 2] for name, values in times.items()}


class AllAtOnce:
    """Our training of all instances at once."""

    def __init__(self, n_features: int, hidden: int, batch: int, n: int, steps: int) -> None:
        self.config = Config(
            n_features=n_features,
            activity={"kind": "independent", "probability": PROBABILITY},
            network={"hidden": [hidden]},
            training={"steps": steps, "batch_size": batch},
            instances=n,
        )

    def series(self) -> None:
        for _ in train_networks(self.config.untrained(), self.config.population(), self.config.training):
            pass


class Loop:
    """A straightforward implementation for one network: parameters, AdamW, samples from ``torch.rand``."""

    def __init__(self, n_features: int, hidden: int, batch: int, steps: int) -> None:
        self.shape, self.steps = (batch, n_features), steps
        self.W = torch.nn.Parameter(torch.randn(n_features, hidden) * (2 / (n_features + hidden)) ** 0.5)
        self.b = torch.nn.Parameter(torch.zeros(n_features))

    def series(self) -> None:
        adam = torch.optim.AdamW([self.W, self.b], lr=3e-3)
        for step in range(self.steps):
            x = torch.rand(self.shape) * (torch.rand(self.shape) < PROBABILITY)
            loss = (torch.relu(x @ self.W @ self.W.T + self.b) - x).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.param_groups[0]["lr"] = 3e-3 * (1 - step / self.steps)
            adam.step()


if __name__ == "__main__":
    run(instances)
