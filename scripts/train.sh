#!/usr/bin/env bash
# Shared by the run scripts of recipe/ and examples/: four positional arguments, then settings.
#   scripts/train.sh SCRIPT CONFIG_DIR EXPERIMENT ENGINE DATASET REWARD IMAGES [--dry-run] [key=value ...]
# SCRIPT: the name for messages. CONFIG_DIR, EXPERIMENT: what to run. The rest comes from the user; see `usage`.
# MARS_ARGUMENTS: the arguments shown in the usage, if SCRIPT sets some itself; default: all four.
# MARS_PYTHON: the Python to use; otherwise the checkout's .venv, otherwise python.
set -euo pipefail
script=$1 config_dir=$2 experiment=$3
shift 3

usage() {
    local arguments=${MARS_ARGUMENTS:-ENGINE DATASET REWARD IMAGES}
    echo "usage: bash $script $arguments [--dry-run] [key=value ...]"
    [ "$arguments" = DATASET ] || echo "  ENGINE   vllm or hf"
    cat <<'EOF'
  DATASET  a folder with train.parquet, the name of such a folder in $MARS_DATA, or one .parquet or .jsonl file
           to train on; a test.parquet in the folder is evaluated on
EOF
    [ "$arguments" = DATASET ] || cat <<'EOF'
  REWARD   a built-in reward (docs/rewards.md), file.py:function, or file.py for its function compute_score
  IMAGES   how many images every row must have (data.images_per_row), or any
EOF
    echo "Settings (docs/config.md) win over all of these. experiment=NAME takes another experiment of"
    echo "$config_dir"
}
refuse() {
    printf '%s: %s\n' "$script" "$1" >&2
    usage >&2
    exit 2
}
# quoted TEXT: TEXT as the value of a Hydra override, quoted so that Hydra reads back exactly TEXT.
quoted() { printf "'%s'" "$(printf '%s' "$1" | sed -E "s/(\\\\*)'/\\1\\1\\\\'/g; s/(\\\\+)\$/\\1\\1/")"; }

case ${1:-} in -h | --help) usage && exit 0 ;; esac
[ $# -ge 4 ] || refuse "four arguments are needed; got $#"
engine=$1 dataset=$2 reward=$3 images=$4
shift 4
case $dataset in -h | --help) usage && exit 0 ;; esac

case $engine in
vllm) rollout=(rollout=vllm) ;;
hf) rollout=(rollout=hf rollout.tensor_parallel_size=1) ;;
*) refuse "ENGINE is vllm or hf; got '$engine'" ;;
esac

if [ -n "$dataset" ] && [ ! -e "$dataset" ] && [ -d "${MARS_DATA:-}/$dataset" ]; then
    dataset=${MARS_DATA:-}/$dataset
fi
if [ -d "$dataset" ]; then
    [ -f "$dataset/train.parquet" ] || refuse "DATASET has no train.parquet; got '$dataset'"
    data=("data.train_files=[$(quoted "$dataset/train.parquet")]" "data.eval_files=[]")
    [ ! -f "$dataset/test.parquet" ] || data[1]="data.eval_files=[$(quoted "$dataset/test.parquet")]"
elif [ -f "$dataset" ]; then
    data=("data.train_files=[$(quoted "$dataset")]" "data.eval_files=[]")
else
    refuse "DATASET: no such folder or file; got '$dataset' (MARS_DATA='${MARS_DATA:-}')"
fi

# The check of the settings refuses a name that no built-in reward has.
[[ $reward != *.py ]] || reward=$reward:compute_score
case $reward in
*.py:?*) [ -f "${reward%:*}" ] || refuse "REWARD: no such file; got '${reward%:*}'" ;;
'' | *[!A-Za-z0-9_]*) refuse "REWARD is a built-in reward, file.py or file.py:function; got '$reward'" ;;
esac

if [ "$images" = any ]; then
    images=null
elif [[ ! $images =~ ^[1-9][0-9]*$ ]]; then
    refuse "IMAGES is a whole number from 1, or any; got '$images'"
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${MARS_PYTHON:-}
[ -n "$python" ] || { [ -x "$root/.venv/bin/python" ] && python=$root/.venv/bin/python; } || python=python
"$python" -c 'import mars' 2>/dev/null || {
    echo "$script: '$python' has no mars; run bash $root/scripts/setup.sh, or set MARS_PYTHON" >&2
    exit 4
}
exec "$python" -m mars.main --config-dir "$config_dir" "experiment=$experiment" "${rollout[@]}" "${data[@]}" \
    "reward.function=$(quoted "$reward")" "data.images_per_row=$images" "$@"
