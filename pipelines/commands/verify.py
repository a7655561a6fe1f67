"""The command `sae verify`: every file of every finished step is read and compared with its hash."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from pipelines.commands.output import Terminal


def verify_steps(folder: Path = Path("runs")) -> None:
    """Read every file of the finished steps in a folder and compare it with its hash.

    `sae run`, `plan` and `status` read large files again only if their size or time of change differ. This reads all,
    as after copying a folder, or where a disk is in doubt. Damaged steps are named, with what to do.

    Parameters
    ----------
    folder
        The folder of the steps, runtime.out in a config.
    """
    from sae.registry import UserError

    damaged, n_steps = check_folder(folder, Terminal(stderr=True))
    console = Terminal()
    for problem in damaged:
        console.say(f"damaged: {problem}")
    if damaged:
        raise UserError(f"{folder}: {len(damaged)} of {n_steps} steps are damaged; see above what to do with each")
    console.say(f"{folder}: {n_steps} steps, all as they were written")


def check_folder(folder: Path, console: Console) -> tuple[list[str], int]:
    """What is wrong with each damaged step of a folder, and the number of finished steps.

    Raises `MissingFileError` where there is no such folder, `UserError` where no step is finished in it.
    """
    from rich.progress import BarColumn, Progress, TextColumn

    from pipelines.steps.known_hashes import save_known
    from pipelines.steps.manifest import is_step_name, verify_folder
    from sae.registry import MissingFileError, UserError

    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder; give that of the steps, such as runs")
    steps = sorted(path for path in folder.iterdir() if path.is_dir() and is_step_name(path.name))
    if not steps:
        raise UserError(f"{folder}: no finished step in it; give the folder of the steps, such as runs")
    damaged, columns = list[str](), (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("verify", total=len(steps))
        for step in steps:
            bar.update(task, description=step.name)
            try:
                verify_folder(step)
            except UserError as error:
                damaged.append(str(error))
            bar.advance(task)
    save_known(folder)
    return damaged, len(steps)
