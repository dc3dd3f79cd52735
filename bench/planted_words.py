"""The words of models with a known truth: vocabulary and tokenizer, and their problems."""

import json
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

from lab import questions
from lab.problems import Problem

LANGUAGES = ("en", "zh")
ANSWERS = 27
PROBLEMS = OTHERS = 2 * ANSWERS  # of problems.jsonl, and of reasoning.jsonl: other questions, the same answers
FILLERS, FILLERS_EACH = 30, 3
BASES = 12  # of contrast.jsonl
# answers of several tokens, by language: in pairs that share the first one, and with a first one of their own
SHARING = {"en": range(6), "zh": range(0)}
LONGER = {"en": range(12, 15), "zh": range(6, 15)}


class Vocabulary:
    """The words of both languages by their task: the first of every task in `start`, how many in COUNTS."""

    COUNTS = {"question": PROBLEMS + OTHERS, "answer": ANSWERS, "second": ANSWERS, "filler": FILLERS, "silent": 1}
    COUNTS |= {"other": ANSWERS, "other_silent": 1}  # the other format: its answers, and its exemplar's

    def __init__(self):
        self.start, total = {}, 0
        for task, count in self.COUNTS.items():
            self.start[task], total = total, total + count
        self.words = {
            "en": [syllables(index) for index in range(total)],
            "zh": [chr(0x5000 + 2 * index) + chr(0x5001 + 2 * index) for index in range(total)],
        }

    def word(self, language: str, task: str, index: int = 0) -> str:
        return self.words[language][self.start[task] + index]

    def place(self, language: str, word: str) -> tuple[str, int]:
        """A word's task, and its number there; ValueError for another word."""
        number = self.words[language].index(word)
        task = [task for task, start in self.start.items() if start <= number][-1]
        return task, number - self.start[task]

    def text(self, language: str, words: list[str]) -> str:
        return {"en": " ", "zh": ""}[language].join(words)


def syllables(index: int) -> str:
    """A word of letters for every index, none a prefix of another."""
    consonants, vowels = "bdfghklmnprstvz", "aeiou"
    text = ""
    for _ in range(3):
        index, rest = divmod(index, len(consonants) * len(vowels))
        text += consonants[rest // len(vowels)] + vowels[rest % len(vowels)]
    return text


def word_tokenizer(vocabulary: Vocabulary) -> Qwen2Tokenizer:
    """Qwen2's tokenizer class with every word, and every piece of the prompt templates, as one token."""
    pieces = [f" {word}" for word in vocabulary.words["en"]] + vocabulary.words["zh"]
    pieces += ["Question", ":", "\nAnswer", "问题", "：", "\n", "答案", "\n\n"]
    return Qwen2Tokenizer(model_max_length=256).train_new_from_iterator(
        [pieces], 4000, min_frequency=1, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )


def answer_words(several_tokens: bool, language: str, answer: int) -> list[tuple[str, int]]:
    """An answer's words as (task, index)."""
    if several_tokens and answer in SHARING[language]:
        return [("answer", answer - answer % 2), ("second", answer)]
    if several_tokens and answer in LONGER[language]:
        return [("answer", answer), ("second", answer)]
    return [("answer", answer)]


def other_text(problem: Problem, language: str) -> str:
    """A problem's answer in the other format, one word in every kind; of the exemplar the word that asks for that format."""
    vocabulary = Vocabulary()
    task, index = vocabulary.place("en", problem.answer.split()[-1])  # an answer's last word is its own
    return vocabulary.word(language, "other_silent" if task == "silent" else "other", index)


def write_problems(path: Path, several_tokens: bool, vocabulary: Vocabulary, generator: torch.Generator) -> None:
    """problems.jsonl and reasoning.jsonl: a question word among fillers of its own in each language, and its answer.

    exemplars.jsonl: one exemplar of the silent word, which carries its language and nothing else. contrast.jsonl: `variants`
    of some of the reasoning.
    """
    silent = {language: vocabulary.word(language, "silent") for language in LANGUAGES}
    exemplar = {"id": "exemplar", "answer": silent["en"], "question": silent, "answer_text": silent}
    lines = []
    for index in range(PROBLEMS + OTHERS):
        question, answer = {}, {}
        for language in LANGUAGES:
            fillers = torch.randint(FILLERS, (FILLERS_EACH,), generator=generator).tolist()
            words = [vocabulary.word(language, "filler", filler) for filler in fillers]
            place = torch.randint(FILLERS_EACH + 1, (), generator=generator).item()
            words.insert(place, vocabulary.word(language, "question", index))
            question[language] = vocabulary.text(language, words)
            own = [vocabulary.word(language, *word) for word in answer_words(several_tokens, language, index % ANSWERS)]
            answer[language] = vocabulary.text(language, own)
        problem = {"id": str(index), "category": "planted", "answer": answer["en"]}
        lines.append(problem | {"question": question, "answer_text": answer})
    parts = {"problems": lines[:PROBLEMS], "reasoning": lines[PROBLEMS:], "exemplars": [exemplar]}
    parts["contrast"] = [line for base in range(BASES) for line in variants(lines[PROBLEMS:], base, vocabulary)]
    for name, part in parts.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in part)
        (path / f"{name}.jsonl").write_text(text, encoding="utf-8")


def variants(lines: list[dict], base: int, vocabulary: Vocabulary) -> list[dict]:
    """A problem of reasoning.jsonl, another question word among the same fillers, and another text with the same answer."""

    def word(language: str, number: int) -> str:
        return vocabulary.word(language, "question", PROBLEMS + number)

    own, other, same = lines[base], lines[base + 1], lines[base + ANSWERS]
    asked = {name: own["question"][name].replace(word(name, base), word(name, base + 1)) for name in LANGUAGES}
    found = {"base": own, "operation": other | {"question": asked}, "same_answer": same}
    return [
        line | {"id": f"{base}-{variant}", "base": str(base), "variant": variant} for variant, line in found.items()
    ]


def word_tokens(tokenizer, vocabulary: Vocabulary, language: str) -> dict[str, list[int]]:
    """The token of every word of a language, as it stands in a prompt: {task: ids}"""
    answer, found = questions.load_languages(LANGUAGES)[language]["answer"], {}
    for task, count in vocabulary.COUNTS.items():
        rows = [tokenizer(answer.format(answer=vocabulary.word(language, task, index))) for index in range(count)]
        found[task] = [token for row in rows for (token,) in [row["input_ids"]]]
    return found
