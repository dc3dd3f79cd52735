"""Phase 0's batched generation against one prompt at a time, on the embedded model, in one run.

Both sides run the same prompts through the same code; only the batch differs. Outputs must be equal.

Run        python -m bench.generation [--batch 16]
"""

import argparse
import time

import torch

from lab import checkpoints, models, questions, runs

MAX_NEW_TOKENS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=16)
    batch = parser.parse_args().batch
    path = runs.ROOT / "tiny"
    model, tokenizer = models.load_model(checkpoints.find_model(str(path)), torch.device("cpu"), torch.float32)
    languages = questions.load_languages(["en", "zh"])
    problems = questions.load_problems([path / "problems.jsonl"], list(languages))
    exemplars = questions.load_problems([path / "exemplars.jsonl"], list(languages))
    prompts = [
        questions.prompt_text(problem, language, languages, exemplars) for problem in problems for language in languages
    ]
    seconds, outputs = {}, {}
    for size in (1, batch, 1, batch):  # the second round counts: the first warms up
        start = time.monotonic()
        outputs[size] = models.generate(model, tokenizer, prompts, MAX_NEW_TOKENS, size)
        seconds[size] = time.monotonic() - start
    assert outputs[1] == outputs[batch]
    print(f"{len(prompts)} prompts, {torch.get_num_threads()} threads")
    print(
        f"one at a time {seconds[1]:.2f} s, batches of {batch} {seconds[batch]:.2f} s: {seconds[1] / seconds[batch]:.1f} times"
    )


if __name__ == "__main__":
    main()
