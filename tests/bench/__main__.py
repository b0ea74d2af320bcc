"""All rows of the benchmark in one command, one table at the end.

    python -m tests.bench                               # docs/performance.md
    python -m tests.bench --rows pgd_at:resnet20,craig:points --peers channels_last
    python -m tests.bench --out bench.json --resume     # goes on where it was cut off
    python -m tests.bench --out bench.json --into docs/performance.md
    python -m tests.bench --clock cpu                   # on a shared machine

On a CPU in float32, on a GPU mostly in bfloat16 with larger batches, WRN-28-10 and the
forms of PyTorch that GPUs are for. Peers run in the same process, in turn with ours,
and one that is not installed is a note in its row. Exits with 1 where a row missed its
goal or failed. `--rehearse` takes sizes where only the plumbing shows, `--plan gpu`
the rows of a GPU wherever it runs. `--clock cpu` pins the process to one core and reads
CPU seconds, which a busy machine hardly moves.
"""

import argparse
import json
import os
import time
import traceback
from dataclasses import replace
from pathlib import Path

# Or JAX takes three quarters of a GPU's memory before PyTorch asks for any.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax

from jaxrobust.sharding import split_cpu
from tests.bench.plan import CPU, GPU, Plan, Row, shrunk
from tests.bench.timing import CLOCKS

MINUTES = 15.0
MARK = "<!-- written by python -m tests.bench --into -->"
PRECISIONS = {"fp32": "highest", "tf32": "tensorfloat32", "bf16": "default"}


def main(argv: list[str] | None = None) -> int:
    """Time all rows, print the table, write it with the facts of the machine; returns
    the exit status."""
    args = parse(argv)
    if args.clock == "cpu":
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    devices = args.cpu_devices
    # More than 2 have not been measured, and batches must divide.
    split_cpu(min(2, len(os.sched_getaffinity(0))) if devices < 0 else devices)
    from tests.bench import found, machine  # they count cores and devices

    plan = choose(args)
    before, kept = machine.facts(), stored(args) if args.resume else []
    lines, missed, rows = [], [], list(kept)
    for line, faults, facts in measured(plan, 60 * args.minutes, kept):
        lines.append(line)
        missed += faults
        rows += [facts] if facts else []
        facts = {"before": before, "after": machine.facts(), "rehearsed": args.rehearse}
        write(args.out, {"facts": facts, "rows": rows, "missed": missed})
    print(f"\n{found.where(before)}\n\n{found.HEAD}")
    print("\n".join(lines))
    if args.into:
        insert(Path(args.into), found.where(before), [found.HEAD, *lines])
    for fault in missed:
        print(f"missed: {fault}")
    return int(bool(missed))


def measured(plan: Plan, seconds: float, kept: list[dict]):
    """Yields (line of the table, what was missed, facts or None) row by row."""
    from tests.bench.found import Found
    from tests.bench.kinds import KINDS

    start = time.monotonic()
    done = {facts["row"]: Found.of(facts) for facts in kept}
    for number, row in enumerate(plan.rows, 1):
        spent = time.monotonic() - start
        if row.name in done:
            found = replace(done[row.name], held=row.held)
            yield found.line(), found.missed(), None
            continue
        if spent > seconds:
            yield left_out(row, "no time left"), [f"{row.name}: no time left"], None
            continue
        print(f"[{number}/{len(plan.rows)}, {spent:.0f} s] {row.name}", flush=True)
        try:
            with jax.default_matmul_precision(PRECISIONS[row.precision]):
                found = KINDS[row.kind](row, plan)
        except Exception as error:  # a row that fails takes no other with it
            traceback.print_exc()
            words = f"{type(error).__name__} {str(error).strip()[:120]!r}"
            yield left_out(row, words), [f"{row.name}: {words}"], None
            continue
        print(found.line(), flush=True)
        yield found.line(), found.missed(), found.facts()


def left_out(row: Row, why: str) -> str:
    """The line of a row without numbers."""
    return f"| {row.name} | left out: {why} | | | | | | |"


def choose(args: argparse.Namespace) -> Plan:
    """The plan of the command line."""
    kind = args.plan or ("cpu" if jax.default_backend() == "cpu" else "gpu")
    plan = {"cpu": CPU, "gpu": GPU}[kind]
    plan = shrunk(plan) if args.rehearse else plan
    known = {row.name: row for row in plan.rows}
    names = args.rows.split(",") if args.rows else list(known)
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"unknown rows {unknown}: choose from {', '.join(known)}")
    rows = [known[name] for name in names]
    if args.peers is not None:  # none at all for ""
        asked = args.peers.split(",")
        kept = [tuple(p for p in row.peers if p in asked) for row in rows]
        rows = [row._replace(peers=peers) for row, peers in zip(rows, kept)]
    rounds = args.rounds or plan.rounds
    return replace(plan, rows=tuple(rows), rounds=rounds, clock=args.clock)


def stored(args: argparse.Namespace) -> list[dict]:
    """The rows of an earlier run's file."""
    path = Path(args.out)
    return json.loads(path.read_text())["rows"] if path.is_file() else []


def write(out: str, content: dict) -> None:
    """The file as it stands after this row."""
    if out:
        part = Path(f"{out}.part")
        part.write_text(json.dumps(content, indent=1))
        part.replace(out)


def insert(page: Path, where: str, table: list[str]) -> None:
    """Replace what a page has after `MARK` by the table."""
    kept = page.read_text().partition(MARK)[0]
    page.write_text(f"{kept}{MARK}\n\n{where}:\n\n" + "\n".join(table) + "\n")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--rows", default="", help="some, a,b; all by default")
    parser.add_argument("--peers", help="some, a,b; all by default, '' for none")
    parser.add_argument("--out", default="", help="a JSON file, written row by row")
    parser.add_argument("--into", default="", help="a page whose table is replaced")
    parser.add_argument("--resume", action="store_true", help="keep the rows in --out")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument(
        "--cpu_devices", type=int, default=-1, help="0: one in all; 2 by default"
    )
    parser.add_argument("--plan", choices=("cpu", "gpu"))
    parser.add_argument("--rehearse", action="store_true")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
