#!/usr/bin/env bash
# A unit that nvcc compiles includes the library: it links, and computes what it computes elsewhere. Only host code runs.
# usage: cuda_unit.sh NVCC SOURCE FOLDER [FLAG...]
set -euo pipefail
nvcc=$1 source=$2 folder=$3
shift 3
if [ ! -x "$nvcc" ]; then
  echo "skipped: there is no nvcc"
  exit 0
fi
mkdir -p "$folder"
set -- "${@/#-isystem/-isystem=}"  # nvcc's own spelling
log=$folder/log.txt
# Eigen's headers come with warnings of nvcc's.
if ! "$nvcc" -std=c++20 -x cu -diag-suppress 20012,20015 "$@" "$source" -o "$folder/program" >"$log" 2>&1; then
  cat "$log"
  exit 1
fi
if grep -E 'ring_attention/.*warning' "$log"; then
  echo "nvcc warns of the library's headers"
  exit 1
fi
"$folder/program"
