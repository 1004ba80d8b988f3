#!/usr/bin/env bash
# Before a commit is sent: source checks, then everything `make test` runs. Usage: presubmit.sh [--checks]
# --checks runs the source checks alone: size budgets, layering, the things style forbids.
set -uo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
cd "$(dirname "$0")/.."

python3 scripts/check_source.py
checks=$?
if [ "${1:-}" = --checks ]; then
  exit $checks
fi
scripts/test.sh
tests=$?
[ $checks = 0 ] && [ $tests = 0 ]
