"""Phase 3b: is the map between languages inside Z linear, and does it generalise?

Question   can z_target be predicted from z_source of the same problem, on problems that the map was not fitted on; better
           than with shuffled problems, and better than by a constant shift? Does the mapped vector, sent into the model,
           bring the answer along?
Inputs     output/phase2_results.json, phase2_activations.npy, phase2_z_basis.npy; phase3_results.json, phase3_streams.npy,
           phase3_pairs.jsonl; the model for the transfer
Outputs    output/phase3b_output.md with figures, phase3b_results.json, phase3b_loo.npy (maps, problems): leave-one-out
           squared error of each map, phase3b_transfer.npy (conditions, pairs, 4): log-probability of the candidates
Run        python phase3b_bridge.py --model Qwen/Qwen2.5-3B          after phase3_patching.py

Steps, which are also the report's headings:
1 data   2 held-out prediction   3 interpolation   4 nulls   5 the map itself   6 last prompt position   7 transfer
"""

import json

import numpy as np
import torch
from matplotlib.figure import Figure

import utils
from lab import checkpoints, engine, models, runs, statistics
from reports import page

ARRAYS = ("phase3b_loo.npy", "phase3b_transfer.npy")
MAPS = ("identity", "mean_shift", "procrustes", "ridge", "ols")
LEARNED = ("procrustes", "ridge", "ols")
PRIMARY = "ridge"  # the map that the verdict is about, named before looking
PENALTIES = np.logspace(-4, 4, 17)  # ridge, in units of the mean eigenvalue of the sources' covariance
POOLINGS = ("mean", "mean_without_sinks", "last")  # as phase 2 saves them
SHUFFLES = 200
RANDOM_SUBSPACES = 40  # of each kind
MINIMUM_PROBLEMS = 4
LEVEL = 0.05
OVERFIT = 0.1  # in-sample R² this far above the held-out one is overfitting, whatever it is called
TRANSFER = ("none", *MAPS, "shuffled", "own_language")
TARGET = 2  # place of (donor's answer, recipient's language) among phase 3's candidates


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.report_only:
        return runs.render_again(arguments.out, "phase3b", ARRAYS, render)
    device = runs.choose_device(arguments.device)
    dtype = runs.choose_dtype(arguments.dtype, device)
    folder = checkpoints.find_model(arguments.model, arguments.revision)
    phase2 = runs.load_results(arguments.out, "phase2", folder.identity)
    phase3 = runs.load_results(arguments.out, "phase3", folder.identity)
    if phase3["settings"]["z"]["phase2"] != phase2["fingerprint"]:
        raise runs.UserError(f"{arguments.out}: phase 2 has run again since phase 3: run phase3_patching.py again")
    source, target = direction(phase2["settings"]["languages"])
    settings = {"seed": arguments.seed, "device": device.type, "dtype": str(dtype).removeprefix("torch.")}
    settings |= {"batch": arguments.batch, "pooling": arguments.pooling, "source": source, "target": target}
    settings |= {"z": phase3["settings"]["z"], "phase3": phase3["fingerprint"], "shuffles": SHUFFLES}
    run = runs.Run(__file__, "phase3b", arguments, folder, settings)
    if not arguments.fresh and run.finished(ARRAYS):
        return None
    basis, pooled, embedded, last = load_vectors(arguments, folder, phase2, phase3, source, target)
    predictions = predict(*(points @ basis.T for points in pooled))
    results = {"data": {"problems": len(pooled[0]), "k": len(basis), "width": folder.width}}
    results["data"] |= {"left_out_as_fitted": phase2["problems"] - len(pooled[0])}
    results["data"] |= {
        "fitted_on_these": bool(phase2["z"]["fitted_index"]) and not results["data"]["left_out_as_fitted"]
    }
    results |= measure(predictions, *(points @ basis.T for points in pooled), arguments.seed)
    results["null"] = nulls(pooled, basis, results["held_out_r2"], arguments.seed)
    results["embeddings"] = r2_of(*(points @ basis.T for points in embedded))
    results["map"] = map_geometry(*(points @ basis.T for points in pooled))
    results["components"] = components(predictions[PRIMARY], pooled[1] @ basis.T)
    results["last"] = last_position(last, basis, phase3["usable"], arguments.seed)
    model, tokenizer = models.load_model(folder, device, dtype)
    scores = transfer(model, tokenizer, arguments, basis, last, phase3, source, target)
    results["transfer"] = transfer_rates(scores)
    results["verdict"] = decide(results)
    results = runs.significant(results)  # before any sentence is made of it: the JSON is the truth
    results["claims"] = claims(results)
    loo = np.stack([errors(predictions[name], pooled[1] @ basis.T) for name in MAPS])
    return run.save(results, dict(zip(ARRAYS, (loo, scores))), render)


def parse_arguments(argv: list[str] | None):
    parser = runs.command_line(__doc__)
    parser.add_argument("--pooling", choices=POOLINGS, default=POOLINGS[1], help="of phase 2's activations")
    parser.add_argument("--batch", type=runs.positive, default=16, help="prompts per forward pass of the transfer")
    return parser.parse_args(argv)


def direction(languages: list[str]) -> tuple[str, str]:
    """(source, target): Chinese to English where both were asked, else the second language to the first."""
    return ("zh", "en") if {"en", "zh"} <= set(languages) else (languages[1], languages[0])


def bridge_problems(phase2: dict) -> np.ndarray:
    """Places of phase 2's problems that Z was not fitted on; all where too few are left, which the report then says."""
    everything = np.arange(phase2["problems"])
    kept = np.setdiff1d(everything, phase2["z"]["fitted_index"])
    return kept if len(kept) >= MINIMUM_PROBLEMS else everything


def load_vectors(arguments, folder, phase2: dict, phase3: dict, source: str, target: str) -> tuple:
    """(basis (k, d), phase 2's pooled vectors, the same at site 0, phase 3's last-position vectors), each as (source, target)
    of (n, d) float64.

    Of phase 2's problems those that a fitted Z was fitted on are left out where enough others are there. Raises UserError for
    missing or misshapen arrays.
    """
    z, languages = phase2["z"], phase2["settings"]["languages"]
    basis = runs.load_array(arguments.out, "phase2_z_basis.npy", (z["k"], folder.width)).astype(float)
    shape = (len(languages), phase2["problems"], folder.layers + 1, len(POOLINGS), folder.width)
    activations = runs.load_array(arguments.out, "phase2_activations.npy", shape)
    kept = bridge_problems(phase2)
    pooled, embedded = (
        activations[:, kept, site, POOLINGS.index(arguments.pooling)].astype(float) for site in (z["site"], 0)
    )
    asked = phase3["settings"]["languages"]
    if not {source, target} <= set(asked):
        raise runs.UserError(f"phase 3 asked in {' '.join(asked)}, phase 2 in {' '.join(languages)}: run both alike")
    shape = (len(asked), phase3["problems"]["asked"], folder.width)
    streams = runs.load_array(arguments.out, "phase3_streams.npy", shape).astype(float)
    places = languages.index(source), languages.index(target)
    picked = [tuple(points[place] for place in places) for points in (pooled, embedded)]
    return basis, *picked, tuple(streams[asked.index(name)] for name in (source, target))


# ---- maps -----------------------------------------------------------------------------------------------------------


def predict(source: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """Leave-one-out predictions of every map. (n, k) twice -> {map: (n, k)}"""
    return {name: predicted[0] for name, predicted in predict_many(source, target[None]).items()}


def predict_many(source: np.ndarray, targets: np.ndarray, maps: tuple = MAPS) -> dict[str, np.ndarray]:
    """The same for many pairings at once: what depends on the sources is computed once. (n, k), (s, n, k) -> {map: (s, n, k)}"""
    result = {name: np.empty_like(targets) for name in maps}
    for index in range(len(source)):
        rest = np.arange(len(source)) != index
        for name, function in ((name, FITS[name]) for name in maps):
            result[name][:, index] = function(source[rest], targets[:, rest], source[index])
    return result


def fit_identity(source: np.ndarray, targets: np.ndarray, new: np.ndarray) -> np.ndarray:
    """z_target = z_source. (n, k), (s, n, k), (k,) -> (s, k)"""
    return np.broadcast_to(new, (len(targets), len(new)))


def fit_mean_shift(source: np.ndarray, targets: np.ndarray, new: np.ndarray) -> np.ndarray:
    """z_source plus the mean difference between the languages."""
    return new + (targets - source).mean(1)


def fit_procrustes(source: np.ndarray, targets: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The rotation (or reflection) that brings the centred sources closest to the targets (Schönemann 1966)."""
    centred, means = source - source.mean(0), targets.mean(1)
    rotations = procrustes(np.swapaxes(centred.T @ (targets - means[:, None]), -1, -2))
    return means + (rotations @ (new - source.mean(0)))


def procrustes(cross: np.ndarray) -> np.ndarray:
    """Orthogonal R that maximises tr(RᵀC), C the sum of target sourceᵀ; where the data say nothing, closest to the identity.

    (..., k, k) -> (..., k, k)
    """
    scale = np.linalg.norm(cross, axis=(-2, -1), keepdims=True)
    left, _, right = np.linalg.svd(cross + 1e-9 * np.maximum(scale, 1e-300) * np.eye(cross.shape[-1]))
    return left @ right


def fit_ols(source: np.ndarray, targets: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Ordinary least squares with intercept; of all solutions the one with the smallest norm."""
    weights = (new - source.mean(0)) @ np.linalg.pinv(source - source.mean(0), rcond=1e-9)
    means = targets.mean(1)
    return means + np.einsum("n,snk->sk", weights, targets - means[:, None])


def fit_ridge(source: np.ndarray, targets: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Ridge regression with free intercept; the penalty is chosen by leave-one-out inside these points, per pairing."""
    means = targets.mean(1)
    centred, centred_targets = source - source.mean(0), targets - means[:, None]
    values, vectors = np.linalg.eigh(centred @ centred.T)
    values = values.clip(0)
    penalties = ridge_penalties(source)
    shrunk = values / (values + penalties[:, None])  # (penalties, n)
    leverage = 1 / len(source) + np.einsum("nm,pm,nm->pn", vectors, shrunk, vectors)
    coordinates = vectors.T @ centred_targets  # (s, n, k)
    losses = []
    for row, own in zip(shrunk, leverage):
        residuals = centred_targets - vectors @ (row[:, None] * coordinates)
        losses.append((np.square(residuals).sum(-1) / np.square((1 - own).clip(1e-9))).sum(-1))
    best = penalties[np.argmin(losses, 0)]  # (s,)
    weights = ((new - source.mean(0)) @ centred.T @ vectors) / (values + best[:, None])  # (s, n)
    return means + np.einsum("sn,snk->sk", weights, coordinates)


def ridge_penalties(source: np.ndarray) -> np.ndarray:
    """The penalties tried, in the units of these sources."""
    centred = source - source.mean(0)
    return PENALTIES * max(np.square(centred).sum() / min(centred.shape), 1e-300)


FITS = {
    "identity": fit_identity,
    "mean_shift": fit_mean_shift,
    "procrustes": fit_procrustes,
    "ridge": fit_ridge,
    "ols": fit_ols,
}


# ---- measuring ------------------------------------------------------------------------------------------------------


def errors(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Squared error of every problem. (..., n, k) -> (..., n)"""
    return np.square(predicted - target).sum(-1)


def mean_errors(target: np.ndarray) -> np.ndarray:
    """Squared error of the training mean, leave-one-out: what R² is measured against. (..., n, k) -> (..., n)"""
    n = target.shape[-2]
    return np.square((target - target.mean(-2, keepdims=True)) * n / (n - 1)).sum(-1)


def r_squared(error: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """1 − error / error of the training mean, summed over problems. (..., n) -> (...)"""
    return 1 - error.sum(-1) / np.maximum(reference.sum(-1), 1e-300)


def measure(predictions: dict, source: np.ndarray, target: np.ndarray, seed: int) -> dict:
    """Held-out and in-sample R², retrieval and intervals of every map; every learned map against the mean shift."""
    n, k = source.shape
    reference = mean_errors(target)
    error = {name: errors(predictions[name], target) for name in MAPS}
    picks = torch.randint(n, (5000, n), generator=statistics.seeded(seed, "phase3b: bootstrap")).numpy()
    spread = {name: r_squared(error[name][picks], reference[picks]) for name in MAPS}
    nearest = {name: np.square(predictions[name][:, None] - target).sum(-1).argmin(1) for name in MAPS}
    scaled = errors(scaled_shift(source, target), target)
    gain = {name: error["mean_shift"] - error[name] for name in LEARNED}
    in_sample = {name: np.stack([FITS[name](source, target[None], point)[0] for point in source]) for name in MAPS}
    centred = np.square(target - target.mean(0)).sum(-1)
    return {
        "held_out_r2": {name: float(r_squared(error[name], reference)) for name in MAPS},
        "interval": {name: np.quantile(spread[name], (0.025, 0.975)).tolist() for name in MAPS},
        "in_sample_r2": {name: float(r_squared(errors(in_sample[name], target), centred)) for name in MAPS},
        "retrieval": {name: float((nearest[name] == np.arange(n)).mean()) for name in MAPS},
        "parameters": {
            "identity": 0,
            "mean_shift": k,
            "procrustes": k * (k - 1) // 2 + k,
            "ridge": k * k + k,
            "ols": k * k + k,
        },
        "p_above_mean_shift": {name: sign_flip_p(gain[name], seed) for name in LEARNED},
        "scaled_shift_r2": float(r_squared(scaled, reference)),
        "p_above_scaled_shift": {name: sign_flip_p(scaled - error[name], seed) for name in LEARNED},
    }


def scaled_shift(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Leave-one-out predictions of mean + a (x − mean) with one fitted number a: what shrinking alone achieves. (n, k)"""
    predicted = np.empty_like(target)
    for index in range(len(source)):
        rest = np.arange(len(source)) != index
        means = source[rest].mean(0), target[rest].mean(0)
        x, y = source[rest] - means[0], target[rest] - means[1]
        predicted[index] = means[1] + (x * y).sum() / max((x * x).sum(), 1e-300) * (source[index] - means[0])
    return predicted


def sign_flip_p(gain: np.ndarray, seed: int, draws: int = 4999) -> float:
    """One-sided p that the mean gain over problems is no more than zero: random signs."""
    signs = torch.randint(2, (draws, len(gain)), generator=statistics.seeded(seed, "phase3b: signs")).numpy() * 2 - 1
    flipped = (signs * gain).mean(1)
    return statistics.permutation_p(int((flipped >= gain.mean() * (1 - 1e-12)).sum()), draws)


def nulls(pooled: tuple, basis: np.ndarray, held_out: dict, seed: int) -> dict:
    """Held-out R² with shuffled problems, and in other subspaces of the same size, with p of being as high.

    Random subspaces are Haar, or matched: orthonormalised draws from N(0, Σ), Σ the shrunken covariance of the same vectors
    around each language's mean, which favours the null.
    """
    shuffled = shuffled_r2(*(points @ basis.T for points in pooled), seed)
    k, width = basis.shape
    haar = utils.random_subspaces(
        statistics.seeded(seed, "phase3b: Haar subspaces"), RANDOM_SUBSPACES, k, width
    ).numpy()
    centred = torch.from_numpy(np.concatenate([points - points.mean(0) for points in pooled]))
    draw = statistics.seeded(seed, "phase3b: matched subspaces")
    matched = utils.matched_subspaces(draw, RANDOM_SUBSPACES, k, centred).numpy()
    result = {
        "shuffled": {name: np.quantile(shuffled[name], (0.05, 0.5, 0.95)).tolist() for name in MAPS},
        "p": {name: statistics.permutation_p(int((shuffled[name] >= held_out[name]).sum()), SHUFFLES) for name in MAPS},
    }
    for kind, subspaces in (("random", haar), ("matched", matched)):
        rows = [r2_of(*(points @ subspace.T for points in pooled)) for subspace in subspaces]
        drawn = {name: np.array([row[name] for row in rows]) for name in MAPS}
        result[kind] = {name: np.quantile(drawn[name], (0.05, 0.5, 0.95)).tolist() for name in MAPS}
        result[f"p_{kind}"] = {
            name: statistics.permutation_p(int((drawn[name] >= held_out[name]).sum()), RANDOM_SUBSPACES)
            for name in MAPS
        }
    exploratory = [name for name in MAPS if name != PRIMARY]
    return result | {"p_holm": dict(zip(exploratory, statistics.holm([result["p"][name] for name in exploratory])))}


def r2_of(source: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Held-out R² of every map. (n, k) twice"""
    predicted = predict(source, target)
    return {name: float(r_squared(errors(predicted[name], target), mean_errors(target))) for name in MAPS}


def shuffled_r2(source: np.ndarray, target: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Held-out R² of every map with the targets' problems shuffled. -> {map: (SHUFFLES,)}"""
    draw = statistics.seeded(seed, "phase3b: shuffles")
    orders = torch.stack([torch.randperm(len(source), generator=draw) for _ in range(SHUFFLES)]).numpy()
    targets = target[orders]
    predicted = predict_many(source, targets)
    return {name: r_squared(errors(predicted[name], targets), mean_errors(targets)) for name in MAPS}


def map_geometry(source: np.ndarray, target: np.ndarray) -> dict:
    """Singular values and orthogonality error ‖MᵀM − I‖_F / √k of the learned maps fitted on all problems."""
    eye = np.eye(source.shape[1])
    matrices = {
        name: np.stack([FITS[name](source, target[None], source.mean(0) + row)[0] - target.mean(0) for row in eye])
        for name in LEARNED
    }
    return {
        name: {
            "singular_values": np.linalg.svd(matrix, compute_uv=False).tolist(),
            "orthogonality_error": float(np.linalg.norm(matrix.T @ matrix - eye) / len(eye) ** 0.5),
        }
        for name, matrix in matrices.items()
    }


def components(predicted: np.ndarray, target: np.ndarray) -> list[list[float]]:
    """Held-out prediction and truth in the targets' first two principal components: [true, true, predicted, predicted]."""
    axes = np.linalg.svd(target - target.mean(0), full_matrices=False)[2][:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    axes = np.concatenate([axes, np.zeros((2 - len(axes), target.shape[1]))])
    return np.concatenate([(target - target.mean(0)) @ axes.T, (predicted - target.mean(0)) @ axes.T], 1).tolist()


def last_position(last: tuple, basis: np.ndarray, usable: list[int], seed: int) -> dict:
    """The same measurements on phase 3's streams at the last prompt position, of problems solved in every language."""
    if len(usable) < MINIMUM_PROBLEMS:
        return {"problems": len(usable)}
    source, target = (points[usable] @ basis.T for points in last)
    result = measure(predict(source, target), source, target, seed)
    shuffled = shuffled_r2(source, target, seed)
    p = {
        name: statistics.permutation_p(int((shuffled[name] >= result["held_out_r2"][name]).sum()), SHUFFLES)
        for name in MAPS
    }
    quantiles = {name: np.quantile(shuffled[name], (0.05, 0.5, 0.95)).tolist() for name in MAPS}
    return {"problems": len(usable), "p": p, "shuffled": quantiles} | result


# ---- transfer -------------------------------------------------------------------------------------------------------


def transfer(
    model, tokenizer, arguments, basis: np.ndarray, last: tuple, phase3: dict, source: str, target: str
) -> np.ndarray:
    """Log-probabilities of phase 3's four candidates with the donor's vector mapped into the target language.

    For every pair of phase 3 from the source to the target language (recipient asks problem i in the target language, donor
    asked problem j in the source language), the recipient's part inside Z becomes the leave-one-out prediction of
    z_target(j) from z_source(j). `own_language` sends z_target(j) itself, what a perfect map would send; `shuffled` a ridge
    map fitted on shuffled problems. -> (conditions, pairs, 4) float32
    """
    content = runs.load_array(arguments.out, "phase3_pairs.jsonl").decode()
    pairs = [json.loads(line) for line in content.split("\n") if line]
    pairs = [pair for pair in pairs if (pair["donor_language"], pair["recipient_language"]) == (source, target)]
    usable = phase3["usable"]
    if not pairs or len(usable) < MINIMUM_PROBLEMS:
        return np.zeros((len(TRANSFER), 0, 4), np.float32)
    vectors = [points[usable] @ basis.T for points in last]  # (n, k) of source and target
    order = torch.randperm(len(usable), generator=statistics.seeded(arguments.seed, "phase3b: transfer")).numpy()
    sent = predict(*vectors) | {"own_language": vectors[1]}
    sent["shuffled"] = predict_many(vectors[0], vectors[1][None, order], (PRIMARY,))[PRIMARY][0]
    rows = torch.tensor([usable.index(pair["donor"]) for pair in pairs])
    coordinates = torch.stack(
        [torch.from_numpy(sent[name])[rows] for name in TRANSFER[1:]], 1
    )  # (pairs, conditions, k)
    directions, site = torch.from_numpy(basis).float().to(model.device), phase3["settings"]["z"]["site"]
    coordinates = coordinates.float().to(model.device)
    prompts, candidates = ([pair[key] for pair in pairs] for key in ("prompt", "candidates"))
    scores = {}
    for chosen, patcher in engine.patched_prompts(model, tokenizer, prompts, candidates, arguments.batch):
        own = patcher.streams[:, site, None].float()
        changes = (coordinates[chosen] - own @ directions.T) @ directions
        scores[chosen.start] = patcher.scores(site, torch.cat([own, own + changes], 1))
    return torch.cat(list(runs.gathered(scores).values())).numpy().swapaxes(0, 1)


def transfer_rates(scores: np.ndarray) -> dict:
    """How often the donor's answer comes out in the recipient's language, and each map against identity."""
    wins = scores.argmax(-1) == TARGET  # (conditions, pairs)
    won = dict(zip(TRANSFER, wins))
    pairs = scores.shape[1]
    return {
        "pairs": pairs,
        "success": {name: float(won[name].mean()) if pairs else 0.0 for name in TRANSFER},
        "interval": {
            name: statistics.wilson_interval(int(won[name].sum()), pairs) if pairs else (0.0, 1.0) for name in TRANSFER
        },
        "winners": {
            name: [float((row.argmax(-1) == place).mean()) if pairs else 0.0 for place in range(4)]
            for name, row in zip(TRANSFER, scores)
        },
        "p_against": {
            control: {name: against(won[name], won[control]) for name in TRANSFER if name != control}
            for control in ("identity", "shuffled")
        },
    }


def against(won: np.ndarray, control: np.ndarray) -> float:
    """Exact McNemar p over the same pairs."""
    return statistics.mcnemar_p(int((won & ~control).sum()), int((control & ~won).sum()))


# ---- deciding -------------------------------------------------------------------------------------------------------


def decide(results: dict) -> str:
    """`bridge`: the primary map's held-out R² is above 0, and p < .05 against shuffled problems, mean shift and scaled shift.

    The scaled shift is there because ridge can beat the mean shift by shrinking alone.
    """
    held_out = results["held_out_r2"]
    predicts = held_out[PRIMARY] > 0 and results["null"]["p"][PRIMARY] < LEVEL
    better = beyond_shift(results)
    return "bridge" if predicts and better else "no_bridge"


def beyond_shift(results: dict) -> bool:
    r2, unlearned = results["held_out_r2"][PRIMARY], (results["held_out_r2"]["mean_shift"], results["scaled_shift_r2"])
    ps = results["p_above_mean_shift"][PRIMARY], results["p_above_scaled_shift"][PRIMARY]
    return r2 > max(unlearned) and max(ps) < LEVEL


def specific(results: dict) -> bool:
    """Whether the primary map does better inside Z than inside other subspaces of that size."""
    return max(results["null"][f"p_{kind}"][PRIMARY] for kind in ("random", "matched")) < LEVEL


def claims(results: dict) -> list[dict]:
    """The recipe's statements about the bridge, as rows."""
    show, r2, null = page.show, results["held_out_r2"], results["null"]
    low, high = results["interval"][PRIMARY]
    n, k = results["data"]["problems"], results["data"]["k"]
    inside, outside = results["in_sample_r2"]["ols"], r2["ols"]
    move = results["transfer"]
    p = results["p_above_mean_shift"][PRIMARY]
    transfers = all(
        move["success"][PRIMARY] > move["success"][control] and move["p_against"][control][PRIMARY] < LEVEL
        for control in ("identity", "shuffled")
    )
    return [
        page.claim(
            "held_out",
            "a linear map predicts held-out Z vectors",
            "yes",
            f"{NAMES[PRIMARY]}: held-out R² {show(r2[PRIMARY], 3)} (95 % {show(low, 3)} to {show(high, 3)})",
            f"shuffled problems {show(null['shuffled'][PRIMARY][1], 3)} (95th percentile {show(null['shuffled'][PRIMARY][2], 3)}), "
            f"p {show(null['p'][PRIMARY], 2)}",
            bool(r2[PRIMARY] > 0 and null["p"][PRIMARY] < LEVEL),
        ),
        page.claim(
            "beyond_shift",
            "the languages differ by more than a constant inside Z, and a learned map captures it",
            "implied",
            f"{NAMES[PRIMARY]} {show(r2[PRIMARY], 3)}",
            f"mean shift {show(r2['mean_shift'], 3)}, p {show(p, 2)}; one fitted scale "
            f"{show(results['scaled_shift_r2'], 3)}, p {show(results['p_above_scaled_shift'][PRIMARY], 2)}",
            beyond_shift(results),
        ),
        page.claim(
            "specific",
            "this holds for Z more than for other subspaces of its size",
            "implied",
            f"{NAMES[PRIMARY]} {show(r2[PRIMARY], 3)}",
            "; ".join(
                f"{kind} subspaces {show(null[kind][PRIMARY][1], 3)}, p {show(null[f'p_{kind}'][PRIMARY], 2)}"
                for kind in ("random", "matched")
            ),
            specific(results),
        ),
        page.claim(
            "overfitting",
            "zero overfitting risk for a k × k map",
            "zero, with 6,084 parameters and 20 pairs",
            f"{results['parameters']['ols']:,} parameters, {n} pairs of {k} numbers: least squares in-sample R² {show(inside, 3)}",
            f"its held-out R² {show(outside, 3)}",
            bool(inside - outside < OVERFIT),
        ),
        page.claim(
            "transfer",
            "the map carries the answer across languages at inference time",
            "yes (transformative)",
            f"mapped vectors give the donor's answer in {move['success'][PRIMARY]:.1%} of {move['pairs']} pairs",
            f"unmapped {move['success']['identity']:.1%} (p {show(move['p_against']['identity'][PRIMARY], 2)}), shuffled map "
            f"{move['success']['shuffled']:.1%} (p {show(move['p_against']['shuffled'][PRIMARY], 2)}), the target language's "
            f"own vector {move['success']['own_language']:.1%}",
            bool(transfers) if move["pairs"] else None,
        ),
    ]


# ---- reporting ------------------------------------------------------------------------------------------------------

NAMES = {
    "none": "no swap",
    "identity": "identity (no map)",
    "mean_shift": "mean shift",
    "procrustes": "orthogonal Procrustes",
    "ridge": "ridge",
    "ols": "ordinary least squares",
    "shuffled": "ridge fitted on shuffled problems",
    "own_language": "the donor's own vector in the target language",
}


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figures from saved results and arrays."""
    show, r2, name = page.show, results["held_out_r2"], NAMES[PRIMARY]
    source, target = results["settings"]["source"], results["settings"]["target"]
    what = {
        "bridge": f"A linear map from {source} to {target} inside Z generalises to held-out problems",
        "no_bridge": f"No linear map from {source} to {target} inside Z generalises beyond a constant shift",
    }[results["verdict"]]
    sentence = (
        f"{what} (`{results['verdict']}`): {name}, named before looking, has held-out R² {show(r2[PRIMARY], 3)} on "
        f"{results['data']['problems']} problems (shuffled problems: p {show(results['null']['p'][PRIMARY], 2)}), identity "
        f"{show(r2['identity'], 3)}, mean shift {show(r2['mean_shift'], 3)} (p of the difference "
        f"{show(results['p_above_mean_shift'][PRIMARY], 2)})."
    )
    null = results["null"]
    others = ", ".join(f"{kind} {show(null[kind][PRIMARY][1], 3)}" for kind in ("random", "matched"))
    sentence += (
        f" In other subspaces of that size the same map does less well (median: {others}; larger p "
        f"{show(max(null['p_random'][PRIMARY], null['p_matched'][PRIMARY]), 2)})."
        if specific(results)
        else f" It is not special to Z: the same map in other subspaces of that size has a median of {others} (p "
        f"{show(null['p_random'][PRIMARY], 2)} and {show(null['p_matched'][PRIMARY], 2)})."
    )
    if results["data"]["fitted_on_these"]:
        sentence += " Z was fitted on the same problems, so these values are too high."
    if results["verdict"] == "no_bridge" and max(r2["identity"], r2["mean_shift"]) > r2[PRIMARY] > 0:
        sentence += " A map without learning does at least as well."
    title = f"Phase 3b: the bridge inside Z of {results['model']['name']}"
    text = page.report(title, sentence, results["claims"], sections(results), limitations(results))
    figures = {
        "phase3b_r2.png": figure_r2(results, arrays[ARRAYS[0]]),
        "phase3b_map.png": figure_map(results),
        "phase3b_components.png": figure_components(results),
        "phase3b_transfer.png": figure_transfer(results),
    }
    return {name: page.png(figure) for name, figure in figures.items()} | {"phase3b_output.md": text.encode()}


def sections(results: dict) -> list[str]:
    show, data, settings = page.show, results["data"], results["settings"]
    z, last, move = settings["z"], results["last"], results["transfer"]
    left_out = (
        f", {data['left_out_as_fitted']} others left out because Z was fitted on them"
        if data["left_out_as_fitted"]
        else ""
    )
    map_rows = [
        [NAMES[name], max(row["singular_values"]), float(np.median(row["singular_values"])), row["orthogonality_error"]]
        for name, row in results["map"].items()
    ]
    return [
        "## 1 Data",
        f"z_{settings['target']} is predicted from z_{settings['source']} of the same problem: coordinates inside Z (k = {data['k']}, "
        f"site {z['site']}) of phase 2's activations, pooling *{settings['pooling'].replace('_', ' ')}*, {data['problems']} "
        f"problems{left_out}.",
        "## 2 Held-out prediction",
        "![Held-out R² of every map](phase3b_r2.png)",
        "Leave-one-problem-out; R² against the training mean of the target language (0 = no better than that mean). *Retrieval*: "
        f"share of problems whose predicted vector is nearest to the right target vector, chance {show(1 / data['problems'], 2)}.",
        map_table(results),
        "## 3 Interpolation",
        f"A k × k map has {results['parameters']['ols']:,} parameters with its intercept, and {data['problems']} pairs give "
        f"{data['problems'] * data['k']:,} numbers. In-sample R² of least squares: {show(results['in_sample_r2']['ols'], 4)}; held "
        f"out: {show(results['held_out_r2']['ols'], 4)}. "
        + (
            f"With k ≥ {data['problems'] - 1} least squares passes through every training pair whatever they are."
            if data["k"] >= data["problems"] - 1
            else f"Least squares would pass through every training pair from k = {data['problems'] - 1} on; here k is smaller."
        ),
        "## 4 Nulls",
        f"{settings['shuffles']} shuffles of the target's problems, and {RANDOM_SUBSPACES} Haar-random and covariance-matched "
        "subspaces each, of the same size, in place of Z. Holm over the maps other than the primary one.",
        null_table(results),
        "What the wording alone gives: the same maps on the mean token embeddings (site 0) inside Z have held-out R² "
        + ", ".join(f"{show(results['embeddings'][name], 3)} ({NAMES[name]})" for name in MAPS)
        + ".",
        "## 5 The map itself",
        "![Singular values of the maps](phase3b_map.png)",
        "Fitted on all problems. Orthogonality error: ‖MᵀM − I‖_F / √k, 0 for a rotation.",
        page.table(["map", "largest singular value", "median", "orthogonality error"], map_rows),
        "![Prediction and truth](phase3b_components.png)",
        f"Held-out prediction ({NAMES[PRIMARY]}) and truth in the first two principal components of the target.",
        "## 6 Last prompt position",
        last_section(last),
        "## 7 Transfer",
        "![Transfer](phase3b_transfer.png)",
        f"{move['pairs']} pairs of phase 3 ({settings['source']} to {settings['target']}, different problems): the recipient's part "
        "inside Z becomes the mapped vector of the donor, which the map was not fitted on. Shares of pairs in which each candidate "
        "wins; success is the donor's answer in the recipient's language. *Identity* is phase 3's swap of Z. A map fitted on shuffled "
        "problems erases the recipient's vector, which alone lets the donor's answer win in up to half of the pairs.",
        transfer_table(move),
    ]


def map_table(results: dict) -> str:
    rows = []
    for name in MAPS:
        low, high = results["interval"][name]
        above = results["p_above_mean_shift"].get(name)
        rows.append(
            [
                NAMES[name],
                f"{results['parameters'][name]:,}",
                results["in_sample_r2"][name],
                results["held_out_r2"][name],
            ]
            + [f"{page.show(low, 3)} to {page.show(high, 3)}", f"{results['retrieval'][name]:.1%}"]
            + ["–" if above is None else page.show(above, 2)]
        )
    headers = ["map", "parameters", "in-sample R²", "held-out R²", "95 % bootstrap", "retrieval", "p above mean shift"]
    return page.table(headers, rows)


def null_table(results: dict) -> str:
    show, null = page.show, results["null"]
    rows = []
    for name in MAPS:
        row = [NAMES[name], results["held_out_r2"][name]]
        row += [f"{show(null['shuffled'][name][1], 3)} (95th percentile {show(null['shuffled'][name][2], 3)})"]
        row += [show(null["p"][name], 2), show(null["p_holm"].get(name), 2)]
        for kind in ("random", "matched"):
            low, middle, high = null[kind][name]
            row += [f"{show(middle, 3)} ({show(low, 3)} to {show(high, 3)})", show(null[f"p_{kind}"][name], 2)]
        rows.append(row)
    headers = ["map", "held-out R²", "shuffled problems", "p", "Holm", "Haar-random (5 % to 95 %)", "p"]
    return page.table([*headers, "matched (5 % to 95 %)", "p"], rows)


def last_section(last: dict) -> str:
    if "p" not in last:
        return f"Only {last['problems']} problems are solved in every language: nothing is fitted here."
    rows = [
        [NAMES[name], last["in_sample_r2"][name], last["held_out_r2"][name], f"{last['retrieval'][name]:.1%}"]
        + [f"{page.show(last['shuffled'][name][1], 3)} (95th percentile {page.show(last['shuffled'][name][2], 3)})"]
        + [page.show(last["p"][name], 2)]
        for name in MAPS
    ]
    headers = ["map", "in-sample R²", "held-out R²", "retrieval", "shuffled problems", "p"]
    return (
        f"The same inside Z at the last prompt position of phase 3's few-shot prompts ({last['problems']} problems solved in every "
        f"language); these maps are the ones that the transfer uses.\n\n{page.table(headers, rows)}"
    )


def transfer_table(move: dict) -> str:
    rows = []
    for name in TRANSFER:
        low, high = move["interval"][name]
        rows.append(
            [NAMES[name], f"{move['success'][name]:.1%}", f"{low:.1%} to {high:.1%}"]
            + [f"{value:.1%}" for value in move["winners"][name]]
            + [page.show(move["p_against"][control].get(name), 2) for control in ("identity", "shuffled")]
        )
    outcomes = [
        "recipient's answer, its language",
        "recipient's answer, donor's language",
        "donor's answer, recipient's language",
    ]
    outcomes.append("donor's answer, its language")
    return page.table(["sent", "success", "95 % Wilson", *outcomes, "p against identity", "p against shuffled"], rows)


def limitations(results: dict) -> list[str]:
    data = results["data"]
    lines = [
        f"{data['problems']} problems of one kind: a map that generalises among them may still be about their wording.",
        "Anything that the versions of a problem share, such as their numerals or their length, is predictable across languages too.",
        "R² is dominated by the directions of Z with the largest variance.",
        "The transfer patches one position only, and only the part inside Z.",
    ]
    if results["transfer"]["pairs"] and results["transfer"]["success"]["own_language"] < 0.5:
        lines.insert(
            0,
            "Even the target language's own vector gives the donor's answer in less than half of the pairs: Z at this site is not "
            "shown to carry it, so that a failing map tells little.",
        )
    if not results["transfer"]["pairs"]:
        lines.insert(0, "Too few problems are solved unpatched, so the transfer could not be tested.")
    if data["fitted_on_these"]:
        lines.insert(
            0,
            "Z itself was fitted on these very problems (not the maps): R² inside it is too high. Section 6 asks others.",
        )
    if results["settings"]["z"]["method"] in ("centroid", "ard_mmd"):
        lines.append("Z was fitted on activations: it is no prediction from weights.")
    return lines


def figure_r2(results: dict, loo: np.ndarray) -> Figure:
    figure = Figure(figsize=(10, 4))
    left, right = figure.subplots(1, 2)
    places = np.arange(len(MAPS))
    values = np.array([results["held_out_r2"][name] for name in MAPS])
    bounds = np.array([results["interval"][name] for name in MAPS]).T
    left.bar(places - 0.2, values, 0.4, yerr=np.abs(bounds - values), capsize=4, label="held out, 95 % bootstrap")
    left.bar(places + 0.2, [results["in_sample_r2"][name] for name in MAPS], 0.4, color="lightgray", label="in sample")
    left.plot(
        places,
        [results["null"]["shuffled"][name][2] for name in MAPS],
        "_",
        color="tab:red",
        markersize=18,
        label="shuffled problems, 95th percentile",
    )
    left.axhline(0, color="black", linewidth=1)
    left.set_xticks(places, [NAMES[name] for name in MAPS], rotation=20, ha="right", fontsize=8)
    left.set(title="R² inside Z (cut off below −1.2)", ylabel="R² against the training mean", ylim=(-1.2, 1.05))
    for kind, shift, color in (("random", -0.3, "tab:green"), ("matched", -0.1, "tab:purple")):
        low, middle, high = np.array([results["null"][kind][name] for name in MAPS]).T
        errors_of = [middle - low, high - middle]
        name = {"random": "Haar-random", "matched": "matched"}[kind]
        left.errorbar(
            places + shift, middle, errors_of, fmt=".", color=color, capsize=2, label=f"{name} subspaces, 5 % to 95 %"
        )
    left.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=2)
    right.boxplot(np.sqrt(loo.T), showfliers=False)
    right.set_xticks(places + 1, [NAMES[name] for name in MAPS], rotation=20, ha="right", fontsize=8)
    right.set(title="leave-one-out error per problem", ylabel="distance inside Z", ylim=(0, None))
    figure.tight_layout()
    return figure


def figure_map(results: dict) -> Figure:
    figure = Figure(figsize=(6, 3.5))
    panel = figure.subplots()
    for name, row in results["map"].items():
        panel.plot(np.arange(1, len(row["singular_values"]) + 1), row["singular_values"], marker=".", label=NAMES[name])
    panel.axhline(1, color="black", linestyle=":", linewidth=1, label="a rotation")
    panel.set(title="singular values of the maps", xlabel="index", ylabel="singular value", ylim=(0, None))
    panel.legend(fontsize=8)
    figure.tight_layout()
    return figure


def figure_components(results: dict) -> Figure:
    figure = Figure(figsize=(5, 4.5))
    panel = figure.subplots()
    points = np.array(results["components"])
    panel.plot(points[:, [0, 2]].T, points[:, [1, 3]].T, color="lightgray", linewidth=1, zorder=1)
    panel.scatter(points[:, 0], points[:, 1], s=18, label="truth", zorder=2)
    panel.scatter(
        points[:, 2], points[:, 3], s=18, marker="x", label=f"held-out prediction ({NAMES[PRIMARY]})", zorder=3
    )
    panel.set(title="first two components of the target inside Z", xlabel="component 1", ylabel="component 2")
    panel.legend(fontsize=8)
    figure.tight_layout()
    return figure


def figure_transfer(results: dict) -> Figure:
    figure = Figure(figsize=(7, 3.8))
    panel = figure.subplots()
    move = results["transfer"]
    values = np.array([move["success"][name] for name in TRANSFER])
    bounds = np.array([move["interval"][name] for name in TRANSFER]).T
    panel.bar(range(len(TRANSFER)), values, yerr=np.abs(bounds - values), capsize=4)
    panel.set_xticks(range(len(TRANSFER)), [NAMES[name] for name in TRANSFER], rotation=25, ha="right", fontsize=8)
    panel.set(
        title=f"donor's answer in the recipient's language, {move['pairs']} pairs, 95 % Wilson",
        ylabel="share of pairs",
        ylim=(0, 1.05),
    )
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    runs.run_script(main)
