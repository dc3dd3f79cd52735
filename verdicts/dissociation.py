"""Phase 3's verdict: whether a tested subspace moves the answer and leaves the language, and what else could explain it."""

import verdicts

MOVES = 0.5  # of the full swap's effect: what a dissociation surely moves, and what is excluded where it is absent
KEEPS, KEEPS_SURELY = 0.8, 0.6  # of the full swap's language: what the complement keeps, and its lower bound
WIDE_SHARE = 1 / 8  # of the width, and
WIDE_RATIO = 1.5  # of the directions that the streams use: a subspace beyond both is no part of them
ONLY_WORD = 0.1  # T(F')/T(F), F' the swap outside of the output word's code: below, that code is all that acts
BESIDE_WORD = (
    0.5  # T(Z')/T(F'): what Z keeps of that; and below that part of Z's own coverage the word's code explains it
)
STILL = 0.2  # of what another operation moves: what another text with the same answer may move
HONEST, ILLUSORY = 0.8, 0.4  # h: among the model's own states Z keeps as much as the full swap does, or much less
REACHED, HALF_REACHED = 0.9, 0.5  # T(P_B F)/T(F): those states hold what acts; below, a small h says nothing
# A phase has the first of these among its subspaces' verdicts, and of subspaces that share it the first here is named.
RANKS = "double_dissociation answer_word illusion language_removed partial inconclusive none".split()
RANKS += "answer_only language_only untestable".split()
OPEN = ("inconclusive", "answer_only", "language_only", "untestable")  # verdicts that leave a claim open
CONTINGENCIES = ("centroid", "previous_layer", "sweep", "ard_mmd")  # the recipe's, in its order
TESTED = ("weights", "weights_at_carrier", "best_layer", "handed", *CONTINGENCIES, "answer_means", "learned")


def phase3(results: dict) -> dict:
    """The verdict of every tested subspace, in `tested`, and of the phase: the one that ranks first among them (RANKS).

    untestable: no rung is solved, or no site carries both answer and language. `decided_by`: the subspace it is about. Every
    subspace has `failed`, the tests that it surely fails, and `open_tests`, those that it neither passes nor surely fails: one
    that is `partial` and fails none is neither shown to be a dissociation nor shown to be none, and the claims say so.
    """
    tested = {name: row | told_apart(row, results) for name, row in results["tested"].items()}
    ranked = sorted(tested, key=lambda name: (RANKS.index(tested[name]["verdict"]), TESTED.index(name)))
    decided = ranked[0] if results["carriers"]["joint"] else None
    verdict = tested[decided]["verdict"] if decided else "untestable"
    tests = tested[decided]["tests"] if decided else {}
    holds = dict.fromkeys(("z", "z_perp", "weights"))
    if verdict not in OPEN:
        holds["z"], holds["z_perp"] = moves_both(tested[decided])
    weights = tested.get("weights", {"verdict": "untestable"})
    if weights["verdict"] not in OPEN and not left_open(weights):
        holds["weights"] = weights["verdict"] == "double_dissociation"
    judged = {"verdict": verdict, "decided_by": decided, "tested": tested, "tests": tests, "holds": holds}
    return judged | {"reasoning": reasoning(tested[decided] if decided else {}, verdict)}


def told_apart(row: dict, results: dict) -> dict:
    """A tested subspace's verdict and tests, and of those that it did not pass those that it surely fails, and the open ones."""
    tests = subspace_tests(row, results)
    missed = [test for test, passed in tests.items() if not passed]
    still_open = [test for test in missed if tests[test] is None or may_pass(test, row)]
    failed = [test for test in missed if test not in still_open]
    return {"verdict": subspace(row, results), "tests": tests, "failed": failed, "open_tests": still_open}


def left_open(row: dict) -> bool:
    """Whether a subspace's verdict is no dissociation only because tests are open that it does not surely fail."""
    return row["verdict"] == "partial" and not row["failed"]


def may_pass(test: str, row: dict) -> bool:
    """Whether the 95 % interval of what a failed test measures still reaches what is asked for.

    Against draws there is no interval: not to be beyond them is to fail. What lies between an illusion and the model's own
    states may be a copy of a code that is used: the two are not told apart.
    """
    word, h = (row.get("gates") or {}).get("word"), manifold(row)[1]
    reached = {
        "beats random subspaces": (row["coverage"]["high"], MOVES),
        "moves the answer": (row["coverage"]["high"], MOVES),
        "its complement keeps the language": (row["complement_language"]["high"], KEEPS),
        "acts among the model's own states": (h, ILLUSORY),
    }
    stays = {"leaves the language": "leak", "its complement leaves the answer": "complement_transfer"}
    if test in stays:
        return not at_least(row[stays[test]]["low"], MOVES)
    if test == "wins with the donor's answer":
        return wins_beyond(row) and row["iia_cross"]["high"] >= MOVES * row["full_iia_same"]["value"]
    if test == "is not the output word's code":
        return at_least(word["full"]["high"], ONLY_WORD) and at_least(word["z"]["high"], BESIDE_WORD)
    if test == "beats other layers' weights":
        null = row["nulls"]["layers"]
        return ranks_first(null) and null["outlier_p"] is None  # too few to lie apart from
    if test == "beats a search for other answers":
        return at_least(row["control"]["d_gain"]["high"], 0.0)
    return test in reached and at_least(*reached[test])


def at_least(value: float | None, bound: float | None) -> bool:
    """Whether a value reaches a bound; what could not be measured may."""
    return None in (value, bound) or value >= bound


def wins_beyond(row: dict) -> bool:
    """Whether the donor's answer wins across languages more often, beside the full swap, than after every null that decides."""
    deciding = [null for name, null in row["nulls"].items() if null["gates"] and name != "layers"]
    return max(null["iia_cross_gain"]["p"] for null in deciding) < verdicts.LEVEL


def reasoning(row: dict, verdict: str) -> dict[str, bool | None]:
    """Whether the word may be `said` of a Z: it dissociates, another format carries it, and contrast donors behave.

    format: recipients asked for their answers in another format take the donor's from Z, of donors asked in words; True where
    they do so in one format at least. None where it was not asked, or neither shown nor excluded.
    """
    found = row.get("reasoning")
    in_formats = {carries_over(form, row) for form in found["formats"]} if found else set()
    form = True if True in in_formats else False if False in in_formats else None
    contrast = contrasts_behave(found["contrast"]) if found else None
    return {"format": form, "contrast": contrast, "said": verdict == "double_dissociation" and form is contrast is True}


def carries_over(form: dict, row: dict) -> bool | None:
    """Whether Z moves answers in another format nearly as it moves them in words, also outside of both ways' words.

    None where even a full swap of donors asked in that format does not, or where less than half of a full swap's effect is
    left outside of these: before it writes, a model may hold a number's ways of writing in much the same directions.
    """
    if form["unmeasured"] or form["full_wins"]["value"] < MOVES:
        return None
    needed = BESIDE_WORD * min(1.0, row["coverage"]["value"])
    inside, outside = moves_enough(form, needed), moves_enough(form["outside"], needed)
    if form["outside"]["full"]["value"] < MOVES:
        outside = None
    if inside and form["wins"]["value"] < needed * form["full_wins"]["value"]:
        inside = False if form["wins"]["high"] < needed * form["full_wins"]["value"] else None
    return all_of([inside, outside])


def moves_enough(found: dict, needed: float) -> bool | None:
    """Whether a share surely reaches what is needed, beyond random subspaces; None where neither that nor the reverse is sure."""
    if found["z"]["value"] is None:
        return None
    if found["haar"]["p"] >= verdicts.LEVEL or found["z"]["high"] < needed:
        return False
    return True if found["z"]["low"] >= needed else None


def contrasts_behave(found: dict) -> bool | None:
    """Whether another operation on the same numbers moves the answer, and another text with the same answer does nothing.

    None where even the full swap does not behave so.
    """
    if found["unmeasured"]:
        return None
    other, same = found["operation"], found["same_answer"]
    if other["full_wins"]["value"] < MOVES or same["full_kept"]["value"] < KEEPS:
        return None
    moves, wins = moves_enough(other, MOVES), other["wins"]["value"] >= MOVES * other["full_wins"]["value"]
    if moves and not wins:
        moves = False if other["wins"]["high"] < MOVES * other["full_wins"]["value"] else None
    kept, still = KEEPS * same["full_kept"]["value"], max(STILL, abs(same["full_moved"]["value"]))
    inert = same["kept"]["value"] >= kept and abs(same["moved"]["value"]) <= still
    if not inert:
        inert = False if same["kept"]["high"] < kept or same["moved"]["low"] > still else None
    return all_of([moves, inert])


def subspace(row: dict, results: dict) -> str:
    """A tested subspace's verdict, by the first rule that applies."""
    if row.get("place", "none") != "joint" or "unmeasured" in row:
        return {"answer": "answer_only", "language": "language_only"}.get(row.get("place"), "untestable")
    if row["d"]["value"] is None:
        return "untestable"
    tests = subspace_tests(row, results)
    if not tests["beats random subspaces"]:
        return "none" if row["coverage"]["high"] < MOVES else "inconclusive"
    if not tests["is no larger than the streams' own size"]:
        return "language_removed"
    return explained(row) or ("double_dissociation" if all(tests.values()) else "partial")


def explained(row: dict) -> str | None:
    """answer_word | illusion | None: what explains the effect of a subspace that beats its nulls, in this order."""
    gates = row.get("gates")
    if gates is None:
        return None
    rest, beside = gates["word"]["full"]["value"], gates["word"]["z"]["value"]
    covered = min(1.0, row["coverage"]["value"])  # a Z of little effect keeps little, of whatever kind it is
    if rest is not None and (rest < ONLY_WORD or (beside is not None and beside < BESIDE_WORD * covered)):
        return "answer_word"
    reached, h = manifold(row)
    if reached is not None and h is not None and reached >= REACHED and h <= ILLUSORY:
        return "illusion"
    return None


def manifold(row: dict) -> tuple[float | None, float | None]:
    """T(P_B F)/T(F), and h; None where the model's own states could not be told."""
    found = (row.get("gates") or {}).get("manifold")
    return (found["full"]["value"], found["h"]["value"]) if found else (None, None)


def subspace_tests(row: dict, results: dict) -> dict[str, bool | None]:
    """What a double dissociation needs of a measured subspace, None where it was not asked; nothing where nothing was."""
    if "unmeasured" in row or row["p_holm"] is None:
        return {}
    language = row["complement_language"]
    wide = max(WIDE_SHARE * results["width"], WIDE_RATIO * row["participation"])
    wins = row["iia_cross"]["value"] >= MOVES * row["full_iia_same"]["value"]
    tests = {
        "beats random subspaces": row["p_holm"] < verdicts.LEVEL,
        "is no larger than the streams' own size": row["k"] <= wide,
        "moves the answer": row["coverage"]["low"] >= MOVES,
        "wins with the donor's answer": wins and wins_beyond(row),
        "leaves the language": row["leak"]["high"] < MOVES,
        "its complement leaves the answer": row["complement_transfer"]["high"] < MOVES,
        "its complement keeps the language": language["value"] >= KEEPS and language["low"] >= KEEPS_SURELY,
        "is not the output word's code": holds_beside_word(row),
        "acts among the model's own states": holds_among_states(row),
    }
    if row["method"] == "weight" or "layers" in row["nulls"]:
        tests["beats other layers' weights"] = (
            beats_layers(row["nulls"]["layers"]) if "layers" in row["nulls"] else None
        )
    if "control" in row:
        tests["beats a search for other answers"] = (row["control"]["d_gain"]["low"] or 0.0) > 0
    return tests


def beats_layers(null: dict) -> bool:
    """Whether a layer's D is above all others' (or all but few), and lies apart: in eight layers one always comes first."""
    return ranks_first(null) and null["outlier_p"] is not None and null["outlier_p"] < verdicts.LEVEL


def ranks_first(null: dict) -> bool:
    """Whether a layer's D is above all others', or all but few of many."""
    return null["p"] < verdicts.LEVEL or null["p"] * (1 + null["draws"]) < 1.5


def holds_beside_word(row: dict) -> bool | None:
    """Whether Z keeps half of what the stream moves outside of the output word's code, where that is not nothing."""
    if not row.get("gates"):
        return None
    rest, beside = (row["gates"]["word"][name]["value"] for name in ("full", "z"))
    return rest is not None and rest >= ONLY_WORD and beside is not None and beside >= BESIDE_WORD


def holds_among_states(row: dict) -> bool | None:
    """Whether Z's effect lies among the states that the model visits as much as the full swap's does."""
    reached, h = manifold(row)
    if reached is None or reached < HALF_REACHED:
        return None
    sought = row["gates"]["manifold"]["by_construction"]
    return True if sought else None if h is None or (h < HONEST and reached < REACHED) else h >= HONEST


def moves_both(row: dict) -> tuple[bool | None, bool | None]:
    """Whether Z moves the answer and not the language, and Z⊥ the language and not the answer, neither explained otherwise.

    None where neither that nor the reverse is sure.
    """
    tests = {test: None if test in row["open_tests"] else passed for test, passed in row["tests"].items()}
    special = [not explained(row), tests["beats random subspaces"], tests["is no larger than the streams' own size"]]
    own = [tests["moves the answer"], tests["leaves the language"]]
    rest = [tests["its complement keeps the language"], tests["its complement leaves the answer"]]
    return all_of([*special, *own]), all_of([*special, *rest])


def all_of(found: list[bool | None]) -> bool | None:
    """False where one is, else None where one is, else True."""
    return False if False in found else None if None in found else True
