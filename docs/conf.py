"""Settings of the site: `make docs` builds it into docs/_build/html, offline, with warnings as errors."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
# The site documents, and its tutorials run, the code of this tree, not that of an installed copy.
sys.path[:0] = [str(HERE / "_ext"), str(ROOT)]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PYTHONWARNINGS", "ignore")  # they name the folders of this machine in downloaded notebooks
# Pages call `python`, which is the one that builds the site.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
# A small model and texts, as for the tests. Pages that need them are built without outputs where they are absent, and
# say so.
EXAMPLE_MODEL = Path(os.environ.get("SAE_TEST_DATA") or ROOT.parent / "shared" / "data").resolve()
os.environ["SAE_TEST_DATA"] = str(EXAMPLE_MODEL)
NEED_A_MODEL = ["tutorials/real_model.md"]

import sae  # noqa: E402

project = "superposition-sae"
author = "the authors of superposition-sae"
copyright = author
version = release = sae.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sae_reference"]
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"Numbers": "Numbers"}  # short in signatures; the page says what it is
exclude_patterns = ["_build", "_ext"]
default_role = "code"  # docstrings write `names` as Markdown does

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "notebooks")
nb_execution_in_temp = True  # they write files
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"  # progress
if (EXAMPLE_MODEL / "models" / "stories260k").is_dir():
    tags.add("example_model")  # a name that Sphinx defines
else:
    nb_execution_excludepatterns = NEED_A_MODEL
html_scaled_image_link = True

smartquotes = False

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
