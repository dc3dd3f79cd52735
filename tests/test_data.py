"""The rungs of the ladder and the contrast set: every numeric answer solved again from each language's own text."""

import json
import re
from collections import Counter, defaultdict
from itertools import chain, product
from pathlib import Path

import pytest
from num2words import num2words

from lab import questions, runs

DATA = Path(__file__).parent.parent / "data"
LANGUAGES = ["en", "zh", "de", "es"]
RUNGS = ["words", "sums", "successor", "reasoning", "antonyms"]
NUMERIC = ["words", "sums", "successor", "contrast"]
EXEMPLARS = [f"{rung}_exemplars" for rung in RUNGS]
CHINESE = "零一二三四五六七八九"
SIZES = {  # file: problems, kinds, different answers (each at least), how often one answer may be asked for
    "words": (160, 10, 40, 8),
    "sums": (40, 2, 18, 4),
    "successor": (160, 2, 80, 2),
    "reasoning": (60, 5, 40, 3),
    "antonyms": (80, 1, 80, 1),
}
OPERATIONS = {  # of the numbers in the order in which the question names them
    "combine": lambda a, b: a + b,
    "join": lambda a, b: a + b,
    "leave": lambda a, b: a - b,
    "compare": lambda a, b: a - b,
    "rest": lambda a, b: a - b,
    "groups": lambda a, b: a * b,
    "share": lambda a, b: a / b,
    "pack": lambda a, b: a / b,
    "together-more": lambda a, b: a + (a + b),
    "together-fewer": lambda a, b: a + (a - b),
    "double-plus": lambda a, b: 2 * a + b,
    "double-minus": lambda a, b: 2 * a - b,
    "frame": lambda a, b: 2 * (a + b),
    "half-plus": lambda a, b: a / 2 + b,
    "in-out": lambda a, b, c: a + b - c,
    "groups-and": lambda a, b, c: a * b + c,
    "groups-less": lambda a, b, c: a * b - c,
    "sum-times": lambda a, b, c: (a + b) * c,
    "sum-shared": lambda a, b, c: (a + b) / c,
    "take-twice": lambda a, b, c: a - b - c,
    "plus": lambda a, b: a + b,
    "minus": lambda a, b: a - b,
    "successor": lambda a: a + 1,
    "next": lambda a: a + 1,
    "addition": lambda a, b: a + b,
    "subtraction": lambda a, b: a - b,
    "multiplication": lambda a, b: a * b,
    "division": lambda a, b: a / b,
}


def records(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def spelt(number: int, language: str) -> str:
    if language != "zh":
        return num2words(number, lang=language)
    tens, ones = divmod(number, 10)
    if not tens:
        return CHINESE[ones]
    return (CHINESE[tens] if tens > 1 else "") + "十" + (CHINESE[ones] if ones else "")


VALUES = {language: {spelt(number, language).casefold(): number for number in range(100)} for language in LANGUAGES}
VALUES["zh"]["两"] = 2
WORDS = {language: "|".join(sorted(VALUES[language], key=len, reverse=True)) for language in LANGUAGES}
NUMERAL = {language: re.compile(rf"\b(?:{WORDS[language]})\b") for language in LANGUAGES}
NUMERAL["zh"] = re.compile(rf"(?!一[共样])(?:{WORDS['zh']})")


def numbers(text: str, language: str) -> list[int]:
    """The numbers that a question spells, in their order. Articles (ein, una) are none."""
    return [VALUES[language][found] for found in NUMERAL[language].findall(text.casefold())]


@pytest.mark.parametrize("name", [*NUMERIC, *EXEMPLARS[:3]])
def test_each_language_gives_the_answer_by_itself(name):
    for record in records(name):
        for language in LANGUAGES:
            found = numbers(record["question"][language], language)
            assert OPERATIONS[record["category"]](*found) == record["answer"], (record["id"], language, found)
            assert record["answer_text"][language] == spelt(record["answer"], language), record["id"]


# The answers as a reader found them from the texts alone, without the categories, in the order of the files; and the hash
# of the texts that were read. Whoever changes a text reads it again in every language, then corrects both.
READ = {
    "words": """
        15 12 29 51 30 6 52 11 35 3 8 12 15 15 18 46 5 16 20 28 9 5 17 14 5 42 33 24 3 32 11 30 3 55 11 57 28 39 7 17
        21 30 36 4 4 30 18 19 20 32 48 8 45 22 35 54 18 23 45 56 14 28 51 8 22 16 9 51 10 33 19 8 28 6 40 23 21 10 42
        41 7 15 44 5 26 54 4 12 9 24 4 44 35 24 22 25 36 55 19 24 39 5 4 24 20 21 60 40 59 52 31 28 17 59 29 8 55 45 8
        6 43 25 35 50 54 26 6 40 12 21 20 28 9 54 7 25 7 42 45 18 15 24 31 57 46 36 12 16 6 6 36 32 45 22 20 37 58 20
        49 48 17 60 7 37 31 16 46 6 30 53 11 24""",
    "contrast": """
        13 13 5 13  6 6 16 6  18 18 9 18  3 3 8 3  12 12 35 12  9 9 21 9  20 20 9 20  4 4 15 4  17 17 11 17  14 14 8 14
        21 21 10 21  5 5 36 5  15 15 56 15  11 11 27 11  45 45 4 45  8 8 21 8  22 22 4 22  10 10 24 10  24 24 5 24
        19 19 40 19  23 23 13 23  16 16 28 16  30 30 7 30  7 7 24 7  25 25 7 25  32 32 5 32  26 26 11 26  35 35 19 35""",
}


READ_TEXTS = {"words": "f644d80e16811acd", "contrast": "8dc1252d2f4a95fb"}


@pytest.mark.parametrize("name", READ)
def test_a_reader_finds_the_same_answers(name):
    found = {record["id"]: int(answer) for record, answer in zip(records(name), READ[name].split(), strict=True)}
    assert found == {record["id"]: record["answer"] for record in records(name)}
    assert runs.short_hash([record["question"] for record in records(name)]) == READ_TEXTS[name]


SENTENCES = {  # the whole question of the rungs without stories
    "plus": "What is {} plus {}?|{}加{}等于多少？|Wie viel ist {} plus {}?|¿Cuánto es {} más {}?",
    "minus": "What is {} minus {}?|{}减{}等于多少？|Wie viel ist {} minus {}?|¿Cuánto es {} menos {}?",
    "successor": "Which number comes after {}?|紧接在{}之后的数是多少？|Welche Zahl kommt nach {}?|¿Qué número viene después de {}?",
    "next": "What is the next number after {}?|{}后面的数是多少？|Welche Zahl folgt auf {}?|¿Qué número sigue a {}?",
}


@pytest.mark.parametrize("name", ["sums", "successor", *EXEMPLARS[1:3]])
def test_a_question_says_its_operation(name):
    for record in records(name):
        for language, sentence in zip(LANGUAGES, SENTENCES[record["category"]].split("|")):
            asked = record["question"][language]
            assert asked == sentence.format(*(spelt(number, language) for number in numbers(asked, language)))


@pytest.mark.parametrize("name", [*NUMERIC, *EXEMPLARS[:3]])
def test_numbers_are_words_and_the_same_in_every_language(name):
    for record in records(name):
        texts = record["question"]
        assert not any(re.search(r"\d", text) for text in texts.values()), record["id"]
        assert len({tuple(numbers(texts[language], language)) for language in LANGUAGES}) == 1, record["id"]


@pytest.mark.parametrize("name", ["words", "contrast", "words_exemplars"])
def test_nothing_counted_would_need_a_gender_in_spanish(name):
    for record in records(name):
        asked = record["question"]["es"]
        assert all(number % 10 != 1 or number == 11 for number in numbers(asked, "es")), record["id"]
        if record["answer"] % 10 == 1 and record["answer"] != 11:
            assert re.search(r"¿Cuántos |¿Cuál es (el|hoy el) número", asked), record["id"]  # veintiuno, not veintiuna


@pytest.mark.parametrize("name", RUNGS)
def test_a_rung_is_large_and_spread(name):
    problems, kinds, answers, most = SIZES[name]
    asked = Counter(str(record["answer"]) for record in records(name))
    assert asked.total() >= problems
    assert len({record["category"] for record in records(name)}) >= kinds
    assert len(asked) >= answers and max(asked.values()) <= most
    first = records(name)[:24]  # what --limit 24 keeps is spread too
    assert len({str(record["answer"]) for record in first}) >= 16


@pytest.mark.parametrize("name", [*RUNGS, *EXEMPLARS, "contrast"])
def test_the_loader_reads_every_language(name):
    problems = questions.load_problems([DATA / f"{name}.jsonl"], LANGUAGES)
    assert [problem.id for problem in problems] == [record["id"] for record in records(name)]
    for problem in problems:
        questions.check_words(problem, LANGUAGES)
        assert list(problem.question) == list(problem.answer_text) == LANGUAGES, problem.id
        assert problem.answer == problem.answer_text["en"] or name in [*NUMERIC, *EXEMPLARS[:3]], problem.id


def test_no_question_and_no_id_occurs_twice():
    files = [*RUNGS, *EXEMPLARS, "contrast", "phase0", "phase2", "exemplars"]
    everything = list(chain.from_iterable(records(name) for name in files))
    for language in LANGUAGES:
        texts = Counter(record["question"].get(language, record["id"]).casefold() for record in everything)
        assert [text for text, count in texts.items() if count > 1] == []
    assert [one for one, count in Counter(record["id"] for record in everything).items() if count > 1] == []


def stories(language: str) -> Counter:
    """Questions that tell a story, with their numbers masked."""
    files = ["words", "words_exemplars", "contrast", "phase0", "phase2", "exemplars"]
    questions_asked = [record["question"] for name in files for record in records(name)]
    told = [asked[language].casefold() for asked in questions_asked if language in asked]
    return Counter(re.sub(r"\d+", "#", NUMERAL[language].sub("#", text)) for text in told)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_story_is_another_one_with_other_numbers(language):
    assert [story for story, count in stories(language).items() if count > 1] == []


@pytest.mark.parametrize("rung", RUNGS)
def test_exemplars_are_few_and_of_other_answers(rung):
    problems, exemplars = records(rung), records(f"{rung}_exemplars")
    assert 4 <= len(exemplars) <= 10
    assert {record["category"] for record in exemplars} <= {record["category"] for record in problems}
    assert not any("solution" in record for record in exemplars)
    for language in LANGUAGES:
        shown = [record["answer_text"][language] for record in exemplars]
        assert len(set(shown)) == len(shown)
        assert not set(shown) & {record["answer_text"][language] for record in problems}


def begun(first: dict, second: dict, end: str) -> list[tuple[str, str]]:
    """Pairs of answers of any two languages, the one written with `end` and beginning the other."""
    pairs = [(one + end, other + end) for one, other in product(first.values(), second.values())]
    return [(one, other) for one, other in pairs if other.casefold().startswith(one.casefold())]


TEMPLATES = json.loads((DATA / "languages.json").read_text(encoding="utf-8"))
(END,) = {template["separator"][0] for template in TEMPLATES.values()}  # what follows every answer in a few-shot prompt


@pytest.mark.parametrize("name, end", [*product(RUNGS, [END]), ("reasoning", ""), ("antonyms", "")])
def test_no_answer_begins_another_one(name, end):
    """Numbers need the separator behind them (sixty and 十 begin other answers without it); words do not."""
    answers = {record["answer"]: record["answer_text"] for record in [*records(name), *records(f"{name}_exemplars")]}
    for one, text in answers.items():
        for other, longer in answers.items():
            if one != other:
                assert begun(text, longer, end) == [], (one, other)
        for language, word in text.items():
            rest = {other: longer for other, longer in text.items() if other != language}
            assert begun({language: word}, rest, end) == [], one


def retrieval(bags: dict[str, list[Counter]]) -> float:
    """How often the most similar bag (cosine; ties by chance) of another language is the problem's own translation."""
    found = []
    for first, second in product(LANGUAGES, LANGUAGES):
        if first == second:
            continue
        for place, bag in enumerate(bags[first]):
            shared = [sum(bag[term] * other[term] for term in bag) for other in bags[second]]
            lengths = [sum(count**2 for count in other.values()) or 1 for other in bags[second]]
            similar = [inner**2 / length for inner, length in zip(shared, lengths)]
            best = [index for index, value in enumerate(similar) if value > max(similar) - 1e-9]
            found.append((place in best) / len(best))
    return sum(found) / len(found)


@pytest.mark.parametrize("name, most", [("words", 0.3), ("sums", 0.34), ("successor", 0.51), ("contrast", 0.5)])
def test_numerals_alone_do_not_find_the_translation(name, most):
    bags = {
        language: [Counter(numbers(record["question"][language], language)) for record in records(name)]
        for language in LANGUAGES
    }
    assert retrieval(bags) < most


def test_contrast_sets_are_what_they_say():
    bases = defaultdict(dict)
    for record in records("contrast"):
        assert record["id"] == f"{record['base']}-{record['variant']}"
        bases[record["base"]][record["variant"]] = record
    assert len(bases) >= 24
    assert len({variants["base"]["answer"] for variants in bases.values()}) >= 24
    for name, variants in bases.items():
        assert list(variants) == ["base", "paraphrase", "operation", "same_answer"], name
        base, paraphrase, operation, same = variants.values()
        told = {variant: numbers(record["question"]["en"], "en") for variant, record in variants.items()}
        assert told["base"] == told["paraphrase"] == told["operation"], name
        assert not set(told["base"]) & set(told["same_answer"]), name
        assert base["category"] == paraphrase["category"] != operation["category"], name
        assert base["answer"] == paraphrase["answer"] == same["answer"] != operation["answer"], name
