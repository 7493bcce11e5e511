"""ResRL against GRPO, NSR and its own shuffled weights: pass@1 and pass@k.

python3 benches/reproductions/resrl.py PROGRAM FOLDER

Answers have 26 tokens at most, which is too few for most of the manner that is most often right.
`nsr` is `min_weight = 1` with positives weighted 0.1, `grpo` both at 1, `shuffled` deals ResRL's weights to a prompt's wrong tokens at random.
"""

from reproduction import Panel, arguments, band, figure, mean, pass_curve, passing, series, smooth, sweep, table

CONFIG = "configs/quickstart.toml"
BASE = {
    "run.steps": 80,
    "prompts.shuffle.per_step": 8,
    "budget.rollouts.uniform.mean": 16,
    "budget.tokens.fixed.limit": 26,
    "data.validation": 150,
    "eval.limit": 26,
    "eval.samples": 32,
    "optim.schedule": "constant",
    "optim.learning_rate": 1e-4,
    "train.online.minibatches": 2,
    "objective.grpo.dual_clip": 3.0,
    "credit.resrl.rank": 8,
    "credit.resrl.min_positive_tokens": 16,
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
        "weight of wrong tokens": lambda run: mean(series(run, "credit/weight")),
        "groups with a subspace, of 8": lambda run: mean(series(run, "credit/groups_used")),
    }
    for arm, against in (("nsr", "grpo"), ("resrl", "grpo"), ("resrl", "nsr"), ("resrl", "shuffled")):
        print("\n" + table({name: runs[name] for name in (arm, against)}, figures, against))
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
