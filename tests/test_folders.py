"""Checkpoints as people have them: which files count, and one line for everything that would not run as it is analysed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fails, random_model
from gguf_files import write_gguf
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import utils
from lab import checkpoints

UP = "model.layers.1.mlp.up_proj.weight"


def saved(path: Path, tensors: dict, name: str = "model.safetensors") -> None:
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    save_file(tensors, path / name, metadata={"format": "pt"})


def configured(path: Path, **changes) -> None:
    """Change config.json; None deletes nothing, it is written as null."""
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


def change_tensors(path: Path, change) -> None:
    tensors = load_file(path / "model.safetensors")
    saved(path, change(tensors) or tensors)


def gptq(tensors: dict) -> dict:
    kept = {name: tensor for name, tensor in tensors.items() if name != UP}
    return kept | {UP.replace("weight", "qweight"): torch.zeros(6, 80, dtype=torch.int32)}


def bitsandbytes(tensors: dict) -> dict:
    packed = {UP: torch.zeros(1920, 1, dtype=torch.uint8), f"{UP}.absmax": torch.zeros(60)}
    return tensors | packed | {f"{UP}.quant_state.bitsandbytes__nf4": torch.zeros(90, dtype=torch.uint8)}


TENSORS = {  # kind -> (what is done to the tensors, what the line says)
    "nan": (lambda found: found[UP].__setitem__((3, 4), torch.nan), f"{UP} holds NaN"),
    "missing": (lambda found: {n: t for n, t in found.items() if n != UP}, f"{UP} is missing, and would be random"),
    "unexpected": (
        lambda found: found | {"model.layers.1.mlp.up_proj.bias": torch.zeros(80)},
        "model.layers.1.mlp.up_proj.bias has no place in the configured model",
    ),
    "no readout": (
        lambda found: {n: t for n, t in found.items() if n != "lm_head.weight"},
        "lm_head.weight is missing",
    ),
    "shape": (lambda found: found | {UP: found[UP][:-1]}, "has shape (79, 48), the configuration says (80, 48)"),
    "integers": (lambda found: found | {UP: found[UP].to(torch.int8)}, f"{UP} is stored as I8; quantised weights"),
    "fp8": (lambda found: found | {UP: found[UP].to(torch.float8_e4m3fn)}, f"{UP} is stored as F8_E4M3; quantised"),
    "gptq": (gptq, "up_proj.qweight is part of a quantised matrix; quantised weights are not supported: use"),
    "bitsandbytes": (bitsandbytes, f"{UP} is stored as U8; quantised weights are not supported"),
    "compiled": (lambda found: {f"_orig_mod.{n}": t for n, t in found.items()}, "begins with '_orig_mod.'"),
    "data parallel": (lambda found: {f"module.{n}": t for n, t in found.items()}, "begins with 'module.'"),
    "empty tensor": (lambda found: found | {UP: torch.zeros(0, 48)}, f"{UP} is empty, of shape (0, 48)"),
    "no tensors": (lambda found: {"a": torch.zeros(1)}, "is missing, and would be random"),
    "fused": (
        lambda found: (
            {n: t for n, t in found.items() if "q_proj" not in n}
            | {"model.layers.0.self_attn.qkv_proj.weight": torch.zeros(2, 2)}
        ),
        "self_attn.q_proj.bias (and 3 more) is missing",
    ),
}
CONFIGURATIONS = {
    "vocabulary": ({"vocab_size": 700}, "lm_head.weight has shape (682, 48), the configuration says (700, 48)"),
    "heads": ({"num_attention_heads": 4}, "k_proj.bias has shape (16,), the configuration says (24,)"),
    "groups": ({"num_key_value_heads": 3}, "k_proj.bias has shape (16,), the configuration says (24,)"),
    "no groups": ({"num_key_value_heads": 0}, "describes no model that can be built from these weights"),
    "rope type": ({"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}}, "KeyError: 'spiral'"),
    "head_dim null": ({"head_dim": None}, "describes no model that can be built from these weights (TypeError"),
    "more layers": ({"num_hidden_layers": 3, "layer_types": None}, "is missing, and would be random"),
    "fewer layers": ({"num_hidden_layers": 1, "layer_types": None}, "has no place in the configured model"),
    "layer types": ({"num_hidden_layers": 3}, "config.json is not a usable configuration"),
    "another family's": ({"model_type": "llama"}, "self_attn.k_proj.bias (and 5 more) has no place"),
    "unknown family": ({"model_type": "gpt2"}, "architecture 'gpt2' is not known here; supported: qwen2, qwen3"),
    "invented family": ({"model_type": "qwen99"}, "config.json is not a usable configuration"),
    "wrong type": ({"hidden_size": "abc"}, "config.json is not a usable configuration"),
    "pad beyond": ({"pad_token_id": 999}, "Padding_idx must be within num_embeddings"),
    "named quantisation": ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "names awq quantisation"),
}


def rename(old: str, new: str):
    return lambda path: (path / old).rename(path / new)


FILES = {
    "truncated": (
        lambda path: (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-1000]),
        "model.safetensors is truncated or damaged",
    ),
    "pickle": (
        rename("model.safetensors", "pytorch_model.bin"),
        "pytorch_model.bin, a pickle that could run code: conv",
    ),
    "another name": (rename("model.safetensors", "weights.safetensors"), "it holds weights.safetensors, nobody loads"),
    "a GGUF folder": (rename("model.safetensors", "model-q4.gguf"), "it holds model-q4.gguf, give that file itself"),
    "adapter": (
        lambda path: (path / "adapter_config.json").write_text("{}"),
        "an adapter (adapter_config.json); merge",
    ),
    "no weights": (
        lambda path: (path / "model.safetensors").unlink(),
        "it holds no weights: is the download complete?",
    ),
    "damaged config": (
        lambda path: (path / "config.json").write_text("{"),
        "config.json is not a usable configuration",
    ),
    "no config": (lambda path: (path / "config.json").unlink(), "no config.json; --model needs what save_pretrained"),
    "lost shard": (
        lambda path: (
            (path / "model.safetensors").unlink(),
            (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}})),
        ),
        "gone.safetensors: shard named in model.safetensors.index.json is missing",
    ),
    "damaged index": (
        lambda path: (
            (path / "model.safetensors").unlink(),
            (path / "model.safetensors.index.json").write_text("[]"),
        ),
        "model.safetensors.index.json is damaged",
    ),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A folder to be copied and broken."""
    return random_model(tmp_path_factory.mktemp("sound"), num_hidden_layers=2)


def one_line(script, capsys, path: Path, out: Path) -> str:
    line = fails(script, capsys, "1.py", "--model", path, "--out", out, "--device", "cpu")
    assert not out.exists() or not any(out.iterdir())
    return line


@pytest.mark.parametrize("kind", TENSORS)
def test_odd_tensors_are_named(script, sound, tmp_path, capsys, kind):
    path = shutil.copytree(sound, tmp_path / "model")
    change, expected = TENSORS[kind]
    change_tensors(path, change)
    assert expected in one_line(script, capsys, path, tmp_path / "out")


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_configurations_that_do_not_fit_are_named(script, sound, tmp_path, capsys, kind):
    path = shutil.copytree(sound, tmp_path / "model")
    changes, expected = CONFIGURATIONS[kind]
    configured(path, **changes)
    assert expected in one_line(script, capsys, path, tmp_path / "out")


@pytest.mark.parametrize("kind", FILES)
def test_odd_files_are_named(script, sound, tmp_path, capsys, kind):
    path = shutil.copytree(sound, tmp_path / "model")
    change, expected = FILES[kind]
    change(path)
    assert expected in one_line(script, capsys, path, tmp_path / "out")


def query(path: Path) -> torch.Tensor:
    return next(checkpoints.stream_layers(checkpoints.find_model(str(path)))).query


def test_a_stray_file_does_not_count(sound, tmp_path):
    """A training run's own snapshots lie beside the model that runs."""
    path = shutil.copytree(sound, tmp_path / "model")
    other = {name: tensor + 1 for name, tensor in load_file(path / "model.safetensors").items()}
    saved(path, other, "model_step100.safetensors")
    assert torch.equal(query(path), query(sound))
    assert checkpoints.find_model(str(path)).files == [path / "model.safetensors"]
    identity = checkpoints.find_model(str(path)).identity
    assert identity["weights_hash"] == checkpoints.find_model(str(sound)).identity["weights_hash"]


def test_a_single_file_comes_before_an_index(sound, tmp_path):
    """A stale index, and its shards of other weights, from before the model was saved as one file."""
    path = random_model(tmp_path / "model", seed=1, shards="20KB", num_hidden_layers=2)
    assert (path / "model.safetensors.index.json").exists()
    assert not torch.equal(query(path), query(sound))
    shutil.copy(sound / "model.safetensors", path / "model.safetensors")
    assert torch.equal(query(path), query(sound))


def test_an_index_comes_before_strays(tmp_path):
    path = random_model(tmp_path / "model", shards="20KB", num_hidden_layers=2)
    expected = query(path)
    stray = {name: tensor + 1 for name, tensor in load_file(next(path.glob("model-00001*"))).items()}
    saved(path, stray, "model-00009-of-00009.safetensors")
    assert torch.equal(query(path), expected)


def test_a_file_that_the_configuration_names_comes_first(sound, tmp_path):
    path = shutil.copytree(sound, tmp_path / "model")
    other = {name: tensor + 1 for name, tensor in load_file(path / "model.safetensors").items()}
    saved(path, other, "better.safetensors")
    configured(path, transformers_weights="better.safetensors")
    assert torch.equal(query(path), query(sound) + 1)


def test_the_names_of_older_checkpoints_are_known(tmp_path):
    """Pythia's files hold masks that the model no longer has, and call the readout otherwise: transformers says that it fits."""
    path = random_model(tmp_path / "pythia", "gpt_neox")
    tensors = load_file(path / "model.safetensors")
    if "lm_head.weight" in tensors:
        tensors["embed_out.weight"] = tensors.pop("lm_head.weight")
    for layer in range(5):
        tensors[f"gpt_neox.layers.{layer}.attention.bias"] = torch.ones(1, 1, 9, 9, dtype=torch.bool)
        tensors[f"gpt_neox.layers.{layer}.attention.masked_bias"] = torch.tensor(-1e9)
    expected = query(path)
    saved(path, tensors)
    assert torch.equal(query(path), expected)


@pytest.mark.parametrize("readout", ["equal", "other", "none"])
def test_tied_is_what_the_running_model_is(tmp_path, readout):
    """transformers does not tie a readout that was saved with other values, whatever the configuration says."""
    path = random_model(tmp_path / "model", tie_word_embeddings=True)
    tensors = load_file(path / "model.safetensors")
    if readout != "none":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone() + (readout == "other")
    saved(path, tensors)
    model = AutoModelForCausalLM.from_pretrained(path)
    runs_tied = model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert checkpoints.find_model(str(path)).tied == runs_tied == (readout != "other")


def test_phase0_says_the_same(script, sound, tmp_path, capsys):
    """The check stands before everything, so that no script measures what another refuses."""
    path = shutil.copytree(sound, tmp_path / "model")
    change_tensors(path, TENSORS["unexpected"][0])
    for name in ("phase0_behavioral.py", "phase2_z_extraction.py", "hunt.py"):
        line = fails(script, capsys, name, "--model", path, "--out", tmp_path / "out", "--device", "cpu")
        assert TENSORS["unexpected"][1] in line


@pytest.fixture(scope="module")
def quantised(tmp_path_factory) -> Path:
    """A llama.cpp file of a Llama, whose queries and keys lie in another order there."""
    folder = random_model(tmp_path_factory.mktemp("llama"), "llama", num_hidden_layers=3, hidden_size=96)
    return write_gguf(folder / "model-q8.gguf", folder, "Q8_0")


def test_a_gguf_file_is_a_model_like_any_other(script, quantised, tmp_path):
    """1.py's ranks are those of the dequantised matrices by dense float64 algebra, and the page says the quantisation."""
    script("1.py").main(["--model", str(quantised), "--out", str(tmp_path), "--device", "cpu"])
    model = AutoModelForCausalLM.from_pretrained(quantised.parent, gguf_file=quantised.name)
    heads, ranks = np.load(tmp_path / "one_head_eff_rank.npy"), np.load(tmp_path / "one_weight_eff_rank.npy")
    for index, layer in enumerate(model.model.layers):
        query, key = (part.weight.detach().double() for part in (layer.self_attn.q_proj, layer.self_attn.k_proj))
        query, key = query.unflatten(0, (6, -1)), key.unflatten(0, (2, -1))
        for head in range(6):
            spectrum = torch.linalg.svdvals(query[head].T @ key[head // 3])
            assert heads[index, head] == pytest.approx(utils.effective_rank(spectrum).item(), rel=1e-6)
        up = torch.linalg.svdvals(layer.mlp.up_proj.weight.detach().double())
        assert ranks[index, 5] == pytest.approx(utils.effective_rank(up).item(), rel=1e-6)
    text = (tmp_path / "one_output.md").read_text()
    assert text.startswith("# Effective rank of model-q8.gguf\n")
    assert "**Weights.** Quantised, Q8_0 (" in text
    results = json.loads((tmp_path / "one_results.json").read_text())
    assert results["model"]["quantisation"].startswith("Q8_0 (")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5000])


def without_a_tensor(file: Path) -> None:
    """Its name changed in place, as long as before."""
    content = file.read_bytes()
    assert content.count(b"blk.1.ffn_up.weight") == 1
    file.write_bytes(content.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"))


def of_another_architecture(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content.replace(b"llama", b"lxxma"))


GGUF_DEFECTS = {
    "truncated": (cut, "is no usable GGUF file"),
    "no GGUF at all": (lambda file: file.write_bytes(b"GGML" + bytes(100)), "is no usable GGUF file"),
    "empty": (lambda file: file.write_bytes(b""), "is no usable GGUF file"),
    "a tensor lost": (without_a_tensor, "tensor model.layers.1.mlp.up_proj.weight is missing, and would be random"),
    "unknown architecture": (of_another_architecture, "lxxma"),
}


@pytest.mark.parametrize("kind", GGUF_DEFECTS)
def test_odd_gguf_files_are_named(script, quantised, tmp_path, capsys, kind):
    file = Path(shutil.copy(quantised, tmp_path / "model.gguf"))
    change, expected = GGUF_DEFECTS[kind]
    change(file)
    assert expected in one_line(script, capsys, file, tmp_path / "out")


def test_a_file_without_revisions_or_of_another_kind(script, quantised, sound, tmp_path, capsys):
    line = fails(script, capsys, "1.py", "--model", quantised, "--revision", "main", "--out", tmp_path)
    assert "is a local file, which has no revisions" in line
    line = fails(script, capsys, "1.py", "--model", sound / "model.safetensors", "--out", tmp_path)
    assert "a file, but no GGUF file; give its folder" in line
    line = fails(script, capsys, "1.py", "--model", tmp_path / "gone.gguf", "--out", tmp_path)
    assert "gone.gguf: no such folder or file" in line
