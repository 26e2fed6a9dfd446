#!/bin/sh
# pretrain.sh BIN: a tiny model is pretrained twice: in one go, and killed long before its end and resumed. Both models must be
# equal byte for byte, the loss must have fallen, and the folder must be one that the tools read.
set -eu
bin=$1
cd "$(dirname "$0")/../.."
run=$(mktemp -d /tmp/kelvin-pretrain-XXXXXX)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$run"' EXIT
fail() { echo "pretrain: $1"; for log in "$run"/*/log/*.log "$run"/*.out; do [ -f "$log" ] && { echo "== $log"; tail -n 20 "$log"; }; done; exit 1; }
words="--config deploy/config/pretrain.yaml steps=300 pretrain.examples=32 pretrain.layers=1 pretrain.width=32 pretrain.ffn=64
    optimizer.warmup_steps=2 optimizer.lr=0.02 checkpoint.every=4"

"$bin/kelvin" pretrain $words run_dir="$run/whole" pretrain.out="$run/whole-model" >"$run/whole.out" 2>&1 || fail "exit code $?"
grep -q '"step": 300' "$run/whole/metrics.jsonl" || fail "metrics.jsonl does not reach step 300"
loss() { sed -n "s/.*\"step\": $1,.*\"loss\": \([0-9.]*\),.*/\1/p" "$run/whole/metrics.jsonl"; }
awk "BEGIN {exit !($(loss 300) < 0.9 * $(loss 1))}" || fail "the loss did not fall: $(loss 1) to $(loss 300)"

"$bin/kelvin" pretrain $words run_dir="$run/cut" pretrain.out="$run/cut-model" >"$run/cut.out" 2>&1 &
front=$!
tries=0
while [ "$(cat "$run/cut/metrics.jsonl" 2>/dev/null | wc -l)" -lt 6 ]; do
    tries=$((tries + 1))
    [ $tries -lt 600 ] || fail "no 6 steps within 60 s"
    kill -0 $front 2>/dev/null || fail "it ended early"
    sleep 0.1
done
kill -9 $front
wait $front 2>/dev/null || true
tries=0
while pgrep -f "run_dir=$run/cut" >/dev/null; do # the kernel ends the others
    tries=$((tries + 1))
    [ $tries -lt 100 ] || fail "processes outlive the front"
    sleep 0.1
done
[ ! -e "$run/cut-model" ] || fail "a killed run wrote its model"
"$bin/kelvin" pretrain --resume "$run/cut" >"$run/resume.out" 2>&1 || fail "resume: exit code $?"
cmp "$run/whole-model/model.safetensors" "$run/cut-model/model.safetensors" || fail "the resumed model differs"
[ "$(wc -l <"$run/cut/metrics.jsonl")" = 300 ] || fail "metrics.jsonl of the resumed run has not 300 lines"
[ "$(echo '"<solve>def f(a):"' | "$bin/kelvin" tokenize --model "$run/cut-model" | tr ',' '\n' | wc -l)" = 2 ] || fail "its tokenizer is not the compact one"

code=0
"$bin/kelvin" pretrain --resume "$run/whole" steps=200 pretrain.out="$run/fewer-model" >"$run/fewer.out" 2>&1 || code=$?
[ $code = 2 ] || fail "fewer steps than are done: exit code $code, not 2"
grep -q "has done 300 steps already; steps=200 asks for fewer" "$run/fewer.out" || fail "no clear sentence for fewer steps"

code=0
"$bin/kelvin" pretrain $words run_dir="$run/again" pretrain.out="$run/cut-model" >"$run/again.out" 2>&1 || code=$?
[ $code = 2 ] || fail "an output that exists: exit code $code, not 2"
grep -q "cut-model is there already" "$run/again.out" || fail "no clear sentence for an output that exists"
[ ! -e "$run/again" ] || fail "a refused run left its folder"
echo "pretrain: 300 steps, resumed to the same bytes"
