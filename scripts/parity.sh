#!/usr/bin/env bash
# Serves every Llama and Qwen3 model of the parity pack (plain, quantised and GGUF) with the real binary, one after
# the other, and compares echoed logprobs, greedy tokens and batches with the references (check.py of the pack).
# Usage: parity.sh [REGEX of model names]. Environment: ATOM_SHARED_DIR (default ../shared), ARGS (further
# flags of `atom serve`). The logits themselves are compared by atom_golden_test (CTest), without a server.
set -euo pipefail
cd "$(dirname "$0")/.."

parity=$(realpath -m "${ATOM_SHARED_DIR:-../shared}")/parity
if [ ! -f "$parity/parity.tar.xz" ]; then
  echo "parity: $parity/parity.tar.xz is not there, nothing to compare" >&2
  exit 0
fi
models='^(llama.*|smollm2-tied|qwen3-.*|gguf-llama.*|gguf-qwen3-.*)$'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -C "$work" -xf "$parity/parity.tar.xz"
python3 "$parity/check.py" --pack "$work" --only "${1:-$models}" --log-dir "$work" \
  --serve "$PWD/build/bin/atom serve --model {model} --server-port {port} --host 127.0.0.1 --device cpu ${ARGS:-}"
