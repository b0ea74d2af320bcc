"""Tasks: the only host loops. Each is `(config, workdir) -> None`."""

from jaxrobust.tasks.certify import certify
from jaxrobust.tasks.compare import compare
from jaxrobust.tasks.distill import distill
from jaxrobust.tasks.evaluate import evaluate
from jaxrobust.tasks.generate import generate
from jaxrobust.tasks.proxy import proxy
from jaxrobust.tasks.prune import prune
from jaxrobust.tasks.reconstruct import reconstruct
from jaxrobust.tasks.scaling import scaling
from jaxrobust.tasks.train import train

TASKS = {
    "certify": certify,
    "compare": compare,
    "distill": distill,
    "evaluate": evaluate,
    "generate": generate,
    "prune": prune,
    "proxy": proxy,
    "reconstruct": reconstruct,
    "scaling": scaling,
    "train": train,
}
