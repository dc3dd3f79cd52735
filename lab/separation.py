"""How well subspaces part problems from languages at one place: the recipe's ratios, the same without the offset, and nulls.

A place is one site and pooling: points (languages, problems, d). A subspace's row holds the raw measures and, in `centred` and
`leace`, those of the points without what is constant in a language.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from lab import pairs, statistics

RAW = ("haar", "matched", "missing", "pairing")  # nulls of the contrast; `pairing` is about versions' distances
CENTRED = ("haar", "matched", "pairing")  # without the offset there is nothing to miss
DRAWS = 999  # Holm over the grid's 36 configurations needs a p that can fall below .05 / 36
EVEN = 0.5  # of the distance between problems: draws that hold more are the stream itself, a rival and no null


@dataclass
class Scene:
    """Points with their pairs, and the random subspaces of each size that were scored on them."""

    points: torch.Tensor  # (l, n, d)
    of: torch.Tensor  # (l, n, d): the points as they are, of which random subspaces are drawn
    paired: pairs.Pairs
    nulls: tuple[str, ...]  # all of them have to be beaten, but `matched` where its draws hold most of the distance
    seed: int
    draws: int
    total: torch.Tensor = field(init=False)  # squared distance of every pair
    contrasts: dict = field(default_factory=dict)  # kind -> {k: (draws,)}
    energies: dict = field(default_factory=dict)  # kind -> {k: (draws, 2)}: see pairs.Pairs.energy_fractions

    def __post_init__(self):
        self.total = self.paired.squares(self.points)

    def draw(self, ks: list[int]) -> None:
        """Score random subspaces of these sizes, of every kind."""
        for kind in self.nulls:
            if kind != "pairing":
                found, energies = pairs.random_contrasts(
                    self.points, self.paired, kind, ks, self.seed, self.draws, self.of
                )
                self.contrasts[kind] = self.contrasts.get(kind, {}) | found
                self.energies[kind] = self.energies.get(kind, {}) | energies

    def inside(self, bases: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared distances of all pairs inside (k, d), or inside each fold's own (folds, k, d), and those of versions (n, n)."""
        if bases.ndim == 2:
            return self.paired.squares(self.points, bases[None])[0], pairs.cross_distances(self.points, bases)
        fold_of = self.paired.folds.to(self.points.device)
        of_pair = fold_of[self.paired.first % self.paired.problems]
        each = [self.inside(basis) for basis in bases]
        squares, cross = torch.zeros_like(each[0][0]), torch.zeros_like(each[0][1])
        for fold, (own, distances) in zip(fold_of.unique(), each):
            squares[of_pair == fold], cross[fold_of == fold] = own[of_pair == fold], distances[fold_of == fold]
        return squares, cross

    def row(self, bases: torch.Tensor, interval: bool = False) -> dict:
        """Ratios, contrast, every null, and `p`, the largest of theirs; with `interval` the contrast's over problems."""
        inside, cross = self.inside(bases)
        contrast, k = self.paired.contrast(inside, self.total).item(), bases.shape[-2]
        row = {
            "ratio_z": self.paired.ratio(inside).item(),
            "ratio_z_perp": self.paired.ratio((self.total - inside).clamp_min(0)).item(),
            "contrast": contrast,
        }
        if not self.nulls:
            return row
        if interval:
            row["low"], row["high"] = self.paired.interval(inside, self.total, self.seed)
        for kind, found in self.contrasts.items():
            row[kind] = statistics.null_record(found[k].numpy(), contrast, low_counts=True)
        row["pairing"] = pairs.pairing_null(cross, self.seed, self.paired.folds, self.draws)
        row["matched_share"] = self.energies["matched"][k][:, 1].mean().item()
        row["matched"]["gates"] = row["matched_share"] <= EVEN
        row["p"] = max(row[kind]["p"] for kind in gating(row, self.nulls))
        return row

    def energy(self, bases: torch.Tensor) -> dict:
        """Share of the squared distance inside, beside Haar subspaces: a Z has little between versions, much between problems."""
        inside, _ = self.inside(bases)
        own, drawn = (
            self.paired.energy_fractions(inside, self.total).tolist(),
            self.energies["haar"][bases.shape[-2]].numpy(),
        )
        found = {}
        for at, name in enumerate(("cross_language", "same_language")):
            found[name] = {"value": own[at], **statistics.null_record(drawn[:, at], own[at], low_counts=not at)}
        return found


def gating(row: dict, nulls: Sequence[str]) -> list[str]:
    """Of these nulls those that have to be beaten in a row."""
    return [name for name in nulls if row[name].get("gates", True)]


class Place:
    """One site and pooling, as it is and without the offset between the languages.

    points (l, n, d); `folds` (n,) by answer: means and LEACE come from the other folds, and different problems are paired
    within a fold there. With `held_out` they are so for the raw measures too: then every fold may have a subspace of its own.
    """

    def __init__(self, points, folds: torch.Tensor, seed: int, draws: int = DRAWS, held_out: bool = False):
        languages, problems, _ = points.shape
        points = points - points.mean((0, 1))
        self.points = points
        together, everyone = (
            pairs.make_pairs(languages, problems, kept, seed, points.device) for kept in (folds, None)
        )
        self.raw = Scene(points, points, together if held_out else everyone, RAW, seed, draws)
        self.centred = Scene(pairs.without_means(points, folds), points, together, CENTRED, seed, draws)
        self.leace = Scene(pairs.without_language(points, folds), points, together, (), seed, 0)
        self.drawn = set()

    def defined(self) -> bool:
        """Whether different problems lie apart: the last token of a template at site 0 is the same for all of them."""
        different = self.raw.total[self.raw.paired.same_problem :]
        return bool((different > 1e-20 * self.points.square().max()).any())

    def draw(self, ks: list[int]) -> None:
        """Score random subspaces of these sizes, once."""
        new = [k for k in dict.fromkeys(ks) if k not in self.drawn]
        if new:
            self.raw.draw(new)
            self.centred.draw(new)
            self.drawn |= set(new)

    def row(self, bases: torch.Tensor) -> dict:
        """All measures of a subspace (k, d), or of each fold's own (folds, k, d)."""
        bases = bases.to(self.points)
        self.draw([bases.shape[-2]])
        centred, leace = self.centred.row(bases, interval=True), {"contrast": self.leace.row(bases)["contrast"]}
        own = {"k": bases.shape[-2], **self.raw.row(bases), "energy": self.raw.energy(bases)}
        return own | {"centred": centred, "leace": leace}


def adjust(rows: list[dict]) -> None:
    """Holm over these rows, of the raw p and of the centred one: `p_holm` in the row and in its `centred`."""
    for parts in (rows, [row["centred"] for row in rows]):
        for part, adjusted in zip(parts, statistics.holm([part["p"] for part in parts])):
            part["p_holm"] = adjusted
