"""Features in a narrow linear layer: Elhage et al. 2022, 'Toy Models of Superposition'."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.studies import Fact, among, best, falling, listed, spread, trained, upper
from sae.analysis.geometry.geometry import dimensionality, dimensions_per_feature, plateau
from sae.analysis.toy_models.adversarial import Attack, attack, vulnerability

DENSITIES = [1, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001]
LONG = {"steps": 10_000, "batch_size": 1024, "lr": 1e-3, "decay": "constant"}


def linear_model() -> Iterator[Fact]:
    """Without a nonlinearity the network keeps the five most important features at every sparsity, and nothing else."""
    s = trained(
        20,
        1,
        5,
        network={"output": "linear"},
        importance=falling(0.7),
        instances=2,
        vary={"activity.probability": DENSITIES[:5]},
        training={"steps": 10_000, "batch_size": 512, "lr": 2e-3},
    )
    p, chosen = torch.tensor([float(x) for x in DENSITIES[:5]]), best(s)
    expected = (p / 3 - p**2 / 4) * sum(0.7**i for i in range(5, 20)) / 20
    ratio = s.tensors["loss"][chosen] / expected
    yield Fact("loss divided by (p/3 - p²/4) Σ I_i / 20, i ≥ 5, at p = 1 to .01", "1 ± .02", listed(ratio, ".3f"))
    norms = s.networks.W[chosen].norm(dim=2)
    represented = [tuple((n > 0.5).nonzero()[:, 0].tolist()) for n in norms]
    first_five = set(represented) == {(0, 1, 2, 3, 4)}
    yield Fact("represented", "0 to 4 at every p", "0 to 4" if first_five else str(set(represented)))
    biases = s.networks.parameters["b_out"][chosen]
    off = (biases[:, 5:] - p[:, None] / 2).abs().max()
    yield Fact("biases of the others, minus E x = p/2", "0 off", f"{float(off):.3f} off at most")


def demo() -> Iterator[Fact]:
    """With a ReLU at the output, more features are represented the sparser they are."""
    s = trained(20, 1, 5, importance=falling(0.7), instances=3, vary={"activity.probability": DENSITIES}, training=LONG)
    W = s.networks.W[best(s)]
    yield Fact(
        "features with norm > .5, S = 0 to .999", "5, 8, 9, 11, 12, 13, 14", listed((W.norm(dim=2) > 0.5).sum(1), "d")
    )
    pairs = [int((upper(among(w[w.norm(dim=1) > 0.5])) < -0.95).sum()) for w in W]
    yield Fact("antipodal pairs", "0, 3, 4, 4, 2, 0, 0", listed(pairs, "d"))
    bias = s.networks.parameters["b_out"][best(s)].mean(1)
    yield Fact("mean bias, first and last", ".375, -.107", listed(bias[[0, -1]]))


def polygon() -> Iterator[Fact]:
    """Five equal features in two dimensions settle at the corners of a pentagon."""
    s = trained(5, 0.05, 2, instances=32)
    D = torch.stack([dimensionality(w) for w in s.networks.W])
    regular = ((D - 0.4).abs() < 0.02).all(1)
    yield Fact("instances that are regular pentagons, D = .4 ± .02", "30 of 32", f"{int(regular.sum())} of 32")
    norm, bias = s.networks.W[regular].norm(dim=2).mean(), s.networks.parameters["b_out"][regular].mean()
    yield Fact("norm and bias of these", "1.13, -.24", listed([float(norm), float(bias)]))
    order = s.tensors["choose_loss"].argsort()
    yield Fact("pentagons among the 16 of lowest loss", "", f"{int(regular[order[:16]].sum())} of 16")


def rarer_corner() -> Iterator[Fact]:
    """If one of the five is rarer, the pentagon breaks up into two digons without it."""
    p, ratios = 0.05, [1, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6]
    s = trained(
        5,
        p,
        2,
        instances=24,
        vary={"activity.probability": [[p / r, p, p, p, p] for r in ratios]},
        training={"batch_size": 512},
    )
    digons = torch.tensor([_are_digons(w[1:]) for w in s.networks.W]).view(len(ratios), -1)
    first = next(r for r, i in zip(ratios, best(s), strict=True) if digons.flatten()[i])
    yield Fact("ratio of frequencies at which the best of 24 is two digons", "about 2.5 times", f"{first:g} times")
    yield Fact(f"of 24, two digons at {listed(ratios)} times", "", listed(digons.sum(1), "d"))


def _are_digons(rows: Tensor) -> bool:
    """Whether four rows are two antipodal pairs at right angles."""
    c = among(rows)
    return bool(((c < -0.95).sum(1) == 1).all() and ((c.abs() < 0.2).sum(1) == 2).all())


def geometry() -> Iterator[Fact]:
    """Equal features share dimensions in fixed fractions; at intermediate sparsity they are antipodal pairs."""
    p = [1, 0.65, 0.43, 0.28, 0.18, 0.12, 0.077, 0.05]
    s = trained(200, 1, 20, instances=8, vary={"activity.probability": p})
    chosen = s.networks.W[best(s)]
    yield Fact(
        "D* = m / ||W||²_F at p = 1 to .05",
        "1.005, .95, .54, .49, .33, .24, .18, .14",
        listed([dimensions_per_feature(w) for w in chosen], ".2f"),
    )
    D = [dimensionality(w)[w.norm(dim=1) > 0.5] for w in chosen]
    share = (D[3] - 0.5).abs() < 0.02
    yield Fact("represented at p = .28 with D = .50 ± .02", "40 of 40", f"{int(share.sum())} of {len(share)}")
    total = torch.stack([dimensionality(w).sum() for w in chosen])
    yield Fact("Σ D_i", "19.3 to 20.0, never above 20", f"{float(total.min()):.2f} to {float(total.max()):.2f}")
    names = {plateau(float(d)) for d in torch.cat(D)} - {None}
    yield Fact(
        "plateaus found", "digon; pentagon and antiprism only in larger runs", ", ".join(sorted(map(str, names)))
    )


def robustness() -> Iterator[Fact]:
    """Superposition costs robustness: the more features share a dimension, the further the worst perturbation of a
    fixed norm moves the output."""
    p = [1, 0.3, 0.1, 0.03]
    s = trained(100, 1, 20, instances=4, vary={"activity.probability": p})
    attacks = list[Attack]()
    for point, i in enumerate(best(s)):
        x = s.config.population().inputs[point].rows(0, 512, "test")
        attacks.append(attack(s.networks.W[i], s.networks.parameters["b_out"][i], x, length=0.1))
    rises = [vulnerability(one, attacks[0]) for one in attacks]
    yield Fact(
        f"rise of the loss, divided by that at p = 1, for p = {listed(p)}", "above 3 times", listed(rises, ".2f")
    )
    shares = [1 / dimensions_per_feature(s.networks.W[i]) for i in best(s)]
    yield Fact("||W||²_F / m", "similar to the rise", listed(shares, ".2f"))


def correlated() -> Iterator[Fact]:
    """Features that fire together are orthogonal neighbours; mutually exclusive features are antipodal."""
    sets = {"kind": "correlated", "size": 2, "probability": 0.05}
    s = trained(4, 0, 2, activity=sets, instances=16)
    W = s.networks.W[best(s)[0]]
    within = among(W)[[0, 2], [1, 3]].abs().max()
    yield Fact("2 correlated pairs in 2 dimensions: |cos| within a pair", "0", f"{float(within):.3f}")
    s = trained(4, 0, 2, activity={"kind": "one_of", "size": 2, "probability": 0.1}, instances=16)
    within = among(s.networks.W[best(s)[0]])[[0, 2], [1, 3]].max()
    yield Fact("2 exclusive pairs: cos within a pair", "-1", f"{float(within):.3f}")
    s = trained(6, 0, 2, activity={**sets, "probability": 0.02}, instances=32, training=LONG)
    W = s.networks.W[best(s)[0]]
    angle = torch.atan2(W[:, 1], W[:, 0]).rad2deg() % 360
    order = angle.argsort()
    side = sum(int(order[i] // 2 == order[(i + 1) % 6] // 2) for i in range(6))
    gaps = torch.cat([angle[order], angle[order][:1] + 360]).diff()
    yield Fact("3 correlated pairs: neighbouring pairs, angles", "3, hexagon of 60°", f"{side}, {listed(gaps, '.0f')}")
    big = {"kind": "correlated", "size": 10, "probability": 0.1}
    s = trained(20, 0, 10, activity=big, instances=8)
    c = among(s.networks.W[best(s)[0]])
    within = torch.cat([upper(c[:10, :10]), upper(c[10:, 10:])]).abs().mean()
    yield Fact(
        "2 sets of 10 in 10 dimensions: mean |cos| within and across",
        "smaller within a set: local orthogonal bases",
        listed([float(within), float(c[:10, 10:].abs().mean())]),
    )
    s = trained(6, 0, 3, activity={**sets, "size": 3}, instances=32)
    D = dimensionality(s.networks.W[best(s)[0]])
    yield Fact("2 correlated triples in 3 dimensions: D", "octahedron, ½ each", listed(D))


def collapse() -> Iterator[Fact]:
    """Correlated pairs are merged into their principal component if there is not enough room."""
    p = [0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5]
    s = trained(
        6,
        0,
        2,
        activity={"kind": "correlated", "size": 2, "probability": 0.1},
        instances=16,
        vary={"activity.probability": p},
        training=LONG,
    )
    merged = [int((among(w)[[0, 2, 4], [1, 3, 5]] > 0.95).sum()) for w in s.networks.W[best(s)]]
    yield Fact(f"pairs with cos > .95 at p = {listed(p)}", "0, 0, 1, 1 to 2, 2 to 3, 3, 3, 3", listed(merged, "d"))


def dropout() -> Iterator[Fact]:
    """Dropout spreads features over more of the hidden layer: fewer digons, more of a dimension each."""
    rates = [0, 0.1, 0.3, 0.5, 0.7, 0.9]
    s = trained(32, 0.1, 8, instances=8, vary={"network.dropout": rates})
    chosen = s.networks.W[best(s)]
    represented = [w[w.norm(dim=1) > 0.5] for w in chosen]
    yield Fact("represented (norm > .5)", "fewer", listed([len(w) for w in represented], "d"))
    D = [dimensionality(w)[w.norm(dim=1) > 0.5] for w in chosen]
    yield Fact(f"mean D_i at dropout {listed(rates)}", "up", listed([float(d.mean()) if len(d) else 0 for d in D]))
    share = [float(((d - 0.5).abs() < 0.02).float().mean()) if len(d) else 0 for d in D]
    yield Fact("share of digons", "down", listed(share, ".2f"))
    unit = [w / w.norm(dim=1, keepdim=True) for w in represented]
    most = [float(u.square().amax(1).mean()) if len(u) else 0 for u in unit]
    yield Fact("largest share of one neuron in a feature, mean", "up: the basis is privileged", listed(most, ".2f"))


def untied_dropout() -> Iterator[Fact]:
    """Untied weights may respond to a feature with its opposite, which a tied bottleneck cannot: negative entries on
    the diagonal of ``W W_out``."""
    rates = [0, 0.5, 0.7, 0.9]
    s = trained(32, 0.1, 8, network={"tied": False}, instances=8, vary={"network.dropout": rates})
    p = s.networks.parameters
    diagonal = (p["W_1"] @ p["W_out"])[best(s)].diagonal(dim1=1, dim2=2)
    yield Fact(
        f"share below -.05 at dropout {listed(rates)}", "some", listed((diagonal < -0.05).float().mean(1), ".2f")
    )


def uneven_sparsity() -> Iterator[Fact]:
    """Denser features get more of a dimension."""
    p = [0.2] * 16 + [0.02] * 16
    s = trained(32, p, 8, instances=16)
    D = torch.stack([dimensionality(w) for w in s.networks.W])
    yield Fact(
        "mean D_i, dense (p = .2) and sparse (.02) halves",
        "larger for the dense half",
        f"{spread(D[:, :16].mean(1))}; {spread(D[:, 16:].mean(1))}",
    )


def hidden_penalty() -> Iterator[Fact]:
    """An L1 penalty on the hidden layer aligns features with neurons, at the cost of some features."""
    weights = [0, 1e-4, 1e-3, 1e-2]
    s = trained(20, 0.1, 5, importance=falling(0.9), instances=8, vary={"network.hidden_l1": weights})
    chosen = s.networks.W[best(s)]
    represented = [w[w.norm(dim=1) > 0.5] for w in chosen]
    most = [float((w / w.norm(dim=1, keepdim=True)).square().amax(1).mean()) if len(w) else 0 for w in represented]
    yield Fact(f"largest share of one neuron at l1 = {listed(weights)}", "up", listed(most, ".2f"))
    yield Fact("represented", "down", listed([len(w) for w in represented], "d"))


def wide_layer() -> Iterator[Fact]:
    """A linear layer with more neurons than features is still polysemantic, because it has no privileged basis."""
    counts, n_represented = list[float](), list[int]()
    for m in (20, 40, 60, 80, 100, 120):
        s = trained(32, 0.1, m, instances=4)
        w = s.networks.W[best(s)[0]]
        per = (w.abs() > 0.1).sum(0).float()
        counts.append(float(per.mean()))
        n_represented.append(int((w.norm(dim=1) > 0.5).sum()))
    yield Fact("features with |W| > .1 per neuron, m = 20 to 120", "polysemantic at every m", listed(counts, ".1f"))
    yield Fact("represented of 32", "all from m = 40", listed(n_represented, "d"))


def values() -> Iterator[Fact]:
    """Larger values increase both the cost of interference and the benefit of a feature: the number of represented
    features changes."""
    kinds = {
        "U[0, 1]": {"kind": "uniform"},
        "{1}": {"kind": "constant"},
        "{1, 2, 3}": {"kind": "choice", "values": [1, 2, 3]},
        "U[½, 1]": {"kind": "uniform", "low": 0.5, "high": 1.0},
    }
    p = [0.3, 0.1, 0.03, 0.01]
    for name, law in kinds.items():
        s = trained(20, 0.1, 5, importance=falling(0.7), values=law, instances=4, vary={"activity.probability": p})
        yield Fact(
            f"represented at p = {listed(p)}, values {name}",
            "8, 9, 11, 12" if name == "U[0, 1]" else "",
            listed((s.networks.W[best(s)].norm(dim=2) > 0.5).sum(1), "d"),
        )


def output_gelu() -> Iterator[Fact]:
    """A GELU output has superposition too, but less, because it cannot cut off interference."""
    for name in ("relu", "gelu"):
        s = trained(
            20,
            1,
            5,
            importance=falling(0.7),
            network={"output": name},
            instances=4,
            vary={"activity.probability": DENSITIES[:5]},
        )
        yield Fact(
            f"represented, S = 0 to .99, {name}",
            "5, 8, 9, 11, 12" if name == "relu" else "",
            listed((s.networks.W[best(s)].norm(dim=2) > 0.5).sum(1), "d"),
        )


def exclusive_pair() -> Iterator[Fact]:
    """Two features that never fire together fit into one dimension, as W = [1, -1]."""
    s = trained(2, 0, 1, activity={"kind": "one_of", "size": 2, "probability": 0.5}, instances=16)
    w = s.networks.W[best(s)[0], :, 0]
    yield Fact("the best network", "1, -1 up to sign", listed(w * w[0].sign(), ".3f"))
    yield Fact("its fraction of variance unexplained", "0", f"{float(s.tensors['unexplained'][best(s)[0]]):.1e}")


def phases() -> Iterator[Fact]:
    """Two features in one dimension are ignored, dedicated or antipodal, depending on importance and density."""
    ratios = torch.logspace(-1, 1, 12).tolist()
    p = torch.logspace(-2, 0, 12).tolist()
    s = trained(2, 0.1, 1, instances=10, vary={"activity.probability": p, "importance": [[1.0, r] for r in ratios]})
    chosen = s.networks.W[best(s), :, 0].abs().view(12, 12, 2)
    both = (chosen > 0.5).all(-1)
    r, q = torch.tensor(ratios)[None], torch.tensor(p)[:, None]
    border = torch.where(r <= 1, 4 * r / (2 + 5 * r), 4 / (5 + 2 * r))
    clear = (q < border / 2) | (q > border * 2)
    agree = both == (q < border)
    yield Fact(
        "antipodal where p < 4r/(2 + 5r) (r ≤ 1) or 4/(5 + 2r), more than a factor of two from the border",
        "everywhere",
        f"{int(agree[clear].sum())} of {int(clear.sum())} cells; {int(agree.sum())} of 144 in all",
    )
    at = s.tensors["loss"][best(s)].view(12, 12)
    closed = torch.minimum(torch.minimum(r, torch.ones(())) * (q / 3 - q**2 / 4), (1 + r) * q**2 / 6) / 2
    ratio = (at / closed)[clear]
    yield Fact("loss divided by the lower closed form, in those cells", "about 1", spread(ratio))
