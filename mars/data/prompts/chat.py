"""Tokenization: messages to prompt ids, ids to text, and the special ids. All code tokenizes through this module."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from mars.data.prompts.chat_template import (
    check_opening,
    check_texts,
    refuse_lost_images,
    render,
    without_opening,
)
from mars.data.prompts.template_trial import try_template
from mars.data.prompts.token_rules import token_rules, with_turn_end
from mars.data.prompts.tokenizer import has_file, load_tokenizer, read_json
from mars.errors import DataError, SetupError
from mars.families.table import FAMILIES
from mars.types import IMAGE_MARKER, MESSAGE_ROLES, Message, TokenRules

logger = logging.getLogger(__name__)

CACHED_PROMPTS = 4096
"""The cache of prompt ids has room for at least this many views. Each view takes 1 kB or more."""


_BYTE_ORDER_MARK = "\ufeff"  # some editors on Windows write it at the start of a file


class MissingOpening(DataError):
    """A response lacks the beginning that the chat template gives to every response."""


class PromptEncoder:
    """A model's tokenizer and chat template, without the model.

    cached_prompts: the ids of at most this many views are cached.
    opening: the end of the generation prompt, if it is the beginning of every response: "<think>" and a line break for
        some thinking models, "" for other models. It is part of a response's text, but not of its tokens.
    parts_only: roles whose texts the chat template takes only as lists of parts (`roles_of_parts`).
    """

    def __init__(
        self,
        tokenizer: Any,
        rules: TokenRules,
        template_arguments: Mapping[str, Any],
        cached_prompts: int = CACHED_PROMPTS,
        opening: str = "",
        parts_only: Collection[str] = (),
    ) -> None:
        self.opening = opening
        self._parts_only = parts_only
        self._tokenizer = tokenizer
        self._rules = rules
        self._template_arguments = template_arguments
        special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
        # End tokens that the tokenizer does not call special: it would leave them in the text of a response.
        self._plain_ends = [id_ for id_ in rules.eos_ids if id_ not in special]
        self._forbidden = frozenset(special | {rules.image_id, rules.pad_id, *rules.eos_ids, *rules.blocked_ids})
        self._encode = lru_cache(maxsize=cached_prompts)(self._encode_uncached)
        # The views of a prompt are encoded one after the other, and often have the same text.
        self._check_plain = lru_cache(maxsize=8)(self._check_plain_uncached)

    @classmethod
    def from_pretrained(
        cls, model_path: str, *, trust_remote_code: bool = False, cached_prompts: int = CACHED_PROMPTS
    ) -> PromptEncoder:
        """Load from a Hugging Face folder or hub name. Raises SetupError if a needed file or token id is missing."""
        tokenizer = load_tokenizer(model_path, trust_remote_code)
        tokenizer.chat_template = chat_template(tokenizer, model_path)
        config = read_json(model_path, "config.json")
        generation = read_json(model_path, "generation_config.json")
        rules = token_rules(model_path, tokenizer, config, generation)
        family = FAMILIES.get(str(config.get("model_type")))
        arguments = {} if family is None else family.template_arguments
        written = try_template(tokenizer, model_path, arguments)
        rules = with_turn_end(rules, tokenizer, written.after_response)
        return cls(tokenizer, rules, arguments, cached_prompts, written.opening, written.parts_only)

    def token_rules(self) -> TokenRules:
        """The ids of images, end of sequence and padding, and the ids that may never be sampled."""
        return self._rules

    def encode(self, messages: Sequence[Message], num_images: int) -> tuple[int, ...]:
        """Prompt ids with the generation prompt at the end and one unexpanded placeholder per image.

        Every "<image>" marker becomes the template's image block (<|vision_start|><|image_pad|><|vision_end|>).
        Raises DataError if the number of placeholders is not `num_images` or a text would produce a special token.
        """
        return self._encode(tuple(messages), num_images)

    def encode_response(self, text: str) -> tuple[int, ...]:
        """Ids of an assistant's response with the token that ends its turn in the chat template (`with_turn_end`).

        Supervised training learns these ids; those of `opening` are not among them. Raises MissingOpening if the text
        does not begin with `opening`, and DataError if the text would produce a special token.
        """
        self._check_plain(text, "response")
        written = without_opening(text, self.opening)
        if written is None:
            raise MissingOpening(
                f"the chat template begins every response with {self.opening.strip()!r}, but the response begins with "
                f"{text[:40]!r}; write the thought into the response, or use a model that does not think"
            )
        text = written
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return (*ids, self._rules.eos_ids[0])

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a response without special tokens and end tokens, with `opening` at its beginning.

        So rewards, evaluations and HTML pages find both tags, <think> and </think>, in responses of a thinking model.
        """
        ids = np.asarray(token_ids, dtype=np.int64)  # the tokenizer would check every element of a list
        if self._plain_ends:
            ids = ids[~np.isin(ids, self._plain_ends)]
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return self.opening + text

    def _encode_uncached(self, messages: tuple[Message, ...], num_images: int) -> tuple[int, ...]:
        for message in messages:
            if message.role not in MESSAGE_ROLES:
                raise DataError(f"message role must be one of {', '.join(MESSAGE_ROLES)}; got {message.role!r}")
            self._check_plain(
                message.text.replace(IMAGE_MARKER, ""), message.role
            )  # without markers, because views join the texts around them
        turns = [
            {"role": message.role, "content": _content(message.text, message.role in self._parts_only)}
            for message in messages
        ]
        rendered = render(self._tokenizer, turns, self._template_arguments)
        check_opening(self._tokenizer, rendered, self.opening)
        ids = tuple(self._tokenizer(rendered, add_special_tokens=False)["input_ids"])
        placeholders = ids.count(self._rules.image_id)
        if placeholders != num_images and sum(message.text.count(IMAGE_MARKER) for message in messages) == num_images:
            refuse_lost_images(self._tokenizer, turns, placeholders, num_images)
        if placeholders != num_images:
            raise DataError(f"the prompt has {placeholders} image placeholders for {num_images} images")
        check_texts(self._tokenizer, rendered, turns)
        return ids

    def _check_plain_uncached(self, text: str, where: str) -> None:
        found = self._forbidden.intersection(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        if found:
            tokens = ", ".join(repr(self._tokenizer.convert_ids_to_tokens(id_)) for id_ in sorted(found))
            raise DataError(f"the {where} text holds the special token {tokens}; remove it from the text")


def chat_template(tokenizer: Any, model_path: str) -> Any:
    """The model's chat template: of chat_template.jinja, else chat_template.json, else tokenizer_config.json.

    Older folders have the processor's template in chat_template.json. The one in their tokenizer_config.json may not
    know images. Raises SetupError if there is none.
    """
    template = tokenizer.chat_template
    if not has_file(model_path, "chat_template.jinja"):
        own = read_json(model_path, "chat_template.json").get("chat_template")
        default = template.get("default") if isinstance(template, dict) else template
        if own is not None and template is not None and own != default:
            _warn_of_two_templates(model_path)
        template = template if own is None else own
    if template is None:
        raise SetupError(f"model.path: no chat template; got {model_path}; use an instruction-tuned model")
    return template.removeprefix(_BYTE_ORDER_MARK) if isinstance(template, str) else template


@cache
def _warn_of_two_templates(model_path: str) -> None:
    logger.warning(
        "model.path: %s/chat_template.json and %s/tokenizer_config.json have different chat templates; "
        "chat_template.json's is used",
        model_path,
        model_path,
    )


def expand(prompt_token_ids: Sequence[int], tokens_per_image: Sequence[int], rules: TokenRules) -> tuple[int, ...]:
    """Prompt ids with placeholder i repeated tokens_per_image[i] times.

    `rules.image_start` and `rules.image_end` are added around each image; they are () if the chat template writes them.
    The result is what the model's forward sees. Raises DataError if placeholders and images differ in number.
    Example: ([5, 9, 6, 9], [2, 3]) with image_id 9 -> (5, 9, 9, 6, 9, 9, 9).
    """
    image_id = rules.image_id
    placeholders = sum(token == image_id for token in prompt_token_ids)
    if placeholders != len(tokens_per_image):
        raise DataError(f"the prompt has {placeholders} image placeholders for {len(tokens_per_image)} images")
    counts = iter(tokens_per_image)
    expanded: list[int] = []
    for token in prompt_token_ids:
        if token == image_id:
            expanded += [*rules.image_start, *[image_id] * next(counts), *rules.image_end]
        else:
            expanded.append(token)
    return tuple(expanded)


def prompt_length(prompt_token_ids: Sequence[int], tokens_per_image: Sequence[int]) -> int:
    """Number of tokens in the expanded prompt. tokens_per_image: as `num_image_tokens` counts them.

    Example: 50 ids with two images of 16 tokens -> 50 - 2 + 32 = 80.
    """
    return len(prompt_token_ids) - len(tokens_per_image) + sum(tokens_per_image)


def _content(text: str, as_parts: bool) -> str | list[dict[str, str]]:
    """The content of a message for a chat template: parts if the text has markers, or with `as_parts`."""
    pieces = text.split(IMAGE_MARKER)
    if len(pieces) == 1 and not as_parts:
        return text
    content: list[dict[str, str]] = []
    for i, piece in enumerate(pieces):
        if i:
            content.append({"type": "image"})
        if piece:
            content.append({"type": "text", "text": piece})
    return content
