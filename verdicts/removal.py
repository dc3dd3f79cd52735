"""The ablation's verdict: what removing the language, or all but Z, does to the answers."""

import verdicts

INTACT_MARGIN = 0.1  # a loss whose 95 % interval stays within this many problems in one counts as intact


def ablation(results: dict) -> dict:
    """ablation_helps | ablation_hurts | no_effect: the primary row against no edit, and against its nulls.

    With 19 draws of each null, being above them all has a chance of at most 1/20 for a subspace that is like the draws.
    """
    rows = {role: row for row in results["rows"] for role in row["roles"]}
    nulls = {role: [null for null in results["nulls"] if role in null["roles"]] for role in ("primary", "z_perp")}
    needed = verdicts.fewest_wins(99)
    can_rise, can_fall = results["room"] >= needed, results["solved"] >= needed
    tests = {
        "significant": rows["primary"]["p"] < verdicts.LEVEL,
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
