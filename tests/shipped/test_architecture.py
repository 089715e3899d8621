"""The rules that keep the code readable: who imports whom, what starts light, how long things are, no dead setting."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

from mars.config.keys import leaves
from mars.config.schema import SftConfig, TrainConfig
from mars.config.section import Root, Section

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "mars").rglob("*.py"))

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
LONGER_FOR_A_REASON: dict[str, str] = {}

# Part of mars -> the other parts it may import, from the bottom up: a part imports only parts above it in this table.
BASE = {"types", "errors", "extra_facts", "train_types"}
READING = BASE | {"output", "data.pixels", "data.rows", "data.convert"}
MAY_IMPORT = {
    "errors": set(),
    "extra_facts": set(),
    "types": {"errors", "extra_facts"},
    "train_types": {"errors", "types"},
    "image_transform": BASE,
    "faults": set(),
    "families": BASE,
    "quarantine": BASE,
    "last_words": {"errors"},
    "interrupts": {"errors", "last_words"},
    "background": set(),
    "versions": set(),
    "offload": set(),
    "watchdog": {"errors", "interrupts"},
    "plugin": {"errors"},
    "users_code": {"errors"},
    "output": {"errors"},
    "process": BASE | {"interrupts", "output"},
    "changing_settings": {"errors"},
    "algorithms": BASE | {"changing_settings"},
    "batching": BASE,
    "data.pixels": BASE | {"image_transform", "output", "users_code"},
    "rewards": BASE | {"background", "data.pixels", "output", "plugin", "users_code", "watchdog"},
    "config": BASE | {"plugin", "rewards"},  # the table of built-in rewards says which names a setting takes
    "data.order": BASE,
    "hooks": BASE
    | {"algorithms", "changing_settings", "config", "data.order", "image_transform", "plugin", "rewards", "users_code"},
    "answers": BASE | {"output"},
    "data.rows": BASE | {"output", "data.pixels"},
    "data.convert": READING - {"data.convert"},
    "data.build": READING | {"rewards"},
    "data.prompts": READING | {"families"},
    "data.synthetic": BASE | {"output", "data.convert"},
    "weights": BASE | {"faults"},
    "tracking": BASE | {"answers", "output", "plugin", "watchdog"},
    "rollout": BASE | {"answers", "config", "families", "faults", "hooks", "offload", "output"},
    "actor": BASE
    | {"algorithms", "config", "families", "faults", "image_transform", "offload", "output", "users_code", "weights"},
    "turns": BASE | {"actor", "algorithms", "rollout", "tracking"},
    "run_dir": BASE
    | {"quarantine", "interrupts", "last_words", "output", "data.pixels", "tracking", "versions", "actor", "watchdog"},
    "cluster": BASE
    | {"actor", "algorithms", "answers", "config", "data.pixels", "faults", "interrupts", "output", "rewards"}
    | {"background", "rollout"}
    | {"run_dir", "turns", "versions"}
    | {"watchdog", "weights"},
    "evaluation": READING - {"data.pixels"} | {"quarantine", "algorithms", "answers", "rewards", "rollout"},
    "report": READING | {"algorithms", "answers", "config", "data.prompts", "tracking", "evaluation", "run_dir"},
    "live_report": BASE | {"config", "data.pixels", "interrupts", "report", "run_dir", "tracking"},
    "watch": BASE | {"answers", "config", "output", "report", "run_dir", "tracking"},
    "signals": BASE | {"actor", "hooks"},
    "step_parts": BASE
    | {"quarantine", "algorithms", "answers", "hooks", "rollout", "actor", "rewards", "signals", "turns"},
    "scored_rollouts": BASE | {"algorithms", "rollout", "signals", "step_parts", "tracking"},
    "sampling": BASE | {"quarantine", "algorithms", "rollout", "scored_rollouts", "step_parts", "tracking"},
    "staleness": BASE | {"step_parts"},
    "step": BASE | {"answers", "faults", "sampling", "step_parts", "rollout", "tracking"},
    "step_async": BASE
    | {
        "actor",
        "algorithms",
        "background",
        "faults",
        "interrupts",
        "sampling",
        "step_parts",
        "staleness",
        "step",
        "rollout",
    }
    | {"tracking"},
    "checkpoint": BASE
    | {"image_transform", "quarantine"}
    | {"actor", "config", "faults", "interrupts", "output", "process", "run_dir", "step_parts", "staleness"}
    | {"tracking"},
    "fit": BASE
    | {"actor", "checkpoint", "config", "faults", "hooks", "interrupts", "step_parts", "staleness", "step"}
    | {"tracking"},
    "train": BASE
    | {"actor", "checkpoint", "cluster", "config", "fit", "interrupts", "run_dir", "step_parts"}
    | {"tracking", "versions"},
    "job": BASE | {"checkpoint", "cluster", "config", "interrupts", "output", "report", "run_dir"},
    # What follows connects the parts.
    "inputs": READING | {"config", "data.order", "data.prompts", "families", "hooks", "rewards", "rollout"},
    "added_rows": READING | {"config", "data.order", "data.prompts", "hooks", "inputs"},
    "build": READING
    | {"algorithms", "actor", "batching", "cluster", "config", "data.prompts", "evaluation", "hooks", "inputs"}
    | {"quarantine", "rewards", "rollout", "step_parts", "tracking", "turns", "weights"},
    "checks": READING
    | {"actor", "added_rows", "algorithms", "answers", "build", "config", "data.prompts", "families", "fit", "hooks"}
    | {"inputs", "rewards", "run_dir", "tracking", "weights"},
    "by_hand": BASE
    | {"actor", "added_rows", "build", "checkpoint", "checks", "cluster", "config", "fit", "hooks", "inputs"}
    | {"quarantine", "step_parts"},
    "run": BASE
    | {"added_rows", "answers", "build", "checkpoint", "checks", "cluster", "interrupts", "tracking", "train"}
    | {"config", "evaluation", "fit", "hooks", "inputs", "job", "live_report", "output", "plugin", "report"}
    | {"data.order", "rewards", "rollout", "run_dir", "step_parts", "step", "step_async", "watchdog"},
    "supervised": BASE
    | {"plugin"}
    | {"actor", "batching", "build", "checkpoint", "checks", "cluster", "config", "data.order", "data.pixels"}
    | {"data.prompts", "data.rows", "faults", "fit", "inputs", "interrupts", "job", "live_report", "output", "report"}
    | {"run_dir"}
    | {"step_parts", "tracking", "train", "watchdog"},
    "job_command": BASE | {"checkpoint", "cluster", "config", "job", "run_dir"},
    "sft": BASE | {"cluster", "config", "interrupts", "job_command", "process", "supervised"},
    "main": BASE | {"checks", "cluster", "config", "interrupts", "job_command", "process", "run"},
    "chaos": BASE | {"output", "run_dir", "tracking"},
    "cli": READING
    | {"chaos", "checkpoint", "interrupts", "versions"}
    | {
        "checks",
        "cluster",
        "config",
        "data.build",
        "data.prompts",
        "data.synthetic",
        "evaluation",
        "main",
        "output",
        "process",
    }
    | {
        "actor",
        "live_report",
        "plugin",
        "report",
        "rewards",
        "run",
        "run_dir",
        "sft",
        "supervised",
        "tracking",
        "watch",
    },
}
HEAVY = ("torch", "ray", "vllm", "transformers", "scipy", "pyarrow", "datasets", "matplotlib", "wandb")


@cache
def trees():
    """Path from the root -> the parsed file, for every file of mars."""
    return {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


@cache
def imports(path):
    """(imported module, line) for every import in a file, those in functions too."""
    found = []
    for node in ast.walk(trees()[path]):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def part(module):
    """The part of mars that a module or a name in it belongs to: "mars.data.rows.columns" -> "data.rows"."""
    names = module.split(".")
    return ".".join(names[1:3]) if names[1] == "data" else names[1]


def importers(*packages):
    """Files that import one of the packages, as text."""
    return {
        str(path)
        for path in trees()
        for module, _ in imports(path)
        if any(module == name or module.startswith(name + ".") for name in packages)
    }


def test_imports_point_in_one_direction():
    wrong = []
    for path in trees():
        own = part(".".join(path.with_suffix("").parts)) if len(path.parts) > 2 else path.stem
        if path.name == "__init__.py":
            assert not imports(path), f"{path}: a package imports nothing"
            continue
        for module, line in imports(path):
            if module.startswith("mars.") and part(module) not in MAY_IMPORT[own] | {own}:
                wrong.append(f"{path}:{line} imports {module}")
    assert wrong == []


def test_the_table_of_imports_points_upwards_and_names_every_part():
    order = list(MAY_IMPORT)
    assert all(order.index(other) < order.index(own) for own, others in MAY_IMPORT.items() for other in others)
    packages = {part(".".join(path.parts[:-1]) + ".x") for path in trees() if len(path.parts) > 2} - {"data.x"}
    assert packages | {path.stem for path in trees() if len(path.parts) == 2} - {"__init__"} == set(order)


def test_the_product_knows_no_test_and_holds_no_fake():
    assert importers("tests", "pytest", "hypothesis", "unittest", "scripts") == set()
    fakes = ("Recording", "Fake", "Mock", "Stub", "Dummy")
    classes = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name.startswith(fakes)
    ]
    assert classes == []
    assert {path.stem for path in SOURCES} & {"recorder", "recording", "fakes", "fake", "mock"} == set()


def test_nothing_imports_in_a_circle():
    known = {".".join(path.with_suffix("").parts): path for path in trees()}
    graph = {
        name: {module for found, _ in imports(path) for module in (found, found.rpartition(".")[0]) if module in known}
        for name, path in known.items()
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_ray_is_behind_the_cluster_and_vllm_behind_its_engine():
    assert {path for path in importers("ray") if not path.startswith("mars/cluster/")} == set()
    allowed = ("mars/rollout/vllm_engine.py",)
    assert {path for path in importers("vllm") if not path.startswith(allowed)} == set()
    assert {path for path in importers("hydra", "omegaconf") if not path.startswith("mars/config/")} == set()


def test_settings_and_rewards_are_free_of_torch():
    found = importers("torch", "transformers")
    assert {path for path in found if path.startswith(("mars/config/", "mars/rewards/", "mars/types.py"))} == set()


def test_the_step_names_no_engine_cluster_or_configuration():
    for path in (
        Path("mars/step.py"),
        Path("mars/step_async.py"),
        Path("mars/sampling.py"),
        Path("mars/scored_rollouts.py"),
    ):
        names = {node.id for node in ast.walk(trees()[path]) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(trees()[path]) if isinstance(node, ast.Attribute)}
        modules = {module.split(".")[0] for module, _ in imports(path)} | {module for module, _ in imports(path)}
        banned = {"ray", "vllm", "hydra", "torch", "omegaconf", "config", "FSDP", "distributed"}
        assert (names | modules) & banned == set()


def test_the_trainer_knows_no_rewards_and_no_anchors():
    actor = [path for path in trees() if path.parts[:2] in (("mars", "actor"), ("mars", "batching"))]
    modules = {module for path in actor for module, _ in imports(path)}
    assert not [module for module in modules if "advantages" in module or "rewards" in module]


def test_what_starts_a_process_imports_nothing_heavy():
    """In one process, one module after the other: the first that brings something in is named."""
    modules = (
        "mars",
        "mars.types",
        "mars.config.load",
        "mars.cli.main",
        "mars.cli.app",
        "mars.main",
        "mars.sft",
        "mars.job_command",
    )
    code = f"""
import importlib, sys
for module in {modules}:
    importlib.import_module(module)
    print(module, [name for name in {HEAVY} if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.splitlines() == [f"{module} []" for module in modules]


def imported_at_the_top(path):
    """The names that a file imports when it is itself imported, without those of Python's standard library."""
    names = {name.name for node in trees()[path].body if isinstance(node, ast.Import) for name in node.names}
    parts = [node for node in trees()[path].body if isinstance(node, ast.ImportFrom)]
    names |= {f"{node.module}.{name.name}" for node in parts for name in node.names}
    return {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}


def test_what_starts_a_process_handles_signals_first():
    """A signal ends Python without a word until then, so nothing that takes time is imported before."""
    assert imported_at_the_top(Path("mars/job_command.py")) == set()
    for path in (Path("mars/cli/main.py"), Path("mars/main.py"), Path("mars/sft.py")):
        names = imported_at_the_top(path)
        assert {name for name in names if not name.startswith("mars.errors.")} == {"mars.interrupts"}, path
        (entry,) = [
            node for node in trees()[path].body if isinstance(node, ast.If) and "__main__" in ast.dump(node.test)
        ]
        functions = {node.name: node.body for node in trees()[path].body if isinstance(node, ast.FunctionDef)}
        body = functions["main"] if path.parent.name == "cli" else entry.body
        assert ast.unparse(body[0]) == "interrupts.end_at_once()", path


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
        names = section_names(trees()[path], sections, classes)
        for node in ast.walk(trees()[path]):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                base = getattr(node.value, "attr", getattr(node.value, "id", None))
                found |= {f"{section}.{node.attr}" for section in names.get(base, ())}
    return found & set(leaves(schema))


def test_every_setting_of_the_training_is_read():
    paths = [path for path in trees() if path.parts[1] not in ("config", "sft.py", "supervised")]
    read = keys_read(TrainConfig, paths)
    read |= {"ramps"} if any("config.ramps" in (ROOT / path).read_text(encoding="utf-8") for path in paths) else set()
    assert [key for key in leaves(TrainConfig) if key not in read] == []


COLD_START_FILES = (
    "sft.py", "job_command.py", "job.py", "inputs.py", "train.py",  # mars
    "supervised_trainer.py", "model.py", "optimizer.py", "trained_policy.py", "lora.py", "parts.py",  # mars/actor
    "build.py", "fit.py", "local.py", "placement.py", "ray_launch.py", "runtime.py", "worker_images.py",
)  # fmt: skip


def test_every_setting_of_the_cold_start_is_read():
    own = [path for path in trees() if path.parts[1] in ("supervised", "checkpoint") or path.name in COLD_START_FILES]
    read = keys_read(SftConfig, own)
    read |= {"model.box_space"}  # by the training only, with which the model's settings are shared
    assert [key for key in leaves(SftConfig) if key not in read] == []


def test_the_reader_of_settings_sees_what_is_read():
    tree = ast.parse(
        "def f(config, part: ActorConfig):\n"
        "    data, x = config.data, config.rollout\n"
        "    config.run.seed = 1\n"
        "    return data.shuffle + x.top_p + part.betas + config.model.path + other.dtype\n"
        "def g(rollout, run: RunConfig):\n"
        "    settings = rollout.vllm\n"
        "    self._model = model\n"
        "    return self._model.dtype + settings.block_size + config.rollout.vllm.enforce_eager + run.name\n"
    )
    path = Path("mars/example.py")
    trees()[path] = tree
    try:
        read = keys_read(TrainConfig, [path])
    finally:
        del trees()[path]
    assert read == {"data.shuffle", "rollout.top_p", "actor.betas", "model.path", "run.name"} | {
        "model.dtype",
        "rollout.vllm.block_size",
        "rollout.vllm.enforce_eager",
    }
