"""Token ids and log-probs of many responses as two texts: exact to the bit, and a third as long as numbers in JSON."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Literal

import numpy as np

from mars.types import Completion


@dataclass(frozen=True)
class PackedTokens:
    """Several responses, one after the other. lengths: number of tokens of each.

    token_ids: base64 of int32, little-endian. logprobs: base64 of floats of `logprob_bits` bits, little-endian.
    """

    lengths: tuple[int, ...]
    token_ids: str
    logprobs: str
    logprob_bits: Literal[32, 64]


def pack(completions: Sequence[Completion]) -> PackedTokens:
    """Pack responses. Log-probs get 32 bits each if this is exact for all of them, otherwise 64. It is exact for the
    log-probs of engines, which compute in float32.

    >>> pack([Completion((1, 2), (-0.5, 0.1), "stop")]).logprob_bits
    64
    """
    token_ids = np.fromiter(chain.from_iterable(each.token_ids for each in completions), "<i4")
    logprobs = np.fromiter(chain.from_iterable(each.logprobs for each in completions), "<f8")
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = logprobs.astype("<f4")
    is_exact = narrow.astype("<f8").tobytes() == logprobs.tobytes()  # bytes, because NaN is not equal to itself
    return PackedTokens(
        tuple(len(each.token_ids) for each in completions),
        b64encode(token_ids.tobytes()).decode(),
        b64encode((narrow if is_exact else logprobs).tobytes()).decode(),
        32 if is_exact else 64,
    )


def unpack(packed: PackedTokens) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """(token ids, log-probs) of each response.

    Raises ValueError for damaged base64, or if the number of token ids or of log-probs is not the sum of `lengths`.
    """
    token_ids = np.frombuffer(b64decode(packed.token_ids, validate=True), "<i4").tolist()
    kind = {32: "<f4", 64: "<f8"}[packed.logprob_bits]
    logprobs = np.frombuffer(b64decode(packed.logprobs, validate=True), kind).astype("<f8").tolist()
    if not len(token_ids) == len(logprobs) == sum(packed.lengths):
        raise ValueError(f"{len(token_ids)} tokens and {len(logprobs)} log-probs of {sum(packed.lengths)}")
    bounds = pairwise(accumulate(packed.lengths, initial=0))
    return [(tuple(token_ids[a:b]), tuple(logprobs[a:b])) for a, b in bounds]
