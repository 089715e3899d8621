"""Random small Qwen2.5-VL and Qwen3-VL models, as complete Hugging Face folders.

They have all parts of the real models at about a thousandth of the size: vision tower, merger, M-RoPE, image processor,
chat template, special tokens, a vocabulary padded beyond the tokenizer. Engines and trainers load them unchanged, so
the whole loop runs on a CPU in seconds. The tokenizer is byte-level BPE: any text encodes and decodes to itself; the
words of `tiny_corpus.txt` are a few tokens each.

With the vocabulary "real" the model has 151,936 ids, as Qwen2.5-VL has, and 15 million parameters, nearly all of them
embeddings: for measuring what depends on the vocabulary.

    mars data synth OUT --model tiny --seed 0
"""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any, Literal

Family = Literal["qwen2_5_vl", "qwen3_vl"]
Vocabulary = Literal["tiny", "real"]

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
MERGED_TOKENS = 640
REAL_IDS = 151_936  # rows of Qwen2.5-VL's embedding
LONGEST_TOKEN = 12  # bytes of the tokens that are made up to fill a real vocabulary
NUMBERS = 113  # the integers below are single tokens
VOCAB_MULTIPLE = 64  # the model's vocabulary is padded to the next multiple, as real models do
MAX_POSITIONS = 32_768
HIDDEN, HEAD = 96, 32  # 32 is the smallest head of vLLM's attention kernels
# M-RoPE gives the width of an image the longest wavelengths. With the usual base of 10,000 they are hundreds of tokens,
# and neighbours in an image of 2 x 2 tokens look the same; with 10 the longest is 54 tokens.
ROPE_THETA = 10.0
# Larger than the usual 0.02, which is small next to the layers' outputs: the policy would learn slowly to use its own
# last tokens.
EMBEDDING_STD = 0.1
MIN_PIXELS, MAX_PIXELS = 28 * 28, 224 * 224
# A piece is a tag, a number, a run of line ends, or a sentence between them, so that a frequent sentence becomes one
# token.
PIECES = r"</?\w+>|(?<!\w)\d+|\n+|(?:(?!</?\w+>|(?<!\w)\d)[^\n.])+(?:\. ?)?|."

CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- if loop.first and message['role'] != 'system' -%}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
    {%- endif -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif part['type'] == 'video' or 'video' in part -%}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
            {%- elif 'text' in part -%}
                {{- part['text'] -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def build_tokenizer(vocabulary: Vocabulary, seed: int) -> Any:
    """A byte-level BPE tokenizer trained on `tiny_corpus.txt`: same text, same ids, on every machine.

    Normalises nothing: decode(encode(text)) == text for any text without special tokens. The integers 0 to 112, the
    words of the instructions and the fixed text around the boxes of a grounding answer are single tokens.
    vocabulary: "real" is filled up to 151,936 ids with merges drawn from `seed`; "tiny" does not depend on the seed.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    text = (Path(__file__).parent / "tiny_corpus.txt").read_text(encoding="utf-8")
    corpus = [text] + [str(number) for number in range(NUMBERS)] * 3
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MERGED_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    if vocabulary == "real":
        trained = json.loads(backend.to_str())["model"]
        merges = [tuple(merge) for merge in trained["merges"]]
        vocab, merges = filled(trained["vocab"], merges, REAL_IDS - len(SPECIAL_TOKENS), seed)
        backend.model = models.BPE(vocab, merges)
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )


def filled(
    vocab: dict[str, int], merges: list[tuple[str, str]], size: int, seed: int
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A BPE vocabulary of `size` tokens: the given one, then tokens that each join two earlier ones at random."""
    vocab, merges = dict(vocab), list(merges)
    tokens, generator = sorted(vocab, key=lambda token: vocab[token]), random.Random(seed)
    while len(tokens) < size:
        left, right = generator.choice(tokens), generator.choice(tokens)
        token = left + right
        if len(token) <= LONGEST_TOKEN and token not in vocab:
            vocab[token] = len(tokens)
            tokens.append(token)
            merges.append((left, right))
    return vocab, merges


def build_processor(family: Family, tokenizer: Any) -> Any:
    """The family's own processor class around `tokenizer`. Images: smart_resize between MIN and MAX pixels."""
    from transformers import (
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    limits = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    if family == "qwen3_vl":
        images = Qwen2VLImageProcessor(size=limits, patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        return Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(), chat_template=CHAT_TEMPLATE)
    images = Qwen2VLImageProcessor(size=limits)
    return Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=CHAT_TEMPLATE)


def build_config(family: Family, tokenizer: Any, *, tie_word_embeddings: bool) -> Any:
    """A model configuration of about a million parameters for the ids of `tokenizer`."""
    from transformers import Qwen2_5_VLConfig, Qwen3VLConfig

    vocab_size = len(tokenizer)
    if vocab_size < REAL_IDS:
        vocab_size = (vocab_size // VOCAB_MULTIPLE + 1) * VOCAB_MULTIPLE
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in {
            "image": "image_pad",
            "video": "video_pad",
            "vision_start": "vision_start",
            "vision_end": "vision_end",
        }.items()
    }
    text = {
        "vocab_size": vocab_size,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 3,
        "num_attention_heads": HIDDEN // HEAD,
        "num_key_value_heads": 1,
        "max_position_embeddings": MAX_POSITIONS,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": tie_word_embeddings,
    }
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": HIDDEN}
    rope = {"rope_type": "default", "rope_theta": ROPE_THETA}
    if family == "qwen3_vl":
        return Qwen3VLConfig(
            text_config={
                **text,
                "head_dim": HEAD,
                "rope_parameters": {**rope, "mrope_section": [6, 5, 5], "mrope_interleaved": True},
            },
            vision_config={**vision, "num_position_embeddings": 16 * 16, "deepstack_visual_indexes": [0]},
            tie_word_embeddings=tie_word_embeddings,
            **ids,
        )
    return Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": {**rope, "mrope_section": [4, 6, 6]}},
        vision_config={**vision, "window_size": 112, "fullatt_block_indexes": [1]},
        tie_word_embeddings=tie_word_embeddings,
        **ids,
    )


def build_tiny(
    path: str | Path,
    *,
    seed: int,
    family: Family = "qwen2_5_vl",
    tie_word_embeddings: bool = False,
    vocabulary: Vocabulary = "tiny",
) -> Path:
    """Write a random small model with its processor and tokenizer to the folder `path`, in float32.

    Linear layers have PyTorch's own initialisation, and embeddings the standard deviation EMBEDDING_STD. At this size
    a model learns several times faster with them than with the 0.02 of large models. Same seed, same bytes.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    processor = build_processor(family, build_tokenizer(vocabulary, seed))
    config = build_config(family, processor.tokenizer, tie_word_embeddings=tie_word_embeddings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv3d):
                module.reset_parameters()
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=EMBEDDING_STD)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    path = Path(path)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    logger.info("%s: %s, %d parameters", path, family, model.num_parameters())
    return path
