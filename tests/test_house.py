"""The order of the tree: sizes of folders, layers, one meaning for a name, the field's words, documented fields."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONTRACT = frozenset({"Config", "KIND", "VERSION", "run", "find", "NAME", "draw"})
"""Names by which kinds, stages, file formats and portraits are found."""
SEVERAL_MEANINGS = {
    "save": "the public function, and its counterpart in the module of each file format",
}
"""Public names that are defined in several modules, with the reason."""
NOT_THE_FIELDS_WORDS = frozenset(
    [
        *(
            "Asked",
            "Beginning",
            "Found",
            "Given",
            "Grown",
            "Held",
            "Judged",
            "Own",
            "Pull",
            "Pulled",
            "Rated",
            "Standing",
        ),
        *(
            "begins",
            "count_silence_",
            "into_cone_",
            "pull",
            "pulled",
            "pulls",
            "revival",
            "silent_for",
            "steady",
            "told",
        ),
    ]
)
"""Identifiers of the former vocabulary; the field has words for what they meant."""
FORMER_FILES = frozenset(
    ["calibration", "cone", "compiled", "draws", "frontier", "jit", "liveness", "nested", "spans", "spent", "units.py"]
)


def modules(*packages: str) -> Iterator[tuple[Path, ast.Module]]:
    for package in packages:
        for file in sorted((ROOT / package).rglob("*.py")):
            yield file.relative_to(ROOT), ast.parse(file.read_text(encoding="utf-8"))


def listing(package: str) -> list[Path]:
    return [entry for entry in (ROOT / package).iterdir() if not entry.name.startswith(("__pycache__", "."))]


def test_a_folder_listing_fits_on_a_screen():
    assert len(listing("sae")) <= 26
    assert len([entry for entry in listing("sae") if entry.suffix == ".py"]) <= 12
    assert len([entry for entry in listing("pipelines") if entry.suffix == ".py"]) <= 10


def test_the_layers_can_be_counted_on_the_fingers():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = [contract["layers"] for contract in tool["contracts"] if contract["type"] == "layers"]
    assert len(layers) == 2 and all(len(one) <= 12 for one in layers)


def defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case _:
                pass


def test_a_public_name_has_one_meaning():
    homes: dict[str, set[str]] = defaultdict(set)
    for file, tree in modules("sae", "pipelines"):
        for name in defined(tree):
            if not name.startswith("_"):
                homes[name].add(str(file))
    several = {name: files for name, files in homes.items() if len(files) > 1 and name not in CONTRACT}
    assert set(several) <= set(SEVERAL_MEANINGS), {n: f for n, f in several.items() if n not in SEVERAL_MEANINGS}
    assert len(SEVERAL_MEANINGS) <= 10 and set(SEVERAL_MEANINGS) <= set(several), "a reason that is no longer needed"


def identifiers(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name):
                yield name
            case ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case _:
                pass


def test_identifiers_are_words_of_the_field():
    for file, tree in modules("sae", "pipelines"):
        assert file.stem not in FORMER_FILES and file.name not in FORMER_FILES, file
        former = NOT_THE_FIELDS_WORDS & set(identifiers(tree))
        assert not former, f"{file}: {sorted(former)}"


def test_mistakes_of_a_user_are_user_errors():
    for file, tree in modules("sae", "pipelines"):
        raised = [
            node.exc.func.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
        ]
        assert not {"ValueError", "FileNotFoundError", "OSError"} & set(raised), f"{file}: raise UserError or its kin"


PEERS = ("sae_lens", "dictionary_learning", "sparsify", "overcomplete")


def test_comparisons_with_other_libraries_are_all_run_by_make_peers():
    """A test that imports another library has a mark that names it: `make peers` runs what is marked, and fails where a
    library is missing."""
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        text = file.read_text(encoding="utf-8")
        libraries = set(re.findall(rf"^\s*(?:from|import) ({'|'.join(PEERS)})\b", text, re.MULTILINE))
        unmarked = {name for name in libraries if f'pytest.mark.peer("{name}"' not in text}
        assert not unmarked, f"{file}: {unmarked}"


def undocumented(tree: ast.Module) -> Iterator[str]:
    """The fields of public dataclasses and configs that have no docstring."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
            continue
        is_dataclass = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
        is_config = node.name == "Config" or node.name.endswith(("Config", "Table", "Settings"))
        if not (is_dataclass or is_config):
            continue
        following = [*node.body[1:], None]
        for field, after in zip(node.body, following, strict=True):
            if not isinstance(field, ast.AnnAssign) or "ClassVar" in ast.unparse(field.annotation):
                continue
            name = ast.unparse(field.target)
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if name != "kind" and not name.startswith("_") and not documented:
                yield f"{node.name}.{name}"


def test_every_public_field_has_a_docstring():
    missing = {str(file): names for file, tree in modules("sae", "pipelines") if (names := list(undocumented(tree)))}
    assert not missing, missing


CORE = ["torch", "numpy", "safetensors", "pydantic", "jaxtyping"]
"""What the README says that training, scoring and using dictionaries needs."""
THEIRS = [
    *("sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec", "filelock", "torchgen", "functorch"),
    *("pydantic_core", "annotated_types", "typing_inspection", "typing_extensions", "wadler_lindig"),
]
"""What those need in turn."""
BLOCKED = """
import sys

class Filter:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):  # what importlib.metadata asks of a finder
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        known = top in ALLOWED or top in sys.stdlib_module_names or top.startswith("_sysconfigdata")
        return self.finder.find_spec(name, path, target) if known else None

sys.meta_path[:] = [Filter(finder) for finder in sys.meta_path]
"""


def in_a_bare_environment(program: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Runs a program where only the core's needs, and `more`, can be imported."""
    allowed = ["sae", "pipelines", *CORE, *THEIRS, *more]
    command = [sys.executable, "-c", f"ALLOWED = {allowed}\n{BLOCKED}{program}"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_core_needs_what_the_readme_says(tmp_path: Path):
    done = in_a_bare_environment(
        f"""
import torch, sae
x = torch.randn(300, 6)
[d] = sae.fit(x, n_latents=9, l1=0.1, steps=5, batch_size=32)
sae.save(d, {str(tmp_path)!r})
assert sae.load({str(tmp_path)!r}).encode(x).shape == (300, 9)
assert "fvu" in sae.score(d, x, metrics=["reconstruction"])
"""
    )
    assert done.returncode == 0, done.stderr


def test_the_command_line_starts_without_anything_heavy():
    command_line = ["cyclopts", "rich", "rich_rst", "docutils", "docstring_parser", "pygments", "attrs", "attr"]
    program = (
        "import sys; from pipelines.cli import app; assert 'torch' not in sys.modules and 'sae' not in sys.modules"
    )
    done = in_a_bare_environment(program, *command_line)
    assert done.returncode == 0, done.stderr
