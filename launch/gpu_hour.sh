#!/usr/bin/env bash
# An hour on a machine with a GPU, prepared: benchmark, profile, training, AutoAttack, cards.
#   launch/gpu_hour.sh DATA WORK [WHEELS]
# DATA is CIFAR-10 as a folder: train/<class> and test/<class>, or train.npz and test.npz. All
# results and one log go to WORK; the same command skips the stages that are done and goes on with
# the others. WHEELS, a folder, is where packages come from that this machine lacks.
#   POOL=FILE.npz     generated images with labels; without it a small diffusion model makes some
#   EPOCHS, AA_IMAGES of the training runs, and test images for AutoAttack
#   STAGES="bench ..." only these
#   SMOKE=1           every stage at a size of seconds, on digits: DATA is not read
set -euo pipefail
if (($# < 2)); then
  sed -n '2,11s/^# \{0,1\}//p' "$0"
  exit 2
fi
mkdir -p "$2"
data=$1 work=$(cd "$2" && pwd) wheels=${3:-}
if [[ -e $data ]]; then data=$(realpath "$data"); fi
if [[ -n $wheels ]]; then wheels=$(realpath "$wheels"); fi
if [[ -n ${POOL:-} ]]; then POOL=$(realpath "$POOL"); fi
cd "$(dirname "$0")/.."
mkdir -p "$work/done"
exec > >(tee -a "$work/log.txt") 2>&1
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$work/compiled}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0

say() { echo "== $(date '+%H:%M:%S') $*"; }

# Importable name and package of whatever the runs import; tensorflow-datasets is none of it.
for pair in jax:jax flax:flax optax:optax orbax.checkpoint:orbax-checkpoint numpy:numpy \
  scipy:scipy sklearn:scikit-learn PIL:pillow matplotlib:matplotlib tqdm:tqdm absl:absl-py \
  yaml:PyYAML ml_collections:ml_collections; do
  name=${pair%%:*} package=${pair##*:}
  if python -c "import $name" 2>/dev/null; then continue; fi
  install=(python -m pip install -q --no-deps --no-index --find-links "${wheels:-WHEELS}" "$package")
  if [[ -z $wheels ]] || ! "${install[@]}"; then
    say "$name is missing: put its wheel into a folder WHEELS and run ${install[*]}"
    exit 2
  fi
done

failed=()
# stage NAME SECONDS COMMAND...: once, within its time; SIGTERM lets a run save itself.
stage() {
  local name=$1 limit=$2 status=0
  shift 2
  if [[ -n ${STAGES:-} && " $STAGES " != *" $name "* ]]; then return; fi
  if [[ -e $work/done/$name ]]; then
    say "$name: done before"
    return
  fi
  say "$name: at most $limit s: $*"
  timeout --kill-after=90 "$limit" "$@" || status=$?
  if ((status)); then
    say "$name: exit status $status, goes on with the same command"
    failed+=("$name")
  else
    say "$name: done"
    touch "$work/done/$name"
  fi
}
run() { # run NAME SECONDS RECIPE FLAGS...: a run of jaxrobust.main in WORK/NAME
  local name=$1 limit=$2 recipe=$3
  shift 3
  stage "$name" "$limit" python -m jaxrobust.main "--config=configs/$recipe" \
    "--workdir=$work/$name" "$@"
}

small=(--config.seeds="(0,)")
if [[ -n ${SMOKE:-} ]]; then
  variant=smoke rehearse=(--rehearse) profiled=(--config.profile.num_steps=4) hybrid=() attacked=()
else
  variant=cifar10 rehearse=() name=folder
  if [[ -e $data/train.npz ]]; then name=npz; fi
  small+=("--config.data.name=$name" "--config.data.path=$data" --config.model.dtype=bfloat16
    --config.train.checkpoint_every_steps=500 --config.eval.batch_size=1000)
  profiled=(--config.train.num_steps=300 --config.train.probe_every_steps=0
    --config.profile.start_step=100 --config.profile.num_steps=100 --config.data.test_limit=500)
  hybrid=("--config.generated.name=npz" "--config.generated.path=${POOL:-}")
  if [[ -z ${POOL:-} ]]; then
    hybrid=(--config.generated.name=diffusion --config.generator.train.num_steps=8000
      --config.generator.count=20000)
  fi
  small+=("--config.train.num_epochs=${EPOCHS:-30}")
  attacked=(--config.batch_size=500 "--config.data.test_limit=${AA_IMAGES:-1000}")
fi

stage bench 560 python -m tests.bench --out "$work/bench.json" --resume --minutes 8 "${rehearse[@]}"
run profile 300 "adversarial.py:$variant" "${small[@]}" "${profiled[@]}" --config.compare="('pgd_at',)"
run train 1500 "adversarial.py:$variant" "${small[@]}" --config.compare="('pgd_at','trades','nfgsm')"
run hybrid 1800 "hybrid.py:$variant" "${small[@]}" "${hybrid[@]}" --config.reconstruct.compare="('pgd_at',)"
for name in train hybrid; do
  evaluation=evaluate.py suite=(--config.suite=autoattack)
  if [[ -n ${SMOKE:-} ]]; then evaluation+=:smoke suite=("--config.networks=('pgd_at / original',)"); fi
  if [[ -e $work/$name/card.json ]]; then
    run "$name-autoattack" 900 "$evaluation" "--config.checkpoint=$work/$name" "${suite[@]}" "${attacked[@]}"
  fi
done
if ((${#failed[@]})); then
  say "not done: ${failed[*]}"
  exit 1
fi
say "all done: $work/*/card.json, $work/bench.json, $work/profile/report.html"
