"""The hunt: verdicts on models with a known answer, every family, the tree's rules, and interruptions."""

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import weakref
from itertools import product
from math import prod
from pathlib import Path
from types import SimpleNamespace

import fewer
import pytest
import torch
from conftest import ROOT, interruptible, random_model
from controls import write_control
from hunt_parts import DISSOCIATES, LAYERS, parts, phase3_of

import verdicts
from bench.planted import BOTTLENECK, KINDS, write_planted
from lab import checkpoints, expected, runs
from reports import hunt as page

pytestmark = pytest.mark.usefixtures("fewer_draws")


@pytest.fixture
def fewest_draws():
    with fewer.applied(fewer.FEWEST):
        yield


def hunt(script, out: Path, *flags) -> dict:
    script("hunt.py").main([*map(str, flags), "--out", str(out), "--device", "cpu"])
    return json.loads((out / "hunt_results.json").read_text())


def branches(results: dict) -> dict:
    return {node["node"]: node["taken"] for node in results["path"]}


def held(results: dict) -> list[str]:
    """The contingencies of the path that hold."""
    (node,) = (node for node in results["path"] if node["node"] == "contingencies")
    return [row["z"] for row in node["candidates"] if row["holds"]]


@pytest.mark.slow
def test_a_planted_z_is_causal(script, tmp_path, monkeypatch):
    results = hunt(script, tmp_path / "out", "--model", write_planted(tmp_path / "planted", "planted").path)
    assert results["verdict"] == "causal_z"
    assert list(branches(results)) == ["behaviour", "separation", "patching", "end"]
    assert branches(results)["separation"] == "yes"
    assert branches(results)["patching"] == "yes"
    assert results["weight_based"]["separates"] == "clear"
    assert results["weight_based"]["causal"] == "double_dissociation"
    assert (results["z"]["found_by"], results["z"]["name"]) == ("weights", "weights")
    assert results["layers"]["predicted"] == BOTTLENECK
    assert results["layers"]["causal"]["layer"] == BOTTLENECK
    assert results["layers"]["agree"]
    holds = {row["id"]: row["holds"] for row in results["claims"]}
    assert holds["separation"] and holds["causal"] and holds["universal"]
    assert holds["second_model"] is None
    before = snapshot(tmp_path / "out")
    script("hunt.py").main(["--report-only", "--out", str(tmp_path / "out")])
    assert snapshot(tmp_path / "out") == before
    monkeypatch.setattr(verdicts, "LEVEL", 1e-9)  # phase 3's rule, judged anew in the hunt's tree too
    script("hunt.py").main(["--report-only", "--out", str(tmp_path / "out")])
    again = json.loads((tmp_path / "out" / "hunt_results.json").read_text())
    assert again["verdict"] != "causal_z" and again["reports"]["phase3"] != "double_dissociation"
    text = (tmp_path / "out" / "hunt_output.md").read_text()
    for link in [part.split(")")[0] for part in text.split("](")[1:]]:
        assert (tmp_path / "out" / link).exists(), link


@pytest.mark.slow
def test_a_decoy_is_refuted_and_what_activations_find_is_not_laid_to_the_weights(script, tmp_path):
    results = hunt(script, tmp_path / "out", "--model", write_planted(tmp_path / "decoy", "decoy", seed=1).path)
    assert results["weight_based"]["separates"] == "none"
    assert results["weight_based"]["causal"] != "double_dissociation"
    assert branches(results)["separation"] == "no"
    assert results["verdict"] == "causal_z"  # there is one, before the translation, where the weights do not point
    assert (results["z"]["found_by"], results["z"]["name"]) == ("activations", "answer_means")
    assert results["z"]["site"] <= KINDS["decoy"].translates
    text = (tmp_path / "out" / "hunt_output.md").read_text()
    assert "the weights do not predict these directions" in text.splitlines()[2]
    holds = {row["id"]: row["holds"] for row in results["claims"]}
    assert not holds["separation"] and not holds["comparison"] and holds["causal"] and holds["universal"] is not True


@pytest.fixture(scope="module")
def untrained(script, tmp_path_factory) -> SimpleNamespace:
    """A model with random weights and its hunt; tests must not change it."""
    folder = tmp_path_factory.mktemp("random")
    control = write_control(folder / "model", "random", noise=0.5, problems=40, language_share=0.1)
    with fewer.applied(fewer.FEWEST):
        results = hunt(script, folder / "out", "--model", control.path)
    return SimpleNamespace(model=control.path, out=folder / "out", results=results)


@pytest.mark.slow
def test_random_weights_have_no_z(untrained):
    results = untrained.results
    assert results["verdict"] == "untestable"  # it solves nothing, so that no rung can be patched
    assert results["tasks"]["math"]["untested"] == "no_rung"
    assert branches(results)["contingencies"] == "no"
    assert all(row["holds"] is not True for row in results["claims"] if row["id"] not in ("comparison",))


@pytest.mark.slow
def test_models_of_two_families_run_end_to_end_and_are_compared(script, families, tmp_path, fewest_draws):
    names = []
    one_group = random_model(tmp_path / "one_group", "llama", num_key_value_heads=1)
    for folder in (shutil.copytree(families["qwen3"], tmp_path / "qwen3"), one_group):
        for file in ("problems.jsonl", "reasoning.jsonl"):  # fewer problems: only running through is asked
            lines = (folder / file).read_text(encoding="utf-8").splitlines()[:12]
            (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
        names.append(str(folder))
    results = hunt(script, tmp_path / "out", "--models", *names, "--languages", "zh", "en")
    assert list(results["models"]) == sorted(Path(name).name for name in names)
    assert results["verdict"] == "untestable" and results["where"]["models"] == {}
    for name, row in results["models"].items():
        assert row["verdict"] in ("untestable", "correlational_z"), (
            name
        )  # too few problems for phase 3, the bridge, the ablation
        own = json.loads((tmp_path / "out" / row["folder"] / "hunt_results.json").read_text())
        assert own["fingerprint"] == row["fingerprint"]
        assert {"one", "two", "phase0", "phase2", "phase3"} <= set(row["reports"])
        assert {"phase3b", "ablation"} <= set(own["left_out"])
    report = (tmp_path / "out" / "hunt_output.md").read_text()
    assert (
        "(one KV group: none over groups)"
        in (tmp_path / "out" / results["models"][one_group.name]["folder"] / "hunt_output.md").read_text()
    )
    for link in [part.split(")")[0] for part in report.split("](")[1:]]:
        assert (tmp_path / "out" / link).exists(), link
    before = report
    (tmp_path / "out" / "hunt_output.md").unlink()
    script("hunt.py").main(["--report-only", "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "hunt_output.md").read_text() == before


@pytest.fixture
def judged(script):
    """Parts -> what their hunt in a model of 8 layers saves of them."""
    return lambda given: script("hunt.py").REPORT.judged(runs.significant(script("hunt.py").gather(given, LAYERS)))


LEARNED = {"learned": DISSOCIATES}


@pytest.mark.parametrize(
    "given, verdict",
    [
        ({"separates": "clear", "found": "double_dissociation"}, "causal_z"),
        ({"separates": "clear", "best_layer": DISSOCIATES}, "causal_z"),
        ({"separates": "clear", "beyond_text": False, "found": "double_dissociation"}, "causal_z"),
        ({"separates": "none", "holds": True, "found": "double_dissociation"}, "causal_z"),
        ({"separates": "none", "holds": True, "again": {"ard_mmd": "double_dissociation"}}, "causal_z"),
        (
            {"separates": "none", "holds": True, "found": "illusion", "again": {"ard_mmd": "double_dissociation"}},
            "causal_z",
        ),
        ({"separates": "clear", "answer_means": DISSOCIATES} | LEARNED, "causal_z"),
        ({"separates": "clear"} | LEARNED, "learned_only"),
        ({"separates": "none", "answer_means": {"verdict": "partial"}} | LEARNED, "learned_only"),
        ({"separates": "clear", "found": "answer_word"}, "answer_word"),
        ({"separates": "none", "found": "illusion"}, "illusion"),
        ({"separates": "clear", "found": "inconclusive"}, "inconclusive"),
        ({"separates": "clear", "found": "partial"}, "partial_z"),
        ({"separates": "none", "found": "partial"}, "partial_z"),
        ({"separates": "none", "learned": {"verdict": "partial"}}, "no_z"),  # sought for its effect
        ({"separates": "none", "learned": {"verdict": "illusion"}}, "no_z"),
        ({"separates": "none", "found": "none", "again": {"ard_mmd": "partial"}}, "partial_z"),
        ({"separates": "none", "found": "none", "again": {"ard_mmd": "illusion"}}, "illusion"),
        ({"separates": "partial", "found": "none"}, "correlational_z"),
        ({"separates": "none", "holds": True, "found": "none"}, "correlational_z"),
        ({"separates": "clear", "rung": None}, "correlational_z"),
        ({"separates": "clear", "beyond_text": False, "found": "none"}, "no_z"),
        ({"separates": "clear", "beyond_text": None, "found": "none"}, "no_z"),
        ({"separates": "none", "holds": True, "beyond_text": False, "found": "none"}, "no_z"),
        ({"separates": "none", "found": "language_removed"}, "no_z"),
        ({"separates": "none", "found": "none"}, "no_z"),
        ({"separates": "none", "rung": None}, "untestable"),
        ({"separates": "none", "joint": ()}, "untestable"),
    ],
)
def test_verdicts_follow_from_the_rule(judged, given, verdict):
    results = judged(parts(**given))
    assert results["verdict"] == verdict
    assert results["path"][-1]["taken"] == verdict
    assert ("contingencies" in [node["node"] for node in results["path"]]) == (given["separates"] == "none")
    assert (results["z"]["found_by"] is not None) == (verdict in ("causal_z", "learned_only"))
    if verdict == "learned_only":
        assert results["z"]["name"] == "learned"
        assert claim(results, "causal") is False  # the recipe's Z is not of this kind
    if "again" in given:
        assert results["z"]["method"] == "ard_mmd"


def test_a_second_kind_of_problem_that_cannot_be_patched_is_no_evidence(judged):
    given = parts("clear", found="double_dissociation")
    for rung, joint in ((None, ()), ("reasoning", ())):
        given["reasoning/phase3"] = phase3_of(rung=rung, joint=joint)
        results = judged(given)
        (row,) = (row for row in results["claims"] if row["id"] == "not_just_math")
        assert row["holds"] is None and row["measured"].startswith("no cause tested: ")
    given["reasoning/phase3"] = phase3_of(rung="reasoning", answer_means=DISSOCIATES, best_layer=DISSOCIATES)
    assert claim(judged(given), "not_just_math") is False  # those are fitted or chosen on the reasoning itself
    given["reasoning/phase3"] = phase3_of(rung="reasoning", weights_at_carrier=DISSOCIATES)
    assert claim(judged(given), "not_just_math") is True
    given["reasoning/phase3"] = phase3_of(rung="reasoning", weights_at_carrier={"verdict": "inconclusive"})
    assert claim(judged(given), "not_just_math") is None


def test_a_z_that_surely_fails_no_test_is_not_said_to_be_none(judged):
    """It is partial because intervals hold what the tests ask for: neither shown, nor excluded."""
    unsure = {"verdict": "partial", "failed": [], "open_tests": ["moves the answer"]}
    results = judged(parts("clear", weights=unsure))
    assert results["verdict"] == "partial_z" and claim(results, "causal") is None
    assert claim(judged(parts("clear", found="partial")), "causal") is False
    beside = judged(parts("clear", found="partial", weights_at_carrier=unsure))  # one excludes nothing of another
    assert claim(beside, "causal") is None
    given = parts("clear", found="double_dissociation")
    given["reasoning/phase3"] = phase3_of(rung="reasoning", weights_at_carrier=unsure)
    assert claim(judged(given), "not_just_math") is None


def claim(results: dict, name: str) -> bool | None:
    return next(row["holds"] for row in results["claims"] if row["id"] == name)


@pytest.mark.parametrize("layer, agree", [(0, True), (1, True), (2, True), (3, False)])
def test_prediction_and_cause_agree_within_a_layer(judged, layer, agree):
    best = {"layer": layer, "site": layer + 1}
    given = parts(best_layer=best | DISSOCIATES)
    assert judged(given)["layers"]["agree"] is None  # weights that single out no layer predict none
    given["one"]["verdict"] = "clear_bottleneck"
    found = judged(given)["layers"]
    assert found["agree"] is agree
    assert found["chance"] == 3 / 8
    for verdict in ("partial", "none", "inconclusive", "untestable"):
        assert judged(parts(best_layer=best | {"verdict": verdict}))["layers"]["agree"] is None
    text = page.layer_text(found)
    assert "(distance" in text
    assert "D 1.60 (1.50 to 1.70), of the draws' pairs 1.50; random subspaces of that size (Haar)" in text


@pytest.mark.parametrize(
    "given, key, why",
    [
        ({"separates": "clear"}, "phase3b", None),
        ({"separates": "clear", "rung": None}, "phase3b", "no_rung"),
        ({"separates": "clear", "rung": None}, "ablation", "no_rung"),
        ({"separates": "clear", "joint": ()}, "ablation", None),
        ({"separates": "clear", "rung": None}, "reasoning/phase2", None),  # where math could not tell, others may
        ({"separates": "clear"}, "reasoning/phase2", None),
        ({"separates": "clear", "beyond_text": False}, "reasoning/phase2", "nothing_to_carry"),
        ({"separates": "none"}, "reasoning/phase3", "nothing_to_carry"),
        ({"separates": "none", "answer_means": DISSOCIATES}, "reasoning/phase2", "nothing_to_carry"),  # not handed on
        ({"separates": "none", "found": "partial"}, "reasoning/phase3b", None),
        ({"separates": "none", "weights_at_carrier": DISSOCIATES}, "reasoning/phase2", None),
    ],
)
def test_a_step_that_can_tell_nothing_is_known_beforehand(script, given, key, why):
    found = parts(**given)
    assert script("hunt.py").pointless(key, found) == why
    assert why is None or why in page.REASONS
    if key == "phase3b":  # the second kind of problem asks its own phase 3
        assert (
            script("hunt.py").pointless("reasoning/phase3b", found | {"reasoning/phase3": phase3_of(rung=None)})
            == "no_rung"
        )


def test_steps_that_tell_nothing_are_left_out_and_said(script, small, tmp_path, monkeypatch, capsys, settled):
    write_parts(tmp_path, small, parts("none"))
    ran = []
    monkeypatch.setattr(script("hunt.py"), "run_here", lambda *command: ran.append(command) or 0)
    results = hunt(script, tmp_path, "--model", small)
    out = capsys.readouterr().out.splitlines()
    second = ["reasoning/phase2", "reasoning/phase3", "reasoning/phase3b"]
    assert results["left_out"] == dict.fromkeys(second, "nothing_to_carry")
    said = [line for line in out if line.startswith("== left out")]
    assert said == [f"== left out: {key}, since {page.REASONS['nothing_to_carry']}" for key in second]
    begun = [line for line in out if line.startswith("== part")]
    assert begun[0] == "== part 1 of 10: 1.py" and begun[-1] == "== part 7 of 10: ablation.py"
    assert len(ran) == 7 and any(line.startswith("expect about ") for line in out)
    text = (tmp_path / "hunt_output.md").read_text()
    assert f"| Phase 2 | reasoning | not run: {page.REASONS['nothing_to_carry']} |" in text


def test_the_parts_are_counted_as_far_as_is_known(script):
    module = script("hunt.py")
    arguments, plan = module.parse_arguments(["--learned"]), module.Plan(dict.fromkeys(module.ASKS, ()), {})
    given = parts("clear", found="partial")
    steps = list(module.steps(arguments, plan, given, {}))
    assert len(steps) == module.STEPS
    assert [step.key for step in steps if "--learned" in step.flags] == ["phase3"]
    left_out = {}
    assert len(list(module.steps(arguments, plan, parts("clear", rung=None), left_out))) == module.STEPS - len(left_out)
    assert {"phase3b", "ablation"} <= left_out.keys()


def test_a_larger_model_is_expected_to_take_longer(monkeypatch, small, tmp_path):
    monkeypatch.setattr(expected, "speed", lambda *_: 1e9)
    folders = [checkpoints.find_model(str(path)) for path in (small, random_model(tmp_path / "wide", hidden_size=96))]
    device, dtype = torch.device("cpu"), torch.float32
    found = [expected.seconds(folder, device, dtype) for folder in folders]
    assert all(found[0][part] < found[1][part] for part in found[0])
    assert {"1.py and 2.py", "phase 0", "phase 3", "ablation"} <= set(found[0])
    said = expected.sentence(folders[0], device, dtype)
    assert re.fullmatch(r"expect about \d+ minutes? on this cpu with the suite's own problems, most in .* and .*", said)
    assert [expected.minutes(seconds) for seconds in (60, 600, 7200)] == ["1 minute", "10 minutes", "2.0 hours"]


def at(layers: int = 8, joint: tuple = (4, 5), predicted: int = 3, place: str = "joint", measured=range(9)) -> dict:
    """A model of a comparison as far as the place of answer and language goes."""
    carriers = {"answer": list(joint), "language": list(joint), "joint": list(joint)}
    return {"layers": layers, "carriers": carriers, "measured": list(measured), "weight_based": {"place": place}} | {
        "predicted": predicted, "window": None, "causal": None, "verdict": "no_z", "dissociates": False,
        "predicted_verdict": "weak_bottleneck",
    }  # fmt: skip


CAUSAL = {"verdict": "causal_z", "dissociates": True}
UNSURE = {"predicted_verdict": "no_bottleneck"}


def test_the_chance_of_pointing_where_both_pass():
    finding = verdicts.finding
    assert finding.at_predicted_place(at()) == {"carries_both": True, "chance": 2 / 6}  # of L1.out to L6.out
    assert finding.at_predicted_place(at(joint=(1, 8), place="answer")) == {"carries_both": False, "chance": 0}  # edges
    for chances in ([], [0.3], [0.2, 0.5], [0.2, 0.5, 0.9, 0.1]):
        for count in range(len(chances) + 2):
            found = 0.0
            for hits in product((False, True), repeat=len(chances)):
                likely = prod(chance if hit else 1 - chance for hit, chance in zip(hits, chances))
                found += likely * (sum(hits) >= count)
            assert finding.at_least(count, chances) == pytest.approx(found)


@pytest.mark.parametrize(
    "rows, verdict, place",
    [
        ([at() | CAUSAL, at() | CAUSAL], "generalises", None),
        ([at(joint=(4,))] * 3, "does_not_generalise", True),  # p 1/216
        ([at() | CAUSAL, at(place="answer")], "does_not_generalise", False),
        ([at() | CAUSAL, at(place="answer") | {"verdict": "partial_z", "dissociates": None}], "inconclusive", False),
        ([at(), at(joint=(), place="none")], "untestable", None),
        ([at(joint=(), place="none")] * 2, "untestable", None),
        ([at(place="answer") | UNSURE] * 2, "does_not_generalise", None),  # nothing was predicted
        ([at(joint=(4,)) | UNSURE] * 3, "does_not_generalise", None),
    ],
)
def test_what_several_models_say(rows, verdict, place):
    models = {str(index): row | {"model": {"weights_hash": str(index)}} for index, row in enumerate(rows)}
    found = verdicts.hunt({"models": models})
    assert found["verdict"] == verdict
    assert found["holds"]["place"] is place
    assert found["holds"]["second_model"] is ({"generalises": True, "does_not_generalise": False}.get(verdict))
    assert len(found["where"]["models"]) == len(found["tested"])


def test_a_tier_asks_for_those_before_it():
    holds = {claim: True for claims in verdicts.TIERS.values() for claim in claims}
    assert verdicts.finding.tiers(holds) == {"minimal": True, "strong": True, "transformative": True}
    assert verdicts.finding.tiers(holds | {"causal": None}) == {"minimal": True, "strong": None, "transformative": None}
    found = verdicts.finding.tiers(holds | {"causal": None, "structure": False})
    assert found == {"minimal": False, "strong": False, "transformative": False}


def write_parts(out: Path, folder: Path, given: dict) -> None:
    """The scripts' results files as they would lie there for this model."""
    model = checkpoints.find_model(str(folder)).identity
    for key, part in given.items():
        path = out / f"{key}_results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"tests": {}} | part | {"script": path.name.removesuffix("_results.json"), "model": model})
        )


@pytest.fixture
def settled(script, monkeypatch):
    """The scripts' verdicts stay what they are: invented parts hold too little to be judged anew."""
    monkeypatch.setattr(script("hunt.py"), "judged_again", lambda part: part)


def test_a_changed_threshold_is_judged_again_without_a_model(script, small, tmp_path, monkeypatch, capsys, settled):
    given = parts("clear", best_layer=DISSOCIATES)
    given["one"]["verdict"] = "weak_bottleneck"
    write_parts(tmp_path, small, given)
    monkeypatch.setattr(script("hunt.py"), "run_here", lambda *_: 0)
    results = hunt(script, tmp_path, "--model", small)
    assert results["verdict"] == "causal_z" and results["layers"]["agree"]
    said = (
        "causal_z: best layer's weights' Z, L2.out: coverage 80.0 % (70.0 to 90.0); D 1.60 (1.50 to 1.70); wins across "
    )
    said += "languages 70.0 % (60.0 to 80.0); random subspaces of that size (Haar): coverage "
    said += "5.0 %, D 0.02, 95 % point 0.10; p < .009 (120 draws), Holm < .021; 1280 pairs of words -> "
    assert said in capsys.readouterr().out
    before = snapshot(tmp_path)
    monkeypatch.setattr(checkpoints, "find_model", None)  # nothing but the files is read from here on
    again = ["--report-only", "--out", str(tmp_path)]
    script("hunt.py").main(again)
    assert snapshot(tmp_path) == before
    monkeypatch.setattr(verdicts.finding, "NEAR", 0)
    script("hunt.py").main(again)
    results = json.loads((tmp_path / "hunt_results.json").read_text())
    assert results["layers"]["agree"] is False
    report = (tmp_path / "hunt_output.md").read_text()
    assert "They do not agree (distance 1; within 0 by chance" in report
    with pytest.raises(runs.UserError, match="is about small"):
        script("hunt.py").main([*again, "--model", "other/model"])
    older = json.loads((tmp_path / "phase3_results.json").read_text())
    del older["rung"]
    (tmp_path / "phase3_results.json").write_text(json.dumps(older))
    with pytest.raises(runs.UserError, match="results lack 'rung', an older edition wrote some: run the hunt again"):
        script("hunt.py").main(again)


def test_a_hunt_is_judged_and_worded_anew_each_time(script, small, tmp_path, monkeypatch, capsys):
    write_parts(tmp_path, small, parts("clear"))
    monkeypatch.setattr(script("hunt.py"), "run_here", lambda *_: 0)
    first = hunt(script, tmp_path, "--model", small)
    before = snapshot(tmp_path)
    assert hunt(script, tmp_path, "--model", small) == first
    assert snapshot(tmp_path) == before
    assert "there already" not in capsys.readouterr().out
    write_parts(tmp_path, small, parts("partial"))
    other = hunt(script, tmp_path, "--model", small)
    assert other["fingerprint"] != first["fingerprint"]
    assert other["settings"]["parts"]["phase0"] == first["settings"]["parts"]["phase0"]


def test_several_models_are_compared_and_judged_again(script, small, tmp_path, monkeypatch, capsys, settled):
    monkeypatch.setattr(script("hunt.py"), "run_here", lambda *_: 0)
    names = [str(random_model(tmp_path / name, seed=seed)) for seed, name in enumerate("ba")]
    out = tmp_path / "out"
    for name in names:
        given = parts("clear", found="double_dissociation", best_layer=DISSOCIATES)
        given["one"]["verdict"] = "clear_bottleneck"
        write_parts(out / Path(name).name, Path(name), given)
    results = hunt(script, out, "--models", *names)
    assert results["verdict"] == "generalises"
    assert results["causal"] == ["a", "b"]
    assert {row["id"]: row["holds"] for row in results["claims"]} == {
        "second_model": True,
        "universal": None,  # two layers of eight in reach: by chance in 3/8 x 3/8
        "place": None,
    }
    assert (
        "generalises: causal Z in 2 of 2 models that could be tested; the weights point where both pass in 2 of 2 -> "
        in capsys.readouterr().out
    )
    before = snapshot(out)
    script("hunt.py").main(["--report-only", "--out", str(out)])
    assert snapshot(out) == before
    monkeypatch.setattr(verdicts.finding, "NEAR", 0)
    script("hunt.py").main(["--report-only", "--out", str(out)])
    again = json.loads((out / "hunt_results.json").read_text())
    assert {row["id"]: row["holds"] for row in again["claims"]} == {
        "second_model": True,
        "universal": False,
        "place": None,
    }
    with pytest.raises(runs.UserError, match="is about several models"):
        script("hunt.py").main(["--report-only", "--out", str(out), "--model", names[0]])
    with pytest.raises(runs.UserError, match="comparison of several models"):
        hunt(script, out, "--model", small)
    with pytest.raises(runs.UserError, match="holds results of a"):  # before any step: it would end in a refusal
        hunt(script, out / "a", "--models", *names)


def snapshot(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "run.log"
    }


@pytest.mark.slow
def test_an_interrupted_hunt_goes_on_and_ends_with_the_same_bytes(script, untrained, tmp_path, fewest_draws):
    """Processes of their own, stopped by Ctrl-C and killed in the middle; bench/interruptions.py does it in every script."""
    path, out = untrained.model, tmp_path / "out"
    command = [sys.executable, "-c", fewer.code(fewer.FEWEST, "hunt")]
    command += ["--model", str(path), "--out", str(out), "--device", "cpu"]
    for file, how in (("one_results.json", signal.SIGINT), ("phase0_results.json", signal.SIGKILL)):
        process = subprocess.Popen(
            command,
            start_new_session=True,
            preexec_fn=interruptible,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 120
        while not (out / file).exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, how)
        _, errors = process.communicate(timeout=60)
        if how == signal.SIGINT:
            assert "Traceback" not in errors
            assert process.returncode == 2, errors
    hunt(script, out, "--model", path)
    assert snapshot(out) == snapshot(untrained.out)


def test_a_failing_step_is_named_and_other_models_go_on(script, small, tmp_path, monkeypatch, capfd):
    module = script("hunt.py")
    monkeypatch.setattr(module, "run_here", lambda *_: 2)
    with pytest.raises(runs.UserError, match=r"1\.py ended with status 2"):
        hunt(script, tmp_path / "one", "--model", small)
    with pytest.raises(runs.UserError, match="nowhere: no such folder.*1.py ended"):
        module.main(["--models", "./nowhere", str(small), "--out", str(tmp_path / "two"), "--device", "cpu"])
    results = json.loads((tmp_path / "two" / "hunt_results.json").read_text())
    assert set(results["failures"]) == {"nowhere", small.name}
    text = (tmp_path / "two" / "hunt_output.md").read_text()
    assert "No model's hunt came to its end." in text and "- nowhere did not finish: " in text
    with pytest.raises(runs.UserError, match="same name"):
        module.main(["--models", "tiny", "./tiny", "--out", str(tmp_path / "three")])


def test_a_step_that_fails_ends_alone_and_ctrl_c_ends_the_hunt(script, monkeypatch, capsys):
    module, step = script("hunt.py"), script("1.py")

    def ends(with_what: Exception | None) -> int:
        def main(flags: list[str]) -> None:
            if with_what:
                raise with_what

        monkeypatch.setattr(step, "main", main)
        return module.run_here("1.py", [])

    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)  # as another model's hunt may leave them
    assert ends(None) == 0 and torch.get_num_threads() == module.THREADS
    torch.set_num_threads(threads)
    assert ends(runs.UserError("no such model")) == 2 and capsys.readouterr().err == "error: no such model\n"
    assert ends(MemoryError("of 9 GiB")) == 2 and "out of memory (of 9 GiB)" in capsys.readouterr().err
    assert ends(ZeroDivisionError()) == 1 and "ZeroDivisionError" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        ends(KeyboardInterrupt())


def test_ctrl_c_while_memory_is_freed_is_not_lost(script):
    """Python ignores an exception in what runs as an object is freed."""

    class Round:
        """Refers to itself, so that only the collector frees it."""

    module, before = script("hunt.py"), signal.getsignal(signal.SIGINT)
    gc.disable()  # or it may come before its time
    try:
        freed = Round()
        freed.itself = freed
        weakref.finalize(freed, os.kill, os.getpid(), signal.SIGINT)
        del freed
        with pytest.raises(KeyboardInterrupt):
            module.let_go()
    finally:
        gc.enable()
    assert signal.getsignal(signal.SIGINT) is before


def test_steps_get_the_users_flags(script, small, tmp_path, monkeypatch, capsys):
    commands, module = [], script("hunt.py")
    failed = SimpleNamespace(wait=lambda: 1)
    monkeypatch.setattr(module, "run_here", lambda *command: commands.append(command) or 1)
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: commands.append(command) or failed)
    flags = ["--model", str(small), "--out", str(tmp_path), "--dtype", "float32", "--seed", "7", "--fresh"]
    with pytest.raises(runs.UserError):
        module.main([*flags, "--fold-norm", "--device", "cpu"])
    ((name, command),) = commands
    assert name == "1.py"
    for flag in ("--fold-norm", "--fresh"):
        assert flag in command
    assert command[command.index("--seed") + 1] == "7"
    arguments = module.parse_arguments([*flags, "--processes", "2"])
    commands.clear()
    with pytest.raises(runs.UserError):
        module.run_step(module.Step("phase0_behavioral.py", "phase0"), arguments)
    assert commands[0][1:3] == ["-m", "accelerate.commands.launch"]
    assert commands[0][commands[0].index("--num_processes") + 1] == "2"


def write_rows(folder: Path, count: int, words: bool, languages: tuple = ("en", "zh")) -> list[Path]:
    """A user's problems: one JSONL file with answers in words, or MGSM's files without."""
    if not words:
        rows = {language: [f"{language} {index}?\t{index}" for index in range(count)] for language in languages}
        files = {folder / f"mgsm_{language}.tsv": "\n".join(lines) for language, lines in rows.items()}
    else:
        texts = [{language: f"{language} {index}?" for language in languages} for index in range(count)]
        rows = [{"id": str(index), "answer": "x", "question": text} for index, text in enumerate(texts)]
        rows = [json.dumps(row | {"answer_text": dict.fromkeys(languages, "x")}) for row in rows]
        files = {folder / "given.jsonl": "\n".join(rows)}
    for file, text in files.items():
        file.write_text(text, encoding="utf-8")
    return list(files)


def planned(script, folder: Path, out: Path, *flags) -> tuple[dict[str, list[str]], object]:
    """The flags of every step that a hunt with these flags would run, by its key, and its plan."""
    module = script("hunt.py")
    arguments = module.parse_arguments(["--model", str(folder), "--out", str(out), *map(str, flags)])
    plan = module.make_plan(arguments, checkpoints.find_model(str(folder)))
    keys = [
        step
        for step in module.steps(arguments, plan, parts("clear"), dict(plan.left_out))
        if step.key not in plan.left_out
    ]
    return {step.key: list(step.flags) for step in keys}, plan


def after(flags: list[str], name: str) -> list[str]:
    """What stands behind a flag up to the next one."""
    rest = flags[flags.index(name) + 1 :] if name in flags else []
    return rest[: next((index for index, part in enumerate(rest) if part.startswith("--")), len(rest))]


def test_the_users_problems_go_to_every_step_that_asks(script, small, tmp_path):
    (file,) = write_rows(tmp_path, 20, words=True)
    shots = tmp_path / "shots.jsonl"
    shot = {"id": "s", "answer": "y", "question": {"en": "e?", "zh": "z？"}, "answer_text": {"en": "y", "zh": "y"}}
    shots.write_text(json.dumps(shot))
    given = ("--problems", file, "--exemplars", shots, "--limit", 12, "--languages", "zh", "en", "--batch", 3)
    flags, plan = planned(script, small, tmp_path, *given)
    assert plan.left_out == {}
    for key in ("phase0", "phase2", "phase3", "ablation"):
        assert after(flags[key], "--problems") == [str(file)] and after(flags[key], "--limit") == ["12"]
        assert after(flags[key], "--exemplars") == [str(shots)]
        assert after(flags[key], "--languages") == ["zh", "en"] and after(flags[key], "--batch") == ["3"]
    for key in ("reasoning/phase2", "reasoning/phase3"):  # problems of another kind, with exemplars of their own
        assert after(flags[key], "--problems") == [str(small / "reasoning.jsonl")]
        assert after(flags[key], "--limit") == ["12"] and str(shots) not in flags[key]
    assert "--problems" not in flags["phase3b"]
    flags, _ = planned(script, small, tmp_path, "--problems", file, "--limit", 20)
    assert "--limit" not in flags["phase3"] and after(flags["reasoning/phase3"], "--limit") == ["20"]
    flags, _ = planned(script, small, tmp_path)
    assert not {"--problems", "--exemplars", "--limit"} & set(flags["phase0"] + flags["phase2"] + flags["phase3"])
    assert "--easier" not in flags["reasoning/phase3"]
    (small / "reasoning.jsonl").rename(small / "other.jsonl")  # the suite's own, and from there down
    try:
        flags, _ = planned(script, small, tmp_path)
    finally:
        (small / "other.jsonl").rename(small / "reasoning.jsonl")
    assert after(flags["reasoning/phase3"], "--problems") == [str(runs.ROOT / "data" / "reasoning.jsonl")]
    assert after(flags["reasoning/phase3"], "--easier") == [str(runs.ROOT / "data" / "antonyms.jsonl")]
    assert "--easier" not in flags["reasoning/phase2"] + flags["phase3"]


def test_what_mgsm_does_not_allow_is_left_out_and_said_first(script, small, tmp_path, capsys):
    files = write_rows(tmp_path, 6, words=False)
    flags, plan = planned(script, small, tmp_path, "--problems", *files)
    assert plan.left_out == dict.fromkeys(("phase3", "phase3b", "ablation"), "no_answer_text")
    assert after(flags["phase2"], "--problems") == list(map(str, files))
    assert {"phase0", "phase2", "reasoning/phase2", "reasoning/phase3", "reasoning/phase3b"} <= set(flags)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(
        "== left out: phase3, phase3b, ablation, since problem 'mgsm-001' has no answer_text for en, zh"
    )


def test_a_second_kind_of_problem_in_other_languages_is_left_out(script, small, tmp_path, capsys):
    files = write_rows(tmp_path, 8, words=True, languages=("en", "de"))
    shot = {"id": "s", "answer": "y", "question": {"en": "e?", "de": "d?"}, "answer_text": {"en": "y", "de": "z"}}
    (tmp_path / "shots.jsonl").write_text(json.dumps(shot))
    given = ("--languages", "en", "de", "--problems", *files, "--exemplars", tmp_path / "shots.jsonl")
    flags, plan = planned(script, small, tmp_path, *given)
    assert plan.left_out == dict.fromkeys(("reasoning/phase2", "reasoning/phase3", "reasoning/phase3b"), "no_texts")
    assert "ablation" in flags
    (line,) = capsys.readouterr().out.splitlines()
    assert "reasoning.jsonl, line 1: question: 'de' is missing (it is in en, zh)" in line


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--limit", "7"], "7 problems to ask; the hunt needs 8 or more to fit and to test"),
        (["--limit", "3"], "3 problems to ask; the hunt needs 4 or more"),
        (["--languages", "en", "de"], "problems.jsonl, line 1: question: 'de' is missing (it is in en, zh)"),
        (["--problems", "nowhere.jsonl"], "nowhere.jsonl: no such problem file"),
        (["--languages", "en", "xx"], "no template"),
    ],
)
def test_what_would_fail_after_hours_fails_before_the_first_step(script, small, tmp_path, monkeypatch, flags, said):
    monkeypatch.setattr(script("hunt.py"), "run_here", None)
    with pytest.raises(runs.UserError, match=re.escape(said)):
        hunt(script, tmp_path, "--model", small, *flags)


@pytest.mark.slow
def test_a_hunt_on_mgsm_ends_and_is_judged_again(script, small, tmp_path, fewest_draws):
    path = shutil.copytree(small, tmp_path / "small")
    lines = (path / "reasoning.jsonl").read_text(encoding="utf-8").splitlines()[:12]
    (path / "reasoning.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = tmp_path / "out"
    results = hunt(script, out, "--model", path, "--problems", *write_rows(tmp_path, 10, words=False), "--limit", "8")
    assert results["verdict"] in ("correlational_z", "untestable")
    assert {"phase0", "phase2", "reasoning/phase3"} <= set(results["reports"])
    assert not (out / "phase3_results.json").exists()
    text = (out / "hunt_output.md").read_text()
    for link in [part.split(")")[0] for part in text.split("](")[1:]]:
        assert (out / link).exists(), link
    before = snapshot(out)
    script("hunt.py").main(["--report-only", "--out", str(out)])
    assert snapshot(out) == before


@pytest.mark.parametrize("chosen, named", [("cpu", "cpu"), ("cuda", "auto")])
def test_only_the_hunt_warns_of_the_cpu(script, monkeypatch, chosen, named):
    """With a GPU `auto` is handed on: the processes of a launch must each find their own."""
    module = script("hunt.py")
    monkeypatch.setattr(runs, "choose_device", lambda name: torch.device(chosen))
    assert module.children_device(module.parse_arguments([])) == named
