"""processes.json of an attempt: the processes that its driver has started on its own host."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil

from mars.output.files import replacing
from mars.run_dir.processes import ProcessId, process_from, process_id

logger = logging.getLogger(__name__)

PROCESSES_FILE = "processes.json"


class ProcessList:
    """The list of one attempt. folder: of the attempt.

    Workers on other hosts or in a joined cluster are not in it, so each worker also writes a file of its own
    (`record_worker`).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[ProcessId, str] = {}
        self._lock = threading.Lock()

    def update(self) -> None:
        """Add all descendants of this process, and remove processes that have ended. Call it whenever a process is
        started.

        Any thread may call it. A process stays in the list after its parent has ended. A failure to write is only
        logged.
        """
        with self._lock:
            self._names = {process: name for process, name in self._names.items() if process.is_alive()}
            for child in psutil.Process().children(recursive=True):
                try:
                    self._names[process_id(child)] = child.name()
                except psutil.Error:  # it has ended since
                    continue
            entries = [{**asdict(process), "name": name} for process, name in self._names.items()]
            try:
                with replacing(self.folder / PROCESSES_FILE) as draft:
                    draft.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
            except OSError as error:
                logger.warning("%s: %s", self.folder / PROCESSES_FILE, error.strerror)


def listed_processes(folder: Path) -> Iterator[tuple[ProcessId, str]]:
    """(process, its name) of each process in the attempt's list; nothing if there is no readable list."""
    try:
        entries = json.loads((folder / PROCESSES_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return
    for entry in entries if isinstance(entries, list) else ():
        process = process_from(entry)
        if process is not None:
            yield process, str(entry.get("name"))
