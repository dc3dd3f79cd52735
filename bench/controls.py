"""The instruments on models with a known truth, over seeds: how often each verdict is right, and how often a null is passed.

Question   does phase 3 say of planted models what they are, of subspaces that are none that they are none, and does every
           null that gates let at most 8 % of such subspaces pass?
Inputs     none: bench/planted.py writes the models, 1.py, phase 2 and phase 3 run on them
Outputs    output/controls/controls_output.md; controls_results.json: a row a run, from which the page is judged anew. Runs
           that are there already, by the same code, are not repeated. Exit status 1 where a criterion is missed.
Run        python -m bench.controls [--seeds 20] [--jobs 2] [--out output/controls]        or `make controls`
"""

import argparse
import contextlib
import importlib
import io
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

import phase3_patching as phase3
import utils
import verdicts
from bench import planted
from lab import checkpoints, dissociation, gates, ladder, models, questions, runs, statistics, subspaces
from reports import page

SCRIPTS = ("1", "phase2_z_extraction", "phase3_patching")
NONE = {"Haar": 3, "other layer": 3, "decoy": 2, "other positions": 2}  # of each seed: subspaces that are no Z
CALIBRATED = {"Haar": 15, "other layer": 7, "decoy": 8}  # of each seed, of both sources
SOURCES = ("planted", "decoy")  # kinds in which nulls are calibrated: a layer stands out, or none does
MATCHED = 40  # draws matched on each of these: 1 or 0 above it in 41 are p < .05
AT_MOST = 0.08  # of subspaces that are none, that may pass a null
MOST_FALSE = 2  # dissociations among 200 subspaces that are none
NEEDED, SEEDS = 0.95, 20  # right of all seeds, and the fewest of these
LEAST = {"coverage": 0.9, "complement_language": 0.9, "d": 1.8, "iia_same": 0.9, "iia_cross": 0.9}  # of what is planted
MOST = {"leak": 0.1, "complement_transfer": 0.1}
REMOVED = "all but the language"
SHOWN = ("coverage", "leak", "complement_transfer", "complement_language", "d", "iia_cross")
CLAIMS = ("double_dissociation", "language_removed", "answer_word", "illusion", "partial")
WEIGHTS = ("weights", "weights_at_carrier", "best_layer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, default=Path("output/controls"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file, code = arguments.out / "controls_results.json", code_of_everything()
    kept = runs.read_json(file) if file.exists() else {}
    rows = kept["rows"] if kept.get("code") == code else {}
    waiting = [(case, seed) for seed in range(arguments.seeds) for case in arguments.cases]
    waiting = [(case, seed) for case, seed in waiting if f"{case} {seed}" not in rows]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, spawn, torch.set_num_threads, (1,)) as pool:
        started = {pool.submit(run, case, seed): f"{case} {seed}" for case, seed in waiting}
        for number, done in enumerate(as_completed(started), 1):
            rows[started[done]] = done.result()
            runs.write_files(arguments.out, {file.name: runs.json_bytes({"code": code, "rows": rows})})
            print(f"{number} of {len(started)}: {started[done]}", flush=True)
    rows = {name: runs.significant(row) for name, row in rows.items()}
    text, missed = report(rows)
    runs.write_files(arguments.out, {"controls_output.md": text})
    print(f"{f'{missed} criteria missed' if missed else 'all criteria met'} -> {arguments.out / 'controls_output.md'}")
    sys.exit(missed > 0)


def code_of_everything() -> str:
    """Hash of the code that measures: the scripts', the planted models' and this file's."""
    files = [*(runs.ROOT / f"{script}.py" for script in SCRIPTS), Path(__file__)]
    return runs.short_hash([runs.code_hash(file) for file in files])


def run(case: str, seed: int) -> dict:
    """One model of a case, through the scripts: what phase 3 measured, and on some what subspaces that are none give."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path, out = Path(folder) / "model", Path(folder) / "out"
        kind, twin = CASES[case]["model"]
        truth = planted.write_planted(path, kind, seed)
        path = planted.twins(path, seed)[twin] if twin else path
        for script in SCRIPTS:
            flags = ["--model", str(path), "--out", str(out), "--seed", str(seed), "--device", "cpu"]
            flags += ["--learned"] if case == "planted" and script == SCRIPTS[-1] else []
            module = importlib.import_module(script)
            with mock.patch.object(module.page, "render", lambda *_: {}):  # a fifth of the time
                module.main(flags)
        results = runs.read_json(out / "phase3_results.json")
        row = {key: results[key] for key in ("width", "carriers", "tested", "rung")} | {"seed": seed, "case": case}
        row |= {"paper": {} if twin else truth.profile, "tried": [tried["outcome"] for tried in results["tried"]]}
        for tested in row["tested"].values():
            tested.pop("seen", None)
        if case in SOURCES:
            row |= among_none(truth, path, out, seed)
    return runs.significant(row)


def among_none(truth: planted.Planted, path: Path, out: Path, seed: int) -> dict:
    """Subspaces that are none at the bottleneck's output, tested in full; and how each null ranks more of them."""
    study, rung, measured, asked = prepared(path, out, seed)
    site, names = truth.bottleneck + 1, list(CALIBRATED)
    found = {kind: no_subspaces(kind, truth, study, measured, seed) for kind in {*NONE, *names}}
    manifold = phase3.broad_manifolds(study, rung, measured.design, asked, [site])[site]
    tests = [(kind, number, basis) for kind, count in NONE.items() for number, basis in enumerate(found[kind][:count])]
    removed = torch.linalg.svd(truth.language[None])[2][1:]
    tests.append((REMOVED, 0, removed))
    none = []
    for kind, number, basis in tests:
        others = (lambda _, b=basis: other_layers(truth, study, b)) if kind == "other layer" else None
        name = f"{kind} {number}"
        candidate = dissociation.Candidate(name, kind, lambda _, b=basis: b, lambda _: None, "all", site, others=others)
        row = measured.test(candidate)
        if dissociation.worth_it(row):
            row["gates"] = measured.gates(candidate, row, manifold)
        row["p_holm"] = row.get("p")
        none.append(row)
    ranks = [
        {"subspace": kind} | ranked(measured, other_layers(truth, study, basis), site, basis, seed)
        for kind in names
        for basis in found[kind][: CALIBRATED[kind]]
    ]
    return {"none": none, "ranks": ranks}


def prepared(path: Path, out: Path, seed: int) -> tuple:
    """Phase 3's instruments on a model that its script has run on."""
    parser = runs.command_line(phase3.__doc__, asks_problems=True)
    arguments = parser.parse_args(["--model", str(path), "--out", str(out), "--device", "cpu"])
    folder = checkpoints.find_model(str(path))
    model, tokenizer = models.load_model(folder, torch.device("cpu"), torch.float32)
    z, languages = subspaces.load_z(out, folder), questions.load_languages(planted.LANGUAGES)
    study = phase3.Study(model, tokenizer, languages, arguments.batch, z, [z.bottleneck], seed)
    rungs = questions.find_ladder(arguments, folder, phase3.RUNGS)
    rung, _ = ladder.choose_rung(study, rungs, phase3.NEEDED, z.fitted_on)
    others = questions.find_others(arguments, folder, phase3.RUNGS, rungs)
    return study, rung, phase3.measure(study, rung), [*rungs, *others]


def no_subspaces(kind: str, truth: planted.Planted, study, measured, seed: int) -> list[torch.Tensor]:
    """Subspaces (k, d) that are no Z.

    Decoys vary and say nothing: two to four directions of a problem's nuisance, which holds more of the variance at the last
    position than the answer does, the others of filler and question words, which hold none there; the last one is the
    nuisance itself. Other positions': principal components of states that are no last positions; these hold the code of the
    answer too, beside more else.
    """
    draw, k = statistics.seeded(seed, f"controls: {kind}"), planted.RANK
    count = max(NONE.get(kind, 0), CALIBRATED.get(kind, 0))
    if kind == "Haar":
        return list(utils.random_subspaces(draw, count, k, planted.WIDTH))
    if kind == "other layer":
        return [basis for layer, basis in enumerate(study.z.every_layer) if layer != truth.bottleneck]
    if kind == "decoy":
        varies, idle = truth.parts["nuisance"], torch.cat([truth.parts[name] for name in ("filler", "question")])
        sizes = [2 + number % 3 for number in range(count - 1)]
        parts = [[(varies, size), (idle, k - size)] for size in sizes]
        frames = [[utils.random_subspaces(draw, 1, size, len(of))[0] @ of for of, size in pair] for pair in parts]
        return [torch.cat(pair) for pair in frames] + [varies]
    prompts = measured.design.prompts[0]
    _, others = gates.broad_states(study.model, study.tokenizer, prompts, [truth.bottleneck + 1], study.batch, draw)
    components = torch.linalg.svd(others[0] - others[0].mean(0), full_matrices=False)[2]
    return [components[number * k : (number + 1) * k].double() for number in range(count)]


def ranked(measured: dissociation.Measured, others: torch.Tensor, site: int, basis: torch.Tensor, seed: int) -> dict:
    """p of a subspace's D against each null, and what `verdicts` asks of other layers."""
    donors, streams = measured.design.within("all", dissociation.DRAWN), measured.fitted[:, :, site]
    own = {name: float(values[0]) for name, values in measured.points(site, basis[None], "all", donors).items()}
    haar = measured.haar(site, len(basis), "all", dissociation.FULL_DRAWS)
    draw = statistics.seeded(seed, f"controls: matched {runs.array_hash(basis.numpy())}")
    matched = measured.points(site, gates.matched_draws(draw, MATCHED, basis, streams), "all", donors)
    layers = measured.points(site, others, "all", donors)
    found = {name: statistics.null_record(null["d"], own["d"]) for name, null in (("haar", haar), ("matched", matched))}
    found["layers"] = statistics.null_record(layers["d"], own["d"])
    found["layers"] |= {"outlier_p": statistics.outlier_p(own["d"], layers["d"])}
    return found | {"within_share": gates.shares(basis, streams)[0]}


def other_layers(truth: planted.Planted, study, basis: torch.Tensor) -> torch.Tensor:
    """The weight-based subspaces of all layers but the one that this one comes from, if it does. (n, k, d)

    Without the layer in which the answer's code is planted: nothing would ever be above that one.
    """
    other = (study.z.every_layer - basis.float()).abs().amax((1, 2)) > 1e-6
    other[truth.bottleneck] &= truth.kind != "planted"
    return study.z.every_layer[other]


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
    return all(judged.get(name) in allowed for name, allowed in expected(CASES[row["case"]]["model"][0]).items())


def planted_found(row: dict) -> bool:
    return as_expected(row) and strong(row["tested"]["weights"])


def late_found(row: dict) -> bool:
    own, there = row["tested"]["weights"], row["tested"]["weights_at_carrier"]
    return as_expected(row) and strong(there) and there["site"] != own["site"]


def not_by_weights(row: dict) -> bool:
    """No layer's weights dissociate, at a place where answer and language are, in a model whose answers' means carry."""
    judged, means = verdicts_of(row), row["tested"].get("answer_means", {})
    asked = row["tested"]["weights"]["place"] == "joint" and means.get("coverage", {"value": 0})["value"] >= 0.5
    return asked and not any(judged.get(name) == "double_dissociation" for name in WEIGHTS)


def no_illusion(row: dict) -> bool:
    judged = verdicts_of(row)
    return as_expected(row) and all(judged[name] != "illusion" for name in judged)


def no_claim(row: dict) -> bool:
    return not set(verdicts_of(row).values()) & set(CLAIMS)


CASES = {
    "planted": {
        "model": ("planted", None),
        "asks": planted_found,
        "says": "`double_dissociation`, profile as on paper",
    },
    "copy": {
        "model": ("copy", None),
        "asks": no_illusion,
        "says": "`double_dissociation` or `partial`, never `illusion`",
    },
    "decoy": {"model": ("decoy", None), "asks": not_by_weights, "says": "no dissociation by any layer's weights"},
    "late": {
        "model": ("late", None),
        "asks": late_found,
        "says": "`untestable` at its own place; at another as planted",
    },
    "answer_word": {"model": ("answer_word", None), "asks": as_expected, "says": "`answer_word`"},
    "illusion": {"model": ("illusion", None), "asks": as_expected, "says": "`illusion`"},
    "multi": {"model": ("multi", None), "asks": planted_found, "says": "as planted, some answers of several tokens"},
    "random": {"model": ("random", None), "asks": no_claim, "says": "no claim"},
    "twin, reinitialised": {"model": ("planted", "reinitialised"), "asks": no_claim, "says": "no claim"},
    "twin, permuted": {"model": ("planted", "permuted"), "asks": no_claim, "says": "no claim"},
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

        Random models and twins solve nothing, so phase 3 stops at its ladder: their rows say that it does, and nothing of
        nulls and gates. {learned_text(cases.get("planted", []), asked)}

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
        right = sum(map(CASES[case]["asks"], found))
        enough = right >= NEEDED * len(found) and len(found) >= SEEDS
        lines.append([case, CASES[case]["says"], rate(right, len(found)), asked.met(enough)])
    removed = [called(row, none) for found in sources.values() for row in found for none in of_kind(row, REMOVED)]
    right = removed.count("language_removed")
    says = "`language_removed`, of k = d - 1 in planted and decoy models"
    enough = right >= NEEDED * len(removed) and len(removed) >= SEEDS
    lines.append([REMOVED, says, rate(right, len(removed)), asked.met(enough)])
    return page.table(["model", "must be", "right", "enough"], lines)


def learned_text(found: list[dict], asked: Criteria) -> str:
    """The learned subspace of planted models beside its control."""
    rows = [row["tested"]["learned"] for row in found if "coverage" in row["tested"].get("learned", {})]
    if not rows:
        return ""
    gains = [row["control"]["d_gain"]["low"] > 0 for row in rows]
    beyond = asked.met(sum(gains) >= NEEDED * len(gains))
    return f"""A subspace learned on development answers of planted models covers
        {span([row["coverage"]["value"] for row in rows])} of unseen ones, the same search for other answers
        {span([row["control"]["coverage"]["value"] for row in rows])}; its D is surely above that search's in
        {rate(sum(gains), len(gains))} (enough: {beyond})."""


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
    return f"""Tested in full at the output of the bottleneck, each as the only subspace of its family, so that no correction
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
        holds at most {dissociation.EVEN:.0%} of the variance, others they do not judge; other layers: above all of them and
        apart from these. In `planted` models the layer in which the answer's code is planted is not among the others.
        Subspaces of one model share its draws, so that the intervals are a little too narrow.

        {page.table(["subspace", "model", "variance inside", "Haar", "matched", "other layers", "few enough"], lines)}"""


if __name__ == "__main__":
    main()
