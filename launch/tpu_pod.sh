#!/usr/bin/env bash
# One run on all hosts of a Cloud TPU slice, from a machine with gcloud, until it has ended.
#   TPU=name ZONE=zone launch/tpu_pod.sh --config=configs/hybrid.py:cifar10 --workdir=/mnt/shared/run
# SETUP     what a host does first, every time: the code into ~/jaxrobust, the share mounted
# CREATE    gcloud's options for a slice; with them one that is missing or preempted is made anew:
#           CREATE='--accelerator-type=v4-32 --version=tpu-ubuntu2204-base --spot'
# ATTEMPTS  how often a run may fail on a slice in good health
# PAUSE     seconds between two looks at a slice that is not ready
# The end is exit status 0, or 2, a mistake of the user's; anything else is tried again, and the
# run goes on from its --workdir.
set -euo pipefail
: "${TPU:?set TPU to the name of the slice}" "${ZONE:?set ZONE to its zone}"
SETUP=${SETUP:-true} CREATE=${CREATE:-} ATTEMPTS=${ATTEMPTS:-3} PAUSE=${PAUSE:-30}
command="$SETUP && cd ~/jaxrobust && exec launch/tpu_host.sh$(printf ' %q' "$@")"

tpu() { gcloud compute tpus tpu-vm "$1" "$TPU" --zone="$ZONE" "${@:2}"; }

state() { tpu describe --format='value(state)' 2>/dev/null || echo MISSING; }

create() {
  local status=0
  # shellcheck disable=SC2086 # several options
  tpu create $CREATE || status=$?
  # 2: gcloud does not understand the options; otherwise there may be room later.
  if ((status == 2)); then exit 2; fi
  if ((status)); then sleep "$PAUSE"; fi
}

make_ready() {
  local now
  while now=$(state) && [[ $now != READY ]]; do
    echo "tpu_pod.sh: $TPU is $now" >&2
    if [[ -z $CREATE ]]; then exit 1; fi
    case $now in
      MISSING) create ;;
      PREEMPTED | TERMINATED) tpu delete --quiet || sleep "$PAUSE" ;;
      *) sleep "$PAUSE" ;;
    esac
  done
}

failures=0
while true; do
  make_ready
  status=0
  tpu ssh --worker=all --command="$command" || status=$?
  if ((status == 0 || status == 2)); then exit "$status"; fi
  if [[ $(state) == READY ]]; then
    failures=$((failures + 1))
    if ((failures >= ATTEMPTS)); then exit "$status"; fi
    sleep "$PAUSE"
  fi
done
