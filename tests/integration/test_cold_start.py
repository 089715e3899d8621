"""The supervised cold start on a tiny model."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from mars.actor.supervised_trainer import FsdpSupervisedTrainer
from mars.actor.trainer import Rendezvous
from mars.config.load import load_config
from mars.config.schema import SftConfig
from mars.data.prompts.processor import ProcessedPrompt
from mars.errors import ConfigError, DataError, NumericalError
from mars.fit import last_step
from mars.sft import main
from mars.sft import train as train_with
from mars.supervised.batches import Batches
from mars.supervised.job import SupervisedSpec
from mars.supervised.rows import SupervisedRows, load_rows, stream_of
from mars.supervised.views import response_of
from mars.train_types import TrainBatch
from mars.types import ImageRef, Prompt, View


def write_rows(path, pictures, count=8, missing=()):
    lines = []
    for i in range(count):
        images = pictures[: i % 3]  # text-only rows among them
        content = "<image>\n" * len(images) + f"Picture {i}?"
        response = None if i in missing else f"<think>{i}</think><answer>{i * 7 % 5}</answer>" + " yes" * (i % 4)
        lines.append(json.dumps({
            "data_source": "test", "prompt": [{"role": "user", "content": content}],
            "images": [image.path.rsplit("/", 1)[-1] for image in images],
            "reward_model": {"ground_truth": "yes"}, "extra_info": {}, "response": response,
        }))  # fmt: skip
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def configure(tiny, pictures, tmp_path):
    def make(*overrides, name="run", **rows):
        write_rows(tmp_path / "train.jsonl", pictures, **rows)
        given = [
            f"model.path={tiny}", "model.dtype=float32", f"data.train_files=[{tmp_path / 'train.jsonl'}]",
            f"data.image_root={pictures[0].path.rsplit('/', 1)[0]}", f"run.dir={tmp_path / name}",
            "data.min_image_pixels=784", "data.max_image_pixels=50176", "cluster=local", "cluster.device=cpu",
            "tracking.to=[console]", "run.num_steps=6", "sft.batch_size=8",
            "sft.tokens_per_forward=400", "sft.learning_rate=3.0e-3", "sft.warmup_steps=1", "sft.log_every=2",
            "sft.logprob_chunk_tokens=16", "sft.gradient_checkpointing=false",
            "checkpoint.every=0",
        ]  # fmt: skip
        return load_config("sft", [*given, *overrides], [])

    return make


@dataclass
class ColdStart:
    """The trainer of a cold start in this process, and its rows."""

    config: SftConfig
    rows: SupervisedRows
    trainer: FsdpSupervisedTrainer

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return self.rows.train.prompts

    def batch(self, *shown: tuple[Prompt, View]) -> TrainBatch:
        batches = Batches(self.rows.form, self.config.sft, self.config.run.seed)
        return batches.of_rows(shown or [(prompt, None) for prompt in self.prompts])

    def step(self) -> dict[str, float]:
        """One update on all rows."""
        return self.trainer.update(self.batch())

    def processed(self, prompt: Prompt) -> ProcessedPrompt:
        (made,) = self.batch((prompt, None)).prompts
        return self.trainer._reader._process(made.prompt_token_ids, made.images)


def cold_start(config) -> ColdStart:
    rows = load_rows(config)
    spec = SupervisedSpec(config, rows.form.encoder.token_rules(), last_step(config.run, stream_of(config, rows)))
    return ColdStart(config, rows, spec(Rendezvous(0, 1, None, 60.0)))


def train(config):
    train_with(config, [])


TIMES = {"timing_s/step", "perf/throughput"}


def metrics_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def test_the_loss_falls_on_eight_rows_and_the_same_seed_gives_the_same_file(configure, tmp_path, world):
    for name in ("one", "two"):
        train(configure(name=name))
    rows = [metrics_of(tmp_path / name) for name in ("one", "two")]
    assert [row["step"] for row in rows[0]] == [2, 4, 6]
    assert rows[0][-1]["sft/loss"] < 0.75 * rows[0][0]["sft/loss"]
    assert rows[0][0]["sft/loss"] < math.log(640) + 1
    assert rows[0] == rows[1]
    weights = [world.plain_model(tmp_path / name / "policy").state_dict() for name in ("one", "two")]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_the_loss_is_the_mean_over_response_tokens_of_a_plain_forward(configure, world, packing):
    made = cold_start(configure(f"sft.packing={packing}"))
    model, expected, count = world.plain_model(), [], 0
    for prompt in made.prompts:
        processed, response = made.processed(prompt), made.rows.form.encoder.encode_response(response_of(prompt, None))
        assert response[-1] == world.rules.eos_ids[0]
        ids = torch.cat([processed.input_ids, torch.tensor(response)]).unsqueeze(0)
        pictured = {}
        if processed.pixel_values:
            pictured = {
                "pixel_values": torch.cat(processed.pixel_values),
                "image_grid_thw": torch.tensor(processed.image_grid_thw),
                "mm_token_type_ids": (ids == world.rules.image_id).int(),
            }
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **pictured).logits[0]
        logits[:, list(world.rules.blocked_ids)] = -torch.inf
        start = len(processed.input_ids)
        chosen = logits.log_softmax(-1)[start - 1 : -1].gather(-1, ids[0, start:, None])
        expected.append(-float(chosen.sum()))
        count += len(response)
    assert made.trainer.losses(made.batch()) == pytest.approx(expected, rel=1e-5)
    metrics = made.step()
    assert metrics["sft/loss"] == pytest.approx(sum(expected) / count, abs=1e-5)
    assert metrics["sft/tokens"] == count
    assert metrics["sft/lr"] == pytest.approx(3e-3 / 2)


def test_a_source_may_have_a_budget_of_its_own(configure, world):
    """Rows are of view_1 and view_2, of a single image, or of none."""
    made, plain = (cold_start(configure(*some)) for some in (["data.source_image_pixels={view_2: [25088, 50176]}"], []))
    grids = [[m.processed(p).image_grid_thw for p in m.prompts if len(p.sources) == 2] for m in (made, plain)]
    assert {grid[0] for grid in grids[0]} == {grid[0] for grid in grids[1]}
    assert {grid[1] for grid in grids[0]} == {(1, 12, 12)}
    assert {grid[1] for grid in grids[1]} == {(1, 4, 4)}
    with pytest.raises(ConfigError, match=r"got view_3; the rows' sources are image, view_1, view_2"):
        cold_start(configure("data.source_image_pixels={view_3: [25088, 50176]}"))


def test_the_split_into_forwards_changes_nothing(configure):
    results = []
    for tokens in (1, 400, 100_000):
        results.append(cold_start(configure(f"sft.tokens_per_forward={tokens}")).step())
    for one in results[1:]:
        assert one["sft/loss"] == pytest.approx(results[0]["sft/loss"], rel=1e-5)
        assert one["sft/grad_norm"] == pytest.approx(results[0]["sft/grad_norm"], rel=1e-4)


def test_rows_without_a_response_are_named_or_dropped(configure):
    with pytest.raises(DataError) as raised:
        train(configure(missing=(2, 5)))
    assert "train.jsonl:2" in str(raised.value)
    assert "train.jsonl:5" in str(raised.value)
    assert "response" in str(raised.value)
    config = configure("data.on_bad_sample=drop", "sft.batch_size=6", missing=(2, 5))
    assert len(cold_start(config).prompts) == 6


def test_too_few_rows_for_a_step(configure):
    with pytest.raises(ConfigError, match=r"sft\.batch_size.*got 9 with 8 rows"):
        train(configure("sft.batch_size=9"))


def test_bfloat16_keeps_float32_weights_and_learns(configure):
    made = cold_start(configure("model.dtype=bfloat16"))
    losses = [made.step()["sft/loss"] for _ in range(5)]
    assert losses[-1] < losses[0]
    assert {p.dtype for p in made.trainer._policy.parameters()} == {torch.float32}


def test_a_gradient_that_is_not_finite_ends_it(configure):
    made = cold_start(configure())
    with torch.no_grad():
        made.trainer._policy.backbone.lm_head.weight.to_local()[5, 0] = math.nan
    with pytest.raises(NumericalError, match=r"sft\.learning_rate"):
        made.step()


def test_dry_run_counts_the_rows(configure, tiny, pictures, tmp_path, capsys):
    config = configure()
    given = [f"model.path={tiny}", f"data.train_files=[{config.data.train_files[0]}]",
             f"data.image_root={config.data.image_root}", "run.num_steps=7", "sft.batch_size=4"]  # fmt: skip
    assert main(["--dry-run", *given]) == 0
    out = capsys.readouterr().out
    assert "training set      8 rows with a response, 0 dropped\n" in out
    assert "steps             7 = 3.50 epochs\n" in out
    assert "warning           sft.warmup_steps: not below the run's 7 steps" in out
    assert "memory per rank   about " in out


def test_a_damaged_image_is_refused_or_dropped_and_counted(configure, pictures, tmp_path, capsys, caplog):
    """Row 1 shows it: a header that is fine, and pixels that cannot be decoded."""
    config = configure()
    folder = tmp_path / "images"
    folder.mkdir()
    for image in pictures[:2]:
        name = image.path.rsplit("/", 1)[-1]
        (folder / name).write_bytes(Path(image.path).read_bytes())
    rows = [json.loads(line) for line in Path(config.data.train_files[0]).read_text().splitlines()]
    rows[1]["images"] = ["damaged.png"]
    damaged = bytearray((folder / "0.png").read_bytes())
    damaged[len(damaged) // 2] ^= 255
    (folder / "damaged.png").write_bytes(damaged)
    file = tmp_path / "damaged.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [f"model.path={config.model.path}", f"data.train_files=[{file}]", f"data.image_root={folder}"]
    with pytest.raises(DataError, match=r"1 of 8 rows .*\n.*damaged\.jsonl:1 +image_undecodable"):
        main(["--dry-run", *given])
    assert main(["--dry-run", *given, "data.on_bad_sample=drop", "sft.batch_size=4"]) == 0
    assert "7 rows with a response, 1 dropped {'image_undecodable': 1}\n" in capsys.readouterr().out
    data = config.data.model_copy(
        update={"train_files": [str(file)], "image_root": str(folder), "on_bad_sample": "drop"}
    )
    caplog.clear()
    sft = config.sft.model_copy(update={"batch_size": 7})
    made = cold_start(config.model_copy(update={"data": data, "sft": sft}))
    assert "1 of 8 rows dropped: {'image_undecodable': 1}" in caplog.text
    assert len(made.prompts) == 7
    assert math.isfinite(made.step()["sft/loss"])


# --- packs


def test_rows_in_a_pack_do_not_see_each_other(configure, pictures):
    """One row gets another text and other pixels; the losses of the others stay what they are."""
    made = cold_start(configure("sft.tokens_per_forward=100000"))
    changed = list(made.prompts)
    shown = next(i for i, prompt in enumerate(changed) if len(prompt.sources) == 2)
    one = changed[shown]
    sources = tuple(replace(source, image=pictures[3]) for source in one.sources)
    messages = tuple(replace(message, text=message.text + " And now?") for message in one.messages)
    changed[shown] = replace(one, sources=sources, messages=messages, response="no " + str(one.response))
    batches = made.batch(), made.batch(*((prompt, None) for prompt in changed))
    assert [len(batch.updates[0].ranks[0]) for batch in batches] == [1, 1], "one forward"
    before, after = (made.trainer.losses(batch) for batch in batches)
    assert abs(after.pop(shown) - before.pop(shown)) > 0.1
    assert after == pytest.approx(before, abs=1e-5)


# --- held-out loss, checkpoints and resume


@pytest.fixture
def interrupted_at(monkeypatch):
    """number -> the update of this number is interrupted before it begins, once."""

    def at(number):
        update, count = FsdpSupervisedTrainer.update, itertools.count(1)

        def counted(trainer, batch):
            if next(count) == number:
                raise KeyboardInterrupt
            return update(trainer, batch)

        monkeypatch.setattr(FsdpSupervisedTrainer, "update", counted)

    return at


def test_an_interrupted_cold_start_resumes_exactly(configure, tmp_path, world, interrupted_at):
    given = ["data.eval_files=[{}]".format(tmp_path / "held_out.jsonl"), "sft.eval_every=2", "sft.log_every=1",
             "sft.mono_ratio=0.5", "sft.batch_size=5"]  # fmt: skip
    whole = configure(*given, name="whole")
    write_rows(tmp_path / "held_out.jsonl", [ImageRef(f"x/{i}.png", (1, 1)) for i in range(2)], count=4)
    train(whole)
    interrupted_at(4)
    with pytest.raises(KeyboardInterrupt):
        train(configure(*given, name="two"))
    assert [row["step"] for row in metrics_of(tmp_path / "two")] == [1, 2, 3]
    resumed = configure(*given, "run.resume=true", name="two")
    train(resumed)
    assert metrics_of(tmp_path / "two") == metrics_of(tmp_path / "whole")
    weights = [world.plain_model(tmp_path / name / "policy").state_dict() for name in ("whole", "two")]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    rows = {row["step"]: row for row in metrics_of(tmp_path / "whole")}
    assert [step for step, row in rows.items() if "eval/loss" in row] == [2, 4, 6]
    assert {"eval/loss", "eval/multi/loss", "eval/mono/loss", "eval/text/loss"} <= rows[6].keys()


def test_a_finished_cold_start_says_so_and_a_new_one_needs_a_new_folder(configure, tmp_path, mars, caplog):
    train(configure("run.num_steps=1"))
    assert "sft.warmup_steps: not below the run's 1 steps" in caplog.text
    with pytest.raises(ConfigError, match=r"run\.dir: .*metrics\.jsonl holds the metrics of another run"):
        train(configure("run.num_steps=1"))
    resumed = mars("resume", str(tmp_path / "run"))
    assert (resumed.returncode, "the run is complete: step 1 was its last" in resumed.stderr) == (0, True)
    with pytest.raises(ConfigError, match=r"sft\.batch_size: 8 -> 4"):
        train(configure("sft.batch_size=4", "run.resume=true"))


def test_adapters_alone_are_trained_saved_and_exported_merged(configure, tmp_path, world, mars):
    train(configure("sft.lora.rank=2", "run.num_steps=2"))
    exported = mars("ckpt", "export", str(tmp_path / "run"), str(tmp_path / "out"))
    assert exported.returncode == 0, exported.stderr
    saved = (tmp_path / "run" / "policy" / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == saved
    before, after = (world.plain_model(*some).state_dict() for some in ([], [tmp_path / "run" / "policy"]))
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert all("language_model" in name and name.endswith("proj.weight") for name in changed)


def test_frozen_parts_stay(configure, tmp_path, world):
    train(configure("sft.freeze=[vision,projector]", "run.num_steps=1"))
    before, after = (world.plain_model(*some).state_dict() for some in ([], [tmp_path / "run" / "policy"]))
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert not any("visual" in name for name in changed)
