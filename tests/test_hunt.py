"""The hunt: verdicts on models with a known answer, every family, the tree's rules, and interruptions."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, random_model
from controls import BOTTLENECK, write_control

from lab import runs


@pytest.fixture
def in_process(script, monkeypatch):
    """Steps run in this process, with the flags of their command lines: only the start of Python is saved."""

    class Finished:
        returncode = 0

    def run(command, **_):
        name = next(index for index, part in enumerate(command) if part.endswith(".py"))
        script(Path(command[name]).name).main(command[name + 1 :])
        return Finished

    monkeypatch.setattr(subprocess, "run", run)


@pytest.fixture
def quick(script, monkeypatch):
    """Fewer draws, for models about which only running through is asked."""
    monkeypatch.setattr(script("phase2_z_extraction.py"), "DRAWS", 200)
    monkeypatch.setattr(script("phase2_z_extraction.py"), "ARD_STEPS", 10)
    monkeypatch.setattr(script("phase3_patching.py"), "DRAWS", 20)
    monkeypatch.setattr(script("phase3b_bridge.py"), "SHUFFLES", 20)
    monkeypatch.setattr(script("phase3b_bridge.py"), "RANDOM_SUBSPACES", 5)


def hunt(script, out: Path, *flags) -> dict:
    script("hunt.py").main([*map(str, flags), "--out", str(out), "--device", "cpu"])
    return json.loads((out / "hunt_results.json").read_text())


def control(path: Path, kind: str) -> Path:
    return write_control(path, kind, noise=0.5, problems=40, language_share=0.1).path


def branches(results: dict) -> dict:
    return {node["node"]: node["branch"] for node in results["path"]}


# ---- models with a known answer -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_planted_z_is_causal(script, tmp_path, in_process):
    results = hunt(script, tmp_path / "out", "--model", control(tmp_path / "planted", "planted"))
    assert results["verdict"] == "causal_z"
    assert list(branches(results)) == ["behaviour", "separation", "patching", "end"]
    assert branches(results)["separation"] == "yes"
    assert branches(results)["patching"] == "yes"
    assert results["weight_based"] == {"separates": "clear", "causal": "double_dissociation", "handed_on": "weight"}
    assert results["layers"]["predicted"] == BOTTLENECK
    assert results["layers"]["causal"]["layer"] == BOTTLENECK
    assert results["layers"]["agree"]
    assert results["tasks"]["reasoning"]["patching"] == "double_dissociation"  # the same Z, nothing fitted
    holds = {row["id"]: row["holds"] for row in results["claims"]}
    assert holds["separation"] and holds["causal"] and holds["universal"] and holds["not_just_math"]
    assert holds["second_model"] is None
    text = (tmp_path / "out" / "hunt_output.md").read_text()
    for link in [part.split(")")[0] for part in text.split("](")[1:]]:
        assert (tmp_path / "out" / link).exists(), link


@pytest.mark.slow
def test_a_decoy_is_refuted_and_the_contingency_named(script, tmp_path, in_process):
    results = hunt(script, tmp_path / "out", "--model", control(tmp_path / "decoy", "decoy"))
    assert results["weight_based"] == {"separates": "none", "causal": "none", "handed_on": "centroid"}
    assert branches(results)["separation"] == "no"
    assert "(a) language centroids" in branches(results)["contingencies"]
    assert results["verdict"] == "causal_z"  # by the rule, of the Z that the contingency found
    text = (tmp_path / "out" / "hunt_output.md").read_text()
    assert "language centroids removed" in text.splitlines()[2]
    assert "does not separate them and does not move the answer" in text.splitlines()[2]
    holds = {row["id"]: row["holds"] for row in results["claims"]}
    assert not holds["separation"] and not holds["comparison"]


@pytest.mark.slow
def test_random_weights_have_no_z(script, tmp_path, in_process):
    results = hunt(script, tmp_path / "out", "--model", control(tmp_path / "random", "random"))
    assert results["verdict"] == "no_z"
    assert branches(results)["contingencies"] == "none holds"
    assert all(row["holds"] is not True for row in results["claims"] if row["id"] not in ("comparison",))


@pytest.mark.slow
def test_every_family_runs_end_to_end_and_is_compared(script, families, tmp_path, in_process, quick):
    names = []
    one_group = random_model(tmp_path / "one_group", "llama", num_key_value_heads=1)
    for folder in (*(shutil.copytree(families[name], tmp_path / name) for name in ("qwen3", "mistral")), one_group):
        for file in ("problems.jsonl", "reasoning.jsonl"):  # fewer problems: only running through is asked
            lines = (folder / file).read_text(encoding="utf-8").splitlines()[:12]
            (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
        names.append(str(folder))
    results = hunt(script, tmp_path / "out", "--models", *names, "--languages", "zh", "en")
    assert list(results["models"]) == sorted(names)
    assert results["verdict"] == "does_not_generalise"
    for name, row in results["models"].items():
        assert row["verdict"] in ("no_z", "correlational_z"), name
        own = json.loads((tmp_path / "out" / row["folder"] / "hunt_results.json").read_text())
        assert own["fingerprint"] == row["fingerprint"]
        assert {"one", "two", "phase0", "phase2", "phase3", "phase3b", "ablation"} <= set(row["reports"])
    report = (tmp_path / "out" / "hunt_output.md").read_text()
    assert (
        "(one KV group: none over groups)"
        in (tmp_path / "out" / results["models"][str(one_group)]["folder"] / "hunt_output.md").read_text()
    )
    for link in [part.split(")")[0] for part in report.split("](")[1:]]:
        assert (tmp_path / "out" / link).exists(), link
    before = report
    (tmp_path / "out" / "hunt_output.md").unlink()
    script("hunt.py").main(["--report-only", "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "hunt_output.md").read_text() == before


# ---- rules ----------------------------------------------------------------------------------------------------------


def parts(separates: str = "none", holds: bool = False, patched: str = "none", p: float = 0.005, **tried) -> dict:
    """What `decide` reads of the scripts' results, as the scripts write them."""
    success = dict.fromkeys(("z", "z_perp", "full", "full_wrong_donor", "random", "random_matched"), 0.5)
    phase3 = {
        "verdict": patched,
        "pairs": 10,
        "success": success,
        "null": {name: {"p": p} for name in ("random", "random_matched")},
        "causal_site": {"site": None},
        "paired": {"z": {"full": 0.01}},
        "fingerprint": "c",
    }
    candidates = {"centroid": {"contrast": 0.5, "p": 0.01, "p_holm": 0.01, "holds": holds, "layer": 1, "k": 3}}
    phase2 = {
        "verdict": separates,
        "primary": {"ratio_z": 1.0, "ratio_z_perp": 1.0, "p": 0.5, "contrast": 1.0},
        "z": {"method": "weight" if separates != "none" else "centroid", "holds": separates == "clear" or holds},
        "claims": [{"id": "centred", "holds": True}],
        "problems": 10,
    } | ({"contingencies": {"candidates": candidates}} if separates == "none" else {})
    bridge = {
        "verdict": "no_bridge",
        "claims": [],
        "held_out_r2": {"ridge": 0.0, "mean_shift": 0.0},
        "transfer": {"success": {"ridge": 0.0, "identity": 0.0}},
    }
    one = {"layer": 1, "mean": 3.0, "support": 0.5, "support_groups": 0.5}
    result = {
        "one": {"verdict": "no_bottleneck", "bottleneck": one},
        "phase0": {
            "verdict": "no_asymmetry",
            "settings": {"languages": ["en", "zh"]},
            "right": {"en": 1, "zh": 1},
            "n": 2,
            "mcnemar_p": 1.0,
        },
        "phase2": phase2,
        "phase3": phase3,
        "phase3b": bridge,
        "ablation": {"verdict": "no_effect", "claims": []},
        "reasoning/phase2": phase2,
        "reasoning/phase3": phase3,
        "reasoning/phase3b": bridge,
    }
    return result | {f"{name}/phase3": phase3 | {"verdict": verdict} for name, verdict in tried.items()}


class Folder:
    layers = 8


@pytest.mark.parametrize(
    "given, verdict",
    [
        ({"separates": "clear", "patched": "double_dissociation"}, "causal_z"),
        ({"separates": "clear", "patched": "partial"}, "correlational_z"),
        ({"separates": "partial", "patched": "none"}, "correlational_z"),
        ({"separates": "none", "holds": True, "patched": "double_dissociation"}, "causal_z"),
        ({"separates": "none", "holds": True, "patched": "none"}, "correlational_z"),
        ({"separates": "none", "holds": True, "patched": "none", "ard_mmd": "double_dissociation"}, "causal_z"),
        (
            {"separates": "none", "holds": True, "patched": "none", "p": 0.04, "ard_mmd": "double_dissociation"},
            "correlational_z",
        ),
        ({"separates": "none", "patched": "partial"}, "correlational_z"),
        ({"separates": "none", "patched": "none"}, "no_z"),
    ],
)
def test_verdicts_follow_from_the_rule(script, given, verdict):
    results = script("hunt.py").decide(parts(**given), Folder)
    assert results["verdict"] == verdict
    assert results["path"][-1]["branch"] == verdict
    assert ("contingencies" in [node["node"] for node in results["path"]]) == (given["separates"] == "none")


@pytest.mark.parametrize("layer, agree", [(0, True), (1, True), (2, True), (3, False)])
def test_prediction_and_cause_agree_within_a_layer(script, layer, agree):
    given = parts()
    given["phase3"]["causal_site"] = {"site": layer + 1, "layer": layer, "p_holm": 0.01}
    found = script("hunt.py").decide(given, Folder)["layers"]
    assert found["agree"] is agree
    assert found["chance"] == 3 / 8
    given["phase3"]["causal_site"]["p_holm"] = 0.2
    assert script("hunt.py").decide(given, Folder)["layers"]["agree"] is None


def test_every_contingency_that_holds_is_patched_before_the_hunt_says_no(script):
    module = script("hunt.py")
    given = parts(holds=True)
    candidates = given["phase2"]["contingencies"]["candidates"]
    candidates["ard_mmd"] = candidates["centroid"]
    candidates["sweep"] = candidates["centroid"] | {"holds": False}
    assert module.untried(given) == ["ard_mmd"]
    given["phase3"]["verdict"] = "double_dissociation"
    assert module.untried(given) == []
    assert module.untried(parts("clear")) == []


# ---- running --------------------------------------------------------------------------------------------------------


def snapshot(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "run.log"
    }


@pytest.mark.slow
def test_an_interrupted_hunt_goes_on_and_ends_with_the_same_bytes(script, tmp_path, in_process):
    """Processes of their own, stopped by Ctrl-C and killed in the middle; bench/interruptions.py does it 20 times."""
    path = control(tmp_path / "planted", "planted")
    hunt(script, tmp_path / "whole", "--model", path)
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "hunt.py"), "--model", str(path), "--out", str(out), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for after, how in ((6, signal.SIGINT), (12, signal.SIGKILL)):
        process = subprocess.Popen(
            command,
            start_new_session=True,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(after)
        os.killpg(process.pid, how)
        _, errors = process.communicate(timeout=60)
        if how == signal.SIGINT:
            assert "Traceback" not in errors
            assert process.returncode == 2, errors
    hunt(script, out, "--model", path)
    assert snapshot(out) == snapshot(tmp_path / "whole")


def test_a_failing_step_is_named_and_other_models_go_on(script, small, tmp_path, monkeypatch, capfd):
    class Failed:
        returncode = 2

    module = script("hunt.py")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: Failed)
    with pytest.raises(runs.UserError, match=r"1\.py ended with status 2"):
        hunt(script, tmp_path / "one", "--model", small)
    with pytest.raises(runs.UserError, match="nowhere: no such folder.*1.py ended"):
        module.main(["--models", "./nowhere", str(small), "--out", str(tmp_path / "two"), "--device", "cpu"])
    results = json.loads((tmp_path / "two" / "hunt_results.json").read_text())
    assert set(results["failures"]) == {"./nowhere", str(small)}
    with pytest.raises(runs.UserError, match="same name"):
        module.main(["--models", "tiny", "./tiny", "--out", str(tmp_path / "three")])


def test_steps_get_the_users_flags(script, small, tmp_path, monkeypatch):
    commands = []

    class Failed:
        returncode = 1

    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command) or Failed)
    flags = [
        "--model",
        str(small),
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--seed",
        "7",
        "--fresh",
    ]
    module = script("hunt.py")
    with pytest.raises(runs.UserError):
        module.main([*flags, "--fold-norm"])
    (command,) = commands
    assert command[1].endswith("1.py")
    for flag in ("--fold-norm", "--fresh"):
        assert flag in command
    assert command[command.index("--seed") + 1] == "7"
    arguments = module.parse_arguments([*flags, "--processes", "2"])
    commands.clear()
    with pytest.raises(runs.UserError):
        module.run_step(module.Step("phase0_behavioral.py", "phase0"), "tiny", arguments, tmp_path)
    assert commands[0][1:3] == ["-m", "accelerate.commands.launch"]
    assert commands[0][commands[0].index("--num_processes") + 1] == "2"
