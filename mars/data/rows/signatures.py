"""Recognise data files whose first bytes contradict their name, such as a compressed file named .jsonl."""

from __future__ import annotations

_COMPRESSED = "is compressed; unpack it"
_WEB_PAGE = "is a web page and not the file; download the file itself"
_UTF16 = "is text in UTF-16; save it as UTF-8"
_SIGNATURES = {
    b"\x1f\x8b": _COMPRESSED,  # gzip
    b"\x28\xb5\x2f\xfd": _COMPRESSED,  # zstd
    b"\xfd7zXZ": _COMPRESSED,
    b"BZh": _COMPRESSED,
    b"PK\x03\x04": "is a zip archive, or a spreadsheet; unpack it, or save the table as CSV",
    b"\xff\xfe": _UTF16,
    b"\xfe\xff": _UTF16,
    b"version https://git-lfs": "is a pointer of Git LFS and not the file; run `git lfs pull`",
    b"<!DOCTYPE": _WEB_PAGE,
    b"<html": _WEB_PAGE,
}
_READ = 64


def wrong_contents(path: str, suffix: str) -> str | None:
    """Why the beginning of a file of rows contradicts its name, and what to do; None if it does not. Raises OSError.

    suffix: ".parquet", ".jsonl" or ".json".
    """
    with open(path, "rb") as stream:
        head = stream.read(_READ)
    for signature, problem in _SIGNATURES.items():
        if head.startswith(signature):
            return problem
    if suffix == ".parquet":
        return None
    if head.startswith(b"PAR1"):
        return "is a parquet file; name it .parquet"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if suffix == ".jsonl" and start.startswith(b"["):
        return "begins with a list, and each line must be one row; name it .json if it is a list of rows"
    if suffix == ".jsonl" and start[:1] == b"{" and start[1:].lstrip(b" \t")[:1] in (b"\n", b"\r"):
        return "has a row on several lines; write each row on one line, or name it .json if it is a list of rows"
    return None
