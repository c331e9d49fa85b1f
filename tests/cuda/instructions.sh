#!/usr/bin/env bash
# The machine code of fast kernels: tensor cores (of TF32 numbers for float), matrices loaded for them,
# asynchronous copies, and no registers spilled to memory.
# usage: instructions.sh CUOBJDUMP PREFIX
set -euo pipefail
cuobjdump=$1 prefix=$2
if [ ! -x "$cuobjdump" ]; then
  echo "skipped: there is no cuobjdump"
  exit 0
fi
library=$(find "$prefix" -name libring_attention_cuda_compiled.a)
# One line for each kernel: how often it has each instruction.
"$cuobjdump" -sass "$library" | awk '
  BEGIN { split("HMMA.16816 HMMA.1688 LDSM LDGSTS LDL STL", names, " ") }
  /Function :/ { if (kernel != "") print_counts(); kernel = $3 ~ /4sm807forward/ ? $3 : ""; split("", counts) }
  kernel != "" { for (i in names) if (index($0, " " names[i])) ++counts[names[i]] }
  END { if (kernel != "") print_counts(); exit bad || kernels == 0 }
  function print_counts() {
    ++kernels
    product = kernel ~ /4sm807forwardIf/ ? "HMMA.1688" : "HMMA.16816"
    good = counts[product] && counts["LDSM"] && counts["LDGSTS"] && !counts["LDL"] && !counts["STL"]
    if (!good) bad = 1
    printf "%s %s:", good ? "ok" : "FAILED", kernel
    for (i = 1; i in names; ++i) printf " %s %d", names[i], counts[names[i]]
    printf "\n"
  }'
