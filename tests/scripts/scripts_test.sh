#!/usr/bin/env bash
# What the scripts named run do on machines unlike this one: in a copy of them, with programs that stand in for CMake,
# the gates and the package manager. usage: scripts_test.sh PROJECT
set -uo pipefail
[ $# -eq 1 ] || { echo "usage: scripts_test.sh PROJECT" >&2; exit 2; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
copy=$folder/project tools=$folder/tools
mkdir -p "$copy/.cmake" "$copy/tests/gates" "$copy/tests/fuzz" "$copy/tests/distributions" "$copy/tests/cuda" \
  "$copy/include/ring_attention/cuda" "$copy/benchmarks" "$tools"
cp "$1/.cmake/prerequisites.sh" "$copy/.cmake/"
cp "$1/tests/run" "$copy/tests/"
cp "$1/tests/distributions/run" "$copy/tests/distributions/"
cp "$1/tests/cuda/verify" "$copy/tests/cuda/"
cp "$1/benchmarks/run" "$copy/benchmarks/"
failures=0
unset CMAKE_GENERATOR CXX CI

# expect WHAT TEXT: $output has the text; expect_not the opposite.
expect() { [[ $output == *"$2"* ]] || { failures=$((failures + 1)); echo "FAIL  $1: no \"$2\" in:"; echo "$output"; }; }
expect_not() {
  [[ $output != *"$2"* ]] || { failures=$((failures + 1)); echo "FAIL  $1: \"$2\" in:"; echo "$output"; }
}
# runs STATUS COMMAND...: sets $output.
runs() {
  local expected=$1 status=0
  shift
  output=$(PATH="$tools:$PATH" "$@" 2>&1 </dev/null) || status=$?
  [ "$status" -eq "$expected" ] ||
    { failures=$((failures + 1)); echo "FAIL  $*: status $status in place of $expected"; echo "$output"; }
}
tool() {
  { echo '#!/usr/bin/env bash'; cat; } >"$1"
  chmod +x "$1"
}

# Whether a recorded run on a GPU was of the sources that lie here.
tool "$tools/nvidia-smi" <<<'exit 1'
runs 0 "$copy/tests/cuda/verify"
expect "verify without a GPU" "skipped: there is no GPU"
sources=(.cmake/compiled/calls.cu include/ring_attention/cuda.hpp include/ring_attention/cuda_views.hpp
  include/ring_attention/device_clock.hpp include/ring_attention/pattern/device_copies.hpp
  include/ring_attention/plan/plan.hpp include/ring_attention/version.hpp tests/cuda/verify tests/cuda_consumer/main.cu tests/support/checks.hpp)
mkdir -p "$copy/.cmake/compiled" "$copy/include/ring_attention/pattern" "$copy/include/ring_attention/plan" "$copy/tests/cuda_consumer" "$copy/tests/support"
(cd "$copy" && touch "${sources[@]}")
runs 0 "$copy/tests/cuda/verify" --check
expect "verify --check" "no record of a run"
hash=$(cd "$copy" && sha256sum "${sources[@]}" | sha256sum | cut -d ' ' -f 1)
printf 'sources: %s\ndate: 2026-01-02\nmachine: a GPU\n' "$hash" >"$copy/tests/cuda/record.txt"
runs 0 "$copy/tests/cuda/verify" --check
expect "verify --check" "these CUDA sources passed on a GPU, 2026-01-02"
touch "$copy/include/ring_attention/cuda/new.inl"
runs 0 "$copy/tests/cuda/verify" --check
expect "verify --check of other sources" "have changed since the recorded run (2026-01-02)"

# CMake gets a generator whose program is there, in the script's own builds and in whatever it starts.
tool "$tools/cmake" <<<'echo "generator ${CMAKE_GENERATOR:-none}, arguments $*"'
cat >"$folder/generators.sh" <<'TEXT'
project=$1 present=" $2 "
# Only the named ones of these are installed.
command() {
  case $2 in
    ninja | make) [[ $present == *" $2 "* ]] ;;
    *) builtin command "$@" ;;
  esac
}
. "$project/.cmake/prerequisites.sh"
echo "missing: $(compiler=; missing_packages | xargs)."
configure "$3" && cat "$3/configure.log"
TEXT
for case in "ninja make|Ninja|." "ninja|Ninja|." "make|Unix Makefiles|." "|Unix Makefiles|make."; do
  IFS='|' read -r present generator missing <<<"$case"
  runs 0 bash "$folder/generators.sh" "$copy" "$present" "$folder/build of $present"
  expect "with '$present'" "generator $generator, arguments"
  expect "with '$present'" " -G $generator"
  [[ $output =~ missing:.*\. ]]
  output=${BASH_REMATCH[0]}
  expect "with '$present'" "$missing"
  [ -n "${missing%.}" ] || expect_not "with '$present'" make
done
CMAKE_GENERATOR="Unix Makefiles" runs 0 bash "$folder/generators.sh" "$copy" "ninja make" "$folder/build"
expect "the generator that the user names" " -G Unix Makefiles"
CMAKE_GENERATOR="Ninja Multi-Config" runs 0 bash "$folder/generators.sh" "$copy" "make" "$folder/build"
expect "a generator of several configurations" " -G Unix Makefiles"

# Once a suite cannot be built, no other is tried, and each counts as failed.
for gate in tests/gates/format tests/gates/tidy tests/fuzz/run; do tool "$copy/$gate" <<<'exit 0'; done
tool "$tools/dpkg-query" <<<'echo "install ok installed"'
tool "$tools/g++" <<<'[ "$1" != -dumpversion ] || echo 12'
tool "$tools/ctest" <<<'echo "100% tests passed, 0 tests failed out of 5"'
tool "$tools/cmake" <<<"[ \"\$1\" != --build ] || { echo \"\$2\" >>$folder/builds; exit 1; }"
runs 1 "$copy/tests/run" --compiler g++
expect "after a failed build" "g++: FAILED to build"
expect "after a failed build" "g++-portable: NOT RUN, because g++ could not be built"
expect "after a failed build" "g++-native: NOT RUN, because g++ could not be built"
output=$(tail -n 1 <<<"$output")
expect "the last line" "3 passed, 3 failed"
[ "$(wc -l <"$folder/builds")" -eq 1 ] || { output=$(cat "$folder/builds"); expect "builds tried" "one"; }
tool "$tools/cmake" <<<'exit 0'
runs 0 "$copy/tests/run" --compiler g++
expect_not "after good builds" "NOT RUN"
expect "after good builds" "18 passed, 0 failed"
runs 0 "$copy/tests/run" --help
expect "tests/run --help" "tests/distributions/run"

# The benchmark does without matplotlib; only to keep a report does it need it.
mkdir -p "$folder/blocked"
echo "raise ImportError('blocked')" >"$folder/blocked/matplotlib.py"
tool "$tools/apt-get" <<<"echo \"\$*\" >>$folder/installed"
tool "$tools/dpkg-query" <<<'[[ $* != *matplotlib* ]] && echo "install ok installed"'
tool "$tools/cmake" <<TEXT
if [ "\$1" = --build ]; then
  mkdir -p "\$2/benchmarks"
  printf '#!/bin/sh\necho "results: $folder/results.json"\n' >"\$2/benchmarks/benchmark_ring_pattern_cache"
  chmod +x "\$2/benchmarks/benchmark_ring_pattern_cache"
fi
TEXT
echo 'import sys; print("report:", *sys.argv[1:])' >"$copy/benchmarks/report.py"
runs 0 env "PYTHONPATH=$folder/blocked" "$copy/benchmarks/run" --quick
expect "without matplotlib" "report: $folder/results.json"
[ ! -e "$folder/installed" ] || { output=$(cat "$folder/installed"); expect "without matplotlib" "nothing installed"; }
rm -r "$copy/build/measure"
runs 1 env "PYTHONPATH=$folder/blocked" "$copy/benchmarks/run" --quick --publish
expect "--publish without matplotlib" python3-matplotlib
expect_not "--publish without matplotlib" "results:"
mkdir -p "$folder/present"
touch "$folder/present/matplotlib.py"
runs 0 env "PYTHONPATH=$folder/present" "$copy/benchmarks/run" --quick --publish
expect "with matplotlib" "report: $folder/results.json --publish"

# Those of a GPU, where there are one and nvcc; PyTorch is compared where it is.
mkdir -p "$folder/without" "$folder/with"
echo "raise ImportError('blocked')" >"$folder/without/torch.py"
touch "$folder/with/torch.py"
runs 1 "$copy/benchmarks/run" --device cuda
expect "--device cuda without a GPU" "there is no GPU"
runs 2 "$copy/benchmarks/run" --device gpu
tool "$tools/nvidia-smi" <<<'exit 0'
tool "$tools/nvcc" <<<'exit 0'
tool "$tools/cmake" <<TEXT
if [ "\$1" = --build ]; then
  mkdir -p "\$2/benchmarks"
  printf '#!/bin/sh\necho "kernels \$*"; echo "results: kernels.json"\n' >"\$2/benchmarks/benchmark_attention_kernels"
  chmod +x "\$2/benchmarks/benchmark_attention_kernels"
else
  echo "configured \$*" >"$folder/configured"
fi
TEXT
echo 'import sys; print("compared", *sys.argv[1:3]); print("results: cuda.json")' >"$copy/benchmarks/compare_cuda.py"
runs 0 env "PYTHONPATH=$folder/blocked:$folder/without" "$copy/benchmarks/run" --device cuda --quick
expect "--device cuda" "kernels --device cuda --quick"
expect "--device cuda" "report: kernels.json"
expect "without PyTorch" "PyTorch is not there"
output=$(cat "$folder/configured")
expect "the build for a GPU" "-DRING_ATTENTION_BUILD_CUDA_COMPILED=ON -DCMAKE_CUDA_COMPILER=$tools/nvcc"
runs 0 env "PYTHONPATH=$folder/blocked:$folder/with" "$copy/benchmarks/run" --device cuda --quick
expect "with PyTorch" "compared --quick --program"
expect "with PyTorch" "report: kernels.json cuda.json"
tool "$tools/nvidia-smi" <<<'exit 1'

# Fresh systems: what is refused before anything is made.
runs 0 "$copy/tests/distributions/run" --help
expect "its help" "usage: tests/distributions/run"
runs 2 "$copy/tests/distributions/run" debian1
expect "an unknown system" "debian1: neither debian12 nor debian13, nor the folder of a system"
runs 2 "$copy/tests/distributions/run" /
runs 2 "$copy/tests/distributions/run" "$folder"
runs 2 "$copy/tests/distributions/run" --suite ../noble
tool "$tools/id" <<<'echo 1000'
runs 1 "$copy/tests/distributions/run" debian12
expect "without root" "needs root"
[ ! -e "$copy/build/distributions" ] || { failures=$((failures + 1)); echo "FAIL  it made something without root"; }

echo "$failures failures"
[ "$failures" -eq 0 ]
