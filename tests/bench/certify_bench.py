"""CERTIFY of the digits test set, jaxrobust against the published loop in PyTorch.

    python -m tests.bench.certify_bench --run runs/smoothing
        [--network "gaussian / original"] [--images 500] [--n 10000]
        [--noise_batch 1000] [--group 20] [--torch_images 10]

`--run` is a finished run directory; its network is exported to PyTorch. The loop in
PyTorch takes one image at a time, 1000 noisy copies in a batch, and counts on the host,
as github.com/locuslab/smoothing does; it is timed on a few images, in turn with ours.
The floor is the time of as many forward passes of the same compiled network on images
that are there already: no noise, no counting. XLA:CPU keeps a small network on one
core: with XLA_FLAGS=--xla_force_host_platform_device_count=2 two devices share the
passes, in both.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from configs import smoothing as recipe
from jaxrobust import rng, sharding
from jaxrobust.evaluators.smoothing import certify
from jaxrobust.loader import padded_rows
from jaxrobust.tasks.certify import NO_SUGGESTION, _as_source
from jaxrobust.tasks.networks import open_source
from jaxrobust.tree import plain
from tests.bench import hlo_flops, peers

SIGMA, N0, ALPHA = 0.25, 100, 0.001
THEIR_BATCH = 1000


def ours(network, image, index, args, mesh):
    """(seconds, counts i64[N] of the class that was selected)."""
    key = jax.random.key(0)
    groups, real = padded_rows(index, args.group)
    start, found = time.perf_counter(), []
    for group in groups:
        keys = rng.per_example(key, jnp.asarray(group))
        found.append(
            certify(
                network, image[group], keys, SIGMA, N0, args.n, ALPHA,
                args.noise_batch, mesh,
            ).nA
        )  # fmt: skip
    return time.perf_counter() - start, np.concatenate(found)[real.reshape(-1)]


def theirs(net, image, index, n, num_classes):
    """(seconds, counts i64[N] of the class that was selected)."""
    start = time.perf_counter()
    found = peers.certify(net, image[index], SIGMA, N0, n, num_classes, THEIR_BATCH)
    return time.perf_counter() - start, found


def forward_seconds(network, image, size, mesh):
    """Seconds of one forward pass of one image, in batches of `size`; and its FLOPs."""
    batch = jnp.asarray(np.resize(image, (size, *image.shape[1:])))
    spread = lambda x: sharding.split_batch(x, mesh)
    run = jax.jit(lambda net, x: jnp.argmax(net(spread(x)), axis=-1))
    compiled = run.lower(network, batch).compile()
    a_device = hlo_flops.parse(compiled.as_text()).flops()
    flops = a_device * mesh.devices.size / size
    compiled(network, batch).block_until_ready()
    start, repeats = time.perf_counter(), 100
    for _ in range(repeats):
        out = compiled(network, batch)
    out.block_until_ready()
    return (time.perf_counter() - start) / repeats / size, flops


def main() -> None:
    """Time the three in turn and print them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--network", default="gaussian / original")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--noise_batch", type=int, default=1000)
    parser.add_argument("--group", type=int, default=20)
    parser.add_argument("--torch_images", type=int, default=10)
    args = parser.parse_args()
    config = plain(recipe.get_config())
    config |= {"checkpoint": args.run, "networks": (args.network,)}
    source = open_source(_as_source(config), NO_SUGGESTION)
    network = source.load(*source.names[0])
    image = source.splits.test.image[: args.images].astype(np.float32) / 255
    net, classes = (
        peers.torch_twin(network.model, network.variables),
        source.splits.test.num_classes,
    )
    logits_fn, few = network.logits_fn, np.arange(args.torch_images)
    ours(logits_fn, image, few, args, source.mesh)  # compiles
    theirs(net, image, few[:1], N0, classes)
    floor_of = (logits_fn, image, args.noise_batch, source.mesh)
    per_forward, flops = forward_seconds(*floor_of)
    slow_before, counts = theirs(net, image, few, args.n, classes)
    seconds, found = ours(logits_fn, image, np.arange(len(image)), args, source.mesh)
    slow_after, _ = theirs(net, image, few, args.n, classes)
    per_after, _ = forward_seconds(*floor_of)
    per_image = (slow_before + slow_after) / 2 / len(few)
    passes = len(image) * (N0 + args.n)
    floor = passes * (per_forward + per_after) / 2
    devices = source.mesh.devices.size
    print(f"{len(image)} images, n {args.n}, {passes:.3g} passes, {devices} device(s)")
    print(f"jaxrobust  {seconds:7.1f} s, {1e6 * seconds / passes:.2f} us a pass")
    print(
        f"PyTorch    {per_image * len(image):7.1f} s, extrapolated from {len(few)} "
        f"images ({slow_before:.1f} s before, {slow_after:.1f} s after)"
    )
    print(
        f"floor      {floor:7.1f} s: {flops / 1e3:.0f} kFLOP a pass at "
        f"{flops * passes / floor / 1e9:.1f} GFLOP/s"
    )
    print(
        f"ours / floor {seconds / floor:.2f}, PyTorch / ours "
        f"{per_image * len(image) / seconds:.2f}"
    )
    gap = np.abs(found[few] - counts) / args.n
    print(f"counts apart, share of n: mean {gap.mean():.4f}, most {gap.max():.4f}")


if __name__ == "__main__":
    main()
