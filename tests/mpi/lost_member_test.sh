#!/usr/bin/env bash
# Kills or stops one of four ranks again and again; the other three must say PeerLost, and none may hang.
# usage: lost_member_test.sh MPIEXEC LOST_MEMBER REPETITIONS
set -u
[ $# -eq 3 ] || { echo "usage: lost_member_test.sh MPIEXEC LOST_MEMBER REPETITIONS" >&2; exit 2; }
"$1" --version 2>/dev/null | grep -q 'Open MPI' || { echo "skipped: not Open MPI, which alone is told to outlive a rank"; exit 0; }
failures=0
for ((i = 0; i < $3; ++i)); do
  for what in kill stop; do
    output=$(mktemp)
    setsid timeout --kill-after=5 60 "$1" --enable-recovery -n 4 "$2" "$what" $((i % 4)) $((i % 3)) 500 >"$output" 2>/dev/null </dev/null &
    job=$!
    for ((waited = 0; waited < 300; ++waited)); do
      [ "$(grep -c PeerLost "$output")" -ge 3 ] && break
      sleep 0.1
    done
    lost=$(grep -c '^rank [0-9]: PeerLost' "$output")
    # A rank that is stopped never ends by itself.
    kill -KILL -- -"$job" 2>/dev/null
    pkill -KILL -f "^$2 $what " 2>/dev/null
    wait "$job" 2>/dev/null
    if [ "$lost" -ne 3 ]; then
      failures=$((failures + 1))
      echo "FAIL  $what, repetition $i: $lost of 3 ranks told of the lost one:"
      cat "$output"
    fi
    rm -f "$output"
  done
done
echo "$((2 * $3)) jobs, $failures failures"
[ "$failures" -eq 0 ]
