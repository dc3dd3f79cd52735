"""The answer set: tokens behind a prompt, answers that begin another one, and those that cannot be told apart."""

from types import SimpleNamespace

import pytest

from lab import answers

LANGUAGES = {
    "en": {"prompt": "Q: {question} A:", "answer": " {answer}", "separator": "\n"},
    "es": {"prompt": "P: {question} R:", "answer": " {answer}", "separator": "\n"},
}


class Letters:
    """A tokenizer of single characters, but for the pairs that it merges."""

    def __init__(self, *merged: str):
        self.merged = merged

    def __call__(self, text: str, **_) -> dict:
        ids = []
        while text:
            size = next((len(pair) for pair in self.merged if text.startswith(pair)), 1)
            ids, text = [*ids, text[:size]], text[size:]
        return {"input_ids": ids}


def problem(answer, en: str, es: str) -> SimpleNamespace:
    texts = {"en": en, "es": es}
    return SimpleNamespace(answer=answer, answer_text=texts, question={"en": "x", "es": "y"}, solution={})


def test_columns_are_answers_by_language_and_problems_with_one_answer_share_them():
    known = answers.answer_set(
        Letters(), [problem(2, "two", "dos"), problem(9, "nine", "nueve"), problem(2, "two", "dos")], LANGUAGES
    )
    assert known.answers == [2, 9] and known.left_out == []
    assert ["".join(tokens) for tokens in known.tokens] == [" two", " dos", " nine", " nueve"]
    assert [known.place(problem(answer, "", "")) for answer in (9, 2, 5)] == [1, 0, -1]


def test_an_answer_that_begins_another_is_ended_by_what_parts_exemplars():
    problems = [problem(6, "six", "seis"), problem(60, "sixty", "sesenta"), problem(16, "sixteen", "dieciséis")]
    known = answers.answer_set(Letters(), problems, LANGUAGES)
    assert ["".join(tokens) for tokens in known.tokens[::2]] == [" six\n", " sixty", " sixteen"]
    assert "".join(known.tokens[1]) == " seis"


@pytest.mark.parametrize(
    "second", [problem(11, "eleven", "two"), problem(22, "two", "doce")], ids=["across languages", "in one language"]
)
def test_answers_that_are_written_alike_are_left_out_in_all_languages(second):
    known = answers.answer_set(Letters(), [problem(2, "two", "dos"), second, problem(5, "five", "cinco")], LANGUAGES)
    assert known.answers == [5] and known.left_out == [2, second.answer]
    assert known.place(problem(2, "two", "dos")) == -1


def test_tokens_are_those_behind_the_prompt_unless_the_prompts_end_merges_with_them():
    """Behind `A:` the space belongs to the word; where a token spans both, the answer's own tokens are taken."""
    assert answers.following(Letters(" t"), "A:", " two") == (" t", "w", "o")
    assert answers.following(Letters(": "), "A:", " two") == (" ", "t", "w", "o")


def test_answers_that_their_first_token_tells_apart():
    """Of answers that share one in some language the first counts; none whose own languages share it."""
    tokens = [(1,), (2,), (1, 5), (3,), (4, 5), (2,), (4, 7), (8,), (9,), (9, 1)]
    known = answers.AnswerSet(list("abcde"), ["en", "es"], tokens, [])
    assert known.at_once(range(5)) == [0, 3]
    assert known.at_once([4, 3, 2, 4, 1]) == [3, 1]
