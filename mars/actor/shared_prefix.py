"""Packs: groups (a prompt and its responses) as the tensors of one forward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import torch

from mars.actor.batch import ForwardBatch, PositionsOf, ProcessedPrompt, ResponseIds, distinct_images
from mars.actor.prefix_attention import SharedPrefixLayout

Group = tuple[ProcessedPrompt, Sequence[ResponseIds]]


def pack_groups(groups: Sequence[Group], positions_of: PositionsOf) -> ForwardBatch:
    """One row: a prompt, its responses, the next prompt, its responses, ...

    Log-probs and entropies equal those of `forward_batch` over the same (prompt, response) pairs, in this order. A
    prompt may be in several groups, in one pack or in several.
    Positions: each response continues at its prompt's largest position + 1, as if it were the only response.

    Example: prompt (7, 8) with responses (1, 2) and (3,) is the row 7 8 1 2 3 at positions 0 1 2 3 2; its targets
    1, 2 and 3 are predicted at columns 1, 2 and 1.
    """
    input_ids, position_ids, columns = [], [], []
    start = 0
    for prompt, responses in groups:
        positions = positions_of(prompt)
        last = start + len(prompt.input_ids) - 1
        input_ids.append(prompt.input_ids)
        position_ids.append(positions)
        start = last + 1
        for response in responses:
            places = torch.arange(len(response))
            input_ids.append(torch.tensor(response, dtype=torch.long))
            position_ids.append((positions.max() + 1 + places).expand(len(positions), -1))
            # A token is predicted at the column before it, the first token of a response at the last token of its
            # prompt.
            columns.append(torch.where(places == 0, last, start + places - 1))
            start += len(response)
    rows = [(prompt, response) for prompt, responses in groups for response in responses]
    images = distinct_images([prompt for prompt, _ in groups])
    targets = torch.tensor([token for _, response in rows for token in response], dtype=torch.long)
    return ForwardBatch(
        input_ids=torch.cat(input_ids).unsqueeze(0),
        position_ids=torch.cat(position_ids, dim=1).unsqueeze(1),
        pixel_values=images.pixel_values,
        image_grid_thw=images.grid_thw,
        image_index=images.index,
        targets=targets,
        token_rows=torch.zeros_like(targets),
        token_columns=torch.cat(columns),
        lengths=torch.tensor([len(response) for _, response in rows]),
        layout=SharedPrefixLayout.of([(len(p.input_ids), [len(r) for r in responses]) for p, responses in groups]),
    )


def group_rows(rows: Iterable[tuple[ProcessedPrompt, ResponseIds]]) -> list[Group]:
    """Groups of neighbouring rows with the same prompt object."""
    neighbours = (list(members) for _, members in groupby(rows, key=lambda row: id(row[0])))
    return [(members[0][0], [response for _, response in members]) for members in neighbours]
