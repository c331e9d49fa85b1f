#!/usr/bin/env bash
# Compilers and flags that the library cannot work with get one #error that says what is needed, and no other message.
# Missing compilers are imitated by their macros.
# usage: refuses.sh INCLUDE_FOLDER COMPILER
set -uo pipefail
export LC_ALL=C
include=$1 compiler=$2
status=0

# refuses TEXT COMPILER [FLAG...]
refuses() {
  local text=$1 output errors
  shift
  output=$("$@" "-I$include" -fsyntax-only -x c++ - 2>&1 <<<'#include <ring_attention/ring_attention.hpp>
#include <ring_attention/json.hpp>
int main() { return ring_attention::num_threads(); }') && { echo "accepted: ${*}"; status=1; return; }
  # The second ends the compilation.
  errors=$(grep -E '(^|[: ])(fatal )?error: ' <<<"$output")
  if [ "$(wc -l <<<"$errors")" != 2 ] || ! head -n 1 <<<"$errors" | grep -qF "$text" ||
    ! tail -n 1 <<<"$errors" | grep -q 'fatal error: .*see_the_error_above'; then
    printf 'not one #error with "%s": %s\n%s\n' "$text" "${*}" "$output"
    status=1
  fi
}

refuses 'build without -ffast-math' "$compiler" -std=c++20 -ffast-math
refuses 'build without -ffast-math, -ffinite-math-only' "$compiler" -std=c++20 -ffinite-math-only
refuses 'build without -fno-exceptions' "$compiler" -std=c++20 -fno-exceptions
refuses 'needs C++20: compile with -std=c++20' "$compiler" -std=c++17
if "$compiler" --version | grep -q clang; then
  refuses 'needs g++ 12 or later, or clang++ ' "$compiler" -std=c++20 -w -U__clang_major__ -D__clang_major__=9
else
  refuses 'needs g++ 12 or later, or clang++ ' "$compiler" -std=c++20 -w -U__GNUC__ -D__GNUC__=11
  refuses "MSVC's cl lacks" "$compiler" -std=c++20 -D_MSC_VER=1943
fi
case $("$compiler" -dumpmachine) in
  x86_64*) refuses 'with -msse2 -mfpmath=sse' "$compiler" -std=c++20 -m32 -mno-sse ;;
esac
if [ -n "$(command -v g++-11)" ]; then
  refuses 'needs g++ 12 or later, or clang++ ' g++-11 -std=c++20
fi
exit $status
