"""Classifiers: `model(image, train)` maps pixels in [0,1] to logits.

Every factory takes `num_classes`, `mean`, `std` and its own options and returns a
hashable Flax module, so a model can be a static argument of a jitted function.
"""

from jaxrobust.models.convnet import convnet
from jaxrobust.models.preact_resnet import preact_resnet18
from jaxrobust.models.resnet import resnet18, resnet20
from jaxrobust.models.wide_resnet import wide_resnet

MODELS = {
    "convnet": convnet,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "preact_resnet18": preact_resnet18,
    "wide_resnet": wide_resnet,
}
