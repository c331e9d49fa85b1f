#!/usr/bin/env bash
# The kernels for GPUs compile without a warning, the assembler's included. Nothing runs: no GPU is needed.
# usage: cuda_kernels.sh NVCC INCLUDE_FOLDER SCRATCH_FOLDER ARCHITECTURE SOURCE...
set -euo pipefail
nvcc=$1 include=$2 scratch=$3 architecture=$4
shift 4
if [ ! -x "$nvcc" ]; then
  echo "skipped: there is no nvcc"
  exit 0
fi
mkdir -p "$scratch"
for source in "$@"; do
  "$nvcc" -std=c++20 -O3 "-arch=$architecture" "-I$include" -Werror all-warnings -c "$source" \
    -o "$scratch/$(basename "$source" .cu).o"
done
