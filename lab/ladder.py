"""The ladder: kinds of problem from the hardest down, asked unpatched until one is solved often enough."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from lab import answers, beginnings, engine, progress, questions, runs

MOST_FITTED = 2 / 3  # of a rung's answers, that a Z may be fitted on and still leave enough to be judged by


@dataclass(frozen=True)
class Needed:
    """What a rung must bring."""

    problems: int  # solved in every language
    answers: int  # different ones among these
    mass: float  # mean unpatched probability of the answer set
    precheck: int  # problems that a rung is tried on before all of it is asked
    least: float  # share of the solved problems needed that these must promise: a few could fail by chance


@dataclass
class Asker:
    """A model, and the languages in which it is asked."""

    model: object
    tokenizer: object
    languages: dict  # name -> template
    batch: int

    @cached_property
    def shared(self) -> beginnings.Beginnings:
        """What prompts that are asked unpatched begin alike with, run once for all of them."""
        return beginnings.Beginnings(self.model)

    @property
    def names(self) -> list[str]:
        """The languages, in order."""
        return list(self.languages)


@dataclass
class Rung:
    """A kind of problem, asked unpatched."""

    asked: questions.Asked
    problems: list
    known: answers.AnswerSet
    left_out: int = 0  # problems of the file that are not asked
    fitted: frozenset = frozenset()  # answers of problems that Z was fitted on: where there are any, they are one half
    found: dict = field(
        default_factory=dict
    )  # (language, problem) -> most probable column, mass of the set or None, streams

    @property
    def name(self) -> str:
        """The names of its files."""
        return "+".join(file.stem for file in self.asked.files)

    @property
    def places(self) -> list[int]:
        """The problems asked so far."""
        return sorted({problem for _, problem in self.found})

    @property
    def right(self) -> np.ndarray:
        """(languages, problems asked) whether the right answer in the right language is the set's most probable."""
        languages = range(len(self.known.languages))
        wanted = {problem: self.known.place(self.problems[problem]) for problem in self.places}
        columns = [[wanted[problem] * len(languages) + language for problem in self.places] for language in languages]
        best = [[self.found[language, problem][0] for problem in self.places] for language in languages]
        return (np.array(best) == columns) & (np.array(list(wanted.values())) >= 0)

    @property
    def usable(self) -> np.ndarray:
        """Problems solved in every language."""
        return np.array(self.places, int)[self.right.all(0)] if self.found else np.zeros(0, int)

    @property
    def mass(self) -> float | None:
        """Mean probability of the answer set over the prompts asked first; over the whole vocabulary it costs as much as asking."""
        masses = [mass for _, mass, _ in self.found.values() if mass is not None]
        return float(np.mean(masses)) if masses else None

    @property
    def streams(self) -> torch.Tensor:
        """(languages, problems asked, sites, d) float32 on the CPU, at the last prompt position."""
        languages = range(len(self.known.languages))
        rows = [torch.stack([self.found[language, problem][2] for problem in self.places]) for language in languages]
        return torch.stack(rows)

    def prompt(self, asker: Asker, language: str, problem: int) -> str:
        """The prompt in a language of the problem at this place of `problems`, behind the rung's exemplars."""
        return questions.prompt_text(self.problems[problem], language, asker.languages, self.asked.exemplars)


def choose_rung(
    asker: Asker, ladder: Sequence[questions.Asked], needed: Needed, fitted_on: set[str] = frozenset()
) -> tuple[Rung | None, list[dict]]:
    """The hardest rung that brings what is needed, asked in full; and what came of every rung tried, the last one's row last.

    fitted_on: hashes of the problems that Z was fitted on. Their answers become the development half, where fits belong; where
    they are most of the rung's answers, so that too few are left to judge by, these problems are not asked at all. A rung that
    promises too little on a few problems, evenly spaced, is asked no further.
    """
    tried = []
    for asked in ladder:
        problems, fitted = parted(asked.problems, fitted_on)
        known = answers.answer_set(asker.tokenizer, asked.problems, asker.languages)
        rung = Rung(asked, problems, known, len(asked.problems) - len(problems), fitted)
        some = np.unique(np.linspace(0, len(problems) - 1, needed.precheck).round().astype(int)) if problems else []
        ask(asker, rung, some)
        if len(rung.usable) * len(problems) >= needed.least * needed.problems * len(some):
            ask(asker, rung, range(len(problems)))
        tried.append(row := came_of(rung, needed))
        if row["outcome"] == "taken":
            return rung, tried
    return None, tried


def parted(problems: list, fitted_on: set[str]) -> tuple[list, frozenset]:
    """The problems to ask, and the answers of those that Z was fitted on: none where these are left out."""
    fitted = [questions.problem_hash(problem) in fitted_on for problem in problems]
    seen = frozenset(str(problem.answer) for problem, one in zip(problems, fitted) if one)
    if len(seen) <= MOST_FITTED * len({problem.answer for problem in problems}):
        return problems, seen
    return [problem for problem, one in zip(problems, fitted) if not one], frozenset()


def came_of(rung: Rung, needed: Needed) -> dict:
    """A rung's row: how many problems were asked and solved, and whether it brings what is needed or why not."""
    names = rung.known.languages
    right = rung.right.sum(1).tolist() if rung.found else [0] * len(names)
    row = {
        "rung": rung.name,
        "exemplars": len(rung.asked.exemplars),
        "problems": len(rung.problems),
        "left_out_as_fitted": rung.left_out,
        "left_out": len(rung.known.left_out),
        "asked": len(rung.places),
        "solved": dict(zip(names, right)),
        "everywhere": len(rung.usable),
        "answers": len({rung.problems[place].answer for place in rung.usable}),
        "mass": rung.mass,
    }
    return row | {"outcome": outcome(row, needed)}


def outcome(row: dict, needed: Needed) -> str:
    """taken, or the first thing that a rung lacks."""
    if row["problems"] and not row["asked"]:
        return "answers_are_written_alike"
    if row["everywhere"] < needed.problems:
        return "too_few_solved"
    if row["answers"] < needed.answers:
        return "too_few_answers"
    return "taken" if row["mass"] >= needed.mass else "little_mass"


def ask(asker: Asker, rung: Rung, some: Sequence[int]) -> None:
    """Asks those of a rung's problems that were not asked yet, in every language, and notes what came of these.

    It stands in `found` then. UserError where a stream is not finite.
    """
    numbered, first = enumerate(asker.names), not rung.found
    prompts = [
        (number, int(problem)) for number, _ in numbered for problem in some if (number, problem) not in rung.found
    ]
    if not prompts or not rung.known.tokens:
        return
    texts = [rung.prompt(asker, asker.names[language], problem) for language, problem in prompts]
    found = whole_answers(asker, rung, texts) if first else by_first_token(asker, rung, texts)
    rung.found |= {prompts[index]: row for index, row in found.items()}
    if not all(torch.isfinite(streams).all() for _, _, streams in rung.found.values()):
        raise runs.UserError("activations are not finite: try --dtype float32")


def whole_answers(asker: Asker, rung: Rung, texts: list[str]) -> dict[int, tuple]:
    """Prompt -> its most probable column, the mass of the answer set and its streams: every answer scored in full."""
    found = {}
    for chosen, patcher in engines(asker, texts, rung.known.tokens, f"asking {rung.name}"):
        found |= dict(
            zip(chosen, zip(unpatched(patcher).argmax(-1).tolist(), patcher.masses().tolist(), streams(patcher)))
        )
    return runs.gathered(found)


def by_first_token(asker: Asker, rung: Rung, texts: list[str]) -> dict[int, tuple]:
    """The same without masses: of the answers only those are scored in full whose first token alone does not rule them out.

    An answer is at most as probable as its first token. Going down from the most probable one, the best answer is found as
    soon as it is at least as probable as the next first token.
    """
    columns = {}  # first token -> the columns that begin with it
    for column, tokens in enumerate(rung.known.tokens):
        columns.setdefault(tokens[0], []).append(column)
    firsts, found = list(columns), {}
    for chosen, patcher in engines(asker, texts, [(token,) for token in firsts], f"asking {rung.name}"):
        found |= dict(zip(chosen, zip(unpatched(patcher), streams(patcher))))
    found = runs.gathered(found)
    begins = {index: row.tolist() for index, (row, _) in found.items()}  # log-probabilities of the first tokens
    best = {index: (-float("inf"), None) for index in found}  # log-probability and column of the best answer so far
    while waiting := {index: row for index, row in begins.items() if max(row) > best[index][0]}:
        groups = {}
        for index, row in waiting.items():
            groups.setdefault(row.index(max(row)), []).append(index)
        for place, group in progress.steps(list(groups.items()), f"asking {rung.name}, answers in full", "first token"):
            below = columns[firsts[place]]
            likely = [0.0] * len(group), [0] * len(group)
            if len(below) > 1:
                likely = likeliest(asker, [texts[index] for index in group], [rung.known.tokens[one] for one in below])
            for index, value, own in zip(group, *likely):
                best[index] = max(best[index], (begins[index][place] + value, below[own]), key=lambda pair: pair[0])
                begins[index][place] = -float("inf")
    return {index: (best[index][1], None, rows) for index, (_, rows) in found.items()}


def likeliest(asker: Asker, texts: list[str], answers: list[tuple]) -> tuple[list[float], list[int]]:
    """Of answers that begin alike, given that beginning, each prompt's most probable one: log-probabilities and places."""
    found = {}
    for chosen, patcher in engines(asker, texts, answers):
        values, places = unpatched(patcher).max(-1)
        found |= dict(zip(chosen, zip(values.tolist(), places.tolist())))
    found = runs.gathered(found)
    return tuple([found[index][part] for index in range(len(texts))] for part in (0, 1))


def engines(asker: Asker, texts: list[str], answers: list[tuple], what: str | None = None):
    """(indices of a batch's prompts, their engine), with a bar where it is said what they are for."""
    given = (asker.model, asker.tokenizer, texts, answers, asker.batch)
    batches = engine.patched_prompts(*given, shared=asker.shared)
    return progress.steps(batches, f"{what}, {len(texts)} prompts", "batch") if what else batches


def unpatched(patcher: engine.PatchedPrompts) -> torch.Tensor:
    """Log-probability of every answer within the set, (prompts, answers), of the prompts as they are."""
    return patcher.scores(len(patcher.layers), patcher.streams[:, -1:])[:, 0]


def streams(patcher: engine.PatchedPrompts) -> torch.Tensor:
    """(prompts, sites, d) float32 on the CPU"""
    return patcher.streams.float().cpu()
