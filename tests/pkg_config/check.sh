#!/usr/bin/env bash
# A program that knows the library by its pkg-config file alone; its folder is moved after the installation.
# check.sh PREFIX VERSION SOURCE SCRATCH COMPILER, then for a ring over MPI: SOURCE MPICXX MPIEXEC -n
set -euo pipefail

prefix=$1 version=$2 source=$3 scratch=$4 compiler=$5
shift 5
if ! command -v pkg-config >/dev/null; then
  echo "skipped: pkg-config is not installed (Debian and Ubuntu: apt-get install pkg-config)"
  exit 0
fi
rm -rf "$scratch"
mkdir -p "$scratch"
cp -R "$prefix" "$scratch/moved prefix"
export PKG_CONFIG_PATH="$scratch/moved prefix/share/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}"
if ! pkg-config --exists eigen3; then
  echo "skipped: Eigen was not installed with a pkg-config file"
  exit 0
fi

pkg-config --validate ring_attention
[ "$(pkg-config --modversion ring_attention)" = "$version" ]
pkg-config --atleast-version=0.2 ring_attention
if pkg-config --atleast-version=9 ring_attention; then
  echo "version $version passes for 9" >&2
  exit 1
fi
# pkg-config quotes for a shell.
flags=() libraries=()
eval "flags=($(pkg-config --cflags ring_attention))"
eval "libraries=($(pkg-config --libs ring_attention))"

"$compiler" -std=c++20 -O0 "${flags[@]}" "$source" -o "$scratch/program" "${libraries[@]}"
"$scratch/program"
# Plugins find the program's cache by this symbol.
if [ "$(uname)" = Linux ]; then
  exported=$(nm -D "$scratch/program")
  [[ $exported == *_global_pattern_cache* ]] || { echo "the program does not export its cache" >&2; exit 1; }
fi

if [ $# -gt 0 ]; then
  source=$1 mpicxx=$2
  shift 2
  "$mpicxx" -std=c++20 -O0 -DOMPI_SKIP_MPICXX -DMPICH_SKIP_MPICXX "${flags[@]}" "$source" -o "$scratch/mpi_program" \
    "${libraries[@]}"
  "$@" 3 "$scratch/mpi_program"
fi
