"""Ablation: does removing the language subspace make the model reason better, and what else does it damage?

Question   arXiv 2505.15257 subtracts the part of the residual stream inside a language subspace M_s, h <- h - λ M_sᵀ M_s h,
           in middle layers, and adds it again (negative λ) in upper layers, and reports better reasoning. Does it here, on
           held-out answers, beside random directions that change the stream as much, and beside what it does to plain text?
           And is the answer still right when all but Z is taken away at the last position, its language's mean put there?
Inputs     a model; parallel problems with answers in words: the kind of data/ with most room on both sides (or the model
           folder's problems.jsonl, or --problems); output/phase2_results.json, phase2_z_basis.npy; of phase3_results.json,
           where it is there, what was solved
Outputs    output/ablation_output.md with figures, ablation_results.json, ablation_samples.jsonl (a line per free answer)
Run        python ablation.py --model Qwen/Qwen2.5-3B          after phase2_z_extraction.py

Steps, which are also the report's headings:
1 problems   2 language subspaces   3 strengths, chosen on the development half   4 answers under the edits
5 random directions that change as much   6 output language   7 free answers
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

import utils
import verdicts
from lab import checkpoints, commands, edits, ladder, models, progress, questions, room, runs, statistics, subspaces
from reports import ablation as page

ARRAYS = ("ablation_samples.jsonl",)
REPORT = runs.Report(__file__, "ablation", ARRAYS, verdicts.ablation, page)
RUNGS = ("words", "sums", "successor", "reasoning", "antonyms")  # of data/, the hardest first
# the rung whose share right is nearest to 20 to 80 % is taken, of equals the hardest; an edit costs the same on all problems
WANTED = room.Wanted(low=0.2, high=0.8, precheck=24, most=24, least=4)
# The paper searches 0.1 to 0.4 on both; 1 removes all of it; 0 runs through every edit and must change nothing.
STRENGTHS = (0.0, 0.2, 0.4, 1.0)
REINJECTIONS = (0.2, 0.4)
COMPLETE = STRENGTHS[-1]
# of the layers: language is removed from the middle and re-injected in the late; the paper's script has 10-19 and 20-27 of 28
THIRDS = ("early", "middle", "late")
ROLES = {  # what verdict and claims are about, named before looking: condition, place, scope, strength (None: the chosen one)
    "primary": ("language", "middle", "prefill", None),
    "complete": ("language", "middle", "prefill", COMPLETE),
    "nothing": ("language", "middle", "prefill", 0.0),
    "reinjected": ("language_reinjected", "middle", "prefill", None),
    "z_perp": ("z_perp", "z", "prefill", COMPLETE),
    "z_perp_last": ("z_perp", "z", "last", COMPLETE),
    "z_perp_mean": ("z_perp_mean", "z", "last", COMPLETE),
}
NULLS = {  # what stands beside a role, and how many draws: 20 are the fewest with which p can be below .05
    "primary": ("random", 20),
    "complete": ("random", 8),
    "z_perp": ("random_perp", 6),
    "z_perp_mean": ("random_perp", 20),
}
SOLVED, GUESSES = (
    6,
    0.05,
)  # fewest test problems right on which a loss can show, and p of guessing: else nothing is edited
SHUFFLES = 999  # of answers among problems, for what a model that guesses gets right
GENERATED = 12  # problems that are also answered freely
MAX_NEW_TOKENS = 12  # an answer in words


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    opening = questions.begin(REPORT, arguments, f"{RUNGS[0]}.jsonl", in_words=True)
    if opening is None:
        return
    z = subspaces.load_z(arguments.out, opening.folder)
    rungs = askable(questions.find_ladder(arguments, opening.folder, RUNGS), z, opening.languages, arguments.seed)
    earlier = solved_before(arguments.out, opening.folder, rungs)
    parts = layer_parts(opening.folder)
    run = opening.run(z=z.summary, ladder=[asked.settings for asked in rungs], earlier=earlier, **parts)
    if run is None:
        return
    model, tokenizer = questions.load_model(opening)
    study = Study(model, tokenizer, opening.languages, arguments.batch, z, parts, arguments.seed)
    # 1 problems
    rung, tried = room.choose_rung(study, rungs, WANTED, earlier, z.fitted_on, study.seeded("halves"))
    halves = room.ask_halves(study, rung, WANTED)
    results = {"tried": tried, "wanted": vars(WANTED), "rung": tried[rung.number]["rung"]}
    results["problems"] = problems = counts(rung, halves, opening.folder)
    results |= {"guessing": room.guessing(rung, sorted(sum(halves.values(), [])), SHUFFLES, study.seeded("guessing"))}
    results |= {
        "thirds": [{"name": name, "layers": part} for name, part in parts.items()],
        "texts": edits.TEXTS,
        "columns": len(rung.known.tokens),
        "languages": study.names,
    }
    results["measured"] = problems["solved"] >= SOLVED and results["guessing"]["p"] < GUESSES
    if not results["measured"]:
        results |= {"none": solved_unedited(rung, halves), **NOTHING}
        run.save(results, {ARRAYS[0]: b""})
        return
    # 2 language subspaces
    spaces, packed = prepare(study, rung, halves)
    results["subspaces"] = describe(study, rung, halves, spaces)
    # 3 strengths, chosen on the development half
    results["development"], chosen = try_strengths(packed["development"], spaces)
    # 4 answers under the edits, and 6 output language
    unedited, results["rows"], lengths = score(study, packed["test"], spaces, chosen)
    results["none"] = shares(study.names, unedited)
    # 5 random directions that change as much
    results["nulls"] = nulls(study, packed["test"], spaces, results["rows"], lengths, unedited)
    # 7 free answers
    results["free"], samples = answer_freely(study, rung, halves["test"], spaces, chosen)
    run.save(results, {ARRAYS[0]: runs.json_lines(samples)})


NOTHING = {"subspaces": [], "development": [], "rows": [], "nulls": [], "free": None}


def parse_arguments(argv: list[str] | None):
    return commands.parser(__doc__, asks_problems=True).parse_args(argv)


def layer_parts(folder: checkpoints.ModelFolder) -> dict[str, list[int]]:
    """The layers behind which the stream is edited, by third; UserError for a model of fewer layers than thirds."""
    if folder.layers < len(THIRDS):
        raise runs.UserError(f"{folder.name} has {folder.layers} layer(s): thirds of them need at least {len(THIRDS)}")
    ends = [third * folder.layers // len(THIRDS) for third in range(len(THIRDS) + 1)]
    return {name: list(range(*span)) for name, span in zip(THIRDS, zip(ends, ends[1:]))}


def askable(rungs: list[questions.Asked], z: subspaces.HandedZ, languages: dict, seed: int) -> list[questions.Asked]:
    """The rungs with enough problems in each half; UserError where none has, or where a Z's problems cannot be told."""
    if z.fitted_on and set(z.languages) != set(languages):
        raise runs.UserError(
            f"phase 2 fitted Z on problems asked in {' '.join(z.languages)}, which cannot be told from those asked in "
            f"{' '.join(languages)}: run both with the same --languages"
        )
    found, least = [], max(WANTED.least, len(languages))
    for asked in rungs:
        problems, fitted = ladder.parted(asked.problems, z.fitted_on)
        development = room.by_answer(problems, fitted, statistics.seeded(seed, "ablation: halves"))
        smaller = min(sum(development), len(development) - sum(development))
        if smaller >= least:
            found.append(asked)
    if not found:
        raise runs.UserError(
            f"{', '.join(map(str, asked.files))}: {len(asked.problems)} problem(s), of which Z was fitted on "
            f"{len(asked.problems) - len(problems)} that are left out, give {smaller} to the smaller half; at least {least} "
            "are needed: give others with --problems"
        )
    return found


def solved_before(out, folder: checkpoints.ModelFolder, rungs: list[questions.Asked]) -> dict[str, list[int]]:
    """{rung: (right, prompts)} of what phase 3 asked unpatched, where it is there and asked the same."""
    if not (out / "phase3_results.json").exists():
        return {}
    phase3 = runs.load_results(out, "phase3", folder.identity)
    asked = [runs.significant(asked.settings) for asked in rungs]
    with runs.as_written(out, "phase3"):
        if not all(settings in phase3["settings"]["ladder"] for settings in asked):
            return {}
        rows = {row["rung"]: row for row in phase3["tried"] if row["asked"]}
        return {name: [sum(row["solved"].values()), row["asked"] * len(row["solved"])] for name, row in rows.items()}


@dataclass(frozen=True)
class Setting:
    """What is edited, behind which layers, at which positions and how strongly."""

    condition: str
    place: str | None = None  # a third of the layers, or Z's own site
    scope: str | None = None
    strength: float = 0.0
    reinjection: float = 0.0


@dataclass
class Study(ladder.Asker):
    """The model, what it is asked in, and where it is edited."""

    z: subspaces.HandedZ
    thirds: dict[str, list[int]]
    seed: int

    def seeded(self, label: str) -> torch.Generator:
        return statistics.seeded(self.seed, f"ablation: {label}")


def counts(rung: room.Rung, halves: dict, folder: checkpoints.ModelFolder) -> dict:
    """How many problems there are in each half, and how many of the test half are right unedited."""
    right = room.rightness(rung, halves["test"])
    found = {half: len(places) for half, places in halves.items()}
    found |= {f"{half}_answers": len({rung.problems[place].answer for place in halves[half]}) for half in halves}
    found |= {"width": folder.width, "layers": folder.layers, "fitted": len(rung.fitted), "left_out": rung.left_out}
    return found | {"room": int((~right.all(0)).sum()), "solved": int(right.any(0).sum())}


def solved_unedited(rung: room.Rung, halves: dict) -> dict:
    """The unedited shares where nothing else is measured."""
    right, languages = room.rightness(rung, halves["test"]), len(rung.known.languages)
    written = [[rung.found[one, place][0] % languages for place in halves["test"]] for one in range(languages)]
    kept = np.array(written) == np.arange(languages)[:, None]
    found = {"accuracy": share(right), "kept": share(kept), "moved": share(~kept)}
    return found | {"accuracy_by_language": dict(zip(rung.known.languages, right.mean(1).tolist()))}


def prepare(study: Study, rung: room.Rung, halves: dict) -> tuple["Subspaces", dict[str, edits.Packed]]:
    """The language subspaces of the development half, and both halves run once."""
    streams = halved_streams(rung, halves["development"])
    bases = language_bases(streams).float()
    sites = [layer + 1 for part in study.thirds.values() for layer in part]
    firsts = sorted({study.z.site, *(part[0] + 1 for part in study.thirds.values())})
    packed = {
        half: edits.Packed(
            study, rung.asked.exemplars, [rung.problems[place] for place in places], rung.known,
            sites if half == "development" else firsts,
        )
        for half, places in halves.items()
    }  # fmt: skip
    means = edits.mean_coordinates(packed["development"], bases, sites)
    for _ in packed["test"].unedited():
        pass
    shuffled = shuffled_bases(streams, study.seeded("shuffled languages")).float()
    last = streams[:, :, study.z.site].mean(1).float()
    return Subspaces(study.z, study.thirds, bases, shuffled, means, last), packed


def halved_streams(rung: room.Rung, places: list[int]) -> torch.Tensor:
    """Unedited streams at the last position: (languages, problems, sites, d) float64."""
    rows = range(len(rung.known.languages))
    return torch.stack([torch.stack([rung.found[row, place][2] for place in places]) for row in rows]).double()


def language_bases(streams: torch.Tensor) -> torch.Tensor:
    """M_s of every site: (languages, problems, sites, d) -> (sites, languages - 1, d)."""
    return utils.language_space(streams.movedim(2, 0))


def shuffled_bases(streams: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """M_s of made-up languages, each with the same number of prompts of every language: (sites, languages - 1, d).

    A free shuffle is off balance by chance, and the means of its groups then differ along the language direction again.
    """
    languages, problems = streams.shape[:2]
    size = problems // languages
    groups = []
    for own in streams:
        order = torch.randperm(problems, generator=generator)[: size * languages]
        groups.append(own[order].unflatten(0, (languages, size)))
    return language_bases(torch.cat(groups, 1))


@dataclass
class Subspaces:
    """What can be removed, and where."""

    z: subspaces.HandedZ
    thirds: dict[str, list[int]]
    language: torch.Tensor  # (sites, languages - 1, d) float32
    shuffled: torch.Tensor  # the same of made-up languages
    means: torch.Tensor  # (sites, languages, languages - 1) mean coordinates in `language`
    last: torch.Tensor  # (languages, d) mean stream of the last position at Z's site

    def sites(self, place: str) -> list[int]:
        """The site of layer l's output is l + 1."""
        return [layer + 1 for layer in self.thirds[place]]

    def edits(self, setting: Setting) -> dict[int, edits.Edit]:
        """Site -> edit."""
        condition, strength = setting.condition, setting.strength
        if condition == "z_perp":
            return {self.z.site: edits.Edit(self.z.basis, strength, complement=True)}
        if condition == "z_perp_mean":
            return {self.z.site: edits.Edit(self.z.basis, strength, complement=True, toward=self.last)}
        bases, toward = self.language, None
        if condition == "shuffled":
            bases = self.shuffled
        elif condition == "language_mean":
            toward = self.means.mean(1, keepdim=True).expand_as(self.means)
        elif condition == "own_mean":
            toward = self.means
        found = {
            site: edits.Edit(bases[site], strength, toward=None if toward is None else toward[site])
            for site in self.sites(setting.place)
        }
        if condition == "language_reinjected":
            found |= {site: edits.Edit(bases[site], -setting.reinjection) for site in self.sites("late")}
        return found


def describe(study: Study, rung: room.Rung, halves: dict, spaces: Subspaces) -> list[dict]:
    """Per layer: what share of the stream M_s holds, and whether other problems give the same M_s.

    The projection is not centred, so what M_s holds is partly the same in all languages: `common`.
    """
    streams = halved_streams(rung, halves["development"])
    squares = streams.square().sum(-1)  # (languages, problems, sites)

    def held(bases: torch.Tensor) -> torch.Tensor:
        """Mean share of the squared norm. (sites, r, d) -> (sites,)"""
        inside = torch.einsum("lpsd,srd->lpsr", streams, bases.double()).square().sum(-1)
        return (inside / squares.clamp_min(torch.finfo(squares.dtype).tiny)).mean((0, 1))

    coordinates = torch.einsum("lpsd,srd->lpsr", streams, spaces.language.double())
    whole = coordinates.square().sum(-1).mean((0, 1)).clamp_min(torch.finfo(squares.dtype).tiny)
    halved = [language_bases(streams[:, start::2]) for start in (0, 1)]
    columns = {
        "share": held(spaces.language),
        "common": coordinates.mean((0, 1)).square().sum(-1) / whole,
        "shuffled_share": held(spaces.shuffled),
        "stability": utils.grassmann_similarity(*halved),
    }
    layers = [(layer, third) for third, part in study.thirds.items() for layer in part]
    return [
        {"layer": layer, "third": third} | {name: float(values[layer + 1]) for name, values in columns.items()}
        for layer, third in layers
    ]


def try_strengths(packed: edits.Packed, spaces: Subspaces) -> tuple[list, dict[str, Setting]]:
    """(a row per setting, the chosen setting by condition): by the mean log-odds of the right answer on the development half.

    Re-injection is searched at the strength chosen for `language`, so that the two differ by re-injection alone.
    """
    unedited = packed.ask({})
    rows = [asdict(Setting("none")) | outcome_row(unedited) | {"chosen": False}]
    chosen, _, *scope = {}, *ROLES["primary"][:3]
    for condition in ("language", "language_reinjected"):
        if condition == "language":
            tried = [Setting(condition, *scope, strength) for strength in STRENGTHS if strength]
        else:
            tried = [replace(chosen["language"], condition=condition, reinjection=amount) for amount in REINJECTIONS]
        found = []
        for setting in progress.steps(tried, f"development half, {condition}", "edit"):
            found.append(outcome_row(packed.ask(spaces.edits(setting), setting.scope, mass=False)))
        best = max(range(len(tried)), key=lambda place: found[place]["odds"])  # of equals the weakest
        chosen[condition] = tried[best]
        rows += [asdict(one) | row | {"chosen": one == tried[best]} for one, row in zip(tried, found)]
    return rows, chosen


def outcome_row(outcome: edits.Outcome) -> dict:
    """Means over all prompts: `accuracy` and `kept` as shares, `odds` and `text` in nats."""
    odds, text = (float(values.mean()) for values in (outcome.odds, outcome.text))
    return {"accuracy": share(outcome.right), "kept": share(outcome.kept), "odds": odds, "text": text}


def share(values: np.ndarray) -> float:
    return float(values.mean())


def settings(chosen: dict[str, Setting]) -> Iterator[Setting]:
    """Everything that is tried on the test half."""
    best = chosen["language"]
    both = sorted({best.strength, COMPLETE})
    yield from (replace(best, strength=strength) for strength in STRENGTHS)
    yield from (Setting("language", third, best.scope, one) for third in ("early", "late") for one in both)
    yield from (replace(best, scope="last", strength=strength) for strength in both)
    yield chosen["language_reinjected"]
    yield from (replace(best, condition=condition, strength=COMPLETE) for condition in ("language_mean", "own_mean"))
    yield from (replace(best, condition="shuffled", strength=strength) for strength in both)
    yield from (Setting("z_perp", "z", scope, COMPLETE) for scope in reversed(edits.SCOPES))
    yield Setting("z_perp_mean", "z", "last", COMPLETE)


def score(study: Study, packed: edits.Packed, spaces: Subspaces, chosen: dict) -> tuple[edits.Outcome, list, dict]:
    """(the unedited outcome, a row per setting, by role how long its changes are).

    Holm's correction runs over the log-odds of all rows but the primary one and λ = 0.
    """
    unedited, rows, lengths = packed.ask({}), [], {}
    for setting in progress.steps(list(settings(chosen)), "test half", "edit"):
        outcome = packed.ask(spaces.edits(setting), setting.scope)
        mine = roles(setting, setting in chosen.values())
        labels = {"chosen": setting in chosen.values(), "roles": mine}
        lengths |= dict.fromkeys(mine, outcome.lengths)
        rows.append(asdict(setting) | labels | compare(study, outcome, unedited))
    others = [row for row in rows if row["strength"] and "primary" not in row["roles"]]
    for row, adjusted in zip(others, statistics.holm([row["odds"]["p"] for row in others])):
        row["odds"]["p_holm"] = adjusted
    return unedited, rows, lengths


def roles(setting: Setting, chosen: bool) -> list[str]:
    """What the verdict and the claims take a setting for."""
    return [
        role
        for role, (*where, strength) in ROLES.items()
        if [setting.condition, setting.place, setting.scope] == where
        and (chosen if strength is None else setting.strength == strength)
    ]


def shares(names: list[str], outcome: edits.Outcome) -> dict:
    result = outcome_row(outcome) | {"moved": share(~outcome.kept), "mass": share(outcome.mass)}
    return result | {"accuracy_by_language": dict(zip(names, outcome.right.mean(1).tolist()))}


def compare(study: Study, outcome: edits.Outcome, unedited: edits.Outcome) -> dict:
    """Shares under one edit and its paired differences from the unedited run.

    Problems are the units, since a problem's prompts in several languages are not independent: McNemar's test counts
    problems with more right answers than before against those with fewer. `odds`, `text`: of means over languages, nats.
    """
    result = shares(study.names, outcome)

    def change(name: str) -> np.ndarray:
        return getattr(outcome, name).mean(0).astype(float) - getattr(unedited, name).mean(0)

    def interval(values: np.ndarray) -> tuple[float, float]:
        return statistics.paired_interval([values], np.mean, study.seeded("bootstrap"), 9_999)

    for name, measure in (("difference", "right"), ("kept_difference", "kept")):
        values = change(measure)
        result |= {name: float(values.mean()), f"{name}_interval": interval(values)}
    gained, lost = (int((sign * change("right") > 0).sum()) for sign in (1, -1))
    result |= {"gained": gained, "lost": lost, "p": statistics.mcnemar_p(gained, lost)}
    for name in ("odds", "text"):
        values = change(name)
        low, high = interval(values)
        sides = [statistics.sign_flip_p(sign * values, study.seeded("sign flips")) for sign in (1, -1)]
        p = min(1.0, 2 * min(sides)) if values.any() else 1.0
        result[name] = {"value": float(values.mean()), "low": low, "high": high, "p": p}
    return result | {"largest": float(np.abs(outcome.scores - unedited.scores).max())}


def nulls(study: Study, packed: edits.Packed, spaces: Subspaces, rows: list, lengths: dict, unedited) -> list[dict]:
    """What random directions do that change the stream as much as a role's edit does, at every place; a row for each role."""
    found = []
    for role, (name, draws) in NULLS.items():
        row = next(row for row in rows if role in row["roles"])
        changes = {measure: [] for measure in ("odds", "text", "accuracy", "kept")}
        for draw in progress.steps(range(draws), f"random directions beside {role}", "draw"):
            drawn = random_edits(study, spaces, role, name, draw, lengths)
            outcome, before = outcome_row(packed.ask(drawn, row["scope"], mass=False)), outcome_row(unedited)
            for measure, values in changes.items():
                values.append(outcome[measure] - before[measure])
        own = {"odds": row["odds"]["value"], "text": row["text"]["value"]}
        own |= {"accuracy": row["difference"], "kept": row["kept_difference"]}
        records = {measure: statistics.null_record(values, own[measure]) for measure, values in changes.items()}
        fall = statistics.null_record(changes["odds"], own["odds"], low_counts=True)["p"]
        found.append({"role": role, "null": name, "p_fall": fall, "tested": own, "changes": changes} | records)
    return found


def random_edits(study: Study, spaces: Subspaces, role: str, name: str, draw: int, lengths: dict) -> dict:
    """M_s turned by a random rotation, with changes as long as its own; or all but a random subspace of Z's size."""
    generator = study.seeded(f"{name} {role} {draw}")
    if name == "random_perp":
        (basis,) = utils.random_subspaces(generator, 1, *spaces.z.basis.shape)
        toward = spaces.last if role == "z_perp_mean" else None
        return {spaces.z.site: edits.Edit(basis.float(), COMPLETE, complement=True, toward=toward)}
    sites = spaces.sites("middle")
    bases = edits.turned(spaces.language[sites], generator)
    return {site: edits.Matched(basis, lengths[role]) for site, basis in zip(sites, bases)}


def answer_freely(
    study: Study, rung: room.Rung, places: list[int], spaces: Subspaces, chosen: dict
) -> tuple[dict, list]:
    """Greedy answers without an edit and under the primary one, which then acts on every token, as in the paper; samples."""
    problems = [rung.problems[place] for place in room.spaced(places, GENERATED)]
    asked = [(language, problem) for language in study.names for problem in problems]
    texts = [questions.prompt_text(problem, name, study.languages, rung.asked.exemplars) for name, problem in asked]
    found, samples = {"problems": len(problems)}, []
    for name, setting in (("none", None), ("primary", chosen["language"])):
        edited = {site: edit.of for site, edit in spaces.edits(setting).items()} if setting else {}
        with models.edited_stream(study.model, edited, "all"):
            outputs = models.generate(study.model, study.tokenizer, texts, MAX_NEW_TOKENS, study.batch)
        mine = []
        for (language, problem), output in zip(asked, outputs):
            extracted, right = questions.grade(problem, output, language)
            written = questions.answer_language(output, problem, study.languages, rung.problems)
            mine.append(
                {"edit": name, "id": problem.id, "language": language, "output": output, "extracted": extracted}
            )
            mine[-1] |= {"correct": right, "written_in": written}
        kept = [sample["written_in"] == sample["language"] for sample in mine]
        found[name] = {"accuracy": float(np.mean([sample["correct"] for sample in mine])), "kept": float(np.mean(kept))}
        samples += mine
    return found, samples


if __name__ == "__main__":
    runs.run_script(main)
