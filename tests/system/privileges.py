#!/usr/bin/env python3
"""privileges.py BIN: whom a verifier runs as, and that it does all of its work as that user.

Started as root it is user 65534 once it works, as its sandboxes are, with no capability in effect but that of the threads
that connect to the learner's socket, which lies in a folder of root's alone. A sandbox that is killed is replaced, and a
learner that is killed is found again, by the same process. Started as another user it stays that user.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import toy

LIMIT_S = 120
NOBODY = 65534
OTHER = 54321
CAP_DAC_OVERRIDE = 1 << 1
CONFIG = """
azr: {types: "deduction,abduction", batch: 4, references: 1, samples: 3, seed_factor: 1, seed_file: FOLDER/seeds.jsonl}
rollout: {prompt_tokens_max: 512, response_tokens_max: 48}
learner: {threads: 1}
actor: {threads: 1, rows: 32, kv_tokens: 32768}
verifier: {workers: 1, timeout_ms: 10000, memory_mb: 128}
checkpoint: {every: 1, keep: 2}
actors: 1
verifiers: 1
connect_timeout_s: 30
"""
GOOD = json.dumps({"id": 1, "kind": "validate", "program": "def f(x):\n    return x + 1", "input": "1"}) + "\n"


def status(path):
    """The fields of a status file of /proc."""
    with open(f"{path}/status", encoding="ascii", errors="replace") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def children(pid, name):
    out = subprocess.run(["pgrep", "-P", str(pid), "-f", name], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in out.split()]


def wait_for(what, condition):
    end = time.monotonic() + LIMIT_S
    while not (value := condition()):
        if time.monotonic() > end:
            raise SystemExit(f"not within {LIMIT_S} s: {what}")
        time.sleep(0.05)
    return value


def check(good, sentence):
    if not good:
        raise SystemExit(sentence)


def check_user(pid, user):
    fields = status(f"/proc/{pid}")
    for name in ("Uid", "Gid"):
        check(fields[name].split() == [str(user)] * 4, f"{name} is {fields[name]}, not {user}")
    return fields


def check_dropped(pid, in_threads):
    """The user is 65534; `in_threads` is what threads beside the first have in effect."""
    fields = check_user(pid, NOBODY)
    check(fields["Groups"].strip() == "", f"groups stay: {fields['Groups']}")
    check(fields["NoNewPrivs"] == "1", "it may gain privileges")
    threads = os.listdir(f"/proc/{pid}/task")
    for thread in threads:
        own = status(f"/proc/{pid}/task/{thread}")
        check(own["Uid"].split() == [str(NOBODY)] * 4, f"a thread's Uid is {own['Uid']}")
        wanted = {"CapInh": 0, "CapAmb": 0, "CapBnd": 0, "CapPrm": in_threads,
                  "CapEff": 0 if int(thread) == pid else in_threads}
        for name, value in wanted.items():
            check(int(own[name], 16) == value, f"{name} is {own[name]}, not {value:x}")
    return len(threads)


def play_lines(binaries, wanted, checks, **identity):
    """kelvin-verifier --stdin, looked at between two requests."""
    daemon = subprocess.Popen([f"{binaries}/kelvin-verifier", "--stdin", "--workers", "1", "--no-cache"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **identity)
    try:
        for turn in range(2):
            daemon.stdin.write(GOOD)
            daemon.stdin.flush()
            line = daemon.stdout.readline()
            check(line != "" and json.loads(line)["verdict"] == "ok", f"as user {wanted}: {line}")
            if turn == 0:
                checks(daemon.pid)
                images = children(daemon.pid, "kelvin-image")
                check(images, "no image is there")
                for image in images:
                    check_user(image, wanted)
                    check(int(status(f"/proc/{image}")["CapPrm"], 16) == 0, "an image has capabilities")
                    os.kill(image, signal.SIGKILL)
                wait_for("the end of the images", lambda: not any(os.path.exists(f"/proc/{pid}") for pid in images))
        daemon.stdin.close()
        check(daemon.wait(timeout=LIMIT_S) == 0, f"exit code {daemon.returncode}")
    finally:
        daemon.kill()
        daemon.wait()


def steps_of(run):
    try:
        with open(f"{run}/metrics.jsonl", encoding="utf-8") as file:
            return len(file.readlines())
    except FileNotFoundError:
        return 0


def joins_of(run):
    return sum(open(f"{run}/log/{name}", encoding="utf-8", errors="replace").read().count("server: joined the learner")
               for name in os.listdir(f"{run}/log") if "verifier" in name)


def play_run(binaries, folder):
    run = f"{folder}/run"
    front = subprocess.Popen([f"{binaries}/kelvin", "train", "--config", f"{folder}/config.yaml", f"run_dir={run}",
                              "steps=100000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for("two steps", lambda: steps_of(run) >= 2)
        verifier = children(front.pid, "kelvin-verifier")[0]
        if os.geteuid() == 0:
            check(check_dropped(verifier, CAP_DAC_OVERRIDE) > 1, "the connecting threads are not there")
            spy = subprocess.run(["cat", f"/proc/{verifier}/maps"], user=NOBODY, group=NOBODY, extra_groups=[],
                                 capture_output=True, check=False)
            check(spy.returncode != 0, "another process of its user may trace it, and so have its capability")
        else:
            check_user(verifier, os.geteuid())
        check(joins_of(run) == 1, f"joined {joins_of(run)} times")
        before = set(children(verifier, "kelvin-image"))
        for image in before:
            os.kill(image, signal.SIGKILL)
        wait_for("new images", lambda: set(children(verifier, "kelvin-image")) - before)
        for learner in children(front.pid, "kelvin-learner"):
            os.kill(learner, signal.SIGKILL)
        wait_for("the second welcome", lambda: joins_of(run) == 2)
        steps = steps_of(run)
        wait_for("steps of the second learner", lambda: steps_of(run) >= steps + 2)
        check(children(front.pid, "kelvin-verifier") == [verifier], "it is another verifier")
        front.send_signal(signal.SIGINT)
        check(front.wait(timeout=LIMIT_S) == 130, f"exit code {front.returncode}")
    except SystemExit:
        for name in os.listdir(f"{run}/log"):
            with open(f"{run}/log/{name}", encoding="utf-8", errors="replace") as log:
                print(f"== {name}\n" + "".join(log.readlines()[-10:]))
        raise
    finally:
        front.kill()  # takes the others with it
        front.wait()


def main():
    binaries = os.path.abspath(sys.argv[1])
    folder = tempfile.mkdtemp(prefix="kelvin-privileges-") # nobody else comes in
    root = os.geteuid() == 0
    try:
        if root:
            play_lines(binaries, NOBODY, lambda pid: check_dropped(pid, 0))
            play_lines(binaries, OTHER, lambda pid: check_user(pid, OTHER), user=OTHER, group=OTHER, extra_groups=[])
        else:
            play_lines(binaries, os.geteuid(), lambda pid: check_user(pid, os.geteuid()))
        toy.write_inputs(binaries, folder, CONFIG.replace("FOLDER", folder))
        play_run(binaries, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"right in all, as {'root and as another user' if root else 'an ordinary user'}")


main()
