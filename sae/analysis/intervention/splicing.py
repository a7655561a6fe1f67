"""Splices dictionaries into a running model, to record their codes and to edit them.

    with sae.splice(model, {"blocks.3.hook_resid_post": d}, edits={"blocks.3.hook_resid_post": [zero(17)]}) as spliced:
        logits = model.bridge(tokens)
    spliced.codes["blocks.3.hook_resid_post"]      # of the last forward pass, sparse

With ``error=True`` the reconstruction error is added back, so that only edits change the activations:

    x' = x + (decode(edit(z)) - decode(z)),   z = encode(x)

which is bit for bit x without edits; its derivative with respect to x is then the identity. With ``error=False`` the
reconstruction replaces the activations: ``x' = decode(edit(z))``, plus a transcoder's skip connection. Positions that a
dictionary never saw in training (special tokens, the first of a row, activations above the `max_norm` of its source)
pass unchanged in both cases, as does padding that the attention mask of the forward pass marks; the first token of a
row is the first that the mask attends to.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae.activations.corpus import PADDING, PositionSelection
from sae.analysis.intervention.edits import Edit
from sae.analysis.intervention.sparse_codes import SparseCodes
from sae.dictionary import Dictionary, card_table
from sae.model.hook_points import check_spliceable
from sae.model.hooked import Model
from sae.model.token_rows import first_attended
from sae.numerics.norms import within_norm
from sae.registry import UserError
from sae.source import LEFT_OUT

Places = Mapping[str, Dictionary]
"""Dictionaries by hook point; the key of a transcoder, from one hook point to another, is ``"hook -> target"``."""

Instead = Callable[[str, Dictionary, Tensor, Tensor], Tensor]
"""A function ``instead(place, dictionary, codes, activations)`` that returns the new activations at a place's kept
positions; it replaces edits."""


@dataclass(eq=False)
class Spliced:
    """A model with dictionaries spliced in."""

    bridge: Any
    """The TransformerLens Bridge of the model."""
    places: Places
    """The dictionary of each place."""
    edits: Mapping[str, Sequence[Edit]]
    """The edits of each place, in order."""
    error: bool
    """Whether the reconstruction error is added back."""
    select: Mapping[str, PositionSelection]
    """The positions at which each place's dictionary is applied."""
    codes: dict[str, SparseCodes] = field(default_factory=dict[str, SparseCodes])
    """The codes of each place in the last forward pass, before any edit."""
    instead: Instead | None = None
    """A function that replaces edits; None to apply `edits`."""
    _tokens: Tensor | None = None
    _mask: Tensor | None = None
    """The attention mask of the forward pass, with the cached positions before its tokens; None without a mask."""
    _n_cached: int | None = 0
    """The number of positions in the cache before the tokens of the forward pass; None if the cache does not tell."""
    _read: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def __repr__(self) -> str:
        places = ", ".join(f"{place!r}: {d!r}" for place, d in self.places.items())
        edited = [place for place, edits in self.edits.items() if edits]
        return f"Spliced({{{places}}}, edits at {edited}, error={self.error}, device={str(self.bridge.cfg.device)!r})"

    def kept(self, place: str) -> Bool[Tensor, "rows n_tokens"]:
        """The positions at which the place's dictionary is applied in the current forward pass."""
        if self._tokens is None:
            raise UserError(
                "places: this forward pass has no token ids, which tell the positions apart; give token ids"
            )
        select, tokens = self.select[place], self._tokens
        n = tokens.shape[1]
        attended = self._attended(tokens)
        kept = replace(select, drop_first=False)(tokens.masked_fill(~attended[:, -n:], PADDING)).kept
        return kept & ~first_attended(attended)[:, -n:] if select.drop_first else kept

    def _attended(self, tokens: Int[Tensor, "rows n_tokens"]) -> Bool[Tensor, "rows n_positions"]:
        """The attended positions of the whole rows: those in the cache of generation, then the tokens."""
        n = tokens.shape[1]
        attended = torch.ones_like(tokens, dtype=torch.bool) if self._mask is None else self._mask.to(tokens.device)
        if attended.shape[1] > n:
            return attended
        # If the cache does not tell, a pass of a single token is a step of generation, not the start of a row.
        n_cached = int(n == 1) if self._n_cached is None else self._n_cached
        return torch.cat([attended.new_ones(len(tokens), n_cached), attended], dim=1)

    def hooks(self) -> list[tuple[str, Callable[..., Any]]]:
        """A writing hook for each place, and a reading hook if the dictionary reads at another hook point."""
        hooks: list[tuple[str, Callable[..., Any]]] = []
        for place in self.places:
            hook, target = ends(place)
            hooks += [] if hook == target else [(hook, self._keep(place))]
            hooks.append((target, self._write(place)))
        return hooks

    def begin(self, module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Stores the mask and the cache of a forward pass; a pre-hook of the whole model."""
        mask = options.get("attention_mask")
        self._mask = mask != 0 if isinstance(mask, Tensor) and mask.dim() == 2 else None
        caches = (options.get(name) for name in ("past_key_values", "cache_params"))
        self._n_cached = _n_cached(next((cache for cache in caches if cache is not None), None))
        self._tokens = None

    def see(self, module: Any, args: tuple[Any, ...]) -> None:
        """Stores the tokens of a forward pass; a pre-hook of the embedding."""
        self._tokens = args[0]
        self._read.clear()

    def _keep(self, place: str) -> Callable[..., None]:
        def keep(acts: Tensor, hook: Any) -> None:
            self._read[place] = acts.flatten(2)

        return keep

    def _write(self, place: str) -> Callable[..., Tensor | None]:
        start, target = ends(place)

        def write(acts: Tensor, hook: Any) -> Tensor | None:
            if start != target and place not in self._read:
                raise UserError(f"places: {target!r} comes before {start!r} in a forward pass; give a later target")
            return self._through(place, acts, acts.flatten(2) if start == target else self._read.pop(place))

        return write

    def _through(self, place: str, acts: Tensor, read: Tensor) -> Tensor | None:
        """The new activations; None if they are unchanged."""
        d, kept = self.places[place], self.kept(place)
        limit = card_table(d.card, LEFT_OUT).get("norm_limit")
        if isinstance(limit, float):
            kept &= within_norm(read, limit)
        x = read[kept].float()
        z = d.encode(x)
        self.codes[place] = SparseCodes.of(z.detach(), kept)
        edits, flat = self.edits.get(place, ()), acts.flatten(2)
        if self.instead is not None:
            values = self.instead(place, d, z, flat[kept].float())
        elif self.error and not edits:
            return None
        else:
            new = z
            for edit in edits:
                new = edit(new, d)
            values = flat[kept].float() + (d.decode(new) - d.decode(z)) if self.error else d.reconstruct(x, new)
        out = flat.clone()
        out[kept] = values.to(flat)
        return out.view(acts.shape)


@contextmanager
def splice(
    model: Model | Any,
    places: Places,
    *,
    edits: Mapping[str, Edit | Sequence[Edit]] | None = None,
    error: bool = True,
    special: Sequence[int] | None = None,
    drop_first: bool | None = None,
    instead: Instead | None = None,
) -> Generator[Spliced]:
    """Within the block, forward passes of the model go through the dictionaries at their hook points.

    `model` is a :class:`sae.model.hooked.Model` or a TransformerLens Bridge. The keys of `places` are hook points, or
    ``"hook -> target"`` for a transcoder that reads at one hook point and writes at another. `edits` holds one edit or
    several for a place, see :mod:`sae.analysis.intervention.edits`. The positions that pass unchanged are those left
    out in the dictionary's training, according to its card, unless `special` token ids and `drop_first` are given;
    padding is recognised by its token, and by the attention mask of a forward pass that has one. `instead` replaces
    edits, for changes that need more than the codes.

    Raises `UserError` for an unknown hook point, widths that differ, or edits of a place without a dictionary.
    """
    wrapped = Model.of(model)
    bridge = wrapped.bridge
    if wrapped.is_encoder_decoder:
        raise UserError(
            f"model = {wrapped.name!r}: an encoder-decoder reads two rows of tokens at once, so the positions of a "
            "dictionary are not known; give a model that reads one"
        )
    _check(wrapped, places)
    if wrapped.missing_head:
        warnings.warn(f"model = {wrapped.name!r}: logits are NaN, because {wrapped.no_logits}", stacklevel=3)
    by_place = {place: [edit] if callable(edit) else list(edit) for place, edit in (edits or {}).items()}
    for place in by_place:
        if place not in places:
            raise UserError(f"edits: {place!r} has no dictionary; edit one of {', '.join(map(repr, places))}")
    select = dict[str, PositionSelection]()
    for place, d in places.items():
        card = _trained_on(d, bridge)
        first = card.drop_first if drop_first is None else drop_first
        select[place] = PositionSelection(card.special if special is None else tuple(special), first)
    spliced = Spliced(bridge, places, by_place, error, select, instead=instead)
    with ExitStack() as stack:
        stack.callback(bridge.original_model.register_forward_pre_hook(spliced.begin, with_kwargs=True).remove)
        stack.callback(bridge.embed.register_forward_pre_hook(spliced.see).remove)
        stack.enter_context(bridge.hooks(fwd_hooks=spliced.hooks()))
        yield spliced


def ends(place: str) -> tuple[str, str]:
    """The hook points at which the dictionary of a place reads and writes."""
    hook, _, target = place.partition("->")
    return hook.strip(), (target or hook).strip()


def _n_cached(cache: Any) -> int | None:
    if cache is None:
        return 0
    length = getattr(cache, "get_seq_length", None)
    return None if length is None else int(length())


def _trained_on(d: Dictionary, bridge: Any) -> PositionSelection:
    """The positions that the dictionary was trained on, according to its card; all if the card does not say."""
    source = card_table(d.card, "source")
    if source.get("kind") not in ("transformer", "language"):  # the others read no text
        return PositionSelection((), False)
    first = bool(source.get("drop_position_0", False))
    return PositionSelection((), first) if bridge.tokenizer is None else PositionSelection.of(bridge.tokenizer, first)


def _check(model: Model, places: Places) -> None:
    for place, d in places.items():
        hook, target = ends(place)
        widths = {name: model.width(name) for name in {hook: None, target: None}}
        for name, width, does in ((hook, d.d_in, "reads"), (target, d.d_out, "writes")):
            if widths[name] != width:
                raise UserError(
                    f"places: {name!r} has width {widths[name]}, but the dictionary {does} {width}; "
                    "give a hook point of that width"
                )
        check_spliceable(target)
