#!/usr/bin/env bash
# Type-checks the CUDA code paths on a machine without a GPU, a driver or a CUDA toolkit.
#
#   bash tests/cuda-typecheck.sh [FOLDER]     # default target-cuda-typecheck; about 3 minutes the first time
#
# Checking needs no kernels, only that the compiler of kernels answers: a stand-in for `nvcc` writes empty
# outputs. Nothing built in FOLDER can be linked, so it must not be shared with a real CUDA build.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-target-cuda-typecheck}
mkdir -p "$folder/toolkit/bin" "$folder/toolkit/include"
toolkit=$(cd "$folder/toolkit" && pwd)
cat >"$toolkit/bin/nvcc" <<'STANDIN'
#!/bin/sh
# Stands in for nvcc: says which version it is and leaves empty files where outputs are expected.
mode=object target= folder=. source= last=
for word in "$@"; do
  case $last in
    -o) target=$word ;;
    --output-directory) folder=$word ;;
  esac
  case $word in
    --version)
      echo 'nvcc: stand-in for type-checking'
      echo 'Cuda compilation tools, release 13.0, V13.0.0'
      exit 0 ;;
    --list-gpu-code) echo sm_90; exit 0 ;;
    --ptx) mode=ptx ;;
    *.cu) source=$(basename "$word" .cu) ;;
  esac
  last=$word
done
if [ $mode = ptx ]; then : >"$folder/$source.ptx"
elif [ -n "$target" ]; then printf '!<arch>\n' >"$target"; fi
STANDIN
chmod +x "$toolkit/bin/nvcc"
export CUDARC_CUDA_VERSION=13000 CUDA_HOME=$toolkit CUDA_PATH=$toolkit PATH="$toolkit/bin:$PATH" CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}
cargo clippy --features cuda --all-targets --target-dir "$folder" -- -D warnings
