#!/usr/bin/env bash
# The C++ tests and a live server under AddressSanitizer and UBSan, or under ThreadSanitizer (clang 19).
# Usage: sanitize.sh asan|tsan [whole]. asan runs every room, tsan those with threads; without `whole`, what CI runs:
# tests that take minutes here are left out (docs/reliability.md says which and why). The parsers' corpora run under
# ASan and UBSan in scripts/fuzz.sh, which shares the objects of build/asan. A report of a sanitizer fails its test.
# Environment: JOBS compilers and tests at once; ATOM_SIM_COUNT schedules of the simulator, ATOM_FAULT_SEEDS lives of
# the engine under faults. Last line: 'N passed, N failed'.
set -uo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
cd "$(dirname "$0")/.."

preset=${1:-asan}
case $preset in asan | tsan) ;; *) echo "sanitize: asan or tsan, not $preset" >&2; exit 2 ;; esac
tests=(atom_core atom_structured_output atom_model_engine atom_entrypoints atom_simulation atom_engine_faults)
servers=(tests/server/test_http.py)
# Megabytes byte by byte, statistics, and products of every format, shape and instruction set.
left_out='Parsers.TakesTimeLinearInTheText:Sampler.FollowsTheDistribution:Sampler.DrawsWhatTheOracleDraws'
left_out+=':*Conformance.SameBits*:*Conformance.Matches*:Mla*:LinearHeads*:Moe*.ExpertsEqual*'
if [ $preset = asan ]; then
  tests+=(atom_tokenizer atom_chat_template atom_model_loader atom_models atom_model_ops kernels_cpu atom_conformance
    atom_golden)
else
  servers+=(tests/server/test_openai.py)
fi
[ "${2:-}" = whole ] || export GTEST_FILTER="-$left_out" ATOM_SIM_COUNT=${ATOM_SIM_COUNT:-2000} \
  ATOM_FAULT_SEEDS=${ATOM_FAULT_SEEDS:-60}
jobs=${JOBS:-$(nproc)}
build=build/$preset

scripts/setup.sh build fuzz
scripts/fetch_xgrammar.sh || echo "sanitize: without xgrammar"
mkdir -p $build
started=$SECONDS
{ [ -f $build/build.ninja ] || cmake --preset $preset; } >$build/build.log 2>&1 &&
  cmake --build $build --parallel "$jobs" --target atom "${tests[@]/%/_test}" >>$build/build.log 2>&1 || {
  grep -aE 'FAILED|error:' $build/build.log | head -n 40
  tail -n 20 $build/build.log
  echo "0 passed, 1 failed"
  exit 1
}
echo "sanitize: built for $preset in $((SECONDS - started)) s"

# UBSan alone only prints, and the test would pass. Under ASan malloc of too much is to fail as it does elsewhere.
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export ASAN_OPTIONS=allocator_may_return_null=1:detect_leaks=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
# Others may find no lines in what clang 19 writes.
symbolizer=$(command -v llvm-symbolizer-19) && export ASAN_SYMBOLIZER_PATH=$symbolizer \
  TSAN_SYMBOLIZER_PATH=$symbolizer UBSAN_SYMBOLIZER_PATH=$symbolizer
passed=0
failed=0
started=$SECONDS
names=$(IFS='|'; echo "${tests[*]}")
ctest --test-dir $build --tests-regex "^($names)\$" --output-on-failure --no-tests=error --parallel "$jobs" --timeout 1800
status=$?
log=$build/Testing/Temporary/LastTest.log
count() { sed -n "s/^\[  $1  \] \([0-9]*\) test.*/\1/p" "$log" | awk '{n += $1} END {print n + 0}'; }
passed=$(count PASSED)
failed=$(count FAILED)
# A report ends its program before it prints a count.
[ $status = 0 ] || [ "$failed" -gt 0 ] || failed=1
echo "sanitize: $passed tests under $preset, $((SECONDS - started)) s"

# The server itself: streams, aborts, limits, shutdown; the process must end with status 0, which a report prevents.
started=$SECONDS
results=$build/server.xml
rm -f $results
scripts/venv.sh tests/requirements.txt &&
  ATOM_BINARY=$PWD/$build/bin/atom .venv/bin/python -m pytest -q -p no:cacheprovider --junitxml=$results "${servers[@]}"
status=$?
read -r good bad < <(python3 - $results <<'PY'
import sys, xml.etree.ElementTree as tree
suites = list(tree.parse(sys.argv[1]).getroot().iter("testsuite"))
total, bad, skipped = (sum(int(s.get(k, 0)) for s in suites for k in keys)
                       for keys in (["tests"], ["failures", "errors"], ["skipped"]))
print(total - bad - skipped, bad)
PY
)
[ $status = 0 ] || [ "${bad:-0}" -gt 0 ] || bad=1
passed=$((passed + ${good:-0}))
failed=$((failed + ${bad:-1}))
echo "sanitize: the server under $preset, $((SECONDS - started)) s"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
