"""Prompt ids and image sizes against the processors of Qwen2.5-VL, Qwen3-VL and Qwen3.5 themselves."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mars.data.pixels.images import decode_image
from mars.data.prompts.budget import ImageBudget, limit_images, model_image_size, num_image_tokens, source_budgets
from mars.data.prompts.chat import PromptEncoder, expand
from mars.data.prompts.lengths import longest_view
from mars.data.prompts.processor import PromptProcessor
from mars.data.synthetic.tiny_families import MAX_PIXELS, MIN_PIXELS, build_config, build_processor
from mars.data.synthetic.tiny_model import build_tokenizer
from mars.errors import SetupError
from mars.types import ImageRef, Message, Prompt, Source
from tests.examples import examples

REAL_PIXELS = (3136, 1003520)  # data.min_image_pixels and data.max_image_pixels as shipped


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl", "qwen3_5"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    processor = build_processor(request.param, build_tokenizer("tiny", 0, request.param))
    processor.save_pretrained(folder)
    build_config(request.param, processor.tokenizer, tie_word_embeddings=False).save_pretrained(folder)
    return str(folder), processor


def test_the_compiler_of_torch_is_not_imported_for_a_tokenizer(model):
    """mars/data/prompts/tokenizer.py says what it would cost."""
    code = (
        "import sys; from mars.data.prompts.chat import PromptEncoder; PromptEncoder.from_pretrained(sys.argv[1]);"
        "print(*{'torch._dynamo', 'sympy', 'torch.distributed.tensor'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, model[0]], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


def test_expanded_ids_are_the_processors(model):
    folder, processor = model
    encoder = PromptEncoder.from_pretrained(folder)
    budget = ImageBudget.from_pretrained(folder, MIN_PIXELS, MAX_PIXELS)
    sizes = [(112, 112), (57, 130), (300, 200)]
    pictures = [noise(*size) for size in sizes]
    messages = (Message("system", "Be brief."), Message("user", "<image>\n<image> and <image>Where is it?"))
    content = [
        {"type": "image"},
        {"type": "text", "text": "\n"},
        {"type": "image"},
        {"type": "text", "text": " and "},
        {"type": "image"},
        {"type": "text", "text": "Where is it?"},
    ]
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    expected = processor(text=[text], images=pictures)["input_ids"][0]
    ids = encoder.encode(messages, 3)
    tokens = [num_image_tokens(size, budget) for size in sizes]
    assert expand(ids, tokens, encoder.token_rules()) == tuple(expected)


@pytest.mark.parametrize("size", [(1280, 1024), pytest.param((1600, 900), marks=pytest.mark.slow), (640, 480)])
@pytest.mark.parametrize(
    "own",
    [None, (3136, 200704), *(pytest.param((low, 1003520), marks=pytest.mark.slow) for low in (501760, 3136))],
)
def test_prompts_of_real_sizes_are_the_processors(model, tmp_path, size, own):
    """Length and pixels, whether the second source has the limits of all images or its own."""
    folder, processor = model
    paths = [tmp_path / name for name in ("visible.png", "infrared.png")]
    for path in paths:
        noise(*size).save(path)
    sources = tuple(Source(path.stem, ImageRef(str(path), size)) for path in paths)
    prompt = Prompt("p", "rows:0", "t", (Message("user", "<image>\n<image>Where?"),), sources, "[]")
    budget = ImageBudget.from_pretrained(folder, *REAL_PIXELS)
    prompt, _ = limit_images(prompt, source_budgets({} if own is None else {"infrared": own}, budget))
    encoder = PromptEncoder.from_pretrained(folder)
    ours = PromptProcessor(
        folder,
        decode=decode_image,
        budget=budget,
        rules=encoder.token_rules(),
        cache_bytes=0,
    ).process(encoder.encode(prompt.messages, 2), [source.image for source in prompt.sources])
    assert longest_view(prompt, encoder, budget, "single") == len(ours.input_ids)
    for k, (low, high) in enumerate((REAL_PIXELS, own or REAL_PIXELS)):
        limits = {"shortest_edge": low, "longest_edge": high}
        expected = processor.image_processor(images=[Image.open(paths[k])], size=limits, return_tensors="pt")
        assert ours.image_grid_thw[k] == tuple(expected["image_grid_thw"][0].tolist())
        assert torch.equal(ours.pixel_values[k], expected["pixel_values"])
    if own is None:
        parts = [
            {"type": "image"},
            {"type": "text", "text": "\n"},
            {"type": "image"},
            {"type": "text", "text": "Where?"},
        ]
        turns = [{"role": "user", "content": parts}]
        text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        whole = processor(text=[text], images=[Image.open(path) for path in paths], size=limits)
        assert ours.input_ids.tolist() == list(whole["input_ids"][0])


def test_rules_cover_the_whole_vocabulary_of_the_model(model):
    folder, processor = model
    rules = PromptEncoder.from_pretrained(folder).token_rules()
    tokenizer = processor.tokenizer
    assert rules.eos_ids == (tokenizer.eos_token_id,)
    free = set(range(max(rules.blocked_ids) + 1)) - set(rules.blocked_ids)
    assert {tokenizer.convert_ids_to_tokens(i) for i in free} >= {"<|im_end|>", "<|endoftext|>", "<|box_start|>"}
    assert not free - set(range(len(tokenizer)))
    vocab_size = build_config("qwen2_5_vl", tokenizer, tie_word_embeddings=False).text_config.vocab_size
    assert max(rules.blocked_ids) == vocab_size - 1


def test_a_folder_without_an_image_processor_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl"}')
    with pytest.raises(SetupError, match=r"no image processor with patch_size and merge_size; .* a Qwen3-VL model"):
        ImageBudget.from_pretrained(str(tmp_path), 1, 2)


@examples(150)
@given(
    st.integers(4, 5000),
    st.integers(4, 5000),
    st.sampled_from([(14, 2), (16, 2)]),
    st.sampled_from([(56 * 56, 28 * 28 * 1280), (28 * 28, 224 * 224), (256 * 256, 768 * 768)]),
)
def test_sizes_are_those_of_the_library(width, height, patch, pixels):
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    if max(width, height) > 200 * min(width, height):
        return
    budget = ImageBudget(*pixels, *patch)
    expected = smart_resize(height, width, factor=patch[0] * patch[1], min_pixels=pixels[0], max_pixels=pixels[1])
    assert model_image_size((width, height), budget) == (expected[1], expected[0])


@pytest.mark.parametrize("patch_size", [14, 16])
@pytest.mark.parametrize("size", [(112, 112), (57, 300), (640, 480), (31, 30), (1280, 1024)])
def test_tokens_are_those_of_the_real_image_processor(size, patch_size):
    from transformers import Qwen2VLImageProcessor

    budget = ImageBudget(56 * 56, 448 * 448, patch_size, 2)
    processor = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 448 * 448}, patch_size=patch_size)
    _, h, w = processor(images=[noise(*size)], return_tensors="pt")["image_grid_thw"][0].tolist()
    assert model_image_size(size, budget) == (w * patch_size, h * patch_size)
    assert num_image_tokens(size, budget) == h * w // 4
