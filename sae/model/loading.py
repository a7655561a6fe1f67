"""Loads models and tokenizers from a hub id or a local Hugging Face folder."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sae.model import checkpoint
from sae.model.legacy import boot_legacy, is_legacy, tokenizer_of
from sae.model.native import boot_native, is_native
from sae.model.placement import ALL
from sae.model.random_models import boot_random, is_random, random_config, random_tokenizer
from sae.registry import MissingFileError, UserError, expand_home

_OF_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
"""Files of which every saved tokenizer has one, but for those that read bytes."""

_UNSAFE = (
    "the weights are damaged, or a pickle of more than tensors, which could run code and was not run; download them "
    "again, or give a folder with model.safetensors"
)


def load_bridge(name: str, device: str, dtype: torch.dtype, revision: str | None) -> tuple[Any, tuple[str, ...]]:
    """A model as a TransformerLens Bridge, and the weights of its output head that its checkpoint lacks.

    `device` may be :data:`~sae.model.placement.ALL`: then its layers are spread over all GPUs.
    Raises `MissingFileError` if a local folder has no ``config.json``, and `UserError` if the model cannot be loaded or
    other weights are missing. Warns of a package that its processor of images or sound needs, and installs none.
    """
    from safetensors import SafetensorError
    from transformer_lens.model_bridge import TransformerBridge

    name = expand_home(name)
    native = is_native(local_config(name))
    if native or is_random(name) or is_legacy(name):
        _refuse_spread(name, device)
    if is_random(name):
        return boot_random(name, device, dtype), ()
    if native:
        return boot_native(name, local_config(name), device, dtype), ()
    _check_folder(name)
    _check_pickles(name)
    where = {"device_map": ALL} if device == ALL else {"device": device}
    try:
        with _quiet(), checkpoint.recorded() as loads, checkpoint.without_installing() as not_installed:
            bridge: Any = (
                boot_legacy(name, device, dtype, revision)
                if is_legacy(name)
                else TransformerBridge.boot_transformers(name, dtype=dtype, revision=revision, **where)
            )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise UserError(_one_line(name, error)) from None
    except pickle.UnpicklingError:
        raise UserError(f"model = {name!r}: {_UNSAFE}") from None
    head = checkpoint.check(name, loads)
    _keep_rows_after_norms(bridge)
    if not_installed:
        packages = " ".join(dict.fromkeys(not_installed))
        warnings.warn(
            f"model = {name!r}: its processor of images or sound is not loaded; text runs without it; to load it, run: "
            f"pip install {packages}",
            stacklevel=3,
        )
    return bridge, head


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """The tokenizer of a model as published; the Bridge adds special tokens to its copy.

    Raises `MissingFileError` if a local folder has no ``config.json``, and `UserError` if the tokenizer cannot be
    loaded.
    """
    from transformers import AutoTokenizer

    name = expand_home(name)
    if is_random(name):
        return random_tokenizer(name)
    _check_folder(name)
    try:
        return AutoTokenizer.from_pretrained(tokenizer_of(name) if is_legacy(name) else name, revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(_one_line(name, error, "tokenizer")) from None


def is_path(name: str) -> bool:
    """Whether a name is a local path, not a hub id (``repo`` or ``owner/repo``)."""
    return Path(name).expanduser().exists() or name.startswith((".", "/", "~")) or name.count("/") > 1


def local_config(name: str) -> dict[str, Any]:
    """The ``config.json`` of a local folder or a random model; empty for a hub id, and where the folder has none that
    can be read."""
    if is_random(name):
        return random_config(name)
    file = Path(name).expanduser() / "config.json"
    if not (is_path(name) and file.is_file()):
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return config if isinstance(config, dict) else {}


def _refuse_spread(name: str, device: str) -> None:
    if device == ALL:
        raise UserError(f"model = {name!r}: such a model runs on one device; name one, such as 'cuda:0', not {ALL!r}")


def _check_folder(name: str) -> None:
    if is_path(name) and not (Path(name) / "config.json").is_file():
        raise MissingFileError(
            f"model = {name!r}: not a folder with a config.json; give a Hugging Face folder or a hub id"
        )


def _check_pickles(name: str) -> None:
    """Raises `UserError` if a local folder has its weights in a pickle that cannot be read without running code, as
    torch reads it; only its structure is read here."""
    folder = Path(name)
    if not is_path(name) or any(folder.glob("*.safetensors")):
        return
    for file in sorted(folder.glob("pytorch_model*.bin")):
        try:
            torch.load(file, map_location="meta", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError):
            raise UserError(f"model = {name!r}: {file.name}: {_UNSAFE}") from None


def _keep_rows_after_norms(bridge: Any) -> None:
    """Mends the second norm of OPT models that normalise after a layer: TransformerLens flattens the rows of what an
    edit there returns, as if the norm came before the MLP, where OPT flattens them itself."""
    if getattr(getattr(bridge.original_model, "config", None), "do_layer_norm_before", True):
        return
    for block in bridge.blocks:
        for point in (block.ln2.hook_in, block.ln2.hook_out):
            point.hook_conversion = None


def _one_line(name: str, error: Exception, part: str = "model") -> str:
    reason = " ".join(str(error).split())
    if is_path(name) and "tokenizer" in reason and not any((Path(name) / file).is_file() for file in _OF_TOKENIZERS):
        reason = f"its folder has no tokenizer; save it there with tokenizer.save_pretrained({name!r})"
    if not is_path(name) and re.search(r"gated repo|401 Client Error|403 Client Error", reason):
        reason = (
            "the hub asks who you are: accept the model's licence on its page, and set HF_TOKEN to a token that may "
            f"read it, or run `hf auth login` ({reason[:120]})"
        )
    return f"model = {name!r}: the {part} cannot be loaded: {reason[:300]}"


@contextmanager
def _quiet() -> Generator[None]:
    """Hides transformers' progress bars, since the library does not print."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
