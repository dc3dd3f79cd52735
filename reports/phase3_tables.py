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
RIVALS = {
    "z": "Z itself, these donors", "haar": "Haar-random", "pca": "PCA within languages", "covariance": "matched draw, these donors",
    "centroid": "what languages share (centroids)", "query_side": "query side of the weights' layer",
    "norm_folded": "kernels behind the norm's gain", "previous_layer": "previous layer's weights",
    "word_rows": "the answers' unembedding rows", "all_but_language": "all but the language offset",
}  # fmt: skip
PASSED = {True: "passed", False: "failed", None: "not run"}
APART = 0.15  # by which shares that are expected to add up are far from it: to be said, not judged
TOLD = {  # what h and the states' share say
    "like the whole stream": "", "illusion": "", "by construction": "It was sought among these states, so h says nothing of it.",
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
        line = [page.SUBSPACES[name], span(row["d"], decimal)]
        line += [decimal(own["d"]), f"{decimal(null['low'])} to {decimal(null['high'])}"] if null else ["–", "–"]
        line += [decimal(row["kappa"]), *page.p_pair(row), f"`{row['verdict']}`"]
        cells.append(line)
    headers = ["Z", "D", "D of the draws' pairs", "Haar's D, 5 to 95 %", "κ of the draws' pairs", "p", "Holm's p"]
    return page.table([*headers, "verdict"], cells)


def sums_text(rows: dict) -> str:
    """Where what Z and the rest move of the answer is far from the whole."""
    sums = {name: [row[key]["value"] for key in ("coverage", "complement_transfer")] for name, row in rows.items()}
    sums = {name: sum(parts) for name, parts in sums.items() if None not in parts}
    far = [f"{percent(whole)} ({page.SUBSPACES[name]})" for name, whole in sums.items() if abs(whole - 1) > APART]
    return f"""What Z and Z⊥ move of the answer adds up to {", ".join(far)}, not to 100 %: shares need not add up, because the
        model is not linear.""" if far else ""  # fmt: skip


def winning_table(rows: dict) -> str:
    """How often the donor's answer wins, in Z's swap and in the full one; and how alike donors of both languages act."""
    cells = []
    for name, row in rows.items():
        line = [page.SUBSPACES[name], span(row["iia_cross"]), percent(row["full_iia_cross"]["value"])]
        line += [span(row["iia_same"]), percent(row["full_iia_same"]["value"])]
        cells.append([*line, span(row["agnosticity"]), percent(row["full_agnosticity"]["value"])])
    headers = ["Z", "Z: wins across languages", "F: wins across languages", "Z: wins alike", "F: wins alike"]
    return page.table([*headers, "Z: T_cross/T_same", "F: T_cross/T_same"], cells)


def size_table(rows: dict, width: int) -> str:
    """How large a Z is beside the streams."""
    cells = [
        [page.SUBSPACES[name], f"{row['k']} of {width}", percent(row["within_share"])] for name, row in rows.items()
    ]
    varied = dict.fromkeys(
        f"{decimal(row['participation'])} dimensions at {place(row['site'])}" for row in rows.values()
    )
    return f"""*Variance inside*: of the streams' variance within a language, which spreads over {", ".join(varied)}
        (*participation*).

        {page.table(["Z", "k", "variance inside"], cells)}"""


def nulls_table(rows: dict) -> str:
    """Every null of D, of the same pairs."""
    cells = []
    for name, row in rows.items():
        for kind, null in row["nulls"].items():
            what = "layers" if kind == "layers" else "draws"
            line = [page.SUBSPACES[name], page.NULLS[kind], percent(null["coverage"])]
            line += [decimal(row["drawn"]["d"]), f"{decimal(null['low'])} to {decimal(null['high'])}"]
            line += [page.p_value(null["p"], null["draws"], what)]
            line += [page.p_value(null["iia_cross_gain"]["p"], null["draws"], what)]
            cells.append([*line, decides(kind, null)])
    headers = ["Z", "null", "their coverage", "D of the draws' pairs", "theirs, 5 to 95 %", "p of D"]
    table = page.table([*headers, "p of wins across languages", "decides on p"], cells) if cells else ""
    few = "Few layers allow no small p: so *apart* says how improbable it is that a layer is one more member of the others'"
    why = f"{few} population, were that normal (Student's prediction interval)." if "; apart" in table else ""
    return "\n\n".join(part for part in (why, table) if part)


def decides(kind: str, null: dict) -> str:
    """Whether a null is one that a Z's p is of."""
    if kind != "layers":
        return "yes" if null["gates"] else "no, a rival"
    apart = null.get("outlier_p")
    return "no, on a test of its own" + ("" if apart is None else f"; apart: p {page.p_value(apart)}")


def gates_tables(rows: dict) -> str:
    """What else could explain the effect of a Z that moves enough to be asked: the word's code, and unused directions."""
    gated = {name: row["gates"] for name, row in rows.items() if row.get("gates")}
    shuffled = " ".join(shuffled_text(row["control"]) for row in rows.values() if "control" in row)
    if not gated:
        return shuffled
    return f"""F' is the full swap outside of the answers' word code and Z' what is left of Z there.

        {word_table(gated)}

        {states_table(gated)}

        {shuffled}"""


def word_table(gated: dict) -> str:
    """What is left outside of the word's code, and where it is known outside of random subspaces as large."""
    known, cells = any(gates["word"].get("random") for gates in gated.values()), []
    for name, word in ((name, gates["word"]) for name, gates in gated.items()):
        line = [page.SUBSPACES[name], word["dimensions"], span(word["full"])]
        cells.append([*line, *([random_span(word.get("random"))] if known else []), span(word["z"])])
    random = ["F without a random one as large, 5 to 95 %"] if known else []
    return page.table(["Z", "word's code, dimensions", "T(F')/T(F)", *random, "T(Z')/T(F')"], cells)


def random_span(null: dict | None) -> str:
    """A share's median over draws, with their 5 and 95 %."""
    return span(dict(zip(page.ENDS, (null[point] for point in ("middle", "low", "high"))))) if null else "–"


def states_table(gated: dict) -> str:
    """What is left among the states that the model visits on other problems."""
    cells = []
    for name, states in ((name, gates["manifold"]) for name, gates in gated.items()):
        if states is not None:
            line = [page.SUBSPACES[name], f"{states['components']} of {states['states']:,}", span(states["full"])]
            cells.append([*line, span(states["h"], decimal), told(states)])
    headers = ["Z", "components of states", "T(P_B F)/T(F)", "h", "the states say that it acts"]
    return f"""P_B projects on the states that the model visits on other problems; h = [T(P_B Z)/T(Z)]/[T(P_B F)/T(F)] is 1
        for what acts like the whole stream, and 0 for an illusion.

        {page.table(headers, cells)}""" if cells else ""  # fmt: skip


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
    """like the whole stream | illusion | between | poor | by construction: what the model's own states say of a Z."""
    if states["by_construction"]:
        return "by construction"
    if (h := states["h"]["value"]) is None or states["full"]["value"] < HALF_REACHED:
        return "poor"
    if h >= HONEST:
        return "like the whole stream"
    if states["full"]["value"] < REACHED:
        return "poor"
    return "illusion" if h <= ILLUSORY else "between"


def required(row: dict, tests: dict, width: int) -> list[tuple[str, str, str, str, bool | None]]:
    """A Z's tests: what is tested, what was measured, what is needed, why if that wants saying, and whether it passed."""
    rules, nulls, level = verdicts.dissociation, row["nulls"], f"{verdicts.LEVEL:g}".removeprefix("0")
    gates = row.get("gates") or {"word": {"full": None, "z": None}, "manifold": None}
    word, states, layers = (
        outside_word(gates["word"]),
        among_states(gates["manifold"]),
        beyond_layers(nulls.get("layers")),
    )
    control, half = span(row.get("control", {}).get("d_gain"), decimal), page.needed(rules.MOVES)
    deciding = [null for name, null in nulls.items() if null["gates"] and name != "layers"]
    wins = max(deciding, key=lambda null: null["iia_cross_gain"]["p"])
    wins_p = page.p_value(wins["iia_cross_gain"]["p"], wins["draws"])
    alike, keeps = row["full_iia_same"]["value"], page.needed(rules.KEEPS)
    most = int(max(rules.WIDE_SHARE * width, rules.WIDE_RATIO * row["participation"]))
    known = {
        "beats random subspaces": (f"Holm's p {page.p_pair(row)[1]}", f"below {level}", ""),
        "is no larger than the streams' own size": (f"k {row['k']}", f"at most {most}",
            f"the streams vary in {decimal(row['participation'])} dimensions of {width}"),
        "moves the answer": (span(row["coverage"]), f"surely {half}", ""),
        "wins with the donor's answer": (
            f"{span(row['iia_cross'])} of swaps across languages, p {wins_p}",
            f"{percent(rules.MOVES * alike)} and p below {level}",
            f"half of F's {percent(alike)} with donors asked alike; across languages F brings its own language"),
        "leaves the language": (span(row["leak"]), f"surely below {half}", ""),
        "its complement leaves the answer": (span(row["complement_transfer"]), f"surely below {half}", ""),
        "its complement keeps the language": (
            span(row["complement_language"]), f"{keeps} and surely {page.needed(rules.KEEPS_SURELY)}", ""),
        "is not the output word's code": (word, f"F {page.needed(rules.ONLY_WORD)}, Z {page.needed(rules.BESIDE_WORD)} of that", ""),
        "acts among the model's own states": (states, f"h {decimal(HONEST)}", ""),
        "beats other layers' weights": (layers, f"above all of them or p below {level}, and apart p below {level}", ""),
        "beats a search for other answers": (f"D higher by {control}", "surely above 0", ""),
    }  # fmt: skip
    order = [*(test for test in known if test in tests), *(test for test in tests if test not in known)]
    return [(test, *known.get(test, ("–", "–", "")), tests[test]) for test in order]


def outside_word(word: dict) -> str:
    """What is left outside of the output word's code."""
    if not word["full"] or word["full"]["value"] is None:
        return "–"
    beside = f"Z {span(word['z'])} of that" if word["z"]["value"] is not None else "too little to ask what Z keeps"
    return f"F keeps {span(word['full'])}, {beside}"


def among_states(states: dict | None) -> str:
    """What is left among the states that the model visits."""
    if states is None or states["full"]["value"] is None:
        return "–"
    h = f"h {span(states['h'], decimal)}, " if states["h"]["value"] is not None else ""
    return f"{h}F keeps {span(states['full'])}"


def beyond_layers(null: dict | None) -> str:
    """How a layer's D stands among the others'."""
    if null is None:
        return "–"
    apart = (
        "too few to tell whether apart"
        if null.get("outlier_p") is None
        else f"apart p {page.p_value(null['outlier_p'])}"
    )
    return f"p {page.p_value(null['p'], null['draws'], 'layers')}, {apart}"


def tests_table(row: dict, tests: dict, width: int) -> str:
    """Every test of a Z, with its numbers."""
    cells = []
    for test, found, needed, why, passed in required(row, tests, width):
        said = "not told" if passed is None and found != "–" else PASSED[passed]
        said = "not surely passed" if passed is False and test in row["open_tests"] else said
        cells.append([test, found, f"{needed} ({why})" if why else needed, said])
    return page.table(["test", "measured", "needed", "outcome"], cells)
