"""Phase 3's figures: where answer and language arrive along depth, and the profile of every tested Z."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from reports import page

ENDS = ("value", "low", "high")  # of a record
NAMES = {  # of the subspaces tested, in tables and figures
    "weights": "weights, own place",
    "weights_at_carrier": "weights, best carrier",
    "best_layer": "best layer's weights",
    "handed": "handed on by phase 2",
    "answer_means": "answer means",
    "learned": "learned",
}
SHARES = {  # the profile of a Z, and what each share is by the hypothesis
    "coverage": ("coverage", 1), "leak": ("leak", 0),
    "complement_transfer": ("complement's transfer", 0), "complement_language": ("complement's language", 1),
}  # fmt: skip
BLUE, SKY, GREEN, RED, ORANGE, PINK = "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00", "#CC79A7"  # Okabe and Ito
MOVED = {
    "t_same": ("T_same: answer,\ndonor asked in the same language", BLUE, "o"),
    "t_cross": ("T_cross: answer,\ndonor asked in another language", SKY, "s"),
    "g": ("G: language", RED, "^"),
}
WINNERS = {  # of donors asked in another language: whose answer wins, in whose language
    "donor_recipient": ("donor's answer, recipient's language", GREEN, "s"),
    "donor_donor": ("donor's answer, donor's language", RED, "^"),
    "recipient_recipient": ("recipient's answer and language", "black", "v"),
    "recipient_donor": ("recipient's answer, donor's language", PINK, "D"),
}


def place(site: int) -> str:
    """A place in the stream, named by the layer that it leaves."""
    return f"L{site - 1}.out" if site else "embeddings"


def stretches(results: dict, kind: str) -> list[tuple[int, int]]:
    """First and last site of every run of neighbours, among those that were measured, that carry something."""
    found = groupby(results["curve"], key=lambda row: row["site"] in results["carriers"][kind])
    spans = [[row["site"] for row in rows] for carried, rows in found if carried]
    return [(sites[0], sites[-1]) for sites in spans]


def figure_depth(results: dict) -> bytes:
    """T and G, winners, and carriers along depth; the axis counts layers: n is Ln.out, -1 the embeddings."""
    curve, layers = results["curve"], results["sites"] - 1
    x, step = [row["site"] - 1 for row in curve], -(-layers // 18)
    ticks = [-1, *range(step - 1, layers, step)]
    measures = (*MOVED, "iia_same", *WINNERS)
    points = {key: np.array([[row[key][end] for row in curve] for end in ENDS], float) for key in measures}
    with page.figure(11.5, 8.5, 3, 1, sharex=True, height_ratios=(5, 5, 1.2)) as (figure, (moved, won, strip)):
        for key, (label, color, marker) in MOVED.items():
            moved.plot(x, points[key][0], color=color, marker=marker, markersize=5, label=label)
            moved.fill_between(x, *points[key][1:], color=color, alpha=0.2, linewidth=0)
        moved.plot([], [], " ", label="bands: 95 % intervals")
        won.plot(x, 100 * points["iia_same"][0], "--", color=BLUE, label="donor's answer, asked in the same language")
        won.plot([], [], " ", label="asked in another language:")
        for key, (label, color, marker) in WINNERS.items():
            won.plot(x, 100 * points[key][0], color=color, marker=marker, markersize=5, label=label)
        for height, (kind, color) in enumerate((("joint", "gray"), ("language", RED), ("answer", BLUE))):
            sites = np.array(results["carriers"][kind], float)
            strip.plot(sites - 1, np.full(len(sites), height), "s", color=color)
        mark_places((moved, won, strip), results)
        title = f"{results['model']['name']}, {results['rung']}: swapping the whole stream"
        moved.set(title=title, ylabel="answer (T), language (G), nats")
        won.set(ylabel="most probable answer, % of swaps", ylim=(-4, 104))
        strip.set(ylim=(-0.6, 2.6), xlim=(-1.6, layers - 0.4), xlabel="output of layer (emb.: embeddings)")
        strip.set_yticks(range(3), ["carries both", "language", "answer"])
        strip.set_xticks(ticks, ["emb." if tick < 0 else f"L{tick}" for tick in ticks], fontsize=9)
        for panel in (moved, won):
            panel.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1))
    return page.png(figure)


def mark_places(panels: Sequence, results: dict) -> None:
    """Joint carriers shaded, and lines at the places that the weights point at; named in the first panel's legend."""
    lowest, inner = results["weights"]["lowest"], results["weights"]["inner"]
    lines = [(inner, "layer of the weights' Z", "--"), (lowest, "lowest rank of all", ":")][: 1 + (lowest is not None)]
    for panel in panels:
        hidden = "" if panel is panels[0] else "_"  # a label that begins so is left out of the legend
        for index, (first, last) in enumerate(stretches(results, "joint")):
            label = f"{hidden or '_' * bool(index)}carries both"
            panel.axvspan(first - 1.5, last - 0.5, color="gray", alpha=0.18, label=label)
        for layer, label, style in lines:
            panel.axvline(layer, color="black", linestyle=style, linewidth=1.3, label=f"{hidden}{label}: L{layer}")


def figure_profile(results: dict, rows: dict) -> bytes:
    """The four shares of every measured Z, against the hypothesis and, of coverage, random subspaces."""
    labels = [f"{NAMES[name]}\n{place(row['site'])}, k {row['k']}" for name, row in rows.items()]
    y, rows = np.arange(len(rows)), list(rows.values())
    haar = np.array([row["nulls"]["haar"]["coverage"] if row["nulls"] else None for row in rows], float)
    seen = np.array([row["seen"]["coverage"]["value"] if row["seen"] else None for row in rows], float)
    with page.figure(11, 2.2 + 0.6 * len(rows), 1, 4, sharey=True) as (figure, panels):
        for panel, (key, (label, ideal)) in zip(panels, SHARES.items()):
            point, low, high = 100 * np.array([[row[key][end] for row in rows] for end in ENDS], float)
            panel.axvline(100 * ideal, color=GREEN, linestyle="--", label="hypothesis")
            panel.hlines(y, low, high, color=BLUE, linewidth=2)
            panel.plot(point, y, "o", color=BLUE, label="Z, with 95 % interval")
            panel.set(title=label, xlabel="% of the full swap")
            panel.set_xlim(np.nanmin([-10, *point - 5]), np.nanmax([110, *point + 5]))
        panels[0].plot(100 * seen, y - 0.2, "o", color=BLUE, fillstyle="none", label="Z, seen answers")
        panels[0].plot(100 * haar, y + 0.2, "D", color=ORANGE, label="Haar-random, same k")
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        panels[0].set_yticks(y, labels)
        figure.suptitle(f"{results['model']['name']}: what swapping each Z moves")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0), ncol=4)
    return page.png(figure)
