"""The texts that tell a model how to answer: one place for training and evaluation."""

from __future__ import annotations

THINK_AND_ANSWER = (
    "First think inside <think> and </think> tags, then give the answer inside <answer> and </answer> tags."
)

PERSON_QUESTION = "Detect every person in the scene."

GROUNDING_INSTRUCTION = (
    f"{THINK_AND_ANSWER} The answer is a list of boxes in pixel coordinates, in a json code block:\n"
    '```json\n[{"bbox_2d": [x1, y1, x2, y2], "label": "person"}]\n```'
)

VQA_INSTRUCTION = f"{THINK_AND_ANSWER} The answer is as short as possible."
