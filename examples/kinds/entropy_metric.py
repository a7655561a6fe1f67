"""A metric of your own: how evenly latents share the firing.

`metrics = ["entropy"]` under [score] in a config with `--plugin entropy_metric.py`, or
`sae.score(d, x, metrics=[EntropyConfig()])`.

H = -sum_j p_j log p_j / log n_latents,    p_j the share of all firings that are of latent j;  1: all fire alike
"""

import math
from typing import Literal

from sae.metric import Case, MetricConfig, Scores


class EntropyConfig(MetricConfig):
    kind: Literal["entropy"] = "entropy"
    by_default = False

    def score(self, case: Case) -> Scores:
        firings = (case.test_codes > 0).double().sum(0)
        p = firings / firings.sum()
        entropy = -(p * p.clamp_min(1e-300).log()).sum() / math.log(max(2, len(p)))
        return Scores({"firing_entropy": float(entropy)}, {"share": p.float()})
