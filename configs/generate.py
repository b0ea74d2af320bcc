"""Train a diffusion model on the training split and sample a labelled pool.

Source   Ho et al., Denoising Diffusion Probabilistic Models, arXiv:2006.11239
Run      python -m jaxrobust.main --config=configs/generate.py
         then --config=configs/hybrid.py --config.generated.name=npz
         --config.generated.path=runs/generate/generated
Variants (none)    digits, 8x8, embedded; cifar10 a U-Net, accelerators; smoke for tests
"""

from configs import base, hybrid

VARIANTS = ("", "cifar10", "smoke")


def get_config(variant: str = ""):
    """The recipe, or one of its variants."""
    if variant not in VARIANTS:
        raise base.unknown_variant("generate.py", variant, VARIANTS[1:])
    config = hybrid.get_config(variant)
    for section in ("reconstruct", "score", "generated"):
        del config[section]
    config.task = "generate"
    config.title = config.title.replace("Hybrid data reconstruction", "Generated pool")
    return config
