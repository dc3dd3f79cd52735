"""Phase 2 on what is known to be nothing: how often its nulls, its verdict, and `beyond_text` are passed there.

Question   does every null of phase 2 let 2 to 8 % pass of subspaces that are like its own draws, over 400 shuffled pairings of
           problems; does the whole verdict `clear` pass at most 8 % there; and is no untrained model ever beyond its text?
Inputs     none: activations of planted models, decoys and the embedded model, captured once; untrained twins of these
Outputs    output/controls/separation_output.md, a table of rates with Wilson intervals; separation_results.json, from which a
           run that was interrupted goes on. Exit status 1 where a criterion is missed.
Run        python -m bench.separation [--trials 400] [--seeds 20] [--out output/controls]
"""

import argparse
import contextlib
import io
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import phase2_z_extraction as phase2
import utils
import verdicts
from bench import planted
from lab import checkpoints, commands, pairs, progress, questions, runs, separation, statistics, studies, twins
from reports import page

LOW, HIGH = 0.02, 0.08  # share of subspaces like a null's own draws that may pass it
WHICH = {"text": "the weights'", "text_handed": "centroids, last position"}
TRIALS, SEEDS, DRAWS = 400, 20, 199  # with 199 draws a right null passes 9 of 200
SOURCES = ("planted", "decoy", "tiny")
UNTRAINED = ("tiny, permuted", "tiny, reinitialised", "planted, permuted", "planted, reinitialised", "random")
LIKE = {
    "haar": "Haar",
    "matched": "matched draws",
    "missing": "Haar without the offset",
    "pairing": "shuffled problems",
}
PROBLEMS = 30  # of a source: enough for k = 6 and k = 20, and fast
TINY = runs.ROOT / "tiny"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=commands.positive, default=TRIALS, help="shuffled pairings of each source")
    parser.add_argument("--seeds", type=commands.positive, default=SEEDS, help="untrained models of each kind")
    parser.add_argument("--out", type=Path, default=Path("output/controls"), help="folder of page and results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file, code = arguments.out / "separation_results.json", runs.short_hash(list(map(runs.code_hash, measured_by())))
    kept = runs.read_json(file) if file.exists() else {}
    rows = kept["rows"] if kept.get("code") == code else {}
    cases = [f"pairings {source} {arguments.trials}" for source in SOURCES]
    cases += [f"untrained {name} {seed}" for seed in range(arguments.seeds) for name in UNTRAINED]
    for case in progress.steps(cases, "cases", "case"):
        if case not in rows:
            kind, _, what = case.partition(" ")
            name, _, number = what.rpartition(" ")
            rows[case] = runs.significant({"pairings": pairings, "untrained": untrained}[kind](name, int(number)))
            runs.write_files(arguments.out, {file.name: runs.json_bytes({"code": code, "rows": rows})})
    report, missed = tables({case: rows[case] for case in cases})
    runs.write_files(arguments.out, {"separation_output.md": report.encode()})
    print(report)
    sys.exit(missed > 0)


def measured_by() -> list[Path]:
    """The code that a row depends on."""
    return [Path(phase2.__file__), Path(__file__), Path(planted.__file__)]


@contextlib.contextmanager
def model_of(name: str, seed: int):
    """The folder of a model by name: tiny, a planted kind, or an untrained twin of one."""
    source, _, twin = name.partition(", ")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = TINY
        if source != "tiny":
            path = planted.write_planted(Path(folder) / "model", source, seed).path
        if twin and source == "tiny":
            path = Path(shutil.copytree(TINY, Path(folder) / "model", ignore=shutil.ignore_patterns("*.py", "__*")))
        if twin:
            model = AutoModelForCausalLM.from_pretrained(path)
            change = {"permuted": twins.permute, "reinitialised": twins.reinitialise}[twin]
            change(model, seed, 1000, len(model.model.layers))  # no baseline's number
            model.save_pretrained(path)
        yield path


def opened(path: Path, seed: int):
    """Phase 2's opening on a model, its layer (the lowest inner one), and the running model."""
    flags = ["--model", str(path), "--out", str(path / "out"), "--device", "cpu", "--seed", str(seed)]
    opening = questions.begin(phase2.REPORT, phase2.parse_arguments(flags), "phase2.jsonl")
    folder, ranks = opening.folder, {}
    for layer in range(1, folder.layers - 1):
        factors = utils.kernel_factors(checkpoints.read_layer(folder, layer), folder.head_width, False)
        ranks[layer] = utils.effective_rank(utils.kernel_values(*factors)).mean().item()
    return opening, min(ranks, key=ranks.get), *questions.load_model(opening)


def pairings(source: str, trials: int) -> dict:
    """Passes of each null by subspaces like its own draws, and of everything by the weights' Z, over shuffled pairings."""
    with model_of(source, 0) as path:
        opening, layer, model, tokenizer = opened(path, 0)
        study, _ = phase2.make_study(opening, model, tokenizer, {"layer": layer, "fitting_share": 1.0})
    points, sizes = study.points(layer + 1, "mean")[:, :PROBLEMS], study.weights["k"]
    folds = pairs.folds_by_answer(study.answers[:PROBLEMS], 0)
    width, k = points.shape[-1], sizes[-1]
    passed, cleared = {}, 0
    orders = pairs.shuffles(points.shape[1], 1, None, trials)
    for trial, order in enumerate(progress.steps(orders, f"pairings of {source}", "trial")):
        shuffled = torch.cat([points[:1], points[1:, order]])
        place = separation.Place(shuffled, folds, trial, DRAWS)
        place.draw(sizes)
        draw = statistics.seeded(trial, "bench: subspaces")
        language, within = utils.language_space(shuffled), shuffled - shuffled.mean(1, keepdim=True)
        outside = torch.linalg.svd(language)[2][len(language) :]
        like = {
            "haar": utils.random_subspaces(draw, 1, k, width)[0],
            "matched": utils.matched_subspaces(draw, 1, k, within.flatten(0, 1))[0],
            "missing": utils.random_subspaces(draw, 1, k, len(outside))[0] @ outside,
            "pairing": study.primary,
        }
        for kind, basis in like.items():
            for part, scene in (("raw", place.raw), ("centred", place.centred)):
                if kind in scene.nulls:
                    hit = scene.row(basis)[kind]["p"] < verdicts.LEVEL
                    passed[f"{kind} {part}"] = passed.get(f"{kind} {part}", 0) + hit
        rows = [study.weights["heads"][layer][:, :size] for size in sizes]
        bases = [utils.multi_head_subspace(heads, size) for heads, size in zip(rows, sizes)]
        rows = [place.raw.row(basis) | {"centred": place.centred.row(basis)} for basis in bases]
        for share, row in zip(phase2.K_SHARES, rows):
            row |= {"primary": True, "share": share, "p_holm": 1.0}
        cleared += phase2.standing(rows) == "clear"
    return {"trials": trials, "passed": passed, "clear": cleared, "problems": points.shape[1], "k": k}


def untrained(name: str, seed: int) -> dict:
    """`beyond_text` in an untrained model, against its own baselines: of the weights' Z, and of centroids fitted on it."""
    with model_of(name, seed) as path:
        opening, layer, model, tokenizer = opened(path, seed)
        study, _ = phase2.make_study(opening, model, tokenizer, {"layer": layer, "fitting_share": 0.5})
        fitted, site = study.fitting(), layer + 1
        k = min(studies.common_k(study), len(fitted) - 1)
        z = {"method": "centroid", "site": site, "position": phase2.POSITION, "fitted_index": fitted, "k": k}
        basis = studies.fitter(study, "centroid", phase2.POSITION, k)(fitted).cpu()
        refit, foils = phase2.refit_of(study, opening, z), phase2.find_foils(opening)
        found = phase2.beyond_text(study, foils, model, tokenizer, z, basis, refit)
    return {"layer": layer, **found}


def tables(rows: dict) -> tuple[str, int]:
    """The page, and how many criteria are missed."""
    nulls, texts, missed = [], [], 0
    for case, row in rows.items():
        kind, _, what = case.partition(" ")
        if kind == "pairings":
            for null, count in row["passed"].items():
                met = LOW <= count / row["trials"] <= HIGH
                missed += not met
                nulls.append(
                    [
                        what.split()[0],
                        LIKE[null.split()[0]],
                        null.split()[1],
                        *share(count, row["trials"]),
                        page.HOLDS[met],
                    ]
                )
            met = row["clear"] / row["trials"] <= HIGH
            missed += not met
            nulls.append(
                [what.split()[0], "whole verdict", "clear", *share(row["clear"], row["trials"]), page.HOLDS[met]]
            )
    for name in UNTRAINED:
        own = [row for case, row in rows.items() if case.startswith(f"untrained {name} ")]
        if own:
            for which, words in WHICH.items():
                beyond = sum(verdicts.beats_text(row[which]) is True for row in own)
                mean = sum(row[which]["z"]["rate"] for row in own) / len(own)
                missed += beyond > 0
                texts.append([name, words, len(own), mean, *share(beyond, len(own)), page.HOLDS[beyond == 0]])
    null_table = page.table(["activations of", "null", "points", "passed", "rate", "95 %", "as it should"], nulls)
    text_table = page.table(["model", "Z", "seeds", "mean rate", "beyond text", "rate", "95 %", "as it should"], texts)
    return page.prose(f"""
        # Phase 2 on what is known to be nothing

        Each null is met by subspaces like its own draws ({", ".join(LIKE.values())}), over shuffled pairings of the problems, and
        may let {LOW:.0%} to {HIGH:.0%} of them pass at p < {verdicts.LEVEL:g}; `clear` may pass {HIGH:.0%} at most.

        {null_table}

        Untrained models, the lowest inner layer: neither its weight-based Z nor centroids fitted on the model, as on each of its
        twins, may be beyond the text.

        {text_table}
    """) + "\n", missed


def share(count: int, trials: int) -> list:
    low, high = statistics.wilson_interval(count, trials)
    return [f"{count} of {trials}", count / trials, f"{low:.3f} to {high:.3f}"]


if __name__ == "__main__":
    main()
