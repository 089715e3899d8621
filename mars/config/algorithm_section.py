"""The sections `algorithm` and `anchor` of a training configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mars.config.numbers import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from mars.config.section import Section


def _off(value: Any) -> Any:
    """YAML reads off as false."""
    return "off" if value is False else value


_Off = BeforeValidator(_off)


class AlgorithmConfig(Section):
    estimator: Literal["group_norm", "leave_one_out"] = Field(
        description="Baseline of the advantage: mean reward of the pool, or of the pool without the response (RLOO)."
    )
    normalize_std: bool = Field(description="Divide by the standard deviation (GRPO) or not (Dr. GRPO).")
    unbiased_std: bool = Field(description="Divide the sum of squared deviations by N - 1 (true, as in verl) or by N.")
    std_floor: NonNegativeFloat = Field(
        description="Lower bound of the standard deviation in the division; 0 (default): none."
    )
    epsilon: PositiveFloat = Field(description="Added to the standard deviation before the division.")
    part_weights: dict[str, float] = Field(
        description="Normalise parts of the reward one by one; their weights: `{accuracy: 1.0, format: 0.5}`; {}: off."
    )
    loss: Literal["clip", "gspo", "cispo"] = Field(
        description="Policy loss: clipped ratio of each token (PPO, GRPO, DAPO), of the sequence (GSPO), or CISPO."
    )
    clip_low: PositiveFloat = Field(description="How far below 1 the ratio is clipped.")
    clip_high: PositiveFloat = Field(description="How far above 1 the ratio is clipped.")
    dual_clip: Annotated[float, Field(gt=1)] | None = Field(
        description="Upper bound of the ratio where advantages are negative (dual clip); null: off. verl's default: 3."
    )
    reduction: Literal["token_mean", "seq_mean_token_sum", "seq_mean_token_mean", "seq_mean_token_sum_norm"] = Field(
        description="How token losses are averaged; denominators count the whole update, over all ranks."
    )
    reduction_tokens: PositiveInt | None = Field(description="Constant divisor of seq_mean_token_sum_norm.")
    kl_coefficient: NonNegativeFloat = Field(
        description="Weight of the KL to algorithm.kl_reference; 0: no KL, and a reference model only with "
        "reference_every."
    )
    kl_estimator: Literal["k1", "k2", "k3", "abs"] = Field(description="Estimator of the KL term.")
    kl_reference: str | None = Field(description="Reference model of the KL term: Hugging Face folder or hub name.")
    kl_placement: Literal["loss", "reward"] = Field(
        description="Add the KL to the loss, or subtract it from every reward, also from the anchors'."
    )
    reference_every: PositiveInt | None = Field(
        description="Optimizer steps from one update of the reference model to the next; null: it stays as it is."
    )
    reference_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        description="Share of the reference model that stays in each update (moving average); null: none of it, it "
        "becomes a copy of the policy."
    )
    entropy_coefficient: NonNegativeFloat = Field(description="Weight of the entropy bonus in the loss; 0: none.")
    importance_cap: PositiveFloat | None = Field(
        description="Largest importance weight (trainer / engine probability) of a token's loss; null: no weights."
    )
    importance_level: Literal["token", "sequence", "sequence_mean"] = Field(
        description="One weight for each token, or for each response: product or geometric mean of its tokens' weights."
    )
    importance_mode: Literal["truncate", "mask"] = Field(
        description="truncate: a weight above the cap becomes the cap; mask: leave out tokens (responses) with a "
        "weight out of bounds."
    )
    importance_floor: PositiveFloat | None = Field(
        description="Smallest importance weight that importance_mode=mask keeps; null: none."
    )
    overlong_buffer_tokens: PositiveInt | None = Field(
        description="Penalise responses longer than rollout.max_response_tokens minus this many tokens; null: none."
    )
    overlong_factor: PositiveFloat = Field(
        description="Largest length penalty: that of a response with rollout.max_response_tokens tokens."
    )
    truncated_responses: Literal["score", "mask"] = Field(
        description="Train on responses cut at rollout.max_response_tokens (score), or not (mask); their rewards count."
    )
    selection: Literal["all", "nonzero_advantage"] = Field(
        description="Prompts trained on: all, or those with a non-zero advantage (dynamic sampling)."
    )
    max_rounds: NonNegativeInt = Field(
        description="Maximum sampling rounds per step, 1 or more. A round follows while too few prompts are kept."
    )

    @property
    def loads_reference(self) -> bool:
        return self.kl_coefficient > 0 or self.reference_every is not None


class AnchorConfig(Section):
    kind: Literal["none", "mono", "all_but_one", "forced_source"] = Field(
        description="Anchor views: none, each source alone, all but one; or all, the response beginning with a source."
    )
    samples_per_view: PositiveInt = Field(description="Rollouts of each anchor view (m; 1 in the paper).")
    sampling: Literal["policy", "greedy"] = Field(description="Sample anchors like the multi rollouts, or greedily.")
    image_layout: Literal["single", "repeated"] = Field(
        description="Show an anchor's image once, or in every image slot of the prompt."
    )
    wording: Literal["same", "per_view"] = Field(
        description="Text of mono and anchor views: that of the multi view, or a text for the images of each view."
    )
    pooled_statistics: Literal["mean_and_std", "mean"] = Field(
        description="Statistics that include the anchor rewards: mean and standard deviation, or only the mean."
    )
    guide: Annotated[Literal["off", "above_mean"], _Off] = Field(
        description="Guided groups (experimental): anchor responses above the mean of the multi rewards are trained on "
        "with the multi prompt, and the other anchors leave the pool."
    )
    guide_filter: str | None = Field(
        description="Which anchor responses may be guests: `path/to/file.py:function`, called with the response, its "
        "view and the prompt; null: the built-in checks alone."
    )
    shuffle: Annotated[Literal["off", "reward", "both"], _Off] = Field(
        description="Control: anchors get the rewards of another prompt's, or are wholly those of another prompt."
    )
    allocation: Literal["even", "conflict", "unsolved"] = Field(
        description="Second half of a round's multi rollouts: for all prompts alike, for those that only anchors get "
        "right, or for those that no multi rollout gets right; at most 4 x rollout.samples_per_prompt for a prompt."
    )
    forced_start: str | None = Field(
        description="With anchor.kind=forced_source: how the responses begin; {source} is the name of the source."
    )
