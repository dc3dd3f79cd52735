"""Phase 2's figures: contrasts beside their nulls, what tells texts from foils, depth, channels, and Zs of other layers."""

import numpy as np

from reports import page
from reports.page import BLUE, RED, SKY, SMALL
from reports.phase2_tables import BASELINES, NULLS, POOLINGS, READERS, SUBSPACES, chance_of, gates

BANDS = {
    "haar": (page.HAAR["color"], -0.24),
    "matched": (page.MATCHED["color"], 0.0),
    "missing": (SKY, 0.24),
}  # colour, height beside a row
SPACES = {
    "z": ("inside Z", BLUE, "o"),
    "z_perp": ("outside of Z (Z⊥)", RED, "s"),
    "all": ("whole stream", "black", "^"),
}
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)  # of contrasts, on a logarithmic axis
FINE = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.7, 2, 2.5, 3)  # of a shorter one
SHORT = 7  # times from end to end
LEAST = 0.003  # a contrast that a logarithmic axis still shows


def figure_contrast(results: dict) -> bytes:
    """The primary Z and its rivals, with the offset and without it, above 5 to 95 % of their nulls' draws."""
    rows = {f"Z, primary\nk {results['primary']['k']}": results["primary"]}
    for name in results["rival_order"]:
        row = results["rivals"][name]
        which = f"same construction, k {row['k']},\n{results['folds']} folds" if name == "weight" else None
        rows[which or f"{SUBSPACES[name]}\nheld out, k {row['k']}"] = row
    with page.figure(7.6, 1.9 + 0.72 * len(rows), 1, 2, sharey=True) as (figure, panels):
        for panel, part, title in zip(panels, ("raw", "centred"), ("with the offset", "without it (decides)")):
            found = [row if part == "raw" else row["centred"] for row in rows.values()]
            contrast_panel(panel, found)
            panel.set_title(title, fontsize=11)
        panels[0].set_yticks(range(len(rows)), rows)
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        panels[0].get_yticklabels()[0].set_fontweight("bold")
        pooled = POOLINGS[results["primary"]["pooling"]]
        figure.suptitle(
            f"{results['model']['name']}: versions of a problem against different problems\n({pooled})", fontsize=12
        )
        figure.supxlabel(
            "contrast, inside Z over outside, logarithmic axis (below 1: keeps the problem, drops the language)",
            fontsize=10,
        )
        legend_below(figure, panels)
    return page.png(figure)


def contrast_panel(panel, found: list[dict]) -> None:
    """A contrast a row, with its interval where it has one, and bars for its nulls."""
    for kind, (colour, beside) in BANDS.items():
        for decides in (True, False):
            bars = [
                (y + beside, part[kind])
                for y, part in enumerate(found)
                if kind in part and gates(part, kind) is decides
            ]
            if bars:
                heights, nulls = zip(*bars)
                low, high = ([max(LEAST, null[end]) for null in nulls] for end in ("low", "high"))
                label = f"{NULLS[kind]}, 5 to 95 % of draws" + ("" if decides else ",\ndecide nothing here")
                look = (
                    {"color": colour, "alpha": 0.6}
                    if decides
                    else {"fill": False, "edgecolor": colour, "hatch": "//////"}
                )
                panel.barh(
                    heights, np.subtract(high, low), 0.2, low, linewidth=0.8 * (not decides), label=label, **look
                )
    values = np.array([max(LEAST, part["contrast"]) for part in found])
    y = np.arange(len(found))
    if "low" in found[0]:
        low, high = ([max(LEAST, part[end]) for part in found] for end in ("low", "high"))
        panel.hlines(y, low, high, color="black", linewidth=1.6, label="95 % interval (without the offset)")
    panel.vlines(values, y - 0.38, y + 0.38, color=BLUE, linewidth=2.2, label="measured")
    panel.axvline(1, color="black", linestyle=":", linewidth=1)
    panel.use_sticky_edges = False  # bars would end at the axis
    panel.set_xscale("log")
    label_contrasts(panel)
    for height in y[1:]:
        panel.axhline(height - 0.5, color="gainsboro", linewidth=0.8)


def label_contrasts(panel) -> None:
    """Round ticks on a logarithmic axis, closer ones where it is short, and at most six."""
    first, last = panel.get_xlim()
    ticks = [tick for tick in (FINE if last / first < SHORT else TICKS) if first <= tick <= last]
    step = -(-len(ticks) // 6)
    start = ticks.index(1) % step if 1 in ticks else 0
    panel.minorticks_off()
    panel.set_xticks(ticks[start::step], [f"{tick:g}" for tick in ticks[start::step]])


def legend_below(figure, panels, columns: int = 2, anchor: float = 0.0) -> None:
    """One legend for all panels, below the figure."""
    handles = {}
    for panel in panels:
        handles |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels())}
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, anchor), "ncol": columns, "frameon": False}
    figure.legend(handles.values(), handles.keys(), fontsize=SMALL + 0.5, **place)


def figure_text(results: dict) -> bytes:
    """How often Z, the stream, random subspaces and every baseline tell a text from its foil."""
    texts = {f"primary Z\nk {results['primary']['k']}": results["text"]}
    if results["text_handed"]:
        texts[f"Z handed on\n{page.place(results['z']['site'])}, k {results['z']['k']}"] = results["text_handed"]
    names = [name for name in BASELINES if name in results["text"]["baselines"]]
    labels = ["Z", "Haar, same k", "whole stream", *(BASELINES[name].replace(" (", "\n(") for name in names)]
    with page.figure(7.6, 1.9 + 0.42 * len(labels), 1, len(texts), sharey=True, squeeze=False) as (figure, panels):
        for panel, (title, text) in zip(panels[0], texts.items()):
            rates = [text["z"], None, text["stream"], *(text["baselines"][name] for name in names)]
            for y, row in enumerate(rates):
                if row is None:
                    continue
                first = {0: "Z, 95 % interval", 2: "whole stream and baselines, 95 % intervals"}.get(y)
                colour = BLUE if y == 0 else "black"
                panel.hlines(y, 100 * row["low"], 100 * row["high"], color=colour, linewidth=2)
                panel.plot(
                    100 * row["rate"],
                    y,
                    "o" if y == 0 else "s",
                    color=colour,
                    markersize=7 if y == 0 else 5,
                    label=first,
                )
            null = text["haar"]
            low, middle, high = (100 * null[point] for point in ("low", "middle", "high"))
            panel.axvspan(
                low,
                high,
                color=page.HAAR["color"],
                alpha=0.25,
                linewidth=0,
                label=f"Haar, 5 to 95 % of {null['draws']} draws",
            )
            panel.plot(middle, 1, linestyle="", markersize=7, label="Haar, median", **page.HAAR)
            panel.axvline(50, color="black", linestyle=":", linewidth=1.2, label="chance")
            panel.set_title(f"{title} ({POOLINGS[text['pooling']]})", fontsize=11)
            panel.set_xlim(-4, 104)
        panels[0][0].set_yticks(range(len(labels)), labels)
        panels[0][0].set_ylim(len(labels) - 0.5, -0.5)
        figure.suptitle(f"{results['model']['name']}: texts told from foils (same words, another answer)", fontsize=12)
        figure.supxlabel("comparisons won, %", fontsize=10.5)
        legend_below(figure, panels[0])
    return page.png(figure)


def drawn_spaces(results: dict, reader: str) -> list[str]:
    """The curves of a reader that are drawn: those that are not at their ceiling everywhere, and that exist."""
    curves, flagged = results["depth"][reader], results["depth_ceiling"][reader]
    return [space for space in SPACES if not flagged[space] and None not in curves[space]]


def figure_depth(results: dict) -> bytes:
    """What can be read along depth beside chance, the effective rank of the activations, and how alike the languages are."""
    readers = [reader for reader in READERS if drawn_spaces(results, reader)]
    count = len(readers) + 2
    rows = -(-count // 2)
    with page.figure(7.6, 0.9 + 2.45 * rows, rows, 2, squeeze=False, sharex=True) as (figure, grid):
        panels = list(grid.flat)
        layers = len(results["depth"]["cka"]["value"]) - 1
        x = np.arange(layers + 1) - 1
        for panel, reader in zip(panels, readers):
            reader_panel(panel, x, results, reader)
        rank_panel(panels[count - 2], x, results)
        cka_panel(panels[count - 1], x, results["depth"]["cka"])
        for panel in panels[count:]:
            panel.set_visible(False)
        for panel in panels[:count]:
            panel.axvline(results["primary"]["site"] - 1, label="layer of Z", **page.WEIGHTS_LAYER)
            label_layers(panel, layers)
        for panel in panels[max(0, count - 2) : count]:
            panel.tick_params(labelbottom=True)
            panel.set_xlabel("output of layer (emb.: embeddings)", fontsize=10)
        figure.suptitle(
            f"{results['model']['name']}: along depth, {results['problems']} problems\n"
            f"({POOLINGS[results['primary']['pooling']]})",
            fontsize=12,
        )
        legend_below(figure, panels[:count], 2)
    return page.png(figure)


def label_layers(panel, layers: int) -> None:
    step = -(-layers // 7)
    ticks = [-1, *range(step - 1, layers, step)]
    panel.set_xticks(ticks, ["emb." if tick < 0 else f"L{tick}" for tick in ticks], fontsize=SMALL)
    panel.set_xlim(-1.5, layers - 0.5)


def reader_panel(panel, x: np.ndarray, results: dict, reader: str) -> None:
    """A reader's curves and their chance: one line where it is one, else in the curves' colours."""
    spaces = drawn_spaces(results, reader)
    chances = {space: 100 * np.array(chance_of(results, reader, space)) for space in spaces}
    one = np.ptp(np.array([*chances.values()], float), axis=0).max() < 2  # nearer to each other than a line is wide
    for place, (width, space) in enumerate(zip((2.6, 1.8, 1.2), spaces)):
        label, colour, marker = SPACES[space]
        curve = 100 * np.array(results["depth"][reader][space])
        panel.plot(x, curve, color=colour, marker=marker, markersize=3.5, linewidth=width, label=label)
        if not one:
            named = f"{'_' * bool(place)}chance, in its curve's colour"
            panel.plot(x, chances[space], ":", color=colour, linewidth=1.8, label=named)
        elif not place:
            panel.plot(x, np.mean([*chances.values()], axis=0), ":", color="black", linewidth=1.8, label="chance")
    what = {"problem": "its version found", "language": "language right", "answer": "answer right"}[reader]
    panel.set_ylabel(f"{what}, %", fontsize=10)
    panel.set_title(READERS[reader], fontsize=10.5)
    panel.set_ylim(-5, 105)


def rank_panel(panel, x: np.ndarray, results: dict) -> None:
    for space, (label, colour, marker) in SPACES.items():
        curve = results["depth"]["effective_rank"][space]
        panel.plot(x, curve, color=colour, marker=marker, markersize=3.5, linewidth=1.6, label=label)
    panel.set_ylim(0)
    panel.set_ylabel("dimensions", fontsize=10)
    panel.set_title(f"effective rank (Z: at most {results['primary']['k']})", fontsize=10.5)


def cka_panel(panel, x: np.ndarray, cka: dict) -> None:
    panel.fill_between(
        x, cka["low"], cka["high"], color="gray", alpha=0.3, linewidth=0, label="shuffled problems, 5 to 95 %"
    )
    panel.plot(x, cka["value"], color="black", marker="D", markersize=3.5, linewidth=1.8, label="CKA of the languages")
    panel.set_ylim(-0.05, 1.05)
    panel.set_ylabel("linear CKA", fontsize=10)
    panel.set_title("likeness of the languages, whole stream", fontsize=10.5)


def figure_channels(results: dict) -> bytes:
    """What share of attention's and the FFN's addition to the stream lies inside Z, by layer."""
    found = results["channels"]
    layers = len(found["attention"])
    with page.figure(7.6, 4.0) as (figure, panel):
        low, high = (100 * found["haar"][end] for end in ("low", "high"))
        label = f"Haar, 5 to 95 % of {results['read_draws']} draws a layer"
        panel.axhspan(low, high, color=page.HAAR["color"], alpha=0.28, linewidth=0, label=label)
        panel.axhline(100 * found["chance"], color="black", linestyle=":", linewidth=1.4, label="√(k/d)")
        for name, label, colour, marker in (("attention", "attention", BLUE, "o"), ("ffn", "FFN", RED, "s")):
            panel.plot(
                range(layers), 100 * np.array(found[name]), color=colour, marker=marker, linewidth=1.8, label=label
            )
        panel.axvline(results["settings"]["layer"], label="layer of Z", **page.WEIGHTS_LAYER)
        step = -(-layers // 14)
        panel.set_xticks(range(0, layers, step), [f"L{layer}" for layer in range(0, layers, step)])
        panel.set(xlabel="layer", ylabel="|P_Z Δ| / |Δ|, % (mean over prompts)", ylim=(0, None))
        panel.set_title(
            f"{results['model']['name']}: what layers add inside Z (k {results['primary']['k']})", fontsize=12
        )
        legend_below(figure, [panel], 3)
    return page.png(figure)


def figure_layers(results: dict) -> bytes:
    """The weights' Z of every layer without the offset, and how far ARD-MMD's coordinates overlap with Z along depth."""
    found = results["contingencies"]
    sweep, ard = found["sweep"], found["ard"]["layers"]
    with page.figure(7.6, 4.8, 1, 2) as (figure, (contrasts, overlaps)):
        x = [row["layer"] for row in sweep]
        for kind in ("haar", "matched"):
            colour, _ = BANDS[kind]
            low, high = ([row["centred"][kind][end] for row in sweep] for end in ("low", "high"))
            label = f"{NULLS[kind]}, 5 to 95 %"
            contrasts.fill_between(x, low, high, color=colour, alpha=0.35, linewidth=0, label=label)
        values = [row["centred"]["contrast"] for row in sweep]
        contrasts.plot(x, values, color=BLUE, marker="o", markersize=4, label="Z of that layer")
        contrasts.axhline(1, color="black", linestyle=":", linewidth=1)
        contrasts.set(ylabel="contrast without the offset", xlabel="layer", title="(b) every layer's Z")
        at = [row["layer"] for row in ard]
        for key, colour, marker, label in (
            ("overlap", BLUE, "o", "overlap with Z"),
            ("chance", "black", "", "chance, k/d"),
        ):
            shares = [100 * row[key] for row in ard]
            style = ":" if key == "chance" else "-"
            overlaps.plot(at, shares, style, color=colour, marker=marker, markersize=5, label=label)
        overlaps.set(ylabel="top k coordinates in Z, %", xlabel="output of layer", title="(c) ARD-MMD")
        overlaps.set_ylim(0, 115 * max(max(row["overlap"], row["chance"]) for row in ard))
        for panel, layers in ((contrasts, x), (overlaps, at)):
            ticks = sorted(set(layers))[:: -(-len(set(layers)) // 6)]
            panel.set_xticks(ticks, [f"L{tick}" for tick in ticks])
            panel.axvline(results["settings"]["layer"], label="layer of Z", **page.WEIGHTS_LAYER)
            panel.legend(fontsize=SMALL, loc="upper center", bbox_to_anchor=(0.5, -0.22), frameon=False)
        figure.suptitle(
            f"{results['model']['name']}: other layers ({POOLINGS[results['primary']['pooling']]})", fontsize=12
        )
    return page.png(figure)
