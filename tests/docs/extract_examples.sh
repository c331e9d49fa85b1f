#!/usr/bin/env bash
# Compiles and runs every complete program in the pages of docs/classes.
# usage: extract_examples.sh PAGES_FOLDER SCRATCH_FOLDER COMPILER [COMPILER_ARGUMENT...]
# Status 0: every ```cpp block with a main() compiled and ended with status 0, and every page has one.
set -uo pipefail

[ $# -ge 3 ] || { sed -n '2,4p' "$0" >&2; exit 2; }
pages=$1 scratch=$2
shift 2
mkdir -p "$scratch" && rm -f "$scratch"/*.cpp || exit 2

failed=0
found=0
for page in "$pages"/*.md; do
  [ -f "$page" ] || { echo "no pages in $pages" >&2; exit 2; }
  name=$(basename "$page" .md)
  # Block k of a page becomes NAME_k.cpp; #line makes the compiler's messages name the page.
  awk -v stem="$scratch/$name" -v page="$page" '
    !inside && /^```cpp *$/ { inside = 1; text = "#line " NR + 1 " \"" page "\"\n"; next }
    inside && /^``` *$/ {
      inside = 0
      if (text ~ /int main\(/) { file = stem "_" ++count ".cpp"; printf "%s", text > file; close(file) }
      next
    }
    inside { text = text $0 "\n" }
    END { if (inside) { print page ": a block is not closed" > "/dev/stderr"; exit 1 } }
  ' "$page" || failed=1
  if [ ! -f "$scratch/${name}_1.cpp" ]; then
    echo "$page has no complete program" >&2
    failed=1
    continue
  fi
  for source in "$scratch/${name}"_*.cpp; do
    found=$((found + 1))
    program=${source%.cpp}
    echo "== $(basename "$program")"
    if ! "$@" "$source" -o "$program"; then
      echo "$page: the example does not compile" >&2
      failed=1
    elif ! "$program"; then
      echo "$page: the example fails" >&2
      failed=1
    fi
  done
done
echo "$found examples"
[ "$failed" -eq 0 ]
