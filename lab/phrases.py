"""What is said of numbers in a text: signs, decimals, fractions and halves in words, dozens, times."""

import re
from fractions import Fraction

from lab.quantities import DIGITS, END, MARK, SCALES, WORDS, language_of, mark, marked, power

UNSIGNED, WHOLE = r"\d+(?:/\d+)?", r"\d+"


def number(name: str, value: str = f"-?{UNSIGNED}") -> str:
    """Pattern of a mark that can be read; its groups are how it is written (name and "_written") and its value."""
    return rf"(?P<{name}_written>[{DIGITS}{WORDS}])(?P<{name}>{value}){END}"


def table(words: str) -> dict[str, int]:
    """A table that is written as "word value word value ..."."""
    cells = words.split()
    return dict(zip(cells[::2], map(int, cells[1::2])))


ONE_PART = table(  # the singular is a fraction after "one" or "a" only: "twenty third" is none
    "half 2 third 3 quarter 4 fourth 4 fifth 5 sixth 6 seventh 7 eighth 8 ninth 9 tenth 10 twelfth 12 twentieth 20 "
    "hundredth 100 thousandth 1000 halb 2 halbe 2 halber 2 halbes 2 medio 2 media 2 tercio 3 cuarto 4 quinto 5 sexto 6 "
    "séptimo 7 octavo 8 noveno 9 décimo 10 centésimo 100"
)
PARTS = {f"{word}s": value for word, value in ONE_PART.items()} | table(
    "halves 2 drittel 3 viertel 4 fünftel 5 fuenftel 5 sechstel 6 siebtel 7 achtel 8 neuntel 9 zehntel 10 zwölftel 12 "
    "zwanzigstel 20 hundertstel 100 tausendstel 1000"
)
SPANISH_ORDINALS = "tercera cuarta quinta sexta séptima octava novena décima".split()
ORDINALS = "first|third|fourth|fifth|sixth|seventh|eighth|ninth"  # after tens and hundreds: "twenty-third"
DOZENS = "dozen|dutzend|docenas?"
CONNECTING = set("is was are be equals to of and or from by at ist sind war auf von und bis es son y a de".split())
MEASURE = r"\s?(?:小时|公[斤里]|千[克米]|[厘分]米|分钟|[个年天周月斤吨倍元块米里升圈页碗杯瓶盒箱份次岁])"


def valued(text: str, language: str | None = None) -> str:
    """A text from `writing.in_plain_characters` with a mark in the place of every number and of what is said of it.

    The language decides what "1.000" and "once" are; where it is None, the text's frequent words tell it.
    """
    text = marked(text, language or language_of(text))
    for pattern, reading in PHRASES:
        text = pattern.sub(reading, text)
    return text


def written(match: re.Match, *names: str) -> str:
    """How a number made of several is written: in digits as soon as one of them is."""
    return DIGITS if DIGITS in [match[f"{name}_written"] for name in names] else WORDS


def decimals(match: re.Match) -> str:
    """three point one four"""
    digits = re.findall(rf"[{DIGITS}{WORDS}](\d+){END}", match["decimals"])
    return mark(Fraction(f"{match['whole']}.{''.join(digits)}"), written(match, "whole"))


def parts(match: re.Match) -> str:
    """two thirds, a quarter, ein Drittel, tres cuartos"""
    word, article = match["part"].casefold(), (match["article"] or "").casefold()
    below = (PARTS | ONE_PART)[word]
    if not article:
        count = Fraction(match["count"])
        return match[0] if word in ONE_PART and count != 1 else mark(count / below, match["count_written"])
    ordinal = article in ("a", "an") and below not in (2, 4)  # "a third person", but "a third of them"
    if ordinal and not re.match(r"\s*(?:of\b|$|[^\w\s])", match.string[match.end() :]):
        return match[0]
    return mark(Fraction(1, below), WORDS) if word in ONE_PART or not word.endswith("s") else match[0]


def mixed(match: re.Match) -> str:
    """one and a half, two hours and a half, 五又二分之一"""
    whole, part = Fraction(match["whole"]), Fraction(match["part"])
    if whole.denominator > 1 or not 0 < part < 1:
        return match[0]
    return mark(whole + part, written(match, "whole", "part")) + (match["noun"] or "")


def one_and_a_half(match: re.Match) -> str:
    """an hour and a half"""
    return mark(Fraction(3, 2), WORDS) + match["noun"]


def dozens(match: re.Match) -> str:
    """a dozen, two dozen, half a dozen"""
    return mark(12 * Fraction(match["count"] or 1), match["count_written"] or WORDS)


def multiple(match: re.Match) -> str:
    """half a million, two and a half thousand"""
    value, scale = Fraction(match["count"]), Fraction(match["scale"])
    if value.denominator == 1 or scale not in SCALES.values():
        return match[0]
    return mark(value * scale, written(match, "count"))


def raised(match: re.Match) -> str:
    """10的3次方, ten to the power of three"""
    base, exponent = Fraction(match["base"]), match["exponent"]
    return mark(power(base, exponent, Fraction(1)), written(match, "base", "exponent"))


def spanish_parts(match: re.Match) -> str:
    """la cuarta parte, tres quintas partes"""
    below = SPANISH_ORDINALS.index(match["part"].casefold()) + 3
    return mark(Fraction(match["count"] or 1) / below, match["count_written"] or WORDS)


def share(match: re.Match) -> str:
    """三分之二, 3分之2; a percentage is compared by its figure, 百分之五十 as 50% is"""
    below = Fraction({"百": 1, "千": 1000, "万": 10**4}.get(match["unit"]) or match["below"])
    return mark(Fraction(match["above"]) / below if below else None, match["above_written"])


def and_a_half(match: re.Match) -> str:
    """一个半, 2年半"""
    return mark(Fraction(match["whole"]) + Fraction(1, 2), match["whole_written"]) + match["measure"]


def negative(match: re.Match) -> str:
    """minus three, negative 3, 负3; the sign of "ten minus three" is left alone"""
    before = match.string[max(0, match.start() - 40) : match.start()]
    noun = re.search(rf"{END}\s+([^\W\d_]+)\s+$", before)
    if before.rstrip().endswith((END, ")")) or (noun and noun[1].casefold() not in CONNECTING):
        return match[0]
    return mark(-Fraction(match["size"]), match["size_written"])


def minus(match: re.Match) -> str:
    """A minus sign belongs to the number unless one stands before it; with a space between, after = or "is" only."""
    before = match.string[max(0, match.start() - 40) : match.start()]
    last = before.rstrip(" ")
    if last.endswith((END, ")", "]", "%", "°")) or re.search(r"[A-Za-zÀ-ÿ_]$", before):
        return match[0]
    if re.search(rf"{END}[一-鿿]{{1,4}}$", before) and not re.search("[是为到至得于]$", before):  # 18元-5元
        return match[0]
    if match["gap"] and not re.search(r"[=:≈(是为]$|\b(?:is|ist|es|equals)$", last, re.IGNORECASE):
        return match[0]
    return mark(-Fraction(match["size"]), match["size_written"])


def below_zero(match: re.Match) -> str:
    """5 degrees below zero"""
    return mark(-Fraction(match["size"]), match["size_written"])


HALF, UNREADABLE = mark(Fraction(1, 2), WORDS), mark(None, DIGITS)
NAMED_PARTS = "|".join(sorted(PARTS | ONE_PART, key=len, reverse=True))
PHRASES = [  # in this order: a pattern, and the text or the function of its match that takes its place
    (re.compile(pattern, re.IGNORECASE), reading)
    for pattern, reading in (
        (
            rf"{number('whole', WHOLE)} +(?:point|punto|coma|komma)(?P<decimals>(?: +[{DIGITS}{WORDS}]\d+{END})+)",
            decimals,
        ),
        (rf"{WORDS}(?:[2-9]0|\d+00){END}(?:-(?:and-)?| (?:and )?)(?:{ORDINALS})\b|{WORDS}\d+{END}-second\b", " "),
        (rf"(?:{number('count')}|\b(?P<article>an?|eine?|una?))[ -]+(?P<part>{NAMED_PARTS})\b", parts),
        (rf"(?:{number('count')}|\b(?:la|una)) (?P<part>{'|'.join(SPANISH_ORDINALS)})s? partes?\b", spanish_parts),
        (rf"{number('base')} ?的 ?{number('exponent', WHOLE)} ?次方", raised),
        (rf"{number('base')} to the power(?: of)? {number('exponent', WHOLE)}", raised),
        (r"(?<!\bin )\bhalf\b(?! past)|\b(?:die |der )?Hälfte\b|\bla mitad\b|(?<=\by )medi[oa]\b", HALF),
        (r"(?<=\by )cuarto\b", mark(Fraction(1, 4), WORDS)),
        (r"\A\s*(?:medi[oa]|halbe?|半)\b|\bmedi[oa] (?=hora|kilo|litro|metro|docena)", HALF),
        (rf"{number('whole')}(?P<noun>)[ -]+(?:and|und|y)[ -]+{number('part')}", mixed),
        (rf"{number('whole')}(?P<noun> +[^\W\d_]+) +(?:and|und|y) +{number('part')}(?! (?:of|the|de|der)\b)", mixed),
        (rf"\b(?:an?|eine?|una?)(?P<noun> +[^\W\d_]+) +(?:and|und|y) +{HALF}", one_and_a_half),
        (rf"(?:{number('count')} +(?:an? +)?|\b(?:an?|ein|una) +)(?:{DOZENS})\b", dozens),
        (rf"{number('count')} +(?:an? +|de +)?{WORDS}(?P<scale>\d+){END}", multiple),
        (rf"{MARK} ?点 ?(?:半|{MARK} ?分?)|{MARK} ?比 ?{MARK}|{MARK}几|几{MARK}|{MARK}多(?![于少了出给])", UNREADABLE),
        (rf"(?:(?P<unit>[百千万])|{number('below')}) ?分之 ?{number('above')}", share),
        (rf"{number('whole')}(?P<noun>) ?又 ?{number('part')}", mixed),
        (rf"{WORDS}1{END}半", HALF),
        (rf"{number('whole')}(?P<measure>{MEASURE})半", and_a_half),
        (rf"(?<![上下前后多大另])半(?={MEASURE})", HALF),
        (rf"(?:\b(?:minus|negative|menos) +|负 ?){number('size', UNSIGNED)}", negative),
        (rf"-(?P<gap> ?){number('size', UNSIGNED)}", minus),
        (
            rf"{number('size', UNSIGNED)}(?: ?° ?[CF]?| +(?:degrees?|grad|grados)(?: +(?:celsius|fahrenheit))?)?"
            rf" +(?:below (?:zero|freezing|{MARK})|below(?=\s*(?:\Z|[.!]))|(?:unter|bajo) (?:null|cero|{MARK}))",
            below_zero,
        ),
    )
]
