#!/usr/bin/env bash
# Peak memory of `check` and of a short supervised run on a JSONL file of a given size.
#
#   bash benches/stream.sh PROGRAM MEGABYTES BYTES_A_ROW
#
# PROGRAM is the candlewick binary. The rows are sums of one-digit numbers with their working, and a note that fills
# them up; the checkpoint is the quickstart's tiny one, of random weights. Prints what the file holds, then for each
# command its seconds and its peak resident memory in MiB.
set -euo pipefail
program=$(realpath "$1") megabytes=$2 bytes=$3
cd "$(dirname "$0")/.."
output=$(mktemp -d)
trap 'rm -rf "$output"' EXIT

python3 - "$output/rows.jsonl" "$megabytes" "$bytes" <<'PY'
import json, random, sys
path, size, length = sys.argv[1], int(sys.argv[2]) * 1_000_000, int(sys.argv[3])
draw, written, rows = random.Random(0), 0, 0
with open(path, "w") as file:
    while written < size:
        terms = [draw.randint(1, 9) for _ in range(draw.randint(4, 8))]
        sums = [sum(terms[: n + 1]) for n in range(1, len(terms))]
        row = {"prompt": "+".join(map(str, terms)) + "=", "completion": ";".join(map(str, sums))}
        line = json.dumps({**row, "note": ""})
        line = json.dumps({**row, "note": "x" * max(0, length - len(line) - 1)})
        written += file.write(line + "\n")
        rows += 1
print(f"{rows} rows, {written / 1e6:.0f} MB")
PY

measure() { # measure NAME ARGUMENTS...
  local name=$1 started=$SECONDS peak=0 now
  shift
  "$program" "$@" >"$output/log" 2>&1 &
  local pid=$!
  while now=$(awk '/^VmHWM:/ { print $2 }' "/proc/$pid/status" 2>/dev/null) && [ -n "$now" ]; do
    peak=$now
    sleep 0.1
  done
  wait "$pid" || { cat "$output/log" >&2; exit 1; }
  printf '%-8s %5d s %8d MiB\n' "$name" $((SECONDS - started)) $((peak / 1024))
}

sets=(configs/quickstart-sft.toml --set "data.train=$output/rows.jsonl" --set data.validation=1000
  --set 'eval.benchmarks=[]' --set "run.output=$output" --set run.steps=20 --set train.offline.batch_size=32
  --set optim.warmup_steps=2)
measure check check "${sets[@]}"
measure train train "${sets[@]}"
