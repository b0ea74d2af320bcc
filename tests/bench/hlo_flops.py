"""Arithmetic of a compiled XLA program, loops counted as often as they run.

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


@dataclass
class Computation:
    """FLOPs of its own instructions, and the (callee, times) that it runs."""

    flops: int = 0
    calls: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class Program:
    """The computations of one module."""

    computations: dict[str, Computation]
    entry: str

    def flops(self, name: str | None = None) -> int:
        """FLOPs of one run of computation `name`, the entry by default."""
        computation = self.computations[name or self.entry]
        return computation.flops + sum(
            times * self.flops(callee) for callee, times in computation.calls
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
            times = int(found[1]) if (found := TRIPS.search(line)) else 1
            current.calls += [(callee, times) for callee in CALLEES.findall(line)]
    return Program(computations, entry)


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
