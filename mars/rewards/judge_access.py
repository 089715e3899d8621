"""The address of a judge, and the secrets for it, which no error or log message may show."""

from __future__ import annotations

import base64
import os
import re
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment

import requests


def endpoint(url: str) -> str:
    """The address for questions to the judge at a url: <url>/chat/completions.

    Raises ValueError for a url that cannot be used; the message never quotes the url.
    """
    wanted = "url: want http(s)://host/v1 or http(s)://host:port/v1, without what comes after the path"
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(wanted)
        if parts.port == 0 or re.search(r"\s", url):
            raise ValueError(wanted)
        if parts.username is None and parts.password is None:
            requests.Request("POST", url).prepare()
    except ValueError:
        raise ValueError(wanted) from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("url: it is in messages, so it cannot hold a password; use api_key_env")
    return f"{url.rstrip('/')}/chat/completions"


def key_of(name: str) -> str:
    key = os.environ.get(name, "")
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(f"api_key_env: the environment variable {name} holds no key; set it where the run is started")
    return key


def without_secrets(text: str, key: str | None) -> str:
    """The text with *** for the key and for the passwords of the environment's proxies."""
    secrets = {key or "", *_of_proxies()}
    secrets |= {repr(secret)[1:-1] for secret in secrets}
    for secret in sorted(secrets - {""}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _of_proxies() -> set[str]:
    """Of each proxy of the environment: its login ("user:password", also in base64) and the pieces of its password.

    A password may have a "/", "?", "#", "@" or ":". Code that parses the proxy's url may then mistake a piece of the
    password for the host or the port, and quote it in a message.
    """
    found: set[str] = set()
    for proxy in getproxies_environment().values():
        login, at, _ = proxy.split("://", 1)[-1].rpartition("@")
        if at:
            user, colon, password = login.partition(":")
            plain = f"{unquote(user)}:{unquote(password)}"
            found |= {login, plain, base64.b64encode(plain.encode()).decode()}
            found |= {
                text for piece in re.split("[/?#@:]", password if colon else user) for text in (piece, unquote(piece))
            }
    return found
