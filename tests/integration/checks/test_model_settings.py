"""Numbers of config.json that the weights' shapes do not reveal: each is refused with its key, in all families."""

from __future__ import annotations

import copy
import json
import re

import pytest

from mars.checks.model_settings import check_settings, check_words
from mars.errors import SetupError

TEXT, VISION = "text_config", "vision_config"
# What the models do not read, or read as any number.
ANY = {"sliding_window", "max_window_layers", "transformers_version"}


@pytest.fixture
def check(tmp_path):
    """config.json -> None, or the message that refuses it."""
    from transformers import AutoConfig

    from mars.checks.architecture import _naming

    def run(content: str) -> str | None:
        (tmp_path / "config.json").write_text(content)
        try:
            check_words(tmp_path, "model.path")
            with _naming("model.path", tmp_path / "config.json"):
                config = AutoConfig.from_pretrained(str(tmp_path))
            check_settings(config, tmp_path, "model.path")
        except SetupError as error:
            start = f"model.path: {tmp_path}/config.json: "
            return str(error).removeprefix(start)
        return None

    return run


@pytest.fixture(params=["tiny", "tiny_qwen3"])
def values(request):
    return json.loads((request.getfixturevalue(request.param) / "config.json").read_text())


def changed(values, *path_and_value):
    """The file with one value replaced. A text is written as it is, so that "1e999" is a number."""
    *path, value = path_and_value
    values = copy.deepcopy(values)
    node = values
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = "@@"
    return json.dumps(values).replace('"@@"', value)


def numbers(values, *path):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from numbers(value, *path, name)
        elif type(value) in (int, float) and name not in ANY:
            yield (*path, name), value


@pytest.mark.parametrize("family", ["tiny", "tiny_qwen3", "tiny_qwen3_5", "tiny_qwen2", "tiny_internvl"])
def test_every_number_of_both_parts_is_checked(request, check, family):
    values = json.loads((request.getfixturevalue(family) / "config.json").read_text())
    assert check(json.dumps(values)) is None
    found = [(path, value) for path, value in numbers(values) if path[0] in (TEXT, VISION)]
    assert len(found) > 20
    for path, value in found:
        if path[-1] in ("eos_token_id", "bos_token_id") and values["model_type"] == "qwen3_vl":
            continue  # its text model does not declare them
        if path == (TEXT, "partial_rotary_factor"):
            continue  # where rope_parameters has one, it counts
        for wrong in ("-1", "-0.5", "1e999", '"7"', "true", "{}", "[0.5]"):
            message = check(changed(values, *path, wrong))
            assert message is not None, (path, wrong)
            assert path[-1] in message, (path, wrong, message)
        if type(value) is int and not path[-1].endswith("token_id"):
            assert path[-1] in (check(changed(values, *path, "0")) or ""), path


def test_values_that_only_a_forward_pass_would_reveal(check, values):
    cases = {
        (TEXT, "rope_parameters", "rope_theta", "0"): "text_config.rope_parameters.rope_theta must be a finite number",
        (TEXT, "rope_parameters", "mrope_section", "[4, 6, 5]"): "mrope_section must be whole numbers of sum 16",
        (TEXT, "rope_parameters", "rope_type", '"far"'): "text_config.rope_parameters.rope_type must be a kind",
        (TEXT, "rms_norm_eps", "0.0"): "text_config.rms_norm_eps must be a number above 0; got 0.0",
        (TEXT, "num_key_value_heads", "2"): "text_config.num_key_value_heads must be a divisor of num_attention_heads",
        (TEXT, "attention_dropout", "1.0"): "text_config.attention_dropout must be a number below 1",
        (TEXT, "attention_dropout", "null"): "attention_dropout",
        (TEXT, "pad_token_id", "-5"): "text_config.pad_token_id must be a whole number below 640; got -5",
        (TEXT, "hidden_act", '"slu"'): "text_config.hidden_act must be an activation",
        (TEXT, "dtype", '"float31"'): "text_config.dtype must be a type of torch",
        (TEXT, "tie_word_embeddings", "1"): "text_config.tie_word_embeddings must be true or false; got 1",
        (VISION, "model_type", "7"): "vision_config.model_type must be text",
        (VISION, "num_heads", "5"): "vision_config.hidden_size must be a multiple of 5, num_attention_heads",
        (VISION, "patch_size", "[14]"): "vision_config.patch_size must be a whole number, at least 1; got [14]",
    }  # fmt: skip
    if values["model_type"] == "qwen2_5_vl":
        cases |= {
            (VISION, "window_size", "0"): "vision_config.window_size must be a whole number, at least 1; got 0",
            (VISION, "window_size", "27"): "vision_config.window_size must be at least 28, patch_size * spatial_merge",
            (VISION, "tokens_per_second", "0"): "vision_config.tokens_per_second must be a whole number, at least 1",
            (VISION, "fullatt_block_indexes", "[999]"): "fullatt_block_indexes must be different numbers of layers, fr",
            (VISION, "fullatt_block_indexes", "[1, 1]"): "fullatt_block_indexes must be different numbers of layers",
            (VISION, "fullatt_block_indexes", "1"): "fullatt_block_indexes",
            (TEXT, "layer_types", '["full_attention"]'): "layer_types",
            (TEXT, "layer_types", json.dumps(["sliding_attention"] * 3)): "text_config.sliding_window must be a whole",
        }  # fmt: skip
    else:
        cases |= {
            (VISION, "deepstack_visual_indexes", "[-1]"): "deepstack_visual_indexes must be a list of whole numbers",
            (VISION, "deepstack_visual_indexes", "[99]"): "deepstack_visual_indexes must be different numbers of la",
            (TEXT, "rope_parameters", "mrope_interleaved", '"no"'): "mrope_interleaved must be true or false",
        }
    for path, part in cases.items():
        assert part in (check(changed(values, *path)) or "accepted"), path


def test_heads_and_layers_of_linear_attention(check, tiny_qwen3_5):
    values = json.loads((tiny_qwen3_5 / "config.json").read_text())
    cases = {
        (TEXT, "linear_num_key_heads", "3"): "text_config.linear_num_value_heads must be a multiple of linear_num_key",
        (
            TEXT,
            "rope_parameters",
            "mrope_section",
            "[6, 5, 5]",
        ): "must be whole numbers of sum 8, half of .* times part",
        (TEXT, "rope_parameters", "partial_rotary_factor", "0.25"): "mrope_section must be whole numbers of sum 4",
        (TEXT, "layer_types", '["linear_attention"]'): "layer_types",
        (TEXT, "layer_types", json.dumps(["sliding_attention"] * 3)): "sliding_window must be a whole number",
    }
    for path, part in cases.items():
        assert re.search(part, check(changed(values, *path)) or "accepted"), path


@pytest.mark.parametrize("wrong", ["[56, 0]", "[56]", "[56, 56, 56]", "0", "[0.5, 56]", "null"])
def test_height_and_width_are_two_counts(check, tiny_internvl, wrong):
    values = json.loads((tiny_internvl / "config.json").read_text())
    assert check(changed(values, VISION, "image_size", "56")) is None
    assert "image_size" in (check(changed(values, VISION, "image_size", wrong)) or "accepted")


def test_older_files_give_a_setting_at_another_place_which_is_named(check):
    vision = {"depth": 32, "hidden_size": 1280, "in_chans": 3, "spatial_patch_size": 14, "tokens_per_second": 2,
              "fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112, "out_hidden_size": 3584}  # fmt: skip
    flat = {
        "model_type": "qwen2_5_vl", "bos_token_id": 151643, "eos_token_id": 151645, "hidden_size": 3584,
        "intermediate_size": 18944, "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "use_sliding_window": False,
        "max_window_layers": 28, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 152064,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "vision_config": vision,
    }  # fmt: skip
    assert check(json.dumps(flat)) is None
    assert (check(changed(flat, "rope_theta", "0")) or "").startswith("rope_theta must be a finite number")
    assert (check(changed(flat, "rope_scaling", "mrope_section", "[16]")) or "").startswith(
        "rope_scaling.mrope_section"
    )
    assert (check(changed(flat, "rms_norm_eps", "1e999")) or "").startswith("rms_norm_eps must be a number above 0")
