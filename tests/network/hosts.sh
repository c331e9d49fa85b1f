#!/usr/bin/env bash
# Makes the hosts, and runs the tests on them. tests/network/run starts it as the first process of namespaces of its
# own, which take everything along that is left here: processes, hosts and devices.
# usage: hosts.sh PROGRAMS FOLDER HOSTS LATENCY_MS JITTER_MS LOSS_PERCENT FILTER
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
programs=$1 hosts=$3 latency=$4 jitter=$5 loss=$6 filter=$7
export HOSTS_FOLDER=$2
output=$HOSTS_FOLDER/output
failures=0

microseconds() { awk -v ms="$1" 'BEGIN { printf "%d", ms * 1000 }'; }

fail() {
  echo "FAIL  $1"
  failures=$((failures + 1))
}

make_hosts() {
  local host
  mount -t tmpfs tmpfs /run || return 1 # where ip keeps the names of namespaces
  echo "127.0.0.1 localhost" >"$HOSTS_FOLDER/hosts"
  for ((host = 1; host <= hosts; ++host)); do
    ip netns add "host$host" &&
      ip -n "host$host" link set lo up &&
      ip -n "host$host" tuntap add dev lan mode tap &&
      ip -n "host$host" address add "10.0.0.$host/24" dev lan &&
      ip -n "host$host" link set lan up || return 1
    echo "10.0.0.$host host$host" >>"$HOSTS_FOLDER/hosts"
  done
  "$programs/network_switch" "$(microseconds "$latency")" "$(microseconds "$jitter")" "$loss" /run/netns/host* \
    >"$HOSTS_FOLDER/network" &
  network=$!
}

end_network() {
  local lost
  kill -TERM "$network" 2>/dev/null
  wait "$network" || fail "the network broke down"
  echo "network: $(cat "$HOSTS_FOLDER/network")"
  lost=$(awk '{ print $(NF - 1) }' "$HOSTS_FOLDER/network")
  awk -v loss="$loss" -v lost="$lost" 'BEGIN { exit loss > 0 && lost + 0 == 0 }' ||
    fail "it lost none, though it was to lose $loss %"
}

# mpirun_on_hosts HOSTS RANKS_OF_EACH SECONDS ARGUMENT...: the arguments are mpirun's, which runs on the first host.
mpirun_on_hosts() {
  local count=$1 each=$2 limit=$3 list="" host
  shift 3
  for ((host = 1; host <= count; ++host)); do list+=${list:+,}host$host:$each; done
  "$here/on_host" host1 "$(printf '%q ' exec timeout --kill-after=5 "$limit" mpirun --host "$list" \
    -n $((count * each)) --mca plm_rsh_agent "$here/on_host" --mca btl self,vader,tcp --mca btl_tcp_if_include lan \
    --mca oob_tcp_if_include lan -x "HOSTS=$count" -x "LATENCY_US=$(microseconds "$latency")" "$@")" </dev/null
}

end_processes_of_hosts() {
  local host
  for ((host = 1; host <= hosts; ++host)); do ip netns pids "host$host" | xargs -r kill -KILL 2>/dev/null; done
}

# The sum over all hosts of the segments that TCP sent again.
segments_sent_again() {
  local host
  for ((host = 1; host <= hosts; ++host)); do ip netns exec "host$host" cat /proc/net/snmp; done |
    awk '$1 == "Tcp:" && column { sum += $column; column = 0; next }
      $1 == "Tcp:" { for (i = 2; i <= NF; ++i) if ($i == "RetransSegs") column = i }
      END { print sum + 0 }'
}

# run_tests HOSTS RANKS_OF_EACH
run_tests() {
  local ranks=$(($1 * $2)) started=$SECONDS before=$failures again tests
  again=$(segments_sent_again)
  echo "== $1 hosts, ranks on each: $2"
  for tests in "[network]" "$filter"; do
    if ! mpirun_on_hosts "$1" "$2" 600 "$programs/ring_attention_mpi_tests" "$tests" >"$output" 2>&1 ||
      [ "$(grep -c 'All tests passed' "$output")" -ne "$ranks" ]; then
      tail -n 200 "$output"
      fail "$tests"
    fi
    end_processes_of_hosts
  done
  again=$(($(segments_sent_again) - again))
  [ "$failures" -ne "$before" ] || echo "passed in $((SECONDS - started)) s; TCP sent $again segments again"
}

# Whether the first RANKS wrote a line that begins with TEXT: all_say TEXT RANKS.
all_say() {
  local rank
  for ((rank = 0; rank < $2; ++rank)); do
    grep -q "^$1" "$HOSTS_FOLDER/rank.$rank" 2>/dev/null || return 1
  done
}

# wait_for SECONDS COMMAND...
wait_for() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.05
  done
}

# cut_link HOSTS RANKS_OF_EACH: the last host loses its link in the middle of a call; the ranks of the others must say
# PeerLost.
cut_link() {
  local count=$1 each=$2 timeout=3 job cut seconds
  echo "== $count hosts, ranks on each: $each; the link of host$count is cut, timeout $timeout s"
  rm -f "$HOSTS_FOLDER"/rank.*
  mpirun_on_hosts "$count" "$each" 60 --enable-recovery "$programs/lost_host" "$HOSTS_FOLDER" $((timeout * 1000)) \
    >"$output" 2>&1 &
  job=$!
  if ! wait_for 30 all_say began $((count * each)) || grep -q PeerLost "$HOSTS_FOLDER"/rank.*; then
    tail -n 20 "$HOSTS_FOLDER"/rank.* "$output"
    fail "the ranks did not begin, or lost one another before the cut"
  else
    ip -n "host$count" link set lan down
    cut=$(date +%s%N)
    # Beyond the timeout: half a second that a ring which failed gives its messages, and busy cores.
    if wait_for $((timeout + 5)) all_say PeerLost $(((count - 1) * each)); then
      seconds=$(awk -v ns=$(($(date +%s%N) - cut)) 'BEGIN { printf "%.1f", ns / 1e9 }')
      echo "passed: the ranks of the other hosts knew within $seconds s"
    else
      tail -n 20 "$HOSTS_FOLDER"/rank.* "$output"
      fail "a rank of the other hosts did not say PeerLost"
    fi
  fi
  # mpirun waits for the host that it cannot reach.
  end_processes_of_hosts
  wait "$job" 2>/dev/null
  ip -n "host$count" link set lan up
}

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe # that of Open MPI 5
export OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_mpi_yield_when_idle=1
make_hosts || { echo "FAIL  the hosts could not be made" >&2; exit 1; }
run_tests "$hosts" 1
run_tests 2 2
cut_link "$hosts" 1
cut_link 2 2
end_network
echo "$failures failed"
[ "$failures" -eq 0 ]
