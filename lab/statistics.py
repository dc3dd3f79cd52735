"""Seeded generators, intervals, tests and corrections."""

from collections.abc import Sequence

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


def bootstrap_interval(values: np.ndarray, generator: torch.Generator, draws: int = 10_000) -> tuple[float, float]:
    """95 % percentile interval of the mean of paired differences, resampling problems."""
    picks = torch.randint(len(values), (draws, len(values)), generator=generator).numpy()
    low, high = np.quantile(np.asarray(values, float)[picks].mean(1), (0.025, 0.975))
    return float(low), float(high)


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
