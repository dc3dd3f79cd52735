"""Phase 3b's verdict: whether a map between the languages inside Z is there, and whether it is more than a map anywhere."""

import verdicts
from verdicts.dissociation import all_of

OVERFIT = 0.1  # an in-sample R² this far above the held-out one is overfitting, whatever it is called
REACHED = 0.5  # what the target language's own vector must bring over before a map that brings nothing says anything
WORTH = 0.25  # of held-out R²: what a map has to add to what needs no matrix, to be worth having
MATRIXLESS = ("identity", "mean_shift")  # maps with nothing to learn, or a constant alone
SUBSPACES = ("haar", "matched")
KEPT = 0.5  # of the problems, that have no partner of their kind: of more, shuffles within kinds say nothing


def phase3b(results: dict) -> dict:
    """untestable | no_bridge | inconclusive | linear_but_unspecific | bridge, of the map named before looking.

    A map is there where it predicts answers that it has not seen beyond shuffled problems, and beyond a shift, scaled or not (by
    shrinking alone ridge beats a plain one). It is a bridge where it does so better than the words of the source, untrained
    twins of the model and other subspaces, and where partners of the same kind of problem do not do as well. `because`: the
    tests that it did not pass; `open_tests`: those of them that it does not surely fail either (`surely_failed`). Where only
    such tests stand between it and the next verdict, it is inconclusive: no_bridge excludes a map worth having.
    """
    if results["unmeasured"]:
        holds = dict.fromkeys(("held_out", "beyond_shift", "specific", "overfitting", "transfer"))
        return {"verdict": "untestable", "tests": {}, "because": [], "open_tests": [], "holds": holds}
    name, r2, move = results["settings"]["primary"], results["held_out_r2"], results["transfer"]
    there, special = there_tests(results, name), special_tests(results)
    tests = there | special
    because = [test for test, passed in tests.items() if not passed]
    left_open = [test for test in because if not surely_failed(test, tests[test], results)]
    is_there, is_special = (shown(part, left_open) for part in (there, special))
    verdict = {True: {True: "bridge", False: "linear_but_unspecific"}.get(is_special), False: "no_bridge"}.get(is_there)
    against = {control: p[name] for control, p in move["p_against"].items()}
    return {
        "verdict": verdict or "inconclusive",
        "tests": tests,
        "because": because,
        "open_tests": left_open,
        "holds": {test: None if test in left_open else passed for test, passed in there.items()}
        | {
            "specific": is_special if is_there else None,
            "overfitting": results["in_sample_r2"]["ols"] - r2["ols"] < OVERFIT,
            "transfer": carries(move | {"map": name, "p_against": against}),
        },
    }


def there_tests(results: dict, name: str) -> dict[str, bool]:
    """Whether the map predicts what it has not seen, and more than what needs no matrix."""
    r2, above = results["held_out_r2"][name], results["p_above"][name]
    return {
        "held_out": r2 > 0 and results["null"]["shuffled"][name]["p"] < verdicts.LEVEL,
        "beyond_shift": results["gain"][name] > 0 and max(above.values()) < verdicts.LEVEL,
    }


def special_tests(results: dict) -> dict[str, bool | None]:
    """Whether the map does better than the same kind of map elsewhere; None where there was nothing to compare it with."""
    words, kinds = results["words"], beyond_kinds(results["null"]["kinds"])
    return {
        "beyond_words": words["difference"]["value"] > 0 and words["p"] < verdicts.LEVEL,
        "beyond_twins": beats_twins(results["twins"]),
        "beyond_subspaces": all_of([beats(results["subspaces"][kind]) for kind in SUBSPACES]),
    } | ({} if kinds is None else {"beyond_kinds": kinds})


def surely_failed(test: str, passed: bool | None, results: dict) -> bool:
    """Whether a test that was not passed excludes what it asks for; False where that is neither shown nor excluded.

    A map is excluded where the upper end of its R²'s 95 % interval is less than WORTH above nothing; beyond a shift, above the
    lower end of what is sure of the languages as they are, or shifted. (The two intervals are of the same answers: their
    difference is wider than a paired one, which errs to the open side.) Words exclude it where they do as well. Against draws
    there is no interval: not to be beyond them is to be one of them.
    """
    if passed is None:
        return False
    if test == "beyond_words":
        return results["words"]["difference"]["value"] <= 0
    if test not in ("held_out", "beyond_shift"):
        return True
    sure = [results["interval"][name][0] for name in MATRIXLESS] if test == "beyond_shift" else []
    return results["interval"][results["settings"]["primary"]][1] - max([0.0, *sure]) < WORTH


def shown(tests: dict[str, bool | None], left_open: list[str]) -> bool | None:
    """Whether all of these tests are passed: True; False where one surely fails, None where neither is so."""
    return all_of([None if test in left_open else passed for test, passed in tests.items()])


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

    None without pairs, or with so few that the exact test could not see it if every one succeeded and no control did; where
    they do not and the target language's own vector hardly does either: then there is nothing to carry at this place;
    where they do no more than vectors that were not mapped, but these carry it: then there is nothing to learn; and where a
    success in REACHED of the swaps is not excluded. transfer: `pairs`, `success` of the map and of every control, its
    95 % `interval`, and `p_against` {control: p}; the map is `map`.
    """
    rate = transfer["success"]
    if not transfer["pairs"]:
        return None
    better = [
        rate[transfer["map"]] > rate[control] and p < verdicts.LEVEL for control, p in transfer["p_against"].items()
    ]
    if all(better):
        return True
    if rate["identity"] >= max(rate[transfer["map"]], REACHED) or too_few(transfer["pairs"]):
        return None
    sure = rate["own_language"] >= REACHED > transfer["interval"][transfer["map"]][1]
    return False if sure else None


def too_few(pairs: int) -> bool:
    """Whether the exact test is above its level even where one side wins every pair and the other none."""
    return verdicts.fewest_wins(pairs) is None
