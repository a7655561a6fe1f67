"""Times training on activations that are computed as training reads them, against training from stored ones and against
the model alone.

python -m benchmarks.stream --model FOLDER
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.harvest import default_model, default_text
from benchmarks.isolated import call
from benchmarks.lines import Line, emit, note, run

BOUND_BY = {"trainer": 4096, "model": 64}
"""What takes longer, by the number of latents."""


def stream(
    *,
    model: str | None = None,
    text: Path | None = None,
    layer: int = 2,
    context: int = 128,
    batch: int = 4096,
    window: int = 16_384,
    tokens: int = 400_000,
    threads: int = 1,
    device: str = "cpu",
    repeats: int = 3,
    cache: Path = Path("runs/bench"),
) -> list[Line]:
    """Print three results: how well batches are mixed; with a wide dictionary, where training takes longer than the
    model, the rate of training while it streams, divided by that from stored activations; with a narrow one, where the
    model takes longer, its rate while training reads, divided by its rate alone.

    The design effect of batches is the variance of their mean activation, divided by what it would be if the samples of
    a batch were drawn independently: 1 is a perfect shuffle, and a batch of B samples counts as B / effect.

    Rates are those between a half and all of the steps, so that the start does not count; medians of the repeats, which
    take turns. On a CPU the model and training need a core each: use half of the threads.

    Parameters
    ----------
    model
        A Hugging Face folder or ``random:SHAPE``; by default the first model of the test data.
    text
        A .txt file; by default a training text of the same data folder.
    layer
        The block whose output is harvested.
    context
        Tokens per row.
    batch
        Samples per training step.
    window
        Tokens per window.
    tokens
        Tokens of text; training goes over them once.
    threads
        Threads of the trainer, and of the model.
    device
        Device of both.
    repeats
        Runs of each kind.
    cache
        Folder for the rows of tokens and the stored activations.
    """
    folder = model or default_model()
    text = text or default_text(folder)
    if folder is None or text is None:
        note("stream: skipped, no model or text in SAE_TEST_DATA; use --model and --text")
        return []
    shape = {"name": "sae-stream", "model": Path(str(folder)).name, "layer": layer, "context": context, "batch": batch}
    source = {"kind": "transformer", "model": str(folder), "text": str(text), "context": context, "n_tokens": tokens,
              "hook": f"blocks.{layer}.hook_resid_post", "window_tokens": window, "exhausted": "repeat"}  # fmt: skip
    place = {"source": source, "batch": batch, "device": device, "folder": str(cache.absolute() / "stream")}
    mixed = call("benchmarks.stream:mixing", place, threads)
    lines = [emit("stream", {**shape, "window": window, "bound_by": "mixing", **mixed, "device": device}, device)]
    for bound, n_latents in BOUND_BY.items():
        timing = call("benchmarks.stream:measure", {**place, "n_latents": n_latents, "repeats": repeats}, threads)
        line = {**shape, "window": window, "threads": threads, "bound_by": bound, "n_latents": n_latents, **timing}
        lines.append(emit("stream", {**line, "device": device}, device))
    return lines


def measure(
    source: dict[str, Any], n_latents: int, batch: int, device: str, repeats: int, folder: str
) -> dict[str, Any]:
    """Samples per second of training from each kind of source, and of the model alone, which take turns."""
    from statistics import median

    rates: dict[str, list[float]] = {"stream": [], "disk": [], "model": []}
    waits: list[float] = []
    sources = {name: _prepared(source, name, Path(folder), device) for name in ("none", "disk")}
    for _ in range(repeats):
        streamed, wait = _rate(sources["none"], n_latents, batch, device)
        waits.append(wait)
        rates["stream"].append(streamed)
        rates["disk"].append(_rate(sources["disk"], n_latents, batch, device)[0])
        rates["model"].append(_model_alone(sources["none"]))
    medians = {name: median(each) for name, each in rates.items()}
    return {
        "stream_rows_per_s": medians["stream"],
        "disk_rows_per_s": medians["disk"],
        "model_rows_per_s": medians["model"],
        "waiting": median(waits),
        "of_disk": medians["stream"] / medians["disk"],
        "of_model": medians["stream"] / medians["model"],
    }


def mixing(source: dict[str, Any], batch: int, device: str, folder: str) -> dict[str, Any]:
    """The design effect of the batches of one pass over the text, from each kind of source."""
    sources = {name: _prepared(source, name, Path(folder), device) for name in ("none", "disk")}
    return {f"design_effect_{name}": _design_effect(each, batch) for name, each in sources.items()}


def _design_effect(source: Any, batch: int) -> float:
    """The variance of the means of batches, summed over dimensions, times the batch size, over that of the samples."""
    import torch

    n, means, squares = source.facts["splits"]["train"]["tokens"] // batch, list[torch.Tensor](), list[torch.Tensor]()
    with source.reading(n * batch):
        for step in range(n):
            x = source.batch(step, batch).acts.double()
            means.append(x.mean(0))
            squares.append(x.square().mean(0))
    of_means = torch.stack(means)
    variance = torch.stack(squares).mean(0) - of_means.mean(0).square()
    return float(batch * of_means.var(0).sum() / variance.sum())


def _prepared(settings: dict[str, Any], cache: str, folder: Path, device: str) -> Any:
    import hashlib
    import json

    from sae.sources.transformer import Config

    config = Config(**settings, cache=cache)  # pyright: ignore[reportArgumentType]
    key = hashlib.sha256(json.dumps(config.identity(), sort_keys=True).encode()).hexdigest()[:16]
    config.prepare(folder / key, lambda *_: None, device)
    return config.open(folder / key, device)


def _rate(source: Any, n_latents: int, batch: int, device: str) -> tuple[float, float]:
    """Samples per second of the later half of one pass over the text, and the share of all time that training waited
    for the model."""
    from sae.dictionaries import relu
    from sae.training.config import TrainConfig
    from sae.training.loop import train

    half = source.facts["splits"]["train"]["tokens"] // batch // 2
    config = TrainConfig(steps=2 * half, batch_size=batch, log_every=half, n_scale=batch)
    times: list[float] = []
    waiting = 0.0
    for _ in train([(relu.Config(n_latents=n_latents, l1=1.0), 0)], source, config, device):
        times.append(time.perf_counter())
        waiting = source.figures().get("waiting", waiting)
    return half * batch / (times[-1] - times[-2]), waiting


def _model_alone(source: Any) -> float:
    """Activations per second of the harvest that the stream runs, on the first rows of the text."""
    from sae.activations.streamed_config import harvest_of

    corpus = source._corpus("train")
    harvest = harvest_of([source.config], source.boot(), source.select, corpus.width)
    tokens = corpus.tokens(corpus.shuffled(0, 1024))
    kept = source.select(tokens).kept
    for _ in harvest.pieces(tokens[:64], kept[:64]):
        pass
    began = time.perf_counter()
    n = sum(len(piece[0]["acts"]) for piece in harvest.pieces(tokens, kept))
    return n / (time.perf_counter() - began)


if __name__ == "__main__":
    run(stream)
