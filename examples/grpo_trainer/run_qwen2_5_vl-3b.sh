#!/usr/bin/env bash
# MARS-GRPO on Qwen2.5-VL-3B, under the path that the paper names: recipe/mars/run_mars_qwen2.5_3b.sh.
# shellcheck source=/dev/null
. "$(dirname "$(readlink -f "$0")")/../../recipe/mars/run_mars_qwen2.5_3b.sh"
