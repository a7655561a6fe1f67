"""Harvesting activations from a model, beside a bare forward hook that leaves the forward pass as early.

python -m benchmarks.harvest --model FOLDER
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.clock import seconds as seconds_of
from benchmarks.isolated import ROOT, Failed, call
from benchmarks.lines import Line, emit, note, run

ROUNDS = 9


class _Reached(Exception):
    """Raised in the hook: the layers above are not run."""


def harvest(
    *,
    model: Path | None = None,
    text: Path | None = None,
    layer: int | None = None,
    rows: int = 32,
    context: int = 128,
    batches: int = 8,
    threads: int = 2,
    device: str = "cpu",
    seconds: float = 10.0,
) -> list[Line]:
    """Print a line with both rates and ``ratio``, our seconds by the bare hook's, for each of two bare hooks.

    TransformerLens computes attention in its eager form, which shows every pattern; `eager` is a bare model that
    does the same sums, `sdpa` one with the fused attention that is the library's default.

    Parameters
    ----------
    model
        A Hugging Face folder; by default the small one of the tests' data.
    text
        A .txt file to read; by default one beside the default model. Without one, tokens are drawn at random.
    layer
        The block whose output is taken; by default the middle one.
    rows
        Rows of tokens run through the model at once.
    context
        Tokens of a row.
    batches
        Batches a stretch goes through.
    threads
        Threads of the process.
    device
        Where the model runs.
    seconds
        How long each way is timed for, in nine stretches that take turns.
    """
    folder = model or _default_model()
    if folder is None or not (folder / "config.json").is_file():
        note("harvest: left out, there is no model; give --model FOLDER")
        return []
    text = text or next(iter(sorted((folder.parents[1] / "text").glob("*train*.txt"))), None)
    settings = {"model": str(folder), "text": str(text) if text else None, "layer": layer, "rows": rows}
    settings |= {"context": context, "batches": batches, "device": device, "seconds": seconds}
    shape = {"name": "sae-harvest", "model": folder.name, "rows": rows, "context": context, "threads": threads}
    lines: list[Line] = []
    for attention in ("eager", "sdpa"):
        try:
            taken = call("benchmarks.harvest:measure", {**settings, "attention": attention}, threads)
        except Failed as failure:
            note(f"harvest: {failure}")
            continue
        lines.append(emit("harvest", {**shape, "device": device, "bare_attention": attention, **taken}, device))
    return lines


def measure(
    model: str,
    text: str | None,
    layer: int | None,
    rows: int,
    context: int,
    batches: int,
    device: str,
    seconds: float,
    attention: str,
) -> dict[str, Any]:
    """Both ways over the same rows of tokens, in turn, each with its own copy of the model.

    Ours chooses the positions that count, copies their vectors to the CPU in the type they are stored in and
    checks that they are finite; the bare hook keeps the block's output as it comes.
    """
    from transformers import AutoModelForCausalLM

    from sae.activations.corpus import PositionSelection
    from sae.activations.harvest import Harvest
    from sae.model.hooked import Model, load_tokenizer

    ours = Model.boot(model, device)
    block = ours.n_layers // 2 if layer is None else layer
    tokenizer = load_tokenizer(model)
    select = PositionSelection.of(tokenizer, drop_first=True)
    hooks = {"acts": f"blocks.{block}.hook_resid_post"}
    collector = Harvest(ours, hooks, select, "float32", rows * batches, rows)
    tokens = _tokens(tokenizer, text, rows * batches, context, ours.bridge.cfg.d_vocab)
    kept = select(tokens).kept

    bare = AutoModelForCausalLM.from_pretrained(model, attn_implementation=attention).to(device).eval()
    layers = [m for _, m in bare.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == ours.n_layers]
    found: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)
        raise _Reached

    layers[0][block].register_forward_hook(keep)

    def by_hook() -> torch.Tensor:
        found.clear()
        for some in tokens.long().split(rows):
            with torch.no_grad(), suppress(_Reached):
                bare(some.to(device))
        return torch.cat(found)

    def by_us() -> torch.Tensor:
        return collector.vectors(tokens, kept)["acts"]

    torch.testing.assert_close(by_us(), by_hook()[kept.to(device)].cpu(), rtol=1e-3, atol=1e-4)
    one = max(seconds_of(by_us, device), seconds_of(by_hook, device))
    n = max(1, round(seconds / ROUNDS / one))
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(ROUNDS):
        for name, way in (("bare", by_hook), ("ours", by_us)):
            times[name].append(seconds_of(lambda way=way: [way() for _ in range(n)], device) / n)
    taken = {name: median(t) for name, t in times.items()}
    return {
        "layer": block,
        "tokens_per_s": tokens.numel() / taken["ours"],
        "bare_tokens_per_s": tokens.numel() / taken["bare"],
        "ratio": taken["ours"] / taken["bare"],
    }


def _tokens(tokenizer: Any, text: str | None, n_rows: int, context: int, n_vocab: int) -> torch.Tensor:
    """Rows full of tokens from the text, or at random."""
    if text is None:
        draw = torch.Generator().manual_seed(0)
        return torch.randint(n_vocab, (n_rows, context), generator=draw).int()
    wanted = n_rows * context
    with Path(text).open(encoding="utf-8") as f:
        ids = tokenizer(f.read(wanted * 8), add_special_tokens=False)["input_ids"]
    ids = (ids * (1 + wanted // len(ids)))[:wanted]
    return torch.tensor(ids, dtype=torch.int32).view(n_rows, context)


def _default_model() -> Path | None:
    """The first model in the folder of test data."""
    data = Path(os.environ.get("SAE_TEST_DATA") or ROOT.parent / "shared" / "data")
    return next((config.parent for config in sorted((data / "models").glob("*/config.json"))), None)


if __name__ == "__main__":
    run(harvest)
