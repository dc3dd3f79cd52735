"""Phase 3's page: where answer and language arrive in the stream, what swapping each Z moves there, and what follows."""

import json

import verdicts
from reports import page
from reports.page import percent, place, span
from reports.phase3_beside import beside_section, carries_section
from reports.phase3_beyond import unsolved_text
from reports.phase3_figures import SHARES, figure_depth, figure_profile, figure_sweeps
from reports.phase3_opening import (
    CARRIES,
    NOT_TOLD,
    TESTED,
    carriers,
    decided,
    haar_text,
    judged_on,
    listing,
    numbers_text,
    recipe_text,
    run_text,
    subject,
    summary_numbers,
    verdict_text,
    weights_text,
)
from reports.phase3_tables import (
    difference_table,
    gates_tables,
    moved_table,
    nulls_table,
    profile_table,
    seen_table,
    size_table,
    sums_text,
    tests_table,
    tried_table,
    winners_table,
    winning_table,
)

SHOWN_ANSWERS = 12


def summary(results: dict) -> str:
    """The deciding numbers, for the last line printed."""
    name, row = decided(results)
    if row is None:
        return untested(results)
    return f"{page.SUBSPACES[name]}, {place(row['site'])}, k {row['k']}: {summary_numbers(row)}"


def claims(results: dict) -> list[dict]:
    """The recipe's success criteria, as rows."""
    (name, row), own = decided(results), results["tested"].get("weights")
    inside = outside = predicted = (untested(results), "–")
    if row and row["verdict"] in NOT_TOLD:
        inside = outside = (f"{place(row['site'])}: the whole stream carries {CARRIES[row['place']]}", "–")
    elif row:
        where, moved = f"{page.SUBSPACES[name]}, {place(row['site'])}", {key: span(row[key]) for key in SHARES}
        inside = (
            f"{where}: {moved['coverage']} of the answer, {moved['leak']} of the language",
            null_text(name, row, results),
        )
        kept = f"{moved['complement_language']} of the language, {moved['complement_transfer']} of the answer"
        beside = [haar_text(name, key, results, "") for key in ("complement_language", "complement_transfer")]
        random = f"Haar's rest: {' and '.join(text for text in beside if text)}" if any(beside) else "–"
        outside = f"{where}: {kept}", random
    if own and "unmeasured" in own:
        predicted = f"{place(own['site'])}, k {own['k']}: the whole stream carries {CARRIES['none']}", "–"
    elif own:
        profile = ", ".join(f"{label} {span(own[key])}" for key, (label, _) in SHARES.items())
        predicted = f"{place(own['site'])}, k {own['k']}: {profile}", null_text("weights", own, results)
    half, keeps = "surely half of it", page.needed(verdicts.dissociation.KEEPS)
    moves = f"swapping Z moves the answer ({half}) and not the language (surely less than half)"
    keeps = f"swapping Z⊥ keeps the language ({keeps}) and moves surely less than half of the answer"
    both = "the Z of the weights' layer does both, at the place that goes with it"
    rows = [("z", moves, "yes", *inside), ("z_perp", keeps, "yes", *outside)]
    return [page.claim(*row) for row in [*rows, ("weights", both, "yes, without any data", *predicted)]]


def null_text(name: str, row: dict, results: dict) -> str:
    """What random subspaces do beside a Z, shortly."""
    shares = [haar_text(name, key, results, "") for key in ("coverage", "leak")]
    known = " and ".join(text for text in shares if text)
    return f"Haar: {known}; {page.p_text(row)}" if known else "–"


def untested(results: dict) -> str:
    if results["rung"] is None:
        most = max(results["tried"], key=lambda row: row["everywhere"])
        return f"no kind can be used; most solved: `{most['rung']}`, {most['everywhere']} of {most['asked']} in every language"
    return f"no place carries both answer and language: {carriers(results, 'answer', 'language')}"


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figures; only the report where no kind of problem could be used."""
    title = f"Phase 3: patching {results['model']['name']}"
    if results["rung"] is None:
        limits = """Solved: the right answer is the most probable of the set of all answers; free answers may differ. Surely: by
            the end of the 95 % interval."""
        limits = page.prose(limits)
        verdict, *opening = unsolved_text(results)
        return {"phase3_output.md": page.report(title, verdict, results, [], [limits], [*opening, *run_text(results)])}
    order = sorted(results["tested"], key=list(TESTED).index)
    measured = {name: results["tested"][name] for name in order if "unmeasured" not in results["tested"][name]}
    drawn = {name: row for name, row in measured.items() if any(row[key]["value"] is not None for key in SHARES)}
    figures = {"phase3_depth.png": figure_depth(results)}
    figures |= {"phase3_profile.png": figure_profile(results, drawn)} if drawn else {}
    swept = results.get("beside") and results["beside"]["sweep_k"] and results["beside"]["sweep_site"]
    figures |= {"phase3_sweeps.png": figure_sweeps(results)} if swept else {}
    sections = [problems_section(results, arrays), depth_section(results), subspaces_section(results, measured)]
    sections += [beside_section(results), carries_section(results), reading_section(results)]
    opening, parts = opening_parts(results, bool(drawn)), list(filter(None, sections))
    text = page.report(title, verdict_text(results), results, parts, limitations(results), opening)
    return figures | {"phase3_output.md": text}


def opening_parts(results: dict, drawn: bool) -> list[str]:
    """What stands between verdict and claims: numbers, what follows, two pictures, what was run."""
    profile = """
        ![What each tested subspace moves, beside the whole stream and random subspaces](phase3_profile.png)

        *What each tested subspace (Z) and the rest of the stream (Z⊥) move of answer and language, beside the whole stream
        (F), the hypothesis and random subspaces.*
    """
    depth = """
        ![Where answer and language arrive](phase3_depth.png)

        *What swapping the whole stream moves, by layer: how much (top), whose answer then wins (middle), and where it carries
        answer, language or both (bottom).*
    """
    texts = [numbers_text(results), recipe_text(results), weights_text(results), depth, profile if drawn else ""]
    return [*(page.prose(text) for text in texts if text), *run_text(results)]


def problems_section(results: dict, arrays: dict) -> str:
    needed, found, answers = results["needed"], results["problems"], results["answer_set"]
    counts = listing([f"{count} in {language}" for language, count in found["solved"].items()])
    shown = [page.escape(str(answer)) for answer in answers["answers"]]
    shown = ", ".join([*shown[:SHOWN_ANSWERS], "…"] if len(shown) > SHOWN_ANSWERS else shown)
    left = found["left_out_as_fitted"]
    fitted = f" {left} more, on which phase 2's Z was fitted, were never asked." if left else ""
    half = "{problems} problems with {answers} answers"
    mass = next((row["mass"] for row in results["tried"] if row["outcome"] == "taken"), None)
    mass = f", and {percent(mass)} on all prompts that were asked" if mass is not None else ""
    return page.prose(f"""
        ## 1 Problems

        Taken is the hardest kind with at least {needed["problems"]} problems solved unpatched in every language,
        {needed["answers"]} different answers, and {page.needed(needed["mass"])} of the probability on them (*mass*); *left out*
        are answers that cannot be told apart.

        {tried_table(results)}

        {example_text(results, arrays)}

        Of {found["asked"]} problems of `{results["rung"]}` {counts} are solved, {found["everywhere"]} in every language, with
        {found["answers"]} different answers.{fitted} What is fitted or chosen is so on the *development* half of the answers,
        {half.format(**found["development"])}; the *test* half, {half.format(**found["test"])}, is *held out* from that.

        {scored_text(results)}

        Each scored prompt gets the streams of up to {max(map(len, results["blocks"]))} donors, problems of its half with other
        answers, asked in every language: {results["pairs"]:,} pairs of prompts per swap. {len(answers["answers"])} answers
        ({shown}) in {len(results["languages"])} languages compete, so that each of the {answers["columns"]} has a chance of
        {percent(1 / answers["columns"])}. Unpatched they hold {percent(answers["mass"])} of the probability on the prompts that
        are patched{mass}.
    """)


def scored_text(results: dict) -> str:
    """How many problems are patched, and why no more."""
    found, most = results["problems"], results["design"]["most"]
    counts = [str(found[half]["scored"]) for half in ("development", "test")]
    why = "only such as have answers that their first token tells apart"
    if results["answer_set"]["nodes"] > 1:
        why = "of whatever answers, since too many begin alike"
    return f"""Patched (*scored*) are {listing(counts)} of these, at most {most} of a half: {why}. What comes after an answer's
        first token reads the recipient's question again, which no swap at the last position changes. {sum(map(int, counts))} problems
        are few, so intervals are wide."""


def example_text(results: dict, arrays: dict) -> str:
    """A recipient and a donor as they were asked, and what should come out of each swap."""
    lines = map(json.loads, arrays.get("phase3_prompts.jsonl", b"").decode().splitlines())
    asked = {(line["language"], line["problem"]): line["prompt"].split("\n\n")[-1] for line in lines}
    people, here, there = results["recipients"], results["languages"][0], results["languages"][-1]
    pairs = [(people[to], people[donors[0]]) for to, donors in enumerate(results["blocks"][: len(people)]) if donors]
    pairs = [pair for pair in pairs if all((here, one["problem"]) in asked for one in pair)]
    if not pairs:
        return ""
    recipient, donor = pairs[0]
    own, given = (page.escape(str(one["answer"])) for one in (recipient, donor))
    return f"""For example, behind its exemplars, a recipient of `{results["rung"]}` in {here}:
        “{page.escape(asked[here, recipient["problem"]])}”, right: {own}; and a donor in {there}:
        “{page.escape(asked[there, donor["problem"]])}”, right: {given}. By the hypothesis the recipient then answers {given} in
        {here} where it gets the donor's part inside Z, {own} in {there} where it gets the rest, Z⊥, and {given} in {there} where
        it gets the whole stream, F."""


def depth_section(results: dict) -> str:
    weights, scored = results["weights"], results["problems"]["development"]["scored"]
    inner, edge = f"layer {weights['inner']}", weights["lowest"]
    other = edge not in (None, weights["inner"])
    lowest = f"Layer {edge} has the lowest effective rank of all in 1.py ({place(edge + 1)})." if other else ""
    third = " or wins in a third language" if len(results["languages"]) > 2 else ""
    return page.prose(f"""
        ## 2 Where answer and language arrive

        The whole stream at the last prompt position is swapped, on {scored} development problems. It carries
        {carriers(results, "answer", "language", "joint")}. The weights' Z is that of {inner}, whose output is
        {place(weights["inner"] + 1)}. {lowest}

        With 95 % intervals, in nats, 0 where nothing is carried over: T, by how much the donor's answer gains on another
        donor's, both written in the recipient's language, T_same with donors asked in that language and T_cross with donors
        asked in another one; G, how far probability moves to answers in the donor's language.

        {moved_table(results)}

        Whose answer is then the most probable, in % of swaps; each of the answers has a chance of
        {percent(1 / results["answer_set"]["columns"])}. All but the first column are of donors asked in another language and
        add up to 100 % with *neither's*, where a third answer wins{third}.

        {winners_table(results)}
    """)


def subspaces_section(results: dict, measured: dict) -> str:
    unmeasured = {name: row["unmeasured"] for name, row in results["tested"].items() if name not in measured}
    silent = [f"{page.SUBSPACES[name]} ({unmeasured[name]})" for name in TESTED if name in unmeasured]
    draws = sorted({row["nulls"]["haar"]["draws"] for row in measured.values() if row["nulls"]})
    least = listing([f"{page.p_value(1 / (1 + count))} with {count} draws" for count in draws]) if draws else ""
    least = f"; the least that it can be is {least}" if least else ""
    silent = f"Not swapped: {', '.join(silent)}." if silent else ""
    named = [f"- {page.SUBSPACES[name]}: {subject(name, row, results)}" for name, row in measured.items()]
    judged = {judged_on(row, results): [] for row in measured.values()}
    for name, row in measured.items():
        judged[judged_on(row, results)].append(page.SUBSPACES[name])
    judged = [f"{which}{f' ({listing(names)})' if len(judged) > 1 else ''}" for which, names in judged.items()]
    decisive, row = decided(results)
    tests = tests_table(row, results["tests"], results["width"]) if results["tests"] else ""
    if not measured:
        return page.prose(f"""
            ## 3 Subspaces tested

            {silent}
        """)
    return page.prose(f"""
        ## 3 Subspaces tested

        {chr(10).join(named)}

        The test half decides, but for the weights' Z at its own place, for which nothing was fitted or chosen, so that all
        scored problems count. Judged on {"; ".join(judged)}. {silent}

        What Z moves, and what the rest of the stream moves, in shares of what the full swap F moves for the same problems at
        the same place. By the hypothesis 100, 0, 0 and 100 %, for F 100, 100, 0 and 0 %, for Haar-random subspaces about the
        same share c of both, and 1 less c for their complements, c being *their coverage* below.
        {sums_text(measured)}

        {profile_table(measured)}

        {f"All tests of the Z that the verdict is about, {page.SUBSPACES[decisive]}:" if tests else ""}

        {tests}

        D adds these up, the middle two taken off: 2 by the hypothesis, about 0 for what is blind to the difference. p is of D,
        one-sided, against Haar-random subspaces of that size or, if larger, matched draws where these decide{least}; Holm's over
        the Zs tested here. Draws are swapped for {results["design"]["drawn"]} recipients with {results["design"]["few"]} donors
        each, so D is ranked, and κ (coverage above Haar's: 0 chance, 1 everything) is measured, on these pairs alone.

        {difference_table(measured)}

        {nulls_table(measured)}

        How often the donor's answer is the most probable after the swap: of donors asked in another language, in the
        recipient's language, as Z should bring it; and of donors asked alike (*alike*). T_cross/T_same: how much of the effect is left
        where the donor was asked in another language.

        {winning_table(measured)}

        {size_table(measured, results["width"])}

        {gates_tables(measured)}

        {seen_text(measured, results)}
    """)


def seen_text(rows: dict, results: dict) -> str:
    """The answers on which a Z or its place was chosen beside others: what is only memorised shows as a difference."""
    table, fitted = seen_table(rows), results["problems"]["fitted_answers"]
    text = f"""*Seen* answers are those of the development half, which fitted a Z or chose its place; *unseen* ones are those of
        the test half. {fitted} development answers share no first token with one of these: only
        they are fitted on, and a fitted Z of that many dimensions can hold each of them without any code that they share.

        {table}"""
    return text if table else ""


def reading_section(results: dict) -> str:
    return page.prose(f"""
        ## 6 How to read it

        - L18.out: the stream at the last prompt position as layer 18 leaves it, `blocks.18.hook_resid_post` in
          TransformerLens; *embeddings*: before layer 0. Z⊥: everything outside Z. F: the swap of the whole stream.
        - T, T_same, T_cross and G are defined in section 2. Surely: by the end of the 95 % interval.
        - Carrier: a place where the full swap surely reaches half of its largest T_same and the donor's answer wins half of
          the time (answer), or half of its largest G (language). A dissociation is judged only where both hold.
        - Coverage and leak: T_same and G of Z's swap as shares of F's; of Z⊥'s swap the same two.
          D = coverage − leak − Z⊥'s share of the answer + Z⊥'s share of the language. –: the full swap moves too little to
          divide by, or nothing was measured.
        - Word's code: the span of the answers' unembedding rows behind the final norm's gain, centred in each language;
          F' and Z' leave it out. Where F' keeps less than a tenth of the effect, whatever Z moves there is that code.
        - Nulls: Haar-random subspaces; draws that hold as much of the streams' variance within a language and of the
          language's offset as Z (*matched*, no null for a Z that holds more than half of the variance, since such draws hold
          what acts); the same construction from other layers, for a Z from weights.
        - p: < .009 (120 draws) means that no draw of 120 reached what was measured.
        - Three kinds of no: *not there* (`none`), *not at this place* (`answer_only`, `language_only`, `untestable` of one
          Z), *cannot be tested* with this model and these problems (`untestable` as a whole). `inconclusive` is no no.
        - Intervals: {results["design"]["resamples"]:,} resamples of problems, as recipients and as donors at once; too wide
          where single swaps differ and problems do not.
    """)


def limitations(results: dict) -> list[str]:
    asked = any(row.get("reasoning") for row in results["tested"].values())
    form = "section 5 asks for it" if asked else "none was asked for"
    lines = page.prose(f"""
        - Only the last prompt position is swapped: what earlier positions carry reaches later layers unswapped.
        - Probabilities are within the set of answers, which holds {percent(results["answer_set"]["mass"])} unpatched; what a
          swap moves out of the set is not seen.
        - Carriers and places were chosen on {results["problems"]["development"]["scored"]} development problems; places that
          are not in section 2's tables were not looked at.
        - A swap joins parts of two streams; the result may be a state that the model never visits.
        - What lies outside of the output word's code may still be a code of that word in earlier layers: only an answer in
          another form (digits, a yes or no) tells it from one of the result; {form}.
        - The states that the model visits are a sample; a code that is read and a perfect copy of it that nothing reads give h = 0.5.
    """)
    return lines.removeprefix("- ").split("\n- ")
