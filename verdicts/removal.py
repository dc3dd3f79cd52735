"""The ablation's verdict: what removing the language, or all but Z, does to the answers."""

import math

import verdicts

FACTOR = 1.5  # an edit that surely multiplies or divides the odds of the right answer by less has no effect to speak of
DAMAGE = 1.05  # so much more perplexing makes an edit the questions' text where it damages it
INTACT_MARGIN = 0.1  # a loss whose 95 % interval stays within this many problems in one counts as intact
UNTOLD = dict.fromkeys(("language", "reinjected", "z_perp"))


def ablation(results: dict) -> dict:
    """ablation_helps | ablation_hurts | no_effect | inconclusive | untestable: the primary row against no edit, and its null.

    Log-odds of the right answer decide, where the share of right answers does not contradict. `no_effect`: an effect of FACTOR
    is excluded; `inconclusive`: neither shown nor excluded; `untestable`: the model guesses or solves too little, or the odds
    rise and all answers are right already. To help it must do so beyond every null; what hurts may do so as random directions
    do, which `primary.specific` says.
    """
    needed, problems = verdicts.fewest_wins(99), results["problems"]
    judgement = {"needed": needed, "factor": FACTOR, "damage": DAMAGE, "asked": problems["test"]}
    judgement |= {"can_rise": problems["room"] >= needed, "can_fall": problems["solved"] >= needed}
    if not results["measured"]:
        tests = {"beyond guessing": results["guessing"]["p"] < verdicts.LEVEL, "enough solved": judgement["can_fall"]}
        return judgement | {"verdict": "untestable", "tests": tests, "holds": dict(UNTOLD), "effects": {}}
    rows = {role: row for row in results["rows"] for role in row["roles"]}
    beside = {null["role"]: null for null in results["nulls"]}
    found = {role: effect(rows[role], beside.get(role)) for role in ("primary", "complete", "z_perp", "z_perp_mean")}
    found["z_perp_mean"]["random_lose"] = random_lose(beside["z_perp_mean"])
    primary, moved = found["primary"], rows["primary"]["difference"]
    verdict = "inconclusive"
    if primary["within"] and rows["primary"]["p"] >= verdicts.LEVEL:
        verdict = "no_effect"
    elif primary["falls"] and moved <= 0:
        verdict = "ablation_hurts"
    elif primary["rises"] and primary["beyond_rise"] and moved >= 0:
        verdict = "ablation_helps" if judgement["can_rise"] else "untestable"
    tests = {
        "no edit and λ 0 are the same": rows["nothing"]["largest"] == 0,
        "odds surely rise": primary["rises"],
        "odds surely fall": primary["falls"],
        "change of odds surely below the factor": primary["within"],
        "more right answers (exact test)": rows["primary"]["p"] < verdicts.LEVEL and moved > 0,
        "fewer right answers (exact test)": rows["primary"]["p"] < verdicts.LEVEL and moved < 0,
        "rise beyond random directions": primary["beyond_rise"],
        "fall beyond random directions": primary["beyond_fall"],
        "plain text damaged": primary["text"],
    }
    return judgement | {
        "verdict": verdict,
        "tests": tests,
        "holds": held(rows, beside, verdict, judgement),
        "effects": found,
    }


def effect(row: dict, null: dict | None) -> dict[str, bool]:
    """What an edit surely does to the odds, whether random directions as large do the same, and whether it damages the text.

    To rise or fall surely it takes both the interval of the odds and their sign-flip test over problems: of few problems the
    interval alone is too narrow. `beyond_fall`: it falls further than random directions do; `text_specific`: it damages the
    text more than they do.
    """
    odds, text, size = row["odds"], row["text"], math.log(FACTOR)
    return {
        "rises": odds["low"] > 0 and odds["p"] < verdicts.LEVEL,
        "falls": odds["high"] < 0 and odds["p"] < verdicts.LEVEL,
        "intact": odds["low"] > -size,
        "within": -size < odds["low"] and odds["high"] < size,
        "beyond_rise": null is not None and beyond(null, null["odds"]["p"]),
        "beyond_fall": null is not None and beyond(null, null["p_fall"]),
        "text": text["low"] > 0 and text["value"] >= math.log(DAMAGE),
        "text_specific": null is not None and beyond(null, null["text"]["p"]),
    }


def beyond(null: dict, p: float) -> bool:
    """p below the level; where draws are too few for that, none of them reaches: a sentence says so, nothing is judged by it."""
    draws = null["odds"]["draws"]
    return p < verdicts.LEVEL or (1 / (1 + draws) >= verdicts.LEVEL and p * (1 + draws) < 1.5)


def random_lose(null: dict) -> bool:
    """Whether random subspaces lose the answer, in the middle of the draws: only there it is needed, and Z can be said to keep it."""
    return null["odds"]["middle"] <= -math.log(FACTOR)


def held(rows: dict, beside: dict, verdict: str, judgement: dict) -> dict:
    """The paper's two claims and ours about Z⊥; None where it is neither shown nor excluded, or cannot show.

    Ours is judged where Z⊥ is set to its language's mean at the last position: to remove it from the whole prompt takes the stream
    where it never is, and then the answer is lost whatever Z holds. Where random subspaces keep the answer as Z does, what is there
    is not needed, and ours is not tested.
    """
    language = None if verdict in ("untestable", "inconclusive") else verdict == "ablation_helps"
    if verdict == "no_effect" and not judgement["can_rise"]:
        language = None
    kept = above(exact(rows["reinjected"]["kept_difference_interval"], judgement["asked"]), -INTACT_MARGIN)
    if rows["primary"]["kept_difference_interval"][1] >= 0:  # removal alone changes no language: nothing to bring back
        kept = None
    mean, size = rows["z_perp_mean"], math.log(FACTOR)
    parts = (
        above((mean["odds"]["low"], mean["odds"]["high"]), -size),
        above(mean["difference_interval"], -INTACT_MARGIN),
    )
    intact = False if False in parts else None if None in parts else True
    null = beside["z_perp_mean"]
    if intact and not (random_lose(null) and beyond(null, null["odds"]["p"])):
        intact = None  # the answer stays, as with random subspaces
    return {"language": language, "reinjected": kept, "z_perp": intact}


def exact(interval: tuple[float, float], problems: int) -> tuple[float, float]:
    """An interval of a share's change; where no problem changed, down to what that many may hide (Clopper and Pearson 1934)."""
    return interval if interval != [0, 0] else (-(1 - 0.025 ** (1 / problems)), 0.0)


def above(interval: tuple[float, float], bound: float) -> bool | None:
    """Whether an interval lies above a bound, or below; None where it holds it."""
    low, high = interval
    return True if low >= bound else False if high < bound else None
