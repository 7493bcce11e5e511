#!/usr/bin/env bash
# A GRPO step here and in TRL, one after the other: 4 prompts x 8 rollouts x 64 new tokens, f32, two threads.
#
#   bash benches/grpo_step.sh PROGRAM MODEL PYTHON
#
# PROGRAM is the release binary, MODEL a folder with SmolLM2-135M-Instruct, PYTHON an interpreter with TRL (benches/peers).
# Both work on a copy of MODEL whose end token is one that no sampled text contains, so no row stops early. Prints the
# median step time and peak memory of each, with the gradient norms, and the two ratios.
set -euo pipefail
program=$1 model=$(realpath "$2") python=$3
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/model"
ln -s "$model"/* "$work/model/"
"$python" - "$model" "$work" <<'P'
import json, os, sys
model, work = sys.argv[1:]
for name, key, value in [("config.json", "eos_token_id", 5), ("generation_config.json", "eos_token_id", 5),
                         ("tokenizer_config.json", "eos_token", "<file_sep>")]:
    content = json.load(open(f"{model}/{name}"))
    content[key] = value
    os.remove(f"{work}/model/{name}")
    json.dump(content, open(f"{work}/model/{name}", "w"))
tokens = {t["content"]: t["id"] for t in json.load(open(f"{model}/tokenizer.json"))["added_tokens"]}
assert tokens["<file_sep>"] == 5, tokens
sys.path.insert(0, "benches/peers")
import trl_grpo_step
with open(f"{work}/questions.jsonl", "w") as f:
    for question in trl_grpo_step.QUESTIONS:
        f.write(json.dumps({"problem": question, "answer": "0"}) + "\n")
P
RAYON_NUM_THREADS=2 "$program" train benches/grpo_step.toml --set model.path="$work/model" --set data.train="$work/questions.jsonl" \
  --set run.output="$work/runs" > "$work/candlewick.log"
cat "$work/candlewick.log" >&2
"$python" benches/peers/trl_grpo_step.py "$model" --threads 2 --steps 3 > "$work/trl.json"
"$python" - "$work" <<'P'
import json, re, statistics, sys
work = sys.argv[1]
steps = [json.loads(line) for line in open(f"{work}/runs/grpo-step/metrics.jsonl")][1:]
assert all(s["rollout/tokens_mean"] == 64 for s in steps), "a row stopped early"
unit = {"GiB": 2**30, "MiB": 2**20}
size, name = re.search(r"peak memory ([\d.]+) (\w+)", open(f"{work}/candlewick.log").read()).groups()
ours = dict(seconds=statistics.median(s["time/step"] for s in steps), peak_gib=float(size) * unit[name] / 2**30,
            grad_norm=[s["optim/grad_norm"] for s in steps],
            stages={k: statistics.median(s[k] for s in steps) for k in steps[0] if k.startswith("time/")})
peer = json.load(open(f"{work}/trl.json"))
theirs = dict(seconds=peer["step"]["median_s"], peak_gib=peer["peak_rss_bytes"] / 2**30, grad_norm=peer["grad_norm"], version=peer["trl"])
print(json.dumps(dict(benchmark="grpo_step", candlewick=ours, trl=theirs, time_ratio=ours["seconds"] / theirs["seconds"],
                      memory_ratio=ours["peak_gib"] / theirs["peak_gib"])))
P
