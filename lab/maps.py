"""Linear maps between two languages' vectors of the same problems, each problem predicted by a map that saw none with its answer.

Rows are problems. sources (c, n, q), targets (c, s, n, k), answers (n,): c spaces at once, in each of them s pairings of the same
sources. Everything is float64. Predictions have the targets' shape: of every problem by the map that was fitted on all problems
with other answers. Ridge chooses inside these, leaving out one answer after the other once more: its penalty, and whether that is on
the map or on the map's distance to the identity (both in one space). What two languages share in many dimensions is then not lost
to the penalty: there a ridge toward zero predicts worse than a plain shift.

A residual maker M = I - H (H the hat matrix of a fit with intercept) gives that without refitting: residuals of a block A of rows,
left out of the fit, are M_AA⁻¹ (M y)_A, and the fit without A has the residual maker M - M_·A M_AA⁻¹ M_A· (Cook & Weisberg 1982).
"""

from collections.abc import Iterator

import numpy as np
import torch
from scipy import linalg, optimize, stats

from lab import statistics

PENALTIES = np.logspace(-4, 4, 9)  # ridge's, in units of the mean eigenvalue of the sources' scatter
AT_ONCE = 4_000_000  # numbers in an array
REFERENCES = ("mean", "mean_shift", "scaled_shift")  # what needs no matrix


def alike(marks: list[set]) -> np.ndarray:
    """Numbers of groups: who shares a mark is in one group, and so is who shares one with them. -> (n,)"""
    groups = np.arange(len(marks))
    for mark in sorted(set().union(*marks), key=str):
        own = groups[[mark in held for held in marks]]
        groups[np.isin(groups, own)] = own.min()
    return np.unique(groups, return_inverse=True)[1]


def blocks_of(answers: np.ndarray) -> list[np.ndarray]:
    """Places of every answer's problems. ValueError below three answers: one is left out, of the rest another."""
    distinct = np.unique(answers)
    if len(distinct) < 3:
        raise ValueError(f"{len(distinct)} answers: three are needed")
    return [np.flatnonzero(answers == one) for one in distinct]


def training_means(values: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Mean over the problems with other answers. (..., n, k) -> (..., n, k)"""
    same = (answers[:, None] == answers).astype(float)
    return (values.sum(-2, keepdims=True) - same @ values) / (len(answers) - same.sum(1))[:, None]


def identity(sources: np.ndarray, targets: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """The source itself."""
    return np.broadcast_to(sources[:, None], targets.shape)


def mean(sources: np.ndarray, targets: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """The targets' mean: what R² is measured against."""
    return training_means(targets, answers)


def mean_shift(sources: np.ndarray, targets: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """The source and the mean difference between the languages."""
    return sources[:, None] + training_means(targets - sources[:, None], answers)


def scaled_shift(sources: np.ndarray, targets: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """mean + a (source - mean) with one fitted number a: what shrinking alone achieves."""
    same = (answers[:, None] == answers).astype(float)
    count = len(answers) - same.sum(1)
    own = sources[:, None]
    x_mean, y_mean = training_means(own, answers), training_means(targets, answers)

    def products(one: np.ndarray, other: np.ndarray, means: np.ndarray) -> np.ndarray:
        of_each = (one * other).sum(-1)
        return of_each.sum(-1, keepdims=True) - of_each @ same - count * means

    slopes = products(own, targets, (x_mean * y_mean).sum(-1))
    slopes = slopes / np.maximum(products(own, own, (x_mean * x_mean).sum(-1)), 1e-300)
    return y_mean + slopes[..., None] * (own - x_mean)


def procrustes(sources: np.ndarray, targets: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """The rotation (or reflection) that brings the centred sources closest to the targets (Schönemann 1966)."""
    predicted = np.empty(targets.shape)
    for own, rest in folds(answers):
        x_mean, y_mean = sources[:, None, rest].mean(2, keepdims=True), targets[:, :, rest].mean(2, keepdims=True)
        x, y = sources[:, None, rest] - x_mean, targets[:, :, rest] - y_mean
        predicted[:, :, own] = y_mean + (sources[:, None, own] - x_mean) @ rotation(y.mT @ x).mT
    return predicted


def ols(sources: np.ndarray, targets: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Ordinary least squares with intercept; of all solutions the one with the smallest norm."""
    predicted = np.empty(targets.shape)
    for own, rest in folds(answers):
        x_mean, y_mean = sources[:, rest].mean(1, keepdims=True), targets[:, :, rest].mean(2, keepdims=True)
        weights = (sources[:, own] - x_mean) @ np.linalg.pinv(sources[:, rest] - x_mean, rcond=1e-9)
        predicted[:, :, own] = y_mean + weights[:, None] @ (targets[:, :, rest] - y_mean)
    return predicted


def ridge(sources: np.ndarray, targets: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Ridge regression with free intercept, toward zero or the identity: chosen by leaving out answers among those of the fit."""
    pairings, size = targets.shape[1], 2 * len(PENALTIES) * len(answers)
    spaces = max(1, AT_ONCE // (size * max(len(answers), min(pairings, 8) * targets.shape[-1])))
    some = max(1, AT_ONCE // (size * targets.shape[-1]))
    predicted = np.empty(targets.shape)
    for first in range(0, len(sources), spaces):
        part = slice(first, first + spaces)
        _, makers = residual_makers(sources[part])
        for start in range(0, pairings, some):
            own = slice(start, start + some)
            predicted[part, own] = ridge_by(makers, sources[part], targets[part, own], answers)
    return predicted


FITS = {
    "identity": identity, "mean_shift": mean_shift, "procrustes": procrustes, "ridge": ridge, "ols": ols, "mean": mean,
    "scaled_shift": scaled_shift,
}  # fmt: skip


def folds(answers: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every answer's problems, and all others."""
    for own in blocks_of(answers):
        yield own, np.setdiff1d(np.arange(len(answers)), own)


def rotation(cross: np.ndarray) -> np.ndarray:
    """Orthogonal R that maximises tr(RᵀC), C the sum of target sourceᵀ; where the data say nothing, closest to the identity.

    (..., k, k) -> (..., k, k)
    """
    scale = np.linalg.norm(cross, axis=(-2, -1), keepdims=True)
    left, _, right = np.linalg.svd(cross + 1e-9 * np.maximum(scale, 1e-300) * np.eye(cross.shape[-1]))
    return left @ right


def penalties_of(sources: np.ndarray) -> np.ndarray:
    """The penalties tried, (c, n, q) -> (c, p). Their unit is of all sources: no target enters it."""
    centred = sources - sources.mean(1, keepdims=True)
    unit = np.square(centred).sum((1, 2)) / min(sources.shape[1] - 1, sources.shape[2])
    return PENALTIES * np.maximum(unit, 1e-300)[:, None]


def residual_makers(sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Penalties (c, p) and their residual makers I - H: (c, n, q) -> (c, p, n, n)."""
    contrasts = linalg.helmert(sources.shape[1])  # (n - 1, n) orthonormal rows, none of them about the intercept
    reduced = contrasts @ sources
    values, vectors = np.linalg.eigh(reduced @ reduced.mT)
    vectors, tried = contrasts.T @ vectors, penalties_of(sources)
    left = tried[..., None] / (tried[..., None] + values.clip(0)[:, None])  # (c, p, n - 1)
    return tried, (vectors[:, None] * left[:, :, None]) @ vectors.mT[:, None]


def ridge_residuals(makers: np.ndarray, sources: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In-sample residuals (c, p or 2 p, n, s k) and makers of all maps tried: of every penalty toward zero, then the identity.

    makers (c, p, n, n), sources (c, n, q), targets (c, s, n, k). A map toward the identity is one of target - source toward zero.
    """
    spaces, pairings, count, width = targets.shape
    residuals = makers @ targets.transpose(0, 2, 1, 3).reshape(spaces, 1, count, pairings * width)
    if sources.shape[-1] != width:
        return residuals, makers
    of_sources = np.tile(makers @ sources[:, None], pairings)
    return np.concatenate([residuals, residuals - of_sources], 1), np.concatenate([makers, makers], 1)


def ridge_by(makers: np.ndarray, sources: np.ndarray, targets: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Ridge's predictions. makers (c, p, n, n), sources (c, n, q), targets (c, s, n, k) -> (c, s, n, k)"""
    spaces, pairings, _, width = targets.shape
    residuals, makers = ridge_residuals(makers, sources, targets)
    blocks, predicted = blocks_of(answers), targets.copy()
    for number, own in enumerate(blocks):
        across = makers[..., own]  # (c, p, n, a)
        inverse = np.linalg.inv(across[:, :, own])
        errors = inverse @ residuals[:, :, own]  # (c, p, a, s k)
        left = residuals - across @ errors
        losses = left_out_losses(
            makers, left, [block for other, block in enumerate(blocks) if other != number], pairings, (across, inverse)
        )
        best = losses.argmin(1)  # (c, s)
        errors = errors.reshape(*errors.shape[:3], pairings, width)
        chosen = errors[np.arange(spaces)[:, None], best, :, np.arange(pairings)]  # (c, s, a, k)
        predicted[:, :, own] -= chosen
    return predicted


def left_out_losses(makers, residuals, blocks: list[np.ndarray], pairings: int, without: tuple | None = None):
    """Squared error of all blocks, each left out of the fit in turn: (c, p, s).

    residuals (c, p, n, s k). `without`: the columns of a block that is out already (c, p, n, a), and the inverse of its own part;
    the residuals are then those without it.
    """
    losses = 0.0
    for size in sorted({len(block) for block in blocks}):
        places = np.array([block for block in blocks if len(block) == size])  # (f, b)
        own = makers[:, :, places[:, :, None], places[:, None]]  # (c, p, f, b, b)
        if without is not None:
            across = without[0][:, :, places]  # (c, p, f, b, a)
            own = own - across @ without[1][:, :, None] @ across.mT
        errors = residuals[:, :, places]
        errors = errors / own if size == 1 else np.linalg.solve(own, errors)
        losses = losses + np.square(errors.reshape(*errors.shape[:4], pairings, -1)).sum((2, 3, 5))
    return losses


def predict(names, source: np.ndarray, targets: np.ndarray, answers: np.ndarray) -> dict[str, np.ndarray]:
    """Every map's predictions, for one space: (n, q) and (n, k) or (s, n, k) -> {name: as the targets}."""
    many = targets if targets.ndim == 3 else targets[None]
    found = {name: FITS[name](source[None], many[None], answers)[0] for name in names}
    return found if targets.ndim == 3 else {name: predicted[0] for name, predicted in found.items()}


def fitted(name: str, source: np.ndarray, target: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A map fitted on all problems: its matrix (k, q) and intercept (k,). (n, q), (n, k)

    `identity`, `mean_shift`, `procrustes` (these in one space), `ols`, `ridge`, chosen as `ridge` does. ValueError for others.
    """
    x_mean, y_mean = source.mean(0), target.mean(0)
    x, y = source - x_mean, target - y_mean
    if name == "identity":
        return np.eye(len(x_mean)), np.zeros(len(x_mean))
    if name == "mean_shift":
        matrix = np.eye(len(x_mean))
    elif name == "procrustes":
        matrix = rotation(y.T @ x)
    elif name == "ols":
        matrix = (np.linalg.pinv(x, rcond=1e-9) @ y).T
    elif name != "ridge":
        raise ValueError(f"no map is called {name!r}")
    else:
        tried, makers = residual_makers(source[None])
        residuals, makers = ridge_residuals(makers, source[None], target[None, None])
        toward, best = divmod(
            left_out_losses(makers, residuals, blocks_of(answers), 1)[0, :, 0].argmin(), tried.shape[1]
        )
        start = toward * np.eye(y.shape[1], x.shape[1])
        matrix = start + np.linalg.solve(x.T @ x + tried[0, best] * np.eye(len(x_mean)), x.T @ (y - x @ start.T)).T
    return matrix, y_mean - matrix @ x_mean


def shuffled(
    answers: np.ndarray, generator: torch.Generator, draws: int, kinds: np.ndarray | None = None
) -> np.ndarray:
    """Random pairings in which no problem gets a partner with its own answer, as far as that can be. -> (draws, n) places

    kinds (n,): partners are of a problem's own kind, which comes before that they have another answer.
    """
    same = (answers[:, None] == answers).astype(float)
    if kinds is not None:
        same += len(answers) * (kinds[:, None] != kinds)
    costs = torch.rand(draws, len(answers), len(answers), generator=generator, dtype=torch.float64).numpy()
    return np.array([optimize.linear_sum_assignment(cost + len(answers) * same)[1] for cost in costs])


def squared_errors(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Of every problem. (..., n, k) twice -> (..., n)"""
    return np.square(predicted - targets).sum(-1)


def by_answer(values: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Sums over each answer's problems: answers are what is drawn, problems with one are not independent. (..., n) -> (..., a)"""
    distinct = np.unique(answers)
    return values @ (answers[:, None] == distinct).astype(float)


def r_squared(error: np.ndarray, reference: np.ndarray, axis: int = -1) -> np.ndarray:
    """1 - error / error of the training mean, summed over problems or answers. (..., n) -> (...)"""
    return share_saved(reference.sum(axis) - error.sum(axis), reference.sum(axis))


def share_saved(saved: np.ndarray, of: np.ndarray) -> np.ndarray:
    """saved / of, and 0 where there was nothing to save."""
    return np.where(of > 0, saved / np.where(of > 0, of, 1), 0.0)


def gains(
    name: str, sources: np.ndarray, targets: np.ndarray, answers: np.ndarray, scored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What a map saves of the error that the best map without a matrix leaves, in every space: (c,), and by answer (c, a).

    sources, targets (c, n, k); `scored` (n,) bool: problems that count. A share of the space's own error, it can be compared
    between spaces of any scale, and shrinking toward the mean, which alone beats a shift where nothing is shared, gains nothing.
    An answer's part is of the same whole: parts add up to the gain.
    """
    own = [targets[:, None], answers]
    error = squared_errors(FITS[name](sources, *own), own[0])[:, 0][:, scored]
    others = np.stack([squared_errors(FITS[other](sources, *own), own[0])[:, 0][:, scored] for other in REFERENCES])
    best = others.sum(-1).argmin(0)
    reference = others[best, np.arange(len(best))]
    saved = by_answer(reference - error, answers[scored])
    parts = share_saved(saved, reference.sum(-1, keepdims=True))
    return parts.sum(-1), parts


def retrieved(predicted: np.ndarray, targets: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Whether a prediction lies nearer to its problem's target than to that of any other answer. (n, k) twice -> (n,) bool"""
    distances = np.square(predicted[:, None] - targets).sum(-1)
    others = np.where(answers[:, None] == answers, np.inf, distances)
    return distances.diagonal() < others.min(1)


def interval(statistic, seed: int, *samples: np.ndarray) -> tuple[float, float]:
    """95 % BCa interval (Efron 1987) of statistic(*samples, axis) over answers, all samples (answers,) drawn alike."""
    return statistics.paired_interval(samples, statistic, statistics.seeded(seed, "maps: bootstrap"), 9_999)


def gain_p(saved: np.ndarray, seed: int) -> float:
    """One-sided p that the mean over answers is no more than zero. (answers,)"""
    return statistics.sign_flip_p(saved, statistics.seeded(seed, "maps: signs"))


def against_twins(own: np.ndarray, found: dict[str, list[np.ndarray]], seed: int) -> dict[str, dict]:
    """A row for every kind of twin: the gain of each, and p that the model's own is one more of them.

    own (answers,), found {kind: of every twin the same}. Two sources of chance have to be beaten: another twin's gain, by Student's
    t with the spread pooled over the kinds (`p_twins`), and other answers, by sign flips of the difference to the twins' mean
    (`p_answers`); `p` is the larger one.
    """
    freedom = sum(len(rows) - 1 for rows in found.values())
    apart = sum(np.square(np.sum(rows, 1) - np.sum(rows, 1).mean()).sum() for rows in found.values())
    spread, result = max((apart / freedom) ** 0.5, 1e-12), {}
    for kind, rows in found.items():
        totals, mean = np.sum(rows, 1), np.mean(rows, 0)
        away = (own.sum() - totals.mean()) / (spread * (1 + 1 / len(rows)) ** 0.5)
        ps = {"p_twins": float(stats.t.sf(away, freedom)), "p_answers": gain_p(own - mean, seed)}
        result[kind] = {"gains": totals.tolist(), "mean": float(totals.mean()), **ps, "p": max(ps.values())}
    return result
