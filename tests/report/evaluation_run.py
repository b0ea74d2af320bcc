"""A run directory as the task `evaluate` leaves it, made up in milliseconds."""

import json
from pathlib import Path

import numpy as np

NETWORKS = ("standard / original", "pgd_at / original", "pgd_at / hybrid")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse")
COMPONENTS = ("apgd-ce", "apgd-t", "fab-t", "square")
SUITE = "AutoAttack (standard, 7 targets)"
EPS = 8 / 255


def make_evaluation(
    workdir: Path,
    names=NETWORKS,
    seeds=(0,),
    classes=CLASSES,
    suite_name=SUITE,
    eps=EPS,
    norm="linf",
    size=8,
) -> Path:
    """Write config, results, card and evaluation/ into `workdir`."""
    rng = np.random.default_rng(3)
    workdir.mkdir(parents=True, exist_ok=True)
    runs = []
    for i, name in enumerate(names):
        for seed in seeds:
            row = _row(rng, i, name, seed, classes, suite_name, eps, norm)
            _arrays(rng, workdir / "evaluation" / row["folder"], classes, eps, size)
            runs.append(row)
    rows = [_mean([r for r in runs if r["name"] == name]) for name in names]
    results = {
        "title": "Evaluation",
        "question": "How accurate are these networks when every image is attacked?",
        "answer": "pgd_at / hybrid, seed 0: 45.2% under AutoAttack (standard).",
        "class_names": list(classes),
        "rows": rows,
        "runs": runs,
    }
    check = {"name": "in the ball", "ok": True, "value": "0.031", "note": "all images"}
    _json(workdir / "results.json", results)
    _json(workdir / "config.json", {"task": "evaluate", "threat": {"eps": eps}})
    _json(workdir / "card.json", {"command": "python -m x", "checks": [check]})
    return workdir


def _row(rng, i, name, seed, classes, suite_name, eps, norm) -> dict:
    clean = 0.95 - 0.02 * i + rng.normal(0, 0.004)
    robust = min(0.002 + 0.21 * i, 0.6) + rng.uniform(0, 0.01)
    ratios = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
    far = 1.0 if norm == "linf" else 30.0
    curve = [[r * eps, clean * (robust / clean) ** r] for r in ratios]
    steps = np.linspace(0.04, 0, len(COMPONENTS))
    drawn = rng.uniform(0.1, 0.9, len(classes))
    return {
        "name": name,
        "seed": seed,
        "clean_acc": clean,
        "noise_acc": clean - 0.004,
        "fgsm_acc": robust + 0.08,
        "pgd_acc": robust + 0.03,
        "pgd_long_acc": robust + 0.028,
        "cw_acc": robust + 0.01,
        "aa_acc": robust,
        "max_distance": eps,
        "eps": eps,
        "norm": norm,
        "suite_name": suite_name,
        "aa_seconds": 61.0 + i,
        "forwards": 1234567 + i,
        "backwards": 234567,
        "eps_curve": [*curve, [far, 0.0]],
        "by_attack": dict(zip(COMPONENTS, (robust + steps).tolist())),
        "per_class": {
            c: [0.9 + 0.1 * d, d, 100 + k]
            for k, (c, d) in enumerate(zip(classes, drawn.tolist()))
        },
        "interval": [max(robust - 0.02, 0), robust + 0.02],
        "minimum_eps": {"quantiles": [[0.1, eps / 4], [0.5, eps]], "never": 3},
        "folder": f"seed{seed}/{name.replace(' / ', '-')}",
        "images": 500,
        "checks": [["inner check", True, "not for the page", "nor this"]],
    }


def _mean(runs: list[dict]) -> dict:
    row = {**runs[0], "seeds": [run["seed"] for run in runs]}
    del row["seed"]
    for key in [key for key in row if key.endswith("_acc")]:
        values = [run[key] for run in runs]
        row[key] = float(np.mean(values))
        if len(runs) > 1:
            row[f"{key}_std"] = float(np.std(values, ddof=1))
    return row


def _arrays(rng, folder: Path, classes, eps, size, count=24) -> None:
    folder.mkdir(parents=True)
    slope = np.linspace(30, 220, size)[:, None, None] * np.ones((1, size, 3))
    image = np.clip(slope + rng.normal(0, 25, (count, size, size, 3)), 0, 255)
    image = image.astype(np.uint8)
    sign = rng.choice([-1, 1], image.shape)
    x_adv = np.clip(image / 255 + eps * sign, 0, 1).astype(np.float32)
    label = (np.arange(count) % len(classes)).astype(np.int32)
    clean, robust = np.arange(count) >= 2, np.arange(count) >= 14
    fooled_by = np.where(clean & ~robust, 0, -1)
    fooled_by[[9, 12, 13]] = (1, 1, 3)
    np.savez(
        folder / "adversarial.npz", image=image, x_adv=x_adv, label=label, clean=clean,
        robust=robust, fooled_by=fooled_by.astype(np.int16),
        components=np.array(COMPONENTS),
        prediction=((label + 1) % len(classes)).astype(np.int32),
    )  # fmt: skip


def _json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=1))
