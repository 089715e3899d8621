"""What `mkdocs build` (mkdocs.yml) does with the pages besides rendering them.

The pages are written to be read in the repository: they link to code and to pages outside docs/. The site gets a page
for each of these files too, below repository/. So the whole site can be read from disk, without the repository. mkdocs
calls the functions on_*. The others do not need mkdocs.
"""

from __future__ import annotations

import html
import json
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS, OUTSIDE = "docs", "repository"
LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml"}
PAGES = (".md", ".ipynb")  # a notebook is also a page, of its texts and of its code cells as blocks
_BLOCK, _SPAN = r"^ *```.*?^ *```$", r"(?P<ticks>`+)(?:(?!\n\n).)+?(?<!`)(?P=ticks)(?!`)"
_CODE_OR_LINK = re.compile(rf"{_BLOCK}|{_SPAN}|(?<=\]\()(?P<target>[^)\s]+)(?=\))", re.DOTALL | re.MULTILINE)
_PIPED = re.compile(r"`([^`]*\\\|[^`]*)`")
_ITEM = re.compile(r"([-*]|\d+\.) ")


def on_config(config: Any) -> Any:
    """Replace each pattern in the navigation by the pages that it matches, and give each heading the fragment that
    the links to it use (`slug`)."""
    config.nav = expanded(config.nav)
    config.mdx_configs["toc"]["slugify"] = slug
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each file outside docs/ that the navigation names or that a page links to."""
    from mkdocs.structure.files import File, InclusionLevel

    named = set(pages_of(config.nav))
    for path in sorted(outside_files(named)):
        uri = site_uri(path)
        level = InclusionLevel.INCLUDED if uri in named else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, uri, content=content(path), inclusion=level))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let the links of a page lead to pages of the site, and let its lists and tables look as in the repository."""
    return with_pipes(with_lists(with_site_links(markdown, repository_path(page.file.src_uri))))


def slug(heading: str, separator: str) -> str:
    """The fragment of a heading as the repository's viewer makes it: "LoRA: what, why" -> "lora-what-why"."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", separator)


def expanded(nav: Any) -> Any:
    """`nav` of mkdocs.yml with patterns replaced by pages: [a.md, reference/*.md] -> [a.md, reference/b.md]."""
    if isinstance(nav, dict):
        return {title: expanded(entry) for title, entry in nav.items()}
    if isinstance(nav, list):
        return [page for entry in nav for page in (_matches(entry) if _is_pattern(entry) else [expanded(entry)])]
    return nav


def _is_pattern(entry: Any) -> bool:
    return isinstance(entry, str) and "*" in entry


def _matches(pattern: str) -> list[str]:
    found = sorted(ROOT.glob(repository_path(pattern)))
    return [site_uri(path.relative_to(ROOT).as_posix()) for path in found]


def pages_of(nav: Any) -> Iterator[str]:
    """The pages that a navigation without patterns (`expanded`) names, in its order."""
    if isinstance(nav, str):
        yield nav
    for entry in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from pages_of(entry)


def repository_path(uri: str) -> str:
    """The file of the repository that a page of the site shows: method.md -> docs/method.md."""
    inside = uri.removeprefix(f"{OUTSIDE}/")
    return f"{DOCS}/{uri}" if inside == uri else inside.removesuffix(".md") if _is_code(inside) else inside


def _is_code(inside: str) -> bool:
    """Whether the name of a page is the name of a file or folder with ".md" after it, such as build.py.md."""
    return not (ROOT / inside).is_file() and (ROOT / inside.removesuffix(".md")).exists()


def site_uri(path: str) -> str:
    """The site's file for a file or folder of the repository.

    docs/method.md -> method.md. README.md -> repository/README.md. mars/build.py -> repository/mars/build.py.md.
    A folder's page is its README.md if it has one, else a list of its files.
    """
    if (ROOT / path).is_dir():
        readme = f"{path}/README.md"
        return site_uri(readme) if (ROOT / readme).is_file() else f"{OUTSIDE}/{path}.md"
    if path.startswith(f"{DOCS}/"):
        return path.removeprefix(f"{DOCS}/")
    return f"{OUTSIDE}/{path}" if path.endswith(".md") else f"{OUTSIDE}/{path}.md"


def links_of(markdown: str, path: str) -> Iterator[tuple[str, str]]:
    """(target as written, path in the repository) of each link of the page `path` to a file or folder."""
    for match in _CODE_OR_LINK.finditer(markdown):
        file = _file_of(match["target"], path)
        if file is not None:
            yield match["target"], file


def _file_of(target: str | None, path: str) -> str | None:
    """The file of the repository to which a link of the page `path` leads.

    None if `target` is an address, a heading of the page itself, or None.
    """
    name = (target or "").partition("#")[0]
    if not name or re.match(r"\w+:", name):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), name))


def with_site_links(markdown: str, path: str) -> str:
    """The page `path` of the repository, with links that lead to files of the site."""
    here = posixpath.dirname(site_uri(path))

    def link(match: re.Match[str]) -> str:
        file = _file_of(match["target"], path)
        if file is None or not (ROOT / file).exists():  # mkdocs warns of links that lead nowhere
            return match[0]
        return posixpath.relpath(site_uri(file), here or ".") + "".join(match["target"].partition("#")[1:])

    return _CODE_OR_LINK.sub(link, markdown)


def outside_files(named: Iterable[str]) -> set[str]:
    """The files and folders outside docs/ that the site shows: those that the navigation or pages link to."""
    docs = [file.relative_to(ROOT).as_posix() for file in (ROOT / DOCS).rglob("*.md")]
    todo, seen = [*docs, *(repository_path(uri) for uri in named)], set[str]()
    while todo:
        path = todo.pop()
        if path in seen or not (ROOT / path).exists():
            continue
        seen.add(path)
        shown = repository_path(site_uri(path))  # a folder shows its README.md, if it has one
        if shown.endswith(PAGES):
            todo += [shown, *(file for _, file in links_of(markdown_of(shown), shown))]
    return {repository_path(site_uri(path)) for path in seen if site_uri(path).startswith(f"{OUTSIDE}/")}


def content(path: str) -> str:
    """The Markdown of a page outside docs/: the page's own, or a folder's list of files, or a file's text as code.

    The search leaves out code and lists.
    """
    file = ROOT / path
    if path.endswith(PAGES):
        return markdown_of(path)
    head = f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n"
    if file.is_dir():
        names = [entry.name for entry in sorted(file.iterdir()) if not entry.name.startswith((".", "__pycache__"))]
        return head + "".join(f"- `{name}`\n" for name in names)
    return f"{head}`````{LANGUAGES.get(file.suffix, 'text')}\n{file.read_text(encoding='utf-8')}`````\n"


def markdown_of(path: str) -> str:
    """The Markdown of a page or of a notebook."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(source if kind == "markdown" else f"```python\n{source}\n```" for kind, source in cells) + "\n"


def with_lists(markdown: str) -> str:
    """The page with its lists as Python-Markdown needs them: after an empty line, and with the contents of items
    indented by four columns.

    Example: "text\\n- a\\n  - b" -> "text\\n\\n- a\\n    - b".
    """
    lines: list[str] = []
    fenced, columns = False, 0  # columns: where the text of the current item begins, 0 outside items
    for line in markdown.splitlines():
        item = None if fenced else _ITEM.match(line)
        if item:
            starts = columns == 0 and lines and lines[-1] and not lines[-1].startswith("#")
            lines += [""] if starts else []
            columns = len(item[0])
        elif line and not line.startswith(" " * max(columns, 1)) and not fenced:
            columns = 0 if not lines or not lines[-1] or line.startswith(("#", "`", "|")) else columns
        if line.lstrip().startswith("```"):
            fenced = not fenced
        inside = columns and not item and line.startswith(" " * columns)
        lines.append(" " * max(4 - columns, 0) + line if inside else line)
    return "\n".join(lines)


def with_pipes(markdown: str) -> str:
    """The page; where code in a table has an escaped "|", this code is written as HTML, because Python-Markdown would
    show the backslash."""

    def code(match: re.Match[str]) -> str:
        text = match[1].replace("\\|", "|")
        return f"<code>{html.escape(text).replace('|', '&#124;')}</code>"

    lines = markdown.split("\n")
    return "\n".join(_PIPED.sub(code, line) if line.startswith("|") else line for line in lines)
