"""`python -m mars.data.synthetic OUT --seed 0 --train 1024 --test 400 --cold-start 4096 --bias 0.5`"""

from __future__ import annotations

import argparse
import logging
import sys

from mars.data.synthetic.write import SetSizes, write_synthetic
from mars.errors import MarsError


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mars.data.synthetic",
        description="Write small visible + infrared scenes in LLVIP's layout, and rows for a cold start.",
    )
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--train", type=int, required=True, help="scenes to train on")
    parser.add_argument("--test", type=int, required=True, help="held-out scenes")
    parser.add_argument("--cold-start", type=int, required=True, help="rows of the supervised cold start")
    parser.add_argument("--bias", type=float, required=True, help="how often its teacher believes the visible image")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sizes = SetSizes(train=arguments.train, test=arguments.test, cold_start=arguments.cold_start)
    try:
        write_synthetic(arguments.out, seed=arguments.seed, sizes=sizes, bias=arguments.bias)
    except MarsError as error:
        logging.getLogger(__name__).error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
