"""Settings of sources of a model's activations on text, stored on disk in shuffled shards, and how they are prepared.

Documents are assigned to the train, validation and test split by a hash of their tokens, and packed into rows. The
model is run over the rows in shuffled order, shard by shard; every activation is stored with its document, row,
position and token. A shard is a pure function of its rows of tokens: an interrupted preparation continues with the
missing shards.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from sae.activations.corpus import SPLITS, Corpus, PositionSelection
from sae.activations.corpus_checks import check_documents, check_tokens
from sae.activations.corpus_state import STATE, CorpusState
from sae.activations.corpus_writer import CorpusWriter, write_text
from sae.activations.disk_source import Activations, share_stream
from sae.activations.harvest import Harvest
from sae.activations.labels import LabelledText, half_of, locate, read_labelled
from sae.activations.packing import BosAt, Packer, Packing
from sae.activations.streamed_config import (
    NO_LOGITS,
    Splits,
    StreamedConfig,
    harvest_of,
    model_versions,
    without_refused_rows,
)
from sae.activations.text import Text, check_token_ids
from sae.activations.text_files import local_files
from sae.activations.tokeniser import Tokeniser
from sae.model.hooked import PROCESSING, Dtype, Model
from sae.numerics.atomic_write import link_or_copy
from sae.numerics.norms import N_MEDIAN, norm_limit
from sae.registry import LocalPath, PathOrId, UserError
from sae.source import LEFT_OUT, Progress, Source, SourceConfig, Split


class TextConfig(StreamedConfig, ABC):
    """Settings of a source of a model's activations on text."""

    together: ClassVar[frozenset[str]] = frozenset({"hook", "target"})
    later: ClassVar[frozenset[str]] = frozenset({"max_norm"})
    text: PathOrId
    """A file of text (.txt, .md) or of records (.jsonl, .json, .csv, .tsv, .parquet, .arrow), a folder of such files or
    of a saved data set, or the hub id of a data set. It is read file by file and never as a whole, but for .json; large
    ones are tokenised in as many processes as PyTorch may use threads. An interrupted run goes on where it was. Or
    ``random:words``, made-up text without end that needs no file, for rehearsals."""
    dtype: Dtype = "float32"
    """The type in which the model is run."""
    attention: Literal["fused", "eager"] = "fused"
    """How attention is computed: by a ``fused`` kernel, which gives the same activations to rounding in less time, or
    step by step (``eager``), as it always is for a hook point inside attention, for a model to which the kernel does
    not apply, and where a dictionary is spliced in. ``source.json`` says which."""
    context: int = Field(128, ge=2)
    """The number of tokens in a row."""
    text_subset: str | None = None
    """The configuration of a data set on the hub."""
    text_split: str = "train"
    """The split of a data set on the hub or in a folder that the text is taken from."""
    column: str = "text"
    """The column of a data set or file of records with the documents: strings, or lists of token ids."""
    separator: str | None = None
    """The string between the documents of a file of text. Default: it is running text, which is cut at blank lines, see
    `sae.activations.text`."""
    packing: Packing = "packed"
    """``packed``: documents are concatenated and cut into full rows. ``document``: every document starts a new row."""
    bos: BosAt = "row"
    """Whether BOS begins every ``row``, every ``document``, or nothing (``none``)."""
    eos: bool = False
    """Whether documents end with EOS."""
    drop_position_0: bool = True
    """Whether activations at the first position of a row are left out, as they are outliers."""
    max_norm: float | None = Field(None, gt=1)
    """Activations whose norm is above this many times the median norm are left out of training and scoring, such as
    those of attention sinks at other positions than the first. The median is that of the first 16,384 training
    activations in the order in which they are stored; labelled positions stay. A spliced model leaves such activations
    as they are. Default: none is left out; not for a source with a `target`."""
    n_tokens: int | None = Field(None, gt=0)
    """The number of training activations; default: the whole text once."""
    n_heldout_tokens: int | None = Field(None, gt=1)
    """The number of held-out activations, half for validation and half for testing; default: those of `heldout_share`
    of the documents."""
    heldout_share: float = Field(0.1, gt=0, lt=1)
    """The fraction of documents that are held out from training."""
    exhausted: Literal["error", "repeat"] = "error"
    """If the text has fewer than `n_tokens`: an ``error``, or training repeats it (``repeat``), and ``source.json``
    records how often."""
    labels: LocalPath | None = None
    """A file of labelled texts for probes, see `sae.activations.labels`."""

    @property
    def fused(self) -> bool:
        return self.attention == "fused"

    @model_validator(mode="after")
    def _norms_of_one_hook(self) -> TextConfig:
        if self.max_norm is not None and self.target is not None:
            raise UserError(f"max_norm = {self.max_norm:g}: not for a source with a target; leave one of them out")
        if self.max_norm is not None and self.cache != "disk":
            raise UserError(f"max_norm = {self.max_norm:g}: needs cache = 'disk', which counts the rows that are left")
        return self

    @model_validator(mode="after")
    def _ends(self) -> TextConfig:
        if self.documents.is_endless and self.n_tokens is None:
            raise UserError(f"n_tokens is missing: text = {self.text!r} has no end; say how many tokens to take")
        return self

    def has_labels(self) -> bool:
        return self.labels is not None

    @property
    def documents(self) -> Text:
        """The documents."""
        return Text(self.text, self.text_subset, self.text_split, self.column, self.separator)

    def external_files(self) -> dict[str, Path]:
        """The local files; texts on the hub are identified by `text`."""
        files = {} if self.labels is None else {"labels": self.labels}
        return files | (local_files("text", self.text) if self.documents.local else {})

    @abstractmethod
    def model_in(self, directory: Path, device: str) -> Model:
        """Loads the model of the source that is prepared in `directory`."""

    @abstractmethod
    def tokenizer_in(self, directory: Path) -> Any:
        """The tokenizer of that model as published, see :func:`~sae.model.loading.load_tokenizer`."""

    def prepare(self, directory: Path, progress: Progress, device: str) -> None:
        """Tokenises the text, stores the activations of the model, and writes ``source.json`` last."""
        self.prepare_together([(self, directory)], progress, device)

    @classmethod
    def prepare_together(cls, sources: Sequence[tuple[SourceConfig, Path]], progress: Progress, device: str) -> None:
        """As :meth:`prepare`, with one tokenisation, and one forward pass of every row for all hook points."""
        left = [(config, where) for config, where in sources if isinstance(config, cls)]
        for _, where in left:
            where.mkdir(parents=True, exist_ok=True)
        left = [(config, where) for config, where in left if not config.finished(where / "source.json")]
        # Norms differ between hook points, and so do the rows that are left out.
        groups = [[pair] for pair in left] if left and left[0][0].max_norm is not None else [left]
        for group in filter(None, groups):
            group[0][0]._prepare(group, progress, device)

    def _prepare(self, sources: Sequence[tuple[TextConfig, Path]], progress: Progress, device: str) -> None:
        """Prepares sources that differ from this one in their hook points only."""
        labelled = [] if self.labels is None else read_labelled(self.labels)
        directory = sources[0][1]
        model, tokenizer = self.model_in(directory, device), self.tokenizer_in(directory)
        self._check_tokenizer(tokenizer, model.name)
        if model.no_logits is not None:
            warnings.warn(f"source.model = {model.name!r}: no scores of its loss, for {model.no_logits}", stacklevel=2)
        model.check_context(self.context)
        select = PositionSelection.of(tokenizer, self.drop_position_0)
        widths = [config.width(model) for config, _ in sources]
        for (config, where), d_in in zip(sources, widths, strict=True):
            if config.is_cached(self.n_tokens or 0, d_in):
                config.check_room(where, self.n_tokens or 0, d_in)
        with without_refused_rows([where for _, where in sources]):
            splits = self._write_corpora(sources, tokenizer, model.d_vocab, select, progress)
        harvest, limit = harvest_of([config for config, _ in sources], model, select, self.context), None
        if self.max_norm is not None:
            limit = self._norm_limit(sources[0][1], harvest, splits)
        with_shards = self.harvest(sources, model, select, splits, progress, limit)
        if labelled:
            self._write_labels([where for _, where in sources], labelled, tokenizer, harvest)
        for (config, where), d_in, own in zip(sources, widths, with_shards, strict=True):
            facts = self._facts(model, select, own)
            if limit is not None:
                facts[LEFT_OUT] = {"norm_limit": limit, "rows": {split: own[split].pop(LEFT_OUT) for split in SPLITS}}
            fused = config.fused and all(model.can_fuse(hook) for hook in config.hooks.values())
            facts |= {"attention": "fused" if fused else "eager", **config.storage(own), **config.facts_of_model(where)}
            config.record(where / "source.json", {"d_in": d_in, "splits": own, **facts})

    def _write_corpora(
        self,
        sources: Sequence[tuple[TextConfig, Path]],
        tokenizer: Any,
        d_vocab: int,
        select: PositionSelection,
        progress: Progress,
    ) -> Splits:
        """Writes the rows of tokens into the directory of one source, and links them into the others."""
        finished = [pair for pair in sources if pair[0].finished(pair[1] / "rows.json")]
        writer, origin = (finished or sources)[0]
        splits = writer._write_corpus(origin, tokenizer, d_vocab, select, progress)
        for config, where in sources:
            if where != origin and (config, where) not in finished:
                # Rows are written under a temporary name and renamed, never in place, and where a folder is found to
                # be damaged they are removed: neither changes what another folder has under its name. The permissions
                # that a finished step gives its files are the same for all.
                for file in origin.glob("rows-*.safetensors"):
                    link_or_copy(file, where / file.name)
                config.record(where / "rows.json", {"splits": splits})
        return splits

    def open(self, directory: Path, device: str) -> Activations:
        facts = self.complete(directory)
        select = PositionSelection(tuple(facts["excluded_token_ids"]), self.drop_position_0)
        boot, tokenizer = partial(self.model_in, directory, device), partial(self.tokenizer_in, directory)
        return self.mark(Activations(self, directory, facts, select, boot, device, tokenizer=tokenizer))

    @classmethod
    def open_together(cls, sources: Sequence[tuple[SourceConfig, Path]], device: str) -> list[Source]:
        opened = [config.open(where, device) for config, where in sources if isinstance(config, cls)]
        share_stream([source for source in opened if source.computes_ahead])
        return [*opened]

    def facts_of_model(self, directory: Path) -> dict[str, Any]:
        """What ``source.json`` says of the model beside its name."""
        return {}

    def _check_tokenizer(self, tokenizer: Any, model: str) -> None:
        if self.bos != "none" and tokenizer.bos_token_id is None:
            raise UserError(f"source.bos = {self.bos!r}: the tokenizer of {model} has no BOS; set it to 'none'")
        if self.eos and tokenizer.eos_token_id is None:
            raise UserError(f"source.eos = true: the tokenizer of {model} has no EOS; set it to false")

    def _write_corpus(
        self, directory: Path, tokenizer: Any, d_vocab: int, select: PositionSelection, progress: Progress
    ) -> Splits:
        """Writes the rows of tokens of every split. Raises `UserError` if the text is too short for one of them."""
        finished = self.finished(directory / "rows.json")
        if finished:
            (directory / STATE).unlink(missing_ok=True)  # of a run that was killed after this record
            return finished["splits"]
        half = None if self.n_heldout_tokens is None else self.n_heldout_tokens // 2
        targets: dict[Split, int | None] = {"train": self.n_tokens, "choose": half, "test": half}
        eos = tokenizer.eos_token_id if self.eos else None
        packers: dict[Split, Packer] = {
            s: Packer(self.context, self.packing, self.bos, tokenizer.bos_token_id, eos) for s in SPLITS
        }
        for name, used, token in (("bos", self.bos != "none", tokenizer.bos_token_id), ("eos", self.eos, eos)):
            if used and token is not None:
                off = "'none'" if name == "bos" else "false"
                check_token_ids([token], d_vocab, f"source.{name}: the tokenizer's {name.upper()}", f"set it to {off}")
        progress(0, self.n_tokens or 0, "tokens read")  # before the text is opened, which takes time on the hub
        reading = self.documents.open()
        tokeniser = Tokeniser(self.documents, tokenizer, d_vocab, self.seed, self.heldout_share)
        state = CorpusState(directory, [self.identity(), reading.identity, tokeniser.identity])
        writer = CorpusWriter(directory, packers, select, targets, self.heldout_share, state)
        splits = write_text(writer, reading, tokeniser, progress)
        least = {"train": self.n_tokens if self.exhausted == "error" else None, "choose": half, "test": half}
        try:
            check_documents(splits, self.documents)
            check_tokens(splits, least)
        except UserError:
            state.remove()
            raise
        self.record(directory / "rows.json", {"splits": splits})
        n = splits["train"]["tokens"]
        progress(n, n, "tokens read")  # until the record is reported, it may be removed, and the state is needed
        state.remove()
        return splits

    def _norm_limit(self, directory: Path, harvest: Harvest, splits: Splits) -> float:
        """The largest norm of stored activations, recorded so that an interrupted preparation continues with it."""
        file = directory / "norm.json"
        finished = self.finished(file)
        if finished:
            return finished["norm_limit"]
        assert self.max_norm is not None
        corpus = Corpus.open(directory, "train", splits["train"]["rows"], self.seed)
        limit = norm_limit(harvest.first_vectors(corpus, N_MEDIAN), self.max_norm)
        self.record(file, {"norm_limit": limit})
        return limit

    def _write_labels(
        self, directories: Sequence[Path], labelled: list[LabelledText], tokenizer: Any, harvest: Harvest
    ) -> None:
        bos = None if self.bos == "none" else tokenizer.bos_token_id
        for split in ("choose", "test"):
            texts = [text for text in labelled if half_of(text, self.seed) == split]
            rows = locate(texts, tokenizer, self.context, bos, harvest.model.d_vocab)
            if len(rows.row) == 0:
                raise UserError(
                    f"source.labels = '{self.labels}': no labelled text is in the split {split!r}; give more texts"
                )
            harvest.labelled([where / f"labels-{split}.safetensors" for where in directories], rows)

    def _facts(
        self, model: Model, select: PositionSelection, splits: Mapping[str, Mapping[str, int]]
    ) -> dict[str, Any]:
        """A description of the activations, for ``source.json``."""
        unique = splits["train"]["tokens"]
        return {
            "unique_tokens": unique,
            "passes_to_n_tokens": max(1.0, (self.n_tokens or unique) / unique),
            "excluded_token_ids": list(select.special),
            "model_revision": model.revision,
            "processing": PROCESSING,
            **({} if model.no_logits is None else {NO_LOGITS: model.no_logits}),
            **model_versions(),
        }
