"""Seeded generators, intervals, tests and corrections."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import stats

from lab import runs


def seeded(seed: int, label: str) -> torch.Generator:
    """A torch generator of its own for every random thing: adding one draw elsewhere changes nothing here."""
    return torch.Generator().manual_seed(int(runs.short_hash([seed, label])[:15], 16))


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a rate."""
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar p from the discordant counts; 1 where there is none."""
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0


def numpy_generator(generator: torch.Generator) -> np.random.Generator:
    """A numpy generator that is seeded by one draw from a torch generator."""
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))


def bootstrap_interval(values: np.ndarray, generator: torch.Generator, draws: int = 10_000) -> tuple[float, float]:
    """95 % percentile interval of the mean of paired differences, resampling problems."""
    picks = torch.randint(len(values), (draws, len(values)), generator=generator).numpy()
    low, high = np.quantile(np.asarray(values, float)[picks].mean(1), (0.025, 0.975))
    return float(low), float(high)


def paired_interval(
    samples: Sequence[np.ndarray], statistic: Callable, generator: torch.Generator, draws: int = 10_000
) -> tuple[float, float]:
    """95 % BCa interval (Efron 1987) of a statistic of paired samples, resampling problems.

    samples: arrays (problems,), all resampled alike. statistic(*samples, axis) -> array. Where no resample differs from the
    data, BCa is undefined and the interval is that one value.
    """
    samples = tuple(np.asarray(sample, float) for sample in samples)
    value = float(statistic(*samples, axis=-1))
    if len(samples[0]) < 2 or all(np.ptp(sample) == 0 for sample in samples):
        return value, value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            samples, statistic, paired=True, vectorized=True, n_resamples=draws, method="BCa",
            rng=numpy_generator(generator),
        )  # fmt: skip
    low, high = (float(end) for end in result.confidence_interval)
    return (low, high) if np.isfinite([low, high]).all() else (value, value)


def sign_flip_p(gains: np.ndarray, generator: torch.Generator, draws: int = 4999) -> float:
    """One-sided p that the mean gain over problems is no more than zero; exact where all sign patterns are few enough."""
    result = stats.permutation_test(
        (np.asarray(gains, float),), np.mean, permutation_type="samples", vectorized=True, alternative="greater",
        n_resamples=draws, rng=numpy_generator(generator),
    )  # fmt: skip
    return float(result.pvalue)


def null_record(draws: np.ndarray, observed: float, low_counts: bool = False) -> dict:
    """How every null is saved: number of draws, their 5 %, 50 % and 95 % points, and p of reaching the observed value.

    draws (n,). p counts draws at least as high as the observed value; with `low_counts` at least as low.
    """
    draws = np.asarray(draws, float)
    low, middle, high = np.quantile(draws, (0.05, 0.5, 0.95)).tolist()
    reached = int((draws <= observed).sum() if low_counts else (draws >= observed).sum())
    return {"draws": len(draws), "low": low, "middle": middle, "high": high, "p": permutation_p(reached, len(draws))}


def holm(ps: Sequence[float]) -> list[float]:
    """Holm-adjusted p values, in the order given."""
    order = np.argsort(ps, kind="stable")
    adjusted = np.maximum.accumulate(np.asarray(ps, float)[order] * np.arange(len(ps), 0, -1)).clip(max=1)
    result = np.empty(len(ps))
    result[order] = adjusted
    return result.tolist()


def permutation_p(at_least_as_extreme: int, draws: int) -> float:
    """(1 + #extreme) / (1 + N): never zero."""
    return (1 + at_least_as_extreme) / (1 + draws)
