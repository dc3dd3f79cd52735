"""Effective rank of every weight matrix and of every attention head's kernel: is there a bottleneck layer?

Question   do the attention heads compress to few directions at one layer, is the network laid out in phases, and how do
           these ranks compare with random matrices of the same shape?
Inputs     a checkpoint's safetensors, streamed one layer at a time; no model is built and no text is read
Outputs    output/one_output.md with figures, one_results.json, one_weight_eff_rank.npy (L, 7),
           one_head_eff_rank.npy (L, h), one_kernel_spectra.npy (L, h, d_head)
Run        python 1.py --model Qwen/Qwen2.5-3B

Steps, which are also the report's headings:
1 effective rank of every weight matrix   2 attention heads   3 random matrices of the same shape
4 bottleneck   5 phases   6 trends over depth   7 eigen-structure of a head
"""

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from tqdm import tqdm

import utils
from lab import checkpoints, runs, statistics
from reports import page

WEIGHT_TYPES = ("W_Q", "W_K", "W_V", "W_O", "W_gate", "W_up", "W_down")
ATTENTION_TYPES, FFN_TYPES = WEIGHT_TYPES[:4], WEIGHT_TYPES[4:]
ENERGY_SHARES = (0.5, 0.75, 0.9, 0.95, 0.99)
ARRAYS = ("one_weight_eff_rank.npy", "one_head_eff_rank.npy", "one_kernel_spectra.npy")
RESAMPLES = 10_000
SUPPORT_NEEDED = 0.95  # share of bootstrap resamples that must pick the same layer
LEVEL = 0.05
RECIPE_CV = 0.08  # the recipe's bound on the heads' coefficient of variation at the bottleneck
RECIPE_VALUE_CV = 0.02  # the recipe's coefficient of variation of W_V's rank over layers
RECIPE_MIDDLE = 0.92  # the recipe's share of layers between the encode and the decode boundary
KERNEL_DRAWS = 20
MATRIX_DRAWS, LARGE_MATRIX = 20, 2**18  # one draw suffices above this many entries: the spread is below 0.1 %


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.report_only:
        return runs.render_again(arguments.out, "one", ARRAYS, render)
    device = runs.choose_device(arguments.device)
    folder = checkpoints.find_model(arguments.model, arguments.revision)
    settings = {"seed": arguments.seed, "fold_norm": arguments.fold_norm, "device": device.type}
    run = runs.Run(__file__, "one", arguments, folder, settings)
    if not arguments.fresh and run.finished(ARRAYS):
        return None
    weight_ranks, spectra, eigen = measure(folder, device, arguments.fold_norm)
    head_ranks = utils.effective_rank(torch.from_numpy(spectra)).numpy()
    null = random_matrices(folder, arguments.seed)
    results = {
        "shape": {"layers": folder.layers, "heads": folder.heads, "groups": folder.groups},
        "bottleneck": find_bottleneck(head_ranks, folder.groups, arguments.seed),
        "trends": find_trends(weight_ranks, head_ranks),
        "eigen": eigen,
        "null": null,
        **find_phases(weight_ranks, head_ranks),
    }
    results = runs.significant(results)  # before any sentence is made of it: the JSON is the truth
    results["verdict"] = decide(results["bottleneck"], folder.layers)
    results["claims"] = claims(results, weight_ranks, head_ranks, folder.is_qwen25_3b)
    return run.save(results, dict(zip(ARRAYS, (weight_ranks, head_ranks, spectra))), render)


def parse_arguments(argv: list[str] | None):
    parser = runs.command_line(__doc__)
    help_text = "multiply kernels by the RMSNorm gains, as the raw residual stream meets them (off = the recipe)"
    parser.add_argument("--fold-norm", action="store_true", help=help_text)
    return parser.parse_args(argv)


# ---- measuring ------------------------------------------------------------------------------------------------------


def measure(
    folder: checkpoints.ModelFolder, device: torch.device, fold_norm: bool
) -> tuple[np.ndarray, np.ndarray, dict]:
    """Effective ranks (L, 7), kernel spectra (L, h, d_head), and per-layer eigen-structure averaged over heads."""
    weight_ranks = np.zeros((folder.layers, len(WEIGHT_TYPES)))
    spectra = np.zeros((folder.layers, folder.heads, folder.head_width))
    eigen = []
    layers = checkpoints.stream_layers(folder)
    for index, layer in enumerate(tqdm(layers, total=folder.layers, desc="layers", disable=None)):
        matrices = (layer.query, layer.key, layer.value, layer.output, layer.gate, layer.up, layer.down)
        for column, matrix in enumerate(matrices):
            weight_ranks[index, column] = utils.effective_rank(utils.singular_values(matrix.to(device)))
        query, key = (part.to(device) for part in utils.kernel_factors(layer, folder.head_width, fold_norm))
        values = utils.kernel_svd(query, key)[0].cpu()
        spectra[index] = values
        eigen.append(eigen_structure(query, key, values))
    return weight_ranks, spectra, {name: [layer[name] for layer in eigen] for name in eigen[0]}


def eigen_structure(query: torch.Tensor, key: torch.Tensor, values: torch.Tensor) -> dict:
    """Means over heads: asymmetry ‖A−Aᵀ‖/‖A‖, share of complex eigenvalues, components for shares of the energy.

    query (h, dh, d), key (g, dh, d), values (h, dh) singular values of A = W_Qᵀ W_K. The non-zero eigenvalues of A are
    those of the small M = W_K W_Qᵀ, and ‖A−Aᵀ‖² = 2‖A‖² − 2 tr(M²). A zero kernel counts as symmetric.
    """
    small = (key.repeat_interleave(len(query) // len(key), 0) @ query.mT).cpu()
    energy = values.square()
    total = energy.sum(-1)
    safe = torch.where(total > 0, total, 1.0)
    overlap = (small @ small).diagonal(dim1=-2, dim2=-1).sum(-1)
    asymmetry = (2 * (total - overlap)).clamp_min(0).div(safe).sqrt()
    eigenvalues = torch.linalg.eigvals(small)
    size = eigenvalues.abs().amax(-1, keepdim=True)
    complex_share = (eigenvalues.imag.abs() > 1e-9 * size).double().mean(-1)
    reached = energy.cumsum(-1) / safe[:, None]
    components = [(reached < share).sum(-1).add(1).double().mean().item() for share in ENERGY_SHARES]
    return {
        "asymmetry": asymmetry.mean().item(),
        "complex_share": complex_share.mean().item(),
        "components": components,
    }


def random_matrices(folder: checkpoints.ModelFolder, seed: int) -> dict:
    """Effective rank of Gaussian matrices of each weight's shape, and the same for a head's kernel."""
    wide, inner = folder.width, folder.config.intermediate_size
    queries, keys = folder.heads * folder.head_width, folder.groups * folder.head_width
    shapes = dict(zip(WEIGHT_TYPES, ((queries, wide), (keys, wide), (keys, wide), (wide, queries))))
    shapes |= dict.fromkeys(FFN_TYPES, (inner, wide))
    weights = {name: gaussian_rank(*sorted(shape), seed) for name, shape in shapes.items()}
    draw = statistics.seeded(seed, "one: random kernels")
    query, key = torch.randn(2, KERNEL_DRAWS, folder.head_width, wide, generator=draw, dtype=torch.float64)
    values, _ = utils.kernel_svd(query, key)
    ranks = utils.effective_rank(values)
    kernel = {"mean": ranks.mean().item(), "sd": ranks.std().item(), **eigen_structure(query, key, values)}
    return {"weights": weights, "kernel": kernel}


def gaussian_rank(short: int, long: int, seed: int, cache: dict = {}) -> float:  # noqa: B006 (shapes repeat)
    """Mean effective rank of Gaussian (short, long) matrices."""
    if (short, long, seed) not in cache:
        draw = statistics.seeded(seed, f"one: random matrix {short} x {long}")
        draws = 1 if short * long > LARGE_MATRIX else MATRIX_DRAWS
        matrices = (torch.randn(short, long, generator=draw, dtype=torch.float64) for _ in range(draws))
        ranks = [utils.effective_rank(utils.singular_values(matrix)).item() for matrix in matrices]
        cache[short, long, seed] = float(np.mean(ranks))
    return cache[short, long, seed]


# ---- deciding -------------------------------------------------------------------------------------------------------


def find_bottleneck(head_ranks: np.ndarray, groups: int, seed: int) -> dict:
    """The layer of lowest mean head rank, and how far that depends on the heads at hand. head_ranks (L, h)

    `support`: share of bootstrap resamples of heads that pick the same layer; `support_groups`: of whole KV groups,
    since heads of a group share W_K and are no independent votes (None for a single group). `p`: see `margin_p`.
    """
    layers = len(head_ranks)
    means = head_ranks.mean(1)
    order = np.argsort(means, kind="stable")
    layer = int(order[0])
    per_group = head_ranks.reshape(layers, groups, -1).mean(2)
    row = head_ranks[layer]
    resample = statistics.seeded(seed, "one: bootstrap groups")
    return {
        "layer": layer,
        "mean": means[layer],
        "sd": row.std(),
        "cv": row.std() / means[layer] if means[layer] else 0.0,
        "cv_other_layers": float(np.median(np.delete(cv_over_heads(head_ranks), layer))) if layers > 1 else None,
        "group_means": per_group[layer],
        "support": bootstrap_support(head_ranks, layer, statistics.seeded(seed, "one: bootstrap heads")),
        "support_groups": bootstrap_support(per_group, layer, resample) if groups > 1 else None,
        "p": margin_p(per_group, seed),
        "runner_up": int(order[1]) if layers > 1 else None,
        "margin": means[order[1]] - means[layer] if layers > 1 else None,
        "layers_after": layers - 1 - layer,
    }


def cv_over_heads(head_ranks: np.ndarray) -> np.ndarray:
    """Coefficient of variation over heads, per layer; 0 where the mean is 0. (L, h) -> (L,)"""
    means = head_ranks.mean(1)
    return head_ranks.std(1) / np.where(means > 0, means, 1)


def bootstrap_support(ranks: np.ndarray, layer: int, generator: torch.Generator) -> float:
    """Share of resamples of the columns whose mean is lowest at `layer`. (L, n)"""
    picks = torch.randint(ranks.shape[1], (RESAMPLES, ranks.shape[1]), generator=generator).numpy()
    weights = np.stack([np.bincount(pick, minlength=ranks.shape[1]) for pick in picks])
    return float((np.argmin(ranks @ weights.T, axis=0) == layer).mean())


def margin_p(per_group: np.ndarray, seed: int) -> float | None:
    """P that the lowest of L equal layers leads the next by as much, by chance alone. per_group (L, g) mean ranks

    Layers that differ only by noise have means that are normal with the pooled variance between KV groups of a layer;
    its L(g - 1) degrees of freedom are allowed for. None where one group, or one layer, leaves no estimate of noise.
    """
    layers, groups = per_group.shape
    if layers < 2 or groups < 2:
        return None
    degrees = layers * (groups - 1)
    noise = np.sqrt(per_group.var(1, ddof=1).mean() / groups)
    lowest, following = np.sort(per_group.mean(1))[:2]
    draw = np.random.default_rng(int(torch.randint(2**62, (1,), generator=statistics.seeded(seed, "one: margin"))))
    means = np.sort(draw.normal(size=(RESAMPLES, layers)), axis=1)
    scale = noise * np.sqrt(degrees / draw.chisquare(degrees, RESAMPLES))
    return statistics.permutation_p(int(((means[:, 1] - means[:, 0]) * scale >= following - lowest).sum()), RESAMPLES)


def find_phases(weight_ranks: np.ndarray, head_ranks: np.ndarray) -> dict:
    """Encode, compute, decode as layer counts, with the votes that set the two boundaries.

    Encode ends at the transition that most weight types have as their largest drop; decode begins at the later
    transition that most of W_Q, W_K, W_V and the head mean have as their largest rise. Transition t is layer t -> t+1.
    """
    layers = len(weight_ranks)
    if layers < 2:
        return {"phases": [0, layers, 0], "phase_votes": {"encode": {}, "decode": {}}}
    columns = dict(zip(WEIGHT_TYPES, np.diff(weight_ranks, axis=0).T)) | {"heads": np.diff(head_ranks.mean(1))}
    encode = {name: int(np.argmin(columns[name])) for name in WEIGHT_TYPES if columns[name].min() < 0}
    first = most_common(encode.values()) + 1 if encode else 0
    voters = ("W_Q", "W_K", "W_V", "heads")
    decode = {
        name: first + int(np.argmax(columns[name][first:]))
        for name in voters
        if max(columns[name][first:], default=0) > 0
    }
    last = layers - 1 - most_common(decode.values()) if decode else 0
    return {"phases": [first, layers - first - last, last], "phase_votes": {"encode": encode, "decode": decode}}


def most_common(votes) -> int:
    """The most frequent vote; the earliest transition among equals."""
    votes = list(votes)
    return min(votes, key=lambda vote: (-votes.count(vote), vote))


def find_trends(weight_ranks: np.ndarray, head_ranks: np.ndarray) -> dict:
    """Spearman correlation of each rank with depth, its permutation p, share of steps that fall, and thirds."""
    columns = dict(zip(WEIGHT_TYPES, weight_ranks.T)) | {"heads": head_ranks.mean(1)}
    trends = {}
    for name, column in columns.items():
        constant = len(column) < 3 or np.ptp(column) == 0
        rho, p = (0.0, 1.0) if constant else stats.spearmanr(np.arange(len(column)), column)
        steps = np.diff(column)
        trends[name] = {
            "rho": float(rho),
            "p": float(p),
            "steps_down": float((steps < 0).mean()) if len(steps) else 0.0,
            "steps_up": float((steps > 0).mean()) if len(steps) else 0.0,
            "thirds": [float(third.mean()) if len(third) else 0.0 for third in np.array_split(column, 3)],
            "mean": float(column.mean()),
            "cv": float(column.std() / column.mean()) if column.mean() else 0.0,
        }
    return trends


def decide(bottleneck: dict, layers: int) -> str:
    """clear_bottleneck | weak_bottleneck | no_bottleneck; with a single KV group nothing can be shown."""
    if bottleneck["p"] is None or bottleneck["p"] >= LEVEL:
        return "no_bottleneck"
    inside = 0 < bottleneck["layer"] < layers - 1
    supported = min(bottleneck["support"], bottleneck["support_groups"]) >= SUPPORT_NEEDED
    return "clear_bottleneck" if inside and supported else "weak_bottleneck"


def support_text(low: dict) -> str:
    """The share of resamples that pick the layer, over heads and over KV groups."""
    if low["support_groups"] is None:
        return f"{low['support']:.0%} of head resamples (one KV group: none over groups)"
    return f"{low['support']:.0%} of head and {low['support_groups']:.0%} of KV-group resamples"


def claims(results: dict, weight_ranks: np.ndarray, head_ranks: np.ndarray, is_qwen: bool) -> list[dict]:
    """The recipe's structural claims about ranks, judged where the model allows it."""
    low, trends, null = results["bottleneck"], results["trends"], results["null"]
    show = page.show
    layers = len(head_ranks)
    middle = results["phases"][1] / layers
    attention = {name: trends[name] for name in (*ATTENTION_TYPES, "heads")}
    ffn = {name: trends[name] for name in FFN_TYPES}

    other_cvs = [trends[name]["cv"] for name in WEIGHT_TYPES if name != "W_V"]

    def rhos(group: dict) -> str:
        return ", ".join(f"{name} ρ {show(trend['rho'], 2)} (p {show(trend['p'], 2)})" for name, trend in group.items())

    chance_rho = "ρ 0; strictly monotone means ρ ±1"
    phases = "-".join(map(str, results["phases"]))
    return [
        page.claim(
            "bottleneck_rank",
            "heads collapse to an effective rank near 78 at layer 33",
            "L33, mean 80.4, sd 6.0",
            f"L{low['layer']}, mean {show(low['mean'])}, sd {show(low['sd'])}",
            f"random kernel {show(null['kernel']['mean'])}",
            bool(low["layer"] == 33 and abs(low["mean"] - 80.4) < 3) if is_qwen else None,
        ),
        page.claim(
            "bottleneck_exists",
            "one layer inside the network is lower than all others",
            "layer 33 of 36",
            f"L{low['layer']} of {layers}: {support_text(low)}, margin {show(low['margin'])}",
            f"equal layers: so large a margin has p {show(low['p'], 2)}",
            results["verdict"] == "clear_bottleneck",
        ),
        page.claim(
            "heads_agree",
            "heads agree on their rank there, more than at other layers",
            "CV < 0.08",
            f"CV {show(low['cv'], 3)}",
            f"median of the other layers {show(low['cv_other_layers'], 3)}",
            bool(low["cv"] < RECIPE_CV and low["cv_other_layers"] is not None and low["cv"] < low["cv_other_layers"]),
        ),
        page.claim(
            "phases",
            "encode, compute and decode have 1, 33 and 2 layers",
            "1-33-2",
            phases,
            "none: largest step of each type, by vote",
            results["phases"] == [1, 33, 2] if is_qwen else None,
        ),
        page.claim(
            "middle",
            "most of the depth is the middle",
            "92 %",
            f"{middle:.0%} ({phases})",
            f"{(layers - 2) / layers:.0%} where both outer phases have one layer",
            bool(middle >= RECIPE_MIDDLE - 0.005),
        ),
        page.claim(
            "attention_falls",
            "attention rank falls monotonically with depth",
            "falls",
            rhos(attention),
            chance_rho,
            all(trend["steps_down"] == 1 for trend in attention.values()),
        ),
        page.claim(
            "ffn_rises",
            "FFN rank rises monotonically with depth",
            "rises",
            rhos(ffn),
            chance_rho,
            all(trend["steps_up"] == 1 for trend in ffn.values()),
        ),
        page.claim(
            "opposite_trends",
            "weaker: attention rank falls and FFN rank rises significantly",
            "opposite at every layer",
            f"median ρ {show(median_rho(attention), 2)} and {show(median_rho(ffn), 2)}",
            f"|ρ| > {show(critical_rho(layers), 2)} needed at p < .05 / 2",
            bool(median_rho(attention) < -critical_rho(layers) and median_rho(ffn) > critical_rho(layers)),
        ),
        page.claim(
            "value_constant",
            "the rank of W_V varies little over layers",
            "about 250, CV 0.02",
            f"mean {show(trends['W_V']['mean'])}, CV {show(trends['W_V']['cv'], 2)}, ρ with depth {show(trends['W_V']['rho'], 2)}",
            f"Gaussian of its shape {show(null['weights']['W_V'])}; CV of the other types {show(min(other_cvs), 2)} to "
            f"{show(max(other_cvs), 2)}",
            bool(trends["W_V"]["cv"] < RECIPE_VALUE_CV + 0.005),
        ),
    ]


def median_rho(trends: dict) -> float:
    return float(np.median([trend["rho"] for trend in trends.values()]))


def critical_rho(layers: int) -> float:
    """|ρ| that is significant at LEVEL / 2 (two trends), by the t approximation."""
    if layers < 4:
        return 1.0
    t = stats.t.ppf(1 - LEVEL / 4, layers - 2)
    return float(t / np.sqrt(layers - 2 + t**2))


# ---- reporting ------------------------------------------------------------------------------------------------------


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figures from results and arrays alone."""
    weight_ranks, head_ranks, spectra = (arrays[name] for name in ARRAYS)
    low, null, layer = results["bottleneck"], results["null"], results["bottleneck"]["layer"]
    sentence = {
        "clear_bottleneck": f"The heads' kernels have a clear bottleneck at layer {layer}",
        "weak_bottleneck": f"The heads' kernels are lowest at layer {layer}, but this is not a clear bottleneck",
        "no_bottleneck": f"No layer is a bottleneck of the heads' kernels; the lowest is layer {layer}",
    }[results["verdict"]]
    sentence += (
        f" (`{results['verdict']}`): mean effective rank {page.show(low['mean'])} there against "
        f"{page.show(null['kernel']['mean'])} for a random kernel; {support_text(low)} pick that layer, and a margin as large over "
        f"the next layer has p = {page.show(low['p'], 2)} if all layers are equal."
    )
    text = page.report(
        f"Effective rank of {results['model']['name']}",
        sentence,
        results["claims"],
        sections(results, weight_ranks, head_ranks),
        limitations(results),
    )
    return {
        "one_rank_per_layer.png": page.png(figure_ranks(weight_ranks, head_ranks, null)),
        "one_head_heatmap.png": page.png(figure_heads(head_ranks)),
        "one_spectra.png": page.png(figure_spectra(spectra, layer)),
        "one_output.md": text.encode(),
    }


def sections(results: dict, weight_ranks: np.ndarray, head_ranks: np.ndarray) -> list[str]:
    low, null, trends, eigen = (results[name] for name in ("bottleneck", "null", "trends", "eigen"))
    show = page.show
    means = head_ranks.mean(1)
    rank_rows = [[f"L{index}", *row, means[index]] for index, row in enumerate(weight_ranks.tolist())]
    rank_rows.append(["**random**", *(null["weights"][name] for name in WEIGHT_TYPES), null["kernel"]["mean"]])
    head_rows = [
        [f"L{index}", means[index], row.std(), cv, row.min(), row.max()]
        for index, (row, cv) in enumerate(zip(head_ranks, cv_over_heads(head_ranks)))
    ]
    group_text = ", ".join(show(mean) for mean in low["group_means"])
    votes = [
        [name, votes_text(results["phase_votes"]["encode"], name), votes_text(results["phase_votes"]["decode"], name)]
        for name in (*WEIGHT_TYPES, "heads")
    ]
    trend_rows = [
        [name, trend["rho"], trend["p"], f"{trend['steps_down']:.0%}", *trend["thirds"], trend["cv"]]
        for name, trend in ((name, trends[name]) for name in (*WEIGHT_TYPES, "heads"))
    ]
    eigen_rows = [
        [f"L{index}", asymmetry, share, *components]
        for index, (asymmetry, share, components) in enumerate(
            zip(eigen["asymmetry"], eigen["complex_share"], eigen["components"])
        )
    ]
    kernel = null["kernel"]
    eigen_rows.append(["**random**", kernel["asymmetry"], kernel["complex_share"], *kernel["components"]])
    energy_columns = [f"{share:.0%} of energy" for share in ENERGY_SHARES]
    encode, compute, decode = results["phases"]
    return [
        "## 1 Effective rank of every weight matrix",
        "![Effective rank per layer](one_rank_per_layer.png)",
        "exp of the entropy of the normalised singular values (Roy & Vetterli 2007). The last row is a Gaussian matrix of "
        "the same shape: a rank close to it says nothing about training.",
        page.table(["layer", *WEIGHT_TYPES, "heads (mean)"], rank_rows),
        "## 2 Attention heads",
        "![Effective rank per layer and head](one_head_heatmap.png)",
        f"Effective rank of each head's kernel W_Qᵀ W_K{' with norm gains folded in' if results['settings']['fold_norm'] else ''}; "
        "CV is the coefficient of variation over heads.",
        page.table(["layer", "mean", "sd", "CV", "lowest head", "highest head"], head_rows),
        "## 3 Random matrices of the same shape",
        f"A kernel of two Gaussian factors of this model's shape has effective rank {show(kernel['mean'])} "
        f"(sd {show(kernel['sd'], 2)} over {KERNEL_DRAWS} draws).",
        "## 4 Bottleneck",
        "![Singular values at the bottleneck](one_spectra.png)",
        f"Lowest mean: layer {low['layer']} with {show(low['mean'])} (sd {show(low['sd'])} over heads; KV groups: "
        f"{group_text}), {low['layers_after']} layer(s) before the end. "
        + (
            f"Runner-up: layer {low['runner_up']}, {show(low['margin'])} higher. "
            if low["runner_up"] is not None
            else ""
        )
        + f"Bootstrap ({RESAMPLES:,} resamples): {support_text(low)} pick it. If all layers were equal up to the noise between KV "
        f"groups, the lowest would lead by as much with p = {show(low['p'], 2)}. The verdict is clear when both shares reach "
        "95 %, p is below .05 and the layer is neither first nor last; weak when p alone is; with one KV group there is no test.",
        "## 5 Phases",
        f"Encode {encode}, compute {compute}, decode {decode} layers. A vote is the transition with a type's largest drop "
        "(encode) or largest later rise (decode).",
        page.table(["type", "largest drop", "largest later rise"], votes),
        "## 6 Trends over depth",
        "Spearman ρ of effective rank with depth. Neighbouring layers are not independent, so p is too small rather than "
        "too large.",
        page.table(
            ["type", "ρ", "p", "steps that fall", "first third", "second", "last third", "CV over layers"], trend_rows
        ),
        "## 7 Eigen-structure of a head",
        "Means over heads of the asymmetry ‖A−Aᵀ‖/‖A‖ (0 symmetric, √2 unrelated to its transpose, 2 antisymmetric), of the "
        "share of complex eigenvalues, and of the number of singular directions that hold a share of the energy Σσ².",
        page.table(["layer", "asymmetry", "complex", *energy_columns], eigen_rows),
    ]


def votes_text(votes: dict, name: str) -> str:
    return f"L{votes[name]} → L{votes[name] + 1}" if name in votes else "–"


def limitations(results: dict) -> list[str]:
    groups = results["shape"]["groups"]
    lines = [
        "Kernels are taken at relative position 0 and without biases: RoPE rotates query against key with distance, and "
        "the QKV biases' linear terms are not part of A.",
        f"{results['shape']['heads']} heads share {groups} key projection(s), so they are not independent votes; see the "
        "KV-group figures.",
        "Effective rank describes weights. It does not show that activations use these directions.",
    ]
    if not results["settings"]["fold_norm"]:
        lines.append(
            "RMSNorm gains are not folded in (as in the recipe); --fold-norm measures what the raw stream meets."
        )
    if any(row["holds"] is None for row in results["claims"]):
        lines.append("Rows marked *not testable here* are about Qwen2.5-3B's own numbers; this is another model.")
    return lines


def figure_ranks(weight_ranks: np.ndarray, head_ranks: np.ndarray, null: dict) -> Figure:
    figure = Figure(figsize=(12, 4))
    panels = figure.subplots(1, 3)
    for panel, names, title in zip(panels, (ATTENTION_TYPES, FFN_TYPES), ("attention weights", "FFN weights")):
        for name in names:
            line = panel.plot(weight_ranks[:, WEIGHT_TYPES.index(name)], marker=".", label=name)[0]
            panel.axhline(null["weights"][name], color=line.get_color(), linestyle=":", linewidth=1)
        panel.set(title=f"{title} (dotted: random)", xlabel="layer", ylabel="effective rank")
    means, spread = head_ranks.mean(1), head_ranks.std(1)
    panels[2].plot(means, marker=".", label="mean over heads")
    panels[2].fill_between(range(len(means)), means - spread, means + spread, alpha=0.25, label="± 1 sd")
    panels[2].axhline(null["kernel"]["mean"], color="black", linestyle=":", linewidth=1, label="random kernel")
    panels[2].axvline(int(np.argmin(means)), color="tab:red", linewidth=1, label="lowest")
    panels[2].set(title="attention kernels", xlabel="layer", ylabel="effective rank")
    for panel in panels:
        panel.legend(fontsize=8)
    figure.tight_layout()
    return figure


def figure_heads(head_ranks: np.ndarray) -> Figure:
    figure = Figure(figsize=(max(5, 0.35 * len(head_ranks)), max(2.5, 0.3 * head_ranks.shape[1])))
    panel = figure.subplots()
    image = panel.imshow(head_ranks.T, aspect="auto", origin="lower", cmap="viridis")
    panel.set(title="effective rank of each head's kernel", xlabel="layer", ylabel="head")
    panel.set_yticks(range(head_ranks.shape[1]))
    figure.colorbar(image, ax=panel)
    figure.tight_layout()
    return figure


def figure_spectra(spectra: np.ndarray, layer: int) -> Figure:
    figure = Figure(figsize=(6, 4))
    panel = figure.subplots()
    top = np.where(spectra[..., :1] > 0, spectra[..., :1], 1)
    scaled = spectra / top
    for head, row in enumerate(scaled[layer]):
        panel.plot(
            np.arange(1, len(row) + 1), row, color="tab:red", alpha=0.6, label=f"L{layer} heads" if head == 0 else None
        )
    panel.plot(
        np.arange(1, scaled.shape[-1] + 1), scaled.mean((0, 1)), color="black", label="mean over all layers and heads"
    )
    panel.set(title=f"kernel spectra at layer {layer}", xlabel="component", ylabel="σ / largest σ", yscale="log")
    panel.set_ylim(bottom=max(1e-4, float(scaled[layer][scaled[layer] > 0].min(initial=1.0)) / 2))
    panel.legend()
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    runs.run_script(main)
