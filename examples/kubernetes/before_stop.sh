#!/usr/bin/env bash
# preStop hook of every pod: let the training save before Kubernetes ends the pod. On the head it asks the driver to
# save and end, as SIGTERM does; on every pod it waits until the driver and the workers there have ended. Kubernetes
# waits for the hook at most terminationGracePeriodSeconds, which must be above checkpoint.grace_s.
set -eu
for process in /proc/[0-9]*; do
    # The argument after -m of `python -m mars.main`. A shell whose command line contains these words is not meant.
    if grep -qszx 'mars\.main' "$process/cmdline"; then
        kill -TERM "${process#/proc/}" || true
    fi
done
while grep -qszE '^(mars\.main$|ray::(Engine|Trainer)Worker)' /proc/[0-9]*/cmdline; do sleep 0.5; done
