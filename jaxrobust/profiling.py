"""A profiler's trace read back: where the time of training steps went.

Every operation of the compiled step belongs to the innermost `jax.named_scope` of
`PHASES` that it was traced in. A moment of the trace counts for the operations that run
in it, in equal parts; a moment without any is the host's.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxrobust.errors import UserError

PHASES = ("attack", "score", "select", "update")
HOST, WINDOW, PROBE = "host/", "traced", "host/probe"
TOP_OPERATIONS = 12
# Dense bf16 multiply-adds as two operations a second, by the makers' data sheets; the
# first name that the device's own name begins with counts.
PEAK_FLOPS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "TPU v6 lite": 918e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
}
_WRAPPED = re.compile(r"(?:jvp|transpose|vmap|checkpoint|remat)\((.*)\)")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"(?:ROOT )?%?([\w.-]+) = (.*)")
_OPCODE = re.compile(r"(?<=[\])}] )([a-z][\w-]*)\(")
_CALLED = re.compile(r"(?:body|condition|calls|to_apply)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CONTAINERS = {"while", "call", "conditional"}


class Span(NamedTuple):
    """Something that ran from `start` to `end`, in nanoseconds."""

    name: str
    start: float
    end: float


class Trace(NamedTuple):
    """`windows` are what was asked for, one after the other; `devices` have the
    operations of each device, `host` what the program annotated."""

    windows: list[Span]
    devices: dict[str, list[Span]]
    host: list[Span]


class Operation(NamedTuple):
    """`phase` is "" outside of all of them; a `container` runs other operations."""

    phase: str
    container: bool


def read_trace(folder: Path, module: str) -> Trace:
    """The newest trace below `folder`, as `jax.profiler` leaves it.

    Operations of other compiled programs than `module` are called "<module>/<name>".
    Probes of accuracy on the way, which compile once, are no part of the windows.
    Raises `UserError` where there is none, or no window in it.
    """
    files = sorted(folder.glob("plugins/profile/*/*.xplane.pb"))
    if not files:
        raise UserError(f"no trace below {folder}: set profile.num_steps and run again")
    data = jax.profiler.ProfileData.from_file(str(files[-1]))
    devices: dict[str, list[Span]] = {}
    host: list[Span] = []
    for plane in data.planes:
        accelerator = plane.name.startswith("/device:")
        lines = list(plane.lines)
        # An accelerator's other lines tell the same time again, by module or by step.
        streams = [line for line in lines if line.name.startswith("Stream")]
        operations = streams or [line for line in lines if line.name == "XLA Ops"]
        for line in operations if accelerator else lines:
            for event in line.events:
                span = Span(event.name, event.start_ns, event.end_ns)
                name = _operation_name(event, module, accelerator)
                if name:
                    devices.setdefault(plane.name, []).append(span._replace(name=name))
                elif event.name == WINDOW or event.name.startswith(HOST):
                    host.append(span)
    # Where there is an accelerator, the host's operations are their launches.
    real = {name: s for name, s in devices.items() if name.startswith("/device:")}
    windows = [span for span in host if span.name == WINDOW]
    if not windows:
        raise UserError(f"{files[-1]} has no event {WINDOW!r}: it is not a run's trace")
    probes = [span for span in host if span.name == PROBE]
    annotated = [span for span in host if span.name not in (WINDOW, PROBE)]
    return Trace(without(windows[0], probes), real or devices, annotated)


def without(window: Span, holes: Iterable[Span]) -> list[Span]:
    """The parts of a window that are in none of the holes."""
    parts, start = [], window.start
    for hole in sorted(holes, key=lambda span: span.start):
        parts.append(Span(window.name, start, min(hole.start, window.end)))
        start = max(start, hole.end)
    parts.append(Span(window.name, start, window.end))
    return [part for part in parts if part.start < part.end]


def read_module(hlo: str) -> str:
    """The name of a compiled program, out of its text."""
    return hlo.split(maxsplit=2)[1].rstrip(",")


def read_program(hlo: str) -> dict[str, Operation]:
    """The operations of a compiled program's text, by name.

    What the compiler added has no scope of its own: it takes that of the loop or call
    it stands in.
    """
    found: dict[str, tuple[str, str, str]] = {}  # name -> (computation, opcode, scope)
    callers: dict[str, str] = {}  # computation -> the operation that runs it
    inside = ""
    for line in map(str.strip, hlo.splitlines()):
        begins = _COMPUTATION.match(line)
        told = _INSTRUCTION.match(line)
        if told:
            name, rest = told.groups()
            opcode, scope = _OPCODE.search(rest), _OP_NAME.search(rest)
            found[name] = (
                inside,
                opcode[1] if opcode else "",
                scope_phase(scope[1]) if scope else "",
            )
            branches = _BRANCHES.search(rest)
            called = _CALLED.findall(rest)
            called += re.findall(r"[\w.-]+", branches[1]) if branches else []
            callers |= dict.fromkeys(called, name)
        elif begins:
            inside = begins[1]

    def phase(name: str) -> str:
        while name:
            computation, _, own = found[name]
            if own:
                return own
            name = callers.get(computation, "")
        return ""

    return {
        name: Operation(phase(name), opcode in _CONTAINERS)
        for name, (_, opcode, _) in found.items()
    }


def scope_phase(op_name: str) -> str:
    """The innermost of `PHASES` in a path of scopes like "jit(f)/update/jvp()/mul"."""
    for path in op_name.split(";"):
        for part in reversed(path.split("/")[:-1]):
            while wrapped := _WRAPPED.fullmatch(part):
                part = wrapped[1]
            if part in PHASES:
                return part
    return ""


def summarise(trace: Trace, program: Mapping[str, Operation]) -> dict[str, Any]:
    """`shares` of the window in each phase, in "other" operations and on the "host",
    which sum to 1; `busy` is all but the last, the mean over devices. `operations` are
    the largest; `host_seconds` may overlap with what devices do.
    """
    windows = trace.windows
    length = sum(window.end - window.start for window in windows)
    devices = max(len(trace.devices), 1)
    taken: dict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    for spans in trace.devices.values():
        spans = list(_clipped(spans, windows))
        for name, time in time_of_each(spans, program).items():
            taken[name] += time
        calls.update(span.name for span in spans)
    shares: dict[str, float] = dict.fromkeys((*PHASES, "other"), 0.0)
    for name, time in taken.items():
        phase = program[name].phase if name in program else ""
        shares[phase or "other"] += time / devices / length
    largest = sorted(taken.items(), key=lambda item: -item[1])
    busy = min(sum(shares.values()), 1.0)
    host: dict[str, float] = defaultdict(float)
    for span in _clipped(trace.host, windows):
        host[span.name.removeprefix(HOST)] += (span.end - span.start) / 1e9
    return {
        "seconds": length / 1e9,
        "busy": busy,
        "shares": {**shares, "host": 1.0 - busy},
        "operations": [
            {
                "name": name,
                "phase": (program[name].phase if name in program else "") or "other",
                "share": time / devices / length,
                "calls": calls[name],
            }
            for name, time in largest[:TOP_OPERATIONS]
        ],
        "host_seconds": dict(host),
    }


def time_of_each(
    spans: Iterable[Span], program: Mapping[str, Operation]
) -> dict[str, float]:
    """Nanoseconds of every operation; their sum is the time in which any ran.

    Where several run at once they share the time; a loop has only what its body leaves.
    """
    spans = [span for span in spans if span.start < span.end]
    ends = [(span.start, 1, i) for i, span in enumerate(spans)]
    ends += [(span.end, 0, i) for i, span in enumerate(spans)]
    leaves: set[int] = set()
    containers: dict[int, None] = {}  # in the order of their beginnings
    taken: dict[str, float] = defaultdict(float)
    before = 0.0
    for time, begins, i in sorted(ends):
        running = leaves or list(containers)[-1:]
        for k in running:
            taken[spans[k].name] += (time - before) / len(running)
        before = time
        operation = program.get(spans[i].name)
        if operation is not None and operation.container:
            containers.update({i: None}) if begins else containers.pop(i, None)
        else:
            leaves.add(i) if begins else leaves.discard(i)
    return taken


def peak_flops(device_kind: str) -> float:
    """Operations a second that the device's matrix units can do at most; 0 where that
    is not known."""
    for name, peak in PEAK_FLOPS.items():
        if device_kind.lower().startswith(name.lower()):
            return peak
    return 0.0


def _operation_name(event: Any, module: str, accelerator: bool) -> str:
    """What the compiled program calls it; "" for what is no operation of a device."""
    said = dict(event.stats)
    name = str(said.get("hlo_op", ""))
    if not name and accelerator:
        name = event.name
    name = name.removeprefix("%").split(" ")[0]
    of = str(said.get("hlo_module", module))
    return name if of == module or not name else f"{of}/{name}"


def _clipped(spans: Iterable[Span], windows: Iterable[Span]) -> Iterator[Span]:
    """The parts inside of the windows that have some length."""
    for window in windows:
        for span in spans:
            start, end = max(span.start, window.start), min(span.end, window.end)
            if start < end:
                yield Span(span.name, start, end)
