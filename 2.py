"""Overlap of the heads' subspaces across layers, and with the FFN: do heads converge, does the FFN avoid them?

Question   which layers' attention kernels look at the same directions, where does that break off, and does W_gate read
           those directions less (or more) than chance?
Inputs     a checkpoint's safetensors, streamed one layer at a time; output/one_results.json for the bottleneck layer
Outputs    output/two_output.md with figures, two_results.json, two_similarity.npy (h, L, L),
           two_ffn_alignment.npy (L, h), two_consensus_similarity.npy (L, L)
Run        python 2.py --model Qwen/Qwen2.5-3B          after 1.py

Steps, which are also the report's headings:
1 overlap across layers   2 convergence on the bottleneck   3 heads among themselves   4 FFN alignment
5 how well defined the subspaces are
"""

import numpy as np
import scipy.linalg
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

import utils
from lab import checkpoints, runs, statistics
from reports import page

ARRAYS = ("two_similarity.npy", "two_ffn_alignment.npy", "two_consensus_similarity.npy")
DIRECTIONS = 20  # the recipe's k: its recorded chance level 0.0098 is 20 / 2048
HAAR_DRAWS = 200
LEVEL = 0.05
ORTHOGONAL = 0.1  # below a tenth of chance the word "orthogonal" is fair; exact orthogonality would be 0
RECIPE_PAIR_RATIO = 2  # "2x any other pair"


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.report_only:
        return runs.render_again(arguments.out, "two", ARRAYS, render)
    device = runs.choose_device(arguments.device)
    folder = checkpoints.find_model(arguments.model, arguments.revision)
    layer = runs.bottleneck_layer(arguments, folder)
    k = min(arguments.k, folder.head_width, folder.width)
    settings = {"seed": arguments.seed, "fold_norm": arguments.fold_norm, "device": device.type}
    settings |= {"k": k, "k_asked": arguments.k, "layer": layer}
    run = runs.Run(__file__, "two", arguments, folder, settings)
    if not arguments.fresh and run.finished(ARRAYS):
        return None
    subspaces, definition = head_subspaces(folder, device, k, arguments.fold_norm)
    consensus = torch.stack([utils.multi_head_subspace(heads, k) for heads in subspaces])
    similarity = torch.stack([utils.similarity_matrix(head) for head in subspaces.transpose(0, 1)]).cpu().numpy()
    consensus_similarity = utils.similarity_matrix(consensus).cpu().numpy()
    alignment, ffn = ffn_alignment(folder, device, subspaces, consensus, arguments)
    results = {
        "shape": {"layers": folder.layers, "heads": folder.heads, "groups": folder.groups, "width": folder.width},
        "chance": k / folder.width,
        "definition": definition,
        "ffn": ffn,
        "ffn_alignment_over_chance": alignment.mean(1) / (k / folder.width),
        "heads": heads_among_themselves(subspaces, folder.groups),
        **adjacent_layers(similarity, consensus_similarity, layer, folder.groups),
    }
    results = runs.significant(results)  # before any sentence is made of it: the JSON is the truth
    results["verdict"] = decide(results["ffn"], layer)
    results["claims"] = claims(results, alignment, layer, folder.is_qwen25_3b)
    return run.save(results, dict(zip(ARRAYS, (similarity, alignment, consensus_similarity))), render)


def parse_arguments(argv: list[str] | None):
    parser = runs.command_line(__doc__)
    parser.add_argument(
        "--k", type=runs.positive, default=DIRECTIONS, help="directions per head, at most the head width"
    )
    parser.add_argument("--layer", default="auto", help="bottleneck layer; auto = the one that 1.py found")
    help_text = (
        "multiply kernels and W_gate by the RMSNorm gains, as the raw residual stream meets them (off = the recipe)"
    )
    parser.add_argument("--fold-norm", action="store_true", help=help_text)
    return parser.parse_args(argv)


# ---- measuring ------------------------------------------------------------------------------------------------------


def head_subspaces(folder, device: torch.device, k: int, fold_norm: bool) -> tuple[torch.Tensor, dict]:
    """Every head's top-k right (key-side) subspace, (L, h, k, d) float64, and how well defined these are.

    `gap` is the median over heads of σ_k/σ_{k+1}: near 1 the cut at k is arbitrary. `folded` is the mean similarity
    between the subspaces with and without the RMSNorm gains.
    """
    subspaces, gaps, folded = [], [], []
    layers = checkpoints.stream_layers(folder)
    for layer in tqdm(layers, total=folder.layers, desc="subspaces", disable=None):
        pair = {}
        for fold in (False, True):
            factors = (part.to(device) for part in utils.kernel_factors(layer, folder.head_width, fold))
            values, vectors = utils.kernel_svd(*factors)
            pair[fold] = vectors[:, :k]
            if fold == fold_norm:
                gaps.append(median_gap(values, k))
        subspaces.append(pair[fold_norm])
        folded.append(utils.grassmann_similarity(pair[False], pair[True]).mean().item())
    return torch.stack(subspaces), {"gap": gaps, "folded": folded}


def median_gap(values: torch.Tensor, k: int) -> float | None:
    """Median over heads of σ_k/σ_{k+1}; None where k is the whole kernel or the next value is zero. (h, dh)"""
    if k == values.shape[1] or (values[:, k] == 0).any():
        return None
    return (values[:, k - 1] / values[:, k]).median().item()


def heads_among_themselves(subspaces: torch.Tensor, groups: int) -> dict:
    """Per layer, mean Grassmann similarity of head pairs that share a KV group, and of pairs that do not. (L, h, k, d)"""
    group = torch.arange(subspaces.shape[1]) * groups // subspaces.shape[1]
    same = group[:, None] == group[None, :]
    pairs = ~torch.eye(len(group), dtype=torch.bool)
    result = {"within_group": [], "across_groups": []}
    for heads in subspaces:
        similarity = utils.similarity_matrix(heads).cpu()
        for name, mask in (("within_group", same & pairs), ("across_groups", ~same)):
            result[name].append(similarity[mask].mean().item() if mask.any() else None)
    return result


def ffn_alignment(
    folder, device, subspaces: torch.Tensor, consensus: torch.Tensor, arguments
) -> tuple[np.ndarray, dict]:
    """Energy of W_gate in each head's subspace, (L, h), and the same for W_up, for nulls and for top singular vectors.

    (a) ‖W Vᵀ‖²_F/‖W‖²_F from the Gram matrix of W; (b) the recipe's text: similarity of W_gate's top-k right singular
    vectors to the subspace. Nulls: Haar subspaces, and the multi-head subspaces of all other layers.
    """
    layers, heads, k, width = subspaces.shape
    draw = statistics.seeded(arguments.seed, "two: Haar subspaces")
    haar = utils.random_subspaces(draw, HAAR_DRAWS, k, width).to(device)
    alignment = np.zeros((layers, heads))
    names = ("gate", "up", "gate_consensus", "gate_other_layers", "gate_top", "haar_mean", "haar_sd", "p_low", "p_high")
    ffn = {name: [] for name in names}
    for index, layer in enumerate(tqdm(checkpoints.stream_layers(folder), total=layers, desc="FFN", disable=None)):
        gain = layer.ffn_gain.to(device).double() if arguments.fold_norm else 1.0
        up, gate = (gram(matrix.to(device).double() * gain) for matrix in (layer.up, layer.gate))
        alignment[index] = energy(gate, subspaces[index]).cpu()
        others = torch.arange(layers) != index
        random = energy(gate, haar).cpu()
        mean = float(alignment[index].mean())
        ffn["gate"].append(mean)
        ffn["up"].append(energy(up, subspaces[index]).mean().item())
        ffn["gate_consensus"].append(energy(gate, consensus[index : index + 1]).item())
        ffn["gate_other_layers"].append(energy(gate, consensus[others]).mean().item() if others.any() else None)
        top = top_eigenvectors(gate, k)
        ffn["gate_top"].append(utils.grassmann_similarity(top, subspaces[index]).mean().item())
        ffn["haar_mean"].append(random.mean().item())
        ffn["haar_sd"].append(random.std().item())
        ffn["p_low"].append(statistics.permutation_p(int((random <= mean).sum()), HAAR_DRAWS))
        ffn["p_high"].append(statistics.permutation_p(int((random >= mean).sum()), HAAR_DRAWS))
    return alignment, ffn


def gram(matrix: torch.Tensor) -> torch.Tensor:
    """WᵀW at unit trace (zero stays zero). (m, d) -> (d, d)"""
    product = matrix.T @ matrix
    total = product.trace()
    return product / total if total > 0 else product


def energy(gram_matrix: torch.Tensor, subspaces: torch.Tensor) -> torch.Tensor:
    """tr(V G Vᵀ): the share of W's energy inside each subspace. (d, d), (n, k, d) -> (n,)"""
    return ((subspaces @ gram_matrix) * subspaces).sum((-2, -1))


def top_eigenvectors(gram_matrix: torch.Tensor, k: int) -> torch.Tensor:
    """The k leading eigenvectors as rows, (k, d): the top right singular vectors of W."""
    width = len(gram_matrix)
    _, vectors = scipy.linalg.eigh(gram_matrix.cpu().numpy(), subset_by_index=(width - k, width - 1))
    return torch.from_numpy(vectors.T[::-1].copy()).to(gram_matrix.device)


def adjacent_layers(similarity: np.ndarray, consensus: np.ndarray, layer: int, groups: int) -> dict:
    """Similarity of neighbouring layers, its largest drop (the snap) and how many heads and groups agree on it."""
    heads, layers, _ = similarity.shape
    steps = similarity[:, np.arange(layers - 1), np.arange(1, layers)]  # (h, L-1)
    result = {
        "adjacent": steps.mean(0),
        "adjacent_consensus": consensus[np.arange(layers - 1), np.arange(1, layers)],
        "to_bottleneck": similarity[:, layer].mean(0),
        "to_bottleneck_consensus": consensus[layer],
        "best_pair": best_pair(similarity.mean(0), exclude=None),
        "approach": float(steps.mean(0)[layer - 1]) if layer > 0 else None,
        "best_other_pair": best_pair(similarity.mean(0), exclude=(layer - 1, layer)),
        "snap": None,
    }
    if layers >= 3:
        drops = steps[:, :-1] - steps[:, 1:]  # (h, L-2): from pair (t, t+1) to pair (t+1, t+2)
        start = int(np.argmax(drops.mean(0))) + 1
        grouped = drops.reshape(groups, heads // groups, -1).mean(1)
        result |= {
            "snap": [start, start + 1],
            "snap_drop": float(drops.mean(0)[start - 1]),
            "snap_heads": float((drops.argmax(1) == start - 1).mean()),
            "snap_groups": float((grouped.argmax(1) == start - 1).mean()),
        }
    return result


def best_pair(similarity: np.ndarray, exclude: tuple[int, int] | None) -> dict | None:
    """The most similar pair of different layers other than `exclude`."""
    above = np.triu(np.ones_like(similarity, dtype=bool), 1)
    if exclude is not None and exclude[0] >= 0:
        above[exclude] = False
    if not above.any():
        return None
    first, second = np.unravel_index(np.argmax(np.where(above, similarity, -1)), similarity.shape)
    return {"layers": [int(first), int(second)], "similarity": float(similarity[first, second])}


# ---- deciding -------------------------------------------------------------------------------------------------------


def decide(ffn: dict, layer: int) -> str:
    """ffn_avoids_attention | ffn_at_chance | ffn_shares_attention, at the bottleneck against Haar subspaces, two-sided."""
    if ffn["p_low"][layer] < LEVEL / 2:
        return "ffn_avoids_attention"
    return "ffn_shares_attention" if ffn["p_high"][layer] < LEVEL / 2 else "ffn_at_chance"


def claims(results: dict, alignment: np.ndarray, layer: int, is_qwen: bool) -> list[dict]:
    """The recipe's structural claims about overlap and alignment."""
    show, ffn, chance = page.show, results["ffn"], results["chance"]
    ratio = ffn["gate"][layer] / chance
    over = np.array(results["ffn_alignment_over_chance"])
    approach, other, snap = results["approach"], results["best_other_pair"], results["snap"]
    across = [value for value in results["heads"]["across_groups"] if value is not None]
    rows = [
        (
            "ffn_below_chance",
            "the FFN's gate reads the bottleneck's attention subspace less than chance",
            "0.0056 against 0.0098: 0.57×",
            f"{show(ffn['gate'][layer])} against {show(chance)}: {show(ratio, 3)}×",
            f"Haar {show(ffn['haar_mean'][layer])} ± {show(ffn['haar_sd'][layer], 2)}, p {show(ffn['p_low'][layer], 2)}; "
            f"other layers' subspaces {show(ffn['gate_other_layers'][layer])}",
            results["verdict"] == "ffn_avoids_attention",
        ),
        (
            "ffn_value",
            "the alignment at layer 33 is 0.57 × chance",
            "0.57×",
            f"L{layer}: {show(ratio, 3)}×",
            "1×",
            bool(layer == 33 and abs(ratio - 0.57) < 0.03) if is_qwen else None,
        ),
        (
            "ffn_special",
            "the avoidance is special to the bottleneck",
            "implied",
            f"lowest of {len(over)} layers: L{int(over.argmin())} ({show(float(over.min()), 3)}×); "
            f"rank of L{layer}: {int((over < over[layer]).sum()) + 1}",
            f"median over layers {show(float(np.median(over)), 3)}×",
            bool(over.argmin() == layer and over[layer] < 1),
        ),
        (
            "ffn_orthogonal",
            "FFN and attention operate in orthogonal subspaces there",
            "orthogonal (0.57× chance)",
            f"{show(ratio, 3)}× chance by energy, {show(ffn['gate_top'][layer] / chance, 3)}× by top directions",
            "orthogonal is 0×, chance is 1×",
            bool(ratio < ORTHOGONAL),
        ),
        (
            "ffn_spread",
            "the small spread over heads shows that this is no fluke",
            "sd 0.0001 over heads",
            f"sd {show(float(alignment[layer].std()), 2)} over heads",
            f"sd {show(ffn['haar_sd'][layer], 2)} over random subspaces; heads of a KV group share W_K and vary less for that alone",
            None,
        ),
        (
            "approach",
            "the layer before the bottleneck is its closest relative, twice as similar as any other pair",
            "L32↔L33 0.482, 2× any other",
            "no layer before it" if approach is None else f"L{layer - 1}↔L{layer} {show(approach, 3)}",
            f"best other pair {pair_text(other)}; chance {show(chance, 2)}",
            bool(approach is not None and other is not None and approach >= RECIPE_PAIR_RATIO * other["similarity"]),
        ),
        (
            "snap",
            "the largest phase boundary follows the bottleneck",
            "L33→L34",
            "too few layers" if snap is None else f"L{snap[0]}→L{snap[1]}, drop {show(results['snap_drop'], 3)}",
            "none"
            if snap is None
            else f"same in {results['snap_heads']:.0%} of heads, {results['snap_groups']:.0%} of KV groups",
            snap == [layer, layer + 1],
        ),
        (
            "heads_converge",
            "heads converge on one subspace at the bottleneck",
            "maximally organised",
            "one KV group only"
            if not across
            else f"similarity across KV groups {show(results['heads']['across_groups'][layer], 3)}",
            "–" if not across else f"median of layers {show(float(np.median(across)), 3)}; chance {show(chance, 2)}",
            bool(results["heads"]["across_groups"][layer] >= max(across)) if across else None,
        ),
    ]
    return [page.claim(*row) for row in rows]


def pair_text(pair: dict | None) -> str:
    return "–" if pair is None else f"L{pair['layers'][0]}↔L{pair['layers'][1]} {page.show(pair['similarity'], 3)}"


# ---- reporting ------------------------------------------------------------------------------------------------------


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figures from results and arrays alone."""
    similarity, alignment, consensus = (arrays[name] for name in ARRAYS)
    layer, ffn, show = results["settings"]["layer"], results["ffn"], page.show
    what = {
        "ffn_avoids_attention": "reads the heads' subspaces less than chance",
        "ffn_at_chance": "cannot be told from chance in how much it reads the heads' subspaces",
        "ffn_shares_attention": "reads the heads' subspaces more than chance, the opposite of the recipe's claim",
    }[results["verdict"]]
    sentence = (
        f"At layer {layer} W_gate {what} (`{results['verdict']}`): {show(results['ffn_alignment_over_chance'][layer], 3)} times "
        f"k/d = {show(results['chance'])}, Haar-random subspaces {show(ffn['haar_mean'][layer] / results['chance'], 3)} ± "
        f"{show(ffn['haar_sd'][layer] / results['chance'], 2)} times (two-sided p "
        f"{show(min(1.0, 2 * min(ffn['p_low'][layer], ffn['p_high'][layer])), 2)}, {HAAR_DRAWS} draws)."
    )
    title = f"Subspace overlap and FFN alignment of {results['model']['name']}"
    text = page.report(title, sentence, results["claims"], sections(results, alignment), limitations(results))
    return {
        "two_similarity.png": page.png(figure_similarity(similarity.mean(0), consensus, results["chance"])),
        "two_to_bottleneck.png": page.png(figure_to_bottleneck(results, similarity)),
        "two_ffn_alignment.png": page.png(figure_ffn(results, alignment)),
        "two_output.md": text.encode(),
    }


def sections(results: dict, alignment: np.ndarray) -> list[str]:
    show, ffn, chance, layer = page.show, results["ffn"], results["chance"], results["settings"]["layer"]
    k, layers = results["settings"]["k"], results["shape"]["layers"]
    clamped = f" ({results['settings']['k_asked']} asked, clamped)" if results["settings"]["k_asked"] != k else ""
    pairs = [[f"L{t} → L{t + 1}", results["adjacent"][t], results["adjacent_consensus"][t]] for t in range(layers - 1)]
    towards = [
        [f"L{t}", results["to_bottleneck"][t], results["to_bottleneck_consensus"][t]]
        for t in range(layers)
        if t != layer
    ]
    heads = [[f"L{t}", *(results["heads"][key][t] for key in ("within_group", "across_groups"))] for t in range(layers)]
    heads = [[row[0], *(show(value) for value in row[1:])] for row in heads]
    ffn_rows = [
        [
            f"L{t}",
            *(ffn[key][t] / chance for key in ("gate", "up", "gate_consensus", "gate_top")),
            show(ffn["gate_other_layers"][t] / chance if ffn["gate_other_layers"][t] is not None else None),
            f"{show(ffn['haar_mean'][t] / chance)} ± {show(ffn['haar_sd'][t] / chance, 2)}",
            min(1.0, 2 * min(ffn["p_low"][t], ffn["p_high"][t])),
        ]
        for t in range(layers)
    ]
    groups = results["shape"]["groups"]
    by_group = alignment[layer].reshape(groups, -1).mean(1) / chance
    gaps = [[f"L{t}", show(results["definition"]["gap"][t]), results["definition"]["folded"][t]] for t in range(layers)]
    snap = results["snap"]
    return [
        "## 1 Overlap across layers",
        "![Similarity of all layer pairs](two_similarity.png)",
        f"Grassmann similarity (mean squared cosine of principal angles) of the heads' top k = {k}{clamped} key-side subspaces; "
        f"chance is k/d = {show(chance)}. Multi-head: the k directions that the heads share most. A layer with "
        "itself (1 by definition) is left blank.",
        page.table(["layers", "mean over heads", "multi-head"], pairs),
        f"Most similar pair: {pair_text(results['best_pair'])}. "
        + (
            f"The largest drop between neighbouring pairs is at L{snap[0]} → L{snap[1]} "
            f"({show(results['snap_drop'], 3)}); {results['snap_heads']:.0%} of heads and {results['snap_groups']:.0%} of "
            "KV groups have theirs there."
            if snap
            else "There are too few layers for a drop."
        ),
        "## 2 Convergence on the bottleneck",
        "![Similarity to the bottleneck](two_to_bottleneck.png)",
        page.table([f"similarity to L{layer}", "mean over heads", "multi-head"], towards),
        "## 3 Heads among themselves",
        f"Heads of one KV group share W_K, so their key-side subspaces agree for that reason alone. Chance is {show(chance)}.",
        page.table(["layer", "pairs within a KV group", "pairs across groups"], heads),
        "## 4 FFN alignment",
        "![FFN alignment against chance](two_ffn_alignment.png)",
        f"Share of a matrix's energy ‖WVᵀ‖²/‖W‖² inside the heads' subspaces, in multiples of k/d. *Top directions*: the "
        "similarity of W_gate's own top-k right singular vectors to the subspaces (the recipe's text). *Other layers*: W_gate of "
        f"this layer in all other layers' multi-head subspaces. *Haar*: mean ± sd of {HAAR_DRAWS} random subspaces; p is "
        "two-sided, per layer, not corrected over layers; the verdict uses the bottleneck alone. A mean over heads "
        "varies less than a single random subspace, so p errs towards chance.",
        page.table(
            ["layer", "W_gate", "W_up", "W_gate, multi-head", "top directions", "other layers", "Haar", "p"], ffn_rows
        ),
        f"By KV group at L{layer}: {', '.join(show(float(value), 3) for value in by_group)} times chance.",
        "## 5 How well defined the subspaces are",
        "σ_k/σ_{k+1} (median over heads): near 1 the cut at k is arbitrary and another k would give other directions. *Folded*: "
        "similarity between subspaces with and without the RMSNorm gain; 1 means that the choice does not matter.",
        page.table(["layer", "σ_k/σ_{k+1}", "folded against raw"], gaps),
    ]


def limitations(results: dict) -> list[str]:
    lines = [
        "Kernels are taken at relative position 0 and without biases.",
        f"{results['shape']['heads']} heads share {results['shape']['groups']} key projection(s): statistics over heads are not "
        "over independent votes.",
        "Haar subspaces are uniform; trained weights share many anisotropies, so a significant difference from Haar does not "
        "by itself mean a division of labour. The column *other layers* shows how far other attention subspaces differ too.",
        "Weights alone do not show what activations carry; phase 2 measures that.",
    ]
    if any(row["holds"] is None for row in results["claims"]):
        lines.append(
            "Rows marked *not testable here* are about Qwen2.5-3B's own numbers and this is another model, need more than one KV "
            "group, or (the spread over heads) do not follow from what they cite."
        )
    return lines


def figure_similarity(heads: np.ndarray, consensus: np.ndarray, chance: float) -> Figure:
    figure = Figure(figsize=(10, 4.2))
    for panel, matrix, title in zip(
        figure.subplots(1, 2), (heads, consensus), ("mean over heads", "multi-head subspace")
    ):
        shown = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
        image = panel.imshow(shown, origin="lower", cmap="viridis", vmin=0)
        panel.set(title=f"similarity, {title} (chance {chance:.2g})", xlabel="layer", ylabel="layer")
        figure.colorbar(image, ax=panel)
    figure.tight_layout()
    return figure


def figure_to_bottleneck(results: dict, similarity: np.ndarray) -> Figure:
    layer = results["settings"]["layer"]
    depth = np.arange(similarity.shape[1])

    def without_itself(values) -> np.ndarray:
        return np.where(depth == layer, np.nan, values)

    figure = Figure(figsize=(7, 4))
    panel = figure.subplots()
    for head in similarity[:, layer]:
        panel.plot(depth, without_itself(head), color="tab:blue", alpha=0.25, linewidth=1)
    panel.plot(depth, without_itself(results["to_bottleneck"]), marker=".", color="tab:blue", label="mean over heads")
    panel.plot(
        depth, without_itself(results["to_bottleneck_consensus"]), marker=".", color="tab:orange", label="multi-head"
    )
    panel.axhline(results["chance"], color="black", linestyle=":", label="chance k/d")
    panel.axvline(layer, color="tab:red", linewidth=1, label=f"bottleneck L{layer}")
    panel.set(title=f"similarity to layer {layer}", xlabel="layer", ylabel="Grassmann similarity", ylim=(0, None))
    panel.legend()
    figure.tight_layout()
    return figure


def figure_ffn(results: dict, alignment: np.ndarray) -> Figure:
    ffn, chance, layer = results["ffn"], results["chance"], results["settings"]["layer"]
    depth = np.arange(len(alignment))
    mean, spread = (np.array(ffn[key]) / chance for key in ("haar_mean", "haar_sd"))
    figure = Figure(figsize=(7, 4))
    panel = figure.subplots()
    panel.plot(depth, alignment / chance, color="tab:blue", alpha=0.3, linewidth=1)
    panel.plot(depth, np.array(ffn["gate"]) / chance, marker=".", color="tab:blue", label="W_gate, mean over heads")
    panel.plot(depth, np.array(ffn["up"]) / chance, marker=".", color="tab:green", label="W_up, mean over heads")
    panel.fill_between(depth, mean - 2 * spread, mean + 2 * spread, color="gray", alpha=0.3, label="Haar mean ± 2 sd")
    panel.axhline(1, color="black", linestyle=":", label="chance k/d")
    panel.axvline(layer, color="tab:red", linewidth=1, label=f"bottleneck L{layer}")
    panel.set(title="FFN energy in the heads' subspaces", xlabel="layer", ylabel="multiple of chance")
    panel.legend(fontsize=8)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    runs.run_script(main)
