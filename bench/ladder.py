"""Which rungs of the ladder a model climbs: problems solved by scoring the answer set, and by generation, in every language.

Prompts are phase 3's: a rung's own exemplars, answers in words. *Most probable*: the right answer in the right language has the
highest probability of all answers of the rung in all languages asked; an answer that begins another counts with the separator
behind it. *Generated*: the greedy continuation, up to the first complete answer as in phase 0 but 12 tokens at most, is right
by phase 0's grading. A rung carries phase 3 with 20 problems solved in every language and 16 distinct answers among them.

Run        python -m bench.ladder --model MODEL [--languages en zh] [--limit 40] [--no-generation]
"""

import argparse
import time
from pathlib import Path

import torch

from lab import checkpoints, engine, models, questions, runs

RUNGS = ("words", "sums", "successor", "reasoning", "antonyms")  # the hardest first
ENOUGH, ANSWERS = 20, 16
MAX_NEW_TOKENS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--languages", nargs="+", default=["en", "zh"])
    parser.add_argument("--limit", type=int, help="problems of each rung")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--no-generation", action="store_true")
    arguments = parser.parse_args()
    device = runs.choose_device("auto")
    folder = checkpoints.find_model(arguments.model)
    model, tokenizer = models.load_model(folder, device, runs.choose_dtype("auto", device))
    print(f"{folder.name}, {torch.get_num_threads()} threads; most probable of the answer set / generated")
    for rung in RUNGS:
        start = time.monotonic()
        print(f"{rung}: {climb(rung, model, tokenizer, arguments)}, {time.monotonic() - start:.0f} s", flush=True)


def climb(rung: str, model, tokenizer, arguments) -> str:
    """How many problems of a rung are solved in each language, and whether the rung carries phase 3."""
    languages, data = questions.load_languages(arguments.languages), runs.ROOT / "data"
    problems = read(data / f"{rung}.jsonl", languages)
    asked = problems[: arguments.limit]
    exemplars = read(data / f"{rung}_exemplars.jsonl", languages)
    solved, shown = [], []
    for language in languages:
        prompts = [questions.prompt_text(problem, language, languages, exemplars) for problem in asked]
        best = most_probable(model, tokenizer, prompts, problems, languages, arguments.batch)
        solved.append([index == (place, language) for place, index in enumerate(best)])
        right = "–"
        if not arguments.no_generation:
            right = generated(model, tokenizer, prompts, asked, language, arguments.batch)
        shown.append(f"{language} {sum(solved[-1])} / {right}")
    everywhere = [problem for problem, own in zip(asked, zip(*solved)) if all(own)]
    answers = len({problem.answer for problem in everywhere})
    carries = "carries phase 3" if len(everywhere) >= ENOUGH and answers >= ANSWERS else "does not carry phase 3"
    return f"of {len(asked)} {', '.join(shown)}; all {len(everywhere)} with {answers} answers: {carries}"


def generated(model, tokenizer, prompts, asked, language: str, batch: int) -> int:
    """How many problems' greedy answers are right."""

    def ended(index: int, text: str) -> bool:
        return questions.answered(asked[index], text, language)

    outputs = models.generate(model, tokenizer, prompts, MAX_NEW_TOKENS, batch, ended=ended)
    return sum(questions.grade(*pair, language)[1] for pair in zip(asked, outputs))


def read(file: Path, languages: dict) -> list[questions.Problem]:
    return questions.load_problems([file], list(languages))


def most_probable(model, tokenizer, prompts, problems, languages, batch) -> list[tuple[int, str]]:
    """For every prompt (its problem's place where the most probable answer is that problem's, else -1; that answer's language)."""
    texts = {}  # whole answer -> (answer, language)
    for problem in problems:
        for language, template in languages.items():
            texts[template["answer"].format(answer=problem.answer_text[language])] = (problem.answer, language)
    separator = next(iter(languages.values()))["separator"]
    tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    end = tokenizer(separator, add_special_tokens=False)["input_ids"][:1]
    tokens = [own + end if begins_another(own, tokens) else own for own in tokens]
    found, known = [], list(texts.values())
    for rows, patcher in engine.patched_prompts(model, tokenizer, prompts, [tokens] * len(prompts), batch):
        scores = patcher.scores(len(patcher.layers), patcher.streams[:, -1:])[:, 0]
        for place, index in enumerate(scores.argmax(-1).tolist(), rows.start):
            answer, language = known[index]
            found.append((place if answer == problems[place].answer else -1, language))
    return found


def begins_another(own: list[int], tokens: list[list[int]]) -> bool:
    return any(other[: len(own)] == own for other in tokens if len(other) > len(own))


if __name__ == "__main__":
    main()
