"""`sae explore`: its pages, that tokens and labels are always text, and one line for every user error."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from rich.console import Console

import sae
from pipelines.config.config import read_config
from pipelines.explore import write_pages
from pipelines.explore.drawing import histogram
from pipelines.explore.words import percent, script
from pipelines.steps.progress import Board
from sae.analysis.latents import LatentsConfig
from sae.analysis.latents.words import visible
from sae.dictionaries.relu import Relu
from sae.numerics.seeds import generator

Call = Callable[..., tuple[int, str, str]]
HOSTILE = ("</script><img/src=x/onerror=document.title='owned'>", "<b>&amp;", "'\"onclick=x", "\u202e\u2028evil")
"""Tokens, and labels, that would act if they were not text."""


class Page(HTMLParser):
    """The tags of a page with their attributes, the text outside scripts, and what is linked."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def links(self) -> list[str]:
        return [value for _, attrs in self.tags for name, value in attrs.items() if name in ("href", "src") and value]


def hashes(folder: Path) -> dict[str, str]:
    files = [f for f in folder.rglob("*") if f.is_file()]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def dictionary(folder: Path, d_in: int, n_latents: int = 12) -> Path:
    W = torch.randn(n_latents, d_in, generator=generator("site"))
    W = W / W.norm(dim=1, keepdim=True)
    sae.save(Relu(W.T.contiguous(), W, torch.full((n_latents,), -0.1), torch.zeros(d_in)), folder)
    return folder


@pytest.fixture
def toy(tiny_file: Path, tmp_path: Path) -> tuple[Path, Path]:
    return dictionary(tmp_path / "d", 8), tiny_file


def test_the_pages_of_a_toy(call: Call, toy: tuple[Path, Path], tmp_path: Path):
    site, words = tmp_path / "site", ("--pages", tmp_path / "site", "--tokens", 3000, "--neurons")
    change = ("--set", f"runtime.out={tmp_path / 'runs'}")
    code, printed, warned = call("explore", *toy, *words, *change)
    assert code == 0 and printed.strip() == f"pages: {site / 'index.html'}", warned
    assert len(list(site.glob("latents/*.html"))) == 12 and len(list(site.glob("neurons/latents/*.html"))) == 16
    for file in site.rglob("*.html"):
        page = Page(file)
        assert all((file.parent / link).resolve().is_file() for link in page.links), page.links
        assert not re.search(r"https?://|fetch\(|@import|url\(", file.read_text())
    page = Page(site / "latents" / "00003.html")
    assert all(words in page.text for words in ("previous", "next", "True feature", "Strongest", "Not active"))
    relations = {attrs["rel"]: attrs["href"] for tag, attrs in page.tags if tag == "link"}
    assert relations["prev"] == "00002.html" and relations["next"] == "00004.html"
    table = json.loads((site / "table.js").read_text().removeprefix("const TABLE = ").rstrip().rstrip(";"))
    assert [row[0] for row in table["rows"]] == [str(j) for j in range(12)]
    assert all(len(row) == 2 + len(table["columns"]) for row in table["rows"])
    neurons = (site / "neurons" / "table.js").read_text()
    assert '"0+"' in neurons and '"7\\u2212"' in neurons


def test_the_same_again_gives_the_same_bytes_and_takes_the_old_ones_place(toy: tuple[Path, Path], tmp_path: Path):
    settings = read_config(toy[1], [f"runtime.out={tmp_path / 'runs'}"])
    analysis, board = LatentsConfig(n_tokens=2000, latents=5), Board(Console(quiet=True))
    first = write_pages(toy[0], settings, analysis, None, False, board)
    assert first == tmp_path / "runs" / "tiny-explore"
    before = hashes(first)
    (first / "latents" / "stray.html").write_text("of an older run")
    assert write_pages(toy[0], settings, analysis, None, False, board) == first
    assert hashes(first) == before
    other = write_pages(toy[0], settings, analysis, tmp_path / "elsewhere" / "deep", False, board)
    assert hashes(other) == before
    assert not [f for f in tmp_path.rglob(".*") if "partial" in f.name or "old" in f.name]


def test_a_dictionary_of_a_run_finds_the_runs_own_source(call: Call, tiny_file: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert call("run", tiny_file, "--out", out, "--set", "train.steps=10", "--set", "baselines.kinds=[]")[0] == 0
    before = sorted(f.name for f in out.iterdir())
    assert call("explore", out / "tiny" / "best", tiny_file, "--tokens", 500, "--latents", "3,")[0] == 0
    assert sorted(f.name for f in out.iterdir() if f.name != "tiny-explore") == before
    assert [f.name for f in (out / "tiny-explore" / "latents").iterdir()] == ["00003.html"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["DICT", "CONFIG", "--set", "source.d_in=9"], ["width 8", "width 9", "config"]),
        (["DICT", "CONFIG", "--latents", "99,"], ["no latent 99", "0 to 11"]),
        (["DICT", "CONFIG", "--latents", "a,b"], ["--latents a,b", "3,17,42"]),
        (["DICT", "CONFIG", "--tokens", "0"], ["--tokens 0"]),
        (["DICT", "CONFIG", "--pages", "HERE"], ["exists and was not written", "--pages"]),
        (["DICT", "CONFIG", "--set", "source.seed=[0, 1]"], ["2 sources", "--set source"]),
        (["nowhere", "CONFIG"], ["nowhere"]),
        (["DICT", "nothing.toml"], ["nothing.toml"]),
        (["DICT"], ["config"]),
    ],
)
def test_mistakes_are_told_in_one_line(
    call: Call, toy: tuple[Path, Path], tmp_path: Path, arguments: list[str], words: list[str]
):
    named = {"DICT": str(toy[0]), "CONFIG": str(toy[1]), "HERE": str(toy[0])}
    change = ["--set", f"runtime.out={tmp_path / 'runs'}"] if len(arguments) > 1 else []
    code, printed, warned = call("explore", *(named.get(a, a) for a in arguments), *change)
    assert code == 2 and printed == "" and warned.count("\n") == 1 and warned.startswith("sae: "), (printed, warned)
    assert all(word in warned for word in words), warned
    assert sae.load(toy[0]).n_latents == 12, "nothing was replaced"


@pytest.fixture(scope="module")
def hostile_model(tiny_models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model among whose words are some that would act."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("hostile") / "model"
    shutil.copytree(tiny_models["llama"], folder)
    names = ["<unk>", "<s>", "</s>", *HOSTILE[:3], *(f"w{i}" for i in range(41))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hostile_site(hostile_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import random

    folder, rng = tmp_path_factory.mktemp("site"), random.Random(0)
    every = [*HOSTILE[:3] * 5, *(f"w{i}" for i in range(41))]
    documents = (" ".join(rng.choice(every) for _ in range(rng.randint(5, 40))) for _ in range(150))
    (folder / "text.txt").write_text("|".join(documents))
    labelled = folder / "labels.jsonl"
    rows = [
        {"text": f"w{i % 40} w{i % 7}", "labels": {HOSTILE[0]: i % 2, HOSTILE[3]: (i // 2) % 2}} for i in range(200)
    ]
    labelled.write_text("\n".join(map(json.dumps, rows)))
    config = folder / "c.toml"
    source = {"kind": "transformer", "model": str(hostile_model), "text": str(folder / "text.txt"), "separator": "|"}
    source |= {"hook": "blocks.0.hook_resid_post", "context": 16, "heldout_share": 0.5, "labels": str(labelled)}
    lines = [f"{name} = {json.dumps(value)}" for name, value in source.items()]
    title = json.dumps(f"Of {HOSTILE[0]}")
    head = f'name = "hostile"\ntitle = {title}\nruntime = {{device = "cpu", threads = 1}}\n'
    config.write_text(head + 'baselines = {kinds = ["pca"]}\n[source]\n' + "\n".join(lines) + "\n")
    analysis = LatentsConfig(n_tokens=3000, n_ablated=2)
    settings = read_config(config, [f"runtime.out={folder / 'runs'}"])
    return write_pages(
        dictionary(folder / "d", 16), settings, analysis, folder / "pages", False, Board(Console(quiet=True))
    )


def test_hostile_tokens_and_labels_are_text(hostile_site: Path):
    allowed = {
        *(
            "html",
            "head",
            "meta",
            "title",
            "link",
            "body",
            "header",
            "main",
            "nav",
            "aside",
            "section",
            "div",
            "span",
            "p",
        ),
        *("h1", "h2", "dl", "dt", "dd", "ol", "ul", "li", "a", "b", "i", "kbd", "svg", "rect", "path", "text", "input"),
        *("button", "details", "summary", "noscript", "code", "script"),
    }
    seen = ""
    for file in hostile_site.rglob("*.html"):
        page = Page(file)
        assert {tag for tag, _ in page.tags} <= allowed, file
        assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
        assert [attrs.get("src") for tag, attrs in page.tags if tag == "script"] in (
            ["table.js", "explore.js"], ["../explore.js"]
        )  # fmt: skip
        assert "\u202e" not in page.text and "\u2028" not in page.text
        seen += page.text
    assert all(word in seen for word in HOSTILE[:3]) and "\\u202e\\u2028evil" in seen
    table = (hostile_site / "table.js").read_text()
    assert not set("<>&\u2028\u2029") & set(table) and table.isascii()
    given = json.loads(table.removeprefix("const TABLE = ").rstrip().rstrip(";"))
    assert any(HOSTILE[0] in str(cell) for row in given["rows"] for cell in row)


def dumped(file: Path, fragment: str = "") -> str:
    """The page as a browser has it once its scripts have run."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here to open a page in")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"{file.as_uri()}{fragment}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_a_browser_shows_hostile_tokens_and_runs_none(hostile_site: Path):
    for file in (hostile_site / "index.html", hostile_site / "latents" / "00000.html"):
        page = dumped(file)
        assert "<img" not in page and "<title>owned" not in page
        assert "&lt;/script&gt;&lt;img/src=x" in page
    assert dumped(hostile_site / "index.html").count('<th class="name" scope="row">') == 12


def test_a_browser_sorts_and_searches_the_table(hostile_site: Path):
    columns = json.loads((hostile_site / "table.js").read_text().removeprefix("const TABLE = ").rstrip().rstrip(";"))
    at = [head for head, *_ in columns["columns"]].index("rate")
    rates = {row[0]: row[at + 2] for row in columns["rows"]}
    for fragment, down in (("&down=", True), ("", False)):
        page = dumped(hostile_site / "index.html", f"#by={at}{fragment}")
        names = re.findall(r'<th class="name" scope="row"><a href="[^"]*">(\d+)</a>', page)
        shown = [rates[name] for name in names]
        assert len(names) == 12 and shown == sorted(shown, reverse=down)
    names = re.findall(r'scope="row"><a href="[^"]*">(\d+)</a>', dumped(hostile_site / "index.html", "#q=SCRIPT><IMG"))
    texts = {row[0]: "".join(cell for cell in row[2:] if isinstance(cell, str)) for row in columns["rows"]}
    wanted = [name for name, text in texts.items() if "script><img" in text]
    assert names == wanted and 0 < len(names) < 12


def test_words_in_which_nothing_acts():
    assert visible("a\nb\t\u202e\u200b\x00é\u00a0") == "a↵b⇥\\u202e\\u200b\\u0000é "
    assert json.loads(script({"a": HOSTILE[0] + HOSTILE[3]})) == {"a": HOSTILE[0] + HOSTILE[3]}
    assert script(["</script>&\u2028"]) == '["\\u003c/script\\u003e\\u0026\\u2028"]'


@pytest.mark.parametrize(("share", "text"), [(0.0, "0"), (1.0, "100%"), (0.0254, "2.5%"), (0.000123, "0.012%")])
def test_shares_in_per_cent(share: float, text: str):
    assert percent(share) == text


def test_a_histogram_draws_what_is_not_empty():
    edges = [2.0**i for i in range(9)]
    figure = str(histogram([0, 3, 0, 6, 0, 0, 0, 0], edges, "of <x>"))
    assert figure.count("<rect") == 2 and "&lt;x&gt;" in figure and "<title>2 to 4: 3</title>" in figure
    assert str(histogram([0] * 8, edges, "nothing")) == ""


@pytest.mark.slow
def test_pages_of_a_story_model_are_small(shared_data: Path, tmp_path: Path):
    config = Path(__file__).parents[3] / "configs" / "tinystories-local.toml"
    change = [f"source.model={shared_data / 'models' / 'stories260k'}"]
    change += [f"source.text={shared_data / 'text' / 'tinystories_valid.txt'}", f"runtime.out={tmp_path / 'runs'}"]
    change += ["source.n_tokens=20000", "source.n_heldout_tokens=40000", "runtime.device=cpu"]
    analysis = LatentsConfig(n_tokens=40_000, latents=40)
    d = dictionary(tmp_path / "d", 64, 512)
    site = write_pages(d, read_config(config, change), analysis, None, True, Board(Console(quiet=True)))
    sizes = {f: f.stat().st_size for f in site.rglob("*.*") if f.is_file()}
    assert len(sizes) > 80 and max(sizes.values()) < 300_000, max(sizes.items(), key=lambda item: item[1])
