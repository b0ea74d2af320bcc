"""Arithmetic and traffic between devices of a compiled XLA program, loops counted as
often as they run.

`cost_analysis()` counts the body of a loop once whatever its trip count. This walks the
optimised HLO text instead: convolutions and dots of each computation, plus those of the
computations it calls, a while body multiplied by its known trip count. Multiplications
by padding are counted (as a nominal 2 x MAC does), by zeros between strides are not.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?([\w.\-]+) = (\w+\[[\d,]*\])?.*? ?([a-z\-]+)\("
)
CALLEES = re.compile(r"(?:calls|to_apply|body|true_computation)=%?([\w.\-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


SHAPE = re.compile(r"\b([a-z]+)(\d+)\[([\d,]*)\]")
REDUCTIONS = ("all-reduce", "all-reduce-start", "reduce-scatter", "all-gather")


@dataclass
class Computation:
    """FLOPs of its own instructions, bytes that they exchange with other devices, how
    often they do, and the (callee, times) that it runs."""

    flops: int = 0
    exchanged: int = 0
    exchanges: int = 0
    calls: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class Program:
    """The computations of one module."""

    computations: dict[str, Computation]
    entry: str

    def flops(self, name: str | None = None) -> int:
        """FLOPs of one run of computation `name`, the entry by default."""
        return self._total("flops", name or self.entry)

    def exchanged(self, name: str | None = None) -> int:
        """Bytes that one run exchanges with other devices: those of what comes out of
        its all-reduces and all-gathers."""
        return self._total("exchanged", name or self.entry)

    def exchanges(self, name: str | None = None) -> int:
        """How many such operations one run has."""
        return self._total("exchanges", name or self.entry)

    def _total(self, kind: str, name: str) -> int:
        computation = self.computations[name]
        return getattr(computation, kind) + sum(
            times * self._total(kind, callee) for callee, times in computation.calls
        )

    def loops(self, name: str | None = None) -> Iterator[tuple[str, int]]:
        """(body, trip count) of every loop that does arithmetic, outermost first."""
        for callee, times in self.computations[name or self.entry].calls:
            if times > 1 and self.flops(callee):
                yield callee, times
            yield from self.loops(callee)


def parse(text: str) -> Program:
    """The `Program` in `compiled.as_text()`."""
    computations, entry, current, shapes = {}, "", Computation(), {}
    for line in text.splitlines():
        if header := HEADER.match(line):
            current, shapes = Computation(), _parameters(line)
            computations[header[2]] = current
            entry = header[2] if header[1] else entry
        elif instruction := INSTRUCTION.match(line):
            name, shape, operation = instruction.groups()
            shapes[name] = _dimensions(shape)
            if operation in ("convolution", "dot"):
                current.flops += _flops(line, operation, shapes[name], shapes)
            if operation in REDUCTIONS:
                current.exchanged += _bytes(line[: line.index(operation + "(")])
                current.exchanges += 1
            times = int(found[1]) if (found := TRIPS.search(line)) else 1
            current.calls += [(callee, times) for callee in CALLEES.findall(line)]
    return Program(computations, entry)


def _bytes(shapes: str) -> int:
    """Of all shapes in a text such as "(f32[3,4], u8[5])"."""
    return sum(
        int(bits) // 8 * prod(int(n) for n in sizes.split(",") if n)
        for _, bits, sizes in SHAPE.findall(shapes)
    )


def _dimensions(shape: str | None) -> tuple[int, ...]:
    inside = shape[shape.index("[") + 1 : -1] if shape else ""
    return tuple(int(size) for size in inside.split(",") if size)


def _parameters(header: str) -> dict[str, tuple[int, ...]]:
    found = re.findall(r"([\w.\-]+): (\w+\[[\d,]*\])", header)
    return {name: _dimensions(shape) for name, shape in found}


def _flops(line: str, operation: str, output: tuple[int, ...], shapes: dict) -> int:
    left, right = re.search(r"\(%?([\w.\-]+), %?([\w.\-]+)\)", line).groups()
    if operation == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line)[1]
        inner = prod(shapes[left][int(d)] for d in contracted.split(",") if d)
        return 2 * prod(output) * inner
    labels = re.search(r"dim_labels=\w+_(\w+)->", line)[1]
    inner = shapes[right][labels.index("i")]
    taps = re.search(r"window=\{size=([\dx]+)", line)
    inner *= prod(int(n) for n in taps[1].split("x")) if taps else 1
    spread = re.search(r"lhs_dilate=([\dx]+)", line)
    gaps = prod(int(n) for n in spread[1].split("x")) if spread else 1
    return 2 * prod(output) * inner // gaps
