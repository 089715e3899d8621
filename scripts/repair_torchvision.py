"""Give a CPU-only torch the two operator schemas that the CUDA build of torchvision expects.

PyPI's torchvision is linked to CUDA torch. Beside a CPU-only torch its compiled operators do not load, and
`import torchvision` fails although nothing here ever calls them. Declaring the schemas first is enough. It has to
happen in every Python process of the environment, so a `.pth` file installs an import hook that costs nothing
until torchvision is looked up. Does nothing where torchvision imports as it is.

    python scripts/repair_torchvision.py
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

HOOK = '''"""Declare torchvision's operator schemas before torchvision is imported (mars: scripts/repair_torchvision.py)."""

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


def torchvision_error() -> str | None:
    """The last line of the error `import torchvision` ends with in a fresh process, or None."""
    result = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True)
    return None if result.returncode == 0 else result.stderr.strip().splitlines()[-1]


def main() -> int:
    error = torchvision_error()
    if error is None:
        return 0
    if "torchvision::" not in error:
        sys.stderr.write(f"torchvision does not import, and not for want of its operators: {error}\n")
        return 4
    site_packages = Path(sysconfig.get_path("purelib"))
    (site_packages / "mars_torchvision_operators.py").write_text(HOOK)
    (site_packages / "mars_torchvision_operators.pth").write_text("import mars_torchvision_operators\n")
    error = torchvision_error()
    if error is not None:
        sys.stderr.write(f"torchvision still does not import after its operators were declared: {error}\n")
        return 4
    sys.stderr.write("torchvision: declared the operators that this CPU-only torch lacks\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
