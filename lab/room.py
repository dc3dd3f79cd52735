"""A kind of problem that leaves room on both sides: neither is everything solved, nor nothing. And its two halves, by answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lab import answers, ladder, questions, runs, statistics, swaps


@dataclass(frozen=True)
class Wanted:
    """What a rung should bring."""

    low: float  # share of right answers that leaves room below, and
    high: float  # above
    precheck: int  # problems that a rung is tried on
    most: int  # problems of each half, evenly spaced
    least: int  # problems of each half


@dataclass
class Rung(ladder.Rung):
    """A kind of problem, and which of its problems are the development half."""

    number: int = 0
    development: np.ndarray = None  # (problems,) bool

    def half(self, development: bool, most: int) -> list[int]:
        """Places of so many problems of a half, of those whose answer is told apart from all others."""
        told = np.array([self.known.place(problem) >= 0 for problem in self.problems], bool)
        return spaced(np.flatnonzero((self.development == development) & told), most)


def spaced(places: Sequence[int], most: int) -> list[int]:
    """So many of them, evenly spaced: a file may list one kind of problem after the other."""
    if not len(places):
        return []
    chosen = np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int))
    return [int(places[place]) for place in chosen]


def by_answer(problems: list, fitted: frozenset[str], draw: torch.Generator) -> list[bool]:
    """Which problems are the development half: those with answers that Z was fitted on, or else half of the answers at random."""
    names = [str(problem.answer) for problem in problems]
    if fitted:
        return [name in fitted for name in names]
    return swaps.halves(names, draw).tolist()


def choose_rung(
    asker: ladder.Asker,
    rungs: list[questions.Asked],
    wanted: Wanted,
    earlier: dict[str, list[int]],
    fitted_on: set[str],
    draw: torch.Generator,
) -> tuple[Rung, list[dict]]:
    """The rung whose share of right answers is nearest to the wanted range, of equals the hardest; and a row for each tried.

    `earlier`: {rung: [right, prompts]} of what was asked before, which serves as well. The walk ends at a rung in the range.
    The same draw parts every rung into halves. UserError where the answers of all are written alike.
    """
    found, rows, state = [], [], draw.get_state()
    for number, asked in enumerate(rungs):
        problems, fitted = ladder.parted(asked.problems, fitted_on)
        known = answers.answer_set(asker.tokenizer, asked.problems, asker.languages)
        rung = Rung(asked, problems, known, len(asked.problems) - len(problems), fitted, number=number)
        draw.set_state(state)
        rung.development = np.array(by_answer(problems, fitted, draw), bool)
        row = {"rung": rung.name, "by": None, "share": None, "away": None}
        found.append(rung)
        rows.append(row | {"right": None, "prompts": 0})
        if min(len(rung.half(one, wanted.most)) for one in (True, False)) < max(wanted.least, len(asker.names)):
            continue
        rows[-1] |= first_look(asker, rung, wanted, earlier.get(row["rung"]))
        if not rows[-1]["away"]:
            break
    told = [place for place, row in enumerate(rows) if row["away"] is not None]
    if not told:
        raise runs.UserError(
            f"{', '.join(map(str, rungs[0].files))}: this model's tokens write too many answers alike: give others with "
            "--problems"
        )
    return found[min(told, key=lambda place: rows[place]["away"])], rows


def first_look(asker: ladder.Asker, rung: Rung, wanted: Wanted, earlier: list[int] | None) -> dict:
    """How many prompts are right unedited, and how far their share is from the wanted range."""
    by, counted = "phase 3", earlier
    if counted is None:
        ladder.ask(asker, rung, spaced(range(len(rung.problems)), wanted.precheck))
        by, counted = "asked here", [int(rung.right.sum()), rung.right.size]
    share = counted[0] / counted[1]
    away = max(wanted.low - share, share - wanted.high, 0.0)
    return {"by": by, "right": counted[0], "prompts": counted[1], "share": share, "away": away}


def ask_halves(asker: ladder.Asker, rung: Rung, wanted: Wanted) -> dict[str, list[int]]:
    """Places of both halves' problems, which are asked unedited as far as they were not yet."""
    halves = {"development": rung.half(True, wanted.most), "test": rung.half(False, wanted.most)}
    ladder.ask(asker, rung, sorted(sum(halves.values(), [])))
    return halves


def rightness(rung: Rung, places: list[int]) -> np.ndarray:
    """Whether the most probable answer is the right one, in whichever language: (languages, problems)."""
    return best_answers(rung, places) == answer_places(rung, places)


def best_answers(rung: Rung, places: list[int]) -> np.ndarray:
    """Places of the most probable answers, (languages, problems)."""
    languages = range(len(rung.known.languages))
    return np.array([[rung.found[language, place][0] // len(languages) for place in places] for language in languages])


def answer_places(rung: Rung, places: list[int]) -> np.ndarray:
    """Places of the right answers, (problems,)."""
    return np.array([rung.known.place(rung.problems[place]) for place in places])


def guessing(rung: Rung, places: list[int], shuffles: int, draw: torch.Generator) -> dict:
    """The share right, beside what it is with the answers shuffled among the problems: a model that guesses gets that."""
    best, own = best_answers(rung, places), answer_places(rung, places)
    generator, accuracy = statistics.numpy_generator(draw), float((best == own).mean())
    shuffled = [float((best == generator.permutation(own)).mean()) for _ in range(shuffles)]
    return {"accuracy": accuracy} | statistics.null_record(shuffled, accuracy - 1e-9)
