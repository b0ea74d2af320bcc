"""Tasks: the only host loops. Each is `(config, workdir) -> None`."""

from jaxrobust.tasks.compare import compare
from jaxrobust.tasks.evaluate import evaluate
from jaxrobust.tasks.generate import generate
from jaxrobust.tasks.prune import prune
from jaxrobust.tasks.reconstruct import reconstruct
from jaxrobust.tasks.train import train

TASKS = {
    "compare": compare,
    "evaluate": evaluate,
    "generate": generate,
    "prune": prune,
    "reconstruct": reconstruct,
    "train": train,
}
