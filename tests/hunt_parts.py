"""What the hunt reads of the scripts' results, made by hand: parts of a hunt whose answer is known."""

from verdicts.dissociation import RANKS

LAYERS = 8  # of the model that they are said to be of
DISSOCIATES = {"verdict": "double_dissociation"}
UNTESTABLE = {"no_rung": {"rung": None}, "no_joint_carrier": {"joint": ()}}
TESTS = {"moves the answer": False, "leaves the language": True, "its complement keeps the language": None}
SITES = (0, 1, 2, 3, 5, 8)  # that the full swap was measured at


def record(value: float | None, spread: float = 0.1) -> dict:
    """A measure as phase 3 saves it."""
    ends = (None, None) if value is None else (round(value - spread, 4), round(value + spread, 4))
    return dict(zip(("value", "low", "high"), (value, *ends)))


def null(middle: float = 0.0, p: float = 0.0083, **more) -> dict:
    return {"draws": 120, "low": middle - 0.1, "middle": middle, "high": middle + 0.1, "p": p} | more


def swapped(verdict: str = "none", method: str = "weight", layer: int | None = 1, site: int = 2, **changes) -> dict:
    """A Z that phase 3 tested."""
    row = {"method": method, "layer": layer, "site": site, "k": 3, "place": "joint", "judged_on": "test"}
    row |= {"coverage": record(0.8), "d": record(1.6), "iia_cross": record(0.7), "full_iia_cross": record(0.75)}
    row |= {"leak": record(0.05), "complement_transfer": record(0.1), "complement_language": record(0.95)}
    haar = null(0.02, coverage=0.05, gates=True) | {"low": -0.1, "high": 0.1}
    row |= {"nulls": {"haar": haar}, "p": 0.0083, "p_holm": 0.02}
    word, states = {"full": record(0.05), "z": record(None)}, {"full": record(1.0), "h": record(1.0)}
    row |= {"drawn": {"d": 1.5}, "full_iia_same": record(0.9), "within_share": 0.7}
    row |= {"gates": {"word": word, "manifold": states}}
    return row | {"verdict": verdict, "failed": ["moves the answer"], "open_tests": []} | {"tests": TESTS} | changes


def unmeasured(row: dict, place: str) -> dict:
    """The same where a place carries not both: nothing can be said of a share, and no null was drawn."""
    nothing = dict.fromkeys(("coverage", "leak", "complement_transfer", "complement_language", "d"), record(None))
    nothing |= {"drawn": None, "gates": None}
    return row | nothing | {"place": place, "nulls": {}, "p": None, "p_holm": None}


def patched(rung: str | None = "words", joint: tuple = (2, 3), **tested: dict) -> dict:
    """Phase 3's results: the verdict of the Z that ranks first, by its name; without a rung or a carrier of both, untestable."""
    found = {"languages": ["en", "zh"], "rung": rung, "pairs": 0, "tested": {}, "decided_by": None, "tests": {}}
    found |= {"verdict": "untestable", "carriers": {"answer": [], "language": [], "joint": []}}
    if not rung:
        return found
    if not joint:
        nowhere = dict.fromkeys(("weights_at_carrier", "best_layer", "answer_means"), "no joint carrier")
        keys = ("method", "layer", "site", "k", "place")
        tested = {name: {key: row[key] for key in keys} for name, row in tested.items()}
        tested = {name: row | {"unmeasured": nowhere.get(name, "")} for name, row in tested.items()}
    decided = min(tested, key=lambda name: RANKS.index(tested[name].get("verdict", "untestable")))
    curve = [
        {
            "site": site,
            "t_same_share": record(site / 8),
            "g_share": record(min(1, site / 4)),
            "donor_recipient": record(site / 16),
        }
        for site in SITES
    ]
    return found | {
        "verdict": tested[decided].get("verdict", "untestable"),
        "decided_by": decided if joint else None,
        "pairs": 1280,
        "tested": tested,
        "tests": TESTS,
        "curve": curve,
        "carriers": {"answer": [2, 3], "language": list(joint), "joint": list(joint)},
    }


def phase3_of(
    method: str = "weight", verdict: str = "none", rung: str | None = "words", joint=(2, 3), **tested
) -> dict:
    """Phase 3 of a Z that phase 2 handed on: the verdict is that Z's, of the others `tested` gives it by name."""
    own = verdict if method == "weight" else "none"
    rows = {
        "weights": swapped(own, judged_on="all"),
        "weights_at_carrier": swapped(site=3),
        "best_layer": swapped(layer=2, site=3),
        "answer_means": swapped(method="answer_means", layer=None, site=3),
    }
    if method != "weight":
        rows["handed"] = swapped(verdict, method, site=3)
    if "learned" in tested:
        rows["learned"] = swapped(method="learned", layer=None, site=3)
    rows |= {name: rows.get(name, swapped()) | changes for name, changes in tested.items()}
    return patched(rung, joint, **rows)


def contrast(value: float = 1.0, spread: float = 0.1, **more) -> dict:
    """A contrast of phase 2 with its interval and its nulls."""
    return {"contrast": value, "low": value - spread, "high": value + spread} | drawn() | {"matched_share": 0.4} | more


def drawn(p: float = 0.001, draws: int = 999) -> dict:
    """A contrast's nulls and their largest p."""
    return {"haar": null(1.0, p) | {"draws": draws}, "matched": null(0.8, 0.001) | {"draws": draws}, "p": p}


def text_of(ahead: float = 0.3) -> dict:
    """Phase 2's comparison of texts with their foils."""
    baselines = {name: {"difference": record(ahead)} for name in ("numerals", "embeddings", "permuted")}
    told = {"rate": 0.8, "low": 0.7, "high": 0.9}
    return {"unmeasured": None, "z": told, "haar": null(0.7), "comparisons": 96, "baselines": baselines}


def phase2_of(separates: str, method: str, holds: bool, beyond_text: bool | None) -> dict:
    """Phase 2's results: with a verdict of none it has contingencies."""
    candidate = {"contrast": 0.5, "p": 0.01, "p_holm": 0.01, "holds": holds, "layer": 1, "k": 3}
    candidate |= {"centred": contrast(0.6), "pooling": "last"} | drawn(0.01, 99)
    z = {
        "method": method,
        "holds": separates != "none" or holds,
        "layer": 1,
        "site": 2,
        "k": 3,
        "beyond_text": beyond_text,
    }
    depth = {key: {"z": [0.5, 0.5, 0.5]} for key in ("language", "problem", "problem_shuffled")}
    found = {
        "verdict": separates,
        "tests": {"centred": True, "primary_k": separates == "clear"},
        "claims": [{"id": "primary", "holds": separates == "clear"}],
        "settings": {"layer": 1},
        "width": 64,
        "problems": 10,
    }
    found |= {"primary": drawn(0.5) | {"ratio_z": 1.0, "ratio_z_perp": 1.0, "contrast": 1.0, "centred": contrast()}}
    rival = {"contrast": 1.0, "centred": contrast(), "k": 2, "pooling": "mean"}
    found["primary"] |= {"k": 3, "pooling": "mean"}
    found |= {"rivals": dict.fromkeys(("weight", "centroid", "random"), rival)}
    found |= {"beyond_text": beyond_text, "depth": depth, "chance": {"language": 0.5}, "z": z, "text": text_of()}
    return found | ({"contingencies": {"candidates": {"centroid": candidate}}} if separates == "none" else {})


def parts(
    separates: str = "none",
    holds: bool = False,
    found: str = "none",
    again: dict | None = None,
    beyond_text: bool | None = True,
    **phase3,
) -> dict:
    """What the hunt reads of the scripts' results, as the scripts write them.

    `found` is phase 3's verdict on the Z handed on, `again` {contingency: its verdict} of others that hold, `phase3` goes to
    `phase3_of`.
    """
    method = "weight" if separates != "none" else "centroid"
    phase2 = phase2_of(separates, method, holds, beyond_text)
    others = {name: {"verdict": verdict, "method": name, "site": 3} for name, verdict in (again or {}).items()}
    rates = {"ridge": 0.4, "identity": 0.1, "shuffled": 0.1, "own_language": 0.5}
    against = {control: {"ridge": 0.01} for control in ("identity", "shuffled")}
    bridge = {
        "verdict": "no_bridge",
        "settings": {"primary": "ridge"},
        "held_out_r2": {"ridge": 0.0, "mean_shift": 0.0},
        "transfer": {"pairs": 10, "success": rates, "interval": {"ridge": [0.17, 0.69]}, "p_against": against},
    }
    one = {"layer": 1, "mean": 3.0, "support": 0.5, "support_groups": 0.5, "window": [1], "lowest": {"layer": 0}}
    asked = {"settings": {"languages": ["zh", "en"]}, "right": {"en": 1, "zh": 2}, "n": 2, "mcnemar_p": 1.0}
    asked |= {"names": {"en": "English", "zh": "Chinese"}, "compared": {"candidate": "zh", "reference": "en"}}
    asked |= {"no_room": None, "one_problem_away": []}
    two = {"settings": {"layer": 1}, "ffn_alignment_over_chance": [1.0, 1.0, 1.0]}
    result = {
        "one": {"verdict": "no_bottleneck", "bottleneck": one, "phases": [1, 5, 2]},
        "two": {"verdict": "ffn_at_chance", **two},
        "phase0": {"verdict": "no_asymmetry", **asked},
        "phase2": phase2,
        "phase3": phase3_of(method, found, **phase3 | others),
        "phase3b": bridge,
        "ablation": ablation(),
        "reasoning/phase2": phase2,
        "reasoning/phase3": phase3_of(method),
        "reasoning/phase3b": bridge,
    }
    return result


def ablation() -> dict:
    """An ablation: the rows that have a role, one that has none, and random directions beside the primary one."""
    roles = {"language": ["primary"], "language_reinjected": ["reinjected"], "z_perp": ["z_perp"], "shuffled": []}
    row = {"scope": "prefill", "strength": 0.2, "reinjection": 0.0, "place": "middle", "accuracy": 0.8, "kept": 0.7}
    row |= {"odds": {"value": -1.25, "low": -2.0, "high": -0.5}, "text": {"value": 0.0, "low": -0.01, "high": 0.01}}
    rows = [row | {"condition": condition, "roles": own} for condition, own in roles.items()]
    odds = {"draws": 20, "low": -0.2, "middle": 0.0, "high": 0.1, "p": 1.0}
    found = {"verdict": "ablation_hurts", "rung": "words", "rows": rows, "none": {"accuracy": 1.0, "kept": 0.9}}
    return found | {"nulls": [{"role": "primary", "odds": odds, "p_fall": 1 / 21}]}


def unpatched(given: dict) -> tuple[dict, dict]:
    """The same without what asks for answers in words, and what the hunt notes about that."""
    left_out = ("phase3", "phase3b", "ablation")
    return {key: part for key, part in given.items() if key not in left_out}, dict.fromkeys(left_out, "no_answer_text")
