"""Geometry of parallel problems: are the versions of a problem nearer to each other, inside a subspace, than different problems?

Points are (languages, problems, d), float64. Pairs of points and their distances, what random subspaces make of these, and the
offset between the languages taken out: means removed out of fold, or LEACE. All arithmetic is where the points are; a random
subspace costs no more than linearly in the problems once there are more points than dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

import utils
from lab import statistics

SHIFTS = 20  # different problems that each is paired with, beyond 2 * SHIFTS of them; up to there all pairs are taken
CHUNK, NUMBERS = 200, 2**24  # random subspaces drawn at once, and numbers held for them: bounds the memory
FOLDS = 5
NULLS = ("haar", "matched", "missing")  # random subspaces: see `random_contrasts`
Draws = Callable[
    [int], torch.Tensor
]  # that many random subspaces -> the points' coordinates in them, (count, points, k)


@dataclass
class Pairs:
    """Pairs of points: first the versions of each problem, then different problems of one language.

    Their inner products come from tiles: each lists points of one language, and its first `step` meet all of it in one small
    matrix product, of which `entries` are pairs. So a subspace costs no more than linearly in the problems.
    """

    first: torch.Tensor  # index into (languages * problems)
    second: torch.Tensor
    same_problem: int  # how many of the pairs are versions of one problem
    tiles: torch.Tensor  # (tiles, points of one)
    step: int
    entries: torch.Tensor  # index into (tiles * step * points of one)
    problems: int
    folds: torch.Tensor | None  # (problems,): different problems are paired within these only

    def squares(self, points: torch.Tensor, subspaces: torch.Tensor | None = None) -> torch.Tensor:
        """Squared distance of every pair, inside each subspace where given. (l, n, d), (m, k, d) -> (m, pairs)"""
        flat = points.flatten(0, 1)
        return self.squares_of(flat[None])[0] if subspaces is None else self.squares_of(flat @ subspaces.mT)

    def squares_of(self, coordinates: torch.Tensor) -> torch.Tensor:
        """The same from coordinates (m, points, k) -> (m, pairs)"""
        first, second = (coordinates[:, end[: self.same_problem]] for end in (self.first, self.second))
        tiles = coordinates[:, self.tiles]  # (m, tiles, points of one, k)
        met = (tiles[:, :, : self.step] @ tiles.mT).flatten(1)
        products = torch.cat([(first * second).sum(-1), met[:, self.entries]], 1)
        norms = coordinates.square().sum(-1)
        return (norms[:, self.first] + norms[:, self.second] - 2 * products).clamp_min(0)

    def ratio(self, squares: torch.Tensor) -> torch.Tensor:
        """Mean distance of a problem's versions over mean distance of different problems. (..., pairs) -> (...)"""
        distances = squares.sqrt()
        versions, different = distances[..., : self.same_problem], distances[..., self.same_problem :]
        return versions.mean(-1) / different.mean(-1).clamp_min(1e-300)

    def contrast(self, inside: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """ratio_Z / ratio_Z⊥: below 1 the subspace keeps the problem and drops the language. (..., pairs) -> (...)"""
        return self.ratio(inside) / self.ratio((total - inside).clamp_min(0)).clamp_min(1e-300)

    def energy_fractions(self, inside: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """Share of squared distance inside the subspace: between versions of a problem, between problems. (..., pairs) -> (..., 2)"""
        cut = self.same_problem
        parts = (slice(None, cut), slice(cut, None))
        return torch.stack(
            [inside[..., part].sum(-1) / total[..., part].sum(-1).clamp_min(1e-300) for part in parts], -1
        )

    def by_problem(self, squares: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Summed distances: of every problem's versions (n,), and of every two different problems (n, n), half on each side."""
        distances, count = squares.sqrt(), self.problems
        first, second = (end % count for end in (self.first, self.second))
        cut, sums = self.same_problem, distances.new_zeros(count)
        sums.index_add_(0, first[:cut], distances[:cut])
        between = distances.new_zeros(count * count)
        for row, column in ((first, second), (second, first)):
            between.index_add_(0, (row * count + column)[cut:], distances[cut:] / 2)
        return sums.cpu().numpy(), between.view(count, count).cpu().numpy()

    def interval(self, inside: torch.Tensor, total: torch.Tensor, seed: int) -> tuple[float, float]:
        """95 % interval of the contrast, resampling problems.

        A pair of problems stands in a resample as often as the product of how often both do; numbers of pairs cancel.
        """
        (versions, different), (versions_out, different_out) = (
            self.by_problem(part) for part in (inside, (total - inside).clamp_min(0))
        )

        def contrast(places: np.ndarray, axis: int) -> np.ndarray:
            chosen = np.moveaxis(places, axis, -1).astype(int)
            rows = chosen.reshape(-1, chosen.shape[-1]) + self.problems * np.arange(chosen[..., 0].size)[:, None]
            drawn = np.bincount(rows.ravel(), minlength=len(rows) * self.problems).reshape(len(rows), -1)
            apart, apart_out = (((drawn @ one) * drawn).sum(-1) for one in (different, different_out))
            ratio = (drawn @ versions) * apart_out / np.maximum(apart * (drawn @ versions_out), 1e-300)
            return ratio.reshape(chosen.shape[:-1])

        draw = statistics.seeded(seed, "phase2: problems")
        return statistics.paired_interval((np.arange(self.problems),), contrast, draw, 9_999)


def make_pairs(
    languages: int, problems: int, folds: torch.Tensor | None = None, seed: int = 0, device: torch.device | str = "cpu"
) -> Pairs:
    """All pairs of up to 2 * SHIFTS problems; of more, each with the next SHIFTS in a random cyclic order.

    With `folds` (n,) only those different problems that were held out together, and their orders are the folds'.
    """
    index = torch.arange(languages * problems).view(languages, problems)
    cross = [(index[a], index[b]) for a, b in combinations(range(languages), 2)]
    first, second = ([torch.cat([pair[side] for pair in cross])] for side in (0, 1))
    order = torch.randperm(problems, generator=statistics.seeded(seed, "phase2: cyclic order"))
    groups = [order] if folds is None else [order[folds[order] == fold] for fold in folds.unique()]
    most = max(map(len, groups))
    step, reach = min(SHIFTS, most), min(SHIFTS, most // 2)
    tiles, entries = [], []
    for language in range(languages):
        for group in groups:
            size = len(group)
            for start in range(0, size, step):
                tiles.append(index[language, group[(start + torch.arange(step + reach)) % size]])
                for shift in range(1, min(SHIFTS, size // 2) + 1):
                    once = size // 2 if 2 * shift == size else size  # opposite problems meet from either side
                    places = torch.arange(start, max(start, min(start + step, once)))
                    first.append(index[language, group[places]])
                    second.append(index[language, group[(places + shift) % size]])
                    row = places - start
                    entries.append((len(tiles) - 1) * step * (step + reach) + row * (step + reach) + row + shift)
    tiles = torch.stack(tiles)
    first, second, entries = (torch.cat(parts).to(device) for parts in (first, second, entries))
    return Pairs(first, second, len(cross) * problems, tiles.to(device), step, entries, problems, folds)


def folds_by_answer(answers: list, seed: int, most: int = FOLDS) -> torch.Tensor:
    """A fold for every problem, of about equal sizes: problems with one answer share it. (n,)

    At least two, and no more than half of the answers; where all have one answer they are parted all the same.
    """
    names = [str(answer) for answer in answers]
    if len(set(names)) == 1:
        names = list(map(str, range(len(names))))
    order = torch.randperm(len(names), generator=statistics.seeded(seed, "phase2: folds")).tolist()
    groups = {}
    for place in order:
        groups.setdefault(names[place], []).append(place)
    sizes = [0] * max(2, min(most, len(groups) // 2))
    folds = torch.zeros(len(names), dtype=torch.long)
    for group in sorted(groups.values(), key=len, reverse=True):
        smallest = sizes.index(min(sizes))
        folds[group] = smallest
        sizes[smallest] += len(group)
    return folds


def without_means(points: torch.Tensor, folds: torch.Tensor) -> torch.Tensor:
    """Points less their language's mean, which is taken over the other folds. (l, n, d), (n,) -> (l, n, d)

    A mean that holds the point itself makes the versions of a problem correlate by -1/n where nothing is shared.
    """
    centred = torch.empty_like(points)
    for fold in folds.unique():
        held = folds == fold
        centred[:, held] = points[:, held] - points[:, ~held].mean(1, keepdim=True)
    return centred


def without_language(points: torch.Tensor, folds: torch.Tensor) -> torch.Tensor:
    """Points after LEACE, which is fitted on the other folds. (l, n, d), (n,) -> (l, n, d)"""
    erased = torch.empty_like(points)
    for fold in folds.unique():
        held = folds == fold
        erased[:, held] = leace(points[:, ~held])(points[:, held])
    return erased


def leace(points: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """A map of (..., d): the least change after which no linear reader tells the languages of points (l, n, d) apart.

    Belrose et al. 2023 (arXiv 2306.03819): x - W⁻¹ P W (x - μ) with W = Σ^(-1/2), P the projector onto the range of W Σ_xz; Σ
    is shrunken by utils.SHRINKAGE. Σ_xz lies in the span of the centred points, so all is done there.
    """
    mean = points.mean((0, 1))
    centred = points - mean
    _, values, span = torch.linalg.svd(centred.flatten(0, 1), full_matrices=False)  # (r, d)
    variances = values.square() / centred[..., 0].numel()
    even = utils.SHRINKAGE * variances.sum() / points.shape[-1]
    root = ((1 - utils.SHRINKAGE) * variances + even).clamp_min(1e-300).sqrt()
    offsets = (centred.mean(1) @ span.T) / root  # (l, r), rank l - 1: W Σ_xz up to the languages' shares
    _, lengths, directions = torch.linalg.svd(offsets, full_matrices=False)
    directions = directions[: len(points) - 1][lengths[: len(points) - 1] > lengths[0] * 1e-9]

    def erase(x: torch.Tensor) -> torch.Tensor:
        whitened = ((x - mean) @ span.T) / root
        return x - (whitened @ directions.T @ directions * root) @ span

    return erase


def random_draws(
    points: torch.Tensor, k: int, draw: torch.Generator, kind: str = "haar", of: torch.Tensor | None = None
) -> Draws:
    """Random subspaces of k dimensions, drawn exactly but only through what they do to the points (l, n, d).

    haar: of all subspaces. matched: orthonormalised draws from N(0, Σ), Σ the covariance within languages of `of`, shrunken by
    utils.SHRINKAGE. missing: Haar among those orthogonal to the language space of `of`. `of` (l, n', d) spans the points; where
    it is None they are it. The draws' part outside the r-dimensional span of these enters their Gram matrix alone, as a Wishart
    matrix of d - r degrees of freedom (Bartlett): k(r + k) random numbers instead of kd. The first j coordinates are those in j
    of the draws.
    """
    of = points if of is None else of
    flat, width = of.flatten(0, 1), points.shape[-1]
    if kind == "missing":
        flat, width = utils.outside(flat, utils.language_space(of)), width - (len(of) - 1)
    _, values, right = torch.linalg.svd(flat, full_matrices=False)
    rank = min(width, int((values > values[0] * 1e-12).sum()))
    span, rest = right[:rank], width - rank
    reduced = points.flatten(0, 1) @ span.T
    if rest < k:
        reduced, rank, rest = torch.nn.functional.pad(reduced, (0, rest)), width, 0
    root, even = None, 1.0
    if kind == "matched":
        inside = (of - of.mean(1, keepdim=True)).flatten(0, 1) @ span.T
        inside = torch.nn.functional.pad(inside, (0, rank - inside.shape[1]))
        covariance = inside.T @ inside / len(inside)
        even = (utils.SHRINKAGE * covariance.trace() / width).clamp_min(1e-300).item()
        covariance = (1 - utils.SHRINKAGE) * covariance + even * torch.eye(rank).to(covariance)
        root = torch.linalg.cholesky(covariance).T
    numbers = statistics.numpy_generator(draw)

    def coordinates(count: int) -> torch.Tensor:
        rows = torch.randn(count, k, rank, generator=draw, dtype=torch.float64).to(reduced)
        rows = rows if root is None else rows @ root
        grams = rows @ rows.mT
        if rest:
            factor = torch.randn(count, k, k, generator=draw, dtype=torch.float64).tril(-1)
            chi_squares = torch.from_numpy(numbers.chisquare(rest - np.arange(k), (count, k)))
            factor = (factor + torch.diag_embed(chi_squares.sqrt())).to(reduced)
            grams = grams + even * factor @ factor.mT
        ridge = 1e-12 * grams.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] * torch.eye(k).to(grams)
        factor = torch.linalg.cholesky(grams + ridge)
        rows = torch.linalg.solve_triangular(factor, rows, upper=False)
        return reduced @ rows.mT

    return coordinates


def in_chunks(draws: int, size: int) -> list[int]:
    """How many random subspaces are drawn at a time, `size` numbers each."""
    chunk = max(1, min(CHUNK, NUMBERS // size))
    return [min(chunk, draws - start) for start in range(0, draws, chunk)]


def random_contrasts(
    points: torch.Tensor,
    pairs: Pairs,
    kind: str,
    ks: list[int],
    seed: int,
    draws: int = 999,
    of: torch.Tensor | None = None,
) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """Random subspaces of each size, nested, of a kind of `random_draws`, on the CPU: {k: contrasts (draws,)}, and {k: energy
    fractions (draws, 2)}."""
    sizes, total = sorted(set(ks)), pairs.squares(points)
    contrasts, energies = ({k: [] for k in sizes} for _ in range(2))
    coordinates = random_draws(points, sizes[-1], statistics.seeded(seed, f"phase2: {kind} subspaces"), kind, of)
    for count in in_chunks(draws, sizes[-1] * (points[..., 0].numel() + pairs.tiles.numel())):
        drawn, inside, start = coordinates(count), 0, 0
        for k in sizes:  # the first k orthonormalised rows span the first k draws
            inside, start = inside + pairs.squares_of(drawn[:, :, start:k]), k
            contrasts[k].append(pairs.contrast(inside, total).cpu())
            energies[k].append(pairs.energy_fractions(inside, total).cpu())
    return tuple({k: torch.cat(parts) for k, parts in found.items()} for found in (contrasts, energies))


def cross_distances(points: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Distance inside the subspace from problem i in one language to problem j in another.

    (l, n, d), (k, d) -> (n, n), the mean over pairs of languages.
    """
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


def pairing_null(cross: torch.Tensor, seed: int, folds: torch.Tensor | None = None, draws: int = 999) -> dict:
    """The mean distance of a problem's versions, cross (n, n), against the same with the second language's problems shuffled.

    With folds only problems that were held out together are exchanged: a subspace fitted on a problem spreads it out, so
    distances to fitted problems are no null for held-out ones.
    """
    order = shuffles(len(cross), seed, folds, draws)
    shuffled = cross.cpu()[torch.arange(len(cross)), order].mean(1)
    observed = cross.diagonal().mean().item() * (1 + 1e-12)  # the true pairing, drawn, is summed in another order
    return statistics.null_record(shuffled.numpy(), observed, low_counts=True)
