"""Phase 2's page on results made by hand: what every verdict says, what is shown, and what is not where there is nothing."""

import copy
import json
import re
from contextlib import nullcontext
from functools import cache
from itertools import product
from unittest.mock import patch

import pytest

import verdicts
from lab import runs
from reports import page as common
from reports import phase2 as page
from reports import phase2_figures as figures
from reports import phase2_opening as opening
from reports import phase2_tables as tables

DRAWS, TEXT_DRAWS, WIDTH, SITES = 199, 99, 64, 7
LINK = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
MODEL = {"name": "a-model", "revision": None, "quantisation": None, "tied": True, "weights_hash": "beef"}
SETTINGS = {
    "batch": 16, "device": "cpu", "dtype": "float32", "languages": ["en", "zh"], "limit": None, "seed": 0, "layer": 3,
    "contingencies": "auto", "hand_on": "auto", "fold_norm": False, "fitting_share": 1.0, "z_from": None, "draws": DRAWS,
    "problems": [["phase2.jsonl", "0"]], "exemplars": ["words_exemplars.jsonl", "1"],
    "read": {"given": 40, "distinct": 40, "worked": 0}, "contrasts": None,
}  # fmt: skip


def null(low: float, high: float, p: float | None = None, draws: int = DRAWS) -> dict:
    """A null; without p no draw reached what was measured."""
    found = {"draws": draws, "low": low, "middle": (low + high) / 2, "high": high}
    return found | {"p": 1 / (1 + draws) if p is None else p}


def part(contrast: float, **ps) -> dict:
    """A contrast beside its nulls, whose p can be given; p is the largest of theirs."""
    found = {"ratio_z": contrast, "ratio_z_perp": 1.0, "contrast": contrast, "matched_share": 0.353}
    found |= {"haar": null(0.86, 1.13, ps.get("haar")), "matched": null(0.61, 0.83, ps.get("matched"))}
    found["pairing"] = null(2.31, 2.42, ps.get("pairing"))
    if "missing" in ps:
        found["missing"] = null(0.47, 0.58, ps["missing"])
    return found | {"p": max(found[name]["p"] for name in tables.NULLS if name in found)}


def row(raw: float = 0.42, centred: float = 0.53, raw_ps=None, centred_ps=None, **more) -> dict:
    """A row that passes unless p says otherwise; Holm's are over 36 rows."""
    found = part(raw, **{"missing": None} | (raw_ps or {}))
    without = part(centred, **(centred_ps or {})) | {"low": centred - 0.04, "high": centred + 0.05}
    for one in (found, without):
        one["p_holm"] = min(1.0, 8 * one["p"])
    energy = {"cross_language": {"value": 0.031, **null(0.052, 0.12)}}
    energy["same_language"] = {"value": 0.287, **null(0.061, 0.1)}
    return {"k": 6, **found, "energy": energy, "centred": without, "leace": {"contrast": centred + 0.01}} | more


FAILS = {"raw": 1.21, "centred": 1.07, "raw_ps": {"haar": 0.9, "missing": 1.0}}
FAILS["centred_ps"] = {"haar": 0.8, "matched": 1.0}


def grid(primary=(), other=FAILS, ks=(2, 4, 6), places=3, best=None, without=()) -> list[dict]:
    """Every configuration: the primary ones as given, one for each k, the others alike; `best` changes one of head 0."""
    where = (("b at b.out", 3, 4), ("b at b.in", 3, 3), ("b-1 at b-1.out", 2, 3))[:places]
    rows = []
    for (name, mask_layer, site), pooled, mask, index in product(where, ("mean", "last"), ("multi", "head0"), range(3)):
        if (name, pooled) in without:
            continue
        own = name == "b at b.out" and pooled == "mean" and mask == "multi"
        given = primary[index] if own and primary else other
        given = best if best is not None and (name, pooled, mask, index) == ("b at b.in", "last", "head0", 2) else given
        head = {"place": name, "mask_layer": mask_layer, "site": site, "mask": mask, "pooling": pooled, "primary": own}
        rows.append(row(**given) | head | {"k": ks[index], "share": (0.25, 0.64, 1.0)[index]})
    return rows


def rate(value: float, spread: float = 0.06) -> dict:
    return {"rate": value, "low": max(0.0, value - spread), "high": min(1.0, value + spread)}


def text(leads=(0.4, 0.3, 0.25, 0.41, 0.42), haar=(0.6, 0.7, None), **more) -> dict:
    """Z's rate .9, ahead of every baseline by as much; Haar's 5 and 95 % and p."""
    baselines = {
        name: rate(0.9 - lead) | {"difference": {"value": lead, "low": lead - 0.08, "high": lead + 0.09}}
        for name, lead in zip(tables.BASELINES, leads)
    }
    found = {
        "bases": 24,
        "unmeasured": None,
        "site": 4,
        "pooling": "mean",
        "asked": "contrast.jsonl",
        "comparisons": 96,
    }
    found |= {"z": rate(0.9), "stream": rate(0.94), "haar": null(*haar, draws=TEXT_DRAWS), "baselines": baselines}
    found |= {"seeds": {"permuted": 3, "reinitialised": 3}, "answer": rate(0.03, 0.04), "paraphrase": None}
    return found | more


UNASKED = {"bases": 0, "site": 4, "pooling": "mean", "asked": None}
UNASKED["unmeasured"] = "there are no such problems in these languages"
SPLIT = text(unmeasured="the model is spread over several devices")
SPLIT["baselines"] = {name: SPLIT["baselines"][name] for name in ("numerals", "embeddings", "embeddings_in_z")}


def depth(answers: bool = True, ceiling: bool = False) -> dict:
    def curves(value) -> dict:
        return {space: [value] * SITES for space in ("z", "z_perp", "all")}

    found = {"problem": curves(1.0 if ceiling else 0.62), "problem_shuffled": curves(0.021)}
    found["language"] = curves(1.0) | ({} if ceiling else {"z": [0.71] * SITES})
    found["answer"] = curves((1.0 if ceiling else 0.17) if answers else None)
    found["selectivity"] = curves(0.11 if answers else None)
    found["effective_rank"] = curves(5.4)
    points = {"value": 0.81, "low": 0.2, "middle": 0.24, "high": 0.3}
    return found | {"cka": {name: [value] * SITES for name, value in points.items()}}


def handed(**more) -> dict:
    found = {"method": "weight", "layer": 3, "site": 4, "k": 6, "passed": True, "position": "mean", "fitted_on": []}
    return found | {"fitted_answers": [], "fitted_index": [], "stands_on": None} | more


def evidence(chosen: dict) -> dict:
    keys = ("contrast", "p_holm")
    return {key: chosen[key] for key in keys} | {"centred": {key: chosen["centred"][key] for key in keys}}


def contingencies() -> dict:
    place = {"layer": 3, "site": 4, "pooling": "last", "passed": True}
    candidates = {"centroid": row(0.004, 0.44) | place, "ard_mmd": row(**FAILS) | place | {"passed": False}}
    candidates["previous_layer"] = row(**FAILS) | place | {"layer": 2, "site": 3, "pooling": "mean", "passed": False}
    sweep = [row(**FAILS) | {"layer": layer, "site": layer + 1, "pooling": "mean"} for layer in range(SITES - 1)]
    candidates["sweep"] = sweep[5] | {"passed": False}
    for one in (sweep[2], sweep[3]):
        del one["p_holm"], one["centred"]["p_holm"]
    as_recipe = {name: row() | place | {"pooling": "mean"} for name in ("centroid", "ard_mmd")}
    ard = {
        "layers": [{"layer": at, "size": 3, "overlap": 0.1 * at, "chance": 0.094, "spectrum": [1.0]} for at in range(4)]
    }
    return {"candidates": candidates, "as_recipe": as_recipe, "sweep": sweep, "ard": ard | {"relevant_share": 0.9}}


CENTROID = {"method": "centroid", "position": "last", "fitted_on": ["a", "b"], "fitted_index": [3, 5]}
FITTED = handed(**CENTROID, stands_on=evidence(contingencies()["candidates"]["centroid"]))


def results(rows: list[dict], **more) -> dict:
    """Results, not judged yet."""
    languages = more.pop("languages", ["en", "zh"])
    settings = SETTINGS | {"languages": languages} | more.pop("settings", {})
    primary = next(one for one in rows if one["primary"] and one["share"] == 1)
    size = {"layer": settings["layer"], "site": primary["site"], "pooling": "mean"}
    rivals = {name: row() | size for name in ("weight", "centroid", "pca", "random")}
    sinks = {"prompts": 40 * len(languages), "factor": 10, "per_site": [0] * SITES, "commonest": []}
    channels = {"attention": [0.31, 0.5, 0.28, 0.2, 0.33, 0.3], "ffn": [0.3] * 6, "chance": 0.306}
    found = {
        "script": "phase2", "model": MODEL, "settings": settings, "layer_chosen": "clear_bottleneck", "sinks": sinks,
        "problems": 40, "width": WIDTH, "z_dimensions": [2, 4, 6], "poolings": ["mean", "last"], "draws": DRAWS, "even": 0.5,
        "read_draws": 57, "shuffles": 23, "folds": 5, "shifts": 20, "chance": {"language": 1 / len(languages)},
        "grid": rows, "primary": copy.deepcopy(primary), "weight_z": "clear", "offset": {"share": 0.614}, "rivals": rivals,
        "rival_order": list(rivals), "depth": depth(), "channels": channels | {"haar": {"low": 0.25, "high": 0.37}},
        "z": handed(), "text": text(), "text_handed": None,
    }  # fmt: skip
    return found | more


PASSES = ({}, {}, {})
COVARIANCE = {"raw_ps": {"matched": 1.0}, "centred_ps": {"matched": 0.41}}
OFFSET = {"raw_ps": {"missing": 0.7}}
SMALL_FAILS = ({"raw_ps": {"matched": 0.2}}, {}, {})


def filled(share: float) -> list[dict]:
    """A primary Z no better than matched draws, which hold that share of the distance; of most of it they are no null."""
    rows = grid((COVARIANCE,) * 3)
    for one in (part for row in rows for part in (row, row["centred"])):
        one["matched_share"] = share
        one["matched"]["gates"] = share <= 0.5
        one["p"] = max(one[name]["p"] for name in tables.NULLS if name in one and one[name].get("gates", True))
        one["p_holm"] = min(1.0, 8 * one["p"])
    return rows


def stream_itself() -> list[dict]:
    """Every middle k passes, where matched draws do better and decide nothing; at the others they decide, and none passes."""
    rows = grid((FAILS, {}, FAILS), other={})
    for one in rows:
        passes = one["share"] == 0.64
        for part in (one, one["centred"]):
            part["matched"] |= {"gates": not passes, "p": 0.995}
            part["p"] = part["haar"]["p"] if passes else 0.995
            part["p_holm"] = min(1.0, 8 * part["p"])
    return rows


GIVEN = {"given": {"problems": 12, **row()}, "z": FITTED | {"fitted_index": []}, "settings": {"z_from": "abc"}}
SUNK = {"prompts": 80, "factor": 10, "per_site": [0, 0, 80, 80, 80, 3, 0]}
SUNK |= {"commonest": [{"position": 0, "token": "|<s>", "prompts": 80}]}
CASES = {  # name -> results, verdict, beyond the text, what the verdict and what follows say
    "clear": (results(grid(PASSES)), "clear", True, ("keep the problem", "holds as far as a correlation")),
    "three": (results(grid(PASSES), languages=["en", "zh", "de"]), "clear", True, ("keep the problem", "holds as far")),
    "one_dimension": (results(grid(PASSES, ks=(1, 1, 1))), "clear", True, ("the 1 of 64 directions", "holds as far")),
    "given_layer": (results(grid(PASSES), layer_chosen="given"), "clear", True, ("keep", "the layer was given by --layer")),
    "unpredicted": (results(grid(PASSES), layer_chosen="no_bottleneck"), "clear", True, ("keep", "the weights predict no layer")),
    "weakly": (results(grid(PASSES), layer_chosen="weak_bottleneck"), "clear", True, ("keep", "only weakly")),
    "haar_as_good": (results(grid(PASSES), text=text(haar=(0.8, 0.95, 0.43))), "clear", True, ("as random ones do", "is special")),
    "words": (results(grid(PASSES), text=text(leads=(0.4, 0.3, 0.02))), "clear", False, ("beyond the text: no", "text is not shown")),
    "unasked": (results(grid(PASSES), text=UNASKED), "clear", None, ("not tested", "contrast.jsonl")),
    "untwinned": (results(grid(PASSES), text=SPLIT), "clear", None, ("not fully tested", "one device")),
    "paraphrases": (results(grid(PASSES), text=text(paraphrase=rate(0.6), answer=None)), "clear", True, ("keep", "holds")),
    "smaller_k": (results(grid(SMALL_FAILS)), "partial", True, ("not at every k", "not at smaller ones")),
    "elsewhere": (
        results(grid(best={}), z=handed(site=3, method="weight_head0", position="last", stands_on=evidence(row()))),
        "partial", True, ("in 1 of 36 configurations", "not in the configuration that was named"),
    ),
    "nowhere": (results(grid()), "none", True, ("no better than random directions", "*not there*")),
    "covariance": (results(filled(0.31)), "none", True, ("own main directions", "*nothing special*")),
    "main_ones": (results(stream_itself()), "partial", True, ("12 of 36 configurations a subspace beats Haar", "main directions")),
    "few_problems": (results(filled(0.87)), "clear", True, ("keep the problem", "holds as far as a correlation")),
    "offset": (
        results(grid((OFFSET,) * 3)), "none", True,
        ("only once the languages' constant offset", "which the recipe keeps: Haar that miss"),
    ),
    "shuffled": (
        results(grid(({"centred_ps": {"pairing": 0.5}},) * 3)), "none", True, ("versions of a problem from", "shuffled problems lie"),
    ),
    "contingencies": (
        results(grid(), contingencies=contingencies(), z=FITTED, weight_z="none", text_handed=text(haar=(0.8, 0.95, 0.3))),
        "none", True, ("no better than random", "*not there*"),
    ),
    "never": (results(grid(), settings={"contingencies": "never", "fitting_share": 0.5}), "none", True, ("no better", "not shown")),
    "given": (results(grid(), **GIVEN), "none", True, ("no better", "not shown")),
    "silent": (results(grid(PASSES), depth=depth(answers=False)), "clear", True, ("keep", "holds")),
    "flat": (results(grid(PASSES), depth=depth(ceiling=True)), "clear", True, ("keep", "holds")),
    "edge": (
        results(grid(PASSES, places=2, without=(("b at b.in", "last"),))), "clear", True, ("keep", "holds"),
    ),
    "sunk": (results(grid(PASSES), sinks=SUNK, model=MODEL | {"quantisation": "Q4_K_M"}), "clear", True, ("keep", "holds")),
}  # fmt: skip


FIGURES = ("contrast", "text", "depth", "channels", "layers")
DRAWN = (
    "clear",
    "three",
    "one_dimension",
    "contingencies",
    "silent",
    "flat",
    "edge",
    "untwinned",
    "unasked",
)  # the others alike


def judged(found: dict) -> dict:
    """As they are saved: judged by the suite's own path, rounded, with sorted keys."""
    report = runs.Report("phase2_z_extraction.py", "phase2", (), verdicts.phase2, page)
    return json.loads(runs.json_bytes(report.judged(runs.significant(copy.deepcopy(found)))))


@cache
def rendered(name: str) -> tuple[str, dict[str, bytes], dict]:
    found = judged(CASES[name][0])
    quick = {} if name in DRAWN else {f"figure_{what}": lambda _: b"\x89PNG" for what in FIGURES}
    with patch.multiple(page, **quick) if quick else nullcontext():
        files = page.render(found, {})
    return files["phase2_output.md"].decode(), files, found


def table_of(text: str, *headers: str) -> list[list[str]]:
    """The rows of the first table that has these headers."""
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|") and all(header in lines[0] for header in headers):
            return [cells_of(line) for line in lines[2:]]
    raise LookupError(headers)


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def section(text: str, number: int) -> str:
    return next(part for part in text.split("\n## ") if part.startswith(f"{number} "))


def bullets(text: str) -> list[str]:
    block = text.split("\n\n")[3]
    return [line for line in block.splitlines() if line.startswith("- ")]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("real_pictures")
def test_every_verdict_is_told_in_a_sentence_with_its_numbers(name):
    text, _, found = rendered(name)
    _, verdict, beyond, (says, follows) = CASES[name]
    assert (found["verdict"], found["beyond_text"]) == (verdict, beyond)
    sentence = text.splitlines()[2]
    assert sentence.startswith("**Verdict.** In a-model, ") and sentence.endswith(f"(`{verdict}`).")
    parts = re.split(r"(?<=\.) (?=[A-Z])", sentence.removeprefix("**Verdict.** "))
    assert max(len(part.split()) for part in parts) <= 60 and len(parts) <= 4
    assert says in sentence
    assert follows in text.split("## Claims")[0]
    assert 6 <= len(bullets(text)) <= 11
    assert any(character.isdigit() for character in page.summary(found)) and "\n" not in page.summary(found)


@pytest.mark.parametrize("name", CASES)
def test_tables_are_narrow_full_and_hold_no_python(name):
    text, _, _ = rendered(name)
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    for block in blocks:
        header, line, *rows = block.splitlines()
        columns = cells_of(header)
        assert len(columns) <= 8, header
        assert rows, header
        assert set(line) <= {"|", " ", "-"}
        for one in rows:
            cells = cells_of(one)
            assert len(cells) == len(columns) and all(cells), one
            assert set(cells[1:]) != {"–"}, one
    assert len(blocks) >= 9
    for word in ("None", "nan", "True", "False", "inf", "{", "}", "b at b", "site ", "[0", "  -"):
        assert not re.search(rf"(?<![A-Za-z]){re.escape(word)}(?![A-Za-z])", text), word
    assert "\n\n\n" not in text


@pytest.mark.parametrize("name", CASES)
def test_figures_that_are_linked_are_those_that_are_written(name):
    text, files, found = rendered(name)
    assert sorted(LINK.findall(text)) == sorted(files.keys() - {"phase2_output.md"})
    assert all(content.startswith(b"\x89PNG") for file, content in files.items() if file.endswith(".png"))
    assert ("phase2_text.png" in files) == ("z" in found["text"])
    assert ("phase2_layers.png" in files) == ("contingencies" in found)


@pytest.mark.parametrize("name", CASES)
def test_no_p_is_finer_than_its_draws(name):
    text, _, _ = rendered(name)
    found = re.findall(r"(?:\bp |< |\| )(\.\d+)", text)
    assert found and min(map(float, found)) >= 1 / (1 + DRAWS)
    assert not re.search(r"(?<!< )\.005\b", text)  # no draw reached it: less than .006
    assert "0.005" not in text.split("## Limitations")[0].replace("0.0050", "")


@pytest.mark.parametrize("name", CASES)
def test_one_fact_has_one_number(name):
    """What the verdict says stands in the bullets, the claims, the tables and the summary alike."""
    text, _, found = rendered(name)
    part = found["primary"]["centred"]
    own = tables.own(part)
    rows = {
        "verdict": text.splitlines()[2],
        "bullets": next(line for line in bullets(text) if line.startswith("- **Without it**")),
        "claims": next(line for line in text.splitlines() if line.startswith("| the separation survives")),
        "4": section(text, 4),
        "10": section(text, 10),
        "summary": page.summary(found),
    }
    if found["verdict"] == "partial" and not found["tests"]["primary_k"]:
        del rows["verdict"]  # which is then about another configuration
    assert [place for place, words in rows.items() if own not in words] == []
    haar = tables.ends(part["haar"])
    assert [place for place, words in rows.items() if haar not in words and place != "10"] == []
    share = common.percent(found["offset"]["share"])
    assert share in "".join(bullets(text)) and share in section(text, 4)
    if "z" in found["text"]:
        measured = common.span(tables.rated(found["text"]["z"]))
        assert text.count(measured) >= 4
    for claim in found["claims"]:
        assert claim["measured"] and claim["null"]


def test_sections_follow_the_script():
    text, _, _ = rendered("contingencies")
    headings = re.findall(r"^## (\d+ .*)$", text, re.M)
    steps = "activations, primary configuration, the grid, beyond the offset, beyond the text, rivals on held-out problems, "
    steps = (steps + "contingencies, depth, channels, what the recipe asks").split(", ")
    assert [heading.lower() for heading in headings] == [f"{at} {step}" for at, step in enumerate(steps, 1)]


def test_three_kinds_of_no_are_told_apart():
    for name, kind in (("nowhere", "not there"), ("covariance", "nothing special"), ("unasked", "could not be tested")):
        above = rendered(name)[0].split("## Claims")[0]
        assert f"*{kind}" in above
        others = {"not there", "nothing special", "could not be tested"} - {kind}
        assert not any(f"*{other}" in above for other in others), name


def test_matched_draws_that_hold_most_of_the_distance_are_said_to():
    said = "for no null, and are not counted"
    assert said in "".join(bullets(rendered("few_problems")[0]))
    assert said not in "".join(bullets(rendered("covariance")[0]))
    assert "matched draws hold 87.0 %" in "".join(bullets(rendered("few_problems")[0]))


def test_what_is_handed_on_is_also_shown_at_the_last_position():
    """Phases 3, 3b and the ablation use it there, whatever pooling it passed on."""
    said = [line for line in bullets(rendered("clear")[0]) if line.startswith("- At the last position")]
    (own,) = [row for row in rendered("clear")[2]["grid"] if opening.last_row(rendered("clear")[2]) is row]
    assert (own["pooling"], own["mask"], own["site"], own["k"]) == ("last", "multi", 4, 6)
    assert len(said) == 1 and "contrast 1.21, p 1, Haar that miss the offset, Holm's p 1;" in said[0]
    assert said[0].endswith("(does not hold).")
    for name in ("elsewhere", "contingencies"):  # chosen at the last position
        assert not any(line.startswith("- At the last position") for line in bullets(rendered(name)[0])), name


def test_a_pass_says_which_nulls_it_beat():
    """Where matched draws decide nothing on what passes, no sentence says that every null was beaten."""
    text, _, found = rendered("main_ones")
    passing = [row for row in found["grid"] if tables.verdicts.separation.holds(row)]
    assert len(passing) == 12 and not any(map(tables.counted, passing))
    words = "12 of 12 do worse with the offset (p 1), 12 of 12 do worse without it (p 1): not counted"
    for place in (text.splitlines()[2], "".join(bullets(text)), section(text, 3)):
        assert words in place and "Where they count, 0 of 24 other configurations pass (k " in place
    claim = next(claim for claim in found["claims"] if claim["id"] == "ratio")
    assert claim["null"].endswith("where matched draws count, 0 of 24 other configurations pass (k 2, 6)")
    above = text.split("## 1 Activations")[0]
    assert not re.search(r"every null(?! that counts)", above) and "with more problems" not in text.lower()
    counts = rendered("elsewhere")[0]
    assert (
        "1 of 36 configurations a subspace beats every null." in counts.splitlines()[2] and "not counted" not in counts
    )


def test_what_random_subspaces_do_as_well_is_not_special():
    special, common_to_all = (rendered(name)[0] for name in ("clear", "haar_as_good"))
    assert "not special to Z" not in special and "so Z tells more than random subspaces" in special
    assert common_to_all.count("It is not shown that this is special to Z") == 2
    assert "Haar subspaces tell texts from foils as often as Z" in common_to_all.split("## Limitations")[1]
    bullet = next(line for line in bullets(common_to_all) if line.startswith("- Haar subspaces"))
    assert "p .43 (99 draws)" in bullet


@pytest.mark.parametrize(
    "found, says",
    [
        (rate(0.03, 0.04), "the text decides and not the answer"),
        (rate(0.97, 0.02), "the answer decides"),
        (rate(0.5), "neither"),
    ],
)
def test_text_or_answer(found, says):
    assert says in opening.answer_text(text(answer=found))


def test_the_grid_shows_the_rows_that_decide_and_says_where_the_rest_is():
    text, _, found = rendered("elsewhere")
    rows = table_of(text, "configuration", "k", "contrast (5 % points)")
    assert len(rows) == 6 and "`phase2_results.json`" in section(text, 3)
    assert [row[1] for row in rows[:3]] == ["2", "4", "6"]
    assert len({(row[0], row[1]) for row in rows}) == 6
    (best,) = [row for row in rows if row[0] == "L3 mask at L2.out, head 0, last position"]
    assert best[3] == "< .006" and best[4] == "< .041"
    assert "1 of 36 configurations" in "".join(bullets(text)) and "best: L3 mask at L2.out, head 0" in "".join(
        bullets(text)
    )
    shown = tables.deciding_rows(found["grid"])
    assert any(row["mask"] == "head0" for row in shown) and any(row["pooling"] == "last" for row in shown)


def test_a_place_without_a_pooling_is_left_out_and_said():
    text, _, found = rendered("edge")
    assert len(found["grid"]) == 18
    assert "Left out, since the stream there is the same for all problems: L2.out, last position." in section(text, 3)
    assert len(table_of(text, "configuration", "k")) == 6
    assert "Left out" not in section(rendered("clear")[0], 3)


def test_sinks_are_counted_by_ranges():
    said = section(rendered("sunk")[0], 1)
    assert "L1.out to L3.out: 80 of 80 prompts have one; L4.out: 3 of 80 prompts have one" in said
    assert r"“\|&lt;s&gt;” at position 0 of the question (80 prompts)" in said
    assert "No prompt has one" in section(rendered("clear")[0], 1)
    assert "quantised, Q4_K_M" in rendered("sunk")[0]


def test_curves_at_their_ceiling_are_said_and_not_drawn():
    text, _, found = rendered("clear")
    assert figures.drawn_spaces(found, "language") == ["z"]
    assert "not drawn: language (Z⊥ and whole stream)." in section(text, 8)
    text, _, found = rendered("flat")
    assert [reader for reader in tables.READERS if figures.drawn_spaces(found, reader)] == []
    assert "Drawn: no reader" in text and "language (Z, Z⊥ and whole stream)" in section(text, 8)
    rows = {row[0]: row[1:] for row in table_of(text, "what is read")}
    assert set(rows["problem"]) == {"at its ceiling everywhere"}


def test_answers_that_do_not_recur_are_said():
    text, _, found = rendered("silent")
    assert "No answer recurs" in section(text, 8) and figures.drawn_spaces(found, "answer") == []
    assert "answer" not in [row[0] for row in table_of(text, "what is read")]
    rows = {row[0]: row[1:] for row in table_of(rendered("clear")[0], "what is read")}
    assert rows["answer"][0] == "17.0 % (chance 6.0 %)" and rows["language"][0] == "71.0 % (chance 50.0 %)"
    three = {row[0]: row[1:] for row in table_of(rendered("three")[0], "what is read")}
    assert three["language"][0] == "71.0 % (chance 33.3 %)"


def test_contingencies_say_what_was_fitted_where():
    text, _, found = rendered("contingencies")
    rows = {row[0]: row for row in table_of(section(text, 7), "contingency")}
    assert list(rows) == [tables.SUBSPACES[name] for name in ("centroid", "previous_layer", "sweep", "ard_mmd")]
    assert rows["(a) centroids"][1] == "L3.out, last position, 6" and rows["(a) centroids"][2].startswith("0.004 (")
    assert [row[-1] for row in rows.values()] == ["yes", "**no**", "**no**", "**no**"]
    bullet = next(line for line in bullets(text) if line.startswith("- Handed on"))
    assert (
        "fitted on 2 of these 40 problems" in bullet
        and "holds: yes (on problems outside of the fit contrast 0.004" in bullet
    )
    assert "beyond the text: yes, as random ones do" in bullet
    assert "builds no Z" in section(text, 6)
    blocks = [block for block in section(text, 5).split("\n\n") if block.startswith("| what tells")]
    assert len(blocks) == 2
    never, why = "they run where no configuration separates, and ", {"never": "--contingencies never"}
    why |= {"given": "the Z of --z-from", "clear": f"{never}3 of 36 do.", "elsewhere": f"{never}1 of 36 do."}
    for name, words in why.items():
        assert f"Not run: {words}" in section(rendered(name)[0], 7)


def test_a_given_z_is_scored_beside_the_verdict():
    text, _, found = rendered("given")
    assert found["verdict"] == "none" and found["given"]["holds"]
    bullet = next(line for line in bullets(text) if line.startswith("- Handed on"))
    assert "given by --z-from, on 12 problems that it was not fitted on: holds yes" in bullet
    assert "nothing new is measured" in section(text, 5) and "nothing new" not in rendered("clear")[0]
    assert "--z-from FOLDER" in text and "the given Z: ratio_Z" in page.summary(found)
    assert tables.own(found["given"]["centred"]) in section(text, 10)


def test_only_what_was_fitted_is_said_to_be():
    """A run that may fit on half of its problems, and does not, says nothing of that half."""
    contingent = results(grid(), contingencies=contingencies(), z=FITTED, settings={"fitting_share": 0.5})
    assert "is fitted on 50.0 % of them" in page.activations_section(judged(contingent))
    given = results(grid(), **GIVEN | {"settings": {"z_from": "abc", "fitting_share": 0.5}})
    for found in (given, CASES["never"][0]):
        assert "fitted on 50.0 %" not in page.activations_section(judged(found))


@pytest.mark.parametrize("problems, k, many", [(78, 38, False), (20, 38, True), (40, 30, True)])
def test_as_many_dimensions_as_problems_are_said_where_there_are(problems, k, many):
    assert ("as many dimensions as problems" in page.few_problems(problems, k)) is many


def test_the_command_is_that_of_the_run():
    command = next(line for line in rendered("given_layer")[0].splitlines() if line.startswith("python phase2"))
    assert command.endswith("--layer 3 --languages en zh --batch 16 --seed 0 --device cpu --dtype float32")
    command = next(line for line in rendered("never")[0].splitlines() if line.startswith("python phase2"))
    assert "--contingencies never" in command and command.endswith("--problems phase2.jsonl")


def test_draws_and_shuffles_are_those_of_the_results():
    text, _, _ = rendered("clear")
    assert "57 Haar subspaces" in section(text, 9) and "23 shuffled orders" in section(text, 8)
    assert "199 draws" in section(text, 2) and "99 draws" in section(text, 5) and "999" not in text


def test_claims_keep_their_names():
    names = "ratio primary centred beyond_text energy_cross energy_same multi best_k".split()
    assert [row["id"] for row in rendered("clear")[2]["claims"]] == names
