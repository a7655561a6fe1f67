"""A baseline of your own: directions between random pairs of samples.

`kinds = ["differences"]` under [baselines] in a config with `--plugin differences_baseline.py`.
"""

from typing import Literal

import torch

from sae.baseline import BaselineConfig, training_rows
from sae.dictionaries.relu import Relu
from sae.numerics.fit_cost import FitCost
from sae.numerics.seeds import generator
from sae.source import Source


class DifferencesConfig(BaselineConfig):
    kind: Literal["differences"] = "differences"
    n_latents: int = 64
    n_samples: int = 4096

    def fit(self, source: Source, seed: int) -> Relu:
        x = training_rows(source, self.n_samples, seed)
        pairs = torch.randint(len(x), (2, self.n_latents), generator=generator("differences", seed))
        directions = torch.nn.functional.normalize(x[pairs[0]] - x[pairs[1]] + 1e-9, dim=-1)
        cost = FitCost.training(len(x), directions.numel(), source.n_rows["train"])
        return Relu.tied(directions).with_card(**cost.card_entry())
