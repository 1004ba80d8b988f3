#!/bin/bash
# wait_infer_drain.sh [PORT=8000] [TIMEOUT_SECONDS=600]
# Waits until the server on PORT runs no request and has none waiting (status 0; 1 when time runs out).
set -u
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
port=${1:-8000} limit=${2:-600}
for name in port limit; do
  case ${!name} in '' | *[!0-9]*) echo "wait_infer_drain: $name: ${!name:-(empty)}: a whole number expected" >&2; exit 2 ;; esac
done
end=$((SECONDS + limit))
while [ $SECONDS -lt $end ]; do
  if ! page=$(curl -sf --max-time 5 "http://localhost:$port/metrics"); then
    echo "The server on port $port does not answer" >&2
    exit 1
  fi
  busy=$(printf '%s\n' "$page" | awk '/^vllm:num_requests_(running|waiting)[{ ]/ {n += $NF} END {print n + 0}')
  if [ "$busy" = 0 ]; then
    echo "Drained"
    exit 0
  fi
  sleep 0.5
done
echo "Still $busy requests after $limit s" >&2
exit 1
