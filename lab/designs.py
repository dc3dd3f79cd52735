"""Who gives a stream to whom: the problems that are patched, their halves by answer, and every recipient's donors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lab import answers, ladder, swaps, transfer

MOST = 20  # problems of each half that are patched: a condition costs the same on all of them; fits use the others too
BLOCK = 8  # donors of a recipient, with different answers
FEW = 2  # of these, for the curve over sites, for choices, draws and gates: the fewest that are each other's contrast
HALVES = ("development", "test")


@dataclass
class Design:
    """The problems that are patched, and who gives to whom: recipients and donors are one list, of two halves."""

    scored: np.ndarray  # places among the rung's problems
    development: np.ndarray  # (scored,) bool; the others are the test half
    halved: np.ndarray  # places of all problems of the development half
    fits: np.ndarray  # of these, what is fitted sees those that share no first token with a test answer
    known: answers.AnswerSet
    places: np.ndarray  # (scored,) each problem's answer in `known`
    prompts: list[list[str]]  # (languages, scored)
    blocks: np.ndarray  # (scored, scored) bool: a recipient's donors, of its half
    few: np.ndarray  # FEW of them, with different answers; an unseen problem's are unseen
    unseen: (
        np.ndarray
    )  # (scored,) bool: test problems whose answers begin as none does on which the Z handed on was fitted

    def part(self, half: str) -> np.ndarray:
        """Places of a half, of its `unseen` part, or of `all`, among the scored problems."""
        mine = {"development": self.development, "test": ~self.development, "unseen": self.unseen}
        return np.flatnonzero(mine[half]) if half in mine else np.arange(len(self.scored))

    def within(self, half: str, most: int | None = None) -> np.ndarray:
        """Few donors for the recipients of a half; with `most` for so many of these, evenly spaced."""
        part = self.part(half)
        chosen = part if most is None else part[np.unique(np.linspace(0, len(part) - 1, most).round().astype(int))]
        return self.few & np.isin(np.arange(len(self.few)), chosen)[:, None]

    def judges(self, half: str) -> int:
        """How many recipients of a part have two donors of it, with different answers: a contrast to be judged by."""
        part = self.part(half)
        given = [set(self.places[part[donors]]) for donors in self.few[np.ix_(part, part)]]
        return sum(len(answers) > 1 for answers in given)

    def effects(self, scores: np.ndarray, half: str, donors: np.ndarray) -> transfer.Effects:
        """The part of the scores (m, b, R, a, N, columns) that a half's recipients and donors have; donors are contrasts."""
        part, languages = self.part(half), len(self.known.languages)
        own = scores[:, :, part][:, :, :, :, part]
        own = own.reshape(*own.shape[:-1], -1, languages)
        return transfer.effects(own, self.places[part], donors[part][:, part])


def make_design(
    asker: ladder.Asker,
    rung: ladder.Rung,
    needed: ladder.Needed,
    fitted_answers: set[str],
    seeded: Callable[[str], torch.Generator],
) -> Design:
    """Halves by answer; of each MOST problems, evenly spaced, are patched, every one with a block of donors of its half.

    Development are the rung's answers that a Z was fitted on, where it has such, else half of all, drawn at random.
    Problems with answers that the Z handed on has not seen get donors of this kind alone, as far as there are enough.

    Patched are answers that their first token tells apart, where enough are: later tokens of an answer read the recipient's
    question again, which no swap at the last position changes. Fits use all answers.
    """
    solved = rung.usable
    numbers = np.array([rung.known.place(rung.problems[problem]) for problem in solved])
    at_once = np.isin(numbers, rung.known.at_once(numbers.tolist()))
    if at_once.sum() < needed.problems or len(set(numbers[at_once])) < needed.answers:
        at_once[:] = True
    development = np.zeros(len(solved), bool)
    for part, label in ((at_once, "halves"), (~at_once, "halves of the others")):
        development[part] = swaps.halves(numbers[part].tolist(), seeded(label))
    if rung.fitted:
        development = np.array([str(rung.problems[problem].answer) in rung.fitted for problem in solved])
    halves = (at_once & development, at_once & ~development)
    chosen = np.sort(np.concatenate([spread(np.flatnonzero(half)) for half in halves]))
    problems = [rung.problems[problem] for problem in solved[chosen]]
    known = answers.answer_set(asker.tokenizer, problems, asker.languages)
    places = np.array([known.place(problem) for problem in problems])
    blocks = np.zeros((len(chosen), len(chosen)), bool)
    for half in (development[chosen], ~development[chosen]):
        part = np.flatnonzero(half)
        blocks[np.ix_(part, part)] = transfer.donor_blocks(places[part], seeded("donors"), BLOCK)
    texts = [[rung.prompt(asker, language, problem) for problem in solved[chosen]] for language in asker.names]
    fitted = [problem for problem in solved if str(rung.problems[problem].answer) in fitted_answers]
    begun = set().union(*(first_tokens(rung, problem) for problem in fitted))  # a fit to "twenty-one" has seen "twenty"
    seen = np.array([bool(first_tokens(rung, problem) & begun) for problem in solved[chosen]])
    unseen = ~development[chosen] & ~seen
    if len(set(places[unseen])) > FEW:
        own = transfer.donor_blocks(places[unseen], seeded("donors of unseen answers"), BLOCK)
        blocks[unseen] = False
        blocks[np.ix_(unseen, unseen)] = own
    fits = unshared(rung, solved[development], solved[chosen][~development[chosen]])
    few = few_donors(blocks, places, seeded("few donors"))
    return Design(
        solved[chosen], development[chosen], solved[development], fits, known, places, texts, blocks, few, unseen
    )


def spread(places: np.ndarray) -> np.ndarray:
    """MOST of them, evenly spaced: a file may list one kind of problem after the other."""
    return places[np.unique(np.linspace(0, len(places) - 1, min(MOST, len(places))).round().astype(int))]


def unshared(rung: ladder.Rung, fits: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Of the problems to fit on those whose answers begin with no token that an answer to be tested begins with."""
    taken = set().union(*(first_tokens(rung, problem) for problem in test))
    return np.array([problem for problem in fits if not first_tokens(rung, problem) & taken], int)


def first_tokens(rung: ladder.Rung, problem: int) -> set[int]:
    """What a problem's answer begins with, in every language."""
    languages, place = len(rung.known.languages), rung.known.place(rung.problems[problem])
    return {tokens[0] for tokens in rung.known.tokens[place * languages : (place + 1) * languages]}


def few_donors(blocks: np.ndarray, places: Sequence[int], generator: torch.Generator) -> np.ndarray:
    """FEW donors of every block, with different answers: a pair of one answer is no contrast. (R, N), (N,) -> (R, N) bool"""
    few = np.zeros_like(blocks)
    for _ in range(FEW):
        taken = few.astype(int) @ (places[:, None] == places) > 0  # donors whose answer is there already
        few |= transfer.one_donor_each(blocks & ~taken, generator)
    return few
