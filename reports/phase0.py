"""Words, tables and figure of phase 0's page."""

import json
from collections import Counter

import numpy as np

import verdicts
from reports import page

SAMPLES = "phase0_samples.jsonl"
SHOWN_SAMPLES = 12
HALVES = ("bfloat16", "float16")
show = page.show


def compared(results: dict) -> tuple[str, str, str, str]:
    """(reference, candidate, the reference's name, the candidate's name)."""
    pair = (results["compared"]["reference"], results["compared"]["candidate"])
    return (*pair, *(results["names"][language] for language in pair))


def summary(results: dict) -> str:
    reference, candidate, _, _ = compared(results)
    right = ", ".join(f"{language} {results['right'][language]}/{results['n']}" for language in (candidate, reference))
    why = f"{results['no_room']}: " if results["verdict"] == "untestable" else ""
    return f"{why}{right}, McNemar p {show(results['mcnemar_p'], 2)}"


def claims(results: dict) -> list[dict]:
    reference, candidate, first, second = compared(results)
    n, right, ahead = results["n"], results["right"], verdicts.RECIPE["chinese_ahead"]
    alone = f"a lead of {ahead} to 0 alone has p {show(results['p_of_advantage'], 2)}"
    return [
        page.claim(
            "behaviour",
            f"the model solves math better in {second} than in {first}",
            f"{second} ahead by ≥ {ahead}" if (reference, candidate) == ("en", "zh") else "not in the recipe",
            f"{second} {right[candidate]}/{n}, {first} {right[reference]}/{n}: difference {results['difference']:+d}",
            f"exact McNemar p {show(results['mcnemar_p'], 2)}; {alone}",
        )
    ]


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figure from results and samples alone."""
    samples = [json.loads(line) for line in arrays[SAMPLES].decode().split("\n") if line]
    parts = [
        problems_section(results),
        accuracy_section(results),
        paired_section(results),
        *contingency_section(results),
        samples_section(samples),
    ]
    title = f"Phase 0: behaviour of {results['model']['name']}"
    text = page.report(title, verdict_sentence(results), results, parts, limitations(results))
    return {"phase0_accuracy.png": figure_accuracy(results), "phase0_output.md": text}


def verdict_sentence(results: dict) -> str:
    reference, candidate, first, second = compared(results)
    n, right = results["n"], results["right"]
    both = f"{second} and {first} are both at the {results['no_room']}"
    what = {
        "untestable": f"{both}, where an asymmetry can hardly show; the hunt proceeds with that limitation",
        f"{second.lower()}_advantage": f"{second} leads by the recipe's margin",
        f"{first.lower()}_advantage": f"{first} leads, against the recipe's expectation",
        "no_asymmetry": "There is no asymmetry by the recipe's rule, and the hunt proceeds with that limitation",
    }[results["verdict"]]
    significant = "significant" if results["tests"]["significant"] else "not significant"
    others = " or ".join(f"`{name}`" for name in results["one_problem_away"])
    hangs = f"""The verdict hangs on one problem: with one answer more or less right in one language, as another batch size or
        dtype may bring about, it would be {others}."""
    return page.prose(f"""
        {what} (`{results["verdict"]}`): {second} {right[candidate]} of {n}, {first} {right[reference]} of {n}, a difference of
        {results["difference"]:+d} that is {significant} (exact McNemar p {show(results["mcnemar_p"], 2)}). {hangs if others else ""}
    """)


def problems_section(results: dict) -> str:
    settings = results["settings"]
    files = page.problem_files(settings)
    return page.prose(f"""
        ## 1 Problems and prompts

        {results["n"]} problems from {files} in {len(settings["languages"])} languages, {results["exemplars"]} exemplars from
        `{settings["exemplars"][0]}`, greedy decoding up to the first complete answer or
        {settings["max_new_tokens"]} tokens, {settings["dtype"]} in batches of {settings["batch"]}.
    """)


def accuracy_section(results: dict) -> str:
    languages = results["settings"]["languages"]
    rows = [
        [name, counts["n"], *(counts[language] for language in languages)]
        for name, counts in results["categories"].items()
    ]
    headers = ["category", "problems", *(f"right, {results['names'][language]}" for language in languages)]
    return page.prose(f"""
        ## 2 Accuracy

        ![Accuracy per language](phase0_accuracy.png)

        {accuracy_table(results, results)}

        {page.table(headers, rows)}
    """)


def accuracy_table(results: dict, answers: dict) -> str:
    """A row per language, of the answers with exemplars (the results themselves) or of those without."""
    rows = []
    for language in results["settings"]["languages"]:
        right = f"{answers['right'][language]}/{answers['n']}"
        interval = "{:.1%} to {:.1%}".format(*answers["interval"][language])
        cells = [right, f"{answers['accuracy'][language]:.1%}", interval, answers["unanswered"][language]]
        rows.append([results["names"][language], *cells])
    return page.table(["language", "right", "accuracy", "95 % Wilson interval", "no answer found"], rows)


def paired_section(results: dict) -> str:
    _, _, first, second = compared(results)
    n, (low, high), smallest = results["n"], results["difference_interval"], results["smallest_significant"]
    ahead = verdicts.RECIPE["chinese_ahead"]
    can_show = f"With {n} problems no outcome at all reaches p < {level()} in the exact test"
    if smallest:
        can_show = f"""With {n} problems, one language must win at least {smallest} that the other loses (and lose none) before
            the exact test reaches p < {level()}"""
    return page.prose(f"""
        ## 3 Paired comparison

        Only {second} right: {results["only_candidate"]}; only {first} right: {results["only_reference"]}. Difference of the
        accuracies {page.decimal(results["difference"] / n)} (95 % BCa bootstrap over problems {page.decimal(low)} to
        {page.decimal(high)}), exact McNemar p = {show(results["mcnemar_p"], 2)}.

        ## 4 What this many problems can show

        {can_show}. The recipe's threshold of {ahead} problems, won {ahead} to 0, has p = {show(results["p_of_advantage"], 2)}: by
        itself it is not evidence.
    """)


def level() -> str:
    return f"{verdicts.LEVEL:g}".removeprefix("0")


def contingency_section(results: dict) -> list[str]:
    identity = results["identity"]
    rows = [[key, pair["expected"], pair["found"]] for key, pair in identity["config"].items()]
    coverage = []
    for language in results["settings"]["languages"]:
        cover, covered = identity["coverage"][language], "yes" if results["covered"][language] else "**no**"
        share = f"{cover['round_trips']:.0%}"
        coverage.append([results["names"][language], cover["tokens_per_character"], share, covered])
    return [
        "## 5 Contingency",
        rerun_text(results),
        page.prose(f"""
            Identity: this model {"has" if identity["is_qwen25_3b"] else "does not have"} the configuration of Qwen2.5-3B.

            {page.table(["setting", "Qwen2.5-3B", "this model"], rows)}

            {page.table(["language", "tokens per character", "exact round trips", "covered"], coverage)}
        """),
    ]


def rerun_text(results: dict) -> str:
    """What the problems without exemplars say, where they were asked."""
    _, _, first, _ = compared(results)
    if "contingency" not in results:
        return page.prose(f"""
            {first} is not ahead by more than {results["rerun_beyond"]}, so the recipe asks for no rerun without exemplars.
        """)
    zero = results["contingency"]
    if zero["survives"]:
        reading = f"{first} leads without exemplars too, so they do not explain it."
    else:
        reading = f"""Without exemplars {first} does not lead by more than {verdicts.RECIPE["equal_within"]}, so few-shot formatting
            may have caused it."""
    if not (results["tests"]["significant"] or zero["tests"]["significant"]):
        reading += " Neither difference is significant: chance could explain both."
    return page.prose(f"""
        {first} is ahead, so the problems were asked again without exemplars: difference {zero["difference"]:+d}, exact McNemar
        p = {show(zero["mcnemar_p"], 2)}. {reading}

        {accuracy_table(results, zero)}
    """)


def samples_section(samples: list[dict]) -> str:
    order = "No answer is wrong." if all(sample["correct"] for sample in samples) else "Wrong answers first."
    return f"## 6 Sample answers\n\n{order} All are in `{SAMPLES}`.\n\n{sample_table(samples)}"


def sample_table(samples: list[dict]) -> str:
    seen, ranked = Counter(), []
    for sample in samples:
        kind = (sample["correct"], sample["language"], sample["setting"])
        ranked.append((sample["correct"], seen[kind], len(ranked)))
        seen[kind] += 1
    rows = []
    for *_, index in sorted(ranked)[:SHOWN_SAMPLES]:  # wrong first, languages in turn
        sample = samples[index]
        cells = [sample["id"], sample["language"], sample["setting"].replace("_", "-")]
        cells += [page.escape(sample["output"].strip()[:160]), sample["extracted"] or "–", sample["expected"]]
        rows.append([*cells, "yes" if sample["correct"] else "**no**"])
    return page.table(["problem", "language", "prompt", "output", "extracted", "expected", "right"], rows)


def limitations(results: dict) -> list[str]:
    lines = [
        f"{results['n']} problems; intervals treat them as independent draws from the kind of problem in the file.",
        "Greedy decoding of one prompt format; another format can change either language's accuracy.",
    ]
    if results["settings"]["dtype"] in HALVES:
        lines.append(
            "Changing the batch shape can flip a greedy token in 16-bit arithmetic; the batch size is part of the settings."
        )
    if any(name.endswith(".tsv") for name, _ in results["settings"]["problems"]):
        lines.append(
            "These accuracies do not compare with lm-eval's mgsm tasks: templates and exemplars are this suite's own."
        )
    if results["verdict"] == "no_asymmetry":
        lines.insert(0, "No behavioural asymmetry was found: later phases rest on structural evidence alone.")
    if results["verdict"] == "untestable":  # where the exact test sees a difference, there was room for it
        reference, candidate, _, _ = compared(results)
        counts = " and ".join(f"{results['right'][language]}/{results['n']}" for language in (candidate, reference))
        remedy = "harder problems" if results["no_room"] == "ceiling" else "easier problems, or a larger model,"
        lines.insert(
            0, f"{results['no_room'].capitalize()}: {counts} leave hardly any room for an asymmetry; {remedy} would."
        )
    return lines


def figure_accuracy(results: dict) -> bytes:
    """Bars with their intervals: a group per language, in it the answers with exemplars and, where asked, without."""
    languages = results["settings"]["languages"]
    asked = [("few-shot", results, page.BLUE), ("zero-shot", results.get("contingency"), page.SKY)]
    asked = [row for row in asked if row[1]]
    width = 0.8 / len(asked)
    with page.figure(5, 4) as (figure, panel):
        for index, (label, answers, colour) in enumerate(asked):
            places = np.arange(len(languages)) + (index - (len(asked) - 1) / 2) * width
            heights = 100 * np.array([answers["accuracy"][language] for language in languages])
            bounds = 100 * np.array([answers["interval"][language] for language in languages]).T
            ends = np.abs(bounds - heights)
            panel.bar(places, heights, width * 0.95, yerr=ends, capsize=4, color=colour, label=label)
        panel.set_xticks(range(len(languages)), [results["names"][language] for language in languages])
        title = f"{results['model']['name']}:\naccuracy on {results['n']} problems, 95 % Wilson intervals"
        panel.set(title=title, ylabel="right answers, %", ylim=(0, 105))
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=2, frameon=False)
    return page.png(figure)
