#!/usr/bin/env bash
# The table of SCALING.md is what scaling_table prints, and scaling_table tells mistakes.
# usage: scaling_table_test.sh SCALING_TABLE PAGE
set -u
export LC_ALL=C
[ $# -eq 2 ] && [ -x "$1" ] && [ -f "$2" ] || { echo "usage: scaling_table_test.sh SCALING_TABLE PAGE" >&2; exit 2; }
program=$(realpath "$1") page=$(realpath "$2")
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../examples/program_checks.sh"

# The lines between the two marks that the page has around the table.
sed -n '/^<!-- scaling_table -->$/,/^<!-- end of scaling_table -->$/p' "$page" | sed '1d;$d' >in_page
"$program" >printed
check "the program prints a table" test "$(wc -l <printed)" -ge 18
check "the table of $page is the program's output" diff in_page printed

runs 0 "usage: scaling_table" --help
runs 1 "scaling_table: --gflops = 0: must be positive" --gflops 0
runs 1 "scaling_table: --ranks: numbers must be positive" --ranks 8,0
runs 1 'scaling_table: --tokens = "1M": must be an integer' --tokens 1M
runs 1 'scaling_table: unknown argument "--nodes"' --nodes 3
# Half the rate, twice the time; the message counts stay.
runs 0 "| 7 | 1.31 s |" --tokens 1000000 --ranks 8 --gflops 1600
# One rank sends nothing and waits for nothing.
runs 0 "| 0.00 kB | 0 % | 0 | 5.23 s | 1.00 | 1.00 | 1.00 |" --tokens 1000000 --ranks 1

echo "$checks checks, $failures failures"
[ "$failures" -eq 0 ]
