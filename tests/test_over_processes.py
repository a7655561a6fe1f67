"""A dictionary whose latents are divided over processes (threads here) against the whole one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sae
from sae.dictionaries._over_processes import answer, is_divisible, over_processes, own_latents
from sae.dictionary import Dictionary
from sae.files.native import stored_dictionary
from sae.numerics.processes import Processes
from sae.scoring import score
from sae.sources.independent import Config as Independent
from tests.threads_as_processes import run_as_processes

SOURCE = Independent(n_features=20, d_in=10, probability=0.1).build()
KINDS = {
    "relu": {"l1": 0.2},
    "gated": {"l1": 0.2},
    "jumprelu": {"l0": 3.0},
    "topk": {"k": 3},
    "batchtopk": {"k": 3},
    "matryoshka": {"k": 3},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_codes_reconstructions_and_scores_are_those_of_the_whole(kind: str, size: int, tmp_path: Path):
    [d] = sae.fit(SOURCE, kind, n_latents=37, steps=60, batch_size=64, n_scale=256, device="cpu", **KINDS[kind])
    sae.save(d, tmp_path)
    stored = stored_dictionary(tmp_path)
    assert stored is not None and stored.n_latents == 37 and is_divisible(stored.cls)
    batch = SOURCE.batch(0, 500, "test")
    assert SOURCE.truth is not None
    evidence = {"features": SOURCE.truth.directions, "codes": batch.codes}

    def results(one: Dictionary):
        z = one.encode(batch.acts)
        return z, one.decode(z), score(one, batch.acts, **evidence)

    def work(processes: Processes):
        part = stored.load_part(own_latents(37, processes))
        if processes.is_first:
            with over_processes(d, part, processes) as divided:
                assert divided.encode(batch.acts[:6].view(2, 3, -1)).shape == (2, 3, 37)
                return results(divided)
        return answer(part, 37, processes)

    codes, decoded, scores = results(d)
    found, *others = run_as_processes(size, work)
    torch.testing.assert_close(found[0], codes, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1], decoded, rtol=1e-5, atol=1e-5)
    assert found[2] == pytest.approx(scores, abs=1e-4, nan_ok=True)
    assert others == [None] * (size - 1)


def test_a_kind_that_needs_all_latents_is_not_divided():
    from sae.encoders.fista import Fista

    assert not is_divisible(Fista)
