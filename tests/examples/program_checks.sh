# Sourced by the tests of example programs, which set `program`: a scratch folder to work in, and counted checks.
# shellcheck shell=bash disable=SC2154

folder=$(mktemp -d) || exit 2
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 2

checks=0
failures=0

# check WHAT COMMAND...: the command must succeed.
check() {
  local what=$1
  shift
  checks=$((checks + 1))
  if ! "$@"; then
    failures=$((failures + 1))
    echo "FAIL  $what"
  fi
}

# runs STATUS MESSAGE ARGUMENTS...: the program must end with this status and print this message.
runs() {
  local status=$1 message=$2 text seen
  shift 2
  text=$("$program" "$@" 2>&1 </dev/null)
  seen=$?
  check "status $status expected, got $seen from: $* ($text)" test "$seen" -eq "$status"
  check "\"$message\" expected from: $* (got: $text)" grep -qF -- "$message" <<<"$text"
  check "a progress bar without a terminal, from: $*" test "${text/$'\r'/}" = "$text"
}
