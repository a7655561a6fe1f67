"""Training of a small language model: AdamW on the next token, and the best of its states by a held-out share.

The loop yields after every step. Batches and dropout are functions of the step, and the state holds all that the next
step depends on, so a loop that is restored to an earlier state continues bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from sae.numerics.schedules import trapezoid
from sae.numerics.seeds import derive, epoch_rows, generator
from sae.registry import Settings, UserError
from sae.toys.language.network import WHOLE, Dropout, LanguageModelConfig, LanguageNetwork
from sae.toys.language.tokens import Streams

_ROWS_AT_ONCE = 64
LARGEST_GRADIENT = 1.0
"""Gradients of a greater norm are scaled down to it."""


class LanguageTrainingConfig(Settings):
    """Settings of the training of a small language model."""

    steps: int = Field(default=4000, gt=0)
    """Training steps."""
    batch_size: int = Field(default=32, gt=0)
    """Rows of tokens per step."""
    lr: float = Field(default=2e-3, gt=0)
    """The highest learning rate."""
    warm_up: float = Field(default=0.05, ge=0, lt=1)
    """The fraction of the steps over which the learning rate rises from 0."""
    decay: float = Field(default=0.5, ge=0, le=1)
    """The fraction of the steps over which the learning rate falls to 0 at the end."""
    weight_decay: float = Field(default=0.1, ge=0)
    """AdamW's weight decay, of matrices only."""
    mlp_dropout: float = Field(default=0.0, ge=0, lt=1)
    """The fraction of the neurons that is set to 0 in training."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """The fraction of the values of embeddings, and of what layers write to the residual stream, that is set to 0 in
    training."""
    measure_every: int = Field(default=250, gt=0)
    """Steps between two measurements on the validation split; the best of the measured states is kept."""

    @model_validator(mode="after")
    def _phases(self) -> LanguageTrainingConfig:
        if self.warm_up + self.decay > 1:
            raise UserError(f"warm_up + decay = {self.warm_up + self.decay:g}: more than all steps; lower one of them")
        return self


def _every(_name: str) -> bool:
    return True


class LanguageTraining:
    """A network in training, with a state that can be saved and restored."""

    def __init__(
        self,
        model: LanguageModelConfig,
        config: LanguageTrainingConfig,
        data: Streams,
        d_vocab: int,
        bos: int,
        seed: int,
        device: str,
        start: Mapping[str, Tensor] | None = None,
        trained: Callable[[str], bool] = _every,
    ) -> None:
        """`start`: the initial parameters, where they are not drawn. `trained`: whether a parameter is trained, by its
        name."""
        self.config, self.data, self.bos, self.seed, self.device = config, data, bos, seed, device
        self.n_ctx = model.n_ctx
        self.network = LanguageNetwork(model, d_vocab).draw(generator("language", "start", seed)).to(device)
        if start is not None:
            self.network.load_state_dict(start)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(trained(name))
        self.step, self.best_step, self.best_loss = 0, 0, math.inf
        self.best = self._weights()
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        matrices, others = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim == 1]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, config.lr, betas=(0.9, 0.99))

    def run(self) -> Iterator[float]:
        """Trains, and yields the loss of each step in nats per token after the step is made."""
        config = self.config
        while self.step < config.steps:
            for group in self.optimizer.param_groups:
                group["lr"] = config.lr * trapezoid(self.step, config.steps, config.warm_up, config.decay)
            tokens = self.batch(self.step).to(self.device)
            logits = self.network(tokens[:, :-1], self._dropout())
            loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
            self.optimizer.step()
            self.step += 1
            if self.step % config.measure_every == 0 or self.step == config.steps:
                self._measure()
            yield float(loss.detach())

    def batch(self, step: int) -> Int[Tensor, "rows n_tokens"]:
        """The rows of a step: BOS, then ``n_ctx`` tokens of the training split.

        In every epoch the stream is cut into rows at another offset, and each row is seen once.
        """
        stream, n, size = self.data["train"], self.n_ctx, self.config.batch_size
        n_rows = len(stream) // n - 1
        epochs = np.arange(step * size, (step + 1) * size) // n_rows
        offsets = np.array([derive("language", "offset", self.seed, int(e)) % n for e in epochs])
        starts = epoch_rows(step, size, n_rows, self.seed) * n + offsets
        return _with_bos(stream[starts[:, None] + np.arange(n)], self.bos)

    def _dropout(self) -> Dropout:
        random = torch.Generator(self.device).manual_seed(derive("language", "dropout", self.seed, self.step))

        def of(share: float) -> Callable[[Tensor], Tensor]:
            return lambda x: x * kept_at_random(x, share, random)

        neurons, stream = self.config.mlp_dropout, self.config.dropout
        return Dropout(of(neurons) if neurons else WHOLE.neurons, of(stream) if stream else WHOLE.stream)

    def _measure(self) -> None:
        loss = float(stream_losses(self.network, self.data["choose"], self.bos, self.n_ctx).mean())
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.best = loss, self.step, self._weights()

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach().cpu().clone() for name, p in self.network.named_parameters()}

    def state(self) -> dict[str, Tensor]:
        """The tensors that the next steps depend on."""
        moments = self.optimizer.state_dict()["state"]
        return {
            "step": torch.tensor(self.step),
            "best_step": torch.tensor(self.best_step),
            "best_loss": torch.tensor(self.best_loss, dtype=torch.float64),
            **{f"best.{name}": value for name, value in self.best.items()},
            **{f"network.{name}": value for name, value in self._weights().items()},
            **{f"moments.{i}.{name}": v.detach().cpu() for i, of in moments.items() for name, v in of.items()},
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restores the training to a :meth:`state`."""
        self.step, self.best_step = int(state["step"]), int(state["best_step"])
        self.best_loss = float(state["best_loss"])
        self.best = {name: state[f"best.{name}"].clone() for name in self.best}
        moments: dict[int, dict[str, Tensor]] = {}
        for path, value in state.items():
            if path.startswith("moments."):
                _, i, name = path.split(".")
                moments.setdefault(int(i), {})[name] = value
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                parameter.copy_(state[f"network.{name}"])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})


def kept_at_random(x: Tensor, share: float, random: torch.Generator) -> Tensor:
    """A factor for every value of `x`: 0 for a `share` of them, rounded to 1 / 65,536, and for the others that by which
    the mean stays what it is. Four values come from one number of 64 bits, in a quarter of the time of one each."""
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(
        -(2**63), None, generator=random
    )
    dropped = round(share * 2**16)
    kept = numbers.view(torch.int16)[: x.numel()] >= dropped - 2**15
    return kept.view(x.shape).to(x.dtype).mul_(2**16 / (2**16 - dropped))


@torch.no_grad()
def stream_losses(
    network: LanguageNetwork, stream: NDArray[np.int32], bos: int, n_ctx: int, before: int = 0
) -> Float[Tensor, " n_tokens"]:
    """The cross-entropy in nats of every token of a stream, in rows of ``n_ctx`` tokens after a BOS.

    Without `before`, rows follow each other, so that the first tokens of each are predicted from few others. With it,
    rows overlap: all tokens but those of the first row are predicted from at least `before` others.
    """
    device, new = network.embed.weight.device, n_ctx - before
    n_rows = max(1, -(-(len(stream) - before) // new))
    places = np.arange(n_rows)[:, None] * new + np.arange(n_ctx)
    rows = stream[np.minimum(places, len(stream) - 1)]
    losses = torch.empty(n_rows, n_ctx)
    for at, tokens in zip(losses.split(_ROWS_AT_ONCE), _with_bos(rows, bos).split(_ROWS_AT_ONCE), strict=True):
        tokens = tokens.to(device)
        logits = network(tokens[:, :-1])
        at.copy_(cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(at.shape))
    return torch.cat([losses[0, :before], losses[:, before:].flatten()])[: len(stream)]


def _with_bos(rows: NDArray[np.int32], bos: int) -> Int[Tensor, "rows n_tokens"]:
    return torch.from_numpy(np.concatenate([np.full((len(rows), 1), bos), rows], 1).astype(np.int64))
