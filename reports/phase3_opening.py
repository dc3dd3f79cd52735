"""What phase 3's page says first: the verdict in a sentence, the numbers that decided, what follows, and what was run."""

import re
from collections.abc import Iterable, Sequence

import verdicts
from reports import page
from reports.page import decimal, percent, place, span
from reports.phase3_beside import disagreements, said_lines
from reports.phase3_figures import SHARES, haar_share, same_size, stretches
from reports.phase3_tables import CARRIES, RIVALS, TOLD, random_span, required, told

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
    **dict.fromkeys(verdicts.dissociation.CONTINGENCIES, [
        "the subspace of another of phase 2's contingencies",
        "the subspace of another contingency that holds in phase 2 ({method}), at {place}, its best place on development answers",
        "is not shown: weights alone do not give this subspace"]),
    "answer_means": [
        "the span of answers' mean streams",
        "the span of the development answers' mean streams, at {place}",
        "is not shown: answers have a code that unseen ones share, but it was read from activations"],
    "learned": [
        "a subspace learned by gradients",
        "the subspace learned by gradients on development answers, at {place}",
        "is not shown: answers have a code that unseen ones share, but it was learned for its effect"],
}  # fmt: skip
WEIGHTS = ("weights", "weights_at_carrier", "best_layer")  # of these, the Zs that weights alone give
GIVEN = "giving a prompt's last position another's residual stream in {k} of {width} directions {place} ({what})"
MOVES = f"In {{model}}, {GIVEN} brings over its answer ({{coverage}} of what the whole stream brings)"
VERDICTS = {  # what was swapped and what moved, in one sentence; what becomes of the hypothesis, of a dissociation TESTED says it
    "double_dissociation": [
        f"{MOVES} and not its language ({{leak}}); giving it the rest does the reverse", ""],
    "language_removed": [
        f"{MOVES}, but these directions are so many that they are little more than everything except the language",
        "is not shown: whatever leaves out the language alone does the same"],
    "answer_word": [
        f"In {{model}}, {GIVEN} moves {{coverage}} of its answer, {{word}}",
        "is not shown: what moves the answer is the output word"],
    "illusion": [
        f"{MOVES}, but along directions that the model's own states do not use: among these, {{h}} of that is left",
        "is not shown: the swap works through a path that the model leaves idle (Makelov et al. 2023)"],
    "partial": [
        f"""In {{model}}, {GIVEN} brings over {{coverage}} of its answer (random directions {{haar}}) and {{leak}} of its language,
        and the rest {{complement_transfer}} of the answer; {{count}}""",
        "is not shown"],
    "inconclusive": [
        f"""Whether in {{model}} {GIVEN} brings over its answer and not its language is neither shown nor excluded: it brings
        {{low}} to {{high}} of what the whole stream brings""",
        "is left open; solved problems with more different answers would narrow the intervals, up to 20 problems a half"],
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
RECIPE = """**The hypothesis tested** (the *recipe*: the few directions that attention reads at one late layer, known from
    weights alone, carry the answer, and the rest the language)"""
INTERVAL = re.compile(r" \([-\d.]+ to [-\d.]+\)")
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


def subject(name: str, row: dict, results: dict, stands: bool = False) -> str:
    """A tested Z in words; `stands`: with what the weights' layer stands on."""
    inner = f"layer {results['weights']['inner']}"
    inner = page.layer_name(results["weights"]["inner"], results["layer_chosen"]) if stands else inner
    method = page.METHODS.get(row["method"], row["method"])
    return TESTED[name][1].format(inner=inner, layer=row["layer"], place=place(row["site"]), method=method)


def judged_on(row: dict, results: dict) -> str:
    """On how many problems a Z is judged, and how many different answers these have."""
    which = (
        f"all {row['judged']} scored problems" if row["judged_on"] == "all" else f"{row['judged']} held-out problems"
    )
    judged = [one for one in results["recipients"] if row["judged_on"] in ("all", one["half"])]
    different = len({one["answer"] for one in judged})
    return f"{which} with {different} different answers" if len(judged) == row["judged"] > different else which


def haar_text(name: str, key: str, results: dict, lead: str = "Haar ") -> str:
    """What random subspaces of a Z's size, or their complements, move in one share; nothing where it was not measured."""
    share = haar_share(results, name, key)
    if share is None and key == "complement_transfer" and (inside := haar_share(results, name, "coverage")) is not None:
        return f"{lead}to first order {percent(1 - inside)}"
    return f"{lead}{percent(share)}" if share is not None else ""


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
    said["complement_transfer"] = percent(row["complement_transfer"]["value"])
    said["haar"] = percent(row["nulls"]["haar"]["coverage"])
    gates = row.get("gates") or {"word": {"full": {"value": None}, "z": {"value": None}}, "manifold": None}
    said["word"] = word_told(gates["word"], row)
    said["h"] = percent((gates["manifold"] or {"h": {"value": None}})["h"]["value"])
    said["count"] = count_text(row, results["tests"])
    return said


def count_text(row: dict, tests: dict) -> str:
    """How many tests a Z surely fails, how many it neither surely fails nor passes, or how many could not be run."""
    unsure = sum(tests[test] is False for test in row["open_tests"])
    if row["failed"]:
        return f"{len(row['failed'])} of {len(tests)} tests failed" + (f", {unsure} open" if unsure else "")
    unmade = list(tests.values()).count(None)
    return (
        f"{unsure} of {len(tests)} tests open, none failed"
        if unsure
        else f"{unmade} of {len(tests)} tests could not be run"
    )


def word_told(word: dict, row: dict) -> str:
    """How much of a Z's effect is the code of the word to be written, by the limit that says so."""
    rules, rest = verdicts.dissociation, word["full"]["value"]
    if rest is None or rest < rules.ONLY_WORD:
        return f"""explained by the code of the word to be written: outside of that code even the whole stream moves
            {span(word["full"])} (limit {page.needed(rules.ONLY_WORD)})"""
    limit = percent(rules.BESIDE_WORD * min(1.0, row["coverage"]["value"]))
    return f"""mostly explained by the code of the word to be written: outside of it they move
        {percent(word["z"]["value"])} of what the whole stream does (limit {limit})"""


def numbers_text(results: dict) -> str:
    """The numbers that decided, a line each: what, the number with its interval, and what it stands beside."""
    name, row = decided(results)
    if row is None or row["verdict"] in NOT_TOLD:
        lines = [place_line(row), *whole_lines(results)] if row else whole_lines(results)
    else:
        lines = [*where_lines(name, row, results), *profile_lines(name, row, results), *seen_lines(name, row)]
        lines += [*rival_lines(name, row, results), *weights_lines(name, results), *failed_lines(row, results)]
        lines += [*gate_lines(row), *said_lines(row, results), *disagreements(name, row, results)]
    items = "\n".join(f"- {line}" for line in lines)
    return f"""
        Deciding numbers, with 95 % intervals (*surely*: by the end of the interval). Shares are of what F, the swap of the
        whole stream, moves there; Haar: random subspaces as large:

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


def where_lines(name: str, row: dict, results: dict) -> list[str]:
    """Where answer and language arrive, and which Z was swapped where."""
    scored = results["problems"]["development"]["scored"]
    answer, language = (arrival(results, *pair) for pair in (("answer", "t_same"), ("language", "g")))
    which = subject(name, row, results, stands=name == "weights")  # of others another paragraph says it
    judged = f"{judged_on(row, results)}, on whose answers nothing was fitted or chosen"
    return [
        f"""Where: the answer passes {answer}, the language {language}; F on {scored} development
            problems.{page.language_free(results["curve"])}""",
        f"Z (the directions given): {which}; k {row['k']} of {results['width']}; judged on {judged}.",
    ]


def arrival(results: dict, kind: str, key: str) -> str:
    """The first place that carries something, with what the full swap moves there and at the last one measured before."""
    sites, curve = results["carriers"][kind], {row["site"]: row[key]["value"] for row in results["curve"]}
    first, before = min(sites), max((site for site in curve if site < min(sites)), default=None)
    if before is None:
        return f"from {place(first)} on, the first place measured ({decimal(curve[first])} nats there)"
    return f"from {place(first)} on ({decimal(curve[first])} nats there, {decimal(curve[before])} at {place(before)})"


def profile_lines(name: str, row: dict, results: dict) -> list[str]:
    """The four shares and D, each beside what random subspaces do and what the hypothesis says."""
    coverage, leak, transfer, language = (span(row[key]) for key in SHARES)
    haar = {key: text + "; " if (text := haar_text(name, key, results)) else "" for key in SHARES}
    rest = {key: text + "; " if (text := haar_text(name, key, results, "Haar's rest ")) else "" for key in SHARES}
    null = row["nulls"]["haar"]
    drawn = f"Haar's median {decimal(null['middle'])}, 95 % point {decimal(null['high'])}; {page.p_text(row)}"
    return [
        f"Z moves of the answer (coverage): {coverage}; {haar['coverage']}hypothesis 100 %.",
        f"Z moves of the language (leak): {leak}; {haar['leak']}hypothesis 0 %.",
        f"""Z⊥, the rest, moves {transfer} of the answer ({rest["complement_transfer"]}hypothesis 0 %) and {language} of the
        language ({rest["complement_language"]}hypothesis 100 %).""",
        f"D (coverage − leak − Z⊥'s answer + Z⊥'s language): {span(row['d'], decimal)}; hypothesis 2; {drawn}.",
    ]


def seen_lines(name: str, row: dict) -> list[str]:
    """What is only memorised shows as a difference between answers that were seen and new ones."""
    if not row["seen"] or row["seen"]["coverage"]["value"] is None:
        return []
    how = "its place was chosen" if name in WEIGHTS else "Z was fitted"
    return [
        f"On answers on which {how}, Z moves {span(row['seen']['coverage'])} of the answer, on new ones {span(row['coverage'])}."
    ]


def rival_lines(name: str, row: dict, results: dict) -> list[str]:
    """What other subspaces of that size move of the answer."""
    found = {rival: same_size(results, name, rival) for rival in ("pca", "centroid")}
    parts = [f"{RIVALS[rival]} {short(one)}" for rival, one in found.items() if one]
    own = same_size(results, name, "z")
    parts[1:] = [*parts[1:], f"beside Z's {short(own)} with the same donors"] if parts and own else parts[1:]
    matched = row["nulls"].get("matched")
    if matched:
        why = "" if matched["gates"] else f", not counted as a null because Z holds {percent(row['within_share'])}"
        why += " of the variance, more than half" if why else ""
        parts.append(f"""{page.NULLS["matched"]} {percent(matched["coverage"])} (D {decimal(matched["middle"])}; p
            {page.p_value(matched["p"], matched["draws"])}{why})""")
    return [f"Rivals of that size move of the answer: {'; '.join(parts)}."] if parts else []


def short(row: dict) -> str:
    return f"{percent(row['coverage']['value'])} (D {decimal(row['d']['value'])})"


def weights_rows(results: dict) -> dict[str, dict]:
    """The weights' own Zs, as far as they could be tested."""
    rows = {name: results["tested"].get(name, {}) for name in WEIGHTS}
    return {name: row for name, row in rows.items() if row.get("p") is not None}


def weights_lines(name: str, results: dict) -> list[str]:
    """What the weights' own Zs do where they were swapped, and the verdict is about another one."""
    rows = weights_rows(results)
    parts = [
        f"{page.SUBSPACES[other]}, {place(row['site'])}, moves {span(row['coverage'])} of the answer"
        f" ({haar_text(other, 'coverage', results)}; {page.p_text(row)}; `{row['verdict']}`)"
        for other, row in rows.items()
        if other not in (name, "weights")
    ]
    return [f"From weights alone: {'; '.join(parts)}."] if parts and name != "weights" else []


def at_chance(results: dict) -> str:
    """Whether the weights' Z is not shown to be beyond its nulls where it was tested, and where it is only beyond every draw."""
    rows = weights_rows(results).values()
    if not rows or any(row["verdict"] != "none" for row in rows):
        return ""
    places, few = (list(dict.fromkeys(place(row["site"]) for row in some)) for some in (rows, beyond_all(rows)))
    few = f" (at {listing(few)} beyond every draw, and these are too few for Holm's correction)" if few else ""
    return f"; the weights' Z is not shown to be beyond its nulls where it was tested, at {listing(places)}{few}"


def beyond_all(rows: Iterable[dict]) -> list[dict]:
    """Of Zs that were tested, those that no draw of the null that decides reaches, with a p that Holm's correction lifts to .05."""
    least = {id(row): 1 / (1 + row["nulls"][page.hardest(row)]["draws"]) for row in rows}
    return [row for row in rows if row["p"] < 1.5 * least[id(row)] and row["p_holm"] >= verdicts.LEVEL]


def failed_lines(row: dict, results: dict) -> list[str]:
    """The tests that were not passed, with their numbers: surely failed or not, and those that could not be run."""
    made, lines = required(row, results["tests"], results["width"]), []
    for lead, kind in (
        ("Tests failed", row["failed"]),
        ("Tests neither surely passed nor surely failed", row["open_tests"]),
    ):
        missed = [
            f"{test} ({found if 'surely' in needed or test in row['open_tests'] else INTERVAL.sub('', found)}; needed {needed})"
            for test, found, needed, _, passed in made
            if passed is False and test in kind
        ]
        lines += [f"{lead}, {len(missed)} of {len(made)}: {'; '.join(missed)}."] if missed else []
    unmade = [test for test, *_, passed in made if passed is None]
    return lines + (
        [f"Tests that could not be run, {len(unmade)} of {len(made)}: {', '.join(unmade)}."] if unmade else []
    )


def gate_lines(row: dict) -> list[str]:
    """What else could explain a Z's effect."""
    if not row.get("gates"):
        return []
    word, states = row["gates"]["word"], row["gates"]["manifold"]
    rest = (
        f", and Z {span(word['z'])} of that" if word["z"]["value"] is not None else ", too little to ask what Z keeps"
    )
    random, needed = "", page.needed(verdicts.dissociation.BESIDE_WORD)
    if (null := word.get("random")) and null["middle"] is not None:
        random = f"; outside of random subspaces as large {random_span(null)}, 5 to 95 % of {null['draws']} draws"
    lines = [f"""Code of the output word ({word["dimensions"]} dimensions): outside of it F keeps {span(word["full"])} of its
        effect on the answer{rest} (needed {needed}){random}."""]  # fmt: skip
    if states is None:
        return [*lines, "The model's own states: there were no other problems to tell which it visits."]
    needed, h = f"needed {decimal(verdicts.HONEST)}", states["h"]
    times = f", and Z the same share times h = {span(h, decimal)} ({needed})" if h["value"] is not None else ""
    text = f"""Among states that the model visits on other problems ({states["components"]} dimensions of {states["states"]:,}
        states) F keeps {span(states["full"])} of its effect{times}. {TOLD[told(states)]}"""
    return [*lines, text]


def recipe_text(results: dict) -> str:
    """What follows for the recipe's causal claim, in a sentence."""
    name, row = decided(results)
    if row is None:
        return f"{RECIPE} {CANNOT}."
    meaning = VERDICTS[row["verdict"]][1] or TESTED[name][2]
    if verdicts.dissociation.left_open(row):
        meaning = "is left open: the best subspace surely fails no test, and does not surely pass all"
    if (
        name.startswith("weights")
        and row["verdict"] == "double_dissociation"
        and results["layer_chosen"] in ("no_bottleneck", "given")
    ):
        meaning += "; but the weights did not single out that layer, so this confirms no prediction"
    if meaning.startswith("is not shown") and name not in WEIGHTS:
        meaning += at_chance(results)
    return f"{RECIPE} {meaning}."


def weights_text(results: dict) -> str:
    """What became of the weight-based Z at its own place, where the verdict is about another one."""
    row = results["tested"].get("weights")
    if row is None or decided(results)[0] == "weights":
        return ""
    layer = page.layer_name(row["layer"], results["layer_chosen"])
    lead = f"**The weights' own place**, {place(row['site'])}, the output of {layer}:"
    if row["place"] == "joint":
        return f"{lead} the weights' Z, k {row['k']}, gives `{row['verdict']}`: {summary_numbers(row)}."
    scored = results["problems"]["development"]["scored"]
    share = next((span(one.get("t_same_share")) for one in results["curve"] if one["site"] == row["site"]), "–")
    moved = f" (on {scored} development problems it moves the answer by {share} of what it does at its best place)"
    moved = "" if share == "–" else moved
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
    one = len(settings.get("ladder", [])) - len(settings.get("easier", [])) == 1
    command += ["--problems", *(name for name, _ in settings["problems"])] if one else []
    command += ["--exemplars", settings["exemplars"][0]] if one and settings.get("exemplars") else []
    command += ["--easier", *settings["easier"]] if settings.get("easier") else []
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
