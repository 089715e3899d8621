"""`mars config ...`: look at settings before a run."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mars.cli.completion import complete_config, complete_key
from mars.cli.examples import example
from mars.cli.groups import AsJson, group
from mars.cli.paths import ConfigDirs

if TYPE_CHECKING:
    from mars.config.browse import Named, Setting

config = group("Show, find and compare settings.")

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG|key=value",
        help="An experiment or a run directory, and settings to change.",
        autocompletion=complete_config,
    ),
]
OfSft = Annotated[bool, typer.Option("--sft", help="The settings of a supervised cold start.")]


@config.command(epilog=example("mars config show quickstart anchor=none --describe"))
def show(
    words: Words = None,
    describe: Annotated[bool, typer.Option("--describe", help="Say above each setting what it means.")] = False,
    config_dir: ConfigDirs = None,
    sft: OfSft = False,
) -> None:
    """Show all settings as YAML, with interpolations resolved. The values are not checked."""
    from mars.config.browse import described, undescribed

    chosen = _named(words or [], config_dir, sft)
    typer.echo(described(chosen) if describe else undescribed(chosen), nl=False)


@config.command(epilog=example('mars config find "learning rate" quickstart', "mars config find rollout.top_p"))
def find(
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT", help="Name of a setting, or words of its description.", autocompletion=complete_key
        ),
    ],
    words: Words = None,
    config_dir: ConfigDirs = None,
    sft: OfSft = False,
    as_json: AsJson = False,
) -> None:
    """Find settings by their names and descriptions. Says what each means and takes, its value, and which file or
    override the value comes from."""
    from mars.config.browse import search

    found = search(text, _named(words or [], config_dir, sft), config_dir or [])
    if as_json:
        typer.echo(json.dumps([asdict(setting) for setting in found], indent=1))
    else:
        typer.echo("\n\n".join(map(_block, found)))


@config.command(epilog=example("mars config diff quickstart", 'mars config diff "quickstart anchor=none" runs/mars'))
def diff(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="An experiment, a run directory, or settings, in one word or in quotes.",
            autocompletion=complete_config,
        ),
    ],
    b: Annotated[
        str | None,
        typer.Argument(
            metavar="B",
            help="What to compare it with. Default: the defaults of mars.",
            autocompletion=complete_config,
        ),
    ] = None,
    config_dir: ConfigDirs = None,
    sft: OfSft = False,
    as_json: AsJson = False,
) -> None:
    """Show in which settings two configurations differ. Each is an experiment, a run or overrides."""
    from mars.config.browse import differences, on_one_line
    from mars.output.text import aligned

    first = _named(_split("A", a), config_dir, sft)
    second = _named([] if b is None else _split("B", b), config_dir, first.root == "sft")
    found = differences(first, second)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    rows = [("", "A", "B"), *((key, *map(on_one_line, pair.values())) for key, pair in found.items())]
    lines = [f"A {first.title}", f"B {second.title}", "", *(aligned(rows) if found else ["the same"])]
    typer.echo("\n".join(lines))


def _named(words: list[str], config_dirs: list[str] | None, sft: bool) -> Named:
    from mars.config.browse import named

    return named(words, config_dirs or [], "sft" if sft else "train")


def _split(name: str, text: str) -> list[str]:
    from mars.errors import ConfigError

    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{name}: cannot be split into words: {error}; got {text!r}; close the quotes") from error


def _block(setting: Setting) -> str:
    """The setting's name and, below it, one fact per line."""
    lines = [
        ("meaning", setting.meaning),
        ("takes", setting.takes),
        ("default", "none, it must be set" if setting.default is None else setting.default),
        *([("value", setting.value)] if setting.value not in (None, setting.default) else []),
        *([("from", setting.source)] if setting.value is not None else []),
    ]
    from mars.output.text import visible

    return "\n".join([setting.key, *(f"  {name:<8} {visible(str(text))}" for name, text in lines)])
