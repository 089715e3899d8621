"""What a node has of the things that all nodes must share: packages, mars' code, model files, images.

Imports only the standard library and mars/output/blocks.py. This file and blocks.py are sent to the nodes, so that they
also run where mars is missing or has another version.
"""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mars.output.blocks import blocks

Facts = Mapping[str, str]
"""Name of a package or file -> its version, digest or size. What a node does not have is not in it."""

_MOST_IMAGES = 4096
_BLOCKS = 64, 16384
"""Number and bytes of the blocks of a file that are compared; smaller files are compared wholly."""
_THREADS = 16
"""Most of the time is waiting for a file system of the network."""
_MODEL_FILES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".py")


@dataclass(frozen=True)
class SharedFiles:
    """Files that all nodes must have. models: folders of models. images: some of the run's image files.

    num_images: number of the run's image files. image_root: data.image_root on the driver's node, with links resolved;
    None if it is null.
    """

    models: Sequence[str] = ()
    images: Sequence[str] = ()
    num_images: int = 0
    image_root: str | None = None

    @classmethod
    def of(cls, models: Iterable[str], images: Iterable[str], image_root: str | None = None) -> SharedFiles:
        """models: names of models. Those that are not folders on this node are hub names and are left out.

        images: files of the run; the same file may occur several times. If there are more than 4096 different files,
        only 4096 evenly spaced ones are taken, because each costs the node a round trip to a file server.
        """
        files = list(dict.fromkeys(images))
        number = min(len(files), _MOST_IMAGES)
        some = [files[i * len(files) // number] for i in range(number)]
        folders = [model for model in dict.fromkeys(models) if Path(model).is_dir()]
        return cls(folders, some, len(files), None if image_root is None else os.path.realpath(image_root))


def node_facts(
    packages: Sequence[str], models: Sequence[str], images: Sequence[str], roots: tuple[str, str] | None
) -> dict[str, dict[str, str]]:
    """The facts of the node on which it is called.

    roots: data.image_root on the driver's node, and the environment variable that names this node's folder for it.
    Returns the `Facts` "packages" (versions, without what follows a "+"), "code" (source files of mars), "model" and
    "images" (files of `SharedFiles`).
    """
    versions = {name: found for name in packages if (found := _version(name)) is not None}
    sources = _sources()
    model_files = {str(path): path for model in models for path in _model_files(model)}
    with ThreadPoolExecutor(_THREADS) as pool:
        code = pool.map(_digest, sources.values())
        weights = pool.map(_digest, model_files.values())
        sizes = pool.map(_size, [_here(image, roots) for image in images])
        return {
            "packages": {"python": platform.python_version()} | versions,
            "code": _found(sources, code),
            "model": _found(model_files, weights),
            "images": _found(images, sizes),
        }


def _found(names: Iterable[str], facts: Iterable[str | None]) -> dict[str, str]:
    return {name: fact for name, fact in zip(names, facts, strict=True) if fact is not None}


def _version(package: str) -> str | None:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None


def _sources() -> dict[str, Path]:
    """mars' source files on this node: "mars/step.py" -> its path."""
    spec = importlib.util.find_spec("mars")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent
    return {path.relative_to(folder.parent).as_posix(): path for path in sorted(folder.rglob("*.py"))}


def _model_files(folder: str) -> list[Path]:
    return sorted(path for path in Path(folder).glob("*") if path.suffix in _MODEL_FILES)


def _here(image: str, roots: tuple[str, str] | None) -> Path:
    """The path at which a worker of this node reads an image, as in mars/data/pixels/mounted.py."""
    root = os.environ.get(roots[1]) if roots is not None else None
    if roots is None or root is None or os.path.commonpath([image, roots[0]]) != roots[0]:
        return Path(image)
    return Path(root) / os.path.relpath(image, roots[0])


def _digest(path: Path) -> str | None:
    """A digest of a file's size and of the blocks that `_BLOCKS` chooses; None if the file cannot be read."""
    try:
        return sha256(blocks(path, *_BLOCKS)).hexdigest()[:16] if path.is_file() else None
    except OSError:
        return None


def _size(path: Path) -> str | None:
    try:
        return str(path.stat().st_size) if path.is_file() else None
    except OSError:
        return None
