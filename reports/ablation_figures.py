"""The ablation's figures: the sweep over λ and thirds of the layers, and every edit beside its null."""

import math

import numpy as np
from matplotlib.lines import Line2D

from reports import page
from reports.ablation_tables import by_role, lambdas, null_of
from reports.page import BLUE, GREEN, RED, SMALL

THIRDS = {"early": (GREEN, "^"), "middle": (BLUE, "o"), "late": (RED, "s")}
BESIDE = 0.024  # of λ: so far beside it stand random draws, and the thirds half as far
LEAST = 0.05  # nats a token that the text's axis shows at least: round-off would look like damage
MARKS = {"random": {"color": "gray", "marker": "x"}, "random_perp": page.HAAR}  # of the draws, by null
BLACK_LINE = {"color": "black", "linewidth": 1, "linestyle": ":"}


def swept(results: dict, place: str) -> list[dict]:
    """The rows of a third, by λ, with no edit as λ 0."""
    zero = by_role(results)["nothing"]
    rows = [
        row for row in results["rows"]
        if (row["condition"], row["place"], row["scope"]) == ("language", place, "prefill") and row["strength"]
    ]  # fmt: skip
    return [zero, *sorted(rows, key=lambda row: row["strength"])]


def spread(results: dict, role: str, measure: str) -> np.ndarray:
    """Draws of a null."""
    return np.array(null_of(results, role)["changes"][measure])


def figure_strength(results: dict) -> bytes:
    """Log-odds, right answers and the text's perplexity over λ, by thirds of the layers."""
    with page.figure(7.6, 8.4, 3, 1, sharex=True) as (figure, panels):
        for shift, (place, (colour, marker)) in zip((-BESIDE / 2, 0, BESIDE / 2), THIRDS.items()):
            rows = swept(results, place)
            x = np.array([row["strength"] for row in rows]) + shift
            look = {"color": colour, "marker": marker, "linewidth": 1.6}
            odds, text = (
                np.array([[row[key][end] for end in page.ENDS] for row in rows]).T for key in ("odds", "text")
            )
            panels[0].vlines(x, odds[1], odds[2], color=colour, linewidth=1.4)
            panels[0].plot(x, odds[0], label=f"{place} third of the layers", **look)
            right, ends = right_answers(rows, results["none"]["accuracy"])
            panels[1].vlines(x, *ends, color=colour, linewidth=1.4)
            panels[1].plot(x, right, **look)
            panels[2].vlines(x, *np.exp(text[1:].clip(max=20)), color=colour, linewidth=1.4)
            panels[2].plot(x, np.exp(text[0].clip(max=20)), **look)
        label = f"random directions, as large (middle),\ndrawn {BESIDE:g} left of their λ"
        for name, role in ((label, "primary"), ("_", "complete")):
            strength, none = by_role(results)[role]["strength"], results["none"]["accuracy"]
            drawn = {"linestyle": "", "marker": "x", "color": "gray", "markersize": 5, "alpha": 0.8}
            for panel, values in zip(
                panels,
                (
                    spread(results, role, "odds"),
                    100 * (none + spread(results, role, "accuracy")),
                    np.exp(spread(results, role, "text").clip(max=20)),
                ),
            ):
                panel.plot(np.full(len(values), strength - BESIDE), values, label=name, **drawn)
        panels[0].axhline(0, **BLACK_LINE)
        panels[2].axhline(1, **BLACK_LINE)
        panels[1].set_ylim(-4, 104)
        logarithmic(panels[2])
        panels[0].set_ylabel("log-odds of the right\nanswer, change in nats")
        panels[1].set_ylabel("right answers, %")
        panels[2].set(
            ylabel="perplexity of the\nquestions, times unedited",
            xlabel="λ: share removed of the stream's part along the languages' differences\n(marks of one λ stand side by side; "
            "lines 95 %, where longer than the marks)",
            xlim=(-0.06, 1.06),
            xticks=sorted({row["strength"] for row in results["rows"] if row["condition"] == "language"}),
        )
        panels[0].legend(fontsize=SMALL, loc="lower center", bbox_to_anchor=(0.46, 1.0), ncol=2, frameon=False)
        figure.suptitle(f"{results['model']['name']}, {results['rung']}: removing the language subspace", fontsize=11)
    return page.png(figure)


def right_answers(rows: list[dict], unedited: float) -> tuple[np.ndarray, np.ndarray]:
    """Right answers in percent, and the ends of their intervals: those of the difference from no edit."""
    values = np.array([row["accuracy"] for row in rows])
    ends = np.array([unedited + np.array(row["difference_interval"]) for row in rows]).T
    return 100 * values, 100 * ends.clip(0, 1)


def logarithmic(panel) -> None:
    """A logarithmic axis of factors where they are far apart."""
    low, high = panel.get_ylim()
    if high > 5 * max(low, 0.2):
        panel.set_yscale("log")
        ticks = [1, *(10**power for power in range(1, 1 + math.ceil(math.log10(high))))]
        panel.set_yticks(ticks, [f"×{tick:,}" for tick in ticks])
        panel.minorticks_off()
        return
    if high - low < 0.1:  # round-off would look like damage
        panel.set_ylim(0.9, 1.15)


def figure_test(results: dict) -> bytes:
    """Every edit: change of log-odds and of the text's perplexity, with intervals; draws of random directions."""
    rows = [row for row in results["rows"] if row["strength"]]
    with page.figure(7.6, 1.6 + 0.33 * len(rows), 1, 2, sharey=True, width_ratios=(2, 1)) as (figure, panels):
        for panel, key in zip(panels, ("odds", "text")):
            panel.axvline(0, **BLACK_LINE)
            ends = outermost(results, rows, key)
            ends = (min(ends[0], -LEAST), max(ends[1], LEAST)) if key == "text" else ends
            panel.set_xlim(*ends)
            for place, row in enumerate(rows):
                colour = RED if "primary" in row["roles"] else BLUE
                panel.plot([row[key]["low"], row[key]["high"]], [place, place], color=colour, linewidth=2)
                point(panel, row[key]["value"], place, ends, colour)
            for null in results["nulls"]:
                place = next(at for at, row in enumerate(rows) if null["role"] in row["roles"])
                draws(panel, np.array(null["changes"][key]), place + 0.28, ends, null["null"])
        panels[0].set_xlabel("log-odds of the right answer,\nchange in nats")
        panels[1].set_xlabel("question's text,\nchange in nats a token")
        panels[0].locator_params(axis="x", nbins=6)
        panels[1].locator_params(axis="x", nbins=3)
        labels = [f"{short(row)}, λ {lambdas(row)}" for row in rows]
        panels[0].set_yticks(range(len(rows)), labels, fontsize=SMALL)
        panels[0].invert_yaxis()
        marks = [
            {"marker": "o", "color": colour, "label": label}
            for colour, label in ((RED, "primary edit, 95 %"), (BLUE, "other edits, 95 %"))
        ]
        marks += [
            mark | {"label": label}
            for mark, label in (
                (MARKS["random"], "random directions as large"),
                (MARKS["random_perp"], "random subspaces of Z's size (Haar)"),
            )
        ]
        handles = [Line2D([], [], linestyle="", markersize=6, **mark) for mark in marks]
        figure.legend(
            handles=handles, fontsize=SMALL, loc="upper center", ncol=2, frameon=False, bbox_to_anchor=(0.5, 1.02)
        )
        title = (
            f"{results['model']['name']}, {results['rung']}: every edit, {len(results['nulls'])} beside random draws"
        )
        figure.suptitle(title, fontsize=10, y=1.035)
    return page.png(figure)


def outermost(results: dict, rows: list[dict], key: str) -> tuple[float, float]:
    """The ends of an axis that shows every edit but that of all but Z, and that one too where it is not far off."""
    near = [row[key][end] for row in rows if not row["condition"].startswith("z_perp") for end in ("low", "high")]
    near += [
        value for null in results["nulls"] if not null["role"].startswith("z_perp") for value in null["changes"][key]
    ]
    every = near + [row[key][end] for row in rows for end in ("low", "high")]
    every += [value for null in results["nulls"] for value in null["changes"][key]]
    wide = max(map(abs, near + [0.1]))
    shown = every if max(map(abs, every)) < 3 * wide else near
    margin = 0.08 * max(wide, max(map(abs, shown)))
    return min(0, *shown) - margin, max(0, *shown) + margin


def point(panel, value: float, place: int, ends: tuple[float, float], colour: str) -> None:
    """A measured value; one beyond the axis as an arrow at its end, with its number."""
    low, high = ends
    if low <= value <= high:
        panel.plot(value, place, "o", color=colour, markersize=5)
        return
    at, marker, side = (low, "<", "left") if value < low else (high, ">", "right")
    panel.plot(at, place, marker, color=colour, markersize=8, clip_on=False)
    number = page.minus(f"{value:+.1f}")
    text = f"  {number}" if side == "left" else f"{number}  "
    panel.text(at, place - 0.15, text, ha=side, va="center", fontsize=SMALL)


def draws(panel, values: np.ndarray, place: float, ends: tuple[float, float], kind: str) -> None:
    """Draws of a null; those beyond the axis as one arrow at its end, with how many there are and how far they go."""
    low, high = ends
    inside = (low <= values) & (values <= high)
    panel.plot(values[inside], np.full(inside.sum(), place), linestyle="", markersize=4, **MARKS[kind])
    for beyond, at, marker, side in ((values < low, low, "<", "left"), (values > high, high, ">", "right")):
        if not beyond.any():
            continue
        panel.plot(at, place, marker, color=MARKS[kind]["color"], markersize=6, clip_on=False)
        digits = 0 if np.abs(values[beyond]).min() >= 10 else 1  # a narrow panel holds no more
        least, most = (page.minus(f"{end:+.{digits}f}") for end in (values[beyond].min(), values[beyond].max()))
        reach = least if least == most else f"{least} to {most}"
        text = f"{reach} ({beyond.sum()})"
        where = {"ha": side, "va": "center", "fontsize": SMALL, "color": "dimgray"}
        panel.text(at, place + 0.05, f"  {text}" if side == "left" else f"{text}  ", **where)


SHORT = {  # for an axis
    "language": "language",
    "language_reinjected": "language, re-injected",
    "language_mean": "to languages' mean",
    "own_mean": "to own language's mean",
    "shuffled": "made-up languages",
    "z_perp": "all but Z",
    "z_perp_mean": "all but Z to mean",
}


def short(row: dict) -> str:
    """A row's name for an axis."""
    place = "" if row["place"] in ("z", "middle") and row["condition"] != "language" else f", {row['place']}"
    return SHORT.get(row["condition"], row["condition"]) + place + (", last position" if row["scope"] == "last" else "")
