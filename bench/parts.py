"""Where a script's time goes: seconds in every function of the project that takes a share of them, callers before callees.

Run        python -m bench.parts phase3_patching.py --model MODEL --out FOLDER --fresh       the script's own flags follow it
"""

import cProfile
import importlib
import pstats
import sys
import time
from pathlib import Path

from lab import runs

LEAST = 0.01  # of the whole time


def main() -> None:
    script, *flags = sys.argv[1:]
    module, profile, start = importlib.import_module(Path(script).stem), cProfile.Profile(), time.monotonic()
    profile.runcall(module.main, flags)
    whole = time.monotonic() - start
    print(f"{whole:.1f} s")
    for (file, _, name), (_, calls, _, seconds, _) in sorted(
        pstats.Stats(profile).stats.items(), key=lambda item: -item[1][3]
    ):
        place = Path(file)
        if (
            place.is_relative_to(runs.ROOT)
            and ".venv" not in place.parts
            and seconds >= LEAST * whole
            and name[0] != "<"
        ):
            print(
                f"{seconds:8.1f} s  {100 * seconds / whole:5.1f} %  {calls:6d} x  {place.relative_to(runs.ROOT)}: {name}"
            )


if __name__ == "__main__":
    main()
