"""Fingerprints of what answers depend on: the weights, the images, the prompts. They ignore paths and times."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from mars.errors import DataError
from mars.output.blocks import blocks
from mars.output.files import check_regular
from mars.types import RolloutRequest

# (number, bytes) of the evenly spaced blocks that are read from a file. A training step changes the weights in every
# block. Four blocks cover most of an image file.
_OF_WEIGHTS, _OF_IMAGES = (64, 16384), (4, 16384)


def model_fingerprint(model: str) -> str | None:
    """Hash of config.json and of some blocks of the weights in a model folder; None for a hub name.

    Reads a megabyte per weight file: enough to tell checkpoints apart, not to prove that a file is intact.
    """
    folder = Path(model)
    if not folder.is_dir():
        return None
    whole = sha256()
    for path in sorted([*folder.glob("config.json"), *folder.glob("*.safetensors")]):
        if path.is_file():
            whole.update(path.name.encode())
            whole.update(_blocks(path, *_OF_WEIGHTS))
    return whole.hexdigest()


def images_fingerprint(requests: Sequence[RolloutRequest]) -> str:
    """Hash over all images in the order of the requests: pixel sizes, encodings, and four blocks of each image file.

    For images in a parquet file no bytes are read: the hash of the file of questions ("questions" in the manifest's
    "identity") covers them.
    Raises DataError for a file that cannot be read.
    """
    whole = sha256()
    for image in dict.fromkeys(image for request in requests for image in request.images):
        whole.update(repr((image.size, image.encoding, image.row, image.slot)).encode())
        if image.row is None:
            try:
                whole.update(_blocks(Path(image.path), *_OF_IMAGES))
            except OSError as error:
                raise DataError(
                    f"{image.path}: cannot be read ({error.strerror}); it is an image of the questions"
                ) from error
    return whole.hexdigest()


def prompts_fingerprint(requests: Sequence[RolloutRequest]) -> str:
    """Hash of the token ids of every view: it changes with template, tokenizer and image layout."""
    whole = sha256()
    for request in requests:
        whole.update(repr((request.prompt_id, request.view, request.prompt_token_ids)).encode())
    return whole.hexdigest()


def _blocks(path: Path, number: int, num_bytes: int) -> bytes:
    check_regular(path)
    return blocks(path, number, num_bytes)
