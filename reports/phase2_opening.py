"""What phase 2's page says first: the verdict in a sentence, the numbers that decided, what follows, and what was run."""

import verdicts
from reports import page
from reports.page import listing, percent, place, span
from reports.phase2_tables import (
    NULLS,
    POOLINGS,
    SAME_STORIES,
    baseline,
    baselines,
    beaten,
    drawn_rate,
    draws_text,
    ends,
    gates,
    hardest,
    matched_cell,
    matched_words,
    named,
    own,
    p_holm,
    p_of,
    p_row,
    passing,
    rated,
    ratio,
    uncounted,
    worst,
)
from reports.phase2_tables import TESTS as MADE

SUBJECT = "the {k} of {width} directions that attention reads in layer {layer}"
KINDS = {  # what became of the primary Z without the offset, where the verdict is none
    "nowhere": "part problem from language no better than random directions",
    "covariance": "part problem from language no better than the stream's own main directions",
    "shuffled": "do not tell the versions of a problem from those of others",
    "offset": "part problem from language only once the languages' constant offset is removed",
}
NO = {  # and what kind of a no that is
    "nowhere": "is not shown (*not there*: random directions do as well)",
    "covariance": "is not shown (*nothing special*: the directions along which the stream varies most do as well)",
    "shuffled": "is not shown (*not there*: shuffled problems lie as near)",
    "offset": "is not shown ({kind} with the offset, which the recipe keeps: {null} do as well)",
}
PREDICTS = {  # what a layer that 1.py did not single out confirms
    "no_bottleneck": "; but the weights predict no layer, so this confirms no prediction",
    "given": "; but the layer was given by --layer, so this confirms no prediction",
    "weak_bottleneck": "; but the weights predict this layer only weakly",
    "clear_bottleneck": "",
}
BEYOND = {True: "yes", False: "no", None: "not tested"}


def kind_of_no(primary: dict) -> str:
    """Why the primary Z does not pass: see KINDS. Read off its nulls at the verdict's level."""
    part, level = primary["centred"], verdicts.LEVEL
    if part["contrast"] >= 1 or part["haar"]["p"] >= level:
        return "nowhere"
    if gates(part, "matched") and part["matched"]["p"] >= level:
        return "covariance"
    return "shuffled" if part["p"] >= level else "offset"


def haar_as_good(text: dict) -> bool:
    """Whether Haar subspaces tell texts apart as well as Z does."""
    return text["haar"]["p"] >= verdicts.LEVEL


def beyond_words(text: dict, beyond: bool | None) -> str:
    """Beyond the text in a few words: yes, no or not tested, and whether random directions do the same."""
    if beyond is not True:
        return "not fully tested" if beyond is None and "z" in text else BEYOND[beyond]
    return "yes, as random ones do" if haar_as_good(text) else "yes, and more than random ones"


def verdict_text(results: dict) -> str:
    """One sentence with the numbers that decided, and the verdict's name at its end."""
    primary, part = results["primary"], results["primary"]["centred"]
    subject = SUBJECT.format(k=primary["k"], width=results["width"], layer=results["settings"]["layer"])
    beyond = f"beyond the text: {beyond_words(results['text'], results['beyond_text'])} (`{results['verdict']}`)"
    model = results["model"]["name"]
    if results["verdict"] == "partial" and not results["tests"]["primary_k"]:
        best, count = min(results["grid"], key=worst), passing(results["grid"])
        matched = spaced(matched_words(results["grid"]))
        least = best["centred"]
        return page.prose(f"""In {model}, {subject} do not part problem from language as named, but in {count} of
            {len(results["grid"])} configurations a subspace beats {beaten(results["grid"])}.{matched} Best contrast
            without the offset {own(least)}, random ones {ends(least["haar"])}, the stream's main ones {ends(least["matched"])};
            {beyond}.""")
    said = {"clear": "keep the problem and drop its language"}
    said["partial"] = "keep the problem and drop its language, but not at every k"
    said = said.get(results["verdict"]) or KINDS[kind_of_no(primary)]
    nulls = f"random ones {ends(part['haar'])}"
    only_without = results["verdict"] == "none" and kind_of_no(primary) == "offset"
    nulls += with_offset(primary) if only_without else f", the stream's main ones {matched_cell(part)}"
    return page.prose(f"In {model}, {subject} {said}: without the offset, contrast {own(part)}, {nulls}; {beyond}.")


def spaced(sentence: str) -> str:
    """A sentence that follows another one, or nothing."""
    return f" {sentence}" if sentence else ""


def with_offset(row: dict) -> str:
    """The contrast with the offset beside the null that it does not beat; of shuffled problems the distances say nothing here."""
    name = hardest(row)
    null = "" if name == "pairing" else f", {NULLS[name]} {ends(row[name])}"
    return f"; with it {ratio(row['contrast'])}{null}"


def numbers_text(results: dict) -> str:
    """The numbers that decided, a line each, beside what they have to beat."""
    lines = [where_line(results), raw_line(results), centred_line(results), share_line(results), grid_line(results)]
    lines += [*text_lines(results), handed_line(results), *last_line(results), *tests_line(results)]
    items = "\n".join(f"- {line}" for line in lines)
    return f"""
        Deciding numbers. *Contrast*: how far a problem's versions lie apart relative to different problems, inside Z over the
        same outside of Z; below 1 Z keeps the problem and drops the language. *Haar*: random subspaces as large; *matched draws*:
        subspaces drawn as the stream itself varies within a language, so mostly its main directions; *Haar that miss the offset*
        (offset-missing): random subspaces orthogonal to the directions in which the languages' means differ; *shuffled problems*: one
        language's problems in another order. Of these 5 to 95 % of {draws_text(results["primary"])} draws; intervals are 95 %. A Z is
        made of a layer's first attention head alone (*head 0*) or of all its heads joined (*multi-head*). *LEACE* removes every
        linear trace of the language:

        {items}
    """


def where_line(results: dict) -> str:
    settings, primary = results["settings"], results["primary"]
    layer = page.layer_name(settings["layer"], results["layer_chosen"])
    folded = ", kernels behind the norm's gain" if settings["fold_norm"] else ""
    languages = listing(settings["languages"])
    return f"""Z: {page.METHODS["weight"]}{folded}, of {layer}, at {place(primary["site"])}, k {primary["k"]} of
        {results["width"]}; {results["problems"]} problems in {languages}, pooled: {POOLINGS[primary["pooling"]]}."""


def raw_line(results: dict) -> str:
    row = results["primary"]
    return f"""With the offset: contrast {ratio(row["contrast"])}; Haar {beside(row["haar"])}; matched draws
        {beside(row["matched"])}; Haar that miss the offset {beside(row["missing"])}; shuffled problems p {p_of(row["pairing"])}."""


def beside(null: dict) -> str:
    return f"{ends(null)} (p {p_of(null)})"


def centred_line(results: dict) -> str:
    part, after = results["primary"]["centred"], results["primary"]["leace"]["contrast"]
    return f"""**Without it** (decides): contrast {own(part)}; Haar {beside(part["haar"])}; matched draws
        {beside(part["matched"])}; shuffled problems p {p_of(part["pairing"])}. After LEACE {ratio(after)}."""


def share_line(results: dict) -> str:
    """How much of the distance is a constant offset, how much of it the matched draws hold, and what that makes of the test."""
    primary = results["primary"]
    share, energy = primary["centred"]["matched_share"], primary["energy"]["same_language"]
    text = f"""Of the squared distance between a problem's versions {percent(results["offset"]["share"])} is a constant offset; of
        that between problems matched draws hold {percent(share)}, Z {percent(energy["value"])}, Haar {percent(energy["middle"])}."""
    if gates(primary["centred"], "matched"):
        return text
    return f"""{text} That is more than half ({results["problems"]} problems, k {primary["k"]}): these draws are taken for the stream
        itself and for no null, and are not counted."""


def grid_line(results: dict) -> str:
    grid, count = results["grid"], passing(results["grid"])
    text = (
        f"Grid: {count} of {len(grid)} configurations beat {beaten(grid)}, after Holm, with the offset and without it"
    )
    if not count:
        return f"{text}."
    best = min(grid, key=worst)
    return f"""{text}; best: {named(best)}, k {best["k"]}: contrast {ratio(best["contrast"])}, Holm's p {p_holm(best)}; without
        the offset {own(best["centred"])}, Holm's p {p_holm(best["centred"])}.{spaced(matched_words(grid))}"""


def text_lines(results: dict) -> list[str]:
    """Beyond the text, whether Haar subspaces do the same, and whether text or answer decides."""
    text = results["text"]
    if "z" not in text:
        return [f"Beyond the text: *could not be tested* on stories with foils: {text['unmeasured']}."]
    parts = [
        f"{baseline(name, text)} {percent(row['rate'])} (Z ahead by {span(row['difference'])})"
        for name, row in baselines(text).items()
    ]
    beyond = BEYOND[results["beyond_text"]] if results["beyond_text"] is not None else "not fully tested"
    told = "" if results["beyond_text"] is not None else f" *Could not be tested* in full: {text['unmeasured']}."
    same = f"; {SAME_STORIES}" if "given" in results else ""
    line = f"""Beyond the text ({beyond}{same}): Z tells a text from its foil in {span(rated(text["z"]))} of
        {text["comparisons"]} comparisons; {"; ".join(parts)}.{told}"""
    lines = [line, f"{haar_text(text)}"]
    return lines + ([answer_text(text)] if text["answer"] else [])


def haar_text(text: dict) -> str:
    """Whether what Z tells beyond the text is special to Z."""
    null = text["haar"]
    drawn = f"Haar subspaces of that size tell {drawn_rate(null)} apart, p {p_of(null, draws=True)}; the whole stream"
    drawn = f"{drawn} {span(rated(text['stream']))}"
    if not haar_as_good(text):
        return f"{drawn}: so Z tells more than random subspaces."
    if verdicts.beats_text(text) is False:
        return f"{drawn}: so Z tells no more than random subspaces."
    return f"{drawn}: so Z tells no more than random subspaces. It is not shown that this is special to Z."


def answer_text(text: dict) -> str:
    """Which is nearer: another text with the same answer, or the same text under another operation."""
    found = text["answer"]
    says = "neither clearly decides"
    if found["high"] < 0.5:
        says = "the text decides and not the answer"
    elif found["low"] > 0.5:
        says = "the answer decides more than the text"
    return f"""Operation or answer: in {span(rated(found))} of texts another text with the same answer lies nearer than the same
        text under another operation (half where neither decides): {says}."""


def handed_line(results: dict) -> str:
    """What phase 3 gets, and whether it holds."""
    z = results["z"]
    line = (
        f"Handed on to phase 3: {page.METHODS[z['method']]}, of layer {z['layer']}, at {place(z['site'])}, k {z['k']}"
    )
    line += f", {POOLINGS[z['position']]}; {fitted_words(results)}"
    if "given" in results:
        given = results["given"]
        holds = page.HOLDS[given["holds"]]
        line += f"""; given by --z-from, on {given["problems"]} problems that it was not fitted on: holds {holds} (contrast
            {ratio(given["contrast"])}, p {p_row(given)}; without the offset {own(given["centred"])}, p {p_row(given["centred"])})"""
    else:
        line += f"; holds: {page.HOLDS[z['holds']]}{evidence_words(results)}"
    words = beyond_words(results["text_handed"] or results["text"], z["beyond_text"])
    return f"{line}; beyond the text: {words}."


def last_row(results: dict) -> dict | None:
    """The grid's row of the Z handed on at the last position, where later phases use it; None where it was chosen there.

    The row is found by layer, place, mask and k, of which every configuration of the grid has one at each pooling.
    """
    z, rows = results["z"], results["grid"]
    mask = {"weight": "multi", "weight_head0": "head0"}.get(z["method"])
    if z["position"] == "last" or mask is None:
        return None
    same = {"mask": mask, "mask_layer": z["layer"], "site": z["site"], "k": z["k"], "pooling": "last"}
    return next((row for row in rows if same.items() <= row.items()), None)


def last_line(results: dict) -> list[str]:
    """Whether the Z handed on holds at the last position too."""
    row = last_row(results)
    if row is None:
        return []
    part = row["centred"]
    holds = "holds" if verdicts.separation.holds(row) else "does not hold"
    return [
        f"""At the last position, where later phases use it: contrast {ratio(row["contrast"])}, p {p_row(row)}, Holm's p
        {p_holm(row)}; without the offset {own(part)}, matched draws {matched_cell(part)}, Holm's p {p_holm(part)} ({holds})."""
    ]


def fitted_words(results: dict) -> str:
    fitted = len(results["z"]["fitted_index"])
    if not results["z"]["fitted_on"]:
        return "fitted on nothing"
    return f"fitted on {fitted} of these {results['problems']} problems"


def evidence_words(results: dict) -> str:
    """The scores that a Z which is not the primary one was chosen by."""
    row = chosen_row(results)
    if row is None:
        return ""
    fitted = "on problems outside of the fit " if results["z"]["fitted_on"] else ""
    part = row["centred"]
    return f""" ({fitted}contrast {ratio(row["contrast"])}, Haar {ends(row["haar"])}, Holm's p {p_holm(row)}; without the offset
        {own(part)}, Haar {ends(part["haar"])}, matched draws {matched_cell(part)}, Holm's p {p_holm(part)})"""


def chosen_row(results: dict) -> dict | None:
    """The row that a Z handed on stands on: of a contingency or of the grid."""
    z, found = results["z"], results.get("contingencies", {}).get("candidates", {})
    if z["stands_on"] is None:
        return None
    if z["method"] in found:
        return found[z["method"]]
    keys = {"site": z["site"], "k": z["k"], "pooling": z["position"], "contrast": z["stands_on"]["contrast"]}
    return next((row for row in results["grid"] if keys.items() <= row.items()), None)


def tests_line(results: dict) -> list[str]:
    """Tests that were not passed, and those that could not be made."""
    tests = results["tests"]
    failed, unmade = ([what for name, what in MADE.items() if tests[name] is outcome] for outcome in (False, None))
    parts = [f"Tests failed, {len(failed)} of {len(tests)}: {'; '.join(failed)}."] if failed else []
    parts += [f"Could not be made: {'; '.join(unmade)}."] if unmade else []
    return [" ".join(parts)] if parts else []


def recipe_text(results: dict) -> str:
    """What follows for the hypothesis, and which kind of no a no is."""
    primary, verdict = results["primary"], results["verdict"]
    lead = """**The hypothesis tested** (the *recipe*: the few directions that attention reads at one late layer, known from weights
        alone, keep what a problem is and drop its language)"""
    if verdict == "clear":
        text = f"holds as far as a correlation can show it{PREDICTS[results['layer_chosen']]}"
    elif verdict == "partial":
        text = "holds in part: not in the configuration that was named before looking"
        text = "holds in part: at the named k and not at smaller ones" if results["tests"]["primary_k"] else text
        if uncounted(results["grid"]):
            text += ", and not shown to be more than the stream's own main directions"
        text += PREDICTS[results["layer_chosen"]]
    else:
        kind = kind_of_no(primary)
        null = hardest(primary)
        there = "*not there*" if null != "matched" else "*nothing special*"
        text = NO[kind].format(kind=there, null=NULLS[null])
    return f"{lead} {text}.{text_follows(results)}"


def text_follows(results: dict) -> str:
    """What follows from the comparison with foils."""
    text, beyond = results["text"], results["beyond_text"]
    if beyond is None:
        return f""" Whether Z holds more than the words *could not be tested* ({text["unmeasured"]}): to do so, {remedy(text)}."""
    if not beyond:
        return " That Z holds more than the words of the text is not shown."
    if haar_as_good(text):
        return " Z holds more than the words, and it is not shown that this is special to Z: random parts of the stream do as well."
    return " Z holds more than the words, and more of it than random subspaces of its size."


def remedy(text: dict) -> str:
    """What to do where the comparison with foils could not be made."""
    if "z" in text:
        return "run it on one device that holds all of the model"
    return "give the model's folder a contrast.jsonl whose base problems have an operation, in these languages"


def run_text(results: dict) -> list[str]:
    """The command that measured this, and what the weights are."""
    model, settings = results["model"], results["settings"]
    command = ["python phase2_z_extraction.py --model", model["name"]]
    flags = {
        "--revision": model.get("revision"),
        "--layer": settings["layer"] if results["layer_chosen"] == "given" else None,
    }
    flags |= {f"--{key}": settings.get(key) for key in ("languages", "limit", "batch", "seed", "device", "dtype")}
    flags |= {f"--{key.replace('_', '-')}": settings.get(key) for key in ("contingencies", "hand_on")}
    if settings["fitting_share"] < 1:
        flags["--problems"] = [name for name, _ in settings["problems"]]
    if settings.get("z_from"):
        flags = {flag: value for flag, value in flags.items() if flag != "--layer"} | {"--z-from": "FOLDER"}
    for flag, value in flags.items():
        if value not in (None, "auto"):
            command.append(f"{flag} {' '.join(value) if isinstance(value, list) else value}")
    command += ["--fold-norm"] if settings["fold_norm"] else []
    which = (
        f"revision {model['revision']}"
        if model.get("revision")
        else f"local files, hash {model.get('weights_hash', '–')}"
    )
    kind = model.get("quantisation")
    kind = (
        f"quantised, {kind}: what runs are the dequantised weights, not the original ones" if kind else "not quantised"
    )
    where = f"run as {settings.get('dtype', '–')} on {settings.get('device', '–')}"
    text = f"""**What was run**, after `1.py` with the same model and `--out`; files by name, without their folders. **Weights**:
        {model["name"]}, {which}; {kind}; {where}."""
    return [page.prose(text), f"```\n{' '.join(command)}\n```"]
