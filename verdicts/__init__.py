"""What follows from the numbers: every script's verdict, its named tests, and which of the recipe's claims hold.

One plain function a script: saved results in, {"verdict", "tests": {name: bool}, "holds": {claim: bool or None}} out; None
where a claim cannot be tested here. It is called when results are saved and again whenever a report is rendered, so a changed
threshold costs no measurement. Constants that choose what is measured stand in the scripts; those that only judge, here.
"""

from verdicts.dissociation import HALF_REACHED, HONEST, ILLUSORY, OPEN, REACHED, TESTED, beats_layers, phase3, subspace
from verdicts.separation import beats_text, phase2

__all__ = ["HALF_REACHED", "HONEST", "ILLUSORY", "OPEN", "REACHED", "TESTED", "beats_layers", "phase3", "subspace"]
__all__ += ["beats_text", "phase2"]

LEVEL = 0.05
RECIPE = {  # what the recipe recorded on Qwen2.5-3B, and asks for
    "layers": 36,
    "layer": 33,
    "rank": 80.4,  # mean effective rank of the heads' kernels there; sd over heads; and the rank that its text names
    "rank_sd": 6.0,
    "rank_claimed": 78,
    "head_cv": 0.08,  # bound on the heads' coefficient of variation there
    "phases": [1, 33, 2],
    "middle": 0.92,  # share of layers between the encode and the decode boundary
    "value_rank": 250,
    "value_cv": 0.02,  # of W_V's rank over layers
    "ffn_energy": 0.0056,  # of W_gate in the heads' subspaces, by chance, their ratio, and the sd over heads
    "ffn_chance": 0.0098,
    "ffn_over_chance": 0.57,
    "ffn_sd": 0.0001,
    "approach": 0.482,  # similarity of the bottleneck to the layer before it, and how many times that of any other pair
    "pair_ratio": 2,
    "chinese_ahead": 3,  # problems by which Chinese leads: strong behavioural evidence
    "equal_within": 1,  # problems by which English may lead before it counts
    "strongest_k": 78,  # Z's size, of 20, 50 and 78, that it calls strongest
    "map_parameters": 6084,  # of a k × k map inside Z, k = 78
    "map_pairs": 20,
}


SUPPORT_NEEDED = 0.95  # share of bootstrap resamples that must pick the bottleneck, or one of its layers


def recipes_model(results: dict, holds: bool) -> bool | None:
    """A claim about Qwen2.5-3B's own numbers: None for any other model."""
    return holds if results["is_qwen25_3b"] else None


RANK_TOLERANCE = 3  # of the mean effective rank, half of the heads' spread
SHARE_ROUNDING = 0.005  # the recipe's shares have two decimals


def one(results: dict) -> dict:
    """clear_bottleneck | weak_bottleneck | no_bottleneck, of the inner layers; `because`: the failed tests that decided."""
    low = results["bottleneck"]
    null, of_groups = low["margin_null"], low["support_groups"]
    needed = {
        "there is an inner layer": low["inner_layers"] > 0,
        "margin beyond equal layers": null is not None and null["p"] < LEVEL,
        "lower than both neighbours": all(beside["mean"] > (low["window_highest"] or 0) for beside in low["beside"]),
    }
    agreed = {
        "head resamples agree": low["support"] >= SUPPORT_NEEDED,
        "KV-group resamples agree": of_groups is not None and of_groups >= SUPPORT_NEEDED,
    }
    verdict, deciding = "no_bottleneck", needed
    if all(needed.values()):
        verdict, deciding = "clear_bottleneck" if all(agreed.values()) else "weak_bottleneck", agreed
    because = [name for name, passed in deciding.items() if not passed]
    judgement = {"verdict": verdict, "tests": needed | agreed, "because": because}
    return judgement | {"holds": one_holds(results, verdict)}


def one_holds(results: dict, verdict: str) -> dict:
    low, trends, opposite = results["bottleneck"], results["trends"], results["opposite"]
    attention = (*results["weight_types"]["attention"], "heads")
    ffn = [name for name in results["weight_types"]["ffn"] if name in trends]  # W_gate is not in every FFN
    cv, other_cv, found = low["cv"], low["cv_other_layers"], low["mean"] is not None
    near = found and low["layer"] == RECIPE["layer"] and abs(low["mean"] - RECIPE["rank"]) < RANK_TOLERANCE
    return {
        "bottleneck_rank": recipes_model(results, near),
        "bottleneck_exists": verdict == "clear_bottleneck",
        "heads_agree": found and cv < RECIPE["head_cv"] and other_cv is not None and cv < other_cv,
        "phases": recipes_model(results, results["phases"] == RECIPE["phases"]),
        "middle": results["phases"][1] / results["shape"]["layers"] >= RECIPE["middle"] - SHARE_ROUNDING,
        "attention_falls": all(trends[name]["steps_down"] == 1 for name in attention),
        "ffn_rises": all(trends[name]["steps_up"] == 1 for name in ffn),
        "opposite_trends": None
        if opposite["attention"] < 0 < opposite["ffn"]
        else False,  # no p allows for drift over depth
        "value_constant": trends["W_V"]["cv"] < RECIPE["value_cv"] + SHARE_ROUNDING,
    }


RATIO_TOLERANCE = 0.03  # of the FFN's alignment in multiples of chance
ORTHOGONAL = 0.1  # below a tenth of chance the word "orthogonal" is fair; exact orthogonality would be 0


def two(results: dict) -> dict:
    """ffn_avoids_attention | ffn_at_chance | ffn_shares_attention: what the FFN reads at the bottleneck, two-sided."""
    haar = haar_at_bottleneck(results, "reading", results["ffn"]["judged"])
    tests = {"below Haar subspaces": haar["p_low"] < LEVEL / 2, "above Haar subspaces": haar["p_high"] < LEVEL / 2}
    below, above = tests.values()
    verdict = "ffn_avoids_attention" if below else "ffn_shares_attention" if above else "ffn_at_chance"
    return {"verdict": verdict, "tests": tests, "holds": two_holds(results, verdict)}


def haar_at_bottleneck(results: dict, side: str, matrix: str) -> dict:
    """The null of what a matrix reads, or writes, of the heads' subspaces at the bottleneck."""
    return results["ffn"][side][matrix]["haar"][results["settings"]["layer"]]


def two_holds(results: dict, verdict: str) -> dict:
    layer, over = results["settings"]["layer"], results["ffn_alignment_over_chance"]
    approach, other = results["approach"], results["best_other_pair"]
    across = results["heads"]["across_groups"]  # all None with a single KV group
    near = layer == RECIPE["layer"] and abs(over[layer] - RECIPE["ffn_over_chance"]) < RATIO_TOLERANCE
    paired = approach is not None and other is not None
    written = results["ffn"]["writing"]["W_down"]["energy"][layer] / results["chance"]
    return {
        "ffn_below_chance": verdict == "ffn_avoids_attention",
        "ffn_value": recipes_model(results, near),
        "ffn_special": over.index(min(over)) == layer and over[layer] < 1,
        "ffn_writes_below_chance": haar_at_bottleneck(results, "writing", "W_down")["p_low"] < LEVEL / 2,
        "attention_writes_above_chance": haar_at_bottleneck(results, "writing", "W_O")["p_high"] < LEVEL / 2,
        "ffn_orthogonal": max(over[layer], written) < ORTHOGONAL,
        "ffn_spread": None,  # a small spread over heads does not show it: heads of a KV group share W_K
        "approach": paired and approach >= RECIPE["pair_ratio"] * other["similarity"],
        "snap": results["snap"] == [layer, layer + 1],
        "heads_converge": None if across[layer] is None else across[layer] >= max(across),
    }


COVERED = 1.0  # tokens per character above which a tokenizer falls back to bytes in a language
NO_ROOM = 0.05  # share of problems: with both accuracies within it of 1, or of 0, an asymmetry can hardly show


def phase0(results: dict) -> dict:
    """<candidate>_advantage | <reference>_advantage | no_asymmetry | untestable.

    untestable: both languages are at the ceiling or at the floor (`no_room` says which), and the exact test sees no difference
    all the same. `one_problem_away` holds the verdicts that one answer more or less right would give.
    """
    coverage, smallest = results["identity"]["coverage"], fewest_wins(results["n"])
    judgement = who_leads(results, results)
    tests, untestable = judgement["tests"], judgement["verdict"] == "untestable" or smallest is None
    judgement |= {
        "holds": {"behaviour": None if untestable else tests["candidate leads"] and tests["significant"]},
        "one_problem_away": one_problem_away(results, judgement["verdict"]),
        "smallest_significant": smallest,
        "p_of_advantage": p_of_wins(RECIPE["chinese_ahead"]),
        "covered": {
            language: cover["tokens_per_character"] <= COVERED and cover["round_trips"] == 1
            for language, cover in coverage.items()
        },
    }
    if "contingency" in results:  # the problems without exemplars
        again = results["contingency"] | who_leads(results, results["contingency"])
        judgement["contingency"] = again | {"survives": again["tests"]["reference leads"]}
    return judgement


def who_leads(results: dict, answers: dict) -> dict:
    """Verdict, tests and `no_room` of the answers with exemplars (the results themselves), or of those without."""
    right = {who: answers["right"][language] for who, language in results["compared"].items()}
    difference = right["candidate"] - right["reference"]
    tests = {
        "candidate leads": difference >= RECIPE["chinese_ahead"],
        "reference leads": difference < -RECIPE["equal_within"],
        "significant": answers["mcnemar_p"] < LEVEL,
    }
    shares = [count / answers["n"] for count in right.values()]
    no_room = "ceiling" if min(shares) > 1 - NO_ROOM else "floor" if max(shares) < NO_ROOM else None
    names = {who: results["names"][language].lower() for who, language in results["compared"].items()}
    leaders = [names[who] for who in names if tests[f"{who} leads"]]
    verdict = f"{leaders[0]}_advantage" if leaders else "no_asymmetry"
    if no_room and not tests["significant"]:
        verdict = "untestable"
    return {"verdict": verdict, "tests": tests, "no_room": no_room}


def one_problem_away(results: dict, verdict: str) -> list[str]:
    """Other verdicts that one answer more or less right in one of the two languages would give, the exact test aside."""
    found, right = set(), results["right"]
    for language in results["compared"].values():
        for count in (right[language] - 1, right[language] + 1):
            if 0 <= count <= results["n"]:
                found.add(who_leads(results, results | {"right": right | {language: count}})["verdict"])
    return sorted(found - {verdict})


def p_of_wins(wins: int) -> float:
    """Exact two-sided McNemar p where one side wins that many problems and the other none."""
    return min(1.0, 2 * 0.5**wins)


def fewest_wins(most: int) -> int | None:
    """Fewest problems that one side must win, the other winning none, before the exact test sees it; None beyond `most`."""
    return next((wins for wins in range(1, most + 1) if p_of_wins(wins) < LEVEL), None)


OVERFIT = 0.1  # an in-sample R² this far above the held-out one is overfitting, whatever it is called


def phase3b(results: dict) -> dict:
    """bridge | no_bridge: whether the primary map predicts held-out problems, and does so beyond a shift, scaled or not.

    The scaled shift is there because ridge can beat the mean shift by shrinking alone.
    """
    name, null, move = results["settings"]["primary"], results["null"], results["transfer"]
    r2 = results["held_out_r2"][name]
    unlearned = results["held_out_r2"]["mean_shift"], results["scaled_shift_r2"]
    ps = results["p_above_mean_shift"][name], results["p_above_scaled_shift"][name]
    against = move["p_against"]
    tests = {
        "held_out": r2 > 0 and null["shuffled"][name]["p"] < LEVEL,
        "beyond_shift": r2 > max(unlearned) and max(ps) < LEVEL,
        "specific": max(null[kind][name]["p"] for kind in ("random", "matched")) < LEVEL,
    }
    holds = tests | {
        "overfitting": results["in_sample_r2"]["ols"] - results["held_out_r2"]["ols"] < OVERFIT,
        "transfer": carries(move | {"map": name, "p_against": {control: p[name] for control, p in against.items()}}),
    }
    bridge = tests["held_out"] and tests["beyond_shift"]
    return {"verdict": "bridge" if bridge else "no_bridge", "tests": tests, "holds": holds}


INTACT_MARGIN = 0.1  # a loss whose 95 % interval stays within this many problems in one counts as intact


def ablation(results: dict) -> dict:
    """ablation_helps | ablation_hurts | no_effect: the primary row against no edit, and against its nulls.

    With 19 draws of each null, being above them all has a chance of at most 1/20 for a subspace that is like the draws.
    """
    rows = {role: row for row in results["rows"] for role in row["roles"]}
    nulls = {role: [null for null in results["nulls"] if role in null["roles"]] for role in ("primary", "z_perp")}
    needed = fewest_wins(99)
    can_rise, can_fall = results["room"] >= needed, results["solved"] >= needed
    tests = {
        "significant": rows["primary"]["p"] < LEVEL,
        "falls": rows["primary"]["difference"] < 0,
        "above every draw": not any(null["reached"] for null in nulls["primary"]),
    }
    verdict = "no_effect"
    if tests["significant"] and tests["falls"]:
        verdict = "ablation_hurts"
    elif tests["significant"] and tests["above every draw"]:
        verdict = "ablation_helps"
    kept = rows["reinjected"]["kept_difference_interval"][0] >= -INTACT_MARGIN
    intact = rows["z_perp"]["difference_interval"][0] >= -INTACT_MARGIN
    intact = intact and not any(null["reached"] for null in nulls["z_perp"])
    untestable = results["solved"] == 0 or (verdict == "no_effect" and not can_rise)
    holds = {"language": None if untestable else verdict == "ablation_helps"}
    if not can_fall:  # with too little to lose, intact would say nothing
        kept = intact = None
    holds |= {"reinjected": kept, "z_perp": intact}
    reached = {"needed": needed, "can_rise": can_rise, "can_fall": can_fall}
    return {"verdict": verdict, "tests": tests, "holds": holds} | reached


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
    again = [row for row in again if (1 + len(others)) * row["p"] < LEVEL]  # Bonferroni over the contingencies patched
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
        "bridge": carries(bridge) if bridge else None,
        "not_just_math": dissociates(again),
    }


def dissociates(verdicts: list[str]) -> bool | None:
    """Whether one of a Z's verdicts is a double dissociation; None where none is and one is open, or all are untestable."""
    ways = {WAYS.get(verdict, "no") for verdict in verdicts}
    return True if "yes" in ways else None if "inconclusive" in ways or ways <= {"untestable"} else False


def carries(transfer: dict) -> bool | None:
    """Whether mapped vectors carry the answer over more often than each control's do; None without pairs.

    transfer: `pairs`, `success` of the map and of every control, and `p_against` {control: p}; the map is `map`.
    """
    rate = transfer["success"]
    better = [rate[transfer["map"]] > rate[control] and p < LEVEL for control, p in transfer["p_against"].items()]
    return all(better) if transfer["pairs"] else None


def comparison(results: dict) -> dict:
    """generalises | does_not_generalise: whether a causal Z was found in more than one model."""
    models = {name: row | distance_of_layers(row) for name, row in results["models"].items()}
    causal = [name for name, row in models.items() if row["verdict"] == "causal_z"]
    shared, agree = len(causal) > 1, bool(models) and all(row["agree"] for row in models.values())
    judgement = {"tests": {"second_model": shared}, "holds": {"second_model": shared, "universal": agree}}
    verdict = "generalises" if shared else "does_not_generalise"
    return judgement | {"verdict": verdict, "models": models, "causal": causal}
