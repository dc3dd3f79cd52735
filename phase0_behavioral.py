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

import json
from collections import Counter

import numpy as np
from matplotlib.figure import Figure

from lab import checkpoints, models, questions, runs, statistics
from reports import page

ARRAYS = ("phase0_samples.jsonl",)
ADVANTAGE = 3  # the recipe: Chinese ahead by 3 problems or more is strong behavioural evidence
EQUAL = 1  # the recipe: equal within one problem
MAX_NEW_TOKENS = 200  # room for a worked solution on one line
LEVEL = 0.05
SHOWN_SAMPLES = 12
COVERED = 1.0  # tokens per character above which a tokenizer falls back to bytes in a language


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.report_only:
        return runs.render_again(arguments.out, "phase0", ARRAYS, render)
    device = runs.choose_device(arguments.device)
    dtype = runs.choose_dtype(arguments.dtype, device)
    folder = checkpoints.find_model(arguments.model, arguments.revision)
    languages = questions.load_languages(arguments.languages)
    default = runs.ROOT / "data" / "phase0.jsonl"
    files = questions.problem_files(arguments.problems, folder, "problems.jsonl", default)
    problems = questions.load_problems(files, list(languages), arguments.limit)
    exemplars, exemplar_file = questions.load_exemplars(arguments.exemplars, folder, languages, problems)
    settings = questions.problem_settings(arguments, device, dtype, files, languages)
    settings |= {"max_new_tokens": arguments.max_new_tokens}
    settings["exemplars"] = [exemplar_file.name, runs.file_hash(exemplar_file)[:16]]
    run = runs.Run(__file__, "phase0", arguments, folder, settings)
    if not arguments.fresh and run.finished(ARRAYS):
        return None
    model, tokenizer = models.load_model(folder, device, dtype)
    samples = ask(model, tokenizer, problems, languages, exemplars, arguments)
    results = compare(samples, languages, arguments.seed)
    if results["verdict"] == verdict_names(languages)[0]:
        zero_shot = ask(model, tokenizer, problems, languages, [], arguments)
        samples += zero_shot
        results["contingency"] = contingency(zero_shot, languages, arguments.seed)
    results["identity"] = identity(folder, tokenizer, problems, list(languages))
    results["exemplars"], results["problems"] = len(exemplars), len(problems)
    results["categories"] = by_category(samples, problems, languages)
    results = runs.significant(results)  # before any sentence is made of it: the JSON is the truth
    results["claims"] = claims(results, languages)
    lines = [json.dumps(sample, ensure_ascii=False, sort_keys=True) for sample in samples]
    return run.save(results, {ARRAYS[0]: ("\n".join(lines) + "\n").encode()}, render)


def parse_arguments(argv: list[str] | None):
    parser = runs.command_line(__doc__, asks_problems=True)
    parser.add_argument("--max-new-tokens", type=runs.positive, default=MAX_NEW_TOKENS)
    return parser.parse_args(argv)


def compared(languages: dict) -> tuple[str, str]:
    """(reference, candidate): English and Chinese where both are asked, in any order, else the first two languages."""
    return ("en", "zh") if {"en", "zh"} <= set(languages) else tuple(list(languages)[:2])


def verdict_names(languages: dict) -> tuple[str, str]:
    """The verdicts of a lead of the reference and of the candidate."""
    return tuple(f"{languages[language]['name'].lower()}_advantage" for language in compared(languages))


# ---- measuring ------------------------------------------------------------------------------------------------------


def ask(model, tokenizer, problems: list, languages: dict, exemplars: list, arguments) -> list[dict]:
    """One sample per problem and language: prompt, output, extracted answer, whether it is right."""
    asked = [(problem, language) for language in languages for problem in problems]
    prompts = [questions.prompt_text(problem, language, languages, exemplars) for problem, language in asked]
    outputs = models.generate(model, tokenizer, prompts, arguments.max_new_tokens, arguments.batch)
    samples = []
    for (problem, language), prompt, output in zip(asked, prompts, outputs):
        extracted, correct = questions.grade(problem, output)
        sample = {"id": problem.id, "language": language, "setting": "few_shot" if exemplars else "zero_shot"}
        sample |= {"expected": str(problem.answer), "prompt": prompt, "output": output}
        samples.append(sample | {"extracted": extracted, "correct": correct})
    return samples


def compare(samples: list[dict], languages: dict, seed: int) -> dict:
    """Accuracy per language, and the second language against the first, problem by problem."""
    correct = {
        language: np.array([sample["correct"] for sample in samples if sample["language"] == language])
        for language in languages
    }
    reference, candidate = compared(languages)
    difference = correct[candidate].astype(int) - correct[reference].astype(int)
    generator = statistics.seeded(seed, f"phase0: bootstrap {samples[0]['setting']}")
    ahead, behind = int((difference > 0).sum()), int((difference < 0).sum())
    return {
        "accuracy": {language: float(right.mean()) for language, right in correct.items()},
        "right": {language: int(right.sum()) for language, right in correct.items()},
        "interval": {
            language: statistics.wilson_interval(int(right.sum()), len(right)) for language, right in correct.items()
        },
        "unanswered": {
            language: sum(sample["extracted"] is None for sample in samples if sample["language"] == language)
            for language in languages
        },
        "n": len(difference),
        "only_candidate": ahead,
        "only_reference": behind,
        "difference": ahead - behind,
        "difference_interval": statistics.bootstrap_interval(difference, generator),
        "mcnemar_p": statistics.mcnemar_p(ahead, behind),
        "smallest_significant": smallest_significant(len(difference)),
        "p_of_advantage": statistics.mcnemar_p(ADVANTAGE, 0),
        "verdict": decide(ahead - behind, languages),
    }


def smallest_significant(n: int) -> int | None:
    """Fewest problems that one language must win, the other winning none, for p < .05; None if n is too small."""
    return next((wins for wins in range(1, n + 1) if statistics.mcnemar_p(wins, 0) < LEVEL), None)


def decide(difference: int, languages: dict) -> str:
    """The recipe's rule: <candidate>_advantage from +3, <reference>_advantage below -1, else no_asymmetry."""
    reference_leads, candidate_leads = verdict_names(languages)
    if difference >= ADVANTAGE:
        return candidate_leads
    return reference_leads if difference < -EQUAL else "no_asymmetry"


def contingency(zero_shot: list[dict], languages: dict, seed: int) -> dict:
    """The first language is ahead: does that survive without the exemplars?"""
    results = compare(zero_shot, languages, seed)
    keys = ("accuracy", "right", "interval", "unanswered", "difference", "difference_interval", "mcnemar_p", "verdict")
    survives = results["verdict"] == verdict_names(languages)[0]
    return {key: results[key] for key in keys} | {"survives": survives}


def identity(folder, tokenizer, problems: list, languages: list[str]) -> dict:
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


def by_category(samples: list[dict], problems: list, languages: dict) -> dict:
    """Right answers per category and language with few-shot prompts: {category: {language: right, "n": problems}}."""
    category = {problem.id: problem.category for problem in problems}
    counts = {name: dict.fromkeys(languages, 0) | {"n": 0} for name in sorted(set(category.values()))}
    for problem in problems:
        counts[problem.category]["n"] += 1
    for sample in samples:
        if sample["setting"] == "few_shot":
            counts[category[sample["id"]]][sample["language"]] += sample["correct"]
    return counts


def claims(results: dict, languages: dict) -> list[dict]:
    reference, candidate = compared(languages)
    first, second = (languages[language]["name"] for language in (reference, candidate))
    n, show = results["n"], page.show
    return [
        page.claim(
            "behaviour",
            f"the model solves math better in {second} than in {first}",
            f"{second} ahead by ≥ {ADVANTAGE}" if (reference, candidate) == ("en", "zh") else "not in the recipe",
            f"{second} {results['right'][candidate]}/{n}, {first} {results['right'][reference]}/{n}: "
            f"difference {results['difference']:+d}",
            f"exact McNemar p {show(results['mcnemar_p'], 2)}; a lead of {ADVANTAGE} to 0 alone has p "
            f"{show(results['p_of_advantage'], 2)}",
            bool(results["difference"] >= ADVANTAGE and results["mcnemar_p"] < LEVEL),
        )
    ]


# ---- reporting ------------------------------------------------------------------------------------------------------


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figure from results and samples alone."""
    samples = [json.loads(line) for line in arrays[ARRAYS[0]].decode().split("\n") if line]
    languages = questions.load_languages(results["settings"]["languages"])
    first, second = (languages[language]["name"] for language in compared(languages))
    reference, candidate = compared(languages)
    lead, n, show = results["difference"], results["n"], page.show
    what = {
        f"{second.lower()}_advantage": f"{second} leads by the recipe's margin",
        f"{first.lower()}_advantage": f"{first} leads, against the recipe's expectation",
        "no_asymmetry": "There is no asymmetry by the recipe's rule, and the hunt proceeds with that limitation",
    }[results["verdict"]]
    significant = "significant" if results["mcnemar_p"] < LEVEL else "not significant"
    sentence = (
        f"{what} (`{results['verdict']}`): {second} {results['right'][candidate]} of {n}, {first} "
        f"{results['right'][reference]} of {n}, a difference of {lead:+d} that is {significant} (exact McNemar p "
        f"{show(results['mcnemar_p'], 2)})."
    )
    title = f"Phase 0: behaviour of {results['model']['name']}"
    text = page.report(title, sentence, results["claims"], sections(results, samples, languages), limitations(results))
    return {"phase0_accuracy.png": page.png(figure_accuracy(results, languages)), "phase0_output.md": text.encode()}


def sections(results: dict, samples: list[dict], languages: dict) -> list[str]:
    show, settings, n = page.show, results["settings"], results["n"]
    first, second = (languages[language]["name"] for language in compared(languages))
    files = ", ".join(f"`{name}`" for name, _ in settings["problems"])
    low, high = results["difference_interval"]
    smallest = results["smallest_significant"]
    can_show = (
        f"With {n} problems, one language must win at least {smallest} that the other loses (and lose none) before the exact "
        f"test reaches p < .05"
        if smallest
        else f"With {n} problems no outcome at all reaches p < .05 in the exact test"
    )
    categories = [
        [name, counts["n"], *(counts[language] for language in languages)]
        for name, counts in results["categories"].items()
    ]
    return [
        "## 1 Problems and prompts",
        f"{n} problems from {files} in {len(languages)} languages, {results['exemplars']} exemplars from "
        f"`{settings['exemplars'][0]}`, greedy decoding up to the end of the answer line, {settings['dtype']} in batches of "
        f"{settings['batch']}.",
        "## 2 Accuracy",
        "![Accuracy per language](phase0_accuracy.png)",
        accuracy_table(results, languages),
        page.table(
            ["category", "problems", *(f"right, {template['name']}" for template in languages.values())], categories
        ),
        "## 3 Paired comparison",
        f"Only {second} right: {results['only_candidate']}; only {first} right: {results['only_reference']}. Difference of "
        f"the accuracies {show(results['difference'] / n, 3)} (95 % bootstrap over problems {show(low, 3)} to {show(high, 3)}), "
        f"exact McNemar p = {show(results['mcnemar_p'], 3)}.",
        "## 4 What this many problems can show",
        f"{can_show}. The recipe's threshold of {ADVANTAGE} problems, won {ADVANTAGE} to 0, has p = "
        f"{show(results['p_of_advantage'], 2)}: by itself it is not evidence.",
        "## 5 Contingency",
        *contingency_section(results, languages),
        "## 6 Sample answers",
        ("No answer is wrong. " if all(sample["correct"] for sample in samples) else "Wrong answers first. ")
        + "All are in `phase0_samples.jsonl`.",
        sample_table(samples),
    ]


def accuracy_table(results: dict, languages: dict) -> str:
    n = results["n"]
    rows = [
        [
            template["name"],
            f"{results['right'][language]}/{n}",
            f"{results['accuracy'][language]:.1%}",
            "{:.1%} to {:.1%}".format(*results["interval"][language]),
            results["unanswered"][language],
        ]
        for language, template in languages.items()
    ]
    return page.table(["language", "right", "accuracy", "95 % Wilson interval", "no answer found"], rows)


def contingency_section(results: dict, languages: dict) -> list[str]:
    show, first = page.show, languages[compared(languages)[0]]["name"]
    parts = []
    if "contingency" not in results:
        parts.append(f"{first} is not ahead by more than {EQUAL}, so the recipe asks for no rerun without exemplars.")
    else:
        zero = results["contingency"]
        reading = (
            f"{first} leads without exemplars too, so they do not explain it."
            if zero["survives"]
            else f"Without exemplars {first} does not lead by more than {EQUAL}, so few-shot formatting may have caused it."
        )
        if min(results["mcnemar_p"], zero["mcnemar_p"]) >= LEVEL:
            reading += " Neither difference is significant: chance could explain both."
        parts += [
            f"{first} is ahead, so the problems were asked again without exemplars: difference {zero['difference']:+d}, exact "
            f"McNemar p = {show(zero['mcnemar_p'], 2)}. {reading}",
            accuracy_table(zero | {"n": results["n"]}, languages),
        ]
    identity = results["identity"]
    rows = [[key, pair["expected"], pair["found"]] for key, pair in identity["config"].items()]
    verdict = "has" if identity["is_qwen25_3b"] else "does not have"
    coverage = [
        [
            languages[language]["name"],
            cover["tokens_per_character"],
            f"{cover['round_trips']:.0%}",
            "yes" if cover["tokens_per_character"] <= COVERED and cover["round_trips"] == 1 else "**no**",
        ]
        for language, cover in identity["coverage"].items()
    ]
    return [
        *parts,
        f"Identity: this model {verdict} the configuration of Qwen2.5-3B.",
        page.table(["setting", "Qwen2.5-3B", "this model"], rows),
        page.table(["language", "tokens per character", "exact round trips", "covered"], coverage),
    ]


def sample_table(samples: list[dict]) -> str:
    seen, ranked = Counter(), []
    for sample in samples:
        kind = (sample["correct"], sample["language"], sample["setting"])
        ranked.append((sample["correct"], seen[kind], len(ranked)))
        seen[kind] += 1
    chosen = [samples[index] for *_, index in sorted(ranked)[:SHOWN_SAMPLES]]  # wrong first, languages in turn
    rows = [
        [
            sample["id"],
            sample["language"],
            sample["setting"].replace("_", "-"),
            page.escape(sample["output"].strip()[:160]),
            sample["extracted"] or "–",
            sample["expected"],
            "yes" if sample["correct"] else "**no**",
        ]
        for sample in chosen
    ]
    return page.table(["problem", "language", "prompt", "output", "extracted", "expected", "right"], rows)


def limitations(results: dict) -> list[str]:
    lines = [
        f"{results['n']} problems; intervals treat them as independent draws from the kind of problem in the file.",
        "Greedy decoding of one prompt format; another format can change either language's accuracy.",
        "Changing the batch shape can flip a greedy token in 16-bit arithmetic; the batch size is part of the settings.",
    ]
    if results["verdict"] == "no_asymmetry":
        lines.insert(0, "No behavioural asymmetry was found: later phases rest on structural evidence alone.")
    if min(results["accuracy"].values()) > 0.95 or max(results["accuracy"].values()) < 0.05:
        lines.append("Accuracy is at the ceiling or the floor, where no asymmetry could show.")
    return lines


def figure_accuracy(results: dict, languages: dict) -> Figure:
    figure = Figure(figsize=(5, 4))
    panel = figure.subplots()
    compared_runs = [("few-shot", results)] + (
        [("zero-shot", results["contingency"])] if "contingency" in results else []
    )
    width = 0.8 / len(compared_runs)
    for index, (label, run) in enumerate(compared_runs):
        places = np.arange(len(languages)) + (index - (len(compared_runs) - 1) / 2) * width
        heights = np.array([run["accuracy"][language] for language in languages])
        bounds = np.array([run["interval"][language] for language in languages]).T
        errors = np.abs(bounds - heights)
        panel.bar(places, heights, width * 0.95, yerr=errors, capsize=4, label=label)
    panel.set_xticks(range(len(languages)), [template["name"] for template in languages.values()])
    panel.set(title=f"accuracy on {results['n']} problems, 95 % Wilson intervals", ylabel="accuracy", ylim=(0, 1.05))
    panel.legend(loc="lower right")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    runs.run_script(main)
