"""Rollouts by vLLM, in this process: one fused call for all views of all prompts."""

from __future__ import annotations

import gc
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from itertools import count
from typing import TYPE_CHECKING, Any

from mars.errors import SetupError
from mars.rollout.engine import EngineCounts, FinishedSample, distinct_images
from mars.types import Completion, ImageRef, RolloutRequest, TokenRules, WeightUpdate

if TYPE_CHECKING:
    import torch
    from PIL import Image

logger = logging.getLogger(__name__)

# Parts of samples that have not ended, by the request's name and the sample's index.
_Begun = dict[tuple[str, int], list[Any]]
# What vLLM takes by itself on most GPUs. Its encoder cache is as large: the outputs of a whole prompt must stay until
# its last view has been read. On a CPU it would take half, and prompts of two batches end a step apart.
_BATCH_TOKENS = 8192
# The images of a prompt's views are wanted one after the other: those of two prompts are cache enough.
_CACHED_PROMPTS = 2
# A processed pixel: three colours, each twice (a still image is a film of two frames), in float32.
_BYTES_PER_PIXEL = 24


@dataclass(frozen=True)
class VllmSettings:
    """How the engine is built. Sizes in bytes and tokens; null leaves the choice to vLLM.

    reads_ahead: whether hints are followed (`prefetch`). Not in a process that the trainer shares: its interpreter runs
    one thread at a time, and the update would wait for more than generation gains.
    """

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
    reads_ahead: bool


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
            raise SetupError(
                f"rollout.engine: vLLM cannot be imported ({error}); install mars[vllm] or mars[cpu], or use rollout=hf"
            ) from error
        # vLLM collects garbage three times while it starts: 1 s each over the objects of all that was imported.
        gc.freeze()
        optional = {"block_size": settings.block_size, "kv_cache_memory_bytes": settings.kv_cache_memory_bytes}
        self._llm = LLM(
            model=settings.model_path,
            dtype=settings.dtype,
            trust_remote_code=settings.trust_remote_code,
            tensor_parallel_size=settings.tensor_parallel_size,
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=max(_BATCH_TOKENS, settings.max_model_len),
            enforce_eager=settings.enforce_eager,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            limit_mm_per_prompt={"image": settings.max_images, "video": 0},
            mm_processor_kwargs={"size": {"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels}},
            logprobs_mode="processed_logprobs",
            seed=settings.seed,
            enable_prefix_caching=True,
            # A prefill in chunks rewinds the request's random generator, which a CPU generator cannot do.
            enable_chunked_prefill=settings.device != "cpu",
            mm_processor_cache_gb=_CACHED_PROMPTS
            * settings.max_images
            * settings.max_pixels
            * _BYTES_PER_PIXEL
            / 2**30,
            worker_extension_cls="mars.rollout.encoder_counter.EncoderCounter",
            **{key: value for key, value in optional.items() if value is not None},
        )
        self._llm.collective_rpc("count_encoder_runs")
        self._names = map(str, count())
        self._counts = EngineCounts()
        self._rules = rules
        self._blocked = dict.fromkeys(rules.blocked_ids, -math.inf)
        # An image is read for the multi view and again for a mono view right after it.
        self._decode = lru_cache(maxsize=_CACHED_PROMPTS * settings.max_images)(decode)
        self._reads_ahead = settings.reads_ahead
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="images")
        self._ahead: dict[Any, Future[Any]] = {}
        self._fetch = fetch

    def generate(self, requests: Sequence[RolloutRequest]) -> Iterator[list[FinishedSample]]:
        engine, positions = self._llm.llm_engine, {next(self._names): i for i in range(len(requests))}
        missing = {name: _num_drawn(requests[i]) for name, i in positions.items()}
        begun: _Begun = {}
        self._counts += EngineCounts(images=distinct_images(requests))
        rendered = [self._ahead.pop(_content(r), None) or self._reader.submit(self._render, r) for r in requests]
        try:
            for name, i in positions.items():
                engine.add_request(name, rendered[i].result(), self._sampling_params(requests[i]))
            while engine.has_unfinished_requests():
                finished = []
                for output, parts in _ended(engine.step(), begun):
                    missing[output.request_id] -= 1
                    self._counts += EngineCounts(
                        prompt_tokens=len(output.prompt_token_ids), cached_tokens=output.num_cached_tokens
                    )
                    finished += _samples(requests, positions[output.request_id], parts)
                if finished:
                    yield finished
        finally:
            left = [name for name, number in missing.items() if number]
            if left:  # the caller takes no more, or something failed: nothing of this call may reach the next
                engine.abort_request(left)
        if left:
            raise RuntimeError(f"vLLM left {len(left)} of {len(requests)} requests without all their samples")

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        if not self._reads_ahead:
            return
        for unused in self._ahead.values():
            unused.cancel()
        self._ahead = {_content(request): self._reader.submit(self._render, request) for request in requests}

    def counts(self) -> EngineCounts:
        # Every tensor-parallel worker is there for every image.
        return replace(self._counts, encoder_runs=max(self._llm.collective_rpc("encoder_runs")))

    def load_weights(self, update: WeightUpdate) -> None:
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self._fetch(update.payload)})
        # Both caches hold states computed with the old weights.
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache: requests are still running")
        self._llm.llm_engine.reset_encoder_cache()

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
            # Every sample is returned when it ends, not all of a request at last: its first token, then the rest.
            output_kind=RequestOutputKind.DELTA,
            stream_interval=sys.maxsize,
            skip_clone=True,  # nobody else holds it
        )

    def _render(self, request: RolloutRequest) -> Any:
        """The prompt as vLLM takes it: placeholders expanded, images read and processed. In one thread only."""
        prompt: dict[str, Any] = {"prompt_token_ids": list(request.prompt_token_ids)}
        if request.images:
            prompt["multi_modal_data"] = {"image": [self._decode(ref) for ref in request.images]}
            prompt["multi_modal_uuids"] = {"image": [_image_name(ref) for ref in request.images]}
        (rendered,) = self._llm.llm_engine.renderer.render_cmpl([prompt], skip_mm_cache=True)
        return rendered


def _quiet_environment() -> None:
    # Read by vLLM when it is imported: one process, no compilation on the CPU, no warning per step.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # What it says while it is being imported: of GPU features that a CPU has not, and of its own dependencies.
    logging.getLogger("vllm").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\..*")


def _content(request: RolloutRequest) -> Any:
    """What is rendered of a request; its seed and its number of samples are not."""
    return request.prompt_token_ids, request.images


def _image_name(ref: ImageRef) -> str:
    """What vLLM's caches call an image: with it they need not hash the pixels."""
    return blake2b(repr(ref).encode(), digest_size=16).hexdigest()


def _num_drawn(request: RolloutRequest) -> int:
    """Greedy samples are all alike: vLLM takes n = 1 only."""
    return 1 if request.sampling.temperature == 0 else request.num_samples


def _ended(outputs: Iterable[Any], begun: _Begun) -> Iterator[tuple[Any, list[Any]]]:
    """The samples that end in these outputs of vLLM, each with its output and in its parts, in order.

    begun: parts of the samples that have not ended; kept up to date.
    """
    for output in outputs:
        for part in output.outputs:
            parts = begun.setdefault((output.request_id, part.index), [])
            parts.append(part)
            if part.finish_reason is not None:
                yield output, begun.pop((output.request_id, part.index))


def _samples(requests: Sequence[RolloutRequest], position: int, parts: Sequence[Any]) -> list[FinishedSample]:
    """One of vLLM's samples as it is asked for: a greedy one as often as the request has samples."""
    index, finish_reason = parts[-1].index, parts[-1].finish_reason
    if finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended a sample of prompt {requests[position].prompt_id}: {finish_reason}")
    token_ids = tuple(token for part in parts for token in part.token_ids)
    steps = (step for part in parts for step in part.logprobs)
    completion = Completion(
        token_ids=token_ids,
        logprobs=tuple(step[token].logprob for step, token in zip(steps, token_ids, strict=True)),
        finish_reason=finish_reason,
    )
    copies = requests[position].num_samples // _num_drawn(requests[position])
    return [FinishedSample(position, index + k, completion) for k in range(copies)]
