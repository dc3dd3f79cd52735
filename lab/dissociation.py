"""Whether a subspace carries the answer and not the language at a place: its profile, its nulls, and its gates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

import utils
from lab import designs, gates, progress, statistics, swaps, transfer

FEWEST = 5  # problems to judge on, and answers to fit on: of fewer nothing follows
DRAWN = 10  # recipients of a random subspace: a draw needs no interval of its own
COARSE = 2  # the curve's step, refined where it crosses what a carrier needs
RESAMPLES = 2000
DRAWS, FULL_DRAWS = 20, 120  # Haar subspaces: for every Z; and every null's for a Z that is worth it (6/121 < .05)
FAMILY, PER_MEMBER = (
    6,
    20,
)  # that many are enough for; and more draws for each further member of the Holm family (7/141 < .05)
WORTH = 0.25  # coverage from which on: half of what a dissociation asks for
CHUNK = 40  # drawn subspaces in memory at once
TIE = 0.01  # of D: a code that is passed on unchanged scores alike at every site that it passes
BESIDE_WORD = 10  # random subspaces beside the word's code
EVEN = 0.5  # of the variance within languages: draws that match a larger share hold what acts, as Z does


@dataclass(frozen=True)
class Candidate:
    """A subspace that is tested. `basis(site)` gives it, (k, d); without a site it is tested at its best joint carrier."""

    name: str
    method: str
    basis: Callable[[int], torch.Tensor]
    layer: Callable[[int], int | None]  # whose weights it comes from, at a site
    judged_on: str = "test"
    site: int | None = None
    others: Callable[[int], torch.Tensor] | None = None  # (n, k, d) the same construction from other layers, for a site
    among_states: bool = False  # whether it was sought among the states that the model visits
    seen: frozenset[str] = frozenset()  # answers that its fit has seen


def site_curve(
    design: designs.Design, patching: swaps.Patching, own: int, seeded: Callable[[str], torch.Generator]
) -> dict[int, dict]:
    """The full swap at every COARSE-th site and where the weights point, then between sites that carry and do not.

    On the development half, with few donors; {site: records of every measure}.
    """
    last = patching.streams.shape[2] - 1
    donors, part = design.within("development"), design.part("development")
    weights = transfer.resamples(len(part), RESAMPLES, seeded("resamples development"))
    samples = {}

    def measure(sites: Sequence[int]) -> list[dict]:
        for site in progress.steps(sites, "swapping whole streams", "place"):
            effect = design.effects(patching.scores(site, donors), "development", donors)
            samples[site] = {name: values[0] for name, values in transfer.estimates(effect, weights).items()}
        return transfer.curve(samples)

    rows = measure(sorted({*range(0, last + 1, COARSE), last, own}))
    found, known = transfer.carriers(rows), [row["site"] for row in rows]
    crossed = [
        site
        for before, after in zip(known, known[1:])
        if any((before in found[kind]) != (after in found[kind]) for kind in ("answer", "language"))
        for site in range(before + 1, after)
    ]
    return {row["site"]: row for row in measure(crossed)}


@dataclass
class Measured:
    """Tests subspaces where the full swap carries something, and keeps every score that a test rests on."""

    design: designs.Design
    patching: swaps.Patching
    curve: dict[int, dict]
    carriers: dict[str, list[int]]
    fitted: torch.Tensor  # (languages, problems, sites, d) streams of the development half, which draws are matched on
    words: torch.Tensor  # (u, d) the code of the output word
    seeded: Callable[[str], torch.Generator]
    full_draws: int = FULL_DRAWS  # of every null of a Z that is worth it
    scores: list[np.ndarray] = field(default_factory=list)  # (1, b, R, a, N, columns) of every condition
    conditions: list[dict] = field(default_factory=list)
    whole: dict[tuple, np.ndarray] = field(default_factory=dict)  # the full swap's scores with some donors at a site
    drawn: dict[tuple, dict] = field(default_factory=dict)  # Haar subspaces' points by (site, k, half, draws)

    @property
    def maxima(self) -> dict[str, float]:
        """The full swap's largest effects over sites."""
        return {name: max(row[name]["value"] for row in self.curve.values()) for name in ("t_same", "g")}

    def test(self, candidate: Candidate) -> dict:
        """A subspace's profile and its nulls, or why there are none."""
        row = {"method": candidate.method, "judged_on": candidate.judged_on}
        row["judged"] = len(self.design.part(candidate.judged_on))
        if self.design.judges(candidate.judged_on) < FEWEST:
            return row | {"unmeasured": "it was fitted on these answers"}
        site = self.best_site(candidate) if candidate.site is None else candidate.site
        if site is None:
            return row | {"unmeasured": "no joint carrier"}
        basis, place = candidate.basis(site).float(), self.place(site)
        row |= {"layer": candidate.layer(site), "site": site, "k": len(basis), "place": place}
        row |= self.size(site, basis)
        if place == "none":
            full = {name: self.curve[site][name] for name in ("t_same", "g")}
            return row | {"unmeasured": "the full swap carries nothing here", "full": full}
        full = self.keep("full", candidate.name, site)
        inside, outside = (self.keep(name, candidate.name, site, basis) for name in ("z", "complement"))
        row |= self.profile(inside, outside, full, candidate.judged_on)
        row["full"] = {name: self.samples(full, candidate.judged_on, record=name) for name in ("t_same", "g")}
        row["seen"] = None
        if candidate.judged_on != "all":
            seen = self.profile(inside, outside, full, "development")
            row["seen"] = {name: seen[name] for name in ("coverage", "d", "iia_cross")}
        return row | self.against_nulls(candidate, row, basis, (full, inside, outside))

    def best_site(self, candidate: Candidate) -> int | None:
        """The joint carrier at which the subspace has the highest D on the development half, the earliest at a tie."""
        scored = {}
        for site in [site for site in self.carriers["joint"] if site]:
            donors = self.design.within("development")
            points = self.points(site, candidate.basis(site).float()[None], "development", donors)
            scored[site] = float(points["d"][0])
        return next((site for site in scored if scored[site] >= max(scored.values()) - TIE), None)

    def place(self, site: int) -> str:
        """What the full swap carries at a site."""
        kinds = ("joint", "answer", "language")
        return next((kind for kind in kinds if site in self.carriers[kind]), "none")

    def size(self, site: int, basis: torch.Tensor) -> dict:
        """How much of the streams' variance within languages lies inside, and how many directions that variance uses."""
        streams = self.patching.streams[:, :, site].cpu()
        share, _ = gates.shares(basis, streams)
        participation = swaps.participation_ratio(swaps.within_languages(streams))
        return {"within_share": share, "participation": participation}

    def keep(self, swap: str, name: str, site: int, basis=None, onto=None, donors=None) -> np.ndarray:
        """Scores of a condition on all scored problems, of whole blocks or of some donors; noted with what rests on it."""
        for condition, scores in zip(self.conditions, self.scores):
            if swap in SHARED and (condition["swap"], condition["site"]) == (swap, site):
                condition["tested"] += [name] if name not in condition["tested"] else []
                return scores
        bases = None if basis is None else basis.float()[None]
        self.conditions.append(
            {"swap": swap, "tested": [name], "site": site, "donors": "blocks" if donors is None else "few"}
        )
        donors = self.design.blocks if donors is None else donors
        self.scores.append(self.patching.scores(site, donors, bases, swap in OUTSIDE, onto))
        return self.scores[-1]

    def samples(self, scores: np.ndarray, half: str, donors=None, record: str | None = None) -> dict:
        """Bootstrap samples of every measure of one condition; or the record of one of them."""
        weights = transfer.resamples(len(self.design.part(half)), RESAMPLES, self.seeded(f"resamples {half}"))
        donors = self.design.blocks if donors is None else donors
        found = transfer.estimates(self.design.effects(scores, half, donors), weights)
        return transfer.record(found[record][0]) if record else {name: values[0] for name, values in found.items()}

    def profile(self, inside: np.ndarray, outside: np.ndarray, full: np.ndarray, half: str) -> dict:
        """Records of a subspace's measures, from the scores of its swap, its complement's and the full one."""
        parts = (self.samples(scores, half) for scores in (inside, outside, full))
        return transfer.profile(*parts, self.maxima)

    def points(self, site: int, bases: torch.Tensor, half: str, donors: np.ndarray) -> dict[str, np.ndarray]:
        """Point estimates of several subspaces (m, k, d) with some of the donors, {name: (m,)}."""
        full, parts = self.full(site, donors), []
        for chunk in bases.float().split(CHUNK):
            inside, outside = (self.patching.scores(site, donors, chunk, outside) for outside in (False, True))
            parts.append(self.point_ratios(full, inside, outside, half, donors))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def full(self, site: int, donors: np.ndarray) -> np.ndarray:
        """The full swap's scores with some of the donors at a site, swapped once."""
        key = (site, donors.tobytes())
        if key not in self.whole:
            self.whole[key] = self.patching.scores(site, donors)
        return self.whole[key]

    def point_ratios(self, full, inside, outside, half: str, donors: np.ndarray) -> dict[str, np.ndarray]:
        """The shares of the full swap and D of one or more subspaces, and how much oftener they win than the full swap."""
        full, inside, outside = (
            transfer.estimates(self.design.effects(scores, half, donors)) for scores in (full, inside, outside)
        )
        gain = inside["donor_recipient"] - full["donor_recipient"]
        return transfer.ratios(inside, outside, full) | {"iia_cross_gain": gain}

    def against_nulls(self, candidate: Candidate, row: dict, basis: torch.Tensor, scores: tuple) -> dict:
        """D and coverage beside every null's, some recipients with few donors: a row of `nulls` each, kappa and p.

        p is the largest of the draws that gate. Few Haar draws unless the subspace is `worth_it`, and then the others too.
        """
        half, site, k = row["judged_on"], row["site"], row["k"]
        donors = self.design.within(half, DRAWN)
        own = self.point_ratios(*scores, half, donors)
        known = row["d"]["value"] is not None and bool(np.isfinite(own["d"][0]))
        own = {name: float(values[0]) if known else None for name, values in own.items()}
        found = {"drawn": own, "nulls": {}, "kappa": None, "p": None, "p_holm": None}
        if row["place"] != "joint" or not known:
            return found
        haar = self.haar(site, k, half, self.full_draws if worth_it(row) else DRAWS)
        found["nulls"]["haar"] = null_row(haar, own, gates=True)
        if worth_it(row):
            seeded, streams = self.seeded(f"matched {candidate.name}"), self.fitted[:, :, site]
            bases = gates.matched_draws(seeded, self.full_draws, basis, streams)
            if bases is not None:
                drawn = self.points(site, bases, half, donors)
                even = row["within_share"] <= EVEN
                found["nulls"]["matched"] = null_row(drawn, own, gates=even)
                found["nulls"]["matched"]["within_share"] = float(
                    np.median([gates.shares(one, streams)[0] for one in bases])
                )
            if candidate.others is not None and len(candidate.others(site)):
                drawn = self.points(site, candidate.others(site), half, donors)
                outlier = statistics.outlier_p(own["d"], drawn["d"])
                found["nulls"]["layers"] = null_row(drawn, own, gates=True) | {"outlier_p": outlier}
        found["kappa"] = transfer.kappa(own["coverage"], haar["coverage"].tolist())
        drawn = [null["p"] for name, null in found["nulls"].items() if null["gates"] and name != "layers"]
        return found | {"p": max(drawn)}

    def haar(self, site: int, k: int, half: str, draws: int) -> dict[str, np.ndarray]:
        """Point estimates of Haar subspaces, shared by all subspaces of that size at that place."""
        key = (site, k, half, draws)
        if key not in self.drawn:
            draw, width = self.seeded(f"Haar {site} {k}"), self.patching.streams.shape[-1]
            bases = torch.cat([utils.random_subspaces(draw, 1, k, width).float() for _ in range(draws)])
            self.drawn[key] = self.points(site, bases, half, self.design.within(half, DRAWN))
        return self.drawn[key]

    def gates(self, candidate: Candidate, row: dict, manifold: gates.Manifold | None) -> dict:
        """What is left of the swap outside of the output word's code, and among the states that the model itself visits.

        T of each as a share, with few donors. `word`: T(F')/T(F) and T(Z')/T(F'), F' the full swap outside of the code and
        Z' what is left of Z there. `manifold`: T(P_B F)/T(F), and h = [T(P_B Z)/T(Z)]/[T(P_B F)/T(F)], P_B the projector on
        the manifold.
        """
        site, half, name, few = row["site"], row["judged_on"], candidate.name, self.design.few
        basis = candidate.basis(site)
        rest = gates.left_outside(basis, self.words)
        swapped = {
            "full": self.keep("full", name, site),
            "z": self.kept("z", candidate),
            "without_word": self.keep("without_word", name, site, self.words, donors=few),
            "z_without_word": self.keep("z_without_word", name, site, rest, donors=few),
        }
        if manifold is not None:
            onto = manifold.components.float()
            swapped["broad"] = self.keep("broad", name, site, onto=onto, donors=few)
            if not candidate.among_states:
                swapped["z_in_broad"] = self.keep("z_in_broad", name, site, basis, onto, donors=few)
        moved = {swap: self.samples(scores, half, few)["t_same"] for swap, scores in swapped.items()}
        best = self.maxima["t_same"]

        def share(above: str, below: str) -> np.ndarray | None:
            return moved[above] / moved[below] if transfer.usable(moved[below], best) else None

        word = {"dimensions": len(self.words), "left": len(rest), "random": self.outside_random(site, half)}
        word |= {"full": transfer.record(share("without_word", "full"))}
        word |= {"z": transfer.record(share("z_without_word", "without_word"))}
        if manifold is None:
            return {"word": word, "manifold": None}
        reach, inside = share("broad", "full"), None if candidate.among_states else share("z_in_broad", "z")
        known = inside is not None and reach is not None and transfer.usable(moved["broad"], best)
        h = inside / reach if known else None
        sizes = {"states": manifold.states, "components": len(onto), "variance": manifold.share}
        sizes |= {"full": transfer.record(reach), "h": transfer.record(h), "by_construction": candidate.among_states}
        return {"word": word, "manifold": sizes}

    def outside_random(self, site: int, half: str) -> dict:
        """What is left of the full swap outside of random subspaces as large as the word's code: points of some recipients."""
        draw, width = self.seeded(f"outside Haar {site}"), self.patching.streams.shape[-1]
        bases = utils.random_subspaces(draw, BESIDE_WORD, len(self.words), width)
        points = self.points(site, bases, half, self.design.within(half, DRAWN))
        return statistics.spread(points["complement_transfer"])

    def beyond(self, candidate: Candidate, control: Candidate) -> dict:
        """A subspace's `control`: the same search's for other answers, judged on the true ones; and D less the control's."""
        half, site, parts = candidate.judged_on, candidate.site, {}
        for one in (candidate, control):
            scores = [self.kept("z", one), self.kept("complement", one), self.keep("full", one.name, site)]
            parts[one.name] = transfer.ratios(*(self.samples(part, half) for part in scores))
        own, other = parts.values()
        return {"control": {name: transfer.record(other[name]) for name in transfer.RATIOS}
                | {"d_gain": transfer.record(own["d"] - other["d"])}}  # fmt: skip

    def kept(self, swap: str, candidate: Candidate) -> np.ndarray:
        """Scores of a candidate's own condition, swapped now unless they were."""
        for condition, scores in zip(self.conditions, self.scores):
            if condition["swap"] == swap and candidate.name in condition["tested"]:
                return scores
        return self.keep(swap, candidate.name, candidate.site, candidate.basis(candidate.site))


SHARED = ("full", "without_word", "broad")  # conditions that hold for every subspace at a site
OUTSIDE = ("complement", "without_word")


def draws_for(tested: int) -> int:
    """How many draws a null needs for the smallest p to pass Holm's correction over as many subspaces tested."""
    return FULL_DRAWS + PER_MEMBER * max(0, tested - FAMILY)


def worth_it(row: dict) -> bool:
    """Whether a measured subspace moves enough to be worth all nulls and gates."""
    return row.get("place") == "joint" and "unmeasured" not in row and (row["coverage"]["value"] or 0.0) >= WORTH


def null_row(drawn: dict[str, np.ndarray], own: dict, gates: bool) -> dict:
    """A null of D, with its mean shares and the null of the winners' gain."""
    gain = statistics.null_record(drawn["iia_cross_gain"], own["iia_cross_gain"])
    row = statistics.null_record(drawn["d"], own["d"])
    shares = {name: float(np.mean(drawn[name])) for name in transfer.RATIOS if name != "d"}
    return row | {"coverage": shares["coverage"], "shares": shares, "iia_cross_gain": gain, "gates": gates}
