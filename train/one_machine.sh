#!/bin/sh
# One machine, one process a GPU. All flags are those of `python -m aloha_kit.train`; --batch_size is shared by all.
#
#   train/one_machine.sh --task sim_transfer_cube --policy act --batch_size 64
#   PROCESSES=2 train/one_machine.sh --task sim_transfer_cube --policy act_cpu --device cpu
#
# Ctrl-C saves and stops: the launcher passes it on, and kills what is not done after so many seconds.
set -eu
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}"

exec torchrun --standalone --nproc_per_node "${PROCESSES:-gpu}" -m aloha_kit.train "$@"
