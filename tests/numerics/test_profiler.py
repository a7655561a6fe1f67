"""Spans: self times add up over nesting and threads; the trace has the format of trace viewers."""

from __future__ import annotations

import json
import threading

import pytest

from sae.numerics.profiler import NO_SPANS, Spans, Total


def test_self_times_sum_to_the_time_of_the_outermost():
    spans = Spans()
    with spans("train"):
        for _ in range(3):
            with spans("data"):
                pass
            with spans("encode"), spans("inner"):
                pass
    totals = spans.totals()
    assert {name: t.count for name, t in totals.items()} == {"train": 1, "data": 3, "encode": 3, "inner": 3}
    assert sum(t.self_seconds for t in totals.values()) == pytest.approx(totals["train"].seconds, abs=1e-9)
    assert totals["inner"].self_seconds == totals["inner"].seconds
    inside = totals["data"].seconds + totals["encode"].seconds
    assert totals["train"].self_seconds == pytest.approx(totals["train"].seconds - inside, abs=1e-9)


def test_a_name_inside_others_is_told_apart_by_its_path():
    spans = Spans()
    with spans("train"), spans("encode"):
        pass
    with spans("score"), spans("encode"), spans("encode"):
        pass
    by_path = spans.by_path()
    assert set(by_path) == {("train",), ("train", "encode"), ("score",), ("score", "encode"),
                            ("score", "encode", "encode")}  # fmt: skip
    encode = Total()
    for path, total in by_path.items():
        encode += total if path[-1] == "encode" else Total()
    assert spans.totals()["encode"] == encode and encode.count == 3


def test_threads_have_spans_of_their_own():
    spans, start = Spans(), threading.Barrier(4)

    def work() -> None:
        start.wait()
        for _ in range(500):
            with spans("outer"), spans("inner"):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    with spans("train"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    by_path = spans.by_path()
    assert {path: t.count for path, t in by_path.items()} == {("train",): 1, ("outer",): 2000, ("outer", "inner"): 2000}
    assert by_path[("train",)].self_seconds == by_path[("train",)].seconds  # spans of other threads are not inside it
    assert len({e["tid"] for e in spans.trace_events()}) == 5


def test_a_span_that_ends_in_an_error_is_recorded_and_the_error_passed_on():
    spans = Spans()
    with pytest.raises(ValueError, match="this"), spans("outer"), spans("inner"):
        raise ValueError("this")
    with spans("after"):
        pass
    assert set(spans.by_path()) == {("outer",), ("outer", "inner"), ("after",)}


def test_the_trace_is_json_of_complete_events_and_bounded():
    spans = Spans(keep=5)
    with spans("train"):
        for i in range(20):
            with spans(f"step {i}"):
                pass
    events = json.loads(json.dumps(spans.trace_events()))
    assert [e["name"] for e in events] == ["train", "step 16", "step 17", "step 18", "step 19"]
    for event in events:
        assert event["ph"] == "X" and event["dur"] >= 0 and event["ts"] >= 0
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
    whole = events[0]
    assert all(whole["ts"] <= e["ts"] and e["ts"] + e["dur"] <= whole["ts"] + whole["dur"] for e in events)
    assert spans.totals()["step 0"].count == 1  # the totals include all of them


def test_the_device_is_waited_for_at_both_ends_in_the_recorders_own_thread():
    calls: list[int] = []
    spans = Spans(synchronise=lambda: calls.append(threading.get_ident()))

    def block() -> None:
        with spans("x"):
            pass

    block()
    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert calls == [threading.get_ident()] * 2 and spans.totals()["x"].count == 2


def test_switched_off_nothing_is_recorded():
    with NO_SPANS("a") as a, NO_SPANS("b"):
        assert a is None
    assert NO_SPANS("a") is NO_SPANS("b")
    assert not NO_SPANS.totals() and not NO_SPANS.trace_events()
