"""`mars data …`: make, convert, check and show data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mars.cli.build import app as build
from mars.cli.examples import example
from mars.cli.groups import group
from mars.cli.paths import ConfigDirs, path_argument, path_option, path_text_option
from mars.data.synthetic.tiny_families import Family

app = group("Make, convert, check and show data sets.")
convert = group("Convert a public data set to parquet.")
app.add_typer(convert, name="convert")
app.add_typer(build, name="build")

Out = Annotated[Path, path_argument(help="Folder for a parquet file per split, and the metadata dataset.json.")]
JsonSource = Annotated[Path, path_argument(metavar="SRC", help="JSON file, or a folder with JSON files.")]
ImageRoot = Annotated[
    Path | None,
    path_option(help="Folder of the images; give it to training as data.image_root. Default: SRC, or its folder."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Largest number of rows of each split.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Read and count; write nothing.")]
OnBadSample = Annotated[
    Literal["drop", "error"], typer.Option(help="drop: leave bad items out and list them; error: refuse the whole set.")
]
Licence = Annotated[str | None, typer.Option(help="Licence to name in the metadata. Default: that of the public set.")]
Depth = Annotated[
    Literal["spatialbot", "minmax", "colormap", "clip"], typer.Option(help="How 16-bit depth becomes RGB.")
]
Name = Annotated[str | None, typer.Option(help="data_source of rows that have none. Default: from the file's name.")]


@app.command(
    epilog=example(
        "mars data synth scenes --seed 0 --train 64 --test 16 --cold-start 0 \\",
        "      --bias 0.5",
        "mars data synth tiny_model --model tiny --seed 0",
    )
)
def synth(
    out: Annotated[Path, path_argument(help="Folder to write.")],
    seed: Annotated[int, typer.Option(help="Random seed: the same seed gives the same files.")],
    scenes: Annotated[
        Literal["quickstart", "benchmark"],
        typer.Option(help="quickstart: persons, in LLVIP's layout. benchmark: three harder tasks, as parquet."),
    ] = "quickstart",
    train: Annotated[int | None, typer.Option(help="Number of training scenes.")] = None,
    test: Annotated[int | None, typer.Option(help="Number of held-out scenes.")] = None,
    cold_start: Annotated[int | None, typer.Option(help="Number of rows for the supervised cold start.")] = None,
    bias: Annotated[
        float | None, typer.Option(help="Probability that a cold-start response follows the visible image.")
    ] = None,
    task: Annotated[
        Literal["where", "count", "box", "mixed"] | None, typer.Option(help="Task of the benchmark. Default: mixed.")
    ] = None,
    no_source_names: Annotated[
        bool, typer.Option("--no-source-names", help="The benchmark's cold-start responses do not name their source.")
    ] = False,
    model: Annotated[
        Literal["tiny", "real-vocabulary"] | None,
        typer.Option(help="Make a random model instead of scenes: a million parameters (tiny), or 151,936 token ids."),
    ] = None,
    family: Annotated[Family, typer.Option(help="Model family of --model.")] = "qwen2_5_vl",
) -> None:
    """Make small scenes, or a small random model. A scene has a visible and an infrared image; there are rows for a
    cold start too. The model's tokenizer knows the words of all rows."""
    from mars.errors import ConfigError

    sizes = {"--train": train, "--test": test, "--cold-start": cold_start, "--bias": bias}
    of_benchmark = {"--task": task, "--no-source-names": no_source_names or None}
    if scenes != "benchmark" or model is not None:
        given = [name for name, value in of_benchmark.items() if value is not None]
        if given:
            raise ConfigError(f"{', '.join(given)}: only for the benchmark's scenes; add --scenes benchmark")
    if model is not None:
        given = [name for name, value in sizes.items() if value is not None]
        if given:
            raise ConfigError(f"{', '.join(given)}: only for scenes; got --model {model} too; make scenes or a model")
        _build_model(out, seed, model, family, scenes)
        return
    if scenes == "benchmark" and cold_start == 0 and bias is None:
        bias = 0.5  # any number will do: there are no cold-start rows
    if train is None or test is None or cold_start is None or bias is None:
        missing = [name for name, value in sizes.items() if value is None]
        raise ConfigError(f"{', '.join(missing)}: not set; give them to make scenes, or --model to make a model")
    from mars.data.synthetic.write import SetSizes, write_synthetic
    from mars.output.files import writing_into

    counts = SetSizes(train=train, test=test, cold_start=cold_start)
    with writing_into(out, "OUT"):
        if scenes == "quickstart":
            write_synthetic(out, seed=seed, sizes=counts, bias=bias)
            return
        from mars.data.synthetic.benchmark import TASKS
        from mars.data.synthetic.benchmark_rows import Teacher, write_benchmark

        teacher = Teacher(bias, names_source=not no_source_names)
        tasks = TASKS if task in (None, "mixed") else (task,)
        write_benchmark(out, seed=seed, sizes=counts, teacher=teacher, tasks=tasks)


def _build_model(
    out: Path,
    seed: int,
    model: Literal["tiny", "real-vocabulary"],
    family: Family,
    scenes: Literal["quickstart", "benchmark"],
) -> None:
    from mars.data.synthetic.tiny_model import build_tiny
    from mars.errors import ConfigError
    from mars.output.files import writing_into

    if model != "tiny" and scenes == "benchmark":
        raise ConfigError("--scenes: a model of 151,936 ids has one vocabulary; got benchmark; leave --scenes out")
    with writing_into(out, "OUT"):
        if model == "tiny":
            build_tiny(out, seed=seed, family=family, vocabulary="benchmark" if scenes == "benchmark" else "tiny")
        else:
            build_tiny(out, seed=seed, family=family, tie_word_embeddings=True, vocabulary="real")


@convert.command(epilog=example("mars data convert llvip /data/LLVIP /data/LLVIP"))
def llvip(
    source: Annotated[Path, path_argument(metavar="SRC", help="Folder with visible, infrared and Annotations.")],
    out: Out,
    image_root: Annotated[
        Path | None, path_option(help="Folder above SRC that image paths are relative to. Default: SRC.")
    ] = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    on_bad_sample: OnBadSample = "drop",
    licence: Licence = None,
    question: Annotated[
        str | None, typer.Option(help="The prompt's question, without instructions how to answer.")
    ] = None,
    keep_empty: Annotated[
        bool, typer.Option("--keep-empty", help="Keep scenes without a person; their truth is [].")
    ] = False,
    split: Annotated[
        list[str] | None, typer.Option(help="Split to convert; repeatable. Default: all that SRC has.")
    ] = None,
) -> None:
    """LLVIP: persons in visible and infrared images, as grounding."""
    from mars.cli.convert import run_conversion
    from mars.data.convert.llvip import QUESTION, LlvipOptions, llvip_set
    from mars.rewards.grounding import GROUNDING

    options = LlvipOptions(question or QUESTION, keep_empty, tuple(split) if split else None)
    public = llvip_set(source, image_root, options)
    run_conversion(
        public, out, GROUNDING, limit=limit, dry_run=dry_run, on_bad_sample=on_bad_sample, licence=licence
    )  # fmt: skip


@convert.command(epilog=example("mars data convert spatialqa /data/SpatialQA /data/SpatialQA"))
def spatialqa(
    source: JsonSource,
    out: Out,
    image_root: ImageRoot = None,
    depth: Depth = "spatialbot",
    limit: Limit = None,
    dry_run: DryRun = False,
    on_bad_sample: OnBadSample = "drop",
    licence: Licence = None,
) -> None:
    """SpatialQA and SpatialBench: photographs with depth."""
    from mars.cli.convert import run_conversion
    from mars.data.convert.spatialqa import spatialqa_set
    from mars.rewards.vqa import VQA

    public = spatialqa_set(source, image_root, f"depth_{depth}")
    run_conversion(public, out, VQA, limit=limit, dry_run=dry_run, on_bad_sample=on_bad_sample, licence=licence)


@convert.command(
    epilog=example("mars data convert nuscenes nuscenes.json /data/nuscenes \\", "      --image-root /downloads/images")
)
def nuscenes(
    source: JsonSource,
    out: Out,
    image_root: ImageRoot = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    on_bad_sample: OnBadSample = "drop",
    licence: Licence = None,
) -> None:
    """nuScenes: questions about six cameras, with short answers. SRC: JSON of the data set DEMON or M4-Instruct."""
    from mars.cli.convert import run_conversion
    from mars.data.convert.nuscenes import nuscenes_set
    from mars.rewards.vqa import VQA

    public = nuscenes_set(source, image_root)
    run_conversion(public, out, VQA, limit=limit, dry_run=dry_run, on_bad_sample=on_bad_sample, licence=licence)


@convert.command("ocr_vqa", epilog=example("mars data convert ocr_vqa ocr_vqa.json /data/ocr_vqa --limit 100"))
def ocr_vqa(
    source: JsonSource,
    out: Out,
    image_root: ImageRoot = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    on_bad_sample: OnBadSample = "drop",
    licence: Licence = None,
) -> None:
    """OCR-VQA: two book covers, multiple choice. SRC has the form of DEMON or M4-Instruct."""
    from mars.cli.convert import run_conversion
    from mars.data.convert.ocr_vqa import ocr_vqa_set
    from mars.rewards.vqa import VQA

    public = ocr_vqa_set(source, image_root)
    run_conversion(public, out, VQA, limit=limit, dry_run=dry_run, on_bad_sample=on_bad_sample, licence=licence)


@convert.command("eval_json", epilog=example("mars data convert eval_json evaluation.json /data/evaluation"))
def eval_json(
    source: JsonSource,
    out: Out,
    image_root: ImageRoot = None,
    name: Name = None,
    depth: Depth = "spatialbot",
    limit: Limit = None,
    dry_run: DryRun = False,
    on_bad_sample: OnBadSample = "drop",
    licence: Licence = None,
) -> None:
    """The MARS paper's evaluation files of LLVIP, SpatialQA, nuScenes and OCR-VQA."""
    from mars.cli.convert import run_conversion
    from mars.data.convert.eval_json import eval_json_set

    public = eval_json_set(source, image_root, f"depth_{depth}", name)
    run_conversion(public, out, None, limit=limit, dry_run=dry_run, on_bad_sample=on_bad_sample, licence=licence)


@convert.command(epilog=example("mars data convert jsonl rows.json /data/rows --name mine"))
def jsonl(
    source: JsonSource,
    out: Out,
    image_root: ImageRoot = None,
    name: Name = None,
    depth: Depth = "spatialbot",
    limit: Limit = None,
    dry_run: DryRun = False,
    on_bad_sample: OnBadSample = "drop",
    licence: Licence = None,
) -> None:
    """JSON and JSONL rows of verl, EasyR1 and LLaVA."""
    from mars.cli.convert import run_conversion
    from mars.data.convert.jsonl import jsonl_set

    public = jsonl_set(source, image_root, f"depth_{depth}", name)
    run_conversion(public, out, None, limit=limit, dry_run=dry_run, on_bad_sample=on_bad_sample, licence=licence)


@app.command(epilog=example("mars data check rows.jsonl --model tiny_model reward=vqa"))
def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE|key=value", help="Parquet or JSONL files, and settings.")],
    model: Annotated[str, path_text_option(help="Model folder or hub name.")],
    held_out: Annotated[
        list[str] | None,
        path_text_option(help="Held-out file, which must share no row or image with FILE; repeatable."),
    ] = None,
    config_dir: ConfigDirs = None,
) -> None:
    """Check rows as training does. Columns, images, lengths, truths, ids, overlap of splits, prompt and reward."""
    from mars.cli.check import run_check

    run_check(files, held_out or [], model, config_dir or [])


@app.command(epilog=example("mars data show rows.jsonl rows.html --rows 20"))
def show(
    file: Annotated[Path, path_argument(help="Parquet or JSONL file.")],
    out: Annotated[Path, path_argument(metavar="OUT.html", help="File to write.")],
    image_root: Annotated[
        Path | None, path_option(help="Folder that image paths are relative to, as data.image_root.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows to show, spread evenly over the file.")] = 12,
    first: Annotated[int | None, typer.Option("--from", min=0, help="Only rows from this number on.")] = None,
    last: Annotated[int | None, typer.Option("--to", min=0, help="Only rows up to this number.")] = None,
) -> None:
    """Write a page of some rows with their images and boxes. Depth images are shown as the model sees them. Rows count
    from 0."""
    from mars.report.data_page import write_sheet

    write_sheet(file, out, image_root, rows, first or 0, last)
    typer.echo(f"sheet: {out}")
