#!/usr/bin/env bash
# MARS-GRPO on Qwen2.5-VL-3B with the paper's settings (recipe/mars/README.md); anchor=none is the baseline.
#   bash recipe/mars/run_mars_qwen2.5_3b.sh ENGINE DATASET REWARD IMAGES [--dry-run] [key=value ...]
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
exec bash "$root/scripts/train.sh" "$0" "$root/recipe/mars" mars_grpo_qwen2_5_vl_3b "$@"
