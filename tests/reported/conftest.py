"""The fixtures of a tiny run and of calling the command, from the tests of the pipelines."""

from __future__ import annotations

from tests.pipelines.conftest import call, results, tiny, tiny_file

__all__ = ["call", "results", "tiny", "tiny_file"]
