"""Pairs that cover a part of the answers: the implicit reward against the true one as training goes on.

python3 benches/reproductions/coverage.py PROGRAM FOLDER

The policy answers sums in three manners: every step written out, results of steps only, the sum alone. `whole` pairs are any of its own right and wrong
answers (pairs.py); in `alike` pairs both answers are of one manner, so that nothing is said of the manners against each other, nor of the sum alone. All are
rightly labelled. The true reward is the accuracy of sampled answers to held-out sums; the implicit one is the margin of held-out pairs of the
kind that was trained on, 0.1 times the change of log-odds since the start for every method. Learning rates stay constant.
"""

import functools

import pairs as pool_of
from noise import CONFIG, DPO, POWER_DL, POWER_DL_SUM, text
from reproduction import Panel, arguments, figure, interval, rows, sweep, table

PAIRS, EPOCHS, EVERY = 240, 12, 36
BASE = {"train.offline.epochs": EPOCHS, "train.offline.batch_size": 16, "eval.every": EVERY, "eval.problems": 400, "optim.schedule": "constant"}
KINDS = ("whole", "alike")
METHODS = {"dpo": DPO, "power-dl": POWER_DL, "power-dl-sum": POWER_DL_SUM}


def margins(run):
    """[(step, implicit margin of held-out pairs, log-prob of the chosen answers)] where they were measured."""
    return [(row["step"], row["eval/reward_margin"], row["eval/logp_chosen"]) for row in rows(run) if "eval/reward_margin" in row]


def manners(run):
    """Shares of verbose, terse and direct answers, of others, and of those right, among the final samples."""
    samples = pool_of.read(next((run / "report").glob("samples_generated*sums.jsonl")))
    names = [pool_of.manner(sample["text"]) if sample["finish"] == "stop" else "unfinished" for sample in samples]
    return {name: names.count(name) / len(names) for name in ("verbose", "terse", "direct", "other", "unfinished")}


def main():
    program, folder = arguments()
    pool = functools.cache(lambda: pool_of.pool(program, folder.parent / "noise" / "pool"))
    every = {}
    for kind in KINDS:
        held_out = folder / f"held-out-{kind}.jsonl"
        if not held_out.exists():
            is_alike = kind == "alike"
            everything = len(pool_of.mixed(pool()["held-out"], is_alike))
            pool_of.write(held_out, pool_of.labelled(pool_of.drawn(pool()["held-out"], everything, 0, is_alike), 0.0))
        for method, settings in METHODS.items():

            def of(seed, kind=kind, settings=settings, held_out=held_out):
                path = folder / "data" / f"{kind}-{seed}.jsonl"
                path.parent.mkdir(exist_ok=True)
                if not path.exists():
                    pool_of.write(path, pool_of.labelled(pool_of.drawn(pool()["train"], PAIRS, 100 + seed, kind == "alike"), 0.0))
                return {**BASE, **settings, "data.train": path, "data.validation": held_out}

            every[f"{method}-{kind}"] = (CONFIG, of)
    runs = sweep(program, folder, every, keep=True)
    figures = {
        "accuracy at the start": lambda run: pool_of.accuracy(run)[0][1],
        "best": lambda run: max(value for _, value in pool_of.accuracy(run)),
        "at the end": lambda run: pool_of.accuracy(run)[-1][1],
        "end - best": lambda run: pool_of.accuracy(run)[-1][1] - max(value for _, value in pool_of.accuracy(run)),
        "end - start": lambda run: pool_of.accuracy(run)[-1][1] - pool_of.accuracy(run)[0][1],
        "margin after the first test": lambda run: margins(run)[0][1],
        "margin at the end": lambda run: margins(run)[-1][1],
        "chosen logp, end - first test": lambda run: margins(run)[-1][2] - margins(run)[0][2],
    }
    for kind in KINDS:
        print("\n" + table({f"{m}-{kind}": runs[f"{m}-{kind}"] for m in METHODS}, figures, f"dpo-{kind}"))
    print("\n| | verbose | terse | direct | other | unfinished |\n| --- | --- | --- | --- | --- | --- |")
    for name, of in runs.items():
        shares = [manners(run) for run in of.values()]
        print(f"| {name} | " + " | ".join(text([share[key] for share in shares]) for key in shares[0]) + " |")
    true = Panel("true reward", "step", "accuracy of sampled answers, held out")
    implicit = Panel("implicit reward of held-out pairs", "step", "margin (0.1 x change of log-odds)")
    for name, of in runs.items():
        curves = [pool_of.accuracy(run) for run in of.values()]
        true.line(name, [(points[0][0], *interval([value for _, value in points])) for points in zip(*curves)])
        curves = [margins(run) for run in of.values()]
        implicit.line(name, [(0, 0.0, 0.0)] + [(points[0][0], *interval([point[1] for point in points])) for points in zip(*curves)])
    figure("coverage", [true, implicit])


if __name__ == "__main__":
    main()
