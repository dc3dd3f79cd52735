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

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch

import utils
import verdicts
from lab import engine, models, questions, runs, statistics, subspaces
from reports import phase3 as page

ARRAYS = ("phase3_scores.npy", "phase3_draws.npy", "phase3_samples.jsonl", "phase3_pairs.jsonl", "phase3_streams.npy")
REPORT = runs.Report(__file__, "phase3", ARRAYS, verdicts.phase3, page)
RECIPIENT, DONOR = 0, 1


@dataclass(frozen=True)
class Condition:
    """One kind of swap, and what it is measured against."""

    name: str
    answer: int  # whose answer should win if Z holds the answer and its complement the language
    language: int  # and in whose language
    control: str | None = None  # the condition that it is tested against over the pairs
    nulls: tuple[str, ...] = ()  # the random subspaces whose draws it is tested against
    subspace: str = "z"  # which tested subspace is swapped
    swap: str | None = None  # its row in `Subspaces.swaps`, where that is not the name

    @property
    def target(self) -> tuple[int, int]:
        return self.answer, self.language


RANDOM, COMPLEMENT = ("random", "random_matched"), ("random_perp",)  # nulls of Z, of Z⊥
NULLS = (*RANDOM, *COMPLEMENT)
# In the order of phase3_scores.npy. Conditions without a prediction of their own are scored as Z is: they show how often
# that outcome comes without Z. In controls the part that should hold the answer comes from a third problem, whose answer is
# no candidate. `weight` is the weight-based Z at its own site, where Z is another one.
CONDITIONS = (
    Condition("none", DONOR, RECIPIENT),
    Condition("z", DONOR, RECIPIENT, "z_wrong_donor", RANDOM),
    Condition("z_perp", RECIPIENT, DONOR, "z_perp_erased", COMPLEMENT),
    Condition("full", DONOR, DONOR, "full_wrong_donor"),
    Condition("random", DONOR, RECIPIENT),
    Condition("random_matched", DONOR, RECIPIENT),
    Condition("pca", DONOR, RECIPIENT),
    Condition("centroid", RECIPIENT, DONOR),
    Condition("centroid_perp", DONOR, RECIPIENT),
    Condition("z_wrong_donor", DONOR, RECIPIENT),
    Condition("z_perp_erased", RECIPIENT, DONOR),
    Condition("full_wrong_donor", DONOR, DONOR),
    Condition("weight", DONOR, RECIPIENT, "weight_wrong_donor", RANDOM, "weight", "z"),
    Condition("weight_perp", RECIPIENT, DONOR, "weight_perp_erased", COMPLEMENT, "weight", "z_perp"),
    Condition("weight_wrong_donor", DONOR, RECIPIENT, subspace="weight", swap="z_wrong_donor"),
    Condition("weight_perp_erased", RECIPIENT, DONOR, subspace="weight", swap="z_perp_erased"),
)
CONDITIONS = {condition.name: condition for condition in CONDITIONS}
TESTED = {"z": ("z", "z_perp"), "weight": ("weight", "weight_perp")}  # a tested subspace's swap, and its complement's
SITES = {  # swaps of the site sweep and their targets
    "full": (DONOR, DONOR),
    "full_wrong_donor": (DONOR, DONOR),
    "z": (DONOR, RECIPIENT),
    "z_perp": (RECIPIENT, DONOR),
    "layer_z": (DONOR, RECIPIENT),
    "layer_z_wrong_donor": (DONOR, RECIPIENT),
    "random": (DONOR, RECIPIENT),
}
SINGLE = ("none", "z", "z_perp", "full", "pca", "centroid", "centroid_perp")  # swaps that need no third problem
CONTROLS = ("z_wrong_donor", "z_perp_erased", "full_wrong_donor")
CANDIDATES = ((RECIPIENT, RECIPIENT), (RECIPIENT, DONOR), (DONOR, RECIPIENT), (DONOR, DONOR))  # (answer, language)
DRAWS = 200  # subspaces per null; the design asks for 100 or more
SWEEP_DRAWS = 10  # subspaces per size and per site in the sweeps, which are descriptive
FOLDS = 2  # pairs are formed within a fold; what is fitted for them is fitted on the other
MINIMUM_PROBLEMS = 4
MAX_NEW_TOKENS = 12  # an answer in words
GENERATED = ("none", "z", "z_perp", "full", "centroid", "centroid_perp", "random")  # random: the first draw
SAME_PROBLEM = ("z", "z_perp", "full", "random")


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    opening = questions.begin(REPORT, arguments, "words.jsonl", in_words=True)
    if opening is None:
        return
    z = subspaces.load_z(arguments.out, opening.folder)
    problems, fitted = unfitted(opening.problems, z.fitted_on, opening.files)
    run = opening.run({"layer_chosen": z.chosen}, z=z.summary, draws=DRAWS)
    if run is None:
        return
    model, tokenizer = questions.load_model(opening)
    study = Study(model, tokenizer, opening.languages, problems, opening.exemplars, z, arguments.batch, arguments.seed)
    samples = study.ask()
    study.solved = solved(samples, study)
    study.streams = last_streams(study)
    pairs = make_pairs(study)
    tested = tested_subspaces(study)
    spaces = tested["z"].folds
    measured = patch(study, pairs, tested)
    results = {"problems": problem_counts(study, fitted), "pairs": len(pairs), "width": z.basis.shape[1]}
    results |= {"usable": study.solved.all(0).nonzero().flatten().tolist()} | orders(measured["labels"])
    results |= summarise(measured, pairs, study.names)
    results |= {"dose": dose(measured, z.basis.shape), "sites": sites(measured["sites"], z.site)}
    results |= {"causal_site": causal_site(measured["sites"], study.seed), "energy": energies(study, pairs, spaces)}
    generated = generate_patched(study, pairs, spaces)
    alike = generate_same_problem(study, spaces, samples)
    results |= {"generated": generated_shares(generated), "same_problem": same_problem_counts(alike)}
    draws = np.stack([rows for nulls in measured["draws"].values() for rows in nulls.values()])
    lines = (runs.json_lines(samples + generated + alike), runs.json_lines([described(study, pair) for pair in pairs]))
    arrays = (measured["scores"], draws, *lines, study.streams[:, :, z.site].cpu().numpy())
    run.save(results, dict(zip(ARRAYS, arrays)))


def parse_arguments(argv: list[str] | None):
    return runs.command_line(__doc__, asks_problems=True).parse_args(argv)


def unfitted(problems: list, fitted_on: set[str], files: list) -> tuple[list, int]:
    """The problems that Z was not fitted on, and how many were left out."""
    kept = [problem for problem in problems if questions.problem_hash(problem) not in fitted_on]
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
    z: subspaces.HandedZ
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
                return models.edited_stream(self.model, {site: lambda _: vectors[chosen][:, None]}, "last")

        outputs = models.generate(self.model, self.tokenizer, prompts, MAX_NEW_TOKENS, self.batch, during)
        samples = []
        for (language, problem), output in zip(recipients, outputs):
            asked = self.problems[problem]
            sample = {"id": asked.id, "language": self.names[language], "output": output}
            extracted, correct = questions.grade(asked, output)
            language_of_it = answered_in(asked, output, self.languages)
            sample |= {"extracted": extracted, "correct": correct or language_of_it is not None}
            written_in = questions.answer_language(output, asked, self.languages, self.problems)
            samples.append(sample | {"correct_in": language_of_it, "written_in": written_in})
        return samples


def answered_in(problem, output: str, languages: dict) -> str | None:
    """The language in which the output gives the problem's answer in words; None if it does not.

    A word counts where the output begins with it, whatever follows; a number where it is the one that phase 0 reads, in the
    language whose word the output begins with, else in that whose word it holds or whose script it is written in.
    """
    number = not isinstance(problem.answer, str)
    if number and not questions.grade(problem, output)[1]:
        return None
    for name in languages:
        if re.match(rf"\s*{re.escape(problem.answer_text[name])}(?![a-zß-ɏ])", output, re.IGNORECASE):
            return name
    return questions.answer_language(output, problem, languages) if number else None


def solved(samples: list[dict], study: Study) -> torch.Tensor:
    """(languages, problems) whether the answer is right and in a word of the language asked in."""
    right = [sample["correct_in"] == sample["language"] for sample in samples]
    return torch.tensor(right).view(len(study.names), len(study.problems))


def last_streams(study: Study) -> torch.Tensor:
    """Unpatched streams at the last prompt position, (languages, problems, sites, d) float32 on the model's device."""
    prompts = [study.prompt(*asked) for asked in study.asked]
    streams = engine.last_streams(study.model, study.tokenizer, prompts, study.batch).to(study.model.device)
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


@dataclass
class Subspaces:
    """What is swapped for the pairs of one fold at one site; everything fitted comes from the problems of the other fold."""

    z: torch.Tensor  # (k, d)
    pca: torch.Tensor  # (at most k, d)
    language: torch.Tensor  # (languages - 1, d)
    random: torch.Tensor  # (draws, k, d)
    random_matched: torch.Tensor  # (draws, k, d)

    def swaps(self, difference: torch.Tensor, draws: int = 0, third: torch.Tensor | None = None) -> dict:
        """What is added to the recipient's stream, by the swap's name: SINGLE, CONTROLS where the third problem's difference
        is given, and draws of every null. (b, d) -> {name: (b, 1 or draws, d)}
        """
        whole = difference[:, None]
        z, pca, language = (part(difference, basis[None]) for basis in (self.z, self.pca, self.language))
        rows = dict(zip(SINGLE, (torch.zeros_like(whole), z, whole - z, whole, pca, language, whole - language)))
        if third is not None:
            wrong = part(third, self.z[None])
            rows |= dict(zip(CONTROLS, (wrong, whole - z + wrong, third[:, None])))
        if draws:
            haar, matched = (part(difference, bases[:draws]) for bases in (self.random, self.random_matched))
            rows |= dict(zip(NULLS, (haar, matched, whole - haar)))
        return rows


def part(difference: torch.Tensor, bases: torch.Tensor) -> torch.Tensor:
    """The difference's part inside each subspace. (b, d), (m, k, d) -> (b, m, d)"""
    return utils.project(difference, bases).transpose(0, 1)


@dataclass
class Tested:
    """A subspace that a verdict is given about: the site where it is swapped, and what is swapped there for each fold."""

    site: int
    folds: list[Subspaces]


def tested_subspaces(study: Study) -> dict[str, Tested]:
    """The Z handed on, and the weight-based one of its size where Z is another."""
    z = study.z
    tested = {"z": Tested(z.site, fold_subspaces(study, z.basis, z.site))}
    if not z.predicted:
        site, basis = z.bottleneck + 1, z.every_layer[z.bottleneck, : len(z.basis)]
        tested["weight"] = Tested(site, fold_subspaces(study, basis, site))
    return tested


def fold_subspaces(study: Study, basis: torch.Tensor, site: int) -> list[Subspaces]:
    """One set of subspaces per fold, for a Z (k, d) at a site. PCA and covariance are those of the streams at the last
    prompt position, where the swap is made, around each language's mean: with that offset left in, a matched subspace
    would move the language and could not succeed.
    """
    device, (k, width) = study.model.device, basis.shape
    haar = utils.random_subspaces(statistics.seeded(study.seed, "phase3: Haar subspaces"), DRAWS, k, width)
    haar = haar.float().to(device)
    folds, result = study.folds(), []
    for fold in range(FOLDS):
        streams = study.streams[:, (folds != fold).to(device), site].double().cpu()  # (languages, problems, d)
        language = utils.language_space(streams)
        centred = (streams - streams.mean(1, keepdim=True)).flatten(0, 1)
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
        donor = study.streams[pair.donor_language, pair.donor, site]
        own = study.streams[pair.recipient_language, pair.recipient, site]
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


def patch(study: Study, pairs: list[Pair], tested: dict[str, Tested]) -> dict:
    """Scores (…, pairs, 4) of every condition, null, dose and site; each recipient's prompt is run once for all of them."""
    bases, sizes = nested_bases(study), doses(*study.z.basis.shape)
    order = sorted(range(len(pairs)), key=lambda index: pairs[index].fold)
    batches = {}
    for fold in range(FOLDS):
        chosen = [pairs[index] for index in order if pairs[index].fold == fold]
        prompts = [study.prompt(pair.recipient_language, pair.recipient) for pair in chosen]
        candidates = [candidate_tokens(study, pair) for pair in chosen]
        engines = engine.patched_prompts(study.model, study.tokenizer, prompts, candidates, study.batch)
        for rows, patcher in engines:
            batches[fold, rows.start] = dict(patch_batch(study, patcher, chosen[rows], tested, bases))
    batches, back = runs.gathered(batches).values(), np.argsort(order, kind="stable")

    def stacked(measurement: object, counts: dict[str, int]) -> dict[str, np.ndarray]:
        """{swap: (rows, pairs, 4)} of all batches, in the order of the pairs."""
        result = {}
        for swap, count in counts.items():
            none = np.zeros((0, count, 4), np.float32)  # so that the shape stands where there are no pairs
            parts = [batch[measurement][swap].numpy() for batch in batches]
            result[swap] = np.concatenate([none, *parts])[back].swapaxes(0, 1)
        return result

    once, per_null = dict.fromkeys((*SINGLE, *CONTROLS), 1), dict.fromkeys(NULLS, DRAWS)
    scores = {name: stacked(name, once | per_null) for name in tested}
    known = [condition for condition in CONDITIONS.values() if condition.subspace in tested]
    shown = [scores[condition.subspace][condition.swap or condition.name].mean(0) for condition in known]
    alike = stacked("same_language", dict.fromkeys(SINGLE, 1) | dict.fromkeys(NULLS, SWEEP_DRAWS))
    per_site = dict.fromkeys(SITES, 1) | {"random": SWEEP_DRAWS}
    places = [stacked(("sites", place), per_site) for place in range(study.streams.shape[2])]
    dose_scores = stacked("dose", {"dose": len(bases) * len(sizes)})["dose"]
    return {
        "labels": [condition.name for condition in known],
        "scores": np.stack(shown).astype(np.float32),
        "draws": {name: {null: scores[name][null].astype(np.float32) for null in NULLS} for name in tested},
        "same_language": {swap: alike[swap] for swap in (*SINGLE, *RANDOM)},
        "dose": dose_scores.reshape(len(bases), len(sizes), len(pairs), 4),
        "sites": {swap: np.stack([place[swap] for place in places]) for swap in SITES},
    }


def candidate_tokens(study: Study, pair: Pair) -> list[tuple[int, ...]]:
    """The four candidates, in the order of CANDIDATES."""
    problems = (pair.recipient, pair.donor)
    spoken = (pair.recipient_language, pair.donor_language)
    return [study.answer(spoken[language], problems[answer]) for answer, language in CANDIDATES]


def patch_batch(
    study: Study, patcher, pairs: list[Pair], tested: dict[str, Tested], bases: torch.Tensor
) -> Iterator[tuple]:
    """(measurement, {swap: scores (b, rows, 4)}) of one batch of pairs of one fold."""

    def streams(problems: Sequence[tuple[int, int]]) -> torch.Tensor:
        return torch.stack([study.streams[language, problem] for language, problem in problems])  # (b, sites, d)

    own, (fold,) = patcher.streams.float(), {pair.fold for pair in pairs}
    gaps = streams([(pair.donor_language, pair.donor) for pair in pairs]) - own
    thirds = streams([(pair.donor_language, pair.third) for pair in pairs]) - own
    alike = streams([(pair.recipient_language, pair.donor) for pair in pairs]) - own

    def scored(site: int, changes: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        scores = patcher.scores(site, own[:, site, None] + torch.cat(list(changes.values()), 1))
        return dict(zip(changes, scores.split([rows.shape[1] for rows in changes.values()], 1)))

    for name, subspace in tested.items():
        site, spaces = subspace.site, subspace.folds[fold]
        yield name, scored(site, spaces.swaps(gaps[:, site], DRAWS, thirds[:, site]))
    site, spaces = tested["z"].site, tested["z"].folds[fold]
    yield "same_language", scored(site, spaces.swaps(alike[:, site], SWEEP_DRAWS))
    coordinates = torch.einsum("bd,mkd->bmk", gaps[:, site], bases)
    sizes = torch.tensor(doses(*spaces.z.shape), device=bases.device)
    first = torch.arange(bases.shape[1], device=bases.device) < sizes[:, None]  # (sizes, d): which rows are swapped
    nested = torch.einsum("bmk,sk,mkd->bmsd", coordinates, first.float(), bases).flatten(1, 2)
    yield "dose", scored(site, {"dose": nested})
    for place in range(own.shape[1]):
        yield ("sites", place), scored(place, site_swaps(study, spaces, place, gaps[:, place], thirds[:, place]))


def site_swaps(study: Study, spaces: Subspaces, place: int, difference: torch.Tensor, third: torch.Tensor) -> dict:
    """What is added at one site of the sweep, as `Subspaces.swaps` has it; the names are those of SITES."""
    layer = max(place - 1, 0)  # the layer that ends at the site; none ends at the embeddings, which take the first's
    layer_z = study.z.every_layer[layer, : len(spaces.z)].to(difference.device)[None]
    whole, inside = difference[:, None], part(difference, spaces.z[None])
    return {
        "full": whole,
        "full_wrong_donor": third[:, None],
        "z": inside,
        "z_perp": whole - inside,
        "layer_z": part(difference, layer_z),
        "layer_z_wrong_donor": part(third, layer_z),
        "random": part(difference, spaces.random[:SWEEP_DRAWS]),
    }


def winners(scores: np.ndarray) -> np.ndarray:
    """Index into CANDIDATES of the most probable candidate. (..., 4) -> (...)"""
    return scores.argmax(-1)


def hits(scores: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Whether the candidate with the target's answer and language wins. (..., pairs, 4) -> (..., pairs) bool"""
    return winners(scores) == CANDIDATES.index(target)


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
    base, answer, language = (
        scores[..., CANDIDATES.index(target)]
        for target in ((RECIPIENT, RECIPIENT), (DONOR, RECIPIENT), (RECIPIENT, DONOR))
    )
    return np.stack([answer - base, language - base]).astype(float)


def problem_counts(study: Study, fitted: int) -> dict:
    """How many problems there are, and how many fall out for which reason."""
    return {
        "asked": len(study.problems),
        "left_out_as_fitted": fitted,
        "solved": {name: int(right.sum()) for name, right in zip(study.names, study.solved)},
        "solved_everywhere": int(study.solved.all(0).sum()),
    }


def orders(labels: list[str]) -> dict:
    """The order of everything that a page or another script reads, with targets as (whose answer, whose language)."""
    known = [CONDITIONS[label] for label in labels]
    swaps = [{"name": name, "answer": answer, "language": language} for name, (answer, language) in SITES.items()]
    return {
        "conditions": labels,
        "targets": {condition.name: condition.target for condition in known},
        "controls": {condition.name: condition.control for condition in known if condition.control},
        "candidates": CANDIDATES,
        "site_swaps": swaps,
        "generated_conditions": GENERATED,
        "same_problem_conditions": SAME_PROBLEM,
        "sweep_draws": SWEEP_DRAWS,
    }


def summarise(measured: dict, pairs: list[Pair], names: list[str]) -> dict:
    """Success, winners, intervals and effects of every condition; tests of Z; directions; the same-language design."""
    labels, scores = measured["labels"], dict(zip(measured["labels"], measured["scores"]))
    every = {label: measured["draws"]["z"].get(label, scores[label]) for label in labels}  # of a null: all its draws
    won = {label: hits(every[label], CONDITIONS[label].target) for label in labels}  # ((draws,) pairs)
    success = {label: share(won[label]) for label in labels}
    base = effects(scores["none"])
    moved = {label: effects(scores[label]) - base for label in labels}  # of a null: the mean over its draws
    directions = {}
    for direction in sorted({pair.direction for pair in pairs}):
        chosen = np.array([pair.direction == direction for pair in pairs])
        row = {"pairs": int(chosen.sum())} | {label: share(won[label][..., chosen]) for label in labels}
        directions["_to_".join(names[language] for language in direction)] = row
    nulls = {name: nulls_of(name, success, moved, base, draws) for name, draws in measured["draws"].items()}
    return {
        "success": success,
        "interval": {label: interval(won[label]) for label in labels if label not in NULLS},
        "winners": {label: shares(every[label]) for label in labels},
        "effect": {
            label: dict(zip(("answer", "language"), values.mean(1).tolist() if pairs else (0.0, 0.0)))
            for label, values in moved.items()
        },
        "directions": directions,
        "same_language": {label: shares(scored) for label, scored in measured["same_language"].items()},
        "null": nulls.pop("z"),
        **{f"{name}_null": rows for name, rows in nulls.items()},
        "paired": {name: paired_tests(name, scores, directions) for name in measured["draws"]},
    }


def nulls_of(name: str, success: dict, moved: dict, base: np.ndarray, draws: dict) -> dict:
    """Success and effect of a tested subspace and of its complement against draws of their nulls, {null: (draws, pairs, 4)}.

    {null: record of success, with which condition it tests, the mean, and the record of the effect}
    """
    result = {}
    for condition in (CONDITIONS[label] for label in TESTED[name]):
        measure = 0 if condition.answer == DONOR else 1  # of `effects`: what the swap should move
        for null in condition.nulls:
            rows, pairs = draws[null], draws[null].shape[1]
            rates = hits(rows, condition.target).mean(-1) if pairs else np.zeros(len(rows))
            nudged = (effects(rows) - base[:, None])[measure].mean(-1) if pairs else np.zeros(len(rows))
            own = moved[condition.name][measure].mean() if pairs else 0.0
            result[null] = statistics.null_record(rates, success[condition.name])
            result[null] |= {"tests": condition.name, "mean": float(rates.mean())}
            result[null]["effect"] = statistics.null_record(nudged, own)
    return result


def paired_tests(name: str, scores: dict, directions: dict) -> dict:
    """Tests over the pairs: against no swap, against the third problem's part, and the full swap against a wrong donor."""
    inside, outside = (CONDITIONS[label] for label in TESTED[name])
    full = CONDITIONS["full"]
    return {
        "unpatched": paired_p(scores, inside, "none"),
        "wrong_donor": paired_p(scores, inside, inside.control),
        "erased": paired_p(scores, outside, outside.control),
        "full": paired_p(scores, full, full.control),
        "lowest": min((row[inside.name] for row in directions.values()), default=0.0),
        "lowest_perp": min((row[outside.name] for row in directions.values()), default=0.0),
    }


def paired_p(scores: dict, condition: Condition, control: str) -> float:
    """Exact McNemar p, over pairs, of the condition's target winning under it against under the control."""
    with_swap, without = (hits(scores[label], condition.target) for label in (condition.name, control))
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
    """For every site: success of each swap of SITES. measured {swap: (sites, rows, pairs, 4)}"""
    success = {name: [share(row) for row in hits(measured[name], target)] for name, target in SITES.items()}
    rows = [{"site": site, "handed": site == handed} for site in range(len(success["full"]))]
    return [row | {name: values[row["site"]] for name, values in success.items()} for row in rows]


def causal_site(measured: dict, seed: int) -> dict:
    """The site at which the own weight-based Z of the layer that ends there works best, above both of its controls.

    measured {swap: (sites, rows, pairs, 4)}. Gain of a pair: whether Z's target wins with the layer's Z, minus the same with a
    wrong donor, or minus its share over random subspaces, whichever control is better at that site. Support: share of
    bootstrap resamples of pairs in which the site alone is best. p: one-sided sign flips of the pairs, the larger one of
    the two controls, Holm over sites. Nothing is chosen where no gain is positive.
    """
    names = ("layer_z", "layer_z_wrong_donor", "random")
    own, *controls = (hits(measured[name], SITES[name]).mean(1) for name in names)  # (sites, pairs), shares of draws
    gains = np.stack([own - control for control in controls])
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
        vectors[chosen] += space.swaps(donors[chosen] - own[chosen], draws=1)[condition][:, 0]
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


if __name__ == "__main__":
    runs.run_script(main)
