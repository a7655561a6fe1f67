"""Tokenises chunks in several processes, in order, so that what is written does not depend on their number.

A process is a Python of its own that is fed through pipes. It imports no main program, as those of multiprocessing do,
and ends when this process does, however that ends.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, Any

import torch

from sae.activations.text_chunks import Chunk
from sae.activations.tokeniser import TokenisedChunk

ALONE_SECONDS = 5.0
"""How long this process works alone. Other processes take seconds to start, and a small text is done by then."""
MOST_PROCESSES = 16
"""The most processes that are started by default: this one, which reads and writes, cannot feed more."""
AHEAD = 2
"""The number of chunks per process that are read ahead."""
SERVE = "import sys; sys.path[:] = {path!r}; from sae.activations.text_workers import serve; serve()"

Work = Callable[[Chunk], TokenisedChunk]


def usable_processes() -> int:
    """The number of processes to tokenise with: one for each thread that PyTorch may use, on the cores of this one."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(cores, torch.get_num_threads(), MOST_PROCESSES))


def in_order(
    work: Work, chunks: Iterator[Chunk], processes: int, alone_seconds: float | None = None
) -> Generator[TokenisedChunk]:
    """Tokenises chunks, in their order: in this process at first, after `alone_seconds` (default
    :data:`ALONE_SECONDS`) in others."""
    began, alone_seconds = time.monotonic(), ALONE_SECONDS if alone_seconds is None else alone_seconds
    while processes == 1 or time.monotonic() - began < alone_seconds:
        chunk = next(chunks, None)
        if chunk is None:
            return
        yield work(chunk)
    try:
        pickled = pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError):  # a tokenizer that is defined in a notebook
        yield from map(work, chunks)
        return
    yield from _by_processes(work, pickled, chunks, processes)


def _by_processes(work: Work, pickled: bytes, chunks: Iterator[Chunk], processes: int) -> Generator[TokenisedChunk]:
    idle = SimpleQueue[_Process]()
    started = [_Process(pickled) for _ in range(processes)]
    for process in started:
        idle.put(process)

    def ask(chunk: Chunk) -> TokenisedChunk | None:
        process = idle.get()
        try:
            return process.ask(chunk)
        finally:
            idle.put(process)

    threads = ThreadPoolExecutor(processes, "tokenise")
    pending = deque[tuple[Chunk, Future[TokenisedChunk | None]]]()
    try:
        exhausted = False
        while pending or not exhausted:
            while not exhausted and len(pending) < AHEAD * processes:
                chunk = next(chunks, None)
                exhausted = chunk is None
                if chunk is not None:
                    pending.append((chunk, threads.submit(ask, chunk)))
            if pending:
                chunk, future = pending.popleft()
                # What fails there is done again here, so that an error is raised where and when it would be with one
                # process.
                done = future.result()
                yield work(chunk) if done is None else done
    finally:
        for process in started:
            process.end()
        threads.shutdown(cancel_futures=True)


class _Process:
    """A process that tokenises one chunk after another."""

    def __init__(self, pickled: bytes) -> None:
        # Each has a core of its own; a session of its own, because Ctrl-C in the terminal is for this process alone.
        environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", SERVE.format(path=sys.path)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )
        self._pickled: bytes | None = pickled
        self._works = True

    def ask(self, chunk: Chunk) -> TokenisedChunk | None:
        """The chunk tokenised; None where the process fails to."""
        assert self._process.stdin is not None and self._process.stdout is not None
        if not self._works:
            return None
        try:
            if self._pickled is not None:
                _send(self._process.stdin, self._pickled)
                self._pickled = None
            _send(self._process.stdin, pickle.dumps(chunk, pickle.HIGHEST_PROTOCOL))
            return pickle.loads(_receive(self._process.stdout))
        except (EOFError, OSError):
            self._works = False
            return None

    def end(self) -> None:
        """Ends the process."""
        if not self._works:
            warnings.warn("a process that tokenises text has failed; this one did its work, more slowly", stacklevel=2)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what it has not been sent
                    pipe.close()


def serve() -> None:
    """What such a process does until nobody feeds it any more."""
    # What a library prints must not get between the answers.
    receive, send = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    try:
        work: Work = pickle.loads(_receive(receive))
        while True:
            chunk = pickle.loads(_receive(receive))
            try:
                done: Any = work(chunk)
            except Exception:  # it is raised by the process that asks, which does the same work
                done = None
            _send(send, pickle.dumps(done, pickle.HIGHEST_PROTOCOL))
    except (EOFError, BrokenPipeError):
        pass


def _send(stream: IO[bytes], content: bytes) -> None:
    stream.write(len(content).to_bytes(8, "little"))
    stream.write(content)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    size = stream.read(8)
    content = stream.read(int.from_bytes(size, "little"))
    if len(size) < 8 or len(content) < int.from_bytes(size, "little"):
        raise EOFError
    return content
