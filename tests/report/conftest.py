"""A run directory as a real run leaves it, made up in milliseconds."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxrobust.report import write_report
from jaxrobust.report.page import Section
from jaxrobust.report.run import Run, read_run

NAMES = (
    "standard / original",
    "pgd_at / original",
    "pgd_at / random",
    "pgd_at / hybrid",
    "trades / original",
    "trades / hybrid",
)
CLEAN = (0.985, 0.962, 0.955, 0.958, 0.951, 0.957)
ROBUST = (0.031, 0.671, 0.655, 0.702, 0.688, 0.694)


def make_run(workdir: Path, names=NAMES, seeds=(0, 1, 2), rounds=3) -> Path:
    """Write config, results, metrics, card and selections into `workdir`."""
    rng = np.random.default_rng(7)
    workdir.mkdir(parents=True, exist_ok=True)
    runs = [
        _result(rng, i, name, seed) for i, name in enumerate(names) for seed in seeds
    ]
    results = {
        "title": "Hybrid reconstruction on digits",
        "question": "Does a training set rebuilt from original and generated images "
        "make a more robust classifier than the original one, at the same budget?",
        "answer": "With pgd_at yes, by 3.1 points of PGD accuracy (std 0.9 over 3 "
        "seeds); with trades the difference of 0.6 points is within the noise.",
        "rows": [_mean([r for r in runs if r["name"] == name]) for name in names],
        "runs": runs,
    }
    _json(workdir / "results.json", results)
    _json(workdir / "config.json", _config(seeds))
    _json(workdir / "card.json", _card(seeds))
    _metrics(rng, workdir / "metrics.jsonl", names, seeds)
    for seed in seeds:
        for index in range(rounds):
            _selection(rng, workdir / "selections", seed, index)
    return workdir


@pytest.fixture(scope="session")
def original(tmp_path_factory) -> Path:
    """A full run directory; a module that wants another kind of run overrides it."""
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def workdir(original, tmp_path) -> Path:
    """A fresh copy of the full run directory."""
    return shutil.copytree(original, tmp_path / "run")


@pytest.fixture(scope="module")
def run(original) -> Run:
    """The full run directory as the report reads it."""
    return read_run(original)


@pytest.fixture(scope="session")
def reported(original, tmp_path_factory) -> Path:
    """A full run directory with its report written: to be read only."""
    folder = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(original, folder)
    write_report(folder)
    return folder


def built(section: Section | None) -> Section:
    """A section that the run has data for."""
    assert section is not None
    return section


def captions(section: Section) -> str:
    """The captions of all pictures and tables of a section."""
    return " ".join(getattr(block, "caption", "") for block in section.blocks)


def edit(path: Path, change) -> None:
    """Apply `change` to the JSON object in `path`."""
    value = json.loads(path.read_text())
    change(value)
    _json(path, value)


def _json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=1))


def _result(rng, i, name, seed) -> dict:
    robust = ROBUST[i % len(ROBUST)] + rng.normal(0, 0.006)
    hybrid = "hybrid" in name
    attacked = not name.startswith("standard")
    return {
        "name": name,
        "seed": seed,
        "clean_acc": CLEAN[i % len(CLEAN)] + rng.normal(0, 0.004),
        "pgd_acc": robust,
        "cw_acc": max(robust - 0.012 + rng.normal(0, 0.002), 0),
        "steps": 1200,
        "attack_seconds": rng.normal(16, 0.5) if attacked else 0.0,
        "score_seconds": rng.normal(4, 0.2) if hybrid else 0.0,
        "select_seconds": rng.normal(0.4, 0.02) if hybrid else 0.0,
        "train_seconds": rng.normal(9, 0.4),
        **({} if hybrid else {"baseline": True}),
    }


def _mean(runs: list[dict]) -> dict:
    row = {"name": runs[0]["name"], "seeds": [run["seed"] for run in runs]}
    if runs[0].get("baseline"):
        row["baseline"] = True
    for key in runs[0]:
        if key not in ("name", "seed", "baseline"):
            values = [run[key] for run in runs]
            row[key] = values[0] if key == "steps" else float(np.mean(values))
            if key.endswith("_acc") and len(runs) > 1:
                row[f"{key}_std"] = float(np.std(values, ddof=1))
    return row


def _config(seeds) -> dict:
    return {
        "task": "reconstruct",
        "seeds": list(seeds),
        "threat": {"norm": "linf", "eps": 0.15},
        "attack": {"name": "pgd", "num_steps": 10, "step_size": 0.04},
        "data": {"name": "digits", "val_percent": 10},
        "selection": {"name": "topk", "order": "hard", "rounds": 3},
    }


def _card(seeds) -> dict:
    return {
        "command": "python -m jaxrobust.main --config=configs/hybrid.py --workdir=a",
        "config_sha256": "4f1c" * 16,
        "commit": "dc9c0648e567296b69a8fd6ae1b3a7c07ff564a2",
        "seeds": list(seeds),
        "data": {"name": "digits", "provenance": "scikit-learn digits (UCI), 8 x 8",
                 "sha256": "a7e2" * 16, "train": 1257, "val": 180, "test": 360},
        "device": "cpu: 2 cores",
        "versions": {"jax": "0.6.2", "flax": "0.10.7", "numpy": "2.2.0"},
        "wall_seconds": 312.4,
        "checks": [
            {"name": "perturbations in the ball", "ok": True, "value": "max 0.1500",
             "note": "largest distance over all attacked test images"},
            {"name": "no gradient masking", "ok": True, "value": "PGD 67.1, CW 65.8",
             "note": "the margin attack is not weaker than PGD by more than 5 points"},
        ],
    }  # fmt: skip


def _metrics(rng, path: Path, names, seeds) -> None:
    lines = []
    for seed in seeds:
        for step in range(0, 2001, 100):
            loss = 0.08 + np.exp(-step / 400) + rng.normal(0, 0.01)
            lines.append({"stage": f"seed{seed}/generator", "step": step, "loss": loss})
        for i, name in enumerate(names):
            stage = f"seed{seed}/{name.replace(' / ', '-')}"
            robust, clean = ROBUST[i % len(ROBUST)], CLEAN[i % len(CLEAN)]
            for step in range(0, 1201, 50):
                grown = 1 - np.exp(-step / 250)
                point = {
                    "stage": stage,
                    "step": step,
                    "lr": 0.1,
                    "images_per_second": 9e3,
                    "loss": 2.3 - 1.9 * robust * grown + rng.normal(0, 0.03),
                    "acc": 0.1 + (robust - 0.1) * grown + rng.normal(0, 0.01),
                }
                lines.append(point)  # fmt: skip
                if step % 200 == 0:
                    val = {"val_clean_acc": 0.1 + (clean - 0.1) * grown,
                           "val_pgd_acc": 0.1 + (robust - 0.1) * grown}  # fmt: skip
                    lines.append({"stage": stage, "step": step, **val})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _selection(rng, folder: Path, seed: int, index: int) -> None:
    folder.mkdir(exist_ok=True)
    digits = load_digits()
    count, extra = 1257, 600
    label = np.concatenate([digits.target[:count], rng.integers(0, 10, extra)])
    generated = np.arange(count + extra) >= count
    hard = rng.beta(1.2, 4, count + extra) + 0.08 * generated
    w_nat = 1 / (1 + np.exp(-np.clip(1.41 * hard, 0, 1.41)))
    move = np.clip(1.2 * hard + rng.normal(0.15, 0.15, count + extra), 0, 1.41)
    w_bdy = 1 / (1 + np.exp(-move))
    score = w_nat + w_bdy
    kept = np.zeros(count + extra, bool)
    kept[np.argsort(-score, kind="stable")[:count]] = True
    name = f"seed{seed}-round{index}"
    np.savez(
        folder / f"{name}.npz", index=np.arange(count + extra), kept=kept,
        weight=kept.astype(np.float32), score=score.astype(np.float32),
        w_nat=w_nat.astype(np.float32), w_bdy=w_bdy.astype(np.float32),
        label=label.astype(np.int32), generated=generated,
    )  # fmt: skip
    came = generated & kept
    per_class = {str(c): int((came & (label == c)).sum()) for c in range(10)}
    _json(folder / f"{name}.json", {
        "method": "topk hard sum", "round": index, "seed": seed, "budget": count,
        "candidates": count + extra, "kept": int(kept.sum()),
        "generated_share": float(came.sum() / kept.sum()),
        "generated_per_class": per_class, "meaning": "kept = trained on",
        "class_names": [str(c) for c in range(10)],
    })  # fmt: skip
    pixels = (digits.images / 16 * 255).astype(np.uint8)[..., None]
    dropped = np.flatnonzero(~kept & ~generated)[:24]
    noisy = np.clip(pixels[1300:1324] * 0.8 + rng.normal(30, 25, (24, 8, 8, 1)), 0, 255)
    np.savez(
        folder / f"{name}.images.npz",
        dropped=pixels[dropped], dropped_label=label[dropped],
        dropped_score=score[dropped], entered=noisy.astype(np.uint8),
        entered_label=digits.target[1300:1324], entered_score=score[came][:24],
    )  # fmt: skip
