"""The sections `actor` and `sft`: the optimizer, what is trained, and how work is divided over ranks and forwards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mars.config.numbers import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from mars.config.section import Section
from mars.train_types import Packing

Part = Literal["vision", "projector", "language"]
Offload = Literal["none", "cpu"]


class OptimizerConfig(Section):
    """Settings of AdamW, for training (`actor`) and for the cold start (`sft`)."""

    learning_rate: PositiveFloat = Field(description="AdamW learning rate after warm-up.")
    warmup_steps: NonNegativeInt = Field(
        description="Optimizer steps of linear warm-up; then the rate stays (training) or falls linearly to 0 (sft)."
    )
    weight_decay: NonNegativeFloat = Field(description="AdamW weight decay.")
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        min_length=2, max_length=2, description="AdamW decays of the running means of gradient and squared gradient."
    )
    max_grad_norm: PositiveFloat = Field(
        description="Largest norm of the gradient over all trained parameters; a larger gradient is scaled down to it."
    )


class LoraConfig(Section):
    rank: NonNegativeInt = Field(
        description="Rank of the LoRA adapters, which alone are trained (peft's r); 0: no adapters."
    )
    alpha: PositiveFloat = Field(description="Adapters are multiplied by alpha / rank.")
    rank_stabilized: bool = Field(description="Multiply adapters by alpha / sqrt(rank) instead (rsLoRA).")
    parts: list[Part] = Field(min_length=1, description="Parts of the model whose linear layers get adapters.")
    targets: list[str] = Field(
        min_length=1,
        description="Ends of the names of these layers, such as [q_proj,v_proj]; [all-linear]: all but the head.",
    )


class PolicyTrainingConfig(OptimizerConfig):
    """What is trained, how it is divided over ranks, and how memory is saved."""

    num_workers: PositiveInt = Field(description="FSDP ranks.")
    fsdp_size: PositiveInt | None = Field(
        description="Ranks that share one copy of weights, gradients and optimizer states (hybrid sharding); null: all."
    )
    offload: Offload = Field(
        description="cpu: weights, gradients and AdamW's states are in CPU memory, and weights go to the GPU layer by "
        "layer; none: all are on the GPU."
    )
    freeze: list[Part] = Field(
        description="Parts of the model that are not trained, such as [vision,projector]; empty: all are."
    )
    lora: LoraConfig
    tokens_per_forward: PositiveInt = Field(description="Tokens of one forward on one rank, padding included.")
    logprob_chunk_tokens: PositiveInt = Field(description="Tokens whose logits are in memory at once.")
    gradient_checkpointing: bool = Field(description="Recompute activations in the backward pass to save memory.")


class ActorConfig(PolicyTrainingConfig):
    prompts_per_update: PositiveInt = Field(description="Prompts of one optimizer step.")
    packing: Packing = Field(
        description="shared_prefix: compute each prompt once for all its responses; padded: once for every response."
    )
    max_skipped_updates: NonNegativeInt = Field(
        description="Updates with a non-finite loss or gradient that may be skipped in a row; one more ends the run."
    )


class SftSettings(PolicyTrainingConfig):
    batch_size: PositiveInt = Field(description="Rows of one optimizer step.")
    packing: Literal["packed", "padded"] = Field(
        description="packed: rows one after the other, none of which sees another; padded: rows of equal length."
    )
    mono_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        description="Share of the rows with several sources that a step shows with one of them alone, as anchors do."
    )
    eval_every: NonNegativeInt = Field(
        description="Compute the held-out loss every this many steps, and after the last; 0: only after the last."
    )
    log_every: PositiveInt = Field(description="Write metrics every this many steps.")

    @property
    def forward_packing(self) -> Packing:
        """`packing` under the name that the model and mars/batching/plan.py use. For "packed" it is "shared_prefix",
        because packed rows are a pack in which each prompt has one response."""
        return "shared_prefix" if self.packing == "packed" else "padded"
