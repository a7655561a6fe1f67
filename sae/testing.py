"""Checks of the rules of every kind, for kinds from outside: an ``AssertionError`` names the rule that is broken.

In a test of your own:

    def test_my_kind():
        sae.testing.check_dictionary(MyConfig(n_latents=16, l1=0.1))

The contract tests of this project run its own kinds through the same functions.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from sae.architecture import DictionaryConfig
from sae.baseline import BaselineConfig
from sae.dictionaries.relu import Relu
from sae.dictionary import Dictionary
from sae.encoder import EncoderConfig
from sae.files import load, save
from sae.fitting import fit
from sae.metric import Case, Evidence, MetricConfig, Scores, gather_evidence
from sae.registry import KindSettings, UserError, fingerprint, register
from sae.source import Batch, Source, SourceConfig, Split, TensorSource
from sae.sources.features import Config as FeaturesConfig

_SPLITS: tuple[Split, ...] = ("train", "choose", "test")
_TRAINING: dict[str, Any] = {"steps": 40, "batch_size": 64, "lr": 3e-3, "n_scale": 256, "log_every": 20}


def check_source(source: SourceConfig | Callable[[int], Source]) -> None:
    """Checks a source: batches are a pure function of seed, split and step; splits share no sample; shapes and types.

    `source` is a config, or a function from a seed to the opened source.
    """
    if isinstance(source, SourceConfig):
        _check_config(source, "sources")
        opened = _open(source)
        missing = source.provides & {"truth", "codes"} - gather_evidence(opened, 64).provides
        assert not missing, f"provides: the config promises {sorted(missing)}, which the source does not have"
        config = source
        make: Callable[[int], Source] = lambda seed: _open(config.model_copy(update={"seed": seed}))  # noqa: E731
    else:
        make = source
    check_batches(make(0), make(0), make(1))


def check_batches(source: Source, again: Source, other: Source) -> None:
    """The rules of batches: `again` is the same source, `other` one of another seed."""
    for split in _SPLITS:
        first, later = source.batch(2, 16, split), source.batch(5, 16, split)
        assert first.acts.shape == (16, source.d_in), f"batch: acts have shape {tuple(first.acts.shape)}"
        assert first.acts.dtype == torch.float32, "batch: acts must be float32"
        assert bool(torch.isfinite(first.acts).all()), "batch: acts must be finite"
        assert torch.equal(first.acts, again.batch(2, 16, split).acts), "batch: not a function of seed, split and step"
        assert not torch.equal(first.acts, later.acts), "batch: two steps give the same samples"
        assert torch.equal(later.acts, again.batch(5, 16, split).acts), "batch: depends on the order of calls"
        assert (first.targets is not None) == source.has_targets, "has_targets: does not agree with the batches"
        assert all(len(label) == 16 for label in first.labels.values()), "batch: a label for each sample"
        if source.truth is not None:
            assert first.codes is not None and float(first.codes.min()) >= 0, (
                "batch: codes must be there, none negative"
            )
    assert not torch.equal(source.batch(2, 16).acts, other.batch(2, 16).acts), (
        "seed: another seed gives the same samples"
    )
    rows = {split: {tuple(row.tolist()) for row in source.batch(0, 20, split).acts} for split in _SPLITS}
    for a, b in (("train", "choose"), ("train", "test"), ("choose", "test")):
        assert not rows[a] & rows[b], f"split: {a} and {b} share samples"
    if source.truth is not None:
        norms = source.truth.directions.norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms), msg="truth: directions must have norm one")


def check_dictionary(config: DictionaryConfig) -> None:
    """Checks an architecture by training it briefly: training depends on the seed alone and not on what else is in the
    stack, the loss falls, and the dictionary obeys :func:`check_codes`."""
    _check_config(config, "dictionaries")
    x = _toy().batch(0, 2048).acts
    first, again, other = (fit(x, config, seeds=seed, **_TRAINING)[0] for seed in (0, 0, 1))
    assert _equal(first, again), "training: the same seed gives other weights"
    assert not _equal(first, other), "training: another seed gives the same weights"
    together = fit(x, config, seeds=[1, 0], **_TRAINING)[1]
    for name, tensor in first.tensors().items():
        torch.testing.assert_close(
            together.tensors()[name], tensor, rtol=1e-3, atol=1e-4, msg=f"training: {name} depends on the stack"
        )
    untrained: dict[str, Any] = {**_TRAINING, "steps": 1}
    before = fit(x, config, seeds=0, **untrained)[0]
    errors = [float((d.reconstruct(x) - x).square().sum(-1).mean()) for d in (before, first)]
    assert errors[1] < errors[0], f"training: the error goes from {errors[0]:.4g} to {errors[1]:.4g}"
    check_codes(first, x[:6])


def check_codes(d: Dictionary, x: Tensor) -> None:
    """The rules of every dictionary on samples `x [6, d_in]`: non-negative codes in any leading shape, float64,
    gradients, and exact saving and loading."""
    shaped = x.reshape(2, 3, d.d_in)
    z = d.encode(shaped)
    assert z.shape == (2, 3, d.n_latents), f"encode: shape {tuple(z.shape)} for an input of {tuple(shaped.shape)}"
    assert bool(torch.isfinite(z).all()) and float(z.min()) >= 0, "encode: codes must be finite and not negative"
    assert d.decode(z).shape == (2, 3, d.d_out), "decode: leading axes must stay"
    torch.testing.assert_close(
        d.encode(shaped[0, 0]), z[0, 0], rtol=1e-4, atol=1e-5, msg="encode: a sample's codes depend on the others"
    )
    assert d.encode(x[:0]).shape == (0, d.n_latents), "encode: no samples give no codes"
    assert _refuses(d, x[:, :1]), "encode: samples of width 1 are taken, and broadcast; use self.centred(x)"
    double = d.to(dtype=torch.float64)
    inputs = x.double().requires_grad_()
    double.decode(double.encode(inputs)).square().sum().backward()
    gradient = inputs.grad
    assert gradient is not None and bool(torch.isfinite(gradient).all()), "encode: no finite gradient"
    assert float(gradient.abs().sum()) > 0, "encode: no gradient reaches the activations"
    with tempfile.TemporaryDirectory() as folder:
        save(d, Path(folder))
        loaded = load(folder)
    assert type(loaded) is type(d), f"load: a {type(d).__name__} comes back as {type(loaded).__name__}"
    assert loaded.settings() == d.settings() and torch.equal(loaded.encode(x), d.encode(x)), "load: other codes"


def _refuses(d: Dictionary, x: Tensor) -> bool:
    """Whether the dictionary takes no such samples. Any error will do, since shapes may be checked before."""
    try:
        d.encode(x)
    except Exception:
        return True
    return False


def check_encoder(config: EncoderConfig) -> None:
    """Checks an encoder: the directions stay, it depends on the seed alone, and its dictionary obeys
    :func:`check_codes`."""
    _check_config(config, "encoders")
    source = _toy()
    assert source.truth is not None
    start = Relu.tied(source.truth.directions)
    first, again = (start.with_encoder(config, source) for _ in range(2))
    assert torch.equal(first.W_dec, start.W_dec), "fit: an encoder must not change W_dec"
    assert _equal(first, again), "fit: the same seed gives other tensors"
    assert first.multiply_adds() > 0, "multiply_adds: must be positive"
    check_codes(first, source.batch(0, 6, "test").acts)


def check_baseline(config: BaselineConfig) -> None:
    """Checks a baseline: it depends on the seed where it says so, its rows have norm one, its card has the training
    cost, and its dictionary obeys :func:`check_codes`."""
    _check_config(config, "baselines")
    source = _toy()
    first, again, other = (config.fit(source, seed) for seed in (0, 0, 1))
    assert torch.equal(first.W_dec, again.W_dec), "fit: the same seed gives other directions"
    differs = not torch.equal(first.W_dec, other.W_dec)
    assert differs == config.seeded, (
        f"seeded = {config.seeded}: another seed gives {'other' if differs else 'the same'}"
    )
    norms = first.W_dec.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms), msg="fit: rows of W_dec must have norm one")
    cost = cast(dict[str, Any], first.card.get("spent", {}))
    assert set(cost) == {"rows", "samples", "multiply_adds"}, "card: give FitCost(...).card_entry() to with_card"
    assert 0 <= cost["rows"] <= cost["samples"], "card: rows cannot exceed samples"
    if not config.needs:
        small = config.fit(TensorSource(source.batch(0, 300).acts), 0).card["spent"]["rows"]
        assert small <= 240, f"card: {small} rows of a source that has 240"
    check_codes(first, source.batch(0, 6, "test").acts)


def check_metric(config: MetricConfig) -> None:
    """Checks a metric on a toy source with known features: scores are finite or NaN floats, vectors have an entry per
    feature or latent, and neither repetition nor the order of latents or samples changes a score."""
    _check_config(config, "metrics")
    source = _toy()
    evidence = gather_evidence(source, 1000)
    lacking = config.needs - evidence.provides
    if lacking:
        raise UserError(
            f"check_metric: the toy source has no {' and '.join(sorted(lacking))}; write a test of your own"
        )
    assert source.truth is not None
    rows = source.truth.directions.repeat(2, 1)[:20]
    rows = rows + 0.08 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    d = Relu(rows.T.contiguous(), rows, torch.full((20,), -0.05), torch.zeros(rows.shape[1]))
    scores = config.score(Case(d, evidence))
    assert scores.scalars, "score: there must be at least one number"
    assert all(isinstance(value, float) for value in scores.scalars.values()), "score: scalars must be Python floats"
    lengths = {len(source.truth.directions), d.n_latents}
    wrong = [name for name, vector in scores.vectors.items() if len(vector) not in lengths]
    assert not wrong, f"score: {wrong} have neither one entry per feature nor one per latent"
    _same_scores(scores, config.score(Case(d, evidence)), "a second call")
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    shuffled = Relu(d.W_enc[:, order], d.W_dec[order], d.b_enc[order], d.b_dec)
    _same_scores(scores, config.score(Case(shuffled, evidence)), "the order of latents")
    _same_scores(scores, config.score(Case(d, _reordered(evidence))), "the order of samples")


def _check_config(config: KindSettings, interface: str) -> None:
    if fingerprint(config) is not None:
        register(type(config))  # so that what it makes can be saved and loaded
    name = str(type(config).model_fields["kind"].default)
    assert config.interface == interface, f"{name}: not a config of {interface}"
    assert hash(config) == hash(type(config)(**config.model_dump())), (
        "config: must be hashable and rebuilt from its dump"
    )
    assert "kind" in config.model_dump(), "config: the dump must name the kind"


def _toy() -> Source:
    activity = {"kind": "independent", "probability": 0.15}
    return FeaturesConfig(n_features=14, d_in=16, activity=activity, noise=0.01).build()  # pyright: ignore


def _open(config: SourceConfig) -> Source:
    with tempfile.TemporaryDirectory() as folder:
        config.prepare(Path(folder), lambda done, total, unit: None, "cpu")
        return config.open(Path(folder), "cpu")


def _equal(a: Dictionary, b: Dictionary) -> bool:
    return all(torch.equal(tensor, b.tensors()[name]) for name, tensor in a.tensors().items())


def _same_scores(a: Scores, b: Scores, changed: str) -> None:
    assert set(a.scalars) == set(b.scalars), f"score: {changed} changes which scores there are"
    for name, value in a.scalars.items():
        if "shuffled" in name:  # a control at chance, whose labels are permuted by their place
            continue
        close = math.isclose(value, b.scalars[name], rel_tol=1e-3, abs_tol=1e-3)
        both_undefined = math.isnan(value) and math.isnan(b.scalars[name])
        assert close or both_undefined, f"score: {changed} changes {name} from {value} to {b.scalars[name]}"


def _reordered(evidence: Evidence) -> Evidence:
    def reorder(batch: Batch) -> Batch:
        order = torch.randperm(len(batch.acts), generator=torch.Generator().manual_seed(2))
        return Batch(batch.acts[order], None if batch.codes is None else batch.codes[order])

    return replace(evidence, choose=reorder(evidence.choose), test=reorder(evidence.test))
