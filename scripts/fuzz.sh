#!/usr/bin/env bash
# Fuzzes every parser that reads what strangers send: builds the targets (preset asan: clang 19, libFuzzer, ASan,
# UBSan) and runs each for a while, two at once, from the corpus in the repository.
# Usage: fuzz.sh [SECONDS per target, default 60] [TARGET...]
# Environment: FUZZ_JOBS targets at once (default: CPUs), FUZZ_OUT where findings go (build/fuzz),
# FUZZ_BIN folder with fuzz_* programs (then nothing is built), FUZZ_KEEP folder that keeps what was learnt.
# Prints a table; exit status 1 when a target failed. An input that failed is copied to FUZZ_OUT: once the bug is
# mended, add it to tests/fuzz/regressions/TARGET, which CTest replays.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
cd "$(dirname "$0")/.."

seconds=${1:-60}
[ $# -eq 0 ] || shift
case $seconds in '' | *[!0-9]*) echo "fuzz: $seconds is not a number of seconds" >&2; exit 2 ;; esac
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  for source in tests/fuzz/fuzz_*.cpp; do
    name=${source##*/fuzz_}
    [ "${name%.cpp}" = schema ] && [ "${ATOM_XGRAMMAR:-on}" = off ] || targets+=("${name%.cpp}")
  done
fi

bin=${FUZZ_BIN:-}
if [ -z "$bin" ]; then
  bin=build/asan/tests
  scripts/setup.sh build fuzz
  scripts/fetch_xgrammar.sh
  [ -f build/asan/build.ninja ] || cmake --preset asan >/dev/null
  cmake --build build/asan --parallel "${JOBS:-$(nproc)}" --target "${targets[@]/#/fuzz_}" >build/asan/fuzz.log || {
    tail -n 40 build/asan/fuzz.log
    exit 1
  }
fi
out=$(realpath -m "${FUZZ_OUT:-build/fuzz}")
keep=${FUZZ_KEEP:-$(mktemp -d)}
mkdir -p "$out" "$keep"
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=1:allocator_may_return_null=1

run_one() { # target
  local target=$1 options=()
  mkdir -p "$keep/$target"
  [ ! -f "tests/fuzz/dict/$target.dict" ] || options+=(-dict="tests/fuzz/dict/$target.dict")
  local folders=("$keep/$target" "tests/fuzz/corpus/$target")
  [ ! -d "tests/fuzz/regressions/$target" ] || folders+=("tests/fuzz/regressions/$target")
  local status=0
  "$bin/fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2560 -max_len=16384 -close_fd_mask=1 \
    -print_final_stats=1 -artifact_prefix="$out/$target-" "${options[@]}" "${folders[@]}" >"$out/$target.log" 2>&1 || status=$?
  echo $status >"$out/$target.status"
}

report() { # target
  local log=$out/$1.log status
  status=$(cat "$out/$1.status")
  awk -v target="$1" -v status="$status" '
    /^stat::number_of_executed_units/ {runs = $2}
    /^stat::peak_rss_mb/ {rss = $2}
    /ft: [0-9]+ corp:/ {for (i = 1; i < NF; ++i) {if ($i == "cov:") cov = $(i + 1); if ($i == "corp:") corpus = $(i + 1)}}
    END {sub("/.*", "", corpus)
         printf "%-16s %12d %8d %8d %8d  %s\n", target, runs, cov, corpus, rss, status == 0 ? "ok" : "FAILED"}' "$log"
  [ "$status" = 0 ] || grep -aE 'broken:|ERROR:|runtime error|SUMMARY|Test unit written' "$log" | sed 's/^/    /' || true
  [ "$status" = 0 ]
}

rm -f "$out"/*.log "$out"/*.status
jobs=${FUZZ_JOBS:-$(nproc)}
for target in "${targets[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || true; done
  run_one "$target" &
done
wait

failed=0
printf '%-16s %12s %8s %8s %8s\n' target inputs coverage corpus 'RSS MB'
for target in "${targets[@]}"; do report "$target" || failed=1; done
exit $failed
