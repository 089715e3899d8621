"""What README lets a newcomer type, with a model."""

from __future__ import annotations

import json

from mars.config.load import load_config
from tests.shipped.test_docs import block_after


def test_the_rows_of_the_readme_are_usable(tiny, tmp_path):
    from PIL import Image

    from mars.inputs import load_inputs

    rows = tmp_path / "rows.jsonl"
    rows.write_text(block_after("own-data"), encoding="utf-8")
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    for name in (name for line in lines for name in line["images"]):
        Image.new("RGB", (56, 56)).save(tmp_path / name)
    given = ["reward=vqa", f"model.path='{tiny}'", f"data.train_files=['{rows}']", "data.max_image_pixels=12544"]
    train = load_inputs(load_config("train", given, []), with_training_set=True).train
    assert len(train.prompts) == len(lines) == 5
    assert train.prompts[4].extra_info["choices"]
