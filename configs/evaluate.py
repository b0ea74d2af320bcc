"""Attack trained networks the way an auditor would.

Source   AutoAttack: Croce and Hein, arXiv:2003.01690 (l1: 2103.01208). Checks: Carlini
         et al., arXiv:1902.06705; Pintor et al., 2106.09947. GUARD's table:
         arXiv:2403.10045.
Run      python -m jaxrobust.main --config=configs/evaluate.py \
           --config.checkpoint=runs/hybrid [--config.suite=autoattack] \
           [--config.threat.eps=0.1] [--config.networks="('pgd_at / hybrid',)"]
Expect   The four networks of seed 0 of configs/hybrid.py, 500 digits, standard suite:
         under 3 minutes on 2 CPU cores. Seen: AutoAttack 0.8 to 3.4 points below PGD-20
         for adversarially trained networks, and 9.6% for the standard one.
Variants (none)    the networks of a run directory; smoke a few images, for tests
"""

from ml_collections import ConfigDict

from configs import attack_presets, base

VARIANTS = ("", "smoke")


def get_config(variant: str = ""):
    """The recipe, or one of its variants."""
    if variant not in VARIANTS:
        raise base.unknown_variant("evaluate.py", variant, VARIANTS[1:])
    c = ConfigDict()
    c.task = "evaluate"
    c.title = "Evaluation"
    c.checkpoint = "runs/hybrid"  # a run directory, or a .pt or .safetensors file
    c.networks = ()  # names of rows of the run, () takes all
    c.seeds = (0,)  # of the run
    c.num_devices = 0  # 0 takes all
    c.dtype = ""  # float32 | bfloat16; "" as trained. Successes are judged in float32
    c.suite = "autoattack"  # fast | autoattack | full | guard | beard_linf | ...
    c.threat = {"norm": "", "eps": -1.0}  # "" and -1: the suite's, else the run's
    c.data = {**base.get_config().data, "name": ""}  # "": the test images of the run
    c.preprocessing = {"mean": (), "std": ()}  # of a .pt file whose net has none inside
    c.batch_size = 100
    c.chunk_steps = 100  # attack steps between two looks of the host
    c.attack_seed = 0
    c.export = False  # write each network as PyTorch files, for other evaluators
    c.curve = {
        "ratios": (0.25, 0.5, 0.75, 1.0, 1.5, 2.0),  # radii, in units of eps
        "attack": {  # finds its own step at every radius and in every norm
            "name": "apgd",
            "goal": "cross_entropy",
            "num_steps": 20,
            "num_restarts": 1,
            "rho": 0.75,
        },
    }
    c.controls = {
        "noise": {"name": "random_noise"},
        "fgsm": {"name": "fgsm", "loss": "cross_entropy"},
        "pgd": pgd(0.25, 20, "cross_entropy"),
        "pgd_long": pgd(0.25, 100, "cross_entropy"),
    }
    c.minimum_eps = {
        "attack": pgd(0.25, 20, "margin"),
        "num_halvings": 8,
        "largest_ratio": 4.0,  # the search ends at this many eps
    }
    c.suites = suites()
    if variant == "smoke":
        smoke(c)
    return c


def pgd(step_ratio: float, num_steps: int, loss: str) -> dict:
    """PGD with steps in units of eps, so that it serves every radius."""
    spec = base.pgd_eval(0.0, num_steps, loss)
    del spec["step_size"]
    return {**spec, "step_ratio": step_ratio}


def suites() -> dict:
    """What `suite` may name: single attacks, a version of AutoAttack, extras; and the
    published tables of attack_presets.py with their radius."""
    cw = lambda: {"cw": pgd(0.25, 20, "margin")}
    found = {
        "fast": suite("lite", cw()),
        "autoattack": suite("standard", cw()),
        "full": {
            **suite("plus", {**cw(), **single_attacks()}),
            "minimum_eps": True,
        },
    }
    for name, preset in attack_presets.PRESETS.items():
        table = preset()
        found[name] = {
            **suite("torchattacks", table["attacks"]),
            "threat": table["threat"],
            "count_outside": True,
        }
    return found


def suite(version: str, attacks: dict) -> dict:
    """A version of `evaluators.suites` beside attacks that stand for themselves."""
    return {
        "version": version,
        "components": (),  # for version custom
        "attacks": attacks,
        "threat": {"norm": "", "eps": -1.0},  # "" and -1: those of the run
        "count_outside": False,  # whether a success outside the ball counts
        "minimum_eps": False,  # the smallest eps that fools each image
    }


def single_attacks() -> dict:
    """Attacks of the older literature, beside the suite; each serves every norm."""
    return {
        "mim": {
            "name": "mim",
            "loss": "cross_entropy",
            "step_ratio": 0.25,
            "num_steps": 20,
            "decay": 1.0,
            "keep_best": True,
        },
        "cw_l2": {
            "name": "cw_l2",
            "num_steps": 200,
            "binary_search_steps": 6,
            "learning_rate": 0.01,
            "initial_const": 0.1,
            "confidence": 0.0,
            "bounded": False,
        },
        "one_pixel": {
            "name": "one_pixel",
            "pixels": 1,
            "population": 40,
            "generations": 20,
            "mutation": 0.5,
            "count_outside": True,  # its ball is that of changed pixels
        },
    }


def smoke(c) -> None:
    """Everything once, on a few images."""
    c.title = "Smoke test"
    c.checkpoint = "runs/hybrid-smoke"
    c.networks = ("pgd_at / hybrid",)
    c.suite = "fast"
    c.batch_size = 10
    c.data.test_limit = 10
