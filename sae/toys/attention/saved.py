"""A trained attention toy on disk: ``model.json`` with settings and scores, and ``model.safetensors``.

During training there is also ``model.partial.safetensors``, from which interrupted training continues. None of these
files can execute code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Int
from pydantic import Field, TypeAdapter
from torch import Tensor

from sae.model.hooked import Model
from sae.numerics.atomic_write import write_atomically
from sae.numerics.seeds import generator
from sae.numerics.state_files import read_state, write_state
from sae.registry import MissingFileError
from sae.source import Progress, Split
from sae.toys.attention.addition import Addition
from sae.toys.attention.names import Names
from sae.toys.attention.network import AttentionModelConfig, Network, bridged
from sae.toys.attention.predictors import predictor_losses
from sae.toys.attention.recent import Recent
from sae.toys.attention.repeats import Repeats
from sae.toys.attention.skip_trigram import SkipTrigram
from sae.toys.attention.task import TokenTask
from sae.toys.attention.training import AttentionTrainingConfig, Training, evaluate, load_network

AnyTask = Annotated[Addition | SkipTrigram | Recent | Repeats | Names, Field(discriminator="kind")]

HEADER, WEIGHTS, PARTIAL = "model.json", "model.safetensors", "model.partial.safetensors"
CHECKPOINT_STEPS = 1000
"""Steps between checkpoints."""
TEST_ROWS = 2000
"""Largest number of held-out rows of each split on which a trained model is measured."""


class Toy(NamedTuple):
    """A trained attention toy with its task and its scores on held-out rows."""

    model: Model
    """The network as a TransformerLens model."""
    network: Network
    """The network in plain torch."""
    task: TokenTask
    """The task that it was trained on."""
    seed: int
    """Seed of the training."""
    scores: Mapping[str, float]
    """The scores of :func:`~sae.toys.attention.training.evaluate` on held-out rows."""
    predictors: Mapping[str, float]
    """The losses of predictors without a network on the same rows, in nats per answer."""


def train_toy(
    directory: Path,
    task: TokenTask,
    model: AttentionModelConfig,
    training: AttentionTrainingConfig,
    seed: int,
    progress: Progress,
    device: str,
) -> None:
    """Trains a model and saves it in the directory, unless it is there already; continues interrupted training."""
    if (directory / HEADER).is_file():
        return
    loop = Training(task, model, training, seed, device)
    if (directory / PARTIAL).is_file():
        loop.restore(read_state(directory / PARTIAL))
    for _ in loop.run():
        if loop.step % CHECKPOINT_STEPS == 0 and loop.step < training.steps:
            write_state(directory / PARTIAL, loop.state())
        if loop.step % 50 == 0 or loop.step == training.steps:
            progress(loop.step, training.steps, "steps")
    rows = held_out(task, seed)
    scores, predictors = evaluate(loop.network, task, rows), predictor_losses(task, seed, rows)
    write_state(directory / WEIGHTS, dict(loop.network.named_parameters()))
    tables = {"task": task, "model": model, "training": training}
    settings = {name: table.model_dump(mode="json") for name, table in tables.items()}
    _record(directory / HEADER, {**settings, "seed": seed, "scores": scores, "predictors": predictors})
    (directory / PARTIAL).unlink(missing_ok=True)


def held_out(task: TokenTask, seed: int) -> Int[Tensor, "rows n_tokens"]:
    """The validation and test rows on which the task's model is measured."""
    splits: tuple[Split, ...] = ("choose", "test")
    return torch.cat([task.batch(seed, s, 0, min(task.limit(s) or TEST_ROWS, TEST_ROWS)) for s in splits])


def load_toy(directory: Path, device: str = "cpu") -> Toy:
    """The trained attention toy in a directory.

    Raises `MissingFileError` if there is none, and `UserError` if its file of weights is damaged.
    """
    file = directory / HEADER
    if not file.is_file():
        raise MissingFileError(f"{file}: no trained attention toy is here; run its config first")
    header = json.loads(file.read_text())
    task: TokenTask = TypeAdapter[Any](AnyTask).validate_python(header["task"])
    network = Network(AttentionModelConfig(**header["model"]), task, generator("attention", "load"))
    load_network(network, read_state(directory / WEIGHTS))
    network.to(device)
    model = bridged(network, f"the {task.name} toy", device)
    return Toy(model, network, task, header["seed"], header["scores"], header["predictors"])


def _record(file: Path, content: Mapping[str, Any]) -> None:
    write_atomically(file, (json.dumps(content, indent=1) + "\n").encode())
