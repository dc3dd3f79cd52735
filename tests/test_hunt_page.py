"""The hunt's pages on results made by hand: every verdict's words and numbers, and several models side by side."""

import re

import pytest
import test_phase3_page
from hunt_parts import (
    DISSOCIATES,
    LAYERS,
    UNTESTABLE,
    contrast,
    parts,
    record,
    swapped,
    unmeasured,
    unpatched,
)

import verdicts
from lab import evidence, runs
from reports import hunt as page
from reports import hunt_beyond
from reports import hunt_figures as figures
from reports import hunt_opening as opening
from reports import hunt_tables as tables
from reports import page as common

LONGEST = 68  # words of a verdict's sentence
CELL = re.compile(r"^\|(.*)\|$")


@pytest.fixture
def judged(script):
    """Parts -> what their hunt in a model of 8 layers saves of them, with the model's name."""
    module = script("hunt.py")

    def judge(given: dict, left_out: dict | None = None, layers: int = LAYERS) -> dict:
        found = runs.significant(module.gather(given, layers, left_out))
        return module.REPORT.judged(found | {"model": {"name": "a-model"}})

    return judge


def rendered(results: dict) -> str:
    return page.render(results, {})["hunt_output.md"].decode()


def sentence_of(results: dict) -> str:
    """The verdict's sentence without its name."""
    return opening.verdict_text(results).rpartition(" (`")[0]


def head(results: dict) -> str:
    """What stands before the claims."""
    return " ".join(rendered(results).partition("## Claims")[0].split())


EVERY = {  # a hunt for each verdict, and for each way to a causal Z
    "causal_z": {"separates": "clear", "found": "double_dissociation"},
    "causal_z, another place": {"separates": "clear", "weights_at_carrier": DISSOCIATES},
    "causal_z, another layer": {"separates": "clear", "best_layer": DISSOCIATES},
    "causal_z, activations": {"separates": "none", "holds": True, "again": {"ard_mmd": "double_dissociation"}},
    "learned_only": {"separates": "clear", "learned": DISSOCIATES},
    "answer_word": {"separates": "clear", "found": "answer_word"},
    "illusion": {"separates": "none", "found": "illusion"},
    "inconclusive": {"separates": "clear", "found": "inconclusive"},
    "partial_z": {"separates": "clear", "found": "partial"},
    "partial_z, open": {"separates": "clear", "found": "partial", "weights": {"failed": []}},
    "correlational_z": {"separates": "partial", "found": "none"},
    "correlational_z, untested": {"separates": "none", "holds": True, "rung": None},
    "no_z": {"separates": "none", "found": "none"},
    "no_z, all but the language": {"separates": "none", "found": "language_removed"},
    "untestable": {"separates": "none", "rung": None},
    "untestable, no place": {"separates": "none", "joint": ()},
}


@pytest.mark.parametrize("case", EVERY)
@pytest.mark.usefixtures("real_pictures")
def test_every_verdict_has_a_page_without_holes(judged, case):
    results = judged(parts(**EVERY[case]))
    assert results["verdict"] == case.partition(",")[0]
    files = page.render(results, {})
    text = files["hunt_output.md"].decode()
    said = sentence_of(results)
    assert len(said.split()) <= LONGEST, said
    assert text.split("\n\n")[1].startswith("**Verdict.** ")
    for hole in ("{", "None", "nan ", "| |", "|  |", ". .", "(None", "since ("):
        assert hole not in text, hole
    assert "does not exist" not in text and "no Z" not in said
    lines = [line for line in text.splitlines() if line.startswith("- **")]
    assert [line.partition("**")[2].partition("**")[0] for line in lines[:3]] == [
        "What moves the answer.", "Where the weights point.", "The hypothesis tested",
    ]  # fmt: skip
    assert ("hunt_overview.png" in files) == ("hunt_overview.png" in text) == bool(results["arrival"])
    for block in re.findall(r"(?m)(?:^\|.*\|$\n?)+", text):
        rows = [
            [cell.strip() for cell in line.strip().replace("\\|", "").strip("|").split("|")]
            for line in block.splitlines()
        ]
        assert len(rows) > 2, block  # no empty table
        assert len({len(row) for row in rows}) == 1, block
    for image in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert image in files


KINDS = ("*not there*", "*not at this place*", "*cannot be tested with this model and these problems*")


@pytest.mark.parametrize(
    "given, kinds",
    [
        ({"separates": "clear", "found": "double_dissociation"}, ""),
        ({"separates": "none"}, "01"[:1]),
        ({"separates": "none", "rung": None}, "2"),
        ({"separates": "clear", "joint": ()}, "12"),
        ({"separates": "none", "weights": {"place": "language", "verdict": "language_only"}}, "01"),
        ({"separates": "none", "weights": {"place": "answer", "verdict": "answer_only"}, "best_layer": {"verdict": "partial"}}, "1"),
    ],
)  # fmt: skip
def test_a_no_says_of_which_kind_it_is(judged, given, kinds):
    given = parts(**given)
    if given["phase3"]["rung"] and not given["phase3"]["carriers"]["joint"]:
        given["phase3"]["tested"]["weights"]["place"] = "answer"
    found = given["phase3"]["tested"].get("weights")
    if found and found["place"] != "joint" and "coverage" in found:
        given["phase3"]["tested"]["weights"] = unmeasured(found, found["place"])
    text = opening.recipe_text(judged(given))
    assert "".join(str(index) for index, kind in enumerate(KINDS) if kind in text) == kinds, text


def test_a_partial_z_says_how_many_tests_it_misses(judged):
    results = judged(parts("clear", found="partial"))
    assert (
        "of 3 tests the best directions pass 1, surely miss 1: *moves the answer* (80.0 % (70.0 to 90.0); needed surely 50 %)"
        in opening.recipe_text(results)
    )
    (node,) = (node for node in results["path"] if node["node"] == "patching")
    every = opening.missed_text(node | {"tests": dict.fromkeys([*opening.needed_by(node["row"]), "another"], False)})
    assert every.count("; needed ") == every.count("*") / 2 - 1 > 6 and every.endswith(", *another*")
    assert "could not be run" in opening.missed_text(node | {"tests": {"moves the answer": None}})
    assert "surely less than a clean split (D up to 1.70 of 2)" in sentence_of(results)
    given = parts("clear", found="partial", weights={"failed": [], "open_tests": ["moves the answer"]})
    results = judged(given)
    assert "is left open: of 3 tests the best directions pass 1, leave 1 open: *moves the" in (
        " ".join(opening.recipe_text(results).split())
    )
    assert sentence_of(results).partition(" (`")[0].endswith("of 2); 1 of 3 tests are open")


def test_the_opening_names_the_control_that_does_as_well(judged):
    given = parts("none")
    given["phase2"]["primary"]["centred"] = contrast(
        0.6, p=1.0, matched={"low": 0.4, "high": 0.5, "p": 1.0, "draws": 999}
    )
    assert "no better than the stream's own main directions do" in head(judged(given))
    given["phase2"]["primary"]["centred"] = contrast(0.6)
    text = head(judged(given))
    assert "does not part problem from language by the recipe's own measure, which keeps the languages'" in text
    assert "p < .002 (every null that counts); the stream's main directions (matched draws) 0.7 to 0.9." in text
    for low, high, does in ((0.4, 0.55, "better"), (0.55, 0.7, "as well"), (0.65, 0.7, "less well")):
        matched = {"low": low, "high": high, "p": 1.0, "draws": 999, "gates": False}
        given["phase2"]["primary"]["centred"] = contrast(0.6, matched=matched, matched_share=0.69)
        text = head(judged(given))
        assert f"do {does} ({low} to {high}, p 1), which is not counted: they hold 69.0 % of the distance" in text
    given["phase2"]["primary"]["centred"] = contrast(1.2, p=1.0)
    assert "does not part problem from language better than controls do" in head(judged(given))


@pytest.mark.parametrize(
    "given, found_by, name",
    [
        ({"separates": "clear", "found": "double_dissociation"}, "weights", "weights"),
        (
            {
                "separates": "clear",
                "found": "double_dissociation",
                "best_layer": DISSOCIATES,
                "answer_means": DISSOCIATES,
            },
            "weights",
            "weights",
        ),
        ({"separates": "clear", "weights_at_carrier": DISSOCIATES}, "weights, another place", "weights_at_carrier"),
        ({"separates": "clear", "weights_at_carrier": DISSOCIATES | {"site": 2}}, "weights", "weights_at_carrier"),
        (
            {"separates": "clear", "best_layer": DISSOCIATES, "answer_means": DISSOCIATES},
            "weights, another layer",
            "best_layer",
        ),
        ({"separates": "clear", "answer_means": DISSOCIATES}, "activations", "answer_means"),
        ({"separates": "none", "holds": True, "found": "double_dissociation"}, "activations", "handed"),
        ({"separates": "none", "holds": True, "again": {"ard_mmd": "double_dissociation"}}, "activations", "ard_mmd"),
        (
            {"separates": "clear", "handed": DISSOCIATES | {"method": "sweep", "layer": 0, "site": 3}},
            "weights, another layer",
            "handed",
        ),
        (
            {"separates": "clear", "handed": DISSOCIATES | {"method": "weight_head0", "site": 3}},
            "weights, another place",
            "handed",
        ),
    ],
)
def test_a_causal_z_says_what_told_where_it_is(judged, given, found_by, name):
    results = judged(parts(**given))
    assert results["verdict"] == "causal_z"
    assert (results["z"]["found_by"], results["z"]["name"]) == (found_by, name)
    assert opening.FOUND["weights, no layer" if found_by == "weights" else found_by] in sentence_of(results)
    assert "80.0 % of what all directions do" in sentence_of(results) and "language (5.0 %)" in sentence_of(results)
    text = head(results)
    assert f"subspaces tested where it carries both is {common.SUBSPACES[name]} (" in text
    assert "1280 pairs of `words`)" in text
    assert (
        "coverage of the answer 80.0 % (70.0 to 90.0), leak of the language 5.0 % (-5.0 to 15.0), D 1.60 (1.50 to 1.70)"
        in text
    )
    assert (
        "(Haar): coverage 5.0 %, D 0.02, 95 % point 0.10; p < .009 (120 draws), Holm < .021 (`double_dissociation`"
        in text
    )
    assert opening.FOLLOWS[found_by] in text
    assert ("confirms no prediction" in text) == (found_by == "weights")  # the weights single out no layer here
    assert page.summary(results).startswith(f"{common.SUBSPACES[name]}, L")


@pytest.mark.parametrize("reason", ["no_answer_text", *UNTESTABLE])
@pytest.mark.parametrize(
    "given, verdict",
    [
        ({"separates": "clear"}, "correlational_z"),
        ({"separates": "none", "holds": True}, "correlational_z"),
        ({"separates": "none"}, "untestable"),
    ],
)
def test_where_no_cause_can_be_tested_the_hunt_says_so(script, judged, given, verdict, reason):
    found, left_out = parts(**given, **UNTESTABLE.get(reason, {})), {}
    if reason not in UNTESTABLE:
        found, left_out = unpatched(found)
    results = judged(found, left_out)
    assert results["verdict"] == verdict
    assert [node["taken"] for node in results["path"]][-2:] == ["untestable", verdict]
    holds = {row["id"]: row["holds"] for row in results["claims"]}
    assert all(holds[claim] is None for claim in ("causal", "universal"))
    assert holds["not_just_math"] is not None  # the second kind of problem can be patched
    text, said = rendered(results), tables.REASONS[reason]
    assert f"could not be tested, since {said}" in sentence_of(results)
    assert "replacing" not in sentence_of(results)
    assert f"{opening.CANNOT}" in opening.recipe_text(results)
    assert f"| patching | untestable | no cause tested: {said} | – |" in text
    assert f"- No cause could be tested on math, since {said}" in text
    assert "no layer's own Z could be tested at its output" in text
    assert f"no cause tested, {said}" in page.summary(results)
    assert ("No picture: nothing was swapped on math, since" in text) == (reason != "no_joint_carrier")
    if left_out:
        assert f"| Phase 3b | math | not run: {said} |" in text
        assert holds["bridge"] is None


@pytest.mark.parametrize(
    "place, verdict, said",
    [
        ("joint", "none", None),
        ("answer", "answer_only", "carries the answer only"),
        ("language", "language_only", "carries the language only"),
        ("none", "untestable", "carries neither"),
    ],
)
def test_a_null_at_a_place_that_carries_nothing_is_about_the_place(judged, place, verdict, said):
    given = parts("clear", weights={"verdict": verdict})
    if place != "joint":
        given["phase3"]["tested"]["weights"] = unmeasured(given["phase3"]["tested"]["weights"], place)
    results = judged(given)
    assert results["site_moves"] is (place == "joint")
    text = head(results)
    assert "swapped at its own place L1.out, where the whole stream carries" in text
    assert ("at the place that the weights point at, l1.out, the whole stream carries" in text.lower()) == bool(said)
    if said:
        assert said in text and f"could not be judged (`{verdict}`)" in text
    assert judged(parts("clear", rung=None))["site_moves"] is None


def test_every_z_that_was_swapped_stands_beside_its_null(judged):
    text = tables.tested_table(judged(parts("none", holds=True, best_layer={"place": "answer"}))["tasks"])
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    rows = blocks[0]
    assert [len(block) for block in blocks] == [2 + 5, 2 + 5]
    assert all(row.replace("\\|", "").count("|") == 10 for block in blocks for row in block)
    assert rows[2].startswith("| weights' Z, own place, L1, 3 | L1.out | both |")
    assert rows[2].endswith(
        "| 80.0 % (70.0 to 90.0) | 1.60 (1.50 to 1.70) | 1.50 | -0.10 to 0.10 | < .009 (120 draws); < .021 | `none` |"
    )
    assert "| L2.out | the answer only |" in rows[4]
    unmeasured = tables.tested_table(judged(parts("clear", joint=()))["tasks"]).splitlines()[4]
    assert unmeasured.endswith("| – | – | – | – | – | `untestable` |")
    assert tables.tested_table({"math": {"tested": []}}) == "Nothing was swapped."


def test_a_number_stands_behind_the_z_that_it_is_of(judged):
    """Where another Z than the contingency handed on decides, the tree says which, and what the contingency did."""
    given = parts("none", holds=True, found="none", answer_means={"verdict": "partial", "coverage": record(0.6)})
    given["phase3"] |= {"verdict": "partial", "decided_by": "answer_means"}
    results = judged(given)
    rows = [line for line in page.tree_table(results).splitlines() if line.startswith("| patching")]
    assert rows[0].startswith("| patching: the best Z | in part | answer means, L2.out; coverage 60.0 %")
    assert rows[1].startswith("| patching: (a) language centroids | `none` | coverage 80.0 %")
    patching = next(node for node in results["path"] if node["node"] == "patching")
    told = figures.told(results, patching).splitlines()
    assert told[1] == "best Z: answer means, L2.out" and told[-1] == "(a) language centroids: none"
    assert len([line for line in page.tree_table(judged(parts("clear"))).splitlines() if "patching" in line]) == 1


def test_a_learned_z_stands_in_the_tree_where_it_alone_is_causal_and_nowhere_else(judged):
    """The recipe's claim is about the other ones: theirs are the numbers that it stands beside."""
    other = {"weights": {"coverage": record(0.31)}}
    results = judged(parts("none", holds=True, learned=DISSOCIATES | {"coverage": record(0.91)}, **other))
    node = tables.first_nodes(results["path"])["patching"]
    assert results["verdict"] == "learned_only" and node["row"]["name"] == "learned"
    (row,) = (line for line in page.tree_table(results).splitlines() if line.startswith("| patching: the best Z"))
    assert "| only one learned for it | learned Z, L2.out; coverage 91.0 %" in row
    assert figures.told(results, node).startswith("only one learned for it\nbest Z: learned Z, L2.out\n")
    (claim,) = (row for row in results["claims"] if row["id"] == "causal")
    assert claim["holds"] is False and claim["measured"].startswith("weights' Z, own place, L1.out; coverage 31.0 %")
    given = parts("clear", found="partial", learned={"verdict": "answer_word"}, **other)
    assert given["phase3"]["decided_by"] == "learned"  # a search for an effect finds the output word's code
    results = judged(given)
    node = tables.first_nodes(results["path"])["patching"]
    assert (results["verdict"], node["row"]["name"], node["taken"]) == ("partial_z", "weights", "partial")
    assert "moves the answer* (31.0 %" in opening.recipe_text(results)


@pytest.mark.parametrize("name", ["positive", "partial", "none", "answer word", "answer only"])
def test_one_fact_has_one_number(judged, name):
    """The hunt's page and phase 3's give the same figure for the same thing."""
    phase3 = test_phase3_page.judged(test_phase3_page.CASES[name][0])
    phase3["curve"] = [row | {"t_same_share": row["t_same"], "g_share": row["g"]} for row in phase3["curve"]]
    given = parts("clear") | {"phase3": phase3}
    results = judged(given, layers=24)
    own, _ = test_phase3_page.rendered(name)
    hunts = rendered(results)
    shares, ds = (test_phase3_page.table_of(own, header) for header in ("Z⊥: language", "κ of the draws' pairs"))
    block = tables.tested_table({"math": results["tasks"]["math"]}).split("\n\n")[1]
    assert block in hunts
    found = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in block.splitlines()[2:]]
    compared = 0
    for key, row in phase3["tested"].items():
        label = common.SUBSPACES[key]
        (line,) = [line for line in found if line[0].startswith(label)] or [None]
        if label in shares and line:
            place, size = shares[label][0].split(", ")
            assert line[0].endswith(f", {size}") and line[1] == place
            assert line[3] == shares[label][1] and line[4] == ds[label][0]
            assert line[5:7] == ds[label][1:3]
            assert line[7] == "; ".join(ds[label][4:6]) or line[7] == ds[label][4] == "–"
            assert line[8] == ds[label][6]
            assert (line[2] == "both") == (row["site"] in phase3["carriers"]["joint"] and row["place"] == "joint")
            compared += 1
    assert compared == len(shares) > 0
    z = phase3["tested"][phase3["decided_by"]]
    if z["nulls"]:
        assert f"coverage of the answer {common.span(z['coverage'])}" in head(results)
        assert common.random_text(z) in hunts
        for text in (common.p_text(z), common.span(z["coverage"]), common.span(z["d"], common.decimal)):
            assert text in own and text in hunts, text


def test_a_ceiling_is_no_lack_of_an_advantage(judged):
    given = parts("clear")
    given["phase0"] |= {"verdict": "untestable", "no_room": "ceiling", "one_problem_away": ["no_asymmetry"]}
    given["phase0"]["right"] = {"en": 2, "zh": 2}
    results = judged(given)
    assert figures.branch(results["path"][0]) == "untestable: ceiling"
    lines = page.limitations(results)
    assert any("Whether Chinese is ahead could not be tested (ceiling: 2/2 and 2/2)" in line for line in lines)
    assert any("hangs on one problem" in line and "`no_asymmetry`" in line for line in lines)
    assert not any("No behavioural advantage" in line for line in lines)


def test_the_tree_asks_about_the_languages_that_were_asked(judged):
    given = parts("clear")
    given["phase0"] |= {"names": {"en": "English", "zh": "German"}, "verdict": "german_advantage"}
    results = judged(given)
    assert results["path"][0]["taken"] == "yes"
    given["phase0"]["verdict"] = "english_advantage"
    assert any("No behavioural advantage of German" in line for line in page.limitations(judged(given)))


def test_a_separation_by_the_offset_alone_is_said(judged):
    """Of the named Z: with the offset it beats its nulls, and without it not."""
    assert not judged(parts("clear"))["offset_only"]
    given = parts("none")
    for with_offset, centred, said in ((True, False, True), (True, True, False), (False, False, False)):
        given["phase2"]["claims"] = [{"id": "primary", "holds": with_offset}]
        given["phase2"]["tests"]["centred"] = centred
        results = judged(given)
        assert results["offset_only"] is said
        assert ("once the constant offset between" in head(results)) is said


def test_a_layer_that_the_weights_do_not_predict_is_called_exploratory(judged):
    given = parts("clear")
    said = "resamples agree; of all layers L0; exploratory, since the weights single out no layer)"
    assert said in head(judged(given))
    given["one"]["verdict"] = "clear_bottleneck"
    given["one"]["bottleneck"]["lowest"]["layer"] = 1
    assert "resamples agree; a clear bottleneck)" in head(judged(given))


def test_what_moves_most_of_the_answer_is_named_where_something_else_is_nearest():
    """With one verdict for all, the one named is the first, and may move nothing."""
    nulls = {"haar": {"coverage": 0.006}, "matched": {"coverage": 0.28}}
    near = {"name": "weights_at_carrier", "k": 80, "site": 23, "verdict": "none", "nulls": nulls, "d": record(0.0)}
    near |= {"coverage": record(0.001, 0.01)}
    most = near | {"name": "answer_means", "k": 9, "site": 28, "coverage": record(0.26, 0.06), "d": record(0.5)}
    results = {"z": near, "tasks": {"math": {"tested": [near, most]}}}
    said = " ".join(opening.more_text(results).split())
    assert said.endswith(
        "answer means (k 9), L27.out: 26.0 % (20.0 to 32.0), Haar 0.6 % and matched draws 28.0 % (`none`)."
    )
    assert opening.best_of(results).endswith("none is shown to be more than its nulls; shown")
    assert opening.more_text(results | {"z": most}) == ""
    assert opening.more_text({"z": near, "tasks": {"math": {"tested": [near]}}}) == ""
    learned = most | {"name": "learned", "coverage": record(0.9), "verdict": "partial"}
    results = {"z": near, "tasks": {"math": {"tested": [near, most, learned]}}}
    assert "answer means (k 9)" in opening.more_text(results) and opening.best_of(results).startswith("Of the 2 ")


def test_the_page_has_its_words_of_its_own_and_its_orders_from_the_file(judged):
    given = parts(holds=True, found="partial", again={"ard_mmd": "none"})
    candidates = given["phase2"]["contingencies"]["candidates"]
    candidates["ard_mmd"] = candidates["centroid"]
    results = judged(given)
    behaviour, separation, contingencies, patching, end = results["path"]
    assert tables.measured(behaviour)[0] == "zh 2/2, en 1/2"
    words = [figures.branch(node) for node in (behaviour, separation, contingencies, patching, end)]
    held = "(a) language centroids, (c) ARD-MMD hold"
    assert words == ["no: limitation flagged", "no", held, "in part", "partial_z"]
    for verdict in ("answer_word", "illusion", "language_removed"):
        node = judged(parts("clear", found=verdict))["path"][-2]
        assert figures.branch(node).startswith("no: ")
    assert figures.branch(judged(parts("clear", found="inconclusive"))["path"][-2]) == "inconclusive"
    contingencies["candidates"].reverse()
    assert figures.branch(contingencies) == "(c) ARD-MMD, (a) language centroids hold"
    assert tables.contingency_table(results["path"]).splitlines()[2].startswith("| (c) ARD-MMD")
    assert "| patching: (c) ARD-MMD | `none` |" in page.tree_table(results)
    assert "(c) ARD-MMD: none" in figures.told(results, patching)


def test_no_sentence_travels(script):
    """What the hunt reads of the other scripts are numbers and names: their pages may say anything."""
    given = parts(holds=True, found="partial", again={"ard_mmd": "none"})
    waiting = [script("hunt.py").gather(given, 8)]
    while waiting:
        value = waiting.pop()
        waiting += (
            list(value.values()) + list(value) if isinstance(value, dict) else value if isinstance(value, list) else []
        )
        names = (*opening.FOUND, *given["phase3"]["tests"])  # of what told where Z is, and of phase 3's tests
        assert not isinstance(value, str) or " " not in value or value in names, value


def test_the_ablation_is_shown_by_the_roles_that_its_rows_play(judged):
    found = judged(parts())["ablation"]
    assert [row["role"] for row in found["rows"]] == ["primary", "reinjected", "z_perp"]
    table = hunt_beyond.ablation_section(found)[1]
    row = "| language subspace, whole prompt | 0.2 | -1.25 (-2.00 to -0.50) | -0.20 to +0.10 | < .048 (20 draws) "
    assert row + "| 100.0 % → 80.0 % | ×1 |" in table
    assert "| all but Z, whole prompt | 0.2 | -1.25 (-2.00 to -0.50) | – | – |" in table
    (said,) = hunt_beyond.ablation_section(found | {"rows": [], "verdict": "untestable"})
    assert said.startswith("`untestable`: nothing was removed")


@pytest.mark.parametrize(
    "pairs, identity, p, holds",
    [(10, 0.1, 0.01, True), (10, 0.1, 0.2, None), (10, 0.5, 0.01, None), (0, 0.1, 0.01, None)],
)
def test_a_bridge_carries_answers_if_it_beats_every_control(judged, pairs, identity, p, holds):
    """And if it is one: phase 3b's verdict counts; where vectors that were not mapped do as well there is nothing to learn."""
    given = parts()
    given["phase3b"]["verdict"] = "linear_but_unspecific"
    move = given["phase3b"]["transfer"]
    move["pairs"], move["success"]["identity"], move["p_against"]["identity"]["ridge"] = pairs, identity, p
    assert {row["id"]: row["holds"] for row in judged(given)["claims"]}["bridge"] is (False if holds else holds)
    given["phase3b"]["verdict"] = "inconclusive"
    assert {row["id"]: row["holds"] for row in judged(given)["claims"]}["bridge"] is None
    given["phase3b"]["verdict"] = "bridge"
    move = given["phase3b"]["transfer"]
    move["pairs"], move["success"]["identity"], move["p_against"]["identity"]["ridge"] = pairs, identity, p
    (row,) = (row for row in judged(given)["claims"] if row["id"] == "bridge")
    assert row["holds"] is holds
    assert row["measured"].endswith("40.0 % of 10 pairs" if pairs else "no pairs")


def test_a_bridge_that_could_not_be_measured_is_gathered_and_shown(script, judged):
    given = parts()
    given["phase3b"] |= {"verdict": "untestable"} | script("phase3b_bridge.py").NOTHING
    results = judged(given)
    assert {row["id"]: row["holds"] for row in results["claims"]}["bridge"] is None
    assert "nothing could be sent: no pairs" in str(hunt_beyond.bridge_cells(results["bridge"]["math"]))


def model_of(judged, name: str, given: dict, **changes) -> dict:
    """A row of a comparison, of a model of this name."""
    result = judged(given) | {"reports": {}, "fingerprint": name, "model": {"name": name, "weights_hash": name}}
    return evidence.row_of(result, name.replace("/", "--")) | changes


def compared(script, rows: dict[str, dict], failures: dict | None = None) -> dict:
    found = {"script": "hunt", "models": rows, "failures": failures or {}}
    return script("hunt.py").REPORT.judged(runs.significant(found))


def three_models(judged) -> dict[str, dict]:
    """One with a causal Z where the weights point, one with none, and one that solves nothing."""
    causal = parts("clear", found="double_dissociation", best_layer=DISSOCIATES)
    return {
        "org--a": model_of(judged, "org/a", causal),
        "b": model_of(judged, "b", parts("none", weights={"place": "language"})),
        "c": model_of(judged, "c", parts("none", rung=None)),
    }


def test_a_comparison_shows_what_moves_most_where_nothing_is_more_than_its_nulls(judged):
    given = parts("none")
    given["phase3"]["tested"]["answer_means"] = swapped("none", "answer_means", None, 5, coverage=record(0.95, 0.02))
    row = model_of(judged, "b", given)
    assert row["z"]["verdict"] == "none" and row["z"]["name"] != "answer_means"
    assert (row["nearest"]["name"], row["nearest"]["site"]) == ("answer_means", 5)
    row = model_of(judged, "a", parts("clear", found="double_dissociation", best_layer=DISSOCIATES))
    assert row["nearest"] == row["z"]


def test_several_models_stand_side_by_side(script, judged):
    results = compared(script, three_models(judged), {"d": "no such folder"})
    assert results["verdict"] == "does_not_generalise"
    assert results["causal"] == ["org--a"] and results["tested"] == ["org--a", "b"]
    files = page.render(results, {})
    text = files["hunt_output.md"].decode()
    assert "hunt_depth.png" in files and "(hunt_depth.png)" in text
    said = text.split("\n\n")[1]
    assert said == (
        "**Verdict.** In 2 of 3 models it could be tested whether there are directions that carry the answer and not its language "
        "(a causal Z); found in: org/a (`does_not_generalise`). The layer that the weights point at is a place where both pass in "
        "1 of 2, and the weights' Z, moved to its best place, brings over 80.0 % (random 5.0 %) and 80.0 % (random 5.0 %) of the "
        "answer."
    )
    models = text.partition("## 1 Models")[2].partition("##")[0].strip().splitlines()
    assert models[0].count("|") <= 9 and len(models) == 2 + 3
    assert models[2].startswith(
        "| [org/a](org--a/hunt_output.md) | 8 | L1 (`no_bottleneck`, effective rank 3); of all L0 |"
    )
    assert (
        "weights' Z, own place, L1.out, k 3: coverage 80.0 % (70.0 to 90.0), `double_dissociation`, as the weights"
        in models[2]
    )
    assert "| L1.out: `none` (there the language only) |" in models[3]
    assert "| not swapped: no kind of problem could be used | –: `untestable` | – | `untestable` |" in models[4]
    assert "They do in 1 of 2 models: org/a yes (by chance 66.7 %) and b no (by chance 66.7 %)" in text
    assert "with p .89. In 3 of 3 the weights single out no layer" in text and "2 models are too few" in text
    assert "- d did not finish: no such folder" in text
    assert (
        page.summary(results)
        == "causal Z in 1 of 2 models that could be tested (1 could not); the weights point where both pass in 1 of 2"
    )
    for hole in ("{", "None", "|  |"):
        assert hole not in text


def test_the_same_weights_in_two_folders_are_one_model(script, judged):
    rows = three_models(judged)
    again = rows["org--a"] | {"folder": "z", "model": {"name": "copy of a", "weights_hash": "org/a"}}
    alone = compared(script, {"org--a": rows["org--a"], "z": again})
    assert (alone["repeats"], alone["causal"], alone["tested"]) == ({"z": "org--a"}, ["org--a"], ["org--a"])
    assert alone["verdict"] == "untestable" and list(alone["models"]) == ["org--a", "z"]
    text = page.render(alone, {})["hunt_output.md"].decode()
    said = "Folders with the same weights count as one model, the first of them: copy of a (folder z) those of org/a (org--a)."
    assert said in text.split("\n\n")[1] and "1 model is too few" in text and "(z/hunt_output.md)" in text
    assert page.summary(alone).startswith("causal Z in 1 of 1 models")
    assert compared(script, rows)["repeats"] == {} and "same weights" not in rendered(compared(script, rows))


def test_where_a_cause_is_neither_found_nor_excluded_in_a_second_model_the_page_says_so(script, judged):
    unsure = {"verdict": "partial", "failed": [], "open_tests": ["moves the answer"]}
    rows = three_models(judged) | {"b": model_of(judged, "b", parts("clear", weights=unsure))}
    results = compared(script, rows)
    assert (results["verdict"], results["decided"]) == ("inconclusive", ["org--a"])
    assert (
        "in 1 of 3 models it could be decided, all others are open or could not be tested; found in: org/a (`inconclusive`)."
        in (page.render(results, {})["hunt_output.md"].decode())
    )
    assert {row["id"]: row["holds"] for row in results["claims"]}["second_model"] is None


def test_where_nothing_could_be_swapped_in_any_model_the_page_says_so(script, judged):
    results = compared(script, {"c": three_models(judged)["c"]})
    text = page.render(results, {})["hunt_output.md"].decode()
    assert results["verdict"] == "untestable" and "Nothing can be said: in no model" in text
    assert {row["holds"] for row in results["claims"]} == {None}
    nothing = page.render(compared(script, {}, {"d": "gone"}), {})
    assert (
        list(nothing) == ["hunt_output.md"] and "No model's hunt came to its end." in nothing["hunt_output.md"].decode()
    )


def test_the_picture_of_several_models_shows_what_each_has(script, judged, monkeypatch):
    drawn, results = [], compared(script, three_models(judged))
    monkeypatch.setattr(common, "png", lambda figure: drawn.append(figure) or b"")
    figures.figure_depth(results["models"])
    (panel,) = drawn[0].axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["org/\na", "b", "c"]
    stars = [line for line in panel.lines if line.get_marker() == "*"]
    assert [float(line.get_xdata()[0]) for line in stars] == pytest.approx([1 / 7, 1 / 7])
    assert [line.get_markerfacecolor() == common.SKY for line in stars] == [True, False]  # filled where it is causal
    diamonds = [line for line in panel.lines if line.get_marker() == "D"]
    assert [float(line.get_xdata()[0]) for line in diamonds] == pytest.approx([1 / 7] * 3)
    assert [text.get_text() for text in panel.texts] == ["not swapped: no kind of problem could be used"]


def test_the_picture_of_one_model_draws_what_was_measured(judged, monkeypatch):
    drawn, results = [], judged(parts("clear", found="partial"))
    monkeypatch.setattr(common, "png", lambda figure: drawn.append(figure) or b"")
    figures.figure_overview(results)
    depth, profile = drawn[0].axes
    curves = {line.get_label(): line for line in depth.lines}
    assert list(curves["answer moved by the whole stream"].get_ydata()) == pytest.approx(
        [100 * point["t_same_share"]["value"] for point in results["arrival"]["curve"]]
    )
    shares = {line.get_label(): list(line.get_xdata()) for line in profile.lines}
    assert shares["best Z, 95 % interval"] == pytest.approx([80, 5, 10, 95])
    ideal = next(lines for lines in profile.collections if lines.get_label() == "hypothesis")
    assert [line[0][0] for line in ideal.get_segments()] == [100, 0, 0, 100]
    assert shares["random of that size (Haar), mean"][0] == pytest.approx(5)
    assert min(text.get_fontsize() for panel in drawn[0].axes for text in panel.texts + panel.get_xticklabels()) >= 9
    given = parts("clear", joint=())
    figures.figure_overview(judged(given))
    assert len(drawn[1].axes) == 1  # no profile of nothing


def test_the_tiers_say_which_claims_decide(judged):
    results = judged(parts("clear", found="double_dissociation"))
    block = tables.tier_table(results).splitlines()
    assert list(verdicts.TIERS) == [line.split(" | ")[0].strip("| ") for line in block[2:]]
    assert (
        block[2] == "| minimal | bottleneck, separation, comparison | failed | separation | bottleneck | comparison |"
    )
    assert (
        "all of the above, and causal role, second model, information | failed | separation, causal role |" in block[3]
    )
    results["claims"] = [
        row | {"holds": None if row["id"] == "structure" else row["holds"]} for row in results["claims"]
    ]
    results["tiers"] = {"minimal": None, "strong": None, "transformative": None}
    assert "| open |" in tables.tier_table(results).splitlines()[2]


def test_the_papers_six_aspects_are_filled_with_measurements(judged):
    rows = tables.versus_table(judged(parts("none", holds=True, found="none"))).splitlines()
    assert len(rows) == 2 + 6
    assert (
        "weights 1 (0.9 to 1.1); centroids 1 (0.9 to 1.1); swapped: weights' Z `none`, moved to its best place `none`, "
        in rows[2]
    )
    assert "centroids' Z `none`" in rows[2]
    assert rows[7].endswith("1-33-2 layers | 1-5-2 layers |")
    given, left_out = unpatched(parts("none"))
    assert "removal: not run (the problems have no answers in words)" in tables.versus_table(judged(given, left_out))


def test_what_stands_beside_haar_is_said(judged):
    """Matched draws and main directions, that they are no nulls where they are none, and of which pairs a p is."""
    given = parts("clear", found="answer_word")
    row, matched = given["phase3"]["tested"]["weights"], {"coverage": 0.56, "draws": 120, "p": 0.1074, "gates": False}
    row["nulls"]["matched"] = matched
    shares = {"pca": {"k": 3, "coverage": record(0.97)}, "z": {"k": 3, "coverage": record(0.55)}}
    given["phase3"]["beside"] = {"of": "weights", "site": row["site"], "rivals": shares}
    results = judged(given)
    draws, mains = tables.beside_draws(results["z"])
    assert (
        draws
        == "matched draws: coverage 56.0 %, p of D .11 (120 draws) (beside, no null: Z holds 70.0 % of the variance)"
    )
    assert mains == "PCA of that size: coverage 97.0 % where Z's is 55.0 % with the same donors (beside, no null)"
    assert all(said in head(results) and said in rendered(results).partition("## Claims")[2] for said in (draws, mains))
    matched["gates"] = True
    assert tables.beside_draws(judged(given)["z"])[0].endswith("p of D .11 (120 draws) (a null)")
    shares["pca"]["k"] = 4
    assert len(tables.beside_draws(judged(given)["z"])) == 1
    given["phase3"]["beside"]["of"] = "answer_means"
    assert len(tables.beside_draws(judged(given)["z"])) == 1


def test_the_code_of_the_output_word_has_its_number_in_the_verdict(judged):
    given = parts("clear", found="answer_word")
    said = "moves 80.0 % of its answer and 5.0 % of its language, "
    assert said + "explained by the code of the word to be written: outside of it even all directions move 5.0 %" in (
        sentence_of(judged(given))
    )
    word = given["phase3"]["tested"]["weights"]["gates"]["word"]
    word |= {"full": record(0.6), "z": record(0.3)}
    assert said + "mostly explained by the code of the word to be written: outside of it they move 30.0 % of what" in (
        sentence_of(judged(given))
    )


def test_a_p_names_its_null_and_what_few_draws_can_show(judged):
    part = {
        "haar": {"p": 0.01, "draws": 99},
        "matched": {"p": 0.5, "draws": 99, "gates": False},
        "p": 0.01,
        "p_holm": 0.01,
    }
    assert tables.null_p(part) == "< .011 (every null that counts)" and tables.null_holm(part) == "< .011"
    part["missing"] = {"p": 0.3, "draws": 99}
    assert tables.null_p(part) == ".30 (Haar that miss the offset)" and tables.null_holm(part) == ".010"
    given = parts("none")
    assert "move 80.0 % of the answer where random ones of that size move 5.0 %: *not there*" in head(judged(given))
    for name in opening.OWN:
        given["phase3"]["tested"][name]["nulls"]["haar"]["draws"] = 20
    assert "5.0 % (20 draws, which can show no p below .048): *not there*" in head(judged(given))


def test_no_arrow_of_the_tree_looks_like_a_yes_that_was_none(judged):
    nodes = {holds: tables.first_nodes(judged(parts("none", holds=holds))["path"]) for holds in (True, False)}
    assert figures.held_text(nodes[True]) == "1 holds"
    assert figures.held_text(nodes[False]) == "none holds: patched all the same"
    assert figures.held_text(tables.first_nodes(judged(parts("clear"))["path"])) == "one that holds"
    assert set(figures.ENDS) == {case.partition(",")[0] for case in EVERY}  # the boxes are the verdicts' names


def test_a_z_at_a_place_that_carries_nothing_has_no_numbers_on_the_second_kind(judged):
    given = parts("clear", found="double_dissociation")
    row = given["reasoning/phase3"]["tested"]["weights"]
    kept = {key: row[key] for key in ("method", "layer", "site", "k")}
    given["reasoning/phase3"]["tested"]["weights"] = kept | {"place": "none", "unmeasured": "nothing here"}
    results = judged(given)
    (row,) = (row for row in results["claims"] if row["id"] == "not_just_math")
    assert "nothing could be measured there" in row["measured"]
    page.render(results | {"model": {"name": "m"}}, {})
