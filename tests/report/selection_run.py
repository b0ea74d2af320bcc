"""A run of methods that select inside of the step, made up in milliseconds."""

import json
from pathlib import Path

import numpy as np

EPOCH_STEPS, STEPS, CHUNK, HALF_BATCH = 20, 400, 10, 128
PLAIN = ("standard", "pgd_at")
Methods = dict[str, tuple[str, float]]  # name -> selector, keep
METHODS: Methods = {
    "ds_10": ("union", 0.1),
    "ds_30": ("union", 0.3),
    "ds_50": ("union", 0.5),
    "ds_75": ("union", 0.75),
    "random_50": ("union", 0.5),
    "ds_adaptive": ("adaptive", 1.0),
}


def make_selection(
    workdir: Path, methods: Methods = METHODS, plain=PLAIN, seeds=(0, 1, 2)
) -> Path:
    """Write config, results and metrics into `workdir`."""
    rng = np.random.default_rng(11)
    workdir.mkdir(parents=True, exist_ok=True)
    known: Methods = {name: ("all", 1.0) for name in plain}
    known |= methods
    runs = [
        _row(rng, name, *known[name], seed, s)
        for name in known
        for s, seed in enumerate(seeds)
    ]
    rows = [_mean([r for r in runs if r["name"] == f"{n} / original"]) for n in known]
    results = {"title": "In-batch selection", "rows": rows, "runs": runs}
    _json(workdir / "results.json", results)
    specs = {name: _spec(name, *pair) for name, pair in known.items()}
    _json(workdir / "config.json", {"task": "train", "methods": specs})
    lines = [
        line
        for seed in seeds
        for name, pair in known.items()
        for line in _lines(rng, f"seed{seed}/{name}-original", name, *pair)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text)
    return workdir


def _spec(name: str, selector: str, keep: float) -> dict:
    if selector == "all":
        return {"objective": {"name": "pgd_at"}, "select": {"name": "all"}}
    order = "random" if name.startswith("random") else "hard"
    select = {"name": "union", "keep": keep, "order": order}
    select["count_minimum"] = name == "ds_50"
    if selector == "adaptive":
        select["sizes"] = [0.1, 0.25, 0.5, 0.75, 1.0]
    return {"objective": {"name": "pgd_at"}, "select": select}


def _row(rng, name: str, selector: str, keep: float, seed: int, s: int) -> dict:
    clean, robust = 0.86 - 0.05 * (keep - 0.5) ** 2, 0.5 - 0.12 * (1 - keep) ** 3
    if name == "standard":
        clean, robust = 0.95, 0.004
    row = {
        "name": f"{name} / original",
        "seed": seed,
        "clean_acc": clean + rng.normal(0, 0.003),
        "pgd_acc": robust + rng.normal(0, 0.004),
        "cw_acc": max(robust - 0.02, 0.0),
        "steps": STEPS,
        "attack_seconds": 0.0 if name == "standard" else 60.0 + s,
        "train_seconds": 12.0 + 18.0 * keep,
    }
    if selector != "all":
        row |= {"selection": selector, "keep": keep, "steps_per_epoch": EPOCH_STEPS}
        row |= {"relative_cost": (42 + 6 * keep) / 43}
    return row


def _mean(runs: list[dict]) -> dict:
    row = {**runs[0], "seeds": [run["seed"] for run in runs]}
    del row["seed"]
    for key in ("clean_acc", "pgd_acc", "cw_acc", "attack_seconds"):
        values = [run[key] for run in runs]
        row[key] = float(np.mean(values))
        if len(runs) > 1 and key.endswith("_acc"):
            row[f"{key}_std"] = float(np.std(values, ddof=1))
    return row


def _lines(rng, stage: str, name: str, selector: str, keep: float):
    p_up, in_effect = 1.0, keep
    for step in range(CHUNK, STEPS + 1, CHUNK):
        grown = 1 - np.exp(-step / 120)
        point = {"stage": stage, "step": step, "loss": 2.3 - 1.5 * grown}
        point["acc"] = 0.1 + 0.5 * grown + rng.normal(0, 0.01)
        if selector == "adaptive":
            in_effect = min(z for z in (0.1, 0.25, 0.5, 0.75, 1.0) if z >= p_up - 1e-9)
            point["p_up"] = p_up
            if step % EPOCH_STEPS == 0:
                p_up *= 1 - 0.4 * grown
        if selector != "all":
            total = round(in_effect * 2 * HALF_BATCH)
            attacked = total * (0.7 - 0.3 * grown) + rng.normal(0, 1)
            point |= {"keep": in_effect, "chosen_adv": attacked}
            point["chosen_clean"] = total - attacked
            if name in ("ds_50", "ds_adaptive"):
                point["chosen_minimum"] = 0.5 * attacked * grown
        yield point
        if step % 100 == 0:
            val = {"val_clean_acc": 0.8 * grown, "val_pgd_acc": 0.45 * grown}
            yield {"stage": stage, "step": step, **val}


def _json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=1))
