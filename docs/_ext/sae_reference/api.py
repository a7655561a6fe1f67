"""The public Python API, by autodoc."""

from __future__ import annotations

import sae


def public_names() -> str:
    """A directive of autodoc for every public name, functions first."""
    functions = [name for name in sae.__all__ if not isinstance(getattr(sae, name), type)]
    classes = [name for name in sae.__all__ if name not in functions]
    parts = ["## Functions", *(f"### `{name}`\n\n{_directive('autofunction', name)}" for name in functions)]
    parts += ["## Classes", *(f"### `{name}`\n\n{_directive('autoclass', name)}" for name in classes)]
    return "\n\n".join(parts)


def _directive(directive: str, name: str) -> str:
    members = "\n   :members:\n" if directive == "autoclass" and name != "UserError" else ""
    return f"```{{eval-rst}}\n.. {directive}:: sae.{name}{members}\n```"
