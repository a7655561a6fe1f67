"""Features that a nonlinear hidden layer computes with: absolute values, logic, maxima, classes."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.studies import Fact, best, falling, listed, trained

UNTIED = {"tied": False, "activation": "relu"}


def hidden_relu() -> Iterator[Fact]:
    """A ReLU in the hidden layer privileges its basis: dense features get neurons of their own, sparse ones share."""
    p = [0.75, 0.5, 0.3, 0.15, 0.12, 0.06, 0.03]
    s = trained(
        10,
        1,
        5,
        importance=falling(0.75),
        network={"activation": "relu"},
        instances=100,
        vary={"activity.probability": p},
        training={"steps": 4000, "batch_size": 512},
    )
    W = s.networks.W[best(s)]
    several = ((W > 0.3).sum(1) > 1).sum(1)
    yield Fact(f"neurons with several features at p = {listed(p)}", "0 from .5 up, 5 at .03", listed(several, "d"))
    yield Fact("represented", "5, 5, 5 to 6, 5 to 7, 6, 8, 10", listed((W.norm(dim=2) > 0.5).sum(1), "d"))


def absolute() -> Iterator[Fact]:
    """|x| is ReLU(x) + ReLU(-x), in two neurons a feature."""
    s = trained(3, 1, 6, signed=True, task="absolute", network=UNTIED, instances=16)
    fvu = s.tensors["unexplained"]
    yield Fact("fraction unexplained, best and median of 16", "1e-6, 5e-5", listed([fvu.min(), fvu.median()], ".1e"))
    W = s.networks.W[int(fvu.argmin())]
    alone = W.square().amax(0) / W.square().sum(0)
    yield Fact("neurons of the best with one feature alone", "6 of 6", f"{int((alone > 0.99).sum())} of 6")


def absolute_by_density() -> Iterator[Fact]:
    """The sparser the features, the fewer neurons belong to one of them (50 features, 20 neurons)."""
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
    share = W.square().amax(1) / W.square().sum(1)
    yield Fact(
        f"neurons of 20 whose top feature has a share above .9, p = {listed(p)}",
        "20, 16, 3, 0, 0",
        listed((share > 0.9).sum(1), "d"),
    )
    yield Fact("features with a weight above .3", "8, 11, 20, 27, 29", listed((W.abs().amax(2) > 0.3).sum(1), "d"))


def functions() -> Iterator[Fact]:
    """What eight neurons make of four inputs (best, median of 16): GELU is quadratic at 0, ReLU has corners."""
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
    """The largest of three signed numbers wants two layers; max(|x|, |y|) = (|x + y| + |x - y|) / 2 wants one."""
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
    """More outputs than hidden neurons: the maximum of every pair, and values as one of five."""
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
    """Cross-entropy tolerates interference: it needs the largest logit alone."""
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
    wanted = s.config.computes.target(x).argmax(1)
    right = (network(x[None]).output[0].argmax(1) == wanted).float().mean()
    commonest = wanted.bincount().max() / len(wanted)
    yield Fact(
        "accuracy of 41 classes from 10 dimensions; that of the commonest class",
        "far above",
        listed([right, commonest]),
    )
    mse = trained(40, 0.05, 10, instances=4, training={"steps": 6000, "batch_size": 512})
    lengths = [int((t.networks.W[best(t)[0]].norm(dim=1) > 0.5).sum()) for t in (s, mse)]
    yield Fact("represented: cross-entropy, squared error", "more with cross-entropy", listed(lengths, "d"))


def embedded() -> Iterator[Fact]:
    """Neurons behind a fixed embedding: biases that begin at -1 end in more monosemantic networks (Jermyn et al.)."""
    made: dict[float, tuple[float, float]] = {}
    for start in (0.0, -1.0):
        s = trained(
            512,
            1 / 64,
            1024,
            values={"kind": "uniform"},
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
            training={"steps": 4096, "batch_size": 128, "lr": 3e-3, "decay": "cosine", "weight_decay": 0.0},
        )
        alone = s.network(torch.eye(512)[None], depth=1).output[0]
        live = alone.sum(0) > 1e-3
        share = (alone.amax(0) / alone.sum(0).clamp_min(1e-9))[live]
        made[start] = (float((share > 0.5).float().mean()), float(s.tensors["loss"][0]) * 512)
    yield Fact(
        "share of neurons with r_k > .5, biases from 0 and -1",
        "far more from -1",
        listed([made[0.0][0], made[-1.0][0]]),
    )
    yield Fact("loss (sum over features), from 0 and -1", "equal", listed([made[0.0][1], made[-1.0][1]]))


def compressed() -> Iterator[Fact]:
    """A negative control: 100 functions x + ReLU(x) in 50 neurons look computed in superposition, and what is gained
    comes from the embedding's mixing: without an embedding nothing is gained over 50 functions computed in full."""
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
        wanted, missing = s.config.computes.target(x), x.relu()
        found = s.networks.instance(best(s)[0])(x).output
        ratio = float((found - wanted).square().sum() / missing.square().sum())
        text = f"below {naive}" if embed else f"about {naive}"
        yield Fact(f"squared error over that without the ReLUs, {name} (half computed: {naive})", text, f"{ratio:.3f}")
