#!/usr/bin/env bash
# Compiles a unit and fails where that takes more processor time than a limit. The limit is for a machine on which the
# probe, a unit without this library, takes PROBE_SECONDS; where the probe takes longer, so may the unit. A busy machine
# can double the time of one run, so the best of three counts.
# usage: compile_time.sh LIMIT PROBE_SECONDS PROBE UNIT COMPILER [FLAG...]
set -euo pipefail
limit=$1 probe_seconds=$2 probe=$3 unit=$4
shift 4
export LC_ALL=C
TIMEFORMAT='%U %S'

# compile SOURCE COMPILER [FLAG...]: prints the seconds.
compile() {
  local source=$1 times
  shift
  exec 3>&2  # the compiler's own errors must not end up among the times
  times=$({ time "$@" -c -o /dev/null "$source" 2>&3; } 2>&1) || return
  awk '{ printf "%.2f", $1 + $2 }' <<<"${times##*$'\n'}"
}

for _ in 1 2 3; do
  of_probe=$(compile "$probe" "$@")
  of_unit=$(compile "$unit" "$@")
  allowed=$(awk "BEGIN { slower = $of_probe / $probe_seconds; print $limit * (slower > 1 ? slower : 1) }")
  echo "$of_unit s of processor time, at most $allowed s, the probe $of_probe s"
  if awk "BEGIN { exit !($of_unit <= $allowed) }"; then
    exit 0
  fi
done
echo "more than $limit s each time, and than what the probe allows: $unit" >&2
exit 1
