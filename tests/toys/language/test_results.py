"""A small language model of real text, by the settings of the shipped config at a fraction of its steps: about three
minutes on one core."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.config.config import read_config
from pipelines.config.shipped import SHIPPED
from sae.sources.language import Config
from sae.toys.language.saved import training_record
from tests.streaming import silent

pytestmark = pytest.mark.slow


def test_a_story_model_is_better_than_trigrams(tmp_path: Path, shared_data: Path, shapes_unchecked: None):
    text, heldout = (shared_data / "text" / f"tinystories_{name}.txt" for name in ("train", "valid"))
    changes = [f"source.text={text}", f"source.heldout_text={heldout}", "source.training.steps=2500"]
    [source] = read_config(SHIPPED / "language" / "stories-1l.toml", changes).sources
    assert isinstance(source, Config)
    source.model_settings.train(tmp_path, silent, "cpu")
    scores = training_record(tmp_path)["scores"]
    assert scores["trigram"] == pytest.approx(2.4373, abs=1e-3)
    assert scores["unigram"] > scores["bigram"] > scores["trigram"] > scores["model"]
