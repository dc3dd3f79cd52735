"""Phase 3's page: claims, sections and figures, from saved results and samples alone."""

import json

import numpy as np

from reports import page

SAMPLES = "phase3_samples.jsonl"
SHOWN_PAIRS = 3  # per direction
DONOR = 1  # in candidates and targets, (whose answer, whose language); 0 is the recipient
WHO = ("recipient's", "donor's")
NAMES = {
    "none": "no swap",
    "z": "Z",
    "z_perp": "Z⊥",
    "full": "full stream",
    "random": "Haar-random k",
    "random_matched": "covariance-matched random k",
    "random_perp": "complement of Haar-random k",
    "pca": "top-k PCA",
    "centroid": "language centroid direction",
    "centroid_perp": "all but the language centroid direction",
    "z_wrong_donor": "Z of a wrong donor",
    "z_perp_erased": "Z⊥ with Z erased",
    "full_wrong_donor": "full stream of a wrong donor",
    "weight": "weight-based Z",
    "weight_perp": "complement of the weight-based Z",
    "weight_wrong_donor": "weight-based Z of a wrong donor",
    "weight_perp_erased": "its complement, with it erased",
}
SITE_NAMES = NAMES | {
    "full_wrong_donor": "full stream, wrong donor",
    "layer_z": "layer's own Z",
    "layer_z_wrong_donor": "layer's own Z, wrong donor",
    "random": "random",
}
FROM_WEIGHTS = ("weight", "weight_head0", "sweep", "previous_layer")  # methods that fit nothing on activations
VERDICTS = {
    "double_dissociation": "Swapping Z moves the answer and swapping its complement moves the language",
    "partial": "Swapping Z moves the answer more often than random subspaces do, but this is no double dissociation",
    "none": "Swapping Z is not shown to move the answer: Z is correlational at best",
}
LIMITATIONS = """
    Only the last prompt position is patched: what earlier positions carry reaches later layers unswapped.

    A swap replaces part of one stream by part of another; the result may be a state that the model never visits.

    Four candidates are compared; section 7 shows what comes out when nothing is offered.

    Each problem takes part in several pairs, so the Wilson intervals are somewhat too narrow.

    Success by itself does not make Z special: read it beside matched subspaces and PCA.

    Candidates are scored without what follows them, so an answer also collects that of longer ones that begin with it.
"""


def summary(results: dict) -> str:
    """The deciding numbers, for the last line printed."""
    success, problems = results["success"], results["problems"]
    if not results["pairs"]:
        return f"0 pairs: {problems['solved_everywhere']} of {problems['asked']} problems solved in every language"
    return (
        f"Z {success['z']:.1%}, Z⊥ {success['z_perp']:.1%} of {results['pairs']} pairs; "
        f"random {success['random']:.1%} (p {page.show(results['null']['random']['p'], 2)})"
    )


def claims(results: dict) -> list[dict]:
    """The recipe's success criteria, as rows."""
    predicted = "weight" if "weight" in results["success"] else "z"
    alike = results["same_problem"]
    wrong, rescued, by_random = alike["z"]["wrong_before"], alike["z"]["rescued"], alike["random"]["rescued"]
    both = f"{rate(results, predicted)}; its complement {rate(results, f'{predicted}_perp')}"
    chance = f"a random subspace {by_random} of {wrong}, exact McNemar p {page.show(alike['p_rescue'], 2)}"
    moves, keeps = (
        "swapping Z changes the answer and not the language",
        "swapping Z⊥ changes the language and not the answer",
    )
    weights = "the Z that the weights predict does both"
    rescues = "Z of the same problem in the other language rescues a wrong answer"
    return [
        page.claim("z", moves, "yes", rate(results, "z"), beside(results, "z")),
        page.claim("z_perp", keeps, "yes", rate(results, "z_perp"), beside(results, "z_perp")),
        page.claim("weights", weights, "yes, without any data", both, beside(results, predicted)),
        page.claim("rescue", rescues, "yes", f"{rescued} of {wrong} wrong answers", chance),
    ]


def rate(results: dict, label: str) -> str:
    """A condition's success with its interval."""
    low, high = results["interval"][label]
    return f"{results['success'][label]:.1%} of {results['pairs']} pairs (95 % {low:.1%} to {high:.1%})"


def beside(results: dict, label: str) -> str:
    """What a condition is tested against: its nulls and its control."""
    parts = []
    for nulls in (results["null"], results.get("weight_null", {})):
        for name, row in nulls.items():
            if row["tests"] == label:
                against = f"{NAMES[name]} {row['mean']:.1%} (95th percentile {row['high']:.1%})"
                parts.append(f"{against}, p {page.show(row['p'], 2)}")
    control, tested = results["controls"][label], label.removesuffix("_perp")
    p = results["paired"][tested]["wrong_donor" if label == tested else "erased"]
    return "; ".join([*parts, f"{NAMES[control]} {results['success'][control]:.1%}, p {page.show(p, 2)}"])


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figures."""
    samples = [json.loads(line) for line in arrays[SAMPLES].decode().split("\n") if line]
    return {
        "phase3_success.png": figure_success(results),
        "phase3_dose.png": figure_dose(results),
        "phase3_sites.png": figure_sites(results),
        "phase3_output.md": page.report(
            f"Phase 3: patching {results['model']['name']}",
            verdict_sentence(results),
            results,
            sections(results, samples),
            limitations(results),
        ),
    }


def verdict_sentence(results: dict) -> str:
    success, z, show, pairs = results["success"], results["settings"]["z"], page.show, results["pairs"]
    if not pairs:
        problems = results["problems"]
        return page.prose(f"""
            Nothing can be patched (`none`): {problems["solved_everywhere"]} of {problems["asked"]} problems are solved
            unpatched in every language, and no two of them make a pair. This says nothing about Z.
        """)
    null, paired = results["null"], results["paired"]["z"]
    weights = page.layer_name(z["bottleneck"], results["layer_chosen"])
    source = page.METHODS[z["method"]] + (f", {weights}" if z["layer"] == z["bottleneck"] else "")
    sentences = [page.prose(f"""
        {VERDICTS[results['verdict']]} (`{results['verdict']}`). With a donor of another problem in another language, Z (k =
        {z['k']} at site {z['site']}; {source}) gives the donor's answer in the recipient's language in
        {success['z']:.1%} of {pairs} pairs (Haar-random {success['random']:.1%}, p {show(null['random']['p'], 2)};
        covariance-matched {success['random_matched']:.1%}, p {show(null['random_matched']['p'], 2)}; wrong donor
        {success['z_wrong_donor']:.1%}, p {show(paired['wrong_donor'], 2)}); Z⊥ gives the recipient's answer in the donor's
        language in {success['z_perp']:.1%} (with Z erased {success['z_perp_erased']:.1%}, p {show(paired['erased'], 2)}). The
        whole stream gives the donor's answer in {moved_answer(results, 'full'):.1%} (a wrong donor's
        {moved_answer(results, 'full_wrong_donor'):.1%}).
    """)]  # fmt: skip
    if results["not_beaten"]:
        sentences.append(f"Z does not beat: {', '.join(NAMES[name] for name in results['not_beaten'])}.")
    if pairs < results["thresholds"]["few_pairs"]:
        sentences.append("These are too few pairs to tell.")
    if "weight_verdict" in results:
        does = f"At that size the weight-based Z of {weights} does it in {success['weight']:.1%}"
        sentences.append(f"{does} (by the same rule `{results['weight_verdict']}`).")
    return " ".join(sentences)


def moved_answer(results: dict, label: str) -> float:
    """Share of pairs in which the donor's answer wins, in either language."""
    return sum(won for won, (answer, _) in zip(results["winners"][label], results["candidates"]) if answer == DONOR)


def sections(results: dict, samples: list[dict]) -> list[str]:
    return [
        problems_section(results),
        conditions_section(results),
        nulls_section(results),
        designs_section(results),
        sweeps_section(results),
        generation_section(results),
        page.prose(f"""
            ## 9 Sample generations

            All are in `{SAMPLES}`.

            {sample_table(samples)}
        """),
    ]


def problems_section(results: dict) -> str:
    settings, problems, site = results["settings"], results["problems"], results["settings"]["z"]["site"]
    files = page.problem_files(settings)
    solved = ", ".join(f"{count} in {name}" for name, count in problems["solved"].items())
    fitted, everywhere = problems["left_out_as_fitted"], problems["solved_everywhere"]
    left_out = f" {fitted} problems on which Z was fitted are left out." if fitted else ""
    return page.prose(f"""
        ## 1 Problems and pairs

        {problems["asked"]} problems from {files}, answers in words, exemplars from `{settings["exemplars"][0]}`.{left_out}
        Solved unpatched in a word of that language: {solved}; in every language: {everywhere}. The other
        {problems["asked"] - everywhere} fall out. {results["pairs"]} pairs: each is a recipient once per direction, its donor
        is another problem with another answer. The stream at the last prompt position is patched at site {site}, the stream
        after {site} layers.
    """)


def conditions_section(results: dict) -> str:
    width = results["width"]
    return page.prose(f"""
        ## 2 Conditions

        ![Success of every condition](phase3_success.png)

        Different problem, other language. Shares of pairs in which each of the four candidates has the highest
        log-probability; *target* is the outcome that counts as success if Z holds the answer and Z⊥ the language (conditions
        without a prediction of their own are scored as Z). *Answer* and *language* are mean changes of log-odds towards the
        donor's, against no swap.

        {condition_table(results)}

        Z⊥ has {page.show(float(width - results["settings"]["z"]["k"]))} of {width} dimensions: that it acts almost like the
        full swap is expected whatever Z is. What would count is that it leaves the answer alone.
    """)


def nulls_section(results: dict) -> str:
    show, settings, paired = page.show, results["settings"], results["paired"]["z"]
    energy = ", ".join(f"{NAMES[name]} {show(value, 2)}" for name, value in results["energy"].items())
    return page.prose(f"""
        ## 3 Random subspaces

        {settings["draws"]} draws each; p = (1 + draws at least as successful) / (1 + draws). Covariance-matched draws come
        from N(0, Σ) of the other fold's streams at the last prompt position, around each language's mean. Share of the
        swapped difference's squared norm inside: {energy}; k/d is {show(settings["z"]["k"] / results["width"], 2)}.

        {null_table(results)}

        Over the same pairs (exact McNemar): Z against no swap p = {show(paired["unpatched"], 2)}, against a wrong donor p =
        {show(paired["wrong_donor"], 2)}; Z⊥ against Z⊥ with Z erased p = {show(paired["erased"], 2)}. A swap that merely
        erases the recipient's answer leaves two answers to chance and can succeed in half of the pairs; the part of a third
        problem, whose answer is no candidate, shows how often.
    """)


def designs_section(results: dict) -> str:
    return page.prose(f"""
        ## 4 Designs and directions

        Success per direction (donor to recipient), different problem, other language:

        {direction_table(results)}

        Different problem, same language (the donor asks in the recipient's language, so only the answer can move; the other
        language's candidates are still on offer):

        {same_language_table(results)}
    """)


def sweeps_section(results: dict) -> str:
    k, draws = results["settings"]["z"]["k"], results["sweep_draws"]
    return page.prose(f"""
        ## 5 Dose and response

        ![Dose and response](phase3_dose.png)

        The first k rows of a basis that begins with Z's {k} directions, then random ones; beside {draws} random bases.

        {dose_table(results)}

        ## 6 Sites

        ![Success by site](phase3_sites.png)

        Success of each swap at every site, beside the same with a wrong donor, which is the floor that erasing alone reaches;
        *layer's own Z* is the weight-based Z of the layer that ends there (k = {k} at most), *random* the mean of {draws}
        Haar-random subspaces.

        {site_table(results)}

        {causal_text(results["causal_site"])}
    """)


def causal_text(causal: dict) -> str:
    if causal["site"] is None:
        return "No layer's own Z does better at its output than both a wrong donor and random subspaces."
    return page.prose(f"""
        The layer whose own weight-based Z works best is L{causal["layer"]} (site {causal["site"]}): {causal["gain"]:+.1%} above
        the better one of wrong donor and random subspaces (sign flips over pairs, Holm over sites: p
        {page.show(causal["p_holm"], 2)}); it alone is best in {causal["support"]:.0%} of bootstrap resamples of the pairs.
    """)


def generation_section(results: dict) -> str:
    return page.prose(f"""
        ## 7 Free generation

        Greedy generation with the swap at the last prompt position, every pair, no candidates given; *random* is one Haar
        draw.

        {generated_table(results)}

        ## 8 Same problem

        Recipient and donor are one problem, solved unpatched in the donor's language. *Rescued*: wrong before, right after,
        in the recipient's language. A swap that leaves a right answer alone shows nothing: both prompts have that answer.

        {same_problem_table(results)}
    """)


def percent(value: float) -> str:
    return f"{value:.1%}"


def outcome(answer: int, language: int) -> str:
    return f"{WHO[answer]} answer, {WHO[language]} language"


def condition_table(results: dict) -> str:
    rows = []
    for label in results["conditions"]:
        spread, effect = results["interval"].get(label), results["effect"][label]
        bounds = "mean of draws" if spread is None else f"{spread[0]:.1%} to {spread[1]:.1%}"
        row = [NAMES[label], outcome(*results["targets"][label]), percent(results["success"][label]), bounds]
        row += [percent(value) for value in results["winners"][label]]
        rows.append([*row, f"{effect['answer']:+.2f}", f"{effect['language']:+.2f}"])
    outcomes = [outcome(*candidate) for candidate in results["candidates"]]
    headers = ["swapped", "target", "success", "95 % Wilson", *outcomes, "answer, nats", "language, nats"]
    return page.table(headers, rows)


def null_table(results: dict) -> str:
    rows = []
    for name, row in results["null"].items():
        rates, effect = [percent(row[key]) for key in ("low", "mean", "high")], row["effect"]
        nudged = f"{effect['middle']:+.2f} (95th percentile {effect['high']:+.2f})"
        ps = [page.show(record["p"], 2) for record in (row, effect)]
        rows.append([NAMES[name], NAMES[row["tests"]], *rates, ps[0], nudged, ps[1]])
    headers = ["null", "of", "5 %", "mean", "95 %", "p of success", "its effect, nats", "p of effect"]
    return page.table(headers, rows)


def direction_table(results: dict) -> str:
    shown = [label for label in results["conditions"] if label != "none"]
    rows = [
        [name.replace("_to_", " → "), row["pairs"], *(percent(row[label]) for label in shown)]
        for name, row in results["directions"].items()
    ]
    return page.table(["direction", "pairs", *(NAMES[label] for label in shown)], rows)


def same_language_table(results: dict) -> str:
    rows = []
    for label in results["conditions"]:
        if label in results["same_language"]:
            won = list(zip(results["same_language"][label], results["candidates"]))
            answer = sum(value for value, (whose, _) in won if whose == DONOR)
            language = sum(value for value, (_, whose) in won if whose == DONOR)
            rows.append([NAMES[label], percent(answer), percent(language)])
    return page.table(["swapped", "donor's answer wins", "other language wins"], rows)


def dose_table(results: dict) -> str:
    kinds = {"answer": "donor's answer", "language": "donor's language", "success": "Z's target"}
    keys = [*kinds, *(f"random_{key}" for key in kinds)]
    rows = [[row["k"], *(percent(row[key]) for key in keys)] for row in results["dose"]]
    return page.table(["k", *kinds.values(), *(f"random: {name}" for name in kinds.values())], rows)


def site_table(results: dict) -> str:
    names = [swap["name"] for swap in results["site_swaps"]]
    rows = [
        [f"{row['site']}{' (Z)' if row['handed'] else ''}", *(percent(row[name]) for name in names)]
        for row in results["sites"]
    ]
    return page.table(["site", *(SITE_NAMES[name] for name in names)], rows)


def generated_table(results: dict) -> str:
    columns = {
        "recipient_answer": "recipient's answer",
        "donor_answer": "donor's answer",
        "other_answer": "other",
        "recipient_language": "recipient's language",
        "donor_language": "donor's language",
        "donor_answer_in_recipient_language": "Z's target",
        "recipient_answer_in_donor_language": "Z⊥'s target",
    }
    rows = [
        [NAMES[label], *(percent(results["generated"][label][key]) for key in columns)]
        for label in results["generated_conditions"]
    ]
    return page.table(["swapped", *columns.values()], rows)


def same_problem_table(results: dict) -> str:
    rows = []
    for label in results["same_problem_conditions"]:
        row = results["same_problem"][label]
        counts = [("rescued", "wrong_before"), ("answer_lost", "right_before"), ("language_moved", "right_before")]
        rows.append([NAMES[label], *(f"{row[some]} of {row[every]}" for some, every in counts)])
    return page.table(["swapped", "rescued", "right answers lost", "language moved"], rows)


def sample_table(samples: list[dict]) -> str:
    """The first pairs of every direction under every condition."""
    seen, rows = {}, []
    for sample in samples:
        if sample.get("design") == "different_problem":
            kind = (sample["condition"], sample["language"], sample["donor_language"])
            seen[kind] = seen.get(kind, 0) + 1
            if seen[kind] <= SHOWN_PAIRS:
                pair = [f"{sample['id']}, {sample['language']}", f"{sample['donor']}, {sample['donor_language']}"]
                output = page.escape(sample["output"].strip()[:60])
                told = [sample["answer"], sample["written_in"] or "–"]
                rows.append([*pair, NAMES[sample["condition"]], output, *told])
    rows.sort(key=lambda row: row[:2])
    return page.table(["recipient", "donor", "swapped", "output", "whose answer", "language"], rows)


def limitations(results: dict) -> list[str]:
    lines, few = page.prose(LIMITATIONS).split("\n\n"), results["thresholds"]["few_pairs"]
    special = []
    if results["pairs"] < few:
        level = f"{results['thresholds']['level']:g}".lstrip("0")
        special.append(
            f"With fewer than {few} pairs the exact tests hardly reach p < {level} whatever Z does: `none` says little."
        )
    if results["answer_is_here"] is False:
        special.append(page.prose("""
            At this site even the whole stream does no better than a wrong donor's: the answer is not shown to be at the last
            position there, and no subspace of it could be expected to pass. Section 6 shows all sites.
        """))  # fmt: skip
    if not results["settings"]["z"]["passed"]:
        special.append("This Z did not pass phase 2's test.")
    if results["layer_chosen"] == "no_bottleneck":
        special.append(
            "The weights predict no layer, so nothing here tests a prediction: the layer of the weight-based Z is exploratory."
        )
    if results["settings"]["z"]["method"] not in FROM_WEIGHTS:
        special.append(
            "Z was fitted on activations (a contingency): its success is no evidence for a prediction from weights."
        )
    return special + lines


def figure_success(results: dict) -> bytes:
    labels, colors = results["conditions"], {(1, 0): "tab:blue", (0, 1): "tab:orange", (1, 1): "tab:gray"}
    with page.figure(9, 4.5) as (figure, panel):
        for place, label in enumerate(labels):
            value = results["success"][label]
            low, high = results["interval"].get(label) or (results["null"][label][end] for end in ("low", "high"))
            error = [[max(0, value - low)], [max(0, high - value)]]
            panel.bar(place, value, color=colors[tuple(results["targets"][label])], yerr=error, capsize=4)
        for (answer, language), color in colors.items():
            panel.bar(0, 0, color=color, label=f"{WHO[answer]} answer in the {WHO[language]} language")
        panel.axhline(results["thresholds"]["majority"], color="black", linestyle=":", linewidth=1)
        panel.set_xticks(range(len(labels)), [NAMES[label] for label in labels], rotation=30, ha="right", fontsize=8)
        spread = f"95 % Wilson; random: 5 % to 95 % of {results['settings']['draws']} draws"
        panel.set_title(f"target outcome wins, share of {results['pairs']} pairs ({spread})")
        panel.set(ylabel="share of pairs", ylim=(0, 1.05))
        panel.legend(fontsize=8)
    return page.png(figure)


def figure_dose(results: dict) -> bytes:
    ks = [row["k"] for row in results["dose"]]
    lines = (
        ("answer", "donor's answer", "tab:blue"),
        ("language", "donor's language", "tab:orange"),
        ("success", "donor's answer, recipient's language", "tab:green"),
    )
    with page.figure(7, 4) as (figure, panel):
        for key, label, color in lines:
            panel.plot(ks, [row[key] for row in results["dose"]], marker=".", color=color, label=label)
            drawn = [row[f"random_{key}"] for row in results["dose"]]
            panel.plot(ks, drawn, ":", color=color, label=f"{label}, random basis")
        panel.axvline(results["settings"]["z"]["k"], color="tab:red", linewidth=1, label="Z ends here")
        panel.set_xscale("log", base=2)
        panel.set(title="how many dimensions are swapped", xlabel="k", ylabel="share of pairs", ylim=(-0.02, 1.05))
        panel.legend(fontsize=7)
    return page.png(figure)


def figure_sites(results: dict) -> bytes:
    names = [swap["name"] for swap in results["site_swaps"]]
    handed = next(row["site"] for row in results["sites"] if row["handed"])
    with page.figure(9, 3.8) as (figure, panel):
        values = np.array([[row[name] for row in results["sites"]] for name in names])
        image = panel.imshow(values, aspect="auto", vmin=0, vmax=1, cmap="viridis")
        figure.colorbar(image, ax=panel, label="success")
        panel.set_yticks(range(len(names)), [SITE_NAMES[name] for name in names])
        panel.axvline(handed, color="tab:red", linewidth=1)
        panel.set_title(f"how often each swap's own target wins, by site (red: Z's site {handed})")
        panel.set_xlabel("site (layers passed)")
    return page.png(figure)
