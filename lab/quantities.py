"""Single numbers in a text: in digits, in words of languages with Latin letters, in Chinese numerals, and mixed.

`marked` puts a mark with its value in the place of every number, however it is written. What is then said of numbers
(signs, fractions, halves: `phrases`) is read once for all of them: "minus ⟦3⟧", "⟦2⟧ thirds", "⟦3⟧分之⟦2⟧".
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

import text_to_num

DIGITS, WORDS, END = "\ue000", "\ue001", "\ue002"  # a mark: how the number is written, its value or NONE, END
NONE = "∅"  # in the mark of a number that cannot be read
MARK = rf"[{DIGITS}{WORDS}][^{END}]*{END}"
LONGEST = 10**300  # larger numbers come from a model that repeats itself, and int() refuses 4301 digits

SPELLED = ("en", "de", "es", "fr", "it", "pt", "nl")  # languages whose number words can be read
GUESSED = {  # frequent words, and letters, of the languages that a text is tried in when none is named
    "en": "the is of and to are has have there so answer therefore that with which each because we it they left costs",
    "de": "der die das ist und sind hat haben antwort lautet also nicht wir mit insgesamt grad unter jeder eine bleiben "
    "bleibt kostet kosten beträgt noch millionen ä ö ü ß",
    "es": "el la los las son y de que es por lo tanto respuesta hay tiene grados en con cada entonces una tienen quedan "
    "queda cuesta cuestan millones ñ á í ó ú ¿ ¡",
}
COMMA_DECIMAL = ("de", "es", "fr", "it", "pt", "nl", "ru")  # 3,5 is 3.5 there, and 1.000 is a thousand
AMBIGUOUS = {"once": "es", "elf": "de", "null": "de"}  # number words there, other words in other languages
NO_NUMBERS = {"o", "ones", "tens", "hundreds", "thousands", "millions", "billions", "cientos", "miles"}
ARTICLES = {"ein", "eine", "einen", "einem", "einer", "un", "una"}  # numbers in "un millón", articles in "un gato"
VARIANTS = {"veintiún": "veintiuno", "veintiun": "veintiuno", "veintidos": "veintidós", "veintitres": "veintitrés"}
VARIANTS |= {"veintiseis": "veintiséis", "millon": "millón"} | dict.fromkeys(("eine", "einen", "einem", "einer"), "ein")
GERMAN_HALF = re.compile(r"(?P<whole>\w+)einhalb|(?P<known>anderthalb|dreiviertel)e?s?")

SCALES = {"k": 1000, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SCALES |= {"hundert": 100, "tausend": 1000, "mio": 10**6, "millionen": 10**6, "mrd": 10**9, "milliarden": 10**9}
SCALES |= {"mil": 1000, "millón": 10**6, "millones": 10**6}
SCALED = re.compile(
    rf"([{DIGITS}])(-?\d+(?:/\d+)?){END}[ -]?({'|'.join(sorted(SCALES, key=len, reverse=True))})(?!\w)", re.IGNORECASE
)
CHINESE_DIGITS = dict(zip("零一二三四五六七八九", range(10))) | {"〇": 0, "两": 2}
CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000}
CHINESE_SCALES = {"万": 10**4, "亿": 10**8}
KILO = tuple("米克瓦卡赫帕焦伏字")  # 千 before them is part of the unit

PLAIN = r"\d+(?:[.,]\d+)*"
FIGURE = rf"(?:\d{{1,3}}(?:[ '’]\d{{3}})+(?!\d)(?:[.,]\d+)?|{PLAIN}|(?<![\w.])\.\d+)"
CHINESE = rf"""(?:{PLAIN}[ ]?(?=[十百千万亿])|[零〇一二三四五六七八九十]|(?<![\d一二三四五六七八九十])两|[百千](?=[万亿]))
    (?:[零〇一二三四五六七八九十百千万亿]|两(?=[百千万亿])|(?<=[零十百千万亿])\d+(?:\.\d+)?|点(?=[零〇一二三四五六七八九]))*"""
FIGURES = re.compile(
    rf"""(?<!\d)(?P<none>\d{{4}}-\d\d?-\d\d?(?!\d) | \d+/\d+/\d+ | \d+[ ]?年[ ]?\d+[ ]?月(?:[ ]?\d+[ ]?[日号])?
            | \d+[ ]?月[ ]?\d+[ ]?[日号] | \d+(?::\d+)+ | \d+[ ]:[ ]\d+ | 0x[\da-fA-F]+
            | \d+\.\d+[ ]?\.\.+ | \d+\.\d*(?:\d[\u0304\u0305\u0307])+                # 0.333..., 0.3 with a bar
            | \d[\d.]*[ ]?\^[ ]?(?:\(?[-+]?\d*\.\d+\)?|\([-+]?\d+/\d+\)))  # dates, times, ratios, roots
      | (?P<chinese>{CHINESE})
      | (?<![A-Za-zÀ-ÿ_√±^\d])(?<!√[ ])(?<!\d\.)(?<![A-Za-z]-)(?:
            \([ ]?(?P<signed>-?)(?P<bracketed>{FIGURE})[ ]?\)[ ]?\^[ ]?(?P<to>\d+)         # (-2)^3
          | (?P<factor>{FIGURE})[ ]?[*×x·][ ]?10[ ]?\^[ ]?\(?(?P<tens>[-+]?\d+)\)?       # 1.5 × 10^6
          | (?P<mantissa>{FIGURE})[eE](?P<power>[-+]?\d+)(?!\w)                      # 1.5e6
          | (?P<base>{FIGURE})[ ]?\^[ ]?\(?(?P<exponent>[-+]?\d+)\)?                   # 10^3
          | (?:(?P<whole>\d+)[ ])?(?P<above>{FIGURE})[ ]?/[ ]?(?P<below>{FIGURE})       # 3/4, 1 3/4
          | (?P<figure>{FIGURE}))""",
    re.VERBOSE,
)
NO_QUANTITY = re.compile(  # numerals that count nothing: ordinals, names of steps, days, people and shapes, other words
    r"""第\s?(?:\d+|[零〇一二两三四五六七八九十百]+) | (?<![一二三四五六七八九十\d])(?:周|星期|礼拜|初)[一二三四五六] | 零(?=下)
      | (?<!小)(?:张三|李四|王五|赵六) | 三角(?=[形尺板]) | [三四五六七八九]边形 | 五角星
      | 四[周处季方](?!\d) | 十[字足] | 再三
      | [一二三四五六](?=年级) | 三明治 | 三轮 | 二[手维] | 四川 | 五颜六色 | 乱七八糟
      | 步骤\s?(?:\d+|[一二三四五六七八九十]) | (?:方法|情况|(?<!比)例|图|题)\s?(?:\d+|[一二三四五六七八九十])(?=\s*[:,.、)])
      | 十分(?![之钟])(?=[一-鿿]) | [千万]万(?=别|不|要|记) | (?<![\d一二三四五六七八九十百千])万一
      | (?<=[统唯每任某单另这那哪])一 | (?<=[^分]之)一 | 一点(?![零〇一二三四五六七八九半钟\d])
      | 一(?=[共起样些直定般下步旦律致切边向再概味同并带时系番阵齐连经]|会儿|开始|方面)
      | \b(?:step|example|equation|schritt|beispiel|paso|ejemplo)\s+(?:\d+|[a-zß-ÿ]+(?=\s*:))
      | \b(?:no|each|every|any|this|that|which|the|another|other)\s+one\b | \bone\s+(?:another|by\s+one|can|could|must|would)\b
      | \b\d+(?:st|nd|rd|th)\b | \bpor\s+ciento\b""",
    re.VERBOSE | re.IGNORECASE,
)


def mark(value: Fraction | int | None, written: str) -> str:
    """The mark that stands for a number, NONE in it for one that cannot be read."""
    if value is not None and max(abs(value.numerator), value.denominator) >= LONGEST:
        value = None
    return f"{written}{NONE if value is None else value}{END}"


def values(text: str) -> Iterator[Fraction | None]:
    """The values of the marks in a text, in order; None for a number that cannot be read."""
    for value in re.findall(rf"[{DIGITS}{WORDS}]([^{END}]*){END}", text):
        yield None if value == NONE else Fraction(value)


def language_of(text: str) -> str | None:
    """The language of a text in Latin letters by its frequent words and letters; None where they do not tell."""
    text = text.casefold()
    found = re.findall(r"[^\W\d_]+", text) + re.findall("[äöüßñáíóú¿¡]", text)
    counts = {language: sum(map(set(known.split()).__contains__, found)) for language, known in GUESSED.items()}
    best = max(counts, key=counts.get)
    return best if list(counts.values()).count(counts[best]) == 1 else None


def marked(text: str, language: str | None = None) -> str:
    """A text from `writing.in_plain_characters` with a mark in the place of every single number."""
    text = text.replace("廿", "二十").replace("卅", "三十").replace("百分之百", "百分之一百")
    text = re.sub(r"零下(?=\s?[\d一二两三四五六七八九十])", "负", text)
    text = NO_QUANTITY.sub(" ", text)
    text = FIGURES.sub(lambda match: figures(match, language), text)
    for _ in range(2):  # 3 mil millones
        text = SCALED.sub(lambda match: mark(Fraction(match[2]) * SCALES[match[3].lower()], match[1]), text)
    return spelled(text, language)


def figures(match: re.Match, language: str | None) -> str:
    """The mark of a match of FIGURES."""
    if match["none"]:
        return mark(None, DIGITS)
    if match["chinese"]:
        return chinese(match, language)
    names = ("bracketed", "factor", "mantissa", "base", "above", "below", "figure")
    found = {name: read_figure(match[name], language) for name in names if match[name]}
    value = next(iter(found.values()))
    if None in found.values() or found.get("below") == 0:
        value = None
    elif match["below"]:
        value = int((match["whole"] or "0")[:300]) + found["above"] / found["below"]
    elif exponent := match["tens"] or match["power"]:
        value = power(Fraction(10), exponent, value)
    elif exponent := match["exponent"] or match["to"]:
        value = power(-value if match["signed"] else value, exponent, Fraction(1))
    return mark(value, DIGITS)


def power(base: Fraction, exponent: str, factor: Fraction) -> Fraction | None:
    """factor · base^exponent; None where that is undefined or absurdly long."""
    size = len(str(max(abs(base.numerator), base.denominator)))
    if len(exponent) > 4 or abs(int(exponent)) * size > 600 or (base == 0 and int(exponent) < 0):
        return None
    return factor * base ** int(exponent)


def read_figure(text: str, language: str | None = None) -> Fraction | None:
    """The value of digits with separators; None where these fit no custom (1,00) or another language's (12,34)."""
    text = re.sub(r"[ '’]", "", text)
    if len(text) > 300 or re.fullmatch(r"00+", text):
        return None
    comma = language in COMMA_DECIMAL
    for point, separator in ((",", r"\."), (r"\.", ",")) if comma else ((r"\.", ","), (",", r"\.")):
        own = (point == ",") == comma
        indian = rf"[1-9]\d?(?:{separator}\d\d)+{separator}\d{{3}}"  # 1,00,000
        grouped = re.fullmatch(rf"([1-9]\d{{0,2}}(?:{separator}\d{{3}})+|{indian})(?:{point}(\d+))?", text)
        if grouped and (own or grouped[2] or len(re.findall(separator, grouped[1])) > 1):
            return Fraction(f"{re.sub(separator, '', grouped[1])}.{grouped[2] or 0}")
        simple = re.fullmatch(rf"(\d*)(?:{point}(\d+))?", text)
        if simple and (own or point == r"\."):
            return Fraction(f"{simple[1] or 0}.{simple[2] or 0}")
    return None


def chinese(match: re.Match, language: str | None) -> str:
    """The mark of a Chinese numeral, mixed with digits or not; 千 is left where it begins a unit: 5千米 is 5 km."""
    text, rest = match[0], ""
    following = match.string[match.end() : match.end() + 1]
    if text[-1] == "千" and following in KILO and not re.search(r"[万亿]零?[\d一二三四五六七八九]千$", text):
        text, rest = text[:-1], "千"
    return mark(chinese_value(text, language), DIGITS if re.search(r"\d", text) else WORDS) + rest


def chinese_value(text: str, language: str | None = None) -> Fraction | None:
    """The value of a numeral like 二十五, 3万4000, 13万2, 一百五 (150), 一点五万, 二〇二五; None for 三四 (three or four)."""
    if not re.search("[十百千万亿点]", text):
        if text[0].isdigit():
            return read_figure(text.strip(), language)
        if not set(text) <= set(CHINESE_DIGITS):
            return None
        digits = [CHINESE_DIGITS[character] for character in text]
        about = len(digits) == 2 and digits[0] and digits[1] == digits[0] + 1
        return None if about or len(digits) > 300 else Fraction("".join(map(str, digits)))
    total = section = Fraction(0)  # what stands before the last 万 or 亿, and what after it
    digit, place, last_unit, last_scale = None, None, 1, 0
    for token in re.findall(r"\d[\d.,]*|\S", text[:300]):
        if token == "点":
            digit, place = digit or Fraction(0), Fraction(1)
        elif place and token in CHINESE_DIGITS:
            place /= 10
            digit += CHINESE_DIGITS[token] * place
        elif token in CHINESE_DIGITS or token[0].isdigit():
            value = CHINESE_DIGITS[token] if token in CHINESE_DIGITS else read_figure(token, language)
            if digit or value is None:
                return None
            digit, last_unit = Fraction(value), last_unit if value and len(token) == 1 else 1
        elif token in CHINESE_UNITS:
            last_unit = CHINESE_UNITS[token]
            section += (digit or 1) * last_unit
            digit = place = None
        else:
            scale, part = CHINESE_SCALES[token], section + (digit or 0)
            if scale > last_scale:  # 3万亿
                total = (total + part or 1) * scale
            else:  # 3亿2万
                total += (part or 1) * scale
            section, digit, place, last_unit, last_scale = Fraction(0), None, None, scale, scale
    if digit and not place and last_unit >= 100:  # 一百五 is 150, not 105
        digit *= last_unit // 10
    return total + section + (digit or 0)


@lru_cache(maxsize=4096)
def word_value(words: str, language: str) -> int | None:
    """The whole number that words spell in a language; None if they spell none."""
    if words in NO_NUMBERS or language not in SPELLED:
        return None
    words = " ".join(VARIANTS.get(word, word) for word in words.split())
    if language == "de":
        words = words.replace("fuenf", "fünf").replace("zwoelf", "zwölf")
    try:
        return text_to_num.text2num(words, language)
    except ValueError:
        return None


def spelled(text: str, language: str | None) -> str:
    """The text with a mark in the place of every number in words, of the language named or guessed before others."""
    first = language or language_of(text) or "en"
    languages = [first, *(other for other in GUESSED if other != first)]
    words = list(re.finditer(r"(?<!\w)[^\W\d_]+(?!\w)", text))
    parts, done, index = [], 0, 0
    while index < len(words):
        stop, value = longest_number(text, words, index, languages)
        if value is not None:
            parts += [text[done : words[index].start()], mark(value, WORDS)]
            done = words[stop - 1].end()
        index = max(stop, index + 1)
    return "".join(parts) + text[done:]


def longest_number(
    text: str, words: list[re.Match], start: int, languages: list[str]
) -> tuple[int, Fraction | int | None]:
    """(index after it, value) of the longest number in words that begins at a word; (start, None) if none does."""
    first, best = words[start][0].casefold(), (start, None)
    if half := GERMAN_HALF.fullmatch(first):
        whole = {"anderthalb": 1, "dreiviertel": Fraction(1, 4)}.get(half["known"])
        whole = word_value(half["whole"], "de") if half["whole"] else whole
        return (start, None) if whole is None else (start + 1, whole + Fraction(1, 2))
    for language in languages:
        alone = first != "null" and len(text.strip(" .!\n")) == len(first)
        if AMBIGUOUS.get(first) == language != languages[0] and not alone or word_value(first, language) is None:
            continue
        phrase = first
        for stop in range(start + 1, min(start + 16, len(words)) + 1):
            value = word_value(phrase, language)
            if value is not None and stop > best[0] and phrase not in ARTICLES:
                best = stop, value
            if stop < len(words):
                gap = text[words[stop - 1].end() : words[stop].start()]
                if gap not in (" ", "-") and not (gap == ", " and words[stop - 1][0].casefold() in SCALES):
                    break
                phrase += " " + words[stop][0].casefold()
    return best
