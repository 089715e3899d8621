"""The benchmarks, behind one command.

    python scripts/bench.py step --picture bench_step.png > bench_step.json
    python scripts/bench.py gpu --smoke > /dev/null
    python scripts/bench.py anchors --help

JSON goes to stdout, progress to stderr. docs/performance.md and docs/benchmarks.md explain
every figure and have the results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

BENCHMARKS = {
    "step": "a whole training step and its stages, compared with the same step in TRL",
    "trainer": "forward and backward of one group: padded rows, shared images, shared prefixes",
    "head": "log-probs and entropies at a vocabulary of 151,936, compared with their matrix products",
    "anchors": "what anchors cost at equal numbers of rollouts",
    "scale": "time and memory over samples, prompts, sources, image sizes and many steps",
    "advantages": "advantages of a million rollouts, compared with a plain Python loop",
    "checkpoint": "how long a checkpoint blocks a step, its size on disk, and the cost of supervision",
    "schedule": "a step that samples the next one's responses during its update, and one that does not",
    "driver": "processor time and memory of the driver for each rollout, at 1,000 to 10,000 prompts in a step",
    "workers": "processor time of the driver with 64 engines and 64 ranks on this machine, without models",
    "weights": "how long new weights take to the engines, by object store and by broadcast",
    "images": "what it costs to send images to the nodes of a cluster, compared with files that every node has",
    "gpu": "steps of a 3B model on one or more GPUs, with the share of peak FLOP/s",
}


def main(arguments: Sequence[str]) -> int:
    table = "\n".join(f"  {name:<12}{text}" for name, text in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="bench.py", description=f"{__doc__}\n{table}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("options", nargs=argparse.REMAINDER, help="options of the benchmark; see its --help")
    given = parser.parse_args(arguments)
    # Imported only when chosen, because some benchmarks import torch and transformers.
    return import_module(f"scripts.bench.{given.benchmark}").main(given.options)


if __name__ == "__main__":
    # Python puts scripts/ first in sys.path, but `scripts.bench` is only found from the folder above.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(main(sys.argv[1:]))
