"""Effective rank of every weight matrix and of every attention head's kernel: is there a bottleneck layer?

Question   do the attention heads compress to few directions at one layer, is the network laid out in phases, and how do
           these ranks compare with random matrices of the same shape?
Inputs     a checkpoint's safetensors, streamed one layer at a time; no model is built and no text is read
Outputs    output/one_output.md with figures, one_results.json, one_weight_eff_rank.npy (L, 7),
           one_head_eff_rank.npy (L, h), one_kernel_spectra.npy (L, h, d_head), one_weight_spectra.npy (L, 7, d)
Run        python 1.py --model Qwen/Qwen2.5-3B

Steps, which are also the report's headings:
1 effective rank of every weight matrix   2 attention heads   3 random matrices of the same shape
4 bottleneck   5 phases   6 trends over depth   7 eigen-structure of a head
"""

from functools import cache

import numpy as np
import torch
from scipy import stats
from tqdm import tqdm

import utils
import verdicts
from lab import checkpoints, commands, runs, statistics
from reports import one as page

WEIGHT_TYPES = ("W_Q", "W_K", "W_V", "W_O", "W_gate", "W_up", "W_down")
ATTENTION_TYPES, FFN_TYPES = WEIGHT_TYPES[:4], WEIGHT_TYPES[4:]
ENERGY_SHARES = (0.5, 0.75, 0.9, 0.95, 0.99)
RESAMPLES = 10_000
LARGEST_WINDOW = 3  # neighbours that may form a bottleneck: the recipe's own picture is a pair, L32 and L33
KERNEL_DRAWS = 20
MATRIX_DRAWS, LARGE_MATRIX = 20, 2**18  # one draw suffices above this many entries: the spread is below 0.1 %
ARRAYS = ("one_weight_eff_rank.npy", "one_head_eff_rank.npy", "one_kernel_spectra.npy", "one_weight_spectra.npy")
REPORT = runs.Report(__file__, "one", ARRAYS, verdicts.one, page)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    opening = checkpoints.begin(REPORT, arguments)
    if opening is None:
        return
    run = opening.run(fold_norm=arguments.fold_norm)
    if run is None:
        return
    folder = opening.folder
    weight_values, spectra, eigen, shapes = measure(folder, opening.device, arguments.fold_norm)
    weight_ranks = ranks_of(weight_values)
    head_ranks = utils.effective_rank(torch.from_numpy(spectra)).numpy()
    bottleneck = find_bottleneck(head_ranks, folder.groups, arguments.seed)
    trends = find_trends(weight_ranks, head_ranks)
    lowest = np.inf if bottleneck["mean"] is None else bottleneck["mean"]  # without a kernel nothing is low
    results = {
        "shape": {"layers": folder.layers, "heads": folder.heads, "groups": folder.groups},
        "is_qwen25_3b": folder.is_qwen25_3b,
        "weight_types": {"attention": ATTENTION_TYPES, "ffn": FFN_TYPES},
        "heads": over_heads(head_ranks),
        "zero_kernels": zero_kernels(head_ranks),
        "bottleneck": bottleneck,
        "trends": trends,
        "opposite": opposite_trends(trends, folder.layers),
        "eigen": eigen,
        "energy_shares": ENERGY_SHARES,
        "null": random_matrices(shapes, folder.head_width, lowest, arguments.seed),
        **find_phases(weight_ranks, head_ranks),
    }
    run.save(results, dict(zip(ARRAYS, (weight_ranks, head_ranks, spectra, weight_values))))


def parse_arguments(argv: list[str] | None):
    parser = commands.parser(__doc__)
    help_text = "multiply kernels by the RMSNorm gains, as the raw residual stream meets them (off = the recipe)"
    parser.add_argument("--fold-norm", action="store_true", help=help_text)
    return parser.parse_args(argv)


def measure(folder, device: torch.device, fold_norm: bool) -> tuple[np.ndarray, np.ndarray, dict, dict]:
    """Singular values of weights (L, 7, d) and kernels (L, h, d_head), eigen-structure per layer as means over heads, shapes.

    Values are padded with zeros to the model's width d; a type that a layer lacks is NaN. `shapes` is {weight type: the shape
    that most layers have}; a type that no layer has is missing there.
    """
    weight_values = np.full((folder.layers, len(WEIGHT_TYPES), folder.width), np.nan)
    spectra = np.zeros((folder.layers, folder.heads, folder.head_width))
    eigen, shapes = [], {name: [] for name in WEIGHT_TYPES}
    layers = checkpoints.stream_layers(folder)
    for index, layer in enumerate(tqdm(layers, total=folder.layers, desc="layers", disable=None)):
        matrices = (layer.query, layer.key, layer.value, layer.output, layer.gate, layer.up, layer.down)
        for column, (name, matrix) in enumerate(zip(WEIGHT_TYPES, matrices)):
            if matrix is not None:
                values = utils.singular_values(matrix.to(device)).cpu()
                weight_values[index, column] = 0
                weight_values[index, column, : len(values)] = values
                shapes[name].append(tuple(matrix.shape))
        query, key = (part.to(device) for part in utils.kernel_factors(layer, folder.head_width, fold_norm))
        values = utils.kernel_values(query, key).cpu()
        spectra[index] = values
        eigen.append(eigen_structure(query, key, values))
    shapes = {name: max(found, key=found.count) for name, found in shapes.items() if found}
    return weight_values, spectra, {name: [layer[name] for layer in eigen] for name in eigen[0]}, shapes


def ranks_of(weight_values: np.ndarray) -> np.ndarray:
    """Effective ranks; NaN for what a layer lacks. (L, 7, d) -> (L, 7)"""
    ranks = utils.effective_rank(torch.from_numpy(np.nan_to_num(weight_values))).numpy()
    return np.where(np.isnan(weight_values[..., 0]), np.nan, ranks)


def eigen_structure(query: torch.Tensor, key: torch.Tensor, values: torch.Tensor) -> dict:
    """Means over heads: asymmetry ‖A−Aᵀ‖/‖A‖, share of complex eigenvalues, components for shares of the energy.

    query (h, dh, d), key (g, dh, d), values (h, dh) singular values of A = W_Qᵀ W_K. The non-zero eigenvalues of A are
    those of the small M = W_Q W_Kᵀ, and ‖A−Aᵀ‖² = 2‖A‖² − 2 tr(M²). A zero kernel counts as symmetric.
    """
    small = query.unflatten(0, (len(key), -1)).flatten(1, 2) @ key.mT  # (g, h/g * dh, dh)
    small = small.view(*query.shape[:2], -1).cpu()
    energy = values.square()
    total = energy.sum(-1)
    safe = torch.where(total > 0, total, 1.0)
    overlap = (small * small.mT).sum((-2, -1))
    asymmetry = (2 * (total - overlap)).clamp_min(0).div(safe).sqrt()
    eigenvalues = torch.linalg.eigvals(small)
    size = eigenvalues.abs().amax(-1, keepdim=True)
    complex_share = (eigenvalues.imag.abs() > 1e-9 * size).double().mean(-1)
    reached = energy.cumsum(-1) / safe[:, None]
    components = [(reached < share).sum(-1).add(1).double().mean().item() for share in ENERGY_SHARES]
    means = {"asymmetry": asymmetry.mean().item(), "complex_share": complex_share.mean().item()}
    return means | {"components": components}


def random_matrices(shapes: dict, head_width: int, lowest: float, seed: int) -> dict:
    """Effective rank of Gaussian matrices of each weight's shape, and of a head's kernel against the `lowest` mean found.

    shapes {weight type: shape}; None for a type that the model lacks.
    """
    found = {name: gaussian_rank(*sorted(shape), seed) for name, shape in shapes.items()}
    draw = statistics.seeded(seed, "one: random kernels")
    wide = shapes["W_Q"][1]
    query, key = torch.randn(2, KERNEL_DRAWS, head_width, wide, generator=draw, dtype=torch.float64)
    values = utils.kernel_values(query, key)
    kernel = statistics.null_record(utils.effective_rank(values).numpy(), lowest, low_counts=True)
    weights = {name: found.get(name) for name in WEIGHT_TYPES}
    return {"weights": weights, "kernel": kernel, "kernel_eigen": eigen_structure(query, key, values)}


@cache
def gaussian_rank(short: int, long: int, seed: int) -> float:
    """Mean effective rank of Gaussian (short, long) matrices; cached, since weights of several types share a shape."""
    draw = statistics.seeded(seed, f"one: random matrix {short} x {long}")
    draws = 1 if short * long > LARGE_MATRIX else MATRIX_DRAWS
    matrices = (torch.randn(short, long, generator=draw) for _ in range(draws))
    return float(np.mean([utils.effective_rank(utils.singular_values(matrix)).item() for matrix in matrices]))


def kernel_ranks(head_ranks: np.ndarray) -> np.ma.MaskedArray:
    """Head ranks with zero kernels masked: these have no directions, which is no collapse to a few. (L, h)"""
    return np.ma.masked_equal(head_ranks, 0)


def zero_kernels(head_ranks: np.ndarray) -> list[dict]:
    """Layers with kernels of zeros, and how many. (L, h)"""
    counts = (head_ranks == 0).sum(1)
    return [{"layer": int(layer), "heads": int(counts[layer])} for layer in np.flatnonzero(counts)]


def over_heads(head_ranks: np.ndarray) -> dict:
    """Per layer, over heads whose kernel is not zero: mean, standard deviation, their ratio and extremes. (L, h)

    Masked, which is saved as null, where a layer has no such head.
    """
    ranks = kernel_ranks(head_ranks)
    means, spread = ranks.mean(1), ranks.std(1)
    return {"mean": means, "sd": spread, "cv": spread / means, "lowest": ranks.min(1), "highest": ranks.max(1)}


def find_bottleneck(head_ranks: np.ndarray, groups: int, seed: int) -> dict:
    """The inner layer of lowest mean head rank, and how far that depends on the heads at hand. head_ranks (L, h)

    The first and the last layer cannot lie between encoding and decoding; where no inner layer has a kernel, the lowest of
    all is named. `window`: the layer and the neighbours that lead the other inner layers with it, see `window_margin`.
    `support`: share of bootstrap resamples of heads whose lowest inner layer lies in the window; `support_groups`: of whole
    KV groups, since heads of a group share W_K and are no independent votes (None for a single group).
    """
    layers, heads = len(head_ranks), over_heads(head_ranks)
    means = heads["mean"]
    existing = np.flatnonzero(~np.ma.getmaskarray(means))
    inner = existing[(existing > 0) & (existing < layers - 1)]
    among = next((found for found in (inner, existing) if len(found)), np.array([0]))
    layer, lowest = int(among[np.ma.argmin(means[among])]), int(np.ma.argmin(means))
    counts = (head_ranks > 0).astype(float)
    totals, numbers = (part[among].reshape(len(among), groups, -1).sum(2) for part in (head_ranks, counts))
    lead = {"window": [layer], "margin": None, "margin_null": None, "runner_up": None}
    if len(inner) > 1:
        lead = find_window(means[inner].data, totals, numbers, inner, seed)
    inside = np.isin(among, lead["window"])
    resample = {unit: statistics.seeded(seed, f"one: bootstrap {unit}") for unit in ("heads", "groups")}
    support = bootstrap_support(head_ranks[among], counts[among], inside, resample["heads"])
    others = heads["cv"][np.arange(layers) != layer].compressed()
    return lead | {
        "window_highest": means[lead["window"]].max() or None,
        "beside": outer_neighbours(lead["window"], existing, means),
        "layer": layer,
        "inner_layers": len(inner),
        "lowest": {"layer": lowest, "mean": means[lowest] or None},
        "mean": means[layer] or None,
        "sd": heads["sd"][layer],
        "cv": heads["cv"][layer],
        "cv_other_layers": float(np.median(others)) if len(others) else None,
        "group_means": np.ma.divide(totals, numbers)[among == layer][0],
        "support": support,
        "support_groups": bootstrap_support(totals, numbers, inside, resample["groups"]) if groups > 1 else None,
        "layers_after": layers - 1 - layer,
        "resamples": RESAMPLES,
    }


def outer_neighbours(window: list[int], existing: np.ndarray, means: np.ndarray) -> list[dict]:
    """The layers with a kernel next to the window on either side, edge layers included. means (L,)"""
    sides = (existing[existing < window[0]][-1:], existing[existing > window[-1]][:1])
    return [{"layer": int(layer), "mean": means[layer]} for side in sides for layer in side]


def find_window(means: np.ndarray, totals: np.ndarray, counts: np.ndarray, layers: np.ndarray, seed: int) -> dict:
    """The window of lowest layers, its margin over the runner-up, and the margin's null.

    means (n,) of the inner layers (n,), n > 1; totals, counts (n, g): per KV group the sum of ranks and of how many kernels.
    """
    margins, sizes = window_margin(means[None], layers)
    order = layers[np.argsort(means, kind="stable")]
    return {
        "window": sorted(order[: sizes[0]].tolist()),
        "runner_up": int(order[sizes[0]]),
        "margin": float(margins[0]),
        "margin_null": margin_null(totals, counts, layers, float(margins[0]), seed),
    }


def window_margin(means: np.ndarray, layers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By how much a window of the lowest layers leads the next one, and its size. (draws, n), (n,) -> (draws,) twice

    A window may hold the lowest, the two or the three lowest layers where these are neighbours; the one that leads by most
    counts, of equals the smaller.
    """
    order = np.argsort(means, axis=1, kind="stable")
    ranked, places = np.take_along_axis(means, order, 1), layers[order]
    leads = []
    for size in range(1, min(LARGEST_WINDOW, len(layers) - 1) + 1):
        neighbours = np.ptp(places[:, :size], axis=1) == size - 1
        leads.append(np.where(neighbours, ranked[:, size] - ranked[:, size - 1], 0))
    return np.max(leads, axis=0), np.argmax(leads, axis=0) + 1


def margin_null(totals: np.ndarray, counts: np.ndarray, layers: np.ndarray, margin: float, seed: int) -> dict | None:
    """By how much a window of equal layers leads by chance alone, its size and place free. See `find_window`.

    Layers that differ only by noise have means that are normal with the variance between KV groups of a layer, pooled over
    layers; its n(g - 1) degrees of freedom are allowed for. None where one group leaves no estimate of noise.
    """
    per_group = np.ma.divide(totals, counts)  # masked where all kernels of a group are zero
    degrees = int((per_group.count(1) - 1).sum())
    if degrees < 1:
        return None
    variance = ((per_group - per_group.mean(1, keepdims=True)) ** 2).sum() / degrees
    shares = counts / counts.sum(1, keepdims=True)
    noise = np.sqrt(variance * (shares**2).sum(1))  # of each layer's mean
    draw = statistics.numpy_generator(statistics.seeded(seed, "one: margin"))
    margins, _ = window_margin(draw.normal(size=(RESAMPLES, len(layers))) * noise, layers)
    return statistics.null_record(margins * np.sqrt(degrees / draw.chisquare(degrees, RESAMPLES)), margin)


def bootstrap_support(totals: np.ndarray, counts: np.ndarray, inside: np.ndarray, generator: torch.Generator) -> float:
    """Share of resamples of the columns whose lowest mean lies `inside`. totals, counts (n, columns), inside (n,) bool"""
    columns = totals.shape[1]
    picks = torch.randint(columns, (RESAMPLES, columns), generator=generator).numpy()
    weights = np.stack([np.bincount(pick, minlength=columns) for pick in picks])
    means = np.ma.divide(totals @ weights.T, counts @ weights.T)  # masked where only zero kernels were drawn
    return float((inside[means.argmin(0)] & (means.count(0) > 0)).mean())


def find_phases(weight_ranks: np.ndarray, head_ranks: np.ndarray) -> dict:
    """Encode, compute, decode as layer counts, with the votes that set the two boundaries. (L, 7), (L, h)

    Encode ends at the transition that most weight types have as their largest drop; decode begins at the later
    transition that most of W_Q, W_K, W_V and the head mean have as their largest rise. Transition t is layer t -> t+1.
    """
    layers = len(weight_ranks)
    if layers < 2:
        return {"phases": [0, layers, 0], "phase_votes": {"encode": {}, "decode": {}}}
    # next to a layer without a kernel, or a weight, there is no step
    steps = np.ma.diff(over_heads(head_ranks)["mean"]).filled(0)
    columns = dict(zip(WEIGHT_TYPES, np.nan_to_num(np.diff(weight_ranks, axis=0)).T)) | {"heads": steps}
    encode = {name: int(np.argmin(columns[name])) for name in WEIGHT_TYPES if columns[name].min() < 0}
    first = most_common(encode.values()) + 1 if encode else 0
    voters = ("W_Q", "W_K", "W_V", "heads")
    rising = [name for name in voters if max(columns[name][first:], default=0) > 0]
    decode = {name: first + int(np.argmax(columns[name][first:])) for name in rising}
    last = layers - 1 - most_common(decode.values()) if decode else 0
    return {"phases": [first, layers - first - last, last], "phase_votes": {"encode": encode, "decode": decode}}


def most_common(votes) -> int:
    """The most frequent vote; the earliest transition among equals."""
    votes = list(votes)
    return min(votes, key=lambda vote: (-votes.count(vote), vote))


def find_trends(weight_ranks: np.ndarray, head_ranks: np.ndarray) -> dict:
    """Spearman correlation of each rank with depth, its p (t approximation), shares of steps down and up, and thirds.

    (L, 7), (L, h). The heads' mean leaves out layers of zero kernels, a weight's those that lack it; a weight type
    that the model lacks has no trend.
    """
    columns = dict(zip(WEIGHT_TYPES, np.ma.masked_invalid(weight_ranks).T))
    columns = {name: column for name, column in columns.items() if column.count()}
    columns["heads"] = over_heads(head_ranks)["mean"]
    trends = {}
    for name, column in columns.items():
        depth = np.flatnonzero(~np.ma.getmaskarray(column))
        column = np.asarray(column)[depth]
        constant = len(column) < 3 or np.ptp(column) == 0
        rho, p = (0.0, 1.0) if constant else stats.spearmanr(depth, column)
        steps, mean = np.diff(column), float(column.mean()) if len(column) else 0.0
        trends[name] = {
            "rho": float(rho),
            "p": float(p),
            "steps_down": float((steps < 0).mean()) if len(steps) else 0.0,
            "steps_up": float((steps > 0).mean()) if len(steps) else 0.0,
            "thirds": [float(third.mean()) if len(third) else 0.0 for third in np.array_split(column, 3)],
            "mean": mean,
            "cv": float(column.std() / mean) if mean else 0.0,
        }
    return trends


def opposite_trends(trends: dict, layers: int) -> dict:
    """Median ρ over the attention's and over the FFN's ranks, each with its two-sided p."""
    groups = ((*ATTENTION_TYPES, "heads"), [name for name in FFN_TYPES if name in trends])
    attention, ffn = (float(np.median([trends[name]["rho"] for name in names])) for names in groups)
    ps = {"p_attention": rho_p(attention, layers), "p_ffn": rho_p(ffn, layers)}
    return {"attention": attention, "ffn": ffn, **ps}


def rho_p(rho: float, layers: int) -> float:
    """Two-sided p of a rank correlation by the t approximation; 1 where fewer than four layers leave nothing to test."""
    if layers < 4:
        return 1.0
    t = abs(rho) * np.sqrt((layers - 2) / max(1 - rho**2, 1e-12))
    return float(2 * stats.t.sf(t, layers - 2))


if __name__ == "__main__":
    runs.run_script(main)
