"""The embedded model: its problems, its held-out split, its training and its accuracy."""

import itertools
import json
import random
import re
from argparse import Namespace

import pytest
import torch
from conftest import ROOT
from transformers import AutoTokenizer

from lab import checkpoints, models, numerals, questions
from tiny import generator, train

LANGUAGES = questions.load_languages(["en", "zh"])
MIXTURE = generator.Mixture((40, 40, 10, 10), either_end=True, two_people=0.3)
GAINS = {"en": r"(?:gives \w+|buys|finds) (\d+) more", "zh": r"(?:给了|买了|捡到)(\d+)"}
LOSSES = {"en": r"(?:loses|sells|gives away) (\d+)", "zh": r"(?:丢了|卖掉|送出)(\d+)"}
START = {"en": r"has (\d+)", "zh": r"有(\d+)"}
COMPARISON = {
    "en": r"(?P<a>\w+) is (?P<word>\w+) than (?P<b>\w+)\.",
    "zh": r"(?P<a>小.)比(?P<b>小.)(?P<word>\w+?)(?=[，。])",
}
ASKED = {"en": r"Who is the (\w+)\?", "zh": r"谁最(\w+)？"}


def read_story(text: str, language: str) -> tuple[int, ...]:
    """(start, signed step, ...) of a word problem, from its text alone."""
    signs = {1: GAINS[language], -1: LOSSES[language]}
    found = [(m.start(), sign * int(m[1])) for sign, pattern in signs.items() for m in re.finditer(pattern, text)]
    return (int(re.search(START[language], text)[1]), *(change for _, change in sorted(found)))


def read_formula(text: str) -> tuple[int, ...]:
    """(start, signed step, ...) of `5 + 7 - 3 = ?`."""
    return tuple(int(number.replace(" ", "")) for number in re.findall(r"(?:[+-] )?\d+", text.split("=")[0]))


def read_ordering(text: str, language: str) -> tuple[str, tuple]:
    """(answer, combination) of an ordering question, by trying every order of its people."""
    comparative, superlative = {"en": (0, 1), "zh": (2, 2)}[language]
    words = {
        side[comparative]: (relation, flipped)
        for relation, pair in enumerate(generator.RELATIONS)
        for flipped, side in enumerate(pair)
    }
    facts, relations = [], set()
    for match in re.finditer(COMPARISON[language], text):
        relation, flipped = words[match["word"]]
        relations.add(relation)
        facts.append((match["b"], match["a"]) if flipped else (match["a"], match["b"]))
    people = sorted({person for fact in facts for person in fact})
    orders = [
        order for order in itertools.permutations(people) if all(order.index(a) < order.index(b) for a, b in facts)
    ]
    assert len(orders) == len(relations) == 1, text
    (order,), (relation,) = orders, relations
    asked = re.search(ASKED[language], text)[1]
    (flipped,) = (flipped for flipped, side in enumerate(generator.RELATIONS[relation]) if side[superlative] == asked)
    names = generator.NAMES[language]
    return order[-1 if flipped else 0], (*(names.index(person) for person in order), relation)


def combination_of(text: str, language: str) -> tuple:
    """What is held out about a question of any task, read from its text."""
    if re.search(COMPARISON[language], text):
        return read_ordering(text, language)[1]
    return read_formula(text) if "=" in text else read_story(text, language)


@pytest.mark.parametrize("task", generator.TASKS)
def test_questions_agree_across_languages_and_imply_their_answer(task):
    rng = random.Random(0)
    held_out = 0
    for _ in range(400):
        problem = generator.TASKS[task](rng)
        texts = {language: generator.plain(text) for language, text in problem.question.items()}
        combinations = {combination_of(text, language) for language, text in texts.items()}
        assert len(combinations) == 1, texts
        assert problem.held_out == generator.is_held_out(combinations.pop())
        held_out += problem.held_out
        for language, text in texts.items():
            if task == "ordering":
                assert read_ordering(text, language)[0] == problem.answer_text[language]
            else:
                assert sum(combination_of(text, language)) == problem.answer
                assert numerals.parse_number(problem.answer_text[language]) == problem.answer
    assert 10 <= held_out <= 80  # one combination in ten


def test_totals_stay_in_range():
    rng = random.Random(1)
    for _ in range(500):
        numbers = generator.draw_numbers(rng, rng.choice((1, 2)))
        assert all(0 <= total <= generator.LARGEST_NUMBER for total in itertools.accumulate(numbers))
        assert all(1 <= abs(change) <= generator.LARGEST_STEP for change in numbers[1:])


def test_training_never_sees_a_held_out_combination():
    seen = set()
    for pairs in (1, 2, 3):
        for index, sequence in enumerate(
            generator.training_batch(random.Random(pairs), 300, pairs, LANGUAGES, MIXTURE)
        ):
            language = ("en", "zh")[index % 2]
            assert len(sequence) == pairs
            for prompt, _ in sequence:
                combination = combination_of(prompt, language)
                assert not generator.is_held_out(combination), prompt
                seen.add(combination)
    assert len(seen) > 500


def records(name: str) -> list[dict]:
    return [json.loads(line) for line in (ROOT / "tiny" / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("name", "least", "held_out"),
    [("problems.jsonl", 40, True), ("reasoning.jsonl", 20, True), ("exemplars.jsonl", 2, False)],
)
def test_shipped_files_hold_the_right_combinations(name, least, held_out):
    lines = records(name)
    assert len(lines) >= least
    assert len({line["question"]["en"] for line in lines}) == len(lines)
    for line in lines:
        for language, text in line["question"].items():
            assert generator.is_held_out(combination_of(text, language)) == held_out
            if isinstance(line["answer"], int):
                assert sum(combination_of(text, language)) == line["answer"]
            else:
                assert read_ordering(text, language)[0] == line["answer_text"][language]


def test_shipped_files_and_tokenizer_are_what_train_writes(tmp_path):
    train.write_problem_files(tmp_path, seed=0)
    for name in ("problems.jsonl", "reasoning.jsonl", "exemplars.jsonl", "contrast.jsonl"):
        assert (tmp_path / name).read_bytes() == (ROOT / "tiny" / name).read_bytes()
    trained = train.train_tokenizer(LANGUAGES, seed=0)
    assert trained.get_vocab() == AutoTokenizer.from_pretrained(ROOT / "tiny").get_vocab()


def test_every_answer_is_one_token_and_prompts_tokenise_as_in_training():
    tokenizer = models.load_tokenizer(checkpoints.find_model(str(ROOT / "tiny")))
    for language, template in LANGUAGES.items():
        for word in generator.NUMBER_WORDS[language] + generator.NAMES[language]:
            assert len(tokenizer(template["answer"].format(answer=word))["input_ids"]) == 1
    for sequence in generator.training_batch(random.Random(0), 200, 3, LANGUAGES, MIXTURE):
        parts = [tokenizer(text)["input_ids"] for pair in sequence for text in pair]
        assert sum(parts, []) == tokenizer("".join(text for pair in sequence for text in pair))["input_ids"]
    digits = [tokenizer.decode([token]) for token in tokenizer("15 + 207")["input_ids"]]
    assert [token for token in digits if token.strip().isdigit()] == list("15207")


@pytest.mark.slow
def test_interrupted_training_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(train, "PROBLEMS_PER_STEP", 12)
    monkeypatch.setattr(train, "STAGES", ((3, 2e-3, MIXTURE), (3, 1e-3, MIXTURE)))
    tokenizer = train.train_tokenizer(LANGUAGES, seed=0)

    def trained(folder, interrupted: bool):
        folder.mkdir()
        arguments = Namespace(out=folder, seed=0, device="cpu")
        model = train.new_model(tokenizer, 0)
        if interrupted:
            calls = itertools.count()
            real = generator.training_batch

            def stop(*given):
                if next(calls) == 5:
                    raise KeyboardInterrupt
                return real(*given)

            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(generator, "training_batch", stop)
                train.train(model, tokenizer, LANGUAGES, arguments)
            model = train.new_model(tokenizer, 0)
        train.train(model, tokenizer, LANGUAGES, arguments)
        return model.state_dict()

    straight, resumed = trained(tmp_path / "straight", False), trained(tmp_path / "resumed", True)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    fresh = train.new_model(tokenizer, 0).state_dict()
    assert not torch.equal(straight["model.norm.weight"], fresh["model.norm.weight"])


@pytest.mark.slow
def test_contrasts_share_the_numbers_or_the_answer():
    lines = [json.loads(line) for line in (ROOT / "tiny" / "contrast.jsonl").read_text(encoding="utf-8").splitlines()]
    threes = [lines[place : place + 3] for place in range(0, len(lines), 3)]
    assert len(threes) == 24
    for base, operation, same in threes:
        assert [line["variant"] for line in (base, operation, same)] == ["base", "operation", "same_answer"]
        assert base["base"] == operation["base"] == same["base"]
        assert base["answer"] == same["answer"] != operation["answer"]
        for language in LANGUAGES:
            start, step = read_story(base["question"][language], language)
            assert read_story(operation["question"][language], language) == (start, -step)
            other = read_story(same["question"][language], language)
            assert sum(other) == start + step and not {start, abs(step)} & set(map(abs, other))


@pytest.mark.parametrize("task", ["arithmetic", "ordering"])
def test_the_committed_model_solves_held_out_problems(task):
    """At least 95 % in each language, on combinations that training never saw, through the scripts' own path."""
    folder = checkpoints.find_model(str(ROOT / "tiny"))
    model, tokenizer = models.load_model(folder, torch.device("cpu"), torch.float32)
    exemplars = questions.load_problems([ROOT / "tiny" / "exemplars.jsonl"], list(LANGUAGES))
    problems = generator.problem_set(seed=12345, task=task, count=200)
    for language in LANGUAGES:
        asked = [questions.Problem(row["id"], "", "", row["question"]) for row in problems]
        prompts = [questions.prompt_text(problem, language, LANGUAGES, exemplars) for problem in asked]
        outputs = models.generate(model, tokenizer, prompts, 6, batch=100)
        right = sum(output.strip() == row["answer_text"][language] for output, row in zip(outputs, problems))
        assert right >= 190, f"{task}, {language}: {right} of 200"


def test_weights_are_small_enough_to_ship():
    assert (ROOT / "tiny" / "model.safetensors").stat().st_size < 16e6
