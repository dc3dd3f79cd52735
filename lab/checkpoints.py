"""Checkpoints on disk: finding one, its configuration, and its weights streamed one layer at a time.

A weight matrix is stored as PyTorch's Linear has it, (out, in). Letters: L layers, d width, h query heads, g KV groups, dh
head width.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lab import runs

# these name their projections alike, and scale the normed stream by the gain itself (Gemma's is 1 + gain)
SUPPORTED_MODELS = ("qwen2", "qwen3", "llama", "mistral")
NARROW = 512  # up to this width the matrices are so small that a second CPU thread costs more than it brings
QWEN25_3B_SHAPE = {
    "model_type": "qwen2",
    "num_hidden_layers": 36,
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "intermediate_size": 11008,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class ModelFolder:
    """A checkpoint on disk: local, or the hub's snapshot of it."""

    name: str  # as reports show it: hub name, or the folder's own name
    path: Path
    revision: str | None  # the snapshot's commit; None for a local folder
    config: object  # transformers' config
    files: dict  # tensor name -> safetensors file

    @property
    def layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def heads(self) -> int:
        return self.config.num_attention_heads

    @property
    def groups(self) -> int:
        return getattr(self.config, "num_key_value_heads", None) or self.heads

    @property
    def width(self) -> int:
        return self.config.hidden_size

    @property
    def head_width(self) -> int:
        return getattr(self.config, "head_dim", None) or self.width // self.heads

    @property
    def is_qwen25_3b(self) -> bool:
        """Whether the configuration has Qwen2.5-3B's shape: the recipe's recorded numbers are about that model."""
        return all(getattr(self.config, key, None) == value for key, value in QWEN25_3B_SHAPE.items())

    @cached_property
    def identity(self) -> dict:
        """What makes two runs comparable: name, revision and hashes of config, tokenizer and weights."""
        config = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        config = {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")}
        names = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json")
        tokenizer = [runs.file_hash(self.path / name) for name in names if (self.path / name).exists()]
        weights = [runs.file_hash(file) for file in sorted(set(self.files.values()))]
        return {
            "name": self.name,
            "revision": self.revision,
            "config_hash": runs.short_hash(config),
            "tokenizer_hash": runs.short_hash(tokenizer) if tokenizer else None,
            "weights_hash": runs.short_hash(weights),
        }


def find_model(name: str, revision: str | None = None) -> ModelFolder:
    """Locate a checkpoint (downloading it from the hub where needed) without building the model.

    Raises UserError for an unknown model, pickled weights, truncated files and unsupported architectures.
    """
    from transformers import AutoConfig

    path = Path(name)
    if path.is_dir():
        if revision:
            raise runs.UserError(
                f"--revision {revision}: {name} is a local folder, which has no revisions; leave it out"
            )
        shown, commit = runs.shown_name(name), None
    elif path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise runs.UserError(
            f"--model {name}: no such folder; give a local folder or a hub name such as {runs.DEFAULT_MODEL}"
        )
    else:
        path = hub_snapshot(name, revision)
        shown, commit = name, path.name
    if not (path / "config.json").exists():
        raise runs.UserError(f"{path}: no config.json; --model needs a folder as save_pretrained writes it")
    try:
        config = AutoConfig.from_pretrained(path)
    except Exception as error:  # a wrong type in it surfaces as one of several unrelated types
        raise runs.UserError(
            f"{path / 'config.json'} is not a usable configuration: {runs.first_line(error)}"
        ) from None
    files = tensor_files(path)
    if config.model_type not in SUPPORTED_MODELS or layer_name(files, 0, "self_attn.q_proj.weight") is None:
        raise runs.UserError(
            f"{shown}: architecture {config.model_type!r} lacks separate q_proj, k_proj and v_proj as known here; "
            f"supported: {', '.join(SUPPORTED_MODELS)}"
        )
    return ModelFolder(shown, path, commit, config, files)


@dataclass
class Opening:
    """What every measurement begins with."""

    report: runs.Report
    arguments: argparse.Namespace
    device: torch.device
    dtype: torch.dtype
    folder: ModelFolder
    settings: dict  # seed and device

    def run(self, handed: dict | None = None, **settings) -> runs.Run | None:
        """The run under these further settings, `handed` as `runs.Run` has it; None where its results are there already."""
        run = runs.Run(self.report, self.arguments, self.folder.identity, self.settings | settings, handed)
        return None if run.finished() else run


def begin(report: runs.Report, arguments: argparse.Namespace) -> Opening | None:
    """Device, dtype and model as the flags have them; None if --report-only was asked for, and is done."""
    if arguments.report_only:
        runs.render_again(arguments, report)
        return None
    device = runs.choose_device(arguments.device)
    folder = find_model(arguments.model or runs.DEFAULT_MODEL, arguments.revision)
    runs.check_owner(arguments.out, folder.identity)
    if device.type == "cpu" and folder.width <= NARROW:
        torch.set_num_threads(1)
    if device.type == "cpu" and arguments.device == "auto" and runs.processes()[0] == 0:
        print("warning: no CUDA device here, running on the CPU", file=sys.stderr)
    settings = {"seed": arguments.seed, "device": device.type}
    return Opening(report, arguments, device, runs.choose_dtype(arguments.dtype, device), folder, settings)


@dataclass(frozen=True)
class ChosenLayer:
    """The layer whose attention is looked at, and what chose it."""

    layer: int
    chosen: str  # by 1.py, whose verdict on it this is, or "given" by the user


def bottleneck_layer(arguments: argparse.Namespace, folder: ModelFolder) -> ChosenLayer:
    """--layer: a number in range, or with `auto` the bottleneck that 1.py found for this model with the same --fold-norm.

    Where 1.py found `no_bottleneck` it is the lowest inner layer all the same, which pages then call exploratory.
    """
    if arguments.layer != "auto":
        try:
            return ChosenLayer(runs.check_range("--layer", int(arguments.layer), 0, folder.layers - 1), "given")
        except ValueError:
            raise runs.UserError(f"--layer {arguments.layer} is neither auto nor a number") from None
    results = runs.load_results(arguments.out, "one", folder.identity)
    if results["settings"]["fold_norm"] != arguments.fold_norm:
        raise runs.UserError(
            f"{arguments.out / 'one_results.json'} has another --fold-norm: run 1.py alike, or give --layer"
        )
    return ChosenLayer(results["bottleneck"]["layer"], results["verdict"])


def hub_snapshot(name: str, revision: str | None) -> Path:
    """The local snapshot of a hub model: from the cache, or downloaded (safetensors and JSON only)."""
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:  # the hub's client raises a dozen unrelated types for "not found" and "no network"
        raise runs.UserError(
            f"--model {name}{f' at {revision}' if revision else ''} is neither in the local cache nor to be had from "
            f"the hub ({type(error).__name__}): check name and network, or give a local folder"
        ) from None


def tensor_files(path: Path) -> dict[str, Path]:
    """{tensor name: file} of a single or sharded safetensors checkpoint; reads headers only."""
    files = sorted(path.glob("*.safetensors"))
    index = path / "model.safetensors.index.json"
    if index.exists():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError):
            raise runs.UserError(f"{index} is damaged: download it again") from None
        files = [path / name for name in sorted(named)]
        for file in files:
            if not file.exists():
                raise runs.UserError(f"{file}: shard named in {index.name} is missing; download it again")
    if not files:
        pickled = [file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in sorted(path.glob(pattern))]
        held = f"holds {pickled[0]}, a pickle that could run code" if pickled else "holds no weights"
        raise runs.UserError(
            f"{path}: no safetensors ({held}); convert it where it is trusted with "
            "AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"
        )
    names = {}
    for file in files:
        with open_tensors(file) as tensors:
            names.update(dict.fromkeys(tensors.keys(), file))
    return names


def open_tensors(file: Path):
    """safe_open that names the damaged file in one line."""
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise runs.UserError(
            f"{file} is truncated or damaged ({runs.first_line(error)}): download or save it again"
        ) from None


def layer_name(files: dict, layer: int, suffix: str) -> str | None:
    """The full name of a layer's tensor: with or without the `model.` prefix of a causal language model."""
    names = (f"{prefix}layers.{layer}.{suffix}" for prefix in ("model.", ""))
    return next((name for name in names if name in files), None)


@dataclass
class LayerWeights:
    """One layer's matrices as stored, in the checkpoint's dtype; each field's metadata is the tensor's name."""

    query: torch.Tensor = field(metadata={"name": "self_attn.q_proj.weight"})  # (h * dh, d)
    key: torch.Tensor = field(metadata={"name": "self_attn.k_proj.weight"})  # (g * dh, d)
    value: torch.Tensor = field(metadata={"name": "self_attn.v_proj.weight"})  # (g * dh, d)
    output: torch.Tensor = field(metadata={"name": "self_attn.o_proj.weight"})  # (d, h * dh)
    gate: torch.Tensor = field(metadata={"name": "mlp.gate_proj.weight"})  # (d_ff, d)
    up: torch.Tensor = field(metadata={"name": "mlp.up_proj.weight"})  # (d_ff, d)
    down: torch.Tensor = field(metadata={"name": "mlp.down_proj.weight"})  # (d, d_ff)
    attention_gain: torch.Tensor = field(metadata={"name": "input_layernorm.weight"})  # (d,)
    ffn_gain: torch.Tensor = field(metadata={"name": "post_attention_layernorm.weight"})  # (d,)
    query_gain: torch.Tensor | None = field(metadata={"name": "self_attn.q_norm.weight"})  # (dh,), Qwen3
    key_gain: torch.Tensor | None = field(metadata={"name": "self_attn.k_norm.weight"})  # (dh,), Qwen3


def stream_layers(folder: ModelFolder) -> Iterator[LayerWeights]:
    """Layers 0..L-1, one in memory at a time."""
    return (read_layer(folder, layer) for layer in range(folder.layers))


def read_layer(folder: ModelFolder, layer: int) -> LayerWeights:
    """One layer's weights; files are mapped and unmapped again.

    Raises UserError that names the tensor for missing, misshapen, quantised or non-finite weights.
    """
    queries, keys, wide = folder.heads * folder.head_width, folder.groups * folder.head_width, folder.width
    inner, norm = folder.config.intermediate_size, (folder.head_width,)
    shapes = [(queries, wide), (keys, wide), (keys, wide), (wide, queries), (inner, wide), (inner, wide), (wide, inner)]
    shapes += [(wide,), (wide,), norm, norm]
    tensors = {}
    for part, shape in zip(fields(LayerWeights), shapes):
        name = layer_name(folder.files, layer, part.metadata["name"])
        if name is None and shape is not norm:
            missing = f"layers.{layer}.{part.metadata['name']}"
            raise runs.UserError(f"{folder.path}: tensor {missing} is missing; is the download complete?")
        tensors[part.name] = read_tensor(folder.files[name], name, shape) if name else None
    return LayerWeights(**tensors)


def read_tensor(file: Path, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """One checked tensor in its stored dtype."""
    with open_tensors(file) as tensors:
        tensor = tensors.get_tensor(name)
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise runs.UserError(
            f"{file}: {name} is {tensor.dtype}; quantised checkpoints are not supported, use the original"
        )
    if tuple(tensor.shape) != shape:
        raise runs.UserError(f"{file}: {name} has shape {tuple(tensor.shape)}, the configuration says {shape}")
    if not torch.isfinite(tensor).all():
        raise runs.UserError(f"{file}: {name} holds NaN or infinite values; download or save it again")
    return tensor
