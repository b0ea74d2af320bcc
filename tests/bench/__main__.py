"""All rows of the benchmark in one command, one table at the end.

    python -m tests.bench [--minutes 9] [--rows pgd_at:resnet18,...] [--out FILE]

On a CPU in float32, on a GPU in bfloat16 with larger batches, WRN-28-10 and the forms
of PyTorch that GPUs are for. Peers run in the same process, in turn with ours; without
PyTorch only floors are left. Rows that no time is left for are named. `--rehearse`
takes the sizes of tests/bench/plan.py:shrunk, `--plan gpu` those of a GPU wherever it
runs. Seconds are of this machine at this hour: quote ratios.
"""

import argparse
import json
import os
import statistics
import time
import traceback
from pathlib import Path

# Or JAX takes three quarters of a GPU's memory before PyTorch asks for any.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import numpy as np

from tests.bench import machine
from tests.bench.plan import CPU, GPU, Plan, shrunk
from tests.bench.rows import HAS_TORCH, KINDS, Found

HEAD = "| row | | seconds | floor | MFU | peer / ours [quartiles] |"


def line(found: Found) -> str:
    """A row of the table."""
    cells = [
        f"{peer} {statistics.median(r):.2f} [{{:.2f}}, {{:.2f}}]".format(
            *np.percentile(r, (25, 75))
        )
        for peer, r in found.ratios.items()
    ]
    peers = ", ".join(cells) or found.note
    return (
        f"| {found.row} | {found.what} | {found.seconds:.4g} | {found.floor:.3g} | "
        f"{found.mfu:.0%} | {peers} |"
    )


def measure(plan: Plan, seconds: float) -> tuple[list[Found], dict[str, str]]:
    """(rows, {row: why it is missing}), as many as `seconds` allow."""
    start, rows, missing = time.monotonic(), [], {}
    for row in plan.rows:
        if time.monotonic() - start > seconds:
            missing[row] = "no time left"
            continue
        try:
            found = KINDS[row.split(":")[0]](row, plan)
        except Exception as error:  # a row that fails takes no other with it
            traceback.print_exc()
            words = str(error).splitlines() or [""]
            missing[row] = f"{type(error).__name__}: {words[0][:200]}"
            continue
        rows.append(found)
        print(line(found), f"({time.monotonic() - start:.0f} s)", flush=True)
    return rows, missing


def choose(args: argparse.Namespace) -> Plan:
    """The plan of the command line."""
    kind = args.plan or ("cpu" if jax.default_backend() == "cpu" else "gpu")
    plan = {"cpu": CPU, "gpu": GPU}[kind]
    plan = shrunk(plan) if args.rehearse else plan
    rows = tuple(args.rows.split(",")) if args.rows else plan.rows
    unknown = [row for row in rows if row.split(":")[0] not in KINDS]
    if unknown:
        raise SystemExit(f"unknown rows {unknown}: choose from {', '.join(KINDS)}")
    return Plan(**{**vars(plan), "rows": rows})


def main(argv: list[str] | None = None) -> None:
    """Time all rows, print the table, write it with the facts of the machine."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--rows", default="")
    parser.add_argument("--plan", choices=("cpu", "gpu"))
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--out", default="")
    args = parser.parse_args(argv)
    plan, before = choose(args), machine.facts()
    rows, missing = measure(plan, 60 * args.minutes)
    facts = {"before": before, "after": machine.facts(), "rehearsed": args.rehearse}
    rate = machine.rate(plan.dtype, plan.side)
    print(f"\n{before['device']}, {before['date']}, {plan.dtype}")
    print(f"matrix product of side {plan.side}: {rate / 1e12:.3g} TFLOP/s")
    if not HAS_TORCH:
        print("no PyTorch here: no peers")
    table = [HEAD, "|--|--|--:|--:|--:|--|", *map(line, rows)]
    table += [f"| {row} | left out: {why} | | | | |" for row, why in missing.items()]
    print("\n".join(table))
    if args.out:
        named = [{**found._asdict(), "mfu": found.mfu} for found in rows]
        content = {"facts": facts, "rate": rate, "rows": named, "missing": missing}
        Path(args.out).write_text(json.dumps(content, indent=1))
        Path(args.out).with_suffix(".md").write_text("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
