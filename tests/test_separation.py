"""The instruments of phase 2 by brute force and closed forms: pairs, nulls, the offset, foils, twins and readers."""

import argparse
from itertools import combinations, permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from scipy import stats

import utils
from lab import (
    checkpoints,
    decoding,
    models,
    pairs,
    pooling,
    questions,
    separation,
    statistics,
    studies,
    subspaces,
    text,
    twins,
)

CPU = torch.device("cpu")


def cloud_of_points(languages: int = 2, problems: int = 6, width: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.randn(languages, problems, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("problems", [4, 5, 6, 20, 39, 40])
def test_circulant_pairs_are_all_pairs_up_to_forty_problems(problems):
    paired = pairs.make_pairs(2, problems)
    different = list(zip(paired.first[problems:].tolist(), paired.second[problems:].tolist()))
    found = {tuple(sorted(pair)) for pair in different}
    wanted = {(i + shift, j + shift) for i, j in combinations(range(problems), 2) for shift in (0, problems)}
    assert len(different) == len(found)
    assert found == wanted


def test_beyond_forty_their_number_is_linear_and_every_problem_has_as_many():
    paired = pairs.make_pairs(2, 90)
    ends = torch.cat([paired.first[90:], paired.second[90:]])
    assert torch.equal(ends.bincount(minlength=180), torch.full((180,), 2 * pairs.SHIFTS))
    assert len({tuple(sorted(pair)) for pair in zip(paired.first[90:].tolist(), paired.second[90:].tolist())}) == 3600


@pytest.mark.parametrize(
    ("languages", "problems", "folded"), [(2, 6, False), (3, 7, False), (3, 50, True), (2, 50, False)]
)
def test_ratios_and_energy_against_a_dense_loop(languages, problems, folded):
    points = cloud_of_points(languages, problems)
    (basis,) = utils.random_subspaces(torch.Generator().manual_seed(1), 1, 3, 10)
    folds = pairs.folds_by_answer([index // 2 for index in range(problems)], 0) if folded else None
    paired = pairs.make_pairs(languages, problems, folds)
    inside, outside = basis.T @ basis, torch.eye(10, dtype=torch.float64) - basis.T @ basis
    flat, cut = points.flatten(0, 1), paired.same_problem
    deltas = [flat[i] - flat[j] for i, j in zip(paired.first.tolist(), paired.second.tolist())]
    if folded:
        assert torch.equal(folds[paired.first % problems], folds[paired.second % problems])
    versions = [points[a, i] - points[b, i] for a, b in combinations(range(languages), 2) for i in range(problems)]
    torch.testing.assert_close(torch.stack(deltas[:cut]), torch.stack(versions))

    def ratio(projector):
        lengths = [(projector @ delta).norm().item() for delta in deltas]
        return np.mean(lengths[:cut]) / np.mean(lengths[cut:])

    total, part = paired.squares(points), paired.squares(points, basis[None])[0]
    assert paired.ratio(part).item() == pytest.approx(ratio(inside))
    assert paired.ratio(total - part).item() == pytest.approx(ratio(outside))
    assert paired.contrast(part, total).item() == pytest.approx(ratio(inside) / ratio(outside))
    same, same_outside = ([(p @ delta).norm().item() for delta in deltas[:cut]] for p in (inside, outside))
    versions_apart, between = paired.by_problem(part)
    assert versions_apart.sum() == pytest.approx(sum(same))
    different = [(inside @ delta).norm().item() for delta in deltas[cut:]]
    assert between.sum() == pytest.approx(sum(different)) and (between == between.T).all()
    assert between.diagonal().sum() == 0
    expected = sum((basis @ delta).square().sum() for delta in versions) / sum(v.square().sum() for v in versions)
    assert paired.energy_fractions(part, total)[0].item() == pytest.approx(expected.item())
    low, high = paired.interval(part, total, 0)
    assert low < paired.contrast(part, total).item() < high


@pytest.mark.parametrize("width", [8, 12, 60])
@pytest.mark.parametrize("kind", pairs.NULLS)
def test_random_subspaces_are_distributed_as_explicit_ones(width, kind):
    """Also where d is so large that most of each random row is drawn as a Wishart matrix only."""
    points = cloud_of_points(width=width)
    points[1] += 2
    paired = pairs.make_pairs(2, 6)
    null, _ = pairs.random_contrasts(points, paired, kind, [2, 5], 0, 2000)
    assert torch.equal(null[2], pairs.random_contrasts(points, paired, kind, [2, 5], 0, 2000)[0][2])
    draw, language = torch.Generator().manual_seed(7), utils.language_space(points)
    within = (points - points.mean(1, keepdim=True)).flatten(0, 1)
    for k in (2, 5):
        explicit = {
            "haar": lambda k: utils.random_subspaces(draw, 2000, k, width),
            "matched": lambda k: utils.matched_subspaces(draw, 2000, k, within),
            "missing": lambda k: utils.random_subspaces(draw, 2000, k, width - 1) @ torch.linalg.svd(language)[2][1:],
        }[kind](k)
        found = paired.contrast(paired.squares(points, explicit), paired.squares(points))
        assert stats.ks_2samp(null[k].numpy(), found.numpy()).pvalue > 0.001


def test_the_same_subspaces_are_drawn_with_the_offset_and_without():
    """Out of fold means shift every fold by itself: draws from the centred points' own covariance would be others."""
    points = cloud_of_points(problems=30, width=24)
    points[1] += 3.0
    place = separation.Place(points, pairs.folds_by_answer(list(range(30)), 0), 0, 400)
    centred = place.centred.points
    for kind in ("haar", "matched"):
        coordinates = pairs.random_draws(centred, 24, statistics.seeded(1, "x"), kind, place.points)(3)
        full = place.centred.paired.squares_of(coordinates)  # all 24 dimensions: nothing of a centred point is lost
        torch.testing.assert_close(full, place.centred.total.expand_as(full), rtol=1e-6, atol=1e-9)


def test_twins_that_differ_among_themselves_are_hard_to_beat():
    """A rate that another twin could have is no news, however surely the bases agree on it; a much higher one is."""
    bases = torch.full((24,), 0.6, dtype=torch.float64)
    twins_of = {
        kind: torch.tensor([[0.4], [0.5], [0.6]], dtype=torch.float64).expand(3, 24) for kind in ("one", "other")
    }
    found = text.against_twins(bases, twins_of, 0)
    spread, t = 0.1, stats.t.ppf(0.975, 2)  # a kind's own, which is wider than the pooled one
    for row in found.values():
        assert row["rates"] == pytest.approx([0.4, 0.5, 0.6])
        assert row["difference"]["value"] == pytest.approx(0.1)
        assert row["difference"]["low"] == pytest.approx(0.1 - t * spread * (4 / 3) ** 0.5)
    surely = text.against_twins(torch.full((24,), 1.0, dtype=torch.float64), twins_of, 0)
    assert all(row["difference"]["low"] > 0 for row in surely.values())
    even = {"one": twins_of["one"], "other": torch.full((3, 24), 0.5, dtype=torch.float64)}  # spreads need not be alike
    pooled = spread / 2**0.5
    lows = {kind: row["difference"]["low"] for kind, row in text.against_twins(bases, even, 0).items()}
    assert lows["one"] == pytest.approx(0.1 - t * spread * (4 / 3) ** 0.5)
    assert lows["other"] == pytest.approx(0.1 - stats.t.ppf(0.975, 4) * pooled * (4 / 3) ** 0.5)


def test_any_number_of_draws():
    """Below one chunk and no multiple of it; whole chunks do not depend on what comes after them."""
    points, paired = cloud_of_points(width=12), pairs.make_pairs(2, 6)
    few, more, most = (pairs.random_contrasts(points, paired, "haar", [3], 0, count)[0][3] for count in (7, 450, 600))
    assert (len(few), len(more), len(most)) == (7, 450, 600)
    assert torch.equal(more[:400], most[:400])
    assert torch.isfinite(more).all()


def test_every_null_of_a_place_has_to_be_beaten():
    """Draws of the data's own covariance where they hold at most half of it; those that miss the offset only raw."""
    points = torch.cat([cloud_of_points(problems=12, width=3, seed=1), torch.zeros(2, 12, 61, dtype=torch.float64)], 2)
    folds = pairs.folds_by_answer(list(range(12)), 0)
    place = separation.Place(points + 1e-3 * cloud_of_points(2, 12, 64), folds, 0, 99)
    row = place.row(torch.eye(64, dtype=torch.float64)[:3])
    assert row["matched_share"] > 0.5 and not row["matched"]["gates"]  # three directions are all that varies
    assert row["p"] == max(row[null]["p"] for null in separation.RAW if null != "matched")
    assert "missing" not in row["centred"]
    place = separation.Place(cloud_of_points(problems=12, width=64, seed=1), folds, 0, 99)
    row = place.row(torch.eye(64, dtype=torch.float64)[:3])
    assert row["matched_share"] < 0.5 and row["matched"]["gates"]
    assert row["p"] == max(row[null]["p"] for null in separation.RAW)
    assert row["centred"]["p"] == max(row["centred"][null]["p"] for null in separation.CENTRED)


def test_an_interval_covers_what_more_problems_would_show():
    """A pair of problems changes with both: 95 % intervals of 20 problems hold the contrast of 4,000."""

    def drawn(problems: int, seed: int) -> tuple[pairs.Pairs, torch.Tensor, torch.Tensor]:
        draw = torch.Generator().manual_seed(seed)
        sizes = 2 * torch.rand(problems, 1, generator=draw, dtype=torch.float64)
        code = sizes * torch.randn(problems, 20, generator=draw, dtype=torch.float64)
        noise = torch.randn(2, problems, 20, generator=draw, dtype=torch.float64)
        paired, points = pairs.make_pairs(2, problems), code + 0.7 * noise
        basis = torch.eye(20, dtype=torch.float64)[:5]
        return paired, paired.squares(points, basis[None])[0], paired.squares(points)

    paired, inside, total = drawn(4000, 1000)
    truth, covered = paired.contrast(inside, total).item(), 0
    for seed in range(100):
        paired, inside, total = drawn(20, seed)
        low, high = paired.interval(inside, total, seed)
        covered += low <= truth <= high
    assert covered >= 86  # of 200: 92 %


def test_out_of_fold_means_leak_nothing():
    """In-sample centring makes unrelated versions of n problems repel each other by 1/n; out of fold they do not."""
    folds, products = pairs.folds_by_answer(list(range(10)), 0), {"in": [], "out": []}
    for seed in range(400):
        points = cloud_of_points(problems=10, width=6, seed=seed)
        points[1] += 5
        points[1, :, 0] *= 2
        for name, centred in (
            ("in", points - points.mean(1, keepdim=True)),
            ("out", pairs.without_means(points, folds)),
        ):
            lengths = (centred.square().sum(-1).mean()).item()
            same = torch.stack([centred[0, folds == f].sum(0) @ centred[0, folds == f].sum(0) for f in range(5)]).sum()
            products[name].append((same.item() - centred[0].square().sum().item()) / 10 / lengths)
    assert np.mean(products["in"]) < -0.05
    assert np.mean(products["out"]) > 0
    points = cloud_of_points(problems=10)
    moved = points.clone()
    moved[:, folds == 0] += 100  # what is held out changes no mean that is taken off it
    difference = pairs.without_means(moved, folds)[:, folds == 0] - pairs.without_means(points, folds)[:, folds == 0]
    torch.testing.assert_close(difference, torch.full_like(difference, 100.0))


@pytest.mark.parametrize("languages", [2, 3])
def test_leace_leaves_no_linear_language_information_in_sample(languages):
    points = cloud_of_points(languages, 30, 20)
    points = points * torch.logspace(0, 1, 20, dtype=torch.float64)
    points += 3 * cloud_of_points(languages, 1, 20, seed=4)
    erased = pairs.leace(points)(points)
    labels = torch.nn.functional.one_hot(torch.arange(languages)).double().repeat_interleave(30, 0)
    flat = erased.flatten(0, 1)
    assert ((flat - flat.mean(0)).T @ (labels - labels.mean(0))).abs().max() < 1e-9
    change = (erased - points).flatten(0, 1)
    assert int(torch.linalg.matrix_rank(change - change.mean(0), atol=1e-9)) == languages - 1


def test_folds_keep_an_answer_together():
    answers = ["a"] * 6 + ["b"] * 3 + list("cdefghij")
    folds = pairs.folds_by_answer(answers, 0)
    assert len(folds[:6].unique()) == len(folds[6:9].unique()) == 1
    assert folds.bincount().max() <= 6
    assert pairs.folds_by_answer(["x"] * 4, 0).bincount().tolist() == [2, 2]


def test_the_pairing_null_sees_pairs_and_only_pairs():
    points, basis = cloud_of_points(problems=10), torch.eye(10, dtype=torch.float64)
    related = torch.stack([points[0], points[0] + 0.3 * points[1]])
    record = pairs.pairing_null(pairs.cross_distances(related, basis), 0)
    assert record["p"] < 0.01
    assert pairs.cross_distances(related, basis).diagonal().mean() < record["low"] < record["middle"] < record["high"]
    clouds = (cloud_of_points(problems=10, seed=seed) for seed in range(60))
    ps = [pairs.pairing_null(pairs.cross_distances(points, basis), 0)["p"] for points in clouds]
    assert 0.3 < np.mean(ps) < 0.7


def test_shuffles_stay_within_folds():
    folds = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    for order in pairs.shuffles(7, 0, folds, 50):
        assert torch.equal(folds[order], folds)
        assert sorted(order.tolist()) == list(range(7))
    free = pairs.shuffles(7, 0, None, 2000)
    assert abs((free == torch.arange(7)).double().mean().item() - 1 / 7) < 0.02


def test_a_planted_subspace_separates_and_one_that_misses_the_offset_does_not():
    """Content in the first axes of both languages; an offset elsewhere, which a random subspace need only miss."""
    points = 0.2 * cloud_of_points(2, 30, 60, seed=1)
    points[..., :4] += 2 * cloud_of_points(1, 30, 4)
    points[1, :, 10] += 40
    place = separation.Place(points, pairs.folds_by_answer(list(range(30)), 0), 0, 199)
    axes = torch.eye(60, dtype=torch.float64)
    found, missing = place.row(axes[:4]), place.row(axes[20:24])
    assert found["contrast"] < 0.3 and found["p"] < 0.05
    assert found["centred"]["p"] < 0.05 and found["centred"]["high"] < 1 and found["leace"]["contrast"] < 1
    assert missing["contrast"] < 1 and missing["haar"]["p"] < 0.05  # what the first edition would have praised
    assert missing["missing"]["p"] > 0.05 and missing["centred"]["p"] > 0.05


def study_of(points: torch.Tensor, primary: torch.Tensor) -> studies.Study:
    vectors = points[:, :, None, None].expand(-1, -1, 3, 2, -1).float().numpy()
    weights = {"k": [len(primary)] * 3, "heads": {1: primary[None], 0: primary[None]}, "every_layer": [primary] * 2}
    problems = [SimpleNamespace(answer=index) for index in range(points.shape[1])]
    clouds = {site: points[:, :, None].expand(-1, -1, 4, -1) + 0 for site in range(3)}
    return studies.Study(vectors, np.zeros(0), clouds, 1, weights, problems, 0, CPU)


def test_nothing_is_scored_on_what_it_was_fitted_on(script, monkeypatch):
    phase2, fitted = script("phase2_z_extraction.py"), []
    monkeypatch.setattr(phase2, "DRAWS", 199)
    study = study_of(cloud_of_points(problems=12), torch.eye(10, dtype=torch.float64)[:3])
    monkeypatch.setattr(studies, "fitter", lambda *_: lambda chosen: fitted.append(chosen) or study.primary)
    phase2.held_out(study, "centroid", "mean")
    folds = study.folds()
    for fold, chosen in zip(folds.unique(), fitted):
        assert sorted(chosen) == (folds != fold).nonzero().flatten().tolist()
    paired = study.place(2, "mean", 199, held_out=True).raw.paired
    assert torch.equal(folds[paired.first % 12], folds[paired.second % 12])


def test_an_overfitted_subspace_does_not_pass(script, monkeypatch):
    """On pure noise with few problems a fitted subspace is perfect in sample, and at chance on held-out problems."""
    phase2, passed, ps = script("phase2_z_extraction.py"), 0, []
    monkeypatch.setattr(phase2, "DRAWS", 199)
    for seed in range(20):
        study = study_of(cloud_of_points(problems=12, width=40, seed=seed), torch.eye(40, dtype=torch.float64)[:3])
        row = phase2.held_out(study, "centroid", "mean")
        passed += phase2.held(row, "p")
        ps.append(row["centred"]["pairing"]["p"])
    assert passed <= 2
    assert 0.3 < np.mean(ps) < 0.7


def test_readers_by_brute_force():
    points = cloud_of_points(problems=8)
    points[1] = points[0] + 0.8 * points[1] + 3  # related versions, and a language offset
    hits, decoded = [], []
    for i in range(8):
        others = [j for j in range(8) if j != i]
        centred = points - points[:, others].mean(1, keepdim=True)
        for a, b in permutations(range(2)):
            hits.append((centred[a, i] - centred[b]).norm(dim=1).argmin().item() == i)
            distances = [(points[a, i] - points[language, others].mean(0)).norm() for language in (a, b)]
            decoded.append(distances[0] < distances[1])
    assert decoding.retrieved(points).mean().item() == pytest.approx(np.mean(hits))
    assert decoding.language_decoded(points).mean().item() == pytest.approx(np.mean(decoded))
    orders = pairs.shuffles(8, 0, None, 5)
    shuffled = [decoding.retrieved(torch.stack([points[0], points[1][order]])).mean().item() for order in orders[:1]]
    assert len(decoding.retrieved(points, orders)) == 5
    assert 0 <= shuffled[0] <= 1


def test_answers_are_read_without_their_own_translation():
    points, labels = cloud_of_points(problems=9), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3])
    right, centred = [], points - points.mean(1, keepdim=True)
    for a, b in permutations(range(2)):
        for i in range(8):  # the answer of the last problem has no other
            means = {}
            for answer in range(4):
                chosen = [j for j in range(9) if labels[j] == answer and j != i]
                if chosen:
                    means[answer] = (centred[a, i] - centred[b, chosen].mean(0)).norm().item()
            right.append(min(means, key=means.get) == labels[i])
    assert decoding.answers_decoded(points, labels).item() == pytest.approx(np.mean(right))
    assert decoding.answers_decoded(points, torch.arange(9)) is None
    control = decoding.control_labels(labels, 0, 50)
    assert torch.equal(control.sort(1).values, labels.expand(50, -1))
    told = torch.nn.functional.one_hot(labels).double().expand(2, -1, -1) + 0.01 * cloud_of_points(2, 9, 4)
    assert decoding.answers_decoded(told, labels).item() == 1
    assert decoding.answers_decoded(told, control).mean() < 0.5


def test_linear_cka_closed_forms():
    points = cloud_of_points(problems=12)
    turn = torch.linalg.qr(cloud_of_points(1, 10, 10, seed=3)[0])[0]
    assert decoding.linear_cka(torch.stack([points[0], 3 * points[0] @ turn + 1])).item() == pytest.approx(1)
    x, y = (part - part.mean(0) for part in points)
    expected = (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
    assert decoding.linear_cka(points).item() == pytest.approx(expected.item())
    orders = pairs.shuffles(12, 0, None, 4)
    one = decoding.linear_cka(torch.stack([points[0], points[1][orders[2]]])).item()
    assert decoding.linear_cka(points, orders)[2].item() == pytest.approx(one)


@pytest.mark.parametrize("folder", ["tiny", "data"])
def test_numerals_win_exactly_half_of_the_comparisons(folder):
    languages = ["en", "zh"] if folder == "tiny" else ["en", "zh", "de", "es"]
    arguments = argparse.Namespace(languages=languages, problems=None, exemplars=None, limit=None)
    foils = text.find_foils(
        questions.find_contrasts(
            arguments, SimpleNamespace(path=ROOT / folder if folder == "tiny" else ROOT / "nowhere")
        )
    )
    assert foils.unmeasured is None
    assert (text.rates(foils.numerals()) == 0.5).all()


def test_win_rates_by_brute_force():
    points = cloud_of_points(2, 10, 5).view(2, 5, 2, 5)
    expected = []
    for base in range(5):
        others, own = [index for index in range(5) if index != base], []
        centred = points[:, base] - points[:, others].mean((1, 2), keepdim=False)[:, None]
        for a, b in permutations(range(2)):
            for which in (0, 1):
                near = (centred[a, which] - centred[b, which]).norm()
                own.append((near < (centred[a, which] - centred[b, 1 - which]).norm()).item())
        expected.append(np.mean(own))
    assert text.rates(points).tolist() == pytest.approx(expected)
    copies = torch.stack([points[0], points[0] + 7])  # a language is an offset: every translation is found
    assert (text.rates(copies) == 1).all()
    assert text.rates(points[None].expand(3, -1, -1, -1, -1)).shape == (3, 5)


def test_permuted_twins_keep_every_tensors_entries_and_reinitialised_ones_none(small):
    model, _ = models.load_model(checkpoints.find_model(str(small)), CPU, torch.float32)
    assert twins.impossible(model) is None
    before, norms = {name: tensor.clone() for name, tensor in model.named_parameters()}, []
    for kind, _ in twins.make_twins(model, 0, 2, count=2):
        layers = {name for name in before if name.startswith(("model.layers.0.", "model.layers.1."))}
        changed = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
        if kind == "permuted":
            assert changed == layers
            for name, tensor in model.named_parameters():
                assert torch.equal(tensor.flatten().sort().values, before[name].flatten().sort().values)
        else:
            later = ("model.layers.2.", "model.layers.3.", "model.layers.4.")
            assert changed == {name for name in before if not name.startswith(later)} | layers
            assert (model.model.norm.weight == 1).all()
            norms.append(model.lm_head.weight.norm().item())
    assert norms[0] != norms[1]
    assert twins.impossible(torch.nn.Linear(2, 2, device="meta")) == "some of the model's weights stay on disk"


def test_the_stream_between_attention_and_ffn_in_every_family(families):
    """A layer whose FFN adds nothing leaves the stream as its attention did."""
    for name, path in families.items():
        model, tokenizer = models.load_model(checkpoints.find_model(str(path)), CPU, torch.float32)
        ((_, _, streams),) = models.residual_streams(model, tokenizer, ["five apples and three"], [1, 2, 1.5], 1)
        assert not torch.allclose(streams[0], streams[2]) and not torch.allclose(streams[1], streams[2]), name
        layer = model.get_decoder().layers[1]
        hook = layer.mlp.register_forward_hook(
            lambda *given: tuple(0 * part for part in given[-1]) if isinstance(given[-1], tuple) else 0 * given[-1]
        )
        ((_, _, without),) = models.residual_streams(model, tokenizer, ["five apples and three"], [1, 2, 1.5], 1)
        hook.remove()
        torch.testing.assert_close(without[1], streams[2], rtol=1e-5, atol=1e-5)
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in layer.modules()), name


def test_pooling_excludes_pads_prefix_and_sinks(small, monkeypatch):
    """Against streams captured one by one; with a planted sink at the first position."""
    folder = checkpoints.find_model(str(small))
    languages = questions.load_languages(["en", "zh"])
    problems = questions.load_problems([small / "problems.jsonl"], list(languages), limit=5)
    real, planted = models.residual_streams, []

    def with_sink(*given):
        for index, ids, streams in real(*given):
            streams = streams.clone()
            streams[2, 0] *= 1000
            planted.append(index)
            yield index, ids, streams

    monkeypatch.setattr(models, "residual_streams", with_sink)
    model, tokenizer = models.load_model(folder, CPU, torch.float32)
    sites = range(folder.layers + 1)
    for exemplars in ([], questions.load_problems([small / "exemplars.jsonl"], list(languages))):
        asked = questions.Asked(languages, [], problems, exemplars, {})
        found = pooling.capture(model, tokenizer, asked, sites, 4, "test", [2, 3], updates=True)
        assert found.vectors.shape == (2, 5, folder.layers + 1, 2, folder.width)
        assert found.vectors.dtype == np.float32
        assert [count > 0 for count in found.sinks["per_site"]] == [site == 2 for site in sites]
        assert found.sinks["commonest"][0]["position"] == 0
        for row, language in enumerate(languages):
            skip = len(tokenizer(questions.exemplar_text(language, languages, exemplars))["input_ids"])
            prompt = questions.prompt_text(problems[3], language, languages, exemplars)
            ((_, _, streams),) = real(model, tokenizer, [prompt], sites, 1)
            own = streams[:, skip:]
            np.testing.assert_allclose(found.vectors[row, 3, 3, 0], own[3, 1:].mean(0), atol=1e-5)  # at every site
            np.testing.assert_allclose(found.vectors[row, 3, 3, 1], own[3, -1], atol=1e-5)
        added = found.updates.sum(3)
        np.testing.assert_allclose(added, np.diff(found.vectors[:, :, :, 0], axis=2), atol=1e-4)
        assert found.clouds[2].shape[:2] == (2, 5)
        assert found.clouds[2].norm(dim=-1).max() < 100  # the sink is in no cloud


def test_a_shared_beginning_is_left_off_alike(small):
    model, tokenizer = models.load_model(checkpoints.find_model(str(small)), CPU, torch.float32)
    begin = "Question: Tom has 6 cards. Then Tom finds 2 more. How many cards does Tom have?\nAnswer:"
    prompts = [f"{begin} five", f"{begin} three and four", "five"]
    whole = list(models.residual_streams(model, tokenizer, prompts, [0, 3], 2))
    for skip in ([0, 0, 0], [3, 9, 0], [len(tokenizer(begin)["input_ids"])] * 2 + [0]):
        parts = models.residual_streams(model, tokenizer, prompts, [0, 3], 2, skip)
        for (index, ids, stream), (_, left, part) in zip(whole, parts):
            assert torch.equal(ids[skip[index] :], left)
            torch.testing.assert_close(stream[:, skip[index] :], part)


def test_centroids_and_cross_position_fits_have_the_asked_size():
    study = study_of(cloud_of_points(problems=20, width=40), torch.eye(40, dtype=torch.float64)[:6])
    for name in ("weight", "centroid", "pca", "random", "ard_mmd"):
        basis = studies.fitter(study, name, "last", 6)(list(range(12)))
        torch.testing.assert_close(basis @ basis.T, torch.eye(6, dtype=torch.float64))
    assert studies.common_k(study) == 6
    assert subspaces.centroid_subspace(study.points(2, "last"), 3).shape == (3, 40)
