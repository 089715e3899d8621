"""Rules between settings of the cold start."""

from __future__ import annotations

from mars.config.evaluation_rules import is_of_evaluation
from mars.config.rules import (
    PIXELS,
    TRANSPORT,
    Rule,
    attention_on_cpu,
    has_length,
    one_in_process,
    template_without_reward,
)


def _row_for_each_rank(ranks: int, rows: int) -> tuple[str, str] | None:
    if ranks > rows:
        return f"more ranks than the sft.batch_size={rows} rows of a step", "use fewer ranks or more rows"
    return None


def _nothing_to_place(placement: str) -> tuple[str, str] | None:
    return ("a cold start has no engine to take turns with", "leave it out") if placement == "colocated" else None


def _no_engine_to_spread(strategy: str) -> tuple[str, str] | None:
    return ("a cold start has no engines to spread over nodes", "give pack") if strategy == "spread" else None


_LOSSES = ("eval/loss", "eval/multi/loss", "eval/mono/loss", "eval/text/loss", "sft/loss")


def _has_the_loss(keep_best: str | None, eval_files: list[str]) -> tuple[str, str] | None:
    if keep_best is None:
        return None
    if keep_best not in _LOSSES:
        return "a cold start is compared by its losses", f"give {', '.join(_LOSSES[:-1])} or {_LOSSES[-1]}"
    if is_of_evaluation(keep_best) and not eval_files:
        return "there is no held-out set: data.eval_files is empty", "add data.eval_files, or give sft/loss"
    return None


SFT_RULES = (
    Rule(("run.num_steps", "run.num_epochs"), has_length),
    Rule(("model.attention", "cluster.device"), attention_on_cpu),
    Rule(("sft.num_workers", "cluster.kind"), one_in_process),
    Rule(("cluster.placement",), _nothing_to_place),
    Rule(("cluster.node_strategy",), _no_engine_to_spread),
    Rule(("sft.num_workers", "sft.batch_size"), _row_for_each_rank),
    Rule(("data.template",), template_without_reward),
    Rule(("checkpoint.keep_best", "data.eval_files"), _has_the_loss),
    *PIXELS,
    TRANSPORT,
)
