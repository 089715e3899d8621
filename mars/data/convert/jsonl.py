"""JSON and JSONL files of verl's, EasyR1's and LLaVA's rows, checked and written as parquet."""

from __future__ import annotations

from pathlib import Path

from mars.data.convert.eval_json import sources
from mars.data.convert.licences import NOT_STATED
from mars.data.convert.public_set import PublicSet
from mars.data.convert.question_set import SetRules, question_set


def jsonl_set(source: Path, image_root: Path | None, depth: str, name: str | None) -> PublicSet:
    """name: data_source of the rows that have none. If it is None, they get the name of the file or folder."""
    rules = SetRules(
        name=name or source.stem,
        converter="jsonl 3",
        licence=NOT_STATED,
        sources=sources,
        depth=depth,
        keep_file_names=True,
        tidy=False,
        responses=True,
    )
    return question_set(source, image_root, rules)
