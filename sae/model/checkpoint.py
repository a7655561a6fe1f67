"""What a checkpoint did not fill in a loaded model, and loading without installing packages.

transformers fills a weight that a checkpoint lacks with random numbers and only logs it. :func:`recorded` keeps the
report of every load, and :func:`check` refuses a model with a weight that is not the checkpoint's.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from sae.registry import UserError

BUFFERS = re.compile(r"(inv_freq|position_ids|masked_bias|num_batches_tracked|\.attn\.bias|\.attention\.bias)$")
"""Constants that older checkpoints carry along, such as causal masks; the model computes its own."""
POOLER = re.compile(r"(^|\.)pooler\.")
"""Weights that summarise a row for a classifier; no activation at a token depends on them."""


@dataclass(frozen=True, eq=False)
class Load:
    """One model that transformers loaded, and its report."""

    model: Any
    """The Hugging Face model."""
    missing: tuple[str, ...]
    """Parameters and buffers that the checkpoint lacks, without those tied to one that it has."""
    unexpected: tuple[str, ...]
    """Tensors of the checkpoint that the model has no place for."""
    mismatched: tuple[str, ...]
    """Parameters that have another shape in the checkpoint."""

    @property
    def head(self) -> tuple[str, ...]:
        """The missing weights between the last block and the logits, on which no activation before them depends."""
        return tuple(name for name in self.missing if self._behind_the_blocks(name))

    @property
    def body(self) -> tuple[str, ...]:
        """The missing weights on which activations depend."""
        return tuple(name for name in self.missing if name not in self.head and not POOLER.search(name))

    @property
    def ignored(self) -> tuple[str, ...]:
        """The tensors of the checkpoint that belong to a part that the model has, such as a layer beyond its last or a
        bias that its config switches off. Whole other parts (another head, an image encoder) are left out."""
        return tuple(name for name in self.unexpected if not BUFFERS.search(name) and self._belongs(name))

    def _behind_the_blocks(self, name: str) -> bool:
        last = self.model.get_output_embeddings()
        is_last = any(module is last and name.startswith(f"{path}.") for path, module in self.model.named_modules())
        if self.model.base_model is self.model:  # without a head, or with a head among its parts
            return last is not None and is_last
        return is_last or not name.startswith(f"{self.model.base_model_prefix}.")

    def _belongs(self, name: str) -> bool:
        # A checkpoint of the model without its head leaves out the prefix.
        for full in (name, f"{self.model.base_model_prefix}.{name}"):
            parents = full.split(".")[:-1]
            paths = [".".join(parents[:i]) for i in range(1, len(parents) + 1)]
            found = [_submodule(self.model, path) for path in paths]
            if found and (found[-1] is not None or any(isinstance(m, torch.nn.ModuleList) for m in found)):
                return True
        return False


@contextmanager
def recorded() -> Generator[list[Load]]:
    """Collects the report of every Hugging Face model that is loaded within the block.

    Missing weights are filled with NaN in place of random numbers, so that nothing can be computed from them.
    """
    from transformers import PreTrainedModel

    loads, load = list[Load](), vars(PreTrainedModel)["from_pretrained"].__func__

    def from_pretrained(cls: Any, *args: Any, **options: Any) -> Any:
        if options.get("output_loading_info"):
            return load(cls, *args, **options)
        # Mismatched shapes are refused afterwards, with their names, which the exception of transformers leaves out.
        options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, report = load(cls, *args, **options)
        missing, unexpected = (tuple(sorted(report[f"{kind}_keys"])) for kind in ("missing", "unexpected"))
        mismatched = tuple(sorted(str(key[0]) for key in report["mismatched_keys"]))
        loads.append(Load(model, missing, unexpected, mismatched))
        _fill_with_nan(model, missing)
        return model

    with patch.object(PreTrainedModel, "from_pretrained", classmethod(from_pretrained)):
        yield loads


def check(name: str, loads: Iterable[Load]) -> tuple[str, ...]:
    """The missing weights of the output head, without which activations are right but logits are not.

    Raises `UserError` if any other weight of the models is not the checkpoint's, or if the checkpoint has weights for
    their parts that they do not use.
    """
    head: list[str] = []
    for load in loads:
        for names, wrong in (
            (load.mismatched, "has other shapes than config.json says for"),
            (load.body, "lacks"),
            (load.ignored, "has weights that a model of this config.json does not use:"),
        ):
            if names:
                raise UserError(
                    f"model = {name!r}: its checkpoint {wrong} {listed(names)}; give a complete checkpoint with its "
                    "own config.json"
                )
        head += load.head
    return tuple(head)


@contextmanager
def without_installing() -> Generator[list[str]]:
    """Refuses commands that would install packages within the block; yields the packages they would have installed.

    TransformerLens runs ``pip install torchvision`` if the processor of a multimodal model cannot be loaded. It goes on
    without the processor, which text does not need, if that fails.
    """
    refused: list[str] = []

    class Popen(subprocess.Popen[Any]):
        def __init__(self, args: Any, *more: Any, **options: Any) -> None:
            words = args.split() if isinstance(args, str) else [str(word) for word in args]
            if "install" in words:
                refused.extend(word for word in words[words.index("install") + 1 :] if not word.startswith("-"))
                raise subprocess.SubprocessError(f"not run, since loading a model installs nothing: {' '.join(words)}")
            super().__init__(args, *more, **options)

    with patch.object(subprocess, "Popen", Popen):
        yield refused


def listed(names: tuple[str, ...]) -> str:
    """At most three names of weights, and the number of the others."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _submodule(model: Any, path: str) -> Any:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _fill_with_nan(model: Any, missing: tuple[str, ...]) -> None:
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    for name in missing:
        if name in tensors and tensors[name].is_floating_point() and not tensors[name].is_meta:
            tensors[name].data.fill_(float("nan"))
