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

smartquotes = False

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
