"""The ablation's page: what removing the language subspace does to answers, to their language and to plain text."""

import json

import verdicts
from reports import page
from reports.ablation_figures import figure_strength, figure_test
from reports.ablation_opening import (
    claim_text,
    not_needed,
    numbers_text,
    prompts_of,
    run_text,
    verdict_text,
    why_untestable,
)
from reports.ablation_tables import (
    answers_table,
    by_role,
    development_table,
    ends,
    free_table,
    label,
    lambdas,
    language_table,
    layers_table,
    nats,
    null_of,
    null_p,
    nulls_table,
    paired,
    sample_table,
    times,
    tried_table,
)
from reports.page import decimal, listing, p_value, percent

SAMPLES = "ablation_samples.jsonl"


def summary(results: dict) -> str:
    """The deciding numbers, for the last line printed."""
    if not results["measured"]:
        return why_untestable(results)
    row, null = by_role(results)["primary"], null_of(results, "primary")
    return page.prose(f"""{results["rung"]}, λ {lambdas(row)}: log-odds {nats(row["odds"])} nats, random directions
        {ends(null["odds"])}, p {null_p(null)}; right {percent(results["none"]["accuracy"])} → {percent(row["accuracy"])}; plain
        text's perplexity {times(row["text"]["value"])}""")


def claims(results: dict) -> list[dict]:
    """What the paper found and what the recipe expects of Z⊥, as rows."""
    texts = {
        "language": ("removing the language subspace improves reasoning", "yes (arXiv 2505.15257)"),
        "reinjected": ("the output language survives with re-injection", "yes (arXiv 2505.15257)"),
        "z_perp": ("without all but Z at the last position the answer stays", "yes (the recipe's hypothesis)"),
    }
    if not results["measured"]:
        return [page.claim(name, *text, why_untestable(results), "–") for name, text in texts.items()]
    none, rows = results["none"], by_role(results)
    primary, again, bare, mean = (rows[role] for role in ("primary", "reinjected", "z_perp", "z_perp_mean"))
    measured = {
        "language": f"""log-odds {nats(primary["odds"])} nats, right {percent(none["accuracy"])} → {percent(primary["accuracy"])},
            text's perplexity {times(primary["text"]["value"])} (λ {lambdas(primary)})""",
        "reinjected": f"""in the language asked {percent(none["kept"])} → {percent(again["kept"])},
            {paired(again, "kept_difference")} points (λ {lambdas(again)})""",
        "z_perp": f"""set to its language's mean: log-odds {nats(mean["odds"])} nats, right {percent(none["accuracy"])} →
            {percent(mean["accuracy"])}; removed from the whole prompt, not judged: {nats(bare["odds"])} nats, right
            {percent(bare["accuracy"])}, text's perplexity {times(bare["text"]["value"])}""",
    }
    nulls = {role: null_of(results, role) for role in ("primary", "z_perp", "z_perp_mean")}
    kept = f"p {null_p(nulls['z_perp_mean'])}"
    kept = "which lose nothing either" if not_needed(results) else kept
    beside = {
        "language": f"random directions as large: {ends(nulls['primary']['odds'])}, p {null_p(nulls['primary'])}",
        "reinjected": f"without re-injection {percent(primary['kept'])}",
        "z_perp": f"""all but Haar-random subspaces of Z's size: {ends(nulls["z_perp_mean"]["odds"])}, {kept};
            removed {ends(nulls["z_perp"]["odds"])}, p {null_p(nulls["z_perp"])}""",
    }
    return [
        page.claim(name, *text, page.prose(measured[name]), page.prose(beside[name])) for name, text in texts.items()
    ]


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figures from saved results and samples."""
    samples = [json.loads(line) for line in arrays[SAMPLES].decode().split("\n") if line]
    parts, files = [problems_section(results)], {}
    if results["measured"]:
        parts += [subspaces_section(results), strengths_section(results), answers_section(results)]
        parts += [nulls_section(results), language_section(results), free_section(results, samples), LEGEND]
        files = {"ablation_strength.png": figure_strength(results), "ablation_test.png": figure_test(results)}
    title = f"Ablation: removing the language subspace from {results['model']['name']}"
    opening = [numbers_text(results), page.prose(claim_text(results)), *run_text(results)]
    text = page.report(title, verdict_text(results), results, parts, limitations(results), opening)
    return files | {"ablation_output.md": text}


def problems_section(results: dict) -> str:
    wanted, problems, guess = results["wanted"], results["problems"], results["guessing"]
    alone = " There was one kind only, so that nothing was chosen." if len(results["tried"]) == 1 else ""
    fitted = f", among them all {problems['fitted']} answers that Z was fitted on" if problems["fitted"] else ""
    return page.prose(f"""
        ## 1 Problems

        Taken is the kind of problem that leaves room on both sides: the one whose share of right answers is nearest to
        {percent(wanted["low"])} to {percent(wanted["high"])}, of equals the hardest. This rule was set before any edit was looked
        at.{alone} All problems of that kind count, not only solved ones, but at most {wanted["most"]} a half, evenly spaced.

        {tried_table(results)}

        *Right*: the most probable of all answers of the answer set ({results["columns"]} ways to write one, in
        {listing(results["languages"])}) is the problem's own; below, in whichever language. Development half:
        {problems["development"]} problems with {problems["development_answers"]} answers{fitted}; test half: {problems["test"]}
        with {problems["test_answers"]} other answers, of which {problems["solved"]} are right in some language and
        {problems["room"]} wrong in some. A model that guesses: with answers shuffled among the problems
        {ends(guess, percent)} of the {prompts_of(results, "all")} prompts of both halves are right ({guess["draws"]} shuffles), really
        {percent(guess["accuracy"])}.
    """)


def subspaces_section(results: dict) -> str:
    width, languages, thirds = results["problems"]["width"], results["languages"], results["thirds"]
    layers = listing([f"{part['name']} L{part['layers'][0]} to L{part['layers'][-1]}" for part in thirds])
    rank = len(languages) - 1
    return page.prose(f"""
        ## 2 Language subspaces

        M_s, the language subspace behind a layer, spans the differences between the languages' mean streams at the last prompt
        position of the development half: {rank} of {width} dimensions. Thirds: {layers}. *Share*: part of the stream's squared
        norm that lies in M_s, and in that of made-up languages (groups with equally many prompts of every language). *Common*: how
        much of that part is the same for all prompts; it is removed too. *Stability*: similarity of M_s from two halves of the
        development problems (chance {decimal(rank / width)}).

        {layers_table(results)}
    """)


def strengths_section(results: dict) -> str:
    return page.prose(f"""
        ## 3 Strengths, chosen on the development half

        λ is the one with the highest mean log-odds of the right answer, of equals the weakest; re-injection (a negative λ in the
        late third) is searched at the λ chosen for removal alone. The choice was made by these numbers, so they flatter. λ = 0
        cannot be chosen: a strength that does nothing is no ablation.{every_strength_hurt(results)}

        {development_table(results)}
    """)


def answers_section(results: dict) -> str:
    z, read = results["settings"]["z"], min(results["texts"], results["problems"]["test"])
    return page.prose(f"""
        ## 4 Answers under the edits

        ![Log-odds, right answers and perplexity over λ](ablation_strength.png)

        ![Every edit, some beside random draws](ablation_test.png)

        *{caption(results)}*

        Edits act on the whole prompt, exemplars included, unless another place is named. *Points*: difference from no edit in
        percentage points of {prompts_of(results)} prompts, with McNemar's exact p over {results["problems"]["test"]} problems.
        *Log-odds*: change of the mean over languages, with p of sign flips
        over problems after Holm's correction over all rows but the primary one and λ = 0. Beside every one stands what the same
        edit does to *plain text*: the perplexity of {read} of the questions, behind their exemplars,
        as a multiple of the unedited one; an edit of the last position comes behind the text. All but Z is removed at
        {page.place(z["site"])} (Z: k {z["k"]}, {page.METHODS.get(z["method"], z["method"])}, of layer {z["layer"]}).

        {answers_table(results)}
    """)


def every_strength_hurt(results: dict) -> str:
    """Said where no strength of the removal alone raised the odds on the development half."""
    none, *rows = results["development"]
    own = [row for row in rows if row["condition"] == "language"]
    if any(row["odds"] >= none["odds"] for row in own):
        return ""
    chosen = next(row for row in own if row["chosen"])
    weakest = (
        "the weakest was"
        if chosen["strength"] == min(row["strength"] for row in own)
        else "the one that hurt least was"
    )
    return f" Here every strength hurt; {weakest} taken."


def caption(results: dict) -> str:
    """Beside which edits random draws stand, and how many have none."""
    rows = by_role(results)
    beside = [f"{label(rows[null['role']])} (λ {lambdas(rows[null['role']])})" for null in results["nulls"]]
    edited = sum(1 for row in results["rows"] if row["strength"])
    return f"""Random draws stand beside {len(beside)} of {edited} edits: {"; ".join(beside)}. The other {edited - len(beside)} have
        none. Beyond the scale stands an arrow with the value, or with the draws' range and number."""


def nulls_section(results: dict) -> str:
    return page.prose(f"""
        ## 5 Random directions that change as much

        In place of M_s a random rotation of it, one for all layers, so that the layers' subspaces lie to each other as they did; at
        every position and layer the change is as long as the edit's own was there. In place of Z a Haar-random subspace of its
        size, not matched to how much of the stream's variance Z holds. *p*: share of draws that go as far in the edit's own
        direction; of all but Z, share of draws that keep as much of the answer. {few_draws(results)} Made-up languages (section 4)
        remove content: a rival, and no null.

        {nulls_table(results)}
    """)


def few_draws(results: dict) -> str:
    """What the smallest nulls cannot show."""
    draws = sorted({null["odds"]["draws"] for null in results["nulls"]})
    few = [f"{n} draws can show no p below {p_value(1 / (1 + n))}" for n in draws if 1 / (1 + n) >= verdicts.LEVEL]
    return f"{listing(few)}." if few else ""


def language_section(results: dict) -> str:
    return page.prose(f"""
        ## 6 Output language

        The language of the most probable answer, right or wrong; and how probable the answer set is as a whole: where that falls,
        the model says something else.

        {language_table(results)}
    """)


def free_section(results: dict, samples: list[dict]) -> str:
    return page.prose(f"""
        ## 7 Free answers

        A check of the score: {results["free"]["problems"]} test problems answered freely in every language, without an edit and
        with the primary one, which then acts on every token, prompt and answer alike, as in the paper. All are in `{SAMPLES}`.

        {free_table(results)}

        {sample_table(samples)}
    """)


def limitations(results: dict) -> list[str]:
    if not results["measured"]:
        return [
            "Nothing was edited: where the model only guesses, an edit that changes its guesses would say nothing.",
            "Answers are one word. The paper's models write out their reasoning.",
        ]
    problems, nulls, rows = results["problems"], results["nulls"], by_role(results)
    few = [
        f"{null['odds']['draws']} beside {label(rows[null['role']])}, λ {lambdas(rows[null['role']])}" for null in nulls
    ]
    few = [words for words, null in zip(few, nulls) if 1 / (1 + null["odds"]["draws"]) >= verdicts.LEVEL]
    lines = [
        *limits_of_this_model(results),
        "Answers are one word. The paper's models write out their reasoning, which a removal may help in ways that cannot show here.",
        "M_s is removed behind several layers in turn, so that less than complete removal adds up over layers.",
        "Re-injection enlarges what is left inside M_s; it does not bring back what was removed.",
        """M_s is measured at the last prompt position and removed at all others too, attention sinks included, as in the paper;
            means that it is set to are over all positions but sinks.""",
        f"Few draws stand beside some edits ({listing(few)}): at most a range, and no p below .05.",
        """Plain text here is the questions' own, behind exemplars that look like them: easier to guess than free text, and in the
            rung's own style.""",
        f"""Intervals over {problems["test"]} problems are somewhat too narrow; {results["factor"]:g} as the factor that counts
            is a choice.""",
        """The paper takes for each language the best of 24 settings by the scores on the test problems themselves, so part of its
            gain is selection; here λ is chosen on other answers.""",
        """The paper's formula edits the residual stream, as is done here; its published code edits the first output of vLLM's
            layers, which in Qwen2 is what the MLP adds to the stream.""",
    ]
    return [page.prose(line) for line in lines]


def limits_of_this_model(results: dict) -> list[str]:
    """What cannot show with these answers and this Z."""
    test, room, needed, lines = results["problems"]["test"], results["problems"]["room"], results["needed"], []
    if not results["can_rise"]:
        lines.append(f"""Right answers are {"close to" if room else "at"} the ceiling: without any edit {room} of {test} test problems
            have a wrong answer, and {needed} must gain before the exact test can show it. The odds can still rise.""")
    if not results["settings"]["z"]["passed"]:
        lines.append("This Z did not pass phase 2's test.")
    return lines


LEGEND = page.prose("""
    ## Legend

    - **Stream**: the residual stream, the sum that every layer reads and adds to; L1.out is the stream as layer 1 leaves it.
    - **M_s**: the language subspace; **λ**: the share of the part inside it that is taken away, 0 none, 1 all.
    - **Z**: the subspace that phase 2 handed on; *all but Z* is everything outside of it.
    - **Whole prompt** (`prefill`): the edit acts on every token of the prompt; **last position** (`last`): on its last one.
    - **Log-odds**, in nats: ln(p / (1 - p)) of the right answer within the answer set.
    - **Perplexity**: exp of the mean nats that a token of the question costs; ×1 is unedited.
    - **Holm**: p corrected for the number of rows tried; **exact p**: McNemar's test over problems.
""")
