"""Phase 3's tables of problems, depth, and the tested subspaces: profiles, nulls and gates."""

import verdicts
from reports import page
from reports.page import decimal, percent, place, span
from reports.phase3_figures import MOVED, SHARES, WINNERS, neither
from verdicts import HALF_REACHED, HONEST, ILLUSORY, REACHED

CARRIES = {  # what the full swap carries at a place
    "joint": "answer and language", "answer": "the answer and not the language",
    "language": "the language and not the answer", "none": "neither the answer nor the language",
}  # fmt: skip
TOLD = {  # what h and the states' share say
    "honest": "", "illusion": "", "by construction": "It was sought among these states, so h says nothing of it.",
    "between": "So it is a copy of what acts or an illusion, which cannot be told apart here.",
    "poor": "Those states hold too little of what acts to tell an illusion.",
}  # fmt: skip


def tried_table(results: dict) -> str:
    """Every kind of problem that was asked, the hardest first."""
    cells = []
    for row in results["tried"]:
        counts = ", ".join(f"{language} {count}" for language, count in row["solved"].items())
        line = [f"`{row['rung']}`", f"{row['asked']} of {row['problems']}", row["exemplars"], counts, row["everywhere"]]
        line += [f"{row['answers']} ({row['left_out']})", percent(row["mass"]), row["outcome"].replace("_", " ")]
        cells.append(line)
    headers = ["kind", "asked", "exemplars", "solved", "in every language", "answers (left out)", "mass", "outcome"]
    return page.table(headers, cells)


def moved_table(results: dict) -> str:
    """What the full swap moves at every place that was looked at."""
    cells = []
    for row in results["curve"]:
        kinds = [kind for kind in ("answer", "language") if row["site"] in results["carriers"][kind]]
        line = [place(row["site"]), *(span(row[key], decimal) for key in MOVED)]
        cells.append([*line, " and ".join(kinds) or "–"])
    return page.table(["place", *(f"{name}, nats" for name in ("T_same", "T_cross", "G")), "carries"], cells)


def winners_table(results: dict) -> str:
    """Whose answer is the most probable after the full swap, in whose language: all of the swaps."""
    cells = []
    for row in results["curve"]:
        line = [place(row["site"]), percent(row["iia_same"]["value"])]
        line += [percent(row[key]["value"]) for key in WINNERS]
        cells.append([*line, percent(neither(row))])
    headers = ["place", "donor's, both asked alike", *(label for label, _, _ in WINNERS.values()), "neither's"]
    return page.table(headers, cells)


def profile_table(rows: dict) -> str:
    """What Z moves, what the rest of the stream moves, and what the full swap moves, which both are shares of."""
    cells = []
    for name, row in rows.items():
        full = (span(row["full"][key], decimal) for key in ("t_same", "g"))
        size = f"{place(row['site'])}, {row['k']}"
        cells.append([page.SUBSPACES[name], size, *(span(row[key]) for key in SHARES), *full])
    headers = ["Z", "place, k", *(label for label, _ in SHARES.values()), "F: answer, nats", "F: language, nats"]
    return page.table(headers, cells)


def difference_table(rows: dict) -> str:
    """D beside random subspaces', p, and the verdict."""
    cells = []
    for name, row in rows.items():
        null, own = row["nulls"].get("haar"), row["drawn"]
        line = [page.SUBSPACES[name], row["judged"], span(row["d"], decimal)]
        line.append(f"{decimal(own['d'])}; {decimal(null['low'])} to {decimal(null['high'])}" if null else "–")
        line += [decimal(row["kappa"]), *page.p_pair(row), f"`{row['verdict']}`"]
        cells.append(line)
    headers = [
        "Z",
        "problems",
        "D",
        "D of the draws' pairs; Haar's 5 to 95 %",
        "κ of the draws' pairs",
        "p",
        "Holm's p",
    ]
    return page.table([*headers, "verdict"], cells)


def winning_table(rows: dict) -> str:
    """How often the donor's answer wins, in Z's swap and in the full one; and how alike donors of both languages act."""
    cells = []
    for name, row in rows.items():
        line = [page.SUBSPACES[name], span(row["iia_cross"]), percent(row["full_iia_cross"]["value"])]
        line += [span(row["iia_cross_gain"]), span(row["iia_same"]), percent(row["full_iia_same"]["value"])]
        cells.append([*line, span(row["agnosticity"]), percent(row["full_agnosticity"]["value"])])
    headers = ["Z", "wins across languages: Z", "F", "Z above F", "wins, asked alike: Z", "F"]
    return page.table([*headers, "T_cross/T_same: Z", "F"], cells)


def size_table(rows: dict, width: int) -> str:
    """How large a Z is beside the streams."""
    cells = [
        [page.SUBSPACES[name], f"{row['k']} of {width}", percent(row["within_share"]), decimal(row["participation"])]
        for name, row in rows.items()
    ]
    return page.table(["Z", "k", "variance inside", "participation"], cells)


def nulls_table(rows: dict) -> str:
    """Every null of D, of the same pairs."""
    cells = []
    for name, row in rows.items():
        for kind, null in row["nulls"].items():
            what = "layers" if kind == "layers" else "draws"
            line = [page.SUBSPACES[name], page.NULLS[kind], percent(null["coverage"])]
            line += [f"{decimal(row['drawn']['d'])}; {decimal(null['low'])} to {decimal(null['high'])}"]
            line += [page.p_value(null["p"], null["draws"], what)]
            line += [page.p_value(null["iia_cross_gain"]["p"], null["draws"], what)]
            apart = null.get("outlier_p")
            apart = "" if apart is None else f"; apart from them p {page.p_value(apart)}"
            cells.append([*line, ("yes" if null["gates"] else "no, a rival") + apart])
    headers = ["Z", "null", "their coverage", "D; theirs, 5 to 95 %", "p of D", "p of wins across languages", "decides"]
    return page.table(headers, cells) if cells else ""


def gates_table(rows: dict) -> str:
    """What else could explain the effect of a Z that moves enough to be asked."""
    gated = {name: row["gates"] for name, row in rows.items() if row.get("gates")}
    cells = []
    for name, gates in gated.items():
        word, states = gates["word"], gates["manifold"]
        line = [page.SUBSPACES[name], word["dimensions"], span(word["full"]), span(word["z"])]
        if states is None:
            cells.append([*line, *["–"] * 4])
            continue
        line += [f"{states['components']} of {states['states']:,}", span(states["full"]), span(states["h"], decimal)]
        cells.append([*line, told(states)])
    headers = ["Z", "word's code, dimensions", "T(F')/T(F)", "T(Z')/T(F')", "components of states"]
    table = page.table([*headers, "T(P_B F)/T(F)", "h", "the states say"], cells)
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


def seen_table(rows: dict) -> str:
    """The answers on which a Z or its place was chosen, beside others."""
    measures, cells = {"coverage": percent, "iia_cross": percent, "d": decimal}, []
    for name, row in rows.items():
        if row["seen"]:
            pairs = [span(part[key], write) for key, write in measures.items() for part in (row["seen"], row)]
            cells.append([page.SUBSPACES[name], row["k"], *pairs])
    names = ("coverage", "wins across languages", "D")
    headers = [f"{name}, {which}" for name in names for which in ("seen", "unseen")]
    return page.table(["Z", "k", *headers], cells) if cells else ""


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


def missed(row: dict, tests: dict) -> list[str]:
    """The tests that a Z fails, each with the number that fails and what was needed."""
    rules, nulls = verdicts.dissociation, row["nulls"]
    gates = row.get("gates") or {"word": {"full": None, "z": None}, "manifold": None}
    states = gates["manifold"] or {"full": None, "h": None}
    layers, control = nulls.get("layers", {}), row.get("control", {})
    level, half = f"{verdicts.LEVEL:g}".removeprefix("0"), page.needed(rules.MOVES)
    deciding = [null for name, null in nulls.items() if null["gates"] and name != "layers"]
    wins = max(deciding, key=lambda null: null["iia_cross_gain"]["p"])
    because = {
        "beats random subspaces": f"Holm's p {page.p_pair(row)[1]}, needed below {level}",
        "is no larger than the streams' own size": f"k {row['k']}; the streams vary in {decimal(row['participation'])}",
        "moves the answer": f"{percent(row['coverage']['value'])}, surely {percent(row['coverage']['low'])}, needed {half}",
        "wins with the donor's answer": f"""in {percent(row["iia_cross"]["value"])} of swaps across languages, needed half of F's
            {percent(row["full_iia_same"]["value"])} and p below {level}; p
            {page.p_value(wins["iia_cross_gain"]["p"], wins["draws"])}""",
        "leaves the language": f"up to {percent(row['leak']['high'])}, needed below {half}",
        "its complement leaves the answer": f"up to {percent(row['complement_transfer']['high'])}, needed below {half}",
        "its complement keeps the language": f"""{span(row["complement_language"])}, needed {page.needed(rules.KEEPS)} and
            surely {page.needed(rules.KEEPS_SURELY)}""",
        "is not the output word's code": f"""outside of it F keeps {span(gates["word"]["full"])}, needed
            {page.needed(rules.ONLY_WORD)}, and Z {span(gates["word"]["z"])} of that, needed
            {page.needed(rules.BESIDE_WORD)}""",
        "acts among the model's own states": f"""h {span(states["h"], decimal)}, needed {decimal(HONEST)}, where F keeps
            {span(states["full"])}""",
        "beats other layers' weights": f"""p {page.p_value(layers.get("p"), layers.get("draws"), "layers")}, apart from
            them p {page.p_value(layers.get("outlier_p"))}, needed below {level}""",
        "beats a search for other answers": f"D higher by {span(control.get('d_gain'), decimal)}, needed surely above 0",
    }  # fmt: skip
    return [f"{test} ({because.get(test, 'no')})" for test, passed in tests.items() if passed is False]
