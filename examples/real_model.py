# %% [markdown]
# # A dictionary of a real model, and the effect of its latents
#
# Trains a dictionary on a model, measures how much of the model's loss it preserves, and ablates latents.
# `python examples/real_model.py MODEL_FOLDER TEXT.txt` takes any local Hugging Face folder and any text. Without
# arguments it uses the small story model of the optional test data, and stops with a message if there is none.

# %%
import os
import sys
from pathlib import Path

import torch

import sae
from sae.analysis.attribution import attribute
from sae.analysis.edits import zero
from sae.model import load_tokenizer
from sae.sources.transformer import Config

data = Path(os.environ.get("SAE_TEST_DATA") or "../shared/data")
defaults = [data / "models/stories260k", data / "text/tinystories_valid.txt"]
model_folder, text = sys.argv[1:3] if len(sys.argv) == 3 else map(str, defaults)
if not Path(model_folder).is_dir():
    print(f"skipped: there is no model at {model_folder}; give a Hugging Face folder and a text file")
    raise SystemExit

# %% [markdown]
# Computes shuffled activations of the text at a hook point and stores them; running this cell again does nothing.
# Special tokens are left out, and documents are split into training and held-out ones before anything is computed.

# %%
hook = "blocks.3.hook_resid_post"
config = Config(model=model_folder, text=text, hook=hook, context=128, n_tokens=40_000)
folder = Path("runs/examples/activations")
config.prepare(folder, progress=lambda done, total, unit: None, device="cpu")
source = config.open(folder, device="cpu")

# %% [markdown]
# A TopK dictionary of 256 latents, and the share of the model's cross-entropy that it recovers: 0 for the mean
# activation in place of the reconstruction, 1 for the activations themselves.

# %%
[d] = sae.fit(source, kind="topk", n_latents=256, k=16, steps=500, batch_size=512, lr=3e-3)
s = sae.score(d, source.batch(0, 10_000, "test").acts)
print(f"l0 {s['l0']:.1f}, variance explained {s['explained_variance']:.3f}, dead {s['dead']:.3f}")

site = source.model()
assert site is not None
model, tokenizer, rows = site.model, load_tokenizer(model_folder), site.text[:32]
clean = model.losses(rows)[0].mean()
spliced = model.losses(rows, hook, lambda x: d.decode(d.encode(x)))[0].mean()
mean = source.batch(0, 10_000, "train").acts.mean(0)
without = model.losses(rows, hook, lambda x: mean.expand_as(x))[0].mean()
print(
    f"cross-entropy: {clean:.3f} clean, {spliced:.3f} spliced, {(without - spliced) / (without - clean):.3f} recovered"
)

# %% [markdown]
# Within `sae.splice` the model runs through the dictionary. The reconstruction error is added back, so the
# logits are bit-identical to the model's own until a latent is edited. Positions that the source left out, which the
# dictionary's card names, pass unchanged. Here: the latents that contribute most to the
# next token, by gradient times activation, and the next token without the five strongest.

# %%
prompt = "Once upon a time, there was a little girl named"
tokens = torch.tensor([[tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]])

with sae.splice(model, {hook: d}), torch.no_grad():
    logits = model.bridge(tokens)
with torch.no_grad():
    assert torch.equal(logits, model.bridge(tokens))
predicted = int(logits[0, -1].argmax())

attribution = attribute(model, {hook: d}, tokens, lambda logits: logits.log_softmax(-1)[0, -1, predicted])[hook]
effect = attribution.effect.total()
first = effect.argsort(descending=True)[:5].tolist()
with sae.splice(model, {hook: d}, edits={hook: zero(*first)}), torch.no_grad():
    edited = model.bridge(tokens)
change = (edited.log_softmax(-1) - logits.log_softmax(-1))[0, -1, predicted]
print(f"{prompt!r} -> {tokenizer.decode([predicted])!r}")
print("latents with the largest effect:", {j: round(float(effect[j]), 2) for j in first})
print(f"without them: log-probability {change:+.2f}, then {tokenizer.decode([int(edited[0, -1].argmax())])!r}")
