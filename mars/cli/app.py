"""The commands of `mars`. They import torch and other slow modules only when they run, so that `mars --help` is
quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mars.cli.ckpt import ckpt
from mars.cli.completion import PassingOn, complete_choice
from mars.cli.config import config
from mars.cli.data import app as data
from mars.cli.eval import evaluation
from mars.cli.examples import example
from mars.cli.groups import group
from mars.cli.paths import RunDir, RunDirs, path_argument, path_option
from mars.cli.ray import ray
from mars.cli.recipe import recipe
from mars.cli.runs import runs

app = group(
    "Train vision-language models on questions about several images of one scene.", pretty_exceptions_enable=False
)
reward = group("Try a reward on responses.")
app.add_typer(config, name="config")
app.add_typer(data, name="data")
app.add_typer(runs, name="runs")
app.add_typer(recipe, name="recipe")
app.add_typer(ckpt, name="ckpt")
app.add_typer(evaluation, name="eval")
app.add_typer(reward, name="reward")
app.add_typer(ray, name="ray")

# `train` and `sft` pass all options on to mars.main and mars.sft, which have their own --help.
_PASS_ON = {"ignore_unknown_options": True, "help_option_names": []}
_PassedOn = Annotated[list[str] | None, typer.Argument(metavar="option|key=value", autocompletion=complete_choice)]


@app.command(epilog=example("mars init my_project"))
def init(
    folder: Annotated[Path, path_argument(metavar="DIR", help="New folder, or an empty one.")],
) -> None:
    """Begin your own project: rows, reward, experiment, run script. Unchanged, it trains a tiny model."""
    from mars.cli.init import init

    typer.echo("\n".join(init(folder)))


@app.command(epilog=example("mars quickstart anchor=none run.num_steps=20"))
def quickstart(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="key=value", help="Settings to change.", autocompletion=complete_choice),
    ] = None,
    folder: Annotated[Path, path_option("--dir", envvar="QUICKSTART_DIR", help="Folder for everything.")] = Path(
        "runs/quickstart"
    ),
) -> None:
    """Train a tiny model on synthetic scenes and evaluate it. It takes minutes on two CPU cores. A second call in
    the same folder skips the stages that are complete."""
    from mars.cli.quickstart import quickstart

    quickstart(folder, overrides or [])


@app.command(cls=PassingOn, context_settings=_PASS_ON)
def train(words: _PassedOn = None) -> None:
    """Train a policy. Same as python -m mars.main."""
    from mars.main import main

    raise typer.Exit(main(words or []))


@app.command(cls=PassingOn, context_settings=_PASS_ON)
def sft(words: _PassedOn = None) -> None:
    """Supervised cold start. Same as python -m mars.sft."""
    from mars.sft import main

    raise typer.Exit(main(words or []))


@app.command(epilog=example("mars resume runs/mars run.num_steps=400"))
def resume(
    run_dir: RunDir,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="key=value", help="Settings to change.", autocompletion=complete_choice),
    ] = None,
) -> None:
    """Go on with a run from its newest checkpoint. The settings are those in RUN/config.yaml."""
    from mars.cli.resume import resume

    resume(run_dir, overrides or [])


@app.command(epilog=example("mars chaos --minutes 2 anchor=none"))
def chaos(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="key=value", help="Settings of both runs.", autocompletion=complete_choice),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Minutes of training in which processes are killed.")] = 5.0,
    mtbf: Annotated[float, typer.Option(help="Mean seconds between two kills.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Random seed of what is killed, and when.")] = 0,
    folder: Annotated[Path, path_option("--dir", help="Folder for both runs.")] = Path("runs/chaos"),
) -> None:
    """Train the quick start twice, once with processes killed. Exits with 0 if both are equal."""
    from mars.cli.chaos import chaos

    raise typer.Exit(chaos(folder, minutes, mtbf, seed, overrides or []))


@app.command(epilog=example("mars doctor runs"))
def doctor(
    folder: Annotated[Path, path_argument(metavar="RUNS", help="Folder of your runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
) -> None:
    """Check packages, GPUs, memory, disks, ports and left-overs. Exits with 4 if something mars needs is
    missing."""
    from mars.cli.doctor import doctor

    raise typer.Exit(doctor(folder, as_json))


@app.command(epilog=example("mars watch runs/mars"))
def watch(
    run_dir: RunDir,
    once: Annotated[
        bool, typer.Option("--once", help="Print one picture and end; always so without a terminal.")
    ] = False,
) -> None:
    """Show in the terminal how a run goes, until it ends. Ctrl-C leaves; the run goes on."""
    from mars.cli.watch import watch

    watch(run_dir, once=once)


@app.command(
    epilog=example(
        "mars report runs/mars", "mars report runs/mars --follow", "mars report runs/a runs/b --out a_and_b.html"
    )
)
def report(
    run_dirs: RunDirs,
    out: Annotated[
        Path | None,
        path_option(help="The page. Default: RUN/report.html; of several runs comparison.html here."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Write it anew as runs go on, until they end.")] = False,
    every: Annotated[int, typer.Option(min=1, help="With --follow: seconds between two looks at the runs.")] = 30,
) -> None:
    """Write a page with curves, evaluations and rollouts of a run. Of several runs: a page that compares them.
    Prints the evaluations too."""
    if len(run_dirs) > 1:
        from mars.cli.report_runs import DEFAULT_OUT, follow_runs, report_runs

        path = DEFAULT_OUT if out is None else out
        follow_runs(run_dirs, path, every) if follow else report_runs(run_dirs, path)
        return
    from mars.cli.report import follow_run, report_run

    (run_dir,) = run_dirs
    follow_run(run_dir, every, out) if follow else report_run(run_dir, out)


@reward.command(
    "try",
    epilog=example('mars reward try vqa --text "<think>dark</think><answer>night</answer>" \\', "      --truth night"),
)
def try_(
    name: Annotated[str, typer.Argument(help="A built-in reward, or path/to/file.py:function.")],
    text: Annotated[str | None, typer.Option(help="The answer of a model.")] = None,
    file: Annotated[
        Path | None, path_option(help="JSONL file of answers, instead of --text (docs/rewards.md).")
    ] = None,
    truth: Annotated[str | None, typer.Option(help="The right answer. With --file: for lines that have none.")] = None,
    scorer: Annotated[Literal["strict", "compat"], typer.Option(help="As reward.scorer.")] = "strict",
    choice: Annotated[
        list[str] | None, typer.Option(help="An option of a multiple-choice question; repeatable.")
    ] = None,
    truth_size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Image size that the truth's boxes refer to.")
    ] = None,
    response_size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Image size that the answer's boxes refer to.")
    ] = None,
    data_source: Annotated[str | None, typer.Option(help="data_source of the row, for a function of your own.")] = None,
    extra_info: Annotated[str | None, typer.Option(metavar="JSON", help="extra_info of the row.")] = None,
    by_prompt: Annotated[bool, typer.Option(help="As reward.by_prompt: the function takes a list.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object per line.")] = False,
) -> None:
    """Show what a reward reads in a response (think text, answer, boxes), and the parts, score, accuracy and time."""
    from mars.cli.reward import fields_of_options, try_reward

    fields = fields_of_options(truth, choice, truth_size, response_size, data_source, extra_info)
    try_reward(name, scorer, text, file, fields, by_prompt=by_prompt, as_json=as_json)
