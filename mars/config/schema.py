"""All settings: their types, ranges and descriptions. Defaults are in configs/, none is here.

docs/config.md is generated from this file. The classes of the engine and the trainer take these sections as they are,
so this module imports neither torch nor hydra, and a section is frozen and can be pickled.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mars.config.rules import SFT_RULES, TRAIN_RULES, Rule, broken_rules
from mars.rewards.built_in import built_in_names

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
_REWARDS = built_in_names()


class Section(BaseModel):
    """Settings that belong together. A section is passed as it is to the class or function that reads it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    def dotted(self, prefix: str = "") -> dict[str, Any]:
        """Dotted key -> value: {"rollout.top_p": 0.9, "rollout.vllm.block_size": 32, ...} of a whole configuration."""
        values: dict[str, Any] = {}
        for name, value in self:
            values |= value.dotted(f"{prefix}{name}.") if isinstance(value, Section) else {prefix + name: value}
        return values


class Root(Section):
    """A whole configuration. Creating one checks the rules between settings."""

    RULES: ClassVar[tuple[Rule, ...]]

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        problems = list(broken_rules(self.RULES, self.dotted()))
        if problems:
            raise ValueError("\n".join(str(problem) for problem in problems))
        return self


class RunConfig(Section):
    name: str = Field(min_length=1, description="Name of the run, shown in trackers and the report.")
    dir: str = Field(min_length=1, description="Folder that receives everything the run writes.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        description="Seed of the data order, the sampling and the initialisation."
    )


class TrainRunConfig(RunConfig):
    num_steps: PositiveInt | None = Field(description="Training steps; null counts `run.num_epochs` instead.")
    num_epochs: PositiveInt | None = Field(description="Passes over the training set; used where num_steps is null.")


class ModelConfig(Section):
    path: str = Field(min_length=1, description="Hugging Face model folder or hub name.")
    dtype: Literal["float32", "bfloat16"] = Field(description="Type of the computation; weights are kept in float32.")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field(
        description="Attention of the trainer's forward; with actor.packing=shared_prefix of its vision tower only."
    )
    box_space: Literal["auto", "resized_pixels", "norm_1000"] = Field(
        description="Frame of the model's boxes: pixels after smart_resize (Qwen2.5-VL), 0 to 1000 (Qwen3-VL), or auto."
    )
    trust_remote_code: bool = Field(description="Run code shipped with the model. Leave false unless you read it.")


class RowsConfig(Section):
    """How rows become prompts, in the training (`data`) and in the cold start (`data` of `mars.sft`)."""

    image_root: str | None = Field(description="Folder the image paths are relative to; null: the file's own folder.")
    on_bad_sample: Literal["error", "drop"] = Field(description="Refuse to start, or drop and count the bad rows.")
    max_prompt_tokens: PositiveInt = Field(
        description="Longest prompt with its image tokens; longer ones are bad rows."
    )
    min_image_pixels: PositiveInt = Field(description="Smallest image the model sees; smaller ones are enlarged.")
    max_image_pixels: PositiveInt = Field(description="Largest image the model sees; larger ones are reduced.")
    source_image_pixels: dict[str, list[PositiveInt]] = Field(
        description="Own limits of some sources, by name, within those two: `{infrared: [3136, 250880]}`."
    )


class DataConfig(RowsConfig):
    train_files: list[str] = Field(
        min_length=1,
        description="Parquet or JSONL files of the training set, saved data sets or hub names with @split.",
    )
    eval_files: list[str] = Field(description="Files of the held-out set; empty for none.")
    template: str = Field(
        description=f"How prompts ask for the answer: {_REWARDS}, none, file.jinja; auto follows the row's reward."
    )
    images_per_row: PositiveInt | None = Field(description="Images that every row must have; null: any number.")
    decode_at_start: bool = Field(description="Decode every image in full before anything starts, not headers alone.")
    weights: list[PositiveFloat] | None = Field(
        description="Share of each training file in every step; null: all rows together, each once an epoch."
    )
    prompts_per_step: PositiveInt = Field(description="Prompts sampled in each step.")
    shuffle: bool = Field(description="Draw prompts in a new random order each epoch.")


class AlgorithmConfig(Section):
    estimator: Literal["group_norm", "leave_one_out"] = Field(
        description="Baseline of the advantage: the pool's mean, or RLOO."
    )
    normalize_std: bool = Field(description="Divide by the standard deviation (GRPO) or not (Dr. GRPO).")
    unbiased_std: bool = Field(description="Standard deviation with N - 1 (the paper's) or N.")
    std_floor: NonNegativeFloat = Field(description="Smallest standard deviation divided by; 0 is the paper's.")
    epsilon: PositiveFloat = Field(description="Added to the standard deviation.")
    loss: Literal["clip", "gspo", "cispo"] = Field(
        description="Policy loss: clipped ratio of each token (PPO, GRPO, DAPO), of the sequence (GSPO), or CISPO."
    )
    clip_low: PositiveFloat = Field(description="Ratio clip below 1.")
    clip_high: PositiveFloat = Field(description="Ratio clip above 1.")
    dual_clip: Annotated[float, Field(gt=1)] | None = Field(
        description="Bound of the clipped loss where advantages are negative; null: off."
    )
    reduction: Literal["token_mean", "seq_mean_token_sum", "seq_mean_token_mean", "seq_mean_token_sum_norm"] = Field(
        description="How token losses become one number; denominators count the whole update batch."
    )
    reduction_tokens: PositiveInt | None = Field(description="Constant divisor of seq_mean_token_sum_norm.")
    kl_coefficient: NonNegativeFloat = Field(
        description="Weight of the KL term to algorithm.kl_reference; 0 loads none."
    )
    kl_estimator: Literal["k1", "k2", "k3", "abs"] = Field(description="Estimator of the KL term.")
    kl_reference: str | None = Field(description="Model folder or name that the KL term is measured against.")
    kl_placement: Literal["loss", "reward"] = Field(
        description="KL term added to the loss, or taken off every reward, the anchors' too."
    )
    entropy_coefficient: NonNegativeFloat = Field(description="Weight of the entropy bonus in the loss; 0: none.")
    importance_cap: PositiveFloat | None = Field(
        description="Token losses are weighted by trainer / engine probability, at most this; null: no weights."
    )
    overlong_buffer_tokens: PositiveInt | None = Field(
        description="The reward falls over the last so many tokens of the longest response; null: it does not."
    )
    overlong_factor: PositiveFloat = Field(description="What the longest response loses.")
    selection: Literal["all", "nonzero_advantage"] = Field(
        description="Prompts trained on: all, or those with any signal (dynamic sampling)."
    )
    max_rounds: NonNegativeInt = Field(
        description="Rounds of data.prompts_per_step fresh prompts, until so many with signal are there."
    )


class AnchorConfig(Section):
    kind: Literal["none", "mono", "all_but_one"] = Field(
        description="Anchor views: none, each source alone, all but one."
    )
    samples_per_view: PositiveInt = Field(description="Rollouts of each anchor view (m; the paper's is 1).")
    sampling: Literal["policy", "greedy"] = Field(description="Sample anchors as the multi rollouts, or greedily.")
    image_layout: Literal["single", "repeated"] = Field(description="An anchor's image once, or in all image slots.")
    pooled_statistics: Literal["mean_and_std", "mean"] = Field(description="Statistics that the anchor rewards enter.")


class VllmConfig(Section):
    enforce_eager: bool = Field(description="Run without CUDA graphs and compilation.")
    block_size: PositiveInt | None = Field(description="Tokens per block of the KV cache; null: vLLM's choice.")
    kv_cache_memory_bytes: PositiveInt | None = Field(
        description="Size of the KV cache; null: what gpu_memory_utilization leaves for it."
    )
    gpu_memory_utilization: Fraction = Field(description="Share of each GPU's memory that the engine takes.")


class RolloutConfig(Section):
    engine: Literal["vllm", "hf", "scripted"] = Field(
        description="vllm; hf: transformers (reference); scripted: a fake for tests."
    )
    num_workers: PositiveInt = Field(description="Engine replicas.")
    tensor_parallel_size: PositiveInt = Field(description="GPUs of one replica.")
    samples_per_prompt: PositiveInt = Field(description="Multi rollouts per prompt (G).")
    temperature: PositiveFloat = Field(description="Sampling temperature of the rollouts.")
    top_p: Fraction = Field(description="Nucleus of the sampling distribution.")
    top_k: Annotated[int, Field(ge=0)] = Field(description="Most likely tokens sampled from; 0: all.")
    max_response_tokens: PositiveInt = Field(description="Longest response.")
    max_model_len: PositiveInt = Field(description="Longest prompt and response together.")
    max_num_seqs: PositiveInt = Field(description="Sequences generated at once.")
    logprob_diff_alarm: PositiveFloat = Field(description="Warn when engine and trainer log-probs differ by more.")
    vllm: VllmConfig


class OptimizerConfig(Section):
    """AdamW, of the training (`actor`) and of the cold start (`sft`)."""

    learning_rate: PositiveFloat = Field(description="AdamW learning rate after warm-up.")
    warmup_steps: NonNegativeInt = Field(
        description="Optimizer steps of linear warm-up; then the rate stays (training) or falls linearly to 0 (sft)."
    )
    weight_decay: NonNegativeFloat = Field(description="AdamW weight decay.")
    beta1: Annotated[float, Field(ge=0, lt=1)] = Field(description="AdamW decay of the gradient's running mean.")
    beta2: Annotated[float, Field(ge=0, lt=1)] = Field(description="AdamW decay of the squared gradient's mean.")
    max_grad_norm: PositiveFloat = Field(description="Norm that the gradient of all parameters is clipped to.")


class ActorConfig(OptimizerConfig):
    num_workers: PositiveInt = Field(description="FSDP ranks.")
    prompts_per_update: PositiveInt = Field(description="Prompts of one optimizer step.")
    packing: Literal["shared_prefix", "padded"] = Field(
        description="What a forward computes: every prompt once for all its responses, or once for each (slower)."
    )
    tokens_per_forward: PositiveInt = Field(description="Tokens of one forward on one rank, padding included.")
    logprob_chunk_tokens: PositiveInt = Field(description="Tokens whose logits exist at once.")
    gradient_checkpointing: bool = Field(description="Recompute activations in the backward pass to save memory.")
    max_skipped_updates: NonNegativeInt = Field(description="Non-finite updates in a row before the run ends.")


class RewardConfig(Section):
    function: str = Field(min_length=1, description=f"{_REWARDS}, or path/to/file.py:function.")
    functions: dict[str, str] = Field(
        description="Instead, where sets differ: one for each data_source, such as `{llvip: grounding}`."
    )
    scorer: Literal["strict", "compat"] = Field(
        description="Rules of built-in rewards: ours, or the arithmetic of the paper's public code."
    )
    num_workers: PositiveInt = Field(description="Scoring processes.")
    timeout_s: PositiveFloat = Field(description="Deadline of one answer, seconds.")


class ClusterConfig(Section):
    kind: Literal["ray", "local"] = Field(description="ray: worker processes; local: everything in this process.")
    device: Literal["cuda", "cpu"] = Field(description="Where engine and trainer compute.")
    address: str | None = Field(description="Ray cluster to join (host:port or auto); null starts one on this machine.")
    cpus_per_worker: PositiveFloat = Field(description="Ray CPUs reserved for each worker.")
    threads_per_worker: PositiveInt = Field(description="Compute threads of each worker process.")
    object_store_bytes: PositiveInt = Field(description="Ray object store of a cluster started here.")
    start_timeout_s: PositiveFloat = Field(description="Deadline for workers to start, seconds.")
    call_timeout_s: PositiveFloat = Field(description="Deadline of one call to a worker, seconds.")


class TrackingConfig(Section):
    console: bool = Field(description="Progress and metrics in the terminal.")
    wandb: Literal["off", "offline", "online"] = Field(description="Weights & Biases; off where it is not installed.")
    wandb_project: str = Field(min_length=1, description="Weights & Biases project.")
    timeout_s: PositiveFloat = Field(description="Longest a tracker may hold up the end of a run, seconds.")
    rollouts_every: NonNegativeInt = Field(description="Write sampled rollouts every so many steps; 0: never.")
    rollout_prompts: PositiveInt = Field(description="Prompts whose rollouts are written.")


class EvaluationConfig(Section):
    every: NonNegativeInt = Field(description="Evaluate every so many steps; 0: never during training.")
    before_training: bool = Field(description="Evaluate before the first step.")
    max_samples: PositiveInt | None = Field(description="First rows of the held-out set that are used; null: all.")
    samples_per_prompt: PositiveInt = Field(description="Responses per view that accuracy is averaged over.")
    temperature: NonNegativeFloat = Field(description="Sampling temperature; 0 is greedy.")
    top_p: Fraction = Field(description="Nucleus of the sampling distribution.")
    iou_threshold: Fraction = Field(description="IoU above which an answer of boxes counts as a hit.")


class TrainConfig(Root):
    """What `python -m mars.main` takes."""

    RULES = TRAIN_RULES

    run: TrainRunConfig
    model: ModelConfig
    data: DataConfig
    algorithm: AlgorithmConfig
    anchor: AnchorConfig
    rollout: RolloutConfig
    actor: ActorConfig
    reward: RewardConfig
    cluster: ClusterConfig
    tracking: TrackingConfig
    evaluation: EvaluationConfig


class SftDataConfig(RowsConfig):
    train_files: list[str] = Field(min_length=1, description="Files whose rows have a `response`.")
    template: str = Field(description=f"How prompts ask for the answer: {_REWARDS}, none or file.jinja.")


class SftSettings(OptimizerConfig):
    num_steps: PositiveInt = Field(description="Optimizer steps.")
    batch_size: PositiveInt = Field(description="Rows of one optimizer step.")
    tokens_per_forward: PositiveInt = Field(description="Padded tokens of one forward; a batch is split accordingly.")
    logprob_chunk_tokens: PositiveInt = Field(description="Tokens whose logits exist at once.")
    num_threads: PositiveInt = Field(description="Compute threads.")
    device: Literal["cuda", "cpu"] = Field(description="Where the training computes.")
    log_every: PositiveInt = Field(description="Write metrics every so many steps.")


class SftConfig(Root):
    """What `python -m mars.sft` takes."""

    RULES = SFT_RULES

    run: RunConfig
    model: ModelConfig
    data: SftDataConfig
    sft: SftSettings
