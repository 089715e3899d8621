"""Settings of the cold start that do not fit together, and names that it had before."""

from __future__ import annotations

import pytest

from mars.config.load import load_config
from mars.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run.num_epochs=null"], "run.num_steps: the run has no length: run.num_epochs is null too"),
        (["cluster=local", "sft.num_workers=2"], "sft.num_workers: cluster.kind=local runs one"),
        (["sft.num_workers=4", "sft.batch_size=3"], "sft.num_workers: more ranks than the sft.batch_size=3 rows"),
        (["sft.fsdp_size=2", "sft.num_workers=3"], "sft.fsdp_size: does not divide sft.num_workers=3"),
        (["cluster.placement=colocated"], "cluster.placement: a cold start has no engine to take turns with"),
        (["sft.freeze=[vision]", "sft.lora.rank=2"], "sft.freeze: with adapters (sft.lora.rank=2) only they are"),
        (["sft.lora.alpha=1.0"], "sft.lora.alpha: has no effect with sft.lora.rank=0"),
        (["sft.mono_ratio=1.5"], "sft.mono_ratio: "),
        (["checkpoint.keep_best=eval/multi/mean"], "checkpoint.keep_best: a cold start is compared by its losses; got"),
        (
            ["checkpoint.keep_best=eval/loss"],
            "checkpoint.keep_best: there is no held-out set: data.eval_files is empty",
        ),
        (["sft.num_steps=5"], "sft.num_steps: renamed; got 5; use run.num_steps"),
        (["sft.device=cpu"], "sft.device: renamed; got 'cpu'; use cluster.device"),
        (["data.val_files=[x]"], "data.eval_files"),
    ],
)
def test_what_cannot_work_is_refused(overrides, message):
    with pytest.raises(ConfigError) as refused:
        load_config("sft", ["data.train_files=[x.parquet]", *overrides], [])
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_the_best_checkpoint_is_chosen_by_a_loss_that_the_cold_start_has():
    for more in (
        ["checkpoint.keep_best=sft/loss"],
        ["checkpoint.keep_best=eval/mono/loss", "data.eval_files=[y.parquet]"],
    ):
        load_config("sft", ["data.train_files=[x.parquet]", *more], [])
