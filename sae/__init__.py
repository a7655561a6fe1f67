"""Sparse autoencoders from a config to a scored dictionary.

d = sae.load("path"); z = d.encode(x); x_hat = d.decode(z)
sae.save(d, "path"); sae.convert("in", "out", format="saelens"); sae.push(d, "owner/name")
ds = sae.fit(x, kind="relu", n_latents=512, l1=[.05, .1], seeds=[0, 1], steps=2000, batch_size=256)
ds = sae.fit(x, sae.topk(n_latents=512, k=16), train=sae.TrainConfig(steps=2000))
r = sae.refine(ds[0], x); e = r.with_encoder("threshold", x, layer="learned")
s = sae.score(ds[0], x, features=F, codes=C, labels=y)
sae.register(MyConfig); ds = sae.fit(x, MyConfig(n_latents=512))
sae.tokens(model, "a text"); sae.top_examples(model, d, 7, texts=texts); sae.top_examples(source, d, 7)
r = sae.run("demo"); r.scores; r.best; r.figures()["l0-mcc"]; r.report
with sae.splice(model, {"blocks.3.hook_resid_post": d}, edits={"blocks.3.hook_resid_post": zero(17)}): ...
"""

from typing import TYPE_CHECKING, Any

from sae.dictionary import Dictionary
from sae.files import convert, load, push, save
from sae.fitting import fit
from sae.refinement import refine
from sae.registry import UserError, declare_interfaces, load_plugin, register
from sae.scoring import score
from sae.source import Batch, Source, Truth
from sae.training.config import TrainConfig

if TYPE_CHECKING:
    from pipelines.commands.calls import bench as bench
    from pipelines.commands.calls import run as run
    from sae.analysis.intervention.splicing import splice as splice
    from sae.analysis.latents.given_text import tokens as tokens
    from sae.analysis.latents.strongest import top_examples as top_examples
    from sae.dictionaries.batchtopk import Config as batchtopk
    from sae.dictionaries.gated import Config as gated
    from sae.dictionaries.jumprelu import Config as jumprelu
    from sae.dictionaries.matching_pursuit import Config as matching_pursuit
    from sae.dictionaries.matryoshka import Config as matryoshka
    from sae.dictionaries.relu import Config as relu
    from sae.dictionaries.topk import Config as topk
    from sae.dictionaries.unrolled import Config as unrolled

__version__ = "0.1.0"

_TRAINED_KINDS = ("batchtopk", "gated", "jumprelu", "matching_pursuit", "matryoshka", "relu", "topk", "unrolled")
_LATER = {
    **{kind: (f"sae.dictionaries.{kind}", "Config") for kind in _TRAINED_KINDS},
    "splice": ("sae.analysis.intervention.splicing", "splice"),
    "tokens": ("sae.analysis.latents.given_text", "tokens"),
    "top_examples": ("sae.analysis.latents.strongest", "top_examples"),
    # The one place that reaches above the library: `sae.run` is the name that users look for, and nothing below this
    # file may use it. The import contract names this exception.
    "bench": ("pipelines.commands.calls", "bench"),
    "run": ("pipelines.commands.calls", "run"),
}
"""Public names with their modules and the names there, imported on first use so that `import sae` stays light."""

__all__ = [
    "Batch",
    "Dictionary",
    "Source",
    "TrainConfig",
    "Truth",
    "UserError",
    "batchtopk",
    "bench",
    "convert",
    "fit",
    "gated",
    "jumprelu",
    "load",
    "load_plugin",
    "matching_pursuit",
    "matryoshka",
    "push",
    "refine",
    "register",
    "relu",
    "run",
    "save",
    "score",
    "splice",
    "tokens",
    "top_examples",
    "topk",
    "unrolled",
]

# Told from above, so that no module below names a folder of kinds.
declare_interfaces({name: f"sae.{name}" for name in ("sources", "dictionaries", "encoders", "baselines", "metrics")})


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'sae' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _LATER[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
