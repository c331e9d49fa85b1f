#!/usr/bin/env bash
# The API reference builds without a warning, shows what callers use, and fails where a public name has no comment.
# reference_test.sh DOXYGEN DOXYFILE, with the DOXYFILE of CMake's target `reference`
set -uo pipefail

doxygen=$1 doxyfile=$2
if [ ! -x "$doxygen" ] || [ ! -f "$doxyfile" ]; then
  echo "skipped: doxygen 1.9.1 or later was not found (Debian and Ubuntu: apt-get install doxygen)"
  exit 0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0
fail() {
  echo "$1" >&2
  failed=1
}

# build NAME LINE...: the reference with further lines in its configuration; its warnings are in NAME.log.
build() {
  local name=$1
  shift
  mkdir "$scratch/$name"
  { cat "$doxyfile"; printf '%s\n' "OUTPUT_DIRECTORY = $scratch/$name" "$@"; } >"$scratch/$name.doxyfile"
  "$doxygen" "$scratch/$name.doxyfile" >"$scratch/$name.log" 2>&1
}

build whole || { cat "$scratch/whole.log" >&2; fail "the reference has warnings"; }
html=$scratch/whole/html

# page NAME TEXT...: the page of a class has these texts.
page() {
  local file=$html/$1.html shown text
  shift
  [ -f "$file" ] || { fail "no page $file"; return; }
  shown=$(sed 's/<[^>]*>//g; s/&#160;/ /g; s/&lt;/</g; s/&gt;/>/g' "$file")
  for text in "$@"; do
    [[ $shown == *"$text"* ]] || fail "$file lacks: $text"
  done
}

class=classring__attention_1_1
whole=("forward_with_lse" "backward" "[b, n, h, d]" "std::invalid_argument")
page ${class}RingDilatedAttentionV2 "arXiv 2307.02486" "${whole[@]}"
page ${class}RingDilatedAttentionProduction "workspace_limit_bytes" "OutOfWorkspace" "${whole[@]}"
page ${class}TrueRingDilatedAttention "plan_report" "${whole[@]}"
page ${class}BlockSparseRingDilatedAttention "forward_with_probabilities" "${whole[@]}"
shards=("forward_with_lse" "backward" "[b, m, h, d]" "bytes_sent" "shard_ranges")
page ${class}RingDistributedDilatedAttention "arXiv 2307.02486" "${shards[@]}"
page ${class}BlockSparseRingDistributedDilatedAttention "${shards[@]}"
page structring__attention_1_1AttentionConfig "segment_lengths" "in tokens"
page namespacering__attention "set_num_threads" "available_kernels" "torchscale_preset" "get_global_pattern_cache"
page index "Exact ring dilated attention"
# Doxygen writes v0_2 as v0__2.
for name in detail engine 'v[0-9]'; do
  if compgen -G "$html/*ring__attention_1_1$name*" >/dev/null; then fail "the reference shows what is in $name"; fi
done

mkdir "$scratch/undocumented_source"
printf '/// \\namespace ring_attention\n/// Documented.\nnamespace ring_attention {\nvoid undocumented();\n}\n' \
  >"$scratch/undocumented_source/header.hpp"
if build undocumented "INPUT = $scratch/undocumented_source" "USE_MDFILE_AS_MAINPAGE ="; then
  fail "a function without a comment is accepted"
elif ! grep -q "undocumented() .*is not documented" "$scratch/undocumented.log"; then
  cat "$scratch/undocumented.log" >&2
  fail "a function without a comment is not told"
fi
exit "$failed"
