"""The hunt's page on several models: a sentence, one picture of relative depth, a table, and what the weights predicted."""

import verdicts
from reports import page
from reports.hunt_beyond import terms
from reports.hunt_figures import figure_depth
from reports.hunt_opening import passes
from reports.hunt_tables import CARRIES, SOURCES, beside_draws, nearest, null_p, of_size, own
from reports.page import decimal, listing, p_value, percent, place, show, span

COMPARED = {  # what a comparison says of the recipe's list
    "second_model": ("another model has a causal Z too", "strong 5"),
    "universal": ("the causal layer is the one that the weights predict", "transformative 7"),
    "place": ("answer and language both pass at the output of the layer that the weights predict", "transformative 7"),
}
SOUGHT = "directions that carry the answer and not its language (a causal Z)"
FOUND = {  # what told where a causal Z is, in a table
    "weights": "as the weights predict", "weights, another place": "weights' layer, another place",
    "weights, another layer": "weights of another layer", "activations": "found by activations",
}  # fmt: skip
SAID = ("effective rank", "L6.out", "Z, Z⊥", "whole stream, swap", "kind of problem", "surely", "coverage, leak", "D")
SAID += ("Haar", "matched draws", "PCA", "contrast", "without the offset", "foil, twin", "Holm")  # terms of this page
FEW = 5  # models: with fewer, the page says that they are no sample


def once(results: dict) -> dict[str, dict]:
    """The models, of folders with the same weights the first one alone."""
    return {name: row for name, row in results["models"].items() if name not in results["repeats"]}


def compared(results: dict) -> dict[str, tuple[str, str]]:
    """What several models say of the parts that ask for more than one, and the nulls."""
    models, where = once(results), results["where"]
    agreeing = [name for name, row in models.items() if row["agree"]]
    judged = [name for name, row in models.items() if row["agree"] is not None]
    chances = "; ".join(f"{row['model']['name']} {percent(row['chance'])}" for row in models.values())
    return {
        "second_model": (f"causal Z in {shown_in(results)}", "two are needed"),
        "universal": (
            f"within {verdicts.finding.NEAR} layer in {len(agreeing)} of {len(judged)} models that have a causal layer"
            if judged
            else "no model has a causal layer to compare",
            f"by chance {chances}" if judged else "–",
        ),
        "place": (
            f"in {where['reached']} of {len(where['models'])} models where both pass anywhere{singled_out(results)}",
            f"an inner layer drawn from those measured hits in {chances_text(where)}; so many or more: p {p_value(where['p'])}"
            if where["models"]
            else "–",
        ),
    }


def shown_in(results: dict) -> str:
    """In how many of the models that could be tested a causal Z is there, and how many could not be."""
    tested, rest = len(results["tested"]), len(once(results)) - len(results["tested"])
    return f"{len(results['causal'])} of {tested} models that could be tested" + (
        f" ({rest} could not)" if rest else ""
    )


def singled_out(results: dict) -> str:
    """In how many of the tested models the weights single out a layer at all, where not in all."""
    models = once(results)
    clear = sum(models[name]["predicted_verdict"] != "no_bottleneck" for name in results["tested"])
    return "" if clear == len(results["tested"]) else f"; the weights single out that layer in {clear} of these"


def chances_text(where: dict) -> str:
    """How often a measured inner layer drawn at random is one where both pass."""
    return listing([percent(row["chance"]) for row in where["models"].values()])


def comparison_summary(results: dict) -> str:
    """What decided, on one line."""
    where = results["where"]
    told = (
        f"; the weights point where both pass in {where['reached']} of {len(where['models'])}"
        if where["models"]
        else ""
    )
    return f"causal Z in {shown_in(results)}{told}"


def comparison_pages(results: dict) -> dict[str, bytes]:
    """The page of a comparison and its picture."""
    picture = [
        "![Relative depth of what the weights predict, of answer and language, and of the nearest candidate](hunt_depth.png)",
        page.prose("""A place carries the answer (or the language) if swapping the whole stream there, at a prompt's last
            position, moves it by at least half of what such a swap moves at most at any place of that model, by the lower end
            of the 95 % interval; the answer, if the donor's also wins half of the swaps. Bars join neighbouring places that
            were measured, with the first kind of problem; what a second kind shows stands in section 4."""),
    ]
    rows = list(results["models"].values())
    sections = ["No model's hunt came to its end."]
    if rows:
        picture.append(recipe_text(results))
        sections = ["## 1 Models", model_table(rows), "## 2 Beyond the text, and without the offset"]
        sections += [activations_table(rows), "## 3 Do the weights predict where?", where_text(results)]
        sections += second_section(rows)
        sections += ["## Terms", terms(SAID)]
    if results["failures"]:
        failed = [f"- {name} did not finish: {page.escape(message)}" for name, message in results["failures"].items()]
        sections += ["## Left out", "\n".join(failed)]
    text = page.report(
        "The hunt for Z in several models",
        comparison_text(results),
        results,
        sections,
        ["Each model's own report says what its verdict rests on.", "Few models are no sample of all models."],
        opening=picture if rows else (),
    )
    return {"hunt_output.md": text} | ({"hunt_depth.png": figure_depth(results["models"])} if rows else {})


def comparison_text(results: dict) -> str:
    """The verdict in one sentence, with its name at the end."""
    models, tested, decided = once(results), results["tested"], results["decided"]
    named = listing([models[name]["model"]["name"] for name in results["causal"]]) if results["causal"] else "none"
    count = f"{len(results['causal'])} of {len(models)} models"
    said = {
        "generalises": f"In {count} there are {SOUGHT}: {named}",
        "does_not_generalise": f"""In {len(tested)} of {len(models)} models it could be tested whether there are {SOUGHT}; found
            in: {named}""",
        "inconclusive": f"""Whether {SOUGHT} are in more than one model is left open: in {len(decided)} of {len(models)} models
            it could be decided, all others are open or could not be tested; found in: {named}""",
        "untestable": f"""Whether {SOUGHT} are in more than one model cannot be told: it could be tested in {len(tested)} of
            {len(models)} models""",
    }
    return f"{page.prose(said[results['verdict']])} (`{results['verdict']}`).{weights_text(results)}{repeats_text(results)}"


def weights_text(results: dict) -> str:
    """What the tested models say of the weights, in one sentence: do they point where both pass, and what does their Z move?"""
    models, where, tested = once(results), results["where"], results["tested"]
    if not where["models"]:
        return ""
    rows = [row for name in tested if ((row := models[name]["weights_swapped"]).get("nulls") or {}).get("haar")]
    moved = [f"{percent(row['coverage']['value'])} ({beside_haar(row)})" for row in rows]
    z = f", and the weights' Z, moved to its best place, brings over {listing(moved)} of the answer" if moved else ""
    return " " + page.prose(f"""The layer that the weights point at is a place where both pass in {where["reached"]} of
        {len(where["models"])}{z}.""")


def beside_haar(row: dict) -> str:
    """What random subspaces of a Z's size move, and the Z itself on the same pairs."""
    own, haar = (row.get("drawn") or {}).get("coverage"), percent(row["nulls"]["haar"]["coverage"])
    return f"random {haar}" if own is None else f"random {haar} where it moves {percent(own)}"


def repeats_text(results: dict) -> str:
    """Which folders hold weights that another holds too; nothing where all differ."""
    names = {name: row["model"]["name"] for name, row in results["models"].items()}
    same = [
        f"{names[name]} (folder {name}) those of {names[first]} ({first})" for name, first in results["repeats"].items()
    ]
    if not same:
        return ""
    return f" Folders with the same weights count as one model, the first of them: {listing(same)}."


def recipe_text(results: dict) -> str:
    """What the recipe's claim comes to in these models: a sentence for each of its steps, with intervals and nulls."""
    rows = once(results)
    named = {key: row["model"]["name"].removesuffix(".gguf") for key, row in rows.items()}
    swapped = [key for key in results["tested"] if rows[key]["weights_swapped"]["site"] is not None]
    single = [key for key, row in rows.items() if row["predicted_verdict"] != "no_bottleneck"]
    layers = [f"{named[key]} L{row['predicted']} of {row['layers']}" for key, row in rows.items()]
    parts = [f"{named[key]}: {own(row['without_offset'])}, {haar_text(row)}" for key, row in rows.items()]
    told = [row["text"] for row in rows.values() if not row["text"]["unmeasured"]]
    ahead = sum(min(found["low"] for found in text["ahead_of"].values()) > 0 for text in told)
    beyond = sum(text["haar"]["p"] < verdicts.LEVEL for text in told)
    better = sum(row["without_offset"]["matched"]["high"] < row["without_offset"]["contrast"] for row in rows.values())
    lines = [
        f"""**A bottleneck.** The weights single out a layer (95 % of resamples pick it, with a lead that has p < .05 among equal
            layers) in {len(single)} of {len(rows)} models; the layer taken, else the lowest inner one, is {listing(layers)}.""",
        f"""**Separation.** How far problems lie from their translations inside the weights' Z, relative to outside of it (contrast,
            below 1: closer), the languages' means removed, on held-out problems: {"; ".join(parts)}. The stream's own
            main directions (matched draws), no null where they hold most of what tells problems apart, do better in {better} of
            {len(rows)}. Stories are told from foils surely better than by their text in {ahead} of {len(told)} models, better than
            by random subspaces in {beyond}.""",
        f"**Where it acts.** {passes_text(results, named)}",
    ]
    if swapped:
        moved = [f"{named[key]}: {moves(rows[key]['weights_swapped'])}" for key in swapped]
        nearest = [(named[key], rows[key]["nearest"]) for key in results["tested"]]
        best = [f"{name}: {moves(z)}, `{z['verdict']}`" for name, z in nearest]
        lines += [
            f"""**The weights' Z**, swapped at the best place for it, moves of what the whole stream moves there
                {"; ".join(moved)}.""",
            f"""**Of the candidates swapped the nearest to the hypothesis**, on the first kind of problem (where none is more than
                its nulls, `none`, the one that moves most of the answer) moves {"; ".join(best)}.
                A causal Z is shown in {shown_in(results)}.""",
        ]
    numbered = "\n".join(f"{number}. {page.prose(line)}" for number, line in enumerate(lines, 1))
    return f"What the recipe's claim comes to in these models, with 95 % intervals:\n\n{numbered}"


def haar_text(row: dict) -> str:
    """The range of random subspaces' contrasts, and p against every null."""
    part = row["without_offset"]
    return f"Haar {show(part['haar']['low'], 3)} to {show(part['haar']['high'], 3)}, p {null_p(part)}"


def passes_text(results: dict, named: dict) -> str:
    """In which models something could be swapped, where answer and language both pass there, and whether the weights point at it."""
    rows, where = once(results), results["where"]
    rest = [f"{named[key]} ({why_not(rows[key])})" for key in rows if key not in results["tested"]]
    without = f"; not in {listing(rest)}" if rest else ""
    text = f"In {len(results['tested'])} of {len(rows)} models a subspace could be tested{without}"
    if not where["models"]:
        return f"{text}."
    spans = []
    for key in results["tested"]:
        joint = rows[key]["carriers"]["joint"]
        spans.append(
            f"{named[key]} from {place(min(joint))} to {place(max(joint))} (layers 0 to {rows[key]['layers'] - 1})"
        )
    return f"""{text}. The stream carries both answer and language at the places measured in {listing(spans)}; at the output of the
        weights' layer in {where["reached"]} of {len(where["models"])} (an inner layer drawn from those measured hits in
        {chances_text(where)}; so many or more: p {p_value(where["p"])})."""


def why_not(row: dict) -> str:
    """Why no subspace could be tested in a model, in a few words."""
    return "no place carries both answer and language" if row["rung"] else "no kind of problem could be used"


def moves(row: dict) -> str:
    """What a subspace moves at its place, what it is, and what stands beside it: random ones as large, and rivals."""
    layer = "" if row["name"] not in ("handed", "answer_means") else f", {SOURCES[row['method']].partition(':')[0]}"
    text = f"{span(row['coverage'])} of the answer"
    text += f" and {span(row['leak'])} of the language" if row["leak"] and row["leak"]["value"] is not None else ""
    rest = row.get("complement_transfer") or {"value": None}
    text += f", the rest {span(rest)} of the answer" if rest["value"] is not None else ""
    text += f", D {span(row['d'], decimal)} of 2" if row["d"]["value"] is not None else ""
    beside = "; ".join([page.random_text(row), *beside_draws(row)])
    return f"{text} ({page.SUBSPACES[row['name']]}{layer}, k = {row['k']}, {place(row['site'])}; {beside})"


def model_table(rows) -> str:
    """What was predicted and what was found, a row for each model."""
    headers = [
        "model",
        "layers",
        "weights point at",
        "whole stream carries",
        "weights' Z, own place",
        "nearest candidate",
        "hunt",
    ]
    return page.table(headers, [model_row(row) for row in rows])


def model_row(row: dict) -> list:
    """One model of the table."""
    quantised = f" ({row['model']['quantisation']})" if row["model"].get("quantisation") else ""
    found = {"carriers": row["carriers"], "curve": [{"site": site} for site in row["measured"]]}
    edge = f"; of all L{row['lowest']}" if row["lowest"] != row["predicted"] else ""
    carries = (
        f"answer {passes(found, 'answer')}; language {passes(found, 'language')}"
        if row["measured"]
        else f"not swapped: {why_not(row)}"
    )
    weights, z = row["weight_based"], row["nearest"]
    at = f" (there {CARRIES[weights['place']]})" if weights["place"] else ""
    best = "–"
    if z["site"] is not None:
        told = f", {FOUND[z['found_by']]}" if z["verdict"] == "double_dissociation" else ""
        best = f"{page.SUBSPACES[z['name']]}, {place(z['site'])}, k {z['k']}: coverage {span(z['coverage'])}, `{z['verdict']}`{told}"
    return [
        f"[{row['model']['name']}]({row['folder']}/hunt_output.md){quantised}",
        row["layers"],
        f"L{row['predicted']} (`{row['predicted_verdict']}`, effective rank {show(row['effective_rank'], 3)}){edge}",
        carries,
        f"{place(weights['site'])}: `{weights['causal']}`{at}",
        best,
        f"`{row['verdict']}`",
    ]


def second_section(rows) -> list[str]:
    """What swaps do on each model's second kind of problem; nothing where there was none to swap."""
    cells = []
    for row in rows:
        kind = f"`{row['second']['rung']}`"
        for one in row["second"]["tested"]:
            name = f"{page.SUBSPACES[one['name']]}, {place(one['site'])}, k {one['k']}"
            beside = "; ".join([page.random_text(one), *beside_draws(one)])
            cells.append([row["model"]["name"], kind, name, span(one["coverage"]), beside, f"`{one['verdict']}`"])
    headers = ["model", "kind", "swapped", "coverage", "beside", "verdict"]
    said = (
        "Of the weights' Zs the one that moves most at its own or its best place, and the mean streams of the answers."
    )
    return ["## 4 On a second kind of problem", said, page.table(headers, cells)] if cells else []


def activations_table(rows) -> str:
    """What the weights' Z does in activations, a row for each model."""
    cells = []
    for row in rows:
        text, part = row["text"], row["without_offset"]
        told, ahead = "–", text["unmeasured"] or ""
        if not text["unmeasured"]:
            z, haar = text["z"], text["haar"]
            told = f"{span(z | {'value': z['rate']})} of {text['comparisons']}"
            told += f"; {percent(haar['low'])} to {percent(haar['high'])}"
            ahead = nearest(text).removeprefix("ahead of ")
        haar = f"{show(part['haar']['low'], 3)} to {show(part['haar']['high'], 3)}"
        cells.append([row["model"]["name"], told, ahead, f"{own(part)} ({of_size(part)})", haar, null_p(part)])
    headers = [
        "model",
        "texts told from foils, by chance 50 %; Haar",
        "least sure lead over what knows the text alone",
        "contrast without the offset",
        "Haar's",
        "largest p",
    ]
    return page.table(headers, cells)


def where_text(results: dict) -> str:
    """What the models say together of "the weights predict where", with its chance and how little that is."""
    models, where = once(results), results["where"]
    count, agree = len(where["models"]), [row for row in models.values() if row["agree"] is not None]
    if not count:
        return "Nothing can be said: in no model do answer and language both pass any place that could be swapped."
    each = [
        f"{models[name]['model']['name']} {'yes' if row['carries_both'] else 'no'} (by chance {percent(row['chance'])})"
        for name, row in where["models"].items()
    ]
    text = f"""If weights predict where Z is, both answer and language must pass at the output of the layer that they point at. They
        do in {where["reached"]} of {count} models: {listing(each)}; by chance means at an inner layer drawn at random from
        those measured (which lie densest near the arrival), and that many models or more would come about so with p
        {p_value(where["p"])}."""
    alone = [row for row in models.values() if row["predicted_verdict"] == "no_bottleneck"]
    if alone:
        text += f""" In {len(alone)} of {len(models)} the weights single out no layer (`no_bottleneck`), and the lowest inner one
            stands in for a prediction."""
    causal = f"causal Z in {shown_in(results)}"
    if agree:
        causal += f"""; where a layer's own Z is causal, it lies within {verdicts.finding.NEAR} layer of the predicted in
            {sum(row["agree"] for row in agree)} of {len(agree)}"""
    few = (
        f""" {count} {"model is" if count == 1 else "models are"} too few to tell a rule from luck, and what fails may be about
        these models' size."""
        if count < FEW
        else ""
    )
    return page.prose(f"{text} {causal[0].upper()}{causal[1:]}.{few}")
