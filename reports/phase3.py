"""Phase 3's page: where answer and language arrive in the stream, what swapping each Z moves there, and what follows."""

from collections.abc import Sequence

from reports import page
from reports.phase3_figures import MOVED, NAMES, SHARES, WINNERS, figure_depth, figure_profile, place, stretches
from reports.phase3_tables import (
    CARRIES,
    DECIDING,
    NULLS,
    TOLD,
    beside_table,
    decimal,
    gates_table,
    nulls_table,
    percent,
    profile_table,
    span,
    told,
)

SHOWN_ANSWERS = 12
TESTED = {  # what it is; what follows for the recipe where it dissociates
    "weights": [
        "the weight-based Z of {layer} at the place that goes with it, {place}",
        "its causal claim holds here, with subspace and place from weights alone"],
    "weights_at_carrier": [
        "the weight-based Z of {layer}, moved to {place}, its best place on development answers",
        "the weights give the subspace and not the place, which had to be found by swapping"],
    "best_layer": [
        "the weight-based Z of layer {other} at its own output {place}, best on development answers",
        "weights give the subspace, but not the layer, which had to be found by swapping"],
    "handed": [
        "the Z that phase 2 hands on ({method}), at {place}",
        "weights alone do not give this Z"],
    "answer_means": [
        "the subspace of the development answers' mean streams, at {place}",
        "answers have a code that unseen ones share, but it was read from activations, not predicted from weights"],
    "learned": [
        "the subspace learned by gradients on development answers, at {place}",
        "answers have a code that unseen ones share, but it was learned for its effect, not predicted from weights"],
}  # fmt: skip
INSIDE = "Giving a prompt the part of another prompt's stream that lies inside Z moves the answer"
VERDICTS = {  # what was swapped and what moved; what follows for the recipe, and of a dissociation TESTED says it
    "double_dissociation": [
        f"{INSIDE} and not the language, and giving it the part outside Z moves the language and not the answer", ""],
    "language_removed": [
        f"{INSIDE} and not the language, but Z is so large that it is little more than everything except the language",
        "this is no Z: whatever leaves out the language alone does the same"],
    "answer_word": [
        f"{INSIDE}, but only as the code of the word that is about to be written",
        "this is no reasoning subspace: it holds the output word"],
    "illusion": [
        f"{INSIDE}, but by directions that the model's own states do not use",
        "this is no Z: the swap works through a path that the model itself leaves idle (Makelov et al. 2023)"],
    "partial": [
        "Swapping the part of one prompt's stream inside Z for another's parts the answer from the language more than random "
        "subspaces of that size do, but this is no double dissociation",
        "its causal claim is not shown"],
    "inconclusive": [
        "Prompts were given the part of another's stream inside Z: that it moves the answer is neither shown nor excluded",
        "nothing follows yet, neither way; more solved problems would narrow the intervals"],
    "none": [
        "Swapping the part of one prompt's stream inside Z for another's is not shown to part the answer from the language "
        "beyond random subspaces, and surely moves less than half of the answer, though the whole stream carries both here",
        "not there: the answer passes this place outside of the Zs that were tested"],
}  # fmt: skip
NOT_HERE = [
    "At this place even a swap of the whole stream is not shown to move both answer and language, so no part of it can be "
    "shown to hold one without the other", "not at this place; nothing follows for Z elsewhere"]  # fmt: skip
VERDICTS |= dict.fromkeys(("answer_only", "language_only", "untestable"), NOT_HERE)
LATER = "What comes after an answer's first token reads the recipient's question again, so swaps seem to move less than they do."


def summary(results: dict) -> str:
    """The deciding numbers, for the last line printed."""
    name, row = decided(results)
    return f"{NAMES[name]}, {place(row['site'])}, k {row['k']}: {numbers(row)}" if row else untested(results)


def claims(results: dict) -> list[dict]:
    """The recipe's success criteria, as rows."""
    (name, row), own = decided(results), results["tested"].get("weights")
    inside = outside = predicted = (untested(results), "–")
    if row:
        where, shares = f"{NAMES[name]}, {place(row['site'])}", {key: span(row[key]) for key in SHARES}
        inside = f"{where}: coverage {shares['coverage']}, leak {shares['leak']}", random(row)
        moved = f"{shares['complement_transfer']} of the answer, {shares['complement_language']} of the language"
        outside = f"{where}: its complement moves {moved}", random(row)
    if own and "unmeasured" in own:
        predicted = f"{place(own['site'])}, k {own['k']}: the whole stream carries {CARRIES['none']}", "–"
    elif own:
        profile = ", ".join(f"{label} {span(own[key])}" for key, (label, _) in SHARES.items())
        predicted = f"{place(own['site'])}, k {own['k']}, carries {CARRIES[own['place']]}: {profile}", random(own)
    rows = [("z", "swapping Z moves the answer and not the language", "yes", *inside)]
    rows += [("z_perp", "swapping Z⊥ moves the language and not the answer", "yes", *outside)]
    both = "the Z that the weights predict does both, at the place that they predict"
    return [page.claim(*row) for row in [*rows, ("weights", both, "yes, without any data", *predicted)]]


def decided(results: dict) -> tuple[str, dict | None]:
    """The tested Z that the verdict is about; none where no place carries both answer and language."""
    name = results["decided_by"] if results["carriers"]["joint"] else None
    return name, results["tested"].get(name)


def untested(results: dict) -> str:
    if results["rung"] is None:
        return f"no kind can be used; most solved: {solved(max(results['tried'], key=lambda row: row['everywhere']))}"
    return f"no place carries both answer and language: {carriers(results, 'answer', 'language')}"


def random(row: dict) -> str:
    """What random subspaces of the same size do."""
    null = row["nulls"].get("haar", dict.fromkeys(("coverage", "middle", "high")))
    middle, high = (decimal(null[point]) for point in ("middle", "high"))
    text = f"Haar-random subspaces, same k: coverage {percent(null['coverage'])}, D {middle}, 95 % point {high}"
    p, holm = (page.show(row[key], 2) for key in ("p", "p_holm"))
    harder = max(DECIDING, key=lambda name: row["nulls"].get(name, {"p": 0, "gates": False})["p"] * decides(row, name))
    against = "" if harder == "haar" else f" against {NULLS[harder]}"
    return text if row["p"] is None else f"{text}; one-sided p{against} {p}, with Holm {holm}"


def decides(row: dict, name: str) -> bool:
    """Whether a null decides on p for a Z: of matched draws only where Z holds little of the variance."""
    return row["nulls"].get(name, {"gates": False})["gates"]


def numbers(row: dict) -> str:
    """A Z's coverage, D and p beside those of random subspaces."""
    if row["coverage"]["value"] is None:
        return "coverage is not defined because the full swap moves too little"
    return f"coverage {span(row['coverage'])}, D {span(row['d'], decimal)}; {random(row)}"


def listing(parts: Sequence[str]) -> str:
    """a, b and c"""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def carriers(results: dict, *kinds: str) -> str:
    """Where the full swap carries what: the answer, the language, both (joint)."""
    parts = []
    for kind in kinds:
        spans = [" to ".join(dict.fromkeys(map(place, ends))) for ends in stretches(results, kind)]
        where = f"at {listing(spans)}" if spans else "nowhere"
        parts.append(f"both {where}" if kind == "joint" else f"the {kind} {where}")
    return ", ".join(parts)


def subject(name: str, row: dict, results: dict) -> str:
    """A tested Z in words."""
    inner = page.layer_name(results["weights"]["inner"], results["layer_chosen"])
    method = page.METHODS.get(row["method"], row["method"])
    return TESTED[name][0].format(layer=inner, other=row["layer"], place=place(row["site"]), method=method)


def solved(row: dict) -> str:
    mass = "" if row["mass"] is None else f", {percent(row['mass'])} of the probability on answers"
    counts = listing([f"{count} in {language}" for language, count in row["solved"].items()])
    return f"`{row['rung']}` {counts}, {row['everywhere']} in every language, of {row['asked']}{mass}"


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figures; only the report where no kind of problem could be used."""
    title = f"Phase 3: patching {results['model']['name']}"
    if results["rung"] is None:
        limits = "Solved: the right answer is the most probable of the set of all answers. Free answers may differ."
        verdict = page.prose(unsolved_text(results))
        return {"phase3_output.md": page.report(title, verdict, results, [], [limits])}
    verdict = page.prose(verdict_text(results, arrays["phase3_streams.npy"].shape[-1]))
    order = sorted(results["tested"], key=list(TESTED).index)
    measured = {name: results["tested"][name] for name in order if "unmeasured" not in results["tested"][name]}
    drawn = {name: row for name, row in measured.items() if any(row[key]["value"] is not None for key in SHARES)}
    figures = {"phase3_depth.png": figure_depth(results)}
    figures |= {"phase3_profile.png": figure_profile(results, drawn)} if drawn else {}
    sections = [problems_section(results), depth_section(results)]
    sections += [subspaces_section(results, measured, bool(drawn)), reading_section(results)]
    return figures | {"phase3_output.md": page.report(title, verdict, results, sections, limitations(results))}


def verdict_text(results: dict, width: int) -> str:
    name, row = decided(results)
    if row is None:
        return f"""
            No place was found where swapping one prompt's whole stream for another's moves both the answer and the
            language (`{results["verdict"]}`): it moves {carriers(results, "answer", "language")}. So no subspace can be shown
            to hold one without the other.

            For the recipe: it cannot be tested with this model and these problems, and nothing follows for Z.
            {weights_text(results)}
        """
    lead, meaning = VERDICTS[row["verdict"]]
    if not meaning:
        meaning = TESTED[name][1]
        if name.startswith("weights") and results["layer_chosen"] in ("no_bottleneck", "given"):
            meaning += "; but the weights did not single out that layer, so this confirms no prediction"
    missed = [test.replace("_", " ") for test, passed in results["tests"].items() if passed is False]
    beaten = row["verdict"] in ("partial", "answer_word", "illusion", "language_removed")
    missed = f" Tests not passed: {listing(missed)}." if missed and beaten else ""
    open_tests = [test for test, passed in results["tests"].items() if passed is None]
    missed += f" Could not be tested: {listing(open_tests)}." if open_tests and beaten else ""
    return f"""
        {lead} (`{row["verdict"]}`).

        This Z is {subject(name, row, results)}, with k = {row["k"]} of {width} dimensions: {numbers(row)}. Coverage is the
        share of the whole stream's effect on the answer, D is 2 by the hypothesis and about 0 by chance, with 95 % intervals
        over {judged_on(row)}.{missed} {gates_text(row)}

        For the recipe: {meaning}.{"" if name == "weights" else f" {weights_text(results)}"}
    """


def gates_text(row: dict) -> str:
    """What else could explain a Z's effect, in words."""
    if not row.get("gates"):
        return ""
    word, states = row["gates"]["word"], row["gates"]["manifold"]
    beside = (
        f" and Z {span(word['z'])} of that" if word["z"]["value"] is not None else ", too little to ask what Z keeps"
    )
    text = f"""Outside of the code of the answers' words, {word["dimensions"]} dimensions, the whole stream keeps
        {span(word["full"])} of its effect{beside}."""
    if states is None:
        return f"{text} There were no other problems to tell which states the model itself visits."
    text += f""" Among states that the model visits on other problems ({states["components"]} dimensions of
        {states["states"]:,} states) the whole stream keeps {span(states["full"])} of its effect"""
    text += (
        f", and Z as much of its own times {span(states['h'], decimal)} (h)."
        if states["h"]["value"] is not None
        else "."
    )
    return f"{text} {TOLD[told(states)]}"


def judged_on(row: dict) -> str:
    if row["judged_on"] == "all":
        return f"all {row['judged']} scored problems"
    return f"{row['judged']} problems with answers on which nothing was fitted or chosen"


def weights_text(results: dict) -> str:
    """What became of the weight-based Z at its own place, where the verdict is about another one."""
    row, maximum = results["tested"]["weights"], results["maxima"]["t_same"]
    z = f"At {place(row['site'])}, the output of {page.layer_name(row['layer'], results['layer_chosen'])},"
    if row["place"] == "joint":
        return f"{z} the weight-based Z of that layer gives `{row['verdict']}`: {numbers(row)}."
    full, moved = row["full"]["t_same"]["value"], ""
    if full is not None and maximum > 0:
        moved = f" (it moves the answer by {percent(full / maximum)} of what it does at its best place)"
    return f"""{z} the whole stream carries {CARRIES[row["place"]]}{moved}: that says something about this place,
        and nothing about the weight-based Z of that layer (`{row["verdict"]}`)."""


def unsolved_text(results: dict) -> str:
    """One paragraph: why nothing could be swapped, what the model says instead, and what to try."""
    needed, free, instead = results["needed"], results["unsolved"], ""
    tried = "; ".join(f"{solved(row)} ({row['outcome'].replace('_', ' ')})" for row in results["tried"])
    if free is not None:
        right = "{language}: {words} right in words, {digits} right in digits, {wrong} wrong"
        said = [right.format(language=language, **counts) for language, counts in free["counts"].items()]
        instead = f" Of {free['asked']} free answers to `{free['rung']}` in each language, {'; '.join(said)}."
    return f"""
        Nothing was swapped, because the model solves no kind of problem often enough in every language
        (`{results["verdict"]}`): it cannot be tested with this model and these problems, which says nothing about Z or the
        recipe. Tried, from the hardest kind on: {tried}. Needed are {needed["problems"]} problems solved in every language
        with {needed["answers"]} different answers, on which {percent(needed["mass"])} of the probability lies;
        {needed["precheck"]} of each kind are asked first.{instead} To try: a larger or another model (`--model`), easier
        problems (`--problems`), more exemplars with answers in words (`--exemplars`), other languages (`--languages`).
    """


def problems_section(results: dict) -> str:
    needed, found, answers = results["needed"], results["problems"], results["answer_set"]
    headers = [*"kind problems asked exemplars solved everywhere answers".split(), "left out", "mass", "outcome"]
    rows = []
    for row in results["tried"]:
        counts = ", ".join(f"{language} {count}" for language, count in row["solved"].items())
        line = [f"`{row['rung']}`", row["problems"], row["asked"], row["exemplars"], counts, row["everywhere"]]
        rows.append([*line, row["answers"], row["left_out"], percent(row["mass"]), row["outcome"].replace("_", " ")])
    counts = listing([f"{count} in {language}" for language, count in found["solved"].items()])
    shown = [page.escape(str(answer)) for answer in answers["answers"]]
    shown = ", ".join([*shown[:SHOWN_ANSWERS], "…"] if len(shown) > SHOWN_ANSWERS else shown)
    fitted = f" {left} on which Z was fitted are left out." if (left := found["left_out_as_fitted"]) else ""
    half = "{problems} problems with {answers} answers ({scored} scored)"
    apart = "Their first token tells them apart." if answers["nodes"] == 1 else LATER
    return page.prose(f"""
        ## 1 Problems

        Taken is the hardest kind with at least {needed["problems"]} problems solved unpatched in every language,
        {needed["answers"]} different answers, and {percent(needed["mass"])} of the probability on them (*mass*); *left out*
        are answers that cannot be told apart.

        {page.table(headers, rows)}

        Of {found["asked"]} problems of `{results["rung"]}` {counts} are solved, {found["everywhere"]} in every language, with
        {found["answers"]} different answers.{fitted} What is fitted or chosen is so on the *development* half of the answers,
        {half.format(**found["development"])}, and judged on the *test* half, {half.format(**found["test"])}.

        Each scored prompt gets the streams of up to {max(map(len, results["blocks"]))} donors, problems of its half with other
        answers, asked in every language: {results["pairs"]:,} pairs of prompts per swap. {len(answers["answers"])} answers
        ({shown}) in {len(results["languages"])} languages compete, so that each of the {answers["columns"]} has a chance of
        {percent(1 / answers["columns"])}; unpatched they hold {percent(answers["mass"])} of the probability. {apart}
    """)


def depth_section(results: dict) -> str:
    found, weights, rows = results["carriers"], results["weights"], []
    for row in results["curve"]:
        kinds = [kind for kind in ("answer", "language") if row["site"] in found[kind]]
        line = [place(row["site"]), *(span(row[key], decimal) for key in MOVED)]
        line += [percent(row[key]["value"]) for key in ("iia_same", *WINNERS)]
        rows.append([*line, " and ".join(kinds) or "–"])
    inner, edge = page.layer_name(weights["inner"], results["layer_chosen"]), weights["lowest"]
    lowest = "" if edge in (None, weights["inner"]) else f"Layer {edge} has the lowest rank of all ({place(edge + 1)})."
    third = "A winner in a third language counts for none." if len(results["languages"]) > 2 else ""
    headers = ["place", *(f"{name}, nats" for name in ("T_same", "T_cross", "G")), "IIA same"]
    headers += [*(label for label, _, _ in WINNERS.values()), "carries"]
    return page.prose(f"""
        ## 2 Where answer and language arrive

        ![Where answer and language arrive](phase3_depth.png)

        The whole stream at the last prompt position is swapped, on the development half. It carries
        {carriers(results, "answer", "language", "joint")}. The weight-based Z is that of {inner}, whose output is
        {place(weights["inner"] + 1)}. {lowest}

        T and G with 95 % intervals: 0 where nothing is carried over. The other columns are shares of swaps, by chance
        {percent(1 / results["answer_set"]["columns"])}; the last four are of donors asked in another language. {third}

        {page.table(headers, rows)}
    """)


def subspaces_section(results: dict, measured: dict, drawn: bool) -> str:
    unmeasured = {name: row["unmeasured"] for name, row in results["tested"].items() if name not in measured}
    silent = [f"{NAMES[name]} ({unmeasured[name]})" for name in TESTED if name in unmeasured]
    draws = sorted({row["nulls"]["haar"]["draws"] for row in measured.values() if row["nulls"]})
    least = "".join(f", not below {page.show(1 / (1 + count), 2)} with {count} draws" for count in draws)
    silent = f"Not swapped: {', '.join(silent)}." if silent else ""
    groups = {judged_on(row): [] for row in measured.values()}
    for name, row in measured.items():
        groups[judged_on(row)].append(NAMES[name])
    groups = [f"{', '.join(names)}: {which}" for which, names in groups.items()]
    return page.prose(f"""
        ## 3 Subspaces tested

        {"![Profiles of the tested subspaces](phase3_profile.png)" if drawn else ""}

        {chr(10).join(f"- {NAMES[name]}: {subject(name, row, results)}" for name, row in measured.items())}

        Shares are of what the full swap F does to the same problems at the same place, 100, 0, 0 and 100 % by the hypothesis,
        with 95 % intervals. Judged on {"; ".join(groups)}.
        p is that of D, one-sided: against Haar-random subspaces of that size{least} or, if larger, against matched
        draws where these decide; Holm's is over the Zs tested. Draws are swapped for {results["design"]["drawn"]}
        recipients with {results["design"]["few"]} donors each, and D of the same pairs is ranked among them. {silent}

        {profile_table(measured)}

        {beside_table(measured)}

        {nulls_table(measured)}

        {gates_table(measured)}

        {seen_text(measured, results)}
    """)


def seen_text(rows: dict, results: dict) -> str:
    """The answers on which a Z or its place was chosen beside others: what is only memorised shows as a difference."""
    measures, cells = {"coverage": percent, "iia_cross": percent, "d": decimal}, []
    for name, row in rows.items():
        if row["seen"]:
            pairs = [span(part[key], write) for key, write in measures.items() for part in (row["seen"], row)]
            cells.append([NAMES[name], row["k"], *pairs])
    headers = [f"{name}, {which}" for name in ("coverage", "IIA cross", "D") for which in ("seen", "unseen")]
    fitted = results["problems"]["fitted_answers"]
    text = f"""*Seen* answers are those of the development half, which fitted a Z or chose its place; *unseen* ones are those of
        the test half, which alone decide. {fitted} development answers share no first token with one of these: only
        they are fitted on, and a fitted Z of that many dimensions can hold each of them without any code that they share.

        {page.table(["Z", "k", *headers], cells)}"""
    return text if cells else ""


def reading_section(results: dict) -> str:
    return page.prose(f"""
        ## 4 How to read it

        - L18.out: the stream at the last prompt position as layer 18 leaves it, `blocks.18.hook_resid_post` in
          TransformerLens; *embeddings*: before layer 0. Z⊥ or complement: everything outside Z.
        - T: by how much the donor's answer gains on another one, in nats; T_same of donors asked in the recipient's language,
          T_cross in another. G: how far probability moves to the donor's language, in nats.
        - IIA: how often the most probable answer is the donor's, of donors asked in the recipient's language (*same*) or
          in another (*cross*: in the recipient's language, as Z should bring it).
        - Carrier: a place where the full swap surely reaches half of its largest T_same and the donor's answer wins half of
          the time (answer), or half of its largest G (language). A dissociation is judged only where both hold.
        - Coverage and leak: T_same and G of Z's swap as shares of F's; complement's transfer and language: the same of Z⊥'s.
          D = coverage − leak − transfer + language, 2 by the hypothesis, about 0 for what is blind to the difference.
          κ: coverage above that of random subspaces, 0 chance, 1 everything. –: the full swap moves too little to divide by.
        - Variance inside: of the streams' variance within a language. Participation: in how many dimensions they vary.
        - Word's code: the span of the answers' unembedding rows behind the final norm's gain, centred in each language;
          F' and Z' leave it out. Where F' keeps less than a tenth of the effect, whatever Z moves there is that code.
        - Nulls: Haar-random subspaces; draws that hold as much of the streams' variance within a language and of the
          language's offset as Z (*matched*, no null for a Z that holds more than half of the variance, since such draws hold
          what acts); the same construction from other layers, for a Z from weights.
        - Three kinds of no: *not there* (`none`), *not at this place* (`answer_only`, `language_only`, `untestable` of one
          Z), *cannot be tested* with this model and these problems (`untestable` as a whole). `inconclusive` is no no.
        - Intervals: {results["design"]["resamples"]:,} resamples of problems, as recipients and as donors at once; too wide
          where single swaps differ and problems do not.
    """)


def limitations(results: dict) -> list[str]:
    lines = page.prose(f"""
        - Only the last prompt position is swapped: what earlier positions carry reaches later layers unswapped.
        - Probabilities are within the set of answers, which holds {percent(results["answer_set"]["mass"])} unpatched; what a
          swap moves out of the set is not seen.
        - Carriers and places were chosen on {results["problems"]["development"]["scored"]} development problems; places that
          are not in section 2's table were not looked at.
        - A swap joins parts of two streams; the result may be a state that the model never visits.
        - Outside of the output word's code is not yet reasoning: only an answer in another form (digits, a yes or no) would
          tell a code of the result from one of its word in earlier layers.
        - The states that the model visits are a sample; an honest code and a perfect copy of it that nothing reads give h = ½.
    """)
    return lines.removeprefix("- ").split("\n- ")
