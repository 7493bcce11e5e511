#!/usr/bin/env bash
# REAL with 4 updates a rollout batch against GRPO's and DAPO's clipped losses: held-out accuracy and gradient weights, 5 seeds.
# bash benches/reproductions/real.sh PROGRAM FOLDER, then python benches/reproductions/summarise.py FOLDER grpo real
set -euo pipefail
program=$1 folder=$2
mkdir -p "$folder"
sed -e '/^\[advantage.group\]$/d' -e 's/^\[objective.grpo\]$/[objective.real]/' configs/quickstart.toml > "$folder/real.toml"
common=(--set run.steps=40 --set data.validation=400 --set eval.every=0 --set run.save_every=0 --set train.online.minibatches=4
  --set run.log_samples=0 --set run.tensorboard=false --set run.output="$folder")
for seed in 0 1 2 3 4; do
  run() { local name=$1 config=$2; shift 2; [ -e "$folder/$name-$seed/report/summary.json" ] ||
    { rm -rf "${folder:?}/$name-$seed"; "$program" train "$config" "${common[@]}" --set run.seed=$seed --set run.name=$name-$seed "$@"; }; }
  run real "$folder/real.toml"
  run grpo configs/quickstart.toml --set objective.grpo.loss=grpo
  run dapo configs/quickstart.toml --set objective.grpo.epsilon_high=0.28
done
