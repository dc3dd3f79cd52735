"""Phase 3: does swapping Z move the answer and leave the language alone?

Question   the stream at the last prompt position gets the donor prompt's part inside Z, or outside Z: which answer comes
           out, in which language, and do random subspaces of the same size do the same?
Inputs     a model, parallel problems with answers in words (data/words.jsonl, or the model folder's problems.jsonl),
           output/phase2_results.json, phase2_z_basis.npy, phase2_layer_subspaces.npy
Outputs    output/phase3_output.md with figures, phase3_results.json, phase3_scores.npy (conditions, pairs, 4),
           phase3_draws.npy (null, draws, pairs, 4), phase3_samples.jsonl (a line per generation under a patch); for
           phase 3b: phase3_pairs.jsonl (prompt and candidates of every pair), phase3_streams.npy (languages, problems, d):
           the stream at the last prompt position at Z's site
Run        python phase3_patching.py --model Qwen/Qwen2.5-3B          after phase2_z_extraction.py

Steps, which are also the report's headings:
1 problems and pairs   2 conditions   3 random subspaces   4 designs and directions   5 dose and response
6 sites   7 free generation   8 same problem   9 sample generations
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import torch
from matplotlib.figure import Figure

import utils
from lab import checkpoints, engine, models, questions, runs, statistics
from reports import page

ARRAYS = ("phase3_scores.npy", "phase3_draws.npy", "phase3_samples.jsonl", "phase3_pairs.jsonl", "phase3_streams.npy")
RECIPIENT, DONOR = 0, 1
# condition -> (whose answer, whose language) should win if Z holds the answer and its complement the language. Conditions
# without a prediction of their own are scored as Z is: they show how often that outcome comes without Z.
TARGETS = {
    "none": (DONOR, RECIPIENT),
    "z": (DONOR, RECIPIENT),
    "z_perp": (RECIPIENT, DONOR),
    "full": (DONOR, DONOR),
    "random": (DONOR, RECIPIENT),
    "random_matched": (DONOR, RECIPIENT),
    "pca": (DONOR, RECIPIENT),
    "centroid": (RECIPIENT, DONOR),
    "centroid_perp": (DONOR, RECIPIENT),
    # controls in which the part that should hold the answer comes from a third problem, whose answer is no candidate
    "z_wrong_donor": (DONOR, RECIPIENT),
    "z_perp_erased": (RECIPIENT, DONOR),
    "full_wrong_donor": (DONOR, DONOR),
    # where Z is not the weight-based one, that one too, at its own site
    "weight": (DONOR, RECIPIENT),
    "weight_perp": (RECIPIENT, DONOR),
    "weight_wrong_donor": (DONOR, RECIPIENT),
    "weight_perp_erased": (RECIPIENT, DONOR),
}
SINGLE = ("none", "z", "z_perp", "full", "pca", "centroid", "centroid_perp")  # conditions of one swap each
CONTROLS = ("z_wrong_donor", "z_perp_erased", "full_wrong_donor")
NULLS = ("random", "random_matched", "random_perp")  # of Z: the first two; of Z⊥: the complement of random subspaces
CANDIDATES = ((RECIPIENT, RECIPIENT), (RECIPIENT, DONOR), (DONOR, RECIPIENT), (DONOR, DONOR))  # (answer, language)
DRAWS = 200  # subspaces per null; the design asks for 100 or more
SWEEP_DRAWS = 10  # subspaces per size and per site in the sweeps, which are descriptive
FOLDS = 2  # pairs are formed within a fold; what is fitted for them is fitted on the other
MINIMUM_PROBLEMS = 4
FEW_PAIRS = 12  # with fewer, no exact test over the pairs is likely to reach p < .05 whatever Z does
MAJORITY = 0.5
LEVEL = 0.05
MAX_NEW_TOKENS = 12  # an answer in words
GENERATED = ("none", "z", "z_perp", "full", "centroid", "centroid_perp", "random")  # random: the first draw
SAME_PROBLEM = ("z", "z_perp", "full", "random")
SHOWN_PAIRS = 3  # per direction


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    if arguments.report_only:
        return runs.render_again(arguments.out, "phase3", ARRAYS, render)
    device = runs.choose_device(arguments.device)
    dtype = runs.choose_dtype(arguments.dtype, device)
    folder = checkpoints.find_model(arguments.model, arguments.revision)
    languages = questions.load_languages(arguments.languages)
    files = questions.problem_files(arguments.problems, folder, "problems.jsonl", runs.ROOT / "data" / "words.jsonl")
    problems = questions.load_problems(files, list(languages), arguments.limit)
    exemplars, exemplar_file = questions.load_exemplars(arguments.exemplars, folder, languages, problems)
    z = load_z(arguments, folder)
    problems, fitted = unfitted(problems, z.fitted_on, files)
    for problem in [*problems, *exemplars]:
        questions.check_words(problem, languages)
    settings = questions.problem_settings(arguments, device, dtype, files, languages)
    settings |= {"exemplars": [exemplar_file.name, runs.file_hash(exemplar_file)[:16]], "z": z.summary, "draws": DRAWS}
    run = runs.Run(__file__, "phase3", arguments, folder, settings)
    if not arguments.fresh and run.finished(ARRAYS):
        return None
    model, tokenizer = models.load_model(folder, device, dtype)
    exemplars = [replace(exemplar, solution={}) for exemplar in exemplars]  # the answer in a word, no worked solution
    study = Study(model, tokenizer, languages, problems, exemplars, z, arguments.batch, arguments.seed)
    samples = study.ask()
    study.solved = solved(samples, study)
    study.streams = last_streams(study)
    pairs = make_pairs(study)
    spaces = fold_subspaces(study, z.basis, z.site)
    tested = {"z": (z.site, spaces)}
    if not z.predicted:
        weight = z.every_layer[z.bottleneck, : len(z.basis)]
        tested["weight"] = (z.bottleneck + 1, fold_subspaces(study, weight, z.bottleneck + 1))
    measured = patch(study, pairs, tested)
    results = {"problems": problem_counts(study, fitted), "pairs": len(pairs), "conditions": measured["labels"]}
    results |= {"width": folder.width, "usable": study.solved.all(0).nonzero().flatten().tolist()}
    results |= summarise(measured, pairs, study.names)
    results |= {"dose": dose(measured, z.basis.shape), "sites": sites(measured, z.site)}
    results |= {"causal_site": causal_site(measured["sites"], study.seed), "energy": energies(study, pairs, spaces)}
    generated = generate_patched(study, pairs, spaces)
    alike = generate_same_problem(study, spaces, samples)
    results |= {"generated": generated_shares(generated), "same_problem": same_problem_counts(alike)}
    results["verdict"] = decide(results, "z")
    if "weight" in results["success"]:
        results["weight_verdict"] = decide(results, "weight")
    results = runs.significant(results)  # before any sentence is made of it: the JSON is the truth
    results["claims"] = claims(results)
    streams = study.streams[:, :, z.site].cpu().numpy()
    arrays = (measured["scores"], measured["draws"], runs.json_lines(samples + generated + alike))
    arrays += (runs.json_lines([described(study, pair) for pair in pairs]), streams)
    return run.save(results, dict(zip(ARRAYS, arrays)), render)


def parse_arguments(argv: list[str] | None):
    return runs.command_line(__doc__, asks_problems=True).parse_args(argv)


# ---- what is asked --------------------------------------------------------------------------------------------------


@dataclass
class HandedZ:
    """What phase 2 handed on."""

    basis: torch.Tensor  # (k, d)
    every_layer: torch.Tensor  # (L, k', d) the weight-based Z of every layer
    site: int
    bottleneck: int
    fitted_on: list[str]  # hashes of the problems that the basis was fitted on; none if it comes from weights
    summary: dict

    @property
    def predicted(self) -> bool:
        """Whether it is the primary weight-based Z itself: no contingency, no configuration chosen on activations."""
        primary = {
            "method": "weight",
            "layer": self.bottleneck,
            "site": self.bottleneck + 1,
            "k": self.every_layer.shape[1],
        }
        return primary.items() <= self.summary.items()


def load_z(arguments, folder) -> HandedZ:
    """Phase 2's Z; UserError if it is missing, another model's, or of the wrong shape."""
    results = runs.load_results(arguments.out, "phase2", folder.identity)
    z, bottleneck = results["z"], results["settings"]["layer"]
    basis = runs.load_array(arguments.out, "phase2_z_basis.npy", (z["k"], folder.width))
    shape = (folder.layers, results["z_dimensions"][-1], folder.width)
    every_layer = runs.load_array(arguments.out, "phase2_layer_subspaces.npy", shape)
    summary = {key: z[key] for key in ("method", "layer", "site", "k", "holds")} | {"phase2": results["fingerprint"]}
    bases = (torch.from_numpy(array) for array in (basis, every_layer))
    return HandedZ(*bases, z["site"], bottleneck, z["fitted_on"], summary)


def unfitted(problems: list, fitted_on: list[str], files: list) -> tuple[list, int]:
    """The problems that Z was not fitted on, and how many were left out."""
    kept = [problem for problem in problems if questions.problem_hash(problem) not in set(fitted_on)]
    if len(kept) < MINIMUM_PROBLEMS:
        raise runs.UserError(
            f"{', '.join(map(str, files))}: {len(kept)} problem(s) that Z was not fitted on; phase 3 needs at least "
            f"{MINIMUM_PROBLEMS}: give others with --problems"
        )
    return kept, len(problems) - len(kept)


@dataclass
class Study:
    """The model, what it is asked, and what the measurements share."""

    model: object
    tokenizer: object
    languages: dict
    problems: list
    exemplars: list
    z: HandedZ
    batch: int
    seed: int
    solved: torch.Tensor | None = None  # (languages, problems) bool
    streams: torch.Tensor | None = None  # (languages, problems, sites, d) last prompt position, float32

    @property
    def names(self) -> list[str]:
        return list(self.languages)

    @property
    def asked(self) -> list[tuple[int, int]]:
        """(language, problem) of every prompt."""
        return [(language, problem) for language in range(len(self.names)) for problem in range(len(self.problems))]

    def prompt(self, language: int, problem: int) -> str:
        return questions.prompt_text(self.problems[problem], self.names[language], self.languages, self.exemplars)

    def answer(self, language: int, problem: int) -> tuple[int, ...]:
        """Token ids of the problem's answer as they follow the prompt."""
        template = self.languages[self.names[language]]["answer"]
        text = template.format(answer=self.problems[problem].answer_text[self.names[language]])
        prompt = self.prompt(language, problem)
        alone, joint = (self.tokenizer(part)["input_ids"] for part in (prompt, prompt + text))
        if joint[: len(alone)] == alone:
            return tuple(joint[len(alone) :])
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def folds(self) -> torch.Tensor:
        """A fold number for every problem, in random order."""
        order = torch.randperm(len(self.problems), generator=statistics.seeded(self.seed, "phase3: folds"))
        return (torch.arange(len(self.problems)) % FOLDS)[order.argsort()]

    def ask(self, recipients=None, vectors: torch.Tensor | None = None, site: int = 0) -> list[dict]:
        """Greedy answers of the prompts (all, or those given as (language, problem)), under a patch where vectors are given."""
        recipients = self.asked if recipients is None else recipients
        prompts = [self.prompt(language, problem) for language, problem in recipients]
        during = None
        if vectors is not None:

            def during(chosen: list[int]):
                return models.replaced_stream(self.model, site, vectors[chosen])

        outputs = models.generate(self.model, self.tokenizer, prompts, MAX_NEW_TOKENS, self.batch, during)
        samples = []
        for (language, problem), output in zip(recipients, outputs):
            asked = self.problems[problem]
            sample = {"id": asked.id, "language": self.names[language], "output": output}
            extracted, correct = questions.grade(asked, output)
            language_of_it = answered_in(asked, output, self.languages)
            sample |= {"extracted": extracted, "correct": correct or language_of_it is not None}
            samples.append(
                sample | {"correct_in": language_of_it, "written_in": questions.written_in(output, self.languages)}
            )
        return samples


def answered_in(problem, output: str, languages: dict) -> str | None:
    """The language in which the output gives the problem's answer in words; None if it does not.

    A word counts where the output begins with it, whatever follows; a number where it is the one that phase 0 reads, in the
    language whose word the output begins with, else in that whose script it is written in.
    """
    number = not isinstance(problem.answer, str)
    if number and not questions.grade(problem, output)[1]:
        return None
    for name in languages:
        if re.match(rf"\s*{re.escape(problem.answer_text[name])}(?![a-z])", output, re.IGNORECASE):
            return name
    return questions.written_in(output, languages) if number else None


def solved(samples: list[dict], study: Study) -> torch.Tensor:
    """(languages, problems) whether the answer is right and in a word of the language asked in."""
    right = [sample["correct_in"] == sample["language"] for sample in samples]
    return torch.tensor(right).view(len(study.names), len(study.problems))


def last_streams(study: Study) -> torch.Tensor:
    """Unpatched streams at the last prompt position, (languages, problems, sites, d) float32 on the model's device."""
    prompts = [study.prompt(*asked) for asked in study.asked]
    engines = engine.patched_prompts(study.model, study.tokenizer, prompts, [()] * len(prompts), study.batch)
    parts = runs.gathered({rows.start: patcher.streams.float().cpu() for rows, patcher in engines})
    streams = torch.cat(list(parts.values())).to(study.model.device)
    if not torch.isfinite(streams).all():
        raise runs.UserError("activations are not finite: try --dtype float32")
    return streams.unflatten(0, (len(study.names), len(study.problems)))


@dataclass(frozen=True)
class Pair:
    """Recipient and donor: two problems, two languages, one fold; and a third problem with yet another answer.

    Where there is none the third is the donor: the controls then equal the swap, and the pair is no evidence for it.
    """

    recipient: int
    donor: int
    recipient_language: int
    donor_language: int
    fold: int
    third: int

    @property
    def direction(self) -> tuple[int, int]:
        return self.donor_language, self.recipient_language


def make_pairs(study: Study) -> list[Pair]:
    """In every direction each problem solved in all languages is a recipient once, with another of its fold as donor.

    The donor's answer differs in every language, and neither answer's tokens begin the other's: the log-probability of
    a beginning is never below that of the whole.
    """
    usable, folds = study.solved.all(0), study.folds()
    answers = [
        [study.answer(language, problem) for language in range(len(study.names))] for problem in range(len(usable))
    ]

    def comparable(first: int, second: int) -> bool:
        pairs = zip(answers[first], answers[second])
        return all(one[: len(other)] != other and other[: len(one)] != one for one, other in pairs)

    pairs = []
    for direction in permutations(range(len(study.names)), 2):
        label = f"phase3: donors {'_'.join(study.names[language] for language in direction)}"
        order = torch.randperm(len(usable), generator=statistics.seeded(study.seed, label)).tolist()
        for fold in range(FOLDS):
            ring = [problem for problem in order if usable[problem] and folds[problem] == fold]
            for place, recipient in enumerate(ring):
                others = ring[place + 1 :] + ring[:place]
                donor = next((other for other in others if comparable(recipient, other)), None)
                if donor is not None:
                    after = others[others.index(donor) + 1 :] + [other for other in order[::-1] if usable[other]]
                    third = (other for other in after if comparable(recipient, other) and comparable(donor, other))
                    pairs.append(Pair(recipient, donor, *direction[::-1], fold, next(third, donor)))
    return pairs


def described(study: Study, pair: Pair) -> dict:
    """What phase 3b needs of a pair: problems by their place, languages by name, prompt, and candidates' token ids."""
    return {
        "recipient": pair.recipient,
        "donor": pair.donor,
        "recipient_language": study.names[pair.recipient_language],
        "donor_language": study.names[pair.donor_language],
        "prompt": study.prompt(pair.recipient_language, pair.recipient),
        "candidates": candidate_tokens(study, pair),
    }


# ---- subspaces ------------------------------------------------------------------------------------------------------


@dataclass
class Subspaces:
    """What is swapped for the pairs of one fold at one site; everything fitted comes from the problems of the other fold."""

    z: torch.Tensor  # (k, d)
    pca: torch.Tensor  # (at most k, d)
    language: torch.Tensor  # (languages - 1, d)
    random: torch.Tensor  # (draws, k, d)
    random_matched: torch.Tensor  # (draws, k, d)

    def swaps(self, difference: torch.Tensor, draws: int = 0, third: torch.Tensor | None = None) -> torch.Tensor:
        """What is added to the recipient's stream: SINGLE conditions, CONTROLS where the third problem's difference is given,
        then draws of every null. (b, d) -> (b, conditions, d)
        """
        whole = difference[:, None]
        z, pca, language = (part(difference, basis[None]) for basis in (self.z, self.pca, self.language))
        rows = [torch.zeros_like(whole), z, whole - z, whole, pca, language, whole - language]
        if third is not None:
            wrong = part(third, self.z[None])
            rows += [wrong, whole - z + wrong, third[:, None]]
        if draws:
            haar, matched = (part(difference, bases[:draws]) for bases in (self.random, self.random_matched))
            rows += [haar, matched, whole - haar]
        return torch.cat(rows, 1)


def part(difference: torch.Tensor, bases: torch.Tensor) -> torch.Tensor:
    """The difference's part inside each subspace. (b, d), (m, k, d) -> (b, m, d)"""
    return torch.einsum("bmk,mkd->bmd", torch.einsum("bd,mkd->bmk", difference, bases), bases)


def fold_subspaces(study: Study, basis: torch.Tensor, site: int) -> list[Subspaces]:
    """One set of subspaces per fold, for a Z (k, d) at a site. PCA and covariance are those of the streams at the last
    prompt position, where the swap is made, around each language's mean: with that offset left in, a matched subspace
    would move the language and could not succeed.
    """
    device, (k, width) = study.model.device, basis.shape
    haar = (
        utils.random_subspaces(statistics.seeded(study.seed, "phase3: Haar subspaces"), DRAWS, k, width)
        .float()
        .to(device)
    )
    folds, result = study.folds(), []
    for fold in range(FOLDS):
        streams = study.streams[:, (folds != fold).to(device), site].double().cpu()  # (languages, problems, d)
        means = streams.mean(1)
        language = torch.linalg.svd(means - means.mean(0), full_matrices=False)[2][: len(means) - 1]
        centred = (streams - means[:, None]).flatten(0, 1)
        _, values, principal = torch.linalg.svd(centred, full_matrices=False)
        principal = principal[:k][values[:k] > 1e-6 * values[0]]
        matched = utils.matched_subspaces(statistics.seeded(study.seed, "phase3: matched subspaces"), DRAWS, k, centred)
        fitted = (rows.float().to(device) for rows in (principal, language))
        result.append(Subspaces(basis.to(device), *fitted, haar, matched.float().to(device)))
    return result


def energies(study: Study, pairs: list[Pair], spaces: list[Subspaces]) -> dict:
    """Mean share of the swapped difference's squared norm inside Z, its rivals and the nulls (k/d for a random direction)."""
    shares = {"z": [], "pca": [], "centroid": [], "random": [], "random_matched": []}
    for pair in pairs:
        space, site = spaces[pair.fold], study.z.site
        donor, own = (
            study.streams[language, problem, site]
            for language, problem in ((pair.donor_language, pair.donor), (pair.recipient_language, pair.recipient))
        )
        bases = (space.z[None], space.pca[None], space.language[None], space.random, space.random_matched)
        for values, basis in zip(shares.values(), bases):
            inside = (basis @ (donor - own)).square().sum(-1).mean()
            values.append((inside / (donor - own).square().sum().clamp_min(1e-30)).item())
    return {name: float(np.mean(values)) if pairs else 0.0 for name, values in shares.items()}


def nested_bases(study: Study) -> torch.Tensor:
    """Complete orthonormal bases whose first k rows are swapped: Z's rows first, then random; and SWEEP_DRAWS random ones.

    (1 + SWEEP_DRAWS, d, d)
    """
    width = study.z.basis.shape[1]
    draw = statistics.seeded(study.seed, "phase3: dose")
    starts = [study.z.basis.double()] + [torch.zeros(0, width).double()] * SWEEP_DRAWS
    bases = []
    for start in starts:
        filled = torch.cat([start, torch.randn(width - len(start), width, generator=draw, dtype=torch.float64)])
        basis, triangle = torch.linalg.qr(filled.T)
        bases.append((basis * triangle.diagonal().sign()).T.float())
    return torch.stack(bases).to(study.model.device)


def doses(k: int, width: int) -> list[int]:
    """Sizes from 1 to d in powers of two, with k and d among them."""
    return sorted({*(2**power for power in range(width.bit_length()) if 2**power <= width), k, width})


# ---- patching -------------------------------------------------------------------------------------------------------


def patch(study: Study, pairs: list[Pair], tested: dict[str, tuple[int, list[Subspaces]]]) -> dict:
    """Scores (…, pairs, 4) of every condition, null, dose and site; each recipient's prompt is run once for all of them.

    `tested` names the subspaces that a verdict is given about: Z, and the weight-based one where Z is another, each with its
    site and its subspaces per fold.
    """
    bases = nested_bases(study)
    order = sorted(range(len(pairs)), key=lambda index: pairs[index].fold)
    rows_of = {name: len(SINGLE) + len(CONTROLS) + len(NULLS) * DRAWS for name in tested}
    rows_of |= {"same_language": len(SINGLE) + len(NULLS) * SWEEP_DRAWS}
    rows_of |= {"dose": len(bases) * len(doses(*study.z.basis.shape)), "sites": study.streams.shape[2] * SITE_ROWS}
    batches = {}
    for fold in range(FOLDS):
        chosen = [pairs[index] for index in order if pairs[index].fold == fold]
        prompts = [study.prompt(pair.recipient_language, pair.recipient) for pair in chosen]
        candidates = [candidate_tokens(study, pair) for pair in chosen]
        here = {name: (site, spaces[fold]) for name, (site, spaces) in tested.items()}
        engines = engine.patched_prompts(study.model, study.tokenizer, prompts, candidates, study.batch)
        for rows, patcher in engines:
            batches[fold, rows.start] = dict(patch_batch(study, patcher, chosen[rows], here, bases))
    batches, back = runs.gathered(batches).values(), np.argsort(order, kind="stable")
    stacked = {}
    for name, count in rows_of.items():
        scores = [np.zeros((0, count, 4), np.float32), *(batch[name].numpy() for batch in batches)]
        stacked[name] = np.concatenate(scores)[back].swapaxes(0, 1)  # (rows, pairs, 4)
    known, draws = {}, []
    for name in tested:
        single, null = np.split(stacked[name], [len(SINGLE) + len(CONTROLS)])
        null = null.reshape(len(NULLS), DRAWS, len(pairs), 4)
        draws.append(null)
        own = dict(zip((*SINGLE, *CONTROLS), single)) | dict(zip(NULLS, null.mean(1)))
        known |= (
            own if name == "z" else {label.replace("z", name): own[label] for label in own if label.startswith("z")}
        )
    alike, alike_null = np.split(stacked["same_language"], [len(SINGLE)])
    alike_null = alike_null.reshape(len(NULLS), SWEEP_DRAWS, len(pairs), 4)
    shown = [label for label in TARGETS if label in known]
    return {
        "labels": shown,
        "scores": np.stack([known[label] for label in shown]).astype(np.float32),
        "draws": np.concatenate(draws).astype(np.float32),
        "same_language": dict(zip(SINGLE, alike)) | dict(zip(NULLS[:2], alike_null)),
        "dose": stacked["dose"].reshape(len(bases), len(doses(*study.z.basis.shape)), len(pairs), 4),
        "sites": stacked["sites"].reshape(study.streams.shape[2], SITE_ROWS, len(pairs), 4),
    }


SITES = ("full", "full_wrong_donor", "z", "z_perp", "layer_z", "layer_z_wrong_donor")  # swaps of the site sweep
SITE_ROWS = len(SITES) + SWEEP_DRAWS  # and random subspaces


def candidate_tokens(study: Study, pair: Pair) -> list[tuple[int, ...]]:
    """The four candidates, in the order of CANDIDATES."""
    problems = (pair.recipient, pair.donor)
    spoken = (pair.recipient_language, pair.donor_language)
    return [study.answer(spoken[language], problems[answer]) for answer, language in CANDIDATES]


def patch_batch(study: Study, patcher, pairs: list[Pair], tested: dict, bases: torch.Tensor) -> Iterator[tuple]:
    """(measurement, scores (b, rows, 4)) of one batch of pairs of one fold."""
    donors, thirds, alike = (
        torch.stack([study.streams[language, problem] for language, problem in problems])  # (b, sites, d)
        for problems in (
            [(pair.donor_language, pair.donor) for pair in pairs],
            [(pair.donor_language, pair.third) for pair in pairs],
            [(pair.recipient_language, pair.donor) for pair in pairs],
        )
    )
    own = patcher.streams.float()
    for name, (site, spaces) in tested.items():
        difference, third = donors[:, site] - own[:, site], thirds[:, site] - own[:, site]
        yield name, patcher.scores(site, own[:, site, None] + spaces.swaps(difference, DRAWS, third))
    site, spaces = tested["z"]
    same = spaces.swaps(alike[:, site] - own[:, site], SWEEP_DRAWS)
    yield "same_language", patcher.scores(site, own[:, site, None] + same)
    coordinates = torch.einsum("bd,mkd->bmk", donors[:, site] - own[:, site], bases)
    sizes = torch.tensor(doses(*spaces.z.shape), device=bases.device)
    first = torch.arange(bases.shape[1], device=bases.device) < sizes[:, None]  # (sizes, d): which rows are swapped
    nested = torch.einsum("bmk,sk,mkd->bmsd", coordinates, first.float(), bases).flatten(1, 2)
    yield "dose", patcher.scores(site, own[:, site, None] + nested)
    scores = []
    for place in range(own.shape[1]):
        difference, third = donors[:, place] - own[:, place], thirds[:, place] - own[:, place]
        layer = max(
            place - 1, 0
        )  # the layer that ends at the site; none ends at the embeddings, which take the first's
        layer_z = study.z.every_layer[layer, : len(spaces.z)].to(difference.device)[None]
        inside, whole = part(difference, spaces.z[None]), difference[:, None]
        rows = [whole, third[:, None], inside, whole - inside, part(difference, layer_z), part(third, layer_z)]
        rows.append(part(difference, spaces.random[:SWEEP_DRAWS]))
        scores.append(patcher.scores(place, own[:, place, None] + torch.cat(rows, 1)))
    yield "sites", torch.cat(scores, 1)


# ---- summing up -----------------------------------------------------------------------------------------------------


def winners(scores: np.ndarray) -> np.ndarray:
    """Index into CANDIDATES of the most probable candidate. (..., 4) -> (...)"""
    return scores.argmax(-1)


def hits(scores: np.ndarray, condition: str) -> np.ndarray:
    """Whether the condition's target wins. (..., pairs, 4) -> (..., pairs) bool"""
    return winners(scores) == CANDIDATES.index(TARGETS[condition])


def share(values: np.ndarray) -> float:
    """The mean of booleans; 0 of none."""
    return float(values.mean()) if values.size else 0.0


def shares(scores: np.ndarray) -> list[float]:
    """How often each candidate wins, over everything but the last axis."""
    return [share(winners(scores) == index) for index in range(len(CANDIDATES))]


def interval(values: np.ndarray) -> tuple[float, float]:
    """Wilson interval of a share of pairs."""
    return statistics.wilson_interval(int(values.sum()), values.size) if values.size else (0.0, 1.0)


def effects(scores: np.ndarray) -> np.ndarray:
    """Log-odds of (the donor's answer, the donor's language) over the recipient's, the other kept. (..., pairs, 4) -> (2, ...)"""
    base = scores[..., CANDIDATES.index((RECIPIENT, RECIPIENT))]
    answer, language = (
        scores[..., CANDIDATES.index(target)] - base for target in ((DONOR, RECIPIENT), (RECIPIENT, DONOR))
    )
    return np.stack([answer, language]).astype(float)


def problem_counts(study: Study, fitted: int) -> dict:
    """How many problems there are, and how many fall out for which reason."""
    alone = {name: int(right.sum()) for name, right in zip(study.names, study.solved)}
    everywhere = int(study.solved.all(0).sum())
    return {
        "asked": len(study.problems),
        "left_out_as_fitted": fitted,
        "solved": alone,
        "solved_everywhere": everywhere,
    }


def summarise(measured: dict, pairs: list[Pair], names: list[str]) -> dict:
    """Success, winners, intervals and effects of every condition; tests of Z; directions; the same-language design."""
    labels, scores = measured["labels"], dict(zip(measured["labels"], measured["scores"]))
    draws = dict(zip(NULLS, measured["draws"]))
    per_draw = {name: draw_rates(draws[name], name) for name in NULLS}
    success = {
        label: float(per_draw[label].mean()) if label in NULLS else share(hits(scores[label], label))
        for label in labels
    }
    base = effects(scores["none"])
    moved = {label: effects(scores[label]) - base for label in labels}  # of a null: the mean over its draws
    directions = {}
    for direction in sorted({pair.direction for pair in pairs}):
        chosen = np.array([pair.direction == direction for pair in pairs])
        directions["_to_".join(names[language] for language in direction)] = {"pairs": int(chosen.sum())} | {
            label: share(hits(draws.get(label, scores[label])[..., chosen, :], label)) for label in labels
        }
    results = {
        "success": success,
        "interval": {label: interval(hits(scores[label], label)) for label in labels if label not in NULLS},
        "winners": {label: shares(draws.get(label, scores[label])) for label in labels},
        "effect": {
            label: dict(zip(("answer", "language"), values.reshape(2, -1).mean(1).tolist() if pairs else (0.0, 0.0)))
            for label, values in moved.items()
        },
        "directions": directions,
        "same_language": {label: shares(scored) for label, scored in measured["same_language"].items()},
        "null": nulls_of("z", success, moved, base, measured["draws"][: len(NULLS)]),
        "paired": {"z": paired_tests("z", scores, directions)},
    }
    if "weight" in success:
        results["weight_null"] = nulls_of("weight", success, moved, base, measured["draws"][len(NULLS) :])
        results["paired"]["weight"] = paired_tests("weight", scores, directions)
    return results


def draw_rates(draws: np.ndarray, null: str) -> np.ndarray:
    """Success of every draw of a null. (draws, pairs, 4) -> (draws,)"""
    target = "z_perp" if null == "random_perp" else "z"
    return hits(draws, target).mean(-1) if draws.shape[1] else np.zeros(len(draws))


def nulls_of(name: str, success: dict, moved: dict, base: np.ndarray, draws: np.ndarray) -> dict:
    """Success and effect of a subspace against draws of the three nulls."""
    result = {}
    for null, rows in zip(NULLS, draws):
        tested, measure = (f"{name}_perp", 1) if null == "random_perp" else (name, 0)
        rates, pairs = draw_rates(rows, null), rows.shape[1]
        nudged = (effects(rows) - base[:, None])[measure].mean(-1) if pairs else np.zeros(DRAWS)
        own = moved[tested][measure].mean() if pairs else 0.0
        result[null] = {
            "tests": tested,
            "mean": float(rates.mean()),
            "quantiles": np.quantile(rates, (0.05, 0.5, 0.95), method="higher").tolist(),
            "p": statistics.permutation_p(int((rates >= success[tested]).sum()), DRAWS),
            "effect_quantiles": np.quantile(nudged, (0.05, 0.5, 0.95)).tolist(),
            "p_effect": statistics.permutation_p(int((nudged >= own).sum()), DRAWS),
        }
    return result


def paired_tests(name: str, scores: dict, directions: dict) -> dict:
    """Tests over the pairs: against no swap, against the third problem's part, and the full swap against a wrong donor."""
    perp = f"{name}_perp"
    return {
        "unpatched": paired_p(scores, name, "none"),
        "wrong_donor": paired_p(scores, name, f"{name}_wrong_donor"),
        "erased": paired_p(scores, perp, f"{perp}_erased"),
        "full": paired_p(scores, "full", "full_wrong_donor"),
        "lowest": min((row[name] for row in directions.values()), default=0.0),
        "lowest_perp": min((row[perp] for row in directions.values()), default=0.0),
    }


def paired_p(scores: dict, condition: str, control: str) -> float:
    """Exact McNemar p, over pairs, of the condition's target winning under it against under the control."""
    with_swap, without = hits(scores[condition], condition), hits(scores[control], condition)
    return statistics.mcnemar_p(int((with_swap & ~without).sum()), int((without & ~with_swap).sum()))


def dose(measured: dict, shape: tuple[int, int]) -> list[dict]:
    """For every k: how often the donor's answer, the donor's language and Z's target win; beside random bases."""
    rows = []
    for index, k in enumerate(doses(*shape)):
        row = {"k": k}
        for name, scores in (("", measured["dose"][0, index]), ("random_", measured["dose"][1:, index])):
            first, second, third, fourth = shares(scores)
            row |= {f"{name}answer": third + fourth, f"{name}language": second + fourth, f"{name}success": third}
        rows.append(row)
    return rows


def sites(measured: dict, handed: int) -> list[dict]:
    """For every site: success of each swap of SITES, and of random subspaces of Z's size."""
    targets = ("full", "full", "z", "z_perp", "z", "z")
    rows = []
    for site, scores in enumerate(measured["sites"]):
        row = {"site": site, "handed": site == handed}
        row |= {label: share(hits(own, target)) for label, target, own in zip(SITES, targets, scores)}
        rows.append(row | {"random": share(hits(scores[len(SITES) :], "random"))})
    return rows


def causal_site(measured: np.ndarray, seed: int) -> dict:
    """The site at which the own weight-based Z of the layer that ends there works best, above both of its controls.

    measured (sites, SITE_ROWS, pairs, 4). Gain of a pair: whether Z's target wins with the layer's Z, minus the same with a
    wrong donor, or minus its share over random subspaces, whichever control is better at that site. Support: share of
    bootstrap resamples of pairs in which the site alone is best. p: one-sided sign flips of the pairs, the larger one of
    the two controls, Holm over sites. Nothing is chosen where no gain is positive.
    """
    own = hits(measured[:, SITES.index("layer_z")], "z").astype(float)
    wrong = hits(measured[:, SITES.index("layer_z_wrong_donor")], "z")
    gains = np.stack([own - wrong, own - hits(measured[:, len(SITES) :], "random").mean(1)])
    gains = gains[:, 1:]  # (controls, sites, pairs): no layer ends at the embeddings
    pairs = gains.shape[-1]
    if not pairs or gains.mean(-1).min(0).max() <= 0:
        return {"site": None}
    draw = statistics.seeded(seed, "phase3: causal site")
    picks = torch.randint(pairs, (2000, pairs), generator=draw).numpy()
    resampled = gains[..., picks].mean(-1).min(0)  # (sites, resamples)
    signs = torch.randint(2, (1999, pairs), generator=draw).numpy() * 2 - 1
    flipped = gains @ signs.T / pairs  # (controls, sites, flips)
    reached = (flipped >= gains.mean(-1)[..., None] - 1e-12).sum(-1).max(0)
    best = int(gains.mean(-1).min(0).argmax())
    others = np.delete(resampled, best, 0).max(0, initial=0.0)
    return {
        "site": best + 1,
        "layer": best,
        "gain": float(gains[:, best].mean(-1).min()),
        "support": float((resampled[best] > others).mean()),
        "p_holm": statistics.holm([statistics.permutation_p(int(count), len(signs)) for count in reached])[best],
    }


def generate_patched(study: Study, pairs: list[Pair], spaces: list[Subspaces]) -> list[dict]:
    """Greedy answers of every pair under GENERATED conditions, free of candidates."""
    samples = []
    for condition in GENERATED:
        for pair, sample in zip(pairs, answers_under(study, pairs, spaces, condition)):
            donor = study.problems[pair.donor]
            from_donor = answered_in(donor, sample["output"], study.languages)
            given = "recipient" if sample["correct_in"] else "donor" if from_donor else "other"
            sample |= {"design": "different_problem", "condition": condition, "answer": given, "donor": donor.id}
            samples.append(sample | {"donor_language": study.names[pair.donor_language]})
    return samples


def answers_under(study: Study, pairs: list[Pair], spaces: list[Subspaces], condition: str) -> list[dict]:
    """Greedy answers of the recipients with one condition's swap."""
    if not pairs:
        return []
    recipients = [(pair.recipient_language, pair.recipient) for pair in pairs]
    own = torch.stack([study.streams[language, problem, study.z.site] for language, problem in recipients])
    donors = torch.stack([study.streams[pair.donor_language, pair.donor, study.z.site] for pair in pairs])
    vectors = own.clone()
    for fold, space in enumerate(spaces):
        chosen = torch.tensor([pair.fold == fold for pair in pairs], device=own.device)
        swaps = space.swaps(donors[chosen] - own[chosen], draws=1)
        vectors[chosen] += swaps[:, [*SINGLE, *NULLS].index(condition)]
    return study.ask(recipients, vectors, study.z.site)


def generated_shares(samples: list[dict]) -> dict:
    """Per condition: whose answer was generated, in whose language."""
    result = {}
    for condition in GENERATED:
        rows = [sample for sample in samples if sample["condition"] == condition]
        kept = np.array([row["written_in"] == row["language"] for row in rows], bool)
        moved = np.array([row["written_in"] == row["donor_language"] for row in rows], bool)
        whose = np.array([row["answer"] for row in rows], str)
        answers = {name: whose == name for name in ("recipient", "donor", "other")}
        result[condition] = {f"{name}_answer": share(values) for name, values in answers.items()}
        result[condition] |= {"recipient_language": share(kept), "donor_language": share(moved)}
        result[condition]["donor_answer_in_recipient_language"] = share(answers["donor"] & kept)
        result[condition]["recipient_answer_in_donor_language"] = share(answers["recipient"] & moved)
    return result


def generate_same_problem(study: Study, spaces: list[Subspaces], unpatched: list[dict]) -> list[dict]:
    """The recipe's steps 1 to 6: recipient and donor are one problem in two languages, solved in the donor's."""
    folds = study.folds().tolist()
    pairs = [
        Pair(problem, problem, recipient, donor, folds[problem], problem)
        for donor, recipient in permutations(range(len(study.names)), 2)
        for problem in study.solved[donor].nonzero().flatten().tolist()
    ]
    before = dict(zip(study.asked, unpatched))
    samples = []
    for condition in SAME_PROBLEM:
        for pair, sample in zip(pairs, answers_under(study, pairs, spaces, condition)):
            was = before[pair.recipient_language, pair.recipient]
            state = "right" if was["correct_in"] == was["language"] else "other_form" if was["correct"] else "wrong"
            sample |= {"design": "same_problem", "condition": condition, "unpatched": state}
            samples.append(sample | {"donor_language": study.names[pair.donor_language]})
    return samples


def same_problem_counts(samples: list[dict]) -> dict:
    """Per condition: wrong answers that the swap rescued, right ones that it lost, and language moved; Z against random.

    A right answer in digits or in another language (`other_form`) counts neither as wrong nor as right before.
    """
    result, rescued = {}, {}
    for condition in SAME_PROBLEM:
        rows = [sample for sample in samples if sample["condition"] == condition]
        wrong = [row for row in rows if row["unpatched"] == "wrong"]
        right = [row for row in rows if row["unpatched"] == "right"]
        rescued[condition] = np.array([row["correct_in"] == row["language"] for row in wrong], bool)
        result[condition] = {
            "wrong_before": len(wrong),
            "rescued": int(rescued[condition].sum()),
            "right_before": len(right),
            "answer_lost": sum(not row["correct"] for row in right),
            "language_moved": sum(row["written_in"] == row["donor_language"] for row in right),
        }
    only_z, only_random = (int((rescued[a] & ~rescued[b]).sum()) for a, b in (("z", "random"), ("random", "z")))
    return result | {"p_rescue": statistics.mcnemar_p(only_z, only_random)}


def decide(results: dict, label: str) -> str:
    """The rule for Z ("z"), or for the weight-based Z where that is another ("weight")."""
    if failed(results, label, "answer"):
        return "none"
    paired = results["paired"][label]
    both = min(paired["lowest"], paired["lowest_perp"]) >= MAJORITY
    return "double_dissociation" if both and not failed(results, label, "language") else "partial"


def failed(results: dict, label: str, half: str) -> list[str]:
    """The tests that Z fails in moving the answer, or that Z⊥ fails in moving the language and keeping the answer.

    Z must beat random subspaces of both kinds, no swap, and the part of a wrong donor: a swap that merely erases the
    recipient's answer leaves the choice between two answers to chance, and half of the pairs can succeed without anything
    being carried over. For the same reason Z⊥ must beat itself with Z erased, and the complement of random subspaces.
    """
    success, paired = results["success"], results["paired"][label]
    null = results["null" if label == "z" else "weight_null"]
    if half == "answer":
        tests = {name: null[name]["p"] < LEVEL for name in NULLS[:2]}
        controls = {"none": "unpatched", f"{label}_wrong_donor": "wrong_donor"}
    else:
        tests = {"random_perp": null["random_perp"]["p"] < LEVEL}
        controls, label = {f"{label}_perp_erased": "erased"}, f"{label}_perp"
    tests |= {control: success[label] > success[control] and paired[test] < LEVEL for control, test in controls.items()}
    return [name for name, passed in tests.items() if not passed]


def claims(results: dict) -> list[dict]:
    """The recipe's success criteria, as rows."""
    show, success, pairs = page.show, results["success"], results["pairs"]

    def rate(label: str) -> str:
        low, high = results["interval"][label]
        return f"{success[label]:.1%} of {pairs} pairs (95 % {low:.1%} to {high:.1%})"

    def beside(label: str, names: tuple = NULLS[:2]) -> str:
        rows = results["null" if label[0] == "z" else "weight_null"]
        parts = []
        for name in names:
            mean, high = rows[name]["mean"], rows[name]["quantiles"][2]
            parts.append(f"{NAMES[name]} {mean:.1%} (95th percentile {high:.1%}), p {show(rows[name]['p'], 2)}")
        control, test = (
            (f"{label}_erased", "erased") if label.endswith("_perp") else (f"{label}_wrong_donor", "wrong_donor")
        )
        p = results["paired"][label.removesuffix("_perp")][test]
        return "; ".join([*parts, f"{NAMES[control]} {success[control]:.1%}, p {show(p, 2)}"])

    predicted = "weight" if "weight" in success else "z"
    alike = results["same_problem"]
    wrong, rescued, by_random = (
        alike[key][name] for key, name in (("z", "wrong_before"), ("z", "rescued"), ("random", "rescued"))
    )
    paired = results["paired"]["z"]
    return [
        page.claim(
            "z",
            "swapping Z changes the answer and not the language",
            "yes",
            rate("z"),
            beside("z"),
            not failed(results, "z", "answer") and paired["lowest"] >= MAJORITY if pairs else None,
        ),
        page.claim(
            "z_perp",
            "swapping Z⊥ changes the language and not the answer",
            "yes",
            rate("z_perp"),
            beside("z_perp", ("random_perp",)),
            not failed(results, "z", "language") and paired["lowest_perp"] >= MAJORITY if pairs else None,
        ),
        page.claim(
            "weights",
            "the Z that the weights predict does both",
            "yes, without any data",
            f"{rate(predicted)}; its complement {rate(f'{predicted}_perp')}",
            beside(predicted),
            decide(results, predicted) == "double_dissociation" if pairs else None,
        ),
        page.claim(
            "rescue",
            "Z of the same problem in the other language rescues a wrong answer",
            "yes",
            f"{rescued} of {wrong} wrong answers",
            f"a random subspace {by_random} of {wrong}, exact McNemar p {show(alike['p_rescue'], 2)}",
            # with fewer than six no outcome of the exact test reaches p < .05
            rescued > by_random and alike["p_rescue"] < LEVEL if wrong >= 6 else None,
        ),
    ]


# ---- reporting ------------------------------------------------------------------------------------------------------

NAMES = {
    "none": "no swap",
    "z": "Z",
    "z_perp": "Z⊥",
    "full": "full stream",
    "random": "Haar-random k",
    "random_matched": "covariance-matched random k",
    "random_perp": "complement of Haar-random k",
    "pca": "top-k PCA",
    "centroid": "language centroid direction",
    "centroid_perp": "all but the language centroid direction",
    "z_wrong_donor": "Z of a wrong donor",
    "z_perp_erased": "Z⊥ with Z erased",
    "full_wrong_donor": "full stream of a wrong donor",
    "weight": "weight-based Z",
    "weight_perp": "complement of the weight-based Z",
    "weight_wrong_donor": "weight-based Z of a wrong donor",
    "weight_perp_erased": "its complement, with it erased",
}
METHODS = {
    "weight": "weight-based, multi-head",
    "weight_head0": "weight-based, head 0",
    "centroid": "fitted on activations: language centroids removed (arXiv 2505.15257)",
    "ard_mmd": "fitted on activations: ARD-MMD",
    "sweep": "weight-based, best layer of the sweep",
    "previous_layer": "weight-based, previous layer",
}
SITE_NAMES = NAMES | {
    "full_wrong_donor": "full stream, wrong donor",
    "layer_z": "layer's own Z",
    "layer_z_wrong_donor": "layer's own Z, wrong donor",
    "random": "random",
}
WHO = ("recipient's", "donor's")


def render(results: dict, arrays: dict) -> dict[str, bytes]:
    """Report and figures from saved results and arrays."""
    samples = [json.loads(line) for line in arrays[ARRAYS[2]].decode().split("\n") if line]
    text = page.report(
        f"Phase 3: patching {results['model']['name']}",
        verdict_sentence(results),
        results["claims"],
        sections(results, samples),
        limitations(results),
    )
    figures = {
        "phase3_success.png": figure_success(results, arrays[ARRAYS[1]]),
        "phase3_dose.png": figure_dose(results),
        "phase3_sites.png": figure_sites(results),
    }
    return {name: page.png(figure) for name, figure in figures.items()} | {"phase3_output.md": text.encode()}


def verdict_sentence(results: dict) -> str:
    success, z, show = results["success"], results["settings"]["z"], page.show
    if not results["pairs"]:
        solved = results["problems"]["solved_everywhere"]
        return (
            f"Nothing can be patched (`none`): {solved} of {results['problems']['asked']} problems are solved unpatched in every "
            "language, and no two of them make a pair. This says nothing about Z."
        )
    what = {
        "double_dissociation": "Swapping Z moves the answer and swapping its complement moves the language",
        "partial": "Swapping Z moves the answer more often than random subspaces do, but this is no double dissociation",
        "none": "Swapping Z is not shown to move the answer: Z is correlational at best",
    }[results["verdict"]]
    null, paired = results["null"], results["paired"]["z"]
    sentence = (
        f"{what} (`{results['verdict']}`). With a donor of another problem in another language, Z (k = {z['k']} at site "
        f"{z['site']}; {METHODS[z['method']]}) gives the donor's answer in the recipient's language in {success['z']:.1%} of "
        f"{results['pairs']} pairs (Haar-random {success['random']:.1%}, p {show(null['random']['p'], 2)}; covariance-matched "
        f"{success['random_matched']:.1%}, p {show(null['random_matched']['p'], 2)}; wrong donor {success['z_wrong_donor']:.1%}, p "
        f"{show(paired['wrong_donor'], 2)}); Z⊥ gives the recipient's answer in the donor's language in {success['z_perp']:.1%} (with "
        f"Z erased {success['z_perp_erased']:.1%}, p {show(paired['erased'], 2)}). The whole stream gives the donor's answer in "
        f"{moved_answer(results, 'full'):.1%} (a wrong donor's {moved_answer(results, 'full_wrong_donor'):.1%})."
    )
    not_passed = [NAMES[name] for name in failed(results, "z", "answer")]
    if not_passed:
        sentence += f" Z does not beat: {', '.join(not_passed)}."
    if results["pairs"] < FEW_PAIRS:
        sentence += " These are too few pairs to tell."
    if "weight_verdict" in results:
        verdict = results["weight_verdict"]
        sentence += (
            f" The weight-based Z of that size does it in {success['weight']:.1%} (by the same rule `{verdict}`)."
        )
    return sentence


def moved_answer(results: dict, label: str) -> float:
    """Share of pairs in which the donor's answer wins, in either language."""
    return sum(share for share, (answer, _) in zip(results["winners"][label], CANDIDATES) if answer == DONOR)


def sections(results: dict, samples: list[dict]) -> list[str]:
    show, settings, problems, z = page.show, results["settings"], results["problems"], results["settings"]["z"]
    files = ", ".join(f"`{name}`" for name, _ in settings["problems"])
    solved = ", ".join(f"{count} in {name}" for name, count in problems["solved"].items())
    left_out = (
        f" {problems['left_out_as_fitted']} problems on which Z was fitted are left out."
        if problems["left_out_as_fitted"]
        else ""
    )
    paired = results["paired"]["z"]
    energy = ", ".join(f"{NAMES[name]} {show(value, 2)}" for name, value in results["energy"].items())
    return [
        "## 1 Problems and pairs",
        f"{problems['asked']} problems from {files}, answers in words, exemplars from `{settings['exemplars'][0]}`.{left_out} Solved "
        f"unpatched in a word of that language: {solved}; in every language: {problems['solved_everywhere']}. The "
        f"other {problems['asked'] - problems['solved_everywhere']} fall out. {results['pairs']} pairs: each is a recipient once per "
        "direction, its donor is another problem with another answer. The stream at the last prompt position is patched at site "
        f"{z['site']}, the stream after {z['site']} layers.",
        "## 2 Conditions",
        "![Success of every condition](phase3_success.png)",
        "Different problem, other language. Shares of pairs in which each of the four candidates has the highest log-probability; "
        "*target* is the outcome that counts as success if Z holds the answer and Z⊥ the language (conditions without a prediction of "
        "their own are scored as Z). *Answer* and *language* are mean changes of log-odds towards the donor's, against no swap.",
        condition_table(results),
        f"Z⊥ has {show(float(results['width'] - z['k']))} of {results['width']} dimensions: that it acts almost like the full swap is "
        "expected whatever Z is. What would count is that it leaves the answer alone.",
        "## 3 Random subspaces",
        f"{settings['draws']} draws each; p = (1 + draws at least as successful) / (1 + draws). Covariance-matched draws come from "
        "N(0, Σ) of the other fold's streams at the last prompt position, around each language's mean. Share of the swapped "
        f"difference's squared norm inside: {energy}; k/d is {show(z['k'] / results['width'], 2)}.",
        null_table(results),
        "Over the same pairs (exact McNemar): Z against no swap p = "
        f"{show(paired['unpatched'], 2)}, against a wrong donor p = {show(paired['wrong_donor'], 2)}; Z⊥ against Z⊥ with Z erased p = "
        f"{show(paired['erased'], 2)}. A swap that merely erases the recipient's answer leaves two answers to chance and can succeed "
        "in half of the pairs; the part of a third problem, whose answer is no candidate, shows how often.",
        "## 4 Designs and directions",
        "Success per direction (donor to recipient), different problem, other language:",
        direction_table(results),
        "Different problem, same language (the donor asks in the recipient's language, so only the answer can move; the other "
        "language's candidates are still on offer):",
        same_language_table(results),
        "## 5 Dose and response",
        "![Dose and response](phase3_dose.png)",
        f"The first k rows of a basis that begins with Z's {z['k']} directions, then random ones; beside {SWEEP_DRAWS} random bases.",
        dose_table(results),
        "## 6 Sites",
        "![Success by site](phase3_sites.png)",
        "Success of each swap at every site, beside the same with a wrong donor, which is the floor that erasing alone reaches; "
        f"*layer's own Z* is the weight-based Z of the layer that ends there (k = {z['k']} "
        f"at most), *random* the mean of {SWEEP_DRAWS} Haar-random subspaces.",
        site_table(results),
        causal_text(results["causal_site"]),
        "## 7 Free generation",
        "Greedy generation with the swap at the last prompt position, every pair, no candidates given; *random* is one Haar draw.",
        generated_table(results),
        "## 8 Same problem",
        "Recipient and donor are one problem, solved unpatched in the donor's language. *Rescued*: wrong before, right after, in the "
        "recipient's language. A swap that leaves a right answer alone shows nothing: both prompts have that answer.",
        same_problem_table(results),
        "## 9 Sample generations",
        "All are in `phase3_samples.jsonl`.",
        sample_table(samples),
    ]


def causal_text(causal: dict) -> str:
    if causal["site"] is None:
        return "No layer's own Z does better at its output than both a wrong donor and random subspaces."
    return (
        f"The layer whose own weight-based Z works best is L{causal['layer']} (site {causal['site']}): {causal['gain']:+.1%} above "
        f"the better one of wrong donor and random subspaces (sign flips over pairs, Holm over sites: p "
        f"{page.show(causal['p_holm'], 2)}); it alone is best in {causal['support']:.0%} of bootstrap resamples of the pairs."
    )


def percent(value: float) -> str:
    return f"{value:.1%}"


def condition_table(results: dict) -> str:
    rows = []
    for label in results["conditions"]:
        answer, language = TARGETS[label]
        spread = results["interval"].get(label)
        bounds = "mean of draws" if spread is None else f"{spread[0]:.1%} to {spread[1]:.1%}"
        rows.append(
            [
                NAMES[label],
                f"{WHO[answer]} answer, {WHO[language]} language",
                percent(results["success"][label]),
                bounds,
            ]
            + [percent(value) for value in results["winners"][label]]
            + [f"{results['effect'][label]['answer']:+.2f}", f"{results['effect'][label]['language']:+.2f}"]
        )
    outcomes = [f"{WHO[answer]} answer, {WHO[language]} language" for answer, language in CANDIDATES]
    headers = ["swapped", "target", "success", "95 % Wilson", *outcomes, "answer, nats", "language, nats"]
    return page.table(headers, rows)


def null_table(results: dict) -> str:
    show, rows = page.show, []
    for name, row in results["null"].items():
        low, _, high = row["quantiles"]
        effect = f"{row['effect_quantiles'][1]:+.2f} (95th percentile {row['effect_quantiles'][2]:+.2f})"
        rows.append(
            [
                NAMES[name],
                NAMES[row["tests"]],
                percent(low),
                percent(row["mean"]),
                percent(high),
                show(row["p"], 2),
                effect,
            ]
        )
        rows[-1].append(show(row["p_effect"], 2))
    headers = ["null", "of", "5 %", "mean", "95 %", "p of success", "its effect, nats", "p of effect"]
    return page.table(headers, rows)


def direction_table(results: dict) -> str:
    shown = [label for label in results["conditions"] if label != "none"]
    rows = [
        [name.replace("_to_", " → "), row["pairs"], *(percent(row[label]) for label in shown)]
        for name, row in results["directions"].items()
    ]
    return page.table(["direction", "pairs", *(NAMES[label] for label in shown)], rows)


def same_language_table(results: dict) -> str:
    rows = [
        [NAMES[label], percent(values[2] + values[3]), percent(values[1] + values[3])]
        for label, values in (
            (label, results["same_language"][label])
            for label in results["conditions"]
            if label in results["same_language"]
        )
    ]
    return page.table(["swapped", "donor's answer wins", "other language wins"], rows)


def dose_table(results: dict) -> str:
    keys = ("answer", "language", "success", "random_answer", "random_language", "random_success")
    rows = [[row["k"], *(percent(row[key]) for key in keys)] for row in results["dose"]]
    headers = [
        "k",
        "donor's answer",
        "donor's language",
        "Z's target",
        "random: donor's answer",
        "random: donor's language",
    ]
    return page.table([*headers, "random: Z's target"], rows)


def site_table(results: dict) -> str:
    keys = (*SITES, "random")
    rows = [
        [f"{row['site']}{' (Z)' if row['handed'] else ''}", *(percent(row[key]) for key in keys)]
        for row in results["sites"]
    ]
    return page.table(["site", *(SITE_NAMES[key] for key in keys)], rows)


def generated_table(results: dict) -> str:
    keys = ("recipient_answer", "donor_answer", "other_answer", "recipient_language", "donor_language")
    keys += ("donor_answer_in_recipient_language", "recipient_answer_in_donor_language")
    rows = [[NAMES[label], *(percent(results["generated"][label][key]) for key in keys)] for label in GENERATED]
    headers = ["swapped", "recipient's answer", "donor's answer", "other", "recipient's language", "donor's language"]
    return page.table([*headers, "Z's target", "Z⊥'s target"], rows)


def same_problem_table(results: dict) -> str:
    rows = [
        [NAMES[label], f"{row['rescued']} of {row['wrong_before']}", f"{row['answer_lost']} of {row['right_before']}"]
        + [f"{row['language_moved']} of {row['right_before']}"]
        for label, row in ((label, results["same_problem"][label]) for label in SAME_PROBLEM)
    ]
    return page.table(["swapped", "rescued", "right answers lost", "language moved"], rows)


def sample_table(samples: list[dict]) -> str:
    """The first pairs of every direction under every condition."""
    seen, rows = {}, []
    for sample in samples:
        if sample.get("design") == "different_problem":
            kind = (sample["condition"], sample["language"], sample["donor_language"])
            seen[kind] = seen.get(kind, 0) + 1
            if seen[kind] <= SHOWN_PAIRS:
                donor = f"{sample['donor']}, {sample['donor_language']}"
                rows.append(
                    [f"{sample['id']}, {sample['language']}", donor, NAMES[sample["condition"]]]
                    + [page.escape(sample["output"].strip()[:60]), sample["answer"], sample["written_in"] or "–"]
                )
    rows.sort(key=lambda row: row[:2])
    return page.table(["recipient", "donor", "swapped", "output", "whose answer", "language"], rows)


def limitations(results: dict) -> list[str]:
    lines = [
        "Only the last prompt position is patched: what earlier positions carry reaches later layers unswapped.",
        "A swap replaces part of one stream by part of another; the result may be a state that the model never visits.",
        "Four candidates are compared; section 7 shows what comes out when nothing is offered.",
        "Each problem takes part in several pairs, so the Wilson intervals are somewhat too narrow.",
        "Success by itself does not make Z special: read it beside matched subspaces and PCA.",
        "Candidates are scored without what follows them, so an answer also collects that of longer ones that begin with it.",
    ]
    if results["settings"]["z"]["method"] not in ("weight", "weight_head0", "sweep", "previous_layer"):
        lines.insert(
            0, "Z was fitted on activations (a contingency): its success is no evidence for a prediction from weights."
        )
    if not results["settings"]["z"]["holds"]:
        lines.insert(0, "This Z did not pass phase 2's test.")
    if results["pairs"] and results["paired"]["z"]["full"] >= LEVEL:
        lines.insert(
            0,
            "At this site even the whole stream does no better than a wrong donor's: the answer is not shown to be at the last "
            "position there, and no subspace of it could be expected to pass. Section 6 shows all sites.",
        )
    if results["pairs"] < FEW_PAIRS:
        lines.insert(
            0,
            f"With fewer than {FEW_PAIRS} pairs the exact tests hardly reach p < .05 whatever Z does: `none` says little.",
        )
    return lines


def figure_success(results: dict, draws: np.ndarray) -> Figure:
    figure = Figure(figsize=(9, 4.5))
    panel = figure.subplots()
    labels = results["conditions"]
    colors = {(1, 0): "tab:blue", (0, 1): "tab:orange", (1, 1): "tab:gray"}
    for place, label in enumerate(labels):
        value = results["success"][label]
        low, high = results["interval"].get(label) or (results["null"][label]["quantiles"][i] for i in (0, 2))
        error = [[max(0, value - low)], [max(0, high - value)]]
        panel.bar(place, value, color=colors[TARGETS[label]], yerr=error, capsize=4)
    for (answer, language), color in colors.items():
        panel.bar(0, 0, color=color, label=f"{WHO[answer]} answer in the {WHO[language]} language")
    panel.axhline(MAJORITY, color="black", linestyle=":", linewidth=1)
    panel.set_xticks(range(len(labels)), [NAMES[label] for label in labels], rotation=30, ha="right", fontsize=8)
    panel.set(
        title=f"target outcome wins, share of {results['pairs']} pairs (95 % Wilson; random: 5 % to 95 % of {draws.shape[1]} draws)",
        ylabel="share of pairs",
        ylim=(0, 1.05),
    )
    panel.legend(fontsize=8)
    figure.tight_layout()
    return figure


def figure_dose(results: dict) -> Figure:
    figure = Figure(figsize=(7, 4))
    panel = figure.subplots()
    ks = [row["k"] for row in results["dose"]]
    for key, label, color in (
        ("answer", "donor's answer", "tab:blue"),
        ("language", "donor's language", "tab:orange"),
        ("success", "donor's answer, recipient's language", "tab:green"),
    ):
        panel.plot(ks, [row[key] for row in results["dose"]], marker=".", color=color, label=label)
        panel.plot(
            ks, [row[f"random_{key}"] for row in results["dose"]], ":", color=color, label=f"{label}, random basis"
        )
    panel.axvline(results["settings"]["z"]["k"], color="tab:red", linewidth=1, label="Z ends here")
    panel.set_xscale("log", base=2)
    panel.set(title="how many dimensions are swapped", xlabel="k", ylabel="share of pairs", ylim=(-0.02, 1.05))
    panel.legend(fontsize=7)
    figure.tight_layout()
    return figure


def figure_sites(results: dict) -> Figure:
    figure = Figure(figsize=(9, 3.8))
    panel = figure.subplots()
    keys = (*SITES, "random")
    values = np.array([[row[key] for row in results["sites"]] for key in keys])
    image = panel.imshow(values, aspect="auto", vmin=0, vmax=1, cmap="viridis")
    figure.colorbar(image, ax=panel, label="success")
    panel.set_yticks(range(len(keys)), [SITE_NAMES[key] for key in keys])
    handed = next(row["site"] for row in results["sites"] if row["handed"])
    panel.axvline(handed, color="tab:red", linewidth=1)
    panel.set(
        title=f"how often each swap's own target wins, by site (red: Z's site {handed})", xlabel="site (layers passed)"
    )
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    runs.run_script(main)
