"""Prompts chosen as pairs of a rarely solved and a rarely failed one, against those of greatest variance: accuracy a prompt used.

python3 benches/reproductions/pairing.py PROGRAM FOLDER

A probe measures 400 sums with 32 rollouts. `pair-N` trains on N prompts, half from the hard band (1 to 4 right of 32) and half from the easy one
(28 to 31), `variance-N` on the N whose rates are nearest to 1/2; seed s takes the s-th block of each ranking. Both are plain GRPO, which is what
`signed_group` amounts to. `pairing` is the program's own [prompts.pairing] over the whole pool, `dynamic` the refusal of groups without
variance over the same pool. All have 8 x 16 rollouts a step (2 x 64 for N = 2). Then the weights of single rollouts and what lambda_neg does.
"""

import json
import math
import pathlib
import random
import struct

from reproduction import SEEDS, Panel, arguments, benchmark, command, figure, flags, interval, mean, results, series, sweep, table, train
from thinker import problem, write

PAIRING, VARIANCE = "benches/reproductions/pairing.toml", "benches/reproductions/variance.toml"


def pools(folder):
    for name, held_out, count in (("pool", False, 400), ("test", True, 400)):
        rng, seen, items = random.Random(11), set(), []
        while len(items) < count:
            prompt = "+".join(map(str, operands := problem(rng, held_out, (3 if name == "pool" else 4, 8)))) + "="
            if prompt not in seen:
                seen.add(prompt)
                items.append({"id": f"{name}:{len(items)}", "prompt": prompt, "answer": str(sum(operands))})
        write(folder / f"{name}.jsonl", items)


def weights_of(path):
    """All numbers of an f32 safetensors file."""
    raw = path.read_bytes()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    return struct.unpack(f"<{(len(raw) - start) // 4}f", raw[start:])


def main():
    program, folder = arguments()
    if not (folder / "test.jsonl").exists():
        pools(folder)
    data = {"data.train": folder / "pool.jsonl", "data.validation": folder / "test.jsonl"}
    rates = command(program, "probe", VARIANCE, *flags(data), "--rollouts", 32, "--output", folder / "rates.jsonl", output=folder / "rates.jsonl")
    items = {item["id"]: item for item in map(json.loads, open(folder / "pool.jsonl"))}
    known = [(r["k"], r["id"]) for r in map(json.loads, open(rates)) if "outcomes" in r]
    hard = sorted((k, i) for k, i in known if 1 <= k <= 4)
    easy = sorted(((k, i) for k, i in known if 28 <= k <= 31), reverse=True)
    middle = sorted((abs(k - 16), i) for k, i in known)
    print(f"{len(known)} problems: {len(hard)} hard, {len(easy)} easy; rates of 0 {sum(k == 0 for k, _ in known)}, of 1 {sum(k == 32 for k, _ in known)}")
    base = {**data, "run.steps": 40, "run.log_samples": 128}
    arms = {}
    for n in (2, 8):
        size = {"prompts.shuffle.per_step": n, "budget.rollouts.uniform.mean": 128 // n}

        def chosen(seed, name, parts, size=size):
            """The s-th block of each ranking, as a file of its own."""
            path = folder / f"{name}-{seed}.jsonl"
            write(path, [items[i] for ranked, width in parts for _, i in (ranked * width * len(SEEDS))[seed * width : (seed + 1) * width]])
            return {**base, **size, "data.train": path}

        for name, parts in ((f"pair-{n}", [(hard, n // 2), (easy, n // 2)]), (f"variance-{n}", [(middle, n)])):
            arms[name] = (VARIANCE, lambda seed, name=name, parts=parts, chosen=chosen: chosen(seed, name, parts))
    whole = {"budget.rollouts.uniform.mean": 16, "data.probe": rates}
    arms |= {
        "pairing": (PAIRING, {**base, **whole, "prompts.pairing.pairs": 4, "prompts.pairing.fallback": "midrange", "prompts.pairing.promote_at": 0.5}),
        "dynamic": (VARIANCE, {**base, "budget.rollouts.uniform.mean": 16, "prompts.dynamic.per_step": 8}),
    }
    runs = sweep(program, folder, arms)
    used = lambda run: float(len({json.loads(line)["id"] for file in (run / "rollouts").iterdir() for line in open(file)}))
    figures = {
        "held-out accuracy": lambda run: benchmark(run)["accuracy"],
        "prompts trained on": used,
        "gain a prompt": lambda run: (benchmark(run)["accuracy"] - results(run, base=True)["accuracy"]["value"]) / used(run),
        "pass@4": lambda run: next(a["estimate"]["value"] for a in results(run)["pass"] if a["k"] == 4),
        "accuracy of rollouts, last 10": lambda run: mean(series(run, "reward/accuracy")[-10:]),
        "entropy, last 10": lambda run: mean(series(run, "rollout/entropy")[-10:]),
    }
    print("\n" + table(runs, figures, ["variance-2", "variance-8", "dynamic"]))

    probe = {**data, "data.probe": rates, "run.steps": 3, "run.log_samples": 256, "eval.benchmarks": "[]", "prompts.pairing.pairs": 8,
             "budget.rollouts.uniform.mean": 16}
    final = {}
    for mode, lambda_neg in (("signed_group", 1), ("signed_group", 2), ("signed_group", 4), ("group_then_weight", 1), ("group_then_weight", 2), ("signed_none", 2)):
        run = train(program, folder, f"{mode}-{lambda_neg}", PAIRING, {**probe, "advantage.pairing.mode": mode, "advantage.pairing.lambda_neg": lambda_neg})
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
    bars = Panel("held-out accuracy after 40 steps", "", "share right")
    bars.ticks = list(enumerate(runs))
    for at, (arm, of) in enumerate(runs.items()):
        bars.bars(arm, at, *interval([benchmark(run)["accuracy"] for run in of.values()]))
    before = [results(run, base=True)["accuracy"]["value"] for run in runs["pairing"].values()]
    bars.level(mean(before), "before training")
    figure("pairing", [shares, bars], width=400)


if __name__ == "__main__":
    main()
