"""The hunt's pages: the tree with the path taken and the recipe's list for one model, or several models side by side."""

from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

import verdicts
from reports import page
from reports.page import show

CANDIDATES = {
    "centroid": "(a) language centroids",
    "previous_layer": "(b) previous layer",
    "sweep": "(b) best layer of a sweep",
    "ard_mmd": "(c) ARD-MMD",
}
QUESTIONS = {
    "behaviour": "{candidate} ≫ {reference}?",
    "separation": "ratio_Z < ratio_Z⊥?",
    "contingencies": "(a) centroids, (b) other\nlayers, (c) ARD-MMD?",
    "patching": "does patching transfer\nreasoning?",
}
ENDS = {
    "causal_z": "causal Z",
    "correlational_z": "correlational,\nnot causal",
    "no_z": "no Z",
    "untestable": "untestable",
}
PLACES = {"behaviour": (0.5, 4), "separation": (0.5, 3), "contingencies": (2.1, 2.45), "patching": (0.5, 1.6)}
PLACES |= {end: (0.5 + 1.1 * index, 0.3) for index, end in enumerate(ENDS)}
ARROWS = [*pairwise(QUESTIONS), ("separation", "patching"), *(("patching", end) for end in ENDS)]
BRANCHES = {  # where a node says more than yes or no
    ("behaviour", "no"): "no: limitation flagged",
    ("separation", "partial"): "in some configurations",
    ("patching", "partial"): "in part",
}
SOURCES = {  # of a Z, by the method that phase 2 names
    "weight": "the weights",
    "weight_head0": "the weights (head 0)",
    "previous_layer": "the weights of the previous layer",
    "sweep": "the weights of another layer",
    "centroid": "activations, language centroids removed",
    "ard_mmd": "activations, ARD-MMD",
}
FITTED = ("centroid", "ard_mmd")
LEFT_OUT = {  # why a step of the hunt was not run
    "no_answer_text": "the problems have no answers in words",
    "no_texts": "the problems are not there in these languages",
}
VERDICTS = {
    "causal_z": "There is a causal Z: swapping it moves the answer and leaves the language alone. It comes from",
    "correlational_z": """Z is correlational: something separates language from problem, or moves some answers, but swapping it
        is no double dissociation. The Z that was patched comes from""",
    "untestable": """Whether there is a Z cannot be told: nothing that the tree names separates language from problem on held-out
        data, and nothing was patched on math""",
    "no_z": """No Z was found: nothing that the tree names separates language from problem on held-out data, and no swap moves
        the answer beyond chance""",
}
SEPARATES = {
    "clear": "separates language from problem",
    "partial": "separates them in some configurations only",
    "none": "does not separate them",
}
MOVES = {
    "double_dissociation": "is causal",
    "partial": "moves the answer in part",
    "none": "does not move the answer",
    "untestable": "could not be patched",
}
UNPATCHED = """Z is correlational: something separates language from problem. Whether the model uses it in math was not tested. The
    Z handed on comes from"""
NOT_RUN = "Not run; section 7 says why."
CLAIMS = {  # the recipe's publishability list
    "structure": ("a bottleneck of attention that the FFN avoids", "minimal 1"),
    "separation": ("the weight-based Z separates language from reasoning in activations", "minimal 2"),
    "comparison": ("the weight-based Z does better than arXiv 2505.15257's on the same model and data", "minimal 3"),
    "causal": ("patching shows a causal role of Z", "strong 4"),
    "second_model": ("another model has it too", "strong 5"),
    "information": ("language fades and the problem stays along depth (information bottleneck)", "strong 6"),
    "universal": ("the layer can be predicted from weights", "transformative 7"),
    "bridge": ("a bridge carries answers across languages at inference time", "transformative 8"),
    "not_just_math": ("Z found on math carries other reasoning too", "transformative 9"),
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
    return {"hunt_tree.png": figure_tree(results["path"]), "hunt_output.md": text}


def summary(results: dict) -> str:
    """What decided, on one line."""
    if "models" in results:
        return f"causal Z in {len(results['causal'])} of {len(results['models'])} models"
    node, found = deciding(results), "no pairs to patch"
    if "left_out" in node:
        found = f"not patched, {LEFT_OUT[node['left_out']]}"
    elif node["pairs"]:
        found = f"{node['success']['z']:.1%} of {node['pairs']} pairs (random {node['success']['random']:.1%})"
    return f"Z from {SOURCES[node['z']]} at L{node['layer']}: {found}"


def deciding(results: dict) -> dict:
    """The patching of the Z that the verdict is about."""
    wanted = results["weight_based"]["handed_on"]
    return next(node for node in results["path"] if node["node"] == "patching" and node["z"] == wanted)


def first_nodes(path: list[dict]) -> dict:
    """The tree's nodes by name; of several patchings the first."""
    return {node["node"]: node for node in reversed(path)}


def evidence(results: dict) -> dict[str, tuple[str, str]]:
    """Per tier of the list what was measured, and its null."""
    found, reports, rivals, plane = (results[key] for key in ("layers", "reports", "rivals", "plane"))
    nodes = first_nodes(results["path"])
    alignment = f"FFN alignment {show(results['ffn_over_chance'], 3)} × chance"
    language = f"{show(plane['language_first'], 3)} at site 0, {show(plane['language'], 3)} at Z's site"
    shuffled = f"problem shuffled {show(plane['problem_shuffled'], 2)}"
    return {
        "structure": (f"`{reports['one']}` at L{found['predicted']}, `{reports['two']}`: {alignment}", "1 × chance"),
        "separation": measured(nodes["separation"]),
        "comparison": (
            f"contrast on held-out problems: weight-based {show(rivals['weight'], 3)}",
            f"centroid {show(rivals['centroid'], 3)}, random {show(rivals['random'], 3)}",
        ),
        "causal": measured(nodes["patching"]),
        "second_model": ("one model in this hunt", "use --models"),
        "information": (
            f"language decodable inside Z: {language}; problem {show(plane['problem'], 3)}",
            f"chance {show(plane['language_chance'], 2)}; {shuffled}",
        ),
        "universal": (
            f"predicted L{found['predicted']} ({found['support']:.0%} of resamples), {causal_text(results)}",
            f"within {verdicts.NEAR} layer by chance {found['chance']:.0%}",
        ),
        "bridge": transfer(results["bridge"]["math"]) if "math" in results["bridge"] else ("not run", ""),
        "not_just_math": carried(results["tasks"].get("reasoning", {})),
    }


def carried(reasoning: dict) -> tuple[str, str]:
    """What swapping math's Z does on the second kind of problem, and what random subspaces do."""
    if "success" not in reasoning:
        return "not run", ""
    swapped = reasoning["success"]
    return (
        f"reasoning, same Z: {swapped['z']:.1%} of {reasoning['pairs']} pairs, `{reasoning['patching']}`",
        f"random {swapped['random']:.1%}, matched {swapped['random_matched']:.1%} (larger p {show(reasoning['p_random'], 2)})",
    )


def causal_text(results: dict) -> str:
    found, causal = results["layers"], results["layers"]["causal"]
    if causal["site"] is None:
        return "no layer patched" if "phase3" in results["left_out"] else "no causal layer"
    best = f"L{causal['layer']}, Holm p {show(causal['p_holm'], 2)}"
    return f"causal {best}" if found["causal_found"] else f"no causal layer (best {best})"


def measured(node: dict) -> tuple[str, str]:
    """A node's numbers and their null, as the tree and the claims show them."""
    if node["node"] == "behaviour":
        right = [f"{language} {node['right'][language]}/{node['n']}" for language in node["languages"]]
        return ", ".join(right), f"exact McNemar p {show(node['mcnemar_p'], 2)}"
    if node["node"] == "separation":
        ratios = f"ratio_Z {show(node['ratio_z'], 3)}, ratio_Z⊥ {show(node['ratio_z_perp'], 3)}"
        return ratios, f"largest p of three nulls {show(node['p'], 2)}"
    if node["node"] == "contingencies":
        rows = node["candidates"]
        contrasts = [f"{CANDIDATES[row['z']]}: contrast {show(row['contrast'], 3)}" for row in rows]
        return "; ".join(contrasts), "; ".join(f"Holm p {show(row['p_holm'], 2)}" for row in rows)
    if "left_out" in node:
        return f"not patched: {LEFT_OUT[node['left_out']]}", ""
    if node["node"] == "patching":
        rate, p = node["success"], {name: show(value, 2) for name, value in node["p"].items()}
        return (
            f"Z {rate['z']:.1%}, Z⊥ {rate['z_perp']:.1%} of {node['pairs']} pairs",
            f"random {rate['random']:.1%} (p {p['random']}), matched {rate['random_matched']:.1%} (p {p['random_matched']})",
        )
    return "", ""


def branch(node: dict) -> str:
    """The way that was taken at a node, in the tree's words."""
    if node["node"] == "contingencies":
        held = [CANDIDATES[row["z"]] for row in node["candidates"] if row["holds"]]
        return f"{', '.join(held)} {'holds' if len(held) == 1 else 'hold'}" if held else "none holds"
    if node["node"] == "behaviour" and node["taken"] == "untestable":
        return f"untestable: {node['no_room']}"
    return BRANCHES.get((node["node"], node["taken"]), node["taken"])


def verdict_sentence(results: dict) -> str:
    weights, node, site = results["weight_based"], deciding(results), results["site"]
    layer = page.layer_name(results["layers"]["predicted"], results["layers"]["predicted_verdict"])
    what, warnings = VERDICTS[results["verdict"]], []
    if "left_out" in node:
        what = UNPATCHED if results["verdict"] == "correlational_z" else what
        patched = f"Nothing was patched on math, since {LEFT_OUT[node['left_out']]}."
    else:
        patched = f"""Patching: {node["success"]["z"]:.1%} of {node["pairs"]} pairs with Z, {node["success"]["random"]:.1%} with
            random subspaces."""
    if results["verdict"] in ("causal_z", "correlational_z"):
        what += f" {SOURCES[weights['handed_on']]}"
    if results["site_moves"] is False:
        warnings.append(f"""At that site not even the whole stream does better than a wrong donor's ({site["full"]:.1%} against
            {site["wrong_donor"]:.1%}, p {show(site["p"], 2)}): this is a null about the site as much as about Z.""")
    if results["offset_only"]:
        warnings.append("The separation vanishes once the constant offset between the languages is removed.")
    return page.prose(f"""
        {what} (`{results["verdict"]}`). The weight-based Z of {layer}
        {SEPARATES[weights["separates"]]} and {MOVES[weights["causal"]]}. {" ".join([patched, *warnings])}
        """)


def sections(results: dict) -> list[str]:
    return [
        "## 1 Decision tree",
        "![The recipe's tree with the path taken](hunt_tree.png)",
        tree_table(results["path"]),
        "## 2 Predicted and causal layer",
        layer_text(results["layers"], patched="phase3" not in results["left_out"]),
        "## 3 Contingencies",
        contingency_table(results["path"]),
        "## 4 Math and reasoning",
        page.prose("""
            The second kind of problem is not arithmetic; Z is the one found on math, fitted on nothing here. Contrast is
            ratio_Z / ratio_Z⊥ (below 1 separates; on math that of the Z handed on, on held-out problems where it was fitted)."""),
        beside({task: task_cells(row) for task, row in results["tasks"].items()}),
        "## 5 Removing the language instead",
        *(ablation_section(results["ablation"]) if results["ablation"] else [NOT_RUN]),
        "## 6 Bridge",
        beside({task: bridge_cells(row) for task, row in results["bridge"].items()}),
        "## 7 Reports",
        report_table(results),
    ]


def tree_table(path: list[dict]) -> str:
    rows = []
    for node in path:
        again = node["node"] == "patching" and node is not first_nodes(path)["patching"]
        rows.append([f"patching: {CANDIDATES[node['z']]}" if again else node["node"], branch(node), *measured(node)])
    return page.table(["node", "branch", "measured", "null"], rows)


def layer_text(found: dict, patched: bool) -> str:
    causal = found["causal"]
    text = f"""From weights: L{found["predicted"]} of {found["layers"]} (relative depth {show(found["relative_depth"], 2)},
        effective rank {show(found["effective_rank"], 3)}, `{found["predicted_verdict"]}`; {support_text(found)} pick it)."""
    if not patched:
        return page.prose(f"{text} No layer was patched: nothing to agree with.")
    text += " By patching each layer's own Z at its output"
    if not found["causal_found"]:
        return page.prose(f"{text}, no layer beats random subspaces after Holm: nothing to agree with.")
    agree = "agree" if found["agree"] else "do not agree"
    return page.prose(f"""{text}: L{causal["layer"]} ({causal["gain"]:+.1%} above random subspaces, Holm p
        {show(causal["p_holm"], 2)}, alone best in {causal["support"]:.0%} of resamples). They {agree} (distance
        {found["distance"]}; within {verdicts.NEAR} by chance {found["chance"]:.0%}).""")


def support_text(found: dict) -> str:
    """The shares of resamples that pick the bottleneck; with one KV group there is nothing to resample over groups."""
    heads = f"{found['support']:.0%} of resamples over heads"
    if found["support_groups"] is None:
        return f"{heads} (one KV group: none over groups)"
    return f"{heads} and {found['support_groups']:.0%} over KV groups"


def contingency_table(path: list[dict]) -> str:
    node = first_nodes(path).get("contingencies")
    if node is None:
        return "None was needed."
    rows = [
        [CANDIDATES[row["z"]], f"L{row['layer']}", row["k"], row["contrast"], row["p_holm"], page.HOLDS[row["holds"]]]
        for row in node["candidates"]
    ]
    return page.table(["contingency", "layer", "k", "contrast, held out", "Holm p", "holds"], rows)


def beside(cells: dict[str, dict]) -> str:
    """A table of the same cells for the kinds of problem that were asked."""
    names = dict.fromkeys(name for column in cells.values() for name in column)
    rows = [[name, *(column.get(name, "–") for column in cells.values())] for name in names]
    return page.table(["", *cells], rows) if cells else NOT_RUN


def task_cells(row: dict) -> dict:
    cells = {
        "problems in phase 2": row["problems"],
        "contrast of Z (largest p of three nulls)": f"{show(row['contrast'], 3)} ({show(row['p'], 2)})",
        "patching": f"`{row['patching']}`",
    }
    if "success" not in row:
        return cells
    rate = {name: f"{value:.1%}" for name, value in row["success"].items()}
    return cells | {
        "pairs patched": row["pairs"],
        "Z's target": rate["z"],
        "Z⊥'s target": rate["z_perp"],
        "full swap's target": rate["full"],
        "random, matched (larger p)": f"{rate['random']}, {rate['random_matched']} ({show(row['p_random'], 2)})",
    }


def ablation_section(found: dict) -> list[str]:
    text = f"""arXiv 2505.15257 removes a language subspace at inference. Removed from the {WHERE[found["scope"]]}:
        `{found["verdict"]}`; without → with removal below. Details in [ablation](ablation_output.md)."""
    headers = ["removed", "λ", "accuracy", "difference in points (95 %)", "exact p", "in the language asked"]
    rows = [ablation_row(row, found["none"]) for row in found["rows"]]
    return [page.prose(text), page.table(headers, rows)]


def ablation_row(row: dict, none: dict) -> list[str]:
    difference, low, high = (f"{100 * value:+.1f}" for value in (row["difference"], *row["difference_interval"]))
    above = f", above −{row['reinjection']:g}" if row["reinjection"] else ""
    return [
        REMOVED[row["condition"]],
        f"{row['strength']:g}{above}",
        f"{none['accuracy']:.1%} → {row['accuracy']:.1%}",
        f"{difference} ({low} to {high})",
        show(row["p"], 2),
        f"{none['kept']:.1%} → {row['kept']:.1%}",
    ]


def transfer(bridge: dict) -> tuple[str, str]:
    """How often mapped vectors carry the answer over, and how often their controls do."""
    rate, p = bridge["success"], {control: show(value, 2) for control, value in bridge["p_against"].items()}
    return (
        f"mapped vectors give the donor's answer in {rate[bridge['map']]:.1%} of {bridge['pairs']} pairs",
        f"unmapped {rate['identity']:.1%} (p {p['identity']}), shuffled map {rate['shuffled']:.1%} (p {p['shuffled']}), the "
        f"target language's own vector {rate['own_language']:.1%}",
    )


def bridge_cells(bridge: dict) -> dict:
    r2, rate, p = (bridge[key] for key in ("held_out_r2", "success", "p_against"))
    return {
        f"held-out R², {bridge['map']} (mean shift)": f"{show(r2[bridge['map']], 3)} ({show(r2['mean_shift'], 3)})",
        "pairs of the transfer": bridge["pairs"],
        f"transfer, {bridge['map']}": f"{rate[bridge['map']]:.1%}",
        "unmapped": f"{rate['identity']:.1%} (p {show(p['identity'], 2)})",
        "shuffled map": f"{rate['shuffled']:.1%} (p {show(p['shuffled'], 2)})",
        "the target language's own vector": f"{rate['own_language']:.1%}",
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
        rows.append([TITLES[stem], folder or "math", f"not run: {LEFT_OUT[reason]}"])
    return page.table(["report", "run", "verdict"], rows)


def limitations(results: dict) -> list[str]:
    lines = []
    if results["weight_based"]["handed_on"] in FITTED:
        lines.append("The Z that was handed on was fitted on activations: nothing about it was predicted from weights.")
    behaviour = first_nodes(results["path"])["behaviour"]
    if behaviour["taken"] == "untestable":
        right = " and ".join(f"{behaviour['right'][language]}/{behaviour['n']}" for language in behaviour["languages"])
        lines.append(f"""Whether {behaviour["candidate"]} is ahead could not be tested ({behaviour["no_room"]}: {right}): the hunt
            rests on structure and activations alone.""")
    elif behaviour["taken"] != "yes":
        lines.append(f"""No behavioural advantage of {behaviour["candidate"]} was found: the hunt rests on structure and activations
            alone.""")
    if "phase3" in results["left_out"]:
        lines.append("Nothing was patched on math: nothing here says what the model uses there.")
    if behaviour["one_problem_away"]:
        others = " or ".join(f"`{name}`" for name in behaviour["one_problem_away"])
        lines.append(f"Phase 0's verdict hangs on one problem: one answer more or less right would make it {others}.")
    return [
        *map(page.prose, lines),
        "The verdict follows from fixed rules applied to one primary configuration; everything else in the reports is exploratory.",
        "Each report has limitations of its own.",
        "The information bottleneck of the recipe is about mutual information, which nothing here measures.",
    ]


def figure_tree(path: list[dict]) -> bytes:
    """The recipe's tree; the path taken is filled."""
    nodes = first_nodes(path)
    visited = [*(name for name in QUESTIONS if name in nodes), nodes["end"]["taken"]]
    with page.figure(10, 6.5) as (figure, panel):
        for start, end in ARROWS:
            draw_arrow(panel, start, end, (start, end) in pairwise(visited))
        for name in PLACES:
            draw_node(panel, name, ENDS.get(name) or QUESTIONS[name].format(**nodes["behaviour"]), name in visited)
            if name in nodes:
                label_node(panel, nodes[name])
        panel.set(xlim=(-0.1, 4.4), ylim=(0, 4.35))
        panel.axis("off")
    return page.png(figure)


def draw_arrow(panel: Axes, start: str, end: str, used: bool) -> None:
    (x, y), (to_x, to_y) = PLACES[start], PLACES[end]
    places = (x, y - 0.26), (to_x, to_y + 0.26)
    if end == "contingencies":  # to the side, all others downwards
        places = (x + 0.5, y - 0.12), (to_x - 0.5, to_y)
    style = {"arrowstyle": "-|>", "color": "tab:blue" if used else "lightgray", "linewidth": 2.5 if used else 1}
    panel.annotate("", places[1], places[0], arrowprops=style | {"shrinkA": 0, "shrinkB": 0}, zorder=1)


def draw_node(panel: Axes, name: str, label: str, on: bool) -> None:
    x, y = PLACES[name]
    colours = {"facecolor": "#cfe2f3" if on else "white", "edgecolor": "tab:blue" if on else "lightgray"}
    corner = (x - 0.48, y - 0.24)
    panel.add_patch(FancyBboxPatch(corner, 0.96, 0.48, boxstyle="round,pad=0.02", zorder=2, **colours))
    panel.text(x, y, label, ha="center", va="center", fontsize=8, color="black" if on else "gray", zorder=3)


def label_node(panel: Axes, node: dict) -> None:
    """The branch and the numbers, right of the node."""
    x, y = PLACES[node["node"]]
    text = "\n".join([branch(node), *measured(node)[0].split("; ")])
    high = "bottom" if node["node"] == "separation" else "center"
    panel.text(x + 0.52, y + 0.06, text, ha="left", va=high, fontsize=7, color="tab:blue", zorder=3)


def compared(results: dict) -> dict[str, tuple[str, str]]:
    """What several models say of the tiers that ask for more than one, and the nulls."""
    models = results["models"]
    agreeing = [name for name, row in models.items() if row["agree"]]
    return {
        "second_model": (f"causal Z in {len(results['causal'])} of {len(models)} models", "two are needed"),
        "universal": (
            f"within {verdicts.NEAR} layer in {len(agreeing)} of {len(models)} models",
            "; ".join(f"{name} by chance {row['chance']:.0%}" for name, row in models.items()),
        ),
    }


def comparison_report(results: dict) -> bytes:
    """Several models side by side."""
    headers = ["model", "bottleneck", "relative depth", "effective rank", "KV groups agree", "causal layer", "agree"]
    headers += [*COLUMNS.values(), "verdict"]
    table = page.table(headers, [model_row(name, row) for name, row in results["models"].items()])
    failed = [f"{name} did not finish: {page.escape(message)}" for name, message in results["failures"].items()]
    return page.report(
        "The hunt for Z in several models",
        f"Causal Z (`{results['verdict']}`) in: {', '.join(results['causal']) or 'none'}.",
        results,
        ["## 1 Models", table, *failed],
        ["Each model's own report says what its verdict rests on.", "Few models are no sample of all models."],
    )


def model_row(name: str, row: dict) -> list:
    return [
        f"[{name}]({row['folder']}/hunt_output.md)",
        f"L{row['predicted']} of {row['layers']}",
        row["relative_depth"],
        row["effective_rank"],
        "–" if row["support_groups"] is None else f"{row['support_groups']:.0%}",
        "–" if row["causal_layer"] is None else f"L{row['causal_layer']}",
        {True: "yes", False: "**no**", None: "–"}[row["agree"]],
        *(f"`{row['reports'][stem]}`" if stem in row["reports"] else "–" for stem in COLUMNS),
        f"`{row['verdict']}`",
    ]
