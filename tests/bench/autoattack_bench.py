"""Standard AutoAttack, jaxrobust against pyautoattack, same network and same images.

    python -m tests.bench.autoattack_bench --run runs/hybrid
        [--network "pgd_at / hybrid"] [--images 500] [--batch 100]
        [--norm linf] [--eps 0.15] [--cpu_devices 2]

`--run` is a finished run directory; its network is exported to PyTorch. Times are wall
clock from the first call, so ours include compilation. Passes are counted in rows; the
cost model is that of the published code on images that stay robust: 101 forwards and
backwards for APGD-CE, 909 for APGD-T, 900 and 928 forwards for FAB-T, 5003 forwards for
Square, each for the images that enter it. A backward pass counts as one forward.
"""

import argparse
import time

import jax
import numpy as np

from configs import evaluate
from jaxrobust.evaluators import autoattack
from jaxrobust.sharding import make_mesh, split_cpu
from jaxrobust.tasks.networks import open_source
from jaxrobust.tree import plain
from tests.bench import peers

PER_IMAGE = {"apgd-ce": 203, "apgd-t": 1828, "fab-t": 2728, "square": 5003}


def load(args):
    """(network, images f32[N,H,W,C], labels i32[N], threat) of the run."""
    config = plain(evaluate.get_config())
    config |= {"checkpoint": args.run, "networks": (args.network,)}
    config["threat"] = {"norm": args.norm, "eps": args.eps}
    source = open_source(config, config["threat"])
    test = source.splits.test
    image = test.image[: args.images].astype(np.float32) / 255
    network = source.load(*source.names[0])
    return network, image, test.label[: args.images], source.threat


def ours(network, image, label, threat, batch):
    """(seconds, robust bool[N], passes, {component: robust after it})."""
    start = time.perf_counter()
    found = autoattack(
        network.logits_fn, image, label, threat, key=jax.random.key(0),
        batch_size=batch, mesh=make_mesh(0),
    )  # fmt: skip
    seconds = time.perf_counter() - start
    passes = found.cost.forwards + found.cost.backwards
    return seconds, found.robust, passes, found


def cost_model(found) -> float:
    """Forward passes of the published code for the images that enter each attack."""
    entering, total = found.clean, 0.0
    for name, after in found.by_attack.items():
        total += float(entering.sum()) * PER_IMAGE[name]
        entering = after
    return total


def main() -> None:
    """Run both and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--network", default="pgd_at / hybrid")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--eps", type=float, default=-1.0)
    parser.add_argument("--cpu_devices", type=int, default=0)
    args = parser.parse_args()
    split_cpu(args.cpu_devices)
    network, image, label, threat = load(args)
    seconds, robust, passes, found = ours(network, image, label, threat, args.batch)
    net = peers.torch_twin(network.model, network.variables)
    slower, expected, rows = peers.autoattack(
        net, image, label, threat.norm, float(threat.eps), args.batch
    )
    print(f"{args.norm} eps {float(threat.eps):.4g}, {len(label)} images")
    print(
        f"jaxrobust     {seconds:7.1f} s  robust {robust.mean():.1%}  passes {passes}"
    )
    print(f"pyautoattack  {slower:7.1f} s  robust {expected.mean():.1%}  passes {rows}")
    print(f"speed ratio {slower / seconds:.2f} (compilation included)")
    model = cost_model(found)
    print(f"image passes / cost model {passes / model:.3f}", end="")
    print(f", with idle slots {(passes + found.cost.idle) / model:.3f}")
    print(f"flags that differ: {int((robust != expected).sum())}")


if __name__ == "__main__":
    main()
