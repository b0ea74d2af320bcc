"""Which attacks an evaluation is made of, by version, norm and number of classes."""

from jaxrobust.attacks.apgd import apgd_component
from jaxrobust.attacks.fab import fab_component
from jaxrobust.attacks.machine import Component
from jaxrobust.attacks.square import square_component
from jaxrobust.errors import UserError, unknown_name

VERSIONS = ("standard", "plus", "rand", "lite", "custom", "torchattacks")
EOT_SAMPLES = 20
TARGETS = 9


def suite(
    version: str, norm: str, num_classes: int, custom: tuple[str, ...] = ()
) -> tuple[Component, ...]:
    """The components of a version in their order.

    "standard" is AutoAttack for four classes or more, with min(9, K - 1) targets. With
    3 classes the targeted DLR loss does not exist and with 2 none does: APGD on the
    margin (and on the untargeted DLR loss) stands in, and `suite_name` says so.
    "torchattacks" is what that package calls AutoAttack: 10 steps instead of 100.

    Raises `UserError` for an unknown version or component, and for `custom` components
    under another version.

    Ref: Croce and Hein, arXiv:2003.01690, section 5; l1: arXiv:2103.01208.
    """
    if version not in VERSIONS:
        raise unknown_name("version", version, VERSIONS)
    if (version == "custom") != bool(custom):
        raise UserError(
            "name components for version custom and only for it: "
            f"version is {version!r}, components {custom or '()'}"
        )
    targets = min(TARGETS, num_classes - 1)
    known = _components(norm, targets, 10 if version == "torchattacks" else 100)
    if version == "torchattacks":
        known["square"] = square_component("square", 5000, 1, 0.8, True)
    names = custom or _names(version, num_classes)
    for name in names:
        if name not in known:
            raise unknown_name("component", name, known)
        if num_classes < _least_classes(name):
            raise UserError(
                f"{name} needs {_least_classes(name)} classes, this network has "
                f"{num_classes}: use apgd-margin, fab-t and square"
            )
    return tuple(known[name] for name in names)


def suite_name(version: str, num_classes: int, components: tuple) -> str:
    """What a report may call it: "AutoAttack (standard)" only where it is that."""
    listed = ", ".join(component.name for component in components)
    if version in ("standard", "plus", "rand") and num_classes >= 4:
        few = f", {num_classes - 1} targets" if num_classes <= TARGETS else ""
        return f"AutoAttack ({version}{few})"
    if version == "torchattacks":
        return f"torchattacks' AutoAttack, not the standard one ({listed}; 10 steps)"
    return f"{version} suite, not AutoAttack ({listed})"


def _names(version: str, num_classes: int) -> tuple[str, ...]:
    if version == "lite":
        return ("apgd-ce", "apgd-t" if num_classes >= 4 else "apgd-margin")
    if version == "rand":
        return (
            "apgd-ce-eot",
            "apgd-dlr-eot" if num_classes >= 3 else "apgd-margin-eot",
        )
    if num_classes == 2:
        return ("apgd-ce", "apgd-margin", "fab-t", "square")
    if num_classes == 3:
        return ("apgd-ce", "apgd-margin", "apgd-dlr", "fab-t", "square")
    if version == "plus":
        first = ("apgd-ce-5", "apgd-dlr-5", "fab", "fab-restarts")
        return (*first, "square", "apgd-t", "fab-t")
    return ("apgd-ce", "apgd-t", "fab-t", "square")


def _components(norm: str, targets: int, steps: int) -> dict[str, Component]:
    # The l1 version restarts more and aims at fewer targets.
    restarts, aims = (5, min(5, targets)) if norm == "l1" else (1, targets)
    eot = EOT_SAMPLES
    every = [
        apgd_component("apgd-ce", "cross_entropy", steps, restarts),
        apgd_component("apgd-dlr", "dlr", steps, restarts),
        apgd_component("apgd-margin", "margin", steps, restarts),
        apgd_component("apgd-t", "dlr_targeted", steps, aims),
        apgd_component("apgd-ce-5", "cross_entropy", steps, 5),
        apgd_component("apgd-dlr-5", "dlr", steps, 5),
        apgd_component("apgd-ce-eot", "cross_entropy", steps, 1, eot=eot),
        apgd_component("apgd-dlr-eot", "dlr", steps, 1, eot=eot),
        apgd_component("apgd-margin-eot", "margin", steps, 1, eot=eot),
        fab_component("fab-t", steps, targets, targeted=True),
        fab_component("fab", steps, 1, targeted=False),
        fab_component("fab-restarts", steps, 4, targeted=False, start="random"),
        square_component("square", 5000, 1, 0.8, False),
    ]
    return {component.name: component for component in every}


def _least_classes(name: str) -> int:
    if name.startswith("apgd-t"):
        return 4
    return 3 if name.startswith("apgd-dlr") else 2
