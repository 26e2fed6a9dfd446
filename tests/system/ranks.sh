#!/bin/sh
# ranks.sh BIN [FAKE]: a run on 1, 2 and 4 ranks ends with the same bytes, also over NCCL (FAKE: a kelvin_cuda.so with a
# stand-in for it); a run whose rank is killed ends with one line that names it, and leaves no process behind; ranks started by
# hand do what started ones do.
set -eu
bin=$1
fake=${2:-}
cd "$(dirname "$0")/../.."
run=$(mktemp -d /tmp/kelvin-ranks-XXXXXX)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$run"' EXIT
fail() { echo "ranks: $1"; for log in "$run"/*/log/learner.log "$run"/*.log; do [ -f "$log" ] && { echo "== $log"; tail -n 20 "$log"; }; done; exit 1; }
words="--config deploy/config/laptop.yaml azr.batch=4 azr.seed_factor=1 rollout.response_tokens_max=96 seed=7"

for ranks in 1 2 4; do
    "$bin/kelvin" train $words steps=2 run_dir="$run/$ranks" learner.ranks=$ranks >"$run/$ranks.log" 2>&1 || fail "$ranks ranks: exit $?"
    for file in model.safetensors trainer.bin; do
        cmp "$run/1/checkpoints/step-2/$file" "$run/$ranks/checkpoints/step-2/$file" || fail "$ranks ranks give another $file"
    done
done

# Over NCCL, resumed after the first step. The module is looked for beside the program.
if [ -n "$fake" ]; then
    mkdir "$run/bin"
    cp "$bin"/kelvin "$bin"/kelvin-* "$run/bin/"
    cp "$fake" "$run/bin/kelvin_cuda.so"
    nccl="run_dir=$run/nccl learner.ranks=2 learner.collective=nccl"
    "$run/bin/kelvin" train $words steps=1 $nccl >"$run/nccl.log" 2>&1 || fail "over NCCL: exit $?"
    "$run/bin/kelvin" train --resume "$run/nccl" steps=2 >>"$run/nccl.log" 2>&1 || fail "over NCCL, resumed: exit $?"
    grep -q "NCCL joins the ranks" "$run/nccl/log/learner.log" || fail "NCCL was not used"
    for file in model.safetensors trainer.bin; do
        cmp "$run/1/checkpoints/step-2/$file" "$run/nccl/checkpoints/step-2/$file" || fail "NCCL gives another $file"
    done
fi

# By hand: rank 1 comes first and waits.
for rank in 1 0; do
    "$bin/kelvin-learner" --rank $rank $words steps=2 run_dir="$run/hand" learner.ranks=2 >"$run/hand-$rank.log" 2>&1 &
    eval "rank_$rank=$!"
done
for worker in actor verifier; do "$bin/kelvin-$worker" $words run_dir="$run/hand" >"$run/hand-$worker.log" 2>&1 & done
wait $rank_0 || fail "rank 0 by hand: exit $?"
wait $rank_1 || fail "rank 1 by hand: exit $?"
wait
cmp "$run/1/checkpoints/step-2/trainer.bin" "$run/hand/checkpoints/step-2/trainer.bin" || fail "ranks by hand give other moments"

"$bin/kelvin" train $words steps=1000 run_dir="$run/killed" learner.ranks=2 >"$run/killed.log" 2>&1 &
front=$!
tries=0
while [ "$(cat "$run/killed/metrics.jsonl" 2>/dev/null | wc -l)" -lt 1 ]; do
    tries=$((tries + 1))
    [ $tries -lt 1200 ] || fail "no step within 120 s"
    sleep 0.1
done
victim=$(sed -n 's/.*started rank=1 process=\([0-9]*\).*/\1/p' "$run/killed/log/learner.log" | head -n 1)
kill -9 "$victim"
wait $front && fail "a run went on without its rank"
grep -q "rank 1 (process $victim) has died" "$run/killed.log" || grep -q "rank 1 (process $victim) has died" "$run/killed/log/learner.log" || fail "the dead rank is not named"
if pgrep -f "run_dir=$run" >"$run/left.log"; then fail "processes are left"; fi
echo "ranks: ok"
