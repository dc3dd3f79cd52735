"""Linear maps with a known answer: leave-one-answer-out by refitting by hand, shuffled problems, gains and twins."""

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes

from lab import maps, statistics

NAMES = ("identity", "mean_shift", "procrustes", "ridge", "ols")


def pairs(relation: str, n: int = 40, k: int = 6, noise: float = 0.05, seed: int = 0) -> tuple:
    """Sources and targets that are related as named, and answers that several problems share."""
    draw = np.random.default_rng(seed)
    source = draw.standard_normal((n, k)) * np.linspace(2, 0.5, k) + 3
    if relation == "identity":
        target = source
    elif relation == "mean_shift":
        target = source + 5 * draw.standard_normal(k)
    elif relation == "procrustes":
        target = source @ np.linalg.qr(draw.standard_normal((k, k)))[0] + draw.standard_normal(k)
    elif relation == "linear":
        target = source @ draw.standard_normal((k, k)) + draw.standard_normal(k)
    else:
        target = draw.standard_normal((n, k))
    return source, target + noise * draw.standard_normal((n, k)), draw.integers(0, n // 2, n)


def held_out(source: np.ndarray, target: np.ndarray, answers: np.ndarray) -> dict:
    predicted = maps.predict((*NAMES, "mean"), source, target, answers)
    errors = {name: maps.squared_errors(own, target) for name, own in predicted.items()}
    return {name: float(maps.r_squared(errors[name], errors["mean"])) for name in NAMES}


@pytest.mark.parametrize("winner", ["identity", "mean_shift", "procrustes"])
def test_the_right_map_wins_held_out(winner):
    rows = [held_out(*pairs(winner, noise=0.5, seed=seed)) for seed in range(12)]
    r2 = {name: np.mean([row[name] for row in rows]) for name in NAMES}
    assert max(r2, key=r2.get) == winner, r2
    assert r2[winner] > 0.8


def test_a_linear_relation_needs_a_linear_map():
    for seed in range(5):
        r2 = held_out(*pairs("linear", seed=seed))
        assert min(r2["ridge"], r2["ols"]) > 0.98 > max(r2["procrustes"], r2["mean_shift"], r2["identity"])


@pytest.mark.parametrize("n, k", [(40, 6), (20, 30)])
def test_unrelated_pairs_are_predicted_by_no_map(n, k):
    for seed in range(3):
        assert max(held_out(*pairs("none", n, k, seed=seed)).values()) < 0.1


def ridge_by_hand(x: np.ndarray, y: np.ndarray, new: np.ndarray, toward: int, penalty: float) -> np.ndarray:
    """The map with the least squared error and penalty on its distance to `toward` times the identity."""
    centred, start = x - x.mean(0), toward * np.eye(x.shape[1], y.shape[1])
    away = centred.T @ (y - y.mean(0) - centred @ start)
    matrix = start + np.linalg.solve(centred.T @ centred + penalty * np.eye(x.shape[1]), away)
    return y.mean(0) + (new - x.mean(0)) @ matrix


def tried(penalties: np.ndarray, x: np.ndarray, y: np.ndarray) -> list[tuple[int, float]]:
    return [(toward, penalty) for toward in range(1 + (x.shape[-1] == y.shape[-1])) for penalty in penalties]


@pytest.mark.parametrize(
    "k, width", [(4, 5), (12, 3), (3, 3), (14, 14)]
)  # fewer and more dimensions than the fit has problems
def test_ridge_is_refitted_for_every_answer_with_a_penalty_from_the_others(k, width):
    """Answers with one, two and three problems; three pairings of two spaces at once, by solving every fit by hand."""
    draw, answers, chosen = np.random.default_rng(0), np.array([0, 1, 1, 2, 2, 2, 3, 4, 4, 5, 6, 7]), set()
    sources, n = draw.standard_normal((2, 12, k)), len(answers)
    targets = sources[:, None, :, :1] * draw.standard_normal(width) + draw.standard_normal((2, 3, n, width)) / 2
    targets += 2 * sources[:, None] if k == width else 0
    predicted = maps.ridge(sources, targets, answers)
    for space, pairing in np.ndindex(2, 3):
        x, y = sources[space], targets[space, pairing]
        ways = tried(maps.penalties_of(sources)[space], x, y)
        for answer in range(8):
            rest, losses = answers != answer, []
            for way in ways:
                inner = [(rest & (answers != other), answers == other) for other in set(answers[rest])]
                each = [np.square(ridge_by_hand(x[fit], y[fit], x[out], *way) - y[out]).sum() for fit, out in inner]
                losses.append(sum(each))
            chosen.add(int(np.argmin(losses)))
            by_hand = ridge_by_hand(x[rest], y[rest], x[~rest], *ways[np.argmin(losses)])
            np.testing.assert_allclose(predicted[space, pairing, ~rest], by_hand, rtol=1e-7, atol=1e-9)
    assert len(chosen) > 2


def test_what_is_nearly_shared_in_many_dimensions_is_not_lost_to_the_penalty():
    """40 problems in 60 dimensions, a target that is the source and a little more: no worse than a shift, beyond it for the rest."""
    draw = np.random.default_rng(0)
    source, answers = draw.standard_normal((40, 60)), np.arange(40)
    turned = source + 0.5 * source[:, :1] * draw.standard_normal(60) + 3
    r2 = held_out(source, turned + 0.1 * draw.standard_normal((40, 60)), answers)
    assert r2["ridge"] > r2["mean_shift"] + 0.05 and r2["ols"] < 0.7 < r2["mean_shift"], r2
    r2 = held_out(source, source + 3 + 0.1 * draw.standard_normal((40, 60)), answers)
    assert r2["ridge"] > r2["mean_shift"] - 0.01, r2


def test_ridge_in_pieces_is_ridge_at_once(monkeypatch):
    source, target, answers = pairs("linear", 20, 3, noise=1.0)
    targets = np.stack([np.stack([target, target[::-1], np.roll(target, 3, 0)])] * 4)
    sources = np.stack([source, source + 1, 2 * source, source**2])
    whole = maps.ridge(sources, targets, answers)
    monkeypatch.setattr(maps, "AT_ONCE", 1)
    np.testing.assert_allclose(maps.ridge(sources, targets, answers), whole, rtol=1e-10)


def by_hand(name: str, x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Every other map, fitted on all of x and y."""
    if name == "identity":
        return new
    if name == "mean":
        return np.broadcast_to(y.mean(0), new.shape)
    if name == "mean_shift":
        return new + y.mean(0) - x.mean(0)
    centred, centred_target = x - x.mean(0), y - y.mean(0)
    if name == "scaled_shift":
        return y.mean(0) + (centred * centred_target).sum() / np.square(centred).sum() * (new - x.mean(0))
    if name == "procrustes":
        return y.mean(0) + (new - x.mean(0)) @ orthogonal_procrustes(centred, centred_target)[0]
    return y.mean(0) + (new - x.mean(0)) @ np.linalg.lstsq(centred, centred_target, rcond=1e-9)[0]


@pytest.mark.parametrize("name", [name for name in maps.FITS if name != "ridge"])
def test_other_maps_are_refitted_without_an_answer(name):
    for k in (4, 30) if name == "ols" else (4,):
        source, target, answers = pairs("linear", 16, k, noise=1.0)
        targets = np.stack([target, target[::-1]])
        predicted = maps.predict((name,), source, targets, answers)[name]
        for pairing, answer in np.ndindex(2, int(answers.max()) + 1):
            rest = answers != answer
            expected = by_hand(name, source[rest], targets[pairing, rest], source[~rest])
            np.testing.assert_allclose(predicted[pairing, ~rest], expected, rtol=1e-6, atol=1e-8)


def test_what_is_left_out_is_not_seen():
    """Other targets of an answer's problems change no prediction for these, and every map's predictions for others."""
    source, target, answers = pairs("linear", 14, 3)
    answers[:3] = 0
    own, changed = answers == 0, target.copy()
    changed[own] += 10
    before, after = (maps.predict(maps.FITS, source, own_target, answers) for own_target in (target, changed))
    for name in maps.FITS:
        np.testing.assert_allclose(after[name][own], before[name][own], atol=1e-9)
        if name != "identity":
            assert np.abs(after[name][~own] - before[name][~own]).max() > 1e-3, name


def test_what_is_fitted_on_everything_is_the_map_itself():
    source, target, answers = pairs("linear", 16, 4, noise=1.0)
    for name in NAMES:
        matrix, intercept = maps.fitted(name, source, target, answers)
        if name == "ridge":
            losses, ways = [], tried(maps.penalties_of(source[None])[0], source, target)
            for way in ways:
                folds = maps.folds(answers)
                each = [
                    np.square(ridge_by_hand(source[rest], target[rest], source[out], *way) - target[out]).sum()
                    for out, rest in folds
                ]
                losses.append(sum(each))
            expected = ridge_by_hand(source, target, source, *ways[np.argmin(losses)])
        else:
            expected = by_hand(name, source, target, source)
        np.testing.assert_allclose(source @ matrix.T + intercept, expected, rtol=1e-6, atol=1e-8)


def test_a_map_of_an_unknown_name_is_none_of_the_others():
    with pytest.raises(ValueError, match="no map is called 'mean'"):
        maps.fitted("mean", *pairs("linear", 16, 4))


def test_least_squares_interpolates_twenty_pairs():
    """The recipe's "zero overfitting risk": with k ≥ n - 1 the R² on what it was fitted on is 1 even for noise."""
    source, target, answers = pairs("none", 20, 20)
    matrix, intercept = maps.fitted("ols", source, target, answers)
    np.testing.assert_allclose(source @ matrix.T + intercept, target, atol=1e-8)
    assert held_out(source, target, answers)["ols"] < 0


def test_procrustes_is_orthogonal_optimal_and_closest_to_the_identity_where_data_are_silent():
    draw = np.random.default_rng(0)
    cross = draw.standard_normal((3, 5, 5))
    for matrix, rotation in zip(cross, maps.rotation(cross)):
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(5), atol=1e-9)
        assert np.trace(rotation.T @ matrix) == pytest.approx(np.linalg.svd(matrix, compute_uv=False).sum())
    thin = np.zeros((5, 5))
    thin[0, 1] = 1.0  # only: source axis 1 goes to target axis 0
    rotation = maps.rotation(thin)
    np.testing.assert_allclose(rotation @ np.eye(5)[1], np.eye(5)[0], atol=1e-6)
    np.testing.assert_allclose(rotation[2:, 2:], np.eye(3), atol=1e-6)


def test_too_few_answers_are_refused():
    source, target, _ = pairs("linear", 6, 2)
    with pytest.raises(ValueError, match="2 answers: three are needed"):
        maps.predict(("ridge",), source, target, np.array([0, 0, 0, 1, 1, 1]))


def test_shuffled_problems_keep_no_answer_where_that_can_be():
    answers = np.array([0, 0, 0, 1, 1, 2, 3, 4])
    orders = maps.shuffled(answers, statistics.seeded(0, "test"), 50)
    assert (np.sort(orders, 1) == np.arange(8)).all()
    assert not (answers[orders] == answers).any()
    assert len({tuple(order) for order in orders}) > 40
    most = np.array([0, 0, 0, 0, 0, 1, 2])  # three of the five must keep theirs
    orders = maps.shuffled(most, statistics.seeded(0, "test"), 20)
    assert ((most[orders] == most).sum(1) == 3).all()


def ridge_r2(source: np.ndarray, targets: np.ndarray, answers: np.ndarray) -> np.ndarray:
    predicted = maps.predict(("ridge", "mean"), source, targets, answers)
    return maps.r_squared(*(maps.squared_errors(predicted[name], targets) for name in ("ridge", "mean")))


def unrelated(seed: int) -> tuple:
    """Texts that share an answer lie close in both languages, but which answers do tells nothing; or pairings of a related world."""
    draw = np.random.default_rng(seed)
    answers = np.sort(draw.integers(0, 14, 26))
    of_answers = draw.standard_normal((2, 14, 3))
    source, target = of_answers[:, answers] + draw.standard_normal((2, 26, 3)) / 2
    if seed % 2:
        (order,) = maps.shuffled(answers, statistics.seeded(seed, "the pairing itself"), 1)
        target = (source @ draw.standard_normal((3, 3)))[order] + draw.standard_normal((26, 3)) / 4
    return source, target, answers


def test_shuffled_problems_are_a_null():
    """Of 400 worlds where partners have nothing to do with each other 2 to 8 % pass at 5 %."""
    passed = 0
    for seed in range(400):
        source, target, answers = unrelated(seed)
        orders = maps.shuffled(answers, statistics.seeded(seed, "null"), 39)
        own, *drawn = ridge_r2(source, np.concatenate([target[None], target[orders]]), answers)
        passed += statistics.null_record(np.array(drawn), own)["p"] <= 0.05
    assert 8 <= passed <= 32, passed


def test_a_gain_is_what_no_shift_and_no_shrinking_gives():
    """Parts of answers add up; scale does not matter; a shift, scaled or not, and unrelated pairs gain nothing."""
    for relation, low, high in (
        ("linear", 0.9, 1),
        ("procrustes", 0.9, 1),
        ("identity", -0.9, 0.1),
        ("none", -0.3, 0.05),
    ):
        source, target, answers = pairs(relation, noise=0.3)
        scored = answers > 3
        spaces = np.stack([source, 100 * source]), np.stack([target, 100 * target])
        total, parts = maps.gains("ridge", *spaces, answers, scored)
        assert low < total[0] < high, (relation, total)
        np.testing.assert_allclose(total, total[0], rtol=1e-6)
        np.testing.assert_allclose(parts.sum(1), total)
        assert parts.shape == (2, len(set(answers[scored])))
    scaled, _ = maps.gains("ridge", source[None], 0.4 * source[None] + 1, answers, scored)
    assert scaled[0] < 1e-6  # the scaled shift is exact
    nothing, _ = maps.gains("ridge", source[None], np.zeros_like(source)[None], answers, scored)
    assert nothing[0] == 0


def test_a_problem_is_found_where_its_target_is_nearer_than_other_answers():
    targets, answers = np.array([[0.0], [1.0], [1.1], [5.0]]), np.array([0, 1, 1, 2])
    predicted = np.array([[0.4], [1.2], [0.4], [3.0]])  # nearest to 0; to 1.1, of the same answer; to 0; to 1.1
    assert maps.retrieved(predicted, targets, answers).tolist() == [True, True, False, False]


def test_gains_of_few_answers_are_tested_exactly():
    """Ten answers have 1024 patterns of signs, and all count."""
    assert maps.gain_p(np.ones(10), 0) == 1 / 1024
    assert maps.gain_p(-np.ones(10), 0) == maps.gain_p(np.zeros(10), 0) == 1
    assert maps.gain_p(np.ones(30), 0) == 1 / 5000


def test_the_interval_of_r_squared_covers_it():
    """R² of a prediction whose error has variance ¼ of the target's is ¾."""
    draw, hits = np.random.default_rng(0), 0
    for seed in range(100):
        target = draw.standard_normal((30, 6))
        error = np.square(draw.standard_normal((30, 6)) / 2).sum(1)
        reference = np.square((target - target.mean(0)) * 30 / 29).sum(1)
        low, high = maps.interval(maps.r_squared, seed, error, reference)
        hits += low < 0.75 < high
    assert hits >= 88  # 95 expected


def test_a_model_that_is_one_of_its_twins_seldom_beats_them():
    """Twins differ from each other, and all answers of a twin alike: signs over answers alone would pass half of them."""
    draw, passed, signs = np.random.default_rng(0), 0, 0
    for seed in range(200):
        answers = draw.standard_normal(8) / 100
        own, *others = (answers + draw.standard_normal() / 100 + draw.standard_normal(8) / 500 for _ in range(7))
        rows = maps.against_twins(own, {"permuted": others[:3], "reinitialised": others[3:]}, seed)
        passed += all(row["p"] <= 0.05 for row in rows.values())
        signs += all(row["p_answers"] <= 0.05 for row in rows.values())
    assert passed <= 16 < signs  # 10 expected at most
    rows = maps.against_twins(own + 0.05, {"permuted": others[:3], "reinitialised": others[3:]}, 0)
    assert all(row["p"] < 0.01 for row in rows.values())
    assert rows["permuted"]["mean"] == pytest.approx(np.mean(rows["permuted"]["gains"]))
