"""Time to robustness: a stated AutoAttack accuracy in the least training time.

Source   ours; docs/speedrun.md has the rules and the table. Single-step training of de
         Jorge et al., arXiv:2202.01181, with a one-cycle rate (Wong et al.,
         arXiv:2001.03994) and averaged weights (Gowal et al., arXiv:2010.03593).
Run      python -m jaxrobust.main --config=configs/speedrun.py --workdir=RUN
         python -m jaxrobust.main --config=configs/evaluate.py --config.checkpoint=RUN
             --config.suite=autoattack
Expect   digits, 3 seeds: 70% under AutoAttack after 3 s of training each and half a
         minute of compilation; docs/speedrun.md
Variants (none)    1,297 digits of 8x8 at linf 0.15, target 65% under AutoAttack
         cifar10   ResNet-18 at linf 8/255, target 45%; not measured yet: needs a GPU
         smoke     seconds, for tests
"""

from configs import adversarial, base

VARIANTS = ("", "cifar10", "smoke")


def get_config(variant: str = ""):
    """The recipe, or one of its variants."""
    if variant not in VARIANTS:
        raise base.unknown_variant("speedrun.py", variant, VARIANTS[1:])
    c = adversarial.get_config(variant)
    c.title = c.title.replace("Training", "Speed run")
    c.compare = ("nfgsm",)
    c.train.keep = "last"
    c.train.probe_every_steps = 0  # looks would stop the clock of nobody else
    c.data.val_count = 0
    c.optim.schedule = {"name": "one_cycle", "warmup_percent": 30.0}
    c.train.ema_decay = 0.99
    if variant == "cifar10":
        cifar10(c)
    if variant == "":
        c.train.num_steps = 150
    return c


def cifar10(c) -> None:
    """30 epochs in bfloat16."""
    c.model.dtype = "bfloat16"
    c.train.num_epochs = 30
    c.train.batch_size = 128
    c.train.checkpoint_every_steps = 0
    c.optim.learning_rate = 0.2
    c.train.ema_decay = 0.995
