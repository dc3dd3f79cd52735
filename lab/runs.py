"""What every script does around its measurement: one-line errors, processes, fingerprints, saving and loading."""

import argparse
import ast
import hashlib
import io
import json
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from lab import readers
from lab.ending import UserError, first_line, processes
from lab.ending import run_script as run_script  # for the scripts, as what is imported from folders
from lab.folders import append_line, held, take_folder, write_files
from lab.folders import handed_down as handed_down
from lab.folders import hold as hold

ROOT = Path(__file__).parent.parent
SCRIPTS = {  # by the stem of what they write
    "one": "1.py",
    "two": "2.py",
    "phase0": "phase0_behavioral.py",
    "phase2": "phase2_z_extraction.py",
    "phase3": "phase3_patching.py",
    "phase3b": "phase3b_bridge.py",
    "ablation": "ablation.py",
    "hunt": "hunt.py",
}
DEFAULT_MODEL = "Qwen/Qwen2.5-3B"
DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration)  # of what was written


def choose_device(name: str) -> torch.device:
    """The torch device for --device. Raises UserError for an unknown one or for CUDA where there is none."""
    if name == "auto" and torch.cuda.is_available():
        local = os.environ.get("LOCAL_RANK") if processes()[1] > 1 else None
        return torch.device("cuda" if local is None else f"cuda:{local}")
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name} is not a device; use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name} is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: {torch.cuda.device_count()} CUDA device(s) here; use --device cpu")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch dtype for --dtype: bfloat16 on CUDA and float32 on CPU unless named."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, name)


def own_turns(batches: Sequence) -> Sequence:
    """This process's share of what is run in batches, a list or a range: every process takes its turn."""
    rank, number = processes()
    return batches[rank::number]


def gathered(own: dict) -> dict:
    """The dictionaries of all processes in one, in the order of their keys; objects on the CPU."""
    if processes()[1] > 1:
        from accelerate.utils import gather_object

        own = {key: value for part in gather_object([own]) for key, value in part.items()}
    return dict(sorted(own.items()))


def file_hash(path: Path) -> str:
    """SHA-256 of a file in hex; the hub's cache already names its large blobs so. UserError where it cannot be read."""
    blob = path.resolve().name
    if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", blob):
        return blob
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def short_hash(value: object) -> str:
    """First 16 hex digits of the SHA-256 of the value's canonical JSON; what JSON does not know counts as its text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def array_hash(array: np.ndarray) -> str:
    """First 16 hex digits of the SHA-256 of an array's shape, type and bytes."""
    head = f"{array.shape} {array.dtype.str} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def check_range(flag: str, value: int, low: int, high: int) -> int:
    """The value, or UserError if it lies outside low..high."""
    if not low <= value <= high:
        raise UserError(f"{flag} {value} is out of range: this model allows {low} to {high}")
    return value


def significant(value: object, digits: int = 4) -> object:
    """The value with floats at so many significant digits, numpy and torch made plain; ValueError if not finite."""
    if isinstance(value, dict):
        return {str(key): significant(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [significant(item, digits) for item in value]
    if isinstance(value, np.ndarray | torch.Tensor):
        return significant(value.tolist(), digits)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a result is not finite")
        return float(f"{value:.{digits}g}")
    return value


def array_bytes(array: np.ndarray) -> bytes:
    """An array as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


@dataclass(frozen=True)
class Report:
    """What a script writes beside its measurement, and what judges and words it.

    `judge(results)` returns verdict, tests ({name: bool}), holds ({claim: bool or None}) and whatever else follows from the
    numbers. `page` is the script's module in reports/: `claims(results)` gives its claim rows without `holds`,
    `render(results, arrays)` file names and bytes, `summary(results)` the numbers that decided, on one line.
    """

    script: str  # the script's __file__
    stem: str
    arrays: tuple[str, ...]  # the files that hold the measurement beside the JSON
    judge: Callable[[dict], dict]
    page: ModuleType

    def judged(self, results: dict) -> dict:
        """The results with the verdict, tests and claims that today's rules and words give them."""
        judgement = dict(self.judge(results))
        holds = judgement.pop("holds")
        results = results | judgement
        rows = self.page.claims(results)
        return significant(results | {"claims": [row | {"holds": holds[row["id"]]} for row in rows]})

    def write(self, out: Path, results: dict, arrays: dict) -> None:
        """Judge, render and write all files; the JSON, which says that the rest is there, last."""
        results = self.judged(significant(results))
        content = json_bytes(results)
        files = {name: value if isinstance(value, bytes) else array_bytes(value) for name, value in arrays.items()}
        files |= self.page.render(
            json.loads(content), arrays
        )  # from what is saved: --report-only writes the same bytes
        name, said = f"{self.stem}_results.json", self.page.summary(results)
        write_files(out, files | {name: content}, replaced=name if self.arrays else None)
        self.print_verdict(out, results, said)

    def again(self, out: Path, results: dict) -> None:
        """Judge and render saved results once more, without a model. UserError where an older edition wrote them."""
        arrays = {name: load_array(out, name) for name in self.arrays}
        path = out / f"{self.stem}_results.json"
        try:
            results = self.judged(results)
            content = json_bytes(results)
            files, said = self.page.render(json.loads(content), arrays), self.page.summary(results)
        except KeyError as error:
            raise UserError(
                f"{path} lacks {error}, an older edition wrote it: measure again, without --report-only"
            ) from None
        except DAMAGE as error:
            raise UserError(
                f"{path} is not as it was written ({first_line(error)}): measure again, without --report-only"
            ) from None
        write_files(out, files | {path.name: content})
        self.print_verdict(out, results, said)

    def print_verdict(self, out: Path, results: dict, said: str) -> None:
        """The last line that a script prints."""
        if processes()[0] == 0:
            print(f"{results['verdict']}: {said} -> {out / f'{self.stem}_output.md'}")


class Run:
    """One run of one script: its fingerprint, whether the work is done already, and saving all files together."""

    def __init__(
        self,
        report: Report,
        arguments: argparse.Namespace,
        model: dict,
        settings: dict,
        handed: dict | None = None,
        check: Callable[[], None] | None = None,
    ):
        """`model` is the model's identity; `settings` are those that change results, files among them by content.

        `handed`: further entries of the results that an earlier phase hands on and that change no measurement; results that
        are there already take them anew. `check`: raises UserError where the model is not what it was, before it is saved.

        The output folder belongs to this run as long as it lives. Raises UserError where it is not writable, another process
        is at work there, or it holds another model's results.
        """
        self.report, self.out, self.fresh, self.started = report, arguments.out, arguments.fresh, time.monotonic()
        self.hold, self.check = take_folder(self.out), check
        check_owner(self.out, model)
        self.model, self.settings, self.handed = model, significant(settings), handed or {}
        self.fingerprint = short_hash([self.model, self.settings, code_hash(Path(report.script))])

    def finished(self) -> bool:
        """Whether results with this fingerprint and all their arrays are there; then only judged and worded again."""
        path = self.out / f"{self.report.stem}_results.json"
        if self.fresh or not all((self.out / name).exists() for name in (path.name, *self.report.arrays)):
            return False
        results = read_json(path)
        if not isinstance(results, dict) or results.get("fingerprint") != self.fingerprint:
            return False
        if processes()[0] == 0:
            print("results with these settings are there already; --fresh measures again")
            self.report.again(self.out, results | self.handed)
        return True

    def save(self, results: dict, arrays: dict) -> None:
        """Write results, arrays, report and figures: all to temporary names, then all renamed; by one process.

        `arrays` maps file names to arrays (or to bytes, for JSONL).
        """
        if processes()[0] > 0:
            return
        if self.check:
            self.check()
        head = {"script": self.report.stem, "model": self.model, "settings": self.settings}
        self.report.write(self.out, head | {"fingerprint": self.fingerprint} | self.handed | results, arrays)
        self.log()

    def log(self) -> None:
        """Append what must not be in reproducible files: duration, host and versions."""
        import transformers

        line = (
            f"{self.report.stem} {self.model['name']}: {time.monotonic() - self.started:.1f} s, {platform.machine()}, "
        )
        line += (
            f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
        )
        append_line(self.out / "run.log", line)


def render_again(arguments: argparse.Namespace, report: Report) -> None:
    """--report-only: saved results judged and rendered again, without a model."""
    with held(arguments.out):
        report.again(arguments.out, saved_results(arguments, report))


def saved_results(arguments: argparse.Namespace, report: Report) -> dict:
    """The results that --report-only is about; UserError if --model names another model."""
    results = load_results(arguments.out, report.stem)
    with as_written(arguments.out, report.stem):
        name = results["model"]["name"] if "model" in results else "several models"
    if arguments.model is not None and shown_name(arguments.model) != name:
        path = arguments.out / f"{report.stem}_results.json"
        raise UserError(
            f"{path} is about {name}, not about {shown_name(arguments.model)}: give the --out of that model"
        )
    return results


def shown_name(model: str) -> str:
    """A model's name as reports show it: the hub's, or a local folder's or file's own name."""
    path = local_path(model)
    return path.resolve().name if path.exists() else model


def local_path(model: str) -> Path:
    """A model's name as a path; `~` is the user's home, as the shell has it."""
    return Path(os.path.expanduser(model))  # Path.expanduser raises where there is no such user


def check_owner(out: Path, model: dict | None) -> None:
    """UserError if the folder holds results of another model (None: of any one model, for a comparison of several)."""
    for stem in SCRIPTS:
        path = out / f"{stem}_results.json"
        found = read_json(path) if path.exists() else None
        owner = found.get("model") if isinstance(found, dict) else model
        with as_written(out, stem):
            same = owner and model and all(owner[key] == model[key] for key in owner.keys() & model.keys())
            if found and owner != model and not same:
                name = (
                    f"{owner['name']} (weights {owner['weights_hash']})" if owner else "a comparison of several models"
                )
                raise UserError(f"{out} holds results of {name}: a folder belongs to one model, give another --out")


@cache
def code_hash(script: Path) -> str:
    """Hash of the code that measures: the script and what it imports of this project, but not its rules and words.

    Comments and docstrings do not count: neither can change a number.
    """
    sources = []
    for path in import_closure(script):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if (
                isinstance(body, list)
                and body
                and isinstance(body[0], ast.Expr)
                and isinstance(body[0].value, ast.Constant)
            ):
                del body[0]
        sources.append([path.name, ast.dump(tree)])
    return short_hash(sources)


@cache
def import_closure(script: Path) -> list[Path]:
    """The script and the project's modules that it imports, directly or not, without verdicts/ and reports/."""
    found, waiting = [], [script.resolve()]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.append(path)
        for name in imported_names(path):
            file = ROOT / f"{name.replace('.', '/')}.py"
            if file.is_file() and name.split(".")[0] not in ("verdicts", "reports"):
                waiting.append(file)
    return [found[0], *sorted(found[1:])]


def imported_names(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever in it; for `from a import b` both a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def load_results(out: Path, stem: str, model: dict | None = None) -> dict:
    """An earlier phase's results; UserError if missing, damaged or (where `model` is given) another model's."""
    path = out / f"{stem}_results.json"
    if not path.exists():
        raise UserError(f"{path} is missing: run {SCRIPTS[stem]} with the same --model and --out first")
    results = read_json(path)
    if not isinstance(results, dict) or results.get("script") != stem:
        raise UserError(f"{path} is not a result of this suite: delete it and run again")
    if "tests" not in results:  # the first edition's
        raise UserError(f"{path} was written by an older edition of this suite: run {SCRIPTS[stem]} again")
    with as_written(out, stem):
        if model and results["model"] != model:
            raise UserError(
                f"{path} is about another model ({results['model']['name']}, weights {results['model']['weights_hash']}; "
                f"now {model['name']}, weights {model['weights_hash']}): use another --out or run that phase again"
            )
    return results


def load_array(out: Path, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray | bytes:
    """An array of an earlier phase (bytes for JSONL); UserError if missing, damaged or of another shape."""
    path = out / name
    if not path.exists():
        raise UserError(f"{path} is missing: run the script that writes it again with --fresh")
    try:
        array = readers.read_array(path) if path.suffix == ".npy" else path.read_bytes()
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path} is damaged ({first_line(error)}): run the script that writes it with --fresh"
        ) from None
    if shape is not None and array.shape != shape:
        raise UserError(f"{path} has shape {array.shape}, expected {shape}: run the script that writes it with --fresh")
    return array


def read_json(path: Path) -> dict:
    """A JSON file's content; UserError where it is damaged."""
    try:
        return readers.parsed(path.read_text(encoding="utf-8"), parse_constant=readers.no_constant)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged ({first_line(error)}): delete it and run again") from None


@contextmanager
def as_written(out: Path, stem: str) -> Iterator[None]:
    """Inside, an earlier phase's results are taken apart: UserError where they are not as that phase writes them."""
    try:
        yield
    except DAMAGE as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is not as it was written ({first_line(error)})"
        raise UserError(f"{out / f'{stem}_results.json'} {what}: delete it and run {SCRIPTS[stem]} again") from None


def json_bytes(value: object) -> bytes:
    """JSON with sorted keys, the same bytes each time; ValueError where a number is not finite."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def json_lines(records: Sequence[dict]) -> bytes:
    """Records as JSONL."""
    lines = [json.dumps(record, ensure_ascii=False, sort_keys=True) for record in records]
    return ("\n".join(lines) + "\n").encode()
