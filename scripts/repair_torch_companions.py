"""Repair an environment with a CPU-only torch in which torchvision, torchaudio or torchcodec cannot be imported.

The usual wheels of these three are linked to CUDA torch. With a CPU-only torch their compiled parts do not load.
transformers and vLLM then cannot be imported either.

- torchvision: it is enough to declare two operator schemas before it is imported. Every Python process of the
  environment must do so. A `.pth` file therefore installs an import hook, which costs nothing until torchvision is
  looked up.
- torchaudio, torchcodec: transformers and vLLM do not need them and mars does not use them, so they are uninstalled if
  they do not load.

Does nothing if all three can be imported as they are.

    python scripts/repair_torch_companions.py
"""

import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path

HOOK = '''"""Declare torchvision's operator schemas first (mars: scripts/repair_torch_companions.py)."""

import sys


class _DeclareOperatorsFirst:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "torchvision":
            return None
        sys.meta_path.remove(_DeclareOperatorsFirst)
        import torch

        for operator in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        return None


sys.meta_path.insert(0, _DeclareOperatorsFirst)
'''


def import_error(package: str) -> str | None:
    """The last line of the error when `package` is imported in a fresh process. None if there is no error."""
    result = subprocess.run([sys.executable, "-c", f"import {package}"], capture_output=True, text=True)
    return None if result.returncode == 0 else result.stderr.strip().splitlines()[-1]


def repair_torchvision() -> None:
    """If torchvision cannot be imported because operators are missing, declare them for the whole environment.

    Raises SystemExit(4) if it then still cannot be imported, or could not for another reason.
    """
    error = import_error("torchvision")
    if error is None:
        return
    if "torchvision::" in error:
        site_packages = Path(sysconfig.get_path("purelib"))
        (site_packages / "mars_torchvision_operators.py").write_text(HOOK)
        (site_packages / "mars_torchvision_operators.pth").write_text("import mars_torchvision_operators\n")
        error = import_error("torchvision")
    if error is not None:
        sys.stderr.write(f"torchvision does not import: {error}\n")
        raise SystemExit(4)
    sys.stderr.write("torchvision: declared the operators that this CPU-only torch lacks\n")


def remove_if_broken(package: str) -> None:
    if importlib.util.find_spec(package) is None or import_error(package) is None:
        return
    subprocess.run([sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", package], check=True)
    sys.stderr.write(f"{package}: removed; it does not load beside this CPU-only torch, and is not used\n")


if __name__ == "__main__":
    repair_torchvision()
    for unused in ("torchaudio", "torchcodec"):
        remove_if_broken(unused)
