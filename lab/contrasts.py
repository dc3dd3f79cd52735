"""Contrast donors: whether a subspace holds the answer, or what was asked.

A donor with the recipient's text and numbers under another operation should move the answer; one with another text and the
same answer should move nothing.
"""

import numpy as np
import torch

import utils
from lab import answers, dissociation, ladder, questions, statistics, swaps, transfer

DRAWS = 20  # Haar subspaces: above all of them is p < .05
TRIED, BASES = 8, 28  # base problems that are tried first, and at most
DONORS = ("operation", "same_answer")


class Contrasts:
    """Base problems with both kinds of donor, all of them solved in every language.

    asked: a file whose lines name their `base` and their `variant`: base, operation (the same text and numbers, another
    answer), same_answer (another text); other variants are not asked. `unmeasured` says why there is nothing to swap.
    """

    def __init__(self, asker: ladder.Asker, measured: dissociation.Measured, asked: questions.Asked | None):
        self.measured, self.languages, self.bases = measured, len(asker.names), []
        self.summary = {"asked": 0, "solved": dict.fromkeys(asker.names, 0), "unmeasured": "there are no such problems"}
        if asked is None:
            return
        self.rung = ladder.Rung(
            asked, asked.problems, answers.answer_set(asker.tokenizer, asked.problems, asker.languages)
        )
        usable = self.solved(asker, questions.variants(asked))
        counts = dict(zip(asker.names, self.rung.right.sum(1).tolist()))
        self.summary |= {"asked": len(self.rung.places), "solved": counts}
        whole = [
            base for base, variant in usable if variant == "base" and all((base, kind) in usable for kind in DONORS)
        ]
        self.summary["unmeasured"] = "too few of these problems are solved together with both of their variants"
        if len(whole) < dissociation.FEWEST:
            return
        self.summary["unmeasured"] = None
        self.bases = [usable[base, "base"] for base in whole]
        self.donors = {kind: [usable[base, kind] for base in whole] for kind in DONORS}
        prompts = [[self.rung.prompt(asker, name, place) for place in self.bases] for name in asker.names]
        everybody, tokens = [np.arange(len(whole))], self.rung.known.tokens
        self.patching = swaps.Patching(asker.model, asker.tokenizer, prompts, tokens, asker.batch, everybody)
        order = {place: number for number, place in enumerate(self.rung.places)}
        self.sent = {kind: self.rung.streams[:, [order[place] for place in self.donors[kind]]] for kind in DONORS}

    def solved(self, asker: ladder.Asker, variants: dict[int, tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Places of the problems that are solved in every language, by base and variant; asked as far as it is worth it."""
        bases = [place for place, (_, variant) in variants.items() if variant == "base"][:BASES]
        ladder.ask(asker, self.rung, bases[:TRIED])
        if len(self.rung.usable) > 1:
            ladder.ask(asker, self.rung, bases)
            solved = {variants[place][0] for place in self.rung.usable}
            wanted = [place for place, (base, kind) in variants.items() if base in solved and kind in DONORS]
            ladder.ask(asker, self.rung, wanted)
        return {variants[place]: int(place) for place in self.rung.usable}

    def test(self, candidate: dissociation.Candidate, row: dict) -> dict:
        """What donors of both kinds do through a subspace; of problems whose donor's answer its fit has not seen."""
        problems = self.rung.problems if self.bases else []
        kept = [
            number
            for number, place in enumerate(self.bases)
            if str(problems[self.donors["operation"][number]].answer) not in candidate.seen
        ]
        found = self.summary | {"problems": len(kept)}
        if self.bases and len(kept) < dissociation.FEWEST:
            found["unmeasured"] = "too few of these problems have answers on which nothing was fitted"
        if found["unmeasured"]:
            return found
        swapped = Swapped(self, row["site"], np.array(kept))
        basis = candidate.basis(row["site"]).float()[None]
        draw = self.measured.seeded(f"Haar of contrasts {candidate.name}")
        haar = utils.random_subspaces(draw, DRAWS, *basis.shape[1:]).float()
        weights = transfer.resamples(len(kept), dissociation.RESAMPLES, self.measured.seeded("resamples of contrasts"))
        full, own = (weights @ swapped.shift("operation", bases)[0] for bases in (None, basis))
        if not transfer.usable(full, full[0]):
            return found | {"unmeasured": "the full swap moves too little of these problems"}

        def share(values: np.ndarray, below: np.ndarray) -> dict:
            return transfer.record(weights @ values[0] / below)

        drawn = swapped.shift("operation", haar).sum(1) / full[0]
        operation = {"full": transfer.record(full / weights.sum(1)), "z": transfer.record(own / full)}
        operation |= {"haar": statistics.null_record(drawn, float(own[0] / full[0]))}
        same = {"pairs": len(kept) * self.languages**2}
        operation |= same
        for name, bases in (("full_", None), ("", basis)):
            operation[f"{name}wins"] = share(swapped.won("operation", "operation", bases), weights.sum(1))
            same[f"{name}kept"] = share(swapped.won("same_answer", "base", bases), weights.sum(1))
            same[f"{name}moved"] = share(swapped.shift("same_answer", bases), full)
        return found | {"operation": operation, "same_answer": same}


class Swapped:
    """Swaps into some of the base problems at a site, each from its own donor."""

    def __init__(self, contrasts: Contrasts, site: int, kept: np.ndarray):
        self.contrasts, self.site, self.kept = contrasts, site, kept
        places = {"base": contrasts.bases, **contrasts.donors}
        problems, known = contrasts.rung.problems, contrasts.rung.known
        self.places = {kind: np.array([known.place(problems[place]) for place in own]) for kind, own in places.items()}
        self.unpatched = self.gap(contrasts.patching.unpatched(site)[None, :, :, None])

    def scores(self, kind: str, bases: torch.Tensor | None) -> np.ndarray:
        """(m, b, R, a, columns) with a kind of donor, inside of subspaces (m, k, d) or whole."""
        donors, sent = np.eye(len(self.contrasts.bases), dtype=bool), self.contrasts.sent[kind][:, :, self.site]
        return np.einsum("mbrarc->mbrac", self.contrasts.patching.scores(self.site, donors, bases, given=sent))

    def gap(self, scores: np.ndarray) -> np.ndarray:
        """log p of the answer under the other operation less the own one's, in the recipient's language: (m, R) nats."""
        columns = scores.reshape(*scores.shape[:-1], -1, self.contrasts.languages)
        own = np.einsum("mbraqb->mbraq", columns)
        other, base = (
            np.take_along_axis(own, self.places[kind][None, None, :, None, None], -1)[..., 0]
            for kind in ("operation", "base")
        )
        return (other - base).mean((1, 3))[:, self.kept]

    def shift(self, kind: str, bases: torch.Tensor | None) -> np.ndarray:
        """By how much donors of a kind change that: (m, R) nats."""
        return self.gap(self.scores(kind, bases)) - self.unpatched

    def won(self, kind: str, whose: str, bases: torch.Tensor | None) -> np.ndarray:
        """How often an answer, in whichever language, is then the most probable: (m, R)."""
        best = self.scores(kind, bases).argmax(-1) // self.contrasts.languages
        return (best == self.places[whose][:, None]).mean((1, 3))[:, self.kept]
