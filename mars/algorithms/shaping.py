"""Terms added to a rollout's score before advantages are taken."""

from __future__ import annotations

from torch import Tensor

from mars.errors import ConfigError


def overlong_penalty(
    response_tokens: Tensor, max_response_tokens: int, buffer_tokens: int, penalty_factor: float
) -> Tensor:
    """Soft penalty of long responses (DAPO, arXiv 2503.14476, section 3.4): 0 up to the buffer, then linear.

        min(-(length - (max_response_tokens - buffer_tokens)) / buffer_tokens * penalty_factor, 0)

    response_tokens: integers [N]. Returns float64 [N], in units of the reward, never positive. Added to every score,
    anchors included. Raises ConfigError unless 0 < buffer_tokens <= max_response_tokens.

    Example: at most 100 tokens, buffer 20, factor 1: 80 tokens 0, 90 tokens -0.5, 100 tokens -1.
    """
    if not 0 < buffer_tokens <= max_response_tokens:
        raise ConfigError(
            f"algorithm.overlong_buffer_tokens: must be in 1..rollout.max_response_tokens={max_response_tokens}; "
            f"got {buffer_tokens}"
        )
    excess = response_tokens.double() - (max_response_tokens - buffer_tokens)
    return (-excess / buffer_tokens * penalty_factor).clamp(max=0.0)
