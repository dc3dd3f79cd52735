"""Problem files, prompts in every language, and the grading of answers."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import torch

from lab import checkpoints, numerals, runs, words

DEFAULT_EXEMPLARS = runs.ROOT / "data" / "exemplars.jsonl"


@dataclass(frozen=True)
class Problem:
    """One problem in several languages. `answer` is an exact number, or a word."""

    id: str
    category: str
    answer: Fraction | str
    question: dict
    answer_text: dict = field(default_factory=dict)
    solution: dict = field(default_factory=dict)  # exemplars only: a worked solution on one line


def problem_hash(problem: Problem) -> str:
    """Tells whether two files hold the same problem."""
    return runs.short_hash(problem.question)


def load_languages(wanted: Sequence[str]) -> dict[str, dict]:
    """Templates of the wanted languages, in that order, from data/languages.json."""
    path = runs.ROOT / "data" / "languages.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    for language in wanted:
        if language not in known:
            raise runs.UserError(
                f"--languages {language}: no template in {path.name}; it has {', '.join(sorted(known))}"
            )
    if len(set(wanted)) != len(wanted) or len(wanted) < 2:
        raise runs.UserError(f"--languages {' '.join(wanted)}: two or more different languages are needed")
    return {language: known[language] for language in wanted}


def problem_files(
    given: Sequence[Path] | None, folder: checkpoints.ModelFolder, name: str, default: Path
) -> list[Path]:
    """Files given on the command line; else the model folder's own `name`; else the default."""
    if given:
        return list(given)
    return [folder.path / name if (folder.path / name).exists() else default]


def load_problems(files: Sequence[Path], languages: Sequence[str], limit: int | None = None) -> list[Problem]:
    """Problems from JSONL files, or from one two-column MGSM file per language (named *_en.tsv, *_zh.tsv, ...)."""
    for file in files:
        if not file.is_file():
            raise runs.UserError(f"{file}: no such problem file")
    if all(file.suffix == ".tsv" for file in files):
        problems = read_mgsm(files, languages)
    else:
        problems = [problem for file in files for problem in read_jsonl(file, languages)]
    if not problems:
        raise runs.UserError(f"{', '.join(map(str, files))}: no problem in it")
    identifiers = set()
    for problem in problems:
        if problem.id in identifiers:
            raise runs.UserError(f"{', '.join(map(str, files))}: id {problem.id!r} occurs twice")
        identifiers.add(problem.id)
    if limit and limit > len(problems):
        raise runs.UserError(f"--limit {limit}: only {len(problems)} problems there")
    return problems[:limit]


def read_lines(file: Path) -> list[str]:
    """Lines of a UTF-8 file; UserError where it is none."""
    try:
        return file.read_text(encoding="utf-8").split("\n")  # splitlines would break at U+2028 inside a string
    except (UnicodeDecodeError, OSError) as error:
        raise runs.UserError(f"{file} is not readable UTF-8 text ({runs.first_line(error)})") from None


def read_jsonl(file: Path, languages: Sequence[str]) -> list[Problem]:
    """Problems of a JSONL file; UserError names the line that is wrong."""
    problems = []
    for number, line in enumerate(read_lines(file), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_float=str)
            answer = record["answer"]
            if isinstance(answer, bool) or not isinstance(answer, int | str) or answer == "":
                raise ValueError("answer is neither a number nor a word")
            number_answer = numerals.parse_number(str(answer))
            problem = Problem(
                str(record["id"]),
                str(record.get("category", "")),
                number_answer if number_answer is not None else answer,
                {language: record["question"][language] for language in languages},
                record.get("answer_text", {}),
                record.get("solution", {}),
            )
            texts = [*problem.question.values(), *problem.answer_text.values(), *problem.solution.values()]
            if not all(isinstance(text, str) and text.strip() for text in texts):
                raise ValueError("a text is empty or not a string")
        except KeyError as error:
            raise runs.UserError(f"{file}, line {number}: {error} is missing") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise runs.UserError(f"{file}, line {number}: not a problem ({runs.first_line(error)})") from None
        problems.append(problem)
    return problems


def read_mgsm(files: Sequence[Path], languages: Sequence[str]) -> list[Problem]:
    """MGSM: question and answer separated by a tab, no header, the same rows in every language's file."""
    columns = {}
    for language in languages:
        named = [file for file in files if file.stem.endswith(f"_{language}")]
        if len(named) != 1:
            raise runs.UserError(f"--problems: exactly one file named *_{language}.tsv is needed, {len(named)} given")
        columns[language] = []
        for number, line in enumerate(read_lines(named[0]), 1):
            if not line.strip():
                continue
            question, _, target = line.rpartition("\t")
            answer = numerals.parse_number(target)
            if not question.strip() or answer is None:
                raise runs.UserError(f"{named[0]}, line {number}: not a question, a tab and a number")
            columns[language].append((question, answer))
    if len({len(rows) for rows in columns.values()}) > 1:
        raise runs.UserError(f"--problems: {', '.join(map(str, files))} differ in length, so rows are not parallel")
    problems = []
    for row, cells in enumerate(zip(*columns.values()), 1):
        if len({answer for _, answer in cells}) > 1:
            raise runs.UserError(f"--problems: line {row}: the languages' answers differ")
        problems.append(Problem(f"mgsm-{row:03d}", "mgsm", cells[0][1], dict(zip(languages, (q for q, _ in cells)))))
    return problems


def load_exemplars(
    given: Path | None, folder: checkpoints.ModelFolder, languages: dict, problems: Sequence[Problem]
) -> tuple[list[Problem], Path]:
    """The few-shot exemplars and their file; UserError if one of them is also a problem."""
    (file,) = problem_files([given] if given else None, folder, "exemplars.jsonl", DEFAULT_EXEMPLARS)
    exemplars = load_problems([file], list(languages))
    asked = {text for problem in problems for text in problem.question.values()}
    for exemplar in exemplars:
        if asked & set(exemplar.question.values()):
            raise runs.UserError(f"{file}: exemplar {exemplar.id!r} is also a problem; remove it from one of the files")
    return exemplars, file


def exemplar_text(language: str, languages: dict, exemplars: Sequence[Problem]) -> str:
    """Exemplars with their answers, or with their worked solutions where they have them."""
    template, text = languages[language], ""
    for exemplar in exemplars:
        answer = exemplar.solution.get(language) or exemplar.answer_text.get(language) or str(exemplar.answer)
        text += template["prompt"].format(question=exemplar.question[language])
        text += template["answer"].format(answer=answer) + template["separator"]
    return text


def prompt_text(problem: Problem, language: str, languages: dict, exemplars: Sequence[Problem] = ()) -> str:
    """Exemplars, then the question, up to the answer."""
    question = languages[language]["prompt"].format(question=problem.question[language])
    return exemplar_text(language, languages, exemplars) + question


@dataclass
class Asking(checkpoints.Opening):
    """The opening of a script that asks problems."""

    languages: dict  # name -> template
    files: list[Path]
    problems: list[Problem]
    exemplars: list[Problem]


def begin(
    report: runs.Report, arguments, problems: str, few_shot: bool = True, in_words: bool = False
) -> Asking | None:
    """`checkpoints.begin`, and what is asked: the problems given, the model folder's own, or data/<problems>.

    Exemplars come likewise where `few_shot`, else only where --exemplars gives some. `in_words`: every problem and exemplar
    must have its answer in words (UserError), and exemplars show that answer and no worked solution.
    """
    opening = checkpoints.begin(report, arguments)
    if opening is None:
        return None
    folder, languages = opening.folder, load_languages(arguments.languages)
    files = problem_files(arguments.problems, folder, "problems.jsonl", runs.ROOT / "data" / problems)
    asked, exemplars = load_problems(files, list(languages), arguments.limit), []
    settings = problem_settings(arguments, opening.device, opening.dtype, files, languages)
    if few_shot:
        exemplars, file = load_exemplars(arguments.exemplars, folder, languages, asked)
        settings["exemplars"] = [file.name, runs.file_hash(file)[:16]]
    elif arguments.exemplars:
        exemplars = load_problems([arguments.exemplars], list(languages))
    if in_words:
        for problem in [*asked, *exemplars]:
            check_words(problem, languages)
        exemplars = [replace(exemplar, solution={}) for exemplar in exemplars]
    parts = vars(opening) | {"settings": settings}
    return Asking(**parts, languages=languages, files=files, problems=asked, exemplars=exemplars)


def problem_settings(
    arguments, device: torch.device, dtype: torch.dtype, files: Sequence[Path], languages: dict
) -> dict:
    """The settings of a script that asks problems, by content where a file is meant."""
    return {
        "seed": arguments.seed,
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "batch": arguments.batch,
        "limit": arguments.limit,
        "languages": list(languages),
        "templates": runs.short_hash(languages),
        "problems": [[file.name, runs.file_hash(file)[:16]] for file in files],
        "exemplars": [arguments.exemplars.name, runs.file_hash(arguments.exemplars)[:16]]
        if arguments.exemplars
        else None,
    }


WRITING = {"latin": r"[A-Za-z\u00c0-\u024f]", "han": r"[\u3400-\u9fff]"}  # scripts that languages.json names


def grade(problem: Problem, output: str, language: str | None = None) -> tuple[str | None, bool]:
    """(extracted answer, whether it is right), of an output in a language or, where that is None, in any.

    The problem's own words for its answer count first, in any of its languages; then numbers are compared as numbers.
    """
    texts = list(problem.answer_text.values())
    if isinstance(problem.answer, str):
        word, right = words.judged(output, [problem.answer, *texts], list(problem.question.values()))
        return word or None, right
    if words.extract_word(output) in map(words.bare, texts):
        return str(problem.answer), True
    value = numerals.extract_number(output, language)
    return (None if value is None else str(value)), value == problem.answer


def check_words(problem: Problem, languages: Sequence[str]) -> None:
    """UserError for a problem without an answer in words in every language: digits carry no language."""
    missing = [language for language in languages if language not in problem.answer_text]
    if missing:
        raise runs.UserError(
            f"problem {problem.id!r} has no answer_text for {', '.join(missing)}: answers in words are needed here "
            "(leave out --problems and --exemplars for the suite's own)"
        )


def written_in(text: str, languages: dict) -> str | None:
    """The language whose script most of the letters belong to; None without letters or if languages share the script."""
    for name, template in languages.items():
        if template["script"] not in WRITING:
            raise runs.UserError(
                f"data/languages.json: {name}'s script {template['script']!r} is unknown; known: {', '.join(WRITING)}"
            )
    counts = {name: len(re.findall(WRITING[template["script"]], text)) for name, template in languages.items()}
    most = max(counts.values())
    best = [name for name, count in counts.items() if count == most]
    return best[0] if most and len(best) == 1 else None
