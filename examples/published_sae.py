# %% [markdown]
# # A published dictionary, and steering with it
#
# `python examples/published_sae.py DICTIONARY MODEL HOOK`: the dictionary may lie in any format that is read here
# (SAELens, dictionary_learning, sparsify, Gemma Scope, ...), in a folder or on the hub (`hf://owner/name:folder`).
# Without arguments a small one is trained on the story model of the optional test data and written in SAELens' format,
# to stand in for it.

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
    [mine] = sae.fit(x, kind="relu", n_latents=256, l1=2.0, steps=400, batch_size=512, lr=3e-3)
    sae.save(mine, published, format="saelens")

# %% [markdown]
# One call opens it, whoever wrote it. Its card says what its file said of where it came from.

# %%
d = sae.load(published)
print(f"{d.kind} of {d.n_latents} latents over {d.d_in} dimensions; card: {d.card}")

# %% [markdown]
# How well it fits this model, to be looked at before anything is believed: a dictionary of other activations, or of
# weights that were folded, explains nothing.

# %%
tokens = rows_of(text * 4)
acts = model.activations(tokens, torch.ones_like(tokens).bool(), hook)[0, 1:]
s = sae.score(d, acts)
print(f"l0 {s['l0']:.1f}, variance explained {s['explained_variance']:.3f}")
assert s["explained_variance"] > 0.2, "it does not fit these activations"

# %% [markdown]
# The latent that fires most on one word, and the model's next words as it is pushed along that latent's direction, in
# multiples of the mean length of an activation. Positions that training left out stay alone: here BOS, and the first
# of each row.

# %%
prompt, word = "The girl saw a", " dog"
at = tokens[0] == tokenizer(word.strip(), add_special_tokens=False)["input_ids"][-1]
z = d.encode(acts)
latent = int((z[at[1:]].mean(0) - z.mean(0)).argmax())
length = float(acts.norm(dim=-1).mean())
there, everywhere = float(z[at[1:], latent].mean()), float(z[:, latent].mean())
print(f"latent {latent}: {there:.2f} at the end of {word!r}, {everywhere:.2f} on average")
for times in (0.0, 0.25, 0.5):
    pushed = {hook: steer(latent, amount=times * length)}
    skipped = {"special": [tokenizer.bos_token_id], "drop_first": True}
    with sae.splice(model, {hook: d}, edits=pushed, **skipped), torch.no_grad():
        said = model.bridge.generate(rows_of(prompt), max_new_tokens=12, do_sample=False, verbose=False)
    print(f"{times:4.2f}  {tokenizer.decode(said[0].tolist(), skip_special_tokens=True)!r}")
