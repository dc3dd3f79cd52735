"""The output folder: one run at a time writes to it, and files are written all or none."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from lab.ending import UserError, processes, undisturbed

STAGED = re.compile(r"\..+\.\d+\.new|\.probe-\d+")  # what a run that was killed while it wrote has left
HELD_ABOVE = "Z_HUNT_HOLDS"  # in the environment of a hunt's launched steps: the folders that it holds for them
_held: WeakValueDictionary = WeakValueDictionary()  # (device, inode) -> what this process holds


class Hold:
    """A folder that no other process takes while this object lives; the system lets it go where the process dies."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __del__(self):
        os.close(self.descriptor)


def hold(out: Path) -> Hold | None:
    """Take the folder for this process, for as long as what is returned lives; UserError where another process has it.

    The lock is on the folder itself, so that no file is left of it. None where there is nothing to take: no such folder,
    a file system without locks, a folder that the hunt above holds for this step, or a process that writes nothing.
    """
    try:
        descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    taken, key = Hold(descriptor), inode(descriptor)
    if key in _held or processes()[0] > 0 or key in os.environ.get(HELD_ABOVE, "").split():
        return _held.get(key)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"--out {out}: another run is at work there; wait for its end, or give another --out") from None
    except OSError:  # network file systems may know no such lock
        return None
    _held[key] = taken
    for path in out.iterdir():
        if STAGED.fullmatch(path.name):
            path.unlink(missing_ok=True)
    return taken


def inode(descriptor: int) -> str:
    """What tells a folder from all others, whatever it is called."""
    found = os.fstat(descriptor)
    return f"{found.st_dev}:{found.st_ino}"


@contextmanager
def held(out: Path, make: bool = False) -> Iterator[None]:
    """Inside, the folder is this process's, and with `make` it is there; else that is `hold`."""
    kept = take_folder(out) if make else hold(out)
    try:
        yield
    finally:
        del kept


def handed_down() -> dict:
    """Arguments of subprocess.Popen for a step in processes of its own: it writes where this process holds the folder.

    Where this process is killed and the step goes on, the folder stays taken.
    """
    taken = {key: kept.descriptor for key, kept in _held.items()}
    return {"env": os.environ | {HELD_ABOVE: " ".join(taken)}, "pass_fds": tuple(taken.values())}


def take_folder(out: Path) -> Hold | None:
    """Make the output folder and take it; UserError if it cannot be written to, or another process has it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} is not writable ({error.strerror}): give another folder") from None
    return hold(out)


def write_files(out: Path, files: dict[str, bytes], replaced: str | None = None) -> None:
    """Write every file that changes under a temporary name in the same folder, then rename them all, in the order given.

    Ctrl-C and SIGTERM wait until that is done. `replaced`: the file that says that the others are there. Where it changes,
    it goes before the first is renamed: what ends a process between two of them must not leave another run's word for it.
    UserError where writing fails, which says whether the earlier results are intact.
    """
    staged, left = {}, "earlier results are intact"
    with held(out), undisturbed():
        try:
            for name, content in files.items():
                if (out / name).is_dir():
                    raise UserError(f"{out / name} is a folder, where a file is to be written: move it")
                if (out / name).is_file() and (out / name).read_bytes() == content:
                    continue
                staged[name] = out / f".{name}.{os.getpid()}.new"
                staged[name].write_bytes(content)
            if replaced in staged and len(staged) > 1:
                (out / replaced).unlink(missing_ok=True)
            for name in list(staged):
                os.replace(staged[name], out / name)
                del staged[name]
                left = "some are replaced: run again"
        except OSError as error:
            raise UserError(f"--out {out}: writing failed ({error.strerror}); {left}") from None
        finally:
            for path in staged.values():
                path.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Add a line to a log; UserError where it cannot be written."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise UserError(f"{path}: writing failed ({error.strerror}); the results beside it are saved") from None
