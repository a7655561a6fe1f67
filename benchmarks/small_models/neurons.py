"""Neurons of small language models: SoLU against GELU, wide MLPs, and MLPs that are widened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

import sae
from benchmarks.small_models import (
    FORM,
    HELDOUT_ROWS,
    TRAINING,
    Models,
    Trained,
    Units,
    inputs_of,
    monosemantic,
    neuron_values,
)
from benchmarks.studies import Fact
from sae.analysis.circuits.heads import effective_heads
from sae.analysis.circuits.smuggling import smuggling
from sae.analysis.units.monosemantic import UnitAgreement
from sae.dictionary import Dictionary
from sae.numerics.matching import unit
from sae.numerics.seeds import generator
from sae.numerics.statistics import mean_interval
from sae.toys.language.network import LanguageModelConfig, LanguageNetwork
from sae.toys.language.training import stream_losses
from sae.toys.language.widening import WideningConfig, widened_state

SEEDS = (0, 1, 2)
TWINS = {"gelu": TRAINING["steps"], "solu": 3 * TRAINING["steps"] // 2}
"""The steps by which both twins have the same loss."""
TRAIN_ROWS = 1500
"""Rows of text that dictionaries are trained on."""
RATIOS = (1, 4, 16, 64, 100)
"""Neurons per dimension of the residual stream."""
WIDEST_DICTIONARY, N_RANDOM = 8192, 512
FREQUENT = 50
"""Tokens whose spread over neurons is measured."""
COPIES, NOISE, WIDENED_STEPS = 10, 0.1, 2000


def solu_twins(models: Models) -> Iterator[Fact]:
    """A one-layer model with SoLU and its twin with GELU, of equal loss since SoLU is trained for half as long again;
    three seeds: the share of monosemantic neurons next to dictionaries of the same activations and to untrained models,
    what the LayerNorm smuggles, and what its removal costs."""
    losses: dict[str, list[float]] = {"gelu": [], "solu": [], "solu, as many steps": []}
    for seed in SEEDS:
        for kind, steps in TWINS.items():
            trained = models.trained({"activation": kind}, {"steps": steps}, seed)
            network, about = trained.network(), f"{kind}, seed {seed}"
            losses[kind].append(trained.scores["model"])
            yield Fact(f"{about}: nats per held-out token", "", f"{losses[kind][-1]:.3f}")
            d = _dictionary(_training_rows(trained), trained.settings.model.d_mlp, seed)
            expected = {"gelu": "published, rated by people: .35", "solu": "published, rated by people: .60"}[kind]
            yield from _shares(trained, network, about, {"TopK latents": (d.n_latents, d.encode)}, expected)
            if kind == "solu":
                yield from _smuggled(trained, network, about)
        losses["solu, as many steps"].append(models.trained({"activation": "solu"}, seed=seed).scores["model"])
    for kind in TWINS:
        trained = models.trained({"activation": kind}, seed=SEEDS[0])
        drawn = trained.untrained()
        d = _dictionary(_training_rows(trained, drawn), trained.settings.model.d_mlp, 0)
        yield from _shares(trained, drawn, f"{kind}, untrained", {"TopK latents": (d.n_latents, d.encode)}, "")
    for kind in ("solu", "solu, as many steps"):
        apart = mean_interval([s - g for s, g in zip(losses[kind], losses["gelu"], strict=True)])
        measured = f"{apart.mean:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}]"
        yield Fact(f"{kind}, minus gelu: nats per held-out token", "within .03" if kind == "solu" else "", measured)


def mlp_width(models: Models) -> Iterator[Fact]:
    """One-layer GELU models with 1 to 100 neurons per dimension of the residual stream: whether polysemantic neurons go
    away, next to dictionaries of as many latents on the neurons of the narrow model with 4."""
    narrow = models.trained()
    x, rows, network = _training_rows(narrow), narrow.rows(HELDOUT_ROWS), narrow.network()
    known = dict[int, UnitAgreement]()
    for ratio in RATIOS:
        trained, about = models.trained({"mlp_ratio": ratio}), f"{ratio} neurons per dimension"
        yield Fact(f"{about}: nats per held-out token", "", f"{trained.scores['model']:.3f}")
        yield from _shares(trained, trained.network(), about, {}, "")
        n = min(ratio * FORM["d_model"], WIDEST_DICTIONARY)
        if n not in known:
            d = _dictionary(x, n, 0)
            known[n] = monosemantic(network, rows, {"latents": (n, d.encode)})["latents"]
        yield Fact(f"{about}: share of {n} TopK latents on the model with 4", "", _shown(known[n]))


def widening(models: Models) -> Iterator[Fact]:
    """Ten copies of every neuron with a tenth of its output weights each: the same function at step 0. Then noise, and
    the MLP alone is trained on: whether neurons become monosemantic. The control is as much training without copies."""
    for seed in SEEDS:
        trained, about = models.trained(seed=seed), f"seed {seed}"
        narrow, tokens = trained.network(), trained.rows(64).tokens
        for dtype in (torch.float64, torch.float32):
            plain = trained.network().to(dtype)
            wide = LanguageNetwork(LanguageModelConfig(**{**FORM, **_wide(COPIES)}), len(trained.tokenizer)).to(dtype)
            wide.load_state_dict(widened_state(plain, COPIES))
            with torch.no_grad():
                change = float((wide(tokens) - plain(tokens)).abs().max())
            yield Fact(
                f"{about}: largest change of a logit at step 0 in {str(dtype)[6:]}", "at most 1e-5", f"{change:.1e}"
            )
        yield Fact(f"{about}: before, nats per held-out token", "", f"{trained.scores['model']:.3f}")
        yield from _shares(trained, narrow, f"{about}: before", {}, "")
        yield Fact(f"{about}: before, effective neurons per token", "", f"{_effective(trained, narrow):.0f}")
        for copies, name in ((COPIES, "ten copies"), (1, "as much training without copies")):
            of = WideningConfig(of=trained.folder, noise=NOISE)
            widened = models.trained(_wide(copies), {"steps": WIDENED_STEPS, "lr": 1e-3}, seed, of)
            after = widened.network()
            yield Fact(f"{about}: {name}, nats per held-out token", "", f"{widened.scores['model']:.3f}")
            yield from _shares(trained, after, f"{about}: {name}", {}, "")
            expected = "fewer than ten times as many" if copies > 1 else ""
            yield Fact(f"{about}: {name}, effective neurons per token", expected, f"{_effective(trained, after):.0f}")
            if copies > 1:
                yield Fact(f"{about}: median cosine of two copies' input weights", "", f"{_cosine(after, copies):.3f}")


def _dictionary(x: Float[Tensor, "rows n_neurons"], n_latents: int, seed: int) -> Dictionary:
    steps = 1500 if n_latents < WIDEST_DICTIONARY else 1000
    return sae.fit(
        x, kind="topk", n_latents=n_latents, k=16, steps=steps, batch_size=512, lr=1e-3, seeds=[seed], progress=False
    )[0]


def _training_rows(trained: Trained, network: LanguageNetwork | None = None) -> Float[Tensor, "rows n_neurons"]:
    return torch.cat([*neuron_values(network or trained.network(), trained.rows(TRAIN_ROWS, "train"))])


def _shares(trained: Trained, network: LanguageNetwork, about: str, others: Units, expected: str) -> Iterator[Fact]:
    """The monosemantic shares of a layer's neurons, of random directions, and of other units."""
    block: Any = network.blocks[0]
    width = block.mlp.out.in_features
    random = unit(torch.randn(N_RANDOM, width, generator=generator("directions", 0)))
    units: Units = {
        "neurons": (width, lambda x: x),
        "random directions": (N_RANDOM, lambda x: x @ random.T),
        **others,
    }
    for name, found in monosemantic(network, trained.rows(HELDOUT_ROWS), units).items():
        yield Fact(f"{about}: monosemantic share of {name}", expected if name == "neurons" else "", _shown(found))


def _shown(found: UnitAgreement) -> str:
    s = found.share
    return f"{s.value:.3f} [{s.low:.3f}, {s.high:.3f}] of {found.n_units} (by chance {found.chance.value:.3f})"


def _smuggled(trained: Trained, network: LanguageNetwork, about: str) -> Iterator[Fact]:
    """What small activations add to the output, and what the model loses without its LayerNorm."""
    block: Any = network.blocks[0]
    rows = trained.rows(100)
    [before], [after] = (inputs_of(part, network, rows, len(rows)) for part in (block.mlp.ln, block.mlp.out))
    logits = network.unembed.weight * network.ln_final.weight
    write = ((logits - logits.mean(0)) @ block.mlp.out.weight).norm(dim=0)
    found = smuggling(before, after, write)
    yield Fact(f"{about}: share of the output from small activations, before the norm", "", str(found.before))
    yield Fact(f"{about}: the same after the norm", "more", f"{found.after} (by chance {found.chance.value:.3f})")
    ln, tokens = block.mlp.ln, trained.heldout()
    for name, instead in (
        ("with the norm's mean and scale fixed at their means", _Fixed(ln, before)),
        ("without the norm", nn.Identity()),
    ):
        block.mlp.ln = instead
        loss = float(stream_losses(network, tokens, trained.bos, FORM["n_ctx"], FORM["n_ctx"] // 2).mean())
        yield Fact(f"{about}: nats per held-out token {name}", "", f"{loss:.3f}")
    block.mlp.ln = ln


class _Fixed(nn.Module):
    """A LayerNorm whose mean and scale are the same at every position."""

    def __init__(self, ln: Any, x: Float[Tensor, "rows n_neurons"]) -> None:
        super().__init__()
        self.mean, self.scale = x.mean(), (x.var(1, unbiased=False) + ln.eps).rsqrt().mean()
        self.weight, self.bias = ln.weight, ln.bias

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale * self.weight + self.bias


def _wide(copies: int) -> dict[str, Any]:
    """What differs in the form of a model with so many copies of every neuron."""
    return {"mlp_ratio": FORM["mlp_ratio"] * copies}


def _effective(trained: Trained, network: LanguageNetwork) -> float:
    """Over how many neurons the most frequent tokens are spread, their mean: ``(sum_i c_i)^2 / sum_i c_i^2`` with
    ``c_i = |w_i| |a_ti - a_i|`` for the mean activation of neuron i at the token and at all tokens, and the norm of its
    output weights."""
    rows, block = trained.rows(HELDOUT_ROWS), network.blocks[0]
    tokens = rows.tokens[rows.kept]
    frequent = tokens.bincount().argsort(descending=True)[:FREQUENT]
    write: Tensor = block.mlp.out.weight.detach().norm(dim=0)  # pyright: ignore
    total, at = torch.zeros(FREQUENT + 1, len(write), dtype=torch.float64), 0
    for x in neuron_values(network, rows):
        of = (tokens[at : at + len(x), None] == frequent).T
        total += torch.cat([of, torch.ones_like(of[:1])]).double() @ x.double()
        at += len(x)
    count = torch.stack([*(tokens == frequent[:, None]).sum(1), torch.tensor(len(tokens))])
    means = total / count[:, None]
    c = (means[:-1] - means[-1]).abs() * write
    return float(effective_heads(c).mean())


def _cosine(network: LanguageNetwork, copies: int) -> float:
    """The median cosine between the input weights of two copies of the same neuron."""
    block: Any = network.blocks[0]
    weights: Tensor = block.mlp._modules["in"].weight.detach()
    groups = unit(weights).unflatten(0, (-1, copies))
    pairs = torch.triu_indices(copies, copies, 1)
    return float((groups @ groups.mT)[:, pairs[0], pairs[1]].median())
