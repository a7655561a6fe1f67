"""Studies of open questions on small language models that are trained here: each trains models and compares a measured
value with what was expected.

There is one file per family. Every public generator function in these files is a study: it is given the `Models`, and
yields facts.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.lines import note
from benchmarks.studies import Fact, generators
from sae.activations.corpus import PositionSelection
from sae.activations.text import Text
from sae.analysis.units.monosemantic import ANY, TopExamples, UnitAgreement, monosemantic_units
from sae.model.hooked import Model
from sae.model.loading import load_tokenizer
from sae.model.native import write_native
from sae.model.token_rows import NOTHING, TokenRows
from sae.numerics.seeds import generator
from sae.toys.language.network import LanguageNetwork
from sae.toys.language.saved import TrainedModelConfig, load_language_network, training_record
from sae.toys.language.tokens import Streams, streams, whole_stream
from sae.toys.language.widening import WideningConfig

FORM: dict[str, Any] = {
    "n_layers": 1,
    "d_model": 128,
    "n_heads": 4,
    "mlp_ratio": 4,
    "positions": "rotary",
    "n_ctx": 128,
}
"""The form of every model, where a study does not say otherwise."""
TRAINING: dict[str, Any] = {
    "steps": 3000, "batch_size": 8, "lr": 5e-3, "decay": 0.7, "mlp_dropout": 0.2, "dropout": 0.05
}  # fmt: skip
"""How every model is trained, where a study does not say otherwise: for two minutes on one core, less than is best."""
N_TOKENS = 512
"""Tokens of the vocabulary."""
HELDOUT_ROWS = 1000
"""Rows of held-out text that units are judged on, 127,000 tokens."""


@dataclass(frozen=True)
class Trained:
    """A trained model."""

    folder: Path
    settings: TrainedModelConfig

    @cached_property
    def scores(self) -> dict[str, float]:
        """Nats per held-out token, of the model and of n-grams of its text."""
        return training_record(self.folder)["scores"]

    def network(self) -> LanguageNetwork:
        """The model in plain torch."""
        return load_language_network(self.folder)

    def model(self) -> Model:
        """The model as hooked by TransformerLens."""
        return Model.boot(str(self.folder))

    def untrained(self) -> LanguageNetwork:
        """A model of the same form with drawn weights, for comparison."""
        return LanguageNetwork(self.settings.model, len(self.tokenizer)).draw(generator("untrained", 0))

    def untrained_model(self) -> Model:
        """The same as hooked by TransformerLens."""
        with TemporaryDirectory() as folder:
            shutil.copytree(self.folder, folder, dirs_exist_ok=True)
            native = self.settings.model.native(len(self.tokenizer))
            write_native(Path(folder), native, self.untrained().state_dict())
            return Model.boot(folder)

    @property
    def bos(self) -> int:
        """The token that begins rows."""
        return int(self.tokenizer.bos_token_id)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return load_tokenizer(str(self.folder))

    def heldout(self) -> NDArray[np.int32]:
        """The tokens of the held-out text."""
        return _heldout(self.folder)

    def streams(self) -> Streams:
        """The tokens that the model was trained on, and those of the held-out documents of the same text."""
        return _streams(self.folder)

    def rows(self, n: int, split: str = "heldout") -> TokenRows:
        """At most `n` rows of BOS and ``n_ctx - 1`` tokens, of the held-out text or of the text that the model was
        trained on (``train``)."""
        stream = self.heldout() if split == "heldout" else self.streams()["train"]
        width = self.settings.model.n_ctx - 1
        n = min(n, len(stream) // width)
        tokens = torch.from_numpy(stream[: n * width].reshape(n, width).astype("int64"))
        tokens = torch.cat([torch.full((n, 1), self.bos), tokens], 1)
        return PositionSelection.of(self.tokenizer, True)(tokens)


@dataclass(frozen=True)
class Models:
    """The text, and a folder in which trained models are kept."""

    text: Path
    """The text that models are trained on."""
    heldout: Path
    """Another text, on which they are measured."""
    out: Path
    """The folder of trained models, each under a hash of its settings."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Settings of training in place of :data:`TRAINING`, for short trials."""

    def config(
        self,
        form: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        seed: int = 0,
        widening: WideningConfig | None = None,
    ) -> TrainedModelConfig:
        """The settings of a model; `form` and `training` replace single ones of :data:`FORM` and :data:`TRAINING`."""
        return TrainedModelConfig(
            text=str(self.text), text_split="train", column="text", separator=None, heldout_share=0.1,
            heldout_text=self.heldout, model={**FORM, **(form or {})},  # pyright: ignore[reportArgumentType]
            tokenizer={"n_tokens": N_TOKENS},  # pyright: ignore[reportArgumentType]
            training={**TRAINING, **(training or {}), **self.training},  # pyright: ignore[reportArgumentType]
            seed=seed, widening=widening,
        )  # fmt: skip

    def trained(
        self,
        form: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        seed: int = 0,
        widening: WideningConfig | None = None,
    ) -> Trained:
        """A trained model, from the folder of earlier ones where it is there."""
        config = self.config(form, training, seed, widening)
        folder = self.folder("model", config.model_dump(mode="json"))
        config.train(folder, _progress, "cpu")
        return Trained(folder, config)

    def folder(self, name: str, settings: Any) -> Path:
        """The folder of what has these settings."""
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return self.out / f"{name}-{digest[:12]}"


Study = Callable[[Models], Iterator[Fact]]


def studies() -> dict[str, Study]:
    """All studies by name, in order of the families."""
    return generators("benchmarks.small_models")


Units = Mapping[str, tuple[int, Callable[[Tensor], Tensor]]]
"""Kinds of units by name: how many there are, and their values from the neurons' ``[rows, n_neurons]``."""


@torch.no_grad()
def monosemantic(network: LanguageNetwork, rows: TokenRows, units: Units, layer: int = 0) -> dict[str, UnitAgreement]:
    """For each kind of units made of a layer's neurons: those whose ten strongest examples agree on the token, the next
    or the one before, and how many would by chance."""
    padded = torch.nn.functional.pad(rows.tokens, (1, 1), value=NOTHING)
    row, position = rows.kept.nonzero(as_tuple=True)
    known = {name: padded[row, position + 1 + by] for name, by in (("token", 0), ("next", 1), ("before", -1))}
    found = strongest(network, rows, units, layer)
    return {name: monosemantic_units(top, known)[ANY] for name, top in found.items()}


def strongest(network: LanguageNetwork, rows: TokenRows, units: Units, layer: int = 0) -> dict[str, TopExamples]:
    """The ten strongest examples, by their numbers among the kept positions, of each kind of units made of a layer's
    neurons."""
    top, row, at = {name: TopExamples(10, n) for name, (n, _) in units.items()}, rows.kept.nonzero()[:, 0], 0
    for x in neuron_values(network, rows, layer):
        chosen = torch.arange(at, at + len(x))
        for name, (_, values) in units.items():
            top[name].add(values(x), chosen, row[chosen])
        at += len(x)
    return top


def neuron_values(
    network: LanguageNetwork, rows: TokenRows, layer: int = 0, rows_at_once: int = 16
) -> Iterator[Float[Tensor, "kept n_neurons"]]:
    """The values that a layer's output weights are applied to, at the kept positions, a few rows at a time."""
    block: Any = network.blocks[layer]
    return inputs_of(block.mlp.out, network, rows, rows_at_once)


@torch.no_grad()
def inputs_of(
    module: nn.Module, network: LanguageNetwork, rows: TokenRows, rows_at_once: int
) -> Iterator[Float[Tensor, "kept width"]]:
    """What a module of the network is applied to, at the kept positions, a few rows at a time."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    try:
        for start in range(0, len(rows), rows_at_once):
            part = rows[start : start + rows_at_once]
            network(part.tokens)
            yield seen.pop()[part.kept]
    finally:
        handle.remove()


def tokens_of(rows: TokenRows) -> Int[Tensor, " kept"]:
    """The tokens at the kept positions."""
    return rows.tokens[rows.kept]


@lru_cache(4)
def _heldout(folder: Path) -> NDArray[np.int32]:
    settings = training_record(folder)["settings"]
    return whole_stream(Text(settings["heldout_text"]), load_tokenizer(str(folder)))


@lru_cache(4)
def _streams(folder: Path) -> Streams:
    settings = TrainedModelConfig(**training_record(folder)["settings"])
    return streams(settings.documents(), load_tokenizer(str(folder)), settings.seed, settings.heldout_share)


def _progress(done: int, of: int, unit: str) -> None:
    if done and (done % 1000 == 0 or done == of):
        note(f"{done}/{of} {unit}")
