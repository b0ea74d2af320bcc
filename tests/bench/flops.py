"""FLOPs of the compiled training step against the least that PGD training needs.

    python -m tests.bench.flops [--models resnet18,resnet20,convnet]

With F the forward pass of a batch, PGD-10 needs 10 (F + image gradient F) + (F + image
gradient F + weight gradient F) = 23 F. The step may use 5 % more and the body of the
attack loop 5 % more than 2 F: weight gradients there would make it 3 F.

Counted as XLA would convolve. The last column is what the step does as it runs: on CPU
unit_stride.py trades arithmetic for speed both ways (Winograd less, packing more).
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp

from jaxrobust import sharding
from jaxrobust.state import create_state, init_variables
from jaxrobust.train_step import _scan
from jaxrobust.types import PyTree
from tests.bench import hlo_flops, step_jax

TOLERANCE = 1.05


def forward_flops(model, image_shape: tuple[int, ...]) -> int:
    """2 x MAC of the convolutions and dots of one forward pass."""
    image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    key = jax.random.key(0)
    variables = jax.eval_shape(lambda: init_variables(model, image_shape[1:], key))
    apply = lambda v, x: model.apply(v, x, train=False)
    text = jax.jit(apply).lower(variables, image).compile().as_text()
    return hlo_flops.parse(text).flops()


def compiled_step(
    model, step, tx, image_shape: tuple[int, ...], chunk: int, devices: int = 1
):
    """The optimised HLO of `chunk` training steps in a scan, on each of the devices."""
    size, mesh = image_shape[0], sharding.make_mesh(devices)
    layout = sharding.replicated(mesh)

    def state() -> PyTree:
        variables = init_variables(model, image_shape[1:], jax.random.key(0))
        return create_state(variables, tx, with_ema=False)

    def run(state, image, label, rows, weight):
        key = jax.random.key(0)
        whole = jax.tree.map(lambda _: layout, state)
        return _scan(step, mesh, whole, state, key, image, label, rows, rows, weight)

    spec = partial(jax.ShapeDtypeStruct, sharding=layout)
    place = lambda x: spec(x.shape, x.dtype)
    rows = spec((chunk, size), jnp.int32)
    lowered = jax.jit(run).lower(
        jax.tree.map(place, jax.eval_shape(state)),
        spec(image_shape, jnp.uint8),
        spec((size,), jnp.int32),
        rows,
        spec(rows.shape, jnp.float32),
    )
    return hlo_flops.parse(lowered.compile().as_text())


def excess(
    model, image_shape: tuple[int, ...], num_steps: int, forward: int
) -> tuple[float, float]:
    """(step / least, attack body / (2 forward)): 1.0 is perfect."""
    chunk = 2
    made = step_jax.make_step(model, num_steps)
    program = compiled_step(model, *made, image_shape, chunk)
    attack = [body for body, times in program.loops() if times == num_steps]
    per_step = program.flops() / chunk
    inner = sum(program.flops(body) for body in attack)
    return per_step / ((2 * num_steps + 3) * forward), inner / (2 * forward)


def main() -> None:
    """One row for each model; exits with 1 where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default="resnet18,resnet20,convnet")
    failed = False
    for name in parser.parse_args().models.split(","):
        shape = (8, 32, 32, 3)
        plain = step_jax.make_model(name, "xla")
        least = forward_flops(plain, shape)
        step, attack = excess(plain, shape, step_jax.NUM_STEPS, least)
        model = step_jax.make_model(name)
        as_run, _ = excess(model, shape, step_jax.NUM_STEPS, least)
        failed |= step > TOLERANCE or attack > TOLERANCE
        print(
            f"{name:9s} forward {least / shape[0] / 1e9:.3f} GFLOP/image  step "
            f"{step:.3f} x least  attack body {attack:.3f} x 2F  as run {as_run:.3f}"
        )
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
