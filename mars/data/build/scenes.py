"""What puzzles are made from: rows of a file or images of a folder, and random numbers that depend only on a seed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mars.data.convert.eval_json import read_json_rows
from mars.data.pixels.images import BadImage, decode_image, probe_size, size_problem
from mars.data.pixels.stored import Place, encoded_image
from mars.data.rows.dataset import read_prompts
from mars.data.rows.problems import RowError, RowProblem
from mars.errors import DataError
from mars.types import IMAGE_MARKER, ImageRef, Message, Prompt, Source

if TYPE_CHECKING:
    from numpy.random import Generator
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
ALL, ONE, CROSS = "all", "one", "cross"
DRAWS = 100  # tries to draw a scene with other images, before a list of all such scenes is made to draw from
TRIES = 100  # most scenes with other images that are tried
T = TypeVar("T")


@dataclass(frozen=True)
class Scene:
    """One row of SRC, the input of `mars data build`, or one image if SRC is a folder of images.

    number: its position in the file or folder. id: the id that a new row made from this scene gets.

    prompt: None for a row that cannot be read. problem: why it cannot be read, or what is wrong with its truth.
    """

    label: str
    number: int
    id: str
    prompt: Prompt | None
    problem: RowProblem | None = None

    @property
    def readable(self) -> Prompt:
        """The prompt. Raises RowError if the row cannot be read or has no image."""
        if self.prompt is None or not self.prompt.sources:
            reason, detail = ("sources", "the row has no image") if self.prompt else _why(self.problem)
            raise RowError(reason, detail)
        return self.prompt


@dataclass(frozen=True)
class Picture:
    """An image of a new row. name: the name that its source has in the new row."""

    name: str
    image: Image.Image


@dataclass(frozen=True)
class Made:
    """A new row, made from a scene.

    messages: with one "<image>" marker for each picture. drawn: the values that were drawn at random; they are written
    to extra_info.origin. fields: further fields of extra_info, for the reward alone.
    """

    data_source: str
    messages: Sequence[Message]
    pictures: Sequence[Picture]
    truth: str
    choices: Sequence[str] | None = None
    box_space: str = "original_pixels"
    drawn: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    response: str | None = None
    mono_responses: Mapping[str, str] = field(default_factory=dict)


def read_scenes(source: Path, image_root: Path | None) -> list[Scene]:
    """The rows of a file or saved data set, or the images of a folder in the order of their paths.

    image_root: the folder that image paths of rows are relative to; None: the file's folder. Truths are not checked:
    most tasks of `mars data build` need none. Raises DataError.
    """
    if source.is_dir() and not (source / "state.json").exists() and not (source / "dataset_dict.json").exists():
        return _images_of(source)
    rows = read_prompts(
        [str(source)], None if image_root is None else str(image_root), lambda prompt: None, read_json=read_json_rows
    ).rows
    return [
        Scene(row.label, number, _id(row.prompt, number), row.prompt, next(iter(row.problems), None))
        for number, row in enumerate(rows)
    ]


def _id(prompt: Prompt | None, number: int) -> str:
    return str((prompt.extra_info.get("id") if prompt is not None else None) or number)


def _images_of(folder: Path) -> list[Scene]:
    root = Path(os.path.realpath(folder))
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise DataError(f"{folder}: no images there; give a folder with {', '.join(SUFFIXES)} files, or a file of rows")
    return [_scene_of(file, file.relative_to(root).as_posix(), number) for number, file in enumerate(files)]


def _scene_of(file: Path, name: str, number: int) -> Scene:
    try:
        image = ImageRef(str(file), probe_size(str(file), "rgb", name))
    except BadImage as error:
        return Scene(name, number, name, None, RowProblem(name, f"image_{error.reason}", str(error)))
    question = (Message("user", f"{IMAGE_MARKER}\nDescribe the image."),)
    return Scene(name, number, name, Prompt(name, name, "image", question, (Source("image", image),), ""))


def _why(problem: RowProblem | None) -> tuple[str, str]:
    return ("row", "cannot be read") if problem is None else (problem.reason, problem.detail)


class Scenes:
    """All scenes of the input of `mars data build` (SRC). seed, task: decide the random numbers of all new rows
    (`chance`)."""

    def __init__(self, scenes: Sequence[Scene], seed: int, task: str) -> None:
        self.all = tuple(scenes)
        self._readable = [scene for scene in scenes if scene.prompt is not None and scene.prompt.sources]
        self._seed, self._task = seed, task
        self._digests: dict[Place, bytes] = {}
        self._apart_from: dict[frozenset[bytes], list[Scene]] = {}

    def chance(self, scene: Scene, copy: int) -> Generator:
        """The random generator for one new row: the same in every process, and in whatever order rows are made."""
        import numpy as np

        text = f"{self._seed}/{self._task}/{scene.number}/{copy}"
        return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16]))

    def other(self, scene: Scene, chance: Generator, take: Callable[[Scene], T]) -> T:
        """Draw another scene that has no image of this scene; returns what `take` makes of it.

        All such scenes are equally likely.

        Images are the same if their files have the same bytes. If `take` raises RowError, another scene is drawn.
        Raises RowError if there is no such scene, or once `take` has refused each of them, or TRIES draws.
        """
        own, why = self._contents(scene), "no other row with other images can be read"
        for found in islice(self._apart(own, chance), TRIES):
            try:
                return take(found)
            except RowError as error:
                why = f"those that were drawn do not fit; the last was {found.label}: {error}"
        raise RowError("no_other", f"this needs the image of another row, and {why}")

    def _apart(self, own: frozenset[bytes], chance: Generator) -> Iterator[Scene]:
        """Draw scenes at random that have none of the images in `own` (their SHA-256 sums). A scene may come twice."""
        for _ in range(DRAWS):
            found = self._readable[int(chance.integers(len(self._readable)))]
            if self._has_none_of(own, found):
                yield found
        if own not in self._apart_from:  # the draws have found too few scenes that fit
            self._apart_from[own] = [found for found in self._readable if self._has_none_of(own, found)]
        rest = self._apart_from[own]
        yield from (rest[int(number)] for number in chance.permutation(len(rest)))

    def _has_none_of(self, own: frozenset[bytes], scene: Scene) -> bool:
        try:
            return own.isdisjoint(self._contents(scene))
        except RowError:
            return False

    def _contents(self, scene: Scene) -> frozenset[bytes]:
        """The SHA-256 of each image. Raises RowError if one cannot be read."""
        return frozenset(self._digest(source) for source in scene.readable.sources)

    def _digest(self, source: Source) -> bytes:
        place = Place.of(source.image)
        if place not in self._digests:
            try:
                self._digests[place] = hashlib.sha256(encoded_image(place)).digest()
            except BadImage as error:
                raise RowError(f"image_{error.reason}", f"source {source.name}: {error}") from error
        return self._digests[place]


def pixels(source: Source) -> Image.Image:
    """The image of a source as a run decodes it: 8-bit RGB, before the model's image processor. Raises RowError."""
    try:
        return decode_image(source.image)
    except BadImage as error:
        raise RowError(f"image_{error.reason}", f"source {source.name}: {error}") from error


def check_size(size: tuple[int, int], what: str) -> None:
    """Raises RowError for a (width, height) that mars refuses when it reads an image."""
    limits = size_problem(size)
    if limits is not None:
        raise RowError("image_size", f"{what} would have {size[0]}x{size[1]} pixels; {limits}")


def like(source: Source, scene: Scene) -> Source:
    """The scene's source that has the same name as `source`; if there is none, the scene's first source."""
    others = scene.readable.sources
    return next((other for other in others if other.name == source.name), others[0])


def chosen(prompt: Prompt, sources: str, chance: Generator) -> tuple[Source, ...]:
    """The sources that `--sources` names: "all", "one" (drawn at random), or a source's name. Raises RowError."""
    if sources == ALL:
        return prompt.sources
    if sources == ONE:
        return (prompt.sources[int(chance.integers(len(prompt.sources)))],)
    found = tuple(source for source in prompt.sources if source.name == sources)
    if not found:
        names = ", ".join(source.name for source in prompt.sources)
        raise RowError("sources", f"the row has no source {sources!r}; got {names}")
    return found


def pairs(prompt: Prompt, sources: str, chance: Generator) -> list[tuple[Source, Source]]:
    """Pairs of (source to show as it is, source to show changed), as `--sources` says.

    "cross": one pair of two different sources, chosen at random. Otherwise one pair for each source that `chosen`
    gives, with this source in both places. Raises RowError, for example if the two sources of "cross" have different
    sizes.
    """
    if sources != CROSS:
        return [(source, source) for source in chosen(prompt, sources, chance)]
    if len(prompt.sources) < 2:
        raise RowError("sources", "--sources cross needs two sources; the row has one")
    shown, changed = (prompt.sources[int(i)] for i in chance.permutation(len(prompt.sources))[:2])
    if shown.image.size != changed.image.size:
        sizes = f"{shown.name} {shown.image.size}, {changed.name} {changed.image.size}"
        raise RowError("sizes_differ", f"--sources cross needs images of one size; got {sizes}")
    return [(shown, changed)]
