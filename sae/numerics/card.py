"""The card of a dictionary: where it comes from, how it was made, what it scored. `sae.fit`, `sae run`, refinements,
encoders and readers of published files write the same entries, those of `SCHEMA`.

An entry is absent where it does not apply. Baselines add numbers of their own (``iterations``, ``converged``), and so
may you, with :meth:`sae.Dictionary.with_card`; values are what JSON can hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class CardEntry(NamedTuple):
    """An entry of a card."""

    type: type | tuple[type, ...]
    """Type of the value."""
    meaning: str
    """What it holds, as a phrase."""


SCHEMA: Mapping[str, CardEntry] = {
    "source": CardEntry(
        Mapping,
        "where the activations come from: `kind` and every other setting of a source, among them `model`, `revision`, "
        "`hook`, `target`, `text`, `context`, `bos`; of published files the part of these that is known",
    ),
    "dictionary": CardEntry(Mapping, "`kind` and the other settings of a trained kind: `n_latents`, `l1`, ..."),
    "train": CardEntry(Mapping, "settings of the training loop: `steps`, `lr`, ..."),
    "method": CardEntry(Mapping, "`kind` and the other settings of a baseline, in place of `dictionary` and `train`"),
    "refine": CardEntry(Mapping, "settings and seed of a refinement"),
    "encoder": CardEntry(Mapping, "`kind` and the other settings of an encoder that replaced that of training"),
    "seed": CardEntry(int, "seed of the initial values"),
    "plugins": CardEntry(Mapping, "kinds from outside the package, with fingerprints of their code"),
    "spent": CardEntry(Mapping, "training cost: distinct `rows`, processed `samples`, `multiply_adds`"),
    "input_scale": CardEntry(
        (float, int, str), "factor of the activations in training, folded into the weights; `whitened` where a matrix"
    ),
    "left_out": CardEntry(Mapping, "`norm_limit`, and the `rows` of each split that it left out"),
    "latents": CardEntry(list, "numbers of the latents in the dictionary of which this is a part"),
    "step": CardEntry(str, "name of the step of a run that made it"),
    "scores": CardEntry(Mapping, "scores on held-out samples, in a run's `best/`"),
    "model_revision": CardEntry(
        str,
        "commit of the model on the hub, by `sae.fit` and in `best/`, like the following five",
    ),
    "processing": CardEntry(str, "what was done to the weights of the model: nothing is folded or centred"),
    "excluded_token_ids": CardEntry(list, "special tokens whose activations are left out"),
    "unique_tokens": CardEntry(int, "number of training tokens, each counted once"),
    "no_logits": CardEntry(str, "why the logits of the model predict nothing, where they do not"),
    "transformer_lens": CardEntry(str, "version that ran the model; `transformers` likewise"),
    "transformers": CardEntry(str, "version that ran the model"),
    "format": CardEntry(str, "the format of a file that another library wrote"),
    "config": CardEntry(Mapping, "that library's own config"),
    "from": CardEntry(str, "address that a dictionary was fetched from"),
    "signed": CardEntry(bool, "whether latents j and n + j are the signs of one code"),
    "selection": CardEntry(str, "what is unknown of how codes are selected"),
    "licence": CardEntry(str, "licence, as the hub writes it"),
}
"""The entries of a card by name, with types and meanings."""


MODEL_FACTS = (
    *("model_revision", "processing", "excluded_token_ids", "unique_tokens", "no_logits"),
    *("transformer_lens", "transformers"),
)
"""Entries that are what a source of activations of a model knows of them, from its ``source.json``."""


def model_facts(known: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a card on the model, of all that a source knows."""
    return {name: known[name] for name in MODEL_FACTS if known.get(name) is not None}


class Card(dict[str, Any]):
    """The entries of a card by name.

    ``card["training"]`` has the settings of training, of the dictionary and the seed in one table, where the card has
    them. It is made on reading and is not an entry: it is not saved, and ``in`` and ``get`` do not know it.
    """

    def __missing__(self, name: str) -> Any:
        if name == "training" and "train" in self:
            seed = {"seed": self["seed"]} if "seed" in self else {}
            return {**self["train"], **self.get("dictionary", {}), **seed}
        raise KeyError(name)


def upgraded(card: Mapping[str, Any], training: frozenset[str]) -> Card:
    """A card in which the one table of settings that `sae.fit` formerly wrote, ``training``, is the entries ``train``,
    ``dictionary`` and ``seed``. `training` has the names of the settings of training."""
    table = card.get("training")
    if not isinstance(table, Mapping) or not {"kind", "seed", "steps"} <= set(table) or "train" in card:
        return Card(card)
    train = {name: value for name, value in table.items() if name in training}
    dictionary = {name: value for name, value in table.items() if name not in training and name != "seed"}
    others = {name: value for name, value in card.items() if name != "training"}
    return Card({**others, "train": train, "dictionary": dictionary, "seed": table["seed"]})


def wrong_entries(card: Mapping[str, Any]) -> list[str]:
    """The entries of `SCHEMA` whose values on a card have another type, in words."""
    return [
        f"{name}: {type(card[name]).__name__}"
        for name, entry in SCHEMA.items()
        if name in card and not isinstance(card[name], entry.type)
    ]
