"""Compares language models on a held-out text, in nats per token, character and byte, with n-grams of another text.

python -m benchmarks.language --heldout HELDOUT.txt --models MODEL --models MODEL --train TRAIN.txt

Models are folders or hub ids; the folder of a model that was trained by a run is runs/model-KEY. Tokenizers differ, so
models compare by character. The n-grams are Kneser-Ney models of the training text in the tokens of each model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.lines import Line, emit, run
from sae.activations.corpus import PositionSelection
from sae.activations.text import Text
from sae.model.hooked import Model
from sae.model.loading import load_tokenizer
from sae.toys.language.ngrams import KneserNey
from sae.toys.language.tokens import whole_stream

_ROWS_AT_ONCE = 64
LEAST_PARAGRAPH = 40
"""Characters of the shortest paragraph that counts as shared."""


def language(*, heldout: Path, models: list[str], train: Path | None = None, context: int = 128) -> list[Line]:
    """Print the overlap of the two texts, and one result for every model and n-gram.

    Parameters
    ----------
    heldout
        The text to predict.
    models
        Folders or hub ids.
    train
        The text that n-grams are fitted on; none are without it.
    context
        Tokens that a model sees at most: rows begin with BOS and have so many more, all of which are predicted.
    """
    lines: list[Line] = [] if train is None else [emit("language", {"name": "overlap", **overlap(train, heldout)})]
    text = heldout.read_text(encoding="utf-8")
    for name in models:
        tokenizer, label = load_tokenizer(name), Path(name).name
        stream = whole_stream(Text(str(heldout)), tokenizer)
        units = {"tokens": len(stream) - 2, "characters": len(text), "bytes": len(text.encode())}
        # The first two tokens are predicted by no trigram.
        found = {label: model_losses(Model.boot(name), stream, tokenizer, context)[2:]}
        if train is not None:
            fitted = whole_stream(Text(str(train)), tokenizer)
            for order in (1, 2, 3):
                losses = KneserNey(fitted, order, len(tokenizer)).losses(stream)
                found[f"{order}-gram in tokens of {label}"] = losses[3 - order :]
        for predictor, losses in found.items():
            total = float(losses.sum())
            per = {f"nats_per_{unit.removesuffix('s')}": round(total / n, 4) for unit, n in units.items()}
            lines.append(emit("language", {"name": predictor, "vocabulary": len(tokenizer), **per}))
    return lines


def model_losses(model: Model, stream: NDArray[np.int32], tokenizer: object, context: int) -> NDArray[np.float64]:
    """The cross-entropy in nats of every token of a stream, in rows of BOS and `context` tokens."""
    select = PositionSelection((), drop_first=False)
    n_rows = -(-len(stream) // context)
    rows = torch.from_numpy(np.resize(stream, (n_rows, context)).astype(np.int64))
    bos = int(getattr(tokenizer, "bos_token_id"))  # noqa: B009
    found: list[torch.Tensor] = []
    for part in rows.split(_ROWS_AT_ONCE):
        # The last token of a row is not read, only predicted.
        tokens = select(torch.cat([torch.full((len(part), 1), bos), part[:, :-1]], 1))
        with torch.no_grad():
            log_probs = model.logits(tokens).log_softmax(-1)
        found.append(-log_probs.gather(-1, part[..., None]).squeeze(-1).flatten().double())
    return torch.cat(found)[: len(stream)].numpy()


def overlap(train: Path, heldout: Path) -> Line:
    """Shared text: the share of the held-out paragraphs, and of its sequences of 8 and 13 words, that are in the
    training text."""
    texts = [file.read_text(encoding="utf-8") for file in (train, heldout)]
    known, asked = ([p.strip() for p in t.split("\n") if len(p.strip()) >= LEAST_PARAGRAPH] for t in texts)
    shared = {"paragraphs": _share(asked, known)}
    for n in (8, 13):
        before, after = (_sequences(text.split(), n) for text in texts)
        shared[f"{n}_words"] = _share(after, before)
    return {name: round(value, 4) for name, value in shared.items()}


def _sequences(words: list[str], n: int) -> list[str]:
    return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]


def _share(asked: list[str], known: list[str]) -> float:
    of = set(known)
    return sum(each in of for each in asked) / max(1, len(asked))


if __name__ == "__main__":
    run(language)
