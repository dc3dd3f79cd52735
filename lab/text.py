"""Is a subspace nearer to what is asked than its words are? Stories with a foil: the same text and numbers, another answer.

Every base problem has an `operation`: one word or clause differs, and so does the answer. A comparison is won where a text lies
nearer to its own translation than to the foil's: `rate`. Numerals cannot win it, and a bag of words hardly.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np
import torch
from scipy import stats

from lab import numerals, pairs, pooling, questions, statistics, twins

FEWEST = 8  # base problems: of fewer, an interval says nothing
DRAWS = 200  # Haar subspaces
TIE = 1e-9  # relative: two distances to vectors that are the same differ by round-off
OTHERS = (
    "same_answer",
    "paraphrase",
)  # variants that are shown: another text with the answer, other words for the same


def centred(points: torch.Tensor, own: torch.Tensor | None = None) -> torch.Tensor:
    """Points less their language's mean over all texts but the base's own two. (..., l, bases, 2, k) -> the same

    `own`: points (..., l, bases, k) of another variant to be moved alike instead.
    """
    count = points.shape[-3]
    sums = points.sum(-2)
    means = (sums.sum(-2, keepdim=True) - sums) / (2 * (count - 1))  # (..., l, bases, k)
    return points - means[..., None, :] if own is None else own - means


def wins(text: torch.Tensor, own: torch.Tensor, foil: torch.Tensor) -> torch.Tensor:
    """Whether texts lie nearer to their own than to their foil, (..., k) three times -> (...); a tie is half a win."""
    near, far = ((text - other).norm(dim=-1) for other in (own, foil))
    tied = (near - far).abs() <= TIE * torch.maximum(near, far)
    return torch.where(tied, 0.5, (near < far).double())


def rates(points: torch.Tensor) -> torch.Tensor:
    """Share of comparisons that each base wins: every language to every other, base and operation alike.

    points (..., l, bases, 2, k) -> (..., bases)
    """
    points, found = centred(points), []
    for one, other in permutations(range(points.shape[-4]), 2):
        for which in (0, 1):
            found.append(
                wins(
                    *(
                        points[..., language, :, at, :]
                        for language, at in ((one, which), (other, which), (other, 1 - which))
                    )
                )
            )
    return torch.stack(found).mean(0)


def rates_of(points: torch.Tensor, variant: torch.Tensor) -> torch.Tensor:
    """The same for base texts only, against another variant of theirs in place of the translation: (l, bases, k) of it."""
    moved, own, found = centred(points), centred(points, variant), []
    for one, other in permutations(range(len(points)), 2):
        found.append(wins(moved[one, :, 0], own[other], moved[other, :, 1]))
    return torch.stack(found).mean(0)


@dataclass(frozen=True)
class Refit:
    """How a subspace was fitted on activations: in a twin, which has others, it is fitted anew."""

    asked: questions.Asked  # the problems that it was fitted on
    site: int
    pooled: str
    fit: Callable[[torch.Tensor], torch.Tensor]  # (l, n, d) float64 -> (k, d)


@dataclass
class Foils:
    """Base problems and their variants, with every prompt's pooled activations, in the running model and in its twins."""

    asked: questions.Asked | None
    bases: list[str] = field(default_factory=list)
    places: dict[str, list[int]] = field(default_factory=dict)  # variant -> place of each base's
    real: np.ndarray | None = None  # (l, prompts, sites, poolings, d): every problem asked, sites as far as needed
    twins: dict[str, list[np.ndarray]] = field(default_factory=dict)  # kind -> (l, bases, 2, sites, poolings, d) each
    sites: list[int] = field(default_factory=list)  # of the twins
    refitted: dict[str, list[torch.Tensor]] = field(default_factory=dict)  # kind -> (k, d) in each: see Refit
    unmeasured: str | None = "there are no such problems in these languages"

    @property
    def pair(self) -> list[int]:
        """Places of every base and its operation, in turns."""
        return [place for both in zip(self.places["base"], self.places["operation"]) for place in both]

    def points(self, site: int, pooled: str) -> torch.Tensor:
        """(l, bases, 2, d) float64 in the running model."""
        vectors = torch.from_numpy(self.real[:, self.pair, site, pooling.POOLINGS.index(pooled)]).double()
        return vectors.unflatten(1, (-1, 2))

    def twin_points(self, kind: str, site: int, pooled: str) -> list[torch.Tensor]:
        """The same in every twin of a kind."""
        at = self.sites.index(site), pooling.POOLINGS.index(pooled)
        return [torch.from_numpy(one[:, :, :, at[0], at[1]]).double() for one in self.twins[kind]]

    def numerals(self) -> torch.Tensor:
        """How often each number stands in each text, however it is written. (l, bases, 2, numbers)"""
        problems = [self.asked.problems[place] for place in self.pair]
        bags = [
            [Counter(numerals.find_numbers(problem.question[name], name)) for problem in problems]
            for name in self.asked.languages
        ]
        known = sorted({number for row in bags for bag in row for number in bag})
        counts = [[[float(bag[number]) for number in known] for bag in row] for row in bags]
        return torch.tensor(counts, dtype=torch.float64).unflatten(1, (-1, 2))


def find_foils(asked: questions.Asked | None, limit: int | None = None) -> Foils:
    """The base problems of a file that have an operation, and whether they are enough."""
    if asked is None:
        return Foils(None)
    told = {variant: place for place, variant in questions.variants(asked).items()}
    bases = [base for base, variant in told if variant == "base" and (base, "operation") in told][:limit]
    kinds = ["base", "operation", *(kind for kind in OTHERS if bases and all((base, kind) in told for base in bases))]
    places = {kind: [told[base, kind] for base in bases] for kind in kinds}
    few = f"{len(bases)} base problems with a foil, of which {FEWEST} are needed" if len(bases) < FEWEST else None
    return Foils(asked, bases, places, unmeasured=few)


def ask(foils: Foils, model, tokenizer, sites: set[int], batch: int, seed: int, refit: Refit | None = None) -> None:
    """Run every prompt in the trained model, and base and operation in its twins: afterwards the model is one of them.

    All of them up to the last of the sites that are needed, and pooled alike. With `refit` a subspace is fitted in every twin.
    """
    if foils.unmeasured is not None:
        return
    foils.sites, upto = sorted(sites), range(max(sites) + 1)
    foils.real = pooling.capture(model, tokenizer, foils.asked, upto, batch, "contrast stories").vectors
    foils.unmeasured = twins.impossible(model)
    if foils.unmeasured is not None:
        return
    pair = replace(foils.asked, problems=[foils.asked.problems[place] for place in foils.pair])
    for kind, number in twins.make_twins(model, seed, max(sites)):
        what = f"{kind} twin {number + 1} of {twins.SEEDS}"
        vectors = pooling.capture(model, tokenizer, pair, upto, batch, what).vectors[:, :, foils.sites]
        foils.twins.setdefault(kind, []).append(vectors.reshape(len(vectors), -1, 2, *vectors.shape[2:]))
        if refit:
            fitted_on = pooling.capture(model, tokenizer, refit.asked, upto, batch, f"fit in {what}").vectors
            points = torch.from_numpy(fitted_on[:, :, refit.site, pooling.POOLINGS.index(refit.pooled)]).double()
            foils.refitted.setdefault(kind, []).append(refit.fit(points).double().cpu())


def measure(foils: Foils, basis: torch.Tensor, site: int, pooled: str, seed: int, refitted: bool = False) -> dict:
    """Win rates inside a subspace (k, d) at a site, of the whole stream, of Haar subspaces, and of every baseline.

    Intervals are 95 % over bases; a baseline's `difference` is the subspace's rate less its own, paired. Twins are asked inside
    the same subspace, or with `refitted` inside the one that was fitted in each: one that was fitted on the running model's
    activations is any subspace to a twin.
    """
    head = {"bases": len(foils.bases), "unmeasured": foils.unmeasured, "site": site, "pooling": pooled}
    head["refitted"] = refitted
    head["asked"] = ", ".join(file.name for file in foils.asked.files) if foils.asked else None
    if foils.real is None:
        return head
    points, languages = foils.points(site, pooled), len(foils.asked.languages)
    inside = rates(points @ basis.T)
    baselines, words = {"numerals": rates(foils.numerals())}, foils.points(0, "mean")
    baselines |= {"embeddings": rates(words), "embeddings_in_z": rates(words @ basis.T)}
    found = {name: against(inside, own, seed) for name, own in baselines.items()}
    return {
        **head,
        "comparisons": 2 * languages * (languages - 1) * len(foils.bases),
        "z": rate(inside, seed),
        "stream": rate(rates(points), seed),
        "haar": haar(points, len(basis), inside.mean().item(), seed),
        "baselines": found | against_twins(inside, twin_rates(foils, None if refitted else basis, site, pooled), seed),
        "seeds": {kind: len(found) for kind, found in foils.twins.items()},
        "answer": shown(foils, basis, site, pooled, "same_answer", seed),
        "paraphrase": shown(foils, basis, site, pooled, "paraphrase", seed),
    }


def rate(of_bases: torch.Tensor, seed: int) -> dict:
    """{rate, low, high} of the bases' rates (bases,)."""
    low, high = interval(seed, of_bases, statistic=lambda own, axis: own.mean(axis))
    return {"rate": of_bases.mean().item(), "low": low, "high": high}


def against(own: torch.Tensor, baseline: torch.Tensor, seed: int) -> dict:
    """A baseline's rate, and the difference to it over the same bases."""
    low, high = interval(seed, own, baseline, statistic=lambda one, other, axis: one.mean(axis) - other.mean(axis))
    difference = {"value": (own.mean() - baseline.mean()).item(), "low": low, "high": high}
    return rate(baseline, seed) | {"difference": difference}


def twin_rates(foils: Foils, basis: torch.Tensor | None, site: int, pooled: str) -> dict[str, torch.Tensor]:
    """Every base's rate in every twin, inside the subspace or, of None, inside the twin's own: {kind: (seeds, bases)}."""
    found = {}
    for kind in foils.twins:
        points = foils.twin_points(kind, site, pooled)
        bases = foils.refitted[kind] if basis is None else [basis] * len(points)
        found[kind] = torch.stack([rates(one @ own.T) for one, own in zip(points, bases)])
    return found


def against_twins(own: torch.Tensor, twins_: dict[str, torch.Tensor], seed: int) -> dict[str, dict]:
    """A row for every kind of twin; `rates`: of each seed. The interval of the difference is over bases and over twins.

    Stories share words, so a word that lies well in two languages by chance wins many bases at once: an untrained model is as
    far from the mean of its twins as these from each other. So to the interval over bases comes the one within which another
    twin would lie, by Student's t with the spread pooled over the kinds, or the kind's own where that is wider; half-widths add
    as squares.
    """
    if not twins_:
        return {}
    each = {kind: rows.mean(1) for kind, rows in twins_.items()}  # (seeds,)
    freedom = sum(len(means) - 1 for means in each.values())
    pooled = (sum((means - means.mean()).square().sum() for means in each.values()) / freedom).sqrt().item()
    found = {}
    for kind, rows in twins_.items():
        row = against(own, rows.mean(0), seed)
        spreads = ((pooled, freedom), (each[kind].std().item(), len(rows) - 1))
        far = max(stats.t.ppf(0.975, of) * spread for spread, of in spreads)
        another = far * (1 + 1 / len(rows)) ** 0.5
        value, low, high = (row["difference"][end] for end in ("value", "low", "high"))
        row["difference"]["low"] = value - float(np.hypot(value - low, another))
        row["difference"]["high"] = value + float(np.hypot(high - value, another))
        found[kind] = row | {"rates": each[kind].tolist()}
    return found


def interval(seed: int, *samples: torch.Tensor, statistic: Callable) -> tuple[float, float]:
    """95 % paired bootstrap over bases."""
    draw = statistics.seeded(seed, "phase2: bases")
    return statistics.paired_interval([sample.numpy() for sample in samples], statistic, draw, 9_999)


def haar(points: torch.Tensor, k: int, observed: float, seed: int) -> dict:
    """The rates of Haar subspaces of k dimensions, and how many reach the one observed."""
    flat, draw = points.flatten(1, 2), statistics.seeded(seed, "phase2: Haar win rates")
    drawn = pairs.random_draws(flat, k, draw)
    found = [
        rates(drawn(count).unflatten(1, points.shape[:3])).mean(-1)
        for count in pairs.in_chunks(DRAWS, 4 * k * flat[..., 0].numel())
    ]
    return statistics.null_record(torch.cat(found).numpy(), observed)


def shown(foils: Foils, basis: torch.Tensor, site: int, pooled: str, kind: str, seed: int) -> dict | None:
    """Is another variant of a base nearer than its operation's translation? None where the file has none."""
    if kind not in foils.places:
        return None
    at = foils.places[kind], site, pooling.POOLINGS.index(pooled)
    variant = torch.from_numpy(foils.real[:, at[0], at[1], at[2]]).double()
    return rate(rates_of(foils.points(site, pooled) @ basis.T, variant @ basis.T), seed)
