"""The command `sae`: its subcommands, and mistakes of a user told in one line."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.table import Table

from pipelines.commands.ask import ask
from pipelines.commands.explore import explore
from pipelines.commands.options import Out, Set
from pipelines.commands.push import push
from sae.registry import UserError

if TYPE_CHECKING:
    from pipelines.config.config import Config
    from pipelines.steps.step import Step


def _version() -> str:
    import sae

    return sae.__version__


app = App(name="sae", help="Sparse autoencoders from a config to a scored dictionary.", version=_version)

Tier = Annotated[str, Parameter(name="--tier")]
Profile = Annotated[bool, Parameter(name="--profile", negative=())]


def main() -> None:
    """Exit codes: 0 done, 2 a mistake of the user's, told in one line, 130 interrupted."""
    try:
        command, bound, *_ = app.parse_args(sys.argv[1:], exit_on_error=False, print_error=False)
        command(*bound.args, **bound.kwargs)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on", 130)
    except (CycloptsError, ValueError, OSError) as error:
        _fail(_one_line(error), 2)


@app.command
def plan(config: Path, *, set: Set = None, out: Out = None, tier: Tier = "full") -> None:
    """Show the steps that a config asks for, and which of them are done.

    Parameters
    ----------
    config
        A TOML file.
    set
        A value in place of the file's, such as train.steps=200; may be given several times.
    out
        The folder of all steps, in place of runtime.out.
    tier
        What stands under [tiers.NAME] takes the place of the same keys; full is the file as it is.
    """
    from pipelines.steps.store import Store

    settings, steps, root = _read(config, set, out, tier)
    store = Store(root)
    table = Table("step", "what", "done", box=None, header_style="dim")
    for step in steps:
        table.add_row(step.name, step.title, "done" if store.done(step) else "")
    console = Console(soft_wrap=True)
    console.print(table)
    missing = sum(not store.done(step) for step in steps)
    console.print(f"{settings.name}: {len(steps)} steps, {missing} to do, in {root}", markup=False, highlight=False)


@app.command
def run(config: Path, *, set: Set = None, out: Out = None, profile: Profile = False) -> None:
    """Do every step of a config that is not done, print the scores and the report's path.

    Stopped or killed, it goes on where it was when it is started again; several runs share the work.

    Parameters
    ----------
    config
        A TOML file.
    set
        A value in place of the file's, such as train.steps=200; may be given several times.
    out
        The folder of all steps, in place of runtime.out.
    profile
        Also print where the time of this run went, and write a trace of it that ui.perfetto.dev opens.
    """
    from pipelines import runner
    from pipelines.stages.report import print_table
    from pipelines.steps import profile as profiling
    from pipelines.steps.progress import Board
    from pipelines.steps.store import Store

    settings, steps, root = _read(config, set, out)
    store, link = Store(root), root / settings.name
    if link.exists() and not link.is_symlink():
        raise UserError(f"{link}: in the way of the link to the report; move it, or give the config another name")
    runtime = runner.execution(settings.runtime)
    if profile:
        runtime = replace(runtime, spans=profiling.recorder(runtime.device))
    runner.run(steps, store, runtime, Board(Console(stderr=True)))
    directory = store.directory(steps[-1])
    _point(link, directory)
    console = Console()
    print_table(directory, console)
    if profile:
        profiling.print_profile(runtime.spans, root / f"{settings.name}.trace.json", console)
    console.print(f"report: {link / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


@app.command
def bench(*suite: Path, tier: Tier = "", set: Set = None, out: Out = None) -> None:
    """Compare methods on the data sets of suites: intervals, paired tests, sweeps at one L0, and a page of it.

    Trains and scores what is missing, as `sae run` does, and ends by printing the table and the page's path.

    Parameters
    ----------
    suite
        Names of suites (sharkey-512, absorb-4, ...), or TOML files; several are run one after another.
    tier
        fast or full, or another tier that the file has; fast where it has one.
    set
        A value in place of the file's, such as train.steps=200; may be given several times.
    out
        The folder of all steps, in place of runtime.out.
    """
    from pipelines import runner
    from pipelines.config.config import FULL, read_config, read_table
    from pipelines.config.suites import find_config
    from pipelines.plan import plan
    from pipelines.stages.bench import print_bench_table
    from pipelines.steps.progress import Board
    from pipelines.steps.store import Store

    if not suite:
        raise UserError("bench: name a suite, for example sharkey-512, or give a config")
    files = [find_config(one) for one in suite]
    tiers = [tier or ("fast" if "fast" in read_table(file).get("tiers", {}) else FULL) for file in files]
    every = [
        read_config(file, set or (), own) for file, own in zip(files, tiers, strict=True)
    ]  # mistakes before any work
    plans = [plan(settings, own) for settings, own in zip(every, tiers, strict=True)]
    for settings, own, steps in zip(every, tiers, plans, strict=True):
        root = out or settings.runtime.out
        store, link = Store(root), root / f"{settings.name}-{own}"
        runner.run(steps, store, runner.execution(settings.runtime), Board(Console(stderr=True)))
        directory = store.directory(steps[-1])
        _point(link, directory)
        console = Console()
        print_bench_table(directory, console)
        console.print(f"page: {link / 'bench.html'}", markup=False, highlight=False, soft_wrap=True)


@app.command
def status(config: Path, *, set: Set = None, out: Out = None, tier: Tier = "full") -> None:
    """Show what is done, under way, stopped, waiting or damaged, from any shell.

    Parameters
    ----------
    config
        A TOML file.
    set
        The same as were given to `sae run`.
    out
        The same as was given to `sae run`.
    tier
        The same as was given to `sae bench`.
    """
    from pipelines.runner import standings
    from pipelines.steps.store import Store

    settings, steps, root = _read(config, set, out, tier)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    found = standings(steps, Store(root))
    for stage in dict.fromkeys(step.stage for step in steps):
        count = Counter(s.state for s in found if s.step.stage == stage)
        console.print(f"{stage:9}", ", ".join(f"{n} {state}" for state, n in count.items()))
    told = {(s.state, s.status.title, s.status.told(), s.status.pid) for s in found if s.status}
    for state, title, progress, pid in sorted(told):
        console.print(f"{state}: {title}: {progress} (process {pid})")
    for standing in found:
        if standing.problem:
            console.print(f"damaged: {standing.problem}")
    if all(s.state == "done" for s in found):
        console.print(f"report: {root / settings.name / 'report.html'}")


@app.command
def suggest(
    config: Path, *, targets: str | None = None, kind: str = "batchtopk", set: Set = None, out: Out = None
) -> None:
    """Suggest how many latents should be active: trains a sweep of L0, and looks where decoder rows are least alike.

    Takes the source, [train] and the widths of a config. Its dictionaries are kept, as those of `sae run` are.

    Parameters
    ----------
    config
        A TOML file.
    targets
        Numbers of active latents to try, such as 4,6,9,13; if not given, a grid that is refined around its minimum.
    kind
        The dictionaries to train: any kind that takes a target, k or l0.
    set
        A value in place of the file's, such as train.steps=200; may be given several times.
    out
        The folder of all steps, in place of runtime.out.
    """
    from pipelines.commands import suggest as suggestion
    from pipelines.config.config import read_config
    from pipelines.config.suites import find_config
    from pipelines.steps.progress import Board

    settings = read_config(find_config(config), set or ())
    root = out or settings.runtime.out
    curves, folder = suggestion.run(settings, kind, _numbers(targets), root, Board(Console(stderr=True)))
    suggestion.print_suggestion(curves, folder, Console())


app.command(ask)
app.command(explore)


@app.command
def show(path: str) -> None:
    """Show what is in the directory of a step, or in a saved dictionary of any readable format, with its card.

    Parameters
    ----------
    path
        A step's directory, a report's, or a saved dictionary: a folder, a file, hf://owner/name, or path#name for one
        of several.
    """
    from pipelines.commands.push import print_dictionary
    from pipelines.steps.store import MANIFEST, read_manifest

    directory, console = Path(path), Console()
    is_step = (directory / MANIFEST).is_file()
    if is_step:
        manifest = read_manifest(directory)
        hidden = {"files"} if len(manifest["inputs"]) <= 2 else {"files", "inputs"}
        _print_settings(console, {name: value for name, value in manifest.items() if name not in hidden})
    if (directory / "scores.json").is_file():
        _print_settings(console, json.loads((directory / "scores.json").read_text()))
    if (directory / "scores.csv").is_file():
        from pipelines.stages.report import print_table

        print_table(directory, console)
    if not is_step or (directory / "dictionary").is_dir():
        from sae.files import load

        print_dictionary(load(path), console)


@app.command
def convert(source: str, target: Path, *, format: str = "native") -> None:
    """Read a dictionary in any format and write it in another.

    Parameters
    ----------
    source
        A saved dictionary, or a step's directory that holds one; path#name for one of several.
    target
        The folder to write.
    format
        The format to write.
    """
    from sae.files import convert

    convert(source, target, format)


app.command(push)


def _read(
    file: Path, overrides: Sequence[str] | None, out: Path | None, tier: str = "full"
) -> tuple[Config, list[Step], Path]:
    """The config, its steps and the folder that they are in."""
    from pipelines.config.config import FULL, read_config
    from pipelines.config.suites import find_config
    from pipelines.plan import plan

    settings = read_config(find_config(file), overrides or (), tier)
    return settings, plan(settings, None if tier == FULL else tier), out or settings.runtime.out


def _numbers(targets: str | None) -> list[int] | None:
    """Whole numbers with commas between them."""
    if targets is None:
        return None
    words = targets.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise UserError(f"--targets {targets}: write whole numbers with commas between, for example 4,6,9,13")
    return [int(word) for word in words]


def _point(link: Path, directory: Path) -> None:
    """Lets a symbolic link point at a report, replacing an older one in one move."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.symlink_to(directory.name, target_is_directory=True)
    temporary.replace(link)


def _print_settings(console: Console, settings: Mapping[str, Any], indent: str = "") -> None:
    """A name and its value a line, what is nested indented."""
    for name, value in settings.items():
        line = f"{indent}{name:<{max(1, 28 - len(indent))}}"
        nested = isinstance(value, Mapping) and bool(value)  # pyright: ignore[reportUnknownArgumentType]
        text = line.rstrip() if nested else f"{line} {value}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        if nested:
            _print_settings(console, value, indent + "  ")


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _fail(message: str, code: int) -> None:
    print(f"sae: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
