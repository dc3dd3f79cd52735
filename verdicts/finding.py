"""The hunt's verdict, over what all scripts found in one model, and over several models."""

import verdicts
from verdicts.dissociation import CONTINGENCIES, left_open

NEAR = 1  # layers: the recipe speaks of L32 and L33 together, so prediction and cause agree within one
WAYS = {"clear": "yes", "double_dissociation": "yes", "partial": "partial", "inconclusive": "inconclusive"}
WAYS |= dict.fromkeys(("untestable", "answer_only", "language_only"), "untestable")  # all others: "no"
EXPLAINED = ("answer_word", "illusion", "inconclusive")  # verdicts of phase 3, and of the hunt if nothing is causal
# subspaces of math, tested unchanged on other problems
SAME_Z = ("weights", "weights_at_carrier", "handed", *CONTINGENCIES)
MOVES_SOME = ("double_dissociation", "partial", "language_removed", "inconclusive", *EXPLAINED[:2])
LEARNED = "learned"  # sought for its effect: no prediction confirms it, and the recipe's Z is not of this kind
TIERS = {  # the recipe's publishability list: each tier asks for the ones before it too
    "minimal": ("structure", "separation", "comparison"),
    "strong": ("causal", "second_model", "information"),
    "transformative": ("universal", "bridge", "not_just_math"),
}


def hunt(results: dict) -> dict:
    """causal_z | learned_only | answer_word | illusion | inconclusive | partial_z | correlational_z | no_z | untestable.

    causal_z: a Z from weights, from a contingency or from answer means is a double dissociation; learned_only: one that was
    learned by gradients alone is. The next three are phase 3's where neither is so. partial_z: the best Z moves some of the
    answer beyond its nulls and fails a test; correlational_z: one separates, beyond the offset and beyond the text;
    untestable: none does, and phase 3 could test nothing. Beside verdict, tests and holds: which way the tree went at each node
    of `path`, how the predicted and the causal layer lie (`layers`), which Z the verdict is about (`z`), the `tiers` of the
    recipe's list, and warnings: `offset_only`, `text_only`, `site_moves`. Of several models see `comparison`.
    """
    if "models" in results:
        return comparison(results)
    separation = next(node for node in results["path"] if node["node"] == "separation")
    patching = next(node for node in results["path"] if node["node"] == "patching")
    own, learned = dissociating(results["tasks"]["math"]["tested"])
    ranked = recipes_own(results["tasks"]["math"]["tested"])
    best = ranked[0] if ranked else None
    patched = best["verdict"] if best else "untestable"
    tests = {
        "separates": separation["verdict"] != "none",
        "named_separates": separation["primary_k"],
        "beyond_text": separation["beyond_text"],
        "handed_on_separates": patching["holds"],
        "handed_on_beyond_text": patching["beyond_text"],
        "causal": bool(own),
        "causal_learned": bool(learned),
        "moves_some": patched == "partial",
    }
    verdict = verdict_of(tests, patched)
    patching = of_the_verdict(patching, results["tasks"]["math"]["tested"], verdict)
    layers = results["layers"] | distance_of_layers(results["layers"])
    causal, place = next(iter(own + learned), None), results["weight_based"]["place"]
    holds = hunt_claims(results, layers, tests, ranked)
    *before, end = (node for node in results["path"] if node["node"] != "patching")
    path = [*before, patching, end]
    return {
        "verdict": verdict,
        "tests": tests,
        "holds": holds,
        "tiers": tiers(holds),
        "path": [node | {"taken": way(node, verdict)} for node in path],
        "layers": layers,
        "z": causal or (best or {}) | {"found_by": None},
        "offset_only": bool(separation["with_offset"]) and separation["centred"] is False,
        "text_only": tests["named_separates"] and separation["beyond_text"] is False,
        "site_moves": None if place is None else place == "joint",
    }


def of_the_verdict(node: dict, tested: list[dict], verdict: str) -> dict:
    """The first patching with the Z that the hunt is about there: the best of the recipe's kind, or the learned one alone."""
    rows = dissociating(tested)[1] if verdict == "learned_only" else recipes_own(tested)
    if not rows or node["row"] is None or node["row"]["name"] == rows[0]["name"]:
        return node
    return node | {"row": rows[0], "verdict": rows[0]["verdict"], "tests": rows[0]["tests"]}


def recipes_own(tested: list[dict]) -> list[dict]:
    """Every Z that was swapped on math and is of the recipe's kind, not learned for its effect; the best verdict first."""
    return sorted(
        (row for row in tested if row["name"] != LEARNED), key=lambda row: verdicts.RANKS.index(row["verdict"])
    )


def dissociating(tested: list[dict]) -> tuple[list[dict], list[dict]]:
    """The tested Zs that are double dissociations: all but the learned one, and that one."""
    found = [row for row in tested if row["verdict"] == "double_dissociation"]
    return [row for row in found if row["name"] != LEARNED], [row for row in found if row["name"] == LEARNED]


def verdict_of(tests: dict, patching: str) -> str:
    """The hunt's verdict: what acts comes before what separates. `patching`: phase 3's verdict on math."""
    separates = (
        tests["named_separates"] and tests["beyond_text"] is True
    )  # both of one Z: the named one, or that handed on
    separates = separates or (tests["handed_on_separates"] and tests["handed_on_beyond_text"] is True)
    if tests["causal"]:
        return "causal_z"
    if tests["causal_learned"]:
        return "learned_only"
    if patching in EXPLAINED:
        return patching
    if tests["moves_some"]:
        return "partial_z"
    if separates:
        return "correlational_z"
    return "untestable" if WAYS.get(patching) == "untestable" else "no_z"


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
    """The layer that the weights predict beside the one whose own Z is causal at its output, if the best one is.

    Weights that single out no layer predict none: nothing to agree with. Layers of the predicted window count as the
    prediction; `chance`: of a layer drawn at random to agree.
    """
    causal, window = found["causal"], found["window"] or [found["predicted"]]
    shown = causal is not None and causal["verdict"] == "double_dissociation"
    apart = [min(abs(layer - own) for own in window) for layer in range(found["layers"])]
    distance = apart[causal["layer"]] if shown else None
    return {
        "causal_found": shown,
        "causal_layer": causal["layer"] if shown else None,
        "distance": distance,
        "agree": None if distance is None or found["predicted_verdict"] == "no_bottleneck" else distance <= NEAR,
        "chance": sum(far <= NEAR for far in apart) / found["layers"],
    }


def hunt_claims(results: dict, layers: dict, tests: dict, swapped: list[dict]) -> dict:
    """The recipe's publishability list, ticked by what was measured. swapped: the Zs of the recipe's kind."""
    reports, tasks, bridge = results["reports"], results["tasks"], results["bridge"].get("math")
    again = [row for row in tasks.get("reasoning", {}).get("tested", []) if row["name"] in SAME_Z]
    separation = tests["beyond_text"] if tests["named_separates"] else False
    if tests["separates"] and not tests["named_separates"] and tests["handed_on_separates"]:
        separation = (
            False if tests["handed_on_beyond_text"] is False else None
        )  # another than the one named before looking
    return {
        "structure": reports["one"] == "clear_bottleneck" and reports["two"] == "ffn_avoids_attention",
        "separation": separation,
        "comparison": lower_everywhere(
            [results["rivals"], *(task["rivals"] for name, task in tasks.items() if name != "math")]
        ),
        "causal": True if tests["causal"] else dissociates(*swapped),
        "second_model": None,
        "information": None,  # decodability is no mutual information: shown, not judged
        "universal": layers["agree"],
        "bridge": bridged(bridge) if bridge else None,
        "not_just_math": dissociates(*again),
    }


def bridged(bridge: dict) -> bool | None:
    """Whether mapped vectors carry the answer, by a map that is a bridge; None where either is open, or no map is needed."""
    if bridge["verdict"] in ("untestable", "inconclusive"):
        return None
    carried = verdicts.carries(bridge)
    return carried if bridge["verdict"] == "bridge" or carried is None else False


def lower_everywhere(rivals: list[dict]) -> bool | None:
    """Whether the weights' contrast is surely below the centroids' on every kind of problem, or surely above on one."""
    found = [surely_lower(row["weight"]["centred"], row["centroid"]["centred"]) for row in rivals]
    return False if False in found else None if None in found else True


def surely_lower(row: dict, other: dict) -> bool | None:
    """Whether a contrast is surely below another; None where their intervals overlap."""
    if row["high"] < other["low"]:
        return True
    return False if row["low"] > other["high"] else None


def dissociates(*found: dict) -> bool | None:
    """Whether one of these swapped Zs is a double dissociation; None where none is and one is open, or all are untestable.

    Open is also one that is partial and surely fails no test.
    """
    ways = {"inconclusive" if left_open(row) else WAYS.get(row["verdict"], "no") for row in found}
    return True if "yes" in ways else None if "inconclusive" in ways or ways <= {"untestable"} else False


def tiers(holds: dict) -> dict:
    """Per tier of the list whether it is reached, with those before it: True, False, or None where nothing of it failed."""
    found, before = {}, []
    for name, claims in TIERS.items():
        before += [holds[claim] for claim in claims]
        found[name] = False if False in before else None if None in before else True
    return found


def comparison(results: dict) -> dict:
    """generalises | does_not_generalise | inconclusive | untestable: whether a causal Z is in more than one model.

    Folders with the same weights are one model, the first of them (`repeats`: {another: the first}). untestable: fewer than two
    models that phase 3 could tell anything about (`tested`); inconclusive: fewer than two of these in which a causal Z is
    either shown or excluded (`decided`). `where`: what the models say about "the weights predict where",
    by place: whether the stream carries both answer and language at the predicted layer's output, how often it does at an
    inner layer's that was measured (`chance`), and p, of as many models by chance.
    """
    models = {name: row | distance_of_layers(row) for name, row in results["models"].items()}
    repeats = same_weights(models)
    once = {name: row for name, row in models.items() if name not in repeats}
    causal = [name for name, row in once.items() if row["verdict"] == "causal_z"]
    tested = [name for name, row in once.items() if row["carriers"]["joint"]]
    decided = [name for name in tested if models[name]["dissociates"] is not None]
    shared = len(causal) > 1
    verdict = "generalises" if shared else "does_not_generalise" if len(decided) > 1 else "inconclusive"
    verdict = "untestable" if len(tested) < 2 else verdict
    where = {name: at_predicted_place(models[name]) for name in tested}
    reached = sum(row["carries_both"] for row in where.values())
    hits = at_least(reached, [row["chance"] for row in where.values()])
    holds = {"second_model": True if shared else False if len(decided) > 1 else None}
    holds |= {"universal": all_agree([row for row in once.values() if row["agree"] is not None])}
    sure = True if hits < verdicts.LEVEL else None  # that all do could be luck, that one does not is none
    predicted = [
        name for name in where if models[name]["predicted_verdict"] != "no_bottleneck"
    ]  # else nothing is predicted
    missed = [name for name in predicted if not where[name]["carries_both"]]
    holds["place"] = False if missed else sure if predicted and reached == len(where) else None
    found = {"models": models, "repeats": repeats, "causal": causal, "tested": tested, "decided": decided}
    found["where"] = {"models": where, "reached": reached, "p": hits}
    return {"verdict": verdict, "tests": {"second_model": shared}, "holds": holds} | found


def same_weights(models: dict[str, dict]) -> dict[str, str]:
    """{the name of a folder whose weights another before it has: that one's name}"""
    first, repeats = {}, {}
    for name, row in models.items():
        owner = first.setdefault(row["model"]["weights_hash"], name)
        repeats |= {} if owner == name else {name: owner}
    return repeats


def all_agree(rows: list[dict]) -> bool | None:
    """Whether the causal layer is the predicted one in all of these models, of two or more, and hardly by chance."""
    if not all(row["agree"] for row in rows):
        return False
    lucky = at_least(len(rows), [row["chance"] for row in rows])
    return True if len(rows) > 1 and lucky < verdicts.LEVEL else None


def at_predicted_place(row: dict) -> dict:
    """Whether the stream carries answer and language at the predicted layer's output, and at what share of inner layers'."""
    inner = [site for site in row["measured"] if 1 < site < row["layers"]]
    both = [site for site in inner if site in row["carriers"]["joint"]]
    return {"carries_both": row["weight_based"]["place"] == "joint", "chance": len(both) / max(1, len(inner))}


def at_least(count: int, chances: list[float]) -> float:
    """The probability of `count` or more successes among independent ones with these chances (Poisson binomial)."""
    found = [1.0]
    for chance in chances:
        found = [stay * (1 - chance) + come * chance for stay, come in zip([*found, 0.0], [0.0, *found])]
    return sum(found[count:])
