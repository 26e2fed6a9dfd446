#!/bin/sh
# eval.sh BIN: the model that ships is measured on held-out tasks: better than the guessers where the table says so, the same
# numbers for the same seed, and one clear line for what it cannot measure.
set -eu
bin=$1
cd "$(dirname "$0")/../.."
run=$(mktemp -d /tmp/kelvin-eval-XXXXXX)
trap 'rm -rf "$run"' EXIT
fail() { echo "eval: $1"; for log in "$run"/*/log/*.log "$run"/*.out; do [ -f "$log" ] && { echo "== $log"; tail -n 20 "$log"; }; done; exit 1; }
words="--config deploy/config/laptop.yaml eval.tasks=60 eval.samples=4"
for i in 1 2; do
    "$bin/kelvin" eval $words run_dir="$run/$i" >"$run/$i.out" 2>&1 || fail "exit code $?"
done
cmp "$run/1/eval.json" "$run/2/eval.json" || fail "the same seed gave other numbers"
/usr/bin/python3 - "$run/1/eval.json" <<'PYTHON' || fail "the numbers are not what a trained model gives"
import json, sys
result = json.load(open(sys.argv[1]))
for kind in "deduction", "abduction", "induction":
    for row in "sampled", "greedy", "constant", "echo":
        cell = result[row][kind]
        assert cell["tasks"] == 60 and cell["dropped"] == 0, (row, kind, cell)
        assert sum(part["tasks"] for part in cell["by_length"]) == 60, (row, kind, cell)
    assert result["sampled"][kind]["accuracy"] > result["constant"][kind]["accuracy"], kind
    assert result["sampled"][kind]["formatted"] > 0.9, kind
for kind in "deduction", "abduction":
    assert result["forced"][kind]["scratchpad"] > 0.9, kind
    assert result["sampled"][kind]["scratchpad"] < 0.9, kind
PYTHON
code=0
"$bin/kelvin" eval $words azr.style=chatml run_dir="$run/style" >"$run/style.out" 2>&1 || code=$?
[ $code = 2 ] && grep -q "azr.style is chatml" "$run/style.out" || fail "another style: exit code $code"
[ ! -e "$run/style" ] || fail "a refused evaluation left its folder"

# Tasks of a file, with its outputs checked first; one wrong output is named and nothing is measured.
cat >"$run/tasks.jsonl" <<'TASKS'
{"snippet": "def f(a):\n return a+1", "input": "3", "output": "4"}
{"snippet": "def f(a):\n return a[::-1]", "inputs": ["'ab'", "'cd'", "'h'"], "outputs": ["'ba'", "'dc'", "'h'"], "message": ""}
TASKS
"$bin/kelvin" eval $words eval.file="$run/tasks.jsonl" run_dir="$run/file" >"$run/file.out" 2>&1 || fail "a file: exit code $?"
/usr/bin/python3 - "$run/file/eval.json" <<'PYTHON' || fail "the file's tasks were not measured"
import json, sys
result = json.load(open(sys.argv[1]))
assert [result["sampled"][kind]["tasks"] for kind in ("deduction", "abduction", "induction")] == [1, 1, 1]
assert result["constant"]["deduction"]["accuracy"] == 1 and result["echo"]["deduction"]["accuracy"] == 0
PYTHON
for wrong in 's/"4"/"5"/:task 1 has the output 5 and its program gives 4' 's/a+1/a+c/:task 1 is not valid' 's/snippet/program/:a seed has snippet'; do
    sed "${wrong%%:*}" "$run/tasks.jsonl" >"$run/wrong.jsonl"
    code=0
    "$bin/kelvin" eval $words eval.file="$run/wrong.jsonl" run_dir="$run/wrong" >"$run/wrong.out" 2>&1 || code=$?
    [ $code = 2 ] && grep -q "${wrong#*:}" "$run/wrong.out" || fail "a wrong file (${wrong%%:*}): exit code $code"
    [ ! -e "$run/wrong" ] || fail "a wrong file left its folder"
done
echo "eval: reproducible, above the guessers; tasks of a file"
