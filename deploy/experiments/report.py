#!/usr/bin/python3
"""report.py DIR MODEL...: what laptop.sh played and measured in DIR, as DIR/table.md and plots."""
import collections
import datetime
import json
import math
import pathlib
import re
import sqlite3
import sys

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

KINDS = ("deduction", "abduction", "induction")
LONG = 4  # assignments: pretraining shows as many or more in 8 % of its programs
CONTROLS = ("generator", "untrained-proposer", "free-proposer", "solver-only", "shuffled")


def read_evals(folder):
    """{(run, step): eval.json}, suites from elsewhere left out."""
    evals = {}
    for path in sorted((folder / "eval").glob("*@*.json")):
        run, step = path.stem.split("@")
        if step.isdigit():
            evals[run, int(step)] = json.loads(path.read_text())
    return evals


def last_steps(evals, model):
    """{run: its last measured step} of the runs of a model."""
    steps = {}
    for run, step in evals:
        if run.startswith(f"model{model}"):
            steps[run] = max(step, steps.get(run, 0))
    return dict(sorted(steps.items()))


def measured_rows(evals, model):
    """(run, step) of the table: where the runs of a model end, and the hour's way there."""
    hour = f"model{model}-hour"
    return sorted(last_steps(evals, model).items() | {key for key in evals if key[0] == hour})


def percent(cell):
    return "–" if cell is None else f"{100 * cell['accuracy']:.1f} ± {100 * cell['stderr']:.1f}"


def long_programs(result):
    """Sampled deduction on programs longer than most of pretraining: (accuracy, standard error)."""
    parts = [p for p in result["sampled"]["deduction"]["by_length"] if p["assignments"] >= LONG]
    count = sum(p["tasks"] for p in parts)
    mean = sum(p["tasks"] * p["accuracy"] for p in parts) / max(count, 1)
    return mean, math.sqrt(mean * (1 - mean) / max(count, 1))


def accuracy_row(name, result):
    cells = [name]
    for row, kinds in (("sampled", KINDS), ("greedy", KINDS), ("forced", KINDS[:2])):
        cells += [percent(result[row].get(kind)) for kind in kinds]
    mean, error = long_programs(result)
    cells.append(f"{100 * mean:.1f} ± {100 * error:.1f}")
    return "| " + " | ".join(cells) + " |"


def guesser_row(name, result):
    cells = [name] + [percent(result[name].get(kind)) for kind in KINDS] + ["–"] * 6
    return "| " + " | ".join(cells) + " |"


def proposals(folder, run):
    """The proposals of a run, as rows of (step, program, input, accuracy)."""
    store = sqlite3.connect(f"file:{folder / run / 'tasks.db'}?mode=ro", uri=True)
    rows = store.execute("SELECT step, program, inputs, accuracy FROM tasks "
                         "WHERE step > 0 AND kind IN ('deduction', 'abduction')").fetchall()
    store.close()
    return [(step, program, json.loads(inputs)[0], accuracy) for step, program, inputs, accuracy in rows]


def type_of(text):
    return {"'": "string", '"': "string", "[": "list"}.get(text[:1], "int")


def statements(program):
    lines = (line.strip() for line in program.split("\n"))
    return [re.sub(r"\d+", "0", re.sub(r"'[^']*'", "''", line)) for line in lines if line.startswith("a=")]


def shares_row(name, rows):
    """What a run proposes in a part of its steps: input types, operations, lengths, difficulty."""
    types = collections.Counter(type_of(given) for _, _, given, _ in rows)
    operations = collections.Counter(s for _, program, _, _ in rows for s in statements(program))
    total = sum(operations.values())
    bits = -sum(n / total * math.log2(n / total) for n in operations.values())
    lengths = [len(statements(program)) for _, program, _, _ in rows]
    known = [a for _, _, _, a in rows if a is not None]
    cells = [name, f"{len(rows)}"]
    cells += [f"{100 * types[t] / len(rows):.0f}" for t in ("int", "string", "list")]
    cells += [f"{len(operations)}", f"{2 ** bits:.0f}", f"{sum(lengths) / len(rows):.2f}"]
    cells += [f"{100 * sum(n >= LONG for n in lengths) / len(rows):.0f}"]
    for low, high in ((0, 0), (0.01, 0.34), (0.35, 0.65), (0.66, 0.99), (1, 1)):
        cells.append(f"{100 * sum(low <= a <= high for a in known) / max(len(known), 1):.0f}")
    return "| " + " | ".join(cells) + " |"


def read_metrics(folder, run):
    return [json.loads(line) for line in (folder / run / "metrics.jsonl").read_text().splitlines()]


def mean(lines, prefix):
    values = [v for line in lines for k, v in line.items() if k.startswith(prefix + "/") and v is not None]
    return sum(values) / max(len(values), 1)


def health_row(name, lines):
    tail = lines[-50:]
    cells = [name, f"{100 * mean(tail, 'valid'):.1f}", f"{100 - 100 * mean(tail, 'duplicates'):.1f}",
             f"{100 * mean(tail, 'accuracy'):.0f}", f"{tail[-1]['entropy']:.3f}",
             f"{max(line['mismatch_max'] for line in lines):g}",
             f"{sum(line.get('withheld/' + k, 0) for line in lines for k in KINDS):.0f}",
             f"{sum(line['seconds'] for line in lines) / 60:.1f}"]
    return "| " + " | ".join(cells) + " |"


def write_table(folder, models, evals):
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    sample = next(iter(evals.values()))
    out = [f"Measured on {datetime.date.today()} on 2 cores of {cpu}; held-out tasks of seed {sample['seed']}, "
           f"{sample['sampled']['deduction']['tasks']} a type, {sample['samples']} samples a task at T = 1; "
           "percent ± standard error over tasks.", ""]
    head = ["run", *(f"sampled {k[:3]}" for k in KINDS), *(f"greedy {k[:3]}" for k in KINDS),
            "forced ded", "forced abd", f"sampled ded, ≥ {LONG} assignments"]
    out += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for model in models:
        for run, step in measured_rows(evals, model):
            out.append(accuracy_row(f"{run}, {step} steps" if step else f"model{model} before", evals[run, step]))
    before = evals[f"model{models[0]}", 0]
    out += [guesser_row(name, before) for name in ("constant", "echo")]
    runs = sorted({run for run, step in evals if step > 0})
    out += ["", "The last 50 steps of each run; `withheld` and `minutes` of the whole run:", "",
            "| run | valid % | distinct % | solve rate % | entropy | mismatch_max | withheld | minutes |", "|" + "---|" * 8]
    out += [health_row(run, read_metrics(folder, run)) for run in runs]
    out += ["", "What was proposed for deduction and abduction (shares in percent; effective operations: 2 to the "
            "entropy of the statements; solved: share of tasks by how many of the 8 answers were right):", "",
            "| run, steps | tasks | int | string | list | operations | effective | statements | long | "
            "solved 0 | ≤ ⅓ | middle | ≥ ⅔ | all |", "|" + "---|" * 14]
    for run in runs:
        rows = proposals(folder, run)
        last = max((row[0] for row in rows), default=0)
        for name, low, high in (("first 20", 1, 20), ("last 20", last - 19, last)):
            part = [row for row in rows if low <= row[0] <= high]
            if part:
                out.append(shares_row(f"{run}, {name}", part))
    for path in sorted((folder / "eval").glob("*-*.json")):
        suite = path.stem.rsplit("-", 1)[1]
        if suite in ("arithmetic", "programs"):
            result = json.loads(path.read_text())
            out += ["", f"`{suite}.jsonl`, {path.stem.rsplit('-', 1)[0]}: " + "; ".join(
                f"{row} {kind} {percent(result[row][kind])}" for row in ("sampled", "greedy", "constant", "echo")
                for kind in KINDS[:2])]
    (folder / "table.md").write_text("\n".join(out) + "\n")


def plot_accuracy(folder, models, evals):
    """How far every run moved the sampled accuracies."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharey=True)
    for axis, kind in zip(axes, KINDS):
        at = 0
        names = []
        for model in models:
            before = evals[f"model{model}", 0]["sampled"][kind]
            for run, step in last_steps(evals, model).items():
                if step == 0:
                    continue
                after = evals[run, step]["sampled"][kind]
                color = "tab:blue" if "selfplay" in run else "tab:gray"
                error = math.hypot(before["stderr"], after["stderr"])
                axis.barh(at, 100 * (after["accuracy"] - before["accuracy"]), xerr=100 * error, color=color)
                names.append(run)
                at += 1
        axis.set_title(kind)
        axis.set_xlabel("points of sampled accuracy gained")
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(range(at), names, fontsize=8)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(folder / "accuracy.png", dpi=110)


def followed(evals, model):
    """The run that was measured on its way: the hour's, or the first of self-play."""
    hour = f"model{model}-hour"
    return hour if any(run == hour for run, _ in evals) else f"model{model}-selfplay-1"


def plot_learning(folder, model, evals):
    """Accuracies over the steps of one run, beside where the controls end."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharey=True)
    points = {0: evals[f"model{model}", 0]}
    points.update({step: result for (run, step), result in evals.items() if run == followed(evals, model)})
    for axis, kind in zip(axes, KINDS):
        for row in ("sampled", "greedy", "forced"):
            steps = [s for s in sorted(points) if kind in points[s][row]]
            if steps:
                cells = [points[s][row][kind] for s in steps]
                axis.errorbar(steps, [100 * c["accuracy"] for c in cells], [100 * c["stderr"] for c in cells],
                              label=f"self-play, {row}", capsize=2)
        for (run, step), result in evals.items():
            if run.startswith(f"model{model}-") and run.split("-", 1)[1] in CONTROLS:
                control = run.split("-", 1)[1]
                axis.plot(step, 100 * result["sampled"][kind]["accuracy"], "xo^sd"[CONTROLS.index(control)],
                          color="black", fillstyle="none", label=f"{control}, sampled")
        axis.set_title(kind)
        axis.set_xlabel("step")
    axes[0].set_ylabel("held-out accuracy, %")
    axes[2].legend(*axes[0].get_legend_handles_labels(), fontsize=7)
    figure.tight_layout()
    figure.savefig(folder / "learning.png", dpi=110)


def per_window(rows, measure):
    """(middles, values) of a measure of the proposals of every ten steps."""
    windows = collections.defaultdict(list)
    for row in rows:
        windows[(row[0] - 1) // 10 * 10 + 5].append(row)
    return sorted(windows), [measure(windows[at]) for at in sorted(windows)]


def mean_length(rows):
    return sum(len(statements(program)) for _, program, _, _ in rows) / len(rows)


def variety(rows):
    counts = collections.Counter(s for _, program, _, _ in rows for s in statements(program))
    total = sum(counts.values()) or 1
    return 2 ** -sum(n / total * math.log2(n / total) for n in counts.values())


def plot_difficulty(axis, run, rows):
    """How many of a run's tasks the solver solved never, at times, always."""
    known = [row for row in rows if row[3] is not None]
    shares = []
    for low, high in ((0, 0), (0.01, 0.5), (0.51, 0.99), (1, 1)):
        at, values = per_window(known, lambda part, low=low, high=high: 100 * sum(
            low <= a <= high for _, _, _, a in part) / len(part))
        shares.append(values)
    axis.stackplot(at, shares, labels=("never", "up to half", "more", "always"), alpha=0.7)
    axis.set_title(f"tasks by how often they are solved, %: {run}", fontsize=9)
    axis.legend(fontsize=6)


def plot_proposals(folder, model, evals):
    """What proposers do over time: difficulty, length, variety, entropy."""
    figure, axes = plt.subplots(2, 3, figsize=(15, 7))
    for run in sorted({run for run, step in evals if step > 0}):
        lines = read_metrics(folder, run)
        steps = [line["step"] for line in lines]
        rows = proposals(folder, run)
        axes[0][0].plot(steps, [100 * mean([line], "accuracy") for line in lines], linewidth=0.9, label=run)
        axes[0][1].plot(*per_window(rows, mean_length), linewidth=0.9)
        axes[1][0].plot(*per_window(rows, variety), linewidth=0.9)
        axes[1][1].plot(steps, [line["entropy"] for line in lines], linewidth=0.9)
        axes[1][2].plot(steps, [100 * mean([line], "duplicates") for line in lines], linewidth=0.9)
    for axis, title in ((axes[0][0], "solve rate of new tasks, %"), (axes[0][1], "statements per proposed program"),
                        (axes[1][0], "effective number of operations"), (axes[1][1], "entropy of the responses"),
                        (axes[1][2], "duplicates among proposals, %")):
        axis.set_title(title)
    plot_difficulty(axes[0][2], followed(evals, model), proposals(folder, followed(evals, model)))
    for axis in axes.flat:
        axis.set_xlabel("step")
    axes[0][0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(folder / "proposals.png", dpi=110)


def main():
    folder = pathlib.Path(sys.argv[1])
    models = sys.argv[2:]
    evals = read_evals(folder)
    write_table(folder, models, evals)
    plot_accuracy(folder, models, evals)
    plot_learning(folder, models[0], evals)
    plot_proposals(folder, models[0], evals)


if __name__ == "__main__":
    main()
