"""Model families: one row each says where a layer keeps its matrices, and what its norms do to the stream.

A weight matrix is held as PyTorch's Linear has it, (out, in). Letters: L layers, d width, h query heads, g KV groups, dh
head width, d_ff neurons of the FFN (of all experts together, where there are experts).

To add a family: a row in FAMILIES, and one in tests/conftest.py; the tests then compare it with its running model.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch


@dataclass
class LayerWeights:
    """One layer's matrices in the checkpoint's dtype, fused ones parted; None where the family has no such part."""

    query: torch.Tensor  # (h * dh, d)
    key: torch.Tensor  # (g * dh, d)
    value: torch.Tensor  # (g * dh, d)
    output: torch.Tensor  # (d, h * dh)
    gate: torch.Tensor | None  # (d_ff, d); None in an FFN without a gate
    up: torch.Tensor  # (d_ff, d)
    down: torch.Tensor  # (d, d_ff)
    attention_gain: torch.Tensor | None  # (d,) what the norm before attention multiplies by
    ffn_gain: torch.Tensor | None  # (d,) the same before the FFN
    query_gain: torch.Tensor | None  # (dh,), or (h * dh,) where all heads are normed together
    key_gain: torch.Tensor | None  # (dh,) or (g * dh,)
    attention_out_gain: torch.Tensor | None  # (d,) of the norm between attention and the stream that it writes to
    ffn_out_gain: torch.Tensor | None  # (d,) the same after the FFN
    centred: bool  # whether the norms subtract the mean over the width (LayerNorm)


ROLES = tuple(part.name for part in fields(LayerWeights) if part.name != "centred")
OF_KERNELS = ("query", "key", "attention_gain", "query_gain", "key_gain")
FUSED_ATTENTION, FUSED_FFN = ("query", "key", "value"), ("gate", "up")


@dataclass(frozen=True)
class Family:
    """Role -> the tensor's name below `layers.<number>.`; roles that share a name take the fused tensor's rows in turn."""

    names: dict[str, str]
    experts: dict[str, tuple[str, ...]] | None = (
        None  # role -> names, {} for an expert's number, in layers with experts
    )
    gain_offset: int = 0  # what the norms add to their weight
    centred: bool = False
    head_by_head: bool = False  # a fused tensor holds query, key and value of head 0, then of head 1, ...


SEPARATE = {
    "query": "self_attn.q_proj.weight",
    "key": "self_attn.k_proj.weight",
    "value": "self_attn.v_proj.weight",
    "output": "self_attn.o_proj.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}
NORMS_BEFORE = {"attention_gain": "input_layernorm.weight", "ffn_gain": "post_attention_layernorm.weight"}
NORMS_AFTER = {
    "attention_out_gain": "post_attention_layernorm.weight",
    "ffn_out_gain": "post_feedforward_layernorm.weight",
}
NORMS_AROUND = NORMS_BEFORE | {"ffn_gain": "pre_feedforward_layernorm.weight"} | NORMS_AFTER
QUERY_KEY_NORMS = {"query_gain": "self_attn.q_norm.weight", "key_gain": "self_attn.k_norm.weight"}
FUSED = (
    SEPARATE
    | dict.fromkeys(FUSED_ATTENTION, "self_attn.qkv_proj.weight")
    | dict.fromkeys(FUSED_FFN, "mlp.gate_up_proj.weight")
)
NEOX = {
    **dict.fromkeys(FUSED_ATTENTION, "attention.query_key_value.weight"),
    "output": "attention.dense.weight",
    "up": "mlp.dense_h_to_4h.weight",
    "down": "mlp.dense_4h_to_h.weight",
}
EXPERTS = {
    role: (f"mlp.experts.{{}}.{role}_proj.weight", f"mlp.shared_expert.{role}_proj.weight")
    for role in ("gate", "up", "down")
}

FAMILIES = {  # by transformers' model_type
    "qwen2": Family(SEPARATE | NORMS_BEFORE),
    "qwen3": Family(SEPARATE | NORMS_BEFORE | QUERY_KEY_NORMS),
    "llama": Family(SEPARATE | NORMS_BEFORE),
    "mistral": Family(SEPARATE | NORMS_BEFORE),
    "gemma2": Family(SEPARATE | NORMS_AROUND, gain_offset=1),
    "gemma3_text": Family(SEPARATE | NORMS_AROUND | QUERY_KEY_NORMS, gain_offset=1),
    "phi3": Family(FUSED | NORMS_BEFORE),  # Phi-3 and Phi-4
    "olmo2": Family(SEPARATE | NORMS_AFTER | QUERY_KEY_NORMS),
    "gpt_neox": Family(NEOX | NORMS_BEFORE, centred=True, head_by_head=True),  # Pythia
    "qwen2_moe": Family(SEPARATE | NORMS_BEFORE, EXPERTS),
    "qwen3_moe": Family(SEPARATE | NORMS_BEFORE | QUERY_KEY_NORMS, EXPERTS),
}


class Layers(Protocol):
    """A checkpoint's tensors, by their names below the layers."""

    def has(self, layer: int, name: str) -> bool: ...

    def read(self, layer: int, name: str) -> torch.Tensor: ...


def read_layer(family: Family, config, tensors: Layers, layer: int, wanted: Collection[str] = ROLES) -> LayerWeights:
    """One layer's weights, as the running model multiplies by them; None for roles that are not wanted.

    A role that is fused with a wanted one comes along.
    """
    parts: dict[str, torch.Tensor | None] = dict.fromkeys(ROLES)
    for name in dict.fromkeys(name for role, name in family.names.items() if role in wanted):
        roles = [role for role in ROLES if family.names.get(role) == name]
        if family.experts and roles[0] in family.experts and not tensors.has(layer, name):
            parts[roles[0]] = stacked_experts(family.experts[roles[0]], tensors, layer, dim=int(roles[0] == "down"))
            continue
        tensor = tensors.read(layer, name)
        parts |= zip(roles, [tensor] if len(roles) == 1 else parted(tensor, roles, family, config))
    for role in ROLES:
        if role.endswith("_gain") and parts[role] is not None and family.gain_offset:
            parts[role] = parts[role].float() + family.gain_offset  # as the running model adds it, whatever its dtype
    return LayerWeights(**parts, centred=family.centred)


def parted(tensor: torch.Tensor, roles: Sequence[str], family: Family, config) -> Sequence[torch.Tensor]:
    """A fused tensor's rows by role: all of one, then all of the next, or head by head."""
    if tuple(roles) == FUSED_FFN:
        return tensor.chunk(2)
    heads = config.num_attention_heads
    if family.head_by_head:
        return [part.flatten(0, 1) for part in tensor.unflatten(0, (heads, 3, -1)).unbind(1)]
    groups = getattr(config, "num_key_value_heads", None) or heads
    head_width = len(tensor) // (heads + 2 * groups)
    return tensor.split([heads * head_width, groups * head_width, groups * head_width])


def stacked_experts(names: Sequence[str], tensors: Layers, layer: int, dim: int) -> torch.Tensor:
    """All experts' matrices side by side along their neurons (`dim`), those of an expert that all tokens share last."""
    found = []
    for name in names:
        expert = 0
        while tensors.has(layer, name.format(expert)):
            found.append(tensors.read(layer, name.format(expert)))
            expert += 1
            if "{}" not in name:
                break
    return torch.cat(found, dim)
