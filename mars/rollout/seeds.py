"""Seeds of requests."""

from __future__ import annotations

from hashlib import blake2b

from mars.types import View


def request_seed(
    run_seed: int, step: int, prompt_id: str, view: View, extra: tuple[str, int | None] | None = None
) -> int:
    """48-bit seed of a request. Sample k uses seed + k.

    extra: only for an extra request: its name, and the number of the rollout that it is about.
    With a million samples in a step, the probability that two have the same seed is 0.2 %.
    """
    key = repr((run_seed, step, prompt_id, view, *(extra or ()))).encode()
    return int.from_bytes(blake2b(key, digest_size=6).digest(), "big")
