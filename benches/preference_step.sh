#!/usr/bin/env bash
# A DPO step here and in TRL, one after the other: 8 pairs of 256 tokens a row, f32, two threads, activations kept and checkpointed.
#
#   bash benches/preference_step.sh PROGRAM MODEL PYTHON
#
# PROGRAM is the release binary, MODEL a folder with SmolLM2-135M-Instruct, PYTHON an interpreter with TRL (benches/peers). Rows are words that are
# one token each: a prompt of 32, answers of 223 and the end token, so that neither side pads. Both compute the reference's log-probs before
# the first step and take the pairs in the same order; the losses and gradient norms that are printed must agree. Here a pair's prompt is run
# once for both answers (3,824 tokens a step for 4,096). STEPS (4) are timed after one that is not. Prints a JSON line a setting.
set -euo pipefail
program=$1 model=$(realpath "$2") python=$3 steps=${STEPS:-4}
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" - "$model" "$work/rows.jsonl" $((8 * (steps + 1))) <<'P'
import json, random, sys
from transformers import AutoTokenizer
model, out, count = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model)
words = sorted(t[1:] for t in tokenizer.get_vocab() if t[0] == "Ġ" and t[1:].isascii() and t[1:].isalpha() and t[1:].islower() and len(t) > 4)
rng = random.Random(0)
with open(out, "w") as file:
    for _ in range(int(count)):
        text = lambda n: "".join(" " + rng.choice(words) for _ in range(n))
        row = {"prompt": text(32), "chosen": text(223), "rejected": text(223)}
        assert all(len(tokenizer(row["prompt"] + row[side]).input_ids) == 255 for side in ("chosen", "rejected")), "a word is more than a token"
        file.write(json.dumps(row) + "\n")
P
for checkpointing in off on; do
  RAYON_NUM_THREADS=2 "$program" train benches/preference_step.toml --set model.path="$model" --set data.train="$work/rows.jsonl" \
    --set 'model.reference={}' --set objective.dpo.beta=0.1 --set model.gradient_checkpointing=$checkpointing --set run.steps=$((steps + 1)) \
    --set run.output="$work/runs-$checkpointing" > "$work/candlewick.log"
  tail -n 20 "$work/candlewick.log" >&2
  "$python" benches/peers/trl_preference_step.py "$model" "$work/rows.jsonl" dpo --threads 2 --batch 8 --steps "$steps" \
    $([ $checkpointing = on ] && echo --checkpointing) > "$work/trl.json"
  "$python" benches/peers/step_line.py dpo_step "$work/runs-$checkpointing/preference-step" "$work/candlewick.log" "$work/trl.json"
done
