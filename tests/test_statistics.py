"""Intervals, sign flips and nulls, against closed forms and plain numpy."""

import itertools

import numpy as np
import pytest
from scipy import stats

from lab import statistics


def seeded(label: object = 0):
    return statistics.seeded(0, f"test_statistics: {label}")


def interval(values, label: object = 0, draws: int = 10_000) -> np.ndarray:
    return np.array(statistics.paired_interval([values], np.mean, seeded(label), draws))


def bca_by_hand(values: np.ndarray, draws: int) -> np.ndarray:
    """Efron's formula for the mean: bias from the resamples, acceleration from the jackknife."""
    values, random = np.asarray(values, float), np.random.default_rng(1)
    means = random.choice(values, (draws, len(values))).mean(1)
    below = (means < values.mean()).mean() + (means == values.mean()).mean() / 2
    bias = stats.norm.ppf(below)
    left_out = (values.sum() - values) / (len(values) - 1)
    pull = left_out.mean() - left_out
    acceleration = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    ends = bias + stats.norm.ppf([0.025, 0.975])
    return np.quantile(means, stats.norm.cdf(bias + ends / (1 - acceleration * ends)))


def test_the_interval_of_a_share_is_near_the_normal_one():
    low, high = interval(np.r_[np.ones(30), np.zeros(70)])
    assert low == pytest.approx(0.21, abs=0.02)
    assert high == pytest.approx(0.39, abs=0.02)


@pytest.mark.parametrize("shape", ["skewed", "even"])
def test_the_interval_agrees_with_efrons_formula(shape):
    random = np.random.default_rng(0)
    values = random.exponential(size=25) if shape == "skewed" else random.normal(size=25)
    width = np.ptp(interval(values))
    assert interval(values) == pytest.approx(bca_by_hand(values, 200_000), abs=0.03 * width)
    percentile = np.quantile(random.choice(values, (200_000, 25)).mean(1), 0.975)
    if shape == "skewed":  # percentiles miss the long tail
        assert interval(values)[1] > percentile + 0.03 * width


def test_the_interval_moves_with_the_data():
    values = np.random.default_rng(0).exponential(size=20)
    assert interval(values + 7) == pytest.approx(interval(values) + 7)
    assert interval(3 * values) == pytest.approx(3 * interval(values))
    assert interval(-values) == pytest.approx(-interval(values)[::-1], rel=0.05)  # quantiles of other resamples
    assert (interval(values) == interval(values)).all()
    assert (interval(values, "other") != interval(values)).all()


def test_the_interval_covers():
    """The mean of a normal sample of 20: 95 % nominal, about 93 % for any bootstrap."""
    random = np.random.default_rng(0)
    covered = [low <= 0 <= high for low, high in (interval(random.normal(size=20), index, 500) for index in range(300))]
    assert 0.88 <= np.mean(covered) <= 0.98


def test_samples_are_resampled_alike():
    """The ratio of a sample and its double is 2 in every resample, and a difference of paired values is that of one."""
    first = np.random.default_rng(0).exponential(size=15)
    second = first + np.random.default_rng(1).normal(size=15)

    def ratio(above, below, axis):
        return above.mean(axis) / below.mean(axis)

    def difference(left, right, axis):
        return left.mean(axis) - right.mean(axis)

    assert statistics.paired_interval([2 * first, first], ratio, seeded()) == pytest.approx((2, 2))
    paired = statistics.paired_interval([second, first], difference, seeded(), draws=10_000)
    assert paired == pytest.approx(tuple(interval(second - first)))


@pytest.mark.parametrize("values", [[0.0] * 9, [0.25] * 4, [1.0], [True, True]])
def test_data_without_spread_give_the_one_value(values):
    assert interval(values).tolist() == [values[0]] * 2


def test_one_value_that_differs_leaves_a_finite_interval():
    low, high = interval([0.0] * 29 + [-0.5])
    assert -0.5 < low < -0.5 / 30 < high <= 0


@pytest.mark.parametrize(
    "gains", [[3.0, 1.0, -2.0, 0.5], [1.0, 1.0, 1.0, 1.0], [-1.0, 2.0, 0.0, 0.0], [-4.0, -1.0, -2.0, -8.0]]
)
def test_sign_flips_of_four_values_are_all_sixteen_patterns(gains):
    flipped = [np.dot(signs, gains) for signs in itertools.product((1, -1), repeat=4)]
    assert len(flipped) == 16
    assert statistics.sign_flip_p(gains, seeded()) == pytest.approx(np.mean([total >= sum(gains) for total in flipped]))


def test_sign_flips_known_values():
    assert statistics.sign_flip_p(np.ones(4), seeded()) == 1 / 16
    assert statistics.sign_flip_p(np.zeros(10), seeded()) == 1
    assert statistics.sign_flip_p(np.ones(12), seeded()) == 1 / 4096  # still all of them
    assert statistics.sign_flip_p(np.ones(40), seeded()) == 1 / 5000  # drawn: never 0
    assert statistics.sign_flip_p(-np.ones(40), seeded()) == 1


def test_drawn_sign_flips_agree_with_the_normal_approximation():
    gains = np.random.default_rng(0).normal(0.2, size=60)
    expected = stats.norm.sf(gains.sum() / np.sqrt((gains**2).sum()))
    assert statistics.sign_flip_p(gains, seeded()) == pytest.approx(expected, abs=0.02)
    assert statistics.sign_flip_p(gains, seeded()) == statistics.sign_flip_p(gains, seeded())


def test_null_record_counts_ties_and_is_never_zero():
    draws = np.arange(19.0)
    record = statistics.null_record(draws, 18.0)
    assert record == {"draws": 19, "low": 1.0, "middle": 9.0, "high": 17.0, "p": 2 / 20}
    assert statistics.null_record(draws, 18.5)["p"] == 1 / 20
    assert statistics.null_record(draws, -1.0)["p"] == 1
    assert statistics.null_record(draws, 0.0, low_counts=True)["p"] == 2 / 20
    assert statistics.null_record(draws, -0.5, low_counts=True)["p"] == 1 / 20
    assert statistics.null_record([0.0], 1.0) == {"draws": 1, "low": 0.0, "middle": 0.0, "high": 0.0, "p": 0.5}


def test_a_null_read_from_below_is_its_mirror_image():
    draws = np.random.default_rng(0).normal(size=99)
    above, below = statistics.null_record(draws, 1.0), statistics.null_record(-draws, -1.0, low_counts=True)
    assert above["p"] == below["p"] == (1 + (draws >= 1).sum()) / 100
    assert (above["low"], above["middle"], above["high"]) == pytest.approx(
        (-below["high"], -below["middle"], -below["low"])
    )


def test_each_of_twenty_values_among_the_others_gets_another_p():
    """Exchangeable with its draws, the observed value has p ≤ .05 in one case of twenty."""
    values = np.random.default_rng(0).normal(size=20)
    ps = [statistics.null_record(np.delete(values, index), value)["p"] for index, value in enumerate(values)]
    assert sorted(ps) == pytest.approx(np.arange(1, 21) / 20)
