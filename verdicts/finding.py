"""The hunt's verdict, over what all scripts found in one model, and over several models."""

import verdicts

NEAR = 1  # layers: the recipe speaks of L32 and L33 together, so prediction and cause agree within one
WAYS = {"clear": "yes", "double_dissociation": "yes", "partial": "partial", "inconclusive": "inconclusive"}
WAYS |= dict.fromkeys(("untestable", "answer_only", "language_only"), "untestable")  # all others: "no"
EXPLAINED = ("answer_word", "illusion", "inconclusive")  # verdicts of phase 3, and of the hunt if nothing is causal
SAME_Z = ("weights", "weights_at_carrier", "handed")  # subspaces of math, tested unchanged on other problems


def hunt(results: dict) -> dict:
    """causal_z | answer_word | illusion | inconclusive | correlational_z | no_z | untestable; of several models see `comparison`.

    The second to fourth are phase 3's where no Z is causal; correlational_z: something separates, beyond the offset and beyond
    the text; untestable: nothing does, and phase 3 could test nothing. Beside verdict, tests and holds: which way the tree went
    at each node of `path`, how the predicted and the causal layer lie (`layers`), which Z the verdict is about (`z`), and
    warnings: `offset_only`, `text_only`, `site_moves`.
    """
    if "models" in results:
        return comparison(results)
    separation = next(node for node in results["path"] if node["node"] == "separation")
    first, *others = (node for node in results["path"] if node["node"] == "patching")
    own = [row for row in results["tasks"]["math"]["tested"] if row["verdict"] == "double_dissociation"]
    again = [node["row"] for node in others if node["verdict"] == "double_dissociation"]
    again = [
        row for row in again if (1 + len(others)) * row["p"] < verdicts.LEVEL
    ]  # Bonferroni over the contingencies patched
    tests = {
        "separates": separation["verdict"] != "none",
        "beyond_text": separation["beyond_text"],
        "handed_on_separates": first["holds"],
        "handed_on_beyond_text": first["beyond_text"],
        "causal": bool(own),
        "causal_contingency": bool(again),
        "moves_some": first["verdict"] in ("partial", "language_removed"),
    }
    separates = tests["separates"] and tests["beyond_text"] is True
    separates = separates or (tests["handed_on_separates"] and tests["handed_on_beyond_text"] is True)
    if own or again:
        verdict = "causal_z"
    elif first["verdict"] in EXPLAINED:
        verdict = first["verdict"]
    elif separates or tests["moves_some"]:
        verdict = "correlational_z"
    else:
        verdict = "untestable" if WAYS.get(first["verdict"]) == "untestable" else "no_z"
    layers = results["layers"] | distance_of_layers(results["layers"])
    causal, place = next(iter(own + again), None), results["weight_based"]["place"]
    return {
        "verdict": verdict,
        "tests": tests,
        "holds": hunt_claims(results, layers, causal),
        "path": [node | {"taken": way(node, verdict)} for node in results["path"]],
        "layers": layers,
        "z": causal or (first["row"] or {}) | {"found_by": None},
        "offset_only": tests["separates"] and separation["centred"] is False,
        "text_only": tests["separates"] and separation["beyond_text"] is False,
        "site_moves": None if place is None else place == "joint",
    }


def way(node: dict, verdict: str) -> str:
    """yes | partial | no | inconclusive | untestable: the way out of a node of the tree; at its end the verdict."""
    if node["node"] == "end":
        return verdict
    if node["node"] == "behaviour" and node["verdict"] == f"{node['candidate'].lower()}_advantage":
        return "yes"
    if node["node"] == "contingencies":
        return "yes" if any(row["holds"] for row in node["candidates"]) else "no"
    return WAYS.get(node["verdict"], "no")


def distance_of_layers(found: dict) -> dict:
    """The layer that the weights predict beside the one whose own Z is causal at its output, if the best one is."""
    causal, predicted = found["causal"], found["predicted"]
    shown = causal is not None and causal["verdict"] == "double_dissociation"
    distance = abs(predicted - causal["layer"]) if shown else None
    within = sum(abs(layer - predicted) <= NEAR for layer in range(found["layers"]))
    return {
        "causal_found": shown,
        "causal_layer": causal["layer"] if shown else None,
        "distance": distance,
        "agree": None if distance is None else distance <= NEAR,
        "chance": within / found["layers"],
    }


def hunt_claims(results: dict, layers: dict, causal: dict | None) -> dict:
    """The recipe's publishability list, ticked by what was measured."""
    reports, rivals, tasks = results["reports"], results["rivals"], results["tasks"]
    bridge = results["bridge"].get("math")
    again = [row["verdict"] for row in tasks.get("reasoning", {}).get("tested", []) if row["name"] in SAME_Z]
    return {
        "structure": reports["one"] == "clear_bottleneck" and reports["two"] == "ffn_avoids_attention",
        "separation": reports["phase2"] != "none",
        "comparison": rivals["weight"] < rivals["centroid"],
        "causal": dissociates([causal["verdict"] if causal else tasks["math"]["patching"]]),
        "second_model": None,
        "information": None,  # decodability is no mutual information: shown, not judged
        "universal": layers["agree"],
        "bridge": verdicts.carries(bridge) if bridge else None,
        "not_just_math": dissociates(again),
    }


def dissociates(found: list[str]) -> bool | None:
    """Whether one of a Z's verdicts is a double dissociation; None where none is and one is open, or all are untestable."""
    ways = {WAYS.get(verdict, "no") for verdict in found}
    return True if "yes" in ways else None if "inconclusive" in ways or ways <= {"untestable"} else False


def comparison(results: dict) -> dict:
    """generalises | does_not_generalise: whether a causal Z was found in more than one model."""
    models = {name: row | distance_of_layers(row) for name, row in results["models"].items()}
    causal = [name for name, row in models.items() if row["verdict"] == "causal_z"]
    shared, agree = len(causal) > 1, bool(models) and all(row["agree"] for row in models.values())
    judgement = {"tests": {"second_model": shared}, "holds": {"second_model": shared, "universal": agree}}
    verdict = "generalises" if shared else "does_not_generalise"
    return judgement | {"verdict": verdict, "models": models, "causal": causal}
