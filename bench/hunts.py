"""Whole hunts of models with a known truth: what the hunt says of each, what told where the Z is, and how long it took.

Question   does `hunt.py`, run as a user runs it, say of every planted kind what that is?
Inputs     none: bench/planted.py writes the models
Outputs    output/controls/hunts_output.md; hunts_results.json (not committed), a row a hunt; hunts that are there already, by
           the same code, are not repeated. Exit status 1 where a hunt says what it must not.
Run        python -m bench.hunts [--seeds 2] [--jobs 2] [--cases planted decoy] [--out output/controls]
"""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import planted, resumed
from bench.control_runs import MODELS
from lab import runs
from reports import page

BY_WEIGHTS = ("weights", "weights, another place", "weights, another layer")
EXPECTED = {  # case: what it is; the (verdict, found by) that may be said, None for any; how the page says that
    "planted": ([("causal_z", "weights")], "a causal Z, where the weights say"),
    "multi": ([("causal_z", "weights")], "the same, some answers of several tokens"),
    "late": ([("causal_z", "weights, another place")], "a causal Z, the weights' subspace at another place"),
    "decoy": (
        [("causal_z", "activations"), ("answer_word", None), ("partial_z", None)],
        "nothing by weights; activations may find the code",
    ),
    "answer_word": ([("answer_word", None)], "the output word's code"),
    "illusion": (
        [("illusion", None), ("causal_z", "activations")],
        "an illusion by weights; activations may find the code",
    ),
    "random": ([("untestable", None)], "nothing: it solves nothing"),
    "twin, reinitialised": ([("untestable", None)], "nothing: it solves nothing"),
    "twin, permuted": ([("untestable", None)], "nothing: it solves nothing"),
}
SEEDS = 2


def main() -> None:
    arguments = resumed.command_line(__doc__, EXPECTED, SEEDS)
    pool = ThreadPoolExecutor(arguments.jobs)
    rows = resumed.rows_of(arguments, "hunts_results.json", code_of_everything(), pool, hunted)
    text, wrong = report(rows)
    runs.write_files(arguments.out, {"hunts_output.md": text})
    print(f"{wrong} of {len(rows)} hunts say what they must not -> {arguments.out / 'hunts_output.md'}")
    sys.exit(wrong > 0)


def code_of_everything() -> str:
    """Hash of the code that a hunt and the planted models are made by, without pages."""
    files = [*(runs.ROOT / script for script in runs.SCRIPTS.values()), Path(__file__)]
    return runs.short_hash([runs.code_hash(file) for file in files])


def hunted(case: str, seed: int) -> dict:
    """One hunt, in processes of its own: verdict, which Z it is about, what the weights' own Z came to, and minutes."""
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "model", Path(folder) / "out"
        kind, twin = MODELS[case]
        planted.write_planted(path, kind, seed)
        path = planted.twins(path, seed)[twin] if twin else path
        command = [
            sys.executable,
            str(runs.ROOT / "hunt.py"),
            "--model",
            str(path),
            "--out",
            str(out),
            "--device",
            "cpu",
        ]
        start, environment = time.monotonic(), os.environ | {"OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, capture_output=True, text=True, env=environment)
        minutes = (time.monotonic() - start) / 60
        if ended.returncode:
            raise runs.UserError(f"{case} {seed}: {ended.stderr.strip().splitlines()[-1]}")
        found = runs.read_json(out / "hunt_results.json")
    z = {key: found["z"].get(key) for key in ("name", "site", "found_by", "verdict", "coverage")}
    row = {"case": case, "seed": seed, "verdict": found["verdict"], "z": z, "minutes": minutes}
    row |= {"separates": found["weight_based"]["separates"], "beyond_text": found["weight_based"]["beyond_text"]}
    return row | {"weights": found["weight_based"]["causal"], "left_out": found["left_out"]}


def as_expected(row: dict) -> bool:
    """Whether a hunt says what may be said of its kind."""
    allowed, _ = EXPECTED[row["case"]]
    return (row["verdict"], row["z"]["found_by"]) in allowed


def report(rows: dict) -> tuple[bytes, int]:
    """The page, and how many hunts say what they must not."""
    lines, wrong = [], 0
    for case, (_, words) in EXPECTED.items():
        for row in sorted((row for row in rows.values() if row["case"] == case), key=lambda row: row["seed"]):
            right = as_expected(row)
            wrong += not right
            lines.append([f"{case} ({row['seed']})", words, *cells(row), "yes" if right else "**no**"])
    headers = [
        "model (seed)",
        "it is",
        "hunt's verdict",
        "which Z, found by",
        "weights' own Z: phase 2, phase 3",
        "minutes",
        "right",
    ]
    text = page.prose("""# Whole hunts of models with a known truth

        `python -m bench.hunts`: hunt.py as a user runs it, in processes of one thread, two hunts at a time. Coverage is the
        share of the full swap's effect on the answer, with its 95 % interval.""")
    return f"{text}\n\n{page.table(headers, lines)}\n".encode(), wrong


def cells(row: dict) -> list[str]:
    z = row["z"]
    which = (
        f"{page.SUBSPACES[z['name']]}, {page.place(z['site'])}, coverage {page.span(z['coverage'])}"
        if z["name"]
        else "–"
    )
    by = f"; by {z['found_by']}" if z["found_by"] else ""
    return [f"`{row['verdict']}`", which + by, f"`{row['separates']}`, `{row['weights']}`", f"{row['minutes']:.1f}"]


if __name__ == "__main__":
    main()
