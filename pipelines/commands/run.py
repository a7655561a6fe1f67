"""The commands `sae plan`, `run`, `status`, `bench` and `suggest`. Nothing heavy is imported before they are called."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape

from pipelines.commands.options import ConfigName, Out, Set, Tier, WorkerOptions, read_plan, read_settings
from pipelines.commands.output import Terminal
from pipelines.report.text_table import TextColumn, print_text_table

Profile = Annotated[bool, Parameter(name="--profile", negative=())]
Devices = Annotated[
    int,
    Parameter(
        name="--devices",
        help="Processes that train together, one for each GPU or with a share of the cores: they divide the members of "
        "a stack, then the latents of each.",
    ),
]
NO_WORKERS = WorkerOptions()
"""The work is done as the config says, by default by the command itself."""


def show_plan(config: ConfigName, *, set: Set = None, out: Out = None, tier: Tier = "full") -> None:
    """List the steps of a config, and which of them are done."""
    from pipelines.precision import precision_notes
    from pipelines.steps.store import Store

    settings, steps, root = read_plan(config, set, out, tier)
    store = Store(root)
    is_done = [store.done(step) for step in steps]
    columns = [
        TextColumn("step", [escape(step.name) for step in steps]),
        TextColumn("what", [escape(step.title) for step in steps], is_text=True),
        TextColumn("done", ["done" if done else "" for done in is_done]),
    ]
    console = Terminal()
    print_text_table(console, "", columns)
    for note in precision_notes(settings, root):
        console.say(note)
    console.say(f"{settings.name}: {len(steps)} steps, {is_done.count(False)} to do, in {root}")


def run_config(
    config: ConfigName,
    *,
    set: Set = None,
    out: Out = None,
    tier: Tier = "full",
    profile: Profile = False,
    workers: WorkerOptions = NO_WORKERS,
    devices: Devices = 1,
) -> None:
    """Do every step of a config that is not done; print the scores and the report's path.

    A run that was stopped or killed continues where it stopped; several runs share the work.

    Parameters
    ----------
    profile
        Also print where the time went, and write a trace that ui.perfetto.dev opens.
    """
    workers.start_ahead()
    from pipelines.commands.calls import PlannedRun, planned_together
    from pipelines.commands.launch import start_devices
    from pipelines.stages.report import print_table
    from pipelines.steps import profile as profiling
    from pipelines.steps.progress import Board
    from sae.registry import UserError

    planned, processes = planned_together(lambda: PlannedRun.of_report(*read_settings(config, set, tier, out), tier))
    settings, root = planned.settings, planned.root
    chosen, console = workers.of(settings), Terminal()
    if profile and not chosen.are_this_process:
        raise UserError("--profile: times the work of one process; leave it out, or use one worker")
    start_devices(devices, settings.runtime.device, has_workers=not chosen.are_this_process)
    runtime = planned.runtime(chosen, processes)
    if profile:
        runtime = replace(runtime, spans=profiling.recorder(runtime.device))
    done = planned.do(runtime, Board(Terminal(stderr=True)), chosen)
    if done is None or not processes.is_first:
        return
    print_table(done.directory, console)
    if profile:
        profiling.print_profile(runtime.spans, root / f"{settings.name}.trace.json", console)
    console.print(f"report: {done.report}", markup=False, highlight=False, soft_wrap=True)


def bench_suites(
    *suite: Path,
    tier: Tier = "",
    set: Set = None,
    out: Out = None,
    workers: WorkerOptions = NO_WORKERS,
    devices: Devices = 1,
) -> None:
    """Compare methods on the data sets of suites: intervals, paired tests, sweeps at one L0, and a page of results.

    Trains and scores what is missing, as `sae run` does, then prints the table and the page's path.

    Parameters
    ----------
    suite
        Names of suites (sharkey-512, absorb-4, ...) or TOML files; several run one after another.
    tier
        fast, full, or another tier of the file; fast where it has one.
    """
    workers.start_ahead()
    from pipelines.commands.calls import plan_suites, planned_together
    from pipelines.commands.launch import start_devices
    from pipelines.stages.bench import print_bench_table
    from pipelines.steps.progress import Board

    # All are planned first, so that a mistake is found before any work.
    every, processes = planned_together(lambda: plan_suites(suite, set, out, tier))
    first = every[0].settings
    start_devices(devices, first.runtime.device, has_workers=not workers.of(first).are_this_process)
    for planned in every:
        chosen, console = workers.of(planned.settings), Terminal()
        done = planned.do(planned.runtime(chosen, processes), Board(Terminal(stderr=True)), chosen)
        if done is None or not processes.is_first:
            continue
        print_bench_table(done.directory, console)
        console.print(f"page: {done.report}", markup=False, highlight=False, soft_wrap=True)


def show_status(config: ConfigName, *, set: Set = None, out: Out = None, tier: Tier = "full") -> None:
    """Show which steps are done, running, stopped, waiting or damaged, from any shell; with the options of the run.

    After a run by several workers, also what each of them does, or how it ended, and its log.
    """
    from pipelines.engines.drive import describe_workers
    from pipelines.precision import precision_notes
    from pipelines.runner import standings
    from pipelines.steps.store import Store

    settings, steps, root = read_plan(config, set, out, tier)
    console = Terminal(soft_wrap=True, highlight=False, markup=False)
    found = standings(steps, Store(root))
    for stage in dict.fromkeys(step.stage for step in steps):
        count = Counter(s.state for s in found if s.step.stage == stage)
        console.print(f"{stage:9}", ", ".join(f"{n} {state}" for state, n in count.items()))
    for note in precision_notes(settings, root):
        console.print(note)
    working = {(s.state, s.status.title, s.status.line(), s.status.pid) for s in found if s.status}
    for state, title, progress, pid in sorted(working):
        console.print(f"{state}: {title}: {progress} (process {pid})")
    for line in describe_workers(settings.name, root):
        console.print(line)
    for standing in found:
        if standing.problem:
            console.print(f"damaged: {standing.problem}")
    if all(s.state == "done" for s in found):
        is_report = steps[-1].stage == "report"
        page = Path(settings.name, "report.html") if is_report else Path(f"{settings.name}-{tier}", "bench.html")
        console.print(f"{'report' if is_report else 'page'}: {root / page}")


def suggest_sparsity(
    config: ConfigName,
    *,
    targets: str | None = None,
    kind: str = "batchtopk",
    set: Set = None,
    out: Out = None,
    tier: Tier = "full",
) -> None:
    """Suggest how many latents should be active: train a sweep of L0 and find where decoder rows are least alike.

    Uses the source, [train] and the widths of a config. Its dictionaries are kept, as those of `sae run` are.

    Parameters
    ----------
    targets
        Numbers of active latents to try, such as 4,6,9,13; without it, a grid that is refined around its minimum.
    kind
        The dictionaries to train: any kind that takes a target, k or l0.
    """
    from pipelines.commands import suggest
    from pipelines.steps.progress import Board

    settings, root = read_settings(config, set, tier, out)
    curves, folder = suggest.run(settings, kind, _numbers(targets), root, Board(Terminal(stderr=True)))
    suggest.print_suggestion(curves, folder, Terminal())


def _numbers(targets: str | None) -> list[int] | None:
    """Whole numbers separated by commas."""
    if targets is None:
        return None
    from sae.registry import UserError

    words = targets.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise UserError(f"--targets {targets}: write whole numbers separated by commas, for example 4,6,9,13")
    return [int(word) for word in words]
