"""The page of 1.py: effective ranks of weights and attention kernels, the bottleneck, phases and trends."""

from collections.abc import Iterable

import numpy as np

import verdicts
from reports import page
from verdicts import RECIPE


def summary(results: dict) -> str:
    low, random, show = results["bottleneck"], results["null"]["kernel"]["middle"], page.show
    return f"L{low['layer']}, mean effective rank {show(low['mean'])} (random {show(random)}){edge_note(low)}"


def claims(results: dict) -> list[dict]:
    """The recipe's structural claims about ranks."""
    return [page.claim(*row) for row in (*bottleneck_rows(results), *phase_rows(results), *trend_rows(results))]


def bottleneck_rows(results: dict) -> list[tuple]:
    show, low, kernel = page.show, results["bottleneck"], results["null"]["kernel"]
    found = f"{listing(f'L{layer}' for layer in low['window'])} of {results['shape']['layers']}"
    return [
        (
            "bottleneck_rank",
            f"heads collapse to an effective rank near {RECIPE['rank_claimed']} at layer {RECIPE['layer']}",
            f"L{RECIPE['layer']}, mean {RECIPE['rank']}, sd {RECIPE['rank_sd']}",
            f"L{low['layer']}, mean {show(low['mean'])}, sd {show(low['sd'])}{edge_note(low)}",
            f"random kernel {null_text(kernel)}",
        ),
        (
            "bottleneck_exists",
            "one inner layer, or up to three neighbours, is lower than all other inner layers",
            f"layer {RECIPE['layer']} of {RECIPE['layers']}",
            f"{found}: {support_text(low)}, margin {show(low['margin'])}{edge_note(low)}",
            f"equal inner layers: margin {null_text(low['margin_null'], 2)}",
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
    attention, ffn = (
        results["weight_types"]["attention"],
        [name for name in results["weight_types"]["ffn"] if name in trends],
    )
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


def edge_note(low: dict) -> str:
    """Where the lowest layer of all is the first or the last: which, and how low."""
    lowest = low["lowest"]
    return (
        ""
        if lowest["layer"] == low["layer"]
        else f"; lowest of all {edge(low)} L{lowest['layer']}, {page.show(lowest['mean'])}"
    )


def edge(low: dict) -> str:
    return "the last layer" if low["lowest"]["layer"] else "the first layer"


def listing(parts: Iterable[str]) -> str:
    """a, b and c"""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def support_text(low: dict) -> str:
    """The share of resamples whose lowest inner layer lies in the window, over heads and over KV groups."""
    if low["support_groups"] is None:
        return f"{percent(low['support'])} of head resamples (one KV group: none over groups)"
    return f"{percent(low['support'])} of head and {percent(low['support_groups'])} of KV-group resamples"


def null_text(null: dict | None, digits: int = 4) -> str:
    """A null's median, its 5 % and 95 % points, and the p of what was found."""
    if null is None:
        return "–"
    middle, low, high = (page.show(null[point], digits) for point in ("middle", "low", "high"))
    return f"{middle} ({low} to {high}), p {page.show(null['p'], 2)}"


def percent(share: float) -> str:
    return f"{page.show(100 * share, 3)} %"


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
    text = page.report(title, verdict_sentence(results), results, sections, limitations(results))
    return {
        "one_rank_per_layer.png": figure_ranks(results, weight_ranks, np.ma.masked_equal(head_ranks, 0)),
        "one_head_heatmap.png": figure_heads(results, np.ma.masked_equal(head_ranks, 0)),
        "one_spectra.png": figure_spectra(results, arrays["one_kernel_spectra.npy"]),
        "one_output.md": text,
    }


def verdict_sentence(results: dict) -> str:
    """The verdict, why it is no better one, and the numbers beside it."""
    low, show, verdict = results["bottleneck"], page.show, f"(`{results['verdict']}`)"
    if low["mean"] is None:
        return f"No layer is a bottleneck of the heads' kernels {verdict} because every kernel is zero."
    grounds, inner, plural = grounds_of(results), low["inner_layers"], len(low["window"]) > 1
    because = listing(dict.fromkeys(grounds[name] for name in results["because"])) if results["because"] else ""
    window = f"layer{'s' * plural} {listing(map(str, low['window']))}"
    found = {
        "clear_bottleneck": f"the heads' kernels have a clear bottleneck at {window} {verdict}",
        "weak_bottleneck": f"""{window} {"are" if plural else "is"} lowest of the inner layers, but not a clear bottleneck
            {verdict} because {because}""",
        "no_bottleneck": f"""no {"inner " if inner else ""}layer is a bottleneck of the heads' kernels {verdict} because
            {because}; the lowest is layer {low["layer"]}, which later phases use all the same (exploratory: nothing there
            confirms a prediction)""",
    }[results["verdict"]]
    if edge_note(low):
        found = f"""the lowest mean rank is at layer {low["lowest"]["layer"]} ({show(low["lowest"]["mean"])}), which cannot be a
            bottleneck between encoding and decoding because it is {edge(low)}; {found}"""
    ranks = listing(show(results["heads"]["mean"][layer]) for layer in low["window"])
    numbers = [f"mean effective rank {ranks} there, {show(results['null']['kernel']['middle'])} for a random kernel"]
    if inner > 1:
        numbers += [grounds[name] for name in grounds if name not in results["because"] and grounds[name]]
    return page.prose(f"{found[0].upper()}{found[1:]}: {'; '.join(numbers)}.")


def slope_text(low: dict) -> str:
    """Which neighbour of the window is lower still: a slope over depth has a lowest layer, and is no bottleneck."""
    lower = [row for row in low["beside"] if row["mean"] <= low["window_highest"]]
    return listing(f"layer {row['layer']} beside it is lower still ({page.show(row['mean'])})" for row in lower)


def grounds_of(results: dict) -> dict[str, str]:
    """What each test of the verdict rests on, in words: for a test that failed, why it did."""
    low, failed = results["bottleneck"], [name for name, passed in results["tests"].items() if not passed]
    inner, window = low["inner_layers"], low["window"]
    none = "there is no inner layer" + (" with a kernel" if results["shape"]["layers"] > 2 else "")
    margin = f"a margin of {page.show(low['margin'], 3)} has p = {margin_p(low)} if all inner layers are equal"
    if low["margin_null"] is None:
        margin = (
            "one KV group leaves no estimate of the noise" if inner > 1 else "a single inner layer has no other to lead"
        )
    picked = "it" if len(window) == 1 else f"layer {', '.join(map(str, window[:-1]))} or {window[-1]}"
    shares = {"head resamples agree": ("head", "support"), "KV-group resamples agree": ("KV-group", "support_groups")}
    agree = {
        name: f"{'only ' * (name in failed)}{percent(low[share])} of {unit} resamples pick {picked}"
        for name, (unit, share) in shares.items()
        if low[share] is not None
    }
    return {
        "there is an inner layer": "" if inner else none,
        "margin beyond equal layers": margin if inner else none,
        "lower than both neighbours": slope_text(low) if "lower than both neighbours" in failed else "",
        **agree,
    }


def margin_p(low: dict) -> str:
    return page.show(low["margin_null"] and low["margin_null"]["p"], 2)


def rank_section(results: dict, weight_ranks: np.ndarray) -> str:
    null, means = results["null"], results["heads"]["mean"]
    types = [*results["weight_types"]["attention"], *results["weight_types"]["ffn"]]
    rows = [[f"L{layer}", *map(rank_text, ranks), page.show(means[layer])] for layer, ranks in enumerate(weight_ranks)]
    rows.append(["**random**", *(page.show(null["weights"][name]) for name in types), null["kernel"]["middle"]])
    return page.prose(f"""
        ## 1 Effective rank of every weight matrix

        ![Effective rank per layer](one_rank_per_layer.png)

        exp of the entropy of the normalised singular values (Roy & Vetterli 2007). The last row is a Gaussian matrix of
        the same shape: a rank close to it says nothing about training.

        {page.table(["layer", *types, "heads (mean)"], rows)}
    """)


def rank_text(rank: float) -> str:
    """NaN, of a matrix that the model lacks, as a dash."""
    return page.show(None if np.isnan(rank) else float(rank))


def head_section(results: dict) -> str:
    heads = results["heads"]
    columns = (map(page.show, heads[name]) for name in ("mean", "sd", "cv", "lowest", "highest"))
    rows = [[f"L{layer}", *row] for layer, row in enumerate(zip(*columns))]
    folded = " with norm gains folded in" if results["settings"]["fold_norm"] else ""
    return page.prose(f"""
        ## 2 Attention heads

        ![Effective rank per layer and head](one_head_heatmap.png)

        Effective rank of each head's kernel W_Qᵀ W_K{folded}; CV is the coefficient of variation over heads.

        {page.table(["layer", "mean", "sd", "CV", "lowest head", "highest head"], rows)}

        {zero_text(results)}
    """)


def zero_text(results: dict) -> str:
    """How many kernels are zero, and where."""
    zero, heads = results["zero_kernels"], results["shape"]["heads"]
    if not zero:
        return ""
    counts = [f"layer {row['layer']} ({'all' if row['heads'] == heads else row['heads']})" for row in zero]
    return f"""{sum(row["heads"] for row in zero)} of {heads * results["shape"]["layers"]} kernels are zero: {listing(counts)}. They
        have no directions, so means leave them out, and a layer without any other kernel is no bottleneck."""


def random_section(results: dict) -> str:
    kernel, low, show = results["null"]["kernel"], results["bottleneck"], page.show
    return page.prose(f"""
        ## 3 Random matrices of the same shape

        A kernel of two Gaussian factors of this model's shape has effective rank {show(kernel["middle"])}
        ({show(kernel["low"])} to {show(kernel["high"])}: median, 5 % and 95 % points of {kernel["draws"]} draws). The mean over
        heads at layer {low["layer"]}, section 4's, is {show(low["mean"])}; p that a draw is as low is {show(kernel["p"], 2)} (with so
        many draws it cannot be less than {show(1 / (1 + kernel["draws"]), 2)}).
    """)


def bottleneck_section(results: dict) -> str:
    low, show = results["bottleneck"], page.show
    lowest, among = low["lowest"], f"{low['inner_layers']} inner layer(s)" if low["inner_layers"] else "all layers"
    outside, found = "", "Every kernel is zero."
    if low["mean"] is not None:
        found = f"""Lowest of {among}: layer {low["layer"]} with {show(low["mean"])} (sd {show(low["sd"])} over heads; KV groups:
            {", ".join(map(show, low["group_means"]))}), {low["layers_after"]} layer(s) before the end."""
    if edge_note(low):
        outside = f"""The lowest mean of all is that of layer {lowest["layer"]}, {show(lowest["mean"])}; as {edge(low)} it cannot lie
            between encoding and decoding."""
    return page.prose(f"""
        ## 4 Bottleneck

        ![Singular values at the bottleneck](one_spectra.png)

        {outside} {found} Later phases use {page.layer_name(low["layer"], results["verdict"])}.

        {margin_text(low)} The verdict is clear when both shares reach {percent(verdicts.SUPPORT_NEEDED)} and p is below
        {probability(verdicts.LEVEL)}; weak when p alone is. With one KV group
        there is no test, and two allow only three different resamples.

        Nor is a window with a lower layer right beside it a bottleneck, the first and the last layer included. Equal layers
        are a mild null: ranks that drift smoothly over depth have a lowest layer, too, which this test cannot tell from a
        bottleneck where it has higher neighbours on both sides.
    """)


def margin_text(low: dict) -> str:
    """What the window leads by, how often resamples find it, and by how much chance leads."""
    if low["runner_up"] is None:
        return "There is no other inner layer to lead, so nothing is tested."
    window = listing(f"L{layer}" for layer in low["window"])
    chance = "One KV group leaves no estimate of the noise, so chance is unknown."
    if low["margin_null"] is not None:
        chance = f"""If all inner layers were equal up to the noise between KV groups, the best of all such windows would lead by
            as much with p = {margin_p(low)}."""
    return f"""A bottleneck is a window of one to three neighbours, the lowest inner layers with the largest gap above them:
        {window}, {page.show(low["margin"], 3)} below L{low["runner_up"]}. Bootstrap ({low["resamples"]:,} resamples):
        {support_text(low)} have their lowest inner layer in it. {chance}"""


def phase_section(results: dict) -> str:
    encode, compute, decode = results["phases"]
    types = (*results["weight_types"]["attention"], *results["weight_types"]["ffn"], "heads")
    rows = [
        [name, *(vote_text(results["phase_votes"][phase], name) for phase in ("encode", "decode"))]
        for name in types
        if name in results["trends"]
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
    types = (*results["weight_types"]["attention"], *results["weight_types"]["ffn"], "heads")
    for name in (name for name in types if name in results["trends"]):
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

        Rows marked *open, or not testable here* are about Qwen2.5-3B's own numbers; this is another model.
    """
    return page.prose(text).split("\n\n")


def figure_ranks(results: dict, weight_ranks: np.ndarray, head_ranks: np.ma.MaskedArray) -> bytes:
    """Effective ranks over depth, of weights and of the heads' kernels, each beside random ones."""
    null, types, low = results["null"], results["weight_types"], results["bottleneck"]
    columns = dict(zip((*types["attention"], *types["ffn"]), weight_ranks.T))
    with page.figure(7.6, 8.4, 3, 1, sharex=True) as (figure, panels):
        for panel, kind in zip(panels, ("attention", "ffn")):
            for name in (name for name in types[kind] if name in results["trends"]):
                look = page.look(name)
                panel.plot(columns[name], label=name, **look)
                panel.axhline(null["weights"][name], color=look["color"], linestyle=":", linewidth=1.4)
            panel.plot([], ":", color="gray", label="random of that shape,\nin its colour")
        means, spread = head_ranks.mean(1), head_ranks.std(1)
        panels[2].plot(means, "o-", color=page.BLUE, markersize=4.5, label="mean over heads")
        bounds = {"color": page.SKY, "alpha": 0.35, "linewidth": 0, "label": "± 1 sd"}
        panels[2].fill_between(range(len(means)), means - spread, means + spread, **bounds)
        panels[2].axhline(null["kernel"]["middle"], color="gray", linestyle=":", linewidth=1.4, label="random kernel")
        for layer in low["window"]:
            own = layer == low["layer"]
            look = page.WEIGHTS_LAYER if own else {"color": "gray", "linewidth": 1}
            panels[2].axvline(layer, label=f"L{layer}, {'lowest inner layer' if own else 'its neighbour'}", **look)
        figure.suptitle(f"{results['model']['name']}: effective rank over depth", fontsize=12)
        for panel, title in zip(panels, ("attention weights", "FFN weights", "attention kernels")):
            cut = "\n(axis cut: it starts above 0)" if panel.get_ylim()[0] > 0 else ""
            panel.set_ylabel(f"effective rank{cut}")
            panel.set_title(title, fontsize=11)
            page.legend_beside(panel)
        panels[2].set_xlabel("layer")
        panels[2].locator_params(axis="x", integer=True)
    return page.png(figure)


def figure_heads(results: dict, head_ranks: np.ma.MaskedArray) -> bytes:
    """Effective rank of every head's kernel, and the layer that later phases use."""
    heads, layer = head_ranks.shape[1], results["bottleneck"]["layer"]
    with page.figure(7.6, max(2.8, 1 + 0.27 * heads)) as (figure, panel):
        image = panel.imshow(head_ranks.T, aspect="auto", origin="lower", cmap="viridis")
        title = f"{results['model']['name']}: effective rank of each head's kernel"
        panel.set(title=title, xlabel=f"layer (dashed: L{layer}, lowest inner layer)", ylabel="head")
        for edge in (layer - 0.5, layer + 0.5):
            panel.axvline(edge, color="white", linewidth=3.5)
            panel.axvline(edge, **page.WEIGHTS_LAYER)
        panel.set_yticks(range(heads))
        panel.locator_params(axis="x", integer=True)
        figure.colorbar(image, ax=panel, label="effective rank")
    return page.png(figure)


def figure_spectra(results: dict, spectra: np.ndarray) -> bytes:
    """Zero kernels have no spectrum and are left out."""
    layer = results["bottleneck"]["layer"]
    largest = spectra[..., :1]
    scaled, existing = spectra / np.where(largest > 0, largest, 1), largest[..., 0] > 0
    component, rows = np.arange(1, scaled.shape[-1] + 1), scaled[layer][existing[layer]]
    with page.figure(6, 4) as (figure, panel):
        title = f"{results['model']['name']}: kernel spectra at layer {layer}"
        panel.set(title=title, xlabel="component", ylabel="σ / largest σ")
        if len(rows):
            panel.plot(
                component, rows.T, color=page.BLUE, alpha=0.6, label=[f"L{layer} heads", *[None] * (len(rows) - 1)]
            )
            panel.plot(component, scaled[existing].mean(0), color="black", label="mean over all layers and heads")
            panel.set(yscale="log", ylim=(max(1e-4, float(rows[rows > 0].min()) / 2), None))
            panel.legend()
    return page.png(figure)
