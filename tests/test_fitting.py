"""The public calls, as a user types them."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import sae
from sae.numerics.progress_line import ProgressLine
from sae.registry import config_class, configurable
from sae.source import as_source
from sae.sources.independent import Config as Independent

TRAINED = tuple(configurable("dictionaries"))
FAST = {"steps": 40, "batch_size": 32, "log_every": 40}


def test_a_sweep_gives_one_dictionary_for_each_value_and_seed():
    x = torch.randn(300, 6)
    ds = sae.fit(x, kind="relu", n_latents=9, l1=[0.05, 0.1], seeds=[0, 1], **FAST)
    assert [(d.card["training"]["l1"], d.card["training"]["seed"]) for d in ds] == [
        (0.05, 0),
        (0.05, 1),
        (0.1, 0),
        (0.1, 1),
    ]
    assert all(d.n_latents == 9 and d.d_in == 6 for d in ds)
    again = sae.fit(x, n_latents=9, l1=0.1, seeds=1, **FAST)
    torch.testing.assert_close(again[0].W_dec, ds[3].W_dec)


@pytest.mark.usefixtures("shapes_unchecked")
def test_features_of_a_source_are_recovered():
    source = Independent(n_features=12, d_in=8, probability=0.08).build()
    (d,) = sae.fit(source, n_latents=24, l1=2.0, steps=1500, batch_size=256, lr=3e-3)
    best = (source.truth.directions @ d.W_dec.T).max(1).values
    assert float(best.mean()) > 0.95


def test_raw_units_whatever_the_scale_of_the_input():
    x = Independent(n_features=12, d_in=8, probability=0.2).build().batch(0, 2000).acts
    (d,), (e,) = (sae.fit(x * s, n_latents=12, l1=0.5, **FAST) for s in (1.0, 1000.0))
    torch.testing.assert_close(e.encode(1000 * x), 1000 * d.encode(x), rtol=1e-2, atol=5.0)
    torch.testing.assert_close(d.W_dec.norm(dim=-1), torch.ones(12))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"l1": -1}, "l1"),
        ({"l1": 0.1, "lr_decay": 3}, "lr_decay"),
        ({"l1": 0.1, "kind": "rellu"}, "did you mean 'relu'"),
        ({"l1": 0.1, "steps": 0}, "steps"),
        ({"l1": 0.1, "device": "cuda:77"}, "device = 'cuda:77': no such device on this machine"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments: dict, words: str):
    with pytest.raises(ValueError, match=words):
        sae.fit(torch.randn(300, 6), n_latents=9, **arguments)


def test_pairs_make_a_source_with_targets():
    x = torch.randn(300, 6)
    batch = as_source((x, 2 * x)).batch(0, 20)
    assert batch.targets is not None and torch.equal(batch.targets, 2 * batch.acts)
    assert not as_source(x).has_targets
    (d,) = sae.fit((x, 2 * x), n_latents=9, l1=0.1, **FAST)
    assert d.n_latents == 9 and d.d_in == 6


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (torch.randn(300, 5), r"y: shape \[300, 5\] where x has \[300, 6\]"),
        (torch.randn(300), r"y: a floating-point matrix \[rows, d_in\] is needed"),
        (torch.full((300, 6), float("nan")), "y: the activations contain NaN"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(y: torch.Tensor, words: str):
    with pytest.raises(ValueError, match=words):
        sae.fit((torch.randn(300, 6), y), n_latents=9, l1=0.1, **FAST)


def test_bad_data_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        sae.fit(torch.full((300, 6), float("nan")), n_latents=9, l1=0.1)
    with pytest.raises(ValueError, match="rows, d_in"):
        sae.fit(torch.randn(300), n_latents=9, l1=0.1)


def test_a_dictionary_loads_where_the_heavy_libraries_are_missing(tmp_path: Path):
    (d,) = sae.fit(torch.randn(300, 6), n_latents=9, l1=0.1, **FAST)
    sae.save(d, tmp_path)
    program = f"""
import sys
for name in ("transformer_lens", "transformers", "datasets", "sklearn", "matplotlib", "scipy", "pandas"):
    sys.modules[name] = None  # import of it fails
import torch, sae
z = sae.load({str(tmp_path)!r}).encode(torch.randn(4, 6))
assert z.shape == (4, 9)
sae.fit(torch.randn(300, 6), n_latents=9, l1=0.1, steps=5, batch_size=32)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert run.returncode == 0, run.stderr


def test_widths_are_swept_side_by_side_in_the_order_of_the_call():
    x = torch.randn(300, 6)
    ds = sae.fit(x, "relu", n_latents=[9, 12], l1=[0.05, 0.1], seeds=[0, 1], **FAST)
    training = [d.card["training"] for d in ds]
    assert [(t["n_latents"], t["l1"], t["seed"]) for t in training] == [
        (n, l1, seed) for n in (9, 12) for l1 in (0.05, 0.1) for seed in (0, 1)
    ]
    assert [d.n_latents for d in ds] == [9] * 4 + [12] * 4
    [alone] = sae.fit(x, "relu", n_latents=12, l1=0.05, seeds=1, **FAST)
    torch.testing.assert_close(ds[5].W_dec, alone.W_dec)


def test_config_objects_train_as_keywords_do():
    x = torch.randn(300, 6)
    configs = [sae.topk(n_latents=9, k=2), sae.relu(n_latents=8, l1=0.1), sae.topk(n_latents=9, k=3)]
    ds = sae.fit(x, configs, train=sae.TrainConfig(**FAST))
    assert [(d.kind, d.n_latents, d.settings().get("k")) for d in ds] == [
        ("topk", 9, 2),
        ("relu", 8, None),
        ("topk", 9, 3),
    ]
    [keywords] = sae.fit(x, "topk", n_latents=9, k=3, **FAST)
    torch.testing.assert_close(ds[2].W_dec, keywords.W_dec)
    assert ds[2].card["training"] == keywords.card["training"]


@pytest.mark.parametrize("kind", TRAINED)
def test_every_kind_that_can_be_trained_has_its_settings_in_sae(kind: str):
    assert getattr(sae, kind) is config_class("dictionaries", kind) and kind in sae.__all__ and kind in dir(sae)


def test_the_callback_hears_of_every_log_interval_in_the_order_of_the_result():
    heard: list[tuple[int, list[dict[str, float]]]] = []
    x = torch.randn(300, 6)
    configs = [sae.topk(n_latents=9, k=2), sae.relu(n_latents=8, l1=0.1), sae.topk(n_latents=9, k=3)]
    train = sae.TrainConfig(steps=25, batch_size=32, log_every=10)
    sae.fit(x, configs, train=train, callback=lambda step, figures: heard.append((step, figures)))
    assert [step for step, _ in heard] == [10, 20, 25]
    assert all([round(figures[i]["l0"]) for i in (0, 2)] == [2, 3] for _, figures in heard)
    assert all(set(figures[1]) >= {"loss", "l0", "dead"} and figures[1]["step"] == step for step, figures in heard)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"train": sae.TrainConfig(steps=5), "steps": 6, "l1": 0.1}, "steps: train has all settings"),
        ({"train": {"steps": 5}, "l1": 0.1}, "give a sae.TrainConfig"),
        ({"n_latents": [], "l1": 0.1}, r"n_latents = \[\]: a sweep over no values"),
        ({"n_latents": [9, 0], "l1": 0.1}, "n_latents = 0"),
        ({"kind": []}, r"kind = \[\]: neither"),
    ],
)
@pytest.mark.usefixtures("shapes_unchecked")
def test_typed_settings_that_do_not_fit_are_refused(arguments: dict, words: str):
    with pytest.raises(sae.UserError, match=words):
        sae.fit(torch.randn(300, 6), **{"n_latents": 9, **arguments})


def test_progress_is_quiet_but_on_request(capfd: pytest.CaptureFixture[str]):
    x = torch.randn(300, 6)
    sae.fit(x, n_latents=9, l1=0.1, **FAST)
    assert capfd.readouterr() == ("", "")
    sae.fit(x, n_latents=9, l1=0.1, progress=True, **FAST)
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("fit: 40/40 steps, loss ") and err.count("\n") == 1


def test_a_terminal_has_one_line_that_is_cleared(monkeypatch: pytest.MonkeyPatch):
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr(ProgressLine, "TERMINAL_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stderr", screen)
    with ProgressLine("fit") as line:
        line(10, 40, "steps", loss=0.5)
        time.sleep(0.01)
        line(20, 40, "steps", loss=0.25)
    shown = [part.strip() for part in screen.getvalue().split("\r")]
    assert shown[1] == "fit: 10/40 steps, loss 0.5" and shown[2].startswith("fit: 20/40 steps, ")
    assert "left, loss 0.25" in shown[2] and shown[3:] == ["", ""] and "\n" not in screen.getvalue()


@pytest.mark.parametrize("file", ["architecture.py", "training/config.py", *(f"dictionaries/{k}.py" for k in TRAINED)])
def test_type_checkers_see_the_defaults_of_settings(file: str):
    tree = ast.parse((Path(sae.__file__).parent / file).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Field"]
    assert not any(call.args for call in calls), "a default without its name: settings would seem to be required"
