"""What the swap of a donor's stream into a recipient carries over: the answer, the language, both or neither.

A swap is `scores` (..., b, R, a, N, A, c): log-probabilities (nats) over the whole answer set, A answers in c
languages, when recipient r is asked in language b and takes in the stream of donor i, asked in language a. The three
language axes list the same languages, recipients and donors are the same list of problems, and axes in front count
conditions. What was not measured is NaN. `answers` (N,) is the column of each problem's answer.

    effect = effects(scores, answers, donor_blocks(answers, generator))
    samples = estimates(effect, resamples(len(answers), 2000, generator))   # {name: (..., 1 + draws)}, the data first
    record(samples["t_same"])                                               # {"value", "low", "high"}

In arrays NaN says undefined, in records None does. Everything is float64 inside.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from scipy import optimize, sparse, special

from lab import statistics

ALL_OTHERS = 12  # up to so many problems everybody gives to everybody: fewer would leave too few pairs
STANDARD_ERRORS = 3  # a denominator nearer to zero than this changes its sign in some resamples, and its ratio explodes
SHARE_OF_MAXIMUM = 0.05  # a site where the full swap moves less than this of what it moves elsewhere carries nothing
HALF = 0.5  # what a carrier must surely reach of the full swap's best site
MOST_PROBABLE = 0.5  # and how often the donor's answer must win there: nats alone move at p = .001 too
RATIOS = ("coverage", "leak", "complement_transfer", "complement_language", "d")


def donor_blocks(answers: np.ndarray, generator: torch.Generator, size: int = 8) -> np.ndarray:
    """Whose streams each recipient gets, for every pair of languages alike: (recipients, donors) bool.

    answers (N,). A block holds min(size, distinct answers - 1) problems of distinct answers, none the recipient's own.
    Of all such designs this is the one with the least sum of squared uses of a donor, so that all give equally often
    (each as often as it receives) wherever the answers allow it, and among those the cheapest under random costs of the
    pairs. That is a minimum-cost flow, whose linear program has whole-numbered corners. Up to ALL_OTHERS problems a
    block is every problem with another answer; two donors with one answer are then no contrast for each other (see
    `effects`).
    """
    answers = np.asarray(answers)
    problems, count = len(answers), min(size, len(np.unique(answers)) - 1)
    allowed = answers[:, None] != answers
    if problems <= ALL_OTHERS or count < 1:
        return allowed
    recipient, donor = np.nonzero(allowed)
    costs = torch.rand(problems, problems, generator=generator, dtype=torch.float64).numpy()[recipient, donor]
    _, group = np.unique(recipient * problems + np.unique(answers, return_inverse=True)[1][donor], return_inverse=True)
    use = np.repeat(np.arange(problems), problems)  # the n-th use of a donor costs 2n - 1: their sum is n²
    dear = problems * count * (2 * np.tile(np.arange(problems), problems) + 1)  # no saving on pairs outweighs a use

    def rows(index: np.ndarray, value: float = 1.0) -> sparse.coo_array:
        return sparse.coo_array((np.full(len(index), value), (index, np.arange(len(index)))))

    received = sparse.hstack([rows(recipient), sparse.coo_array((problems, len(use)))])
    given = sparse.hstack([rows(donor), rows(use, -1.0)])
    one_each = sparse.hstack([rows(group), sparse.coo_array((group.max() + 1, len(use)))])
    solution = optimize.linprog(
        np.concatenate([costs, dear]), one_each, np.ones(group.max() + 1), sparse.vstack([received, given]),
        np.repeat([count, 0], problems), bounds=(0, 1), method="highs-ds",
    )  # fmt: skip
    blocks = np.zeros_like(allowed)
    blocks[recipient, donor] = solution.x[: len(recipient)] > 0.5
    return blocks


def one_donor_each(blocks: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """One donor per recipient, from its block and nobody twice: a random derangement (recipients, donors) bool.

    Where blocks allow none, as many recipients as can be have a donor and the others have none.
    """
    costs = torch.rand(blocks.shape, generator=generator, dtype=torch.float64).numpy() + len(blocks) * ~blocks
    chosen = np.zeros_like(blocks)
    chosen[optimize.linear_sum_assignment(costs)] = True
    return chosen & blocks


@dataclass(frozen=True)
class Effects:
    """Swaps, gathered by block: block member m of recipient R is the donor `members[R, m]`, in float64.

    Means over languages are already taken, since no resample of problems changes them.
    """

    members: np.ndarray  # (R, m) problems; blocks that are smaller than the largest are filled up
    measured: np.ndarray  # (R, m) which of them are donors
    pairs: np.ndarray  # (R, m, m) donor i and an answer j of the block that is not i's
    contrasts: dict[str, np.ndarray]  # t_same, t_cross: (..., R, m, m) nats, A(i, i) - A(i, j)
    by_donor: dict[str, np.ndarray]  # g in nats, iia_same and the four winners: (..., R, m)


def effects(scores: np.ndarray, answers: np.ndarray, blocks: np.ndarray, donors: np.ndarray | None = None) -> Effects:
    """What every donor does to every recipient of its block: answer contrasts, language shifts and winners.

    scores (..., b, R, a, N, A, c), answers (N,), blocks (N, N) bool. `donors` (N, N) bool is the part of the blocks
    whose swaps count, for instance one donor each; the block's other answers then remain as contrasts, and their swaps
    need not be measured. ValueError for shapes that do not fit, a block with the recipient's own answer, and a swap
    that counts and is not finite.
    """
    scores, answers, blocks = np.asarray(scores), np.asarray(answers), np.asarray(blocks, bool)
    donors = blocks if donors is None else np.asarray(donors, bool)
    _check(scores.shape, answers, blocks, donors)
    order = np.argsort(~blocks, axis=1, kind="stable")  # a block's members first
    members = order[:, : max(blocks.sum(1).max(), 1)]
    inside, measured = (np.take_along_axis(mask, members, 1) for mask in (blocks, donors))
    recipients = np.arange(len(answers))[:, None]
    rows = np.swapaxes(scores, -5, -4)[..., recipients, members, :, :].astype(float)  # (..., b, a, R, m, A, c)
    rows = np.where(measured[..., None, None], rows, 0.0)
    if not np.isfinite(rows).all():
        raise ValueError("a donor of a block has scores that are not finite")
    given = answers[members]
    pairs = measured[:, :, None] & inside[:, None, :] & (given[:, :, None] != given[:, None, :])
    winners = _winners(rows, given, answers[:, None])
    return Effects(members, measured, pairs, _contrasts(rows, given), {"g": _language_shift(rows), **winners})


def _check(shape: tuple, answers: np.ndarray, blocks: np.ndarray, donors: np.ndarray) -> None:
    problems = len(answers)
    if len(shape) < 6 or len({shape[axis] for axis in (-6, -4, -1)}) > 1 or shape[-1] < 2:
        raise ValueError(f"scores {shape} are not (..., b, R, a, N, A, c) with two or more languages b = a = c")
    if any(size != problems for size in (shape[-5], shape[-3], *blocks.shape, *donors.shape)):
        raise ValueError(f"scores {shape}, blocks {blocks.shape} and donors {donors.shape} for {problems} answers")
    if answers.min() < 0 or answers.max() >= shape[-2]:
        raise ValueError(f"an answer outside of the {shape[-2]} columns")
    if (blocks & (answers[:, None] == answers)).any():
        raise ValueError("a block holds the recipient's own answer")
    if (donors & ~blocks).any():
        raise ValueError("a donor outside of the recipient's block")


def _by_language(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Means over donors asked in the recipient's language and in another one; the axes b, a are `axis` and axis + 1."""
    values = np.moveaxis(values, (axis, axis + 1), (0, 1))
    same = np.eye(len(values), dtype=bool)
    return values[same].mean(0), values[~same].mean(0)


def _contrasts(rows: np.ndarray, given: np.ndarray) -> dict[str, np.ndarray]:
    """A(i, i) - A(i, j), A(i, j) = log p of j's answer in the recipient's language under donor i: (..., R, m, m)."""
    own = np.einsum("...bariqb->...bariq", rows)
    r, i = np.ogrid[: len(given), : given.shape[1]]
    matrix = own[..., r[..., None], i[..., None], given[:, None, :]]
    same, cross = _by_language(np.einsum("...ii->...i", matrix)[..., None] - matrix, -5)
    return {"t_same": same, "t_cross": cross}


def _language_shift(rows: np.ndarray) -> np.ndarray:
    """Half of the shift of log mass(a) - log mass(b), from the donor asked in b to the donor asked in a: (..., R, m).

    The mean over ordered pairs of languages. A recipient's or a donor's leaning to a language, however asked, cancels.
    """
    mass = np.moveaxis(special.logsumexp(rows, axis=-2), (-5, -4, -1), (0, 1, 2))  # (b, a, c, ..., R, m)
    two = permutations(range(len(mass)), 2)
    return np.mean([mass[b, a, a] - mass[b, a, b] - mass[b, b, a] + mass[b, b, b] for b, a in two], axis=0) / 2


def _winners(rows: np.ndarray, given: np.ndarray, own: np.ndarray) -> dict[str, np.ndarray]:
    """Whether the most probable answer of the whole set is whose answer in whose language, 0 or 1: (..., R, m).

    A winner that is neither the donor's nor the recipient's answer, or in a third language, counts for none.
    """
    languages = rows.shape[-1]
    answer, language = np.divmod(rows.reshape(*rows.shape[:-2], -1).argmax(-1), languages)  # (..., b, a, R, m)
    tongues = np.arange(languages)[:, None, None, None]
    whose = {"donor": answer == given, "recipient": answer == own}
    where = {"recipient": language == tongues, "donor": language == tongues[:, 0]}
    same, _ = _by_language(1.0 * (whose["donor"] & where["recipient"]), -4)
    cross = {f"{a}_{b}": _by_language(1.0 * (whose[a] & where[b]), -4)[1] for a in whose for b in where}
    return {"iia_same": same, **cross}


def translations(scores: np.ndarray, answers: np.ndarray, languages: int) -> dict[str, np.ndarray]:
    """What a problem's own stream, asked in another language, does to it: {name: (R,)}, means over pairs of languages.

    scores (b, R, a, R, columns): donor r of recipient r is what counts; asked in b itself it changes nothing. `language`: G,
    nats; `kept` and `translated`: whether the own answer wins in the recipient's, or in the donor's language.
    """
    rows = np.asarray(scores, float).reshape(*scores.shape[:-1], -1, languages)
    own = np.einsum("braric->rbaic", rows)
    mass = np.moveaxis(special.logsumexp(own, axis=-2), 0, -1)  # (b, a, c, R)
    answer, tongue = np.moveaxis(np.stack(np.divmod(own.reshape(*own.shape[:3], -1).argmax(-1), languages)), 1, -1)
    two, right = list(permutations(range(languages), 2)), answer == answers
    shift = [mass[b, a, a] - mass[b, a, b] - mass[b, b, a] + mass[b, b, b] for b, a in two]
    found = {"language": np.mean(shift, axis=0) / 2}
    for name, wanted in (("kept", 0), ("translated", 1)):
        found[name] = np.mean([right[pair] & (tongue[pair] == pair[wanted]) for pair in two], axis=0)
    return found


def resamples(problems: int, draws: int, generator: torch.Generator) -> np.ndarray:
    """How often each problem is drawn: (1 + draws, problems). The first row is the data themselves, once each."""
    drawn = statistics.numpy_generator(generator).multinomial(problems, np.full(problems, 1 / problems), draws)
    return np.concatenate([np.ones((1, problems)), drawn])


def estimates(effect: Effects, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Every measure under weights of the problems, {name: (..., draws)}, or its point estimate, {name: (...)}.

    t_same, t_cross (nats): the donor's answer over another one, donors asked in the recipient's language or not;
    T = mean over recipients of t_r, t_r = mean over pairs i != j of the block of A(i, i) - A(i, j).
    g (nats): log mass of the answers in language a less that in b, shift from donors asked in b to donors asked in a,
    halved; b the recipient's language. iia_same: share of swaps where the donor's answer wins, all asked in one
    language (interchange intervention accuracy, Geiger et al. 2021). For donors of another language the shares of the
    four winners <whose answer>_<whose language>: donor_recipient (the cross IIA), donor_donor, recipient_recipient,
    recipient_donor. All are means over languages, or over ordered pairs of them, and over recipients.

    t_r is the mean over unordered pairs (d, w) of half of log p(d)/p(w) under donor d less the same under donor w: the
    two ordered terms A(d, d) - A(d, w) and A(w, w) - A(w, d) are the same four numbers. So it consists of log-odds:
    another set to normalise over adds a constant under each donor, which cancels in every term; what the recipient
    prefers whichever donor it gets cancels in every pair. It equals mean A(i, i) - mean A(i, j), i != j, for a whole
    block.

    weights (draws, problems) count a problem in both roles (the vertex bootstrap of Snijders & Borgatti 1999): a
    recipient w_r times, a donor w_i, a pair w_i w_j, and never a problem with itself. As pairs are weighted as a whole,
    both cancellations hold in every resample; weighted means of A(i, i) and of A(i, j) apart would keep neither. A
    recipient without any pair (or donor) is left out; every other one counts alike, whatever the size of its block.
    Intervals are right where problems differ, and too wide where only single swaps do, whose noise a pair's weight
    inflates.

    With one donor i per recipient t_r is A(i, i) - mean_j A(i, j): normalising cancels as before, a recipient's
    preference does not, but one that all recipients share cancels over a derangement of balanced blocks. It is the same
    T if all donors of a block act alike, and on average over one-donor designs that use every donor of a block once.
    """
    drawn = np.ones((1, len(effect.members))) if weights is None else np.asarray(weights, float)
    recipients, members = drawn.T, drawn.T[effect.members]  # (R, draws), (R, m, draws)
    pairs = members[:, :, None] * members[:, None] * effect.pairs[..., None]
    pairs = pairs.reshape(len(members), -1, pairs.shape[-1])
    result = {}
    for name, values in effect.contrasts.items():
        result[name] = _mean(values.reshape(*values.shape[:-2], -1), pairs, recipients)
    for name, values in effect.by_donor.items():
        result[name] = _mean(values, members * effect.measured[..., None], recipients)
    return {name: values[..., 0] for name, values in result.items()} if weights is None else result


def _mean(values: np.ndarray, weights: np.ndarray, recipients: np.ndarray) -> np.ndarray:
    """Weighted mean over recipients of their weighted means: (..., R, n), (R, n, draws), (R, draws) -> (..., draws)"""
    flat = np.moveaxis(values.reshape(-1, *values.shape[-2:]), 0, 1)  # (R, conditions, n)
    totals = weights.sum(1)
    counted = np.where(totals > 0, recipients, 0.0)
    shares = np.divide(counted, totals, out=np.zeros_like(totals), where=totals > 0)
    sums = np.einsum("rkd,rd->kd", flat @ weights, shares)
    return _quotient(sums, counted.sum(0)).reshape(*values.shape[:-2], -1)


def _quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)


def ratios(z: dict, complement: dict, full: dict) -> dict[str, np.ndarray]:
    """Four shares of the full swap and their contrast d, from `estimates` of the swaps of Z, Z⊥ and everything.

    Arrays of any shapes that broadcast: draws of problems, or points of many subspaces over one full swap. d is
    [coverage - leak] - [complement_transfer - complement_language]: 2 if Z is all of the answer and none of the
    language, about 0 for a subspace of any size that is blind to which is which. No floor here: see `usable`.
    """
    coverage, transfer = (_quotient(part["t_same"], full["t_same"]) for part in (z, complement))
    leak, language = (_quotient(part["g"], full["g"]) for part in (z, complement))
    return dict(zip(RATIOS, (coverage, leak, transfer, language, coverage - leak - transfer + language)))


def record(samples: np.ndarray | None) -> dict:
    """{value, low, high}: samples (1 + draws,), the data first; 95 % percentile interval of the draws that are defined.

    All None where there is no value, both ends None without draws. A share that is 1 in the data is 1 in every draw.
    """
    if samples is None or not np.isfinite(samples[0]):
        return {"value": None, "low": None, "high": None}
    drawn = samples[1:][np.isfinite(samples[1:])]
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist() if len(drawn) else (None, None)
    return {"value": float(samples[0]), "low": low, "high": high}


def standard_error(samples: np.ndarray) -> float:
    """Standard deviation of the draws that are defined: samples (1 + draws,); ValueError with fewer than two."""
    drawn = samples[1:][np.isfinite(samples[1:])]
    if len(drawn) < 2:
        raise ValueError("a standard error needs two draws or more")
    return float(drawn.std(ddof=1))


def usable(samples: np.ndarray, maximum: float | None) -> bool:
    """The floor of every denominator: beyond noise, and no trifle beside the full swap's maximum over sites.

    samples (1 + draws,), the data first. Anything is too little where the maximum itself is none or not positive.
    """
    value = samples[0]
    if maximum is None or not (value > 0 and maximum > 0):
        return False
    return bool(value >= STANDARD_ERRORS * standard_error(samples) and value >= SHARE_OF_MAXIMUM * maximum)


def profile(z: dict, complement: dict, full: dict, maxima: dict) -> dict:
    """A subspace's profile as records: the `ratios`, and beside them what wins and how language-blind the transfer is.

    z, complement, full: `estimates` {name: (1 + draws,)} of the three swaps under the same `resamples`, so that every
    ratio and d is one number in each draw. maxima: the full swap's largest t_same and g over sites. A ratio whose
    denominator is not `usable`, and d without both, is None throughout. agnosticity = T_cross/T_same and the IIAs are
    Z's; `full_...` are the full swap's, `..._gain` is Z's less the full swap's.
    """
    carried = {name: usable(full[name], maxima[name]) for name in ("t_same", "g")}
    needs = dict(zip(RATIOS, (["t_same"], ["g"], ["t_same"], ["g"], ["t_same", "g"])))
    shares = ratios(z, complement, full)
    result = {name: record(shares[name] if all(carried[part] for part in needs[name]) else None) for name in RATIOS}
    for prefix, swap in (("", z), ("full_", full)):
        fits = usable(swap["t_same"], maxima["t_same"])
        result[f"{prefix}agnosticity"] = record(_quotient(swap["t_cross"], swap["t_same"]) if fits else None)
    for name, winner in (("iia_same", "iia_same"), ("iia_cross", "donor_recipient")):
        result |= {name: record(z[winner]), f"full_{name}": record(full[winner])}
        result[f"{name}_gain"] = record(z[winner] - full[winner])
    return result


def kappa(coverage: float | None, haar: Sequence[float]) -> float | None:
    """(coverage - mean)/(1 - mean) over Haar subspaces of the same size: 0 chance, 1 everything, None if undefined.

    Corrected for chance as Cohen's kappa (1960) is.
    """
    mean = float(np.mean(haar)) if len(haar) else 1.0
    return None if coverage is None or not mean < 1 else (coverage - mean) / (1 - mean)


def curve(samples: dict[int, dict]) -> list[dict]:
    """A row per site, in order: records of every measure, and of t_same and g as shares of their largest value over sites.

    samples: {site: `estimates` {name: (1 + draws,)}} under the same `resamples`, so that a share is one number in each draw:
    what differs between problems alike at both sites widens no interval of it. All None where the largest is no `usable` denominator.
    """
    rows = [
        {"site": site} | {name: record(values) for name, values in samples[site].items()} for site in sorted(samples)
    ]
    for name in ("t_same", "g"):
        known = {row["site"]: row[name]["value"] for row in rows if row[name]["value"] is not None}
        best = max(known, key=known.get, default=None)
        fits = best is not None and usable(samples[best][name], known[best])
        for row in rows:
            own = _quotient(samples[row["site"]][name], samples[best][name]) if fits else None
            row[f"{name}_share"] = record(own)
    return rows


def carriers(rows: Sequence[dict], share: float = HALF, winning: float = MOST_PROBABLE) -> dict[str, list]:
    """Sites where the full swap carries the answer, the language, both: {answer, language, joint}, in order.

    rows: those of `curve`. At a carrier the effect is surely above 0, and surely at least `share` of the largest over sites;
    of the answer, the donor's also wins at least `winning` of the time.
    """

    def reach(name: str) -> list:
        ends = [(row["site"], row[name]["low"], row[f"{name}_share"]["low"]) for row in rows]
        return [site for site, low, part in ends if low is not None and low > 0 and part is not None and part >= share]

    wins = {row["site"] for row in rows if (row["iia_same"]["value"] or 0.0) >= winning}
    answer, language = [site for site in reach("t_same") if site in wins], reach("g")
    return {"answer": answer, "language": language, "joint": [site for site in answer if site in language]}
