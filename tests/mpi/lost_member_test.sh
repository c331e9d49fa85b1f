#!/usr/bin/env bash
# Kills or stops one of four ranks again and again; the other three must say PeerLost in time, and none may hang.
# usage: lost_member_test.sh MPIEXEC LOST_MEMBER REPETITIONS
set -u
[ $# -eq 3 ] || { echo "usage: lost_member_test.sh MPIEXEC LOST_MEMBER REPETITIONS" >&2; exit 2; }
"$1" --version 2>/dev/null | grep -qE 'Open MPI|OpenRTE' ||
  { echo "skipped: $1 is not Open MPI's, which can be told to outlive a rank"; exit 0; }
program=$2
timeout_ms=1000
# What a busy machine adds to the timeout: a rank may wait for a processor, and its peers for the rank.
longest_s=10
folder=$(mktemp -d)
job=
end_job() {
  [ -n "$job" ] || return 0
  # No rank ends by itself in time. Without ranks mpirun ends, and leaves nothing behind.
  pkill -KILL -f "^$(sed 's/[][\\.*^$+?(){}|]/\\&/g' <<<"$program") (kill|stop) "
  for ((left = 0; left < 50; ++left)); do
    kill -0 "$job" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$job" 2>/dev/null
  job=
}
trap 'end_job; rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM

failures=0
for ((i = 0; i < $3; ++i)); do
  for what in kill stop; do
    told=$folder/$what$i
    mkdir "$told"
    # Four steps of forward and four of backward, of the first, second and third call, of each rank.
    setsid "$1" --enable-recovery -n 4 "$program" "$what" $((i % 4)) $((i / 4 % 3)) $((i * 3 % 8)) "$timeout_ms" "$told" \
      >"$told.log" 2>&1 </dev/null &
    job=$!
    disown "$job"
    for ((waited = 0; waited < 300; ++waited)); do
      [ "$(find "$told" -name '[0-3]' | wc -l)" -ge 3 ] && break
      kill -0 "$job" 2>/dev/null || break
      sleep 0.1
    done
    in_time=$(find "$told" -name '[0-3]' -exec awk -v longest="$longest_s" '/^PeerLost after/ && $3 <= longest' {} + | wc -l)
    end_job
    if [ "$in_time" -ne 3 ]; then
      failures=$((failures + 1))
      echo "FAIL  $what, repetition $i: $in_time of 3 ranks told of the lost one in time:"
      tail "$told"/* "$told.log"
    fi
  done
done
echo "$((2 * $3)) jobs, $failures failures"
[ "$failures" -eq 0 ]
