#!/usr/bin/env bash
# Everything CI runs, in this order: source checks, build with warnings as errors, unit, conformance,
# simulation and golden tests (CTest), the program and server suites (pytest), much of it again under sanitizers,
# fuzzing. All parts run even when one fails; the last line is 'N passed, N failed'. JOBS in the environment:
# compilers at once.
set -uo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
cd "$(dirname "$0")/.."

passed=0
failed=0
started=$SECONDS
part() { echo; echo "== $1 (at $((SECONDS - started)) s)"; }
count() { # passed failed
  passed=$((passed + $1))
  failed=$((failed + $2))
}
verdict() { [ "$1" = 0 ] && count 1 0 || count 0 1; }

part "source checks"
scripts/presubmit.sh --checks
verdict $?

part "build"
if ! scripts/build.sh all; then
  echo "test: the build failed"
  count 0 1
  echo "$passed passed, $failed failed"
  exit 1
fi

# The CUDA backend compiles and links without a device, and says what is missing without a driver.
export ATOM_CUDA_BACKEND=
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
if [ -n "$nvcc" ]; then
  part "CUDA backend"
  cmake --preset cuda -DCMAKE_CUDA_COMPILER="$nvcc" >build/cuda-configure.log 2>&1 &&
    cmake --build build/cuda --parallel "${JOBS:-$(nproc)}" --target atom_cuda
  verdict $?
  [ -f build/cuda/bin/libatom_cuda.so ] && ATOM_CUDA_BACKEND=$PWD/build/cuda/bin/libatom_cuda.so
fi

part "GPU kernels for AMD: compiled, not run"
scripts/hip_gate.sh
verdict $?

part "unit, conformance, simulation and golden tests"
ctest --test-dir build --output-on-failure --no-tests=error --parallel 2 --timeout 1200
ctest_status=$?
log=build/Testing/Temporary/LastTest.log
sum() { awk '{n += $1} END {print n + 0}'; }
unit_passed=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$log" | sum)
unit_failed=$(sed -n 's/^\[  FAILED  \] \([0-9]*\) test.*/\1/p' "$log" | sum)
# A program that crashed or timed out printed no count.
[ $ctest_status = 0 ] || [ "$unit_failed" -gt 0 ] || unit_failed=1
count "$unit_passed" "$unit_failed"

# Runs pytest of a virtual environment and counts its results. Arguments: environment, then those of pytest.
run_pytest() {
  local venv=$1 results=build/pytest.xml status tests bad skipped
  shift
  rm -f $results
  ATOM_BINARY=$PWD/build/bin/atom ATOM_DEMO_MODEL=$demo \
    "$venv/bin/python" -m pytest -q -p no:cacheprovider --junitxml=$results "$@"
  status=$?
  read -r tests bad skipped < <(python3 - $results <<'PY'
import sys, xml.etree.ElementTree as tree
try:
    suites = tree.parse(sys.argv[1]).getroot().iter("testsuite")
    numbers = [[int(s.get(k, 0)) for k in ("tests", "failures", "errors", "skipped")] for s in suites]
    t, f, e, s = map(sum, zip(*numbers))
    print(t, f + e, s)
except Exception:
    print(0, 0, 0)
PY
  )
  [ $status = 0 ] || [ "$bad" -gt 0 ] || bad=1
  count $((tests > bad + skipped ? tests - bad - skipped : 0)) "$bad"
}

part "program and server tests"
if scripts/venv.sh tests/requirements.txt && demo=$(scripts/fetch_demo_model.sh); then
  run_pytest .venv tests --ignore=tests/clients/frameworks --ignore=tests/python --ignore=tests/guide \
    --ignore=tests/accuracy
else
  echo "test: no Python environment or no demo model"
  count 0 1
fi

part "Python package: wheel, installation, API"
if [ -n "${demo:-}" ] && scripts/python_package.sh; then
  run_pytest .venv-python tests/python
  part "documentation: every command"
  run_pytest .venv-python tests/guide
else
  echo "test: no Python package or no demo model"
  count 0 1
fi

part "LiteLLM, LangChain, instructor, llm, and the openai package they need"
if [ -n "${demo:-}" ] && scripts/venv.sh tests/clients/frameworks/requirements.txt .venv-frameworks; then
  run_pytest .venv-frameworks tests/clients/frameworks tests/clients/test_sdk.py
else
  echo "test: no Python environment or no demo model"
  count 0 1
fi

part "lm-evaluation-harness: accuracy of the demo model"
if [ -n "${demo:-}" ] && scripts/venv.sh tests/accuracy/requirements.txt .venv-accuracy; then
  run_pytest .venv-accuracy tests/accuracy
else
  echo "test: no Python environment or no demo model"
  count 0 1
fi

# Prints everything of a run under sanitizers and counts its results.
sanitized() { # preset
  local good bad
  scripts/sanitize.sh "$1" | tee "build/sanitize-$1.log"
  read -r good _ bad _ < <(tail -n 1 "build/sanitize-$1.log")
  if [[ $good =~ ^[0-9]+$ && $bad =~ ^[0-9]+$ ]]; then count "$good" "$bad"; else count 0 1; fi
}
export JOBS=${JOBS:-}
part "AddressSanitizer and UBSan"
sanitized asan

part "ThreadSanitizer: what has threads"
sanitized tsan

part "fuzz targets, ${FUZZ_SECONDS:=60} s each"
scripts/fuzz.sh "$FUZZ_SECONDS"
verdict $?

echo
echo "test: $((SECONDS - started)) s in all"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
