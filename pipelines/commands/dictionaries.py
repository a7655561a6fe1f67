"""The commands `sae show`, `convert` and `push`. Nothing heavy is imported before they are called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from pipelines.commands.output import Terminal
from pipelines.report.model_card import flatten, shorten
from pipelines.report.text_table import TextColumn, print_text_table

if TYPE_CHECKING:
    from sae.dictionary import Dictionary

_SHOWN = ("scores.", "probes.", "dictionary/")
"""How the files of a step begin whose content is shown."""


def show_path(path: str) -> None:
    """Show what the directory of a step holds, or a saved dictionary of any readable format, with its card.

    Parameters
    ----------
    path
        A step's directory, a report's, or a saved dictionary: a folder, a file, hf://owner/name, or path#name for one
        of several.
    """
    from pipelines.steps.manifest import MANIFEST, read_manifest, refuse_damaged
    from sae.files.tensors import read_json

    directory, console = Path(path), Terminal()
    is_step = (directory / MANIFEST).is_file()
    if is_step:
        manifest = read_manifest(directory)
        refuse_damaged(directory, manifest, _SHOWN)
        hidden = {"files"} if len(manifest["inputs"]) <= 2 else {"files", "inputs"}
        _print_settings(console, {name: value for name, value in manifest.items() if name not in hidden})
    if (directory / "scores.json").is_file():
        _print_settings(console, read_json(directory / "scores.json"))
    if (directory / "scores.csv").is_file():
        from pipelines.stages.report import print_table

        print_table(directory, console)
    if not is_step or (directory / "dictionary").is_dir():
        from sae.files import load

        print_dictionary(load(path), console)


def convert_dictionary(source: str, target: Path, *, format: str = "native") -> None:
    """Read a dictionary in any format and write it in another.

    Parameters
    ----------
    source
        A saved dictionary, or a step's directory that holds one; path#name for one of several.
    target
        The folder to write.
    format
        The format to write: native, saelens, dictionary_learning or sparsify.
    """
    from sae.files import convert

    convert(source, target, format)


def push_dictionary(
    dictionary: str, repo: str, *, licence: str | None = None, private: bool = False, saelens: bool = True
) -> None:
    """Upload a dictionary to the Hugging Face hub, with a page made from its card, and for SAELens.

    Where the card names the hook point of a model on the hub, the entry for SAELens' list of releases is printed.

    Parameters
    ----------
    dictionary
        A saved dictionary of any readable format, a run's best/, or the directory of a step.
    repo
        The repository, as owner/name. It is created where it does not exist.
    licence
        The licence of the dictionary, as the hub writes it: mit, apache-2.0, cc-by-4.0.
    private
        Create the repository as a private one.
    saelens
        Upload the dictionary in SAELens' format as well, in the folder saelens, where SAELens has such a kind.
    """
    from sae.files import load, push
    from sae.files.saelens_release import SAELENS_FOLDER, SAELENS_LIST, release_entry

    d = load(dictionary)
    lines = [f"pushed: sae.load({push(d, repo, licence=licence, private=private, saelens=saelens)!r})"]
    if saelens and (entry := release_entry(d, repo)) is not None:
        lines.append(f"with SAELens: SAE.from_pretrained({repo!r}, {SAELENS_FOLDER!r})")
        lines += [f"to list it there, add to its {SAELENS_LIST}:", "", entry.rstrip()]
    Terminal().print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def print_dictionary(d: Dictionary, console: Console) -> None:
    """Prints what a dictionary is, and its card: where it comes from, its scores, and the settings behind them."""
    from sae.files.hub import origin_facts

    shape = {"kind": d.kind, "d_in": d.d_in, "n_latents": d.n_latents}
    shape |= {} if d.d_out == d.d_in else {"d_out": d.d_out}
    scores = d.card.get("scores")
    tables = {"dictionary": shape | d.settings(), "comes from": origin_facts(d.card)}
    tables |= {"scores": scores} if isinstance(scores, Mapping) else {}
    shown = {"scores", "licence", "format", "from"}
    tables |= {"card": {name: value for name, value in d.card.items() if name not in shown}}
    for title, rows in tables.items():
        if rows:
            print_text_table(console, "", _columns(title, rows))
            console.print()


def _columns(title: str, rows: Mapping[str, Any]) -> list[TextColumn]:
    flat = flatten(rows)
    names = [f"[dim]{escape(name)}[/]" for name, _ in flat]
    values = [escape(shorten(value)) for _, value in flat]  # what a file contains is never read as markup
    return [TextColumn(title, names, is_text=True), TextColumn("", values, is_text=True)]


def _one_line(value: Any) -> str:
    """A name or value as text without line ends, so that none looks like a line of ours."""
    return " ".join(str(value).splitlines())


def _print_settings(console: Console, settings: Mapping[str, Any], indent: str = "") -> None:
    """Prints a name and its value per line, nested settings indented."""
    for name, value in settings.items():
        line = f"{indent}{_one_line(name):<{max(1, 28 - len(indent))}}"
        nested = isinstance(value, Mapping) and bool(value)  # pyright: ignore[reportUnknownArgumentType]
        text = line.rstrip() if nested else f"{line} {_one_line(value)}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        if nested:
            _print_settings(console, value, indent + "  ")
