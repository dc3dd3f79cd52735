"""Whether what a subspace holds can be written otherwise: the recipient is asked for its answer in another format.

A swap that moves an answer in words may move a code of these words. Here the donor is still asked in words, and the
recipient's exemplars answer in digits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

import utils
from lab import answers, dissociation, gates, ladder, questions, statistics, swaps, transfer
from lab.problems import Problem

DRAWS = 20  # Haar subspaces: above all of them is p < .05
DONORS = 4  # of a recipient in another format, with different answers
IMPROBABLE = -1e4  # nats: of an answer in a language that the recipient is not asked in


@dataclass(frozen=True)
class Format:
    """Another way of writing an answer. `write(problem, language)`: its text, None where there is none."""

    name: str
    write: Callable[[Problem, str], str | None]


def digits(problem: Problem, _: str) -> str | None:
    """A whole number in digits, alike in all languages."""
    return None if isinstance(problem.answer, str) or problem.answer.denominator > 1 else str(problem.answer)


FORMATS = (Format("digits", digits),)


class Reformatted:
    """The judging problems, with exemplars that answer in another format; scored with what their answers begin with there.

    What the answers of a language begin with alike (a space before digits) is part of its prompt; then one token is the
    answer, as far as it tells answers apart: later ones read the recipient's question again. `unmeasured` says why there is
    nothing to swap into, else None.
    """

    def __init__(self, asker: ladder.Asker, rung: ladder.Rung, measured: dissociation.Measured, form: Format):
        design, names = measured.design, asker.names
        self.form, self.measured, self.part, self.patchings = form, measured, design.part("test"), []
        problems = rewritten([rung.problems[problem] for problem in design.scored[self.part]], names, form)
        exemplars = rewritten(rung.asked.exemplars, names, form)
        self.solved, self.usable = np.zeros((len(names), len(self.part)), bool), np.zeros(0, int)
        if len(problems) < len(self.part) or not exemplars:
            self.unmeasured = f"these answers cannot be written in {form.name}"
            return
        asked = [first_tokens(asker, problems, name, exemplars) for name in names]
        kinds = list(zip(*(tokens for _, tokens in asked)))  # of a problem: its answer's token in every language
        apart = told_apart(kinds)
        self.own = np.array([apart.index(kind) if kind in apart else -1 for kind in kinds])
        for row, (prompts, _) in enumerate(asked):
            tokens, everybody = [(kind[row],) for kind in apart], [np.arange(len(problems))]
            patching = swaps.Patching(asker.model, asker.tokenizer, [prompts], tokens, asker.batch, everybody)
            self.solved[row] = patching.unpatched(measured.patching.streams.shape[2] - 1)[0].argmax(-1) == self.own
            self.patchings.append(patching)
        both = [
            measured.words,
            gates.word_subspace(asker.model, [(token,) for kind in apart for token in kind], len(names)),
        ]
        self.code = gates.spanned(torch.cat(both))
        self.usable = np.flatnonzero(self.solved.all(0))
        few = len(set(self.own[self.usable])) < dissociation.FEWEST
        self.unmeasured = f"too few problems are solved with answers in {form.name}" if few else None

    @property
    def summary(self) -> dict:
        names = self.measured.design.known.languages
        solved = dict(zip(names, self.solved.sum(1).tolist()))
        return {"name": self.form.name, "asked": len(self.part), "solved": solved, "unmeasured": self.unmeasured}

    def test(self, candidate: dissociation.Candidate, row: dict) -> dict:
        """How much of a swap's effect on the answer a subspace carries into this format, beside Haar subspaces.

        `outside`: the same outside of the code of both ways' words, which hold much of each other where the model is about to
        write: what a full swap keeps there, and what the subspace moves of that.
        """
        if self.unmeasured:
            return self.summary
        site, basis, measured = row["site"], candidate.basis(row["site"]).float(), self.measured
        usable = self.usable[np.isin(self.part[self.usable], measured.design.part(row["judged_on"]))]
        if len(set(self.own[usable])) < dissociation.FEWEST:
            return self.summary | {"unmeasured": f"too few problems with unseen answers are solved in {self.form.name}"}
        given = measured.patching.streams[:, :, site][:, self.part]
        own = torch.cat([patching.streams[:, :, site] for patching in self.patchings])
        donors = np.zeros((len(self.part), len(self.part)), bool)
        blocks = transfer.donor_blocks(self.own[usable], measured.seeded(f"donors {self.form.name}"), DONORS)
        donors[np.ix_(usable, usable)] = blocks
        weights = transfer.resamples(len(usable), dissociation.RESAMPLES, measured.seeded("resamples in a format"))

        def moved(bases: torch.Tensor | None, sent: torch.Tensor, outside: bool = False, drawn=weights) -> dict:
            parts = None if bases is None else bases.float()
            scores = [patching.scores(site, donors, parts, outside, given=sent) for patching in self.patchings]
            return self.effects(np.concatenate(scores, 1), donors, usable, drawn)

        def share(subspace: torch.Tensor, draws: torch.Tensor, below: np.ndarray) -> dict:
            if not transfer.usable(below, reference[0]):
                return {"z": transfer.record(None), "haar": None}
            found = moved(subspace[None], given)["t"][0] / below
            null = moved(draws, given, drawn=None)["t"] / below[0]
            return {"z": transfer.record(found), "haar": statistics.null_record(null, float(found[0]))}

        swapped, full, z = moved(None, own), moved(None, given)["t"][0], moved(basis[None], given)
        reference = swapped["t"][0]
        found = self.summary | {"problems": len(usable), "reference": transfer.record(reference)}
        if not transfer.usable(reference, reference[0]):
            return found | {"unmeasured": f"the full swap moves too little with answers in {self.form.name}"}
        haar = utils.random_subspaces(measured.seeded(f"Haar in {self.form.name}"), DRAWS, *basis.shape)
        rest = [gates.left_outside(one, self.code) for one in (basis, *haar)]
        size = min(map(len, rest[1:]))
        left = moved(self.code[None], own, outside=True)["t"][0]
        outside = {"dimensions": len(self.code), "full": transfer.record(left / reference)}
        outside |= share(rest[0], torch.stack([one[:size] for one in rest[1:]]), left)
        found |= {"full": transfer.record(full / reference), **share(basis, haar, reference), "outside": outside}
        return found | {"wins": transfer.record(z["wins"][0]), "full_wins": transfer.record(swapped["wins"][0])}

    def effects(self, scores: np.ndarray, donors: np.ndarray, usable: np.ndarray, weights) -> dict[str, np.ndarray]:
        """T over donors of all languages, nats, and how often the donor's answer wins: scores (m, b, R, a, N, A)."""
        languages = scores.shape[1]
        part = scores[:, :, usable][:, :, :, :, usable]
        columns = np.full((*part.shape, languages), IMPROBABLE)
        for language in range(languages):  # each has columns of its own, since tokens may differ
            columns[:, language, ..., language] = part[:, language]
        found = transfer.effects(columns, self.own[usable], donors[np.ix_(usable, usable)])
        estimates = transfer.estimates(found, weights)
        pairs = {"t": ("t_same", "t_cross"), "wins": ("iia_same", "donor_recipient")}
        return {name: (estimates[same] + estimates[cross]) / 2 for name, (same, cross) in pairs.items()}


def rewritten(problems: Sequence[Problem], names: Sequence[str], form: Format) -> list[Problem]:
    """Those problems whose answers can be written in the format, with answers written so."""
    texts = [{name: form.write(problem, name) for name in names} for problem in problems]
    return [
        replace(problem, answer_text=own, solution={})
        for problem, own in zip(problems, texts)
        if None not in own.values()
    ]


def first_tokens(
    asker: ladder.Asker, problems: list[Problem], name: str, exemplars: list[Problem]
) -> tuple[list, list]:
    """Prompts in a language, with what all answers begin with, and the first token of every answer behind that."""
    prompts = [questions.prompt_text(problem, name, asker.languages, exemplars) for problem in problems]
    written = [
        answers.answer_tokens(asker.tokenizer, problem, problem.answer_text[name], name, asker.languages)[0]
        for problem in problems
    ]
    shared = [own[0] for own in zip(*(tokens[:-1] for tokens in written)) if len(set(own)) == 1]
    text = asker.tokenizer.decode(shared)
    if shared and answers.following(asker.tokenizer, prompts[0], text) == tuple(shared):
        return [prompt + text for prompt in prompts], [tokens[len(shared)] for tokens in written]
    return prompts, [tokens[0] for tokens in written]


def told_apart(kinds: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Of the answers' tokens in every language those that share none with an earlier one in any language."""
    taken, found = [set() for _ in kinds[0]], []
    for kind in dict.fromkeys(kinds):
        if not any(token in own for token, own in zip(kind, taken)):
            found.append(kind)
            for token, own in zip(kind, taken):
                own.add(token)
    return found
