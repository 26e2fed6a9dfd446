#!/usr/bin/python3
"""smollm2_report.py DIR: what smollm2.sh played and measured in DIR, as DIR/table.md."""
import collections
import datetime
import json
import math
import pathlib
import sqlite3
import sys

PARTS = 5  # the run is cut into so many parts of equal length


def proposals(folder):
    """[(step, kind, outcome, text)] of every proposal that has a verdict."""
    store = sqlite3.connect(f"file:{folder / 'run' / 'tasks.db'}?mode=ro", uri=True)
    rows = store.execute("SELECT r.step, r.kind, v.outcome, r.text FROM rollouts r JOIN verdicts v ON v.rollout = r.id "
                         "WHERE r.role = 'propose' AND r.step > 0 ORDER BY r.id").fetchall()
    store.close()
    return rows


def share(count, total):
    if total == 0:
        return "–"
    mean = count / total
    return f"{100 * mean:.0f} ± {100 * math.sqrt(mean * (1 - mean) / total):.0f}"


def part_row(name, rows, seen):
    """A row of the table; `seen` holds the texts of earlier valid proposals and takes these."""
    outcomes = collections.Counter(outcome for _, _, outcome, _ in rows)
    valid = [text for _, _, outcome, text in rows if outcome == "ok"]
    distinct = 0
    for text in valid:
        distinct += text not in seen
        seen.add(text)
    rest = "; ".join(f"{n} {outcome}" for outcome, n in outcomes.most_common() if outcome not in ("ok", "copied"))
    return (f"| {name} | {len(rows)} | {share(len(valid), len(rows))} | {share(outcomes['copied'], len(rows))} | "
            f"{share(distinct, len(valid))} | {share(distinct, len(rows))} | {rest} |")


def proposal_table(rows):
    out = ["| steps | proposals | valid % | input copied % | distinct % of the valid | valid and distinct % | the others |", "|" + "---|" * 7]
    last = max(step for step, *_ in rows)
    seen = set()
    for part in range(min(PARTS, last)):
        low, high = part * last // min(PARTS, last), (part + 1) * last // min(PARTS, last)
        out.append(part_row(f"{low + 1}–{high}", [row for row in rows if low < row[0] <= high], seen))
    return out


def solver_table(folder):
    out = ["| | deduction | abduction | induction |", "|---|---|---|---|"]
    results = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("before", "after")}
    rows = [(f"{name}, {row}", result[row]) for name, result in results.items() for row in ("sampled", "greedy")]
    rows += [(row, results["before"][row]) for row in ("constant", "echo")]
    for name, cells in rows:
        texts = (f"{100 * cells[k]['accuracy']:.1f} ± {100 * cells[k]['stderr']:.1f}" if k in cells else "–"
                 for k in ("deduction", "abduction", "induction"))
        out.append(f"| {name} | " + " | ".join(texts) + " |")
    return out


def main():
    folder = pathlib.Path(sys.argv[1])
    metrics = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    minutes = sum(line["seconds"] for line in metrics) / 60
    out = [f"SmolLM2-135M-Instruct, {len(metrics)} steps in {minutes:.0f} minutes, {datetime.date.today()}. A proposal whose "
           "input is that of an example is not valid; percent ± standard error.", "", *proposal_table(proposals(folder)), "",
           "Answers to programs.jsonl, in percent of the tasks:", "", *solver_table(folder)]
    (folder / "table.md").write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    main()
