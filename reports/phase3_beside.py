"""Phase 3's tables of what stands beside the tested Zs: rivals, ablation, one problem in two languages, sweeps, free answers;
and whether the effect carries to another output format and to contrast donors."""

from reports import page
from reports.page import decimal, percent, place, span
from reports.phase3_figures import SHARES, WINNERS
from reports.phase3_opening import judged_on

RIVALS = {
    "z": "Z itself, these donors", "haar": "Haar-random", "pca": "PCA within languages", "covariance": "covariance-matched",
    "centroid": "what languages share (centroids)", "query_side": "query side of the weights' layer",
    "norm_folded": "kernels behind the norm's gain", "previous_layer": "previous layer's weights",
    "word_rows": "the answers' unembedding rows", "all_but_language": "all but the language offset",
}  # fmt: skip
REPLACED = {"mean": "the language's mean", "resample": "other problems' parts"}
SWAPS = {
    "unpatched": "nothing", "z": "Z", "complement": "Z⊥", "haar": "Haar-random, k as Z", "full": "the whole stream, F",
}  # fmt: skip
BY_HYPOTHESIS = {"z": (0, 1, 0), "complement": (1, 0, 1), "full": (1, 0, 1), "haar": (None, None, None)}
SAID = {
    True: "it passes both tests, so the word *reasoning* may be used of it.",
    False: "it does not pass both, so the word *reasoning* may not be used of it.",
}


def beside_section(results: dict) -> str:
    """What else moves the answer where the best Z does, what Z is needed for, and how all that depends on size and place."""
    found = results.get("beside")
    if not found:
        return ""
    donors = f"{found['donors']} donors for each of {found['judged']} test problems"
    return page.prose(f"""
        ## 4 Beside them

        Nothing here decides. Everything is at {place(found["site"])} beside the Z called {page.SUBSPACES[found["of"]]}, k
        {found["k"]}, with {donors}, unless a table says otherwise. Of drawn subspaces the median and 5 to 95 % of draws
        stand in place of a value and its interval.

        {rivals_text(found)}

        {ablation_text(found["ablation"])}

        {same_problem_text(found["same_problem"])}

        {sweeps_text(results)}

        {generated_text(found["generated"])}
    """)


def rivals_text(found: dict) -> str:
    cells = []
    for name in [*RIVALS, *sorted(found["rivals"].keys() - RIVALS.keys())]:
        if (row := found["rivals"].get(name)) is None:
            continue
        label = RIVALS.get(name, name.replace("_", " "))
        size = f"{row['k']}, {row['draws']} draws" if row["draws"] else row["k"]
        cells.append([label, size, *(span(row[key]) for key in SHARES), span(row["d"], decimal)])
    headers = ["rival", "k", *(label for label, _ in SHARES.values()), "D"]
    return f"""**Rivals**: what other subspaces move, in shares of F. A rival that does as well as Z says that nothing about Z is
        special.

        {page.table(headers, cells)}""" if cells else ""  # fmt: skip


def ablation_text(found: dict) -> str:
    cells = []
    for kind, label in REPLACED.items():
        row = found[kind]
        cells.append([label, span(row["z"]), span(row["complement"]), drawn(row["haar"])])
    return f"""**Ablation**: the part is replaced in the prompt's own stream, by its language's mean or by other problems' parts asked
        in the same language. Shown is the share that is left of the margin of the own answer over the other ones,
        {span(found["margin"], decimal)} nats unpatched; the hypothesis says 0 for Z and 100 % for Z⊥.

        {page.table(["replaced by", "Z", "Z⊥", "Haar-random, k as Z"], cells)}"""


def drawn(null: dict) -> str:
    """A share's median over draws, with their 5 and 95 %."""
    return span({"value": null["middle"], "low": null["low"], "high": null["high"]})


def same_problem_text(found: dict) -> str:
    if not found["problems"]:
        return ""
    cells = []
    for swap in ("z", "complement", "haar", "full"):
        if swap in found["swaps"]:
            row, expected = found["swaps"][swap], BY_HYPOTHESIS[swap]
            pairs = zip(("language", "kept", "translated"), expected)
            cells.append([SWAPS[swap], *(span(row[key]) + hypothesis(share) for key, share in pairs)])
    headers = [
        "swapped",
        "language moved, of F's",
        "own answer stays, own language",
        "own answer in the donor's language",
    ]
    return f"""**Same problem**: the donor is the same problem asked in the other language ({found["problems"]} problems), so that
        there is no other answer to move and Z should change nothing. F moves the language by {span(found["language"], decimal)}
        nats. In brackets the hypothesis.

        {page.table(headers, cells)}"""


def hypothesis(share: float | None) -> str:
    return "" if share is None else f" [{100 * share:.0f} %]"


def sweeps_text(results: dict) -> str:
    """D by size and by place, as a picture and in tables."""
    found = results["beside"]
    sizes = [
        [{"z": "Z", "pca": "PCA"}[row["of"]], row["k"], *swept(row)]
        for row in sorted(found["sweep_k"], key=lambda row: (row["of"] != "z", row["k"]))
    ]
    places = [[page.SUBSPACES[row["name"]], place(row["site"]), row["k"], *swept(row)] for row in found["sweep_site"]]
    headers = ["coverage", "leak", "D", "Haar's coverage", "Haar's D"]
    if not sizes or not places:
        return ""
    return f"""**Size and place**: the first k rows of the basis, and every tested Z at every place that carries both.

        ![D of other sizes and places](phase3_sweeps.png)

        {page.table(["first rows of", "k", *headers], sizes)}

        {page.table(["Z", "place", "k", *headers], places)}"""


def swept(row: dict) -> list[str]:
    coverage, d = (row["haar"][key] for key in ("coverage", "d"))
    d = span({"value": d["middle"], "low": d["low"], "high": d["high"]}, decimal)
    return [span(row["coverage"]), span(row["leak"]), span(row["d"], decimal), drawn(coverage), d]


def generated_text(found: dict) -> str:
    if not found["prompts"]:
        return ""
    cells = [
        [SWAPS[swap], *(f"{row[key]}" for key in (*WINNERS, "other"))]
        for swap in SWAPS
        if (row := found["swaps"].get(swap))
    ]
    headers = ["swapped", *(label for label, _, _ in WINNERS.values()), "anything else"]
    return f"""**Free answers**: what the model writes after a swap, greedily, {found["tokens"]} tokens, of {found["prompts"]} prompts
        whose donor was asked in another language: counts of what could be read in the text.

        {page.table(headers, cells)}""" if cells else ""  # fmt: skip


def carries_section(results: dict) -> str:
    """Whether a Z's effect carries to another output format, and what contrast donors do."""
    asked = {name: row["reasoning"] for name, row in results["tested"].items() if row.get("reasoning")}
    if not asked:
        return ""
    judged = {name: judged_on(results["tested"][name]) for name in asked}
    named = "; ".join(f"{page.SUBSPACES[name]}: {which}" for name, which in judged.items())
    verdict = results.get("reasoning")
    said = f"Of the Z that the verdict is about: {SAID[verdict['said']]}" if verdict else ""
    return page.prose(f"""
        ## 5 Format and contrast donors

        What moves an answer may hold no more than the word for it. So the recipient is asked for its answer in another form,
        the donor still in words; and donors are made that differ from the recipient in one way. Judged are the Zs that move
        enough ({named}). {said}

        {format_text(asked)}

        {contrast_text(asked)}
    """)


def beside_null(null: dict | None) -> str:
    """Random subspaces' median share, and p."""
    return f"{percent(null['middle'])}; {page.p_value(null['p'], null['draws'])}" if null else "–"


def format_text(asked: dict) -> str:
    cells, silent = [], []
    for name, row in [(name, row) for name, found in asked.items() for row in found["formats"]]:
        if row["unmeasured"]:
            silent.append(f"{page.SUBSPACES[name]}, {row['name']}: {row['unmeasured']}")
            continue
        counts = ", ".join(f"{language} {count}" for language, count in row["solved"].items())
        line = [page.SUBSPACES[name], row["name"], f"{row['problems']} of {row['asked']} ({counts})"]
        line += [span(row["reference"], decimal), span(row["full"]), span(row["z"])]
        line.append(beside_null(row["haar"]))
        cells.append([*line, f"{span(row['wins'])}; {percent(row['full_wins']['value'])}"])
    headers = ["Z", "format", "solved in it (each)", "F: answer, nats", "F, donors in words", "Z, donors in words"]
    table = page.table([*headers, "Haar's; p", "donor's answer wins: Z; F"], cells) if cells else ""
    return f"""**Another format.** Shares are of what F moves with donors asked in that format too. {unmeasured(silent)}

        {table}"""


def contrast_text(asked: dict) -> str:
    moved, inert, silent = [], [], []
    for name, found in asked.items():
        row = found["contrast"]
        if row["unmeasured"]:
            silent.append(f"{page.SUBSPACES[name]}: {row['unmeasured']}")
            continue
        other, same = row["operation"], row["same_answer"]
        counts = ", ".join(f"{language} {count}" for language, count in row["solved"].items())
        line = [page.SUBSPACES[name], f"{row['problems']} of {row['asked']} ({counts})", other["pairs"]]
        line += [span(other["full"], decimal), span(other["z"])]
        line.append(beside_null(other["haar"]))
        moved.append([*line, f"{span(other['wins'])}; {percent(other['full_wins']['value'])}"])
        inert.append(
            [page.SUBSPACES[name], same["pairs"], *(span(same[key]) for key in ("kept", "full_kept", "moved"))]
        )
    headers = ["Z", "solved (each)", "pairs", "F: answer, nats", "Z, of F's", "Haar's; p", "donor's answer wins: Z; F"]
    kept = ["Z", "pairs", "own answer stays: Z", "F", "margin lost to Z, of F's under another operation"]
    return f"""**Contrast donors.** The recipient's text and numbers under another operation must move the answer; another text
        with the same answer must leave it. {unmeasured(silent)}

        {page.table(headers, moved) if moved else ""}

        {page.table(kept, inert) if inert else ""}"""


def unmeasured(silent: list[str]) -> str:
    return f"Not measured: {'; '.join(silent)}." if silent else ""
