"""Write the table of interfaces in docs/architecture.md from the code: methods, signatures and implementations.

python scripts/document_interfaces.py           writes it
python scripts/document_interfaces.py --check   ends with 1 if it is stale

A class implements an interface if it defines or inherits all its methods with the same parameters. A function
implements `RewardFn` if it takes a RewardInput and returns a RewardResult.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "architecture.md"
INTERFACES = {
    "RolloutEngine": "mars/rollout/engine.py",
    "PolicyTrainer": "mars/actor/trainer.py",
    "WeightTransfer": "mars/weights/transfer.py",
    "RewardFn": "mars/rewards/contract.py",
    "RewardScorer": "mars/rewards/contract.py",
    "Tracker": "mars/tracking/tracker.py",
    "PromptRounds": "mars/step_parts.py",
}
SOURCES, FAKES = "mars", "tests/fakes"
FIRST, LAST = "<!-- interfaces: python scripts/document_interfaces.py -->", "<!-- end of interfaces -->"


@dataclass(frozen=True)
class Class:
    """methods: name -> its definition, without inherited methods. bases: their names."""

    path: str
    bases: tuple[str, ...]
    methods: Mapping[str, ast.FunctionDef]


def table(root: Path = ROOT) -> str:
    """The rows of the table, one for each interface."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in _files(root)}
    classes = {
        node.name: _class(node, path.relative_to(root).as_posix())
        for path, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    lines = ["| interface | methods | implementations |", "|---|---|---|"]
    for name, path in INTERFACES.items():
        methods = classes[name].methods
        if set(methods) == {"__call__"}:
            found = _functions(trees, methods["__call__"], root)
        else:
            found = [
                f"`{other}` (a test's)" if entry.path.startswith(FAKES) else f"`{other}`"
                for other, entry in sorted(classes.items(), key=lambda item: (item[1].path.startswith(FAKES), item[0]))
                if "Protocol" not in entry.bases and _implements(entry, methods, classes)
            ]
        shown = "<br>".join(f"`{_signature(method)}`" for method in methods.values())
        lines.append(f"| `{name}`, `{path}` | {shown} | {', '.join(found)} |")
    return "\n".join(lines)


def document(text: str, root: Path = ROOT) -> str:
    """`text` with the table between the two marks."""
    before, first, rest = text.partition(FIRST)
    _, last, after = rest.partition(LAST)
    if not first or not last:
        raise ValueError(f"{DOCUMENT}: the marks of the table are missing: {FIRST} and {LAST}")
    return f"{before}{FIRST}\n{table(root)}\n{LAST}{after}"


def _files(root: Path) -> Iterable[Path]:
    return sorted([*(root / SOURCES).rglob("*.py"), *(root / FAKES).rglob("*.py")])


def _class(node: ast.ClassDef, path: str) -> Class:
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    return Class(path, tuple(map(ast.unparse, node.bases)), methods)


def _implements(entry: Class, wanted: Mapping[str, ast.FunctionDef], classes: Mapping[str, Class]) -> bool:
    own = _all_methods(entry, classes)
    return all(name in own and _parameters(own[name]) == _parameters(method) for name, method in wanted.items())


def _all_methods(entry: Class, classes: Mapping[str, Class]) -> dict[str, ast.FunctionDef]:
    inherited: dict[str, ast.FunctionDef] = {}
    for base in entry.bases:
        if base in classes:
            inherited |= _all_methods(classes[base], classes)
    return {**inherited, **entry.methods}


def _parameters(method: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in method.args.args]


def _functions(trees: Mapping[Path, ast.Module], wanted: ast.FunctionDef, root: Path) -> list[str]:
    """Public functions with the types of `wanted`. Their names include the module, because several are `score`."""
    types = [argument.annotation for argument in wanted.args.args[1:]]
    signature = [ast.unparse(node) for node in (*types, wanted.returns) if node is not None]
    return [
        f"`{path.relative_to(root).with_suffix('').as_posix().replace('/', '.')}.{node.name}`"
        for path, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.returns is not None
        if [ast.unparse(part) for part in (*(a.annotation for a in node.args.args), node.returns) if part] == signature
    ] + ["users' functions"]


def _signature(method: ast.FunctionDef) -> str:
    """`name(parameter: type) -> type`, without self. A union's bar is escaped, because it would end the cell."""
    arguments = ast.arguments(
        posonlyargs=[], args=method.args.args[1:], kwonlyargs=[], kw_defaults=[], defaults=[]
    )  # fmt: skip
    returns = "" if method.returns is None else f" -> {ast.unparse(method.returns)}"
    name = "" if method.name == "__call__" else method.name
    return f"{name}({ast.unparse(arguments)}){returns}".replace("|", "\\|")


def main(arguments: Sequence[str]) -> int:
    text = DOCUMENT.read_text(encoding="utf-8")
    if list(arguments) == ["--check"]:
        stale = document(text) != text
        if stale:
            sys.stderr.write(f"{DOCUMENT} is stale; run python scripts/document_interfaces.py\n")
        return int(stale)
    if arguments:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    DOCUMENT.write_text(document(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
