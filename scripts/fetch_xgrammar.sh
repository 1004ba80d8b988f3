#!/usr/bin/env bash
# Puts the source package of the xgrammar core (Apache-2.0; structured outputs) into third_party/, once. It is
# fetched with pip from the index pip is set up for, its SHA-256 is checked, and it is compiled as it is.
# Without it the build works and refuses such requests by name: ATOM_XGRAMMAR=off in the environment skips it.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
cd "$(dirname "$0")/.."

version=0.2.8
sha256=8305646fd2b319d6c3003f51a1665e54cbbe9cba1fb636bc41d0b46434ccbb80

folder=third_party/xgrammar-$version
if [ -f $folder/cpp/grammar_compiler.cc ] || [ "${ATOM_XGRAMMAR:-on}" = off ]; then
  exit 0
fi

cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/atom/sources
archive=$cache/xgrammar-$version.tar.gz
mkdir -p "$cache" third_party
work=$(mktemp -d third_party/fetch.XXXXXX)
trap 'rm -rf "$work"' EXIT
if ! echo "$sha256  $archive" | sha256sum --check --status 2>/dev/null; then
  echo "xgrammar: fetching its source package (2.7 MB)" >&2
  scripts/venv.sh >&2
  # pip asks a source package for its metadata, which runs that package's build back end once.
  .venv/bin/pip download --quiet --disable-pip-version-check --no-deps --no-binary=xgrammar --dest "$work" \
    "xgrammar==$version" >&2
  if ! echo "$sha256  $work/xgrammar-$version.tar.gz" | sha256sum --check --status; then
    echo "xgrammar: SHA-256 of the fetched file is not $sha256; nothing was kept" >&2
    exit 1
  fi
  mv "$work/xgrammar-$version.tar.gz" "$archive"
fi
tar -xzf "$archive" -C "$work"
mv "$work/xgrammar-$version" $folder
