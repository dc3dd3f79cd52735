"""What all reports share: tables, number formats, claim rows, figures as bytes, and the fixed order of a page."""

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from matplotlib.figure import Figure

HOLDS = {True: "yes", False: "**no**", None: "open, or not testable here"}
METHODS = {  # how a Z was made, by the name that phase 2 gives it
    "weight": "weight-based, multi-head",
    "weight_head0": "weight-based, head 0",
    "centroid": "fitted on activations: language centroids removed (arXiv 2505.15257)",
    "ard_mmd": "fitted on activations: ARD-MMD",
    "sweep": "weight-based, best layer of the sweep",
    "previous_layer": "weight-based, previous layer",
}
CHOSEN = {  # what chose the layer whose attention is looked at: 1.py by its verdict, or the user
    "clear_bottleneck": "",
    "weak_bottleneck": " (a weak bottleneck of the weights)",
    "no_bottleneck": " (exploratory: the weights predict no layer)",
    "given": " (given by --layer)",
}
SUBSPACES = {  # that phase 3 swaps, as every page calls them
    "weights": "weights' Z, own place",
    "weights_at_carrier": "weights' Z, best place",
    "best_layer": "best layer's weights' Z",
    "handed": "Z handed on by phase 2",
    "centroid": "contingency (a), centroids",
    "previous_layer": "contingency (b), layer before",
    "sweep": "contingency (b), best layer",
    "ard_mmd": "contingency (c), ARD-MMD",
    "answer_means": "answer means",
    "learned": "learned Z",
}
BLUE, SKY, GREEN, RED, ORANGE, PINK = "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00", "#CC79A7"  # Okabe and Ito
HAAR, MATCHED = (
    {"color": ORANGE, "marker": "D"},
    {"color": PINK, "marker": "^"},
)  # in every figure alike, as what follows
HYPOTHESIS = {"color": GREEN, "linestyle": "--", "linewidth": 2}
WEIGHTS_LAYER = {"color": "black", "linestyle": "--", "linewidth": 1.4}
LOWEST_LAYER = WEIGHTS_LAYER | {"linestyle": ":"}  # of all, where the weights' layer is another one
MATRICES = {  # colour, marker and dashes of 1.py's and 2.py's curves
    "W_Q": (BLUE, "o", "-"), "W_K": (SKY, "s", "--"), "W_V": (GREEN, "^", "-."), "W_O": (RED, "v", (0, (5, 1, 1, 1, 1, 1))),
    "W_gate": (BLUE, "o", "-"), "W_up": (GREEN, "s", "--"), "W_down": ("black", "^", "-."),
}  # fmt: skip
SMALL = 9.5  # points: 12 pixels where a page shows a figure of 7.6 inches 700 pixels wide
ENDS = ("value", "low", "high")  # of a measure with its interval
NULLS = {"haar": "Haar", "matched": "matched draws", "layers": "other layers' weights"}
RANKED = ("haar", "matched")  # nulls of which the largest p is a Z's p


def claim(identifier: str, text: str, recipe: str, measured: str, null: str) -> dict:
    """One row of a report's claims table, before verdicts.py says whether it holds."""
    return {"id": identifier, "claim": text, "recipe": recipe, "measured": measured, "null": null}


def prose(text: str) -> str:
    """Wrapped prose as Markdown: soft line breaks fold into spaces; headings, tables, lists and images keep their lines.

    Meant for triple-quoted f-strings, indented as the code is; blank lines part paragraphs.
    """
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        first, *lines = (line.strip() for line in block.split("\n"))
        for line in lines:
            first += ("\n" if line.startswith(("|", "#", "- ", "![")) else " ") + line
        blocks.append(first)
    return "\n\n".join(blocks)


def show(value: float | None, digits: int = 4) -> str:
    """A number as reports print it."""
    if value is None:
        return "–"
    return f"{value:.{digits}g}" if abs(value) < 1e4 else f"{value:,.0f}"


def decimal(value: float | None) -> str:
    """A number at two decimals."""
    return "–" if value is None else f"{round(value, 2) + 0.0:.2f}"


def percent(value: float | None) -> str:
    """A share, in percent at one decimal."""
    return "–" if value is None else f"{round(100 * value, 1) + 0.0:.1f} %"


def minus(text: str) -> str:
    """A number with the sign that axes write."""
    return text.replace("-", "−")


def needed(value: float) -> str:
    """A threshold of a share, in percent."""
    return f"{100 * value:g} %"


def span(record: dict | None, write: Callable = percent) -> str:
    """A measured value with its interval, where that is wider than what is written."""
    if not record or record["value"] is None:
        return "–"
    value, low, high = (write(record[end]) for end in ENDS)
    if record["low"] is None or value == low == high:
        return value
    return f"{value} ({low.removesuffix(' %')} to {high.removesuffix(' %')})"


def place(site: int | None) -> str:
    """A place in the stream, named by the layer that it leaves."""
    return "–" if site is None else f"L{site - 1}.out" if site else "embeddings"


def p_value(value: float | None, draws: int | None = None, what: str = "draws", bound: bool = False) -> str:
    """A p: ".29", ".008 (120 draws)", and "< .009 (120 draws)" where no draw reached what was measured, "<" being strict.

    `bound`: whether a p that names no draws is only known to be this or less.
    """
    if value is None:
        return "–"
    of = f" ({draws} {what})" if draws else ""
    if bound or (draws and value * (1 + draws) < 1.5):
        return (
            f"< {(math.floor(1000 * value + 1e-6) + 1) / 1000:.3f}{of}".replace(" 0.", " .") if value < 1 else f"1{of}"
        )
    if value < 0.001:
        return f"< .001{of}"
    text = f"{value:.3f}" if value < 0.0995 else f"{value:.2f}"
    return (text.removeprefix("0") if value < 0.995 else "1") + of


def hardest(row: dict) -> str:
    """The null that a Z's p is of: among those that decide, the one with the largest p."""
    deciding = [name for name in RANKED if row["nulls"].get(name, {"gates": False})["gates"]]
    return max(deciding, key=lambda name: row["nulls"][name]["p"])


def p_pair(row: dict) -> tuple[str, str]:
    """The p of a Z's D with its draws, and Holm's over the Zs that were tested."""
    if row["p"] is None:
        return "–", "–"
    draws = row["nulls"][hardest(row)]["draws"]
    return p_value(row["p"], draws), p_value(row["p_holm"], bound=row["p"] * (1 + draws) < 1.5)


def p_text(row: dict) -> str:
    """The p of a Z's D in words: of which draws, and with Holm's correction."""
    p, holm = p_pair(row)
    against = "" if row["p"] is None or hardest(row) == "haar" else f" against {NULLS[hardest(row)]}"
    return f"p{against} {p}, Holm {holm}"


def random_text(row: dict) -> str:
    """What random subspaces of a Z's size do at its place, and how surely it does more."""
    null = (row["nulls"] or {}).get("haar")
    if null is None:
        return "no random subspaces were swapped here"
    middle, high = (decimal(null[point]) for point in ("middle", "high"))
    own = (row.get("drawn") or {}).get("coverage")
    beside = "" if own is None else f" where Z's is {percent(own)}"
    text = f"random subspaces of that size (Haar): coverage {percent(null['coverage'])}{beside}, D {middle}, 95 % point {high}"
    return f"{text}; {p_text(row)}"


def language_free(curve: list[dict]) -> str:
    """Where the whole stream brings over the answer and leaves the language, if anywhere surely: no Z is needed for that."""
    rows = [row for row in curve if (row.get("donor_recipient") or {}).get("low")]
    if not rows:
        return ""
    best = max(rows, key=lambda row: row["donor_recipient"]["value"])
    return f""" Across languages the whole stream at {place(best["site"])} makes the donor's answer the most probable one *in the
        recipient's language* in {span(best["donor_recipient"])} of swaps, the most of the {len(curve)} places measured."""


def problem_files(settings: dict) -> str:
    """The files of a run's problems, and where they hold copies or worked solutions for answers, how many."""
    files, read = ", ".join(f"`{name}`" for name, _ in settings["problems"]), settings["read"]
    notes = []
    if read["distinct"] < read["given"]:
        notes.append(f"{read['given']} problems, {read['distinct']} distinct: copies under another name count once")
    if read["worked"]:
        notes.append(f"{read['worked']} answers are worked solutions, read behind their last ####")
    return f"{files} ({'; '.join(notes)})" if notes else files


def listing(parts: Sequence[str]) -> str:
    """a, b and c"""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def escape(text: str) -> str:
    """Text that a model wrote, made harmless inside a Markdown table."""
    text = text.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([`*_|\[\]#~$])", r"\\\1", text).replace("\n", "⏎")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def layer_name(layer: int, chosen: str) -> str:
    """The layer whose attention is looked at, with what it stands on where that is no clear bottleneck."""
    return f"layer {layer}{CHOSEN[chosen]}"


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats at 4 significant digits, bare pipes escaped."""
    cells = [[show(cell) if isinstance(cell, float) else str(cell) for cell in row] for row in [headers, *rows]]
    lines = [[re.sub(r"(?<!\\)\|", r"\|", cell) for cell in row] for row in cells]
    lines.insert(1, ["---"] * len(headers))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(
    title: str, verdict: str, results: dict, sections: Sequence[str], limitations: Sequence[str], opening: Sequence = ()
) -> bytes:
    """The report's fixed order: verdict, how the weights are stored where they are quantised, claims, sections, limitations.

    A page with an `opening` of its own, between verdict and claims, says there how the weights are stored.
    """
    columns = ("claim", "recipe", "measured", "null")
    rows = [[*(row[column] for column in columns), HOLDS[row["holds"]]] for row in results["claims"]]
    parts = [f"# {title}", f"**Verdict.** {verdict}"]
    parts += filter(None, opening)
    if not opening and (quantisation := results.get("model", {}).get("quantisation")):
        parts.append(
            f"**Weights.** Quantised, {quantisation}: what is analysed and what runs are the dequantised weights, which are "
            "not those of the original model."
        )
    if rows:
        parts += ["## Claims", table(["claim", "recipe predicts", "measured", "null or chance", "holds"], rows)]
    parts += [*sections, "## Limitations", "\n".join(f"- {line}" for line in limitations)]
    return ("\n\n".join(parts) + "\n").encode()


def look(name: str) -> dict:
    """How a matrix's curve is drawn."""
    colour, marker, dashes = MATRICES[name]
    return {"color": colour, "marker": marker, "linestyle": dashes, "markersize": 4.5, "linewidth": 1.6}


def legend_beside(panel) -> None:
    """A panel's legend, right of it."""
    panel.legend(fontsize=SMALL, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


@contextmanager
def figure(width: float, height: float, rows: int = 1, columns: int = 1, **options) -> Iterator[tuple]:
    """A figure of that size in inches and its panel or panels, laid out at the end.

    with page.figure(6, 4) as (figure, panel):
        panel.plot(values)
    return page.png(figure)
    """
    drawing = Figure(figsize=(width, height))
    yield drawing, drawing.subplots(rows, columns, **options)
    drawing.tight_layout()


def png(drawing: Figure) -> bytes:
    """A matplotlib Figure as PNG bytes, the same bytes each time."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()
