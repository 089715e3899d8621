"""Run the code of a notebook, cell by cell, as Jupyter would: `python notebook_job.py NOTEBOOK`.

Without Jupyter, which mars does not need. So IPython's functions that show something take what is shown and drop it.
The name of a cell that fails is in the traceback.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType


def main(notebook: Path) -> None:
    if find_spec("IPython") is None:
        shown = ModuleType("IPython.display")
        shown.__dict__.update(dict.fromkeys(("HTML", "SVG", "display"), lambda shown: None))
        sys.modules[shown.__name__] = shown  # not IPython itself: matplotlib looks whether that is there
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)  # noqa: S102 our own notebook


if __name__ == "__main__":
    main(Path(sys.argv[1]))
