#!/bin/sh
# experiment.sh BIN: the laptop experiment from its runs to its table and plots, far too short to show anything else.
set -eu
bin=$1
cd "$(dirname "$0")/../.."
run=$(mktemp -d /tmp/kelvin-experiment-XXXXXX)
trap 'rm -rf "$run"' EXIT
fail() { echo "experiment: $1"; tail -n 20 "$run"/*.log "$run"/*.out; exit 1; }
KELVIN_BIN=$bin deploy/experiments/laptop.sh --quick --steps 2 --tasks 10 --out "$run" >"$run/first.out" 2>&1 || fail "exit code $?"
for row in "model1 before" "model1-selfplay-1, 2 steps" "model1-generator, 2 steps" "model1-shuffled, 2 steps" \
    "model1-untrained-proposer, 2 steps" constant echo; do
    [ "$(grep -c "^| $row |" "$run/table.md")" = 1 ] || fail "the table has no row \"$row\""
done
for plot in accuracy learning proposals; do
    [ "$(head -c 4 "$run/$plot.png" | tail -c 3)" = PNG ] || fail "$plot.png is no picture"
done
KELVIN_BIN=$bin deploy/experiments/laptop.sh --quick --steps 2 --tasks 10 --out "$run" >"$run/again.out" 2>&1 || fail "again: exit code $?"
! grep -q "played\|measured" "$run/again.out" || fail "what was there was done again"
for wrong in "laptop.sh --seeds" "laptop.sh --steps x" "laptop.sh --steps 0" "laptop.sh --out" "laptop.sh --quick --hour" \
    "laptop.sh --quick --steps 3 --tasks 10 --out $run" "laptop.sh --quick --steps 2 --tasks 11 --out $run" \
    "smollm2.sh --steps x" "smollm2.sh --tasks 0" "smollm2.sh --out" "smollm2.sh --quick"; do
    code=0
    # shellcheck disable=SC2086
    deploy/experiments/$wrong >"$run/wrong.out" 2>&1 || code=$?
    [ $code = 2 ] || fail "\"$wrong\": exit code $code"
    [ "$(wc -l <"$run/wrong.out")" = 1 ] || fail "\"$wrong\": not one sentence"
done
echo "experiment: runs, table, plots"
