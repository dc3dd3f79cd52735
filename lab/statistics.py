"""Seeded generators, intervals, tests and corrections."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import stats

from lab import runs


def seeded(seed: int, label: str) -> torch.Generator:
    """A torch generator (CPU) of its own for every random thing: adding one draw elsewhere changes nothing here."""
    return torch.Generator().manual_seed(int(runs.short_hash([seed, label])[:15], 16))


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a rate (Wilson 1927), (low, high) as shares; ValueError without trials."""
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's test (1947) from the discordant counts; 1 where there is none."""
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0


def numpy_generator(generator: torch.Generator) -> np.random.Generator:
    """A numpy generator that is seeded by one draw from a torch generator."""
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))


def paired_interval(
    samples: Sequence[np.ndarray], statistic: Callable, generator: torch.Generator, draws: int = 100_000
) -> tuple[float, float]:
    """95 % BCa interval (Efron 1987) of a statistic of paired samples, resampling problems.

    samples: arrays (problems,), all resampled alike. statistic(*samples, axis) -> array. Where no resample differs from the
    data, BCa is undefined and the interval is that one value. With fewer resamples the seed decides between neighbouring
    values of a mean that can only have a few (two of thirty problems lost: -.100 or -.117).
    """
    samples = tuple(np.asarray(sample, float) for sample in samples)
    value = float(statistic(*samples, axis=-1))
    if len(samples[0]) < 2 or all(np.ptp(sample) == 0 for sample in samples):
        return value, value
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            samples, statistic, paired=True, vectorized=True, n_resamples=draws, method="BCa",
            batch=10_000, rng=numpy_generator(generator),
        )  # fmt: skip
    low, high = (float(end) for end in result.confidence_interval)
    return (low, high) if np.isfinite([low, high]).all() else (value, value)


def sign_flip_p(gains: np.ndarray, generator: torch.Generator, draws: int = 4999) -> float:
    """One-sided p that the mean gain (n,) over problems is no more than zero, by flips of signs (Fisher 1935).

    Exact where there are no more than `draws` patterns of signs, else of so many at random.
    """
    result = stats.permutation_test(
        (np.asarray(gains, float),), np.mean, permutation_type="samples", vectorized=True, alternative="greater",
        n_resamples=draws, rng=numpy_generator(generator),
    )  # fmt: skip
    return float(result.pvalue)


def null_record(draws: np.ndarray, observed: float, low_counts: bool = False) -> dict:
    """How every null is saved: number of draws, their 5 %, 50 % and 95 % points, and p of reaching the observed value.

    draws (n,). Both ends are draws themselves, the nearest ones: between two shares of a few pairs lies nothing that a
    draw could have. p counts draws at least as high as the observed value; with `low_counts` at least as low.
    """
    draws = np.asarray(draws, float)
    ends = ((0.05, "nearest"), (0.5, "linear"), (0.95, "nearest"))
    low, middle, high = (float(np.quantile(draws, share, method=method)) for share, method in ends)
    reached = int((draws <= observed).sum() if low_counts else (draws >= observed).sum())
    return {"draws": len(draws), "low": low, "middle": middle, "high": high, "p": permutation_p(reached, len(draws))}


def spread(values: np.ndarray) -> dict:
    """{draws, low, middle, high}: 5 %, median and 95 % of random draws; None where any is undefined."""
    if not np.isfinite(values).all():
        return {"draws": len(values), "low": None, "middle": None, "high": None}
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
    return {"draws": len(values), "low": low, "middle": middle, "high": high}


def outlier_p(value: float, others: Sequence[float]) -> float | None:
    """One-sided p that one more member of a normal population is as high as `value`, its mean and variance seen in `others`.

    Student's prediction interval: (x - mean)/(s sqrt(1 + 1/n)) with n - 1 degrees of freedom. None for fewer than three.
    """
    others = np.asarray(others, float)
    if len(others) < 3:
        return None
    spread = max(others.std(ddof=1) * (1 + 1 / len(others)) ** 0.5, 1e-300)
    return float(stats.t.sf((value - others.mean()) / spread, len(others) - 1))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm-adjusted p values (Holm 1979), at most 1, in the order given."""
    order = np.argsort(ps, kind="stable")
    adjusted = np.maximum.accumulate(np.asarray(ps, float)[order] * np.arange(len(ps), 0, -1)).clip(max=1)
    result = np.empty(len(ps))
    result[order] = adjusted
    return result.tolist()


def permutation_p(at_least_as_extreme: int, draws: int) -> float:
    """(1 + #extreme) / (1 + N): never zero (Phipson & Smyth 2010)."""
    return (1 + at_least_as_extreme) / (1 + draws)
