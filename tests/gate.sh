#!/usr/bin/env bash
# Everything a change must pass: formatting, lints, tests, documentation.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_INCREMENTAL=0

for component in rustfmt clippy; do
  if ! cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1; then
    echo "gate: $component is missing, trying to add it"
    rustup component add "$component"
  fi
done

phase() {
  local name=$1 start=$SECONDS
  shift
  echo "gate: $name"
  "$@"
  echo "gate: $name passed in $((SECONDS - start)) s"
}

phase formatting cargo fmt --all --check
# With `gguf`, for its tests compare the decoder with candle-transformers.
phase lints cargo clippy --workspace --all-targets --features gguf -- -D warnings
phase tests cargo test --workspace --features gguf
phase documentation env RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps
