#!/usr/bin/env bash
# Serves a model on 127.0.0.1 and says when it is ready. Environment: MODEL (default: the demo model),
# PORT (8000), ARGS (further flags of `atom serve`). Called by `make run`.
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
cd "$(dirname "$0")/.."

port=${PORT:-8000}
read -r -a extra <<<"${ARGS:-}"
case $port in
  '' | *[!0-9]*) echo "run: PORT=$port is not a port number" >&2; exit 2 ;;
esac
if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
  echo "run: 127.0.0.1:$port is in use; try: make run PORT=$((port + 1))" >&2
  exit 1
fi
model=${MODEL:-}
if [ -z "$model" ]; then
  model=$(scripts/fetch_demo_model.sh)
  extra=(--served-model-name SmolLM2-135M-Instruct "${extra[@]}")
fi

healthy() {
  local status
  exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
  printf 'GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&3
  read -r -t 5 _ status _ <&3
  exec 3>&-
  [ "$status" = 200 ]
}

announce() { # waits for the server, whose process id is $1
  until healthy 2>/dev/null; do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.05
  done
  cat <<TXT

ATOM is ready on http://127.0.0.1:$port (Ctrl-C stops it). Try:

curl http://127.0.0.1:$port/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 64, "stream": true}'

TXT
}

command=(build/bin/atom serve --model "$model" --host 127.0.0.1 --server-port "$port" "${extra[@]}")
echo "run: ${command[*]}"
announce $$ &
exec "${command[@]}"
