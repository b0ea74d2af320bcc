#!/usr/bin/env bash
# One host of a Cloud TPU slice: asks the VM's metadata who it is, and joins the others.
# Started on all hosts at once by tpu_pod.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
ask() {
  curl --silent --fail --retry 5 --header 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1"
}
number=$(ask agent-worker-number)
endpoints=$(ask worker-network-endpoints)
IFS=, read -ra hosts <<< "$endpoints"
# An endpoint is an address, or name:number:address on older runtimes.
coordinator=${hosts[0]##*:}
# After a lost connection the run before may still be at work: let it end, to find its results.
exec 9> "$HOME/.jaxrobust-$number.lock"
flock 9
exec python -m jaxrobust.main --coordinator="$coordinator:${PORT:-8482}" \
  --num_processes="${#hosts[@]}" --process_id="$number" "$@"
