"""Train a diffusion model on the training split and sample a pool.

Source   Karras et al., Elucidating the Design Space of Diffusion-Based Generative
         Models, arXiv:2206.00364 (EDM; table 1 and F.3 for CIFAR-10), as used by Wang
         et al., Better Diffusion Models Further Improve Adversarial Training,
         arXiv:2302.04638; Ho et al., arXiv:2006.11239 (DDPM): schedule "linear",
         prediction "epsilon", labels.conditional False
Run      python -m jaxrobust.main --config=configs/generate.py
         then --config=configs/hybrid.py --config.generated.name=npz
         --config.generated.path=runs/generate/generated
Expect   docs/generate.md: what each variant costs and what came out
Variants (none)         300 digits of 8x8, embedded: a minute or two on two CPU cores
         small_cifar10  a small U-Net at 16x16, from a folder of pictures: minutes
         cifar10        EDM, class-conditional, 1M images of 32x32: GPUs for a day
         smoke          seconds, for tests: the numbers mean nothing
"""

from configs import base, hybrid

VARIANTS = ("", "small_cifar10", "cifar10", "smoke")


def get_config(variant: str = ""):
    """The recipe, or one of its variants."""
    if variant not in VARIANTS:
        raise base.unknown_variant("generate.py", variant, VARIANTS[1:])
    config = base.get_config()
    for section in ("methods", "augment", "eval", "optim", "train"):
        del config[section]
    config.task = "generate"
    config.seeds = (0,)
    config.train = {  # as in base.py
        "device_gb": 4.0,  # training images up to this size stay on device
        "async_checkpoint": True,
    }
    fill = {"": digits, "smoke": smoke, "cifar10": cifar10}
    fill.get(variant, small_cifar10)(config)
    return config


def edm(generator: dict) -> dict:
    """The same generator, trained and sampled as EDM does."""
    return {
        **generator,
        "schedule": {"name": "edm", "log_sigma_mean": -1.2, "log_sigma_std": 1.2},
        "prediction": {"name": "edm", "sigma_data": 0.5},
        "sampler": "heun",
        "sampler_steps": {
            "name": "edm",
            "num_steps": 18,
            "sigma_min": 0.002,
            "sigma_max": 80.0,
            "rho": 7.0,
        },
    }


def digits(c) -> None:
    """The generator of hybrid.py, on the images that hybrid.py trains on."""
    c.title = "Generated pool of digits"
    c.data.train_limit = 300
    c.generator = hybrid.small_generator()


def cifar10(c) -> None:
    """EDM's class-conditional model on the binaries in data.path, in bfloat16.

    Differs from EDM: no augmentation, so that nothing need tell the network of it;
    docs/generate.md has the other differences.
    """
    c.title = "Generated pool of CIFAR-10"
    c.data.name = "cifar_bin"
    c.data.path = "data/cifar-10-batches-bin"
    c.generator = edm(hybrid.small_generator())
    c.generator.denoiser = {
        "name": "unet",
        "widths": (256, 256, 256),
        "num_blocks": 4,
        "attention": (1,),
        "embedding": "additive",
        "dropout": 0.13,
        "residual_scale": 0.5**0.5,
        "dtype": "bfloat16",
    }
    c.generator.optim.learning_rate = 1e-3
    c.generator.optim.schedule.final_ratio = 1.0  # warm-up, then constant
    c.generator.train = {
        "num_steps": 390_625,  # 200M images
        "batch_size": 512,
        "chunk_steps": 125,
        "checkpoint_every_steps": 5_000,
        "ema_decay": 0.5 ** (512 / 500_000),  # half-life of 500,000 images
    }
    c.generator.sampler_steps.num_steps = 20  # as Wang et al.
    c.generator.count = 1_000_000
    c.generator.shard_size = 2_000


def small_cifar10(c) -> None:
    """EDM with a small U-Net on 5,000 pictures of 16x16: what a CPU can show.

    Expects data.path with train/<class>/ and test/<class>/.
    """
    c.title = "Generated pool of small CIFAR-10"
    c.data.name = "folder"
    c.data.path = "data/cifar10"
    c.data.image_size = 16
    c.data.train_limit = 5_000
    c.data.test_limit = 1_000
    c.generator = edm(hybrid.small_generator())
    c.generator.denoiser = {
        "name": "unet",
        "widths": (32, 64),
        "num_blocks": 1,
        "attention": (1,),
    }
    c.generator.optim.learning_rate = 2e-3
    c.generator.train = {
        "num_steps": 1_500,
        "batch_size": 64,
        "chunk_steps": 50,
        "checkpoint_every_steps": 250,
        "ema_decay": 0.99,
    }
    c.generator.count = 500
    c.generator.shard_size = 100


def smoke(c) -> None:
    """Everything once, at a size where only the plumbing shows."""
    digits(c)
    c.title = "Smoke test"
    c.data.train_limit = 100
    c.data.test_limit = 50
    c.generator = edm(c.generator.to_dict())
    c.generator.denoiser = {"name": "mlp", "width": 16, "num_blocks": 1}
    c.generator.labels.drop_percent = 10.0
    c.generator.labels.guidance = 1.5
    c.generator.train.num_steps = 8
    c.generator.train.batch_size = 16
    c.generator.train.chunk_steps = 4
    c.generator.train.checkpoint_every_steps = 4
    c.generator.sampler_steps.num_steps = 3
    c.generator.count = 120
    c.generator.shard_size = 50
