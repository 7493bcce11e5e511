"""Largest difference between a candlewick run's metrics.jsonl and preference_trl.py's output, step by step.

Usage: python preference_compare.py METRICS TRL [dpo|sft]
"""
import json
import sys

ours = [json.loads(line) for line in open(sys.argv[1])]
theirs = [json.loads(line) for line in open(sys.argv[2])]
method = sys.argv[3] if len(sys.argv) > 3 else "dpo"
names = {"loss": "objective/loss", "grad_norm": "optim/grad_norm"}
if method == "dpo":
    names |= {"margin": "objective/dpo/reward_margin", "accuracy": "objective/dpo/reward_accuracy",
              "logp_chosen": "objective/dpo/logp_chosen", "logp_rejected": "objective/dpo/logp_rejected"}
steps = min(len(ours), len(theirs))
for theirs_name, ours_name in names.items():
    gaps = [abs(a[ours_name] - b[theirs_name]) for a, b in zip(ours, theirs)]
    print(f"{theirs_name:14} largest difference over {steps} steps {max(gaps):.2e}   "
          f"first {ours[0][ours_name]:.6f} / {theirs[0][theirs_name]:.6f}   "
          f"last {ours[steps - 1][ours_name]:.6f} / {theirs[steps - 1][theirs_name]:.6f}")
