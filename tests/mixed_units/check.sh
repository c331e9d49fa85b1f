#!/usr/bin/env bash
# Builds a program from a unit for any processor, one for this very processor and one that is portable, and runs it with
# every kernel. The linker keeps one copy of a function that two of them define: none may belong to the engine or a
# kernel, whose instructions depend on how the unit was built.
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
"$@" -DRING_ATTENTION_PORTABLE -DUNIT=portable_unit -c "$source/unit.cpp" -o "$scratch/portable.o"
for unit in plain native portable; do
  nm --defined-only "$scratch/$unit.o" | awk '{ print $NF }' | grep ring_attention | sort -u >"$scratch/$unit.symbols"
  grep -q 'engine' "$scratch/$unit.symbols" || { echo "no engine in the $unit unit" >&2; exit 1; }
done
for pair in "plain native" "plain portable" "native portable"; do
  read -r one other <<<"$pair"
  shared=$(comm -12 "$scratch/$one.symbols" "$scratch/$other.symbols" |
    grep -E 'engine|Attention.*(forward|backward)' || true)
  if [ -n "$shared" ]; then
    echo "the $one unit and the $other unit define:" >&2
    echo "$shared" | c++filt | head -n 20 >&2
    exit 1
  fi
done
"$@" -c "$source/main.cpp" -o "$scratch/main.o"
for order in "plain.o native.o portable.o" "portable.o native.o plain.o"; do
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
(cd "$scratch" && RING_ATTENTION_KERNEL=generic ./mixed environment | grep -q '^portable: ')
# Whatever the processor has, the portable unit has not.
if (cd "$scratch" && RING_ATTENTION_KERNEL=avx2 ./mixed environment) >"$scratch/refusal"; then
  echo "RING_ATTENTION_KERNEL=avx2 was accepted by the portable unit" >&2
  exit 1
fi
grep -q 'RING_ATTENTION_KERNEL = "avx2": must be .* that this processor runs: generic$' "$scratch/refusal"
