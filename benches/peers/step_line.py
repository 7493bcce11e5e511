"""One JSON line that sets the steps of a candlewick run beside those of trl_preference_step.py.

    python step_line.py NAME RUN LOG TRL.json [USEFUL.json ROWS]

RUN is the run's folder, LOG what the program printed, USEFUL.json the useful tokens of each step, the first one
included, ROWS the rows of a step. The first step is not timed.
"""

import json
import re
import statistics
import sys

name, run, log, trl = sys.argv[1:5]
steps = [json.loads(line) for line in open(f"{run}/metrics.jsonl")]
size, unit = re.search(r"peak memory ([\d.]+) (\w+)", open(log).read()).groups()
seconds = [step["time/step"] for step in steps[1:]]
ours = dict(median_s=statistics.median(seconds), min_s=min(seconds), max_s=max(seconds), samples=len(seconds), peak_gib=float(size) / {"GiB": 1, "MiB": 1024}[unit],
            loss=[step["objective/loss"] for step in steps], grad_norm=[step["optim/grad_norm"] for step in steps], tokens=[step["train/tokens"] for step in steps[1:]],
            micro_batches=[step["train/micro_batches"] for step in steps[1:]])
peer = json.load(open(trl))
theirs = dict(**peer["step"], peak_gib=peer["peak_rss_bytes"] / 2**30, loss=peer["loss"], grad_norm=peer["grad_norm"], tokens=peer["tokens"], version=peer["trl"],
              checkpointing=peer["checkpointing"])
line = dict(benchmark=name, candlewick=ours, trl=theirs, time_ratio=ours["median_s"] / theirs["median_s"], memory_ratio=ours["peak_gib"] / theirs["peak_gib"])
if len(sys.argv) > 5:
    # The last token of a row is learnt but not run.
    useful, rows = json.load(open(sys.argv[5]))[1:], int(sys.argv[6])
    line |= dict(useful_tokens=useful, useful_tokens_per_second=sum(useful) / sum(seconds), trl_useful_tokens_per_second=sum(useful) / peer["total_s"],
                 trl_padding=1 - sum(useful) / sum(peer["tokens"]), padding=1 - (sum(useful) - rows * len(useful)) / sum(ours["tokens"]))
print(json.dumps(line))
