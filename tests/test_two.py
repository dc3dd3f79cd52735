"""2.py against dense projectors, planted overlaps and random weights."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT, random_model
from safetensors.torch import load_file, save_file

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
        assert results["ffn"]["gate_top"][index] == pytest.approx(by_top, rel=1e-3)
    ratio = np.array(results["ffn_alignment_over_chance"])
    np.testing.assert_allclose(ratio, alignment.mean(1) / (k / folder.width), rtol=1e-3)


def test_random_weights_are_at_chance(script, small, tmp_path):
    results = run(script, small, tmp_path, "--k", "4")
    assert results["verdict"] == "ffn_at_chance"
    assert 0.8 < np.mean(results["ffn_alignment_over_chance"]) < 1.2
    held = {row["id"] for row in results["claims"] if row["holds"]}
    assert not held & {"ffn_below_chance", "ffn_special", "ffn_orthogonal", "approach"}
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


@pytest.mark.parametrize(("side", "verdict"), [("avoids", "ffn_avoids_attention"), ("shares", "ffn_shares_attention")])
def test_a_planted_ffn_alignment_is_found(script, tmp_path, side, verdict):
    def change(tensors):
        key = tensors["model.layers.2.self_attn.k_proj.weight"].double()
        _, _, rows = torch.linalg.svd(key, full_matrices=False)
        inside = rows.T @ rows
        name = "model.layers.2.mlp.gate_proj.weight"
        gate = tensors[name].double()
        gate = gate - gate @ inside if side == "avoids" else gate + gate @ inside
        tensors[name] = gate.float()

    path = planted(tmp_path, change)
    results = run(script, path, tmp_path / "out", "--layer", "2", "--k", "4")
    assert results["verdict"] == verdict
    holds = {row["id"]: row["holds"] for row in results["claims"]}
    assert holds["ffn_below_chance"] == holds["ffn_special"] == holds["ffn_orthogonal"] == (side == "avoids")


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
    results["ffn"]["haar"] = [{"p_low": 0.5, "p_high": 0.5}] * 36
    assert verdicts.two(results)["holds"]["ffn_value"] is True
    results["ffn_alignment_over_chance"][33] = 0.7
    assert verdicts.two(results)["holds"]["ffn_value"] is False
    assert verdicts.two(results)["holds"]["ffn_special"] is True


def test_the_page_takes_the_number_of_draws_from_the_file(script, small, tmp_path):
    results = run(script, small, tmp_path, "--k", "4")
    for null in results["ffn"]["haar"]:
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
