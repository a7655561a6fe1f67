"""Dictionaries for others: what a card says, in a terminal; the command `push`; and the card of a run's best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.report.model_card import flatten, shorten

if TYPE_CHECKING:
    from sae.dictionary import Dictionary


def push(dictionary: str, repo: str, *, licence: str | None = None, private: bool = False) -> None:
    """Upload a dictionary to the Hugging Face hub, with a page made of its card.

    Parameters
    ----------
    dictionary
        A saved dictionary of any readable format, a run's best/, or the directory of a step.
    repo
        The repository, as owner/name. It is made where there is none.
    licence
        What others may do with it, as the hub writes it: mit, apache-2.0, cc-by-4.0.
    private
        Whether a repository that is made is private.
    """
    from sae.files import load
    from sae.files import push as upload

    address = upload(load(dictionary), repo, licence=licence, private=private)
    Console().print(f"pushed: sae.load({address!r})", markup=False, highlight=False, soft_wrap=True)


def print_dictionary(d: Dictionary, console: Console) -> None:
    """What a dictionary is, and its card: where it comes from, its scores, and the settings behind them."""
    from sae.files.hub import origin_facts

    shape = {"kind": d.kind, "d_in": d.d_in, "n_latents": d.n_latents}
    shape |= {} if d.d_out == d.d_in else {"d_out": d.d_out}
    scores = d.card.get("scores")
    told = {"dictionary": shape | d.settings(), "comes from": origin_facts(d.card)}
    told |= {"scores": scores} if isinstance(scores, Mapping) else {}
    shown = {"scores", "licence", "format", "from"}
    told |= {"card": {name: value for name, value in d.card.items() if name not in shown}}
    for title, rows in told.items():
        if rows:
            console.print(_table(title, rows))


def _table(title: str, rows: Mapping[str, Any]) -> Table:
    table = Table(title, "", box=None, header_style="bold", pad_edge=False, show_header=True)
    for name, value in flatten(rows):
        # As text: what a file says is never read as markup.
        table.add_row(Text(name, style="dim"), Text(shorten(value)))
    table.add_row("", "")
    return table
