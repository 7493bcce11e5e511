"""Preferences under label noise: POWER-DL and ADPO against DPO, labels that move, and ranking accuracy against its idealised value.

python3 benches/reproductions/noise.py PROGRAM FOLDER

Pairs are the checkpoint's own right and wrong answers (pairs.py); 0, 20 and 40 % of raters' words are wrong. What is measured, held-out accuracy of sampled
answers and the ranking of held-out pairs, knows the truth. Arms on one rater's word: `dpo`; `power-dl`; `power-dl-sum` with weights 1 instead of 1/length,
and `power-sum`, whose labels stay (gamma = 0); `adpo`, which is told the rate of errors (label 1 - rate). Arms on five raters: `dpo-five` takes their
majority, `adpo-five` their share as a soft label. Learning rates and eta were chosen on another seed, on clean labels.
"""

import functools
import json
import math
import sys

import pairs as pool_of
from reproduction import Panel, arguments, figure, interval, mean, sweep, table

CONFIG = "benches/reproductions/preference.toml"
RATES = (0.0, 0.2, 0.4)
PAIRS, EPOCHS = 272, 6
BASE = {"train.offline.epochs": EPOCHS, "train.offline.batch_size": 16, "eval.problems": 400}
BETA = 0.1
DPO = {"model.reference": "{}", "objective.dpo.beta": BETA, "optim.learning_rate": 3e-5}
ADPO = {"model.reference": "{}", "objective.adpo": "{ anchor = 'reference', tau = 10.0 }", "optim.learning_rate": 3e-5}
# Weights 1/length as the method has them, and 1: the log-probs of whole answers, on DPO's scale. eta by its rule: the imitation term near ln 2 / 10.
POWER_DL = {"objective.power_dl": "{ beta = 2.0, eta = 0.3, gamma = 0.2 }", "optim.learning_rate": 1e-4}
SUM = "{{ beta = 0.1, eta = 0.2, gamma = {}, weights = 'uniform' }}"
POWER_DL_SUM = {"objective.power_dl": SUM.format(0.2), "optim.learning_rate": 3e-5}
POWER_SUM = {"objective.power_dl": SUM.format(0.0), "optim.learning_rate": 3e-5}
# For the idealised ranking: more of the reference is kept as beta grows.
BETAS = (0.1, 1.0, 5.0)


def tag(rate):
    return f"{100 * rate:.0f}"


def methods(rate):
    """{arm: (settings, how labels are made, constant label)} at a rate of errors."""
    arms = {"dpo": (DPO, "one", None), "power-dl": (POWER_DL, "one", None), "power-dl-sum": (POWER_DL_SUM, "one", None), "power-sum": (POWER_SUM, "one", None)}
    if rate:
        arms |= {"adpo": (ADPO, "one", 1 - rate), "dpo-five": (DPO, "majority", None), "adpo-five": (ADPO, "share", None)}
    return arms


def arm(folder, pool, held_out, settings, rate, how, label):
    """Config and settings of an arm as a function of the seed; the seed's pairs are written."""

    def of(seed):
        path = folder / "data" / f"{how}-{label}-{rate}-{seed}.jsonl"
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            pool_of.write(path, pool_of.labelled(pool_of.drawn(pool()["train"], PAIRS, 100 + seed), rate, how, label))
        return {**BASE, **settings, "data.train": path, "data.validation": held_out}

    return CONFIG, of


def final(metric):
    """A metric of the held-out pairs after training."""
    return lambda run: preference(run)["after"][metric]


def preference(run):
    return json.load(open(run / "report" / "preference.json"))


def labels(run, data):
    """[(final label, whether the pair was flipped)]."""
    rows = pool_of.read(data)
    found = {pair: label for pair, label, _ in pool_of.state(run)["stages"]["objective"]["labels"]}
    if len(found) != len(rows):
        sys.exit(f"{run}: {len(found)} labels for {len(rows)} pairs")
    return [(found[at], row["flipped"]) for at, row in enumerate(rows)]


def separation(found):
    """Probability that a flipped pair has the lower label of two, one of each kind."""
    flipped, rest = ([label for label, is_flipped in found if is_flipped == kind] for kind in (True, False))
    both = sorted([(label, 0) for label in flipped] + [(label, 1) for label in rest])
    below = wins = 0
    for _, kind in both:
        below += kind == 0
        wins += below if kind else 0
    return wins / (len(flipped) * len(rest))


def ranking(run, rate, beta):
    """Ranking accuracy of held-out pairs under the start, the policy and a perfectly trained one, and whether the loss tells which are right."""
    rows = pool_of.read(run / "report" / "pairs.jsonl")
    share = lambda is_so: sum(map(is_so, rows)) / len(rows)
    a = min(max(1 - rate, 1e-3), 1 - 1e-3)
    odds = math.log(a / (1 - a)) / beta
    difficulty = lambda row: row["reference_rejected"] - row["reference_chosen"]
    margin = lambda row: row["chosen"] - row["rejected"] + difficulty(row)
    soft = lambda x: max(x, 0) + math.log1p(math.exp(-abs(x)))
    return {
        "start": share(lambda r: r["reference_chosen"] >= r["reference_rejected"]),
        "policy": share(lambda r: r["chosen"] >= r["rejected"]),
        "idealised": share(lambda r: -difficulty(r) + odds > 0),
        "reward accuracy": share(lambda r: margin(r) > 0),
        "exceptions": sum((soft(-beta * margin(r)) <= soft(-beta * difficulty(r)) * (1 + 1e-12)) != (r["chosen"] >= r["rejected"]) for r in rows),
        "points": [(difficulty(r), soft(-beta * margin(r)), r["chosen"] >= r["rejected"]) for r in rows],
    }


def main():
    program, folder = arguments()
    pool = functools.cache(lambda: pool_of.pool(program, folder / "pool"))
    held_out = folder / "held-out-pairs.jsonl"
    if not held_out.exists():
        side = pool()["held-out"]
        pool_of.write(held_out, pool_of.labelled(pool_of.drawn(side, len(pool_of.mixed(side)), 0), 0.0))
    every = {}
    for rate in RATES:
        for name, settings in methods(rate).items():
            every[f"{name}-{tag(rate)}"] = arm(folder, pool, held_out, settings[0], rate, *settings[1:])
    for beta in BETAS[1:]:
        every[f"dpo-20-beta-{beta:g}"] = arm(folder, pool, held_out, {**DPO, "objective.dpo.beta": beta}, 0.2, "one", None)
    runs = sweep(program, folder, every, keep=True)
    report(folder, runs)


def report(folder, runs):
    figures = {
        "held-out accuracy": lambda run: pool_of.accuracy(run)[-1][1],
        "ranking accuracy": final("ranking_accuracy"),
        "a token": final("ranking_accuracy_normalised"),
        "reward accuracy": final("reward_accuracy"),
        "change of chosen logp": lambda run: preference(run)["after"]["logp_chosen"] - preference(run)["before"]["logp_chosen"],
    }
    start = next(iter(runs["dpo-0"].values()))
    print(f"start: ranking accuracy {preference(start)['after']['reference_accuracy']:.3f}, "
          f"held-out accuracy {interval([pool_of.accuracy(run)[0][1] for run in runs['dpo-0'].values()])}")
    for rate in RATES:
        end = "-" + tag(rate)
        of = {name: run for name, run in runs.items() if name.endswith(end) and "beta" not in name}
        pick = lambda *arms: {arm + end: of[arm + end] for arm in arms if arm + end in of}
        print(f"\n{rate:.0%} wrong labels\n\n" + table(pick("dpo", "power-dl", "power-dl-sum", "power-sum", "adpo"), figures, "dpo" + end))
        print("\nlabels that move\n\n" + table(pick("power-sum", "power-dl-sum"), figures, "power-sum" + end))
        if rate:
            print("\nfive raters\n\n" + table(pick("dpo-five", "adpo-five"), figures, "dpo-five" + end))

    # a. and c. Accuracy and ranking by the rate of errors.
    for name, arms in (("noise", ["dpo", "power-dl", "power-dl-sum", "power-sum"]), ("adpo_noise", ["dpo", "adpo", "dpo-five", "adpo-five"])):
        panels = []
        for title, value in (("accuracy of sampled answers, held out", figures["held-out accuracy"]), ("held-out pairs ranked rightly", figures["ranking accuracy"])):
            panel = Panel(title, "share of a rater's words that are wrong", "share")
            for method in arms:
                at = [(rate, runs.get(f"{method}-{tag(rate)}", runs["dpo-0"])) for rate in RATES]
                panel.line(method, [(rate, *interval([value(run) for run in of.values()])) for rate, of in at])
            panels.append(panel)
        figure(name, panels)

    # d. Labels.
    panels = []
    for rate, method in ((rate, method) for method in ("power-dl", "power-dl-sum") for rate in RATES[1:]):
        of = runs[f"{method}-{tag(rate)}"]
        every = {seed: labels(run, folder / "data" / f"one-None-{rate}-{seed}.jsonl") for seed, run in of.items()}
        kinds = {"flipped": True, "right": False}
        level = {name: [mean(label for label, is_flipped in found if is_flipped == kind) for found in every.values()] for name, kind in kinds.items()}
        low = {name: [mean(float(label < 0.5) for label, is_flipped in found if is_flipped == kind) for found in every.values()] for name, kind in kinds.items()}
        print(f"\n{method}, {rate:.0%} wrong: " + "; ".join(
            f"{name} pairs: mean label {text(level[name])}, below one half {text(low[name])}" for name in kinds)
            + f"; difference {text([b - a for a, b in zip(level['flipped'], level['right'])])}"
            + f"; a flipped pair is the lower of two in {text([separation(found) for found in every.values()])}")
        panel = Panel(f"{method}: labels after {EPOCHS} visits, {rate:.0%} wrong", "label", "share of pairs at or below")
        for name, kind in kinds.items():
            values = sorted(label for found in every.values() for label, is_flipped in found if is_flipped == kind)
            panel.line(name, [(values[int(q * (len(values) - 1) / 60)], q / 60) for q in range(61)])
        panels.append(panel)
    figure("moved_labels", panels, width=250)

    # e. Ranking against its idealised value.
    print("\n| beta | wrong labels | start | DPO | idealised | gap | reward accuracy | exceptions |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
    bars = Panel("held-out pairs ranked rightly, 20 % wrong labels", "", "share")
    points = []
    arms = [(BETA, rate, f"dpo-{tag(rate)}") for rate in RATES] + [(beta, 0.2, f"dpo-20-beta-{beta:g}") for beta in BETAS[1:]]
    place = 0
    for beta, rate, name in arms:
        found = [ranking(run, rate, beta) for run in runs[name].values()]
        column = lambda key: [f[key] for f in found]
        gap = [f["idealised"] - f["policy"] for f in found]
        print(f"| {beta:g} | {rate:.0%} | {text(column('start'))} | {text(column('policy'))} | {text(column('idealised'))} | {text(gap)} | "
              f"{text(column('reward accuracy'))} | {sum(column('exceptions'))} of {sum(len(f['points']) for f in found)} |")
        if rate == 0.2:
            for kind, key in (("start", "start"), ("DPO", "policy"), ("idealised", "idealised")):
                bars.bars(kind, place, *interval(column(key)))
                place += 1
            bars.ticks = (bars.ticks or []) + [(place - 2, f"beta {beta:g}")]
            place += 1
        if name == "dpo-20":
            points = found[0]["points"]
    curve = Panel("loss of a pair, beta 0.1 (line: ranked rightly below it)", "difficulty c = R0 - C0, nats", "DPO's loss")
    for kind, is_right in (("ranked rightly", True), ("ranked wrongly", False)):
        curve.dots(kind, [(c, loss) for c, loss, right in points if right == is_right])
    low, high = min(c for c, *_ in points), max(c for c, *_ in points)
    grid = [low + (high - low) * i / 80 for i in range(81)]
    curve.line("softplus(-beta c)", [(c, math.log1p(math.exp(-BETA * c))) for c in grid])
    figure("ranking", [bars, curve])


def text(values):
    middle, half = interval(values)
    return f"{middle:.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
