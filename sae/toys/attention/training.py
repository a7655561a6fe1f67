"""Training of an attention toy: AdamW, a cosine to zero, cross-entropy where answers are defined.

The loop yields after every step and holds nothing but parameters and AdamW's moments; batches are a function of the
step, so that a loop set back to an earlier state goes on bit for bit.
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
    """Settings. An epoch of a task with `n_train` rows is ``n_train / batch_size`` steps."""

    steps: int = Field(default=5000, gt=0)
    batch_size: int = Field(default=256, gt=0)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)


class Training:
    """A network on its way, and the state that it can be set back to."""

    def __init__(
        self, task: TokenTask, model: AttentionModelConfig, config: AttentionTrainingConfig, seed: int, device: str
    ) -> None:
        self.task, self.config, self.seed, self.device = task, config, seed, device
        self.network = Network(model, task, generator("attention", "start", seed)).to(device)
        self.step = 0
        learned = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(learned, config.lr, weight_decay=config.weight_decay)

    def run(self) -> Iterator[float]:
        """Yields the loss of each step, in nats an answer, after it was taken."""
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
        """Everything that the next step depends on."""
        moments = self.optimizer.state_dict()["state"]
        return {
            "step": torch.tensor(self.step),
            **{f"network.{name}": p.detach() for name, p in self.network.named_parameters()},
            **{f"moments.{i}.{name}": value for i, own in moments.items() for name, value in own.items()},
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Sets the training back to a :meth:`state`."""
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
    """Fills a network with parameters of the same names."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(tensors[name])


def answer_loss(
    network: Network, tokens: Int[Tensor, "rows n_tokens"], answers: Int[Tensor, "rows n_tokens"]
) -> Float[Tensor, ""]:
    """The mean cross-entropy over answers; the last layer is computed from the first position that has any."""
    first = int((answers != NOTHING).any(0).int().argmax())
    logits = network(tokens, first)
    return cross_entropy(logits.flatten(0, 1), answers[:, first:].flatten(), ignore_index=NOTHING)


@torch.no_grad()
def evaluate(network: Network, task: TokenTask, tokens: Int[Tensor, "rows n_tokens"]) -> dict[str, float]:
    """On rows of a task: ``loss`` in nats an answer, its ``floor``, which the best predictor reaches, ``accuracy`` of
    answers, ``least`` of the positions' accuracies, and ``exact``, the share of rows with every answer right.

    Positions at which fewer than a hundredth of the rows have an answer have no say in ``least``.
    """
    answers, device = task.answers(tokens), network.W_E.device
    asked = answers != NOTHING
    logits = torch.cat([network(some.to(device)).cpu() for some in tokens.split(_ROWS_AT_ONCE)])
    loss = cross_entropy(logits[asked].double(), answers[asked])
    right = (logits.argmax(-1) == answers) & asked
    often = asked.sum(0) >= max(1, len(tokens) / 100)
    by_position = right.sum(0)[often].double() / asked.sum(0)[often]
    return {
        "loss": float(loss),
        "floor": float(task.floor(tokens)[asked].double().mean()),
        "accuracy": int(right.sum()) / int(asked.sum()),
        "least": float(by_position.min()),
        "exact": float((right | ~asked).all(1).double().mean()),
    }
