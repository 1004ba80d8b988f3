#!/usr/bin/env bash
# Everything that needs a device, with binaries that may have been built elsewhere: device and kernel tests,
# models against transformers, the server with the openai client, the speed table. Logs beside each other, one
# short table last. Usage: gpu_check.sh [BIN [LOGS]]; BIN (default build/cuda/bin) holds atom, libatom_cuda.so,
# atom_gpu_test, atom_golden_test, throughput_benchmark and the kernel tests, as far as they were built. Run it in the
# root of the tree (it reads tests/). ATOM_SHARED_DIR: the parity pack. QUICK=1 leaves the speed table out.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=$(realpath "${1:-build/cuda/bin}")
logs=${2:-build/gpu_check}
mkdir -p "$logs"
logs=$(realpath "$logs")
export PATH=$bin:$PATH
table=$logs/table.txt
: >"$table"

row() { printf '%-34s %s\n' "$1" "$2" | tee -a "$table"; }

# check NAME SECONDS COMMAND...: passed when it exits with 0
check() {
  local name=$1 limit=$2 began=$SECONDS
  shift 2
  if ! command -v "$1" >/dev/null; then
    row "$name" "not built"
    return
  fi
  if timeout -k 5 "$limit" "$@" >"$logs/$name.log" 2>&1; then
    row "$name" "passed ($((SECONDS - began)) s)"
  else
    row "$name" "FAILED with $? after $((SECONDS - began)) s: $(tail -1 "$logs/$name.log")"
  fi
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader >"$logs/card.txt" 2>/dev/null
row "card" "$(head -1 "$logs/card.txt" 2>/dev/null)"
check device 120 atom_gpu_test
for kernels in gpu_vector_ops_test gpu_linear_test gpu_attention_test gpu_sampler_test; do
  check $kernels 300 $kernels
done
check models 300 atom_golden_test --gtest_filter='Files/GoldenModels.Greedy*'

# A chat answer, streamed and whole, from the real server on the device.
server_smoke() {
  local model=tests/golden/models/llama-gqa-bf16 log=$logs/server-output.log pid port status
  atom serve --device cuda --model $model --server-port 0 --chat-template '{{ messages[0].content }}' >"$log" 2>&1 &
  pid=$!
  for _ in $(seq 100); do
    port=$(sed -n 's/.*127\.0\.0\.1:\([0-9]*\).*/\1/p' "$log" | head -1)
    [ -n "$port" ] && break
    sleep 0.1
  done
  python3 - "$port" <<'PY'
import sys
from openai import OpenAI
client = OpenAI(base_url=f"http://127.0.0.1:{sys.argv[1]}/v1", api_key="none", max_retries=0, timeout=30)
model = client.models.list().data[0].id
ask = dict(model=model, messages=[{"role": "user", "content": "hello"}], max_tokens=16, temperature=0)
whole = client.chat.completions.create(**ask)
pieces = [c.choices[0].delta.content or "" for c in client.chat.completions.create(**ask, stream=True) if c.choices]
assert whole.choices[0].message.content == "".join(pieces), (whole, pieces)
assert whole.usage.completion_tokens > 0
print("server: streamed and whole answers are equal")
PY
  status=$?
  kill "$pid"
  wait "$pid"
  return $status
}
if command -v atom >/dev/null; then
  if python3 -c 'import openai' 2>/dev/null; then
    server_smoke >"$logs/server.log" 2>&1 && row server passed || row server "FAILED: $(tail -1 "$logs/server.log")"
  else
    row server "not run: no openai package"
  fi
fi

# speed NAME MODEL FLAGS...: rows of throughput_benchmark
speed() {
  local name=$1 model=$2
  shift 2
  timeout -k 5 300 throughput_benchmark tests/models/"$model" --device cuda "$@" >"$logs/$name.log" 2>&1 ||
    row "$name" "FAILED: $(tail -1 "$logs/$name.log")"
  grep -h 'first token' "$logs/$name.log" | sed 's/^[^:]*/start/' | while read -r line; do row "$name" "$line"; done
  awk '/closed loop/ {printf "%s clients: %s tok/s, %s ms/token, TTFT %s ms\n", $3, $4, $5, $6}' "$logs/$name.log" |
    while read -r line; do row "$name" "$line"; done
}
if [ "${QUICK:-0}" = 0 ] && command -v throughput_benchmark >/dev/null; then
  speed 8b-single llama-3.1-8b --input 128 --output 256 --clients 1 --requests-per-client 3
  speed 8b-fp8-single llama-3.1-8b --quantization fp8 --input 128 --output 256 --clients 1 --requests-per-client 3
  speed 0.6b-single qwen3-0.6b --input 128 --output 256 --clients 1 --requests-per-client 3
  speed 8b llama-3.1-8b --clients 8,32,64
  speed 8b-burst llama-3.1-8b --clients 128,256 --requests-per-client 1
  speed 8b-fp8 llama-3.1-8b --quantization fp8 --kv-cache-dtype fp8 --clients 64
  speed 8b-fp8-burst llama-3.1-8b --quantization fp8 --kv-cache-dtype fp8 --clients 256 --requests-per-client 1
  speed 0.6b qwen3-0.6b --clients 8,64
  speed 0.6b-burst qwen3-0.6b --clients 256 --requests-per-client 1
fi

echo
cat "$table"
! grep -q FAILED "$table"
