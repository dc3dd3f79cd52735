"""1.py against dense float64 linear algebra, closed forms, planted layouts and random weights."""

import json
import re
import warnings

import numpy as np
import pytest
import torch
from conftest import ROOT, random_model
from safetensors.torch import load_file, save_file
from scipy import stats

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


def damaged(path, damage, **changes):
    """A random model of five layers whose tensors `damage` changes, by name."""
    random_model(path, **changes)
    tensors = load_file(path / "model.safetensors")
    for name in tensors:
        damage(name, tensors[name])
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def test_rank_one_weights(script, tmp_path):
    path = damaged(tmp_path / "model", lambda name, tensor: tensor.fill_(1) if "layers.2" in name else None)
    results = run(script, path, tmp_path / "out")
    np.testing.assert_allclose(np.load(tmp_path / "out" / "one_weight_eff_rank.npy")[2], 1, rtol=1e-6)
    assert (results["bottleneck"]["layer"], results["bottleneck"]["mean"]) == (2, 1)
    assert results["zero_kernels"] == []


def test_one_head_cannot_agree_with_itself(script, tmp_path):
    path = random_model(tmp_path / "model", num_hidden_layers=4, num_attention_heads=1, num_key_value_heads=1)
    results = run(script, path, tmp_path / "out")
    assert results["bottleneck"]["support"] == 1
    assert results["verdict"] == "no_bottleneck"


def zero_queries(name: str, tensor: torch.Tensor) -> None:
    """W_Q of head 4 of layer 2 and of all of layer 3; heads are 8 wide."""
    if name.endswith("layers.2.self_attn.q_proj.weight"):
        tensor[32:40] = 0
    if name.endswith("layers.3.self_attn.q_proj.weight"):
        tensor[:] = 0


def test_zero_kernels_are_counted_and_left_out(script, tmp_path):
    path = damaged(tmp_path / "model", zero_queries)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = run(script, path, tmp_path / "out")
    ranks = np.load(tmp_path / "out" / "one_head_eff_rank.npy")
    assert (ranks[3] == 0).all() and ranks[2, 4] == 0 and (ranks == 0).sum() == 7
    assert results["zero_kernels"] == [{"layer": 2, "heads": 1}, {"layer": 3, "heads": 6}]
    left = np.delete(ranks[2], 4)
    heads = results["heads"]
    assert (heads["mean"][2], heads["lowest"][2]) == pytest.approx((left.mean(), left.min()), rel=1e-3)
    assert [heads[name][3] for name in ("mean", "sd", "cv", "lowest", "highest")] == [None] * 5
    low = results["bottleneck"]
    assert low["layer"] in (1, 2) and low["lowest"]["layer"] != 3 and low["inner_layers"] == 2
    text = (tmp_path / "out" / "one_output.md").read_text()
    assert "7 of 30 kernels are zero: layer 2 (1) and layer 3 (all)" in text
    assert "| L3 | – | – | – | – | – |" in text
    assert not re.search(r"\bnan\b|\bNone\b", text)


def test_where_every_kernel_is_zero_there_is_nothing_to_find(script, tmp_path):
    path = damaged(tmp_path / "model", lambda name, tensor: tensor.zero_() if "q_proj.weight" in name else None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = run(script, path, tmp_path / "out")
    assert results["verdict"] == "no_bottleneck"
    assert (results["bottleneck"]["layer"], results["bottleneck"]["mean"], results["bottleneck"]["support"]) == (
        0,
        None,
        0,
    )
    assert results["null"]["kernel"]["p"] == 1
    text = (tmp_path / "out" / "one_output.md").read_text()
    assert "No layer is a bottleneck of the heads' kernels (`no_bottleneck`) because every kernel is zero." in text
    assert not re.search(r"\bnan\b|\bNone\b", text)


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


def judged(one, head_ranks: np.ndarray, groups: int) -> dict:
    """Results as they are saved, of head ranks (L, h) alone: the other weights are flat."""
    layers, heads = head_ranks.shape
    weight_ranks = np.full((layers, 7), 100.0)
    trends = one.find_trends(weight_ranks, head_ranks)
    results = {
        "shape": {"layers": layers, "heads": heads, "groups": groups},
        "is_qwen25_3b": False,
        "weight_types": {"attention": one.ATTENTION_TYPES, "ffn": one.FFN_TYPES},
        "heads": one.over_heads(head_ranks),
        "zero_kernels": one.zero_kernels(head_ranks),
        "bottleneck": one.find_bottleneck(head_ranks, groups, 0),
        "trends": trends,
        "opposite": one.opposite_trends(trends, layers),
        "null": {
            "kernel": {"low": 119.0, "middle": 120.0, "high": 121.0, "p": 0.05},
            "weights": dict.fromkeys(one.WEIGHT_TYPES, 251.8),
        },
        **one.find_phases(weight_ranks, head_ranks),
    }
    return one.REPORT.judged(runs.significant(results))


def planted_ranks(layers: int, heads: int, lows: dict[int, float], seed: int = 0) -> np.ndarray:
    """Head ranks around 100, of the layers in `lows` around what it says, (L, h)."""
    draw = np.random.default_rng(seed)
    ranks = draw.normal(100, 2, (layers, heads))
    for layer, mean in lows.items():
        ranks[layer] = mean + draw.normal(0, 2, heads)
    return ranks


def test_a_planted_bottleneck_is_clear(script):
    one = script("1.py")
    low = one.find_bottleneck(planted_ranks(36, 16, {33: 80}), groups=2, seed=0)
    assert (low["layer"], low["window"], low["layers_after"]) == (33, [33], 2)
    assert low["lowest"] == {"layer": 33, "mean": low["mean"]}
    assert low["support"] == low["support_groups"] == 1
    assert low["margin_null"]["p"] < 0.001
    assert low["margin_null"]["draws"] == one.RESAMPLES
    results = judged(one, planted_ranks(36, 16, {33: 80}), 2)
    assert (results["verdict"], results["because"]) == ("clear_bottleneck", [])
    sentence = page.verdict_sentence(results)
    assert "clear bottleneck at layer 33 (`clear_bottleneck`)" in sentence
    assert "because" not in sentence and "only" not in sentence and "lowest mean rank" not in sentence


@pytest.mark.parametrize("lows", [{32: 80, 33: 80}, {31: 80.5, 32: 80, 33: 80.5}])
def test_a_planted_window_of_neighbours_is_clear(script, lows):
    """Which of equal layers is lowest is left to chance; that it is one of them is not."""
    results = judged(script("1.py"), planted_ranks(36, 4, lows), 2)
    low = results["bottleneck"]
    assert low["window"] == list(lows)
    assert low["layer"] in lows and low["runner_up"] not in lows
    assert 15 < low["margin"] < 20
    assert low["support"] == low["support_groups"] == 1
    assert results["verdict"] == "clear_bottleneck"
    names = " and ".join([", ".join(map(str, list(lows)[:-1])), str(max(lows))])
    assert f"clear bottleneck at layers {names} (`clear_bottleneck`)" in page.verdict_sentence(results)


@pytest.mark.parametrize("lows", [{20: 80, 33: 80}, {30: 80, 31: 80, 32: 80, 33: 80}])
def test_equal_layers_that_are_no_window_are_no_bottleneck(script, lows):
    """Two that are no neighbours, and four that are."""
    results = judged(script("1.py"), planted_ranks(36, 16, lows), 2)
    assert results["verdict"] == "no_bottleneck"
    assert results["because"] == ["margin beyond equal layers"]


def plain_window(means: np.ndarray, layers: np.ndarray) -> tuple[float, int]:
    """The window's margin and size as the text defines them, for one draw."""
    found = (0.0, 1)
    for size in range(1, min(3, len(layers) - 1) + 1):
        for start in range(len(layers) - size + 1):
            inside = np.arange(start, start + size)
            gap = np.delete(means, inside).min() - means[inside].max()
            if layers[start + size - 1] - layers[start] == size - 1 and gap > found[0]:
                found = (gap, size)
    return found


@pytest.mark.parametrize("layers", [[1, 2], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 4, 5, 6, 9]])
def test_the_margin_is_that_of_the_best_window(script, layers):
    layers = np.array(layers)
    means = np.random.default_rng(0).normal(size=(300, len(layers)))
    margins, sizes = script("1.py").window_margin(means, layers)
    expected = [plain_window(row, layers) for row in means]
    np.testing.assert_allclose(margins, [margin for margin, _ in expected])
    assert [size for margin, size in zip(margins, sizes) if margin > 0] == [size for gap, size in expected if gap > 0]
    assert set(sizes) == set(range(1, min(3, len(layers) - 1) + 1))
    margins, sizes = script("1.py").window_margin(np.arange(5.0)[None], np.arange(5))
    assert (margins.tolist(), sizes.tolist()) == ([1], [1])  # equal gaps: the smaller window


def within_binomial(hits: int, trials: int, rate: float) -> bool:
    return stats.binomtest(hits, trials, rate).pvalue > 1e-3


@pytest.mark.parametrize("layers, groups", [(8, 2), (4, 4), (2, 8)])
def test_the_null_of_the_margin_is_exact_for_the_search(script, layers, groups):
    draw, ones = np.random.default_rng(layers), np.ones((layers, groups))
    find, ps = script("1.py").find_window, []
    for _ in range(500):
        ranks = draw.normal(50, 3, (layers, groups))
        ps.append(find(ranks.mean(1), ranks, ones, np.arange(1, layers + 1), 0)["margin_null"]["p"])
    for level in (0.01, 0.05, 0.2, 0.5):
        assert within_binomial(sum(p < level for p in ps), len(ps), level), level


def test_random_kernels_rarely_have_a_bottleneck(script):
    """Gaussian queries and keys with shared KV groups: heads of a group are not independent, and must not count so."""
    one = script("1.py")
    generator = torch.Generator().manual_seed(0)
    found, ps = [], []
    for _ in range(150):
        query = torch.randn(10, 4, 16, 48, generator=generator, dtype=torch.float64)
        key = torch.randn(10, 2, 16, 48, generator=generator, dtype=torch.float64)
        ranks = np.stack([utils.effective_rank(utils.kernel_svd(q, k)[0]).numpy() for q, k in zip(query, key)])
        results = judged(one, ranks, 2)
        found.append(results["verdict"])
        ps.append(results["bottleneck"]["margin_null"]["p"])
    assert found.count("no_bottleneck") >= sum(p >= verdicts.LEVEL for p in ps)
    assert 150 - found.count("no_bottleneck") <= stats.binom(150, verdicts.LEVEL).ppf(0.999)
    assert 0.4 < np.mean(ps) < 0.6


def test_one_kv_group_cannot_show_a_bottleneck(script):
    results = judged(script("1.py"), planted_ranks(12, 8, {5: 80}), 1)
    low = results["bottleneck"]
    assert (low["layer"], low["support"], low["margin_null"], low["support_groups"]) == (5, 1, None, None)
    assert results["verdict"] == "no_bottleneck"
    assert "because one KV group leaves no estimate of the noise; the lowest is layer 5" in page.verdict_sentence(
        results
    )
    held = {row["id"]: row["holds"] for row in results["claims"]}
    assert held["bottleneck_exists"] is None  # neither shown nor excluded
    alike = judged(script("1.py"), planted_ranks(12, 8, {}), 2)
    assert {row["id"]: row["holds"] for row in alike["claims"]}["bottleneck_exists"] is False


@pytest.mark.parametrize("edge, name", [(0, "first"), (11, "last")])
def test_a_lower_layer_on_the_edge_does_not_hide_an_inner_bottleneck(script, edge, name):
    one = script("1.py")
    results = judged(one, planted_ranks(12, 8, {edge: 40, 5: 80}), 2)
    low = results["bottleneck"]
    assert (low["layer"], low["lowest"]["layer"], low["inner_layers"]) == (5, edge, 10)
    assert low["lowest"]["mean"] < 45 < low["mean"]
    assert results["verdict"] == "clear_bottleneck"
    sentence = page.verdict_sentence(results)
    because = (
        f"which cannot be a bottleneck between encoding and decoding because it is the {name} layer; the heads' kernels"
    )
    assert f"The lowest mean rank is at layer {edge} (" in sentence and because in sentence
    measured = {row["id"]: row["measured"] for row in results["claims"]}
    for claim in ("bottleneck_rank", "bottleneck_exists"):
        assert measured[claim].startswith("L5") and f"; lowest of all the {name} layer L{edge}, " in measured[claim]
    assert f"lowest of all the {name} layer L{edge}" in page.summary(results)
    alone = judged(one, planted_ranks(12, 8, {edge: 40}, seed=1), 2)  # then the inner layers are alike
    assert alone["verdict"] == "no_bottleneck"
    assert (
        alone["bottleneck"]["margin_null"]
        == judged(one, planted_ranks(12, 8, {}, seed=1), 2)["bottleneck"]["margin_null"]
    )


@pytest.mark.parametrize("layers, zero", [(1, []), (2, []), (6, [1, 2, 3, 4])])
def test_without_an_inner_layer_the_lowest_is_named_and_no_bottleneck(script, layers, zero):
    """None because there are too few, or because the kernels of all of them are zero."""
    named = layers - 1
    ranks = planted_ranks(layers, 4, {named: 60})
    ranks[zero] = 0
    results = judged(script("1.py"), ranks, 2)
    low = results["bottleneck"]
    assert (low["layer"], low["lowest"]["layer"], low["inner_layers"], low["margin"]) == (named, named, 0, None)
    assert results["verdict"] == "no_bottleneck"
    assert results["because"] == ["there is an inner layer", "margin beyond equal layers"]
    reason = "because there is no inner layer" + " with a kernel" * bool(zero)
    assert f"{reason}; the lowest is layer {named}, which later phases" in page.verdict_sentence(results)


def test_a_single_inner_layer_has_nothing_to_lead(script):
    results = judged(script("1.py"), planted_ranks(3, 4, {1: 60}), 2)
    low = results["bottleneck"]
    assert (low["layer"], low["inner_layers"], low["margin"], low["margin_null"]) == (1, 1, None, None)
    assert results["verdict"] == "no_bottleneck"
    assert "because a single inner layer has no other to lead; the lowest is layer 1" in page.verdict_sentence(results)


def test_reasons_are_those_of_the_failed_tests(script, monkeypatch):
    one = script("1.py")
    results = judged(one, planted_ranks(12, 8, {}, seed=1), 2)
    low = results["bottleneck"]
    reason = (
        f"because a margin of {low['margin']:.3g} has p = {low['margin_null']['p']:.2g} if all inner layers are equal; "
    )
    assert (results["verdict"], results["because"]) == ("no_bottleneck", ["margin beyond equal layers"])
    assert reason + f"the lowest is layer {low['layer']}, which later" in page.verdict_sentence(results)
    ranks = planted_ranks(12, 16, {5: 80})
    ranks[5, 8:], ranks[8, 8:] = 97, 92  # the second KV group finds its lowest layer elsewhere
    ranks[5, :8] = 85
    monkeypatch.setattr(verdicts, "LEVEL", 1.1)
    results = judged(one, ranks, 2)
    low = results["bottleneck"]
    assert low["layer"] == 5 and low["support"] > verdicts.SUPPORT_NEEDED > low["support_groups"]
    assert (results["verdict"], results["because"]) == ("weak_bottleneck", ["KV-group resamples agree"])
    sentence = page.verdict_sentence(results)
    assert sentence.startswith(
        "Layer 5 is lowest of the inner layers, but not a clear bottleneck (`weak_bottleneck`) because only "
        f"{page.percent(low['support_groups'])} of KV-group resamples pick it: "
    )
    assert f"; {page.percent(low['support'])} of head resamples pick it" in sentence
    assert sentence.count("KV-group") == 1


def test_zero_kernels_leave_the_noise_and_the_layers_next_to_them_alone(script):
    one = script("1.py")
    ranks = planted_ranks(12, 8, {5: 80, 7: 80})
    alive = np.delete(ranks, 6, 0)
    ranks[6] = 0
    low, without = (one.find_bottleneck(part, 2, 0) for part in (ranks, alive))
    assert low["inner_layers"] == without["inner_layers"] == 9
    assert (len(low["window"]), without["window"]) == (1, [5, 6])  # 5 and 7 are no neighbours: layer 6 is merely dead
    ranks[1, :4], ranks[2, 1] = 0, 0  # one KV group of layer 1 is gone, and one head of layer 2
    low = one.find_bottleneck(ranks, 2, 0)
    assert low["layer"] in (5, 7) and low["support"] < 1
    means = one.over_heads(ranks)["mean"]
    assert means[1] == pytest.approx(ranks[1, 4:].mean())
    assert means[2] == pytest.approx(np.delete(ranks[2], 1).mean())


def test_noise_is_pooled_over_the_groups_that_are_there(script):
    """The null scales with the noise: with a group missing in some layers, that of a layer's own number of groups."""
    one, draw = script("1.py"), np.random.default_rng(0)
    layers, counts = np.arange(1, 7), np.full((6, 4), 2.0)
    counts[2] = (2, 0, 0, 0)
    totals = counts * draw.normal(50, 3, (6, 4))
    null = one.margin_null(totals, counts, layers, 1.0, 0)
    groups = [row[count > 0] / 2 for row, count in zip(totals, counts)]
    variance = sum(((group - group.mean()) ** 2).sum() for group in groups) / 15
    noise = np.sqrt(variance / np.array([4, 4, 1, 4, 4, 4]))
    means = draw.normal(size=(20_000, 6)) * noise
    margins = one.window_margin(means, layers)[0] * np.sqrt(15 / draw.chisquare(15, 20_000))
    for point, share in (("low", 0.05), ("middle", 0.5), ("high", 0.95)):
        assert null[point] == pytest.approx(np.quantile(margins, share), rel=0.1)


def test_support_counts_resamples_inside_the_window(script):
    support = script("1.py").bootstrap_support
    generator = torch.Generator().manual_seed(0)
    totals = np.array([[1.0, 9.0], [9.0, 1.0], [4.0, 4.0]])
    inside = np.array([True, False, False])
    # of the four draws of two columns one has the first column alone; the mixed ones leave 4 as the lowest
    assert support(totals, np.ones((3, 2)), inside, generator) == pytest.approx(0.25, abs=0.02)
    assert support(totals, np.ones((3, 2)), np.array([True, True, False]), generator) == pytest.approx(0.5, abs=0.02)
    counts = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    totals = np.array([[5.0, 5.0], [0.0, 1.0], [6.0, 6.0]])  # a kernel of zeros is no rank of 0
    assert support(totals, counts, inside, generator) == pytest.approx(0.25, abs=0.02)


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
    weight_ranks[[0, 5], 4:] = np.nan  # what two layers lack
    with_experts = one.find_trends(weight_ranks, np.repeat(falling[:, None], 4, 1))
    assert with_experts["W_gate"]["rho"] == pytest.approx(1)
    assert with_experts["W_gate"]["mean"] == pytest.approx(np.delete(falling[::-1], [0, 5]).mean())
    encode = one.find_phases(weight_ranks[:, [4, 4, 4, 4, 0, 0, 0]], np.repeat(falling[:, None], 4, 1))["phase_votes"]
    assert set(encode["encode"]) == {"W_gate", "W_up", "W_down"}
    weight_ranks[:, 4] = np.nan
    assert "W_gate" not in one.find_trends(weight_ranks, np.repeat(falling[:, None], 4, 1))
    constant = one.find_trends(np.ones((12, 7)), np.ones((12, 4)))["W_V"]
    assert (constant["rho"], constant["p"], constant["cv"]) == (0, 1, 0)


def test_the_recipes_numbers_are_judged_on_its_own_model_only(script):
    one = script("1.py")
    weight_ranks, head_ranks = recipe_like_ranks()
    head_ranks[33] = 80.4
    weight_ranks[:, 2] = 250
    trends = one.find_trends(weight_ranks, head_ranks)
    results = judged(one, head_ranks, 2) | {
        "trends": runs.significant(trends),
        "opposite": one.opposite_trends(trends, 36),
        **one.find_phases(weight_ranks, head_ranks),
    }
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


def test_a_model_without_a_gate_has_dashes_for_it(script, families, tmp_path):
    results = run(script, families["gpt_neox"], tmp_path)
    ranks = np.load(tmp_path / "one_weight_eff_rank.npy")
    assert np.flatnonzero(np.isnan(ranks).any(0)).tolist() == [script("1.py").WEIGHT_TYPES.index("W_gate")]
    assert results["null"]["weights"]["W_gate"] is None
    assert "W_gate" not in results["trends"]
    assert "W_gate" not in results["phase_votes"]["encode"]
    assert results["opposite"]["ffn"] == pytest.approx(
        np.median([results["trends"][name]["rho"] for name in ("W_up", "W_down")]), rel=1e-3
    )
    text = (tmp_path / "one_output.md").read_text()
    table, rest = text.split("## 2")
    assert "| W_gate |" in table
    assert table.count("| – |") >= len(ranks) + 1
    assert "W_gate" not in rest


@pytest.mark.parametrize("direction", [1, -1])
def test_a_slope_over_depth_is_no_bottleneck(script, direction):
    """The lowest inner layer of a trend has a lower one beside it: the edge layer that the search leaves out."""
    ranks = np.linspace(20, 80, 24)[::direction, None] + np.random.default_rng(0).normal(0, 1, (24, 14))
    results = judged(script("1.py"), ranks, 2)
    assert results["bottleneck"]["margin_null"]["p"] < verdicts.LEVEL  # equal layers are refuted, and yet
    assert results["verdict"] == "no_bottleneck"
    assert results["because"] == ["lower than both neighbours"]
    edge = 0 if direction == 1 else 23
    text = page.slope_text(results["bottleneck"])
    assert text.startswith(f"layer {edge} beside it is lower still (")


def test_a_valley_is_lower_than_its_neighbours_whatever_the_edges(script):
    ranks = planted_ranks(24, 8, {11: 80})
    ranks[0] = 15 + np.random.default_rng(3).normal(0, 1, 8)
    results = judged(script("1.py"), ranks, 2)
    assert results["verdict"] == "clear_bottleneck"
    assert [row["layer"] for row in results["bottleneck"]["beside"]] == [10, 12]


def test_layers_without_kernels_do_not_enter_the_spread_of_the_others(script):
    ranks = np.random.default_rng(0).normal(100, 4, (9, 8))
    expected = np.median([row.std() / row.mean() for row in np.delete(ranks, [2, 3, 4, 5], 0)])
    ranks[2:6] = 0
    found = script("1.py").find_bottleneck(ranks, groups=2, seed=0)["cv_other_layers"]
    assert 0.8 * expected < found < 1.2 * expected
