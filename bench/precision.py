"""Two finished hunts of one model in different precisions: do verdicts, claims and the numbers that decide them agree?

Run        python -m bench.precision FLOAT32_FOLDER BFLOAT16_FOLDER       of `hunt.py --dtype float32` and `--dtype bfloat16`
"""

import argparse
import json
from pathlib import Path

from reports import page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs=2, type=Path)
    first, second = (read(folder) for folder in parser.parse_args().folders)
    rows = []
    for key in sorted(first.keys() | second.keys()):
        own, other = (side.get(key) for side in (first, second))
        if own is None or other is None:
            rows.append([key, *("–" if part is None else f"`{part['verdict']}`" for part in (own, other)), "–", "–"])
            continue
        claims = {row["id"]: row["holds"] for row in own["claims"]}
        others = {row["id"]: row["holds"] for row in other["claims"]}
        moved = [name for name in claims if claims[name] != others.get(name)]
        rows.append(
            [key, f"`{own['verdict']}`", f"`{other['verdict']}`", ", ".join(moved) or "none", farthest(own, other)]
        )
    print(
        page.table(
            ["report", *("verdict, " + dtype(side) for side in (first, second)), "claims that differ", "numbers"], rows
        )
    )


def read(folder: Path) -> dict[str, dict]:
    """{report, with its folder: its results}"""
    return {
        file.relative_to(folder).as_posix().removesuffix("_results.json"): json.loads(file.read_text())
        for file in sorted(folder.rglob("*_results.json"))
    }


def dtype(side: dict) -> str:
    return side["phase2"]["settings"]["dtype"]


DECIDING = {  # report: the records that decide there
    "phase2": lambda part: {
        "contrast": part["primary"]["contrast"],
        "without offset": part["primary"]["centred"]["contrast"],
    },
    "phase3": lambda part: {
        f"{measure} of {name}": row[measure]["value"]
        for name, row in part["tested"].items()
        for measure in ("coverage", "leak", "d")
        if measure in row
    },
    "phase0": lambda part: part["right"],
    "phase3b": lambda part: {name: value for name, value in part["held_out_r2"].items() if isinstance(value, float)},
}


def farthest(own: dict, other: dict) -> str:
    """The two numbers that decide which differ most."""
    numbers = DECIDING.get(own["script"].removesuffix(".py"), lambda _: {})
    before, after = numbers(own), numbers(other)
    shared = [name for name in before if None not in (before[name], after.get(name))]
    if not shared:
        return "–"
    worst = max(shared, key=lambda name: abs(before[name] - after[name]))
    return f"{worst} {page.show(before[worst], 3)} and {page.show(after[worst], 3)}, the farthest of {len(shared)}"


if __name__ == "__main__":
    main()
