"""From counts to radii: against SciPy's own intervals and tests, and closed forms."""

import numpy as np
import pytest
from scipy import stats

from jaxrobust.errors import UserError
from jaxrobust.evaluators import certificate
from jaxrobust.evaluators.certificate import ABSTAIN
from jaxrobust.threat import ThreatModel

SIGMA, ALPHA = 0.25, 0.001


@pytest.mark.parametrize("n", (10, 100, 1000))
@pytest.mark.parametrize("alpha", (0.001, 0.05))
def test_the_lower_bound_is_scipys_one_sided_exact_one(n, alpha):
    counts = np.unique([0, 1, 2, n // 3, n // 2, n - 1, n])
    found = certificate.clopper_pearson_lower(counts, n, alpha)
    for count, bound in zip(counts, found):
        test = stats.binomtest(int(count), n, alternative="greater")
        assert bound == pytest.approx(test.proportion_ci(1 - alpha).low, rel=1e-9)


@pytest.mark.parametrize("p", (0.3, 0.5, 0.93))
def test_the_lower_bound_is_too_high_as_rarely_as_it_says(p):
    n, alpha = 60, 0.05
    counts = np.arange(n + 1)
    too_high = certificate.clopper_pearson_lower(counts, n, alpha) > p
    assert stats.binom.pmf(counts, n, p)[too_high].sum() <= alpha


def test_votes_are_those_of_the_two_sided_binomial_test():
    draw = np.random.default_rng(0)
    counts = draw.multinomial(60, [0.45, 0.4, 0.15], size=200)
    found = certificate.votes(counts, 0.05)
    for row, vote in zip(counts, found):
        first, second = sorted(row)[:-3:-1]
        p_value = stats.binomtest(first, first + second, 0.5).pvalue
        assert vote == (row.argmax() if p_value <= 0.05 else ABSTAIN)
    assert 0 < np.mean(found == ABSTAIN) < 1


def test_equal_classes_and_no_class_at_all_are_abstentions():
    assert certificate.votes(np.array([[50, 50], [0, 0]]), ALPHA).tolist() == [-1, -1]


def test_the_class_is_selected_and_estimated_by_different_draws():
    selection, estimation = np.array([[9, 1], [1, 9]]), np.array([[1000, 0]] * 2)
    found = certificate.certificates(selection, estimation, SIGMA, 1000, ALPHA)
    assert found.top.tolist() == [0, 1] and found.predict.tolist() == [0, ABSTAIN]
    assert found.n0.tolist() == [9, 9] and found.nA.tolist() == [1000, 0]
    assert found.vote.tolist() == [0, 0]


def test_the_radius_is_sigma_times_the_normal_quantile_of_the_bound():
    counts = np.arange(0, 1001, 50)
    estimation = np.stack([counts, 1000 - counts], axis=1)
    selection = np.tile([1, 0], (len(counts), 1))
    found = certificate.certificates(selection, estimation, SIGMA, 1000, ALPHA)
    lower = stats.beta.ppf(ALPHA, counts[1:], 1001 - counts[1:])
    lower = np.concatenate([[0.0], lower])
    sure = lower >= 0.5
    np.testing.assert_array_equal(found.predict == 0, sure)
    assert (found.radius[~sure] == 0).all()
    expected = SIGMA * stats.norm.ppf(lower[sure])
    np.testing.assert_allclose(found.radius[sure], expected, rtol=1e-12)
    largest = certificate.largest_radius(SIGMA, 1000, ALPHA)
    assert found.radius[-1] == pytest.approx(largest, rel=1e-9)
    assert largest == pytest.approx(0.6158, abs=1e-4)


@pytest.mark.parametrize("sides,least", ((1, 10), (2, 11)))
def test_too_few_draws_are_refused_and_the_least_number_is_named(sides, least):
    assert certificate.least_draws(ALPHA, sides) == least
    certificate.check_draws(SIGMA, least, ALPHA, sides)
    with pytest.raises(UserError, match=f"at least n = {least}"):
        certificate.check_draws(SIGMA, least - 1, ALPHA, sides)
    # What is refused could only abstain; what is allowed can decide.
    unanimous = np.array([[least - 1, 0], [least, 0]])
    bound = [certificate.clopper_pearson_lower(k, k, ALPHA) for k in unanimous[:, 0]]
    decided = [b >= 0.5 for b in bound] if sides == 1 else None
    decided = decided or (certificate.votes(unanimous, ALPHA) >= 0).tolist()
    assert decided == [False, True]


@pytest.mark.parametrize("sigma,alpha", ((0.0, 0.1), (np.nan, 0.1), (0.25, 1.5)))
def test_impossible_settings_are_refused(sigma, alpha):
    with pytest.raises(UserError, match="must be"):
        certificate.check_draws(sigma, 100, alpha, 1)


RADIUS = np.array([0.0, 0.1, 0.2, 0.3])
RIGHT = np.array([False, True, True, False])


def test_certified_accuracy_counts_right_images_that_reach_the_radius():
    found = certificate.certified_accuracy(RADIUS, RIGHT, [0.0, 0.1, 0.15, 0.25])
    assert found == [0.5, 0.5, 0.25, 0.0]


def test_the_average_radius_is_the_area_under_the_curve():
    radii = (np.arange(30_000) + 0.5) * 1e-5
    area = np.sum(certificate.certified_accuracy(RADIUS, RIGHT, radii.tolist())) * 1e-5
    assert certificate.average_radius(RADIUS, RIGHT) == pytest.approx(area, abs=1e-6)


@pytest.mark.parametrize("count,alpha", ((500, 0.001), (500, 0.1), (10_000, 0.01)))
def test_what_is_sure_survives_the_worst_luck_that_rho_allows(count, alpha):
    rho = 0.01
    lost = 0.9 - certificate.sure_accuracy(0.9, alpha, count, rho)
    wrong = round(lost * count)
    assert stats.binom.sf(wrong, count, alpha) <= rho
    assert stats.binom.sf(wrong - 1, count, alpha) > rho
    assert certificate.sure_accuracy(0.0, alpha, count, rho) == 0.0


def test_an_l2_ball_around_an_linf_ball_and_inside_of_it():
    # 111/255 is how CIFAR-10's 2/255 is rounded in arXiv:2104.09425.
    radius = certificate.l2_radius(ThreatModel(2 / 255, "linf"), 3072)
    assert radius == pytest.approx(0.43471, abs=1e-5)
    assert certificate.linf_radius(radius, 3072) == pytest.approx(2 / 255)
    corner = np.full(3072, 2 / 255)
    assert np.linalg.norm(corner) == pytest.approx(radius)
    for norm in ("l2", "l1"):
        assert certificate.l2_radius(ThreatModel(0.5, norm), 3072) == 0.5
