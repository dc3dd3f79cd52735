"""Phase 3b's figures: held-out R², the gain beside twins and other subspaces, the map itself, and the transfer."""

from textwrap import fill

import numpy as np

from reports import page
from reports.page import BLUE, GREEN, RED, SMALL
from reports.phase3b_tables import NAMES, SUBSPACES, TWINS

LOOKS = {"haar": page.HAAR, "matched": page.MATCHED}
LOWEST = -3  # R² that an axis shows at least


def named(results: dict) -> str:
    """The model and the kind of problem."""
    return f"{results['model']['name']}, {results['settings']['rung']}"


def figure_r2(results: dict) -> bytes:
    """Held-out R² of every map with its interval, beside R² on what it was fitted on, shuffled problems and the words."""
    maps, null = results["settings"]["maps"], results["null"]["shuffled"]
    places = np.arange(len(maps))[::-1]
    low, high = np.array([results["interval"][name] for name in maps]).T
    values = np.array([results["held_out_r2"][name] for name in maps])
    fitted, words = np.array([results["in_sample_r2"][name] for name in maps]), results["words"]["r2"]
    ends = np.array([[null[name]["low"], null[name]["high"]] for name in maps])
    lowest = max(LOWEST, min(low.min(), values.min(), fitted.min(), ends.min(), words) - 0.1)
    with page.figure(7.6, 4.1) as (figure, panel):
        panel.hlines(
            places - 0.2, *ends.T.clip(lowest), color="gray", linewidth=4, label="shuffled problems, 5 to 95 %"
        )
        panel.hlines(places, low.clip(lowest), high.clip(lowest), color=BLUE, linewidth=2)
        shown = values >= lowest
        label = "held out, 95 % interval over answers"
        panel.plot(values[shown], places[shown], "o", color=BLUE, markersize=8, label=label)
        panel.plot(fitted, places, "s", color="black", markersize=6, fillstyle="none", label="on what it was fitted on")
        for place, value, colour, below in (
            *zip(places, values, [BLUE] * len(maps), values < lowest),
            *zip(places, low, [BLUE] * len(maps), shown & (low < lowest)),
            *zip(places - 0.2, ends[:, 0], ["gray"] * len(maps), ends[:, 0] < lowest),
        ):
            if below:
                panel.plot(lowest, place, "<", color=colour, markersize=8, clip_on=False)
                beside = 0.27 if colour == BLUE else -0.25  # above or below its line, which it would hide
                panel.annotate(
                    page.minus(f"{value:.1f}"),
                    (lowest + 0.02, place + beside),
                    va="center",
                    color=colour,
                    fontsize=SMALL,
                )
        panel.axvline(words, color=RED, linestyle="--", linewidth=1.4, label="source's words (bag), ridge, held out")
        panel.axvline(0, color="black", linewidth=1)
        panel.set_yticks(places, [NAMES[name] for name in maps])
        panel.set(xlim=(lowest, 1.05), ylim=(-0.7, len(maps) - 0.4))
        panel.set_title(f"{named(results)}: maps inside Z", fontsize=11)
        panel.set_xlabel("R² inside Z (0: no better than the training mean, 1: exact)")
        panel.legend(fontsize=SMALL, loc="upper center", bbox_to_anchor=(0.4, -0.18), ncol=2, frameon=False)
    return page.png(figure)


def figure_gain(results: dict) -> bytes:
    """The gain in Z beside twins and other subspaces: a mark a twin or draw, one above the other so that none hides another."""
    found, own = results["subspaces"], results["gain"][results["settings"]["primary"]]
    rows = [(TWINS[kind], row["gains"], "s", "black", "a twin") for kind, row in results["twins"]["kinds"].items()]
    drawn = {"haar": "a Haar-random subspace", "matched": "a matched subspace"}
    rows += [
        (SUBSPACES[kind], found["gains"][kind], "|", LOOKS[kind]["color"], drawn[kind])
        for kind in SUBSPACES
        if found[kind]
    ]
    with page.figure(7.6, 1.6 + 0.55 * len(rows)) as (figure, panel):
        panel.axvline(0, color="black", linewidth=1, zorder=0)
        panel.axvline(own, color=BLUE, linewidth=2.4, label="Z of the trained model", zorder=1)
        for place, (_, gains, marker, colour, label) in enumerate(reversed(rows)):
            heights = place + 0.3 * np.linspace(-1, 1, len(gains)) if len(gains) > 1 else [place]
            panel.plot(gains, heights, marker, color=colour, markersize=6, linestyle="none", label=label)
        figure.suptitle(f"{named(results)}: the map's gain in Z and elsewhere", fontsize=11)
        panel.set_yticks(range(len(rows)), [fill(f"{name}, {len(gains)}", 28) for name, gains, *_ in reversed(rows)])
        lowest = min([0, own, *(gain for _, gains, *_ in rows for gain in gains)])
        panel.set(xlim=(max(LOWEST, lowest) - 0.05, 1.02), ylim=(-0.6, max(0, len(rows) - 1) + 0.6))
        panel.set_xlabel("gain: share of the error that the map saves\nbeyond mean, shift and scaled shift")
        handles = dict(zip(*panel.get_legend_handles_labels()[::-1]))
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncol": 2, "frameon": False}
        figure.legend(handles.values(), handles.keys(), fontsize=SMALL, **place)
    return page.png(figure)


def figure_map(results: dict) -> bytes:
    """Singular values of the maps, and prediction beside truth."""
    styles = dict(zip(results["settings"]["learned"], ((BLUE, "o"), (RED, "s"), (GREEN, "^"))))
    x, y, x_predicted, y_predicted = np.array(results["components"]).T
    with page.figure(7.6, 4.2, 1, 2) as (figure, (left, right)):
        for name, (colour, marker) in styles.items():
            values = results["map"][name]["singular_values"]
            places = np.arange(1, len(values) + 1)
            left.plot(places, values, color=colour, marker=marker, markersize=4, linewidth=1.2, label=NAMES[name])
        figure.suptitle(f"{named(results)}: the map inside Z", fontsize=11)
        left.locator_params(axis="x", integer=True)
        left.axhline(1, color="black", linestyle=":", linewidth=1, label="a rotation")
        left.set(xlabel="singular value's rank", ylabel="singular value of the map", ylim=(0, None))
        left.legend(fontsize=SMALL, loc="upper center", bbox_to_anchor=(0.45, -0.2), frameon=False)
        joined = right.plot([x, x_predicted], [y, y_predicted], color="silver", linewidth=1, zorder=1)
        joined[0].set_label("joins the two of one problem")
        right.plot(x, y, "o", color="black", markersize=5, label="truth")
        predicted = f"held-out prediction, {NAMES[results['settings']['primary']]}"
        right.plot(x_predicted, y_predicted, "x", color=BLUE, markersize=6, label=predicted)
        right.set(xlabel="target's component 1 in Z (stream units)", ylabel="component 2 (stream units)")
        right.yaxis.tick_right()
        right.yaxis.set_label_position("right")
        right.legend(fontsize=SMALL, loc="upper center", bbox_to_anchor=(0.45, -0.2), frameon=False)
    return page.png(figure)


def figure_transfer(results: dict) -> bytes:
    """How often the donor's answer comes out in the recipient's language."""
    move, conditions = results["transfer"], results["settings"]["conditions"]
    values = 100 * np.array([move["success"][name] for name in conditions])
    bounds = 100 * np.array([move["interval"][name] for name in conditions]).T
    places = np.arange(len(conditions))[::-1]
    learned = [name in results["settings"]["learned"] for name in conditions]
    with page.figure(7.6, 4.2) as (figure, panel):
        panel.hlines(places, *bounds, color="gray", linewidth=2)
        for chosen, colour, marker, label in (
            (True, BLUE, "o", "learned maps"),
            (False, "black", "s", "no map, and controls"),
        ):
            own = np.array(learned) == chosen
            panel.plot(values[own], places[own], marker, color=colour, markersize=8, label=label)
        figure.suptitle(f"{named(results)}: mapped vectors sent into the model", fontsize=11)
        panel.set_yticks(places, [fill(NAMES[name], 28) for name in conditions])
        panel.set(
            xlim=(-2, 102),
            xlabel=f"success, % of {move['pairs']} swaps, 95 % Wilson",
        )
        panel.legend(fontsize=SMALL, loc="upper center", bbox_to_anchor=(0.3, -0.17), ncol=2, frameon=False)
    return page.png(figure)
