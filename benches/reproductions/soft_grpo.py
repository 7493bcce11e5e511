"""SofT-GRPO against discrete GRPO on a checkpoint that thinks before it answers: pass@1 and pass@32.

python3 benches/reproductions/soft_grpo.py PROGRAM FOLDER

Both from the thinking checkpoint of thinker.py, trained on sums of 4 to 7 terms, tested on 6 and 7, with top-k 5 and top-p 0.95, two updates a rollout batch, dual clip 3 and a KL of 0.001, tested as
they were trained; tau 0.1 as in the spec, and 0.5, where steps are mixtures. `grpo` is tested by soft thinking too.
"""

from reproduction import Panel, arguments, band, figure, mean, pass_curve, passing, results, series, smooth, sweep, table
from thinker import checkpoint, problems

SOFT, DISCRETE = "benches/reproductions/thinker-soft.toml", "benches/reproductions/thinker.toml"


def main():
    program, folder = arguments()
    base = {
        "model.path": checkpoint(program, folder.parent / "thinker"),
        "model.reference": "{}",
        "data.train": problems(folder / "train.jsonl", False, 4000, (4, 7)),
        "data.validation": problems(folder / "test.jsonl", True, 400, (6, 7)),
        "train.online.minibatches": 2,
        "eval.problems": 100,
        "eval.samples": 32,
    }
    grpo = {"objective.grpo.beta": 0.001, "objective.grpo.dual_clip": 3.0, "rollout.discrete.top_k": 5, "rollout.discrete.top_p": 0.95,
            "eval.top_k": 5, "eval.top_p": 0.95}
    arms = {
        "grpo": (DISCRETE, {**base, **grpo}),
        "soft": (SOFT, base),
        "soft-0.5": (SOFT, {**base, "rollout.soft.tau": 0.5}),
    }
    runs = sweep(program, folder, arms)
    figures = {
        "pass@1": passing(1),
        "pass@32": passing(32),
        "pass@1 of the base": passing(1, base=True),
        "pass@32 of the base": passing(32, base=True),
        "tokens": lambda run: results(run)["lengths"]["mean"],
        "accuracy of rollouts, last 10": lambda run: mean(series(run, "reward/accuracy")[-10:]),
        "largest weight": lambda run: mean(series(run, "objective/soft_grpo/weight_max")),
        "soft clip fraction": lambda run: mean(series(run, "objective/soft_grpo/soft_clip_fraction")),
        "soft KL, last 10": lambda run: mean(series(run, "objective/soft_grpo/soft_kl")[-10:]),
    }
    print(table(runs, figures, "grpo"))
    curve = Panel("pass@k (dashed: before training)", "k", "share of held-out problems")
    learning = Panel("accuracy of rollouts", "step", "share right")
    for arm, of in runs.items():
        curve.line(arm, pass_curve(of))
        curve.line(arm, pass_curve(of, base=True), dashed=True)
        learning.line(arm, smooth(band(of, "reward/accuracy")))
    curve.ticks = [(at, str(2**at)) for at in range(6)]
    figure("soft_grpo", [curve, learning])


if __name__ == "__main__":
    main()
