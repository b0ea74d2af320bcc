"""Which rows the one command times, in which sizes, on which kind of machine."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Plan:
    """`dtype` of our convolutions; `batch` of each network; `forms` of PyTorch for the
    rows that have some, by the row or else by "". `side` of the matrix product that
    floors go by. `attack_steps` of the attack that scores; `pool`, `aa_images`,
    `certify_images`, `n` and `samples` are the sizes of the rows without a batch."""

    rows: tuple[str, ...]
    dtype: str
    batch: dict[str, int]
    forms: dict[str, tuple[str, ...]]
    rounds: int
    chunk: int
    side: int
    pool: int
    aa_images: int
    aa_version: str
    certify_images: int
    n: int
    samples: int
    denoiser: dict
    points: int
    attack_steps: int = 10


UNET = {"name": "unet", "widths": (64, 128, 128), "num_blocks": 1, "attention": (2,)}
CPU = Plan(
    rows=(
        "pgd_at:resnet20",
        "pgd_at:convnet",
        "trades:resnet20",
        "nfgsm:resnet20",
        "nfgsm:convnet",
        "scoring:resnet20",
        "selection:resnet20",
        "coreset:points",
        "autoattack:convnet",
        "certify:convnet",
        "sampling:denoiser",
        "pgd_at:resnet18",
    ),
    dtype="float32",
    batch={"resnet18": 32, "resnet20": 64, "convnet": 64, "wrn28_2": 32, "wrn28_10": 8},
    forms={"": ("channels_last", "eager", "usual"), "pgd_at:resnet18": ("eager",)},
    rounds=3,
    chunk=1,
    side=1024,
    pool=256,
    aa_images=20,
    aa_version="lite",
    certify_images=10,
    n=400,
    samples=16,
    denoiser={**UNET, "widths": (32, 64)} | {"attention": ()},
    points=2_000,
)
GPU = replace(
    CPU,
    rows=(
        "pgd_at:resnet18",
        "nfgsm:resnet18",
        "trades:resnet18",
        "pgd_at:wrn28_10",
        "pgd_at:convnet",
        "scoring:resnet18",
        "selection:resnet18",
        "coreset:points",
        "autoattack:resnet18",
        "certify:resnet18",
        "sampling:denoiser",
    ),
    dtype="bfloat16",
    batch={"resnet18": 512, "resnet20": 1024, "convnet": 1024, "wrn28_10": 128}
    | {"wrn28_2": 512},
    forms={
        "": ("bf16", "compiled_bf16"),
        "pgd_at:resnet18": ("bf16", "compiled_bf16", "tf32", "eager", "usual_bf16"),
        "pgd_at:wrn28_10": ("bf16",),
    },
    rounds=5,
    chunk=5,
    side=8192,
    pool=10_240,
    aa_images=512,
    aa_version="standard",
    certify_images=64,
    n=10_000,
    samples=512,
    denoiser=UNET | {"widths": (128, 256, 256), "dtype": "bfloat16"},
    points=5_000,
)


def shrunk(plan: Plan) -> Plan:
    """The same rows and forms at a size where only the plumbing shows."""
    own = lambda names: tuple(dict.fromkeys(name.split(":")[0] for name in names))
    nets = {"coreset": "points", "sampling": "denoiser"}
    forms = tuple(name for name in plan.forms[""] if "compiled" not in name)
    return replace(
        plan,
        rows=tuple(f"{kind}:{nets.get(kind, 'tiny')}" for kind in own(plan.rows)),
        batch={"tiny": 4},
        forms={"": forms},
        rounds=1,
        chunk=1,
        side=64,
        pool=10,
        aa_images=4,
        aa_version="lite",
        certify_images=2,
        n=20,
        samples=2,
        denoiser={"name": "mlp", "width": 8, "num_blocks": 1},
        points=100,
        attack_steps=1,
    )
