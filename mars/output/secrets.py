"""Keep secrets that environment variables hold (API keys, tokens, passwords) out of files and messages."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_SECRET_NAME = re.compile(
    r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|PWD|CREDENTIALS?|AUTH|PAT)(_|$)", re.IGNORECASE
)
# Variables that match and hold no secret: working folders, and files or sockets where a secret is kept.
_NO_SECRET_NAME = re.compile(r"^(OLD)?PWD$|_(PATH|FILE|DIR|SOCK|URL|MODE)$", re.IGNORECASE)
# Shorter values are words such as "true" and "none", which are everywhere.
_MIN_CHARS = 8


def secret_values(environment: Mapping[str, str]) -> dict[str, str]:
    """Value -> name of each variable whose name looks like a key: WANDB_API_KEY, HF_TOKEN, DB_PASSWORD."""
    return {
        value: name
        for name, value in environment.items()
        if len(value) >= _MIN_CHARS and _SECRET_NAME.search(name) and not _NO_SECRET_NAME.search(name)
    }


def redact(text: str) -> str:
    """`text` with each value of such a variable of this process replaced by <the variable's name>."""
    for value, name in secret_values(os.environ).items():
        if value in text:
            text = text.replace(value, f"<{name}>")
    return text


def redacted(value: Any) -> Any:
    """A tree of dicts, lists and strings, such as a dumped configuration, with every string passed through `redact`."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact(key) if isinstance(key, str) else key: redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(redacted(item) for item in value)
    return value
