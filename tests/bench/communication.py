"""What devices say to each other in a training step, from the compiled program.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \
        python -m tests.bench.communication [--models resnet20,convnet] \
        [--by_device]

For 1, 2, 4 and 8 devices at one batch (strong scaling) and at one batch a device (weak
scaling): operations between devices in a step of PGD-10, the bytes that come out of
them, and those of the gradients in float32, the least that data parallelism needs.
"""

import argparse

import jax

from jaxrobust.state import init_variables
from tests.bench import flops, step_jax

BATCH = 32


def exchanged(
    name: str, batch: int, devices: int, **options: int
) -> tuple[float, float]:
    """(bytes, operations) of one step of the network with these options."""
    model = step_jax.make_model(name, "xla", **options)
    shape = (batch, 32, 32, 3)
    made = step_jax.make_step(model)
    program = flops.compiled_step(model, *made, shape, chunk=2, devices=devices)
    return program.exchanged() / 2, program.exchanges() / 2


def gradient_bytes(name: str) -> int:
    """Four bytes for each weight."""
    model, key = step_jax.make_model(name), jax.random.key(0)
    variables = jax.eval_shape(lambda: init_variables(model, (32, 32, 3), key))
    return 4 * sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def main() -> None:
    """One row for each network, scaling and number of devices."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default="resnet20,convnet")
    parser.add_argument("--by_device", action="store_true", help="BatchNorm by device")
    args = parser.parse_args()
    for name in args.models.split(","):
        least = gradient_bytes(name)
        for scaling in ("strong", "weak"):
            for devices in (1, 2, 4, 8):
                batch = BATCH * (devices if scaling == "weak" else 1)
                options = {"bn_groups": devices} if args.by_device else {}
                sent, times = exchanged(name, batch, devices, **options)
                print(
                    f"{name:9s} {scaling:6s} {devices} devices, batch {batch:3d}: "
                    f"{times:5.1f} exchanges, {sent / 1e6:.3f} MB, "
                    f"gradients {least / 1e6:.3f} MB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
