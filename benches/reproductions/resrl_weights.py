"""ResRL's weights against its shuffled control on the same rollouts: equal distribution, other tokens, another gradient.

python3 benches/reproductions/resrl_weights.py PROGRAM FOLDER

One step with the same seed, so that both arms have the same rollouts and hidden states. Printed: every metric of the credit, and the gradient norm.
"""

from reproduction import arguments, rows, train
from resrl import ARMS, BASE, CONFIG


def main():
    program, folder = arguments()
    once = {"run.steps": 1, "run.save_every": 0, "eval.benchmarks": "[]", "train.online.minibatches": 1}
    found = {}
    for seed in range(3):
        for arm in ("resrl", "shuffled", "nsr", "grpo"):
            run = train(program, folder, f"{arm}-{seed}", CONFIG, {**BASE, **ARMS[arm], **once, "run.seed": seed})
            found[arm, seed] = rows(run)[0]
    keys = [k for k in found["resrl", 0] if k.startswith("credit/")] + ["optim/grad_norm", "reward/accuracy"]
    print("| | " + " | ".join(f"{arm}, seed {seed}" for arm, seed in found) + " |\n| --- |" + " --- |" * len(found))
    for key in keys:
        print(f"| {key} | " + " | ".join(f"{row.get(key, float('nan')):.6g}" for row in found.values()) + " |")


if __name__ == "__main__":
    main()
