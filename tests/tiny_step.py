"""A network on which the arithmetic of a training step is counted within seconds."""

import jax

from jaxrobust.models.convnet import convnet
from jaxrobust.state import init_variables
from tests.bench import hlo_flops

SHAPE, CLASSES = (6, 6, 3), 3
# An update takes no gradient by the image through the first layer: a small share here.
OPTIONS = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "widths": (8, 32, 32)}
OPTIONS |= {"pool": "none", "head": "mean", "conv": "xla"}
NET = convnet(CLASSES, **OPTIONS, norm="batch")
VARIABLES = jax.eval_shape(lambda: init_variables(NET, SHAPE, jax.random.key(0)))


def flops(function, *shapes):
    """Of the compiled program, loop bodies as often as they run."""
    return hlo_flops.parse(jax.jit(function).lower(*shapes).compile().as_text()).flops()
