"""The command `sae`: its subcommands, plugins, and how mistakes and bugs are reported."""

from __future__ import annotations

import errno
import os
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from pipelines.commands.ask import ask
from pipelines.commands.configs import list_configs
from pipelines.commands.dictionaries import convert_dictionary, push_dictionary, show_path
from pipelines.commands.explore import explore
from pipelines.commands.graph import graph
from pipelines.commands.init import init_config
from pipelines.commands.output import Terminal, open_streams
from pipelines.commands.run import bench_suites, run_config, show_plan, show_status, suggest_sparsity
from pipelines.commands.verify import verify_steps
from pipelines.engines import WorkersFailed
from pipelines.steps.stopping import Stopped

MACHINE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG})
"""Errors of the operating system that are about the user's machine: a full disk, a folder that cannot be written."""

OTHERS_SECONDS = 2.0
"""How long a process of several waits to be ended with the others before it says what went wrong."""
HELP_WIDTH = 100
"""Columns of the help where it is not written to a terminal."""
_PLUGINS: set[Path] = set()


def _version() -> str:
    try:
        return version("superposition-sae")
    except PackageNotFoundError:  # a checkout that is not installed; this imports torch
        import sae

        return sae.__version__


app = App(
    name="sae",
    help="Sparse autoencoders from a config to a scored dictionary.",
    version=_version,
    console=Terminal(piped_width=HELP_WIDTH),
    error_console=Terminal(piped_width=HELP_WIDTH, stderr=True),
)
app.meta.group_parameters = "Options of every command"
for name, command in {
    "plan": show_plan,
    "run": run_config,
    "bench": bench_suites,
    "status": show_status,
    "verify": verify_steps,
    "suggest": suggest_sparsity,
    "ask": ask,
    "explore": explore,
    "graph": graph,
    "show": show_path,
    "convert": convert_dictionary,
    "push": push_dictionary,
    "configs": list_configs,
    "init": init_config,
}.items():
    app.command(command, name=name)
app.register_install_completion_command(help="Complete commands and options in your shell, from its next start on.")


@app.meta.default
def run_with_plugins(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    plugin: Annotated[list[Path] | None, Parameter(name="--plugin", negative=())] = None,
    debug: Annotated[bool, Parameter(name="--debug", negative=())] = False,
) -> None:
    """Sparse autoencoders from a config to a scored dictionary.

    Parameters
    ----------
    plugin
        A Python file with kinds of your own (sources, dictionaries, encoders, baselines, metrics), which configs may
        then name; may be given several times. It is run: give only files that you trust.
    debug
        Show the traceback of every error.
    """
    for file in plugin or []:
        from sae.registry import load_plugin

        _PLUGINS.add(file.resolve())
        load_plugin(file)
    try:
        command, bound, *_ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    except UnusedCliTokensError as error:
        raise _too_many(error.unused_tokens or [], plugin or [], tokens) from None
    command(*bound.args, **bound.kwargs)


def _too_many(unused: Sequence[str], plugins: Sequence[Path], tokens: Sequence[str]) -> Exception:
    """The error for arguments that are left over, often because several files follow one --plugin."""
    from sae.registry import UserError

    files = [token for token in tokens if token.endswith(".py")]
    if plugins and files:
        each = " ".join(f"--plugin {file}" for file in (*plugins, *files))
        return UserError(f"--plugin {plugins[-1]} {' '.join(files)}: it takes one file; give {each}")
    return UserError(f"{' '.join(unused)}: more than the command takes; see `sae {tokens[0]} --help`")


def main() -> None:
    """Exit codes: 0 done, 1 a bug, with its traceback, 2 a mistake of the user, in one line, 130 interrupted,
    143 stopped by SIGTERM."""
    debug = "--debug" in sys.argv[1:]
    open_streams()
    try:
        command, bound, *_ = app.meta.parse_args(_words(), exit_on_error=False, print_error=False)
        command(*bound.args, **bound.kwargs)
    except Stopped:  # which has said so
        raise
    except SystemExit as stop:
        place = _place_in_plugin()
        if place is None:
            raise
        _fail(f"{place}: the plugin ended the command with sys.exit({stop.code!r}) before the work was done", 1, debug)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to continue", 130, debug)
    except Exception as error:
        message = _users_part(error)
        if isinstance(error, WorkersFailed):
            _fail(str(error), 1, debug)
        elif message is None:
            _report_bug()
        else:
            _fail(message, 2, debug)


def _words() -> list[str]:
    """The words of the command line. A shell leaves ``~`` in quotes and behind an equals sign as it is."""
    split = (word.rpartition("=") if word.startswith("--") else ("", "", word) for word in sys.argv[1:])
    return [f"{name}{equals}{os.path.expanduser(value)}" for name, equals, value in split]


def _users_part(error: Exception) -> str | None:
    """One line for a mistake of the user or a limit of the machine; None for a bug."""
    from sae.registry import UserError  # not at the top: help and completion need no torch

    one_line = " ".join(str(error).split())
    if isinstance(error, CycloptsError | UserError):
        return one_line or type(error).__name__
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter torch's, of a GPU
        return f"out of memory: a smaller batch_size, n_latents or n_rows may fit ({one_line or 'no details'})"
    library = type(error).__module__.partition(".")[0]
    if library in ("trackio", "wandb"):  # no login, no connection, a wrong name of a project
        return f"runtime.sinks: {library}: {one_line or type(error).__name__}"
    if isinstance(error, OSError) and error.errno in MACHINE:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    return None


def _report_bug() -> None:
    """Prints the traceback of an error that is not a mistake of the user, and whose it is; exit code 1."""
    terminal = Terminal(stderr=True)
    terminal.say(traceback.format_exc().rstrip())
    place = _place_in_plugin()
    if place is not None:
        terminal.say(f"sae: the error arose in the plugin {place}")
        sys.exit(1)
    system = f"sae {_version()}, Python {platform.python_version()}, {platform.system()}"
    terminal.say(f"sae: this is a bug of sae, not a mistake of yours; please report it with the lines above ({system})")
    sys.exit(1)


def _place_in_plugin() -> str | None:
    """The file and line of a plugin in which the present exception arose; None where no plugin took part."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    outside = [frame for frame in frames if Path(frame.filename).resolve() in _PLUGINS]
    return f"{outside[-1].filename}, line {outside[-1].lineno}" if outside else None


def _fail(message: str, code: int, debug: bool) -> None:
    if int(os.environ.get("RANK", "0")) > 0:  # the first of several processes says the same, and ends this one
        time.sleep(OTHERS_SECONDS)
    terminal = Terminal(stderr=True)
    if debug:
        terminal.say(traceback.format_exc().rstrip())
    terminal.say(f"sae: {message}")
    sys.exit(code)


if __name__ == "__main__":
    main()
