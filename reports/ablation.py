"""Words, tables and figure of the ablation's page."""

import json

from reports import page

SAMPLES = "ablation_samples.jsonl"
SHOWN = 2  # problems in the report
NAMES = {
    "none": "nothing",
    "language": "language subspace",
    "language_reinjected": "language subspace, re-injected",
    "z_perp": "Z⊥",
    "random": "random subspaces",
    "shuffled": "shuffled languages",
    "random_perp": "all but a random subspace",
}
WHERE = {"last": "last prompt position", "prefill": "whole prompt", "all": "prompt and answer", None: "–"}
NO_EDIT = {"condition": "none", "scope": None, "strength": 0.0, "reinjection": 0.0}
show = page.show


def points(value: float) -> str:
    return f"{100 * value:+.1f}"


def paired(row: dict, name: str = "difference") -> str:
    low, high = row[f"{name}_interval"]
    return f"{points(row[name])} ({points(low)} to {points(high)})"


def span(values: list[float]) -> str:
    return f"{points(min(values))} to {points(max(values))}"


def amount(row: dict) -> str:
    """λ, and that of the upper layers where there is re-injection."""
    return f"{row['strength']:g}" + (f", above −{row['reinjection']:g}" if row["reinjection"] else "")


def at(row: dict) -> list[str]:
    """The cells that say what was removed, where and how strongly."""
    return [NAMES[row["condition"]], WHERE[row["scope"]], amount(row)]


def by_role(results: dict) -> dict[str, dict]:
    """The rows that verdict and claims are about."""
    return {role: row for row in results["rows"] for role in row["roles"]}


def beside(results: dict, role: str) -> str:
    """The nulls of the row in that role."""
    nulls = [null for null in results["nulls"] if role in null["roles"]]
    return "; ".join(f"{NAMES[null['null']]} {span(null['differences'])} points" for null in nulls)


def summary(results: dict) -> str:
    before, row = results["none"]["accuracy"], by_role(results)["primary"]
    return f"accuracy {before:.1%} → {row['accuracy']:.1%}, McNemar p {show(row['p'], 2)}"


def claims(results: dict) -> list[dict]:
    """What the paper found and what we expect of Z⊥, as rows."""
    none, rows = results["none"], by_role(results)
    primary, again, bare, last = (rows[role] for role in ("primary", "reinjected", "z_perp", "z_perp_last"))
    return [
        page.claim(
            "language",
            "removing the language subspace improves reasoning",
            "yes (arXiv 2505.15257)",
            page.prose(f"""
                accuracy {none["accuracy"]:.1%} → {primary["accuracy"]:.1%}, {paired(primary)} points, p {show(primary["p"], 2)}
                (λ {amount(primary)})
            """),
            beside(results, "primary"),
        ),
        page.claim(
            "reinjected",
            "the output language survives with re-injection",
            "yes (arXiv 2505.15257)",
            page.prose(f"""
                in the language asked {none["kept"]:.1%} → {again["kept"]:.1%}, {paired(again, "kept_difference")} points
                (λ {amount(again)})
            """),
            f"without re-injection {primary['kept']:.1%}",
        ),
        page.claim(
            "z_perp",
            "removing Z⊥ leaves the answer intact",
            "yes (our hypothesis)",
            page.prose(f"""
                accuracy {none["accuracy"]:.1%} → {bare["accuracy"]:.1%}, {paired(bare)} points (λ {amount(bare)}); removed at the
                last prompt position only {last["accuracy"]:.1%}
            """),
            beside(results, "z_perp"),
        ),
    ]


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figure from saved results and samples."""
    samples = [json.loads(line) for line in arrays[SAMPLES].decode().split("\n") if line]
    parts = [
        problems_section(results),
        subspaces_section(results),
        strengths_section(results),
        answers_section(results),
        nulls_section(results),
        language_section(results),
        samples_section(results, samples),
    ]
    title = f"Ablation: removing the language subspace from {results['model']['name']}"
    text = page.report(title, verdict_sentence(results), results, parts, limitations(results))
    return {"ablation_test.png": figure_test(results), "ablation_output.md": text}


def verdict_sentence(results: dict) -> str:
    verdict, none, rows = results["verdict"], results["none"], by_role(results)
    primary, complete, apart = rows["primary"], rows["complete"], ""
    what = {
        "ablation_helps": "Removing the language subspace makes more answers right, and more than any null does",
        "ablation_hurts": "Removing the language subspace makes fewer answers right",
        "no_effect": "No effect of removing the language subspace on right answers is shown",
    }[verdict]
    if none["accuracy"] == 0:
        what = "Nothing is solved without an edit, so there is no reasoning here that could improve or suffer"
    low, high = primary["difference_interval"]
    if verdict == "no_effect" and low * high > 0:
        apart = "The interval leaves 0 out, but the exact test decides."
    return page.prose(f"""
        {what} (`{verdict}`). With the strength chosen on other problems (λ {primary["strength"]:g}, {WHERE[primary["scope"]]})
        accuracy goes from {none["accuracy"]:.1%} to {primary["accuracy"]:.1%} on {results["problems"]["test"]} problems
        (difference {points(primary["difference"])} points, 95 % {points(low)} to {points(high)}, McNemar p
        {show(primary["p"], 2)}). {apart}
        In the language asked are {none["kept"]:.1%} of the answers before and {primary["kept"]:.1%} after. With complete removal
        (λ {complete["strength"]:g}) accuracy is {complete["accuracy"]:.1%}, and {complete["kept"]:.1%} are in the language asked.
    """)


def problems_section(results: dict) -> str:
    settings, problems = results["settings"], results["problems"]
    files = page.problem_files(settings)
    return page.prose(f"""
        ## 1 Problems in two halves

        {problems["development"] + problems["test"]} problems from {files} in {", ".join(settings["languages"])}, answers in
        words, exemplars from `{settings["exemplars"][0]}`: {problems["development"]} for development (language subspaces and
        strengths), {problems["test"]} for the test. The halves are drawn at random, but the {problems["fitted"]} problems that Z
        was fitted on are all for development.
    """)


def subspaces_section(results: dict) -> str:
    settings, width = results["settings"], results["problems"]["width"]
    middle, upper = (f"{settings[part][0]} to {settings[part][-1]}" for part in ("middle", "upper"))
    rank = len(settings["languages"]) - 1
    keys = ("share", "common", "shuffled_share", "stability")
    rows = [[row["layer"], row["third"], *(f"{row[key]:.1%}" for key in keys)] for row in results["subspaces"]]
    return page.prose(f"""
        ## 2 Language subspaces

        M_s, the language subspace of a layer, spans the differences between the languages' mean streams at the last prompt
        position: {rank} of {width} dimensions. It is removed behind layers {middle} (the middle third) and re-injected behind
        layers {upper} (the last third). *Share*: part of the stream's squared norm that lies in M_s, and in that of shuffled
        languages (section 5). *Common*: how much of that part is the same for all prompts; it is removed too. *Stability*:
        similarity of M_s from two halves of the development problems (chance {show(rank / width, 2)}).

        {page.table(["layer", "third", "share", "of it common", "share, shuffled", "stability"], rows)}
    """)


def strengths_section(results: dict) -> str:
    rows = [
        [*at(row), f"{row['accuracy']:.1%}", f"{row['kept']:.1%}", "yes" if row["chosen"] else ""]
        for row in results["development"]
    ]
    return page.prose(f"""
        ## 3 Strengths, chosen on the development half

        For every condition and scope the strength with the most right answers over all languages; of equals the weakest.
        Re-injection (a negative λ above) is searched at the strength chosen for removal alone. The choice was made by these
        accuracies, so they flatter.

        {page.table(["removed", "where", "λ", "accuracy", "in the language asked", "chosen"], rows)}
    """)


def answers_section(results: dict) -> str:
    z = results["settings"]["z"]
    return page.prose(f"""
        ## 4 Answers on the test half

        ![Differences from no edit](ablation_test.png)

        An answer that is right in any language counts. Z⊥, all but Z, is removed at site {z["site"]} only (Z: k = {z["k"]},
        {z["method"]}, layer {z["layer"]}). Differences from no edit are in percentage points, with BCa bootstrap intervals over
        problems; *gained* and *lost* count problems with more or fewer right answers, which McNemar's exact test compares. Holm's
        correction runs over all rows but the primary one, which was named before looking.

        {answer_table(results)}
    """)


def answer_table(results: dict) -> str:
    languages, rows = results["settings"]["languages"], []
    for row in [NO_EDIT | results["none"], *results["rows"]]:
        by_language = [row["accuracy_by_language"][name] for name in languages]
        cells = at(row) + [f"{value:.1%}" for value in (row["accuracy"], *by_language)]
        if row["condition"] == "none":
            rows.append(cells + [""] * 5)
            continue
        adjusted = "primary" if "primary" in row["roles"] else show(row["p_holm"], 2)
        rows.append([*cells, paired(row), row["gained"], row["lost"], show(row["p"], 2), adjusted])
    headers = [
        "removed",
        "where",
        "λ",
        "accuracy",
        *languages,
        "difference (95 %)",
        "gained",
        "lost",
        "p",
        "p after Holm",
    ]
    return page.table(headers, rows)


def nulls_section(results: dict) -> str:
    return page.prose(f"""
        ## 5 Null subspaces

        In place of the language subspace: a random one of its size for every layer, or that of shuffled languages (made-up ones,
        each with equally many prompts of every language). When Z⊥ is removed, in place of Z: a random subspace of Z's size.
        Differences from no edit in points. *Reached*: draws whose accuracy is at least that of what they stand for.

        {null_table(results)}
    """)


def null_table(results: dict) -> str:
    rows = []
    for null in results["nulls"]:
        reached = f"{null['reached']} of {len(null['differences'])}"
        reached += f" (p {show(null['p'], 2)})" if "primary" in null["roles"] else ""
        accuracy = [points(null["tested"]), span(null["differences"]), reached]
        kept = [points(null["kept_tested"]), span(null["kept_differences"])]
        rows.append([NAMES[null["null"]], *at(null)[1:], *accuracy, *kept])
    headers = ["null", "where", "λ", "accuracy, tested", "accuracy, draws", "reached", "language asked, tested"]
    return page.table([*headers, "language asked, draws"], rows)


def language_section(results: dict) -> str:
    rows = []
    for row in [NO_EDIT | results["none"], *results["rows"]]:
        difference = "" if row["condition"] == "none" else paired(row, "kept_difference")
        rows.append([*at(row), f"{row['kept']:.1%}", f"{row['moved']:.1%}", difference])
    return page.prose(f"""
        ## 6 Output language

        Answers whose letters are mostly of the script of the language asked, or of another one's; the rest have no letters.

        {page.table(["removed", "where", "λ", "asked", "another", "difference of asked (95 %)"], rows)}
    """)


def samples_section(results: dict, samples: list[dict]) -> str:
    scope = by_role(results)["primary"]["scope"]
    return page.prose(f"""
        ## 7 Sample answers

        The first test problems with edits of the {WHERE[scope]}; all are in `{SAMPLES}`.

        {sample_table(samples, scope)}
    """)


def sample_table(samples: list[dict], scope: str) -> str:
    """The same few test problems under every condition, in one scope."""
    tested = [sample for sample in samples if sample["half"] == "test" and sample["scope"] in (None, scope)]
    shown, rows = list(dict.fromkeys(sample["id"] for sample in tested))[:SHOWN], []
    for sample in sorted(tested, key=lambda sample: (sample["id"], sample["language"])):
        if sample["id"] in shown:
            cells = [f"{sample['id']}, {sample['language']}", NAMES[sample["condition"]], amount(sample)]
            cells += [page.escape(sample["output"].strip()[:60]), "yes" if sample["correct"] else "no"]
            rows.append([*cells, sample["written_in"] or "–"])
    return page.table(["problem", "removed", "λ", "output", "right", "language"], rows)


def limitations(results: dict) -> list[str]:
    problems, settings = results["problems"], results["settings"]
    rank, middle = len(settings["languages"]) - 1, results["subspaces"][0]
    return [
        *limits_of_this_model(results),
        "Answers are one word. The paper's models write out their reasoning, which a removal may help in ways that cannot show here.",
        f"M_s is removed behind {len(settings['middle'])} layers in turn, so that less than complete removal adds up over layers.",
        "Re-injection enlarges what is left inside M_s; it does not bring back what was removed.",
        "M_s is measured at the last prompt position and removed at others too, attention sinks included, as in the paper.",
        page.prose(f"""
            A random subspace holds about {rank / problems["width"]:.1%} of the stream's squared norm, M_s of layer
            {middle["layer"]} {middle["share"]:.1%}: the two removals differ in size. Shuffled languages hold
            {middle["shuffled_share"]:.1%}.
        """),
        f"Where only {results['draws']['side']} draws stand beside a row they show a range, not a p value.",
        "Bootstrap intervals over few problems are somewhat too narrow.",
        page.prose("""
            The paper's published search takes for each language the best of 24 settings by the scores on the test problems
            themselves, so part of its gain is selection; here strengths are chosen on other problems.
        """),
        page.prose("""
            The paper's formula edits the residual stream, as is done here; its published code edits the first output of vLLM's
            layers, which in Qwen2 is what the MLP adds to the stream.
        """),
    ]


def limits_of_this_model(results: dict) -> list[str]:
    """What cannot show with these answers and this Z."""
    test, room, needed, lines = results["problems"]["test"], results["room"], results["needed"], []
    if not results["can_rise"]:
        lines.append(f"""
            Accuracy is {"close to" if room else "at"} the ceiling: without any edit {room} of {test} test problems have a wrong
            answer, and {needed} must gain before the exact test can show an improvement.
        """)
    if not results["can_fall"]:
        lines.append(f"""
            Too few answers are right to show a loss: without any edit {results["solved"]} of {test} test problems have a right
            one, and {needed} are needed.
        """)
    if not results["settings"]["z"]["passed"]:
        lines.append("This Z did not pass phase 2's test.")
    return [page.prose(line) for line in lines]


def figure_test(results: dict) -> bytes:
    """Differences from no edit: a line per condition, scope and strength, a dot per draw of a null."""
    both = [*results["rows"], *results["nulls"]]
    every = [row for scope in results["scopes"] for row in both if row["scope"] == scope]
    labels = [f"{NAMES[row.get('null', row['condition'])]}, λ {amount(row)}, {WHERE[row['scope']]}" for row in every]
    with page.figure(11, 8.5, 1, 2, sharey=True) as (figure, panels):
        for panel, key, title in zip(panels, ("", "kept_"), ("accuracy", "answers in the language asked")):
            for place, row in enumerate(every):
                draw_row(panel, place, row, key)
                if place and row["scope"] != every[place - 1]["scope"]:
                    panel.axhline(place - 0.5, color="lightgray", linewidth=1)
            panel.axvline(0, color="black", linestyle=":", linewidth=1)
            panel.set(title=title, xlabel="percentage points from no edit")
        panels[0].set_yticks(range(len(every)), labels, fontsize=7)
        panels[0].invert_yaxis()
        lines = "lines: 95 % BCa bootstrap; gray: draws of nulls"
        figure.suptitle(f"round: chosen strength; square: complete removal; red: primary; {lines}", fontsize=9)
    return page.png(figure)


def draw_row(panel, place: int, row: dict, key: str) -> None:
    """A null's draws, or a condition with its interval; `key` begins the names of what is drawn."""
    if "null" in row:
        values = [100 * value for value in row[f"{key}differences"]]
        panel.plot(values, [place] * len(values), "o", color="tab:gray", markersize=3, alpha=0.6)
        return
    color, marker = "tab:red" if "primary" in row["roles"] else "tab:blue", "o" if row["chosen"] else "s"
    panel.plot([100 * end for end in row[f"{key}difference_interval"]], [place, place], color=color)
    panel.plot(100 * row[f"{key}difference"], place, marker, color=color, markersize=5)
