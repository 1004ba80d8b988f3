#!/usr/bin/env bash
# Configures once and builds with the preset cpu: the program, with `all` the tests too, or one target.
# Usage: build.sh [all | TARGET]; JOBS in the environment sets the number of compilers.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
cd "$(dirname "$0")/.."

scripts/fetch_xgrammar.sh ||
  echo "build: without xgrammar; structured outputs will be refused"

if [ ! -f build/build.ninja ]; then
  echo "build: configuring (preset cpu)"
  mkdir -p build
  cmake --preset cpu >build/configure.log 2>&1 || {
    cat build/configure.log
    exit 1
  }
fi
target=${1:-atom}
case $target in
  all) echo "build: build/bin/atom and the tests" ;;
  atom) echo "build: build/bin/atom" ;;
  *) echo "build: $target" ;;
esac
# Room for the compiler: the largest translation unit takes about 1.5 GB.
jobs=${JOBS:-$(nproc)}
memory_jobs=$(awk '/MemAvailable/ {n = int($2 / 1500000); print n < 1 ? 1 : n}' /proc/meminfo)
[ "$jobs" -le "${memory_jobs:-1}" ] || jobs=${memory_jobs:-1}
NINJA_STATUS='[%f/%t %es] ' cmake --build build --parallel "$jobs" --target "$target"
