"""A comparison of data selection methods, made up in milliseconds."""

import json
from pathlib import Path

import numpy as np
from scipy import stats

STEPS, IMAGES, SECOND_PER_STEP = 400, 1257, 0.11
FULL = "full"
# choice -> points of PGD accuracy over chance, seconds to rank, seconds per step saved
CHOICES = {
    "random": (0.0, 0.0, 0.0),
    "random_redrawn": (0.6, 0.0, 0.0),
    "el2n": (-2.2, 9.0, 0.0),
    "forgetting": (-0.8, 16.0, 0.0),
    "robust_risk": (1.5, 21.0, 0.0),
    "herding": (0.4, 8.0, 0.0),
    "k_center": (-1.4, 8.5, 0.0),
    "craig": (1.1, 14.0, 0.0),
    "gradmatch": (2.4, 18.0, 0.0),
    "in_batch_hard": (3.1, 0.0, 0.04),
}


def make_comparison(
    workdir: Path,
    choices=tuple(CHOICES),
    budgets=(0.3, 0.5),
    rules=("steps", "time"),
    seeds=(0, 1, 2),
) -> Path:
    """Write config and results into `workdir`."""
    rng = np.random.default_rng(5)
    workdir.mkdir(parents=True, exist_ok=True)
    cells = [
        (choice, budget, rule)
        for rule in rules
        for choice in (*choices, FULL)
        for budget in ((1.0,) if choice == FULL else budgets)
    ]
    luck = {seed: rng.normal(0, 0.004) for seed in seeds}  # shared: seeds are paired
    runs = [_run(rng, *cell, seed, luck[seed]) for cell in cells for seed in seeds]
    names = list(dict.fromkeys(run["name"] for run in runs))
    results = {
        "title": "Which images to train on",
        "question": "Which images should a network be trained on, at the same number "
        "of steps and at the same time?",
        "answer": "Inside of the step, the hardest images.",
        "rows": [_mean([run for run in runs if run["name"] == n]) for n in names],
        "runs": runs,
    }
    comparison = {"budgets": list(budgets), "rules": list(rules)}
    comparison["choices"] = {choice: {} for choice in choices}
    _json(workdir / "results.json", results)
    _json(workdir / "config.json", {"task": "compare", "comparison": comparison})
    return workdir


def _run(rng, choice: str, budget: float, rule: str, seed: int, luck: float) -> dict:
    gain, ranking, saved = CHOICES.get(choice, (0.0, 0.0, 0.0))
    whole = STEPS * SECOND_PER_STEP
    per_step = SECOND_PER_STEP - saved * (1 - budget)
    steps = STEPS
    if rule == "time":
        steps = max(round((whole - ranking) / per_step), 40)
    seconds = steps * per_step * rng.uniform(0.97, 1.03)
    robust = 0.56 - 0.09 * (1 - budget) + 0.01 * gain + 0.03 * np.log(steps / STEPS)
    robust += luck + rng.normal(0, 0.003)
    clean = 0.95 - 0.04 * (1 - budget) - 0.002 * gain + rng.normal(0, 0.003)
    row = {
        "name": f"{choice} / {budget:.0%}" + (" equal time" if rule == "time" else ""),
        "seed": seed,
        "choice": choice,
        "budget": budget,
        "rule": rule,
        "by_chance": choice.startswith("random"),
        "baseline": choice.startswith("random") or choice == FULL,
        "clean_acc": float(clean),
        "pgd_acc": float(robust),
        "cw_acc": float(robust - 0.015 + rng.normal(0, 0.002)),
        "steps": steps,
        "train_images": round(budget * IMAGES),
        "flops": float(3.1e9 * steps * 11),
        "attack_seconds": 0.8 * seconds,
        "score_seconds": 0.2 * ranking,
        "select_seconds": 0.1 * ranking,
        "train_seconds": 0.2 * seconds,
        "rounds_seconds": 0.7 * ranking,
    }
    row["total_seconds"] = sum(v for k, v in row.items() if k.endswith("_seconds"))
    return {**row, "compile_seconds": 9.5}


def _mean(runs: list[dict]) -> dict:
    count = len(runs)
    row = {**runs[0], "seeds": [run["seed"] for run in runs]}
    del row["seed"]
    for key in [k for k in runs[0] if k.endswith(("_acc", "_seconds"))]:
        values = [run[key] for run in runs]
        row[key] = float(np.mean(values))
        if count > 1 and key.endswith("_acc"):
            std = float(np.std(values, ddof=1))
            half = float(stats.t.ppf(0.975, count - 1)) * std / count**0.5
            row |= {f"{key}_std": std}
            row |= {f"{key}_interval": [row[key] - half, row[key] + half]}
    return row


def _json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=1))
