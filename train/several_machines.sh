#!/bin/sh
# Several machines: the same line on each, but for NUMBER. They wait for one another, and must reach PORT of HEAD.
#
#   HEAD=gpu-a MACHINES=2 NUMBER=0 train/several_machines.sh --task sim_transfer_cube --policy act --batch_size 128
#   HEAD=gpu-a MACHINES=2 NUMBER=1 train/several_machines.sh --task sim_transfer_cube --policy act --batch_size 128
#
# Machine 0 writes the run's folder. Each reads the episodes and builds its own frame cache: on a shared disk name a
# local place with --cache_dir. To --resume, all must see the run's folder.
set -eu
: "${HEAD:?name or address of machine 0}" "${MACHINES:?how many there are}" "${NUMBER:?of this one, from 0}"
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}"

exec torchrun --nnodes "$MACHINES" --node_rank "$NUMBER" --master_addr "$HEAD" --master_port "${PORT:-29500}" \
    --nproc_per_node "${PROCESSES:-gpu}" -m aloha_kit.train "$@"
