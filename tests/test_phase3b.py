"""Phase 3b: maps with a known answer, their leave-one-out by brute force, nulls, and the transfer on a planted model."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import random_model
from controls import write_control
from scipy.linalg import orthogonal_procrustes

import verdicts
from lab import answers, checkpoints, engine, models, questions, runs, statistics, subspaces, transfer


@pytest.fixture(scope="module")
def phase3b(script):
    return script("phase3b_bridge.py")


def pairs(relation: str, n: int = 40, k: int = 6, noise: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sources and targets that are related as named."""
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
    return source, target + noise * draw.standard_normal((n, k))


def held_out(phase3b, source: np.ndarray, target: np.ndarray) -> dict:
    return phase3b.measure(phase3b.predict(source, target), source, target, seed=0)["held_out_r2"]


@pytest.mark.parametrize(
    "relation, winner", [("identity", "identity"), ("mean_shift", "mean_shift"), ("procrustes", "procrustes")]
)
def test_the_right_map_wins_held_out(phase3b, relation, winner):
    rows = [held_out(phase3b, *pairs(relation, noise=0.5, seed=seed)) for seed in range(20)]
    r2 = {name: np.mean([row[name] for row in rows]) for name in phase3b.MAPS}
    assert max(r2, key=r2.get) == winner, r2
    assert r2[winner] > 0.8


def test_a_linear_relation_needs_a_linear_map(phase3b):
    for seed in range(5):
        r2 = held_out(phase3b, *pairs("linear", seed=seed))
        assert min(r2["ridge"], r2["ols"]) > 0.98 > max(r2["procrustes"], r2["mean_shift"], r2["identity"])


@pytest.mark.parametrize("n, k", [(40, 6), (20, 30)])
def test_unrelated_pairs_are_predicted_by_no_map(phase3b, n, k):
    """Held-out R² is at most 0 within its interval, whatever the in-sample one says."""
    source, target = pairs("none", n, k)
    result = phase3b.measure(phase3b.predict(source, target), source, target, seed=0)
    for name in phase3b.MAPS:
        assert result["interval"][name][0] <= 0, (name, result["held_out_r2"][name])
        assert result["held_out_r2"][name] < 0.1
    for relation in ("procrustes", "linear"):
        shuffled = phase3b.shuffled_r2(*pairs(relation, n, k), seed=0)
        for name, values in shuffled.items():
            assert np.median(values) <= 0.01, (relation, name)


def test_least_squares_interpolates_twenty_pairs(phase3b):
    """The recipe's "zero overfitting risk": with k ≥ n - 1 the in-sample R² is 1 even for noise."""
    source, target = pairs("none", 20, 20)
    result = phase3b.measure(phase3b.predict(source, target), source, target, seed=0)
    assert result["in_sample_r2"]["ols"] == pytest.approx(1, abs=1e-9)
    assert result["held_out_r2"]["ols"] < 0
    assert result["parameters"]["ols"] == 20 * 21


def test_p_values_are_calibrated_on_unrelated_pairs(phase3b, monkeypatch):
    monkeypatch.setattr(phase3b, "SHUFFLES", 39)
    monkeypatch.setattr(phase3b, "RANDOM_SUBSPACES", 1)
    low = 0
    for seed in range(40):
        source, target = pairs("none", 15, 4, seed=seed)
        basis = np.eye(4, 6)
        wide = tuple(np.pad(points, ((0, 0), (0, 2))) for points in (source, target))
        p = phase3b.nulls(wide, basis, held_out(phase3b, source, target), seed)["shuffled"]["ridge"]["p"]
        low += p <= 0.05
    assert low <= 6  # 2 expected


def test_predictions_leave_the_problem_out(phase3b):
    """Changing a problem's target changes no prediction for that problem, and every map's predictions for others."""
    source, target = pairs("linear", 12, 3)
    before = phase3b.predict(source, target)
    changed = target.copy()
    changed[4] += 10
    after = phase3b.predict(source, changed)
    for name in phase3b.MAPS:
        np.testing.assert_allclose(after[name][4], before[name][4], atol=1e-12)
        if name != "identity":
            assert np.abs(after[name][5] - before[name][5]).max() > 1e-3


def test_ridge_is_the_closed_form_with_the_penalty_of_an_inner_leave_one_out(phase3b):
    source, target = pairs("linear", 12, 4, noise=2.0)
    new = np.array([1.0, -2.0, 0.5, 3.0])

    def closed_form(x, y, point, penalty):
        centred = x - x.mean(0)
        matrix = np.linalg.solve(centred.T @ centred + penalty * np.eye(x.shape[1]), centred.T @ (y - y.mean(0)))
        return y.mean(0) + (point - x.mean(0)) @ matrix

    losses = []
    for penalty in phase3b.ridge_penalties(source):
        loss = 0
        for index in range(len(source)):
            rest = np.arange(len(source)) != index
            loss += np.square(closed_form(source[rest], target[rest], source[index], penalty) - target[index]).sum()
        losses.append(loss)
    best = phase3b.ridge_penalties(source)[np.argmin(losses)]
    assert 0 < np.argmin(losses) < len(losses) - 1
    (predicted,) = phase3b.fit_ridge(source, target[None], new)
    np.testing.assert_allclose(predicted, closed_form(source, target, new, best), rtol=1e-8)


@pytest.mark.parametrize("n, k", [(12, 4), (6, 9)])
def test_ols_is_least_squares_of_smallest_norm(phase3b, n, k):
    source, target = pairs("linear", n, k, noise=1.0)
    new = np.arange(k) / k
    solution = np.linalg.lstsq(source - source.mean(0), target - target.mean(0), rcond=1e-9)[0]
    (predicted,) = phase3b.fit_ols(source, target[None], new)
    np.testing.assert_allclose(predicted, target.mean(0) + (new - source.mean(0)) @ solution, rtol=1e-7, atol=1e-9)


def test_procrustes_is_orthogonal_optimal_and_closest_to_the_identity_where_data_are_silent(phase3b):
    draw = np.random.default_rng(0)
    cross = draw.standard_normal((3, 5, 5))
    rotations = phase3b.procrustes(cross)
    for matrix, rotation in zip(cross, rotations):
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(5), atol=1e-9)
        nuclear = np.linalg.svd(matrix, compute_uv=False).sum()
        assert np.trace(rotation.T @ matrix) == pytest.approx(nuclear)
    thin = np.zeros((5, 5))
    thin[0, 1] = 1.0  # only: source axis 1 goes to target axis 0
    rotation = phase3b.procrustes(thin)
    np.testing.assert_allclose(rotation @ np.eye(5)[1], np.eye(5)[0], atol=1e-6)
    np.testing.assert_allclose(rotation[2:, 2:], np.eye(3), atol=1e-6)


def test_many_pairings_at_once_equal_one_at_a_time(phase3b):
    source, target = pairs("linear", 10, 3, noise=1.0)
    targets = np.stack([target, target[::-1], np.roll(target, 3, 0)])
    many = phase3b.predict_many(source, targets)
    for index, one in enumerate(targets):
        for name, predicted in phase3b.predict(source, one).items():
            np.testing.assert_allclose(many[name][index], predicted, atol=1e-10)


def test_r_squared_is_measured_against_the_training_mean(phase3b):
    target = np.random.default_rng(0).standard_normal((9, 4))
    expected = [np.square(target[i] - np.delete(target, i, 0).mean(0)).sum() for i in range(9)]
    np.testing.assert_allclose(phase3b.mean_errors(target), expected)
    means = np.stack([np.delete(target, i, 0).mean(0) for i in range(9)])
    assert phase3b.r_squared(phase3b.errors(means, target), phase3b.mean_errors(target)) == pytest.approx(0)


def test_map_geometry_of_a_rotation_and_of_a_stretch(phase3b):
    source, target = pairs("procrustes", noise=0)
    geometry = phase3b.map_geometry(source, target)
    assert geometry["ols"]["orthogonality_error"] < 1e-6
    assert geometry["procrustes"]["orthogonality_error"] < 1e-6
    stretched = phase3b.map_geometry(source, 3 * target)
    np.testing.assert_allclose(stretched["ols"]["singular_values"], 3, rtol=1e-6)
    np.testing.assert_allclose(stretched["procrustes"]["singular_values"], 1, rtol=1e-6)


def test_procrustes_is_scipys_where_the_data_say_everything(phase3b):
    """scipy takes rows, A R ≈ B, and we columns: our rotation is its transpose."""
    source, target = (points - points.mean(0) for points in pairs("linear", 12, 4, noise=1.0))
    expected, _ = orthogonal_procrustes(source, target)
    np.testing.assert_allclose(phase3b.procrustes(target.T @ source), expected.T, atol=1e-8)


def test_gains_of_few_problems_are_tested_exactly(phase3b):
    """Ten problems have 1024 patterns of signs, and all count."""
    assert phase3b.gain_p(np.ones(10), 0) == 1 / 1024
    assert phase3b.gain_p(-np.ones(10), 0) == 1
    assert phase3b.gain_p(np.zeros(10), 0) == 1
    assert phase3b.gain_p(np.ones(30), 0) == 1 / 5000


def test_the_interval_of_r_squared_covers_it(phase3b):
    """R² of a prediction whose error has variance ¼ of the target's is ¾."""
    draw, hits = np.random.default_rng(0), 0
    for seed in range(100):
        target = draw.standard_normal((30, 6))
        low, high = phase3b.interval(
            phase3b.errors(target + draw.standard_normal((30, 6)) / 2, target), phase3b.mean_errors(target), seed
        )
        hits += low < 0.75 < high
    assert hits >= 88  # 95 expected


def test_the_direction_is_chinese_to_english_whatever_the_order(phase3b):
    assert phase3b.direction(["en", "zh"]) == phase3b.direction(["zh", "en"]) == ("zh", "en")
    assert phase3b.direction(["de", "fr"]) == ("fr", "de")


@pytest.mark.parametrize(
    "relation, verdict",
    [
        ("linear", "bridge"),
        ("procrustes", "bridge"),
        ("identity", "no_bridge"),
        ("mean_shift", "no_bridge"),
        ("none", "no_bridge"),
    ],
)
def test_verdict_by_the_rule(phase3b, relation, verdict, monkeypatch):
    monkeypatch.setattr(phase3b, "SHUFFLES", 60)
    monkeypatch.setattr(phase3b, "RANDOM_SUBSPACES", 2)
    source, target = pairs(relation)
    result = phase3b.measure(phase3b.predict(source, target), source, target, seed=0)
    result["null"] = phase3b.nulls((source, target), np.eye(6), result["held_out_r2"], seed=0)
    result["transfer"] = phase3b.transfer_rates(np.zeros((len(phase3b.CONDITIONS), 0, 4)), [])
    judgement = verdicts.phase3b(result | {"settings": {"primary": phase3b.PRIMARY}})
    assert judgement["verdict"] == verdict
    assert judgement["tests"]["held_out"] == (relation != "none")
    shrinks = relation == "none"  # ridge beats both shifts by predicting nothing: one test is not enough
    assert judgement["tests"]["beyond_shift"] == (verdict == "bridge" or shrinks)
    assert judgement["holds"]["transfer"] is None


def test_success_is_the_donors_answer_in_the_recipients_language_of_the_whole_set(phase3b):
    """Three pairs over five answers in two languages; whatever is none of the four counts as other."""
    columns = ((1, 0, 5, 4), (3, 2, 7, 6), (5, 4, 9, 8))
    sent = [phase3b.Pair(0, 1, "", own) for own in columns]
    scores = np.zeros((len(phase3b.CONDITIONS), 3, 10), np.float32)
    for pair, own in enumerate(columns):
        scores[:, pair, own[0]] = 1  # the recipient's own answer, in its language
    for name, place in (("ridge", 2), ("ols", 3)):
        for pair in (0, 1):
            scores[phase3b.CONDITIONS.index(name), pair, columns[pair][place]] = 2
    scores[phase3b.CONDITIONS.index("identity"), 2, 0] = 2  # nobody's answer
    move = phase3b.transfer_rates(scores, sent)
    assert move["success"]["ridge"] == pytest.approx(2 / 3)
    assert [move["success"][name] for name in phase3b.CONDITIONS if name != "ridge"] == [0] * 7
    assert move["winners"]["ols"]["donor_donor"] == pytest.approx(2 / 3)
    assert move["winners"]["identity"] == {
        "recipient_recipient": pytest.approx(2 / 3), "recipient_donor": 0, "donor_recipient": 0, "donor_donor": 0,
        "other": pytest.approx(1 / 3),
    }  # fmt: skip
    assert all(sum(winners.values()) == pytest.approx(1) for winners in move["winners"].values())


def test_every_recipient_gets_one_donor_of_its_block_in_the_other_language(phase3b):
    recipients = [
        {"problem": problem, "answer_place": place, "id": str(problem)} for place, problem in enumerate((7, 2, 5, 9))
    ]
    phase3 = {
        "recipients": recipients,
        "blocks": [[1], [0], [3], [2]],
        "answer_set": {"answers": list("abcd"), "languages": ["en", "zh"]},
    }
    prompts = [
        {"language": language, "problem": problem, "id": "", "prompt": f"{language} {problem}"}
        for language in ("en", "zh")
        for problem in range(10)
    ]
    pairs = phase3b.make_pairs(phase3, prompts, "zh", "en", seed=0)
    assert [(pair.recipient, pair.donor) for pair in pairs] == [(7, 2), (2, 7), (5, 9), (9, 5)]
    assert [pair.prompt for pair in pairs] == ["en 7", "en 2", "en 5", "en 9"]
    assert pairs[0].columns == (0, 1, 2, 3) and pairs[1].columns == (2, 3, 0, 1)
    assert phase3b.make_pairs(phase3, prompts, "en", "zh", seed=0)[0].columns == (1, 0, 3, 2)
    phase3["blocks"] = [[1], [], [], []]  # no derangement: who has no donor is no recipient
    assert len(phase3b.make_pairs(phase3, prompts, "zh", "en", seed=0)) == 1


def run(script, path, out, *names) -> dict:
    for name in names:
        script(name).main(["--model", str(path), "--out", str(out), "--device", "cpu"])
    return json.loads((out / f"{script(names[-1]).REPORT.stem}_results.json").read_text())


SCORED = 15  # recipients of each half


def write_phase3(path: Path, out: Path, rung: str | None = "problems") -> None:
    """What phase 3 leaves for the bridge: the model's own problems taken, as far as it solves them, or no rung at all."""
    folder = checkpoints.find_model(str(path))
    settings = {"languages": ["en", "zh"], "z": runs.significant(subspaces.load_z(out, folder).summary)}
    results = {"script": "phase3", "model": folder.identity, "settings": settings, "tests": {}, "rung": rung}
    lines, streams = [], np.zeros((2, 0, folder.layers + 1, folder.width), np.float32)
    if rung:
        given = SimpleNamespace(languages=["en", "zh"], problems=None, exemplars=None, limit=None)
        asked = questions.find_asked(given, folder, "words.jsonl", in_words=True)
        model, tokenizer = models.load_model(folder, torch.device("cpu"), torch.float32)
        known = answers.answer_set(tokenizer, asked.problems, asked.languages)
        lines = [
            {
                "language": language,
                "problem": index,
                "id": problem.id,
                "prompt": questions.prompt_text(problem, language, asked.languages, asked.exemplars),
            }
            for language in asked.languages
            for index, problem in enumerate(asked.problems)
        ]
        prompts, wins = [line["prompt"] for line in lines], {}
        for chosen, patcher in engine.patched_prompts(model, tokenizer, prompts, known.tokens, 16):
            wins |= dict(zip(chosen, patcher.scores(0, patcher.streams[:, 0, None]).argmax(-1)[:, 0].tolist()))
        streams = engine.last_streams(model, tokenizer, prompts, 16).unflatten(0, (2, -1)).numpy()
        count, places = len(asked.problems), list(map(known.place, asked.problems))
        right = [
            all(wins[tongue * count + index] == 2 * places[index] + tongue for tongue in (0, 1))
            for index in range(count)
        ]
        usable = np.flatnonzero(right).tolist()
        recipients = [
            {
                "problem": index,
                "id": asked.problems[index].id,
                "answer": asked.problems[index].answer,
                "answer_place": places[index],
            }
            for index in usable[: 2 * SCORED]
        ]
        halves = np.array([row["answer_place"] for row in recipients]).reshape(2, SCORED)
        draw = statistics.seeded(0, "test: blocks")
        blocks = [
            (half * SCORED + np.flatnonzero(row)).tolist()
            for half, own in enumerate(halves)
            for row in transfer.donor_blocks(own, draw)
        ]
        results |= {
            "languages": ["en", "zh"],
            "usable": usable,
            "recipients": recipients,
            "blocks": blocks,
            "answer_set": {
                "answers": known.answers,
                "languages": known.languages,
                "tokens": list(map(list, known.tokens)),
            },
        }
    (out / "phase3_results.json").write_text(json.dumps(results))
    (out / "phase3_prompts.jsonl").write_bytes(runs.json_lines(lines))
    np.save(out / "phase3_streams.npy", streams)


BEFORE = ("1.py", "phase2_z_extraction.py")


def bridged(script, path: Path, out: Path, rung: str | None = "problems") -> dict:
    """Everything up to the bridge, phase 3's files written by hand, and its results."""
    run(script, path, out, *BEFORE)
    write_phase3(path, out, rung)
    return run(script, path, out, "phase3b_bridge.py")


@pytest.fixture(scope="module")
def planted(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    control = write_control(folder / "model", "planted", noise=0.5, problems=40, language_share=0.1)
    return control, folder / "out", bridged(script, control.path, folder / "out")


def test_on_a_planted_model_the_unmapped_vector_carries_the_answer(planted):
    """Both languages share the code, so identity transfers, and so does the target language's own vector."""
    _, out, results = planted
    move = results["transfer"]
    assert (move["pairs"], move["answers"]) == (2 * SCORED, 40)
    assert move["success"]["identity"] >= 0.9
    assert move["success"]["own_language"] == 1
    assert move["success"]["none"] == 0
    assert move["success"]["shuffled"] < 0.2  # over the whole set erasing alone brings no donor's answer
    assert move["winners"]["none"]["recipient_recipient"] == 1
    assert move["p_against"]["shuffled"]["identity"] < 0.001
    assert results["verdict"] == "no_bridge"  # nothing to learn beyond what is shared
    loo = np.load(out / "phase3b_loo.npy")
    assert loo.shape == (5, 40)
    assert loo.dtype == np.float64
    scores = np.load(out / "phase3b_transfer.npy")
    assert scores.shape == (len(move["success"]), move["pairs"], 2 * 40)
    np.testing.assert_allclose(np.exp(scores).sum(-1), 1, rtol=1e-4)  # within the answer set


def test_identity_transfer_is_the_swap_of_z(planted, phase3b):
    """The same condition, pair by pair, from the streams of recipient and donor."""
    control, out, results = planted
    phase3 = json.loads((out / "phase3_results.json").read_text())
    folder = checkpoints.find_model(str(control.path))
    z = subspaces.load_z(out, folder)
    model, tokenizer = models.load_model(folder, torch.device("cpu"), torch.float32)
    streams = torch.from_numpy(np.load(out / "phase3_streams.npy"))[:, :, z.site]
    sent = np.load(out / "phase3b_transfer.npy")[results["settings"]["conditions"].index("identity")]
    pairs = phase3b.make_pairs(phase3, phase3b.asked_prompts(out), "zh", "en", seed=0)
    assert len(pairs) == len(sent)
    for pair, found in list(zip(pairs, sent))[:4]:
        patcher = engine.PatchedPrompts(model, tokenizer, [pair.prompt], phase3["answer_set"]["tokens"])
        own, donor = streams[0, pair.recipient], streams[1, pair.donor]
        swapped = own + (donor - own) @ z.basis.T @ z.basis
        np.testing.assert_allclose(found, patcher.scores(z.site, swapped[None, None])[0, 0], atol=1e-4)


def copied(planted, folder, *, with_phase3b: bool = False):
    """A copy of the planted model's results, for a test to change."""
    leave_out = None if with_phase3b else shutil.ignore_patterns("phase3b*")
    return shutil.copytree(planted[1], folder, ignore=leave_out)


@pytest.fixture(scope="module")
def rotated(planted, script, tmp_path_factory):
    """The planted model's activations with one language rotated inside Z."""
    control, out, _ = planted
    folder = copied(planted, tmp_path_factory.mktemp("rotated") / "out")
    basis = np.load(out / "phase2_z_basis.npy").astype(float)
    activations = np.load(out / "phase2_activations.npy")
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((len(basis), len(basis))))[0]
    english = activations[0].astype(float)  # both languages from one, so that only the rotation lies between them
    inside = english @ basis.T
    activations[1] = english + (inside @ rotation - inside) @ basis
    np.save(folder / "phase2_activations.npy", activations)
    return folder, run(script, control.path, folder, "phase3b_bridge.py")


def test_a_planted_rotation_between_the_languages_is_found(rotated):
    """Procrustes wins, and the verdict is `bridge`."""
    _, results = rotated
    assert results["verdict"] == "bridge"
    assert results["held_out_r2"]["procrustes"] >= max(results["held_out_r2"].values()) - 1e-6
    assert results["held_out_r2"]["procrustes"] > 0.999
    assert results["held_out_r2"]["identity"] < 0.5


def report_again(script, folder) -> tuple[dict, str]:
    """Results and page after --report-only."""
    script("phase3b_bridge.py").main(["--report-only", "--out", str(folder)])
    return json.loads((folder / "phase3b_results.json").read_text()), (folder / "phase3b_output.md").read_text()


def test_a_changed_threshold_judges_saved_results_again(script, rotated, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(rotated[0], tmp_path / "out")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    report_again(script, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "bridge: ridge held-out R² 1 (mean shift " in capsys.readouterr().out
    monkeypatch.setattr(verdicts, "LEVEL", 1e-6)
    monkeypatch.setattr(verdicts.bridge, "OVERFIT", -1.0)
    results, text = report_again(script, folder)
    assert results["verdict"] == "no_bridge"
    assert results["tests"] == {"held_out": False, "beyond_shift": False, "specific": False}
    assert {row["id"]: row["holds"] for row in results["claims"]}["overfitting"] is False
    assert results["held_out_r2"] == rotated[1]["held_out_r2"]
    assert "(`no_bridge`)" in text


def test_a_z_whose_layer_the_weights_do_not_predict_is_called_exploratory(script, rotated, tmp_path):
    folder = shutil.copytree(rotated[0], tmp_path / "out")
    results = rotated[1]
    layer = results["settings"]["z"]["layer"]
    assert layer == results["settings"]["z"]["bottleneck"]
    for chosen, said in (("no_bottleneck", True), ("clear_bottleneck", False)):
        (folder / "phase3b_results.json").write_text(json.dumps(results | {"layer_chosen": chosen}))
        _, text = report_again(script, folder)
        assert (f"- Z is that of layer {layer} (exploratory: the weights predict no layer)." in text) is said


def test_the_page_takes_its_orders_from_the_results(script, rotated, tmp_path):
    folder = shutil.copytree(rotated[0], tmp_path / "out")
    results = json.loads((folder / "phase3b_results.json").read_text())
    for key in ("maps", "conditions", "controls", "outcomes"):
        results["settings"][key].reverse()
    (folder / "phase3b_results.json").write_text(json.dumps(results))
    _, text = report_again(script, folder)
    table = text[text.index("## 2") : text.index("## 3")]
    assert table.index("ordinary least squares") < table.index("| mean shift") < table.index("| identity (no map)")
    assert text.index("| the donor's own vector") < text.index("| no swap |")
    outcomes = (
        "donor's answer, its",
        "donor's answer, recipient's",
        "recipient's answer, donor's",
        "recipient's answer, its",
    )
    assert " | ".join(f"{outcome} language" for outcome in outcomes) + " | any other answer" in text
    assert "| p against shuffled | p against identity |" in text


def test_no_rung_is_a_result(script, tmp_path):
    """Where phase 3 took no rung there is no last position and nothing to send; the pooled vectors are bridged all the same."""
    control = write_control(tmp_path / "model", "random")
    results = bridged(script, control.path, tmp_path / "out", rung=None)
    assert results["transfer"]["pairs"] == 0
    assert results["last"] == {"problems": 0}
    assert np.load(tmp_path / "out" / "phase3b_transfer.npy").shape == (len(results["settings"]["conditions"]), 0, 0)
    assert {row["id"]: row["holds"] for row in results["claims"]}["transfer"] is None
    text = (tmp_path / "out" / "phase3b_output.md").read_text()
    assert "The transfer could not be tested: phase 3 took no rung of problems." in text
    assert "Not testable here: phase 3 took no rung of problems" in text[text.index("## 6") : text.index("## 7")]
    assert " of 0 pairs" not in text and "phase3b_transfer.png" not in text


def test_too_few_usable_problems_are_a_result(script, planted, tmp_path):
    control, _, _ = planted
    few = copied(planted, tmp_path / "out")
    phase3 = json.loads((few / "phase3_results.json").read_text())
    (few / "phase3_results.json").write_text(json.dumps(phase3 | {"usable": [0, 1, 2]}))
    results = run(script, control.path, few, "phase3b_bridge.py")
    assert results["last"] == {"problems": 3} and results["transfer"]["pairs"] == 0
    assert "Not testable here: too few problems are solved unpatched." in (few / "phase3b_output.md").read_text()


def test_stale_phase_3_is_refused(script, planted, tmp_path):
    """Stale is another Z, not another run of phase 2."""
    control, _, _ = planted
    stale = copied(planted, tmp_path / "out", with_phase3b=True)
    np.save(stale / "phase2_z_basis.npy", np.load(stale / "phase2_z_basis.npy")[::-1])
    with pytest.raises(runs.UserError, match="run phase3_patching.py again"):
        run(script, control.path, stale, "phase3b_bridge.py")
    elsewhere = copied(planted, tmp_path / "elsewhere", with_phase3b=True)  # the same basis, handed on at another site
    results = json.loads((elsewhere / "phase2_results.json").read_text())
    results["z"]["site"] -= 1
    (elsewhere / "phase2_results.json").write_text(json.dumps(results))
    with pytest.raises(runs.UserError, match="phase 2 has run again since phase 3"):
        run(script, control.path, elsewhere, "phase3b_bridge.py")
    older = json.loads((stale / "phase3_results.json").read_text())
    del older["rung"]
    (stale / "phase3_results.json").write_text(json.dumps(older))
    with pytest.raises(runs.UserError, match="an older edition wrote phase 3's results"):
        run(script, control.path, stale, "phase3b_bridge.py")
    (stale / "phase3_results.json").unlink()
    with pytest.raises(runs.UserError, match="run phase3_patching.py with the same"):
        run(script, control.path, stale, "phase3b_bridge.py")


def test_earlier_phases_that_find_the_same_again_cost_nothing(script, planted, tmp_path, monkeypatch):
    control, _, results = planted
    again = copied(planted, tmp_path / "out", with_phase3b=True)
    for stem in ("phase2", "phase3"):
        found = json.loads((again / f"{stem}_results.json").read_text())
        (again / f"{stem}_results.json").write_text(json.dumps(found | {"fingerprint": "0" * 16}))
    monkeypatch.setattr(models, "load_model", None)
    assert run(script, control.path, again, "phase3b_bridge.py") == results
    np.save(again / "phase3_streams.npy", 2 * np.load(again / "phase3_streams.npy"))
    with pytest.raises(TypeError):  # measured again
        run(script, control.path, again, "phase3b_bridge.py")


def test_missing_or_misshapen_arrays_are_named(script, planted, tmp_path):
    control, _, _ = planted
    broken = copied(planted, tmp_path / "out")
    np.save(broken / "phase3_streams.npy", torch.zeros(2, 40, 4).numpy())  # of one site, as an older edition wrote it
    with pytest.raises(runs.UserError, match=r"phase3_streams.npy has shape \(2, 40, 4\)"):
        run(script, control.path, broken, "phase3b_bridge.py")
    (broken / "phase3_streams.npy").unlink()
    with pytest.raises(runs.UserError, match="phase3_streams.npy is missing"):
        run(script, control.path, broken, "phase3b_bridge.py")
    (broken / "phase3_prompts.jsonl").unlink()
    with pytest.raises(runs.UserError, match="phase3_prompts.jsonl is missing"):
        run(script, control.path, broken, "phase3b_bridge.py")


def test_last_vectors_are_those_of_the_languages_and_site(phase3b, tmp_path):
    """Every number of the array says where it stands; no rung, no vectors."""
    shape = (2, 6, 4, 3)  # languages, problems, sites, width
    np.save(tmp_path / "phase3_streams.npy", np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    folder, prompts = SimpleNamespace(layers=3, width=3), [{"problem": problem} for problem in [*range(6), *range(6)]]
    found = phase3b.last_vectors(
        tmp_path, folder, {"rung": "sums", "languages": ["en", "zh"]}, prompts, 2, ("zh", "en")
    )
    for points, language in zip(found, (1, 0)):
        places = np.ravel_multi_index((language, np.arange(6), 2, 0), shape)
        np.testing.assert_array_equal(points, places[:, None] + np.arange(3))
    none = phase3b.last_vectors(tmp_path, folder, {"rung": None}, [], 2, ("zh", "en"))
    assert [points.shape for points in none] == [(0, 3), (0, 3)]


def test_pooled_vectors_are_those_of_the_languages_site_and_pooling(phase3b, tmp_path):
    """Every number of the array says where it stands."""
    shape = (2, 6, 4, 2, 3)  # languages, problems, sites, poolings, width
    np.save(tmp_path / "phase2_activations.npy", np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    settings = {"languages": ["en", "zh"]}
    phase2 = {"poolings": ["last", "mean"], "problems": 6, "settings": settings, "z": {"fitted_index": [0, 3]}}
    arguments = SimpleNamespace(out=tmp_path, pooling="mean")
    folder, z = SimpleNamespace(layers=3, width=3), SimpleNamespace(site=2)
    vectors = phase3b.pooled_vectors(arguments, folder, z, phase2, ("zh", "en"))
    for (chinese, english), site in zip(vectors, (2, 0)):
        for points, language in ((chinese, 1), (english, 0)):
            places = np.ravel_multi_index((language, np.array([1, 2, 4, 5]), site, 1, 0), shape)
            np.testing.assert_array_equal(points, places[:, None] + np.arange(3))
    arguments.pooling = "max"
    with pytest.raises(runs.UserError, match="--pooling max: phase 2 saved last, mean"):
        phase3b.pooled_vectors(arguments, folder, z, phase2, ("zh", "en"))


def test_a_z_fitted_on_every_problem_is_said_to_be(phase3b):
    """Phase 2 fits a contingency on all problems where phase 3 has a file of its own."""
    phase2 = {"problems": 10, "z": {"fitted_index": [0, 3]}}
    assert phase3b.bridge_problems(phase2).tolist() == [1, 2, 4, 5, 6, 7, 8, 9]
    phase2["z"]["fitted_index"] = list(range(8))
    assert phase3b.bridge_problems(phase2).tolist() == list(range(10))


def test_default_problems_run_through(script, tmp_path):
    """A model without problem files of its own, which solves nothing: phase 2's problems are bridged, and no rung is taken."""
    model = random_model(tmp_path / "model", max_position_embeddings=2048, num_hidden_layers=3)
    for name in ("problems.jsonl", "exemplars.jsonl", "reasoning.jsonl"):
        (model / name).unlink()
    results = bridged(script, model, tmp_path / "out", rung=None)
    assert results["data"]["problems"] == 20
    phase2 = json.loads((tmp_path / "out" / "phase2_results.json").read_text())
    assert results["data"]["fitted_on_these"] == (len(phase2["z"]["fitted_index"]) == 20)
