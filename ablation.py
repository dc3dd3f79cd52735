"""Ablation: does removing the language subspace make the model reason better, and what does it do to the output language?

Question   arXiv 2505.15257 subtracts the part of the residual stream inside a language subspace M_s, h <- h - λ M_sᵀ M_s h,
           in middle layers, and adds it again (negative λ) in upper layers, and reports better reasoning. Does it here, on
           held-out problems, beside random subspaces? And is the answer still right when all but Z is removed?
Inputs     a model, parallel problems with answers in words (data/words.jsonl, or the model folder's problems.jsonl),
           output/phase2_results.json, phase2_z_basis.npy
Outputs    output/ablation_output.md with figures, ablation_results.json, ablation_samples.jsonl (a line per answer, but those
           under the nulls)
Run        python ablation.py --model Qwen/Qwen2.5-3B          after phase2_z_extraction.py

Steps, which are also the report's headings:
1 problems in two halves   2 language subspaces   3 strengths, chosen on the development half   4 answers on the test half
5 null subspaces   6 output language   7 sample answers
"""

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

import utils
import verdicts
from lab import checkpoints, engine, models, questions, runs, statistics, subspaces
from reports import ablation as page

ARRAYS = ("ablation_samples.jsonl",)
REPORT = runs.Report(__file__, "ablation", ARRAYS, verdicts.ablation, page)
CONDITIONS = ("language", "language_reinjected", "z_perp")
SCOPES = ("last", "prefill", "all")
# The paper searches 0.1 to 0.4 on both; 1 removes all of it. Without 0: a strength that does nothing is no ablation.
STRENGTHS = (0.2, 0.4, 1.0)
REINJECTIONS = (0.2, 0.4)
COMPLETE = STRENGTHS[-1]
PRIMARY_SCOPE = "prefill"  # the hypothesis about Z⊥ is judged in the primary's scope too
ROLES = {  # what verdict and claims are about, named before looking: condition, scope, strength (None: the chosen one)
    "primary": ("language", PRIMARY_SCOPE, None),
    "complete": ("language", PRIMARY_SCOPE, COMPLETE),
    "reinjected": ("language_reinjected", PRIMARY_SCOPE, None),
    "z_perp": ("z_perp", PRIMARY_SCOPE, COMPLETE),
    "z_perp_last": ("z_perp", "last", COMPLETE),
}
THIRDS = 3  # middle third removed, last third re-injected; the paper's script has layers 10-19 and 20-27 of 28
DRAWS = 19  # of each null of the primary: the fewest with which "above every draw" has p = 1/20
SIDE_DRAWS = 3  # of the other nulls, which are descriptive
TIE = 1e-9  # means of equal counts, summed in another order, differ by less
MINIMUM_PROBLEMS = 4  # in a half; as many as languages are needed to shuffle those
MAX_NEW_TOKENS = 12  # an answer in words


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    opening = questions.begin(REPORT, arguments, "words.jsonl", in_words=True)
    if opening is None:
        return
    z = subspaces.load_z(arguments.out, opening.folder)
    parts = layer_parts(opening.folder)
    development, test = split(opening.problems, z.fitted_on, arguments.seed, opening.files)
    run = opening.run(z=z.summary, **parts)
    if run is None:
        return
    model, tokenizer = questions.load_model(opening)
    study = Study(model, tokenizer, opening.languages, opening.exemplars, arguments.batch, arguments.seed)
    streams = study.last_streams(development)
    spaces = Subspaces(z, language_bases(streams).float(), **parts)
    fitted = sum(questions.problem_hash(problem) in z.fitted_on for problem in opening.problems)
    sizes = {"development": len(development), "test": len(test), "width": opening.folder.width, "fitted": fitted}
    results = {"problems": sizes, "scopes": SCOPES, "draws": {"primary": DRAWS, "side": SIDE_DRAWS}}
    results["subspaces"] = describe(spaces, streams, arguments.seed)
    samples, results["development"], chosen = try_strengths(study, spaces, development)
    tested, results["none"], results["rows"], base = score(study, spaces, test, chosen)
    results["nulls"] = nulls(study, spaces, streams, test, results["rows"], base)
    results |= {"room": int((~base["right"].all(0)).sum()), "solved": int(base["right"].any(0).sum())}
    run.save(results, {ARRAYS[0]: runs.json_lines(samples + tested)})


def parse_arguments(argv: list[str] | None):
    return runs.command_line(__doc__, asks_problems=True).parse_args(argv)


def layer_parts(folder: checkpoints.ModelFolder) -> dict[str, list[int]]:
    """Layers from which language is removed, and layers in which it is re-injected."""
    if folder.layers < THIRDS:
        raise runs.UserError(f"{folder.name} has {folder.layers} layer(s): a middle third needs at least {THIRDS}")
    first, second = folder.layers // THIRDS, 2 * folder.layers // THIRDS
    return {"middle": list(range(first, second)), "upper": list(range(second, folder.layers))}


def split(problems: list, fitted_on: set[str], seed: int, files: list) -> tuple[list, list]:
    """(development half, test half), at random; problems that Z was fitted on never come into the test half."""
    order = torch.randperm(len(problems), generator=statistics.seeded(seed, "ablation: halves")).tolist()
    order.sort(key=lambda index: questions.problem_hash(problems[index]) not in fitted_on)  # stable: fitted ones first
    fitted = sum(questions.problem_hash(problem) in fitted_on for problem in problems)
    size, least = max(len(problems) // 2, fitted), max(MINIMUM_PROBLEMS, len(problems[0].question))
    if len(problems) - size < least:
        raise runs.UserError(
            f"{', '.join(map(str, files))}: {len(problems)} problem(s), {fitted} of which Z was fitted on, leave "
            f"{len(problems) - size} to test on; at least {least} are needed: give others with --problems"
        )
    return tuple([problems[index] for index in sorted(part)] for part in (order[:size], order[size:]))


@dataclass(frozen=True)
class Setting:
    """What is removed, where and how strongly; the scope of no edit at all is None."""

    condition: str
    scope: str | None = None
    strength: float = 0.0
    reinjection: float = 0.0


@dataclass
class Study:
    """The model and how it is asked."""

    model: object
    tokenizer: object
    languages: dict
    exemplars: list
    batch: int
    seed: int

    def prompts(self, problems: list) -> list[str]:
        """Every problem in the first language, then every problem in the next."""
        return [
            questions.prompt_text(problem, language, self.languages, self.exemplars)
            for language in self.languages
            for problem in problems
        ]

    def ask(self, problems: list, edits: dict, scope: str | None) -> list[dict]:
        """A sample per prompt: the greedy answer under the edits, whether it is right, and its language."""

        def during(_):
            return models.edited_stream(self.model, {site: edit.of for site, edit in edits.items()}, scope)

        prompts = self.prompts(problems)
        outputs = models.generate(self.model, self.tokenizer, prompts, MAX_NEW_TOKENS, self.batch, during)
        asked = [(language, problem) for language in self.languages for problem in problems]
        samples = []
        for (language, problem), output in zip(asked, outputs):
            extracted, right = questions.grade(problem, output)
            sample = {"id": problem.id, "language": language, "output": output, "extracted": extracted}
            written_in = questions.answer_language(output, problem, self.languages, problems)
            samples.append(sample | {"correct": right, "written_in": written_in})
        return samples

    def last_streams(self, problems: list) -> torch.Tensor:
        """Streams at the last prompt position, (languages, problems, sites, d) float64 on the CPU."""
        streams = engine.last_streams(self.model, self.tokenizer, self.prompts(problems), self.batch)
        return streams.double().unflatten(0, (len(self.languages), len(problems)))

    def outcome(self, samples: list[dict]) -> dict[str, np.ndarray]:
        """(languages, problems) each: the answer is right; written in the language asked; in another one of them."""
        written = [(sample["written_in"], sample["language"]) for sample in samples]
        columns = {
            "right": [sample["correct"] for sample in samples],
            "kept": [script == language for script, language in written],
            "moved": [script not in (None, language) for script, language in written],
        }
        return {name: np.array(column, bool).reshape(len(self.languages), -1) for name, column in columns.items()}


@dataclass(frozen=True)
class Edit:
    """h <- h - strength · P h, with P the projection onto the rows of `basis`, or onto all that they leave out."""

    basis: torch.Tensor  # (k, d) orthonormal rows, float32
    strength: float  # 1 removes the part, a negative strength enlarges it
    complement: bool = False

    def of(self, stream: torch.Tensor) -> torch.Tensor:
        """The edited stream, (..., d) in its own dtype."""
        whole, basis = stream.float(), self.basis.to(stream.device)
        part = utils.outside(whole, basis) if self.complement else utils.project(whole, basis)
        return (whole - self.strength * part).to(stream)


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
    language: torch.Tensor  # (sites, languages - 1, d) float32
    middle: list[int]
    upper: list[int]

    def edits(self, setting: Setting) -> dict[int, Edit]:
        """Site -> edit. The site of layer l's output is l + 1."""
        if setting.condition == "none":
            return {}
        if setting.condition == "z_perp":
            return {self.z.site: Edit(self.z.basis, setting.strength, complement=True)}
        edits = {layer + 1: Edit(self.language[layer + 1], setting.strength) for layer in self.middle}
        if setting.condition == "language_reinjected":
            edits |= {layer + 1: Edit(self.language[layer + 1], -setting.reinjection) for layer in self.upper}
        return edits

    def null(self, name: str, draw: int, streams: torch.Tensor, seed: int) -> "Subspaces":
        """The same with a random Z (random_perp), random subspaces per layer, or those of shuffled languages."""
        generator, (sites, rank, width) = statistics.seeded(seed, f"ablation: {name} {draw}"), self.language.shape
        if name == "random_perp":
            (basis,) = utils.random_subspaces(generator, 1, len(self.z.basis), width)
            return replace(self, z=replace(self.z, basis=basis.float()))
        if name == "shuffled":
            return replace(self, language=shuffled_bases(streams, generator).float())
        return replace(self, language=utils.random_subspaces(generator, sites, rank, width).float())


def describe(spaces: Subspaces, streams: torch.Tensor, seed: int) -> list[dict]:
    """Per edited layer: what share of the stream M_s holds, and whether other problems give the same M_s.

    The projection is not centred, so what M_s holds is partly the same in all languages: `common`.
    """
    squares = streams.square().sum(-1)  # (languages, problems, sites)

    def held(bases: torch.Tensor) -> torch.Tensor:
        """Mean share of the squared norm. (sites, r, d) -> (sites,)"""
        inside = torch.einsum("lpsd,srd->lpsr", streams, bases.double()).square().sum(-1)
        return (inside / squares.clamp_min(torch.finfo(squares.dtype).tiny)).mean((0, 1))

    coordinates = torch.einsum("lpsd,srd->lpsr", streams, spaces.language.double())
    whole = coordinates.square().sum(-1).mean((0, 1)).clamp_min(torch.finfo(squares.dtype).tiny)
    common = coordinates.mean((0, 1)).square().sum(-1) / whole
    shuffled = [held(spaces.null("shuffled", draw, streams, seed).language) for draw in range(DRAWS)]
    halves = [language_bases(streams[:, start::2]) for start in (0, 1)]
    columns = {"share": held(spaces.language), "common": common, "shuffled_share": torch.stack(shuffled).mean(0)}
    columns["stability"] = utils.grassmann_similarity(*halves)
    layers = [(layer, "middle") for layer in spaces.middle] + [(layer, "upper") for layer in spaces.upper]
    return [
        {"layer": layer, "third": third} | {name: float(values[layer + 1]) for name, values in columns.items()}
        for layer, third in layers
    ]


def try_strengths(study: Study, spaces: Subspaces, problems: list) -> tuple[list, list, dict]:
    """(samples, a row per setting, chosen): chosen maps (condition, scope) to the setting chosen.

    Re-injection is searched at the strength chosen for `language`, so that the two differ by re-injection alone.
    """
    samples, rows, chosen = [], [], {}

    def attempt(setting: Setting) -> int:
        answers = study.ask(problems, spaces.edits(setting), setting.scope)
        samples.extend({"half": "development"} | asdict(setting) | answer for answer in answers)
        outcome = study.outcome(answers)
        rows.append(asdict(setting) | {"accuracy": share(outcome["right"]), "kept": share(outcome["kept"])})
        return int(outcome["right"].sum())

    attempt(Setting("none"))
    for scope in SCOPES:
        for condition in CONDITIONS:
            if condition == "language_reinjected":
                strength = chosen["language", scope].strength
                settings = [Setting(condition, scope, strength, reinjection) for reinjection in REINJECTIONS]
            else:
                settings = [Setting(condition, scope, strength) for strength in STRENGTHS]
            chosen[condition, scope] = choose({setting: attempt(setting) for setting in settings})
    for row in rows:
        row["chosen"] = Setting(**{key: row[key] for key in asdict(Setting(""))}) in chosen.values()
    return samples, rows, chosen


def choose(right: dict[Setting, int]) -> Setting:
    """The setting with most right answers over all languages; of equals the first, which is the weakest."""
    return max(right, key=right.get)


def share(values: np.ndarray) -> float:
    return float(values.mean())


def score(study: Study, spaces: Subspaces, problems: list, chosen: dict) -> tuple[list, dict, list, dict]:
    """(samples, the unedited shares, a row per condition, scope and strength, the unedited outcome).

    Every condition is scored once at its chosen strength, and at complete removal, which needs no choice (but re-injection,
    which stays as chosen).
    """
    answers = study.ask(problems, {}, None)
    base = study.outcome(answers)
    samples, rows = [{"half": "test"} | asdict(Setting("none")) | answer for answer in answers], []
    for best in chosen.values():
        for strength in sorted({best.strength, COMPLETE}):
            setting = replace(best, strength=strength)
            answers = study.ask(problems, spaces.edits(setting), setting.scope)
            samples += [{"half": "test"} | asdict(setting) | answer for answer in answers]
            compared = compare(study, study.outcome(answers), base)
            labels = {"chosen": setting == best, "roles": roles(setting, setting == best)}
            rows.append(asdict(setting) | labels | compared)
    rows.sort(key=lambda row: CONDITIONS.index(row["condition"]))  # stable: by scope within a condition
    others = [row for row in rows if "primary" not in row["roles"]]
    for row, adjusted in zip(others, statistics.holm([row["p"] for row in others])):
        row["p_holm"] = adjusted
    return samples, shares(study, base), rows, base


def roles(setting: Setting, chosen: bool) -> list[str]:
    """What the verdict and the claims take a setting for."""
    return [
        role
        for role, (condition, scope, strength) in ROLES.items()
        if (setting.condition, setting.scope) == (condition, scope)
        and (chosen if strength is None else setting.strength == strength)
    ]


def shares(study: Study, outcome: dict) -> dict:
    result = {"accuracy": share(outcome["right"]), "kept": share(outcome["kept"]), "moved": share(outcome["moved"])}
    return result | {"accuracy_by_language": dict(zip(study.languages, outcome["right"].mean(1).tolist()))}


def compare(study: Study, outcome: dict, base: dict) -> dict:
    """Shares of one condition and its paired differences from the unedited run.

    Problems are the units, since a problem's prompts in several languages are not independent: McNemar's test counts
    problems with more right answers than before against those with fewer.
    """
    result = shares(study, outcome)
    for name, measure in (("difference", "right"), ("kept_difference", "kept")):
        change = outcome[measure].mean(0) - base[measure].mean(0)
        draw = statistics.seeded(study.seed, "ablation: bootstrap")
        result |= {name: float(change.mean()), f"{name}_interval": statistics.paired_interval([change], np.mean, draw)}
        if measure == "right":
            gained, lost = int((change > 0).sum()), int((change < 0).sum())
            result |= {"gained": gained, "lost": lost, "p": statistics.mcnemar_p(gained, lost)}
    return result


def nulls(study: Study, spaces: Subspaces, streams, problems: list, rows: list[dict], base: dict) -> list[dict]:
    """A row per null, scope and strength: what its draws do to the accuracy, beside the row that it is a null of."""
    result = []
    for row in rows:
        for name in null_names(row):
            setting = Setting(row["condition"], row["scope"], row["strength"])
            differences, kept = [], []
            for draw in range(DRAWS if "primary" in row["roles"] else SIDE_DRAWS):
                edits = spaces.null(name, draw, streams, study.seed).edits(setting)
                outcome = study.outcome(study.ask(problems, edits, row["scope"]))
                differences.append(share(outcome["right"]) - share(base["right"]))
                kept.append(share(outcome["kept"]) - share(base["kept"]))
            tested = row["difference"] - TIE
            null = asdict(setting) | {"null": name, "roles": row["roles"]} | statistics.null_record(differences, tested)
            null |= {"reached": sum(difference >= tested for difference in differences), "tested": row["difference"]}
            null |= {"kept_tested": row["kept_difference"], "differences": differences, "kept_differences": kept}
            result.append(null)
    return result


def null_names(row: dict) -> tuple[str, ...]:
    """Nulls of a row: of M_s at the chosen strength, and of complete removal in the primary scope; of Z⊥ at complete removal."""
    if row["condition"] == "language" and (row["chosen"] or row["scope"] == PRIMARY_SCOPE):
        return ("random", "shuffled")
    return ("random_perp",) if row["condition"] == "z_perp" and row["strength"] == COMPLETE else ()


if __name__ == "__main__":
    runs.run_script(main)
