"""Prompts chosen as pairs of a rarely solved and a rarely failed one, against those of greatest variance: accuracy a prompt used.

python3 benches/reproductions/pairing.py PROGRAM FOLDER

The start is the thinking checkpoint of thinker.py, which solves sums of 2 terms nearly always and those of 8 to 10 seldom. A probe measures 400 sums of
2 to 10 terms with 32 rollouts. `pair-N` trains on N prompts, half from the hard band (1 to 4 right of 32) and half from the easy one (28 to
31), `variance-N` on the N whose rates are nearest to 1/2; seed s takes the s-th block of each ranking. Both are plain GRPO, which is what
`signed_group` amounts to. `pairing` is the program's own [prompts.pairing] over the whole pool, `dynamic` the refusal of groups without
variance over the same pool. Tested on 4 to 8 terms. All have 8 x 16 rollouts a step (2 x 64 for N = 2). The weights of single
rollouts and what lambda_neg does: pairing_weights.py.
"""

import json

from reproduction import SEEDS, Panel, arguments, benchmark, command, figure, flags, interval, mean, results, series, sweep, table
from thinker import checkpoint, problems, write

PAIRING, VARIANCE = "benches/reproductions/pairing.toml", "benches/reproductions/variance.toml"


def main():
    program, folder = arguments()
    data = {
        "model.path": checkpoint(program, folder.parent / "thinker"),
        "data.train": problems(folder / "pool.jsonl", False, 400, (2, 10)),
        "data.validation": problems(folder / "test.jsonl", True, 300, (4, 8)),
    }
    rates = command(program, "probe", VARIANCE, *flags(data), "--rollouts", 32, "--output", folder / "rates.jsonl", output=folder / "rates.jsonl")
    items = {item["id"]: item for item in map(json.loads, open(folder / "pool.jsonl"))}
    known = [(r["k"], r["id"]) for r in map(json.loads, open(rates)) if "outcomes" in r]
    hard = sorted((k, i) for k, i in known if 1 <= k <= 4)
    easy = sorted(((k, i) for k, i in known if 28 <= k <= 31), reverse=True)
    middle = sorted((abs(k - 16), i) for k, i in known)
    print(f"{len(known)} problems: {len(hard)} hard, {len(easy)} easy; rates of 0 {sum(k == 0 for k, _ in known)}, of 1 {sum(k == 32 for k, _ in known)}")
    base = {**data, "run.steps": 30, "eval.samples": 2, "run.log_samples": 128}
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
        "gain, points a prompt": lambda run: 100 * (benchmark(run)["accuracy"] - results(run, base=True)["accuracy"]["value"]) / used(run),
        "accuracy of rollouts, last 10": lambda run: mean(series(run, "reward/accuracy")[-10:]),
        "entropy, last 10": lambda run: mean(series(run, "rollout/entropy")[-10:]),
    }
    for arm, against in (("pair-2", "variance-2"), ("pair-8", "variance-8"), ("pairing", "dynamic")):
        print("\n" + table({name: runs[name] for name in (arm, against)}, figures, against))
    bars = Panel("held-out accuracy after 30 steps", "", "share right")
    bars.ticks = list(enumerate(runs))
    for at, (arm, of) in enumerate(runs.items()):
        bars.bars(arm, at, *interval([benchmark(run)["accuracy"] for run in of.values()]))
    first = [results(run, base=True)["accuracy"]["value"] for run in runs["pairing"].values()]
    bars.level(mean(first), "before training")
    figure("pairing", [bars], width=500)


if __name__ == "__main__":
    main()
