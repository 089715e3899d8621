"""The reward in mars's and TRL's runs alike. It takes almost no time. It differs between responses, so that there is
a gradient."""

from __future__ import annotations


def score(solution_str: str, ground_truth: str) -> float:
    """Fraction of the response's letters that are in the first half of the alphabet. 0 without letters."""
    letters = [letter for letter in solution_str.lower() if "a" <= letter <= "z"]
    return sum(letter <= "m" for letter in letters) / len(letters) if letters else 0.0


def score_completions(completions: list[list[dict[str, str]]], **_: object) -> list[float]:
    """`score` for TRL, which passes conversations."""
    return [score(completion[-1]["content"], "") for completion in completions]
