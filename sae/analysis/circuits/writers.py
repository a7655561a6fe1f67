"""The components that write to a residual stream, and whether their outputs are what the stream gains.

    stream after a layer - stream before it = outputs of its components + a constant

holds on every token for the heads ``z_h W_O,h`` and the MLP of most models. It does not where a norm follows the
attention (Gemma 2 and 3, OLMo 2): there the components are the whole attention and the MLP, both after their norms.
Where a norm rescales the stream itself (BERT, the OPT models that normalise after a layer), no component writes its
output. The equation is tested on text, so that nothing has to be known of an architecture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae.model.hooked import Model
from sae.model.parts import block_of, head_weights, n_heads, parts_of, stack_of, z_of
from sae.model.token_rows import TokenRows

_TOLERANCE = 0.02
"""The largest share of a layer's change of the stream, by length, that may come from elsewhere."""
_ROWS, _TOKENS = 4, 16
_NAMES = {"mlp": "MLP", "attn": "attention"}


@dataclass(frozen=True, eq=False)
class Writer:
    """A component whose output is added to the residual stream."""

    name: str
    """Its name, such as ``head 0.1`` or ``0 MLP``."""
    hook: str
    """The hook point that it is read from."""
    columns: slice | None = None
    """The columns of the activation that are the component's; None: all."""
    W: Float[Tensor, "d_head d_model"] | None = None
    """The matrix from those columns to the stream; None if they are added as they are."""

    def selected(self, acts: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_head"]:
        """The component's part of the activations at its hook point."""
        return acts if self.columns is None else acts[..., self.columns]

    def written(self, acts: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_model"]:
        """What the component adds to the stream, from the activations at its hook point."""
        return self.selected(acts) if self.W is None else self.selected(acts) @ self.W.to(acts)


def writers(model: Model, hook: str, text: TokenRows) -> list[Writer] | str:
    """The token embedding, and the components of each layer, that write to the stream before a hook point of it.

    The reason if the stream does not gain what they put out. (Position embeddings are not among them.)
    """
    match = re.search(r"blocks\.(\d+)\.hook_resid_(pre|mid|post)$", hook)
    last, where = (int(match[1]), match[2]) if match else (model.n_layers - 1, "post")
    layers = range(last + (where != "pre"))
    before = _at(model, 0, "resid_pre")
    ends = [before, *(_at(model, layer, "resid_post") for layer in layers)]
    candidates = [_of_embedding(), *([*_of_layer(model, layer)] for layer in layers)]
    hooks = {writer.hook for choices in candidates for choice in choices for writer in choice} | {*ends}
    sample = TokenRows(*(x[:_ROWS, :_TOKENS] for x in (text.tokens, text.attended, text.kept)))
    acts = model.vectors(sample.tokens, sample.attended, [name for name in model.hooks if name in hooks])
    acts = {name: values[sample.attended.to(values.device)].float() for name, values in acts.items()}
    if "hook_pos_embed" not in acts:  # then whatever begins the stream comes from the tokens alone
        candidates[0].append([Writer("embed", before)])
    found, begin = list[Writer](), None
    for end, choices in zip(ends, candidates, strict=True):
        adding = next((choice for choice in choices if _adds_up(acts, begin, end, choice)), None)
        if adding is None:
            return f"the residual stream at {end} is not the sum of the outputs of the components before it"
        found += [writer for writer in adding if writer.name != "positions"]
        begin = end
    # In the middle of a layer, its attention alone has written.
    return [w for w in found if where != "mid" or w.name != f"{last} MLP"]


def _at(model: Model, layer: int, where: str) -> str:
    return f"{stack_of(model)}.{layer}.hook_{where}"


def _part(model: Model, layer: int, part: str) -> str:
    return f"{stack_of(model)}.{layer}.{part}.hook_out"


def _of_embedding() -> list[list[Writer]]:
    """Embeddings of tokens with and without embeddings of positions."""
    tokens = [Writer("embed", hook) for hook in ("hook_embed", "project_in.hook_out")]
    positions = Writer("positions", "hook_pos_embed")
    return [*([one, positions] for one in tokens), *([one] for one in tokens)]


def _of_layer(model: Model, layer: int) -> Iterator[list[Writer]]:
    """The heads and every other part of a layer, then the whole attention and the others."""
    named = {part: _at(model, layer, f"{part}_out") for part in parts_of(block_of(model, layer))}
    aliased = {part: hook if hook in model.hooks else _part(model, layer, part) for part, hook in named.items()}
    whole = [
        Writer(f"{layer} {_NAMES.get(part, part)}", hook)
        for part, hook in aliased.items()
        if not re.match(r"ln|norm", part)
    ]
    if z_of(model, layer) in model.hooks and (weights := head_weights(model, layer)) is not None:
        size = weights.shape[1]
        heads = [
            Writer(f"head {layer}.{h}", z_of(model, layer), slice(h * size, (h + 1) * size), weights[h])
            for h in range(n_heads(model, layer))
        ]
        yield [*heads, *(writer for writer in whole if writer.name != f"{layer} attention")]
    yield whole


def _adds_up(acts: Mapping[str, Tensor], begin: str | None, end: str, components: Sequence[Writer]) -> bool:
    """Whether the outputs of the components are what the stream gains between two hook points, up to a constant."""
    if not all(name in acts for name in (*([] if begin is None else [begin]), end, *(w.hook for w in components))):
        return False
    gained = acts[end] if begin is None else acts[end] - acts[begin]
    outputs = [writer.written(acts[writer.hook]) for writer in components]
    if not outputs or any(output.shape != gained.shape for output in outputs):
        return False
    rest = gained - torch.stack(outputs).sum(0)
    return bool((rest - rest.mean(0)).norm() <= _TOLERANCE * (gained - gained.mean(0)).norm())
