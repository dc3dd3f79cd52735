"""What scripts of the Z hunt share: command line, model folders, geometry, problems, answers, statistics, reports.

Conventions. A subspace is a matrix of orthonormal rows, (k, d). A weight matrix is stored as PyTorch's Linear has it,
(out, in), so its *right* singular vectors live on the side of the residual stream that it reads. The residual stream at
site s is the stream after s layers; `L33.in` is site 33, `L33.out` is site 34. Geometry is float64 inside.
Letters: L layers, d width, h query heads, g KV groups, dh head width.
"""

import argparse
import hashlib
import io
import json
import math
import os
import platform
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from scipy import stats

ROOT = Path(__file__).parent
SCRIPTS = {  # by the stem of what they write
    "one": "1.py",
    "two": "2.py",
    "phase0": "phase0_behavioral.py",
    "phase2": "phase2_z_extraction.py",
    "phase3": "phase3_patching.py",
    "phase3b": "phase3b_bridge.py",
    "ablation": "ablation.py",
    "hunt": "hunt.py",
}
DEFAULT_MODEL = "Qwen/Qwen2.5-3B"
SINK_FACTOR = 10  # a position whose norm exceeds this many medians of its prompt's is an attention sink
SHRINKAGE = 0.1  # share of a covariance that is spread evenly, where there are fewer vectors than dimensions
NARROW = 512  # up to this width the matrices are so small that a second CPU thread costs more than it brings
DEFAULT_EXEMPLARS = ROOT / "data" / "exemplars.jsonl"
# these name their projections alike, and scale the normed stream by the gain itself (Gemma's is 1 + gain)
SUPPORTED_MODELS = ("qwen2", "qwen3", "llama", "mistral")
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


class UserError(Exception):
    """Bad input or a missing file: one line that names the file, the value and the remedy. Exit status 2."""


# ---- command line ---------------------------------------------------------------------------------------------------


class OneLineParser(argparse.ArgumentParser):
    """Reports a wrong argument in one line instead of argparse's usage block."""

    def error(self, message: str):
        raise UserError(f"{message} (see {self.prog} --help)")


def command_line(description: str, asks_problems: bool = False) -> argparse.ArgumentParser:
    """The flags that every script shares; with `asks_problems` also those about problems."""
    title = description.strip().split("\n")[0]
    parser = OneLineParser(description=title, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="hub name or local folder")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="of the running model (1.py and 2.py run none and compute in float64); auto = bfloat16 on CUDA, float32 on CPU; "
        "float16 overflows in Qwen2.5",
    )
    parser.add_argument("--out", type=Path, default=Path("output"), help="folder for reports and arrays")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="measure again even if results are up to date")
    parser.add_argument("--report-only", action="store_true", help="write the report again from saved results")
    if asks_problems:
        parser.add_argument("--problems", nargs="+", type=Path, help="a JSONL file, or one MGSM TSV per language")
        parser.add_argument("--exemplars", type=Path, help="few-shot exemplars, JSONL")
        parser.add_argument("--languages", nargs="+", default=["en", "zh"])
        parser.add_argument("--limit", type=positive, help="use only the first problems")
        parser.add_argument("--batch", type=positive, default=16, help="prompts per forward pass")
    return parser


def positive(text: str) -> int:
    """argparse type: an integer ≥ 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def run_script(main: Callable[[], None]) -> None:
    """Call main; every foreseeable failure becomes one line on stderr and exit status 2."""
    try:
        main()
    except UserError as error:
        message = str(error)
    except KeyboardInterrupt:
        message = "interrupted; results already saved are intact"
    except (torch.OutOfMemoryError, MemoryError) as error:
        message = f"out of memory ({first_line(error)}): try --dtype bfloat16, a smaller --batch, or --device cpu"
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        message = f"out of memory ({first_line(error)}): try --dtype bfloat16 or a smaller --batch"
    else:
        return
    if processes()[0] == 0:
        print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]


def choose_device(name: str) -> torch.device:
    """The torch device for --device. Raises UserError for an unknown one or for CUDA where there is none."""
    if name == "auto" and torch.cuda.is_available():
        local = os.environ.get("LOCAL_RANK") if processes()[1] > 1 else None
        return torch.device("cuda" if local is None else f"cuda:{local}")
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name} is not a device; use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name} is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: {torch.cuda.device_count()} CUDA device(s) here; use --device cpu")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch dtype for --dtype: bfloat16 on CUDA and float32 on CPU unless named."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, name)


def processes() -> tuple[int, int]:
    """(rank, number of processes) under `accelerate launch`; (0, 1) for a script run by itself."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return state.process_index, state.num_processes


def own_batches(count: int, batch: int) -> range:
    """Where this process's batches of `count` things start: every process takes its turn, with batches of the same shape."""
    rank, number = processes()
    return range(rank * batch, count, number * batch)


def gathered(own: dict) -> dict:
    """The dictionaries of all processes in one, in the order of their keys; objects on the CPU."""
    if processes()[1] > 1:
        from accelerate.utils import gather_object

        own = {key: value for part in gather_object([own]) for key, value in part.items()}
    return dict(sorted(own.items()))


# ---- model folders and streamed weights -----------------------------------------------------------------------------


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
        tokenizer = [file_hash(self.path / name) for name in names if (self.path / name).exists()]
        weights = [file_hash(file) for file in sorted(set(self.files.values()))]
        return {
            "name": self.name,
            "revision": self.revision,
            "config_hash": short_hash(config),
            "tokenizer_hash": short_hash(tokenizer) if tokenizer else None,
            "weights_hash": short_hash(weights),
        }


def file_hash(path: Path) -> str:
    """SHA-256 of a file; the hub's cache already names its large blobs so."""
    blob = path.resolve().name
    if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", blob):
        return blob
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def short_hash(value: object) -> str:
    """First 16 hex digits of the SHA-256 of the value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def find_model(name: str, revision: str | None = None) -> ModelFolder:
    """Locate a checkpoint (downloading it from the hub where needed) without building the model.

    Raises UserError for an unknown model, pickled weights, truncated files and unsupported architectures.
    """
    from transformers import AutoConfig

    path = Path(name)
    if path.is_dir():
        if revision:
            raise UserError(f"--revision {revision}: {name} is a local folder, which has no revisions; leave it out")
        shown, commit = path.resolve().name, None
    elif path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"--model {name}: no such folder; give a local folder or a hub name such as {DEFAULT_MODEL}")
    else:
        path = hub_snapshot(name, revision)
        shown, commit = name, path.name
    if not (path / "config.json").exists():
        raise UserError(f"{path}: no config.json; --model needs a folder as save_pretrained writes it")
    try:
        config = AutoConfig.from_pretrained(path)
    except Exception as error:  # a wrong type in it surfaces as one of several unrelated types
        raise UserError(f"{path / 'config.json'} is not a usable configuration: {first_line(error)}") from None
    files = tensor_files(path)
    if config.model_type not in SUPPORTED_MODELS or layer_name(files, 0, "self_attn.q_proj.weight") is None:
        raise UserError(
            f"{shown}: architecture {config.model_type!r} lacks separate q_proj, k_proj and v_proj as known here; "
            f"supported: {', '.join(SUPPORTED_MODELS)}"
        )
    return ModelFolder(shown, path, commit, config, files)


def hub_snapshot(name: str, revision: str | None) -> Path:
    """The local snapshot of a hub model: from the cache, or downloaded (safetensors and JSON only)."""
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:  # the hub's client raises a dozen unrelated types for "not found" and "no network"
        raise UserError(
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
            raise UserError(f"{index} is damaged: download it again") from None
        files = [path / name for name in sorted(named)]
        for file in files:
            if not file.exists():
                raise UserError(f"{file}: shard named in {index.name} is missing; download it again")
    if not files:
        pickled = [file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in sorted(path.glob(pattern))]
        held = f"holds {pickled[0]}, a pickle that could run code" if pickled else "holds no weights"
        raise UserError(
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
        raise UserError(f"{file} is truncated or damaged ({first_line(error)}): download or save it again") from None


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
            raise UserError(f"{folder.path}: tensor {missing} is missing; is the download complete?")
        tensors[part.name] = read_tensor(folder.files[name], name, shape) if name else None
    return LayerWeights(**tensors)


def read_tensor(file: Path, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """One checked tensor in its stored dtype."""
    with open_tensors(file) as tensors:
        tensor = tensors.get_tensor(name)
    if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise UserError(f"{file}: {name} is {tensor.dtype}; quantised checkpoints are not supported, use the original")
    if tuple(tensor.shape) != shape:
        raise UserError(f"{file}: {name} has shape {tuple(tensor.shape)}, the configuration says {shape}")
    if not torch.isfinite(tensor).all():
        raise UserError(f"{file}: {name} holds NaN or infinite values; download or save it again")
    return tensor


# ---- geometry -------------------------------------------------------------------------------------------------------


def effective_rank(singular_values: torch.Tensor) -> torch.Tensor:
    """exp of the entropy of σ/Σσ over the last axis (Roy & Vetterli 2007); 0 for a zero matrix. (..., n) -> (...)"""
    values = singular_values.double().clamp_min(0)
    total = values.sum(-1, keepdim=True)
    shares = values / torch.where(total > 0, total, 1.0)
    rank = torch.special.entr(shares).sum(-1).exp()
    return torch.where(total.squeeze(-1) > 0, rank, 0.0)


def singular_values(matrix: torch.Tensor) -> torch.Tensor:
    """Singular values, descending, from the Gram matrix of the smaller side in float64. (m, n) -> (min(m, n),)

    Squaring leaves an error of about sqrt(machine epsilon) on a zero singular value, and thousands of those would show
    in an effective rank: eigenvalues below the round-off of the largest are set to zero.
    """
    matrix = matrix.double()
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    eigenvalues = torch.linalg.eigvalsh(gram).flip(0)
    noise = eigenvalues[0].clamp_min(0) * len(gram) * torch.finfo(torch.float64).eps
    return torch.where(eigenvalues > noise, eigenvalues, 0.0).sqrt()


def kernel_factors(layer: LayerWeights, head_width: int, fold_norm: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-head W_Q (h, dh, d) and per-group W_K (g, dh, d) in float64; with `fold_norm` as the raw stream meets them.

    Folding multiplies columns by the RMSNorm gain, and rows by the q_norm and k_norm gains where the model has them.
    """
    query = layer.query.double().unflatten(0, (-1, head_width))
    key = layer.key.double().unflatten(0, (-1, head_width))
    if fold_norm:
        query, key = query * layer.attention_gain.double(), key * layer.attention_gain.double()
        if layer.query_gain is not None:
            query = query * layer.query_gain.double()[:, None]
            key = key * layer.key_gain.double()[:, None]
    return query, key


def kernel_svd(query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """SVD of every head's kernel A = W_Qᵀ W_K without forming it: QR of both factors, SVD of the small core.

    query (h, dh, d), key (g, dh, d) -> singular values (h, dh) descending, right singular vectors (h, r, d) as rows,
    r = min(dh, d). Left vectors: swap the arguments (with key repeated per head).
    """
    repeats = query.shape[0] // key.shape[0]
    _, query_triangle = torch.linalg.qr(query.mT, mode="r")  # (h, r, dh)
    key_basis, key_triangle = torch.linalg.qr(key.mT)  # (g, d, r), (g, r, dh)
    core = query_triangle @ key_triangle.repeat_interleave(repeats, 0).mT  # (h, r, r)
    _, values, right = torch.linalg.svd(core)
    vectors = right @ key_basis.repeat_interleave(repeats, 0).mT  # (h, r, d)
    return torch.nn.functional.pad(values, (0, query.shape[1] - values.shape[1])), vectors


def multi_head_subspace(head_subspaces: torch.Tensor, k: int) -> torch.Tensor:
    """The k directions that the heads' subspaces share most: top right singular vectors of their stack.

    (h, k', d) -> (k, d)
    """
    stack = head_subspaces.flatten(0, 1).double()
    _, _, right = torch.linalg.svd(stack, full_matrices=False)
    return right[:k]


def grassmann_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Mean squared cosine of the principal angles, (1/k)‖V₁V₂ᵀ‖²; random expectation k/d. (..., k, d) twice -> (...)"""
    return (first @ second.mT).square().sum((-2, -1)) / first.shape[-2]


def similarity_matrix(subspaces: torch.Tensor) -> torch.Tensor:
    """Grassmann similarity of all pairs from one product. (n, k, d) -> (n, n)"""
    count, k, _ = subspaces.shape
    rows = subspaces.flatten(0, 1)
    return (rows @ rows.T).square().view(count, k, count, k).sum((1, 3)) / k


def random_subspaces(generator: torch.Generator, count: int, k: int, d: int) -> torch.Tensor:
    """Haar-distributed subspaces, (count, k, d) with orthonormal rows, float64."""
    gaussian = torch.randn(count, d, k, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(gaussian)[0].mT


def matched_subspaces(generator: torch.Generator, count: int, k: int, centred: torch.Tensor) -> torch.Tensor:
    """Orthonormalised draws from N(0, Σ), Σ the covariance of centred vectors (n, d), shrunken by SHRINKAGE. -> (count, k, d)

    The same generator gives different data the same Gaussian numbers: draws for two folds are then nearly the same subspace.
    """
    width = centred.shape[1]
    covariance = centred.double().T @ centred.double() / max(1, len(centred))
    even = SHRINKAGE * covariance.trace() / width
    covariance = (1 - SHRINKAGE) * covariance + even * torch.eye(width, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    gaussian = torch.randn(count, k, width, generator=generator, dtype=torch.float64)
    return torch.linalg.qr((gaussian @ root).mT)[0].mT


def seeded(seed: int, label: str) -> torch.Generator:
    """A torch generator of its own for every random thing: adding one draw elsewhere changes nothing here."""
    return torch.Generator().manual_seed(int(short_hash([seed, label])[:15], 16))


def check_range(flag: str, value: int, low: int, high: int) -> int:
    """The value, or UserError if it lies outside low..high."""
    if not low <= value <= high:
        raise UserError(f"{flag} {value} is out of range: this model allows {low} to {high}")
    return value


# ---- the running model ----------------------------------------------------------------------------------------------


def load_tokenizer(folder: ModelFolder):
    """The model's tokenizer, padding left."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path)
    except Exception as error:  # missing files surface as OSError, ValueError, TypeError or a Rust exception
        raise UserError(f"{folder.path}: no usable tokenizer ({first_line(error)})") from None
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def placement(folder: ModelFolder, device: torch.device, dtype: torch.dtype) -> dict:
    """from_pretrained's arguments for a model that the chosen GPU does not hold: spread over all GPUs, then the CPU.

    Empty where it fits, on the CPU, and where a GPU was named by number. A tenth of the memory is left for activations.
    """
    if device.type != "cuda" or device.index is not None:
        return {}
    stored = getattr(folder.config, "dtype", None) or torch.float32
    size = sum(file.stat().st_size for file in set(folder.files.values())) * dtype.itemsize / stored.itemsize
    return {"device_map": "auto"} if size > 0.9 * torch.cuda.mem_get_info(device)[0] else {}


def load_model(folder: ModelFolder, device: torch.device, dtype: torch.dtype):
    """(model in eval mode, tokenizer). Raises UserError for missing or non-finite tensors."""
    from transformers import AutoModelForCausalLM, GenerationConfig, logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    tokenizer, spread = load_tokenizer(folder), placement(folder, device, dtype)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder.path, dtype=dtype, use_safetensors=True, output_loading_info=True, **spread
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder.path}: the model does not load ({first_line(error)})") from None
    if info["missing_keys"]:
        raise UserError(f"{folder.path}: tensor {min(info['missing_keys'])} is missing; is the download complete?")
    for name, tensor in model.named_parameters():
        if not tensor.is_meta and not torch.isfinite(tensor).all():  # meta: left on disk until a layer runs
            raise UserError(f"{folder.path}: {name} holds NaN or infinite values; download or save it again")
    end = model.generation_config.eos_token_id
    # a plain greedy configuration: a checkpoint's own may hold a repetition penalty, which changes greedy output
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id if end is None else end,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (model if spread else model.to(device)).eval(), tokenizer


@torch.inference_mode()
def generate(
    model, tokenizer, prompts: Sequence[str], max_new_tokens: int, batch: int, during: Callable | None = None
) -> list[str]:
    """Greedy continuation of each prompt up to the end of its first non-blank line.

    Prompts of similar length share a batch, padded left; the order of the result is the order of the prompts. `during`
    gets the indices of a batch's prompts and returns a context manager in which the batch is run (for a patch).
    """
    from tqdm import tqdm
    from transformers import StoppingCriteriaList

    lengths = [len(ids) for ids in tokenizer(list(prompts))["input_ids"]]
    room = getattr(model.config, "max_position_embeddings", None) or math.inf
    if max(lengths) + max_new_tokens > room:
        raise UserError(
            f"a prompt of {max(lengths)} tokens plus {max_new_tokens} new ones exceeds this model's {room} positions"
        )
    order = sorted(range(len(prompts)), key=lambda index: (lengths[index], index))
    texts = {}
    for start in tqdm(own_batches(len(order), batch), desc="generating", unit="batch", disable=None):
        chosen = order[start : start + batch]
        inputs = tokenizer([prompts[index] for index in chosen], return_tensors="pt", padding=True).to(model.device)
        length = inputs["input_ids"].shape[1]
        stop = StoppingCriteriaList([line_ended(tokenizer, length)])
        with during(chosen) if during else nullcontext():
            tokens = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=max_new_tokens,
                stopping_criteria=stop,
            )
        for index, text in zip(chosen, tokenizer.batch_decode(tokens[:, length:], skip_special_tokens=True)):
            texts[index] = first_text_line(text)
    return list(gathered(texts).values())


def line_ended(tokenizer, prompt_length: int):
    """Stopping criterion, per row: the new text holds a line break after something that is not blank."""

    def ended(tokens: torch.Tensor, scores, **_) -> torch.Tensor:
        new = tokenizer.batch_decode(tokens[:, prompt_length:], skip_special_tokens=True)
        return torch.tensor(["\n" in text.lstrip() for text in new], device=tokens.device)

    return ended


def first_text_line(text: str) -> str:
    """Leading white space kept, everything from the first line break after text cut."""
    body = text.lstrip()
    return text[: len(text) - len(body)] + body.split("\n")[0]


class _LastSiteReached(Exception):
    """Ends a forward pass once every wanted site has been captured."""


@contextmanager
def captured_sites(model, sites: Sequence[int]):
    """Hooks that fill the yielded dict, site -> residual stream (b, T, d), and end the pass after the last site.

    with captured_sites(model, (0, 5)) as streams:
        model(**inputs)
    streams[5]
    """
    streams, layers = {}, model.model.layers

    def keep(site: int, stream) -> None:
        streams[site] = stream[0] if isinstance(stream, tuple) else stream
        if site == max(sites):
            raise _LastSiteReached

    hooks = [
        layers[0].register_forward_pre_hook(
            lambda _, args, kwargs: keep(0, args or kwargs["hidden_states"]), with_kwargs=True
        )
        if site == 0
        else layers[site - 1].register_forward_hook(lambda _, args, output, site=site: keep(site, output))
        for site in sorted(set(sites))
    ]
    try:
        with suppress(_LastSiteReached):
            yield streams
    finally:
        for hook in hooks:
            hook.remove()


def padded_batch(tokenizer, prompts: Sequence[str], device) -> dict[str, torch.Tensor]:
    """Left-padded ids, mask and positions that start at each prompt's first token."""
    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True).to(device)
    mask = inputs["attention_mask"]
    return {
        "input_ids": inputs["input_ids"],
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp_min(0),
    }


@torch.inference_mode()
def residual_streams(model, tokenizer, prompts: Sequence[str], sites: Sequence[int], batch: int) -> Iterator[tuple]:
    """Yield (index, token ids (T,), streams (sites, T, d) float32 on the CPU) for each prompt, pads removed, in order.

    Under `accelerate launch` each process yields its share; what is made of them has to be `gathered`.
    """
    from tqdm import tqdm

    for start in tqdm(own_batches(len(prompts), batch), desc="activations", unit="batch", disable=None):
        inputs = padded_batch(tokenizer, prompts[start : start + batch], model.device)
        with captured_sites(model, sites) as streams:
            model(**inputs, use_cache=False)
        stack = torch.stack([streams[site].to(model.device) for site in sites], 1)  # (b, sites, T, d)
        for row, mask in enumerate(inputs["attention_mask"].bool()):
            yield start + row, inputs["input_ids"][row][mask].cpu(), stack[row][:, mask].float().cpu()


def sinks(stream: torch.Tensor) -> torch.Tensor:
    """Which positions of one prompt are attention sinks: norm above SINK_FACTOR medians. (..., T, d) -> (..., T) bool"""
    norms = stream.norm(dim=-1)
    return norms > SINK_FACTOR * norms.median(-1, keepdim=True).values


def spaced(keep: torch.Tensor, size: int) -> torch.Tensor:
    """`size` evenly spaced positions among those kept, the last included."""
    positions = keep.nonzero().flatten()
    return positions[torch.linspace(0, len(positions) - 1, size).round().long()]


# ---- the patching engine --------------------------------------------------------------------------------------------

QUERIES_AT_ONCE = 128  # query tokens of a pass attend to one another in vain: longer passes cost more than they save
HEAD_ROWS = 256  # rows of logits in memory at once: 148 MiB in float32 at Qwen2.5's vocabulary


class PatchedPrompts:
    """A batch of prompts, run once; the stream at their last position can then be replaced at any site, many times over.

    Attention is causal, so a replacement changes nothing at earlier positions. Their keys and values are computed once;
    a condition is then one query token in the last position's place, which sees the prompt and itself but no other
    condition, and passes only the layers above the site, the final norm and the head. Candidate answers of several
    tokens hang below it as a tree, in which shared beginnings are computed once; their streams below the site are those
    of the unpatched run.

    engine = PatchedPrompts(model, tokenizer, prompts, candidates)
    engine.scores(site, engine.streams[:, site, None] + change)
    """

    @torch.inference_mode()
    def __init__(self, model, tokenizer, prompts: Sequence[str], candidates: Sequence[Sequence[Sequence[int]]] = ()):
        """`candidates`: for every prompt the same number of answers, each a sequence of token ids.

        Raises UserError for a prompt that does not fit the model's positions or sliding window.
        """
        from transformers import DynamicCache

        self.model, self.layers = model, model.model.layers
        inputs = padded_batch(tokenizer, prompts, model.device)
        ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
        trees = [token_tree(int(row[-1]), answers) for row, answers in zip(ids, candidates or [()] * len(ids))]
        nodes = max(len(tokens) for tokens, _, _ in trees)
        check_length(
            model.config, ids.shape[1] + max(map(len, (path for _, _, paths in trees for path in paths)), default=0)
        )
        self.prefix_mask = mask[:, :-1]
        cache = DynamicCache()
        if ids.shape[1] > 1:
            model.model(
                input_ids=ids[:, :-1],
                attention_mask=mask[:, :-1].long(),
                position_ids=inputs["position_ids"][:, :-1],
                past_key_values=cache,
                use_cache=True,
            )
        self.cache = [(layer.keys, layer.values) for layer in cache.layers]
        tokens = torch.zeros(len(ids), nodes, dtype=torch.long)
        depth = torch.zeros(len(ids), nodes, dtype=torch.long)
        self.ancestors = torch.eye(nodes, dtype=torch.bool).repeat(len(ids), 1, 1)  # (b, m, m), a node is its own
        for row, (row_tokens, parents, _) in enumerate(trees):
            tokens[row, : len(row_tokens)] = torch.tensor(row_tokens)
            for node, parent in enumerate(parents[1:], 1):
                self.ancestors[row, node] |= self.ancestors[row, parent]
                depth[row, node] = depth[row, parent] + 1
        self.ancestors = self.ancestors.to(model.device)
        self.positions = inputs["position_ids"][:, -1:] + depth.to(model.device)  # (b, m)
        self.paths = [paths for _, _, paths in trees]
        self.node_streams = self.run(
            slice(None), 0, model.model.embed_tokens(tokens.to(model.device))[:, None], keep=True
        )
        self.node_streams = torch.stack(self.node_streams, 1)[:, :, 0]  # (b, sites, m, d)

    @property
    def streams(self) -> torch.Tensor:
        """The unpatched residual stream at the last position, (b, L + 1, d), in the model's dtype."""
        return self.node_streams[:, :, 0]

    def final_states(self, site: int, patched: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
        """Normed final stream of every node under every condition. patched (b, c, d) -> (b, c, m, d)"""
        nodes = self.node_streams[rows, site]
        hidden = nodes[:, None].repeat(1, patched.shape[1], 1, 1)
        hidden[:, :, 0] = patched.to(hidden)
        return self.model.model.norm(self.run(rows, site, hidden))

    def run(self, rows: slice, site: int, hidden: torch.Tensor, keep: bool = False):
        """Nodes (b, c, m, d) through the layers above the site; with `keep` the stream at every site from there on."""
        batch, copies, nodes, _ = hidden.shape
        own = torch.eye(copies, dtype=torch.bool, device=hidden.device)[None, :, None, :, None]
        own = (own & self.ancestors[rows][:, None, :, None, :]).view(batch, copies * nodes, copies * nodes)
        before = self.prefix_mask[rows][:, None].expand(-1, copies * nodes, -1)
        hidden_from = ~torch.cat([before, own], -1)[:, None]  # (b, 1, c * m, T - 1 + c * m)
        mask = torch.zeros(hidden_from.shape, dtype=hidden.dtype, device=hidden.device)
        mask.masked_fill_(hidden_from, torch.finfo(hidden.dtype).min)
        positions = self.positions[rows].repeat(1, copies)
        hidden = hidden.flatten(1, 2)
        rotary = self.model.model.rotary_emb(hidden, positions)
        cache = PrefixCache([(keys[rows], values[rows]) for keys, values in self.cache])
        kept = [hidden]
        for layer in self.layers[site:]:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                position_embeddings=rotary,
            )
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            kept.append(hidden.to(self.model.device))
        kept = [stream.unflatten(1, (copies, nodes)) for stream in (kept if keep else kept[-1:])]
        return kept if keep else kept[0]

    @torch.inference_mode()
    def scores(self, site: int, patched: torch.Tensor) -> torch.Tensor:
        """Log-probability of every candidate with the last position's stream at the site replaced.

        patched (b, c, d) -> (b, c, candidates) float32 on the CPU. Conditions are passed in pieces; a piece that does not
        fit into memory is halved, down to one condition of one prompt.
        """
        size = max(1, QUERIES_AT_ONCE // self.positions.shape[1])
        pieces = [self.scores_that_fit(slice(0, len(patched)), site, piece) for piece in patched.split(size, 1)]
        return torch.cat(pieces, 1)

    def scores_that_fit(self, rows: slice, site: int, patched: torch.Tensor) -> torch.Tensor:
        """`scores` of some prompts, in halves where memory does not suffice."""
        result = unless_out_of_memory(
            lambda: self.candidate_scores(rows, self.final_states(site, patched, rows)),
            last=patched.shape[:2] == (1, 1),
        )
        if result is not None:
            return result
        if patched.shape[1] > 1:
            half = patched.shape[1] // 2
            parts = [self.scores_that_fit(rows, site, part) for part in (patched[:, :half], patched[:, half:])]
            return torch.cat(parts, 1)
        middle = (rows.start + rows.stop) // 2
        parts = [(slice(rows.start, middle), patched[: middle - rows.start])]
        parts += [(slice(middle, rows.stop), patched[middle - rows.start :])]
        return torch.cat([self.scores_that_fit(half, site, part) for half, part in parts])

    def candidate_scores(self, rows: slice, states: torch.Tensor) -> torch.Tensor:
        """Sum of log-probabilities along each candidate's path. (b, c, m, d) -> (b, c, candidates)"""
        batch, copies, nodes, _ = states.shape
        paths = self.paths[rows]
        steps = max(len(path) for row in paths for path in row)
        padded = torch.tensor([[[*path, *[(-1, 0)] * (steps - len(path))] for path in row] for row in paths])
        node, token = padded.to(states.device).unbind(-1)  # (b, candidates, steps)
        wanted = token.flatten(1)  # every row of logits is asked for every token of its prompt's candidates
        flat, owner = states.flatten(0, 2), torch.arange(batch, device=states.device).repeat_interleave(copies * nodes)
        found = []
        for piece, index in zip(flat.split(HEAD_ROWS), owner.split(HEAD_ROWS)):
            logits = self.model.lm_head(piece).float()
            log_probabilities = logits.gather(1, wanted[index].to(logits.device)) - logits.logsumexp(-1, keepdim=True)
            found.append(log_probabilities.to(states.device))
        found = torch.cat(found).view(batch, copies, nodes, *node.shape[1:])
        index = node.clamp_min(0)[:, None, None].expand(-1, copies, -1, -1, -1)
        values = found.gather(2, index)[:, :, 0].masked_fill((node < 0)[:, None], 0)  # (b, c, candidates, steps)
        return values.sum(-1).cpu()


class PrefixCache:
    """Keys and values of the prompts as layers read them; the tokens of a pass leave no trace in it."""

    def __init__(self, layers: list[tuple[torch.Tensor, torch.Tensor]]):
        self.layers = layers

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.layers:  # prompts of a single token
            return keys, values
        return tuple(torch.cat(pair, 2) for pair in zip(self.layers[layer], (keys, values)))


def token_tree(last: int, candidates: Sequence[Sequence[int]]) -> tuple[list, list, list]:
    """(tokens, parents, paths): the prompt's last token and below it every proper beginning of a candidate, once.

    paths[c] lists (node, next token): the log-probabilities of these tokens behind these nodes add up to candidate c's.
    """
    tokens, parents, children, paths = [last], [-1], {}, []
    for candidate in candidates:
        node, path = 0, []
        for token in candidate:
            path.append((node, token))
            if len(path) < len(candidate):
                if (node, token) not in children:
                    children[node, token] = len(tokens)
                    tokens.append(token)
                    parents.append(node)
                node = children[node, token]
        paths.append(path)
    return tokens, parents, paths


def unless_out_of_memory(attempt: Callable, last: bool):
    """What `attempt` returns, or None if memory did not suffice; with `last` that error is passed on."""
    try:
        return attempt()
    except torch.OutOfMemoryError:
        if last:
            raise
    torch.cuda.empty_cache()  # only here has the failed attempt's memory been released
    return None


def check_length(config, length: int) -> None:
    """UserError if a prompt with its answer exceeds the model's positions, or its sliding window."""
    for limit, kind in (
        (config.max_position_embeddings, "positions"),
        (getattr(config, "sliding_window", None), "window"),
    ):
        if limit and length > limit:
            raise UserError(f"a prompt of {length} tokens with its answer exceeds this model's {kind} of {limit}")


def patched_prompts(
    model, tokenizer, prompts: Sequence[str], candidates: Sequence, batch: int
) -> Iterator[tuple[slice, PatchedPrompts]]:
    """(which prompts, their engine) for batches in order; a batch that does not fit into memory is halved.

    Under `accelerate launch` each process yields its share; what is made of them has to be `gathered`.
    """
    waiting = [slice(start, min(start + batch, len(prompts))) for start in own_batches(len(prompts), batch)][::-1]
    while waiting:
        rows = waiting.pop()
        engine = unless_out_of_memory(
            lambda rows=rows: PatchedPrompts(model, tokenizer, prompts[rows], candidates[rows]),
            last=rows.stop - rows.start == 1,
        )
        if engine is None:
            middle = (rows.start + rows.stop) // 2
            waiting += [slice(middle, rows.stop), slice(rows.start, middle)]
        else:
            yield rows, engine


@contextmanager
def replaced_stream(model, site: int, vectors: torch.Tensor):
    """The first forward pass inside gets `vectors` (b, d) as its stream at the last position of the site; later ones run freely.

    For generation under a patch: the first pass is the prompt's, the later ones are those of the new tokens.
    """
    waiting = [vectors]

    def replace(_, args, kwargs):
        if waiting:
            stream = args[0] if args else kwargs["hidden_states"]
            stream[:, -1] = waiting.pop().to(stream)

    modules = [*model.model.layers, model.model.norm]
    hook = modules[site].register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


# ---- problems -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """One problem in several languages. `answer` is an exact number, or a word."""

    id: str
    category: str
    answer: Fraction | str
    question: dict
    answer_text: dict = field(default_factory=dict)
    solution: dict = field(default_factory=dict)  # exemplars only: a worked solution on one line


def problem_hash(problem: Problem) -> str:
    """Tells whether two files hold the same problem."""
    return short_hash(problem.question)


def load_languages(wanted: Sequence[str]) -> dict[str, dict]:
    """Templates of the wanted languages, in that order, from data/languages.json."""
    path = ROOT / "data" / "languages.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    for language in wanted:
        if language not in known:
            raise UserError(f"--languages {language}: no template in {path.name}; it has {', '.join(sorted(known))}")
    if len(set(wanted)) != len(wanted) or len(wanted) < 2:
        raise UserError(f"--languages {' '.join(wanted)}: two or more different languages are needed")
    return {language: known[language] for language in wanted}


def problem_files(given: Sequence[Path] | None, folder: ModelFolder, name: str, default: Path) -> list[Path]:
    """Files given on the command line; else the model folder's own `name`; else the default."""
    if given:
        return list(given)
    return [folder.path / name if (folder.path / name).exists() else default]


def load_problems(files: Sequence[Path], languages: Sequence[str], limit: int | None = None) -> list[Problem]:
    """Problems from JSONL files, or from one two-column MGSM file per language (named *_en.tsv, *_zh.tsv, ...)."""
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such problem file")
    if all(file.suffix == ".tsv" for file in files):
        problems = read_mgsm(files, languages)
    else:
        problems = [problem for file in files for problem in read_jsonl(file, languages)]
    if not problems:
        raise UserError(f"{', '.join(map(str, files))}: no problem in it")
    identifiers = set()
    for problem in problems:
        if problem.id in identifiers:
            raise UserError(f"{', '.join(map(str, files))}: id {problem.id!r} occurs twice")
        identifiers.add(problem.id)
    if limit and limit > len(problems):
        raise UserError(f"--limit {limit}: only {len(problems)} problems there")
    return problems[:limit]


def read_lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split("\n")  # splitlines would break at U+2028 inside a string
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{file} is not readable UTF-8 text ({first_line(error)})") from None


def read_jsonl(file: Path, languages: Sequence[str]) -> list[Problem]:
    """Problems of a JSONL file; UserError names the line that is wrong."""
    problems = []
    for number, line in enumerate(read_lines(file), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_float=str)
            answer = record["answer"]
            if isinstance(answer, bool) or not isinstance(answer, int | str) or answer == "":
                raise ValueError("answer is neither a number nor a word")
            number_answer = parse_number(str(answer))
            problem = Problem(
                str(record["id"]),
                str(record.get("category", "")),
                number_answer if number_answer is not None else answer,
                {language: record["question"][language] for language in languages},
                record.get("answer_text", {}),
                record.get("solution", {}),
            )
            texts = [*problem.question.values(), *problem.answer_text.values(), *problem.solution.values()]
            if not all(isinstance(text, str) and text.strip() for text in texts):
                raise ValueError("a text is empty or not a string")
        except KeyError as error:
            raise UserError(f"{file}, line {number}: {error} is missing") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{file}, line {number}: not a problem ({first_line(error)})") from None
        problems.append(problem)
    return problems


def read_mgsm(files: Sequence[Path], languages: Sequence[str]) -> list[Problem]:
    """MGSM: question and answer separated by a tab, no header, the same rows in every language's file."""
    columns = {}
    for language in languages:
        named = [file for file in files if file.stem.endswith(f"_{language}")]
        if len(named) != 1:
            raise UserError(f"--problems: exactly one file named *_{language}.tsv is needed, {len(named)} given")
        columns[language] = []
        for number, line in enumerate(read_lines(named[0]), 1):
            if not line.strip():
                continue
            question, _, target = line.rpartition("\t")
            answer = parse_number(target)
            if not question.strip() or answer is None:
                raise UserError(f"{named[0]}, line {number}: not a question, a tab and a number")
            columns[language].append((question, answer))
    if len({len(rows) for rows in columns.values()}) > 1:
        raise UserError(f"--problems: {', '.join(map(str, files))} differ in length, so rows are not parallel")
    problems = []
    for row, cells in enumerate(zip(*columns.values()), 1):
        if len({answer for _, answer in cells}) > 1:
            raise UserError(f"--problems: line {row}: the languages' answers differ")
        problems.append(Problem(f"mgsm-{row:03d}", "mgsm", cells[0][1], dict(zip(languages, (q for q, _ in cells)))))
    return problems


def load_exemplars(
    given: Path | None, folder: ModelFolder, languages: dict, problems: Sequence[Problem]
) -> tuple[list[Problem], Path]:
    """The few-shot exemplars and their file; UserError if one of them is also a problem."""
    (file,) = problem_files([given] if given else None, folder, "exemplars.jsonl", DEFAULT_EXEMPLARS)
    exemplars = load_problems([file], list(languages))
    asked = {text for problem in problems for text in problem.question.values()}
    for exemplar in exemplars:
        if asked & set(exemplar.question.values()):
            raise UserError(f"{file}: exemplar {exemplar.id!r} is also a problem; remove it from one of the files")
    return exemplars, file


def exemplar_text(language: str, languages: dict, exemplars: Sequence[Problem]) -> str:
    """Exemplars with their answers, or with their worked solutions where they have them."""
    template, text = languages[language], ""
    for exemplar in exemplars:
        answer = exemplar.solution.get(language) or exemplar.answer_text.get(language) or str(exemplar.answer)
        text += template["prompt"].format(question=exemplar.question[language])
        text += template["answer"].format(answer=answer) + template["separator"]
    return text


def prompt_text(problem: Problem, language: str, languages: dict, exemplars: Sequence[Problem] = ()) -> str:
    """Exemplars, then the question, up to the answer."""
    question = languages[language]["prompt"].format(question=problem.question[language])
    return exemplar_text(language, languages, exemplars) + question


def problem_settings(
    arguments, device: torch.device, dtype: torch.dtype, files: Sequence[Path], languages: dict
) -> dict:
    """The settings of a script that asks problems, by content where a file is meant."""
    return {
        "seed": arguments.seed,
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "batch": arguments.batch,
        "limit": arguments.limit,
        "languages": list(languages),
        "templates": short_hash(languages),
        "problems": [[file.name, file_hash(file)[:16]] for file in files],
        "exemplars": [arguments.exemplars.name, file_hash(arguments.exemplars)[:16]] if arguments.exemplars else None,
    }


# ---- answers --------------------------------------------------------------------------------------------------------

ENGLISH_ONES = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
}
ENGLISH_TENS = dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10)))
ENGLISH_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
CHINESE_DIGITS = dict(zip("零一二三四五六七八九", range(10))) | {"〇": 0, "两": 2}
CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000}
CHINESE_SCALES = {"万": 10**4, "亿": 10**8}

english_word = "|".join(sorted([*ENGLISH_ONES, *ENGLISH_TENS, *ENGLISH_SCALES], key=len, reverse=True))
NUMERAL = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
WRITING = {"latin": r"[A-Za-z\u00c0-\u024f]", "han": r"[\u3400-\u9fff]"}  # scripts that languages.json names
NUMBER = re.compile(
    rf"""(?P<digits>(?:(?<![A-Za-z\d)])(?:-[$¥€£]?|[$¥€£]-?)|(?<![A-Za-z\d.]))(?:
            (?:\d+\s)?\d+\s?/\s?\d+(?![\d/])              # 3/4, 1 3/4
          | (?:{NUMERAL})(?:\s?(?:hundred|thousand|million|billion)\b|(?:[百千万亿](?![米克瓦卡]))+)?  # 5千米 is 5 km
         ))
       | (?P<english>\b(?:(?:minus|negative)\s+)?(?:{english_word})(?:(?:[\s-]+(?:and\s+)?|-)(?:{english_word}))*
            (?:\s+point(?:\s+(?:{english_word}))+)?\b)
       | (?P<chinese>负?(?:[零〇一二两三四五六七八九十百千万亿]+分之)?
            (?!一[共起样些直定般下])(?<!第)[零〇一二两三四五六七八九十百千万亿]+(?:点[零〇一二三四五六七八九]+)?)""",
    re.VERBOSE | re.IGNORECASE,
)
ANSWER_MARK = re.compile(r"answer\s*(?:is|=|:)+|答案\s*(?:是|为|:)+|####", re.IGNORECASE)
NEXT_QUESTION = re.compile(r"(?:question|问题)\s*:", re.IGNORECASE)


def normalise(text: str) -> str:
    """Full-width forms, minus signs, fractions and formal numerals in their plain form."""
    text = re.sub(r"(?<=[０-９])，(?=[０-９]{3})", ",", text).replace("，", ", ")
    text = re.sub(r"(?<=\d)(?=[½⅓⅔¼¾⅕⅛])", " ", text)  # 1½ is one and a half, not eleven halves
    text = unicodedata.normalize("NFKC", text).translate(str.maketrans("−–⁄", "--/"))
    text = text.translate(str.maketrans("壹贰叁肆伍陆柒捌玖拾佰仟萬億兩負點", "一二三四五六七八九十百千万亿两负点"))
    return re.sub(r"\\d?frac\{(\d+)\}\{(\d+)\}", r"\1/\2", text)


def parse_number(text: str) -> Fraction | None:
    """The number that the whole text spells, in digits, English or Chinese words; else None."""
    text = normalise(text).strip()
    match = NUMBER.fullmatch(text)
    return number_value(match) if match else None


def extract_number(text: str) -> Fraction | None:
    """The number that a model's output gives as its answer, or None.

    In order: \\boxed{}; the sentence after "answer is", from its last equals sign on; a line that opens with a number and
    a full stop; what follows the last equals sign; the last number in digits, else in words. Text from the next
    "Question:" on is not the answer.
    """
    text = NEXT_QUESTION.split(normalise(text))[0]
    boxed = re.findall(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", text)
    for part in [boxed[-1]] if boxed else []:
        return next(find_numbers(part), None)
    marked = ANSWER_MARK.split(text)
    if len(marked) > 1:
        sentence = re.split(r"[.!;](?:\s|$)|。", marked[-1].strip().split("\n")[0])[0].rpartition("=")[2]
        if (value := next(find_numbers(sentence), None)) is not None:
            return value
    lines = [line.strip() for line in text.split("\n")]
    line = next((line for line in lines if NUMBER.search(line)), "")
    opening = NUMBER.match(line)
    listed = opening and opening[0] == "1" and NUMBER.search(line[opening.end() :])  # "1. First add ..."
    if opening and not listed and re.match(r"\s*(?:[.。!;]\s|[.。!;]?$|。)", line[opening.end() :]):
        return number_value(opening)
    if "=" in line and (value := next(find_numbers(line.rsplit("=", 1)[1]), None)) is not None:
        return value
    digits = [number_value(match) for match in NUMBER.finditer(line) if match["digits"]]
    numbers = digits or list(find_numbers(line))
    return numbers[-1] if numbers else None


def find_numbers(text: str) -> Iterator[Fraction]:
    return (number_value(match) for match in NUMBER.finditer(text))


def number_value(match: re.Match) -> Fraction:
    """The exact value of a match of NUMBER."""
    if match["digits"]:
        return digits_value(match["digits"])
    return english_value(match["english"].lower()) if match["english"] else chinese_value(match["chinese"])


def digits_value(text: str) -> Fraction:
    sign = -1 if "-" in text else 1
    body = re.sub(r"[-$¥€£,]", "", text).strip().lower()
    if "/" in body:
        whole, numerator, denominator = re.fullmatch(r"(?:(\d+)\s)?(\d+)\s?/\s?(\d+)", body).groups()
        return sign * (int(whole or 0) + (Fraction(int(numerator), int(denominator)) if int(denominator) else 0))
    number, scale = re.fullmatch(r"([\d.]+)\s?(.*)", body).groups()
    factor = ENGLISH_SCALES.get(scale, 1)
    for character in scale if scale not in ENGLISH_SCALES else "":
        factor *= (CHINESE_UNITS | CHINESE_SCALES)[character]
    return sign * Fraction(number) * factor


def english_value(text: str) -> Fraction:
    text, _, decimals = text.partition(" point ")
    sign = -1 if text.startswith(("minus", "negative")) else 1
    total = current = 0
    for word in re.findall(english_word, text):
        if word == "hundred":
            current = (current or 1) * 100
        elif word in ENGLISH_SCALES:
            total, current = total + (current or 1) * ENGLISH_SCALES[word], 0
        else:
            current += ENGLISH_ONES[word] if word in ENGLISH_ONES else ENGLISH_TENS[word]
    digits = "".join(str(ENGLISH_ONES.get(word, 0)) for word in decimals.split())
    return sign * (Fraction(total + current) + (Fraction(f"0.{digits}") if digits else 0))


def chinese_value(text: str) -> Fraction:
    if text.startswith("负"):
        return -chinese_value(text[1:])
    if "分之" in text:
        denominator, numerator = text.split("分之")
        if denominator == "百":  # a percentage is compared by its figure, as 50% is
            return chinese_value(numerator)
        below = chinese_value(denominator)
        return chinese_value(numerator) / below if below else Fraction(0)
    if "点" in text:
        whole, decimals = text.split("点")
        return chinese_value(whole) + Fraction("0." + "".join(str(CHINESE_DIGITS[digit]) for digit in decimals))
    if all(character in CHINESE_DIGITS for character in text):  # 二〇二五
        return Fraction(int("".join(str(CHINESE_DIGITS[character]) for character in text)))
    total = section = digit = last_scale = 0
    last_unit = 1
    for character in text:
        if character in CHINESE_DIGITS:
            digit = CHINESE_DIGITS[character]
            last_unit = 1 if digit == 0 else last_unit
        elif character in CHINESE_UNITS:
            section += (digit or 1) * CHINESE_UNITS[character]
            digit, last_unit = 0, CHINESE_UNITS[character]
        else:
            scale = CHINESE_SCALES[character]
            part = section + digit
            total = (total + part or 1) * scale if scale > last_scale else total + (part or 1) * scale  # 万亿, 亿...万
            section, digit, last_unit, last_scale = 0, 0, scale, scale
    if digit and last_unit >= 100:  # 一百五 is 150, not 105
        digit *= last_unit // 10
    return Fraction(total + section + digit)


def extract_word(text: str) -> str:
    """The first non-blank line without answer mark, punctuation and case."""
    text = NEXT_QUESTION.split(normalise(text))[0]
    line = next((line for line in text.split("\n") if line.strip()), "")
    return ANSWER_MARK.split(line)[-1].strip(" \t.。,!?:;\"'").casefold()


def grade(problem: Problem, output: str) -> tuple[str | None, bool]:
    """(extracted answer, whether it is right). Words count in any of the problem's languages, numbers as numbers."""
    if isinstance(problem.answer, Fraction):
        value = extract_number(output)
        return (None if value is None else str(value)), value == problem.answer
    word = extract_word(output)
    accepted = {extract_word(text) for text in [problem.answer, *problem.answer_text.values()]}
    return word or None, word in accepted


def check_words(problem: Problem, languages: Sequence[str]) -> None:
    """UserError for a problem without an answer in words in every language: digits carry no language."""
    missing = [language for language in languages if language not in problem.answer_text]
    if missing:
        raise UserError(
            f"problem {problem.id!r} has no answer_text for {', '.join(missing)}: answers in words are needed here "
            "(leave out --problems and --exemplars for the suite's own)"
        )


def written_in(text: str, languages: dict) -> str | None:
    """The language whose script most of the letters belong to; None without letters or if languages share the script."""
    for name, template in languages.items():
        if template["script"] not in WRITING:
            raise UserError(
                f"data/languages.json: {name}'s script {template['script']!r} is unknown; known: {', '.join(WRITING)}"
            )
    counts = {name: len(re.findall(WRITING[template["script"]], text)) for name, template in languages.items()}
    most = max(counts.values())
    best = [name for name, count in counts.items() if count == most]
    return best[0] if most and len(best) == 1 else None


# ---- statistics -----------------------------------------------------------------------------------------------------


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a rate."""
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar p from the discordant counts; 1 where there is none."""
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0


def bootstrap_interval(values: np.ndarray, generator: torch.Generator, draws: int = 10_000) -> tuple[float, float]:
    """95 % percentile interval of the mean of paired differences, resampling problems."""
    picks = torch.randint(len(values), (draws, len(values)), generator=generator).numpy()
    low, high = np.quantile(np.asarray(values, float)[picks].mean(1), (0.025, 0.975))
    return float(low), float(high)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm-adjusted p values, in the order given."""
    order = np.argsort(ps, kind="stable")
    adjusted = np.maximum.accumulate(np.asarray(ps, float)[order] * np.arange(len(ps), 0, -1)).clip(max=1)
    result = np.empty(len(ps))
    result[order] = adjusted
    return result.tolist()


def permutation_p(at_least_as_extreme: int, draws: int) -> float:
    """(1 + #extreme) / (1 + N): never zero."""
    return (1 + at_least_as_extreme) / (1 + draws)


# ---- results and reports --------------------------------------------------------------------------------------------


def significant(value: object, digits: int = 4) -> object:
    """The value with every float at 4 significant digits, numpy and torch numbers made plain; NaN is refused."""
    if isinstance(value, dict):
        return {str(key): significant(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [significant(item, digits) for item in value]
    if isinstance(value, np.ndarray | torch.Tensor):
        return significant(value.tolist(), digits)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a result is not finite")
        return float(f"{value:.{digits}g}")
    return value


def claim(identifier: str, text: str, recipe: str, measured: str, null: str, holds: bool | None) -> dict:
    """One row of a report's claims table; `holds` None = cannot be judged on this model."""
    return {"id": identifier, "claim": text, "recipe": recipe, "measured": measured, "null": null, "holds": holds}


def show(value: float | None, digits: int = 4) -> str:
    """A number as reports print it."""
    if value is None:
        return "–"
    return f"{value:.{digits}g}" if abs(value) < 1e4 else f"{value:,.0f}"


def escape(text: str) -> str:
    """Text that a model wrote, made harmless inside a Markdown table."""
    text = text.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([`*_|\[\]#~$])", r"\\\1", text).replace("\n", "⏎")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats at 4 significant digits, bare pipes escaped."""
    cells = [[show(cell) if isinstance(cell, float) else str(cell) for cell in row] for row in [headers, *rows]]
    lines = [[re.sub(r"(?<!\\)\|", r"\|", cell) for cell in row] for row in cells]
    lines.insert(1, ["---"] * len(headers))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(
    title: str, verdict: str, claims: Sequence[dict], sections: Sequence[str], limitations: Sequence[str]
) -> str:
    """The report's fixed order: verdict, claims, sections, limitations."""
    words = {True: "yes", False: "**no**", None: "not testable here"}
    columns = ("claim", "recipe", "measured", "null")
    rows = [[*(row[column] for column in columns), words[row["holds"]]] for row in claims]
    parts = [f"# {title}", f"**Verdict.** {verdict}"]
    if rows:
        parts += ["## Claims", table(["claim", "recipe", "measured", "null or chance", "holds"], rows)]
    parts += [*sections, "## Limitations", "\n".join(f"- {line}" for line in limitations)]
    return "\n\n".join(parts) + "\n"


def png(figure) -> bytes:
    """A matplotlib Figure as PNG bytes, the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def array_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


class Run:
    """One run of one script: its fingerprint, whether the work is done already, and saving all files together."""

    def __init__(self, script: str, stem: str, arguments: argparse.Namespace, folder: ModelFolder, settings: dict):
        """`script` is the caller's __file__; `settings` are those that change results."""
        self.stem, self.out, self.started = stem, arguments.out, time.monotonic()
        prepare_folder(self.out)
        self.model, self.settings = folder.identity, significant(settings)
        code = [file_hash(Path(script)), file_hash(ROOT / "utils.py")]
        self.fingerprint = short_hash([self.model, self.settings, code])
        if settings["device"] == "cpu" and folder.width <= NARROW:
            torch.set_num_threads(1)
        if arguments.device == "auto" and settings["device"] == "cpu" and processes()[0] == 0:
            print("warning: no CUDA device here, running on the CPU")

    def finished(self, arrays: Sequence[str]) -> bool:
        """Whether results with this fingerprint and all their arrays are there; says so if they are."""
        path = self.out / f"{self.stem}_results.json"
        names = [path.name, f"{self.stem}_output.md", *arrays]
        if not all((self.out / name).exists() for name in names):
            return False
        results = read_json(path)
        if not isinstance(results, dict) or results.get("fingerprint") != self.fingerprint:
            return False
        if processes()[0] == 0:
            print("results with these settings are there already; --fresh measures again")
        print_verdict(self.out, self.stem, results)
        return True

    def save(self, results: dict, arrays: dict, render: Callable[[dict, dict], dict[str, bytes]]) -> None:
        """Write arrays, report and figures, and last the JSON: all to temporary names, then all renamed; by one process.

        `arrays` maps file names to arrays (or to bytes, for JSONL); `render` makes report and figures from both.
        """
        if processes()[0] > 0:
            return
        head = {"script": self.stem, "model": self.model, "settings": self.settings, "fingerprint": self.fingerprint}
        results = head | significant(results)
        files = {name: value if isinstance(value, bytes) else array_bytes(value) for name, value in arrays.items()}
        content = json_bytes(results)
        files |= render(json.loads(content), arrays)  # from what is saved, so that --report-only writes the same bytes
        files[f"{self.stem}_results.json"] = content
        write_files(self.out, files)
        self.log()
        print_verdict(self.out, self.stem, results)

    def log(self) -> None:
        """Append what must not be in reproducible files: duration, host and versions."""
        import transformers

        line = f"{self.stem} {self.model['name']}: {time.monotonic() - self.started:.1f} s, {platform.machine()}, "
        line += (
            f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
        )
        with open(self.out / "run.log", "a", encoding="utf-8") as file:
            file.write(line + "\n")


def save_plain(out: Path, stem: str, results: dict, render: Callable[[dict, dict], dict[str, bytes]]) -> None:
    """Save results that belong to no single model, with their report."""
    prepare_folder(out)
    content = json_bytes(significant(results))
    write_files(out, render(json.loads(content), {}) | {f"{stem}_results.json": content})
    print_verdict(out, stem, results)


def render_again(out: Path, stem: str, arrays: Sequence[str], render: Callable[[dict, dict], dict[str, bytes]]) -> None:
    """--report-only: the report and its figures from saved results and arrays, without a model."""
    results = load_results(out, stem)
    write_files(out, render(results, {name: load_array(out, name) for name in arrays}))
    print_verdict(out, stem, results)


def load_results(out: Path, stem: str, model: dict | None = None) -> dict:
    """An earlier phase's results; UserError if missing, damaged or (where `model` is given) another model's."""
    path = out / f"{stem}_results.json"
    if not path.exists():
        raise UserError(f"{path} is missing: run {SCRIPTS[stem]} with the same --model and --out first")
    results = read_json(path)
    if not isinstance(results, dict) or results.get("script") != stem:
        raise UserError(f"{path} is not a result of this suite: delete it and run again")
    if model and results["model"] != model:
        raise UserError(
            f"{path} is about another model ({results['model']['name']}, weights {results['model']['weights_hash']}; "
            f"now {model['name']}, weights {model['weights_hash']}): use another --out or run that phase again"
        )
    return results


def bottleneck_layer(arguments: argparse.Namespace, folder: ModelFolder) -> int:
    """--layer: a number in range, or with `auto` the bottleneck that 1.py found for this model with the same --fold-norm."""
    if arguments.layer != "auto":
        try:
            return check_range("--layer", int(arguments.layer), 0, folder.layers - 1)
        except ValueError:
            raise UserError(f"--layer {arguments.layer} is neither auto nor a number") from None
    results = load_results(arguments.out, "one", folder.identity)
    if results["settings"]["fold_norm"] != arguments.fold_norm:
        raise UserError(
            f"{arguments.out / 'one_results.json'} has another --fold-norm: run 1.py alike, or give --layer"
        )
    return results["bottleneck"]["layer"]


def load_array(out: Path, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray | bytes:
    """An array of an earlier phase (bytes for JSONL); UserError if missing, damaged or of another shape."""
    path = out / name
    if not path.exists():
        raise UserError(f"{path} is missing: run the script that writes it again with --fresh")
    if path.suffix != ".npy":
        return path.read_bytes()
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(
            f"{path} is damaged ({first_line(error)}): run the script that writes it with --fresh"
        ) from None
    if shape is not None and array.shape != shape:
        raise UserError(f"{path} has shape {array.shape}, expected {shape}: run the script that writes it with --fresh")
    return array


def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged ({first_line(error)}): delete it and run again") from None


def json_bytes(value: object) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def json_lines(records: Sequence[dict]) -> bytes:
    lines = [json.dumps(record, ensure_ascii=False, sort_keys=True) for record in records]
    return ("\n".join(lines) + "\n").encode()


def prepare_folder(out: Path) -> None:
    """Make the output folder; UserError if it cannot be written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out {out} is not writable ({error.strerror}): give another folder") from None


def write_files(out: Path, files: dict[str, bytes]) -> None:
    """Write every file under a temporary name in the same folder, then rename them all, in the order given."""
    staged = {}
    try:
        for name, content in files.items():
            for left in out.glob(f".{name}.*.new"):  # of a run that was killed while it wrote
                left.unlink()
            staged[name] = out / f".{name}.{os.getpid()}.new"
            staged[name].write_bytes(content)
        for name in list(staged):
            os.replace(staged[name], out / name)
            del staged[name]
    except OSError as error:
        raise UserError(f"--out {out}: writing failed ({error.strerror}); earlier results are intact") from None
    finally:
        for path in staged.values():
            path.unlink(missing_ok=True)


def print_verdict(out: Path, stem: str, results: dict) -> None:
    """The last line that a script prints."""
    if processes()[0] == 0:
        print(f"{results['verdict']}: {out / f'{stem}_output.md'}")
