#!/usr/bin/env bash
# The headers of plan/, and those of cuda/ that make a GPU's work list of a plan, need neither Eigen nor any header of the
# CPU's engine: a C++ compiler, and nvcc where it is, read all of them with the library's include folder alone.
# usage: plan_alone.sh INCLUDE_FOLDER SCRATCH_FOLDER COMPILER [NVCC]
set -euo pipefail
include=$1 scratch=$2 compiler=$3 nvcc=${4:-}
mkdir -p "$scratch"
unit=$scratch/plan.cpp
# Headers that include one of CUDA's own are for nvcc.
(cd "$include" && grep -L '^#include <cuda_' ring_attention/plan/*.hpp ring_attention/cuda/*.hpp) |
  sed 's/.*/#include <&>/' >"$unit"
if ! grep -q cuda/make_work_list "$unit"; then
  echo "plan_alone: cuda/make_work_list.hpp is not among the headers" >&2
  exit 1
fi
"$compiler" -std=c++20 "-I$include" -fsyntax-only "$unit"
others=$("$compiler" -std=c++20 "-I$include" -MM "$unit" | tr -s ' \\' '\n' | grep -E 'ring_attention/(cpu|kernel|ring|attention)/' || true)
if [ -n "$others" ]; then
  echo "plan/ and cuda/ include headers of other rooms:" >&2
  echo "$others" >&2
  exit 1
fi
if [ -x "$nvcc" ]; then
  "$nvcc" -std=c++20 -x cu "-I$include" -c -o "$scratch/plan.o" "$unit"
fi
