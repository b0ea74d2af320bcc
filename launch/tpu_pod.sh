#!/usr/bin/env bash
# Run on every host of a TPU pod slice; the package must be installed there.
#   TPU=name ZONE=zone launch/tpu_pod.sh --config=configs/hybrid.py:cifar10 --workdir=/mnt/shared/run
set -euo pipefail
: "${TPU:?set TPU to the name of the slice}" "${ZONE:?set ZONE to its zone}"
command="cd ~/jaxrobust && python -m jaxrobust.main$(printf ' %q' "$@")"
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$command"
