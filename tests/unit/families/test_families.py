"""The table of families, and what a family says about sizes of images, by hand."""

from __future__ import annotations

import json

import pytest

from mars.checks.model import check_files
from mars.data.prompts.budget import ImageBudget, check_colours, check_image_processor, warn_of_smaller_images
from mars.errors import SetupError
from mars.families.qwen_vl import SMART_RESIZE, read_sizing
from mars.families.table import FAMILIES, check_language, family_of


def test_a_family_that_is_not_supported_is_refused_with_those_that_are():
    assert family_of("qwen3_vl", "x").name == "Qwen3-VL"
    for other in ("llava", "qwen3_5_moe", "qwen3_vl_moe", None, ["qwen3_vl"]):
        with pytest.raises(SetupError) as caught:
            family_of(other, "model.path: m/config.json")
        known = ", ".join(f"{type_} ({family.name})" for type_, family in FAMILIES.items())
        assert str(caught.value) == (
            f"model.path: m/config.json: model_type must be one of {known}; got {other!r}; "
            "use a model of one of these families"
        )
        assert (caught.value.exit_code, "qwen2_5_vl (Qwen2.5-VL)" in known) == (4, True)


def test_the_language_model_must_be_one_that_fsdp_can_shard():
    config = {"model_type": "internvl", "text_config": {"model_type": "gpt_oss"}}
    with pytest.raises(
        SetupError, match=r"m: text_config\.model_type must be one of qwen2, qwen3 in .* InternVL; got 'gp"
    ):
        check_language(FAMILIES["internvl"], config, "m")
    for named in ({"model_type": "qwen3"}, {}, None):
        check_language(FAMILIES["internvl"], {"text_config": named}, "m")
    check_language(FAMILIES["qwen3_vl"], config, "m")  # transformers has one language model for it


def test_a_folder_of_another_family_is_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    with pytest.raises(SetupError, match=r"algorithm\.kl_reference: .*config\.json: model_type .*; got 'llava'"):
        check_files(str(tmp_path), "algorithm.kl_reference")


def test_how_each_family_writes_boxes():
    assert {type_: family.box_space for type_, family in FAMILIES.items()} == {
        "qwen2_5_vl": "resized_pixels",
        "qwen3_vl": "norm_1000",
        "qwen3_5": "norm_1000",
        "qwen2_vl": "norm_1000",
        "internvl": "norm_1000",
    }


def test_what_smart_resize_is_told_and_needs():
    budget = ImageBudget(784, 50176, 14, 2)
    assert budget.processor_settings() == {"size": {"shortest_edge": 784, "longest_edge": 50176}}
    assert budget.max_bytes == 50176 * 3 * 2 * 4  # channels, frames, float32


def test_sizes_of_patches_are_read_and_compared_with_the_model():
    vision = {"patch_size": 16, "spatial_merge_size": 2}
    assert read_sizing({"patch_size": 16, "merge_size": 2}, {}, {"vision_config": vision}, "f") == (16, 2, SMART_RESIZE)
    with pytest.raises(
        SetupError, match=r"f: patch_size must be 16, as config\.json's vision_config\.patch_size; got 14"
    ):
        read_sizing({"patch_size": 14, "merge_size": 2}, {}, {"vision_config": vision}, "f")


OWN = {"auto_map": {"AutoImageProcessor": "code.Processor"}, "image_processor_type": "Processor"}


@pytest.mark.parametrize(
    ("model_type", "right", "wrong"),
    [
        (
            "qwen2_5_vl",
            "Qwen2VLImageProcessor",
            ("Qwen2_5_VLImageProcessor", "CLIPImageProcessor", "Glm4vImageProcessor"),
        ),
        ("qwen3_vl", "Qwen2VLImageProcessor", ("Qwen3VLImageProcessor", "GotOcr2ImageProcessor", "")),
        ("internvl", "GotOcr2ImageProcessor", ("InternVLImageProcessor", "Qwen2VLImageProcessor", 3)),
    ],
)
def test_the_image_processor_must_be_the_familys(model_type, right, wrong):
    """transformers does not know the first class of each row. It would load the second, and make other pixels."""
    family = FAMILIES[model_type]
    for accepted in ({}, {"image_processor_type": right}, {"image_processor_type": f"{right}Fast"}, OWN):
        check_image_processor(accepted, family, "m/preprocessor_config.json")
    for name in wrong:
        with pytest.raises(SetupError) as caught:
            check_image_processor({"image_processor_type": name}, family, "m/preprocessor_config.json")
        assert caught.value.exit_code == 4
        assert str(caught.value) == (
            f"model.path: m/preprocessor_config.json: image_processor_type must be {right}, which makes the images of "
            f"{family.name}; got {name!r}; write {right} there, or use the processor files of this model"
        )


def sizing_of(settings, frames):
    vision = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": frames}
    check_image_processor(settings, FAMILIES["qwen2_5_vl"], "f")
    return read_sizing(settings, {}, {"vision_config": vision}, "f")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"do_resize": False}, "do_resize must be true, because .* data.max_image_pixels; got False; remove it"),
        ({"do_resize": None}, "do_resize must be true"),
        ({"do_resize": "true"}, "do_resize must be true"),
        ({"do_center_crop": True}, "do_center_crop must be false"),
        ({"do_rescale": False}, "do_rescale must be true, because images have 8 bits"),
        ({"do_pad": 1}, "do_pad must be false"),
        ({"size": {"height": 448, "width": 448}}, "size must have shortest_edge and longest_edge"),
        ({"size": 448}, "size must have shortest_edge and longest_edge"),
        ({"size": {"shortest_edge": 3136, "longest_edge": 9999, "max_height": 5}}, "size must have"),
        ({"temporal_patch_size": 1}, "temporal_patch_size must be 2"),
    ],
)
def test_settings_with_which_sizes_are_others_are_refused(settings, said):
    whole = {"patch_size": 14, "merge_size": 2} | settings
    with pytest.raises(SetupError, match=f"model.path: f: {said}") as caught:
        sizing_of(whole, frames=2)
    assert caught.value.exit_code == 4


def test_a_model_of_single_frames_needs_a_processor_of_single_frames():
    """transformers makes two frames where its file does not say how many."""
    with pytest.raises(SetupError, match=r"temporal_patch_size must be 1, as .*; got 2"):
        sizing_of({"patch_size": 14, "merge_size": 2}, frames=1)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_resize": True, "do_center_crop": None, "do_pad": False, "size": None},
        {"size": {"height": None, "shortest_edge": 3136, "longest_edge": 12_845_056}},
        {"size": {"min_pixels": 3136, "max_pixels": 12_845_056}, "min_pixels": 3136},
        {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": False, "resample": 2, "do_convert_rgb": None},
    ],
)
def test_settings_that_are_kept_are_taken(settings):
    """Rescaling and normalization are the image processor's own, in the engine and in the trainer."""
    assert sizing_of({"patch_size": 14, "merge_size": 2} | settings, frames=2) == (14, 2, SMART_RESIZE)


COLOURS = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "image_mean must be three numbers, .* got None"),
        ({"image_mean": COLOURS["image_mean"]}, "image_std must be three numbers"),
        (COLOURS | {"image_std": 0.5}, "image_std must be three numbers, .* got 0.5"),
        (COLOURS | {"image_mean": [0.5]}, "image_mean must be three numbers"),
        (COLOURS | {"image_mean": ["0.5", 0.5, 0.5]}, "image_mean must be three numbers"),
        ({"do_normalize": True, "do_rescale": True}, "image_mean must be three numbers"),
        ({"do_normalize": False}, "do_rescale must be there, .* set it to true"),
    ],
)
def test_what_engine_and_trainer_would_complete_differently_is_refused(settings, said):
    """Without image_mean, vLLM does not normalize, and transformers does with the numbers of CLIP."""
    with pytest.raises(SetupError, match=f"model.path: f: {said}"):
        check_colours(settings, "f")


@pytest.mark.parametrize(
    "settings", [COLOURS, COLOURS | {"do_normalize": False}, {"do_normalize": False, "do_rescale": True}]
)
def test_colours_that_both_read_alike(settings):
    check_colours(settings, "f")


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"max_pixels": 200_704}, "max_pixels=200704"),
        ({"size": {"longest_edge": 200_704, "shortest_edge": 3136}}, "size.longest_edge=200704"),
        ({"max_pixels": 200_704, "size": {"longest_edge": 12_845_056}}, "max_pixels=200704"),
        ({"max_pixels": 12_845_056, "size": {"longest_edge": 200_704}}, None),  # as transformers reads both
        ({"max_pixels": 12_845_056}, None),  # of the public folders
        ({"max_pixels": None, "size": {"height": 448, "width": 448}}, None),  # of InternVL
        ({"size": 448}, None),
        ({"size": {"min_pixels": 3136, "max_pixels": 200_704}}, "size.max_pixels=200704"),  # of 2024
        ({"max_patches": 1, "size": {"height": 448, "width": 448}}, "max_patches=1"),  # of InternVL
        ({"max_patches": 12, "size": {"height": 448, "width": 448}}, None),
        ({}, None),
    ],
)
def test_a_model_made_for_smaller_images_is_warned_of(settings, warned, caplog, tmp_path):
    """The run's limit replaces that of the file."""
    for _ in range(2):
        warn_of_smaller_images(settings, 1_003_520, f"{tmp_path}/preprocessor_config.json")
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (warned is not None)
    assert warned is None or f"has {warned}, so the model" in messages[0]
    assert warned is None or "got 1003520, which counts; to follow the file, set it to 200704" in messages[0]
