"""The latents of a dictionary in the batch files that Neuronpedia imports: ``sae explore --export neuronpedia``.

    batch-N.json           up to 128 latents each, which the format calls features
    skipped_indexes.json   the latents that are in no batch
    run_settings.json      what was counted, on what

The format is that of SAEDashboard 0.8 (``sae_dashboard/neuronpedia``): its names, its groups of examples, its rounding
to three digits and its empty lists for what is not known. Where we differ: values of `pos_values`, `neg_values` and the
logits' histogram are direct effects through the gain of the final norm, less their mean over the vocabulary;
`correlated_features` are chosen among the eight latents that fire most with the latent; and a text around an example
has at most 128 tokens.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pipelines.config.config import Config
from pipelines.explore.site import replaced_folder
from sae.activations.streamed_config import StreamedConfig
from sae.analysis.latents import Absent, Exploration, LatentsConfig, explore_latents
from sae.analysis.latents.distributions import Correlated, Distributions, Histograms, distributions, logit_histograms
from sae.analysis.latents.examples import TOP
from sae.analysis.latents.explore import shown_latents
from sae.analysis.latents.logit_effects import direct_effects
from sae.analysis.latents.words import Words, vocabulary
from sae.dictionary import Dictionary
from sae.registry import UserError
from sae.source import Progress, Source, SourceConfig

RUN_SETTINGS = "run_settings.json"
"""File with the settings; a folder without it is never replaced."""
PER_FILE = 128
"""The latents in a file."""
_LATENTS_IN_A_PASS = 2048
"""The latents that are explored in one pass over the samples: about 150 MB of examples."""
N_BINS, N_TABLE = 50, 3
"""Bins of a histogram, and rows of the tables of neurons and of correlated latents."""
_BEFORE, _AFTER = 64, 63
_LAYER = re.compile(r"blocks\.(\d+)\.")


def export_settings(analysis: LatentsConfig, d: Dictionary, chosen: bool) -> LatentsConfig:
    """The settings of the analysis that the format needs; all latents unless the user has `chosen` some."""
    fixed = {"n_top": 20, "n_intervals": 5, "n_per_interval": 5, "n_silent": 0, "n_ablated": 0}
    fixed |= {"before": _BEFORE, "after": _AFTER, "n_logits": 10}
    return analysis.model_copy(update=fixed | ({} if chosen else {"latents": d.n_latents}))


def check_has_tokens(source: SourceConfig) -> None:
    """Raises `UserError` where a source has no tokens."""
    if not isinstance(source, StreamedConfig):
        kind = source.model_dump()["kind"]
        raise UserError(
            f"--export neuronpedia: the source {kind!r} has no tokens to show; give a config with a model and a text"
        )


def write_batches(
    out: Path, dictionary: str | Path, d: Dictionary, source: Source, config: Config, analysis: LatentsConfig,
    progress: Progress,
) -> None:  # fmt: skip
    """Explores the latents of a dictionary and writes the files, under a partial name until complete."""
    facts = config.sources[0].model_dump(mode="json")
    layer = _LAYER.match(str(facts.get("target") or facts["hook"]))
    model = facts.get("model", "")  # settings, of a model that was trained for this config
    head = {
        "model_id": Path(model).name if isinstance(model, str) else config.name,
        "layer": int(layer[1]) if layer else 0,
    }
    head |= {"sae_set": config.name, "sae_id_suffix": None}
    words, data_set = vocabulary(source, raw=True), _public_name(facts.get("text"))
    written, n_files, n_rows, context = list[int](), 0, 0, 1
    with replaced_folder(out) as partial:
        for explored, counted, histograms in _explored(d, source, analysis, progress):
            n_rows, context = counted.n_rows, explored.reading.context
            latents = _Latents(d, explored, counted, histograms, words, data_set)
            features = [latents.feature(i) for i in range(len(explored.shown))]
            for first in range(0, len(features), PER_FILE):
                batch = {**head, "features": features[first : first + PER_FILE]}
                _write(partial / f"batch-{n_files}.json", batch)
                n_files += 1
            written += explored.shown.tolist()
        skipped = sorted(set(range(d.n_latents)) - set(written))
        summary = {"model_id": head["model_id"], "layer": str(head["layer"]), "sae_set": head["sae_set"]}
        _write(partial / "skipped_indexes.json", {**summary, "log_sparsity": -6, "skipped_indexes": skipped})
        counts = {"n_prompts_total": n_rows, "n_tokens_in_prompt": context}
        _write(partial / RUN_SETTINGS, _run_settings(head, dictionary, data_set, analysis, counts))


def _explored(
    d: Dictionary, source: Source, analysis: LatentsConfig, progress: Progress
) -> Iterator[tuple[Exploration, Distributions, Histograms | None]]:
    """The analysis of the latents, some of them at a time."""
    shown = shown_latents(analysis, d.n_latents)
    for part in shown.split(_LATENTS_IN_A_PASS):
        of_part = analysis.model_copy(update={"latents": tuple(part.tolist())})
        explored = explore_latents(d, source, of_part, progress)
        counted = distributions(d, explored, N_BINS, N_TABLE, progress)
        yield explored, counted, _logit_histograms(d, source, explored)


def _logit_histograms(d: Dictionary, source: Source, explored: Exploration) -> Histograms | None:
    """Histograms of the effects on the logits; None where the analysis has no such effects."""
    site = source.model()
    if isinstance(explored.logits, Absent) or site is None:
        return None
    effects = direct_effects(site.model, site.target or site.hook, d.d_in, site.text)
    assert not isinstance(effects, str), "the analysis has effects"
    return logit_histograms(effects, d.W_dec[explored.shown.to(d.W_dec.device)], N_BINS)


@dataclass(frozen=True, eq=False)
class _Latents:
    """The latents of one analysis, as entries of the format."""

    d: Dictionary
    explored: Exploration
    counted: Distributions
    logits: Histograms | None
    words: Words
    data_set: str

    def feature(self, i: int) -> dict[str, Any]:
        """The entry of the i-th shown latent."""
        j, counted, explored = int(self.explored.shown[i]), self.counted, self.explored
        row = self.d.W_dec[j].float().cpu()
        aligned = row.topk(min(N_TABLE, len(row)))
        fires = int(explored.tally.count[j]) > 0
        return {
            "feature_index": j,
            "neuron_alignment_indices": aligned.indices.tolist(),
            "neuron_alignment_values": _rounded(aligned.values),
            "neuron_alignment_l1": _rounded(aligned.values.abs() / row.abs().sum()),
            **_table("correlated_neurons", counted.coordinates, i),
            **_table("correlated_features", counted.partners, i),
            **self._logits(i),
            "frac_nonzero": round(float(explored.tally.rate[j]), 7),
            **_bars("freq_hist_data", counted.histograms if fires else None, i),
            **_bars("logits_hist_data", self.logits, i),
            "n_prompts_total": counted.n_rows,
            "n_tokens_in_prompt": explored.reading.context,
            "dataset": self.data_set,
            "decoder_weights_dist": [],
            "activations": list(self._activations(i)),
            "vector": [],
        }

    def _logits(self, i: int) -> dict[str, Any]:
        found = self.explored.logits
        if isinstance(found, Absent):
            return {"neg_str": [], "neg_values": [], "pos_str": [], "pos_values": []}
        down, up = (found.suppressed[i], found.suppression[i]), (found.promoted[i], found.promotion[i])
        named = {"neg": down, "pos": up}
        texts = {f"{name}_str": [self.words(t) for t in tokens.tolist()] for name, (tokens, _) in named.items()}
        return texts | {f"{name}_values": _rounded(values) for name, (_, values) in named.items()}

    def _activations(self, i: int) -> Iterator[dict[str, Any]]:
        """The examples of a latent, those of the group of the strongest first."""
        examples, around = self.explored.examples, self.explored.windows
        most, n = float(self.explored.tally.most[self.explored.shown[i]]), self.explored.settings.n_intervals
        for k in (examples.latent == i).nonzero()[:, 0].tolist():
            group = int(examples.group[k])
            if group == TOP:
                bounds = (-1.0, most, -1.0)
            else:
                share = float(self.counted.interval_share[i, group - 1])
                bounds = (most * (n - group) / n, most * (n - group + 1) / n, share)
            tokens, values = around.token[k].tolist(), around.value[k].tolist()
            first, last = _extent(tokens, values, around.before)
            low, high, share = bounds
            yield {
                "bin_min": round(low, 3),
                "bin_max": round(high, 3),
                "bin_contains": round(share, 5),
                "tokens": [self.words(t) for t in tokens[first:last]],
                "values": [0.0 if math.isnan(v) else round(v, 3) for v in values[first:last]],
                "qualifying_token_index": around.before - first,
            }


def _extent(tokens: Sequence[int], values: Sequence[float], example: int) -> tuple[int, int]:
    """The part of a window to show: without padding, and without what precedes the first token that the dictionary
    reads, such as BOS."""
    present = [at for at, token in enumerate(tokens) if token >= 0]
    read = [at for at in present if not math.isnan(values[at])]
    return min(read[0], example), present[-1] + 1


def _table(name: str, found: Correlated, i: int) -> dict[str, list[Any]]:
    """The entries of a table of correlated variables. The format calls the cosine ``l1``."""
    kept = found.variable[i] >= 0
    return {
        f"{name}_indices": found.variable[i][kept].tolist(),
        f"{name}_l1": _rounded(found.cosine[i][kept]),
        f"{name}_pearson": _rounded(found.pearson[i][kept]),
    }


def _bars(name: str, histograms: Histograms | None, i: int) -> dict[str, list[Any]]:
    """The entries of a histogram, empty where there is none."""
    values = [] if histograms is None else _rounded(histograms.centre[i])
    heights = [] if histograms is None else histograms.height[i].tolist()
    return {f"{name}_bar_values": values, f"{name}_bar_heights": heights}


def _rounded(values: Tensor) -> list[float]:
    return [round(v, 3) for v in values.tolist()]


def _public_name(path: Any) -> str:
    """A hub id as it is; of a local path only the last part, since the files are made to be published."""
    text = str(path or "")
    return Path(text).name if Path(text).exists() else text


def _run_settings(
    head: Mapping[str, Any], dictionary: str | Path, data_set: str, analysis: LatentsConfig, counts: Mapping[str, int]
) -> dict[str, Any]:
    """The settings under the names of the format; those that have no meaning here have its defaults."""
    return {
        "sae_set": head["sae_set"],
        "sae_path": _public_name(dictionary),
        "outputs_dir": "",
        "np_sae_id_suffix": None,
        "np_set_name": None,
        "from_local_sae": True,
        "sparsity_threshold": -6,
        "huggingface_dataset_path": data_set,
        **counts,
        "n_features_at_a_time": PER_FILE,
        "n_quantiles": analysis.n_intervals,
        "top_acts_group_size": analysis.n_top,
        "quantile_group_size": analysis.n_per_interval,
        "use_dfa": False,
        "model_id": head["model_id"],
        "layer": head["layer"],
    }


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
