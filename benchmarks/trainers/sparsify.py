"""sparsify (EleutherAI): ``Trainer.fit`` with a model whose only layer returns the batches.

The library trains on a model's activations while the model runs. Here the model is a look-up that takes no time, so
only the library's step is timed: its hook, its sparse coder, its optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.trainers import Setting

REQUIRES = "sparsify"
KINDS = ("topk", "topk-adam")
"""``topk`` has the library's default optimizer, signum; ``topk-adam`` has Adam, as in the other libraries."""


class Layer(nn.Module):
    """Returns a batch of the pool as the activations of one row of tokens."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        super().__init__()
        self.batches = batches

    def forward(self, ids: Tensor) -> Tensor:
        return self.batches[int(ids[0, 0]) % len(self.batches)][None]


class Model(nn.Module):
    """The parts of a transformer that the library's trainer uses."""

    def __init__(self, batches: Sequence[Tensor], device: str) -> None:
        super().__init__()
        self.layer = Layer(batches)
        self.device = torch.device(device)
        self.config = SimpleNamespace(num_hidden_layers=1)
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}

    @property
    def base_model(self) -> nn.Module:
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.layer(input_ids)


class NumberedRows:
    """A data set of the token rows `first` to `n` - 1; every token of a row is the index of the row."""

    def __init__(self, n: int, width: int, first: int = 0) -> None:
        self.n, self.width, self.first = n, width, first

    def __len__(self) -> int:
        return self.n - self.first

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"input_ids": torch.full((self.width,), self.first + i)}

    def select(self, rows: range) -> NumberedRows:
        return NumberedRows(self.n, self.width, rows.start)


class Run:
    """The library's trainer. Each call of ``fit`` gets a longer data set and continues at the last step."""

    stride = 1

    def __init__(self, kind: str, setting: Setting, batches: Sequence[Tensor]) -> None:
        from sparsify import SparseCoderConfig, TrainConfig, Trainer

        class WithoutSaving(Trainer):  # fit() writes a checkpoint at the end
            def save(self) -> None: ...

        optimizer = {"optimizer": "adam"} if kind == "topk-adam" else {}
        coder = SparseCoderConfig(num_latents=setting.n_latents, k=setting.l0)
        config = TrainConfig(
            coder, batch_size=1, hookpoints=["layer"], init_seeds=[setting.seed], log_to_wandb=False, **optimizer
        )
        self.setting, self.batches = setting, batches
        # The number of rows also determines the learning rate schedule.
        self.trainer: Any = WithoutSaving(config, NumberedRows(100_000, setting.batch), Model(batches, setting.device))

    def steps(self, n: int) -> None:
        self.trainer.dataset = NumberedRows(self.trainer.global_step + n, self.setting.batch)
        with redirect_stderr(StringIO()):  # its progress bar cannot be turned off
            self.trainer.fit()

    def l0(self) -> float:
        with torch.no_grad():
            [coder] = self.trainer.saes.values()
            top = coder.encode(self.batches[0]).top_acts
        return float((top > 0).sum(-1).float().mean())


def build(kind: str, setting: Setting, batches: Sequence[Tensor]) -> Run:
    return Run(kind, setting, batches)
