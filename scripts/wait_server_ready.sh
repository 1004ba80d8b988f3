#!/bin/bash
# wait_server_ready.sh [PORT=8000] [PID] [LOG] [TIMEOUT_SECONDS=1200]
# Waits until GET /health on PORT succeeds and prints "Server is ready!" (status 0). Where PID has ended it prints
# "Server process died" and the end of LOG (status 1); after TIMEOUT_SECONDS it gives up (status 1).
set -u
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
port=${1:-8000} pid=${2:-} log=${3:-} limit=${4:-1200}
for name in port limit; do
  case ${!name} in '' | *[!0-9]*) echo "wait_server_ready: $name: ${!name:-(empty)}: a whole number expected" >&2; exit 2 ;; esac
done
end=$((SECONDS + limit))
while [ $SECONDS -lt $end ]; do
  if curl -sf -o /dev/null --max-time 5 "http://localhost:$port/health"; then
    echo "Server is ready!"
    exit 0
  fi
  if [ -n "$pid" ] && ! kill -0 "$pid" 2>/dev/null; then
    echo "Server process died"
    [ -n "$log" ] && [ -f "$log" ] && tail -n 20 "$log" >&2
    exit 1
  fi
  sleep 0.2
done
echo "The server did not get ready within $limit s" >&2
exit 1
