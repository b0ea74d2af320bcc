#!/usr/bin/env bash
# N processes on this machine that form one group over loopback.
#   launch/processes.sh 2 --config=configs/hybrid.py:smoke --workdir=runs/two
set -euo pipefail
cd "$(dirname "$0")/.."
count=$1
shift
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT
for ((i = 0; i < count; i++)); do
  python -m jaxrobust.main --coordinator="127.0.0.1:$port" \
    --num_processes="$count" --process_id="$i" "$@" &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid"; done
trap - EXIT
