#!/usr/bin/env bash
# The C++ tests and a live server under AddressSanitizer and UBSan (preset asan, -O1), or under ThreadSanitizer.
# Usage: sanitize.sh [asan|tsan]. asan runs every room, tsan those with threads; the
# corpora of the fuzz targets run under clang's sanitizers in scripts/fuzz.sh. A report of a sanitizer fails its test.
# Environment: JOBS compilers at once; ATOM_SIM_COUNT schedules of the simulator, ATOM_FAULT_SEEDS lives of the engine
# under faults. Last line: 'N passed, N failed'.
set -uo pipefail
cd "$(dirname "$0")/.."

preset=${1:-asan}
case $preset in asan | tsan) ;; *) echo "sanitize: asan or tsan, not $preset" >&2; exit 2 ;; esac
tests=(atom_core_test atom_structured_output_test atom_model_engine_test atom_entrypoints_test atom_simulation_test)
servers=(tests/server/test_http.py)
if [ $preset = asan ]; then
  tests+=(atom_tokenizer_test atom_chat_template_test atom_model_loader_test atom_models_test atom_model_ops_test
    kernels_cpu_test atom_conformance_test atom_golden_test atom_engine_faults_test)
else
  servers+=(tests/server/test_openai.py)
fi
scripts/setup.sh build
scripts/fetch_xgrammar.sh || echo "sanitize: without xgrammar"
mkdir -p build/$preset
started=$SECONDS
{ [ -f build/$preset/build.ninja ] || cmake --preset $preset; } >build/$preset/build.log 2>&1 &&
  cmake --build build/$preset --parallel "${JOBS:-$(nproc)}" --target atom "${tests[@]}" >>build/$preset/build.log 2>&1 || {
  tail -n 40 build/$preset/build.log
  echo "0 passed, 1 failed"
  exit 1
}
echo "sanitize: built for $preset in $((SECONDS - started)) s"

# UBSan alone only prints, and the test would pass. Under ASan malloc of too much is to fail as it does elsewhere.
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export ASAN_OPTIONS=allocator_may_return_null=1:detect_leaks=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
export ATOM_SIM_COUNT=${ATOM_SIM_COUNT:-2000} ATOM_FAULT_SEEDS=${ATOM_FAULT_SEEDS:-60}
passed=0
failed=0
for test in "${tests[@]}"; do
  started=$SECONDS
  log=build/$preset/$test.log
  if timeout 900 build/$preset/tests/$test --gtest_brief=1 >"$log" 2>&1; then
    count=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$log")
    passed=$((passed + count))
    echo "sanitize: $test clean, $count tests, $((SECONDS - started)) s"
  else
    failed=$((failed + 1))
    echo "sanitize: $test FAILED, $((SECONDS - started)) s; from $log:"
    grep -aE 'runtime error|ERROR: |WARNING: ThreadSanitizer|SUMMARY|FAILED' "$log" | head -n 20
    tail -n 20 "$log"
  fi
done

# The server itself: streams, aborts, limits, shutdown; the process must end with status 0, which a report prevents.
started=$SECONDS
scripts/venv.sh tests/requirements.txt &&
  ATOM_BINARY=$PWD/build/$preset/bin/atom .venv/bin/python -m pytest -q -p no:cacheprovider "${servers[@]}"
if [ $? = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
echo "sanitize: the server, $((SECONDS - started)) s"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
