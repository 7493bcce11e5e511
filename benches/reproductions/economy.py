"""Gradient-step economy of ADPO and of on-policy distillation against GRPO, with one and with several updates a rollout batch.

python3 benches/reproductions/economy.py PROGRAM FOLDER

The teacher is the checkpoint after 100 steps of GRPO (seed 100). `-4` is four updates a rollout batch, two passes of two mini-batches, `-4-slow` the same at a
quarter of the learning rate. Steps are rollout batches of 16 x 8; what counts is the accuracy of rollouts after a number of optimiser steps, and of rollout batches.
"""

from reproduction import Panel, arguments, band, benchmark, figure, mean, series, smooth, sweep, table, train

QUICKSTART, ADPO, DISTILL = (f"{f}.toml" for f in ("configs/quickstart", "benches/reproductions/adpo", "benches/reproductions/distill"))
BASE = {"run.steps": 40, "prompts.shuffle.per_step": 16, "data.validation": 400, "eval.samples": 2, "optim.schedule": "constant"}
FOUR = {"train.online.epochs": 2, "train.online.minibatches": 2}
SLOW = {"optim.learning_rate": 5e-5}
BAR = 0.75


def until(run, updates, bar=BAR):
    """Updates until the mean accuracy of 5 successive rollout batches reaches the bar; all and one more where it never does."""
    found = series(run, "reward/accuracy")
    for at in range(4, len(found)):
        if mean(found[at - 4 : at + 1]) >= bar:
            return float((at + 1) * updates)
    return float((len(found) + 1) * updates)


def main():
    program, folder = arguments()
    teacher = train(program, folder, "teacher", QUICKSTART, {"run.steps": 100, "run.seed": 100, "data.validation": 400})
    distil = {"model.reference.path": teacher / "checkpoints" / "100"}
    arms = {
        "grpo-1": (QUICKSTART, BASE),
        "grpo-4": (QUICKSTART, {**BASE, **FOUR}),
        "adpo-1": (ADPO, BASE),
        "adpo-4": (ADPO, {**BASE, **FOUR}),
        "distill-1": (DISTILL, {**BASE, **distil}),
        "distill-4": (DISTILL, {**BASE, **distil, **FOUR}),
    }
    arms |= {f"{arm}-slow": (arms[arm][0], {**arms[arm][1], **SLOW}) for arm in ("grpo-4", "adpo-4", "distill-4")}
    runs = sweep(program, folder, arms)
    print(f"teacher: {benchmark(teacher)['accuracy']:.3f} held out")
    figures = {
        "held-out accuracy": lambda run: benchmark(run)["accuracy"],
        f"updates to {BAR}": lambda run: until(run, int(run.name.split("-")[1])),
        f"rollout batches to {BAR}": lambda run: until(run, 1),
        "accuracy of rollouts, last 10": lambda run: mean(series(run, "reward/accuracy")[-10:]),
        "entropy, last 10": lambda run: mean(series(run, "rollout/entropy")[-10:]),
    }
    for base in ("grpo-1", "grpo-4", "grpo-4-slow"):
        print("\n" + table({arm: of for arm, of in runs.items() if arm.split("-", 1)[1] == base.split("-", 1)[1]}, figures, base))
    updates = Panel("accuracy of rollouts by optimiser steps", "optimiser steps", "share right")
    batches = Panel("by rollout batches", "rollout batches of 128", "share right")
    for arm, of in runs.items():
        points, each = smooth(band(of, "reward/accuracy")), int(arm.split("-")[1])
        updates.line(arm, [(p[0] * each, *p[1:]) for p in points if p[0] * each <= 80])
        batches.line(arm, points)
    figure("economy", [updates, batches])


if __name__ == "__main__":
    main()
