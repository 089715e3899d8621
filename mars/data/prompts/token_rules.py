"""Read and check a model's special token ids: image, end of sequence, padding, and ids that may never be sampled."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from mars.errors import SetupError
from mars.families.family import Family
from mars.families.table import family_of
from mars.types import TokenRules

logger = logging.getLogger(__name__)

MEDIA_WORDS = ("image", "video", "vision", "audio")
MEDIA_ID_KEYS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id", "vision_token_id")

# Many times the largest vocabulary of today (262,144). A typing error must not fill the memory with ids.
_MAX_VOCABULARY = 2**22


def token_rules(
    model_path: str, tokenizer: Any, config: Mapping[str, Any], generation: Mapping[str, Any]
) -> TokenRules:
    """The special token ids of a model. config, generation: the contents of config.json and generation_config.json.

    Raises SetupError if an id or the vocabulary's size is missing or wrong, or if the model's family is not supported.
    """
    (vocab_size, key_of_size), media = _vocab_size(model_path, config), _media_ids(model_path, config)
    family = family_of(config.get("model_type"), f"model.path: {model_path}/config.json")
    words = tokenizer.get_vocab()
    known = set(words.values())
    if max(known) >= vocab_size:
        last = max(words, key=words.__getitem__)
        raise SetupError(
            f"model.path: the tokenizer's ids reach {max(known)} ({last!r}) but the model has {vocab_size} "
            f"(config.json: {key_of_size}); got {model_path}; use the tokenizer of this model"
        )
    for key, id_ in media.items():
        if id_ >= vocab_size:
            raise SetupError(
                f"model.path: {model_path}/config.json: {key} must be below {key_of_size} {vocab_size}; got {id_}; "
                "download the file again"
            )
    if media["image_token_id"] not in known:
        raise SetupError(
            f"model.path: {model_path}/config.json: image_token_id must be an id of the tokenizer; "
            f"got {media['image_token_id']}; use the tokenizer of this model"
        )
    declared_ends = _ids(model_path, generation, "eos_token_id", vocab_size)
    eos_ids = tuple(dict.fromkeys(id_ for id_ in (tokenizer.eos_token_id, *declared_ends) if id_ is not None))
    if not eos_ids:
        raise SetupError(f"model.path: no end-of-sequence token; got {model_path}; use an instruction-tuned model")
    pads = (tokenizer.pad_token_id, *_ids(model_path, generation, "pad_token_id", vocab_size), eos_ids[0])
    never = set(media.values())
    never |= {id_ for id_, token in tokenizer.added_tokens_decoder.items() if _is_media(token.content, family)}
    blocked = (never | (set(range(vocab_size)) - known)) - set(eos_ids)
    return TokenRules(
        image_id=media["image_token_id"],
        eos_ids=eos_ids,
        pad_id=next(id_ for id_ in pads if id_ is not None),
        blocked_ids=tuple(sorted(blocked)),
        image_start=_named(model_path, words, family.image_start),
        image_end=_named(model_path, words, family.image_end),
    )


def with_turn_end(rules: TokenRules, tokenizer: Any, after_response: str) -> TokenRules:
    """The rules, with `eos_ids` beginning with the token by which the chat template ends an assistant's turn.

    The cold start teaches this token, so engines must stop at it. The tokenizer's files may name another end: those of
    base models name <|endoftext|>, while their template ends turns with <|im_end|>.

    after_response: see `text_after_response`. The rules are unchanged if it does not begin with an added token, or if
        that token may never be sampled. They are also unchanged for a closing tag, such as </answer>, that the
        tokenizer does not call special: it is part of the response.
    """
    ids = tokenizer(after_response.lstrip(), add_special_tokens=False)["input_ids"]
    token = tokenizer.added_tokens_decoder.get(ids[0]) if ids else None
    if token is None or ids[0] in (rules.image_id, *rules.blocked_ids):
        return rules
    if not token.special and token.content.startswith("</"):
        return rules
    if ids[0] not in rules.eos_ids:
        _warn_of_another_end(token.content, tokenizer.name_or_path)
    return replace(rules, eos_ids=tuple(dict.fromkeys((ids[0], *rules.eos_ids))))


@cache
def _warn_of_another_end(token: str, model_path: str) -> None:
    logger.warning(
        "model.path: the chat template of %s ends a turn with %s, which neither its tokenizer_config.json nor its "
        "generation_config.json names as an end; mars stops there, and other programs may not: add it to eos_token_id "
        "of generation_config.json",
        model_path,
        token,
    )


def _vocab_size(model_path: str, config: Mapping[str, Any]) -> tuple[int, str]:
    """The language model's vocabulary size and its key, in text_config if there is one, else at the top level.

    Tools that resize an embedding change only text_config, and may leave an old number at the top level. If text_config
    has no number, SetupError is raised: transformers would not take the number at the top level either, but a default.
    """
    text = config.get("text_config")
    holder, key = (text, "text_config.vocab_size") if isinstance(text, dict) else (config, "vocab_size")
    found = holder.get("vocab_size")
    if "image_token_id" not in config or (found is None and holder is config):
        raise SetupError(
            f"model.path: config.json lacks image_token_id or vocab_size; got {model_path}; use a vision-language model"
        )
    if type(found) is not int or not 1 <= found <= _MAX_VOCABULARY:
        raise SetupError(
            f"model.path: {model_path}/config.json: {key} must be a whole number from 1 to {_MAX_VOCABULARY}; "
            f"got {found!r}; write the number of rows of the model's embedding there"
        )
    return found, key


def _media_ids(model_path: str, config: Mapping[str, Any]) -> dict[str, int]:
    found = {key: config[key] for key in MEDIA_ID_KEYS if config.get(key) is not None or key == "image_token_id"}
    for key, id_ in found.items():
        if type(id_) is not int or id_ < 0:
            raise SetupError(
                f"model.path: {model_path}/config.json: {key} must be a token id, a whole number; got {id_!r}; "
                "download the file again"
            )
    return found


def _ids(model_path: str, generation: Mapping[str, Any], key: str, vocab_size: int) -> list[int]:
    """The id or ids of a key in generation_config.json; none if it is missing or null."""
    value = generation.get(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(id_) is not int or not 0 <= id_ < vocab_size for id_ in ids):
        raise SetupError(
            f"model.path: {model_path}/generation_config.json: {key} must be token ids below {vocab_size}; "
            f"got {value!r}; download the file again"
        )
    return ids


def _named(model_path: str, words: Mapping[str, int], tokens: Sequence[str]) -> tuple[int, ...]:
    """The ids of `tokens`, which the family's processor puts before or after an image."""
    missing = [token for token in tokens if token not in words]
    if missing:
        raise SetupError(
            f"model.path: the tokenizer must have the token {missing[0]}; got {model_path}; "
            "use the tokenizer of this model"
        )
    return tuple(words[token] for token in tokens)


def _is_media(token: str, family: Family) -> bool:
    """Whether a token marks media, such as <|image_pad|> and <|vision_start|>."""
    return token in family.media_tokens or (
        token.startswith("<") and any(word in token.lower() for word in MEDIA_WORDS)
    )
