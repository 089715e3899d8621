"""The optional packages that the settings need."""

from __future__ import annotations

import importlib.util

from mars.config.schema import TrainConfig
from mars.errors import SetupError


def check_packages(config: TrainConfig) -> None:
    """Raises SetupError if the settings need an optional package that is not installed on this machine.

    With cluster.address nothing is checked, because the cluster's nodes have their own packages. There a worker fails
    when it starts.
    """
    needed = {
        "vllm": (config.rollout.engine == "vllm", "rollout.engine=vllm", "pip install -e '.[vllm]' (CPU: '.[cpu]')"),
        "flash_attn": (
            config.model.attention == "flash_attention_2",
            "model.attention=flash_attention_2",
            "pip install -e '.[flash-attn]'",
        ),
    }
    for package, (is_needed, setting, remedy) in needed.items():
        if is_needed and config.cluster.address is None and importlib.util.find_spec(package) is None:
            other = "rollout=hf" if package == "vllm" else "model.attention=sdpa"
            raise SetupError(f"{setting}: the package {package} is not installed; {remedy}, or use {other}")
