"""Stop the hunt in every one of its scripts, again and again, and compare what it ends with to a hunt that was left alone.

Every round starts `hunt.py`, waits until it is at a script, and stops it there: by Ctrl-C, SIGTERM and a kill in turn, at a
random moment, and the last time in each script while its files are written. Whatever lies in the folder then must be whole,
with the bytes of the hunt that was left alone; Ctrl-C and SIGTERM end in one line and exit status 2. Then it may finish: all
files but run.log must have the same bytes, and no other may be there.

Run        python -m bench.interruptions [--count 33] [--seed 0] [--reference folder] [--parts 3 5]
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lab import folders, runs

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
PART = re.compile(r"== part (\d+) of \d+: (\S+)(?: \((\w+)\))?")
SHARE = 0.4  # of a script's time, in which a random stop falls: later ones may come when it is through
GLANCE = 0.0004  # seconds between two looks for files that are being written
AFTER = 0.004  # seconds from the first sight of one to the stop, at the most


@dataclass(frozen=True)
class Part:
    """A script of the hunt: which part, where it writes, under which name, and how long it takes."""

    number: int
    script: str
    folder: str
    seconds: float

    @property
    def label(self) -> str:
        return f"{self.script} ({self.folder})" if self.folder else self.script

    @property
    def stem(self) -> str:
        return next(stem for stem, script in runs.SCRIPTS.items() if script == self.script)

    def writes(self, out: Path) -> bool:
        """Whether temporary files of this script are there."""
        try:
            return any(name.startswith(f".{self.stem}_") for name in os.listdir(out / self.folder))
        except FileNotFoundError:
            return False


class Hunt:
    """A hunt in a process of its own, whose output is read as it comes."""

    def __init__(self, out: Path):
        self.part, self.since, self.parts = None, 0.0, {}
        command = [sys.executable, str(runs.ROOT / "hunt.py"), "--model", str(runs.ROOT / "tiny"), "--device", "cpu"]
        self.process = subprocess.Popen(
            [*command, "--out", str(out)],
            start_new_session=True,
            preexec_fn=hear_interrupts,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        for line in self.process.stdout:
            if found := PART.match(line):
                self.parts[int(found[1])] = (found[2], found[3] or "")
                self.since, self.part = time.monotonic(), int(found[1])

    def end(self) -> tuple[int, str]:
        """Exit status and errors, once it has ended."""
        errors = self.process.stderr.read()
        self.reader.join()
        return self.process.wait(), errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=33)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--reference", type=Path, help="folder of a finished hunt with this code; else one is run first"
    )
    parser.add_argument(
        "--parts", type=int, nargs="+", help="stop in these parts only, counted from 1 (the last: hunt.py's own)"
    )
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        alone, out = arguments.reference or Path(folder) / "alone", Path(folder) / "stopped"
        parts, expected = left_alone(alone), contents(alone)
        stops, wanted = Counter(), [parts[number - 1] for number in arguments.parts or range(1, len(parts) + 1)]
        for number in range(arguments.count):
            place = number * len(wanted) // arguments.count
            last = (number + 1) * len(wanted) // arguments.count > place
            how = SIGNALS[(number + place) % len(SIGNALS)]
            where, writing = stop(out, wanted[place], how, draw, last, parts)
            stops[where, how.name] += 1
            stops[where, "writing"] += writing
            check_whole(out, expected, left=how == signal.SIGKILL)
            done = f"{len(list(out.rglob('*_results.json')))} results there"
            print(f"{number + 1}: {how.name} in {where}{', files being written' * writing}, {done}", flush=True)
        status, errors = Hunt(out).end()
        assert status == 0, errors
        found = contents(out)
        assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
        check_whole(out, expected)
    print(table(stops, [part.label for part in parts]))
    print(f"stopped {sum(stops.values()) - sum(writings(stops))} times, {len(expected)} files, all with the same bytes")


def left_alone(out: Path) -> list[Part]:
    """The parts of a hunt that runs to its end, with their time as run.log has it; the last is the hunt's own writing."""
    hunt = Hunt(out)
    status, errors = hunt.end()
    assert status == 0, errors
    found = []
    for number, (script, folder) in sorted(hunt.parts.items()):
        part = Part(number, script, folder, 0.0)
        log = (out / folder / "run.log").read_text(encoding="utf-8")
        took = re.findall(rf"^{part.stem} .*: ([\d.]+) s,", log, re.MULTILINE)
        found.append(Part(number, script, folder, float(took[-1])))
    return [*found, Part(found[-1].number, "hunt.py", "", 0.0)]


def stop(out: Path, part: Part, how: signal.Signals, draw: random.Random, last: bool, parts: list[Part]):
    """Start the hunt and stop it in this part, or as soon as it is beyond it: (where it was stopped, whether it wrote)."""
    hunt, wait, writing = Hunt(out), draw.uniform(0, SHARE) * part.seconds, False
    while hunt.process.poll() is None:
        here = hunt.part
        if here is not None and here >= part.number:
            writing = last and part.writes(out)
            if writing:
                time.sleep(draw.uniform(0, AFTER))
            if writing or here > part.number or (not last and time.monotonic() - hunt.since > wait):
                break
        time.sleep(GLANCE if last else 0.01)
    where = next((found.label for found in parts if found.number == hunt.part), part.label)
    running = hunt.process.poll() is None
    if running:
        os.killpg(hunt.process.pid, how)
    status, errors = hunt.end()
    assert "Traceback" not in errors, errors
    if not running:
        assert status == 0, errors
        return "after its end", False
    said = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert (status, said) == ((-9, []) if how == signal.SIGKILL else (2, [said_of_a_stop()])), (status, errors)
    return (part.label if writing else where), writing


def said_of_a_stop() -> str:
    return "error: interrupted; results already saved are intact"


def hear_interrupts() -> None:
    """A shell lets its background jobs ignore Ctrl-C, which would pass on to the hunt."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def check_whole(out: Path, expected: dict[str, bytes], left: bool = False) -> None:
    """Every file as it is where the hunt was left alone, and beside each results file all that its script writes.

    `left`: temporary files may lie there.
    """
    found = contents(out)
    temporary = {name for name in found if folders.STAGED.fullmatch(Path(name).name)}
    assert left or not temporary, temporary
    different = [name for name in found.keys() - temporary if found[name] != expected.get(name)]
    assert not different, different
    for name in found:
        if name.endswith("_results.json") and name not in temporary:
            assert json.loads(found[name])["verdict"]
            own = {other for other in expected if other.startswith(name.removesuffix("results.json"))}
            assert own <= found.keys(), own - found.keys()


def contents(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "run.log"
    }


def writings(stops: Counter) -> list[int]:
    return [count for (_, kind), count in stops.items() if kind == "writing"]


def table(stops: Counter, labels: list[str]) -> str:
    """Scripts by signals, and how many of a script's stops fell while files were written."""
    kinds = [*(how.name for how in SIGNALS), "writing"]
    lines = [
        "| script | Ctrl-C | SIGTERM | kill | of these, while files were written |",
        "| --- | --- | --- | --- | --- |",
    ]
    for label in [*dict.fromkeys(labels), "after its end"]:
        counts = [stops[label, kind] for kind in kinds]
        lines += [f"| {label} | {' | '.join(map(str, counts))} |"] if any(counts) or label in labels else []
    return "\n".join(lines)


if __name__ == "__main__":
    main()
