"""The task and the checkpoint of the reproductions that need thinking: sums whose steps stand before a mark, at told lengths.

A demonstration of 9+5+7= is `9+5=14;14+7=21#21`: steps, the mark `#` that ends thinking, the answer. Each step is written out (`14+7=21`) or
not (`21`), so that a problem has many lengths. In half of the demonstrations the prompt tells a length, `25:9+5+7=`, that is right
within a factor of about 1.25: enough to know what is meant, not to keep to it. Problems of 2 to 7 terms; held out by the sorted operands.
By pairing.py's probe the checkpoint is right in nine tenths of its samples for 2 terms, in a third for 6, under a tenth for 8, hardly ever for 10.
"""

import hashlib
import json
import math
import pathlib
import random
import shutil

from reproduction import train

TOKENS = ["<pad>", "$", *"0123456789", "+", "=", ";", ",", ":", "#"]


def problem(rng, held_out, terms=(2, 7)):
    while True:
        operands = [rng.randint(1, 9) for _ in range(rng.randint(*terms))]
        digest = hashlib.sha256(str(sorted(operands)).encode()).digest()
        if (digest[0] < 51) == held_out:
            return operands


def solution(operands, verbosity, rng):
    total, steps = operands[0], []
    for term in operands[1:]:
        step = f"{total}+{term}={total + term}" if rng.random() < verbosity else str(total + term)
        steps.append(step)
        total += term
    return ";".join(steps) + f"#{total}"


def write(path, items):
    with open(path, "w") as file:
        file.writelines(json.dumps(item) + "\n" for item in items)


def data(folder):
    rng = random.Random(5)
    ask = lambda operands: "+".join(map(str, operands)) + "="
    demos = []
    for number in range(40000):
        operands = problem(rng, False)
        text = solution(operands, rng.choice([0.0, 0.25, 0.5, 0.75, 1.0]), rng)
        told = max(1, round((len(text) + 1) * math.exp(rng.gauss(0, 0.22))))
        prompt = f"{told}:{ask(operands)}" if rng.random() < 0.5 else ask(operands)
        demos.append({"id": f"demo:{number}", "prompt": prompt, "completion": text, "answer": str(sum(operands))})
    write(folder / "demonstrations.jsonl", demos)
    problems(folder / "test.jsonl", True, 400, (4, 7))


def problems(path, held_out, count, terms):
    """Writes distinct sums of so many terms, of the training or of the held-out side, unless they are there; returns the path."""
    rng, found = random.Random(11), {}
    while not path.exists() and len(found) < count:
        operands = problem(rng, held_out, terms)
        found["+".join(map(str, operands)) + "="] = sum(operands)
    if found:
        items = enumerate(found.items())
        write(path, [{"id": f"{path.stem}:{at}", "prompt": prompt, "answer": str(answer)} for at, (prompt, answer) in items])
    return path


def untrained(folder):
    """configs/quickstart/untrained with two more tokens."""
    folder.mkdir(exist_ok=True)
    source = pathlib.Path("configs/quickstart/untrained")
    for file in source.iterdir():
        shutil.copy(file, folder / file.name)
    config = json.loads((source / "config.json").read_text())
    config["vocab_size"] = len(TOKENS)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {token: at for at, token in enumerate(TOKENS)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1))


def checkpoint(program, folder, steps=1000):
    """Makes data and checkpoint in `folder`, unless they are there; returns the checkpoint's path."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "test.jsonl").exists():
        data(folder)
        untrained(folder / "untrained")
    settings = {
        "model.path": folder / "untrained",
        "data.train": folder / "demonstrations.jsonl",
        "data.validation": folder / "test.jsonl",
        "run.steps": steps,
        "run.save_every": 50,
    }
    run = train(program, folder, "sft", "benches/reproductions/thinker-sft.toml", settings)
    return run / "checkpoints" / str(steps)


if __name__ == "__main__":
    from reproduction import arguments

    print(checkpoint(*arguments()))
