"""Runs of mars.main in processes forked from one that has imported torch and the like, which takes longest.

python fork_runs.py OVERRIDE...: loads what a run of these settings loads. Then runs mars.main in a child for each line
{"arguments": [...], "environment": {...}, "stderr": path} that it reads, and answers with a line: the child's exit
code, -number for a signal. Before that with a line "stopped <pid>" if the child stops (SIGSTOP).
"""

from __future__ import annotations

import json
import os
import sys

from mars.cluster.environment import prepare_process


def main() -> None:
    prepare_process("local", 1, "cpu")
    import mars.actor.fsdp_trainer
    import mars.rollout.hf_engine
    import mars.run  # noqa: F401
    from mars.checks.model import ModelCheck
    from mars.config.load import load_config
    from mars.inputs import load_inputs

    config = load_config("train", sys.argv[1:], [])
    load_inputs(config, with_training_set=True)
    with ModelCheck(config, in_process=True) as check:
        check.finish()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(json.loads(line))
        while True:
            _, status = os.waitpid(pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                break
            _answer(f"stopped {pid}")
        _answer(str(os.waitstatus_to_exitcode(status)))


def _answer(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _child(job: dict) -> None:
    from mars.main import main
    from mars.process import run_command

    os.environ.update(job["environment"])
    out = os.open(job["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(out, descriptor)
    code = 1
    try:
        run_command(lambda: main(job["arguments"]))
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
