#!/usr/bin/env bash
# Everything that needs a device, with binaries that may have been built elsewhere: device and kernel tests,
# models against transformers, the server with a client, the speed table. Logs beside each other, one short table
# last; fails when a row failed. Usage: gpu_check.sh [BIN [LOGS]]; BIN (default build/cuda/bin) holds atom,
# libatom_cuda.so, atom_gpu_test, atom_golden_test, throughput_benchmark and the kernel tests, as far as they were
# built. Run it in the root of the tree (it reads tests/ and benchmarks/). ATOM_SHARED_DIR: the parity pack.
# QUICK=1 (about a minute) keeps of each suite what is short. The load through HTTP needs a tokenizer of at least
# the model's vocabulary: TOKENIZER=FILE of Qwen3, say; without it that row is left out.
set -uo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
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
quick=${QUICK:-0}
check device 120 atom_gpu_test
for kernels in gpu_vector_ops_test gpu_left_scales_test gpu_attention_test gpu_sampler_test gpu_moe_test; do
  check $kernels 300 $kernels
done
check gpu_packed_linear_test 300 gpu_packed_linear_test $([ "$quick" = 0 ] || echo quick)
check gpu_linear_test 300 gpu_linear_test $([ "$quick" = 0 ] || echo quick)
check models 300 atom_golden_test --gtest_filter='Files/GoldenModels.Greedy*'
check servings 300 atom_golden_test --gtest_filter='*RealDevice*'
if command -v gpu_linear_benchmark >/dev/null; then
  timeout 60 gpu_linear_benchmark rows >"$logs/roof.log" 2>&1
  row "read roof" "$(sed -n 's/^read roof //p' "$logs/roof.log" | head -1)"
fi

# serve LOG FLAGS...: starts the server on a free port of loopback and sets pid and port
serve() {
  local log=$1
  shift
  atom serve --device cuda --host 127.0.0.1 --server-port 0 --served-model-name m --no-access-log "$@" >"$log" 2>&1 &
  pid=$!
  port=
  for _ in $(seq 300); do
    port=$(sed -n 's/.*ready: http:..127\.0\.0\.1:\([0-9]*\).*/\1/p' "$log" | head -1)
    [ -n "$port" ] && break
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
}

# Answers, streamed and whole, from the real server: with the openai client where it is installed.
server_smoke() {
  local status
  serve "$logs/server-output.log" --model tests/golden/models/llama-gqa-bf16 --chat-template '{{ messages[0].content }}'
  python3 - "$port" <<'PY'
import json, sys, urllib.request
base, ask = f"http://127.0.0.1:{sys.argv[1]}/v1", dict(
    model="m", messages=[{"role": "user", "content": "hello"}], max_tokens=16, temperature=0)
try:
    from openai import OpenAI
    client = OpenAI(base_url=base, api_key="none", max_retries=0, timeout=30)
    whole = client.chat.completions.create(**ask)
    text, tokens = whole.choices[0].message.content, whole.usage.completion_tokens
    pieces = [c.choices[0].delta.content or "" for c in client.chat.completions.create(**ask, stream=True) if c.choices]
except ImportError:
    def post(body):
        request = urllib.request.Request(base + "/chat/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        return urllib.request.urlopen(request, timeout=30).read().decode()
    whole = json.loads(post(ask))
    text, tokens = whole["choices"][0]["message"]["content"], whole["usage"]["completion_tokens"]
    events = [json.loads(line[6:]) for line in post(dict(ask, stream=True)).splitlines() if line.startswith("data: {")]
    pieces = [e["choices"][0]["delta"].get("content") or "" for e in events if e["choices"]]
assert text == "".join(pieces), (text, pieces)
assert tokens > 0
print("server: streamed and whole answers are equal,", "openai" if "openai" in sys.modules else "urllib")
PY
  status=$?
  kill "$pid"
  wait "$pid" || status=1
  return $status
}

# Load through HTTP: Llama-3.1-8B with made-up weights.
server_load() {
  local folder=$logs/llama-3.1-8b clients
  mkdir -p "$folder"
  cp tests/models/llama-3.1-8b/config.json "$folder/"
  cp "$TOKENIZER" "$folder/tokenizer.json"
  serve "$logs/server-load.log" --model "$folder" --load_dummy xavier --max-model-len 4096 --max-num-seqs 256 \
    --no-enable_prefix_caching
  for clients in "$@"; do
    row "http $clients clients" "$(timeout -k 5 60 python3 benchmarks/http_latency.py "$port" --clients "$clients" --requests $((clients * 3 / 2)) 2>&1 | tail -1 | cut -d: -f2-)"
  done
  kill "$pid"
  wait "$pid"
}
if command -v atom >/dev/null; then
  server_smoke >"$logs/server.log" 2>&1 && row server "passed ($(tail -1 "$logs/server.log"))" ||
    row server "FAILED: $(tail -1 "$logs/server.log")"
  if [ -n "${TOKENIZER:-}" ]; then
    if [ "$quick" = 0 ]; then server_load 64 256; else server_load 64; fi
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
if command -v throughput_benchmark >/dev/null; then
  single="--input 128 --output 256 --clients 1 --requests-per-client 2"
  fp8="--quantization fp8 --kv-cache-dtype fp8"
  speed 8b-single llama-3.1-8b $single
  speed 0.6b-single qwen3-0.6b $single
  speed 8b llama-3.1-8b --clients 64
fi
if [ "$quick" = 0 ] && command -v throughput_benchmark >/dev/null; then
  speed 8b-fp8-single llama-3.1-8b --quantization fp8 $single
  speed 8b-few llama-3.1-8b --clients 8,32
  speed 8b-burst llama-3.1-8b --clients 128,256 --requests-per-client 1
  speed 8b-fp8 llama-3.1-8b $fp8 --clients 64
  speed 8b-fp8-burst llama-3.1-8b $fp8 --clients 256 --requests-per-client 1
  speed 0.6b qwen3-0.6b --clients 8,64
  speed 0.6b-burst qwen3-0.6b --clients 256 --requests-per-client 1
fi

echo
cat "$table"
! grep -q FAILED "$table"
