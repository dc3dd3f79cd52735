"""The hunt's pages: the tree with the path taken and the recipe's list for one model, or several models side by side."""

from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

import verdicts
from reports import page
from reports.page import place, show, span

CANDIDATES = {"centroid": "(a) language centroids", "previous_layer": "(b) previous layer"}
CANDIDATES |= {"sweep": "(b) best layer of a sweep", "ard_mmd": "(c) ARD-MMD"}
QUESTIONS = {"behaviour": "{candidate} ≫\n{reference}?", "separation": "ratio_Z <\nratio_Z⊥?"}
QUESTIONS |= {
    "contingencies": "(a) centroids,\n(b) other layers,\n(c) ARD-MMD?",
    "patching": "patching: is it\ncausal?",
}
ENDS = {"causal_z": "causal Z", "answer_word": "the output\nword's code", "illusion": "an illusion"}
ENDS |= {"inconclusive": "neither shown\nnor excluded", "correlational_z": "correlational,\nnot causal"}
ENDS |= {"no_z": "no Z", "untestable": "untestable"}
PLACES = {"behaviour": (0.5, 4), "separation": (0.5, 3), "contingencies": (2.9, 2.45), "patching": (0.5, 1.6)}
PLACES |= {end: (0.5 + 1.1 * index, 0.3) for index, end in enumerate(ENDS)}
ARROWS = [*pairwise(QUESTIONS), ("separation", "patching"), *(("patching", end) for end in ENDS)]
BRANCHES = {  # where a node says more than yes or no, by the way out or by the verdict there
    ("behaviour", "no"): "no: limitation flagged",
    ("separation", "partial"): "in some configurations",
    ("patching", "partial"): "in part",
    ("patching", "answer_word"): "no: the output word's code",
    ("patching", "illusion"): "no: an illusion",
    ("patching", "language_removed"): "no: all but the language",
}
SOURCES = page.METHODS | {"answer_means": "fitted on activations: mean streams of the answers"}
FOUND = {  # what told where a causal Z is
    "weights": "at the layer and the place that the weights predict",
    "weights, another place": "of the predicted layer, at another place than its output",
    "weights, another layer": "not of the layer that the weights predict",
    "activations": "not predicted by the weights",
}
CARRIES = {"joint": "both", "answer": "the answer only", "language": "the language only", "none": "neither"}
REASONS = {  # why a step of the hunt was not run, or could tell nothing
    "no_answer_text": "the problems have no answers in words",
    "no_texts": "the problems are not there in these languages",
    "no_rung": "no rung of problems can be patched (phase 3 says why)",
    "no_joint_carrier": "at no place does the whole stream carry both the answer and the language",
    "nothing_judged": "no subspace could be measured where the stream carries both",
}
VERDICTS = {
    "causal_z": "There is a causal Z: swapping it moves the answer and leaves the language alone. It is",
    "answer_word": "No causal Z was found: what moves the answer is the output word's code, not what it was computed from",
    "illusion": "No causal Z was found: what moves the answer is an illusion, by directions that the model itself does not use",
    "inconclusive": "Whether there is a causal Z is neither shown nor excluded",
    "correlational_z": """Z is correlational: something separates language from problem, or moves some answers, but no swap is
        a double dissociation. The Z that phase 2 handed on is""",
    "untestable": """Whether there is a Z cannot be told: nothing that the tree names separates language from problem beyond what
        the words give, and on math no cause could be tested""",
    "no_z": """No Z was found: nothing that the tree names separates language from problem beyond what the words give, and no swap
        moves the answer beyond chance""",
}
SEPARATES = {"clear": "separates language from problem", "none": "does not separate language from problem"}
SEPARATES |= {"partial": "separates language from problem in some configurations only"}
MOVES = {"double_dissociation": "is causal", "partial": "moves the answer in part", "none": "does not move the answer"}
MOVES |= {"answer_word": "moves the answer by the output word's code", "illusion": "moves the answer by an illusion"}
MOVES |= {"language_removed": "moves it as all but the language would", "inconclusive": "leaves open what it moves"}
UNTESTED = """Z is correlational: something separates language from problem. Whether the model uses it in math could not be
    tested. The Z that phase 2 handed on is"""
WARNINGS = {"offset_only": "The separation vanishes once the constant offset between the languages is removed."}
WARNINGS |= {"text_only": "Numerals, a bag of words or untrained twins tell the problems apart as well as Z does."}
NOT_RUN = "Not run; section 7 says why."
CLAIMS = {  # the recipe's publishability list
    "structure": ("a bottleneck of attention that the FFN avoids", "minimal 1"),
    "separation": ("the weight-based Z separates language from problem in activations", "minimal 2"),
    "comparison": ("the weight-based Z does better than arXiv 2505.15257's on the same model and data", "minimal 3"),
    "causal": ("patching shows a causal role of Z", "strong 4"),
    "second_model": ("another model has it too", "strong 5"),
    "information": ("language fades and the problem stays along depth (information bottleneck)", "strong 6"),
    "universal": ("the layer can be predicted from weights", "transformative 7"),
    "bridge": ("a bridge carries answers across languages at inference time", "transformative 8"),
    "not_just_math": ("Z found on math acts on another kind of problem too", "transformative 9"),
}
COMPARED = {
    "second_model": ("another model has a causal Z too", "strong 5"),
    "universal": ("the causal layer is the one that the weights predict", "transformative 7"),
}
REMOVED = {"language": "language subspace", "language_reinjected": "language subspace, re-injected", "z_perp": "Z⊥"}
WHERE = {"last": "last prompt position", "prefill": "whole prompt", "all": "prompt and answer"}
PHASES = {f"phase{number}": f"Phase {number}" for number in ("0", "2", "3", "3b")}
TITLES = {"one": "1.py", "two": "2.py", **PHASES, "ablation": "Ablation"}
COLUMNS = {"one": "1.py", "two": "2.py", **{stem: title.lower() for stem, title in PHASES.items()}}  # of a comparison


def claims(results: dict) -> list[dict]:
    """The recipe's list; of several models the two tiers that ask for more than one."""
    if "models" in results:
        return [page.claim(name, *COMPARED[name], *cells) for name, cells in compared(results).items()]
    return [page.claim(name, *CLAIMS[name], *cells) for name, cells in evidence(results).items()]


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """The report of one model with the tree, or of a comparison."""
    if "models" in results:
        return {"hunt_output.md": comparison_report(results)}
    title = f"The hunt for Z in {results['model']['name']}"
    text = page.report(title, verdict_sentence(results), results, sections(results), limitations(results))
    return {"hunt_tree.png": figure_tree(results), "hunt_output.md": text}


def summary(results: dict) -> str:
    """What decided, on one line."""
    if "models" in results:
        return f"causal Z in {len(results['causal'])} of {len(results['models'])} models"
    node, z = first_nodes(results["path"])["patching"], results["z"]
    if "untested" in node:
        return f"no cause tested, {REASONS[node['untested']]} (Z of L{node['layer']}: {SOURCES[node['z']]})"
    which = f"{page.SUBSPACES[z['name']]}, {place(z['site'])}"
    return f"{which}: {'; '.join(swapped(z))}; {z['pairs']} pairs of {z['rung']}"


def swapped(row: dict) -> tuple[str, str]:
    """What swapping a Z does, and what its nulls and the full swap do: the numbers of phase 3's page, written as there."""
    wins, full = (span(row[key]) for key in ("iia_cross", "full_iia_cross"))
    found = f"coverage {span(row['coverage'])}; D {span(row['d'], page.decimal)}; wins across languages {wins}"
    return found, f"{page.random_text(row)}; full swap's wins across languages {full}"


def first_nodes(path: list[dict]) -> dict:
    """The tree's nodes by name; of several patchings the first."""
    return {node["node"]: node for node in reversed(path)}


def evidence(results: dict) -> dict[str, tuple[str, str]]:
    """Per tier of the list what was measured, and its null."""
    found, reports, rivals, plane = (results[key] for key in ("layers", "reports", "rivals", "plane"))
    nodes = first_nodes(results["path"])
    alignment = f"FFN alignment {show(results['ffn_over_chance'], 3)} × chance"
    language = f"{show(plane['language_first'], 3)} at site 0, {show(plane['language'], 3)} at Z's site"
    return {
        "structure": (f"`{reports['one']}` at L{found['predicted']}, `{reports['two']}`: {alignment}", "1 × chance"),
        "separation": measured(nodes["separation"]),
        "comparison": (
            f"contrast on held-out problems: weight-based {show(rivals['weight'], 3)}",
            f"centroid {show(rivals['centroid'], 3)}, random {show(rivals['random'], 3)}",
        ),
        "causal": swapped(results["z"]) if results["verdict"] == "causal_z" else measured(nodes["patching"]),
        "second_model": ("one model in this hunt", "use --models"),
        "information": (
            f"language decodable inside Z: {language}; problem {show(plane['problem'], 3)}",
            f"chance {show(plane['language_chance'], 2)}; problem shuffled {show(plane['problem_shuffled'], 2)}",
        ),
        "universal": (
            f"predicted L{found['predicted']} ({found['support']:.0%} of resamples), {causal_text(found)}",
            f"within {verdicts.finding.NEAR} layer by chance {found['chance']:.0%}",
        ),
        "bridge": transfer(results["bridge"]["math"]) if "math" in results["bridge"] else ("not run", ""),
        "not_just_math": carried(results["tasks"].get("reasoning", {})),
    }


def carried(reasoning: dict) -> tuple[str, str]:
    """What swapping math's Z does on the second kind of problem, and what its nulls do."""
    if "untested" in reasoning or not reasoning:
        return f"no cause tested: {REASONS[reasoning['untested']]}" if reasoning else "not run", ""
    rows = [row for row in reasoning["tested"] if row["name"] in verdicts.finding.SAME_Z]
    found = [f"{page.SUBSPACES[row['name']]}: `{row['verdict']}`, {swapped(row)[0]}" for row in rows]
    return "reasoning, " + "; ".join(found), "; ".join(swapped(row)[1] for row in rows)


def causal_text(found: dict) -> str:
    causal = found["causal"]
    if causal is None or causal["verdict"] == "untestable":
        return "no layer's own Z tested"
    best = f"L{causal['layer']}: D {span(causal['d'], page.decimal)}, {page.p_text(causal)}"
    return f"causal {best}" if found["causal_found"] else f"no causal layer (best {best}, `{causal['verdict']}`)"


def measured(node: dict) -> tuple[str, str]:
    """A node's numbers and their null, as the tree and the claims show them."""
    if node["node"] == "behaviour":
        right = [f"{language} {node['right'][language]}/{node['n']}" for language in node["languages"]]
        return ", ".join(right), f"exact McNemar p {page.p_value(node['mcnemar_p'])}"
    if node["node"] == "separation":
        ratios = f"ratio_Z {show(node['ratio_z'], 3)}, ratio_Z⊥ {show(node['ratio_z_perp'], 3)}"
        return ratios, f"largest p of three nulls {page.p_value(node['p'])}"
    if node["node"] == "contingencies":
        rows = node["candidates"]
        contrasts = [f"{CANDIDATES[row['z']]}: contrast {show(row['contrast'], 3)}" for row in rows]
        return "; ".join(contrasts), "; ".join(f"Holm p {page.p_value(row['p_holm'])}" for row in rows)
    if "untested" in node:
        return f"no cause tested: {REASONS[node['untested']]}", ""
    if node["node"] == "patching" and node["row"]:
        found, null = swapped(node["row"])
        return f"{page.SUBSPACES[node['row']['name']]}, {place(node['row']['site'])}; {found}", null
    return "", ""


def branch(node: dict) -> str:
    """The way that was taken at a node, in the tree's words."""
    if node["node"] == "contingencies":
        held = [CANDIDATES[row["z"]] for row in node["candidates"] if row["holds"]]
        return f"{', '.join(held)} {'holds' if len(held) == 1 else 'hold'}" if held else "none holds"
    if node["node"] == "behaviour" and node["taken"] == "untestable":
        return f"untestable: {node['no_room']}"
    taken = BRANCHES.get((node["node"], node["taken"]), node["taken"])
    return BRANCHES.get((node["node"], node.get("verdict")), taken)


def verdict_sentence(results: dict) -> str:
    weights, z, node = results["weight_based"], results["z"], first_nodes(results["path"])["patching"]
    layer = page.layer_name(results["layers"]["predicted"], results["layers"]["predicted_verdict"])
    what, warnings, moves = VERDICTS[results["verdict"]], [], MOVES.get(weights["causal"], "could not be judged")
    if "untested" in node:
        what = UNTESTED if results["verdict"] == "correlational_z" else what
        patched = f"Causality could not be tested on math, since {REASONS[node['untested']]}."
    else:
        patched = f"""Patching ({z["pairs"]} pairs of `{z["rung"]}`), {page.SUBSPACES[z["name"]]}, {place(z["site"])},
            `{z["verdict"]}`: {"; ".join(swapped(z))}."""
    if results["verdict"] == "causal_z":
        what += f" {SOURCES[z['method']]}, {FOUND[z['found_by']]}"
    elif results["verdict"] == "correlational_z":
        what += f" {SOURCES[node['z']]}"
    if results["site_moves"] is False:
        warnings.append(f"""At the weight-based Z's own place, {place(weights["site"])}, the whole stream carries
            {CARRIES[weights["place"]]}: what is said of it there is about the place as much as about Z.""")
    warnings += [said for key, said in WARNINGS.items() if results[key]]
    return page.prose(f"""{what} (`{results["verdict"]}`). The weight-based Z of {layer}
        {SEPARATES[weights["separates"]]} and, swapped at its own place, {moves}. {" ".join([patched, *warnings])}
        """)


def sections(results: dict) -> list[str]:
    return [
        "## 1 Decision tree",
        "![The recipe's tree with the path taken](hunt_tree.png)",
        tree_table(results),
        "## 2 Predicted and causal layer",
        layer_text(results["layers"]),
        "## 3 Contingencies",
        contingency_table(results["path"]),
        "## 4 Math and reasoning",
        page.prose("""
            The second kind of problem is not arithmetic; Z is the one found on math, with nothing fitted here (best places,
            best layers and answer means are chosen anew, on development answers). Contrast is ratio_Z / ratio_Z⊥ (below 1
            separates; on math of the Z handed on, on held-out problems where it was fitted). Coverage is the share of the full
            swap's effect on the answer; D = [coverage − leak of the language] − [the complement's share of the answer − of the
            language], 2 by the hypothesis and about 0 for a blind subspace."""),
        beside({task: task_cells(row) for task, row in results["tasks"].items()}),
        tested_table(results["tasks"]),
        "## 5 Removing the language instead",
        *(ablation_section(results["ablation"]) if results["ablation"] else [NOT_RUN]),
        "## 6 Bridge",
        beside({task: bridge_cells(row) for task, row in results["bridge"].items()}),
        "## 7 Reports",
        report_table(results),
    ]


def tree_table(results: dict) -> str:
    rows, first = [], first_nodes(results["path"])["patching"]
    for node in results["path"]:
        name = node["node"] if node["node"] != "patching" or "untested" in node else "patching: the best Z tested"
        again = node["node"] == "patching" and node is not first
        rows.append([f"patching: {CANDIDATES[node['z']]}" if again else name, branch(node), *measured(node)])
        if node is first:
            name = f"patching: {CANDIDATES.get(node['z'])}"
            rows += [[name, f"`{row['verdict']}`", *swapped(row)] for row in handed_on(results)]
    return page.table(["node", "branch", "measured", "null"], rows)


def handed_on(results: dict) -> list[dict]:
    """The contingency that phase 2 handed on, as it was swapped, where it is another Z that decided."""
    node, tested = first_nodes(results["path"])["patching"], results["tasks"]["math"]["tested"]
    if "untested" in node or node["z"] not in CANDIDATES or (node["row"] or {}).get("name") == "handed":
        return []
    return [row for row in tested if row["name"] == "handed"]


def layer_text(found: dict) -> str:
    causal, groups = found["causal"], found["support_groups"]
    over_groups = " (one KV group: none over groups)" if groups is None else f" and {groups:.0%} over KV groups"
    text = f"""From weights: L{found["predicted"]} of {found["layers"]} (relative depth {show(found["relative_depth"], 2)},
        effective rank {show(found["effective_rank"], 3)}, `{found["predicted_verdict"]}`; {found["support"]:.0%} of resamples
        over heads{over_groups} pick it)."""
    if causal is None or causal["verdict"] == "untestable":
        return page.prose(f"{text} By patching: no layer's own Z could be tested at its output, nothing to agree with.")
    text += f""" By patching each layer's own Z at its output the best on development answers is L{causal["layer"]}; on the
        others `{causal["verdict"]}`, D {span(causal["d"], page.decimal)}; {page.random_text(causal)}"""
    if not found["causal_found"]:
        return page.prose(f"{text}: no causal layer, nothing to agree with.")
    agree = f"{'agree' if found['agree'] else 'do not agree'} (distance {found['distance']}"
    return page.prose(f"{text}. They {agree}; within {verdicts.finding.NEAR} by chance {found['chance']:.0%}).")


def contingency_table(path: list[dict]) -> str:
    node = first_nodes(path).get("contingencies")
    if node is None:
        return "None was needed."
    rows = []
    for row in node["candidates"]:
        line = [CANDIDATES[row["z"]], f"L{row['layer']}", row["k"], row["contrast"], page.p_value(row["p_holm"])]
        rows.append([*line, page.HOLDS[row["holds"]]])
    return page.table(["contingency", "layer", "k", "contrast, held out", "Holm p", "holds"], rows)


def beside(cells: dict[str, dict]) -> str:
    """A table of the same cells for the kinds of problem that were asked."""
    names = dict.fromkeys(name for column in cells.values() for name in column)
    rows = [[name, *(column.get(name, "–") for column in cells.values())] for name in names]
    return page.table(["", *cells], rows) if cells else NOT_RUN


def task_cells(row: dict) -> dict:
    why = f": {REASONS[row['untested']]}" if "untested" in row else ""
    return {
        "problems in phase 2": row["problems"],
        "contrast of Z (largest p of three nulls)": f"{show(row['contrast'], 3)} ({page.p_value(row['p'])})",
        "rung patched": f"`{row['rung']}`" if row["rung"] else "–",
        "pairs per swap": row["pairs"] or "–",
        "patching": f"`{row['patching']}`{why}",
    }


def tested_table(tasks: dict[str, dict]) -> str:
    """Every Z that was swapped, a table for each kind of problem, beside its null."""
    headers = ["swapped, k", "place", "carried there", "coverage", "D", "Haar's D, 5 to 95 %", "p; Holm's", "verdict"]
    parts = []
    for task, rows in ((task, [tested_cells(row) for row in found["tested"]]) for task, found in tasks.items()):
        if rows:
            parts += [f"Swapped on {task}, with 95 % intervals:", page.table(headers, rows)]
    return "\n\n".join(parts) or "Nothing was swapped."


def tested_cells(row: dict) -> list[str]:
    layer, null = "" if row["layer"] is None else f", L{row['layer']}", (row["nulls"] or {}).get("haar")
    method = f" ({SOURCES[row['method']]}{layer})" if row["name"] == "handed" else layer
    line = [f"{page.SUBSPACES[row['name']]}{method}, {row['k'] or '–'}", place(row["site"])]
    line += [CARRIES.get(row["place"], "–"), span(row["coverage"]), span(row["d"], page.decimal)]
    line += [f"{page.decimal(null['low'])} to {page.decimal(null['high'])}" if null else "–"]
    return [*line, "; ".join(page.p_pair(row)) if null else "–", f"`{row['verdict']}`"]


def ablation_section(found: dict) -> list[str]:
    text = f"""arXiv 2505.15257 removes a language subspace at inference. Removed from the {WHERE[found["scope"]]}:
        `{found["verdict"]}`; without → with removal below. Details in [ablation](ablation_output.md)."""
    headers = ["removed", "λ", "accuracy", "difference in points (95 %)", "exact p", "in the language asked"]
    rows = [ablation_row(row, found["none"]) for row in found["rows"]]
    return [page.prose(text), page.table(headers, rows)]


def ablation_row(row: dict, none: dict) -> list[str]:
    difference, low, high = (f"{100 * value:+.1f}" for value in (row["difference"], *row["difference_interval"]))
    above = f", above −{row['reinjection']:g}" if row["reinjection"] else ""
    right, kept = (f"{none[key]:.1%} → {row[key]:.1%}" for key in ("accuracy", "kept"))
    cells = [REMOVED[row["condition"]], f"{row['strength']:g}{above}", right, f"{difference} ({low} to {high})"]
    return [*cells, show(row["p"], 2), kept]


def transfer(bridge: dict) -> tuple[str, str]:
    """How often mapped vectors carry the answer over, and how often their controls do."""
    rate, p = bridge["success"], {control: show(value, 2) for control, value in bridge["p_against"].items()}
    if not bridge["pairs"]:
        return "nothing could be sent: no pairs", ""
    return (
        f"mapped vectors give the donor's answer in {rate[bridge['map']]:.1%} of {bridge['pairs']} pairs",
        f"unmapped {rate['identity']:.1%} (p {p['identity']}), shuffled map {rate['shuffled']:.1%} (p {p['shuffled']}), the "
        f"target language's own vector {rate['own_language']:.1%}",
    )


def bridge_cells(bridge: dict) -> dict:
    r2, (sent, controls) = bridge["held_out_r2"], transfer(bridge)
    return {
        f"held-out R², {bridge['map']} (mean shift)": f"{show(r2[bridge['map']], 3)} ({show(r2['mean_shift'], 3)})",
        "transfer": sent,
        "controls": controls or "–",
        "verdict": f"`{bridge['verdict']}`",
    }


def report_table(results: dict) -> str:
    """Links to all reports, of the model first, then of each folder; and the steps that were left out, with the reason."""
    reports, rows = results["reports"], []
    for key in sorted(reports, key=lambda key: (key.rpartition("/")[0], list(TITLES).index(key.rpartition("/")[2]))):
        folder, _, stem = key.rpartition("/")
        note = " (weight-based Z)" if stem == "phase2" else ""
        rows.append([f"[{TITLES[stem]}]({key}_output.md)", folder or "math", f"`{reports[key]}`{note}"])
    for key, reason in results["left_out"].items():
        folder, _, stem = key.rpartition("/")
        rows.append([TITLES[stem], folder or "math", f"not run: {REASONS[reason]}"])
    return page.table(["report", "run", "verdict"], rows)


def limitations(results: dict) -> list[str]:
    nodes, lines = first_nodes(results["path"]), []
    behaviour, patching = nodes["behaviour"], nodes["patching"]
    if patching["z"] in ("centroid", "ard_mmd"):
        lines.append("The Z that was handed on was fitted on activations: nothing about it was predicted from weights.")
    if behaviour["taken"] == "untestable":
        right = " and ".join(f"{behaviour['right'][language]}/{behaviour['n']}" for language in behaviour["languages"])
        lines.append(f"""Whether {behaviour["candidate"]} is ahead could not be tested ({behaviour["no_room"]}: {right}): the hunt
            rests on structure and activations alone.""")
    elif behaviour["taken"] != "yes":
        name = behaviour["candidate"]
        lines.append(
            f"No behavioural advantage of {name} was found: the hunt rests on structure and activations alone."
        )
    if "untested" in patching:
        lines.append(f"""No cause could be tested on math, since {REASONS[patching["untested"]]}: nothing here says what the
            model uses there, or that it uses nothing.""")
    if behaviour["one_problem_away"]:
        others = " or ".join(f"`{name}`" for name in behaviour["one_problem_away"])
        lines.append(f"Phase 0's verdict hangs on one problem: one answer more or less right would make it {others}.")
    return [
        *map(page.prose, lines),
        "The verdict follows from fixed rules applied to one primary configuration; everything else in the reports is exploratory.",
        "Each report has limitations of its own.",
        "The information bottleneck of the recipe is about mutual information, which nothing here measures.",
    ]


def figure_tree(results: dict) -> bytes:
    """The recipe's tree; the path taken is filled."""
    nodes = first_nodes(results["path"])
    visited = [*(name for name in QUESTIONS if name in nodes), nodes["end"]["taken"]]
    with page.figure(8.5, 7.4) as (figure, panel):
        for start, end in ARROWS:
            draw_arrow(panel, start, end, (start, end) in pairwise(visited))
        for name in PLACES:
            label = ENDS.get(name) or QUESTIONS[name].format(**nodes["behaviour"])
            draw_node(panel, name, label, told(results, nodes[name]) if name in nodes else "", name in visited)
        panel.set(xlim=(-0.1, 7.7), ylim=(0, 4.35))
        panel.axis("off")
    return page.png(figure)


def told(results: dict, node: dict) -> str:
    """What stands beside a node of the picture: the way out, and the numbers with the Z that they are of."""
    lines = [branch(node), *measured(node)[0].split("; ")]
    if node["node"] == "patching" and node["row"] and "untested" not in node:
        lines[1] = f"best of the Zs tested: {lines[1]}"
        lines += [f"{CANDIDATES[node['z']]}: {row['verdict']}" for row in handed_on(results)]
    return "\n".join(lines)


def draw_arrow(panel: Axes, start: str, end: str, used: bool) -> None:
    (x, y), (to_x, to_y) = PLACES[start], PLACES[end]
    aside = end == "contingencies"  # all others downwards
    places = ((x + 0.5, y - 0.12), (to_x - 0.5, to_y)) if aside else ((x, y - 0.26), (to_x, to_y + 0.26))
    style = {"arrowstyle": "-|>", "color": "tab:blue" if used else "lightgray", "linewidth": 2.5 if used else 1}
    panel.annotate("", places[1], places[0], arrowprops=style | {"shrinkA": 0, "shrinkB": 0}, zorder=1)


def draw_node(panel: Axes, name: str, label: str, text: str, on: bool) -> None:
    """A node, and right of it the branch and the numbers where the hunt came by."""
    x, y = PLACES[name]
    colours = {"facecolor": "#cfe2f3" if on else "white", "edgecolor": "tab:blue" if on else "lightgray"}
    panel.add_patch(FancyBboxPatch((x - 0.48, y - 0.24), 0.96, 0.48, boxstyle="round,pad=0.02", zorder=2, **colours))
    panel.text(x, y, label, ha="center", va="center", fontsize=9, color="black" if on else "gray", zorder=3)
    high = "bottom" if name == "separation" else "center"
    panel.text(x + 0.55, y - 0.02, text, ha="left", va=high, fontsize=9, color="tab:blue", zorder=3)


def compared(results: dict) -> dict[str, tuple[str, str]]:
    """What several models say of the tiers that ask for more than one, and the nulls."""
    models = results["models"]
    agreeing = [name for name, row in models.items() if row["agree"]]
    return {
        "second_model": (f"causal Z in {len(results['causal'])} of {len(models)} models", "two are needed"),
        "universal": (
            f"within {verdicts.finding.NEAR} layer in {len(agreeing)} of {len(models)} models",
            "; ".join(f"{name} by chance {row['chance']:.0%}" for name, row in models.items()),
        ),
    }


def comparison_report(results: dict) -> bytes:
    """Several models side by side."""
    headers = ["model", "bottleneck (relative depth)", "effective rank", "KV groups agree", "causal layer (agree)"]
    rows = [model_row(name, row) for name, row in results["models"].items()]
    table = page.table([*headers, *COLUMNS.values(), "verdict"], rows)
    failed = [f"{name} did not finish: {page.escape(message)}" for name, message in results["failures"].items()]
    return page.report(
        "The hunt for Z in several models",
        f"Causal Z (`{results['verdict']}`) in: {', '.join(results['causal']) or 'none'}.",
        results,
        ["## 1 Models", table, *failed],
        ["Each model's own report says what its verdict rests on.", "Few models are no sample of all models."],
    )


def model_row(name: str, row: dict) -> list:
    agree = {True: "yes", False: "**no**", None: "–"}[row["agree"]]
    return [
        f"[{name}]({row['folder']}/hunt_output.md)",
        f"L{row['predicted']} of {row['layers']} ({show(row['relative_depth'], 2)})",
        row["effective_rank"],
        "–" if row["support_groups"] is None else f"{row['support_groups']:.0%}",
        "–" if row["causal_layer"] is None else f"L{row['causal_layer']} ({agree})",
        *(f"`{row['reports'][stem]}`" if stem in row["reports"] else "–" for stem in COLUMNS),
        f"`{row['verdict']}`",
    ]
