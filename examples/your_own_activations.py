# %% [markdown]
# # Dictionaries of activations that you already have
#
# Trains dictionaries on a matrix of activations. Here the matrix is drawn from known features, so that the
# last cell can check whether they were found; replace it with yours. Run it with
# `python examples/your_own_activations.py`.

# %%
import torch

import sae

generator = torch.Generator().manual_seed(0)
features = torch.nn.functional.normalize(torch.randn(48, 24, generator=generator), dim=-1)
codes = (torch.rand(30_000, 48, generator=generator) < 0.04) * torch.rand(30_000, 48, generator=generator)
x = codes @ features  # [n_samples, d_in]: 48 features in 24 dimensions

train, held_out = x[:24_000], x[24_000:]

# %% [markdown]
# One call trains a sweep over the penalty, with two seeds each, as one stack on the same batches. Settings belong to
# the dictionary kind (`l1`) or to the training loop (`steps`, `lr`); an unknown one is an error.

# %%
dictionaries = sae.fit(
    train, kind="relu", n_latents=64, l1=[0.1, 1.0, 10.0], seeds=[0, 1], steps=1000, batch_size=256, lr=3e-3
)

# %% [markdown]
# Scores on held-out samples. `l0` and `fvu`, the fraction of variance unexplained, need no known features; `mcc`, the
# mean cosine of features and latents matched one to one, does.

# %%
print(f"{'l1':>5} {'seed':>5} {'l0':>6} {'fvu':>7} {'mcc':>7}")
mcc: dict[float, list[float]] = {}
for d in dictionaries:
    s = sae.score(d, held_out, features=features, codes=codes[24_000:])
    l1, seed = d.card["training"]["l1"], d.card["training"]["seed"]
    print(f"{l1:5} {seed:5} {s['l0']:6.2f} {s['fvu']:7.4f} {s['mcc']:7.3f}")
    mcc.setdefault(l1, []).append(s["mcc"])

best = max(mcc, key=lambda l1: min(mcc[l1]))
print(f"\nl1 = {best} finds the features; the best reconstruction does not.")

# %% [markdown]
# A dictionary has directions and codes in units of the raw activations, and is saved as a folder.

# %%
d = dictionaries[[0.1, 1.0, 10.0].index(best) * 2]
z = d.encode(held_out)  # [n_samples, n_latents]
x_hat = d.decode(z)  # [n_samples, d_in]
nearest = (d.W_dec @ features.T).max(0)
print(f"{int((nearest.values > 0.9).sum())} of 48 features have a latent with a cosine above .9")

sae.save(d, "runs/examples/own")
assert torch.equal(sae.load("runs/examples/own").encode(held_out), z)
