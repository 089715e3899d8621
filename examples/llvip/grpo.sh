#!/usr/bin/env bash
# GRPO on LLVIP: visible + infrared persons; the paper's settings for Qwen2.5-VL-3B (recipe/mars/README.md).
#   bash examples/llvip/grpo.sh DATASET [--dry-run] [key=value ...]
# DATASET: the folder OUT of `mars data convert llvip SRC OUT`; with images elsewhere, give data.image_root=SRC too.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
export MARS_ARGUMENTS=DATASET
exec bash "$root/scripts/train.sh" "$0" "$root/recipe/mars" grpo_qwen2_5_vl_3b vllm "${1:-}" grounding 2 "${@:2}"
