"""What a model's output is taken to answer: tables of outputs in four languages, by kind, with traps."""

import json
import re
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import OUTPUTS
from outputs_in_words import DENIALS, WORDS

from lab import numerals, quantities, questions, words, writing

LIST = [case for cases in OUTPUTS.values() for case in cases]
VALUES = [*range(130), 1000, 1001, 2340, 10_000, 20_304, 1_000_005]


def read(case: tuple) -> tuple[Fraction | None, Fraction | None]:
    """(read, expected) of a case of the table."""
    output, expected, *language = case
    return numerals.extract_number(output, *language), None if expected is None else Fraction(expected)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_every_output_of_a_kind_is_read(kind):
    read_as = {case[0]: read(case) for case in OUTPUTS[kind]}
    wrong = {
        output: f"read {value}, not {expected}" for output, (value, expected) in read_as.items() if value != expected
    }
    print(f"{kind}: {len(OUTPUTS[kind]) - len(wrong)} of {len(OUTPUTS[kind])}")
    assert not wrong


def test_the_table_is_long_enough_in_every_language():
    assert len(LIST) >= 150
    assert sum(any("一" <= character <= "鿿" for character in output) for output, *_ in LIST) >= 75
    assert min(len(OUTPUTS[language]) for language in ("German", "Spanish")) >= 30


def test_a_language_decides_what_a_separator_is():
    assert numerals.extract_number("1.000") == numerals.extract_number("1.000", "zh") == 1
    assert numerals.extract_number("1.000", "de") == numerals.extract_number("1.000", "es") == 1000
    assert numerals.extract_number("1,000") == 1000
    assert numerals.extract_number("Sie hat einmal 1,000 kg.", "de") == 1
    assert [
        quantities.language_of(text) for text in ("The answer is 5", "Die Antwort ist 5", "La respuesta es 5", "5")
    ] == [
        *("en", "de", "es"),
        None,
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12", 12), ("-3/4", "-3/4"), ("$18", 18), ("5,600", 5600), ("dieciséis", 16), ("50%", None), ("18 dollars", None)]
    + [
        ("x = 5", None),
        ("1,00", None),
        ("3:4", None),
        ("Mia", None),
        ("", None),
        ("3 4", None),
        ("十九", 19),
        ("18.", None),
    ],
)
def test_a_text_that_is_a_number_and_nothing_else(text, expected):
    assert numerals.parse_number(text) == (None if expected is None else Fraction(expected))


@pytest.mark.parametrize("value", VALUES)
def test_chinese_number_words_round_trip(value):
    assert numerals.parse_number(chinese_words(value)) == value


@pytest.mark.parametrize("value", VALUES)
def test_english_number_words_round_trip(value):
    assert numerals.parse_number(english_words(value)) == value


@pytest.mark.parametrize("value", [21, 305, 2340, 34_000, 256_000, 20_300_000, 120_000_000, 132_000])
def test_digits_and_chinese_units_mix_at_every_unit(value):
    rest, text = value, ""
    for size, unit in ((10**8, "亿"), (10**4, "万"), (1000, "千"), (100, "百")):
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
        if text and text[-1] == unit:
            assert numerals.extract_number(f"共{text}{rest or ''}元") == value if rest > 9 or not rest else True


COMPLETE = [
    "The answer is 36. ", "The answer is 36.\n", "The answer is 36\n", "答案是36。", "答案是36。答", "答案是36\n", "#### 36\n",
    "\\boxed{36}\n", "So \\boxed{36}. ", "The answer is:\n36\n", "**Answer:** 36\n", "答：36个。", "Die Antwort ist 36. ",
    "La respuesta es 36.\n", "The answer is thirty-six.\n", "36\n\nQuestion:", "36。\n\n问题：", "Question: a", "答案是三十六。",
    "The answer is 3/4.\n", "18 + 18 = 36. The answer is 36. The",
]  # fmt: skip
GROWING = [
    "", " ", "3", "36", "36.", "36\n", "The answer is 3", "The answer is 36", "The answer is 36.", "答案是3", "答案是36",
    "答案是", "答案是三十", "The answer is", "The answer is:\n", "The answer is:\n36", "\\boxed{3", "\\boxed{36}", "#### 3",
    "#### 36", "18 + 18 = 36. ", "18 + 18 = 36\n", "Step 1. ", "1. ", "Answer:\n1. ", "答案：\n1. ", "Let us see.\n",
    "The answer is the sum of both numbers. ", "让我们一步一步来。\n", "Answer: 18 + 18 = ", "The question is hard.\n",
]  # fmt: skip


@pytest.mark.parametrize("text", COMPLETE)
def test_a_stated_answer_is_complete(text):
    assert numerals.number_complete(text)


@pytest.mark.parametrize("text", GROWING)
def test_an_answer_that_may_still_grow_is_not_complete(text):
    assert not numerals.number_complete(text)


def test_what_follows_a_complete_answer_does_not_change_it():
    stopped = 0
    for kind, cases in OUTPUTS.items():
        for output, _, *language in cases if kind != "corrections" else []:
            text = output[:300]
            stop = next((end for end in range(len(text)) if numerals.number_complete(text[:end], *language)), None)
            if stop is not None and output.count("boxed") < 2:
                stopped += 1
                assert numerals.extract_number(text[:stop], *language) == numerals.extract_number(text, *language), (
                    output
                )
    assert stopped > 30


def test_a_phrase_that_is_called_the_answer_is_complete():
    assert all(
        map(
            words.word_complete,
            ["The answer is Mia. ", "答案是小美。", "Answer: Mia\n", "\\boxed{Mia}\n", "Mia\n\nQuestion:"],
        )
    )
    assert not any(
        map(words.word_complete, ["The answer is Mi", "The answer is Mia.", "答案是小", "Answer:", "Mia", "Mia is"])
    )


PROBLEMS = {
    "Mia": questions.Problem(
        "a",
        "",
        "Mia",
        {
            "en": "Mia is taller than Tom. Tom is taller than Ann. Who is the tallest?",
            "zh": "小美比小明高，小明比小红高。谁最高？",
            "de": "Mia ist größer als Tom. Tom ist größer als Ann. Wer ist am größten?",
        },
        {"en": "Mia", "zh": "小美", "de": "Mia", "es": "Mia"},
    ),
    "cat": questions.Problem(
        "b",
        "",
        "cat",
        {
            "en": "The cat is older than the dog. The dog is older than the horse. Which animal is the oldest?",
            "zh": "猫比狗年纪大，狗比马年纪大。哪个动物年纪最大？",
        },
        {"en": "cat", "zh": "猫"},
    ),
    "red": questions.Problem(
        "c",
        "",
        "red",
        {
            "en": "The blue box is lighter than the red box. The blue box is heavier than the green box. "
            "What colour is the heaviest box?",
            "zh": "蓝色箱子比红色箱子轻，蓝色箱子比绿色箱子重。最重的箱子是什么颜色？",
        },
        {"en": "red", "zh": "红色"},
    ),
    "attic": questions.Problem(
        "d",
        "",
        "attic",
        {
            "en": "The trunk is in the attic or in the cellar. It is not in the cellar. In which room is the trunk?",
            "zh": "箱子在阁楼或者地窖里。它不在地窖里。箱子在哪个房间？",
        },
        {"en": "attic", "zh": "阁楼"},
    ),
    "cold": questions.Problem(
        "e", "", "cold", {"en": "What is the opposite of hot?", "zh": "热的反义词是什么？"}, {"en": "cold", "zh": "冷"}
    ),
    "odd": questions.Problem(
        "g",
        "",
        "soldier",
        {
            "en": "Which of these words does not name a fruit: cherry, plum, soldier, peach?",
            "zh": "下面哪个词指的不是水果：樱桃、李子、士兵、桃子？",
        },
        {"en": "soldier", "zh": "士兵"},
    ),
    "nineteen": questions.Problem(
        "f", "", Fraction(19), {}, {"en": "nineteen", "zh": "十九", "de": "neunzehn", "sw": "kumi na tisa"}
    ),
}


@pytest.mark.parametrize("table", (WORDS, DENIALS), ids=("words", "denials"))
@pytest.mark.parametrize("name", PROBLEMS)
def test_words_are_graded_in_every_language_and_in_sentences(name, table):
    right, wrong = table.get(name, ([], []))
    assert [output for output in right if not questions.grade(PROBLEMS[name], output)[1]] == []
    assert [output for output in wrong if questions.grade(PROBLEMS[name], output)[1]] == []


DATA = Path(__file__).parents[1] / "data"
AROUND = {  # sentences around an answer that are right, and that are wrong
    "en": (
        "{a}|The answer is {a}.|It is the {a}.|So it is the {a}.",
        "It cannot be {a}.|Everything except {a}|{a} is wrong.|It isn't {a}",
    ),
    "zh": ("{a}|答案是{a}。|所以是{a}。", "不可能是{a}。|除了{a}|不是{a}|不会是{a}"),
    "de": ("{a}|Die Antwort ist {a}.|Es ist {a}.", "Es ist nicht {a}.|Alles außer {a}|Es kann nicht {a} sein."),
    "es": ("{a}|La respuesta es {a}.", "No es {a}.|todo excepto {a}|en vez de {a}"),
}
TURNED = {  # an antonym's sentence that is right, and the same turned round
    "en": ('The opposite of "{q}" is {a}.|{a} is the opposite of {q}.', "The opposite of {a} is {q}.|{a} is {q}"),
    "zh": ("{q}的反义词是{a}。|{a}是{q}的反义词。", "{a}的反义词是{q}。|{a}是{q}"),
    "de": ("Das Gegenteil von „{q}“ ist {a}.", "Das Gegenteil von {a} ist {q}."),
    "es": ("Lo contrario de «{q}» es {a}.", "Lo contrario de {a} es {q}."),
}


@pytest.mark.parametrize(("file", "tables"), [("reasoning", [AROUND]), ("antonyms", [AROUND, TURNED])])
def test_denied_answers_of_the_suite_are_wrong_and_stated_ones_right(file, tables):
    misread = []
    for line in (DATA / f"{file}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        problem = questions.Problem(row["id"], "", row["answer"], row["question"], row["answer_text"])
        for language, sentences in ((language, pair) for table in tables for language, pair in table.items()):
            asked = re.findall('["“„«]([^"”“»]+)["”“»]', row["question"][language])
            for right, part in zip((True, False), sentences):
                outputs = [
                    sentence.format(a=row["answer_text"][language], q="".join(asked)) for sentence in part.split("|")
                ]
                misread += [output for output in outputs if questions.grade(problem, output)[1] != right]
    assert misread == []


def test_a_word_is_graded_without_the_question_too():
    right, wrong = WORDS["Mia"]
    problem = questions.Problem("a", "", "Mia", {}, {"en": "Mia", "zh": "小美"})
    assert [output for output in right if not questions.grade(problem, output)[1]] == []
    assert [output for output in wrong if questions.grade(problem, output)[1]] == []


def test_grade_compares_numbers_as_numbers_and_words_in_any_language():
    number = questions.Problem("a", "", Fraction(3, 4), {})
    assert questions.grade(number, "0.75") == ("3/4", True)
    assert questions.grade(number, "3/4")[1]
    assert questions.grade(number, "0,75", "de")[1] and not questions.grade(number, "0,75")[1]
    assert questions.grade(number, "nothing") == (None, False)
    name = questions.Problem("b", "", "Ben", {}, {"en": "Ben", "zh": "小刚"})
    assert questions.grade(name, " Ben.\n\nQuestion: who?") == ("ben", True)
    assert questions.grade(name, "小刚。")[1]
    assert not questions.grade(name, "Benjamin")[1]
    assert not questions.grade(name, "")[1]


def test_no_two_numbers_are_fused():
    for text, expected in (
        ("10²", "10^2"),
        ("1½", "1 1/2"),
        (r"3\frac12", "3 1/2"),
        ("1，2", "1, 2"),
        ("5€3", "5 3"),
        ("x₁2", "x_12"),
    ):
        assert writing.in_plain_characters(text).strip() == expected


LONG = [
    "9" * 100_000,
    "1," * 50_000,
    "(" * 50_000,
    "\\frac{" * 20_000,
    "一" * 100_000,
    "one " * 20_000,
    "- " * 50_000,
    "1 000 " * 10_000,
]
LONG += [
    "\\boxed{" * 20_000,
    "*a" * 50_000,
    "1/" * 50_000,
    "10^" * 30_000,
    "答案是" * 30_000,
    "1. " * 30_000,
    "= 1 " * 20_000,
    "万" * 100_000,
]


@pytest.mark.parametrize("text", LONG, ids=lambda text: repr(text[:8]))
def test_long_outputs_are_read_in_time(text):
    started = time.process_time()
    numerals.extract_number(text)
    words.extract_word(text)
    assert time.process_time() - started < 10


@settings(max_examples=300, deadline=None)
@given(
    st.text(
        alphabet="0123456789,.:：∶;=+-*/×^()[]{}$%\\ \n一二两十百千万亿零点分之又半负第答案是为。，、abxe½²∅",
        max_size=60,
    )
)
def test_no_text_is_too_odd_to_be_read(text):
    numerals.extract_number(text)
    numerals.number_complete(text)
    words.extract_word(text)
    assert writing.has_colon(text) or ":" not in writing.in_plain_characters(text)


@pytest.mark.parametrize("colon", ":：﹕︓∶")
def test_a_next_question_ends_an_answer_whatever_its_colon(colon):
    for complete in (numerals.number_complete, words.word_complete):
        assert not complete("5\n\nQuestion")
        assert complete(f"5\n\nQuestion{colon}")


def chinese_words(value: int) -> str:
    """The standard numeral, written independently of the parser."""
    if value == 0:
        return "零"
    if value >= 10_000:
        rest = value % 10_000
        gap = "零" if 0 < rest < 1000 else ""
        return chinese_words(value // 10_000) + "万" + (gap + chinese_words(rest) if rest else "")
    text, zero = "", False
    for size, unit in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, value = divmod(value, size)
        if digit:
            text += ("零" if zero and text else "") + "零一二三四五六七八九"[digit] + unit
        zero = not digit
    return text.removeprefix("一") if text.startswith("一十") else text


def english_words(value: int) -> str:
    small = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    small = [*small.split(), "seventeen", "eighteen", "nineteen"]
    if value < 20:
        return small[value]
    if value < 100:
        tens = "twenty thirty forty fifty sixty seventy eighty ninety".split()[value // 10 - 2]
        return tens + (f"-{small[value % 10]}" if value % 10 else "")
    for size, name in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if value >= size:
            rest = value % size
            joint = " and " if size == 100 else " "
            return f"{english_words(value // size)} {name}" + (joint + english_words(rest) if rest else "")
    raise AssertionError
