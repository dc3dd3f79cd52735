"""Small GGUF files for tests: a checkpoint folder written the way llama.cpp's converter does it."""

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file
from transformers import AutoConfig

ARCHITECTURES = {  # transformers' model_type -> llama.cpp's architecture
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "llama": gguf.MODEL_ARCH.LLAMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "qwen2_moe": gguf.MODEL_ARCH.QWEN2MOE,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
}
BLOCK = 32  # values of a row that Q8_0 stores together
CONTROL, NORMAL = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL


def write_gguf(path: Path, folder: Path, kind: str = "Q8_0", first: bool = False) -> Path:
    """A folder with one safetensors file as a GGUF file; `kind` (F32, F16, Q8_0) is that of matrices whose rows fit it.

    `first`: the file says that every text begins with the beginning-of-text token.
    """
    config = AutoConfig.from_pretrained(folder)
    architecture = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if kind == "F32" else gguf.LlamaFileType[f"MOSTLY_{kind}"])
    write_shape(writer, config)
    write_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")), config)
    writer.add_add_bos_token(first)
    table = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, values in stacked(load_file(folder / "model.safetensors")).items():
        module, _, ending = name.rpartition(".")
        values = as_llama_cpp_has_it(name, values, config)
        fits = values.ndim > 1 and (kind != "Q8_0" or values.shape[-1] % BLOCK == 0)
        stored = gguf.GGMLQuantizationType[kind if fits else "F32"]
        writer.add_tensor(f"{table.get_name(module)}.{ending}", gguf.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_shape(writer: gguf.GGUFWriter, config) -> None:
    """What llama.cpp's converter says of the model's shape."""
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_width)
    writer.add_value_length(head_width)
    writer.add_rope_dimension_count(head_width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rotary = config.rope_parameters
    writer.add_rope_freq_base(rotary.get("full_attention", rotary)["rope_theta"])
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if hasattr(config, "num_experts"):
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if getattr(config, "shared_expert_intermediate_size", None):
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)


def write_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict, config) -> None:
    """Vocabulary and merges of a byte-level tokenizer.json that splits text as Qwen2 does."""
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    vocabulary = tokenizer["model"]["vocab"] | special
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in special else NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.pad_token_id)


def stacked(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors, those of a layer's experts in one."""
    found, experts = {}, {}
    for name, values in tensors.items():
        before, _, after = name.partition(".experts.")
        if after:
            number, _, role = after.partition(".")
            experts.setdefault(f"{before}.experts.{role}", {})[int(number)] = values
        else:
            found[name] = values
    return found | {name: np.stack([own[number] for number in sorted(own)]) for name, own in experts.items()}


def as_llama_cpp_has_it(name: str, values: np.ndarray, config) -> np.ndarray:
    """Gemma's norms with the 1 that they add, Llama's queries and keys with both halves of a head taken in turn."""
    if config.model_type.startswith("gemma") and name.endswith("norm.weight"):
        return values + 1
    if config.model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        halves = values.reshape(heads, 2, -1, values.shape[-1])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
    if name.endswith("shared_expert_gate.weight"):
        return values[0]
    return values
