"""What is read from a model's config.json and from the header of its weights."""

from __future__ import annotations

import importlib.util
import json
import struct
from contextlib import nullcontext

import pytest

from mars.checks.model import check_engine, max_positions
from mars.checks.packages import check_kernels
from mars.checks.weights import read_headers
from mars.errors import ConfigError, SetupError
from mars.families.table import FAMILIES
from tests.builders import train_config


def test_positions_of_a_model():
    assert max_positions({}) is None
    assert max_positions({"max_position_embeddings": 4096}) == 4096
    assert max_positions({"max_position_embeddings": 9, "text_config": {"max_position_embeddings": 4096}}) == 4096
    for rope in ({"rope_type": "linear", "factor": 4.0}, {"type": "dynamic", "factor": 4}):
        assert max_positions({"text_config": {"max_position_embeddings": 4096, "rope_scaling": rope}}) == 16384
    for rope in ({"rope_type": "default"}, {"type": "mrope"}, {"rope_type": "yarn", "factor": 4.0}):
        assert max_positions({"text_config": {"max_position_embeddings": 4096, "rope_parameters": rope}}) == 4096


def test_vllm_is_refused_where_it_computes_a_family_otherwise_than_the_trainer(tmp_path):
    def check(model_type, engine, device):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        changes = {"model.path": str(tmp_path), "rollout.engine": engine, "cluster.device": device}
        check_engine(train_config(changes))

    with pytest.raises(ConfigError, match=r"rollout\.engine: vLLM computes Qwen3\.5 on a CPU in bfloat16 alone"):
        check("qwen3_5", "vllm", "cpu")
    for fine in (("qwen3_5", "hf", "cpu"), ("qwen3_5", "vllm", "cuda"), ("qwen3_vl", "vllm", "cpu")):
        check(*fine)


@pytest.mark.parametrize(
    ("module", "device", "dtype", "message"),
    [
        ("fla", "cpu", "bfloat16", r"cluster\.device: flash-linear-attention .* got cpu; pip uninstall"),
        ("fla", "cuda", "float32", r"model\.dtype: flash-linear-attention .* got float32; set it to bfloat16"),
        ("fla", "cuda", "bfloat16", None),
        ("causal_conv1d", "cpu", "float32", r"cluster\.device: causal-conv1d"),
        ("causal_conv1d", "cuda", "float32", None),
        ("other", "cpu", "float32", None),
    ],
)
def test_kernels_that_cannot_compute_a_run_are_refused(monkeypatch, module, device, dtype, message):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == module else None)
    config = train_config({"cluster.device": device, "model.dtype": dtype})
    check_kernels(config, FAMILIES["qwen3_vl"])
    with pytest.raises(SetupError, match=message) if message else nullcontext():
        check_kernels(config, FAMILIES["qwen3_5"])


@pytest.mark.parametrize("data", [b"", b"\0" * 4, struct.pack("<Q", 10**15) + b"{}", struct.pack("<Q", 2) + b"[]"])
def test_headers_that_are_none(tmp_path, data):
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(SetupError, match=r"model\.path: .*model\.safetensors: not a safetensors file"):
        read_headers(tmp_path)
