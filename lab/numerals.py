"""Numbers as models write them, in digits, English and Chinese words; and which number of an output is its answer."""

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction

ENGLISH_ONES = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
}
ENGLISH_TENS = dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10)))
ENGLISH_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
CHINESE_DIGITS = dict(zip("零一二三四五六七八九", range(10))) | {"〇": 0, "两": 2}
CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000}
CHINESE_SCALES = {"万": 10**4, "亿": 10**8}
english_word = "|".join(sorted([*ENGLISH_ONES, *ENGLISH_TENS, *ENGLISH_SCALES], key=len, reverse=True))
NUMERAL = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
NUMBER = re.compile(
    rf"""(?P<digits>(?:(?<![A-Za-z\d)])(?:-[$¥€£]?|[$¥€£]-?)|(?<![A-Za-z\d.]))(?:
            (?:\d+\s)?\d+\s?/\s?\d+(?![\d/])              # 3/4, 1 3/4
          | (?:{NUMERAL})(?:\s?(?:hundred|thousand|million|billion)\b|(?:[百千万亿](?![米克瓦卡]))+)?  # 5千米 is 5 km
         ))
       | (?P<english>\b(?:(?:minus|negative)\s+)?(?:{english_word})(?:(?:[\s-]+(?:and\s+)?|-)(?:{english_word}))*
            (?:\s+point(?:\s+(?:{english_word}))+)?\b)
       | (?P<chinese>负?(?:[零〇一二两三四五六七八九十百千万亿]+分之)?
            (?!一[共起样些直定般下])(?<!第)[零〇一二两三四五六七八九十百千万亿]+(?:点[零〇一二三四五六七八九]+)?)""",
    re.VERBOSE | re.IGNORECASE,
)
ANSWER_MARK = re.compile(r"answer\s*(?:is|=|:)+|答案\s*(?:是|为|:)+|####", re.IGNORECASE)
NEXT_QUESTION = re.compile(r"(?:question|问题)\s*:", re.IGNORECASE)


def normalise(text: str) -> str:
    """Full-width forms, minus signs, fractions and formal numerals in their plain form."""
    text = re.sub(r"(?<=[０-９])，(?=[０-９]{3})", ",", text).replace("，", ", ")
    text = re.sub(r"(?<=\d)(?=[½⅓⅔¼¾⅕⅛])", " ", text)  # 1½ is one and a half, not eleven halves
    text = unicodedata.normalize("NFKC", text).translate(str.maketrans("−–⁄", "--/"))
    text = text.translate(str.maketrans("壹贰叁肆伍陆柒捌玖拾佰仟萬億兩負點", "一二三四五六七八九十百千万亿两负点"))
    return re.sub(r"\\d?frac\{(\d+)\}\{(\d+)\}", r"\1/\2", text)


def parse_number(text: str) -> Fraction | None:
    """The number that the whole text spells, in digits, English or Chinese words; else None."""
    text = normalise(text).strip()
    match = NUMBER.fullmatch(text)
    return number_value(match) if match else None


def extract_number(text: str) -> Fraction | None:
    """The number that a model's output gives as its answer, or None.

    In order: \\boxed{}; the sentence after "answer is", from its last equals sign on; a line that opens with a number and
    a full stop; what follows the last equals sign; the last number in digits, else in words. Text from the next
    "Question:" on is not the answer.
    """
    text = NEXT_QUESTION.split(normalise(text))[0]
    boxed = re.findall(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", text)
    for part in [boxed[-1]] if boxed else []:
        return next(find_numbers(part), None)
    marked = ANSWER_MARK.split(text)
    if len(marked) > 1:
        sentence = re.split(r"[.!;](?:\s|$)|。", marked[-1].strip().split("\n")[0])[0].rpartition("=")[2]
        if (value := next(find_numbers(sentence), None)) is not None:
            return value
    lines = [line.strip() for line in text.split("\n")]
    line = next((line for line in lines if NUMBER.search(line)), "")
    opening = NUMBER.match(line)
    listed = opening and opening[0] == "1" and NUMBER.search(line[opening.end() :])  # "1. First add ..."
    if opening and not listed and re.match(r"\s*(?:[.。!;]\s|[.。!;]?$|。)", line[opening.end() :]):
        return number_value(opening)
    if "=" in line and (value := next(find_numbers(line.rsplit("=", 1)[1]), None)) is not None:
        return value
    digits = [number_value(match) for match in NUMBER.finditer(line) if match["digits"]]
    numbers = digits or list(find_numbers(line))
    return numbers[-1] if numbers else None


def find_numbers(text: str) -> Iterator[Fraction]:
    """Every number in the text, in order."""
    return (number_value(match) for match in NUMBER.finditer(text))


def number_value(match: re.Match) -> Fraction:
    """The exact value of a match of NUMBER."""
    if match["digits"]:
        return digits_value(match["digits"])
    return english_value(match["english"].lower()) if match["english"] else chinese_value(match["chinese"])


def digits_value(text: str) -> Fraction:
    """The value of digits with sign, currency, fraction or scale word: -$1,200.5, 1 3/4, 3 million, 2万."""
    sign = -1 if "-" in text else 1
    body = re.sub(r"[-$¥€£,]", "", text).strip().lower()
    if "/" in body:
        whole, numerator, denominator = re.fullmatch(r"(?:(\d+)\s)?(\d+)\s?/\s?(\d+)", body).groups()
        return sign * (int(whole or 0) + (Fraction(int(numerator), int(denominator)) if int(denominator) else 0))
    number, scale = re.fullmatch(r"([\d.]+)\s?(.*)", body).groups()
    factor = ENGLISH_SCALES.get(scale, 1)
    for character in scale if scale not in ENGLISH_SCALES else "":
        factor *= (CHINESE_UNITS | CHINESE_SCALES)[character]
    return sign * Fraction(number) * factor


def english_value(text: str) -> Fraction:
    """The value of a number in English words."""
    text, _, decimals = text.partition(" point ")
    sign = -1 if text.startswith(("minus", "negative")) else 1
    total = current = 0
    for word in re.findall(english_word, text):
        if word == "hundred":
            current = (current or 1) * 100
        elif word in ENGLISH_SCALES:
            total, current = total + (current or 1) * ENGLISH_SCALES[word], 0
        else:
            current += ENGLISH_ONES[word] if word in ENGLISH_ONES else ENGLISH_TENS[word]
    digits = "".join(str(ENGLISH_ONES.get(word, 0)) for word in decimals.split())
    return sign * (Fraction(total + current) + (Fraction(f"0.{digits}") if digits else 0))


def chinese_value(text: str) -> Fraction:
    """The value of a number in Chinese numerals, fractions and percentages included."""
    if text.startswith("负"):
        return -chinese_value(text[1:])
    if "分之" in text:
        denominator, numerator = text.split("分之")
        if denominator == "百":  # a percentage is compared by its figure, as 50% is
            return chinese_value(numerator)
        below = chinese_value(denominator)
        return chinese_value(numerator) / below if below else Fraction(0)
    if "点" in text:
        whole, decimals = text.split("点")
        return chinese_value(whole) + Fraction("0." + "".join(str(CHINESE_DIGITS[digit]) for digit in decimals))
    if all(character in CHINESE_DIGITS for character in text):  # 二〇二五
        return Fraction(int("".join(str(CHINESE_DIGITS[character]) for character in text)))
    total = section = digit = last_scale = 0
    last_unit = 1
    for character in text:
        if character in CHINESE_DIGITS:
            digit = CHINESE_DIGITS[character]
            last_unit = 1 if digit == 0 else last_unit
        elif character in CHINESE_UNITS:
            section += (digit or 1) * CHINESE_UNITS[character]
            digit, last_unit = 0, CHINESE_UNITS[character]
        else:
            scale = CHINESE_SCALES[character]
            part = section + digit
            total = (total + part or 1) * scale if scale > last_scale else total + (part or 1) * scale  # 万亿, 亿...万
            section, digit, last_unit, last_scale = 0, 0, scale, scale
    if digit and last_unit >= 100:  # 一百五 is 150, not 105
        digit *= last_unit // 10
    return Fraction(total + section + digit)


def extract_word(text: str) -> str:
    """The first non-blank line without answer mark, punctuation and case."""
    text = NEXT_QUESTION.split(normalise(text))[0]
    line = next((line for line in text.split("\n") if line.strip()), "")
    return ANSWER_MARK.split(line)[-1].strip(" \t.。,!?:;\"'").casefold()
