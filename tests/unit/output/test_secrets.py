"""Secrets that environment variables hold are left out of texts and configurations."""

from __future__ import annotations

import logging

import pytest

from mars.output.secrets import redact, redacted, secret_values
from mars.process import LOG_FILE, log_to, run_command

NAMES = ["WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_APIKEY", "DB_PASSWORD",
         "GITHUB_PAT", "MY_SECRET", "service_credentials", "NPM_AUTH", "KEY"]  # fmt: skip
OTHERS = ["PATH", "HOME", "PWD", "OLDPWD", "KEYBOARD", "TOKENIZERS_PARALLELISM", "RAY_AUTH_TOKEN_PATH", "SSH_AUTH_SOCK",
          "MONKEY", "AUTHOR", "RAY_AUTH_MODE"]  # fmt: skip


def test_names_of_keys_by_hand():
    for name in NAMES:
        assert secret_values({name: "planted-value"}) == {"planted-value": name}
    assert secret_values(dict.fromkeys(OTHERS, "planted-value")) == {}
    assert secret_values({"HF_TOKEN": "true"}) == {}, "a short value is a word"


def test_values_are_replaced_everywhere_in_a_tree(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "planted-value")
    assert redact("https://planted-value@hub/planted-value") == "https://<HF_TOKEN>@hub/<HF_TOKEN>"
    tree = {"a": ["x", "planted-value"], "planted-value": {"b": ("planted-value", 1, None)}}
    assert redacted(tree) == {"a": ["x", "<HF_TOKEN>"], "<HF_TOKEN>": {"b": ("<HF_TOKEN>", 1, None)}}


@pytest.mark.parametrize("failure", [ValueError, OSError])
def test_a_key_in_an_exception_is_not_printed_and_not_logged(ended, monkeypatch, tmp_path, failure):
    monkeypatch.setenv("HF_TOKEN", "planted-value")

    def main():
        log_to(str(tmp_path))
        logging.getLogger("mars.part").info("to planted-value")
        raise failure("401 for planted-value")

    result = ended(lambda: run_command(main))
    log = tmp_path / LOG_FILE
    assert "planted-value" not in result.stderr + result.stdout + log.read_text()
    assert "401 for <HF_TOKEN>" in result.stderr
    assert log.stat().st_mode & 0o077 == 0
