"""Activations of a small language model that is trained on a local text when the source is prepared.

The model has one to four layers, of attention and, unless there is none, an MLP; its tokenizer is trained on the same
text. Once it is trained it is used as any other model is (:mod:`sae.activations.text_config`), on the text that it was
trained on. The splits are those of a source: dictionaries and the model are trained on the same documents, and neither
on those that dictionaries are scored on. Of the measured states of training, the best on the validation split is kept.

``training.json`` in the model's folder has its cross-entropy on held-out text, next to that of Kneser-Ney n-grams. The
model: :mod:`sae.toys.language.network`; its training: ``training``; the n-grams: ``ngrams``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from sae.activations.text_config import TextConfig
from sae.model.hook_names import check_hook_name, width_of
from sae.model.hooked import Model
from sae.model.loading import load_tokenizer
from sae.numerics.atomic_write import link_or_copy
from sae.registry import LocalPath, UserError
from sae.source import MODEL, ModelSettings, Progress, SourceConfig
from sae.toys.language.network import LanguageModelConfig
from sae.toys.language.saved import RECORD, TrainedModelConfig, training_record
from sae.toys.language.tokens import TokenizerConfig
from sae.toys.language.training import LanguageTrainingConfig
from sae.toys.language.widening import WideningConfig


class Config(TextConfig):
    """Settings of a source of a small language model's activations."""

    kind: Literal["language"] = "language"
    trains: ClassVar[type[ModelSettings] | None] = TrainedModelConfig
    model: LanguageModelConfig = LanguageModelConfig()
    """Size and form of the model."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """The tokenizer."""
    training: LanguageTrainingConfig = LanguageTrainingConfig()
    """How the model is trained."""
    heldout_text: LocalPath | None = None
    """A file of other text on which the model is measured; default: the test split of `text`."""
    widening: WideningConfig | None = None
    """How the model is made from a narrower one that was trained before, see :mod:`sae.toys.language.widening`.
    Default: it is trained from the start."""
    later: ClassVar[frozenset[str]] = frozenset({"widening"})

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if not self.documents.local:
            raise UserError(f"text = {self.text!r}: a model is trained on local text only; give a file or a folder")
        if self.context > self.model.n_ctx:
            raise UserError(
                f"context = {self.context}: the model takes at most model.n_ctx = {self.model.n_ctx} tokens; change one"
            )
        return self

    @property
    def model_settings(self) -> TrainedModelConfig:
        """The settings on which the trained model depends."""
        names = ("text", "text_split", "column", "separator", "heldout_share", "heldout_text", "seed")
        names += ("model", "tokenizer", "training", "widening")
        return TrainedModelConfig(**{name: getattr(self, name) for name in names})

    @property
    def planned_width(self) -> int | None:
        return width_of(self.hook, self.model.native(0))

    def check_plan(self) -> None:
        """Raises `UserError` for hook points that the model cannot have, and where it cannot be made by widening."""
        self.model_settings.copies()
        for field, hook in (("hook", self.hook), ("target", self.target)):
            if hook is None:
                continue
            check_hook_name(f"source.{field}", hook, self.model.native(0))
            if not self.model.d_mlp and ("mlp" in hook or "ln2" in hook or "resid_mid" in hook):
                raise UserError(f"source.{field} = {hook!r}: a model with mlp_ratio = 0 has no MLP; choose another")

    @classmethod
    def prepare_together(cls, sources: Sequence[tuple[SourceConfig, Path]], progress: Progress, device: str) -> None:
        """As :meth:`prepare`; the model is trained once, unless it is in the folder ``model`` of each source."""
        own = [(config, where / MODEL) for config, where in sources if isinstance(config, cls)]
        (first, origin), *others = own
        first.model_settings.train(origin, progress, device)
        for _, where in others:
            where.mkdir(parents=True, exist_ok=True)
            if not (where / RECORD).is_file():
                # The record comes last: it marks the others as complete.
                for file in sorted(origin.iterdir(), key=lambda file: file.name == RECORD):
                    link_or_copy(file, where / file.name)
        super().prepare_together(sources, progress, device)

    def model_in(self, directory: Path, device: str) -> Model:
        return Model.boot(str(directory / MODEL), device, self.dtype)

    def tokenizer_in(self, directory: Path) -> Any:
        return load_tokenizer(str(directory / MODEL))

    def facts_of_model(self, directory: Path) -> dict[str, Any]:
        return {"model_scores": training_record(directory / MODEL)["scores"]}
