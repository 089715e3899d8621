"""Starts processes by forking this one, which has imported what a run imports: that takes longer than a small run.

python fork_server.py MODULE...: imports the modules. Then reads a JSON object per line and answers each with a line
[number, answer], where "number" is the object's own:
{"arguments": [...], "cwd": path, "environment": {...}, "stdout": path, "stderr": path, "fresh": bool}:
    `python ARGUMENTS`, in a session of its own; "fresh": in a new interpreter -> its pid
{"wait": pid, "timeout_s": seconds} -> its exit code, -number for a signal; "stopped" (by SIGSTOP); null after the time
Kills what still runs when its input ends.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import sys
import time

from mars.cluster.environment import loopback_environment, worker_environment

running: set[int] = set()


def main() -> dict | None:
    """Serve. Returns, in a forked process, the process to become."""
    # Libraries read these when they are imported.
    os.environ.update({**worker_environment(1, "cpu"), **loopback_environment()})
    for module in sys.argv[1:]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        message = json.loads(line)
        if "wait" in message:
            answer: object = wait(message["wait"], message["timeout_s"])
        else:
            answer = os.fork()
            if answer == 0:
                return message
            running.add(answer)
        sys.stdout.write(json.dumps([message["number"], answer]) + "\n")
        sys.stdout.flush()
    for pid in running:
        os.killpg(pid, signal.SIGKILL)
    gc.unfreeze()  # otherwise extension modules report frozen objects as leaks at exit
    return None


def wait(pid: int, timeout_s: float) -> int | str | None:
    end = time.monotonic() + timeout_s
    while True:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if found and os.WIFSTOPPED(status):
            return "stopped"
        if found:
            running.remove(pid)
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.005)


def become(job: dict) -> None:
    """Do in this process what `python ARGUMENTS` does."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # a shell may have made the tests ignore them
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    out, err = (os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) for name in ("stdout", "stderr"))
    for descriptor, target in ((null, 0), (out, 1), (err, 2)):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["environment"])
    first, *rest = job["arguments"]
    if job["fresh"]:
        os.execv(sys.executable, [sys.executable, first, *rest])
    sys.orig_argv[:] = [sys.executable, first, *rest]
    if first == "-m":
        sys.argv, sys.path[0] = rest, job["cwd"]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [first, *rest], os.path.dirname(first)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    job = main()
    if job is not None:
        become(job)
