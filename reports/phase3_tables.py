"""Phase 3's tables and how its numbers are written: profiles, nulls and gates of the tested subspaces."""

from collections.abc import Callable

from reports import page
from reports.phase3_figures import NAMES, SHARES, place
from verdicts import HALF_REACHED, HONEST, ILLUSORY, REACHED

DECIDING = ("haar", "matched")  # nulls of which p is the largest
NULLS = {"haar": "Haar", "matched": "matched draws", "layers": "other layers' weights"}
CARRIES = {  # what the full swap carries at a place
    "joint": "answer and language", "answer": "the answer and not the language",
    "language": "the language and not the answer", "none": "neither the answer nor the language",
}  # fmt: skip


def decimal(value: float | None) -> str:
    """A number at two decimals and three significant digits."""
    return page.show(None if value is None else round(value, 2) + 0.0, 3)


def percent(value: float | None) -> str:
    return "–" if value is None else f"{page.show(round(100 * value, 1) + 0.0, 3)} %"


def span(record: dict, write: Callable = percent) -> str:
    """A measured value with its interval."""
    value, low, high = (write(record[end]) for end in ("value", "low", "high"))
    return value if record["low"] is None else f"{value} ({low.removesuffix(' %')} to {high.removesuffix(' %')})"


def profile_table(rows: dict) -> str:
    headers = [
        "Z",
        "place",
        "k",
        "coverage",
        "leak",
        "compl. transfer",
        "compl. language",
        "D; of the draws' pairs; Haar's 95 %",
    ]
    cells = []
    for name, row in rows.items():
        line = [NAMES[name], place(row["site"]), row["k"], *(span(row[key]) for key in SHARES)]
        drawn = (row["drawn"]["d"], row["nulls"]["haar"]["high"] if row["nulls"] else None)
        line.append("; ".join([span(row["d"], decimal), *map(decimal, drawn)]))
        line += [beside_full(row, "iia_cross"), decimal(row["kappa"])]
        cells.append([*line, f"{page.show(row['p'], 2)} ({page.show(row['p_holm'], 2)})", f"`{row['verdict']}`"])
    return page.table([*headers, "IIA cross; F's", "κ", "p (Holm)", "verdict"], cells)


def beside_full(row: dict, key: str) -> str:
    return f"{span(row[key])}; {percent(row[f'full_{key}']['value'])}"


def beside_table(rows: dict) -> str:
    """What stands beside a profile and decides nothing: what there was to move, how the Z compares with the full swap."""
    headers = ["Z", "place carries", "T_same of F, nats", "G of F, nats", "T_cross/T_same; F's"]
    cells = []
    for name, row in rows.items():
        line = [NAMES[name], CARRIES[row["place"]], *(span(row["full"][key], decimal) for key in ("t_same", "g"))]
        line += [beside_full(row, "agnosticity"), beside_full(row, "iia_same")]
        cells.append([*line, span(row["iia_cross_gain"]), percent(row["within_share"]), decimal(row["participation"])])
    return page.table([*headers, "IIA same; F's", "IIA cross above F's", "variance inside", "participation"], cells)


def nulls_table(rows: dict) -> str:
    """Every null of D, of the same pairs."""
    cells = []
    for name, row in rows.items():
        for kind, null in row["nulls"].items():
            line = [NAMES[name], NULLS[kind], null["draws"], percent(null["coverage"])]
            line += [f"{decimal(row['drawn']['d'])}; {decimal(null['low'])} to {decimal(null['high'])}"]
            line += [page.show(null["p"], 2), page.show(null["iia_cross_gain"]["p"], 2)]
            apart = (
                f"; apart from them p {page.show(null['outlier_p'], 2)}" if null.get("outlier_p") is not None else ""
            )
            cells.append([*line, ("yes" if null["gates"] else "no, a rival") + apart])
    headers = ["Z", "null", "draws", "their coverage", "D; theirs, 5 % to 95 %", "p of D", "p of IIA cross", "decides"]
    return page.table(headers, cells) if cells else ""


def gates_table(rows: dict) -> str:
    """What else could explain the effect of a Z that moves enough to be asked."""
    gated = {name: row["gates"] for name, row in rows.items() if row.get("gates")}
    cells = []
    for name, gates in gated.items():
        word, states = gates["word"], gates["manifold"]
        line = [NAMES[name], word["dimensions"], span(word["full"]), span(word["z"])]
        if states is None:
            cells.append([*line, *["–"] * 4])
            continue
        line += [f"{states['components']} of {states['states']:,}", span(states["full"]), span(states["h"], decimal)]
        cells.append([*line, told(states)])
    headers = [
        "Z",
        "word's code, dimensions",
        "T(F')/T(F)",
        "T(Z')/T(F')",
        "components of states",
        "T(P_B F)/T(F)",
        "h",
    ]
    table = page.table([*headers, "the states say"], cells)
    shuffled = " ".join(shuffled_text(row["control"]) for row in rows.values() if "control" in row)
    if not gated:
        return shuffled
    return f"""F' is the full swap outside of the answers' word code and Z' what is left of Z there. P_B projects on the states
        that the model visits on other problems; h = [T(P_B Z)/T(Z)]/[T(P_B F)/T(F)] is 1 for what the model uses as it uses
        the whole stream, and 0 for an illusion.

        {table}

        {shuffled}"""


def shuffled_text(control: dict) -> str:
    """A learned Z beside the same search's for other answers."""
    return f"""The same search for other answers than those given reaches coverage {span(control["coverage"])} and D
        {span(control["d"], decimal)}; the learned Z's D is higher by {span(control["d_gain"], decimal)}."""


TOLD = {  # what h and the states' share say
    "honest": "", "illusion": "", "by construction": "It was sought among these states, so h says nothing of it.",
    "between": "So it is a copy of what acts or an illusion, which cannot be told apart here.",
    "poor": "Those states hold too little of what acts to tell an illusion.",
}  # fmt: skip


def told(states: dict) -> str:
    """honest | illusion | between | poor | by construction: what the model's own states say of a Z."""
    if states["by_construction"]:
        return "by construction"
    if (h := states["h"]["value"]) is None or states["full"]["value"] < HALF_REACHED:
        return "poor"
    if h >= HONEST:
        return "honest"
    if states["full"]["value"] < REACHED:
        return "poor"
    return "illusion" if h <= ILLUSORY else "between"
