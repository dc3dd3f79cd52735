"""Answers in words: what a model's output gives as its answer, and whether that names the right word."""

import re
from collections.abc import Sequence

from lab import quantities, writing
from lab.numerals import BECAUSE, CALLED, LONGEST_STATEMENT, NEXT_QUESTION, SENTENCE_END, ended, own_part

LATIN, HAN = r"[^\W\d_一-鿿]", "[一-鿿]"
ARTICLE = r"(?:the|an?|der|die|das|dem|den|eine?|el|la|los|las|una?)"
THEREFORE = re.compile(
    r"(?:^|(?<=[\s,]))(?:so|therefore|thus|hence|daher|deshalb|somit|folglich|por lo tanto|por tanto|así que)\b[\s,]*"
    r"|(?:所以|因此)[\s,]*",
    re.IGNORECASE,
)
EMPHASIS = re.compile(r"\*\*([^*\n]+)\*\*|\"([^\"\n]+)\"|[「『《‘]([^」』》’\n]+)[」』》’]|`([^`\n]+)`")
LEADING = re.compile(
    rf"(?:(?:it|he|she|that) (?:is|must be)|it's|es ist|das ist|es|son|in|{ARTICLE})\s+|是|在(?=.{{2}})", re.IGNORECASE
)
NOT = re.compile(
    rf"(?:\b(?:not|never|nicht|kein\w*|no|nor)\b|n't|不|并非|而非)(?:\s*(?:\b(?:es|in|{ARTICLE})\b|是|在))*\s*\Z",
    re.IGNORECASE,
)
NOT_AFTER = re.compile(r"\s*(?:\w+n't|is not|was not|ist nicht|no (?:es|está)|并?不)\b", re.IGNORECASE)
YES = {"yes", "no", "well", "so", "ja", "nein", "also", "sí", "是", "是的", "对", "不"}
COMPARED = re.compile(  # with one other: "taller than everyone" names nobody else
    r"(?:\bthan|\bals|\bmás \w+ que|比)\s*(?!everyone|everybody|any|all|both|the others?\b|the rest|other|alle|jede|todos|nadie"
    r"|cualquier|los demás|其他|别|大家|所有|任何)\w",
    re.IGNORECASE,
)
BESIDE = rf"(?:\b(?:and|or|und|oder|y|o|nor)\b|[和或与跟、])\s*(?:{ARTICLE}\s)?\s*"
LISTED_AFTER, LISTED_BEFORE = re.compile(rf"\s*{BESIDE}", re.IGNORECASE), re.compile(rf"{BESIDE}\Z", re.IGNORECASE)
GRAMMAR = set(
    "the a an in if every all each no some it he she they there this that who which what of is one on at der die das ein eine "
    "es alle jeder kein wer was el la los las un una cada todos en si quién qué".split()
)
GRAMMAR |= set("的是了在和有都更最不也得很比里上中就还而且它他她们这那个只被把从到对为")


def bare(text: str) -> str:
    """A word or phrase without quotes, emphasis, punctuation, articles and case."""
    text = text.strip(" \t\n.,!?:;\"'*_`~#()[]「」『』《》‘’-。、").casefold()
    while (match := LEADING.match(text)) and match.end() < len(text):
        text = text[match.end() :]
    return text


def extract_word(text: str) -> str:
    """The phrase that an output gives as its answer, `bare`; the one that it emphasises there, where it does."""
    phrase = stated(text)
    emphasised = {bare(next(filter(None, match.groups()))) for match in EMPHASIS.finditer(phrase)}
    return emphasised.pop() if len(emphasised) == 1 else bare(phrase)


def complete(text: str) -> bool:
    """Whether a growing output has stated its answer in words, so that generation can stop; see `numerals.complete`."""
    return bool(NEXT_QUESTION.search(writing.plain(text)) or called(own_part(ended(text), emphasis=True)))


def stated(text: str) -> str:
    """The phrase or sentence in which an output gives its answer, in plain characters."""
    text = own_part(text, emphasis=True)
    if found := called(text):
        return found
    sentences = [sentence for sentence in SENTENCE_END.split(text) if bare(sentence)]
    concluding = [THEREFORE.split(sentence)[-1] for sentence in sentences if THEREFORE.search(sentence)]
    return next(filter(bare, (*concluding[::-1], *sentences)), "")


def called(text: str) -> str:
    """The boxed phrase, the sentence that is called the answer, or the line under or after "Answer:"; "" without one."""
    boxes = re.findall(rf"{writing.BOX}([^{writing.BOX_END}]*){writing.BOX_END}", text)
    marks = sorted(CALLED.finditer(text), key=lambda match: match["sentence"] is None)  # sentences before headings
    parts = boxes[-1:] + [text[match.end() : match.end() + LONGEST_STATEMENT] for match in marks]
    return next(filter(bare, (SENTENCE_END.split(part.strip(), maxsplit=1)[0] for part in parts)), "")


def judged(output: str, accepted: Sequence[str], asked: Sequence[str] = ()) -> tuple[str, bool]:
    """(answer of an output, whether it is one of the accepted words), these being one word in several languages.

    Right is an answer that is the word, that emphasises it alone, or that is a sentence with it: one that does not deny it
    nor name another candidate beside it, as "Mia is taller than Tom" and "Mia or Tom" do. Candidates are told by their
    capitals, and by the questions in `asked`: names and things in the premises that are not asked about.
    """
    wanted = {bare(word): word for word in accepted}
    phrase, short = stated(output), extract_word(output)
    if short in wanted:
        return short, True
    others = [rivals(question, accepted) for question in asked]
    phrase = BECAUSE.split(phrase)[0] if bare(BECAUSE.split(phrase)[0]) else phrase
    first, *rest = re.split("[,;(]", phrase)
    listed = any(not re.search(rf"\w\s+\w|{HAN}{{3}}", part) for part in rest)
    if listed and not re.search(r"\w\s+\w", first) and bare(first) not in YES:  # "cat, dog, horse"
        return short[:80], False
    for clause in (phrase,) if listed else (first, phrase):
        for answer, word in wanted.items():
            if bare(clause) == answer or names(clause, word, others):
                return answer, True
    return short[:80], False


def names(clause: str, word: str, others: Sequence[set[str]]) -> bool:
    """Whether a clause names the word as the answer: the word stands there undenied, and no other candidate beside it."""
    chinese = re.match(HAN, word)
    if chinese and len(word) == 1:  # 猫, but neither 熊猫 nor 猫头鹰
        pattern = rf"(?<![^\W是为叫只个条匹头名的了])({word})(?![^\W最是的年在跑更比也就了])"
    else:
        shade = "(?<![粉深浅暗淡亮])" if word.endswith("色") else ""
        pattern = rf"{shade}({re.escape(word)})" if chinese else rf"(?<!\w)({re.escape(word)})(?!\w)"
    match = re.search(pattern, clause, re.IGNORECASE)
    if not match:
        return False
    before, after = clause[: match.start()], clause[match.end() :]
    if NOT.search(before) or NOT_AFTER.match(after) or COMPARED.search(clause):
        return False
    if LISTED_AFTER.match(after) or LISTED_BEFORE.search(before):
        return False
    rest = f"{before} {after}"
    capitals = re.search(r"(?<=[\w,] )(?!I\b)[A-ZÀ-Þ]", rest) if word[0].isupper() else None
    if capitals and quantities.language_of(clause) != "de":  # German writes every noun so
        return False
    found = set(re.findall(HAN, rest)) if chinese else set(re.findall(rf"{LATIN}+", rest.casefold()))
    return not any(found & rival for rival in others)


def rivals(question: str, accepted: Sequence[str]) -> set[str]:
    """Words (Chinese: characters) of a question that may name another answer: names and things that only its premises
    hold, and the choices of "A or B?"."""
    *premises, asking = re.split(r"(?<=[.!?。])\s*(?=\S)", writing.plain(question).strip())
    text, words = " ".join(premises), rf"{LATIN}+|{HAN}"
    found = re.findall(rf"\b{ARTICLE} ({LATIN}+)", text, re.IGNORECASE) + re.findall(HAN, text)
    found += [word for word in re.findall(rf"{LATIN}+", text) if word[0].isupper()]
    known = {word.casefold() for word in found} - set(re.findall(words, asking.casefold()))
    choices = re.findall(rf"({LATIN}+),? (?:or|oder|o) ({LATIN}+)|({HAN}{{1,2}})还是({HAN}{{1,2}})", asking)
    known |= set(re.findall(words, " ".join(" ".join(pair) for pair in choices).casefold()))
    return known - set(re.findall(words, " ".join(accepted).casefold())) - GRAMMAR
