"""Files of rows that are something else: one message for the file instead of one for each line."""

import bz2
import gzip
import json
import lzma

import pytest

from mars.data.rows.files import unusable_files

LINE = json.dumps({"prompt": [{"role": "user", "content": "How many?"}], "answer": "2"})


GZIP = gzip.compress(LINE.encode(), mtime=0)  # the time would be in the test's name, which must be that of each worker


@pytest.mark.parametrize(
    ("name", "contents", "said"),
    [
        ("a.jsonl", GZIP, "is compressed; unpack it"),
        ("a.parquet", bz2.compress(LINE.encode()), "is compressed; unpack it"),
        ("a.json", lzma.compress(LINE.encode()), "is compressed; unpack it"),
        ("a.jsonl", b"\x28\xb5\x2f\xfd" + b"x" * 9, "is compressed; unpack it"),
        ("a.jsonl", LINE.encode("utf-16"), "is text in UTF-16; save it as UTF-8"),
        ("a.jsonl", b"PK\x03\x04" + b"x" * 9, "is a zip archive, or a spreadsheet"),
        ("a.jsonl", b"PAR1" + b"x" * 9, "is a parquet file; name it .parquet"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "run `git lfs pull`"),
        ("a.json", b"<!DOCTYPE html><html>", "is a web page and not the file"),
        ("a.jsonl", f"[{LINE}]".encode(), "begins with a list"),
        ("a.jsonl", b"\xef\xbb\xbf\n[\n" + LINE.encode(), "name it .json if it is a list of rows"),
        ("a.jsonl", json.dumps(json.loads(LINE), indent=2).encode(), "has a row on several lines"),
        ("a.jsonl.gz", GZIP, "unknown kind of file; unpack it"),
        ("a.zip", b"PK\x03\x04", "unknown kind of file; unpack it"),
    ],
)
def test_what_a_file_is_instead(tmp_path, name, contents, said):
    (tmp_path / name).write_bytes(contents)
    (problem,) = unusable_files([str(tmp_path / name)], None)
    assert problem.startswith(f"{tmp_path / name}: ")
    assert said in problem


@pytest.mark.parametrize("contents", [LINE, "\ufeff" + LINE, "\n\n" + LINE, LINE + "\r\n", "{ " + LINE[1:], "", "{}"])
def test_lines_of_rows_are_taken(tmp_path, contents):
    (tmp_path / "a.jsonl").write_text(contents)
    assert unusable_files([str(tmp_path / "a.jsonl")], None) == []
