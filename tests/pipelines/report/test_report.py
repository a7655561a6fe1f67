"""The report: its findings, its files, and that the page loads nothing from elsewhere."""

from __future__ import annotations

import csv
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from scipy import stats

from pipelines.report.findings import judge, sentences
from pipelines.report.page import toml
from pipelines.report.scores import ordered_scores
from pipelines.report.settings_table import IDENTITY, ScoredRow, deciding_score, read_csv, settings_of, write_csv
from pipelines.stages import report
from pipelines.steps.step import Job, Runtime, Step
from sae.baselines.oracle import Config as Oracle
from sae.baselines.random import Config as Random
from sae.dictionaries.relu import Relu
from sae.dictionary import Dictionary
from sae.files import load, save
from sae.metric import Case, gather_evidence
from sae.metrics.reconstruction import Config as Reconstruction
from sae.metrics.recovery import Config as Recovery
from sae.numerics.seeds import generator
from sae.numerics.statistics import bootstrap, difference, mean_interval
from sae.sources.independent import Config as Independent

SOURCE = Independent(n_features=24, d_in=12, probability=0.08, frequencies="zipf", exponent=0.5)
CONFIG = {"name": "tiny", "source": {"kind": "independent", "n_features": 24}, "dictionary": [{"l1": [0.1, 1.0]}]}


def row(method: str, seed: int | None, n_latents: int = 24, l1: float | None = None, **more: Any) -> dict[str, Any]:
    own = {"source": "independent", "method": method, "encoder": None, "n_latents": n_latents, "l1": l1}
    return {**own, "target_l0": None, "seed": seed, "data_seed": 0, **more}


def dictionaries() -> list[tuple[dict[str, Any], Dictionary]]:
    """Noisy copies of the truth, noisier away from l1 = 1; random directions; the oracle."""
    source, found = SOURCE.build(), []
    assert source.truth is not None
    for l1, noise in ((0.1, 0.35), (1.0, 0.05), (4.0, 0.2)):
        for seed in range(3):
            wrong = torch.randn(source.truth.directions.shape, generator=generator("noise", seed, int(10 * l1)))
            d = Relu.tied(torch.nn.functional.normalize(source.truth.directions + noise * wrong))
            found.append((row("relu", seed, l1=l1), replace(d, b_enc=d.b_enc - 0.1 * l1)))
    found += [(row("random", seed), Random(n_latents=24).fit(source, seed)) for seed in range(3)]
    return [*found, (row("oracle", None, encoder="fista"), Oracle(n_iterations=20).fit(source, 0))]


def written(folder: Path, name: str, manifest: Mapping[str, Any]) -> Path:
    out = folder / name
    out.mkdir(parents=True)
    (out / "manifest.json").write_text(
        json.dumps({"device": "cpu", "config": {}, "inputs": {}, "files": {}, **manifest})
    )
    return out


def log(l1: float, seed: int) -> str:
    records = [{"step": s, "samples": 32 * s, "loss": l1 + 1 / s + 0.1 * seed, "l0": 9 - l1} for s in range(1, 20)]
    return "".join(json.dumps(r) + "\n" for r in records)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The job of a report on thirteen dictionaries with real scores."""
    folder = tmp_path_factory.mktemp("runs")
    source_step = Step("generate", 1, {"source": SOURCE.model_dump(mode="json")})
    steps, inputs = {"source.0": source_step}, {"source.0": written(folder, "source", {"config": source_step.config})}
    SOURCE.prepare(inputs["source.0"], lambda *_: None, "cpu")
    evidence = gather_evidence(SOURCE.build(), 600)
    for i, (identity, d) in enumerate(dictionaries()):
        train, score = written(folder, f"train-{i}", {}), written(folder, f"score-{i}", {})
        save(d, train / "dictionary")
        if identity["l1"]:
            (train / "log.jsonl").write_text(log(identity["l1"], identity["seed"]))
        given = {kind: c().score(Case(d, evidence)) for kind, c in METRICS.items()}
        scores = {name: None if math.isnan(v) else v for g in given.values() for name, v in g.scalars.items()}
        scores["a_new_score"] = float(i)
        (score / "scores.json").write_text(json.dumps({"row": identity, "scores": scores}))
        vectors = {f"{kind}.{name}": v.contiguous() for kind, g in given.items() for name, v in g.vectors.items()}
        save_file(vectors, score / "vectors.safetensors")
        steps |= {f"train.{i}": Step("train", 1, {"i": i}), f"score.{i}": Step("score", 1, {}, {"source": source_step})}
        inputs |= {f"train.{i}": train, f"score.{i}": score}
    title = "<script>alert(1)</script> & 'friends'"
    config = {"name": "tiny", "title": title, "description": "d", "best_by": "mcc", "config": CONFIG}
    return Job(Step("report", 1, config, steps), inputs, folder / "report")


METRICS: dict[str, type[Reconstruction | Recovery]] = {"reconstruction": Reconstruction, "recovery": Recovery}


def made(job: Job, out: Path, **config: Any) -> Path:
    step = replace(job.step, config={**job.step.config, **config})
    list(report.run([replace(job, out=out, step=step)], out.parent, Runtime(), lambda *_, **__: None))
    return out


@pytest.fixture(scope="module")
def finished(job: Job) -> Path:
    return made(job, job.out)


def test_the_page_fetches_nothing_and_escapes_what_it_is_given(finished: Path):
    page = (finished / "report.html").read_text()
    assert "http://" not in page and "https://" not in page
    references = re.findall(r"""(?:src|href)=["']([^"']*)|url\(([^)]*)""", page)
    assert references and all((a or b).startswith(("#", "data:")) for a, b in references)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#39;friends&#39;" in page
    assert page.count("<figure ") == page.count("</svg>") == 7
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert {f for f in re.findall(r'(?:href="|url\()#([^")]*)', page)} <= set(ids)


def test_the_best_dictionary_and_its_comparison_are_named(finished: Path):
    page = (finished / "report.html").read_text()
    assert "By mcc, the best dictionary is relu, 24 latents, l1 = 1:" in page
    assert "It is better than the best baseline, random, 24 latents (" in page
    assert "The oracle, which is given the true directions, reaches 1.000." in page


def test_csv_has_a_line_for_every_dictionary_and_a_column_for_every_score(finished: Path):
    with (finished / "scores.csv").open(newline="") as f:
        lines = list(csv.DictReader(f))
    columns = list(lines[0])
    assert tuple(columns[:8]) == IDENTITY
    assert columns[8:11] == ["l0", "true_l0", "explained_variance"] and columns[-1] == "a_new_score"
    assert columns.index("mmcs_decile_10") == columns.index("mmcs_decile_9") + 1
    assert len(lines) == 13
    assert [line["l1"] for line in lines if line["method"] != "relu"] == [""] * 4
    assert lines[4]["a_new_score"] == "4.0" and (lines[4]["method"], lines[4]["seed"]) == ("relu", "1")


def test_intervals_are_those_of_students_t(finished: Path):
    with (finished / "scores.csv").open(newline="") as f:
        x = [float(line["mcc"]) for line in csv.DictReader(f) if line["l1"] == "1.0"]
    low, high = stats.t.interval(0.95, len(x) - 1, loc=sum(x) / len(x), scale=stats.sem(x))
    best = next(s for s in settings_of(read_csv(finished / "scores.csv")) if s.l1 == 1.0)
    assert (best.scores["mcc"].low, best.scores["mcc"].high) == pytest.approx((low, high), rel=1e-12)
    assert f"95% interval {low:.6g} to {high:.6g}, n = 3" in (finished / "report.html").read_text()


def test_the_same_inputs_give_the_same_bytes(job: Job, finished: Path, tmp_path: Path):
    again = made(job, tmp_path / "again")
    files = {f.relative_to(finished) for f in finished.rglob("*") if f.is_file()}
    assert {f.relative_to(again) for f in again.rglob("*") if f.is_file()} == files
    suffixes = {".html", ".csv", ".svg", ".png", ".json", ".safetensors"}  # the last two are the best dictionary
    assert {f.suffix for f in files} == suffixes and len(files) == 2 + 2 * 7 + 2
    for f in files:
        assert (again / f).read_bytes() == (finished / f).read_bytes(), f


def test_a_score_that_no_dictionary_has_is_replaced_and_that_is_said(job: Job, tmp_path: Path):
    page = (made(job, tmp_path / "other", best_by="ce_recovered_mean") / "report.html").read_text()
    assert (
        "No dictionary has the score <code>ce_recovered_mean</code>; the best is selected by <code>mcc</code>" in page
    )


def test_less_is_better_where_it_is(job: Job, tmp_path: Path):
    out = made(job, tmp_path / "fvu", best_by="fvu")
    with (out / "scores.csv").open(newline="") as f:
        lines = [line for line in csv.DictReader(f) if line["method"] != "oracle"]
    means = {key: sum(float(x["fvu"]) for x in lines if (x["method"], x["l1"]) == key) for key in
             {(x["method"], x["l1"]) for x in lines}}  # fmt: skip
    method, l1 = min(means, key=means.__getitem__)
    assert method == "relu"
    assert f"By fvu, the best dictionary is relu, 24 latents, l1 = {float(l1):g}:" in (out / "report.html").read_text()


def test_figures_without_data_are_left_out(job: Job, tmp_path: Path):
    inputs = {}
    for name, path in job.inputs.items():
        inputs[name] = path
        if name.startswith("score."):
            content = json.loads((path / "scores.json").read_text())
            bare = written(tmp_path, name, {})
            kept = {k: content["scores"][k] for k in ("l0", "fvu")}
            (bare / "scores.json").write_text(json.dumps({"row": content["row"], "scores": kept}))
            inputs[name] = bare
    out = made(replace(job, inputs=inputs), tmp_path / "bare")
    assert {f.stem for f in out.rglob("*.svg")} == {"l0-fvu", "training"}


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_terminal_table_is_readable(finished: Path, width: int):
    console = Console(width=width, record=True, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    report.print_table(finished, console)
    text = console.export_text()
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    order = [line.split()[0] for line in lines[2:7]]
    assert order == ["oracle", "relu", "relu", "relu", "random"]
    assert "oracle *" in text and "* ceiling" in text
    assert re.search(r"relu +24 +1 .* 0\.\d{3} ±\.\d{3}", text)


def test_one_seed_is_said_to_be_one(tmp_path: Path):
    rows = [ScoredRow(row("relu", 0, l1=l1), {"l0": 3.0, "mcc": 0.5 + l1}) for l1 in (0.1, 0.2)]
    write_csv([*rows, ScoredRow(row("random", 0), {"mcc": 0.2})], tmp_path / "scores.csv")
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    report.print_table(tmp_path, console)
    text = " ".join(console.export_text().split())
    assert "(1 seed)" in text and "±" not in text and "with one seed there is no interval" in text


def test_findings_follow_the_sweep():
    l0s, mccs, fvus = (20.0, 5.2, 1.0), (0.4, 0.9, 0.6), (0.01, 0.1, 0.5)
    rows = [
        ScoredRow(row("relu", seed, l1=l1), {"l0": l0, "true_l0": 5.0, "mcc": mcc + 0.01 * seed, "fvu": fvu})
        for l1, l0, mcc, fvu in zip((0.1, 1.0, 8.0), l0s, mccs, fvus, strict=True)
        for seed in range(3)
    ]
    settings = settings_of([*rows, *(ScoredRow(row("ica", seed), {"mcc": 0.91 + 0.01 * seed}) for seed in range(3))])
    verdict = judge(settings, "mcc")
    assert verdict is not None and verdict.best.method == "ica"
    text = " ".join(sentences(settings, verdict))
    assert "the best dictionary is a baseline, ica" in text
    assert "relu, 24 latents, l1 = 1, does not differ significantly from the best baseline" in text
    assert "On average 5.00 features are active in a sample. With 24 latents: " in text
    assert "l1 = 0.1 is too dense (l0 20.0); l1 = 8 is too sparse (l0 1.000)" in text
    assert "l1 = 1 is the nearest (l0 5.20)" in text
    assert "the lowest fvu of the sweep, 0.010, is at l1 = 0.1, where mcc is 0.410" in text
    assert "a wider sweep" not in text


def test_settings_that_share_every_column_are_not_taken_for_seeds():
    rows = [ScoredRow(row("relu", seed, l1=1.0), {"mcc": value}) for value in (0.2, 0.8) for seed in (0, 1)]
    assert [s.scores["mcc"].mean for s in settings_of(rows)] == [0.2, 0.8]


def test_dictionaries_of_one_data_seed_count_once():
    rows = [ScoredRow(row("relu", s, data_seed=d), {"mcc": d + s / 10}) for d in (0, 1, 2) for s in (0, 1)]
    (setting,) = settings_of(rows)
    estimate = setting.scores["mcc"]
    assert estimate.n == 3 and estimate == mean_interval([0.05, 1.05, 2.05])


def test_csv_round_trip_and_columns_of_its_own(tmp_path: Path):
    rows = [ScoredRow(row("relu", 0, l1=0.1, lr=0.003), {"mcc": 1 / 3, "kl": math.nan})]
    write_csv(rows, tmp_path / "scores.csv")
    header = (tmp_path / "scores.csv").read_text().splitlines()[0]
    assert header == "source,method,encoder,n_latents,l1,target_l0,lr,seed,data_seed,mcc,kl"
    (again,) = read_csv(tmp_path / "scores.csv")
    assert again.scores == {"mcc": 1 / 3} and again.identity["lr"] == "0.003"
    with pytest.raises(FileNotFoundError, match=r"scores\.csv"):
        read_csv(tmp_path / "nowhere" / "scores.csv")


def test_order_and_choice_of_scores():
    names = ["zebra", "probe_auc_k16", "probe_auc_k5", "mcc", "l0", "probe_auc_k1"]
    assert ordered_scores(names) == ["l0", "mcc", "probe_auc_k1", "probe_auc_k5", "probe_auc_k16", "zebra"]
    settings = settings_of([ScoredRow(row("relu", 0), {"ce_recovered_mean": 0.9, "mcc": math.nan})])
    assert deciding_score(settings, "mcc") == "ce_recovered_mean"


def test_toml_gives_the_config_back():
    table = {**CONFIG, "title": 'a "quoted"\nline é', "train": {"lr": 3e-3, "on": True, "kinds": ["a", {"b": [1]}]}}
    assert tomllib.loads(toml(table)) == table


def test_welch_and_bootstrap():
    a, b = [0.5, 0.6, 0.8], [0.1, 0.2, 0.15, 0.4]
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    found = difference(a, b)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-10)
    assert difference(a, [0.3]).half == pytest.approx(mean_interval(a).half)
    assert math.isnan(difference([0.5], [0.3]).half)
    x = torch.randn(400, generator=generator("x")).double().numpy()
    low, high = bootstrap(x, seed=0)
    assert (low, high) == pytest.approx((mean_interval(x.tolist()).low, mean_interval(x.tolist()).high), abs=0.02)
    assert math.isnan(mean_interval([math.nan]).mean) and mean_interval([1.0, math.nan, 3.0]).n == 2


def scored(folder: Path, rows: list[tuple[dict[str, Any], dict[str, float]]]) -> Job:
    """The job of a report on scores alone; its sources are never opened."""
    source_steps = {name: Step("stream", 1, {"name": name}) for name in dict.fromkeys(r["source"] for r, _ in rows)}
    steps = {f"source.{i}": step for i, step in enumerate(source_steps.values())}
    inputs = {
        key: written(folder, key, {"config": {"source": {"kind": "tensor", "file": f"{name}.npy"}}})
        for key, name in zip(steps, source_steps, strict=True)
    }
    for i, (identity, scores) in enumerate(rows):
        score = inputs[f"score.{i}"] = written(folder, f"score-{i}", {})
        inputs[f"train.{i}"] = written(folder, f"train-{i}", {})
        save(Relu.tied(torch.eye(3)).with_card(i=i), inputs[f"train.{i}"] / "dictionary")
        (score / "scores.json").write_text(json.dumps({"row": identity, "scores": scores}))
        step = Step("score", 1, {}, {"source": source_steps[identity["source"]]})
        steps |= {f"train.{i}": Step("train", 1, {"i": i}), f"score.{i}": step}
    config = {"name": "n", "title": "t", "description": "", "best_by": "mcc", "config": {}}
    return Job(Step("report", 1, config, steps), inputs, folder / "report")


def of_a_model(kept: float, seed: int) -> dict[str, float]:
    ce = {"ce_increase": 4 * (1 - kept), "ce_recovered_mean": kept + seed / 100, "ce_recovered_zero": 0.9}
    probes = {"probe_auc_logistic": 0.95, "probe_auc_latent": kept, "probe_auc_k5": 0.9, "probe_auc_shuffled": 0.5}
    return {"l0": 30 * kept, "fvu": 1 - kept, **ce, **probes}


def test_a_real_model_is_judged_by_its_loss(tmp_path: Path):
    found = [
        (row(method, seed, l1=l1, source="transformer"), of_a_model(kept, seed))
        for method, l1, kept in (("relu", 2.0, 0.8), ("relu", 4.0, 0.6), ("pca", None, 0.3))
        for seed in (0, 1)
    ]
    out = made(scored(tmp_path, found), tmp_path / "report")
    page = (out / "report.html").read_text()
    assert {f.stem for f in out.rglob("*.svg")} == {"l0-fvu", "l0-ce-recovered", "ce-recovered", "probes"}
    assert "the best is selected by <code>ce_recovered_mean</code>" in page
    assert "Spliced into the model, relu, 24 latents, l1 = 2 raises the loss by 0.800 nats per token" in page
    assert load(out / "best").card["i"] == 1, "the best seed of the best setting"
    assert "5 of its latents 0.900; logistic regression on the raw activations reaches 0.950." in page


def test_a_copy_of_the_activations_is_a_ceiling_of_fidelity_and_a_rival_in_recovery():
    copy = ScoredRow(row("neurons", None), {"l0": 24.0, "fvu": 0.0, "ce_recovered_mean": 1.0, "mcc": 0.99})
    found = [copy, *(ScoredRow(row("relu", s, l1=2.0), of_a_model(0.8, s) | {"mcc": 0.5}) for s in (0, 1))]
    settings = settings_of(found)
    by_loss, by_match = judge(settings, "ce_recovered_mean"), judge(settings, "mcc")
    assert by_loss is not None and by_loss.best.method == "relu" and [s.method for s in by_loss.exact] == ["neurons"]
    assert (
        "A ceiling of ce_recovered_mean and not a result, because it reconstructs every activation exactly"
        in " ".join(sentences(settings, by_loss))
    )
    assert by_match is not None and by_match.best.method == "neurons" and not by_match.exact


def test_every_source_has_its_own_section_and_best(tmp_path: Path):
    found = [
        (row("relu", seed, l1=l1, source=f"independent noise={noise}"), {"l0": 2.0, "fvu": 0.1, "mcc": abs(l1 - noise)})
        for noise in (0.1, 0.5)
        for l1 in (0.2, 0.4)
        for seed in (0, 1)
    ]
    out = made(scored(tmp_path, found), tmp_path / "report")
    page = (out / "report.html").read_text()
    assert page.count("What was found") == 2
    assert re.findall(r"the best dictionary is relu, 24 latents, l1 = ([\d.]+):", page) == ["0.4", "0.2"]
    assert {f.parent.name for f in out.rglob("*.png")} == {"source-0", "source-1"}
