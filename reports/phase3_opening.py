"""What phase 3's page says first: the verdict in a sentence, the numbers that decided, what follows, and what was run."""

from collections.abc import Sequence

import verdicts
from reports import page
from reports.page import decimal, percent, place, span
from reports.phase3_figures import SHARES, stretches
from reports.phase3_tables import CARRIES, TOLD, missed, told

TESTED = {  # what it is in the verdict; what it is in full; what follows where it dissociates
    "weights": [
        "the weights' subspace of layer {layer}",
        "the weights' subspace of {inner} at the place that goes with it, {place}",
        "holds here, with subspace and place from weights alone"],
    "weights_at_carrier": [
        "the weights' subspace of layer {layer}",
        "the weights' subspace of {inner}, moved to {place}, its best place on development answers",
        "holds in part: the weights give the subspace and not the place, which had to be found by swapping"],
    "best_layer": [
        "the weights' subspace of layer {layer}",
        "the weights' subspace of layer {layer} at its own output {place}, best on development answers",
        "holds in part: weights give the subspace, but not the layer, which had to be found by swapping"],
    "handed": [
        "the subspace that phase 2 handed on",
        "the subspace that phase 2 hands on ({method}), at {place}, its best place on development answers",
        "is not shown: weights alone do not give this subspace"],
    "answer_means": [
        "the span of answers' mean streams",
        "the span of the development answers' mean streams, at {place}",
        "is not shown: answers have a code that unseen ones share, but it was read from activations"],
    "learned": [
        "a subspace learned by gradients",
        "the subspace learned by gradients on development answers, at {place}",
        "is not shown: answers have a code that unseen ones share, but it was learned for its effect"],
}  # fmt: skip
GIVEN = "giving one prompt another's residual stream in {k} of {width} directions {place} ({what})"
MOVES = f"In {{model}}, {GIVEN} brings over its answer ({{coverage}} of what the whole stream brings)"
VERDICTS = {  # what was swapped and what moved, in one sentence; what becomes of the hypothesis, of a dissociation TESTED says it
    "double_dissociation": [
        f"{MOVES} and not its language ({{leak}}); giving it the rest does the reverse", ""],
    "language_removed": [
        f"{MOVES}, but these directions are so many that they are little more than everything except the language",
        "is not shown: whatever leaves out the language alone does the same"],
    "answer_word": [
        f"{MOVES}, but mostly as the code of the word to be written: outside of it {{word}}",
        "is not shown: what moves the answer is the output word"],
    "illusion": [
        f"{MOVES}, but along directions that the model's own states do not use: among these, {{h}} of that is left",
        "is not shown: the swap works through a path that the model leaves idle (Makelov et al. 2023)"],
    "partial": [
        f"""In {{model}}, {GIVEN} brings over its answer better than random directions do ({{coverage}} against {{haar}} of what
        the whole stream brings), but answer and language do not come apart cleanly: {{count}}""",
        "is not shown"],
    "inconclusive": [
        f"""Whether in {{model}} {GIVEN} brings over its answer and not its language is neither shown nor excluded: it brings
        {{low}} to {{high}} of what the whole stream brings""",
        "is left open; more solved problems would narrow the intervals"],
    "none": [
        f"""In {{model}}, {GIVEN} is not shown to part answer from language beyond random directions, and brings over at most
        {{high}} of the answer that the whole stream brings""",
        "fails for the subspaces tested: the answer passes this place outside of them (*not there*)"],
}  # fmt: skip
NOT_HERE = [
    """In {model}, giving one prompt another's whole residual stream {place} brings over {carries}, so no part of it at this
    place can be shown to hold one without the other""",
    "is left open: this is about the place (*not at this place*), and nothing follows elsewhere"]  # fmt: skip
NOT_TOLD = ("answer_only", "language_only", "untestable")
VERDICTS |= dict.fromkeys(NOT_TOLD, NOT_HERE)
UNDEFINED = """In {model}, giving one prompt another's whole residual stream {place} moves too little on the problems judged to say
    what share of it a part of it brings over"""
NOWHERE = """In {model}, no place was found where giving one prompt another's whole residual stream brings over both answer
    and language, so no subspace can be shown to hold one without the other"""
UNSOLVED = """In {model} nothing was swapped: at most {everywhere} of {asked} problems that were asked (`{rung}`) are solved in
    every language, where {problems} are needed"""
RECIPE = """**The hypothesis tested** (the *recipe*: the few directions that attention reads at one late layer, known from
    weights alone, carry the answer, and the rest the language)"""
CANNOT = "cannot be tested with this model and these problems; nothing follows for it"


def decided(results: dict) -> tuple[str | None, dict | None]:
    """The tested Z that the verdict is about; none where no place carries both answer and language."""
    name = results["decided_by"] if results["carriers"]["joint"] else None
    return name, results["tested"].get(name)


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
    return TESTED[name][1].format(inner=inner, layer=row["layer"], place=place(row["site"]), method=method)


def judged_on(row: dict) -> str:
    if row["judged_on"] == "all":
        return f"all {row['judged']} scored problems"
    return f"{row['judged']} problems with answers on which nothing was fitted or chosen"


def solved(row: dict) -> str:
    mass = "" if row["mass"] is None else f", {percent(row['mass'])} of the probability on answers"
    counts = listing([f"{count} in {language}" for language, count in row["solved"].items()])
    return f"`{row['rung']}` {counts}, {row['everywhere']} in every language, of {row['asked']}{mass}"


def random_rest(name: str, row: dict, results: dict) -> str:
    """What the complement of random subspaces moves: measured, or to first order 1 less what they move."""
    beside, null = results.get("beside"), row["nulls"].get("haar")
    if beside and beside["of"] == name:
        answer, language = (beside["rivals"]["haar"][key] for key in ("complement_transfer", "complement_language"))
        return f"Haar's complement {span(answer)} and {span(language)} (5 to 95 % of draws)"
    if null is None:
        return "no random subspaces were swapped here"
    return f"Haar's complement, to first order, {percent(1 - null['coverage'])} of the answer (1 less Haar's coverage)"


def verdict_text(results: dict) -> str:
    """One sentence that a stranger understands, with the verdict at its end."""
    name, row = decided(results)
    if row is None:
        sentence = NOWHERE.format(model=results["model"]["name"])
    else:
        undefined = row["verdict"] in NOT_TOLD and row["place"] == "joint"
        sentence = UNDEFINED if undefined else VERDICTS[row["verdict"]][0]
        sentence = sentence.format(**told_by(name, row, results))
    return f"{page.prose(sentence)} (`{results['verdict']}`)."


def told_by(name: str, row: dict, results: dict) -> dict[str, str]:
    """The words and numbers of a verdict's sentence."""
    said = {"model": results["model"]["name"], "k": row["k"], "width": results["width"]}
    said["place"] = f"after layer {row['site'] - 1}" if row["site"] else "in the embeddings"
    said["what"] = TESTED[name][0].format(layer=row["layer"])
    said["carries"] = CARRIES[row["place"]]
    if row["verdict"] in NOT_TOLD:
        return said
    said |= {key: percent(row[key]["value"]) for key in ("coverage", "leak")}
    said |= {end: percent(row["coverage"][end]) for end in ("low", "high")}
    said["haar"] = percent(row["nulls"]["haar"]["coverage"])
    gates = row.get("gates") or {"word": {"full": {"value": None}, "z": {"value": None}}, "manifold": None}
    word, states = gates["word"], gates["manifold"] or {"h": {"value": None}}
    rest = word["full"]["value"]
    beside = f"they bring {percent(word['z']['value'])}"
    alone = f"the whole stream keeps {percent(rest)}"
    said["word"] = alone if rest is None or rest < verdicts.dissociation.ONLY_WORD else beside
    said["h"] = percent(states["h"]["value"])
    failed, made = list(results["tests"].values()).count(False), len(results["tests"])
    unmade = list(results["tests"].values()).count(None)
    said["count"] = f"{failed} of {made} tests failed" if failed else f"{unmade} of {made} tests stays open"
    return said


def numbers_text(results: dict) -> str:
    """The numbers that decided, a line each: what, the number with its interval, and what it stands beside."""
    name, row = decided(results)
    if row is None or row["verdict"] in NOT_TOLD:
        lines = [place_line(row), *whole_lines(results)] if row else whole_lines(results)
    else:
        lines = [*profile_lines(name, row, results), *failed_lines(row, results), *gate_lines(row)]
        lines += said_lines(row, results)
    items = "\n".join(f"- {line}" for line in lines)
    return f"""
        Deciding numbers, with 95 % intervals; shares are of what F, the swap of the whole stream, moves there:

        {items}
    """


def whole_lines(results: dict) -> list[str]:
    """What the whole stream carries where, and where it moves most."""
    scored, parts = results["problems"]["development"]["scored"], []
    for kind, key in (("answer", "t_same"), ("language", "g")):
        best = max(results["curve"], key=lambda row: row[key]["value"])
        parts.append(f"the {kind} most at {place(best['site'])}, by {span(best[key], decimal)} nats")
    where = carriers(results, "answer", "language", "joint")
    return [f"F carries, on {scored} development problems, {where}.", f"F moves {listing(parts)}."]


def place_line(row: dict) -> str:
    """What the full swap moves at a place where nothing can be said of a part of it."""
    answer, language = (span(row["full"][key], decimal) for key in ("t_same", "g"))
    return (
        f"At this place, {place(row['site'])}, F moves the answer by {answer} nats and the language by {language} nats."
    )


def profile_lines(name: str, row: dict, results: dict) -> list[str]:
    """Which Z and where, the four shares and D, each beside what random subspaces do and what the hypothesis says."""
    coverage, leak, transfer, language = (span(row[key]) for key in SHARES)
    null = row["nulls"]["haar"]
    drawn = f"Haar's median {decimal(null['middle'])}, 95 % point {decimal(null['high'])}; {page.p_text(row)}"
    size = f"k {row['k']} of {results['width']}"
    return [
        f"Z (the directions given) and where: {subject(name, row, results)}; {size}; judged on {judged_on(row)}.",
        f"""Z moves of the answer (coverage): {coverage}; random subspaces of that size (Haar) {percent(null["coverage"])};
        hypothesis 100 %.""",
        f"Z moves of the language (leak): {leak}; hypothesis 0 %.",
        f"""The rest, Z⊥, moves {transfer} of the answer and {language} of the language; {random_rest(name, row, results)};
        hypothesis 0 and 100 %.""",
        f"D (coverage − leak − Z⊥'s answer + Z⊥'s language): {span(row['d'], decimal)}; hypothesis 2; {drawn}.",
    ]


def failed_lines(row: dict, results: dict) -> list[str]:
    """The tests that were not passed, with their numbers, and those that could not be made."""
    failed = missed(row, results["tests"])
    lines = [f"Tests not passed: {'; '.join(failed)}."] if failed else []
    unmade = [test for test, passed in results["tests"].items() if passed is None]
    return lines + ([f"Tests that could not be made: {', '.join(unmade)}."] if unmade else [])


def gate_lines(row: dict) -> list[str]:
    """What else could explain a Z's effect."""
    if not row.get("gates"):
        return []
    word, states = row["gates"]["word"], row["gates"]["manifold"]
    rest = (
        f", and Z {span(word['z'])} of that" if word["z"]["value"] is not None else ", too little to ask what Z keeps"
    )
    needed = page.needed(verdicts.dissociation.BESIDE_WORD)
    lines = [f"""Code of the output word ({word["dimensions"]} dimensions): outside of it F keeps {span(word["full"])} of its
        effect on the answer{rest} (needed {needed})."""]  # fmt: skip
    if states is None:
        return [*lines, "The model's own states: there were no other problems to tell which it visits."]
    h = f", and Z of its own times h = {span(states['h'], decimal)}" if states["h"]["value"] is not None else ""
    sizes = f"{states['components']} dimensions of {states['states']:,} states"
    text = f"""The model's own states on other problems ({sizes}): among them F keeps {span(states["full"])} of its effect{h}
        (needed h {decimal(verdicts.HONEST)}). {TOLD[told(states)]}"""
    return [*lines, text]


def said_lines(row: dict, results: dict) -> list[str]:
    """Whether the effect carries to another format and contrast donors, so that the word may be used of Z."""
    judged, found = results.get("reasoning"), row.get("reasoning")
    if not judged or not found:
        return []
    lines = [format_line(form, judged["format"]) for form in found["formats"]]
    may = "may" if judged["said"] else "may not"
    return [
        *lines,
        contrast_line(found["contrast"], judged["contrast"]),
        f"So the word *reasoning* {may} be used of this Z.",
    ]


WAYS = {True: "passed", False: "failed", None: "neither shown nor excluded"}


def format_line(form: dict, passed: bool | None) -> str:
    """How far Z carries to answers in another format."""
    lead = f"Answer asked in {form['name']}, donors in words"
    if form["unmeasured"]:
        return f"{lead}: not testable here, {form['unmeasured']}."
    return f"""{lead}: {WAYS[passed]}; Z moves {span(form["z"])} of what F moves with donors asked in {form["name"]}
        ({span(form["reference"], decimal)} nats, {form["problems"]} problems), random subspaces
        {percent(form["haar"]["middle"])}, {page.p_value(form["haar"]["p"], form["haar"]["draws"])}."""


def contrast_line(found: dict, passed: bool | None) -> str:
    """What donors do that share text and numbers, or the answer alone."""
    if found["unmeasured"]:
        return f"Contrast donors: not testable here, {found['unmeasured']}."
    other, same = found["operation"], found["same_answer"]
    return f"""Contrast donors ({found["problems"]} problems): {WAYS[passed]}; another operation on the same numbers: Z moves
        {span(other["z"])} of F's, random subspaces {percent(other["haar"]["middle"])},
        {page.p_value(other["haar"]["p"], other["haar"]["draws"])}; another text with the same answer:
        {span(same["kept"])} of swaps keep the answer, {percent(same["full_kept"]["value"])} of F's."""


def recipe_text(results: dict) -> str:
    """What follows for the recipe's causal claim, in a sentence."""
    name, row = decided(results)
    if row is None:
        return f"{RECIPE} {CANNOT}."
    meaning = VERDICTS[row["verdict"]][1] or TESTED[name][2]
    if (
        name.startswith("weights")
        and row["verdict"] == "double_dissociation"
        and results["layer_chosen"] in ("no_bottleneck", "given")
    ):
        meaning += "; but the weights did not single out that layer, so this confirms no prediction"
    return f"{RECIPE} {meaning}."


def weights_text(results: dict) -> str:
    """What became of the weight-based Z at its own place, where the verdict is about another one."""
    row, maximum = results["tested"].get("weights"), results.get("maxima", {}).get("t_same", 0)
    if row is None or decided(results)[0] == "weights":
        return ""
    layer = page.layer_name(row["layer"], results["layer_chosen"])
    lead = f"**The weights' own place**, {place(row['site'])}, the output of {layer}:"
    if row["place"] == "joint":
        return f"{lead} the weights' Z, k {row['k']}, gives `{row['verdict']}`: {summary_numbers(row)}."
    full, moved = row["full"]["t_same"]["value"], ""
    if full is not None and maximum > 0:
        moved = f" (it moves the answer by {percent(full / maximum)} of what it does at its best place)"
    return f"""{lead} the whole stream carries {CARRIES[row["place"]]} there{moved}, so this says something about this place
        and nothing about the weights' Z (`{row["verdict"]}`)."""


def summary_numbers(row: dict) -> str:
    """A Z's coverage, D and p beside those of random subspaces."""
    if row["verdict"] in NOT_TOLD:
        joint = row["place"] == "joint"
        return "the whole stream moves too little to divide by" if joint else f"F carries {CARRIES[row['place']]}"
    return f"coverage {span(row['coverage'])}, D {span(row['d'], decimal)}; {page.random_text(row)}"


def run_text(results: dict) -> list[str]:
    """The command that measured this, and what the weights are."""
    model, settings = results["model"], results["settings"]
    kept = {
        "revision": "--revision",
        "languages": "--languages",
        "limit": "--limit",
        "batch": "--batch",
        "seed": "--seed",
    }
    kept |= {"device": "--device", "dtype": "--dtype"}
    command = ["python phase3_patching.py --model", model["name"]]
    for key, flag in kept.items():
        value = model.get("revision") if key == "revision" else settings.get(key)
        if value is not None:
            command.append(f"{flag} {' '.join(value) if isinstance(value, list) else value}")
    one = len(settings.get("ladder", [])) == 1
    command += ["--problems", *(name for name, _ in settings["problems"])] if one else []
    command += ["--exemplars", settings["exemplars"][0]] if one and settings.get("exemplars") else []
    command += ["--learned"] if settings.get("learned") else []
    which = (
        f"revision {model['revision']}"
        if model.get("revision")
        else f"local files, hash {model.get('weights_hash', '–')}"
    )
    kind = model.get("quantisation")
    kind = (
        f"quantised, {kind}: what runs are the dequantised weights, not the original ones" if kind else "not quantised"
    )
    tied = {True: "tied", False: "not tied", None: "of unknown kinship"}[model.get("tied")]
    where = f"run as {settings.get('dtype', '–')} on {settings.get('device', '–')}"
    text = f"""**What was run**, after `1.py` and `phase2_z_extraction.py` with the same model and `--out`; files by name, without
        their folders. **Weights**: {model["name"]}, {which}; {kind}; input and output embeddings {tied}; {where}."""
    return [page.prose(text), f"```\n{' '.join(command)}\n```"]


def unsolved_text(results: dict) -> list[str]:
    """Verdict and numbers where no kind of problem could be used: what was tried, what the model says, what to try."""
    needed, free, instead = results["needed"], results["unsolved"], ""
    most = max(results["tried"], key=lambda row: row["everywhere"])
    verdict = UNSOLVED.format(**most | {"model": results["model"]["name"], "problems": needed["problems"]})
    tried = "\n".join(f"- {solved(row)} ({row['outcome'].replace('_', ' ')})" for row in results["tried"])
    if free is not None:
        rows = [
            [language, *(counts[kind] for kind in ("words", "digits", "wrong"))]
            for language, counts in free["counts"].items()
        ]
        instead = f"""Free answers to `{free["rung"]}`, {free["asked"]} in each language:

            {page.table(["language", "right in words", "right in digits", "wrong"], rows)}"""
    return [f"{page.prose(verdict)} (`{results['verdict']}`).", page.prose(f"""
        Solved, from the hardest kind on:

        {tried}

        Needed are {needed["problems"]} problems solved in every language with {needed["answers"]} different answers, on which
        {page.needed(needed["mass"])} of the probability lies; {needed["precheck"]} of each kind are asked first.

        {instead}

        {RECIPE} {CANNOT}. To try: a larger or another model (`--model`), easier problems (`--problems`), more exemplars with
        answers in words (`--exemplars`), other languages (`--languages`).
    """)]  # fmt: skip
