"""Where the time of traced training steps went, by phase and by operation."""

from jaxrobust.report.numbers import percent
from jaxrobust.report.page import Block, Cell, Fold, Section, Table, Text
from jaxrobust.report.run import Row, Run

_MEANINGS = {
    "attack": "making adversarial images",
    "score": "passes that rank the images of a batch",
    "select": "choosing and gathering rows of it",
    "update": "loss, gradient by weights, optimiser",
    "other": "reading images, augmentation, the loop itself",
    "host": "no operation runs: the device waits",
}

_BETWEEN = (
    "Scoring a whole pool and choosing out of it is done between steps, and not in "
    "this table: its seconds are under Time."
)


def phase_shares(run: Run) -> Section | None:
    """Shares of the traced time, and the largest operations."""
    found = run.profile
    if not found:
        return None
    rows = tuple(
        (Cell(phase), Cell(meaning), Cell(percent(found["shares"][phase])))
        for phase, meaning in _MEANINGS.items()
    )
    shares = Table(("Phase", "What", "Time (%)"), rows, text_columns=2)
    blocks: tuple[Block, ...] = (Text(_told(found)), shares)
    if any(row.get("score_seconds") or row.get("select_seconds") for row in run.rows):
        blocks = (*blocks, Text(_BETWEEN))
    if found["operations"]:
        fold = Fold("The largest operations, and the host", _details(found))
        blocks = (*blocks, fold)
    return Section("Profile of training steps", blocks)


def _told(found: Row) -> str:
    last = found["first_step"] + found["num_steps"]
    parts = [
        f"Steps {found['first_step']} to {last} of {found['stage']} on "
        f"{found['device']}: {1e3 * found['seconds'] / found['num_steps']:,.3g} ms a "
        f"step, the device busy {percent(found['busy'])}% of the time."
    ]
    if "flops_per_second" in found:
        parts.append(f"{found['flops_per_second'] / 1e12:,.3g} TFLOP/s a device")
        peak = "its peak is not known to us"
        if "mfu" in found:
            peak = f"{percent(found['mfu'])}% of its bf16 peak (MFU)"
        parts[-1] += f" by the arithmetic that the method needs; {peak}."
    return " ".join(parts)


def _details(found: Row) -> tuple[Block, ...]:
    operations = tuple(
        (
            Cell(row["name"]),
            Cell(row["phase"]),
            Cell(f"{row['calls']:,}"),
            Cell(percent(row["share"])),
        )
        for row in found["operations"]
    )
    header = ("Operation", "Phase", "Calls", "Time (%)")
    tables = [Table(header, operations, text_columns=2)]
    host = sorted(found["host_seconds"].items(), key=lambda item: -item[1])
    if host:
        rows = tuple((Cell(name), Cell(f"{1e3 * s:,.1f}")) for name, s in host)
        note = "While the device may be busy: most of it costs nothing."
        tables.append(Table(("Host", "Time (ms)"), rows, note=note))
    return tuple(tables)
