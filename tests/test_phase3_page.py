"""Phase 3's page on results made by hand: what every verdict says, what is shown, and what is not where there is nothing."""

import copy
import json
import re
from functools import cache

import numpy as np
import pytest

from lab import runs
from reports import page as common
from reports import phase3 as page

WIDTH = 896
LINK = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
# site: T_same, T_cross, G, then in % of swaps (d,a) (d,b) (r,a): a real model's, from its paper trail
MEASURED = {
    0: (0.0, 0.0, 0.1, 0, 0, 0, 100),
    8: (0.0, 0.01, 1.51, 0, 0, 0, 100),
    12: (0.06, 0.08, 1.72, 0, 0, 0, 100),
    16: (0.75, 0.74, 1.95, 1, 1, 0, 86),
    17: (6.76, 6.4, 3.25, 99, 47, 52, 0),
    18: (6.84, 6.45, 5.65, 99, 0, 99, 0),
    20: (6.85, 6.47, 5.73, 99, 0, 99, 0),
    22: (7.09, 6.56, 6.1, 100, 0, 100, 0),
    24: (7.0, 6.5, 6.0, 100, 0, 100, 0),
}
NOTHING = {"value": None, "low": None, "high": None}


def record(value: float | None, spread: float = 0.05) -> dict:
    return NOTHING if value is None else {"value": value, "low": value - spread, "high": value + spread}


def null(draws: int, p: float, gates: bool = True, **more) -> dict:
    """Other subspaces' D and coverage, and p of the winners' gain."""
    gain = {"draws": draws, "low": 0.0, "middle": 0.0, "high": 0.1, "p": 2 * p}
    found = {"draws": draws, "low": 0.0, "middle": 0.02, "high": 0.049, "p": p, "coverage": 0.044}
    return found | {"iia_cross_gain": gain, "gates": gates} | more


def every_null(even: bool = True) -> dict:
    """Of a Z from weights that moves enough; draws that hold more than half of the variance decide nothing."""
    matched = null(120, 0.0083, even, within_share=0.31, coverage=0.28, low=0.3, high=0.88)
    return {"haar": null(120, 0.0083), "matched": matched, "layers": null(23, 0.042, outlier_p=0.0017, high=0.14)}


def gates(word=(0.97, 1.02), states=(0.99, 0.94)) -> dict:
    """T(F')/T(F) and T(Z')/T(F'); T(P_B F)/T(F) and h, or no manifold."""
    found = {"word": {"dimensions": 41, "left": 34} | dict(zip(("full", "z"), map(record, word))), "manifold": None}
    if states is not None:
        sizes = {"states": 1310, "components": 204, "variance": 0.99, "by_construction": False}
        found["manifold"] = sizes | dict(zip(("full", "h"), map(record, states)))
    return found


def row(site: int, shares=(0.06, 0.01, 0.95, 0.97), p: float | None = 0.3, **more) -> dict:
    """A tested Z with that coverage, leak, complement's transfer and complement's language; None for what has no floor."""
    found = dict(zip(page.SHARES, map(record, shares or [None] * 4)))
    d = None if shares is None or None in shares else shares[0] - shares[1] - shares[2] + shares[3]
    draws = 20 if p is None or p > 0.05 else 120
    nulls = {} if d is None else {"haar": null(draws, p)}
    found |= {"d": record(d, 0.2), "agnosticity": record(0.94), "full_agnosticity": record(0.92), "nulls": nulls}
    for name, value in (("iia_same", 0.9), ("full_iia_same", 0.99), ("iia_cross", 0.81), ("full_iia_cross", 0.02)):
        found[name] = record(value)
    found |= {"iia_cross_gain": record(0.79), "kappa": 0.0, "p": p, "p_holm": min(1, 4 * p)}
    full = {"t_same": record(6.8), "g": record(5.6)}
    found |= {
        "within_share": 0.071,
        "participation": 11.3,
        "full": full,
        "seen": None,
        "method": "weight",
        "layer": None,
    }
    found["judged"] = 39 if more.get("judged_on") == "all" else 19
    found["drawn"] = {"d": d, "coverage": 0.5, "iia_cross_gain": 0.1}
    return found | {"site": site, "k": 34, "place": "joint", "judged_on": "test", "verdict": "none"} | more


def nowhere(site=12, **more) -> dict:
    """A Z at a place where nothing arrives."""
    full = {"t_same": record(0.06), "g": record(1.72)}
    empty = {"nulls": {}, "kappa": None, "p": None, "p_holm": None, "full": full}
    missing = dict.fromkeys(("agnosticity", "full_agnosticity"), NOTHING)
    found = row(site, None, layer=11, judged_on="all", place="none", verdict="untestable")
    return found | empty | missing | more


def curve() -> list[dict]:
    rows = []
    for site, (same, cross, language, *percent) in MEASURED.items():
        winners = ("iia_same", "donor_recipient", "donor_donor", "recipient_recipient")
        shares = {name: record(share / 100, 0.0) for name, share in zip(winners, percent)}
        rest = {"recipient_donor": record(max(0, 1 - sum(percent[1:]) / 100), 0.0)}
        rows.append(
            {"site": site, "t_same": record(same, 0.4), "t_cross": record(cross, 0.4), "g": record(language, 0.3)}
        )
        rows[-1] |= shares | rest
    return rows


def tried(rung: str, outcome: str, everywhere: int, languages=("en", "zh")) -> dict:
    counts = {language: everywhere + index for index, language in enumerate(languages)}
    found = {"rung": rung, "problems": 172, "asked": 24, "exemplars": 6, "solved": counts, "everywhere": everywhere}
    return found | {"answers": everywhere, "left_out": 0, "mass": 0.81 if everywhere else None, "outcome": outcome}


GOOD = {"shares": (0.95, 0.03, 0.06, 0.91), "p": 0.0083}


def spaces() -> dict:
    good = GOOD | {"kappa": 0.94, "nulls": every_null(), "gates": gates()}
    seen = {"coverage": record(0.97), "iia_cross": record(0.94), "d": record(1.9)}
    means = {"method": "answer_means", "layer": None, "seen": seen, "k": 33}
    return {
        "weights": nowhere(),
        "weights_at_carrier": row(18, layer=11, seen=seen),
        "best_layer": row(20, layer=19, verdict="double_dissociation", seen=seen, **good),
        "handed": row(18, layer=11, method="ard_mmd", seen=seen),
        "answer_means": row(22, verdict="inconclusive", **means),
    }


def results(decided_by="best_layer", verdict="double_dissociation", languages=("en", "zh"), **more) -> dict:
    """Results of a rung that could be used."""
    half = {"problems": 39, "answers": 37, "scored": 20}
    problems = {"asked": 92, "solved": {language: 85 - i for i, language in enumerate(languages)}, "everywhere": 77}
    problems |= {
        "fitted_answers": 31,
        "answers": 73,
        "left_out_as_fitted": 0,
        "development": half,
        "test": half | {"problems": 38, "scored": 19},
    }
    found = {
        "model": {"name": "a-model"}, "settings": {"problems": [["successor.jsonl", "0"]]}, "layer_chosen": "clear_bottleneck",
        "rung": "successor", "languages": list(languages), "problems": problems, "usable": [0, 1], "pairs": 1280,
        "tried": [tried("words", "too_few_solved", 0, languages), tried("successor", "taken", 22, languages)],
        "needed": {"problems": 20, "answers": 16, "mass": 0.5, "precheck": 24}, "unsolved": None,
        "answer_set": {"answers": [*map(str, range(2, 42)), "a|b"], "columns": 82, "nodes": 7, "mass": 0.83, "tokens": []},
        "recipients": [], "blocks": [[1, 2, 3], [0, 2, 3, 4]], "sites": 25, "curve": curve(), "maxima": {"t_same": 7.09, "g": 6.1},
        "design": {"block": 8, "few": 2, "drawn": 10, "resamples": 2000, "draws": 20, "most": 20},
        "carriers": {"answer": [17, 18, 20, 22, 24], "language": [18, 20, 22, 24], "joint": [18, 20, 22, 24]},
        "weights": {"inner": 11, "lowest": 0, "inner_chosen": "clear_bottleneck"}, "conditions": [], "tested": spaces(),
        "verdict": verdict, "decided_by": decided_by, "tests": {"beyond_haar": True, "leak": False},
    }  # fmt: skip
    return found | more


def no_joint_carrier() -> dict:
    """The language arrives nowhere: nothing but the place of the weights is measured."""
    silent = {"method": "weight", "layer": 11, "site": None, "k": 34, "unmeasured": "no joint carrier"}
    found = {"weights": nowhere()} | dict.fromkeys(("weights_at_carrier", "best_layer", "answer_means"), silent)
    carriers = {"answer": [17, 18], "language": [], "joint": []}
    return results(None, "untestable", carriers=carriers, tested=found)


def no_rung() -> dict:
    """Nothing is solved, and nothing below is there."""
    counts = {"en": {"words": 5, "digits": 3, "wrong": 16}, "zh": {"words": 2, "digits": 0, "wrong": 22}}
    kept = ("model", "settings", "layer_chosen", "needed", "verdict", "decided_by", "tests")
    rungs = [tried("words", "too_few_solved", 0), tried("antonyms", "little_mass", 2)]
    found = {key: value for key, value in results(None, "untestable").items() if key in kept}
    found |= {
        "rung": None,
        "tried": rungs,
        "tested": {},
        "pairs": 0,
        "unsolved": {"rung": "antonyms", "asked": 24, "counts": counts},
    }
    return found | {"carriers": {"answer": [], "language": [], "joint": []}}


def of_weights(verdict: str, **more) -> dict:
    """The same, decided by the weights' own Z at its own place."""
    more = {"gates": gates()} | more if more.get("p") == 0.0083 else more
    own = row(18, layer=17, judged_on="all", verdict=verdict, **more)
    return results("weights", verdict, tested=spaces() | {"weights": own}, weights={"inner": 17, "lowest": None})


CASES = {  # by what the page has to say
    "positive": results(),
    "weights": of_weights("double_dissociation", shares=(0.95, 0.03, 0.06, 0.91), p=0.0083),
    "partial": of_weights("partial", shares=(0.5, 0.03, 0.46, 0.91), p=0.0083),
    "none": of_weights("none"),
    "inconclusive": of_weights("inconclusive"),
    "answer only": of_weights("answer_only", place="answer", shares=(0.9, None, 0.1, None)),
    "nothing at the place": results("weights", "untestable"),
    "fitted": results(
        "handed",
        "double_dissociation",
        tested=spaces() | {"handed": row(18, method="ard_mmd", verdict="double_dissociation")},
    ),
    "three languages": results(languages=("en", "zh", "de")),
    "no joint carrier": no_joint_carrier(),
    "no rung": no_rung(),
    "no free answers": no_rung() | {"unsolved": None},
}


CONTROL = {
    "coverage": record(0.38), "leak": record(0.03), "complement_transfer": record(0.61),
    "complement_language": record(0.97), "d": record(0.71), "d_gain": record(0.98, 0.28),
}  # fmt: skip
LEARNED = row(20, method="learned", verdict="double_dissociation", gates=gates(states=None), control=CONTROL, **GOOD)
CASES |= {
    "answer word": of_weights("answer_word", gates=gates(word=(0.04, None)), **GOOD),
    "illusion": of_weights("illusion", gates=gates(states=(0.98, 0.06)), **GOOD),
    "language removed": of_weights("language_removed", **GOOD),
    "uneven": of_weights("double_dissociation", nulls=every_null(False), **GOOD),
    "learned": results("learned", tested=spaces() | {"learned": LEARNED}),
}


def rendered(case: dict) -> tuple[str, dict[str, bytes]]:
    """The page as a script writes it: claims judged, numbers rounded, everything through JSON."""
    holds = {"z": None, "z_perp": True, "weights": False}
    case = case | {"claims": [line | {"holds": holds[line["id"]]} for line in page.claims(case)]}
    return from_json(runs.json_bytes(runs.significant(case)))


@cache
def from_json(content: bytes) -> tuple[str, dict[str, bytes]]:
    files = page.render(json.loads(content), {"phase3_streams.npy": np.zeros((2, 3, 25, WIDTH), np.float32)})
    return files["phase3_output.md"].decode(), files


def tables(text: str) -> list[list[list[str]]]:
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block] for block in blocks]


def before_claims(text: str) -> str:
    """What stands before the claims table, without the title."""
    return text.split("## Claims")[0].split("\n\n", 1)[1].strip()


@pytest.mark.parametrize("name", CASES)
def test_every_page_is_whole(name):
    text, files = rendered(CASES[name])
    assert not re.search(r"\b(None|nan|inf|site \d+)\b|[{}]|  ", text), name
    assert "e-0" not in text
    for block in tables(text):
        assert len(block[0]) <= 12
    assert sorted(LINK.findall(text)) == sorted(file for file in files if file.endswith(".png"))
    assert all(files[file].startswith(b"\x89PNG") for file in files if file.endswith(".png"))


@pytest.mark.parametrize("name", CASES)
def test_every_row_of_a_table_has_a_cell_for_every_header(name):
    for block in tables(rendered(CASES[name])[0]):
        assert len({len(line) for line in block}) == 1, block[0]


@pytest.mark.parametrize("name", CASES)
def test_no_table_is_empty(name):
    assert all(len(block) > 2 for block in tables(rendered(CASES[name])[0]))


@pytest.mark.parametrize("name", CASES)
def test_the_opening_says_the_verdict_and_what_follows(name):
    case = CASES[name]
    text, _ = rendered(case)
    lead = text.split("\n\n")[1]
    assert lead.startswith("**Verdict.** ")
    assert f"(`{case['verdict']}`)" in lead
    assert "the recipe" in before_claims(text)
    assert "\n" not in page.summary(case)
    if case["decided_by"] in case["tested"] and case["carriers"]["joint"]:
        decided = case["tested"][case["decided_by"]]
        numbers = f"k = {decided['k']} of {WIDTH} dimensions"
        assert f"L{decided['site'] - 1}.out" in before_claims(text)
        assert numbers in before_claims(text)


def test_a_positive_names_its_z_place_and_nulls():
    text, _ = rendered(CASES["positive"])
    opening = before_claims(text)
    assert "weight-based Z of layer 19" in opening
    for number in (
        "coverage 95 % (90 to 100)",
        "D 1.77 (1.57 to 1.97)",
        "95 % point 0.05",
        "p 0.0083, with Holm 0.033",
    ):
        assert number in opening
    assert "over 19 problems" in opening  # the test half, on which the place was not chosen
    assert "not the layer" in opening
    assert "not below 0.048 with 20 draws, not below 0.0083 with 120 draws" in text
    assert "At L11.out" in opening  # what became of the weights' own place
    assert "nothing about the weight-based Z" in opening
    assert "over all 39 scored problems" in before_claims(rendered(CASES["weights"])[0])


@pytest.mark.parametrize("chosen", common.CHOSEN)
def test_only_a_predicted_layer_confirms_a_prediction(chosen):
    opening = before_claims(rendered(CASES["weights"] | {"layer_chosen": chosen})[0])
    assert ("confirms no prediction" in opening) == (chosen in ("no_bottleneck", "given"))
    assert common.CHOSEN[chosen] in opening
    other = before_claims(rendered(CASES["fitted"] | {"layer_chosen": chosen})[0])
    assert "confirms no prediction" not in other  # that Z is none of the weights'
    assert "weights alone do not give this Z" in other


@pytest.mark.parametrize(
    ("name", "kind"), [("none", "not there"), ("answer only", "not at this place"), ("no rung", "cannot be tested")]
)
def test_the_three_kinds_of_no_are_told_apart(name, kind):
    opening = before_claims(rendered(CASES[name])[0])
    assert [no for no in ("not there", "not at this place", "cannot be tested") if no in opening] == [kind]


def test_where_a_place_is_no_joint_carrier_nothing_is_said_of_z():
    for name in ("answer only", "nothing at the place", "no joint carrier"):
        opening = before_claims(rendered(CASES[name])[0])
        assert re.search(r"nothing (follows|about)", opening)
        assert "Z moves" not in opening
        assert "this place" in opening


def test_an_inconclusive_z_is_neither_shown_nor_excluded():
    opening = before_claims(rendered(CASES["inconclusive"])[0])
    assert "neither shown nor excluded" in opening
    assert "no more than a random subspace" not in opening


def test_a_partial_z_names_what_it_misses():
    opening = before_claims(rendered(CASES["partial"])[0])
    assert "Tests not passed: leak." in opening
    assert "beyond haar" not in opening
    assert "Tests not passed" not in rendered(CASES["positive"])[0]


def test_no_rung_is_one_paragraph_without_figures_or_tables():
    text, files = rendered(CASES["no rung"])
    assert list(files) == ["phase3_output.md"]
    assert "\n\n" not in before_claims(text)
    assert len(tables(text)) == 1  # the claims
    assert [heading for heading in text.splitlines() if heading.startswith("## ")] == ["## Claims", "## Limitations"]
    opening = before_claims(text)
    for told in (
        "`words` 0 in en and 1 in zh, 0 in every language, of 24",
        "`antonyms` 2 in en and 3 in zh, 2 in every language, of 24, 81 % of the probability",
        "en: 5 right in words, 3 right in digits, 16 wrong; zh: 2 right in words, 0 right in digits, 22 wrong",
        "20 problems",
        "`--model`", "`--problems`", "`--exemplars`", "`--languages`",
    ):  # fmt: skip
        assert told in opening, told
    assert "free answers" not in before_claims(rendered(CASES["no free answers"])[0])
    assert "`antonyms`" in page.summary(CASES["no rung"])


def test_claims_are_the_three_that_are_judged():
    for name, case in CASES.items():
        assert [row["id"] for row in page.claims(case)] == ["z", "z_perp", "weights"], name
        assert all(row["measured"] and row["null"] for row in page.claims(case))
    moves, leaves, own = page.claims(CASES["positive"])
    assert "coverage 95 % (90 to 100), leak 3 % (-2 to 8)" in moves["measured"]
    assert "6 % (1 to 11) of the answer, 91 % (86 to 96) of the language" in leaves["measured"]
    assert "4.4 %" in moves["null"]  # Haar's coverage
    assert own["measured"].startswith("L11.out, k 34, carries neither")


def test_carriers_are_runs_of_neighbours_that_were_measured():
    text, _ = rendered(CASES["positive"])
    assert "the answer at L16.out to L23.out, the language at L17.out to L23.out, both at L17.out to L23.out" in text
    gaps = CASES["positive"] | {"carriers": {"answer": [0, 17, 18, 22], "language": [0], "joint": [0]}}
    text, _ = rendered(gaps)
    assert "the answer at embeddings, L16.out to L17.out and L21.out, the language at embeddings" in text
    assert "the language nowhere, both nowhere" in rendered(CASES["no joint carrier"])[0]


def test_the_depth_table_holds_the_curve():
    text, _ = rendered(CASES["positive"])
    (table,) = [block for block in tables(text) if " T_same, nats " in block[0]]
    rows = {line[0].strip(): [cell.strip() for cell in line[1:]] for line in table[2:]}
    assert list(rows) == ["embeddings", *(f"L{site - 1}.out" for site in MEASURED if site)]
    assert rows["L16.out"] == [
        "6.76 (6.36 to 7.16)", "6.4 (6 to 6.8)", "3.25 (2.95 to 3.55)", "99 %", "47 %", "52 %", "0 %", "1 %", "answer",
    ]  # fmt: skip
    assert rows["L17.out"][-1] == "answer and language"
    assert rows["L11.out"][-1] == "–"


def test_the_profile_is_shown_for_what_was_measured():
    text, files = rendered(CASES["positive"])
    (table,) = [block for block in tables(text) if " κ " in block[0]]
    rows = {line[0].strip(): [cell.strip() for cell in line[1:]] for line in table[2:]}
    assert list(rows) == [page.NAMES[name] for name in page.TESTED if name != "learned"]
    assert rows["best layer's weights"] == [
        "L19.out", "34", "95 % (90 to 100)", "3 % (-2 to 8)", "6 % (1 to 11)", "91 % (86 to 96)",
        "1.77 (1.57 to 1.97); 1.77; 0.05", "81 % (76 to 86); 2 %", "0.94", "0.0083 (0.033)", "`double_dissociation`",
    ]  # fmt: skip
    assert set(rows["weights, own place"][2:6]) == {"–"}
    text, files = rendered(CASES["no joint carrier"])
    assert "phase3_profile.png" not in files  # nothing has a share
    assert "Not swapped: weights, best carrier (no joint carrier), best layer's" in text


def cells(table: str) -> dict[tuple, list[str]]:
    """The rows of a table by what they are of: a Z, or a Z and its null."""
    lines = [[cell.strip() for cell in line] for line in tables(common.prose(table))[0][2:]]
    return {tuple(line[:2]): line[2:] for line in lines}


def test_every_null_has_a_row():
    found = cells(page.nulls_table({"best_layer": CASES["positive"]["tested"]["best_layer"]}))
    z = "best layer's weights"
    assert found == {
        (z, "Haar"): ["120", "4.4 %", "1.77; 0 to 0.05", "0.0083", "0.017", "yes"],
        (z, "matched draws"): ["120", "28 %", "1.77; 0.3 to 0.88", "0.0083", "0.017", "yes"],
        (z, "other layers' weights"): [
            "23",
            "4.4 %",
            "1.77; 0 to 0.14",
            "0.042",
            "0.084",
            "yes; apart from them p 0.0017",
        ],
    }
    assert "apart" not in page.nulls_table({"weights": row(18, nulls={"layers": null(2, 0.33, outlier_p=None)})})
    own = CASES["uneven"]["tested"]["weights"]
    found = cells(page.nulls_table({"weights": own}))
    assert found["weights, own place", "matched draws"][-1] == "no, a rival"
    assert page.nulls_table({"weights": nowhere()}) == page.nulls_table({})  # no row for what has none
    (whole,) = [block for block in tables(rendered(CASES["positive"])[0]) if " null " in block[0]]
    tested = CASES["positive"]["tested"]
    assert len(whole[2:]) == sum(len(one["nulls"]) for one in tested.values()) == 3 + 3


@pytest.mark.parametrize(
    "states, outcome",
    [
        ((1.0, 1.2), "honest"), ((0.5, 0.8), "honest"), ((0.899, 0.8), "honest"),
        ((0.9, 0.4), "illusion"), ((1.0, -0.3), "illusion"),
        ((0.9, 0.401), "between"), ((1.0, 0.799), "between"),
        ((0.899, 0.799), "poor"), ((0.899, 0.0), "poor"), ((0.499, 0.8), "poor"), ((1.0, None), "poor"), ((None, None), "poor"),
    ],
)  # fmt: skip
def test_what_the_models_own_states_say(states, outcome):
    """With its boundaries, in the table, and in the opening where the word alone does not say what follows."""
    own = row(18, gates=gates(states=states))
    assert page.told(own["gates"]["manifold"]) == outcome
    ((*_, last),) = cells(page.gates_table({"weights": own})).values()
    assert last == outcome
    text = " ".join(page.gates_text(own).split())
    sentences = {"between": "cannot be told apart here", "poor": "hold too little of what acts"}
    assert [name for name, sentence in sentences.items() if sentence in text] == [outcome] * (outcome in sentences)
    assert f"keeps {page.span(own['gates']['manifold']['full'])} of its effect" in text
    h = own["gates"]["manifold"]["h"]
    assert (f"times {page.span(h, page.decimal)} (h)" in text) is (h["value"] is not None) and "– of that" not in text


def test_the_gates_of_a_z_that_moves_enough_are_shown():
    tested = CASES["positive"]["tested"]
    table = page.gates_table(tested)
    assert cells(table) == {
        ("best layer's weights", "41"): [
            "97 % (92 to 102)", "102 % (97 to 107)", "204 of 1,310", "99 % (94 to 104)", "0.94 (0.89 to 0.99)", "honest",
        ]
    }  # fmt: skip
    assert page.gates_table({name: one for name, one in tested.items() if name != "best_layer"}) == ""
    assert (
        "T(P_B F)/T(F) | h"
        not in rendered(CASES["none"] | {"tested": {"weights": CASES["none"]["tested"]["weights"]}})[0]
    )
    opening = before_claims(rendered(CASES["positive"])[0])
    assert (
        "the code of the answers' words, 41 dimensions, the whole stream keeps 97 % (92 to 102) of its effect"
        in opening
    )
    assert "Z 102 % (97 to 107) of that" in opening
    assert "(204 dimensions of 1,310 states)" in opening
    assert page.gates_text(tested["answer_means"]) == page.gates_text({"gates": None}) == ""


def test_without_other_problems_no_state_is_told():
    own = row(18, gates=gates(states=None))
    (line,) = cells(page.gates_table({"weights": own})).values()
    assert line == ["97 % (92 to 102)", "102 % (97 to 107)", "–", "–", "–", "–"]
    text = page.gates_text(own)
    assert "no other problems" in text and "(h)" not in text
    assert "no other problems" in before_claims(rendered(CASES["learned"])[0])


def test_a_learned_z_stands_beside_its_control():
    text, _ = rendered(CASES["learned"])
    control = (
        "reaches coverage 38 % (33 to 43) and D 0.71 (0.66 to 0.76); the learned Z's D is higher by 0.98 (0.7 to 1.26)"
    )
    assert control in " ".join(text.split())
    assert "The same search" not in rendered(CASES["positive"])[0]
    (table,) = [block for block in tables(text) if " κ " in block[0]]
    assert [line[0].strip() for line in table[2:]] == list(page.NAMES.values())
    opening = before_claims(text)
    assert "the subspace learned by gradients on development answers, at L19.out" in opening
    assert "learned for its effect, not predicted from weights" in opening


@pytest.mark.parametrize(
    ("name", "says", "follows"),
    [
        ("answer word", "as the code of the word that is about to be written", "it holds the output word"),
        ("illusion", "directions that the model's own states do not use", "a path that the model itself leaves idle"),
        ("language removed", "little more than everything except the language", "this is no Z"),
    ],
)
def test_what_else_explains_an_effect_is_said_and_what_follows(name, says, follows):
    opening = before_claims(rendered(CASES[name])[0])
    assert says in opening and follows in opening
    assert "Tests not passed: leak." in opening
    assert "without any data" not in opening and "causal claim holds" not in opening


def test_seen_and_unseen_answers_stand_side_by_side():
    text, _ = rendered(CASES["positive"])
    (table,) = [block for block in tables(text) if "seen" in block[0][2]]
    rows = {line[0].strip(): [cell.strip() for cell in line[1:]] for line in table[2:]}
    assert rows["answer means"][:3] == ["33", "97 % (92 to 102)", "6 % (1 to 11)"]
    assert "weights, own place" not in rows
    assert "31 development answers share no first token with one of these" in text
    unseen = copy.deepcopy(CASES["positive"])
    for space in unseen["tested"].values():
        space["seen"] = None
    assert "development answers:" not in rendered(unseen)[0]


def test_third_languages_and_answers_that_would_break_a_table():
    text, _ = rendered(CASES["three languages"])
    assert "third language counts for none" in text
    assert "de 24, en 22, zh 23" in text
    assert "third language" not in rendered(CASES["positive"])[0]
    spoilt = copy.deepcopy(CASES["positive"])
    spoilt["answer_set"]["answers"] = ["a|b", "*c*"]
    assert "(a\\|b, \\*c\\*)" in rendered(spoilt)[0]


def test_a_layer_is_lowest_of_all_only_where_it_is_another_one():
    assert "Layer 0 has the lowest rank of all (L0.out)" in rendered(CASES["positive"])[0]
    assert "lowest rank of all" not in rendered(CASES["weights"])[0]


def test_numbers_are_written_without_noise():
    assert page.percent(-1e-6) == page.percent(0.0) == "0 %"
    assert page.decimal(3e-7) == "0"
    assert page.percent(0.9876) == "98.8 %"
    assert page.span({"value": None, "low": None, "high": None}) == "–"
    assert page.span({"value": 0.5, "low": None, "high": None}) == "50 %"
    assert page.place(0) == "embeddings"
    assert page.place(34) == "L33.out"


def test_pages_are_the_same_bytes_each_time():
    first = rendered(CASES["positive"])[1]
    from_json.cache_clear()
    assert rendered(CASES["positive"])[1] == first


def test_p_is_of_the_null_that_is_hardest_to_beat():
    nulls = every_null()
    harder = nulls | {"matched": nulls["matched"] | {"p": 0.12}}
    rival = {"matched": harder["matched"] | {"gates": False}}
    shown = {}
    for name, found in (("both", nulls), ("harder", harder), ("rival", harder | rival)):
        shown[name] = page.random(row(18, p=0.12 if name == "harder" else 0.0083, nulls=found))
    assert "one-sided p 0.0083" in shown["both"] and "one-sided p 0.0083" in shown["rival"]
    assert "one-sided p against matched draws 0.12" in shown["harder"]
