"""All settings: their types, ranges and descriptions. The defaults are not here but in configs/.

docs/config.md is generated from this module and configs/. This module does
not import torch, because settings are checked before anything heavy is loaded. It does not import hydra, because engine
and trainer need the sections, but not hydra.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mars.config.actor_sections import ActorConfig, SftSettings
from mars.config.algorithm_rules import ALGORITHM_RULES
from mars.config.algorithm_section import AlgorithmConfig, AnchorConfig
from mars.config.anchor_rules import ANCHOR_RULES
from mars.config.evaluation_rules import EVALUATION_RULES
from mars.config.numbers import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from mars.config.placement_rules import PLACEMENT_RULES
from mars.config.recipe_section import RECIPE_RULES, Ramps, RecipeConfig
from mars.config.rules import TRAIN_RULES
from mars.config.run_sections import CheckpointConfig, ClusterConfig, TrackerConfig, TrackingConfig, TrainRunConfig
from mars.config.schedule_rules import SCHEDULE_RULES
from mars.config.section import Root, Section
from mars.config.sft_rules import SFT_RULES
from mars.config.tracking_rules import TRACKING_RULES
from mars.config.weight_rules import SFT_WEIGHT_RULES, WEIGHT_RULES
from mars.rewards.built_in import built_in_names

_REWARDS = built_in_names()


class ModelConfig(Section):
    path: str = Field(min_length=1, description="Hugging Face model folder or hub name.")
    dtype: Literal["float32", "bfloat16"] = Field(
        description="Data type of the computation; the trainer keeps its weights in float32."
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field(
        description="Attention of the trainer's model; with actor.packing=shared_prefix only that of its vision tower."
    )
    box_space: Literal["auto", "resized_pixels", "norm_1000"] = Field(
        description="Frame of the model's boxes: pixels after its resizing, 0 to 1000, or auto: as its family does."
    )
    trust_remote_code: bool = Field(description="Run the model folder's code; leave false unless you have read it.")


class RowsConfig(Section):
    """How rows become prompts, in the training (`data`) and in the cold start (`data` of `mars.sft`)."""

    image_root: str | None = Field(description="Folder that image paths are relative to; null: the folder of the file.")
    on_bad_sample: Literal["error", "drop"] = Field(
        description="error: refuse to start if a row is bad; drop: leave bad rows out and count them."
    )
    max_prompt_tokens: PositiveInt = Field(
        description="Longest prompt in tokens, image tokens included; rows with a longer one are bad."
    )
    min_image_pixels: PositiveInt = Field(description="Fewest pixels of an image; smaller images are enlarged.")
    max_image_pixels: PositiveInt = Field(description="Most pixels of an image; larger images are reduced.")
    transport: Literal["path", "object_store"] = Field(
        description="Each node reads its own files (path), or gets the driver's images once (object_store)."
    )
    image_cache_bytes: PositiveInt = Field(
        description="Bytes of images that each node keeps on its disk with data.transport=object_store."
    )
    source_image_pixels: dict[str, list[PositiveInt]] = Field(
        description="Narrower limits of some sources, [smallest, largest] pixels: `{infrared: [3136, 250880]}`."
    )


class DataConfig(RowsConfig):
    train_files: list[str] = Field(
        min_length=1,
        description="Training set: Parquet or JSONL files, saved data sets, or hub names with @split.",
    )
    eval_files: list[str] = Field(description="Files of the held-out set; empty for none.")
    template: str = Field(
        description=f"Template with the answer format: {_REWARDS}, none, file.jinja; auto: that of the row's reward."
    )
    images_per_row: PositiveInt | None = Field(description="Images that every row must have; null: any number.")
    decode_at_start: bool = Field(
        description="Decode every image completely before training; false: read only its header."
    )
    weights: list[PositiveFloat] | None = Field(
        description="Share of each training file in every step; null: every row of all files once an epoch."
    )
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        description="End the run if more than this share of any data.bad_window consecutive prompts cannot be read."
    )
    bad_window: PositiveInt = Field(
        description="Prompts among which bad ones are counted; at most the number of rows of the training set."
    )
    prompts_per_step: PositiveInt = Field(description="Prompts sampled in each step.")
    shuffle: bool = Field(description="Shuffle the prompts anew each epoch.")


class VllmConfig(Section):
    enforce_eager: bool = Field(description="Run without CUDA graphs and compilation.")
    block_size: PositiveInt | None = Field(description="Tokens per block of the KV cache; null: vLLM's choice.")
    kv_cache_memory_bytes: PositiveInt | None = Field(
        description="Size of the KV cache, in bytes; null: what gpu_memory_utilization leaves for it."
    )
    gpu_memory_utilization: Fraction = Field(description="Share of each GPU's memory that the engine takes.")


class RolloutConfig(Section):
    engine: Literal["vllm", "hf", "scripted", "scripted_full_length"] = Field(
        description="vllm: vLLM; hf: transformers, slow, for comparison; scripted: random tokens, for tests; "
        "scripted_full_length: max_response_tokens of them, for benchmarks."
    )
    num_workers: PositiveInt = Field(description="Engine replicas.")
    tensor_parallel_size: PositiveInt = Field(description="GPUs of one engine replica; on CPUs, its processes.")
    samples_per_prompt: PositiveInt = Field(description="Multi rollouts per prompt (G).")
    temperature: PositiveFloat = Field(description="Sampling temperature of the rollouts; vLLM takes 0.01 or more.")
    top_p: Fraction = Field(description="Nucleus sampling: smallest set of tokens with this probability; 1: all.")
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        description="Sample from this many most likely tokens; 0: all."
    )
    max_response_tokens: PositiveInt = Field(description="Longest response, in tokens.")
    max_model_len: PositiveInt = Field(description="Longest prompt and response together, in tokens.")
    max_num_seqs: PositiveInt = Field(
        description="Largest number of sequences that an engine generates at once. It takes up to twice as many, to "
        "read images ahead."
    )
    max_staleness: Annotated[int, Field(ge=0, le=2)] = Field(
        description="0: a step samples and then updates (schedule=synchronous). 1 or 2: the next step's responses are "
        "sampled during the update (schedule=asynchronous), by weights at most so many versions (steps) behind those "
        "that they train; 2 trains on carried prompts too. The group schedule sets this and algorithm.importance_cap."
    )
    weight_transfer: Literal["object_store", "broadcast", "cuda_ipc"] = Field(
        description="How engines get new weights: copied to Ray's object store, sent by rank 0 over NCCL or gloo, or "
        "read from the memory of a rank on the same GPU."
    )
    weight_bucket_bytes: PositiveInt = Field(
        description="Size of the pieces in which weight_transfer=broadcast and cuda_ipc send the weights; a larger "
        "tensor is a piece of its own. A rank that sends has two pieces in memory, and its own shards of one of them."
    )
    logprob_diff_alarm: PositiveFloat = Field(
        description="Warn if the log-probs of a token in engine and trainer differ by more than this, in nats. With "
        "schedule=asynchronous only in steps that train on no older responses, such as the first."
    )
    vllm: VllmConfig

    @property
    def schedule(self) -> Literal["synchronous", "asynchronous"]:
        """The order of sampling and update, by `max_staleness`."""
        return "asynchronous" if self.max_staleness else "synchronous"

    @property
    def is_scripted(self) -> bool:
        """Whether responses are random tokens, whatever the weights are."""
        return self.engine in ("scripted", "scripted_full_length")


class RewardConfig(Section):
    function: str = Field(min_length=1, description=f"{_REWARDS}, or path/to/file.py:function.")
    functions: dict[str, str] = Field(
        description="Reward of each data_source, such as `{llvip: grounding}`, instead of reward.function; empty: off."
    )
    scorer: Literal["strict", "compat"] = Field(
        description="Score of built-in rewards: as in the paper (strict), or as in its public code (compat)."
    )
    num_workers: PositiveInt = Field(description="Scoring processes.")
    concurrency: PositiveInt = Field(description="Answers that one process scores at once, in threads; 1: no threads.")
    by_prompt: bool = Field(description="Users' functions take all answers to a prompt at once, as a list.")
    timeout_s: PositiveFloat = Field(description="Deadline for scoring one answer (by_prompt: one list), in seconds.")


class EvaluationConfig(Section):
    every: NonNegativeInt = Field(description="Evaluate every this many steps, and after the last; 0: neither.")
    before_training: bool = Field(description="Evaluate before the first step.")
    max_samples: PositiveInt | None = Field(description="Number of rows to evaluate on, from the first; null: all.")
    samples_per_prompt: PositiveInt = Field(description="Responses for each view; their accuracies are averaged.")
    temperature: NonNegativeFloat = Field(description="Sampling temperature; 0 is greedy; vLLM takes 0 or >= 0.01.")
    top_p: Fraction = Field(description="Nucleus sampling: smallest set of tokens with this probability; 1: all.")
    iou_threshold: Fraction = Field(description="Mean IoU above which an answer with boxes counts as a hit.")


class TrainConfig(Root):
    """What `python -m mars.main` takes."""

    RULES = (
        *TRAIN_RULES, *ALGORITHM_RULES, *ANCHOR_RULES, *PLACEMENT_RULES, *SCHEDULE_RULES, *WEIGHT_RULES, *RECIPE_RULES,
        *TRACKING_RULES, *EVALUATION_RULES,
    )  # fmt: skip

    run: TrainRunConfig
    model: ModelConfig
    data: DataConfig
    algorithm: AlgorithmConfig
    anchor: AnchorConfig
    rollout: RolloutConfig
    actor: ActorConfig
    reward: RewardConfig
    recipe: RecipeConfig
    ramps: Ramps
    cluster: ClusterConfig
    tracking: TrackingConfig
    checkpoint: CheckpointConfig
    evaluation: EvaluationConfig


class SftDataConfig(RowsConfig):
    train_files: list[str] = Field(min_length=1, description="Files whose rows have a `response`.")
    eval_files: list[str] = Field(description="Files of the held-out set; empty for none.")
    template: str = Field(description=f"Template with the answer format: {_REWARDS}, none or file.jinja.")


class SftConfig(Root):
    """What `python -m mars.sft` takes."""

    RULES = (*SFT_RULES, *SFT_WEIGHT_RULES, *TRACKING_RULES)

    run: TrainRunConfig
    model: ModelConfig
    data: SftDataConfig
    sft: SftSettings
    cluster: ClusterConfig
    tracking: TrackerConfig
    checkpoint: CheckpointConfig
