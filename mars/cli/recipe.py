"""`mars recipe ...`: which recipes there are, and a folder to begin one of your own in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

recipe = typer.Typer(help="List recipes, or begin one of your own.", no_args_is_help=True, rich_markup_mode=None)

_OWN = Path("recipe")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@recipe.command("ls")
def list_(
    folder: Annotated[Path, typer.Argument(help="Your own recipes; those of mars are listed too.")] = _OWN,
) -> None:
    """List the recipes with one line each."""
    from mars.config.folders import shipped_folder
    from mars.output.text import aligned

    folders = dict.fromkeys(path.resolve() for path in (shipped_folder().parent / "recipe", folder))
    found = [readme for path in folders for readme in sorted(path.glob("*/README.md"))]
    rows = [(readme.parent.name, first_sentence(readme.read_text(encoding="utf-8"))) for readme in found]
    typer.echo("\n".join(aligned([("recipe", "what it does"), *rows])))


def first_sentence(readme: str) -> str:
    """Of the text below the title, on one line.

    >>> first_sentence("# VADE\\n\\nSamples what is learnt\\nmost from. Then more.\\n")
    'Samples what is learnt most from.'
    """
    paragraphs = [text for text in re.split(r"\n\s*\n", readme) if text.strip() and not text.startswith("#")]
    text = " ".join(paragraphs[0].split()) if paragraphs else ""
    return re.split(r"(?<=[.!?]) ", text, maxsplit=1)[0]


@recipe.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Name of the method: small letters, digits and _.")],
    folder: Annotated[Path, typer.Option("--dir", help="Folder that gets the new folder.")] = _OWN,
) -> None:
    """Write FOLDER/NAME with a README, a hook with settings, and an experiment that uses it."""
    from mars.cli.recipe_files import recipe_files
    from mars.errors import ConfigError

    if not _NAME.fullmatch(name):
        raise ConfigError(f"NAME: not small letters, digits and _; got {name!r}; give a name such as my_method")
    home = folder / name
    if home.exists():
        raise ConfigError(f"NAME: the folder is there already; got {home}; give another name")
    for path, text in recipe_files(name, home).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        typer.echo(f"wrote {path}")
    typer.echo(f"next: mars train --config-dir {home} experiment={name} data.train_files=[rows.jsonl] --dry-run")
