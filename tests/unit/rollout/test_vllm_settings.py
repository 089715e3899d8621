"""What the configuration becomes for vLLM; the engine itself is tested in tests/integration."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from mars.rollout.vllm_engine import VllmEngine
from mars.types import TokenRules
from tests.builders import train_config

PROCESSOR = {"size": {"shortest_edge": 3000, "longest_edge": 2**20}}
RULES = TokenRules(image_id=5, blocked_ids=(5, 6), eos_ids=(7,), pad_id=0)


class RecordingLlm:
    """Stands for `vllm.LLM`: keeps what it is made with."""

    def __init__(self, **arguments) -> None:
        self.arguments = arguments
        engine_core = SimpleNamespace(shutdown=lambda: None)
        self.llm_engine = SimpleNamespace(engine_core=engine_core)

    def collective_rpc(self, method: str) -> None:
        assert method == "count_encoder_runs"


@pytest.fixture
def arguments(monkeypatch, process_group):
    """The arguments of vLLM for some settings. process_group: else the engine makes one, which outlives it."""
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=RecordingLlm))

    def made(max_images=3, **values):
        engine = VllmEngine(
            train_config(values),
            RULES,
            max_images,
            processor_settings=PROCESSOR,
            image_bytes=2**25,
            decode=str,
            fetch=iter,
        )
        found = engine._llm.arguments
        engine.close()
        return found

    return made


def test_every_setting_of_the_engine_arrives(arguments):
    found = arguments(
        **{
            "model.path": "a/model",
            "model.dtype": "bfloat16",
            "model.trust_remote_code": True,
            "run.seed": 11,
            "rollout.max_model_len": 20000,
            "rollout.max_num_seqs": 9,
            "rollout.vllm.enforce_eager": True,
            "rollout.vllm.block_size": 32,
            "rollout.vllm.kv_cache_memory_bytes": 2**26,
            "rollout.vllm.gpu_memory_utilization": 0.3,
        }
    )
    wanted = {
        "model": "a/model",
        "dtype": "bfloat16",
        "trust_remote_code": True,
        "seed": 11,
        "tensor_parallel_size": 1,
        "max_model_len": 20000,
        "max_num_batched_tokens": 20000,
        "max_num_seqs": 9,
        "enforce_eager": True,
        "block_size": 32,
        "kv_cache_memory_bytes": 2**26,
        "gpu_memory_utilization": 0.3,
        "limit_mm_per_prompt": {"image": 3, "video": 0},
        "mm_processor_kwargs": PROCESSOR,
        "mm_processor_cache_gb": 2 * 3 * 2**25 / 2**30,  # two prompts of three images
        "enable_chunked_prefill": False,
    }
    assert {key: found[key] for key in wanted} == wanted


def test_what_is_null_is_left_to_vllm(arguments):
    values = {"rollout.vllm.block_size": None, "rollout.vllm.kv_cache_memory_bytes": None}
    assert {"block_size", "kv_cache_memory_bytes"} & set(arguments(**values)) == set()


def test_gpus_share_a_model_and_prefill_in_chunks(arguments):
    found = arguments(**{"cluster.device": "cuda", "rollout.engine": "vllm", "rollout.tensor_parallel_size": 4})
    assert (found["tensor_parallel_size"], found["enable_chunked_prefill"]) == (4, True)


def test_an_engine_of_several_gpus_starts_its_processes_itself(arguments):
    """vLLM would ask Ray for them, in whose placement group the engine is, and refuse a bundle with several GPUs."""
    values = {"cluster.device": "cuda", "rollout.engine": "vllm"}
    assert arguments(**values, **{"rollout.tensor_parallel_size": 2})["distributed_executor_backend"] == "mp"
    assert "distributed_executor_backend" not in arguments(**values)


def test_the_processes_of_an_engine_on_a_cpu_are_not_bound_to_cores_unless_the_user_does_it(arguments, monkeypatch):
    """vLLM would want a NUMA node for each."""
    binding, parallel = "VLLM_CPU_OMP_THREADS_BIND", {"rollout.engine": "vllm", "rollout.tensor_parallel_size": 2}
    monkeypatch.setenv(binding, "0-3|4-7")
    arguments(**parallel)
    assert os.environ[binding] == "0-3|4-7"
    del os.environ[binding]
    arguments()
    assert binding not in os.environ
    arguments(**parallel)
    assert os.environ[binding] == "nobind"
