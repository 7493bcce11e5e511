"""Curriculum length budgets against a fixed one of the same final length: accuracy, tokens an answer, final mean length.

python3 benches/reproductions/curriculum.py PROGRAM FOLDER

From the thinking checkpoint of thinker.py, which has many lengths of reasoning for a problem and was told lengths roughly. The curriculum falls
from 44 to 24 tokens in three drops; `fixed` is told 24 from the first step on; `unpaid` is told 24 but not paid for keeping it.
"""

from reproduction import Panel, arguments, band, benchmark, figure, mean, results, series, smooth, sweep, table
from thinker import checkpoint

CONFIG = "benches/reproductions/thinker-curriculum.toml"
LAST = 24


def main():
    program, folder = arguments()
    data = folder.parent / "thinker"
    base = {
        "model.path": checkpoint(program, data),
        "data.train": data / "train.jsonl",
        "data.validation": data / "test.jsonl",
        "run.steps": 60,
    }
    fixed = {"budget.tokens.curriculum.start": LAST}
    arms = {
        "curriculum": (CONFIG, base),
        "fixed": (CONFIG, {**base, **fixed}),
        "unpaid": (CONFIG, {**base, **fixed, "advantage.group.weights": "{ math = 0.6, length = 0.0 }"}),
    }
    runs = sweep(program, folder, arms)
    figures = {
        "held-out accuracy": lambda run: benchmark(run)["accuracy"],
        "held-out tokens": lambda run: benchmark(run)["mean_tokens"],
        "held-out tokens / budget": lambda run: benchmark(run)["mean_tokens"] / LAST,
        "rollouts' tokens / budget, last 10": lambda run: mean(series(run, "budget/tokens/length_ratio")[-10:]),
        "tokens a rollout, whole run": lambda run: mean(series(run, "rollout/tokens_mean")),
        "base accuracy at 24": lambda run: results(run, base=True)["accuracy"]["value"],
        "base tokens at 24": lambda run: results(run, base=True)["lengths"]["mean"],
    }
    print(table(runs, figures, "fixed"))
    length = Panel("tokens a rollout", "step", "tokens")
    right = Panel("accuracy of rollouts", "step", "share right")
    for arm, of in runs.items():
        length.line(arm, smooth(band(of, "rollout/tokens_mean"), 3))
        right.line(arm, smooth(band(of, "reward/accuracy")))
    told = band(runs["curriculum"], "budget/tokens/told")
    length.line("told", told, dashed=True)
    figure("curriculum", [length, right])


if __name__ == "__main__":
    main()
