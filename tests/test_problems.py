"""Problem files shipped with the suite, the loaders, and every way in which a file can be wrong."""

import json
import re
import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from lab import checkpoints, numerals, questions, runs

ROOT = Path(__file__).parent.parent
LANGUAGES = ["en", "zh"]
ARITHMETIC = ["phase0.jsonl", "phase2.jsonl", "exemplars.jsonl"]


def records(name: str) -> list[dict]:
    return [json.loads(line) for line in (ROOT / "data" / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ARITHMETIC)
def test_shipped_answers_agree_with_their_formula_and_their_words(name):
    for record in records(name):
        assert re.fullmatch(r"[\d +\-*/%()]+", record["formula"])
        assert eval(record["formula"]) == record["answer"], record["id"]
        for language in LANGUAGES:
            assert numerals.parse_number(record["answer_text"][language]) == record["answer"], record["id"]
        for solution in record.get("solution", {}).values():
            assert numerals.extract_number(solution) == record["answer"]
            assert "\n" not in solution


@pytest.mark.parametrize("name", ARITHMETIC)
def test_shipped_questions_have_parallel_numerals(name):
    for record in records(name):
        figures = [sorted(re.findall(r"\d+(?:\.\d+)?", record["question"][language])) for language in LANGUAGES]
        assert figures[0] == figures[1], record["id"]


def test_phase0_set_is_as_the_recipe_says():
    problems = questions.load_problems([ROOT / "data" / "phase0.jsonl"], LANGUAGES)
    assert len(problems) == 15
    assert len({problem.category for problem in problems}) >= 10
    exemplars = questions.load_problems([questions.DEFAULT_EXEMPLARS], LANGUAGES)
    texts = {text for problem in problems for text in problem.question.values()}
    assert not texts & {text for exemplar in exemplars for text in exemplar.question.values()}


def test_no_question_is_another_one_with_other_numbers():
    masked = Counter()
    for name in [*ARITHMETIC, "reasoning.jsonl"]:
        for record in records(name):
            masked.update(re.sub(r"[\d.]+|\W", "#", text.casefold()) for text in record["question"].values())
    assert [text for text, count in masked.items() if count > 1] == []


def test_prompts_hold_exemplars_with_solutions_and_end_at_the_answer():
    languages = questions.load_languages(LANGUAGES)
    problem = questions.Problem("p", "", Fraction(3), {"en": "1 + 2?", "zh": "1加2？"})
    bare = questions.Problem("q", "", Fraction(5), {"en": "2 + 3?", "zh": "2加3？"}, {"en": "five", "zh": "五"})
    worked = questions.Problem(
        "r", "", Fraction(5), bare.question, bare.answer_text, {"en": "2 + 3 = 5.", "zh": "等于5。"}
    )
    prompt = questions.prompt_text(problem, "en", languages, [bare])
    assert prompt == "Question: 2 + 3?\nAnswer: five\n\nQuestion: 1 + 2?\nAnswer:"
    assert "答案：等于5。\n\n问题：1加2？\n答案：" in questions.prompt_text(problem, "zh", languages, [worked])


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
    with pytest.raises(runs.UserError) as caught:
        questions.load_problems([file], LANGUAGES)
    assert expected in str(caught.value)
    assert file.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_empty_and_binary_files(tmp_path):
    for content in (None, b"", b"\xff\xfe\x00"):
        file = tmp_path / f"file{content!r:.6}.jsonl"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(runs.UserError, match=re.escape(file.name)):
            questions.load_problems([file], LANGUAGES)


def asking(index: int, answer: object, **more) -> dict:
    """A problem whose question no other index asks."""
    return {"id": f"p{index}", "answer": answer, "question": {"en": f"Number {index}?", "zh": f"第{index}题？"}} | more


def write_problems(folder: Path, *records: dict, name: str = "problems.jsonl") -> Path:
    file = folder / name
    file.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n", encoding="utf-8")
    return file


def refusal(*files: Path, languages: list[str] = LANGUAGES, limit: int | None = None) -> str:
    """The one line of the UserError that loading ends in."""
    with pytest.raises(runs.UserError) as caught:
        questions.load_problems(files, languages, limit)
    assert "\n" not in str(caught.value)
    return str(caught.value)


ANSWERS = [  # as JSON has it, and what it is
    ("3", 3),
    ("-2", -2),
    ("0.1", Fraction(1, 10)),
    ("1e3", 1000),
    ("2.5E-1", Fraction(1, 4)),
    ('"1e3"', 1000),
    ('"3/4"', Fraction(3, 4)),
    ('"1 3/4"', Fraction(7, 4)),
    ('"½"', Fraction(1, 2)),
    ('"1,234"', 1234),
    ('"$18"', 18),
    ('"forty-two"', 42),
    ('"二十一"', 21),
    ('"16 - 3 = 13 eggs, 13 * 2 = 26.\\n#### 26"', 26),
    ('"Ben"', "Ben"),
    ('"someone else"', "someone else"),
]


def test_answers_may_be_numbers_of_any_form_or_words(tmp_path):
    file = tmp_path / "problems.jsonl"
    lines = [json.dumps(asking(index, "?")).replace('"?"', answer) for index, (answer, _) in enumerate(ANSWERS)]
    file.write_text("\n".join(lines), encoding="utf-8")
    assert [problem.answer for problem in questions.load_problems([file], LANGUAGES)] == [value for _, value in ANSWERS]
    assert len(questions.load_problems([file], LANGUAGES, limit=2)) == 2
    assert f"--limit 99: only {len(ANSWERS)}" in refusal(file, limit=99)


NO_ANSWERS = [  # what is no number alone, and what the line that refuses it names
    ("50%", "write 50, and its unit in the question"),
    ("18 dollars", "write 18"),
    ("18元", "write 18"),
    ("１８元", "write 18"),
    ("about 5", "write 5"),
    ("3/0", "divides by zero"),
    ("#### 18 dollars", "write 18"),
    ("Half of 48 is 24. #### ", "write just the number"),
    ("48/2 = 24\nThe answer is 72", "write just the number"),
    ("seven dwarfs", "write just the number, and its unit in the question (or repeat the word in answer_text)"),
    ("五个", "repeat the word in answer_text"),
    ("", "neither a number nor a word"),
    (" ", "neither a number nor a word"),
    (True, "neither a number nor a word"),
    (None, "neither a number nor a word"),
    (float("nan"), "neither a number nor a word"),
]


@pytest.mark.parametrize("answer, remedy", NO_ANSWERS)
def test_a_number_with_anything_beside_it_is_refused(tmp_path, answer, remedy):
    message = refusal(write_problems(tmp_path, asking(1, 3), asking(2, answer)))
    assert "problems.jsonl, line 2: " in message and remedy in message


@pytest.mark.parametrize("answer", ["1e999999999", "1e-999999999", "1e99999999999999999999"])
def test_a_number_that_would_fill_the_memory_is_refused(tmp_path, answer):
    for line in (json.dumps(asking(1, answer)), json.dumps(asking(1, "?")).replace('"?"', answer)):
        (tmp_path / "problems.jsonl").write_text(line)
        assert "line 1" in refusal(tmp_path / "problems.jsonl")


def test_a_word_that_holds_a_number_stands_in_answer_text_too(tmp_path):
    file = write_problems(tmp_path, asking(1, "星期一", answer_text={"en": "Monday", "zh": "星期一"}))
    assert questions.load_problems([file], LANGUAGES)[0].answer == "星期一"
    digits = asking(1, "18 dollars", answer_text={"en": "18 dollars", "zh": "18美元"})
    assert "write 18" in refusal(write_problems(tmp_path, digits))  # digits carry no language


@pytest.mark.parametrize(
    "answer, texts, read",
    [
        ("once", {"en": "once", "zh": "一次"}, "once"),
        ("once", {"es": "once", "zh": "十一"}, 11),
        ("elf", {"en": "elf"}, "elf"),
        ("Elf", {"en": "elf", "zh": "精灵"}, "Elf"),
        ("elf", {"de": "elf"}, 11),
        ("mil", {"en": "mil"}, "mil"),
        ("mil", {"es": "mil", "en": "thousand"}, 1000),
        ("null", {"en": "null", "zh": "空"}, "null"),
        ("half", {"en": "half", "zh": "一半"}, Fraction(1, 2)),
        ("half", {"en": "half", "zh": "下半场"}, "half"),
        ("nineteen", {"en": "nineteen", "zh": "十九"}, 19),
        ("nineteen", {"en": "nineteen", "sw": "kumi na tisa"}, 19),  # what cannot be read says nothing
        ("nineteen", {}, 19),
        ("19", {"en": "19", "zh": "第十九"}, 19),
        ("½", {"en": "½", "zh": "半个"}, Fraction(1, 2)),
        ("#### once", {"es": "once"}, 11),
    ],
)
def test_a_word_that_its_texts_repeat_is_a_word_unless_all_are_that_number(tmp_path, answer, texts, read):
    file = write_problems(tmp_path, asking(1, answer, answer_text=texts))
    assert questions.load_problems([file], LANGUAGES)[0].answer == read


@pytest.mark.parametrize(
    "answer, texts",
    [
        ("nineteen", {"en": "nineteen", "zh": "二十"}),
        (12, {"es": "once"}),
        (19, {"en": "twenty", "zh": "十九"}),
        (19, {"en": "nineteen", "zh": "二十"}),
        ("nineteen", {"en": "twenty"}),
        (0.5, {"zh": "五"}),
        ("ninteen", {"en": "nineteen", "zh": "十九"}),
    ],
)
def test_an_answer_that_contradicts_its_words_is_refused(tmp_path, answer, texts):
    message = refusal(write_problems(tmp_path, asking(1, 3), asking(2, answer, answer_text=texts)))
    assert "line 2" in message and "contradict" in message


def test_words_that_cannot_be_read_contradict_nothing(tmp_path):
    texts = {"en": "nineteen", "sw": "kumi na tisa"}
    assert questions.load_problems([write_problems(tmp_path, asking(1, 19, answer_text=texts))], LANGUAGES)


def test_a_question_under_several_ids_is_one_problem(tmp_path):
    first = [asking(index, index) for index in range(10)]
    copies = [asking(index, index) | {"id": f"copy{turn}-{index}"} for turn in range(3) for index in range(10)]
    copies[4]["question"] = {"en": " Number  4？", "zh": "第４题?"}  # another width and other spaces
    file = write_problems(tmp_path, *first, *copies)
    problems, counts = questions.read_problems([file], LANGUAGES)
    assert [problem.id for problem in problems] == [record["id"] for record in first]
    assert counts == {"given": 40, "distinct": 10, "worked": 0}
    assert [problem.id for problem in questions.load_problems([file], LANGUAGES, limit=10)][-1] == "p9"
    assert "--limit 11: only 10 distinct" in refusal(file, limit=11)
    other = write_problems(tmp_path, *copies, name="other.jsonl")
    assert (
        len(questions.load_problems([file, write_problems(tmp_path, asking(10, 3), name="more.jsonl")], LANGUAGES))
        == 11
    )
    hashes = [set(map(questions.problem_hash, questions.load_problems([name], LANGUAGES))) for name in (file, other)]
    assert hashes[0] == hashes[1]  # what Z was fitted on is known again under another id


def questioned(identifier: str, answer: object, english: str, chinese: str) -> dict:
    return {"id": identifier, "answer": answer, "question": {"en": english, "zh": chinese}}


SHARED = [  # the questions of problems with one answer, and which of them are kept
    ([("How many?", "几个？"), ("How many?", "有几个？"), ("How many?", "一共几个？")], "0"),
    ([("How many?", "几个？"), ("How much?", "几个？")], "0"),
    ([("What is left?", "还剩？"), ("what IS left?", "剩下？"), ("What is left", "余下？")], "0"),
    ([("Find it.", "求。"), ("Find it!", "求解"), ("Solve", "求")], "0"),
    ([("a?", "甲？"), ("b?", "乙？"), ("c?", "丙？"), ("a?", "丁？"), ("e?", "丁？")], "0 1 2"),
    ([("a?", "甲？"), ("b?", "乙？"), ("a?", "乙？"), ("b?", "丙？")], "0"),  # the third joins the first two
    ([("5!", "五的阶乘"), ("5", "五"), ("5!?", "阶乘？")], "0 1"),
    ([("?", "？？"), ("!", "。")], "0 1"),
    ([("a?", "甲？"), ("甲？", "a?")], "0 1"),  # a text is one of its language
]


@pytest.mark.parametrize("texts, kept", SHARED)
def test_problems_that_share_a_text_in_a_language_are_one(tmp_path, texts, kept):
    """Three translations of one English question gave it three votes."""
    rows = [questioned(str(index), 7, *pair) for index, pair in enumerate(texts)]
    problems, counts = questions.read_problems([write_problems(tmp_path, *rows)], LANGUAGES)
    assert " ".join(problem.id for problem in problems) == kept
    assert (counts["given"], counts["distinct"]) == (len(texts), len(problems))


@pytest.mark.parametrize("english", ["what is left?", "What is left", "WHAT  is left!"])
def test_a_shared_text_with_another_answer_is_refused_in_any_spelling(tmp_path, english):
    rows = questioned("a", 3, "What is left?", "还剩？"), questioned("b", 4, english, "剩下？")
    message = refusal(write_problems(tmp_path, *rows))
    assert "line 1 and" in message and "line 2 ask the same question (en) but answer 3 and 4" in message


def test_one_question_with_two_answers_is_refused(tmp_path):
    other = asking(1, 4) | {"id": "other", "question": {"en": "Number 1?", "zh": "又一题？"}}
    message = refusal(write_problems(tmp_path, asking(1, 3), asking(2, 3), other))
    assert "problems.jsonl, line 1 and" in message and "line 3 ask the same question (en) but answer 3 and 4" in message
    assert questions.load_problems(
        [write_problems(tmp_path, asking(1, "Ben"), asking(1, "BEN") | {"id": "b"})], LANGUAGES
    )
    files = write_problems(tmp_path, asking(1, 3)), write_problems(tmp_path, other, name="more.jsonl")
    assert "problems.jsonl, line 1 and" in refusal(*files) and "more.jsonl, line 1 ask" in refusal(*files)


@pytest.mark.parametrize(
    "record, said",
    [
        ({"id": "a", "answer": "#### 3", "question": "How many?"}, "question holds no text per language"),
        (asking(1, 3, answer_text="three"), "answer_text holds no text per language"),
        (asking(1, 3, answer_text={"en": 3}), "a text is empty or not a string"),
    ],
)
def test_texts_stand_under_their_language(tmp_path, record, said):
    assert said in refusal(write_problems(tmp_path, record))


def test_byte_order_marks_are_read_past(tmp_path):
    lines = [json.dumps(asking(index, index), ensure_ascii=False) for index in range(2)]
    (tmp_path / "problems.jsonl").write_text("".join(f"\ufeff{line}\r\n" for line in lines), encoding="utf-8")
    loaded = questions.load_problems([tmp_path / "problems.jsonl"], LANGUAGES)
    assert [problem.question["en"] for problem in loaded] == ["Number 0?", "Number 1?"]
    files = write_mgsm(tmp_path, en=["\ufeffHow many?\t5"], zh=["\ufeff几个？\t5"])
    assert questions.load_problems(files, LANGUAGES)[0].question == {"en": "How many?", "zh": "几个？"}
    (tmp_path / "utf16.jsonl").write_text(lines[0], encoding="utf-16")
    assert "not readable UTF-8" in refusal(tmp_path / "utf16.jsonl")


def write_mgsm(folder: Path, **rows: list[str]) -> list[Path]:
    files = []
    for language, lines in rows.items():
        files.append(folder / f"mgsm_{language}.tsv")
        files[-1].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return files


def test_mgsm_files_in_any_order_with_commas_in_the_target(tmp_path):
    files = write_mgsm(tmp_path, zh=["一共多少？\t5,600", "还剩？\t-2"], en=["How many?\t5600", "What is\tleft?\t-2"])
    problems = questions.load_problems(files, LANGUAGES)
    assert [problem.answer for problem in problems] == [5600, -2]
    assert problems[1].question == {"en": "What is\tleft?", "zh": "还剩？"}


def test_mgsm_files_that_do_not_fit_together(tmp_path):
    files = write_mgsm(tmp_path, en=["a?\t1", "b?\t2"], zh=["甲？\t1"])
    with pytest.raises(runs.UserError, match="differ in length"):
        questions.load_problems(files, LANGUAGES)
    with pytest.raises(runs.UserError, match=r"exactly one file named \*_zh.tsv"):
        questions.load_problems(files[:1], LANGUAGES)
    files = write_mgsm(tmp_path, en=["a?\t1"], zh=["甲？\t2"])
    with pytest.raises(runs.UserError, match="line 1: the languages' answers differ"):
        questions.load_problems(files, LANGUAGES)
    files = write_mgsm(tmp_path, en=["a?\t1"], zh=["甲？"])
    with pytest.raises(runs.UserError, match="mgsm_zh.tsv, line 1"):
        questions.load_problems(files, LANGUAGES)
    assert "not both at once" in refusal(*files, write_problems(tmp_path, asking(1, 1)))


def test_mgsm_rows_are_checked_like_lines_of_jsonl(tmp_path):
    def refused(english: list[str], chinese: list[str]) -> str:
        return refusal(*write_mgsm(tmp_path, en=english, zh=chinese))

    files = write_mgsm(tmp_path, en=["a?\t1", "b?\t2", "a?\t1"], zh=["甲？\t1", "乙？\t2", "甲？\t1"])
    problems, counts = questions.read_problems(files, LANGUAGES)
    assert [problem.id for problem in problems] == ["mgsm-001", "mgsm-002"] and counts["given"] == 3
    same = refused(["a?\t1", "", "a?\t2"], ["甲？\t1", "乙？\t2"])
    assert "mgsm_en.tsv, line 1 and" in same and "mgsm_en.tsv, line 3 ask the same question (en)" in same
    assert "mgsm_en.tsv, line 1: not a question" in refused(["question\tanswer"], ["问题\t答案"])
    assert "mgsm_zh.tsv, line 1: answer '18元'" in refused(["a?\t18"], ["甲？\t18元"])
    files = write_mgsm(tmp_path, en=["a?\t2 + 1 = 3 #### 3"], zh=["甲？\t3"])
    assert questions.read_problems(files, LANGUAGES)[1]["worked"] == 1


@pytest.mark.skipif(not (ROOT.parent / "shared" / "data").exists(), reason="the MGSM files are not part of the project")
def test_the_real_mgsm_files_load():
    folder = ROOT.parent / "shared" / "data"
    problems = questions.load_problems([folder / "mgsm_en.tsv", folder / "mgsm_zh.tsv"], LANGUAGES)
    assert len(problems) == 250
    assert problems[-1].answer == 5600


MGSM_LANGUAGES = "en es fr de ru zh ja th sw bn te".split()


def test_every_language_of_mgsm_has_a_template_of_its_own(tmp_path):
    languages = questions.load_languages(MGSM_LANGUAGES)
    assert list(languages) == MGSM_LANGUAGES
    for key in ("name", "prompt"):
        assert len({template[key] for template in languages.values()}) == len(languages)
    files = write_mgsm(tmp_path, **{language: [f"{language}?\t3"] for language in MGSM_LANGUAGES})
    (problem,) = questions.load_problems(files, MGSM_LANGUAGES)
    for language, template in languages.items():
        prompt = questions.prompt_text(problem, language, languages)
        assert f"{language}?" in prompt and prompt.count("\n") == 1
        words = questions.written_in(re.sub(r"\{.*?\}", "", template["prompt"]), languages)
        assert words == {"latin": None, "kana": "zh"}.get(template["script"], language)  # 質問 and 回答 are Han alone


def test_languages_without_template_or_partner():
    with pytest.raises(runs.UserError, match="--languages xx: no template"):
        questions.load_languages(["en", "xx"])
    with pytest.raises(runs.UserError, match="two or more"):
        questions.load_languages(["en"])
    with pytest.raises(runs.UserError, match="two or more"):
        questions.load_languages(["en", "en"])


def test_a_language_is_one_row_and_a_wrong_row_is_named(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    file, row = tmp_path / "data" / "languages.json", {"name": "X", "prompt": "{question}", "answer": "{answer}"}
    row |= {"separator": "\n", "script": "latin"}
    file.write_text("\ufeff" + json.dumps({"xx": row, "yy": row}), encoding="utf-8")
    assert list(questions.load_languages(["yy", "xx"])) == ["yy", "xx"]
    wrong = {"name": None, "prompt": "Q", "answer": "A", "script": "runic"}
    said = {"name": "xx has no name", "prompt": "no prompt with {question}", "answer": "no answer with {answer}"}
    for key, value in wrong.items():
        file.write_text(json.dumps({"xx": row | {key: value}, "yy": row}), encoding="utf-8")
        with pytest.raises(runs.UserError, match=re.escape(said.get(key, "'runic' is unknown; known: latin, han"))):
            questions.load_languages(["xx", "yy"])
    file.write_text("{", encoding="utf-8")
    with pytest.raises(runs.UserError, match="languages.json is not JSON"):
        questions.load_languages(["xx", "yy"])


@pytest.mark.parametrize("name", ["phase0.jsonl", "words.jsonl", "reasoning.jsonl", "exemplars.jsonl"])
def test_the_suites_own_files_say_which_language_they_lack(name):
    message = refusal(ROOT / "data" / name, languages=["en", "sw"])
    assert f"{name}, line 1: question: 'sw' is missing" in message and "--problems, --exemplars" in message


SPOKEN = questions.Problem(
    "p",
    "",
    Fraction(19),
    {},
    {"en": "nineteen", "de": "neunzehn", "es": "diecinueve", "zh": "十九", "ja": "十九", "ru": "девятнадцать"},
)
OTHER = questions.Problem("q", "", "cat", {}, {"en": "cat", "de": "Katze", "es": "gato", "zh": "猫", "ja": "猫"})
SAID = [  # languages asked, outputs, and the language that they are in
    ("en de es", [" nineteen", "**Nineteen**.", 'The answer is "nineteen" apples', "nineteen neunzehn"], "en"),
    ("en de es", ["neunzehn", "Neunzehn Äpfel", "Die Antwort ist neunzehn.", "Katze"], "de"),
    ("en de es", ["diecinueve", "el gato", "\n\ndiecinueve\nnineteen"], "es"),
    ("en de es", ["19", "", "twenty", "neunzehnte", "catfish", "19 apples"], None),
    ("en zh", ["the answer is 十九", "答案是十八", "猫 cat"], "zh"),
    ("en zh", ["19 apples", "eighteen", "nineteen 个个个个个个个个个个"], "en"),
    ("zh ja", ["十九です", "答えは不明です", "ねこ", "ネコ猫猫猫"], "ja"),
    ("zh ja", ["十九个", "答案是二十"], "zh"),
    ("zh ja", ["十九", "猫", "19", "19。"], None),  # written alike in both
    ("en ja", ["十九", "二十"], "ja"),
    ("ru en", ["Девятнадцать.", "двадцать"], "ru"),
]


@pytest.mark.parametrize("asked, outputs, language", SAID)
def test_an_answer_is_in_the_language_whose_answer_text_it_is(asked, outputs, language):
    for names in (asked.split(), asked.split()[::-1]):
        languages = questions.load_languages(names)
        for output in outputs:
            assert questions.answer_language(output, SPOKEN, languages, [SPOKEN, OTHER]) == language, output


def test_the_problems_own_answer_text_counts_first():
    languages = questions.load_languages(["en", "de"])
    own = questions.Problem("p", "", "gift", {}, {"en": "gift", "de": "Geschenk"})
    other = questions.Problem("q", "", "poison", {}, {"en": "poison", "de": "Gift"})
    assert questions.answer_language("gift", own, languages, [own, other]) == "en"
    assert questions.answer_language("gift", other, languages, [own, other]) == "de"
    assert questions.answer_language("poison", own, languages) is None  # nobody's answer text, and the script is shared


def test_digits_are_no_answer_in_words():
    for digits in ("3", "３", "3.5", "-3"):
        with pytest.raises(questions.NoWords, match="digits carry no language"):
            questions.check_words(questions.Problem("p", "", Fraction(3), {}, {"en": "three", "zh": digits}), LANGUAGES)


@pytest.mark.parametrize("name", ["phase3_patching.py", "ablation.py"])
def test_what_asks_for_words_refuses_mgsm_before_it_looks_for_a_model(script, tmp_path, monkeypatch, name):
    monkeypatch.setattr(checkpoints, "find_model", None)
    files = write_mgsm(tmp_path, en=["a?\t1"], zh=["甲？\t1"])
    with pytest.raises(questions.NoWords, match="'mgsm-001' has no answer_text for en, zh"):
        script(name).main(["--model", "no/such", "--out", str(tmp_path), "--problems", *map(str, files)])


def test_exemplars_follow_their_problems(small, tmp_path):
    """Those of a rung lie beside it; a model folder has its own; phase 0's are the suite's."""
    folder, languages = checkpoints.find_model(str(small)), questions.load_languages(LANGUAGES)
    data = ROOT / "data"

    def chosen(file: Path, model: Path = small) -> Path:
        folder = checkpoints.find_model(str(model))
        return questions.load_exemplars(None, folder, languages, [file], [])[1]

    assert chosen(data / "sums.jsonl") == data / "sums_exemplars.jsonl"
    assert chosen(small / "problems.jsonl") == small / "exemplars.jsonl"
    bare = Path(shutil.copytree(small, tmp_path / "bare"))
    (bare / "exemplars.jsonl").unlink()
    assert chosen(data / "phase0.jsonl", bare) == questions.DEFAULT_EXEMPLARS
    given = data / "words_exemplars.jsonl"
    assert questions.load_exemplars(given, folder, languages, [data / "sums.jsonl"], [])[1] == given
