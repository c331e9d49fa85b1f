# Sourced by the scripts named run in tests/, tests/fuzz/, tests/network/ and benchmarks/: finds a compiler, and installs
# what is missing on Debian and Ubuntu.
# shellcheck shell=bash disable=SC2154
# The sourcing script sets `project`, the root of the source tree.

# CMake takes make unless it is told, even where there is only ninja. This also reaches the probes below and whatever a
# script starts. Generators of several configurations put programs where the scripts do not look.
case ${CMAKE_GENERATOR:-} in
  Ninja | "Unix Makefiles") ;;
  *) if command -v ninja >/dev/null; then CMAKE_GENERATOR=Ninja; else CMAKE_GENERATOR="Unix Makefiles"; fi ;;
esac
export CMAKE_GENERATOR

# The first good enough compiler: $1 if given, else $CXX, else g++ 12 or later under any of its names, else clang++ 14
# or later under any of its. Prints its name, or nothing.
find_compiler() {
  local candidate
  if [ -n "${1:-${CXX:-}}" ]; then
    is_good_compiler "${1:-$CXX}" && echo "${1:-$CXX}"
    return 0
  fi
  for candidate in g++ g++-{15..12} clang++ clang++-{20..14}; do
    if is_good_compiler "$candidate"; then
      echo "$candidate"
      return 0
    fi
  done
}

is_good_compiler() {
  command -v "$1" >/dev/null || return 1
  local major=12
  "$1" --version 2>/dev/null | grep -qi clang && major=14
  is_version_at_least "$("$1" -dumpversion)" "$major"
}

# Whether warnings of a compiler are errors: those of the oldest good versions, which know no warning that came after
# this project, and where $CI is set, of all.
warnings_are_errors() {
  local known=12
  if "$1" --version | grep -qi clang; then known=14; fi
  [ -n "${CI:-}" ] || [ "$("$1" -dumpversion | cut -d. -f1)" = "$known" ]
}

is_version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# The package that brings a good compiler. Ubuntu 22.04's g++ is 11.
compiler_package() {
  if grep -q '^UBUNTU_CODENAME=jammy' /etc/os-release 2>/dev/null; then echo g++-12; else echo g++; fi
}

# The package of the program that the generator needs, unless it is there.
build_tool_package() {
  case $CMAKE_GENERATOR in
    Ninja) command -v ninja >/dev/null || echo ninja-build ;;
    *) command -v make >/dev/null || echo make ;;
  esac
}

has_package() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'; }

# Whether CMake finds the library of a package, or the shell its program, however it was installed.
cmake_finds() {
  local name folder status=0
  case $1 in
    libeigen3-dev) name=Eigen3 ;;
    catch2) name=Catch2 ;;
    nlohmann-json3-dev) name=nlohmann_json ;;
    libbenchmark-dev) name=benchmark ;;
    libopenmpi-dev) name=MPI ;;
    openmpi-bin)
      command -v mpirun >/dev/null
      return
      ;;
    python3)
      command -v python3 >/dev/null
      return
      ;;
    *) return 1 ;;
  esac
  command -v cmake >/dev/null && [ -n "$(find_compiler "$compiler")" ] || return 1
  folder=$(mktemp -d)
  printf 'cmake_minimum_required(VERSION 3.22)\nproject(probe LANGUAGES CXX)\nfind_package(%s REQUIRED)\n' "$name" \
    >"$folder/CMakeLists.txt"
  CXX=$(find_compiler "$compiler") cmake -S "$folder" -B "$folder/build" >/dev/null 2>&1 || status=1
  rm -rf "$folder"
  return "$status"
}

# Prints those of the packages named by the arguments that are missing, and those of the tools.
missing_packages() {
  local package
  [ -n "$(find_compiler "$compiler")" ] || compiler_package
  command -v cmake >/dev/null || echo cmake
  build_tool_package
  for package in "$@"; do
    has_package "$package" || cmake_finds "$package" || echo "$package"
  done
}

# require_packages PACKAGE...: installs what is missing, or prints the line to type and ends with status 1.
# Sets `compiler` (which may name the wanted one before the call).
require_packages() {
  compiler=${compiler:-${CXX:-}}
  if [ -n "$compiler" ] && [ -z "$(find_compiler "$compiler")" ]; then
    echo "$compiler: not installed, or older than g++ 12 or clang++ 14" >&2
    exit 1
  fi
  local missing
  missing=$(missing_packages "$@" | xargs)
  if [ -n "$missing" ]; then
    install_packages "$missing"
    missing=$(missing_packages "$@" | xargs)
    if [ -n "$missing" ]; then
      echo "Still missing after the installation: $missing" >&2
      exit 1
    fi
  fi
  compiler=$(find_compiler "$compiler")
}

install_packages() {
  local line="apt-get update && apt-get install -y --no-install-recommends $1"
  if ! command -v apt-get >/dev/null; then
    echo "Missing, by the names of Debian's packages: $1" >&2
    echo "This system has no apt-get: install them in its own way, then run this again." >&2
    exit 1
  fi
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    # Without a terminal nobody can answer sudo's question for a password.
    if command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
      as_root=(sudo)
    else
      echo "Missing packages: $1. Install them with this line, then run this again:" >&2
      if command -v sudo >/dev/null; then
        echo "sudo sh -c '$line'" >&2
      else
        echo "su -c '$line'" >&2
      fi
      exit 1
    fi
  fi
  echo "== Installing $1"
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c \
    "apt-get -q -o DPkg::Lock::Timeout=300 update &&
     apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $1" </dev/null; then
    echo "The installation failed. This is the line: $line" >&2
    exit 1
  fi
}

# native_flag COMPILER: its flag for the widest instructions of this machine, if it has one.
native_flag() {
  if "$1" -march=native -fsyntax-only -x c++ /dev/null 2>/dev/null; then echo -march=native; fi
}

# Compilers to run at once: as many as cores, but one for each 1.5 GiB of free memory.
build_jobs() {
  local cores memory
  cores=$(nproc)
  memory=$(awk '/^MemAvailable:/ { print int($2 / 1572864) }' /proc/meminfo 2>/dev/null)
  [ "${memory:-$cores}" -ge 1 ] || memory=1
  echo $((cores < ${memory:-$cores} ? cores : ${memory:-$cores}))
}

# configure FOLDER ARGUMENT...: runs CMake, and tells what it says only where it fails. A folder that was configured
# for another compiler, generator or source tree begins anew.
configure() {
  local folder=$1 identity
  shift
  mkdir -p "$folder"
  identity="$project -G $CMAKE_GENERATOR $*"
  if [ "$(cat "$folder/.identity" 2>/dev/null)" != "$identity" ]; then
    rm -rf "$folder/CMakeCache.txt" "$folder/CMakeFiles"
  fi
  if ! cmake -S "$project" -B "$folder" -G "$CMAKE_GENERATOR" "$@" >"$folder/configure.log" 2>&1; then
    cat "$folder/configure.log" >&2
    return 1
  fi
  echo "$identity" >"$folder/.identity"
}
