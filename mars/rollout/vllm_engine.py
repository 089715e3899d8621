"""Rollouts by vLLM, in this process: one fused call for all views of all prompts."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mars.errors import EnvironmentProblem
from mars.types import Completion, ImageRef, RolloutRequest, TokenRules, WeightUpdate

if TYPE_CHECKING:
    import torch
    from PIL import Image

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VllmSettings:
    """How the engine is built. Sizes in bytes and tokens; null leaves the choice to vLLM."""

    model_path: str
    dtype: str
    device: str
    trust_remote_code: bool
    max_images: int
    min_pixels: int
    max_pixels: int
    max_model_len: int
    max_num_seqs: int
    tensor_parallel_size: int
    enforce_eager: bool
    block_size: int | None
    kv_cache_memory_bytes: int | None
    gpu_memory_utilization: float
    seed: int


class VllmEngine:
    """A `RolloutEngine` over vLLM's `LLM`.

    Log-probs are those of the distribution that was sampled: blocked ids masked, temperature and nucleus applied.

    decode: an image reference to an RGB image. fetch: a weight update's payload to (name, tensor) pairs.
    """

    def __init__(
        self,
        settings: VllmSettings,
        rules: TokenRules,
        *,
        decode: Callable[[ImageRef], Image.Image],
        fetch: Callable[[Any], Iterable[tuple[str, torch.Tensor]]],
    ) -> None:
        _quiet_environment()
        try:
            from vllm import LLM
        except ImportError as error:
            raise EnvironmentProblem(
                f"rollout.engine: vLLM cannot be imported ({error}); install mars[vllm] or mars[cpu], or use rollout=hf"
            ) from error
        optional = {"block_size": settings.block_size, "kv_cache_memory_bytes": settings.kv_cache_memory_bytes}
        self._llm = LLM(
            model=settings.model_path,
            dtype=settings.dtype,
            trust_remote_code=settings.trust_remote_code,
            tensor_parallel_size=settings.tensor_parallel_size,
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            enforce_eager=settings.enforce_eager,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            limit_mm_per_prompt={"image": settings.max_images, "video": 0},
            mm_processor_kwargs={"size": {"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels}},
            logprobs_mode="processed_logprobs",
            seed=settings.seed,
            enable_prefix_caching=True,
            # A prefill in chunks rewinds the request's random generator, which a CPU generator cannot do.
            enable_chunked_prefill=settings.device != "cpu",
            **{key: value for key, value in optional.items() if value is not None},
        )
        self._rules = rules
        self._blocked = dict.fromkeys(rules.blocked_ids, -math.inf)
        self._decode = decode
        self._fetch = fetch

    def generate(self, requests: Sequence[RolloutRequest]) -> list[list[Completion]]:
        pixels = {ref: self._decode(ref) for ref in dict.fromkeys(ref for r in requests for ref in r.images)}
        outputs = self._llm.generate(
            [_vllm_prompt(request, pixels) for request in requests],
            [self._sampling_params(request) for request in requests],
            use_tqdm=False,
        )
        return [_completions(request, output) for request, output in zip(requests, outputs, strict=True)]

    def load_weights(self, update: WeightUpdate) -> None:
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self._fetch(update.payload)})
        # Both caches hold states computed with the old weights.
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache: requests are still running")
        self._llm.llm_engine.reset_encoder_cache()

    def close(self) -> None:
        if hasattr(self, "_llm"):
            self._llm.llm_engine.engine_core.shutdown()
            del self._llm

    def _sampling_params(self, request: RolloutRequest) -> Any:
        from vllm import SamplingParams

        sampling = request.sampling
        return SamplingParams(
            n=_num_drawn(request),
            seed=request.seed,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_response_tokens,
            stop_token_ids=list(self._rules.eos_ids),
            logit_bias=self._blocked,
            logprobs=0,
            detokenize=False,
        )


def _quiet_environment() -> None:
    # Read by vLLM when it is imported: one process, no compilation on the CPU, no warning per step.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # What it says while it is being imported: of GPU features that a CPU has not, and of its own dependencies.
    logging.getLogger("vllm").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\..*")


def _vllm_prompt(request: RolloutRequest, pixels: dict[ImageRef, Image.Image]) -> dict[str, Any]:
    prompt: dict[str, Any] = {"prompt_token_ids": list(request.prompt_token_ids)}
    if request.images:
        prompt["multi_modal_data"] = {"image": [pixels[ref] for ref in request.images]}
    return prompt


def _num_drawn(request: RolloutRequest) -> int:
    """Greedy samples are all alike: vLLM takes n = 1 only."""
    return 1 if request.sampling.temperature == 0 else request.num_samples


def _completions(request: RolloutRequest, output: Any) -> list[Completion]:
    drawn = _num_drawn(request)
    if len(output.outputs) != drawn:
        raise RuntimeError(f"vLLM returned {len(output.outputs)} of {drawn} samples")
    samples = sorted(output.outputs, key=lambda sample: sample.index)
    completions = [
        Completion(
            token_ids=tuple(sample.token_ids),
            logprobs=tuple(step[token].logprob for step, token in zip(sample.logprobs, sample.token_ids, strict=True)),
            finish_reason="length" if sample.finish_reason == "length" else "stop",
        )
        for sample in samples
    ]
    return completions * (request.num_samples // drawn)
