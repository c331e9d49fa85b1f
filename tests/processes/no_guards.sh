#!/usr/bin/env bash
# That nothing in the library is initialised behind a guard of the compiler, as static variables of functions are: a
# thread may be in such an initialisation when another one forks, and the child would wait for it for ever.
# usage: no_guards.sh "OBJECT;..." COMPILER [COMPILER_ARGUMENT...]
set -euo pipefail
IFS=';' read -r -a objects <<<"$1"
shift
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

uses_guards() { nm -u "$1" >"$scratch/symbols" && grep -q __cxa_guard_acquire "$scratch/symbols"; }
echo 'int make(); int& made() { static int value = make(); return value; }' >"$scratch/unit.cpp"
"$@" -c "$scratch/unit.cpp" -o "$scratch/unit.o"
if ! uses_guards "$scratch/unit.o"; then
  echo "skipped: this compiler's guards have another name"
  exit 0
fi
checked=0
for object in "${objects[@]}"; do
  [[ $object == *.o ]] || continue  # the others are headers that were read beforehand
  checked=$((checked + 1))
  if uses_guards "$object"; then
    echo "a static variable of a function is initialised when it is first needed: $object" >&2
    nm -C "$object" | grep 'guard variable for' >&2
    exit 1
  fi
done
[ "$checked" -gt 0 ]
