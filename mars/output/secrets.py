"""Keep secrets that environment variables hold (API keys, tokens, passwords) out of files and messages."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_SECRET_NAME = re.compile(
    r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|PWD|CREDENTIALS?|AUTH|PAT)(_|$)", re.IGNORECASE
)
# Variables whose names match, but which have no secret: folders, and files or sockets that contain a secret.
_NO_SECRET_NAME = re.compile(r"^(OLD)?PWD$|_(PATH|FILE|DIR|SOCK|URL|MODE)$", re.IGNORECASE)
# Shorter values are words such as "true" and "none", which occur everywhere.
_MIN_CHARS = 8


def secret_values(environment: Mapping[str, str]) -> dict[str, str]:
    """Value -> name, for each variable whose name looks like a secret's (WANDB_API_KEY, HF_TOKEN, DB_PASSWORD), and
    whose value has at least 8 characters."""
    return {
        value: name
        for name, value in environment.items()
        if len(value) >= _MIN_CHARS and _SECRET_NAME.search(name) and not _NO_SECRET_NAME.search(name)
    }


def redact(text: str) -> str:
    """`text` with the values of this process's secret variables replaced by <the variable's name>."""
    for value, name in secret_values(os.environ).items():
        if value in text:
            text = text.replace(value, f"<{name}>")
    return text


def redacted(value: Any) -> Any:
    """A tree of dicts, lists and strings, such as a dumped configuration, with `redact` applied to every string."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact(key) if isinstance(key, str) else key: redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(redacted(item) for item in value)
    return value
