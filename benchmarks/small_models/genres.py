"""Genres of text: directions that tell them apart, and whether features of different genres share dimensions.

The texts are those of :mod:`benchmarks.small_models.genre_texts`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

import sae
from benchmarks.small_models import Models, Trained, neuron_values, tokens_of
from benchmarks.small_models.genre_texts import GENRES, N_ROWS, Document, Samples, documents, samples, written
from benchmarks.studies import Fact
from sae.analysis.geometry.group_subspaces import (
    group_subspaces,
    leading_basis,
    specific_group,
    specific_of_documents,
    variance_inside,
)
from sae.analysis.geometry.moments import directions_of, matched_gaussian
from sae.dictionary import Dictionary
from sae.numerics.matching import unit
from sae.numerics.seeds import generator
from sae.numerics.statistics import Interval, of_draws, of_share
from sae.toys.language.network import LanguageNetwork

SEEDS = (0, 1)
HOOK = "blocks.0.hook_resid_post"
N_LATENTS, K = 1024, 16
N_RANDOM = 4096
"""Random directions, of which as few are specific to stories as the latents are."""
SHARES, LEAST = (0.9, 0.7), 100
"""A latent is specific to a genre that has one of these shares of its firing, of at least so many samples."""
RANKS = (8, 32)
LEAST_OF_GENRE = 16
"""Latents of each genre, fewer of which have no subspace of eight dimensions in each half."""
DIMS = (1, 2, 4, 8, 16, 32, 64, 128)
DRAWS = 20


def genres(models: Models) -> Iterator[Fact]:
    """A one-layer model of stories, an encyclopaedia and code: whether genre is a direction, which latents are specific
    to a genre, and whether those of different genres share dimensions."""
    found = documents(models.text)
    by_genre = [[len(d.text) for d in found if d.genre == g] for g in range(len(GENRES))]
    sizes = ", ".join(
        f"{len(of)} of {name} with {sum(of):,} characters" for name, of in zip(GENRES, by_genre, strict=True)
    )
    yield Fact("documents", "", f"{sizes} (Python {sys.version_info.major}.{sys.version_info.minor})")
    text = written(found, models.out / "genres-text")
    mixture = Models(text / "train.jsonl", text / "heldout.jsonl", models.out, models.training)
    for seed in SEEDS:
        trained = mixture.trained(seed=seed)
        yield Fact(
            f"seed {seed}: nats per held-out token, model and trigrams",
            "",
            f"{trained.scores['model']:.3f}, {trained.scores['trigram']:.3f}",
        )
        network = trained.network()
        yield from _facts(f"seed {seed}", trained, network, found, seed)
    trained = mixture.trained(seed=SEEDS[0])
    yield from _facts("untrained", trained, trained.untrained(), found, SEEDS[0])


def genres_planted(models: Models) -> Iterator[Fact]:
    """Planted features of three genres, 32 each, that have subspaces of their own, share one, or are orthogonal in one
    that the other genres use again: what a dictionary of the activations and the measures make of them."""
    del models  # no language model is trained
    for kind in ("of their own", "shared", "used again"):
        for seed in SEEDS:
            x, genre = _planted(kind, seed)
            train, test = (slice(0, len(x) // 2), slice(len(x) // 2, None))
            d = sae.fit(
                x[train], kind="topk", n_latents=128, k=5, steps=3000, batch_size=512, lr=2e-3, seeds=[seed],
                progress=False,
            )[0]  # fmt: skip
            with torch.no_grad():
                fires = (d.encode(x[test]) > 0).double()
            fired = torch.zeros(len(GENRES), d.n_latents, dtype=torch.float64).index_add_(0, genre[test], fires)
            group = specific_group(fired, torch.bincount(genre[test]).double(), SHARES[0], LEAST)
            plane, rows = _plane(x[train], genre[train]), d.W_dec.double()
            found = group_subspaces(rows - rows @ plane @ plane.T, group, RANKS[0], seed=seed)
            expected = {"of their own": "difference below 0", "shared": "0", "used again": "above 0"}[kind]
            about = f"planted, {kind}, seed {seed}, {' + '.join(map(str, found.counts))} specific latents"
            yield Fact(f"{about}: overlap of subspaces of {found.rank} dimensions", expected, str(found.subspaces))
            yield Fact(f"{about}: mean squared cosine of two latents", expected, str(found.cosines))
            yield Fact(f"{about}: abs. cosine of the nearest latent", expected, str(found.nearest))


def _planted(kind: str, seed: int, n: int = 32) -> tuple[Float[Tensor, "rows d"], Int[Tensor, " rows"]]:
    """Activations of `n` features for each genre, each active in a tenth of its genre's samples, and a direction for
    each genre, always active in it; and the genre of each sample."""
    draw, n_rows, n_genres = generator("planted", kind, seed), 120_000, len(GENRES)
    if kind == "of their own":
        F = torch.zeros(n_genres, n, n_genres * n // 2)
        for g in range(n_genres):
            F[g, :, g * n // 2 : (g + 1) * n // 2] = unit(torch.randn(n, n // 2, generator=draw))
    elif kind == "shared":
        F = unit(torch.randn(n_genres * n, n, generator=draw)).unflatten(0, (n_genres, n))
    else:
        F = torch.linalg.qr(torch.randn(n_genres, n, n, generator=draw)).Q
    genre = torch.randint(n_genres, (n_rows,), generator=draw)
    z = (torch.rand(n_rows, n, generator=draw) < 0.1) * (0.5 + torch.rand(n_rows, n, generator=draw))
    x = torch.zeros(n_rows, F.shape[2])
    for g in range(n_genres):
        x[genre == g] = z[genre == g] @ F[g]
    return torch.cat([x, 2 * torch.eye(n_genres)[genre]], 1), genre


def _plane(x: Float[Tensor, "n d"], y: Int[Tensor, " n"]) -> Float[Tensor, "d 2"]:
    """A basis of the plane of the differences of the genres' means."""
    means = _means(x, y)
    return leading_basis(means[1:] - means[0], len(GENRES) - 1)


def _facts(about: str, trained: Trained, network: LanguageNetwork, found: list[Document], seed: int) -> Iterator[Fact]:
    train, heldout = (samples(trained, network, found, split) for split in N_ROWS)
    yield from _directions(about, train, heldout, seed)
    d = sae.fit(
        train.x, kind="topk", n_latents=N_LATENTS, k=K, steps=2000, batch_size=512, lr=1e-3, seeds=[seed],
        progress=False,
    )[0]  # fmt: skip
    yield from _latents(about, d, _plane(train.x, train.y), network, heldout, seed)


# Directions


class Linear(NamedTuple):
    """A linear classifier of genres."""

    weight: Float[Tensor, "d genres"]
    """Weights."""
    bias: Float[Tensor, " genres"]
    """Biases."""

    def accuracy(self, x: Float[Tensor, "n d"], y: Int[Tensor, " n"]) -> float:
        """The mean over genres of the share of a genre's samples that are classified right."""
        right = (x.double() @ self.weight + self.bias).argmax(1) == y
        return float(torch.stack([right[y == g].double().mean() for g in range(len(GENRES))]).mean())


def _means(x: Tensor, y: Tensor) -> Float[Tensor, "genres d"]:
    return torch.stack([x[y == g].double().mean(0) for g in range(len(GENRES))])


def nearest_mean(x: Float[Tensor, "n d"], y: Int[Tensor, " n"]) -> Linear:
    """The genre whose mean is nearest: the differences of the means are the only directions."""
    means = _means(x, y)
    return Linear(means.T, -means.square().sum(1) / 2)


def discriminant(x: Float[Tensor, "n d"], y: Int[Tensor, " n"]) -> Linear:
    """Linear discriminant analysis (Fisher 1936; Rao 1948) with equal priors: the nearest mean of whitened samples."""
    means = _means(x, y)
    apart = x.double() - means[y]
    covariance = apart.T @ apart / len(x)
    ridge = 1e-4 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    weight = torch.linalg.solve(covariance + ridge, means.T)
    return Linear(weight, -(means.T * weight).sum(0) / 2)


def _directions(about: str, train: Samples, heldout: Samples, seed: int) -> Iterator[Fact]:
    draw = generator("genre directions", seed)
    shuffled = [(train.permuted(draw), heldout.permuted(draw)) for _ in range(DRAWS)]
    for name, fit in (("difference of means, 2 directions", nearest_mean), ("linear discriminants", discriminant)):
        value = fit(train.x, train.y).accuracy(heldout.x, heldout.y)
        null = of_draws([fit(a.x, a.y).accuracy(b.x, b.y) for a, b in shuffled])
        yield Fact(
            f"{about}: genre of a token by {name} (permuted documents)", "more than .33", f"{value:.3f} ({null})"
        )
    yield Fact(f"{about}: genre by the token alone", "", f"{_by_token(train, heldout):.3f}")
    _, directions = directions_of(torch.cov(train.x.double().T))
    leading, random = [], []
    for k in DIMS:
        bases = [torch.linalg.qr(torch.randn(len(directions), k, generator=draw)).Q for _ in range(5)]
        leading.append(_accuracy_inside(directions[:k].T, train, heldout))
        random.append(sum(_accuracy_inside(b, train, heldout) for b in bases) / len(bases))
    dims = ", ".join(map(str, DIMS))
    yield Fact(f"{about}: genre by discriminants in {dims} leading dimensions", "", _listed(leading))
    yield Fact(f"{about}: the same in as many random dimensions", "", _listed(random))
    basis = _plane(train.x, train.y)
    yield Fact(
        f"{about}: share of the variance in the plane of the differences of means (random planes {2 / len(basis):.3f})",
        "",
        f"{variance_inside(basis, torch.cov(heldout.x.double().T)):.3f}",
    )
    yield from _variances(about, heldout, draw)


def _accuracy_inside(basis: Tensor, train: Samples, heldout: Samples) -> float:
    return discriminant(train.x @ basis.float(), train.y).accuracy(heldout.x @ basis.float(), heldout.y)


def _by_token(train: Samples, heldout: Samples) -> float:
    """The accuracy of the likeliest genre of each token."""
    n = int(max(tokens_of(train.rows).max(), tokens_of(heldout.rows).max())) + 1
    counts = torch.zeros(n, len(GENRES), dtype=torch.float64)
    counts.index_put_((tokens_of(train.rows), train.y), torch.ones(len(train.x), dtype=torch.float64), accumulate=True)
    right = (counts / counts.sum(0)).argmax(1)[tokens_of(heldout.rows)] == heldout.y
    return float(torch.stack([right[heldout.y == g].double().mean() for g in range(len(GENRES))]).mean())


def _variances(about: str, samples: Samples, draw: torch.Generator, rank: int = 16) -> Iterator[Fact]:
    """How much of a genre's variance is in the leading dimensions of the others; halves of documents share no data."""

    def matrix(of: Samples) -> Float[Tensor, "genres genres"]:
        half = torch.rand(len(of.genre), generator=draw) < 0.5
        sides = [
            [of.x[(of.y == g) & (half[of.document] == side)] for g in range(len(GENRES))] for side in (True, False)
        ]
        fits, tests = ([torch.cov(x.double().T) for x in side] for side in sides)
        leading = [directions_of(b)[1][:rank].T for b in fits]
        return torch.tensor([[variance_inside(basis, a) for basis in leading] for a in tests])

    measured = torch.stack([matrix(samples) for _ in range(DRAWS)]).mean(0)
    null = torch.stack([matrix(samples.permuted(draw)) for _ in range(DRAWS)])
    own, other = measured.diagonal().mean(), (measured.sum() - measured.trace()) / (measured.numel() - len(measured))
    permuted = of_draws(null.mean((1, 2)).tolist())
    yield Fact(
        f"{about}: share of a genre's variance in {rank} leading dimensions of the same genre, of another (permuted)",
        "",
        f"{own:.3f}, {other:.3f} ({permuted})",
    )


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


# Latents


@torch.no_grad()
def _latents(
    about: str, d: Dictionary, plane: Tensor, network: LanguageNetwork, heldout: Samples, seed: int
) -> Iterator[Fact]:
    draw, by_document = generator("specific", seed), len(heldout.genre)
    z = d.encode(heldout.x)
    fires = z > 0
    fvu = (heldout.x - d.decode(z)).square().sum() / (heldout.x - heldout.x.mean(0)).square().sum()
    yield Fact(f"{about}: unexplained variance of the dictionary, held out", "", f"{float(fvu):.3f}")
    rates = fires.float().mean(0)
    rates = rates[rates * len(fires) >= LEAST]
    random = unit(torch.randn(N_RANDOM, d.d_in, generator=draw))
    block: Any = network.blocks[0]
    neurons, tokens = torch.cat([*neuron_values(network, heldout.rows)]), tokens_of(heldout.rows)

    def counted(active: Bool[Tensor, "n units"]) -> Float[Tensor, "documents units"]:
        return torch.zeros(by_document, active.shape[1]).index_add_(0, heldout.document, active.float())

    counts = {
        "latents": counted(fires),
        "neurons": counted(_above(neurons, rates, draw)),
        "random directions": torch.cat(
            [counted(_above(heldout.x @ some.T, rates, draw)) for some in random.split(N_LATENTS)], 1
        ),
        "tokens": counted(tokens[:, None] == tokens.unique()),
    }
    directions: dict[str, Tensor] = {
        "latents": d.W_dec, "neurons": block.mlp.out.weight.T, "random directions": random
    }  # fmt: skip
    del z, fires, neurons
    for share in SHARES:
        for name, of in counts.items():
            found, often = _specific(of, heldout, share), int((of.sum(0) >= LEAST).sum())
            null = of_draws(
                [float((_specific(of, heldout.permuted(draw), share) >= 0).sum()) / often for _ in range(DRAWS)]
            )
            measured = of_share(int((found >= 0).sum()), often)
            parts = ", ".join(f"{int((found == g).sum())} of {genre}" for g, genre in enumerate(GENRES))
            yield Fact(
                f"{about}: share of {name} with {share} of their firing in one genre (permuted documents)",
                "more than of neurons" if name == "latents" else "",
                f"{measured} of {often}: {parts} ({null})",
            )
    for share in SHARES:
        for name, rows in directions.items():
            group = _specific(counts[name], heldout, share)
            n_specific = [int((group == g).sum()) for g in range(len(GENRES))]
            of = f"{about}, {name} with {share} of their firing in one genre"
            if min(n_specific) < LEAST_OF_GENRE:
                yield Fact(f"{of}: overlap of the genres' subspaces", "", f"not measured: {n_specific} are too few")
                continue
            yield from _overlaps(of, rows.double(), plane, group, heldout, seed)
            if name == "latents":
                yield from _variance_of_latents(of, d, group, heldout, seed)


def _above(values: Float[Tensor, "n units"], rates: Tensor, draw: torch.Generator) -> Bool[Tensor, "n units"]:
    """Whether each unit is above a threshold of its own, at which it is active as often as a latent drawn at random."""
    few = values[torch.randperm(len(values), generator=draw)[:20_000]]
    chosen = rates[torch.randint(len(rates), (values.shape[1],), generator=draw)]
    place = ((1 - chosen) * len(few)).long().clamp(0, len(few) - 1)
    return values > few.sort(0).values.gather(0, place[None])


def _specific(counts: Float[Tensor, "documents units"], of: Samples, share: float) -> Int[Tensor, " units"]:
    """The genre that each unit is specific to, -1 for none."""
    samples = torch.bincount(of.document, minlength=len(of.genre))
    return specific_of_documents(counts, samples, of.genre, share, LEAST)


def _overlaps(
    about: str, rows: Float[Tensor, "n d"], plane: Tensor, group: Tensor, heldout: Samples, seed: int
) -> Iterator[Fact]:
    """What the directions of genres share, next to permuted genres, and next to random rows as anisotropic as the
    activations."""
    of_latents = ", latents with" in about
    expected = "open: more across genres where dimensions are used again" if of_latents else ""
    [like] = matched_gaussian(torch.cov(heldout.x.double().T), len(rows), seed, 1)
    for kind, turn in (("", torch.zeros_like(plane)), (", without the plane of the means", plane)):
        for rank in RANKS if of_latents else RANKS[:1]:
            found = group_subspaces(rows - rows @ turn @ turn.T, group, rank, seed=seed)
            if found.rank < rank:
                continue
            chance = group_subspaces(like - like @ turn @ turn.T, group, rank, permutations=2).subspaces.across
            yield Fact(
                f"{about}{kind}: overlap of subspaces of {rank} dimensions, {found.half} in each half (random "
                f"{rank / rows.shape[1]:.3f}, of the activations' covariance {chance:.3f})",
                expected,
                str(found.subspaces),
            )
            if rank == RANKS[0]:
                yield Fact(f"{about}{kind}: mean squared cosine of two", expected, str(found.cosines))
                yield Fact(f"{about}{kind}: abs. cosine of the nearest", expected, str(found.nearest))


def _variance_of_latents(about: str, d: Dictionary, group: Tensor, heldout: Samples, seed: int) -> Iterator[Fact]:
    draw = generator("inside", seed)
    covariances = [torch.cov(heldout.x[heldout.y == g].double().T) for g in range(len(GENRES))]
    measured = _inside(d, group, covariances, draw)
    null: list[float] = []
    for _ in range(DRAWS):
        of, some = group.clone(), (group >= 0).nonzero()[:, 0]
        of[some] = group[some[torch.randperm(len(some), generator=draw)]]
        null.append(float(_inside(d, of, covariances, draw).mean()))
    other = (measured.sum() - measured.trace()) / (measured.numel() - len(measured))
    permuted: Interval = of_draws(null)
    yield Fact(
        f"{about}: share of a genre's variance in {RANKS[0]} dimensions of its latents, of another's (permuted)",
        "",
        f"{measured.diagonal().mean():.3f}, {other:.3f} ({permuted})",
    )


def _inside(
    d: Dictionary, group: Tensor, covariances: list[Tensor], draw: torch.Generator
) -> Float[Tensor, "genres genres"]:
    """The share of the variance of each genre in the subspace of equally many specific latents of each."""
    n = min(int((group == g).sum()) for g in range(len(GENRES)))
    chosen = [(group == g).nonzero()[:, 0] for g in range(len(GENRES))]
    rows = [d.W_dec[of[torch.randperm(len(of), generator=draw)[:n]]] for of in chosen]
    bases = [leading_basis(of, min(RANKS[0], n)) for of in rows]
    return torch.tensor([[variance_inside(basis, c) for basis in bases] for c in covariances])
