"""`mars recipe ...`: list the recipes, and begin one of your own."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from mars.cli.examples import example
from mars.cli.groups import group
from mars.cli.paths import path_argument, path_option

recipe = group("List recipes, or begin one of your own.")

_OWN = Path("recipe")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@recipe.command("ls", epilog=example("mars recipe ls"))
def list_(
    folder: Annotated[Path, path_argument(help="Your own recipes; those of mars are listed too.")] = _OWN,
) -> None:
    """List the recipes with one line each."""
    from mars.config.folders import shipped_folder
    from mars.output.text import aligned

    folders = dict.fromkeys(map(os.path.realpath, (shipped_folder().parent / "recipe", folder)))
    found = [readme for path in folders for readme in sorted(Path(path).glob("*/README.md"))]
    rows = [(readme.parent.name, _described(readme)) for readme in found]
    typer.echo("\n".join(aligned([("recipe", "what it does"), *rows])))


def _described(readme: Path) -> str:
    try:
        return first_sentence(readme.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        return f"README.md cannot be read: {error}"


def first_sentence(readme: str) -> str:
    """The first sentence of the text below the title, on one line.

    >>> first_sentence("# VADE\\n\\nSamples what is learnt\\nmost from. Then more.\\n")
    'Samples what is learnt most from.'
    """
    paragraphs = [text for text in re.split(r"\n\s*\n", readme) if text.strip() and not text.startswith("#")]
    text = " ".join(paragraphs[0].split()) if paragraphs else ""
    return re.split(r"(?<=[.!?]) ", text, maxsplit=1)[0]


@recipe.command("new", epilog=example("mars recipe new my_method --dir recipe"))
def new(
    name: Annotated[str, typer.Argument(help="Name of the method: small letters, digits and _.")],
    folder: Annotated[Path, path_option("--dir", help="Folder that gets the new folder.")] = _OWN,
) -> None:
    """Begin a recipe of your own. Writes FOLDER/NAME with a README, a hook with settings, and an experiment."""
    from mars.cli.recipe_files import recipe_files
    from mars.errors import ConfigError

    if not _NAME.fullmatch(name):
        raise ConfigError(f"NAME: not small letters, digits and _; got {name!r}; give a name such as my_method")
    if (owner := _taken_by(name)) is not None:
        raise ConfigError(f"NAME: {owner}; got {name!r}; give another name")
    home = folder / name
    if os.path.lexists(home):
        raise ConfigError(f"NAME: the folder is there already; got {home}; give another name")
    for path, text in recipe_files(name, home).items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--dir: cannot write {path}: {error.strerror or error}; give another folder") from error
        typer.echo(f"wrote {path}")
    command = shlex.join(["mars", "train", "--config-dir", str(home), f"experiment={name}"])
    typer.echo(f"next: {command} data.train_files=[rows.jsonl] --dry-run")


def _taken_by(name: str) -> str | None:
    """Why no recipe can have this name, or None if it is free."""
    import yaml

    from mars.config.folders import shipped_folder

    shipped = shipped_folder()
    if not isinstance(yaml.safe_load(name), str) or name in ("nan", "inf"):  # the command line reads these as numbers
        return "a configuration does not read it as text"
    if (shipped / "experiment" / f"{name}.yaml").exists():
        return "mars has an experiment of this name"
    if any((shipped.parent / "recipe").glob(f"{name}/README.md")):  # the new recipe would hide the files of this one
        return "mars has a recipe of this name"
    if any((shipped.parent / "recipe").glob(f"*/experiment/{name}.yaml")):
        return "a recipe of mars has an experiment of this name"
    return None
