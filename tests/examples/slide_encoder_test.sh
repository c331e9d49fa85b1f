#!/usr/bin/env bash
# Runs the slide_encoder program over good and broken files: exit status, messages, results, no half-written output.
# usage: slide_encoder_test.sh SLIDE_ENCODER DATA_DIR
set -u
export LC_ALL=C

if [ $# -ne 2 ] || [ ! -x "$1" ] || [ ! -d "$2" ]; then
  echo "usage: slide_encoder_test.sh SLIDE_ENCODER DATA_DIR" >&2
  exit 2
fi
program=$(realpath "$1")
weights=$(realpath "$2")/weights.safetensors
tiles=$(realpath "$2")/io.safetensors
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/program_checks.sh"

header_size() { od -An -N8 -tu8 "$1" | tr -d ' '; }
header() { tail -c +9 "$1" | head -c "$(header_size "$1")"; }

# floats FILE FIRST COUNT: numbers of a file of float32 tensors, counted from the first tensor.
floats() { tail -c +$((9 + $(header_size "$1") + 4 * $2)) "$1" | head -c $((4 * $3)) | od -An -v -w4 -tf4; }

# reference NAME: where the tensor lies in the file of references, in floats.
reference() {
  local begin
  begin=$(header "$tiles" | grep -oP "\"$1\":\{[^}]*\"data_offsets\":\[\K[0-9]+")
  floats "$tiles" $((begin / 4)) 64
}

# similar FILE REFERENCE COSINE DIFFERENCE: the first 64 numbers are near those of the reference.
similar() {
  paste <(floats "$1" 0 64) <(reference "$2") | awk -v cosine="$3" -v largest="$4" '
    NF == 2 && $1 == $1 + 0 && $2 == $2 + 0 {
      ++n; dot += $1 * $2; a += $1 * $1; b += $2 * $2; d = $1 - $2; if (d < 0) d = -d; if (d > worst) worst = d
    }
    END { exit !(n == 64 && dot > cosine * sqrt(a * b) && worst < largest) }'
}

for pool in cls mean; do
  runs 0 "encoded 109 tiles" --weights "$weights" --tiles "$tiles" --out float.safetensors --pool $pool
  check "$pool embedding in float" similar float.safetensors ${pool}_embedding 0.999999 1e-4
  runs 0 "encoded 109 tiles" --weights "$weights" --tiles "$tiles" --out short.safetensors --pool $pool \
    --scalar bfloat16 --threads 1
  check "$pool embedding in bfloat16" similar short.safetensors ${pool}_embedding 0.9995 0.1
  check "bfloat16 is not float" test "$(floats float.safetensors 0 64)" != "$(floats short.safetensors 0 64)"
done
check "the comparison can fail" test "$(similar float.safetensors cls_embedding 0.9995 0.1; echo $?)" -ne 0
check "the embedding is [1, embed]" grep -qF '"embedding":{"data_offsets":[0,256],"dtype":"F32","shape":[1,64]}' \
  <(header float.safetensors)

# GigaPath's all_layer_embed: the state before the first layer, and after each.
runs 0 "peak memory" --weights "$weights" --tiles "$tiles" --out all.safetensors --pool mean --all-layers
check "an embedding of every layer" grep -qF '"dtype":"F32","shape":[3,64]' <(header all.safetensors)
check "the output's embedding is the same" test "$(floats all.safetensors 0 64)" = "$(floats float.safetensors 0 64)"

# Refused files leave nothing behind, and an existing output as it is.
echo "what was there" >kept
refused() { # MESSAGE WEIGHTS TILES
  runs 1 "$1" --weights "$2" --tiles "$3" --out kept
  check "an existing output is left alone after: $1" test "$(cat kept)" = "what was there"
}
for bytes in 0 7 100 8000 100000 $(($(stat -c %s "$weights") - 1)); do
  head -c "$bytes" "$weights" >broken
  refused "broken: truncated" broken "$tiles"
done
head -c $(($(stat -c %s "$tiles") - 1)) "$tiles" >broken
refused "broken: truncated" "$weights" broken
sed 's/layers.1.ffn.fc2.bias/layers.1.ffn.fc3.bias/' "$weights" >broken
refused 'tensor "encoder.layers.1.ffn.fc2.bias" is missing, expected shape [64]' broken "$tiles"
sed 's/"slide_ngrids":"16"/"slide_ngrids":"11"/; s/"slide_ngrids": "16"/"slide_ngrids": "11"/' "$weights" >broken
refused 'expected a number in [0, 2816): slide_ngrids * tile_size' broken "$tiles"
refused 'tensor "x" is missing, expected shape [n, 24]' "$weights" "$weights"
refused "metadata lacks" "$tiles" "$tiles"
refused "no such file" missing "$tiles"
refused "no such file" "$weights" missing
runs 1 "cannot write: there is no folder" --weights "$weights" --tiles "$tiles" --out missing/folder/out
cp "$weights" precious
runs 1 "precious: is read, and is not overwritten" --weights precious --tiles "$tiles" --out ./precious
check "weights named as output are as they were" cmp -s precious "$weights"
runs 1 "cannot write: not a regular file" --weights "$weights" --tiles "$tiles" --out "$folder"

# The command line.
good=(--weights "$weights" --tiles "$tiles" --out never)
runs 0 "usage: slide_encoder --weights" --help
runs 1 "--weights is needed"
runs 1 "--out is needed" --weights "$weights" --tiles "$tiles"
runs 1 '--pool = "max": must be one of cls, mean' "${good[@]}" --pool max
runs 1 '--scalar = "half": must be one of float, bfloat16' "${good[@]}" --scalar half
runs 1 "--threads = 0: must be positive" "${good[@]}" --threads 0
runs 1 "--synthetic-full = 0: must lie in" --weights new --tiles new --synthetic-full 0
runs 1 "drop --out" "${good[@]}" --synthetic-full 5
runs 1 "drop --pool" --weights new --tiles new --synthetic-full 5 --pool mean
runs 1 "new: weights and tiles need a file each" --weights new --tiles new --synthetic-full 5
runs 1 "there is no folder" --weights new --tiles missing/new --synthetic-full 5
runs 1 "precious: exists, and is not overwritten" --weights precious --tiles new --synthetic-full 5
check "a file that was there is as it was" cmp -s precious "$weights"
check "nothing was written after a mistake" test ! -e never -a ! -e new
check "no temporary file is left" test -z "$(find . -name '*.partial*')"

echo "$checks checks, $failures failures"
[ "$failures" -eq 0 ]
