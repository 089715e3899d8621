#!/usr/bin/env bash
# DAPO on SpatialQA: yes or no on RGB + depth; the paper's settings for Qwen2.5-VL-3B (recipe/dapo/README.md).
#   bash examples/spatialqa/dapo.sh DATASET [--dry-run] [key=value ...]
# DATASET: the folder OUT of `mars data convert spatialqa SRC OUT`; with images elsewhere, give data.image_root=SRC too.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
export MARS_ARGUMENTS=DATASET
exec bash "$root/scripts/train.sh" "$0" "$root/recipe/dapo" dapo_qwen2_5_vl_3b vllm "${1:-}" vqa 2 "${@:2}"
