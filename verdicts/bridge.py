"""Phase 3b's verdict: whether a map between the languages inside Z is there, and whether it is more than a map anywhere."""

import verdicts

OVERFIT = 0.1  # an in-sample R² this far above the held-out one is overfitting, whatever it is called
REACHED = 0.5  # what the target language's own vector must bring over before a map that brings nothing says anything
SUBSPACES = ("haar", "matched")
KEPT = 0.5  # of the problems, that have no partner of their kind: of more, shuffles within kinds say nothing


def phase3b(results: dict) -> dict:
    """untestable | no_bridge | linear_but_unspecific | bridge, of the map named before looking.

    A map is there where it predicts answers that it has not seen beyond shuffled problems, and beyond a shift, scaled or not (by
    shrinking alone ridge beats a plain one). It is a bridge where it does so better than the words of the source, untrained
    twins of the model and other subspaces, and where partners of the same kind of problem do not do as well. `because`: the
    tests that it failed.
    """
    if results["unmeasured"]:
        holds = dict.fromkeys(("held_out", "beyond_shift", "specific", "overfitting", "transfer"))
        return {"verdict": "untestable", "tests": {}, "because": [], "holds": holds}
    name, r2 = results["settings"]["primary"], results["held_out_r2"]
    above, words = results["p_above"][name], results["words"]
    there = {
        "held_out": r2[name] > 0 and results["null"]["shuffled"][name]["p"] < verdicts.LEVEL,
        "beyond_shift": results["gain"][name] > 0 and max(above.values()) < verdicts.LEVEL,
    }
    special = {
        "beyond_words": words["difference"]["value"] > 0 and words["p"] < verdicts.LEVEL,
        "beyond_twins": beats_twins(results["twins"]),
        "beyond_subspaces": all(beats(results["subspaces"][kind]) for kind in SUBSPACES),
    }
    kinds = beyond_kinds(results["null"]["kinds"])
    special |= {} if kinds is None else {"beyond_kinds": kinds}
    found = "bridge" if all(special.values()) else "linear_but_unspecific"
    move = results["transfer"]
    against = {control: p[name] for control, p in move["p_against"].items()}
    specific = None
    if all(there.values()):
        specific = False if False in special.values() else None if None in special.values() else True
    return {
        "verdict": found if all(there.values()) else "no_bridge",
        "tests": there | special,
        "because": [test for test, passed in (there | special).items() if not passed],
        "holds": there
        | {
            "specific": specific,
            "overfitting": results["in_sample_r2"]["ols"] - r2["ols"] < OVERFIT,
            "transfer": carries(move | {"map": name, "p_against": against}),
        },
    }


def beats(null: dict | None) -> bool | None:
    """Whether the gain is beyond random draws; None where there is no room for any."""
    return None if null is None else null["p"] < verdicts.LEVEL


def beyond_kinds(null: dict | None) -> bool | None:
    """Whether the map predicts more than what kind a problem is; None with one kind, or too few problems of each."""
    return None if null is None or null["kept"] > KEPT else null["p"] < verdicts.LEVEL


def beats_twins(found: dict) -> bool | None:
    """Whether the gain is beyond twins of every kind; None where the model could not be made into any."""
    return None if found["unmeasured"] else all(row["p"] < verdicts.LEVEL for row in found["kinds"].values())


def carries(transfer: dict) -> bool | None:
    """Whether mapped vectors carry the answer over more often than each control's do.

    None without pairs, and where they do not and the target language's own vector hardly does either: then there is nothing to
    carry at this place; and where they do no more than vectors that were not mapped, but these carry it: then there is nothing
    to learn. transfer: `pairs`, `success` of the map and of every control, and `p_against` {control: p}; the map is
    `map`.
    """
    rate = transfer["success"]
    if not transfer["pairs"]:
        return None
    better = [
        rate[transfer["map"]] > rate[control] and p < verdicts.LEVEL for control, p in transfer["p_against"].items()
    ]
    if not all(better) and rate["identity"] >= max(rate[transfer["map"]], REACHED):
        return None
    return True if all(better) else False if rate["own_language"] >= REACHED else None
