"""What is trained, and how it is divided among processes: members first, then latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Literal

from benchmarks.scale.devices import Precision

Kind = Literal["relu", "gated", "jumprelu", "topk", "batchtopk", "matryoshka"]
"""The architectures; a Matryoshka dictionary is over BatchTopK, as with `k` set."""

PARAMETERS: Mapping[str, int] = {"gated": 2, "jumprelu": 1}
"""The numbers that an architecture adds to each latent, where it does."""
OVER_BATCH = ("batchtopk", "matryoshka")
"""The architectures that keep the largest codes of a batch."""
SELECTING = ("topk", *OVER_BATCH)
"""The architectures that keep a number of codes, with an auxiliary loss for dead latents."""
LEVELS = 5
"""The default levels of a Matryoshka dictionary (sae/dictionaries/matryoshka.py)."""
FLOAT = 4
"""Bytes of a number: parameters, moments and what is exchanged are float32."""


@dataclass(frozen=True)
class Setting:
    """Dictionaries of one shape, trained together on the same batches."""

    d_in: int
    """Width of the activations, d."""
    n_latents: int
    """Width of each dictionary, N."""
    batch: int
    """Samples per step over all processes, B."""
    kind: Kind = "relu"
    """The architecture."""
    k: float = 32
    """The mean number of active latents per sample: `k`, or the L0 that the penalty leads to."""
    members: int = 1
    """The number of dictionaries, M."""
    precision: Precision = "float32"
    """The arithmetic of the encoder's product; dense steps of this project are float32 unless TF32 is allowed."""
    dead: bool = False
    """Whether latents are dead, so that the auxiliary loss takes part."""
    model_flops: float = 0.0
    """FLOPs of the model for each token up to the hook point; 0 without a model."""

    @property
    def n_levels(self) -> int:
        """The number of nested reconstructions."""
        return LEVELS if self.kind == "matryoshka" else 1

    @property
    def decodings(self) -> int:
        """The reconstructions of a step of each member: one for each level, and that of the gates."""
        return 2 if self.kind == "gated" else self.n_levels

    @property
    def aux_k(self) -> int:
        """The number of dead latents per sample in the auxiliary loss, where it takes part."""
        return self.d_in // 2 if self.dead and self.kind in SELECTING else 0

    @property
    def one_by_one(self) -> bool:
        """Whether sparse steps process members one by one."""
        return self.n_levels > 1 or self.aux_k > 0


@dataclass(frozen=True)
class Division:
    """How p processes share the work: groups of members, and shards of latents within each group."""

    setting: Setting
    """What is trained."""
    processes: int
    """The number of processes, p, one for each device."""

    @property
    def groups(self) -> int:
        """The number of groups of members, each on as many processes (sae/training/division.py)."""
        return max(n for n in range(1, self.processes + 1) if self.processes % n == 0 and n <= self.setting.members)

    @property
    def shards(self) -> int:
        """The number of processes that share the latents of a member."""
        return self.processes // self.groups

    @property
    def members(self) -> int:
        """The members of a process, at most."""
        return ceil(self.setting.members / self.groups)

    @property
    def latents(self) -> int:
        """The latents of a process, of each of its members, at most: levels are divided one by one."""
        return ceil(self.setting.n_latents / self.shards)

    @property
    def latent_entries(self) -> int:
        """Numbers in one vector over the latents of a process."""
        return self.members * self.latents

    @property
    def matrix_entries(self) -> int:
        """Numbers in one matrix of weights of a process."""
        return self.latent_entries * self.setting.d_in

    @property
    def code_entries(self) -> int:
        """Codes of a process, zeros too."""
        return self.latent_entries * self.setting.batch

    @property
    def sample_entries(self) -> int:
        """Numbers in a batch, and in one reconstruction of it."""
        return self.setting.batch * self.setting.d_in

    @property
    def pairs(self) -> float:
        """Active codes of a process."""
        return self.members * self.setting.batch * self.setting.k * self.latents / self.setting.n_latents
