"""What the committed reports are of: output/MANIFEST.md, a table of folders with command, model, hashes, seed and versions.

Read from the results (names, hashes of weights, tokenizer and configuration, seed, the fingerprint of model, settings and code)
and, where a folder has one, from run.log (seconds and versions). Nothing is measured.

Run        python -m bench.manifest [--out output]
"""

import argparse
import json
from pathlib import Path

from bench.growth import LINE
from lab import runs
from reports import page

MADE_BY = {  # folder: the command that makes it anew
    "tiny": "make hunt",
    "real": "python hunt.py --models MODELS... --out output/real",
    "controls": "make controls; python -m bench.separation; python -m bench.hunts",
}
NAME = "MANIFEST.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=runs.ROOT / "output")
    out = parser.parse_args().out
    (out / NAME).write_text(manifest(out), encoding="utf-8")
    print(f"{out / NAME}")


def manifest(out: Path) -> str:
    """The page."""
    commands = [[f"`{folder}/`", f"`{command}`"] for folder, command in MADE_BY.items() if (out / folder).exists()]
    hunts = [row(out, file) for file in sorted(out.rglob("hunt_results.json")) if "model" in runs.read_json(file)]
    headers = [
        "folder",
        "model",
        "weights, tokenizer, configuration",
        "seed, device, dtype",
        "hunt's fingerprint",
        "took",
        "with",
    ]
    text = """# What the reports here are of

        A fingerprint is a hash of the model, the settings and the code that measures; the results of every script hold its own.
        On one CPU a command writes the same bytes twice; on another the last digits may differ, and with them what lies at a
        threshold."""
    return (
        "\n\n".join([page.prose(text), page.table(["folder", "made by"], commands), page.table(headers, hunts)]) + "\n"
    )


def row(out: Path, file: Path) -> list[str]:
    """A hunt's cells."""
    found, log = json.loads(file.read_text(encoding="utf-8")), file.parent / "run.log"
    model, settings = found["model"], found["settings"]
    hashes = ", ".join(model[key] for key in ("weights_hash", "tokenizer_hash", "config_hash"))
    name = model["name"] + (f" ({model['quantisation']})" if model["quantisation"] else "")
    took, versions = "–", "–"
    if log.exists():
        logs = [file.parent / part / "run.log" for part in ("", "reasoning")]
        lines = [(one, line) for one in logs if one.exists() for line in one.read_text(encoding="utf-8").splitlines()]
        last = {(one, match[1]): float(match[2]) for one, line in lines if (match := LINE.match(line))}
        took, versions = f"{sum(last.values()) / 60:.1f} min", lines[-1][1].split(" s, ", 1)[1]
    setup = f"{settings['seed']}, {settings['device']}, {runs.read_json(file.with_name('phase2_results.json'))['settings']['dtype']}"
    return [file.parent.relative_to(out).as_posix(), name, hashes, setup, found["fingerprint"], took, versions]


if __name__ == "__main__":
    main()
