#!/usr/bin/env bash
# One Ray node of a Slurm job, until SIGTERM: `slurm_node.sh head|worker ADDRESS [ray_up.sh options]`, which
# scripts/slurm.sh starts through srun. ADDRESS: of the head. `slurm_node.sh address` prints what it can be on this node.
set -euo pipefail
# first_port: of a block of ports that belongs to this job. If somebody uses it, of the next one that is free.
first_port() {
    "$MARS_PYTHON" -c '
import itertools, socket, sys
for first in (10000 + (int(sys.argv[1]) + further) % 22 * 1000 for further in itertools.count()):
    probes = [socket.socket() for _ in range(9)]
    try:
        for port, probe in enumerate(probes, first):
            probe.bind(("", port))
    except OSError:
        continue
    print(first)
    break' "$SLURM_JOB_ID"
}
# own_ip: the address by which Slurm reaches this node. Its name may mean a loopback address here, but not elsewhere.
own_ip() {
    local name ip
    name=$(scontrol show node "$SLURMD_NODENAME" | sed -n 's/^.*\bNodeAddr=\([^ ]*\).*$/\1/p') || true
    ip=$(getent ahostsv4 "${name:-$SLURMD_NODENAME}" | sed 's/ .*//;q') || true
    case $ip in '' | 127.*) [ -n "$ip" ] && [ "$ip" = "$name" ] || ip=$(hostname -I | sed 's/ .*//') ;; esac
    echo "$ip"
}
ip=$(own_ip) port=$(first_port)
[ "$1" != address ] || { echo "$ip:$port" && exit; }
role=$1 address=$2
shift 2
if [ ! -r "$RAY_AUTH_TOKEN_PATH" ]; then
    echo "$SLURMD_NODENAME: $RAY_AUTH_TOKEN_PATH: not found; run.dir must be a folder that all nodes share" >&2
    exit 4
fi
case $role in
head) role=(head --port "$port" --dashboard-port $((port + 1))) ;;
worker) role=(worker "$address") ;;
esac
folder=$(mktemp -d "${RAY_TMPDIR:-/tmp}/mars-XXXXXX") # short: the paths of Ray's sockets may have 107 characters
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0        # SIGTERM comes when the run has ended: there is nothing to wait for
MARS_CLUSTER=$folder bash "$(dirname "${BASH_SOURCE[0]}")/ray_up.sh" "${role[@]}" --block --temp-dir "$folder" \
    --node-ip "$ip" --node-ports $((port + 2)) --worker-ports "$((port + 10))-$((port + 999))" \
    --num-cpus "${SLURM_CPUS_ON_NODE:-1}" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" "$@" &
ray=$!
trap 'kill -TERM "$ray" 2>/dev/null' TERM
while kill -0 "$ray" 2>/dev/null; do wait "$ray" || true; done # a signal ends `wait` too
code=0 && wait "$ray" || code=$?
# Ray's workers end a little later than the node: nothing of it may stay. The end of Ray's logs is kept.
"$MARS_PYTHON" -c 'import os, sys; from pathlib import Path; from mars.cluster.guard import clean_up
clean_up(Path(sys.argv[1]), os.getppid(), os.getsid(0), Path(sys.argv[2]))' "$folder" "$MARS_SLURM_DIR/$SLURMD_NODENAME"
exit "$code"
