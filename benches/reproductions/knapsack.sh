#!/usr/bin/env bash
# Effective-gradient ratio at equal rollouts: uniform against knapsack, 5 seeds, on a pool whose rates were measured first.
# bash benches/reproductions/knapsack.sh PROGRAM FOLDER, then python benches/reproductions/summarise.py FOLDER uniform knapsack
set -euo pipefail
program=$1 folder=$2
mkdir -p "$folder"
# 240 sums of 2 to 12 terms; with 40 new tokens those of many terms cannot be finished.
pool=(--set data.generated.count=240 --set data.generated.max_terms=12 --set budget.tokens.fixed.limit=40)
"$program" probe configs/quickstart.toml "${pool[@]}" --rollouts 16 --output "$folder/rates.jsonl"
common=("${pool[@]}" --set run.steps=40 --set prompts.shuffle.per_step=24 --set data.validation=400 --set eval.every=0
  --set run.save_every=0 --set run.log_samples=0 --set run.tensorboard=false --set run.output="$folder")
for seed in 0 1 2 3 4; do
  run() { local name=$1; shift; [ -e "$folder/$name-$seed/report/summary.json" ] ||
    { rm -rf "${folder:?}/$name-$seed"; "$program" train configs/quickstart.toml "${common[@]}" --set run.seed=$seed --set run.name=$name-$seed "$@"; }; }
  run uniform
  run knapsack --set budget.rollouts.knapsack.mean=8 --set data.probe="$folder/rates.jsonl"
  run no-fallback --set budget.rollouts.knapsack.mean=8 --set budget.rollouts.knapsack.fallback=false --set data.probe="$folder/rates.jsonl"
done
