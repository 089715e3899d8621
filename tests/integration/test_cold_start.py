"""The supervised cold start on a tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from mars.config.load import load_config
from mars.errors import ConfigError, DataError, NumericalError
from mars.inputs import prompt_format
from mars.sft import ColdStart, _load_rows, main, train


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
            "data.min_image_pixels=784", "data.max_image_pixels=50176", "sft.device=cpu", "sft.num_steps=6",
            "sft.batch_size=8", "sft.tokens_per_forward=400", "sft.learning_rate=3.0e-3", "sft.warmup_steps=1",
            "sft.log_every=2", "sft.logprob_chunk_tokens=16",
        ]  # fmt: skip
        return load_config("sft", [*given, *overrides], [])

    return make


def cold_start(config):
    form = prompt_format(config)
    prompts = _load_rows(config, form).prompts
    return ColdStart(config, form.encoder, prompts), prompts


def test_the_loss_falls_on_eight_rows_and_the_same_seed_gives_the_same_file(configure, tmp_path, world):
    for name in ("one", "two"):
        train(configure(name=name))
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert [row["step"] for row in rows[0]] == [2, 4, 6]
    assert rows[0][-1]["sft/loss"] < 0.75 * rows[0][0]["sft/loss"]
    assert rows[0][0]["sft/loss"] < math.log(640) + 1
    for one, two in zip(*rows, strict=True):
        times = {"timing_s/step"}
        assert {k: v for k, v in one.items() if k not in times} == {k: v for k, v in two.items() if k not in times}
    weights = [world.plain_model(tmp_path / name / "policy").state_dict() for name in ("one", "two")]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_the_loss_is_the_mean_over_response_tokens_of_a_plain_forward(configure, world, pictures):
    made, prompts = cold_start(configure())
    model, total, count = world.plain_model(), 0.0, 0
    for prompt in prompts:
        processed, response = made._rows[prompt.prompt_id]
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
        total, count = total - float(chosen.sum()), count + len(response)
    metrics = made.step(prompts)
    assert metrics["sft/loss"] == pytest.approx(total / count, abs=1e-5)
    assert metrics["sft/lr"] == pytest.approx(3e-3 / 2)


def test_a_source_may_have_a_budget_of_its_own(configure, world):
    """Rows are of view_1 and view_2, of a single image, or of none."""
    made, prompts = cold_start(configure("data.source_image_pixels={view_2: [25088, 50176]}"))
    plain, _ = cold_start(configure())
    grids = [[m._rows[p.prompt_id][0].image_grid_thw for p in prompts if len(p.sources) == 2] for m in (made, plain)]
    assert {grid[0] for grid in grids[0]} == {grid[0] for grid in grids[1]}
    assert {grid[1] for grid in grids[0]} == {(1, 12, 12)}
    assert {grid[1] for grid in grids[1]} == {(1, 4, 4)}
    with pytest.raises(ConfigError, match=r"got view_3; the rows' sources are image, view_1, view_2"):
        cold_start(configure("data.source_image_pixels={view_3: [25088, 50176]}"))


def test_the_split_into_forwards_changes_nothing(configure):
    results = []
    for tokens in (1, 400, 100_000):
        made, prompts = cold_start(configure(f"sft.tokens_per_forward={tokens}"))
        results.append(made.step(prompts))
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
    _, prompts = cold_start(config)
    assert len(prompts) == 6


def test_too_few_rows_for_a_step(configure):
    with pytest.raises(ConfigError, match=r"sft\.batch_size.*got 9 with 8 rows"):
        train(configure("sft.batch_size=9"))


def test_bfloat16_keeps_float32_weights_and_learns(configure):
    made, prompts = cold_start(configure("model.dtype=bfloat16"))
    losses = [made.step(prompts)["sft/loss"] for _ in range(5)]
    assert losses[-1] < losses[0]
    assert {p.dtype for p in made.policy.parameters()} == {torch.float32}


def test_a_gradient_that_is_not_finite_ends_it(configure):
    made, prompts = cold_start(configure())
    with torch.no_grad():
        made.policy.backbone.lm_head.weight[5, 0] = math.nan
    with pytest.raises(NumericalError, match=r"sft\.learning_rate"):
        made.step(prompts)


def test_dry_run_counts_the_rows(configure, tiny, pictures, tmp_path, capsys):
    config = configure()
    given = [f"model.path={tiny}", f"data.train_files=[{config.data.train_files[0]}]",
             f"data.image_root={config.data.image_root}", "sft.num_steps=7"]  # fmt: skip
    assert main(["--dry-run", *given]) == 0
    assert capsys.readouterr().out == "8 rows with a response; 7 steps\n"


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
    assert main(["--dry-run", *given, "data.on_bad_sample=drop", "sft.num_steps=7"]) == 0
    assert capsys.readouterr().out == "7 rows with a response, 1 dropped {'image_undecodable': 1}; 7 steps\n"
    data = config.data.model_copy(
        update={"train_files": [str(file)], "image_root": str(folder), "on_bad_sample": "drop"}
    )
    caplog.clear()
    made, prompts = cold_start(config.model_copy(update={"data": data}))
    assert "1 of 8 rows dropped: {'image_undecodable': 1}" in caplog.text
    assert len(prompts) == 7
    assert math.isfinite(made.step(prompts)["sft/loss"])
