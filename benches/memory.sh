#!/usr/bin/env bash
# `check`'s estimate of a run's peak memory against the peak resident memory of the run itself.
#
#   bash benches/memory.sh PROGRAM MODEL GSM8K_TRAIN GSM8K_TEST [FILTER]
#
# PROGRAM is the candlewick binary, MODEL a folder with SmolLM2-135M-Instruct, the others JSONL files. Each
# setting runs two steps; one line each: name, estimate and measurement in MiB, estimate / measurement.
set -euo pipefail
program=$1 model=$2 train=$3 test=$4 filter=${5:-}
cd "$(dirname "$0")/.."
output=$(mktemp -d)
trap 'rm -rf "$output"' EXIT

measure() { # measure NAME CONFIG [--set key=value]...
  local name=$1 config=$2
  shift 2
  [[ $name == *$filter* ]] || return 0
  local sets=(--set "run.output=$output" --set "run.name=$name" --set run.steps=2 --set run.save_every=0 "$@")
  local estimate
  estimate=$("$program" check "$config" "${sets[@]}" 2>/dev/null |
    awk '/^peak:/ { unit = $3; print $2 * (unit == "GiB" ? 1024 : unit == "MiB" ? 1 : 1 / 1024) }')
  "$program" train "$config" "${sets[@]}" >"$output/$name.log" 2>&1 &
  local pid=$! peak=0 now
  while now=$(awk '/^VmHWM:/ { print $2 }' "/proc/$pid/status" 2>/dev/null) && [ -n "$now" ]; do
    peak=$now
    sleep 0.1
  done
  wait "$pid" || { cat "$output/$name.log" >&2; exit 1; }
  awk -v n="$name" -v e="$estimate" -v p="$peak" \
    'BEGIN { m = p / 1024; printf "%-28s %8.0f %8.0f  %.2f\n", n, e, m, e / m }'
  rm -rf "${output:?}/$name"
}

addition=configs/smollm2-addition.toml gsm8k=configs/smollm2-gsm8k.toml
path=(--set "model.path=$model")
quiet=(--set 'eval.benchmarks=[]' --set eval.every=0)
keep=(--set model.gradient_checkpointing=off) again=(--set model.gradient_checkpointing=on)
lora=(--set model.lora.rank=16)
data=(--set "data.train=$train" --set "data.validation=$test" --set eval.problems=16)

printf '%-28s %8s %8s  %s\n' setting estimate measured ratio
measure quickstart configs/quickstart.toml --set eval.every=0
measure quickstart-sft configs/quickstart-sft.toml --set eval.every=0
measure addition $addition "${path[@]}" "${keep[@]}"
measure addition-no-eval $addition "${path[@]}" "${keep[@]}" "${quiet[@]}"
measure addition-checkpointed $addition "${path[@]}" "${again[@]}" "${quiet[@]}"
measure addition-lora $addition "${path[@]}" "${keep[@]}" "${lora[@]}" "${quiet[@]}"
measure addition-lora-checkpointed $addition "${path[@]}" "${again[@]}" "${lora[@]}" "${quiet[@]}"
measure addition-reference $addition "${path[@]}" "${keep[@]}" "${quiet[@]}" --set objective.grpo.beta=0.01 --set 'model.reference={}'
measure gsm8k $gsm8k "${path[@]}" "${data[@]}" "${keep[@]}" "${quiet[@]}"
measure gsm8k-checkpointed $gsm8k "${path[@]}" "${data[@]}" "${again[@]}" "${quiet[@]}"
measure gsm8k-lora $gsm8k "${path[@]}" "${data[@]}" "${keep[@]}" "${lora[@]}" "${quiet[@]}"
measure gsm8k-eval $gsm8k "${path[@]}" "${data[@]}" "${keep[@]}"
