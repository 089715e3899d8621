"""Random small models of each supported family, as complete Hugging Face folders.

They have all parts of the real models at about a thousandth of the size: vision tower, merger, M-RoPE, image processor,
chat template, special tokens, a vocabulary padded beyond the tokenizer. Engines and trainers load them unchanged, so
the whole loop runs on a CPU in seconds.

With the vocabulary "real" the model has 151,936 ids, as Qwen2.5-VL has, and 15 million parameters, nearly all of them
embeddings. It serves to measure what depends on the size of the vocabulary.

With the vocabulary "benchmark" the tokenizer knows the words of `benchmark_corpus.txt`: each question of the
benchmark is a token or two, and an answer has six or nine tokens. For Qwen3.5 they have more: 6 to 24, and 11 to 17.

    mars data synth OUT --model tiny --seed 0
    mars data synth OUT --model tiny --scenes benchmark --seed 0
"""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any, Literal

from mars.data.synthetic.tiny_families import (
    INTERNVL_TOKENS,
    MAX_POSITIONS,
    REAL_IDS,
    Family,
    build_config,
    build_processor,
)
from mars.output.bars import without_bars
from mars.output.files import give_usual_permissions

Vocabulary = Literal["tiny", "real", "benchmark"]

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
MERGED_TOKENS = 640  # most tokens after training, including one for each of the 256 bytes
LONGEST_TOKEN = 12  # bytes of the tokens that are made up to fill a real vocabulary
NUMBERS = 113  # the integers from 0 to 112 are single tokens
# Larger than the usual 0.02. Embeddings that small count little beside the layers' outputs, so the policy would be slow
# to learn to use the last tokens that it has written.
EMBEDDING_STD = 0.1
# A piece is a tag, a number, a run of line ends, or a sentence between them, so that a frequent sentence becomes one
# token.
PIECES = r"</?\w+>|(?<!\w)\d+|\n+|(?:(?!</?\w+>|(?<!\w)\d)[^\n.])+(?:\. ?)?|."
# The same for the benchmark. There a number may begin with a space, because answers are numbers; and a question mark
# ends a sentence too.
BENCHMARK_PIECES = r"</?\w+>| ?\d+|\n+|(?:(?!</?\w+>| ?\d)[^\n.?])+(?:[.?] ?)?|."
BENCHMARK_NUMBERS = 17

QWEN3_5_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)


def build_tokenizer(vocabulary: Vocabulary, seed: int, family: Family = "qwen2_5_vl") -> Any:
    """A byte-level BPE tokenizer trained on a small corpus: same text, same ids, on every machine.

    decode(encode(text)) == text for any text without special tokens; for Qwen3.5, the result is in Unicode NFC.
    vocabulary: "tiny": trained on `tiny_corpus.txt`. The integers 0 to 112, each sentence of the instructions in that
        file (or its part between two tags) and the fixed text around the boxes of a grounding answer are single tokens.
        "benchmark": trained on `benchmark_corpus.txt`. The integers 0 to 16 are single tokens, also after a space.
        "real": as "tiny", then filled up to 151,936 ids with merges drawn from `seed`. Only "real" depends on the seed.
    family: for InternVL, its own special tokens are added. For Qwen3.5, text is split as in the real model, because
        transformers ignores how the tokenizer's file splits it: each digit is a token, and a sentence has several.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = [*SPECIAL_TOKENS, *(INTERNVL_TOKENS.values() if family == "internvl" else ())]
    pieces, corpus = _benchmark_words() if vocabulary == "benchmark" else _words()
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN3_5_PIECES if family == "qwen3_5" else pieces), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    if family == "qwen3_5":
        backend.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=MERGED_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus, trainer)
    if vocabulary == "real":
        trained = json.loads(backend.to_str())["model"]
        merges = [tuple(merge) for merge in trained["merges"]]
        vocab, merges = filled(trained["vocab"], merges, REAL_IDS - len(special), seed)
        backend.model = models.BPE(vocab, merges)
    backend.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
        **({"extra_special_tokens": INTERNVL_TOKENS} if family == "internvl" else {}),
    )


def _words() -> tuple[str, list[str]]:
    """The regular expression that cuts a text into pieces (see PIECES), and the texts to train the tokenizer on."""
    return PIECES, [_corpus("tiny"), *[str(number) for number in range(NUMBERS)] * 3]


def _benchmark_words() -> tuple[str, list[str]]:
    numbers = [f"{space}{number}" for number in range(BENCHMARK_NUMBERS) for space in ("", " ")]
    return BENCHMARK_PIECES, [_corpus("benchmark"), *numbers * 3]


def _corpus(name: str) -> str:
    return (Path(__file__).parent / f"{name}_corpus.txt").read_text(encoding="utf-8")


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
    a model learns several times faster with these than with the standard deviation 0.02 of large models. Same seed,
    same bytes.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    processor = build_processor(family, build_tokenizer(vocabulary, seed, family))
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
    with without_bars():
        model.save_pretrained(path)
    give_usual_permissions(*path.glob("*.safetensors"))
    processor.save_pretrained(path)
    logger.info("%s: %s, %d parameters", path, family, model.num_parameters())
    return path
