"""README and docs/ say what is there: links, settings, commands, paths, tests, examples."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer.main
from PIL import Image

from mars.cli.app import app
from mars.config.keys import leaves, sections_of
from mars.config.load import load_config
from mars.config.schema import SftConfig, TrainConfig
from mars.data.convert.eval_json import read_json_rows
from mars.data.rows.dataset import read_prompts

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "recipe", "examples")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
KEYS = {*leaves(TrainConfig), *leaves(SftConfig)}
SECTIONS = {section for key in KEYS for section in sections_of(key)}
FILE_ENDINGS = {"md", "py", "yaml", "json", "jsonl", "parquet", "sh", "log", "html"}
HOMES = ("mars", "docs", "tests", "scripts", "configs", "recipe", "examples")

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)  # indented: in an item of a list
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_SPAN = re.compile(r"`([^`]+)`")
ROOT_SECTIONS = "|".join(sorted(section for section in SECTIONS if "." not in section))
KEY = re.compile(rf"(?<![\w./-])((?:{ROOT_SECTIONS})(?:\.\w+)+)(?![\w/(])")
PATH = re.compile(rf"(?<![\w./<>$-])((?:{'|'.join(HOMES)})/[\w./-]*[\w/])(?:::(\w+))?")
MODULE = re.compile(r"python -m ((?:mars|recipe)[\w.]*)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


def code_of(page: Path) -> str:
    """What the page sets as code: blocks and spans."""
    text = text_of(page)
    blocks = [match[2] for match in FENCE.finditer(text)]
    return "\n".join([*blocks, *CODE_SPAN.findall(FENCE.sub("", text))])


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words of every line of a bash block and of every code span, without comments."""
    text = text_of(page)
    lines = [line for match in FENCE.finditer(text) if match[1] == "bash" for line in match[2].splitlines()]
    for line in [*lines, *CODE_SPAN.findall(FENCE.sub("", text))]:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a span that is no command, such as a lone quotation mark
            continue
        if words:
            yield words


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_lead_somewhere(page):
    dead = []
    for target in LINK.findall(FENCE.sub("", text_of(page))):
        if re.match(r"\w+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or not file.is_relative_to(ROOT) or (fragment and fragment not in anchors(file)):
            dead.append(target)
    assert dead == []


def settings_exist(page):
    named = {name for name in KEY.findall(MODULE.sub("", code_of(page))) if name.rpartition(".")[2] not in FILE_ENDINGS}
    of_users_files = {name for name in named if name.startswith("recipe.settings.")}
    assert named - KEYS - SECTIONS - of_users_files == set()


def is_metric(path: str, page: Path) -> bool:
    """Names of metrics look like paths. Those of a recipe (`recipe/<name>`) are in its code or in the page's blocks."""
    documented = set(re.findall(r"`(mars/\w+)", text_of(ROOT / "docs" / "metrics.md")))
    if "/".join(path.split("/")[:2]) in documented:
        return True
    code = [text_of(page), *(file.read_text(encoding="utf-8") for file in page.parent.glob("*.py"))]
    return path.startswith("recipe/") and any(f'"{path.removeprefix("recipe/")}": ' in text for text in code)


def paths_and_tests_exist(page):
    missing = []
    for path, test in PATH.findall(code_of(page)):
        if is_metric(path, page):
            continue
        if not (ROOT / path).exists() or (test and f"def {test}(" not in text_of(ROOT / path)):
            missing.append(f"{path}::{test}" if test else path)
    assert missing == []


def commands_exist(page):
    unknown = []
    for words in command_lines(page):
        if words[0].endswith("bin/mars"):
            words = ["mars", *words[1:]]
        message = any(word.endswith(":") for word in words)  # `mars data check: no file given`
        if words[0] != "mars" or len(words) == 1 or message:
            continue
        command, path = typer.main.get_command(app), words[1:]
        while path and hasattr(command, "commands") and not path[0].startswith("-"):
            name = path.pop(0)
            command = command.commands.get(name)
            if command is None and name.isupper():  # `mars data convert SET SRC OUT`: any of them
                break
            if command is None:
                unknown.append(" ".join(words))
                break
        options = {name for parameter in getattr(command, "params", []) for name in parameter.opts} | {"--help"}
        unknown += [
            word for word in path if command and word.startswith("--") and word.partition("=")[0] not in options
        ]
    assert unknown == []


def modules_that_are_run_exist(page):
    modules = set(MODULE.findall(code_of(page)))
    assert {module for module in modules if find_spec(module) is None} == set()


def settings_of_commands_are_accepted(page):
    """Every training or evaluation in a bash block is a valid configuration; the files it names need not exist."""
    blocks = [match[2] for match in FENCE.finditer(text_of(page)) if match[1] == "bash"]
    for line in "\n".join(blocks).splitlines():
        words = shlex.split(line, comments=True)
        if words[:3] != ["python", "-m", "mars.main"] and words[:3] != ["mars", "eval", "run"]:
            continue
        overrides = [word for word in words[3:] if re.match(r"[\w.]+=", word)]
        data = [] if any(word.startswith(("data.train_files=", "experiment=")) for word in overrides) else ["x.parquet"]
        folders = [str(ROOT / words[i + 1]) for i, word in enumerate(words) if word == "--config-dir"]
        load_config("train", [*(f"data.train_files=[{file}]" for file in data), *overrides], folders)


def settings_after_the_arguments_of_scripts_are_accepted(page):
    """A run script is found, has its four arguments, and composes the experiment it names with the page's settings."""
    for words in command_lines(page):
        if len(words) < 3 or words[0] != "bash" or not (ROOT / words[1]).is_file():
            continue
        text = text_of(ROOT / words[1])
        run = re.search(r'scripts/train\.sh" "\$0" "\$root/(\S+)" (\w+) "\$@"', text)
        if run is None:
            continue
        engine, data, reward, images, *settings = [word for word in words[2:] if not word.startswith("--")]
        assert engine in ("vllm", "hf")
        assert images == "any" or images.isdigit(), images
        assert not any("=" in word for word in (data, reward))
        given = [f"experiment={run[2]}", "data.train_files=[x.parquet]", *settings]
        load_config("train", given, [str(ROOT / run[1])])


CHECKS = (
    links_lead_somewhere,
    settings_exist,
    paths_and_tests_exist,
    commands_exist,
    modules_that_are_run_exist,
    settings_of_commands_are_accepted,
    settings_after_the_arguments_of_scripts_are_accepted,
)


@pages
def test_what_a_page_says_is_there(page):
    """Links, settings, paths, commands and modules."""
    for check in CHECKS:
        check(page)


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in text_of(page)], ids=name_of)
def test_examples_run(page, tmp_path, monkeypatch):
    """The python blocks of a page, one after the other in one folder; a block may be a file: "# file: name.py"."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    for match in FENCE.finditer(text_of(page)):
        if match[1] != "python":
            continue
        file = re.match(r"# file: (\w+\.py)\n", match[2])
        if file:
            Path(file[1]).write_text(match[2], encoding="utf-8")
            continue
        line = text_of(page)[: match.start()].count("\n") + 1
        exec(compile(ast.parse("\n" * line + match[2]), str(page), "exec"), names)  # noqa: S102 our own pages


def test_the_layout_names_every_part_of_mars():
    layout = text_of(ROOT / "docs" / "architecture.md")
    parts = [path for path in (ROOT / "mars").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    named = {f"mars/{path.name}" + ("/" if path.is_dir() else "") for path in parts} - {"mars/__init__.py"}
    assert {name for name in named if f"`{name}`" not in layout} == set()


QUESTIONS = (
    "change the anchors' statistics",
    "add a reward of your own",
    "add a built-in reward",
    "add a data set",
    "swap the engine",
    "weight a prompt's advantages",
    "see where the policy is saved",
    "see where a checkpoint is written",
    "see what a step costs",
)


def places() -> dict[str, tuple[str, str]]:
    """The table "Where to change what": question -> (file, the function, class or table it names there)."""
    section = text_of(ROOT / "docs" / "architecture.md").partition("## Where to change what\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| `([\w/.]+)` \| `(\w+)`: ", section, re.MULTILINE)
    assert len(rows) == section.count("\n| ") - 1, "a row does not name one file and one definition"  # - 1: the head
    return {question: (file, name) for question, file, name in rows}


def test_the_architecture_answers_a_newcomers_questions_first():
    headings = re.findall(r"^## (.+)$", text_of(ROOT / "docs" / "architecture.md"), re.MULTILINE)
    assert headings[0] == "Where to change what"
    assert "architecture.md#where-to-change-what" in text_of(ROOT / "README.md")
    assert set(places()) == set(QUESTIONS)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_file_for_a_change_defines_what_the_table_names(question):
    file, name = places()[question]
    statements = ast.parse(text_of(ROOT / file)).body
    defined = {node.name for node in statements if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assigned = [target for node in statements if isinstance(node, ast.Assign) for target in node.targets]
    assert name in defined | {ast.unparse(target) for target in assigned}


def test_what_the_table_says_about_those_files_is_in_the_code():
    """The lines that each answer depends on: without one of them, the row of the table is wrong."""
    needed = {
        "change the anchors' statistics": "settings.pooled_statistics",
        "add a data set": "-> PublicSet",
        "swap the engine": 'case "hf":',
        "weight a prompt's advantages": "def __call__(self, base: Advantages",
        "see where the policy is saved": "trainer.save(str((run_dir / POLICY_FOLDER)",
        "see where a checkpoint is written": "step_000012/",
        "see what a step costs": "timing_s/",
    }
    assert {q for q, line in needed.items() if line not in text_of(ROOT / places()[q][0])} == set()
    assert "from mars.data.convert.ocr_vqa import ocr_vqa_set" in text_of(ROOT / "mars" / "cli" / "data.py")


def test_every_reason_for_a_bad_row_is_documented():
    data = ROOT / "mars" / "data"
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for part in ("rows", "pixels", "prompts", "order")
        for path in (data / part).glob("*.py")
    )
    reasons = set(re.findall(r'(?:RowError\(|Problem\([\w.]+, )"(\w+)"', code))
    reasons |= {f"image_{reason}" for reason in re.findall(r'BadImage\(\s*"(\w+)"', code)}
    assert {"overlong", "image_bit_depth", "truth", "json", "duplicate_id"} <= reasons
    rows = re.findall(r"^\| (`.+?) \|", text_of(ROOT / "docs" / "bad_rows.md"), re.MULTILINE)
    documented = {name for row in rows for name in CODE_SPAN.findall(row)}
    assert reasons - documented == set()


def test_every_exit_code_is_documented():
    from mars import errors

    codes = {failure.exit_code for failure in vars(errors).values() if isinstance(failure, type)}
    documented = set(map(int, re.findall(r"^\| (\d+) \|", text_of(ROOT / "docs" / "reliability.md"), re.MULTILINE)))
    assert documented >= codes | {0, 130}


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_is_one_short_page(page):
    lines = text_of(page).splitlines()
    assert len(lines) < 50
    assert lines[0].startswith(f"# {page.name[:4]} ")
    assert lines[1] == "Words: [terms](../terms.md)."
    assert [line for line in lines if line.startswith("## ")] == ["## Context", "## Decision", "## Consequences"]
    assert f"decisions/{page.name}" in text_of(ROOT / "docs" / "architecture.md")


def test_decisions_are_numbered_without_gaps():
    numbers = [int(page.name[:4]) for page in DECISIONS]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


def test_the_licence_is_whole():
    text = text_of(ROOT / "LICENSE")
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


# --- what README lets a newcomer type


def test_the_settings_of_the_table_of_changes_are_accepted():
    """docs/architecture.md: which file to open for which change."""
    table = text_of(ROOT / "docs" / "architecture.md").partition("## Where to change what")[2].partition("\n## ")[0]
    settings = re.findall(r"`([a-z][\w.]*=\S+)`", table)
    assert len(settings) >= 4, "the test finds them"
    for setting in settings:
        load_config("train", ["data.train_files=[rows.jsonl]", setting], [])


def block_after(marker: str, page: str = "README.md") -> str:
    """A page's code block behind an HTML comment."""
    return FENCE.search(text_of(ROOT / page).partition(f"<!-- {marker} -->")[2])[2]


def test_the_program_for_tables_writes_rows_that_are_read(tmp_path, monkeypatch):
    """As spreadsheets save a table: a byte order mark, CR LF, a question with a comma, quotes and a line end."""
    monkeypatch.chdir(tmp_path)
    for name in ("1_rgb.png", "1_ir.png"):
        Image.new("RGB", (28, 28)).save(name)
    table = 'question,rgb,infrared,answer\r\n"Is it ""day"",\nor night?",1_rgb.png,1_ir.png,Tag für Tag\r\n'
    Path("train.csv").write_bytes(table.encode("utf-8-sig"))
    exec(compile(block_after("own-table", "docs/data.md"), "from_csv.py", "exec"), {})  # noqa: S102 our own page
    reading = read_prompts(["train.jsonl"], None, lambda prompt: None, read_json=read_json_rows)
    assert reading.problems == []
    (prompt,) = reading.usable
    assert prompt.messages[-1].text == '<image><image>\nIs it "day",\nor night?'
    assert [source.name for source in prompt.sources] == ["rgb", "infrared"]
    assert (prompt.truth, prompt.extra_info["id"]) == ("Tag für Tag", "1")


def test_the_reward_of_the_readme_scores(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_reward.py").write_text(block_after("own-reward"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    line = next(words for words in command_lines(ROOT / "README.md") if words[:3] == ["mars", "reward", "try"])
    app(line[1:], standalone_mode=False)
    assert re.search(r"accuracy\s+1\b", capsys.readouterr().out)


# --- the checks can fail


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (links_lead_somewhere, "[there](nowhere.md)"),
        (links_lead_somewhere, "[heading](../README.md#no-such-heading)"),
        (settings_exist, "set `rollout.samples_per_promt`"),
        (settings_exist, "```bash\npython -m mars.main data.shufle=true\n```"),
        (paths_and_tests_exist, "in `mars/data/reader.py`"),
        (paths_and_tests_exist, "logged as `recipe/no_such_metric`"),
        (paths_and_tests_exist, "see `tests/shipped/test_docs.py::test_that_is_not_there`"),
        (commands_exist, "run `mars data verify x.parquet`"),
        (commands_exist, "```bash\nmars eval run a b --output c\n```"),
        (modules_that_are_run_exist, "`python -m mars.nothing`"),
        (settings_of_commands_are_accepted, "```bash\npython -m mars.main anchor=stereo\n```"),
        (
            settings_of_commands_are_accepted,
            "```bash\npython -m mars.main --config-dir recipe/dapo experiment=mars_grpo_tiny\n```",
        ),
        (
            settings_after_the_arguments_of_scripts_are_accepted,
            "```bash\nbash recipe/dapo/run_dapo_qwen2.5_3b.sh vllm d grounding 2 experiment=dapo_large\n```",
        ),
        (
            settings_after_the_arguments_of_scripts_are_accepted,
            "```bash\nbash recipe/dapo/run_dapo_qwen2.5_3b.sh vllm d grounding anchor=none\n```",
        ),
    ],
)
def test_a_wrong_page_is_noticed(check, text, tmp_path, monkeypatch):
    page = ROOT / "docs" / "wrong.md"
    monkeypatch.setattr(Path, "read_text", wrong_page(page, text))
    with pytest.raises(Exception, match=r"assert|no such choice"):
        check(page)


def wrong_page(page: Path, text: str):
    original = Path.read_text
    return lambda self, *args, **kwargs: text if self == page else original(self, *args, **kwargs)
