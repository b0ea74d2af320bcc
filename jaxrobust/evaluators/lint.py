"""Reading a network's program for what stops, fakes or scatters its gradients.

JAX can show a whole network as a list of primitive operations (a jaxpr), so what others
must guess from figures is read off here. Each operation is followed from the image on:
only what lies on a way from the image to the logits counts, so a rounded constant or an
unused argmax is no finding.

Ref: Athalye et al., Obfuscated Gradients Give a False Sense of Security,
arXiv:1802.00420: shattered, stochastic, exploding or vanishing gradients.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrobust.evaluators.predict import as_tree
from jaxrobust.types import LogitsFn

NONE, PEAK, IMAGE = 0, 1, 2
"""What a value knows: nothing of the image, a maximum over it, or the image.

A maximum is told apart because every stable softmax subtracts one under stop_gradient:
that changes no value, hence no gradient.
"""

FLAT = "its derivative is zero everywhere: attack a differentiable stand-in (BPDA)"
INDEX = "an index has no gradient: attack a differentiable stand-in (BPDA)"
HOST = "no gradient passes through a call to the host: write it in JAX"
HANDMADE = "its gradient is written by hand and may not be that of the function"
WINNERS = "order statistics make gradients jump (k-winners-take-all): adapt the attack"
NOISE = "random numbers: attack the expectation (EOT)"
CUTS = {
    **dict.fromkeys(("round", "floor", "ceil", "sign", "nextafter"), FLAT),
    **dict.fromkeys(("argmax", "argmin", "bitcast_convert_type"), INDEX),
    **dict.fromkeys(("pure_callback", "io_callback"), HOST),
    **dict.fromkeys(("random_bits", "threefry2x32", "rng_bit_generator"), NOISE),
    "stop_gradient": "the gradient is stopped by hand: attack the network without it",
}
"""Operations behind which nothing of the image's gradient is left."""

WARPS = {
    **dict.fromkeys(("sort", "top_k", "approx_top_k"), WINNERS),
    "while": "a loop of unknown length has no reverse gradient: unroll it (scan)",
}
"""Operations that let some of the gradient through."""

RANDOM = {key for key, why in CUTS.items() if why in (NOISE, HOST)}
KEEPS_PEAK = {"max", "broadcast_in_dim", "reshape", "squeeze", "convert_element_type"}
LOOPS = {"scan", "while"}

_OUTSIDE = re.compile(r"[/\\](site|dist)-packages[/\\](jax|jaxlib|flax|optax)[/\\]")
_TRUSTED = tuple(str(p) for p in (Path(jax.__file__).parent, Path(__file__).parents[1]))


class Finding(NamedTuple):
    """An operation, `where` in the source it stands, and `why` it matters.

    `on_path` says whether a gradient from the logits to the image meets it; random
    numbers and host calls are found off the path, too.
    """

    primitive: str
    where: str
    why: str
    on_path: bool

    def __str__(self) -> str:
        return f"{self.primitive} at {self.where}"


def find(logits_fn: LogitsFn, image: Array) -> list[Finding]:
    """All findings in `logits_fn`, in the order of the program.

    `image` f32[B,H,W,C] gives the shape only. Raises whatever `logits_fn` raises when
    it is traced.
    """
    jaxpr = _trace(logits_fn, image).jaxpr
    weights = [NONE] * (len(jaxpr.invars) - 1)
    walk = _Walk()
    walk.program(jaxpr, [*weights, IMAGE], [True] * len(jaxpr.outvars), None)
    return list(walk.found.values())


def traced_alike(logits_fn: LogitsFn, image: Array) -> bool:
    """Whether two traces of the network hold the same numbers.

    NumPy's random numbers are drawn while tracing: a compiled attack would freeze them
    and the network it saw would not be the one that is deployed.
    """
    once, again = (list(_numbers(_trace(logits_fn, image))) for _ in range(2))
    same = lambda a, b: np.shape(a) == np.shape(b) and np.array_equal(a, b, True)
    return len(once) == len(again) and all(map(same, once, again))


def _trace(logits_fn: LogitsFn, image: Array) -> Any:
    # A fresh function each time, or JAX would return the trace it remembers.
    return jax.make_jaxpr(lambda network, x: network(x))(as_tree(logits_fn), image)


def _numbers(closed: Any) -> Iterator[np.ndarray]:
    """Constants and literals of a program, inner programs included."""
    for constant in getattr(closed, "consts", ()):
        if jnp.issubdtype(constant.dtype, jnp.number):
            yield np.asarray(constant)
    for equation in getattr(closed, "jaxpr", closed).eqns:
        for atom in equation.invars:
            if _is_literal(atom) and jnp.issubdtype(atom.aval.dtype, jnp.number):
                yield np.asarray(atom.val)
        for inner in _inner(equation):
            yield from _numbers(inner)


class _Walk:
    """Follows the image through a program and remembers what it meets, once each."""

    def __init__(self):
        self.found: dict[tuple[str, str, bool], Finding] = {}

    def program(
        self, jaxpr: Any, known: list[int], used: list[bool], place: str | None
    ) -> list[int]:
        """What the results know, given what the arguments know."""
        knows = dict(zip(jaxpr.invars, known))
        read = lambda atom: NONE if _is_literal(atom) else knows.get(atom, NONE)
        live = _live(jaxpr, used)
        for equation in jaxpr.eqns:
            wanted = [variable in live for variable in equation.outvars]
            if any(wanted):
                inputs = [read(atom) for atom in equation.invars]
                here = place or _place(equation)
                outputs = self.equation(equation, inputs, wanted, here)
                knows.update(zip(equation.outvars, outputs))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(
        self, equation: Any, known: list[int], used: list[bool], place: str
    ) -> list[int]:
        """What the results of one operation know; notes a finding where it is one."""
        name, level = equation.primitive.name, max(known, default=NONE)
        cases = known[1:] if name == "select_n" else known
        why, cuts = _judge(equation, known)
        if why:
            self.note(name, place, why, level > NONE)
        inner = _inner(equation)
        if inner:
            outputs = [self.call(equation, j, known, used, place) for j in inner]
            return [max(levels) for levels in zip(*outputs)]
        if cuts:
            level = NONE
        elif name == "reduce_max":
            level = min(level, PEAK)
        elif name == "select_n":
            level = max(cases)
        elif level == PEAK and name not in KEEPS_PEAK:
            level = IMAGE
        return [level] * len(equation.outvars)

    def call(
        self, equation: Any, inner: Any, known: list[int], used: list[bool], place: str
    ) -> list[int]:
        """The same through an operation that holds a program: jit, scan, cond, ..."""
        name, count = equation.primitive.name, len(equation.outvars)
        jaxpr = getattr(inner, "jaxpr", inner)
        within = place if _is_library(_source(jaxpr)) else None
        level = max(known, default=NONE)
        takes, gives = len(jaxpr.invars), len(jaxpr.outvars)
        # The first operand of cond chooses the branch; of a loop of unknown length
        # every round may see all that the first one saw.
        fits = takes == len(known) - (name == "cond") and name != "while"
        arguments = known[len(known) - takes :] if fits else [level] * takes
        whole = name in LOOPS or gives != count
        asked = [True] * gives if whole else used
        results = self.program(jaxpr, arguments, asked, within)
        if name == "scan" and fits:
            results = self.scan(equation, jaxpr, arguments, results, within)
        if gives != count or name == "while":
            return [level] * count
        chooses = known[0] if name == "cond" else NONE
        return [max(result, chooses) for result in results]

    def scan(
        self,
        equation: Any,
        jaxpr: Any,
        known: list[int],
        results: list[int],
        place: str | None,
    ) -> list[int]:
        """Go round until the carry learns nothing new."""
        first, size = equation.params["num_consts"], equation.params["num_carry"]
        while True:
            carry = list(map(max, known[first : first + size], results[:size]))
            if carry == known[first : first + size]:
                return results
            known = [*known[:first], *carry, *known[first + size :]]
            results = self.program(jaxpr, known, [True] * len(results), place)

    def note(self, name: str, place: str, why: str, on_path: bool) -> None:
        """Remember a finding; off the path only what may be random."""
        if on_path or name in RANDOM:
            self.found[name, place, on_path] = Finding(name, place, why, on_path)


def _judge(equation: Any, known: list[int]) -> tuple[str, bool]:
    """Why an operation matters ("" if not), and whether it cuts the gradient."""
    name, level = equation.primitive.name, max(known, default=NONE)
    if name == "stop_gradient" and level <= PEAK:
        return "", True
    if name in CUTS:
        return CUTS[name], True
    if name in WARPS:
        return (WARPS[name], False) if level else ("", False)
    if level and name.startswith(("custom_vjp_call", "custom_jvp_call")):
        trusted = any(_is_library(_source(j)) for j in _inner(equation))
        return ("" if trusted else HANDMADE), False
    if name == "select_n" and known[0] and not any(known[1:]):
        return "a threshold: " + FLAT, True
    if level and name == "convert_element_type":
        before, after = (
            jnp.issubdtype(v.aval.dtype, jnp.inexact)
            for v in (equation.invars[0], equation.outvars[0])
        )
        if before != after:
            return ("to integers: " if before else "a step function: ") + FLAT, True
    return "", False


def _live(jaxpr: Any, used: list[bool]) -> set:
    """The variables that the used results depend on."""
    live = {
        v for v, wanted in zip(jaxpr.outvars, used) if wanted and not _is_literal(v)
    }
    for equation in reversed(jaxpr.eqns):
        if not live.isdisjoint(equation.outvars):
            live.update(v for v in equation.invars if not _is_literal(v))
    return live


def _inner(equation: Any) -> list:
    """The programs that an operation holds; of a loop not its condition."""
    found = []
    for key, value in equation.params.items():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(getattr(item, "jaxpr", item), "eqns") and key != "cond_jaxpr":
                found.append(item)
    return found


def _is_literal(atom: Any) -> bool:
    return hasattr(atom, "val")


def _source(jaxpr: Any) -> str:
    """The file that the function of a program stands in, "" where unknown."""
    info = getattr(getattr(jaxpr, "jaxpr", jaxpr), "debug_info", None)
    text = getattr(info, "func_src_info", None) or ""
    return text.rpartition(" at ")[2]


def _is_library(path: str) -> bool:
    return bool(_OUTSIDE.search(path)) or path.startswith(_TRUSTED)


def _place(equation: Any) -> str:
    """`file:line (function)` of the innermost frame that is no library's."""
    traceback = equation.source_info.traceback
    for frame in traceback.frames if traceback else ():
        if not _is_library(frame.file_name):
            function = frame.function_name.rpartition(".")[2]
            return f"{Path(frame.file_name).name}:{frame.line_num} ({function})"
    return "an unknown place"
