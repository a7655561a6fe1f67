"""Results that live as long as their object."""

from __future__ import annotations

import gc
import weakref

from sae.numerics.weak_cache import once_per_object


class Thing:
    pass


def test_once_per_object_and_arguments_and_nothing_is_kept_alive():
    calls: list[int] = []

    @once_per_object
    def twice(of: Thing, n: int) -> list[int]:
        calls.append(n)
        return [2 * n]

    thing, other = Thing(), Thing()
    assert twice(thing, 3) is twice(thing, 3) and twice(thing, 4) == [8] and twice(other, 3) == [6]
    assert calls == [3, 4, 3]
    gone = weakref.ref(thing)
    del thing
    gc.collect()
    assert gone() is None
