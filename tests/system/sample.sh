#!/bin/sh
# sample.sh BIN: the sample configuration of the paper's quick start plays and trains as it stands, with a model folder of
# the name in it; only length and place of the run are given beside it.
set -eu
bin=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
run=$(mktemp -d /tmp/kelvin-sample-XXXXXX)
trap 'rm -rf "$run"' EXIT
cp -r deploy/models/laptop "$run/gpt2-large"
cd "$run"
cat >sample.yaml <<'YAML'
model_name: "gpt2-large"
task_types: ["deduction", "induction", "abduction"]
reward_function: "learnability_and_accuracy"
learning_rate: 1e-5
batch_size: 32
YAML
"$bin/kelvin" train --config sample.yaml steps=1 run_dir=run azr.seed_factor=1 rollout.response_tokens_max=128 >log 2>&1 || { cat log; tail -n 20 run/log/*.log; exit 1; }
grep -q '"step":1' run/metrics.jsonl
grep -q 'lr: 1.0*e-05\|lr: 1.0000000000000001e-05' run/config.yaml
grep -q 'types: \[deduction, abduction, induction\]' run/config.yaml
grep -q 'style: "compact"' run/config.yaml
echo "sample: ok"
