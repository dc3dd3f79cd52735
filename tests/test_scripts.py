"""What all scripts share: reproducible bytes, no work twice, --report-only, and one line for every bad input."""

import json
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, fails, interruptible, random_model

from lab import checkpoints, models, runs

SCRIPTS = {
    "1.py": "one",
    "2.py": "two",
    "phase0_behavioral.py": "phase0",
    "phase2_z_extraction.py": "phase2",
    "phase3_patching.py": "phase3",
    "phase3b_bridge.py": "phase3b",
    "ablation.py": "ablation",
}
QUICK = {
    "phase0_behavioral.py": ["--limit", "12"],
    "phase2_z_extraction.py": ["--limit", "8"],
    "phase3_patching.py": ["--limit", "12"],
    "ablation.py": ["--limit", "10"],
}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "run.log"}


def run_all(script, model, out, *flags) -> None:
    for name in SCRIPTS:
        script(name).main(["--model", str(model), "--out", str(out), "--device", "cpu", *QUICK.get(name, []), *flags])


pytestmark = pytest.mark.usefixtures("fewer_draws")


@pytest.fixture(scope="module")
def finished(script, small, tmp_path_factory) -> Path:
    """Every script's output on the small random model; tests must not change it."""
    out = tmp_path_factory.mktemp("finished")
    run_all(script, small, out)
    return out


def test_two_runs_write_the_same_bytes(script, small, finished, tmp_path):
    run_all(script, small, tmp_path)
    first, second = snapshot(finished), snapshot(tmp_path)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name] == second[name], name
    stems = {name.split("_")[0] for name in first if name != "z.safetensors"}
    assert stems == set(SCRIPTS.values())
    assert not any(name.startswith(".") for name in first)


def test_a_second_run_does_no_work(script, small, finished, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}

    def forbidden(*_, **__):
        raise AssertionError("work was done twice")

    monkeypatch.setattr(checkpoints, "stream_layers", forbidden)
    monkeypatch.setattr(models, "load_model", forbidden)
    run_all(script, small, finished)
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before
    lines = capsys.readouterr().out.splitlines()
    assert sum("there already" in line for line in lines) == len(SCRIPTS)
    assert sum(f" -> {finished}" in line for line in lines) == len(
        SCRIPTS
    )  # the verdict and where it stands, all the same
    with pytest.raises(AssertionError, match="twice"):
        run_all(script, small, finished, "--fresh")


def test_other_settings_and_lost_arrays_are_measured_again(script, small, finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "out")
    fingerprint = json.loads((out / "one_results.json").read_text())["fingerprint"]
    (out / "one_head_eff_rank.npy").unlink()
    script("1.py").main(["--model", str(small), "--out", str(out), "--device", "cpu"])
    assert (out / "one_head_eff_rank.npy").exists()
    assert json.loads((out / "one_results.json").read_text())["fingerprint"] == fingerprint
    script("1.py").main(["--model", str(small), "--out", str(out), "--device", "cpu", "--seed", "1"])
    assert json.loads((out / "one_results.json").read_text())["fingerprint"] != fingerprint


def test_report_only_renders_the_same_report_without_a_model(script, finished, tmp_path, monkeypatch):
    out = shutil.copytree(finished, tmp_path / "out")
    for path in [*out.glob("*.md"), *out.glob("*.png")]:
        path.unlink()
    monkeypatch.setattr(checkpoints, "find_model", None)
    for name in SCRIPTS:
        script(name).main(["--out", str(out), "--report-only"])
    assert snapshot(out) == snapshot(finished)


def test_report_only_is_about_the_model_that_was_named(script, small, finished, tmp_path, capsys):
    out = shutil.copytree(finished, tmp_path / "out")
    for name, stem in SCRIPTS.items():
        line = fails(script, capsys, name, "--report-only", "--model", "Qwen/Qwen2.5-3B", "--out", out)
        assert f"{stem}_results.json is about {small.name}, not about Qwen/Qwen2.5-3B" in line
        script(name).main(["--out", str(out), "--report-only", "--model", str(small)])
    assert snapshot(out) == snapshot(finished)


def test_a_folder_belongs_to_one_model(script, finished, tmp_path, capsys):
    """No script, the first one included, replaces a report about another model, whatever it is called."""
    out = shutil.copytree(finished, tmp_path / "out")
    other = random_model(tmp_path / "small", seed=5, num_hidden_layers=2)
    for name in SCRIPTS:
        for flags in ([], ["--fresh"]):
            line = fails(script, capsys, name, "--model", other, "--out", out, "--device", "cpu", *flags)
            assert f"{out} holds results of" in line and "give another --out" in line
    assert snapshot(out) == snapshot(finished)


def test_the_last_line_carries_verdict_numbers_and_path(script, finished, capsys):
    for name, stem in SCRIPTS.items():
        capsys.readouterr()
        script(name).main(["--out", str(finished), "--report-only"])
        line = capsys.readouterr().out.splitlines()[-1]
        verdict, _, rest = line.partition(": ")
        assert verdict == json.loads((finished / f"{stem}_results.json").read_text())["verdict"]
        summary, _, path = rest.partition(" -> ")
        assert any(character.isdigit() for character in summary), line
        assert path == str(finished / f"{stem}_output.md")


def test_phase_2_with_the_same_z_leaves_phase_3_finished(script, small, tmp_path, capsys):
    """Later phases depend on what Z is, not on the run that wrote it."""
    common = ["--model", str(small), "--out", str(tmp_path), "--device", "cpu"]
    script("1.py").main(common)
    for limit, done in (("8", False), ("9", True)):
        script("phase2_z_extraction.py").main([*common, "--hand-on", "weight", "--limit", limit])
        capsys.readouterr()
        script("phase3_patching.py").main([*common, "--limit", "6"])
        assert ("there already" in capsys.readouterr().out) is done
    script("phase2_z_extraction.py").main([*common, "--hand-on", "weight", "--limit", "9", "--layer", "0"])
    script("phase3_patching.py").main([*common, "--limit", "6"])
    assert "there already" not in capsys.readouterr().out


def test_results_follow_the_contract(finished, small):
    folder = checkpoints.find_model(str(small))
    layers, heads, head_width = folder.layers, folder.heads, folder.head_width
    shapes = {
        "one_weight_eff_rank.npy": (layers, 7),
        "one_head_eff_rank.npy": (layers, heads),
        "one_kernel_spectra.npy": (layers, heads, head_width),
        "two_similarity.npy": (heads, layers, layers),
        "two_ffn_alignment.npy": (layers, heads),
        "two_consensus_similarity.npy": (layers, layers),
    }
    for name, shape in shapes.items():
        array = np.load(finished / name, allow_pickle=False)
        assert (array.shape, array.dtype) == (shape, np.float64), name
    activations, basis = (np.load(finished / f"phase2_{name}.npy") for name in ("activations", "z_basis"))
    assert (activations.shape, activations.dtype) == ((2, 8, layers + 1, 2, folder.width), np.float32)
    assert (basis.shape[1], basis.dtype) == (folder.width, np.float32)
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-5)
    subspaces, scores = (np.load(finished / f"phase{name}.npy") for name in ("2_layer_subspaces", "3_scores"))
    assert subspaces.shape[::2] == (layers, folder.width)
    np.testing.assert_allclose(
        subspaces @ subspaces.swapaxes(1, 2), np.tile(np.eye(subspaces.shape[1]), (layers, 1, 1)), atol=1e-5
    )
    results = {stem: json.loads((finished / f"{stem}_results.json").read_text()) for stem in SCRIPTS.values()}
    for stem, result in results.items():
        keys = {"script", "model", "settings", "fingerprint", "verdict", "claims"}
        assert keys <= set(result), stem
        assert list(result) == sorted(result)
        assert result["model"] == folder.identity
        assert all({"id", "claim", "recipe", "measured", "holds"} <= set(row) for row in result["claims"])
        for value in floats(result):
            assert float(f"{value:.4g}") == value
    assert results["one"]["bottleneck"]["layer"] in range(layers)
    assert 0 <= results["one"]["bottleneck"]["support"] <= 1
    assert sum(results["one"]["phases"]) == layers
    assert len(results["two"]["ffn_alignment_over_chance"]) == layers
    assert results["two"]["settings"]["k"] == head_width  # 20 asked
    assert len(results["two"]["snap"]) == 2
    assert 0 <= results["phase0"]["mcnemar_p"] <= 1
    assert set(results["phase0"]["accuracy"]) == {"en", "zh"}
    assert {"ratio_z", "ratio_z_perp"} <= set(results["phase2"]["primary"])
    assert {"method", "layer", "site", "k"} <= set(results["phase2"]["z"])
    assert results["phase2"]["z"]["k"] == len(basis)
    assert (scores.shape, scores.dtype) == (
        (0, 2, 0, 2, 0, 0),
        np.float32,
    )  # it solves nothing: test_phase3 has the rest
    assert {"tested", "carriers", "rung", "pairs"} <= set(results["phase3"])
    loo = np.load(finished / "phase3b_loo.npy")
    assert (loo.shape, loo.dtype) == ((5, results["phase3b"]["data"]["problems"]), np.float64)
    assert set(results["phase3b"]["held_out_r2"]) == {"identity", "mean_shift", "procrustes", "ridge", "ols"}


def floats(value):
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from floats(item)


def test_reports_open_with_the_verdict_and_their_tables_and_links_are_whole(finished):
    for stem in SCRIPTS.values():
        text = (finished / f"{stem}_output.md").read_text()
        lines = text.splitlines()
        assert lines[0].startswith("# ")
        assert lines[2].startswith("**Verdict.**")
        headings = [line for line in lines if line.startswith("## ")]
        assert headings[0] == "## Claims"
        assert headings[-1] == "## Limitations"
        for image in [line.split("](")[1].rstrip(")") for line in lines if line.startswith("![")]:
            assert (finished / image).read_bytes().startswith(b"\x89PNG")
        width = None
        for line in lines:
            if not line.startswith("|"):
                width = None
                continue
            cells = line.replace("\\|", "").count("|")
            assert width in (None, cells), line
            width = cells
        assert "nan" not in text.lower().replace("annan", "")
        assert str(ROOT) not in text


def test_steps_named_in_the_docstring_are_the_reports_headings(script, finished):
    for name, stem in SCRIPTS.items():
        steps = script(name).__doc__.split("headings:")[1].replace("\n", " ")
        headings = [
            line[3:] for line in (finished / f"{stem}_output.md").read_text().splitlines() if line.startswith("## ")
        ]
        numbered = [heading for heading in headings if heading[0].isdigit()]
        # whose pages are short where nothing is solved
        assert len(numbered) >= 5 or stem in ("phase3", "phase3b", "ablation")
        for heading in numbered:
            assert heading.lower()[:18] in steps.lower(), heading


ARGUMENTS = {
    "no such folder": (["--model", "./nowhere"], "./nowhere: no such folder or file"),
    "a file": (["--model", "README.md"], "README.md: a file, but no GGUF file"),
    "unknown flag": (["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
    "unknown dtype": (["--dtype", "float16"], "invalid choice: 'float16'"),
    "unknown device": (["--device", "abacus"], "--device abacus is not a device"),
    "other device": (["--device", "meta"], "--device meta is not supported"),
    "revision of a folder": (["--revision", "main"], "tiny is a local folder, which has no revisions"),
}


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("case", ARGUMENTS)
def test_wrong_arguments(script, tmp_path, capsys, name, case):
    flags, expected = ARGUMENTS[case]
    model = [] if "--model" in flags else ["--model", "tiny"]
    assert expected in fails(script, capsys, name, *model, *flags, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_no_cuda_where_asked_for(script, small, tmp_path, capsys):
    for name in SCRIPTS:
        line = fails(script, capsys, name, "--model", small, "--device", "cuda", "--out", tmp_path / "out")
        assert "--device cuda: 0 CUDA device(s) here" in line


def test_layer_k_and_limit_out_of_range(script, small, finished, tmp_path, capsys):
    common = ["--model", small, "--out", tmp_path / "out", "--device", "cpu"]
    assert "--layer 5 is out of range: this model allows 0 to 4" in fails(script, capsys, "2.py", *common, "--layer", 5)
    assert "--layer last is neither auto nor a number" in fails(script, capsys, "2.py", *common, "--layer", "last")
    assert "argument --k: 0 is not at least 1" in fails(script, capsys, "2.py", *common, "--k", 0)
    assert "--limit 99: only 60" in fails(script, capsys, "phase0_behavioral.py", *common, "--limit", 99)
    assert "--languages xx" in fails(script, capsys, "phase0_behavioral.py", *common, "--languages", "en", "xx")
    line = fails(script, capsys, "phase0_behavioral.py", *common, "--problems", tmp_path / "none.jsonl")
    assert "none.jsonl: no such problem file" in line


def test_earlier_results_missing_foreign_or_damaged(script, small, finished, tmp_path, capsys):
    common = ["--model", small, "--device", "cpu", "--out"]
    line = fails(script, capsys, "2.py", *common, tmp_path / "nothing")
    assert "one_results.json is missing: run 1.py" in line
    other = random_model(tmp_path / "other", seed=5)
    with pytest.raises(runs.UserError, match="is about another model"):
        runs.load_results(finished, "one", checkpoints.find_model(str(other)).identity)
    out = shutil.copytree(finished, tmp_path / "out")
    (out / "one_results.json").write_text("{")
    assert "one_results.json is damaged" in fails(script, capsys, "2.py", *common, out)
    for wrong in ("{}", "[1]"):
        (out / "one_results.json").write_text(wrong)
        assert "one_results.json is not a result of this suite" in fails(script, capsys, "2.py", *common, out)
    line = fails(script, capsys, "2.py", *common, finished, "--fold-norm")
    assert "another --fold-norm" in line
    (out / "two_similarity.npy").write_bytes(b"no array")
    assert "two_similarity.npy is damaged" in fails(script, capsys, "2.py", *common, out, "--report-only")
    (out / "two_similarity.npy").unlink()
    assert "two_similarity.npy is missing" in fails(script, capsys, "2.py", *common, out, "--report-only")
    with pytest.raises(runs.UserError, match=r"shape \(5, 7\), expected \(4, 7\)"):
        runs.load_array(finished, "one_weight_eff_rank.npy", (4, 7))


def test_unwritable_output(script, small, tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    for out in (blocked, blocked / "below"):
        assert f"--out {out} is not writable" in fails(
            script, capsys, "1.py", "--model", small, "--out", out, "--device", "cpu"
        )


def test_a_failed_write_loses_nothing(script, small, finished, tmp_path, capsys, monkeypatch):
    out = shutil.copytree(finished, tmp_path / "out")
    before = snapshot(out)
    real = Path.write_bytes

    def full_disk(path, content):
        if "one_results" in path.name:
            raise OSError(28, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    line = fails(script, capsys, "1.py", "--model", small, "--out", out, "--device", "cpu", "--seed", 3)
    assert "No space left" in line
    assert snapshot(out) == before


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_names_remedies(script, small, tmp_path, capsys, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(models, "load_model", fail)
    line = fails(script, capsys, "phase0_behavioral.py", "--model", small, "--out", tmp_path, "--device", "cpu")
    assert "out of memory" in line
    for remedy in ("--dtype", "--batch", "--device"):
        assert remedy in line


def test_a_programming_error_is_not_dressed_up(capsys):
    def bug():
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        runs.run_script(bug)


@pytest.mark.parametrize("name", [*SCRIPTS, "hunt.py"])
def test_a_script_is_a_program(name, tmp_path, monkeypatch, capsys):
    """Run as Python runs a file that it is given: one line and status 2, as of `main`."""
    monkeypatch.setattr(sys, "argv", [name, "--model", "./nowhere", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / name), run_name="__main__")
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --model ./nowhere: no such folder or file")


@pytest.mark.slow
def test_interrupt_is_one_line_and_leaves_nothing_half_written(finished, tmp_path):
    big = random_model(tmp_path / "big", num_hidden_layers=40, hidden_size=384, intermediate_size=1024)
    out = tmp_path / "out"
    command = [sys.executable, "1.py", "--model", str(big), "--out", str(out), "--device", "cpu"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    )
    deadline = time.monotonic() + 60
    while not out.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert [line for line in errors.splitlines() if "error" in line] == [
        "error: interrupted; results already saved are intact"
    ]
    assert "Traceback" not in errors
    left = {path.name for path in out.iterdir()}  # all of it where the machine was so busy that it was writing already
    assert not left or left == {path.name for path in finished.glob("one_*")} | {"run.log"}, left
