"""What stands beside a tested subspace and decides nothing: other constructions, other sizes and places, other edits.

Everything here is swapped for the problems that judge, with few donors each, and has 95 % intervals over problems; random
subspaces stand beside it as 5 %, median and 95 % of draws.
"""

from dataclasses import dataclass

import numpy as np
import torch

import utils
from lab import checkpoints, dissociation, families, progress, statistics, subspaces, swaps, transfer

DRAWS = 20  # of a rival that is random, and of Haar subspaces beside it
SWEPT = 10  # of Haar subspaces at every size and place of a sweep: no p follows from them
SHOWN = ("coverage", "leak", "d")


@dataclass
class Beside:
    """Rivals of one tested subspace at its place."""

    measured: dissociation.Measured
    site: int
    basis: torch.Tensor  # (k, d)
    half: str  # the problems that judge
    # (languages, problems, d) streams at the site that rivals are fitted on: those that a Z's fit sees
    fitted: torch.Tensor

    def __post_init__(self):
        self.donors = self.measured.design.within(self.half)
        self.seeded = self.measured.seeded

    @property
    def k(self) -> int:
        return len(self.basis)

    def scores(self, basis: torch.Tensor | None, outside: bool = False, site: int | None = None) -> np.ndarray:
        """Scores of a subspace's swap (k, d), or of the full one, with few donors: (1, b, R, a, N, columns)."""
        site = self.site if site is None else site
        if basis is None:
            return self.measured.full(site, self.donors)
        return self.measured.patching.scores(site, self.donors, basis.float()[None], outside)

    def profile(self, basis: torch.Tensor, reverse: bool = False, site: int | None = None) -> dict:
        """Records of a subspace's shares and D; with `reverse` of everything outside of it."""
        site = self.site if site is None else site
        full, *parts = (
            self.measured.samples(self.scores(part, outside, site), self.half, self.donors)
            for part, outside in ((None, False), (basis, reverse), (basis, not reverse))
        )
        found = transfer.profile(*parts, full, self.measured.maxima)
        return {name: found[name] for name in transfer.RATIOS}

    def rivals(self, weights: dict[str, torch.Tensor]) -> dict[str, dict]:
        """Every rival's size and profile; of random ones the median, 5 % and 95 % of draws. weights: {name: (k, d)}"""
        width, found = self.basis.shape[1], {"z": {"k": self.k, "draws": None} | self.profile(self.basis)}
        haar = utils.random_subspaces(self.seeded(f"rivals Haar {self.site}"), DRAWS, self.k, width)
        found["haar"] = self.drawn(haar)
        language = utils.language_space(self.fitted.double())
        bases = {
            "pca": principal_within(self.fitted, self.k),
            "centroid": subspaces.centroid_subspace(self.fitted.double(), self.k),
            **weights,
            "word_rows": self.measured.words,
        }
        draws = utils.matched_subspaces(
            self.seeded(f"rivals covariance {self.site}"), DRAWS, self.k, swaps.within_languages(self.fitted)
        )
        found["covariance"] = self.drawn(draws)
        for name, basis in progress.steps(bases.items(), "rivals", "subspace", len(bases)):
            found[name] = {"k": len(basis), "draws": None} | self.profile(basis)
        found["all_but_language"] = {"k": width - len(language), "draws": None} | self.profile(language, reverse=True)
        return found

    def drawn(self, bases: torch.Tensor) -> dict:
        """Of random subspaces (m, k, d): median, 5 % and 95 % of their points, of as few recipients as all nulls."""
        donors = self.measured.design.within(self.half, dissociation.DRAWN)
        points = self.measured.points(self.site, bases, self.half, donors)
        return {"k": bases.shape[1], "draws": len(bases)} | {name: as_record(points[name]) for name in transfer.RATIOS}

    def sweep_k(self) -> list[dict]:
        """The first k directions of the subspace, and of principal components, for k in powers of two up to its size."""
        sizes = sorted({2**power for power in range(self.k.bit_length()) if 2**power < self.k} | {self.k})
        rows = []
        for kind, basis in (("z", self.basis), ("pca", principal_within(self.fitted, self.k))):
            for k in [size for size in sizes if size <= len(basis)]:
                rows.append({"of": kind, "k": k} | self.swept(self.site, basis[:k]))
        return rows

    def sweep_site(self, candidates: list[dissociation.Candidate]) -> list[dict]:
        """Every candidate that chose its place, at all joint carriers."""
        rows = []
        for candidate in [one for one in candidates if one.site is None]:
            for site in [site for site in self.measured.carriers["joint"] if site]:
                basis = candidate.basis(site).float()
                row = {"name": candidate.name, "site": site, "layer": candidate.layer(site), "k": len(basis)}
                rows.append(row | self.swept(site, basis))
        return rows

    def swept(self, site: int, basis: torch.Tensor) -> dict:
        """What a sweep shows of a subspace at a site, beside random ones of its size there."""
        profile, haar = self.profile(basis, site=site), self.measured.haar(site, len(basis), self.half, SWEPT)
        return {name: profile[name] for name in SHOWN} | {
            "haar": {name: statistics.spread(haar[name]) for name in SHOWN}
        }

    def ablation(self) -> dict:
        """How much of the own answer's margin is left without the part inside, or outside, of the subspace.

        mean: the part is replaced by its language's mean over development problems; resample: by other problems' parts, of
        donors asked in the recipient's language. What is left is to first order what the swap does not move: so it says
        that nothing else holds the answer, and is no evidence apart from the complement's swap.
        """
        patching, part, width = self.measured.patching, self.measured.design.part(self.half), self.basis.shape[1]
        judged = np.isin(np.arange(patching.problems), part)
        means = self.fitted.mean(1)[:, None]

        def mean(basis: torch.Tensor, outside: bool = False) -> np.ndarray:
            scores = patching.scores(self.site, judged[:, None], basis.float()[None], outside, given=means)
            return self.margins(scores, judged[:, None], np.array([-1]))

        def resample(basis: torch.Tensor, outside: bool = False) -> np.ndarray:
            return self.margins(self.scores(basis, outside), self.donors, self.measured.design.places)

        own = patching.unpatched(self.site)[None, :, :, None, None]

        def unpatched(donors: np.ndarray, given: np.ndarray) -> np.ndarray:
            """The margins above the same others as after an edit."""
            return self.margins(
                np.broadcast_to(own, (*own.shape[:3], len(own[0]), len(given), own.shape[-1])), donors, given
            )

        whole = {"mean": unpatched(judged[:, None], np.array([-1]))}
        whole["resample"] = unpatched(self.donors, self.measured.design.places)
        weights = transfer.resamples(len(part), dissociation.RESAMPLES, self.seeded(f"resamples {self.half}"))
        haar = utils.random_subspaces(self.seeded(f"ablation Haar {self.site}"), SWEPT, self.k, width)
        rows = {"margin": transfer.record(weights @ whole["mean"] / weights.sum(1))}
        for name, left in (("mean", mean), ("resample", resample)):
            sides = {"z": left(self.basis), "complement": left(self.basis, outside=True)}
            rows[name] = {
                side: transfer.record(weights @ after / (weights @ whole[name])) for side, after in sides.items()
            }
            rows[name]["haar"] = statistics.spread(np.array([left(basis).sum() / whole[name].sum() for basis in haar]))
        return rows

    def margins(self, scores: np.ndarray, donors: np.ndarray, given: np.ndarray) -> np.ndarray:
        """Of every judged recipient, by how much its answer is above the mean of the set's others, nats: (R,).

        scores (1, b, R, a, N, columns), of donors asked in the recipient's language; donors (R, N) bool, given (N,) their
        answers, which are left out as the recipient's own is; -1 for none.
        """
        design, part = self.measured.design, self.measured.design.part(self.half)
        rows = scores[0].reshape(*scores.shape[1:-1], -1, len(design.known.languages))
        own = np.einsum("brbiqb->briq", rows)[:, part].astype(float)  # in the recipient's language
        places, answers = design.places[part], np.arange(own.shape[-1])
        others = (answers != places[:, None])[:, None] & (answers != given[:, None])[None]  # (R, N, A)
        above = own[:, np.arange(len(part)), :, places].transpose(1, 0, 2)  # (b, R, N)
        above = above - np.where(others, own, 0.0).sum(-1) / others.sum(-1)
        return np.where(donors[part], above, 0.0).sum(-1).mean(0) / donors[part].sum(-1)

    def same_problem(self) -> dict:
        """The recipe's own design: the donor is the same problem asked in another language.

        Z should change nothing, what is outside of it the language alone. `language`: G as a share of the full swap's;
        `kept`, `translated`: how often the own answer wins in the recipient's, or in the donor's language.
        """
        patching, design, part = self.measured.patching, self.measured.design, self.measured.design.part(self.half)
        alone, width = np.diag(np.isin(np.arange(patching.problems), part)), self.basis.shape[1]
        weights = transfer.resamples(len(part), dissociation.RESAMPLES, self.seeded(f"resamples {self.half}"))

        def moved(basis: torch.Tensor | None, outside: bool = False) -> dict[str, np.ndarray]:
            bases = None if basis is None else basis.float()[None]
            scores = patching.scores(self.site, alone, bases, outside)[0]
            found = transfer.translations(
                scores[:, part][..., part, :], design.places[part], len(design.known.languages)
            )
            return {name: weights @ values / weights.sum(1) for name, values in found.items()}

        full = moved(None)
        fits = transfer.usable(full["language"], self.measured.maxima["g"])
        swapped = {"full": full, "z": moved(self.basis), "complement": moved(self.basis, outside=True)}
        rows = {
            swap: {
                "language": transfer.record(found["language"] / full["language"] if fits else None),
                **{name: transfer.record(found[name]) for name in ("kept", "translated")},
            }
            for swap, found in swapped.items()
        }
        haar = utils.random_subspaces(self.seeded(f"same problem Haar {self.site}"), SWEPT, self.k, width)
        points = [{name: values[0] for name, values in moved(basis).items()} for basis in haar]
        shares = {name: np.array([point[name] for point in points]) for name in points[0]}
        shares["language"] = shares["language"] / full["language"][0] if fits else np.full(SWEPT, np.nan)
        rows["haar"] = {name: as_record(values) for name, values in shares.items()}
        return {"problems": len(part), "language": transfer.record(full["language"]), "swaps": rows}


def principal_within(streams: torch.Tensor, k: int) -> torch.Tensor:
    """Leading principal directions of streams (languages, problems, d) within their languages: (k', d), k' <= k."""
    centred = swaps.within_languages(streams)
    rank = min(k, streams.shape[0] * (streams.shape[1] - 1))
    return torch.linalg.svd(centred, full_matrices=False)[2][:rank]


def as_record(values: np.ndarray) -> dict:
    """The spread of random draws in the place of a value with its interval."""
    row = statistics.spread(values)
    return {"value": row["middle"], "low": row["low"], "high": row["high"]}


def other_constructions(
    folder: checkpoints.ModelFolder, layer: int, every_layer: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Subspaces that the weights of a layer give otherwise, of the size of its own: {name: (k, d)}.

    query_side: left singular vectors of the kernels instead of right ones; norm_folded: kernels behind the norm's gain, as the
    raw stream meets them; previous_layer: the layer before.
    """
    k, weights = every_layer.shape[1], checkpoints.read_layer(folder, layer, families.OF_KERNELS)
    query, key = utils.kernel_factors(weights, folder.head_width, False)
    every_key = key.repeat_interleave(len(query) // len(key), 0)
    sides = {
        "query_side": utils.kernel_svd(every_key, query)[1],
        "norm_folded": utils.kernel_svd(*utils.kernel_factors(weights, folder.head_width, True))[1],
    }
    found = {name: utils.multi_head_subspace(vectors[:, :k], k) for name, vectors in sides.items()}
    return found | ({"previous_layer": every_layer[layer - 1]} if layer else {})
