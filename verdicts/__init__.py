"""What follows from the numbers: every script's verdict, its named tests, and which of the recipe's claims hold.

One plain function a script: saved results in, {"verdict", "tests": {name: bool}, "holds": {claim: bool or None}} out; None
where a claim cannot be tested here. It is called when results are saved and again whenever a report is rendered, so a changed
threshold costs no measurement. Constants that choose what is measured stand in the scripts; those that only judge, here.
"""

from verdicts.bridge import carries, phase3b
from verdicts.dissociation import (
    HALF_REACHED,
    HONEST,
    ILLUSORY,
    OPEN,
    RANKS,
    REACHED,
    TESTED,
    beats_layers,
    phase3,
    subspace,
)
from verdicts.finding import MOVES_SOME, NEAR, SAME_Z, TIERS, hunt
from verdicts.removal import ablation
from verdicts.separation import beats_text, phase2

__all__ = [
    "HALF_REACHED",
    "HONEST",
    "ILLUSORY",
    "OPEN",
    "RANKS",
    "REACHED",
    "TESTED",
    "beats_layers",
    "phase3",
    "subspace",
]
__all__ += ["MOVES_SOME", "NEAR", "SAME_Z", "TIERS", "ablation", "beats_text", "carries", "hunt", "phase2", "phase3b"]

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
    """Which of the recipe's claims about ranks and depth hold; None where that cannot be said here."""
    low, trends, opposite = results["bottleneck"], results["trends"], results["opposite"]
    attention = (*results["weight_types"]["attention"], "heads")
    ffn = [name for name in results["weight_types"]["ffn"] if name in trends]  # W_gate is not in every FFN
    cv, other_cv, found = low["cv"], low["cv_other_layers"], low["mean"] is not None
    near = found and low["layer"] == RECIPE["layer"] and abs(low["mean"] - RECIPE["rank"]) < RANK_TOLERANCE
    untold = (
        verdict == "no_bottleneck" and low["margin_null"] is None and low["inner_layers"] > 1
    )  # one KV group: no noise known
    return {
        "bottleneck_rank": recipes_model(results, near),
        "bottleneck_exists": None if untold else verdict == "clear_bottleneck",
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
    """Which of the recipe's claims about overlap and the FFN hold; None where that cannot be said here."""
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
