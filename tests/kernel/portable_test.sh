#!/usr/bin/env bash
# That a portable build is one: a unit of it reads no header of intrinsics, and no object uses a vector register that an
# x86-64 processor need not have. Both searches must find what they look for elsewhere, or the test proves nothing.
# usage: portable_test.sh "OBJECT;..." COMPILER [COMPILER_ARGUMENT...]
set -euo pipefail
IFS=';' read -r -a objects <<<"$1"
shift
if [ "$(uname -m)" != x86_64 ]; then
  echo "skipped: every build for $(uname -m) is portable"
  exit 0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

echo '#include <ring_attention/ring_attention.hpp>' >"$scratch/unit.cpp"
intrinsics() { "$@" -M "$scratch/unit.cpp" | { grep -oE '[^ ]*/[a-z0-9]*intrin\.h' || true; }; }
found=$(intrinsics "$@" -DRING_ATTENTION_PORTABLE -DEIGEN_DONT_VECTORIZE)
if [ -n "$found" ]; then
  echo "a portable unit reads $found" >&2
  exit 1
fi
found=$(intrinsics "$@")
if [[ $found != */immintrin.h* ]]; then
  echo "the search for headers does not find immintrin.h in other units" >&2
  exit 1
fi

uses_wide_registers() { objdump -d "$1" | grep -E '%([yz]|t)mm[0-9]' >"$scratch/lines"; }
for object in "${objects[@]}"; do
  if [ ! -f "$object" ]; then
    echo "there is no $object" >&2
    exit 1
  fi
  if uses_wide_registers "$object"; then
    echo "$object uses registers that not every processor has:" >&2
    head -n 3 "$scratch/lines" >&2
    exit 1
  fi
done
cat >"$scratch/wide.cpp" <<'TEXT'
typedef float Lanes __attribute__((vector_size(32)));
__attribute__((target("avx2"))) void add(Lanes& a, const Lanes& b) { a += b; }
TEXT
"$@" -O1 -c "$scratch/wide.cpp" -o "$scratch/wide.o"
if ! uses_wide_registers "$scratch/wide.o"; then
  echo "the search for registers does not find those of AVX2" >&2
  exit 1
fi
