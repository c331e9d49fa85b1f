#!/usr/bin/env bash
# Runs the mpi_ring program on 1, 3 and 4 ranks: exit status, progress, results, messages for bad arguments.
# usage: mpi_ring_test.sh MPIEXEC NUMPROC_FLAG MPI_RING
set -u
export LC_ALL=C

if [ $# -ne 3 ] || [ ! -x "$1" ] || [ ! -x "$3" ]; then
  echo "usage: mpi_ring_test.sh MPIEXEC NUMPROC_FLAG MPI_RING" >&2
  exit 2
fi
launcher=$1 numproc_flag=$2 ring=$(realpath "$3")
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/program_checks.sh"

# What `runs` calls: the program on $ranks ranks.
program=$folder/on_ranks
cat >"$program" <<TEXT
#!/usr/bin/env bash
exec timeout 120 "$launcher" $numproc_flag "\$ranks" "$ring" "\$@"
TEXT
chmod +x "$program"

# lines PATTERN: how many lines of the last output match.
lines() { grep -cE -- "$1" <<<"$output"; }

small=(--tokens 3001 --heads 3 --head-dim 20 --segments 64,700,3001 --rates 1,3,16)
for ranks in 1 3 4; do
  export ranks
  # All rules on 3 ranks, whose shards are uneven; half of them on the others.
  case $ranks in
    1) all_rules=("" "--preset ring --causal --threads 2") ;;
    3) all_rules=("" "--causal --layout zigzag" "--preset ring" "--preset ring --causal --threads 2") ;;
    4) all_rules=("--causal --layout zigzag" "--preset ring") ;;
  esac
  for rules in "${all_rules[@]}"; do
    # shellcheck disable=SC2086  # several words
    output=$("$program" "${small[@]}" $rules 2>&1 </dev/null)
    check "status 0 on $ranks ranks with $rules ($output)" test $? -eq 0
    check "right on $ranks ranks with $rules ($output)" test "$(lines ': right$')" -eq 1
    check "a line per step on $ranks ranks ($output)" test "$(lines '^\[ *[0-9.]+ s\] step [0-9]+ of '"$ranks: ")" -eq "$ranks"
    check "every rank checks 4 rows, on $ranks ranks" test "$(lines "^$((4 * ranks)) rows checked")" -eq 1
  done
done

export ranks=3
runs 0 "step 3 of 3: keys and values of rank 1" "${small[@]}"
runs 0 "sent by a rank: at most 0.000 MB, 0.000 % of the" --tokens 300 --segments 100,50 --rates 1,2
# 100 rows, 2 heads, 2 receivers, keys and values of 8 floats: as much as a dense ring.
runs 0 "at most 0.026 MB, 100.000 % of the 0.026 MB" --tokens 300 --heads 2 --head-dim 8 --segments 300 --rates 1
runs 0 "2 rows checked" --tokens 2
runs 0 "0 rows checked, largest error 0 of the tolerance" "${small[@]}" --samples 0
runs 0 "2 threads each" "${small[@]}" --threads=2
ranks=1
runs 0 "sent by a rank: at most 0.000 MB" "${small[@]}"

# Mistakes: told once, whatever the number of ranks.
ranks=3
runs 0 "usage: mpirun -n RANKS mpi_ring" --help
runs 1 'mpi_ring: unknown argument "--speed"' --speed 3
runs 1 'mpi_ring: --tokens = "many": must be an integer' --tokens many
runs 1 "mpi_ring: --tokens needs a value" --tokens
runs 1 "mpi_ring: --tokens = 0: must be positive" --tokens 0
runs 1 "mpi_ring: --tokens = -5: must be positive" --tokens=-5
runs 1 "mpi_ring: --heads = 0: must be positive" --heads 0
runs 1 "mpi_ring: --threads = 0: must be positive" --threads 0
runs 1 "mpi_ring: --samples = -1: must not be negative" --samples=-1
runs 1 "mpi_ring: --segments and --rates belong together" --segments 64
runs 1 "mpi_ring: dilation_rates.size() = 2: must equal segment_lengths.size() = 1" --segments 64 --rates 1,2
runs 1 "mpi_ring: segment_lengths[1] = 0: must be positive" --segments 64,0 --rates 1,2
runs 1 'mpi_ring: --layout = "spiral": must be one of contiguous, zigzag' --layout spiral
runs 1 'mpi_ring: --preset = "torchscale": must be one of longnet, ring' --preset torchscale
runs 1 "its size in bytes overflows" --tokens 4000000000000000000
for ranks in 1 3; do
  output=$("$program" --tokens 0 2>&1 </dev/null)
  check "the mistake is told once on $ranks ranks" test "$(lines '^mpi_ring: ')" -eq 1
done

echo "$checks checks, $failures failures"
[ "$failures" -eq 0 ]
