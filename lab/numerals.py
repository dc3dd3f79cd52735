"""Which number of a model's output is its answer."""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache

from lab import phrases, quantities, writing
from lab.quantities import DIGITS, END, MARK

CODE = re.compile(r"```(?!output|text|latex|math|plaintext|markdown)\w+\n.*?(?:```|\Z)", re.DOTALL)
NEXT_QUESTION = re.compile(
    r"(?:\A|[\n.。!?)\"])[\s*#]*(?:(?:\w+ )?question|problem|q|human|user|问题|题目|例题|问|frage|aufgabe|pregunta|problema)"
    r"[\s*]*\d*[\s*]*:",
    re.IGNORECASE,
)
IS = r"(?:is|are|was|would be|will be|should be|must be|comes to|equals)"
ANSWER_IS = (  # a sentence that states the answer
    rf"\banswer(?: (?:to|in|for|of)(?: \w+){{1,5}}?)? (?:(?:therefore|thus|then) )?{IS}\b[\s*]*[:=]?"
    r"|答案\s*(?:应该|应当|应|就|便|即)?\s*(?:是|为|等于)\s*:?|####(?!#)"
    r"|\b(?:antwort|lösung) (?:ist|lautet|wäre)\b\s*(?:also\b)?\s*:?"
    r"|\b(?:respuesta|solución) (?:final |correcta )?(?:es|sería)\b\s*:?"
)
ANSWER_HEAD = (  # a heading over the answer
    r"(?:\b(?:answer|antwort|lösung|ergebnis|respuesta|solución|resultado)|答案?)[\s\"'*]*(?:[:=]|\n)[\s*]*"
)
HEAD = re.compile(ANSWER_HEAD, re.IGNORECASE)
CALLED = re.compile(f"(?P<sentence>{ANSWER_IS})|{ANSWER_HEAD}", re.IGNORECASE)
EXPLANATION = re.compile(
    r"(?:\n|[.。!?]\s*)\W*(?:explanation|reason|reasoning|working|note|remark|p\.?s\.?|anmerkung|hinweis|nota|注意?|备注|提示|解释|解析|解题\w{2}|分析|理由|说明|erklärung|begründung|explicación)\s*[:\n]",
    re.IGNORECASE,
)
CORRECTION = re.compile(
    r"\b(?:no|nein)\b[,.!:]|\b(?:wait|sorry|oops|actually|correction|korrektur|corrección|perdón|mistake|let me (?:re)?check)\b"
    r"|不对|不(?=[,.!])|更正|等等|错了|重新",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(rf"[.;](?=[^\w.,{DIGITS}{quantities.WORDS}]|[A-Z一-鿿]|\Z)|[。?\n]|!(?!\s*=)")
BECAUSE = re.compile(
    r"\b(?:because|since|of which|including|weil|denn|davon|darunter|porque|ya que|puesto que|de los cuales|incluid[oa]s)\b"
    r"|, with\b|因为|由于|其中|包括",
    re.IGNORECASE,
)
NEGATED = re.compile(
    rf"(?:(?:\b(?:not|nicht|no|never|cannot)|n't)\s+(?:(?:be|es|is)\s+)?|不(?:会|可能|能|应该)?是\s*|而非\s*|并非\s*){MARK}"
    rf"|{MARK}(?=\s*(?:(?:is|was|ist|es)\s+(?:wrong|incorrect|not\b|falsch|incorrecto)|是错))",
    re.IGNORECASE,
)
SEVERAL = re.compile(  # a range or alternatives: no single number
    rf"(?<!from )(?<!von )(?<!vom )(?<!desde )(?<!de )(?<!从)(?P<low>{MARK})(?P<unit>[ ]?[^\W\d_{END}]{{0,12}})\s*"
    rf"(?P<link>-|~|\bto\b|\bbis\b|\ba\b|到|至|\bor\b|\boder\b|\bo\b|\bu\b|或者?|还是)\s*(?P<high>{MARK})"
    rf"|\b(?:between|zwischen|entre)\s+{MARK}[ ]?[^\W\d_{END}]{{0,12}}\s*(?:and|und|y)\s+{MARK}",
    re.IGNORECASE,
)
LIST = re.compile(
    rf"[^{DIGITS}{quantities.WORDS}=]*?{MARK}(?:\s*(?:[,;、]|and|or|und|oder|[yo]|[和或])\s*{MARK})+\W*", re.IGNORECASE
)
ENOUGH = re.compile(
    r",?\s*\b(?:(?:just )?enough|sufficient|genug|suficientes?)\b|,?\s*(?:正好|刚好)?足?够(?!的)", re.IGNORECASE
)
NO_MARK = f"[^,{DIGITS}{quantities.WORDS}]*?"
NEEDED = re.compile(  # what is needed, then what for
    rf"\b(?:needs?|requires?|must (?:buy|use)|brauch\w*|benötig\w*|necesita\w*)\b{NO_MARK}{MARK}{NO_MARK}"
    rf"(?P<what> (?:for|to|für|um|para)\b)|(?:需要?|要用|用){NO_MARK}{MARK}[一-鿿]{{1,4}}?(?P<purpose>装|放|坐|运|才能|来装|给)",
    re.IGNORECASE,
)
EQUALS = re.compile(r"\b(?:(?:is|are) equal to|equals|ist gleich|es igual a)\b|等于|={2,}", re.IGNORECASE)
OPERATOR = (
    r"(?:[-+*/×÷·^%]|\bx\b|[加减乘]|除以"
    r"|\b(?:plus|minus|times|divided by|multiplied by|mal|geteilt durch|por|entre|más|menos)\b)"
)
OPERATION = re.compile(rf"\)?\s*[\w%°]{{0,12}}(?: \w{{1,12}})?\s*\)?\s*{OPERATOR}\s*\(?\s*[-+]?\s*", re.IGNORECASE)
FACTOR = re.compile(r"[xyzn]\b|!\s*=")  # 3x, 5! =
UNIT = r"\s*[%°]?\s*(?:(?:(?![是为在有把])[一-鿿]){1,6}|[^\W\d_一-鿿]+(?:[ /][^\W\d_一-鿿]+){0,2})?(?:\^\d)?"
BROKEN_OFF = re.compile(rf"{END}(?!{UNIT}[\s\")]*\Z)[^{END}.。!?;]*\Z|[,:、(=]\s*\Z")
OPENING = re.compile(
    r"[\W_]*?(?:(?:总?共|约|大约|(?:应该)?是|about|(?:it|that) (?:is|should be)|it's|es sind|son)\s*)?"
    rf"(?P<mark>{MARK})(?P<rest>.*)",
    re.IGNORECASE,
)
LONGEST_STATEMENT = 400  # characters
LISTED = re.compile(  # the last alternative: an item of which no more was generated
    r"^([ \t]*(?:[-*][ \t]+)?)(?:(\d{1,2})(?:[.)][ \t]+(?=\S)|、|[.)]?\s*\Z)|\((\d{1,2})\)(?=[ \t]*\S))", re.MULTILINE
)


def parse_number(text: str, language: str | None = None) -> Fraction | None:
    """The number that the whole text spells, in digits or in words; else None."""
    text = phrases.valued(writing.in_plain_characters(text), language).strip()
    return next(quantities.values(text)) if re.fullmatch(MARK, text) else None


def find_numbers(text: str, language: str | None = None) -> Iterator[Fraction]:
    """Every number in the text that can be read, in order."""
    values = quantities.values(phrases.valued(writing.in_plain_characters(text), language))
    return (value for value in values if value is not None)


def extract_number(text: str, language: str | None = None) -> Fraction | None:
    """The number that a model's output gives as its answer; None if it gives none, or one that cannot be read.

    In order: what follows a correction ("No, the answer is 44"); the last \\boxed{}; the first sentence "the answer is";
    an opening number that stands alone, or before its working; a heading "Answer:"; the last line with a number, there
    the result of its last equation, else its last number, in digits rather than in words. What follows the next
    "Question:" is not part of the answer. `language` is that of the text, guessed where it is None.
    """
    return next(quantities.values(stated_mark(prepared(text, language))), None)


def number_complete(text: str, language: str | None = None) -> bool:
    """Whether a growing output has stated its answer, so that generation can stop: a boxed number, a sentence that states
    the answer or a line after "Answer:" has ended, or the next question has begun.

    An answer that could still grow is not complete: neither "答案是3" nor "The answer is 36." (36.5?), but "答案是36。" and
    "The answer is 36.\\n". Nor is a number without such words before it: what follows may be its working or the answer.
    """
    return next_question_begun(text) or number_stated(ended(text), language)


@lru_cache(maxsize=1024)  # growing outputs of a batch
def number_stated(sentences: str, language: str | None) -> bool:
    """Whether the sentences of a growing output that have ended state its answer; most tokens end none, and are not read."""
    return bool(explicit(prepared(sentences, language)))


def next_question_begun(text: str) -> bool:
    """Whether a growing output has gone on to a question of its own, with its colon."""
    return writing.has_colon(text) and bool(NEXT_QUESTION.search(writing.in_plain_characters(text)))


def ended(text: str) -> str:
    """The sentences of a growing output that have ended, without the number of a list's item at their end."""
    last = len(text.rstrip())
    ends = [match.end() for match in SENTENCE_END.finditer(text) if match.end() < len(text) or match[0] in "。\n"]
    ends = [end for end in ends if text[end - 1] != "!" or end < last]  # "5! " may become "5! = 120"
    return re.sub(r"(?:^|(?<=[\n:]))\s*\(?\d{1,2}[.)、]\s*\Z", "", text[: max(ends, default=0)])


def own_part(text: str, emphasis: bool = False) -> str:
    """An output in plain characters, up to the next question and without code."""
    return NEXT_QUESTION.split(writing.in_plain_characters(CODE.sub("\n", text), emphasis))[0]


def prepared(text: str, language: str | None = None) -> str:
    """The own part of an output, its numbers as marks, without the numbers of list items and without a repeat cut off."""
    text = phrases.valued(without_list_numbers(without_broken_repeat(own_part(text))), language)
    ends = [0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text)]
    return "".join(single_or_none(text[start:end]) for start, end in zip(ends, ends[1:]))


def single_or_none(sentence: str) -> str:
    """A sentence without its only number where it denies that, with an unreadable one where all that it has is a range or
    a choice of two; "from 10 to 3" tells a change."""
    marks = re.findall(MARK, sentence)
    if len(marks) == 1:
        return NEGATED.sub(" ", sentence)
    match = SEVERAL.search(sentence) if len(marks) == 2 else None
    if match and match["link"] in ("-", "~", "到", "至", "to", "bis", "a"):
        low, high = quantities.values(match[0])
        match = match if low is None or high is None or low < high else None
    return SEVERAL.sub(phrases.UNREADABLE, sentence) if match else sentence


def without_broken_repeat(text: str) -> str:
    """The text without a last sentence that breaks off while it repeats an earlier one."""
    *earlier, last = SENTENCE_END.split(text)
    last = last.strip()
    if re.fullmatch(r"[\d.,]*", last):
        earlier = [sentence for sentence in earlier if re.fullmatch(r"[\d.,]*", sentence.strip())]
    repeated = last and any(sentence.strip().startswith(last) and sentence.strip() != last for sentence in earlier)
    return text[: text.rindex(last)] if repeated else text


def without_list_numbers(text: str) -> str:
    """The text without 1., 2., ... where they number items; a lone "1." does so only if another number follows it."""
    last = 0

    def unnumbered(match: re.Match) -> str:
        nonlocal last
        item, rest = int(match[2] or match[3]), match.string[match.end() : match.end() + 1000]
        if item == 1:
            second = re.search(r"^[ \t*-]*\(?2[.)、]", rest, re.MULTILINE)
            if not second and not list(find_numbers(rest.split("\n")[0])):
                return match[0]
        elif item != last + 1:
            return match[0]
        last = item
        return match[1]

    return LISTED.sub(unnumbered, text)


def stated_mark(text: str) -> str:
    """The mark of the number that a prepared output states as its answer, "" if it states none."""
    *_, corrected = CORRECTION.split(text)
    if corrected != text:
        numbered = [match.start() for match in re.finditer(MARK, corrected)][:1]
        ends = [match.end() for match in SENTENCE_END.finditer(corrected, 0, *numbered)] if numbered else []
        first = corrected[ends[-1] :] if ends else corrected  # "That is wrong. It is 20."
        if found := explicit(corrected) or opening(first) or headed(corrected):
            return found
    found = explicit(text)
    first = "" if found else opening(text)
    if first == phrases.UNREADABLE and len(set(re.findall(MARK, text))) > 1:  # "3-4 people. So 12."
        first = ""
    if found or first:
        return found or first
    before = EXPLANATION.split(text)[0]
    text = before if re.search(MARK, before) else text
    return headed(text) or concluded(text)


def concluded(text: str) -> str:
    """The mark of the number that a text comes to: that of its last line with one, in digits if any line has digits.

    A last line that breaks off, its number not near its end, counts only if no other line has a number.
    """
    lines = [line for line in text.split("\n") if re.search(MARK, line)]
    lines = [line for line in lines if DIGITS in line] or lines
    if len(lines) > 1 and text.rstrip().endswith(lines[-1].rstrip()) and BROKEN_OFF.search(lines[-1]):
        lines.pop()
    found = next(filter(None, map(conclusion, reversed(lines))), "")
    return found or last_number(re.findall(MARK, "".join(lines[-1:])))


def explicit(text: str) -> str:
    """The mark of the last boxed number, else of the first that a sentence or a heading calls the answer; "" without one."""
    boxes = re.findall(rf"{writing.BOX}([^{writing.BOX_END}]*){writing.BOX_END}", text)
    if boxes:
        if LIST.fullmatch(boxes[-1]):
            return phrases.UNREADABLE
        return conclusion(boxes[-1]) or last_number(re.findall(MARK, boxes[-1])) or phrases.UNREADABLE
    for called in CALLED.finditer(text):
        part = text[called.end() : called.end() + LONGEST_STATEMENT]
        if found := first_number(part) if called["sentence"] else opening(part):
            return found
    return ""


def first_number(text: str) -> str:
    """The mark of the number that a statement gives: its first, or the result of the formula that it begins with."""
    sentence, *others = SENTENCE_END.split(text.lstrip(), maxsplit=2)
    if sentence.rstrip().endswith(":") and others and not re.search(MARK, sentence):
        sentence = others[0]
    sentence = without_asides(sentence)
    single = [mark for mark, operand in operands(sentence) if not operand]
    first = next(iter(re.findall(MARK, sentence)), "")
    return first if single[:1] == [first] else result(sentence) or "".join(single[:1])


def opening(text: str) -> str:
    """The mark of a number that the text opens with: alone on its line, or as a sentence, or before its working."""
    line, *_ = text.lstrip().split("\n", 1)
    match = OPENING.match(line)
    if not match:
        return ""
    rest = match["rest"]
    alone = re.fullmatch(rf"{UNIT}(?:\s*\(.*\))?[\s.,;!\"。]*", rest)
    sentence = re.match(rf"{UNIT}[\s\"]*(?:(?:[.;]|!(?!\s*=))(?:\s|$)|。)", rest)
    formula = re.match(rf"{UNIT}\s*=", rest) and conclusion(line) == match["mark"]
    parts = re.match(rf"{UNIT}\s*[:—]", rest) and rest.count(END) > 1 and "=" not in rest  # 43: 18 and 25
    return match["mark"] if alone or sentence or formula or parts else ""


def headed(text: str) -> str:
    """The mark of the number under the first heading "Answer:" that has one, "" without one."""
    for part in HEAD.split(text)[1:]:
        sentences = (conclusion(sentence) for sentence in SENTENCE_END.split(part) if re.search(MARK, sentence))
        if found := opening(part) or next(sentences, ""):
            return found
    return ""


def conclusion(line: str) -> str:
    """The mark of the number that a line comes to: the result of its last equation, else its last number."""
    line = ". ".join(without_asides(sentence) for sentence in SENTENCE_END.split(line))
    return result(line) or last_number([mark for mark, operand in operands(line) if not operand])


def last_number(marks: Sequence[str]) -> str:
    """The last number that is written in digits, else the last in words."""
    in_digits = [mark for mark in marks if mark[0] == DIGITS]
    return "".join((in_digits or marks)[-1:])


def result(text: str) -> str:
    """The number alone on its side of the last equation that has one; 43 in 18 + 25 = 43 and in 43 = 18 + 25."""
    first, *sides = EQUALS.sub("=", text).split("=")
    for side in reversed(sides):
        found = operands(side)
        if found and not found[0][1]:
            return found[0][0]
    found = operands(first)
    return found[-1][0] if sides and found and not found[-1][1] else ""


def operands(text: str) -> list[tuple[str, bool]]:
    """Every number's mark, and whether it is part of a formula: joined by an operator, or a factor of x."""
    marks = list(re.finditer(MARK, text))
    starts, ends = [mark.start() for mark in marks] + [len(text)], [0] + [mark.end() for mark in marks]
    gaps = [text[end:start] for end, start in zip(ends, starts)]
    joined = [bool(re.search(r"\w\s*[+*/×÷-]\s*\(?$", gaps[0]))]
    joined += [bool(OPERATION.fullmatch(gap)) for gap in gaps[1:-1]] + [False]
    factors = [bool(FACTOR.match(gap)) for gap in gaps[1:]]
    return [(mark[0], joined[i] or joined[i + 1] or factors[i]) for i, mark in enumerate(marks)]


def without_asides(sentence: str) -> str:
    """A sentence without the working in brackets after its number, its reason, and what it says is not the answer."""

    def shortened(match: re.Match) -> str:
        before, after = match.string[: match.start()].rstrip(), match.string[match.end() :].lstrip()
        working = "=" in match[1] or any(operand for _, operand in operands(match[1])) or re.search(MARK, before)
        part_of_formula = before[-1:] in tuple("+*/×÷-=≈:") or after[:1] in tuple("+*/×÷-^")
        return match[0] if part_of_formula or not working or not re.search(MARK, before + after) else " "

    sentence = re.sub(r"\(([^()]*)\)", shortened, sentence)
    reason = BECAUSE.search(sentence)
    if reason and re.search(MARK, sentence[: reason.start()]):
        sentence = sentence[: reason.start()]
    enough = ENOUGH.search(sentence)
    if enough and re.search(MARK, sentence[: enough.start()]):
        sentence = sentence[: enough.start()]
    if (needed := NEEDED.search(sentence)) and "=" not in sentence:
        sentence = sentence[: max(needed.start("what"), needed.start("purpose"))]
    others = NEGATED.sub(" ", sentence)
    return others if re.search(MARK, others) else sentence
