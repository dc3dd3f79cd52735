"""Progress of long work: a named bar at a terminal; elsewhere a line a minute, for a log."""

import sys
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from lab import runs

EVERY = 60.0  # seconds between two lines where there is no terminal
_said = [time.monotonic()]  # when the last line was written, by whatever work


def steps(things: Iterable, what: str, unit: str = "step", total: int | None = None) -> Iterator:
    """The things one by one, while it shows how many of them are through: `what` names the work, `unit` one of them."""
    total = len(things) if total is None and hasattr(things, "__len__") else total
    if sys.stderr.isatty():
        yield from tqdm(things, desc=what, unit=unit, total=total)
        return
    start = time.monotonic()
    for done, thing in enumerate(things):
        now = time.monotonic()
        if now - _said[0] >= EVERY and runs.processes()[0] == 0:
            _said[0] = now
            of = f" of {total}" if total is not None else f" {unit}(s)"
            print(f"{what}: {done}{of} after {now - start:.0f} s", file=sys.stderr, flush=True)
        yield thing
