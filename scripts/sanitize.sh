#!/usr/bin/env bash
# The C++ tests and a live server under AddressSanitizer and UBSan (preset asan, -O1), or under ThreadSanitizer.
# Usage: sanitize.sh [asan|tsan] [all]. By default the rooms that read what strangers send and the engine; `all` adds
# loader, models, kernels, conformance and golden tests. A report of a sanitizer fails its test.
# Environment: JOBS compilers at once; ATOM_SIM_COUNT schedules of the simulator (2,000). Last line: 'N passed, N failed'.
set -uo pipefail
cd "$(dirname "$0")/.."

preset=${1:-asan}
case $preset in asan | tsan) ;; *) echo "sanitize: asan or tsan, not $preset" >&2; exit 2 ;; esac
tests=(atom_core_test atom_model_engine_test atom_entrypoints_test atom_simulation_test atom_engine_faults_test)
[ "$preset" = tsan ] || tests+=(atom_tokenizer_test atom_chat_template_test)
if [ "${2:-}" = all ]; then
  tests+=(atom_model_loader_test atom_models_test atom_model_ops_test kernels_cpu_test atom_conformance_test atom_golden_test)
fi
scripts/setup.sh build
[ -f build/$preset/build.ninja ] || cmake --preset $preset >/dev/null || exit 1
cmake --build build/$preset --parallel "${JOBS:-$(nproc)}" --target atom "${tests[@]}" >build/$preset/build.log || {
  tail -n 40 build/$preset/build.log
  echo "0 passed, 1 failed"
  exit 1
}

# UBSan alone only prints, and the test would pass.
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
export ATOM_SIM_COUNT=${ATOM_SIM_COUNT:-2000} ATOM_FAULT_SEEDS=${ATOM_FAULT_SEEDS:-60}
passed=0
failed=0
for test in "${tests[@]}"; do
  started=$SECONDS
  log=build/$preset/$test.log
  if timeout 900 build/$preset/tests/$test >"$log" 2>&1; then
    passed=$((passed + $(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$log")))
    echo "sanitize: $test clean, $((SECONDS - started)) s"
  else
    failed=$((failed + 1))
    echo "sanitize: $test FAILED, $((SECONDS - started)) s; the end of $log:"
    grep -aE 'runtime error|ERROR: |WARNING: ThreadSanitizer|SUMMARY|FAILED' "$log" | head -n 20
    tail -n 20 "$log"
  fi
done

# The server itself: streams, aborts, limits, shutdown; the process must end with status 0, which a report prevents.
scripts/venv.sh tests/requirements.txt &&
  ATOM_BINARY=$PWD/build/$preset/bin/atom .venv/bin/python -m pytest -q -p no:cacheprovider tests/server/test_http.py
if [ $? = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
