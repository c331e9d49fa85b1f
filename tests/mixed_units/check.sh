#!/usr/bin/env bash
# Builds a program from a unit for any processor and one for this very processor, and runs it with every kernel. The
# linker keeps one copy of a function that both define: none of them may belong to the engine or a kernel, whose
# instructions depend on how the unit was built.
# usage: check.sh SOURCE_FOLDER SCRATCH_FOLDER COMPILER [COMPILER_ARGUMENT...]
set -euo pipefail
source=$1 scratch=$2
shift 2
if ! "$1" -march=native -fsyntax-only -x c++ /dev/null 2>/dev/null; then
  echo "skipped: $1 has no -march=native here"
  exit 0
fi
mkdir -p "$scratch"
"$@" -DUNIT=plain_unit -c "$source/unit.cpp" -o "$scratch/plain.o"
"$@" -march=native -DUNIT=native_unit -c "$source/unit.cpp" -o "$scratch/native.o"
for unit in plain native; do
  nm --defined-only "$scratch/$unit.o" | awk '{ print $NF }' | grep ring_attention | sort -u >"$scratch/$unit.symbols"
  grep -q 'engine' "$scratch/$unit.symbols" || { echo "no engine in the $unit unit" >&2; exit 1; }
done
shared=$(comm -12 "$scratch/plain.symbols" "$scratch/native.symbols" |
  grep -E 'engine|Attention.*(forward|backward)' || true)
if [ -n "$shared" ]; then
  echo "both units define:" >&2
  echo "$shared" | c++filt | head -n 20 >&2
  exit 1
fi
"$@" -c "$source/main.cpp" -o "$scratch/main.o"
for order in "plain.o native.o" "native.o plain.o"; do
  # shellcheck disable=SC2086
  (cd "$scratch" && "$@" main.o $order -o mixed && ./mixed)
done
# What the environment asks for.
(cd "$scratch" && RING_ATTENTION_KERNEL=generic ./mixed | grep -qx 'by default: generic')
if (cd "$scratch" && RING_ATTENTION_KERNEL=mmx ./mixed) >"$scratch/refusal"; then
  echo "RING_ATTENTION_KERNEL=mmx was accepted" >&2
  exit 1
fi
grep -q 'RING_ATTENTION_KERNEL = "mmx": must be empty' "$scratch/refusal"
