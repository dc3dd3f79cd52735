"""Phase 0: does the model solve math better in Chinese than in English?

Question   is there a behavioural asymmetry between the languages, and could this many problems have shown one?
Inputs     data/phase0.jsonl and data/exemplars.jsonl (or the model folder's own problems.jsonl and exemplars.jsonl, or
           MGSM files: --problems mgsm_en.tsv mgsm_zh.tsv); a model that generates
Outputs    output/phase0_output.md with its figure, phase0_results.json, phase0_samples.jsonl (a line per generation)
Run        python phase0_behavioral.py --model Qwen/Qwen2.5-3B

Steps, which are also the report's headings:
1 problems and prompts   2 accuracy   3 paired comparison   4 what this many problems can show
5 contingency (few-shot bias, model identity)   6 sample answers
"""

from collections.abc import Iterable

import numpy as np

import verdicts
from lab import checkpoints, commands, models, questions, runs, statistics
from reports import phase0 as page

ARRAYS = ("phase0_samples.jsonl",)
REPORT = runs.Report(__file__, "phase0", ARRAYS, verdicts.phase0, page)
MAX_NEW_TOKENS = 200  # room for a worked solution, of several lines too: it ends at the first complete answer
RERUN_BEYOND = 1  # the recipe: with English ahead by more than this, the exemplars' format may be the cause


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    opening = questions.begin(REPORT, arguments, "phase0.jsonl")
    if opening is None:
        return
    run = opening.run(max_new_tokens=arguments.max_new_tokens)
    if run is None:
        return
    model, tokenizer = questions.load_model(opening)
    samples = ask(model, tokenizer, opening, opening.exemplars)
    pair = compared(opening.languages)
    results = compare(samples, pair, arguments.seed) | {"compared": pair, "rerun_beyond": RERUN_BEYOND}
    if results["difference"] < -RERUN_BEYOND:
        zero_shot = ask(model, tokenizer, opening, [])
        samples += zero_shot
        results["contingency"] = compare(zero_shot, pair, arguments.seed)
    results["names"] = {language: template["name"] for language, template in opening.languages.items()}
    results["identity"] = identity(opening.folder, tokenizer, opening.problems, list(opening.languages))
    results["exemplars"], results["problems"] = len(opening.exemplars), len(opening.problems)
    results["categories"] = by_category(samples, opening.problems, list(opening.languages))
    run.save(results, {ARRAYS[0]: runs.json_lines(samples)})


def parse_arguments(argv: list[str] | None):
    parser = commands.parser(__doc__, asks_problems=True)
    parser.add_argument(
        "--max-new-tokens", type=commands.positive, default=MAX_NEW_TOKENS, help="of an answer that does not end"
    )
    return parser.parse_args(argv)


def compared(languages: Iterable[str]) -> dict[str, str]:
    """Who is measured against whom: Chinese against English in any order, else the second language against the first."""
    languages = list(languages)
    reference, candidate = ("en", "zh") if {"en", "zh"} <= set(languages) else languages[:2]
    return {"reference": reference, "candidate": candidate}


def ask(model, tokenizer, opening: questions.Asking, exemplars: list[questions.Problem]) -> list[dict]:
    """One sample per problem and language: prompt, output, extracted answer, whether it is right."""
    languages, arguments = opening.languages, opening.arguments
    asked = [(problem, language) for language in languages for problem in opening.problems]
    prompts = [questions.prompt_text(problem, language, languages, exemplars) for problem, language in asked]
    outputs = models.generate(
        model,
        tokenizer,
        prompts,
        arguments.max_new_tokens,
        arguments.batch,
        ended=lambda index, text: questions.answered(asked[index][0], text, asked[index][1]),
    )
    samples = []
    for (problem, language), prompt, output in zip(asked, prompts, outputs):
        extracted, correct = questions.grade(problem, output, language)
        sample = {"id": problem.id, "language": language, "setting": "few_shot" if exemplars else "zero_shot"}
        sample |= {"expected": str(problem.answer), "prompt": prompt, "output": output}
        samples.append(sample | {"extracted": extracted, "correct": correct})
    return samples


def compare(samples: list[dict], pair: dict[str, str], seed: int) -> dict:
    """Accuracy per language, and the candidate of the pair against its reference, problem by problem.

    `difference` is a number of problems, its 95 % interval one of their share.
    """
    own = {}
    for sample in samples:
        own.setdefault(sample["language"], []).append(sample)
    correct = {language: np.array([sample["correct"] for sample in rows]) for language, rows in own.items()}
    right = {language: int(column.sum()) for language, column in correct.items()}
    difference = correct[pair["candidate"]].astype(int) - correct[pair["reference"]].astype(int)
    generator = statistics.seeded(seed, f"phase0: bootstrap {samples[0]['setting']}")
    ahead, behind = int((difference > 0).sum()), int((difference < 0).sum())
    return {
        "accuracy": {language: float(column.mean()) for language, column in correct.items()},
        "right": right,
        "interval": {language: statistics.wilson_interval(count, len(difference)) for language, count in right.items()},
        "unanswered": {language: sum(row["extracted"] is None for row in rows) for language, rows in own.items()},
        "n": len(difference),
        "only_candidate": ahead,
        "only_reference": behind,
        "difference": ahead - behind,
        "difference_interval": statistics.paired_interval([difference], np.mean, generator),
        "mcnemar_p": statistics.mcnemar_p(ahead, behind),
    }


def identity(folder: checkpoints.ModelFolder, tokenizer, problems: list, languages: list[str]) -> dict:
    """Configuration against Qwen2.5-3B's, and how the tokenizer covers each language."""
    config = {
        key: {"expected": expected, "found": getattr(folder.config, key, None)}
        for key, expected in checkpoints.QWEN25_3B_SHAPE.items()
    }
    coverage = {}
    for language in languages:
        texts = [problem.question[language] for problem in problems]
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        decoded = [tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in ids]
        coverage[language] = {
            "tokens_per_character": sum(map(len, ids)) / sum(map(len, texts)),
            "round_trips": float(np.mean([text == back for text, back in zip(texts, decoded)])),
        }
    return {"config": config, "is_qwen25_3b": folder.is_qwen25_3b, "coverage": coverage}


def by_category(samples: list[dict], problems: list, languages: list[str]) -> dict:
    """Right answers per category and language with few-shot prompts: {category: {language: right, "n": problems}}."""
    category = {problem.id: problem.category for problem in problems}
    counts = {name: dict.fromkeys(languages, 0) | {"n": 0} for name in sorted(set(category.values()))}
    for problem in problems:
        counts[problem.category]["n"] += 1
    for sample in samples:
        if sample["setting"] == "few_shot":
            counts[category[sample["id"]]][sample["language"]] += sample["correct"]
    return counts


if __name__ == "__main__":
    runs.run_script(main)
