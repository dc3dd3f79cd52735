"""Benches that measure many models, a run each: their flags, and their rows, each kept as it comes and not measured twice."""

import argparse
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, as_completed
from pathlib import Path

from lab import commands, runs


def command_line(doc: str, cases: Iterable[str], seeds: int) -> argparse.Namespace:
    """The flags of such a bench; --out is made where it is missing."""
    parser = argparse.ArgumentParser(
        description=doc.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seeds", type=commands.positive, default=seeds, help="models of every case")
    parser.add_argument("--jobs", type=commands.positive, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--cases", nargs="+", choices=list(cases), default=list(cases), help="rows of the page")
    parser.add_argument("--out", type=Path, default=Path("output/controls"), help="folder of page and results")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


def rows_of(
    arguments: argparse.Namespace, name: str, code: str, pool: Executor, measure: Callable[[str, int], dict]
) -> dict[str, dict]:
    """{"case seed": row} of all cases and seeds asked for, and of those that the file `name` in --out holds by the same code."""
    file = arguments.out / name
    kept = runs.read_json(file) if file.exists() else {}
    rows = kept["rows"] if kept.get("code") == code else {}
    asked = [(case, seed) for seed in range(arguments.seeds) for case in arguments.cases]
    with pool:
        started = {
            pool.submit(measure, *one): "{} {}".format(*one) for one in asked if "{} {}".format(*one) not in rows
        }
        for number, done in enumerate(as_completed(started), 1):
            rows[started[done]] = runs.significant(done.result())
            runs.write_files(arguments.out, {name: runs.json_bytes({"code": code, "rows": rows})})
            print(f"{number} of {len(started)}: {started[done]}", flush=True)
    return rows
