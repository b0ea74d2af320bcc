#!/usr/bin/env bash
# All devices of this machine, one process.
#   launch/local.sh --config=configs/hybrid.py:cifar10 --workdir=runs/hybrid
set -euo pipefail
cd "$(dirname "$0")/.."
exec python -m jaxrobust.main "$@"
