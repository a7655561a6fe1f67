"""Texts in every form that is read."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

FORMS = ["txt", "folder of txt", "jsonl", "jsonl ids", "folder of jsonl", "saved", "parquet", "parquet of ids"]


def documents(n: int, seed: int = 0) -> list[str]:
    """Documents of up to 30 words of the tiny models, some of them empty."""
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(40)}" for _ in range(rng.randint(0, 30))) for _ in range(n)]


def write_form(folder: Path, form: str, texts: list[str], tokenizer: Any) -> dict[str, Any]:
    """Writes a text in one of :data:`FORMS`; returns the settings of a source that reads it."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    folder.mkdir(exist_ok=True)
    values: list[Any] = tokenizer(texts, add_special_tokens=False)["input_ids"] if "ids" in form else texts
    lines = [json.dumps({"n": n, "text": value}) for n, value in enumerate(values)]
    thirds = [slice(0, len(texts) // 3), slice(len(texts) // 3, len(texts) // 2), slice(len(texts) // 2, None)]
    match form:
        case "txt":
            (folder / "a.txt").write_text("|".join(texts))
            return {"text": folder / "a.txt", "separator": "|"}
        case "folder of txt":
            for k, part in enumerate(thirds):
                (folder / f"{k}.txt").write_text("|".join(texts[part]))
            return {"text": folder, "separator": "|"}
        case "jsonl" | "jsonl ids":
            (folder / "a.jsonl").write_text("\n".join(lines))
            return {"text": folder / "a.jsonl"}
        case "folder of jsonl":
            for k, part in enumerate(thirds):
                (folder / f"train-{k}.jsonl").write_text("\n".join(lines[part]))
        case "saved":
            Dataset.from_dict({"text": values}).save_to_disk(str(folder))
        case _:
            for k, part in enumerate(thirds):
                table = pa.table({"n": list(range(len(values[part]))), "text": values[part]})
                pq.write_table(table, folder / f"train-{k}.parquet", row_group_size=50)
    return {"text": folder}
