"""Which rungs of the ladder a model climbs: problems solved by scoring the answer set, and by generation, in every language.

Prompts are phase 3's: a rung's own exemplars, answers in words. *Most probable*: the right answer in the right language has the
highest probability of all answers of the rung in all languages asked. *Generated*: the greedy continuation, up to the first
complete answer as in phase 0 but 12 tokens at most, is right by phase 0's grading. A rung carries phase 3 with 20 problems
solved in every language, 16 distinct answers among them, and half of the probability (*mass*) on the answer set.

Run        python -m bench.ladder --model MODEL [--languages en zh] [--rungs sums] [--limit 60] [--no-generation]
"""

import argparse
import time
from pathlib import Path

import torch

from lab import answers, checkpoints, ladder, models, questions, runs

RUNGS = ("words", "sums", "successor", "reasoning", "antonyms")  # the hardest first
ENOUGH, ANSWERS, MASS = 20, 16, 0.5
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


def climb(name: str, model, tokenizer, arguments) -> str:
    """How many problems of a rung are solved in each language, and whether the rung carries phase 3."""
    languages, data = questions.load_languages(arguments.languages), runs.ROOT / "data"
    problems, exemplars = (read(data / f"{part}.jsonl", languages) for part in (name, f"{name}_exemplars"))
    asked = questions.Asked(languages, [], problems[: arguments.limit], exemplars, {})
    known = answers.answer_set(tokenizer, problems, languages)
    asker, rung = ladder.Asker(model, tokenizer, languages, arguments.batch), ladder.Rung(asked, asked.problems, known)
    ladder.ask(asker, rung, range(len(asked.problems)))
    shown = []
    for language, solved in zip(languages, rung.right.sum(1)):
        prompts = [rung.prompt(asker, language, place) for place in range(len(asked.problems))]
        right = "–"
        if not arguments.no_generation:
            right = generated(model, tokenizer, prompts, asked.problems, language, arguments.batch)
        shown.append(f"{language} {solved} / {right}")
    distinct = len({rung.problems[place].answer for place in rung.usable})
    carries = len(rung.usable) >= ENOUGH and distinct >= ANSWERS and rung.mass >= MASS
    found = f"of {len(asked.problems)} with {len(exemplars)} exemplars {', '.join(shown)}; all {len(rung.usable)} with"
    return f"{found} {distinct} answers, mass {rung.mass:.2f}: {'carries' if carries else 'does not carry'} phase 3"


def generated(model, tokenizer, prompts, asked, language: str, batch: int) -> int:
    """How many problems' greedy answers are right."""

    def ended(index: int, text: str) -> bool:
        return questions.answered(asked[index], text, language)

    outputs = models.generate(model, tokenizer, prompts, MAX_NEW_TOKENS, batch, ended=ended)
    return sum(questions.grade(*pair, language)[1] for pair in zip(asked, outputs))


def read(file: Path, languages: dict) -> list[questions.Problem]:
    return questions.load_problems([file], list(languages))


if __name__ == "__main__":
    main()
