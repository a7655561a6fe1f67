# %% [markdown]
# # A published dictionary, and steering with it
#
# Loads a published dictionary, checks that it fits the model, and steers the model along one latent.
# `python examples/published_sae.py DICTIONARY MODEL HOOK` takes a dictionary in any supported format
# (SAELens, dictionary_learning, sparsify, Gemma Scope, ...), in a folder or on the hub (`hf://owner/name:folder`).
# Without arguments it trains a small one on the story model of the optional test data and saves it in SAELens' format.

# %%
import os
import sys
from pathlib import Path

import torch

import sae
from sae.analysis.edits import steer
from sae.model import Model, load_tokenizer

if len(sys.argv) == 4:
    published, name, hook = sys.argv[1:]
else:
    data = Path(os.environ.get("SAE_TEST_DATA") or "../shared/data")
    published, name, hook = "runs/examples/published", str(data / "models/stories260k"), "blocks.3.hook_resid_post"
    if not Path(name).is_dir():
        print(f"skipped: there is no model at {name}; give a dictionary, a model and a hook point")
        raise SystemExit

model, tokenizer = Model.boot(name), load_tokenizer(name)
text = "Once upon a time, there was a big dog. He was very happy because the sun was warm. "


def rows_of(text: str) -> torch.Tensor:
    return torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])


# %%
if len(sys.argv) != 4:
    stories = (data / "text/tinystories_valid.txt").read_text()[:60_000]
    ids = torch.tensor(tokenizer(stories, add_special_tokens=False, verbose=False)["input_ids"])
    tokens = ids[: len(ids) // 128 * 128].view(-1, 128)
    x = model.activations(tokens, torch.ones_like(tokens).bool(), hook)[:, 1:].flatten(0, 1)
    [trained] = sae.fit(x, kind="relu", n_latents=256, l1=2.0, steps=400, batch_size=512, lr=3e-3)
    sae.save(trained, published, format="saelens")

# %% [markdown]
# `sae.load` detects the format. The card has the information of the file about the dictionary's origin.

# %%
d = sae.load(published)
print(f"{d.kind} of {d.n_latents} latents over {d.d_in} dimensions; card: {d.card}")

# %% [markdown]
# How well the dictionary fits this model. Check this first: a dictionary of other activations, or of a model with
# folded weights, explains no variance.

# %%
tokens = rows_of(text * 4)
acts = model.activations(tokens, torch.ones_like(tokens).bool(), hook)[0, 1:]
s = sae.score(d, acts)
print(f"l0 {s['l0']:.1f}, variance explained {s['explained_variance']:.3f}")
assert s["explained_variance"] > 0.2, "the dictionary does not fit these activations"

# %% [markdown]
# The latent that fires most on one word, and the model's continuation when activations are steered along that latent's
# direction, by multiples of the mean norm of an activation. Positions that training left out stay unchanged: here BOS,
# and the first position of each row.

# %%
prompt, word = "The girl saw a", " dog"
at = tokens[0] == tokenizer(word.strip(), add_special_tokens=False)["input_ids"][-1]
z = d.encode(acts)
latent = int((z[at[1:]].mean(0) - z.mean(0)).argmax())
norm = float(acts.norm(dim=-1).mean())
on_word, mean = float(z[at[1:], latent].mean()), float(z[:, latent].mean())
print(f"latent {latent}: {on_word:.2f} at the end of {word!r}, {mean:.2f} on average")
for times in (0.0, 0.25, 0.5):
    steering = {hook: steer(latent, amount=times * norm)}
    skipped = {"special": [tokenizer.bos_token_id], "drop_first": True}
    with sae.splice(model, {hook: d}, edits=steering, **skipped), torch.no_grad():
        generated = model.bridge.generate(rows_of(prompt), max_new_tokens=12, do_sample=False, verbose=False)
    print(f"{times:4.2f}  {tokenizer.decode(generated[0].tolist(), skip_special_tokens=True)!r}")
