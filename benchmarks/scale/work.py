"""The work of one training step on each device: FLOPs, and bytes that pass through its memory, phase by phase.

For E = M B N codes, W = M N d weights of a matrix, X = B d numbers of a batch, R = M B d of the reconstructions and
P = M B k active codes of a process, all of its own members and latents (numbers, four bytes each):

    dense
      products     n 2 E d FLOPs;  n = 5: encode, decode, code gradients, two weight gradients. Gates are decoded and
                   led back too (7); a threshold over the batch takes another encoder product (6)
      codes        passes over E: offset and ReLU 4, slope 2, mask 3, sums 2; copies and search of a selection
      weights      20 W: factors and centre of the gradients 6, the gradients 2, Adam on both matrices 12
    sparse
      encode       2 E d FLOPs;  W for each block of rows that is searched, and E twice where a block exceeds the cache
      decode       P d to gather decoder rows, X + R;  again P d + R where another process's part has to be added before
                   the code gradients; the same for gates, and R for each level
      update       2 P d to gather residuals and samples, 12 W of Adam

A sparse step gathers four rows for each active code (`sae/training/kernels`); those of the code gradients are still in
the cache on one process. No other hit is counted. Codes that only lie in JumpReLU's window, auxiliary losses for dead
latents and numbers for each latent or pair are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.scale.devices import Assumptions, Device, Precision
from benchmarks.scale.memory import dense_rows, is_fused, search_rows
from benchmarks.scale.setting import FLOAT, OVER_BATCH, SELECTING, Division

IN_CACHE = {True: 1 << 25, False: 1 << 22}
"""Bytes of a block of pre-activations that stays in the cache, on a GPU or a CPU."""
FUSED_ROWS = 1024
"""Rows for which the fused search reads the encoder once: eight tiles of 128 (kernels/gpu.py)."""
CODE_PASSES, TOPK_PASSES, BATCH_PASSES = 11, 8, 6
"""Passes over dense codes: in every step, for the largest of a row (readings, zeros, a copy), and for a threshold."""
WEIGHT_PASSES, ADAM_PASSES = 20, 12
"""Passes over a matrix of weights after the products of a dense step, and in the update of a sparse one."""
WORTHWHILE = {True: 1 << 24, False: 1 << 18}
"""The codes of a member from which members with an auxiliary loss or with levels may be sparse, on a GPU or a CPU
(`engine.WORTHWHILE`)."""
SPARSE_BELOW = {True: 0.02, False: 0.15}
"""The share of active latents below which a step is sparse, on a GPU or a CPU (`Kernels.sparse_below`)."""
OPERATIONS: Mapping[str, tuple[int, int]] = {
    "relu": (91, 72), "gated": (136, 108), "jumprelu": (125, 99), "topk": (97, 76), "batchtopk": (111, 106),
    "matryoshka": (144, 298),
}  # fmt: skip
"""Operations of torch in a dense and in a sparse step of one block, counted (test_scale_of_the_code.py)."""
SEARCHING, KERNELS = 6, 12
"""Operations on a GPU for each block that a sparse step searches, and for the rest of its kernels."""


@dataclass(frozen=True)
class Phase:
    """Work of which either the products or the memory is the limit."""

    name: str
    """What it is."""
    flops: float
    """Floating-point operations."""
    n_bytes: float
    """Bytes read from and written to the device's memory."""
    precision: Precision = "float32"
    """The arithmetic."""

    def parts(self, device: Device, assumptions: Assumptions) -> tuple[float, float]:
        """Seconds of the operations and of the memory, as if the other took none."""
        rate = device.products[self.precision].value * assumptions.product_share
        return self.flops / rate, self.n_bytes / (device.memory_bandwidth.value * assumptions.memory_share)

    def seconds(self, device: Device, assumptions: Assumptions) -> float:
        """The longer of both."""
        return max(self.parts(device, assumptions))


def dense_step(division: Division, is_gpu: bool, precision: Precision) -> list[Phase]:
    """The phases of a step on the dense path, with products in `precision`."""
    s, codes, weights = division.setting, division.code_entries, division.matrix_entries
    encodings = 2 if s.kind in OVER_BATCH else 1
    products = encodings + (6 if s.kind == "gated" else 4)
    passes = CODE_PASSES + (TOPK_PASSES if s.kind == "topk" else BATCH_PASSES if s.kind in OVER_BATCH else 0)
    # On a CPU a block of codes stays in the cache.
    operands = (products * codes if is_gpu else 0) + products * weights + 2 * weights
    operands += products * division.members * division.sample_entries
    return [
        Phase("products", products * 2.0 * codes * s.d_in, FLOAT * operands, precision),
        Phase("codes", 0.0, FLOAT * passes * codes if is_gpu else 0.0),
        Phase("weights", 0.0, FLOAT * WEIGHT_PASSES * weights),
    ]


def sparse_step(division: Division, is_gpu: bool) -> list[Phase]:
    """The phases of a step on the sparse path."""
    s, weights, samples = division.setting, division.matrix_entries, division.sample_entries
    reconstructions = division.members * samples
    gathered = division.pairs * s.d_in
    width = 2 if s.precision == "bfloat16" else FLOAT
    rows = FUSED_ROWS if is_fused(division, is_gpu) else search_rows(division, is_gpu)
    blocks = -(-s.batch // rows)
    encoding = blocks * weights * width + samples * width
    block_bytes = search_rows(division, is_gpu) * division.latents * width
    if not is_fused(division, is_gpu) and block_bytes > IN_CACHE[is_gpu]:
        encoding += 2 * division.code_entries * width
    again = division.shards > 1 or s.kind == "matryoshka"
    decodings = 2 if s.kind == "gated" else 1
    # Decoder rows once, and once more after the parts of other processes have been added.
    decoding = decodings * gathered * (2 if again else 1)
    # Of every reconstruction: the sample, writing, its sum and its squares; and what is added before and read again.
    decoding += s.decodings * reconstructions * (4 + (3 if again else 0))
    updating = 2 * gathered + ADAM_PASSES * weights
    rounding = weights * width if s.precision == "bfloat16" else 0
    return [
        Phase("encode", 2.0 * division.code_entries * s.d_in, float(encoding), s.precision),
        Phase("decode", 4.0 * decodings * gathered, FLOAT * decoding),
        Phase("update", 4.0 * gathered, FLOAT * updating + rounding),
    ]


def operations(division: Division, is_gpu: bool, sparse: bool) -> int:
    """The operations that a step launches on a GPU; replays of small dense steps are not counted."""
    dense, each = OPERATIONS[division.setting.kind]
    if not sparse:
        return dense * -(-division.setting.batch // dense_rows(division, is_gpu))
    runs = division.members if division.setting.one_by_one else 1
    return runs * (each + KERNELS + SEARCHING * -(-division.setting.batch // search_rows(division, is_gpu)))


def is_sparse(division: Division, is_gpu: bool) -> bool:
    """The path that the engine takes once codes are sparse.

    Members with an auxiliary loss or with levels stay dense where they are small: a sparse step processes them one by
    one. The size is that of the whole dictionary and batch, whatever the number of processes.
    """
    s = division.setting
    may_be_sparse = s.kind not in SELECTING or s.batch * s.n_latents >= WORTHWHILE[is_gpu]
    return s.k / s.n_latents < SPARSE_BELOW[is_gpu] and may_be_sparse
