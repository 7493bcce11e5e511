"""The weights that pairing gives to single rollouts, and what lambda_neg does to a run.

python3 benches/reproductions/pairing_weights.py PROGRAM FOLDER

The pool and its rates are those of knapsack.py. A rollout's advantage is read from the run's log and compared with what its group's share of right
ones p states: sqrt((1-p)/p) for a right and -sqrt(p/(1-p)) for a wrong one, times sqrt((n-1)/n) for the sample deviation.
"""

import json
import math
import pathlib
import struct

from knapsack import CONFIG, POOL
from reproduction import Panel, arguments, command, figure, flags, train

PAIRING = "benches/reproductions/pairing.toml"


def weights_of(path):
    """All numbers of an f32 safetensors file."""
    raw = path.read_bytes()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    return struct.unpack(f"<{(len(raw) - start) // 4}f", raw[start:])


def main():
    program, folder = arguments()
    rates = folder.parent / "knapsack" / "rates.jsonl"
    rates.parent.mkdir(exist_ok=True)
    command(program, "probe", CONFIG, *flags(POOL), "--rollouts", 32, "--output", rates, output=rates)
    settings = {**POOL, "data.train": "generated:sums", "data.probe": rates, "run.steps": 3, "run.log_samples": 256, "eval.benchmarks": "[]",
                "prompts.pairing.pairs": 8, "prompts.pairing.fallback": "midrange", "budget.rollouts.uniform.mean": 16}
    final = {}
    for mode, lambda_neg in (("signed_group", 1), ("signed_group", 2), ("signed_group", 4), ("group_then_weight", 1), ("group_then_weight", 2), ("signed_none", 2)):
        run = train(program, folder, f"{mode}-{lambda_neg}", PAIRING, {**settings, "advantage.pairing.mode": mode, "advantage.pairing.lambda_neg": lambda_neg})
        final[mode, lambda_neg] = weights_of(run / "checkpoints" / "3" / "model.safetensors")
    start = weights_of(pathlib.Path("configs/quickstart/model.safetensors"))
    distance = lambda a, b: max(abs(x - y) for x, y in zip(a, b))
    print(f"\nlargest difference of a weight after 3 steps; start to signed_group {distance(start, final['signed_group', 1]):.1e}")
    for key, weights in final.items():
        print(f"{key[0]}, lambda_neg {key[1]}: {distance(weights, final['signed_group', 1]):.1e} from signed_group, lambda_neg 1")
    points, error = {"right": [], "wrong": []}, 0.0
    run = folder / "signed_group-1"
    for file in sorted((run / "rollouts").iterdir()):
        groups = {}
        for row in map(json.loads, open(file)):
            groups.setdefault(row["id"], []).append(row)
        for group in groups.values():
            n, right = len(group), sum(row["verdict"] == "right" for row in group)
            p = right / n
            if not 0 < p < 1:
                continue
            for row in group:
                is_right = row["verdict"] == "right"
                stated = math.sqrt((n - 1) / n) * (math.sqrt((1 - p) / p) if is_right else -math.sqrt(p / (1 - p)))
                error = max(error, abs(row["advantage"] - stated) / abs(stated))
                points["right" if is_right else "wrong"].append((p, row["advantage"]))
    print(f"advantages of {sum(map(len, points.values()))} rollouts: largest relative difference from the stated weights {error:.1e}")
    shares = Panel("advantage of a rollout (lines: stated)", "share of its group that is right", "advantage")
    grid = [0.03 + 0.94 * i / 80 for i in range(81)]
    shares.line("right", [(p, math.sqrt(15 / 16 * (1 - p) / p)) for p in grid])
    shares.line("wrong", [(p, -math.sqrt(15 / 16 * p / (1 - p))) for p in grid])
    for side, found in points.items():
        shares.dots(side, sorted(set(found)))
    figure("pairing_weights", [shares], width=400)


if __name__ == "__main__":
    main()
