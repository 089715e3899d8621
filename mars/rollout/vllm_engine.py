"""Rollouts with vLLM, in this process: one call for all views of all prompts."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from mars.config.run_sections import is_colocated
from mars.config.schema import TrainConfig
from mars.errors import SetupError
from mars.rollout import vllm_process
from mars.rollout.engine import EngineCounts, FinishedSample, UnreadableRequest
from mars.rollout.until_failure import UntilFailure
from mars.rollout.vllm_call import VllmCall, VllmParts, num_drawn
from mars.rollout.window import first_window, samples_in_window
from mars.types import ImageRef, RolloutRequest, TokenRules, WeightUpdate

if TYPE_CHECKING:
    import torch
    from PIL import Image

# Tokens per engine step: vLLM's default on most GPUs, twice vLLM's default on CPUs. It is also the size of the encoder
# cache, which must hold all images of a prompt until the prompt's last view is prefilled.
_BATCH_TOKENS = 8192
# The views of a prompt are neighbours, so caching the images of two prompts is enough.
_CACHED_PROMPTS = 2


class VllmEngine:
    """A `RolloutEngine` with vLLM's `LLM`.

    Log-probs are those of the sampled distribution: after blocked ids, temperature, top_p and top_k.

    max_images: largest number of images in one prompt. processor_settings: arguments of the model's image processor.
    image_bytes: size of the largest processed image. decode: turns an image reference into an RGB image.
    fetch: turns a weight update's payload into (name, tensor) pairs.
    """

    _state: Literal["awake", "asleep", "loading", "loaded"] = "awake"

    def __init__(
        self,
        config: TrainConfig,
        rules: TokenRules,
        max_images: int,
        *,
        processor_settings: Mapping[str, Any],
        image_bytes: int,
        decode: Callable[[ImageRef], Image.Image],
        fetch: Callable[[Any], Iterable[tuple[str, torch.Tensor]]],
    ) -> None:
        vllm_process.prepare(config.rollout.tensor_parallel_size, config.cluster.device)
        try:
            from vllm import LLM
        except ImportError as error:
            raise SetupError(
                f"rollout.engine: vLLM cannot be imported ({error}); pip install -e '.[vllm]' (CPU: '.[cpu]'), "
                "or use rollout=hf"
            ) from error
        gc.freeze()  # vLLM collects garbage three times while it starts: 1 s each over the objects of all modules
        model, rollout, cluster, vllm = config.model, config.rollout, config.cluster, config.rollout.vllm
        optional = {"block_size": vllm.block_size, "kv_cache_memory_bytes": vllm.kv_cache_memory_bytes}
        optional["distributed_executor_backend"] = vllm_process.executor(rollout.tensor_parallel_size)
        self._llm = LLM(
            model=model.path,
            dtype=model.dtype,
            trust_remote_code=model.trust_remote_code,
            tensor_parallel_size=rollout.tensor_parallel_size,
            max_model_len=rollout.max_model_len,
            max_num_seqs=rollout.max_num_seqs,
            max_num_batched_tokens=max(_BATCH_TOKENS, rollout.max_model_len),
            enforce_eager=vllm.enforce_eager,
            gpu_memory_utilization=vllm.gpu_memory_utilization,
            limit_mm_per_prompt={"image": max_images, "video": 0},
            mm_processor_kwargs=dict(processor_settings),
            logprobs_mode="processed_logprobs",
            seed=config.run.seed,
            enable_prefix_caching=True,
            enable_sleep_mode=is_colocated(cluster.placement, cluster.kind, cluster.device),
            # Off on CPUs: a chunked prefill rewinds the request's random generator, which CPU generators cannot do.
            enable_chunked_prefill=cluster.device != "cpu",
            mm_processor_cache_gb=_CACHED_PROMPTS * max_images * image_bytes / 2**30,
            worker_extension_cls="mars.rollout.vllm_worker.WorkerExtension",
            **{key: value for key, value in optional.items() if value is not None},
        )
        self._llm.collective_rpc("count_encoder_runs")
        self._names, self._max_num_seqs = map(str, count()), rollout.max_num_seqs
        self._counts, self._version = EngineCounts(), 0
        self._rules = rules
        self._blocked = dict.fromkeys(rules.blocked_ids, -math.inf)
        # The multi view and the mono views right after it use the same images.
        self._decode = lru_cache(maxsize=_CACHED_PROMPTS * max_images)(decode)
        # In one process with the trainer, reading ahead would compete with the update for the GIL. The update would
        # lose more time than generation would gain.
        self._reads_ahead = cluster.kind == "ray"
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="images")
        self._ahead: dict[Any, Future[Any]] = {}
        self._fetch, self._is_one_process = fetch, rollout.tensor_parallel_size == 1

    def generate(self, requests: Iterable[RolloutRequest | None]) -> Iterator[list[FinishedSample | UnreadableRequest]]:
        if self._state != "awake":
            raise RuntimeError("the engine sleeps; load weights, and wake it")
        parts = VllmParts(
            engine=self._llm.llm_engine,
            max_num_seqs=self._max_num_seqs,
            names=self._names,
            render=lambda request: self._ahead.pop(_content(request), None) or self._start_rendering(request),
            sampling_params=self._sampling_params,
            count=self._count,
            version=self._version,
        )
        yield from VllmCall(parts, requests).finished()

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        if not self._reads_ahead:
            return
        for unused in self._ahead.values():
            unused.cancel()
        first = first_window(requests, samples_in_window(self._max_num_seqs))
        self._ahead = {_content(request): self._start_rendering(request) for request in first}

    def counts(self) -> EngineCounts:
        # Every tensor-parallel worker encodes every image.
        return replace(self._counts, encoder_runs=max(self._llm.collective_rpc("encoder_runs")))

    def load_weights(self, update: WeightUpdate) -> None:
        if self._state == "asleep":
            self._llm.wake_up(tags=["weights"])
            self._llm.collective_rpc("restore_plain_tensors")
            self._state = "loading"
        weights = self._fetch(update.payload)
        if self._is_one_process:  # an engine of several processes gets a pickled copy of all weights instead
            weights = UntilFailure(weights)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if isinstance(weights, UntilFailure):
            weights.check()
        # Both caches hold states computed with the old weights.
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache: requests are still running")
        self._llm.llm_engine.reset_encoder_cache()
        self._version = update.version
        if self._state == "loading":
            self._state = "loaded"

    def sleep(self) -> None:
        """Discard the weights, because new ones come before the engine generates again. vLLM can do this only on
        GPUs."""
        if self._state == "asleep":
            return
        self._llm.collective_rpc("keep_plain_tensors")
        self._state = "asleep"
        self._llm.sleep(level=2)

    def wake(self) -> None:
        if self._state in ("asleep", "loading"):
            raise RuntimeError("the engine has not got all its weights since it slept")
        if self._state == "loaded":
            self._llm.wake_up(tags=["kv_cache"])
        self._state = "awake"

    def close(self) -> None:
        if hasattr(self, "_reader"):
            self._reader.shutdown(cancel_futures=True)
            self._ahead.clear()
        if hasattr(self, "_llm"):
            self._llm.llm_engine.engine_core.shutdown()
            del self._llm

    def _sampling_params(self, request: RolloutRequest) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        return SamplingParams(
            n=num_drawn(request),
            seed=request.seed,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_response_tokens,
            stop_token_ids=list(self._rules.eos_ids),
            logit_bias=self._blocked,
            logprobs=0,
            detokenize=False,
            # Return a sample when it finishes, not when its request finishes: first its first token, then the other
            # tokens.
            output_kind=RequestOutputKind.DELTA,
            stream_interval=sys.maxsize,
            skip_clone=True,  # safe, because this object is used for one request only
        )

    def _count(self, counts: EngineCounts) -> None:
        self._counts += counts

    def _start_rendering(self, request: RolloutRequest) -> Future[Any]:
        return self._reader.submit(self._render, request)

    def _render(self, request: RolloutRequest) -> Any:
        """The prompt in vLLM's form: placeholders expanded, images decoded and processed. Not thread-safe."""
        prompt: dict[str, Any] = {"prompt_token_ids": list(request.prompt_token_ids)}
        if request.images:
            prompt["multi_modal_data"] = {"image": [self._decode(ref) for ref in request.images]}
            prompt["multi_modal_uuids"] = {"image": [_image_name(ref) for ref in request.images]}
        (rendered,) = self._llm.llm_engine.renderer.render_cmpl([prompt], skip_mm_cache=True)
        return rendered


def _content(request: RolloutRequest) -> Any:
    """The part of a request that `_render` uses: not its seed or number of samples."""
    return request.prompt_token_ids, request.images


def _image_name(ref: ImageRef) -> str:
    """The key of an image in vLLM's caches. Without it, vLLM would hash the pixels."""
    return blake2b(repr(ref).encode(), digest_size=16).hexdigest()
