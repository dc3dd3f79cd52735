"""Phase 3b: is the map between languages inside Z linear, and does it generalise?

Question   can z_target be predicted from z_source of the same problem, on problems that the map was not fitted on; better
           than with shuffled problems, and better than by a constant shift? Does the mapped vector, sent into the model,
           bring the answer along?
Inputs     output/phase2_results.json, phase2_activations.npy, phase2_z_basis.npy, phase2_layer_subspaces.npy;
           phase3_results.json, phase3_streams.npy, phase3_prompts.jsonl; the model for the transfer
Outputs    output/phase3b_output.md with figures, phase3b_results.json, phase3b_loo.npy (maps, problems): leave-one-out
           squared error of each map, phase3b_transfer.npy (conditions, pairs, answers x languages): log-probabilities
           within the answer set
Run        python phase3b_bridge.py --model Qwen/Qwen2.5-3B          after phase3_patching.py

Steps, which are also the report's headings:
1 data   2 held-out prediction   3 interpolation   4 nulls   5 the map itself   6 last prompt position   7 transfer
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import utils
import verdicts
from lab import checkpoints, engine, models, runs, statistics, subspaces, transfer
from reports import phase3b as page

ARRAYS = ("phase3b_loo.npy", "phase3b_transfer.npy")
REPORT = runs.Report(__file__, "phase3b", ARRAYS, verdicts.phase3b, page)
INPUTS = ("phase2_activations.npy", "phase2_z_basis.npy", "phase3_streams.npy", "phase3_prompts.jsonl")
MAPS = ("identity", "mean_shift", "procrustes", "ridge", "ols")
LEARNED = ("procrustes", "ridge", "ols")
PRIMARY = "ridge"  # the map that the verdict is about, named before looking
PENALTIES = np.logspace(-4, 4, 17)  # ridge, in units of the mean eigenvalue of the sources' covariance
SHUFFLES = 200
RANDOM_SUBSPACES = 40  # of each kind
MINIMUM_PROBLEMS = 4  # of fewer, a leave-one-out fit rests on two points
CONDITIONS = ("none", *MAPS, "shuffled", "own_language")  # of the transfer: what is put into Z
CONTROLS = ("identity", "shuffled")  # of the transfer: no map, and a map of nothing
OUTCOMES = (
    "recipient_recipient",
    "recipient_donor",
    "donor_recipient",
    "donor_donor",
)  # whose answer, in whose language
SUCCESS = "donor_recipient"


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    opening = checkpoints.begin(REPORT, arguments)
    if opening is None:
        return
    phase2, phase3 = (runs.load_results(arguments.out, stem, opening.folder.identity) for stem in ("phase2", "phase3"))
    z = subspaces.load_z(arguments.out, opening.folder)
    source, target = check_alike(arguments.out, z, phase2, phase3)
    pooled, embedded = pooled_vectors(arguments, opening.folder, z, phase2, (source, target))
    prompts = asked_prompts(arguments.out)
    last = last_vectors(arguments.out, opening.folder, phase3, prompts, z.site, (source, target))
    run = opening.run(
        {"layer_chosen": z.chosen},
        dtype=str(opening.dtype).removeprefix("torch."), batch=arguments.batch, pooling=arguments.pooling,
        source=source, target=target, z=z.summary, inputs=contents(arguments.out, phase2, phase3),
        rung=phase3["rung"], outcomes=OUTCOMES, conditions=CONDITIONS, controls=CONTROLS, maps=MAPS, learned=LEARNED,
        primary=PRIMARY, shuffles=SHUFFLES, random_subspaces=RANDOM_SUBSPACES,
    )  # fmt: skip
    if run is None:
        return
    basis = z.basis.double().numpy()
    inside = coordinates(pooled, basis)
    predictions = predict(*inside)
    left_out = phase2["problems"] - len(pooled[0])
    fitted = {"left_out_as_fitted": left_out, "fitted_on_these": bool(phase2["z"]["fitted_index"]) and not left_out}
    results = {"data": fitted | {"problems": len(pooled[0]), "k": len(basis), "width": opening.folder.width}}
    results |= measure(predictions, *inside, arguments.seed)
    results["null"] = nulls(pooled, basis, results["held_out_r2"], arguments.seed)
    results["embeddings"] = r2_of(*coordinates(embedded, basis))
    results["map"] = map_geometry(*inside)
    results["components"] = components(predictions[PRIMARY], inside[1])
    usable = phase3.get("usable", [])
    known = coordinates([points[usable] for points in last], basis)
    results["last"] = last_position(*known, arguments.seed)
    pairs = make_pairs(phase3, prompts, source, target, arguments.seed) if len(usable) >= MINIMUM_PROBLEMS else []
    sent = sent_vectors(*known, [usable.index(pair.donor) for pair in pairs], arguments.seed)
    answers = phase3["answer_set"] if phase3["rung"] else {"answers": [], "tokens": []}
    scores = send(opening, pairs, answers["tokens"], sent, basis, z.site)
    results["transfer"] = transfer_rates(scores, pairs) | {"answers": len(answers["answers"])}
    loo = np.stack([errors(predictions[name], inside[1]) for name in MAPS])
    run.save(results, dict(zip(ARRAYS, (loo, scores))))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = runs.command_line(__doc__)
    parser.add_argument("--pooling", default="mean", help="of phase 2's activations, as phase 2 names it")
    parser.add_argument("--batch", type=runs.positive, default=16, help="prompts per forward pass of the transfer")
    return parser.parse_args(argv)


def check_alike(out: Path, z: subspaces.HandedZ, phase2: dict, phase3: dict) -> tuple[str, str]:
    """(source, target) language; UserError unless phase 3 tested today's Z and asked in both languages."""
    if "rung" not in phase3:
        raise runs.UserError(f"{out}: an older edition wrote phase 3's results: run phase3_patching.py again")
    if phase3["settings"]["z"] != z.summary:
        raise runs.UserError(f"{out}: phase 2 has run again since phase 3: run phase3_patching.py again")
    languages, asked = phase2["settings"]["languages"], phase3["settings"]["languages"]
    source, target = direction(languages)
    if not {source, target} <= set(asked):
        raise runs.UserError(f"phase 3 asked in {' '.join(asked)}, phase 2 in {' '.join(languages)}: run both alike")
    return source, target


def direction(languages: list[str]) -> tuple[str, str]:
    """(source, target): Chinese to English where both were asked, else the second language to the first."""
    return ("zh", "en") if {"en", "zh"} <= set(languages) else (languages[1], languages[0])


def bridge_problems(phase2: dict) -> np.ndarray:
    """Places of phase 2's problems that Z was not fitted on; all where too few are left, which the report then says."""
    everything = np.arange(phase2["problems"])
    kept = np.setdiff1d(everything, phase2["z"]["fitted_index"])
    return kept if len(kept) >= MINIMUM_PROBLEMS else everything


def pooled_vectors(arguments, folder, z: subspaces.HandedZ, phase2: dict, order: tuple) -> list[tuple]:
    """Phase 2's pooled vectors at Z's site and at site 0, each in the order of languages: (n, d) twice, float64.

    Of phase 2's problems those that a fitted Z was fitted on are left out where enough others are there. Raises UserError
    for a missing or misshapen array and for a pooling that phase 2 did not save.
    """
    poolings, languages = phase2["poolings"], phase2["settings"]["languages"]
    if arguments.pooling not in poolings:
        raise runs.UserError(f"--pooling {arguments.pooling}: phase 2 saved {', '.join(poolings)}")
    shape = (len(languages), phase2["problems"], folder.layers + 1, len(poolings), folder.width)
    activations = runs.load_array(arguments.out, "phase2_activations.npy", shape)
    kept, place = bridge_problems(phase2), poolings.index(arguments.pooling)
    return [
        tuple(activations[languages.index(name), kept, site, place].astype(float) for name in order)
        for site in (z.site, 0)
    ]


def asked_prompts(out: Path) -> list[dict]:
    """Phase 3's prompts: {"language", "problem": its place in the rung, "id", "prompt"}, none where it took no rung."""
    lines = runs.load_array(out, "phase3_prompts.jsonl").decode().split("\n")
    return [json.loads(line) for line in lines if line]


def last_vectors(out: Path, folder, phase3: dict, prompts: list[dict], site: int, order: tuple) -> tuple:
    """Phase 3's streams at a site and the last prompt position, in the order of languages: (n, d) twice, float64.

    n = 0 where it took no rung of problems.
    """
    if not phase3["rung"]:
        return tuple(np.zeros((0, folder.width)) for _ in order)
    asked = phase3["languages"]
    shape = (len(asked), len({prompt["problem"] for prompt in prompts}), folder.layers + 1, folder.width)
    streams = runs.load_array(out, "phase3_streams.npy", shape)
    return tuple(streams[asked.index(name), :, site].astype(float) for name in order)


def contents(out: Path, phase2: dict, phase3: dict) -> dict:
    """Hashes of what was read of the earlier phases: a phase that runs again and finds the same costs nothing here."""
    read2 = [phase2["settings"]["languages"], phase2["poolings"], phase2["problems"], phase2["z"]["fitted_index"]]
    read3 = [phase3.get(key) for key in ("rung", "languages", "usable", "recipients", "blocks", "answer_set")]
    files = {name: runs.file_hash(out / name)[:16] for name in INPUTS}
    return files | {"phase2_results.json": runs.short_hash(read2), "phase3_results.json": runs.short_hash(read3)}


@dataclass(frozen=True)
class Pair:
    """A recipient's prompt and a donor, problems by their place in the rung; and the column of every one of OUTCOMES."""

    recipient: int
    donor: int
    prompt: str
    columns: tuple[int, ...]


def make_pairs(phase3: dict, prompts: list[dict], source: str, target: str, seed: int) -> list[Pair]:
    """Every recipient that phase 3 scored, asked in the target language, with one donor of its block, asked in the source's."""
    recipients, languages = phase3["recipients"], phase3["answer_set"]["languages"]
    blocks = np.zeros((len(recipients), len(recipients)), bool)
    for recipient, block in enumerate(phase3["blocks"]):
        blocks[recipient, block] = True
    chosen = transfer.one_donor_each(blocks, statistics.seeded(seed, "phase3b: donors"))
    texts = {line["problem"]: line["prompt"] for line in prompts if line["language"] == target}
    tongues, pairs = [languages.index(name) for name in (target, source)], []
    for rows in np.argwhere(chosen):
        recipient, donor = (recipients[row] for row in rows)
        places = [row["answer_place"] * len(languages) for row in (recipient, donor)]
        columns = tuple(place + tongue for place in places for tongue in tongues)
        pairs.append(Pair(recipient["problem"], donor["problem"], texts[recipient["problem"]], columns))
    return pairs


def coordinates(vectors, basis: np.ndarray) -> list[np.ndarray]:
    """Coordinates inside Z of every array of vectors. (n, d) each, orthonormal rows (k, d) -> (n, k) each"""
    return [points @ basis.T for points in vectors]


def predict(source: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """Leave-one-out predictions of every map. (n, k) twice -> {map: (n, k)}"""
    return {name: predicted[0] for name, predicted in predict_many(source, target[None]).items()}


def predict_many(source: np.ndarray, targets: np.ndarray, maps: tuple = MAPS) -> dict[str, np.ndarray]:
    """The same for many pairings at once: what depends on the sources is computed once. (n, k), (s, n, k) -> {map: (s, n, k)}"""
    result = {name: np.empty_like(targets) for name in maps}
    for index in range(len(source)):
        rest = np.arange(len(source)) != index
        for name in maps:
            result[name][:, index] = FITS[name](source[rest], targets[:, rest], source[index])
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


FITS = dict(zip(MAPS, (fit_identity, fit_mean_shift, fit_procrustes, fit_ridge, fit_ols)))


def errors(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Squared error of every problem. (..., n, k) -> (..., n)"""
    return np.square(predicted - target).sum(-1)


def mean_errors(target: np.ndarray) -> np.ndarray:
    """Squared error of the training mean, leave-one-out: what R² is measured against. (..., n, k) -> (..., n)"""
    n = target.shape[-2]
    return np.square((target - target.mean(-2, keepdims=True)) * n / (n - 1)).sum(-1)


def r_squared(error: np.ndarray, reference: np.ndarray, axis: int = -1) -> np.ndarray:
    """1 − error / error of the training mean, summed over problems. (..., n) -> (...)"""
    return 1 - error.sum(axis) / np.maximum(reference.sum(axis), 1e-300)


def measure(predictions: dict, source: np.ndarray, target: np.ndarray, seed: int) -> dict:
    """Held-out and in-sample R², retrieval and intervals of every map; every learned map against the mean shift."""
    n, k = source.shape
    reference = mean_errors(target)
    error = {name: errors(predictions[name], target) for name in MAPS}
    nearest = {name: np.square(predictions[name][:, None] - target).sum(-1).argmin(1) for name in MAPS}
    scaled = errors(scaled_shift(source, target), target)
    in_sample = {name: np.stack([FITS[name](source, target[None], point)[0] for point in source]) for name in MAPS}
    centred = np.square(target - target.mean(0)).sum(-1)
    return {
        "held_out_r2": {name: float(r_squared(error[name], reference)) for name in MAPS},
        "interval": {name: interval(error[name], reference, seed) for name in MAPS},
        "in_sample_r2": {name: float(r_squared(errors(in_sample[name], target), centred)) for name in MAPS},
        "retrieval": {name: float((nearest[name] == np.arange(n)).mean()) for name in MAPS},
        "parameters": dict(zip(MAPS, (0, k, k * (k - 1) // 2 + k, k * k + k, k * k + k))),
        "p_above_mean_shift": {name: gain_p(error["mean_shift"] - error[name], seed) for name in LEARNED},
        "scaled_shift_r2": float(r_squared(scaled, reference)),
        "p_above_scaled_shift": {name: gain_p(scaled - error[name], seed) for name in LEARNED},
    }


def interval(error: np.ndarray, reference: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % BCa interval of R² over problems; every map is resampled alike. (n,) twice"""
    return statistics.paired_interval((error, reference), r_squared, statistics.seeded(seed, "phase3b: bootstrap"))


def gain_p(gains: np.ndarray, seed: int) -> float:
    """One-sided p that the mean gain over problems is no more than zero. (n,)"""
    return statistics.sign_flip_p(gains, statistics.seeded(seed, "phase3b: signs"))


def scaled_shift(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Leave-one-out predictions of mean + a (x − mean) with one fitted number a: what shrinking alone achieves. (n, k)"""
    predicted = np.empty_like(target)
    for index in range(len(source)):
        rest = np.arange(len(source)) != index
        means = source[rest].mean(0), target[rest].mean(0)
        x, y = source[rest] - means[0], target[rest] - means[1]
        predicted[index] = means[1] + (x * y).sum() / max((x * x).sum(), 1e-300) * (source[index] - means[0])
    return predicted


def nulls(pooled: tuple, basis: np.ndarray, held_out: dict, seed: int) -> dict:
    """Held-out R² with shuffled problems, and in other subspaces of the same size, with p of being as high.

    Random subspaces are Haar, or matched: orthonormalised draws from N(0, Σ), Σ the shrunken covariance of the same vectors
    around each language's mean, which favours the null.
    """
    k, width = basis.shape
    draw = statistics.seeded(seed, "phase3b: Haar subspaces")
    haar = utils.random_subspaces(draw, RANDOM_SUBSPACES, k, width).numpy()
    centred = torch.from_numpy(np.concatenate([points - points.mean(0) for points in pooled]))
    draw = statistics.seeded(seed, "phase3b: matched subspaces")
    matched = utils.matched_subspaces(draw, RANDOM_SUBSPACES, k, centred).numpy()
    drawn = {"shuffled": shuffled_r2(*coordinates(pooled, basis), seed)}
    for kind, others in (("random", haar), ("matched", matched)):
        rows = [r2_of(*coordinates(pooled, other)) for other in others]
        drawn[kind] = {name: np.array([row[name] for row in rows]) for name in MAPS}
    result = {kind: null_records(draws, held_out) for kind, draws in drawn.items()}
    exploratory = [name for name in MAPS if name != PRIMARY]
    adjusted = statistics.holm([result["shuffled"][name]["p"] for name in exploratory])
    return result | {"p_holm": dict(zip(exploratory, adjusted))}


def null_records(drawn: dict, held_out: dict) -> dict[str, dict]:
    """Every map's null. {map: (draws,)}, {map: R²}"""
    return {name: statistics.null_record(drawn[name], held_out[name]) for name in MAPS}


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
    eye, result = np.eye(source.shape[1]), {}
    for name in LEARNED:
        matrix = np.stack([FITS[name](source, target[None], source.mean(0) + row)[0] - target.mean(0) for row in eye])
        error = float(np.linalg.norm(matrix.T @ matrix - eye) / len(eye) ** 0.5)
        values = np.linalg.svd(matrix, compute_uv=False).tolist()
        result[name] = {"singular_values": values, "orthogonality_error": error}
    return result


def components(predicted: np.ndarray, target: np.ndarray) -> list[list[float]]:
    """Held-out prediction and truth in the targets' first two principal components: [true, true, predicted, predicted]."""
    axes = np.linalg.svd(target - target.mean(0), full_matrices=False)[2][:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    axes = np.concatenate([axes, np.zeros((2 - len(axes), target.shape[1]))])
    return np.concatenate([(target - target.mean(0)) @ axes.T, (predicted - target.mean(0)) @ axes.T], 1).tolist()


def last_position(source: np.ndarray, target: np.ndarray, seed: int) -> dict:
    """The same measurements at the last prompt position, of problems that phase 3 found solved in every language. (n, k) twice"""
    if len(source) < MINIMUM_PROBLEMS:
        return {"problems": len(source)}
    result = measure(predict(source, target), source, target, seed)
    shuffled = null_records(shuffled_r2(source, target, seed), result["held_out_r2"])
    return {"problems": len(source), "shuffled": shuffled} | result


def sent_vectors(source: np.ndarray, target: np.ndarray, donors: list[int], seed: int) -> torch.Tensor:
    """What every pair's recipient gets inside Z, a row for each of CONDITIONS but `none`.

    The leave-one-out prediction of z_target(j) from z_source(j), j the donor's problem. `own_language` sends z_target(j)
    itself, what a perfect map would send; `shuffled` a ridge map fitted on shuffled problems.
    (n, k) twice, places (pairs,) of donors -> (pairs, conditions, k)
    """
    if not donors:
        return torch.zeros(0, len(CONDITIONS) - 1, source.shape[1])
    order = torch.randperm(len(source), generator=statistics.seeded(seed, "phase3b: transfer")).numpy()
    sent = predict(source, target) | {"own_language": target}
    sent["shuffled"] = predict_many(source, target[None, order], (PRIMARY,))[PRIMARY][0]
    return torch.stack([torch.from_numpy(sent[name][donors]) for name in CONDITIONS[1:]], 1).float()


def send(opening, pairs: list[Pair], answers: list, sent: torch.Tensor, basis: np.ndarray, site: int) -> np.ndarray:
    """Log-probabilities of the whole answer set with the recipient's part inside Z replaced by what is sent.

    The recipient asks problem i in the target language, the donor asked problem j in the source language. `answers`: the
    set's token ids. -> (CONDITIONS, pairs, answers) float32
    """
    if not pairs:
        return np.zeros((len(CONDITIONS), 0, len(answers)), np.float32)
    model, tokenizer = models.load_model(opening.folder, opening.device, opening.dtype)
    directions, sent = torch.from_numpy(basis).float().to(model.device), sent.to(model.device)
    prompts, scores = [pair.prompt for pair in pairs], {}
    for chosen, patcher in engine.patched_prompts(model, tokenizer, prompts, answers, opening.arguments.batch):
        own = patcher.streams[:, site, None].float()
        changes = (sent[chosen] - own @ directions.T) @ directions
        scores |= dict(zip(chosen, patcher.scores(site, torch.cat([own, own + changes], 1))))
    return torch.stack(list(runs.gathered(scores).values()), 1).numpy()


def transfer_rates(scores: np.ndarray, pairs: list[Pair]) -> dict:
    """How often the most probable answer of the set is which of OUTCOMES or another, and each condition against the controls.

    scores (CONDITIONS, pairs, answers)
    """
    count = len(pairs)
    columns = np.array([pair.columns for pair in pairs]).reshape(count, len(OUTCOMES))
    best = scores.argmax(-1) if count else np.zeros(scores.shape[:2], int)
    found = dict(zip(CONDITIONS, best[..., None] == columns))  # {condition: (pairs, OUTCOMES)}
    won = {name: rows[:, OUTCOMES.index(SUCCESS)] for name, rows in found.items()}
    result = {"pairs": count, "success": {}, "interval": {}, "winners": {}, "p_against": {}}
    for name, rows in found.items():
        winners = dict(zip((*OUTCOMES, "other"), [*rows.sum(0), (~rows.any(1)).sum()]))
        result["winners"][name] = {outcome: float(number / max(count, 1)) for outcome, number in winners.items()}
        result["success"][name] = result["winners"][name][SUCCESS]
        result["interval"][name] = statistics.wilson_interval(int(won[name].sum()), count) if count else (0.0, 1.0)
    for control in CONTROLS:
        others = {name: (row & ~won[control], won[control] & ~row) for name, row in won.items() if name != control}
        counts = {name: [int(only.sum()) for only in pair] for name, pair in others.items()}
        result["p_against"][control] = {name: statistics.mcnemar_p(*pair) for name, pair in counts.items()}
    return result


if __name__ == "__main__":
    runs.run_script(main)
