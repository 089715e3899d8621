"""The cold start and images that are damaged in their middle: their header is right, their pixels are not."""

import io
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mars.data.prompts.budget import ImageBudget
from mars.data.prompts.prepare import RowSettings
from mars.errors import DataError
from mars.supervised import rows as supervised
from mars.supervised.dry_run import summary
from tests.builders import altered
from tests.unit.supervised.test_loop import config_of

PIXELS = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8))


def encoded(kind, damaged, **options):
    buffer = io.BytesIO()
    PIXELS.save(buffer, kind, **options)
    data = bytearray(buffer.getvalue())
    if damaged:
        middle = len(data) // 2
        data[middle : middle + 200] = b"\xff" * 200
    return bytes(data)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """(form of an image, whether it is inside of the row files, data.on_bad_sample) -> what the cold start loads."""
    encoder = SimpleNamespace(
        encode=lambda messages, num_images: (1, 2, *(9,) * num_images),
        encode_response=lambda text: (1, 2),
        opening="",
    )

    def run(kind, options, embedded, on_bad_sample):
        cells = {name: encoded(kind, name == "bad", **options) for name in ("good", "bad")}
        for name, data in cells.items():
            (tmp_path / f"{name}.img").write_bytes(data)
        for file, names in {"train": ["good", "bad", "good", "bad"], "held_out": ["bad", "good", "good"]}.items():
            stored = {
                name: {"bytes": data, "path": None} if embedded else {"bytes": None, "path": f"{name}.img"}
                for name, data in cells.items()
            }
            row = {"prompt": "<image>What?", "response": "so", "answer": "a"}
            rows = [row | {"images": [stored[name]]} for name in names]
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{file}.parquet")
        settings = RowSettings(
            image_root=None, check_truth=lambda prompt: None, needs_response=True, images_per_row=None,
            decode_images=True, source_budgets={}, budget=ImageBudget(784, 50176, 14, 2),
            template_of=lambda prompt: None, encoder=encoder, image_layout="single", max_prompt_tokens=100,
        )  # fmt: skip
        monkeypatch.setattr(
            supervised, "prompt_format", lambda config: SimpleNamespace(encoder=encoder, budget=settings.budget)
        )
        monkeypatch.setattr(supervised, "row_settings", lambda config, form: settings)
        config = config_of()
        files = {name: [str(tmp_path / f"{name}.parquet")] for name in ("train", "held_out")}
        data = altered(
            config.data, train_files=files["train"], eval_files=files["held_out"], on_bad_sample=on_bad_sample
        )
        config = altered(config, data=data.model_dump(), sft=config.sft.model_dump() | {"batch_size": 2})
        return config, supervised.load_rows(config)

    return run


FORMS = [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("GIF", {}), ("TIFF", {"compression": "tiff_lzw"})]


@pytest.mark.parametrize("embedded", [True, False], ids=["in parquet", "in files"])
@pytest.mark.parametrize(("kind", "options"), FORMS)
def test_they_are_dropped_and_counted_in_both_sets_and_the_dry_run_says_so(load, kind, options, embedded):
    config, rows = load(kind, options, embedded, "drop")
    assert [prompt.row.rpartition(":")[2] for prompt in rows.train.prompts] == ["0", "2"]
    assert rows.train.dropped == {"image_undecodable": 2}
    assert rows.held_out is not None
    assert rows.held_out.dropped == {"image_undecodable": 1}
    lines = summary(config, rows)
    assert lines[0] == "training set      2 rows with a response, 2 dropped {'image_undecodable': 2}"
    assert lines[1] == "held-out set      2 rows with a response, 1 dropped {'image_undecodable': 1}"


def test_they_are_refused_all_at_once(load):
    with pytest.raises(DataError, match=r"(?s)3 of 7 rows.*train.parquet:1 .*train.parquet:3 .*held_out.parquet:0 "):
        load("PNG", {}, True, "error")
