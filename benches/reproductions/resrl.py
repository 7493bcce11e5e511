"""ResRL against GRPO, NSR and its own shuffled weights: pass@1 and pass@k.

python3 benches/reproductions/resrl.py PROGRAM FOLDER

`nsr` is `min_weight = 1` with positives weighted 0.1, `grpo` both at 1, `shuffled` deals ResRL's weights to a prompt's wrong tokens at random.
"""

from reproduction import Panel, arguments, band, figure, mean, pass_curve, passing, series, smooth, sweep, table

CONFIG = "configs/quickstart.toml"
BASE = {
    "run.steps": 40,
    "prompts.shuffle.per_step": 16,
    "data.validation": 150,
    "eval.samples": 32,
    "train.online.minibatches": 2,
    "objective.grpo.dual_clip": 3.0,
    "optim.schedule": "constant",
    "credit.resrl.rank": 16,
    "credit.resrl.min_positive_tokens": 32,
}
ARMS = {
    "grpo": {"credit.resrl.min_weight": 1.0, "credit.resrl.positive_scale": 1.0},
    "nsr": {"credit.resrl.min_weight": 1.0},
    "resrl": {},
    "shuffled": {"credit.resrl.shuffled": "true"},
}


def main():
    program, folder = arguments()
    runs = sweep(program, folder, {arm: (CONFIG, {**BASE, **settings}) for arm, settings in ARMS.items()})
    figures = {
        "pass@1": passing(1),
        "pass@8": passing(8),
        "pass@32": passing(32),
        "accuracy of rollouts, last 10": lambda run: mean(series(run, "reward/accuracy")[-10:]),
        "entropy, last 10": lambda run: mean(series(run, "rollout/entropy")[-10:]),
        "residual wrong/right": lambda run: mean(series(run, "credit/residual_ratio")),
        "mean weight": lambda run: mean(series(run, "credit/weight_mean")),
    }
    print(table(runs, figures, ["grpo", "nsr", "shuffled"]))
    curve = Panel("pass@k at the end", "k (doubling)", "share of held-out problems")
    for arm, of in runs.items():
        curve.line(arm, pass_curve(of))
    curve.line("base", pass_curve(runs["grpo"], base=True), dashed=True)
    curve.ticks = [(at, str(2**at)) for at in range(6)]
    learning = Panel("accuracy of rollouts", "step", "share right")
    entropy = Panel("entropy", "step", "nats a token")
    for arm, of in runs.items():
        learning.line(arm, smooth(band(of, "reward/accuracy")))
        entropy.line(arm, smooth(band(of, "rollout/entropy")))
    figure("resrl", [curve, learning, entropy])


if __name__ == "__main__":
    main()
