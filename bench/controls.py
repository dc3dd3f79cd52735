"""The instruments on models with a known truth, over seeds: how often each verdict is right, and how often a null is passed.

Question   does phase 3 say of planted models what they are, of subspaces that are none that they are none, and does every
           null that gates let at most 8 % of such subspaces pass?
Inputs     none: bench/planted.py writes the models, 1.py, phase 2 and phase 3 run on them
Outputs    output/controls/controls_output.md; controls_results.json (not committed): a row a run, from which the page is
           judged anew. Runs that are there already, by the same code, are not repeated. Exit status 1 where a criterion is
           missed.
Run        python -m bench.controls [--seeds 20] [--jobs 2] [--out output/controls]        or `make controls`
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch

import verdicts
from bench import planted, resumed
from bench.control_runs import CALIBRATED, MATCHED, MODELS, NONE, REMOVED, SOURCES, code_of_everything, run
from lab import dissociation, runs, statistics
from reports import page

AT_MOST = 0.08  # of subspaces that are none, that may pass a null
MOST_FALSE = 2  # dissociations among 200 subspaces that are none
NEEDED, SEEDS = 0.95, 20  # right of all seeds, and the fewest of these
LEAST = {"coverage": 0.9, "complement_language": 0.9, "d": 1.8, "iia_same": 0.9, "iia_cross": 0.9}  # of what is planted
MOST = {"leak": 0.1, "complement_transfer": 0.1}
SHOWN = ("coverage", "leak", "complement_transfer", "complement_language", "d", "iia_cross")
CLAIMS = ("double_dissociation", "language_removed", "answer_word", "illusion", "partial")
WEIGHTS = ("weights", "weights_at_carrier", "best_layer")


def main() -> None:
    arguments, spawn = resumed.command_line(__doc__, CASES, SEEDS), multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(arguments.jobs, spawn, torch.set_num_threads, (1,))
    rows = resumed.rows_of(arguments, "controls_results.json", code_of_everything(), pool, run)
    text, missed = report(rows)
    runs.write_files(arguments.out, {"controls_output.md": text})
    print(f"{f'{missed} criteria missed' if missed else 'all criteria met'} -> {arguments.out / 'controls_output.md'}")
    sys.exit(missed > 0)


def verdicts_of(row: dict) -> dict[str, str]:
    """Phase 3's verdict of every tested subspace of a run, judged now; of the run itself under `phase`."""
    judged = verdicts.phase3(row)
    return {name: found["verdict"] for name, found in judged["tested"].items()} | {"phase": judged["verdict"]}


def strong(row: dict) -> bool:
    """Whether a profile is as on paper."""
    above = all(row[name]["value"] >= least for name, least in LEAST.items())
    return above and all(row[name]["value"] <= most for name, most in MOST.items())


def expected(kind: str) -> dict:
    """{tested subspace: the verdicts that may be found}"""
    return planted.KINDS[kind].expected


def as_expected(row: dict) -> bool:
    """Whether both places' verdicts may be found in a model of the case's kind."""
    judged = verdicts_of(row)
    return all(judged.get(name) in allowed for name, allowed in expected(MODELS[row["case"]][0]).items())


def planted_found(row: dict) -> bool:
    return as_expected(row) and strong(row["tested"]["weights"]) and said(row)


def one_format_found(row: dict) -> bool:
    judged = verdicts.phase3(row)["reasoning"]
    return as_expected(row) and strong(row["tested"]["weights"]) and judged["format"] is False and not judged["said"]


def said(row: dict) -> bool:
    """Whether the deciding subspace may be called one of reasoning."""
    return verdicts.phase3(row)["reasoning"]["said"]


def late_found(row: dict) -> bool:
    own, there = row["tested"]["weights"], row["tested"]["weights_at_carrier"]
    return as_expected(row) and strong(there) and there["site"] != own["site"] and said(row)


def not_by_weights(row: dict) -> bool:
    """No layer's weights dissociate, at a place where answer and language are."""
    judged = verdicts_of(row)
    asked = row["tested"]["weights"]["place"] == "joint"
    return asked and not any(judged.get(name) == "double_dissociation" for name in WEIGHTS)


def no_illusion(row: dict) -> bool:
    judged = verdicts_of(row)
    return as_expected(row) and all(judged[name] != "illusion" for name in judged)


def no_claim(row: dict) -> bool:
    return not set(verdicts_of(row).values()) & set(CLAIMS)


CASES = {  # what is asked of a run, and how the page says it
    "planted": (planted_found, "`double_dissociation`, profile as on paper, *reasoning*"),
    "copy": (no_illusion, "`double_dissociation` or `partial`, never `illusion`"),
    "decoy": (not_by_weights, "no dissociation by any layer's weights, where answer and language are"),
    "late": (late_found, "`untestable` at its own place; at another as planted"),
    "answer_word": (as_expected, "`answer_word`"),
    "illusion": (as_expected, "`illusion`"),
    "multi": (planted_found, "as planted, some answers of several tokens"),
    "one_format": (
        one_format_found,
        "as planted, and never *reasoning*: answers in the other format read another code",
    ),
    "random": (no_claim, "no claim"),
    "twin, reinitialised": (no_claim, "no claim"),
    "twin, permuted": (no_claim, "no claim"),
}


@dataclass
class Criteria:
    """What is asked for, and whether it is met: counted while the page is made."""

    missed: int = 0

    def met(self, passed: bool) -> str:
        self.missed += not passed
        return "yes" if passed else "no"


def report(rows: dict) -> tuple[bytes, int]:
    """The page, and how many criteria are missed: every case, subspaces that are none, and how often they pass a null."""
    cases = {case: [row for row in rows.values() if row["case"] == case] for case in CASES}
    cases = {case: found for case, found in cases.items() if found}
    sources = {case: cases[case] for case in SOURCES if case in cases}
    asked = Criteria()
    text = f"""
        # Controls: phase 3 on models with a known truth

        Every row is a kind of model from `bench/planted.py`, whose docstring works out what an instrument must find; each
        seed is another model, another rotation of its stream, other problems, and another seed of phase 3. They went
        through `1.py`, phase 2 and phase 3 as a user's model does. Rates with 95 % Wilson intervals; asked for are
        {NEEDED:.0%} right of {SEEDS} seeds or more. Made by `make controls`.

        {cases_table(cases, sources, asked)}

        A copy of the code that nothing reads varies with it, so that h is one half and the verdict `partial`: no swap tells
        such a copy from an illusion. Random models and twins solve nothing, so phase 3 stops at its ladder: their rows say
        that it does, and nothing of nulls and gates. *Reasoning* is said of a dissociation that also carries to answers
        written otherwise, and that donors with the same text and donors with the same answer bear out. What stands beside a
        tested subspace and decides nothing is not measured here. {learned_text(cases.get("planted", []))}

        Verdicts of the weight-based Z, at its own place and at its best carrier:

        {verdicts_table(cases)}

        Profile of the weight-based Z on paper and, over seeds, least and most (late: at its best carrier; all others: at
        its own place):

        {profile_table(cases)}

        ## Subspaces that are none

        {none_text(sources, asked)}

        ## Nulls

        {nulls_text(sources, asked)}
    """
    return page.prose(text).encode(), asked.missed


def rate(right: int, of: int) -> str:
    low, high = statistics.wilson_interval(right, of)
    return f"{right} of {of} ({100 * low:.0f} to {100 * high:.0f} %)"


def cases_table(cases: dict, sources: dict, asked: Criteria) -> str:
    lines = []
    for case, found in cases.items():
        asks, says = CASES[case]
        right = sum(map(asks, found))
        enough = right >= NEEDED * len(found) and len(found) >= SEEDS
        lines.append([case, says, rate(right, len(found)), asked.met(enough)])
    removed = [called(row, none) for found in sources.values() for row in found for none in of_kind(row, REMOVED)]
    right = removed.count("language_removed")
    says = "`language_removed`, of k = d - 1 in planted and decoy models"
    enough = right >= NEEDED * len(removed) and len(removed) >= SEEDS
    lines.append([REMOVED, says, rate(right, len(removed)), asked.met(enough)])
    return page.table(["model", "must be", "right", "enough"], lines)


def learned_text(found: list[dict]) -> str:
    """The learned subspace of planted models beside its control."""
    rows = [row["tested"]["learned"] for row in found if "coverage" in row["tested"].get("learned", {})]
    if not rows:
        return ""
    gains = [row["control"]["d_gain"]["low"] > 0 for row in rows]
    return f"""A subspace learned on development answers of planted models covers
        {span([row["coverage"]["value"] for row in rows])} of unseen ones, the same search for other answers
        {span([row["control"]["coverage"]["value"] for row in rows])}; its D is surely above that search's in
        {rate(sum(gains), len(gains))}."""


def of_kind(row: dict, kind: str) -> list[dict]:
    return [none for none in row["none"] if none["method"] == kind]


def called(row: dict, none: dict) -> str:
    """The verdict of a subspace that is none, as if it were the only one tested."""
    return verdicts.subspace(none, row)


def verdicts_table(cases: dict) -> str:
    lines = []
    for case, found in cases.items():
        judged, counts = [verdicts_of(row) for row in found], []
        for place in ("weights", "weights_at_carrier"):
            names = [one.get(place, f"{one['phase']}, nothing solved") for one in judged]
            counts.append(", ".join(f"`{name}` {names.count(name)}" for name in sorted(set(names))))
        lines.append([case, *counts])
    return page.table(["model", "own place", "best carrier"], lines)


def profile_table(cases: dict) -> str:
    lines = []
    for case, found in cases.items():
        place = "weights_at_carrier" if case == "late" else "weights"
        tested = [row["tested"][place] for row in found if "coverage" in row["tested"].get(place, {})]
        gated = [row["gates"] for row in tested if row.get("gates")]
        if tested:
            paper = found[0]["paper"]
            lines.append([f"{case}, on paper", *(page.show(round(paper[name], 2) + 0.0) for name in SHOWN), *["–"] * 4])
            cells = [span([row[name]["value"] for row in tested]) for name in SHOWN]
            cells += [span([gate["word"]["full"]["value"] for gate in gated])]
            cells += [span([gate["word"]["z"]["value"] for gate in gated])]
            cells += [span([gate["manifold"][name]["value"] for gate in gated]) for name in ("full", "h")]
            lines.append([case, *cells])
    heads = ["coverage", "leak", "compl. transfer", "compl. language", "D", "IIA cross"]
    return page.table(["model", *heads, "T(F')/T(F)", "T(Z')/T(F')", "T(P_B F)/T(F)", "h"], lines)


def span(values: list) -> str:
    known = [round(value, 2) + 0.0 for value in values if value is not None]
    return f"{page.show(min(known))} to {page.show(max(known))}" if known else "–"


def none_text(sources: dict, asked: Criteria) -> str:
    lines, wrong, total = [], 0, 0
    for kind in NONE:
        for source, found in sources.items():
            rows = [(row, none) for row in found for none in of_kind(row, kind)]
            names = [called(row, none) for row, none in rows]
            counts = ", ".join(f"`{name}` {names.count(name)}" for name in sorted(set(names)))
            covered = [none["coverage"]["value"] for _, none in rows if "coverage" in none]
            lines.append(
                [kind, source, len(names), span([none["within_share"] for _, none in rows]), span(covered), counts]
            )
            wrong, total = wrong + names.count("double_dissociation"), total + len(names)
    few = asked.met(total >= 200 and wrong * 200 <= MOST_FALSE * total)
    return f"""Haar: random. Other layer: the weight-based subspace of another layer. Decoy: directions that vary with the
        problem and say nothing of the answer. Other positions: principal components of states at positions before the last,
        which hold some of the answer's code too, so that `partial` is right for them.

        Tested in full at the output of the bottleneck, each as the only subspace of its family, so that no correction
        helps. Called `double_dissociation`: {rate(wrong, total)}; at most {MOST_FALSE} of 200 may be (met: {few}).

        {page.table(["subspace", "model", "tested", "variance inside", "coverage", "verdicts"], lines)}"""


def nulls_text(sources: dict, asked: Criteria) -> str:
    lines = []
    for kind in CALIBRATED:
        for source, found in sources.items():
            ranks = [rank for row in found for rank in row["ranks"] if rank["subspace"] == kind]
            gating = [rank for rank in ranks if rank["within_share"] <= dissociation.EVEN]
            passed = {
                "haar": [rank["haar"]["p"] < verdicts.LEVEL for rank in ranks],
                "matched": [rank["matched"]["p"] < verdicts.LEVEL for rank in gating],
                "layers": [verdicts.beats_layers(rank["layers"]) for rank in ranks],
            }
            cells = [rate(sum(counted), len(counted)) for counted in passed.values()]
            few = all(sum(counted) <= AT_MOST * len(counted) for counted in passed.values())
            lines.append([kind, source, span([rank["within_share"] for rank in ranks]), *cells, asked.met(few)])
    return f"""How many subspaces that are none pass each null, that is, have a D beyond it at p < {verdicts.LEVEL:g}: at most
        {AT_MOST:.0%} of each may. Haar: {dissociation.FULL_DRAWS} draws; matched draws: {MATCHED} for each subspace that
        holds at most {dissociation.EVEN:.0%} of the variance, others they do not judge; other layers: a D above that of
        every other layer and, by Student's prediction interval, no member of their population. In `planted` models the layer
        in which the answer's code is planted is not among the others.
        Subspaces of one model share its draws, so that the intervals are a little too narrow.

        {page.table(["subspace", "model", "variance inside", "Haar", "matched", "other layers", "few enough"], lines)}"""


if __name__ == "__main__":
    main()
