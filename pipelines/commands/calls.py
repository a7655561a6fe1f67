"""The work of `sae run` and `sae bench`, and the same as Python calls, :func:`run` and :func:`bench`.

The calls are reached as ``sae.run`` and ``sae.bench``. They read the same configs, share the same folder of steps and
raise the same errors as the commands, and print nothing but a progress line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import torch

from pipelines import runner
from pipelines.commands.options import read_settings
from pipelines.commands.output import Terminal
from pipelines.commands.result import Run
from pipelines.config.config import FULL, Config, read_table
from pipelines.config.python_tables import toml_values
from pipelines.config.shipped import find_config
from pipelines.config.toml_tables import Overrides
from pipelines.engines.choice import Workers
from pipelines.engines.drive import drive
from pipelines.engines.shared_run import SharedRun
from pipelines.following import follow
from pipelines.plan import plan
from pipelines.precision import precision_notes
from pipelines.steps.joining import after_first, join_processes
from pipelines.steps.progress import Board
from pipelines.steps.step import Runtime, Step
from pipelines.steps.store import Store
from sae.model.placement import device_for_models, run_models_on
from sae.numerics.processes import ALONE, Processes
from sae.numerics.progress_line import is_terminal
from sae.registry import UserError, expand_home

_Result = TypeVar("_Result")
ONE = Workers()
"""The work is done by this process."""

ConfigLike = str | Path | Mapping[str, Any]
"""A config: a TOML file, the name of one that `sae configs` lists, or its tables as a dict."""


@dataclass(frozen=True)
class PlannedRun:
    """A config with its steps, all mistakes in it found, before any work."""

    settings: Config
    """The config."""
    root: Path
    """The folder of all steps."""
    steps: Sequence[Step]
    """Its steps in the order of the work; the last one makes the page."""
    link: str
    """The name of the link to the page's folder."""

    @classmethod
    def of_report(cls, settings: Config, root: Path, tier: str) -> PlannedRun:
        """The run that ends in a report. Raises `UserError` where the config does not fit together."""
        # A tier of its own name, beside the page of `sae bench` and the report of the whole file.
        link = settings.name if tier == FULL else f"{settings.name}-{tier}-report"
        return cls(settings, root, plan(settings), link)._with_free_link()

    @classmethod
    def of_suite(cls, settings: Config, root: Path, tier: str) -> PlannedRun:
        """The run that ends in a comparison of methods. Raises `UserError` where the config does not fit together."""
        return cls(settings, root, plan(settings, tier), f"{settings.name}-{tier}")._with_free_link()

    def _with_free_link(self) -> PlannedRun:
        link = self.root / self.link
        if link.exists() and not link.is_symlink():
            raise UserError(f"{link}: exists and is not a link to a report; move it, or rename the config")
        return self

    def runtime(self, workers: Workers = ONE, processes: Processes = ALONE) -> Runtime:
        """How the work is done. Sets torch's threads; raises `UserError` where this machine has no such device. The
        machines of a cluster may have others than this one."""
        local = workers.on == "local"
        return runner.execution(self.settings.runtime, processes) if local else Runtime()

    def do(self, runtime: Runtime, board: Board, workers: Workers = ONE) -> Run | None:
        """Does every step that is not done, by workers where there are several, and links the page; None where jobs of
        a cluster go on with the work after the call. Of several processes, all but the first help with what the first
        is doing."""
        store, processes = Store(self.root), runtime.processes
        if not processes.is_first:
            follow(self.steps, store, runtime)
            processes.wait_for_first()
            return self._result(store, store.root / self.link)
        for note in precision_notes(self.settings, self.root):
            board.note(note)
        if workers.are_this_process or all(store.done(step) for step in self.steps):
            runner.run(self.steps, store, runtime, board)
        else:
            engine = workers.engine()
            shared = engine.rejoin(self.steps, self.root)
            if shared is None:
                shared = SharedRun.create(self.settings.name, self.steps, self.settings.runtime, self.root)
            if not drive(engine, shared, workers.n, board.console):
                return None
        page = store.link(self.link, store.directory(self.steps[-1]))
        processes.wait_for_first()
        return self._result(store, page)

    def _result(self, store: Store, page: Path) -> Run:
        """What was made, once all steps are done."""
        last = self.steps[-1]
        directory = store.directory(last)
        made = {name: store.directory(step) for name, step in last.inputs.items()}
        return Run(self.settings.name, directory, page, made, last)


def suite_tier(config: Path | Mapping[str, Any], tier: str) -> str:
    """The tier that `sae bench` takes: the given one, else ``fast`` where the config has it, else ``full``."""
    table = config if isinstance(config, Mapping) else read_table(find_config(config))
    return tier or ("fast" if "fast" in table.get("tiers", {}) else FULL)


def run(
    config: ConfigLike,
    set: Overrides | None = None,
    out: str | Path | None = None,
    tier: str | None = None,
    progress: bool | None = None,
    workers: int | None = None,
) -> Run:
    """Does every step of a config that is not done, as `sae run` does, and returns the scored dictionaries.

    A run that was interrupted continues where it stopped; a run that is done is only read. The command and this call
    share their steps. In a program that torchrun has started in several processes, they train together, and all return
    the same.

    Parameters
    ----------
    config
        A TOML file, the name of a config that `sae configs` lists, or the tables of such a file as a dict: ``{"name":
        "mine", "source": {...}, "dictionary": {...}}``. Settings objects are tables too: ``{"train":
        sae.TrainConfig(steps=2000)}``.
    set
        Values in place of the config's: ``{"train.steps": 200}``, or ``["train.steps=200"]`` as on the command line. A
        table takes the place of the whole table: ``{"train": {"steps": 200}}`` sets all other settings of training to
        their defaults.
    out
        The folder of all steps, in place of ``runtime.out`` (``runs``).
    tier
        A tier of the config, such as ``fast``; the config as it is written where None.
    progress
        Whether progress is shown on stderr: a bar on a terminal, a line every 15 seconds elsewhere. None: a bar on a
        terminal, nothing elsewhere.
    workers
        Processes among which the steps are divided; ``runtime.workers`` of the config where None, by default the work
        is done in this process.

    Raises `UserError` (a `ValueError`) for mistakes in the config, before any work, and
    :class:`~pipelines.engines.WorkersFailed` where workers fail by anything else, with the place of the log.
    """
    given = _given(config)
    chosen = FULL if tier is None else tier

    def plan() -> PlannedRun:
        return PlannedRun.of_report(*read_settings(given, _overrides(set), chosen, _folder(out)), chosen)

    return _done(*planned_together(plan), progress, workers)


@overload
def bench(
    suite: ConfigLike,
    set: Overrides | None = None,
    out: str | Path | None = None,
    tier: str | None = None,
    progress: bool | None = None,
    workers: int | None = None,
) -> Run: ...
@overload
def bench(
    suite: Sequence[ConfigLike],
    set: Overrides | None = None,
    out: str | Path | None = None,
    tier: str | None = None,
    progress: bool | None = None,
    workers: int | None = None,
) -> list[Run]: ...
def bench(
    suite: ConfigLike | Sequence[ConfigLike],
    set: Overrides | None = None,
    out: str | Path | None = None,
    tier: str | None = None,
    progress: bool | None = None,
    workers: int | None = None,
) -> Run | list[Run]:
    """Compares the methods of a suite, as `sae bench` does: trains and scores what is missing, then tests and compares.

    The arguments are those of :func:`run`; `suite` is also the name of a suite, such as ``sharkey-512``, and `tier` is
    ``fast`` where None and the suite has such a tier. A list of suites gives a list of runs: all are planned first, so
    that a mistake is found before any work, and then done one after another. Raises `UserError` as :func:`run` does,
    and where the list is empty.
    """
    several = list(suite) if isinstance(suite, list | tuple) else None
    given = [_given(one) for one in ([suite] if several is None else several)]
    planned, processes = planned_together(lambda: plan_suites(given, _overrides(set), _folder(out), tier or ""))
    done = [_done(one, processes, progress, workers) for one in planned]
    return done[0] if several is None else done


def plan_suites(
    suites: Sequence[Path | Mapping[str, Any]], overrides: Overrides | None, out: Path | None, tier: str
) -> list[PlannedRun]:
    """The comparison of each suite, in the given tier or the one that :func:`suite_tier` finds.

    Raises `UserError` where there is no suite, or a config does not fit together.
    """
    if not suites:
        raise UserError("bench: name a suite, for example sharkey-512, or give a config")
    tiers = [suite_tier(one, tier) for one in suites]
    read = [read_settings(one, overrides, its_tier, out) for one, its_tier in zip(suites, tiers, strict=True)]
    return [PlannedRun.of_suite(*of, its_tier) for of, its_tier in zip(read, tiers, strict=True)]


def _given(config: Any) -> Path | dict[str, Any]:
    if isinstance(config, Mapping):
        return toml_values(config)
    if not isinstance(config, str | Path):
        raise UserError(
            f"config: {type(config).__name__}; give a TOML file, a name that `sae configs` lists, or a dict of tables"
        )
    return expand_home(Path(config))


def _overrides(given: Any) -> Overrides:
    if given is None:
        return ()
    if isinstance(given, Mapping):
        return toml_values(given, "set")
    if isinstance(given, str):
        return [given]
    several = cast(Sequence[Any], given) if isinstance(given, list | tuple) else (None,)
    texts = [one for one in several if isinstance(one, str)]
    if len(texts) < len(several):
        raise UserError('set: give a dict such as {"train.steps": 200}, or texts such as "train.steps=200"')
    return texts


def _folder(out: str | Path | None) -> Path | None:
    return None if out is None else expand_home(Path(out))


def planned_together(plan: Callable[[], _Result]) -> tuple[_Result, Processes]:
    """A plan, and the processes that were started with this one to do it; the first plans before the others."""
    processes = join_processes()
    return after_first(processes, plan), processes


def _done(planned: PlannedRun, processes: Processes, progress: bool | None, workers: int | None) -> Run:
    n = planned.settings.runtime.workers if workers is None else workers
    chosen = Workers(n) if processes.size == 1 else ONE
    with _process_settings_restored():
        done = planned.do(planned.runtime(chosen, processes), Board(_console(progress)), chosen)
    assert done is not None, "only jobs of a cluster go on after the call"
    return done


def _console(progress: bool | None) -> Terminal:
    """Where progress is shown. In a notebook stderr is no terminal, and rich's widgets there need a package; that a
    kernel sets FORCE_COLOR, by which rich takes it for one, would fill the page with every state of a bar."""
    console = Terminal(stderr=True, force_jupyter=False, force_terminal=is_terminal(sys.stderr))
    console.quiet = not (console.is_terminal if progress is None else progress)
    return console


@contextmanager
def _process_settings_restored() -> Generator[None]:
    """Undoes what a config's ``[runtime]`` sets for the whole process, which here is the user's."""
    threads, models = torch.get_num_threads(), device_for_models("")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        run_models_on(models or None)
