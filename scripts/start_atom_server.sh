#!/bin/bash
# start_atom_server.sh MODEL TP PORT [EXTRA FLAGS...]
# Stops the server that this script started before on PORT, starts one, and waits until it prints
# "Server is ready!" (status 0) or "Server process died" (status 1). Its log: $ATOM_LOG_DIR/atom_server_PORT.log.
set -u
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
if [ $# -lt 3 ]; then "$0" --help >&2; exit 2; fi
model=$1 tp=$2 port=$3; shift 3
case $port in '' | *[!0-9]*) echo "start_atom_server: port: ${port:-(empty)}: a whole number expected" >&2; exit 2 ;; esac
here=$(cd "$(dirname "$0")" && pwd)
atom=${ATOM_BINARY:-$(command -v atom || echo "$here/../build/bin/atom")}
logs=${ATOM_LOG_DIR:-${TMPDIR:-/tmp}}
log=$logs/atom_server_$port.log pidfile=$logs/atom_server_$port.pid

if [ -f "$pidfile" ]; then
  old=$(cat "$pidfile")
  # Only a process that is still this server: its number may belong to another one by now.
  if [ -n "$old" ] && tr '\0' ' ' <"/proc/$old/cmdline" 2>/dev/null | grep -q -- "serve .*--server-port $port "; then
    echo "Stopping the server with process id $old"
    kill "$old" 2>/dev/null
    for _ in $(seq 100); do kill -0 "$old" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$old" 2>/dev/null
  fi
  rm -f "$pidfile"
fi

nohup "$atom" serve --model "$model" --server-port "$port" -tp "$tp" "$@" >"$log" 2>&1 </dev/null &
echo $! >"$pidfile"
exec "$here/wait_server_ready.sh" "$port" "$(cat "$pidfile")" "$log"
