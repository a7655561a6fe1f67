"""The transformer source: stored activations, splits, shuffling, and interrupted preparation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae.activations.shards import Shards
from sae.model.hooked import Model
from sae.model.loading import load_tokenizer
from sae.registry import UserError
from sae.sources.transformer import Config
from tests.streaming import SPLITS, build, bytes_of, columns, prepare_with_kills, silent, words

HOOK = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return words(tmp_path_factory.mktemp("text") / "text.txt", 300)


@pytest.fixture
def base(tiny_models: Mapping[str, Path], text: Path) -> dict[str, Any]:
    return {"model": str(tiny_models["llama"]), "hook": HOOK, "text": str(text), "separator": "|", "context": 16,
            "heldout_share": 0.3, "shard_tokens": 400}  # fmt: skip


@pytest.mark.parametrize("model", ["llama", "gpt2"])
@pytest.mark.parametrize("packing", ["packed", "document"])
def test_every_vector_is_the_models_own_at_its_row_and_position(
    tmp_path: Path, base: dict[str, Any], tiny_models: Mapping[str, Path], model: str, packing: str
):
    source = build(tmp_path, **base | {"model": str(tiny_models[model]), "packing": packing, "eos": True})
    whole = Model.boot(str(tiny_models[model]))
    for split in SPLITS:
        kept = columns(source, split)
        corpus = Shards(sorted(tmp_path.glob(f"rows-{split}-*")))
        tokens = corpus.rows(np.arange(corpus.n_rows), "tokens")
        documents = corpus.rows(np.arange(corpus.n_rows), "document")
        acts = whole.activations(tokens.clamp(min=0).long(), tokens >= 0, HOOK)
        row, position = kept["row"].long(), kept["position"].long()
        torch.testing.assert_close(kept["acts"], acts[row, position], rtol=1e-4, atol=1e-5)
        assert torch.equal(kept["token"], tokens[row, position])
        assert torch.equal(kept["document"], documents[row, position])
        assert float((row[1:] == row[:-1]).float().mean()) < 0.3  # neighbours in a text are parted


@pytest.mark.parametrize("model", ["llama", "gpt2"])
@pytest.mark.parametrize("packing", ["packed", "document"])
@pytest.mark.parametrize("bos", ["row", "document", "none"])
def test_no_special_token_is_stored_and_no_other_is_lost(
    tmp_path: Path, base: dict[str, Any], tiny_models: Mapping[str, Path], model: str, packing: str, bos: str
):
    source = build(tmp_path, **base | {"model": str(tiny_models[model]), "packing": packing, "bos": bos, "eos": True})
    tokenizer = load_tokenizer(str(tiny_models[model]))
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, -1]
    assert model == "llama" or special[0] == 0
    for split in SPLITS:
        kept = columns(source, split)
        corpus = Shards(sorted(tmp_path.glob(f"rows-{split}-*")))
        tokens = corpus.rows(np.arange(corpus.n_rows), "tokens")
        assert not set(kept["token"].tolist()) & set(special)
        places = list(zip(kept["row"].tolist(), kept["position"].tolist(), strict=True))
        expected = [(i, j) for i, r in enumerate(tokens.tolist()) for j, t in enumerate(r) if j and t not in special]
        assert sorted(places) == expected and places != expected
        firsts = set(tokens[:, 0].tolist())
        assert firsts == {special[0]} if bos == "row" else special[0] not in firsts or bos == "document"


def test_documents_of_the_splits_are_disjoint_and_copies_stay_together(
    tmp_path: Path, base: dict[str, Any], text: Path
):
    twice = tmp_path / "twice.txt"
    twice.write_text(text.read_text() + "|" + text.read_text())
    source = build(tmp_path / "s", **base | {"text": str(twice), "packing": "document"})
    numbers = {s: set(columns(source, s)["document"].tolist()) for s in SPLITS}
    for one, other in (("train", "choose"), ("train", "test"), ("choose", "test")):
        assert not {n % 300 for n in numbers[one]} & {n % 300 for n in numbers[other]}
    assert all(numbers.values())


def test_bytes_after_an_interruption_are_those_of_an_uninterrupted_run(tmp_path: Path, base: dict[str, Any]):
    config = Config(**base)
    shards = prepare_with_kills(config, tmp_path)
    assert shards >= 3
    before = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "killed").glob("train-*")}
    assert len(before) == shards
    (tmp_path / "killed" / "train-00001.safetensors").write_bytes(b"cut short")
    config.prepare(tmp_path / "killed", silent, "cpu")
    assert bytes_of(tmp_path / "whole") == bytes_of(tmp_path / "killed")
    after = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "killed").glob("train-*")}
    assert {name for name in before if before[name] != after[name]} == {"train-00001.safetensors"}


def test_prepared_again_nothing_is_done_and_other_settings_are_refused(tmp_path: Path, base: dict[str, Any]):
    build(tmp_path, **base)
    before = {f.name: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    build(tmp_path, **base | {"rows_at_once": 3})
    assert before == {f.name: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    with pytest.raises(UserError, match="other settings"):
        build(tmp_path, **base | {"context": 8})


def test_batches_are_a_function_of_seed_and_step_and_an_epoch_sees_every_row_once(tmp_path: Path, base: dict[str, Any]):
    source = build(tmp_path / "0", **base)
    again = source.config.open(tmp_path / "0", "cpu")
    other = build(tmp_path / "1", **base | {"seed": 1})
    n, size = source.n_rows["train"], 50
    assert n is not None and source.d_in == 16
    assert torch.equal(source.batch(3, size).acts, again.batch(3, size).acts)
    assert not torch.equal(source.batch(3, size).acts, other.batch(3, size).acts)
    epochs = [source.batch(e, n).acts for e in range(2)]
    assert not torch.equal(*epochs)
    one, two = (sorted(map(tuple, epoch.tolist())) for epoch in epochs)
    assert one == two
    assert torch.equal(source.batch(1, 20, "test").acts, source.shards["test"].rows(np.arange(20, 40)))


def test_too_little_text_is_an_error_or_a_counted_repeat(tmp_path: Path, base: dict[str, Any]):
    with pytest.raises(UserError, match=r"source\.n_tokens: .* \d+ tokens for the split 'train', fewer than 100000;"):
        build(tmp_path / "a", **base | {"n_tokens": 100_000})
    message = r"source\.n_heldout_tokens: .* \d+ tokens for the split 'choose', fewer than 50000;"
    with pytest.raises(UserError, match=message):
        build(tmp_path / "b", **base | {"n_heldout_tokens": 100_000})
    build(tmp_path / "c", **base | {"n_tokens": 100_000, "exhausted": "repeat"})
    facts = json.loads((tmp_path / "c" / "source.json").read_text())
    assert (
        facts["passes_to_n_tokens"] == pytest.approx(100_000 / facts["unique_tokens"]) and facts["unique_tokens"] < 9000
    )
    enough = build(tmp_path / "d", **base | {"n_tokens": 500, "n_heldout_tokens": 300})
    for split, n in (("train", 500), ("choose", 150), ("test", 150)):
        have = enough.n_rows[split]  # pyright: ignore
        assert have is not None and n <= have < n + 16


def test_a_disk_too_small_is_refused_at_once(tmp_path: Path, base: dict[str, Any]):
    with pytest.raises(UserError, match=r"source\.n_tokens: .* need .* GB, .* GB free"):
        build(tmp_path, **base | {"n_tokens": 10**15})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hook": "blocks.0.hook_reid_post"}, "did you mean 'blocks.0.hook_resid_post'"),
        ({"context": 33}, "takes at most 32 tokens; lower it"),
        ({"text": "nowhere.txt"}, "source.text = 'nowhere.txt': does not exist"),
        ({"labels": "nowhere.conllu"}, "source.labels = 'nowhere.conllu': does not exist"),
        ({"model": "./nowhere"}, "model = './nowhere': not a folder with a config.json"),
        ({"store_dtype": "float16", "hook": "blocks.1.hook_resid_post"}, "have NaN or infinite values in float16"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, base: dict[str, Any], change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
):
    if "store_dtype" in change:
        monkeypatch.setattr(
            Model, "activations_at", lambda m, tokens, a, h, fused: [torch.full((*tokens.shape, 16), 1e5)]
        )
    with pytest.raises(UserError) as error:
        build(tmp_path, **base | change)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_tokenizer_without_bos_is_told_apart_from_bos_zero(tmp_path: Path, base: dict[str, Any]):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in Path(base["model"]).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["bos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"source\.bos = 'row': the tokenizer of .* has no BOS; set it to 'none'"):
        build(tmp_path / "a", **base | {"model": str(folder)})
    build(tmp_path / "b", **base | {"model": str(folder), "bos": "none"})


def test_smaller_stored_types_are_read_back_as_float32(tmp_path: Path, base: dict[str, Any]):
    exact = columns(build(tmp_path / "a", **base), "test")["acts"]
    half = columns(build(tmp_path / "b", **base | {"store_dtype": "bfloat16"}), "test")["acts"]
    assert half.dtype == torch.float32 and torch.equal(half, exact.bfloat16().float())


def test_heldout_rows_of_tokens_carry_the_test_vectors(tmp_path: Path, base: dict[str, Any]):
    source = build(tmp_path, **base)
    site = source.model()
    assert site is not None and site is source.model() and source.config.provides == {"model"}
    acts = site.model.activations(site.text.tokens, site.text.attended, site.hook)[site.text.kept]
    stored = columns(source, "test")["acts"]
    assert len(acts) == len(stored) == source.n_rows["test"]
    torch.testing.assert_close(acts.sum(0), stored.sum(0), rtol=1e-4, atol=1e-3)
    assert Config(**base | {"hook": "blocks.0.hook_resid_mid"}).provides == frozenset()


CONLLU = """# newdoc id = {doc}
# text = w1 w2's.
1	w1	_	NOUN	_	_	0	_	_	_
2-3	w2's	_	_	_	_	_	_	_	SpaceAfter=No
2	w2	_	VERB	_	_	0	_	_	_
3	's	_	PART	_	_	0	_	_	_
4	.	_	PUNCT	_	_	0	_	_	_
4.1	w9	_	VERB	_	_	_	_	_	_

1	w{n}	_	VERB	_	_	0	_	_	_
2	w4	_	NOUN	_	_	0	_	_	SpaceAfter=No
3	.	_	PUNCT	_	_	0	_	_	_

"""


def test_parts_of_speech_lie_at_the_last_token_of_each_word(tmp_path: Path, base: dict[str, Any]):
    file = tmp_path / "words.conllu"
    file.write_text("".join(CONLLU.format(doc=i, n=i) for i in range(12)))
    source = build(tmp_path / "s", **base | {"labels": file})
    assert source.config.provides == {"model", "labels"}
    labelled = source.labelled()
    assert labelled is not None
    total = 0
    for batch, split in zip(labelled, ("choose", "test"), strict=True):
        total += len(batch.acts)
        assert set(batch.labels) == {"upos_NOUN", "upos_PUNCT", "upos_VERB"}
        assert bool((torch.stack(list(batch.labels.values())).sum(0) == 1).all())
        shards = Shards([tmp_path / "s" / f"labels-{split}.safetensors"])
        position = shards.rows(np.arange(shards.n_rows), "position")
        # "<s> w1 w2 ' s ." has its noun at 1 and its full stop at 5; "<s> wN w4 ." verb, noun, full stop at 1, 2, 3.
        assert position.tolist() == [1, 5, 1, 2, 3] * (len(batch.acts) // 5)
        model, tokenizer = Model.boot(base["model"]), load_tokenizer(base["model"])
        tokens = torch.tensor([[1, *tokenizer("w1 w2's .", add_special_tokens=False)["input_ids"]]])
        acts = model.activations(tokens, torch.ones_like(tokens).bool(), HOOK)[0]
        torch.testing.assert_close(batch.acts[:2], acts[[1, 5]], rtol=1e-4, atol=1e-5)
    assert total == 60


def test_labels_of_texts_lie_at_their_last_token(tmp_path: Path, base: dict[str, Any]):
    file = tmp_path / "texts.jsonl"
    lines = [{"text": f"w1 w{i} " * (i + 1), "labels": {"odd": i % 2}} for i in range(30)]
    file.write_text("\n".join(map(json.dumps, lines)))
    labelled = build(tmp_path / "s", **base | {"labels": file}).labelled()
    assert labelled is not None
    assert sum(len(b.acts) for b in labelled) == 30 and sum(int(b.labels["odd"].sum()) for b in labelled) == 15
    file.write_text('{"text": "w1", "labels": {"odd": 1}}\n{"text": "w2", "labels": {"even": 1}}')
    with pytest.raises(UserError, match=r"texts\.jsonl, line 2: labels must be 0 or 1, with the same names"):
        build(tmp_path / "t", **base | {"labels": file})
    file.write_text('{"text": "w1"')
    with pytest.raises(UserError, match=r"texts\.jsonl, line 1: not a JSON object"):
        build(tmp_path / "t", **base | {"labels": file})


@pytest.mark.parametrize("name", ["stories260k"])
def test_a_trained_model_and_running_text(tmp_path: Path, shared_data: Path, name: str):
    model, text = shared_data / "models" / name, shared_data / "text" / "tinystories_valid.txt"
    if not model.is_dir() or not text.is_file():
        pytest.skip(f"no {model} or no {text}")
    some = tmp_path / "some.txt"
    some.write_text(text.read_text()[:120_000])
    source = build(tmp_path / "s", model=str(model), hook="blocks.3.hook_resid_post", text=str(some), context=128)
    kept = columns(source, "train")
    assert not set(kept["token"].tolist()) & {1, 2} and source.d_in == 64
    # The residual norm at BOS is 16 and has no variance; without BOS and position 0 it is about 9.5.
    assert 9 < float(kept["acts"].norm(dim=1).mean()) < 10 and int(kept["position"].min()) == 1
