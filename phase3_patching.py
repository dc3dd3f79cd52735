"""Phase 3: does swapping Z move the answer and leave the language alone?

Question   the stream at the last prompt position gets the donor prompt's part inside Z, or outside Z: which answer comes
           out, in which language; where along depth can that be asked at all; and do random subspaces do the same?
Inputs     a model; parallel problems with answers in words: the hardest rung of data/ that the model solves (or the model
           folder's problems.jsonl, or --problems); output/phase2_results.json, phase2_z_basis.npy, phase2_layer_subspaces.npy
Outputs    output/phase3_output.md with figures, phase3_results.json, phase3_scores.npy (conditions, recipient language,
           recipients, donor language, donors, answers x languages), phase3_streams.npy (languages, problems, sites, d): the
           unpatched stream at the last prompt position, phase3_prompts.jsonl (a line per prompt)
Run        python phase3_patching.py --model Qwen/Qwen2.5-3B          after phase2_z_extraction.py

Steps, which are also the report's headings:
1 problems   2 where answer and language arrive   3 subspaces tested   4 how to read it
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

import utils
import verdicts
from lab import answers, checkpoints, engine, ladder, models, questions, runs, statistics, subspaces, swaps, transfer
from reports import phase3 as page

ARRAYS = ("phase3_scores.npy", "phase3_streams.npy", "phase3_prompts.jsonl")
REPORT = runs.Report(__file__, "phase3", ARRAYS, verdicts.phase3, page)
RUNGS = ("words", "sums", "successor", "reasoning", "antonyms")  # of data/, the hardest first; numbers, then words
NEEDED = ladder.Needed(problems=20, answers=16, mass=0.5, precheck=24, least=0.75)
MOST = 20  # problems of each half that are patched: a condition costs the same on all of them; fits use the others too
BLOCK = 8  # donors of a recipient, with different answers
FEW = 2  # of these, for the curve over sites, for choices, and for draws: the fewest that are each other's contrast
FEWEST = 5  # problems to judge on, and answers to fit on: of fewer nothing follows
DRAWN = 10  # recipients of a random subspace: a draw needs no interval of its own
COARSE = 2  # the curve's step, refined where it crosses what a carrier needs
RESAMPLES = 2000
DRAWS, FULL_DRAWS = 20, 120  # Haar subspaces: for every Z; for a Z that is worth a p (6/121 < .05)
WORTH = 0.25  # coverage from which on: half of what a dissociation asks for
CHUNK = 10  # Haar subspaces in memory at once
MAX_NEW_TOKENS = 12  # an answer in words
HALVES = ("development", "test")


def main(argv: list[str] | None = None) -> None:
    arguments = runs.command_line(__doc__, asks_problems=True).parse_args(argv)
    opening = questions.begin(REPORT, arguments, f"{RUNGS[0]}.jsonl", in_words=True)
    if opening is None:
        return
    rungs = questions.find_ladder(arguments, opening.folder, RUNGS)
    z = subspaces.load_z(arguments.out, opening.folder)
    if z.fitted_on and set(z.languages) != set(opening.languages):
        raise runs.UserError(
            f"phase 2 fitted Z on problems asked in {' '.join(z.languages)}, which cannot be told from those asked in "
            f"{' '.join(opening.languages)}: run both with the same --languages"
        )
    handed = {"layer_chosen": z.chosen, "weights": pointed(arguments.out, opening.folder, z)}
    run = opening.run(handed, z=z.summary, ladder=[asked.settings for asked in rungs])
    if run is None:
        return
    model, tokenizer = questions.load_model(opening)
    study = Study(model, tokenizer, opening.languages, arguments.batch, z, arguments.seed)
    rung, tried = ladder.choose_rung(study, rungs, NEEDED, z.fitted_on)
    results = {"tried": tried, "needed": vars(NEEDED), "sites": opening.folder.layers + 1}
    results |= {"width": opening.folder.width, "languages": study.names, "rung": rung and tried[-1]["rung"]}
    if rung is None:
        results |= {"unsolved": unsolved(study, rungs, tried)} | NOTHING
        run.save(results, dict(zip(ARRAYS, no_arrays(len(study.names), opening.folder))))
        return
    design = make_design(study, rung)
    patching = make_patching(study, design)
    curve = site_curve(study, design, patching)
    carriers = transfer.carriers([curve[site] for site in sorted(curve)])
    measured = Measured(study, design, patching, curve, carriers)
    tested = {candidate.name: measured.test(candidate) for candidate in candidates(study, rung, design)}
    family = [row for row in tested.values() if row.get("p") is not None]
    for row, p in zip(family, statistics.holm([row["p"] for row in family])):
        row["p_holm"] = p
    results |= (
        problem_counts(tried[-1], rung, design)
        | described(design, rung, patching.mass)
        | {"carriers": carriers, "maxima": measured.maxima}
    )
    results |= {"curve": [curve[site] for site in sorted(curve)], "tested": tested, "unsolved": None}
    results |= {"conditions": measured.conditions, "pairs": len(study.names) ** 2 * int(design.blocks.sum())}
    arrays = (np.concatenate(measured.scores), rung.streams.numpy(), runs.json_lines(prompts(study, rung)))
    run.save(results, dict(zip(ARRAYS, arrays)))


NOTHING = {"tested": {}, "pairs": 0, "usable": [], "carriers": {"answer": [], "language": [], "joint": []}}


@dataclass
class Study(ladder.Asker):
    """The model, what it is asked in, and what all measurements share."""

    z: subspaces.HandedZ
    seed: int

    def seeded(self, label: str) -> torch.Generator:
        return statistics.seeded(self.seed, f"phase3: {label}")


def pointed(out, folder: checkpoints.ModelFolder, z: subspaces.HandedZ) -> dict:
    """Where the weights point: the layer that phase 2 used, and the lowest of all layers where 1.py ran."""
    lowest = None
    if (out / "one_results.json").exists():
        lowest = runs.load_results(out, "one", folder.identity)["bottleneck"]["lowest"]["layer"]
    return {"inner": z.bottleneck, "lowest": lowest}


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
    if not questions.grade(problem, output, language)[1]:
        return "wrong"
    return "words" if problem.answer_text[language].casefold() in output.casefold() else "digits"


def no_arrays(languages: int, folder: checkpoints.ModelFolder) -> tuple:
    """The arrays of a run that measured nothing."""
    scores = np.zeros((0, languages, 0, languages, 0, 0), np.float32)
    return scores, np.zeros((languages, 0, folder.layers + 1, folder.width), np.float32), b""


@dataclass
class Design:
    """The problems that are patched, and who gives to whom: recipients and donors are one list, of two halves."""

    scored: np.ndarray  # places among the rung's problems
    development: np.ndarray  # (scored,) bool; the others are the test half
    halved: np.ndarray  # places of all problems of the development half
    fits: (
        np.ndarray
    )  # places of development problems that share no first token with a test answer: what is fitted sees these
    known: answers.AnswerSet
    places: np.ndarray  # (scored,) each problem's answer in `known`
    prompts: list[list[str]]  # (languages, scored)
    blocks: np.ndarray  # (scored, scored) bool: a recipient's donors, of its half
    few: np.ndarray  # FEW of them, with different answers
    unseen: np.ndarray  # (scored,) bool: test problems with answers on which the Z handed on was not fitted

    def part(self, half: str) -> np.ndarray:
        """Places of a half, of its `unseen` part, or of `all`, among the scored problems."""
        mine = {"development": self.development, "test": ~self.development, "unseen": self.unseen}
        return np.flatnonzero(mine[half]) if half in mine else np.arange(len(self.scored))


def make_design(study: Study, rung: ladder.Rung) -> Design:
    """Halves by answer; of each the first MOST problems are patched, every one with a block of donors of its half.

    Patched are answers that their first token tells apart, where enough are: later tokens of an answer read the recipient's
    question again, which no swap at the last position changes. Fits use all answers.
    """
    solved = rung.usable
    numbers = np.array([rung.known.place(rung.problems[problem]) for problem in solved])
    at_once = np.isin(numbers, rung.known.at_once(numbers.tolist()))
    if at_once.sum() < NEEDED.problems or len(set(numbers[at_once])) < NEEDED.answers:
        at_once[:] = True
    development = np.zeros(len(solved), bool)
    for part, label in ((at_once, "halves"), (~at_once, "halves of the others")):
        development[part] = swaps.halves(numbers[part].tolist(), study.seeded(label))
    halves = (at_once & development, at_once & ~development)
    chosen = np.sort(np.concatenate([np.flatnonzero(half)[:MOST] for half in halves]))
    problems = [rung.problems[problem] for problem in solved[chosen]]
    known = answers.answer_set(study.tokenizer, problems, study.languages)
    places = np.array([known.place(problem) for problem in problems])
    blocks = np.zeros((len(chosen), len(chosen)), bool)
    for half in (development[chosen], ~development[chosen]):
        part = np.flatnonzero(half)
        blocks[np.ix_(part, part)] = transfer.donor_blocks(places[part], study.seeded("donors"), BLOCK)
    texts = [[rung.prompt(study, language, problem) for problem in solved[chosen]] for language in study.names]
    seen = np.array([str(problem.answer) in study.z.fitted_answers for problem in problems])
    unseen = ~development[chosen] & ~seen
    fits = unshared(rung, solved[development], solved[chosen][~development[chosen]])
    few = few_donors(blocks, places, study.seeded("few donors"))
    return Design(
        solved[chosen], development[chosen], solved[development], fits, known, places, texts, blocks, few, unseen
    )


def unshared(rung: ladder.Rung, fits: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Of the problems to fit on those whose answers begin with no token that an answer to be tested begins with."""
    languages = len(rung.known.languages)

    def first(problem: int) -> set[int]:
        place = rung.known.place(rung.problems[problem])
        return {tokens[0] for tokens in rung.known.tokens[place * languages : (place + 1) * languages]}

    taken = set().union(*map(first, test))
    return np.array([problem for problem in fits if not first(problem) & taken], int)


def few_donors(blocks: np.ndarray, places: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """FEW donors of every block, with different answers: a pair of one answer is no contrast."""
    few = np.zeros_like(blocks)
    for _ in range(FEW):
        taken = few.astype(int) @ (places[:, None] == places) > 0  # donors whose answer is there already
        few |= transfer.one_donor_each(blocks & ~taken, generator)
    return few


def make_patching(study: Study, design: Design) -> swaps.Patching:
    groups = [design.part(half) for half in HALVES]
    return swaps.Patching(study.model, study.tokenizer, design.prompts, design.known.tokens, study.batch, groups)


def effects(design: Design, scores: np.ndarray, half: str, donors: np.ndarray) -> transfer.Effects:
    """The part of the scores (m, b, R, a, N, columns) that a half's recipients and donors have; donors are contrasts."""
    part, languages = design.part(half), len(design.known.languages)
    own = scores[:, :, part][:, :, :, :, part]
    own = own.reshape(*own.shape[:-1], -1, languages)
    return transfer.effects(own, design.places[part], donors[part][:, part])


def within(design: Design, half: str, most: int | None = None) -> np.ndarray:
    """Few donors for the recipients of a half; with `most` for so many of these, evenly spaced."""
    part = design.part(half)
    chosen = part if most is None else part[np.unique(np.linspace(0, len(part) - 1, most).round().astype(int))]
    return design.few & np.isin(np.arange(len(design.few)), chosen)[:, None]


def site_curve(study: Study, design: Design, patching: swaps.Patching) -> dict[int, dict]:
    """The full swap at every COARSE-th site and where the weights point, then between sites that carry and do not.

    On the development half, with few donors; {site: records of every measure}.
    """
    last, own = patching.streams.shape[2] - 1, study.z.bottleneck + 1
    donors, part = within(design, "development"), design.part("development")
    weights = transfer.resamples(len(part), RESAMPLES, study.seeded("resamples development"))
    samples = {}

    def measure(sites: Iterable[int]) -> list[dict]:
        for site in sites:
            effect = effects(design, patching.scores(site, donors), "development", donors)
            samples[site] = {name: values[0] for name, values in transfer.estimates(effect, weights).items()}
        return transfer.curve(samples)

    rows = measure(sorted({*range(0, last + 1, COARSE), last, own}))
    found, known = transfer.carriers(rows), [row["site"] for row in rows]
    crossed = [
        site
        for before, after in zip(known, known[1:])
        if any((before in found[kind]) != (after in found[kind]) for kind in ("answer", "language"))
        for site in range(before + 1, after)
    ]
    return {row["site"]: row for row in measure(crossed)}


@dataclass(frozen=True)
class Candidate:
    """A subspace that is tested. `basis(site)` gives it, (k, d); without a site it is tested at its best joint carrier."""

    name: str
    method: str
    basis: Callable[[int], torch.Tensor]
    layer: Callable[[int], int | None]  # whose weights it comes from, at a site
    judged_on: str = "test"
    site: int | None = None


def candidates(study: Study, rung: ladder.Rung, design: Design) -> list[Candidate]:
    """The subspaces tested, one Holm family; the first is the primary one, neither fitted nor chosen."""
    z = study.z
    predicted, k = z.every_layer[z.bottleneck], z.every_layer.shape[1]
    streams = rung.streams[:, design.fits]
    numbers = [rung.known.place(rung.problems[problem]) for problem in design.fits]
    found = [
        Candidate("weights", "weight", lambda _: predicted, lambda _: z.bottleneck, "all", z.bottleneck + 1),
        Candidate("weights_at_carrier", "weight", lambda _: predicted, lambda _: z.bottleneck),
        Candidate("best_layer", "weight", lambda site: z.every_layer[site - 1], lambda site: site - 1),
    ]
    if not z.predicted:
        judged = "unseen" if z.fitted_answers else "test"
        handed = Candidate("handed", z.summary["method"], lambda _: z.basis, lambda _: z.summary["layer"], judged)
        found.append(handed)
    if len(set(numbers)) > FEWEST:
        means = lambda site: swaps.answer_means(streams[:, :, site], numbers, k)  # noqa: E731
        found.append(Candidate("answer_means", "answer_means", means, lambda _: None))
    return found


@dataclass
class Measured:
    """Tests subspaces where the full swap carries something, and keeps every score that a test rests on."""

    study: Study
    design: Design
    patching: swaps.Patching
    curve: dict[int, dict]
    carriers: dict[str, list[int]]
    scores: list[np.ndarray] = field(default_factory=list)  # (1, b, R, a, N, columns) of every condition
    conditions: list[dict] = field(default_factory=list)
    whole: dict[tuple, np.ndarray] = field(default_factory=dict)  # the full swap's scores with some donors at a site
    drawn: dict[tuple, dict] = field(default_factory=dict)  # Haar subspaces' points by (site, k, half, draws)

    @property
    def maxima(self) -> dict[str, float]:
        """The full swap's largest effects over sites."""
        return {name: max(row[name]["value"] for row in self.curve.values()) for name in ("t_same", "g")}

    def test(self, candidate: Candidate) -> dict:
        """A subspace's profile and its null, or why there is none."""
        row = {"method": candidate.method, "judged_on": candidate.judged_on}
        row["judged"] = len(self.design.part(candidate.judged_on))
        if row["judged"] < FEWEST:
            return row | {"unmeasured": "it was fitted on these answers"}
        site = self.best_site(candidate) if candidate.site is None else candidate.site
        if site is None:
            return row | {"unmeasured": "no joint carrier"}
        basis, place = candidate.basis(site).float(), self.place(site)
        row |= {"layer": candidate.layer(site), "site": site, "k": len(basis), "place": place}
        row |= self.size(site, basis)
        if place == "none":
            full = {name: self.curve[site][name] for name in ("t_same", "g")}
            return row | {"unmeasured": "the full swap carries nothing here", "full": full}
        full = self.keep("full", candidate.name, site, None)
        inside, outside = (self.keep(name, candidate.name, site, basis) for name in ("z", "complement"))
        row |= self.profile(inside, outside, full, candidate.judged_on)
        row["full"] = {name: self.samples(full, candidate.judged_on, record=name) for name in ("t_same", "g")}
        row["seen"] = None
        if candidate.judged_on != "all":
            seen = self.profile(inside, outside, full, "development")
            row["seen"] = {name: seen[name] for name in ("coverage", "d", "iia_cross")}
        return row | self.against_haar(row, inside, outside, full)

    def best_site(self, candidate: Candidate) -> int | None:
        """The joint carrier at which the subspace has the highest D on the development half, the earliest at a tie."""
        scored = {}
        for site in [site for site in self.carriers["joint"] if site]:
            donors = within(self.design, "development")
            points = self.points(site, candidate.basis(site).float()[None], "development", donors)
            scored[site] = round(float(points["d"][0]), 6)
        return max(scored, key=scored.get) if scored else None

    def place(self, site: int) -> str:
        """What the full swap carries at a site."""
        kinds = ("joint", "answer", "language")
        return next((kind for kind in kinds if site in self.carriers[kind]), "none")

    def size(self, site: int, basis: torch.Tensor) -> dict:
        """How much of the streams' variance within languages lies inside, and how many directions that variance uses."""
        centred = swaps.within_languages(self.patching.streams[:, :, site].cpu())
        share = utils.project(centred, basis.double()).square().sum() / centred.square().sum().clamp_min(1e-300)
        return {"within_share": float(share), "participation": swaps.participation_ratio(centred)}

    def keep(self, swap: str, name: str, site: int, basis: torch.Tensor | None) -> np.ndarray:
        """Scores of a condition on all scored problems; noted with the subspaces whose test rests on it."""
        for condition, scores in zip(self.conditions, self.scores):
            if swap == "full" and (condition["swap"], condition["site"]) == (swap, site):
                condition["tested"].append(name)
                return scores
        bases = None if basis is None else basis[None]
        self.scores.append(self.patching.scores(site, self.design.blocks, bases, swap == "complement"))
        self.conditions.append({"swap": swap, "tested": [name], "site": site})
        return self.scores[-1]

    def samples(self, scores: np.ndarray, half: str, record: str | None = None) -> dict:
        """Bootstrap samples of every measure of one condition; or the record of one of them."""
        weights = transfer.resamples(len(self.design.part(half)), RESAMPLES, self.study.seeded(f"resamples {half}"))
        found = transfer.estimates(effects(self.design, scores, half, self.design.blocks), weights)
        return transfer.record(found[record][0]) if record else {name: values[0] for name, values in found.items()}

    def profile(self, inside: np.ndarray, outside: np.ndarray, full: np.ndarray, half: str) -> dict:
        parts = (self.samples(scores, half) for scores in (inside, outside, full))
        return transfer.profile(*parts, self.maxima)

    def points(self, site: int, bases: torch.Tensor, half: str, donors: np.ndarray) -> dict[str, np.ndarray]:
        """Point estimates of several subspaces (m, k, d) with some of the donors, {name: (m,)}."""
        key = (site, donors.tobytes())
        if key not in self.whole:
            self.whole[key] = self.patching.scores(site, donors)
        inside, outside = (self.patching.scores(site, donors, bases, outside) for outside in (False, True))
        return self.point_ratios(self.whole[key], inside, outside, half, donors)

    def point_ratios(self, full, inside, outside, half: str, donors: np.ndarray) -> dict[str, np.ndarray]:
        full, inside, outside = (
            transfer.estimates(effects(self.design, scores, half, donors)) for scores in (full, inside, outside)
        )
        gain = inside["donor_recipient"] - full["donor_recipient"]
        return transfer.ratios(inside, outside, full) | {"iia_cross_gain": gain}

    def against_haar(self, row: dict, inside: np.ndarray, outside: np.ndarray, full: np.ndarray) -> dict:
        """D and coverage beside Haar subspaces of the size, some recipients with few donors: the null, kappa and p."""
        half, coverage = row["judged_on"], row["coverage"]["value"]
        own = self.point_ratios(full, inside, outside, half, within(self.design, half, DRAWN))
        own = {name: None if row["d"]["value"] is None else float(values[0]) for name, values in own.items()}
        found = {"drawn": own, "haar": None, "haar_iia_cross_gain": None, "haar_coverage": None, "kappa": None}
        found |= {"p": None, "p_holm": None}
        if row["place"] != "joint" or row["d"]["value"] is None:
            return found
        haar = self.haar(row["site"], row["k"], half, FULL_DRAWS if coverage >= WORTH else DRAWS)
        null = statistics.null_record(haar["d"], own["d"])
        gain = statistics.null_record(haar["iia_cross_gain"], own["iia_cross_gain"])
        found |= {"haar": null, "haar_iia_cross_gain": gain, "haar_coverage": float(haar["coverage"].mean())}
        return found | {"kappa": transfer.kappa(own["coverage"], haar["coverage"].tolist()), "p": null["p"]}

    def haar(self, site: int, k: int, half: str, draws: int) -> dict[str, np.ndarray]:
        """Point estimates of Haar subspaces, shared by all subspaces of that size at that place."""
        key = (site, k, half, draws)
        if key not in self.drawn:
            draw, width = self.study.seeded(f"Haar {site} {k}"), self.patching.streams.shape[-1]
            bases = torch.cat([utils.random_subspaces(draw, 1, k, width) for _ in range(draws)]).float()
            donors = within(self.design, half, DRAWN)
            parts = [self.points(site, chunk, half, donors) for chunk in bases.split(CHUNK)]
            self.drawn[key] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return self.drawn[key]


def problem_counts(row: dict, rung: ladder.Rung, design: Design) -> dict:
    """How many problems there are, and how they are parted."""
    counts = {key: row[key] for key in ("asked", "solved", "everywhere", "left_out_as_fitted", "answers")}
    for half in HALVES:
        mine = [problem for problem in rung.usable if (problem in design.halved) == (half == "development")]
        counts[half] = {"problems": len(mine), "answers": len({rung.problems[problem].answer for problem in mine})}
        counts[half]["scored"] = len(design.part(half))
    counts["fitted_answers"] = len({rung.problems[problem].answer for problem in design.fits})
    return {"problems": counts, "usable": rung.usable.tolist()}


def described(design: Design, rung: ladder.Rung, mass: float) -> dict:
    """The orders of the scores' axes, and what a page says of the design."""
    known = design.known
    recipients = [
        {"id": rung.problems[problem].id, "problem": int(problem), "answer_place": int(place),
         "answer": str(rung.problems[problem].answer), "half": HALVES[0 if development else 1]}
        for problem, place, development in zip(design.scored, design.places, design.development)
    ]  # fmt: skip
    tree = engine.AnswerTree(known.tokens, "cpu")
    return {
        "recipients": recipients,
        "blocks": [np.flatnonzero(row).tolist() for row in design.blocks],
        "answer_set": {"answers": [str(answer) for answer in known.answers], "languages": known.languages}
        | {"tokens": known.tokens}
        | {"columns": len(known.tokens), "nodes": len(tree.depth), "mass": mass},
        "design": {"block": BLOCK, "few": FEW, "drawn": DRAWN, "resamples": RESAMPLES, "draws": DRAWS, "most": MOST}
        | {"full_draws": FULL_DRAWS, "worth": WORTH},
    }


def prompts(study: Study, rung: ladder.Rung) -> list[dict]:
    """Every prompt of the rung, for phase 3b."""
    return [
        {"language": language, "problem": place, "id": problem.id, "prompt": rung.prompt(study, language, place)}
        for language in study.names
        for place, problem in enumerate(rung.problems)
    ]


if __name__ == "__main__":
    runs.run_script(main)
