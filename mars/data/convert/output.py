"""Write a converted set: parquet files of rows, and the metadata dataset.json. Every file is written atomically."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mars.errors import DataError
from mars.output.files import read_regular, replacing, write_atomically

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

METADATA_FILE = "dataset.json"
_PATHS = "image_paths_relative_to"
_KEYS = {"data_source", "converter", "sources", _PATHS, "splits", "left_out"}


def check_unicode(texts: Mapping[str, str]) -> None:
    """Raises DataError for text that neither parquet nor JSON can hold, such as a file name in another encoding."""
    for what, text in texts.items():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{what}: is not Unicode text; got {text!r:.200}; give another name") from error


class RowFile:
    """A parquet file that is being written."""

    def __init__(self, writer: parquet.ParquetWriter) -> None:
        self._writer = writer

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        import pyarrow as pa

        if rows:
            self._writer.write_table(pa.Table.from_pylist(list(rows), schema=self._writer.schema))


@contextmanager
def row_file(path: Path, *, with_mono_responses: bool, with_origin: bool) -> Iterator[RowFile]:
    """Opens a parquet file for appending rows with the columns of docs/data.md. The file is at `path` only after the
    `with` block has ended.

    with_mono_responses: whether there is the column `mono_responses`. with_origin: whether there are the fields
    `extra_info.origin` and `extra_info.more_fields`. A set that does not need one of these two parts must not get it:
    it would change the file's bytes, and so the ids of all its prompts.
    """
    from pyarrow import parquet

    with replacing(path) as draft, parquet.ParquetWriter(draft, _schema(with_mono_responses, with_origin)) as writer:
        yield RowFile(writer)


def is_metadata(value: Any) -> bool:
    """Whether a file's content is the metadata that a converter writes."""
    return isinstance(value, dict) and value.keys() >= _KEYS


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The metadata of an earlier conversion, None without the file.

    Raises DataError for any other file of this name, so that it is not overwritten.
    """
    if not path.exists():
        return None
    try:
        metadata = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: cannot be read as data set metadata: {error}; move it, or convert into another folder"
        ) from error
    if not is_metadata(metadata):
        raise DataError(f"{path}: not the metadata of a converted set; move it, or convert into another folder")
    return metadata


def with_earlier_splits(metadata: Mapping[str, Any], earlier: Mapping[str, Any] | None, folder: Path) -> dict[str, Any]:
    """The metadata of this conversion, plus the other splits of the same set in the metadata of an earlier conversion.

    A split of `earlier` is kept if its file is still in `folder`. So training and test rows may be converted by two
    commands.
    """
    if earlier is None or any(earlier[key] != metadata[key] for key in ("data_source", "converter", _PATHS)):
        return dict(metadata)
    others = {
        name: split
        for name, split in earlier["splits"].items()
        if name not in metadata["splits"] and (folder / f"{name}.parquet").exists()
    }
    if not others:
        return dict(metadata)
    return {
        **metadata,
        "sources": list(dict.fromkeys([*earlier["sources"], *metadata["sources"]])),
        "splits": others | metadata["splits"],
        "left_out": earlier["left_out"] | metadata["left_out"],
    }


def write_metadata(metadata: Mapping[str, Any], path: Path) -> None:
    """Write dataset.json. Raises SetupError if it cannot be written."""
    write_atomically(path, json.dumps(metadata, indent=1, ensure_ascii=False) + "\n")


def _schema(with_mono_responses: bool, with_origin: bool) -> pa.Schema:
    import pyarrow as pa

    text = pa.string()
    extra_info = {
        "id": text,
        "index": pa.int64(),
        "split": text,
        "sources": pa.list_(text),
        "image_sizes": pa.list_(pa.list_(pa.int64())),
        "box_space": text,
        "choices": pa.list_(text),
        "encodings": pa.list_(text),
    }
    if with_origin:
        extra_info |= {"origin": text, "more_fields": text}
    columns = {
        "data_source": text,
        "prompt": pa.list_(pa.struct({"role": text, "content": text})),
        "images": pa.list_(pa.struct({"bytes": pa.binary(), "path": text})),
        "reward_model": pa.struct({"style": text, "ground_truth": text}),
        "extra_info": pa.struct(extra_info),
        "response": text,
    }
    if with_mono_responses:
        columns["mono_responses"] = text  # the JSON text of a mapping: a struct would need the names of all sources
    return pa.schema(columns)
