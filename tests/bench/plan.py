"""Which rows the one command times, in which sizes, on which kind of machine."""

from dataclasses import dataclass, replace
from typing import NamedTuple

WASTEFUL = {"usual", "usual_bf16", "all rows"}
"""Peers that compute what nobody needs: to be as fast as they are is the least."""
RESNET = 0.65
"""The goal on a CPU against PyTorch on networks with BatchNorm."""


class Row(NamedTuple):
    """What is timed, of which network, against which peers; what holds it, with shares
    of the step from its profile (docs/performance.md); the ratio that is asked for
    against peers that waste nothing."""

    kind: str
    net: str
    peers: tuple[str, ...] = ()
    held: str = ""
    goal: float = 1.0
    precision: str = "fp32"

    @property
    def name(self) -> str:
        """As the command line has it."""
        return f"{self.kind}:{self.net}" + f":{self.precision}" * (
            self.precision != "fp32"
        )

    def goal_against(self, peer: str) -> float:
        """The least median ratio."""
        return max(1.0, self.goal) if peer in WASTEFUL else self.goal


@dataclass(frozen=True)
class Plan:
    """The rows and the sizes of each kind: `batch` of a network; so many `rounds`, each
    of as many steps as `chunk` has for the kind; `side` of the matrix product that
    floors go by; `pool` images to score, `aa_images` to attack by `aa_version` within
    `aa_eps`, `certify_images` with `n` draws each, `samples` images by `denoiser`;
    `attack_steps` of PGD while scoring."""

    rows: tuple[Row, ...]
    batch: dict[str, int]
    rounds: int
    chunk: dict[str, int]
    side: int
    pool: int
    aa_images: int
    aa_version: str
    aa_eps: float
    certify_images: int
    n: int
    samples: int
    denoiser: dict
    attack_steps: int = 10
    clock: str = "wall"

    def once(self) -> "Plan":
        """For what takes too long for rounds."""
        return replace(self, rounds=1)


FORMS = ("channels_last", "eager", "compiled", "usual")
FEW = ("channels_last", "usual")
NARROW = "convolutions of 16 to 64 channels 77%, BatchNorm 13%"
UPDATE = "backward convolutions of the update"
GREEDY = "one pick after another; the products are a small part"
STEPS = ("pgd_at", "trades", "nfgsm", "selection")
UNET = {"name": "unet", "widths": (64, 128, 128), "num_blocks": 1, "attention": (2,)}
CPU = Plan(
    rows=(
        Row("pgd_at", "resnet20", FORMS, NARROW, RESNET),
        Row("pgd_at", "convnet", FORMS, "convolutions 70%, instance norm 20%"),
        Row("trades", "resnet20", FORMS, "convolutions 76%, BatchNorm 12%", RESNET),
        Row("nfgsm", "resnet20", FORMS, f"{UPDATE} 42%, all convolutions 87%", RESNET),
        Row("nfgsm", "convnet", FORMS, f"{UPDATE} 25%, all convolutions 69%"),
        Row("scoring", "resnet20", FEW, "the attack: 20 passes of 22", RESNET),
        Row("selection", "resnet20", ("all rows", *FEW), "attack of half the batch"),
        Row("craig", "points", ("apricot", "submodlib"), GREEDY),
        Row("gradmatch", "points", ("numpy",), GREEDY),
        Row("autoattack", "convnet32", ("pyautoattack",), "Square, then FAB-T"),
        Row(
            "certify",
            "convnet32",
            ("published loop",),
            "forward passes; noise a quarter",
        ),
        Row("sampling", "unet", held="its arithmetic"),
        Row("pgd_at", "resnet18", FORMS, "convolutions 88%, near their floor", RESNET),
        Row("pgd_at", "wrn28_2", FEW, "convolutions 85%, BatchNorm 8%", RESNET),
    ),
    batch={"resnet18": 32, "resnet20": 64, "convnet": 64, "wrn28_2": 16}
    | {"convnet32": 50},
    rounds=3,
    chunk={"pgd_at": 2, "trades": 1, "nfgsm": 8, "selection": 1},
    side=2048,
    pool=256,
    aa_images=30,
    aa_version="standard",
    aa_eps=0.5 / 255,
    certify_images=10,
    n=1_000,
    samples=16,
    denoiser={**UNET, "widths": (32, 64), "attention": ()},
)
BF16 = ("bf16", "compiled_bf16", "usual_bf16")
GPU = replace(
    CPU,
    rows=(
        Row("pgd_at", "resnet18", BF16, precision="bf16"),
        Row("pgd_at", "wrn28_10", ("bf16",), precision="bf16"),
        Row("trades", "resnet18", ("bf16", "usual_bf16"), precision="bf16"),
        Row("nfgsm", "resnet18", ("bf16", "usual_bf16"), precision="bf16"),
        Row("scoring", "resnet18", ("bf16", "usual_bf16"), precision="bf16"),
        Row("selection", "resnet18", ("all rows", "bf16"), precision="bf16"),
        Row("autoattack", "resnet18", ("pyautoattack",), precision="tf32"),
        Row("certify", "resnet18", ("published loop",), precision="tf32"),
        Row("craig", "points", ("apricot", "submodlib")),
        Row("sampling", "unet", precision="bf16"),
        Row("pgd_at", "resnet18", ("tf32",), precision="tf32"),
        Row("pgd_at", "resnet18", ("channels_last", "eager")),
        Row("pgd_at", "convnet", ("bf16", "usual_bf16"), precision="bf16"),
        Row("pgd_at", "resnet20", ("bf16", "usual_bf16"), precision="bf16"),
    ),
    batch={"resnet18": 512, "resnet20": 1024, "convnet": 1024, "wrn28_10": 128},
    chunk=dict.fromkeys(STEPS, 5),
    side=8192,
    pool=10_240,
    aa_images=256,
    certify_images=8,
    n=10_000,
    samples=512,
    denoiser={**UNET, "widths": (128, 256, 256), "dtype": "bfloat16"},
)
TINY = {"wrn28_10": "tiny", "resnet18": "tiny", "resnet20": "tiny", "convnet": "tiny"}
TINY |= {"wrn28_2": "tiny", "convnet32": "tiny"}


def shrunk(plan: Plan) -> Plan:
    """The same rows and peers, but for what is compiled, at a size where only the
    plumbing shows."""
    rows = {}
    for row in plan.rows:
        peers = tuple(peer for peer in row.peers if "compiled" not in peer)
        row = row._replace(net=TINY.get(row.net, row.net), peers=peers)
        rows.setdefault(row.name, row)
    return replace(
        plan,
        rows=tuple(rows.values()),
        batch={"tiny": 4},
        rounds=1,
        chunk=dict.fromkeys(STEPS, 1),
        side=64,
        pool=8,
        aa_images=4,
        aa_version="lite",
        certify_images=2,
        n=20,
        samples=2,
        denoiser={"name": "mlp", "width": 8, "num_blocks": 1},
        attack_steps=1,
    )
