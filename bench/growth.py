"""What a script's time and memory grow with: problems, draws, answers, depth; and each script of a hunt by itself.

Every measurement is a process of its own, on one thread: seconds of wall clock, and the most memory that it held. What a script
needs of earlier ones is made once. `--parts` takes the seconds of a finished hunt from its run.log instead, a column a hunt.

Run        python -m bench.growth [--model tiny | FOLDER | FILE.gguf] [--of problems draws answers depth]
           python -m bench.growth --parts output/tiny output/real/qwen2.5-coder-0.5b
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from lab import checkpoints, runs
from reports import page

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
WITH_DRAWS = "import phase3_patching; from lab import dissociation; dissociation.FULL_DRAWS = {draws}; phase3_patching.main({flags})"
PROBLEMS, DRAWS, ANSWERS, DEPTHS = (20, 40, 80, 160), (120, 240, 480), (20, 40, 60), (8, 16, 32)
LINE = re.compile(r"^(\w+) .*?: ([\d.]+) s,")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--of", nargs="+", choices=GROWTHS, default=list(GROWTHS))
    parser.add_argument("--parts", nargs="+", type=Path, help="folders of finished hunts")
    arguments = parser.parse_args()
    if arguments.parts:
        print(parts_table(arguments.parts))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for of in arguments.of:
            for script, what, seconds, gigabytes in GROWTHS[of](arguments.model, Path(folder) / of):
                rows.append([of, script, what, f"{seconds:.1f} s", f"{gigabytes:.2f} GB"])
                print(*rows[-1], sep=", ", flush=True)
    print(page.table(["of", "script", "with", "time", "most memory"], rows))


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds and gigabytes of a process; RuntimeError with its last words where it fails."""
    with tempfile.TemporaryFile("w+") as words:
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *command], cwd=runs.ROOT, env=os.environ | ONE_THREAD, stdout=words, stderr=words
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        if os.waitstatus_to_exitcode(status):
            words.seek(0)
            raise RuntimeError(f"{' '.join(command)}: {words.read()[-500:]}")
    return seconds, usage.ru_maxrss * 1024 / 1e9


def flags(model: str, out: Path, *more: str) -> list[str]:
    return ["--model", model, "--out", str(out), "--device", "cpu", *more]


def prepared(model: str, out: Path, *scripts: str) -> Path:
    """A folder with the results of these scripts."""
    for script in scripts:
        measured([script, *flags(model, out)])
    return out


def again(ready: Path, name: object) -> Path:
    """A copy of a prepared folder for one measurement."""
    return Path(shutil.copytree(ready, ready.with_name(f"{ready.name}-{name}")))


def of_problems(model: str, out: Path) -> Iterator[tuple]:
    """Phase 2 on so many word problems."""
    ready, asked = prepared(model, out, "1.py"), ["--problems", str(runs.ROOT / "data" / "words.jsonl")]
    for count in PROBLEMS:
        script = "phase2_z_extraction.py"
        yield (
            script,
            f"{count} problems",
            *measured([script, *flags(model, again(ready, count), *asked, "--limit", str(count))]),
        )


def of_draws(model: str, out: Path) -> Iterator[tuple]:
    """Phase 3 with so many draws for every null of a subspace that moves something."""
    ready = prepared(model, out, "1.py", "phase2_z_extraction.py")
    for draws in DRAWS:
        code = WITH_DRAWS.format(draws=draws, flags=flags(model, again(ready, draws)))
        yield "phase3_patching.py", f"{draws} draws", *measured(["-c", code])


def of_answers(model: str, out: Path) -> Iterator[tuple]:
    """Phase 3 on so many problems of the successor rung, each with an answer of its own, or of the model folder's own."""
    ready, own = (
        prepared(model, out, "1.py", "phase2_z_extraction.py"),
        checkpoints.find_model(model).path / "problems.jsonl",
    )
    asked = ["--problems", str(own if own.exists() else runs.ROOT / "data" / "successor.jsonl")]
    for count in ANSWERS:
        script = "phase3_patching.py"
        yield (
            script,
            f"{count} problems",
            *measured([script, *flags(model, again(ready, count), *asked, "--limit", str(count))]),
        )


def of_depth(_, out: Path) -> Iterator[tuple]:
    """The structure scripts and phase 2 on random models of so many layers, 256 wide."""
    for layers in DEPTHS:
        path = out / f"{layers}-layers"
        tokenizer = AutoTokenizer.from_pretrained(runs.ROOT / "tiny")
        size = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 2}
        config = Qwen2Config(vocab_size=len(tokenizer), num_hidden_layers=layers, tie_word_embeddings=True, **size)
        AutoModelForCausalLM.from_config(config).save_pretrained(path)
        tokenizer.save_pretrained(path)
        for script in ("1.py", "2.py", "phase2_z_extraction.py"):
            yield script, f"{layers} layers", *measured([script, *flags(str(path), out / f"of-{layers}")])


GROWTHS = {"problems": of_problems, "draws": of_draws, "answers": of_answers, "depth": of_depth}


def parts_table(hunts: list[Path]) -> str:
    """Seconds of every script in finished hunts, from their run.log: the last run of each counts."""
    columns = {}
    for hunt in hunts:
        for log in sorted(hunt.rglob("run.log")):
            where = log.parent.relative_to(hunt).as_posix()
            for line in log.read_text().splitlines():
                if found := LINE.match(line):
                    key = found[1] if where == "." else f"{found[1]} ({where})"
                    columns.setdefault(hunt.name, {})[key] = float(found[2])
    keys = list(dict.fromkeys(key for column in columns.values() for key in column))
    rows = [[key, *(f"{column[key]:.0f} s" if key in column else "–" for column in columns.values())] for key in keys]
    whole = [f"{sum(column.values()) / 60:.1f} min" for column in columns.values()]
    return page.table(["script", *columns], [*rows, ["together", *whole]])


if __name__ == "__main__":
    main()
