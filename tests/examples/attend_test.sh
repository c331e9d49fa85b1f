#!/usr/bin/env bash
# Runs the attend program over good and broken files: exit status, messages, results, no half-written output.
# usage: attend_test.sh ATTEND DATA_DIR
set -u
export LC_ALL=C

if [ $# -ne 2 ] || [ ! -x "$1" ] || [ ! -d "$2" ]; then
  echo "usage: attend_test.sh ATTEND DATA_DIR" >&2
  exit 2
fi
program=$(realpath "$1")
data=$(realpath "$2")
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/program_checks.sh"

# little_endian NUMBER: eight bytes.
little_endian() {
  local value=$1 i
  for ((i = 0; i < 8; i++)); do
    printf %b "\\x$(printf '%02x' $(((value >> (8 * i)) & 255)))"
  done
}

# with_header JSON: a file whose data comes from standard input.
with_header() {
  little_endian ${#1}
  printf '%s' "$1"
  cat
}

# tensor NAME DTYPE SHAPE BEGIN END: a header entry.
tensor() { printf '"%s":{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}' "$@"; }

# qkv Q_SHAPE Q_BYTES K_SHAPE K_BYTES V_SHAPE V_BYTES: a file of zeros with float tensors q, k and v.
qkv() {
  with_header "{$(tensor q F32 "$1" 0 "$2"),$(tensor k F32 "$3" "$2" $(($2 + $4))),$(
    tensor v F32 "$5" $(($2 + $4)) $(($2 + $4 + $6)))}" < <(head -c $(($2 + $4 + $6)) /dev/zero)
}

# header FILE: its JSON text. body FILE: the bytes after it.
header_size() { od -An -N8 -tu8 "$1" | tr -d ' '; }
header() { tail -c +9 "$1" | head -c "$(header_size "$1")"; }
body() { tail -c +$((9 + $(header_size "$1"))) "$1"; }

even=$data/longnet_even.safetensors
ragged=$data/longnet_ragged.safetensors

# Reference outputs, at several ring sizes; segments, rates and causal come from the files.
for file in "$data"/*.safetensors; do
  for ring_size in 1 3 7; do
    runs 0 "agrees" --input "$file" --preset torchscale --compare out --ring-size $ring_size --output out.safetensors
  done
done
runs 0 "wrote out.safetensors" --input "$even" --preset torchscale --output out.safetensors
check "out is [b, n, h, d]" grep -qF '"out":{"data_offsets":[0,65536],"dtype":"F32","shape":[2,128,4,16]}' \
  <(header out.safetensors)
check "lse is [b, h, n]" grep -qF '"lse":{"data_offsets":[65536,69632],"dtype":"F32","shape":[2,4,128]}' \
  <(header out.safetensors)
check "the output tells its configuration" grep -qF '"segment_lengths":"[32,64,128]"' <(header out.safetensors)

# What was written is what was compared: it serves as the reference of a second run.
with_header "{$(tensor q F32 '[2,128,4,16]' 0 65536),$(tensor k F32 '[2,128,4,16]' 65536 131072),$(
  tensor v F32 '[2,128,4,16]' 131072 196608),$(tensor expected F32 '[2,128,4,16]' 196608 262144)}" < <(
  body "$even" | tail -c +393217 | head -c 65536 # q
  body "$even" | tail -c +262145 | head -c 65536 # k
  body "$even" | tail -c +458753 | head -c 65536 # v
  body out.safetensors | head -c 65536
) >again.safetensors
runs 0 'largest difference from "expected": 0 ' --input again.safetensors --preset torchscale \
  --segments 32,64,128 --rates 1,2,4 --compare expected --tolerance 0

# A comparison can fail, and NaN always does.
runs 1 "DIFFERS" --input "$even" --preset torchscale --compare v
runs 1 "DIFFERS" --input "$even" --preset torchscale --causal --compare out
runs 1 "DIFFERS" --input "$even" --preset torchscale --compare out --tolerance 1e-12
runs 1 "DIFFERS" --input "$even" --preset torchscale --compare out --tolerance nan
runs 1 'no tensor named "missing"' --input "$even" --preset torchscale --compare missing
nan='\0\0\300\177'
one_token="$(tensor q F32 '[1,1,1,1]' 0 4),$(tensor k F32 '[1,1,1,1]' 4 8),$(tensor v F32 '[1,1,1,1]' 8 12)"
with_header "{$one_token,$(tensor out F32 '[1,1,1,1]' 12 16),$(tensor row F32 '[1]' 16 20)}" \
  < <(printf %b '\0\0\0\0\0\0\0\0\0\0\0\0'"$nan$nan") >nan.safetensors
runs 1 "DIFFERS" --input nan.safetensors --segments 1 --rates 1 --compare out --tolerance 1e30
runs 1 'tensor "row" has shape [1], expected [1, 1, 1, 1]' --input nan.safetensors --segments 1 --rates 1 --compare row

# [b, h, n, d] data gives the same bits as [b, n, h, d]. Two tokens, two heads, one dimension: 1, 2, 3, 4 and
# 1, 3, 2, 4 are each other's transpose.
one='\0\0\200\77' two='\0\0\0\100' three='\0\0\100\100' four='\0\0\200\100'
square="$(tensor q F32 '[1,2,2,1]' 0 16),$(tensor k F32 '[1,2,2,1]' 16 32),$(tensor v F32 '[1,2,2,1]' 32 48)"
by_rows=$one$two$three$four by_heads=$one$three$two$four
with_header "{$square}" < <(printf %b "$by_rows$by_rows$by_rows") >rows.safetensors
with_header "{$square}" < <(printf %b "$by_heads$by_heads$by_heads") >heads.safetensors
dense=(--segments 2 --rates 1 --scale 0.3)
runs 0 "wrote" --input rows.safetensors "${dense[@]}" --output rows_out.safetensors
runs 0 "wrote" --input heads.safetensors "${dense[@]}" --layout bhnd --output heads_out.safetensors
element() { body "$1" | tail -c +$((1 + 4 * $2)) | head -c 4 | od -An -tx4; }
for pair in "0 0" "1 2" "2 1" "3 3" "4 4" "5 5" "6 6" "7 7"; do # four of out, then four of lse
  check "layouts agree on element ${pair% *}" \
    test "$(element rows_out.safetensors "${pair% *}")" = "$(element heads_out.safetensors "${pair#* }")"
done
check "the two heads differ" test "$(element rows_out.safetensors 0)" != "$(element rows_out.safetensors 1)"

# Tokens from --lengths on: output 0, log-sum-exp -infinity.
runs 0 "wrote" --input rows.safetensors "${dense[@]}" --lengths 1 --output short.safetensors
check "row 0 runs to itself" test "$(element short.safetensors 0)" = " 3f800000"
check "row 1 is empty" test "$(element short.safetensors 2)$(element short.safetensors 3)" = " 00000000 00000000"
check "row 1 has log-sum-exp -infinity" test "$(element short.safetensors 5)" = " ff800000"

# Scalars.
for scalar in float:F32:F32 double:F64:F64 half:F16:F32 bfloat16:BF16:F32; do
  IFS=: read -r name out lse <<<"$scalar"
  runs 0 "agrees" --input "$ragged" --preset torchscale --compare out --threads 1 --scalar "$name" \
    --output scalar.safetensors
  check "out has dtype $out" grep -q '"out":{[^}]*"dtype":"'"$out"'"' <(header scalar.safetensors)
  check "lse has dtype $lse" grep -q '"lse":{[^}]*"dtype":"'"$lse"'"' <(header scalar.safetensors)
done

# Broken files. An existing output stays as it is.
echo "what was there" >kept
refused() { # MESSAGE FILE ARGUMENTS...
  local message=$1 file=$2
  shift 2
  runs 1 "$message" --input "$file" --segments 16 --rates 1 --output kept "$@"
  check "an existing output is left alone after: $message" test "$(cat kept)" = "what was there"
}
for bytes in 0 5 8 500 1048 1100 100000 $(($(stat -c %s "$ragged") - 1)); do
  head -c "$bytes" "$ragged" >broken
  refused "truncated" broken
done
{ printf '\377\377\377\377\377\377\377\177' && tail -c +9 "$ragged"; } >broken
refused "header length 9223372036854775807 exceeds the limit" broken
printf 'GIF89a, surely not a tensor' >broken
refused "exceeds the limit" broken
with_header 'not json at all!' </dev/null >broken
refused "not valid JSON" broken
with_header '[1, 2]' </dev/null >broken
refused "header is not a JSON object" broken
with_header "{$(tensor q F32 '[2]' 0 4)}" < <(printf %b "$one") >broken
refused 'tensor "q": shape [2] of F32 takes 8 bytes, data_offsets span 4' broken
with_header "{$(tensor q F32 '[1,1,1,1]' 0 4),$(tensor k F32 '[1,1,1,1]' 4 8)}" < <(printf %b "$one$one") >broken
refused 'no tensor named "v" (has: k, q)' broken
with_header "{${one_token//F32/I32}}" < <(printf %b "$one$one$one") >broken
refused '"q" has dtype I32, expected one of F64, F32, F16, BF16' broken
qkv '[1,10,4]' 160 '[1,10,4]' 160 '[1,10,4]' 160 >broken
refused 'tensor "q" has shape [1, 10, 4], expected rank 4: [b, n, h, d]' broken
qkv '[1,10,2,4]' 320 '[1,9,2,4]' 288 '[1,9,2,4]' 288 >broken
refused "disagree" broken
qkv '[1,10,2,4]' 320 '[1,10,2,4]' 320 '[1,10,2,8]' 640 >broken
refused "disagree" broken
qkv '[1,10,3,4]' 480 '[1,10,2,4]' 320 '[1,10,2,4]' 320 >broken
refused "q heads = 3: must be a multiple of the key/value heads" broken
qkv '[2,10,2,4]' 640 '[2,10,2,4]' 640 '[2,10,2,4]' 640 >plain
refused "--lengths has 1 entries: must be one per batch item, 2" plain --lengths 4
refused "--lengths has 11: must lie in [0, 10]" plain --lengths 4,11
refused "no such file" missing
refused "not a regular file" "$folder"
refused "not a regular file" /dev/null

# The command line.
runs 0 "usage: attend --input FILE" --help
good=(--input "$even" --output never)
runs 1 "--input is needed"
runs 1 "--output or --compare is needed" --input "$even"
runs 1 'unknown argument "--speed"' "${good[@]}" --speed 3
runs 1 'unknown argument "stray"' "${good[@]}" stray
runs 1 "--scale needs a value" "${good[@]}" --scale
runs 1 "--causal takes no value" "${good[@]}" --causal=yes
runs 1 "exclude each other" "${good[@]}" --causal --no-causal
runs 1 '--ring-size = "two": must be an integer' "${good[@]}" --ring-size two
runs 1 "ring_size = 0: must be positive" "${good[@]}" --ring-size 0
runs 1 '--segments = "": must be an integer' "${good[@]}" --segments 16,,8
runs 1 "dilation_rates.size() = 2" "${good[@]}" --segments 16 --rates 1,2
runs 1 "segment_lengths[0] = 0: must be positive" "${good[@]}" --segments 0,1,2
runs 1 '--scale = "x": must be a number' "${good[@]}" --scale x
runs 1 "must be finite" "${good[@]}" --scale inf
runs 1 '--preset = "other": must be one of ring, longnet, torchscale' "${good[@]}" --preset other
runs 1 "must be one of float, double, half, bfloat16" "${good[@]}" --scalar int8
runs 1 "--threads = 0: must be positive" "${good[@]}" --threads 0
runs 1 "cannot write" --input "$even" --output missing/folder/out
runs 1 "cannot write: not a regular file" --input "$even" --output "$folder"
runs 1 "--segments is needed: the file's metadata has no segment_lengths" --input plain --output never
runs 1 "--rates is needed" --input plain --output never --segments 4
runs 0 "agrees" --input plain --segments=4,10 --rates=1,2 --offset-rule by_head --query-rule dilated \
  --head-partition shared --padding-rule masked --compare v
check "no output after a mistake" test ! -e never
check "no temporary file is left" test -z "$(find . -name '*.partial*')"

echo "$checks checks, $failures failures"
[ "$failures" -eq 0 ]
