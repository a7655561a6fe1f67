"""Times harvesting activations from a model, against a plain forward hook that stops the model at the same layer.

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
from benchmarks.isolated import ROOT, ProcessError, call
from benchmarks.lines import Line, emit, failed, note, run
from sae.model.random_models import is_random, random_hf_model

ROUNDS = 9


class _Stop(Exception):
    """Raised in the hook, so that the layers above do not run."""


def harvest(
    *,
    model: str | None = None,
    text: Path | None = None,
    layer: int | None = None,
    rows: int = 32,
    context: int = 128,
    batches: int = 8,
    threads: int = 2,
    device: str = "cpu",
    seconds: float = 10.0,
) -> list[Line]:
    """Print both rates and their ``ratio``, our seconds divided by the plain hook's, with the same kind of attention.

    `eager` attention computes every pattern; `fused`, the default of sources and of Hugging Face (``sdpa``), does not.
    ``ratio_of_three`` is the time for three hook points in one pass, divided by that for the deepest alone.

    Parameters
    ----------
    model
        A Hugging Face folder or ``random:SHAPE``; by default the first model of the test data.
    text
        A .txt file; by default a training text of the same data folder. Without one, tokens are drawn at random.
    layer
        The block whose output is harvested; by default the middle one.
    rows
        Token rows run through the model at once.
    context
        Tokens per row.
    batches
        Batches in one pass.
    threads
        Threads of the process.
    device
        Device of the model.
    seconds
        Time for each method, in nine series that take turns.
    """
    folder = model or default_model()
    if folder is None or not (is_random(folder) or (Path(folder) / "config.json").is_file()):
        note(f"harvest: skipped, no model at {folder or 'SAE_TEST_DATA'}; use --model FOLDER")
        return []
    text = text or default_text(folder)
    settings = {"model": folder, "text": str(text) if text else None, "layer": layer, "rows": rows}
    settings |= {"context": context, "batches": batches, "device": device, "seconds": seconds}
    shape = {"name": "sae-harvest", "model": Path(folder).name, "rows": rows, "context": context, "threads": threads}
    lines: list[Line] = []
    for attention in ("eager", "fused"):
        try:
            timing = call("benchmarks.harvest:measure", {**settings, "attention": attention}, threads)
        except ProcessError as error:
            failed(f"harvest: {error}")
            continue
        lines.append(emit("harvest", {**shape, "device": device, "attention": attention, **timing}, device))
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
    """Times both methods on the same token rows, in turn, each with its own copy of the model.

    Ours selects positions, copies their vectors to the CPU in the storage type and checks that they are finite; the
    plain hook keeps the output of the block unchanged.
    """
    from transformers import AutoModelForCausalLM

    from sae.activations.corpus import PositionSelection
    from sae.activations.harvest import Harvest
    from sae.model.hooked import Model
    from sae.model.loading import load_tokenizer

    ours = Model.boot(model, device)
    block = ours.n_layers // 2 if layer is None else layer
    tokenizer = load_tokenizer(model)
    select = PositionSelection.of(tokenizer, drop_first=True)
    depths = sorted({0, block // 2, block})

    def collector(blocks: list[int]) -> Harvest:
        hooks = [{"acts": f"blocks.{b}.hook_resid_post"} for b in blocks]
        return Harvest(ours, hooks, select, "float32", rows * batches, rows, fused=attention == "fused")

    one_hook, three_hooks = collector([block]), collector(depths)
    tokens = _tokens(tokenizer, text, rows * batches, context, ours.bridge.cfg.d_vocab)
    selected = select(tokens).kept

    kernel = "sdpa" if attention == "fused" else attention
    if is_random(model):
        plain: Any = random_hf_model(model, kernel)
    else:
        plain = AutoModelForCausalLM.from_pretrained(model, attn_implementation=kernel)
    plain = plain.to(device).eval()
    plain.config.use_cache = False  # as in ours: a row is run once and whole
    layers = [m for _, m in plain.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == ours.n_layers]
    outputs: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)
        raise _Stop

    layers[0][block].register_forward_hook(keep)

    def by_hook() -> torch.Tensor:
        outputs.clear()
        for part in tokens.long().split(rows):
            with torch.no_grad(), suppress(_Stop):
                plain(part.to(device))
        return torch.cat(outputs)

    def by_us() -> torch.Tensor:
        return one_hook.vectors(tokens, selected)[0]["acts"]

    def three() -> object:
        return three_hooks.vectors(tokens, selected)

    torch.testing.assert_close(by_us(), by_hook()[selected.to(device)].cpu(), rtol=1e-3, atol=1e-4)
    one = max(seconds_of(by_us, device), seconds_of(by_hook, device))
    n = max(1, round(seconds / ROUNDS / one))
    times: dict[str, list[float]] = {"ours": [], "bare": [], "three": []}
    for _ in range(ROUNDS):
        for name, method in (("bare", by_hook), ("ours", by_us), ("three", three)):
            times[name].append(seconds_of(lambda method=method: [method() for _ in range(n)], device) / n)
    medians = {name: median(t) for name, t in times.items()}
    return {
        "layer": block,
        "tokens_per_s": tokens.numel() / medians["ours"],
        "bare_tokens_per_s": tokens.numel() / medians["bare"],
        "ratio": medians["ours"] / medians["bare"],
        "ratio_of_three": medians["three"] / medians["ours"],
    }


def _tokens(tokenizer: Any, text: str | None, n_rows: int, context: int, n_vocab: int) -> torch.Tensor:
    """Token rows of the text, repeated if it is too short, or of random tokens without a text."""
    if text is None:
        draw = torch.Generator().manual_seed(0)
        return torch.randint(n_vocab, (n_rows, context), generator=draw).int()
    n_tokens = n_rows * context
    with Path(text).open(encoding="utf-8") as f:
        ids = tokenizer(f.read(n_tokens * 8), add_special_tokens=False)["input_ids"]
    ids = (ids * (1 + n_tokens // len(ids)))[:n_tokens]
    return torch.tensor(ids, dtype=torch.int32).view(n_rows, context)


def default_model() -> str | None:
    """The first model in the folder of test data."""
    return next((str(config.parent) for config in sorted((_test_data() / "models").glob("*/config.json"))), None)


def default_text(model: str | None) -> Path | None:
    """A training text beside the folder of a model, or in the folder of test data for a random one."""
    if model is None:
        return None
    folder = _test_data() if is_random(model) else Path(model).parents[1]
    return next(iter(sorted((folder / "text").glob("*train*.txt"))), None)


def _test_data() -> Path:
    return Path(os.environ.get("SAE_TEST_DATA") or ROOT.parent / "shared" / "data")


if __name__ == "__main__":
    run(harvest)
