"""Pairs whose truth is known: the quickstart checkpoint's own right and wrong answers to sums, and raters who err at a known rate.

A pool of prompts is sampled once, 8 answers each at temperature 1. A seed draws prompts of the pool that have both kinds of answer, one answer of each
kind, and five raters. Each rater names the wrong answer with the probability asked for; a rater who errs at a low rate errs at a higher one too,
so that a seed's pairs are the same at every rate and the flips of a lower rate are among those of a higher. Held-out pairs and held-out
problems are of the generator's held-out side, which the checkpoint has never seen, and are rightly labelled.
"""

import hashlib
import json
import random
import re

from reproduction import command

MODEL = "configs/quickstart"
SAMPLES, LIMIT, RATERS = 8, 56, 5
POOL = """[run]
name = "pool"
[model]
path = "{model}"
[data]
train = "{other}"
validation = "{source}"
[objective.sft]
"""


def write(path, items):
    partial = path.with_suffix(".partial")
    with open(partial, "w") as file:
        file.writelines(json.dumps(item) + "\n" for item in items)
    partial.rename(path)


def read(path):
    return [json.loads(line) for line in open(path)]


def is_held_out(operands):
    """The generator's own rule, so that training never meets a held-out sum in any order."""
    digest = hashlib.sha256(" ".join(map(str, sorted(operands))).encode()).digest()
    return int.from_bytes(digest[:8], "big") < 0.2 * 2**64


def problems(count, side, seed):
    rng, seen = random.Random(seed), {}
    while len(seen) < count:
        operands = [rng.randint(1, 9) for _ in range(rng.randint(4, 8))]
        prompt = "+".join(map(str, operands)) + "="
        if is_held_out(operands) == side:
            seen[prompt] = operands
    return [{"id": f"{seed}:{at}", "prompt": prompt, "answer": str(sum(operands))} for at, (prompt, operands) in enumerate(seen.items())]


def is_right(sample):
    """Whether an answer ended and its last number is the sum."""
    numbers = re.findall(r"\d+", sample["text"])
    return sample["finish"] == "stop" and bool(numbers) and numbers[-1] == sample["answer"]


def manner(text):
    """verbose, terse, direct, or another."""
    for name, pattern in (("verbose", r"\d+\+\d+=\d+(;\d+\+\d+=\d+)*"), ("terse", r"\d+(,\d+)+"), ("direct", r"\d+")):
        if re.fullmatch(pattern, text):
            return name
    return "other"


def pool(program, folder, train=2000, held_out=500):
    """[(prompt, answer, right texts, wrong texts)] of the training and of the held-out side, sampled unless that is done."""
    folder.mkdir(parents=True, exist_ok=True)
    sides = {"train": (train, False, 1), "held-out": (held_out, True, 2)}
    for name, (count, side, seed) in sides.items():
        if not (folder / f"{name}.jsonl").exists():
            write(folder / f"{name}.jsonl", problems(count, side, seed))
    found = {}
    for name, other in (("train", "held-out"), ("held-out", "train")):
        config, output = folder / f"{name}.toml", folder / f"{name}-answers"
        config.write_text(POOL.format(model=MODEL, source=folder / f"{name}.jsonl", other=folder / f"{other}.jsonl"))
        settings = ["--samples", SAMPLES, "--temperature", 1, "--limit", LIMIT, "--output", output]
        command(program, "eval", MODEL, "-b", "validation", "--config", config, *settings, output=output)
        answers = {}
        for sample in read(output / "samples_validation.jsonl"):
            of = answers.setdefault(sample["prompt"], (sample["prompt"], sample["answer"], set(), set()))
            if sample["finish"] == "stop" and sample["text"]:
                of[2 if is_right(sample) else 3].add(sample["text"])
        found[name] = [(prompt, answer, sorted(right), sorted(wrong)) for prompt, answer, right, wrong in answers.values()]
    return found


def mixed(side, alike=False):
    """Prompts with a right and a wrong answer: [(prompt, answer, right texts, wrong texts)]. `alike`: of one manner, that of which there are most."""
    if not alike:
        return [item for item in side if item[2] and item[3]]
    found = []
    for prompt, answer, right, wrong in side:
        of = {name: [[text for text in kind if manner(text) == name] for kind in (right, wrong)] for name in ("verbose", "terse")}
        most = max(of.values(), key=lambda kinds: min(map(len, kinds)))
        if all(most):
            found.append((prompt, answer, *most))
    return found


def drawn(side, count, seed, alike=False):
    """Pairs of a seed: prompt, answer, the right and the wrong text, and a number from 0 to 1 for each rater, who errs below the rate."""
    rng = random.Random(seed)
    items = rng.sample(mixed(side, alike), count)
    return [{"id": f"pair:{at}", "prompt": prompt, "answer": answer, "right": rng.choice(right), "wrong": rng.choice(wrong),
             "raters": [rng.random() for _ in range(RATERS)]} for at, (prompt, answer, right, wrong) in enumerate(items)]


def labelled(pairs, rate, how="one", label=None):
    """Rows as the program reads them. `how`: one rater's word; the majority of five; the share of five. `label`: a constant one for all."""
    rows = []
    for pair in pairs:
        errors = [draw < rate for draw in pair["raters"]]
        is_flipped = errors[0] if how == "one" else sum(errors) > RATERS / 2
        chosen, rejected = (pair["wrong"], pair["right"]) if is_flipped else (pair["right"], pair["wrong"])
        row = {"id": pair["id"], "prompt": pair["prompt"], "answer": pair["answer"], "chosen": chosen, "rejected": rejected, "flipped": is_flipped}
        if how == "share":
            row["label"] = max(sum(errors), RATERS - sum(errors)) / RATERS
        elif label is not None:
            row["label"] = label
        rows.append(row)
    return rows


def state(run):
    """What the newest checkpoint of a run remembers."""
    newest = max((run / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    return json.load(open(newest / "state.json"))


def accuracy(run):
    """[(step, held-out accuracy)], the start included."""
    return [(found["step"], found["value"]) for found in state(run)["held_out"]]
