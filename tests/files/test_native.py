"""The native format: exact round trips, stable bytes, and errors that name the damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sae
from sae.dictionaries.relu import Relu
from sae.encoders.fista import Fista


def a_dictionary(kind: str = "relu", seed: int = 0) -> sae.Dictionary:
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(6, 4, generator=g)
    if kind == "fista":
        return Fista.over(rows, torch.randn(4, generator=g), l1=0.1, n_iterations=7, threshold=0.2)
    b_enc, b_dec = torch.randn(6, generator=g), torch.randn(4, generator=g)
    return Relu(torch.randn(4, 6, generator=g), rows, b_enc, b_dec, card={"hook": "é</script>"})


@pytest.mark.parametrize("kind", ["relu", "fista"])
def test_round_trip_is_exact_and_bytes_are_stable(kind: str, tmp_path: Path):
    d, x = a_dictionary(kind), torch.randn(3, 5, 4)
    for name in ("a", "b"):
        sae.save(d, tmp_path / name)
    e = sae.load(tmp_path / "a")
    assert type(e) is type(d) and e.card == d.card and e.settings() == d.settings()
    assert torch.equal(e.encode(x), d.encode(x)) and torch.equal(e.decode(e.encode(x)), d.decode(d.encode(x)))
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert not list(tmp_path.rglob(".*")), "no temporary files stay behind"


@pytest.mark.parametrize("format", ["native", "saelens"])
def test_tied_directions_in_a_single_dimension_share_memory_and_are_saved(format: str, tmp_path: Path):
    d = Relu.tied(torch.tensor([[1.0], [-1.0]]))
    assert d.W_enc.data_ptr() == d.W_dec.data_ptr()
    sae.save(d, tmp_path / "d", format=format)
    x = torch.randn(5, 1)
    assert torch.equal(sae.load(tmp_path / "d").encode(x), d.encode(x))


def test_the_name_of_an_earlier_version_is_understood(tmp_path: Path):
    d, x = a_dictionary("fista"), torch.randn(3, 4)
    sae.save(d, tmp_path)
    header = json.loads((tmp_path / "dictionary.json").read_text())
    older = {name: header["settings"][name] for name in ("l1", "n_iterations", "threshold")}
    (tmp_path / "dictionary.json").write_text(json.dumps({**header, "kind": "lasso", "settings": older}))
    assert torch.equal(sae.load(tmp_path).encode(x), d.encode(x))


def damage_truncate(folder: Path) -> None:
    file = folder / "dictionary.safetensors"
    file.write_bytes(file.read_bytes()[:-9])


def damage_missing(folder: Path) -> None:
    tensors = load_file(folder / "dictionary.safetensors")
    del tensors["b_enc"]
    save_file(tensors, folder / "dictionary.safetensors")


def damage_shape(folder: Path) -> None:
    tensors = load_file(folder / "dictionary.safetensors")
    save_file({**tensors, "b_dec": torch.zeros(5)}, folder / "dictionary.safetensors")


def damage_nan(folder: Path) -> None:
    tensors = load_file(folder / "dictionary.safetensors")
    save_file({**tensors, "b_dec": torch.full((4,), float("nan"))}, folder / "dictionary.safetensors")


def damage_extra(folder: Path) -> None:
    tensors = load_file(folder / "dictionary.safetensors")
    save_file({**tensors, "surprise": torch.zeros(5)}, folder / "dictionary.safetensors")


def damage_json(folder: Path) -> None:
    (folder / "dictionary.json").write_text("{not json")


def damage_kind(folder: Path) -> None:
    header = json.loads((folder / "dictionary.json").read_text())
    (folder / "dictionary.json").write_text(json.dumps({**header, "kind": "rellu"}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_truncate, "dictionary.safetensors: not a complete"),
        (damage_missing, "b_enc is missing"),
        (damage_shape, r"b_dec has shape \(5,\); \(4,\) is expected"),
        (damage_nan, "b_dec holds NaN"),
        (damage_extra, "surprise"),
        (damage_json, "dictionary.json: not readable"),
        (damage_kind, "did you mean 'relu'"),
    ],
)
def test_damage_is_named_in_one_line(damage, words: str, tmp_path: Path):
    sae.save(a_dictionary(), tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=words) as error:
        sae.load(tmp_path)
    assert "\n" not in str(error.value)


def test_what_is_not_there_is_said(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        sae.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no dictionary here"):
        sae.load(tmp_path)


def test_saelens_form_round_trips_and_unknown_formats_are_refused(tmp_path: Path):
    d, x = a_dictionary(), torch.randn(9, 4)
    sae.save(d, tmp_path / "native")
    sae.convert(tmp_path / "native", tmp_path / "lens", format="saelens")
    assert torch.equal(sae.load(tmp_path / "lens").encode(x), d.encode(x))
    with pytest.raises(ValueError, match="did you mean 'saelens'"):
        sae.convert(tmp_path / "native", tmp_path / "x", format="saelense")
    with pytest.raises(ValueError, match="cannot store a 'fista'"):
        sae.save(a_dictionary("fista"), tmp_path / "y", format="saelens")


def test_saelens_without_centring_is_read_as_it_is_meant(tmp_path: Path):
    d, x = a_dictionary(), torch.randn(9, 4)
    sae.save(d, tmp_path, format="saelens")
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**config, "apply_b_dec_to_input": False}))
    torch.testing.assert_close(sae.load(tmp_path).encode(x), torch.relu(x @ d.W_enc + d.b_enc))
