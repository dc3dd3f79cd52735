"""The hunt's pictures: answer and language along depth beside the best Z's profile, the tree, and models along relative depth."""

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from reports import page
from reports.hunt_opening import scored, stretches
from reports.hunt_tables import CANDIDATES, contingencies_swapped, first_nodes, measured
from reports.page import BLUE, RED, SKY, SMALL, place

QUESTIONS = {
    "behaviour": "{candidate} ≫\n{reference}?", "separation": "beyond nulls,\nratio_Z <\nratio_Z⊥?",
    "contingencies": "(a) centroids,\n(b) other layers,\n(c) ARD-MMD?", "patching": "patching: is it\ncausal?",
}  # fmt: skip
ENDS = tuple(  # the hunt's verdicts
    "causal_z learned_only partial_z answer_word illusion inconclusive correlational_z no_z untestable".split()
)
PLACES = {"behaviour": (0.9, 5.1), "separation": (0.9, 4.1), "contingencies": (3.7, 3.35), "patching": (0.9, 2.15)}
ACROSS, BUS = 5, 1.2  # ends in a row, the second one below the gaps of the first; height of the way to all of them
PLACES |= {
    end: (0.62 + 1.42 * (index % ACROSS) + 0.71 * (index // ACROSS), 0.72 - 0.62 * (index // ACROSS))
    for index, end in enumerate(ENDS)
}
BRANCHES = {  # where a node says more than yes or no, by the way out or by the verdict there
    ("behaviour", "no"): "no: limitation flagged",
    ("separation", "partial"): "in some configurations",
    ("patching", "partial"): "in part",
    ("patching", "answer_word"): "no: the output word's code",
    ("patching", "illusion"): "no: an illusion",
    ("patching", "language_removed"): "no: all but the language",
}
SHARES = {  # of a Z's profile: what is drawn, and what it is by the hypothesis
    "coverage": ("Z moves\nthe answer", 1), "leak": ("Z moves\nthe language", 0),
    "complement_transfer": ("the rest moves\nthe answer", 0), "complement_language": ("the rest moves\nthe language", 1),
}  # fmt: skip
ON_ARROW = {  # which way out of a node an arrow is, and where that stands beside its middle; a way that is none says so
    ("behaviour", "separation"): ("in any case", 0.06, 0.02),
    ("separation", "patching"): ("yes, or in part", 0.06, 0.05),
    ("separation", "contingencies"): ("no", 0.1, 0.1),
    ("contingencies", "patching"): ("{held}", 0.16, -0.13),
}
CURVES = {"t_same_share": ("answer", BLUE, "o", -0.06), "g_share": ("language", RED, "^", 0.06)}
OUTERMOST = (-60, 160)  # % that a profile's axis shows: intervals beyond end in an arrow
CUT = {"clip_on": False, "color": "black", "markersize": 8}


def branch(node: dict) -> str:
    """The way that was taken at a node, in the tree's words."""
    if node["node"] == "contingencies":
        held = [CANDIDATES[row["z"]] for row in node["candidates"] if row["holds"]]
        return f"{', '.join(held)} {'holds' if len(held) == 1 else 'hold'}" if held else "none holds"
    if node["node"] == "behaviour" and node["taken"] == "untestable":
        return f"untestable: {node['no_room']}"
    if node["taken"] == "yes" and (node.get("row") or {}).get("name") == "learned":
        return "only one learned for it"
    taken = BRANCHES.get((node["node"], node["taken"]), node["taken"])
    return BRANCHES.get((node["node"], node.get("verdict")), taken)


def figure_overview(results: dict) -> bytes:
    """Answer and language along depth with the places that the weights and the best Z stand for; below it that Z's profile."""
    z = results["z"]
    heights, count = ([3.4, 2.3], 2) if scored(z) else ([3.4], 1)
    with page.figure(7.6, 7.6 if count == 2 else 4.4, count, 1, gridspec_kw={"height_ratios": heights}) as (
        figure,
        panels,
    ):
        top = panels[0] if count == 2 else panels
        depth_panel(top, results)
        top.legend(fontsize=SMALL, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=2, frameon=False)
        if count == 2:
            profile_panel(panels[1], z)
            panels[1].legend(fontsize=SMALL, loc="upper center", bbox_to_anchor=(0.42, -0.26), ncol=2, frameon=False)
        asked = f", {results['z']['rung']}" if results["z"].get("rung") else ""
        figure.suptitle(f"{results['model']['name']}{asked}: swapping one prompt's stream for another's", fontsize=12)
    return page.png(figure)


def depth_panel(panel: Axes, results: dict) -> None:
    """How much the full swap moves, the places where it carries both, and lines at what points somewhere."""
    found, layers, z = results["arrival"], results["layers"], results["z"]
    for index, site in enumerate(found["carriers"]["joint"]):
        label = f"{'_' * bool(index)}carries both: surely half of the most,\nand the donor's answer wins half"
        panel.axvspan(site - 1.4, site - 0.6, color="gray", alpha=0.22, linewidth=0, label=label)
    sites = np.array([point["site"] for point in found["curve"]])
    for key, (label, colour, marker, aside) in CURVES.items():
        value, low, high = 100 * np.array([[point[key][end] for end in page.ENDS] for point in found["curve"]], float).T
        x = sites - 1 + aside
        panel.vlines(x, low, high, color=colour, linewidth=1.5)
        panel.plot(x, value, color=colour, marker=marker, markersize=5, label=f"{label} moved by the whole stream")
    lines = [(layers["predicted"], "layer that the weights point at", page.WEIGHTS_LAYER)]
    if layers["lowest"] != layers["predicted"]:
        lines.append((layers["lowest"], "lowest rank of all layers", page.LOWEST_LAYER))
    for layer, label, style in lines:
        panel.axvline(layer, label=f"{label}: L{layer}", **style)
    if z.get("site") is not None:
        label = f"place of the {which(z)}: {page.SUBSPACES[z['name']]}, k {z['k']}"
        above = {"transform": panel.get_xaxis_transform(), "clip_on": False, "zorder": 5}  # a place, and no value
        above["markerfacecolor"] = SKY if z["verdict"] == "double_dissociation" else "white"  # as over several models
        panel.plot([z["site"] - 1], [1.0], marker="*", color=SKY, markersize=15, linestyle="", label=label, **above)
    lowest = min(point[key]["low"] or 0 for point in found["curve"] for key in CURVES)
    panel.set(
        ylim=(max(OUTERMOST[0], min(-8, 100 * lowest - 5)), 112), ylabel="% of the most that it moves\n(95 % intervals)"
    )
    label_layers(panel, layers["layers"])


def label_layers(panel: Axes, layers: int) -> None:
    step = -(-layers // 14)
    ticks = [-1, *range(step - 1, layers, step)]
    panel.set_xticks(ticks, ["emb." if tick < 0 else f"L{tick}" for tick in ticks])
    panel.set_xlim(-1.6, layers - 0.4)
    panel.set_xlabel("output of layer (emb.: embeddings; lines join the places measured)")


def which(z: dict | None) -> str:
    """What a page calls the Z that it shows: of several that are no more than their nulls none is the best."""
    return "Z shown" if z and z["verdict"] == "none" else "best Z"


def profile_panel(panel: Axes, z: dict) -> None:
    """A Z's four shares beside what the hypothesis says of each and what random subspaces do."""
    y, records = np.arange(len(SHARES)), [z[key] for key in SHARES]
    value, low, high = 100 * np.array([[record[end] for end in page.ENDS] for record in records], float).T
    first, last = max(OUTERMOST[0], np.nanmin([-15, *(low - 8)])), min(OUTERMOST[1], np.nanmax([115, *(high + 8)]))
    panel.axvline(0, color="gray", linewidth=0.8)
    ideal = [100 * share for _, share in SHARES.values()]
    panel.vlines(ideal, y - 0.36, y + 0.36, label="hypothesis", **page.HYPOTHESIS)
    haar = z["nulls"]["haar"]
    random = {"coverage": haar["coverage"]} | haar.get("shares", {})
    shares = [np.nan if random.get(key) is None else 100 * random[key] for key in SHARES]
    panel.plot(shares, y + 0.24, linestyle="", markersize=7, label="random of that size (Haar), mean", **page.HAAR)
    if matched := (z["nulls"].get("matched") or {}).get("shares"):
        values = [100 * matched[key] for key in SHARES]
        panel.plot(values, y + 0.24, linestyle="", markersize=7, label="matched draws, mean", **page.MATCHED)
    panel.hlines(y, low, high, color=BLUE, linewidth=2.4)
    panel.plot(value, y, "o", color=BLUE, markersize=7, label=f"{which(z)}, 95 % interval")
    for height in np.flatnonzero(np.isnan(value)):
        panel.text(50, height, "not measurable", ha="center", va="center", fontsize=SMALL)
    for edge, beyond, arrow in ((first, low < first, "<"), (last, high > last, ">")):
        if beyond.any():  # an empty line that is not clipped would stretch the picture
            panel.plot(np.full(beyond.sum(), edge), y[beyond], arrow, **CUT)
    panel.set(xlim=(first, last), ylim=(len(y) - 0.5, -0.5), xlabel="% of what the whole stream moves there")
    panel.set_yticks(y, [label for label, _ in SHARES.values()])
    name = f"{page.SUBSPACES[z['name']]}, {place(z['site'])}, k {z['k']}"
    panel.set_title(f"{which(z)}: {name} ({z['verdict']})", fontsize=11)


def figure_tree(results: dict) -> bytes:
    """The recipe's tree; the path taken is filled."""
    nodes = first_nodes(results["path"])
    end = nodes["end"]["taken"]
    visited = [*(name for name in QUESTIONS if name in nodes), end]
    with page.figure(7.6, 7.0) as (figure, panel):
        for start, stop in [*pairwise(QUESTIONS), ("separation", "patching")]:
            draw_arrow(panel, start, stop, (start, stop) in pairwise(visited), held_text(nodes))
        draw_way(panel, end)
        for name in PLACES:
            label = name if name in ENDS else QUESTIONS[name].format(**nodes["behaviour"])
            draw_node(panel, name, label, told(results, nodes[name]) if name in nodes else "", name in visited)
        panel.set(xlim=(-0.15, 7.2), ylim=(-0.25, 5.45))
        panel.set_title(f"{results['model']['name']}: the recipe's tree, the path taken in blue", fontsize=12)
        panel.axis("off")
    return page.png(figure)


def held_text(nodes: dict) -> str:
    """Why the tree goes on from the contingencies: one holds, or none, and what was swapped is then no way out."""
    node = nodes.get("contingencies")
    if node is None:
        return "one that holds"
    count = sum(row["holds"] for row in node["candidates"])
    return f"{count} hold{'s' * (count == 1)}" if count else "none holds: patched all the same"


def told(results: dict, node: dict) -> str:
    """What stands beside a node of the picture: the way out, the numbers with the Z that they are of, and their null."""
    found, null = measured(node)
    lines = [branch(node), *found.split("; ")]
    if node["node"] == "patching" and node["row"] and "untested" not in node:
        lines[1] = f"{which(node['row'])}: {lines[1]}"
        nulls = node["row"]["nulls"] or {}
        if "haar" in nulls:
            drawn = {page.NULLS[name]: page.percent(nulls[name]["coverage"]) for name in page.RANKED if name in nulls}
            lines[2] += "".join(f"; {name} {share}" for name, share in drawn.items())
            lines[3] += f"; {page.p_text(node['row'])}"
        lines += [f"{CANDIDATES[row['method']]}: {row['verdict']}" for row in contingencies_swapped(results)]
    elif node["node"] == "contingencies":
        lines[1:] = [f"{line}, {p}" for line, p in zip(lines[1:], null.split("; "))]
    elif null != "–":
        lines.append(null)
    return "\n".join(filter(None, lines))


def draw_arrow(panel: Axes, start: str, end: str, used: bool, held: str) -> None:
    (x, y), (to_x, to_y) = PLACES[start], PLACES[end]
    places = (x, y - 0.3), (to_x, to_y + 0.3)
    if end == "contingencies":
        places = (x + 0.74, y - 0.2), (to_x - 0.76, to_y + 0.12)
    elif start == "contingencies":
        places = (x - 0.76, y - 0.2), (to_x + 0.3, to_y + 0.3)
    style = {"arrowstyle": "-|>", "color": BLUE if used else "lightgray", "linewidth": 2.5 if used else 1}
    panel.annotate("", places[1], places[0], arrowprops=style | {"shrinkA": 0, "shrinkB": 0}, zorder=1)
    if (start, end) in ON_ARROW:
        label, right, up = ON_ARROW[start, end]
        middle = [sum(ends) / 2 for ends in zip(*places)]
        colour = BLUE if used else "dimgray"
        panel.text(
            middle[0] + right,
            middle[1] + up,
            label.format(held=held),
            fontsize=SMALL,
            color=colour,
            fontweight="bold" if used else "normal",
        )


def draw_way(panel: Axes, end: str) -> None:
    """From patching, below what is told of it, to where the hunt ends."""
    (x, y), (to_x, to_y) = PLACES["patching"], PLACES[end]
    panel.plot([x, x, to_x], [y - 0.28, BUS, BUS], color=BLUE, linewidth=2.5, zorder=1)
    style = {"arrowstyle": "-|>", "color": BLUE, "linewidth": 2.5, "shrinkA": 0, "shrinkB": 0}
    panel.annotate("", (to_x, to_y + 0.28), (to_x, BUS), arrowprops=style, zorder=1)


def draw_node(panel: Axes, name: str, label: str, text: str, on: bool) -> None:
    """A node, and right of it the branch and the numbers where the hunt came by."""
    x, y = PLACES[name]
    wide = 0.62 if name in ENDS else 0.72
    colours = {"facecolor": "#cfe2f3" if on else "white", "edgecolor": BLUE if on else "lightgray"}
    box = FancyBboxPatch((x - wide, y - 0.25), 2 * wide, 0.5, boxstyle="round,pad=0.02", zorder=2, **colours)
    panel.add_patch(box)
    panel.text(x, y, label, ha="center", va="center", fontsize=SMALL, color="black" if on else "dimgray", zorder=3)
    if name in QUESTIONS:
        height = y + 0.27 if name == "patching" else y
        panel.text(
            x + 0.85, height, text, ha="left", va="top" if name == "patching" else "center", fontsize=SMALL, color=BLUE
        )


def figure_depth(models: dict[str, dict]) -> bytes:
    """Where the weights point, where answer and language pass, and where the best Z lies, a row for each model."""
    with page.figure(7.6, 2.4 + 0.85 * len(models)) as (figure, panel):
        for y, row in enumerate(models.values()):
            depth_row(panel, y, row)
        panel.set_yticks(range(len(models)), [row["model"]["name"].replace("/", "/\n") for row in models.values()])
        panel.set(ylim=(len(models) - 0.45, -0.55), xlim=(-0.14, 1.06))
        panel.set_xlabel("relative depth (0: output of the first layer, 1: of the last)")
        panel.set_title("Where the weights point, and where answer and language pass", fontsize=12)
        drawn = dict(zip(*panel.get_legend_handles_labels()[::-1]))
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.02), "ncol": 2, "frameon": False}
        figure.legend(drawn.values(), drawn.keys(), fontsize=SMALL, **below)
    return page.png(figure)


def depth_row(panel: Axes, y: int, row: dict) -> None:
    """One model: bars where the stream carries something, from the first measured place to the last, and points."""
    last = max(1, row["layers"] - 1)
    found = {"carriers": row["carriers"], "curve": [{"site": site} for site in row["measured"]]}
    for first, end in stretches(found, "joint"):
        x, width = (first - 1.35) / last, (end - first + 0.7) / last
        panel.add_patch(
            Rectangle((x, y - 0.36), width, 0.72, color="gray", alpha=0.22, linewidth=0, label="carries both")
        )
    for kind, colour, beside in (("answer", BLUE, -0.17), ("language", RED, 0.17)):
        for ends in stretches(found, kind):
            x = [(site - 1) / last for site in ends]
            label = f"the whole stream carries the {kind}"
            panel.plot(x, [y + beside] * 2, color=colour, linewidth=5, solid_capstyle="round", label=label)
    if not row["measured"]:
        why = "not swapped: no kind of problem could be used"
        panel.text(0.36, y + 0.22, why, ha="center", va="center", fontsize=SMALL, color="dimgray")
    points = [(row["lowest"], "o", "black", "none", 13, "lowest effective rank of all layers")]
    if row["predicted_verdict"] == "no_bottleneck":
        points += [(row["predicted"], "D", "black", "white", 7, "lowest of the inner layers, not singled out")]
    else:
        points += [(row["predicted"], "D", "black", "black", 7, "lowest of the inner layers, singled out")]
    if row["nearest"]["site"] is not None:
        filled = SKY if row["verdict"] == "causal_z" else "white"
        points.append(
            (row["nearest"]["site"] - 1, "*", SKY, filled, 15, "candidate nearest to a causal Z (filled: causal)")
        )
    for layer, marker, edge, face, size, label in points:
        style = {
            "marker": marker,
            "linestyle": "",
            "markeredgecolor": edge,
            "markerfacecolor": face,
            "markersize": size,
            "markeredgewidth": 1.6,
        }
        heights = [y]
        if marker == "D":  # on a piece of the line that stands for it in the other pictures
            heights, style = [y - 0.42, y, y + 0.42], style | page.WEIGHTS_LAYER | {"markevery": [1]}
        panel.plot([layer / last] * len(heights), heights, label=label, zorder=4, **style)
