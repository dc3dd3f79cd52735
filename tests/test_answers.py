"""What a model's output is taken to answer: a table of outputs in both languages, with traps."""

from fractions import Fraction

import pytest

from lab import numerals, questions

NUMBERS = [
    # digits and their forms
    ("19", 19),
    (" 19", 19),
    ("18.00", 18),
    ("18.", 18),
    ("18。", 18),
    ("3.5", "7/2"),
    (".5", "1/2"),
    ("5,600", 5600),
    ("1,234,567.5", "2469135/2"),
    ("3, 4", 4),
    ("-5", -5),
    ("−5", -5),
    ("x = −12", -12),
    ("$18", 18),
    ("-$5", -5),
    ("$-5", -5),
    ("18元", 18),
    ("￥18", 18),
    ("10-3", 3),
    ("It fell to -3 degrees", -3),
    ("50%", 50),
    ("2023", 2023),
    ("the year 2023, so 7", 7),
    ("2 million", 2000000),
    ("3万", 30000),
    ("1.2亿", 120000000),
    # fractions
    ("3/4", "3/4"),
    ("-3/4", "-3/4"),
    ("1 3/4", "7/4"),
    ("1½", "3/2"),
    ("½", "1/2"),
    (r"\frac{3}{4}", "3/4"),
    (r"\boxed{\frac{7}{2}}", "7/2"),
    ("三分之二", "2/3"),
    # full-width forms
    ("２５", 25),
    ("１，２３４", 1234),
    ("－５", -5),
    ("３．５", "7/2"),
    ("答案：２５", 25),
    # English words
    ("seven", 7),
    ("Nineteen.", 19),
    ("twenty-one", 21),
    ("twenty one apples", 21),
    ("one hundred and five", 105),
    ("two hundred thousand", 200000),
    ("one thousand two hundred and thirty-four", 1234),
    ("minus seven", -7),
    ("three point one four", "157/50"),
    ("seven. Question: Ben has 4 apples.", 7),
    ("nineteen\n\nQuestion: 5 + 5 = ?\nAnswer: ten", 19),
    ("zero", 0),
    ("The weight is heavy: someone paid eight", 8),
    # Chinese words
    ("十九", 19),
    ("十", 10),
    ("二十", 20),
    ("二十一", 21),
    ("一百零五", 105),
    ("一百五", 150),
    ("两千三百", 2300),
    ("十万", 100000),
    ("一亿两千万", 120000000),
    ("负五", -5),
    ("三点五", "7/2"),
    ("二〇二五", 2025),
    ("零", 0),
    ("贰拾壹", 21),
    ("百分之五十", 50),
    ("他一共有五个苹果", 5),
    ("五个，第一天吃了", 5),
    ("12个苹果中的3个", 3),
    ("5千", 5000),
    ("答案是150千米", 150),
    ("3万千克", 30000),
    ("七。\n\n问题：小刚有4个苹果", 7),
    # sentences
    ("The answer is 18 dollars", 18),
    ("The answer is: 18. Next I will explain 3 things", 18),
    ("答案是：二十一个", 21),
    ("所以答案为12。", 12),
    ("The answer is 3 + 4 = 7.", 7),
    ("答案是9 + 7 = 16。然后3 = 3", 16),
    ("1. First add 3 + 4 = 7. So 7", 7),
    ("1", 1),
    ("1.", 1),
    ("3 + 4 = 7", 7),
    ("3 + 4 = 7 apples, of which 2 are red", 7),
    ("16 - 3 - 4 = 9; 9 * 2 = 18. The answer is 18.", 18),
    ("5 * 4 = 20，20 - 6 = 14。答案是14。", 14),
    ("seven. That is 3 + 9 - 5 with 1 left", 7),
    (r"so we get \boxed{42} in the end, not 41", 42),
    ("#### 72", 72),
    ("She has 16 eggs, eats 3 and bakes 4, which leaves 9", 9),
    ("\n\n 5", 5),
    # no answer
    ("", None),
    ("I do not know.", None),
    ("不知道。", None),
    ("一样多，一起算", None),
    ("Question: Ben has 4 apples", None),
    ("问题：小刚有4个苹果", None),
    (r"\boxed{x}", None),
    ("someone else", None),
]


@pytest.mark.parametrize(("output", "expected"), NUMBERS)
def test_extract_number(output, expected):
    value = numerals.extract_number(output)
    assert value == (None if expected is None else Fraction(expected)), f"{output!r} read as {value}"


def test_the_table_is_long_enough_in_both_languages():
    assert len(NUMBERS) >= 60
    assert sum(any("一" <= character <= "鿿" for character in output) for output, _ in NUMBERS) >= 20


@pytest.mark.parametrize("value", [*range(130), 1000, 1001, 2340, 10_000, 20_304, 1_000_005])
def test_chinese_number_words_round_trip(value):
    assert numerals.parse_number(chinese_words(value)) == value


@pytest.mark.parametrize("value", [*range(130), 1000, 1001, 2340, 10_000, 20_304, 1_000_005])
def test_english_number_words_round_trip(value):
    assert numerals.parse_number(english_words(value)) == value


def test_grade_compares_numbers_as_numbers_and_words_in_any_language():
    number = questions.Problem("a", "", Fraction(3, 4), {})
    assert questions.grade(number, "0.75") == ("3/4", True)
    assert questions.grade(number, "3/4")[1]
    assert questions.grade(number, "nothing") == (None, False)
    name = questions.Problem("b", "", "Ben", {}, {"en": "Ben", "zh": "小刚"})
    assert questions.grade(name, " Ben.\n\nQuestion: who?") == ("ben", True)
    assert questions.grade(name, "小刚。")[1]
    assert not questions.grade(name, "Benjamin")[1]
    assert not questions.grade(name, "")[1]


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
