"""Curriculum length budgets against a fixed one of the same final length: accuracy, tokens an answer, final mean length.

python3 benches/reproductions/curriculum.py PROGRAM FOLDER

Sums of six terms, from the thinking checkpoint of thinker.py, which has many lengths of reasoning for a problem (17 to 43 tokens) and was told
lengths roughly. The curriculum falls from 44 to 30 tokens in three drops; `fixed` is told 30 from the first step on; `unpaid` is told what the
curriculum tells but not paid for keeping it.
"""

from reproduction import Panel, arguments, band, benchmark, figure, mean, results, series, smooth, sweep, table
from thinker import checkpoint, problems

CONFIG = "benches/reproductions/thinker-curriculum.toml"
LAST = 30


def main():
    program, folder = arguments()
    base = {
        "model.path": checkpoint(program, folder.parent / "thinker"),
        "data.train": problems(folder / "train.jsonl", False, 3000, (6, 6)),
        "data.validation": problems(folder / "test.jsonl", True, 400, (6, 6)),
    }
    arms = {
        "curriculum": (CONFIG, base),
        "fixed": (CONFIG, {**base, "budget.tokens.curriculum.start": LAST}),
        "unpaid": (CONFIG, {**base, "advantage.group.weights": "{ math = 1.0, length = 0.0 }"}),
    }
    runs = sweep(program, folder, arms)
    figures = {
        "held-out accuracy": lambda run: benchmark(run)["accuracy"],
        "held-out tokens": lambda run: benchmark(run)["mean_tokens"],
        "held-out tokens / budget": lambda run: benchmark(run)["mean_tokens"] / LAST,
        "rollouts' tokens / budget, last 40": lambda run: mean(series(run, "budget/tokens/length_ratio")[-40:]),
        "tokens a rollout, whole run": lambda run: mean(series(run, "rollout/tokens_mean")),
        "base accuracy": lambda run: results(run, base=True)["accuracy"]["value"],
        "base tokens": lambda run: results(run, base=True)["lengths"]["mean"],
    }
    print(table(runs, figures, "fixed"))
    length = Panel("tokens a rollout", "step", "tokens")
    right = Panel("accuracy of rollouts", "step", "share right")
    for arm, of in runs.items():
        length.line(arm, smooth(band(of, "rollout/tokens_mean")))
        right.line(arm, smooth(band(of, "reward/accuracy")))
    told = band(runs["curriculum"], "budget/tokens/told")
    length.line("told", told, dashed=True)
    figure("curriculum", [length, right])


if __name__ == "__main__":
    main()
