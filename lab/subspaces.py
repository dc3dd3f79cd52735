"""Subspaces fitted on activations, and the Z that phase 2 hands on: saved with what it is, and loaded by what tests it.

A subspace is a matrix of orthonormal rows (k, d). The fits are pure: tensors in, tensors out.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

import utils
from lab import checkpoints, progress, runs, statistics

CONTINGENCIES = "phase2_contingency_bases.npy"  # of phase 2
ARD_RATE = 0.1
ARD_SPARSITY = 0.01  # weight of the entropy of the relevances, in nats, beside a difference of log MMD²


@dataclass(frozen=True)
class Contingency:
    """Another of the recipe's contingencies that holds, beside the Z handed on."""

    name: str
    layer: int
    basis: torch.Tensor  # (k, d) orthonormal rows, float32
    fitted_answers: frozenset[str]  # answers of the problems that it was fitted on; none if it comes from weights


@dataclass
class HandedZ:
    """What phase 2 handed on."""

    basis: torch.Tensor  # (k, d) orthonormal rows, float32
    every_layer: torch.Tensor  # (L, k', d) the weight-based Z of every layer
    site: int
    bottleneck: int
    fitted_on: set[
        str
    ]  # hashes of the problems that it or another in `also` was fitted on; none if all come from weights
    fitted_answers: set[str]  # answers of the problems that the basis was fitted on
    languages: list[str]  # in which they were asked: a hash is of their texts
    summary: (
        dict  # method, layer, site, k, whether it passed when it was chosen, bottleneck, and the content of both arrays
    )
    chosen: str = (
        "given"  # what chose the bottleneck, as checkpoints.ChosenLayer has it; no setting: it changes no number
    )
    also: tuple[Contingency, ...] = ()

    @property
    def seen(self) -> frozenset[str]:
        """All answers that it or another in `also` was fitted on."""
        return frozenset(self.fitted_answers).union(*(other.fitted_answers for other in self.also))

    @property
    def predicted(self) -> bool:
        """Whether it is the primary weight-based Z itself: no contingency, no configuration chosen on activations."""
        primary = {
            "method": "weight",
            "layer": self.bottleneck,
            "site": self.bottleneck + 1,
            "k": self.every_layer.shape[1],
        }
        return primary.items() <= self.summary.items()


def load_z(out: Path, folder: checkpoints.ModelFolder) -> HandedZ:
    """Phase 2's Z; UserError if it is missing, another model's, or of the wrong shape."""
    results = runs.load_results(out, "phase2", folder.identity)
    with runs.as_written(out, "phase2"):
        return taken_from(out, results, folder)


def taken_from(out: Path, results: dict, folder: checkpoints.ModelFolder) -> HandedZ:
    """Phase 2's Z from its results and the arrays beside them."""
    z, bottleneck = results["z"], range(folder.layers).index(results["settings"]["layer"])
    if "fitted_answers" not in z:
        raise runs.UserError(f"{out / 'phase2_results.json'}: an older edition wrote it: run phase 2 again")
    basis = load_bases(out, "phase2_z_basis.npy", (z["k"], folder.width))
    shape = (folder.layers, results["z_dimensions"][-1], folder.width)
    every_layer = load_bases(out, "phase2_layer_subspaces.npy", shape)
    also, others = load_also(out, results, folder.width)
    summary = {key: z[key] for key in ("method", "layer", "site", "k", "passed")} | {"bottleneck": bottleneck}
    fitted_on = set(z["fitted_on"]).union(*(other["fitted_on"] for other in also))
    content = [runs.array_hash(basis), runs.array_hash(every_layer), sorted(fitted_on)]
    summary["content"] = runs.short_hash(content + ([runs.array_hash(others)] if also else []))
    languages, chosen = results["settings"]["languages"], results["layer_chosen"]
    answers = [answer for one in (z, *also) for answer in one["fitted_answers"]]
    if not all(isinstance(text, str) for text in (*languages, *answers, chosen, z["method"])):
        raise ValueError("a language, an answer, a method or what chose the layer is no text")
    fitted = (fitted_on, set(z["fitted_answers"]), languages)
    bases = (torch.from_numpy(array).float() for array in (basis, every_layer))
    site = range(folder.layers + 1).index(z["site"])
    found = HandedZ(*bases, site, bottleneck, *fitted, summary, chosen)
    found.also = contingencies(also, torch.from_numpy(others).float())
    return found


def load_also(out: Path, results: dict, width: int) -> tuple[list[dict], np.ndarray]:
    """What phase 2's results say of further contingencies that hold, and their bases' rows (sum of their k, d)."""
    also = results.get("also", [])
    if not also:
        return [], np.zeros((0, width), np.float32)
    return also, load_bases(out, CONTINGENCIES, (sum(other["k"] for other in also), width))


def load_bases(out: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Subspaces that phase 2 saved; UserError also where they are not finite."""
    array = runs.load_array(out, name, shape)
    if not np.isfinite(array).all():
        raise runs.UserError(f"{out / name} holds NaN or infinite values: run phase 2 again with --fresh")
    return array


def contingencies(also: list[dict], rows: torch.Tensor) -> tuple[Contingency, ...]:
    """Contingencies from what phase 2 says of each, and their bases' rows one after another, (sum of their k, d)."""
    bases = rows.split([other["k"] for other in also]) if also else ()
    return tuple(
        Contingency(other["method"], other["layer"], basis, frozenset(other["fitted_answers"]))
        for other, basis in zip(also, bases)
    )


def z_file(basis: np.ndarray, z: dict, model: dict) -> bytes:
    """The Z handed on as safetensors, for use elsewhere: tensor `z` (k, d), and as metadata what it is and of which model.

    Site s is the residual stream after s layers: `hidden_states[s]` in transformers.
    """
    metadata = {key: str(z[key]) for key in ("method", "layer", "site", "k")}
    metadata |= {"model": model["name"], "revision": str(model["revision"])}
    content = np.ascontiguousarray(basis, "<f4").tobytes()
    # written here because safetensors' own `save` puts the metadata in another order each time
    tensor = {"dtype": "F32", "shape": list(basis.shape), "data_offsets": [0, len(content)]}
    header = json.dumps({"__metadata__": metadata, "z": tensor}, sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content


def weight_subspaces(folder, layer: int, shares: Sequence[float], fold_norm: bool, device) -> dict:
    """Weight-based subspaces: per-head vectors at b and b-1 (h, r, d), k for each share, multi-head Z of every layer.

    k = each of the `shares` of the mean effective rank of layer b's kernels, at most d_head and at most d - 1; Z (k, d)
    has the last. {"k", "rank", "heads": by layer, "every_layer"}, float64 on the CPU; worked out on `device`.
    """

    def kernels(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        factors = utils.kernel_factors(checkpoints.read_layer(folder, index), folder.head_width, fold_norm)
        values, vectors = utils.kernel_svd(*(part.to(device) for part in factors))
        return values.cpu(), vectors.cpu()

    values, _ = kernels(layer)
    rank = utils.effective_rank(values).mean().item()
    limit = min(folder.head_width, folder.width - 1)
    k = [min(limit, max(1, round(share * rank))) for share in shares]
    heads, every_layer = {}, []
    for index in progress.steps(range(folder.layers), "kernels", "layer"):
        _, vectors = kernels(index)
        if index in (layer - 1, layer):
            heads[index] = vectors
        every_layer.append(utils.multi_head_subspace(vectors[:, : k[-1]], k[-1]))
    return {"k": k, "rank": rank, "heads": heads, "every_layer": every_layer}


def centroid_subspace(points: torch.Tensor, k: int) -> torch.Tensor:
    """Principal directions of the problems after removing the language space: what the versions of a problem share.

    (languages, problems, d) -> (k, d), k less than the problems: these determine no more directions.
    """
    shared = (points - points.mean(1, keepdim=True)).mean(0)
    shared = utils.outside(shared, utils.language_space(points))
    return torch.linalg.svd(shared, full_matrices=False)[2][:k]


def squared_mmd(weights: torch.Tensor, clouds: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Squared MMD of pairs of token clouds under exp(−Σ w_d (x_d − y_d)²). (d,), (clouds, m, d), (p,), (p,) -> (p,)

    The V-statistic (Gretton et al. 2012): the exact squared distance of two empirical distributions, never negative.
    The unbiased estimate supposes independent tokens; those of a prompt are not (template tokens recur in every prompt,
    and once in each), and it comes out negative for different problems, where its logarithm has no gradient.
    """
    scaled = clouds * weights.sqrt()
    norms = scaled.square().sum(-1)

    def kernel(a, b):
        distances = norms[a][..., :, None] + norms[b][..., None, :] - 2 * scaled[a] @ scaled[b].mT
        return torch.exp(-distances.clamp_min(0)).mean((-2, -1))

    everyone = torch.arange(len(clouds))
    within = kernel(everyone, everyone)
    return (within[first] + within[second] - 2 * kernel(first, second)).clamp_min(0)


def ard_pairs(languages: int, problems: int, seed: int) -> tuple[tuple, tuple]:
    """Cloud indices of (same problem, two languages) and of as many (different problems, one language) per language."""
    index = torch.arange(languages * problems).view(languages, problems)
    same = [(index[a], index[b]) for a, b in combinations(range(languages), 2)]
    shift = 1 + torch.randint(problems - 1, (problems,), generator=statistics.seeded(seed, "phase2: ARD pairs"))
    other = (torch.arange(problems) + shift) % problems
    different = [(index[language], index[language, other]) for language in range(languages)]
    return tuple(tuple(torch.cat([pair[side] for pair in group]) for side in (0, 1)) for group in (same, different))


def fit_relevance(clouds: torch.Tensor, start: torch.Tensor, seed: int, steps: int = 150) -> torch.Tensor:
    """Relevances w = 1/ℓ² ≥ 0 with Σw = d that tell problems apart and not languages. (l, n, m, d) -> (d,)

    Maximises log MMD²(different problems) − log MMD²(same problem, two languages) − ARD_SPARSITY × entropy of w. Minimising
    MMD(zh, en) with a penalty on 1/ℓ instead is solved by w → 0; here Σw is fixed, so that it cannot collapse. Starts from
    the energy per dimension of the subspace `start` (k, d).
    """
    languages, problems, _, width = clouds.shape
    flat = clouds.flatten(0, 1).float()
    flat = flat - flat.mean((0, 1))
    scale = torch.pdist(flat[:, -1]).square().median().clamp_min(1e-30)
    flat = flat / scale.sqrt()  # a typical squared distance is 1 where all relevances are 1
    same, different = ard_pairs(languages, problems, seed)
    energy = start.square().sum(0).float()
    logits = (energy + energy.mean()).log().requires_grad_()
    optimizer = torch.optim.Adam([logits], ARD_RATE)
    for _ in range(steps):
        share = logits.softmax(0)
        told_apart, across = (
            squared_mmd(width * share, flat, *pair).mean().clamp_min(1e-4) for pair in (different, same)
        )
        loss = across.log() - told_apart.log() + ARD_SPARSITY * torch.special.entr(share).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (width * logits.softmax(0)).detach().double()


def axis_subspace(relevance: torch.Tensor, k: int) -> torch.Tensor:
    """The k most relevant coordinates as unit rows, (k, d)."""
    top = relevance.argsort(descending=True, stable=True)[:k]
    return torch.eye(len(relevance), dtype=torch.float64)[top]


def relevant_dimensions(relevance: torch.Tensor, share: float) -> int:
    """|Z|: the fewest dimensions that hold this share of the relevance."""
    reached = relevance.sort(descending=True).values.cumsum(0) / relevance.sum()
    return int((reached < share).sum()) + 1
