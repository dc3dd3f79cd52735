"""Which rungs of the ladder a model climbs: problems solved by scoring the answer set, and by generation, in every language.

Prompts are phase 3's: a rung's own exemplars, answers in words. *Most probable*: the right answer in the right language has the
highest probability of all answers of the rung in all languages asked. *Generated*: the greedy continuation, up to the first
complete answer as in phase 0 but 12 tokens at most, is right by phase 0's grading. A rung carries phase 3 with 20 problems
solved in every language and 16 distinct answers among them.
Run        python -m bench.ladder --model MODEL [--languages en zh] [--rungs sums] [--limit 60] [--no-generation]
"""

import argparse
import time
from pathlib import Path

import torch

from lab import answers, checkpoints, engine, models, questions, runs

RUNGS = ("words", "sums", "successor", "reasoning", "antonyms")  # the hardest first
ENOUGH, ANSWERS = 20, 16
MAX_NEW_TOKENS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--languages", nargs="+", default=["en", "zh"])
    parser.add_argument("--rungs", nargs="+", default=RUNGS, choices=RUNGS)
    parser.add_argument("--limit", type=int, help="problems of each rung")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--no-generation", action="store_true")
    arguments = parser.parse_args()
    device = runs.choose_device("auto")
    folder = checkpoints.find_model(arguments.model)
    model, tokenizer = models.load_model(folder, device, runs.choose_dtype("auto", device))
    print(f"{folder.name}, {torch.get_num_threads()} threads; most probable of the answer set / generated")
    for rung in arguments.rungs:
        start = time.monotonic()
        print(f"{rung}: {climb(rung, model, tokenizer, arguments)}, {time.monotonic() - start:.0f} s", flush=True)


def climb(rung: str, model, tokenizer, arguments) -> str:
    """How many problems of a rung are solved in each language, and whether the rung carries phase 3."""
    languages, data = questions.load_languages(arguments.languages), runs.ROOT / "data"
    problems = read(data / f"{rung}.jsonl", languages)
    asked = problems[: arguments.limit]
    exemplars = read(data / f"{rung}_exemplars.jsonl", languages)
    known = answers.answer_set(tokenizer, problems, languages)
    solved, shown = [], []
    for number, language in enumerate(languages):
        prompts = [questions.prompt_text(problem, language, languages, exemplars) for problem in asked]
        best = most_probable(model, tokenizer, prompts, known, arguments.batch)
        right = [known.place(problem) * len(languages) + number for problem in asked]
        solved.append([found == wanted for found, wanted in zip(best, right)])
        right = "–"
        if not arguments.no_generation:
            right = generated(model, tokenizer, prompts, asked, language, arguments.batch)
        shown.append(f"{language} {sum(solved[-1])} / {right}")
    everywhere = [problem for problem, own in zip(asked, zip(*solved)) if all(own)]
    distinct = len({problem.answer for problem in everywhere})
    carries = "carries phase 3" if len(everywhere) >= ENOUGH and distinct >= ANSWERS else "does not carry phase 3"
    found = f"of {len(asked)} with {len(exemplars)} exemplars {', '.join(shown)}"
    return f"{found}; all {len(everywhere)} with {distinct} answers: {carries}"


def generated(model, tokenizer, prompts, asked, language: str, batch: int) -> int:
    """How many problems' greedy answers are right."""

    def ended(index: int, text: str) -> bool:
        return questions.answered(asked[index], text, language)

    outputs = models.generate(model, tokenizer, prompts, MAX_NEW_TOKENS, batch, ended=ended)
    return sum(questions.grade(*pair, language)[1] for pair in zip(asked, outputs))


def read(file: Path, languages: dict) -> list[questions.Problem]:
    return questions.load_problems([file], list(languages))


def most_probable(model, tokenizer, prompts, known, batch) -> list[int]:
    """For every prompt the column of the most probable answer of the set."""
    best = {}
    for chosen, patcher in engine.patched_prompts(model, tokenizer, prompts, known.tokens, batch):
        scores = patcher.scores(len(patcher.layers), patcher.streams[:, -1:])[:, 0]
        best |= dict(zip(chosen, scores.argmax(-1).tolist()))
    return [best[index] for index in range(len(prompts))]


if __name__ == "__main__":
    main()
