"""Sparse autoencoders from a config to a scored dictionary.

d = sae.load("path"); z = d.encode(x); x_hat = d.decode(z)
sae.save(d, "path"); sae.convert("in", "out", format="saelens"); sae.push(d, "owner/name")
ds = sae.fit(x, kind="relu", n_latents=512, l1=[.05, .1], seeds=[0, 1], steps=2000, batch_size=256)
r = sae.refine(ds[0], x); e = r.with_encoder("threshold", x, layer="learned")
s = sae.score(ds[0], x, features=F, codes=C, labels=y)
sae.register(MyConfig); ds = sae.fit(x, MyConfig(n_latents=512))
with sae.splice(model, {"blocks.3.hook_resid_post": d}, edits={"blocks.3.hook_resid_post": zero(17)}): ...
"""

from sae.analysis.intervention.splicing import splice
from sae.dictionary import Dictionary
from sae.files import convert, load, push, save
from sae.fitting import fit
from sae.refinement import refine
from sae.registry import UserError, declare_interfaces, load_plugin, register
from sae.scoring import score
from sae.source import Batch, Source, Truth

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Dictionary",
    "Source",
    "Truth",
    "UserError",
    "convert",
    "fit",
    "load",
    "load_plugin",
    "push",
    "refine",
    "register",
    "save",
    "score",
    "splice",
]

# Told from above, so that no module below names a folder of kinds.
declare_interfaces({name: f"sae.{name}" for name in ("sources", "dictionaries", "encoders", "baselines", "metrics")})
