"""`mars eval ...`: evaluate a model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mars.cli.completion import complete_choice, complete_run
from mars.cli.examples import example
from mars.cli.groups import group
from mars.cli.paths import ConfigDirs, path_argument, path_option, path_text_argument

evaluation = group("Evaluate a model: ask it; score, compare and show its answers.")


def _known_task(task: str | None) -> str | None:
    """Raises ConfigError if no built-in reward has this name."""
    from mars.errors import ConfigError
    from mars.plugin import is_spec
    from mars.rewards.built_in import built_in_names, is_built_in

    if task is None or is_built_in(task):
        return task
    function = task if is_spec(task) else "path/to/file.py:name"
    raise ConfigError(
        f"--task: no such built-in reward; got {task!r}; want one of {built_in_names()}; with a reward of your own, "
        f"ask and score at once: mars eval run MODEL DATA reward.function={function} data.template=vqa"
    )


Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="key=value", help="Settings to change.", autocompletion=complete_choice)
]
Task = Annotated[str, typer.Option(help="The built-in reward that fits the truths.", callback=_known_task)]
Threshold = Annotated[
    float | None, typer.Option(help="IoU above which boxes are a hit; default: evaluation.iou_threshold.")
]
Html = Annotated[Path | None, path_option(help="Write a page with images and boxes to this file.")]
TruthSize = Annotated[
    str | None, typer.Option(metavar="WxH", help="For a public file with boxes: image size that the truth refers to.")
]
ResponseSize = Annotated[
    str | None, typer.Option(metavar="WxH", help="For a public file with boxes: image size that the answers refer to.")
]
ResultFile = Annotated[
    Path,
    path_argument(
        metavar="RESULTS",
        help="Folder or .jsonl of mars eval infer, a run's rollouts/*.jsonl or evaluation/*.jsonl, or a public file.",
    ),
]
Like = Annotated[
    Path | None,
    path_option(metavar="RUN", help="Take the settings of this run, for a policy of it.", autocompletion=complete_run),
]
AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON instead of a table.")]


@evaluation.command(epilog=example("mars eval run runs/mars/policy test.parquet --like runs/mars"))
def run(
    model: Annotated[str, path_text_argument(help="Model folder or hub name.")],
    files: Annotated[str, path_text_argument(metavar="DATA", help="Parquet or JSONL file.")],
    overrides: Overrides = None,
    name: Annotated[str, typer.Option(help="Name of the evaluation in the result.")] = "eval",
    step: Annotated[int, typer.Option(help="Training step of the model, for the result and for reward functions.")] = 0,
    out: Annotated[Path | None, path_option(help="Write the result to this file as JSON.")] = None,
    config_dir: ConfigDirs = None,
    like: Like = None,
) -> None:
    """Ask a model and score its answers at once. The result has Multi, Mono per source, Union (each prompt by its best
    source) and information gain, with intervals."""
    from mars.cli.eval_settings import evaluation_config, path_from_here
    from mars.errors import ConfigError
    from mars.output.files import check_writable

    if like is not None:
        model, files, out = path_from_here(model), os.path.abspath(files), out and out.absolute()
    if out is not None:
        check_writable(out, "--out")
        if os.path.realpath(out) == os.path.realpath(files):
            raise ConfigError(f"--out: {out} is the file of questions, which would be overwritten; give another file")
    config = evaluation_config(model, files, overrides or [], config_dir or [], like)
    from mars.cluster.environment import gc_paused

    with gc_paused():
        from mars.run import run_evaluation
    from mars.report.scores import show_evaluation

    show_evaluation(run_evaluation(config, name, step, out))


@evaluation.command(epilog=example("mars eval infer runs/mars/policy test.parquet answers --like runs/mars"))
def infer(
    model: Annotated[str, path_text_argument(help="Model folder or hub name.")],
    questions: Annotated[
        str, path_text_argument(help="Parquet or JSONL file, or an evaluation file of the paper (.json).")
    ],
    out: Annotated[
        Path,
        path_argument(
            help="Folder for the answers; or a .json file in the public format, next to which the answers are written."
        ),
    ],
    overrides: Overrides = None,
    views: Annotated[
        Literal["multi", "mono", "all"], typer.Option(help="multi: all images together; mono: each alone; all: both.")
    ] = "all",
    task: Annotated[
        str | None,
        typer.Option(
            help="The built-in reward that fits the questions. Default: that of --like, or chosen by the first truth.",
            callback=_known_task,
        ),
    ] = None,
    config_dir: ConfigDirs = None,
    like: Like = None,
) -> None:
    """Ask a model all questions and keep its answers in files. A second call asks only what is missing."""
    from mars.cli.check import sets_reward
    from mars.cli.eval_settings import evaluation_config, path_from_here
    from mars.config.folders import quoted
    from mars.evaluation.files import check_out, result_paths
    from mars.evaluation.questions import first_task, readable_file

    if like is not None:
        model, questions, out = path_from_here(model), os.path.abspath(questions), out.absolute()
    paths, given = result_paths(out), list(overrides or [])
    check_out(paths, questions)
    defaults = [f"run.dir={quoted(str(paths.logs))}"]
    if task is not None:
        defaults.append(f"reward.function={task}")
    elif like is None and not sets_reward(given, config_dir or []):
        defaults.append(f"reward.function={first_task(questions)}")
    file = readable_file(questions, paths)
    config = evaluation_config(model, file, [*defaults, *given], config_dir or [], like)
    from mars.cluster.environment import gc_paused

    with gc_paused():
        from mars.run import run_inference
    files = run_inference(config, questions, paths, views)
    typer.echo("\n".join(map(str, files)))


@evaluation.command(epilog=example("mars eval score answers --task vqa --html answers.html"))
def score(
    results: ResultFile,
    task: Task,
    threshold: Threshold = None,
    as_json: AsJson = False,
    html: Html = None,
    questions: Annotated[
        int | None, typer.Option(min=1, help="With --html: questions on the page. Default: 24.")
    ] = None,
    truth_size: TruthSize = None,
    response_size: ResponseSize = None,
) -> None:
    """Score a result file with both scorers: strict (as in the MARS paper) and compat (as in its public code). Each
    gives Multi, Mono per source, Union (each question's best mono value, averaged over questions), information gain and
    conflict rate."""
    from mars.errors import ConfigError
    from mars.output.files import check_page
    from mars.report.scores import score_file, show_scores, write_scores_page

    limit = _threshold(threshold)
    if html is not None:
        check_page(html, "--html")
    elif questions is not None:
        raise ConfigError(f"--questions: only a page shows questions; got {questions} without --html; give --html FILE")
    scored, result = score_file(results, task, limit, _frames(truth_size, response_size))
    if html is not None:
        from mars.data.pixels.images import decode_image

        write_scores_page(html, result, scored, questions, decode_image)
    if as_json:
        typer.echo(json.dumps(result, indent=2, allow_nan=False))
    else:
        show_scores(result)
        if html is not None:
            typer.echo(f"page: {html}")


@evaluation.command(epilog=example("mars eval compare answers_a answers_b --task grounding"))
def compare(
    results: Annotated[
        list[Path], path_argument(help="Two result files or more; the others are compared with the first.")
    ],
    task: Task,
    threshold: Threshold = None,
    as_json: AsJson = False,
    truth_size: TruthSize = None,
    response_size: ResponseSize = None,
) -> None:
    """Compare result files with the first of them. With paired intervals of the differences."""
    from mars.errors import ConfigError
    from mars.evaluation.compare import compare as compare_files
    from mars.evaluation.compare import comparison_table, legend
    from mars.evaluation.files import read_results
    from mars.evaluation.score import score_results
    from mars.evaluation.tables import print_table

    if len(results) < 2:
        raise ConfigError(f"mars eval compare: want two result files or more; got {len(results)}")
    limit, frames = _threshold(threshold), _frames(truth_size, response_size)
    files = [score_results(read_results(path), task, frames) for path in results]
    comparison = compare_files(files, limit)
    if as_json:
        typer.echo(json.dumps(comparison, indent=2, allow_nan=False))
    else:
        print_table(comparison_table(comparison, limit))
        typer.echo("\n".join(legend(comparison)))


@evaluation.command(epilog=example("mars eval show answers --questions 3"))
def show(
    results: ResultFile,
    html: Html = None,
    questions: Annotated[
        int | None,
        typer.Option(min=1, help="The first N questions; with --html N from everywhere. Default: all; 24 with --html."),
    ] = None,
) -> None:
    """Print the questions of a result file, with answers, truths and stored rewards. --html writes a page instead."""
    from mars.evaluation.files import read_partial
    from mars.output.files import check_page
    from mars.output.text import visible

    if html is not None:
        check_page(html, "--html")
    found, notes = read_partial(results)
    for note in notes:
        typer.echo(visible(note), err=True)
    if html is None:
        from mars.report.answers import answer_lines

        for text in answer_lines(found.answers, questions):
            typer.echo(text)
    else:
        from mars.data.pixels.images import decode_image
        from mars.report.scores import write_results_page

        write_results_page(html, found, questions, notes, decode_image)
        typer.echo(f"page: {html}")


def _threshold(given: float | None) -> float:
    """The value of --threshold; without it, the default of evaluation.iou_threshold. Raises ConfigError."""
    import yaml

    from mars.config.folders import shipped_folder
    from mars.errors import ConfigError

    if given is None:
        given = yaml.safe_load((shipped_folder() / "train.yaml").read_text(encoding="utf-8"))["evaluation"][
            "iou_threshold"
        ]
    if not 0 <= given < 1:
        raise ConfigError(
            f"--threshold: must be at least 0 and below 1, because an IoU must exceed it; got {given:g}; "
            "give 0.5, for example"
        )
    return given


def _frames(truth_size: str | None, response_size: str | None) -> Any:
    """--truth-size and --response-size, each as (width, height); None if neither is given. Raises ConfigError."""
    from mars.cli.reward import fields_of_options
    from mars.errors import ConfigError

    if (truth_size is None) != (response_size is None):
        raise ConfigError("--truth-size, --response-size: boxes need both sizes; give both or none")
    fields = fields_of_options(None, None, truth_size, response_size, None, None)
    if fields["truth_size"] is None:
        return None
    frames = tuple(tuple(fields[key]) for key in ("truth_size", "response_size"))
    if any(side == 0 for size in frames for side in size):
        raise ConfigError(
            f"--truth-size, --response-size: width and height must be at least 1; got {truth_size} and {response_size}"
        )
    return frames
