#!/usr/bin/env bash
# Configures once and builds everything with the preset cpu. Usage: build.sh [JOBS]
set -euo pipefail
cd "$(dirname "$0")/.."

if [ ! -f build/build.ninja ]; then
  echo "build: configuring (preset cpu)"
  cmake --preset cpu >build.configure.log 2>&1 || {
    cat build.configure.log
    rm -f build.configure.log
    exit 1
  }
  mv build.configure.log build/configure.log
fi
echo "build: build/bin/atom and the tests"
# Room for the compiler: the largest translation unit takes about 1.5 GB.
jobs=${1:-$(nproc)}
memory_jobs=$(awk '/MemAvailable/ {n = int($2 / 1500000); print n < 1 ? 1 : n}' /proc/meminfo 2>/dev/null || echo 1)
[ "$jobs" -le "$memory_jobs" ] || jobs=$memory_jobs
NINJA_STATUS='[%f/%t %es] ' cmake --build build --parallel "$jobs"
