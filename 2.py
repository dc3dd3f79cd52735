"""Overlap of the heads' subspaces across layers, and with the FFN: do heads converge, does the FFN avoid them?

Question   which layers' attention kernels look at the same directions, where does that break off, and does the FFN read
           those directions (W_gate, W_up), or write into them (W_down, beside attention's W_O), less or more than chance?
Inputs     a checkpoint's weights, streamed one layer at a time; output/one_results.json for the bottleneck layer, and
           one_weight_spectra.npy, which is found again where it is not there
Outputs    output/two_output.md with figures, two_results.json, two_similarity.npy (h, L, L),
           two_ffn_alignment.npy (L, h), two_consensus_similarity.npy (L, L)
Run        python 2.py --model Qwen/Qwen2.5-3B          after 1.py

Steps, which are also the report's headings:
1 overlap across layers   2 convergence on the bottleneck   3 heads among themselves   4 FFN alignment
5 how well defined the subspaces are
"""

import numpy as np
import torch
from tqdm import tqdm

import utils
import verdicts
from lab import checkpoints, commands, families, runs, statistics
from reports import two as page

DIRECTIONS = 20  # the recipe's k: its recorded chance level 0.0098 is 20 / 2048
HAAR_DRAWS = 200
SPECTRA = "one_weight_spectra.npy"
READ_AND_WRITTEN = ("gate", "up", "down", "output", "ffn_gain", "ffn_out_gain", "attention_out_gain")
ARRAYS = ("two_similarity.npy", "two_ffn_alignment.npy", "two_consensus_similarity.npy")
REPORT = runs.Report(__file__, "two", ARRAYS, verdicts.two, page)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    opening = checkpoints.begin(REPORT, arguments)
    if opening is None:
        return
    folder, device = opening.folder, opening.device
    found = checkpoints.bottleneck_layer(arguments, folder)
    layer, handed = found.layer, {"layer_chosen": found.chosen}
    k = min(arguments.k, folder.head_width, folder.width)
    spectra = saved_spectra(arguments, folder)
    settings = {"k": k, "k_asked": arguments.k, "layer": layer, "fold_norm": arguments.fold_norm}
    run = opening.run(handed, **settings, spectra={name: runs.array_hash(values) for name, values in spectra.items()})
    if run is None:
        return
    subspaces, definition = head_subspaces(folder, device, k, arguments.fold_norm)
    alive = subspaces.square().sum((2, 3)).cpu().numpy() > 0  # (L, h): a kernel of zeros has no directions
    if not alive[layer].any():
        raise runs.UserError(f"--layer {layer}: all attention kernels of that layer are zero, so they read no subspace")
    consensus = torch.stack([utils.multi_head_subspace(heads, k) for heads in subspaces])
    similarity = torch.stack([utils.similarity_matrix(head) for head in subspaces.transpose(0, 1)]).cpu().numpy()
    consensus_similarity = utils.similarity_matrix(consensus).cpu().numpy()
    alignment, ffn = ffn_alignment(folder, device, subspaces, consensus, alive, spectra, arguments)
    results = {
        "shape": {"layers": folder.layers, "heads": folder.heads, "groups": folder.groups, "width": folder.width},
        "is_qwen25_3b": folder.is_qwen25_3b,
        "chance": k / folder.width,
        "definition": definition,
        "ffn": ffn,
        "ffn_alignment_over_chance": over_heads(alignment, alive) / (k / folder.width),
        "zero_kernels": [[int(index), int(count)] for index, count in enumerate((~alive).sum(1)) if count],
        "heads": heads_among_themselves(subspaces, folder.groups),
        **adjacent_layers(similarity, consensus_similarity, layer, folder.groups),
    }
    run.save(results, dict(zip(ARRAYS, (similarity, alignment, consensus_similarity))))


def parse_arguments(argv: list[str] | None):
    parser = commands.parser(__doc__)
    help_text = "directions per head, at most the head width"
    parser.add_argument("--k", type=commands.positive, default=DIRECTIONS, help=help_text)
    parser.add_argument("--layer", default="auto", help="bottleneck layer; auto = the one that 1.py found")
    help_text = (
        "multiply kernels, and what the FFN and attention read and write, by the norm gains, as the raw residual stream "
        "meets them (off = the recipe)"
    )
    parser.add_argument("--fold-norm", action="store_true", help=help_text)
    return parser.parse_args(argv)


def head_subspaces(folder, device: torch.device, k: int, fold_norm: bool) -> tuple[torch.Tensor, dict]:
    """Every head's top-k right (key-side) subspace, (L, h, k, d) float64, zeros for a zero kernel; how well defined these are.

    `gap` is the median over heads of σ_k/σ_{k+1}: near 1 the cut at k is arbitrary. `folded` is the mean similarity
    between the subspaces with and without the norm gains.
    """
    subspaces = torch.empty(folder.layers, folder.heads, k, folder.width, dtype=torch.float64, device=device)
    definition = {"gap": [], "folded": []}
    layers = checkpoints.stream_layers(folder, families.OF_KERNELS)
    for index, layer in enumerate(tqdm(layers, total=folder.layers, desc="subspaces", disable=None)):
        pair, alive = [], None
        for fold in (fold_norm, not fold_norm):
            factors = (part.to(device) for part in utils.kernel_factors(layer, folder.head_width, fold))
            values, vectors = utils.kernel_svd(*factors, k)
            alive = values[:, 0] > 0 if alive is None else alive & (values[:, 0] > 0)
            pair.append(vectors)
            if fold == fold_norm:
                definition["gap"].append(median_gap(values, k))
        subspaces[index] = pair[0] * alive[:, None, None]
        similar = utils.grassmann_similarity(*pair)[alive]
        definition["folded"].append(similar.mean().item() if len(similar) else None)
    return subspaces, definition


def over_heads(values: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Means over the heads whose kernel is not zero; 0 for a layer without one. (L, h) twice -> (L,)"""
    return (values * alive).sum(1) / np.maximum(alive.sum(1), 1)


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


def saved_spectra(arguments, folder) -> dict[str, np.ndarray]:
    """Singular values of the layers' matrices that 1.py has left here, {weight type: (L, d)}; they cost it most of its time.

    Empty where it has not run here, or where norms are folded in, which gives other ones.
    """
    if arguments.fold_norm or not all((arguments.out / name).exists() for name in (SPECTRA, "one_results.json")):
        return {}
    results = runs.load_results(arguments.out, "one", folder.identity)
    with runs.as_written(arguments.out, "one"):
        names = (*results["weight_types"]["attention"], *results["weight_types"]["ffn"])
        spectra = runs.load_array(arguments.out, SPECTRA, (folder.layers, len(names), folder.width))
        return dict(zip(names, spectra.swapaxes(0, 1)))


def ffn_alignment(
    folder, device, subspaces: torch.Tensor, consensus: torch.Tensor, alive: np.ndarray, spectra: dict, arguments
) -> tuple[np.ndarray, dict]:
    """Energy of `judged` in each head's subspace, (L, h); per layer that of all matrices beside their nulls.

    `judged` is W_gate, or W_up in an FFN without a gate. `reading`: ‖W Vᵀ‖²/‖W‖², mean over heads; `writing`: ‖V W‖²/‖W‖², of
    columns, which is what a layer adds to the stream. `top` is the recipe's text: similarity of the top-k right singular
    vectors of `judged` to the subspace. Nulls: Haar subspaces, and the multi-head subspaces of all other layers.
    """
    layers, _, k, width = subspaces.shape
    draw = statistics.seeded(arguments.seed, "two: Haar subspaces")
    haar = utils.random_subspaces(draw, HAAR_DRAWS, k, width).square().sum(1)  # (draws, d)
    alignment, found = np.zeros(subspaces.shape[:2]), []
    stream = checkpoints.stream_layers(folder, READ_AND_WRITTEN)
    for index, layer in enumerate(tqdm(stream, total=layers, desc="FFN", disable=None)):
        own, others = subspaces[index], consensus[torch.arange(layers) != index]
        sides = on_the_stream(layer, device, arguments.fold_norm)
        judged = next(iter(sides))
        gram = utils.gram(sides[judged].mT)
        energies = {name: utils.energy_share(matrix, own).cpu().numpy() for name, matrix in sides.items()}
        means = {name: float(over_heads(energy[None], alive[index][None])[0]) for name, energy in energies.items()}
        nulls = {}
        for name, matrix in sides.items():
            values = torch.from_numpy(spectra[name][index]) if name in spectra else utils.singular_values(matrix).cpu()
            nulls[name] = two_sided_null(haar_energy(haar, values), means[name])
        alignment[index] = energies[judged]
        found.append(
            {
                "energy": means,
                "haar": nulls,
                "consensus": utils.gram_energy(gram, consensus[index : index + 1]).item(),
                "other_layers": utils.gram_energy(gram, others).mean().item() if len(others) else None,
                "top": utils.grassmann_similarity(utils.top_eigenvectors(gram, k), own)[alive[index]]
                .mean()
                .nan_to_num()
                .item(),
            }
        )
    ffn = by_matrix(found) | {key: [row[key] for row in found] for key in ("consensus", "other_layers", "top")}
    spread = {"sd": alignment.std(1), "groups": alignment.reshape(layers, folder.groups, -1).mean(2)}
    return alignment, ffn | spread | {"judged": judged}


def on_the_stream(layer, device: torch.device, fold_norm: bool) -> dict[str, torch.Tensor]:
    """What a layer reads of the stream, by rows, and what it writes to it, by columns: all (n, d), the judged one first."""
    reads = {"W_gate": layer.gate, "W_up": layer.up}
    reads = {name: matrix.to(device) for name, matrix in reads.items() if matrix is not None}
    writes = {"W_down": layer.down.to(device).mT, "W_O": layer.output.to(device).mT}
    if fold_norm:
        reads = {name: utils.folded(matrix.double(), layer.ffn_gain, layer.centred) for name, matrix in reads.items()}
        after = {"W_down": layer.ffn_out_gain, "W_O": layer.attention_out_gain}
        writes = {name: utils.folded(matrix.double(), after[name], False) for name, matrix in writes.items()}
    return reads | writes


def haar_energy(haar: torch.Tensor, values: torch.Tensor) -> np.ndarray:
    """Share of a matrix's energy inside Haar subspaces: Σⱼ σⱼ²‖V eⱼ‖²/Σⱼ σⱼ², exact since any basis is as good for them.

    haar (draws, d): ‖V eⱼ‖² of each; values (n,) singular values -> (draws,)
    """
    squares = values.square()
    return (haar[:, : len(squares)] @ squares / (squares.sum() or 1)).numpy()


def by_matrix(found: list[dict]) -> dict:
    """{side: {matrix: {"energy": per layer, "haar": a record per layer where it was asked for}}}"""
    sides = {"reading": ("W_gate", "W_up"), "writing": ("W_down", "W_O")}
    result = {side: {} for side in sides}
    for side, names in sides.items():
        for name in (name for name in names if name in found[0]["energy"]):
            result[side][name] = {"energy": [row["energy"][name] for row in found]}
            if name in found[0]["haar"]:
                result[side][name]["haar"] = [row["haar"][name] for row in found]
    return result


def two_sided_null(draws: np.ndarray, observed: float) -> dict:
    """The null's record with a two-sided p, beside those of a value as low and of one as high. draws (n,)"""
    record = statistics.null_record(draws, observed)
    p_low, p_high = statistics.null_record(draws, observed, low_counts=True)["p"], record["p"]
    return record | {"p": min(1.0, 2 * min(p_low, p_high)), "p_low": p_low, "p_high": p_high}


def adjacent_layers(similarity: np.ndarray, consensus: np.ndarray, layer: int, groups: int) -> dict:
    """Similarity of neighbouring layers, its largest drop (the snap) and how many heads and groups agree on it.

    similarity (h, L, L) of every head, consensus (L, L) of the multi-head subspaces. Agreement is a share; `snap` is
    None with fewer than three layers.
    """
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
    """The most similar pair of different layers other than `exclude`; None where there is no other. (L, L)"""
    above = np.triu(np.ones_like(similarity, dtype=bool), 1)
    if exclude is not None and exclude[0] >= 0:
        above[exclude] = False
    if not above.any():
        return None
    first, second = np.unravel_index(np.argmax(np.where(above, similarity, -1)), similarity.shape)
    return {"layers": [int(first), int(second)], "similarity": float(similarity[first, second])}


if __name__ == "__main__":
    runs.run_script(main)
