"""1.py against dense float64 linear algebra, closed forms, planted layouts and random weights."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT, random_model
from safetensors.torch import load_file, save_file

import utils
import verdicts
from lab import checkpoints, runs
from reports import one as page


def dense_reference(path):
    """Effective ranks of matrices and of formed kernels by plain SVD, (L, 7), (L, h), spectra (L, h, dh)."""
    folder = checkpoints.find_model(str(path))
    ranks, spectra = [], []
    for layer in checkpoints.stream_layers(folder):
        matrices = (layer.query, layer.key, layer.value, layer.output, layer.gate, layer.up, layer.down)
        ranks.append([utils.effective_rank(torch.linalg.svdvals(matrix.double())).item() for matrix in matrices])
        query = layer.query.double().view(folder.heads, folder.head_width, -1)
        key = layer.key.double().view(folder.groups, folder.head_width, -1)
        repeats = folder.heads // folder.groups
        kernels = [query[head].T @ key[head // repeats] for head in range(folder.heads)]
        spectra.append([torch.linalg.svdvals(kernel)[: folder.head_width].tolist() for kernel in kernels])
    spectra = np.array(spectra)
    return np.array(ranks), utils.effective_rank(torch.from_numpy(spectra)).numpy(), spectra


def run(script, model, out, *flags) -> dict:
    script("1.py").main(["--model", str(model), "--out", str(out), "--device", "cpu", *flags])
    return json.loads((out / "one_results.json").read_text())


@pytest.mark.parametrize("model", ["tiny", "qwen2", "qwen3", "llama", "mistral"])
def test_arrays_agree_with_a_dense_reference(script, families, tmp_path, model):
    path = ROOT / "tiny" if model == "tiny" else families[model]
    run(script, path, tmp_path)
    ranks, head_ranks, spectra = dense_reference(path)
    names = script("1.py").ARRAYS
    for name, expected in zip(names, (ranks, head_ranks, spectra)):
        measured = np.load(tmp_path / name)
        assert measured.dtype == np.float64
        assert measured.shape == expected.shape
        np.testing.assert_allclose(measured, expected, rtol=1e-6, atol=1e-9 * spectra.max())


@pytest.mark.parametrize("defect", ["zero", "rank one", "one head"])
def test_degenerate_weights(script, tmp_path, defect):
    changes = {"num_attention_heads": 1, "num_key_value_heads": 1} if defect == "one head" else {}
    path = random_model(tmp_path / "model", num_hidden_layers=3, **changes)
    tensors = load_file(path / "model.safetensors")
    if defect != "one head":
        for name in list(tensors):
            if ".layers.1." in name and "proj.weight" in name:
                ones = torch.ones_like(tensors[name])
                tensors[name] = ones if defect == "rank one" else torch.zeros_like(ones)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    results = run(script, path, tmp_path / "out")
    ranks = np.load(tmp_path / "out" / "one_weight_eff_rank.npy")
    if defect == "zero":
        assert (ranks[1] == 0).all()
        assert results["bottleneck"]["mean"] == 0
    if defect == "rank one":
        np.testing.assert_allclose(ranks[1], 1, rtol=1e-6)
    if defect == "one head":
        assert results["bottleneck"]["support"] == 1
        assert results["verdict"] != "clear_bottleneck"  # one head cannot agree with itself beyond chance


def test_gaussian_rank_is_the_known_one(script):
    assert script("1.py").gaussian_rank(256, 2048, 0) == pytest.approx(251.8, abs=0.2)


def test_eigen_structure_matches_the_formed_kernel(script):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(4, 5, 20, generator=generator, dtype=torch.float64)
    key = torch.randn(2, 5, 20, generator=generator, dtype=torch.float64)
    values, _ = utils.kernel_svd(query, key)
    measured = script("1.py").eigen_structure(query, key, values)
    asymmetry, complex_share, components = [], [], []
    for head in range(4):
        kernel = query[head].T @ key[head // 2]
        asymmetry.append(((kernel - kernel.T).norm() / kernel.norm()).item())
        eigenvalues = torch.linalg.eigvals(kernel)
        largest = eigenvalues[eigenvalues.abs().argsort(descending=True)[:5]]  # the rest are zero: rank 5
        complex_share.append((largest.imag.abs() > 1e-9 * largest.abs().max()).double().mean().item())
        energy = torch.linalg.svdvals(kernel)[:5].square()
        shares = energy.cumsum(0) / energy.sum()
        components.append([int((shares < share).sum()) + 1 for share in script("1.py").ENERGY_SHARES])
    assert measured["asymmetry"] == pytest.approx(np.mean(asymmetry), rel=1e-9)
    assert measured["complex_share"] == pytest.approx(np.mean(complex_share))
    assert measured["components"] == pytest.approx(np.mean(components, 0).tolist())


def test_eigen_structure_of_symmetric_and_antisymmetric_kernels(script):
    measure = script("1.py").eigen_structure
    key = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    symmetric = measure(key, key, utils.kernel_svd(key, key)[0])
    assert symmetric["asymmetry"] == pytest.approx(0, abs=1e-6)
    assert symmetric["complex_share"] == 0
    turn = torch.tensor([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1], [0, 0, -1, 0]], dtype=torch.float64)
    turned = turn @ key
    antisymmetric = measure(turned, key, utils.kernel_svd(turned, key)[0])
    assert antisymmetric["asymmetry"] == pytest.approx(2)
    assert antisymmetric["complex_share"] == 1
    zero = measure(key * 0, key, utils.kernel_svd(key * 0, key)[0])
    assert zero["asymmetry"] == 0


def verdict(low: dict, layers: int) -> str:
    """The verdict of a bottleneck alone; what else the rules read is of no matter here."""
    flat = {"attention": 0.0, "ffn": 0.0, "p_attention": 1.0, "p_ffn": 1.0}
    trends = {name: {"steps_down": 0, "steps_up": 0, "cv": 0} for name in ("W_V", "heads")}
    results = {"shape": {"layers": layers}, "is_qwen25_3b": False, "bottleneck": low, "trends": trends}
    types = {"attention": ["W_V"], "ffn": []}
    return verdicts.one(results | {"opposite": flat, "weight_types": types, "phases": [0, layers, 0]})["verdict"]


def planted_ranks(layers: int, heads: int, low: int, seed: int = 0) -> np.ndarray:
    ranks = np.random.default_rng(seed).normal(100, 2, (layers, heads))
    ranks[low] = 80 + np.random.default_rng(seed + 1).normal(0, 2, heads)
    return ranks


def test_a_planted_bottleneck_is_clear(script):
    one = script("1.py")
    low = one.find_bottleneck(planted_ranks(36, 16, 33), groups=2, seed=0)
    assert (low["layer"], low["layers_after"]) == (33, 2)
    assert low["support"] == low["support_groups"] == 1
    assert low["margin_null"]["p"] < 0.001
    assert low["margin_null"]["draws"] == one.RESAMPLES
    assert verdict(low, 36) == "clear_bottleneck"


def test_random_kernels_rarely_have_a_bottleneck(script):
    """Gaussian queries and keys with shared KV groups: heads of a group are not independent, and must not count so."""
    one = script("1.py")
    generator = torch.Generator().manual_seed(0)
    found, ps = [], []
    for _ in range(150):
        query = torch.randn(10, 8, 8, 48, generator=generator, dtype=torch.float64)
        key = torch.randn(10, 2, 8, 48, generator=generator, dtype=torch.float64)
        ranks = np.stack([utils.effective_rank(utils.kernel_svd(q, k)[0]).numpy() for q, k in zip(query, key)])
        low = one.find_bottleneck(ranks, groups=2, seed=0)
        found.append(verdict(low, 10))
        ps.append(low["margin_null"]["p"])
    assert found.count("no_bottleneck") >= 135  # 5 % of 150 is 7.5
    assert found.count("clear_bottleneck") <= 4
    assert 0.4 < np.mean(ps) < 0.6


def test_one_kv_group_cannot_show_a_bottleneck(script):
    one = script("1.py")
    low = one.find_bottleneck(planted_ranks(12, 8, 5), groups=1, seed=0)
    assert (low["layer"], low["margin_null"], low["support_groups"]) == (5, None, None)
    assert verdict(low, 12) == "no_bottleneck"


def test_a_minimum_on_the_edge_is_not_a_clear_bottleneck(script):
    one = script("1.py")
    for layer in (0, 11):
        low = one.find_bottleneck(planted_ranks(12, 8, layer), groups=2, seed=0)
        assert low["layer"] == layer
        assert verdict(low, 12) == "weak_bottleneck"


def recipe_like_ranks(layers: int = 36) -> tuple[np.ndarray, np.ndarray]:
    """Every type drops after layer 0; queries, keys, values and heads rise after layer 33."""
    depth = np.linspace(0, 1, layers)
    weight_ranks = np.stack([1000 - 50 * depth + 0 * column for column in range(7)], 1)
    weight_ranks[0] += 200
    weight_ranks[34:, :3] += 100
    head_ranks = np.repeat((100 - 10 * depth)[:, None], 16, 1)
    head_ranks[34:] += 30
    return weight_ranks, head_ranks


def test_phases_of_the_recorded_layout(script):
    results = script("1.py").find_phases(*recipe_like_ranks())
    assert results["phases"] == [1, 33, 2]
    assert set(results["phase_votes"]["encode"].values()) == {0}
    assert set(results["phase_votes"]["decode"].values()) == {33}


@pytest.mark.parametrize("layers", [1, 2, 3, 8])
def test_phases_always_add_up(script, layers):
    one = script("1.py")
    for seed in range(20):
        draw = np.random.default_rng(seed)
        phases = one.find_phases(draw.normal(10, 1, (layers, 7)), draw.normal(10, 1, (layers, 4)))["phases"]
        assert sum(phases) == layers
        assert min(phases) >= 0


def test_trends_of_known_series(script):
    one = script("1.py")
    falling = np.linspace(50, 10, 12)
    weight_ranks = np.stack([falling] * 4 + [falling[::-1]] * 3, 1)
    trends = one.find_trends(weight_ranks, np.repeat(falling[:, None], 4, 1))
    opposite = one.opposite_trends(trends, 12)
    assert (opposite["attention"], opposite["ffn"]) == pytest.approx((-1, 1))
    assert max(opposite["p_attention"], opposite["p_ffn"]) < 1e-6
    assert one.rho_p(0.640, 12) == pytest.approx(0.025, abs=2e-4)  # t with 10 degrees of freedom at 0.0125 is 2.634
    assert one.rho_p(-0.640, 12) == one.rho_p(0.640, 12)
    assert one.rho_p(1.0, 3) == 1
    assert trends["W_Q"]["rho"] == pytest.approx(-1)
    assert trends["W_Q"]["steps_down"] == 1
    assert trends["W_gate"]["rho"] == pytest.approx(1)
    assert trends["W_gate"]["steps_up"] == 1
    assert trends["W_Q"]["thirds"] == pytest.approx([falling[:4].mean(), falling[4:8].mean(), falling[8:].mean()])
    constant = one.find_trends(np.ones((12, 7)), np.ones((12, 4)))["W_V"]
    assert (constant["rho"], constant["p"], constant["cv"]) == (0, 1, 0)


def test_the_recipes_numbers_are_judged_on_its_own_model_only(script):
    one = script("1.py")
    weight_ranks, head_ranks = recipe_like_ranks()
    head_ranks[33] = 80.4
    weight_ranks[:, 2] = 250
    trends = one.find_trends(weight_ranks, head_ranks)
    results = {
        "shape": {"layers": 36},
        "weight_types": {"attention": one.ATTENTION_TYPES, "ffn": one.FFN_TYPES},
        "bottleneck": one.find_bottleneck(head_ranks, 2, 0),
        "trends": trends,
        "opposite": one.opposite_trends(trends, 36),
        "null": {
            "kernel": {"low": 119.0, "middle": 120.0, "high": 121.0, "p": 0.05},
            "weights": dict.fromkeys(one.WEIGHT_TYPES, 251.8),
        },
        **one.find_phases(weight_ranks, head_ranks),
    }
    results = runs.significant(results)
    on_qwen, elsewhere = (verdicts.one(results | {"is_qwen25_3b": own})["holds"] for own in (True, False))
    assert [row["id"] for row in page.claims(results)] == list(on_qwen) == list(elsewhere)
    assert on_qwen["bottleneck_rank"] is True
    assert on_qwen["phases"] is True
    assert elsewhere["bottleneck_rank"] is None
    assert elsewhere["phases"] is None
    assert on_qwen["value_constant"] is elsewhere["value_constant"] is True
    assert on_qwen["ffn_rises"] is False  # the planted FFN ranks fall


def test_fold_norm_changes_kernels_and_nothing_else(script, small, tmp_path):
    run(script, small, tmp_path / "raw")
    run(script, small, tmp_path / "folded", "--fold-norm")
    raw, folded = (np.load(tmp_path / name / "one_head_eff_rank.npy") for name in ("raw", "folded"))
    assert np.abs(raw - folded).max() > 1e-3
    raw, folded = (np.load(tmp_path / name / "one_weight_eff_rank.npy") for name in ("raw", "folded"))
    np.testing.assert_array_equal(raw, folded)


def test_the_tests_of_the_verdict_are_named_and_decide_it(script, small, tmp_path):
    results = run(script, small, tmp_path)
    assert results["verdict"] != "clear_bottleneck"
    assert not all(results["tests"].values())
    assert {row["id"]: row["holds"] for row in results["claims"]} == verdicts.one(results)["holds"]


def test_a_changed_threshold_judges_again_without_a_model(script, tmp_path, capsys, monkeypatch):
    run(script, ROOT / "tiny", tmp_path)
    capsys.readouterr()
    again = ["--report-only", "--out", str(tmp_path)]
    for name, value, verdict in (("LEVEL", 1.1, "weak_bottleneck"), ("SUPPORT_NEEDED", 0.3, "clear_bottleneck")):
        monkeypatch.setattr(verdicts, name, value)
        script("1.py").main(again)
        results = json.loads((tmp_path / "one_results.json").read_text())
        assert results["verdict"] == verdict
        assert capsys.readouterr().out.startswith(f"{verdict}: L1, mean effective rank 20.28 (random ")
        assert f"`{verdict}`" in (tmp_path / "one_output.md").read_text()
    held = {row["id"]: row["holds"] for row in results["claims"]}
    assert held["bottleneck_exists"] is True


def test_the_page_takes_orders_and_counts_from_the_file(script, small, tmp_path):
    results = run(script, small, tmp_path)
    results["weight_types"]["ffn"].reverse()
    results["energy_shares"][0] = 0.37
    results["bottleneck"]["resamples"] = 1234
    results["null"]["kernel"]["draws"] = 7
    (tmp_path / "one_results.json").write_text(json.dumps(results))
    script("1.py").main(["--report-only", "--out", str(tmp_path)])
    text = (tmp_path / "one_output.md").read_text()
    assert "| W_O | W_down | W_up | W_gate | heads (mean) |" in text
    for part in ("37% of energy", "1,234 resamples", "points of 7 draws"):
        assert part in text


def test_the_page_can_be_written_with_one_kv_group(script, tmp_path):
    path = random_model(tmp_path / "model", num_hidden_layers=3, num_key_value_heads=1)
    run(script, path, tmp_path / "out")
    assert "one KV group: none over groups" in (tmp_path / "out" / "one_output.md").read_text()


def test_random_kernels_are_stored_as_a_null(script, small, tmp_path):
    results = run(script, small, tmp_path)
    kernel, draws = results["null"]["kernel"], script("1.py").KERNEL_DRAWS
    assert set(kernel) == {"draws", "low", "middle", "high", "p"}
    assert kernel["low"] < kernel["middle"] < kernel["high"] <= 8
    assert kernel["draws"] == draws
    one = script("1.py")
    shapes = dict.fromkeys(one.WEIGHT_TYPES, (48, 48))
    lowest, highest = (one.random_matrices(shapes, 8, mean, 0)["kernel"]["p"] for mean in (0.0, 8.0))
    assert (lowest, highest) == pytest.approx((1 / (draws + 1), 1))  # p counts draws that are as low
