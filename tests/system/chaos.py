#!/usr/bin/env python3
"""chaos.py BIN [SEED [SECONDS]]: a run goes on whatever happens to its processes, and leaves none behind.

While `kelvin train` plays, processes of it are killed with SIGKILL or stopped for some seconds at random moments: actors,
verifiers, the learner. Actors and verifiers of other hands join and leave. The run must come to its end with every step
in its place. Then: a run without workers waits and goes on when they join; Ctrl-C saves and ends; Ctrl-C twice ends at
once; a killed front takes everything with it. A failure prints the seed.
"""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import toy

LIMIT_S = 240


def config_of(folder):
    return f"""
azr: {{types: "deduction,abduction", batch: 4, references: 1, samples: 3, seed_factor: 1, seed_file: {folder}/seeds.jsonl}}
rollout: {{prompt_tokens_max: 512, response_tokens_max: 48}}
learner: {{threads: 1}}
actor: {{threads: 1, rows: 32, kv_tokens: 32768}}
verifier: {{workers: 1, timeout_ms: 10000, memory_mb: 128}}
checkpoint: {{every: 1, keep: 2}}
actors: 2
verifiers: 2
connect_timeout_s: 30
"""


class Scene:
    def __init__(self, binaries, folder, rng):
        self.bin, self.folder, self.rng = binaries, folder, rng
        self.log = open(f"{folder}/log", "ab")
        self.hands = []

    def start(self, program, run, *words):
        return subprocess.Popen([f"{self.bin}/{program}", *(["train"] if program == "kelvin" else []), "--config",
                                 f"{self.folder}/config.yaml", f"run_dir={run}", *words],
                                stdout=self.log, stderr=self.log, start_new_session=True)

    def processes(self, run, program=None):
        out = subprocess.run(["pgrep", "-af", f"run_dir={run}|--resume {run}"], capture_output=True, text=True,
                             check=False).stdout
        return [int(line.split()[0]) for line in out.splitlines()
                if "pgrep" not in line and (program is None or f"/{program} " in line)]

    def hurt(self, run):
        """One mishap."""
        program = self.rng.choice(["kelvin-actor", "kelvin-verifier", "kelvin-actor", "kelvin-verifier", "kelvin-learner"])
        victims = self.processes(run, program)
        what = self.rng.choice(["kill", "stop", "join"])
        print(f"  {what} {program}", flush=True)
        if what == "join":
            if program != "kelvin-learner":
                self.hands.append(self.start(program, run))
        elif victims:
            victim = self.rng.choice(victims)
            self.signal(victim, signal.SIGKILL if what == "kill" else signal.SIGSTOP)
            if what == "stop":
                time.sleep(self.rng.uniform(0.5, 8.0))
                self.signal(victim, signal.SIGCONT)

    @staticmethod
    def signal(pid, number):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    def finish(self, front, run, wanted, what):
        try:
            code = front.wait(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            raise SystemExit(f"{what}: it hangs") from None
        if code not in wanted:
            raise SystemExit(f"{what}: exit code {code}")
        for hand in self.hands:
            try:
                hand.wait(timeout=60)
            except subprocess.TimeoutExpired:
                raise SystemExit(f"{what}: a worker that joined by hand stays") from None
        self.hands = []
        end = time.monotonic() + 15
        while self.processes(run):
            if time.monotonic() > end:
                raise SystemExit(f"{what}: processes stay: {self.processes(run)}")
            time.sleep(0.1)


def steps_of(run):
    try:
        with open(f"{run}/metrics.jsonl", encoding="utf-8") as file:
            return [json.loads(line)["step"] for line in file]
    except FileNotFoundError:
        return []


def wait_steps(run, count, front):
    end = time.monotonic() + LIMIT_S
    while len(steps_of(run)) < count:
        if time.monotonic() > end or front.poll() is not None:
            raise SystemExit(f"{run}: {len(steps_of(run))} of {count} steps")
        time.sleep(0.05)


def play_chaos(scene, seconds):
    run, steps = f"{scene.folder}/chaos", int(4 * seconds)
    front = scene.start("kelvin", run, f"steps={steps}")
    end = time.monotonic() + seconds
    while time.monotonic() < end and front.poll() is None:
        time.sleep(scene.rng.uniform(0.1, 2.0))
        scene.hurt(run)
    scene.finish(front, run, [0], "chaos")
    if steps_of(run) != list(range(1, steps + 1)):
        raise SystemExit(f"chaos: steps {steps_of(run)}")


def play_late(scene):
    run = f"{scene.folder}/late"
    front = scene.start("kelvin", run, "steps=2", "actors=0", "verifiers=0")
    time.sleep(2)
    scene.hands = [scene.start("kelvin-verifier", run), scene.start("kelvin-actor", run)]
    scene.finish(front, run, [0], "late workers")


def play_interrupts(scene):
    run = f"{scene.folder}/interrupted"
    front = scene.start("kelvin", run, "steps=1000")
    wait_steps(run, 2, front)
    front.send_signal(signal.SIGINT)
    scene.finish(front, run, [130], "Ctrl-C")
    saved = max(int(name.split("-")[1]) for name in os.listdir(f"{run}/checkpoints") if name.startswith("step-"))
    if saved != steps_of(run)[-1]:
        raise SystemExit(f"Ctrl-C: step {steps_of(run)[-1]} was done and step {saved} is saved")
    run = f"{scene.folder}/twice"
    front = scene.start("kelvin", run, "steps=1000")
    wait_steps(run, 1, front)
    begin = time.monotonic()
    front.send_signal(signal.SIGINT)
    time.sleep(scene.rng.uniform(0.0, 0.2))
    front.send_signal(signal.SIGINT)
    scene.finish(front, run, [130], "Ctrl-C twice")
    if time.monotonic() - begin > 30:
        raise SystemExit("Ctrl-C twice: not at once")
    run = f"{scene.folder}/front"
    front = scene.start("kelvin", run, "steps=1000")
    wait_steps(run, 1, front)
    front.kill()
    scene.finish(front, run, [-9], "killed front")


def main():
    binaries = os.path.abspath(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int.from_bytes(os.urandom(4), "little")
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 30.0
    folder = tempfile.mkdtemp(prefix="kelvin-chaos-")
    scene = Scene(binaries, folder, random.Random(seed))
    try:
        print(f"seed {seed}", flush=True)
        toy.write_inputs(binaries, folder, config_of(folder))
        play_chaos(scene, seconds)
        play_late(scene)
        play_interrupts(scene)
        print("every step done, nothing left behind")
    except SystemExit as reason:
        with open(f"{folder}/log", encoding="utf-8", errors="replace") as log:
            print("".join(log.readlines()[-20:]))
        for base, _, names in os.walk(folder):
            for name in names:
                if name.endswith(".log"):
                    with open(f"{base}/{name}", encoding="utf-8", errors="replace") as log:
                        print(f"== {base}/{name}\n" + "".join(log.readlines()[-8:]))
        raise SystemExit(f"seed {seed}: {reason}") from None
    finally:
        for run in ("chaos", "late", "interrupted", "twice", "front"):
            for pid in scene.processes(f"{folder}/{run}"):
                scene.signal(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


main()
