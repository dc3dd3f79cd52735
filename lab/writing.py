"""Text as models write it, in plain characters: Unicode's numerals, LaTeX, currencies and Markdown taken down."""

import re
import unicodedata

BOX, BOX_END = "\ue003", "\ue004"  # a boxed answer, kept apart from the text around it
OURS = re.compile("[\ue000-\ue005\u200b-\u200f\u2060\ufeff]")  # private marks and characters without width

SUPERSCRIPT = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-"))
SUBSCRIPT = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789"))
SYMBOLS = str.maketrans(
    dict.fromkeys("−–‒‐‑", "-")
    | dict.fromkeys("⁄∕", "/")
    | dict.fromkeys("⋅✕✖", "×")
    | dict.fromkeys("“”„«»", '"')
    | {"∶": ":", "≒": "≈", "≃": "≈"}
    | dict(zip("萬億兩負點個幾", "万亿两负点个几"))
)
FORMAL = dict(zip("壹贰貳弐叁參肆伍陆陸柒捌玖拾佰仟", "一二二二三三四五六六七八九十百千"))
FORMAL_NUMERAL = re.compile(  # alone between other characters, one may be part of a word
    rf"[{''.join(FORMAL)}零〇万亿]{{2,}}|(?:(?<=[是为])|(?<![一-鿿]))[{''.join(FORMAL)}](?![一-鿿])"
)

TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|sf)?|math(?:rm|bf|it|sf)|mbox|operatorname|underline|boldsymbol|ensuremath)\s*\{([^{}]*)\}"
)
FRACTION = re.compile(r"(\d?)\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))(?=(\d?))")
NUMERAL = re.compile(r"\s*([-+]?)\s*(\d[\d.,]*|\.\d+)\s*")
COMMANDS = {
    "times cdot ast": "×",
    "div": "÷",
    "pm": "±",
    "approx simeq": "≈",
    "Rightarrow rightarrow implies to therefore": " → ",
    "ldots dots cdots": "...",
    "sqrt": "√",
    "circ": "°",
    "left right big Big displaystyle": "",
}
REPLACED = {name: sign for names, sign in COMMANDS.items() for name in names.split()}
CURRENCY = r"(?:\b[A-Z]{1,3})?[$€£¥₹₩₽₺₫฿¢￥￡]"
SIGNED_CURRENCY = re.compile(rf"(?<![\w)])([-+])\s*{CURRENCY}\s*(?=[\d.])|{CURRENCY}\s*([-+])\s*(?=[\d.])")
CURRENCY_CODE = re.compile(r"\b(?:USD|EUR|GBP|RMB|CNY|INR|JPY|Rs\.?)\s?(?=[-\d])")
BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")


def in_plain_characters(text: str, emphasis: bool = False) -> str:
    """The text in plain characters, no two numbers fused: 10² is 10^2, 1½ is 1 1/2, $\\frac12$ is 1/2, 1，000 is 1,000.

    A \\boxed{} stands between BOX and BOX_END; one that is not closed was cut off and is left out. Markdown's marks are
    left out too, unless `emphasis` is wanted.
    """
    text = OURS.sub("", text)
    if "\\" in text or "{" in text:
        text = without_latex(text)
    text = re.sub(r"[①-⓿❶-➓]", " ", text)  # numbers of steps
    text = re.sub(r"([⁰¹²³⁴-⁹]+)[⁄/]([₀-₉]+)", lambda match: f" {spelt(match[1])}/{spelt(match[2])}", text)
    text = re.sub(r"[⁰¹²³⁴-⁹⁺⁻]+", lambda match: "^" + spelt(match[0]), text)
    text = re.sub(r"[₀-₉]+", lambda match: "_" + spelt(match[0]), text)
    text = re.sub(r"(?<=\d)\s?(?=[¼-¾⅐-⅞↉])", " ", text)
    # a full-width comma is a thousands separator before three digits, unless a new formula begins there
    text = re.sub(r"(?<=\d)[，﹐](?=\d{3}(?!\d)(?!\s*[-−+*/×÷=]))", ",", text)
    text = re.sub(r"[，﹐]", ", ", text)
    text = unicodedata.normalize("NFKC", text).translate(SYMBOLS)
    text = re.sub(r"(?![0-9])\d", lambda match: str(unicodedata.decimal(match[0])), text)  # any script's digits
    text = re.sub(r"(?<=\d)_(?=\d{3}(?!\d))", "", text)  # 1_000
    text = FORMAL_NUMERAL.sub(lambda match: "".join(FORMAL.get(character, character) for character in match[0]), text)
    text = without_currency(text)
    return text if emphasis else without_markdown(text)


def has_colon(text: str) -> bool:
    """Whether the text has a colon in plain characters, told without the rest of `in_plain_characters`."""
    return ":" in unicodedata.normalize("NFKC", text).translate(SYMBOLS)


def spelt(characters: str) -> str:
    """Superscript or subscript digits in their plain form."""
    return "".join((SUPERSCRIPT | SUBSCRIPT).get(character, character) for character in characters)


def without_latex(text: str) -> str:
    """LaTeX in plain characters, boxes marked."""
    text = text.replace("{,}", ",").replace("{.}", ".")
    text = re.sub(r"\\\\(?:\[[\d.]+\w*\])?", "\n", text)
    text = re.sub(r"\\([$%#&_])", r"\1", text)
    text = text.replace(r"\!", "")
    text = re.sub(r"\\[,;: ()\[\]]|\\(?:begin|end)\{\w+\*?\}(?:\{[lcr|]*\})?|\\q?quad\b", " ", text)
    text = re.sub(r"\\(?:overline|bar|dot)\s*\{?\s*(\d+)", r"\1,0,0", text)  # a repeating decimal is not read
    for _ in range(6):  # from the innermost braces outwards
        before = text
        text = FRACTION.sub(fraction, TEXT_COMMAND.sub(r" \1 ", text))
        text = re.sub(r"\^\s*\{\s*([^{}]*?)\s*\}", r"^\1", text)
        if text == before:
            break
    text = boxes_marked(text)
    text = re.sub(r"\\([A-Za-z]+)", lambda match: REPLACED.get(match[1], " "), text).replace("^°", "°")
    return re.sub(r"[\\{}]|(?<=\s)&(?=\s)|&(?==)", " ", text)


def fraction(match: re.Match) -> str:
    """A LaTeX fraction as a/b after a space if a number stands before it. Other than numbers: 0/0, which has no value."""
    above, below = (NUMERAL.fullmatch(match[index] or match[index + 1] or "") for index in (2, 4))
    sign, ratio = "", "0/0"
    if above and below:
        sign, ratio = "-" * ((above[1] == "-") != (below[1] == "-")), f"{above[2]}/{below[2]}"
    return match[1] + " " * bool(match[1]) + sign + ratio + " " * bool(match[6])


def boxes_marked(text: str) -> str:
    """Every closed \\boxed{} between BOX and BOX_END, the outermost where they are nested."""
    parts, end = [], 0
    while match := BOXED.search(text, end):
        parts.append(text[end : match.start()])
        depth, position = 1, match.end()
        while depth and position < len(text):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            position += 1
        if depth:
            return "".join(parts)
        parts += [BOX, BOXED.sub("{", text[match.end() : position - 1]), BOX_END]
        end = position
    return "".join(parts) + text[end:]


def without_currency(text: str) -> str:
    """Currency signs and codes taken off their numbers, the minus kept at the number."""
    text = SIGNED_CURRENCY.sub(lambda match: " " + (match[1] or match[2]), text)
    return CURRENCY_CODE.sub(" ", re.sub(CURRENCY, " ", text))


def without_markdown(text: str) -> str:
    """Emphasis and code marks taken off; ** between digits is a power."""
    text = re.sub(r"(?<=\d)\s?\*\*\s?(?=-?\d)", "^", text)
    text = re.sub(r"\*\*|__|`|~~", "", text)
    return re.sub(r"(?<![\w*])\*(?=[^\s*])([^*\n]*[^\s*])\*(?![\w*])", r"\1", text)
