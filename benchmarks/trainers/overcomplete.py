"""overcomplete (Fel): ``train_sae`` on an iterable of batches, with its L1 loss."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.trainers import Setting

REQUIRES = "overcomplete"
KINDS = ("l1",)


class Run:
    """The library's model, loss and loop. Each call of `steps` is one epoch of that many batches."""

    stride = 1

    def __init__(self, setting: Setting, batches: Sequence[Tensor]) -> None:
        give_back_colormaps()
        from overcomplete.sae import SAE, mse_l1, train_sae

        torch.manual_seed(setting.seed)
        self.setting, self.batches, self.step = setting, batches, 0
        self.model = SAE(setting.d_in, setting.n_latents, device=setting.device)
        # Its loss is a mean over coordinates and ours is a sum, hence the division.
        self.loss = partial(mse_l1, penalty=setting.l1 / setting.d_in)
        self.adam = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.train = train_sae

    def steps(self, n: int) -> None:
        batches = [self.batches[(self.step + i) % len(self.batches)] for i in range(n)]
        self.train(self.model, batches, self.loss, self.adam, nb_epochs=1, device=self.setting.device)
        self.step += n

    def l0(self) -> float:
        with torch.no_grad():
            _, codes = self.model.encode(self.batches[0])
        return float((codes > 0).sum(-1).float().mean())


def build(kind: str, setting: Setting, batches: Sequence[Tensor]) -> Run:
    if setting.dtype != "float32":
        warnings.warn(f"overcomplete has no {setting.dtype} mode and runs in float32", stacklevel=2)
    return Run(setting, batches)


def give_back_colormaps() -> None:
    """Restores ``matplotlib.cm.get_cmap``, which the library's plots call on import and matplotlib has removed."""
    import matplotlib as mpl
    import matplotlib.cm

    if not hasattr(matplotlib.cm, "get_cmap"):
        setattr(matplotlib.cm, "get_cmap", mpl.colormaps.__getitem__)  # noqa: B010
