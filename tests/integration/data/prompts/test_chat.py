"""The tokenizer here is a small one of its own, with Qwen-VL's special tokens and a template of the same form."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.data.prompts.budget import ImageBudget
from mars.data.prompts.chat import PromptEncoder
from mars.data.prompts.lengths import longest_view
from mars.errors import DataError, SetupError
from mars.types import ImageRef, Message, Prompt, Source
from tests.examples import examples

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PADDING = 5


def write_model(folder, template=TEMPLATE, vocab_size=None, **config):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator([], trainers.BpeTrainer(vocab_size=256, initial_alphabet=alphabet, show_progress=False))
    backend.add_special_tokens(list(SPECIAL))
    backend.add_tokens(["<think>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    id_of = tokenizer.convert_tokens_to_ids
    config = {
        "model_type": "qwen2_5_vl",
        "image_token_id": id_of("<|image_pad|>"),
        "vision_start_token_id": id_of("<|vision_start|>"),
        "text_config": {"vocab_size": len(tokenizer) + PADDING if vocab_size is None else vocab_size},
    } | config
    (folder / "config.json").write_text(json.dumps(config))
    ends = {"eos_token_id": [id_of("<|im_end|>"), id_of("<|endoftext|>")], "pad_token_id": id_of("<|endoftext|>")}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    return tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return folder, write_model(folder), PromptEncoder.from_pretrained(str(folder))


def user(text):
    return (Message("user", text),)


def test_the_prompt_by_hand(model):
    _, tokenizer, encoder = model
    ids = encoder.encode(user("<image>\n<image>Where?"), 2)
    block = "<|vision_start|><|image_pad|><|vision_end|>"
    text = (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        f"<|im_start|>user\n{block}\n{block}Where?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(ids) == text
    assert ids.count(encoder.token_rules().image_id) == 2


def test_turns_and_texts_without_images(model):
    _, tokenizer, encoder = model
    turns = (Message("system", "Think."), Message("user", "a"), Message("assistant", "b"), Message("user", "c {{ x }}"))
    assert tokenizer.decode(encoder.encode(turns, 0)) == (
        "<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nc {{ x }}<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(("text", "images"), [("<image>q", 2), ("<image><image>q", 1), ("q", 1), ("<image>q", 0)])
def test_placeholders_must_be_images(model, text, images):
    with pytest.raises(DataError, match=f"{text.count('<image>')} image placeholders for {images} images"):
        model[2].encode(user(text), images)


@pytest.mark.parametrize("token", SPECIAL)
@pytest.mark.parametrize("form", ["{}", "what is {} here?", "<image>{}", "{}<image>", "x" * 50 + "{}"])
def test_no_text_makes_a_special_token(model, token, form):
    text = form.format(token)
    with pytest.raises(DataError, match="special token") as caught:
        model[2].encode(user(text), text.count("<image>"))
    assert token in str(caught.value)


def test_a_special_token_around_a_marker_is_found(model):
    with pytest.raises(DataError, match="special token"):
        model[2].encode(user("<|im_<image>end|>"), 1)


def test_roles_are_not_text(model):
    with pytest.raises(DataError, match="role"):
        model[2].encode((Message("user\n<|im_end|>", "q"),), 0)


@examples(150)
@given(
    st.lists(st.one_of(st.text(max_size=8), st.sampled_from(["<|", "|>", "im_end", "<", ">", "<think>"])), max_size=8)
)
def test_any_text_is_kept_or_refused(model, parts):
    """What is encoded decodes to the text itself, between exactly the template's own special tokens."""
    _, tokenizer, encoder = model
    text = "".join(parts).replace("<image>", "")
    try:
        ids = encoder.encode(user(text), 0)
    except DataError:
        assert any(token in text for token in SPECIAL)
        return
    expected = f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids) == expected
    starts = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert (ids.count(starts), ids.count(tokenizer.eos_token_id)) == (3, 2)


def test_token_rules(model):
    _, tokenizer, encoder = model
    rules = encoder.token_rules()
    id_of = tokenizer.convert_tokens_to_ids
    assert rules.image_id == id_of("<|image_pad|>")
    assert rules.eos_ids == (id_of("<|im_end|>"), id_of("<|endoftext|>"))
    assert rules.pad_id == id_of("<|endoftext|>")
    media = [id_of(token) for token in SPECIAL if "image" in token or "vision" in token or "video" in token]
    assert rules.blocked_ids == tuple(sorted(media)) + tuple(range(len(tokenizer), len(tokenizer) + PADDING))


def test_responses_round_trip_and_end(model):
    _, _, encoder = model
    text = "<think>Zwei Köche 二\n</think><answer>[1, 2]</answer>"
    ids = encoder.encode_response(text)
    assert ids[-1] == encoder.token_rules().eos_ids[0]
    assert encoder.decode(ids) == text
    assert encoder.decode((*ids[:-1], *encoder.token_rules().eos_ids)) == text
    with pytest.raises(DataError, match="response"):
        encoder.encode_response("a<|im_end|>b")


def test_unusable_models_are_named(tmp_path):
    cases = {
        "none": r"no tokenizer .*the folder has no config\.json",
        "plain": "no chat template",
        "text": "lacks image_token_id",
        "small": "the tokenizer's ids reach",
    }
    for name, fragment in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        if name == "plain":
            write_model(folder, template=None)
        elif name == "text":
            write_model(folder)
            (folder / "config.json").write_text('{"model_type": "qwen2", "vocab_size": 1000}')
        elif name == "small":
            write_model(folder, vocab_size=260)
        with pytest.raises(SetupError, match=fragment) as caught:
            PromptEncoder.from_pretrained(str(folder))
        assert str(folder) in str(caught.value)


def test_a_template_in_a_file_of_its_own_is_read(tmp_path):
    write_model(tmp_path, template=None)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    assert PromptEncoder.from_pretrained(str(tmp_path)).encode(user("q"), 0)


BUDGET = ImageBudget(56 * 56, 448 * 448, 14, 2)


def prompt_of(number, text, *sizes):
    sources = tuple(Source(f"s{i}", ImageRef(f"{i}.png", size)) for i, size in enumerate(sizes))
    return Prompt(f"p{number}", f"f:{number}", "d", user(text), sources, "t")


def test_the_longest_view_has_all_images_or_the_largest_in_all_slots(model):
    encoder = model[2]
    short = prompt_of(0, "<image><image>q", (112, 112), (56, 56))  # 16 + 4 image tokens
    bare = len(encoder.encode(short.messages, 2)) - 2
    assert longest_view(short, encoder, BUDGET, "single") == bare + 20
    assert longest_view(short, encoder, BUDGET, "repeated") == bare + 32
