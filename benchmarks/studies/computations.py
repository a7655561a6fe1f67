"""Computation in a nonlinear hidden layer: absolute values, logic, maxima, classes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.studies import Fact, best, falling, listed, trained
from sae.analysis.units.neurons import monosemantic_neurons, response_share, weight_share

UNTIED = {"tied": False, "activation": "relu"}


def hidden_relu() -> Iterator[Fact]:
    """A ReLU in the hidden layer makes its basis privileged: dense features have dedicated neurons, sparse ones
    share."""
    p = [0.75, 0.5, 0.3, 0.15, 0.12, 0.06, 0.03]
    s = trained(
        10,
        1,
        5,
        importance=falling(0.75),
        network={"activation": "relu"},
        instances=50,
        vary={"activity.probability": p},
        training={"steps": 3000, "batch_size": 256},
    )
    W = s.networks.W[best(s)]
    several = ((W > 0.3).sum(1) > 1).sum(1)
    yield Fact(f"neurons with several features at p = {listed(p)}", "0 from .5 up, 5 at .03", listed(several, "d"))
    yield Fact("represented", "5, 5, 5 to 6, 5 to 7, 6, 8, 10", listed((W.norm(dim=2) > 0.5).sum(1), "d"))


def absolute() -> Iterator[Fact]:
    """|x| is ReLU(x) + ReLU(-x), which takes two neurons per feature."""
    s = trained(3, 1, 6, signed=True, task="absolute", network=UNTIED, instances=16)
    fvu = s.tensors["unexplained"]
    yield Fact("fraction unexplained, best and median of 16", "1e-6, 5e-5", listed([fvu.min(), fvu.median()], ".1e"))
    alone = monosemantic_neurons(weight_share(s.networks.W[int(fvu.argmin())]), 0.99).sum()
    yield Fact("neurons of the best with one feature alone", "6 of 6", f"{int(alone)} of 6")


def absolute_by_density() -> Iterator[Fact]:
    """The sparser the features, the fewer neurons are dedicated to one of them (50 features, 20 neurons)."""
    p = [1, 0.3, 0.1, 0.03, 0.01]
    s = trained(
        50,
        1,
        20,
        signed=True,
        task="absolute",
        importance=falling(0.9),
        network=UNTIED,
        instances=3,
        vary={"activity.probability": p},
        training={"steps": 6000, "batch_size": 512},
    )
    W = s.networks.W[best(s)]
    yield Fact(
        f"neurons of 20 whose top feature has a share above .9, p = {listed(p)}",
        "20, 16, 3, 0, 0",
        listed([int(monosemantic_neurons(weight_share(w)).sum()) for w in W], "d"),
    )
    yield Fact("features with a weight above .3", "8, 11, 20, 27, 29", listed((W.abs().amax(2) > 0.3).sum(1), "d"))


def functions() -> Iterator[Fact]:
    """Functions of four inputs from eight neurons (best, median of 16): GELU is quadratic at 0, ReLU has corners."""
    expected = {
        ("and", "relu"): "1e-7, .65",
        ("and", "gelu"): "6e-5, .002",
        ("or", "relu"): "1e-5, 5e-4",
        ("or", "gelu"): "2e-4, .003",
        ("max_absolute", "relu"): "8e-5, .027",
        ("max_absolute", "gelu"): ".071, .107",
        ("square", "relu"): ".015, .17",
        ("square", "gelu"): ".0013, .004",
        ("max", "relu"): "0 by construction",
        ("max", "gelu"): "",
    }
    for (name, activation), text in expected.items():
        binary = name in ("and", "or")
        network = {"tied": False, "activation": activation, "hidden_bias": binary}
        law = {"kind": "constant"} if binary else {"kind": "uniform"}
        fvu = trained(
            4,
            0.5 if binary else 1,
            8,
            task=name,
            signed=name in ("max_absolute", "square"),
            values=law,
            network={**network, "output": "relu"},
            instances=16,
        ).tensors["unexplained"]
        yield Fact(f"{name}, {activation}: fraction unexplained", text, listed([fvu.min(), fvu.median()], ".1e"))


def depth() -> Iterator[Fact]:
    """The largest of three signed numbers takes two layers; max(|x|, |y|) = (|x + y| + |x - y|) / 2 takes one."""
    for name, n, hidden in (
        ("max_absolute", 2, [4]),
        ("max_of_three", 3, [16]),
        ("max_of_three", 3, [8, 8]),
    ):
        s = trained(
            n,
            1,
            hidden,
            signed=True,
            task=name,
            network={"tied": False, "activation": "relu", "output": "linear", "hidden_bias": True},
            instances=16,
            training={"steps": 6000, "batch_size": 512},
        )
        text = {"[4]": "0", "[16]": "above two layers", "[8, 8]": "0 by construction"}[str(hidden)]
        fvu = s.tensors["unexplained"]
        yield Fact(f"{name}, hidden {hidden}: fraction unexplained", text, listed([fvu.min(), fvu.median()], ".1e"))


def many_outputs() -> Iterator[Fact]:
    """More outputs than hidden neurons: the maximum of every pair, and values encoded as one of five."""
    s = trained(
        8,
        0.3,
        12,
        task="all_max",
        network={"tied": False, "activation": "relu"},
        instances=16,
        training={"steps": 6000},
    )
    fvu = s.tensors["unexplained"]
    yield Fact("28 maxima from 12 neurons: fraction unexplained", "", listed([fvu.min(), fvu.median()], ".2g"))
    s = trained(
        4,
        0.5,
        12,
        task="one_hot",
        values={"kind": "choice", "values": [1, 2, 3, 4, 5]},
        network={"tied": False, "activation": "relu", "hidden_bias": True, "output": "linear"},
        instances=16,
        training={"steps": 6000},
    )
    fvu = s.tensors["unexplained"]
    yield Fact("20 outputs from 12 neurons: fraction unexplained", "", listed([fvu.min(), fvu.median()], ".2g"))


def classes() -> Iterator[Fact]:
    """Cross-entropy tolerates interference, because only the largest logit matters."""
    s = trained(
        40,
        0.05,
        10,
        task="classify",
        network={"tied": False, "output": "linear"},
        instances=4,
        training={"steps": 6000, "batch_size": 512},
    )
    network = s.networks.instance(best(s)[0])
    x = s.inputs.rows(0, 8192, "test")
    labels = s.config.computes.target(x).argmax(1)
    right = (network(x[None]).output[0].argmax(1) == labels).float().mean()
    commonest = labels.bincount().max() / len(labels)
    yield Fact(
        "accuracy on 41 classes from 10 dimensions; accuracy of always choosing the most common class",
        "far above the second",
        listed([right, commonest]),
    )
    mse = trained(40, 0.05, 10, instances=4, training={"steps": 6000, "batch_size": 512})
    lengths = [int((t.networks.W[best(t)[0]].norm(dim=1) > 0.5).sum()) for t in (s, mse)]
    yield Fact("represented: cross-entropy, squared error", "", listed(lengths, "d"))


def embedded() -> Iterator[Fact]:
    """Neurons after a fixed embedding: networks whose biases start below zero have more monosemantic neurons at the
    same loss (Jermyn et al., from -1; at the scale of these weights -1 would make every neuron dead)."""
    starts = [0.0, -0.1, -0.2]
    shares, live, losses = list[float](), list[int](), list[float]()
    for start in starts:
        s = trained(
            512,
            1 / 64,
            1024,
            network={
                "tied": False,
                "activation": "relu",
                "output": "linear",
                "embed": 64,
                "embedding": "tight",
                "hidden_bias": True,
                "hidden_bias_start": start,
                "output_bias": False,
            },
            instances=1,
            training={"steps": 4096, "batch_size": 128, "decay": "cosine", "weight_decay": 0.0},
        )
        share = response_share(s.network(torch.eye(512)[None], depth=1).output[0])
        live.append(int(share.isfinite().sum()))
        shares.append(float(monosemantic_neurons(share).sum()) / live[-1])
        losses.append(float(s.tensors["loss"][0]) * 512)
    yield Fact(f"share of live neurons with r_k > .9, biases from {listed(starts)}", "up", listed(shares, ".2f"))
    yield Fact("live of 1024 neurons", "", listed(live, "d"))
    yield Fact("loss (sum over features)", "the same", listed(losses, ".3f"))


def compressed() -> Iterator[Fact]:
    """A negative control: 100 functions x + ReLU(x) in 50 neurons look like computation in superposition, but the gain
    comes from the mixing by the embedding: without an embedding there is no gain over computing 50 functions in
    full."""
    naive = 0.5
    for name, embed in (("random embedding of 1000", 1000), ("none", None)):
        s = trained(
            100,
            0.01,
            50,
            signed=True,
            task="plus_relu",
            network={**UNTIED, "output": "linear", "output_bias": False, "residual": True, "embed": embed},
            instances=2,
            training={"steps": 2000, "batch_size": 2048, "decay": "cosine", "weight_decay": 0.0},
        )
        x = s.inputs.rows(0, 16384, "test")[None]
        target, missing = s.config.computes.target(x), x.relu()
        output = s.networks.instance(best(s)[0])(x).output
        ratio = float((output - target).square().sum() / missing.square().sum())
        text = f"below {naive}" if embed else f"about {naive}"
        yield Fact(
            f"squared error divided by that without the ReLUs, {name} (half computed: {naive})", text, f"{ratio:.3f}"
        )
