"""The hunt's tables: the claims' numbers beside their nulls, tiers, arXiv 2505.15257 beside the weights, Zs swapped, reports."""

import verdicts
from reports import page
from reports.hunt_beyond import transfer
from reports.page import decimal, listing, p_value, percent, place, show, span

CANDIDATES = {
    "centroid": "(a) language centroids", "previous_layer": "(b) previous layer",
    "sweep": "(b) best layer of a sweep", "ard_mmd": "(c) ARD-MMD",
}  # fmt: skip
SOURCES = page.METHODS | {
    "answer_means": "fitted on activations: mean streams of the answers",
    "learned": "learned by gradients for its effect (DAS)",
}
CARRIES = {
    "joint": "both", "answer": "the answer only", "language": "the language only", "none": "neither",
}  # fmt: skip
REASONS = {  # why a step of the hunt was not run, or could tell nothing
    "no_answer_text": "the problems have no answers in words",
    "no_texts": "the problems are not there in these languages",
    "no_rung": "no kind of problem could be used (phase 3's page says what each lacks)",
    "no_joint_carrier": "at no place does the whole stream carry both the answer and the language",
    "nothing_judged": "no subspace could be measured where the stream carries both",
    "nothing_to_carry": "math's Z neither parts problem from language beyond the words nor moves an answer, so there is nothing to "
    "confirm on other problems",
}
BASELINES = {  # what knows only the text
    "numerals": "the numerals", "embeddings": "a bag of words", "embeddings_in_z": "a bag of words inside Z",
    "reinitialised": "an untrained twin", "permuted": "a twin with its layers shuffled",
}  # fmt: skip
NULLS = {  # of a contrast, as phase 2 calls them
    "haar": "Haar", "matched": "matched draws", "missing": "Haar that miss the offset", "pairing": "shuffled problems",
}  # fmt: skip
POOLED = {"mean": "mean over tokens", "last": "last position"}
NOT_RUN = "Not run; section 9 says why."
PHASES = {f"phase{number}": f"Phase {number}" for number in ("0", "2", "3", "3b")}
TITLES = {"one": "1.py", "two": "2.py", **PHASES, "ablation": "Ablation"}
NAMES = {  # of the claims, within the tiers
    "structure": "bottleneck", "separation": "separation", "comparison": "comparison", "causal": "causal role",
    "second_model": "second model", "information": "information", "universal": "layer predicted", "bridge": "bridge",
    "not_just_math": "not just math",
}  # fmt: skip
# shares of what is read inside Z
PLANE = ("language_first", "language", "problem", "language_chance", "problem_shuffled")
REACHED = {True: "**reached**", False: "failed", None: "open"}


def first_nodes(path: list[dict]) -> dict:
    """The tree's nodes by name."""
    return {node["node"]: node for node in path}


def swapped(row: dict) -> tuple[str, str]:
    """What swapping a Z does, and what its nulls and the full swap do: the numbers of phase 3's page, written as there."""
    wins, full = (span(row[key]) for key in ("iia_cross", "full_iia_cross"))
    found = f"coverage {span(row['coverage'])}; D {span(row['d'], decimal)}; wins across languages {wins}"
    nulls = "; ".join([page.random_text(row), *beside_draws(row)])
    if not row["full_iia_cross"]:  # swapped where the whole stream carries nothing
        return "nothing could be measured there", "–"
    taken = row["full_iia_cross"]["value"], row["iia_cross"]["value"]
    along = " (it brings its own language along)" if None not in taken and taken[0] <= taken[1] else ""
    return found, f"{nulls}; full swap's wins across languages {full}{along}"


def beside_draws(row: dict) -> list[str]:
    """What draws matched to the stream, and its main directions, move of the answer, and whether a Z has to beat them."""
    matched, rivals, parts = (row["nulls"] or {}).get("matched"), row.get("rivals") or {}, []
    if matched:
        held = f": Z holds {percent(row['within_share'])} of the variance" if row.get("within_share") else ""
        why = "a null" if matched["gates"] else f"beside, no null{held}"
        p = p_value(matched["p"], matched["draws"])
        parts.append(f"matched draws: coverage {percent(matched['coverage'])}, p of D {p} ({why})")
    if "pca" in rivals:
        own = f" where Z's is {percent(rivals['z']['coverage']['value'])} with the same donors" if "z" in rivals else ""
        parts.append(f"PCA of that size: coverage {percent(rivals['pca']['coverage']['value'])}{own} (beside, no null)")
    return parts


def reached(null: dict) -> bool:
    """Whether any draw of a null reached what was measured."""
    return null["p"] * (1 + null["draws"]) >= 1.5


def null_p(part: dict) -> str:
    """A contrast's p, the largest of its nulls' that decide, and which null that is."""
    nulls = [name for name in NULLS if name in part and part[name].get("gates", True)]
    if not nulls:
        return p_value(part["p"])
    name = max(nulls, key=lambda null: part[null]["p"])
    text = p_value(part[name]["p"], part[name]["draws"]).partition(" (")[0]
    return f"{text} ({NULLS[name]})" if reached(part[name]) else f"{text} (every null that counts)"


def null_holm(part: dict) -> str:
    """Holm's p of a contrast, "<" where no draw of the null that decides reached it."""
    nulls = [part[name] for name in NULLS if name in part and part[name].get("gates", True)]
    return p_value(part["p_holm"], bound=bool(nulls) and not reached(max(nulls, key=lambda null: null["p"])))


def matched_text(part: dict) -> str:
    """The stream's main directions beside a contrast; where they are no null, how they do and why they are not counted."""
    matched, name = part["matched"], "the stream's main directions (matched draws)"
    if matched.get("gates", True):
        return f"{name} {drawn(matched)}"
    does = (
        "better"
        if part["contrast"] > matched["high"]
        else "less well"
        if part["contrast"] < matched["low"]
        else "as well"
    )
    held = (
        f": they hold {percent(part['matched_share'])} of the distance between problems"
        if part["matched_share"]
        else ""
    )
    p = p_value(matched["p"], matched["draws"]).partition(" (")[0]
    return f"{name} do {does} ({drawn(matched)}, p {p}), which is not counted{held}"


def of_size(row: dict) -> str:
    """Size and pooling that a contrast is of."""
    return ", ".join(filter(None, [f"k {row['k']}" if row["k"] else "", POOLED.get(row["pooling"])])) or "as handed on"


def predicted_text(results: dict) -> str:
    """1.py's verdict at the layer that the weights point at, and what that layer is where the verdict singles out none."""
    verdict, layer = results["reports"]["one"], results["layers"]["predicted"]
    return f"`{verdict}` " + (
        f"(lowest inner layer L{layer}, exploratory)" if verdict == "no_bottleneck" else f"at L{layer}"
    )


def drawn(null: dict) -> str:
    """5 to 95 % of a null's draws."""
    return f"{show(null['low'], 3)} to {show(null['high'], 3)}"


def own(row: dict) -> str:
    """A contrast with its interval."""
    return span({"value": row["contrast"], **{end: row[end] for end in ("low", "high")}}, lambda value: show(value, 3))


def beyond_text(text: dict) -> str:
    """How often Z tells a text from its foil, and how far it is ahead of what comes nearest of all that knows only the text."""
    if text["unmeasured"]:
        return "beyond the text could not be measured"
    return f"tells {page.percent(text['z']['rate'])} of texts from foils, {nearest(text)}"


def nearest(text: dict) -> str:
    """The baseline that a Z is least surely ahead of."""
    name, ahead = min(text["ahead_of"].items(), key=lambda item: item[1]["low"])
    return f"ahead of {BASELINES[name]} by {span(ahead)}"


def foils_haar(text: dict) -> str:
    """How often random subspaces tell a text from its foil."""
    return (
        ""
        if text["unmeasured"]
        else f"; Haar tells {page.percent(text['haar']['low'])} to {page.percent(text['haar']['high'])}"
    )


def evidence(results: dict) -> dict[str, tuple[str, str]]:
    """Per tier of the list what was measured, and its null."""
    found, reports, rivals, plane = (results[key] for key in ("layers", "reports", "rivals", "plane"))
    nodes, without = first_nodes(results["path"]), results["without_offset"]
    alignment = f"FFN alignment {show(results['ffn_over_chance'], 3)} × chance"
    first, later, problem, chance, shuffled = (page.percent(plane[key]) for key in PLANE)
    ratios, largest = measured(nodes["separation"])
    told = compared_cells(
        {"math": rivals} | {task: row["rivals"] for task, row in results["tasks"].items() if task != "math"}
    )
    return {
        "structure": (f"{predicted_text(results)}, `{reports['two']}`: {alignment}", "1 × chance"),
        "separation": (
            f"{other_text(results)}{ratios}; without the offset ({of_size(without)}) contrast {own(without)}; "
            f"{beyond_text(results['text'])}",
            f"{largest}; without the offset Haar {drawn(without['haar'])}, p {null_p(without)}, {matched_text(without)}"
            f"{foils_haar(results['text'])}",
        ),
        "comparison": told,
        "causal": causal_cells(results),
        "second_model": ("one model in this hunt", "use --models"),
        "information": (
            f"language read inside Z: {first} at the embeddings, {later} at Z's place; problem {problem} there",
            f"language by chance {chance}; problem shuffled {shuffled}; not judged: what can be decoded is no mutual information",
        ),
        "universal": (
            f"predicted L{found['predicted']} ({found['support']:.0%} of resamples), {causal_text(found)}",
            f"within {verdicts.finding.NEAR} layer by chance {found['chance']:.0%}",
        ),
        "bridge": transfer(results["bridge"]["math"]) if "math" in results["bridge"] else ("not run", "–"),
        "not_just_math": carried(results),
    }


def other_text(results: dict) -> str:
    """Said where another configuration separates than the one named before looking; nothing else."""
    tests, row = results["tests"], results["tasks"]["math"]
    if tests["named_separates"] or not tests["handed_on_separates"] or not tests["separates"]:
        return ""
    return f"the one named before looking does not, another does ({of_size(row)}: contrast {own(row['centred'])} without the offset); "


def compared_cells(rivals: dict[str, dict]) -> tuple[str, str]:
    """The weights' Z beside the centroids' and one random subspace, on each kind of problem: a lower contrast is better."""
    found = [f"{task}, {of_size(row['weight'])}: {own(row['weight']['centred'])}" for task, row in rivals.items()]
    null = [
        f"{task}: centroids {own(row['centroid']['centred'])}, one random subspace {own(row['random']['centred'])}"
        for task, row in rivals.items()
    ]
    return f"contrast on held-out problems, without the offset: {'; '.join(found)}", "; ".join(null)


def causal_cells(results: dict) -> tuple[str, str]:
    """What swapping the best Z does; of the recipe's kind where only a learned one is causal, since the claim is about that."""
    if results["verdict"] == "causal_z":
        return swapped(results["z"])
    node = first_nodes(results["path"])["patching"]
    if results["verdict"] == "learned_only":
        rows = verdicts.finding.recipes_own(results["tasks"]["math"]["tested"])
        node = node | {"row": rows[0] if rows else None}
    return measured(node)


def carried(results: dict) -> tuple[str, str]:
    """What swapping math's Z does on the second kind of problem, and what its nulls do."""
    reasoning, left_out = results["tasks"].get("reasoning", {}), results["left_out"]
    reason = reasoning.get("untested") or left_out.get("reasoning/phase3") or left_out.get("reasoning/phase2")
    if reason or not reasoning:
        return f"no cause tested: {REASONS[reason]}" if reason else "not run", "–"
    rows = [row for row in reasoning["tested"] if row["name"] in verdicts.SAME_Z]
    found = [f"{page.SUBSPACES[row['name']]}: `{row['verdict']}`, {swapped(row)[0]}" for row in rows]
    return f"`{reasoning['rung']}`, " + "; ".join(found), "; ".join(swapped(row)[1] for row in rows)


def causal_text(found: dict) -> str:
    causal = found["causal"]
    if causal is None or causal["verdict"] == "untestable":
        return "no layer's own Z tested"
    best = f"L{causal['layer']}: D {span(causal['d'], decimal)}{drawn_d(causal)}, {page.p_text(causal)}"
    return f"causal {best}" if found["causal_found"] else f"no causal layer (best {best}, `{causal['verdict']}`)"


def drawn_d(row: dict) -> str:
    """D of the pairs that a Z's draws were swapped for, which is what its p is of."""
    return f", of the draws' pairs {decimal(row['drawn']['d'])}" if row.get("drawn") else ""


def measured(node: dict) -> tuple[str, str]:
    """A node's numbers and their null, as the tree and the claims show them."""
    if node["node"] == "behaviour":
        right = [f"{language} {node['right'][language]}/{node['n']}" for language in node["languages"]]
        return ", ".join(right), f"exact McNemar p {p_value(node['mcnemar_p'])}"
    if node["node"] == "separation":
        ratios = f"ratio_Z {show(node['ratio_z'], 3)}, ratio_Z⊥ {show(node['ratio_z_perp'], 3)}"
        return ratios, f"largest p of its nulls {null_p(node)}"
    if node["node"] == "contingencies":
        rows = node["candidates"]
        contrasts = [f"{CANDIDATES[row['z']]}: contrast {show(row['contrast'], 3)}" for row in rows]
        return "; ".join(contrasts), "; ".join(f"Holm p {null_holm(row)}" for row in rows)
    if "untested" in node:
        return f"no cause tested: {REASONS[node['untested']]}", "–"
    if node["node"] == "patching" and node["row"]:
        found, null = swapped(node["row"])
        return f"{page.SUBSPACES[node['row']['name']]}, {place(node['row']['site'])}; {found}", null
    return "", ""


def contingencies_swapped(results: dict) -> list[dict]:
    """The contingencies that were swapped, those aside of which one decided."""
    node = first_nodes(results["path"])["patching"]
    if "untested" in node:
        return []
    rows = [row for row in results["tasks"]["math"]["tested"] if row["method"] in CANDIDATES]
    return [
        row for row in rows if row["name"] in ("handed", *CANDIDATES) and row["name"] != (node["row"] or {}).get("name")
    ]


def tier_table(results: dict) -> str:
    """What each tier of the recipe's list asks for, with the tiers before it, and what became of that."""
    holds, rows = {row["id"]: row["holds"] for row in results["claims"]}, []
    for tier, claims in verdicts.TIERS.items():
        own_part = ", ".join(NAMES[claim] for claim in claims)
        before = len(rows)
        asks = f"{own_part}" if not before else f"all of the above, and {own_part}"
        wanted = [claim for name in list(verdicts.TIERS)[: before + 1] for claim in verdicts.TIERS[name]]
        parts = [[NAMES[claim] for claim in wanted if holds[claim] is kind] for kind in (True, False, None)]
        rows.append([tier, asks, REACHED[results["tiers"][tier]], *(", ".join(part) or "–" for part in parts)])
    return page.table(["tier", "asks for", "outcome", "holds", "fails", "open"], rows)


def versus_table(results: dict) -> str:
    """The recipe's comparison with arXiv 2505.15257, aspect by aspect, with what was measured here."""
    found, rivals, plane, first = (results[key] for key in ("layers", "rivals", "plane", "phases"))
    rows = {row["name"]: row for row in results["tasks"]["math"]["tested"]}
    contrasts = [
        f"{name} {own(rivals[key]['centred'])}" for name, key in (("weights", "weight"), ("centroids", "centroid"))
    ]
    removed = results["ablation"]
    said = f"`{removed['verdict']}`" if removed else f"not run ({REASONS[results['left_out']['ablation']]})"
    before, later, problem, _, shuffled = (page.percent(plane[key]) for key in PLANE)
    cells = [
        ["how Z is made", "language centroids, then SVD, on activations", "SVD of the attention kernels at the bottleneck",
         f"contrast without the offset, held out ({of_size(rivals['weight'])}): {'; '.join(contrasts)}; swapped: {swaps_text(rows)}"],
        ["why this layer", "a sweep over all layers", "lowest effective rank, known beforehand",
         f"{predicted_text(results)}; {causal_text(found)}"],
        ["why Z is clean", "not addressed", "the FFN avoids Z (0.57 × chance)",
         f"{show(results['ffn_over_chance'], 3)} × chance, `{results['reports']['two']}`"],
        ["data needed", "a parallel corpus", "none: weights alone",
         f"{results['tasks']['math']['problems']} problems in each language for the centroids, none for the weights' Z; judging "
         "either takes problems"],
        ["what backs it", "removing language directions improves reasoning", "information bottleneck, Grassmann geometry",
         f"removal: {said}; language read inside Z {before} → {later} from embeddings to Z's place, problem {problem} there "
         f"(shuffled {shuffled})"],
        ["the architecture", "none: a black box", "encode, compute, decode: 1-33-2 layers", f"{'-'.join(map(str, first))} layers"],
    ]  # fmt: skip
    return page.table(["aspect", "arXiv 2505.15257", "from weights (the recipe)", "measured here"], cells)


def swaps_text(rows: dict[str, dict]) -> str:
    """The verdicts of the weights' Zs and, if it was swapped, of the centroids'."""
    parts = [f"weights' Z `{rows[name]['verdict']}`" for name in ("weights",) if name in rows]
    parts += [f"moved to its best place `{rows[name]['verdict']}`" for name in ("weights_at_carrier",) if name in rows]
    handed = rows.get("handed", {"method": None})
    parts += [f"centroids' Z `{handed['verdict']}`"] if handed["method"] == "centroid" else []
    return ", ".join(parts) or "nothing"


def layer_text(found: dict) -> str:
    """The predicted layer beside the one whose own Z is causal."""
    causal, groups = found["causal"], found["support_groups"]
    over_groups = " (one KV group: none over groups)" if groups is None else f" and {groups:.0%} over KV groups"
    edge = f"; of all layers L{found['lowest']} is lowest" if found["lowest"] != found["predicted"] else ""
    window = found["window"] or []
    beside = f"; predicted together: {listing([f'L{layer}' for layer in window])}" if len(window) > 1 else ""
    text = f"""From weights: L{found["predicted"]} of {found["layers"]} (relative depth {show(found["relative_depth"], 2)},
        effective rank {show(found["effective_rank"], 3)}, lowest of the inner layers{edge}{beside};
        `{found["predicted_verdict"]}`; {found["support"]:.0%} of resamples over heads{over_groups} pick it)."""
    if causal is None or causal["verdict"] == "untestable":
        return page.prose(f"{text} By patching: no layer's own Z could be tested at its output, nothing to agree with.")
    text += f""" By patching each layer's own Z at its output the best on development answers is L{causal["layer"]}; on the
        others `{causal["verdict"]}`, D {span(causal["d"], decimal)}{drawn_d(causal)}; {page.random_text(causal)}"""
    if not found["causal_found"]:
        return page.prose(f"{text}: no causal layer, nothing to agree with.")
    agree = f"{'agree' if found['agree'] else 'do not agree'} (distance {found['distance']}"
    return page.prose(f"{text}. They {agree}; within {verdicts.finding.NEAR} by chance {found['chance']:.0%}).")


def contingency_table(path: list[dict]) -> str:
    """The recipe's contingencies, as phase 2 judged them on problems that they were not fitted on."""
    node = first_nodes(path).get("contingencies")
    if node is None:
        return "Not run: phase 2 runs them where no configuration separates."
    rows = []
    for row in node["candidates"]:
        line = [
            CANDIDATES[row["z"]],
            f"L{row['layer']}",
            of_size(row),
            show(row["contrast"], 3),
            show(row["centred"], 3),
        ]
        rows.append([*line, null_holm(row), page.HOLDS[row["holds"]]])
    headers = [
        "contingency",
        "layer",
        "size, read at",
        "contrast, held out",
        "without the offset",
        "Holm p with it",
        "holds",
    ]
    return page.table(headers, rows)


def beside(cells: dict[str, dict]) -> str:
    """A table of the same cells for the kinds of problem that were asked."""
    names = dict.fromkeys(name for column in cells.values() for name in column)
    rows = [[name, *(column.get(name, "–") for column in cells.values())] for name in names]
    return page.table(["measured", *cells], rows) if cells else NOT_RUN


def task_cells(row: dict) -> dict:
    """What one kind of problem says about Z."""
    why = f": {REASONS[row['untested']]}" if "untested" in row else ""
    return {
        "problems in phase 2": row["problems"],
        "contrast of Z, with size and pooling": f"{show(row['contrast'], 3)} ({of_size(row)})",
        "largest p of its nulls": null_p(row),
        "contrast without the offset": own(row["centred"]),
        "the same of the Z named before looking": f"{own(row['primary']['centred'])} ({of_size(row['primary'])})",
        "kind of problem swapped": f"`{row['rung']}`" if row["rung"] else "–",
        "pairs per swap": row["pairs"] or "–",
        "patching": f"`{row['patching']}`{why}",
    }


def tested_table(tasks: dict[str, dict]) -> str:
    """Every Z that was swapped, a table for each kind of problem, beside its null."""
    headers = ["swapped, k", "place", "carried there", "coverage", "D", "D of the draws' pairs", "Haar's D, 5 to 95 %"]
    headers, parts = [*headers, "p; Holm's", "verdict"], []
    for task, found in tasks.items():
        if rows := [tested_cells(row) for row in found["tested"]]:
            parts += [f"Swapped on `{found['rung']}` ({task}), with 95 % intervals:", page.table(headers, rows)]
    said = (
        "p, like Haar's D, is of the draws' pairs, fewer swaps than D is of; Holm's is over the Zs of that table's run."
    )
    parts += [said] if parts else []
    return "\n\n".join(parts) or "Nothing was swapped."


def tested_cells(row: dict) -> list[str]:
    """One Z that was swapped."""
    layer, null = "" if row["layer"] is None else f", L{row['layer']}", (row["nulls"] or {}).get("haar")
    method = f" ({SOURCES[row['method']]}{layer})" if row["name"] == "handed" else layer
    line = [f"{page.SUBSPACES[row['name']]}{method}, {row['k'] or '–'}", place(row["site"])]
    line += [CARRIES.get(row["place"], "–"), span(row["coverage"]), span(row["d"], decimal)]
    line += [decimal(row["drawn"]["d"]) if null and row.get("drawn") else "–"]
    line += [f"{decimal(null['low'])} to {decimal(null['high'])}" if null else "–"]
    return [*line, "; ".join(page.p_pair(row)) if null else "–", f"`{row['verdict']}`"]


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
