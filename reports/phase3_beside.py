"""Phase 3's tables of what stands beside the tested Zs: rivals, ablation, one problem in two languages, sweeps, free answers;
and whether the effect carries to another output format and to contrast donors."""

import verdicts
from reports import page
from reports.page import decimal, percent, place, span
from reports.phase3_figures import SHARES, UNORDERED, WINNERS, swept_name
from reports.phase3_tables import RIVALS, random_span

REPLACED = {"mean": "the language's mean", "resample": "other problems' parts"}
SWAPS = {
    "unpatched": "nothing", "z": "Z", "complement": "Z⊥", "haar": "Haar-random, k as Z", "full": "the whole stream, F",
}  # fmt: skip
BY_HYPOTHESIS = {"z": (0, 1, 0), "complement": (1, 0, 1), "full": (1, 0, 1), "haar": (None, None, None)}
APART = 0.2  # by which a share that was measured in another way is far from section 3's: to be said, not judged


def beside_section(results: dict) -> str:
    """What else moves the answer where the best Z does, what Z is needed for, and how all that depends on size and place."""
    found = results.get("beside")
    if not found:
        return ""
    donors, row = (
        f"{found['donors']} donors for each of {found['judged']} test problems",
        results["tested"][found["of"]],
    )
    return page.prose(f"""
        ## 4 Beside them

        Nothing here decides. Everything is at {place(found["site"])} beside the Z called {page.SUBSPACES[found["of"]]}, k
        {found["k"]}, with {donors}, unless a table says otherwise. Of drawn subspaces the median and 5 to 95 % of draws
        stand in place of a value and its interval.

        {rivals_text(found)}

        {ablation_text(found["ablation"])}

        {same_problem_text(found["same_problem"], row)}

        {sweeps_text(results)}

        {generated_text(found["generated"], row)}
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
        cells.append([label, span(row["z"]), span(row["complement"]), random_span(row["haar"])])
    return f"""**Ablation**: the part is replaced in the prompt's own stream, by its language's mean or by other problems' parts asked
        in the same language. Shown is the share that is left of the margin of the own answer over the other ones,
        {span(found["margin"], decimal)} nats unpatched; the hypothesis says 0 for Z and 100 % for Z⊥.

        {page.table(["replaced by", "Z", "Z⊥", "Haar-random, k as Z"], cells)}"""


def elsewhere(found: dict, row: dict) -> str:
    """Where the same problem's donors say something else than other problems' do."""
    pairs = {"Z": (found["swaps"]["z"], row["leak"]), "Z⊥": (found["swaps"]["complement"], row["complement_language"])}
    parts = [
        f"{name} moves {percent(here['language']['value'])} of the language here and {percent(there['value'])} in section 3"
        for name, (here, there) in pairs.items()
        if None not in (here["language"]["value"], there["value"])
        and abs(here["language"]["value"] - there["value"]) > APART
    ]
    return f"This disagrees with other problems' donors: {', '.join(parts)}." if parts else ""


def same_problem_text(found: dict, row: dict) -> str:
    if not found["problems"]:
        return ""
    cells = []
    for swap in ("z", "complement", "haar", "full"):
        if swap in found["swaps"]:
            moved, expected = found["swaps"][swap], BY_HYPOTHESIS[swap]
            pairs = zip(("language", "kept", "translated"), expected)
            cells.append([SWAPS[swap], *(span(moved[key]) + hypothesis(share) for key, share in pairs)])
    headers = [
        "swapped",
        "language moved, of F's",
        "own answer stays, own language",
        "own answer in the donor's language",
    ]
    return f"""**Same problem**: the donor is the same problem asked in the other language ({found["problems"]} problems), so that
        there is no other answer to move and Z should change nothing. F moves the language by {span(found["language"], decimal)}
        nats. In brackets the hypothesis. {elsewhere(found, row)}

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
    places = [[swept_label(row), place(row["site"]), row["k"], *swept(row)] for row in found["sweep_site"]]
    own = [row["layer"] for row in found["sweep_site"] if row["name"] == "best_layer"]
    other = f"""*{swept_name("best_layer")}* is at every place another subspace: the one tested in section 3 is that of layer
        {results["tested"]["best_layer"].get("layer", "–")}.""" if own else ""  # fmt: skip
    headers = ["coverage", "leak", "D", "Haar's coverage", "Haar's D"]
    if not sizes or not places:
        return ""
    order = "" if results["tested"][found["of"]]["method"] in UNORDERED else ", by singular value,"
    return f"""**Size and place**: the first k directions of Z{order} and of PCA, by variance; and every tested Z at every place
        that carries both. {other}

        ![D of other sizes and places](phase3_sweeps.png)

        {page.table(["first directions of", "k", *headers], sizes)}

        {page.table(["Z", "place", "k", *headers], places)}"""


def swept_label(row: dict) -> str:
    """A swept Z by its name, and by its layer where that goes with the place."""
    return swept_name(row["name"]) + (f", layer {row['layer']}" if row["name"] == "best_layer" else "")


def swept(row: dict) -> list[str]:
    coverage, d = (row["haar"][key] for key in ("coverage", "d"))
    d = span({"value": d["middle"], "low": d["low"], "high": d["high"]}, decimal)
    return [span(row["coverage"]), span(row["leak"]), span(row["d"], decimal), random_span(coverage), d]


def strays(found: dict, row: dict) -> str:
    """Where free answers come in the donor's language though Z moves little of it."""
    z = found["swaps"].get("z") or {}
    foreign = sum(count for key, count in z.items() if key in ("donor_donor", "recipient_donor") and count is not None)
    if 2 * foreign <= found["prompts"]:
        return ""
    return f"""This disagrees with section 3: {foreign} of {found["prompts"]} free answers after Z's swap come in the donor's language,
        of which Z moves {percent(row["leak"]["value"])} there."""


def disagreements(name: str, row: dict, results: dict) -> list[str]:
    """What section 4 measures otherwise than the profile says, of the Z that it is about."""
    found = results.get("beside")
    if not found or found["of"] != name:
        return []
    said = [("Same problem in the other language", elsewhere(found["same_problem"], row))]
    said += [("Free answers", strays(found["generated"], row))]
    return [f"{kind} (section 4): {text}" for kind, text in said if text]


def generated_text(found: dict, row: dict) -> str:
    if not found["prompts"]:
        return ""
    cells = [
        [SWAPS[swap], *(f"{counts[key]}" for key in (*WINNERS, "other"))]
        for swap in SWAPS
        if (counts := found["swaps"].get(swap))
    ]
    headers = ["swapped", *(label for label, _, _ in WINNERS.values()), "anything else"]
    return f"""**Free answers**: what the model writes after a swap, greedily, {found["tokens"]} tokens, of {found["prompts"]} prompts
        whose donor was asked in another language: counts of what could be read in the text. {strays(found, row)}

        {page.table(headers, cells)}""" if cells else ""  # fmt: skip


def carries_section(results: dict) -> str:
    """Whether a Z's effect carries to another output format, and what contrast donors do."""
    asked = {name: row["reasoning"] for name, row in results["tested"].items() if row.get("reasoning")}
    if not asked:
        return ""
    verdict, decided = results.get("reasoning"), results["tested"].get(results["decided_by"], {})
    said = (
        f"Of the Z that the verdict is about: {outcomes(decided, verdict)}."
        if verdict and "reasoning" in decided
        else ""
    )
    return page.prose(f"""
        ## 5 Format and contrast donors

        What moves an answer may hold no more than the word for it. So the recipient is asked for its answer in another form,
        the donor still in words; and donors are made that differ from the recipient in one way. Judged are the Zs that move
        enough, by the problems of section 3. {said}

        {format_text(asked)}

        {contrast_text(asked)}
    """)


def beside_null(null: dict | None) -> list[str]:
    """Random subspaces' median share, and p."""
    return [percent(null["middle"]), page.p_value(null["p"], null["draws"])] if null else ["–", "–"]


def format_text(asked: dict) -> str:
    cells, outside, silent = [], [], []
    for name, row in [(name, row) for name, found in asked.items() for row in found["formats"]]:
        if row["unmeasured"]:
            silent.append((page.SUBSPACES[name], f"{row['name']}: {row['unmeasured']}"))
            continue
        counts, label = (
            ", ".join(f"{language} {count}" for language, count in row["solved"].items()),
            f"{page.SUBSPACES[name]}, {row['name']}",
        )
        cells.append(
            [label, f"{row['problems']} with {row['answers']} of {row['asked']} ({counts})", span(row["full"], decimal)]
            + [span(row["z"]), *beside_null(row["haar"]), random_span(row["matched"])]
            + [f"{span(row['wins'])}; {percent(row['full_wins']['value'])}"]
        )
        rest = row["outside"]
        outside.append([label, rest["dimensions"], span(rest["full"]), span(rest["z"]), *beside_null(rest["haar"])])
    headers = [
        "Z, format",
        "problems judged, with answers, of (solved)",
        "F: answer, nats",
        "Z: answer, of F's",
        "Haar",
        "p",
    ]
    headers += ["matched draws", "donor's answer wins: Z; F, donors in that format"]
    rest = ["Z, format", "dimensions of both codes", "F outside of them, of F's", "Z there, of that", "Haar", "p"]
    return f"""**Another format.** The recipient's exemplars answer so, and the donor is asked in words. An answer counts by what it
        begins with; those that begin as a number of the question does, or as an answer that a fit has seen, are left out.
        {unmeasured(silent, asked)}

        {page.table(headers, cells) if cells else ""}

        {OUTSIDE if outside else ""}

        {page.table(rest, outside) if outside else ""}"""


OUTSIDE = """Two ways of writing may share directions where the model is about to write, so that the code of the words alone
        would carry over. So the same is asked outside of the code of both: something must be left there, and Z must move it."""


def contrast_text(asked: dict) -> str:
    moved, inert, silent = [], [], []
    for name, found in asked.items():
        row = found["contrast"]
        if row["unmeasured"]:
            silent.append((page.SUBSPACES[name], row["unmeasured"]))
            continue
        other, same = row["operation"], row["same_answer"]
        counts = ", ".join(f"{language} {count}" for language, count in row["solved"].items())
        line = [page.SUBSPACES[name], f"{row['problems']} of {row['asked']} ({counts})", other["pairs"]]
        line += [span(other["full"], decimal), span(other["z"])]
        line += beside_null(other["haar"])
        moved.append([*line, f"{span(other['wins'])}; {percent(other['full_wins']['value'])}"])
        inert.append(
            [page.SUBSPACES[name], same["pairs"], *(span(same[key]) for key in ("kept", "full_kept", "moved"))]
        )
    headers = ["Z", "problems with all variants solved (each language)", "pairs", "F: answer, nats", "Z, of F's"]
    headers += ["Haar", "p", "donor's answer wins: Z; F"]
    kept = [
        "Z",
        "pairs",
        "Z: own answer stays",
        "F: own answer stays",
        "margin lost to Z, of F's under another operation",
    ]
    return f"""**Contrast donors.** The recipient's text and numbers under another operation must move the answer; another text
        with the same answer must leave it. {unmeasured(silent, asked)}

        {page.table(headers, moved) if moved else ""}

        {page.table(kept, inert) if inert else ""}"""


def unmeasured(silent: list[tuple[str, str]], asked: dict) -> str:
    """What could not be measured and why, every reason once."""
    reasons = dict.fromkeys(why for _, why in silent)
    named = {why: ", ".join(name for name, reason in silent if reason == why) for why in reasons}
    parts = [
        why if len(reasons) == 1 and len(silent) == len(asked) else f"{why} ({names})" for why, names in named.items()
    ]
    return f"Not measured: {'; '.join(parts)}." if parts else ""


def said_lines(row: dict, results: dict) -> list[str]:
    """Whether the effect carries to another format and contrast donors, so that the word may be used of Z."""
    judged, found = results.get("reasoning"), row.get("reasoning")
    if not judged or not found:
        return []
    lines = [format_line(form, judged["format"]) for form in found["formats"]]
    return [
        *lines,
        contrast_line(found["contrast"], judged["contrast"]),
        f"The word *reasoning* {'may' if judged['said'] else 'may not'} be used of this Z: {outcomes(row, judged)}.",
    ]


WAYS = {True: "passed", False: "failed", None: "neither shown nor excluded"}


def outcomes(row: dict, judged: dict) -> str:
    """What came of each test that the word needs."""
    found, whole = row["reasoning"], row["verdict"] == "double_dissociation"
    whole = None if verdicts.dissociation.left_open(row) else whole
    silent = {
        "format": all(form["unmeasured"] for form in found["formats"]),
        "contrast": found["contrast"]["unmeasured"],
    }
    ways = {kind: "could not be run" if silent[kind] else WAYS[judged[kind]] for kind in silent}
    return f"dissociation {WAYS[whole]}, another format {ways['format']}, contrast donors {ways['contrast']}"


def format_line(form: dict, passed: bool | None) -> str:
    """How far Z carries to answers in another format."""
    lead = f"Answer asked in {form['name']}, donors in words"
    if form["unmeasured"]:
        return f"{lead}: could not be run, {form['unmeasured']}."
    rest = form["outside"]
    there = f", and Z {span(rest['z'])} of that" if rest["z"]["value"] is not None else ""
    return f"""{lead}: {WAYS[passed]}; Z moves {span(form["z"])} of what F moves ({form["problems"]} problems with
        {form["answers"]} answers; Haar {percent(form["haar"]["middle"])}, p
        {page.p_value(form["haar"]["p"], form["haar"]["draws"])}; matched draws {random_span(form["matched"])}) and wins in
        {span(form["wins"])} of swaps; outside of the code of both ways' words F keeps {span(rest["full"])}{there}."""


def contrast_line(found: dict, passed: bool | None) -> str:
    """What donors do that share text and numbers, or the answer alone."""
    if found["unmeasured"]:
        return f"Contrast donors: could not be run, {found['unmeasured']}."
    other, same = found["operation"], found["same_answer"]
    return f"""Contrast donors ({found["problems"]} problems): {WAYS[passed]}; another operation on the same numbers: Z moves
        {span(other["z"])} of F's (Haar {percent(other["haar"]["middle"])}, p
        {page.p_value(other["haar"]["p"], other["haar"]["draws"])}); another text with the same answer:
        {span(same["kept"])} of swaps keep the answer, {percent(same["full_kept"]["value"])} of F's."""
