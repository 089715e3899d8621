"""Rollouts with transformers' `generate`: the reference for tests of vLLM, and the engine for machines without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mars.config.schema import TrainConfig
from mars.errors import DataError
from mars.families.table import family_of
from mars.offload import Freed, HostCopies, free, restore
from mars.output.bars import without_bars
from mars.rollout.distinct_images import DistinctImages
from mars.rollout.engine import CallImages, EngineCounts, FinishedSample, UnreadableRequest
from mars.types import Completion, ImageRef, RolloutRequest, Sampling, TokenRules, WeightUpdate

if TYPE_CHECKING:
    import torch
    from torch import Tensor


_Row = tuple[int, RolloutRequest, int]
"""(number of the request, the request, number of the sample)"""


class HfEngine:
    """A `RolloutEngine` in this process.

    Every sample has its own seeded noise, so a response depends only on its request, not on the rest of the batch.

    process: turns a prompt's token ids and images into tensors.
    fetch: turns a weight update's payload into (name, tensor) pairs.
    """

    def __init__(
        self,
        config: TrainConfig,
        rules: TokenRules,
        *,
        process: Callable[[Sequence[int], Sequence[ImageRef]], Any],
        fetch: Callable[[Any], Iterable[tuple[str, torch.Tensor]]],
    ) -> None:
        import torch
        from transformers import AutoModelForImageTextToText, GenerationConfig

        model = config.model
        with without_bars():
            self._model = AutoModelForImageTextToText.from_pretrained(
                model.path,
                dtype=getattr(torch, model.dtype),
                trust_remote_code=model.trust_remote_code,
                use_safetensors=True,  # a pickle could run code
            )
        self._family = family_of(self._model.config.model_type, f"model.path: {model.path}/config.json")
        self._model = self._model.to(config.cluster.device).eval()
        # Replace the model's generation settings: many have a repetition penalty, which `generate` would apply.
        self._model.generation_config = GenerationConfig()
        self._config, self._rules = config, rules
        self._process, self._fetch = process, fetch
        self._counts, self._version = EngineCounts(), 0
        self._freed: Freed = []  # of the weights, while the engine sleeps
        self._buffers = HostCopies()  # of the buffers, because an update of the weights does not have all of them
        self._state: Literal["awake", "asleep", "loaded"] = "awake"

    def generate(self, requests: Iterable[RolloutRequest | None]) -> Iterator[list[FinishedSample | UnreadableRequest]]:
        if self._state != "awake":
            raise RuntimeError("the engine sleeps; load weights, and wake it")
        images, number, size = CallImages(), 0, self._config.rollout.max_num_seqs
        unreadable: set[int] = set()
        # A batch of `generate` has one set of sampling parameters, so greedy and sampled rollouts are in separate
        # batches.
        waiting: dict[Sampling, list[_Row]] = {}
        for request in requests:
            if request is None:
                yield []
                continue
            self._counts += images.of(request)
            rows = waiting.setdefault(request.sampling, [])
            rows += [(number, request, k) for k in range(request.num_samples)]
            number += 1
            while len(rows) >= size:
                yield from self._finished(rows[:size], unreadable)
                del rows[:size]
        for rows in waiting.values():
            if rows:
                yield from self._finished(rows, unreadable)

    def _finished(
        self, rows: Sequence[_Row], unreadable: set[int]
    ) -> Iterator[list[FinishedSample | UnreadableRequest]]:
        """Generates one batch. unreadable: numbers of the requests that cannot be read; updated in place."""
        prompts, refused = self._read({i: request for i, request, _ in rows if i not in unreadable})
        if refused:
            unreadable.update(refused)
            yield [UnreadableRequest(i, reason) for i, reason in refused.items()]
        rows = [row for row in rows if row[0] in prompts]
        if rows:
            completions = self._generate_batch([(request, prompts[i], k) for i, request, k in rows])
            yield [FinishedSample(i, k, answer) for (i, _, k), answer in zip(rows, completions, strict=True)]

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        """Does nothing: images are read in `generate`."""

    def counts(self) -> EngineCounts:
        return self._counts

    def load_weights(self, update: WeightUpdate) -> None:
        """Copies tensor by tensor, so that an update that arrives in pieces is never in memory as a whole.

        Raises RuntimeError if the update lacks a weight of the model, has one of another shape, or has one that the
        model lacks. Tied weights must come under each of their names.
        """
        if self._state == "asleep":
            restore(self._freed)
            self._buffers.bring_back()
        own = self._model.state_dict()
        left = dict.fromkeys(own)
        for name, value in self._fetch(update.payload):
            if name not in own or own[name].shape != value.shape:
                has = tuple(own[name].shape) if name in own else "no such weight"
                raise RuntimeError(f"the update has {name} of shape {tuple(value.shape)}; the model has {has}")
            own[name].copy_(value)
            left.pop(name, None)
        if left:
            raise RuntimeError(f"the update lacks {', '.join(left)}")
        self._version = update.version
        if self._state == "asleep":
            self._state = "loaded"

    def sleep(self) -> None:
        if self._state == "asleep":
            return
        for parameter in self._model.parameters():
            if not parameter.untyped_storage().resizable():  # transformers has mapped the file into memory
                parameter.data = parameter.data.clone()
        self._state = "asleep"
        self._freed = free(self._model.parameters())
        self._buffers.take(self._model.buffers())

    def wake(self) -> None:
        """Allocates nothing: this engine has no KV cache between two calls of `generate`."""
        if self._state == "asleep":
            raise RuntimeError("the engine has no weights since it slept")
        self._state = "awake"

    def close(self) -> None:
        self._model = None

    def _read(self, requests: Mapping[int, RolloutRequest]) -> tuple[dict[int, Any], dict[int, str]]:
        """requests: by number. Returns number -> prompt as tensors, and number -> why the request cannot be read."""
        prompts: dict[int, Any] = {}
        unreadable: dict[int, str] = {}
        for i, request in requests.items():
            try:
                prompts[i] = self._process(request.prompt_token_ids, request.images)
            except DataError as error:
                unreadable[i] = str(error)
        return prompts, unreadable

    def _generate_batch(self, samples: Sequence[tuple[RolloutRequest, Any, int]]) -> list[Completion]:
        """samples: (request, its prompt as tensors, number of the sample), all with the same sampling parameters."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        inputs = self._inputs([prompt for _, prompt, _ in samples])
        images = DistinctImages.of([(request.images, prompt) for request, prompt, _ in samples])
        self._counts += EngineCounts(encoder_runs=len(images.pixel_values))
        if images.pixel_values:
            inputs["pixel_values"] = torch.cat(images.pixel_values).to(self._model.device, self._model.dtype)
        sampling = samples[0][0].sampling
        noise = None
        if sampling.temperature > 0:
            noise = _SeededNoise([request.seed + k for request, _, k in samples])
        process_logits = _Sampler(sampling.temperature, sampling.top_p, sampling.top_k, self._rules.blocked_ids, noise)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=sampling.max_response_tokens,
            eos_token_id=list(self._rules.eos_ids),
            pad_token_id=self._rules.pad_id,
        )
        with torch.no_grad(), images.encoded_once(self._family.forward, self._model.model):
            output = self._model.generate(
                **inputs, generation_config=config, logits_processor=LogitsProcessorList([process_logits])
            )
        responses = output[:, inputs["input_ids"].shape[1] :]
        return self._completions(responses.tolist(), process_logits.chosen_logprobs())

    def _inputs(self, prompts: Sequence[Any]) -> dict[str, Tensor]:
        """The model's inputs besides the pixels: left-padded prompts, one for each row, their mask, and image grids."""
        import torch

        self._counts += EngineCounts(prompt_tokens=sum(len(prompt.input_ids) for prompt in prompts))
        longest = max(len(prompt.input_ids) for prompt in prompts)
        input_ids = torch.full((len(prompts), longest), self._rules.pad_id)
        mask = torch.zeros((len(prompts), longest), dtype=torch.long)
        for i, prompt in enumerate(prompts):
            input_ids[i, longest - len(prompt.input_ids) :] = prompt.input_ids
            mask[i, longest - len(prompt.input_ids) :] = 1
        inputs = {
            "input_ids": input_ids,
            "attention_mask": mask,
        }
        grids = [grid for prompt in prompts for grid in prompt.image_grid_thw]
        inputs |= self._family.forward.generate_inputs(input_ids, self._rules.image_id, grids)
        return {name: value.to(self._config.cluster.device) for name, value in inputs.items()}

    def _completions(self, responses: list[list[int]], logprobs: list[list[float]]) -> list[Completion]:
        completions = []
        for token_ids, row_logprobs in zip(responses, logprobs, strict=True):
            end = next((i for i, token in enumerate(token_ids) if token in self._rules.eos_ids), None)
            length = len(token_ids) if end is None else end + 1
            reason = "length" if end is None else "stop"
            ids, ids_logprobs = tuple(token_ids[:length]), tuple(row_logprobs[:length])
            completions.append(Completion(ids, ids_logprobs, reason, self._version))
        return completions


class _SeededNoise:
    """Standard Gumbel noise, one generator per row."""

    def __init__(self, seeds: Sequence[int]) -> None:
        import torch

        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, vocabulary: int) -> Tensor:
        import torch

        uniform = torch.stack([torch.rand(vocabulary, generator=g, dtype=torch.float64) for g in self._generators])
        return -torch.log(-torch.log(uniform.clamp_min(1e-300)))


class _Sampler:
    """A logits processor with which greedy decoding gives random samples: it adds Gumbel noise to the log-probs.

    The token with the largest sum of log-prob and Gumbel noise is an exact sample of the distribution (Gumbel 1954; the
    Gumbel-max trick). Keeps the log-prob of each sampled token in that distribution. noise: None at temperature 0.
    """

    def __init__(
        self, temperature: float, top_p: float, top_k: int, blocked_ids: Sequence[int], noise: _SeededNoise | None
    ) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._top_k = top_k
        self._blocked_ids = list(blocked_ids)
        self._noise = noise
        self._chosen: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.float()
        scores[:, self._blocked_ids] = float("-inf")
        if self._noise is None:
            logprobs = keys = scores.log_softmax(-1)
        else:
            logprobs = self._truncate(scores / self._temperature).log_softmax(-1)
            keys = logprobs.double() + self._noise(scores.shape[-1]).to(scores.device)
        self._chosen.append(logprobs.gather(-1, keys.argmax(-1, keepdim=True)))
        return keys

    def chosen_logprobs(self) -> list[list[float]]:
        """Log-probs of the sampled tokens, [rows][steps]. Values after the end of a response have no meaning."""
        import torch

        return torch.cat(self._chosen, dim=1).tolist()

    def _truncate(self, logits: Tensor) -> Tensor:
        from transformers import TopKLogitsWarper, TopPLogitsWarper

        if self._top_k > 0:
            logits = TopKLogitsWarper(self._top_k)(None, logits)
        if self._top_p < 1:
            logits = TopPLogitsWarper(self._top_p)(None, logits)
        return logits
