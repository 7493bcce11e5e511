"""Means over seeds with 95 % intervals (Student's t), and differences paired by seed.

python benches/reproductions/summarise.py FOLDER ARM [ARM ...]; runs are FOLDER/ARM-SEED. The first arm is the one compared with.
"""
import json
import math
import pathlib
import sys

T975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
METRICS = [
    "rollout/effective_gradient_ratio",
    "rollout/mixed_groups",
    "rollout/tokens_mean",
    "reward/accuracy",
    "objective/real/weight_max",
    "objective/real/margin",
    "budget/rollouts/allocated",
    "rollout/entropy",
]


def interval(values):
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, float("nan")
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, T975[n - 1] * deviation / math.sqrt(n)


def read(folder):
    rows = [json.loads(line) for line in open(folder / "metrics.jsonl")]
    found = {}
    for metric in METRICS:
        values = [row[metric] for row in rows if metric in row]
        if values:
            found[metric] = max(values) if metric.endswith("_max") else sum(values) / len(values)
    summary = json.load(open(folder / "report/summary.json"))["benchmarks"]
    for name, benchmark in summary.items():
        found[f"{name} accuracy, final"] = benchmark["final"]["accuracy"]
    return found


def main():
    root, arms = pathlib.Path(sys.argv[1]), sys.argv[2:]
    runs = {arm: {p.name.rsplit("-", 1)[1]: read(p) for p in sorted(root.glob(f"{arm}-[0-9]*"))} for arm in arms}
    for metric in sorted({m for arm in runs.values() for run in arm.values() for m in run}):
        for arm in arms:
            values = [run[metric] for run in runs[arm].values() if metric in run]
            if values:
                mean, half = interval(values)
                print(f"{metric:40} {arm:12} {mean:.4f} +- {half:.4f}  ({len(values)} seeds)")
        for arm in arms[1:]:
            seeds = [s for s in runs[arm] if s in runs[arms[0]] and metric in runs[arm][s] and metric in runs[arms[0]][s]]
            if len(seeds) > 1:
                mean, half = interval([runs[arm][s][metric] - runs[arms[0]][s][metric] for s in seeds])
                print(f"{metric:40} {arm} - {arms[0]}: {mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]")


main()
