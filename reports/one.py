"""The page of 1.py: effective ranks of weights and attention kernels, the bottleneck, phases and trends."""

import numpy as np

import verdicts
from reports import page
from verdicts import RECIPE


def summary(results: dict) -> str:
    low, random = results["bottleneck"], results["null"]["kernel"]["middle"]
    return f"L{low['layer']}, mean effective rank {page.show(low['mean'])} (random {page.show(random)})"


def claims(results: dict) -> list[dict]:
    """The recipe's structural claims about ranks."""
    return [page.claim(*row) for row in (*bottleneck_rows(results), *phase_rows(results), *trend_rows(results))]


def bottleneck_rows(results: dict) -> list[tuple]:
    show, low, kernel = page.show, results["bottleneck"], results["null"]["kernel"]
    return [
        (
            "bottleneck_rank",
            f"heads collapse to an effective rank near {RECIPE['rank_claimed']} at layer {RECIPE['layer']}",
            f"L{RECIPE['layer']}, mean {RECIPE['rank']}, sd {RECIPE['rank_sd']}",
            f"L{low['layer']}, mean {show(low['mean'])}, sd {show(low['sd'])}",
            f"random kernel {null_text(kernel)}",
        ),
        (
            "bottleneck_exists",
            "one layer inside the network is lower than all others",
            f"layer {RECIPE['layer']} of {RECIPE['layers']}",
            f"L{low['layer']} of {results['shape']['layers']}: {support_text(low)}, margin {show(low['margin'])}",
            f"equal layers: margin {null_text(low['margin_null'], 2)}",
        ),
        (
            "heads_agree",
            "heads agree on their rank there, more than at other layers",
            f"CV < {RECIPE['head_cv']}",
            f"CV {show(low['cv'], 3)}",
            f"median of the other layers {show(low['cv_other_layers'], 3)}",
        ),
    ]


def phase_rows(results: dict) -> list[tuple]:
    layers, (encode, compute, decode) = results["shape"]["layers"], RECIPE["phases"]
    found = "-".join(map(str, results["phases"]))
    return [
        (
            "phases",
            f"encode, compute and decode have {encode}, {compute} and {decode} layers",
            f"{encode}-{compute}-{decode}",
            found,
            "none: largest step of each type, by vote",
        ),
        (
            "middle",
            "most of the depth is the middle",
            percent(RECIPE["middle"]),
            f"{results['phases'][1] / layers:.0%} ({found})",
            f"{(layers - 2) / layers:.0%} where both outer phases have one layer",
        ),
    ]


def trend_rows(results: dict) -> list[tuple]:
    show, trends, opposite = page.show, results["trends"], results["opposite"]
    attention, ffn = results["weight_types"]["attention"], results["weight_types"]["ffn"]
    value = trends["W_V"]
    other_cvs = [trends[name]["cv"] for name in (*attention, *ffn) if name != "W_V"]
    chance = "ρ 0; strictly monotone means ρ ±1"

    def rhos(names) -> str:
        return ", ".join(f"{name} ρ {show(trends[name]['rho'], 2)} (p {show(trends[name]['p'], 2)})" for name in names)

    return [
        (
            "attention_falls",
            "attention rank falls monotonically with depth",
            "falls",
            rhos((*attention, "heads")),
            chance,
        ),
        ("ffn_rises", "FFN rank rises monotonically with depth", "rises", rhos(ffn), chance),
        (
            "opposite_trends",
            "weaker: attention rank falls and FFN rank rises significantly",
            "opposite at every layer",
            f"median ρ {show(opposite['attention'], 2)} and {show(opposite['ffn'], 2)}",
            f"p {show(opposite['p_attention'], 2)} and {show(opposite['p_ffn'], 2)} by the t approximation; "
            f"two trends need p < {probability(verdicts.LEVEL)} / 2",
        ),
        (
            "value_constant",
            "the rank of W_V varies little over layers",
            f"about {RECIPE['value_rank']}, CV {RECIPE['value_cv']}",
            f"mean {show(value['mean'])}, CV {show(value['cv'], 2)}, ρ with depth {show(value['rho'], 2)}",
            f"Gaussian of its shape {show(results['null']['weights']['W_V'])}; "
            f"CV of the other types {show(min(other_cvs), 2)} to {show(max(other_cvs), 2)}",
        ),
    ]


def support_text(low: dict) -> str:
    """The share of resamples that pick the layer, over heads and over KV groups."""
    if low["support_groups"] is None:
        return f"{low['support']:.0%} of head resamples (one KV group: none over groups)"
    return f"{low['support']:.0%} of head and {low['support_groups']:.0%} of KV-group resamples"


def null_text(null: dict | None, digits: int = 4) -> str:
    """A null's median, its 5 % and 95 % points, and the p of what was found."""
    if null is None:
        return "–"
    middle, low, high = (page.show(null[point], digits) for point in ("middle", "low", "high"))
    return f"{middle} ({low} to {high}), p {page.show(null['p'], 2)}"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def probability(value: float) -> str:
    return f"{value:g}".removeprefix("0")


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figures from results and arrays alone."""
    weight_ranks, head_ranks = arrays["one_weight_eff_rank.npy"], arrays["one_head_eff_rank.npy"]
    sections = [
        rank_section(results, weight_ranks),
        head_section(results),
        random_section(results),
        bottleneck_section(results),
        phase_section(results),
        trend_section(results),
        eigen_section(results),
    ]
    title = f"Effective rank of {results['model']['name']}"
    text = page.report(title, verdict_sentence(results), results["claims"], sections, limitations(results))
    return {
        "one_rank_per_layer.png": figure_ranks(results, weight_ranks, head_ranks),
        "one_head_heatmap.png": figure_heads(head_ranks),
        "one_spectra.png": figure_spectra(arrays["one_kernel_spectra.npy"], results["bottleneck"]["layer"]),
        "one_output.md": text,
    }


def verdict_sentence(results: dict) -> str:
    low, show = results["bottleneck"], page.show
    layer = low["layer"]
    found = {
        "clear_bottleneck": f"The heads' kernels have a clear bottleneck at layer {layer}",
        "weak_bottleneck": f"The heads' kernels are lowest at layer {layer}, but this is not a clear bottleneck",
        "no_bottleneck": f"No layer is a bottleneck of the heads' kernels; the lowest is layer {layer}",
    }[results["verdict"]]
    return page.prose(f"""
        {found} (`{results["verdict"]}`): mean effective rank {show(low["mean"])} there against
        {show(results["null"]["kernel"]["middle"])} for a random kernel; {support_text(low)} pick that layer, and a margin as large
        over the next layer has p = {margin_p(low)} if all layers are equal.
    """)


def margin_p(low: dict) -> str:
    return page.show(low["margin_null"] and low["margin_null"]["p"], 2)


def rank_section(results: dict, weight_ranks: np.ndarray) -> str:
    null, means = results["null"], results["heads"]["mean"]
    types = [*results["weight_types"]["attention"], *results["weight_types"]["ffn"]]
    rows = [[f"L{layer}", *ranks, means[layer]] for layer, ranks in enumerate(weight_ranks.tolist())]
    rows.append(["**random**", *(null["weights"][name] for name in types), null["kernel"]["middle"]])
    return page.prose(f"""
        ## 1 Effective rank of every weight matrix

        ![Effective rank per layer](one_rank_per_layer.png)

        exp of the entropy of the normalised singular values (Roy & Vetterli 2007). The last row is a Gaussian matrix of
        the same shape: a rank close to it says nothing about training.

        {page.table(["layer", *types, "heads (mean)"], rows)}
    """)


def head_section(results: dict) -> str:
    heads = results["heads"]
    columns = (heads[name] for name in ("mean", "sd", "cv", "lowest", "highest"))
    rows = [[f"L{layer}", *row] for layer, row in enumerate(zip(*columns))]
    folded = " with norm gains folded in" if results["settings"]["fold_norm"] else ""
    return page.prose(f"""
        ## 2 Attention heads

        ![Effective rank per layer and head](one_head_heatmap.png)

        Effective rank of each head's kernel W_Qᵀ W_K{folded}; CV is the coefficient of variation over heads.

        {page.table(["layer", "mean", "sd", "CV", "lowest head", "highest head"], rows)}
    """)


def random_section(results: dict) -> str:
    kernel, show = results["null"]["kernel"], page.show
    return page.prose(f"""
        ## 3 Random matrices of the same shape

        A kernel of two Gaussian factors of this model's shape has effective rank {show(kernel["middle"])}
        ({show(kernel["low"])} to {show(kernel["high"])}: median, 5 % and 95 % points of {kernel["draws"]} draws). The lowest mean
        over heads is {show(results["bottleneck"]["mean"])}; p that a draw is as low is {show(kernel["p"], 2)}.
    """)


def bottleneck_section(results: dict) -> str:
    low, show = results["bottleneck"], page.show
    groups = ", ".join(show(mean) for mean in low["group_means"])
    runner_up = ""
    if low["runner_up"] is not None:
        runner_up = f"Runner-up: layer {low['runner_up']}, {show(low['margin'])} higher."
    return page.prose(f"""
        ## 4 Bottleneck

        ![Singular values at the bottleneck](one_spectra.png)

        Lowest mean: layer {low["layer"]} with {show(low["mean"])} (sd {show(low["sd"])} over heads; KV groups: {groups}),
        {low["layers_after"]} layer(s) before the end. {runner_up}
        Bootstrap ({low["resamples"]:,} resamples): {support_text(low)} pick it. If all layers were equal up to the noise between
        KV groups, the lowest would lead by as much with p = {margin_p(low)}. The verdict is clear when both shares reach
        {percent(verdicts.SUPPORT_NEEDED)}, p is below {probability(verdicts.LEVEL)} and the layer is neither first nor last; weak
        when p alone is; with one KV group there is no test.
    """)


def phase_section(results: dict) -> str:
    encode, compute, decode = results["phases"]
    types = (*results["weight_types"]["attention"], *results["weight_types"]["ffn"], "heads")
    rows = [
        [name, *(vote_text(results["phase_votes"][phase], name) for phase in ("encode", "decode"))] for name in types
    ]
    return page.prose(f"""
        ## 5 Phases

        Encode {encode}, compute {compute}, decode {decode} layers. A vote is the transition with a type's largest drop
        (encode) or largest later rise (decode).

        {page.table(["type", "largest drop", "largest later rise"], rows)}
    """)


def vote_text(votes: dict, name: str) -> str:
    return f"L{votes[name]} → L{votes[name] + 1}" if name in votes else "–"


def trend_section(results: dict) -> str:
    rows = []
    for name in (*results["weight_types"]["attention"], *results["weight_types"]["ffn"], "heads"):
        trend = results["trends"][name]
        rows.append([name, trend["rho"], trend["p"], f"{trend['steps_down']:.0%}", *trend["thirds"], trend["cv"]])
    headers = ["type", "ρ", "p", "steps that fall", "first third", "second", "last third", "CV over layers"]
    return page.prose(f"""
        ## 6 Trends over depth

        Spearman ρ of effective rank with depth. Neighbouring layers are not independent, so p is too small rather than
        too large.

        {page.table(headers, rows)}
    """)


def eigen_section(results: dict) -> str:
    eigen, random = results["eigen"], results["null"]["kernel_eigen"]
    columns = zip(eigen["asymmetry"], eigen["complex_share"], eigen["components"])
    rows = [[f"L{layer}", asymmetry, share, *parts] for layer, (asymmetry, share, parts) in enumerate(columns)]
    rows.append(["**random**", random["asymmetry"], random["complex_share"], *random["components"]])
    energies = [f"{share:.0%} of energy" for share in results["energy_shares"]]
    return page.prose(f"""
        ## 7 Eigen-structure of a head

        Means over heads of the asymmetry ‖A−Aᵀ‖/‖A‖ (0 symmetric, √2 unrelated to its transpose, 2 antisymmetric), of the
        share of complex eigenvalues, and of the number of singular directions that hold a share of the energy Σσ².

        {page.table(["layer", "asymmetry", "complex", *energies], rows)}
    """)


def limitations(results: dict) -> list[str]:
    shape = results["shape"]
    text = f"""
        Kernels are taken at relative position 0 and without biases: RoPE rotates query against key with distance, and
        the QKV biases' linear terms are not part of A.

        {shape["heads"]} heads share {shape["groups"]} key projection(s), so they are not independent votes; see the
        KV-group figures.

        Effective rank describes weights. It does not show that activations use these directions.
    """
    if not results["settings"]["fold_norm"]:
        text += """

        RMSNorm gains are not folded in (as in the recipe); --fold-norm measures what the raw stream meets.
    """
    if any(row["holds"] is None for row in results["claims"]):
        text += """

        Rows marked *not testable here* are about Qwen2.5-3B's own numbers; this is another model.
    """
    return page.prose(text).split("\n\n")


def figure_ranks(results: dict, weight_ranks: np.ndarray, head_ranks: np.ndarray) -> bytes:
    null, types = results["null"], results["weight_types"]
    columns = dict(zip((*types["attention"], *types["ffn"]), weight_ranks.T))
    with page.figure(12, 4, 1, 3) as (figure, panels):
        for panel, names, title in zip(
            panels, (types["attention"], types["ffn"]), ("attention weights", "FFN weights")
        ):
            for name in names:
                line = panel.plot(columns[name], marker=".", label=name)[0]
                panel.axhline(null["weights"][name], color=line.get_color(), linestyle=":", linewidth=1)
            panel.set(title=f"{title} (dotted: random)", xlabel="layer", ylabel="effective rank")
        means, spread = head_ranks.mean(1), head_ranks.std(1)
        panels[2].plot(means, marker=".", label="mean over heads")
        panels[2].fill_between(range(len(means)), means - spread, means + spread, alpha=0.25, label="± 1 sd")
        panels[2].axhline(null["kernel"]["middle"], color="black", linestyle=":", linewidth=1, label="random kernel")
        panels[2].axvline(results["bottleneck"]["layer"], color="tab:red", linewidth=1, label="lowest")
        panels[2].set(title="attention kernels", xlabel="layer", ylabel="effective rank")
        for panel in panels:
            panel.legend(fontsize=8)
    return page.png(figure)


def figure_heads(head_ranks: np.ndarray) -> bytes:
    layers, heads = head_ranks.shape
    with page.figure(max(5, 0.35 * layers), max(2.5, 0.3 * heads)) as (figure, panel):
        image = panel.imshow(head_ranks.T, aspect="auto", origin="lower", cmap="viridis")
        panel.set(title="effective rank of each head's kernel", xlabel="layer", ylabel="head")
        panel.set_yticks(range(heads))
        figure.colorbar(image, ax=panel)
    return page.png(figure)


def figure_spectra(spectra: np.ndarray, layer: int) -> bytes:
    scaled = spectra / np.where(spectra[..., :1] > 0, spectra[..., :1], 1)
    component = np.arange(1, scaled.shape[-1] + 1)
    with page.figure(6, 4) as (figure, panel):
        for head, row in enumerate(scaled[layer]):
            label = f"L{layer} heads" if head == 0 else None
            panel.plot(component, row, color="tab:red", alpha=0.6, label=label)
        panel.plot(component, scaled.mean((0, 1)), color="black", label="mean over all layers and heads")
        panel.set(title=f"kernel spectra at layer {layer}", xlabel="component", ylabel="σ / largest σ", yscale="log")
        panel.set_ylim(bottom=max(1e-4, float(scaled[layer][scaled[layer] > 0].min(initial=1.0)) / 2))
        panel.legend()
    return page.png(figure)
