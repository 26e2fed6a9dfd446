#!/bin/sh
# loopback.sh BIN MODE: real processes play 6 steps with the model that ships; in the middle one actor and one verifier are
# killed. The run must end with every step done, with tasks of all three types in the store, and leave no process behind.
#   MODE ipc: `kelvin train` starts everything.   MODE tcp: the programs are started by hand.
set -eu
bin=$1 mode=$2
cd "$(dirname "$0")/../.."
run=$(mktemp -d /tmp/kelvin-loopback-XXXXXX)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$run"' EXIT
fail() { echo "loopback $mode: $1"; for log in "$run"/run/log/*.log "$run"/*.log; do [ -f "$log" ] && { echo "== $log"; tail -n 20 "$log"; }; done; exit 1; }
steps=6
words="--config deploy/config/laptop.yaml steps=$steps run_dir=$run/run azr.batch=8 azr.seed_factor=1 seed=7"

# wait_lines N: until metrics.jsonl has N lines (bounded).
wait_lines() {
    tries=0
    while [ "$(cat "$run/run/metrics.jsonl" 2>/dev/null | wc -l)" -lt "$1" ]; do
        tries=$((tries + 1))
        [ $tries -lt 1200 ] || fail "no $1 steps within 120 s"
        kill -0 "$2" 2>/dev/null || fail "the learner ended early"
        sleep 0.1
    done
}

if [ "$mode" = ipc ]; then
    "$bin/kelvin" train $words >"$run/front.log" 2>&1 &
    front=$!
    wait_lines 2 $front
    kill -9 "$(pgrep -P $front -f kelvin-actor)" "$(pgrep -P $front -f kelvin-verifier)"
    wait $front || fail "kelvin train exited with $?"
else
    words="$words endpoint=tcp://127.0.0.1:47611 weights_endpoint=tcp://127.0.0.1:47612"
    mkdir -p "$run/run/log"
    "$bin/kelvin-learner" $words >"$run/run/log/learner.out" 2>"$run/run/log/learner.log" &
    learner=$!
    for worker in actor verifier; do
        for i in 0 1; do "$bin/kelvin-$worker" $words >"$run/run/log/$worker-$i.log" 2>&1 & done
    done
    wait_lines 2 $learner
    kill -9 "$(pgrep -P $$ -f kelvin-actor | head -n 1)" "$(pgrep -P $$ -f kelvin-verifier | head -n 1)"
    wait $learner || fail "kelvin-learner exited with $?"
fi

[ "$(wc -l <"$run/run/metrics.jsonl")" = $steps ] || fail "metrics.jsonl has not $steps lines"
for kind in deduction abduction induction; do
    grep -q "\"reward/propose/$kind\"" "$run/run/metrics.jsonl" || fail "no proposer reward for $kind"
    grep -q "\"reward/solve/$kind\"" "$run/run/metrics.jsonl" || fail "no solver reward for $kind"
done
/usr/bin/python3 - "$run/run/metrics.jsonl" <<'PYTHON' || fail "less than half of the deduction proposals of step 1 are valid"
import json, sys
first = json.loads(open(sys.argv[1]).readline())
sys.exit(not (first["step"] == 1 and first["valid/deduction"] >= 0.5))
PYTHON
kinds=$(sqlite3 "$run/run/tasks.db" 'select count(distinct kind) from tasks')
[ "$kinds" = 3 ] || fail "tasks.db holds $kinds task types, not 3"
tries=0
while pgrep -f "run_dir=$run/run" >/dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || fail "processes are left: $(pgrep -af "run_dir=$run/run")"
    sleep 0.1
done
echo "loopback $mode: $steps steps, all types, nothing left behind"
