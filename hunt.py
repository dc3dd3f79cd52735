"""The hunt: from a model's name to the answer, along the recipe's decision tree.

Question   is there a language-agnostic reasoning subspace Z, is it where the weights predict it, and does the model use it?
Inputs     a model, and problems where others than the suite's are wanted; everything else is made by the scripts that this one
           runs, as a user would, with the same files and flags
Outputs    output/hunt_output.md with figures, hunt_results.json, and the reports of all scripts; those of the second kind of
           problem in output/reasoning. With several models a folder for each, and their comparison in output/hunt_output.md
Run        python hunt.py --model Qwen/Qwen2.5-3B
           python hunt.py --models Qwen/Qwen2.5-3B Qwen/Qwen3-4B      an interrupted hunt goes on where it stopped
           python hunt.py --problems mgsm_en.tsv mgsm_zh.tsv     what these do not allow is left out, and said first

Steps, which are also the report's headings:
1 what it would take   2 beside arXiv 2505.15257   3 decision tree   4 predicted and causal layer   5 contingencies
6 math and reasoning   7 removing the language instead   8 bridge   9 reports
"""

import argparse
import gc
import importlib
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

import verdicts
from lab import checkpoints, commands, ending, expected, kept, questions, runs
from lab.evidence import REASONING, UNPATCHED, gather, row_of, select, tested_rows, untested
from lab.problems import NoTexts
from reports import hunt as page

SHARDED = ("phase0_behavioral.py", "phase2_z_extraction.py", "phase3_patching.py", "phase3b_bridge.py", "ablation.py")
LONGEST_END = 10  # seconds that killed processes are waited for
MINIMUM = 4  # problems that phases 2, 3 and the ablation need; twice as many where a half may be what Z was fitted on
REPORT = runs.Report(__file__, "hunt", (), verdicts.hunt, page)


@dataclass(frozen=True)
class Step:
    """One script of the hunt: where it writes, and the flags that it gets beyond the shared ones."""

    script: str
    stem: str
    folder: str = ""
    flags: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its name among the hunt's parts: phase3, or reasoning/phase3."""
        return f"{self.folder}/{self.stem}".lstrip("/")

    @property
    def where(self) -> str:
        """What a line for the user says of its folder."""
        return f" ({self.folder})" if self.folder else ""


@dataclass(frozen=True)
class Asks:
    """What a step asks where no file is named, and the steps that fall out where the problems do not allow it."""

    default: str  # in data/
    in_words: bool = False
    fewest: int = MINIMUM
    falls_out: tuple[str, ...] = ()  # none: then there is no hunt
    easier: str | None = None  # in data/: what to go down to from the default


@dataclass(frozen=True)
class Plan:
    """The flags of the steps that ask problems, and the steps left out: key -> the name of the reason."""

    flags: dict[str, tuple[str, ...]]
    left_out: dict[str, str]


THREADS = torch.get_num_threads()
STEPS = 10  # of a hunt that leaves nothing out
SECOND = tuple(f"{REASONING}/{stem}" for stem in ("phase2", "phase3", "phase3b"))
ASKS = {
    "phase0": Asks("phase0.jsonl", fewest=1),
    "phase2": Asks("phase2.jsonl"),
    # the ablation asks this file; phase 3 goes down the whole ladder where neither the user nor the model names one
    "phase3": Asks("words.jsonl", in_words=True, fewest=2 * MINIMUM, falls_out=("phase3", "phase3b", "ablation")),
    SECOND[0]: Asks("reasoning.jsonl", falls_out=SECOND),
    SECOND[1]: Asks("reasoning.jsonl", in_words=True, falls_out=SECOND[1:], easier="antonyms.jsonl"),
}


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.models and len(arguments.models) == 1:
        arguments.model, arguments.models = arguments.models[0], None
    if arguments.report_only:
        with runs.held(arguments.out):
            judge_again(arguments)
    elif arguments.models:
        hunt_each(arguments)
    else:
        with kept.loaded():
            hunt(arguments)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = commands.parser(__doc__, asks_problems=True)
    parser.add_argument("--models", nargs="+", help="several models: a folder each, and one comparison")
    parser.add_argument(
        "--learned", action="store_true", help="phase 3 also learns a Z by gradient (DAS): a third longer"
    )
    parser.add_argument(
        "--fold-norm", action="store_true", help="take kernels with the RMSNorm gains in 1.py, 2.py, phase 2"
    )
    help_text = "processes for the phases that ask problems, by `accelerate launch`"
    parser.add_argument("--processes", type=commands.positive, default=1, help=help_text)
    return parser.parse_args(argv)


def hunt_each(arguments: argparse.Namespace) -> None:
    """Hunt in every model, each in a folder of its own, and compare what was found."""
    names, out = arguments.models, arguments.out
    folders = {name: out / folder_of(name) for name in names}
    if len(set(folders.values())) < len(names):
        raise runs.UserError(f"--models {' '.join(names)}: two of them have the same name")
    runs.check_owner(out, None)
    with runs.held(out, make=True):
        failures, device = {}, arguments.device
        for name, folder in folders.items():
            try:
                with kept.loaded():
                    hunt(argparse.Namespace(**vars(arguments) | {"model": name, "out": folder, "device": device}))
            except runs.UserError as error:  # the other models' hunts are worth their time all the same
                failures[name] = str(error)
            device = children_device(arguments)
        found = {name: runs.load_results(folders[name], "hunt") for name in sorted(folders) if name not in failures}
        rows = {folder_of(name): row_of(result, folder_of(name)) for name, result in found.items()}
        failed = {folder_of(name): message for name, message in failures.items()}
        REPORT.write(out, {"script": "hunt", "models": rows, "failures": failed}, {})
        if failures:
            raise runs.UserError("; ".join(f"{name}: {message}" for name, message in failures.items()))


def folder_of(name: str) -> str:
    """The folder of one of several models, and its name in their comparison: the hub's name, or a local one's own."""
    return runs.shown_name(name).strip("./").replace("/", "--").removesuffix(".gguf")


def hunt(arguments: argparse.Namespace) -> None:
    """Run every step on one model, then gather its numbers, and judge and word them anew each time."""
    questions.check_given(arguments)  # what is wrong with the arguments shows before the first step
    opening = checkpoints.begin(REPORT, arguments)
    plan, parts = make_plan(arguments, opening.folder), {}
    left_out = dict(plan.left_out)
    opening.hold = runs.take_folder(arguments.out)  # until the last step is through
    say(expected.sentence(opening.folder, opening.device, opening.dtype))
    for number, step in enumerate(steps(arguments, plan, parts, left_out), 1):
        say(f"== part {number} of {STEPS - len(left_out)}: {step.script}{step.where}")
        run_step(step, arguments)
        parts[step.key] = runs.load_results(arguments.out / step.folder, step.stem, opening.folder.identity)
    settings = {"dtype": arguments.dtype, "parts": {key: runs.short_hash(part) for key, part in parts.items()}}
    opening.begun(**settings).save(gather(parts, opening.folder.layers, left_out), {})


def make_plan(arguments: argparse.Namespace, folder: checkpoints.ModelFolder) -> Plan:
    """What every step asks, found out before anything is measured; what is left out is said.

    UserError where a step would fail that cannot be left out.
    """
    flags, left_out = {}, {}
    for key, asks in ASKS.items():
        try:
            flags[key] = asking(arguments, folder, asks, *named_files(key, arguments, folder))
        except (NoTexts, questions.NoWords) as error:
            if not asks.falls_out:
                raise
            keys = [step for step in asks.falls_out if step not in left_out]
            left_out |= dict.fromkeys(keys, "no_answer_text" if isinstance(error, questions.NoWords) else "no_texts")
            if keys:
                say(f"== left out: {', '.join(keys)}, since {error}")
    return Plan(flags, left_out)


def named_files(key: str, arguments: argparse.Namespace, folder: checkpoints.ModelFolder) -> tuple:
    """--problems and --exemplars of a step: the user's; for the second kind of problem the model's own or the suite's."""
    if key not in SECOND:
        return arguments.problems, arguments.exemplars
    own, data = folder.path / "reasoning.jsonl", runs.ROOT / "data"
    if own.exists():
        return [own], None
    return [data / "reasoning.jsonl"], data / "reasoning_exemplars.jsonl"


def asking(arguments, folder: checkpoints.ModelFolder, asks: Asks, problems: list | None, exemplars) -> tuple[str, ...]:
    """The flags of a step that asks these problems, once it is clear that it can; else NoTexts, NoWords or another UserError.

    None: what the step takes by itself. --limit is handed on where more problems are there.
    """
    what = argparse.Namespace(languages=arguments.languages, problems=problems, exemplars=exemplars, limit=None)
    asked = questions.find_asked(what, folder, asks.default)
    some, files = asked.problems[: arguments.limit], ", ".join(map(str, asked.files))
    for problem in [*some, *asked.exemplars] if asks.in_words else []:
        questions.check_words(problem, arguments.languages)
    if len(some) < asks.fewest:
        raise runs.UserError(
            f"{files}: {len(some)} problems to ask; the hunt needs {asks.fewest} or more to fit and to test"
        )
    flags = ["--languages", *arguments.languages, "--batch", str(arguments.batch)]
    flags += ["--problems", *map(str, problems)] if problems else []
    flags += ["--exemplars", str(exemplars)] if exemplars else []
    if asks.easier and asked.files == [runs.ROOT / "data" / asks.default]:
        flags += going_down(runs.ROOT / "data" / asks.easier, what, folder)
    return (*flags, *(["--limit", str(len(some))] if len(some) < len(asked.problems) else []))


def going_down(file: Path, what: argparse.Namespace, folder: checkpoints.ModelFolder) -> list[str]:
    """The flag of a second rung, where it is written in all languages asked."""
    with suppress(NoTexts, questions.NoWords):
        questions.find_asked(
            argparse.Namespace(**vars(what) | {"problems": [file], "exemplars": None}), folder, file.name
        )
        return ["--easier", str(file)]
    return []


def judge_again(arguments: argparse.Namespace) -> None:
    """--report-only: every script's saved numbers judged by today's rules, then the hunt's own, without a model."""
    results = runs.saved_results(arguments, REPORT)
    with runs.as_written(arguments.out, "hunt"):
        if "models" in results:
            folders = {name: row["folder"] for name, row in results["models"].items()}
            found = {name: REPORT.judged(gathered_again(arguments.out / folder)) for name, folder in folders.items()}
            results["models"] = {name: row_of(result, folders[name]) for name, result in found.items()}
        else:
            results = gathered_again(arguments.out)
    REPORT.again(arguments.out, results)


def gathered_again(out: Path) -> dict:
    """A hunt's results from the scripts' results beside it, each judged anew."""
    results, parts = runs.load_results(out, "hunt"), {}
    try:
        for key in results["reports"]:
            folder, _, stem = key.rpartition("/")
            parts[key] = judged_again(runs.load_results(out / folder, stem))
        head = select(results, ("script", "model", "settings", "fingerprint"))
        return runs.significant(head | gather(parts, results["layers"]["layers"], results.get("left_out")))
    except KeyError as error:
        raise runs.UserError(
            f"{out}: results lack {error}, an older edition wrote some: run the hunt again, without --report-only"
        ) from None


def judged_again(part: dict) -> dict:
    """A script's results with the verdict that today's rules give its numbers."""
    judgement = getattr(verdicts, part["script"])(part)
    return part | {key: value for key, value in judgement.items() if key != "holds"}


def steps(arguments: argparse.Namespace, plan: Plan, parts: dict, left_out: dict) -> Iterator[Step]:
    """The scripts that run, in the order of the recipe; `parts` holds the results so far, which decide what comes next.

    Last math's Z on problems that are not math, with nothing fitted again. What is found to tell nothing goes to `left_out`.
    """
    for step in every_step(arguments, plan, parts):
        if step.key not in left_out and (why := pointless(step.key, parts)):
            left_out[step.key] = why
            say(f"== left out: {step.key}, since {page.REASONS[why]}")
        if step.key not in left_out:
            yield step


def every_step(arguments: argparse.Namespace, plan: Plan, parts: dict) -> Iterator[Step]:
    """The same, whether it tells anything or not."""
    phase0, phase2, phase3, *second = (plan.flags.get(key, ()) for key in ASKS)
    fold = ("--fold-norm",) if arguments.fold_norm else ()
    learned = ("--learned",) if arguments.learned else ()
    yield Step("1.py", "one", flags=fold)
    yield Step("2.py", "two", flags=fold)
    yield Step("phase0_behavioral.py", "phase0", flags=phase0)
    yield Step("phase2_z_extraction.py", "phase2", flags=phase2 + fold)
    yield Step("phase3_patching.py", "phase3", flags=phase3 + learned)
    yield Step("phase3b_bridge.py", "phase3b", flags=("--batch", str(arguments.batch)))
    yield Step("ablation.py", "ablation", flags=phase3)
    yield Step("phase2_z_extraction.py", "phase2", REASONING, (*second[0], *fold, "--z-from", str(arguments.out)))
    yield Step("phase3_patching.py", "phase3", REASONING, second[1])
    yield Step("phase3b_bridge.py", "phase3b", REASONING, ("--batch", str(arguments.batch)))


def pointless(key: str, parts: dict) -> str | None:
    """The name of the reason why a step can tell nothing, by what was found so far; None where it can.

    Without a rung that is solved nothing can be sent over a bridge, or be lost to an ablation. Math's Z is asked about other
    problems where it separates or moves something, or where math could not tell.
    """
    folder, _, stem = key.rpartition("/")
    phase3 = parts.get(f"{folder}/phase3" if folder == REASONING else "phase3", UNPATCHED)
    if stem in ("phase3b", "ablation") and phase3 is not UNPATCHED and not phase3["rung"]:
        return "no_rung"
    if folder != REASONING or "phase3" not in parts or untested(parts["phase3"]):
        return None
    z, rows = parts["phase2"]["z"], tested_rows(parts["phase3"])
    moves = any(row["verdict"] in verdicts.MOVES_SOME for row in rows if row["name"] in verdicts.SAME_Z)
    return None if moves or (z["holds"] and z["beyond_text"]) else "nothing_to_carry"


def say(line: str) -> None:
    """A line for the user, once."""
    if runs.processes()[0] == 0:
        print(line, flush=True)


def run_step(step: Step, arguments: argparse.Namespace) -> None:
    """One script; a finished one says so and ends at once. UserError if it fails, whose message is then printed already."""
    flags = ["--model", arguments.model or runs.DEFAULT_MODEL]
    flags += ["--out", str(arguments.out / step.folder), "--device", children_device(arguments)]
    flags += ["--dtype", arguments.dtype, "--seed", str(arguments.seed), *step.flags]
    flags += ["--revision", arguments.revision] if arguments.revision else []
    flags += ["--fresh"] if arguments.fresh else []
    shared = arguments.processes > 1 and step.script in SHARDED
    status = run_shared(step.script, flags, arguments.processes) if shared else run_here(step.script, flags)
    if status:
        raise runs.UserError(
            f"{step.script} ended with status {status} (its message is above); a hunt that runs again repeats no finished step"
        )


def run_here(script: str, flags: list[str]) -> int:
    """A script in this process, as its command line would run it: its exit status.

    Python and its packages start once for all steps, and what was read of the model's files is not read again.
    """
    let_go()
    torch.set_num_threads(THREADS)  # a narrow model's steps take one
    module = importlib.import_module(script.removesuffix(".py"))
    try:
        runs.run_script(lambda: module.main(flags), within=True)
    except SystemExit as end:
        return end.code
    except Exception:  # a fault of the script: the other models' hunts are worth their time all the same
        traceback.print_exc()
        return 1
    return 0


def let_go() -> None:
    """What the last step left is freed: two models at a time may be one too many. Ctrl-C waits, or what is freed swallows it."""
    with ending.undisturbed():
        gc.collect()


def run_shared(script: str, flags: list[str], processes: int) -> int:
    """A script in several processes: its exit status."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_processes", str(processes)]
    # Ctrl-C is for this process: it ends the script, which on its own would print a traceback while it still imports
    process = subprocess.Popen(
        [*command, str(runs.ROOT / script), *flags], preexec_fn=ignore_interrupts, **runs.handed_down()
    )
    try:
        return process.wait()
    except BaseException:
        with ending.undisturbed():
            end_with_workers(process)
        raise


def end_with_workers(launcher: subprocess.Popen) -> None:
    """End a launch and the processes below it, which would work on alone, at once: files are written all or none.

    A launcher that is asked to end prints a traceback. It is halted first, so that it starts nothing more meanwhile. One
    that is killed may work on for a moment: it is waited for.
    """
    below = []
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(launcher.pid)
        top.suspend()
        below = top.children(recursive=True)
    for process in (launcher, *below):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    launcher.wait()
    deadline = time.monotonic() + LONGEST_END
    while any(map(at_work, below)) and time.monotonic() < deadline:
        time.sleep(0.01)


def at_work(process: psutil.Process) -> bool:
    """Neither gone nor dead and not yet taken note of."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children_device(arguments: argparse.Namespace) -> str:
    """--device of the steps: a CPU that was chosen is named, so that the hunt alone warns of it.

    A GPU is not: with several processes each finds its own by `auto`.
    """
    return "cpu" if runs.choose_device(arguments.device).type == "cpu" else arguments.device


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    runs.run_script(main)
