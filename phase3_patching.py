"""Phase 3: does swapping Z move the answer and leave the language alone?

Question   the stream at the last prompt position gets the donor prompt's part inside Z, or outside Z: which answer comes
           out, in which language; where along depth can that be asked at all; and do random subspaces do the same?
Inputs     a model; parallel problems with answers in words: the hardest rung of data/ that the model solves (or the model
           folder's problems.jsonl, or --problems); output/phase2_results.json, phase2_z_basis.npy, phase2_layer_subspaces.npy,
           phase2_contingency_bases.npy
Outputs    output/phase3_output.md with figures, phase3_results.json, phase3_scores.npy (conditions, recipient language,
           recipients, donor language, donors, answers x languages), phase3_streams.npy (languages, problems, sites, d): the
           unpatched stream at the last prompt position, phase3_prompts.jsonl (a line per prompt)
Run        python phase3_patching.py --model Qwen/Qwen2.5-3B          after phase2_z_extraction.py

Steps, which are also the report's headings:
1 problems   2 where answer and language arrive   3 subspaces tested   4 beside them   5 format and contrast donors   6 how to read it
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import utils
import verdicts
from lab import (
    checkpoints,
    commands,
    continuations,
    contrasts,
    designs,
    dissociation,
    engine,
    formats,
    gates,
    ladder,
    learned,
    models,
    progress,
    questions,
    rivals,
    runs,
    statistics,
    subspaces,
    swaps,
    transfer,
)
from reports import phase3 as page

ARRAYS = ("phase3_scores.npy", "phase3_streams.npy", "phase3_prompts.jsonl")
REPORT = runs.Report(__file__, "phase3", ARRAYS, verdicts.phase3, page)
RUNGS = ("words", "sums", "successor", "reasoning", "antonyms")  # of data/, the hardest first; numbers, then words
NEEDED = ladder.Needed(problems=20, answers=16, mass=0.5, precheck=24, least=0.75)
BROAD = 160  # other prompts in each language that show which states the model visits: of every kind of problem alike
MAX_NEW_TOKENS = 12  # an answer in words


def main(argv: list[str] | None = None) -> None:
    parser = commands.parser(__doc__, asks_problems=True)
    parser.add_argument(
        "--easier", nargs="+", type=Path, default=[], metavar="FILE", help="problem files to go down to, in this order"
    )
    parser.add_argument("--learned", action="store_true", help="also test a subspace learned by gradients")
    arguments = parser.parse_args(argv)
    opening = questions.begin(REPORT, arguments, f"{RUNGS[0]}.jsonl", in_words=True)
    if opening is None:
        return
    rungs = [*questions.find_ladder(arguments, opening.folder, RUNGS), *easier_rungs(arguments, opening.folder)]
    others = questions.find_others(arguments, opening.folder, RUNGS, rungs)
    contrast = questions.find_contrasts(arguments, opening.folder)
    z = subspaces.load_z(arguments.out, opening.folder)
    if z.fitted_on and set(z.languages) != set(opening.languages):
        raise runs.UserError(
            f"phase 2 fitted Z on problems asked in {' '.join(z.languages)}, which cannot be told from those asked in "
            f"{' '.join(opening.languages)}: run both with the same --languages"
        )
    weights = pointed(arguments.out, opening.folder, z)
    settings = {
        "easier": [file.name for file in arguments.easier],
        "z": z.summary,
        "window": weights["window"],
        "learned": arguments.learned,
    }
    settings |= {"ladder": [asked.settings for asked in rungs], "others": [asked.settings for asked in others]}
    settings |= {"contrasts": contrast and contrast.settings}
    run = opening.run({"layer_chosen": z.chosen, "weights": weights}, **settings)
    if run is None:
        return
    model, tokenizer = questions.load_model(opening)
    study = Study(model, tokenizer, opening.languages, arguments.batch, z, weights["window"], arguments.seed)
    rung, tried = ladder.choose_rung(study, rungs, NEEDED, z.fitted_on)
    results = {"tried": tried, "needed": vars(NEEDED), "sites": opening.folder.layers + 1}
    results |= {"width": opening.folder.width, "languages": study.names, "rung": rung and tried[-1]["rung"]}
    if rung is None:
        results |= {"unsolved": unsolved(study, rungs, tried)} | NOTHING
        run.save(results, dict(zip(ARRAYS, no_arrays(len(study.names), opening.folder))))
        return
    measured = measure(study, rung)
    found = candidates(study, rung, measured.design)
    rows = tested(study, rung, measured, found, [*rungs, *others], arguments.learned)
    read_otherwise(study, rung, measured, found, rows, contrast)
    results |= {"tested": rows, "beside": beside(study, rung, measured, found, rows, opening.folder), "unsolved": None}
    results |= problem_counts(tried[-1], rung, measured.design) | described(measured, rung)
    arrays = (np.concatenate(measured.scores), rung.streams.numpy(), runs.json_lines(prompts(study, rung)))
    run.save(results, dict(zip(ARRAYS, arrays)))


def easier_rungs(arguments, folder: checkpoints.ModelFolder) -> list[questions.Asked]:
    """A rung for every file of --easier, with the exemplars beside it; --limit holds for each."""
    given = [
        argparse.Namespace(**vars(arguments) | {"problems": [file], "exemplars": None}) for file in arguments.easier
    ]
    return [questions.find_asked(asked, folder, "problems.jsonl", in_words=True) for asked in given]


NOTHING = {
    "tested": {},
    "beside": None,
    "pairs": 0,
    "usable": [],
    "carriers": {"answer": [], "language": [], "joint": []},
}


@dataclass
class Study(ladder.Asker):
    """The model, what it is asked in, and what all measurements share."""

    z: subspaces.HandedZ
    window: list[int]  # the layers that 1.py's bottleneck spans
    seed: int

    def seeded(self, label: str) -> torch.Generator:
        return statistics.seeded(self.seed, f"phase3: {label}")


def pointed(out, folder: checkpoints.ModelFolder, z: subspaces.HandedZ) -> dict:
    """Where the weights point: the layer that phase 2 used and its window, and the lowest of all layers where 1.py ran."""
    lowest, window = None, [z.bottleneck]
    if (out / "one_results.json").exists():
        results = runs.load_results(out, "one", folder.identity)
        with runs.as_written(out, "one"):
            found, layers = results["bottleneck"], range(folder.layers)
            lowest = layers.index(found["lowest"]["layer"])
            inside = [layers.index(layer) for layer in found["window"]]
        window = inside if z.bottleneck in inside else window
    return {"inner": z.bottleneck, "lowest": lowest, "window": window}


def unsolved(study: Study, rungs: list[questions.Asked], tried: list[dict]) -> dict:
    """Free answers to the rung that came closest: per language how many are right in words, right in digits, or wrong."""
    place = max(range(len(tried)), key=lambda index: (tried[index]["everywhere"], sum(tried[index]["solved"].values())))
    asked, counts = rungs[place], {}
    some = asked.problems[: NEEDED.precheck]
    for language in study.names:
        texts = [questions.prompt_text(problem, language, study.languages, asked.exemplars) for problem in some]
        outputs = models.generate(study.model, study.tokenizer, texts, MAX_NEW_TOKENS, study.batch)
        kinds = [kind_of_answer(problem, output, language) for problem, output in zip(some, outputs)]
        counts[language] = {kind: kinds.count(kind) for kind in ("words", "digits", "wrong")}
    return {"rung": tried[place]["rung"], "asked": len(some), "counts": counts}


def kind_of_answer(problem, output: str, language: str) -> str:
    """words | digits | wrong: whether a free output is right, and then whether it is so in its language's words."""
    if not questions.grade(problem, output, language)[1]:
        return "wrong"
    return "words" if problem.answer_text[language].casefold() in output.casefold() else "digits"


def no_arrays(languages: int, folder: checkpoints.ModelFolder) -> tuple:
    """The arrays of a run that measured nothing."""
    scores = np.zeros((0, languages, 0, languages, 0, 0), np.float32)
    return scores, np.zeros((languages, 0, folder.layers + 1, folder.width), np.float32), b""


def measure(study: Study, rung: ladder.Rung) -> dissociation.Measured:
    """The problems made ready for swaps, and the full swap along depth."""
    design = designs.make_design(study, rung, NEEDED, study.z.seen, study.seeded)
    groups = [design.part(half) for half in designs.HALVES]
    tokens = design.known.tokens
    patching = swaps.Patching(study.model, study.tokenizer, design.prompts, tokens, study.batch, groups)
    curve = dissociation.site_curve(design, patching, study.z.bottleneck + 1, study.seeded)
    carriers = transfer.carriers([curve[site] for site in sorted(curve)])
    words = gates.word_subspace(study.model, tokens, len(study.names))
    fitted = rung.streams[:, np.isin(rung.places, design.halved)]
    return dissociation.Measured(design, patching, curve, carriers, fitted, words, study.seeded)


def tested(
    study: Study, rung: ladder.Rung, measured: dissociation.Measured, found: list, asked: list, search: bool
) -> dict[str, dict]:
    """Every subspace's row: its profile and nulls, and for what moves enough its gates; {name: row}.

    found: the candidates, to which a learned one is added where `search` asks for it; asked: what shows which states the model
    visits.
    """
    measured.full_draws = dissociation.draws_for(len(found) + search)
    rows = {one.name: measured.test(one) for one in progress.steps(found, "swapping subspaces", "subspace")}
    sought = None
    if search and "answer_means" in rows:
        sought = rows["answer_means"].get("site")
    sites = {row["site"] for row in rows.values() if dissociation.worth_it(row)} | {sought} - {None}
    manifolds = broad_manifolds(study, rung, measured.design, asked, sorted(sites))
    scored_fits = measured.design.places[np.isin(measured.design.scored, measured.design.fits)]
    if sought is not None and manifolds[sought] is not None and len(set(scored_fits)) > dissociation.FEWEST:
        seen = answers_of(rung, measured.design)
        candidate, control = learned_candidates(study, measured, sought, manifolds[sought], seen)
        rows[candidate.name] = measured.test(candidate) | measured.beyond(candidate, control)
        found.append(candidate)
    for candidate in progress.steps(found, "what else could explain it", "subspace"):
        row = rows[candidate.name]
        if dissociation.worth_it(row):
            row["gates"] = measured.gates(candidate, row, manifolds[row["site"]])
    family = [row for row in rows.values() if row.get("p") is not None]
    for row, p in zip(family, statistics.holm([row["p"] for row in family])):
        row["p_holm"] = p
    return rows


def candidates(study: Study, rung: ladder.Rung, design: designs.Design) -> list[dissociation.Candidate]:
    """The subspaces tested, one Holm family; the first is the primary one, neither fitted nor chosen."""
    z, Candidate = study.z, dissociation.Candidate
    predicted, k = z.every_layer[z.bottleneck], z.every_layer.shape[1]
    streams = rung.streams[:, design.fits]
    numbers = [rung.known.place(rung.problems[problem]) for problem in design.fits]

    def others(layer: int) -> torch.Tensor:
        """The other layers' subspaces, without those that count as the same place."""
        window = study.window if layer in study.window else [layer]
        return z.every_layer[[other for other in range(len(z.every_layer)) if other not in window]]

    of_predicted = {"layer": lambda _: z.bottleneck, "others": lambda _: others(z.bottleneck)}
    found = [
        Candidate("weights", "weight", lambda _: predicted, **of_predicted, judged_on="all", site=z.bottleneck + 1),
        Candidate("weights_at_carrier", "weight", lambda _: predicted, **of_predicted),
        Candidate(
            "best_layer", "weight", lambda site: z.every_layer[site - 1], lambda site: site - 1,
            others=lambda site: others(site - 1),
        ),
    ]  # fmt: skip
    if not z.predicted:
        answers = frozenset(z.fitted_answers)
        found.append(handed("handed", z.summary["method"], z.summary["layer"], z.basis, answers))
    found += [handed(one.name, one.name, one.layer, one.basis, one.fitted_answers) for one in z.also]
    if len(set(numbers)) > dissociation.FEWEST:
        means = lambda site: swaps.answer_means(streams[:, :, site], numbers, k)  # noqa: E731
        found.append(Candidate("answer_means", "answer_means", means, lambda _: None, seen=answers_of(rung, design)))
    return found


def handed(name: str, method: str, layer: int, basis: torch.Tensor, seen: frozenset[str]) -> dissociation.Candidate:
    """A subspace of phase 2, judged on answers that it has not seen."""
    judged = "unseen" if seen else "test"
    return dissociation.Candidate(name, method, lambda _: basis, lambda _: layer, judged, seen=seen)


def answers_of(rung: ladder.Rung, design: designs.Design) -> frozenset[str]:
    """The answers on which subspaces are fitted."""
    return frozenset(str(rung.problems[problem].answer) for problem in design.fits)


def broad_manifolds(study: Study, rung: ladder.Rung, design: designs.Design, asked: list, sites: list[int]) -> dict:
    """The states that the model visits on other problems, of every kind as many, by site; none with a test answer."""
    tested = {rung.problems[problem].answer for problem in design.scored[~design.development]}
    left_out = {questions.problem_hash(rung.problems[problem]) for problem in design.scored}
    left_out |= {questions.problem_hash(problem) for problem in rung.problems if problem.answer in tested}
    prompts, each = {name: [] for name in study.names}, -(-BROAD // len(asked))
    for kind in asked:
        rest = [problem for problem in kind.problems if questions.problem_hash(problem) not in left_out]
        for place in np.unique(np.linspace(0, len(rest) - 1, min(each, len(rest))).round().astype(int)):
            for name in study.names:
                prompts[name].append(questions.prompt_text(rest[place], name, study.languages, kind.exemplars))
    if not sites or not all(prompts.values()):
        return dict.fromkeys(sites)
    draw = study.seeded("broad states")
    return gates.broad_manifolds(study.model, study.tokenizer, list(prompts.values()), sites, study.batch, draw)


def learned_candidates(
    study: Study, measured: dissociation.Measured, site: int, manifold: gates.Manifold, seen: frozenset[str]
) -> tuple[dissociation.Candidate, dissociation.Candidate]:
    """Learned on development answers, among states that the model visits; and its control, on answers that nobody gave."""
    design, k = measured.design, study.z.every_layer.shape[1]
    fits = np.isin(design.scored, design.fits)
    donors = design.blocks & fits[:, None] & fits
    streams = measured.patching.streams[:, :, site]
    search = learned.Search(study, design.prompts, design.known.tokens, streams, donors)
    given, languages = sorted(set(design.places[fits].tolist())), len(study.names)
    relabelled = dict(zip(given, np.roll(given, 1).tolist()))
    targets = {
        "learned": lambda donor, language: design.places[donor] * languages + language,
        "shuffled": lambda donor, language: relabelled[design.places[donor]] * languages + language,
    }
    found = []
    for name, target in targets.items():
        basis = search.subspace(site, k, manifold.components, target, study.seeded(f"search {name}"))
        found.append(
            dissociation.Candidate(
                name, "learned", lambda _, basis=basis: basis, lambda _: None, site=site, among_states=True, seen=seen
            )
        )
    return tuple(found)


def read_otherwise(study: Study, rung: ladder.Rung, measured: dissociation.Measured, found: list, rows: dict, contrast):
    """Adds to every row with gates how far its swap carries into another format, and what contrast donors do: `reasoning`."""
    asked = [candidate for candidate in found if rows[candidate.name].get("gates")]
    if not asked:
        return
    forms = [formats.Reformatted(study, rung, measured, form) for form in formats.FORMATS]
    donors = contrasts.Contrasts(study, measured, contrast)
    for candidate in asked:
        row = rows[candidate.name]
        row["reasoning"] = {"formats": [form.test(candidate, row) for form in forms]}
        row["reasoning"]["contrast"] = donors.test(candidate, row)


def beside(
    study: Study, rung: ladder.Rung, measured: dissociation.Measured, found: list, rows: dict, folder
) -> dict | None:
    """Rivals, sweeps, ablations, the recipe's own design and free generation, beside the first Z of the highest D."""
    swapped = {name: row["d"]["value"] for name, row in rows.items() if row.get("p") is not None}
    if not swapped:
        return None
    best = next(name for name in swapped if swapped[name] >= max(swapped.values()) - dissociation.TIE)
    candidate = next(one for one in found if one.name == best)
    site, design = rows[best]["site"], measured.design
    basis = candidate.basis(site).float()
    half = "test" if rows[best]["judged_on"] == "all" else rows[best]["judged_on"]
    own = rivals.Beside(measured, site, basis, half, rung.streams[:, design.fits][:, :, site])
    swept = [one for one in found if rows[one.name].get("seen") and rows[one.name]["judged_on"] == half]
    weights = rivals.other_constructions(folder, study.z.bottleneck, study.z.every_layer)
    haar = utils.random_subspaces(study.seeded("Haar of continuations"), 1, *basis.shape)[0]
    parts = continuations.parts_of(basis, haar)
    streams = measured.patching.streams[:, :, site]
    return {
        "of": best,
        "site": site,
        "k": len(basis),
        "judged": len(design.part(half)),
        "donors": designs.FEW,
        "rivals": own.rivals(weights),
        "ablation": own.ablation(),
        "sweep_k": own.sweep_k(),
        "sweep_site": own.sweep_site(swept),
        "same_problem": own.same_problem(),
        "generated": continuations.continuations(
            study, rung.problems, design, streams, site, parts, MAX_NEW_TOKENS, half
        ),
    }


def problem_counts(row: dict, rung: ladder.Rung, design: designs.Design) -> dict:
    """How many problems there are, and how they are parted."""
    counts = {key: row[key] for key in ("asked", "solved", "everywhere", "left_out_as_fitted", "answers")}
    for half in designs.HALVES:
        mine = [problem for problem in rung.usable if (problem in design.halved) == (half == "development")]
        counts[half] = {"problems": len(mine), "answers": len({rung.problems[problem].answer for problem in mine})}
        counts[half]["scored"] = len(design.part(half))
    counts["fitted_answers"] = len({rung.problems[problem].answer for problem in design.fits})
    return {"problems": counts, "usable": rung.usable.tolist()}


def described(measured: dissociation.Measured, rung: ladder.Rung) -> dict:
    """Where the full swap carries what, the orders of the scores' axes, and what a page says of the design."""
    design, known, curve = measured.design, measured.design.known, measured.curve
    recipients = [
        {"id": rung.problems[problem].id, "problem": int(problem), "answer_place": int(place),
         "answer": str(rung.problems[problem].answer), "half": designs.HALVES[0 if development else 1]}
        for problem, place, development in zip(design.scored, design.places, design.development)
    ]  # fmt: skip
    tree, columns = engine.AnswerTree(known.tokens, "cpu"), len(known.tokens)
    answer_set = {"answers": [str(answer) for answer in known.answers], "languages": known.languages}
    answer_set |= {"tokens": known.tokens, "columns": columns, "nodes": len(tree.depth), "mass": measured.patching.mass}
    counts = {"block": designs.BLOCK, "few": designs.FEW, "most": designs.MOST, "drawn": dissociation.DRAWN}
    counts |= {"resamples": dissociation.RESAMPLES, "draws": dissociation.DRAWS, "worth": dissociation.WORTH}
    return {
        "carriers": measured.carriers,
        "maxima": measured.maxima,
        "curve": [curve[site] for site in sorted(curve)],
        "conditions": measured.conditions,
        "pairs": len(known.languages) ** 2 * int(design.blocks.sum()),
        "recipients": recipients,
        "blocks": [np.flatnonzero(row).tolist() for row in design.blocks],
        "few": [np.flatnonzero(row).tolist() for row in design.few],
        "answer_set": answer_set,
        "design": counts | {"full_draws": measured.full_draws},
    }


def prompts(study: Study, rung: ladder.Rung) -> list[dict]:
    """Every prompt of the rung, for phase 3b; `begins`: the first token of its answer in that language, None without one."""
    known, lines = rung.known, []
    for number, language in enumerate(study.names):
        for place, problem in enumerate(rung.problems):
            line = {"language": language, "problem": place, "id": problem.id, "category": problem.category}
            column = known.place(problem) * len(study.names) + number
            line |= {"answer": str(problem.answer), "begins": known.tokens[column][0] if column >= 0 else None}
            lines.append(line | {"prompt": rung.prompt(study, language, place)})
    return lines


if __name__ == "__main__":
    runs.run_script(main)
