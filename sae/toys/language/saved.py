"""A trained small language model on disk: a folder that TransformerLens and :func:`sae.model.loading.load_bridge` read.

    config.json, model.safetensors, tokenizer.json, ...   the model, see :mod:`sae.model.native`
    training.json                                         the settings, and how well the model predicts held-out text

During training there are also two states, from the newer of which interrupted training continues; each is written over
the older, so that one is whole whenever the process is killed. None of these files can execute code.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from sae.activations.text import Text
from sae.activations.text_files import local_files
from sae.model.native import WEIGHTS, write_native, write_settings
from sae.numerics.atomic_write import write_atomically
from sae.numerics.memory import check_memory
from sae.numerics.seeds import derive, generator
from sae.numerics.state_files import read_state, write_state
from sae.registry import LocalPath, PathOrId, UserError
from sae.source import ModelSettings, Progress
from sae.toys.language.network import LanguageModelConfig, LanguageNetwork
from sae.toys.language.ngrams import KneserNey
from sae.toys.language.tokens import Streams, TokenizerConfig, make_tokenizer, streams, whole_stream
from sae.toys.language.training import LanguageTraining, LanguageTrainingConfig, stream_losses
from sae.toys.language.widening import WideningConfig, is_trained, widened_state

RECORD, STATES = "training.json", ("state-0.safetensors", "state-1.safetensors")
CHECKPOINT_SECONDS = 20.0
"""The least time between two states on disk."""
N_GRAMS = {"unigram": 1, "bigram": 2, "trigram": 3}
"""The orders of the n-gram models that the model is compared with."""


class TrainedModelConfig(ModelSettings):
    """All settings on which a trained small language model depends."""

    text: PathOrId
    """The file or folder of the text."""
    text_split: str
    """The split of a data set in a folder."""
    column: str
    """The column of records with the documents."""
    separator: str | None
    """The string between the documents of a file of text."""
    heldout_share: float
    """The fraction of documents that the model is not trained on."""
    heldout_text: LocalPath | None
    """A file of other text, on which the model is measured."""
    model: LanguageModelConfig
    """Size and form of the model."""
    tokenizer: TokenizerConfig
    """The tokenizer."""
    training: LanguageTrainingConfig
    """How the model is trained."""
    seed: int = Field(default=0)
    """Seed of the splits, the initial weights, the batches and dropout."""
    widening: WideningConfig | None = None
    """How the model is made from a narrower one, where it is not trained from the start."""
    later: ClassVar[frozenset[str]] = frozenset({"widening"})

    def documents(self) -> Text:
        """The documents of the text."""
        return Text(self.text, None, self.text_split, self.column, self.separator)

    def external_files(self) -> dict[str, Path]:
        files = local_files("text", self.text) | self.tokenizer.external_files()
        files |= self.widening.external_files() if self.widening is not None else {}
        return files if self.heldout_text is None else {**files, "heldout_text": self.heldout_text}

    def train(self, directory: Path, progress: Progress, device: str) -> None:
        """Trains the model and saves it in the directory, unless it is there; continues interrupted training.

        Raises `UserError` where the text is too short for the splits, or memory too small.
        """
        directory.mkdir(parents=True, exist_ok=True)
        if self._is_trained(directory):
            return
        progress(0, self.training.steps, "steps")
        write_settings(directory, self.model.native(0))
        tokenizer = make_tokenizer(self._tokenizer, self.documents(), directory)
        data = streams(self.documents(), tokenizer, self.seed, self.heldout_share)
        self._check(data, len(tokenizer))
        heldout = self._heldout(data, tokenizer)
        loop = self._loop(data, tokenizer, device)
        checkpoints = _Checkpoints(directory, self._fingerprint(data))
        checkpoints.restore(loop)
        for _ in loop.run():
            done = loop.step == self.training.steps
            if (not done and checkpoints.write_if_due(loop)) or loop.step % 20 == 0 or done:
                progress(loop.step, self.training.steps, "steps")
        self._finish(directory, loop, tokenizer, heldout)
        for name in STATES:
            (directory / name).unlink(missing_ok=True)

    @property
    def _tokenizer(self) -> TokenizerConfig:
        return self.tokenizer if self.widening is None else TokenizerConfig(folder=self.widening.of)

    def _loop(self, data: Streams, tokenizer: Any, device: str) -> LanguageTraining:
        """The training, from drawn weights or from those of a narrower model."""
        given = self.model, self.training, data, len(tokenizer), tokenizer.bos_token_id, self.seed, device
        if self.widening is None:
            return LanguageTraining(*given)
        narrow, layer = load_language_network(self.widening.of), self.widening.layer
        random = generator("language", "widening", self.seed)
        start = widened_state(narrow, self.copies(), layer, self.widening.noise, random)
        return LanguageTraining(*given, start=start, trained=partial(is_trained, layer=layer))

    def copies(self) -> int:
        """How many neurons each neuron of the narrower model becomes, 1 without one. Raises `UserError` where there is
        no such model, or this one cannot be made from it."""
        if self.widening is None:
            return 1
        of = self.widening.of
        if not (of / RECORD).is_file():
            raise UserError(f"source.widening.of = '{of}': no trained small language model; train it first")
        return self.widening.copies(LanguageModelConfig(**training_record(of)["settings"]["model"]), self.model)

    def summary(self, directory: Path) -> str:
        record = training_record(directory)
        scores, n = record["scores"], record["heldout_tokens"]
        return (
            f"the model predicts {n:,} held-out tokens with {scores['model']:.3f} nats each, Kneser-Ney trigrams of "
            f"its training text with {scores['trigram']:.3f}"
        )

    def _is_trained(self, directory: Path) -> bool:
        """Whether the model is there. Raises `UserError` for a model of other settings."""
        if not (directory / RECORD).is_file():
            return False
        if training_record(directory)["settings"] != self.model_dump(mode="json"):
            raise UserError(f"{directory}: contains a model with other settings; choose another directory")
        return True

    def _fingerprint(self, data: Streams) -> int:
        """A number of the settings and the tokens, by which a state of other training is told apart."""
        tokens = hashlib.sha256(b"".join(of.tobytes() for of in data.values())).hexdigest()
        return derive(json.dumps(self.model_dump(mode="json")), tokens)

    def _check(self, data: Streams, d_vocab: int) -> None:
        least = 2 * self.model.n_ctx
        for split, found in data.items():
            if len(found) < least:
                raise UserError(
                    f"source.text = {self.text!r}: {len(found)} tokens in the split {split!r}, fewer than two rows of "
                    f"n_ctx = {self.model.n_ctx}; give more text, or raise heldout_share"
                )
        n, rows = self.model.n_parameters(d_vocab), self.training.batch_size * self.model.n_ctx
        # The weights, their gradients and both moments of Adam; what a batch leaves for the backward pass.
        check_memory(f"source.model: {n:,} parameters", 4 * 4 * n)
        width = 12 * self.model.d_model + 4 * self.model.d_mlp
        kept = 4 * rows * (self.model.n_layers * width + 3 * d_vocab)
        check_memory(f"source.training.batch_size = {self.training.batch_size}", kept)

    def _heldout(self, data: Streams, tokenizer: Any) -> tuple[NDArray[np.int32], int]:
        """The tokens that the model is measured on, and the bytes of their text."""
        if self.heldout_text is None:
            return data["test"], len(tokenizer.decode(data["test"].tolist()).encode())
        text = Text(str(self.heldout_text))
        stream = whole_stream(text, tokenizer)
        if len(stream) < 2 * self.model.n_ctx:
            raise UserError(
                f"source.heldout_text = '{self.heldout_text}': {len(stream)} tokens, fewer than two rows of n_ctx = "
                f"{self.model.n_ctx}; give a longer one"
            )
        return stream, sum(len(document.encode()) for document in text.read() if isinstance(document, str))

    def _finish(
        self, directory: Path, loop: LanguageTraining, tokenizer: Any, heldout: tuple[NDArray[np.int32], int]
    ) -> None:
        network, data, (stream, n_bytes) = loop.network, loop.data, heldout
        network.load_state_dict(loop.best)
        scores = heldout_scores(network, data["train"], stream, tokenizer.bos_token_id, self.model.n_ctx)
        facts = {
            "n_parameters": sum(p.numel() for p in network.parameters()),
            "d_vocab": len(tokenizer),
            "tokens": {split: len(of) for split, of in data.items()},
            "heldout_tokens": len(stream),
            "bytes_per_token": n_bytes / len(stream),
            "best_step": loop.best_step,
            "validation_loss": loop.best_loss,
        }
        write_native(directory, self.model.native(len(tokenizer)), network.state_dict())
        record = {"scores": scores, **facts, "settings": self.model_dump(mode="json")}
        write_atomically(directory / RECORD, (json.dumps(record, indent=1) + "\n").encode())


@dataclass
class _Checkpoints:
    """The states of a training on disk, of which there are two."""

    directory: Path
    fingerprint: int
    written: float = field(default_factory=monotonic)
    next: int = 0

    def restore(self, loop: LanguageTraining) -> None:
        """Restores the training to the newer state of the same training; leaves it as it is where there is none."""
        best = -1
        for i, name in enumerate(STATES):
            if not (self.directory / name).is_file():
                continue
            state = read_state(self.directory / name)
            if int(state["of"]) == self.fingerprint and int(state["step"]) > best:
                loop.restore(state)
                best, self.next = loop.step, 1 - i

    def write_if_due(self, loop: LanguageTraining) -> bool:
        """Writes the state some time after the last; returns whether it did."""
        if monotonic() - self.written < CHECKPOINT_SECONDS:
            return False
        write_state(self.directory / STATES[self.next], {**loop.state(), "of": torch.tensor(self.fingerprint)})
        self.next, self.written = 1 - self.next, monotonic()
        return True


def heldout_scores(
    network: LanguageNetwork, train: NDArray[np.int32], stream: NDArray[np.int32], bos: int, n_ctx: int
) -> dict[str, float]:
    """The cross-entropy in nats per token of the model and of n-gram models of its training tokens, on a held-out
    stream without its first two tokens, which no trigram predicts.

    That of the ``model`` is in overlapping rows, where it has at least half a row to predict from, as a trigram always
    has two tokens; ``model_in_rows`` is in rows that follow each other, as activations are computed.
    """
    skip = max(N_GRAMS.values()) - 1
    losses = {
        name: float(stream_losses(network, stream, bos, n_ctx, before)[skip:].double().mean())
        for name, before in (("model", n_ctx // 2), ("model_in_rows", 0))
    }
    d_vocab = network.embed.num_embeddings
    for name, order in N_GRAMS.items():
        of_order = KneserNey(train, order, d_vocab).losses(stream)
        losses[name] = float(of_order[skip + 1 - order :].mean())
    return losses


def training_record(directory: Path) -> dict[str, Any]:
    """What ``training.json`` of a trained model says."""
    return json.loads((directory / RECORD).read_text(encoding="utf-8"))


def load_language_network(directory: Path) -> LanguageNetwork:
    """The trained model in plain torch."""
    record = training_record(directory)
    network = LanguageNetwork(LanguageModelConfig(**record["settings"]["model"]), record["d_vocab"])
    network.load_state_dict(read_state(directory / WEIGHTS))
    return network
