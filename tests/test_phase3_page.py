"""Phase 3's page on results made by hand: what every verdict says, what is shown, and what is not where there is nothing."""

import copy
import json
import re
from functools import cache

import numpy as np
import pytest

import verdicts
from lab import runs
from reports import page as common
from reports import phase3 as page
from reports import phase3_beside as beside_tables
from reports import phase3_figures as figures
from reports import phase3_opening as opening_words
from reports import phase3_tables as shown

WIDTH = 896
LIKE = "like the whole stream"
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
    return {"haar": null(120, 0.0083), "matched": matched, "layers": null(23, 1 / 24, outlier_p=0.0017, high=0.14)}


def gates(word=(0.97, 1.02), states=(0.99, 0.94)) -> dict:
    """T(F')/T(F) and T(Z')/T(F'); T(P_B F)/T(F) and h, or no manifold."""
    found = {"word": {"dimensions": 41, "left": 34} | dict(zip(("full", "z"), map(record, word))), "manifold": None}
    if states is not None:
        sizes = {"states": 1310, "components": 204, "variance": 0.99, "by_construction": False}
        found["manifold"] = sizes | dict(zip(("full", "h"), map(record, states)))
    return found


def row(site: int, shares=(0.06, 0.01, 0.95, 0.97), p: float | None = 0.3, **more) -> dict:
    """A tested Z with that coverage, leak, complement's transfer and complement's language; None for what has no floor."""
    found = dict(zip(figures.SHARES, map(record, shares or [None] * 4)))
    d = None if shares is None or None in shares else shares[0] - shares[1] - shares[2] + shares[3]
    draws = 20 if p is None or p > 0.05 else 120
    nulls = {} if d is None else {"haar": null(draws, p)}
    found |= {"d": record(d, 0.2), "agnosticity": record(0.94), "full_agnosticity": record(0.92), "nulls": nulls}
    for name, value in (("iia_same", 0.9), ("full_iia_same", 0.99), ("iia_cross", 0.81), ("full_iia_cross", 0.02)):
        found[name] = record(value)
    found |= {"iia_cross_gain": record(0.79), "kappa": 0.0, "p": p, "p_holm": p and min(1, 4 * p)}
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
    return found | {"site": site, "k": 34, "place": "joint", "judged_on": "test"} | more


def nowhere(site=12, **more) -> dict:
    """A Z at a place where nothing arrives."""
    found = {"method": "weight", "layer": 11, "site": site, "k": 34, "place": "none", "judged_on": "all", "judged": 39}
    found |= {"within_share": 0.07, "participation": 9.0, "unmeasured": "the full swap carries nothing here"}
    return found | {"full": {"t_same": record(0.06), "g": record(1.72)}} | more


def curve() -> list[dict]:
    rows = []
    for site, (same, cross, language, *percent) in MEASURED.items():
        winners = ("iia_same", "donor_recipient", "donor_donor", "recipient_recipient")
        shares = {name: record(share / 100, 0.0) for name, share in zip(winners, percent)}
        rest = {"recipient_donor": record(max(0, 1 - sum(percent[1:]) / 100), 0.0)}
        rows.append(
            {"site": site, "t_same": record(same, 0.4), "t_cross": record(cross, 0.4), "g": record(language, 0.3)}
        )
        rows[-1] |= shares | rest | {"t_same_share": record(same / 7.09)}
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
        "best_layer": row(20, layer=19, seen=seen, **good),
        "handed": row(18, layer=11, method="ard_mmd", seen=seen),
        "answer_means": row(22, **means),
    }


SETTINGS = {
    "batch": 16, "device": "cpu", "dtype": "float32", "languages": ["en", "zh"], "learned": False, "limit": None, "seed": 0,
    "problems": [["words.jsonl", "0"]], "exemplars": ["words_exemplars.jsonl", "1"], "ladder": [{}, {}, {}],
}  # fmt: skip
MODEL = {"name": "a-model", "revision": None, "quantisation": None, "tied": True, "weights_hash": "beef"}


def results(languages=("en", "zh"), **more) -> dict:
    """Results of a rung that could be used, not judged yet."""
    half = {"problems": 39, "answers": 37, "scored": 20}
    problems = {"asked": 92, "solved": {language: 85 - i for i, language in enumerate(languages)}, "everywhere": 77}
    problems |= {"fitted_answers": 31, "answers": 73, "left_out_as_fitted": 0, "development": half}
    problems |= {"test": half | {"problems": 38, "scored": 19}}
    found = {
        "model": MODEL, "settings": SETTINGS, "layer_chosen": "clear_bottleneck", "width": WIDTH,
        "rung": "successor", "languages": list(languages), "problems": problems, "usable": [0, 1], "pairs": 1280,
        "tried": [tried("words", "too_few_solved", 0, languages), tried("successor", "taken", 22, languages)],
        "needed": {"problems": 20, "answers": 16, "mass": 0.5, "precheck": 24}, "unsolved": None,
        "answer_set": {"answers": [*map(str, range(2, 42)), "a|b"], "columns": 82, "nodes": 7, "mass": 0.83, "tokens": []},
        "recipients": [], "blocks": [[1, 2, 3], [0, 2, 3, 4]], "sites": 25, "curve": curve(), "maxima": {"t_same": 7.09, "g": 6.1},
        "design": {"block": 8, "few": 2, "drawn": 10, "resamples": 2000, "draws": 20, "most": 20},
        "carriers": {"answer": [17, 18, 20, 22, 24], "language": [18, 20, 22, 24], "joint": [18, 20, 22, 24]},
        "weights": {"inner": 11, "lowest": 0}, "conditions": [], "tested": spaces(),
    }  # fmt: skip
    return found | more


def spread(middle: float, wide: float = 0.03, draws: int = 20) -> dict:
    return {"draws": draws, "low": middle - wide, "middle": middle, "high": middle + wide}


def rival(k: int, shares: tuple, draws: int | None = None) -> dict:
    found = dict(zip(figures.SHARES, map(record, shares)))
    return found | {"k": k, "draws": draws, "d": record(shares[0] - shares[1] - shares[2] + shares[3], 0.2)}


def beside() -> dict:
    """What stands beside the best layer's Z, in the shape that the script saves."""
    rivals = dict.fromkeys(beside_tables.RIVALS, rival(34, (0.3, 0.05, 0.7, 0.95)))
    rivals |= {"haar": rival(34, (0.044, 0.04, 0.957, 0.961), 20), "z": rival(34, (0.94, 0.03, 0.06, 0.91))}
    left = {"z": record(0.1), "complement": record(0.93), "haar": spread(0.96)}
    swept = {"coverage": record(0.6), "leak": record(0.02), "d": record(1.2, 0.2)}
    swept |= {"haar": {"coverage": spread(0.04), "d": spread(0.01)}}
    places = [swept | {"name": "best_layer", "site": site, "layer": 19, "k": 34} for site in (18, 20, 22)]
    places += [swept | {"name": "answer_means", "site": site, "layer": None, "k": 33} for site in (18, 20, 22)]
    moved = dict.fromkeys(
        ("full", "complement"), dict(zip(("language", "kept", "translated"), map(record, (1, 0.02, 0.97))))
    )
    moved |= dict.fromkeys(
        ("z", "haar"), dict(zip(("language", "kept", "translated"), map(record, (0.03, 0.95, 0.01))))
    )
    said = dict(zip((*figures.WINNERS, "other"), (1, 2, 30, 4, 3)))
    return {
        "of": "best_layer", "site": 20, "k": 34, "judged": 19, "donors": 2, "rivals": rivals,
        "ablation": {"margin": record(5.1), "mean": left, "resample": left},
        "sweep_k": [swept | {"of": of, "k": k} for of in ("z", "pca") for k in (2, 8, 34)], "sweep_site": places,
        "same_problem": {"problems": 38, "language": record(5.4), "swaps": moved},
        "generated": {"prompts": 40, "tokens": 12, "swaps": dict.fromkeys(beside_tables.SWAPS, said)},
    }  # fmt: skip


def carried(unmeasured: str | None = None) -> dict:
    """How a Z's effect carries to another format, and to contrast donors or why it was not asked."""
    null = spread(0.03, draws=120) | {"p": 0.0083}
    digits = {"name": "digits", "unmeasured": None, "asked": 38, "solved": {"en": 30, "zh": 28}, "problems": 25}
    digits |= {"reference": record(6.0), "full": record(5.5), "z": record(0.8), "haar": null, "answers": 6, "mass": 0.9}
    digits |= {
        "matched": spread(0.5),
        "outside": {"dimensions": 40, "full": record(0.7), "z": record(0.75), "haar": null},
    }
    contrast = {"unmeasured": None, "asked": 12, "solved": {"en": 9, "zh": 8}, "problems": 8}
    contrast |= {"operation": {"pairs": 16, "full": record(5.0), "z": record(0.7), "haar": null}}
    contrast |= {"same_answer": {"pairs": 16, "kept": record(0.95), "full_kept": record(0.97), "moved": record(0.02)}}
    contrast["same_answer"]["full_moved"] = record(0.03)
    for row in (digits, contrast["operation"]):
        row |= {"wins": record(0.7), "full_wins": record(0.9)}
    return {"formats": [digits], "contrast": {"unmeasured": unmeasured} if unmeasured else contrast}


def asked_on(said: bool, contrast: bool | None, **how) -> dict:
    """The positive, with everything that is asked beyond it."""
    tested = spaces()
    tested["best_layer"]["reasoning"] = carried(**how)
    return results(tested=tested, beside=beside(), reasoning={"format": True, "contrast": contrast, "said": said})


def no_joint_carrier() -> dict:
    """The language arrives nowhere: nothing but the place of the weights is measured."""
    silent = {"method": "weight", "layer": 11, "site": None, "k": 34, "unmeasured": "no joint carrier"}
    found = {"weights": nowhere()} | dict.fromkeys(("weights_at_carrier", "best_layer", "answer_means"), silent)
    return results(carriers={"answer": [17, 18], "language": [], "joint": []}, tested=found)


def no_rung() -> dict:
    """Nothing is solved, and nothing below is there."""
    counts = {"en": {"words": 5, "digits": 3, "wrong": 16}, "zh": {"words": 2, "digits": 0, "wrong": 22}}
    kept = ("model", "settings", "layer_chosen", "needed", "width")
    rungs = [tried("words", "too_few_solved", 0), tried("antonyms", "too_few_solved", 2)]
    found = {key: value for key, value in results().items() if key in kept}
    found |= {"rung": None, "tried": rungs, "tested": {}, "pairs": 0}
    found |= {"unsolved": {"rung": "antonyms", "asked": 24, "counts": counts}}
    return found | {"carriers": {"answer": [], "language": [], "joint": []}}


def of_weights(**more) -> dict:
    """Decided by the weights' own Z at its own place; nothing else was measured."""
    more = {"gates": gates(), "nulls": every_null()} | more if more.get("p") == 0.0083 else more
    own = row(18, layer=17, judged_on="all", **more)
    silent = {"method": "ard_mmd", "judged_on": "unseen", "judged": 3, "unmeasured": "it was fitted on these answers"}
    return results(tested={"weights": own, "handed": silent}, weights={"inner": 17, "lowest": None})


def only(name: str, changes: dict) -> dict:
    """Decided by one Z among others that move nothing."""
    tested = spaces()
    tested["best_layer"] = row(20, layer=19)
    return results(tested=tested | {name: changes})


CONTROL = {
    "coverage": record(0.38), "leak": record(0.03), "complement_transfer": record(0.61),
    "complement_language": record(0.97), "d": record(0.71), "d_gain": record(0.98, 0.28),
}  # fmt: skip
SOUGHT = gates(states=(0.97, None))
SOUGHT["manifold"]["by_construction"] = True
LEARNED = row(20, method="learned", gates=SOUGHT, control=CONTROL, nulls=every_null(), **GOOD)
LEARNED["nulls"].pop("layers")
HANDED = row(18, method="ard_mmd", gates=gates(), nulls={"haar": null(120, 0.0083)}, **GOOD)


def hollow(value):
    """The same where nothing could be measured: every record and null without numbers."""
    if isinstance(value, dict):
        empty = {"value", "low", "middle", "high", "p"}
        return {key: None if key in empty else hollow(part) for key, part in value.items()}
    return [hollow(part) for part in value] if isinstance(value, list) else value


def undefined() -> dict:
    found = asked_on(False, None)
    found["tested"]["best_layer"]["reasoning"] = hollow(carried())
    reasoning = found["tested"]["best_layer"]["reasoning"]
    reasoning["formats"][0]["unmeasured"] = "too few problems are solved with answers in digits"
    reasoning["contrast"]["unmeasured"] = "there are no such problems"
    return found | {"beside": hollow(beside()), "reasoning": {"format": None, "contrast": None, "said": False}}


CASES = {  # by what the page has to say, with the verdict
    "positive": (results(), "double_dissociation"),
    "everything": (asked_on(True, True), "double_dissociation"),
    "not everything": (asked_on(False, None, unmeasured="no variants are solved"), "double_dissociation"),
    "undefined beside": (undefined(), "double_dissociation"),
    "weights": (of_weights(**GOOD), "double_dissociation"),
    "uneven": (of_weights(**GOOD | {"nulls": every_null(False)}), "double_dissociation"),
    "fitted": (only("handed", HANDED), "double_dissociation"),
    "learned": (only("learned", LEARNED), "double_dissociation"),
    "three languages": (results(languages=("en", "zh", "de")), "double_dissociation"),
    "partial": (of_weights(shares=(0.4, 0.03, 0.56, 0.91), p=0.0083), "partial"),
    "open": (of_weights(shares=(0.5, 0.03, 0.46, 0.91), p=0.0083), "partial"),
    "no states": (of_weights(**GOOD, gates=gates(states=None)), "partial"),
    "answer word": (of_weights(**GOOD, gates=gates(word=(0.04, None))), "answer_word"),
    "little beside the word": (of_weights(**GOOD, gates=gates(word=(0.64, 0.2))), "answer_word"),
    "illusion": (of_weights(**GOOD, gates=gates(states=(0.98, 0.06))), "illusion"),
    "language removed": (of_weights(**GOOD, k=200), "language_removed"),
    "none": (of_weights(), "none"),
    "inconclusive": (of_weights(shares=(0.48, 0.3, 0.5, 0.35)), "inconclusive"),
    "answer only": (of_weights(place="answer", shares=(0.9, None, 0.1, None), p=None), "answer_only"),
    "nothing at the place": (results(tested={"weights": nowhere()}), "untestable"),
    "too little to divide by": (of_weights(shares=None, p=None), "untestable"),
    "no joint carrier": (no_joint_carrier(), "untestable"),
    "no rung": (no_rung(), "untestable"),
    "no free answers": (no_rung() | {"unsolved": None}, "untestable"),
}  # fmt: skip


def judged(case: dict) -> dict:
    """As a script saves it: the rules' judgement, claims, numbers rounded, everything through JSON."""
    judgement = dict(verdicts.phase3(case))
    holds = judgement.pop("holds")
    case = case | judgement
    case |= {"claims": [line | {"holds": holds[line["id"]]} for line in page.claims(case)]}
    return json.loads(runs.json_bytes(runs.significant(case)))


def rendered(case: dict | str) -> tuple[str, dict[str, bytes]]:
    """The page of a case, or of one by its name."""
    return from_json(runs.json_bytes(judged(CASES[case][0] if isinstance(case, str) else case)), common.png)


@cache
def from_json(content: bytes, _) -> tuple[str, dict[str, bytes]]:
    files = page.render(json.loads(content), {})
    return files["phase3_output.md"].decode(), files


def tables(text: str) -> list[list[list[str]]]:
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block] for block in blocks]


def table_of(text: str, header: str) -> dict[str, list[str]]:
    """The rows of the table that has a header, by their first cell."""
    (found,) = [block for block in tables(text) if header in [cell.strip() for cell in block[0]]]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in found[2:]}


def before_claims(text: str) -> str:
    """What stands before the claims table, without the title."""
    return text.split("## Claims")[0].split("\n\n", 1)[1].strip()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("real_pictures")
def test_every_page_is_whole(name):
    text, files = rendered(name)
    assert not re.search(r"\b(None|nan|inf|site \d+)\b|[{}]|  ", text), name
    assert not re.search(r"e-0|\bb-?1? at\b|\bb\.out\b", text)
    blocks = tables(text)
    assert all(len(block) > 2 for block in blocks)
    assert all(len(block[0]) <= 8 and len({len(line) for line in block}) == 1 for block in blocks)
    assert sorted(LINK.findall(text)) == sorted(file for file in files if file.endswith(".png"))
    assert all(files[file].startswith(b"\x89PNG") for file in files if file.endswith(".png"))


@pytest.mark.parametrize("name", CASES)
def test_the_opening_is_one_sentence_and_its_numbers(name):
    case, verdict = CASES[name]
    found = judged(case)
    assert found["verdict"] == verdict
    text, _ = rendered(name)
    lead, *rest = before_claims(text).split("\n\n")
    assert lead.startswith("**Verdict.** ") and lead.endswith(f"(`{verdict}`).")
    assert len(lead.split()) <= 60, lead
    assert "a-model" in lead and ". " not in lead.removeprefix("**Verdict.** ").replace("L1. ", "")
    assert rest[0].startswith(("Deciding numbers", "Solved, from")) and rest[1].startswith("- ")
    opening = before_claims(text)
    assert opening.count("**The hypothesis tested**") == 1 and opening.count("**What was run**") == 1
    assert "\n" not in page.summary(found)
    if (row := found["tested"].get(found.get("decided_by"))) and verdict not in opening_words.NOT_TOLD:
        assert re.search(rf"L{row['site'] - 1}\.out[^;]*; k {row['k']} of {WIDTH}; judged on", opening)
        assert f"{common.span(row['d'], common.decimal)}; hypothesis 2; Haar's median" in opening


@pytest.mark.parametrize("name", CASES)
def test_p_is_written_with_its_draws_and_never_finer_than_they_allow(name):
    text, _ = rendered(name)
    assert not re.search(r"0\.00\d{2,}", text)
    for number in re.findall(r"\bp (?:against [a-z ]+ )?([<\d.][^ ,;)]*)", text):
        assert re.fullmatch(r"<|\.\d{2,3}|1|120|\d+", number), number
    for value, draws in re.findall(r"(?<![\d<])(\.\d+) \((\d+) draws\)", text):
        assert float(value) > 1 / (1 + int(draws)) + 5e-4


@pytest.mark.parametrize("name", CASES)
def test_the_word_is_said_of_a_z_only_where_both_tests_are_passed(name):
    case, _ = CASES[name]
    text, _ = rendered(name)
    said = (case.get("reasoning") or {}).get("said", False)
    assert ("may be used of" in text) == said
    assert not re.search("reasoning", text.replace("*reasoning* may", ""))
    assert ("may not be used of" in text) == (name in ("not everything", "undefined beside"))


def test_a_positive_names_its_z_place_and_nulls():
    text, _ = rendered("positive")
    opening = before_claims(text)
    for said in (
        "In a-model, giving a prompt's last position another's residual stream in 34 of 896 directions after layer 19",
        "brings over its answer (95.0 % of what the whole stream brings) and not its language (3.0 %)",
        "the weights' subspace of layer 19 at its own output L19.out, best on development answers; k 34 of 896",
        "judged on 19 held-out problems, on whose answers nothing was fitted or chosen",
        "Where: the answer passes from L16.out on (6.76 nats there, 0.75 at L15.out), the language from L17.out on (5.65 nats",
        "(coverage): 95.0 % (90.0 to 100.0); Haar 4.4 %; hypothesis 100 %",
        "moves 6.0 % (1.0 to 11.0) of the answer (Haar's rest to first order 95.6 %; hypothesis 0 %) and 91.0 % (86.0 to 96.0) of",
        "the language (hypothesis 100 %)",
        "on which its place was chosen, Z moves 97.0 % (92.0 to 102.0) of the answer, on new",
        "matched draws 28.0 % (D 0.02; p < .009 (120 draws))",
        "1.77 (1.57 to 1.97); hypothesis 2; Haar's median 0.02, 95 % point 0.05; p < .009 (120 draws), Holm < .034",
        "outside of it F keeps 97.0 % (92.0 to 102.0) of its effect on the answer, and Z 102.0 % (97.0 to 107.0) of that",
        "(204 dimensions of 1,310 states) F keeps 99.0 % (94.0 to 104.0) of its effect, and Z the same share times h = 0.94",
        "holds in part: weights give the subspace, but not the layer",
        "**The weights' own place**, L11.out",
        "nothing about the weights' Z",
    ):
        assert said in opening, said
    assert "the least that it can be is .048 with 20 draws and .008 with 120 draws" in text
    assert "judged on all 39 scored problems" in before_claims(rendered("weights")[0])
    assert "own place**" not in before_claims(rendered("weights")[0])


def test_where_haars_complement_was_measured_it_stands_beside():
    opening = before_claims(rendered("everything")[0])
    assert "(Haar's rest 95.7 %; hypothesis 0 %)" in opening and "(Haar's rest 96.1 %; hypothesis 100 %)" in opening
    case = copy.deepcopy(CASES["positive"][0])
    shares = {"leak": 0.031, "complement_transfer": 0.941, "complement_language": 0.962, "coverage": 0.045}
    case["tested"]["best_layer"]["nulls"]["haar"]["shares"] = shares
    opening = before_claims(rendered(case)[0])
    for said in ("Haar 4.5 %; hypothesis 100", "Haar 3.1 %; hypothesis 0", "Haar's rest 94.1 %", "Haar's rest 96.2 %"):
        assert said in opening, said


@pytest.mark.parametrize("chosen", common.CHOSEN)
def test_only_a_predicted_layer_confirms_a_prediction(chosen):
    opening = before_claims(rendered(CASES["weights"][0] | {"layer_chosen": chosen})[0])
    assert ("confirms no prediction" in opening) == (chosen in ("no_bottleneck", "given"))
    assert common.CHOSEN[chosen] in opening
    other = before_claims(rendered(CASES["fitted"][0] | {"layer_chosen": chosen})[0])
    assert "confirms no prediction" not in other  # that Z is none of the weights'
    assert "weights alone do not give this subspace" in other


@pytest.mark.parametrize(
    ("name", "kind"), [("none", "not there"), ("answer only", "not at this place"), ("no rung", "cannot be tested")]
)
def test_the_three_kinds_of_no_are_told_apart(name, kind):
    opening = before_claims(rendered(name)[0])
    assert [no for no in ("not there", "not at this place", "cannot be tested") if no in opening] == [kind]


def test_where_a_place_is_no_joint_carrier_nothing_is_said_of_z():
    for name in ("answer only", "nothing at the place", "no joint carrier"):
        opening = before_claims(rendered(name)[0])
        assert re.search(r"nothing (follows|about)", opening)
        assert "Z moves" not in opening and "Z (the" not in opening
        assert "this place" in opening or name == "no joint carrier"
    assert "too little on the problems judged" in before_claims(rendered("too little to divide by")[0])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("partial", "Tests failed, 2 of 10: moves the answer (40.0 % (35.0 to 45.0); needed surely 50 %); its complement"),
        ("partial", "of its answer (random directions 4.4 %) and 3.0 % of its language, and the rest 56.0 % of the answer; "),
        ("partial", "answer; 2 of 10 tests failed"),
        ("open", "answer; 2 of 10 tests open, none failed"),
        ("open", "surely passed nor surely failed, 2 of 10: moves the answer (50.0 % (45.0 to 55.0); needed surely 50 %)"),
        ("open", "is left open: the best subspace surely fails no test, and does not surely pass all"),
        ("no states", "Tests that could not be run, 1 of 10: acts among the model's own states"),
        ("no states", "there were no other problems to tell which it visits"),
        ("answer word", "moves 95.0 % of its answer, explained by the code of the word to be written: outside of that code"),
        ("answer word", "even the whole stream moves 4.0 % (-1.0 to 9.0) (limit 10 %)"),
        ("answer word", "(F keeps 4.0 %, too little to ask what Z keeps; needed F 10 %, Z 50 % of that)"),
        ("little beside the word", "outside of it they move 20.0 % of what the whole stream does (limit 47.5 %)"),
        ("illusion", "directions that the model's own states do not use: among these, 6.0 % of that is left"),
        ("illusion", "a path that the model leaves idle"),
        ("language removed", "little more than everything except the language"),
        ("language removed", "streams' own size (k 200; needed at most 112)"),
        ("inconclusive", "neither shown nor excluded: it brings 43.0 % to 53.0 %"),
        ("none", "brings over at most 11.0 % of the answer"),
        ("none", "beats random subspaces (Holm's p 1; needed below .05)"),
        ("learned", "It was sought among these states, so h says nothing of it"),
        ("learned", "it was learned for its effect"),
    ],
)  # fmt: skip
def test_what_a_verdict_rests_on_is_said_with_its_number(name, says):
    assert says in before_claims(rendered(name)[0])


def test_no_rung_is_said_without_figures():
    text, files = rendered("no rung")
    assert list(files) == ["phase3_output.md"]
    assert [heading for heading in text.splitlines() if heading.startswith("## ")] == ["## Claims", "## Limitations"]
    opening = before_claims(text)
    for told in (
        "at most 2 of 24 problems that were asked (`antonyms`) are solved in every language, where 20 are needed",
        "- `words` 0 in en and 1 in zh, 0 in every language, of 24 (too few solved)",
        "- `antonyms` 2 in en and 3 in zh, 2 in every language, of 24, 81.0 % of the probability on answers (too few solved)",
        "50 % of the probability lies",
        "`--model`", "`--problems`", "`--exemplars`", "`--languages`",
    ):  # fmt: skip
        assert told in opening, told
    assert table_of(text, "right in digits") == {"en": ["5", "3", "16"], "zh": ["2", "0", "22"]}
    assert "Free answers" not in before_claims(rendered("no free answers")[0])
    assert "`antonyms`" in page.summary(judged(CASES["no rung"][0]))


@pytest.mark.parametrize(
    "outcome, solved, answers, said, help",
    [
        ("too_few_answers", 39, 12, "39 of 40 problems that were asked (`antonyms`) are solved in every language, but these have 12 "
         "different answers, where 16 are needed", "problems with more answers"),
        ("little_mass", 21, 21, "21 of 40 problems that were asked (`antonyms`) are solved in every language, but 81.0 % of the "
         "probability lies on the answers, where 50 % is needed", "answers in words"),
        ("answers_are_written_alike", 0, 0, "written alike in all languages", "answers in words"),
    ],
)  # fmt: skip
def test_why_no_kind_could_be_used_is_what_the_nearest_one_lacks(outcome, solved, answers, said, help):
    case = copy.deepcopy(CASES["no rung"][0])
    case["tried"][1] |= {"outcome": outcome, "everywhere": solved, "answers": answers, "asked": 40}
    opening = before_claims(rendered(case)[0])
    assert said in opening and "at most" not in opening.splitlines()[2]
    assert help in opening.split("To try:")[1]


def test_how_many_answers_the_judged_problems_have_is_said_where_some_repeat():
    case = copy.deepcopy(CASES["positive"][0])
    case["recipients"] = [{"answer": str(number % 9), "half": "test", "problem": number} for number in range(19)]
    case["recipients"] += [{"answer": "70", "half": "development", "problem": 50}] * 20
    assert "judged on 19 held-out problems with 9 different answers, on whose" in rendered(case)[0]
    case["recipients"] = [{"answer": str(number), "half": "test", "problem": number} for number in range(19)]
    assert "judged on 19 held-out problems, on whose" in rendered(case)[0]


def test_claims_are_the_three_that_are_judged():
    for name, (case, _) in CASES.items():
        found = judged(case)["claims"]
        assert [row["id"] for row in found] == ["z", "z_perp", "weights"], name
        assert all(row["measured"] and row["null"] for row in found)
    moves, leaves, own = judged(CASES["positive"][0])["claims"]
    assert "95.0 % (90.0 to 100.0) of the answer, 3.0 % (-2.0 to 8.0) of the language" in moves["measured"]
    assert "91.0 % (86.0 to 96.0) of the language, 6.0 % (1.0 to 11.0) of the answer" in leaves["measured"]
    assert moves["null"] == "Haar: 4.4 %; p < .009 (120 draws), Holm < .034"
    assert leaves["null"] == "Haar's rest: to first order 95.6 %"
    assert "surely half of it" in moves["claim"] and "(80 %)" in leaves["claim"]
    assert own["measured"].startswith("L11.out, k 34: the whole stream carries neither")


def test_what_was_run_can_be_run_again():
    text = before_claims(rendered("positive")[0])
    flags = "--languages en zh --batch 16 --seed 0 --device cpu --dtype float32"
    assert f"```\npython phase3_patching.py --model a-model {flags}\n```" in text
    assert "local files, hash beef; not quantised; input and output embeddings tied; run as float32 on cpu" in text
    settings = SETTINGS | {"ladder": [{}], "problems": [["mine.jsonl", "0"]], "learned": True, "limit": 9}
    model = MODEL | {"revision": "abc", "quantisation": "Q4_K_M (all)", "tied": False}
    text = before_claims(rendered(results(settings=settings, model=model))[0])
    own = "--problems mine.jsonl --exemplars words_exemplars.jsonl --learned"
    assert (
        f"--model a-model --revision abc --languages en zh --limit 9 --batch 16 --seed 0 --device cpu --dtype float32 {own}"
        in text
    )
    assert "revision abc; quantised, Q4_K_M (all): what runs are the dequantised weights" in text and "not tied" in text


def test_carriers_are_runs_of_neighbours_that_were_measured():
    text, _ = rendered("positive")
    assert "the answer at L16.out to L23.out, the language at L17.out to L23.out, both at L17.out to L23.out" in text
    gaps = results(carriers={"answer": [0, 17, 18, 22], "language": [0], "joint": [0]})
    text, _ = rendered(gaps)
    assert "the answer at embeddings, L16.out to L17.out and L21.out, the language at embeddings" in text
    assert "the language nowhere, both nowhere" in rendered("no joint carrier")[0]


def test_the_depth_tables_hold_the_curve_and_account_for_every_swap():
    text, _ = rendered("positive")
    moved, won = table_of(text, "T_same, nats"), table_of(text, "neither's")
    places = ["embeddings", *(f"L{site - 1}.out" for site in MEASURED if site)]
    assert list(moved) == list(won) == places
    assert moved["L16.out"] == ["6.76 (6.36 to 7.16)", "6.40 (6.00 to 6.80)", "3.25 (2.95 to 3.55)", "answer"]
    assert moved["L17.out"][-1] == "answer and language" and moved["L11.out"][-1] == "–"
    assert won["L16.out"] == ["99.0 %", "47.0 %", "52.0 %", "0.0 %", "1.0 %", "0.0 %"]
    case = copy.deepcopy(CASES["positive"][0])
    case["curve"][3]["recipient_donor"]["value"] = 0.02
    won = table_of(rendered(case)[0], "neither's")
    assert won["L15.out"] == ["1.0 %", "1.0 %", "0.0 %", "86.0 %", "2.0 %", "11.0 %"]
    for line in won.values():
        assert sum(float(cell.removesuffix(" %")) for cell in line[1:]) == pytest.approx(100, abs=0.3)


def test_the_profile_is_grouped_by_what_was_swapped():
    text, files = rendered("positive")
    shares = table_of(text, "Z⊥: language")
    names = [common.SUBSPACES[name] for name in ("weights_at_carrier", "best_layer", "handed", "answer_means")]
    assert list(shares) == names
    z = common.SUBSPACES["best_layer"]
    assert shares[z] == [
        "L19.out, 34", "95.0 % (90.0 to 100.0)", "3.0 % (-2.0 to 8.0)", "6.0 % (1.0 to 11.0)", "91.0 % (86.0 to 96.0)",
        "6.80 (6.75 to 6.85)", "5.60 (5.55 to 5.65)",
    ]  # fmt: skip
    assert table_of(text, "κ of the draws' pairs")[z] == [
        "1.77 (1.57 to 1.97)", "1.77", "0.00 to 0.05", "0.94", "< .009 (120 draws)", "< .034", "`double_dissociation`",
    ]  # fmt: skip
    assert table_of(text, "Z: T_cross/T_same")[z][:3] == ["81.0 % (76.0 to 86.0)", "2.0 %", "90.0 % (85.0 to 95.0)"]
    text, files = rendered("no joint carrier")
    assert "phase3_profile.png" not in files  # nothing has a share
    assert "Not swapped: weights' Z, own place (the full swap carries nothing here), weights' Z, best" in text


def cells(table: str) -> dict[tuple, list[str]]:
    """The rows of a table by what they are of: a Z, or a Z and its null."""
    lines = [[cell.strip() for cell in line] for line in tables(common.prose(table))[0][2:]]
    return {tuple(line[:2]): line[2:] for line in lines}


def test_every_null_has_a_row():
    found = cells(shown.nulls_table({"best_layer": CASES["positive"][0]["tested"]["best_layer"]}))
    z, draws = common.SUBSPACES["best_layer"], "< .009 (120 draws)"
    gain = ".017 (120 draws)"
    assert found == {
        (z, "Haar"): ["4.4 %", "1.77", "0.00 to 0.05", draws, gain, "yes"],
        (z, "matched draws"): ["28.0 %", "1.77", "0.30 to 0.88", draws, gain, "yes"],
        (z, "other layers' weights"): [
            "4.4 %", "1.77", "0.00 to 0.14", "< .042 (23 layers)", ".083 (23 layers)", "no, on a test of its own; apart: p .002",
        ],
    }  # fmt: skip
    assert "apart" not in shown.nulls_table({"weights": row(18, nulls={"layers": null(2, 0.33, outlier_p=None)})})
    found = cells(shown.nulls_table({"weights": CASES["uneven"][0]["tested"]["weights"]}))
    assert found[common.SUBSPACES["weights"], "matched draws"][-1] == "no, a rival"
    assert shown.nulls_table({"weights": row(18, None)}) == shown.nulls_table({}) == ""
    tested = CASES["positive"][0]["tested"]
    (whole,) = [block for block in tables(rendered("positive")[0]) if " null " in block[0]]
    assert len(whole[2:]) == sum(len(one.get("nulls", {})) for one in tested.values()) == 3 + 3


@pytest.mark.parametrize(
    "states, outcome",
    [
        ((1.0, 1.2), LIKE), ((0.5, 0.8), LIKE), ((0.899, 0.8), LIKE),
        ((0.9, 0.4), "illusion"), ((1.0, -0.3), "illusion"),
        ((0.9, 0.401), "between"), ((1.0, 0.799), "between"),
        ((0.899, 0.799), "poor"), ((0.899, 0.0), "poor"), ((0.499, 0.8), "poor"), ((1.0, None), "poor"), ((None, None), "poor"),
    ],
)  # fmt: skip
def test_what_the_models_own_states_say(states, outcome):
    """With its boundaries, in the table, and in the opening where the word alone does not say what follows."""
    own = row(18, gates=gates(states=states))
    assert shown.told(own["gates"]["manifold"]) == outcome
    ((*_, last),) = cells(shown.states_table({"weights": own["gates"]}).split("\n\n", 1)[1]).values()
    assert last == outcome
    text = " ".join(" ".join(opening_words.gate_lines(own)).split())
    sentences = {"between": "cannot be told apart here", "poor": "hold too little of what acts"}
    assert [name for name, sentence in sentences.items() if sentence in text] == [outcome] * (outcome in sentences)
    assert f"keeps {common.span(own['gates']['manifold']['full'])} of its effect" in text
    h = own["gates"]["manifold"]["h"]
    assert (f"times h = {common.span(h, common.decimal)}" in text) is (
        h["value"] is not None
    ) and "– of that" not in text


def test_the_gates_of_a_z_that_moves_enough_are_shown():
    tested = CASES["positive"][0]["tested"]
    z, text = common.SUBSPACES["best_layer"], rendered("positive")[0]
    assert table_of(text, "T(F')/T(F)")[z] == ["41", "97.0 % (92.0 to 102.0)", "102.0 % (97.0 to 107.0)"]
    assert table_of(text, "T(P_B F)/T(F)")[z] == [
        "204 of 1,310", "99.0 % (94.0 to 104.0)", "0.94 (0.89 to 0.99)", LIKE,
    ]  # fmt: skip
    assert shown.gates_tables({name: one for name, one in tested.items() if name != "best_layer"}) == ""
    assert "T(P_B F)/T(F)" not in rendered("none")[0]
    assert opening_words.gate_lines(tested["answer_means"]) == opening_words.gate_lines({"gates": None}) == []
    alone = gates(states=None)
    assert shown.states_table({"weights": alone}) == ""
    alone["word"]["random"] = {"draws": 20, "low": 0.94, "middle": 0.96, "high": 0.98}
    (line,) = cells(shown.word_table({"weights": alone})).values()
    assert line == ["97.0 % (92.0 to 102.0)", "96.0 % (94.0 to 98.0)", "102.0 % (97.0 to 107.0)"]
    assert "as large 96.0 % (94.0 to 98.0), 5 to 95 % of 20 draws" in " ".join(
        opening_words.gate_lines(row(18, gates=alone))
    )


def test_a_learned_z_stands_beside_its_control():
    text, _ = rendered("learned")
    control = (
        "coverage 38.0 % (33.0 to 43.0) and D 0.71 (0.66 to 0.76); the learned Z's D is higher by 0.98 (0.70 to 1.26)"
    )
    assert control in " ".join(text.split())
    assert "The same search" not in rendered("positive")[0]
    assert "the subspace learned by gradients on development answers, at L19.out" in before_claims(text)


def test_every_test_of_the_deciding_z_has_a_row():
    text, _ = rendered("partial")
    rows = required_by(text)
    assert len(rows) == 10 and [row[-1] for row in rows.values()].count("failed") == 2
    assert rows["moves the answer"] == ["40.0 % (35.0 to 45.0)", "surely 50 %", "failed"]
    left = required_by(rendered("open")[0])
    assert left["moves the answer"] == ["50.0 % (45.0 to 55.0)", "surely 50 %", "not surely passed"]
    needed = "49.5 % and p below .05 (half of F's 99.0 % with donors asked alike; across languages F brings its own language)"
    assert rows["wins with the donor's answer"][1] == needed
    assert rows["beats other layers' weights"][0] == "p < .042 (23 layers), apart p .002"
    silent = required_by(rendered("no states")[0])["acts among the model's own states"]
    assert silent == ["–", "h 0.80", "not run"]
    poor = required_by(rendered(of_weights(**GOOD, gates=gates(states=(0.4, None))))[0])[
        "acts among the model's own states"
    ]
    assert poor == ["F keeps 40.0 % (35.0 to 45.0)", "h 0.80", "not told"]
    assert not any("– of" in line or "–," in line for line in rendered("answer word")[0].splitlines() if "code" in line)
    assert "All tests of" not in rendered("no joint carrier")[0]


def required_by(text: str) -> dict[str, list[str]]:
    (found,) = [block for block in tables(text) if block[0][0].strip() == "test"]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in found[2:]}


def test_an_example_shows_what_is_asked_and_what_should_come_out():
    case = copy.deepcopy(CASES["positive"][0])
    case["recipients"] = [
        {"problem": 4, "answer": "7", "half": "test"},
        {"problem": 9, "answer": "a|b", "half": "test"},
    ]
    lines = [{"language": language, "problem": problem, "prompt": f"Q: old\nA: 1\n\nQ: {language} {problem}?\nA:"}
             for language in ("en", "zh") for problem in (4, 9)]  # fmt: skip
    prompts = {"phase3_prompts.jsonl": runs.json_lines(lines)}
    text = page.render(judged(case), prompts)["phase3_output.md"].decode()
    assert "“Q: en 4?⏎A:”, right: 7; and a donor in zh: “Q: zh 9?⏎A:”, right: a\\|b" in text
    assert (
        "answers a\\|b in en where it gets the donor's part inside Z, 7 in zh where it gets the rest, Z⊥, and a\\|b in zh"
        in text
    )
    assert "For example" not in rendered("positive")[0]


def test_problems_say_what_was_left_out_and_why_few_are_patched():
    case = copy.deepcopy(CASES["positive"][0])
    case["problems"]["left_out_as_fitted"] = 30
    text, _ = rendered(case)
    assert "30 more, on which phase 2's Z was fitted, were never asked" in text
    assert "are 20 and 19 of these, at most 20 of a half: of whatever answers" in text and "39 problems are few" in text
    assert "83.0 % of the probability on the prompts that are patched, and 81.0 % on all prompts" in text
    case["answer_set"]["nodes"] = 1
    assert "only such as have answers that their first token tells apart" in rendered(case)[0]


def test_what_does_not_add_up_or_disagrees_is_said():
    text, _ = rendered("everything")
    assert "adds up to" not in text and "disagrees" not in text
    case = copy.deepcopy(CASES["everything"][0])
    case["tested"]["best_layer"]["coverage"] = record(0.6)
    said = case["beside"]["generated"]["swaps"]
    case["beside"]["generated"]["swaps"] = said | {"z": {**said["z"], "donor_donor": 30, "recipient_recipient": 2}}
    case["beside"]["same_problem"]["swaps"]["complement"] = {
        "language": record(0.5), "kept": record(0.02), "translated": record(0.97),
    }  # fmt: skip
    text, _ = rendered(case)
    assert "adds up to 66.0 % (best layer's weights' Z), not to 100 %" in text
    assert "34 of 40 free answers after Z's swap come in the donor's language, of which Z moves 3.0 % there" in text
    assert "Z⊥ moves 50.0 % of the language here and 91.0 % in section 3" in text


def test_the_weights_are_called_at_chance_only_where_they_are():
    chance = "is not shown to be beyond its nulls where it was tested"
    fitted = copy.deepcopy(CASES["fitted"][0])
    opening = before_claims(rendered(fitted)[0])
    assert f"weights alone do not give this subspace; the weights' Z {chance}" in opening
    assert (
        "From weights alone: weights' Z, best place, L17.out, moves 6.0 % (1.0 to 11.0) of the answer (Haar 4.4 %; p"
        in opening
    )
    assert "beyond every draw" not in opening
    beyond = copy.deepcopy(fitted)
    beyond["tested"]["best_layer"] |= {
        "p": 1 / (1 + beyond["tested"]["best_layer"]["nulls"]["haar"]["draws"]),
        "p_holm": 0.143,
    }
    assert (
        f"{chance}, at L17.out and L19.out (at L19.out beyond every draw, and these are too few for Holm"
        in before_claims(rendered(beyond)[0])
    )
    fitted["tested"]["best_layer"] = row(20, (0.48, 0.3, 0.5, 0.35), layer=19)
    assert chance not in rendered(fitted)[0]
    assert chance not in rendered("positive")[0]


def test_the_place_of_the_weights_is_compared_on_the_problems_that_chose():
    assert (
        "on 20 development problems it moves the answer by 0.8 % (-4.2 to 5.8) of what it does at"
        in rendered("positive")[0]
    )


def test_every_reason_for_silence_is_said_once():
    assert beside_tables.unmeasured([("a", "x"), ("b", "x")], {"a": 1, "b": 1}) == "Not measured: x."
    assert beside_tables.unmeasured([("a", "x"), ("b", "y")], {"a": 1, "b": 1}) == "Not measured: x (a); y (b)."
    assert beside_tables.unmeasured([], {"a": 1}) == ""


def test_a_swept_layer_is_named():
    text, _ = rendered("everything")
    assert (
        "each layer's own weights' Z, layer 19 | L17.out" in text
        and "the one tested in section 3 is that of layer 19" in text
    )


def test_the_profile_shows_whose_cells_are_empty():
    found, drawing = judged(CASES["answer only"][0]), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "png", lambda figure: drawing.append(figure) or b"")
        figures.figure_profile(found, {"weights": found["tested"]["weights"]})
    *panels, _ = drawing[0].axes
    assert [[text.get_text() for text in panel.texts] for panel in drawing[0].axes] == [[], ["n/a"], [], ["n/a"]]
    assert panels[0].get_yticklabels()[0].get_fontweight() == "bold"


def test_seen_and_unseen_answers_stand_side_by_side():
    text, _ = rendered("positive")
    rows = table_of(text, "coverage, seen")
    assert rows["answer means"][:3] == ["33", "97.0 % (92.0 to 102.0)", "6.0 % (1.0 to 11.0)"]
    assert "weights' Z, own place" not in rows
    assert "31 development answers share no first token with one of these" in text
    unseen = copy.deepcopy(CASES["positive"][0])
    for space in unseen["tested"].values():
        space["seen"] = None
    assert "*Seen*" not in rendered(unseen)[0]


def test_what_stands_beside_is_shown_where_it_was_measured():
    text, files = rendered("everything")
    assert "phase3_sweeps.png" in files and "## 4 Beside them" in text
    rivals = table_of(text, "rival")
    assert list(rivals) == list(beside_tables.RIVALS.values())
    assert rivals["Haar-random"][:2] == ["34, 20 draws", "4.4 % (-0.6 to 9.4)"]
    left = table_of(text, "replaced by")
    assert left["other problems' parts"] == ["10.0 % (5.0 to 15.0)", "93.0 % (88.0 to 98.0)", "96.0 % (93.0 to 99.0)"]
    same = table_of(text, "language moved, of F's")
    assert same["Z"][1] == "95.0 % (90.0 to 100.0) [100 %]" and same["Z⊥"][2] == "97.0 % (92.0 to 102.0) [100 %]"
    assert len(table_of(text, "first directions of")) == 2  # of Z and of PCA, each of several k
    assert table_of(text, "anything else")["Z"] == ["1", "2", "30", "4", "3"]
    for name in ("positive", "no joint carrier"):
        text, files = rendered(name)
        assert "## 4" not in text and "phase3_sweeps.png" not in files
    nothing = rendered(results(beside=None))[0]
    assert "## 4" not in nothing


def test_another_format_and_contrast_donors_are_shown_where_they_were_asked():
    z = common.SUBSPACES["best_layer"]
    text, _ = rendered("everything")
    assert table_of(text, "matched draws")[f"{z}, digits"] == [
        "25 with 6 of 38 (en 30, zh 28)", "5.50 (5.45 to 5.55)", "80.0 % (75.0 to 85.0)", "3.0 %", "< .009 (120 draws)",
        "50.0 % (47.0 to 53.0)", "70.0 % (65.0 to 75.0); 90.0 %",
    ]  # fmt: skip
    assert table_of(text, "Z there, of that")[f"{z}, digits"][:3] == [
        "40",
        "70.0 % (65.0 to 75.0)",
        "75.0 % (70.0 to 80.0)",
    ]
    assert table_of(text, "Z, of F's")[z][1:4] == ["16", "5.00 (4.95 to 5.05)", "70.0 % (65.0 to 75.0)"]
    assert table_of(text, "Z: own answer stays")[z][:2] == ["16", "95.0 % (90.0 to 100.0)"]
    opening = before_claims(text)
    assert "Answer asked in digits, donors in words: passed; Z moves 80.0 % (75.0 to 85.0) of what F moves" in opening
    assert "95.0 % (90.0 to 100.0) of swaps keep the answer" in opening
    text, _ = rendered("not everything")
    assert "Contrast donors: could not be run, no variants are solved." in before_claims(text)
    assert "Not measured: no variants are solved." in text and "Z: own answer stays" not in text
    assert "## 5" not in rendered("positive")[0]


def test_third_languages_and_answers_that_would_break_a_table():
    text, _ = rendered("three languages")
    assert "wins in a third language" in text
    assert "de 24, en 22, zh 23" in text
    assert "third language" not in rendered("positive")[0]
    spoilt = copy.deepcopy(CASES["positive"][0])
    spoilt["answer_set"]["answers"] = ["a|b", "*c*"]
    assert "(a\\|b, \\*c\\*)" in rendered(spoilt)[0]


def test_a_layer_is_lowest_of_all_only_where_it_is_another_one():
    assert "Layer 0 has the lowest effective rank of all in 1.py (L0.out)" in rendered("positive")[0]
    assert "lowest effective rank of all" not in rendered("weights")[0]


def test_an_interval_that_leaves_the_axis_is_marked():
    marked = []
    with common.figure(4, 3) as (_, panel):
        plot = panel.plot
        panel.plot = lambda *given, **more: marked.append((given[2], more.get("label"))) or plot(*given, **more)
        wide = {"value": 0.5, "low": -3.0, "high": 1.2}
        figures.intervals(panel, np.arange(2), [wide, record(0.5)])
        assert panel.get_xlim() == (figures.OUTERMOST[0], 128.0)
    assert marked == [("o", "Z, 95 % interval"), ("<", "interval goes on")]


@pytest.mark.usefixtures("real_pictures")
def test_pages_are_the_same_bytes_each_time():
    from_json.cache_clear()
    first = rendered("everything")[1]
    from_json.cache_clear()
    assert rendered("everything")[1] == first


def test_p_is_of_the_null_that_is_hardest_to_beat():
    nulls = every_null()
    harder = nulls | {"matched": nulls["matched"] | {"p": 0.12}}
    rival = {"matched": harder["matched"] | {"gates": False}}
    texts = {}
    for name, found in (("both", nulls), ("harder", harder), ("rival", harder | rival)):
        texts[name] = common.random_text(row(18, p=0.12 if name == "harder" else 0.0083, nulls=found))
    assert "; p < .009 (120 draws), Holm < .034" in texts["both"] and "; p < .009 (120 draws)" in texts["rival"]
    assert "; p against matched draws .12 (120 draws), Holm .48" in texts["harder"]
