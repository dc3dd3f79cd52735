"""Phase 2: does the bottleneck's attention subspace separate language from reasoning?

Question   inside Z (the key-side subspace of the bottleneck's kernels), do the two versions of a problem lie closer than
           different problems do, and more so than outside Z and than in random subspaces of the same size?
Inputs     a model, parallel problems (data/phase2.jsonl, or the model folder's problems.jsonl), output/one_results.json
Outputs    output/phase2_output.md with figures, phase2_results.json,
           phase2_activations.npy (languages, problems, sites, poolings, d), phase2_z_basis.npy (k, d),
           phase2_layer_subspaces.npy (L, k, d): the multi-head Z of every layer; z.safetensors: the Z handed on, for use elsewhere
Run        python phase2_z_extraction.py --model Qwen/Qwen2.5-3B          after 1.py

Steps, which are also the report's headings:
1 activations and sinks   2 primary configuration   3 the grid   4 language and problem inside and outside Z
5 rivals on held-out problems   6 contingencies   7 information plane   8 updates inside and outside Z
9 what the recipe asks
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import utils
import verdicts
from lab import checkpoints, models, pairs, questions, runs, statistics, subspaces
from reports import phase2 as page

ARRAYS = ("phase2_activations.npy", "phase2_z_basis.npy", "phase2_layer_subspaces.npy", "z.safetensors")
REPORT = runs.Report(__file__, "phase2", ARRAYS, verdicts.phase2, page)
K_SHARES = (0.25, 0.64, 1.0)  # of the bottleneck's effective rank: the recipe's 20, 50 and 78 on Qwen2.5-3B
POOLINGS = ("mean", "mean_without_sinks", "last")
MASKS = ("multi", "head0")
NULLS = ("haar", "matched", "pairing")  # random subspaces, those of the tokens' covariance, shuffled problems
PRIMARY = {"place": "b at b.out", "mask": "multi", "pooling": "mean"}  # k: the effective rank; named before looking
CLOUD_TOKENS, CLOUD_PROBLEMS = 24, 40  # tokens per prompt and problems kept for covariances and for ARD-MMD
DRAWS = 2000  # Holm over the grid's 54 configurations needs p well below .05 / 54
READ_DRAWS = 200  # Haar subspaces that language and problem are read from: each costs a nearest-neighbour search
RETRIEVAL_SHUFFLES = 40
FOLDS, MINIMUM_PROBLEMS = 5, 4
EVIDENCE = ("contrast", "p_holm")  # what a Z that is not the primary one was chosen by
HAND_ON_LEVEL = 0.05  # below this p a Z counts as holding: chooses what is measured next, and judges nothing
CONTINGENCIES = ("centroid", "previous_layer", "sweep", "ard_mmd")  # the recipe's (a), (b), (b) and (c)
ARD_LAYERS, ARD_STEPS = 10, 150
RELEVANT_SHARE = 0.9  # |Z| of ARD-MMD: fewest dimensions that hold this share of the relevance


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    opening = questions.begin(REPORT, arguments, "phase2.jsonl", few_shot=False)
    if opening is None:
        return
    if len(opening.problems) < MINIMUM_PROBLEMS:
        raise runs.UserError(f"{len(opening.problems)} problem(s): phase 2 needs at least {MINIMUM_PROBLEMS}")
    given = load_given(opening)
    found = checkpoints.bottleneck_layer(arguments, opening.folder) if given is None else given_layer(given[0])
    layer, handed = found.layer, {"layer_chosen": found.chosen}
    fitting = fitting_share(opening)
    settings = {"layer": layer, "contingencies": arguments.contingencies, "hand_on": arguments.hand_on}
    settings |= {"fitting_share": fitting}
    run = opening.run(handed, **settings, fold_norm=arguments.fold_norm, z_from=given and given_hash(*given))
    if run is None:
        return
    weights = weight_subspaces(opening.folder, layer, arguments.fold_norm, opening.device)
    activations, clouds, sinks = capture(opening)
    study = Study(activations, clouds, layer, weights, arguments.seed, fitting)
    results = {"sinks": sinks} | sizes(study)
    results["grid"] = measure_grid(study)
    results["primary"] = next(row for row in results["grid"] if row["primary"] and row["share"] == 1)
    results["weight_z"] = standing(results["grid"])
    results["content"] = content(study, weights["primary"])
    results["offset"] = language_offset(study, weights["primary"])
    results["plane"] = information_plane(study, weights["primary"])
    wanted = given is None and wants_contingencies(arguments, results["weight_z"])
    results["rivals"] = rivals(study, with_ard=wanted)
    results["rival_order"] = list(results["rivals"])
    if wanted:
        results["contingencies"] = contingencies(study, results["rivals"], results["grid"])
    hashes = [questions.problem_hash(problem) for problem in opening.problems]
    if given is None:
        results["z"], basis = choose_z(study, results, hashes, arguments.hand_on)
        seen = {str(opening.problems[index].answer) for index in results["z"]["fitted_index"]}
        results["z"]["fitted_answers"] = sorted(seen)
    else:
        results["z"], basis = given_z(given, hashes)
        results["given"] = score_given(study, results["z"], basis)
    basis, every_layer = basis.float().numpy(), torch.stack(weights["every_layer"]).float().numpy()
    z_file = subspaces.z_file(basis, results["z"], opening.folder.identity)
    run.save(results, dict(zip(ARRAYS, (activations, basis, every_layer, z_file))))


def parse_arguments(argv: list[str] | None):
    parser = runs.command_line(__doc__, asks_problems=True)
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


def load_given(opening: questions.Asking) -> tuple[dict, np.ndarray] | None:
    """With --z-from that run's results and Z (k, d); None without. Raises UserError for another model's."""
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
    if results["settings"]["fold_norm"] != arguments.fold_norm:
        raise runs.UserError(f"--z-from {arguments.z_from} was run with another --fold-norm: run this alike")
    return results, runs.load_array(arguments.z_from, "phase2_z_basis.npy", (results["z"]["k"], folder.width))


def given_layer(results: dict) -> checkpoints.ChosenLayer:
    """The layer of another run, chosen as it was there."""
    return checkpoints.ChosenLayer(results["settings"]["layer"], results["layer_chosen"])


def given_hash(results: dict, basis: np.ndarray) -> str:
    """The content of another run's Z: what it is, on which problems it was fitted, and its bytes."""
    z = results["z"]
    what = {key: z[key] for key in ("method", "layer", "site", "k", "passed")} | {"fitted_on": sorted(z["fitted_on"])}
    return runs.short_hash([runs.array_hash(basis), what])


def weight_subspaces(folder, layer: int, fold_norm: bool, device) -> dict:
    """Weight-based subspaces: per-head vectors at b and b-1 (h, r, d), k for each share, multi-head Z of every layer.

    k = share of the mean effective rank of layer b's kernels, at most d_head and at most d - 1.
    """

    def kernels(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        factors = utils.kernel_factors(checkpoints.read_layer(folder, index), folder.head_width, fold_norm)
        values, vectors = utils.kernel_svd(*(part.to(device) for part in factors))
        return values.cpu(), vectors.cpu()

    values, _ = kernels(layer)
    rank = utils.effective_rank(values).mean().item()
    limit = min(folder.head_width, folder.width - 1)
    k = [min(limit, max(1, round(share * rank))) for share in K_SHARES]
    heads, every_layer = {}, []
    for index in range(folder.layers):
        _, vectors = kernels(index)
        if index in (layer - 1, layer):
            heads[index] = vectors
        every_layer.append(utils.multi_head_subspace(vectors[:, : k[-1]], k[-1]))
    return {"k": k, "rank": rank, "heads": heads, "every_layer": every_layer, "primary": every_layer[layer]}


def capture(opening: questions.Asking) -> tuple[np.ndarray, dict, dict]:
    """Pooled residuals (languages, problems, sites, poolings, d) float32, token clouds per site, and a sink summary.

    Site s is the stream after s layers. Clouds are (languages, problems, tokens, d): evenly spaced tokens that are no
    sinks, of at most CLOUD_PROBLEMS problems.
    """
    folder, languages, problems, exemplars = opening.folder, opening.languages, opening.problems, opening.exemplars
    model, tokenizer = questions.load_model(opening)
    asked = [(language, problem) for language in languages for problem in problems]
    prompts = [questions.prompt_text(problem, language, languages, exemplars) for language, problem in asked]
    prefixes = [questions.exemplar_text(language, languages, exemplars) for language in languages]
    skip = [len(tokenizer(prefix)["input_ids"]) for prefix in prefixes]  # without exemplars what stands before any text
    sites = range(folder.layers + 1)
    captured = {}  # prompt -> pooled residuals, tokens for the cloud, sinks
    streams = models.residual_streams(model, tokenizer, prompts, sites, opening.arguments.batch)
    for index, ids, stream in streams:
        language, problem = divmod(index, len(problems))
        stream = stream[:, skip[language] :]
        sink = models.sinks(stream)
        kept = (~sink).float()[..., None]
        without = (stream * kept).sum(1) / kept.sum(1).clamp_min(1)
        pooled = torch.stack([stream.mean(1), without, stream[:, -1]], 1)
        tokens = ids[skip[language] :]
        found = [(int(p), tokenizer.decode([int(tokens[p])]), int(s)) for s, p in sink.nonzero()]
        cloud = None
        if problem < CLOUD_PROBLEMS:
            keep = ~sink.any(0)
            cloud = stream[:, models.spaced(keep, min(CLOUD_TOKENS, int(keep.sum())))].clone()
        captured[index] = pooled, cloud, found
    pooled, clouds, sinks = zip(*runs.gathered(captured).values())
    clouds = [cloud for cloud in clouds if cloud is not None]
    if not all(torch.isfinite(part).all() for part in pooled):
        raise runs.UserError("activations are not finite: try --dtype float32")
    activations = torch.stack(pooled).unflatten(0, (len(languages), len(problems))).numpy()
    size = min(cloud.shape[1] for cloud in clouds)
    rows = [cloud[:, models.spaced(torch.ones(cloud.shape[1], dtype=torch.bool), size)] for cloud in clouds]
    stack = torch.stack(rows).unflatten(0, (len(languages), -1))
    return activations, {site: stack[:, :, site] for site in sites}, sink_summary(sinks, len(sites))


def sink_summary(sinks: list[list[tuple]], sites: int) -> dict:
    """Prompts with a sink per site, and the commonest (position, token) at any site."""
    per_site = [sum(any(site == s for *_, s in row) for row in sinks) for site in range(sites)]
    seen = Counter((position, token) for row in sinks for position, token in {(p, t) for p, t, _ in row})
    common = [
        {"position": p, "token": t, "prompts": count}
        for (p, t), count in sorted(seen.items(), key=lambda x: (-x[1], x[0]))
    ]
    return {
        "prompts": len(sinks),
        "factor": models.SINK_FACTOR,
        "per_site": per_site,
        "commonest": common[:5],
    }


@dataclass
class Study:
    """The data that every measurement is taken on."""

    activations: np.ndarray  # (languages, problems, sites, poolings, d)
    clouds: dict  # site -> (languages, problems, tokens, d)
    layer: int
    weights: dict
    seed: int
    fitting_share: float = 1.0

    @property
    def problems(self) -> int:
        return self.activations.shape[1]

    def points(self, site: int, pooling: str) -> torch.Tensor:
        """(languages, problems, d) float64, centred on their common mean."""
        points = torch.from_numpy(self.activations[:, :, site, POOLINGS.index(pooling)]).double()
        return points - points.mean((0, 1))

    def places(self) -> dict[str, tuple[int, int]]:
        """Name -> (layer of the mask, site of the activations)."""
        places = {"b at b.out": (self.layer, self.layer + 1), "b at b.in": (self.layer, self.layer)}
        return places | ({"b-1 at b-1.out": (self.layer - 1, self.layer)} if self.layer else {})

    def folds(self) -> torch.Tensor:
        """A fold number for every problem, in random order and of equal sizes."""
        count = min(FOLDS, self.problems // 2)
        order = torch.randperm(self.problems, generator=statistics.seeded(self.seed, "phase2: folds"))
        return (torch.arange(self.problems) % count)[order.argsort()]

    def fitting(self) -> list[int]:
        """The problems that a Z handed on to later phases may be fitted on, in random order."""
        order = torch.randperm(self.problems, generator=statistics.seeded(self.seed, "phase2: fitting"))
        return order[: round(self.fitting_share * self.problems)].tolist()

    def nulls(self, points: torch.Tensor, paired: pairs.Pairs, site: int, ks: list[int]) -> list[dict]:
        """Contrasts of DRAWS Haar and DRAWS covariance-matched subspaces of each size: [{k: (DRAWS,)}, {k: (DRAWS,)}]."""
        clouds = (None, self.clouds[site])
        return [pairs.null_contrasts(points, paired, cloud, ks, self.seed, DRAWS) for cloud in clouds]


def sizes(study: Study) -> dict:
    """What was measured on how much, and the order of the axes of the arrays: for the page and for later phases."""
    languages, problems, _, _, width = study.activations.shape
    return {
        "problems": problems,
        "width": width,
        "z_dimensions": study.weights["k"],
        "poolings": POOLINGS,  # the order of that axis of phase2_activations.npy
        "draws": DRAWS,
        "read_draws": READ_DRAWS,
        "retrieval_shuffles": RETRIEVAL_SHUFFLES,
        "folds": len(study.folds().unique()),
        "chance": {"language": 1 / languages},
    }


def measure_grid(study: Study) -> list[dict]:
    """Every (mask layer, site) x mask x pooling x k: ratios, energy fractions and p against three nulls, Holm over all."""
    languages, problems = study.activations.shape[:2]
    paired, ks, rows, nulls = pairs.all_pairs(languages, problems), study.weights["k"], [], {}
    for place, (mask_layer, site) in study.places().items():
        for pooling in POOLINGS:
            points = study.points(site, pooling)
            if (paired.squares(points)[paired.same_problem :] <= 1e-20 * points.square().max()).all():
                continue  # the same point for every problem (last token of a template at site 0): no ratio is defined
            if pooling != "mean" and torch.equal(points, study.points(site, "mean")):
                continue  # no sinks here: the same points once more
            if (site, pooling) not in nulls:
                nulls[site, pooling] = study.nulls(points, paired, site, ks)
            for mask in MASKS:
                for share, k in zip(K_SHARES, ks):
                    heads = study.weights["heads"][mask_layer]
                    basis = utils.multi_head_subspace(heads[:, :k], k) if mask == "multi" else heads[0, :k]
                    row = {"place": place, "mask": mask, "pooling": pooling, "share": share, "k": k}
                    row["primary"] = PRIMARY.items() <= row.items()
                    sized = [null[k] for null in nulls[site, pooling]]
                    rows.append(row | score_basis(points, paired, basis, sized, study.seed))
    for row, adjusted in zip(rows, statistics.holm([row["p"] for row in rows])):
        row["p_holm"] = adjusted
    return rows


def score(paired: pairs.Pairs, inside, total, cross, nulls: list, seed: int, folds=None) -> dict:
    """Ratios and energy fractions of one subspace, its Haar, matched and shuffled nulls, and `p`, the largest of theirs.

    `haar` and `matched` are about the contrast, `pairing` is about the distance of a problem's versions.
    """
    contrast = paired.contrast(inside, total).item()
    records = [statistics.null_record(null.numpy(), contrast, low_counts=True) for null in nulls]
    records = dict(zip(NULLS, [*records, pairs.pairing_null(cross, seed, folds, DRAWS)]))
    between_versions, between_problems = paired.energy_fraction(inside, total)
    return {
        "ratio_z": paired.ratio(inside).item(),
        "ratio_z_perp": paired.ratio((total - inside).clamp_min(0)).item(),
        "contrast": contrast,
        "energy_cross_language": between_versions,
        "energy_same_language": between_problems,
        "distance": cross.diagonal().mean().item(),
        **records,
        "p": max(record["p"] for record in records.values()),
        "haar_below_one": (nulls[0] < 1).double().mean().item(),
    }


def score_basis(points: torch.Tensor, paired: pairs.Pairs, basis: torch.Tensor, nulls: list, seed: int) -> dict:
    """`score` of one fixed subspace."""
    inside = paired.squares(points, basis[None])[0]
    return score(paired, inside, paired.squares(points), pairs.cross_distances(points, basis), nulls, seed)


def standing(grid: list[dict]) -> str:
    """How the weight-based Z stands for what is measured and handed on next: clear, partial or none.

    clear: the primary mask, site and pooling at every k has contrast < 1 and p below the level; partial: some row has, after
    Holm. It is the verdict's rule at HAND_ON_LEVEL; the verdict itself is judged from the saved results.
    """
    if all(row["contrast"] < 1 and row["p"] < HAND_ON_LEVEL for row in grid if row["primary"]):
        return "clear"
    return "partial" if any(held_after_holm(row) for row in grid) else "none"


def held_after_holm(row: dict) -> bool:
    return bool(row["contrast"] < 1 and row["p_holm"] < HAND_ON_LEVEL)


def content(study: Study, basis: torch.Tensor) -> dict:
    """What can be read inside Z, inside Z⊥, in the whole stream, and inside Haar subspaces of Z's size."""
    points = study.points(study.layer + 1, PRIMARY["pooling"])
    draw = statistics.seeded(study.seed, "phase2: Haar content")
    haar = utils.random_subspaces(draw, READ_DRAWS, len(basis), points.shape[-1])
    spaces = {"z": points @ basis.T, "z_perp": utils.outside(points, basis), "all": points}
    spaces["haar"] = torch.einsum("lnd,mkd->mlnk", points, haar)
    measures = {
        "language": pairs.language_decoded,
        "problem": pairs.retrieved,
        "problem_raw": lambda space: pairs.retrieved(space, remove_means=False),
    }
    results = {
        name: {key: measure(space).mean().item() for key, measure in measures.items()} for name, space in spaces.items()
    }
    for space in ("z", "z_perp", "all", "haar"):
        shown = spaces[space] if space != "haar" else spaces["haar"][0]
        results[space] |= {
            "problem_shuffled": pairs.shuffled_retrieval(shown, study.seed, True, RETRIEVAL_SHUFFLES),
            "problem_raw_shuffled": pairs.shuffled_retrieval(shown, study.seed, False, RETRIEVAL_SHUFFLES),
        }
    results["haar_null"] = {
        key: statistics.null_record(measure(spaces["haar"]).mean(-1).numpy(), results["z"][key], key == "language")
        for key, measure in measures.items()
    }
    return results | {"energy": energy(points, basis, haar)}


def energy(points: torch.Tensor, basis: torch.Tensor, haar: torch.Tensor) -> dict:
    """Share of squared distance inside Z, between languages and between problems, each beside that of Haar subspaces.

    points (l, n, d), basis (k, d), haar (m, k, d). The recipe expects little of the first and much of the second in Z.
    """
    paired = pairs.all_pairs(*points.shape[:2])
    total, cut = paired.squares(points), paired.same_problem
    fractions = paired.squares(points, haar)
    cross, same = paired.energy_fraction(paired.squares(points, basis[None])[0], total)
    haar_cross, haar_same = (fractions[:, part].sum(1) / total[part].sum() for part in (slice(cut), slice(cut, None)))
    return {
        "cross_language": cross,
        "same_language": same,
        "haar_cross_language": statistics.null_record(haar_cross.numpy(), cross, low_counts=True),
        "haar_same_language": statistics.null_record(haar_same.numpy(), same),
    }


def language_offset(study: Study, basis: torch.Tensor) -> dict:
    """How much of the distance between versions is one constant offset, and the contrast once it is taken out."""
    points = study.points(study.layer + 1, PRIMARY["pooling"])
    paired = pairs.all_pairs(*points.shape[:2])
    centred = points - points.mean(1, keepdim=True)
    cut = paired.same_problem
    kept = paired.squares(centred)[:cut].sum() / paired.squares(points)[:cut].sum()
    nulls = [null[len(basis)] for null in study.nulls(centred, paired, study.layer + 1, [len(basis)])]
    return {"share": 1 - kept.item(), **score_basis(centred, paired, basis, nulls, study.seed)}


def score_given(study: Study, z: dict, basis: torch.Tensor) -> dict:
    """A Z of another run on the problems that it was not fitted on, with and without the constant language offset."""
    kept = [index for index in range(study.problems) if index not in z["fitted_index"]]
    if len(kept) < MINIMUM_PROBLEMS:
        raise runs.UserError(f"--z-from: that Z was fitted on all but {len(kept)} of these problems; give others")
    points = study.points(z["site"], PRIMARY["pooling"])[:, kept]
    points, paired, k = points - points.mean((0, 1)), pairs.all_pairs(len(points), len(kept)), len(basis)
    result = {"problems": len(kept)}
    for name, placed in (("", points), ("centred_", points - points.mean(1, keepdim=True))):
        nulls = [null[k] for null in study.nulls(placed, paired, z["site"], [k])]
        row = score_basis(placed, paired, basis, nulls, study.seed)
        result |= {f"{name}{key}": row[key] for key in ("ratio_z", "ratio_z_perp", "contrast", "p")}
    return result


def information_plane(study: Study, basis: torch.Tensor) -> dict:
    """Per site what can be read in the stream and inside Z; per layer the size of its update inside Z over outside."""
    plane = {key: [] for key in ("language", "problem", "language_in_z", "problem_in_z", "problem_shuffled", "update")}
    sites = study.activations.shape[2]
    for site in range(sites):
        points = study.points(site, PRIMARY["pooling"])
        for suffix, space in (("", points), ("_in_z", points @ basis.T)):
            plane["language" + suffix].append(pairs.language_decoded(space).mean().item())
            plane["problem" + suffix].append(pairs.retrieved(space).mean().item())
        plane["problem_shuffled"].append(pairs.shuffled_retrieval(points, study.seed, True, RETRIEVAL_SHUFFLES))
    pooled = torch.from_numpy(study.activations[:, :, :, POOLINGS.index(PRIMARY["pooling"])]).double()
    for layer in range(sites - 1):
        change = pooled[:, :, layer + 1] - pooled[:, :, layer]
        inside, outside = change @ basis.T, utils.outside(change, basis)
        plane["update"].append((inside.norm(dim=-1) / outside.norm(dim=-1).clamp_min(1e-300)).mean().item())
    k, width = basis.shape
    return plane | {"update_chance": (k / (width - k)) ** 0.5}


def common_k(study: Study) -> int:
    """The largest k, up to the primary one, that problems of the smallest training part can determine."""
    largest_fold = int(study.folds().bincount().max())
    return max(1, min(study.weights["k"][-1], study.problems - largest_fold - 1))


def held_out_null(study: Study) -> tuple[pairs.Pairs, list[torch.Tensor]]:
    """The pairs that rivals are scored on, and the contrasts of Haar and matched subspaces of the common size there."""
    points = study.points(study.layer + 1, PRIMARY["pooling"])
    paired, k = pairs.all_pairs(*points.shape[:2], study.folds()), common_k(study)
    return paired, [null[k] for null in study.nulls(points, paired, study.layer + 1, [k])]


def held_out(study: Study, paired: pairs.Pairs, nulls: list[torch.Tensor], fit) -> dict:
    """Score subspaces that `fit(points, training mask)` made without the problems they are scored on."""
    points, folds = study.points(study.layer + 1, PRIMARY["pooling"]), study.folds()
    inside = torch.zeros(len(paired.first), dtype=torch.float64)
    cross = torch.zeros(study.problems, study.problems, dtype=torch.float64)
    read = {"language": 0.0, "problem": 0.0, "problem_shuffled": 0.0}
    for fold in folds.unique():
        held = folds == fold
        basis = fit(points[:, ~held], ~held)
        chosen = held[paired.first % study.problems]
        inside[chosen] = paired.squares(points, basis[None])[0][chosen]
        cross[held] = pairs.cross_distances(points, basis)[held]
        coordinates, share = (points @ basis.T)[:, held], held.double().mean().item()  # against held-out problems alone
        read["language"] += share * pairs.language_decoded(coordinates).mean().item()
        read["problem"] += share * pairs.retrieved(coordinates).mean().item()
        shuffled = pairs.shuffled_retrieval(coordinates, study.seed, True, RETRIEVAL_SHUFFLES)
        read["problem_shuffled"] += share * shuffled
    scored = score(paired, inside, paired.squares(points), cross, nulls, study.seed, folds)
    return scored | {"k": common_k(study)} | read


def rivals(study: Study, with_ard: bool) -> dict:
    """Weight-based, centroid, PCA, random (and ARD-MMD) subspaces of one size, scored on problems they were not fitted on."""
    k, (paired, nulls) = common_k(study), held_out_null(study)
    weight = utils.multi_head_subspace(study.weights["heads"][study.layer][:, :k], k)
    draw = statistics.seeded(study.seed, "phase2: one Haar rival")
    (haar,) = utils.random_subspaces(draw, 1, k, study.activations.shape[-1])
    cloud = study.clouds[study.layer + 1]
    fits = {
        "weight": lambda points, train: weight,
        "centroid": lambda points, train: subspaces.centroid_subspace(points, k),
        "ard_mmd": lambda points, train: subspaces.axis_subspace(
            relevance(study, cloud[:, train[: cloud.shape[1]]]), k
        ),
        "pca": lambda points, train: utils.principal_subspace(points, k),
        "random": lambda points, train: haar,
    }
    return {name: held_out(study, paired, nulls, fit) for name, fit in fits.items() if with_ard or name != "ard_mmd"}


def contingencies(study: Study, rival: dict, grid: list[dict]) -> dict:
    """The recipe's three ways out: centroids, other layers, ARD-MMD.

    Centroid, ARD-MMD and every layer that the grid has not tested form one Holm family. The layer before the bottleneck
    was tested in the grid, and keeps its p from there: no second chance at a lighter correction.
    """
    relevances = {layer: relevance(study, study.clouds[layer + 1]) for layer in ard_layers(study.layer)}
    sweep = layer_sweep(study)
    new = [layer for layer in range(len(sweep)) if layer not in (study.layer - 1, study.layer)]
    family = [rival["centroid"], rival["ard_mmd"], *(sweep[layer] for layer in new)]
    adjusted = statistics.holm([row["p"] for row in family])
    candidates = {
        "centroid": {"layer": study.layer, **rival["centroid"], "p_holm": adjusted[0]},
        "ard_mmd": {"layer": study.layer, **rival["ard_mmd"], "p_holm": adjusted[1]},
    }
    if new:
        best = min(range(len(new)), key=lambda index: (adjusted[2 + index], sweep[new[index]]["contrast"]))
        candidates["sweep"] = {"layer": new[best], **sweep[new[best]], "p_holm": adjusted[2 + best]}
    for row in grid:
        if (PRIMARY | {"place": "b-1 at b-1.out", "share": 1}).items() <= row.items():
            candidates["previous_layer"] = {"layer": study.layer - 1, **row}
    for candidate in candidates.values():
        candidate["passed"] = held_after_holm(candidate)
    return {"candidates": candidates, "sweep": sweep, "ard": ard_summary(relevances, study.weights["primary"])}


def layer_sweep(study: Study) -> list[dict]:
    """The weight-based multi-head Z of every layer at its own output, primary k and pooling."""
    rows, k = [], study.weights["k"][-1]
    for layer, basis in enumerate(study.weights["every_layer"]):
        points = study.points(layer + 1, PRIMARY["pooling"])
        paired = pairs.all_pairs(*points.shape[:2])
        nulls = [null[k] for null in study.nulls(points, paired, layer + 1, [k])]
        rows.append({"k": k, **score_basis(points, paired, basis, nulls, study.seed)})
    return rows


def ard_layers(bottleneck: int) -> list[int]:
    """About ten layers spread from the first to the bottleneck."""
    return sorted({round(layer) for layer in np.linspace(0, bottleneck, ARD_LAYERS)})


def relevance(study: Study, cloud: torch.Tensor) -> torch.Tensor:
    """ARD-MMD's relevances of the coordinates at one site, started from the weight-based Z. (l, n, m, d) -> (d,)"""
    return subspaces.fit_relevance(cloud, study.weights["primary"], study.seed, ARD_STEPS)


def ard_summary(relevances: dict[int, torch.Tensor], basis: torch.Tensor) -> dict:
    """Per fitted layer: |Z|, the spectrum of the relevances, and how much of the weight-based Z its top k coordinates hold."""
    layers = []
    for layer, values in relevances.items():
        size = subspaces.relevant_dimensions(values, RELEVANT_SHARE)
        overlap = utils.grassmann_similarity(basis, subspaces.axis_subspace(values, len(basis))).item()
        spectrum = values.sort(descending=True).values
        picks = torch.linspace(0, len(spectrum) - 1, min(len(spectrum), 64)).round().long()
        row = {"layer": layer, "size": size, "overlap": overlap, "chance": len(basis) / len(values)}
        layers.append(row | {"spectrum": spectrum[picks]})
    return {"layers": layers, "relevant_share": RELEVANT_SHARE}


def choose_z(study: Study, results: dict, hashes: list[str], wanted: str) -> tuple[dict, torch.Tensor]:
    """The Z handed on: the primary one where it is clear, the best significant one where partial, else a contingency.

    Or the `wanted` one where --hand-on names it. What it was fitted on is kept, so that later phases ask other problems.
    """
    if wanted in CONTINGENCIES and wanted not in results["contingencies"]["candidates"]:
        raise runs.UserError(f"--hand-on {wanted}: layer {study.layer} has none")
    z, basis = choose_by_rule(study, results) if wanted == "auto" else choose_named(study, results, wanted)
    fitted = study.fitting() if z["method"] in ("centroid", "ard_mmd") else []
    return z | {"fitted_on": [hashes[index] for index in fitted], "fitted_index": fitted}, basis


def given_z(given: tuple[dict, np.ndarray], hashes: list[str]) -> tuple[dict, torch.Tensor]:
    """--z-from: that run's Z, and which of these problems it was fitted on."""
    z = given[0]["z"]
    fitted = [index for index, name in enumerate(hashes) if name in z["fitted_on"]]
    return z | {"fitted_index": fitted}, torch.from_numpy(given[1]).double()


def choose_named(study: Study, results: dict, name: str) -> tuple[dict, torch.Tensor]:
    """--hand-on: the primary weight-based Z, or a contingency."""
    if name != "weight":
        return fit_contingency(study, results["contingencies"]["candidates"], name)
    row = results["primary"]
    z = {"method": "weight", "layer": study.layer, "site": study.layer + 1, "k": row["k"]}
    return z | {"passed": results["weight_z"] == "clear", "stands_on": None}, study.weights["primary"]


def choose_by_rule(study: Study, results: dict) -> tuple[dict, torch.Tensor]:
    """The Z that the weight-based one's standing implies."""
    if results["weight_z"] == "clear" or (results["weight_z"] == "none" and "contingencies" not in results):
        return choose_named(study, results, "weight")
    if results["weight_z"] == "none":
        candidates = results["contingencies"]["candidates"]
        best = min(candidates, key=lambda name: (not candidates[name]["passed"], candidates[name]["contrast"]))
        return fit_contingency(study, candidates, best)
    held = [row for row in results["grid"] if held_after_holm(row)]
    row = min(held, key=lambda row: (row["p_holm"], row["contrast"]))
    layer, site = study.places()[row["place"]]
    heads, k = study.weights["heads"][layer], row["k"]
    basis = utils.multi_head_subspace(heads[:, :k], k) if row["mask"] == "multi" else heads[0, :k]
    method = {"multi": "weight", "head0": "weight_head0"}[row["mask"]]
    z = {"method": method, "layer": layer, "site": site, "k": k, "passed": True}
    return z | {"stands_on": {key: row[key] for key in EVIDENCE}}, basis


def fit_contingency(study: Study, candidates: dict, name: str) -> tuple[dict, torch.Tensor]:
    """A contingency's subspace, fitted anew on the problems that it may be fitted on."""
    chosen = candidates[name]
    layer, fitting = chosen["layer"], study.fitting()
    k = min(chosen["k"], len(fitting) - 1)
    if name == "centroid":
        points = study.points(layer + 1, PRIMARY["pooling"])[:, fitting]
        basis = subspaces.centroid_subspace(points - points.mean((0, 1)), k)
    elif name == "ard_mmd":
        cloud = study.clouds[layer + 1]
        kept = [index for index in fitting if index < cloud.shape[1]]
        basis = subspaces.axis_subspace(relevance(study, cloud[:, kept]), k)
    else:
        basis = study.weights["every_layer"][layer]
    z = {"method": name, "layer": layer, "site": layer + 1, "k": len(basis), "passed": chosen["passed"]}
    return z | {"stands_on": {key: chosen[key] for key in EVIDENCE}}, basis


if __name__ == "__main__":
    runs.run_script(main)
