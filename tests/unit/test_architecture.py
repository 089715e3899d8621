"""The rules that keep the code readable: who imports whom, what starts light, how long things are, no dead setting."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from mars.config.keys import leaves
from mars.config.schema import Root, Section, SftConfig, TrainConfig

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "mars").rglob("*.py"))
TREES = {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
LONGER_FOR_A_REASON: dict[str, str] = {}

# Package -> the other parts of mars it may import. What is not here is wiring: it may import anything, without cycles.
BASE = {"types", "errors"}
MAY_IMPORT = {
    "errors": set(),
    "types": {"errors"},
    "algorithms": BASE,
    "output": {"errors"},
    "answers": BASE | {"output"},
    "data": BASE | {"output"},
    "batching": BASE,
    "rollout": BASE | {"answers", "config"},
    "actor": BASE | {"algorithms", "config"},
    "plugin": {"errors"},
    "rewards": BASE | {"plugin"},
    "tracking": BASE | {"answers", "output"},
    "report": BASE | {"answers", "output", "tracking", "evaluation", "data"},
    "config": BASE | {"rewards"},  # the table of built-in rewards says which names a setting takes
    "process": BASE,
    "cluster": BASE | {"config", "rollout", "actor", "rewards"},
    "sampling": BASE | {"algorithms", "answers", "rollout", "actor", "rewards", "tracking"},
    "step": BASE | {"sampling", "rollout", "tracking"},
}
HEAVY = ("torch", "ray", "vllm", "transformers", "scipy", "pyarrow", "datasets", "matplotlib", "wandb")


def imports(path):
    """(imported module, line) for every import in a file, those in functions too."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def part(module):
    """The part of mars a module belongs to: "mars.data.rows.columns" -> "data"."""
    return module.split(".")[1]


def importers(*packages):
    """Files that import one of the packages, as text."""
    return {
        str(path)
        for path in TREES
        for module, _ in imports(path)
        if any(module == name or module.startswith(name + ".") for name in packages)
    }


def test_imports_point_in_one_direction():
    wrong = []
    for path in TREES:
        own = path.parts[1].removesuffix(".py")
        for module, line in imports(path):
            if module.startswith("mars.") and own in MAY_IMPORT and part(module) not in MAY_IMPORT[own] | {own}:
                wrong.append(f"{path}:{line} imports {module}")
    assert wrong == []


def test_nothing_imports_in_a_circle():
    known = {".".join(path.with_suffix("").parts): path for path in TREES}
    graph = {
        name: {module for found, _ in imports(path) for module in (found, found.rpartition(".")[0]) if module in known}
        for name, path in known.items()
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_ray_is_behind_the_cluster_and_vllm_behind_its_engine():
    assert {path for path in importers("ray") if not path.startswith("mars/cluster/")} == set()
    allowed = ("mars/rollout/vllm_engine.py", "mars/weights/")
    assert {path for path in importers("vllm") if not path.startswith(allowed)} == set()
    assert {path for path in importers("hydra", "omegaconf") if not path.startswith("mars/config/")} == set()


def test_settings_and_rewards_are_free_of_torch():
    found = importers("torch", "transformers")
    assert {path for path in found if path.startswith(("mars/config/", "mars/rewards/", "mars/types.py"))} == set()


def test_the_step_names_no_engine_cluster_or_configuration():
    for path in (Path("mars/step.py"), Path("mars/sampling.py")):
        names = {node.id for node in ast.walk(TREES[path]) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(TREES[path]) if isinstance(node, ast.Attribute)}
        modules = {module.split(".")[0] for module, _ in imports(path)} | {module for module, _ in imports(path)}
        banned = {"ray", "vllm", "hydra", "torch", "omegaconf", "config", "FSDP", "distributed"}
        assert (names | modules) & banned == set()


def test_the_trainer_knows_no_rewards_and_no_anchors():
    actor = [path for path in TREES if path.parts[:2] in (("mars", "actor"), ("mars", "batching"))]
    modules = {module for path in actor for module, _ in imports(path)}
    assert not [module for module in modules if "advantages" in module or "rewards" in module]


@pytest.mark.parametrize("module", ["mars", "mars.types", "mars.cli.main", "mars.main", "mars.sft", "mars.config.load"])
def test_what_starts_a_process_imports_nothing_heavy(module):
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"


def test_files_and_functions_are_short():
    long = []
    for path in sorted([*SOURCES, *(ROOT / "recipe").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]):
        name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        if text.count("\n") > MAX_FILE_LINES and name not in LONGER_FOR_A_REASON:
            long.append(f"{name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > MAX_FUNCTION_LINES and f"{name}:{node.name}" not in LONGER_FOR_A_REASON:
                    long.append(f"{name}:{node.lineno} {node.name}: {lines} lines")
    assert long == []


def test_no_file_is_a_drawer_for_everything():
    names = {path.stem for path in SOURCES} | {path.name for path in (ROOT / "mars").iterdir()}
    assert names & {"utils", "util", "helpers", "helper", "common", "misc"} == set()


# --- every setting is read


def section_classes(schema: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section]]]:
    """(dotted name, class) of every section of the schema, nested ones too."""
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield prefix + name, field.annotation
            yield from section_classes(field.annotation, f"{prefix}{name}.")


def section_names(tree, sections, classes):
    """Name -> the sections it may stand for in a file.

    `data` and `vllm` anywhere; a parameter or field `x: DataConfig`, whose class may be the base of several sections;
    x after `x = config.rollout.vllm` or `self._x = y` where y is such a name.
    """
    names = defaultdict(set)
    for section in sections:
        names[section.rpartition(".")[2]].add(section)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and isinstance(node.annotation, ast.Name):
            name = node.arg if isinstance(node, ast.arg) else getattr(node.target, "id", None)
            names[name] |= classes[node.annotation.id]
    for node in ast.walk(tree):
        for target in node.targets if isinstance(node, ast.Assign) else ():
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for name, value in pairs:
                if isinstance(value, ast.Attribute | ast.Name):
                    read = getattr(value, "attr", getattr(value, "id", None))
                    names[getattr(name, "id", getattr(name, "attr", None))] |= names.get(read, set())
    return names


def keys_read(schema: type[Root], paths) -> set[str]:
    """The dotted keys of the schema that the files read, as `<...>.section.key` or through a name for the section."""
    sections, classes = set(), defaultdict(set)
    for section, section_class in section_classes(schema):
        sections.add(section)
        for base in section_class.__mro__:
            if issubclass(base, Section) and base is not Section:
                classes[base.__name__].add(section)
    found = set()
    for path in paths:
        names = section_names(TREES[path], sections, classes)
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                base = getattr(node.value, "attr", getattr(node.value, "id", None))
                found |= {f"{section}.{node.attr}" for section in names.get(base, ())}
    return found & set(leaves(schema))


def test_every_setting_of_the_training_is_read():
    paths = [path for path in TREES if path.parts[1] not in ("config", "sft.py")]
    read = keys_read(TrainConfig, paths)
    assert [key for key in leaves(TrainConfig) if key not in read] == []


def test_every_setting_of_the_cold_start_is_read():
    actor = [Path("mars/actor/model.py"), Path("mars/actor/optimizer.py")]
    read = keys_read(SftConfig, [Path("mars/sft.py"), Path("mars/inputs.py"), *actor])
    read |= {"run.name"}  # by run.dir, in configs/sft.yaml
    read |= {"model.box_space"}  # by the training only, with which the model's settings are shared
    assert [key for key in leaves(SftConfig) if key not in read] == []


def test_the_reader_of_settings_sees_what_is_read():
    tree = ast.parse(
        "def f(config, part: ActorConfig):\n"
        "    data, x = config.data, config.rollout\n"
        "    config.run.seed = 1\n"
        "    return data.shuffle + x.top_p + part.beta1 + config.model.path + other.dtype\n"
        "def g(rollout, run: RunConfig):\n"
        "    settings = rollout.vllm\n"
        "    self._model = model\n"
        "    return self._model.dtype + settings.block_size + config.rollout.vllm.enforce_eager + run.name\n"
    )
    path = Path("mars/example.py")
    TREES[path] = tree
    try:
        read = keys_read(TrainConfig, [path])
    finally:
        del TREES[path]
    assert read == {"data.shuffle", "rollout.top_p", "actor.beta1", "model.path", "run.name"} | {
        "model.dtype",
        "rollout.vllm.block_size",
        "rollout.vllm.enforce_eager",
    }
