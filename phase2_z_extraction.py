"""Phase 2: does the bottleneck's attention subspace separate language from reasoning?

Question   inside Z (the key-side subspace of the bottleneck's kernels), do the two versions of a problem lie closer than
           different problems do, and more so than outside Z and than in random subspaces of the same size?
Inputs     a model, parallel problems (data/phase2.jsonl, or the model folder's problems.jsonl), output/one_results.json
Outputs    output/phase2_output.md with figures, phase2_results.json,
           phase2_activations.npy (languages, problems, sites, poolings, d), phase2_z_basis.npy (k, d),
           phase2_layer_subspaces.npy (L, k, d): the multi-head Z of every layer
Run        python phase2_z_extraction.py --model Qwen/Qwen2.5-3B          after 1.py

Steps, which are also the report's headings:
1 activations and sinks   2 primary configuration   3 the grid   4 language and problem inside and outside Z
5 rivals on held-out problems   6 contingencies   7 information plane   8 updates inside and outside Z
9 what the recipe asks
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import utils
from lab import checkpoints, models, questions, runs, statistics
from reports import page

ARRAYS = ("phase2_activations.npy", "phase2_z_basis.npy", "phase2_layer_subspaces.npy")
K_SHARES = (0.25, 0.64, 1.0)  # of the bottleneck's effective rank: the recipe's 20, 50 and 78 on Qwen2.5-3B
POOLINGS = ("mean", "mean_without_sinks", "last")
MASKS = ("multi", "head0")
PRIMARY = {"place": "b at b.out", "mask": "multi", "pooling": "mean"}  # k: the effective rank; named before looking
CLOUD_TOKENS, CLOUD_PROBLEMS = 24, 40  # tokens per prompt and problems kept for covariances and for ARD-MMD
DRAWS = 2000  # Holm over the grid's 54 configurations needs p well below .05 / 54
CHUNK = 200
FOLDS, MINIMUM_PROBLEMS = 5, 4
LEVEL = 0.05
CONTINGENCIES = ("centroid", "previous_layer", "sweep", "ard_mmd")  # the recipe's (a), (b), (b) and (c)
RETRIEVAL_SHUFFLES = 40
ARD_LAYERS, ARD_STEPS, ARD_RATE = 10, 150, 0.1
ARD_SPARSITY = 0.01  # weight of the entropy of the relevances, in nats, beside a difference of log MMD²
RELEVANT_SHARE = 0.9  # |Z| of ARD-MMD: fewest dimensions that hold this share of the relevance


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.report_only:
        return runs.render_again(arguments.out, "phase2", ARRAYS, render)
    device = runs.choose_device(arguments.device)
    dtype = runs.choose_dtype(arguments.dtype, device)
    folder = checkpoints.find_model(arguments.model, arguments.revision)
    languages = questions.load_languages(arguments.languages)
    files = questions.problem_files(arguments.problems, folder, "problems.jsonl", runs.ROOT / "data" / "phase2.jsonl")
    problems = questions.load_problems(files, list(languages), arguments.limit)
    if len(problems) < MINIMUM_PROBLEMS:
        raise runs.UserError(f"{len(problems)} problem(s): phase 2 needs at least {MINIMUM_PROBLEMS}")
    given = load_given(arguments, folder)
    layer = runs.bottleneck_layer(arguments, folder) if given is None else given[0]["settings"]["layer"]
    settings = questions.problem_settings(arguments, device, dtype, files, languages)
    settings |= {"layer": layer, "fold_norm": arguments.fold_norm, "contingencies": arguments.contingencies}
    settings |= {"hand_on": arguments.hand_on}
    settings |= {"z_from": given and given[0]["fingerprint"]}
    run = runs.Run(__file__, "phase2", arguments, folder, settings)
    if not arguments.fresh and run.finished(ARRAYS):
        return None
    weights = weight_subspaces(folder, layer, arguments.fold_norm, device)
    activations, clouds, sinks = capture(folder, problems, languages, arguments, device, dtype)
    # phase 3 asks the model's own file too: half of it stays out of every fit that is handed on
    own = files[0].resolve().parent == folder.path.resolve()
    study = Study(activations, clouds, layer, weights, arguments.seed, 0.5 if own else 1.0)
    results = {"z_dimensions": weights["k"], "sinks": sinks, "problems": len(problems), "width": folder.width}
    results |= {"chance": {"language": 1 / len(languages)}}
    results["grid"] = measure_grid(study)
    results["primary"] = next(row for row in results["grid"] if is_primary(row) and row["share"] == 1)
    results["verdict"] = decide(results["grid"])
    results["content"] = content(study, weights["primary"])
    results["offset"] = language_offset(study, weights["primary"])
    results["plane"] = information_plane(study, weights["primary"])
    wanted = given is None and wants_contingencies(arguments, results["verdict"])
    results["rivals"] = rivals(study, with_ard=wanted)
    if wanted:
        results["contingencies"] = contingencies(study, results["rivals"], results["grid"])
    hashes = [questions.problem_hash(problem) for problem in problems]
    results["z"], basis = (
        choose_z(study, results, hashes, arguments.hand_on) if given is None else given_z(given, hashes)
    )
    if given:
        results["given"] = score_given(study, results["z"], basis)
    results = runs.significant(results)  # before any sentence is made of it: the JSON is the truth
    results["claims"] = claims(results)
    every_layer = torch.stack(weights["every_layer"]).float().numpy()
    return run.save(results, dict(zip(ARRAYS, (activations, basis.float().numpy(), every_layer))), render)


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


def wants_contingencies(arguments, verdict: str) -> bool:
    """Whether to run them: as --contingencies says, and always where --hand-on names one."""
    by_flag = {"always": True, "never": False, "auto": verdict == "none"}[arguments.contingencies]
    return by_flag or arguments.hand_on in CONTINGENCIES


def load_given(arguments, folder) -> tuple[dict, np.ndarray] | None:
    """With --z-from that run's results and Z (k, d); None without. Raises UserError for another model's."""
    if arguments.z_from is None:
        return None
    if arguments.z_from.resolve() == arguments.out.resolve():
        raise runs.UserError(
            f"--z-from {arguments.z_from} is --out itself: give the run on other problems another --out"
        )
    results = runs.load_results(arguments.z_from, "phase2", folder.identity)
    if results["settings"]["fold_norm"] != arguments.fold_norm:
        raise runs.UserError(f"--z-from {arguments.z_from} was run with another --fold-norm: run this alike")
    return results, runs.load_array(arguments.z_from, "phase2_z_basis.npy", (results["z"]["k"], folder.width))


# ---- weights and activations ----------------------------------------------------------------------------------------


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


def capture(folder, problems, languages, arguments, device, dtype) -> tuple[np.ndarray, dict, dict]:
    """Pooled residuals (languages, problems, sites, poolings, d) float32, token clouds per site, and a sink summary.

    Site s is the stream after s layers. Clouds are (languages, problems, tokens, d): evenly spaced tokens that are no
    sinks, of at most CLOUD_PROBLEMS problems.
    """
    model, tokenizer = models.load_model(folder, device, dtype)
    exemplars = questions.load_problems([arguments.exemplars], list(languages)) if arguments.exemplars else []
    asked = [(language, problem) for language in languages for problem in problems]
    prompts = [questions.prompt_text(problem, language, languages, exemplars) for language, problem in asked]
    prefixes = [questions.exemplar_text(language, languages, exemplars) for language in languages]
    skip = [len(tokenizer(prefix)["input_ids"]) if prefix else 0 for prefix in prefixes]
    sites = range(folder.layers + 1)
    captured = {}  # prompt -> pooled residuals, tokens for the cloud, sinks
    streams = models.residual_streams(model, tokenizer, prompts, sites, arguments.batch)
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
    rows = [
        cloud[:, models.spaced(torch.ones(cloud.shape[1], dtype=torch.bool), size)] for cloud in clouds
    ]  # (sites, tokens, d)
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
    return {"prompts": len(sinks), "per_site": per_site, "commonest": common[:5]}


# ---- geometry of paired problems ------------------------------------------------------------------------------------


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


@dataclass
class Pairs:
    """Pairs of points: first the two versions of each problem, then different problems of one language."""

    first: torch.Tensor  # index into (languages * problems)
    second: torch.Tensor
    same_problem: int  # how many of the pairs are versions of one problem

    def squares(self, points: torch.Tensor, subspaces: torch.Tensor | None = None) -> torch.Tensor:
        """Squared distance of every pair, inside each subspace where given. (l, n, d), (m, k, d) -> (m, pairs)"""
        flat = points.flatten(0, 1)
        if subspaces is None:
            return (flat[self.first] - flat[self.second]).square().sum(-1)
        return self.squares_of(subspaces @ flat.T)

    def squares_of(self, coordinates: torch.Tensor) -> torch.Tensor:
        """The same from coordinates (m, k, points), by way of their Gram matrices."""
        gram = coordinates.mT @ coordinates
        norms = gram.diagonal(dim1=-2, dim2=-1)
        return (norms[:, self.first] + norms[:, self.second] - 2 * gram[:, self.first, self.second]).clamp_min(0)

    def ratio(self, squares: torch.Tensor) -> torch.Tensor:
        """Mean distance of a problem's versions over mean distance of different problems. (..., pairs) -> (...)"""
        distances = squares.sqrt()
        return distances[..., : self.same_problem].mean(-1) / distances[..., self.same_problem :].mean(-1).clamp_min(
            1e-300
        )

    def contrast(self, inside: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """ratio_Z / ratio_Z⊥: below 1 the subspace keeps the problem and drops the language. (..., pairs) -> (...)"""
        return self.ratio(inside) / self.ratio((total - inside).clamp_min(0)).clamp_min(1e-300)

    def energy_fraction(self, inside: torch.Tensor, total: torch.Tensor) -> tuple[float, float]:
        """Share of squared distance inside the subspace: between versions of a problem, between problems."""
        cut = self.same_problem
        parts = (slice(None, cut), slice(cut, None))
        return tuple((inside[part].sum() / total[part].sum().clamp_min(1e-300)).item() for part in parts)


def all_pairs(languages: int, problems: int, folds: torch.Tensor | None = None) -> Pairs:
    """Every pair; with folds only those different problems that were held out together."""
    index = torch.arange(languages * problems).view(languages, problems)
    cross = [(index[a], index[b]) for a, b in combinations(range(languages), 2)]
    i, j = torch.triu_indices(problems, problems, 1)
    if folds is not None:
        together = folds[i] == folds[j]
        i, j = i[together], j[together]
    same = [(index[language, i], index[language, j]) for language in range(languages)]
    first, second = (torch.cat([pair[side] for pair in cross + same]) for side in (0, 1))
    return Pairs(first, second, len(cross) * problems)


def null_contrasts(
    points: torch.Tensor, pairs: Pairs, cloud: torch.Tensor | None, ks: list[int], seed: int
) -> dict[int, torch.Tensor]:
    """Contrasts of DRAWS random subspaces of each size, nested: Haar, or covariance-matched where a token cloud is given.

    Matched draws are orthonormalised draws from N(0, Σ) with Σ the covariance of the cloud's tokens. Both kinds are drawn
    exactly, but only through what they do to the points: see `haar_rows` and `matched_rows`.
    """
    kind = "Haar" if cloud is None else "matched"
    draw, most, flat = statistics.seeded(seed, f"phase2: {kind} subspaces"), max(ks), points.flatten(0, 1)
    total, contrasts = pairs.squares(points), {k: [] for k in ks}  # one list per size, however often asked
    rows = (
        haar_rows(flat, most, draw)
        if cloud is None
        else matched_rows(flat, cloud.reshape(-1, flat.shape[1]), most, draw)
    )
    for _ in range(DRAWS // CHUNK):
        images, grams = next(rows)
        ridge = 1e-12 * grams.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] * torch.eye(most, dtype=grams.dtype)
        coordinates = torch.linalg.solve_triangular(torch.linalg.cholesky(grams + ridge), images, upper=False)
        for k in contrasts:  # the first k orthonormalised rows span the first k draws
            contrasts[k].append(pairs.contrast(pairs.squares_of(coordinates[:, :k]), total))
    return {k: torch.cat(parts) for k, parts in contrasts.items()}


def haar_rows(flat: torch.Tensor, k: int, draw: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(images of the points, Gram matrix) of k Gaussian rows in R^d: (CHUNK, k, points), (CHUNK, k, k).

    The rows' part outside the r-dimensional span of the points enters their Gram matrix alone, as a Wishart matrix of
    d - r degrees of freedom, and is drawn as such (Bartlett): k(r + k) random numbers instead of kd.
    """
    width = flat.shape[1]
    left, values, _ = torch.linalg.svd(flat, full_matrices=False)
    rank = int((values > values[0] * 1e-12).sum())
    reduced, rest = left[:, :rank] * values[:rank], width - rank
    if rest < k:
        reduced, rank, rest = flat, width, 0
    numbers = np.random.default_rng(int(torch.randint(2**62, (1,), generator=draw)))
    while True:
        gaussian = torch.randn(CHUNK, k, rank, generator=draw, dtype=torch.float64)
        grams = gaussian @ gaussian.mT
        if rest:
            factor = torch.randn(CHUNK, k, k, generator=draw, dtype=torch.float64).tril(-1)
            chi_squares = torch.from_numpy(numbers.chisquare(rest - np.arange(k), (CHUNK, k)))
            factor = factor + torch.diag_embed(chi_squares.sqrt())
            grams = grams + factor @ factor.mT
        yield gaussian @ reduced.T, grams


def matched_rows(flat: torch.Tensor, tokens: torch.Tensor, k: int, draw: torch.Generator) -> Iterator[tuple]:
    """The same for k draws from N(0, Σ), Σ the covariance of the tokens (t, d): Gaussian in Σ's eigenbasis."""
    tokens = tokens.double() - tokens.double().mean(0)
    _, values, right = torch.linalg.svd(tokens, full_matrices=False)
    images = (right @ flat.T) * values[:, None]
    while True:
        gaussian = torch.randn(CHUNK, k, len(values), generator=draw, dtype=torch.float64)
        yield gaussian @ images, (gaussian * values.square()) @ gaussian.mT


def cross_distances(points: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Distance inside the subspace from problem i in one language to problem j in another, (n, n)."""
    coordinates = points @ basis.T
    return torch.stack(
        [torch.cdist(coordinates[a], coordinates[b]) for a, b in combinations(range(len(points)), 2)]
    ).mean(0)


def shuffles(problems: int, seed: int, folds: torch.Tensor | None, draws: int) -> torch.Tensor:
    """Random permutations of the problems, (draws, n); with folds, within each fold only."""
    folds = torch.zeros(problems, dtype=torch.long) if folds is None else folds
    draw = statistics.seeded(seed, "phase2: shuffled pairing")
    shuffled = (folds + torch.rand(draws, problems, generator=draw, dtype=torch.float64)).argsort(1)
    order = torch.empty_like(shuffled)
    order[:, folds.argsort(stable=True)] = shuffled
    return order


def pairing_p(cross: torch.Tensor, seed: int, folds: torch.Tensor | None = None) -> float:
    """P that the versions of a problem are as close when the second language's problems are shuffled. (n, n)

    With folds only problems that were held out together are exchanged: a subspace fitted on a problem spreads it out, so
    distances to fitted problems are no null for held-out ones.
    """
    order = shuffles(len(cross), seed, folds, DRAWS)
    shuffled = cross[torch.arange(len(cross)), order].mean(1)
    return statistics.permutation_p(int((shuffled <= cross.diagonal().mean() * (1 + 1e-12)).sum()), DRAWS)


def shuffled_retrieval(points: torch.Tensor, seed: int, remove_means: bool = True) -> float:
    """Mean of `retrieved` when the other languages' problems are shuffled: its chance level, which is not 1/n once
    leave-one-out means push the true match away. (l, n, d)"""
    orders = shuffles(points.shape[1], seed, None, RETRIEVAL_SHUFFLES)
    first = points[None, :1].expand(len(orders), -1, -1, -1)
    return retrieved(torch.cat([first, points[1:, orders].transpose(0, 1)], 1), remove_means).mean().item()


def retrieved(points: torch.Tensor, remove_means: bool = True) -> torch.Tensor:
    """Whether a problem's nearest neighbour in another language is itself, mean over language pairs. (.., l, n, d) -> (.., n)

    With `remove_means` each language's mean, taken without the problem at hand, is subtracted first.
    """
    languages, problems = points.shape[-3:-1]
    if remove_means:
        points = points - points.mean(-2, keepdim=True)
    hits = []
    for a in range(languages):
        for b in range(languages):
            if a == b:
                continue
            query = points[..., a, :, :]
            if remove_means:  # x_i - mean without i, and the candidates' mean without i brought to this side
                query = query + (query - points[..., b, :, :]) / (problems - 1)
            nearest = torch.cdist(query, points[..., b, :, :]).argmin(-1)
            hits.append((nearest == torch.arange(problems)).double())
    return torch.stack(hits).mean(0)


def language_decoded(points: torch.Tensor) -> torch.Tensor:
    """Whether a point is nearest to its own language's centroid, taken without its problem. (.., l, n, d) -> (.., n)"""
    languages, problems = points.shape[-3:-1]
    means = points.mean(-2, keepdim=True)
    centred = points - means
    right = []
    for own in range(languages):
        distances = []
        for other in range(languages):
            centroid = means[..., other, :, :] - centred[..., other, :, :] / (problems - 1)
            distances.append((points[..., own, :, :] - centroid).norm(dim=-1))
        right.append((torch.stack(distances).argmin(0) == own).double())
    return torch.stack(right).mean(0)


# ---- measuring ------------------------------------------------------------------------------------------------------


def measure_grid(study: Study) -> list[dict]:
    """Every (mask layer, site) x mask x pooling x k: ratios, energy fractions and p against three nulls, Holm over all."""
    languages, problems = study.activations.shape[:2]
    pairs, ks, rows, nulls = all_pairs(languages, problems), study.weights["k"], [], {}
    for place, (mask_layer, site) in study.places().items():
        for pooling in POOLINGS:
            points = study.points(site, pooling)
            if (pairs.squares(points)[pairs.same_problem :] <= 1e-20 * points.square().max()).all():
                continue  # the same point for every problem (last token of a template at site 0): no ratio is defined
            if pooling != "mean" and torch.equal(points, study.points(site, "mean")):
                continue  # no sinks here: the same points once more
            if (site, pooling) not in nulls:
                nulls[site, pooling] = [
                    null_contrasts(points, pairs, cloud, ks, study.seed) for cloud in (None, study.clouds[site])
                ]
            for mask in MASKS:
                for share, k in zip(K_SHARES, ks):
                    heads = study.weights["heads"][mask_layer]
                    basis = utils.multi_head_subspace(heads[:, :k], k) if mask == "multi" else heads[0, :k]
                    row = {"place": place, "mask": mask, "pooling": pooling, "share": share, "k": k}
                    rows.append(
                        row | score_basis(points, pairs, basis, [null[k] for null in nulls[site, pooling]], study.seed)
                    )
    for row, adjusted in zip(rows, statistics.holm([row["p"] for row in rows])):
        row["p_holm"] = adjusted
    return rows


def score(pairs: Pairs, inside, total, cross, nulls: list, seed: int, folds=None) -> dict:
    """Ratios and energy fractions of one subspace, and p against Haar, matched and shuffled nulls; `p` is the largest."""
    contrast = pairs.contrast(inside, total).item()
    haar, matched = (statistics.permutation_p(int((null <= contrast).sum()), len(null)) for null in nulls)
    pairing = pairing_p(cross, seed, folds)
    between_versions, between_problems = pairs.energy_fraction(inside, total)
    return {
        "ratio_z": pairs.ratio(inside).item(),
        "ratio_z_perp": pairs.ratio((total - inside).clamp_min(0)).item(),
        "contrast": contrast,
        "energy_cross_language": between_versions,
        "energy_same_language": between_problems,
        "p_haar": haar,
        "p_matched": matched,
        "p_pairing": pairing,
        "p": max(haar, matched, pairing),
        "haar_below_one": (nulls[0] < 1).double().mean().item(),
        "null_haar": nulls[0].quantile(torch.tensor([0.05, 0.5], dtype=torch.float64)).tolist(),
        "null_matched": nulls[1].quantile(torch.tensor([0.05, 0.5], dtype=torch.float64)).tolist(),
    }


def score_basis(points: torch.Tensor, pairs: Pairs, basis: torch.Tensor, nulls: list, seed: int) -> dict:
    """`score` of one fixed subspace."""
    inside = pairs.squares(points, basis[None])[0]
    return score(pairs, inside, pairs.squares(points), cross_distances(points, basis), nulls, seed)


def is_primary(row: dict) -> bool:
    return all(row[key] == value for key, value in PRIMARY.items())


def content(study: Study, basis: torch.Tensor) -> dict:
    """What can be read inside Z, inside Z⊥, in the whole stream, and inside Haar subspaces of Z's size."""
    points = study.points(study.layer + 1, PRIMARY["pooling"])
    draw = statistics.seeded(study.seed, "phase2: Haar content")
    haar = utils.random_subspaces(draw, CHUNK, len(basis), points.shape[-1])
    inside = points @ basis.T
    spaces = {"z": inside, "z_perp": points - inside @ basis, "all": points}
    spaces["haar"] = torch.einsum("lnd,mkd->mlnk", points, haar)
    measures = {
        "language": language_decoded,
        "problem": retrieved,
        "problem_raw": lambda space: retrieved(space, remove_means=False),
    }
    pairs = all_pairs(*points.shape[:2])
    total = pairs.squares(points)
    cut = pairs.same_problem
    fractions = pairs.squares(points, haar)
    results = {
        name: {key: measure(space).mean().item() for key, measure in measures.items()} for name, space in spaces.items()
    }
    for space in ("z", "z_perp", "all", "haar"):
        shown = spaces[space] if space != "haar" else spaces["haar"][0]
        results[space] |= {
            "problem_shuffled": shuffled_retrieval(shown, study.seed),
            "problem_raw_shuffled": shuffled_retrieval(shown, study.seed, remove_means=False),
        }
    results["haar_interval"] = {
        key: measure(spaces["haar"]).mean(-1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        for key, measure in measures.items()
    }
    results["energy"] = {
        "haar_cross_language": (fractions[:, :cut].sum(1) / total[:cut].sum()).tolist(),
        "haar_same_language": (fractions[:, cut:].sum(1) / total[cut:].sum()).tolist(),
    }
    low, high = (sorted(values) for values in results["energy"].values())
    observed = pairs.energy_fraction(pairs.squares(points, basis[None])[0], total)
    results["energy"] = {
        "cross_language": observed[0],
        "same_language": observed[1],
        "p_cross_below": statistics.permutation_p(sum(value <= observed[0] for value in low), CHUNK),
        "p_same_above": statistics.permutation_p(sum(value >= observed[1] for value in high), CHUNK),
        "haar_cross_language": [low[int(0.025 * CHUNK)], low[int(0.975 * CHUNK)]],
        "haar_same_language": [high[int(0.025 * CHUNK)], high[int(0.975 * CHUNK)]],
    }
    return results


def language_offset(study: Study, basis: torch.Tensor) -> dict:
    """How much of the distance between versions is one constant offset, and the contrast once it is taken out."""
    points = study.points(study.layer + 1, PRIMARY["pooling"])
    pairs = all_pairs(*points.shape[:2])
    centred = points - points.mean(1, keepdim=True)
    cut = pairs.same_problem
    kept = pairs.squares(centred)[:cut].sum() / pairs.squares(points)[:cut].sum()
    k = len(basis)
    nulls = [
        null_contrasts(centred, pairs, cloud, [k], study.seed)[k] for cloud in (None, study.clouds[study.layer + 1])
    ]
    return {"share": 1 - kept.item(), **score_basis(centred, pairs, basis, nulls, study.seed)}


def score_given(study: Study, z: dict, basis: torch.Tensor) -> dict:
    """A Z of another run on the problems that it was not fitted on, with and without the constant language offset."""
    kept = [index for index in range(study.problems) if index not in z["fitted_index"]]
    if len(kept) < MINIMUM_PROBLEMS:
        raise runs.UserError(f"--z-from: that Z was fitted on all but {len(kept)} of these problems; give others")
    points = study.points(z["site"], PRIMARY["pooling"])[:, kept]
    points, pairs, k = points - points.mean((0, 1)), all_pairs(len(points), len(kept)), len(basis)
    cloud = study.clouds[z["site"]]
    result = {"problems": len(kept)}
    for name, placed in (("", points), ("centred_", points - points.mean(1, keepdim=True))):
        nulls = [null_contrasts(placed, pairs, tokens, [k], study.seed)[k] for tokens in (None, cloud)]
        row = score_basis(placed, pairs, basis, nulls, study.seed)
        result |= {f"{name}{key}": row[key] for key in ("ratio_z", "ratio_z_perp", "contrast", "p")}
    return result | {"holds": result["contrast"] < 1 and result["p"] < LEVEL}


def information_plane(study: Study, basis: torch.Tensor) -> dict:
    """Per site what can be read in the stream and inside Z; per layer the size of its update inside Z over outside."""
    plane = {key: [] for key in ("language", "problem", "language_in_z", "problem_in_z", "problem_shuffled", "update")}
    sites = study.activations.shape[2]
    for site in range(sites):
        points = study.points(site, PRIMARY["pooling"])
        for suffix, space in (("", points), ("_in_z", points @ basis.T)):
            plane["language" + suffix].append(language_decoded(space).mean().item())
            plane["problem" + suffix].append(retrieved(space).mean().item())
        plane["problem_shuffled"].append(shuffled_retrieval(points, study.seed))
    pooled = torch.from_numpy(study.activations[:, :, :, POOLINGS.index(PRIMARY["pooling"])]).double()
    for layer in range(sites - 1):
        change = pooled[:, :, layer + 1] - pooled[:, :, layer]
        inside = change @ basis.T
        outside = change - inside @ basis
        plane["update"].append((inside.norm(dim=-1) / outside.norm(dim=-1).clamp_min(1e-300)).mean().item())
    k, width = basis.shape
    return plane | {"update_chance": (k / (width - k)) ** 0.5}


# ---- rivals and contingencies ---------------------------------------------------------------------------------------


def language_space(points: torch.Tensor) -> torch.Tensor:
    """M_s of arXiv 2505.15257: right singular vectors of the centred language means, (languages - 1, d)."""
    means = points.mean(1)
    return torch.linalg.svd(means - means.mean(0), full_matrices=False)[2][: len(means) - 1]


def centroid_subspace(points: torch.Tensor, k: int) -> torch.Tensor:
    """Principal directions of the problems after removing the language space: what the versions of a problem share."""
    language = language_space(points)
    shared = (points - points.mean(1, keepdim=True)).mean(0)
    shared = shared - shared @ language.T @ language
    return torch.linalg.svd(shared, full_matrices=False)[2][:k]


def principal_subspace(points: torch.Tensor, k: int) -> torch.Tensor:
    """Top principal directions of all pooled residuals, languages and problems alike."""
    flat = points.flatten(0, 1)
    return torch.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:k]


def common_k(study: Study) -> int:
    """The largest k, up to the primary one, that problems of the smallest training part can determine."""
    largest_fold = int(study.folds().bincount().max())
    return max(1, min(study.weights["k"][-1], study.problems - largest_fold - 1))


def held_out_null(study: Study) -> tuple[Pairs, list[torch.Tensor]]:
    """The pairs that rivals are scored on, and the contrasts of Haar and matched subspaces of the common size there."""
    points = study.points(study.layer + 1, PRIMARY["pooling"])
    pairs, k = all_pairs(*points.shape[:2], study.folds()), common_k(study)
    clouds = (None, study.clouds[study.layer + 1])
    return pairs, [null_contrasts(points, pairs, cloud, [k], study.seed)[k] for cloud in clouds]


def held_out(study: Study, pairs: Pairs, nulls: list[torch.Tensor], fit) -> dict:
    """Score subspaces that `fit(points, training mask)` made without the problems they are scored on."""
    points, folds = study.points(study.layer + 1, PRIMARY["pooling"]), study.folds()
    inside = torch.zeros(len(pairs.first), dtype=torch.float64)
    cross = torch.zeros(study.problems, study.problems, dtype=torch.float64)
    read = {"language": 0.0, "problem": 0.0, "problem_shuffled": 0.0}
    for fold in folds.unique():
        held = folds == fold
        basis = fit(points[:, ~held], ~held)
        chosen = held[pairs.first % study.problems]
        inside[chosen] = pairs.squares(points, basis[None])[0][chosen]
        cross[held] = cross_distances(points, basis)[held]
        coordinates, share = (points @ basis.T)[:, held], held.double().mean().item()  # against held-out problems alone
        read["language"] += share * language_decoded(coordinates).mean().item()
        read["problem"] += share * retrieved(coordinates).mean().item()
        read["problem_shuffled"] += share * shuffled_retrieval(coordinates, study.seed)
    scored = score(pairs, inside, pairs.squares(points), cross, nulls, study.seed, folds)
    return scored | {"k": common_k(study)} | read


def rivals(study: Study, with_ard: bool) -> dict:
    """Weight-based, centroid, PCA, random (and ARD-MMD) subspaces of one size, scored on problems they were not fitted on."""
    k, (pairs, nulls) = common_k(study), held_out_null(study)
    weight = utils.multi_head_subspace(study.weights["heads"][study.layer][:, :k], k)
    (haar,) = utils.random_subspaces(
        statistics.seeded(study.seed, "phase2: one Haar rival"), 1, k, study.activations.shape[-1]
    )
    cloud = study.clouds[study.layer + 1]
    fits = {
        "weight": lambda points, train: weight,
        "centroid": lambda points, train: centroid_subspace(points, k),
        "ard_mmd": lambda points, train: axis_subspace(fit_relevance(study, cloud[:, train[: cloud.shape[1]]]), k),
        "pca": lambda points, train: principal_subspace(points, k),
        "random": lambda points, train: haar,
    }
    return {name: held_out(study, pairs, nulls, fit) for name, fit in fits.items() if with_ard or name != "ard_mmd"}


def contingencies(study: Study, rival: dict, grid: list[dict]) -> dict:
    """The recipe's three ways out: centroids, other layers, ARD-MMD.

    Centroid, ARD-MMD and every layer that the grid has not tested form one Holm family. The layer before the bottleneck
    was tested in the grid, and keeps its p from there: no second chance at a lighter correction.
    """
    relevance = {layer: fit_relevance(study, study.clouds[layer + 1]) for layer in ard_layers(study.layer)}
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
        if (
            row["place"] == "b-1 at b-1.out"
            and row["share"] == 1
            and all(row[key] == PRIMARY[key] for key in ("mask", "pooling"))
        ):
            candidates["previous_layer"] = {"layer": study.layer - 1, **row}
    for candidate in candidates.values():
        candidate["holds"] = bool(candidate["contrast"] < 1 and candidate["p_holm"] < LEVEL)
    return {"candidates": candidates, "sweep": sweep, "ard": ard_summary(relevance, study.weights["primary"])}


def layer_sweep(study: Study) -> list[dict]:
    """The weight-based multi-head Z of every layer at its own output, primary k and pooling."""
    rows, k = [], study.weights["k"][-1]
    for layer, basis in enumerate(study.weights["every_layer"]):
        points = study.points(layer + 1, PRIMARY["pooling"])
        pairs = all_pairs(*points.shape[:2])
        nulls = [null_contrasts(points, pairs, cloud, [k], study.seed)[k] for cloud in (None, study.clouds[layer + 1])]
        rows.append({"k": k, **score_basis(points, pairs, basis, nulls, study.seed)})
    return rows


def ard_layers(bottleneck: int) -> list[int]:
    """About ten layers spread from the first to the bottleneck."""
    return sorted({round(layer) for layer in np.linspace(0, bottleneck, ARD_LAYERS)})


def squared_mmd(weights: torch.Tensor, clouds: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Squared MMD of pairs of token clouds under exp(−Σ w_d (x_d − y_d)²). (d,), (clouds, m, d), (p,), (p,) -> (p,)

    The V-statistic: the exact squared distance of the two empirical distributions, never negative. The unbiased estimate
    supposes independent tokens; those of a prompt are not (template tokens recur in every prompt, and once in each), and it
    comes out negative for different problems, where its logarithm has no gradient.
    """
    scaled = clouds * weights.sqrt()
    norms = scaled.square().sum(-1)

    def kernel(a, b):
        distances = norms[a][..., :, None] + norms[b][..., None, :] - 2 * scaled[a] @ scaled[b].mT
        return torch.exp(-distances.clamp_min(0)).mean((-2, -1))

    everyone = torch.arange(len(clouds))
    within = kernel(everyone, everyone)
    return (within[first] + within[second] - 2 * kernel(first, second)).clamp_min(0)


def ard_pairs(languages: int, problems: int, seed: int) -> tuple[tuple, tuple]:
    """Cloud indices of (same problem, two languages) and of as many (different problems, one language) per language."""
    index = torch.arange(languages * problems).view(languages, problems)
    same = [(index[a], index[b]) for a, b in combinations(range(languages), 2)]
    shift = 1 + torch.randint(problems - 1, (problems,), generator=statistics.seeded(seed, "phase2: ARD pairs"))
    other = (torch.arange(problems) + shift) % problems
    different = [(index[language], index[language, other]) for language in range(languages)]
    return tuple(tuple(torch.cat([pair[side] for pair in group]) for side in (0, 1)) for group in (same, different))


def fit_relevance(study: Study, clouds: torch.Tensor) -> torch.Tensor:
    """Relevances w = 1/ℓ² ≥ 0 with Σw = d that tell problems apart and not languages. (l, n, m, d) -> (d,)

    Maximises log MMD²(different problems) − log MMD²(same problem, two languages) − ARD_SPARSITY × entropy of w. Minimising
    MMD(zh, en) with a penalty on 1/ℓ instead is solved by w → 0; here Σw is fixed, so that it cannot collapse. Starts from
    the weight-based Z's energy per dimension.
    """
    languages, problems, _, width = clouds.shape
    flat = clouds.flatten(0, 1).float()
    flat = flat - flat.mean((0, 1))
    scale = torch.pdist(flat[:, -1]).square().median().clamp_min(1e-30)
    flat = flat / scale.sqrt()  # a typical squared distance is 1 where all relevances are 1
    same, different = ard_pairs(languages, problems, study.seed)
    start = study.weights["primary"].square().sum(0).float()
    logits = (start + start.mean()).log().requires_grad_()
    optimizer = torch.optim.Adam([logits], ARD_RATE)
    for _ in range(ARD_STEPS):
        share = logits.softmax(0)
        told_apart, across = (
            squared_mmd(width * share, flat, *pair).mean().clamp_min(1e-4) for pair in (different, same)
        )
        loss = across.log() - told_apart.log() + ARD_SPARSITY * torch.special.entr(share).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (width * logits.softmax(0)).detach().double()


def axis_subspace(relevance: torch.Tensor, k: int) -> torch.Tensor:
    """The k most relevant coordinates as unit rows, (k, d)."""
    top = relevance.argsort(descending=True, stable=True)[:k]
    return torch.eye(len(relevance), dtype=torch.float64)[top]


def relevant_dimensions(relevance: torch.Tensor) -> int:
    """|Z|: the fewest dimensions that hold RELEVANT_SHARE of the relevance."""
    reached = relevance.sort(descending=True).values.cumsum(0) / relevance.sum()
    return int((reached < RELEVANT_SHARE).sum()) + 1


def ard_summary(relevance: dict[int, torch.Tensor], basis: torch.Tensor) -> dict:
    """Per fitted layer: |Z|, the spectrum of the relevances, and how much of the weight-based Z its top k coordinates hold."""
    layers = []
    for layer, values in relevance.items():
        size = relevant_dimensions(values)
        overlap = utils.grassmann_similarity(basis, axis_subspace(values, len(basis))).item()
        spectrum = values.sort(descending=True).values
        picks = torch.linspace(0, len(spectrum) - 1, min(len(spectrum), 64)).round().long()
        layers.append(
            {
                "layer": layer,
                "size": size,
                "overlap": overlap,
                "chance": len(basis) / len(values),
                "spectrum": spectrum[picks],
            }
        )
    return {"layers": layers}


# ---- deciding -------------------------------------------------------------------------------------------------------


def decide(grid: list[dict]) -> str:
    """clear: the primary mask, site and pooling at every k has contrast < 1 with p < .05; partial: some row has, after Holm.

    `p` is the largest of the three nulls': a subspace must beat Haar, covariance-matched and shuffled-problem nulls.
    """
    if all(row["contrast"] < 1 and row["p"] < LEVEL for row in grid if is_primary(row)):
        return "clear"
    return "partial" if any(row["contrast"] < 1 and row["p_holm"] < LEVEL for row in grid) else "none"


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
    return z | {"holds": results["verdict"] == "clear"}, study.weights["primary"]


def choose_by_rule(study: Study, results: dict) -> tuple[dict, torch.Tensor]:
    """The Z that the verdict implies."""
    if results["verdict"] == "clear" or (results["verdict"] == "none" and "contingencies" not in results):
        return choose_named(study, results, "weight")
    if results["verdict"] == "partial":
        held = [row for row in results["grid"] if row["contrast"] < 1 and row["p_holm"] < LEVEL]
        row, holds = min(held, key=lambda row: (row["p_holm"], row["contrast"])), True
    else:
        candidates = results["contingencies"]["candidates"]
        best = min(candidates, key=lambda name: (not candidates[name]["holds"], candidates[name]["contrast"]))
        return fit_contingency(study, candidates, best)
    layer, site = study.places()[row["place"]]
    heads, k = study.weights["heads"][layer], row["k"]
    basis = utils.multi_head_subspace(heads[:, :k], k) if row["mask"] == "multi" else heads[0, :k]
    method = {"multi": "weight", "head0": "weight_head0"}[row["mask"]]
    return {"method": method, "layer": layer, "site": site, "k": k, "holds": holds}, basis


def fit_contingency(study: Study, candidates: dict, name: str) -> tuple[dict, torch.Tensor]:
    """A contingency's subspace, fitted anew on the problems that it may be fitted on."""
    chosen = candidates[name]
    layer, fitting = chosen["layer"], study.fitting()
    k = min(chosen["k"], len(fitting) - 1)
    if name == "centroid":
        points = study.points(layer + 1, PRIMARY["pooling"])[:, fitting]
        basis = centroid_subspace(points - points.mean((0, 1)), k)
    elif name == "ard_mmd":
        cloud = study.clouds[layer + 1]
        basis = axis_subspace(fit_relevance(study, cloud[:, [index for index in fitting if index < cloud.shape[1]]]), k)
    else:
        basis = study.weights["every_layer"][layer]
    return {"method": name, "layer": layer, "site": layer + 1, "k": len(basis), "holds": chosen["holds"]}, basis


def claims(results: dict) -> list[dict]:
    """The recipe's four points and its contingency text, as rows."""
    show, grid, primary = page.show, results["grid"], results["primary"]
    energy, width = results["content"]["energy"], results["width"]
    below = [row for row in grid if row["contrast"] < 1]
    beating = [row for row in below if row["p_holm"] < LEVEL]
    by_k = [row for row in grid if is_primary(row)]
    best = min(by_k, key=lambda row: row["contrast"])
    pairs = mask_pairs(grid)
    wins = sum(multi["contrast"] <= head["contrast"] for multi, head in pairs)
    own_multi, own_head = next(pair for pair in pairs if is_primary(pair[0]) and pair[0]["share"] == 1)
    chance = primary["k"] / width
    contrasts = ", ".join(f"k = {row['k']}: {show(row['contrast'], 3)}" for row in by_k)
    rows = [
        (
            "ratio",
            "ratio_Z < ratio_Z⊥ in most configurations",
            "most",
            f"{len(below)} of {len(grid)}; {len(beating)} of them beat all three nulls after Holm",
            f"Haar subspaces are below 1 in {show(float(np.mean([row['haar_below_one'] for row in grid])), 2)} of draws",
            len(beating) > len(grid) / 2,
        ),
        (
            "primary",
            "ratio_Z < ratio_Z⊥ in the primary configuration",
            "ratio_Z ≪ ratio_Z⊥",
            f"{show(primary['ratio_z'], 3)} against {show(primary['ratio_z_perp'], 3)} at k = {primary['k']}",
            f"p {show(primary['p_haar'], 2)} Haar, {show(primary['p_matched'], 2)} matched, {show(primary['p_pairing'], 2)} shuffled",
            bool(primary["contrast"] < 1 and primary["p"] < LEVEL),
        ),
        (
            "centred",
            "the separation is more than missing the language offset: it survives removal of language means",
            "not considered",
            f"contrast {show(results['offset']['contrast'], 3)}; {results['offset']['share']:.0%} of the distance is the offset",
            f"p {show(results['offset']['p_haar'], 2)} Haar, {show(results['offset']['p_matched'], 2)} matched, "
            f"{show(results['offset']['p_pairing'], 2)} shuffled",
            bool(results["offset"]["contrast"] < 1 and results["offset"]["p"] < LEVEL),
        ),
        (
            "energy_cross",
            "the energy fraction in Z of differences between languages is below k/d",
            "< k/d",
            show(energy["cross_language"], 3),
            f"k/d {show(chance, 3)}; Haar 95 % {interval(energy['haar_cross_language'])}, p {show(energy['p_cross_below'], 2)}",
            bool(energy["cross_language"] < chance and energy["p_cross_below"] < LEVEL),
        ),
        (
            "energy_same",
            "the energy fraction in Z of differences between problems is above k/d",
            "> k/d",
            show(energy["same_language"], 3),
            f"k/d {show(chance, 3)}; Haar 95 % {interval(energy['haar_same_language'])}, p {show(energy['p_same_above'], 2)}",
            bool(energy["same_language"] > chance and energy["p_same_above"] < LEVEL),
        ),
        (
            "multi",
            "the multi-head mask is at least as good as head 0",
            "≥",
            f"contrast {show(own_multi['contrast'], 3)} against {show(own_head['contrast'], 3)} in the primary configuration; "
            f"better or equal in {wins} of {len(pairs)}",
            f"half of {len(pairs)} by chance; configurations are not independent",
            bool(own_multi["contrast"] <= own_head["contrast"] and wins > len(pairs) / 2),
        ),
        (
            "best_k",
            "k at the effective rank is the strongest",
            "k ≈ 78 strongest",
            f"contrast {contrasts}",
            f"medians of Haar draws: {', '.join(show(row['null_haar'][1], 3) for row in by_k)}",
            bool(best["share"] == 1),
        ),
    ]
    return [page.claim(*row) for row in rows]


def mask_pairs(grid: list[dict]) -> list[tuple[dict, dict]]:
    """(multi-head, head 0) rows of the same place, pooling and k."""
    key = ("place", "pooling", "share")
    heads = {tuple(row[name] for name in key): row for row in grid if row["mask"] == "head0"}
    return [(row, heads[tuple(row[name] for name in key)]) for row in grid if row["mask"] == "multi"]


# ---- reporting ------------------------------------------------------------------------------------------------------

NAMES = {
    "weight": "weight-based, multi-head",
    "weight_head0": "weight-based, head 0",
    "centroid": "centroid (arXiv 2505.15257)",
    "ard_mmd": "ARD-MMD",
    "pca": "PCA",
    "random": "random",
    "sweep": "weight-based, best layer of the sweep",
    "previous_layer": "weight-based, previous layer",
}


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figures from results alone (the arrays are for later phases)."""
    primary, show, z = results["primary"], page.show, results["z"]
    what = {
        "clear": "The bottleneck's weight-based Z separates language from problem",
        "partial": "The weight-based Z separates language from problem in some configurations only",
        "none": "The weight-based Z does not separate language from problem beyond chance",
    }[results["verdict"]]
    held = "holds" if z["holds"] else "**does not hold** either"
    survives = next(row["holds"] for row in results["claims"] if row["id"] == "centred")
    centred = "still separates" if survives else "does not separate"
    sentence = (
        f"{what} (`{results['verdict']}`): in the primary configuration ratio_Z is {show(primary['ratio_z'], 3)} and ratio_Z⊥ "
        f"{show(primary['ratio_z_perp'], 3)}, with p = {show(primary['p_haar'], 2)} against Haar-random, "
        f"{show(primary['p_matched'], 2)} against covariance-matched subspaces and {show(primary['p_pairing'], 2)} against "
        f"shuffled problems; once the constant offset between the languages is removed it {centred}. Handed on to phase 3: "
        f"{NAMES[z['method']]}, layer {z['layer']}, site {z['site']}, k = {z['k']}"
    )
    if z["fitted_on"] and "given" not in results:
        sentence += f", fitted on {len(z['fitted_on'])} of the {results['problems']} problems, which phase 3 leaves out"
    if "given" in results:
        row = results["given"]
        sentence += (
            f", taken from an earlier run and fitted on nothing here; on these problems its contrast is {show(row['contrast'], 3)} (p "
            f"{show(row['p'], 2)}), without the offset between the languages {show(row['centred_contrast'], 3)} (p "
            f"{show(row['centred_p'], 2)})"
        )
    elif results["verdict"] == "none":
        sentence += (
            f" (by the rule for contingencies it {held})" if "contingencies" in results else " (it does not hold)"
        )
    title = f"Phase 2: Z extraction from {results['model']['name']}"
    text = page.report(title, sentence + ".", results["claims"], sections(results), limitations(results))
    files = {
        "phase2_contrast.png": page.png(figure_contrast(results)),
        "phase2_plane.png": page.png(figure_plane(results["plane"], results["chance"], results["settings"]["layer"])),
        "phase2_updates.png": page.png(figure_updates(results["plane"], results["settings"]["layer"])),
    }
    if "contingencies" in results:
        files["phase2_ard.png"] = page.png(figure_ard(results["contingencies"]["ard"]["layers"]))
        files["phase2_sweep.png"] = page.png(
            figure_sweep(results["contingencies"]["sweep"], results["settings"]["layer"])
        )
    return files | {"phase2_output.md": text.encode()}


def interval(values: list[float]) -> str:
    return f"{page.show(values[0], 3)} to {page.show(values[1], 3)}"


def sections(results: dict) -> list[str]:
    show, sinks, layer = page.show, results["sinks"], results["settings"]["layer"]
    part = results["content"]
    content_rows = [
        [
            name,
            part[key]["language"],
            *(f"{show(part[key][m])} ({show(part[key][m + '_shuffled'], 2)})" for m in ("problem", "problem_raw")),
        ]
        for name, key in (("Z", "z"), ("Z⊥", "z_perp"), ("whole stream", "all"), ("Haar of Z's size, mean", "haar"))
    ]
    content_rows.append(
        ["Haar, 95 %", *(interval(part["haar_interval"][m]) for m in ("language", "problem", "problem_raw"))]
    )
    content_rows.append(["chance", results["chance"]["language"], "in brackets: shuffled problems", "in brackets"])
    files = ", ".join(f"`{name}`" for name, _ in results["settings"]["problems"])
    common = ", ".join(
        f"position {row['position']} {page.escape(repr(row['token']))} ({row['prompts']})" for row in sinks["commonest"]
    )
    by_k = [row for row in results["grid"] if is_primary(row)]
    return [
        "## 1 Activations and sinks",
        f"{results['problems']} problems from {files} in {' and '.join(results['settings']['languages'])}, residual stream at every "
        f"site, {results['settings']['dtype']}. A sink is a position whose norm exceeds {models.SINK_FACTOR} medians of its prompt: "
        + (
            f"at L{layer}.out {sinks['per_site'][layer + 1]} of {sinks['prompts']} prompts have one; commonest at any site: {common}."
            if any(sinks["per_site"])
            else "there is none at any site."
        ),
        "## 2 Primary configuration",
        "![Contrast against its nulls](phase2_contrast.png)",
        f"Named before looking: mask of layer {layer}, site L{layer}.out, multi-head, mean over tokens, k = effective rank. "
        "ratio_S is the mean distance between a problem's versions over the mean distance between different problems of one "
        "language, inside S; contrast is ratio_Z / ratio_Z⊥. `clear` needs contrast < 1 with p < .05 against every null at all "
        "three k; `partial` needs that in some configuration of the grid after Holm.",
        page.table(
            [
                "k",
                "ratio_Z",
                "ratio_Z⊥",
                "contrast",
                "Haar median",
                "matched median",
                "p Haar",
                "p matched",
                "p shuffled",
            ],
            [
                [
                    row["k"],
                    row["ratio_z"],
                    row["ratio_z_perp"],
                    row["contrast"],
                    row["null_haar"][1],
                    row["null_matched"][1],
                ]
                + [row["p_haar"], row["p_matched"], row["p_pairing"]]
                for row in by_k
            ],
        ),
        offset_text(results["offset"], len(results["settings"]["languages"])),
        "## 3 The grid",
        f"All {len(results['grid'])} configurations, exploratory; p is the largest of the three nulls', Holm over the grid. "
        "Where no position is a sink, the mean without sinks is the mean and is left out.",
        page.table(
            [
                "mask and site",
                "mask",
                "pooling",
                "k",
                "ratio_Z",
                "ratio_Z⊥",
                "energy across languages / (k/d)",
                "p",
                "Holm",
            ],
            [
                [
                    row["place"],
                    row["mask"],
                    row["pooling"].replace("_", " "),
                    row["k"],
                    row["ratio_z"],
                    row["ratio_z_perp"],
                ]
                + [row["energy_cross_language"] / (row["k"] / results["width"]), row["p"], row["p_holm"]]
                for row in results["grid"]
            ],
        ),
        "## 4 Language and problem inside and outside Z",
        "Leave-one-problem-out, primary configuration. *Language*: share of activations nearest to their own language's "
        "centroid. *Problem*: share whose nearest neighbour in the other language is the same problem, after removing "
        "language means (and without); in brackets the same with problems shuffled, its chance level.",
        page.table(["space", "language", "problem", "problem, means kept"], content_rows),
        "## 5 Rivals on held-out problems",
        f"Every subspace has k = {results['rivals']['weight']['k']} (what {results['problems']} problems in folds determine) and is "
        "scored only on problems that it was not fitted on; problems are looked up among those held out together (in brackets: "
        "shuffled).",
        rival_table(results["rivals"])
        + (
            "\n\nThe random subspace passes the shuffled null too: here that null alone says nothing about Z."
            if results["rivals"]["random"]["p_pairing"] < LEVEL
            else ""
        ),
        "## 6 Contingencies",
        *contingency_sections(results),
        "## 7 Information plane",
        "![Language and problem along depth](phase2_plane.png)",
        "Site 0 is the token embeddings: what can be read there is read from the tokens themselves (where numerals are "
        "written alike in both languages, from those), not from reasoning.",
        "## 8 Updates inside and outside Z",
        "![Updates inside and outside Z](phase2_updates.png)",
        "‖P_Z Δh‖ / ‖P_Z⊥ Δh‖ of each layer's update Δh (mean-pooled), beside √(k/(d−k)) = "
        f"{show(results['plane']['update_chance'], 3)} for an update in a random direction: at L{layer} it is "
        f"{show(results['plane']['update'][layer], 3)}, median over layers {show(float(np.median(results['plane']['update'])), 3)}.",
        "## 9 What the recipe asks",
        answers(results, by_k),
    ]


def offset_text(offset: dict, languages: int) -> str:
    show = page.show
    return (
        f"{offset['share']:.0%} of the squared distance between a problem's versions is a constant language offset (rank "
        f"{languages - 1}): a subspace that merely misses it scores well. With language means removed the contrast is "
        f"{show(offset['contrast'], 3)} (Haar median {show(offset['null_haar'][1], 3)}, p {show(offset['p_haar'], 2)}; matched "
        f"{show(offset['null_matched'][1], 3)}, p {show(offset['p_matched'], 2)}; shuffled p {show(offset['p_pairing'], 2)})."
    )


def rival_table(rivals: dict) -> str:
    show = page.show
    rows = [
        [NAMES[name], row["ratio_z"], row["ratio_z_perp"], row["contrast"], row["language"]]
        + [f"{show(row['problem'], 3)} ({show(row['problem_shuffled'], 2)})"]
        + [row["p_haar"], row["p_matched"], row["p_pairing"]]
        for name, row in (
            (name, rivals[name]) for name in ("weight", "centroid", "ard_mmd", "pca", "random") if name in rivals
        )
    ]
    headers = [
        "subspace",
        "ratio_Z",
        "ratio_Z⊥",
        "contrast",
        "language in Z",
        "problem in Z (shuffled)",
        "p Haar",
        "p matched",
        "p shuffled",
    ]
    return page.table(headers, rows)


def contingency_sections(results: dict) -> list[str]:
    if "contingencies" not in results:
        holds = {"clear": "the weight-based Z holds", "partial": "the weight-based Z holds in some configuration"}
        reason = holds.get(results["verdict"], "`--contingencies never` was given")
        reason = "Z was given by `--z-from`" if "given" in results else reason
        return [f"Not run: {reason}."]
    parts = results["contingencies"]
    rows = [
        [
            NAMES[name],
            f"L{row['layer']}",
            row["k"],
            row["contrast"],
            row["p"],
            row["p_holm"],
            "yes" if row["holds"] else "**no**",
        ]
        for name, row in parts["candidates"].items()  # in alphabetical order, as the JSON has them
    ]
    sizes = [
        [f"L{row['layer']}.out", row["size"], row["overlap"], row["chance"], f"{row['overlap'] / row['chance']:.2f}×"]
        for row in parts["ard"]["layers"]
    ]
    return [
        "Candidates, each scored on problems it was not fitted on; p is the largest of three nulls', Holm over centroid, ARD-MMD and "
        "all layers that the grid has not tested; the previous layer keeps its p from the grid.",
        page.table(["candidate", "layer", "k", "contrast", "p", "Holm", "holds"], rows),
        "![Layer sweep](phase2_sweep.png)",
        "![Relevances of ARD-MMD](phase2_ard.png)",
        f"ARD-MMD (contrastive; Σ1/ℓ² fixed, so that ℓ → ∞ is no solution): |Z| is the fewest coordinates with "
        f"{RELEVANT_SHARE:.0%} of the relevance; overlap is the similarity of the k most relevant coordinates to the weight-based "
        "Z of that size, k/d by chance.",
        page.table(["fitted at", "|Z|", "overlap with the weight-based Z", "chance", "ratio"], sizes),
    ]


def answers(results: dict, by_k: list[dict]) -> str:
    """The recipe's questions in words, each with its numbers."""
    show, holds = page.show, {row["id"]: row for row in results["claims"]}

    def answer(identifier: str, question: str) -> str:
        row = holds[identifier]
        return f"- {question} {'Yes' if row['holds'] else 'No'}: {row['measured']} ({row['null']})."

    first, last = by_k[0], by_k[-1]
    best = min(by_k, key=lambda row: row["contrast"])
    smaller = (
        f"k = {first['k']} separates more strongly than k = {last['k']} (contrast {show(first['contrast'], 3)} against "
        f"{show(last['contrast'], 3)})"
        if first["contrast"] < last["contrast"]
        else f"k = {first['k']} does not separate more strongly than k = {last['k']} (contrast {show(first['contrast'], 3)} against "
        f"{show(last['contrast'], 3)})"
    )
    significant = [str(row["k"]) for row in by_k if row["contrast"] < 1 and row["p"] < LEVEL]
    beats = (
        f"Taken alone, k = {', '.join(significant)} beats all three nulls at p < .05; section 3 has it after Holm."
        if significant
        else "No k beats all three nulls."
    )
    lines = [
        answer("ratio", "Is ratio_Z < ratio_Z⊥ across most configurations, beyond chance?"),
        answer("energy_cross", "Is less of the language difference inside Z than chance gives?"),
        answer("energy_same", "Is more of the variation between problems inside Z than chance gives?"),
        answer("multi", "Is the multi-head mask at least as good as head 0?"),
        f"- Which k is best? k = {best['k']} has the lowest contrast, {show(best['contrast'], 3)}. {smaller}. {beats}",
    ]
    return "\n".join(lines)


def limitations(results: dict) -> list[str]:
    lines = [
        "What the versions of a problem share on the page, such as numerals written alike, counts as the same problem too. The value "
        "at site 0 in the information plane is that part.",
        f"{results['problems']} problems; distances between them are not independent, so p comes from random subspaces and shuffled "
        "problems and not from a distribution over problems.",
        "Separation is correlational: whether the model uses Z is phase 3's question.",
        "Kernels are taken at relative position 0, without biases"
        + ("." if results["settings"]["fold_norm"] else ", and without RMSNorm gains (as in the recipe)."),
    ]
    if not results.get("given", results["z"])["holds"]:
        lines.insert(0, "The Z handed on did not pass its test; later phases show what it does all the same.")
    return lines


def figure_contrast(results: dict) -> Figure:
    by_k = [row for row in results["grid"] if is_primary(row)]
    figure = Figure(figsize=(9, 4))
    left, right = figure.subplots(1, 2)
    places = np.arange(len(by_k))
    for offset, key, label in ((-0.18, "null_haar", "Haar"), (0.18, "null_matched", "covariance-matched")):
        low, middle = (np.array([row[key][index] for row in by_k]) for index in (0, 1))
        left.errorbar(
            places + offset, middle, [middle - low, 0 * low], fmt="_", capsize=5, label=f"{label}: median and 5 %"
        )
    left.plot(places, [row["contrast"] for row in by_k], "o", color="tab:red", label="weight-based Z")
    left.axhline(1, color="black", linestyle=":", linewidth=1)
    left.set_xticks(places, [f"k = {row['k']}" for row in by_k])
    left.set(title="contrast ratio_Z / ratio_Z⊥ (lower separates)", ylabel="contrast")
    rivals = {
        name: results["rivals"][name]
        for name in ("weight", "centroid", "ard_mmd", "pca", "random")
        if name in results["rivals"]
    }
    right.bar(range(len(rivals)), [row["contrast"] for row in rivals.values()], color="tab:gray")
    right.axhline(1, color="black", linestyle=":", linewidth=1)
    right.set_xticks(range(len(rivals)), list(rivals), rotation=20)
    right.set(title=f"rivals on held-out problems, k = {results['rivals']['weight']['k']}", ylabel="contrast")
    row = results["rivals"]["weight"]
    for key, label, color in (("null_haar", "Haar: 5 %", "tab:blue"), ("null_matched", "matched: 5 %", "tab:orange")):
        right.axhline(row[key][0], color=color, linestyle="--", linewidth=1, label=label)
    right.legend(fontsize=8)
    left.set_ylim(bottom=0)
    left.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    return figure


def figure_plane(plane: dict, chance: dict, layer: int) -> Figure:
    figure = Figure(figsize=(10, 4))
    left, right = figure.subplots(1, 2)
    sites = np.arange(len(plane["language"]))
    for suffix, label, style in (("", "stream", "-"), ("_in_z", "inside Z", "--")):
        left.plot(sites, plane["language" + suffix], style, color="tab:orange", marker=".", label=f"language, {label}")
        left.plot(sites, plane["problem" + suffix], style, color="tab:blue", marker=".", label=f"problem, {label}")
    left.axhline(chance["language"], color="tab:orange", linestyle=":", linewidth=1, label="chance, language")
    left.plot(sites, plane["problem_shuffled"], ":", color="tab:blue", linewidth=1, label="problem, shuffled")
    left.axvline(layer + 1, color="tab:red", linewidth=1, label=f"L{layer}.out")
    left.set(title="what can be read at each site", xlabel="site (layers passed)", ylabel="share right", ylim=(0, 1.05))
    left.legend(fontsize=7)
    right.plot(plane["language"], plane["problem"], color="gray", linewidth=1)
    points = right.scatter(plane["language"], plane["problem"], c=sites, cmap="viridis", zorder=3)
    figure.colorbar(points, ax=right, label="site")
    right.set(
        title="information plane of the stream", xlabel="language", ylabel="problem", xlim=(0, 1.05), ylim=(0, 1.05)
    )
    figure.tight_layout()
    return figure


def figure_updates(plane: dict, layer: int) -> Figure:
    figure = Figure(figsize=(6, 3.5))
    panel = figure.subplots()
    panel.plot(plane["update"], marker=".", label="mean over prompts")
    panel.axhline(plane["update_chance"], color="black", linestyle=":", label="random direction √(k/(d−k))")
    panel.axvline(layer, color="tab:red", linewidth=1, label=f"bottleneck L{layer}")
    panel.set(
        title="size of each layer's update inside Z over outside",
        xlabel="layer",
        ylabel="‖P_Z Δh‖ / ‖P_Z⊥ Δh‖",
        ylim=(0, None),
    )
    panel.legend(fontsize=8)
    figure.tight_layout()
    return figure


def figure_ard(layers: list[dict]) -> Figure:
    figure = Figure(figsize=(6, 3.5))
    panel = figure.subplots()
    for row in layers:
        spectrum = np.array(row["spectrum"])
        panel.plot(
            np.linspace(0, 1, len(spectrum)),
            np.maximum(spectrum, 1e-6),
            label=f"L{row['layer']}.out, |Z| = {row['size']}",
        )
    panel.axhline(1, color="black", linestyle=":", linewidth=1, label="all equal")
    panel.set(title="relevances 1/ℓ², sorted", xlabel="share of dimensions", ylabel="relevance", yscale="log")
    panel.legend(fontsize=7)
    figure.tight_layout()
    return figure


def figure_sweep(sweep: list[dict], layer: int) -> Figure:
    figure = Figure(figsize=(6, 3.5))
    panel = figure.subplots()
    panel.plot([row["contrast"] for row in sweep], marker=".", color="tab:red", label="weight-based Z of the layer")
    for key, label in (("null_haar", "Haar"), ("null_matched", "covariance-matched")):
        panel.plot([row[key][0] for row in sweep], linestyle="--", linewidth=1, label=f"{label}: 5 %")
    panel.axhline(1, color="black", linestyle=":", linewidth=1)
    panel.axvline(layer, color="gray", linewidth=1, label=f"bottleneck L{layer}")
    panel.set(title="every layer's own Z at its output", xlabel="layer", ylabel="contrast ratio_Z / ratio_Z⊥")
    panel.legend(fontsize=7)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    runs.run_script(main)
