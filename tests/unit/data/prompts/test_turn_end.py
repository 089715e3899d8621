"""Which token ends a response: the one that ends the assistant's turn in the chat template."""

from types import SimpleNamespace

import pytest

from mars.data.prompts.chat import PromptEncoder
from mars.data.prompts.template_trial import text_after_response
from mars.data.prompts.token_rules import with_turn_end
from mars.errors import DataError
from mars.types import TokenRules

IMAGE, TEXT_END, TURN_END, TEXT, PLAIN_END, YES = 0, 1, 2, 3, 4, 5
SPECIAL = {"<|image_pad|>": IMAGE, "<|endoftext|>": TEXT_END, "<|im_end|>": TURN_END}
ADDED = {**SPECIAL, "</answer>": TEXT, "<|eot|>": PLAIN_END}
WORDS = {**ADDED, "yes": YES}
RULES = TokenRules(image_id=IMAGE, eos_ids=(TEXT_END,), pad_id=TEXT_END, blocked_ids=(IMAGE,))


def chatml(role, content):
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


class Tokenizer:
    """Knows six words. render: the chat template, (role, content) -> text."""

    name_or_path = "model"

    def __init__(self, render=chatml):
        self._render = render
        self.added_tokens_decoder = {
            id_: SimpleNamespace(content=word, special=word in SPECIAL) for word, id_ in ADDED.items()
        }

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [id_ for word, id_ in WORDS.items() if text.startswith(word)]}

    def decode(self, ids, skip_special_tokens, clean_up_tokenization_spaces):
        return "".join(word for id_ in ids for word, one in WORDS.items() if one == id_ and word not in SPECIAL)

    def convert_ids_to_tokens(self, id_):
        return next(word for word, one in WORDS.items() if one == id_)

    def apply_chat_template(self, turns, tokenize, add_generation_prompt, **arguments):
        assert (tokenize, add_generation_prompt, arguments) == (False, False, {})
        return "".join(self._render(turn["role"], turn["content"]) for turn in turns)


def lists_only(role, content):
    return chatml(role, [part | {} for part in content])  # TypeError for a text


def texts_only(role, content):
    if not isinstance(content, str):
        raise ValueError("no lists here")
    return chatml(role, content)


def refuses(role, content):
    raise ValueError("not for you")


@pytest.mark.parametrize(
    ("render", "after"),
    [
        (chatml, "<|im_end|>\n"),
        (lists_only, "<|im_end|>\n"),
        (texts_only, "<|im_end|>\n"),
        (lambda role, content: chatml(role, content).replace("<|im_end|>", " <|im_end|>"), " <|im_end|>\n"),
        (lambda role, content: chatml(role, content).replace("<|im_end|>", ""), "\n"),
        (lambda role, content: f"{role}: nothing is quoted", ""),
        (refuses, ""),
    ],
)
def test_what_a_template_writes_after_a_response(render, after):
    assert text_after_response(Tokenizer(render), {}) == after


@pytest.mark.parametrize(
    ("after", "ends"),
    [
        ("<|im_end|>\n", (TURN_END, TEXT_END)),  # a base model's tokenizer knows <|endoftext|> alone
        (" <|im_end|>", (TURN_END, TEXT_END)),
        ("<|endoftext|>", (TEXT_END,)),
        ("\nuser: ", (TEXT_END,)),  # the template marks no end
        ("", (TEXT_END,)),
        ("</answer>", (TEXT_END,)),  # an added word of the text, not a special token
        ("<|image_pad|>", (TEXT_END,)),  # never sampled
        ("<|eot|>\n", (PLAIN_END, TEXT_END)),  # added with add_tokens, which does not call it special
    ],
)
def test_the_end_of_a_turn_comes_first_in_the_ends(after, ends):
    found = with_turn_end(RULES, Tokenizer(), after)
    assert (found.eos_ids, found.pad_id, found.blocked_ids) == (ends, TEXT_END, (IMAGE,))


def test_an_end_that_is_not_special_is_taught_and_not_read():
    encoder = PromptEncoder(Tokenizer(), with_turn_end(RULES, Tokenizer(), "<|eot|>"), {})
    assert encoder.encode_response("yes") == (YES, PLAIN_END)
    assert encoder.decode((YES, TEXT, PLAIN_END)) == "yes</answer>"
    with pytest.raises(DataError, match="special token"):
        encoder.encode_response("<|eot|>")


def test_an_end_that_the_files_do_not_name_is_warned_of(caplog):
    tokenizer = Tokenizer()
    tokenizer.name_or_path = "models/base"
    assert with_turn_end(RULES, tokenizer, "<|im_end|>").eos_ids == (TURN_END, TEXT_END)
    assert "the chat template of models/base ends a turn with <|im_end|>" in caplog.text
    assert "add it to eos_token_id of generation_config.json" in caplog.text
    caplog.clear()
    known = TokenRules(image_id=IMAGE, eos_ids=(TEXT_END, TURN_END), pad_id=TEXT_END, blocked_ids=(IMAGE,))
    assert with_turn_end(known, tokenizer, "<|im_end|>").eos_ids == (TURN_END, TEXT_END)
    assert not caplog.records
