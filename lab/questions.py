"""Languages, prompts in each of them, what a script asks, and what an answer is: right, and in which language."""

import argparse
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter

from lab import checkpoints, models, numerals, readers, runs, words
from lab.problems import NoTexts, Problem, load_problems, plain, read_lines, read_problems

DEFAULT_EXEMPLARS = runs.ROOT / "data" / "exemplars.jsonl"
SHARED_EXEMPLARS = {"phase2": "words"}  # problem files asked with another's exemplars, if those lie beside them
TEMPLATE = {"name": "", "prompt": "{question}", "answer": "{answer}", "separator": "", "script": ""}  # a row's parts
WRITING = {  # scripts that it may name, without their digits; a language whose script is kana is written in Han characters too
    "latin": r"[A-Za-z\u00c0-\u024f]",
    "han": r"[\u3400-\u9fff]",
    "cyrillic": r"[\u0400-\u04ff]",
    "kana": r"[\u3041-\u3096\u30a1-\u30fa\u30fc]",
    "thai": r"[\u0e01-\u0e3a\u0e40-\u0e4e]",
    "bengali": r"[\u0981-\u09e3\u09f0\u09f1]",
    "telugu": r"[\u0c00-\u0c63]",
}


class NoWords(runs.UserError):
    """A problem without its answer in words in one of the languages asked."""


def problem_hash(problem: Problem) -> str:
    """Tells whether two files hold the same problem: 16 hex digits of its questions in the languages asked."""
    return runs.short_hash({language: plain(text) for language, text in problem.question.items()})


def load_languages(wanted: Sequence[str]) -> dict[str, dict]:
    """Templates of the wanted languages, in that order, from data/languages.json.

    UserError for a language without a sound row, and for fewer than two different ones.
    """
    path = runs.ROOT / "data" / "languages.json"
    try:
        known = readers.parsed(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise runs.UserError(f"data/{path.name} is not JSON ({runs.first_line(error)})") from None
    if not isinstance(known, dict):
        raise runs.UserError(f"data/{path.name} holds no rows by language: download it again")
    for language in wanted:
        if language not in known:
            raise runs.UserError(
                f"--languages {language}: no template in {path.name}; it has {', '.join(sorted(known))}"
            )
        check_template(language, known[language])
    if len(set(wanted)) != len(wanted) or len(wanted) < 2:
        raise runs.UserError(f"--languages {' '.join(wanted)}: two or more different languages are needed")
    return {language: known[language] for language in wanted}


def check_template(language: str, template: dict) -> None:
    """UserError for a row of data/languages.json that lacks something."""
    for key, part in TEMPLATE.items():
        text = template.get(key) if isinstance(template, dict) else None
        if not isinstance(text, str) or part not in text:
            raise runs.UserError(f"data/languages.json: {language} has no {key}{f' with {part}' if part else ''}")
        if part and not fills_in(text, part):
            raise runs.UserError(
                f"data/languages.json: {language}'s {key} {text!r} has other braces than {part}: write {{{{ and }}}} for "
                "those that are meant"
            )
    check_script(language, template)


def fills_in(text: str, part: str) -> bool:
    """Whether `format` puts something in the place of this part of a template, as it is, and of nothing else."""
    try:
        fields = [field for _, *field in Formatter().parse(text) if field[0] is not None]
    except ValueError:
        return False
    return all(field == [part[1:-1], "", None] for field in fields)


def check_script(language: str, template: dict) -> None:
    """UserError where a template's script is unknown."""
    if template["script"] not in WRITING:
        raise runs.UserError(
            f"data/languages.json: {language}'s script {template['script']!r} is unknown; known: {', '.join(WRITING)}"
        )


def problem_files(
    given: Sequence[Path] | None, folder: checkpoints.ModelFolder, name: str, default: Path
) -> list[Path]:
    """Files given on the command line; else the model folder's own `name`; else the default."""
    if given:
        return list(given)
    return [folder.path / name if (folder.path / name).exists() else default]


def load_exemplars(
    given: Path | None,
    folder: checkpoints.ModelFolder,
    languages: dict,
    files: Sequence[Path],
    problems: Sequence[Problem],
) -> tuple[list[Problem], Path]:
    """The few-shot exemplars and their file; UserError if one of them is also a problem.

    Those given; else those that lie beside the problems, words_exemplars.jsonl for words.jsonl (and for phase2.jsonl); else the
    model folder's own exemplars.jsonl; else data/exemplars.jsonl.
    """
    stem = files[0].stem
    beside = files[0].with_name(f"{SHARED_EXEMPLARS.get(stem, stem)}_exemplars.jsonl")
    default = beside if beside.exists() else None
    (file,) = (
        [given or default] if given or default else problem_files(None, folder, "exemplars.jsonl", DEFAULT_EXEMPLARS)
    )
    exemplars = load_problems([file], list(languages))
    asked = {plain(text) for problem in problems for text in problem.question.values()}
    for exemplar in exemplars:
        if asked & set(map(plain, exemplar.question.values())):
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
class Asked:
    """What a script asks, found out before any model runs."""

    languages: dict  # name -> template
    files: list[Path]
    problems: list[Problem]
    exemplars: list[Problem]
    settings: dict  # what of it can change a result, by content where a file is meant


@dataclass
class Asking(Asked, checkpoints.Opening):
    """The opening of a script that asks problems."""


def begin(
    report: runs.Report, arguments, problems: str, few_shot: bool = True, in_words: bool = False
) -> Asking | None:
    """`checkpoints.begin` and `find_asked`; what is wrong with the files that were named shows before a model is looked for."""
    if not arguments.report_only:
        check_given(arguments, in_words)
    opening = checkpoints.begin(report, arguments)
    if opening is None:
        return None
    asked = find_asked(arguments, opening.folder, problems, few_shot, in_words)
    settings = asked.settings | {
        "seed": arguments.seed,
        "device": opening.device.type,
        "dtype": str(opening.dtype).removeprefix("torch."),
        "batch": arguments.batch,
    }
    return Asking(**(vars(opening) | vars(asked) | {"settings": settings}))


def load_model(opening: Asking):
    """`models.load_model`; UserError also where the tokenizer does not read one of the languages asked in."""
    model, tokenizer = models.load_model(opening.folder, opening.device, opening.dtype)
    texts = {name: [problem.question[name] for problem in opening.problems] for name in opening.languages}
    models.check_reading(tokenizer, texts)
    return model, tokenizer


def check_given(arguments, in_words: bool = False) -> None:
    """UserError for wrong --languages, --problems and --exemplars, and with `in_words` for problems without words."""
    languages = list(load_languages(arguments.languages))
    problems = load_problems(arguments.problems, languages, arguments.limit) if arguments.problems else []
    exemplars = load_problems([arguments.exemplars], languages) if arguments.exemplars else []
    for problem in [*problems, *exemplars] if in_words else []:
        check_words(problem, languages)


def find_asked(
    arguments, folder: checkpoints.ModelFolder, problems: str, few_shot: bool = True, in_words: bool = False
) -> Asked:
    """What is asked: the problems given, the model folder's own, or data/<problems>.

    Exemplars come likewise where `few_shot`, else only where --exemplars gives some. `in_words`: every problem and exemplar
    must have its answer in words (NoWords), and exemplars show that answer and no worked solution. UserError for
    other faults of languages and files, NoTexts where a language is missing there.
    """
    languages = load_languages(arguments.languages)
    files = problem_files(arguments.problems, folder, "problems.jsonl", runs.ROOT / "data" / problems)
    (asked, counts), exemplars, file = read_problems(files, list(languages), arguments.limit), [], None
    if few_shot or arguments.exemplars:
        exemplars, file = load_exemplars(arguments.exemplars, folder, languages, files, asked)
    if in_words:
        for problem in [*asked, *exemplars]:
            check_words(problem, languages)
        exemplars = [replace(exemplar, solution={}) for exemplar in exemplars]
    settings = {
        "limit": arguments.limit,
        "languages": list(languages),
        "templates": runs.short_hash(languages),
        "problems": [[file.name, runs.file_hash(file)[:16]] for file in files],
        "exemplars": [file.name, runs.file_hash(file)[:16]] if file else None,
        "read": counts,
    }
    return Asked(languages, files, asked, exemplars, settings)


def find_ladder(arguments, folder: checkpoints.ModelFolder, rungs: Sequence[str]) -> list[Asked]:
    """What each rung of data/ asks, of which --limit takes the first; a single rung where problems were named.

    These are --problems, or the model folder's own.
    """
    if arguments.problems or (folder.path / "problems.jsonl").exists():
        return [find_asked(arguments, folder, "problems.jsonl", in_words=True)]
    return [find_limited(arguments, folder, f"{rung}.jsonl") for rung in rungs]


def find_others(
    arguments, folder: checkpoints.ModelFolder, rungs: Sequence[str], ladder: Sequence[Asked]
) -> list[Asked]:
    """Problems beside the ladder's own: the model folder's other ones, or else data/'s rungs.

    Only files that are written in all languages asked.
    """
    own = [folder.path / name for name in ("problems.jsonl", "reasoning.jsonl")]
    files = own if own[0].exists() else [runs.ROOT / "data" / f"{rung}.jsonl" for rung in rungs]
    taken, found = {runs.file_hash(file) for asked in ladder for file in asked.files}, []
    for file in files:
        if file.exists() and runs.file_hash(file) not in taken:
            given = argparse.Namespace(**vars(arguments) | {"problems": [file], "exemplars": None})
            with suppress(NoWords, NoTexts):
                found.append(find_limited(given, folder, file.name))
    return found


def find_limited(arguments, folder: checkpoints.ModelFolder, name: str) -> Asked:
    """`find_asked` in words, of a file that is not the user's: --limit takes the first, or all where these are fewer."""
    limit = arguments.limit
    asked = find_asked(argparse.Namespace(**vars(arguments) | {"limit": None}), folder, name, in_words=True)
    return replace(asked, problems=asked.problems[:limit], settings=asked.settings | {"limit": limit})


def find_contrasts(arguments, folder: checkpoints.ModelFolder) -> Asked | None:
    """The model folder's contrast.jsonl, or data/'s where the ladder is data/'s own; None where there is none to ask."""
    own = folder.path / "contrast.jsonl"
    if not own.exists() and (arguments.problems or (folder.path / "problems.jsonl").exists()):
        return None
    data = runs.ROOT / "data"
    file, exemplars = (own, None) if own.exists() else (data / "contrast.jsonl", data / "words_exemplars.jsonl")
    given = argparse.Namespace(**vars(arguments) | {"problems": [file], "exemplars": exemplars, "limit": None})
    with suppress(NoWords, NoTexts):
        return find_asked(given, folder, "words.jsonl", in_words=True)
    return None


def variants(asked: Asked) -> dict[int, tuple[str, str]]:
    """Which problems of a file are variants of each other: {place: (base, variant)}, of lines that say so."""
    lines = [readers.parsed(line) for file in asked.files for line in read_lines(file) if line.strip()]
    told = {
        str(line["id"]): (str(line["base"]), str(line["variant"]))
        for line in lines
        if {"base", "variant"} <= line.keys()
    }
    return {place: told[one.id] for place, one in enumerate(asked.problems) if one.id in told}


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


def answered(problem: Problem, output: str, language: str) -> bool:
    """Whether a growing output has given its answer, which nothing that follows can change: generation may stop."""
    return (
        words.word_complete(output) if isinstance(problem.answer, str) else numerals.number_complete(output, language)
    )


def check_words(problem: Problem, languages: Sequence[str]) -> None:
    """NoWords for a problem without an answer in words in every language: digits carry no language."""
    missing = [language for language in languages if language not in problem.answer_text]
    if missing:
        raise NoWords(
            f"problem {problem.id!r} has no answer_text for {', '.join(missing)}: answers in words are needed here "
            "(leave out --problems and --exemplars for the suite's own)"
        )
    for language in languages:
        if not re.search(r"[^\W\d_]", problem.answer_text[language]):
            raise NoWords(
                f"problem {problem.id!r} has answer_text {problem.answer_text[language]!r} for {language}: digits carry no "
                "language, write it in words"
            )


def answer_language(text: str, problem: Problem, languages: dict, others: Sequence[Problem] = ()) -> str | None:
    """The language of an answer: whose answer text its first line holds; where it holds none, whose script it is in.

    The problem's own texts count first, then those of `others` (a patch brings another problem's answer along). Where two
    languages write the answer alike the rest of the line decides by its script; None where that decides nothing.
    """
    line = plain(next((line for line in text.split("\n") if line.strip()), "")).casefold()
    for known in ([problem], others):
        owners, rest = text_owners(line, known, languages)
        if owners:
            return owners[0] if len(owners) == 1 else written_in(rest, {name: languages[name] for name in owners})
    return written_in(text, languages)


def text_owners(line: str, problems: Sequence[Problem], languages: dict) -> tuple[list[str], str]:
    """The languages whose answer text comes first in the line, of those that begin together the longest; and the line's rest."""
    found = {}
    for language in languages:
        for answer in {plain(problem.answer_text.get(language, "")).casefold() for problem in problems} - {""}:
            if (start := find_word(line, answer)) is not None:
                found.setdefault((start, -len(answer)), []).append(language)
    if not found:
        return [], line
    start, length = min(found)
    return found[start, length], line[:start] + line[start - length :]


def find_word(line: str, word: str) -> int | None:
    """Where the word first stands in the line and is no part of a longer one, as far as its script parts words."""
    start = line.find(word)
    while start >= 0:
        before, after = line[start - 1 : start], line[start + len(word) : start + len(word) + 1]
        joined = [edge + inner for edge, inner in ((before, word[0]), (after, word[-1])) if edge]
        if not any(pair.isalpha() and all(map(is_cased, pair)) for pair in joined):
            return start
        start = line.find(word, start + 1)
    return None


def is_cased(letter: str) -> bool:
    """Whether a letter has a capital form; those scripts part words with spaces (Han, kana and Thai do not)."""
    return letter.upper() != letter.lower()


def written_in(text: str, languages: dict) -> str | None:
    """The language whose script most of the letters belong to; None without letters or if languages share the script.

    Han characters are Japanese where kana stand among them, or where no language asked is written in Han alone.
    """
    for name, template in languages.items():
        check_script(name, template)
    scripts = {name: template["script"] for name, template in languages.items()}
    counts = {script: len(re.findall(WRITING[script], text)) for script in {*scripts.values(), "han"}}
    if "kana" in counts and (counts["kana"] or "han" not in scripts.values()):
        counts["kana"], counts["han"] = counts["kana"] + counts["han"], 0
    most = max(counts[script] for script in scripts.values())
    best = [name for name, script in scripts.items() if counts[script] == most]
    return best[0] if most and len(best) == 1 else None
