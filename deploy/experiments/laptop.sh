#!/bin/sh
# laptop.sh [--quick | --hour] [--out DIR] [--steps N] [--tasks N]: does self-play with a verifier improve a small model, and is it the reward that does it?
# Plays deploy/config/laptop.yaml and its controls, measures every one on the same held-out tasks, and writes DIR/table.md and
# plots. What is there already is not done again, so an interrupted experiment goes on; one of other lengths wants a folder of
# its own.
set -eu
cd "$(dirname "$0")/../.."
. deploy/experiments/common.sh
out=
quick=
hour=
steps=
tasks=
while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick=1 ;;
    --hour) hour=1 ;;
    --out) out=$(folder_of "$@"); shift ;;
    --steps) steps=$(number_of "$@"); shift ;;
    --tasks) tasks=$(number_of "$@"); shift ;;
    -h | --help)
        cat <<'HELP'
Usage: deploy/experiments/laptop.sh [--quick | --hour] [--out DIR] [--steps N] [--tasks N]
Plays deploy/config/laptop.yaml and its controls (rewards shuffled, proposer not trained or not held,
generator tasks, solver only), measures all on the same held-out tasks, and writes table.md, accuracy.png,
learning.png and proposals.png into DIR. Whole: three seeds, two pretrained models, about two hours on two
idle cores, in runs/laptop-experiment. --quick: one seed, one model, fewer steps and tasks, about ten
minutes, in runs/laptop-experiment-quick. --hour: one long run of self-play, measured eight times on its
way, about an hour, in runs/laptop-experiment-hour. --steps and --tasks set how long every run is and how
many held-out tasks of a type measure it. What DIR holds already is not done again; other lengths want
another DIR. KELVIN_BIN names a folder of built programs; without it they are built into build/.
HELP
        exit 0 ;;
    *) refuse "\"$1\" is not understood; try --help" ;;
    esac
    shift
done
[ -z "$quick" ] || [ -z "$hour" ] || refuse "--quick or --hour, not both"
config="--config deploy/config/laptop.yaml"
model1=deploy/models/laptop model2=deploy/models/laptop-2
if [ -n "$quick" ]; then
    : "${out:=runs/laptop-experiment-quick}" "${steps:=100}" "${tasks:=150}"
elif [ -n "$hour" ]; then
    : "${out:=runs/laptop-experiment-hour}" "${steps:=4000}" "${tasks:=500}"
else
    : "${out:=runs/laptop-experiment}" "${steps:=$(sed -n 's/^steps: *\([0-9]*\).*/\1/p' deploy/config/laptop.yaml)}" "${tasks:=500}"
    seeds="1 2 3"
fi
mkdir -p "$out"
made="steps $steps tasks $tasks"
if [ -f "$out/made" ] && [ "$(cat "$out/made")" != "$made" ]; then
    refuse "$out was made with $(cat "$out/made"), not with $made; name another folder with --out"
fi
echo "$made" >"$out/made"
built deploy/experiments/packages.txt
# No choice was made on the tasks of this seed: those of seed 1 are for that.
test_seed=20261127
# A run keeps a model every so many steps.
every=100
[ -z "$hour" ] || every=$(((steps + 7) / 8))

# measure NAME MODEL [WORD...]: held-out accuracies of a model, in DIR/eval/NAME.json.
measure() {
    name=$1 model=$2
    shift 2
    [ ! -f "$out/eval/$name.json" ] || return 0
    mkdir -p "$out/eval"
    rm -rf "$out/eval/run"
    # shellcheck disable=SC2086
    run "$out/eval/log" "$bin/kelvin" eval $config model="$model" seed=$test_seed eval.tasks="$tasks" \
        run_dir="$out/eval/run" "$@"
    mv "$out/eval/run/eval.json" "$out/eval/$name.json"
    say "measured $name"
}

# play NAME MODEL [WORD...]: a run in DIR/NAME, or the rest of it, and what its last model can do.
play() {
    name=$1 model=$2
    shift 2
    [ ! -f "$out/eval/$name@$steps.json" ] || return 0
    how="$config model=$model steps=$steps run_dir=$out/$name checkpoint.keep_every=$every $*"
    [ ! -f "$out/$name/tasks.db" ] || how="--resume $out/$name"
    # shellcheck disable=SC2086
    run "$out/$name.log" "$bin/kelvin" train $how
    say "played $name, $steps steps"
    measure "$name@$steps" "$out/$name/checkpoints/step-$steps"
}

# follow NAME: what the models that a run kept on its way can do.
follow() {
    step=$every
    while [ "$step" -lt "$steps" ]; do
        measure "$1@$step" "$out/$1/checkpoints/step-$step"
        step=$((step + every))
    done
}

models=1
measure model1@0 $model1
if [ -n "$hour" ]; then
    play model1-hour $model1
    follow model1-hour
else
    play model1-selfplay-1 $model1 seed=1
    play model1-generator $model1 azr.proposals=generator
    play model1-shuffled $model1 azr.shuffle_rewards=true
    play model1-untrained-proposer $model1 azr.propose=false
    follow model1-selfplay-1
fi
if [ -z "$quick$hour" ]; then
    models="1 2"
    measure model2@0 $model2
    for seed in $seeds; do
        play "model1-selfplay-$seed" $model1 seed="$seed"
        play "model2-selfplay-$seed" $model2 seed="$seed"
    done
    play model2-generator $model2 azr.proposals=generator
    play model1-free-proposer $model1 loss.kl_coef=0 azr.proposer_baseline=block azr.proposer_weight=1
    play model1-solver-only $model1 azr.warmup_solver_steps="$steps"
    for suite in arithmetic programs; do
        for at in model1@0:$model1 "model1-selfplay-1@$steps:$out/model1-selfplay-1/checkpoints/step-$steps"; do
            measure "${at%%:*}-$suite" "${at#*:}" eval.file=deploy/experiments/$suite.jsonl
        done
    done
fi
/usr/bin/python3 deploy/experiments/report.py "$out" $models
say "table: $out/table.md, plots beside it"
