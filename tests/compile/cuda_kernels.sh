#!/usr/bin/env bash
# The kernels for GPUs, and the calls that queue them, compile without a warning, the assembler's included. Nothing runs:
# no GPU is needed.
# usage: cuda_kernels.sh NVCC SCRATCH_FOLDER ARCHITECTURE SOURCE_FOLDER [FLAG...]
set -euo pipefail
nvcc=$1 scratch=$2 architecture=$3 sources=$4
shift 4
if [ ! -x "$nvcc" ]; then
  echo "skipped: there is no nvcc"
  exit 0
fi
mkdir -p "$scratch"
set -- "${@/#-isystem/-isystem=}"  # nvcc's own spelling
for source in "$sources"/*.cu; do
  # Eigen's headers come with warnings of nvcc's.
  "$nvcc" -std=c++20 -O3 "-arch=$architecture" -diag-suppress 20012,20015 -Werror all-warnings "$@" -c "$source" \
    -o "$scratch/$(basename "$source" .cu).o"
done
