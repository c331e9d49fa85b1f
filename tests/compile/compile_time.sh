#!/usr/bin/env bash
# Compiles a unit with the library's definitions and beside the compiled library, and fails where either takes more
# processor time than its limit. The limits are for a machine on which the probe, a unit without this library, takes
# PROBE_SECONDS; where the probe takes longer, so may the unit. A busy machine can double the time of one run, so the
# best of three counts.
# usage: compile_time.sh LIMIT DECLARATIONS_LIMIT PROBE_SECONDS PROBE UNIT COMPILER [FLAG...]
set -euo pipefail
limit=$1 declarations_limit=$2 probe_seconds=$3 probe=$4 unit=$5
shift 5
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

# is_within LIMIT PROBE_TAKEN COMPILER [FLAG...]
is_within() {
  local limit=$1 of_probe=$2 of_unit allowed
  shift 2
  of_unit=$(compile "$unit" "$@") || exit
  allowed=$(awk "BEGIN { slower = $of_probe / $probe_seconds; print $limit * (slower > 1 ? slower : 1) }")
  echo "$of_unit s of processor time, at most $allowed s, the probe $of_probe s"
  awk "BEGIN { exit !($of_unit <= $allowed) }"
}

whole=false declarations=false
for _ in 1 2 3; do
  of_probe=$(compile "$probe" "$@")
  if ! $whole && is_within "$limit" "$of_probe" "$@"; then whole=true; fi
  if ! $declarations && is_within "$declarations_limit" "$of_probe" "$@" -DRING_ATTENTION_COMPILED; then
    declarations=true
  fi
  if $whole && $declarations; then exit 0; fi
done
$whole || echo "more than $limit s each time, and than what the probe allows: $unit" >&2
$declarations || echo "more than $declarations_limit s each time, and than the probe allows: declarations of $unit" >&2
exit 1
