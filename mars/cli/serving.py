"""The command that serves a policy with the image limits of its run.

It has to name them, because the files in the policy's folder have the limits of `model.path`, not those of the run.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mars.config.schema import SftConfig, TrainConfig
from mars.data.prompts.budget import ImageBudget


def image_settings(config: TrainConfig | SftConfig) -> dict[str, Any]:
    """The arguments of the image processor with which the run's engine applied the image limits."""
    limits = config.data.min_image_pixels, config.data.max_image_pixels
    return ImageBudget.from_pretrained(config.model.path, *limits).processor_settings()


def serve_command(folder: Path, config: TrainConfig | SftConfig, processor_settings: Mapping[str, Any]) -> str:
    """A line of bash that starts vLLM's server on port 8000 of this machine, with the settings of the run's engine.

    folder: of the policy. processor_settings: from `image_settings`.
    For a run on GPUs the line is `vllm serve`, and the server takes vLLM's usual share of the memory. For a run on
    CPUs it calls the module behind that command, because vLLM's CPU build does not find its own version for `vllm
    serve`.
    """
    on_cpu = config.cluster.device == "cpu"
    words = ["python", "-m", "vllm.entrypoints.openai.api_server", "--model"] if on_cpu else ["vllm", "serve"]
    words += [str(folder), "--served-model-name", "policy", "--host", "127.0.0.1", "--dtype", config.model.dtype]
    words += ["--mm-processor-kwargs", json.dumps(processor_settings), "--limit-mm-per-prompt", '{"video": 0}']
    words += ["--generation-config", "vllm"]  # the run did not use the penalties and limits in generation_config.json
    if config.model.trust_remote_code:
        words.append("--trust-remote-code")
    if isinstance(config, TrainConfig):
        words += _engine_options(config, on_cpu)
    return shlex.join(words)


def _engine_options(config: TrainConfig, on_cpu: bool) -> list[str]:
    rollout, vllm = config.rollout, config.rollout.vllm
    options = ["--max-model-len", str(rollout.max_model_len)]
    if rollout.tensor_parallel_size > 1:
        options += ["--tensor-parallel-size", str(rollout.tensor_parallel_size)]
    if vllm.enforce_eager:
        options.append("--enforce-eager")
    if on_cpu and vllm.kv_cache_memory_bytes is not None:
        options += ["--kv-cache-memory-bytes", str(vllm.kv_cache_memory_bytes)]
    elif on_cpu:
        options += ["--gpu-memory-utilization", str(vllm.gpu_memory_utilization)]
    return options


def serving_notes(command: str, config: TrainConfig | SftConfig) -> list[str]:
    """What `mars ckpt export` prints about serving: the image limits that apply, and the command."""
    data = config.data
    notes = [
        f"to serve it with the run's limits of images (data.min_image_pixels={data.min_image_pixels}, "
        f"data.max_image_pixels={data.max_image_pixels}; the folder's files have those of {config.model.path}):",
        f"  {command}",
    ]
    if data.source_image_pixels:
        limits = ", ".join(f"{name} {low} to {high}" for name, (low, high) in data.source_image_pixels.items())
        notes.append(
            f"the server knows no limits of single sources; send these images already resized, within "
            f"data.source_image_pixels: {limits} pixels"
        )
    return notes
