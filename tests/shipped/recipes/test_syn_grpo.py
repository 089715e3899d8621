"""recipe/syn_grpo: rows that appear, what descriptions are worth, and the stand-in for the image model."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mars.algorithms.advantages import Advantages
from mars.hooks.contract import SamplerSetup
from mars.types import PromptRollouts, RewardResult
from tests.builders import make_group, make_prompt
from tests.fakes.step import IMAGE
from tests.hook_builders import step_facts
from tests.shipped.recipes.recipe_files import ROOT, compose, module_of

RECIPE = module_of("syn_grpo")
PAINT = module_of("syn_grpo", "paint.py")
GIVEN = [make_prompt(f"p{i}", [IMAGE]) for i in range(12)]
DESCRIBED = "<think>x <description>at night</description></think>"


def settings(folder="", **changes):
    return RECIPE.Settings(
        **{"folder": str(folder), "share": 0.5, "files_per_round": 2, "weight": 0.5, "decay": 0.9} | changes
    )


def sampler(folder, shuffle=True, given=GIVEN, **changes):
    """A file NAME has the prompts NAME/0, NAME/1 and NAME/2."""

    def read_rows(path):
        name = path.rpartition("/")[2]
        return tuple(make_prompt(f"{name}/{i}", [IMAGE]) for i in range(3))

    setup = SamplerSetup((tuple(given[:5]), tuple(given[5:])), None, shuffle, 6, 4, 3, read_rows)
    return RECIPE.GrowingSet(setup, settings(folder, **changes))


def new(prompts):
    return [prompt for prompt in prompts if prompt not in GIVEN]


# --- the set


def test_half_of_a_step_are_new_rows_as_soon_as_there_are_enough(tmp_path):
    growing = sampler(tmp_path)
    assert [len(new(growing.batch(0, frozenset()))), len(growing.batch(0, frozenset()))] == [0, 6]
    for name in ("b.jsonl", "a.parquet", "c.jsonl"):
        (tmp_path / name).touch()
    batch = growing.batch(1, frozenset())
    assert (len(batch), len(new(batch)), growing.files) == (6, 3, ["a.parquet", "b.jsonl"])
    growing.batch(2, frozenset())
    assert growing.files == ["a.parquet", "b.jsonl", "c.jsonl"]
    left_out = frozenset(prompt.prompt_id for prompt in growing.new[:8])
    assert [prompt.prompt_id for prompt in new(growing.batch(3, left_out))] == ["c.jsonl/2"]


def test_only_complete_files_of_rows_are_read(tmp_path):
    for name in (".half.jsonl", "notes.txt", "a.json", "rows.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "wanted").mkdir()
    (tmp_path / "wanted" / "step_000001.jsonl").touch()
    assert RECIPE.appeared(str(tmp_path), []) == ["rows.jsonl"]
    assert RECIPE.appeared(str(tmp_path), ["rows.jsonl"]) == []
    assert RECIPE.appeared(str(tmp_path / "missing"), []) == []


def test_all_rows_come_and_none_twice_in_a_step(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).touch()
    growing = sampler(tmp_path)
    batches = [growing.batch(round, frozenset()) for round in range(60)]
    assert all(len({prompt.prompt_id for prompt in batch}) == 6 for batch in batches)
    counts = Counter(prompt.prompt_id for batch in batches for prompt in batch)
    # 60 rounds of 3 new rows among 6: 30 expected for each; of 3 given ones among 12: 15.
    assert all(18 <= counts[prompt.prompt_id] <= 42 for prompt in growing.new)
    assert all(5 <= counts[prompt.prompt_id] <= 25 for prompt in GIVEN)


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_training_files_are_walked_without_gaps(tmp_path, shuffle):
    """Each of the 12 prompts once in 4 rounds of 3, in order if it is not to be shuffled."""
    (tmp_path / "a.jsonl").touch()
    growing = sampler(tmp_path, shuffle)
    for _ in range(5):
        seen = [p.prompt_id for round in range(4) for p in growing.batch(round, frozenset()) if p in GIVEN]
        assert sorted(seen) == sorted(prompt.prompt_id for prompt in GIVEN)
        if not shuffle:
            parts = [set(seen[start : start + 3]) for start in (0, 3, 6, 9)]
            assert parts == [{f"p{i}" for i in range(start, start + 3)} for start in (0, 3, 6, 9)]


def test_no_prompt_loses_its_turn_where_a_round_is_in_two_epochs(tmp_path):
    """30 rounds of 6 and 11 prompts are 16 epochs and 4 prompts, whether the run is resumed after each round or not."""
    whole, seen, state = sampler(tmp_path, given=GIVEN[:11]), Counter[str](), None
    for round in range(30):
        resumed = sampler(tmp_path, given=GIVEN[:11])
        resumed.restore(json.loads(json.dumps(whole.state())))
        batch = whole.batch(round, frozenset())
        assert resumed.batch(round, frozenset()) == batch
        seen.update(prompt.prompt_id for prompt in batch)
        state = whole.state()
        assert resumed.state() == state
    assert state is not None
    assert sum(seen.values()) == 180
    assert state["position"] - len(state["waiting"]) == 180
    assert set(seen.values()) <= {15, 16, 17}


def test_prompts_that_cannot_be_read_are_passed_over(tmp_path):
    (tmp_path / "a.jsonl").touch()
    growing = sampler(tmp_path, shuffle=False)
    bad = frozenset(f"p{i}" for i in (0, 1, 4, 5))
    found = [{p.prompt_id for p in growing.batch(round, bad) if p in GIVEN} for round in range(2)]
    assert found == [{"p2", "p3", "p6"}, {"p7", "p8", "p9"}]
    nearly_all = frozenset(f"p{i}" for i in range(11))
    assert {p.prompt_id for p in growing.batch(2, nearly_all) if p in GIVEN} == {"p11"}
    assert [p for p in growing.batch(3, nearly_all | {"p11"}) if p in GIVEN] == []


@given(st.lists(st.sampled_from("abcdef"), unique=True, max_size=5), st.integers(0, 4))
def test_a_resumed_sampler_goes_on_as_the_one_before(tmp_path_factory, names, stop):
    folder = tmp_path_factory.mktemp("rows")
    whole = sampler(folder)
    for round, name in enumerate(names[:stop]):
        (folder / f"{name}.jsonl").touch()
        whole.batch(round, frozenset())
    resumed = sampler(folder)
    resumed.batch(0, frozenset())  # whatever it has seen meanwhile
    resumed.restore(json.loads(json.dumps(whole.state())))
    for round, name in enumerate(names[stop:], stop):
        (folder / f"{name}.jsonl").touch()
        assert resumed.batch(round, frozenset()) == whole.batch(round, frozenset())
    assert resumed.state() == whole.state()


def test_a_state_that_names_files_which_are_gone_is_restored(tmp_path):
    growing = sampler(tmp_path)
    growing.setup = SamplerSetup((tuple(GIVEN),), None, True, 6, 4, 3, lambda path: ())
    growing.restore({"files": ["gone.jsonl"], "position": 4, "waiting": [2]})
    batch = growing.batch(0, frozenset())
    assert growing.given.batch(2)[0] in batch
    assert (len(batch), growing.state()) == (6, {"files": ["gone.jsonl"], "position": 9, "waiting": []})


def test_descriptions_are_written_for_the_other_program(tmp_path):
    prompt = make_prompt("p0", [IMAGE])
    group = make_group(
        "p0", None, [1.0, None, 0.0, 0.5], [DESCRIBED, DESCRIBED, "none", "<description>in fog</description>"]
    )
    growing = sampler(tmp_path)
    assert growing.observe([PromptRollouts(prompt, group, ())], 12) == {"descriptions": 2}
    written = (tmp_path / "wanted" / "step_000012.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == [
        {"made_from": "p0", "row": "rows.jsonl:p0", "description": text} for text in ("at night", "in fog")
    ]
    assert growing.observe([], 13) == {"descriptions": 0}
    assert not (tmp_path / "wanted" / "step_000013.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (DESCRIBED, "at night"),
        ("<description> </description>", None),
        (DESCRIBED * 2, None),
        ("<description>cut", None),
    ],
)
def test_a_description_is_the_only_one_of_its_response(text, found):
    assert RECIPE.description_of(text) == found


@pytest.mark.parametrize("wrong", [{"share": 1.5}, {"decay": 1.0}, {"files_per_round": 0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="want share"):
        settings(**wrong)


# --- the reward for descriptions


def rollouts(name, accuracies, made_from=None, text=""):
    extra = {} if made_from is None else {"made_from": made_from}
    rewards = [None if value is None else RewardResult(value, value, {}) for value in accuracies]
    return PromptRollouts(make_prompt(name, [IMAGE], extra_info=extra), make_group(name, None, rewards, text), ())


def amounts(rule, items, **changes):
    """What a step adds to each advantage; the base is 1 for all."""
    rows = sum(len(item.trained) for item in items)
    ones = torch.ones(rows, dtype=torch.float64)
    per_prompt = torch.zeros(len(items), dtype=torch.float64)
    base = Advantages(ones, ones, per_prompt > 0, per_prompt, per_prompt, per_prompt, per_prompt)
    found = rule(base, items, step_facts(settings(**changes)))
    assert torch.equal(found.weights, base.weights)
    return (found.values - base.values).tolist()


def test_the_reward_by_hand():
    rule = RECIPE.DescriptionReward()
    # Diversity of 1, 0, 1, 0: variance .25. Of 1, 1, 1, 0: mean .75, (3 * .0625 + .5625) / 4 = .1875.
    first = [rollouts("n0", [1, 0, 1, 0], "p0"), rollouts("n1", [1, 1, 1, 0, None], "p1")]
    assert amounts(rule, first) == [0.0] * 8, "their own responses describe nothing"
    assert rule.state() == {"diversity": {"p0": 0.25, "p1": 0.1875}, "mean": pytest.approx(0.21875)}
    second = [
        rollouts("p0", [1, 1], text=DESCRIBED),
        rollouts("p1", [1, None, 0], text=DESCRIBED),
        rollouts("p1x", [1, 0], text=DESCRIBED),
        rollouts("n2", [1, 1], "p0"),
    ]
    # n2 has variance 0: d(p0) = .9 * .25 = .225; m = .9 * .21875 = .196875.
    up, down = 0.5 * (0.225 - 0.196875), 0.5 * (0.1875 - 0.196875)
    assert amounts(rule, second) == pytest.approx([up, up, down, down, 0, 0, 0, 0])


def test_nothing_is_added_without_descriptions_or_new_rows():
    rule = RECIPE.DescriptionReward()
    assert amounts(rule, [rollouts("p0", [1, 0], text=DESCRIBED)]) == [0.0, 0.0]
    assert rule.state() == {"diversity": {}, "mean": None}
    amounts(rule, [rollouts("n0", [None, None], "p0")])
    assert rule.state() == {"diversity": {}, "mean": None}


ITEMS = st.lists(
    st.tuples(st.sampled_from(["a", "b", None]), st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)


@given(st.lists(ITEMS, min_size=1, max_size=5), st.integers(0, 4))
def test_a_resumed_rule_goes_on_as_the_one_before(steps, stop):
    def items(step):
        return [rollouts(parent or f"n{i}", values, parent, DESCRIBED) for i, (parent, values) in enumerate(step)]

    whole, resumed = RECIPE.DescriptionReward(), RECIPE.DescriptionReward()
    for step in steps[:stop]:
        amounts(whole, items(step))
    amounts(resumed, items(steps[0]))
    resumed.restore(json.loads(json.dumps(whole.state())))
    for step in steps[stop:]:
        assert amounts(resumed, items(step)) == amounts(whole, items(step))
    assert resumed.state() == whole.state()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(-0.5, 0.5))
def test_diversity_is_bounded_and_does_not_depend_on_the_level(values, shift):
    found = RECIPE.diversity(rollouts("n", values))
    assert 0 <= found <= 0.25 + 1e-12
    moved = RECIPE.diversity(rollouts("n", [value + shift for value in values]))
    assert moved == pytest.approx(found, abs=1e-9)


# --- configurations, and the stand-in


def test_the_description_does_not_change_the_score_of_the_boxes():
    from mars.rewards.grounding import score_grounding
    from tests.builders import make_item

    answer = '<answer>```json\n[{"bbox_2d": [0, 0, 9, 9], "label": "object"}]\n```</answer>'
    truth = '[{"bbox_2d": [0, 0, 9, 9], "label": "object"}]'
    scores = [
        score_grounding(make_item(f"<think>so{text}</think>{answer}", truth, (20, 20), (20, 20))).score
        for text in ("", " <description>at night</description>")
    ]
    assert scores[0] == scores[1] == 1.75


@pytest.mark.parametrize("name", ["syn_grpo_qwen2_5_vl_3b", "syn_grpo_tiny"])
def test_every_prompt_that_is_sampled_can_be_kept(name):
    """The rule must see samples without diversity too."""
    assert compose(ROOT / "recipe" / "syn_grpo", name).algorithm.selection == "all"


def test_the_stand_in_keeps_what_is_in_the_boxes(tmp_path):
    from pyarrow import Table, parquet

    scene = Image.effect_noise((20, 10), 90).convert("RGB")
    scene.save(tmp_path / "scene.png")
    rows = [
        {
            "data_source": "boxes",
            "prompt": [{"role": "user", "content": "<image>\nWhere?"}],
            "images": [{"bytes": None, "path": "scene.png"}],
            "reward_model": {"ground_truth": '[{"bbox_2d": [2, 1, 8, 5], "label": "x"}]'},
            "extra_info": {"id": "1", "sources": ["visible"]},
        }
    ]
    parquet.write_table(Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "step_000003.jsonl").write_text(
        json.dumps({"made_from": "p7", "row": f"{tmp_path}/rows.parquet:0", "description": "at night"}) + "\n"
    )
    PAINT.main(str(tmp_path / "step_000003.jsonl"), str(tmp_path / "out"))
    assert RECIPE.appeared(str(tmp_path / "out"), []) == ["step_000003.parquet"]
    (made,) = PAINT.rows_of(str(tmp_path / "out" / "step_000003.parquet"))
    assert made["extra_info"] == {"id": "step_000003_000000", "sources": ["visible"], "made_from": "p7"}
    image = PAINT.opened(made["images"][0], tmp_path)
    assert image.crop((2, 1, 8, 5)).tobytes() == scene.crop((2, 1, 8, 5)).tobytes()
    outside = {image.getpixel((x, y)) for x in range(20) for y in range(10) if not (2 <= x < 8 and 1 <= y < 5)}
    assert len(outside) == 1
