"""Denoising networks: `module(x_t, t, label, train) -> prediction`, class-conditional.

x_t f32[B,H,W,C] in about [-1,1]; t f32[B] in [0,1]; label i32[B], where `num_classes`
says that the class is unknown, so that a network of 0 classes is unconditional; `train`
turns dropout on, which then draws from the "dropout" stream; prediction f32[B,H,W,C].
Modules are hashable.
"""

from jaxrobust.generative.denoisers.mlp import mlp
from jaxrobust.generative.denoisers.unet import unet

DENOISERS = {"unet": unet, "mlp": mlp}
