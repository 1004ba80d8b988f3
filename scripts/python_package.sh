#!/usr/bin/env bash
# Builds the Python package into a wheel in build/dist and installs it, with the program, into a virtual
# environment, without build isolation: what the compiler cache has is not compiled again.
# Usage: python_package.sh [FOLDER], FOLDER is .venv-python. JOBS in the environment: compilers at once.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
cd "$(dirname "$0")/.."

venv=${1:-.venv-python}
scripts/fetch_xgrammar.sh || echo "python_package: without xgrammar; structured outputs will be refused"
scripts/venv.sh tests/python/requirements.txt "$venv"
rm -rf build/dist
export CMAKE_BUILD_PARALLEL_LEVEL=${JOBS:-$(nproc)}
"$venv/bin/pip" wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir build/dist .
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-index --force-reinstall build/dist/atom-*.whl
echo "python_package: $(ls build/dist), $(stat -c %s build/dist/atom-*.whl | awk '{printf "%.1f MB", $1 / 1e6}')"
