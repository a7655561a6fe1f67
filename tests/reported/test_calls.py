"""Calls of `sae.fit`, `sae.score` and `sae.refine`: forms of numbers that are accepted, and one-line refusals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import sae
from pipelines.config.config import Config as RunConfig
from pipelines.config.config import read_config
from pipelines.plan import plan
from sae.dictionaries.relu import Config, Relu
from sae.metrics.probing import Config as Probing
from sae.registry import UserError
from sae.source import as_source

G = torch.Generator().manual_seed(0)
F = torch.linalg.qr(torch.randn(6, 6, generator=G)).Q
C = (0.5 + torch.rand(200, 6, generator=G)) * (torch.rand(200, 6, generator=G) < 0.3)
X = C @ F
D = Relu(F.T.contiguous(), F, torch.full((6,), -1e-5), torch.zeros(6))
FAST: dict[str, Any] = {"steps": 2, "batch_size": 16, "n_latents": 9, "n_scale": 64}
SHORT: dict[str, Any] = {"steps": 2, "batch_size": 32, "rounds": 2}

pytestmark = pytest.mark.usefixtures("shapes_unchecked")


def read_only(x: torch.Tensor) -> np.ndarray:
    array = x.numpy().copy()
    array.flags.writeable = False
    return array


FORMS: dict[str, Callable[[torch.Tensor], Any]] = {
    "array": lambda x: x.numpy(),
    "float64": lambda x: x.double().numpy(),
    "read only": read_only,
    "reversed": lambda x: x.flip(0).numpy()[::-1],
    "big-endian": lambda x: x.numpy().astype(">f4"),
    "long double": lambda x: x.numpy().astype(np.longdouble),
    "lists": lambda x: x.tolist(),
    "list of rows": lambda x: list(x),
    "with a gradient": lambda x: x.clone().requires_grad_(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_matrix_gives_the_same_dictionary(form: str):
    """Arrays and lists of lists ended in a traceback; a call takes them as it takes a tensor."""
    made = FORMS[form]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (d,) = sae.fit(made(X), l1=0.1, **FAST)
        source = as_source((made(X), made(2 * X)))
    assert torch.equal(d.W_dec, sae.fit(X, l1=0.1, **FAST)[0].W_dec)
    batch, plain = source.batch(1, 20), as_source((X, 2 * X)).batch(1, 20)
    assert torch.equal(batch.acts, plain.acts) and torch.equal(batch.wanted, plain.wanted)


def test_arrays_where_a_dictionary_is_changed():
    """`refine` and `with_encoder` took tensors alone."""
    r, e = sae.refine(D, X.numpy(), **SHORT), D.with_encoder("fista", X.numpy())
    assert torch.equal(r.W_dec, sae.refine(D, X, **SHORT).W_dec)
    assert torch.equal(e.encode(X), D.with_encoder("fista", X).encode(X))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_evidence_gives_the_same_scores(form: str):
    """Arrays and lists as evidence ended in a traceback."""
    made, names = FORMS[form], ("reconstruction", "recovery")
    labels = {"a": (C[:, 0] > 0).long().numpy(), "b": (C[:, 1] > 0).tolist()}
    found = sae.score(D, made(X), made(F), made(C), labels, np.int64(3), targets=made(X), metrics=names)
    tensors = {name: torch.as_tensor(label) for name, label in labels.items()}
    assert found == pytest.approx(sae.score(D, X, F, C, tensors, 3, X, names), rel=0, abs=0, nan_ok=True)


def test_small_types_of_activations():
    """float8 activations ended in an error of a kernel that torch lacks."""
    x = X.to(torch.float8_e4m3fn)
    assert torch.equal(sae.fit(x, l1=0.1, **FAST)[0].W_dec, sae.fit(x.float(), l1=0.1, **FAST)[0].W_dec)
    assert sae.score(D, x, metrics=["reconstruction"]) == sae.score(D, x.float(), metrics=["reconstruction"])


def test_whole_numbers_of_numpy_and_torch():
    """Seeds and settings of NumPy's types ended in a traceback."""
    for seeds in (np.int64(3), 3, [3], (np.int32(3),), np.array([3]), torch.tensor(3), range(3, 4)):
        (d,) = sae.fit(X, l1=np.float32(0.5), seeds=seeds, **FAST | {"n_latents": np.int64(9)})
        assert d.card["training"]["seed"] == 3 and type(d.card["training"]["seed"]) is int
        assert d.card["training"]["l1"] == 0.5
    assert len(sae.fit(X, l1=np.array([0.1, 0.2]), **FAST)) == 2
    assert len(sae.fit([[1, 0], [0, 1]] * 20, l1=0.1, **FAST)) == 1
    once, again = (sae.refine(D, X, seed, **SHORT) for seed in (3, np.int64(3)))
    assert torch.equal(once.W_dec, again.W_dec) and again.card["refine"]["seed"] == 3


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: sae.fit(X.double().fill_(1e300), l1=0.1, **FAST), "x: 200 of 200 rows have values beyond float32"),
    (lambda: sae.fit(X.double().fill_(1e300).numpy(), l1=0.1, **FAST), "x: 200 of 200 rows have values beyond float32"),
    (lambda: sae.refine(D, X.double().fill_(1e300)), "x: 200 of 200 rows have values beyond float32"),
    (lambda: sae.score(D, X.double().fill_(1e300)), "x: NaN or infinite values in float32 in 200 of 200 rows"),
    (lambda: sae.fit(None, l1=0.1, **FAST), "x: None; give a tensor, a NumPy array"),
    (lambda: sae.fit("x.npy", l1=0.1, **FAST), "x: str of other things than numbers"),
    (lambda: sae.fit([[1.0, 2.0], [1.0]], l1=0.1, **FAST), "x: list of other things than numbers in equal rows"),
    (lambda: sae.fit([X, X[:3]], l1=0.1, **FAST), "x: list of other things than numbers in equal rows"),
    (lambda: sae.fit((X, X, X), l1=0.1, **FAST), "x: a tuple of 3; give a matrix"),
    (lambda: sae.fit(X.long(), l1=0.1, **FAST), "x: a floating-point matrix .* is needed, not torch.int64"),
    (lambda: sae.fit(X.long().numpy(), l1=0.1, **FAST), "x: a floating-point matrix .* is needed, not torch.int64"),
    (lambda: sae.fit(X.to(torch.complex64), l1=0.1, **FAST), "x: torch.complex64; give real numbers"),
    (lambda: sae.fit([], l1=0.1, **FAST), r"x: a floating-point matrix .* not torch.float\w+ \[0\]"),
    *(
        (lambda seeds=seeds: sae.fit(X, l1=0.1, seeds=seeds, **FAST), words)
        for seeds, words in (
            ([], r"seeds = \[\]: there is none; give a whole number"),
            (None, "seeds = None: not a whole number; give one, such as 0"),
            ([0, None], "seeds = None: not a whole number"),
            (0.5, "seeds = 0.5: not a whole number"),
            ([1.0], "seeds = 1.0: not a whole number"),
            (True, "seeds = True: not a whole number"),
            ("01", "seeds = '01': not a whole number"),
        )
    ),
    (lambda: sae.fit(X, l1=0.1, seed=3, **FAST), "seed = 3: 'seed' is not a known setting: did you mean 'seeds'"),
    (lambda: sae.fit(X, l1=0.1, step=3, **FAST), "step = 3: 'step' is not a known setting: did you mean 'steps'"),
    (lambda: sae.fit(X, l1=0.1, foo=1, **FAST), "foo = 1: 'foo' is not a known setting: choose from .*l1.*steps"),
    (lambda: sae.fit(X, l1=-1, **FAST), "l1 = -1: input should be greater than or equal to 0"),
    (lambda: sae.fit(X, l1=0.1, **FAST | {"steps": "many"}), "steps = 'many': input should be a valid integer"),
    (lambda: sae.fit(X, l1=[], **FAST), r"l1 = \[\]: a sweep over no values"),
    (lambda: sae.fit(X, Config, l1=0.1, **FAST), "kind = .*neither the name of a kind nor a config object"),
    (lambda: sae.refine(D, X, stepps=3), "stepps = 3: 'stepps' is not a known setting: did you mean 'steps'"),
    (lambda: sae.refine(D, X, steps=0), "steps = 0: input should be greater than 0"),
    (lambda: sae.refine(D, X, seed=None), "seed = None: not a whole number"),
    (lambda: sae.refine([D, D], X), r"d: a list of 2; give one dictionary .* as d\[0\]"),
    (lambda: sae.score([D], X), r"d: a list of 1; give one dictionary .* as d\[0\]"),
    (lambda: sae.score("dir", X), "d: str; give a dictionary, from sae.load or sae.fit"),
    (lambda: sae.score(D, X, seed=0.5), "seed = 0.5: not a whole number"),
    (lambda: sae.score(D, X, labels=["a"] * 200), "labels: 'label': list of other things than numbers"),
    (lambda: sae.score(D, X, metrics=[]), r"metrics = \[\]: there is none"),
    (lambda: sae.score(D, X, metrics=["firing", "firing"]), "metrics: 'firing' is named 2 times"),
    (lambda: sae.score(D, X, codes=C, metrics=["probing", Probing(k=(2,))]), "metrics: 'probing' is named 2 times"),
    (lambda: sae.score(D, X, codes=C, metrics=[Probing]), "metrics: .*neither the name nor the config object"),
    (lambda: D.with_encoder("fista", X, l2=3), "l2 = 3: 'l2' is not a known setting: did you mean 'l1'"),
    (lambda: D.with_encoder(sae.load, X, l1=3), "l1: a config object has all its settings"),
]


@pytest.mark.parametrize(("call", "words"), REFUSED, ids=[words[:40] for _, words in REFUSED])
def test_mistakes_are_user_errors_of_one_line(call: Callable[[], Any], words: str):
    """1e300 in float64 gave a dictionary of NaN; an unknown setting pydantic's wall of text; other mistakes tracebacks
    or, as a family of metrics named twice, no word."""
    with pytest.raises(UserError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_one_family_may_stand_alone():
    """The name of one family was read as a list of its letters."""
    assert sae.score(D, X, metrics="reconstruction") == sae.score(D, X, metrics=["reconstruction"])


def test_a_run_refuses_a_family_named_twice(tmp_path: Any):
    """A config that names a family twice was planned, and stopped with an assertion once it was scored."""
    file = tmp_path / "a.toml"
    source = 'kind = "independent"\nn_features = 8\nd_in = 4\nprobability = 0.1\n'
    scored = 'metrics = ["recovery", "recovery"]\n'
    method = 'kind = "relu"\nn_latents = 8\nl1 = 0.1\n'
    file.write_text(f'name = "a"\n[source]\n{source}[score]\n{scored}[dictionary]\n{method}')
    config: RunConfig = read_config(file, ())
    with pytest.raises(UserError, match=r"score\.metrics: 'recovery' is named 2 times"):
        plan(config)
