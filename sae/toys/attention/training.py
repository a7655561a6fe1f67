"""Training of an attention toy: AdamW with a cosine schedule to zero, on the cross-entropy of defined answers.

The loop yields after every step. Its state is the parameters and AdamW's moments, and batches are a function of the
step, so a loop that is restored to an earlier state continues bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from sae.model.token_rows import NOTHING
from sae.numerics.schedules import cosine
from sae.numerics.seeds import generator
from sae.registry import Settings
from sae.toys.attention.network import AttentionModelConfig, Network
from sae.toys.attention.task import TokenTask

_ROWS_AT_ONCE = 1024


class AttentionTrainingConfig(Settings):
    """Settings of the training of an attention toy."""

    steps: int = Field(default=5000, gt=0)
    """Training steps; an epoch of a task with `n_train` rows is ``n_train / batch_size`` steps."""
    batch_size: int = Field(default=256, gt=0)
    """Rows of tokens per step."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of the first step."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's weight decay."""


class Training:
    """A network in training, with a state that can be saved and restored."""

    def __init__(
        self, task: TokenTask, model: AttentionModelConfig, config: AttentionTrainingConfig, seed: int, device: str
    ) -> None:
        self.task, self.config, self.seed, self.device = task, config, seed, device
        self.network = Network(model, task, generator("attention", "start", seed)).to(device)
        self.step = 0
        learned = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(learned, config.lr, weight_decay=config.weight_decay)

    def run(self) -> Iterator[float]:
        """Trains, and yields the loss of each step in nats per answer after the step is made."""
        while self.step < self.config.steps:
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.lr * cosine(self.step, self.config.steps)
            tokens = self.task.batch(self.seed, "train", self.step, self.config.batch_size)
            loss = answer_loss(self.network, tokens.to(self.device), self.task.answers(tokens).to(self.device))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.step += 1
            yield float(loss.detach())

    def state(self) -> dict[str, Tensor]:
        """The tensors that the next step depends on."""
        moments = self.optimizer.state_dict()["state"]
        return {
            "step": torch.tensor(self.step),
            **{f"network.{name}": p.detach() for name, p in self.network.named_parameters()},
            **{f"moments.{i}.{name}": value for i, of_one in moments.items() for name, value in of_one.items()},
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restores the training to a :meth:`state`."""
        self.step = int(state["step"])
        names = [name for name in state if name.startswith("network.")]
        load_network(self.network, {name.removeprefix("network."): state[name] for name in names})
        moments: dict[int, dict[str, Tensor]] = {}
        for path, value in state.items():
            if path.startswith("moments."):
                _, i, name = path.split(".")
                moments.setdefault(int(i), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})


def load_network(network: Network, tensors: Mapping[str, Tensor]) -> None:
    """Copies tensors into the network's parameters of the same names."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(tensors[name])


def answer_loss(
    network: Network, tokens: Int[Tensor, "rows n_tokens"], answers: Int[Tensor, "rows n_tokens"]
) -> Float[Tensor, ""]:
    """The mean cross-entropy over answers; the last layer starts at the first position with an answer."""
    first = int((answers != NOTHING).any(0).int().argmax())
    logits = network(tokens, first)
    return cross_entropy(logits.flatten(0, 1), answers[:, first:].flatten(), ignore_index=NOTHING)


@torch.no_grad()
def evaluate(network: Network, task: TokenTask, tokens: Int[Tensor, "rows n_tokens"]) -> dict[str, float]:
    """Scores of a network on rows of a task.

    They are the ``loss`` in nats per answer, its ``floor``, the loss of the best possible predictor, the ``accuracy``
    of answers, ``least``, the lowest accuracy of a position, and ``exact``, the share of rows with all answers right.
    ``least`` leaves out positions at which fewer than a hundredth of the rows have an answer.
    """
    answers, device = task.answers(tokens), network.W_E.device
    has_answer = answers != NOTHING
    logits = torch.cat([network(part.to(device)).cpu() for part in tokens.split(_ROWS_AT_ONCE)])
    loss = cross_entropy(logits[has_answer].double(), answers[has_answer])
    right = (logits.argmax(-1) == answers) & has_answer
    frequent = has_answer.sum(0) >= max(1, len(tokens) / 100)
    by_position = right.sum(0)[frequent].double() / has_answer.sum(0)[frequent]
    return {
        "loss": float(loss),
        "floor": float(task.floor(tokens)[has_answer].double().mean()),
        "accuracy": int(right.sum()) / int(has_answer.sum()),
        "least": float(by_position.min()),
        "exact": float((right | ~has_answer).all(1).double().mean()),
    }
