"""Two processes under `accelerate launch` write the same bytes as one."""

import importlib
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from controls import write_control

import ablation
from lab import runs

LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def test_one_process_does_everything(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert runs.processes() == (0, 1)
    assert list(runs.own_turns(range(0, 10, 4))) == [0, 4, 8]
    assert runs.gathered({3: "c", 1: "a"}) == {1: "a", 3: "c"}


def test_every_batch_belongs_to_one_process(monkeypatch):
    shares = []
    for rank in range(3):
        monkeypatch.setattr(runs, "processes", lambda rank=rank: (rank, 3))
        shares += runs.own_turns(range(0, 23, 4))
    assert sorted(shares) == [0, 4, 8, 12, 16, 20]


SHORTER = {  # draws, of which the bytes do not hang on how many processes share them
    "phase2_z_extraction": {"DRAWS": 200},
    "phase3b_bridge": {"SHUFFLES": 20, "RANDOM_SUBSPACES": 5},
    "ablation": {"NULLS": {role: (name, 5) for role, (name, _) in ablation.NULLS.items()}},
    "lab.studies": {"ARD_STEPS": 10},
    "lab.dissociation": {"FULL_DRAWS": 20},
}
ALL_OF_THEM = f"""
import importlib, sys
from accelerate import PartialState
for name, values in {SHORTER}.items():
    vars(importlib.import_module(name)).update(values)
for name in ("phase0_behavioral", "phase2_z_extraction", "phase3_patching", "phase3b_bridge", "ablation"):
    importlib.import_module(name).main(sys.argv[1:])
    PartialState().wait_for_everyone()  # the first process writes
"""


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_as_one(script, tmp_path, monkeypatch):
    """In one launch, since starting two processes takes most of the time."""
    control = write_control(tmp_path / "model", "planted", noise=0.5, problems=40, language_share=0.1)
    flags, environment = ["--model", str(control.path), "--device", "cpu"], {"OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(ROOT)}
    together = tmp_path / "together.py"
    together.write_text(ALL_OF_THEM)
    for name, values in SHORTER.items():
        for attribute, value in values.items():
            monkeypatch.setattr(importlib.import_module(name), attribute, value)
    names = ("1.py", "phase0_behavioral.py", "phase2_z_extraction.py", "phase3_patching.py", "phase3b_bridge.py")
    for name in (*names, "ablation.py"):
        script(name).main([*flags, "--out", str(tmp_path / "one")])
    (tmp_path / "two").mkdir()
    for path in (tmp_path / "one").glob("one_*"):
        shutil.copy(path, tmp_path / "two")
    done = subprocess.run(
        [sys.executable, *LAUNCH, str(together), *flags, "--out", str(tmp_path / "two")],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("_output.md") == 5  # one process speaks for both
    for path in (tmp_path / "one").iterdir():
        if path.name != "run.log":
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    assert len(list((tmp_path / "two").iterdir())) == len(list((tmp_path / "one").iterdir()))
