"""Phase 3b: can one learn a linear map inside Z that takes a problem's vector in one language to its vector in the other?

Question   can z_target be predicted from z_source of the same problem, for answers that the map has not seen; better than by a
           constant shift, than with shuffled problems, than from the words of the source alone, than in untrained twins of the
           model and in other subspaces of Z's size? Does the mapped vector, sent into the model, bring the answer along?
Inputs     output/phase2_results.json, phase2_z_basis.npy, phase2_layer_subspaces.npy: Z; phase3_results.json,
           phase3_streams.npy, phase3_prompts.jsonl: the problems that phase 3 found solved, at the position and with the prompts
           that it swaps at, and at Z's own place; the model for words, twins and the transfer
Outputs    output/phase3b_output.md with figures, phase3b_results.json, phase3b_loo.npy (maps, problems scored): squared error of
           each map, phase3b_transfer.npy (conditions, pairs, answers x languages): log-probabilities within the answer set
Run        python phase3b_bridge.py --model Qwen/Qwen2.5-3B          after phase3_patching.py

All problems with one answer are left out together, and so are answers that begin with the same token in either language: at the
last prompt position a model holds the word that comes next. Where Z itself was fitted on some answers, problems whose answers
begin alike train the maps and are never scored. A vector that holds only what kind a problem is would be predicted as well; so
partners are also shuffled within a kind. Two comparisons cross spaces of another scale. Words predict the *same* target,
z_target, from all that the bag of the source's token embeddings holds: a map from bag to bag would have an easier target
(templates recur). Twins and other
subspaces do the whole task in their own space, since only so is an untrained model a fair draw of its twins, and a random Z of
the random subspaces; what is compared there is the *gain*, the share that the map saves of the error which the best of mean,
shift and scaled shift leaves in that space.

Steps, which are also the report's headings:
1 problems   2 held-out prediction   3 words and untrained twins   4 other subspaces   5 the map itself   6 transfer   7 how to read it
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import utils
import verdicts
from lab import (
    checkpoints,
    commands,
    engine,
    gates,
    maps,
    models,
    progress,
    questions,
    runs,
    statistics,
    subspaces,
    transfer,
    twins,
)
from lab.beginnings import common
from reports import phase3b as page

ARRAYS = ("phase3b_loo.npy", "phase3b_transfer.npy")
REPORT = runs.Report(__file__, "phase3b", ARRAYS, verdicts.phase3b, page)
INPUTS = ("phase2_z_basis.npy", "phase3_streams.npy", "phase3_prompts.jsonl")
MAPS = ("identity", "mean_shift", "procrustes", "ridge", "ols")
LEARNED = ("procrustes", "ridge", "ols")
PRIMARY = "ridge"  # the map that the verdict is about, named before looking
FEWEST = {"problems": 12, "answers": 6}  # scored: signs of five answers could not reach p = .03
MOST = 48  # problems: twins are asked them all, and a null draw costs their number cubed
SHUFFLES = 200
RANDOM_SUBSPACES = 120  # of each kind
CONDITIONS = ("none", *MAPS, "shuffled", "own_language")  # of the transfer: what is put into Z
CONTROLS = ("identity", "shuffled")  # of the transfer: no map, and a map of nothing
# whose answer, in whose language
OUTCOMES = ("recipient_recipient", "recipient_donor", "donor_recipient", "donor_donor")
SUCCESS = "donor_recipient"


def main(argv: list[str] | None = None) -> None:
    parser = commands.parser(__doc__)
    parser.add_argument("--batch", type=commands.positive, default=16, help="prompts per forward pass")
    arguments = parser.parse_args(argv)
    opening = checkpoints.begin(REPORT, arguments)
    if opening is None:
        return
    phase3 = runs.load_results(arguments.out, "phase3", opening.folder.identity)
    z = subspaces.load_z(arguments.out, opening.folder)
    source, target = check_alike(arguments.out, z, phase3)
    prompts = asked_prompts(arguments.out)
    problems = known_problems(arguments.out, opening.folder, z, phase3, prompts, (source, target))
    run = opening.run(
        {"layer_chosen": z.chosen},
        dtype=str(opening.dtype).removeprefix("torch."), batch=arguments.batch, source=source, target=target, z=z.summary,
        inputs=contents(arguments.out, phase3), rung=phase3["rung"], outcomes=OUTCOMES, conditions=CONDITIONS,
        controls=CONTROLS, maps=MAPS, learned=LEARNED, primary=PRIMARY, shuffles=SHUFFLES,
        random_subspaces=RANDOM_SUBSPACES, references=maps.REFERENCES, fewest=FEWEST,
    )  # fmt: skip
    if run is None:
        return
    names = {name: row["name"] for name, row in questions.load_languages([source, target]).items()}
    results = {"data": sizes(problems, z, phase3), "unmeasured": unmeasured(problems, phase3["rung"]), "names": names}
    if results["unmeasured"]:
        run.save(results | NOTHING, dict(zip(ARRAYS, no_arrays())))
        return
    basis, seed = z.basis.double(), arguments.seed
    inside = problems.inside(basis)
    predicted = maps.predict((*MAPS, *maps.REFERENCES), *inside, problems.answers)
    results |= prediction(problems, inside, predicted, seed)
    results["null"] = shuffled_null(problems, inside, results["held_out_r2"], seed)
    results["subspaces"] = other_subspaces(problems, basis, seed)
    results["map"] = map_geometry(problems, inside)
    results["components"] = components(predicted[PRIMARY][problems.scored], inside[1][problems.scored])
    model, tokenizer = models.load_model(opening.folder, opening.device, opening.dtype)
    pairs = make_pairs(phase3, prompts, problems, seed)
    scores = send(opening, model, tokenizer, pairs, phase3["answer_set"]["tokens"], z, problems, predicted)
    results["transfer"] = transfer_rates(scores, pairs) | {"answers": len(phase3["answer_set"]["answers"])}
    asked = Asking(model, tokenizer, problems, arguments.batch, seed)
    results["words"] = beyond_words(asked, inside, predicted[PRIMARY])
    results["twins"] = beyond_twins(asked, basis, z.site)  # last: the model is one of its twins afterwards
    scored_errors = [maps.squared_errors(predicted[name], inside[1])[problems.scored] for name in MAPS]
    run.save(results, dict(zip(ARRAYS, (np.stack(scored_errors), scores))))


NOTHING = {
    "held_out_r2": dict.fromkeys(MAPS),
    "transfer": {
        "pairs": 0,
        "success": dict.fromkeys(CONDITIONS, 0.0),
        "p_against": {
            control: {name: 1.0 for name in CONDITIONS if name != control} for control in CONTROLS
        },
    },
}  # fmt: skip


def no_arrays() -> tuple:
    """The arrays of a run that measured nothing."""
    return np.zeros((len(MAPS), 0)), np.zeros((len(CONDITIONS), 0, 0), np.float32)


def check_alike(out: Path, z: subspaces.HandedZ, phase3: dict) -> tuple[str, str]:
    """(source, target) language; UserError unless phase 3 tested today's Z."""
    if "rung" not in phase3:
        raise runs.UserError(f"{out}: an older edition wrote phase 3's results: run phase3_patching.py again")
    if phase3["settings"]["z"] != z.summary:
        raise runs.UserError(f"{out}: phase 2 has run again since phase 3: run phase3_patching.py again")
    return direction(phase3["settings"]["languages"])


def direction(languages: list[str]) -> tuple[str, str]:
    """(source, target): Chinese to English where both were asked, else the second language to the first."""
    return ("zh", "en") if {"en", "zh"} <= set(languages) else (languages[1], languages[0])


def asked_prompts(out: Path) -> list[dict]:
    """Phase 3's prompts, none without a rung: {"language", "problem": its place in the rung, "category", "answer", "begins": the
    answer's first token, "prompt"}.
    """
    lines = runs.load_array(out, "phase3_prompts.jsonl").decode().split("\n")
    return [json.loads(line) for line in lines if line]


@dataclass(frozen=True)
class Problems:
    """Problems that phase 3 found solved in every language, and their streams at Z's own place."""

    places: np.ndarray  # (n,) in the rung
    answers: np.ndarray  # (n,) numbers that tell answers apart; those that begin alike have one
    scored: np.ndarray  # (n,) bool: its answer begins as none does on which Z was fitted; the others only train maps
    streams: np.ndarray  # (2, n, d) float64: source and target language, last prompt position, Z's own site
    prompts: tuple[list[str], list[str]]  # in both
    kinds: np.ndarray | None = None  # (n,) numbers that tell kinds of problem apart; None where there is one kind

    def inside(self, basis: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates of both languages in a subspace (k, d): (n, k) twice"""
        return tuple(self.streams @ basis.numpy().T)


def known_problems(out, folder, z: subspaces.HandedZ, phase3: dict, prompts: list[dict], order: tuple) -> Problems:
    """Those that phase 3 found solved; of more than MOST those that it patched, and others evenly spaced."""
    if not phase3["rung"]:
        nobody = np.zeros(0, int)
        return Problems(nobody, nobody, nobody.astype(bool), np.zeros((2, 0, folder.width)), ([], []))
    asked, patched = phase3["languages"], [row["problem"] for row in phase3["recipients"]]
    answer_of = {line["problem"]: str(line["answer"]) for line in prompts if "answer" in line}
    answer_of |= {row["problem"]: row["answer"] for row in phase3["recipients"]}
    rest = [place for place in phase3["usable"] if place in answer_of and place not in patched]
    room = max(0, min(MOST - len(patched), len(rest)))
    chosen = [rest[place] for place in np.linspace(0, len(rest) - 1, room).round().astype(int)] if room else []
    places = np.array(sorted({*(place for place in patched if place in phase3["usable"]), *chosen}), int)
    shape = (len(asked), len({line["problem"] for line in prompts}), folder.layers + 1, folder.width)
    streams = runs.load_array(out, "phase3_streams.npy", shape)[:, :, z.site]
    texts = {(line["language"], line["problem"]): line["prompt"] for line in prompts}
    begins, category = beginnings_of(prompts), {line["problem"]: line.get("category", "") for line in prompts}
    fitted = {place for place, answer in answer_of.items() if answer in z.fitted_answers}
    begun = set().union(*(begins.get(place, set()) for place in fitted))
    kinds = np.unique([category[place] for place in places], return_inverse=True)[1] if len(places) else places
    return Problems(
        places,
        maps.alike([begins.get(place, set()) | {f"answer {answer_of[place]}"} for place in places]),
        np.array([place not in fitted and not begins.get(place, set()) & begun for place in places], bool),
        np.stack([streams[asked.index(name), places] for name in order]).astype(float),
        tuple([texts[name, place] for place in places] for name in order),
        kinds if len(set(kinds)) > 1 else None,
    )


def beginnings_of(prompts: list[dict]) -> dict[int, set[int]]:
    """The first tokens of a problem's answer, in all languages: {its place in the rung: them}."""
    found = {}
    for line in prompts:
        if line.get("begins") is not None:
            found.setdefault(line["problem"], set()).add(line["begins"])
    return found


def contents(out: Path, phase3: dict) -> dict:
    """Hashes of what was read of the earlier phases: a phase that runs again and finds the same costs nothing here."""
    read = [phase3.get(key) for key in ("rung", "languages", "usable", "recipients", "blocks", "answer_set")]
    return {name: runs.file_hash(out / name)[:16] for name in INPUTS} | {"phase3_results.json": runs.short_hash(read)}


def sizes(problems: Problems, z: subspaces.HandedZ, phase3: dict) -> dict:
    """What is measured on how much."""
    scored = problems.answers[problems.scored]
    return {
        "problems": len(scored),
        "answers": len(set(scored)),
        "training": int((~problems.scored).sum()),
        "fitted_answers": len(set(problems.answers[~problems.scored])),
        "usable": len(phase3.get("usable", [])),
        "k": len(z.basis),
        "width": z.basis.shape[1],
    }


def unmeasured(problems: Problems, rung: str | None) -> str | None:
    """Why nothing can be told here; None where something can."""
    if not rung:
        return "no_rung"
    scored = problems.answers[problems.scored]
    for what, count in (("problems", len(scored)), ("answers", len(set(scored)))):
        if count < FEWEST[what]:
            return f"few_unseen_{what}" if not problems.scored.all() else f"few_{what}"
    return None


def prediction(problems: Problems, inside: tuple, predicted: dict, seed: int) -> dict:
    """Held-out and in-sample R², retrieval and intervals of every map; the gain of every learned one beyond what needs no matrix."""
    (source, target), scored = inside, problems.scored
    answers, k = problems.answers[scored], source.shape[1]
    error = {name: maps.squared_errors(own, target)[scored] for name, own in predicted.items()}
    each = {name: maps.by_answer(own, answers) for name, own in error.items()}
    found = {"held_out_r2": {}, "interval": {}, "in_sample_r2": {}, "retrieval": {}, "gain": {}, "p_above": {}}
    centred = np.square(target - target.mean(0)).sum(-1)
    for name in MAPS:
        found["held_out_r2"][name] = float(maps.r_squared(each[name], each["mean"]))
        found["interval"][name] = maps.interval(maps.r_squared, seed, each[name], each["mean"])
        matrix, intercept = maps.fitted(name, source, target, problems.answers)
        own = maps.squared_errors(source @ matrix.T + intercept, target)
        found["in_sample_r2"][name] = float(maps.r_squared(own, centred))
        found["retrieval"][name] = float(maps.retrieved(predicted[name], target, problems.answers)[scored].mean())
    for name in LEARNED:
        value = maps.gains(name, source[None], target[None], problems.answers, scored)[0]
        found["gain"][name] = float(value[0])
        found["p_above"][name] = {
            other: maps.gain_p(each[other] - each[name], seed) for other in ("mean_shift", "scaled_shift")
        }
    found["parameters"] = dict(zip(MAPS, (0, k, k * (k - 1) // 2 + k, k * k + k, k * k + k)))
    best = min(maps.REFERENCES, key=lambda name: each[name].sum())
    return found | {
        "scaled_shift_r2": float(maps.r_squared(each["scaled_shift"], each["mean"])),
        "best_reference": best,
        "chance": 1 / len(np.unique(problems.answers)),
    }


def shuffled_null(problems: Problems, inside: tuple, held_out: dict, seed: int) -> dict:
    """Held-out R² of every map with partners of another answer, and p of being as high; Holm over the maps not named before."""
    orders = maps.shuffled(problems.answers, statistics.seeded(seed, "phase3b: shuffles"), SHUFFLES)
    targets, scored = inside[1][orders], problems.scored
    kept = float((problems.answers[orders] == problems.answers).mean())
    predicted = {}
    for name in progress.steps(("mean", *MAPS), "shuffled problems", "map"):
        predicted |= maps.predict((name,), inside[0], targets, problems.answers)
    error = {name: maps.squared_errors(own, targets)[:, scored] for name, own in predicted.items()}
    drawn = {name: maps.r_squared(error[name], error["mean"]) for name in MAPS}
    found = {name: statistics.null_record(drawn[name], held_out[name]) for name in MAPS}
    exploratory = [name for name in MAPS if name != PRIMARY]
    adjusted = statistics.holm([found[name]["p"] for name in exploratory])
    record = {"shuffled": found, "p_holm": dict(zip(exploratory, adjusted)), "kept_partners": kept}
    return record | {"kinds": shuffled_within_kinds(problems, inside, held_out[PRIMARY], seed)}


def shuffled_within_kinds(problems: Problems, inside: tuple, held_out: float, seed: int) -> dict | None:
    """The primary map's R² with partners of the same kind and another answer; `kept`: problems that have no such partner.

    None where there is one kind of problem: the shuffles of all are then the same.
    """
    if problems.kinds is None:
        return None
    draw = statistics.seeded(seed, "phase3b: shuffles within kinds")
    orders, scored = maps.shuffled(problems.answers, draw, SHUFFLES, problems.kinds), problems.scored
    targets = inside[1][orders]
    predicted = maps.predict(("mean", PRIMARY), inside[0], targets, problems.answers)
    error = {name: maps.squared_errors(own, targets)[:, scored] for name, own in predicted.items()}
    record = statistics.null_record(maps.r_squared(error[PRIMARY], error["mean"]), held_out)
    return record | {"kept": float((problems.answers[orders] == problems.answers).mean())}


def gain_inside(problems: Problems, bases: torch.Tensor) -> np.ndarray:
    """The primary map's gain inside every subspace: (m, k, d) -> (m,)"""
    source, target = (streams @ bases.numpy().mT for streams in problems.streams)
    return maps.gains(PRIMARY, source, target, problems.answers, problems.scored)[0]


def other_subspaces(problems: Problems, basis: torch.Tensor, seed: int) -> dict:
    """The gain in Haar-random subspaces of Z's size, and in those that hold as much of the streams and of their offset as Z.

    `matched` is None where Z leaves no room for others.
    """
    streams, own = torch.from_numpy(problems.streams), float(gain_inside(problems, basis[None])[0])
    within, offset = gates.shares(basis, streams)
    draw = statistics.seeded(seed, "phase3b: Haar subspaces")
    drawn = {"haar": utils.random_subspaces(draw, RANDOM_SUBSPACES, *basis.shape)}
    draw = statistics.seeded(seed, "phase3b: matched subspaces")
    drawn["matched"] = gates.matched_draws(draw, RANDOM_SUBSPACES, basis, streams)
    found = {"share_within": within, "share_offset": offset, "gains": {}}
    for kind, bases in progress.steps(drawn.items(), "other subspaces", "kind"):
        if bases is None:
            found[kind] = None
            continue
        gains = gain_inside(problems, bases)
        found[kind] = statistics.null_record(gains, own)
        found["gains"][kind] = gains
    return found


def map_geometry(problems: Problems, inside: tuple) -> dict:
    """Singular values and orthogonality error ‖MᵀM − I‖_F / √k of the learned maps fitted on all problems."""
    result = {}
    for name in LEARNED:
        matrix, _ = maps.fitted(name, *inside, problems.answers)
        error = float(np.linalg.norm(matrix.T @ matrix - np.eye(len(matrix))) / len(matrix) ** 0.5)
        values = np.linalg.svd(matrix, compute_uv=False).tolist()
        result[name] = {"singular_values": values, "orthogonality_error": error}
    return result


def components(predicted: np.ndarray, target: np.ndarray) -> list[list[float]]:
    """Held-out prediction and truth in the targets' first two principal components: [true, true, predicted, predicted]."""
    axes = np.linalg.svd(target - target.mean(0), full_matrices=False)[2][:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    axes = np.concatenate([axes, np.zeros((2 - len(axes), target.shape[1]))])
    return np.concatenate([(target - target.mean(0)) @ axes.T, (predicted - target.mean(0)) @ axes.T], 1).tolist()


@dataclass
class Asking:
    """The running model, and the problems it is asked once more."""

    model: object
    tokenizer: object
    problems: Problems
    batch: int
    seed: int

    def streams(self, site: int, what: str, mean: bool = False) -> np.ndarray:
        """At a site, (2, n, d) float64: the last position, or the mean over what prompts of a language do not begin alike with."""
        found = []
        for texts in self.problems.prompts:
            rows = self.tokenizer(texts)["input_ids"]
            alike = min(common(rows[0], row) for row in rows)
            skip = [min(alike, len(row) - 1) if mean else len(row) - 1 for row in rows]
            streams = models.residual_streams(self.model, self.tokenizer, texts, [site], self.batch, skip, what)
            found.append(runs.gathered({index: own[0].double().mean(0) for index, _, own in streams}))
        return np.stack([torch.stack(list(own.values())).numpy() for own in found])


def beyond_words(asked: Asking, inside: tuple, predicted: np.ndarray) -> dict:
    """How well the bag of the source's token embeddings predicts the same target; and the map from bag to bag, in its own space."""
    bags, problems = asked.streams(0, "words", mean=True), asked.problems
    scored, answers = problems.scored, problems.answers[problems.scored]
    own = maps.predict((PRIMARY, "mean"), bags[0], inside[1], problems.answers)
    guesses = {"words": own[PRIMARY], "mean": own["mean"], "z": predicted}
    each = {
        name: maps.by_answer(maps.squared_errors(guess, inside[1])[scored], answers) for name, guess in guesses.items()
    }

    def difference(z: np.ndarray, words: np.ndarray, mean: np.ndarray, axis: int = -1) -> np.ndarray:
        return maps.r_squared(z, mean, axis) - maps.r_squared(words, mean, axis)

    samples = (each["z"], each["words"], each["mean"])
    low, high = maps.interval(difference, asked.seed, *samples)
    return {
        "r2": float(maps.r_squared(each["words"], each["mean"])),
        "difference": {"value": float(difference(*samples)), "low": low, "high": high},
        "p": maps.gain_p(each["words"] - each["z"], asked.seed),
        "own_gain": float(maps.gains(PRIMARY, *bags[:, None], problems.answers, scored)[0][0]),
    }


def beyond_twins(asked: Asking, basis: torch.Tensor, site: int) -> dict:
    """The primary map's gain inside Z in untrained twins, {"unmeasured", "kinds": {kind: row}}; see `against_twins`."""
    reason, found = twins.impossible(asked.model), {}
    if reason is not None:
        return {"unmeasured": reason, "kinds": {}}
    own = twin_gain(asked.problems, basis)
    for kind, number in twins.make_twins(asked.model, asked.seed, site):
        streams = asked.streams(site, f"{kind} twin {number + 1} of {twins.SEEDS}")
        found.setdefault(kind, []).append(twin_gain(replace(asked.problems, streams=streams), basis))
    return {"unmeasured": None, "kinds": maps.against_twins(own, found, asked.seed)}


def twin_gain(problems: Problems, basis: torch.Tensor) -> np.ndarray:
    """Every answer's part of the gain inside Z, (answers scored,)."""
    source, target = problems.inside(basis)
    return maps.gains(PRIMARY, source[None], target[None], problems.answers, problems.scored)[1][0]


@dataclass(frozen=True)
class Pair:
    """A recipient's prompt and a donor, by their place in the rung; and the column of every one of OUTCOMES."""

    recipient: int
    donor: int
    prompt: str
    columns: tuple[int, ...]


def make_pairs(phase3: dict, prompts: list[dict], problems: Problems, seed: int) -> list[Pair]:
    """Every recipient that phase 3 patched, asked in the target language, with one donor of its block, asked in the source's.

    Both are problems that are scored here: no answer that Z was fitted on.
    """
    source, target = direction(phase3["settings"]["languages"])
    recipients, languages = phase3["recipients"], phase3["answer_set"]["languages"]
    scored = set(problems.places[problems.scored].tolist())
    kept = np.array([row["problem"] in scored for row in recipients])
    blocks = np.zeros((len(recipients), len(recipients)), bool)
    for recipient, block in enumerate(phase3["blocks"]):
        blocks[recipient, block] = True
    chosen = transfer.one_donor_each(blocks & kept & kept[:, None], statistics.seeded(seed, "phase3b: donors"))
    texts = {line["problem"]: line["prompt"] for line in prompts if line["language"] == target}
    tongues, pairs = [languages.index(name) for name in (target, source)], []
    for rows in np.argwhere(chosen):
        recipient, donor = (recipients[row] for row in rows)
        places = [row["answer_place"] * len(languages) for row in (recipient, donor)]
        columns = tuple(place + tongue for place in places for tongue in tongues)
        pairs.append(Pair(recipient["problem"], donor["problem"], texts[recipient["problem"]], columns))
    return pairs


def sent_vectors(problems: Problems, inside: tuple, predicted: dict, seed: int) -> torch.Tensor:
    """What a recipient gets inside Z from every problem, a row for each of CONDITIONS but `none`: (n, conditions, k).

    A map sends its prediction of z_target(j) from z_source(j), by the map that has not seen j's answer; `own_language` sends
    z_target(j) itself, what a perfect map would send; `shuffled` a ridge map fitted on shuffled problems.
    """
    (order,) = maps.shuffled(problems.answers, statistics.seeded(seed, "phase3b: transfer"), 1)
    own = maps.predict((PRIMARY,), inside[0], inside[1][order], problems.answers)
    sent = predicted | {"own_language": inside[1], "shuffled": own[PRIMARY]}
    return torch.stack([torch.from_numpy(np.array(sent[name])) for name in CONDITIONS[1:]], 1).float()


def send(opening, model, tokenizer, pairs: list[Pair], answers: list, z, problems: Problems, predicted) -> np.ndarray:
    """Log-probabilities of the whole answer set with the recipient's part inside Z replaced by what is sent.

    The recipient asks problem i in the target language, the donor asked problem j in the source language. `answers`: the
    set's token ids. -> (CONDITIONS, pairs, answers) float32
    """
    if not pairs:
        return np.zeros((len(CONDITIONS), 0, len(answers)), np.float32)
    sent = sent_vectors(problems, problems.inside(z.basis.double()), predicted, opening.arguments.seed)
    sent = sent[np.searchsorted(problems.places, [pair.donor for pair in pairs])].to(model.device)
    directions, prompts, scores = z.basis.to(model.device), [pair.prompt for pair in pairs], {}
    for chosen, patcher in engine.patched_prompts(model, tokenizer, prompts, answers, opening.arguments.batch):
        own = patcher.streams[:, z.site, None].float()
        changes = (sent[chosen] - own @ directions.T) @ directions
        scores |= dict(zip(chosen, patcher.scores(z.site, torch.cat([own, own + changes], 1))))
    return torch.stack(list(runs.gathered(scores).values()), 1).numpy()


def transfer_rates(scores: np.ndarray, pairs: list[Pair]) -> dict:
    """How often the most probable answer of the set is which of OUTCOMES or another, and each condition against the controls.

    scores (CONDITIONS, pairs, answers)
    """
    count = len(pairs)
    columns = np.array([pair.columns for pair in pairs]).reshape(count, len(OUTCOMES))
    best = scores.argmax(-1) if count else np.zeros(scores.shape[:2], int)
    found = dict(zip(CONDITIONS, best[..., None] == columns))  # {condition: (pairs, OUTCOMES)}
    won = {name: rows[:, OUTCOMES.index(SUCCESS)] for name, rows in found.items()}
    result = {"pairs": count, "success": {}, "interval": {}, "winners": {}, "p_against": {}}
    for name, rows in found.items():
        winners = dict(zip((*OUTCOMES, "other"), [*rows.sum(0), (~rows.any(1)).sum()]))
        result["winners"][name] = {outcome: float(number / max(count, 1)) for outcome, number in winners.items()}
        result["success"][name] = result["winners"][name][SUCCESS]
        result["interval"][name] = statistics.wilson_interval(int(won[name].sum()), count) if count else (0.0, 1.0)
    for control in CONTROLS:
        others = {name: (row & ~won[control], won[control] & ~row) for name, row in won.items() if name != control}
        counts = {name: [int(only.sum()) for only in pair] for name, pair in others.items()}
        result["p_against"][control] = {name: statistics.mcnemar_p(*pair) for name, pair in counts.items()}
    return result


if __name__ == "__main__":
    runs.run_script(main)
