"""Knapsack budgets against a uniform one at equal rollouts: effective-gradient ratio and held-out accuracy.

python3 benches/reproductions/knapsack.py PROGRAM FOLDER

The pool: 240 sums of 2 to 12 terms under 40 new tokens, whose rates a probe with 32 rollouts measures first; those of many terms cannot be
finished at first. `frozen` arms do not learn, so that the rates stay what they were stated to be and the budget alone is compared.
"""

import json

from reproduction import Panel, arguments, band, benchmark, command, figure, flags, mean, rows, series, smooth, sweep, table

CONFIG = "configs/quickstart.toml"
POOL = {"data.generated.count": 240, "data.generated.max_terms": 12, "budget.tokens.fixed.limit": 40}
BASE = {
    **POOL,
    "run.steps": 40,
    "prompts.shuffle.per_step": 24,
    "data.validation": 400,
    "eval.samples": 2,
    "advantage.group.clip": 5.0,
    "advantage.group.eps": 1e-6,
}
FROZEN = {"run.steps": 10, "optim.learning_rate": 1e-12, "optim.schedule": "constant", "eval.benchmarks": "[]"}


def main():
    program, folder = arguments()
    rates = command(program, "probe", CONFIG, *flags(POOL), "--rollouts", 32, "--output", folder / "rates.jsonl", output=folder / "rates.jsonl")
    known = [json.loads(line) for line in open(rates)]
    p = [k["k"] / k["n"] for k in known if "outcomes" in k]
    shares = {"0": sum(x == 0 for x in p), "to 1/8": sum(0 < x <= 0.125 for x in p), "to 7/8": sum(0.125 < x < 0.875 for x in p),
              "below 1": sum(0.875 <= x < 1 for x in p), "1": sum(x == 1 for x in p)}
    print("problems by measured rate:", shares)
    print(f"mixed groups of 8 that these rates predict: {sum(1 - x**8 - (1 - x) ** 8 for x in p) / len(p):.3f}")
    knapsack = {"budget.rollouts.knapsack.mean": 8, "data.probe": rates}
    arms = {
        "uniform": {},
        "knapsack": knapsack,
        "no-fallback": {**knapsack, "budget.rollouts.knapsack.fallback": "false"},
    }
    every = {arm: (CONFIG, {**BASE, **settings}) for arm, settings in arms.items()}
    every |= {f"{arm}-frozen": (CONFIG, {**BASE, **settings, **FROZEN}) for arm, settings in arms.items()}
    runs = sweep(program, folder, every)
    common = {
        "effective-gradient ratio": lambda run: mean(series(run, "rollout/effective_gradient_ratio")),
        "mixed groups": lambda run: mean(series(run, "rollout/mixed_groups")),
        "rollouts a step": lambda run: mean(row["rollout/tokens"] / row["rollout/tokens_mean"] for row in rows(run)),
    }
    print("\n" + table({a: r for a, r in runs.items() if a.endswith("frozen")}, common, "uniform-frozen"))
    learning = {a: r for a, r in runs.items() if not a.endswith("frozen")}
    more = {
        "ratio, last 10 steps": lambda run: mean(series(run, "rollout/effective_gradient_ratio")[-10:]),
        "held-out accuracy": lambda run: benchmark(run)["accuracy"],
        "accuracy of rollouts": lambda run: mean(series(run, "reward/accuracy")[-10:]),
        "tokens a rollout": lambda run: mean(series(run, "rollout/tokens_mean")),
    }
    print("\n" + table(learning, {**common, **more}, "uniform"))
    ratio = Panel("effective-gradient ratio", "step", "share of rollouts with an advantage")
    mixed = Panel("groups with both outcomes", "step", "share")
    for arm, of in learning.items():
        ratio.line(arm, smooth(band(of, "rollout/effective_gradient_ratio")))
        mixed.line(arm, smooth(band(of, "rollout/mixed_groups")))
    figure("knapsack", [ratio, mixed])


if __name__ == "__main__":
    main()
