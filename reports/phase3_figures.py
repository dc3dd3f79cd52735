"""Phase 3's figures: where answer and language arrive, the profile of every tested Z, and D over sizes and places."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from reports import page
from reports.page import BLUE, GREEN, ORANGE, PINK, RED, SKY, SMALL

SHARES = {  # the profile of a Z: what each share is of, and what it is by the hypothesis
    "coverage": ("Z: answer", 1), "leak": ("Z: language", 0),
    "complement_transfer": ("Z⊥: answer", 0), "complement_language": ("Z⊥: language", 1),
}  # fmt: skip
COLOURS = (BLUE, RED, SKY, "black", "dimgray", PINK)  # of swept Zs, without Haar's and the hypothesis'
MARKERS = "os^vPX"
MOVED = {
    "t_same": ("answer (T_same), donor asked alike", BLUE, "o"),
    "t_cross": ("answer (T_cross), donor asked otherwise", SKY, "s"),
    "g": ("language (G)", RED, "^"),
}
WINNERS = {  # of donors asked in another language: whose answer wins, in whose language
    "donor_recipient": ("donor's answer, recipient's language", GREEN, "s"),
    "donor_donor": ("donor's answer, donor's language", ORANGE, "^"),
    "recipient_recipient": ("recipient's answer, recipient's language", "black", "v"),
    "recipient_donor": ("recipient's answer, donor's language", PINK, "P"),
}
UNORDERED = ("learned", "ard_mmd")  # methods whose directions come in no order of size
OUTERMOST = (-60, 160)  # % that a profile's axis shows: intervals beyond end in an arrow


def stretches(results: dict, kind: str) -> list[tuple[int, int]]:
    """First and last site of every run of neighbours, among those that were measured, that carry something."""
    found = groupby(results["curve"], key=lambda row: row["site"] in results["carriers"][kind])
    spans = [[row["site"] for row in rows] for carried, rows in found if carried]
    return [(sites[0], sites[-1]) for sites in spans]


def neither(row: dict) -> float:
    """The share of swaps that a third answer wins, or a third language."""
    return max(0.0, 1 - sum(row[name]["value"] for name in WINNERS))


def winning(row: dict) -> tuple[float, float]:
    """How often the donor's answer wins where both are asked alike, and how often a third answer where they are not."""
    return row["iia_same"]["value"], neither(row)


def figure_depth(results: dict) -> bytes:
    """T and G, winners, and carriers along depth; shaded carries both. On the axis n is Ln.out, -1 the embeddings."""
    curve, layers = results["curve"], results["sites"] - 1
    x = np.array([row["site"] - 1 for row in curve])
    shares = {key: [100 * row[key]["value"] for row in curve] for key in WINNERS}
    with page.figure(7.6, 8.0, 2, 1, sharex=True) as (figure, (moved, won)):
        strip = won.inset_axes((0, -0.22, 1, 0.16), sharex=won)
        won.tick_params(labelbottom=False)
        for offset, width, (key, (label, colour, marker)) in zip((-0.005, 0.005, 0), (2.8, 1.4, 1.4), MOVED.items()):
            whiskers(moved, x + offset * layers, [row[key] for row in curve], colour, marker, label, width=width)
        for width, (key, (label, colour, marker)) in zip((5.4, 3.8, 2.4, 1.2), WINNERS.items()):  # none hides another
            won.plot(x, shares[key], color=colour, linewidth=width, marker=marker, markersize=3.4 + width, label=label)
        alike, third = ([100 * share for share in shares] for shares in zip(*(winning(row) for row in curve)))
        won.plot(x, alike, "--", color=BLUE, linewidth=2, label="donor's answer, both asked alike")
        won.plot(x, third, ":", color="silver", linewidth=2, label="a third answer")
        for height, (kind, colour) in enumerate((("language", RED), ("answer", BLUE))):
            sites = np.array(results["carriers"][kind], float)
            strip.plot(sites - 1, np.full(len(sites), height), "s", color=colour)
        mark_places((moved, won, strip), results)
        title = f"{results['model']['name']}, {results['rung']}: swapping the whole stream"
        moved.set_ylabel("moved, nats (95 % intervals)")
        won.set(ylabel="answer that wins, % of swaps", ylim=(-4, 104))
        strip.set(ylim=(-0.6, 1.6), xlim=(-1.6, layers - 0.4), xlabel="output of layer (emb.: embeddings)")
        strip.set_yticks(range(2), ["language", "answer"])
        strip.set_ylabel("carries")
        label_layers(strip, layers)
        for panel in (moved, won):
            panel.legend(fontsize=SMALL, loc="lower center", bbox_to_anchor=(0.46, 1.0), ncol=2, frameon=False)
        figure.suptitle(title)
    return page.png(figure)


def label_layers(panel, layers: int) -> None:
    step = -(-layers // 14)
    ticks = [-1, *range(step - 1, layers, step)]
    panel.set_xticks(ticks, ["emb." if tick < 0 else f"L{tick}" for tick in ticks])


def whiskers(
    panel,
    x: Sequence,
    records: Sequence[dict],
    colour: str,
    marker: str,
    label: str,
    line: str = "-",
    width: float = 1.4,
) -> None:
    """Measured values with their 95 % intervals, where they are known."""
    value, low, high = np.array([[record[end] for end in page.ENDS] for record in records], float).T
    panel.vlines(x, low, high, color=colour, linewidth=width)
    panel.plot(x, value, line, color=colour, linewidth=width, marker=marker, markersize=4 + width, label=label)


def mark_places(panels: Sequence, results: dict) -> None:
    """Joint carriers shaded where measured, and lines at the places that the weights point at; named in the first panel's legend."""
    lowest, inner = results["weights"]["lowest"], results["weights"]["inner"]
    lines = [(inner, "layer of the weights' Z", page.WEIGHTS_LAYER)]
    lines += (
        [(lowest, "lowest effective rank of all layers (1.py)", page.LOWEST_LAYER)]
        if lowest not in (None, inner)
        else []
    )
    for panel in panels:
        hidden = "" if panel is panels[0] else "_"  # a label that begins so is left out of the legend
        for index, site in enumerate(results["carriers"]["joint"]):
            label = f"{hidden or '_' * bool(index)}the whole stream carries both"
            panel.axvspan(site - 1.4, site - 0.6, color="gray", alpha=0.22, linewidth=0, label=label)
        for layer, label, style in lines:
            panel.axvline(layer, label=f"{hidden}{label}: L{layer}", **style)


def figure_profile(results: dict, rows: dict) -> bytes:
    """The four shares of every measured Z beside the full swap's, the hypothesis', and random subspaces' and PCA's if known."""
    labels = [f"{page.SUBSPACES[name]}\n{page.place(row['site'])}, k {row['k']}" for name, row in rows.items()]
    y = np.arange(len(rows))
    with page.figure(7.6, 2.0 + 0.62 * len(rows), 1, 4, sharey=True) as (figure, panels):
        for panel, (key, (label, ideal)) in zip(panels, SHARES.items()):
            panel.axvline(
                100 * (key in ("coverage", "leak")), color="gray", linewidth=5, alpha=0.45, label="full swap F"
            )
            panel.axvline(100 * ideal, label="hypothesis", **page.HYPOTHESIS)
            intervals(panel, y, [row[key] for row in rows.values()])
            seen = [(row["seen"] or {}).get(key, {"value": None})["value"] for row in rows.values()]
            panel.plot(
                100 * np.array(seen, float), y - 0.22, "o", color=BLUE, fillstyle="none", label="Z, seen answers"
            )
            random = [haar_share(results, name, key) for name in rows]
            panel.plot(100 * np.array(random, float), y + 0.22, linestyle="", label="Haar-random, same k", **page.HAAR)
            beside = [(same_size(results, name, "pca") or {}).get(key, {"value": None})["value"] for name in rows]
            panel.plot(
                100 * np.array(beside, float),
                y + 0.38,
                "s",
                color=RED,
                fillstyle="none",
                label="PCA within languages, same k",
            )
            for height in np.flatnonzero([row[key]["value"] is None for row in rows.values()]):
                panel.text(50, height, "n/a", ha="center", va="center", fontsize=SMALL)
            panel.set_title(label, fontsize=11)
            panel.set_xticks([0, 50, 100])
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        panels[0].set_yticks(y, labels)
        for name, text in zip(rows, panels[0].get_yticklabels()):
            text.set_fontweight("bold" if name == results["decided_by"] else "normal")
        figure.suptitle(f"{results['model']['name']}, {results['rung']}: what each subspace moves")
        figure.supxlabel("% of what the full swap F moves", fontsize=10.5)
        drawn = [pair for panel in panels for pair in zip(*panel.get_legend_handles_labels())]
        handles = {
            name: handle for handle, name in drawn if not hasattr(handle, "get_xdata") or len(known(handle.get_xdata()))
        }
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncol": 3, "frameon": False}
        figure.legend(handles.values(), handles.keys(), fontsize=10, **place)
    return page.png(figure)


def known(values: Sequence) -> np.ndarray:
    """Without what was not measured."""
    values = np.asarray(values, float)
    return values[~np.isnan(values)]


def intervals(panel, y: np.ndarray, records: Sequence[dict]) -> None:
    """A panel's points with 95 % intervals; an axis that would grow too wide is cut, with an arrow where one leaves it."""
    point, low, high = 100 * np.array([[record[end] for end in page.ENDS] for record in records], float).T
    first = max(OUTERMOST[0], np.nanmin([-15, *(low - 8)]))
    last = min(OUTERMOST[1], np.nanmax([115, *(high + 8)]))
    panel.set_xlim(first, last)
    panel.hlines(y, low, high, color=BLUE, linewidth=2)
    panel.plot(point, y, "o", color=BLUE, label="Z, 95 % interval")
    for edge, beyond, arrow in ((first, low < first, "<"), (last, high > last, ">")):
        if beyond.any():
            name = "interval goes on"
            panel.plot(
                np.full(beyond.sum(), edge), y[beyond], arrow, color=RED, markersize=9, clip_on=False, label=name
            )


def haar_share(results: dict, name: str, key: str) -> float | None:
    """What random subspaces of a Z's size move at its place, or their complements; None where that was not measured."""
    null, beside = results["tested"][name]["nulls"].get("haar", {}), results.get("beside")
    known = null.get("shares", {}).get(key)
    if known is None and key == "coverage":
        known = null.get("coverage")
    if known is None and beside and beside["of"] == name:
        known = beside["rivals"]["haar"][key]["value"]
    return known


def same_size(results: dict, name: str, rival: str) -> dict | None:
    """A rival as large as a Z, where it was swapped beside it."""
    beside = results.get("beside")
    found = beside["rivals"].get(rival) if beside and beside["of"] == name else None
    return found if found and found["k"] == results["tested"][name]["k"] and found["d"]["value"] is not None else None


def figure_sweeps(results: dict) -> bytes:
    """D over sizes of the basis, and over places, each beside random subspaces of that size there."""
    beside, layers = results["beside"], results["sites"] - 1
    with page.figure(7.6, 5.7, 1, 2, sharey=True) as (figure, (sizes, places)):
        order = "" if results["tested"][beside["of"]]["method"] in UNORDERED else ", by singular value"
        kinds = {
            "z": (BLUE, "o", f"first k of Z{order}", "-", 4),
            "pca": (RED, "s", "first k of PCA, by variance", "--", 1.4),
        }
        for of, look in kinds.items():  # the second is thinner: they may coincide
            rows = [row for row in beside["sweep_k"] if row["of"] == of]
            whiskers(sizes, [row["k"] for row in rows], [row["d"] for row in rows], *look)
        drawn = {row["k"]: row["haar"]["d"] for row in beside["sweep_k"]}
        draws_bars(sizes, sorted(drawn), [drawn[k] for k in sorted(drawn)])
        names = list(dict.fromkeys(row["name"] for row in beside["sweep_site"]))
        swept = {name: [row for row in beside["sweep_site"] if row["name"] == name] for name in names}
        x = side_by_side(swept)
        for name, colour, marker in zip(names, COLOURS, MARKERS):
            whiskers(places, x[name], [row["d"] for row in swept[name]], colour, marker, swept_name(name))
        for name in names:
            draws_bars(places, x[name], [row["haar"]["d"] for row in swept[name]], "" if name == names[0] else "_")
        for panel in (sizes, places):
            panel.axhline(2, label="hypothesis", **page.HYPOTHESIS)
            panel.axhline(0, color="gray", linewidth=0.8)
            panel.legend(fontsize=SMALL, loc="upper center", bbox_to_anchor=(0.5, -0.28), frameon=False)
        sizes.set(title=f"by size, {page.place(beside['site'])}", xlabel="k, dimensions", ylabel="D (95 % intervals)")
        places.set(title="by place", xlabel="output of layer\n(marks of one place stand side by side)")
        label_places(places, [row["site"] - 1 for row in beside["sweep_site"]], layers)
        figure.suptitle(f"{results['model']['name']}, {results['rung']}: D of other sizes and places")
    return page.png(figure)


def side_by_side(swept: dict[str, list[dict]]) -> dict[str, np.ndarray]:
    """Where the marks of several Zs of one layer stand, so that none hides another: around the layer."""
    sites = sorted({row["site"] for rows in swept.values() for row in rows})
    gap = min(np.diff(sites), default=1)
    shifts = (np.arange(len(swept)) - (len(swept) - 1) / 2) * 0.7 * gap / len(swept)
    return {name: np.array([row["site"] - 1 for row in rows]) + by for (name, rows), by in zip(swept.items(), shifts)}


def swept_name(name: str) -> str:
    """A Z whose place is varied; where its layer varies too, it is another Z at every place."""
    return "each layer's own weights' Z" if name == "best_layer" else page.SUBSPACES[name]


def draws_bars(panel, x: Sequence, draws: Sequence[dict], hidden: str = "") -> None:
    """5 to 95 % of random subspaces, as bars with their median; their ends are lines, so that a short bar is seen as well."""
    low, middle, high = np.array([[one[point] for point in ("low", "middle", "high")] for one in draws], float).T
    colour = page.HAAR["color"]
    panel.vlines(x, low, high, color=colour, alpha=0.5, linewidth=7, label=f"{hidden}Haar, 5 to 95 % of draws")
    for ends in (low, high):
        panel.plot(x, ends, "_", color=colour, markersize=10, markeredgewidth=1.4, zorder=3)
    look = page.HAAR | {"linestyle": "", "markeredgecolor": "black", "markeredgewidth": 0.8, "markersize": 4}
    panel.plot(x, middle, zorder=4, label=f"{hidden}their median", **look)


def label_places(panel, measured: Sequence[int], layers: int) -> None:
    """A tick at layers that were measured, not too many."""
    ticks = sorted(set(measured))
    ticks = ticks[:: -(-len(ticks) // 7)]
    panel.set_xticks(ticks, [f"L{tick}" if tick >= 0 else "emb." for tick in ticks])
    panel.set_xlim(min(measured) - 0.8, min(max(measured) + 0.8, layers))
