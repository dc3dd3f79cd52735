"""Problem files shipped with the suite, the loaders, and every way in which a file can be wrong."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest

import utils

ROOT = Path(__file__).parent.parent
LANGUAGES = ["en", "zh"]


def records(name: str) -> list[dict]:
    return [json.loads(line) for line in (ROOT / "data" / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ["phase0.jsonl", "phase2.jsonl", "exemplars.jsonl"])
def test_shipped_answers_agree_with_their_formula_and_their_words(name):
    for record in records(name):
        assert re.fullmatch(r"[\d +\-*/%()]+", record["formula"])
        assert eval(record["formula"]) == record["answer"], record["id"]
        for language in LANGUAGES:
            assert utils.parse_number(record["answer_text"][language]) == record["answer"], record["id"]
        for solution in record.get("solution", {}).values():
            assert utils.extract_number(solution) == record["answer"]
            assert "\n" not in solution


@pytest.mark.parametrize("name", ["phase0.jsonl", "phase2.jsonl", "exemplars.jsonl"])
def test_shipped_questions_have_parallel_numerals(name):
    for record in records(name):
        numerals = [sorted(re.findall(r"\d+(?:\.\d+)?", record["question"][language])) for language in LANGUAGES]
        assert numerals[0] == numerals[1], record["id"]


def test_phase0_set_is_as_the_recipe_says():
    problems = utils.load_problems([ROOT / "data" / "phase0.jsonl"], LANGUAGES)
    assert len(problems) == 15
    assert len({problem.category for problem in problems}) >= 10
    exemplars = utils.load_problems([utils.DEFAULT_EXEMPLARS], LANGUAGES)
    questions = {text for problem in problems for text in problem.question.values()}
    assert not questions & {text for exemplar in exemplars for text in exemplar.question.values()}


def test_prompts_hold_exemplars_with_solutions_and_end_at_the_answer():
    languages = utils.load_languages(LANGUAGES)
    problem = utils.Problem("p", "", Fraction(3), {"en": "1 + 2?", "zh": "1加2？"})
    bare = utils.Problem("q", "", Fraction(5), {"en": "2 + 3?", "zh": "2加3？"}, {"en": "five", "zh": "五"})
    worked = utils.Problem("r", "", Fraction(5), bare.question, bare.answer_text, {"en": "2 + 3 = 5.", "zh": "等于5。"})
    prompt = utils.prompt_text(problem, "en", languages, [bare])
    assert prompt == "Question: 2 + 3?\nAnswer: five\n\nQuestion: 1 + 2?\nAnswer:"
    assert "答案：等于5。\n\n问题：1加2？\n答案：" in utils.prompt_text(problem, "zh", languages, [worked])


GOOD = {"id": "a", "category": "c", "answer": 3, "question": {"en": "1 + 2?", "zh": "1加2？"}}
WRONG_LINES = {
    "not json": ("{", "line 2"),
    "not an object": ("[1]", "line 2"),
    "no answer": (json.dumps({"id": "b", "question": GOOD["question"]}), "'answer' is missing"),
    "no Chinese": (json.dumps({"id": "b", "answer": 3, "question": {"en": "1 + 2?"}}), "'zh' is missing"),
    "empty question": (json.dumps({"id": "b", "answer": 3, "question": {"en": " ", "zh": "x"}}), "empty"),
    "list as answer": (json.dumps(GOOD | {"id": "b", "answer": [3]}), "neither a number nor a word"),
    "same id": (json.dumps(GOOD), "twice"),
}


@pytest.mark.parametrize("name", WRONG_LINES)
def test_wrong_lines_are_named(tmp_path, name):
    line, expected = WRONG_LINES[name]
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(utils.UserError) as caught:
        utils.load_problems([file], LANGUAGES)
    assert expected in str(caught.value)
    assert file.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_empty_and_binary_files(tmp_path):
    for content in (None, b"", b"\xff\xfe\x00"):
        file = tmp_path / f"file{content!r:.6}.jsonl"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(utils.UserError, match=re.escape(file.name)):
            utils.load_problems([file], LANGUAGES)


def test_answers_may_be_numbers_of_any_form_or_words(tmp_path):
    file = tmp_path / "problems.jsonl"
    answers = [3, -2, 0.1, "3/4", "1,234", "Ben"]
    lines = [json.dumps(GOOD | {"id": str(index), "answer": answer}) for index, answer in enumerate(answers)]
    file.write_text("\n".join(lines), encoding="utf-8")
    loaded = [problem.answer for problem in utils.load_problems([file], LANGUAGES)]
    assert loaded == [3, -2, Fraction(1, 10), Fraction(3, 4), 1234, "Ben"]
    assert len(utils.load_problems([file], LANGUAGES, limit=2)) == 2
    with pytest.raises(utils.UserError, match="--limit 9: only 6"):
        utils.load_problems([file], LANGUAGES, limit=9)


def write_mgsm(folder: Path, **rows: list[str]) -> list[Path]:
    files = []
    for language, lines in rows.items():
        files.append(folder / f"mgsm_{language}.tsv")
        files[-1].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return files


def test_mgsm_files_in_any_order_with_commas_in_the_target(tmp_path):
    files = write_mgsm(tmp_path, zh=["一共多少？\t5,600", "还剩？\t-2"], en=["How many?\t5600", "What is\tleft?\t-2"])
    problems = utils.load_problems(files, LANGUAGES)
    assert [problem.answer for problem in problems] == [5600, -2]
    assert problems[1].question == {"en": "What is\tleft?", "zh": "还剩？"}


def test_mgsm_files_that_do_not_fit_together(tmp_path):
    files = write_mgsm(tmp_path, en=["a?\t1", "b?\t2"], zh=["甲？\t1"])
    with pytest.raises(utils.UserError, match="differ in length"):
        utils.load_problems(files, LANGUAGES)
    with pytest.raises(utils.UserError, match=r"exactly one file named \*_zh.tsv"):
        utils.load_problems(files[:1], LANGUAGES)
    files = write_mgsm(tmp_path, en=["a?\t1"], zh=["甲？\t2"])
    with pytest.raises(utils.UserError, match="line 1: the languages' answers differ"):
        utils.load_problems(files, LANGUAGES)
    files = write_mgsm(tmp_path, en=["a?\t1"], zh=["甲？"])
    with pytest.raises(utils.UserError, match="mgsm_zh.tsv, line 1"):
        utils.load_problems(files, LANGUAGES)


@pytest.mark.skipif(not (ROOT.parent / "shared" / "data").exists(), reason="the MGSM files are not part of the project")
def test_the_real_mgsm_files_load():
    folder = ROOT.parent / "shared" / "data"
    problems = utils.load_problems([folder / "mgsm_en.tsv", folder / "mgsm_zh.tsv"], LANGUAGES)
    assert len(problems) == 250
    assert problems[-1].answer == 5600


def test_languages_without_template_or_partner():
    with pytest.raises(utils.UserError, match="--languages xx: no template"):
        utils.load_languages(["en", "xx"])
    with pytest.raises(utils.UserError, match="two or more"):
        utils.load_languages(["en"])
    with pytest.raises(utils.UserError, match="two or more"):
        utils.load_languages(["en", "en"])
