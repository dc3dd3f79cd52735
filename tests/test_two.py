"""2.py against dense projectors, planted overlaps and random weights."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, fails, random_model
from safetensors.torch import load_file, save_file
from scipy import stats

import utils
import verdicts
from lab import checkpoints
from reports.page import CHOSEN


def run(script, model, out, *flags) -> dict:
    common = ["--model", str(model), "--out", str(out), "--device", "cpu"]
    if "--layer" not in flags:
        script("1.py").main([*common, *(flag for flag in flags if flag == "--fold-norm")])
    script("2.py").main([*common, *flags])
    return json.loads((out / "two_results.json").read_text())


def dense_subspaces(path, k: int) -> np.ndarray:
    """Top-k right singular vectors of every formed kernel, (L, h, k, d)."""
    folder = checkpoints.find_model(str(path))
    rows = []
    for layer in checkpoints.stream_layers(folder):
        query = layer.query.double().view(folder.heads, folder.head_width, -1)
        key = layer.key.double().view(folder.groups, folder.head_width, -1)
        repeats = folder.heads // folder.groups
        kernels = [query[head].T @ key[head // repeats] for head in range(folder.heads)]
        rows.append([torch.linalg.svd(kernel)[2][:k].tolist() for kernel in kernels])
    return np.array(rows)


@pytest.mark.parametrize("model", ["tiny", "qwen2", "qwen3"])
def test_arrays_agree_with_a_dense_reference(script, families, tmp_path, model):
    path = ROOT / "tiny" if model == "tiny" else families[model]
    k = 4
    results = run(script, path, tmp_path, "--k", str(k))
    folder = checkpoints.find_model(str(path))
    subspaces = dense_subspaces(path, k)
    layers, heads = subspaces.shape[:2]
    similarity = np.load(tmp_path / "two_similarity.npy")
    assert similarity.shape == (heads, layers, layers)
    for head in range(heads):
        for first in range(layers):
            for second in range(layers):
                cosines = np.linalg.svd(subspaces[first, head] @ subspaces[second, head].T, compute_uv=False)
                assert similarity[head, first, second] == pytest.approx((cosines**2).mean(), rel=1e-6)
    consensus = []
    for layer in range(layers):
        stack = subspaces[layer].reshape(heads * k, -1)
        consensus.append(np.linalg.svd(stack)[2][:k])
    measured = np.load(tmp_path / "two_consensus_similarity.npy")
    expected = [[(np.linalg.norm(a @ b.T) ** 2) / k for b in consensus] for a in consensus]
    np.testing.assert_allclose(measured, expected, rtol=1e-6)
    alignment = np.load(tmp_path / "two_ffn_alignment.npy")
    assert alignment.shape == (layers, heads)
    for index, layer in enumerate(checkpoints.stream_layers(folder)):
        gate = layer.gate.double().numpy()
        expected = [np.linalg.norm(gate @ rows.T) ** 2 / np.linalg.norm(gate) ** 2 for rows in subspaces[index]]
        np.testing.assert_allclose(alignment[index], expected, rtol=1e-6)
        top = np.linalg.svd(gate)[2][:k]
        by_top = np.mean([np.linalg.norm(top @ rows.T) ** 2 / k for rows in subspaces[index]])
        assert results["ffn"]["top"][index] == pytest.approx(by_top, rel=1e-3)
        for side, name, matrix in (
            ("reading", "W_gate", layer.gate),
            ("reading", "W_up", layer.up),
            ("writing", "W_down", layer.down.T),
            ("writing", "W_O", layer.output.T),
        ):
            matrix = matrix.double().numpy()
            parts = [np.linalg.norm(matrix @ rows.T) ** 2 / np.linalg.norm(matrix) ** 2 for rows in subspaces[index]]
            measured = results["ffn"][side][name]["energy"][index]
            assert measured == pytest.approx(np.mean(parts), rel=1e-3), name
            own = np.linalg.norm(matrix @ consensus[index].T) ** 2 / np.linalg.norm(matrix) ** 2
            if name == "W_gate":
                assert results["ffn"]["consensus"][index] == pytest.approx(own, rel=1e-3)
                others = [rows for other, rows in enumerate(consensus) if other != index]
                elsewhere = [np.linalg.norm(matrix @ rows.T) ** 2 / np.linalg.norm(matrix) ** 2 for rows in others]
                assert results["ffn"]["other_layers"][index] == pytest.approx(np.mean(elsewhere), rel=1e-3)
    ratio = np.array(results["ffn_alignment_over_chance"])
    np.testing.assert_allclose(ratio, alignment.mean(1) / (k / folder.width), rtol=1e-3)


def test_random_weights_are_at_chance(script, small, tmp_path):
    results = run(script, small, tmp_path, "--k", "4")
    assert results["verdict"] == "ffn_at_chance"
    assert 0.8 < np.mean(results["ffn_alignment_over_chance"]) < 1.2
    held = {row["id"] for row in results["claims"] if row["holds"]}
    assert not held & {"ffn_below_chance", "ffn_special", "ffn_orthogonal", "approach"}
    for name in ("W_down", "W_O"):
        written = results["ffn"]["writing"][name]
        assert 0.8 < np.mean(written["energy"]) / results["chance"] < 1.2
        assert np.mean([null["p"] > 0.05 for null in written["haar"]]) >= 0.6
    across = results["heads"]["across_groups"]
    assert np.mean(across) == pytest.approx(results["chance"], rel=0.25)


def planted(tmp_path, change) -> object:
    """A random model whose tensors `change(tensors, layer)` has edited in place."""
    path = random_model(tmp_path / "planted", num_hidden_layers=5)
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        path / "model.safetensors",
        metadata={"format": "pt"},
    )
    return path


KEY, GATE, DOWN, OUT = ("self_attn.k_proj", "mlp.gate_proj", "mlp.down_proj", "self_attn.o_proj")


def moved(tensors: dict, name: str, layer: int, factor: float) -> None:
    """Scale what one of a layer's matrices reads of, or writes to, the span of its keys; the rest stays."""
    _, _, rows = torch.linalg.svd(tensors[f"model.layers.{layer}.{KEY}.weight"].double(), full_matrices=False)
    inside, name = rows.T @ rows, f"model.layers.{layer}.{name}.weight"
    matrix = tensors[name].double()
    part = matrix @ inside if name.endswith(f"{GATE}.weight") else inside @ matrix
    tensors[name] = (matrix + (factor - 1) * part).float()


@pytest.mark.parametrize(
    ("factor", "verdict"), [(0, "ffn_avoids_attention"), (2, "ffn_shares_attention")], ids=["avoids", "shares"]
)
def test_a_planted_ffn_alignment_is_found(script, tmp_path, factor, verdict):
    path = planted(tmp_path, lambda tensors: moved(tensors, GATE, 2, factor))
    results = run(script, path, tmp_path / "out", "--layer", "2", "--k", "4")
    assert results["verdict"] == verdict
    holds = {row["id"]: row["holds"] for row in results["claims"]}
    assert holds["ffn_below_chance"] == holds["ffn_special"] == (factor == 0)
    assert not holds["ffn_orthogonal"]  # what the FFN writes is still at chance
    assert not holds["ffn_writes_below_chance"]


@pytest.mark.parametrize("factor", [0, 2])
@pytest.mark.parametrize("name", [DOWN, OUT])
def test_a_planted_writing_side_is_found_and_not_taken_for_reading(script, tmp_path, name, factor):
    path = planted(tmp_path, lambda tensors: moved(tensors, name, 2, factor))
    results = run(script, path, tmp_path / "out", "--layer", "2", "--k", "4")
    assert results["verdict"] == "ffn_at_chance"
    matrix, other = ("W_down", "W_O") if name == DOWN else ("W_O", "W_down")
    written = results["ffn"]["writing"]
    ps = [(null["p_low"], null["p_high"]) for null in written[matrix]["haar"]]
    assert ps[2][0 if factor == 0 else 1] < 0.025
    assert min(min(pair) for layer, pair in enumerate(ps) if layer != 2) > 0.01
    assert min(written[other]["haar"][2][side] for side in ("p_low", "p_high")) > 0.025
    holds = {row["id"]: row["holds"] for row in results["claims"]}
    assert holds["ffn_writes_below_chance"] == (name == DOWN and factor == 0)
    assert holds["attention_writes_above_chance"] == (name == OUT and factor == 2)
    assert not holds["ffn_orthogonal"]


def test_orthogonal_needs_both_sides(script, tmp_path):
    def change(tensors):
        moved(tensors, GATE, 2, 0)
        moved(tensors, DOWN, 2, 0)

    results = run(script, planted(tmp_path, change), tmp_path / "out", "--layer", "2", "--k", "4")
    holds = {row["id"]: row["holds"] for row in results["claims"]}
    assert holds["ffn_orthogonal"] and holds["ffn_below_chance"] and holds["ffn_writes_below_chance"]


def with_layers(monkeypatch, change) -> None:
    """Every streamed layer as `change(layer)` returns it."""
    stream = checkpoints.stream_layers
    monkeypatch.setattr(checkpoints, "stream_layers", lambda *asked: (change(layer) for layer in stream(*asked)))


def test_without_a_gate_the_up_projection_is_judged(script, small, tmp_path, monkeypatch):
    gated = run(script, small, tmp_path / "gated", "--layer", "2", "--k", "4")
    with_layers(monkeypatch, lambda layer: replace(layer, gate=None))
    results = run(script, small, tmp_path / "out", "--layer", "2", "--k", "4")
    assert list(results["ffn"]["reading"]) == ["W_up"]
    assert results["ffn"]["judged"] == "W_up"
    assert results["ffn"]["reading"]["W_up"]["energy"] == gated["ffn"]["reading"]["W_up"]["energy"]
    ratios = np.array(results["ffn"]["reading"]["W_up"]["energy"]) / results["chance"]
    np.testing.assert_allclose(results["ffn_alignment_over_chance"], ratios, rtol=1e-3)
    text = (tmp_path / "out" / "two_output.md").read_text()
    assert "This FFN has no gate: W_up takes W_gate's place" in text
    assert "| layer | W_up | Haar of W_up |" in text
    assert "W_gate" not in text.split("## 1")[0]


def test_ranks_without_a_gate_are_none(script, small, monkeypatch):
    with_layers(monkeypatch, lambda layer: replace(layer, gate=None))
    one, folder = script("1.py"), checkpoints.find_model(str(small))
    ranks, _, _, shapes = one.measure(folder, torch.device("cpu"), False)
    missing = one.WEIGHT_TYPES.index("W_gate")
    assert np.isnan(ranks[:, missing]).all()
    assert np.isfinite(np.delete(ranks, missing, 1)).all()
    weights = one.random_matrices(shapes, folder.head_width, 1.0, 0)["weights"]
    assert weights["W_gate"] is None
    assert weights["W_up"] > 0


def test_random_matrices_have_the_shapes_that_were_streamed(script, small, monkeypatch):
    """Experts' matrices come stacked, of a size that no configuration names."""
    with_layers(
        monkeypatch, lambda layer: replace(layer, up=torch.cat([layer.up] * 3), down=torch.cat([layer.down] * 3, 1))
    )
    _, _, _, shapes = script("1.py").measure(checkpoints.find_model(str(small)), torch.device("cpu"), False)
    assert (shapes["W_gate"], shapes["W_up"], shapes["W_down"]) == ((80, 48), (240, 48), (48, 240))


@pytest.mark.parametrize("centred", [False, True])
def test_folding_meets_the_stream_on_both_sides(script, small, centred):
    """What is read stands behind the norm before the FFN, what is written before the norm after it."""
    two, draw = script("2.py"), torch.Generator().manual_seed(0)
    layer = next(checkpoints.stream_layers(checkpoints.find_model(str(small))))
    gains = {f"{part}_out_gain": torch.rand(48, generator=draw) for part in ("attention", "ffn")}
    layer = SimpleNamespace(**vars(layer) | gains | {"centred": centred})
    centring = torch.eye(48) - (1 / 48 if centred else 0)
    expected = {
        "W_gate": layer.gate @ torch.diag(layer.ffn_gain) @ centring,
        "W_down": (torch.diag(layer.ffn_out_gain) @ layer.down).T,
        "W_O": (torch.diag(layer.attention_out_gain) @ layer.output).T,
    }
    raw = {"W_gate": layer.gate, "W_down": layer.down.T, "W_O": layer.output.T}
    for fold, sides in ((True, expected), (False, raw)):
        found = two.on_the_stream(layer, torch.device("cpu"), fold)
        assert next(iter(found)) == "W_gate"
        for name, matrix in sides.items():
            torch.testing.assert_close(found[name].float(), matrix, rtol=1e-4, atol=1e-6)


def test_the_haar_null_needs_the_spectrum_alone(script):
    """Energies of Haar subspaces by a matrix's singular values are distributed as those by the matrix itself."""
    two, draw = script("2.py"), torch.Generator().manual_seed(0)
    matrix = torch.randn(9, 24, generator=draw, dtype=torch.float64) * torch.linspace(0.1, 3, 24)
    values = torch.linalg.svdvals(matrix)
    first, second = (utils.random_subspaces(draw, 4000, 5, 24) for _ in range(2))
    by_spectrum = two.haar_energy(first.square().sum(1), values)
    by_matrix = utils.energy_share(matrix, second).numpy()
    assert stats.ks_2samp(by_spectrum, by_matrix).pvalue > 0.01
    assert by_spectrum.mean() == pytest.approx(5 / 24, rel=0.02)
    assert (two.haar_energy(first.square().sum(1), 0 * values) == 0).all()


def test_what_1_py_left_is_used_and_changes_nothing(script, small, tmp_path, monkeypatch):
    """The spectra of 1.py where they lie there, else the same ones found again; never with norms folded in."""
    alone = run(script, small, tmp_path / "alone", "--layer", "2", "--k", "4")
    script("1.py").main(["--model", str(small), "--out", str(tmp_path / "both"), "--device", "cpu"])
    with monkeypatch.context() as patched:
        patched.setattr(utils, "singular_values", lambda _: pytest.fail("found again"))
        both = run(script, small, tmp_path / "both", "--layer", "2", "--k", "4")
    for results in (alone, both):
        results.pop("fingerprint")  # names what was read
        results["settings"].pop("spectra")
    assert both == alone
    run(script, small, tmp_path / "both", "--layer", "2", "--k", "4", "--fold-norm")  # singular_values again


def test_planted_approach_and_snap_are_found(script, tmp_path):
    def change(tensors):  # layers 1 and 2 share their kernels, all others are independent
        for part in ("q_proj", "k_proj"):
            tensors[f"model.layers.1.self_attn.{part}.weight"] = tensors[
                f"model.layers.2.self_attn.{part}.weight"
            ].clone()

    results = run(script, planted(tmp_path, change), tmp_path / "out", "--layer", "2", "--k", "4")
    assert results["snap"] == [2, 3]
    assert results["snap_heads"] == results["snap_groups"] == 1
    assert results["approach"] == pytest.approx(1)
    assert results["best_pair"]["layers"] == [1, 2]
    holds = {row["id"]: row["holds"] for row in results["claims"]}
    assert holds["approach"] and holds["snap"]


def test_k_is_clamped_to_the_head_width_and_said(script, small, tmp_path):
    results = run(script, small, tmp_path, "--k", "500")
    assert results["settings"]["k"] == 8
    assert "500 asked, clamped" in (tmp_path / "two_output.md").read_text()
    assert results["definition"]["gap"] == [None] * 5


@pytest.mark.parametrize(("layers", "heads", "groups"), [(1, 4, 2), (2, 1, 1), (3, 4, 1)])
def test_few_layers_one_head_and_one_group(script, tmp_path, layers, heads, groups):
    changes = {"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": groups}
    path = random_model(tmp_path / "model", **changes)
    results = run(script, path, tmp_path / "out", "--k", "4")
    assert (results["snap"] is None) == (layers < 3)
    holds = {row["id"]: row["holds"] for row in results["claims"]}
    assert (holds["heads_converge"] is None) == (groups == 1)


def test_folding_is_reported_and_used(script, small, tmp_path):
    raw = run(script, small, tmp_path / "raw", "--k", "4")
    folded = run(script, small, tmp_path / "folded", "--k", "4", "--fold-norm")
    assert all(0.3 < value < 0.9999 for value in raw["definition"]["folded"])
    assert raw["definition"]["folded"] == folded["definition"]["folded"]
    assert not np.allclose(
        np.load(tmp_path / "raw/two_similarity.npy"), np.load(tmp_path / "folded/two_similarity.npy")
    )


def test_a_changed_threshold_judges_again_without_a_model(script, small, tmp_path, capsys, monkeypatch):
    assert run(script, small, tmp_path, "--k", "4")["verdict"] == "ffn_at_chance"
    text = (tmp_path / "two_output.md").read_bytes()
    capsys.readouterr()
    script("2.py").main(["--report-only", "--out", str(tmp_path)])
    assert (tmp_path / "two_output.md").read_bytes() == text
    assert capsys.readouterr().out.startswith("ffn_at_chance: L")
    monkeypatch.setattr(verdicts, "LEVEL", 2.1)
    script("2.py").main(["--report-only", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "two_results.json").read_text())
    assert results["verdict"] == "ffn_avoids_attention"
    assert all(results["tests"].values())
    assert {row["id"]: row["holds"] for row in results["claims"]} == verdicts.two(results)["holds"]


def test_the_recipes_ratio_is_judged_on_its_own_model_only(script, small, tmp_path):
    results = run(script, small, tmp_path, "--layer", "2", "--k", "4")
    assert verdicts.two(results)["holds"]["ffn_value"] is None
    results |= {"is_qwen25_3b": True, "settings": {"layer": 33}, "ffn_alignment_over_chance": [1.0] * 33 + [0.58, 1, 1]}
    results["heads"]["across_groups"] = [0.1] * 36
    for matrix in [*results["ffn"]["reading"].values(), *results["ffn"]["writing"].values()]:
        matrix |= {"haar": [{"p_low": 0.5, "p_high": 0.5}] * 36, "energy": [0.01] * 36}
    assert verdicts.two(results)["holds"]["ffn_value"] is True
    results["ffn_alignment_over_chance"][33] = 0.7
    assert verdicts.two(results)["holds"]["ffn_value"] is False
    assert verdicts.two(results)["holds"]["ffn_special"] is True


def test_the_page_takes_the_number_of_draws_from_the_file(script, small, tmp_path):
    results = run(script, small, tmp_path, "--k", "4")
    for null in results["ffn"]["reading"]["W_gate"]["haar"]:
        null["draws"] = 77
    (tmp_path / "two_results.json").write_text(json.dumps(results))
    script("2.py").main(["--report-only", "--out", str(tmp_path)])
    text = (tmp_path / "two_output.md").read_text()
    assert "77 Haar-random subspaces" in text
    assert "of 77 random subspaces" in text


def test_the_null_is_two_sided_beside_its_sides(script):
    draws = np.arange(1.0, 100)
    for observed, low, high in ((0.0, 0.01, 1), (50.0, 0.51, 0.51), (99.0, 1, 0.02)):
        null = script("2.py").two_sided_null(draws, observed)
        assert (null["draws"], null["middle"]) == (99, 50)
        assert (null["p_low"], null["p_high"], null["p"]) == pytest.approx((low, high, min(1, 2 * min(low, high))))


def test_what_chose_the_layer_is_said_and_costs_no_measurement(script, small, tmp_path, capsys):
    results = run(script, small, tmp_path)
    one = json.loads((tmp_path / "one_results.json").read_text())
    layer = one["bottleneck"]["layer"]
    assert (results["settings"]["layer"], results["layer_chosen"]) == (layer, one["verdict"])
    for chosen, words in CHOSEN.items():
        (tmp_path / "one_results.json").write_text(json.dumps(one | {"verdict": chosen}))
        capsys.readouterr()
        script("2.py").main(["--model", str(small), "--out", str(tmp_path), "--device", "cpu"])
        assert "there already" in capsys.readouterr().out
        again = json.loads((tmp_path / "two_results.json").read_text())
        assert (again["layer_chosen"], again["fingerprint"]) == (chosen, results["fingerprint"])
        assert f"At layer {layer}{words} W_gate" in (tmp_path / "two_output.md").read_text()
    given = run(script, small, tmp_path, "--layer", str(layer))
    assert (given["settings"], given["layer_chosen"]) == (results["settings"], "given")


@pytest.mark.parametrize(
    ("spoiled", "line"), [((5, 7, 10), "has shape (5, 7, 10), expected (5, 7, 48)"), (None, "damaged")]
)
def test_spectra_of_another_shape_are_refused(script, small, tmp_path, capsys, spoiled, line):
    script("1.py").main(["--model", str(small), "--out", str(tmp_path), "--device", "cpu"])
    file = tmp_path / "one_weight_spectra.npy"
    np.save(file, np.ones(spoiled)) if spoiled else file.write_bytes(b"no array")
    flags = ("--model", small, "--out", tmp_path, "--device", "cpu", "--layer", "2", "--fresh")
    assert line in fails(script, capsys, "2.py", *flags)


def test_kernels_of_zeros_have_no_directions(script, tmp_path, capsys):
    """One head of layer 2, all of layer 3: left out of energies, said, and no layer to be looked at."""

    def change(tensors):
        tensors["model.layers.2.self_attn.q_proj.weight"][:8] = 0
        tensors["model.layers.3.self_attn.q_proj.weight"][:] = 0

    path = planted(tmp_path, change)
    results = run(script, path, tmp_path / "out", "--layer", "2", "--k", "4")
    assert results["zero_kernels"] == [[2, 1], [3, 6]]
    alignment = np.load(tmp_path / "out" / "two_ffn_alignment.npy")
    assert alignment[2, 0] == 0 and (alignment[2, 1:] > 0).all()
    over = results["ffn_alignment_over_chance"][2]
    assert over == pytest.approx(alignment[2, 1:].mean() / results["chance"], rel=1e-3)
    assert "Kernels of zeros (L2 1, L3 6) have no directions" in (tmp_path / "out" / "two_output.md").read_text()
    line = fails(
        script, capsys, "2.py", "--model", path, "--out", tmp_path / "again", "--device", "cpu", "--layer", "3"
    )
    assert "all attention kernels of that layer are zero" in line
