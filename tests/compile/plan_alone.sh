#!/usr/bin/env bash
# The headers of plan/ need neither Eigen nor any other header of the CPU's engine: a C++ compiler, and nvcc where it
# is, read all of them with the library's include folder alone.
# usage: plan_alone.sh INCLUDE_FOLDER SCRATCH_FOLDER COMPILER [NVCC]
set -euo pipefail
include=$1 scratch=$2 compiler=$3 nvcc=${4:-}
mkdir -p "$scratch"
unit=$scratch/plan.cpp
(cd "$include" && for header in ring_attention/plan/*.hpp; do echo "#include <$header>"; done) >"$unit"
"$compiler" -std=c++20 "-I$include" -fsyntax-only "$unit"
others=$("$compiler" -std=c++20 "-I$include" -MM "$unit" | tr -s ' \\' '\n' | grep -E 'ring_attention/(cpu|kernel|ring|attention)/' || true)
if [ -n "$others" ]; then
  echo "plan/ includes of other rooms:" >&2
  echo "$others" >&2
  exit 1
fi
if [ -x "$nvcc" ]; then
  "$nvcc" -std=c++20 -x cu "-I$include" -c -o "$scratch/plan.o" "$unit"
fi
