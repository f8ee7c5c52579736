#!/usr/bin/env bash
# Planning on an NVIDIA GPU beside the processor: torch as a CUDA graph and onnxruntime's CUDA provider. Minutes, and no network.
# Run from the repository's root with an environment that has torch with CUDA; onnxruntime-gpu is measured where it is installed.
#   PYTHON=.venv/bin/python benchmarks/gpu.sh [FOLDER FOR THE TABLE]
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
FOLDER="${1:-docs/benchmarks/gpu}"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
"$PYTHON" -c 'import torch; assert torch.cuda.is_available(), "this torch sees no GPU"; print("torch", torch.__version__, torch.cuda.get_device_name())'
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
exec timeout 480 "$PYTHON" -m wm_ros.cli bench planning --write "$FOLDER"
