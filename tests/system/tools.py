#!/usr/bin/env python3
"""tools.py BIN: what plan, tasks, replay, export and --fork say of a run of four steps agrees with the run's own files."""
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile

import toy

LIMIT_S = 120


def main():
    binaries = os.path.abspath(sys.argv[1])
    folder = tempfile.mkdtemp(prefix="kelvin-tools-")
    run = f"{folder}/run"

    def kelvin(*words, code=0):
        done = subprocess.run([f"{binaries}/kelvin", *words], capture_output=True, text=True, timeout=LIMIT_S, check=False)
        if done.returncode != code:
            raise SystemExit(f"kelvin {' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def lines(*words):
        return [json.loads(line) for line in kelvin(*words, "--json").splitlines()]

    def same(what, a, b):
        if a != b:
            raise SystemExit(f"{what}: {a} and {b}")

    try:
        toy.write_inputs(binaries, folder, f"""
steps: 4
azr: {{batch: 2, references: 1, inputs: 4, samples: 3, seed_factor: 2, seed_file: {folder}/seeds.jsonl}}
rollout: {{prompt_tokens_max: 512, response_tokens_max: 32}}
learner: {{threads: 1}}
actor: {{threads: 1, rows: 16, kv_tokens: 16384}}
verifier: {{workers: 1, timeout_ms: 10000, memory_mb: 128}}
checkpoint: {{every: 1, keep: 1, keep_every: 2}}
""")
        config = f"{folder}/config.yaml"
        plan = json.loads(kelvin("plan", "--config", config, "--json"))
        same("proposals planned", plan["proposals"], 6)
        if not (plan["memory"]["rank0_bytes"] > 0 and plan["time"]["step_s"] > 0):
            raise SystemExit(f"an empty plan: {plan}")
        kelvin("train", "--config", config, f"run_dir={run}")
        store = sqlite3.connect(f"{run}/tasks.db")

        def count(query):
            return store.execute(f"SELECT count(*) FROM {query}").fetchone()[0]

        same("tasks", len(lines("tasks", run, "--limit", "0")), count("tasks"))
        same("deductions", len(lines("tasks", run, "--type", "deduction", "--limit", "0")), count("tasks WHERE kind='deduction'"))
        same("rollouts", len(lines("tasks", run, "--rollouts", "--limit", "0")), count("rollouts"))
        same("of step 3", len(lines("tasks", run, "--rollouts", "--step", "3", "--limit", "0")), count("rollouts WHERE step=3"))
        same("malformed", len(lines("tasks", run, "--rollouts", "--verdict", "malformed", "--limit", "0")),
             count("verdicts WHERE outcome='malformed'"))
        task = store.execute("SELECT task FROM rollouts WHERE task IS NOT NULL ORDER BY id LIMIT 1").fetchone()[0]
        shown = lines("tasks", run, str(task))[0]
        same("rollouts shown", len(shown["rollouts"]), count(f"rollouts WHERE task={task}"))
        same("program", shown["program"], store.execute(f"SELECT program FROM tasks WHERE id={task}").fetchone()[0])
        if shown["program"] not in kelvin("tasks", run, str(task)):
            raise SystemExit("the program is not shown")
        # Versions 1, 3 and 5 are those of step-0, step-2 and step-4; of version 2 nothing is kept.
        same("steps kept", sorted(os.listdir(f"{run}/checkpoints")), ["step-0", "step-2", "step-4"])
        for step, version in ((1, 1), (3, 3)):
            for number, text in store.execute(f"SELECT id, text FROM rollouts WHERE step={step} ORDER BY id").fetchall()[::7]:
                replayed = lines("replay", run, str(number))[0]
                same("replayed", (replayed["version"], replayed["equal"], replayed["text"]), (version, True, text))
        kelvin("replay", run, str(store.execute("SELECT min(id) FROM rollouts WHERE step=2").fetchone()[0]), code=2)
        kelvin("export", f"{run}@2", f"{folder}/exported")
        same("exported", sorted(os.listdir(f"{folder}/exported")), ["config.json", "model.safetensors", "tokenizer.json"])
        same("tokenized", json.loads(subprocess.run([f"{binaries}/kelvin", "tokenize", "--model", f"{folder}/exported"],
                                                    input='"a"\n', capture_output=True, text=True, check=True).stdout), [97])
        # A fork at step 2 with the same keys goes the way that the run went.
        kelvin("train", "--fork", f"{run}@2", f"run_dir={folder}/fork")
        for name in ("trainer.bin", "model.safetensors"):
            with open(f"{run}/checkpoints/step-4/{name}", "rb") as a, open(f"{folder}/fork/checkpoints/step-4/{name}", "rb") as b:
                same(f"{name} of the fork", a.read() == b.read(), True)
        os.truncate(f"{run}/checkpoints/step-4/model.safetensors", 1000)
        kelvin("export", f"{run}@4", f"{folder}/cut", code=2)
        same("a cut export", os.path.exists(f"{folder}/cut"), False)
        print("plan, tasks, replay, export and fork agree with the run")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


main()
