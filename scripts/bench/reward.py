"""The reward both trainers are given: costs nothing, differs between responses, so that the gradients are real."""

from __future__ import annotations


def score(solution_str: str, ground_truth: str) -> float:
    """Share of the response's letters that come in the first half of the alphabet; 0 without letters."""
    letters = [letter for letter in solution_str.lower() if "a" <= letter <= "z"]
    return sum(letter <= "m" for letter in letters) / len(letters) if letters else 0.0


def score_completions(completions: list[list[dict[str, str]]], **_: object) -> list[float]:
    """The same for TRL, which hands over conversations."""
    return [score(completion[-1]["content"], "") for completion in completions]
