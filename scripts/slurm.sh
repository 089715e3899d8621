#!/usr/bin/env bash
#SBATCH --job-name=mars
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@180
# Train on all nodes of a Slurm job: start a Ray node on each (scripts/slurm_node.sh), train, end them, pass the exit
# code on. An interrupted job is requeued and resumes. How to use it: `usage` below, and docs/clusters.md.
set -euo pipefail
umask 077

usage() {
    cat <<'EOF'
usage: sbatch [sbatch options] scripts/slurm.sh [ray_up.sh options] -- EXPERIMENT [key=value ...]
  sbatch options     such as --nodes=4 --gpus-per-node=8 --time=24:00:00
  ray_up.sh options  for the Ray node on every node; see bash scripts/ray_up.sh --help
  EXPERIMENT         a name in configs/experiment; leave it out to give settings only
  key=value          settings (docs/config.md). run.dir must be a folder that all nodes share; the default is
                     runs/JOBNAME-JOBID in the folder in which sbatch is called

stop a job:
  scancel --batch --signal=TERM JOBID   save and end; Slurm starts the job again, and it resumes
  scancel --batch --signal=INT JOBID    save and end
  scancel JOBID                         end at once, without saving

environment:
  MARS_PYTHON          the Python to use; otherwise the checkout's .venv, otherwise python
  MARS_JOIN_TIMEOUT_S  how many seconds the nodes may take to join the first one (300)
EOF
}
say() { printf '%s slurm.sh: %s\n' "$(date '+%F %T')" "$1" >&2; }
refuse() { say "$2" && exit "$1"; }
# quoted TEXT: TEXT as the value of a Hydra override, quoted so that Hydra reads back exactly TEXT.
quoted() { printf "'%s'" "$(printf '%s' "$1" | sed -E "s/(\\\\*)'/\\1\\1\\\\'/g; s/(\\\\+)\$/\\1\\1/")"; }
# of_job KEY: a value of this job in Slurm's records.
of_job() { scontrol show job "$SLURM_JOB_ID" | sed -n "s/^ *$1=//p"; }

case ${1:-} in -h | --help) usage && exit 0 ;; esac
[ -n "${SLURM_JOB_ID:-}" ] || { usage >&2 && refuse 2 "start it with sbatch: this is not a Slurm job"; }
for_ray=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do for_ray+=("$1") && shift; done
[ $# -gt 1 ] || { usage >&2 && refuse 2 "-- and an experiment or settings are missing"; }
shift
case $1 in -* | *=*) ;; *) set -- "experiment=$1" "${@:2}" ;; esac

root=$(dirname "${BASH_SOURCE[0]}")/..
# Slurm runs a copy of this script; its record of the job has the path of the original.
[ -f "$root/scripts/slurm_node.sh" ] || root=$(of_job Command)
root=${root%%/scripts/slurm.sh*}
[ -f "$root/scripts/slurm_node.sh" ] || refuse 2 "call scripts/slurm.sh by its path in the checkout, not a copy of it"
root=$(cd "$root" && pwd)
python=${MARS_PYTHON:-$root/.venv/bin/python}
[ -n "${MARS_PYTHON:-}" ] || [ -x "$python" ] || python=python

run_dir=runs/${SLURM_JOB_NAME:-mars}-$SLURM_JOB_ID
for setting in "$@"; do [ "${setting#run.dir=}" = "$setting" ] || run_dir=${setting#run.dir=}; done
case $run_dir in \'*\' | \"*\") run_dir=${run_dir:1:-1} ;; esac
case $run_dir in *[\'\"\$\\]*) refuse 2 "run.dir: must be a plain path; got $run_dir" ;; /*) ;; *) run_dir=$PWD/$run_dir ;; esac
restarts=${SLURM_RESTART_COUNT:-0}
[ "$restarts" = 0 ] || set -- "$@" run.resume=true
export MARS_PYTHON=$python MARS_SLURM_DIR=$run_dir/logs/slurm/$SLURM_JOB_ID.$restarts
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$MARS_SLURM_DIR/token
mkdir -p "$MARS_SLURM_DIR"
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH"

signal='' passed='' driver='' nodes=() names=()
trap 'signal=TERM && stop_training' TERM
trap 'signal=INT && stop_training' INT
trap stop_nodes EXIT

# stop_training: pass the signal on, once: a second one would end the training without saving.
stop_training() {
    [ -n "$signal" ] && [ -n "$driver" ] && [ -z "$passed" ] || return 0
    passed=yes
    say "SIG$signal: the training saves and ends"
    kill -TERM "$driver" 2>/dev/null || true
}

# start_node ROLE NAME: run a Ray node on the node NAME, with all of the job's CPUs, memory and GPUs there.
start_node() {
    mkdir -p "$MARS_SLURM_DIR/$2"
    srun --nodes=1 --ntasks=1 --ntasks-per-node=1 --nodelist="$2" --overlap --cpu-bind=none --mem=0 --export=ALL \
        --output="$MARS_SLURM_DIR/$2/node.log" \
        bash "$root/scripts/slurm_node.sh" "$1" "$address" "${for_ray[@]}" </dev/null &
    nodes+=($!) names+=("$2")
}
# ended_node: the name and the log of a Ray node that has ended; fails if there is none.
ended_node() {
    local i
    for i in "${!nodes[@]}"; do
        kill -0 "${nodes[i]}" 2>/dev/null || { echo "${names[i]}; its log is $MARS_SLURM_DIR/${names[i]}/node.log" && return; }
    done
    return 1
}
# wait_for_nodes NUMBER SECONDS: return when so many Ray nodes are up, or end with the reason.
wait_for_nodes() {
    local waiter ended
    "$python" -m mars.cluster.wait_for_nodes "$address" "$1" "$2" &
    waiter=$!
    while kill -0 "$waiter" 2>/dev/null; do
        if ended=$(ended_node); then
            kill "$waiter" || true
            refuse 4 "no Ray node on $ended"
        elif [ -n "$signal" ]; then
            kill "$waiter" || true
            finish 75
        fi
        sleep 0.2
    done
    wait "$waiter" || refuse 4 "the nodes' logs are in $MARS_SLURM_DIR"
}
stop_nodes() {
    local pid end=$((SECONDS + 30))
    for pid in "${nodes[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${nodes[@]}"; do
        while kill -0 "$pid" 2>/dev/null && [ $SECONDS -lt $end ]; do sleep 0.2; done
        kill -KILL "$pid" 2>/dev/null || true
    done
    nodes=()
    rm -f "$RAY_AUTH_TOKEN_PATH"
}
# finish CODE: end the Ray nodes, requeue the job if it is to go on, and end.
finish() {
    local why=''
    case $1 in
    75) [ "$signal" = INT ] || why="it was interrupted" ;;
    1 | 5) # not again and again: only if it has saved something since it started
        [ ! "$run_dir/checkpoints/LATEST" -nt "$RAY_AUTH_TOKEN_PATH" ] ||
            "$python" -m mars.cluster.wait_for_nodes "$address" "$SLURM_JOB_NUM_NODES" 0 || why="it has lost a node"
        ;;
    esac
    stop_nodes
    # A job that Slurm is ending, after scancel for example, is not RUNNING: it must not come back.
    if [ -n "$why" ] && [[ "$(of_job JobState)" = RUNNING* ]]; then
        say "the job is requeued, because $why"
        scontrol requeue "$SLURM_JOB_ID" || say "it is not requeued; to go on, call sbatch again with run.resume=true"
    fi
    exit "$1"
}

head=$SLURMD_NODENAME # Slurm runs this script on the first node
address=$(bash "$root/scripts/slurm_node.sh" address)
say "run.dir is $run_dir, the Ray cluster is $address, start ${restarts}"
start_node head "$head"
wait_for_nodes 1 300
for name in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do [ "$name" = "$head" ] || start_node worker "$name"; done
wait_for_nodes "$SLURM_JOB_NUM_NODES" "${MARS_JOIN_TIMEOUT_S:-300}"
say "all ${#nodes[@]} nodes are up"
[ -z "$signal" ] || finish 75
"$python" -m mars.main "$@" "run.dir=$(quoted "$run_dir")" "cluster.address=$address" &
driver=$!
stop_training # if the signal came a moment ago
while kill -0 "$driver" 2>/dev/null; do wait "$driver" || true; done # a signal ends `wait` too
code=0 && wait "$driver" || code=$?
[ "$code" != 143 ] || [ -z "$passed" ] || code=75 # the signal came before Python handled signals
say "the training has ended with exit code $code; run.dir is $run_dir"
finish "$code"
