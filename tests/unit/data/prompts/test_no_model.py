"""What a `model.path` that is no model is said to be."""

import os

from mars.data.prompts.tokenizer import no_model


def test_a_path_that_is_no_model_is_told_apart(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights.bin").write_bytes(b"")
    os.symlink(tmp_path / "gone", tmp_path / "broken")
    os.symlink("loop", tmp_path / "loop")
    words = {
        "config.json": f"is a file, and not the folder of a model; got {tmp_path}/config.json; give the folder that "
        f"holds it, {tmp_path}",
        "sub/weights.bin": "is a file, and not the folder of a model",
        "broken": f"a link that leads to nothing; got {tmp_path}/broken; correct the link",
        "loop": "a link that leads to nothing",
        "none": "no such folder, and no such model on the Hugging Face hub, or the hub cannot be reached; got "
        f"{tmp_path}/none; correct the path",
    }
    for name, text in words.items():
        error = no_model(str(tmp_path / name))
        assert str(error).startswith(f"model.path: {text}"), name
        assert error.exit_code == 4
