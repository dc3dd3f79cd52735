"""The answer set of a rung: every answer that its problems have, in every language asked in, as tokens behind a prompt."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lab import questions
from lab.problems import Problem


@dataclass(frozen=True)
class AnswerSet:
    """The answers that a prompt is scored with; column (answer, language) comes at answer * len(languages) + language."""

    answers: list  # distinct, in the order of the problems
    languages: list[str]
    tokens: list[tuple[int, ...]]  # of every column
    left_out: list  # answers that are written like another one, in one language or across two

    def at_once(self, places: Sequence[int]) -> list[int]:
        """Of places in `answers` those that first tokens tell apart in all languages: of several alike, the first."""
        taken, found, languages = set(), [], len(self.languages)
        for place in dict.fromkeys(places):
            first = {tokens[0] for tokens in self.tokens[place * languages : (place + 1) * languages]}
            if len(first) == languages and not first & taken:
                taken |= first
                found.append(place)
        return found

    def place(self, problem: Problem) -> int:
        """The problem's answer among `answers`; -1 where it was left out."""
        return self.answers.index(problem.answer) if problem.answer in self.answers else -1


def answer_set(tokenizer, problems: Sequence[Problem], languages: dict) -> AnswerSet:
    """The problems' answers in words, none of which begins another.

    One that does is followed by the first token of what parts exemplars, which ends it. Answers that are then still the same,
    or another's beginning, cannot be told apart and are left out in all languages. Problems with one answer are supposed to
    write it alike: the first one's words count. languages {name: template}; every `answer_text` has to have all of them.
    """
    texts = {}
    for problem in problems:
        texts.setdefault(problem.answer, {language: problem.answer_text[language] for language in languages})
    written = {
        (answer, language): answer_tokens(tokenizer, problems[0], text, language, languages)
        for answer, own in texts.items()
        for language, text in own.items()
    }
    whole = {key: tokens for key, (tokens, _) in written.items()}
    ended = {key: own + end if begins_another(own, whole.values()) else own for key, (own, end) in written.items()}
    count = Counter(ended.values())
    alike = [key for key, own in ended.items() if count[own] > 1 or begins_another(own, ended.values())]
    left_out = {answer for answer, _ in alike}
    kept = [answer for answer in texts if answer not in left_out]
    tokens = [ended[answer, language] for answer in kept for language in languages]
    return AnswerSet(kept, list(languages), tokens, [answer for answer in texts if answer in left_out])


def answer_tokens(tokenizer, problem: Problem, text: str, language: str, languages: dict) -> tuple[tuple, tuple]:
    """An answer's tokens as they follow a prompt, and the first token of what parts it from the next exemplar."""
    prompt, template = questions.prompt_text(problem, language, languages), languages[language]
    own = following(tokenizer, prompt, template["answer"].format(answer=text))
    return own, following(tokenizer, prompt + template["answer"].format(answer=text), template["separator"])[:1]


def following(tokenizer, before: str, text: str) -> tuple[int, ...]:
    """The tokens of a text behind another one; those that it has by itself where they cannot be parted."""
    alone, joint = (tokenizer(part)["input_ids"] for part in (before, before + text))
    if joint[: len(alone)] == alone:
        return tuple(joint[len(alone) :])
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def begins_another(own: tuple, others) -> bool:
    """Whether these tokens are the beginning of longer ones among the others."""
    return any(other[: len(own)] == own for other in others if len(other) > len(own))
