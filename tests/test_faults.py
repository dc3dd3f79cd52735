"""Faults from outside: a full disk, what cannot be written, two runs in one folder, a model that changes, no memory, a kill."""

import fcntl
import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import weakref
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from conftest import ROOT, fails, interruptible, random_model
from controls import write_control
from test_phase3b import write_phase3
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model

from lab import checkpoints, ending, folders, models, runs


def snapshot(out: Path) -> dict[str, bytes]:
    """All files but run.log, temporary ones included."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.name != "run.log"}


def flags(model: Path, out: Path, *more) -> list[str]:
    return list(map(str, ["--model", model, "--out", out, "--device", "cpu", *more]))


pytestmark = pytest.mark.usefixtures("fewer_draws")  # what is found is not the question here


@pytest.fixture(scope="module")
def measured(script, small, tmp_path_factory) -> Path:
    """What 1.py and phase 2 find in the small model; tests must not change it."""
    out = tmp_path_factory.mktemp("measured")
    script("1.py").main(flags(small, out))
    script("phase2_z_extraction.py").main(flags(small, out, "--limit", 8))
    return out


@pytest.fixture
def out(measured, tmp_path) -> Path:
    return shutil.copytree(measured, tmp_path / "out")


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """The weights of another model of the same shape."""
    return random_model(tmp_path_factory.mktemp("other") / "small", seed=5)


@pytest.fixture(scope="module")
def saved(script, small, measured, tmp_path_factory) -> dict[str, bytes]:
    """The files of one save: 1.py's with other kernels."""
    out = tmp_path_factory.mktemp("saved")
    script("1.py").main(flags(small, out, "--fold-norm"))
    return snapshot(out)


# A disk that is full, which the system itself says: every byte written to /dev/full finds no space.


def test_a_full_disk_at_any_file_of_a_save_loses_nothing(out, saved):
    before, kept = snapshot(out), folders.hold(out)
    assert len(saved) > 6 and saved.items() - before.items()
    for name in saved.keys() & {name for name in saved if saved[name] != before[name]}:
        (out / f".{name}.{os.getpid()}.new").symlink_to("/dev/full")
        with pytest.raises(runs.UserError) as caught:
            folders.write_files(out, saved, replaced="one_results.json")
        assert str(caught.value) == (
            f"--out {out}: writing failed (No space left on device); earlier results are intact"
        )
        assert snapshot(out) == before, name
    del kept


def test_a_limit_of_the_system_on_the_size_of_files_is_one_line(script, small, out, capsys):
    before, (soft, hard) = snapshot(out), resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(len(content) for name, content in before.items() if name.startswith("one_"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, hard))
    try:
        line = fails(script, capsys, "1.py", *flags(small, out, "--fold-norm"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert line.endswith("writing failed (File too large); earlier results are intact")
    assert snapshot(out) == before


def test_a_log_that_cannot_be_written_costs_no_results(script, small, out, saved, capsys):
    (out / "run.log").unlink()
    (out / "run.log").symlink_to("/dev/full")
    line = fails(script, capsys, "1.py", *flags(small, out, "--fold-norm"))
    assert line.endswith("run.log: writing failed (No space left on device); the results beside it are saved")
    assert saved.items() <= snapshot(out).items()


# What cannot be written, for the superuser too.


@contextmanager
def unprivileged():
    """Inside, permissions hold for this process, also where the superuser runs the tests."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_without_permission_to_write_is_one_line_and_keeps_what_it_holds(saved, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for path in (out, *(path for path in tmp_path.parents if path.stat().st_uid == os.getuid() and path != Path("/"))):
        path.chmod(path.stat().st_mode | 0o055)
    (out / "one_results.json").write_bytes(b"{}")
    out.chmod(0o555)
    try:
        with unprivileged():
            with pytest.raises(runs.UserError, match=r"is not writable \(Permission denied\): give another folder"):
                folders.take_folder(out)
            with pytest.raises(runs.UserError, match=r"failed \(Permission denied\); earlier results are intact"):
                folders.write_files(out, saved)
    finally:
        out.chmod(0o755)
    assert snapshot(out) == {"one_results.json": b"{}"}


def test_a_folder_that_nobody_writes_to_is_one_line(script, small, capsys):
    assert "--out /proc/self is not writable" in fails(script, capsys, "1.py", *flags(small, "/proc/self"))


def test_files_without_permission_to_write_are_replaced_whole(out, saved):
    for path in out.iterdir():
        path.chmod(0o444)
    folders.write_files(out, saved)
    assert saved.items() <= snapshot(out).items()


@pytest.mark.parametrize("name", ["one_output.md", "one_kernel_spectra.npy"])
def test_a_folder_where_a_file_is_expected_is_one_line(script, small, out, capsys, name):
    (out / name).unlink()
    (out / name).mkdir()
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    line = fails(script, capsys, "1.py", *flags(small, out, "--fold-norm"))
    assert f"{out / name} is a folder, where a file is to be written: move it" in line
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


# Two runs in one folder.


def taken(out: Path) -> bool:
    """Whether another process has the folder."""
    if not out.is_dir():
        return False
    descriptor = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def test_a_second_run_in_a_folder_is_refused_while_the_first_lives(script, small, other, tmp_path, capsys):
    out = tmp_path / "out"
    command = [sys.executable, ROOT / "1.py", *flags(small, out)]
    nothing, pipe = subprocess.DEVNULL, subprocess.PIPE
    first = subprocess.Popen(command, stdout=nothing, stderr=pipe, text=True, preexec_fn=interruptible)
    try:
        until = time.monotonic() + 60
        while not taken(out) and first.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        os.kill(first.pid, signal.SIGSTOP)
        assert taken(out)
        for name, model in (("1.py", small), ("hunt.py", small), ("phase0_behavioral.py", other)):
            line = fails(script, capsys, name, *flags(model, out))
            assert line == f"error: --out {out}: another run is at work there; wait for its end, or give another --out"
        assert "another run is at work" in fails(script, capsys, "1.py", "--report-only", "--out", out)
        (out / ".one_output.md.99.new").write_text("half a re")  # of a run that was killed
        first.send_signal(signal.SIGTERM)
        os.kill(first.pid, signal.SIGCONT)
        _, errors = first.communicate(timeout=60)
    finally:
        first.kill()
    assert (first.returncode, errors) == (2, "error: interrupted; results already saved are intact\n")
    assert os.listdir(out) == [".one_output.md.99.new"]
    script("1.py").main(flags(other, out))  # nothing is left of a lock, nor of what was half written
    assert json.loads((out / "one_results.json").read_text())["model"] == checkpoints.find_model(str(other)).identity
    assert not [name for name in os.listdir(out) if name.startswith(".")]
    assert "holds results of small" in fails(script, capsys, "1.py", *flags(small, out))


def in_another_process(work) -> int:
    """The exit status of a process that does this work: 0, or 2 where it ends in a UserError."""
    child = os.fork()
    if not child:
        folders._held.clear()  # what its parent holds
        try:
            work()
        except runs.UserError:
            os._exit(2)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_steps_of_a_hunt_write_where_the_hunt_is_at_work(script, small, saved, tmp_path, monkeypatch):
    """In this process, and in one of its own, as `accelerate launch` starts them."""
    out = tmp_path / "out"
    out.mkdir()
    with folders.held(out):
        assert in_another_process(lambda: folders.write_files(out, saved)) == 2
        with monkeypatch.context() as launched:
            launched.setattr(os, "environ", folders.handed_down()["env"])
            assert in_another_process(lambda: folders.write_files(out, saved)) == 0
        assert snapshot(out) == saved
        script("1.py").main(flags(small, out, "--fold-norm"))
        assert taken(out)
        assert folders.handed_down()["pass_fds"]
    gc.collect()  # the script's frames, which exceptions that were caught refer to
    assert not taken(out)


def test_only_the_process_that_writes_takes_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "processes", lambda: (1, 2))
    assert folders.take_folder(tmp_path) is None
    assert not taken(tmp_path)


# A model whose files change under the measurement.


def replace_weights(model: Path, by: Path) -> None:
    shutil.copy(by / "model.safetensors", model / "model.new")
    os.replace(model / "model.new", model / "model.safetensors")


@pytest.mark.parametrize(
    "name, what", [("1.py", (checkpoints, "stream_layers")), ("phase0_behavioral.py", (models, "load_model"))]
)
def test_weights_that_change_before_they_are_read_are_not_reported_under_the_old_hash(
    script, small, other, tmp_path, capsys, monkeypatch, name, what
):
    model, out, real = shutil.copytree(small, tmp_path / "model"), tmp_path / "out", getattr(*what)

    def late(*given):
        replace_weights(model, other)
        return real(*given)

    short = ["--limit", 2, "--max-new-tokens", 2] if name.startswith("phase0") else []
    monkeypatch.setattr(*what, late)
    line = fails(script, capsys, name, *flags(model, out, *short))
    assert line == f"error: {model} changed while it was measured: nothing is saved of it, run again"
    assert not list(out.iterdir())
    monkeypatch.setattr(*what, real)
    script(name).main(flags(model, out, *short))
    (results,) = (json.loads(path.read_text()) for path in out.glob("*_results.json"))
    assert results["model"]["weights_hash"] == checkpoints.find_model(str(other)).identity["weights_hash"]


def test_files_that_were_touched_or_fetched_again_are_the_same_model(script, small, tmp_path, monkeypatch):
    model, real = shutil.copytree(small, tmp_path / small.name), checkpoints.stream_layers

    def touched(*given):
        (model / "config.json").touch()
        replace_weights(model, small)
        return real(*given)

    monkeypatch.setattr(checkpoints, "stream_layers", touched)
    script("1.py").main(flags(model, tmp_path / "out"))
    results = json.loads((tmp_path / "out" / "one_results.json").read_text())
    assert results["model"] == checkpoints.find_model(str(small)).identity


def test_a_model_that_changes_between_two_steps_ends_the_hunt(script, small, other, tmp_path, capfd, monkeypatch):
    module, model, out = script("hunt.py"), shutil.copytree(small, tmp_path / small.name), tmp_path / "out"
    real = module.run_here

    def step(name: str, given: list[str]) -> int:
        status = real(name, given)
        replace_weights(model, other)
        return status

    monkeypatch.setattr(module, "run_here", step)
    with pytest.raises(runs.UserError, match=r"^2\.py ended with status 2"):
        module.main(flags(model, out))
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "a folder belongs to one model, give another --out" in line
    assert [path.name for path in out.glob("*_results.json")] == ["one_results.json"]
    results = json.loads((out / "one_results.json").read_text())
    assert results["model"] == checkpoints.find_model(str(small)).identity


# Memory that does not suffice, once.


@pytest.fixture
def short_of_memory(monkeypatch):
    """Makes the model's pass of that number find no memory; gives how many passes there were."""
    real, state = Qwen2Model.forward, {}

    def forward(self, *given, **named):
        state["passes"] += 1
        if state["passes"] == state["fails"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return real(self, *given, **named)

    def arm(number: int) -> dict:
        state.update(passes=0, fails=number)
        return state

    monkeypatch.setattr(Qwen2Model, "forward", forward)
    return arm


@pytest.fixture(scope="module")
def bridge(script, tmp_path_factory) -> tuple[Path, Path]:
    """A planted model, and all that phase 3b reads."""
    folder = tmp_path_factory.mktemp("planted")
    model = write_control(folder / "model", "planted", noise=0.5, problems=40, language_share=0.1).path
    for name in ("1.py", "phase2_z_extraction.py"):
        script(name).main(flags(model, folder / "out"))
    write_phase3(model, folder / "out")
    return model, folder / "out"


ASKING = {
    "phase0_behavioral.py": ("--limit", 4, "--max-new-tokens", 3),
    "phase2_z_extraction.py": ("--limit", 8),
    "phase3_patching.py": ("--limit", 12),
    "phase3b_bridge.py": (),
    "ablation.py": ("--limit", 10),
}


@pytest.mark.parametrize("name", ASKING)
def test_one_pass_without_memory_is_split_or_one_line(
    script, small, measured, bridge, tmp_path, capsys, short_of_memory, name
):
    """At the first pass and at the last: the same results, or a line and nothing written."""
    model, earlier = bridge if name == "phase3b_bridge.py" else (small, measured)

    def run(folder: str, fail: int) -> tuple[dict[str, bytes], int, str | None]:
        out, state, said = shutil.copytree(earlier, tmp_path / folder), short_of_memory(fail), None
        command = flags(model, out, "--fresh", *ASKING[name])
        if fail:
            capsys.readouterr()
        try:
            runs.run_script(lambda: script(name).main(command))
        except SystemExit:
            (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return snapshot(out), state["passes"], said

    whole, passes, _ = run("whole", 0)
    before = snapshot(earlier)
    for fail in (1, passes):
        found, _, said = run(str(fail), fail)
        if said is None:
            assert found == whole
        else:
            assert "out of memory" in said and "--batch" in said and "--device cpu" in said
            assert found == before


# Signals.


def test_sigterm_ends_a_measurement_as_ctrl_c_does(script, small, tmp_path, capsys, monkeypatch):
    def stopped(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(checkpoints, "stream_layers", stopped)
    line = fails(script, capsys, "1.py", *flags(small, tmp_path / "out"))
    assert line == "error: interrupted; results already saved are intact"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("how", ending.SIGNALS)
def test_an_interrupt_that_a_callback_swallows_comes_again(how):
    """Python drops what is raised in a weak reference's callback or in __del__."""

    class Freed:
        pass

    def callback(_) -> None:
        os.kill(os.getpid(), how)
        time.sleep(0.01)
        heard.append("nothing")

    heard, freed = [], Freed()
    before = [signal.getsignal(number) for number in (*ending.SIGNALS, signal.SIGALRM)], sys.unraisablehook
    reference = weakref.ref(freed, callback)
    with pytest.raises(KeyboardInterrupt), ending.terminated_as_interrupted():
        del freed
        assert reference() is None and heard == []
        time.sleep(5)
        heard.append("nothing")
    assert heard == []
    assert before == ([signal.getsignal(number) for number in (*ending.SIGNALS, signal.SIGALRM)], sys.unraisablehook)


@pytest.mark.parametrize("how", ending.SIGNALS)
def test_what_comes_while_files_are_written_waits_until_all_are_there(
    script, small, out, saved, capsys, monkeypatch, how
):
    real, before = Path.write_bytes, {number: signal.getsignal(number) for number in ending.SIGNALS}

    def stopped(path, content):
        os.kill(os.getpid(), how)
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", stopped)
    line = fails(script, capsys, "1.py", *flags(small, out, "--fold-norm"))
    assert line == "error: interrupted; results already saved are intact"
    assert saved.items() <= snapshot(out).items()
    assert not [name for name in snapshot(out) if name.startswith(".")]
    assert {number: signal.getsignal(number) for number in ending.SIGNALS} == before


def test_a_kill_between_two_renames_leaves_no_results_with_another_runs_arrays(
    script, small, out, saved, capsys, monkeypatch
):
    before, real, done = snapshot(out), os.replace, []

    def replace(*names):
        real(*names)
        done.append(names)
        if len(done) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as killed:
        killed.setattr(os, "replace", replace)
        ended = in_another_process(lambda: folders.write_files(out, saved, replaced="one_results.json"))
    assert ended == -signal.SIGKILL
    found = snapshot(out)
    mixed = [name for name in before if name.startswith("one_") and found.get(name) == saved.get(name) != before[name]]
    assert len(mixed) == 2 and "one_results.json" not in found
    for more in ((), ("--fold-norm",)):
        capsys.readouterr()
        script("1.py").main(flags(small, out, *more))
        assert "there already" not in capsys.readouterr().out
    assert saved.items() <= snapshot(out).items()
    assert not [name for name in snapshot(out) if name.startswith(".")]


def test_a_launch_that_is_interrupted_leaves_no_process_at_work(script, monkeypatch):
    """The processes below a launcher are in sessions of their own, where no Ctrl-C reaches them."""
    below = "import subprocess, time; child = subprocess.Popen(['sleep', '60'], start_new_session=True); "
    below += "print(child.pid, flush=True); time.sleep(60)"
    module, real, started = script("hunt.py"), subprocess.Popen, []

    class Interrupted(real):
        def __init__(self, command, **given):
            super().__init__([sys.executable, "-c", below], stdout=subprocess.PIPE, text=True, **given)
            started.append(int(self.stdout.readline()))

        def wait(self, timeout=None):
            if self.poll() is None and len(started) == 1:
                started.append(self.pid)
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        module.run_shared("1.py", [], 2)
    for number in started:
        assert not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE
