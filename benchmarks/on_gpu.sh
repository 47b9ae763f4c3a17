#!/bin/sh
# Everything that only a GPU shows, in the order of its worth, in at most 9 minutes on one card, without network; writes
# benchmarks/results/gpu.md with the card's name, anew after every step.
#
#     sh benchmarks/on_gpu.sh --dry-run
#     PYTHON=/path/to/python3 sh benchmarks/on_gpu.sh
#
# Assumed: Linux on x86-64, a Python with a PyTorch that was built for the card, and what `gpu_wheels.sh` names. Wheels
# in benchmarks/wheels are unpacked into a temporary folder that comes first on Python's path. Where a step needs more
# than is there, it fails, that is written down, and the next one starts.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
trap 'exit 130' INT TERM HUP
for wheel in benchmarks/wheels/*.whl; do
    [ -e "$wheel" ] && "$python" -m zipfile -e "$wheel" "$site"
done
PYTHONPATH=$PWD:$site${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH MUJOCO_GL="${MUJOCO_GL:-egl}"
"$python" benchmarks/on_gpu.py "$@"
