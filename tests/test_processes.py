"""Two processes under `accelerate launch` write the same bytes as one."""

import os
import shutil
import subprocess
import sys

import fewer
import pytest
from conftest import ROOT
from controls import write_control

from lab import runs

LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
AFTER_1 = ("phase0_behavioral", "phase2_z_extraction", "phase3_patching", "phase3b_bridge", "ablation")
WAIT = "__import__('accelerate').PartialState().wait_for_everyone()"  # the first process writes


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


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_as_one(script, tmp_path):
    """In one launch, since starting two processes takes most of the time."""
    control = write_control(tmp_path / "model", "planted", noise=0.5, problems=40, language_share=0.1)
    flags = ["--model", str(control.path), "--device", "cpu"]
    together = tmp_path / "together.py"
    together.write_text(fewer.code(fewer.FEWEST, *AFTER_1, after=WAIT))
    with fewer.applied(fewer.FEWEST):
        for name in ("1", *AFTER_1):
            script(name).main([*flags, "--out", str(tmp_path / "one")])
    (tmp_path / "two").mkdir()
    for path in (tmp_path / "one").glob("one_*"):
        shutil.copy(path, tmp_path / "two")
    done = subprocess.run(
        [sys.executable, *LAUNCH, str(together), *flags, "--out", str(tmp_path / "two")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
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
