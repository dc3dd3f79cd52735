"""Train the embedded bilingual model, and measure it.

Question   can a small real Qwen2 model do arithmetic and ordering in two languages on combinations it never saw?
Inputs     data/languages.json (templates), tiny/generator.py (problems)
Outputs    tiny/: weights, configuration and tokenizer, problems, reasoning, contrast and exemplars.jsonl, and README.md, the
            model card, whose accuracies are those measured by the last step
Run        python -m tiny.train                   under an hour on 2 CPU cores; resumes where it was interrupted
           python -m tiny.train --evaluate-only   measures the committed weights again and rewrites the model card

Steps: 1 tokenizer, 2 model, 3 train, 4 save, 5 problem files, 6 evaluate and write the card.
"""

import argparse
import itertools
import json
import os
import random
import re
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers.pre_tokenizers import ByteLevel
from tqdm import tqdm
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from lab import checkpoints, models, questions, statistics
from reports import page
from tiny import generator

HERE = Path(__file__).parent
VOCABULARY = 1024  # an upper bound: every word of the lexicon becomes one token, and few merges remain
WORD_BOUNDARY = rf"{re.escape(generator.BOUNDARY)}|(?<=[：，。])"
STAGES = (  # steps, learning rate at their start, mixture; each stage starts its own optimizer
    (6000, 2e-3, generator.Mixture((55, 29, 8, 8), either_end=True)),
    (1500, 1e-3, generator.Mixture((35, 49, 8, 8), two_people=0.3)),
    (1200, 1e-3, generator.Mixture((20, 70, 5, 5), two_people=0.5)),
    (400, 6e-4, generator.Mixture((35, 55, 5, 5), two_people=0.2)),
)
# Stage 1 learns arithmetic, but of ordering only which two names can be meant: the direction of the question against the
# directions of the comparisons is a parity, on which it stays at 50 %. Stage 2 asks for one end only, and learns that
# in English; stage 3, with more of the easy ones, in Chinese too; stage 4 settles both tasks.
PROBLEMS_PER_STEP = 144  # as 144 sequences of one pair, 72 of two or 48 of three
WARM_UP = 100
FINAL_RATE_SHARE = 0.02
TEXT_WEIGHT, ANSWER_WEIGHT = 0.5, 1.0  # without the extra weight on answers it learns far more slowly
CHECKPOINT_EVERY = 200
EVALUATED = 500  # problems per task, language and split on the model card
EVALUATION_BATCH = 250
MAX_ANSWER_TOKENS = 6
ARITHMETIC_PROBLEMS, ORDERING_PROBLEMS, CONTRASTS = 60, 40, 24


def main() -> None:
    arguments = parse_arguments()
    languages = questions.load_languages(generator.NAMES)
    if not arguments.evaluate_only:
        tokenizer = train_tokenizer(languages, arguments.seed)
        model = new_model(tokenizer, arguments.seed).to(arguments.device)
        train(model, tokenizer, languages, arguments)
        model.cpu().save_pretrained(arguments.out)
        tokenizer.save_pretrained(arguments.out)
        write_problem_files(arguments.out, arguments.seed)
    write_card(arguments.out, evaluate(arguments.out, languages, arguments))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the embedded bilingual model.")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--evaluate-only", action="store_true", help="measure existing weights, train nothing")
    return parser.parse_args()


def train_tokenizer(languages: dict, seed: int) -> Qwen2Tokenizer:
    """Qwen2's own tokenizer class on word-segmented text: digits stay single, each word and answer is one token."""
    rng = random.Random(f"{seed} tokenizer")
    pieces = []
    for index in range(6000):
        task = rng.choice(list(generator.TASKS))
        options = {"either_end": True} if task == "ordering" else {}
        problem = generator.draw(rng, task, held_out=False, **options)
        for text in generator.render(problem, list(languages)[index % 2], languages):
            pieces.extend(re.split(WORD_BOUNDARY, text))
    return Qwen2Tokenizer(model_max_length=1024).train_new_from_iterator(
        [pieces], VOCABULARY, min_frequency=2, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )


def new_model(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    end = tokenizer.eos_token_id
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=128**-0.5,  # at the usual 0.02 so narrow a model attends evenly and never learns to copy
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    return Qwen2ForCausalLM(config)


def encode_batch(tokenizer, batch, end: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(sequences, length) token ids, padded right, and 1 on answer tokens, 0 on text, -1 on padding."""
    texts = [text for pairs in batch for pair in pairs for text in pair]
    ids = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    rows, kinds = [], []
    for pairs in batch:
        row, kind = [], []
        for _ in pairs:
            prompt, answer = next(ids), next(ids)
            row += prompt + answer
            kind += [0] * len(prompt) + [1] * len(answer)
        rows.append(torch.tensor([*row, end]))
        kinds.append(torch.tensor([*kind, 0]))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True, padding_value=end), pad(kinds, batch_first=True, padding_value=-1)


def stage_of(step: int) -> tuple[int, int, float, generator.Mixture]:
    """(step within its stage, steps of the stage, learning rate at its start, mixture)."""
    for steps, rate, mixture in STAGES:
        if step < steps:
            return step, steps, rate, mixture
        step -= steps
    raise IndexError(step)


def new_optimizer(model) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)


def train(model, tokenizer, languages: dict, arguments: argparse.Namespace) -> None:
    """AdamW with linear decay in each stage; a step's data depend on (seed, step) only, so a resumed run is the same run."""
    total, checkpoint, first = sum(steps for steps, *_ in STAGES), arguments.out / "checkpoint.pt", 0
    optimizer = new_optimizer(model)
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=arguments.device, weights_only=True)
        if saved["seed"] == arguments.seed:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            first = saved["step"]
    end = tokenizer.eos_token_id
    bar = tqdm(range(first, total), initial=first, total=total, mininterval=5)
    for step in bar:
        within, steps, rate, mixture = stage_of(step)
        if within == 0:
            optimizer = new_optimizer(model)
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - (1 - FINAL_RATE_SHARE) * within / steps) * min(1, (within + 1) / WARM_UP)
        rng = random.Random(f"{arguments.seed} step {step}")
        pairs = rng.choice((1, 2, 3))
        batch = generator.training_batch(rng, PROBLEMS_PER_STEP // pairs, pairs, languages, mixture)
        ids, kinds = (tensor.to(arguments.device) for tensor in encode_batch(tokenizer, batch, end))
        logits = model(input_ids=ids[:, :-1]).logits.float()  # right padding needs no mask: attention is causal
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        kind = kinds[:, 1:].flatten()
        loss = TEXT_WEIGHT * losses[kind >= 0].mean() + ANSWER_WEIGHT * losses[kind == 1].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            right = (logits.argmax(-1).flatten() == ids[:, 1:].flatten())[kind == 1].float().mean()
            bar.set_postfix(loss=f"{loss:.3f}", answer_tokens_right=f"{right:.3f}")
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == total:
            saved = {"seed": arguments.seed, "step": step + 1, "model": model.state_dict()}
            torch.save({**saved, "optimizer": optimizer.state_dict()}, checkpoint.with_suffix(".new"))
            os.replace(checkpoint.with_suffix(".new"), checkpoint)


def write_problem_files(out: Path, seed: int) -> None:
    """Held-out problems for the scripts, contrasts of both, and exemplars from trained combinations: one of each task."""
    exemplars = [
        *generator.problem_set(seed, "arithmetic", 1, held_out=False, prefix="exemplar-arithmetic"),
        *generator.problem_set(seed, "ordering", 1, held_out=False, prefix="exemplar-ordering"),
    ]
    files = {
        "problems.jsonl": generator.problem_set(seed, "arithmetic", ARITHMETIC_PROBLEMS),
        "contrast.jsonl": generator.contrasts(seed, CONTRASTS),
        "reasoning.jsonl": generator.problem_set(seed, "ordering", ORDERING_PROBLEMS),
        "exemplars.jsonl": exemplars,
    }
    for name, records in files.items():
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        (out / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def evaluate(out: Path, languages: dict, arguments: argparse.Namespace) -> list[dict]:
    """Greedy exact-match accuracy of the saved folder, loaded and asked as every script does."""
    folder = checkpoints.find_model(str(out))
    model, tokenizer = models.load_model(folder, torch.device(arguments.device), torch.float32)
    exemplars = questions.load_problems([out / "exemplars.jsonl"], list(languages))
    rows = []
    for task, held_out, shots in itertools.product(generator.TASKS, (False, True), (len(exemplars), 0)):
        rng = random.Random(f"{arguments.seed} evaluation {task} {held_out}")
        problems = [generator.draw(rng, task, held_out) for _ in range(EVALUATED)]
        row = {"task": task, "combinations": "held out" if held_out else "trained", "exemplars": shots}
        for language in languages:
            prompts, answers = [], []
            for problem in problems:
                question = {language: generator.plain(problem.question[language])}
                asked = questions.Problem("", "", "", question)
                prompts.append(questions.prompt_text(asked, language, languages, exemplars[:shots]))
                answers.append(problem.answer_text[language])
            outputs = models.generate(model, tokenizer, prompts, MAX_ANSWER_TOKENS, EVALUATION_BATCH)
            row[language] = sum(output.strip() == answer for output, answer in zip(outputs, answers))
        rows.append(row)
    return rows


def write_card(out: Path, rows: list[dict]) -> None:
    """README.md: what the model is, how it was made, and the accuracies just measured."""
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    parameters = sum(tensor.numel() for tensor in load_file(out / "model.safetensors").values())
    cells = []
    for row in rows:
        rates = []
        for language in generator.NAMES:
            low, high = statistics.wilson_interval(row[language], EVALUATED)
            rates.append(f"{row[language] / EVALUATED:.1%} ({low:.1%} to {high:.1%})")
        cells.append([row["task"], row["combinations"], row["exemplars"], *rates])
    stages = [
        [steps, rate, *(f"{share} %" for share in mixture.shares), f"{mixture.two_people:.0%} of orderings"]
        + ["yes" if mixture.either_end else "no"]
        for steps, rate, mixture in STAGES
    ]
    table = page.table(["task", "combinations", "exemplars", "English", "Chinese"], cells)
    (out / "README.md").write_text(
        CARD.format(
            table=table,
            evaluated=EVALUATED,
            parameters=parameters / 1e6,
            per_step=PROBLEMS_PER_STEP,
            stages=page.table(["steps", "learning rate", *generator.TASKS, "two people", "either end"], stages),
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            heads=config["num_attention_heads"],
            groups=config["num_key_value_heads"],
            inner=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            arithmetic=ARITHMETIC_PROBLEMS,
            ordering=ORDERING_PROBLEMS,
        ),
        encoding="utf-8",
    )


CARD = """# tiny: the embedded bilingual model

A real `Qwen2ForCausalLM` that the whole suite runs on without a download: `--model tiny`. {parameters:.2f} M parameters:
{layers} layers, width {width}, {heads} heads on {groups} KV heads, FFN {inner}, tied embeddings, vocabulary {vocabulary}
(Qwen2's tokenizer class; every digit, word and answer is one token). Nothing in the scripts knows it by name.

## What it was trained on

Generated problems, English and Chinese in equal parts, one to three question-answer pairs of one language per sequence.
Numbers and every intermediate result lie in 0 to 20; answers are words ("nineteen" / "十九") except in the digit
formulas. One combination in ten, (start, step, step) or (ranked names, relation), is held out in both languages and in
every wording. {per_step} problems per step, in stages:

{stages}

"Either end" also asks for the last in order ("Who is the shortest?"); the first stage did, and stayed at 50 % on ordering. The
later stages and the problems shipped here ask for the first only. To make the model again: `python -m tiny.train`.

## Accuracy

Greedy, exact match, {evaluated} problems per cell, 95 % Wilson intervals. `python -m tiny.train --evaluate-only` measures this
table again. With exemplars the prompt is the one that the scripts use.

{table}

## Files

`problems.jsonl` ({arithmetic} arithmetic) and `reasoning.jsonl` ({ordering} ordering) hold held-out combinations only,
`exemplars.jsonl` trained ones, and `contrast.jsonl` (24 stories in threes) both. The scripts take them as defaults for this model.

## What it is for, and what not

It shows that the suite works, on a model whose answers and languages can be checked. It says nothing about Qwen2.5-3B.
"""


if __name__ == "__main__":
    sys.exit(main())
