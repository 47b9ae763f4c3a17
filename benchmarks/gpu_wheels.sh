#!/bin/sh
# What a GPU machine without network lacks for `on_gpu.sh`, as wheels in benchmarks/wheels (ignored by git, at most
# 60 MiB), of the versions that requirements.lock names. Copy the checkout there with that folder.
#
#     sh benchmarks/gpu_wheels.sh                                      # for Python 3.12
#     sh benchmarks/gpu_wheels.sh --python 3.11 --have pip_list.txt    # without what that machine has
#
# pip_list.txt: there, `python3 -m pip list --format=freeze > pip_list.txt`. Expected there in any case: a PyTorch with
# torchvision that was built for its GPU (2 GB and more), NumPy, SciPy, OpenCV, Pillow and Matplotlib. Wheels are for
# Linux on x86-64. What does not fit is named, and the status is 1.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-"$here/../.venv/bin/python"}
[ -x "$python" ] || python=python3
exec "$python" "$here/gpu_wheels.py" "$@"
