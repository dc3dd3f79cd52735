"""Interrupt the hunt at random points, again and again, and compare what it ends with to a hunt that was left alone.

Every round starts `hunt.py`, waits a random time and stops it: Ctrl-C and a kill in turn. Then it may finish. All files but
run.log must have the same bytes.

Run        python -m bench.interruptions [--count 20] [--seed 0] [--reference output]
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab import runs

LONGEST = (
    40  # seconds until a stop, at the most: longer than the longest step, so that the hunt gets on between the stops
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--reference", type=Path, help="folder of a finished hunt with this code; else one is run first"
    )
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        alone, stopped = arguments.reference or Path(folder) / "alone", Path(folder) / "stopped"
        if not arguments.reference:
            subprocess.run(command(alone), check=True, stdout=subprocess.DEVNULL)
        hits = interrupt(stopped, arguments.count, draw)
        subprocess.run(command(stopped), check=True, stdout=subprocess.DEVNULL)
        first, second = (contents(path) for path in (alone, stopped))
        assert first.keys() == second.keys(), first.keys() ^ second.keys()
        different = [name for name in first if first[name] != second[name]]
        assert not different, different
    print(f"interrupted {hits} times, {len(first)} files, all with the same bytes")


def command(out: Path) -> list[str]:
    return [
        sys.executable,
        str(runs.ROOT / "hunt.py"),
        "--model",
        str(runs.ROOT / "tiny"),
        "--out",
        str(out),
        "--device",
        "cpu",
    ]


def interrupt(out: Path, count: int, draw: random.Random) -> int:
    """Start and stop `count` times; returns how often the hunt was still running when it was stopped."""
    hits = 0
    for number in range(count):
        process = subprocess.Popen(
            command(out),
            start_new_session=True,
            preexec_fn=hear_interrupts,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(draw.uniform(0.5, LONGEST))
        how = (signal.SIGINT, signal.SIGKILL)[number % 2]
        if process.poll() is None:
            os.killpg(process.pid, how)
            hits += 1
        _, errors = process.communicate()
        assert "Traceback" not in errors, errors
        print(f"{number + 1}: {how.name}, {len(list(out.rglob('*_results.json')))} results there", flush=True)
    return hits


def hear_interrupts() -> None:
    """A shell lets its background jobs ignore Ctrl-C, which would pass on to the hunt."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def contents(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "run.log"
    }


if __name__ == "__main__":
    main()
