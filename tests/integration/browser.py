"""A real browser for tests of pages: Chromium, which opens copies of pages and says what a script finds in them."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_TIMEOUT_S = 300


def chromium() -> str:
    """The browser's path; skips the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    return found


def measure(pages: Mapping[str, Path], probe: str, folder: Path, *, width: int, dark: bool) -> dict[str, list[Any]]:
    """What `probe`, the body of a JavaScript function, returns in each page: one value for each time it has loaded.

    The pages are shown in frames of `width` pixels: a browser's window has at least 500. Each page's own policy holds,
    with the probe's hash added to the scripts that it admits.
    """
    frames = []
    for number, (name, path) in enumerate(pages.items()):
        copy = folder / f"page_{number}.html"
        copy.write_text(_with_probe(path.read_text(encoding="utf-8"), name, probe), encoding="utf-8")
        frames.append(f'<iframe src="{copy.name}" width="{width}" height="800" style="border:0"></iframe>')
    listener = (
        "const found = {}; addEventListener('message', (event) => { (found[event.data[0]] ??= []).push(event.data[1]);"
        " document.getElementById('found').textContent = JSON.stringify(found); });"
    )
    frame = folder / "frames.html"
    frame.write_text(f'<!doctype html><pre id="found"></pre><script>{listener}</script>{"".join(frames)}')
    found = re.search(r'<pre id="found">(.*?)</pre>', _dump(frame, folder / "profile", dark), re.DOTALL)
    assert found is not None
    return json.loads(html.unescape(found[1]))


def _with_probe(page: str, name: str, probe: str) -> str:
    script = (
        f"addEventListener('load', () => {{ const run = () => {{ {probe} }}; let found;"
        f" try {{ found = run(); }} catch (error) {{ found = String(error); }}"
        f" parent.postMessage([{json.dumps(name)}, found], '*'); }});"
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    admitted = (
        f"{policy[1]} 'sha256-{digest}'" if "script-src" in policy[1] else f"{policy[1]}; script-src 'sha256-{digest}'"
    )
    return page.replace(policy[1], admitted, 1).replace("</body>", f"<script>{script}</script></body>")


def _dump(page: Path, profile: Path, dark: bool) -> str:
    """The page as the browser has it after its scripts have run."""
    command = [chromium(), "--headless", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=10000"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    command += ["--no-sandbox"] if os.geteuid() == 0 else []  # the sandbox refuses root
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
