"""The flags of the scripts: what they share, and how help and a wrong argument are shown."""

import argparse
import sys
from itertools import takewhile
from pathlib import Path

from lab import runs

VERSION = "0.3.0"  # as in CITATION.cff
LONGEST_NAME, LONGEST_PATH = 255, 3000  # bytes that file systems allow; of a path, with room for the files in it
PROBLEMS = (
    "a JSONL file, or one MGSM TSV per language (default: the model folder's problems.jsonl, else files of data/)"
)


class OneLineParser(argparse.ArgumentParser):
    """Reports a wrong argument in one line instead of argparse's usage block."""

    def parse_args(self, args=None, namespace=None):
        """argparse's, of arguments that can be written into a report and could name a file; else UserError."""
        for argument in sys.argv[1:] if args is None else args:
            try:
                size = len(argument.encode())
            except UnicodeEncodeError:
                self.error(f"argument {argument!r} is not UTF-8 text")
            if size > LONGEST_PATH or max(len(part.encode()) for part in argument.split("/")) > LONGEST_NAME:
                self.error(f"argument {argument!r} is too long for a name or a path")
        return super().parse_args(args, namespace)

    def error(self, message: str):
        """UserError, where argparse would print its usage and exit."""
        raise runs.UserError(f"{message} (see {self.prog} --help)")


class DefaultsHelp(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the default of every flag that has one, and the lines of the script's docstring as they are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(action.default)})" if action.default else action.help
        return super()._get_help_string(action) if action.default not in (None, False, 0) else action.help


def parser(description: str, asks_problems: bool = False) -> argparse.ArgumentParser:
    """The flags that every script shares; with `asks_problems` also those about problems.

    Help shows of a script's docstring its title, its question, what it reads and writes, and how it is run.
    """
    lines = description.strip().split("\n")
    about = "\n".join(takewhile(str.strip, lines[2:]))
    found = OneLineParser(description=lines[0], epilog=about, formatter_class=DefaultsHelp)
    found.add_argument("--version", action="version", version=f"Z hunt {VERSION}", help="print the version")
    found.add_argument("--model", help=f"hub name, local folder or GGUF file (default: {runs.DEFAULT_MODEL})")
    found.add_argument("--revision", help="branch, tag or commit on the hub")
    found.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    found.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="of the running model (1.py and 2.py run none and compute in float64); auto = bfloat16 on CUDA, float32 on CPU; "
        "float16 overflows in Qwen2.5",
    )
    found.add_argument("--out", type=Path, default=Path("output"), help="folder for reports and arrays, of one model")
    found.add_argument("--seed", type=int, default=0, help="of every random draw (default: 0)")
    found.add_argument("--fresh", action="store_true", help="measure again even if results are up to date")
    found.add_argument("--report-only", action="store_true", help="write the report again from saved results")
    if asks_problems:
        found.add_argument("--problems", nargs="+", type=Path, metavar="FILE", help=PROBLEMS)
        found.add_argument(
            "--exemplars", type=Path, metavar="FILE", help="few-shot exemplars, JSONL (default: those that lie beside)"
        )
        found.add_argument(
            "--languages", nargs="+", default=["en", "zh"], metavar="NAME", help="rows of data/languages.json"
        )
        found.add_argument("--limit", type=positive, help="use only the first problems")
        found.add_argument("--batch", type=positive, default=16, help="prompts per forward pass")
    return found


def positive(text: str) -> int:
    """argparse type: an integer ≥ 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value
