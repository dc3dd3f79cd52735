"""Phase 3b's verdict: whether a map between the languages inside Z is there, and whether it is more than a map anywhere."""

import verdicts

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
        "held_out": r2 > 0 and null["shuffled"][name]["p"] < verdicts.LEVEL,
        "beyond_shift": r2 > max(unlearned) and max(ps) < verdicts.LEVEL,
        "specific": max(null[kind][name]["p"] for kind in ("random", "matched")) < verdicts.LEVEL,
    }
    holds = tests | {
        "overfitting": results["in_sample_r2"]["ols"] - results["held_out_r2"]["ols"] < OVERFIT,
        "transfer": carries(move | {"map": name, "p_against": {control: p[name] for control, p in against.items()}}),
    }
    bridge = tests["held_out"] and tests["beyond_shift"]
    return {"verdict": "bridge" if bridge else "no_bridge", "tests": tests, "holds": holds}


def carries(transfer: dict) -> bool | None:
    """Whether mapped vectors carry the answer over more often than each control's do; None without pairs.

    transfer: `pairs`, `success` of the map and of every control, and `p_against` {control: p}; the map is `map`.
    """
    rate = transfer["success"]
    better = [
        rate[transfer["map"]] > rate[control] and p < verdicts.LEVEL for control, p in transfer["p_against"].items()
    ]
    return all(better) if transfer["pairs"] else None
