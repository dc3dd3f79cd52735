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

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from matplotlib.figure import Figure

import utils
from lab import checkpoints, engine, models, questions, runs, statistics
from reports import page

ARRAYS = ("ablation_samples.jsonl",)
CONDITIONS = ("language", "language_reinjected", "z_perp")
SCOPES = ("last", "prefill", "all")
PRIMARY = ("language", "prefill")  # named before looking; the hypothesis about Z⊥ is judged in the same scope
# The paper searches 0.1 to 0.4 on both; 1 removes all of it. Without 0: a strength that does nothing is no ablation.
STRENGTHS = (0.2, 0.4, 1.0)
REINJECTIONS = (0.2, 0.4)
COMPLETE = STRENGTHS[-1]
THIRDS = 3  # middle third removed, last third re-injected; the paper's script has layers 10-19 and 20-27 of 28
DRAWS = 19  # of each null of the primary: the fewest with which "above every draw" has p = 1/20
SIDE_DRAWS = 3  # of the other nulls, which are descriptive
MINIMUM_PROBLEMS = 4  # in a half; as many as languages are needed to shuffle those
MARGIN = 0.1  # a loss whose 95 % interval stays within this many problems in one counts as intact
LEVEL = 0.05
MAX_NEW_TOKENS = 12  # an answer in words
SHOWN = 2  # problems in the report


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.report_only:
        return runs.render_again(arguments.out, "ablation", ARRAYS, render)
    device = runs.choose_device(arguments.device)
    dtype = runs.choose_dtype(arguments.dtype, device)
    folder = checkpoints.find_model(arguments.model, arguments.revision)
    languages = questions.load_languages(arguments.languages)
    files = questions.problem_files(arguments.problems, folder, "problems.jsonl", runs.ROOT / "data" / "words.jsonl")
    problems = questions.load_problems(files, list(languages), arguments.limit)
    exemplars, exemplar_file = questions.load_exemplars(arguments.exemplars, folder, languages, problems)
    z = load_z(arguments, folder)
    parts = layer_parts(folder)
    for problem in [*problems, *exemplars]:
        questions.check_words(problem, languages)
    development, test = split(problems, z.fitted_on, arguments.seed, files)
    settings = questions.problem_settings(arguments, device, dtype, files, languages)
    settings |= {"exemplars": [exemplar_file.name, runs.file_hash(exemplar_file)[:16]], "z": z.summary, **parts}
    run = runs.Run(__file__, "ablation", arguments, folder, settings)
    if not arguments.fresh and run.finished(ARRAYS):
        return None
    model, tokenizer = models.load_model(folder, device, dtype)
    exemplars = [replace(exemplar, solution={}) for exemplar in exemplars]  # the answer in a word, no worked solution
    study = Study(model, tokenizer, languages, exemplars, arguments.batch, arguments.seed)
    streams = last_streams(study, development)
    spaces = Subspaces(z, language_bases(streams).float(), **parts)
    results = {"problems": {"development": len(development), "test": len(test), "width": folder.width}}
    results["problems"]["fitted"] = sum(questions.problem_hash(problem) in z.fitted_on for problem in problems)
    results["subspaces"] = describe(spaces, streams, arguments.seed)
    samples, results["development"], chosen = try_strengths(study, spaces, development)
    tested, results["none"], results["rows"], base = score(study, spaces, test, chosen)
    results["nulls"] = nulls(study, spaces, streams, test, results["rows"], base)
    results |= {
        "room": int((~base["right"].all(0)).sum()),
        "solved": int(base["right"].any(0).sum()),
        "needed": needed(),
    }
    results["verdict"] = decide(results)
    results = runs.significant(results)  # before any sentence is made of it: the JSON is the truth
    results["claims"] = claims(results)
    return run.save(results, {ARRAYS[0]: runs.json_lines(samples + tested)}, render)


def parse_arguments(argv: list[str] | None):
    return runs.command_line(__doc__, asks_problems=True).parse_args(argv)


# ---- what is asked --------------------------------------------------------------------------------------------------


@dataclass
class HandedZ:
    """What phase 2 handed on."""

    basis: torch.Tensor  # (k, d)
    site: int
    fitted_on: set[str]  # hashes of the problems that the basis was fitted on; none if it comes from weights
    summary: dict


def load_z(arguments, folder) -> HandedZ:
    """Phase 2's Z; UserError if it is missing, another model's, or of the wrong shape."""
    results = runs.load_results(arguments.out, "phase2", folder.identity)
    z = results["z"]
    basis = runs.load_array(arguments.out, "phase2_z_basis.npy", (z["k"], folder.width))
    summary = {key: z[key] for key in ("method", "layer", "site", "k", "holds")}
    summary |= {"bottleneck": results["settings"]["layer"], "phase2": results["fingerprint"]}
    return HandedZ(torch.from_numpy(basis).float(), z["site"], set(z["fitted_on"]), summary)


def layer_parts(folder) -> dict[str, list[int]]:
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
            return edited_streams(self.model, edits, scope)

        prompts = self.prompts(problems)
        outputs = models.generate(self.model, self.tokenizer, prompts, MAX_NEW_TOKENS, self.batch, during)
        asked = [(language, problem) for language in self.languages for problem in problems]
        samples = []
        for (language, problem), output in zip(asked, outputs):
            extracted, right = questions.grade(problem, output)
            sample = {"id": problem.id, "language": language, "output": output, "extracted": extracted}
            samples.append(sample | {"correct": right, "written_in": questions.written_in(output, self.languages)})
        return samples

    def outcome(self, samples: list[dict]) -> dict[str, np.ndarray]:
        """(languages, problems) each: the answer is right; written in the language asked; in another one of them."""
        written = [(sample["written_in"], sample["language"]) for sample in samples]
        columns = {
            "right": [sample["correct"] for sample in samples],
            "kept": [script == language for script, language in written],
            "moved": [script not in (None, language) for script, language in written],
        }
        return {name: np.array(column, bool).reshape(len(self.languages), -1) for name, column in columns.items()}


# ---- edits of the residual stream -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edit:
    """h <- h - strength · P h, with P the projection onto the rows of `basis`, or onto all that they leave out."""

    basis: torch.Tensor  # (k, d) orthonormal rows, float32
    strength: float  # 1 removes the part, a negative strength enlarges it
    complement: bool = False

    def of(self, stream: torch.Tensor) -> torch.Tensor:
        """The edited stream, (..., d) in its own dtype."""
        whole = stream.float()
        part = whole @ self.basis.T @ self.basis
        part = whole - part if self.complement else part
        return (whole - self.strength * part).to(stream)


@contextmanager
def edited_streams(model, edits: dict[int, Edit], scope: str | None):
    """Hooks that edit the stream at each given site, for one call of generate: the first pass inside is the prompt's.

    Scopes: `last` edits the last prompt position, `prefill` all prompt positions, `all` these and every new token's. What
    is done to pads on the left does not matter, because nothing attends to them.
    """
    modules = [*model.model.layers, model.model.norm]  # module s reads the stream at site s

    def editor(edit: Edit):
        edit, passes = replace(edit, basis=edit.basis.to(model.device)), iter(["prompt"])

        def change(_, args, kwargs):
            if next(passes, "token") == "prompt" or scope == "all":
                stream = args[0] if args else kwargs["hidden_states"]
                places = stream[:, -1:] if scope == "last" else stream
                places.copy_(edit.of(places))

        return change

    hooks = []
    try:
        for site, edit in edits.items():
            hooks.append(modules[site].register_forward_pre_hook(editor(edit), with_kwargs=True))
        yield
    finally:
        for hook in hooks:
            hook.remove()


# ---- subspaces ------------------------------------------------------------------------------------------------------


def last_streams(study: Study, problems: list) -> torch.Tensor:
    """Streams at the last prompt position, (languages, problems, sites, d) float64 on the CPU."""
    prompts = study.prompts(problems)
    engines = engine.patched_prompts(study.model, study.tokenizer, prompts, [()] * len(prompts), study.batch)
    parts = runs.gathered({rows.start: patcher.streams.cpu().double() for rows, patcher in engines})
    streams = torch.cat(list(parts.values()))
    if not torch.isfinite(streams).all():
        raise runs.UserError("activations are not finite: try --dtype float32")
    return streams.unflatten(0, (len(study.languages), len(problems)))


def language_bases(streams: torch.Tensor) -> torch.Tensor:
    """M_s of every site: right singular vectors of the centred language means.

    (languages, problems, sites, d) -> (sites, languages - 1, d). The paper's code first finds the point that all means
    project to and subtracts that; with languages - 1 directions the span is the same.
    """
    means = streams.double().mean(1).transpose(0, 1)  # (sites, languages, d)
    _, _, right = torch.linalg.svd(means - means.mean(1, keepdim=True), full_matrices=False)
    return right[:, : means.shape[1] - 1]


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

    z: HandedZ
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


# ---- development half -----------------------------------------------------------------------------------------------


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


# ---- test half ------------------------------------------------------------------------------------------------------


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
            compared = compare(study, study.outcome(answers), base, f"{setting.condition} {setting.scope} {strength}")
            rows.append(asdict(setting) | {"chosen": setting == best} | compared)
    rows.sort(key=lambda row: CONDITIONS.index(row["condition"]))  # stable: by scope within a condition
    others = [row for row in rows if not is_primary(row)]
    for row, adjusted in zip(others, statistics.holm([row["p"] for row in others])):
        row["p_holm"] = adjusted
    return samples, shares(study, base), rows, base


def is_primary(row: dict) -> bool:
    return (row["condition"], row["scope"]) == PRIMARY and row["chosen"]


def shares(study: Study, outcome: dict) -> dict:
    result = {"accuracy": share(outcome["right"]), "kept": share(outcome["kept"]), "moved": share(outcome["moved"])}
    return result | {"accuracy_by_language": dict(zip(study.languages, outcome["right"].mean(1).tolist()))}


def compare(study: Study, outcome: dict, base: dict, label: str) -> dict:
    """Shares of one condition and its paired differences from the unedited run.

    Problems are the units, since a problem's prompts in several languages are not independent: McNemar's test counts
    problems with more right answers than before against those with fewer.
    """
    result = shares(study, outcome)
    for name, measure in (("difference", "right"), ("kept_difference", "kept")):
        change = outcome[measure].mean(0) - base[measure].mean(0)
        draw = statistics.seeded(study.seed, f"ablation: bootstrap of {measure}, {label}")
        result |= {name: float(change.mean()), f"{name}_interval": statistics.bootstrap_interval(change, draw)}
        if measure == "right":
            gained, lost = int((change > 0).sum()), int((change < 0).sum())
            result |= {"gained": gained, "lost": lost, "p": statistics.mcnemar_p(gained, lost)}
    return result


def nulls(study: Study, spaces: Subspaces, streams, problems: list, rows: list[dict], base: dict) -> list[dict]:
    """A row per null, scope and strength: the differences of every draw, beside those of the row that it is a null of."""
    result = []
    for row in rows:
        for name in null_names(row):
            draws = DRAWS if is_primary(row) else SIDE_DRAWS
            setting = Setting(row["condition"], row["scope"], row["strength"])
            differences, kept = [], []
            for draw in range(draws):
                edits = spaces.null(name, draw, streams, study.seed).edits(setting)
                outcome = study.outcome(study.ask(problems, edits, row["scope"]))
                differences.append(share(outcome["right"]) - share(base["right"]))
                kept.append(share(outcome["kept"]) - share(base["kept"]))
            reached = sum(difference >= row["difference"] - 1e-9 for difference in differences)
            labels = {
                "null": name,
                "primary": is_primary(row),
                "reached": reached,
                "p": statistics.permutation_p(reached, draws),
            }
            labels |= {"tested": row["difference"], "kept_tested": row["kept_difference"]}
            result.append(asdict(setting) | labels | {"differences": differences, "kept_differences": kept})
    return result


def null_names(row: dict) -> tuple[str, ...]:
    """Nulls of a row: of M_s at the chosen strength, and of complete removal in the primary scope; of Z⊥ at complete removal."""
    if row["condition"] == "language" and (row["chosen"] or row["scope"] == PRIMARY[1]):
        return ("random", "shuffled")
    return ("random_perp",) if row["condition"] == "z_perp" and row["strength"] == COMPLETE else ()


def needed() -> int:
    """How many problems must gain with none lost, or be lost with none gained, before the exact test can show it."""
    return next(count for count in range(1, 100) if statistics.mcnemar_p(count, 0) < LEVEL)


def decide(results: dict) -> str:
    """The primary against the unedited run; to help it must also do better than every draw of both nulls.

    With 19 draws each, being above them all has a chance of at most 1/20 for a subspace that is like the draws.
    """
    primary = find(results["rows"], "language")
    if primary["p"] >= LEVEL:
        return "no_effect"
    if primary["difference"] < 0:
        return "ablation_hurts"
    return "no_effect" if any(null["reached"] for null in results["nulls"] if null["primary"]) else "ablation_helps"


def find(rows: list[dict], condition: str, strength: float | None = None, scope: str = PRIMARY[1]) -> dict:
    """A condition's row: at the chosen strength, or at the one given."""
    rows = [row for row in rows if (row["condition"], row["scope"]) == (condition, scope)]
    return next(row for row in rows if (row["chosen"] if strength is None else row["strength"] == strength))


# ---- reporting ------------------------------------------------------------------------------------------------------

NAMES = {
    "none": "nothing",
    "language": "language subspace",
    "language_reinjected": "language subspace, re-injected",
    "z_perp": "Z⊥",
    "random": "random subspaces",
    "shuffled": "shuffled languages",
    "random_perp": "all but a random subspace",
}
WHERE = {"last": "last prompt position", "prefill": "whole prompt", "all": "prompt and answer", None: "–"}


def points(value: float) -> str:
    return f"{100 * value:+.1f}"


def paired(row: dict, name: str = "difference") -> str:
    low, high = row[f"{name}_interval"]
    return f"{points(row[name])} ({points(low)} to {points(high)})"


def span(values: list[float]) -> str:
    return f"{points(min(values))} to {points(max(values))}"


def amount(row: dict) -> str:
    """λ, and that of the upper layers where there is re-injection."""
    return f"{row['strength']:g}" + (f", above −{row['reinjection']:g}" if row["reinjection"] else "")


def at(row: dict) -> list[str]:
    """The cells that say what was removed, where and how strongly."""
    return [NAMES[row["condition"]], WHERE[row["scope"]], amount(row)]


def claims(results: dict) -> list[dict]:
    """What the paper found and what we expect of Z⊥, as rows."""
    rows, none, nulls, verdict = results["rows"], results["none"], results["nulls"], results["verdict"]
    primary, again, bare = find(rows, "language"), find(rows, "language_reinjected"), find(rows, "z_perp", COMPLETE)
    perp = next(null for null in nulls if null["null"] == "random_perp" and null["scope"] == PRIMARY[1])
    last = find(rows, "z_perp", COMPLETE, "last")
    beside = [f"{NAMES[null['null']]} {span(null['differences'])} points" for null in nulls if null["primary"]]
    helps = None if verdict == "no_effect" and results["room"] < results["needed"] else verdict == "ablation_helps"
    survives = again["kept_difference_interval"][0] >= -MARGIN
    intact = bare["difference_interval"][0] >= -MARGIN and perp["reached"] == 0
    if results["solved"] < results["needed"]:  # too little to lose: intact would say nothing
        helps, survives, intact = helps if results["solved"] else None, None, None
    return [
        page.claim(
            "language",
            "removing the language subspace improves reasoning",
            "yes (arXiv 2505.15257)",
            f"accuracy {none['accuracy']:.1%} → {primary['accuracy']:.1%}, {paired(primary)} points, p {page.show(primary['p'], 2)} "
            f"(λ {amount(primary)})",
            "; ".join(beside),
            helps,
        ),
        page.claim(
            "reinjected",
            "the output language survives with re-injection",
            "yes (arXiv 2505.15257)",
            f"in the language asked {none['kept']:.1%} → {again['kept']:.1%}, {paired(again, 'kept_difference')} points "
            f"(λ {amount(again)})",
            f"without re-injection {primary['kept']:.1%}",
            survives,
        ),
        page.claim(
            "z_perp",
            "removing Z⊥ leaves the answer intact",
            "yes (our hypothesis)",
            f"accuracy {none['accuracy']:.1%} → {bare['accuracy']:.1%}, {paired(bare)} points (λ 1); removed at the last "
            f"prompt position only {last['accuracy']:.1%}",
            f"{NAMES['random_perp']} {span(perp['differences'])} points",
            intact,
        ),
    ]


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figure from saved results and samples."""
    samples = [json.loads(line) for line in arrays[ARRAYS[0]].decode().split("\n") if line]
    title, verdict = (
        f"Ablation: removing the language subspace from {results['model']['name']}",
        verdict_sentence(results),
    )
    text = page.report(title, verdict, results["claims"], sections(results, samples), limitations(results))
    return {"ablation_test.png": page.png(figure_test(results)), "ablation_output.md": text.encode()}


def verdict_sentence(results: dict) -> str:
    verdict, none = results["verdict"], results["none"]
    primary, complete = find(results["rows"], "language"), find(results["rows"], "language", COMPLETE)
    what = {
        "ablation_helps": "Removing the language subspace makes more answers right, and more than any null does",
        "ablation_hurts": "Removing the language subspace makes fewer answers right",
        "no_effect": "No effect of removing the language subspace on right answers is shown",
    }[verdict]
    if none["accuracy"] == 0:
        what = "Nothing is solved without an edit, so there is no reasoning here that could improve or suffer"
    low, high = primary["difference_interval"]
    apart = (
        " The interval leaves 0 out, but the exact test decides." if verdict == "no_effect" and low * high > 0 else ""
    )
    return (
        f"{what} (`{verdict}`). With the strength chosen on other problems (λ {primary['strength']:g}, {WHERE[PRIMARY[1]]}) accuracy "
        f"goes from {none['accuracy']:.1%} to {primary['accuracy']:.1%} on {results['problems']['test']} problems (difference "
        f"{points(primary['difference'])} points, 95 % {points(low)} to {points(high)}, McNemar p {page.show(primary['p'], 2)})."
        f"{apart} In the language asked are {none['kept']:.1%} of the answers before and {primary['kept']:.1%} after. With complete "
        f"removal (λ 1) accuracy is {complete['accuracy']:.1%}, and {complete['kept']:.1%} are in the language asked."
    )


def sections(results: dict, samples: list[dict]) -> list[str]:
    settings, problems, z = results["settings"], results["problems"], results["settings"]["z"]
    files = ", ".join(f"`{name}`" for name, _ in settings["problems"])
    middle, upper = (f"{settings[part][0]} to {settings[part][-1]}" for part in ("middle", "upper"))
    rank = len(settings["languages"]) - 1
    return [
        "## 1 Problems in two halves",
        f"{problems['development'] + problems['test']} problems from {files} in {', '.join(settings['languages'])}, answers in words, "
        f"exemplars from `{settings['exemplars'][0]}`: {problems['development']} for development (language subspaces and strengths), "
        f"{problems['test']} for the test. The halves are drawn at random, but the {problems['fitted']} problems that Z was fitted on "
        "are all for development.",
        "## 2 Language subspaces",
        f"M_s, the language subspace of a layer, spans the differences between the languages' mean streams at the last prompt "
        f"position: {rank} of {problems['width']} dimensions. It is removed behind layers {middle} (the middle third) and re-injected "
        f"behind layers {upper} (the last third). *Share*: part of the stream's squared norm that lies in M_s, and in that of "
        "shuffled languages (section 5). *Common*: how much of that part is the same for all prompts; it is removed too. *Stability*: "
        f"similarity of M_s from two halves of the development problems (chance {page.show(rank / problems['width'], 2)}).",
        subspace_table(results),
        "## 3 Strengths, chosen on the development half",
        "For every condition and scope the strength with the most right answers over all languages; of equals the weakest. "
        "Re-injection (a negative λ above) is searched at the strength chosen for removal alone. The choice was made by "
        "these accuracies, so they flatter.",
        strength_table(results),
        "## 4 Answers on the test half",
        "![Differences from no edit](ablation_test.png)",
        f"An answer that is right in any language counts. Z⊥, all but Z, is removed at site {z['site']} only (Z: k = {z['k']}, "
        f"{z['method']}, layer {z['layer']}). Differences from no edit are in percentage points, with bootstrap intervals over "
        "problems; *gained* and *lost* count problems with more or fewer right answers, which McNemar's exact test compares. Holm's "
        "correction runs over all rows but the primary one, which was named before looking.",
        answer_table(results),
        "## 5 Null subspaces",
        "In place of the language subspace: a random one of its size for every layer, or that of shuffled languages (made-up ones, "
        "each with equally many prompts of every language). When Z⊥ is removed, in place of Z: a random subspace of Z's size. "
        "Differences from no edit in points. *Reached*: draws whose accuracy is at least that of what they stand for.",
        null_table(results),
        "## 6 Output language",
        "Answers whose letters are mostly of the script of the language asked, or of another one's; the rest have no letters.",
        language_table(results),
        "## 7 Sample answers",
        f"The first test problems with edits of the {WHERE[PRIMARY[1]]}; all are in `{ARRAYS[0]}`.",
        sample_table(samples),
    ]


def subspace_table(results: dict) -> str:
    keys = ("share", "common", "shuffled_share", "stability")
    rows = [[row["layer"], row["third"], *(f"{row[key]:.1%}" for key in keys)] for row in results["subspaces"]]
    return page.table(["layer", "third", "share", "of it common", "share, shuffled", "stability"], rows)


def strength_table(results: dict) -> str:
    rows = [
        [*at(row), f"{row['accuracy']:.1%}", f"{row['kept']:.1%}", "yes" if row["chosen"] else ""]
        for row in results["development"]
    ]
    return page.table(["removed", "where", "λ", "accuracy", "in the language asked", "chosen"], rows)


def answer_table(results: dict) -> str:
    rows = []
    for row in [asdict(Setting("none")) | results["none"], *results["rows"]]:
        by_language = [row["accuracy_by_language"][name] for name in results["settings"]["languages"]]
        cells = at(row) + [f"{value:.1%}" for value in (row["accuracy"], *by_language)]
        if row["condition"] != "none":
            adjusted = "primary" if is_primary(row) else page.show(row["p_holm"], 2)
            cells += [paired(row), row["gained"], row["lost"], page.show(row["p"], 2), adjusted]
        rows.append(cells + [""] * (5 if row["condition"] == "none" else 0))
    headers = ["removed", "where", "λ", "accuracy", *results["settings"]["languages"], "difference (95 %)", "gained"]
    return page.table([*headers, "lost", "p", "p after Holm"], rows)


def null_table(results: dict) -> str:
    rows = []
    for null in results["nulls"]:
        reached = f"{null['reached']} of {len(null['differences'])}"
        reached += f" (p {page.show(null['p'], 2)})" if null["primary"] else ""
        rows.append([NAMES[null["null"]], *at(null)[1:], points(null["tested"]), span(null["differences"]), reached])
        rows[-1] += [points(null["kept_tested"]), span(null["kept_differences"])]
    headers = ["null", "where", "λ", "accuracy, tested", "accuracy, draws", "reached", "language asked, tested"]
    return page.table([*headers, "language asked, draws"], rows)


def language_table(results: dict) -> str:
    rows = []
    for row in [asdict(Setting("none")) | results["none"], *results["rows"]]:
        difference = "" if row["condition"] == "none" else paired(row, "kept_difference")
        rows.append([*at(row), f"{row['kept']:.1%}", f"{row['moved']:.1%}", difference])
    return page.table(["removed", "where", "λ", "asked", "another", "difference of asked (95 %)"], rows)


def sample_table(samples: list[dict]) -> str:
    """The same few test problems under every condition, in the primary scope."""
    tested = [sample for sample in samples if sample["half"] == "test" and sample["scope"] in (None, PRIMARY[1])]
    shown, rows = list(dict.fromkeys(sample["id"] for sample in tested))[:SHOWN], []
    for sample in sorted(tested, key=lambda sample: (sample["id"], sample["language"])):
        if sample["id"] in shown:
            rows.append([f"{sample['id']}, {sample['language']}", NAMES[sample["condition"]], amount(sample)])
            rows[-1] += [page.escape(sample["output"].strip()[:60]), "yes" if sample["correct"] else "no"]
            rows[-1].append(sample["written_in"] or "–")
    return page.table(["problem", "removed", "λ", "output", "right", "language"], rows)


def limitations(results: dict) -> list[str]:
    problems, settings, lines = results["problems"], results["settings"], []
    if results["room"] < results["needed"]:
        lines.append(
            f"Accuracy is {'close to' if results['room'] else 'at'} the ceiling: without any edit {results['room']} of "
            f"{problems['test']} test problems have a wrong answer, and {results['needed']} must gain before the exact test can "
            "show an improvement."
        )
    if results["solved"] < results["needed"]:
        lines.append(
            f"Accuracy is near the floor: without any edit {results['solved']} of {problems['test']} test problems have a right "
            f"answer, too few to show a loss ({results['needed']} are needed)."
        )
    if not settings["z"]["holds"]:
        lines.append("This Z did not pass phase 2's test.")
    rank, middle = len(settings["languages"]) - 1, results["subspaces"][0]
    return [
        *lines,
        "Answers are one word. The paper's models write out their reasoning, which a removal may help in ways that cannot show here.",
        f"M_s is removed behind {len(settings['middle'])} layers in turn, so that less than complete removal adds up over layers.",
        "Re-injection enlarges what is left inside M_s; it does not bring back what was removed.",
        "M_s is measured at the last prompt position and removed at others too, attention sinks included, as in the paper.",
        f"A random subspace holds about {rank / problems['width']:.1%} of the stream's squared norm, M_s of layer {middle['layer']} "
        f"{middle['share']:.1%}: the two removals differ in size. Shuffled languages hold {middle['shuffled_share']:.1%}.",
        f"Where only {SIDE_DRAWS} draws stand beside a row they show a range, not a p value.",
        "Bootstrap intervals over few problems are somewhat too narrow.",
        "The paper's published search takes for each language the best of 24 settings by the scores on the test problems themselves, "
        "so part of its gain is selection; here strengths are chosen on other problems.",
        "The paper's formula edits the residual stream, as is done here; its published code edits the first output of vLLM's "
        "layers, which in Qwen2 is what the MLP adds to the stream.",
    ]


def figure_test(results: dict) -> Figure:
    """Differences from no edit: a line per condition, scope and strength, a dot per draw of a null."""
    every = [row for scope in SCOPES for row in [*results["rows"], *results["nulls"]] if row["scope"] == scope]
    labels = [f"{NAMES[row.get('null', row['condition'])]}, λ {amount(row)}, {WHERE[row['scope']]}" for row in every]
    figure = Figure(figsize=(11, 8.5))
    panels = figure.subplots(1, 2, sharey=True)
    for panel, key, title in zip(panels, ("", "kept_"), ("accuracy", "answers in the language asked")):
        for place, row in enumerate(every):
            if "null" in row:
                values = [100 * value for value in row[f"{key}differences"]]
                panel.plot(values, [place] * len(values), "o", color="tab:gray", markersize=3, alpha=0.6)
            else:
                color, marker = "tab:red" if is_primary(row) else "tab:blue", "o" if row["chosen"] else "s"
                panel.plot([100 * end for end in row[f"{key}difference_interval"]], [place, place], color=color)
                panel.plot(100 * row[f"{key}difference"], place, marker, color=color, markersize=5)
            if place and row["scope"] != every[place - 1]["scope"]:
                panel.axhline(place - 0.5, color="lightgray", linewidth=1)
        panel.axvline(0, color="black", linestyle=":", linewidth=1)
        panel.set(title=title, xlabel="percentage points from no edit")
    panels[0].set_yticks(range(len(every)), labels, fontsize=7)
    panels[0].invert_yaxis()
    legend = (
        "round: chosen strength; square: complete removal; red: primary; lines: 95 % bootstrap; gray: draws of nulls"
    )
    figure.suptitle(legend, fontsize=9)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    runs.run_script(main)
