"""What the hunt's page says first: the verdict in a sentence, then what moves the answer, where the weights point, what follows."""

from itertools import groupby

import verdicts
from reports import page
from reports.hunt_tables import (
    CARRIES,
    REASONS,
    SOURCES,
    beside_draws,
    drawn,
    first_nodes,
    matched_text,
    null_p,
    of_size,
    own,
)
from reports.page import decimal, listing, p_value, percent, place, show, span

SWAP = "replacing {k} of the {width} directions of one prompt's inner state {where} by another prompt's"
ASKED = {  # the kinds of problem of data/
    "words": "word problems", "sums": "sums", "successor": "which number comes next", "reasoning": "who comes first in an order",
    "antonyms": "the opposite of a word",
}  # fmt: skip
VERDICTS = {  # one sentence that a stranger understands
    "causal_z": f"In {{place}}, {SWAP} brings over its answer ({{coverage}} of what all directions do) and not its language "
    "({leak}); {found}",
    "learned_only": f"In {{place}}, {SWAP} brings over its answer ({{coverage}} of what all directions do) and not its language "
    "({leak}), but they were learned for this effect; no others found do it",
    "answer_word": f"In {{place}}, {SWAP} moves {{coverage}} of its answer and {{leak}} of its language, {{word}}",
    "illusion": f"In {{place}}, {SWAP} moves {{coverage}} of its answer and {{leak}} of its language, but along directions that the "
    "model's own states hardly use",
    "inconclusive": "In {place}, whether directions of the inner state carry the answer without the language is left open: the "
    "best found, {k} of {width} {where}, bring over {range} of it",
    "partial_z": f"In {{place}}, {SWAP} brings over {{coverage}} of its answer (random directions {{haar}}) and {{leak}} of its "
    "language, the rest {complement_transfer} of the answer: {short}",
    "correlational_z": "In {model}, some directions of the inner state keep what a problem is and drop its language ({source}), but "
    "{unused}",
    "no_z": "In {model}, no directions tried are shown to keep what a problem is and drop its language better than controls do "
    "(random and main directions, the words alone), and replacing them {none}",
    "untestable": "In {model}, no directions tried are shown to keep what a problem is and drop its language better than controls do, "
    "and whether any carry the answer could not be tested, since {reason}",
}
FOUND = {  # what told where a causal Z is
    "weights": "the weights alone predict these directions, their layer and their place",
    "weights, no layer": "these directions come from weights alone, but the weights single out no layer",
    "weights, another place": "the weights alone predict these directions, and not the place where they act",
    "weights, another layer": "these directions come from weights alone, but from another layer than predicted",
    "activations": "the weights do not predict these directions",
}
RECIPE = """**The hypothesis tested** (the *recipe*: the few directions that attention reads at the layer of lowest effective rank,
    known from weights alone, carry the answer, and the rest the language)"""
FOLLOWS = {  # what becomes of it, by the verdict or by what told where a causal Z is
    "weights": "holds here: directions, layer and place are known from weights alone",
    "weights, another place": "holds in part: the weights give the directions, and the place had to be found by swapping",
    "weights, another layer": "holds in part: weights give the directions, and the layer had to be found by swapping",
    "activations": "is not shown: such directions are there, and it is activations that give them",
    "learned_only": "is not shown: directions that were sought for their effect confirm no prediction",
    "answer_word": "is not shown: the code of the word to be written is enough to explain what moves the answer",
    "illusion": "is not shown: the swap works through a path that the model leaves idle (Makelov et al. 2023)",
    "inconclusive": "is left open: solved problems with more different answers would narrow the intervals",
    "partial_z": "is not shown: {missed}",
    "partial_z, open": "is not shown: the best directions move {clean}; whether they move most of what it asks for is left "
    "open: {missed}",
    "correlational_z": "is not shown: directions part problem from language, and no swap shows that the model uses them",
    "no_z": "is not shown for any of the directions tried",
}
CONFIRMS = {  # what a layer confirms that the weights did not single out
    "clear_bottleneck": "", "weak_bottleneck": ", but the weights predict this layer only weakly",
    "no_bottleneck": ", but the weights single out no layer, so that this confirms no prediction",
}  # fmt: skip
CANNOT = "*cannot be tested with this model and these problems*"
PARTS = {  # what the weights' Z does in activations
    "clear": "parts problem from language", "partial": "parts problem from language in some configurations only",
    "none": "does not part problem from language better than controls do",
    "offset": "does not part problem from language by the recipe's own measure, which keeps the languages' constant offset; with "
    "that removed it is ahead of random subspaces",
    "main": "parts problem from language no better than the stream's own main directions do",
}  # fmt: skip
STANDS = {  # what the predicted layer stands on
    "clear_bottleneck": "a clear bottleneck", "weak_bottleneck": "a weak bottleneck",
    "no_bottleneck": "exploratory, since the weights single out no layer",
}  # fmt: skip
TOLD = {True: ", beyond what the words give", False: ", and not beyond what the words give", None: ""}
WARNINGS = {
    "offset_only": "The separation vanishes once the constant offset between the languages is removed.",
    "text_only": "Numerals, a bag of words or untrained twins tell the problems apart as well as this Z does.",
}
CLEAN = 2  # D of the hypothesis
MOVES = verdicts.dissociation.MOVES
ENOUGH = 100  # draws: with fewer a p cannot pass a correction for several subspaces
OWN = ("weights", "weights_at_carrier", "best_layer")  # Zs that weights alone give


def untested(results: dict) -> str | None:
    """The name of the reason why no cause could be tested on math."""
    node = first_nodes(results["path"])["patching"]
    return node.get("untested") or ("nothing_judged" if node["taken"] == "untestable" else None)


def scored(row: dict) -> bool:
    """Whether a Z's shares could be measured where it was swapped."""
    return bool(row.get("nulls")) and row["coverage"]["value"] is not None and row["d"]["value"] is not None


def verdict_text(results: dict) -> str:
    """The verdict in one sentence, with its name at the end."""
    sentence = VERDICTS[results["verdict"]].format(**words(results))
    return f"{page.prose(sentence)} (`{results['verdict']}`)."


def words(results: dict) -> dict[str, str]:
    """What stands in the braces of VERDICTS."""
    z, why = results["z"], untested(results)
    said = {"model": results["model"]["name"], "k": z.get("k"), "width": results["width"]}
    said |= {
        "found": FOUND.get(predicts(results), ""),
        "reason": REASONS.get(why, ""),
        "source": SOURCES[separating(results)],
    }
    said["where"] = where(z.get("site"))
    kind = ASKED.get(z.get("rung"))
    said["place"] = said["model"] + (f", asked {kind}" if kind else "")
    said["short"] = clean_text(z)
    if partly_open(results):
        said["short"] += f"; {len(z['open_tests'])} of {len(z['tests'])} tests are open"
    said["unused"] = "no swap shows that the model computes with them"
    second = results["tasks"].get("reasoning")
    if second and second["p"] >= verdicts.LEVEL:
        said["source"] += "; on a second kind of problem controls do as well"
    if why:
        said["unused"] = f"whether the model computes with them could not be tested, since {REASONS[why]}"
    said["none"] = "is not shown to move the answer more than random ones do"
    if z.get("verdict") == "language_removed":
        said["none"] = "moves the answer only as replacing all but the language does"
    if z.get("verdict") in ("answer_only", "language_only", "untestable"):
        said["none"] = "could not be judged"
    if scored(z):
        said |= {key: percent(z[key]["value"]) for key in ("coverage", "leak", "complement_transfer")}
        said["range"] = " to ".join(dict.fromkeys(percent(z["coverage"][end]) for end in ("low", "high")))
        said["haar"] = percent(z["nulls"]["haar"]["coverage"]) + main_text(z)
        said["word"] = word_text(z)
    return said


def clean_text(z: dict) -> str:
    """How far a Z surely stays behind the hypothesis."""
    high = z["d"]["high"] if scored(z) else None
    sought = "less than a clean split"
    return sought if high is None or high >= CLEAN else f"surely {sought} (D up to {decimal(high)} of {CLEAN})"


def main_text(z: dict) -> str:
    """What as many main directions of the stream move, where they were swapped for the same donors."""
    rivals = z.get("rivals") or {}
    if not {"pca", "z"} <= rivals.keys():
        return ""
    main, own_share = (percent(rivals[name]["coverage"]["value"]) for name in ("pca", "z"))
    return f"; on a part of the pairs {own_share}, as many main ones {main}"


def partly_open(results: dict) -> bool:
    """Whether the best Z is partial only by tests that it does not surely fail."""
    return results["verdict"] == "partial_z" and verdicts.dissociation.left_open(results["z"])


def word_text(z: dict) -> str:
    """How much of what a Z moves the code of the output word explains, by what is left outside of that code."""
    rules, word = verdicts.dissociation, (z.get("gates") or {}).get("word")
    by = "explained by the code of the word to be written"
    if not word or word["full"]["value"] is None:
        return by
    if word["full"]["value"] < rules.ONLY_WORD:
        return f"{by}: outside of it even all directions move {span(word['full'])} of the answer"
    limit = percent(rules.BESIDE_WORD * min(1.0, z["coverage"]["value"]))
    return (
        f"mostly {by}: outside of it they move {percent(word['z']['value'])} of what all directions do (limit {limit})"
    )


def predicts(results: dict) -> str | None:
    """What told where the best Z is, and whether the weights single out a layer at all."""
    found_by, chosen = results["z"]["found_by"], results["layers"]["predicted_verdict"]
    return "weights, no layer" if found_by == "weights" and chosen == "no_bottleneck" else found_by


def where(site: int | None) -> str:
    """A place of the stream, for a stranger."""
    return "" if site is None else f"after layer {site - 1}" if site else "in the embeddings"


def separating(results: dict) -> str:
    """The method of the Z that parts problem from language: the one handed on where it holds, else the weights'."""
    node, tests = first_nodes(results["path"])["patching"], results["tests"]
    return node["z"] if tests["handed_on_separates"] and tests["handed_on_beyond_text"] else "weight"


def opening(results: dict) -> list[str]:
    """Three sentences, each with its numbers and their null, and the picture where there is one."""
    lines = [moved_text(results), weights_text(results), recipe_text(results)]
    quantised = results["model"].get("quantisation")
    if quantised:
        lines.append(f"""**Weights.** Quantised, {quantised}: what is analysed and what runs are the dequantised weights, which
            are not those of the original model.""")
    parts = [page.prose("\n".join(f"- {' '.join(line.split())}" for line in lines))]
    if results["arrival"]:
        return [
            *parts,
            "![Where answer and language pass, where the weights point, and what the best Z moves](hunt_overview.png)",
        ]
    return [*parts, f"No picture: nothing was swapped on math, since {REASONS[untested(results)]}."]


def moved_text(results: dict) -> str:
    """What moves the answer, and where."""
    lead, found, z = "**What moves the answer.**", results["arrival"], results["z"]
    if not found:
        return f"{lead} Unknown: nothing was swapped, since {REASONS[untested(results)]}."
    text = f"""{lead} Replacing the whole stream at the prompt's last position by another prompt's carries over the answer
        {passes(found, "answer")} and the language {passes(found, "language")} (surely half of the most that it moves anywhere; the
        answer also wins half of the swaps)"""
    if not found["carriers"]["joint"]:
        return f"{text}: nowhere both, so that nothing can be said of a part of it."
    if not scored(z):
        return f"{text}; where it carries both, what a part of it moves could not be measured."
    made = SOURCES[z["method"]] + ("" if z["layer"] is None else f", L{z['layer']}")
    nulls = "; ".join([page.random_text(z), *beside_draws(z)])
    return f"""{text}. {best_of(results)} is {page.SUBSPACES[z["name"]]} ({made}; k {z["k"]}), {place(z["site"])}: coverage of the
        answer {span(z["coverage"])}, leak of the language {span(z["leak"])}, D {span(z["d"], decimal)}, by the hypothesis 100 %,
        0 % and 2 (shares of what the whole stream moves there: of the log-odds of the donor's answer, and of its language);
        {nulls} (`{z["verdict"]}`, {z["pairs"]} pairs of `{z["rung"]}`{judged_text(z)}).{more_text(results)}
        {page.language_free(found["curve"])}"""


def more_text(results: dict) -> str:
    """The subspace that moves most of the answer, where that is surely more than the named one does; with its nulls."""
    rows = [row for row in verdicts.finding.recipes_own(results["tasks"]["math"]["tested"]) if scored(row)]
    most = max(rows, key=lambda row: row["coverage"]["value"])
    if most["coverage"]["low"] <= results["z"]["coverage"]["high"]:
        return ""
    shown = (
        page.NULLS[name] + " " + percent(most["nulls"][name]["coverage"])
        for name in page.RANKED
        if name in most["nulls"]
    )
    word = (most.get("gates") or {}).get("word")
    outside = f"; outside of the answers' words the whole stream moves {span(word['full'])} there" if word else ""
    return f""" The one that moves most of the answer is {page.SUBSPACES[most["name"]]} (k {most["k"]}), {place(most["site"])}:
        {span(most["coverage"])}, {listing(shown)} (`{most["verdict"]}`{outside})."""


def judged_text(z: dict) -> str:
    """On how many problems a Z is judged."""
    if not z.get("judged"):
        return ""
    different = f" ({z['judged_answers']} different ones)" if z["judged_answers"] else ""
    return f", of both halves; judged on {z['judged']} problems with answers{different} that nothing was fitted on"


def best_of(results: dict) -> str:
    """Of how many subspaces the best is the best: of those that could be measured."""
    count = sum(map(scored, verdicts.finding.recipes_own(results["tasks"]["math"]["tested"])))
    if count > 1 and results["z"]["verdict"] == "none":
        return f"Of the {count} subspaces tested where it carries both none is shown to be more than its nulls; shown"
    return (
        f"The best of the {count} subspaces tested where it carries both"
        if count > 1
        else "The one subspace tested there"
    )


def passes(found: dict, kind: str) -> str:
    """Where the whole stream carries something, neighbours among the measured places joined."""
    runs = stretches(found, kind)
    spans = [
        f"at {place(first)}"
        if first == last
        else f"from {place(first)} to {place(last)}".replace("embeddings", "the embeddings")
        for first, last in runs
    ]
    return listing(spans) if spans else "nowhere"


def stretches(found: dict, kind: str) -> list[tuple[int, int]]:
    """First and last site of every run of neighbours, among those that were measured, that carry something."""
    carried, spans = found["carriers"][kind], []
    for carries, rows in groupby(found["curve"], key=lambda row: row["site"] in carried):
        sites = [row["site"] for row in rows]
        spans += [(sites[0], sites[-1])] if carries else []
    return spans


def weights_text(results: dict) -> str:
    """Where the weights point, what their own Z does there when it is swapped, and what it does in activations."""
    layers, found, part = results["layers"], results["weight_based"], results["without_offset"]
    edge = f"of all layers L{layers['lowest']}; " if layers["lowest"] != layers["predicted"] else ""
    warnings = "".join(f" {said}" for key, said in WARNINGS.items() if results[key])
    told = TOLD[found["beyond_text"]] if found["separates"] != "none" else ""
    return f"""**Where the weights point.** Of the inner layers L{layers["predicted"]} has attention's lowest effective rank,
        {show(layers["effective_rank"], 3)} ({percent(layers["support"])} of resamples agree; {edge}
        {STANDS[layers["predicted_verdict"]]}). The subspace that its weights read{own_place_text(results)}. In activations it
        {PARTS[in_activations(results)]}{told}: without the constant offset between languages ({of_size(part)}) contrast
        {own(part)}, random subspaces (Haar) {drawn(part["haar"])}, p {null_p(part)}; {matched_text(part)}.{warnings}"""


def in_activations(results: dict) -> str:
    """The key of PARTS: phase 2's verdict, and where it is none, why."""
    part, verdict = results["without_offset"], results["weight_based"]["separates"]
    random = part["contrast"] >= 1 or part["haar"]["p"] >= verdicts.LEVEL
    if verdict != "none" or random:
        return verdict
    if part["matched"].get("gates", True) and part["matched"]["p"] >= verdicts.LEVEL:
        return "main"
    return "offset" if part["p"] < verdicts.LEVEL else verdict


def named(results: dict, name: str) -> dict | None:
    """A Z that was swapped on math."""
    return next((row for row in results["tasks"]["math"]["tested"] if row["name"] == name), None)


def own_place_text(results: dict) -> str:
    """What the weights' Z does at its own place."""
    row, at = named(results, "weights"), results["weight_based"]["place"]
    if untested(results) and not results["arrival"]:
        return f" could not be swapped, since {REASONS[untested(results)]}"
    if row is None or at is None:
        return " could not be swapped"
    carries = f", swapped at its own place {place(row['site'])}, where the whole stream carries {CARRIES[at]}"
    if not scored(row):
        return f"{carries}, could not be judged (`{row['verdict']}`)"
    if results["z"].get("name") == "weights":
        return f"{carries}, is the part just named (`{row['verdict']}`)"
    return f"""{carries}, moves {span(row["coverage"])} of the answer, D {span(row["d"], decimal)}; {page.random_text(row)}
        (`{row["verdict"]}`)"""


def recipe_text(results: dict) -> str:
    """What follows for the recipe's hypothesis, and which kind of no a no is."""
    verdict, found_by, why = results["verdict"], results["z"]["found_by"], untested(results)
    if why and not results["arrival"]:
        also = "; as far as a correlation can show it, directions are there that keep the problem and drop the language"
        return f"{RECIPE} {CANNOT}, since {REASONS[why]}{also if verdict == 'correlational_z' else ''}."
    if verdict == "untestable" or (verdict == "correlational_z" and why):
        text = f"{CANNOT} as far as the answer goes"
        return f"{RECIPE} {text}, since {REASONS[why]}. {kinds_text(results)}".rstrip()
    missed = missed_text(first_nodes(results["path"])["patching"]) if verdict == "partial_z" else ""
    key = found_by if verdict == "causal_z" else "partial_z, open" if partly_open(results) else verdict
    follows = FOLLOWS[key].format(missed=missed, clean=clean_text(results["z"]))
    if found_by == "weights" and verdict == "causal_z":
        return f"{RECIPE} {follows}{CONFIRMS[results['layers']['predicted_verdict']]}."
    return f"{RECIPE} {follows}. {kinds_text(results)}".rstrip()


def missed_text(node: dict) -> str:
    """The tests that the best Z misses, surely or not, each with what was measured and what it needs."""
    tests, numbers, left = node["tests"], needed_by(node["row"]), node["row"]["open_tests"]
    missed = {test: f"*{test}*{numbers.get(test, '')}" for test, passed in tests.items() if passed is False}
    failed, unsure = ([text for test, text in missed.items() if (test in left) is is_open] for is_open in (False, True))
    if not missed:
        return f"of {len(tests)} tests of the best directions {list(tests.values()).count(None)} could not be run"
    passed = list(tests.values()).count(True)
    text = f"of {len(tests)} tests the best directions pass {passed}"
    text += f", surely miss {len(failed)}: {', '.join(failed)}" if failed else ""
    unrun = list(tests.values()).count(None)
    text += f", leave {len(unsure)} open: {', '.join(unsure)}" if unsure else ""
    return f"{text}; {unrun} could not be run" if unrun else text


def needed_by(row: dict) -> dict[str, str]:
    """What phase 3's tests measure of a Z, and what they need, by the names that they have there."""
    rules, gates, alike = verdicts.dissociation, row.get("gates") or {}, row.get("full_iia_same")
    level = f"{verdicts.LEVEL:g}".removeprefix("0")
    half, keeps, surely = (page.needed(share) for share in (rules.MOVES, rules.KEEPS, rules.KEEPS_SURELY))
    found = {
        "beats random subspaces": (f"Holm's p {page.p_pair(row)[1]}", f"below {level}"),
        "moves the answer": (span(row["coverage"]), f"surely {half}"),
        "leaves the language": (span(row["leak"]), f"surely below {half}"),
        "its complement leaves the answer": (span(row["complement_transfer"]), f"surely below {half}"),
        "its complement keeps the language": (span(row["complement_language"]), f"{keeps} and surely {surely}"),
    }
    if alike:
        wins = f"{percent(rules.MOVES * alike['value'])}, half of the whole stream's with donors asked alike, and p below {level}"
        found["wins with the donor's answer"] = (f"{percent(row['iia_cross']['value'])} across languages", wins)
    if gates.get("word"):
        kept = f"Z keeps {span(gates['word']['z'])} outside of it, the whole stream {span(gates['word']['full'])}"
        needs = f"{page.needed(rules.BESIDE_WORD)} and {page.needed(rules.ONLY_WORD)}"
        found["is not the output word's code"] = (kept, needs)
    if gates.get("manifold"):
        found["acts among the model's own states"] = (
            f"h {span(gates['manifold']['h'], decimal)}", f"h {decimal(rules.HONEST)}",
        )  # fmt: skip
    return {test: f" ({measured}; needed {needs})" for test, (measured, needs) in found.items()}


def kinds_text(results: dict) -> str:
    """Which kind of no the weights' own subspaces met: at the place that goes with them, and elsewhere."""
    row, at = named(results, "weights"), results["weight_based"]["place"]
    if row is None or at is None:
        return ""
    parts = []
    if at != "joint":
        parts.append(f"""At the place that the weights point at, {place(row["site"])}, the whole stream carries {CARRIES[at]}:
            *not at this place*, which says nothing of others.""")
    elif row["verdict"] == "none":
        parts.append(f"""At the place that the weights point at, {place(row["site"])}, answer and language pass outside of the
            weights' directions: *not there*.""")
    others = [other for name in OWN[1:] if (other := named(results, name)) and scored(other)]
    sites = sorted({other["site"] for other in others} - {row["site"]})
    if sites and all(other["verdict"] == "none" for other in others):
        at_places = listing(list(map(place, sites)))
        own, random = ([row["coverage"] for row in others], [row["nulls"]["haar"]["coverage"] for row in others])
        most = max(coverage["high"] for coverage in own)
        surely = f", and surely no more than {percent(most)}, by the hypothesis all" if most < MOVES else ""
        parts.append(f"""Where both pass, at {at_places}, the weights' subspaces move
            {shares([coverage["value"] for coverage in own])} of the answer where random ones of that size move
            {shares(random)}{few_draws(others)}{surely}: *not there*, as far as these go.""")
    return " ".join(parts)


def shares(values: list[float]) -> str:
    """Shares from the lowest to the highest."""
    ends = list(dict.fromkeys(percent(value) for value in (min(values), max(values))))
    return f"{ends[0].removesuffix(' %')} to {ends[-1]}" if len(ends) > 1 else ends[0]


def few_draws(rows: list[dict]) -> str:
    """How little p can say of so few draws; nothing where they are as many as phase 3 makes where there is hope."""
    draws = max(row["nulls"]["haar"]["draws"] for row in rows)
    return f" ({draws} draws, which can show no p below {p_value(1 / (1 + draws))})" if draws < ENOUGH else ""
