#!/usr/bin/env python3
"""resume.py BIN [SEED [KILLS]]: a run that is killed again and again is the run that was never killed.

Two runs of the same small job with real processes and staleness 0. In the first nothing happens. In the second
every process is killed with SIGKILL at a random moment, KILLS times, and the run is resumed. Then weights,
optimizer, metrics (but for times and worker counters), tasks, rollouts and verdicts must be equal to the bit.
A third run has overlapping steps (staleness 2) and is killed as often: there the order of arrival counts, so it need
not equal anything, but it must come to its end without sampling or training on anything twice.
A failure prints the seed.
"""
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

import toy

STEPS = 10
LIMIT_S = 120  # for one start: far more than it needs
TIMED = {"seconds", "seconds/train", "tokens/s", "actors", "verifiers"}


def config_of(folder):
    return f"""
steps: {STEPS}
azr: {{batch: 4, references: 2, inputs: 4, samples: 4, seed_factor: 2, seed_file: {folder}/seeds.jsonl}}
rollout: {{prompt_tokens_max: 512, response_tokens_max: 48}}
learner: {{threads: 1}}
actor: {{threads: 1, rows: 32, kv_tokens: 32768}}
verifier: {{workers: 1, timeout_ms: 10000, memory_mb: 128}}
checkpoint: {{every: 2, keep: 2}}
"""


def start(binaries, words, log):
    return subprocess.Popen([f"{binaries}/kelvin", "train", *words], stdout=log, stderr=log, start_new_session=True)


def kill_all(front, run):
    """Every process of the run, in any order, until there is none: one that dies may have been starting another.
    The front's children have sessions of their own."""
    end = time.monotonic() + LIMIT_S
    while True:
        own = subprocess.run(["pgrep", "-f", run], capture_output=True, text=True, check=False).stdout.split()
        pids = {int(word) for word in own} | ({front.pid} if front.poll() is None else set())
        if not pids:
            return
        if time.monotonic() > end:
            raise SystemExit(f"processes {pids} outlive SIGKILL")
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def wait_done(front, what):
    code = front.wait(timeout=LIMIT_S)
    if code != 0:
        raise SystemExit(f"{what} exited with {code}")


def metrics(run):
    lines = []
    with open(f"{run}/metrics.jsonl", encoding="utf-8") as file:
        for text in file:
            line = json.loads(text)
            lines.append({key: value for key, value in line.items()
                          if key not in TIMED and not key.startswith(("actors/", "verifiers/"))})
    return lines


def rows(run):
    store = sqlite3.connect(f"{run}/tasks.db")
    queries = ["SELECT * FROM tasks ORDER BY id", "SELECT * FROM rollouts ORDER BY id",
               "SELECT rollout, outcome, formatted, score, answer, exception FROM verdicts ORDER BY rollout"]
    return [store.execute(query).fetchall() for query in queries]


def digests(run):
    out = {}
    for name in ("config.json", "tokenizer.json", "model.safetensors", "trainer.bin", "state.json"):
        with open(f"{run}/checkpoints/step-{STEPS}/{name}", "rb") as file:
            out[name] = hashlib.sha256(file.read()).hexdigest()
    return out


def compare(name, whole, broken):
    if whole != broken:
        for a, b in zip(whole, broken):
            if a != b:
                raise SystemExit(f"{name} differ:\n{a}\n{b}")
        raise SystemExit(f"{name} differ in number: {len(whole)} and {len(broken)}")


def break_run(binaries, words, run, spans, log):
    """Kills the run after each of the spans and resumes it, then lets it end."""
    for span in spans:
        front = start(binaries, words, log)
        time.sleep(span)
        kill_all(front, run)
        if os.path.exists(f"{run}/tasks.db"):
            words = ["--resume", run]
        else:
            shutil.rmtree(run, ignore_errors=True)
    wait_done(start(binaries, words, log), "the resumed run")


def check_once(run):
    store = sqlite3.connect(f"{run}/tasks.db")
    twice = store.execute("SELECT step, kind, role, slot, count(*) AS n FROM rollouts WHERE step>0"
                          " GROUP BY seed, sample, role, kind HAVING n>1").fetchall()
    if twice:
        raise SystemExit(f"used twice: {twice[:5]}")
    steps = [line["step"] for line in metrics(run)]
    if steps != list(range(1, STEPS + 1)):
        raise SystemExit(f"the overlapping run has the steps {steps}")
    if max(line["staleness"] for line in metrics(run)) == 0:
        raise SystemExit("the steps did not overlap")


def main():
    binaries = os.path.abspath(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int.from_bytes(os.urandom(4), "little")
    kills = int(sys.argv[3]) if len(sys.argv) > 3 else 8
    rng = random.Random(seed)
    folder = tempfile.mkdtemp(prefix="kelvin-resume-")
    try:
        print(f"seed {seed}", flush=True)
        toy.write_inputs(binaries, folder, config_of(folder))
        whole, broken, overlapping = f"{folder}/whole", f"{folder}/broken", f"{folder}/overlapping"
        with open(f"{folder}/log", "wb") as log:
            begin = time.monotonic()
            first = ["--config", f"{folder}/config.yaml"]
            wait_done(start(binaries, [*first, f"run_dir={whole}"], log), "the unbroken run")
            span = time.monotonic() - begin
            spans = [rng.uniform(0.0, 0.5 * span) for _ in range(kills)]
            break_run(binaries, [*first, f"run_dir={broken}"], broken, spans, log)
            words = [*first, f"run_dir={overlapping}", "azr.staleness=2", "checkpoint.every=1"]
            break_run(binaries, words, overlapping, spans, log)
        compare("metrics", metrics(whole), metrics(broken))
        for name, a, b in zip(("tasks", "rollouts", "verdicts"), rows(whole), rows(broken)):
            compare(name, a, b)
        compare("checkpoints", sorted(digests(whole).items()), sorted(digests(broken).items()))
        check_once(overlapping)
        print(f"equal after {kills} kills: {STEPS} steps of {span / STEPS:.2f} s")
    except (SystemExit, subprocess.TimeoutExpired) as reason:
        with open(f"{folder}/log", encoding="utf-8", errors="replace") as log:
            print("".join(log.readlines()[-20:]))
        raise SystemExit(f"seed {seed}: {reason}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


main()
