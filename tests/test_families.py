"""Every family's row against its running model: a layer rebuilt from the streamed weights does what the real layer does.

One token at position 0: no rotation, and attention returns the token's own value. Biases are zeroed, since no row holds them.
"""

import pytest
import torch
from conftest import FAMILIES, SMALL, random_model
from transformers import AutoModelForCausalLM
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import utils
from lab import checkpoints, families
from lab.families import OF_KERNELS

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def test_every_row_is_tested():
    assert FAMILIES.keys() == families.FAMILIES.keys()


@pytest.fixture(scope="module")
def looked_at():
    """Queries and keys as every layer's attention gets them, (heads, dh), filled by a model with this attention."""
    seen = []

    def attention(module, query, key, value, mask, **_):
        seen.append((query[0, :, 0], key[0, :, 0]))
        repeats = query.shape[1] // value.shape[1]
        return value.repeat_interleave(repeats, 1).transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS.register("looked_at", attention)
    yield seen


def running(path):
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="looked_at")
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    return model.eval()


def streams_of(model) -> list[torch.Tensor]:
    """What each layer reads of a single token, and what the last one leaves, (d,) each."""
    layers, streams = model.base_model.layers, []
    hooks = [layer.register_forward_pre_hook(lambda _, args: streams.append(args[0][0, 0])) for layer in layers]
    hooks.append(layers[-1].register_forward_hook(lambda _, args, output: streams.append(output[0, 0])))
    with torch.no_grad():
        model(input_ids=torch.tensor([[5]]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return streams


def epsilon(config) -> float:
    return getattr(config, "rms_norm_eps", None) or config.layer_norm_eps


def normed(values, gain, config, centred: bool = False):
    """A norm of that gain; none where the family has none."""
    if gain is None:
        return values
    values = values - values.mean() if centred else values
    return values / (values.square().mean() + epsilon(config)).sqrt() * gain


def rebuilt(layer, config, stream, expert_weights):
    """The layer's output for one token, from its weights alone."""
    heads, groups = (
        config.num_attention_heads,
        getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
    )
    value = (layer.value @ normed(stream, layer.attention_gain, config, layer.centred)).view(groups, -1)
    attended = layer.output @ value.repeat_interleave(heads // groups, 0).flatten()
    middle = stream + normed(attended, layer.attention_out_gain, config)
    read = stream if getattr(config, "use_parallel_residual", False) else middle
    read = normed(read, layer.ffn_gain, config, layer.centred)
    activation = ACT2FN[getattr(config, "hidden_activation", None) or config.hidden_act]
    neurons = activation(layer.up @ read) if layer.gate is None else activation(layer.gate @ read) * (layer.up @ read)
    return middle + normed(layer.down @ (neurons * expert_weights(read)), layer.ffn_out_gain, config)


def expert_weights(module, config):
    """How much each neuron counts for one token: the router's weight of its expert; 1 where there are no experts."""
    if not hasattr(module.mlp, "experts"):
        return lambda read: 1.0

    def weights(read):
        shares = (module.mlp.gate.weight @ read).softmax(-1)
        chosen = shares >= shares.topk(config.num_experts_per_tok).values[-1]
        shares = shares * chosen
        shares = shares / shares.sum() if config.norm_topk_prob else shares
        weights = shares.repeat_interleave(config.moe_intermediate_size)
        if hasattr(module.mlp, "shared_expert"):
            shared = (module.mlp.shared_expert_gate.weight @ read).sigmoid()
            weights = torch.cat([weights, shared.expand(config.shared_expert_intermediate_size)])
        return weights

    return weights


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_rebuilt_from_its_weights_is_the_running_layer(families, looked_at, family):
    folder, model = checkpoints.find_model(str(families[family])), running(families[family])
    streams = streams_of(model)
    layers = list(checkpoints.stream_layers(folder))
    assert len(layers) == folder.layers == len(streams) - 1
    with torch.no_grad():
        for index, layer in enumerate(layers):
            weights = expert_weights(model.base_model.layers[index], model.config)
            expected = rebuilt(layer, model.config, streams[index], weights)
            torch.testing.assert_close(expected, streams[index + 1], **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_folded_kernels_are_what_attention_multiplies(families, looked_at, family):
    """Queries and keys of one token are the folded factors times the stream, up to the norms' positive scale."""
    looked_at.clear()
    folder, model = checkpoints.find_model(str(families[family])), running(families[family])
    streams = streams_of(model)
    assert len(looked_at) == folder.layers
    for layer, stream, seen in zip(checkpoints.stream_layers(folder), streams, looked_at):
        factors = utils.kernel_factors(layer, folder.head_width, fold_norm=True)
        scale = stream.var(correction=0) if layer.centred else stream.square().mean()
        scale = 1.0 if layer.attention_gain is None else (scale + epsilon(model.config)).sqrt()
        for factor, vectors, gain in zip(factors, seen, (layer.query_gain, layer.key_gain)):
            found = (factor @ stream.double()) / scale
            assert found.shape == vectors.shape
            if gain is not None:
                found, vectors = (torch.nn.functional.normalize(part, dim=-1) for part in (found, vectors))
            torch.testing.assert_close(found.float(), vectors.detach().float(), **CLOSE)


def test_the_language_model_of_one_that_also_sees(tmp_path):
    """Gemma 3 from 4B on: a vision tower has layers of its own, with projections of the same names."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {name: value for name, value in SMALL.items() if name != "max_position_embeddings"} | FAMILIES[
        "gemma3_text"
    ][1]
    seeing = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    image = {"image_size": 28, "patch_size": 14}
    tokens = {"image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7, "mm_tokens_per_image": 4}
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=seeing | image, **tokens))
    model.save_pretrained(tmp_path)
    folder = checkpoints.find_model(str(tmp_path))
    layers = model.get_decoder().layers
    assert folder.layers == len(layers) == 5
    for layer, module in zip(checkpoints.stream_layers(folder), layers):
        assert torch.equal(layer.query, module.self_attn.q_proj.weight)
        assert torch.equal(layer.ffn_gain, 1 + module.pre_feedforward_layernorm.weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_what_is_wanted_is_read(families, monkeypatch, family):
    folder, read, names = checkpoints.find_model(str(families[family])), checkpoints.ModelFolder.read, []
    whole = vars(checkpoints.read_layer(folder, 1))
    monkeypatch.setattr(checkpoints.ModelFolder, "read", lambda *asked: names.append(asked[2]) or read(*asked))
    part = vars(checkpoints.read_layer(folder, 1, OF_KERNELS))
    for role in OF_KERNELS:
        assert part[role] is whole[role] is None or torch.equal(part[role], whole[role])
    assert [part[role] for role in ("output", "gate", "up", "down", "ffn_gain")] == [None] * 5
    assert not [name for name in names if "mlp" in name or "o_proj" in name or "attention.dense" in name]


def test_gains_are_added_to_as_the_running_model_adds_in_float32(tmp_path):
    path = random_model(tmp_path / "gemma", "gemma3_text")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.normal_(0, 0.3)
    model.save_pretrained(path)
    layer = next(checkpoints.stream_layers(checkpoints.find_model(str(path))))
    norm = model.model.layers[0].input_layernorm
    assert torch.equal(layer.attention_gain, 1 + norm.weight.data.float())
    assert not torch.equal(layer.attention_gain, (1 + norm.weight.data).float())
