"""The tiny models are complete: tokenizer, template, processor and weights load and fit together as real ones do."""

import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Template
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from mars.cli.app import app
from mars.config.templates import template_folder
from mars.data.convert.llvip import QUESTION
from mars.data.prompts.chat import PromptEncoder, expand
from mars.data.synthetic import tiny_model
from mars.data.synthetic.benchmark import QUESTIONS
from mars.data.synthetic.benchmark_rows import response
from mars.data.synthetic.scenes import make_scene
from mars.data.synthetic.tiny_model import SPECIAL_TOKENS, build_tiny, build_tokenizer
from mars.data.synthetic.write import worked_answer
from mars.types import Message
from tests.examples import examples

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
TOKENIZER = build_tokenizer("tiny", seed=0)
PROMPT = Template((template_folder() / "grounding.jinja").read_text()).render(question=QUESTION, box_space="pixels")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    return build_tiny(tmp_path_factory.mktemp("tiny") / request.param, seed=0, family=request.param)


def image(side, seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


@examples(200)
@given(st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=60))
def test_any_text_decodes_to_itself(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n\n \t\r\n",
        "Ünï, 東京 🚶🏽 \u200d\ufeff e\u0301",
        "1,2 , 3 !  ?",
        "<think>< /think></think><",
        "0123 -7.5e3",
        "a" * 5000,
    ],
)
def test_awkward_texts_decode_to_themselves(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_the_loaded_tokenizer_is_the_built_one(folder):
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded.get_vocab() == TOKENIZER.get_vocab()
    for text in (
        PROMPT,
        worked_answer(make_scene(0, 0), ("visible", "infrared"), "visible"),
        "any 東京 text 77",
    ):
        assert loaded.encode(text) == TOKENIZER.encode(text)


def test_coordinates_are_single_tokens_and_answers_short():
    for number in range(113):
        before, own, after = (TOKENIZER.encode(text) for text in (" [", str(number), ", "))
        assert len(own) == 1
        assert TOKENIZER.encode(f" [{number}, ") == before + own + after
    assert len(TOKENIZER.encode(worked_answer(make_scene(0, 0), ("visible", "infrared"), "infrared"))) <= 24
    assert len(TOKENIZER.encode(f"\n{PROMPT}")) <= 32


def test_the_quick_starts_tokenizer_never_changes():
    vocabulary = json.dumps(sorted(TOKENIZER.get_vocab().items()))
    assert (
        hashlib.sha256(vocabulary.encode()).hexdigest()
        == "d57d8eda9d6dcbad65f6a73dd1c5acd29b551c6d093caf8b40d18ba1925c9f11"
    )


def test_the_benchmarks_tokenizer_makes_prompts_and_answers_short():
    tokenizer = build_tokenizer("benchmark", seed=0)
    pieces = {
        text: [tokenizer.decode([token]) for token in tokenizer.encode(text)]
        for text in (response("visible", "16"), response("looking", "2 1 6 4"))
    }
    assert pieces[response("visible", "16")] == ["<think>", "visible", "</think>", "<answer>", "16", "</answer>"]
    assert pieces[response("looking", "2 1 6 4")][3:] == ["<answer>", "2", " 1", " 6", " 4", "</answer>"]
    assert all(len(tokenizer.encode(question)) <= 2 for question in QUESTIONS.values())
    assert len(tokenizer) < 512
    for text in ("", " \n\n", "How many? 3.5 or 17", "Ünï, 東京 <think>< /think>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_one_id_each_and_disappear_when_skipped():
    for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|vision_start|>", "<|image_pad|>", "<|video_pad|>"):
        ids = TOKENIZER.encode(f"a{token}b")
        assert ids == [*TOKENIZER.encode("a"), TOKENIZER.convert_tokens_to_ids(token), *TOKENIZER.encode("b")]
        assert TOKENIZER.decode(ids, skip_special_tokens=True) == "ab"
    assert (TOKENIZER.eos_token, TOKENIZER.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_the_template_is_chatml_with_a_default_system_turn(folder):
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Where?"}]},
        {"role": "assistant", "content": "There."},
        {"role": "user", "content": "Sure?"},
    ]
    media = "<|vision_start|><|image_pad|><|vision_end|>"
    expected = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{media}{media}Where?<|im_end|>\n<|im_start|>assistant\nThere.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n"
    )
    processor = AutoProcessor.from_pretrained(folder)
    for template in (processor, processor.tokenizer):
        assert template.apply_chat_template(turns, tokenize=False) == expected
        prompted = template.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert prompted == expected + "<|im_start|>assistant\n"
    own_system = [{"role": "system", "content": "Be brief."}, *turns[2:]]
    assert processor.apply_chat_template(own_system, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n"
    )


def test_the_processors_ids_are_the_encoders_with_placeholders_expanded(folder):
    processor = AutoProcessor.from_pretrained(folder)
    encoder = PromptEncoder.from_pretrained(str(folder))
    step = processor.image_processor.patch_size * 2
    images = [image(2 * step, 0), image(3 * step, 1)]  # 4 and 9 merged tokens
    content = [*({"type": "image", "image": picture} for picture in images), {"type": "text", "text": "\nWhere?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    prompt = encoder.encode([Message("user", "<image><image>\nWhere?")], 2)
    assert tuple(inputs["input_ids"][0].tolist()) == expand(prompt, [4, 9], encoder.token_rules())


def test_ids_of_config_and_tokenizer_agree_and_the_vocabulary_is_padded(folder):
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert config.image_token_id == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert config.video_token_id == tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert config.vision_start_token_id == tokenizer.convert_tokens_to_ids("<|vision_start|>")
    assert config.text_config.eos_token_id == tokenizer.eos_token_id
    assert config.text_config.vocab_size > len(tokenizer)
    blocked = set(PromptEncoder.from_pretrained(str(folder)).token_rules().blocked_ids)
    assert set(range(len(tokenizer), config.text_config.vocab_size)) <= blocked


def test_the_model_sees_both_images(folder):
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    assert 3e5 < model.num_parameters() < 1.5e6
    side = processor.image_processor.patch_size * 4
    text = "<|vision_start|><|image_pad|><|vision_end|>" * 2 + "Where?"

    def logits(*seeds):
        inputs = processor(text=[text], images=[image(side, seed) for seed in seeds], return_tensors="pt")
        with torch.no_grad():
            return model(**inputs).logits[0, -1]

    base = logits(0, 1)
    assert torch.isfinite(base).all()
    assert (logits(0, 1) - base).abs().max() == 0
    assert (logits(2, 1) - base).abs().max() > 1e-4
    assert (logits(0, 2) - base).abs().max() > 1e-4


def weights_digest(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_same_seed_same_weights_whatever_the_random_state(tmp_path):
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    one = build_tiny(tmp_path / "one", seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    again = tmp_path / "again"
    app(["data", "synth", str(again), "--model", "tiny", "--seed", "4"], standalone_mode=False)
    other = build_tiny(tmp_path / "other", seed=5)
    assert weights_digest(one) == weights_digest(again) != weights_digest(other)
    for name in ("tokenizer.json", "config.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_tied_embeddings_share_one_matrix(tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(build_tiny(tmp_path, seed=0, tie_word_embeddings=True))
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def test_a_vocabulary_is_filled_up_with_merges_of_earlier_tokens(monkeypatch):
    monkeypatch.setattr(tiny_model, "REAL_IDS", 3000)
    one, again, other = (build_tokenizer("real", seed) for seed in (5, 5, 6))
    assert len(one) == 3000
    assert one.get_vocab() == again.get_vocab() != other.get_vocab()
    assert {"<think>", "</answer>", "112"} <= one.get_vocab().keys()
    for text in ("<think> the person </think>", "Grüße, 東京 \U0001f600\n\t x=3.5", "".join(map(chr, range(32, 127)))):
        assert one.decode(one.encode(text, add_special_tokens=False)) == text
    assert max(one.convert_tokens_to_ids(SPECIAL_TOKENS)) == 2999


def test_scenes_and_models_are_made_one_at_a_time(tmp_path):
    from mars.cli.data import synth
    from mars.errors import ConfigError

    with pytest.raises(ConfigError, match="--train: only for scenes"):
        synth(tmp_path / "a", seed=0, train=3, model="tiny")
    with pytest.raises(ConfigError, match="--test, --cold-start, --bias: not set"):
        synth(tmp_path / "a", seed=0, train=3)
    with pytest.raises(ConfigError, match="--task, --no-source-names: only for the benchmark's scenes"):
        synth(tmp_path / "a", seed=0, train=3, test=1, cold_start=1, bias=0.5, task="box", no_source_names=True)
    with pytest.raises(ConfigError, match="--scenes: a model of 151,936 ids has one vocabulary"):
        synth(tmp_path / "a", seed=0, model="real-vocabulary", scenes="benchmark")
    assert not (tmp_path / "a").exists()
