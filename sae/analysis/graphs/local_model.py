"""A model around one prompt, as a function of what its dictionaries write.

At a place with codes z = encode(x) the activation is split into

    y = sum_i z_i W_dec[i] + b_dec + s(x) + e,        s: a transcoder's skip connection, else 0

and everything but s is a leaf: gradients stop there, so that a derivative is a direct effect. At positions that the
dictionary does not read, all of y is e. The leaf of the inputs is the input of the first block. With `at` = a, the
leaves are ``a (sum_i z_i W_dec[i] + e) + b_dec`` and ``a x_0``; a = 1 leaves the forward pass as it is.

Attention patterns and the scales of norms are those of the prompt if they are frozen: then all between two places is
linear but MLPs that no transcoder replaces.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.analysis.graphs.graph import LogitTarget, Target, check_places, check_position
from sae.analysis.intervention.splicing import Places, ends, splice
from sae.dictionary import Dictionary
from sae.model.hooked import Model
from sae.registry import UserError

_PATTERN, _SCALE = re.compile(r"\.hook_pattern$"), re.compile(r"(^|\.)hook_scale$")
ForwardHooks = list[tuple[str, Callable[..., Any]]]


class Readout(NamedTuple):
    """A linear function of the activations at one position."""

    place: str | None
    """The place whose input it reads; None: the logits."""
    position: int
    """The position."""
    direction: Float[Tensor, " d_in"]
    """The weight of every activation."""
    constant: float
    """What is added."""

    def of(self, reads: Mapping[str, Tensor], logits: Tensor) -> Float[Tensor, " rows"]:
        """Its value in each row of a forward pass."""
        acts = logits if self.place is None else reads[self.place]
        return acts[:, self.position] @ self.direction + self.constant


@dataclass(frozen=True, eq=False)
class PlaceState:
    """One dictionary on one prompt."""

    d: Dictionary
    """The dictionary, on the model's device and in its precision."""
    x: Float[Tensor, "n_tokens d_in"]
    """What it reads."""
    z: Float[Tensor, "n_tokens n_latents"]
    """Its codes; zero where it does not read."""
    error: Float[Tensor, "n_tokens d_out"]
    """What it leaves of what it writes to."""
    read: Bool[Tensor, " n_tokens"]
    """The positions that it reads."""

    @property
    def base(self) -> Float[Tensor, "n_tokens d_out"]:
        """What is written with all nodes at zero, `b_dec`."""
        return self.d.decode(torch.zeros_like(self.z)) * self.read[:, None]

    @property
    def written(self) -> Float[Tensor, "n_tokens d_out"]:
        """What the nodes write."""
        return self.d.decode(self.z) * self.read[:, None] - self.base + self.error

    def directions(self, latents: Int[Tensor, " n"]) -> Float[Tensor, "n d_out"]:
        """What one unit of each latent writes."""
        return self.d.W_dec[latents]

    def pre_activation(self, position: int, latent: int) -> tuple[Float[Tensor, " d_in"], float]:
        """The pre-activation of an active latent near the prompt, ``g . x + c``: g and c."""
        x = self.x[position].detach().clone().requires_grad_()
        with torch.enable_grad():
            z = self.d.encode(x[None])[0, latent]
            [g] = torch.autograd.grad(z, x)
        return g, float(z.detach() - g @ x.detach())


@dataclass(eq=False)
class LocalModel:
    """A model on one prompt, with the dictionaries' codes there."""

    model: Model
    """The model."""
    tokens: Int[Tensor, "1 n_tokens"]
    """The prompt."""
    places: dict[str, PlaceState]
    """The dictionaries, in the order of the forward pass."""
    inputs: Float[Tensor, "n_tokens d_model"]
    """The input of the first block."""
    input_hook: str
    """Its hook point."""
    logits: Float[Tensor, "n_tokens d_vocab"]
    """The model's logits."""
    frozen: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """The frozen patterns and scales by their hook points."""

    def readout(self, target: Target) -> Readout:
        """The target as a function of activations; a negative position counts from the end.

        Raises `UserError` for a token or a place that does not exist, and for a latent that is not active there.
        """
        position = check_position(target.position, self.tokens.shape[1])
        if isinstance(target, LogitTarget):
            self.model.check_head()
            return Readout(None, position, target.weights(self.logits.shape[-1]).to(self.logits), 0.0)
        if target.place not in self.places:
            raise UserError(f"target: {target.place!r} has no dictionary; choose from {', '.join(self.places)}")
        z = self.places[target.place].z[position]
        if not 0 <= target.latent < len(z) or float(z[target.latent]) <= 0:
            active = ", ".join(map(str, z.nonzero()[:, 0].tolist()[:20]))
            raise UserError(
                f"target: latent {target.latent} of {target.place!r} is not active at position {position}; the "
                f"active ones are {active}"
            )
        return Readout(target.place, position, *self.places[target.place].pre_activation(position, target.latent))

    def leaves(self, at: float, rows: int) -> dict[str, Tensor]:
        """The leaves of `rows` copies of the prompt, by place; those of the inputs under ``""``."""
        values = {"": at * self.inputs} | {name: p.base + at * p.written for name, p in self.places.items()}
        return {name: value.expand(rows, *value.shape).clone().requires_grad_() for name, value in values.items()}

    def run(self, leaves: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """What every dictionary reads, ``[rows, n_tokens, d_in]`` by place, and the logits."""
        reads = dict[str, Tensor]()
        hooks: ForwardHooks = [(self.input_hook, _replaces(leaves[""]))]
        for name, place in self.places.items():
            hook, target = ends(name)
            hooks += [(hook, keeps(reads, name)), (target, self._writes(name, place, leaves[name], reads))]
        rows = len(leaves[""])
        # Some models flatten rows and positions before a norm, in this order.
        hooks += [
            (name, _replaces(value.repeat(rows, *[1] * (value.dim() - 1)))) for name, value in self.frozen.items()
        ]
        return reads, run_bridge(self.model, self.tokens.expand(rows, -1), hooks)

    def _writes(self, name: str, place: PlaceState, leaf: Tensor, reads: Mapping[str, Tensor]) -> Callable[..., Tensor]:
        def write(acts: Tensor, hook: Any) -> Tensor:
            skip = skip_part(place.d, reads[name]) * place.read[:, None] if has_skip(place.d) else 0
            return (leaf + skip).to(acts.dtype).view(acts.shape)

        return write


def local_model(
    model: Model | Any, places: Places, tokens: Int[Tensor, "rows n_tokens"], attention: bool, norms: bool
) -> LocalModel:
    """The model around one prompt; `attention` and `norms` say whether patterns and scales are frozen.

    Raises `UserError` for more than one row, places that the forward pass reaches before its first block, and what
    :func:`~sae.analysis.intervention.splicing.splice` refuses.
    """
    check_places(list(places))
    if len(tokens) != 1:
        raise UserError(f"tokens: {len(tokens)} rows; a graph is of one row, give [1, n_tokens]")
    wrapped = Model.of(model)
    tokens = tokens.to(wrapped.device)
    read, first = read_positions(wrapped, places, tokens), first_input(wrapped)
    freezing = [n for n in wrapped.hooks if (attention and _PATTERN.search(n)) or (norms and _SCALE.search(n))]
    hooks = list(dict.fromkeys([first, *(hook for name in places for hook in ends(name))]))
    seen = dict[str, Tensor]()
    with torch.no_grad():
        keeping = [(name, keeps(seen, name, flat=name in hooks)) for name in (*hooks, *freezing)]
        logits = run_bridge(wrapped, tokens, keeping)
    order = list(seen)
    for name in places:
        if ends(name)[1] not in seen or order.index(ends(name)[0]) < order.index(first):
            raise UserError(f"places: {name!r} is not reached after {first!r}, where the inputs are; leave it out")
        others = [n for n in places if n != name and _same_point(wrapped, ends(n)[1], ends(name)[1])]
        if others:
            raise UserError(f"places: {name!r} and {others[0]!r} write at one hook point; leave one of them out")
    states = dict[str, PlaceState]()
    for name in sorted(places, key=lambda n: (order.index(ends(n)[1]), order.index(ends(n)[0]))):
        x, y = (seen[hook][0] for hook in ends(name))
        states[name] = _state(places[name].to(device=x.device, dtype=x.dtype), x, y, read[name][0])
    frozen = {name: seen[name] for name in freezing if name in seen}
    check_frozen(wrapped, tokens, {name: torch.zeros_like(v) for name, v in frozen.items() if _PATTERN.search(name)})
    check_frozen(wrapped, tokens, {name: v + torch.inf for name, v in frozen.items() if _SCALE.search(name)})
    return LocalModel(wrapped, tokens, states, seen[first][0], first, logits[0], frozen)


def _same_point(model: Model, a: str, b: str) -> bool:
    """Whether two names are of one hook point, which may have several."""
    return model.bridge.hook_dict[a] is model.bridge.hook_dict[b]


def check_frozen(model: Model, tokens: Tensor, values: Mapping[str, Tensor]) -> None:
    """Raises `UserError` for a model that ignores edits of its patterns or scales, as it does where attention is
    computed inside a module of Hugging Face.

    Attention with a pattern of zeros, or a norm with an infinite scale, puts out the same at every position.
    """
    outputs = {name: f"{name.rpartition('.')[0]}.hook_out".removeprefix(".") for name in values}
    outputs = {name: out for name, out in outputs.items() if out in model.hooks}
    seen = dict[str, Tensor]()
    with torch.no_grad():
        hooks: ForwardHooks = [(out, keeps(seen, out, flat=False)) for out in outputs.values()]
        run_bridge(model, tokens, [*((name, _replaces(value)) for name, value in values.items()), *hooks])
    for name, out in outputs.items():
        acts = seen[out].flatten(0, -2) if out in seen else torch.zeros(1, 1)
        if float((acts - acts[:1]).abs().max()) > 1e-5 * float(acts.abs().max()):
            setting = "attention" if _PATTERN.search(name) else "norms"
            raise UserError(
                f'{setting} = "frozen": {model.name} computes {name!r} where it cannot be replaced; set {setting} = '
                '"through"'
            )


def first_input(model: Model) -> str:
    """The hook point of the first block's input. Raises `UserError` for a model without blocks."""
    for name in ("blocks.0.hook_in", "blocks.0.hook_resid_pre"):
        if name in model.hooks:
            return name
    raise UserError(f"model = {model.name!r}: it has no first block; give a transformer")


def run_bridge(model: Model, tokens: Tensor, hooks: ForwardHooks) -> Tensor:
    """The logits of a forward pass with hooks, through which gradients pass."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
        # Of an ignored edit; `check_frozen` finds those by what they leave unchanged.
        warnings.filterwarnings("ignore", message=r"A hook on .*hook_pattern returned a modified tensor")
        with model.bridge.hooks(fwd_hooks=hooks):
            return model.bridge(tokens, return_type="logits")


def has_skip(d: Dictionary) -> bool:
    """Whether a transcoder has a skip connection."""
    return getattr(d, "W_skip", None) is not None


def skip_part(d: Dictionary, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
    """What a transcoder's skip connection adds to the reconstruction of `x`."""
    z = x.new_zeros(*x.shape[:-1], d.n_latents)
    return d.reconstruct(x, z) - d.decode(z)


@torch.no_grad()
def read_positions(
    model: Model, places: Places, tokens: Int[Tensor, "rows n_tokens"]
) -> dict[str, Bool[Tensor, "rows n_tokens"]]:
    """The positions that each dictionary reads, as :func:`~sae.analysis.intervention.splicing.splice` chooses them."""
    with splice(model, places) as spliced:
        spliced.bridge(tokens, return_type="logits")
        return {name: codes.read for name, codes in spliced.codes.items()}


def _state(d: Dictionary, x: Tensor, y: Tensor, read: Tensor) -> PlaceState:
    with torch.no_grad():
        z = torch.zeros(len(x), d.n_latents, dtype=x.dtype, device=x.device)
        z[read] = d.encode(x[read]).to(z)
        error = y.clone()
        error[read] -= d.reconstruct(x[read], z[read])
        return PlaceState(d, x, z, error, read)


def keeps(seen: dict[str, Tensor], name: str, flat: bool = True) -> Callable[..., None]:
    """A hook that keeps activations under a name; `flat`: with heads concatenated."""

    def keep(acts: Tensor, hook: Any) -> None:
        seen[name] = acts.flatten(2) if flat else acts

    return keep


def _replaces(value: Tensor) -> Callable[..., Tensor]:
    def replace(acts: Tensor, hook: Any) -> Tensor:
        return value.to(acts.dtype).view(acts.shape)

    return replace
