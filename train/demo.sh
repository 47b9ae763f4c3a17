#!/bin/sh
# The whole loop on two CPU cores, without a robot: what `make demo` runs after installing. Each line is a command
# that works by itself; the seconds it took go to stages.csv for the report.
set -eu
out=${1:-demo}
task=sim_transfer_cube

if [ -e "$out" ]; then
    echo "'$out' exists and is left alone; choose another folder with: make demo DEMO=other" >&2
    exit 2
fi
mkdir -p "$out"
echo "stage,seconds" > "$out/stages.csv"

stage() { # stage NAME COMMAND...: run it, note its wall time
    name=$1
    shift
    printf '\n== %s\n$ %s\n' "$name" "$*"
    began=$(date +%s)
    "$@"
    echo "$name,$(($(date +%s) - began))" >> "$out/stages.csv"
}

stage record python -m aloha_kit.record --task $task --num_episodes 80 --image_size 96 128 --dataset_dir "$out/episodes"
stage validate python -m aloha_kit.episode validate "$out/episodes"
stage train python -m aloha_kit.train --task $task --policy act_cpu --dataset_dir "$out/episodes" --ckpt_dir "$out/policy"
stage deploy python -m aloha_kit.deploy --ckpt "$out/policy" --task $task --temporal_agg --num_rollouts 25 --output "$out/rollouts"
stage replay python -m aloha_kit.replay "$out/episodes/episode_0.hdf5" --output "$out/replay"
stage report python -m aloha_kit.report "$out"
