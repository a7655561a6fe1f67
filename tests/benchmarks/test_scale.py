"""The cost model of one dictionary over many devices: closed forms, limits, monotonicity."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import pytest

from benchmarks.scale import work
from benchmarks.scale.collectives import Collective, Group
from benchmarks.scale.cost_model import (
    FOUND,
    Cost,
    Machines,
    cost,
    data_parallel,
    efficiency,
    fully_sharded,
    least_width,
)
from benchmarks.scale.devices import AT_PEAK, DEVICES, LINKS, Device, Link, Sourced
from benchmarks.scale.plan import counts
from benchmarks.scale.setting import Division, Kind, Setting

H100 = Machines(DEVICES["h100"], LINKS["nvlink"], LINKS["ib400"])
PEAK = replace(H100, assumptions=AT_PEAK)
WIDE = Setting(d_in=4096, n_latents=1 << 20, batch=8192, k=64)
NARROW = Setting(d_in=768, n_latents=24_576, batch=8192, k=32, precision="bfloat16")


def fast(bandwidth: float, hop: float = 0.0) -> Link:
    """A link with the same latency for all protocols."""
    return Link("test", Sourced(bandwidth, ""), *[Sourced(hop, "")] * 3)


def exchanged(of: Cost) -> dict[str, float]:
    """Millions of bytes by what they are."""
    found: dict[str, float] = {}
    for one in of.collectives():
        found[one.what] = found.get(one.what, 0) + one.n_bytes / 1e6
    return found


# Communication


def test_two_batches_are_exchanged_whatever_the_width():
    """Section 4 of the design: 4096 -> 1M latents in batches of 8192, against 34 GB of gradients."""
    of = cost(WIDE, H100, 64)
    assert exchanged(of) == pytest.approx({"samples": 134.2, "reconstructions": 134.2, "sums": 0.0164}, rel=1e-3)
    assert sum(exchanged(of).values()) == pytest.approx(268.5, rel=1e-3)
    assert data_parallel(of).n_bytes == pytest.approx(34.36e9, rel=1e-3)
    assert sum(one.n_bytes for one in fully_sharded(of)) == pytest.approx(3 * 34.36e9, rel=1e-3)
    assert exchanged(cost(replace(WIDE, n_latents=4096), H100, 64)) == exchanged(of)
    assert not cost(WIDE, H100, 1).collectives()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("relu", {"reconstructions": 1}),
        ("jumprelu", {"reconstructions": 1}),
        ("gated", {"reconstructions": 2}),
        ("matryoshka", {"reconstructions": 5, "candidates": FOUND * 16 / 512}),
        ("topk", {"reconstructions": 1, "candidates": 4 * 16 / 512}),
        ("batchtopk", {"reconstructions": 1, "candidates": FOUND * 16 / 512}),
    ],
)
def test_what_each_architecture_exchanges_in_batches(kind: Any, expected: dict[str, float]):
    setting = Setting(d_in=512, n_latents=8192, batch=256, kind=kind, k=16)
    batch = 4 * 256 * 512 / 1e6
    sums = 4 * 514 / 1e6
    found = exchanged(cost(setting, H100, 4))
    assert found.pop("counts", 0) == pytest.approx(4 * 8e-6 * {"topk": 1, "batchtopk": 2, "matryoshka": 2}.get(kind, 0))
    assert found == pytest.approx({"samples": batch, "sums": sums, **{k: v * batch for k, v in expected.items()}})
    more = exchanged(cost(replace(setting, dead=True), H100, 4))
    if kind in ("topk", "batchtopk", "matryoshka"):
        assert more["reconstructions"] == pytest.approx(found["reconstructions"] + batch)
        assert more["dead candidates"] == pytest.approx(4 * batch / 2), "half of d_in from each of four processes"
        assert more["candidates"] == found["candidates"] and more["counts"] <= 4 * 8e-6 * 3
    else:
        assert more == found


def test_rings_take_the_time_of_what_each_device_sends():
    group = Group(8, 8, fast(1e9), fast(1e9))
    assert Collective("", "all-reduce", 1e9, group).seconds == pytest.approx(2 * 7 / 8, rel=1e-3)
    assert Collective("", "all-gather", 1e9, group).seconds == pytest.approx(7 / 8, rel=1e-3)
    assert Collective("", "reduce-scatter", 1e9, group).seconds == Collective("", "all-gather", 1e9, group).seconds
    assert Collective("", "all-reduce", 1e9, replace(group, size=1)).seconds == 0
    # Fifteen steps of a ring, one of them between nodes; a slow network is used by all cards of a node at once.
    two = Group(16, 8, fast(1e9, 1.0), fast(1e8, 10.0))
    assert two.bandwidth == 8e8
    assert Collective("", "all-gather", 8e9, two).seconds == pytest.approx(14 + 10 + 15 / 16 * 10, rel=1e-4)
    shared = replace(two, network=replace(two.network, of_a_node=True))
    assert shared.bandwidth == 1e8
    assert replace(two, network=fast(1e10)).bandwidth == 1e9, "not faster than within a node"


def test_small_sums_go_through_a_tree_whose_latency_grows_slowly():
    def seconds(size: int, n_bytes: float) -> float:
        return Collective("", "all-reduce", n_bytes, H100.group(size)).seconds

    ring = 8.4e-6 + (126 - 14) * 3.4e-6 + 14 * 9.6e-6
    assert seconds(64, 4e3) < 60e-6 < ring
    assert seconds(64, 1e9) == pytest.approx(ring + 2 * 63 / 64 * 1e9 / 368e9), "eight cards of 46 GB/s"
    assert all(seconds(2 * p, n) > seconds(p, n) for p in (2, 4, 8, 16, 32) for n in (1e3, 1e6, 1e9))


# Work and limits


def test_dense_products_at_the_peak():
    """The limit of the speed table: 5.2M samples/s at 768 -> 24,576 in bfloat16."""
    for setting, limit in ((NARROW, 5.24e6), (replace(WIDE, n_latents=131_072), 0.184e6)):
        products = work.dense_step(Division(setting, 1), True, "bfloat16")[0]
        assert products.flops == 5 * 2 * setting.batch * setting.d_in * setting.n_latents
        assert setting.batch / (products.flops / 989e12) == pytest.approx(limit, rel=0.01)
        assert cost(setting, H100, 1).dense_products_per_s() == pytest.approx(limit, rel=0.01)
        assert cost(setting, H100, 8).dense_products_per_s() == pytest.approx(8 * limit, rel=0.01)


def test_sparse_steps_at_the_peak():
    """6.1M samples/s on an H100 and 7.9M on an H200: three gathered rows a code, or two and a stored block."""
    assert cost(NARROW, PEAK, 1).samples_per_s("sparse") == pytest.approx(6.1e6, rel=0.01)
    h200 = replace(PEAK, device=DEVICES["h200"])
    assert cost(NARROW, h200, 1).samples_per_s("sparse") == pytest.approx(7.9e6, rel=0.01)
    update = work.sparse_step(Division(NARROW, 1), True)[2].n_bytes
    weights, pairs = 768 * 24_576, 8192 * 32
    assert update == 4 * (12 * weights + 2 * pairs * 768) + 2 * weights


def test_the_path_is_that_of_the_engine():
    assert cost(NARROW, H100, 1).path == "sparse"
    assert cost(replace(NARROW, k=500), H100, 1).path == "dense"
    topk, few = replace(NARROW, kind="topk"), replace(NARROW, kind="topk", batch=512)
    cpu = Device("", DEVICES["h100"].products, Sourced(1e10, ""), Sourced(1e9, ""), is_gpu=False)
    assert cost(topk, H100, 1).path == "sparse" and cost(few, H100, 1).path == "dense", "2^24 codes of all processes"
    assert cost(topk, H100, 64).path == "sparse" and cost(few, replace(H100, device=cpu), 1).path == "sparse"


@pytest.mark.parametrize("kind", get_args(Kind))
def test_more_devices_take_less_memory_and_time_but_cannot_be_perfect(kind: Any):
    costs = [cost(replace(WIDE, kind=kind), H100, p) for p in counts(64)]
    held = [sum(of.memory.values()) for of in costs]
    assert held == sorted(held, reverse=True)
    assert [of.fits for of in costs] == sorted(of.fits for of in costs)
    assert all(a.work(a.path) > b.work(b.path) for a, b in pairwise(costs))
    shares = [efficiency(of) for of in costs]
    assert shares[0] == 1 and all(0 < b < a + 1e-9 for a, b in pairwise(shares))
    for of in costs:
        assert sum(of.shares().values()) == pytest.approx(1)
        assert of.samples_per_s() * of.seconds() == pytest.approx(8192)


def test_wide_dictionaries_scale_and_narrow_ones_do_not():
    width = least_width(NARROW, H100, 16)
    assert width is not None and 24_576 < width <= 1 << 20
    assert efficiency(cost(replace(NARROW, n_latents=width), H100, 16)) >= 0.5
    assert efficiency(cost(replace(NARROW, n_latents=width // 2), H100, 16)) < 0.5
    slow = replace(H100, network=LINKS["ethernet"])
    assert (least_width(NARROW, slow, 16) or 1 << 30) > width
    assert least_width(NARROW, replace(H100, link=fast(1e3)), 2) is None
    assert cost(NARROW, H100, 64).binds == "communication"
    assert cost(replace(NARROW, d_in=64, n_latents=4096, batch=128), H100, 1).binds == "launches"


def test_the_harvest_is_divided_too():
    with_model = replace(NARROW, model_flops=113e6)
    one, four = (cost(with_model, H100, p) for p in (1, 4))
    assert one.binds == "harvest" and one.harvest == pytest.approx(8192 * 113e6 / (0.4 * 989.4e12))
    assert four.harvest == pytest.approx(one.harvest / 4)
    assert one.seconds() - one.harvest == pytest.approx(cost(NARROW, H100, 1).seconds())


def test_members_are_put_on_processes_first():
    sixteen = replace(NARROW, members=16)
    for p, groups, shards, members in ((4, 4, 1, 4), (16, 16, 1, 1), (64, 16, 4, 1)):
        division = Division(sixteen, p)
        assert (division.groups, division.shards, division.members) == (groups, shards, members)
    assert set(exchanged(cost(sixteen, H100, 16))) == {"samples"}
    assert set(exchanged(cost(sixteen, H100, 64))) == {"samples", "reconstructions", "sums"}
    assert efficiency(cost(sixteen, H100, 16)) > 0.8 > efficiency(cost(NARROW, H100, 16))
    three = Division(replace(NARROW, members=3), 2)
    assert (three.groups, three.members) == (2, 2), "the larger share counts"
    three = Division(replace(NARROW, members=3), 4)
    assert (three.groups, three.shards, three.members) == (2, 2, 2), "groups of as many processes"
