"""Rows that join the training set while a run trains: a sampler reads files that another program writes meanwhile.

A file is read once. From then on its prompts are known like those of the training files. A resumed run reads the files
again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mars.types import Prompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowsFile:
    """A file as it was read. prompts: of its rows without problems. refused: the number of its other rows.

    fingerprint: hash of its contents; "" if it could not be read, and then it has no prompts.
    """

    prompts: tuple[Prompt, ...]
    fingerprint: str
    refused: int


class KnownPrompts:
    """The prompts that a run knows: at first the prompts of the training files; `read` adds prompts of other files.

    prompts: the known prompts by id.

    read_file: reads a file and logs what is wrong with it. It raises nothing for a bad file.
    declared_id: (prompt) -> an id that no two prompts of any files may share; None for a prompt without such an id.
    """

    def __init__(
        self,
        prompts: dict[str, Prompt],
        read_file: Callable[[str], RowsFile],
        declared_id: Callable[[Prompt], Hashable] = lambda prompt: None,
    ) -> None:
        self.prompts = prompts
        self._read_file, self._declared_id = read_file, declared_id
        self._declared: set[Hashable] | None = None  # of `prompts`; looked up when a file is read
        self._files: dict[str, RowsFile] = {}  # all that this process has read
        self._repeated: dict[str, tuple[str, ...]] = {}  # file -> ids of prompts left out as repeated
        self._added: list[str] = []  # files that the sampler has asked for, in order

    def read(self, file: str) -> tuple[Prompt, ...]:
        """The prompts of the file's good rows; () if it cannot be read. The file is read when it is first asked for.

        All rows are left out if the file has the same contents as a file read before or, in a run with a single
        training file, as that file. A row is also left out if a known prompt has its `declared_id`.
        """
        if file not in self._files:
            self._keep(file, self._read_file(file))
        if file not in self._added:
            self._added.append(file)
        return self._files[file].prompts

    def metrics(self) -> dict[str, float]:
        """The numbers of added and refused rows of all files so far; {} without files."""
        files = [self._files[name] for name in self._added]
        added, refused = sum(len(file.prompts) for file in files), sum(file.refused for file in files)
        return {"rows_added": float(added), "rows_refused": float(refused)} if files else {}

    def state(self) -> list[list[Any]]:
        """For each file its name, its fingerprint, and the ids of prompts left out as repeated. All are JSON values."""
        return [[name, self._files[name].fingerprint, [*self._repeated[name]]] for name in self._added]

    def recall(self, state: Iterable[Sequence[Any]]) -> None:
        """Know the prompts of a `state` again. Rows of a file that has changed are left out, with a warning.

        Of several rows with one id, those that were left out before are left out again, even if files come in another
        order or are missing.
        """
        for name, fingerprint, repeated in state:
            if name in self._files:
                continue
            found = self._read_file(name) if fingerprint else RowsFile((), "", 0)
            if found.fingerprint != fingerprint:
                logger.warning(
                    "%s: not the file that the run has read before; its rows are left out; restore it and resume again",
                    name,
                )
                found = RowsFile((), fingerprint, 0)
            self._keep(name, found, repeated)

    def restore(self, state: Sequence[Sequence[Any]]) -> None:
        """`recall`, and take the files of `state`, and no others, as those that the sampler has asked for."""
        self.recall(state)
        self._added = [name for name, *_ in state]

    def _keep(self, name: str, found: RowsFile, repeated: Collection[str] | None = None) -> None:
        """repeated: ids of prompts to leave out; None: those whose `declared_id` is known already."""
        if self._declared is None:
            self._declared = {self._declared_id(prompt) for prompt in self.prompts.values()} - {None}
        fresh = [prompt for prompt in found.prompts if prompt.prompt_id not in self.prompts]
        if repeated is None:
            repeated = [prompt.prompt_id for prompt in fresh if self._declared_id(prompt) in self._declared]
        left_out = frozenset(repeated)
        new = {prompt.prompt_id: prompt for prompt in fresh if prompt.prompt_id not in left_out}
        copied, num_repeated = len(found.prompts) - len(fresh), len(fresh) - len(new)
        if copied:
            logger.warning("%s: %d of its rows are in a file with the same contents; they are left out", name, copied)
        if num_repeated:
            logger.warning(
                "%s: %d of its rows have the extra_info.id of another; they are left out", name, num_repeated
            )
        self.prompts.update(new)
        self._declared |= {self._declared_id(prompt) for prompt in new.values()} - {None}
        self._files[name] = RowsFile(tuple(new.values()), found.fingerprint, found.refused + copied + num_repeated)
        self._repeated[name] = tuple(repeated)
