"""The hunt: from a model's name to the answer, along the recipe's decision tree.

Question   is there a language-agnostic reasoning subspace Z, is it where the weights predict it, and does the model use it?
Inputs     a model; everything else is made by the scripts that this one runs, as a user would, with the same files and flags
Outputs    output/hunt_output.md with figures, hunt_results.json, and the reports of all scripts; those of the second kind of
           problem in output/reasoning. With several models a folder for each, and their comparison in output/hunt_output.md
Run        python hunt.py --model Qwen/Qwen2.5-3B
           python hunt.py --models Qwen/Qwen2.5-3B Qwen/Qwen3-4B      an interrupted hunt goes on where it stopped

Steps, which are also the report's headings:
1 decision tree   2 predicted and causal layer   3 contingencies   4 math and reasoning   5 removing the language instead
6 bridge   7 reports
"""

import argparse
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from lab import checkpoints, questions, runs
from reports import page

SHARDED = ("phase0_behavioral.py", "phase2_z_extraction.py", "phase3_patching.py", "phase3b_bridge.py", "ablation.py")
REASONING = "reasoning"  # folder of the second kind of problem
LEVEL = 0.05
NEAR = 1  # the recipe speaks of L32 and L33 together: prediction and cause agree within one layer


@dataclass(frozen=True)
class Step:
    """One script of the hunt: where it writes, and the flags that it gets beyond the shared ones."""

    script: str
    stem: str
    folder: str = ""
    flags: tuple[str, ...] = ()


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.report_only:
        return runs.render_again(arguments.out, "hunt", (), render)
    names = arguments.models or [arguments.model]
    if len(names) == 1:
        hunt(names[0], arguments, arguments.out)
        return None
    folders = {name: arguments.out / name.strip("./").replace("/", "--") for name in names}
    if len(set(folders.values())) < len(names):
        raise runs.UserError(f"--models {' '.join(names)}: two of them have the same name")
    failures = {}
    for name, out in folders.items():
        try:
            hunt(name, arguments, out)
        except runs.UserError as error:  # the other models' hunts are worth their time all the same
            failures[name] = str(error)
    found = {name: runs.load_results(out, "hunt") for name, out in folders.items() if name not in failures}
    results = compare(found, {name: str(out.relative_to(arguments.out)) for name, out in folders.items()}, failures)
    runs.save_plain(arguments.out, "hunt", results, render)
    if failures:
        raise runs.UserError("; ".join(f"{name}: {message}" for name, message in failures.items()))
    return None


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = runs.command_line(__doc__)
    parser.add_argument("--models", nargs="+", help="several models: a folder each, and one comparison")
    parser.add_argument("--languages", nargs="+", default=["en", "zh"])
    parser.add_argument("--batch", type=runs.positive, default=16, help="prompts per forward pass")
    parser.add_argument(
        "--fold-norm", action="store_true", help="take kernels with the RMSNorm gains in 1.py, 2.py, phase 2"
    )
    help_text = "processes for the phases that ask problems, by `accelerate launch`"
    parser.add_argument("--processes", type=runs.positive, default=1, help=help_text)
    return parser.parse_args(argv)


# ---- running --------------------------------------------------------------------------------------------------------


def hunt(name: str, arguments: argparse.Namespace, out: Path) -> None:
    """Run every step on one model, then decide and write its report."""
    device = runs.choose_device(arguments.device)
    questions.load_languages(arguments.languages)  # what is wrong with the arguments shows before the first step
    folder = checkpoints.find_model(name, arguments.revision)
    parts = {}
    for step in steps(folder, arguments, out, parts):
        run_step(step, name, arguments, out)
        parts[step_key(step)] = runs.load_results(out / step.folder, step.stem, folder.identity)
    settings = {"device": device.type, "dtype": arguments.dtype, "seed": arguments.seed}
    settings |= {"fingerprints": {key: part["fingerprint"] for key, part in parts.items()}}
    quiet = argparse.Namespace(**(vars(arguments) | {"out": out, "device": device.type}))
    run = runs.Run(__file__, "hunt", quiet, folder, settings)
    if arguments.fresh or not run.finished(()):
        results = runs.significant(decide(parts, folder))
        results["claims"] = checklist(results, parts)
        run.save(results, {}, render)


def steps(folder, arguments: argparse.Namespace, out: Path, parts: dict) -> Iterator[Step]:
    """The scripts in the order of the recipe; `parts` holds the results so far, which decide what comes next.

    Where the Z handed on is not causal, every other contingency that holds is patched too before the hunt says no. Last,
    math's Z on problems that are not math, with nothing fitted again.
    """
    asked = ("--languages", *arguments.languages, "--batch", str(arguments.batch))
    fold = ("--fold-norm",) if arguments.fold_norm else ()
    yield Step("1.py", "one", flags=fold)
    yield Step("2.py", "two", flags=fold)
    yield Step("phase0_behavioral.py", "phase0", flags=asked)
    yield Step("phase2_z_extraction.py", "phase2", flags=asked + fold)
    yield Step("phase3_patching.py", "phase3", flags=asked)
    for name in untried(parts):
        layer = str(parts["phase2"]["settings"]["layer"])
        yield Step("phase2_z_extraction.py", "phase2", name, (*asked, *fold, "--layer", layer, "--hand-on", name))
        yield Step("phase3_patching.py", "phase3", name, asked)
    yield Step("phase3b_bridge.py", "phase3b", flags=("--batch", str(arguments.batch)))
    yield Step("ablation.py", "ablation", flags=asked)
    own = folder.path / "reasoning.jsonl"
    problems = ("--problems", str(own if own.exists() else runs.ROOT / "data" / "reasoning.jsonl"))
    shots = () if own.exists() else ("--exemplars", str(runs.ROOT / "data" / "reasoning_exemplars.jsonl"))
    yield Step("phase2_z_extraction.py", "phase2", REASONING, (*asked, *fold, *problems, "--z-from", str(out)))
    yield Step("phase3_patching.py", "phase3", REASONING, asked + problems + shots)
    yield Step("phase3b_bridge.py", "phase3b", REASONING, ("--batch", str(arguments.batch)))


def untried(parts: dict) -> list[str]:
    """Contingencies that hold in phase 2, beyond the one that was patched in vain."""
    if parts["phase3"]["verdict"] == "double_dissociation" or not parts["phase3"]["pairs"]:
        return []
    candidates = parts["phase2"].get("contingencies", {}).get("candidates", {})
    return [
        name
        for name in CANDIDATES
        if name in candidates and candidates[name]["holds"] and name != parts["phase2"]["z"]["method"]
    ]


def step_key(step: Step) -> str:
    return f"{step.folder}/{step.stem}".lstrip("/")


def run_step(step: Step, name: str, arguments: argparse.Namespace, out: Path) -> None:
    """One script in its own process; a finished one says so and ends at once. UserError if it fails."""
    command = [sys.executable]
    if arguments.processes > 1 and step.script in SHARDED:
        command += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no"]
        command += ["--dynamo_backend", "no", "--num_processes", str(arguments.processes)]
    command += [str(runs.ROOT / step.script), "--model", name, "--out", str(out / step.folder)]
    command += ["--device", arguments.device, "--dtype", arguments.dtype, "--seed", str(arguments.seed), *step.flags]
    command += ["--revision", arguments.revision] if arguments.revision else []
    command += ["--fresh"] if arguments.fresh else []
    print(f"== {step.script}{f' ({step.folder})' if step.folder else ''}", flush=True)
    # Ctrl-C is for this process: it ends the script, which on its own would print a traceback while it still imports
    status = subprocess.run(command, preexec_fn=ignore_interrupts).returncode
    if status:
        raise runs.UserError(
            f"{step.script} ended with status {status} (its message is above); a hunt that runs again repeats no finished step"
        )


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# ---- deciding -------------------------------------------------------------------------------------------------------


def decide(parts: dict, folder) -> dict:
    """The path through the recipe's tree, and the verdict."""
    phase2, phase3 = parts["phase2"], parts["phase3"]
    path = [behaviour(parts["phase0"]), separation(phase2)]
    if phase2["verdict"] == "none":
        path.append(contingencies(phase2))
    tried = {name: parts[f"{name}/phase3"] for name in CANDIDATES if f"{name}/phase3" in parts}
    path.append(patching(phase3))
    path += [patching(part) | {"node": f"patching: {CANDIDATES[name]}"} for name, part in tried.items()]
    separates = phase2["verdict"] != "none" or phase2["z"]["holds"]
    causal = [name for name, part in tried.items() if is_causal(part, 1 + len(tried))]
    if is_causal(phase3, 1) or causal:
        verdict = "causal_z"
    elif separates or phase3["verdict"] == "partial":
        verdict = "correlational_z"
    else:
        verdict = "no_z"
    path.append({"node": "end", "branch": verdict, "number": "", "null": ""})
    return {
        "path": path,
        "verdict": verdict,
        "weight_based": {
            "separates": phase2["verdict"],
            "causal": phase3.get("weight_verdict", phase3["verdict"]),
            "handed_on": causal[0] if causal else phase2["z"]["method"],
        },
        "layers": layers(parts, folder),
        "contingencies": phase2.get("contingencies", {}).get("candidates", {}),
        "tasks": {task: task_row(parts, prefix) for task, prefix in (("math", ""), ("reasoning", f"{REASONING}/"))},
        "reports": {key: part["verdict"] for key, part in parts.items()},
        "ablation": parts["ablation"]["claims"],
        "bridge": parts["phase3b"]["claims"],
        "offset_only": offset_only(phase2),
        "site": {
            "full": phase3["success"]["full"],
            "wrong_donor": phase3["success"]["full_wrong_donor"],
            "p": phase3["paired"]["z"]["full"],
        },
    }


def is_causal(phase3: dict, tests: int) -> bool:
    """Double dissociation, with p values multiplied by the number of subspaces tried (Bonferroni)."""
    ps = [phase3["null"][name]["p"] for name in ("random", "random_matched")]
    return phase3["verdict"] == "double_dissociation" and tests * max(ps) < LEVEL


def behaviour(phase0: dict) -> dict:
    languages = phase0["settings"]["languages"]
    right = ", ".join(f"{language} {phase0['right'][language]}/{phase0['n']}" for language in languages)
    yes = phase0["verdict"] == "chinese_advantage"
    return {
        "node": "behaviour",
        "branch": "yes" if yes else "no: limitation flagged",
        "number": right,
        "null": f"exact McNemar p {page.show(phase0['mcnemar_p'], 2)}",
    }


def separation(phase2: dict) -> dict:
    primary = phase2["primary"]
    return {
        "node": "separation",
        "branch": {"clear": "yes", "partial": "in some configurations", "none": "no"}[phase2["verdict"]],
        "number": f"ratio_Z {page.show(primary['ratio_z'], 3)}, ratio_Z⊥ {page.show(primary['ratio_z_perp'], 3)}",
        "null": f"largest p of three nulls {page.show(primary['p'], 2)}",
    }


def contingencies(phase2: dict) -> dict:
    candidates = phase2["contingencies"]["candidates"]
    rows = [(name, candidates[name]) for name in CANDIDATES if name in candidates]
    held = [CANDIDATES[name] for name, row in rows if row["holds"]]
    return {
        "node": "contingencies",
        "branch": ", ".join(held) + " hold" + ("s" if len(held) == 1 else "") if held else "none holds",
        "number": "; ".join(f"{CANDIDATES[name]}: contrast {page.show(row['contrast'], 3)}" for name, row in rows),
        "null": "; ".join(f"Holm p {page.show(row['p_holm'], 2)}" for _, row in rows),
    }


def patching(phase3: dict) -> dict:
    null = phase3["null"]
    return {
        "node": "patching",
        "branch": {"double_dissociation": "yes", "partial": "in part", "none": "no"}[phase3["verdict"]],
        "number": f"Z {phase3['success']['z']:.1%}, Z⊥ {phase3['success']['z_perp']:.1%} of {phase3['pairs']} pairs",
        "null": f"random {phase3['success']['random']:.1%} (p {page.show(null['random']['p'], 2)}), matched "
        f"{phase3['success']['random_matched']:.1%} (p {page.show(null['random_matched']['p'], 2)})",
    }


def offset_only(phase2: dict) -> bool:
    """Whether Z separates only because it misses the constant offset between the languages."""
    centred = next(row for row in phase2["claims"] if row["id"] == "centred")
    return phase2["verdict"] != "none" and centred["holds"] is False


def layers(parts: dict, folder) -> dict:
    """The bottleneck that the weights predict, beside the layer whose own Z works best when swapped."""
    bottleneck, causal = parts["one"]["bottleneck"], parts["phase3"]["causal_site"]
    found = causal["site"] is not None and causal["p_holm"] < LEVEL
    distance = abs(bottleneck["layer"] - causal["layer"]) if found else None
    within = sum(abs(layer - bottleneck["layer"]) <= NEAR for layer in range(folder.layers))
    return {
        "layers": folder.layers,
        "predicted": bottleneck["layer"],
        "relative_depth": bottleneck["layer"] / max(1, folder.layers - 1),
        "effective_rank": bottleneck["mean"],
        "predicted_verdict": parts["one"]["verdict"],
        "support": bottleneck["support"],
        "support_groups": bottleneck["support_groups"],
        "causal": causal,
        "causal_found": found,
        "distance": distance,
        "agree": None if distance is None else distance <= NEAR,
        "chance": within / folder.layers,
    }


def task_row(parts: dict, prefix: str) -> dict:
    """What one kind of problem says about the same Z."""
    phase2, phase3, phase3b = (parts[f"{prefix}{stem}"] for stem in ("phase2", "phase3", "phase3b"))
    z = phase2["z"]
    held_out = phase2.get("contingencies", {}).get("candidates", {}).get(z["method"])
    scored = phase2.get("given") or held_out or phase2["primary"]
    return {
        "problems": phase2["problems"],
        "contrast": scored["contrast"],
        "p": scored["p"],
        "pairs": phase3["pairs"],
        "success": {name: phase3["success"][name] for name in ("z", "z_perp", "full", "random", "random_matched")},
        "p_random": max(phase3["null"][name]["p"] for name in ("random", "random_matched")),
        "patching": phase3["verdict"],
        "held_out_r2": phase3b["held_out_r2"]["ridge"],
        "mean_shift_r2": phase3b["held_out_r2"]["mean_shift"],
        "bridge": phase3b["verdict"],
        "transfer": phase3b["transfer"]["success"]["ridge"],
        "transfer_identity": phase3b["transfer"]["success"]["identity"],
    }


def checklist(results: dict, parts: dict) -> list[dict]:
    """The recipe's publishability list, ticked by what was measured."""
    show, one, two, phase2, phase3 = page.show, *(parts[key] for key in ("one", "two", "phase2", "phase3"))
    found, tasks = results["layers"], results["tasks"]
    rivals, reasoning = phase2["rivals"], tasks["reasoning"]
    ffn = two["ffn_alignment_over_chance"][two["settings"]["layer"]]
    transfer = next(row for row in results["bridge"] if row["id"] == "transfer")
    plane = phase2["plane"]
    separation_row, patching_row = (
        next(node for node in results["path"] if node["node"] == name) for name in ("separation", "patching")
    )
    causal = found["causal"]
    where = "no causal layer"
    if causal["site"] is not None:
        best = f"L{causal['layer']}, Holm p {show(causal['p_holm'], 2)}"
        where = f"causal {best}" if found["causal_found"] else f"no causal layer (best {best})"
    rows = [
        (
            "structure",
            "a bottleneck of attention that the FFN avoids",
            "minimal 1",
            f"`{one['verdict']}` at L{found['predicted']}, `{two['verdict']}`: FFN alignment {show(ffn, 3)} × chance",
            "1 × chance",
            one["verdict"] == "clear_bottleneck" and two["verdict"] == "ffn_avoids_attention",
        ),
        (
            "separation",
            "the weight-based Z separates language from reasoning in activations",
            "minimal 2",
            separation_row["number"],
            separation_row["null"],
            phase2["verdict"] != "none",
        ),
        (
            "comparison",
            "the weight-based Z does better than arXiv 2505.15257's on the same model and data",
            "minimal 3",
            f"contrast on held-out problems: weight-based {show(rivals['weight']['contrast'], 3)}",
            f"centroid {show(rivals['centroid']['contrast'], 3)}, random {show(rivals['random']['contrast'], 3)}",
            rivals["weight"]["contrast"] < rivals["centroid"]["contrast"],
        ),
        (
            "causal",
            "patching shows a causal role of Z",
            "strong 4",
            patching_row["number"],
            patching_row["null"],
            phase3["verdict"] == "double_dissociation" if phase3["pairs"] else None,
        ),
        ("second_model", "another model has it too", "strong 5", "one model in this hunt", "use --models", None),
        (
            "information",
            "language fades and the problem stays along depth (information bottleneck)",
            "strong 6",
            f"language decodable inside Z: {show(plane['language_in_z'][0], 3)} at site 0, "
            f"{show(plane['language_in_z'][phase2['z']['site']], 3)} at Z's site; problem "
            f"{show(plane['problem_in_z'][phase2['z']['site']], 3)}",
            f"chance {show(phase2['chance']['language'], 2)}; problem shuffled "
            f"{show(plane['problem_shuffled'][phase2['z']['site']], 2)}",
            None,  # decodability is no mutual information: shown, not judged
        ),
        (
            "universal",
            "the layer can be predicted from weights",
            "transformative 7",
            f"predicted L{found['predicted']} ({found['support']:.0%} of resamples), {where}",
            f"within {NEAR} layer by chance {found['chance']:.0%}",
            found["agree"],
        ),
        (
            "bridge",
            "a bridge carries answers across languages at inference time",
            "transformative 8",
            transfer["measured"],
            transfer["null"],
            transfer["holds"],
        ),
        (
            "not_just_math",
            "Z found on math carries other reasoning too",
            "transformative 9",
            f"reasoning, same Z: {reasoning['success']['z']:.1%} of {reasoning['pairs']} pairs, `{reasoning['patching']}`",
            f"random {reasoning['success']['random']:.1%}, matched {reasoning['success']['random_matched']:.1%} (larger p "
            f"{show(reasoning['p_random'], 2)})",
            reasoning["patching"] == "double_dissociation" if reasoning["pairs"] else None,
        ),
    ]
    return [page.claim(name, text, tier, measured, null, holds) for name, text, tier, measured, null, holds in rows]


def compare(found: dict, folders: dict, failures: dict) -> dict:
    """One row per model, and whether any verdict is shared by two of them."""
    rows = {
        name: {
            "folder": folders[name],
            **{key: value for key, value in result["layers"].items() if key != "causal"},
            "causal_layer": result["layers"]["causal"].get("layer") if result["layers"]["causal_found"] else None,
            "reports": result["reports"],
            "verdict": result["verdict"],
            "fingerprint": result["fingerprint"],
        }
        for name, result in found.items()
    }
    causal = [name for name, row in rows.items() if row["verdict"] == "causal_z"]
    verdict = "generalises" if len(causal) > 1 else "does_not_generalise"
    return {"script": "hunt", "models": rows, "failures": failures, "causal": causal, "verdict": verdict}


# ---- reporting ------------------------------------------------------------------------------------------------------

CANDIDATES = {  # in the recipe's order
    "centroid": "(a) language centroids",
    "previous_layer": "(b) previous layer",
    "sweep": "(b) best layer of a sweep",
    "ard_mmd": "(c) ARD-MMD",
}
QUESTIONS = {
    "behaviour": "Chinese ≫ English?",
    "separation": "ratio_Z < ratio_Z⊥?",
    "contingencies": "(a) centroids, (b) other\nlayers, (c) ARD-MMD?",
    "patching": "does patching transfer\nreasoning?",
}
ENDS = {"causal_z": "causal Z", "correlational_z": "correlational,\nnot causal", "no_z": "no Z"}
SOURCES = {
    "weight": "the weights",
    "weight_head0": "the weights (head 0)",
    "previous_layer": "the weights of the previous layer",
    "sweep": "the weights of another layer",
    "centroid": "activations, language centroids removed",
    "ard_mmd": "activations, ARD-MMD",
}
TITLES = {
    "one": "1.py",
    "two": "2.py",
    "phase0": "Phase 0",
    "phase2": "Phase 2",
    "phase3": "Phase 3",
    "phase3b": "Phase 3b",
    "ablation": "Ablation",
}


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """The report of one model, or of a comparison."""
    if "models" in results:
        return {"hunt_output.md": comparison_report(results).encode()}
    text = page.report(
        f"The hunt for Z in {results['model']['name']}",
        verdict_sentence(results),
        results["claims"],
        sections(results),
        limitations(results),
    )
    return {"hunt_tree.png": page.png(figure_tree(results["path"])), "hunt_output.md": text.encode()}


def verdict_sentence(results: dict) -> str:
    weights, tasks = results["weight_based"], results["tasks"]
    source = SOURCES[weights["handed_on"]]
    what = {
        "causal_z": f"There is a causal Z: swapping it moves the answer and leaves the language alone. It comes from {source}",
        "correlational_z": "Z is correlational: something separates language from problem, or moves some answers, but swapping it "
        f"is no double dissociation. The Z that was patched comes from {source}",
        "no_z": "No Z was found: nothing that the tree names separates language from problem on held-out data, and no swap moves the "
        "answer beyond chance",
    }[results["verdict"]]
    predicted = {
        "clear": "separates language from problem",
        "partial": "separates them in some configurations only",
        "none": "does not separate them",
    }[weights["separates"]]
    moves = {
        "double_dissociation": "is causal",
        "partial": "moves the answer in part",
        "none": "does not move the answer",
    }
    sentence = (
        f"{what} (`{results['verdict']}`). The Z that the weights predict (L{results['layers']['predicted']}) {predicted} and "
        f"{moves[weights['causal']]}. Patching: {tasks['math']['success']['z']:.1%} of {tasks['math']['pairs']} pairs with Z, "
        f"{tasks['math']['success']['random']:.1%} with random subspaces."
    )
    site = results["site"]
    if tasks["math"]["pairs"] and site["p"] >= LEVEL:
        sentence += (
            f" At that site not even the whole stream does better than a wrong donor's ({site['full']:.1%} against "
            f"{site['wrong_donor']:.1%}, p {page.show(site['p'], 2)}): this is a null about the site as much as about Z."
        )
    if results["offset_only"]:
        sentence += " The separation vanishes once the constant offset between the languages is removed."
    return sentence


def sections(results: dict) -> list[str]:
    found, causal = results["layers"], results["layers"]["causal"]
    return [
        "## 1 Decision tree",
        "![The recipe's tree with the path taken](hunt_tree.png)",
        page.table(
            ["node", "branch", "measured", "null"],
            [[node["node"], node["branch"], node["number"], node["null"]] for node in results["path"]],
        ),
        "## 2 Predicted and causal layer",
        layer_text(found, causal),
        "## 3 Contingencies",
        contingency_table(results["contingencies"]),
        "## 4 Math and reasoning",
        "The second kind of problem is not arithmetic; Z is the one found on math, fitted on nothing here. Contrast is ratio_Z / "
        "ratio_Z⊥ (below 1 separates; on math that of the Z handed on, on held-out problems where it was fitted).",
        task_table(results["tasks"]),
        "## 5 Removing the language instead",
        "arXiv 2505.15257 removes a language subspace at inference. Details in [ablation](ablation_output.md).",
        claim_table(results["ablation"]),
        "## 6 Bridge",
        claim_table(results["bridge"]),
        "## 7 Reports",
        page.table(
            ["report", "run", "verdict"],
            [
                [
                    f"[{TITLES[key.split('/')[-1]]}]({key}_output.md)",
                    key.split("/")[0] if "/" in key else "math",
                    f"`{verdict}`{' (weight-based Z)' if key.endswith('phase2') else ''}",
                ]
                for key, verdict in sorted(
                    results["reports"].items(), key=lambda item: ("/" in item[0], report_order(item[0]))
                )
            ],
        ),
    ]


def report_order(key: str) -> tuple[str, int]:
    folder, _, stem = key.rpartition("/")
    return folder, list(TITLES).index(stem)


def layer_text(found: dict, causal: dict) -> str:
    show = page.show
    text = (
        f"From weights: L{found['predicted']} of {found['layers']} (relative depth {show(found['relative_depth'], 2)}, effective "
        f"rank {show(found['effective_rank'], 3)}, `{found['predicted_verdict']}`; {support_text(found)} pick it). "
    )
    if not found["causal_found"]:
        return (
            text
            + "By patching each layer's own Z at its output, no layer beats random subspaces after Holm: nothing to agree with."
        )
    agree = "agree" if found["agree"] else "do not agree"
    return text + (
        f"By patching each layer's own Z at its output: L{causal['layer']} ({causal['gain']:+.1%} above random subspaces, Holm p "
        f"{show(causal['p_holm'], 2)}, alone best in {causal['support']:.0%} of resamples). They {agree} (distance "
        f"{found['distance']}; within {NEAR} by chance {found['chance']:.0%})."
    )


def support_text(found: dict) -> str:
    """The shares of resamples that pick the bottleneck; with one KV group there is nothing to resample over groups."""
    heads = f"{found['support']:.0%} of resamples over heads"
    if found["support_groups"] is None:
        return f"{heads} (one KV group: none over groups)"
    return f"{heads} and {found['support_groups']:.0%} over KV groups"


def contingency_table(candidates: dict) -> str:
    if not candidates:
        return "None was needed."
    rows = [
        [label, f"L{row['layer']}", row["k"], row["contrast"], row["p_holm"], "yes" if row["holds"] else "**no**"]
        for label, row in ((CANDIDATES[name], candidates[name]) for name in CANDIDATES if name in candidates)
    ]
    return page.table(["contingency", "layer", "k", "contrast, held out", "Holm p", "holds"], rows)


def task_table(tasks: dict) -> str:
    show = page.show
    lines = [
        ("problems in phase 2", lambda row: row["problems"]),
        ("contrast of Z (largest p of three nulls)", lambda row: f"{show(row['contrast'], 3)} ({show(row['p'], 2)})"),
        ("pairs patched", lambda row: row["pairs"]),
        ("Z's target", lambda row: f"{row['success']['z']:.1%}"),
        ("Z⊥'s target", lambda row: f"{row['success']['z_perp']:.1%}"),
        ("full swap's target", lambda row: f"{row['success']['full']:.1%}"),
        (
            "random, matched (larger p)",
            lambda row: (
                f"{row['success']['random']:.1%}, {row['success']['random_matched']:.1%} ({show(row['p_random'], 2)})"
            ),
        ),
        ("patching", lambda row: f"`{row['patching']}`"),
        (
            "bridge: held-out R², ridge (mean shift)",
            lambda row: f"{show(row['held_out_r2'], 3)} ({show(row['mean_shift_r2'], 3)})",
        ),
        ("bridge", lambda row: f"`{row['bridge']}`"),
        ("transfer, ridge (unmapped)", lambda row: f"{row['transfer']:.1%} ({row['transfer_identity']:.1%})"),
    ]
    return page.table(
        ["", "math", "reasoning"], [[name, cell(tasks["math"]), cell(tasks["reasoning"])] for name, cell in lines]
    )


def claim_table(claims: list[dict]) -> str:
    words = {True: "yes", False: "**no**", None: "not testable here"}
    rows = [[row["claim"], row["measured"], row["null"], words[row["holds"]]] for row in claims]
    return page.table(["claim", "measured", "null or chance", "holds"], rows)


def limitations(results: dict) -> list[str]:
    lines = [
        "The verdict follows from fixed rules applied to one primary configuration; everything else in the reports is exploratory.",
        "Each report has limitations of its own.",
        "The information bottleneck of the recipe is about mutual information, which nothing here measures.",
    ]
    if results["path"][0]["branch"] != "yes":
        lines.insert(
            0, "No behavioural advantage of Chinese was found: the hunt rests on structure and activations alone."
        )
    if results["weight_based"]["handed_on"] in ("centroid", "ard_mmd"):
        lines.insert(
            0, "The Z that was patched was fitted on activations: nothing about it was predicted from weights."
        )
    return lines


def figure_tree(path: list[dict]) -> Figure:
    """The recipe's tree; the path taken is filled."""
    path = [node for node in path if not node["node"].startswith("patching: ")]
    taken = {node["node"]: node["branch"] for node in path}
    verdict = path[-1]["branch"]
    nodes = {"behaviour": (0.5, 4), "separation": (0.5, 3), "contingencies": (2.1, 2.45), "patching": (0.5, 1.6)}
    ends = {"causal_z": (0.5, 0.3), "correlational_z": (1.7, 0.3), "no_z": (2.9, 0.3)}
    figure = Figure(figsize=(9, 6.5))
    panel = figure.subplots()
    arrows = [("behaviour", "separation"), ("separation", "contingencies"), ("contingencies", "patching")]
    arrows += [("separation", "patching"), *(("patching", end) for end in ends)]
    everything = nodes | ends
    visited = list(taken)[:-1] + [verdict]
    for start, end in arrows:
        used = start in visited and end in visited and visited.index(end) == visited.index(start) + 1
        style = {"arrowstyle": "-|>", "color": "tab:blue" if used else "lightgray", "linewidth": 2.5 if used else 1}
        (x, y), (to_x, to_y) = everything[start], everything[end]
        if end == "contingencies":  # to the side, all others downwards
            places = (x + 0.5, y - 0.12), (to_x - 0.5, to_y)
        else:
            places = (x, y - 0.26), (to_x, to_y + 0.26)
        panel.annotate("", places[1], places[0], arrowprops=style | {"shrinkA": 0, "shrinkB": 0}, zorder=1)
    for name, (x, y) in everything.items():
        on = name in visited
        label = QUESTIONS.get(name) or ENDS[name]
        box = FancyBboxPatch(
            (x - 0.48, y - 0.24), 0.96, 0.48, boxstyle="round,pad=0.02", zorder=2,
            facecolor="#cfe2f3" if on else "white", edgecolor="tab:blue" if on else "lightgray",
        )  # fmt: skip
        panel.add_patch(box)
        panel.text(x, y, label, ha="center", va="center", fontsize=8, color="black" if on else "gray", zorder=3)
        if on and name in taken:
            numbers = next(node for node in path if node["node"] == name)
            text = f"{numbers['branch']}\n{numbers['number'].replace('; ', chr(10))}"
            panel.text(
                x + 0.52,
                y + 0.06,
                text,
                ha="left",
                va="bottom" if name == "separation" else "center",
                fontsize=7,
                color="tab:blue",
                zorder=3,
            )
    panel.set(xlim=(-0.1, 3.9), ylim=(0, 4.35))
    panel.axis("off")
    figure.tight_layout()
    return figure


def comparison_report(results: dict) -> str:
    """Several models side by side."""
    rows = [
        [
            f"[{name}]({row['folder']}/hunt_output.md)",
            f"L{row['predicted']} of {row['layers']}",
            row["relative_depth"],
            row["effective_rank"],
            "–" if row["support_groups"] is None else f"{row['support_groups']:.0%}",
            "–" if row["causal_layer"] is None else f"L{row['causal_layer']}",
            {True: "yes", False: "**no**", None: "–"}[row["agree"]],
            *(f"`{row['reports'][stem]}`" for stem in ("one", "two", "phase0", "phase2", "phase3", "phase3b")),
            f"`{row['verdict']}`",
        ]
        for name, row in results["models"].items()
    ]
    headers = ["model", "bottleneck", "relative depth", "effective rank", "KV groups agree", "causal layer", "agree"]
    headers += ["1.py", "2.py", "phase 0", "phase 2", "phase 3", "phase 3b", "verdict"]
    causal = ", ".join(results["causal"]) or "none"
    agreeing = [name for name, row in results["models"].items() if row["agree"]]
    claim = page.claim(
        "second_model",
        "another model has a causal Z too",
        "strong 5",
        f"causal Z in {len(results['causal'])} of {len(results['models'])} models",
        "two are needed",
        len(results["causal"]) > 1,
    )
    universal = page.claim(
        "universal",
        "the causal layer is the one that the weights predict",
        "transformative 7",
        f"within {NEAR} layer in {len(agreeing)} of {len(results['models'])} models",
        "; ".join(f"{name} by chance {row['chance']:.0%}" for name, row in results["models"].items()),
        bool(results["models"]) and len(agreeing) == len(results["models"]),
    )
    failed = [f"{name} did not finish: {page.escape(message)}" for name, message in results["failures"].items()]
    return page.report(
        "The hunt for Z in several models",
        f"Causal Z (`{results['verdict']}`) in: {causal}.",
        [claim, universal],
        ["## 1 Models", page.table(headers, rows), *failed],
        ["Each model's own report says what its verdict rests on.", "Few models are no sample of all models."],
    )


if __name__ == "__main__":
    runs.run_script(main)
