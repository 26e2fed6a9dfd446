#!/usr/bin/env python3
"""refusals.py BIN: wrong inputs are refused: exit code 2, one line that names what is wrong, nothing touched.

Each case is a command line and a part of the line that must come. The folder in which everything lies is compared
before and after, byte for byte.
"""
import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile

from toy import write, write_inputs

LIMIT_S = 60


def edit_json(path, **values):
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    data.update(values)
    write(path, json.dumps(data))


def damage(path, size=None, at=None, data=b""):
    with open(path, "r+b") as file:
        if size is not None:
            file.truncate(os.path.getsize(path) + size)
        if at is not None:
            file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
            file.write(data)


def snapshot(folder):
    """Names and contents of all files; sockets, locks and SQLite's side files are no contents."""
    out = {}
    for base, dirs, names in os.walk(folder):
        for name in names + dirs:
            path = os.path.join(base, name)
            if name.endswith((".sock", ".lock", "-wal", "-shm")) or (os.path.isdir(path)):
                out[path] = None
            else:
                with open(path, "rb") as file:
                    out[path] = hashlib.sha256(file.read()).hexdigest()
    return {path: digest for path, digest in out.items() if not path.endswith((".sock", ".lock", "-wal", "-shm"))}


class Place:
    """A folder with a model, a config and a run of four steps to spoil."""

    def __init__(self, binaries, folder):
        self.bin, self.folder = binaries, folder
        self.config = f"{folder}/config.yaml"
        write_inputs(binaries, folder, f"""
steps: 4
azr: {{types: "deduction,abduction", batch: 2, references: 1, samples: 2, seed_factor: 2, seed_file: {folder}/seeds.jsonl}}
rollout: {{prompt_tokens_max: 512, response_tokens_max: 32}}
learner: {{threads: 1}}
actor: {{threads: 1, rows: 16, kv_tokens: 16384}}
verifier: {{workers: 1, memory_mb: 128}}
checkpoint: {{every: 2}}
connect_timeout_s: 2
""")
        self.run = f"{folder}/run"
        subprocess.run([f"{binaries}/kelvin", "train", "--config", self.config, f"run_dir={self.run}"], check=True,
                       stdout=subprocess.DEVNULL, timeout=300)
        write(f"{folder}/nothing.yaml", "")
        self.copies = 0

    def train(self, *words):
        return [f"{self.bin}/kelvin", "train", "--config", self.config, f"run_dir={self.folder}/new", *words]

    def learner(self, *words):
        return [f"{self.bin}/kelvin-learner", "--config", self.config, f"run_dir={self.folder}/new", *words]

    def other(self, source, name=None):
        """A copy to spoil."""
        self.copies += 1
        target = f"{self.folder}/{name or 'copy'}{self.copies}"
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.sock"))
        return target

    def model(self, spoil):
        target = self.other(f"{self.folder}/model")
        spoil(target)
        return self.train(f"model={target}")

    def resume(self, spoil):
        target = self.other(self.run)
        spoil(target)
        return [f"{self.bin}/kelvin", "train", "--resume", target]


def nan_weight(model):
    damage(f"{model}/model.safetensors", at=-4, data=b"\xc0\x7f\xc0\x7f")  # bf16 NaN, twice


def foreign_schema(run):
    store = sqlite3.connect(f"{run}/tasks.db")
    store.execute("PRAGMA user_version=99")
    store.commit()
    store.close()


def foreign_store(run):
    os.remove(f"{run}/tasks.db")
    store = sqlite3.connect(f"{run}/tasks.db")
    store.execute("CREATE TABLE something(a)")
    store.commit()
    store.close()


def short_store(run):
    store = sqlite3.connect(f"{run}/tasks.db")
    store.execute("DELETE FROM rollouts WHERE step>2")
    store.commit()
    store.close()


def cases(place, port):
    step = "checkpoints/step-4"
    binary = place.bin
    yield "unknown key", place.train("azr.bach=3"), "azr.bach"
    yield "bad value", place.train("azr.batch=many"), "azr.batch"
    yield "out of range", place.train("azr.batch=0"), "azr.batch"
    yield "no config file", [f"{binary}/kelvin", "train", "--config", f"{place.folder}/none.yaml"], "none.yaml"
    yield "no model", place.train(f"model={place.folder}/none"), "none"
    yield "model without tokenizer", place.model(lambda m: os.remove(f"{m}/tokenizer.json")), "tokenizer.json"
    yield "weights cut", place.model(lambda m: damage(f"{m}/model.safetensors", size=-100)), "model.safetensors"
    yield "NaN in a weight", place.model(nan_weight), "model.safetensors"
    yield "config of another shape", place.model(lambda m: edit_json(f"{m}/config.json", hidden_size=64)), "config.json asks for"
    yield "unknown family", place.model(lambda m: edit_json(f"{m}/config.json", model_type="mamba")), "mamba"
    yield "broken JSON", place.model(lambda m: write(f"{m}/config.json", "{")), "config.json"
    yield "too few ids", place.model(lambda m: edit_json(f"{m}/config.json", vocab_size=100)), "100"
    yield "longer than the model", place.train("rollout.response_tokens_max=2000"), "positions"
    yield "rollout larger than the cache", place.train("actor.kv_tokens=1024", "rollout.prompt_tokens_max=1000"), "kv_tokens"
    yield "baseline of fresh rollouts", place.train("azr.baseline=task", "azr.solver_rollouts=fresh"), "azr.baseline"
    yield "dual clip below 1", place.train("loss.dual_clip=0.5"), "loss.dual_clip"
    yield "no nucleus", place.train("rollout.top_p=0"), "rollout.top_p"
    yield "one address for two sockets", place.train("endpoint=tcp://127.0.0.1:4", "weights_endpoint=tcp://127.0.0.1:4"), "same address"
    yield "lease shorter than a check", place.train("learner.lease_s=1"), "learner.lease_s"
    yield "no seed file", place.train(f"azr.seed_file={place.folder}/none.jsonl"), "none.jsonl"
    yield "broken seed file", place.train(f"azr.seed_file={place.config}"), "config.yaml"
    yield "folder holds a run", [*place.train(), f"run_dir={place.run}"], "--resume"
    yield "run_dir is a file", place.train(f"run_dir={place.config}"), "config.yaml"
    yield "port in use", place.learner(f"endpoint=tcp://127.0.0.1:{port}", "weights_endpoint=tcp://127.0.0.1:*"), "another process listens"
    yield "port in use, front", place.train(f"endpoint=tcp://127.0.0.1:{port}", "weights_endpoint=tcp://127.0.0.1:*"), "another process listens"
    yield "no such address", place.learner("endpoint=tcp://203.0.113.7:4444"), "address"
    yield "no address", place.learner("endpoint=nonsense"), "nonsense"
    yield "resume nothing", [f"{binary}/kelvin", "train", "--resume", f"{place.folder}/none"], "none"
    yield "resume with fewer steps", [f"{binary}/kelvin", "train", "--resume", place.run, "steps=1"], "fewer"
    yield "resume with another seed", [f"{binary}/kelvin", "train", "--resume", place.run, "seed=9"], "seed"
    yield "resume with another model", [f"{binary}/kelvin", "train", "--resume", place.run, "model=/x"], "model"
    yield "checkpoint cut", place.resume(lambda r: damage(f"{r}/{step}/trainer.bin", size=-1000)), "cut"
    yield "checkpoint damaged", place.resume(lambda r: damage(f"{r}/{step}/trainer.bin", at=5000, data=b"ouch")), "damaged"
    yield "checkpoint empty", place.resume(lambda r: damage(f"{r}/{step}/trainer.bin", size=-os.path.getsize(f"{r}/{step}/trainer.bin"))), "cut"
    yield "checkpoint of a newer program", place.resume(lambda r: edit_json(f"{r}/{step}/state.json", format=7)), "newer"
    yield "checkpoint of another model", place.resume(lambda r: damage(f"{r}/{step}/trainer.bin", at=24, data=b"another!")), "another model"
    yield "checkpoint of another step", place.resume(lambda r: edit_json(f"{r}/{step}/state.json", step=3)), "step"
    yield "no starting model", place.resume(lambda r: shutil.rmtree(f"{r}/checkpoints/step-0")), "step 0"
    yield "store of a newer program", place.resume(foreign_schema), "schema"
    yield "store of another program", place.resume(foreign_store), "not a task store"
    yield "store is no database", place.resume(lambda r: write(f"{r}/tasks.db", "x" * 5000)), "tasks.db"
    yield "store lacks a step", place.resume(short_store), "does not belong"
    yield "fork of no step", [f"{binary}/kelvin", "train", "--fork", f"{place.run}@3", f"run_dir={place.folder}/new"], "step 3"
    yield "fork of nonsense", [f"{binary}/kelvin", "train", "--fork", f"{place.run}@x", f"run_dir={place.folder}/new"], "no step"
    yield "fork onto a run", [f"{binary}/kelvin", "train", "--fork", f"{place.run}@4", f"run_dir={place.run}"], "holds a run"
    yield "actor without learner", [f"{binary}/kelvin-actor", "--config", place.config, "endpoint=tcp://127.0.0.1:9"], "no learner answered"
    yield "actor, unknown key", [f"{binary}/kelvin-actor", "--config", place.config, "actor.row=1"], "actor.row"
    yield "actor, bad endpoint", [f"{binary}/kelvin-actor", "--config", place.config, "endpoint=nonsense"], "nonsense"
    yield "verifier without learner", [f"{binary}/kelvin-verifier", "--config", place.config, "endpoint=tcp://127.0.0.1:9"], "no learner answered"
    yield "verifier, bad value", [f"{binary}/kelvin-verifier", "--config", place.config, "verifier.images=1"], "verifier.images"
    yield "verifier, unknown option", [f"{binary}/kelvin-verifier", "--confg", place.config], "--confg"
    yield "plan of no model", [f"{binary}/kelvin", "plan", "--config", place.config, f"model={place.folder}/none"], "none"
    yield "tasks of no run", [f"{binary}/kelvin", "tasks", f"{place.folder}/none"], "none"
    yield "tasks of a foreign store", [f"{binary}/kelvin", "tasks", place.resume(foreign_schema)[-1]], "schema"
    yield "replay of no rollout", [f"{binary}/kelvin", "replay", place.run, "99999"], "99999"
    yield "replay of a forgotten version", [f"{binary}/kelvin", "replay", place.resume(lambda r: shutil.rmtree(f"{r}/checkpoints/step-0"))[-1], "1"], "not kept"
    yield "export onto a folder", [f"{binary}/kelvin", "export", f"{place.run}@4", f"{place.folder}/model"], "there already"
    yield "export of no step", [f"{binary}/kelvin", "export", f"{place.run}@3", f"{place.folder}/new"], "step 3"


def refuse(place, name, command, part):
    before = snapshot(place.folder)
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("info", "warn"))]
    wrong = []
    if done.returncode != 2:
        wrong.append(f"exit code {done.returncode}")
    if len(lines) != 1 or part not in lines[0]:
        wrong.append(f"said {lines}")
    changed = {path for path, digest in snapshot(place.folder).items() if before.get(path, "") != digest}
    changed |= set(before) - set(snapshot(place.folder))
    changed = {path for path in changed if "/log" not in path}  # a run that is resumed logs why it was not
    if changed:
        wrong.append(f"touched {sorted(changed)}")
    print(f"{'WRONG' if wrong else 'ok   '} {name}: {lines[0] if lines else done.stderr!r}", flush=True)
    return [f"{name}: {'; '.join(wrong)}"] if wrong else []


def main():
    folder = tempfile.mkdtemp(prefix="kelvin-refusals-")
    wrong = []
    count = 0
    try:
        place = Place(os.path.abspath(sys.argv[1]), folder)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            for name, command, part in cases(place, taken.getsockname()[1]):
                wrong += refuse(place, name, command, part)
                count += 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"{count} wrong inputs refused")


main()
