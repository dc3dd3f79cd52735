"""Answers in words: what a model's output gives as its answer, and whether that names the right word."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from lab import quantities, writing
from lab.numerals import (
    BECAUSE,
    CALLED,
    CORRECTION,
    LONGEST_STATEMENT,
    SENTENCE_END,
    ended,
    next_question_begun,
    own_part,
)

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
NEGATOR = re.compile(  # what denies or excludes the words after it in its clause, wherever it stands there
    r"\b(?:not|never|nor|neither|cannot|no|nobody|none|hardly|except|excluding|excepting|without|unlike|besides|followed by"
    r"|wrong|false|(?:instead|ahead|in place) of|(?:other|rather) than|(?:apart|aside|far) from|as opposed to"
    r"|(?:any|every)(?:thing|one|body) but|all but|doubt"
    r"|nicht|nie|niemals|kein\w*|weder|außer|ausser|statt|anstatt|anstelle|ohne|kaum|gefolgt von|falsch"
    r"|nunca|jamás|ni|tampoco|excepto|salvo|tod[oa]s? menos|menos (?:el|la)|en (?:vez|lugar) de|sin|seguid[oa] (?:de|por))\b"
    r"|n't\b|不(?!过|仅|同|用说|但|久|管|只)|没|并非|而非|除|非(?!常)|别(?=是|选)|错",
    re.IGNORECASE,
)
NO_NEGATION = re.compile(r"\b(?:no|without(?: an?y?)?|ohne|sin) (?:doubt|zweifel|duda)\b|\bnot only\b", re.IGNORECASE)
CONTRAST = re.compile(
    r"[,;:(]|\b(?:but|sondern|sino)\b(?<!one but)(?<!thing but)(?<!body but)(?<!all but)|而是|反而", re.IGNORECASE
)
TOUCHING = re.compile(
    rf"(?:\b(?:not|never|nicht|kein\w*|no|nor)\b|n't|不|并非|而非)(?:\s*(?:\b(?:es|in|{ARTICLE})\b|是|在))*\s*\Z",
    re.IGNORECASE,
)
NOT_AFTER = re.compile(
    r"[\s\"]*(?:\w+ ){0,2}?(?:\w+n't\b|cannot\b|(?:is|was|are|can|could|must|should|may|would|does|did|has|might) (?:\w+ )?"
    r"(?:not|never)\b|(?:is|was|would be|must be|seems) (?:\w+ ){0,2}?(?:wrong|incorrect|false|impossible|excluded|ruled out)\b"
    r"|(?:ist|war|kann|darf|wäre) (?:\w+ ){0,3}?(?:nicht|falsch|kein\w*)\b"
    r"|no (?:es|está|puede|debe|sería|fue|era|son|corre)\b|es (?:\w+ )?(?:incorrect|fals|imposible)\w*)"
    r"|[\s\"]*(?:是|就|绝|也|都|肯定|一定|答案|最.){0,3}(?:错|并?不(?!仅|过)|并非|没)|[^,]{0,4}除外|以外|之外",
    re.IGNORECASE,
)
SUBORDINATE = re.compile(  # "Since Mia is taller than Tom, " and "Unlike Tom, " before the sentence that tells the answer
    r"^\W*(?:(?:since|because|given|as|unlike|apart from|except for|instead of|weil|da|anders als|außer|como|ya que|porque"
    r"|puesto que|excepto|a diferencia de)\b|因为|由于|除了|不像).*,\s*(?:所以|因此|then\b)?\s*(?=\w+\W+\w|[一-鿿]{2})",
    re.IGNORECASE,
)
NOT_BUT = re.compile(
    r"^.{0,120}?(?:\b(?:not|nicht|no)\b.{0,120}?\b(?:but|sondern|sino)\b|(?:不是|并非).{0,120}?而是)\s*(?=\w)",
    re.IGNORECASE,
)
NOBODY = re.compile(  # "nobody is taller than Mia"
    r"\b(?:no ?one|nobody|niemand|nadie)\b[^,]*\b(?:than|als|que)\s+\Z|没有?(?:人|谁|任何人|别人)比\Z", re.IGNORECASE
)
THAN_ALL = re.compile(  # what is compared with is everything else: it names no other answer
    r"\b(?:than|als|que) (?:everyone|everybody|both|all|any|the others?|the rest|alle|beide|jede\w*|tod[oa]s|ambos|los demás)\b.*"
    r"|比[^,]{1,16}[和与跟、][^,]{1,10}(?=都)",
    re.IGNORECASE | re.DOTALL,
)
TITLED = re.compile(rf"\b{ARTICLE}(?: [A-ZÀ-Þ]\w*| of| más| most)+|\b(?:más|most|least) [A-ZÀ-Þ]\w*", re.IGNORECASE)
SMALL_ORDINAL = re.compile(
    r"\b(?:second|third|fourth|fifth|2nd|3rd|4th|next|zweit\w+|dritt\w+|segund[oa]|tercer[oa]?)\b|第[二三四2-4]|倒数|其次",
    re.IGNORECASE,
)
POLES = [  # stems of words of degree: the first side is the opposite of the second
    tuple(set(side.split()) for side in line.split("|"))
    for line in """tall high long|short low
        old eld|young new
        bigg large larg great|small littl
        fast quick|slow
        heavi|light
        expensive rich costli|cheap poor
        hott warm|cold cool
        strong|weak
        bright|dark
        wid thick|narrow thin
        earli|lat
        far farth furth|near clos
        高 长|矮 短 低
        大 老|小 年 幼
        快|慢
        重|轻
        贵|便
        热 暖|冷 凉
        早|晚
        远|近
        多|少
        强|弱
        grös läng höch|klein kürze niedrig
        ält|jüng
        schnell|langsam
        schwer|leichte
        teuer|billig
        wärm|kälte
        alt larg|baj cort
        viej mayor grand|joven pequeñ menor
        rápid rapid|lent despaci
        pesad|liger livian
        car|barat
        calient|frí""".split("\n")
]
DEGREE = re.compile(
    r"\b(?P<est>[^\W\d_]{2,}?)est\b|\b(?P<er>[^\W\d_]{2,}?)er than\b|\b(?P<flip>least|less) (?P<less>\w+)|\bmo(?:st|re) (?P<most>\w+)"
    r"|\b(?P<sten>[^\W\d_]{3,}?)(?:st)e[nrs]?\b|\b(?P<dir>más|menos) (?P<mas>\w+?)[oae]?s?\b"
    r"|最(?P<kein>不)?(?P<zui>[一-鿿])|[都更]更?(?P<dou>[一-鿿])"
)
REMARK = re.compile(  # on what was said before, no answer
    r"\W*(?:(?:that|this|it|das|eso)(?:'s| (?:is|was|ist|war|es|era)) )?(?:\w+ )?(?:wrong|incorrect|not right|falsch|incorrecto)\W*"
    r"|\W*这?(?:是错的|错了)\W*",
    re.IGNORECASE,
)
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
NEGATIONS = set("not no does name names word words these nicht kein keine nombra palabras palabra 不".split())
UNMARKED = str.maketrans("", "", '*`"「」『』《》‘’')
GRAMMAR |= set("的是了在和有都更最不也得很比里上中就还而且它他她们这那个只被把从到对为")


def bare(text: str) -> str:
    """A word or phrase without quotes, emphasis, punctuation, articles and case."""
    text = text.strip(" \t\n.,!?:;\"'*_`~#()[]「」『』《》‘’-。、").casefold()
    while (match := LEADING.match(text)) and match.end() < len(text):
        text = text[match.end() :]
    return text


def extract_word(text: str) -> str:
    """The phrase that an output gives as its answer, `bare`; the one that it emphasises there, where it does."""
    phrase = stated_phrase(text)
    emphasised = {bare(next(filter(None, match.groups()))) for match in EMPHASIS.finditer(phrase)}
    return emphasised.pop() if len(emphasised) == 1 else bare(phrase)


def word_complete(text: str) -> bool:
    """Whether a growing output has stated its answer in words, so that generation can stop; see `numerals.number_complete`."""
    return next_question_begun(text) or word_stated(ended(text))


@lru_cache(maxsize=1024)  # growing outputs of a batch
def word_stated(sentences: str) -> bool:
    """Whether the sentences of a growing output that have ended state its answer."""
    return bool(called(own_part(sentences, emphasis=True)))


def stated_phrase(text: str) -> str:
    """The phrase or sentence in which an output gives its answer, in plain characters; what follows a correction first."""
    text = own_part(text, emphasis=True)
    *_, corrected = CORRECTION.split(text)
    return (told(corrected) if corrected != text else "") or told(text)


def told(text: str) -> str:
    """The phrase or sentence in which a text without corrections gives its answer, "" if it has none."""
    if found := called(text):
        return found
    sentences = [sentence for sentence in SENTENCE_END.split(text) if bare(sentence) and not REMARK.fullmatch(sentence)]
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
    accepted, asked = (
        list(map(writing.in_plain_characters, texts)) for texts in (accepted, asked)
    )  # as outputs are read
    wanted = {bare(word): word for word in accepted}
    phrase, short = stated_phrase(output), extract_word(output)
    questions = [asking(question, accepted) for question in asked]
    if short in wanted:
        place = bare(phrase) != short and find(phrase.translate(UNMARKED), wanted[short])
        return short, not (place and denied(*place, questions))
    phrase = phrase.translate(UNMARKED)
    phrase = BECAUSE.split(phrase)[0] if bare(BECAUSE.split(phrase)[0]) else phrase
    phrase = SUBORDINATE.sub("", NOT_BUT.sub("", phrase))
    first, *rest = re.split("[,;(]", phrase)
    listed = any(not re.search(rf"\w\s+\w|{HAN}{{3}}", part) for part in rest if bare(part))
    if listed and not re.search(r"\w\s+\w", first) and bare(first) not in YES:  # "cat, dog, horse"
        return short[:80], False
    for clause in (phrase,) if listed else (first, phrase):
        for answer, word in wanted.items():
            if bare(clause) == answer or names(clause, word, questions):
                return answer, True
    return short[:80], False


def find(clause: str, word: str) -> tuple[str, str] | None:
    """What stands before and after the word in a clause; None where it is not there or is part of another word."""
    chinese = re.match(HAN, word)
    if chinese and len(word) == 1:  # 猫, but neither 熊猫 nor 猫头鹰
        pattern = rf"(?<![^\W是为叫只个条匹头名的了])({word})(?![^\W最是的年在跑更比也就了])"
    else:
        shade = "(?<![粉深浅暗淡亮])" if word.endswith("色") else ""
        pattern = rf"{shade}({re.escape(word)})" if chinese else rf"(?<!\w)({re.escape(word)})(?!\w)"
    match = re.search(pattern, clause, re.IGNORECASE)
    return (clause[: match.start()], clause[match.end() :]) if match else None


def names(clause: str, word: str, questions: Sequence["Asking"]) -> bool:
    """Whether a clause names the word as the answer: the word stands there undenied, and no other candidate beside it."""
    place = find(clause, word)
    if not place or denied(*place, questions):
        return False
    before, after = place[0], THAN_ALL.sub("", place[1])
    if (
        not NOBODY.search(before)
        and COMPARED.search(before + word + after)
        or LISTED_AFTER.match(after)
        or LISTED_BEFORE.search(before)
    ):
        return False
    rest = f"{before} {after}"
    names_beside = re.search(r"(?<=[\w,] )(?!I\b)[A-ZÀ-Þ]", TITLED.sub("the", rest)) if word[0].isupper() else None
    if names_beside and quantities.language_of(clause) != "de":  # German writes every noun so
        return False
    found = set(re.findall(HAN, rest)) if re.match(HAN, word) else set(re.findall(rf"{LATIN}+", rest.casefold()))
    return not any(found & question.rivals for question in questions)


def denied(before: str, after: str, questions: Sequence["Asking"]) -> bool:
    """Whether what stands before and after the word denies it, gives it as the question's own word ("the opposite of cold
    is hot"), or says another degree of it than is asked ("the shortest", "the second tallest")."""
    clause = f"{before} {after}"
    found = set(re.findall(rf"{LATIN}+|{HAN}", clause.casefold()))
    scope = NO_NEGATION.sub(" ", CONTRAST.split(before)[-1])
    for word in set().union(*(question.quoted for question in questions)):  # the opposite of "never" is no negation
        scope = re.sub(re.escape(word), " ", scope, flags=re.IGNORECASE)
    scope = NOBODY.sub(" ", scope)
    if TOUCHING.search(before):
        return True
    excluding = any(found & question.excluded for question in questions)  # "the word that names no fruit is soldier"
    if not excluding and (NEGATOR.search(scope) or NOT_AFTER.match(after)):
        return True
    degrees = set().union(*(question.degrees for question in questions))
    said = degrees_of(clause)
    if degrees and (
        SMALL_ORDINAL.search(clause) or said and not said & degrees and {(n, 1 - s) for n, s in said} & degrees
    ):
        return True
    return any(turned_round(before, after, question.quoted) for question in questions)


def turned_round(before: str, after: str, quoted: set[str]) -> bool:
    """Whether a sentence gives the opposite of the answer: "cold is hot", "the opposite of cold is hot", 冷的反义词是热; but
    not "the opposite of hot is cold", "cold is the opposite of hot"."""
    for word in quoted:
        own = rf"(?<!\w){re.escape(word)}(?!\w)" if not re.match(HAN, word) else re.escape(word)
        if re.search(own, before, re.IGNORECASE):
            return False
        if match := re.search(own, after, re.IGNORECASE):
            linked = re.search(
                r"\b(?:of|for|to|von|zu|vom|de|del|a)\s+(?:\w{2,3}\s+)?\"?\Z", after[: match.start()], re.IGNORECASE
            )
            return not (linked or re.match(r"\"?\s*(?:的|[(,;]|\Z)(?=.)", after[match.end() :]))
    return bool(quoted) and bool(
        re.search(
            r"\b(?:opposite|antonym|gegenteil|contrario|opuesto|antónimo) (?:of|von|zu|de) \"?\Z", before, re.IGNORECASE
        )
        or re.match(r"\"?\s*的(?:反义|相反|对立)", after)
    )


def degrees_of(text: str) -> set[tuple[int, int]]:
    """The (line, side) in POLES of every superlative, and comparative of all others, in a text."""
    found = set()
    for match in DEGREE.finditer(text.casefold().replace("größt", "grösst")):
        stem = next(filter(None, (match[name] for name in ("est", "er", "less", "most", "sten", "mas", "zui", "dou"))))
        flip = bool(match["flip"] or match["kein"] or match["dir"] == "menos")
        for line, sides in enumerate(POLES):
            found |= {(line, side ^ flip) for side in (0, 1) if stem in sides[side]}
    return found


@dataclass(frozen=True)
class Asking:
    """What a question says of its answer."""

    rivals: set[str]  # words that may name another answer
    quoted: set[str]  # the words that it asks about, in quotes
    degrees: set[tuple[int, int]]  # of `degrees_of`
    excluded: set[str]  # the words of a question for what is not something


def asking(question: str, accepted: Sequence[str]) -> Asking:
    """What a question says of its answer.

    Rivals are words (Chinese: characters): names and things that only its premises hold, the choices of "A or B?", and
    those of a list after a colon.
    """
    *premises, last = re.split(r"(?<=[.!?。])\s*(?=\S)", writing.in_plain_characters(question).strip())
    text, words = " ".join(premises), rf"{LATIN}+|{HAN}"
    found = re.findall(rf"\b{ARTICLE} ({LATIN}+)", text, re.IGNORECASE) + re.findall(HAN, text)
    found += [word for word in re.findall(rf"{LATIN}+", text) if word[0].isupper()]
    known = {word.casefold() for word in found} - set(re.findall(words, last.casefold()))
    choices = re.findall(rf"({LATIN}+),? (?:or|oder|o) ({LATIN}+)|({HAN}{{1,2}})还是({HAN}{{1,2}})", last)
    known |= set(re.findall(words, " ".join(" ".join(pair) for pair in choices).casefold()))
    head, _, listed = last.partition(":")
    answers = set(re.findall(words, " ".join(accepted).casefold()))
    own = answers | GRAMMAR
    known |= set(re.findall(rf"{LATIN}+", listed.casefold()))
    head = re.sub(r"[\"'「『‘][^\"'」』’]+[\"'」』’]", " ", head.casefold())  # the opposite of "never" is no negation
    excluded = {word for word in re.findall(words, head) if len(word) > 2 or re.match(HAN, word)} - own
    excluded = excluded - NEGATIONS if NEGATOR.search(head) else set()
    quoted = {word.casefold().strip() for word in re.findall(r"[\"'「『‘]([^\"'」』’]+)[\"'」』’]", last)}
    if not premises and not quoted:
        quoted = set(
            re.findall(rf"\b(?:opposite of|gegenteil von|contrario de) (?:the )?({LATIN}+)\?", last.casefold())
        )
        quoted |= set(re.findall(rf"\A({HAN}+)的反义词", last))
    return Asking(known - own, quoted - answers, degrees_of(last), excluded)
