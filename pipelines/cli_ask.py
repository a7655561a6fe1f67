"""The command `sae ask`. Nothing heavy is imported before it is called."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from pipelines.options import Out, Set


def ask(question: str, config: Path, dictionary: str | None = None, *, set: Set = None, out: Out = None) -> None:
    """Ask one of the open questions of a config's model and, where it takes one, of a trained dictionary.

    monosemantic, smuggling, readers, all_units, positional, decoder, heads, neuron_map or embeddings; docs/questions.md
    tells what each asks. Every answer has its control beside it, is printed as tables and written as JSON.

    Parameters
    ----------
    question
        What is asked; its settings stand under [ask.QUESTION] in the config.
    config
        A TOML file, for its source.
    dictionary
        A saved dictionary of that source, or a train step's directory; without it neurons alone are asked about.
    set
        A value in place of the file's, such as ask.monosemantic.k=20; may be given several times.
    out
        The folder of all steps, in place of runtime.out.
    """
    from pipelines import asking
    from pipelines.config import read
    from pipelines.progress import Board
    from pipelines.suites import find

    settings = read(find(config), set or ())
    root = out or settings.runtime.out
    answer, file = asking.ask(question, settings, dictionary, root, Board(Console(stderr=True)))
    asking.tell(answer, file, Console())
