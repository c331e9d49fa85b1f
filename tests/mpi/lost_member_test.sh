#!/usr/bin/env bash
# Kills or stops one of four ranks again and again; the other three must say PeerLost in time, and none may hang.
# usage: lost_member_test.sh MPIEXEC LOST_MEMBER REPETITIONS
set -u
[ $# -eq 3 ] || { echo "usage: lost_member_test.sh MPIEXEC LOST_MEMBER REPETITIONS" >&2; exit 2; }
"$1" --version 2>/dev/null | grep -qE 'Open MPI|OpenRTE' ||
  { echo "skipped: $1 is not Open MPI's, which can be told to outlive a rank"; exit 0; }
program=$2
timeout_ms=500
# What a busy machine adds to the timeout: a rank may wait for a processor, and its peers for the rank.
longest_s=10
output=$(mktemp)
job=
end_job() {
  [ -n "$job" ] || return 0
  # A rank that is stopped never ends by itself. Without ranks mpirun ends, and leaves nothing behind.
  pkill -KILL -f "^$program (kill|stop) "
  for ((left = 0; left < 50; ++left)); do
    kill -0 "$job" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$job" 2>/dev/null
  job=
}
trap 'end_job; rm -f "$output"' EXIT
trap 'exit 1' INT TERM

failures=0
for ((i = 0; i < $3; ++i)); do
  for what in kill stop; do
    : >"$output" # before the job opens it: the lines of the last job must not count
    setsid "$1" --enable-recovery -n 4 "$program" "$what" $((i % 4)) $((i % 3)) $((i / 4 % 4)) "$timeout_ms" \
      >"$output" 2>&1 </dev/null &
    job=$!
    disown "$job"
    for ((waited = 0; waited < 300; ++waited)); do
      [ "$(grep -c '^rank' "$output")" -ge 3 ] && break
      kill -0 "$job" 2>/dev/null || break
      sleep 0.1
    done
    told=$(awk -v longest="$longest_s" '/^rank [0-9]: PeerLost after/ && $5 <= longest' "$output" | wc -l)
    end_job
    if [ "$told" -ne 3 ]; then
      failures=$((failures + 1))
      echo "FAIL  $what, repetition $i: $told of 3 ranks told of the lost one in time:"
      cat "$output"
    fi
  done
done
echo "$((2 * $3)) jobs, $failures failures"
[ "$failures" -eq 0 ]
