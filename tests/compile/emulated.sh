#!/usr/bin/env bash
# The quickstart and every scalar, compiled for another processor, which is emulated.
# usage: emulated.sh COMPILER EMULATOR PROJECT FOLDER [FLAG...]
set -euo pipefail
compiler=$1 emulator=$2 project=$3 folder=$4
shift 4
if [ ! -x "$compiler" ] || [ ! -x "$emulator" ]; then
  echo "skipped: there is no cross compiler, or no emulator, for this processor"
  exit 0
fi
mkdir -p "$folder"

# build SOURCE PROGRAM FLAG...
build() {
  local source=$1 program=$2
  shift 2
  "$compiler" -std=c++20 -O0 -static "$@" "$source" -o "$program" -pthread
}

# The whole quickstart takes minutes there; with 512 tokens, its segments are cut off at them.
sed 's/16384/512/g' "$project/examples/quickstart.cpp" >"$folder/quickstart.cpp"
grep -q 512 "$folder/quickstart.cpp"
build "$folder/quickstart.cpp" "$folder/quickstart" "$@" &
build "$project/tests/compile/four_scalars.cpp" "$folder/four_scalars" "$@"
wait $!
"$emulator" "$folder/four_scalars"
"$emulator" "$folder/quickstart" | tee "$folder/quickstart.txt"
# Tokens 2, 6, 10, ... 510.
grep -q '= 256\.0, ' "$folder/quickstart.txt"
grep -q '= 4\.8520, ' "$folder/quickstart.txt"
