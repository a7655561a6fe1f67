"""Training over processes: measured on this machine, or computed for many devices before any of them is rented.

python -m benchmarks.scale --kind relu --processes 2 --threads 1
python -m benchmarks.scale --plan --d-in 4096 --n-latents 1048576 --gpus 64
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from benchmarks.lines import Line, run
from benchmarks.scale.against import against as compare
from benchmarks.scale.cost_model import Machines
from benchmarks.scale.devices import AT_PEAK, DEVICES, LINKS, Assumptions, Device, Precision, this_cpu
from benchmarks.scale.measure import Measurement, measure
from benchmarks.scale.plan import plan as print_plan
from benchmarks.scale.setting import SELECTING, Kind, Setting
from sae.registry import UserError

LinkName = Literal["nvlink", "nvlink3", "pcie", "ib400", "ib200", "ethernet"]
DEFAULT_LINKS: dict[str, tuple[LinkName, LinkName, int]] = {
    "h100": ("nvlink", "ib400", 8),
    "h200": ("nvlink", "ib400", 8),
    "a100": ("nvlink3", "ib200", 8),
    "cpu": ("ethernet", "ethernet", 1),
}
"""The link within a node, that between nodes, and the number of devices of a node."""


def scale(
    *,
    plan: Annotated[bool, Parameter(negative=())] = False,
    against: Annotated[Sequence[Path] | None, Parameter(consume_multiple=True, negative=())] = None,
    copy_gb_s: float = 12.0,
    d_in: int = 768,
    n_latents: int = 24_576,
    gpus: int = 8,
    batch: int | None = None,
    kind: Kind = "relu",
    k: int = 32,
    l0: float | None = None,
    members: int = 1,
    dtype: Precision = "float32",
    device: Literal["h100", "h200", "a100", "cpu"] = "h100",
    link: LinkName | None = None,
    network: LinkName | None = None,
    gpus_per_node: int | None = None,
    processes: int = 2,
    threads: int = 1,
    path: Literal["dense", "sparse"] = "sparse",
    seconds: float = 8.0,
    rounds: int = 2,
    dead: Annotated[bool, Parameter(negative=())] = False,
    model_flops_per_token: float = 0.0,
    tokens: float | None = None,
    at_peak: Annotated[bool, Parameter(negative=())] = False,
) -> list[Line]:
    """Measure training over several processes of this machine, next to one process with one process's threads and with
    those of all.

    With --plan, print the cost of a training step on 1, 2, 4, ... devices: memory, exchange, samples per second, and
    the limit.

    Parameters
    ----------
    plan
        Compute, from rates of datasheets, or from those of this machine with --device cpu; nothing is measured.
    against
        Files of results of `benchmarks.step`, whose steps are compared with computed ones.
    copy_gb_s
        With --against: the bandwidth of memory, reading and writing; 12 GB/s is what a core of a busy machine gave.
    d_in
        Width of the activations.
    n_latents
        Width of each dictionary.
    gpus
        With --plan: the largest number of devices, one for each process.
    batch
        Samples per step, over all devices: 2048 by default, with --plan 8192.
    kind
        The architecture.
    k
        Active latents per sample.
    l0
        With --plan: the same, for architectures with a penalty, where it need not be a whole number.
    members
        Dictionaries that are trained together on the same batches.
    dtype
        With --plan: arithmetic of the encoder's product. bfloat16 is `train.precision = "bfloat16"`, with dense steps
        in float32.
    device
        With --plan: a GPU of the table, or this machine's CPU, whose rates are measured first.
    link
        With --plan: what connects the devices of a node: NVLink by default, Ethernet for CPUs.
    network
        With --plan: what connects nodes: InfiniBand by default, of 200 Gb/s for an A100, Ethernet for CPUs.
    gpus_per_node
        With --plan: devices of a node: 8 by default, 1 for CPUs.
    processes
        The number of processes that are measured, at least 2.
    threads
        Threads for each process.
    path
        The path of the steps that are measured.
    seconds
        How long each run is measured, at least.
    rounds
        Runs of each kind, of which the median counts.
    dead
        With --plan: count the exchange of the auxiliary loss for dead latents.
    model_flops_per_token
        With --plan: FLOPs of the model for each token up to the hook point; about twice the number of its weights up
        to there.
    tokens
        With --plan: tokens of the training, for the hours that it takes.
    at_peak
        With --plan: take every rate at the datasheet's peak: a limit, not a prediction.
    """
    if against:
        return compare(against, copy_gb_s)
    if not plan:
        of = Measurement(kind, d_in, n_latents, 2048 if batch is None else batch, k, members, path, seconds)
        _check_measured(of, l0)
        return [measure(of, processes, threads, rounds)]
    within, between, per_node = DEFAULT_LINKS[device]
    assumptions = AT_PEAK if at_peak else Assumptions()
    chosen: Device = this_cpu(threads) if device == "cpu" else DEVICES[device]
    if device == "cpu":  # its rates are measured, no shares of a peak
        assumptions = replace(assumptions, product_share=1.0, memory_share=1.0)
    machines = Machines(
        device=chosen,
        link=LINKS[link or within],
        network=LINKS[network or between],
        per_node=gpus_per_node or per_node,
        assumptions=assumptions,
    )
    setting = Setting(
        d_in=d_in,
        n_latents=n_latents,
        batch=8192 if batch is None else batch,
        kind=kind,
        k=_active(kind, k, l0),
        members=members,
        precision=dtype,
        dead=dead,
        model_flops=model_flops_per_token,
    )
    _check(setting, gpus, machines.per_node)
    return print_plan(setting, machines, gpus, tokens)


def _check_measured(of: Measurement, l0: float | None) -> None:
    """Raises `UserError` where a number makes no sense, or is one of a plan."""
    if l0 is not None:
        raise UserError(f"--l0 = {l0:g}: is for --plan; set --k, a whole number, to measure")
    if not 0 < of.k <= of.n_latents:
        raise UserError(f"--k = {of.k}: must be above 0 and at most --n-latents = {of.n_latents}")
    for name, value in {"d_in": of.d_in, "batch": of.batch, "members": of.members}.items():
        if value < 1:
            raise UserError(f"--{name.replace('_', '-')} = {value}: must be at least 1")


def _active(kind: Kind, k: int, l0: float | None) -> float:
    if l0 is not None and kind in SELECTING:
        raise UserError(f'--l0 = {l0:g}: kind = "{kind}" keeps k latents; set --k instead')
    return float(k if l0 is None else l0)


def _check(setting: Setting, gpus: int, per_node: int) -> None:
    """Raises `UserError` where a number makes no sense."""
    sizes = {"d_in": setting.d_in, "n_latents": setting.n_latents, "batch": setting.batch, "members": setting.members}
    for name, value in {**sizes, "gpus": gpus, "gpus_per_node": per_node}.items():
        if value < 1:
            raise UserError(f"--{name.replace('_', '-')} = {value}: must be at least 1")
    if not 0 < setting.k <= setting.n_latents:
        raise UserError(f"--k = {setting.k:g}: must be above 0 and at most --n-latents = {setting.n_latents}")
    if setting.model_flops < 0:
        raise UserError(f"--model-flops-per-token = {setting.model_flops:g}: must not be negative")
    if gpus > setting.members * setting.n_latents:
        raise UserError(
            f"--gpus = {gpus}: more than there are latents, {setting.members * setting.n_latents}; lower it"
        )


if __name__ == "__main__":
    run(scale)
