"""Geometry of parallel problems: are the versions of a problem nearer to each other, inside a subspace, than different problems?

Points are (languages, problems, d), float64. Distances and their ratios, what can be read from points (which problem, which
language), and the nulls of both: random subspaces of the same size, Haar or covariance-matched, and shuffled problems.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from lab import statistics

CHUNK = 200  # random subspaces drawn at once: bounds the memory
Rows = Callable[[int], tuple[torch.Tensor, torch.Tensor]]  # draws that many random subspaces: see haar_rows


@dataclass
class Pairs:
    """Pairs of points: first the two versions of each problem, then different problems of one language."""

    first: torch.Tensor  # index into (languages * problems)
    second: torch.Tensor
    same_problem: int  # how many of the pairs are versions of one problem

    def squares(self, points: torch.Tensor, subspaces: torch.Tensor | None = None) -> torch.Tensor:
        """Squared distance of every pair, inside each subspace where given. (l, n, d), (m, k, d) -> (m, pairs)"""
        flat = points.flatten(0, 1)
        if subspaces is None:
            return (flat[self.first] - flat[self.second]).square().sum(-1)
        return self.squares_of(subspaces @ flat.T)

    def squares_of(self, coordinates: torch.Tensor) -> torch.Tensor:
        """The same from coordinates (m, k, points), by way of their Gram matrices."""
        gram = coordinates.mT @ coordinates
        norms = gram.diagonal(dim1=-2, dim2=-1)
        return (norms[:, self.first] + norms[:, self.second] - 2 * gram[:, self.first, self.second]).clamp_min(0)

    def ratio(self, squares: torch.Tensor) -> torch.Tensor:
        """Mean distance of a problem's versions over mean distance of different problems. (..., pairs) -> (...)"""
        distances = squares.sqrt()
        versions, different = distances[..., : self.same_problem], distances[..., self.same_problem :]
        return versions.mean(-1) / different.mean(-1).clamp_min(1e-300)

    def contrast(self, inside: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """ratio_Z / ratio_Z⊥: below 1 the subspace keeps the problem and drops the language. (..., pairs) -> (...)"""
        return self.ratio(inside) / self.ratio((total - inside).clamp_min(0)).clamp_min(1e-300)

    def energy_fraction(self, inside: torch.Tensor, total: torch.Tensor) -> tuple[float, float]:
        """Share of squared distance inside the subspace: between versions of a problem, between problems."""
        cut = self.same_problem
        parts = (slice(None, cut), slice(cut, None))
        return tuple((inside[part].sum() / total[part].sum().clamp_min(1e-300)).item() for part in parts)


def all_pairs(languages: int, problems: int, folds: torch.Tensor | None = None) -> Pairs:
    """Every pair; with folds only those different problems that were held out together."""
    index = torch.arange(languages * problems).view(languages, problems)
    cross = [(index[a], index[b]) for a, b in combinations(range(languages), 2)]
    i, j = torch.triu_indices(problems, problems, 1)
    if folds is not None:
        together = folds[i] == folds[j]
        i, j = i[together], j[together]
    same = [(index[language, i], index[language, j]) for language in range(languages)]
    first, second = (torch.cat([pair[side] for pair in cross + same]) for side in (0, 1))
    return Pairs(first, second, len(cross) * problems)


def null_contrasts(
    points: torch.Tensor, pairs: Pairs, cloud: torch.Tensor | None, ks: list[int], seed: int, draws: int = 2000
) -> dict[int, torch.Tensor]:
    """Contrasts of random subspaces of each size, nested: Haar, or covariance-matched where a token cloud is given.

    points (l, n, d), cloud (..., d), -> {k: (draws,)}. Matched draws are orthonormalised draws from N(0, Σ) with Σ the
    covariance of the cloud's tokens. Both kinds are drawn exactly, but only through what they do to the points: see
    `haar_rows` and `matched_rows`.
    """
    kind = "Haar" if cloud is None else "matched"
    draw, most, flat = statistics.seeded(seed, f"phase2: {kind} subspaces"), max(ks), points.flatten(0, 1)
    total, contrasts = pairs.squares(points), {k: [] for k in ks}  # one list per size, however often asked
    if cloud is None:
        rows = haar_rows(flat, most, draw)
    else:
        rows = matched_rows(flat, cloud.reshape(-1, flat.shape[1]), most, draw)
    for start in range(0, draws, CHUNK):
        images, grams = rows(min(CHUNK, draws - start))
        ridge = 1e-12 * grams.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] * torch.eye(most, dtype=grams.dtype)
        coordinates = torch.linalg.solve_triangular(torch.linalg.cholesky(grams + ridge), images, upper=False)
        for k in contrasts:  # the first k orthonormalised rows span the first k draws
            contrasts[k].append(pairs.contrast(pairs.squares_of(coordinates[:, :k]), total))
    return {k: torch.cat(parts) for k, parts in contrasts.items()}


def haar_rows(flat: torch.Tensor, k: int, draw: torch.Generator) -> Rows:
    """(images of the points, Gram matrix) of k Gaussian rows in R^d, `count` times: (count, k, points), (count, k, k).

    The rows' part outside the r-dimensional span of the points enters their Gram matrix alone, as a Wishart matrix of
    d - r degrees of freedom, and is drawn as such (Bartlett): k(r + k) random numbers instead of kd.
    """
    width = flat.shape[1]
    left, values, _ = torch.linalg.svd(flat, full_matrices=False)
    rank = int((values > values[0] * 1e-12).sum())
    reduced, rest = left[:, :rank] * values[:rank], width - rank
    if rest < k:
        reduced, rank, rest = flat, width, 0
    numbers = statistics.numpy_generator(draw)

    def rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        gaussian = torch.randn(count, k, rank, generator=draw, dtype=torch.float64)
        grams = gaussian @ gaussian.mT
        if rest:
            factor = torch.randn(count, k, k, generator=draw, dtype=torch.float64).tril(-1)
            chi_squares = torch.from_numpy(numbers.chisquare(rest - np.arange(k), (count, k)))
            factor = factor + torch.diag_embed(chi_squares.sqrt())
            grams = grams + factor @ factor.mT
        return gaussian @ reduced.T, grams

    return rows


def matched_rows(flat: torch.Tensor, tokens: torch.Tensor, k: int, draw: torch.Generator) -> Rows:
    """The same for k draws from N(0, Σ), Σ the covariance of the tokens (t, d): Gaussian in Σ's eigenbasis."""
    tokens = tokens.double() - tokens.double().mean(0)
    _, values, right = torch.linalg.svd(tokens, full_matrices=False)
    images = (right @ flat.T) * values[:, None]

    def rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        gaussian = torch.randn(count, k, len(values), generator=draw, dtype=torch.float64)
        return gaussian @ images, (gaussian * values.square()) @ gaussian.mT

    return rows


def cross_distances(points: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Distance inside the subspace from problem i in one language to problem j in another, (n, n)."""
    coordinates = points @ basis.T
    two = combinations(range(len(points)), 2)
    return torch.stack([torch.cdist(coordinates[a], coordinates[b]) for a, b in two]).mean(0)


def shuffles(problems: int, seed: int, folds: torch.Tensor | None, draws: int) -> torch.Tensor:
    """Random permutations of the problems, (draws, n); with folds, within each fold only."""
    folds = torch.zeros(problems, dtype=torch.long) if folds is None else folds
    draw = statistics.seeded(seed, "phase2: shuffled pairing")
    shuffled = (folds + torch.rand(draws, problems, generator=draw, dtype=torch.float64)).argsort(1)
    order = torch.empty_like(shuffled)
    order[:, folds.argsort(stable=True)] = shuffled
    return order


def pairing_null(cross: torch.Tensor, seed: int, folds: torch.Tensor | None = None, draws: int = 2000) -> dict:
    """The mean distance of a problem's versions, cross (n, n), against the same with the second language's problems shuffled.

    With folds only problems that were held out together are exchanged: a subspace fitted on a problem spreads it out, so
    distances to fitted problems are no null for held-out ones.
    """
    order = shuffles(len(cross), seed, folds, draws)
    shuffled = cross[torch.arange(len(cross)), order].mean(1)
    observed = cross.diagonal().mean().item() * (1 + 1e-12)  # the true pairing, drawn, is summed in another order
    return statistics.null_record(shuffled.numpy(), observed, low_counts=True)


def shuffled_retrieval(points: torch.Tensor, seed: int, remove_means: bool = True, draws: int = 40) -> float:
    """Mean of `retrieved` when the other languages' problems are shuffled: its chance level, which is not 1/n once
    leave-one-out means push the true match away. (l, n, d)"""
    orders = shuffles(points.shape[1], seed, None, draws)
    first = points[None, :1].expand(len(orders), -1, -1, -1)
    return retrieved(torch.cat([first, points[1:, orders].transpose(0, 1)], 1), remove_means).mean().item()


def retrieved(points: torch.Tensor, remove_means: bool = True) -> torch.Tensor:
    """Whether a problem's nearest neighbour in another language is itself, mean over language pairs. (.., l, n, d) -> (.., n)

    With `remove_means` each language's mean, taken without the problem at hand, is subtracted first.
    """
    languages, problems = points.shape[-3:-1]
    if remove_means:
        points = points - points.mean(-2, keepdim=True)
    hits = []
    for a in range(languages):
        for b in range(languages):
            if a == b:
                continue
            query = points[..., a, :, :]
            if remove_means:  # x_i - mean without i, and the candidates' mean without i brought to this side
                query = query + (query - points[..., b, :, :]) / (problems - 1)
            nearest = torch.cdist(query, points[..., b, :, :]).argmin(-1)
            hits.append((nearest == torch.arange(problems)).double())
    return torch.stack(hits).mean(0)


def language_decoded(points: torch.Tensor) -> torch.Tensor:
    """Whether a point is nearest to its own language's centroid, taken without its problem. (.., l, n, d) -> (.., n)"""
    languages, problems = points.shape[-3:-1]
    means = points.mean(-2, keepdim=True)
    centred = points - means
    right = []
    for own in range(languages):
        distances = []
        for other in range(languages):
            centroid = means[..., other, :, :] - centred[..., other, :, :] / (problems - 1)
            distances.append((points[..., own, :, :] - centroid).norm(dim=-1))
        right.append((torch.stack(distances).argmin(0) == own).double())
    return torch.stack(right).mean(0)
