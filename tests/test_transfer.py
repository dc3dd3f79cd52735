"""Transfer of answer and language: worked examples, invariances, planted swaps, and the bootstrap by brute force."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from lab import statistics, transfer

WINNERS = ["donor_recipient", "donor_donor", "recipient_recipient", "recipient_donor"]
MEASURES = ["t_same", "t_cross", "g", "iia_same", *WINNERS]
NOTHING = {"value": None, "low": None, "high": None}


def seeded(label: object = 0):
    return statistics.seeded(0, f"test_transfer: {label}")


def blank(problems: int, languages: int = 2, answers: int | None = None) -> np.ndarray:
    return np.full((languages, problems, languages, problems, answers or problems, languages), np.nan)


def unmeasured(scores: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """The same with NaN outside of the blocks, as a measurement leaves it."""
    return np.where(blocks[:, None, :, None, None], scores, np.nan)  # (R, a, N, A, c)


def only(problems: int, recipient: int, *donors: int) -> np.ndarray:
    blocks = np.zeros((problems, problems), bool)
    blocks[recipient, list(donors)] = True
    return blocks


def noise(problems: int, seed: int = 0, languages: int = 2, answers: int | None = None, lead: tuple = ()):
    shape = blank(problems, languages, answers).shape
    return special.log_softmax(np.random.default_rng(seed).normal(size=lead + shape), axis=(-2, -1))


def points(scores, answers, blocks, donors=None) -> dict[str, np.ndarray]:
    return transfer.estimates(transfer.effects(scores, answers, blocks, donors))


def planted(answers, blocks, moved: float, turned: float, seed: int | None = 0, spread: float = 0.0) -> np.ndarray:
    """A swap that moves the share `moved` of the answer's code and `turned` of the language's: 6 and 5 nats of logit.

    Recipients prefer some answers to others whatever they are given; `spread` is noise of single swaps.
    """
    random, problems, columns = np.random.default_rng(seed), len(answers), max(answers) + 1
    code, tongue = np.eye(columns)[answers], np.eye(2)
    answer = (1 - moved) * code[:, None, None, :] + moved * code[None, None, :, :]  # (R, 1, N, A)
    language = (1 - turned) * tongue[:, None, :] + turned * tongue[None, :, :]  # (b, a, c)
    logits = 6 * answer[None, ..., None] + 5 * language[:, None, :, None, None, :]
    logits = logits + random.normal(size=(2, problems, 1, 1, columns, 2)) / 3
    logits = logits + spread * random.normal(size=(2, problems, 2, problems, columns, 2))
    return unmeasured(special.log_softmax(logits, axis=(-2, -1)), blocks)


def by_loops(name, scores, answers, blocks, donors, weights) -> float:
    """A measure with each problem written out as often as its weight says, one copy at a time."""
    copies, found = np.repeat(np.arange(len(answers)), weights), []
    for b, a in [pair for pair in product(range(len(scores)), repeat=2) if len({*pair}) == 2 - name.endswith("same")]:
        means = []
        for r in copies:
            values = []
            for i in copies[donors[r, copies]]:
                row, others = scores[b, r, a, i, :, b], copies[blocks[r, copies] & (answers[copies] != answers[i])]
                odds = list(row[answers[i]] - row[answers[others]])
                values += odds if name.startswith("t_") else [single(name, scores, answers, b, r, a, i)]
            means += [np.mean(values)] if values else []
        found.append(np.mean(means) if means else np.nan)
    return np.mean(found)


def single(name, scores, answers, b, r, a, i) -> float:
    """One swap's language shift, or whether the named answer wins."""
    if name == "g":
        mass = {x: np.log(np.exp(scores[b, r, x, i]).sum(0)) for x in (a, b)}
        return (mass[a][a] - mass[a][b] - mass[b][a] + mass[b][b]) / 2
    whose, where = ("donor", "recipient") if name == "iia_same" else name.split("_")
    row, problem, language = scores[b, r, a, i], {"donor": i, "recipient": r}, {"donor": a, "recipient": b}
    target = answers[problem[whose]], language[where]
    return float(np.unravel_index(row.argmax(), row.shape) == target)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 11), min_size=2, max_size=24), st.integers(1, 9), st.integers(0, 99))
def test_blocks_hold_other_answers_and_cannot_be_balanced_better(answers, size, seed):
    answers = np.array(answers)
    blocks = transfer.donor_blocks(answers, seeded(seed), size)
    other = answers[:, None] != answers
    assert not (blocks & ~other).any()
    if len(answers) <= transfer.ALL_OTHERS:
        assert (blocks == other).all()
        return
    count, uses = min(size, len(set(answers)) - 1), blocks.sum(0)
    for block in blocks:
        assert block.sum() == count == len(set(answers[block]))
    for recipient, block in enumerate(blocks):  # no exchange of one donor for another evens out their uses
        for old in np.flatnonzero(block):
            rest = set(answers[block]) - {answers[old]} | {answers[recipient]}
            free = [new for new in np.flatnonzero(~block) if answers[new] not in rest]
            assert all(uses[old] - uses[new] <= 1 for new in free)


@pytest.mark.parametrize(("problems", "sharing"), [(13, 1), (40, 1), (40, 2), (64, 3)])
def test_every_problem_gives_as_often_as_it_receives(problems, sharing):
    blocks = transfer.donor_blocks(np.arange(problems) // sharing, seeded())
    assert blocks.sum(0).tolist() == blocks.sum(1).tolist() == [min(8, (problems - 1) // sharing)] * problems


def test_blocks_are_random_and_prefer_no_pair():
    answers = np.arange(14)
    drawn = np.mean([transfer.donor_blocks(answers, seeded(draw), 5) for draw in range(200)], axis=0)
    pairs = drawn[~np.eye(14, dtype=bool)]
    assert pairs.mean() == pytest.approx(5 / 13)
    assert np.abs(pairs - 5 / 13).max() < 4.5 * np.sqrt(5 / 13 * 8 / 13 / 200)
    assert (transfer.donor_blocks(answers, seeded(1)) == transfer.donor_blocks(answers, seeded(1))).all()


def test_one_donor_each_is_a_derangement_inside_the_blocks():
    blocks = transfer.donor_blocks(np.arange(20), seeded())
    chosen = [transfer.one_donor_each(blocks, seeded(draw)) for draw in range(5)]
    for donors in chosen:
        assert not (donors & ~blocks).any()
        assert donors.sum(0).tolist() == donors.sum(1).tolist() == [1] * 20
    assert len({donors.tobytes() for donors in chosen}) == 5
    lonely = np.array([[0, 1, 0], [0, 0, 0], [0, 1, 0]], bool)  # two recipients, one donor
    assert transfer.one_donor_each(lonely, seeded()).sum() == 1


def three_donors() -> tuple[np.ndarray, np.ndarray]:
    """Recipient 0 with donors 1, 2, 3: A(i, i) = -1, A(i, j) = -1 - (1 2 / 3 4 / 5 6), all languages alike."""
    scores, blocks = blank(4), only(4, 0, 1, 2, 3)
    matrix = -1 - np.array([[0, 1, 2], [3, 0, 4], [5, 6, 0]])
    for b in range(2):
        scores[b, 0, :, 1:] = -9.0
        scores[b, 0, :, 1:, 1:, b] = matrix
    return scores, blocks


def test_transfer_worked_by_hand():
    scores, blocks = three_donors()
    # mean A(i, i) = -1, mean A(i, j) = -1 - 21/6: 3.5; problem 3 twice: (1 + 2·2 + 3 + 2·4 + 2·5 + 2·6)/10 = 3.8
    effect = transfer.effects(scores, np.arange(4), blocks)
    assert transfer.estimates(effect)["t_same"] == pytest.approx(3.5)
    assert transfer.estimates(effect, [[1, 1, 1, 2], [5, 0, 1, 1], [2, 0, 0, 3], [0, 1, 1, 1]])["t_same"] == (
        pytest.approx([3.8, 5.0, np.nan, np.nan], nan_ok=True)  # without 1: (4 + 6)/2; one donor or no recipient: none
    )
    scores[0, 0, 1, 1, 1, 0] += 3.0  # A(1, 1) of one of two ordered pairs of languages: 2 of 6 terms, + 3 · 2/6 / 2
    after = points(scores, np.arange(4), blocks)
    assert (after["t_same"], after["t_cross"]) == pytest.approx((3.5, 4.0))
    scores[:, :, :, [1, 3]] = np.nan  # with donor 2 alone neither need be measured: (3 + 4)/2
    assert points(scores, np.arange(4), blocks, only(4, 0, 2))["t_same"] == pytest.approx(3.5)
    scores[:, 0, :, 2, 3, :] -= 2.0  # now (3 + 6)/2
    assert points(scores, np.arange(4), blocks, only(4, 0, 2))["t_same"] == pytest.approx(4.5)


def test_an_answer_is_no_contrast_to_itself():
    scores, blocks = three_donors()
    scores[:, 0, :, 2, 2] = 50.0  # a column that nobody has: donors 1 and 2 share an answer and stand against 3 alone
    # A(1, 1) - A(1, 3) = 2, A(2, 1) - A(2, 3) = -3 + 4, A(3, 3) - A(3, 1) = 5, twice: once for either donor
    assert points(scores, np.array([0, 1, 1, 3]), blocks)["t_same"] == pytest.approx((2 + 1 + 5 + 5) / 4)


def test_recipients_count_alike_and_by_their_weight():
    scores, blocks = three_donors()
    scores[:, 1] = scores[:, 0]
    scores[0, 1, :, [2, 3], [2, 3], 0] += 2.0  # recipient 1, donors 2 and 3 only: ((4 + 2) + (6 + 2))/2 = 7 and 5, so 6
    scores[:, 1, :, :2] = np.nan
    blocks |= only(4, 1, 2, 3)
    effect = transfer.effects(scores, np.arange(4), blocks)
    assert transfer.estimates(effect)["t_same"] == pytest.approx((3.5 + 6) / 2)
    # recipient 0 with donor 1 three times: (3·1 + 3·2 + 3·3 + 4 + 3·5 + 6)/14 = 43/14
    assert transfer.estimates(effect, [[1, 3, 1, 1]])["t_same"] == pytest.approx([(43 / 14 + 3 * 6) / 4])


def test_transfer_is_the_mean_of_log_odds_between_answers():
    """Both ways to write it: pairs (d, w) of donors, and diagonal less off-diagonal."""
    answers = np.arange(14)
    blocks = transfer.donor_blocks(answers, seeded(), 5)
    scores = unmeasured(noise(14), blocks)
    members = [np.flatnonzero(block) for block in blocks]
    matrices = np.array([scores[b, r, b, members[r]][:, members[r], b] for b in range(2) for r in range(14)])
    d, w = np.triu_indices(5, 1)
    odds = (matrices[:, d, d] - matrices[:, d, w]) - (matrices[:, w, d] - matrices[:, w, w])
    apart = np.einsum("xii->xi", matrices).mean() - matrices[:, ~np.eye(5, dtype=bool)].mean()
    assert [points(scores, answers, blocks)["t_same"], apart] == pytest.approx([np.mean(odds) / 2] * 2, abs=1e-12)


@pytest.mark.parametrize("shared", [1, 2])
def test_neither_another_answer_set_nor_a_preference_changes_transfer_in_any_resample(shared):
    problems = 10  # with shared answers these blocks hold pairs that are no contrasts
    answers, random = np.arange(problems) // shared, np.random.default_rng(1)
    blocks = transfer.donor_blocks(answers, seeded())
    scores, weights = noise(problems), transfer.resamples(problems, 50, seeded())
    before = transfer.estimates(transfer.effects(scores, answers, blocks), weights)
    set_size = random.normal(size=(2, problems, 2, problems, 1, 1))
    preference = random.normal(size=(2, problems, 1, 1, problems, 2))
    for change, unchanged in ((set_size, MEASURES), (preference, ["t_same", "t_cross"])):
        after = transfer.estimates(transfer.effects(scores + 5 * change, answers, blocks), weights)
        for name in unchanged:
            assert after[name] == pytest.approx(before[name], abs=1e-10), name
    assert after["g"] != pytest.approx(before["g"], abs=1e-3)


def test_one_donor_designs_average_to_the_whole_block():
    answers = np.arange(15)
    blocks = (answers[:, None] - answers) % 15 % 4 == 1  # donors 1, 5, 9 and 13 places before
    scores = unmeasured(noise(15), blocks)
    designs = [(answers[:, None] - answers) % 15 == shift for shift in (1, 5, 9, 13)]
    parts = [points(scores, answers, blocks, donors) for donors in designs]
    whole = points(scores, answers, blocks)
    for name in MEASURES:
        assert np.mean([part[name] for part in parts]) == pytest.approx(whole[name], abs=1e-12), name
    assert np.ptp([part["t_same"] for part in parts]) > 0.01
    preferred = scores + 9 * np.random.default_rng(1).normal(size=(15, 2))  # by all recipients
    for donors, part in zip(designs, parts):
        assert points(preferred, answers, blocks, donors)["t_same"] == pytest.approx(part["t_same"], abs=1e-9)


def test_language_shift_worked_by_hand():
    scores, blocks = blank(2, answers=3), only(2, 0, 1)
    # mass of languages 0 and 1 by (recipient's, donor's language); log(.8/.2) = log 4, log(.9/.1) = log 9
    mass = {(0, 1): (0.2, 0.8), (0, 0): (0.8, 0.2), (1, 0): (0.5, 0.5), (1, 1): (0.1, 0.9)}
    for (b, a), parts in mass.items():
        for language, share in enumerate(parts):
            scores[b, 0, a, 1, :, language] = np.log(share * np.array([0.2, 0.3, 0.5]))
    # b = 0: (log 4 + log 4)/2; b = 1: (log 1 + log 9)/2 = log 3
    assert points(scores, np.arange(2), blocks)["g"] == pytest.approx((np.log(4) + np.log(3)) / 2)


def test_language_shift_is_blind_to_answers_and_to_leanings():
    answers = np.arange(10)
    blocks, scores, random = transfer.donor_blocks(answers, seeded()), noise(10), np.random.default_rng(1)
    before, shuffled = points(scores, answers, blocks), random.permuted(scores, axis=-2)
    for leaning in ((2, 10, 1, 10, 1, 2), (1, 1, 1, 10, 1, 2)):
        after = points(shuffled + random.normal(size=leaning), answers, blocks)
        assert after["g"] == pytest.approx(before["g"], abs=1e-12)
    assert points(shuffled, answers, blocks)["t_same"] != pytest.approx(before["t_same"], abs=1e-3)


def test_winners_worked_by_hand():
    """One recipient (0), donors 1 and 2, a fourth answer and a third language that are nobody's."""
    scores, blocks = blank(3, 3, 4), only(3, 0, 1, 2)
    scores[:, 0, :, 1:] = 0.0
    for b, a in product(range(3), repeat=2):
        scores[b, 0, a, 1:, 3, b] = 1.0  # nobody's answer wins unless said otherwise
    wins = [  # recipient's language, donor's language, donor, winning answer, its language
        (0, 0, 1, 1, 0), (0, 0, 2, 2, 1), (1, 1, 2, 2, 1), (2, 2, 1, 0, 2),  # iia_same: first and third, of 6
        (0, 1, 1, 1, 0), (0, 1, 2, 1, 0), (1, 0, 2, 2, 1), (2, 0, 2, 2, 2),  # donor_recipient: 3 of 12, not the second
        (0, 2, 1, 1, 2), (1, 2, 1, 1, 2),  # donor_donor: 2
        (0, 2, 2, 0, 0),  # recipient_recipient: 1
        (1, 0, 1, 0, 0), (2, 0, 1, 0, 0), (2, 1, 1, 0, 1), (2, 1, 2, 0, 1),  # recipient_donor: 4
        (1, 2, 2, 2, 0),  # a third language: none
    ]  # fmt: skip
    for b, a, donor, answer, language in wins:
        scores[b, 0, a, donor, answer, language] = 2.0
    values = points(scores, np.arange(3), blocks)
    assert [values[name] * 12 for name in MEASURES[3:]] == pytest.approx([2 / 6 * 12, 3, 2, 1, 4])


def test_nothing_depends_on_an_order():
    """Of problems, of answers, of languages, of conditions."""
    problems, columns = 14, 9
    answers = np.arange(problems) % 7
    blocks = transfer.donor_blocks(answers, seeded(), 4)
    scores = unmeasured(noise(problems, answers=columns, languages=3, lead=(2, 2)), blocks)
    before = points(scores, answers, blocks)
    random = np.random.default_rng(1)
    order, renamed, swapped = random.permutation(problems), random.permutation(columns), [2, 0, 1]
    for after in (
        points(scores[..., order, :, :, :, :][..., order, :, :], answers[order], blocks[np.ix_(order, order)]),
        points(scores[..., renamed, :], np.argsort(renamed)[answers], blocks),
        points(scores[:, :, swapped][..., swapped, :, :, :][..., swapped], answers, blocks),
        {name: values[::-1, ::-1] for name, values in points(scores[::-1, ::-1], answers, blocks).items()},
    ):
        assert list(after) == MEASURES
        for name in MEASURES:
            assert before[name].shape == (2, 2)
            assert after[name] == pytest.approx(before[name], abs=1e-12), name


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000))
def test_weights_are_copies(seed):
    """The vectorised bootstrap against loops over problems written out; blocks of any size, measured in part."""
    random = np.random.default_rng(seed)
    answers = random.integers(0, 4, size=6)
    blocks = (answers[:, None] != answers) & (random.random((6, 6)) < 0.7)
    donors = blocks & (random.random((6, 6)) < random.choice([0.5, 1]))
    scores = unmeasured(noise(6, seed, answers=5), donors)
    weights = random.integers(0, 4, size=(3, 6))
    values = transfer.estimates(transfer.effects(scores, answers, blocks, donors), weights)
    for name in MEASURES:
        expected = [by_loops(name, scores, answers, blocks, donors, row) for row in weights]
        assert values[name] == pytest.approx(expected, abs=1e-10, nan_ok=True), name


def test_resamples_begin_with_the_data():
    weights = transfer.resamples(9, 500, seeded())
    assert weights[0].tolist() == [1] * 9
    assert weights.sum(1).tolist() == [9] * 501
    assert weights[1:].var(0) == pytest.approx(np.full(9, 8 / 9), abs=0.25)  # multinomial: N · 1/N · (1 - 1/N)
    answers = np.arange(9)
    effect = transfer.effects(noise(9, lead=(2,)), answers, transfer.donor_blocks(answers, seeded()))
    drawn = transfer.estimates(effect, weights)
    for name, value in transfer.estimates(effect).items():
        assert drawn[name].shape == (2, 501)
        assert drawn[name][:, 0] == pytest.approx(value, rel=1e-12)  # but for the order of a sum
        assert np.isfinite(drawn[name]).all()


def test_what_does_not_fit_is_refused():
    scores, answers = noise(5), np.arange(5)
    blocks = transfer.donor_blocks(answers, seeded())
    for message, *wrong in (
        ("two or more languages", scores[..., :1], answers, blocks),
        ("for 4 answers", scores, answers[1:], blocks),
        ("outside of the 5 columns", scores, answers + 3, blocks),
        ("own answer", scores, answers, ~blocks),
        ("outside of the recipient's block", scores, answers, blocks, ~blocks),
        ("not finite", scores * np.nan, answers, blocks),
        ("not finite", scores - np.inf, answers, blocks),
    ):
        with pytest.raises(ValueError, match=message):
            transfer.effects(*wrong)


def swaps(z: tuple, complement: tuple, draws: int = 300, spread: float = 0.0, problems: int = 16) -> list[dict]:
    """Estimates of a planted Z, of its complement and of the full swap."""
    answers = np.arange(problems)
    blocks = transfer.donor_blocks(answers, seeded())
    weights = transfer.resamples(problems, draws, seeded("weights"))
    shares = enumerate((z, complement, (1, 1)))
    scores = [planted(answers, blocks, *share, seed=seed, spread=spread) for seed, share in shares]
    samples = transfer.estimates(transfer.effects(np.stack(scores).astype(np.float32), answers, blocks), weights)
    return [{name: values[part] for name, values in samples.items()} for part in range(3)]


MAXIMA = {"t_same": 6.0, "g": 5.0}


@pytest.mark.parametrize(
    ("z", "complement", "d"),
    [((1, 0), (0, 1), 2), ((0, 1), (1, 0), -2), ((0.3, 0.3), (0.7, 0.7), 0), ((0.7, 0.1), (0.4, 0.8), 1)],
    ids=["perfect", "all language", "language-blind", "partial"],
)
def test_planted_swaps_have_their_profile(z, complement, d):
    samples = swaps(z, complement)
    assert samples[2]["t_same"] == pytest.approx(np.full(301, 6), abs=1e-4)  # the planted nats
    assert samples[2]["g"] == pytest.approx(np.full(301, 5), abs=1e-4)
    result = transfer.profile(*samples, MAXIMA)
    for name, value in zip(transfer.RATIOS, (*z, *complement, d)):
        assert list(result[name].values()) == pytest.approx([value] * 3, abs=1e-4), name
    assert json.loads(json.dumps(result)) == result
    assert result["full_agnosticity"]["value"] == pytest.approx(1, abs=1e-4)
    assert result["agnosticity"]["value"] == (pytest.approx(1, abs=1e-4) if z[0] else None)


def test_planted_swaps_have_their_winners():
    perfect, complement, full = swaps((1, 0), (0, 1))
    for swap, winner in ((perfect, "donor_recipient"), (complement, "recipient_donor"), (full, "donor_donor")):
        assert [swap[name][0] for name in WINNERS] == [float(name == winner) for name in WINNERS]
    result = transfer.profile(perfect, complement, full, MAXIMA)
    for name, values in (("iia_same", (1, 1, 0)), ("iia_cross", (1, 0, 1))):
        assert tuple(result[key]["value"] for key in (name, f"full_{name}", f"{name}_gain")) == values


def test_draws_are_paired():
    """Where Z does half of what the full swap does, problem by problem, the ratio is one number, though both vary."""
    answers = np.arange(16)
    blocks = transfer.donor_blocks(answers, seeded())
    full = noise(16) + planted(answers, blocks, 1, 1)
    effect = transfer.effects(np.stack([full / 2, full]), answers, blocks)
    samples = transfer.estimates(effect, transfer.resamples(16, 200, seeded()))
    half, whole = ({name: values[part] for name, values in samples.items()} for part in (0, 1))
    assert list(transfer.profile(half, half, whole, MAXIMA)["coverage"].values()) == pytest.approx([0.5] * 3)
    assert np.ptp(whole["t_same"]) > 0.1
    d = transfer.profile(*swaps((0.3, 0.3), (0.7, 0.7), spread=1.0, problems=30), MAXIMA)["d"]  # noise of their own
    assert d["low"] < 0 < d["high"]
    assert 0.02 < d["high"] - d["low"] < 0.5


def test_many_subspaces_over_one_full_swap():
    full = {"t_same": 4.0, "g": 2.0}
    z = {"t_same": np.array([1.0, 2.0, 4.0]), "g": np.array([0.0, 1.0, 2.0])}
    found = [transfer.ratios(z, full, full)[name].tolist() for name in ("coverage", "leak", "d")]
    assert found == [[0.25, 0.5, 1.0], [0.0, 0.5, 1.0], [0.25, 0.0, 0.0]]
    assert np.isnan(transfer.ratios(z, full, full | {"g": 0.0})["d"]).all()


def test_an_unusable_denominator_takes_its_ratios_with_it():
    z, complement, full = swaps((0.8, 0.1), (0.2, 0.9))
    no_language = full | {"g": full["g"] / 5 * np.random.default_rng(0).normal(0.05, 1, 301)}
    no_answer = {"coverage", "complement_transfer", "d", "agnosticity", "full_agnosticity"}
    for everything, maxima, missing in (
        (no_language, MAXIMA, {"leak", "complement_language", "d"}),
        (full, {"t_same": 121.0, "g": 5.0}, no_answer),  # 6 < .05 · 121
    ):
        result = transfer.profile(z, complement, everything, maxima)
        assert {name for name, part in result.items() if part == NOTHING} == missing


def test_the_floor_by_hand():
    samples = np.array([3.0, 2.0, 4.0, 2.0, 4.0])  # standard error 2/√3 = 1.155: 3 < 3.46
    assert transfer.standard_error(samples) == pytest.approx(2 / np.sqrt(3))
    assert not transfer.usable(samples, 3.0)
    samples[0] = 3.5
    assert transfer.usable(samples, 70.0)
    for values, maximum in (
        (samples, 70.1),
        (-samples, 3.0),
        (0 * samples, 0.0),
        (np.nan * samples, 3.0),
        (samples, None),
    ):
        assert not transfer.usable(values, maximum)
    with pytest.raises(ValueError, match="two draws"):
        transfer.usable(samples[:1], 3.0)


def test_noise_is_no_denominator():
    """Where the full swap moves nothing, three standard errors let almost none of 100 data sets pass."""
    answers = np.arange(16)
    blocks = transfer.donor_blocks(answers, seeded())
    effect = transfer.effects(noise(16, lead=(100,)), answers, blocks)
    samples = transfer.estimates(effect, transfer.resamples(16, 200, seeded()))
    for name in ("t_same", "g"):
        assert sum(transfer.usable(values, 0.01) for values in samples[name]) <= 2


def test_records_leave_no_nan():
    assert transfer.record(np.full(9, np.nan)) == transfer.record(None) == NOTHING
    assert transfer.record(np.array([2.0])) == {"value": 2.0, "low": None, "high": None}
    draws = np.concatenate([[7.0], np.arange(201.0), [np.nan] * 5])
    assert transfer.record(draws) == {"value": 7.0, "low": 5.0, "high": 195.0}
    for alone in (np.zeros(5, int), np.zeros(20, int)):  # one answer has no donors
        nobody = points(blank(len(alone)), alone, transfer.donor_blocks(alone, seeded()))
        assert all(np.isnan(value) for value in nobody.values())


def test_kappa_is_zero_at_chance_and_one_at_everything():
    for coverage, haar, expected in ((0.25, [0.2, 0.3], 0), (1.0, [0.2, 0.3], 1), (0.4, [0.25], 0.2)):
        assert transfer.kappa(coverage, haar) == pytest.approx(expected)
    assert transfer.kappa(None, [0.2]) is transfer.kappa(0.4, []) is transfer.kappa(0.4, [1.0]) is None


def site(number: int, answer: tuple, language: tuple, wins: float | None, *shares: tuple) -> dict:
    values = (answer, language, (wins, None, None), *(shares or [(None, None, None)] * 2))
    records = [dict(zip(("value", "low", "high"), own)) for own in values]
    return {"site": number} | dict(zip(("t_same", "g", "iia_same", "t_same_share", "g_share"), records))


def test_carriers_worked_by_hand():
    nothing = (None, None, None)
    rows = [
        site(0, nothing, nothing, None),
        site(
            2, (4.0, 3.9, 4.1), (0.1, -0.1, 0.3), 0.5, (0.5, 0.49, 0.51), (0.5, 0.5, 0.5)
        ),  # half is missed by the lower bound
        site(
            4, (5.0, 4.0, 6.0), (1.0, 0.9, 1.1), 0.5, (0.6, 0.5, 0.7), (0.3, 0.2, 0.4)
        ),  # floors just reached; no language
        site(6, (8.0, 7.0, 9.0), (2.0, 1.5, 2.5), 0.9, (1.0, 1.0, 1.0), (0.7, 0.5, 0.9)),
        site(
            8, (7.0, 6.0, 8.0), (3.0, 2.5, 3.5), 0.4, (0.9, 0.8, 1.0), (1.0, 1.0, 1.0)
        ),  # the donor's answer does not win
        site(9, (7.0, 0.0, 8.0), (3.0, 2.5, 3.5), 0.9, (0.9, 0.8, 1.0), (1.0, 1.0, 1.0)),  # not surely above 0
    ]
    assert transfer.carriers(rows) == {"answer": [4, 6], "language": [6, 8, 9], "joint": [6]}
    assert transfer.carriers(rows, share=0.8) == {"answer": [6], "language": [8, 9], "joint": []}
    assert transfer.carriers(rows, winning=0.3)["answer"] == [4, 6, 8]
    assert transfer.carriers(rows[:1]) == transfer.carriers([]) == {"answer": [], "language": [], "joint": []}


def test_the_curves_shares_are_paired_over_draws():
    """Problems that move alike at every site: the effects vary from draw to draw, their shares of the largest do not."""
    draws = np.array([4.0, 3.0, 5.0, 4.5])
    samples = {
        2: {"t_same": draws / 4, "g": -draws},
        7: {"t_same": draws, "g": -draws / 2},
        0: {"t_same": 0 * draws, "g": np.full(4, np.nan)},
    }
    rows = transfer.curve(samples)
    assert [row["site"] for row in rows] == [0, 2, 7]
    assert [row["t_same_share"] for row in rows] == [
        dict.fromkeys(("value", "low", "high"), share) for share in (0, 0.25, 1)
    ]
    assert rows[2]["t_same"]["value"] == 4 and rows[2]["t_same"]["low"] < 3.2
    assert all(row["g_share"]["value"] is None for row in rows)  # a largest value that is not positive is none
    assert transfer.curve({}) == []


def test_the_intervals_cover():
    """Problems differ as donors and as recipients: of 200 data sets about 95 % have the planted value in the interval.

    The donor's answer: 3 nats on average for the full swap, .6 of them for Z, both varying from problem to problem.
    """
    problems, datasets = 20, 200
    answers = np.arange(problems)
    blocks = transfer.donor_blocks(answers, seeded())
    weights = transfer.resamples(problems, 400, seeded())
    hits = {"t_same": 0, "g": 0, "coverage": 0}
    for dataset in range(datasets):
        random = np.random.default_rng(dataset)
        donor, recipient, share = (random.normal(m, s, problems) for m, s in ((1.5, 1), (1.5, 1), (0.6, 0.2)))
        strength = recipient[:, None] + donor
        turn = random.normal(2, 0.7, problems)
        full, z = (random.normal(size=(2, problems, 2, problems, problems, 2)) / 2 for _ in range(2))
        full[:, :, :, answers, answers] += strength[:, None, :, None]
        z[:, :, :, answers, answers] += (strength * share)[:, None, :, None]
        for a in range(2):
            full[:, :, a, ..., a] += turn[:, None]
        samples = transfer.estimates(transfer.effects(np.stack([z, full]), answers, blocks), weights)
        part, whole = samples["t_same"]
        for name, values, truth in (("t_same", whole, 3), ("g", samples["g"][1], 2), ("coverage", part / whole, 0.6)):
            interval = transfer.record(values)
            hits[name] += interval["low"] <= truth <= interval["high"]
    for name, count in hits.items():
        assert 0.88 <= count / datasets <= 0.99, (name, count)
