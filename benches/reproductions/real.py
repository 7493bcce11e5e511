"""REAL against GRPO's and DAPO's clipped losses with 8 updates a rollout batch: accuracy, stability, and the weights of rows.

python3 benches/reproductions/real.py PROGRAM FOLDER

Three learning rates: the quickstart's own, three times it and a quarter of it. The weights are measured on
groups of one right and one wrong rollout, where a score is a row's own: two updates a batch, the first at s = 0 and known, so that the
mean over both that the program reports gives the second's s and weight.
"""

import itertools
import math

from reproduction import Panel, arguments, band, benchmark, figure, mean, rows, series, smooth, sweep, table, train

BASE = {
    "run.steps": 30,
    "prompts.shuffle.per_step": 16,
    "data.validation": 300,
    "train.online.minibatches": 4,
    "train.online.epochs": 2,
    "optim.schedule": "constant",
}
QUICKSTART, REAL = "configs/quickstart.toml", "benches/reproductions/real.toml"
ARMS = {
    "grpo": (QUICKSTART, {"objective.grpo.loss": "grpo"}),
    "dapo": (QUICKSTART, {"objective.grpo.epsilon_high": 0.28}),
    "real": (REAL, {}),
}
RATES = {"5e-5": 5e-5, "2e-4": 2e-4, "6e-4": 6e-4}


def weights(program, folder):
    """[(tau, s, measured weight, closed form)] of right and of wrong rows."""
    found = {"right": [], "wrong": []}
    for tau, rate, seed in itertools.product((0.25, 0.5, 1.0), (1e-4, 5e-4), range(3)):
        settings = {
            "run.steps": 6,
            "run.seed": seed,
            "run.save_every": 0,
            "eval.benchmarks": "[]",
            "budget.rollouts.uniform.mean": 2,
            "train.online.epochs": 2,
            "objective.real.tau": tau,
            "optim.learning_rate": rate,
            "optim.schedule": "constant",
            "optim.warmup_steps": 0,
            "prompts.dynamic.max_draws": 400,
        }
        run = train(program, folder, f"weights-{tau}-{rate}-{seed}", "benches/reproductions/real-weights.toml", settings)
        for row in rows(run):
            for side, sign in (("right", 1), ("wrong", -1)):
                score = 2 * row[f"objective/real/score_{side}"]
                measured = 2 * row[f"objective/real/weight_{side}"] - 1 / (2 * tau)
                found[side].append((tau, score, measured, 1 / tau / (1 + math.exp(sign * score / tau))))
    return found


def main():
    program, folder = arguments()
    found = weights(program, folder)
    for side, points in found.items():
        error = max(abs(m - c) for _, _, m, c in points)
        spread = [s for _, s, _, _ in points]
        print(f"{side} rows: {len(points)} weights at s from {min(spread):.2f} to {max(spread):.2f}, largest |measured - closed form| {error:.1e}, "
              f"largest weight x tau {max(m * t for t, _, m, _ in points):.4f}")
    panel = Panel("gradient weight of a row (points: measured)", "score s, nats a token", "|dL/ds|")
    for tau in (0.25, 0.5, 1.0):
        every = [p for side in found.values() for p in side if p[0] == tau]
        low, high = (f(p[1] for p in every) for f in (min, max))
        for side, sign in (("right", 1), ("wrong", -1)):
            grid = [low + (high - low) * i / 60 for i in range(61)]
            panel.line(f"{side}, tau {tau}", [(s, 1 / tau / (1 + math.exp(sign * s / tau))) for s in grid])
            panel.dots(f"{side}, tau {tau}", [(s, m) for t, s, m, _ in found[side] if t == tau])
    figure("real_weights", [panel], width=420)
    arms = {f"{arm} {rate}": (config, {**BASE, **settings, "optim.learning_rate": value})
            for rate, value in RATES.items() for arm, (config, settings) in ARMS.items()}
    runs = sweep(program, folder, {arm.replace(" ", "-"): what for arm, what in arms.items()})
    figures = {
        "held-out accuracy": lambda run: benchmark(run)["accuracy"],
        "best 5 steps in training": lambda run: max(mean(series(run, "reward/accuracy")[i : i + 5]) for i in range(26)),
        "last 5 steps": lambda run: mean(series(run, "reward/accuracy")[-5:]),
        "entropy, last 5": lambda run: mean(series(run, "rollout/entropy")[-5:]),
        "gradient norm, largest": lambda run: max(series(run, "optim/grad_norm")),
    }
    for rate in RATES:
        of = {arm: run for arm, run in runs.items() if arm.endswith(rate)}
        print(f"\nlearning rate {rate}\n\n" + table(of, figures, [f"grpo-{rate}", f"dapo-{rate}"]))
    for arm in runs:
        if arm.startswith("real"):
            print(f"\n{arm}: largest weight {max(max(series(r, 'objective/real/weight_max')) for r in runs[arm].values()):.3f} (bound 2)")
    panels = []
    for rate in RATES:
        panel = Panel(f"accuracy of rollouts, learning rate {rate}", "step (8 updates each)", "share right")
        for arm in ARMS:
            panel.line(arm, smooth(band(runs[f"{arm}-{rate}"], "reward/accuracy")))
        panels.append(panel)
    figure("real", panels)


if __name__ == "__main__":
    main()
