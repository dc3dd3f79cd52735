"""Phase 2's verdict: whether a subspace parts problem from language, with the offset and without it, and beyond the text."""

import verdicts

RECIPE_NULLS = ("haar", "matched", "pairing")  # the recipe's; `missing` is this suite's
CEILING = 0.99  # a curve that is as high at every site tells nothing


def phase2(results: dict) -> dict:
    """clear | partial | none; beside it `beyond_text`, of the primary Z: True, False, or None where it was not measured.

    clear: the primary configuration beats every null, raw and with the language means removed, and at every k the
    recipe's own nulls, those that keep the offset. (A smaller k leaves the rest of the same subspace outside, where it lowers
    the ratio alike: not even a planted Z stands out without the offset at a third of its size.) partial: some configuration of
    the grid beats all of them, after Holm. A row's `p` is the largest of its nulls' that gate: draws from the stream's own
    covariance do where they hold at most half of the distance between problems.
    """
    grid, energy, chance = results["grid"], results["primary"]["energy"], results["primary"]["k"] / results["width"]
    primary = [row for row in grid if row["primary"]]
    tests = {
        "primary_k": holds(results["primary"], "p"),
        "every_k": all(row["contrast"] < 1 and recipe_p(row) < verdicts.LEVEL for row in primary),
        "some_configuration": any(holds(row) for row in grid),
        "centred": below(results["primary"]["centred"]),
        "missing": below({"contrast": results["primary"]["contrast"], "p": results["primary"]["missing"]["p"]}),
        "beyond_text": beats_text(results["text"]),
    }
    clear = tests["primary_k"] and tests["every_k"]
    verdict = "clear" if clear else "partial" if tests["some_configuration"] else "none"
    best = min(primary, key=lambda row: row["centred"]["contrast"])
    claims = {
        "ratio": sum(holds(row) for row in grid) > len(grid) / 2,
        "primary": below(results["primary"]),
        "centred": tests["centred"],
        "beyond_text": tests["beyond_text"],
        "energy_cross": energy["cross_language"]["value"] < chance and energy["cross_language"]["p"] < verdicts.LEVEL,
        "energy_same": energy["same_language"]["value"] > chance and energy["same_language"]["p"] < verdicts.LEVEL,
        "multi": multi_head_wins(grid),
        "best_k": best["share"] == 1,
    }
    judgement = {"verdict": verdict, "beyond_text": tests["beyond_text"], "tests": tests, "holds": claims}
    judgement["depth_ceiling"] = ceilings(results["depth"])
    if "given" in results:
        judgement["given"] = results["given"] | {"holds": holds(results["given"], "p")}
    if "contingencies" in results:
        found = results["contingencies"]
        judged = {
            part: {name: row | {"holds": holds(row)} for name, row in found[part].items()}
            for part in ("candidates", "as_recipe")
        }
        judgement["contingencies"] = found | judged
    evidence, text = results["z"]["stands_on"], results["text_handed"] or results["text"]
    held = verdict == "clear" if evidence is None else holds(evidence)
    if "given" in results:
        held = judgement["given"]["holds"]
    return judgement | {"z": results["z"] | {"holds": held, "beyond_text": beats_text(text)}}


def holds(row: dict, p: str = "p_holm") -> bool:
    """Whether a subspace keeps the problem and drops the language beyond its nulls, with the offset and without it."""
    return below(row, p) and below(row["centred"], p)


def recipe_p(row: dict) -> float:
    """The largest p of the nulls that keep the offset, of those that gate."""
    return max(row[null]["p"] for null in RECIPE_NULLS if row[null].get("gates", True))


def below(row: dict, p: str = "p") -> bool:
    """Whether a contrast is below 1 beyond what its nulls reach."""
    return row["contrast"] < 1 and row[p] < verdicts.LEVEL


def beats_text(text: dict) -> bool | None:
    """Whether a subspace tells a text from its foil better than every baseline does; None where one was not measured."""
    if text["unmeasured"]:
        return None
    return all(row["difference"]["low"] > 0 for row in text["baselines"].values())


def ceilings(depth: dict) -> dict:
    """Which curves along depth are at their ceiling at every site: {reader: {space: bool}}."""
    return {
        key: {name: None not in curve and min(curve) >= CEILING for name, curve in depth[key].items()}
        for key in ("problem", "language", "answer")
    }


def multi_head_wins(grid: list[dict]) -> bool:
    """Whether the multi-head mask is at least as good as head 0: in the primary configuration and in most."""
    own = multi_at_least(grid, lambda row: row["primary"] and row["share"] == 1)
    every = multi_at_least(grid, lambda row: True)
    return all(own) and sum(every) > len(every) / 2


def multi_at_least(grid: list[dict], chosen) -> list[bool]:
    """For every chosen multi-head row whether its contrast is at most that of head 0 at the same place, pooling and k."""
    place = ("place", "pooling", "share")
    heads = {tuple(row[key] for key in place): row["contrast"] for row in grid if row["mask"] == "head0"}
    rows = [row for row in grid if row["mask"] == "multi" and chosen(row)]
    return [row["contrast"] <= heads[tuple(row[key] for key in place)] for row in rows]
