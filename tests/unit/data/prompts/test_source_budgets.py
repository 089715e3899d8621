"""Budgets of single sources: which sizes they give, and which names and strips are refused."""

from __future__ import annotations

import pytest

from mars.data.pixels.images import decoded_size
from mars.data.prompts.budget import (
    ImageBudget,
    check_limits,
    limit_images,
    model_image_size,
    num_image_tokens,
    source_budgets,
)
from mars.errors import ConfigError
from mars.types import ImageRef, Message, Prompt, Source

WHOLE = (3136, 1003520)
OWN = {"infrared": [3136, 200704], "depth": [802816, 1003520]}


def prompt_of(sizes, names=("visible", "infrared", "depth"), **fields):
    shown = zip(names, sizes, strict=False)
    sources = tuple(Source(name, ImageRef(f"{name}.png", size)) for name, size in shown)
    given = {"truth": "[]", "row": "rows.jsonl:7"} | fields
    return Prompt("p", data_source="t", messages=(Message("user", "<image>" * len(sources)),), sources=sources, **given)


def limited(prompt, own, budget):
    return limit_images(prompt, source_budgets(own, budget))


def test_only_named_sources_get_another_size():
    budget = ImageBudget(*WHOLE, 14, 2)
    prompt = prompt_of([(1280, 1024)] * 3)
    found, problems = limited(prompt, OWN, budget)
    assert problems == []
    assert [source.image.resized for source in found.sources] == [None, (476, 392), (1120, 896)]
    assert [decoded_size(source.image) for source in found.sources] == [(1280, 1024), (476, 392), (1120, 896)]
    assert [num_image_tokens(decoded_size(source.image), budget) for source in found.sources] == [1280, 238, 1280]
    assert [source.image.size for source in found.sources] == [(1280, 1024)] * 3
    assert limited(prompt, {}, budget) == (prompt, [])
    small = prompt_of([(64, 48)] * 3)
    found, _ = limited(small, OWN, budget)
    # 16.17 times as large, each side up to the next multiple of 28.
    assert found.sources[2].image.resized == (1036, 784)


def test_a_strip_that_its_limits_make_narrower_is_a_bad_row():
    budget, own = ImageBudget(784, 1003520, 14, 2), {"infrared": [784, 235200]}
    _, (problem,) = limited(prompt_of([(640, 480), (10600, 53)]), own, budget)
    assert (problem.row, problem.reason) == ("rows.jsonl:7", "image_size")
    assert "infrared: 6832x28 " in problem.detail
    assert "200:1" in problem.detail
    shown, problems = limited(prompt_of([(640, 480), (640, 480)]), own, budget)
    assert problems == []
    assert shown.sources[1].image.resized == model_image_size((640, 480), ImageBudget(784, 235200, 14, 2))


def test_a_name_that_no_row_has_is_refused():
    prompts = [prompt_of([(64, 64)]), prompt_of([(64, 64)] * 2)]
    budget = ImageBudget(*WHOLE, 14, 2)
    check_limits({"infrared": [1, 2]}, budget, prompts)
    check_limits({}, budget, [])
    with pytest.raises(ConfigError, match=r"source_image_pixels: no row has.*got infra_red; .* are visible, infrared$"):
        check_limits({"infrared": [1, 2], "infra_red": [1, 2]}, budget, prompts)
    with pytest.raises(ConfigError, match=r"are none$"):
        check_limits({"infrared": [1, 2]}, budget, [])


def test_a_filter_that_is_not_bicubic_is_not_kept_for_one_source():
    """These images are resized before the image processor, which would not resize them again."""
    budget = ImageBudget(*WHOLE, 14, 2, resample=2)
    assert source_budgets({}, budget) == {}
    with pytest.raises(ConfigError, match=r"bicubic filter, .* has resample=2; got limits for infrared, depth; set"):
        source_budgets(OWN, budget)


def test_images_that_the_models_files_enlarge_are_counted(caplog):
    budget = ImageBudget(*WHOLE, 16, 2, own_minimum=(65_536, "m/preprocessor_config.json has size.shortest_edge=65536"))
    prompts = [prompt_of([(256, 256), (128, 96)]), prompt_of([(640, 480), (8, 8)])]
    check_limits({}, budget, [prompt_of([(256, 256)])])
    assert caplog.records == []
    check_limits({}, budget, prompts)
    (record,) = caplog.records
    assert record.getMessage() == (
        "data.min_image_pixels: m/preprocessor_config.json has size.shortest_edge=65536, to which the model's own "
        "processor enlarges images, and 2 of 4 images are smaller; got 3136, which counts; to follow the file, set it "
        "to 65536"
    )
    limited_prompts = [limited(prompt, {"infrared": [3136, 200704]}, budget)[0] for prompt in prompts]
    check_limits({}, budget, limited_prompts)  # their limits are the user's own
    check_limits({}, ImageBudget(65_536, 1003520, 16, 2, own_minimum=budget.own_minimum), prompts)
    assert len(caplog.records) == 1
