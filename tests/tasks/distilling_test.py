"""The parts of a distillation that have closed forms or brute-force oracles."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import guard
from jaxrobust.data.image_set import ImageSet
from jaxrobust.errors import UserError
from jaxrobust.progress import Progress
from jaxrobust.tasks.distilling.artefact import pixels
from jaxrobust.tasks.distilling.cases import beside, build_others, plan_cases
from jaxrobust.tasks.distilling.judging import robustness_ratio
from jaxrobust.tasks.distilling.picks import class_rows, herding_rows, random_rows
from jaxrobust.tasks.distilling.sets import Arm
from jaxrobust.tasks.distilling.students import Students
from jaxrobust.tasks.distilling.summary import label_robust_score, scored
from jaxrobust.tasks.setup import build_setup
from jaxrobust.tree import plain
from jaxrobust.workdir import Workdir
from tests import helpers

LABEL = np.array([0, 1, 2] * 20)
OWN = class_rows(LABEL, 3)


def test_random_picks_are_different_images_of_every_class():
    rows = random_rows(OWN, 4, seed=5, stream=0)
    assert len(set(rows.flat)) == 12
    np.testing.assert_array_equal(LABEL[rows], [[k] * 4 for k in range(3)])
    for seed, stream in ((6, 0), (5, 3)):
        other = random_rows(OWN, 4, seed, stream)
        assert set(rows.flat) != set(other.flat)


def unit(feature):
    return feature / np.linalg.norm(feature, axis=1, keepdims=True)


def test_herding_takes_the_best_next_image_each_time():
    feature = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    found = herding_rows(feature, OWN, 5)
    np.testing.assert_array_equal(LABEL[found], [[k] * 5 for k in range(3)])
    np.testing.assert_array_equal(herding_rows(feature, OWN, 2), found[:, :2])
    far = lambda rows, goal: np.linalg.norm(goal - unit(feature)[rows].mean(0))
    for k in range(3):
        own, chosen = np.flatnonzero(LABEL == k), found[k].tolist()
        goal = unit(feature)[own].mean(0)
        for count in range(5):
            left = [row for row in own if row not in chosen[:count]]
            gaps = [far([*chosen[:count], row], goal) for row in left]
            assert chosen[count] == left[int(np.argmin(gaps))]


def test_label_robust_score_at_its_ends():
    assert label_robust_score(1.0, -1.0) == pytest.approx(1.0)
    assert label_robust_score(-1.0, 1.0) == pytest.approx(0.0)
    assert label_robust_score(0.0, 0.0) == pytest.approx(0.2689, abs=1e-4)


def test_scores_exchange_images_and_labels_one_at_a_time():
    real, plain_real = (SimpleNamespace(name=n) for n in ("guard", "standard"))
    make = lambda name, real: Arm(name, "sre2l", real, SimpleNamespace(soft=True))
    arm, first = make("arm", real), make("plain", plain_real)
    acc = {
        "arm / ipc 1": 0.5,
        "arm_hard / ipc 1": 0.3,
        "random_guard / ipc 1": 0.45,
        "random_standard / ipc 1": 0.1,
        "standard / all images": 0.9,
        "guard / all images": 0.8,
    }
    means = {n: {"clean_acc": a, "worst_acc": a / 2} for n, a in acc.items()}
    found = scored(means, arm, first, 1, "")
    assert found["clean_over_random"] == pytest.approx(0.05)
    assert found["worst_over_random"] == pytest.approx(0.025)
    assert found["clean_hard_gap"] == pytest.approx(0.6)
    assert found["lrs"] == pytest.approx(label_robust_score(0.05, 0.6))
    del means["arm_hard / ipc 1"]
    assert "lrs" not in scored(means, arm, first, 1, "")


@pytest.mark.parametrize(
    ("attacked", "ratio"), [((0.8, 0.8), 1.0), ((0.0, 0.0), 0.0), ((0.4, 0.0), 0.25)]
)
def test_robustness_ratio_by_hand(attacked, ratio):
    row = {"clean_acc": 0.8, "worst_acc": 0.0}
    row |= {f"attack{i}_acc": value for i, value in enumerate(attacked)}
    assert robustness_ratio(row) == pytest.approx(ratio)


def test_pixels_round_and_clip():
    found = pixels(np.array([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 7.0]))
    np.testing.assert_array_equal(found, [0, 0, 0, 1, 255, 255])


@pytest.fixture(scope="module")
def students():
    """The smoke recipe's students."""
    config = plain(guard.get_config("smoke"))
    setup = build_setup(config)
    return Students(setup, config["student"], setup.model)


def teacher_of(students, seed):
    """Random weights of the right shape, by NumPy."""
    shape = students.setup.splits.image_shape
    return helpers.variables_of(students.setup.model, seed, shape)


def test_one_program_serves_all_teachers_and_each_is_listened_to(students, tmp_path):
    train = students.setup.splits.train
    images = train.take(np.arange(20))
    workdir = Workdir(str(tmp_path / "run"), {})

    def learn(name, number):
        teacher = None if number is None else teacher_of(students, number)
        fitted = students.train(name, images, teacher, 0, workdir, Progress(1.0))
        return jax.device_get(fitted.state.params)

    first, second = learn("first", 0), learn("second", 1)
    helpers.assert_trees_equal(learn("again", 0), first)
    assert students._programs[True].compilations == 1
    hard = learn("hard", None)
    for other in (second, hard):
        gaps = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), first, other)
        assert max(jax.tree.leaves(gaps)) > 1e-4


def test_a_student_comes_to_agree_with_its_teacher(students, tmp_path):
    """Without mixing and at temperature 1, on images that the teacher labels."""
    spec = {**students.spec, "mix": "none", "temperature": 1.0, "num_steps": 200}
    spec["optim"] = {**spec["optim"], "learning_rate": 0.01}
    keen = Students(students.setup, {**spec, "chunk_steps": 100}, students.model)
    image = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)
    label = np.zeros(20, np.int32)
    images = ImageSet(image, label, tuple("0123456789"), "noise")
    teacher = teacher_of(students, 3)
    workdir = Workdir(str(tmp_path / "run"), {})
    fitted = keen.train("keen", images, teacher, 0, workdir, Progress(1.0))
    model = students.setup.model
    said = model.apply(teacher, jnp.asarray(image) / 255.0, train=False)
    state = fitted.state
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    found = model.apply(variables, jnp.asarray(image) / 255.0, train=False)
    gap = np.abs(jax.nn.softmax(found) - jax.nn.softmax(said)).sum(1)
    uninformed = np.abs(jax.nn.softmax(said) - 0.1).sum(1)
    assert gap.mean() < 0.5 * uninformed.mean()


@pytest.fixture(scope="module")
def others(students):
    """Students of the recipe's other architecture."""
    (model,) = build_others(students.setup).values()
    return Students(students.setup, students.spec, model)


def test_one_program_serves_another_architecture_whose_teachers_stay(
    students, others, tmp_path
):
    images = students.setup.splits.train.take(np.arange(20))
    workdir = Workdir(str(tmp_path / "run"), {})

    def learn(name, teacher_seed, seed):
        teacher = teacher_of(students, teacher_seed)
        fitted = others.train(name, images, teacher, seed, workdir, Progress(1.0))
        return jax.device_get(fitted.state.params)

    first, second = learn("first", 0, 0), learn("second", 1, 0)
    learn("third", 0, 1)
    assert others._programs[True].compilations == 1
    shape = students.setup.splits.image_shape
    fresh = helpers.variables_of(others.model, 0, shape)["params"]
    assert jax.tree.structure(first) == jax.tree.structure(fresh)
    gaps = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), first, second)
    assert max(jax.tree.leaves(gaps)) > 1e-4, "the teacher is not listened to"


def test_the_work_of_another_architecture_is_in_passes_of_the_own(students):
    own, steps = students.setup, students.spec["num_steps"]
    size = students.batch_size(20)
    assert students.work(20, soft=True) == steps * size * 4.0
    twice = own.model.clone(widths=tuple(2 * width for width in own.model.widths))
    bigger = Students(own, students.spec, twice)
    teacher = steps * size
    assert bigger.work(20, soft=True) - bigger.work(20, soft=False) == teacher
    ratio = bigger.work(20, soft=False) / students.work(20, soft=False)
    assert ratio == pytest.approx(2.0, rel=0.05), "one layer, twice as wide"


def some_arms():
    """Two that ask their teachers for labels and two that do not."""
    made = [
        ("a", "standard", 1),
        ("b", "guard", 1),
        ("c", "standard", 0),
        ("d", "x", 0),
    ]
    return [
        Arm(name, "way", SimpleNamespace(name=real), SimpleNamespace(soft=bool(soft)))
        for name, real, soft in made
    ]


@pytest.mark.parametrize("arms", (some_arms(), some_arms()[:2], some_arms()[2:]))
@pytest.mark.parametrize("hard_labels", (True, False))
def test_another_architecture_learns_each_arm_and_its_control(arms, hard_labels):
    spec = {"controls": ("random", "herding"), "hard_labels": hard_labels}
    cases = plan_cases(arms, {**spec, "transfer": {"p": {}, "q": {}}})
    names = [case.name(3) for case in cases]
    assert len(set(names)) == len(names)
    own = {case.kind: case for case in cases if not case.architecture}
    for network in ("p", "q"):
        there = [case for case in cases if case.architecture == network]
        assert {c.kind for c in there} == {n for a in arms for n in (a.name, beside(a))}
        for case in there:
            assert replace(case, architecture="") == own[case.kind]
    for arm in arms:
        control = own[beside(arm)]
        assert (control.images, control.labels) == ("random", own[arm.name].labels)
    assert plan_cases(arms, {**spec, "transfer": {}}) == list(own.values())
    alone = plan_cases(arms, {**spec, "controls": (), "transfer": {"p": {}}})
    assert {c.kind for c in alone if c.architecture} == {arm.name for arm in arms}


@pytest.mark.parametrize(
    ("name", "spec", "words"),
    [
        ("../up", {"name": "convnet", "mean": (), "std": ()}, "names folders"),
        ("new", {"name": "convnet", "mean": ()}, "new needs std"),
        ("new", {"name": "convnt", "mean": (), "std": ()}, "did you mean convnet"),
    ],
)
def test_networks_that_cannot_be_are_refused(students, name, spec, words):
    config = {**students.setup.config}
    config["distill"] = {**config["distill"], "transfer": {name: spec}}
    with pytest.raises(UserError, match=words):
        build_others(replace(students.setup, config=config))
