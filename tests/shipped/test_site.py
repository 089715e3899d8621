"""mkdocs.yml and scripts/site_hook.py: which pages the site has, and where their links lead. Without mkdocs."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from scripts import site_hook

ROOT = Path(__file__).parents[2]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
REFERENCE = sorted((ROOT / "docs" / "reference").glob("*.md"))


def test_the_navigation_names_each_page_once():
    inside = [*(ROOT / "docs").rglob("*.md")]
    outside = [*ROOT.glob("*.md"), *ROOT.glob("recipe/*/README.md"), *ROOT.glob("examples/*/README.md")]
    outside += ROOT.glob("examples/*/*.ipynb")
    pages = [site_hook.site_uri(page.relative_to(ROOT).as_posix()) for page in [*inside, *outside]]
    assert {"index.md", "decisions/0001-explicit-identity.md", "repository/recipe/mars/README.md"} <= set(pages)
    assert sorted(site_hook.pages_of(site_hook.expanded(SITE["nav"]))) == sorted(pages)


def test_a_pattern_is_replaced_by_its_pages_in_order():
    nav = [{"Use": ["data.md", {"All": ["reference/*.md"]}]}, "nothing/*.md"]
    names = [f"reference/{page.name}" for page in REFERENCE]
    assert len(names) > 3
    assert site_hook.expanded(nav) == [{"Use": ["data.md", {"All": names}]}]


def test_the_site_needs_no_network():
    assert SITE["theme"]["font"] is False
    assert re.findall(r"\w+://\S+", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("docs/step.md", "[a](data.md#rows)", "[a](data.md#rows)"),
        ("docs/step.md", "[a](#rows) [b](mailto:x@y.z)", "[a](#rows) [b](mailto:x@y.z)"),
        ("docs/step.md", "[a](../README.md#evaluate)", "[a](repository/README.md#evaluate)"),
        ("docs/step.md", "[`a`](../mars/step.py)", "[`a`](repository/mars/step.py.md)"),
        ("docs/decisions/0001-explicit-identity.md", "[a](../terms.md)", "[a](../terms.md)"),
        ("docs/decisions/0001-explicit-identity.md", "[a](../../mars/step.py)", "[a](../repository/mars/step.py.md)"),
        ("README.md", "![two\nlines](docs/quickstart.png)", "![two\nlines](../quickstart.png)"),
        ("README.md", "[a](docs/decisions)", "[a](docs/decisions.md)"),
        ("README.md", "[a](recipe/mars)", "[a](recipe/mars/README.md)"),
        ("recipe/mars/README.md", "[a](../../docs/data.md)", "[a](../../../data.md)"),
        ("recipe/mars/README.md", "[a](../dapo/README.md)", "[a](../dapo/README.md)"),
        ("docs/step.md", "[a](nowhere.md)", "[a](nowhere.md)"),
        ("docs/step.md", "`[a](x)` `` ` `` [b](../LICENSE)", "`[a](x)` `` ` `` [b](repository/LICENSE.md)"),
        ("docs/step.md", "```python\nx[0](../README.md)\n```", "```python\nx[0](../README.md)\n```"),
    ],
)  # fmt: skip
def test_links_lead_to_pages_of_the_site(page, text, expected):
    assert site_hook.with_site_links(text, page) == expected


@pytest.mark.parametrize(
    "path", ["docs/step.md", "README.md", "mars/build.py", "LICENSE", "docs/decisions", "configs/data"]
)
def test_the_page_of_a_file_is_found_again(path):
    assert site_hook.repository_path(site_hook.site_uri(path)) == path


def test_files_that_pages_link_to_have_a_page_and_their_links_too():
    found = site_hook.outside_files(["repository/README.md"])
    assert {"README.md", "mars/build.py", "configs/data", "recipe/effect/README.md"} <= found
    assert {path for path in found if not (ROOT / path).exists()} == set()
    assert {path for path in found if path.startswith("docs/") and path.endswith(".md")} == set()


def test_code_is_shown_as_code_and_a_folder_as_a_list():
    code = site_hook.content("mars/errors.py")
    assert "search:\n  exclude: true" in code
    assert f"`````python\n{(ROOT / 'mars' / 'errors.py').read_text(encoding='utf-8')}`````\n" in code
    assert "- `0001-explicit-identity.md`\n" in site_hook.content("docs/decisions")
    assert site_hook.content("README.md").startswith("# mars")


def test_a_notebook_is_shown_as_text_and_code_and_its_links_are_followed():
    page = "examples/notebooks/quickstart.ipynb"
    shown = site_hook.content(page)
    assert shown.startswith("# mars in a notebook\n\nmars trains")
    assert "```python\nopened.close()" in shown
    assert "](../../../extend.md)" in site_hook.with_site_links(shown, page)
    assert "recipe/effect/reward.py" in site_hook.outside_files([site_hook.site_uri(page)])


def test_headings_have_the_names_that_links_use():
    assert site_hook.slug("What it can - and cannot, do `now`", "-") == "what-it-can---and-cannot-do-now"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("text\n- a\n- b\n\nend", "text\n\n- a\n- b\n\nend"),
        ("- a\n  - b\n    on", "- a\n    - b\n      on"),
        ("1. a\n   ```bash\n   x\n   ```\n2. b", "1. a\n    ```bash\n    x\n    ```\n2. b"),
        ("- a\n  goes on\n\ntext\n- b", "- a\n    goes on\n\ntext\n\n- b"),
        ("```\nx\n- a\n  - b\n```\n", "```\nx\n- a\n  - b\n```"),
        ("# head\n- a", "# head\n- a"),
    ],
)
def test_lists_are_indented_by_four(text, expected):
    assert site_hook.with_lists(text) == expected


def test_pipes_in_code_of_tables_are_no_columns():
    row = r"| `a \| <b>` | x \| y | `c` |"
    assert site_hook.with_pipes(row) == r"| <code>a &#124; &lt;b&gt;</code> | x \| y | `c` |"
    assert site_hook.with_pipes(r"text `a \| b`") == r"text `a \| b`"


@pytest.mark.parametrize("page", REFERENCE, ids=lambda page: page.stem)
def test_the_modules_of_the_reference_exist(page):
    modules = re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert modules
    assert [module for module in modules if find_spec(module) is None] == []


def test_the_reference_has_every_algorithm():
    modules = {f"mars.algorithms.{file.stem}" for file in (ROOT / "mars" / "algorithms").glob("[a-z]*.py")}
    page = (ROOT / "docs" / "reference" / "algorithms.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^::: (\S+)$", page, re.MULTILINE)) == modules


def test_text_of_docstrings_is_no_html():
    pytest.importorskip("griffe", reason="the site's packages (pip install -e '.[docs]') are not installed")
    from scripts.site_docstrings import escaped

    assert escaped("Say <think> and `<b>`:\n    a < b\nend") == "Say &lt;think> and `<b>`:\n\n    a < b\nend"
