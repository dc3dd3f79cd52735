"""Whether what a subspace holds can be written otherwise: the recipient is asked for its answer in another format.

A swap that moves an answer in words may move a code of these words. Here the donor is still asked in words, and the
recipient's exemplars answer in digits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
import torch

import utils
from lab import answers, dissociation, gates, ladder, numerals, questions, statistics, swaps, transfer
from lab.problems import Problem

DRAWS = 20  # random subspaces: above all of them is p < .05
DONORS = 4  # of a recipient in another format, with different answers
LEAST = 4  # answers that are told apart: a donor, its contrast, the recipient's own, and one more
MASS = 0.5  # least probability of the answers in the format, as of those in words
IMPROBABLE = -1e4  # nats: of an answer in a language that the recipient is not asked in


@dataclass(frozen=True)
class Format:
    """Another way of writing an answer.

    write(problem, language): its text, None where there is none; asked(problem, language): what of the kind the question
    holds itself, written so.
    """

    name: str
    write: Callable[[Problem, str], str | None]
    asked: Callable[[Problem, str], Sequence[str]] = lambda problem, language: ()


def digits(problem: Problem, _: str) -> str | None:
    """A whole number in digits, alike in all languages."""
    return None if isinstance(problem.answer, str) or problem.answer.denominator > 1 else str(problem.answer)


def digits_asked(problem: Problem, language: str) -> list[str]:
    """The numbers of a question, in digits."""
    return [str(number) for number in numerals.find_numbers(problem.question[language], language)]


FORMATS = (Format("digits", digits, digits_asked),)


class Reformatted:
    """The judging problems, with exemplars that answer in another format; scored with what their answers begin with there.

    What the answers of a language begin with alike (a space before digits) is part of its prompt; then one token is the
    answer, as far as it tells answers apart: later ones read the recipient's question again. Left out are problems whose
    question holds a number that begins as the answer does. `unmeasured` says why there is nothing to swap into, else None.
    """

    def __init__(self, asker: ladder.Asker, rung: ladder.Rung, measured: dissociation.Measured, form: Format):
        design, names = measured.design, asker.names
        self.form, self.measured, self.part, self.patchings = form, measured, design.part("test"), []
        self.solved, self.usable = np.zeros((len(names), len(self.part)), bool), np.zeros(0, int)
        problems, exemplars = (rewritten(some, names, form) for some in (rung.problems, rung.asked.exemplars))
        self.unmeasured = f"these answers cannot be written in {form.name}"
        if len(problems) < len(rung.problems) or not exemplars:
            return
        begun = [Beginnings(asker, problems, name) for name in names]
        kinds = list(zip(*(own.tokens for own in begun)))  # of a problem: its answer's token in every language
        self.kinds = {str(problem.answer): kind for problem, kind in zip(problems, kinds)}
        judged = design.scored[self.part]
        apart = told_apart([kinds[place] for place in judged])
        self.own = np.array([apart.index(kinds[place]) if kinds[place] in apart else -1 for place in judged])
        self.tokens, mass = [apart[number] if number >= 0 else None for number in self.own], []
        for row, (name, own) in enumerate(zip(names, begun)):
            prompts = [
                questions.prompt_text(problems[place], name, asker.languages, exemplars) + own.shared
                for place in judged
            ]
            columns, everybody = [(kind[row],) for kind in apart], [np.arange(len(judged))]
            patching = swaps.Patching(asker.model, asker.tokenizer, [prompts], columns, asker.batch, everybody)
            self.solved[row] = patching.unpatched(measured.patching.streams.shape[2] - 1)[0].argmax(-1) == self.own
            in_question = [own.holds(problems[place], form) for place in judged]
            self.solved[row] &= ~np.array(in_question)
            self.patchings.append(patching)
            mass.append(patching.mass)
        written = gates.word_subspace(asker.model, [(token,) for kind in apart for token in kind], len(names))
        self.code = gates.spanned(torch.cat([measured.words, written]))
        self.usable, self.mass = np.flatnonzero(self.solved.all(0)), float(np.mean(mass))
        self.unmeasured = self.too_few(self.usable)
        if self.mass < MASS:
            self.unmeasured = f"answers in {form.name} hold less than half of the probability"

    def too_few(self, usable: np.ndarray) -> str | None:
        """Why so few problems do not do."""
        enough = len(usable) >= dissociation.FEWEST and len(set(self.own[usable])) >= LEAST
        return None if enough else f"too few problems are solved with answers in {self.form.name} that can be judged"

    @property
    def summary(self) -> dict:
        """What was asked and solved."""
        names = self.measured.design.known.languages
        solved = dict(zip(names, self.solved.sum(1).tolist()))
        return {"name": self.form.name, "asked": len(self.part), "solved": solved, "unmeasured": self.unmeasured}

    def unseen(self, candidate: dissociation.Candidate, row: dict) -> np.ndarray:
        """Usable problems that judge a candidate, and whose answer begins as none does that its fit has seen."""
        seen = [
            set(tokens) for tokens in zip(*(self.kinds[answer] for answer in candidate.seen if answer in self.kinds))
        ]
        judging = self.usable[np.isin(self.part[self.usable], self.measured.design.part(row["judged_on"]))]
        kept = [not any(token in own for token, own in zip(self.tokens[place], seen)) for place in judging]
        return judging[np.array(kept, bool)]

    def test(self, candidate: dissociation.Candidate, row: dict) -> dict:
        """How much of a full swap's effect on the answer a subspace carries into this format, beside random subspaces.

        The full swap is that of the same donors, asked in words. `outside`: the same outside of the code of both ways' words,
        which share much where the model is about to write.
        """
        if self.unmeasured:
            return self.summary
        usable = self.unseen(candidate, row)
        if reason := self.too_few(usable):
            return self.summary | {"unmeasured": reason}
        site, basis, measured = row["site"], candidate.basis(row["site"]).float(), self.measured
        swapped = Swapped(self, site, usable)
        own, full = swapped.moved(None, swapped.own), swapped.moved(None)
        found = self.summary | {"problems": len(usable), "answers": len(set(self.own[usable])), "mass": self.mass}
        found |= {"reference": transfer.record(own["t"][0]), "full": transfer.record(full["t"][0])}
        if not all(transfer.usable(one["t"][0], own["t"][0][0]) for one in (own, full)):
            return found | {"unmeasured": f"the full swap moves too little with answers in {self.form.name}"}
        haar = utils.random_subspaces(measured.seeded(f"Haar in {self.form.name}"), DRAWS, *basis.shape)
        seeded = measured.seeded(f"matched in {self.form.name} {candidate.name}")
        matched = gates.matched_draws(seeded, DRAWS, basis, measured.fitted[:, :, site])
        rest = [gates.left_outside(one, self.code) for one in (basis, *haar)]
        size = min(map(len, rest[1:]))
        left = swapped.moved(self.code[None], outside=True)["t"][0]
        outside = {"dimensions": len(self.code), "full": transfer.record(left / full["t"][0])}
        outside |= swapped.share(rest[0], torch.stack([one[:size] for one in rest[1:]]), left, full["t"][0])
        found |= swapped.share(basis, haar, full["t"][0], full["t"][0]) | {"outside": outside, "matched": None}
        if matched is not None:
            found["matched"] = statistics.spread(swapped.moved(matched, points=True)["t"] / full["t"][0][0])
        z = swapped.moved(basis[None])
        return found | {"wins": transfer.record(z["wins"][0]), "full_wins": transfer.record(own["wins"][0])}


class Swapped:
    """Swaps at a site into the usable problems, of donors asked in words unless others are given."""

    def __init__(self, reformatted: Reformatted, site: int, usable: np.ndarray):
        measured, count = reformatted.measured, len(reformatted.part)
        self.reformatted, self.site, self.usable = reformatted, site, usable
        self.given = measured.patching.streams[:, :, site][:, reformatted.part]
        self.own = torch.cat([patching.streams[:, :, site] for patching in reformatted.patchings])
        self.donors = np.zeros((count, count), bool)
        seeded = measured.seeded(f"donors {reformatted.form.name}")
        blocks = transfer.donor_blocks(reformatted.own[usable], seeded, DONORS)
        self.donors[np.ix_(usable, usable)] = blocks
        self.weights = transfer.resamples(len(usable), dissociation.RESAMPLES, measured.seeded("resamples in a format"))

    def moved(self, bases: torch.Tensor | None, given=None, outside: bool = False, points: bool = False) -> dict:
        """T over donors of all languages, nats, and how often the donor's answer wins: {name: (m, draws)}, or `points` (m,)."""
        parts, given = None if bases is None else bases.float(), self.given if given is None else given
        scores = np.concatenate(
            [one.scores(self.site, self.donors, parts, outside, given=given) for one in self.reformatted.patchings], 1
        )  # (m, b, R, a, N, A)
        languages = scores.shape[1]
        part = scores[:, :, self.usable][:, :, :, :, self.usable]
        columns = np.full((*part.shape, languages), IMPROBABLE)
        for language in range(languages):  # each has columns of its own, since tokens may differ
            columns[:, language, ..., language] = part[:, language]
        own, donors = self.reformatted.own[self.usable], self.donors[np.ix_(self.usable, self.usable)]
        found = transfer.estimates(transfer.effects(columns, own, donors), None if points else self.weights)
        pairs = {"t": ("t_same", "t_cross"), "wins": ("iia_same", "donor_recipient")}
        return {name: (found[same] + found[cross]) / 2 for name, (same, cross) in pairs.items()}

    def share(self, subspace: torch.Tensor, draws: torch.Tensor, below: np.ndarray, best: np.ndarray) -> dict:
        """A subspace's T over what is `below`, and the null of that; None where that is too little beside the best."""
        if not transfer.usable(below, best[0]):
            return {"z": transfer.record(None), "haar": None}
        found = self.moved(subspace[None])["t"][0] / below
        null = self.moved(draws, points=True)["t"] / below[0]
        return {"z": transfer.record(found), "haar": statistics.null_record(null, float(found[0]))}


class Beginnings:
    """What the answers of problems begin with in a language: `shared` by all, and then one token each."""

    def __init__(self, asker: ladder.Asker, problems: Sequence[Problem], name: str):
        self.asker, self.name = asker, name
        written = [self.written(problem, problem.answer_text[name]) for problem in problems]
        alike = takewhile(lambda own: len(set(own)) == 1, zip(*(tokens[:-1] for tokens in written)))
        shared = [own[0] for own in alike]
        self.shared = asker.tokenizer.decode(shared)
        prompt = questions.prompt_text(problems[0], name, asker.languages)
        if answers.following(asker.tokenizer, prompt, self.shared) != tuple(shared):
            self.shared, shared = "", []
        self.skipped, self.tokens = len(shared), [tokens[len(shared)] for tokens in written]

    def written(self, problem: Problem, text: str) -> tuple[int, ...]:
        """The tokens of a text as an answer, behind the problem's prompt without exemplars."""
        return answers.answer_tokens(self.asker.tokenizer, problem, text, self.name, self.asker.languages)[0]

    def holds(self, problem: Problem, form: Format) -> bool:
        """Whether the question holds something of the kind that begins as the answer does."""
        own = self.written(problem, problem.answer_text[self.name])[self.skipped]
        asked = [self.written(problem, text)[self.skipped :][:1] for text in form.asked(problem, self.name)]
        return (own,) in asked


def rewritten(problems: Sequence[Problem], names: Sequence[str], form: Format) -> list[Problem]:
    """Those problems whose answers can be written in the format, with answers written so."""
    texts = [{name: form.write(problem, name) for name in names} for problem in problems]
    return [
        replace(problem, answer_text=own, solution={})
        for problem, own in zip(problems, texts)
        if None not in own.values()
    ]


def told_apart(kinds: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Of the answers' tokens in every language those that share none with an earlier one in any language."""
    taken, found = [set() for _ in kinds[0]], []
    for kind in dict.fromkeys(kinds):
        if not any(token in own for token, own in zip(kind, taken)):
            found.append(kind)
            for token, own in zip(kind, taken):
                own.add(token)
    return found
