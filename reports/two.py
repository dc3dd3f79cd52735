"""The page of 2.py: overlap of the heads' subspaces across layers, and how much of it the FFN reads."""

import numpy as np

from reports import page
from reports.page import decimal, p_value
from verdicts import RECIPE


def summary(results: dict) -> str:
    layer = results["settings"]["layer"]
    haar = haar_over_chance(results, layer)
    low, high = decimal(haar["low"]), decimal(haar["high"])
    ratio = decimal(results["ffn_alignment_over_chance"][layer])
    return f"L{layer}, {results['ffn']['judged']} {ratio} x chance (Haar {low} to {high}, p {p_of(haar)})"


def p_of(null: dict, side: str = "p") -> str:
    """A null's p of two sides, or of `p_low`, `p_high`: as a bound where no draw is as far out."""
    return p_value(null[side], bound=null[side] * (1 + null["draws"]) < (2.5 if side == "p" else 1.5))


def elsewhere_text(results: dict) -> str:
    """What else W_gate reads at the layer of the verdict: the multi-head subspace, and other layers'."""
    ffn, layer = results["ffn"], results["settings"]["layer"]
    pairs = {"the multi-head subspace": ffn["consensus"], "those of other layers": ffn["other_layers"]}
    pairs = {name: values[layer] for name, values in pairs.items() if values[layer] is not None}
    parts = [f"{name} it reads {decimal(value / results['chance'])} times" for name, value in pairs.items()]
    return f"Of {' and of '.join(parts)} chance." if parts else ""


def haar_over_chance(results: dict, layer: int, side: str = "reading", matrix: str | None = None) -> dict:
    """A matrix's null at a layer, its energies in multiples of chance; without a name of the matrix that is judged."""
    null = results["ffn"][side][matrix or results["ffn"]["judged"]]["haar"][layer]
    return null | {point: null[point] / results["chance"] for point in ("low", "middle", "high")}


def over_chance(results: dict, side: str, matrix: str) -> list[float]:
    """A matrix's energy in the heads' subspaces per layer, in multiples of chance."""
    return [energy / results["chance"] for energy in results["ffn"][side][matrix]["energy"]]


def range_text(null: dict) -> str:
    """Median and 5 % and 95 % points of a ratio."""
    middle, low, high = (decimal(null[point]) for point in ("middle", "low", "high"))
    return f"{middle} ({low} to {high})"


def claims(results: dict) -> list[dict]:
    """The recipe's structural claims about overlap and alignment."""
    rows = (*reading_rows(results), *writing_rows(results), spread_row(results), *overlap_rows(results))
    return [page.claim(*row) for row in rows]


def reading_rows(results: dict) -> list[tuple]:
    show, ffn, chance, layer = page.show, results["ffn"], results["chance"], results["settings"]["layer"]
    over, haar = results["ffn_alignment_over_chance"], haar_over_chance(results, layer)
    ratio, recipe_ratio, judged = decimal(over[layer]), RECIPE["ffn_over_chance"], ffn["judged"]
    energy = ffn["reading"][judged]["energy"][layer]
    who = "the FFN's gate" if judged == "W_gate" else f"the FFN (no gate here: {judged})"
    return [
        (
            "ffn_below_chance",
            f"{who} reads the bottleneck's attention subspace less than chance",
            f"{RECIPE['ffn_energy']} against {RECIPE['ffn_chance']}: {recipe_ratio}×",
            f"{show(energy)} against {show(chance)}: {ratio}×",
            f"Haar {range_text(haar)} × chance, one-sided p {p_of(haar, 'p_low')}; "
            f"other layers' subspaces {show(ffn['other_layers'][layer])}",
        ),
        (
            "ffn_value",
            f"the alignment at layer {RECIPE['layer']} is {recipe_ratio} × chance",
            f"{recipe_ratio}×",
            f"L{layer}: {ratio}×",
            "1×",
        ),
        (
            "ffn_special",
            "the avoidance is special to the bottleneck",
            "implied",
            f"lowest of {len(over)} layers: L{over.index(min(over))} ({decimal(min(over))}×); "
            f"rank of L{layer}: {sum(value < over[layer] for value in over) + 1}",
            f"median over layers {decimal(float(np.median(over)))}×",
        ),
    ]


def writing_rows(results: dict) -> list[tuple]:
    """What the recipe's "separate channels" says of the directions that a layer writes to, beside those that it reads."""
    ffn, chance, layer = results["ffn"], results["chance"], results["settings"]["layer"]
    haar = {name: haar_over_chance(results, layer, "writing", name) for name in ("W_down", "W_O")}
    written = {name: decimal(over_chance(results, "writing", name)[layer]) for name in haar}
    ratio = decimal(results["ffn_alignment_over_chance"][layer])
    return [
        (
            "ffn_writes_below_chance",
            "the FFN writes into the bottleneck's attention subspace less than chance (separate channels)",
            "implied",
            f"W_down {written['W_down']}×",
            f"Haar {range_text(haar['W_down'])} × chance, one-sided p {p_of(haar['W_down'], 'p_low')}",
        ),
        (
            "attention_writes_above_chance",
            "attention carries that subspace: W_O writes into it more than chance (separate channels)",
            "implied",
            f"W_O {written['W_O']}×",
            f"Haar {range_text(haar['W_O'])} × chance, one-sided p {p_of(haar['W_O'], 'p_high')}",
        ),
        (
            "ffn_orthogonal",
            "FFN and attention operate in orthogonal subspaces there, reading and writing",
            f"orthogonal ({RECIPE['ffn_over_chance']}× chance)",
            f"reads {ratio}× chance by energy, {decimal(ffn['top'][layer] / chance)}× by top directions; "
            f"writes {written['W_down']}×",
            "orthogonal is 0×, chance is 1×",
        ),
    ]


def spread_row(results: dict) -> tuple:
    show, layer = page.show, results["settings"]["layer"]
    haar = haar_over_chance(results, layer)
    low, high = (show(haar[point] * results["chance"]) for point in ("low", "high"))
    return (
        "ffn_spread",
        "the small spread over heads shows that this is no fluke",
        f"sd {RECIPE['ffn_sd']} over heads",
        f"sd {show(results['ffn']['sd'][layer], 2)} over heads",
        f"random subspaces spread from {low} to {high} (5 to 95 %); "
        "heads of a KV group share W_K and vary less for that alone",
    )


def overlap_rows(results: dict) -> list[tuple]:
    show, layer, recipe, chance = page.show, results["settings"]["layer"], RECIPE["layer"], results["chance"]
    approach, snap, across = results["approach"], results["snap"], results["heads"]["across_groups"]
    agreement, drop = "none", "too few layers"
    if snap is not None:
        agreement = f"same in {results['snap_heads']:.0%} of heads, {results['snap_groups']:.0%} of KV groups"
        drop = f"L{snap[0]}→L{snap[1]}, drop {show(results['snap_drop'], 3)}"
    converged, usual = "one KV group only", "–"
    if across[layer] is not None:
        converged = f"similarity across KV groups {show(across[layer], 3)}"
        usual = f"median of layers {show(float(np.median(across)), 3)}; chance {show(chance, 2)}"
    return [
        (
            "approach",
            "the layer before the bottleneck is its closest relative, twice as similar as any other pair",
            f"L{recipe - 1}↔L{recipe} {RECIPE['approach']}, {RECIPE['pair_ratio']}× any other",
            "no layer before it" if approach is None else f"L{layer - 1}↔L{layer} {show(approach, 3)}",
            f"best other pair {pair_text(results['best_other_pair'])}; chance {show(chance, 2)}",
        ),
        ("snap", "the largest phase boundary follows the bottleneck", f"L{recipe}→L{recipe + 1}", drop, agreement),
        ("heads_converge", "heads converge on one subspace at the bottleneck", "maximally organised", converged, usual),
    ]


def pair_text(pair: dict | None) -> str:
    return "–" if pair is None else f"L{pair['layers'][0]}↔L{pair['layers'][1]} {page.show(pair['similarity'], 3)}"


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figures from results and arrays alone."""
    similarity, consensus = arrays["two_similarity.npy"], arrays["two_consensus_similarity.npy"]
    sections = [
        overlap_section(results),
        convergence_section(results),
        head_section(results),
        ffn_section(results),
        definition_section(results),
    ]
    title = f"Subspace overlap and FFN alignment of {results['model']['name']}"
    text = page.report(title, verdict_sentence(results), results, sections, limitations(results))
    return {
        "two_similarity.png": figure_similarity(results, similarity.mean(0), consensus),
        "two_to_bottleneck.png": figure_to_bottleneck(results, similarity),
        "two_ffn_alignment.png": figure_ffn(results, arrays["two_ffn_alignment.npy"]),
        "two_output.md": text,
    }


def verdict_sentence(results: dict) -> str:
    show, layer = page.show, results["settings"]["layer"]
    haar, name = haar_over_chance(results, layer), page.layer_name(layer, results["layer_chosen"])
    what = {
        "ffn_avoids_attention": "reads the heads' subspaces less than chance",
        "ffn_at_chance": "cannot be told from chance in how much it reads the heads' subspaces",
        "ffn_shares_attention": "reads the heads' subspaces more than chance, the opposite of the recipe's claim",
    }[results["verdict"]]
    judged, ratio = results["ffn"]["judged"], decimal(results["ffn_alignment_over_chance"][layer])
    return page.prose(f"""
        At {name} {judged} {what} (`{results["verdict"]}`): {ratio} times k/d = {show(results["chance"])}; 90 % of
        {haar["draws"]} Haar-random subspaces lie between {decimal(haar["low"])} and {decimal(haar["high"])} times (two-sided p
        {p_of(haar)}). {elsewhere_text(results)}
    """)


def overlap_section(results: dict) -> str:
    show, k, asked, snap = page.show, results["settings"]["k"], results["settings"]["k_asked"], results["snap"]
    clamped = f" ({asked} asked, clamped)" if asked != k else ""
    columns = zip(results["adjacent"], results["adjacent_consensus"])
    rows = [[f"L{layer} → L{layer + 1}", *values] for layer, values in enumerate(columns)]
    drop = "There are too few layers for a drop."
    if snap:
        drop = f"""The largest drop between neighbouring pairs is at L{snap[0]} → L{snap[1]} ({show(results["snap_drop"], 3)});
        {results["snap_heads"]:.0%} of heads and {results["snap_groups"]:.0%} of KV groups have theirs there."""
    return page.prose(f"""
        ## 1 Overlap across layers

        ![Similarity of all layer pairs](two_similarity.png)

        Grassmann similarity (mean squared cosine of principal angles) of the heads' top k = {k}{clamped} key-side subspaces;
        chance is k/d = {show(results["chance"])}. *Multi-head*: the k directions that the heads share most. A layer with itself (1
        by definition) is left blank.

        {page.table(["layers", "mean over heads", "multi-head"], rows)}

        Most similar pair: {pair_text(results["best_pair"])}. {drop}
    """)


def convergence_section(results: dict) -> str:
    layer = results["settings"]["layer"]
    columns = zip(results["to_bottleneck"], results["to_bottleneck_consensus"])
    rows = [[f"L{other}", *values] for other, values in enumerate(columns) if other != layer]
    return page.prose(f"""
        ## 2 Convergence on the bottleneck

        ![Similarity to the bottleneck](two_to_bottleneck.png)

        {page.table([f"similarity to L{layer}", "mean over heads", "multi-head"], rows)}
    """)


def head_section(results: dict) -> str:
    columns = zip(results["heads"]["within_group"], results["heads"]["across_groups"])
    rows = [[f"L{layer}", *map(page.show, values)] for layer, values in enumerate(columns)]
    return page.prose(f"""
        ## 3 Heads among themselves

        Heads of one KV group share W_K, so their key-side subspaces agree for that reason alone. Chance is
        {page.show(results["chance"])}.

        {page.table(["layer", "pairs within a KV group", "pairs across groups"], rows)}
    """)


def ffn_section(results: dict) -> str:
    ffn, chance, layer = results["ffn"], results["chance"], results["settings"]["layer"]
    judged = ffn["judged"]
    without_gate = ""
    if judged != "W_gate":
        without_gate = f"This FFN has no gate: {judged} takes W_gate's place in the verdict and in what follows."
    return page.prose(f"""
        ## 4 FFN alignment

        ![FFN alignment against chance](two_ffn_alignment.png)

        Share of a matrix's energy inside the heads' subspaces, mean over heads, in multiples of k/d: of what it reads of the
        stream, ‖WVᵀ‖²/‖W‖², and of what it writes to it, ‖VW‖²/‖W‖². *Haar*: median, 5 % and 95 % points of
        {haar_over_chance(results, layer)["draws"]} random subspaces; p is two-sided, per layer and matrix, not corrected for
        their number; the verdict uses {judged} at the bottleneck alone. A mean over heads varies less than a single random
        subspace, so p errs towards chance. {without_gate}

        **Reading.** *Top directions*: the similarity of {judged}'s own top-k right singular vectors to the subspaces (the
        recipe's text). *Multi-head*: {judged} in the directions that the heads share most. *Other layers*: {judged} of this
        layer in all other layers' multi-head subspaces.

        {page.table(*reading_table(results))}

        By KV group at L{layer}: {", ".join(decimal(value / chance) for value in ffn["groups"][layer])} times chance.

        **Writing.** W_down is what the FFN adds to the stream, W_O what attention adds.

        {page.table(*writing_table(results))}
    """)


def reading_table(results: dict) -> tuple[list[str], list[list]]:
    """Headers and rows, a layer a row."""
    ffn, chance, judged = results["ffn"], results["chance"], results["ffn"]["judged"]
    columns = {name: over_chance(results, "reading", name) for name in (judged, *ffn["reading"])}
    rows = []
    for index, others in enumerate(ffn["other_layers"]):
        ratios = [decimal(column[index]) for column in columns.values()]
        more = [decimal(ffn[key][index] / chance) for key in ("consensus", "top")]
        elsewhere = decimal(None if others is None else others / chance)
        haar = haar_over_chance(results, index)
        rows.append([f"L{index}", *ratios, range_text(haar), p_of(haar), *more, elsewhere])
    headers = ["layer", *columns, f"Haar of {judged}", "p", "multi-head", "top directions", "other layers"]
    return headers, rows


def writing_table(results: dict) -> tuple[list[str], list[list]]:
    """Headers and rows, a layer a row."""
    names = ("W_down", "W_O")
    columns = {name: over_chance(results, "writing", name) for name in names}
    rows = []
    for index in range(len(results["ffn_alignment_over_chance"])):
        row = [f"L{index}"]
        for name in names:
            haar = haar_over_chance(results, index, "writing", name)
            row += [decimal(columns[name][index]), range_text(haar), p_of(haar)]
        rows.append(row)
    return ["layer", *(header for name in names for header in (name, f"Haar of {name}", "p"))], rows


def definition_section(results: dict) -> str:
    columns = zip(results["definition"]["gap"], results["definition"]["folded"])
    rows = [[f"L{layer}", page.show(gap), page.show(folded)] for layer, (gap, folded) in enumerate(columns)]
    return page.prose(f"""
        ## 5 How well defined the subspaces are

        σ_k/σ_{{k+1}} (median over heads): near 1 the cut at k is arbitrary and another k would give other directions. *Folded*:
        similarity between subspaces with and without the norm gain; 1 means that the choice does not matter.

        {page.table(["layer", "σ_k/σ_{k+1}", "folded against raw"], rows)}
    """)


def limitations(results: dict) -> list[str]:
    shape = results["shape"]
    text = f"""
        Kernels are taken at relative position 0 and without biases.

        {shape["heads"]} heads share {shape["groups"]} key projection(s): statistics over heads are not over independent votes.

        Haar subspaces are uniform; trained weights share many anisotropies, so a significant difference from Haar does not by
        itself mean a division of labour. The column *other layers* shows how far other attention subspaces differ too.

        Weights alone do not show what activations carry; phase 2 measures that.
    """
    if results["layer_chosen"] == "no_bottleneck":
        text += """

        The layer is *exploratory*: the weights single out none, and the lowest one is looked at all the same, so that what is found
        there confirms no prediction.
    """
    if results["zero_kernels"]:
        zeros = ", ".join(f"L{layer} {count}" for layer, count in results["zero_kernels"])
        text += f"""

        Kernels of zeros ({zeros}) have no directions: means of energies leave them out, and similarities count them as 0.
    """
    if any(row["holds"] is None for row in results["claims"]):
        text += """

        Rows marked *open, or not testable here* are about Qwen2.5-3B's own numbers and this is another model, need more than one KV
        group, or (the spread over heads) do not follow from what they cite.
    """
    return page.prose(text).split("\n\n")


def figure_similarity(results: dict, heads: np.ndarray, consensus: np.ndarray) -> bytes:
    """Similarity of all pairs of layers, in one scale, with chance on its bar."""
    itself = np.eye(len(heads), dtype=bool)
    shown = {"mean over heads": heads, "multi-head subspace": consensus}
    shown = {title: np.where(itself, np.nan, matrix) for title, matrix in shown.items()}
    highest = max(np.nanmax(matrix, initial=0) for matrix in shown.values())
    with page.figure(7.6, 3.4, 1, 3, width_ratios=(1, 1, 0.05)) as (figure, (*panels, bar)):
        for panel, (title, matrix) in zip(panels, shown.items()):
            image = panel.imshow(matrix, origin="lower", cmap="viridis", vmin=0, vmax=highest)
            panel.set(xlabel="layer", ylabel="layer")
            panel.set_title(title, fontsize=11)
        figure.colorbar(image, cax=bar, label="Grassmann similarity")
        bar.axhline(results["chance"], color="white", linewidth=1.6)
        beside = {
            "xytext": (-4, 0),
            "textcoords": "offset points",
            "ha": "right",
            "va": "center",
            "fontsize": page.SMALL,
        }
        bar.annotate(f"chance\n{results['chance']:.2g}", (0, results["chance"]), **beside)
        figure.suptitle(f"{results['model']['name']}: similarity of the layers' subspaces", fontsize=12)
    return page.png(figure)


def figure_to_bottleneck(results: dict, similarity: np.ndarray) -> bytes:
    """Similarity of every layer to the bottleneck, of each head, their mean and the multi-head subspace."""
    layer = results["settings"]["layer"]
    depth = np.arange(similarity.shape[1])

    def without_itself(values) -> np.ndarray:
        return np.where(depth == layer, np.nan, values)

    with page.figure(7.6, 4.4) as (figure, panel):
        for index, head in enumerate(similarity[:, layer]):
            look = {"color": page.SKY, "alpha": 0.6, "linewidth": 1, "marker": "_", "markersize": 9}
            panel.plot(depth, without_itself(head), label="_" if index else "each head", **look)
        curves = (
            ("to_bottleneck", page.BLUE, "o", "-", "mean over heads"),
            ("to_bottleneck_consensus", page.RED, "s", "--", "multi-head"),
        )
        for key, colour, marker, dashes, label in curves:
            look = {"color": colour, "marker": marker, "linestyle": dashes, "markersize": 5}
            panel.plot(depth, without_itself(results[key]), label=label, **look)
        panel.axhline(results["chance"], color="black", linestyle=":", label="chance k/d")
        panel.axvline(layer, label=f"L{layer}", **page.WEIGHTS_LAYER)
        title = f"{results['model']['name']}: similarity to layer {layer}"
        panel.set(title=title, xlabel="layer", ylabel="Grassmann similarity", ylim=(0, None))
        panel.locator_params(axis="x", integer=True)
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "ncols": 3, "frameon": False}
        panel.legend(fontsize=page.SMALL, **place)
    return page.png(figure)


def figure_ffn(results: dict, alignment: np.ndarray) -> bytes:
    """What the layers read of the heads' subspaces, and what they write into them, each with the range of its null."""
    layer, depth, judged = results["settings"]["layer"], np.arange(len(alignment)), results["ffn"]["judged"]
    titles = {"reading": "what is read of the stream", "writing": "what is written to the stream"}
    with page.figure(7.6, 6.6, 2, 1, sharex=True) as (figure, panels):
        for panel, (side, title) in zip(panels, titles.items()):
            bands = {name: matrix for name, matrix in results["ffn"][side].items() if "haar" in matrix}
            for name, hatch in zip(bands, ("", "////")):
                nulls = [haar_over_chance(results, index, side, name) for index in depth]
                low, high = ([null[point] for null in nulls] for point in ("low", "high"))
                style = {"facecolor": "none" if hatch else page.HAAR["color"], "edgecolor": page.HAAR["color"]}
                style |= {"alpha": 0.6, "hatch": hatch, "linewidth": 0.8, "label": f"{name}: Haar, 5 to 95 %"}
                panel.fill_between(depth, low, high, **style)
            if side == "reading":
                look = {"color": page.SKY, "alpha": 0.6, "linewidth": 1, "zorder": 1}
                heads = panel.plot(depth, alignment / results["chance"], **look)
                heads[0].set_label(f"{judged}, each head")
            for name in results["ffn"][side]:
                panel.plot(depth, over_chance(results, side, name), label=name, **page.look(name))
            panel.axhline(1, color="black", linestyle=":", label="chance k/d")
            panel.axvline(layer, label=f"L{layer}", **page.WEIGHTS_LAYER)
            panel.set_title(title, fontsize=11)
            panel.set_ylabel("multiple of chance")
            page.legend_beside(panel)
        panels[1].set_xlabel("layer")
        panels[1].locator_params(axis="x", integer=True)
        figure.suptitle(f"{results['model']['name']}: energy inside the heads' subspaces", fontsize=12)
    return page.png(figure)
