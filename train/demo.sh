#!/bin/sh
# The whole loop on two CPU cores, without a robot: what `make demo` runs after installing. Each stage is a command that
# works by itself; the seconds it took go to stages.csv for the report.
#
# Ctrl-C stops the demo once the present stage has saved its work. The same command then goes on: a finished stage (it has
# a row in stages.csv) is not repeated, recording and training are continued, other interrupted stages start again.
#
#   EPISODES=4 STEPS=20 ROLLOUTS=2 VIDEOS=1 sh train/demo.sh small     # a small one, to try the loop and not the policy
set -eu
out=${1:-demo}
task=sim_transfer_cube

if [ -e "$out" ] && [ ! -e "$out/stages.csv" ]; then
    echo "'$out' exists and is not a demo's folder; choose another one with: make demo DEMO=other" >&2
    exit 2
fi
mkdir -p "$out"
[ -e "$out/stages.csv" ] || echo "stage,seconds" > "$out/stages.csv"

stopped=
trap 'stopped=yes' INT HUP # a terminal sends these to the running command too, which saves its work and ends

finished() { grep -q "^$1," "$out/stages.csv"; }

stage() { # stage NAME COMMAND...: run a stage unless it is finished, and note its wall time
    name=$1
    shift
    if finished "$name"; then
        printf '\n== %s: finished before, not repeated\n' "$name"
        return
    fi
    printf '\n== %s\n$ %s\n' "$name" "$*"
    began=$(date +%s)
    status=0
    "$@" || status=$?
    seconds=$(($(date +%s) - began))
    if [ "$status" = 0 ]; then
        echo "$name,$seconds" >> "$out/stages.csv"
        [ -n "$stopped" ] || return 0
        how="stopped after stage '$name'"
    else
        echo "$name (interrupted),$seconds" >> "$out/stages.csv"
        how="stopped in stage '$name'"
        [ -n "$stopped" ] || how="stage '$name' failed with status $status"
    fi
    echo "demo: $how; finished stages and saved work are kept in '$out', and the same command goes on from there" >&2
    [ -z "$stopped" ] || exit 130
    exit "$status"
}

aside() { # aside FOLDER: move what an interrupted stage left to a free name
    if [ -e "$1" ]; then
        number=1
        while [ -e "$1_interrupted_$number" ]; do number=$((number + 1)); done
        mv "$1" "$1_interrupted_$number"
    fi
}

stage record python -m aloha_kit.record --task $task --num_episodes "${EPISODES:-60}" --image_size 96 128 --dataset_dir "$out/episodes"
stage validate python -m aloha_kit.episode validate "$out/episodes"
last="$out/policy/checkpoints/last/extra.json"
step=$([ ! -e "$last" ] || sed -n 's/^ *"step": *\([0-9]*\).*/\1/p' "$last")
if ! finished train && [ -n "$step" ] && grep -q "^ *num_steps: $step\$" "$out/policy/config.yaml"; then
    printf '\n== train: already at step %s; only its row in stages.csv was missing\n' "$step"
    echo "train,0" >> "$out/stages.csv"
elif ! finished train && [ -z "$step" ]; then
    aside "$out/policy" # killed before its first checkpoint: nothing to resume from
fi
if [ -e "$out/policy/config.yaml" ]; then
    stage train python -m aloha_kit.train --resume "$out/policy"
else
    # Half the recorded image size and half the recipe's batch: as good here, and a step takes less time. Chunks of 100 need
    # few inferences. A script has no style, so the latent, half of a step's time, is left out.
    stage train python -m aloha_kit.train --task $task --policy act_cpu --image_size 48 64 --batch_size 16 --chunk_size 100 \
        --no_use_vae --num_steps "${STEPS:-2000}" --dataset_dir "$out/episodes" --ckpt_dir "$out/policy"
fi
finished evaluate || aside "$out/evaluation"
stage evaluate python -m aloha_kit.eval --ckpt "$out/policy" --task $task --num_rollouts "${ROLLOUTS:-25}" --output "$out/evaluation"
finished deploy || aside "$out/rollouts"
# whole chunks, 4 inferences a rollout instead of 400: choosing a faster engine for so few would take longer than it saves
stage deploy python -m aloha_kit.deploy --ckpt "$out/policy" --task $task --engine eager --num_rollouts "${VIDEOS:-3}" \
    --output "$out/rollouts"
finished replay || aside "$out/replay"
stage replay python -m aloha_kit.replay "$out/episodes/episode_0.hdf5" --output "$out/replay"
python -m aloha_kit.report "$out"
