"""What makes a script measure again: its settings, its inputs and its instruments; not words, comments or judging thresholds."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from lab import runs


@pytest.fixture
def copy(tmp_path) -> Path:
    """The project's code in a folder of its own, to be changed."""
    for path in [*ROOT.glob("*.py"), ROOT / "lab", ROOT / "reports", ROOT / "verdicts", ROOT / "data", ROOT / "tiny"]:
        target = tmp_path / "copy" / path.name
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target)
    return tmp_path / "copy"


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path.name} lacks {old!r}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def run(copy: Path) -> tuple[str, dict, str]:
    """(what 1.py prints, its results, its report)"""
    command = [sys.executable, "1.py", "--model", "tiny", "--device", "cpu", "--out", "out"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    results = json.loads((copy / "out" / "one_results.json").read_text())
    return done.stdout, results, (copy / "out" / "one_output.md").read_text()


@pytest.mark.slow
def test_words_and_thresholds_cost_no_measurement_and_instruments_do(copy):
    printed, before, _ = run(copy)
    assert "there already" not in printed
    change(copy / "reports" / "one.py", "Effective rank of", "The effective rank of")
    change(copy / "verdicts" / "__init__.py", "LEVEL = 0.05", "LEVEL = 1.1  # everything is significant")
    change(copy / "1.py", '"""Effective rank', '"""The effective rank')
    change(copy / "lab" / "statistics.py", "    return (1 +", "    # never zero\n    return (1 +")
    (copy / "out" / "one_output.md").unlink()
    printed, after, report = run(copy)
    assert "there already" in printed
    assert report.startswith("# The effective rank of")
    assert before["verdict"] == "no_bottleneck" != after["verdict"]  # judged again by today's rule
    assert after["fingerprint"] == before["fingerprint"]
    assert after["bottleneck"] == before["bottleneck"]
    change(copy / "utils.py", "def effective_rank", "SPARE = 1\n\n\ndef effective_rank")
    printed, after, _ = run(copy)
    assert "there already" not in printed
    assert after["fingerprint"] != before["fingerprint"]


def test_the_closure_holds_what_measures_and_nothing_else():
    names = [path.name for path in runs.import_closure(ROOT / "phase3_patching.py")]
    assert names[0] == "phase3_patching.py"
    assert {"utils.py", "runs.py", "engine.py", "questions.py", "numerals.py", "subspaces.py"} <= set(names)
    assert not {"verdicts", "reports"} & {path.parent.name for path in runs.import_closure(ROOT / "phase3_patching.py")}
    assert "questions.py" not in [path.name for path in runs.import_closure(ROOT / "1.py")]
