"""Activations of a real transformer at a hook point, from text to shuffled shards on disk.

Documents are parted into train, choose and test before anything is computed; tokens are packed into rows; the
model is run over the rows in shuffled order, shard by shard, and every vector is kept with its document, row,
position and token. A shard is a pure function of its rows of tokens, so what is finished is never done again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sae.activations.corpus import SPLITS, BosAt, Packer, Packing, PositionSelection, write_corpus
from sae.activations.disk_source import Activations, Splits, StreamedConfig, model_versions
from sae.activations.harvest import Harvest
from sae.activations.labels import Labelled, half_of, locate, read_labelled
from sae.activations.text import Text, tokenised
from sae.model.hooked import PROCESSING, Dtype, Model, is_path, load_tokenizer
from sae.registry import UserError
from sae.source import Progress, Source, Split

__all__ = ["Activations", "Config"]


class Config(StreamedConfig):
    """Settings. `model` is a hub id or a local Hugging Face folder; `text` a .txt or .jsonl file, the folder of a
    data set, or a hub id. `n_tokens` counts training vectors (None: the whole text once), `n_heldout_tokens`
    those held out, half to choose on and half to score on (None: what `heldout_share` of the documents gives).
    """

    kind: Literal["transformer"] = "transformer"
    model: str
    text: str
    revision: str | None = None
    dtype: Dtype = "float32"
    context: int = Field(128, ge=2)
    text_subset: str | None = None
    text_split: str = "train"
    column: str = "text"
    separator: str | None = None
    """What parts the documents of a .txt file; without it, running text is cut at blank lines, see
    `sae.activations.text`."""
    packing: Packing = "packed"
    bos: BosAt = "row"
    eos: bool = False
    """Whether documents end with EOS."""
    drop_position_0: bool = True
    n_tokens: int | None = Field(None, gt=0)
    n_heldout_tokens: int | None = Field(None, gt=1)
    heldout_share: float = Field(0.1, gt=0, lt=1)
    exhausted: Literal["error", "repeat"] = "error"
    """Where the text has fewer than `n_tokens`: refuse, or let training go over it again and write down how often."""
    labels: Path | None = None

    def has_labels(self) -> bool:
        return self.labels is not None

    @property
    def documents(self) -> Text:
        return Text(self.text, self.text_subset, self.text_split, self.column, self.separator)

    def external_files(self) -> dict[str, Path]:
        """Local files alone; what comes from the hub is told apart by `model`, `revision` and `text`."""
        files = {} if self.labels is None else {"labels": self.labels}
        for name, here in (("text", self.documents.local), ("model", is_path(self.model))):
            path = Path(getattr(self, name)).expanduser()
            if here and path.is_dir():
                files |= {f"{name}/{p.relative_to(path)}": p for p in sorted(path.rglob("*")) if p.is_file()}
            elif here:
                files[name] = path
        return files

    def boot(self, device: str) -> Model:
        return Model.boot(self.model, device, self.dtype, self.revision)

    def prepare(self, directory: Path, progress: Progress, device: str) -> None:
        """Tokenises the text, runs the model over it, and writes ``source.json`` last of all."""
        directory.mkdir(parents=True, exist_ok=True)
        if self.finished(directory / "source.json"):
            return
        labelled = [] if self.labels is None else read_labelled(self.labels)
        model, tokenizer = self.boot(device), self._tokenizer()
        d_in = self.width(model)
        model.check_context(self.context)
        select = PositionSelection.of(tokenizer, self.drop_position_0)
        self.check_room(directory, self.n_tokens or 0, d_in)
        splits = self._write_corpus(directory, tokenizer, select, progress)
        shard_rows = max(1, self.shard_tokens // self.context)
        harvest = Harvest(model, self.hooks, select, self.store_dtype, shard_rows, self.rows_at_once)
        splits = self.harvest(directory, harvest, splits, progress)
        if labelled:
            self._write_labels(directory, labelled, tokenizer, harvest)
        self.record(directory / "source.json", {"d_in": d_in, "splits": splits, **self._facts(model, select, splits)})

    def open(self, directory: Path, device: str) -> Source:
        facts = self.complete(directory)
        select = PositionSelection(tuple(facts["excluded_token_ids"]), self.drop_position_0)
        return Activations(self, directory, facts, select, partial(self.boot, device), device)

    def _tokenizer(self) -> Any:
        tokenizer = load_tokenizer(self.model, self.revision)
        if self.bos != "none" and tokenizer.bos_token_id is None:
            raise UserError(f"source.bos = {self.bos!r}: the tokenizer of {self.model} has no BOS; use 'none'")
        if self.eos and tokenizer.eos_token_id is None:
            raise UserError(f"source.eos = true: the tokenizer of {self.model} has no EOS; use false")
        return tokenizer

    def _write_corpus(self, directory: Path, tokenizer: Any, select: PositionSelection, progress: Progress) -> Splits:
        """The rows of tokens of every split; a ``ValueError`` where the text has too little for any of them."""
        finished = self.finished(directory / "rows.json")
        if finished:
            return finished["splits"]
        half = None if self.n_heldout_tokens is None else self.n_heldout_tokens // 2
        wanted: dict[Split, int | None] = {"train": self.n_tokens, "choose": half, "test": half}
        eos = tokenizer.eos_token_id if self.eos else None
        packers: dict[Split, Packer] = {
            s: Packer(self.context, self.packing, self.bos, tokenizer.bos_token_id, eos) for s in SPLITS
        }
        documents = tokenised(self.documents.read(), tokenizer)
        splits = write_corpus(directory, documents, packers, select, wanted, self.seed, self.heldout_share, progress)
        needed = {"train": self.n_tokens if self.exhausted == "error" else None, "choose": half, "test": half}
        for split, n in needed.items():
            if splits[split]["tokens"] < (n or 1):
                field = "n_tokens" if split == "train" else "n_heldout_tokens"
                remedy = "set exhausted = 'repeat'" if split == "train" and n else "change heldout_share"
                raise UserError(
                    f"source.{field}: the text has {splits[split]['tokens']} tokens for {split!r} where {n or 1} are "
                    f"wanted; give more text, ask for fewer or {remedy}"
                )
        self.record(directory / "rows.json", {"splits": splits})
        return splits

    def _write_labels(self, directory: Path, labelled: list[Labelled], tokenizer: Any, harvest: Harvest) -> None:
        bos = None if self.bos == "none" else tokenizer.bos_token_id
        for split in ("choose", "test"):
            texts = [text for text in labelled if half_of(text, self.seed) == split]
            rows = locate(texts, tokenizer, self.context, bos)
            if len(rows.row) == 0:
                raise UserError(f"source.labels: {self.labels} has no labelled text for {split!r}; give more texts")
            harvest.labelled(directory / f"labels-{split}.safetensors", rows)

    def _facts(
        self, model: Model, select: PositionSelection, splits: Mapping[str, Mapping[str, int]]
    ) -> dict[str, Any]:
        """What the activations are, for whoever meets the directory later."""
        unique = splits["train"]["tokens"]
        return {
            "unique_tokens": unique,
            "passes_to_n_tokens": max(1.0, (self.n_tokens or unique) / unique),
            "excluded_token_ids": list(select.special),
            "model_revision": model.revision,
            "processing": PROCESSING,
            **model_versions(),
        }
