"""Loading a large file takes little more memory than its tensors, in every format and memory layout: there is no second
copy. Measured as the peak resident memory of a separate process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

MEASURE = """
import sys, json
import sae, torch
from sae.numerics import memory
import sae.dictionaries.jumprelu, sae.dictionaries.relu, sae.files.tensors
from sae.registry import kinds
kinds("dictionaries"), kinds("encoders")
torch.set_num_threads(1)
torch.randn(9, 9) @ torch.randn(9, 9)
held = memory.held_bytes("cpu")
d = sae.load(sys.argv[1])
most = memory.peak_bytes("cpu") - held
print(json.dumps({"most": most, "tensors": sum(t.nbytes for t in d.tensors().values()), "kind": d.kind}))
"""


def peak(path: Path) -> dict[str, int]:
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return json.loads(ran.stdout)


def gemma_scope(folder: Path, d: int, m: int) -> Path:
    g = np.random.default_rng(0)
    parts = {"W_enc": (d, m), "W_dec": (m, d), "b_enc": (m,), "b_dec": (d,), "threshold": (m,)}
    np.savez(folder / "params.npz", **{n: g.random(shape, dtype=np.float32) for n, shape in parts.items()})
    return folder / "params.npz"


def saelens(folder: Path, d: int, m: int) -> Path:
    tensors = {"W_enc": torch.rand(d, m), "W_dec": torch.rand(m, d), "b_enc": torch.rand(m), "b_dec": torch.rand(d)}
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"architecture": "standard", "d_sae": m, "d_in": d}))
    return folder / "sae_weights.safetensors"


def dictionary_learning(folder: Path, d: int, m: int) -> Path:
    torch.save({"bias": torch.rand(d), "encoder.weight": torch.rand(m, d), "encoder.bias": torch.rand(m),
                "decoder.weight": torch.rand(d, m)}, folder / "ae.pt")  # fmt: skip
    return folder / "ae.pt"


def native(folder: Path, d: int, m: int) -> Path:
    import sae
    from sae.dictionaries.relu import Relu

    sae.save(Relu(torch.rand(d, m), torch.rand(m, d), torch.rand(m), torch.rand(d)), folder)
    return folder / "dictionary.safetensors"


FORMS = [gemma_scope, saelens, dictionary_learning, native]


@pytest.mark.parametrize("form", [gemma_scope, dictionary_learning], ids=lambda f: f.__name__)
def test_a_file_is_opened_without_a_second_copy(form, tmp_path: Path):
    file = form(tmp_path, 512, 40_000)
    size, found = file.stat().st_size, peak(file)
    assert found["tensors"] == pytest.approx(size, rel=0.01) and size > 150e6
    assert found["most"] < found["tensors"] + 64e6, "less than one of the two matrices once more"


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_a_file_of_gemma_scopes_size(form, tmp_path: Path):
    """1.2 GB: 2,304 dimensions and 65,536 latents in float32."""
    file = form(tmp_path, 2304, 65_536)
    size, found = file.stat().st_size, peak(file)
    print(
        f"\n{form.__name__}: file {size / 1e9:.3f} GB, most {found['most'] / 1e9:.3f} GB, x {found['most'] / size:.3f}"
    )
    assert found["most"] < 1.2 * size
