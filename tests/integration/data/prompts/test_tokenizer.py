"""The tokenizer that is loaded directly is the one AutoTokenizer would load."""

import json

import pytest

from mars.data.prompts.tokenizer import load_tokenizer
from tests.integration.data.prompts.test_chat import write_model

TEXT = "It's 3 persons;\n\n<think>  naïve 東京 🙂</think> <|im_start|>user\r\n don't WE'LL 12345"


def declare(folder, **changes):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen3_vl", "internvl", "qwen3_5", "qwen2_vl", "qwen3_vl_moe"])
@pytest.mark.parametrize("name", ["Qwen2Tokenizer", "Qwen2TokenizerFast", "TokenizersBackend", None])
def test_class_and_ids_are_those_of_auto_tokenizer(tmp_path, model_type, name):
    from transformers import AutoTokenizer

    write_model(tmp_path, model_type=model_type)
    declare(tmp_path, tokenizer_class=name)
    expected, found = AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(str(tmp_path), trust_remote_code=False)
    assert type(found) is type(expected)
    assert found(TEXT)["input_ids"] == expected(TEXT)["input_ids"]
    assert found.get_vocab() == expected.get_vocab()
    assert found.added_tokens_decoder == expected.added_tokens_decoder
    assert (found.eos_token_id, found.pad_token_id) == (expected.eos_token_id, expected.pad_token_id)
    assert found.chat_template == expected.chat_template
    assert found.decode(range(60, 120)) == expected.decode(range(60, 120))


def test_code_of_the_model_is_not_executed(tmp_path):
    write_model(tmp_path)
    declare(tmp_path, tokenizer_class="Qwen2Tokenizer", auto_map={"AutoTokenizer": ["own.Slow", "own.Fast"]})
    (tmp_path / "own.py").write_text("raise SystemExit('executed')")
    assert load_tokenizer(str(tmp_path), trust_remote_code=False)(TEXT)["input_ids"]
