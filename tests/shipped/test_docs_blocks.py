"""Every fenced block of the pages is read: its commands are parsed, its settings composed, its data and Python parsed.

tests/shipped/test_docs.py runs the Python blocks and composes the settings of `python -m mars.main`; the commands of
the tutorial and of a project are typed by tests/integration. A command that needs a GPU or a cluster is parsed here
too.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
import pytest
import typer.main
import yaml

from mars.cli.app import app
from mars.config.command_line import parse_command_line
from mars.config.load import RootName, load_config
from tests.shipped.test_docs import FENCE, PAGES, ROOT, name_of, text_of

PROJECT = ROOT / "mars" / "cli" / "project"
ALL_PAGES = [*PAGES, PROJECT / "README.md"]
LANGUAGES = {"", "bash", "bibtex", "jinja", "json", "python", "text", "yaml"}
# Programs that are not mars': their lines are only read as bash.
OTHERS = {
    "cd",
    "docker",
    "eval",
    "export",
    "git",
    "hf",
    "kubectl",
    "mkdir",
    "ray",
    "scancel",
    "scp",
    "source",
    "tail",
    "umask",
    "vllm",
}
OTHER_MODULES = {"http.server", "pip", "pytest", "vllm.entrypoints.openai.api_server"}
SETTING = re.compile(r"\+{0,2}~?[\w.]+=")
ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=")
BETWEEN = {"&&", "||", "|", ";", "&", "(", ")"}
FORWARDED = re.compile(r'exec "\$python" -m mars\.cli\.main ((?:[a-z]+ )+)"\$@"')
HEADER = "# @package _global_\n"


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    before: str


def blocks(text: str) -> list[Block]:
    return [Block(match[1], match[2], text[: match.start()]) for match in FENCE.finditer(text)]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a bash block, without variables before it and redirections."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();|&<>")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if word not in BETWEEN:
                command.append(word)
                continue
            while command and ASSIGNMENT.match(command[0]):
                command.pop(0)
            command = command[: next((i for i, word in enumerate(command) if word in (">", ">>", "<")), None)]
            if command:
                yield command
            command = []


# --- settings


@cache
def compose(root: RootName, settings: tuple[str, ...], folders: tuple[str, ...]) -> None:
    """Compose the settings. An experiment that only a user has is left out, the others are added to."""
    places = [*folders, str(ROOT / "configs")]
    known = [
        word
        for word in settings
        if not word.startswith("experiment=")
        or any((Path(place) / "experiment" / f"{word.removeprefix('experiment=')}.yaml").is_file() for place in places)
    ]
    files = [] if any(re.match(r"data\.train_files=|experiment=", word) for word in known) else ["x.parquet"]
    load_config(root, [*(f"data.train_files=[{file}]" for file in files), *known], list(folders))


def settings_of(words: Sequence[str]) -> tuple[str, ...]:
    """key=value of a command. After "--" the first word may name an experiment."""
    found = [word for word in words if SETTING.match(word)]
    after = list(words)[list(words).index("--") + 1 :][:1] if "--" in words else []
    return (*(f"experiment={word}" for word in after if not SETTING.match(word)), *found)


def folders_of(words: Sequence[str]) -> tuple[str, ...]:
    given = [words[i + 1] for i, word in enumerate(words) if word == "--config-dir"]
    return tuple(str((PROJECT if name == "configs" else ROOT) / name) for name in given)


# --- commands


def check_command(words: list[str], own: tuple[str, ...]) -> None:
    """own: a folder with the experiments of the page. Raises an exception for a command that cannot be typed so."""
    program, *rest = words
    if program.endswith("bin/mars") or program == "mars":
        check_mars(rest, own)
    elif program.endswith("bin/python") or program == "python":
        check_python(rest, own)
    elif program in ("bash", "sbatch"):
        check_script(rest, own)
    elif program == "pip":
        check_pip(rest)
    else:
        assert program in OTHERS, f"unknown program {program}"


def check_mars(words: list[str], own: tuple[str, ...]) -> None:
    command, rest, path = typer.main.get_command(app), list(words), []
    while hasattr(command, "commands"):
        if rest[0].startswith("-"):
            assert rest[0] in {name for parameter in command.params for name in parameter.opts}, f"no option {rest[0]}"
            return
        path.append(rest.pop(0))
        command = command.commands[path[-1]]
    if path in (["train"], ["sft"]):
        parse_command_line(path[0], "mars", rest)
    else:
        command.make_context(" ".join(path), list(rest))
    settings = settings_of(rest)
    if settings and path != ["eval", "run"] and path[0] != "config":
        compose("sft" if path == ["sft"] else "train", settings, (*folders_of(rest), *own))


def check_python(words: list[str], own: tuple[str, ...]) -> None:
    if words[0] == "-c":
        ast.parse(words[1])
        return
    module = words[1] if words[0] == "-m" else None
    if module in ("mars.main", "mars.sft"):
        parse_command_line("sft" if module == "mars.sft" else "train", module, words[2:])
        if module == "mars.sft":
            compose("sft", settings_of(words), (*folders_of(words), *own))
        return
    if module == "mars.cli.main":
        check_mars(words[2:], own)
        return
    if module == "pip":
        check_pip(words[2:])
    if module in OTHER_MODULES:
        return
    file = ROOT / (module.replace(".", "/") + ".py" if module else words[0])
    assert file.is_file(), f"no such program: {words[:2]}"
    helpers = [*file.parent.glob("*.py"), *(file.parent / file.stem).glob("*.py")]
    check_options(words, [file, *helpers])


def check_script(words: list[str], own: tuple[str, ...]) -> None:
    place = next(i for i, word in enumerate(words) if word.endswith(".sh"))
    name, rest = words[place], words[place + 1 :]
    script = PROJECT / "run.sh" if name.rpartition("/")[2] == "run.sh" else ROOT / name
    assert script.is_file(), f"no such script: {name}"
    forwarded = FORWARDED.search(script.read_text(encoding="utf-8"))
    if forwarded:
        check_mars([*forwarded[1].split(), *rest], own)
        return
    if script == ROOT / "scripts" / "test.sh":  # pytest's arguments
        return
    cli = [*(ROOT / "mars" / "cli").glob("*.py"), ROOT / "mars" / "config" / "command_line.py"]
    check_options(rest, [script, ROOT / "scripts" / "train.sh", *cli])
    settings = settings_of(rest)
    composed_by_test_docs = re.search(
        r'train\.sh" "\$0" "\$root/(\S+)" (\w+) "\$@"', script.read_text(encoding="utf-8")
    )
    if settings and not composed_by_test_docs:
        compose("train", settings, (str(PROJECT / "configs"), *own) if script.parent == PROJECT else own)


def check_options(words: Sequence[str], files: Sequence[Path]) -> None:
    source = "\n".join(_source(file) for file in files)
    options = [word.partition("=")[0] for word in words if re.match(r"--\w", word)]
    assert [option for option in options if not re.search(rf"{option}(?![\w-])", source)] == []


@cache
def _source(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def check_pip(words: Sequence[str]) -> None:
    """The extras of mars that are installed exist."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = [extra for word in words for extra in re.findall(r"^\.\[([\w,-]+)\]$", word)]
    assert {extra for names in named for extra in names.split(",")} <= set(known)


# --- pages


def own_experiments(page: list[Block], folder: Path) -> tuple[str, ...]:
    """Write each YAML block as an experiment, under the name that the text before it gives, and return the folder."""
    (folder / "experiment").mkdir()
    for number, block in enumerate(block for block in page if block.language == "yaml"):
        named = re.findall(r"`[\w./]*experiment/(\w+)\.yaml`", block.before)
        name = named[-1] if named and block.text.startswith(HEADER) else f"block_{number}"
        text = block.text if block.text.startswith(HEADER) else HEADER + block.text
        (folder / "experiment" / f"{name}.yaml").write_text(text, encoding="utf-8")
    return (str(folder),)


def check_blocks(text: str, folder: Path) -> None:
    found = blocks(text)
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(found), "a fence that is not closed, or not read"
    assert {block.language for block in found} <= LANGUAGES
    own = own_experiments(found, folder)
    programs = [["python", name] for name in re.findall(r"^# file: (\w+\.py)$", text, re.MULTILINE)]
    for block in found:
        match block.language:
            case "bash":
                for command in commands(block.text):
                    if command not in programs:  # which the page itself writes
                        check_command(command, own)
            case "json":
                assert [json.loads(line) for line in block.text.splitlines() if line.strip()]
            case "jinja":
                jinja2.Environment().parse(block.text)
            case "python":
                ast.parse(block.text)
            case "yaml":
                assert yaml.safe_load(block.text)
    for file in sorted((folder / "experiment").iterdir()):
        compose("train", (f"experiment={file.stem}", "data.train_files=[x.parquet]"), (str(PROJECT / "configs"), *own))


@pytest.mark.parametrize("page", [page for page in ALL_PAGES if "```" in text_of(page)], ids=name_of)
def test_the_blocks_of_a_page_are_read(page, tmp_path):
    check_blocks(text_of(page), tmp_path)


def test_bash_reads_every_bash_block():
    text = "\n".join(block.text for page in ALL_PAGES for block in blocks(text_of(page)) if block.language == "bash")
    result = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert result.stderr == ""


# --- the checks can fail


@pytest.mark.parametrize(
    "text",
    [
        "```bash\nmars data check a.parquet\n```",  # without --model
        "```bash\nmars runs ls a b c\n```",
        "```bash\nmars ckpt export runs/a out --stp 50\n```",
        "```bash\nmars resume runs/a run.num_stps=5\n```",
        "1. item\n   ```bash\n   mars data check a.parquet\n   ```",
        "```bash\nmars train anchor=stereo\n```",
        "```bash\npython -m mars.sft data.train_files=[a] sft.fries=[]\n```",
        "```bash\npython -m recipe.effect.run runs/study --plans\n```",
        "```bash\npython recipe/effect/nothing.py\n```",
        "```bash\nbash scripts/nothing.sh\n```",
        "```bash\nbash scripts/ray_up.sh head --gpus 8\n```",
        "```bash\nbash scripts/ray_submit.sh -- quickstart run.num_stps=5\n```",
        "```bash\nbash scripts/quickstart.sh anchor=stereo\n```",
        "```bash\nbash run.sh run.num_stps=5\n```",
        "```bash\nMARS=1 pip install -e '.[gpu]'\n```",
        "```bash\nmars doctor && marz doctor\n```",
        "```json\n{'a': 1}\n```",
        "```yaml\nrecipe: {shapings: [a.py:b]}\n```",
        "```python\nx = (\n```",
        "```pyhton\nx\n```",
        "```bash\nmars doctor\n",
    ],
)
def test_a_wrong_block_is_noticed(text, tmp_path):
    with pytest.raises(Exception):  # noqa: B017, PT011 of click, of mars, of Python or an assertion
        check_blocks(text, tmp_path)


def test_commands_are_split_at_operators_and_read_without_variables_comments_and_redirections():
    text = "A=1 mars a 'b c' && (cd x; ls) > y # z\n# only a comment\nmars d \\\n  e=[1,2] | tail\n"
    expected = [["mars", "a", "b c"], ["cd", "x"], ["ls"], ["mars", "d", "e=[1,2]"], ["tail"]]
    assert [*commands(text)] == expected
