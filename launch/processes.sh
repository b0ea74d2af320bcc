#!/usr/bin/env bash
# N processes on this machine that form one group over loopback.
#   launch/processes.sh 2 --config=configs/hybrid.py:smoke --workdir=runs/two
# SIGTERM goes to all of them. Where one fails the rest cannot go on: they are asked to stop
# and killed after GRACE seconds. The exit status is that of the first that failed.
set -euo pipefail
cd "$(dirname "$0")/.."
GRACE=${GRACE:-30}
count=$1
shift
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
pids=()
signal_all() { kill "-$1" "${pids[@]}" 2>/dev/null || true; }
trap 'signal_all TERM' TERM INT
trap 'signal_all KILL' EXIT
for ((i = 0; i < count; i++)); do
  python -m jaxrobust.main --coordinator="127.0.0.1:$port" \
    --num_processes="$count" --process_id="$i" "$@" &
  pids+=($!)
done
status=0
while ((${#pids[@]})); do
  # A signal to the whole process group ends the sleep, which is no failure.
  sleep 0.2 || true
  running=()
  failed=0
  for pid in "${pids[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      running+=("$pid")
    else
      code=0
      wait "$pid" || code=$?
      if ((code && !status)); then
        status=$code failed=1 deadline=$((SECONDS + GRACE))
      fi
    fi
  done
  pids=("${running[@]}")
  if ((failed)); then signal_all TERM; fi
  if ((status && SECONDS >= deadline)); then signal_all KILL; fi
done
exit "$status"
