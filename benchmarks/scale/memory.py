"""The memory that training takes on each device, as the code allocates it.

For M members of N latents on a process, d dimensions and batches of B samples, in bytes:

    parameters            8 M N d + 4 M N (1 + a) + 4 M d + 4 M    a numbers more per latent: gated 2, jumprelu 1
    moments of Adam       twice the parameters but the thresholds, 4 M
    gradient buffers      8 M' N d        M' members at once: all on a GPU, one of a large dictionary on a CPU
    blocks of codes       8 M' N rows + 4 M' rows d        rows = max(256, 2^29 / N) on a GPU, 2^21 / N on a CPU
    temporaries           4 M' N rows for each of TEMPORARIES; where codes are selected over the batch, 7 N rows, and
                          12 M' k B for each block, but no more than for half of the codes
    residuals             4 M B d for each reconstruction of a sparse step; on several processes 4 M B d + 4 B d more
    gathered              14 bytes for each code that is offered to the other processes, k of a row from each at most
    search                pre-activations of a block, and for each of them a bit on a GPU, 8 bytes on a CPU;
                          10 bytes for each active code, and on a GPU 512 for each row at least
    rounded encoder       2 M N d + 8 M N with `precision = "bfloat16"`
    batches               4 B d for each: prefetched ones on a GPU, the batch and its scaled copy
    bookkeeping           5 M N: steps since a latent fired, and whether it fired

Gradient buffers and blocks are allocated before the first step and kept, whichever path is taken. A selection over the
batch begins without a threshold: in the first step half of all pre-activations are positive; of each block their mask,
their places and their values are held, of blocks before it the k B largest (`selection.at_most`).
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.scale.devices import Assumptions, Device
from benchmarks.scale.setting import FLOAT, OVER_BATCH, PARAMETERS, SELECTING, Division

BLOCK = {True: 1 << 29, False: 1 << 21}
"""Codes of a member in a block of the dense path, on a GPU or a CPU (sae/training/dense_step.py)."""
LARGE_ON_CPU = 1 << 18
"""Codes of a member from which a CPU processes members one at a time (sae/training/engine.py)."""
FOUND_BYTES, KEPT_BYTES = 7, 12
"""Bytes for each code of a block in which the largest of a batch are searched, a mask, the places and values of half of
them; and for each of the codes that are kept of a block: in a list, beside each other, and once more while some are
chosen."""
OFFERED_BYTES = 14
"""Bytes for each code that processes offer each other: as gathered, stacked, sorted by rows, and two masks."""
STORED, FUSED, ON_CPU = 1 << 23, 1 << 28, 1 << 20
"""Pre-activations in a block of the search: stored or fused on a GPU (kernels/gpu.py), on a CPU (kernels/cpu.py)."""
LEAST_ROWS = {True: 128, False: 512}
"""Rows of the smallest block of the search, on a GPU or a CPU."""
PAIR_BYTES, GROWTH, LEAST_PAIRS = 8, 1.25, 64
"""Buffers for each active code: bytes, room for growth, and the active codes per row for which a GPU has room."""
TEMPORARIES: Mapping[str, float] = {"relu": 0.3, "gated": 6.3, "jumprelu": 6.3, "topk": 1.0}
"""Blocks of codes that a dense step allocates beside its buffers, measured (test_scale_of_the_code.py)."""


def dense_rows(division: Division, is_gpu: bool) -> int:
    """The samples in a block of the dense path."""
    return min(division.setting.batch, max(256, BLOCK[is_gpu] // division.latents))


def search_rows(division: Division, is_gpu: bool) -> int:
    """The samples whose pre-activations a sparse step searches at a time."""
    least, entries = LEAST_ROWS[is_gpu], ON_CPU
    if is_gpu:
        entries = FUSED if is_fused(division, is_gpu) else STORED
    rows = entries // division.latents
    return min(division.setting.batch, max(least, rows // least * least if is_gpu else rows))


def is_fused(division: Division, is_gpu: bool) -> bool:
    """Whether the search takes place in the registers that the product is computed in."""
    return is_gpu and division.setting.precision == "bfloat16" and division.setting.kind != "topk"


def members_at_once(division: Division, is_gpu: bool) -> int:
    """The members that the dense path processes at a time."""
    is_large = not is_gpu and division.setting.batch * division.setting.n_latents >= LARGE_ON_CPU
    return 1 if is_large else division.members


def held_bytes(division: Division, device: Device, assumptions: Assumptions) -> dict[str, float]:
    """Bytes on each device by what they are for, at most; see the module for the terms."""
    s, is_gpu = division.setting, device.is_gpu
    at_once, rows, searched = (
        members_at_once(division, is_gpu),
        dense_rows(division, is_gpu),
        search_rows(division, is_gpu),
    )
    trained = 2 * division.matrix_entries + division.latent_entries * (1 + PARAMETERS.get(s.kind, 0))
    trained += division.members * s.d_in
    is_short = s.precision == "bfloat16"
    searching = searched * division.latents * ((2 if is_short else FLOAT) + (1 / 8 if is_gpu else 8))
    pairs = max(GROWTH * division.pairs, LEAST_PAIRS * division.members * s.batch if is_gpu else 0)
    block = FLOAT * at_once * rows * division.latents
    again = division.shards > 1 or s.kind == "matryoshka"
    residuals = (s.decodings + again) * division.members + (division.shards > 1)
    short = (2 * division.matrix_entries + 2 * FLOAT * division.latent_entries) if is_short else 0
    return {
        "parameters": FLOAT * (trained + division.members),
        "moments": FLOAT * 2 * trained,
        "gradient_buffers": FLOAT * 2 * at_once * division.latents * s.d_in,
        "blocks": 2 * block + FLOAT * at_once * rows * s.d_in,
        "temporaries": TEMPORARIES.get(s.kind, 0.0) * block if s.kind not in OVER_BATCH else _search(division, is_gpu),
        "residuals": FLOAT * residuals * division.sample_entries,
        "search": searching + PAIR_BYTES * pairs,
        "rounded_encoder": float(short),
        "batches": FLOAT * division.sample_entries * (2 + (assumptions.prefetched if is_gpu else 0)),
        "gathered": float(OFFERED_BYTES * offered_candidates(division)),
        "bookkeeping": 5.0 * division.latent_entries,
    }


def _search(division: Division, is_gpu: bool) -> float:
    """Bytes in which the first step of a selection over the batch searches for the threshold."""
    s, rows = division.setting, dense_rows(division, is_gpu)
    kept = min(-(-s.batch // rows) * s.k * s.batch, s.batch * division.latents / 2)
    return FOUND_BYTES * rows * division.latents + KEPT_BYTES * members_at_once(division, is_gpu) * kept


def offered_candidates(division: Division) -> float:
    """Codes that the processes of a group offer each other at most, to find the threshold of a selection over all
    latents; 0 where one process has them all. Of a selection over the batch, a member's in the first step."""
    s, shards = division.setting, division.shards
    if shards == 1 or s.kind not in SELECTING:
        return 0.0
    members = 1 if s.kind in OVER_BATCH else division.members
    return s.batch * shards * max(members * s.k, s.aux_k)
