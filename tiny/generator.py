"""Parallel English/Chinese problems for the embedded model: two-step arithmetic and three-person ordering.

Every problem is drawn once and rendered in both languages, so the two texts differ in language and in nothing else.
What is held out is a *combination* (start, step, step) or (ranked names, relation), the same in both languages and in
every wording: no trained text, of any form, contains a held-out combination.

Texts carry a word boundary mark (BOUNDARY) that the tokenizer's trainer splits at and that `plain` removes.
"""

import hashlib
import json
import random
from dataclasses import dataclass

BOUNDARY = "|"
LARGEST_NUMBER = 20  # numbers 0..20, in every intermediate value too, so that every answer is one word
LARGEST_STEP = 12
HELD_OUT_ONE_IN = 10

NUMBER_WORDS = {
    "en": (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty"
    ).split(),
    "zh": "零 一 二 三 四 五 六 七 八 九 十 十一 十二 十三 十四 十五 十六 十七 十八 十九 二十".split(),
}
NAMES = {
    "en": "Ben Tom Amy Lily Jack Anna Sam Kate Leo Mia Max Eva".split(),
    "zh": "小刚 小明 小红 小丽 小强 小芳 小军 小华 小龙 小美 小杰 小雨".split(),
}
OBJECTS = [  # English singular and plural, Chinese noun, Chinese measure word
    ("apple", "apples", "苹果", "个"),
    ("book", "books", "书", "本"),
    ("coin", "coins", "硬币", "枚"),
    ("pen", "pens", "钢笔", "支"),
    ("egg", "eggs", "鸡蛋", "个"),
    ("ball", "balls", "皮球", "个"),
    ("card", "cards", "卡片", "张"),
    ("cake", "cakes", "蛋糕", "块"),
]
GAINS = [
    ("A friend gives {name} {n} more.", "朋友|又|给了|{n}|{measure}|{thing}"),
    ("Then {name} buys {n} more.", "然后|又|买了|{n}|{measure}|{thing}"),
    ("Then {name} finds {n} more.", "然后|又|捡到|{n}|{measure}|{thing}"),
]
LOSSES = [
    ("Then {name} loses {n}.", "然后|丢了|{n}|{measure}|{thing}"),
    ("Then {name} sells {n}.", "然后|卖掉|{n}|{measure}|{thing}"),
    ("Then {name} gives away {n}.", "然后|送出|{n}|{measure}|{thing}"),
]
RELATIONS = [  # (more, most, Chinese), then its opposite
    (("taller", "tallest", "高"), ("shorter", "shortest", "矮")),
    (("older", "oldest", "年长"), ("younger", "youngest", "年轻")),
    (("faster", "fastest", "快"), ("slower", "slowest", "慢")),
    (("heavier", "heaviest", "重"), ("lighter", "lightest", "轻")),
]


@dataclass(frozen=True)
class Problem:
    """One problem in both languages; `answer` is a number, or the English word where the answer is a name."""

    category: str
    answer: int | str
    question: dict
    answer_text: dict
    held_out: bool


def plain(text: str) -> str:
    """The text as the model sees it, without word boundary marks."""
    return text.replace(BOUNDARY, "")


def is_held_out(combination: tuple) -> bool:
    """One combination in ten, by hash: independent of the seed, of the language and of the wording."""
    digest = hashlib.sha256(json.dumps(combination).encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN == 0


def draw_numbers(rng: random.Random, steps: int) -> tuple[int, ...]:
    """(start, signed step, ...) whose running total stays within 0..LARGEST_NUMBER; uniform by rejection."""
    while True:
        start = rng.randint(0, LARGEST_NUMBER)
        changes = [rng.choice((-1, 1)) * rng.randint(1, LARGEST_STEP) for _ in range(steps)]
        totals = [start + sum(changes[: i + 1]) for i in range(steps)]
        if all(0 <= total <= LARGEST_NUMBER for total in totals):
            return (start, *changes)


def arithmetic_category(numbers: tuple[int, ...]) -> str:
    """add, subtract, add-add, add-subtract, ..."""
    return "-".join("add" if change > 0 else "subtract" for change in numbers[1:])


def word_problem(rng: random.Random, steps: int | None = None) -> Problem:
    """A story with one or two changes; numbers in digits, answer in words."""
    numbers = draw_numbers(rng, steps or rng.choice((1, 2, 2)))
    return story(rng, numbers, rng.randrange(len(NAMES["en"])), rng.choice(OBJECTS))


def story(rng: random.Random, numbers: tuple[int, ...], who: int, things: tuple[str, ...]) -> Problem:
    """What is told of somebody's things: (start, signed step, ...), a row of NAMES, one of OBJECTS."""
    start, *changes = numbers
    one, many, thing, measure = things
    name_en, name_zh = NAMES["en"][who], NAMES["zh"][who]
    english = [f"{name_en} has {start} {one if start == 1 else many}."]
    chinese = [f"{name_zh}|有|{start}|{measure}|{thing}"]
    for change in changes:
        phrase_en, phrase_zh = rng.choice(GAINS if change > 0 else LOSSES)
        english.append(phrase_en.format(name=name_en, n=abs(change)))
        chinese.append(phrase_zh.format(n=abs(change), measure=measure, thing=thing))
    english.append(f"How many {many} does {name_en} have?")
    question = {
        "en": " ".join(english),
        "zh": "，|".join(chinese) + f"。|{name_zh}|有|多少|{measure}|{thing}|？",
    }
    return arithmetic_problem(numbers, question, arithmetic_category(numbers))


def formula(rng: random.Random, in_words: bool) -> Problem:
    """`5 + 7 - 3 = ?`, answered in digits, or in words where the question says so."""
    numbers = draw_numbers(rng, rng.choice((1, 2)))
    sides = [str(numbers[0])] + [f"{'+' if change > 0 else '-'} {abs(change)}" for change in numbers[1:]]
    text = " ".join(sides) + " = ?"
    question = {"en": text + " In words.", "zh": text + "|用|文字|。"} if in_words else {"en": text, "zh": text}
    problem = arithmetic_problem(numbers, question, "formula-words" if in_words else "formula-digits")
    if in_words:
        return problem
    digits = str(problem.answer)
    return Problem(problem.category, problem.answer, question, {"en": digits, "zh": digits}, problem.held_out)


def arithmetic_problem(numbers: tuple[int, ...], question: dict, category: str) -> Problem:
    answer = sum(numbers)
    words = {language: NUMBER_WORDS[language][answer] for language in question}
    return Problem(category, answer, question, words, is_held_out(numbers))


def ordering(rng: random.Random, people: int = 3, either_end: bool = False) -> Problem:
    """Comparisons in random order and direction ("taller" or "shorter") over the people; who comes first?

    With `either_end` the question may also ask for the last ("Who is the shortest?").
    """
    ranked = rng.sample(range(len(NAMES["en"])), people)  # ranked[0] has most of the property
    relation = rng.randrange(len(RELATIONS))
    premises = list(zip(ranked, ranked[1:]))
    rng.shuffle(premises)
    english, chinese = [], []
    for more, less in premises:
        flipped = rng.random() < 0.5
        word = RELATIONS[relation][flipped]
        first, second = (less, more) if flipped else (more, less)
        english.append(f"{NAMES['en'][first]} is {word[0]} than {NAMES['en'][second]}.")
        chinese.append(f"{NAMES['zh'][first]}|比|{NAMES['zh'][second]}|{word[2]}")
    asked_least = either_end and rng.random() < 0.5
    word = RELATIONS[relation][asked_least]
    who = ranked[-1] if asked_least else ranked[0]
    question = {
        "en": " ".join(english) + f" Who is the {word[1]}?",
        "zh": "，|".join(chinese) + f"。|谁|最|{word[2]}|？",
    }
    text = {language: NAMES[language][who] for language in question}
    return Problem("ordering", text["en"], question, text, is_held_out((*ranked, relation)))


TASKS = {
    "arithmetic": word_problem,
    "ordering": ordering,
    "formula in digits": lambda rng: formula(rng, in_words=False),
    "formula in words": lambda rng: formula(rng, in_words=True),
}


def draw(rng: random.Random, task: str, held_out: bool, **options) -> Problem:
    """One problem of the task from the trained or from the held-out combinations."""
    while (problem := TASKS[task](rng, **options)).held_out != held_out:
        pass
    return problem


def render(problem: Problem, language: str, languages: dict) -> tuple[str, str]:
    """(prompt, answer) in the templates that every script uses; word boundary marks still in place."""
    template = languages[language]
    prompt = template["prompt"].format(question=problem.question[language])
    return prompt, template["answer"].format(answer=problem.answer_text[language]) + template["separator"]


@dataclass(frozen=True)
class Mixture:
    """What a training batch is made of: each task's share in the order of TASKS, and the kinds of orderings."""

    shares: tuple[int, ...]
    either_end: bool = False  # orderings also ask for the last
    two_people: float = 0.0  # share of orderings over two people, which are easier


def training_problem(rng: random.Random, task: str, mixture: Mixture) -> Problem:
    """One problem of trained combinations."""
    if task != "ordering":
        return draw(rng, task, held_out=False)
    people = 2 if mixture.two_people and rng.random() < mixture.two_people else 3
    return draw(rng, task, held_out=False, people=people, either_end=mixture.either_end)


def training_batch(
    rng: random.Random, sequences: int, pairs: int, languages: dict, mixture: Mixture
) -> list[list[tuple[str, str]]]:
    """`sequences` lists of `pairs` (prompt, answer) texts; one language per sequence, tasks mixed."""
    batch = []
    for index in range(sequences):
        language = list(languages)[index % len(languages)]
        tasks = rng.choices(list(TASKS), mixture.shares, k=pairs)
        texts = [render(training_problem(rng, task, mixture), language, languages) for task in tasks]
        batch.append([(plain(prompt), plain(answer)) for prompt, answer in texts])
    return batch


def as_record(problem: Problem, identifier: str) -> dict:
    """The problem as a line of problems.jsonl."""
    return {
        "id": identifier,
        "category": problem.category,
        "answer": problem.answer,
        "question": {language: plain(text) for language, text in problem.question.items()},
        "answer_text": problem.answer_text,
    }


def problem_set(seed: int, task: str, count: int, held_out: bool = True, prefix: str = "") -> list[dict]:
    """`count` records of one task with distinct questions and answers spread as evenly as they come."""
    rng = random.Random(f"{seed} problem set {task} {held_out}")
    records, used, per_answer = [], set(), {}
    while len(records) < count:
        problem = draw(rng, task, held_out)
        allowed = len(records) // len(NUMBER_WORDS["en"] if task != "ordering" else NAMES["en"]) + 1
        if problem.question["en"] in used or per_answer.get(problem.answer, 0) >= allowed:
            continue
        used.add(problem.question["en"])
        per_answer[problem.answer] = per_answer.get(problem.answer, 0) + 1
        records.append(as_record(problem, f"{prefix or task}-{len(records) + 1:02d}"))
    return records


def contrasts(seed: int, count: int) -> list[dict]:
    """Stories in threes, as records with `base` and `variant`: one, the same text and numbers with a loss for the gain or the
    other way round, and another text with the same answer. Of trained and held-out combinations alike.
    """
    rng, records = random.Random(f"{seed} contrasts"), []
    while len(records) < 3 * count:
        (start, step), (other_start, other_step) = draw_numbers(rng, 1), draw_numbers(rng, 1)
        possible = 0 <= start - step <= LARGEST_NUMBER and other_start + other_step == start + step
        if not possible or {start, abs(step)} & {other_start, abs(other_step)}:
            continue
        (who, other), (things, others) = rng.sample(range(len(NAMES["en"])), 2), rng.sample(OBJECTS, 2)
        number = len(records) // 3 + 1
        told = {
            "base": story(rng, (start, step), who, things),
            "operation": story(rng, (start, -step), who, things),
            "same_answer": story(rng, (other_start, other_step), other, others),
        }
        for variant, problem in told.items():
            named = {"base": f"c-{number:02d}", "variant": variant}
            records.append(as_record(problem, f"c-{number:02d}-{variant}") | named)
    return records
