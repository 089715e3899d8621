"""Which of config.json's numbers is the size of the vocabulary."""

from types import SimpleNamespace

import pytest

from mars.data.prompts.token_rules import token_rules
from mars.errors import SetupError

WORDS = {"a": 0, "b": 1, "<|im_end|>": 2, "<|image_pad|>": 3}
TOKENIZER = SimpleNamespace(
    get_vocab=lambda: WORDS,
    eos_token_id=2,
    pad_token_id=None,
    added_tokens_decoder={id_: SimpleNamespace(content=word) for word, id_ in WORDS.items() if id_ > 1},
)


def rules(**config):
    return token_rules("model", TOKENIZER, {"model_type": "qwen2_5_vl", "image_token_id": 3, **config}, {})


@pytest.mark.parametrize("stale", [2, 5, 151_936])
def test_a_resized_model_has_the_vocabulary_of_its_text_config(stale):
    """The ids 4 and 5 have rows in the embedding, but no token: they and the image's may never be sampled."""
    assert rules(vocab_size=stale, text_config={"vocab_size": 6}).blocked_ids == (3, 4, 5)


def test_an_older_config_has_its_vocabulary_at_the_top_level():
    assert rules(vocab_size=6).blocked_ids == rules(vocab_size=6, text_config=None).blocked_ids == (3, 4, 5)
    assert rules(vocab_size=5).blocked_ids == (3, 4)


@pytest.mark.parametrize("text", [{}, {"hidden_size": 8}, {"vocab_size": None}])
def test_the_top_level_does_not_speak_for_a_text_config_without_a_vocabulary(text):
    """transformers builds the model with a vocabulary of its own then, such as 152064, and ignores the top level."""
    with pytest.raises(SetupError, match=r"json: text_config\.vocab_size must be .*; got None; write the number"):
        rules(vocab_size=6, text_config=text)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"vocab_size": 99, "text_config": {"vocab_size": 3}}, "text_config.vocab_size"),
        ({"vocab_size": 3}, "vocab_size"),
    ],
)
def test_a_message_names_the_number_that_counts(config, key):
    with pytest.raises(SetupError, match=rf"the model has 3 \(config.json: {key}\)"):
        rules(**config)
    with pytest.raises(SetupError, match=rf"video_token_id must be below {key} 5"):
        rules(**{**config, "vocab_size": 5, "text_config": {"vocab_size": 5} if "." in key else None}, video_token_id=7)
