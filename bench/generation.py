"""Phase 0's generation against transformers' own, one prompt at a time and in batches, in one run on the same prompts.

All sides decode greedily up to the same complete answer, at most as many tokens as phase 0 does. Transformers' sides take the
prompts in their order and pad them; ours (`models.generate`) takes together what begins alike and is of similar length, and
runs the few-shot exemplars that prompts share once. Outputs are compared: in 16 bits another batch may round another way.

Run        python -m bench.generation [--model tiny | FOLDER | FILE.gguf] [--batch 16] [--limit 15] [--dtype float32] [--threads 1]
"""

import argparse
import time
from collections.abc import Callable

import torch
from transformers import StoppingCriteriaList

from lab import checkpoints, models, questions, runs
from phase0_behavioral import MAX_NEW_TOKENS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--limit", type=int, help="problems, each asked in English and Chinese")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1, help="the best of these counts")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder, languages = checkpoints.find_model(arguments.model), questions.load_languages(["en", "zh"])
    device = runs.choose_device("auto")
    model, tokenizer = models.load_model(folder, device, getattr(torch, arguments.dtype))
    files = questions.problem_files(None, folder, "problems.jsonl", runs.ROOT / "data" / "phase0.jsonl")
    problems = questions.load_problems(files, list(languages))
    exemplars, _ = questions.load_exemplars(None, folder, languages, files, problems)
    asked = [(problem, language) for language in languages for problem in problems[: arguments.limit]]
    prompts = [questions.prompt_text(problem, language, languages, exemplars) for problem, language in asked]

    def ended(index: int, text: str) -> bool:
        return questions.answered(asked[index][0], text, asked[index][1])

    ways = {
        "one prompt at a time": lambda: plain(model, tokenizer, prompts, 1, ended),
        f"transformers, batches of {arguments.batch}": lambda: plain(model, tokenizer, prompts, arguments.batch, ended),
        f"ours, batches of {arguments.batch}": lambda: models.generate(
            model, tokenizer, prompts, MAX_NEW_TOKENS, arguments.batch, ended=ended
        ),
    }
    print(f"{folder.name}, {model.dtype}, {len(prompts)} prompts, {torch.get_num_threads()} thread(s) of {device}")
    seconds, outputs = {}, {}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            taken, outputs[name] = timed(way)
            seconds[name] = min(seconds.get(name, taken), taken)
    *_, ours = ways
    for name, output in outputs.items():
        alike = sum(one == other for one, other in zip(output, outputs[ours]))
        right = sum(questions.grade(problem, text, language)[1] for (problem, language), text in zip(asked, output))
        ratio = seconds[name] / seconds[ours]
        print(f"{name}: {seconds[name]:.2f} s, {ratio:.1f} times ours; {right} right, {alike} outputs as ours")


def plain(model, tokenizer, prompts: list[str], batch: int, ended: Callable[[int, str], bool]) -> list[str]:
    """Transformers' own generate on batches of the prompts as they come, each row up to where `ended` says so."""
    texts = []
    for start in range(0, len(prompts), batch):
        chosen = range(start, min(start + batch, len(prompts)))
        inputs = tokenizer([prompts[index] for index in chosen], return_tensors="pt", padding=True).to(model.device)
        length = inputs["input_ids"].shape[1]
        stop = StoppingCriteriaList([models.text_ended(tokenizer, length, chosen, ended)])
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, stopping_criteria=stop)
        texts += tokenizer.batch_decode(tokens[:, length:], skip_special_tokens=True)
    return texts


def timed(work: Callable) -> tuple:
    """(seconds, result)"""
    start = time.monotonic()
    result = work()
    return time.monotonic() - start, result


if __name__ == "__main__":
    main()
