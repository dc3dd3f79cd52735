"""Checkpoints on disk: finding one, making sure that its weights are those that run, and streaming them layer by layer.

Letters: L layers, d width, h query heads, g KV groups, dh head width.
"""

import argparse
import json
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch

from lab import families, readers, runs, tensors

TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json")
NARROW = 512  # up to this width the matrices are so small that a second CPU thread costs more than it brings
MOST_LAYERS = 10_000
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
    """A checkpoint on disk: a local folder, the hub's snapshot of one, or a GGUF file."""

    name: str  # as reports show it: hub name, or the folder's or file's own name
    path: Path
    revision: str | None  # the snapshot's commit; None for what is local
    config: object  # transformers' config of the language model
    tensors: tensors.Safetensors | tensors.Gguf
    seen: dict[Path, tuple]  # its files as they were before any was read

    @property
    def layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def heads(self) -> int:
        return self.config.num_attention_heads

    @property
    def groups(self) -> int:
        """KV groups: as many as heads where the configuration names none."""
        return getattr(self.config, "num_key_value_heads", None) or self.heads

    @property
    def width(self) -> int:
        return self.config.hidden_size

    @property
    def head_width(self) -> int:
        """What the configuration says, else the width shared out among the heads."""
        return getattr(self.config, "head_dim", None) or self.width // self.heads

    @property
    def source(self) -> dict:
        """from_pretrained's arguments that name this checkpoint."""
        return source(self.path)

    @property
    def files(self) -> list[Path]:
        """The files that hold the weights."""
        return sorted(set(self.tensors.files.values()))

    @property
    def is_qwen25_3b(self) -> bool:
        """Whether the model has Qwen2.5-3B's shape: the recipe's recorded numbers are about that model.

        A GGUF file of it may hold the readout apart, quantised otherwise, and then counts as untied.
        """
        shape = QWEN25_3B_SHAPE | {"tie_word_embeddings": self.config.tie_word_embeddings}
        return all(getattr(self.config, key, None) == value for key, value in shape.items())

    @cached_property
    def tied(self) -> bool:
        """Whether the running model reads out with its embedding: where a readout of other values is saved, it does not."""
        readout = [name for name in self.tensors.files if name.endswith("lm_head.weight")]
        if not self.config.tie_word_embeddings or not readout:
            return self.config.tie_word_embeddings
        embedding = next(name for name in self.tensors.files if name.endswith("embed_tokens.weight"))
        return torch.equal(self.tensors.read(readout[0]), self.tensors.read(embedding))

    @cached_property
    def identity(self) -> dict:
        """What makes two runs comparable: name, revision, hashes of config, tokenizer and weights (one file's, for GGUF)."""
        weights = [runs.file_hash(file) for file in self.files]
        config, tokenizer = weights, weights
        if self.path.is_dir():
            config = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
            config = {
                key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")
            }
            tokenizer = [runs.file_hash(self.path / name) for name in TOKENIZER if (self.path / name).exists()]
        return {
            "name": self.name,
            "revision": self.revision,
            "quantisation": self.tensors.quantisation,
            "tied": self.tied,
            "config_hash": runs.short_hash(config),
            "tokenizer_hash": runs.short_hash(tokenizer) if tokenizer else None,
            "weights_hash": runs.short_hash(weights),
        }

    def check_unchanged(self) -> None:
        """UserError where the files are no longer those of the identity: what was measured since may be either's.

        Files that were only touched, or replaced by the same, are as they were.
        """
        own = [*self.files, *(self.path / name for name in ("config.json", *TOKENIZER) if self.path.is_dir())]
        if files_now(own) == {file: self.seen[file] for file in own if file in self.seen}:
            return
        try:
            now = find_model(str(self.path)).identity
            same = all(now[key] == value for key, value in self.identity.items() if key.endswith("_hash"))
        except runs.UserError:
            same = False
        if not same:
            raise runs.UserError(f"{self.path} changed while it was measured: nothing is saved of it, run again")

    @cached_property
    def prefix(self) -> str:
        """What stands before `layers.` in tensor names: nothing where the base of the language model was saved alone."""
        first = f"layers.0.{next(iter(families.FAMILIES[self.config.model_type].names.values()))}"
        found = (name.removesuffix(first) for name in self.tensors.files if name.endswith(first))
        return next(prefix for prefix in found if "vision" not in prefix)

    def has(self, layer: int, name: str) -> bool:
        """Whether there is a tensor of this name below `layers.<layer>.`."""
        return f"{self.prefix}layers.{layer}.{name}" in self.tensors.files

    def read(self, layer: int, name: str) -> torch.Tensor:
        """That tensor in its stored dtype (of GGUF float32); UserError where it is not finite, KeyError without it."""
        return self.tensors.read(f"{self.prefix}layers.{layer}.{name}")


def files_now(files: Iterable[Path]) -> dict[Path, tuple]:
    """What tells each file that is there from one that has taken its place: its size, time and inode."""
    states = {file: file.stat() for file in files if file.is_file()}
    return {file: (state.st_size, state.st_mtime_ns, state.st_ino) for file, state in states.items()}


def source(path: Path) -> dict:
    """from_pretrained's arguments that name a folder or a GGUF file."""
    if path.is_dir():
        return {"pretrained_model_name_or_path": path}
    return {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}


def stream_layers(folder: ModelFolder, wanted: Collection[str] = families.ROLES) -> Iterator[families.LayerWeights]:
    """Layers 0..L-1, of each the roles that are wanted, one in memory at a time; files are mapped and unmapped again."""
    return (read_layer(folder, layer, wanted) for layer in range(folder.layers))


def read_layer(folder: ModelFolder, layer: int, wanted: Collection[str] = families.ROLES) -> families.LayerWeights:
    """One layer's weights. UserError names a tensor that is not finite; quantised ones `find_model` refuses."""
    return families.read_layer(families.FAMILIES[folder.config.model_type], folder.config, folder, layer, wanted)


def find_model(name: str, revision: str | None = None) -> ModelFolder:
    """Locate a checkpoint (downloading it from the hub where needed), and make sure that a model of just these weights runs.

    Raises UserError for an unknown model; pickled, quantised or damaged weights; a family without a row; and where
    configuration and weights do not fit each other to the last tensor.
    """
    path, shown, commit = locate(name, revision)
    seen = files_now(path.iterdir() if path.is_dir() else [path])
    if path.is_file():
        stat = path.stat()
        config, held = open_gguf(path, stat.st_size, stat.st_mtime_ns)
        return ModelFolder(shown, path, commit, deepcopy(config), held, seen)  # loading a model writes into it
    whole = load_config(path)
    config = whole.get_text_config()  # Gemma 3's larger models also see images
    if quantised := getattr(whole, "quantization_config", None):
        method = quantised.get("quant_method", "some") if isinstance(quantised, dict) else "some"
        raise runs.UserError(f"{path / 'config.json'} names {method} quantisation; {tensors.NO_QUANTISED}")
    check_family(path, config)
    held = tensors.Safetensors(path, getattr(whole, "transformers_weights", None))
    check_that_it_loads(path)
    return ModelFolder(shown, path, commit, config, held, seen)


@lru_cache(maxsize=4)
def open_gguf(path: Path, size: int, modified: int) -> tuple[object, tensors.Gguf]:
    """Configuration and tensors of a GGUF file; read once by a hunt's steps, since a large vocabulary takes seconds."""
    config = load_config(path)
    check_family(path, config)
    return config, tensors.Gguf(path, parameter_shapes(path, config), config)


def check_family(path: Path, config) -> None:
    """UserError for an architecture without a row."""
    if config.model_type not in families.FAMILIES:
        raise runs.UserError(
            f"{path}: architecture {config.model_type!r} is not known here; supported: {', '.join(families.FAMILIES)} (to "
            "add one: a row in lab/families.py)"
        )


def locate(name: str, revision: str | None) -> tuple[Path, str, str | None]:
    """(folder or GGUF file, name that reports show, the hub's commit or None); UserError for other names."""
    path = runs.local_path(name)
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        if revision:
            kind = "folder" if path.is_dir() else "file"
            raise runs.UserError(
                f"--revision {revision}: {name} is a local {kind}, which has no revisions; leave it out"
            )
        return path, runs.shown_name(name), None
    if path.is_file():
        raise runs.UserError(f"--model {name}: a file, but no GGUF file; give its folder")
    if name.startswith((".", "/", "~")) or name.count("/") != 1 or path.suffix == ".gguf":
        raise runs.UserError(
            f"--model {name}: no such folder or file; give a local folder, a GGUF file or a hub name such as "
            f"{runs.DEFAULT_MODEL}"
        )
    path = hub_snapshot(name, revision)
    return path, name, path.name


def hub_snapshot(name: str, revision: str | None) -> Path:
    """The local snapshot of a hub model: from the cache, or downloaded (safetensors, JSON and tokenizer files only).

    UserError says why it could not be had, and the remedy.
    """
    from huggingface_hub import constants, errors, snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
    which = f"--model {name}{f' at {revision}' if revision else ''}"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except errors.GatedRepoError:
        why = "is gated: accept its terms on its page on the hub, and set HF_TOKEN to a token of that account"
    except errors.RevisionNotFoundError:
        why = "is not on the hub: the model is, but has no such branch, tag or commit"
    except errors.RepositoryNotFoundError:
        why = "is not on the hub: check the name; if it is private, set HF_TOKEN to a token that may read it"
    except (errors.HFValidationError, errors.BadRequestError):
        why = "is no name that the hub could have"
    except Exception as error:  # no network surfaces as any of a dozen types
        cache = f"the cache below {constants.HF_HUB_CACHE} (HF_HOME chooses it) does not hold it"
        if constants.HF_HUB_OFFLINE:
            why = f"was not looked up, since HF_HUB_OFFLINE is set, and {cache}"
        else:
            why = f"could not be had from the hub ({runs.first_line(error)}: check the network), and {cache}"
    raise runs.UserError(f"{which} {why}; or give a local folder or a GGUF file") from None


def load_config(path: Path):
    """transformers' configuration of a folder or GGUF file; UserError where there is none that can be used."""
    from transformers import AutoConfig

    if path.is_dir() and not (path / "config.json").exists():
        held = tensors.other_weights(path) if list(path.glob("*.gguf")) else "--model needs what save_pretrained writes"
        raise runs.UserError(f"{path}: no config.json; {held}")
    try:
        with silent_transformers():
            if (layers := stated_layers(path)) > MOST_LAYERS:
                raise ValueError(f"{layers} layers, of which no model has more than {MOST_LAYERS}: download it again")
            return AutoConfig.from_pretrained(**source(path))
    except Exception as error:  # a wrong type in it surfaces as one of several unrelated types
        what = (
            f"{path / 'config.json'} is not a usable configuration"
            if path.is_dir()
            else f"{path} is no usable GGUF file"
        )
        raise runs.UserError(f"{what}: {runs.first_line(error)}") from None


def stated_layers(path: Path) -> int:
    """How many layers a configuration names, itself or in a part; transformers makes as many, however long that takes."""
    if path.is_dir():
        config = readers.parsed((path / "config.json").read_text(encoding="utf-8"))
        parts = [part for part in (config, *config.values()) if isinstance(part, dict)]
        named = [part.get("num_hidden_layers") for part in parts]
    else:
        fields = tensors.read_gguf(path).fields
        named = [field.contents() for name, field in fields.items() if name.endswith(".block_count")]
    return max((number for number in named if isinstance(number, int)), default=0)


@contextmanager
def silent_transformers():
    """transformers without its notes and bars: what they would say is an error here, or nothing."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with tensors.one_gguf_reader():
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def check_that_it_loads(path: Path) -> None:
    """UserError where the running model would hold a random parameter, drop a tensor, or need another shape.

    transformers itself says so: it loads the folder onto the meta device, which reads names and shapes only.
    """
    from transformers import AutoModelForCausalLM

    config = path / "config.json"
    try:
        with silent_transformers():
            _, found = AutoModelForCausalLM.from_pretrained(
                path, use_safetensors=True, device_map="meta", ignore_mismatched_sizes=True, output_loading_info=True
            )
    except Exception as error:  # a value that no layer can be built from surfaces as any type
        said = f"{type(error).__name__}: {runs.first_line(error)}"
        raise runs.UserError(f"{config} describes no model that can be built from these weights ({said})") from None
    for name, have, wanted in sorted(found["mismatched_keys"]):
        tensors.refuse_shape(path, name, have, wanted)
    tensors.check_names(path, found["missing_keys"], found["unexpected_keys"])


def parameter_shapes(path: Path, config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter of the configured model, no weight made; UserError where it cannot be built."""
    from transformers import AutoModelForCausalLM

    try:
        with silent_transformers(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # as above
        said = f"{type(error).__name__}: {runs.first_line(error)}"
        raise runs.UserError(f"{path} describes no model that can be built ({said})") from None
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


@dataclass
class Opening:
    """What every measurement begins with."""

    report: runs.Report
    arguments: argparse.Namespace
    device: torch.device
    dtype: torch.dtype
    folder: ModelFolder
    settings: dict  # seed and device
    hold: object  # of the output folder, where it was there already

    def run(self, handed: dict | None = None, **settings) -> runs.Run | None:
        """The run under these further settings, `handed` as `runs.Run` has it; None where its results are there already."""
        run = self.begun(handed, **settings)
        return None if run.finished() else run

    def begun(self, handed: dict | None = None, **settings) -> runs.Run:
        """The same, whatever is there already."""
        settings, check = self.settings | settings, self.folder.check_unchanged
        return runs.Run(self.report, self.arguments, self.folder.identity, settings, handed, check)


def begin(report: runs.Report, arguments: argparse.Namespace) -> Opening | None:
    """Device, dtype and model as the flags have them; None if --report-only was asked for, and is done.

    UserError for a flag or a model that is of no use, and for an output folder in use or of another model. Torch gets
    one thread where a narrow model runs on the CPU.
    """
    if arguments.report_only:
        runs.render_again(arguments, report)
        return None
    device = runs.choose_device(arguments.device)
    folder = find_model(arguments.model or runs.DEFAULT_MODEL, arguments.revision)
    hold = runs.hold(arguments.out)
    runs.check_owner(arguments.out, folder.identity)
    if device.type == "cpu" and folder.width <= NARROW:
        torch.set_num_threads(1)
    if device.type == "cpu" and arguments.device == "auto" and runs.processes()[0] == 0:
        print("warning: no CUDA device here, running on the CPU", file=sys.stderr)
    settings = {"seed": arguments.seed, "device": device.type}
    return Opening(report, arguments, device, runs.choose_dtype(arguments.dtype, device), folder, settings, hold)


@dataclass(frozen=True)
class ChosenLayer:
    """The layer whose attention is looked at, and what chose it."""

    layer: int
    chosen: str  # by 1.py, whose verdict on it this is, or "given" by the user


def bottleneck_layer(arguments: argparse.Namespace, folder: ModelFolder) -> ChosenLayer:
    """--layer: a number in range, or with `auto` the bottleneck that 1.py found for this model with the same --fold-norm.

    Where 1.py found `no_bottleneck` it is the lowest inner layer all the same, which pages then call exploratory.
    UserError for another value, and where 1.py has not run here, or not alike.
    """
    if arguments.layer != "auto":
        try:
            return ChosenLayer(runs.check_range("--layer", int(arguments.layer), 0, folder.layers - 1), "given")
        except ValueError:
            raise runs.UserError(f"--layer {arguments.layer} is neither auto nor a number") from None
    results = runs.load_results(arguments.out, "one", folder.identity)
    with runs.as_written(arguments.out, "one"):
        if results["settings"]["fold_norm"] != arguments.fold_norm:
            raise runs.UserError(
                f"{arguments.out / 'one_results.json'} has another --fold-norm: run 1.py alike, or give --layer"
            )
        if not isinstance(results["verdict"], str):
            raise ValueError("its verdict is no text")
        return ChosenLayer(range(folder.layers).index(results["bottleneck"]["layer"]), results["verdict"])
