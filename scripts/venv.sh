#!/usr/bin/env bash
# Makes a virtual environment once; with a requirements file, installs it when it changed.
# Usage: venv.sh [requirements.txt [FOLDER]], FOLDER is .venv
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
cd "$(dirname "$0")/.."

venv=${2:-.venv}
if [ ! -x "$venv/bin/pip" ]; then
  echo "venv: creating $venv"
  python3 -m venv "$venv"
fi
if [ $# -gt 0 ]; then
  stamp=$venv/$(basename "$1").sha256
  if ! sha256sum --check --status "$stamp" 2>/dev/null; then
    echo "venv: installing $1"
    # Not compiled: most of it is never imported, and what is, Python compiles then.
    "$venv/bin/pip" install --quiet --no-compile --disable-pip-version-check -r "$1"
    sha256sum "$1" >"$stamp"
  fi
fi
