#!/usr/bin/env bash
# Useful tokens a second of supervised fine-tuning: rows packed, rows padded to the longest of their batch, and TRL, which pads.
#
#   bash benches/sft_packing.sh PROGRAM MODEL PYTHON GSM8K_TRAIN
#
# PROGRAM is the release binary, MODEL a folder with SmolLM2-135M-Instruct, PYTHON an interpreter with TRL (benches/peers). Batches of 16 questions
# with their solutions, up to 512 tokens, f32, two threads, activations kept. candlewick always packs, so its padded run has rows that are
# really lengthened: special tokens before the prompt, which are not learnt, up to the longest row of the batch; `alone` runs each row by
# itself, neither packed nor padded. Useful are the tokens of prompts and answers. STEPS (3) are timed after one that is not. Prints a JSON
# line a setting.
set -euo pipefail
program=$1 model=$(realpath "$2") python=$3 data=$(realpath "$4") steps=${STEPS:-3}
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" - "$model" "$data" "$work" $((steps + 1)) <<'P'
import json, sys
from transformers import AutoTokenizer
model, data, work, batches = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model)
rows = []
for line in open(data):
    row = json.loads(line)
    row = {"prompt": f"<|im_start|>user\n{row['question']}<|im_end|>\n<|im_start|>assistant\n", "completion": row["answer"]}
    row["tokens"] = len(tokenizer(row["prompt"] + row["completion"]).input_ids) + 1
    if row["tokens"] <= 512:
        rows.append(row)
    if len(rows) == 16 * int(batches):
        break
packed, padded = open(f"{work}/packed.jsonl", "w"), open(f"{work}/padded.jsonl", "w")
for at in range(0, len(rows), 16):
    batch = rows[at : at + 16]
    longest = max(row["tokens"] for row in batch)
    for row in batch:
        packed.write(json.dumps({"prompt": row["prompt"], "completion": row["completion"], "answer": "0"}) + "\n")
        padded.write(json.dumps({"prompt": "<file_sep>" * (longest - row["tokens"]) + row["prompt"], "completion": row["completion"], "answer": "0"}) + "\n")
json.dump([sum(row["tokens"] for row in rows[at : at + 16]) for at in range(0, len(rows), 16)], open(f"{work}/useful.json", "w"))
P
"$python" benches/peers/trl_preference_step.py "$model" "$work/packed.jsonl" sft --threads 2 --batch 16 --steps "$steps" --max-length 512 > "$work/trl.json"
for setting in packed padded alone; do
  file=$setting limit=()
  [ $setting = alone ] && file=packed limit=(--set model.micro_batch_tokens=1)
  RAYON_NUM_THREADS=2 "$program" train benches/preference_step.toml --set model.path="$model" --set data.train="$work/$file.jsonl" \
    --set train.offline.batch_size=16 --set model.gradient_checkpointing=off --set run.steps=$((steps + 1)) "${limit[@]}" \
    --set run.output="$work/runs-$setting" > "$work/candlewick.log"
  tail -n 20 "$work/candlewick.log" >&2
  "$python" benches/peers/step_line.py "sft_$setting" "$work/runs-$setting/preference-step" "$work/candlewick.log" "$work/trl.json" "$work/useful.json" 16
done
