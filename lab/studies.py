"""What phase 2 measures on: pooled activations of parallel problems, the weights' subspaces, and what is fitted on the former."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

import utils
from lab import pairs, pooling, questions, separation, statistics, subspaces

ARD_LAYERS, ARD_STEPS = 10, 150
RELEVANT_SHARE = 0.9  # |Z| of ARD-MMD: fewest dimensions that hold this share of the relevance


@dataclass
class Study:
    """The data that every measurement is taken on."""

    vectors: np.ndarray  # (languages, problems, sites, poolings, d)
    updates: np.ndarray  # (languages, problems, layers, attention and FFN, d)
    clouds: dict  # site -> (languages, problems, tokens, d)
    layer: int
    weights: dict  # see subspaces.weight_subspaces
    problems: list[questions.Problem]
    seed: int
    device: torch.device
    batch: int = 16
    fitting_share: float = 1.0
    places: dict = field(default_factory=dict)  # (site, pooling, held out, draws) -> separation.Place

    @property
    def answers(self) -> list[str]:
        """The problems' answers as text."""
        return [str(problem.answer) for problem in self.problems]

    @property
    def primary(self) -> torch.Tensor:
        """The weight-based Z of the bottleneck at the primary k, (k, d)."""
        return self.weights["every_layer"][self.layer]

    def points(self, site: int, pooled: str) -> torch.Tensor:
        """(languages, problems, d) float64 on the model's device, centred on their common mean."""
        points = torch.from_numpy(self.vectors[:, :, site, pooling.POOLINGS.index(pooled)]).to(self.device).double()
        return points - points.mean((0, 1))

    def folds(self) -> torch.Tensor:
        """A fold for every problem, the same at each call: see `pairs.folds_by_answer`. (n,)"""
        return pairs.folds_by_answer(self.answers, self.seed)

    def place(self, site: int, pooled: str, draws: int, held_out: bool = False) -> separation.Place:
        """Where subspaces are scored, with the random ones that were; `held_out`: different problems of one fold only."""
        key = (site, pooled, held_out, draws)
        if key not in self.places:
            self.places[key] = separation.Place(self.points(site, pooled), self.folds(), self.seed, draws, held_out)
        return self.places[key]

    def masks(self) -> dict[str, tuple[int, int]]:
        """Name -> (layer of the mask, site of the activations)."""
        places = {"b at b.out": (self.layer, self.layer + 1), "b at b.in": (self.layer, self.layer)}
        return places | ({"b-1 at b-1.out": (self.layer - 1, self.layer)} if self.layer else {})

    def fitting(self) -> list[int]:
        """The problems that a Z handed on may be fitted on: whole answers, so that the others are of answers unseen."""
        wanted, folds = round(self.fitting_share * len(self.problems)), {}
        order = torch.randperm(len(self.problems), generator=statistics.seeded(self.seed, "phase2: fitting")).tolist()
        for place in order:
            folds.setdefault(self.answers[place], []).append(place)
        chosen = []
        for group in folds.values():
            if len(chosen) < wanted:
                chosen += group
        return chosen if len(chosen) < len(order) or self.fitting_share == 1 else order[:wanted]


def common_k(study: Study) -> int:
    """The largest k, up to the primary one, that problems of the smallest training part can determine."""
    largest_fold = int(study.folds().bincount().max())
    return max(1, min(study.weights["k"][-1], len(study.problems) - largest_fold - 1))


def fitter(study: Study, name: str, pooled: str, k: int) -> Callable[[list[int]], torch.Tensor]:
    """What makes a rival's subspace (k, d) at the bottleneck's output from some problems."""
    points, site = study.points(study.layer + 1, pooled), study.layer + 1
    if name == "centroid":
        return lambda chosen: subspaces.centroid_subspace(own_mean(points[:, chosen]), k)
    if name == "pca":
        return lambda chosen: utils.principal_subspace(points[:, chosen], k)
    if name == "ard_mmd":
        return lambda chosen: subspaces.axis_subspace(relevance(study, cloud_of(study, site, pooled, chosen)), k)
    heads, draw = study.weights["heads"][study.layer], statistics.seeded(study.seed, "phase2: one Haar rival")
    fixed = utils.multi_head_subspace(heads[:, :k], k)
    if name == "random":
        (fixed,) = utils.random_subspaces(draw, 1, k, points.shape[-1])
    return lambda _: fixed


def fit_anew(study: Study, name: str, k: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """What fits a contingency at the position that is patched, to points (l, n, d) of any model of this shape: -> (k, d)."""
    if name == "centroid":
        return lambda points: subspaces.centroid_subspace(own_mean(points), k)
    most = pooling.CLOUD_PROBLEMS
    return lambda points: subspaces.axis_subspace(relevance(study, points[:, :most, None].float().cpu()), k)


def own_mean(points: torch.Tensor) -> torch.Tensor:
    """Points less the mean of all of them. (l, n, d)"""
    return points - points.mean((0, 1))


def cloud_of(study: Study, site: int, pooled: str, chosen: list[int]) -> torch.Tensor:
    """The tokens of some problems that ARD-MMD sees, (l, n, tokens, d): spread over the prompt, or its last position alone."""
    kept = [index for index in chosen if index < pooling.CLOUD_PROBLEMS]
    if pooled == "mean":
        return study.clouds[site][:, kept]
    return study.points(site, pooled)[:, kept, None].float().cpu()


def relevance(study: Study, cloud: torch.Tensor) -> torch.Tensor:
    """ARD-MMD's relevances of the coordinates at one site, started from the weight-based Z. (l, n, m, d) -> (d,)"""
    return subspaces.fit_relevance(cloud, study.primary, study.seed, ARD_STEPS)


def ard_layers(bottleneck: int) -> list[int]:
    """About ten layers spread from the first to the bottleneck."""
    return sorted({round(layer) for layer in np.linspace(0, bottleneck, ARD_LAYERS)})


def ard_summary(relevances: dict[int, torch.Tensor], basis: torch.Tensor) -> dict:
    """Per fitted layer: |Z|, the spectrum of the relevances, and how much of the weight-based Z its top k coordinates hold."""
    layers = []
    for layer, values in relevances.items():
        size = subspaces.relevant_dimensions(values, RELEVANT_SHARE)
        overlap = utils.grassmann_similarity(basis, subspaces.axis_subspace(values, len(basis))).item()
        spectrum = values.sort(descending=True).values
        picks = torch.linspace(0, len(spectrum) - 1, min(len(spectrum), 64)).round().long()
        row = {"layer": layer, "size": size, "overlap": overlap, "chance": len(basis) / len(values)}
        layers.append(row | {"spectrum": spectrum[picks]})
    return {"layers": layers, "relevant_share": RELEVANT_SHARE}
