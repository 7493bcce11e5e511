"""Seconds a step and peak memory of each method against plain GRPO at the same batch, on the quickstart's tiny decoder.

python3 benches/reproductions/cost.py PROGRAM FOLDER [MODEL]

With MODEL, a folder with SmolLM2-135M-Instruct, on that: one-digit addition, 4 prompts x 8 rollouts of up to 24 tokens. Else 32 prompts x 8 rollouts, two mini-batches, two threads, no other work on the machine. The learning rate is 1e-12, so that the policy and, with one seed,
the samples stay the same; methods that choose other prompts or lengths train on other numbers of tokens, which the table shows. Arms take
turns, so that drift of the machine falls on all of them; a figure is the median over steps of all turns. STEPS (12) and TURNS (2).
"""

import os
import re
import statistics
import subprocess
import sys

from reproduction import Panel, arguments, figure, flags, rows

QUICKSTART = "configs/quickstart.toml"
STEPS, TURNS = int(os.environ.get("STEPS", "12")), int(os.environ.get("TURNS", "2"))
BASE = {
    "run.steps": STEPS,
    "run.save_every": 0,
    "run.log_samples": 0,
    "run.tensorboard": "false",
    "eval.every": 0,
    "eval.benchmarks": "[]",
    "data.generated.count": 400,
    "train.online.minibatches": 2,
    "optim.learning_rate": 1e-12,
    "optim.schedule": "constant",
}


# What MODEL's runs have in place of the quickstart's.
REAL_SIZE = {
    "data.generated": "{}",
    "data.train": "generated:addition",
    "data.validation": "0.3",
    "prompts.shuffle.per_step": 4,
    "budget.tokens.fixed.limit": 24,
}


def main():
    model = sys.argv.pop() if len(sys.argv) == 4 else None
    program, folder = arguments()
    rates = folder / "rates.jsonl"
    if model:
        BASE.update(REAL_SIZE, **{"model.path": os.path.realpath(model)})
        del BASE["data.generated.count"]
    size = {k: v for k, v in BASE.items() if k.startswith(("data.", "model.", "budget."))}
    if not rates.exists():
        subprocess.run([program, "probe", QUICKSTART, *flags(size), "--rollouts", "16", "--output", rates], check=True)
    here = "benches/reproductions"
    arms = {
        "grpo": (QUICKSTART, {}),
        "pairing": (f"{here}/pairing.toml", {"data.train": "generated:sums", "data.probe": rates, "prompts.pairing.pairs": 16, "prompts.pairing.fallback": "midrange", "budget.rollouts.uniform.mean": 8}),
        "real": (f"{here}/real.toml", {}),
        "knapsack": (QUICKSTART, {"budget.rollouts.knapsack.mean": 8, "data.probe": rates}),
        "curriculum": (QUICKSTART, {"budget.tokens.curriculum": "{ start = 48, limit = 56, schedule = { drops = { end = 47, drops = 1 } } }", "data.told": "'{tokens};{prompt}'",
                       "reward.length.r_max": 1.0, "advantage.group.weights": "{ math = 0.6, length = 0.3 }"}),
        "resrl": (QUICKSTART, {"credit.resrl.rank": 16, "credit.resrl.min_positive_tokens": 16 if model else 32}),
        "tw": (QUICKSTART, {"credit.tw": "{}"}),
        "soft_grpo": (QUICKSTART, {"rollout.soft": "{ think_end = ',', tau = 0.1 }", "objective.soft_grpo": "{ beta = 0.0 }"}),
        "adpo": (f"{here}/adpo.toml", {}),
        "distill": (f"{here}/distill.toml", {"model.reference.path": "configs/quickstart"}),
    }
    if model:
        arms["pairing"][1]["prompts.pairing.pairs"] = 2
        del arms["pairing"][1]["data.train"]
        arms["curriculum"][1].update({"budget.tokens.curriculum": "{ start = 16, limit = 24, schedule = { drops = { end = 15, drops = 1 } } }",
                                      "data.told": "'{prompt} Use about {tokens} tokens.'"})
        arms["soft_grpo"][1]["rollout.soft"] = "{ think_end = '#', tau = 0.1 }"
        arms["distill"][1]["model.reference.path"] = BASE["model.path"]
    seconds, tokens, memory, parts = ({arm: [] for arm in arms} for _ in range(4))
    environment = {**os.environ, "RAYON_NUM_THREADS": "2"}
    for turn in range(TURNS):
        for arm, (config, settings) in arms.items():
            name = f"{arm}-{turn}"
            subprocess.run(["rm", "-rf", folder / name], check=True)
            own = {**BASE, **settings, "run.output": folder, "run.name": name}
            done = subprocess.run([program, "train", config, *flags(own)], env=environment, capture_output=True, text=True)
            if done.returncode:
                print(arm, done.stderr.strip())
                continue
            found = rows(folder / name)[2:]
            seconds[arm] += [row["time/step"] for row in found]
            tokens[arm] += [(row["rollout/tokens"], row["train/tokens"]) for row in found]
            parts[arm] += [{k: v for k, v in row.items() if k.startswith("time/")} for row in found]
            size, unit = re.search(r"peak memory ([0-9.]+) (\w+)", done.stdout).groups()
            memory[arm].append(float(size) * {"MiB": 1, "GiB": 1024}[unit])
    base = statistics.median(seconds["grpo"])
    print("| method | seconds a step | to GRPO | sampled tokens | trained tokens | seconds / 10,000 tokens | to GRPO | peak MiB |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
    each = lambda arm: statistics.median(s / (a + b) * 1e4 for s, (a, b) in zip(seconds[arm], tokens[arm]))
    bars = Panel("seconds a step to GRPO", "", "ratio")
    for at, arm in enumerate(arm for arm in arms if seconds[arm]):
        middle = statistics.median(seconds[arm])
        sampled, trained = (statistics.mean(t[i] for t in tokens[arm]) for i in (0, 1))
        print(f"| {arm} | {middle:.3f} | {middle / base:.2f} | {sampled:.0f} | {trained:.0f} | {each(arm):.3f} | {each(arm) / each('grpo'):.2f} | {max(memory[arm]):.0f} |")
        bars.bars(arm, at, middle / base, 0.0)
    bars.ticks = list(enumerate(arm for arm in arms if seconds[arm]))
    bars.level(1.0, "GRPO")
    names = sorted({k for arm in arms for row in parts[arm] for k in row})
    print("\n| ms a step | " + " | ".join(n.removeprefix("time/") for n in names) + " |\n| --- |" + " --- |" * len(names))
    for arm in arms:
        if parts[arm]:
            print(f"| {arm} | " + " | ".join(f"{1e3 * statistics.median(row.get(n, 0.0) for row in parts[arm]):.1f}" for n in names) + " |")
    figure("cost_smollm2" if model else "cost", [bars], width=620)


if __name__ == "__main__":
    main()
