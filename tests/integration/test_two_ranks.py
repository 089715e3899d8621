"""Two FSDP ranks compute what one does, with packs as with rows: the KL to the reference, and updates with every term
of the loss. Their shards of a checkpoint make the policy that they save.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mars.actor.export import export_policy
from tests.builders import train_config
from tests.integration.forked import RUN
from tests.integration.two_ranks_job import LORA
from tests.integration.workshop import start

JOB = Path(__file__).with_name("two_ranks_job.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def results(folder) -> dict[str, dict]:
    """What each rank of a world of one and of two wrote, by "<packing>-<world size>-<rank>"."""
    from mars.data.synthetic.tiny_model import build_tiny

    build_tiny(folder / "policy", seed=3)
    build_tiny(folder / "reference", seed=4)
    noise = np.random.default_rng(11)
    for i, (width, height) in enumerate([(64, 48), (56, 56), (96, 40)]):
        Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    jobs = [(1, "padded"), (1, "shared_prefix"), (2, "shared_prefix")]
    for world_size, packing in jobs:
        ranks = []
        for rank in range(world_size):
            output = folder / f"output-{rank}"
            output.mkdir(exist_ok=True)
            command = [str(JOB), str(folder), str(rank), str(world_size), packing]
            ranks.append(start(command, folder, output, RUN))
        for rank in ranks:
            assert rank.finish(200) == 0, rank.stderr[-3000:]
    return {
        f"{packing}-{size}-{rank}": json.loads((folder / f"{packing}-{size}-{rank}.json").read_text())
        for size, packing in jobs
        for rank in range(size)
    }


ONE_RANK = pytest.mark.parametrize("one_rank", ["padded-1-0", "shared_prefix-1-0"])


def test_the_ranks_share_a_group_that_is_split(results):
    assert results["shared_prefix-2-0"]["is_split"]


@ONE_RANK
@pytest.mark.parametrize("when", ["kl", "signal", "kl_after"])
def test_every_rank_has_the_whole_list_and_it_is_that_of_one_rank(results, when, one_rank):
    assert results["shared_prefix-2-0"][when] == results["shared_prefix-2-1"][when]
    assert [len(row) for row in results[one_rank][when]] == [3, 2, 3, 2]
    for two, one in zip(results["shared_prefix-2-0"][when], results[one_rank][when], strict=True):
        assert two == pytest.approx(one, rel=2e-3, abs=1e-4)


@ONE_RANK
def test_a_prompt_that_one_rank_cannot_read_is_left_out_by_both(results, one_rank):
    """The update, with its denominators, is that of one rank that cannot read it."""
    one, two = results[one_rank], results["shared_prefix-2-0"]
    assert one["unreadable"] == [{"a": "gone on rank 0"}] * 2
    assert two["unreadable"] == results["shared_prefix-2-1"]["unreadable"] == [{"a": "gone on rank 1"}] * 2
    assert two["incomplete"] == results["shared_prefix-2-1"]["incomplete"]
    assert [len(row) for row in two["kl_without_first"]] == [2, 3, 2]
    for key, value in one["incomplete"].items():
        assert two["incomplete"][key] == pytest.approx(value, rel=5e-3, abs=1e-4), key


@ONE_RANK
def test_a_skipped_update_has_the_old_logprobs_of_all_ranks(results, one_rank):
    one, two = results[one_rank], results["shared_prefix-2-0"]
    assert two["skipped_old"] == results["shared_prefix-2-1"]["skipped_old"]
    assert [row[:2] for row in two["skipped_old"]] == [[0, 0], [1, 0], [2, 0], [3, 0]]
    for ours, theirs in zip(two["skipped_old"], one["skipped_old"], strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3, abs=1e-4)


@ONE_RANK
def test_the_updates_are_those_of_one_rank(results, one_rank):
    """Sums over ranks of everything that is measured; the second update follows the first."""
    one, two = results[one_rank]["metrics"], results["shared_prefix-2-0"]["metrics"]
    assert two == results["shared_prefix-2-1"]["metrics"]
    assert one.keys() == two.keys()
    assert {"actor/kl_coef", "rollout/kl", "rollout/importance_weight/capped"} <= one.keys()
    assert 0 < one["rollout/importance_weight/capped"] < 1
    for key in one:
        assert two[key] == pytest.approx(one[key], rel=5e-3, abs=1e-4), key


def test_frozen_parts_leave_the_other_updates_as_they_are(results):
    """To the bit on every rank; the norm of the gradient is that of the trained parts, over all ranks."""
    assert all(found["frozen"]["equal"] for found in results.values())
    norms = [norm for found in results.values() for norm in found["frozen"]["grad_norms"]]
    assert norms == pytest.approx([norms[0]] * 8, rel=1e-3)


@ONE_RANK
def test_a_token_rule_does_on_two_ranks_what_it_does_on_one(results, one_rank):
    """Its totals are over both ranks. The second update has a KL to a reference that the first has moved."""
    one, two = results[one_rank]["rule"], results["shared_prefix-2-0"]["rule"]
    assert two == results["shared_prefix-2-1"]["rule"]
    assert {"recipe/gap", "actor/rule_loss"} <= one.keys()
    assert abs(one["actor/rule_loss"]) > 1e-4
    assert one["actor/kl_loss"] > 1e-4
    for key in one:
        assert two[key] == pytest.approx(one[key], rel=5e-3, abs=1e-4), key


@ONE_RANK
def test_adapters_are_updated_as_by_one_rank(results, one_rank):
    """Also the KL to the model without them, which the second step has."""
    one, two = results[one_rank]["lora"], results["shared_prefix-2-0"]["lora"]
    assert two == results["shared_prefix-2-1"]["lora"]
    assert one["actor/kl_loss"][1] > 1e-3
    for key, values in one.items():
        assert two[key] == pytest.approx(values, rel=5e-3, abs=1e-4), key


def test_adapters_of_two_ranks_are_exported_as_the_policy_they_saved(results, folder):
    config = train_config({"model.path": str(folder / "policy"), **{f"actor.{key}": v for key, v in LORA.items()}})
    export_policy(str(folder / "lora-shards"), config.model, config.actor.lora, str(folder / "merged"))
    merged, saved, base = (
        load_file(folder / name / "model.safetensors") for name in ("merged", "lora-policy", "policy")
    )  # fmt: skip
    assert merged.keys() == saved.keys() == base.keys()
    assert all(torch.equal(value, saved[name]) for name, value in merged.items())
    changed = {name for name, value in saved.items() if not torch.equal(value, base[name])}
    assert {name.rpartition(".")[2] for name in changed} == {"weight"}
    assert any("visual" in name for name in changed)
    assert not any("embed" in name or "norm" in name or "lm_head" in name for name in changed)


@ONE_RANK
def test_masked_tokens_are_those_of_one_rank_and_in_no_denominator(results, one_rank):
    """Which tokens are masked is known after the forwards; the gradient is scaled by what all ranks kept."""
    one, two = results[one_rank]["masked"], results["shared_prefix-2-0"]["masked"]
    assert two == results["shared_prefix-2-1"]["masked"]
    assert 0.1 < one["rollout/importance_weight/masked"] < 0.9
    for key in one:
        assert two[key] == pytest.approx(one[key], rel=5e-3, abs=1e-4), key


def test_an_update_whose_tokens_are_all_masked_is_none(results):
    for result in results.values():
        assert result["nothing"]["rollout/importance_weight/masked"] == 1
        assert result["nothing"]["fault/skipped_updates"] == 0
        assert not [key for key in result["nothing"] if key.startswith("actor/")]


def test_the_shards_of_two_ranks_are_exported_as_the_policy_they_saved(results, folder):
    """What `mars ckpt export` writes of a checkpoint is what the run would have saved, byte for byte."""
    shards = folder / "shared_prefix-2-shards"
    written = {path.name for path in shards.glob("*.safetensors")}
    assert {name.split("-")[1] for name in written} == {"00001", "00002"}, "one of each rank"
    settings = {"model.path": str(folder / "policy"), "model.dtype": "float32"}
    config = train_config(settings)
    export_policy(str(shards), config.model, config.actor.lora, str(folder / "exported"))
    saved = {path.name: path.read_bytes() for path in (folder / "shared_prefix-2-policy").iterdir()}
    assert {path.name: path.read_bytes() for path in (folder / "exported").iterdir()} == saved
    assert saved["model.safetensors"] != (folder / "policy" / "model.safetensors").read_bytes(), "it was trained"
