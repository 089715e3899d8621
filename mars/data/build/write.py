"""Build a set whose rows are made from scenes; `write_set` writes it like a converted set, with a folder of images."""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mars.data.build.scenes import Made, Picture, Scene, Scenes, read_scenes
from mars.data.convert.public_set import Item, PublicSet, ReadItem
from mars.errors import ConfigError, DataError
from mars.output.files import replacing

if TYPE_CHECKING:
    from numpy.random import Generator

CONVERTER = "build 2"
IMAGES = "images"


class Task(Protocol):
    """Makes a row of a scene. Frozen, with a repr that names all settings. Raises RowError if the scene does not fit.

    Several threads call a task. It may draw random numbers only from `chance`.
    """

    @property
    def name(self) -> str: ...

    def __call__(self, scene: Scene, scenes: Scenes, chance: Generator) -> Made: ...


@dataclass(frozen=True)
class BuildOptions:
    """seed: of all random numbers. copies: rows per scene. split: name of the file of rows. jpeg: quality; None:
    PNG."""

    seed: int
    copies: int
    split: str
    jpeg: int | None


def built_set(
    task: Task, source: Path, image_root: Path | None, out: Path, options: BuildOptions, limit: int | None
) -> PublicSet:
    """The set to give to `write_set`. Images are made when `write_set` reads the items. Raises DataError, and
    ConfigError if the build would write over its source, or into it.

    Images go to OUT/images/<key>, where the key is a hash of the task, its settings, `options`, and the ids, truths,
    source names and image sizes of all scenes. A build stops if the file of one of its images already holds another
    image. limit: number of scenes that get new rows, None for all.
    """
    _refuse_own_output(source, out, options.split)
    scenes = Scenes(read_scenes(source, image_root), options.seed, task.name)
    key = _key(task, options, scenes)
    return PublicSet(
        name=task.name,
        converter=CONVERTER,
        licence="that of the images it is made from",
        image_root=out,
        splits={
            options.split: [
                Item(scene.label, (scene, copy)) for scene in scenes.all[:limit] for copy in range(options.copies)
            ]
        },
        read=partial(
            _read,
            task=task,
            scenes=scenes,
            out=Path(os.path.realpath(out)),
            folder=f"{IMAGES}/{key}",
            jpeg=options.jpeg,
        ),
        with_mono_responses=True,
        with_origin=True,
    )


def _refuse_own_output(source: Path, out: Path, split: str) -> None:
    real = Path(os.path.realpath(source))
    if Path(os.path.realpath(out / f"{split}.parquet")) == real:
        raise ConfigError(f"OUT: the build would write over SRC; got {out}; give another folder, or another --split")
    if real.is_dir() and Path(os.path.realpath(out / IMAGES)).is_relative_to(real):
        raise ConfigError(
            f"OUT: its images would be inside of SRC; got {out}; give a folder outside of {source}, or the next build "
            "takes them for images of SRC"
        )


def _read(item: Item, *, task: Task, scenes: Scenes, out: Path, folder: str, jpeg: int | None) -> ReadItem:
    scene, copy = item.content
    made = task(scene, scenes, scenes.chance(scene, copy))
    save = partial(_save, out=out, stem=f"{folder}/{scene.number:06d}-{copy}", jpeg=jpeg)
    paths = [save(picture) for picture in made.pictures]
    columns: dict[str, Any] = {
        "data_source": made.data_source,
        "prompt": [{"role": message.role, "content": message.text} for message in made.messages],
        "images": paths,
        "reward_model": {"ground_truth": made.truth},
        "response": made.response,
        "mono_responses": made.mono_responses,
        "extra_info": {
            "id": scene.id,
            "sources": [picture.name for picture in made.pictures],
            "choices": None if made.choices is None else list(made.choices),
            "box_space": made.box_space,
            "origin": json.dumps({"task": task.name, "row": scene.number, "copy": copy, **made.drawn}),
            "more_fields": json.dumps(made.fields, ensure_ascii=False) if made.fields else None,
        },
    }
    return ReadItem(columns, files=[out / path for path in paths])


def _save(picture: Picture, *, out: Path, stem: str, jpeg: int | None) -> str:
    """Write an image; returns its path in `out`. Raises DataError if another image is there."""
    path = f"{stem}-{picture.name}.{'png' if jpeg is None else 'jpg'}"
    data = io.BytesIO()
    if jpeg is None:
        picture.image.save(data, format="PNG", compress_level=1)
    else:
        picture.image.save(data, format="JPEG", quality=jpeg)
    file = out / path
    if file.is_file() and file.read_bytes() != data.getvalue():
        raise DataError(f"{file}: another build has written another image there; build into a new folder")
    with replacing(file) as draft:
        draft.write_bytes(data.getvalue())
    return path


def _key(task: Task, options: BuildOptions, scenes: Scenes) -> str:
    whole = hashlib.sha256(repr((CONVERTER, task, options)).encode())
    for scene in scenes.all:
        sources = [] if scene.prompt is None else [(source.name, source.image.size) for source in scene.prompt.sources]
        whole.update(repr((scene.id, sources, None if scene.prompt is None else scene.prompt.truth)).encode())
    return whole.hexdigest()[:12]
