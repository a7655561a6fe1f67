"""Interface of dictionaries: activations to sparse non-negative codes, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from html import escape
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.numerics.arrays import Numbers, integer_of, plain_value
from sae.numerics.card import Card
from sae.numerics.devices import check_device
from sae.numerics.fit_cost import FitCost
from sae.numerics.tensor_fields import device_and_dtype, selected, tensor_axes
from sae.registry import KindSettings, UserError, checked_settings, configurable, same_type, unknown
from sae.source import Source, as_source

D = TypeVar("D", bound="Dictionary")


@dataclass(frozen=True, eq=False)
class Dictionary(ABC):
    """A trained dictionary, in units of the raw activations: any input scale is folded into its weights.

    ``encode(x) -> z``, ``[..., d_in] -> [..., n_latents]``; ``decode(z) -> x_hat``, ``[..., n_latents] -> [...,
    d_out]``, where ``d_out = d_in`` but for transcoders; ``d(x)`` is the reconstruction. ``d[:10]`` and ``d[[3, 5]]``
    are dictionaries of part of the latents.
    """

    kind: ClassVar[str]
    """The name of the kind, as configs and saved files give it."""
    independent_latents: ClassVar[bool] = False
    """Whether the code of a latent depends on no other latent, so that a part of them is a dictionary too."""

    W_enc: Float[Tensor, "d_in n_latents"]
    """Encoder weights: column j reads latent j."""
    W_dec: Float[Tensor, "n_latents d_out"]
    """Decoder weights: row j is the direction of latent j."""
    b_enc: Float[Tensor, " n_latents"]
    """Encoder bias."""
    b_dec: Float[Tensor, " d_out"]
    """Decoder bias."""
    card: Mapping[str, Any] = field(default_factory=dict, kw_only=True, repr=False)
    """Where the dictionary came from: source, settings, training cost, scores (:mod:`sae.numerics.card`). Saved with
    it."""

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        """Width of the reconstruction: `d_in`, but for transcoders between two widths."""
        return self.W_dec.shape[1]

    @property
    def n_latents(self) -> int:
        return self.W_dec.shape[0]

    @property
    def device(self) -> torch.device:
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        return self.W_dec.dtype

    @abstractmethod
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        """The codes of raw activations; non-negative."""

    def centred(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """``x - b_dec``, which most encoders read. `UserError` for another width, as 1 would broadcast."""
        if not x.ndim or x.shape[-1] != self.d_in:
            raise UserError(f"x: shape {list(x.shape)}, but the dictionary takes [..., {self.d_in}]")
        return x - self.b_dec

    def decode(self, z: Float[Tensor, "*batch n_latents"]) -> Float[Tensor, "*batch d_out"]:
        """``x_hat = z W_dec + b_dec``."""
        return z @ self.W_dec + self.b_dec

    def reconstruct(
        self, x: Float[Tensor, "*batch d_in"], z: Float[Tensor, "*batch n_latents"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """``decode(encode(x))``, with `z` in place of the codes where it is given; plus what a transcoder's skip
        connection adds."""
        return self.decode(self.encode(x) if z is None else z)

    def __call__(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The reconstruction of raw activations, :meth:`reconstruct`."""
        return self.reconstruct(x)

    def __getitem__(self: D, latents: slice | Numbers) -> D:
        """The dictionary of part of the latents, in the order given: its codes are theirs in the whole, and the others
        are left out of its reconstruction. Their numbers are on its card, as ``latents``.

        `latents` is a slice, a list of numbers or a mask ``[n_latents]``. Raises `UserError` for latents that do not
        exist, and for kinds in which a code depends on the other latents.
        """
        which = selected("latents", latents, self.n_latents)
        self.check_divisible()
        axes, where = tensor_axes(type(self)), which.to(self.device)
        kept = {
            name: t.index_select(axes[name].index("n_latents"), where) if "n_latents" in axes.get(name, ()) else t
            for name, t in self.tensors().items()
        }
        before = self.card.get("latents")
        numbers = [before[i] if isinstance(before, list) else i for i in which.tolist()]
        card = Card({name: entry for name, entry in self.card.items() if name != "scores"} | {"latents": numbers})
        return replace(self, **kept, **self.part_settings(which), card=card)

    __iter__ = None
    """Not iterable: a dictionary is no sequence of dictionaries."""

    def check_divisible(self) -> None:
        """Raises `UserError` where part of the latents are no dictionary, because their codes depend on the others."""
        if not self.independent_latents:
            raise UserError(
                f"latents: in a {self.kind!r} dictionary the code of a latent depends on the others, so a part of them "
                "is no such dictionary; take columns of encode(x) and rows of W_dec instead"
            )

    def part_settings(self, latents: Int[Tensor, " kept"]) -> dict[str, Any]:
        """The settings that differ in the dictionary of these latents."""
        return {}

    @abstractmethod
    def settings(self) -> dict[str, float | int | str | bool]:
        """What :meth:`encode` needs besides the tensors; saved with them and passed to the class as keywords on
        loading."""

    @classmethod
    def checked(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings from a file, once their names and types are those of :meth:`settings`. Raises `UserError` for one
        that is unknown or of another type than its default."""
        own = [f for f in fields(cls) if f.name != "card"]
        defaults = {f.name: f.default for f in own if f.default is not MISSING}
        defaults |= {f.name: f.default_factory() for f in own if f.default_factory is not MISSING}
        for name, value in settings.items():
            if name not in defaults:
                raise UserError(unknown(name, sorted(defaults), f"setting of {cls.kind!r}"))
            if not same_type(value, defaults[name]):
                raise UserError(f"{name} = {repr(value)[:40]} is not a valid value for this setting of {cls.kind!r}")
        return dict(settings)

    def multiply_adds(self) -> int:
        """Multiply-adds to encode one sample; those of one layer unless a kind says otherwise."""
        return self.d_in * self.n_latents

    def with_encoder(
        self, kind: str | KindSettings, x: Numbers | Source | None = None, seed: int = 0, **settings: Any
    ) -> Dictionary:
        """The same directions with another encoder.

        `kind` is the name of an encoder (a file of ``sae/encoders/``, or one registered from outside) with its
        `settings`, or its config object. `x`, a matrix ``[rows, d_in]`` of any form (a fifth of it is left out, as in
        :func:`sae.fit`) or a source, gives the training samples that most encoders are fitted to or measure a unit on.
        The training cost of the encoder is added to that on the card.

        Raises `UserError` for what is unknown or missing.
        """
        known = configurable("encoders")
        if isinstance(kind, str) and kind not in known:
            raise UserError(unknown(kind, known, "encoder"))
        if self.d_in != self.d_out:
            name = kind if isinstance(kind, str) else type(kind).__name__
            raise UserError(f"encoder {name!r}: a dictionary that reads {self.d_in} and writes {self.d_out} numbers")
        source = None if x is None else as_source(x, self.d_in)
        plain = {name: plain_value(value) for name, value in settings.items()}
        if plain and not isinstance(kind, str):
            raise UserError(
                f"{next(iter(plain))}: a config object has all its settings; give it there: {type(kind).__name__}(...)"
            )
        config: Any = checked_settings(known[kind].Config, plain, ("x", "seed")) if isinstance(kind, str) else kind
        seed = integer_of("seed", seed)
        with torch.no_grad():
            encoded: Dictionary = config.fit(self, source, seed)
        card = {**self.card, "encoder": config.model_dump(mode="json")}
        if (before := FitCost.of(self.card)) is not None:
            n_rows = None if source is None else source.n_rows["train"]
            card |= before.plus(config.fit_cost(self, source), n_rows).card_entry()
        return encoded.with_card(**card)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # The decorator of a dataclass would give every kind a __repr__ with all values of its tensors.
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Dictionary.__repr__

    def __repr__(self) -> str:
        widths = f"d_in={self.d_in}, n_latents={self.n_latents}"
        widths += "" if self.d_out == self.d_in else f", d_out={self.d_out}"
        return f"{type(self).__name__}({widths}, dtype={_dtype(self.W_dec)}, device={str(self.W_dec.device)!r})"

    def _repr_html_(self) -> str:
        """A table for notebooks: kind, widths, settings, and the source and scores on the card."""
        source, scores = (self.card.get(name) for name in ("source", "scores"))
        rows: dict[str, Any] = {"kind": self.kind, "d_in": self.d_in, "n_latents": self.n_latents, "d_out": self.d_out}
        rows |= {"dtype": _dtype(self.W_dec), "device": self.W_dec.device, **self.settings()}
        if isinstance(source, Mapping):
            rows |= {f"source.{name}": source[name] for name in ("kind", "model", "hook", "target") if source.get(name)}
        if isinstance(scores, Mapping):
            rows |= {f"scores.{name}": scores[name] for name in ("fvu", "l0", "dead_fraction", "mcc") if name in scores}
        lines = (f"<tr><th>{escape(name)}</th><td>{escape(_brief(value))}</td></tr>" for name, value in rows.items())
        return f"<table>{''.join(lines)}</table>"

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the dictionary by its name."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}

    def state_dict(self) -> dict[str, Tensor]:
        """:meth:`tensors`, under the name that it has in torch."""
        return self.tensors()

    def to(self: D, *where: Any, device: Any = None, dtype: torch.dtype | None = None) -> D:
        """The same dictionary on another device or in another precision: ``d.to("cuda")``, ``d.to(torch.bfloat16)``,
        ``d.to("cuda", torch.bfloat16)``, or those of a tensor. Raises `UserError` for anything else, and for a device
        that is not there."""
        at, form = device_and_dtype(*where, device, dtype)
        if at is not None:
            check_device("device", at)
        return replace(self, **{name: t.to(device=at, dtype=form) for name, t in self.tensors().items()})

    def cpu(self: D) -> D:
        """The same dictionary on the CPU."""
        return self.to("cpu")

    def cuda(self: D, device: int | str = "cuda") -> D:
        """The same dictionary on a GPU."""
        return self.to(device)

    def module(self) -> DictionaryModule:
        """A `torch.nn.Module` with copies of the weights as its parameters, for networks of your own."""
        return DictionaryModule(self)

    def with_card(self: D, **entries: Any) -> D:
        """The same dictionary with entries added to its card."""
        return replace(self, card=Card({**self.card, **entries}))


class DictionaryModule(torch.nn.Module):
    """A dictionary inside a network: it moves with its parent, its parameters have gradients and are saved with it.

    Codes and reconstructions are those of the dictionary. Parameters in which codes are constant almost everywhere,
    such as thresholds, get no gradient. :meth:`dictionary` is the way back.
    """

    def __init__(self, d: Dictionary) -> None:
        super().__init__()
        self._form = d.to("meta")  # the kind and its settings, without weights
        for name, tensor in d.tensors().items():
            self.register_parameter(name, torch.nn.Parameter(tensor.detach().clone()))

    def _current(self) -> Dictionary:
        return replace(self._form, **{name: getattr(self, name) for name in self._form.tensors()})

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        """The codes of raw activations."""
        return self._current().encode(x)

    def decode(self, z: Float[Tensor, "*batch n_latents"]) -> Float[Tensor, "*batch d_out"]:
        """The reconstruction from codes."""
        return self._current().decode(z)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The reconstruction of raw activations."""
        return self._current().reconstruct(x)

    def dictionary(self) -> Dictionary:
        """A dictionary with copies of the present weights; scores of former weights are left off its card."""
        card = Card({name: entry for name, entry in self._form.card.items() if name != "scores"})
        weights = {name: getattr(self, name).detach().clone() for name in self._form.tensors()}
        return replace(self._form, **weights, card=card)


def card_table(card: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A table of a card; empty where the card lacks it or holds anything else, such as null."""
    value = card.get(name)
    return value if isinstance(value, Mapping) else {}


def check_one_dictionary(d: Any) -> None:
    """Raises `UserError` where `d` is no dictionary, such as the list that :func:`sae.fit` returns."""
    if isinstance(d, list | tuple):
        raise UserError(
            f"d: a {type(d).__name__} of {len(d)}; give one dictionary of those that sae.fit returns, as d[0]"
        )
    if not isinstance(d, Dictionary):
        raise UserError(f"d: {type(d).__name__}; give a dictionary, from sae.load or sae.fit")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _brief(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
