"""Each suspicion holds its line: passed just within, failed just outside, never by
NaN."""

import pytest

from jaxrobust.evaluators import after

NAN = float("nan")


@pytest.mark.parametrize(
    ("check", "within", "outside"),
    [
        (after.monotone_in_eps, ([0, 1, 2], [0.9, 0.5, 0.5]), ([0, 1], [0.5, 0.51])),
        (after.monotone_in_eps, ([2, 0, 1], [0.1, 0.9, 0.5]), ([2, 1], [0.9, 0.5])),
        (after.monotone_in_eps, ([0], [0.5]), ([0, 1, 2], [0.9, NAN, 0.1])),
        (after.unbounded_reaches_zero, (0.01, 1.0), (0.02, 1.0)),
        (after.noise_hurts_less, (0.9, 0.7, 0.5), (0.9, 0.6, 0.5)),
        (after.noise_hurts_less, (0.9, 0.91, 0.5), (0.9, 0.9, 0.9)),
        (after.black_box_adds_little, (0.5, 0.498), (0.5, 0.497)),
        (after.transfer_is_weaker, (0.5, 0.5), (0.5, 0.49)),
        (after.attack_converged, ("steps", 0.51, 0.5), ("steps", 0.52, 0.5)),
        (after.attack_converged, ("steps", 0.5, 0.51), ("steps", 0.5, 0.52)),
        (after.attacks_do_not_help, (0.9, {"pgd": 0.9}), (0.9, {"a": 0.1, "b": 0.91})),
        (after.one_step_is_weaker, (0.5, 0.5), (0.49, 0.5)),
        (after.autoattack_near_pgd, (0.56, 0.5), (0.57, 0.5)),
        (after.clean_accuracy_as_trained, (0.9, 0.91), (0.9, 0.92)),
    ],
)
def test_the_line_is_where_it_is_said_to_be(check, within, outside):
    for arguments, ok in ((within, True), (outside, False)):
        found = check(*arguments)
        assert found.ok is ok, found
        assert found.name and found.value and found.note


@pytest.mark.parametrize(
    ("check", "arguments"),
    [
        (after.monotone_in_eps, ([0, 1], [0.5, NAN])),
        (after.unbounded_reaches_zero, (NAN, 1.0)),
        (after.noise_hurts_less, (0.9, NAN, 0.5)),
        (after.noise_hurts_less, (0.9, 0.9, NAN)),
        (after.black_box_adds_little, (0.5, NAN)),
        (after.transfer_is_weaker, (NAN, 0.5)),
        (after.attack_converged, ("steps", NAN, 0.5)),
        (after.attacks_do_not_help, (0.9, {"pgd": NAN})),
        (after.one_step_is_weaker, (0.5, NAN)),
        (after.autoattack_near_pgd, (0.5, NAN)),
        (after.clean_accuracy_as_trained, (NAN, 0.5)),
    ],
)
def test_nan_passes_nothing(check, arguments):
    assert check(*arguments).ok is False


def test_figures_are_named():
    found = after.attacks_do_not_help(0.5, {"pgd": 0.25, "fgsm": 0.75})
    assert found.value == "clean 50.0%, pgd 25.0%, fgsm 75.0%"
    assert found.note.startswith("fgsm that raises")
    found = after.monotone_in_eps([0.2, 0.1, 0.0], [0.4, 0.3, 0.9])
    assert found.value == "30.0% at 0.1, 40.0% at 0.2"
    found = after.noise_hurts_less(0.9, 0.8, 0.5)
    assert found.value == "noise takes 10 points, the attack 40 points"
