#!/usr/bin/env bash
# From nothing to a trained tiny model and a report: `bash scripts/quickstart.sh [key=value ...]`.
# The settings are those of configs/experiment/quickstart.yaml; the arguments change them.
# QUICKSTART_DIR: the folder for everything (default runs/quickstart). A second run reuses its complete parts.
set -euo pipefail
started=$(pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh cpu

case ${QUICKSTART_DIR:-} in
"") out=$PWD/runs/quickstart ;;
/*) out=$QUICKSTART_DIR ;;
*) out=$started/$QUICKSTART_DIR ;;
esac
mkdir -p "$out"
export OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE='' HF_HUB_OFFLINE=1 TORCH_CPP_LOG_LEVEL=ERROR
python=$PWD/.venv/bin/python
mars=$PWD/.venv/bin/mars

say() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

# stage NAME FOLDER COMMAND...: run the command unless FOLDER is complete. An incomplete FOLDER is deleted first.
stage() {
    local name=$1 folder=$2
    shift 2
    if [ -e "$folder/.complete" ]; then
        say "$name: already done"
        return
    fi
    say "$name"
    rm -rf "$folder"
    "$@"
    touch "$folder/.complete"
}

make_data() {
    "$mars" data synth "$out/data/scenes" --seed 0 --train 1024 --test 400 --cold-start 4096 --bias 0.5
    "$mars" data convert llvip "$out/data/scenes" "$out/data" --licence "CC0-1.0 (synthetic)"
}
make_model() {
    "$mars" data synth "$out/random" --model tiny --seed 0
}
cold_start() {
    "$python" -m mars.sft experiment=quickstart_sft "run.dir='$out/cold_start'" "model.path='$out/random'" \
        "data.train_files=['$out/data/scenes/cold_start.parquet']"
}
train() {
    "$python" -m mars.main experiment=quickstart "run.dir='$out/run'" "model.path='$out/cold_start/policy'" \
        "data.train_files=['$out/data/train.parquet']" "data.eval_files=['$out/data/test.parquet']" "$@"
}
evaluate() {
    local step
    step=$(tail -n 1 "$out/run/metrics.jsonl" | sed -E 's/.*"step": ?([0-9]+).*/\1/')
    "$mars" eval run "$out/run/policy" "$out/data/test.parquet" experiment=quickstart "run.dir='$out/run'" "$@" \
        cluster.kind=local actor.num_workers=1 rollout.num_workers=1 rollout.max_staleness=0 \
        --name after --step "$step" --out "$out/run/evaluation/after.json"
}

stage "synthetic visible + infrared scenes" "$out/data" make_data
stage "tiny model" "$out/random" make_model
stage "supervised cold start" "$out/cold_start" cold_start
# A run with other settings gets a new folder; the old one is renamed.
settings=$(printf '%s\n' "$@" | cat configs/experiment/quickstart.yaml - | cksum | cut -d ' ' -f 1)
if [ -e "$out/run/.complete" ] && [ "$(cat "$out/run/.settings" 2>/dev/null)" != "$settings" ]; then
    old=1
    while [ -e "$out/run.$old" ]; do old=$((old + 1)); done
    mv "$out/run" "$out/run.$old"
    echo "other settings than last time: the earlier run is now $out/run.$old"
fi
stage "MARS-GRPO" "$out/run" train "$@"
echo "$settings" >"$out/run/.settings"
if [ ! -s "$out/run/evaluation/after.json" ]; then
    say "evaluation of the trained policy, in a fresh process"
    evaluate "$@"
fi
say "result"
"$mars" report "$out/run"
