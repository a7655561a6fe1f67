"""What is pushed for SAELens: the folder that its `SAE.from_pretrained` reads, and an entry for its list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sae.dictionaries.relu import Relu
from sae.dictionaries.transcoder import Transcoder
from sae.dictionary import Dictionary
from sae.files.hub import page
from sae.files.saelens_release import release_entry, write_release
from tests.files.hub_stand_in import stand_in, with_hub

SOURCE = {"model": "openai-community/gpt2", "hook": "blocks.2.hook_resid_pre", "context": 32, "bos": "row"}


def relu(**card: Any) -> Dictionary:
    return Relu.tied(torch.eye(4)).with_card(**card)


def of_topk_with_skip() -> Dictionary:
    """A kind that SAELens does not have."""
    W = torch.eye(4)
    parts = W, W, torch.zeros(4), torch.zeros(4)
    return Transcoder(*parts, reader="topk", reader_settings={"k": 2}, W_skip=W).with_card(source=SOURCE)


def test_the_entry_has_what_the_card_says():
    yaml = pytest.importorskip("yaml")
    scores = {"l0": 12.34567, "explained_variance": 0.91, "mcc": 0.5}
    text = release_entry(relu(source=SOURCE, scores=scores), "someone/thing")
    assert text is not None
    one = {"id": SOURCE["hook"], "path": "saelens", "l0": 12.3457, "variance_explained": 0.91}
    release = {"conversion_func": None, "model": SOURCE["model"], "repo_id": "someone/thing", "saes": [one]}
    assert yaml.safe_load(text) == {"thing": release}
    shown = page(relu(source=SOURCE), "someone/thing", saelens=True)
    assert 'SAE.from_pretrained("someone/thing", "saelens")' in shown and "```yaml\nthing:\n" in shown
    assert "- saelens\n" in shown.split("---")[1] and "- openai-community/gpt2\n" in shown.split("---")[1]
    assert "saelens" not in page(relu(source=SOURCE), "someone/thing")


@pytest.mark.parametrize(
    "source",
    [{}, {"hook": "blocks.0.hook_mlp_out"}, {"model": "gpt2"}, {"model": "gpt2", "hook": "x\n- y: `z`"},
     {"model": "/home/me/gpt2", "hook": "blocks.0.hook_mlp_out"}],
)  # fmt: skip
def test_without_a_hook_point_of_a_model_on_the_hub_there_is_no_entry(source: dict[str, str], tmp_path: Path):
    d = relu(source=source)
    assert release_entry(d, "someone/thing") is None
    text = page(d, "someone/thing", saelens=True)
    assert "yaml" not in text and "/home" not in text and 'SAE.from_pretrained("someone/thing"' in text
    assert write_release(d, tmp_path, None)
    assert {f.name for f in (tmp_path / "saelens").iterdir()} == {"cfg.json", "sae_weights.safetensors"}


def test_a_kind_that_saelens_does_not_have_is_pushed_without_it(tmp_path: Path):
    d = of_topk_with_skip()
    assert release_entry(d, "someone/thing") is None and not write_release(d, tmp_path, None)
    assert list(tmp_path.iterdir()) == []


FOUND = """
from benchmarks.isolated import stand_in_for_torchvision
stand_in_for_torchvision()
from huggingface_hub import hf_hub_download
from sae_lens import SAE
from sae_lens.loading import pretrained_saes_directory as releases
from tests.files.test_peers import D, M, ours
from tests.files.test_saelens_release import SOURCE

def off(a, b):
    return float((a - b).abs().max() / b.abs().max())

torch.manual_seed(0)
x = torch.randn(200, D) @ torch.randn(D, D) + 3 * torch.randn(D)
for kind, d in ours().items():
    d, repo = d.with_card(source=SOURCE), f"someone/{kind}"
    sae.push(d, repo)
    if kind == "skip":  # a transcoder of TopK, which SAELens does not have
        continue
    theirs = SAE.from_pretrained(repo, "saelens")
    mine = d.encode(x)
    mine = mine[:, :M] / mine[:, M, None] if kind == "standardised" else mine
    with torch.no_grad():
        print(json.dumps([kind, off(theirs.encode(x), mine), off(theirs(x), d.reconstruct(x))]))

folder = Path(hf_hub_download("someone/relu", "saelens/pretrained_saes.yaml")).parent
releases.files = lambda package: folder
releases.get_pretrained_saes_directory.cache_clear()
theirs = SAE.from_pretrained("relu", SOURCE["hook"])
print(json.dumps([theirs.cfg.metadata.model_name, off(theirs(x).detach(), ours()["relu"].reconstruct(x))]))
"""


@pytest.mark.peer("sae_lens")
def test_saelens_finds_what_is_pushed(tmp_path: Path):
    """By the address of the repository, and by the entry in its list of releases; codes and reconstructions agree."""
    with stand_in() as hub:
        *kinds, (model, listed) = with_hub(hub, tmp_path, FOUND)
    assert {kind for kind, *_ in kinds} >= {"relu", "gated", "topk", "jumprelu", "batchtopk", "standardised"}
    assert all(max(differences) < 1e-6 for _, *differences in kinds), kinds
    assert model == SOURCE["model"] and listed < 1e-6
    assert not any(name.startswith("saelens") for name in hub.repos["someone/skip"])
