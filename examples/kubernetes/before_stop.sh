#!/usr/bin/env bash
# preStop hook of every pod: let the training save before Kubernetes ends the pod. On the head it asks the driver to
# save and end, as SIGTERM does; on every pod it waits until the driver and the workers there have ended. Kubernetes
# waits for the hook at most terminationGracePeriodSeconds, which must be above checkpoint.grace_s.
set -eu
# drivers: the processes `python -m mars.main`, and no others whose command line has these words, such as a submitter.
drivers() {
    local process words
    for process in /proc/[0-9]*; do
        mapfile -d '' -t words <"$process/cmdline" || continue
        [[ "${words[1]:-} ${words[2]:-}" != "-m mars.main" ]] || echo "${process#/proc/}"
    done 2>/dev/null # a process may have ended meanwhile
}
for driver in $(drivers); do kill -TERM "$driver" || true; done
while [ -n "$(drivers)" ] || grep -qszE '^ray::(Engine|Trainer)Worker' /proc/[0-9]*/cmdline; do sleep 0.5; done
