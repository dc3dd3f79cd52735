"""Phase 2 on models with a planted answer, its geometry by brute force, its nulls, and the traps of its contingencies."""

import json

import fewer
import numpy as np
import pytest
import torch
from conftest import ROOT
from controls import BOTTLENECK, write_control
from safetensors import safe_open
from test_separation import cloud_of_points

import utils
import verdicts
from lab import checkpoints, models, questions, runs, separation, statistics, studies, subspaces
from reports import phase2 as page

ARD_STEPS = studies.ARD_STEPS
EVERY_DRAW = {"phase2_z_extraction": {"DRAWS": separation.DRAWS}}  # Holm over the grid can be passed with these alone
pytestmark = pytest.mark.usefixtures("fewer_draws")
MODELS = 24  # of each kind, with noise; bench/separation.py asks hundreds


@pytest.fixture(scope="module")
def phase2(script):
    return script("phase2_z_extraction.py")


def run(script, path, out, *flags) -> tuple[dict, torch.Tensor]:
    common = ["--model", str(path), "--out", str(out), "--device", "cpu"]
    if "--layer" not in flags:
        script("1.py").main(common)
    script("phase2_z_extraction.py").main([*common, *flags])
    basis = torch.from_numpy(np.load(out / "phase2_z_basis.npy")).double()
    return json.loads((out / "phase2_results.json").read_text()), basis


def projector_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first.T @ first - second.T @ second).norm().item()


def test_a_planted_z_is_clear_and_found(script, tmp_path):
    control = write_control(tmp_path / "model", "planted", noise=0.5)
    results, basis = run(script, control.path, tmp_path / "out")
    assert results["settings"]["layer"] == BOTTLENECK
    assert results["verdict"] == "clear"
    chosen = {"method": "weight", "layer": BOTTLENECK, "site": BOTTLENECK + 1, "k": 6, "holds": True}
    chosen |= {"passed": True, "stands_on": None, "position": "mean", "beyond_text": None}
    assert results["z"] == chosen | {"fitted_on": [], "fitted_index": [], "fitted_answers": []}
    assert projector_distance(basis, control.answers) < 1e-3
    assert "contingencies" not in results
    holds = {row["id"]: row["holds"] for row in results["claims"]}
    assert holds["primary"] and holds["centred"] and holds["energy_cross"] and holds["energy_same"]
    assert holds["beyond_text"] is None and "no such problems" in results["text"]["unmeasured"]
    depth, site = results["depth"], BOTTLENECK + 1
    assert depth["problem"]["z"][site] >= 0.9
    assert depth["language"]["z_perp"][site] == 1
    assert depth["language"]["z"][site] < 0.8
    assert len(results["channels"]["attention"]) == 6


def test_a_decoy_is_refuted_and_the_centroid_contingency_finds_the_answers(script, tmp_path):
    control = write_control(tmp_path / "model", "decoy", noise=0.5)
    with fewer.applied(EVERY_DRAW):
        results, basis = run(script, control.path, tmp_path / "out")
    assert results["settings"]["layer"] == BOTTLENECK
    assert results["verdict"] == "none"
    assert results["z"]["method"] == "centroid"
    assert results["z"]["holds"]
    assert len(results["z"]["fitted_on"]) == 10  # half of the model's own problems is left for phase 3
    assert (basis @ control.answers.T).square().sum().item() / len(basis) > 0.98
    candidates = results["contingencies"]["candidates"]
    assert candidates["centroid"]["holds"]  # scored on problems that it was not fitted on
    assert not candidates["previous_layer"]["holds"]
    assert candidates["centroid"]["pooling"] == results["z"]["position"] == "last"
    assert results["contingencies"]["as_recipe"]["centroid"]["pooling"] == "mean"
    others = [name for name in candidates if candidates[name]["passed"] and name != "centroid"]
    assert sorted(z["method"] for z in results["also"]) == sorted(others)
    rows = np.load(tmp_path / "out" / "phase2_contingency_bases.npy")
    assert rows.shape == (sum(z["k"] for z in results["also"]), basis.shape[1])


def test_random_weights_have_no_z(script, tmp_path):
    control = write_control(tmp_path / "model", "random", noise=0.5)
    with fewer.applied(EVERY_DRAW):
        results, _ = run(script, control.path, tmp_path / "out")
    assert results["verdict"] == "none"
    assert not next(row for row in results["claims"] if row["id"] == "primary")["holds"]


@pytest.mark.slow
@pytest.mark.parametrize("kind, fewest, most", [("random", 0, 3), ("planted", 22, MODELS)])
def test_false_alarms_and_detections(script, tmp_path, monkeypatch, kind, fewest, most):
    """Of models with random weights at most 3 pass (one in twenty is 1.2); of those planted with noise all but 2 do."""
    for place, step in ((page, "render"), (script("phase2_z_extraction.py"), "rivals")):
        monkeypatch.setattr(place, step, lambda *_, **__: {})  # what the verdict does not use takes half of the time
    monkeypatch.setattr(script("phase2_z_extraction.py"), "SHUFFLES", 1)
    passed = 0
    for seed in range(MODELS):
        control = write_control(tmp_path / f"{kind}-{seed}", kind, noise=1.0, seed=seed)
        flags = ("--layer", str(BOTTLENECK), "--contingencies", "never")
        results, _ = run(script, control.path, tmp_path / "out" / f"{kind}-{seed}", *flags)
        passed += results["verdict"] in ("clear", "partial")
    print(kind, passed)  # shown with `pytest -s`
    assert fewest <= passed <= most


def test_a_given_z_is_scored_and_not_fitted(script, tmp_path):
    """--z-from on a second file of problems: the same basis, and no contingency even where the grid says none."""
    control = write_control(tmp_path / "model", "decoy", noise=0.5, problems=40)
    first, basis = run(script, control.path, tmp_path / "out")
    second = ("--problems", str(control.path / "reasoning.jsonl"), "--z-from", str(tmp_path / "out"))
    results, given = run(script, control.path, tmp_path / "second", *second)
    assert torch.equal(given, basis)
    assert results["z"]["method"] == "centroid"
    assert results["z"]["fitted_index"] == []
    verdict = json.loads((tmp_path / "out" / "one_results.json").read_text())["verdict"]
    assert results["layer_chosen"] == first["layer_chosen"] == verdict
    assert results["settings"]["layer"] == first["settings"]["layer"] == BOTTLENECK
    assert "contingencies" not in results
    assert results["given"]["problems"] == 12
    assert results["given"]["holds"]
    assert results["also"] == first["also"]
    assert (
        results["text"] == first["text"] and results["text_handed"] == first["text_handed"]
    )  # fitted in every twin there
    np.testing.assert_array_equal(
        *(np.load(tmp_path / name / "phase2_contingency_bases.npy") for name in ("out", "second"))
    )
    same, _ = run(script, control.path, tmp_path / "same", *second[2:])
    with pytest.raises(runs.UserError, match="has a layer of its own"):
        run(script, control.path, tmp_path / "third", "--layer", "1", *second)
    assert same["given"]["problems"] == 20  # the other half was fitted
    assert len(same["z"]["fitted_index"]) == 20
    with pytest.raises(runs.UserError, match="is --out itself"):
        run(script, control.path, tmp_path / "out", "--layer", str(BOTTLENECK), *second)


def test_a_named_contingency_is_handed_on(script, tmp_path):
    control = write_control(tmp_path / "model", "planted", noise=0.5)
    results, basis = run(script, control.path, tmp_path / "out", "--layer", str(BOTTLENECK), "--hand-on", "centroid")
    assert results["verdict"] == "clear"
    assert results["z"]["method"] == "centroid"
    assert len(results["z"]["fitted_on"]) == 10
    assert (basis @ control.answers.T).square().sum().item() / len(basis) > 0.9
    with pytest.raises(runs.UserError, match="--hand-on previous_layer: layer 0 has none"):
        run(script, control.path, tmp_path / "zero", "--layer", "0", "--hand-on", "previous_layer")


def test_captured_streams_are_those_of_a_full_pass(small):
    folder = checkpoints.find_model(str(small))
    model, tokenizer = models.load_model(folder, torch.device("cpu"), torch.float32)
    languages = questions.load_languages(["en", "zh"])
    problems = questions.load_problems([small / "problems.jsonl"], list(languages), limit=4)
    prompts = [questions.prompt_text(problem, language, languages) for language in languages for problem in problems]
    sites = range(folder.layers + 1)
    hooks = [len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in model.model.layers]
    alone = list(models.residual_streams(model, tokenizer, prompts, sites, batch=1))
    batches = {batch: list(models.residual_streams(model, tokenizer, prompts, sites, batch)) for batch in (3, 8)}
    assert [len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in model.model.layers] == hooks
    for index, ids, streams in alone:
        with torch.no_grad():
            states = model(ids[None], output_hidden_states=True).hidden_states
        for site in range(folder.layers):  # the last of hidden_states is behind the final norm
            assert torch.equal(streams[site], states[site][0])
        assert torch.equal(model.model.norm(streams[-1]).detach(), states[-1][0])
        assert tokenizer.decode(ids) == prompts[index]
    for batched in batches.values():
        for (_, _, one), (_, _, other) in zip(alone, batched):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_capture_stops_after_its_last_site(small):
    model, tokenizer = models.load_model(checkpoints.find_model(str(small)), torch.device("cpu"), torch.float32)
    reached = []
    hook = model.model.layers[3].register_forward_hook(lambda *_: reached.append(True))
    list(models.residual_streams(model, tokenizer, ["five"], [0, 3], batch=1))
    hook.remove()
    assert not reached
    with pytest.raises(LookupError), models.captured_sites(model, [2]):
        raise LookupError  # an error of the caller's is not swallowed, and the hooks are gone
    assert not any(layer._forward_hooks for layer in model.model.layers)


def test_centroid_subspace_finds_planted_problem_directions():
    problem, (language,) = torch.eye(20, dtype=torch.float64)[:3], torch.eye(20, dtype=torch.float64)[3:4]
    codes = cloud_of_points(1, 30, 3)[0]
    points = torch.stack([codes @ problem + 5 * language, codes @ problem - 5 * language])
    points = points + 0.05 * cloud_of_points(2, 30, 20, seed=2)
    assert abs(utils.language_space(points)[0] @ language) > 0.999
    found = subspaces.centroid_subspace(points, 3)
    assert utils.grassmann_similarity(found, problem).item() > 0.98
    assert (found @ language).abs().max() < 1e-9 or (found @ utils.language_space(points)[0]).abs().max() < 1e-9
    top = utils.principal_subspace(points, 1)
    assert abs(top[0] @ language) > 0.99  # PCA takes the language first


def test_squared_mmd_is_the_distance_of_the_empirical_distributions():
    clouds, weights = cloud_of_points(2, 5, 3), torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)

    def kernel(x, y):
        return torch.exp(-(weights * (x - y).square()).sum()).item()

    x, y = clouds
    within = [np.mean([kernel(c[i], c[j]) for i in range(5) for j in range(5)]) for c in (x, y)]
    between = np.mean([kernel(a, b) for a in x for b in y])
    measured = subspaces.squared_mmd(weights, clouds, torch.tensor([0]), torch.tensor([1])).item()
    assert measured == pytest.approx(sum(within) - 2 * between)
    same = torch.stack([x, x[torch.randperm(5)]])
    measured = subspaces.squared_mmd(weights, same, torch.tensor([0]), torch.tensor([1])).item()
    assert measured == pytest.approx(0, abs=1e-12)


def test_template_tokens_do_not_switch_the_contrast_off():
    """Tokens that recur in every prompt make the unbiased estimate negative; the objective must keep its gradient."""
    clouds = axis_clouds()
    clouds[:, :, :4] = torch.randn(4, 12, generator=torch.Generator().manual_seed(3))  # the same in every prompt
    clouds[0, :, :4, 3] += 1.5
    relevance = subspaces.fit_relevance(clouds, torch.eye(12, dtype=torch.float64)[6:9], seed=0)
    assert {0, 1, 2} <= set(relevance.argsort(descending=True)[:4].tolist())
    assert relevance[:3].sum() > 6 > 12 * 3 / 12  # more than half, where an even spread has a quarter
    assert relevance[3] < 0.5


def axis_clouds() -> torch.Tensor:
    """(2, 16, 8, 12): problems differ along axes 0-2, languages along axis 3, tokens by noise everywhere."""
    clouds = 0.3 * torch.randn(2, 16, 8, 12, generator=torch.Generator().manual_seed(0))
    clouds[..., :3] += torch.randn(16, 1, 3, generator=torch.Generator().manual_seed(1))
    clouds[0, ..., 3] += 1.5
    return clouds


def test_the_plain_objective_collapses_and_the_contrast_does_not():
    """Minimising MMD²(zh, en) plus a penalty on 1/ℓ drives every relevance to zero; the contrast keeps the problem axes."""
    clouds = axis_clouds()
    flat = clouds.flatten(0, 1)
    (first, second), _ = subspaces.ard_pairs(2, 16, seed=0)
    logs = torch.zeros(12, requires_grad=True)  # log 1/ℓ, free to go anywhere
    optimizer = torch.optim.Adam([logs], 0.1)
    for _ in range(300):
        loss = subspaces.squared_mmd(logs.exp().square(), flat, first, second).mean() + 0.05 * logs.exp().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert logs.exp().square().max().item() < 0.01  # collapsed: every lengthscale is long

    relevance = subspaces.fit_relevance(clouds, torch.eye(12, dtype=torch.float64)[6:9], seed=0)  # a wrong start
    assert relevance.sum().item() == pytest.approx(12, rel=1e-4)
    assert set(relevance.argsort(descending=True)[:3].tolist()) == {0, 1, 2}
    assert relevance[:3].sum() > 0.8 * 12
    assert relevance[3] < 0.5
    assert subspaces.relevant_dimensions(relevance, 0.9) <= 6
    basis = subspaces.axis_subspace(relevance, 3)
    torch.testing.assert_close(basis @ basis.T, torch.eye(3, dtype=torch.float64))


def test_ard_mmd_finds_a_planted_z_on_the_axes(script, tmp_path):
    control = write_control(tmp_path / "model", "planted", noise=0.5, rotate=False)
    with fewer.applied({"lab.studies": {"ARD_STEPS": ARD_STEPS}}):
        results, _ = run(script, control.path, tmp_path / "out", "--contingencies", "always")
    layers = {row["layer"]: row for row in results["contingencies"]["ard"]["layers"]}
    assert set(layers) == set(range(BOTTLENECK + 1))
    assert results["rivals"]["ard_mmd"]["contrast"] < 0.2
    assert layers[BOTTLENECK]["overlap"] >= 0.9
    phase2 = script("phase2_z_extraction.py")
    arguments = phase2.parse_arguments(
        ["--model", str(control.path), "--out", str(tmp_path / "other"), "--device", "cpu"]
    )
    opening = questions.begin(phase2.REPORT, arguments, "phase2.jsonl")
    study, _ = phase2.make_study(opening, *questions.load_model(opening), {"layer": BOTTLENECK, "fitting_share": 1.0})
    (random_start,) = utils.random_subspaces(torch.Generator().manual_seed(0), 1, 6, 64)
    relevance = subspaces.fit_relevance(study.clouds[BOTTLENECK + 1], random_start, seed=0)
    found = subspaces.axis_subspace(relevance, 6)
    assert (found @ control.answers.T).square().sum().item() / 6 >= 0.9  # from the data, not from the start


def row_of(contrast: float, p: float, holm: float, centred: tuple[float, float] | None = None) -> dict:
    """A row of the grid as the verdict reads it; without the offset as with it unless `centred` (contrast, p) is given."""
    own = {"contrast": contrast, "p": p, "p_holm": holm}
    other = own if centred is None else dict(zip(("contrast", "p"), centred)) | {"p_holm": max(holm, centred[1])}
    nulls = {null: {"p": p} for null in separation.RAW}
    return own | {"centred": dict(other)} | nulls


def results_of(contrasts, ps, holm=1.0, centred=None, text=None) -> dict:
    """What a verdict reads: three sizes of the primary configuration, and head 0 beside each of them."""
    place = {"place": "b at b.out", "pooling": "mean", "k": 4}
    place |= {"energy": {"cross_language": {"value": 0.05, "p": 0.01}, "same_language": {"value": 0.2, "p": 0.01}}}
    shares = (0.25, 0.64, 1.0)
    grid = [
        place | {"mask": "multi", "primary": True, "share": share} | row_of(contrast, p, holm, centred)
        for share, contrast, p in zip(shares, contrasts, ps)
    ]
    grid += [row | {"mask": "head0", "primary": False} | row_of(1.2, 0.5, 1.0) for row in grid]
    curve = {"z": [0.5, 1.0], "all": [1.0, 0.99]}
    depth = {"problem": curve, "language": curve, "answer": {"z": [None, None]}}
    text = text or {"unmeasured": "there are none"}
    head = {"grid": grid, "primary": grid[2], "width": 40, "depth": depth}
    return head | {"text": text, "text_handed": None, "z": {"stands_on": None}}


def text_of(*lows: float) -> dict:
    baselines = {str(number): {"difference": {"low": low}} for number, low in enumerate(lows)}
    return {"unmeasured": None, "baselines": baselines}


@pytest.mark.parametrize(
    "contrasts, ps, holm, centred, verdict",
    [
        ((0.5, 0.5, 0.5), (0.01, 0.01, 0.01), 1.0, None, "clear"),
        ((0.5, 0.5, 0.5), (0.01, 0.01, 0.01), 1.0, (0.9, 0.2), "none"),  # it only missed the offset
        ((0.5, 0.5, 0.5), (0.01, 0.01, 0.01), 0.04, (1.1, 0.01), "none"),
        ((0.5, 0.5, 1.1), (0.01, 0.01, 0.01), 1.0, None, "none"),
        ((0.5, 0.5, 0.5), (0.01, 0.01, 0.06), 1.0, None, "none"),
        ((0.5, 0.5, 1.1), (0.01, 0.01, 0.01), 0.04, None, "partial"),
        ((1.5, 1.5, 1.1), (0.5, 0.5, 0.5), 0.04, None, "none"),
    ],
)
def test_the_verdict_rule_and_what_is_handed_on(phase2, contrasts, ps, holm, centred, verdict):
    """The script's rule for what is measured next says the same at the same level."""
    results = results_of(contrasts, ps, holm, centred)
    assert verdicts.phase2(results)["verdict"] == verdict
    assert phase2.standing(results["grid"]) == verdict


@pytest.mark.parametrize("lows, beyond", [((0.1, 0.2), True), ((0.1, 0.0), False), ((-0.1, 0.2), False), (None, None)])
def test_beyond_the_text_every_baseline_is_beaten(lows, beyond):
    text = text_of(*lows) if lows else None
    judged = verdicts.phase2(results_of((0.5, 0.6, 0.7), (0.01, 0.01, 0.01), text=text))
    assert judged["verdict"] == "clear"  # the recipe's rule stays
    assert judged["beyond_text"] is judged["holds"]["beyond_text"] is judged["z"]["beyond_text"] is beyond
    other = results_of((0.5, 0.6, 0.7), (0.01, 0.01, 0.01), text=text) | {"text_handed": text_of(0.3)}
    assert verdicts.phase2(other)["z"]["beyond_text"] is True
    assert verdicts.phase2(other)["beyond_text"] is beyond


def test_curves_at_their_ceiling_are_said():
    found = verdicts.phase2(results_of((0.5, 0.6, 0.7), (0.01, 0.01, 0.01)))["depth_ceiling"]
    assert found["problem"] == {"z": False, "all": True}
    assert found["answer"] == {"z": False}


def test_what_was_handed_on_is_judged_anew(monkeypatch):
    """`passed` is how a Z was chosen, `holds` what today's threshold says of it; only the latter moves."""
    found = {name: row_of(0.5, 0.01, p) | {"passed": p < 0.05} for name, p in (("centroid", 0.01), ("sweep", 0.2))}
    parts = {"candidates": found, "as_recipe": {}, "sweep": []}
    results = results_of((1.5, 1.6, 1.7), (0.9, 0.9, 0.9)) | {"contingencies": parts}
    results["z"] = {"passed": True, "stands_on": row_of(0.5, 0.01, 0.01)}
    for level, centroid, sweep in ((0.05, True, False), (0.005, False, False), (0.5, True, True)):
        monkeypatch.setattr(verdicts, "LEVEL", level)
        judged = verdicts.phase2(results)
        candidates = judged["contingencies"]["candidates"]
        assert [candidates[name]["holds"] for name in ("centroid", "sweep")] == [centroid, sweep]
        assert judged["z"] == results["z"] | {"holds": centroid, "beyond_text": None}
        assert [candidates[name]["passed"] for name in ("centroid", "sweep")] == [True, False]
    assert verdicts.phase2(results | {"z": {"stands_on": None}})["z"]["holds"] is False  # falls with the verdict


def test_every_null_is_one_record(script, small, tmp_path, monkeypatch):
    """Number of draws, three points in order, and p; a row's p is the largest of its nulls'."""
    monkeypatch.setattr(script("phase2_z_extraction.py"), "DRAWS", 250)
    results, _ = run(script, small, tmp_path, "--layer", "2", "--limit", "6", "--contingencies", "always")
    parts = results["contingencies"]
    rows = [*results["grid"], *results["rivals"].values(), *parts["sweep"]]
    rows += [*parts["candidates"].values(), *parts["as_recipe"].values()]
    nulls = ("haar", "matched", "missing", "pairing")
    for row in rows:
        for part, own in ((row, nulls), (row["centred"], separation.CENTRED)):
            gates = part["matched"].pop("gates")
            assert gates == (part["matched_share"] <= separation.EVEN)
            assert part["p"] == max(part[name]["p"] for name in own if gates or name != "matched")
        assert row["centred"]["low"] <= row["centred"]["contrast"] <= row["centred"]["high"]
        assert set(row["leace"]) == {"contrast"}
    for record in [row[name] for row in rows for name in nulls]:
        assert record["low"] <= record["middle"] <= record["high"]
        assert set(record) == {"draws", "low", "middle", "high", "p"}
    assert {row["haar"]["draws"] for row in results["grid"]} == {250}
    assert {(row["mask_layer"], row["site"]) for row in results["grid"]} == {(2, 3), (2, 2), (1, 2)}


def test_beyond_the_text_of_the_embedded_model(script, tmp_path):
    """Foils, baselines and twins run through; the twins are the last thing that is measured."""
    flags = ("--layer", "3", "--limit", "8", "--contingencies", "never")
    results, _ = run(script, ROOT / "tiny", tmp_path, *flags)
    found = results["text"]
    assert (found["bases"], found["comparisons"], found["unmeasured"], found["paraphrase"]) == (24, 96, None, None)
    assert found["baselines"]["numerals"]["rate"] == 0.5
    assert set(found["baselines"]) == set(page.BASELINES)
    for row in (found["z"], found["stream"], found["answer"], *found["baselines"].values()):
        assert row["low"] <= row["rate"] <= row["high"]
    for row in found["baselines"].values():
        assert row["difference"]["value"] == pytest.approx(found["z"]["rate"] - row["rate"], abs=2e-4)
    assert results["beyond_text"] is all(row["difference"]["low"] > 0 for row in found["baselines"].values())
    assert results["text_handed"] is None
    assert max(found["baselines"][kind]["rate"] for kind in ("permuted", "reinitialised")) < 0.6


def test_a_changed_level_judges_again_without_a_model(script, small, tmp_path, monkeypatch, capsys):
    flags = ("--layer", "2", "--limit", "6", "--contingencies", "never")
    monkeypatch.setattr(script("phase2_z_extraction.py"), "DRAWS", 199)
    monkeypatch.setattr(script("phase2_z_extraction.py"), "HAND_ON_LEVEL", 0.0)  # measured as if nothing held
    results, _ = run(script, small, tmp_path, *flags)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.log"}
    monkeypatch.setattr(models, "load_model", lambda *_: pytest.fail("a model was loaded"))
    script("phase2_z_extraction.py").main(["--out", str(tmp_path), "--report-only"])
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.log"}
    assert results["verdict"] == "none"
    monkeypatch.setattr(verdicts, "LEVEL", 1.1)
    for row in [*results["grid"], results["primary"]]:
        row["contrast"] = row["centred"]["contrast"] = 0.9
    (tmp_path / "phase2_results.json").write_bytes(runs.json_bytes(results))
    capsys.readouterr()
    script("phase2_z_extraction.py").main(["--out", str(tmp_path), "--report-only"])
    assert capsys.readouterr().out.startswith("clear: ratio_Z ")
    again = json.loads((tmp_path / "phase2_results.json").read_text())
    assert again["verdict"] == "clear"
    assert again["fingerprint"] == results["fingerprint"]
    assert again["z"] == results["z"] | {"holds": True}  # what was handed on stays, whether it holds is judged
    assert "(`clear`)" in (tmp_path / "phase2_output.md").read_text()


def test_the_z_is_also_saved_with_what_it_is(script, small, tmp_path):
    results, basis = run(script, small, tmp_path, "--layer", "2", "--limit", "6", "--contingencies", "never")
    with safe_open(tmp_path / "z.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("z").double(), basis)
        z = {key: str(results["z"][key]) for key in ("method", "layer", "site", "k")}
        assert file.metadata() == z | {"model": results["model"]["name"], "revision": "None"}


def test_a_given_z_counts_by_its_content(phase2):
    basis = np.eye(2, 5, dtype=np.float32)
    z = {
        "method": "centroid",
        "layer": 1,
        "site": 2,
        "k": 2,
        "passed": True,
        "position": "last",
        "fitted_on": ["b", "a"],
    }
    once = phase2.given_hash({"fingerprint": "0", "z": z | {"fitted_index": [3, 4]}}, basis)
    assert once == phase2.given_hash({"fingerprint": "1", "z": z | {"fitted_on": ["a", "b"]}}, basis)
    others = [({"z": z | {"site": 3}}, basis), ({"z": z | {"fitted_on": ["a"]}}, basis), ({"z": z}, 2 * basis)]
    assert once not in [phase2.given_hash(*other) for other in others]


def test_holm_known_values():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_too_few_problems_and_a_foreign_layer_are_refused(script, small, tmp_path):
    common = ["--model", str(small), "--out", str(tmp_path), "--device", "cpu"]
    with pytest.raises(runs.UserError, match="at least 4"):
        script("phase2_z_extraction.py").main([*common, "--layer", "2", "--limit", "3"])
    with pytest.raises(runs.UserError, match="--layer 9 is out of range"):
        script("phase2_z_extraction.py").main([*common, "--layer", "9"])
    with pytest.raises(runs.UserError, match=r"one_results.json is missing"):
        script("phase2_z_extraction.py").main(common)


@pytest.mark.parametrize("layer", ["0", "4"])
def test_edge_layers_work(script, small, tmp_path, layer):
    results, basis = run(script, small, tmp_path, "--layer", layer, "--limit", "6", "--contingencies", "always")
    places = {row["place"] for row in results["grid"]}
    assert ("b-1 at b-1.out" in places) == (layer != "0")
    assert len(results["contingencies"]["sweep"]) == 5
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis), dtype=torch.float64), atol=1e-5, rtol=0)
    undefined = [row for row in results["grid"] if row["place"] == "b at b.in" and row["pooling"] == "last"]
    assert (undefined == []) == (layer == "0")  # at site 0 the last token is the same for every problem
    assert all(row["ratio_z"] < 1e3 for row in results["grid"])
