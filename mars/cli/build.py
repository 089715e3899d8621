"""`mars data build TASK SRC OUT`: make rows whose truth is known without labels, or change the images of rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mars.cli.examples import example
from mars.cli.groups import group
from mars.cli.paths import path_argument, path_option

if TYPE_CHECKING:
    from mars.data.build.write import Task

app = group("Make rows whose truth is known without labels. Puzzles from images, changed captions, changed images.")

Source = Annotated[
    Path, path_argument(metavar="SRC", help="File of rows, a saved data set, or a folder of images (for puzzles).")
]
Out = Annotated[Path, path_argument(help="Folder for the rows, their images, and the metadata dataset.json.")]
Seed = Annotated[int, typer.Option(help="Random seed: the same seed gives the same rows.")]
ImageRoot = Annotated[
    Path | None, path_option(help="Folder that image paths of SRC are relative to. Default: the folder of SRC.")
]
Copies = Annotated[int, typer.Option(min=1, max=1000, help="Rows for each row or image of SRC, drawn differently.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first N rows or images of SRC.")]
Split = Annotated[str, typer.Option(help="Name of the file of rows, and of their split.")]
Jpeg = Annotated[int | None, typer.Option(min=1, max=100, help="Write JPEG of this quality. Default: PNG, lossless.")]
OnBadSample = Annotated[
    Literal["drop", "error"], typer.Option(help="drop: leave bad rows out and list them; error: refuse all.")
]
Sources = Annotated[str, typer.Option(help="Sources to use: one (drawn for each row), all, or the name of one.")]
Pairs = Annotated[
    str,
    typer.Option(help="Sources to use: one (drawn for each row), all, the name of one, or cross: two different ones."),
]


@app.command(epilog=example("mars data build jigsaw train.parquet puzzles --seed 0 --grid 2x2"))
def jigsaw(
    source: Source,
    out: Out,
    seed: Seed,
    grid: Annotated[str, typer.Option(metavar="ROWSxCOLUMNS", help="Grid of pieces.")] = "2x2",
    swap: Annotated[bool, typer.Option("--swap", help="Swap rows and columns with probability 1/2.")] = False,
    pieces: Annotated[bool, typer.Option("--pieces", help="Show every piece as an image of its own.")] = False,
    question: Annotated[
        Literal["grid", "pair"], typer.Option(help="Ask for the whole grid, or how two pieces lie to each other.")
    ] = "grid",
    sources: Sources = "one",
    image_root: ImageRoot = None,
    copies: Copies = 1,
    limit: Limit = None,
    split: Split = "train",
    jpeg: Jpeg = None,
    on_bad_sample: OnBadSample = "drop",
) -> None:
    """An image in shuffled pieces: where does each belong?"""
    from mars.data.build.jigsaw import Jigsaw
    from mars.errors import ConfigError

    rows, columns = _grid(grid)
    if pieces and sources == "all":
        raise ConfigError("--pieces: shows the pieces of one image; got --sources all; give one, or a source's name")
    task = Jigsaw(rows, columns, swap, pieces, question, sources)
    _build(task, source, out, seed, image_root, copies, limit, split, jpeg, on_bad_sample)


@app.command(epilog=example("mars data build rotation photos rotations --seed 0"))
def rotation(
    source: Source,
    out: Out,
    seed: Seed,
    sources: Pairs = "one",
    image_root: ImageRoot = None,
    copies: Copies = 1,
    limit: Limit = None,
    split: Split = "train",
    jpeg: Jpeg = None,
    on_bad_sample: OnBadSample = "drop",
) -> None:
    """An image and the same one rotated: by which angle?

    The angles are multiples of 90 degrees.
    """
    from mars.data.build.pairs import Rotation

    _build(Rotation(sources), source, out, seed, image_root, copies, limit, split, jpeg, on_bad_sample)


@app.command(epilog=example("mars data build position photos positions --seed 0 --copies 2"))
def position(
    source: Source,
    out: Out,
    seed: Seed,
    sources: Pairs = "one",
    image_root: ImageRoot = None,
    copies: Copies = 1,
    limit: Limit = None,
    split: Split = "train",
    jpeg: Jpeg = None,
    on_bad_sample: OnBadSample = "drop",
) -> None:
    """An image and a part of it: in which quarter is the part?"""
    from mars.data.build.pairs import Position

    _build(Position(sources), source, out, seed, image_root, copies, limit, split, jpeg, on_bad_sample)


@app.command(epilog=example("mars data build contrastive train.parquet pairs --seed 0 --sources cross"))
def contrastive(
    source: Source,
    out: Out,
    seed: Seed,
    sources: Annotated[
        str, typer.Option(help="Source to use: one (drawn), the name of one, or cross: the second image is of another.")
    ] = "one",
    image_root: ImageRoot = None,
    copies: Copies = 1,
    limit: Limit = None,
    split: Split = "train",
    jpeg: Jpeg = None,
    on_bad_sample: OnBadSample = "drop",
) -> None:
    """Two cropped and recoloured images: the same scene or not?"""
    from mars.data.build.pairs import Contrastive
    from mars.errors import ConfigError

    if sources == "all":
        raise ConfigError("--sources: a question about two images; got all; give one, cross, or a source's name")
    _build(Contrastive(sources), source, out, seed, image_root, copies, limit, split, jpeg, on_bad_sample)


@app.command("caption_swap", epilog=example("mars data build caption_swap captions.jsonl swapped --seed 0"))
def caption_swap(
    source: Source,
    out: Out,
    seed: Seed,
    caption: Annotated[
        Literal["truth", "response"], typer.Option(help="Which text of a row is the description of its images.")
    ] = "truth",
    swaps: Annotated[
        Path | None, path_option(help="JSON file {kind: [words]} of words to swap. Default: a table of 22 kinds.")
    ] = None,
    image_root: ImageRoot = None,
    copies: Copies = 1,
    limit: Limit = None,
    split: Split = "train",
    jpeg: Jpeg = None,
    on_bad_sample: OnBadSample = "drop",
) -> None:
    """A description with one wrong word: which?"""
    from mars.data.build.captions import CaptionSwap, read_kinds

    task = CaptionSwap(caption, read_kinds(swaps))
    _build(task, source, out, seed, image_root, copies, limit, split, jpeg, on_bad_sample)


@app.command(
    epilog=example(
        "mars data build perturb train.parquet rotated --seed 0 --change rotation \\", "      --right-angles"
    )
)
def perturb(
    source: Source,
    out: Out,
    seed: Seed,
    change: Annotated[
        Literal["distractor", "mixup", "rotation"],
        typer.Option(help="Another row's image beside it or mixed with it, or a rotation by any angle."),
    ],
    sources: Annotated[
        str, typer.Option(help="Sources to change, all alike: all, one (drawn for each row), or the name of one.")
    ] = "all",
    side: Annotated[
        Literal["left", "right", "random"], typer.Option(help="distractor: side of the other image.")
    ] = "right",
    size: Annotated[
        int | None, typer.Option(min=8, max=4096, help="mixup: sides of the result in pixels. Default: as it is.")
    ] = None,
    right_angles: Annotated[
        bool, typer.Option("--right-angles", help="rotation: by 90, 180 or 270 degrees, so that boxes stay exact.")
    ] = False,
    image_root: ImageRoot = None,
    copies: Copies = 1,
    limit: Limit = None,
    split: Split = "train",
    jpeg: Jpeg = None,
    on_bad_sample: OnBadSample = "drop",
) -> None:
    """The same questions with changed images. Truths stay too, but their boxes follow the change of the first image."""
    from mars.data.build.perturb import Perturb
    from mars.errors import ConfigError

    unused = {"--side": side != "right" and change != "distractor", "--size": size is not None and change != "mixup"}
    unused["--right-angles"] = right_angles and change != "rotation"
    for option, given in unused.items():
        if given:
            raise ConfigError(f"{option}: not used by --change {change}; leave it out")
    task = Perturb(change, sources, side, size, right_angles)
    _build(task, source, out, seed, image_root, copies, limit, split, jpeg, on_bad_sample)


def _grid(text: str) -> tuple[int, int]:
    from mars.errors import ConfigError

    rows, _, columns = text.partition("x")
    if not (rows.isascii() and rows.isdigit() and columns.isascii() and columns.isdigit()):
        raise ConfigError(f"--grid: want ROWSxCOLUMNS; got {text!r}; give such as 2x2")
    sides = int(rows), int(columns)
    if not (min(sides) >= 1 and max(sides) <= 16 and sides[0] * sides[1] > 1):
        raise ConfigError(f"--grid: want 2 pieces or more and sides of 1 to 16; got {text}; give such as 2x2")
    return sides


def _build(
    task: Task,
    source: Path,
    out: Path,
    seed: int,
    image_root: Path | None,
    copies: int,
    limit: int | None,
    split: str,
    jpeg: int | None,
    on_bad_sample: Literal["drop", "error"],
) -> None:
    from mars.cli.convert import run_conversion
    from mars.data.build.write import BuildOptions, built_set
    from mars.errors import ConfigError

    if re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", split, re.ASCII) is None:
        raise ConfigError(f"--split: want letters, digits, '_', '.' and '-'; got {split!r}; give such as train")
    public = built_set(task, source, image_root, out, BuildOptions(seed, copies, split, jpeg), limit)
    run_conversion(public, out, None, limit=None, dry_run=False, on_bad_sample=on_bad_sample, licence=None)
