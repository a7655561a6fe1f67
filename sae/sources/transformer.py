"""Activations of a transformer at a hook point, computed from text and stored on disk in shuffled shards.

The model is a published one, or any in Hugging Face's format. How its activations are prepared is the same for all
models that read text: :mod:`sae.activations.text_config`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from sae.activations.disk_source import Activations
from sae.activations.text_config import TextConfig
from sae.activations.text_files import local_files
from sae.model.hook_names import check_hook_name, width_of
from sae.model.hooked import Model
from sae.model.loading import is_path, load_tokenizer, local_config
from sae.model.next_token import unlike_a_causal_model
from sae.registry import MissingFileError, PathOrId

__all__ = ["Activations", "Config"]


class Config(TextConfig):
    """Settings of a source of a transformer's activations on text."""

    kind: Literal["transformer"] = "transformer"
    model: PathOrId
    """A hub id, a local Hugging Face folder, or ``random:gpt2-small`` and other shapes with random weights
    (`sae.model.random_models`)."""
    revision: str | None = None
    """The branch, tag or commit of the model on the hub; default: its main branch."""

    @property
    def provides(self) -> frozenset[str]:
        # Only a local folder is read, since what a config plans must not depend on what has been downloaded.
        local = local_config(self.model)
        unlike = unlike_a_causal_model(local.get("architectures") or (), bool(local.get("is_encoder_decoder")))
        return super().provides - ({"model"} if unlike else set())

    @property
    def planned_width(self) -> int | None:
        return width_of(self.hook, local_config(self.model))

    def check_plan(self) -> None:
        """Raises `UserError` for hook points that the model cannot have, and for a folder that holds no model.

        Of a model, only the ``config.json`` of a local folder is read.
        """
        config = local_config(self.model)
        for field, hook in (("hook", self.hook), ("target", self.target)):
            if hook is not None:
                check_hook_name(f"source.{field}", hook, config)
        if Path(self.model).is_dir() and not (Path(self.model) / "config.json").is_file():
            raise MissingFileError(
                f"source.model = {self.model!r}: a folder without a config.json; give a Hugging Face folder or a hub id"
            )

    def external_files(self) -> dict[str, Path]:
        """The local files; models and texts on the hub are identified by `model`, `revision` and `text`."""
        return super().external_files() | (local_files("model", self.model) if is_path(self.model) else {})

    def boot(self, device: str) -> Model:
        """Loads the model."""
        return Model.boot(self.model, device, self.dtype, self.revision)

    def model_in(self, directory: Path, device: str) -> Model:
        return self.boot(device)

    def tokenizer_in(self, directory: Path) -> Any:
        return load_tokenizer(self.model, self.revision)
