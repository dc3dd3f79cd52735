"""Model folders in the hub's layouts, the running model's weights, batched generation, and streams, on real classes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gguf
import pytest
import torch
import transformers
from conftest import FAMILIES, random_model
from gguf_files import write_gguf
from safetensors.torch import load_file, save_file

import utils
from lab import checkpoints, kept, models, questions, runs, tensors, twins

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
WHOLE_BLOCKS = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96}  # Q8_0 stores 32 values together
IN_GGUF = {  # what transformers assumes of a family's GGUF files, since llama.cpp's names for it are not in its table
    "qwen2": {},
    "qwen3": {"head_dim": 128},
    "llama": {},
    "gemma2": {},
    "gemma3_text": {},
    "phi3": {},
    "qwen3_moe": {"head_dim": 128, "moe_intermediate_size": 768, "norm_topk_prob": True, "num_hidden_layers": 2},
}


def stored(folder: checkpoints.ModelFolder, name: str, parameter: torch.Tensor) -> torch.Tensor:
    """A parameter as the stream of the folder's tensors has it; experts, which run in one tensor, are stored one by one."""
    for saved in (name, name.replace("lm_head", "embed_out")):  # as Pythia's files call it
        if saved in folder.tensors.files:
            return folder.tensors.read(saved)
    layer, _, kind = name.partition(".experts.")
    parts = [
        [folder.tensors.read(f"{layer}.experts.{expert}.{role}_proj.weight") for role in kind[:-5].split("_")]
        for expert in range(len(parameter))
    ]
    return torch.stack([torch.cat(own) for own in parts])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_running_model_has_the_weights_that_are_streamed(families, family):
    folder = checkpoints.find_model(str(families[family]))
    model, _ = models.load_model(folder, CPU, torch.float32)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, stored(folder, name, parameter)), name


@pytest.mark.parametrize("family", IN_GGUF)
def test_a_gguf_file_is_the_model_that_it_was_made_of(tmp_path, family):
    """Weights that no block rounds: the same model, through names, row orders and norms of llama.cpp's own."""
    source = random_model(tmp_path / "source", family, **WHOLE_BLOCKS | IN_GGUF[family])
    folder = checkpoints.find_model(str(write_gguf(tmp_path / "model.gguf", source, "F32")))
    model, tokenizer = models.load_model(folder, CPU, torch.float32)
    original, own_tokenizer = models.load_model(checkpoints.find_model(str(source)), CPU, torch.float32)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, stored(folder, name, parameter)), name
        torch.testing.assert_close(parameter, original.get_parameter(name), rtol=0, atol=1e-6)  # 1 added and taken off
    text = "Question: Tom has 4 apples.\nAnswer: 五"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids.tolist() == own_tokenizer(text, return_tensors="pt")["input_ids"].tolist()
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, original(ids).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma3_text"])
def test_quantised_weights_run_as_they_are_streamed(tmp_path, capfd, family, kind):
    source = random_model(tmp_path / "source", family, **WHOLE_BLOCKS)
    folder = checkpoints.find_model(str(write_gguf(tmp_path / "model.gguf", source, kind)))
    assert folder.tensors.quantisation.startswith(f"{kind} (")
    capfd.readouterr()
    model, _ = models.load_model(folder, CPU, torch.float32)
    assert capfd.readouterr() == ("", "")
    original = load_file(source / "model.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, folder.tensors.read(name)), name
        torch.testing.assert_close(parameter.data, original[name], rtol=0, atol=0.01)
    assert not torch.equal(model.get_decoder().embed_tokens.weight, original["model.embed_tokens.weight"])
    assert model.hf_quantizer is None and not hasattr(model.config, "quantization_config")
    assert model.to(torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "found, line",
    [
        ({"missing_keys": {"model.norm.weight"}}, "model.norm.weight is missing, and would be random"),
        ({"unexpected_keys": {"a.bias", "b.bias"}}, r"a.bias \(and 1 more\) has no place in the configured model"),
        (
            {"mismatched_keys": {("a.weight", (2, 3), (3, 3))}},
            r"a.weight has shape \(2, 3\), the configuration says \(3",
        ),
    ],
)
def test_a_loader_that_keeps_or_drops_other_weights_is_believed(small, monkeypatch, found, line):
    real = transformers.AutoModelForCausalLM.from_pretrained

    def otherwise(*args, **kwargs):
        model, info = real(*args, **kwargs)
        return model, info | found

    folder = checkpoints.find_model(str(small))
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", otherwise)
    with pytest.raises(runs.UserError, match=line):
        models.load_model(folder, CPU, torch.float32)


def test_what_does_not_load_is_one_line_and_no_memory_is_no_bad_file(small, monkeypatch):
    folder = checkpoints.find_model(str(small))
    for error, expected in (
        (RuntimeError("first\nsecond"), runs.UserError),
        (KeyError("x"), runs.UserError),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
    ):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
        with pytest.raises(expected) as caught:
            models.load_model(folder, CPU, torch.float32)
        assert "\n" not in str(caught.value)


def test_attention_logits_at_distance_zero_are_the_kernel(families):
    """The kernel is what attention computes: query and key of the same token, no rotation, biases taken off."""
    folder = checkpoints.find_model(str(families["qwen2"]))
    model, _ = models.load_model(folder, CPU, torch.float32)
    attention, norm = model.model.layers[2].self_attn, model.model.layers[2].input_layernorm
    stream = torch.randn(1, folder.width)
    normed = norm(stream)
    query = (attention.q_proj(normed) - attention.q_proj.bias).view(folder.heads, -1).double()
    key = (attention.k_proj(normed) - attention.k_proj.bias).view(folder.groups, -1).double()
    layer = list(checkpoints.stream_layers(folder))[2]
    factors = utils.kernel_factors(layer, folder.head_width, fold_norm=True)
    scaled = (stream / stream.square().mean().add(model.config.rms_norm_eps).sqrt()).double()[0]
    for head in range(folder.heads):
        group = head // (folder.heads // folder.groups)
        kernel = factors[0][head].T @ factors[1][group]
        assert (scaled @ kernel @ scaled).item() == pytest.approx((query[head] @ key[group]).item(), abs=1e-5)


def test_sharded_and_single_checkpoints_are_the_same(small, tmp_path):
    sharded = random_model(tmp_path / "sharded", shards="100KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    for one, other in zip(
        checkpoints.stream_layers(checkpoints.find_model(str(small))),
        checkpoints.stream_layers(checkpoints.find_model(str(sharded))),
    ):
        assert torch.equal(one.query, other.query)
        assert torch.equal(one.down, other.down)


def test_tied_and_headless_checkpoints(tmp_path):
    tied = random_model(tmp_path / "tied", tie_word_embeddings=True)
    folder = checkpoints.find_model(str(tied))
    assert "lm_head.weight" not in folder.tensors.files
    model, _ = models.load_model(folder, CPU, torch.float32)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    tensors = {name.removeprefix("model."): value for name, value in load_file(tied / "model.safetensors").items()}
    save_file(tensors, tied / "model.safetensors", metadata={"format": "pt"})  # a base model's names
    assert torch.equal(
        next(checkpoints.stream_layers(checkpoints.find_model(str(tied)))).query,
        tensors["layers.0.self_attn.q_proj.weight"],
    )


def test_identity_sees_weights_configuration_and_tokenizer(small, tmp_path):
    first = checkpoints.find_model(str(small)).identity
    copy = random_model(tmp_path / small.name)
    assert checkpoints.find_model(str(copy)).identity == first
    other = checkpoints.find_model(str(random_model(tmp_path / "other", seed=1))).identity
    assert other["weights_hash"] != first["weights_hash"]
    assert other["config_hash"] == first["config_hash"]
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    (copy / "tokenizer_config.json").write_text("{}")
    changed = checkpoints.find_model(str(copy)).identity
    assert changed["config_hash"] != first["config_hash"]
    assert changed["tokenizer_hash"] != first["tokenizer_hash"]
    assert changed["weights_hash"] == first["weights_hash"]


def test_the_hub_cache_is_read_without_network(small, tmp_path):
    """A snapshot in the hub's own cache layout: links into blobs, a ref to a commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--small"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for file in small.iterdir():
        blob = repository / "blobs" / runs.file_hash(file)
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "1.py", "--model", "someone/small", "--out", str(tmp_path / "out"), "--device", "cpu"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    model = json.loads((tmp_path / "out" / "one_results.json").read_text())["model"]
    local = checkpoints.find_model(str(small)).identity
    assert model["name"] == "someone/small"
    assert model["revision"] == commit
    assert model["weights_hash"] == local["weights_hash"]
    missing = subprocess.run(
        [*command, "--revision", "no-such"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert missing.returncode == 2
    assert "someone/small at no-such" in missing.stderr


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text", "gpt_neox"])
def test_generation_does_not_depend_on_batch_and_padding(small, families, family):
    model, tokenizer = models.load_model(checkpoints.find_model(str(families[family])), CPU, torch.float32)
    languages = questions.load_languages(["en", "zh"])
    problems = questions.load_problems([small / "problems.jsonl"], ["en", "zh"], limit=6)
    prompts = [questions.prompt_text(problem, language, languages) for problem in problems for language in languages]
    assert len({len(tokenizer(prompt)["input_ids"]) for prompt in prompts}) > 3
    together = models.generate(model, tokenizer, prompts, 6, batch=12)
    assert together == models.generate(model, tokenizer, prompts, 6, batch=1)
    assert together == models.generate(model, tokenizer, prompts, 6, batch=5)
    # against a plain loop over full forward passes, without padding, cache or generate()
    ids = tokenizer(prompts[0], return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    for _ in range(6):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
        if ids[0, -1] == model.generation_config.eos_token_id:
            break
    assert models.first_text_line(tokenizer.decode(ids[0, start:], skip_special_tokens=True)) == together[0]


def test_generation_stops_after_the_first_line_of_text_and_keeps_within_the_context(small):
    assert models.first_text_line(" five\n\nQuestion: x") == " five"
    assert models.first_text_line("\n\n five\nmore") == "\n\n five"
    assert models.first_text_line("five") == "five"
    folder = checkpoints.find_model(str(small))
    model, tokenizer = models.load_model(folder, CPU, torch.float32)
    ended = models.text_ended(tokenizer, 2, range(3), models.line_ended)
    rows = [tokenizer(text)["input_ids"] for text in ("5 5 five\n\n", "5 5 five six", "5 5\n\n five")]
    width = max(map(len, rows))
    tokens = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    stops = [
        bool(models.text_ended(tokenizer, 0, [index], models.line_ended)(tokens[index : index + 1], None))
        for index in range(3)
    ]
    assert stops == [True, False, True]
    assert ended(tokens, None).shape == (3,)
    asked, going_on = [], [torch.arange(9 * step).view(3, -1) for step in (1, 2, 3)]
    once = models.text_ended(tokenizer, 0, [4, 5, 6], lambda index, _: asked.append(index) or len(asked) in (1, 3))
    assert [once(tokens, None).tolist() for tokens in going_on] == [[True, False, True]] * 3
    assert asked == [4, 5, 6, 5, 5]  # what has ended is not read again
    with pytest.raises(runs.UserError, match="512 positions"):
        models.generate(model, tokenizer, ["five " * 600], 4, batch=1)


def test_a_checkpoints_own_repetition_penalty_is_not_used(tmp_path):
    path = random_model(tmp_path / "penalty")
    (path / "generation_config.json").write_text(
        json.dumps({"repetition_penalty": 5.0, "temperature": 0.1, "eos_token_id": 0})
    )
    model, _ = models.load_model(checkpoints.find_model(str(path)), CPU, torch.float32)
    assert model.generation_config.repetition_penalty in (None, 1.0)
    assert not model.generation_config.do_sample


def test_qwen25_3b_is_recognised_by_its_shape(small):
    folder = checkpoints.find_model(str(small))
    assert not folder.is_qwen25_3b
    for key, value in checkpoints.QWEN25_3B_SHAPE.items():
        setattr(folder.config, key, value)
    assert folder.is_qwen25_3b
    folder.config.vocab_size = 151665
    assert not folder.is_qwen25_3b


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_generates_what_the_cpu_does_in_float32(small):
    folder = checkpoints.find_model(str(small))
    outputs = []
    for device in ("cpu", "cuda"):
        model, tokenizer = models.load_model(folder, torch.device(device), torch.float32)
        outputs.append(models.generate(model, tokenizer, ["Question: 5 + 5 = ?\nAnswer:"] * 3, 6, batch=2))
    assert outputs[0] == outputs[1]


def test_what_is_free_is_what_the_container_leaves(tmp_path, monkeypatch):
    machine = 8 * 2**30
    monkeypatch.setattr(kept.psutil, "virtual_memory", lambda: SimpleNamespace(available=machine))
    monkeypatch.setattr(kept, "CONTAINERS", [(tmp_path, "memory.max", "memory.current")])
    assert kept.free_memory() == machine
    for limit, free in (("max", machine), (str(3 * 2**30), 2 * 2**30), (str(2**60), machine)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{2**30}\n")
        assert kept.free_memory() == free


@pytest.mark.parametrize("room", [True, False], ids=["memory for a copy", "none"])
def test_a_model_is_loaded_once_inside_and_has_its_own_weights_once_it_was_spent(small, families, room, monkeypatch):
    if not room:
        monkeypatch.setattr(kept.psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    folder, other = (checkpoints.find_model(str(path)) for path in (small, families["llama"]))
    assert models.load_model(folder, CPU, torch.float32)[0] is not models.load_model(folder, CPU, torch.float32)[0]
    with kept.loaded():
        model, tokenizer = models.load_model(folder, CPU, torch.float32)
        assert models.load_model(folder, CPU, torch.float32) == (model, tokenizer)
        assert models.load_model(folder, CPU, torch.bfloat16)[0].dtype == torch.bfloat16
        again, same = models.load_model(folder, CPU, torch.float32)
        assert again is not model and same is tokenizer
        own = {name: tensor.clone() for name, tensor in kept.weights(again).items()}
        for _ in twins.make_twins(again, 0, 2, count=1):
            assert not all(torch.equal(tensor, own[name]) for name, tensor in again.named_parameters())
        third, same = models.load_model(folder, CPU, torch.float32)
        assert (third is again) == room and same is tokenizer
        assert all(torch.equal(tensor, own[name]) for name, tensor in kept.weights(third).items())
        assert models.load_model(other, CPU, torch.float32)[1] is not tokenizer
    assert not kept._kept


@pytest.mark.parametrize("scope", ["last", "prefill", "all"])
def test_an_edit_reaches_its_scope_and_leaves_no_hook(small, scope):
    """Passes of a prompt of five tokens and of one new token, against the same edit written as a plain hook."""
    model, _ = models.load_model(checkpoints.find_model(str(small)), CPU, torch.float32)
    prompt, new = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[4]])
    seen = []

    def doubled(stream):
        seen.append(stream.shape[1])
        return 2 * stream

    with torch.no_grad(), models.edited_stream(model, {2: doubled}, scope):
        edited = model(prompt, use_cache=False).logits
        again = model(new, use_cache=False).logits
    assert seen == {"last": [1], "prefill": [5], "all": [5, 1]}[scope]
    plain = []

    def double(_, args):
        plain.append(0)
        stream = args[0].clone()
        if len(plain) == 1:
            stream[:, -1 if scope == "last" else 0 :] *= 2
        elif scope == "all":
            stream *= 2
        return (stream, *args[1:])

    hook = model.model.layers[2].register_forward_pre_hook(double)
    with torch.no_grad():
        assert torch.equal(edited, model(prompt, use_cache=False).logits)
        assert torch.equal(again, model(new, use_cache=False).logits)
    hook.remove()
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_ends_at_the_last_captured_site(families, family):
    model, _ = models.load_model(checkpoints.find_model(str(families[family])), CPU, torch.float32)
    ids, ran = torch.tensor([[5, 6, 7]]), []
    modules = models.site_modules(model)
    assert len(modules) == 6
    hook = modules[3].register_forward_hook(lambda *_: ran.append(3))
    with torch.no_grad():
        with models.captured_sites(model, (0, 3)) as streams:
            model(ids, use_cache=False)
        assert not ran and sorted(streams) == [0, 3]
        with models.captured_sites(model, range(6)) as streams:
            model(ids, use_cache=False)
        whole = model(ids, use_cache=False, output_hidden_states=True)
        hook.remove()
        assert ran
        for site in range(5):
            assert torch.equal(streams[site], whole.hidden_states[site])
        assert torch.equal(modules[5](streams[5]), whole.hidden_states[5])
        assert torch.equal(models.logits(model, whole.hidden_states[5]), whole.logits)
    with pytest.raises(LookupError), models.captured_sites(model, (2,)):
        raise LookupError  # only the pass's own end is swallowed
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_generation_ends_where_the_caller_says_for_each_prompt(small):
    """The text is whole, unlike the first line that is the default, and no row is cut by another's end."""
    model, tokenizer = models.load_model(checkpoints.find_model(str(small)), CPU, torch.float32)
    prompts = ["Question: 5 + 5 = ?\nAnswer:", "Question: 4\nAnswer:"]
    whole = models.generate(model, tokenizer, prompts, 8, 2, ended=lambda *_: False)
    assert models.generate(model, tokenizer, prompts, 8, 2) == [models.first_text_line(text) for text in whole]
    seen = []

    def ended(index: int, text: str) -> bool:
        seen.append((index, text))
        return index == 1 and len(text) >= len(whole[1]) // 2

    cut = models.generate(model, tokenizer, prompts, 8, 2, ended=ended)
    assert cut[0] == whole[0]
    assert whole[1].startswith(cut[1]) and len(cut[1]) < len(whole[1])
    assert {index for index, _ in seen} == {0, 1}


def test_a_gguf_file_is_parsed_once_and_again_when_it_changes(tmp_path, monkeypatch):
    """A vocabulary of a quarter million takes ten seconds each time; transformers alone would ask for it three times."""
    source = random_model(tmp_path / "source", "qwen2", **WHOLE_BLOCKS)
    file, parsed = write_gguf(tmp_path / "model.gguf", source), []
    monkeypatch.setattr(tensors, "HeaderReader", lambda path: parsed.append(path) or gguf.gguf_reader.GGUFReader(path))
    for _ in range(2):
        models.load_model(checkpoints.find_model(str(file)), CPU, torch.float32)
    assert parsed == [file]
    other = random_model(tmp_path / "other", "qwen2", seed=1, **WHOLE_BLOCKS)
    write_gguf(file, other, "F32")
    query = next(checkpoints.stream_layers(checkpoints.find_model(str(file)))).query
    assert torch.equal(query, next(checkpoints.stream_layers(checkpoints.find_model(str(other)))).query)
    assert parsed == [file, file]
    assert gguf.GGUFReader is not tensors.read_gguf
