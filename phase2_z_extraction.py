"""Phase 2: does the bottleneck's attention subspace part language from reasoning, beyond the offset and beyond the text?

Question   inside Z (the key-side subspace of the bottleneck's kernels), do the two versions of a problem lie closer than
           different problems do, and more so than outside Z and than in random subspaces; still so once what is constant
           in a language is gone; and does Z tell a story from one with the same words and numbers and another answer better
           than numerals, a bag of words and untrained twins of the model do?
Inputs     a model, parallel problems (data/phase2.jsonl, or the model folder's problems.jsonl), contrast.jsonl with foils,
           output/one_results.json
Outputs    output/phase2_output.md with figures, phase2_results.json,
           phase2_activations.npy (languages, problems, sites, poolings, d), phase2_z_basis.npy (k, d),
           phase2_layer_subspaces.npy (L, k, d): the multi-head Z of every layer; z.safetensors: the Z handed on, for use elsewhere;
           phase2_contingency_bases.npy: other contingencies that hold, one's rows after another's (`also` in the results)
Run        python phase2_z_extraction.py --model Qwen/Qwen2.5-3B          after 1.py

Step 5 is measured last: twins are made of the model's own weights. Steps, which are also the report's headings:
1 activations   2 primary configuration   3 the grid   4 beyond the offset   5 beyond the text
6 rivals on held-out problems   7 contingencies   8 depth   9 channels   10 what the recipe asks
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import utils
import verdicts
from lab import (
    checkpoints,
    commands,
    decoding,
    pairs,
    pooling,
    progress,
    questions,
    runs,
    separation,
    statistics,
    studies,
    subspaces,
    text,
)
from lab.studies import Study
from reports import phase2 as page

ARRAYS = ("phase2_activations.npy", "phase2_z_basis.npy", "phase2_layer_subspaces.npy", "z.safetensors")
ARRAYS += (subspaces.CONTINGENCIES,)
REPORT = runs.Report(__file__, "phase2", ARRAYS, verdicts.phase2, page)
K_SHARES = (0.25, 0.64, 1.0)  # of the bottleneck's effective rank: the recipe's 20, 50 and 78 on Qwen2.5-3B
MASKS = ("multi", "head0")
PRIMARY = {"place": "b at b.out", "mask": "multi", "pooling": "mean"}  # k: the effective rank; named before looking
POSITION = "last"  # where phase 3 patches: what is fitted on activations and handed on is fitted there
DRAWS = separation.DRAWS
PER_TEST = 25  # draws for every test of a Holm family: with fewer than 20 no p could fall below .05
SCREEN, HOPEFUL = 199, 0.1  # draws for every layer of the sweep, and the p below which it gets all of them
READ_DRAWS = 200  # Haar subspaces of the channels
SHUFFLES = 40  # of the chance level of every reader along depth
CHANNEL_PROBLEMS = 40  # a mean over more says no more
MINIMUM_PROBLEMS = 4
HAND_ON_LEVEL = 0.05  # below this p a Z counts as holding: chooses what is measured next, and judges nothing
FITTED = ("centroid", "ard_mmd")
CONTINGENCIES = ("centroid", "previous_layer", "sweep", "ard_mmd")  # the recipe's (a), (b), (b) and (c)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    opening = questions.begin(REPORT, arguments, "phase2.jsonl")
    if opening is None:
        return
    if len(opening.problems) < MINIMUM_PROBLEMS:
        raise runs.UserError(f"{len(opening.problems)} problem(s): phase 2 needs at least {MINIMUM_PROBLEMS}")
    given, foils = load_given(opening), find_foils(opening)
    found = checkpoints.bottleneck_layer(arguments, opening.folder) if given is None else given_layer(given[0])
    settings = {"layer": found.layer, "contingencies": arguments.contingencies, "hand_on": arguments.hand_on}
    settings |= {"fitting_share": fitting_share(opening), "contrasts": foils.asked and foils.asked.settings}
    settings |= {"fold_norm": arguments.fold_norm, "z_from": given and given_hash(*given), "draws": DRAWS}
    told = None if given is None else told_there(given[0], opening.settings | settings)
    settings["text_from"] = told and runs.short_hash(told)
    run = opening.run({"layer_chosen": found.chosen}, **settings)
    if run is None:
        return
    model, tokenizer = questions.load_model(opening)
    study, sinks = make_study(opening, model, tokenizer, settings)
    results = {"sinks": sinks} | sizes(study)
    results["grid"] = measure_grid(study)
    results["primary"] = next(row for row in results["grid"] if row["primary"] and row["share"] == 1)
    results["weight_z"] = standing(results["grid"])
    results["offset"] = {"share": offset_share(study)}
    wanted = given is None and wants_contingencies(arguments, results["weight_z"])
    results["rivals"] = rivals(study, with_ard=wanted)
    results["rival_order"] = list(results["rivals"])
    if wanted:
        results["contingencies"] = contingencies(study, results["grid"], results["rivals"])
    results["depth"] = depth(study)
    results["channels"] = channels(study)
    if given is None:
        (results["z"], basis), others = choose_z(study, results, arguments.hand_on)
        results["also"], also = [z for z, _ in others], basis_rows([rows for _, rows in others], study)
    else:
        results["z"], basis = given_z(study, given)
        results["given"] = score_given(study, results["z"], basis)
        results["also"], also = given[0].get("also", []), given[2]
    refit = refit_of(study, opening, results["z"]) if given is None else None
    results |= told or beyond_text(study, foils, model, tokenizer, results["z"], basis, refit)
    basis, every_layer = basis.float().numpy(), torch.stack(study.weights["every_layer"]).float().numpy()
    z_file = subspaces.z_file(basis, results["z"], opening.folder.identity)
    run.save(results, dict(zip(ARRAYS, (study.vectors, basis, every_layer, z_file, also))))


def parse_arguments(argv: list[str] | None):
    parser = commands.parser(__doc__, asks_problems=True)
    parser.add_argument("--layer", default="auto", help="bottleneck layer; auto = the one that 1.py found")
    help_text = "take kernels with the RMSNorm gains, as the raw residual stream meets them (off = the recipe)"
    parser.add_argument("--fold-norm", action="store_true", help=help_text)
    help_text = "centroid, layer sweep and ARD-MMD: auto = where the weight-based Z fails"
    parser.add_argument("--contingencies", choices=("auto", "always", "never"), default="auto", help=help_text)
    help_text = "the Z for phases 3 and 3b: auto = by the rule; a contingency by name"
    parser.add_argument("--hand-on", choices=("auto", "weight", *CONTINGENCIES), default="auto", help=help_text)
    help_text = "folder of an earlier run: score and hand on that run's Z without fitting anything (for another kind of problem)"
    parser.add_argument("--z-from", type=Path, help=help_text)
    return parser.parse_args(argv)


def fitting_share(opening: questions.Asking) -> float:
    """Half of the model's own or the user's problems stay out of every fit that is handed on: phase 3 asks that file too."""
    own = opening.files[0].resolve().parent == opening.folder.path.resolve()
    return 0.5 if own or opening.arguments.problems else 1.0


def wants_contingencies(arguments, weight_z: str) -> bool:
    """Whether to run them: as --contingencies says, and always where --hand-on names one."""
    by_flag = {"always": True, "never": False, "auto": weight_z == "none"}[arguments.contingencies]
    return by_flag or arguments.hand_on in CONTINGENCIES


def find_foils(opening: questions.Asking) -> text.Foils:
    """The model folder's stories with foils, or data/'s, whatever problems Z is measured on."""
    given = type(opening.arguments)(**vars(opening.arguments) | {"problems": None})
    return text.find_foils(questions.find_contrasts(given, opening.folder))


def load_given(opening: questions.Asking) -> tuple[dict, np.ndarray, np.ndarray] | None:
    """With --z-from that run's results, its Z (k, d), and the rows of further contingencies' bases; None without.

    Raises UserError for another model's.
    """
    arguments, folder = opening.arguments, opening.folder
    if arguments.z_from is None:
        return None
    if arguments.z_from.resolve() == arguments.out.resolve():
        raise runs.UserError(
            f"--z-from {arguments.z_from} is --out itself: give the run on other problems another --out"
        )
    if arguments.layer != "auto":
        raise runs.UserError(
            f"--layer {arguments.layer}: the Z of --z-from has a layer of its own; leave one of them out"
        )
    results = runs.load_results(arguments.z_from, "phase2", folder.identity)
    with runs.as_written(arguments.z_from, "phase2"):
        if "position" not in results["z"]:
            raise runs.UserError(f"--z-from {arguments.z_from}: an older edition wrote it: run phase 2 there again")
        if results["settings"]["fold_norm"] != arguments.fold_norm:
            raise runs.UserError(f"--z-from {arguments.z_from} was run with another --fold-norm: run this alike")
        shape = (results["z"]["k"], folder.width)
        basis = subspaces.load_bases(arguments.z_from, "phase2_z_basis.npy", shape)
        given = results, basis, subspaces.load_also(arguments.z_from, results, folder.width)[1]
        range(folder.layers).index(given_layer(results).layer), given_hash(*given)  # what is read of it below
    return given


def given_layer(results: dict) -> checkpoints.ChosenLayer:
    """The layer of another run, chosen as it was there."""
    return checkpoints.ChosenLayer(results["settings"]["layer"], results["layer_chosen"])


def given_hash(results: dict, *bases: np.ndarray) -> str:
    """The content of another run's Zs: what they are, on which problems they were fitted, and their bytes."""
    keys = ("method", "layer", "site", "k", "passed", "position")
    zs = [results["z"], *results.get("also", [])]
    what = [{key: z[key] for key in keys} | {"fitted_on": sorted(z["fitted_on"])} for z in zs]
    return runs.short_hash([*map(runs.array_hash, bases), what])


def told_there(results: dict, settings: dict) -> dict | None:
    """What the run of a given Z found beyond the text, where it asked the same stories alike; else None.

    The same subspaces in the same model on the same stories are not measured again: and a fitted one has been fitted in every
    twin there, which here, where nothing is fitted, it could not be.
    """
    asked = ("contrasts", "templates", "languages", "seed", "dtype", "device", "draws")
    alike = all(results["settings"].get(key) == runs.significant(settings[key]) for key in asked)
    return {key: results[key] for key in ("text", "text_handed")} if alike and "text" in results else None


def make_study(opening: questions.Asking, model, tokenizer, settings: dict) -> tuple[Study, dict]:
    """Every prompt run once, the subspaces of the weights, and a summary of the sinks."""
    arguments, layer = opening.arguments, settings["layer"]
    sites, clouds = range(opening.folder.layers + 1), [at + 1 for at in studies.ard_layers(layer)]
    found = pooling.capture(model, tokenizer, opening, sites, arguments.batch, "problems", clouds, updates=True)
    weights = subspaces.weight_subspaces(opening.folder, layer, K_SHARES, arguments.fold_norm, opening.device)
    measured = (found.vectors, found.updates, found.clouds, layer, weights, opening.problems, arguments.seed)
    return Study(*measured, opening.device, arguments.batch, settings["fitting_share"]), found.sinks


def sizes(study: Study) -> dict:
    """What was measured on how much, and the order of the axes of the arrays: for the page and for later phases."""
    languages, problems, _, _, width = study.vectors.shape
    return {
        "problems": problems,
        "width": width,
        "z_dimensions": study.weights["k"],
        "poolings": pooling.POOLINGS,  # the order of that axis of phase2_activations.npy
        "draws": DRAWS,
        "even": separation.EVEN,
        "read_draws": READ_DRAWS,
        "shuffles": SHUFFLES,
        "folds": len(study.folds().unique()),
        "shifts": pairs.SHIFTS,
        "chance": {"language": 1 / languages},
    }


def measure_grid(study: Study) -> list[dict]:
    """Every (mask layer, site) x mask x pooling x k, raw, centred and after LEACE; Holm over all of them."""
    rows, ks = [], study.weights["k"]
    places = [(name, *where, pooled) for name, where in study.masks().items() for pooled in pooling.POOLINGS]
    for name, mask_layer, site, pooled in progress.steps(places, "the grid", "place"):
        place = study.place(site, pooled, DRAWS)
        if not place.defined():
            continue
        place.draw(ks)
        for mask in MASKS:
            for share, k in zip(K_SHARES, ks):
                row = {"place": name, "mask_layer": mask_layer, "site": site, "mask": mask, "pooling": pooled}
                row |= {"share": share, "primary": PRIMARY.items() <= row.items()}
                rows.append(row | place.row(grid_basis(study, row | {"k": k})))
    separation.adjust(rows)
    return rows


def grid_basis(study: Study, row: dict) -> torch.Tensor:
    """The subspace of a row of the grid, (k, d)."""
    heads, k = study.weights["heads"][row["mask_layer"]], row["k"]
    return utils.multi_head_subspace(heads[:, :k], k) if row["mask"] == "multi" else heads[0, :k]


def held(row: dict, p: str = "p_holm") -> bool:
    """Whether a subspace keeps the problem and drops the language beyond its nulls, with the offset and without it."""
    return all(part["contrast"] < 1 and part[p] < HAND_ON_LEVEL for part in (row, row["centred"]))


def standing(grid: list[dict]) -> str:
    """How the weight-based Z stands for what is measured and handed on next: clear, partial or none.

    It is the verdict's rule at HAND_ON_LEVEL; the verdict itself is judged from the saved results.
    """
    primary = [row for row in grid if row["primary"]]
    at_every_k = all(
        row["contrast"] < 1 and row[null]["p"] < HAND_ON_LEVEL
        for row in primary
        for null in separation.gating(row, separation.CENTRED)
    )
    if at_every_k and all(held(row, "p") for row in primary if row["share"] == 1):
        return "clear"
    return "partial" if any(map(held, grid)) else "none"


def offset_share(study: Study) -> float:
    """Share of the squared distance between versions that is one constant offset, at the primary place."""
    place = study.place(study.layer + 1, PRIMARY["pooling"], DRAWS)
    points, paired = place.points, place.raw.paired
    versions = slice(None, paired.same_problem)
    rest = paired.squares(points - points.mean(1, keepdim=True))[versions].sum()
    return 1 - (rest / place.raw.total[versions].sum().clamp_min(1e-300)).item()


def rivals(study: Study, with_ard: bool) -> dict:
    """Weight-based, centroid, PCA, random (and ARD-MMD) subspaces of one size, scored on problems they were not fitted on."""
    names = ("weight", "centroid", "ard_mmd", "pca", "random")
    names = [name for name in names if with_ard or name != "ard_mmd"]
    return {name: held_out(study, name, PRIMARY["pooling"]) for name in progress.steps(names, "rivals", "subspace")}


def held_out(study: Study, name: str, pooled: str, draws: int = DRAWS) -> dict:
    """A rival's row at the bottleneck's output, fitted anew for every fold on the other folds; all have one size."""
    folds, k = study.folds(), studies.common_k(study)
    fit = studies.fitter(study, name, pooled, k)
    bases = torch.stack([fit((folds != fold).nonzero().flatten().tolist()).cpu() for fold in folds.unique()])
    row = study.place(study.layer + 1, pooled, draws, held_out=True).row(bases)
    return {"layer": study.layer, "site": study.layer + 1, "pooling": pooled, **row}


def contingencies(study: Study, grid: list[dict], rival: dict) -> dict:
    """The recipe's three ways out: centroids, other layers, ARD-MMD.

    What is fitted is fitted on pooled means, as in the recipe (`as_recipe`), and at the position that phase 3 patches, which is
    the candidate. With every layer that the grid has not tested they form one Holm family. The layer before the bottleneck
    keeps its p from the grid: no second chance at a lighter correction.
    """
    draws = max(DRAWS, PER_TEST * (len(study.weights["every_layer"]) + 2 * len(FITTED)))
    as_recipe = {
        name: dict(rival[name]) if draws == DRAWS else held_out(study, name, PRIMARY["pooling"], draws)
        for name in FITTED
    }
    candidates = {
        name: held_out(study, name, POSITION, draws) for name in progress.steps(FITTED, "contingencies", "fit")
    }
    sweep = layer_sweep(study, draws)
    new = [row for row in sweep if row["layer"] not in (study.layer - 1, study.layer)]
    separation.adjust([*candidates.values(), *as_recipe.values(), *new])
    if new:
        candidates["sweep"] = min(new, key=lambda row: (not held(row), max(p_of(row)), row["contrast"]))
    for row in grid:
        if (PRIMARY | {"place": "b-1 at b-1.out", "share": 1}).items() <= row.items():
            candidates["previous_layer"] = {"layer": study.layer - 1, **row}
    candidates = {name: row | {"passed": held(row)} for name, row in candidates.items()}
    layers = progress.steps(studies.ard_layers(study.layer), "ARD-MMD along depth", "layer")
    relevances = {layer: studies.relevance(study, study.clouds[layer + 1]) for layer in layers}
    found = {"candidates": candidates, "as_recipe": as_recipe, "sweep": sweep}
    return found | {"ard": studies.ard_summary(relevances, study.primary)}


def p_of(row: dict) -> tuple[float, float]:
    return row["p_holm"], row["centred"]["p_holm"]


def layer_sweep(study: Study, draws: int) -> list[dict]:
    """The weight-based multi-head Z of every layer at its own output, primary k and pooling; draws as far as there is hope."""
    rows, folds = [], study.folds()
    for layer, basis in enumerate(progress.steps(study.weights["every_layer"], "every layer's Z", "layer")):
        points = study.points(layer + 1, PRIMARY["pooling"])
        row = separation.Place(points, folds, study.seed, SCREEN).row(basis)
        if max(row["p"], row["centred"]["p"]) < HOPEFUL:
            row = separation.Place(points, folds, study.seed, draws).row(basis)
        rows.append({"layer": layer, "site": layer + 1, "pooling": PRIMARY["pooling"], **row})
    return rows


def depth(study: Study) -> dict:
    """Per site in Z, Z⊥ and the whole stream: what can be read, with each reader's chance; and how alike the languages are.

    `answer` is decoded across languages, `selectivity` is what it gains over control tasks; None without answers that recur.
    """
    labels = torch.tensor([sorted(set(study.answers)).index(answer) for answer in study.answers])
    control = decoding.control_labels(labels, study.seed, SHUFFLES)
    orders, basis = pairs.shuffles(len(labels), study.seed, None, SHUFFLES), study.primary.to(study.device)
    found = {key: {name: [] for name in ("z", "z_perp", "all")} for key in ("problem", "problem_shuffled", "language")}
    found |= {key: {name: [] for name in ("z", "z_perp", "all")} for key in ("answer", "selectivity", "effective_rank")}
    found["cka"] = {"value": [], "low": [], "middle": [], "high": []}
    for site in progress.steps(range(study.vectors.shape[2]), "depth", "site"):
        points = study.points(site, PRIMARY["pooling"])
        for name, seen in {"z": points @ basis.T, "z_perp": utils.outside(points, basis), "all": points}.items():
            found["problem"][name].append(decoding.retrieved(seen).mean().item())
            found["problem_shuffled"][name].append(decoding.retrieved(seen, orders).mean().item())
            found["language"][name].append(decoding.language_decoded(seen).mean().item())
            centred = (seen - seen.mean(1, keepdim=True)).flatten(0, 1)
            found["effective_rank"][name].append(utils.effective_rank(torch.linalg.svdvals(centred)).item())
            right = decoding.answers_decoded(seen, labels)
            found["answer"][name].append(None if right is None else right.item())
            gained = None if right is None else (right - decoding.answers_decoded(seen, control).mean()).item()
            found["selectivity"][name].append(gained)
        value = decoding.linear_cka(points).item()
        null = statistics.null_record(decoding.linear_cka(points, orders).numpy(), value)
        for key in found["cka"]:
            found["cka"][key].append(value if key == "value" else null[key])
    return found


def channels(study: Study) -> dict:
    """Per layer the mean share |P_Z Δ|/|Δ| of what attention and the FFN add to the stream, beside Haar subspaces of Z's size.

    `haar`: 5 and 95 % of the draws' shares, over all layers and both parts.
    """
    basis, drawn = study.primary.to(study.device), []
    found = {name: [] for name in pooling.UPDATES}
    k, width = basis.shape
    for layer in progress.steps(range(study.updates.shape[2]), "channels", "layer"):
        for part, name in enumerate(pooling.UPDATES):
            change = torch.from_numpy(study.updates[:, :CHANNEL_PROBLEMS, layer, part]).to(study.device).double()
            length = change.norm(dim=-1).clamp_min(1e-300)
            found[name].append(((change @ basis.T).norm(dim=-1) / length).mean().item())
            draw = statistics.seeded(study.seed, f"phase2: Haar {name} {layer}")
            inside = pairs.random_draws(change, k, draw)(READ_DRAWS).norm(dim=-1)
            drawn.append((inside / length.flatten()).mean(1).cpu())
    null = statistics.null_record(torch.cat(drawn).numpy(), 0)
    return {**found, "chance": (k / width) ** 0.5, "haar": {"low": null["low"], "high": null["high"]}}


def choose_z(study: Study, results: dict, wanted: str) -> tuple[tuple, list[tuple]]:
    """The Z handed on with its basis (k, d), float64; and every other contingency that holds with its own, where the rule chose.

    The primary one where it is clear, the best row of the grid where partial, else the best contingency; or the `wanted` one
    where --hand-on names it. What each was fitted on is kept, so that later phases ask other problems.
    """
    found, name = results.get("contingencies", {}).get("candidates", {}), wanted
    if wanted == "auto":
        name = {"clear": "weight", "partial": "grid", "none": "weight"}[results["weight_z"]]
        if results["weight_z"] == "none" and found:
            name = min(found, key=lambda name: (not found[name]["passed"], found[name]["centred"]["contrast"]))
    if name in CONTINGENCIES and name not in found:
        raise runs.UserError(f"--hand-on {name}: layer {study.layer} has none")
    others = [other for other in CONTINGENCIES if other != name and found.get(other, {}).get("passed")]
    others = others if wanted == "auto" and results["weight_z"] == "none" else []
    return subspace_named(study, results, name), [subspace_named(study, results, other) for other in others]


def subspace_named(study: Study, results: dict, name: str) -> tuple[dict, torch.Tensor]:
    """What is said of a subspace that may be handed on, `weight`, `grid` or a contingency, and its basis (k, d), float64."""
    fitted, method = [], name
    if name == "weight":
        row, basis = results["primary"] | {"layer": study.layer}, study.primary
        passed, evidence = results["weight_z"] == "clear", None
    elif name == "grid":
        row = min(filter(held, results["grid"]), key=lambda row: (max(p_of(row)), row["centred"]["contrast"]))
        row, basis = row | {"layer": row["mask_layer"]}, grid_basis(study, row)
        method, passed, evidence = {"multi": "weight", "head0": "weight_head0"}[row["mask"]], True, row
    else:
        row = evidence = results["contingencies"]["candidates"][name]
        passed, basis = row["passed"], study.weights["every_layer"][row["layer"]]
        if name in FITTED:
            fitted = study.fitting()
            basis = studies.fitter(study, name, POSITION, min(row["k"], max(1, len(fitted) - 1)))(fitted).cpu()
    hashes = [questions.problem_hash(problem) for problem in study.problems]
    return {
        "method": method,
        "layer": row["layer"],
        "site": row["site"],
        "k": len(basis),
        "passed": passed,
        "position": row["pooling"],
        "fitted_on": [hashes[index] for index in fitted],
        "fitted_answers": sorted({study.answers[index] for index in fitted}),
        "fitted_index": fitted,
        "stands_on": evidence and stands_on(evidence),
    }, basis


def basis_rows(bases: list[torch.Tensor], study: Study) -> np.ndarray:
    """Bases one after another, (sum of their k, d) float32."""
    return torch.cat([torch.zeros(0, study.vectors.shape[-1]), *(basis.float() for basis in bases)]).numpy()


def stands_on(row: dict) -> dict:
    """What a Z that is not the primary one was chosen by."""
    keys = ("contrast", "p_holm")
    return {key: row[key] for key in keys} | {"centred": {key: row["centred"][key] for key in keys}}


def given_z(study: Study, given: tuple[dict, np.ndarray, np.ndarray]) -> tuple[dict, torch.Tensor]:
    """--z-from: that run's Z, and which of these problems it was fitted on."""
    z, hashes = given[0]["z"], [questions.problem_hash(problem) for problem in study.problems]
    fitted = [index for index, name in enumerate(hashes) if name in z["fitted_on"]]
    return z | {"fitted_index": fitted}, torch.from_numpy(given[1]).double()


def score_given(study: Study, z: dict, basis: torch.Tensor) -> dict:
    """A Z of another run on the problems with answers that it was not fitted on."""
    fitted = {study.answers[index] for index in z["fitted_index"]} | set(z["fitted_answers"])
    kept = [index for index, answer in enumerate(study.answers) if answer not in fitted]
    if len(kept) < MINIMUM_PROBLEMS:
        raise runs.UserError(f"--z-from: that Z was fitted on all but {len(kept)} of these problems; give others")
    folds = pairs.folds_by_answer([study.answers[index] for index in kept], study.seed)
    place = separation.Place(study.points(z["site"], z["position"])[:, kept], folds, study.seed, DRAWS)
    return {"problems": len(kept), **place.row(basis)}


def refit_of(study: Study, opening: questions.Asking, z: dict) -> text.Refit | None:
    """How the Z handed on is fitted in another model; None for one that was fitted on nothing."""
    if z["method"] not in FITTED:
        return None
    asked = replace(opening, problems=[study.problems[index] for index in z["fitted_index"]])
    return text.Refit(asked, z["site"], z["position"], studies.fit_anew(study, z["method"], z["k"]))


def beyond_text(study: Study, foils: text.Foils, model, tokenizer, z: dict, basis: torch.Tensor, refit) -> dict:
    """`text`: the primary Z against foils and its three baselines; `text_handed`: the Z handed on, None where it is that one.

    One that was fitted is fitted anew in every twin. The model is one of its twins afterwards.
    """
    own = (study.layer + 1, PRIMARY["pooling"])
    handed = (z["site"], z["position"])
    text.ask(foils, model, tokenizer, {own[0], handed[0]}, study.batch, study.seed, refit)
    same = basis.shape == study.primary.shape and torch.allclose(basis, study.primary) and own == handed
    measured = {"text": text.measure(foils, study.primary, *own, study.seed), "text_handed": None}
    if not same:
        measured["text_handed"] = text.measure(foils, basis, *handed, study.seed, refit is not None)
    return measured


if __name__ == "__main__":
    runs.run_script(main)
