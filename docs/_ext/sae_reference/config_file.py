"""The tables of a config file."""

from __future__ import annotations

from pydantic import BaseModel

from pipelines.config.tables import Tables
from sae.refinement import RefineConfig
from sae.training.config import TrainConfig
from sae_reference.settings import fields_table, nested, own_docstring


def models() -> dict[str, type[BaseModel]]:
    """Every table by its heading; the tables of kinds have pages of their own."""
    found: dict[str, type[BaseModel]] = {"Top of the file": Tables, "[train]": TrainConfig}
    for name, field in Tables.model_fields.items():
        for one in nested_in(field.annotation):
            found["[[published]]" if name == "published" else f"[{name}]"] = one
            for inner in nested(one):
                place = next(key for key, f in one.model_fields.items() if inner in list(nested_in(f.annotation)))
                found[f"[{name}.{place}]"] = inner
    return found | {"dictionary.refine": RefineConfig}


def nested_in(annotation: object) -> list[type[BaseModel]]:
    """The models that an annotation names."""
    holder = type("Holder", (BaseModel,), {"__annotations__": {"field": annotation}})
    direct = list(nested(holder))
    below = {inner for one in direct for inner in nested(one)}
    return [one for one in direct if one not in below]


def config_file() -> str:
    """A section for every table."""
    return "\n\n".join(
        f"## {heading if heading[0].isupper() else f'`{heading}`'}\n\n{own_docstring(model)}\n\n{fields_table(model)}"
        for heading, model in models().items()
    )
