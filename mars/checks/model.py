"""Check a model's folder before anything starts: its files, its weights' headers, and that loading and saving can work.

What needs transformers' model classes is in mars/checks/architecture.py, which takes seconds to import.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

from mars.checks.packages import check_kernels
from mars.checks.trained import check_trained
from mars.checks.weights import read_headers
from mars.config.schema import SftConfig, TrainConfig
from mars.data.prompts.tokenizer import SMALL_FILES, read_json, read_json_file, refuse_file, refuse_large_files
from mars.errors import ConfigError, SetupError
from mars.families.family import Family
from mars.families.table import check_language, family_of

_JSON_FILES = tuple(
    name for name in SMALL_FILES if name.endswith(".json") and name not in ("tokenizer.json", "vocab.json")
)
# Types of RoPE whose factor does not lengthen the context beyond max_position_embeddings. vLLM counts in the same way.
_ROPE_WITHIN_POSITIONS = (
    "default", "mrope", "su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling",
)  # fmt: skip
# Types of tensors that are not quantized.
_TYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "BOOL")
_MODEL_CLASSES = "transformers.modeling_utils"
_TIMEOUT_S = 300.0  # long enough to import from a slow disk


class ModelCheck:
    """A context that checks the policy, and the reference model of the KL term, while the `with` block does other work.

    Entering makes the quick checks. For the slow ones it starts a process for
    each model. `finish` waits for these processes. In two cases none is started, and `finish` makes the slow checks
    itself: with `in_process` (for jobs that import the model classes anyway), or if these are already imported.
    Entering and `finish` raise SetupError for a broken model, ConfigError for a setting that does not fit the model.
    """

    def __init__(self, config: TrainConfig | SftConfig, *, in_process: bool) -> None:
        self._config, self._in_process = config, in_process or _MODEL_CLASSES in sys.modules
        self._models = _models(config)
        self._children: list[_ArchitectureCheck] = []

    def __enter__(self) -> ModelCheck:
        for key, path in self._models.items():
            check_files(path, key)
        check_kernels(self._config, _family(self._config.model.path))
        if isinstance(self._config, TrainConfig):
            check_context(self._config)
            check_engine(self._config)
            check_trained(self._config.model, "actor", self._config.actor)
        else:
            check_trained(self._config.model, "sft", self._config.sft)
        if not self._in_process:
            trust = self._config.model.trust_remote_code
            for key, path in self._models.items():
                self._children.append(_ArchitectureCheck(path, key, trust))
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.close()

    def finish(self) -> None:
        for child in self._children:
            child.wait()
        if self._in_process:
            from mars.checks.architecture import check_architecture

            for key, path in self._models.items():
                check_architecture(path, key, self._config.model.trust_remote_code)


@contextmanager
def model_check(config: TrainConfig | SftConfig, *, in_process: bool) -> Iterator[None]:
    """A `ModelCheck` that calls `finish` at the end of the block, unless the block raises."""
    with ModelCheck(config, in_process=in_process) as check:
        yield
        check.finish()


def check_files(path: str, key: str) -> None:
    """The path must not be that of a file, the folder's configuration files must be JSON objects, and its weights
    complete safetensors. Raises SetupError.

    Nothing else is checked for a hub name, whose files transformers downloads when they are needed.
    """
    refuse_file(path, key)
    folder = Path(path)
    if not folder.is_dir():
        return
    refuse_large_files(path, key)
    for name in _JSON_FILES:
        if (folder / name).exists():
            read_json_file(folder / name, key)
    headers = read_headers(folder, key)
    if not (folder / "config.json").is_file():
        raise SetupError(f"{key}: the folder has no config.json; got {path}; give a complete Hugging Face folder")
    config = read_json_file(folder / "config.json", key)
    where = f"{key}: {folder / 'config.json'}"
    check_language(family_of(config.get("model_type"), where), config, where)
    _refuse_layers(config, len(headers), folder, key)
    types = {header.dtype: name for name, header in headers.items() if header.dtype not in _TYPES}
    if types:
        dtype, name = min(types.items())
        raise SetupError(
            f"{key}: {folder}: {name} is stored as {dtype}: quantized weights cannot be trained; "
            f"got types {', '.join(sorted(types))}; use the model that they were made from"
        )
    quantized = config.get("quantization_config")
    if quantized is not None:
        raise SetupError(
            f"{key}: {folder / 'config.json'}: quantization_config: quantized weights cannot be trained; "
            f"got {quantized!s:.80}; use the model that they were made from"
        )


def _refuse_layers(section: Mapping[str, Any], num_tensors: int, folder: Path, key: str) -> None:
    """Refuse a config.json with more layers than the weights have tensors, before the model is built.

    A number with a digit too many would fill the memory with layers.
    """
    for name, value in section.items():
        if isinstance(value, dict):
            _refuse_layers(value, num_tensors, folder, key)
        elif name in ("num_hidden_layers", "depth") and isinstance(value, int) and value > num_tensors:
            raise SetupError(
                f"{key}: {folder / 'config.json'}: {name} is {value}, but the weights have {num_tensors} tensors; "
                "use the configuration and the weights of one model"
            )


def check_context(config: TrainConfig) -> None:
    """Raises ConfigError if rollout.max_model_len exceeds max_positions, and SetupError if max_positions is below 1."""
    path, values = config.model.path, _config_of(config.model.path)
    wanted, longest = config.rollout.max_model_len, max_positions(values)
    if longest is not None and longest < 1:
        raise SetupError(
            f"model.path: {path}/config.json: max_position_embeddings must be at least 1; got {longest}; "
            "download the file again"
        )
    if longest is not None and wanted > longest:
        raise ConfigError(
            f"rollout.max_model_len: the model has {longest} positions (config.json: max_position_embeddings); "
            f"got {wanted}; set it to {longest} or less"
        )


def check_engine(config: TrainConfig) -> None:
    """Raises ConfigError if vLLM is to run on a CPU, and cannot run the model's family in float32 there."""
    family = _family(config.model.path)
    if config.rollout.engine == "vllm" and config.cluster.device == "cpu" and not family.vllm_on_cpu:
        raise ConfigError(
            f"rollout.engine: vLLM computes {family.name} on a CPU in bfloat16 alone, far from the trainer's "
            "log-probs; got vllm; use rollout=hf, or cluster.device=cuda"
        )


def _family(path: str) -> Family:
    return family_of(_config_of(path).get("model_type"), f"model.path: {path}/config.json")


def _config_of(path: str) -> Mapping[str, Any]:
    folder = Path(path)
    return read_json_file(folder / "config.json") if folder.is_dir() else read_json(path, "config.json")


def max_positions(config: Mapping[str, Any]) -> int | None:
    """The longest sequence that config.json allows; None if it does not say.

    That is max_position_embeddings, multiplied by the factor of a RoPE that is scaled linearly or dynamically. A factor
    that is not a finite number above 0 is ignored here: `check_architecture` reports it.
    """
    nested = config.get("text_config")
    text = {**config, **nested} if isinstance(nested, dict) else config
    positions = text.get("max_position_embeddings")
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    rope = rope if isinstance(rope, dict) else {}
    factor = rope.get("factor")
    if type(positions) is not int:
        return None
    scales = rope.get("rope_type", rope.get("type")) not in _ROPE_WITHIN_POSITIONS
    if scales and isinstance(factor, int | float) and not isinstance(factor, bool) and isfinite(factor) and factor > 0:
        return int(positions * factor)
    return positions


def _models(config: TrainConfig | SftConfig) -> dict[str, str]:
    """Setting -> path of the model that it names."""
    models = {"model.path": config.model.path}
    if isinstance(config, TrainConfig):
        algorithm = config.algorithm
        if algorithm.loads_reference and algorithm.kl_reference not in (None, config.model.path):
            models["algorithm.kl_reference"] = str(algorithm.kl_reference)
    return models


class _ArchitectureCheck:
    """Runs `check_architecture` in a separate process, which `close` kills if it still runs."""

    def __init__(self, path: str, key: str, trust_remote_code: bool) -> None:
        self._path, self._key = path, key
        arguments = [path, key, str(int(trust_remote_code))]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mars.checks.architecture", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
                "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
            },
        )

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None  # because of stdout=PIPE
        self._process.stdout.close()

    def wait(self) -> None:
        """Raises SetupError with the error that the process found, or if the process crashed or did not end in time."""
        try:
            output, _ = self._process.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise SetupError(
                f"{self._key}: the check of {self._path} did not end within {_TIMEOUT_S:g} s; "
                "the disk may be too slow, or a file in the folder is a pipe"
            ) from None
        lines = output.decode(errors="replace").splitlines()
        try:
            found = json.loads(lines[-1])["error"]
        except (IndexError, ValueError, KeyError, TypeError):
            tail = " | ".join(lines[-3:]) or "no output"
            code = self._process.returncode
            raise SetupError(f"{self._key}: the check of {self._path} ended with code {code}: {tail}") from None
        if found is not None:
            raise SetupError(found)
