"""Where a swap's effect could come from instead of Z: the output word's code, and directions that no real state uses.

Bases and null draws for the gates of phase 3; all of them orthonormal rows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

import utils
from lab import models, runs

LEAST_WORD = 1e-4  # of the largest singular value: below, a direction of the answers' rows is rounding
LEAST_LEFT = 1e-2  # cosine: a direction of Z with less of it outside of a subspace lies within
OTHERS = 4  # positions beside the last one, per prompt
SHARE = 0.99  # of the variance of broad states
STATES_EACH = 5  # a component needs
STEPS = 40  # halvings of an angle's logarithm, from
LEAST_ANGLE = 1e-4
LEAST_VALUE = 1e-6  # of the largest singular value: below, a component is rounding
POWERS = (0.0, 0.5, 1.0, 2.0, 4.0)  # of the variance of a component, as its weight in a draw


def unembedding_rows(model, tokens: Sequence[int]) -> torch.Tensor:
    """What the logits of some tokens read in the raw final stream, behind the norm's gain: (t, d) float64 on the CPU.

    The gain is read off the norm as it runs, so that no family has to say how it keeps it.
    """
    norm, head = models.site_modules(model)[-1], model.get_output_embeddings()
    width = model.config.get_text_config().hidden_size
    signs = torch.ones(width, dtype=model.dtype, device=model.device)
    signs[1::2] = -1  # of mean 0 and mean square 1, which any norm leaves as they are
    with torch.no_grad():
        gain = (norm(signs[None]) - norm(-signs[None]))[0].double().cpu() / 2 * signs.double().cpu()
        centred = (norm(1 + signs[None]) - norm(signs[None])).abs().max() < 0.1 * gain.abs().max()
        if head.weight.is_meta:  # left on disk until it runs
            own = torch.eye(width, dtype=model.dtype, device=model.device)
            rows = (head(own) - head(torch.zeros_like(own[:1])))[:, list(tokens)].T
        else:
            rows = head.weight[list(tokens)]
    return utils.folded(rows.double().cpu(), gain, centred)


def word_subspace(model, tokens: Sequence[Sequence[int]], languages: int) -> torch.Tensor:
    """The code of the output word: what tells the answers' unembedding rows apart within each language. -> (k, d) float64

    tokens: the columns of an answer set, all tokens of every answer, the languages of an answer in turn.
    """
    centred = []
    for language in range(languages):
        rows = unembedding_rows(model, sorted({token for own in tokens[language::languages] for token in own}))
        centred.append(rows - rows.mean(0))
    return spanned(torch.cat(centred))


def spanned(rows: torch.Tensor) -> torch.Tensor:
    """Orthonormal rows (k, d) of what rows (n, d) span, but for rounding."""
    _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
    return vectors[values > LEAST_WORD * values[0]]


def left_outside(basis: torch.Tensor, subspace: torch.Tensor) -> torch.Tensor:
    """What is left of a subspace outside of another: orth(Z(I - UᵀU)). (k, d), (m, d) -> (k', d), k' <= k"""
    _, values, vectors = torch.linalg.svd(utils.outside(basis.double(), subspace.double()), full_matrices=False)
    return vectors[values > LEAST_LEFT]


@dataclass(frozen=True)
class Manifold:
    """Where the model's own states lie at a site: principal components (c, d) of so many states, and their share of variance."""

    components: torch.Tensor
    states: int
    share: float


def broad_manifolds(
    model, tokenizer, prompts: Sequence[Sequence[str]], sites: Sequence[int], batch: int, generator: torch.Generator
) -> dict[int, Manifold]:
    """The manifold of broad states at every site: last positions of all prompts and other positions, half and half.

    prompts (languages, problems). States are less the mean of their language; attention sinks are left out. Components are
    the first that hold SHARE of the variance, as far as there are STATES_EACH states for each.
    """
    found = [broad_states(model, tokenizer, texts, sites, batch, generator) for texts in prompts]
    manifolds = {}
    for number, site in enumerate(sites):
        states = torch.cat([centred_halves(last[number], others[number]) for last, others in found])
        _, values, vectors = torch.linalg.svd(states, full_matrices=False)
        shares = values.square().cumsum(0) / values.square().sum()
        size = max(1, min(int((shares < SHARE).sum()) + 1, len(states) // STATES_EACH))
        manifolds[site] = Manifold(vectors[:size], len(states), float(shares[size - 1]))
    return manifolds


def broad_states(model, tokenizer, prompts: Sequence[str], sites: Sequence[int], batch: int, generator) -> tuple:
    """Streams at the last position of every prompt (sites, n, d), and at others (sites, m, d) that are no sinks.

    OTHERS for every prompt are drawn among all; a beginning that prompts share counts once.
    """
    rows, seen, places = tokenizer(list(prompts))["input_ids"], set(), []
    for index, ids in enumerate(rows):
        beginnings = [tuple(ids[: place + 1]) for place in range(len(ids) - 1)]
        places += [(index, place) for place, beginning in enumerate(beginnings) if beginning not in seen]
        seen.update(beginnings)
    drawn = [places[number] for number in torch.randperm(len(places), generator=generator)[: OTHERS * len(rows)]]
    own, parts = {index: [place for other, place in drawn if other == index] for index in range(len(rows))}, {}
    for index, _, streams in models.residual_streams(model, tokenizer, prompts, sites, batch):
        sinks = models.sinks(streams).any(0)
        parts[index] = streams[:, -1], streams[:, [place for place in own[index] if not sinks[place]]]
    last, others = zip(*runs.gathered(parts).values())
    return torch.stack(last, 1), torch.cat(others, 1)


def centred_halves(last: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Two sets of states (n, d), (m, d) less their common mean, of the same weight together: (n + m, d) float64"""
    parts = [part.double() for part in (last, others) if len(part)]
    mean = torch.stack([part.mean(0) for part in parts]).mean(0)
    return torch.cat([(part - mean) * (1 / len(part)) ** 0.5 for part in parts])


def shares(basis: torch.Tensor, streams: torch.Tensor) -> tuple[float, float]:
    """How much of the streams' variance within languages, and of their language means' energy, lies in a subspace.

    basis (k, d), streams (languages, problems, d)
    """
    found = []
    for vectors in (streams - streams.mean(1, keepdim=True), streams.mean(1) - streams.mean((0, 1))):
        vectors = vectors.flatten(0, -2).double()
        found.append(float(utils.project(vectors, basis.double()).square().sum() / vectors.square().sum()))
    return tuple(found)


def matched_draws(
    generator: torch.Generator, count: int, basis: torch.Tensor, streams: torch.Tensor
) -> torch.Tensor | None:
    """Random subspaces that hold as much of the streams as one does, within languages and of the offset. -> (count, k, d)

    basis (k, d), streams (languages, problems, d). A draw spans rows cosθ u + sinθ v, u Gaussian in the principal components
    within languages, v in what is orthogonal to these and to the offset, as Haar-random rows are at one θ; then a row is
    turned toward the offset (as many as it has dimensions). The turn gives the share of the offset exactly, and θ the share
    within languages. Where no θ reaches it, u is weighted by a power of the components' variance, the least that does, and
    in the end u are the leading components. None where the subspace leaves no room for others.
    """
    within, offset = shares(basis, streams)
    centred, k = (streams - streams.mean(1, keepdim=True)).flatten(0, 1).double(), len(basis)
    offsets = utils.language_space(streams.double())
    _, values, components = torch.linalg.svd(utils.outside(centred, offsets), full_matrices=False)
    kept = min(int((values > LEAST_VALUE * values[0]).sum()), basis.shape[1] - len(offsets) - k)
    if kept < 1:
        return None
    draw = Matched(centred, offsets[:k], values[:kept].square(), components[:kept], k)
    return torch.stack([draw.one(generator, within, offset) for _ in range(count)])


@dataclass(frozen=True)
class Matched:
    """What matched draws are made of."""

    centred: torch.Tensor  # (n, d) streams less their language's mean
    offsets: torch.Tensor  # (m, d) orthonormal
    variances: torch.Tensor  # (r,) of the components, descending
    components: torch.Tensor  # (r, d) of the streams outside of the offset
    k: int

    def one(self, generator: torch.Generator, within: float, offset: float) -> torch.Tensor:
        """One draw (k, d), of these shares."""
        shapes = ((self.k, self.components.shape[1]), (self.k, len(self.components)))
        gaussian, turn = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
        outside = utils.outside(gaussian, torch.cat([self.components, self.offsets]))
        for power in POWERS:
            inside = turn * (self.variances / self.variances[0]) ** (power / 2) @ self.components
            share = self.share_by_angle(inside, outside, offset)
            if share(LEAST_ANGLE) >= within:
                break
        else:
            inside = torch.nn.functional.pad(
                self.components[: self.k], (0, 0, 0, max(0, self.k - len(self.components)))
            )
            share = self.share_by_angle(inside, outside, offset)
        low, high = LEAST_ANGLE, math.pi / 2  # the share falls with the angle
        for _ in range(STEPS):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if share(middle) > within else (low, middle)
        triangle = cholesky(inside @ inside.T, outside @ outside.T, low)
        rows = torch.linalg.solve_triangular(triangle, mixed(inside, outside, low), upper=False)
        return self.turned(rows.T, self.offsets.T, offset).T

    def share_by_angle(self, inside: torch.Tensor, outside: torch.Tensor, offset: float) -> Callable[[float], float]:
        """Of the variance within languages, what orthonormal rows with both parts hold; from products of a small side k."""
        grams = inside @ inside.T, outside @ outside.T
        products, total = (self.centred @ inside.T, self.centred @ outside.T), self.centred.square().sum()
        along = self.centred @ self.offsets.T

        def share(angle: float) -> float:
            found = torch.linalg.solve_triangular(cholesky(*grams, angle), mixed(*products, angle).T, upper=False)
            return float(self.turned(found.T, along, offset).square().sum() / total)

        return share

    def turned(self, columns: torch.Tensor, offsets: torch.Tensor, offset: float) -> torch.Tensor:
        """The first columns turned to the offset, by which these hold its share. (n, k), (n, m)"""
        count = offsets.shape[1]
        first = (1 - offset) ** 0.5 * columns[:, :count] + offset**0.5 * offsets
        return torch.cat([first, columns[:, count:]], 1)


def mixed(inside: torch.Tensor, outside: torch.Tensor, angle: float) -> torch.Tensor:
    """cosθ inside + sinθ outside"""
    return math.cos(angle) * inside + math.sin(angle) * outside


def cholesky(inside: torch.Tensor, outside: torch.Tensor, angle: float) -> torch.Tensor:
    """Of the Gram matrix of `mixed` rows, whose two parts are orthogonal: inside, outside are the parts' own. (k, k)"""
    return torch.linalg.cholesky(math.cos(angle) ** 2 * inside + math.sin(angle) ** 2 * outside)
