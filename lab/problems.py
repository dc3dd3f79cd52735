"""Problem files: read, checked line by line, and every problem once, whatever its copies are called."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from lab import numerals, quantities, readers, runs

SOLUTION_MARK = "####"  # GSM8K ends a worked solution with it and the answer
FINAL = re.compile(r"(?:[\s.?。؟।]|(?<![\d)])!)+$")  # final punctuation; 5! is a factorial
UNIT = re.compile(r"[%‰°]|\d\s*[^\W\d_]")
EXPONENT = re.compile(r"[-+]?\d+(?:\.\d+)?[eE][-+]?\d+")
SHOWN = 40  # characters of a wrong answer in a message
LARGEST_EXPONENT = 30  # an exact fraction of 1e999999999 would fill the memory


class NoTexts(runs.UserError):
    """A file without a question in one of the languages asked."""


@dataclass(frozen=True)
class Problem:
    """One problem in several languages. `answer` is an exact number, or a word."""

    id: str
    category: str
    answer: Fraction | str
    question: dict
    answer_text: dict = field(default_factory=dict)
    solution: dict = field(default_factory=dict)  # exemplars only: a worked solution on one line


@dataclass(frozen=True)
class Entry:
    """A problem where it stands: `place` names file and line; `worked` says that its answer ended a worked solution."""

    place: str
    problem: Problem
    worked: bool


def plain(text: str) -> str:
    """Full-width forms narrow and every run of whitespace one space: texts are compared so."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def same_question(text: str) -> str:
    """What two texts share that ask the same: neither capitals nor the final punctuation make another question."""
    text = plain(text).casefold()
    return FINAL.sub("", text) or text


def load_problems(files: Sequence[Path], languages: Sequence[str], limit: int | None = None) -> list[Problem]:
    """The distinct problems of JSONL files, or of one two-column MGSM file per language (named *_en.tsv, *_zh.tsv, ...).

    UserError names what is wrong, to the line, and a limit beyond what is there.
    """
    return read_problems(files, languages, limit)[0]


def read_problems(
    files: Sequence[Path], languages: Sequence[str], limit: int | None = None
) -> tuple[list[Problem], dict[str, int]]:
    """The same, and how many problems the files give, how many are distinct, how many answers ended a worked solution."""
    names, tables = ", ".join(map(str, files)), [file for file in files if file.suffix == ".tsv"]
    for file in files:
        if not file.is_file():
            raise runs.UserError(f"{file}: no such problem file")
    if tables and len(tables) < len(files):
        raise runs.UserError(f"--problems {names}: JSONL files or MGSM's TSV files, not both at once")
    if tables:
        entries = read_mgsm(files, languages)
    else:
        entries = [entry for file in files for entry in read_jsonl(file, languages)]
    if not entries:
        raise runs.UserError(f"{names}: no problem in it")
    problems = distinct(entries)
    if limit and limit > len(problems):
        raise runs.UserError(f"--limit {limit}: only {len(problems)} distinct problems there")
    counts = {"given": len(entries), "distinct": len(problems), "worked": sum(entry.worked for entry in entries)}
    return problems[:limit], counts


def distinct(entries: Sequence[Entry]) -> list[Problem]:
    """Every problem once, as the first of its copies; UserError for one id twice and for one question with two answers.

    A text shared in one language makes a copy: another translation of it beside would let that language's answer count twice.
    """
    identifiers, answers, owners, kept = {}, {}, {}, {}  # owners: question -> the number of the problem kept for it
    for number, entry in enumerate(entries):
        problem = entry.problem
        if problem.id in identifiers:
            earlier = identifiers[problem.id]
            raise runs.UserError(f"{entry.place}: id {problem.id!r} occurs twice, first in {earlier}")
        identifiers[problem.id] = entry.place
        asked = [(language, same_question(text)) for language, text in problem.question.items()]
        for question in asked:
            earlier = answers.setdefault(question, entry)
            if same_answer(earlier.problem.answer) != same_answer(problem.answer):
                raise runs.UserError(
                    f"{earlier.place} and {entry.place} ask the same question ({question[0]}) but answer "
                    f"{earlier.problem.answer} and {problem.answer}: correct one of them"
                )
        first, *others = sorted({owners[question] for question in asked if question in owners}) or [number]
        kept.setdefault(first, problem)
        for other in others:  # this copy shares a text with each of several, so they are one problem too
            del kept[other]
            owners |= {question: first for question, owner in owners.items() if owner == other}
        owners |= dict.fromkeys(asked, first)
    return list(kept.values())


def same_answer(answer: Fraction | str) -> Fraction | str:
    """What two answers share that are the same."""
    return plain(answer).casefold() if isinstance(answer, str) else answer


def read_lines(file: Path) -> list[str]:
    """Lines of a UTF-8 file without byte-order marks; UserError where it is none."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # splitlines would break at U+2028 inside a string
    except (UnicodeDecodeError, OSError) as error:
        raise runs.UserError(f"{file} is not readable UTF-8 text ({runs.first_line(error)})") from None
    return [line.removeprefix("\ufeff") for line in lines]  # joined files have a mark in the middle too


def read_jsonl(file: Path, languages: Sequence[str]) -> list[Entry]:
    """Problems of a JSONL file; UserError names the line that is wrong."""
    entries = []
    for number, line in enumerate(read_lines(file), 1):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        try:
            entries.append(Entry(place, *read_record(readers.parsed(line, parse_float=Decimal), languages)))
        except NoTexts as error:
            raise NoTexts(f"{place}: {error}") from None
        except KeyError as error:
            raise runs.UserError(f"{place}: {error} is missing") from None
        except (ValueError, ArithmeticError, TypeError, AttributeError) as error:
            raise runs.UserError(f"{place}: not a problem ({runs.first_line(error)})") from None
    return entries


def read_record(record: dict, languages: Sequence[str]) -> tuple[Problem, bool]:
    """(the problem on a line of JSONL, whether its answer ended a worked solution).

    NoTexts where a language is missing; KeyError, ValueError or another of Python's where the record is no problem.
    """
    parts = {"question": record["question"]} | {key: record.get(key, {}) for key in ("answer_text", "solution")}
    for key, texts in parts.items():
        if not isinstance(texts, dict):
            raise ValueError(f'{key} holds no text per language, as {{"en": "...", "zh": "..."}} does')
    question, answer_text = parts["question"], parts["answer_text"]
    if missing := [language for language in languages if language not in question]:
        raise NoTexts(
            f"question: {', '.join(map(repr, missing))} is missing (it is in {', '.join(question) or 'no language'}): give "
            "files with these texts (--problems, --exemplars) or other --languages"
        )
    asked = {language: question[language] for language in languages}
    for text in (*asked.values(), *answer_text.values(), *parts["solution"].values()):
        if not isinstance(text, str) or not text.strip():
            raise ValueError("a text is empty or not a string")
    answer, worked = read_answer(record["answer"], answer_text)
    check_agreement(answer, answer_text)
    if isinstance(record["id"], bool) or not isinstance(record["id"], int | str):
        raise ValueError("id is neither a text nor a number")
    return Problem(
        str(record["id"]), str(record.get("category", "")), answer, asked, answer_text, parts["solution"]
    ), worked


def read_answer(answer: object, answer_text: dict) -> tuple[Fraction | str, bool]:
    """(an exact number or a word, whether it ended a worked solution); ValueError for a number with anything beside it.

    A word may hold a number ("星期一"), or be one elsewhere ("once" in Spanish), where answer_text says it too: then it is
    meant as a word.
    """
    if isinstance(answer, bool) or not isinstance(answer, int | Decimal | str) or not str(answer).strip():
        raise ValueError("answer is neither a number nor a word")
    if not isinstance(answer, str):
        return exact(answer), False
    _, mark, result = answer.rpartition(SOLUTION_MARK)
    words = {plain(text).casefold() for text in answer_text.values()}
    repeated = plain(answer).casefold() in words
    number = whole_number(result.strip())
    if number is not None and not (repeated and meant_as_word(answer, number, answer_text)):
        return number, bool(mark)
    if mark or re.search(r"\d", plain(answer)):
        raise ValueError(number_alone(f"{mark} {result}"))
    if holds_number_word(result) and not repeated:
        raise ValueError(f"{number_alone(result)} (or repeat the word in answer_text)")
    return answer, False


def meant_as_word(answer: str, number: Fraction, answer_text: dict) -> bool:
    """Whether an answer that could be read as a number is a word: it holds no digit, and not all its texts are that number.

    A text says nothing where no number words of its language can be read.
    """
    texts = {language: text for language, text in answer_text.items() if language in (*quantities.SPELLED, "zh")}
    return not re.search(r"\d", plain(answer)) and any(spelt(*item) != number for item in texts.items())


def spelt(language: str, text: str) -> Fraction | None:
    """The number that a text in a language spells; None for a word that is a number in other languages only ("elf")."""
    word = plain(text).casefold()
    spelling = [other for other in quantities.SPELLED if quantities.word_value(word, other) is not None]
    foreign = spelling and language in quantities.SPELLED and language not in spelling
    return None if foreign else numerals.parse_number(text, language)


def exact(value: int | Decimal) -> Fraction:
    """A JSON number as a fraction; ValueError where it would be endless."""
    if isinstance(value, Decimal) and abs(value.adjusted()) > LARGEST_EXPONENT:
        raise ValueError(f"answer {value} is beyond 1e{LARGEST_EXPONENT}")
    return Fraction(value)


def whole_number(text: str) -> Fraction | None:
    """The number that the text is, in digits or in words, and with no unit; else None. ValueError for n/0."""
    shown = plain(text)
    if re.search(r"[/⁄]\s?0+(?!\d)", shown):
        raise ValueError(f"answer {shown!r} divides by zero: correct it")
    if EXPONENT.fullmatch(shown):
        return exact(Decimal(shown))
    return None if UNIT.search(shown) else numerals.parse_number(text)


def holds_number_word(text: str) -> bool:
    """Whether a word of the text, or a Chinese character in it, is a number."""
    parts = re.findall(r"[\u3400-\u9fff]|[^\W\d_\u3400-\u9fff]+", text)
    return any(numerals.parse_number(part) is not None for part in parts)


def number_alone(answer: str) -> str:
    """What is wrong with an answer that is a number and more, and the remedy."""
    shown = plain(answer)
    numbers = re.findall(r"-?\d[\d,]*(?:[./]\d+)?", shown)
    remedy = f"write {numbers[0]}" if len(numbers) == 1 else "write just the number"
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]} ..."
    return f"answer {shown!r} is not a number alone: {remedy}, and its unit in the question"


def check_agreement(answer: Fraction | str, answer_text: dict) -> None:
    """ValueError where answer and answer_text name different numbers, as far as the words can be read."""
    numbers = {language: spelt(language, text) for language, text in answer_text.items()}
    for language, number in numbers.items():
        wrong = number != answer if isinstance(answer, Fraction) else None not in numbers.values()
        if number is not None and wrong:
            raise ValueError(
                f"answer {answer} and answer_text {answer_text[language]!r} ({language}) contradict each other: correct one"
            )


def read_mgsm(files: Sequence[Path], languages: Sequence[str]) -> list[Entry]:
    """MGSM: question and answer separated by a tab, no header, the same rows in all languages; else UserError."""
    columns = {}
    for language in languages:
        named = [file for file in files if file.stem.endswith(f"_{language}")]
        if len(named) != 1:
            raise runs.UserError(f"--problems: exactly one file named *_{language}.tsv is needed, {len(named)} given")
        columns[language] = [
            read_row(f"{named[0]}, line {number}", line)
            for number, line in enumerate(read_lines(named[0]), 1)
            if line.strip()
        ]
    if len({len(rows) for rows in columns.values()}) > 1:
        raise runs.UserError(f"--problems: {', '.join(map(str, files))} differ in length, so rows are not parallel")
    entries = []
    for row, cells in enumerate(zip(*columns.values()), 1):
        places, texts, answers, worked = zip(*cells)
        if len(set(answers)) > 1:
            raise runs.UserError(f"{' and '.join(places)}: the languages' answers differ")
        problem = Problem(f"mgsm-{row:03d}", "mgsm", answers[0], dict(zip(languages, texts)))
        entries.append(Entry(places[0], problem, any(worked)))
    return entries


def read_row(place: str, line: str) -> tuple[str, str, Fraction, bool]:
    """(place, question, answer, whether it ended a worked solution) of a line of an MGSM file; UserError names the line."""
    question, _, target = line.rpartition("\t")
    try:
        answer, worked = read_answer(target, {}) if question.strip() else ("", False)
    except (ValueError, ArithmeticError) as error:
        raise runs.UserError(f"{place}: {runs.first_line(error)}") from None
    if isinstance(answer, str):
        raise runs.UserError(f"{place}: not a question, a tab and a number (a header is none either)")
    return place, question, answer, worked
