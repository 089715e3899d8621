#!/usr/bin/env bash
# MARS-GRPO on nuScenes multi-view QA: short answers on six cameras; the paper's settings for Qwen2.5-VL-3B (recipe/mars/README.md).
#   bash examples/nuscenes/mars_grpo.sh DATASET [--dry-run] [key=value ...]
# DATASET: the folder OUT of `mars data convert nuscenes SRC OUT`; with images elsewhere, give data.image_root=SRC too.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
export MARS_ARGUMENTS=DATASET
exec bash "$root/scripts/train.sh" "$0" "$root/recipe/mars" mars_grpo_qwen2_5_vl_3b vllm "${1:-}" vqa 6 "${@:2}"
