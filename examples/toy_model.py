# %% [markdown]
# # Features of a toy model
#
# A network represents five sparse features in two dimensions and learns to arrange them as a pentagon (Elhage et al.
# 2022). A dictionary trained on only those two numbers recovers the five features, with the right penalty. The true
# directions and random ones are scored for comparison. Run it with `python examples/toy_model.py`.

# %%
import torch

import sae
from sae.analysis.geometry.geometry import dimensionality
from sae.baselines import oracle, random
from sae.sources import network

source = network.Config(
    n_features=5,
    network={"hidden": [2]},
    activity={"kind": "independent", "probability": 0.05},
    instances=4,
).build()
truth = source.truth
assert truth is not None

# %% [markdown]
# How the best of the trained networks uses its two dimensions: in a pentagon each feature has 2/5 of a dimension.

# %%
rows = source.truth.directions
print("angles:", torch.atan2(rows[:, 1], rows[:, 0]).rad2deg().round().tolist())
print("dimensions per feature:", " ".join(f"{share:.2f}" for share in dimensionality(rows).tolist()))

# %% [markdown]
# Dictionaries of its activations, with too small a penalty and with a sufficient one; random directions as the lower
# bound, and the true directions (the oracle) as the upper bound.

# %%
settings = {"steps": 3000, "batch_size": 512, "lr": 3e-3, "input_scale": "none", "centre": False}
trained = sae.fit(source, kind="relu", n_latents=5, l1=[0.02, 0.4], seeds=[0, 1], **settings)
named = [(f"l1 = {d.card['training']['l1']}, seed {d.card['training']['seed']}", d) for d in trained]
named += [(f"random, seed {seed}", random.Config(n_latents=5).fit(source, seed)) for seed in range(3)]
named += [("oracle", oracle.Config().fit(source, 0))]

held_out = source.batch(0, 20_000, "test")
for name, d in named:
    s = sae.score(d, held_out.acts, features=truth.directions, codes=held_out.codes)
    print(f"{name:>20}  fvu {s['fvu']:8.4f}  mcc {s['mcc']:.3f}  recovered at .9: {5 * s['recovered_90']:.0f} of 5")
