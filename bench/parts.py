"""Where a script's time goes: seconds in every function of the project that takes a share of them, callers before callees.

Run        python -m bench.parts phase3_patching.py --model MODEL --out FOLDER --fresh       the script's own flags follow it
"""

import argparse
import cProfile
import importlib
import pstats
import time
from pathlib import Path

from lab import runs

LEAST = 0.01  # of the whole time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("script", choices=list(runs.SCRIPTS.values()))
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="the script's own")
    arguments = parser.parse_args()
    module, profile = importlib.import_module(Path(arguments.script).stem), cProfile.Profile()
    start = time.monotonic()
    profile.runcall(module.main, arguments.flags)
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
