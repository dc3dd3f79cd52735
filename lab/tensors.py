"""Tensors on disk, safetensors or GGUF, under the names that the running model gives them.

Files are resolved as transformers resolves them: model.safetensors before an index, and nothing else in the folder counts.
"""

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from lab import readers, runs

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
GGUF_READER = gguf.GGUFReader
LONGEST_ARRAY = 2**24  # values in a GGUF header; the largest vocabularies have fewer than a million pieces
FLOATS = ("F32", "BF16", "F16", "F64")  # as safetensors calls them
# parts of a quantised matrix: GPTQ and AWQ, compressed-tensors, fp8, bitsandbytes, HQQ
QUANTISED = "qweight qzeros weight_packed weight_scale weight_scale_inv absmax quant_map quant_state SCB W_q".split()
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "base_model.model.")
CONVERT = "AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"


class Safetensors:
    """A folder's safetensors, one file or shards."""

    quantisation = None

    def __init__(self, folder: Path, wanted: str | None = None):
        """Reads headers only; `wanted`: the file that the configuration names, where it names one.

        Raises UserError for missing and damaged files, pickles, adapters, quantised or wrapped weights.
        """
        self.files: dict[str, Path] = {}
        for file in safetensors_files(folder, wanted):
            with open_tensors(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                    part = tensors.get_slice(name)
                    refuse_what_no_model_runs(file, name, part.get_dtype(), part.get_shape())
                    self.files[name] = file

    def read(self, name: str) -> torch.Tensor:
        """One tensor in its stored dtype. Raises UserError where it is not finite."""
        with open_tensors(self.files[name]) as tensors:
            return finite(tensors.get_tensor(name), self.files[name], name)


NO_QUANTISED = "quantised weights are not supported: use the original checkpoint, or a GGUF file"


def refuse_what_no_model_runs(file: Path, name: str, dtype: str, shape: Sequence[int]) -> None:
    """UserError for a tensor that belongs to a quantised matrix or a wrapped model, or is empty."""
    ending = name.rpartition(".")[2]
    if ending in QUANTISED or ".quant_state." in name:
        raise runs.UserError(f"{file}: {name} is part of a quantised matrix; {NO_QUANTISED}")
    if ending == "weight" and dtype not in FLOATS:
        raise runs.UserError(f"{file}: {name} is stored as {dtype}; {NO_QUANTISED}")
    for prefix in WRAPPERS:
        if name.startswith(prefix):
            raise runs.UserError(
                f"{file}: {name} begins with {prefix!r}: it was saved from a wrapped model; save the model inside the "
                "wrapper with save_pretrained(...)"
            )
    if 0 in shape:
        raise runs.UserError(f"{file}: {name} is empty, of shape {tuple(shape)}; download or save it again")


def finite(tensor: torch.Tensor, file: Path, name: str) -> torch.Tensor:
    """The tensor; UserError that names it where it holds NaN or infinite values."""
    if not torch.isfinite(
        torch.stack(torch.aminmax(tensor))
    ).all():  # both are NaN where anything is; no mask of all entries
        raise runs.UserError(f"{file}: {name} holds NaN or infinite values; download or save it again")
    return tensor


def check_names(path: Path, missing: set[str], unexpected: set[str]) -> None:
    """UserError that names the first of the tensors that are missing, or that the running model would drop."""
    if missing:
        raise runs.UserError(
            f"{path}: tensor {first_of(missing)} is missing, and would be random in the running model: is the download "
            "complete, and does the configuration fit?"
        )
    if unexpected:
        raise runs.UserError(
            f"{path}: tensor {first_of(unexpected)} has no place in the configured model, which would run without it: does "
            "the configuration fit?"
        )


def first_of(names: set[str]) -> str:
    """The first name, and how many more there are."""
    return min(names) + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def refuse_shape(path: Path, name: str, have: Sequence[int], wanted: Sequence[int]) -> None:
    """UserError for a tensor of another shape than the model's."""
    raise runs.UserError(f"{path}: {name} has shape {tuple(have)}, the configuration says {tuple(wanted)}")


def safetensors_files(folder: Path, wanted: str | None) -> list[Path]:
    """The files that transformers would load: the one wanted, else model.safetensors, else the shards of the index.

    UserError says what lies there instead, or which is missing.
    """
    if (folder / "adapter_config.json").exists():
        raise runs.UserError(f"{folder}: an adapter (adapter_config.json); merge it into its model, and save that")
    if wanted and not (isinstance(wanted, str) and os.path.isfile(folder / wanted)):
        raise runs.UserError(
            f"{folder / 'config.json'} names {wanted!r} as transformers_weights, no file beside it: take that entry out, or "
            "download the file"
        )
    if wanted or (folder / SINGLE).exists():
        return [folder / (wanted or SINGLE)]
    index = folder / INDEX
    if not index.exists():
        raise runs.UserError(f"{folder}: no {SINGLE}; {other_weights(folder)}")
    try:
        files = [folder / name for name in sorted(set(readers.parsed(index.read_text("utf-8"))["weight_map"].values()))]
    except (ValueError, KeyError, AttributeError, TypeError):
        raise runs.UserError(f"{index} is damaged: download it again") from None
    for file in files:
        if not os.path.isfile(file):  # Path.is_file raises for a name that no file could have
            raise runs.UserError(f"{file}: shard named in {index.name} is missing; download it again")
    return files


def other_weights(folder: Path) -> str:
    """What a folder without the wanted files holds instead, and the remedy."""
    for patterns, remedy in (
        (("*.gguf",), "give that file itself as --model"),
        (("*.safetensors",), f"nobody loads that by itself: call it {SINGLE} if it is the one that is meant"),
        (("*.bin", "*.pt", "*.pth"), f"a pickle that could run code: convert it where it is trusted with {CONVERT}"),
    ):
        found = sorted(file.name for pattern in patterns for file in folder.glob(pattern))
        if found:
            return f"it holds {found[0]}, {remedy}"
    return "it holds no weights: is the download complete?"


def open_tensors(file: Path):
    """safe_open, with a UserError that names the damaged file in one line."""
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise runs.UserError(
            f"{file} is truncated or damaged ({runs.first_line(error)}): download or save it again"
        ) from None


class HeaderReader(GGUF_READER):
    """The gguf package's reader; ValueError where a header's own lengths lead out of the file, which it would follow without end."""

    def _get(self, offset: int, dtype, count: int = 1, **order):
        found = super()._get(offset, dtype, count, **order)
        if len(found) < count:
            raise ValueError("its header leads beyond its end")
        return found

    def _get_field_parts(self, orig_offs: int, raw_type: int):
        if (
            raw_type == gguf.GGUFValueType.ARRAY
            and (length := int(self._get(orig_offs + 4, np.uint64)[0])) > LONGEST_ARRAY
        ):
            raise ValueError(f"its header has an array of {length} values")
        return super()._get_field_parts(orig_offs, raw_type)


@lru_cache(maxsize=2)
def parsed_gguf(file: Path, size: int, modified: int):
    """The reader of a file in that state."""
    return HeaderReader(file)


def read_gguf(file: str | Path):
    """A GGUF file's reader, of which a process needs one: a large vocabulary takes it ten seconds."""
    file = Path(file).absolute()
    stat = file.stat()
    return parsed_gguf(file, stat.st_size, stat.st_mtime_ns)


@contextmanager
def one_gguf_reader():
    """transformers opens a GGUF file anew for configuration, tokenizer and weights; inside, it shares one reader with us."""
    gguf.GGUFReader = read_gguf
    try:
        yield
    finally:
        gguf.GGUFReader = GGUF_READER


class Gguf:
    """A llama.cpp file: its tensors under the running model's names, dequantised to float32 as they are read."""

    def __init__(self, file: Path, parameters: dict[str, tuple[int, ...]], config):
        """`parameters`: shapes of the running model's, by name. Raises UserError for a damaged file."""
        self.file, self.config = file, config
        try:
            self.reader = read_gguf(file)
        except (ValueError, KeyError, IndexError, OSError, UnicodeDecodeError) as error:
            raise runs.UserError(
                f"{file} is truncated or damaged ({runs.first_line(error)}): download it again"
            ) from None
        if (self.field("split.count") or 1) > 1:
            raise runs.UserError(f"{file} is one part of several: join them with llama.cpp's gguf-split --merge")
        self.stored = {tensor.name: tensor for tensor in self.reader.tensors}
        self.architecture = self.field("general.architecture")
        self.places = self.find(
            parameters
        )  # the running model's name -> (the file's name, number of the expert or None)
        self.files = dict.fromkeys(self.places, file)
        self.shapes = {name: self.shape(*place) for name, place in self.places.items()}
        self.check(parameters)

    def field(self, key: str):
        """A metadata value; None where the file has none."""
        found = self.reader.get_field(key)
        return None if found is None else found.contents()

    def find(self, parameters: dict[str, tuple[int, ...]]) -> dict[str, tuple[str, int | None]]:
        """Where the file holds the parameters, by the gguf package's own table. Experts are stacked in the file."""
        known = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
        table = gguf.get_tensor_name_map(known[self.architecture], self.config.num_hidden_layers)
        places = {}
        for name, shape in parameters.items():
            module, _, kind = name.rpartition(".")
            if module.endswith(".experts"):  # gate_up_proj or down_proj of all experts
                for role in kind.removesuffix("_proj").split("_"):
                    stored = f"{table.get_name(f'{module}.{role}_proj')}.weight"
                    places |= {f"{module}.{expert}.{role}_proj.weight": (stored, expert) for expert in range(shape[0])}
            else:
                places[name] = (f"{table.get_name(module)}.{kind}", None)
        return {name: place for name, place in places.items() if place[0] in self.stored}

    def check(self, parameters: dict[str, tuple[int, ...]]) -> None:
        """UserError where the file and the running model do not fit each other."""
        wanted = {name: shape for name, shape in parameters.items() if ".experts." not in name}
        if self.config.tie_word_embeddings:
            wanted.pop("lm_head.weight", None)
        used = {stored for stored, _ in self.places.values()}
        check_names(self.file, wanted.keys() - self.places.keys(), self.stored.keys() - used)
        for name, shape in wanted.items():
            if [size for size in self.shapes[name] if size != 1] != [size for size in shape if size != 1]:
                refuse_shape(self.file, name, self.shapes[name], shape)
            self.shapes[name] = shape  # a file drops sizes of 1

    def shape(self, stored: str, expert: int | None) -> tuple[int, ...]:
        """Of a whole tensor, or of one expert's part."""
        sizes = tuple(int(size) for size in reversed(self.stored[stored].shape))
        return sizes if expert is None else sizes[1:]

    def read(self, name: str) -> torch.Tensor:
        """One tensor as the running model has it, float32. Raises UserError where it is not finite.

        llama.cpp adds the 1 of Gemma's norms to their weights, and orders the rows of Llama's queries and keys otherwise.
        """
        stored, expert = self.places[name]
        tensor = self.stored[stored]
        data = tensor.data if expert is None else tensor.data[expert]
        values = gguf.dequantize(data, tensor.tensor_type).astype(np.float32, copy=False).reshape(self.shapes[name])
        result = torch.from_numpy(values.copy() if not values.flags.writeable else values)
        if self.architecture.startswith("gemma") and name.endswith("norm.weight"):
            result = result - 1
        if self.architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            head_width = self.config.head_dim
            result = result.unflatten(0, (-1, head_width // 2, 2)).transpose(1, 2).flatten(0, 2)
        return finite(result, self.file, name)

    @property
    def quantisation(self) -> str:
        """The file's own word for its quantisation, and how its weights are stored: 'Q4_K_M (68 % Q4_K, 32 % Q6_K)'."""
        names = {kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}
        sizes = Counter()
        for tensor in self.stored.values():
            sizes[tensor.tensor_type.name] += int(tensor.n_elements)
        total = sum(sizes.values())
        shares = [f"{100 * size / total:.0f} % {kind}" for kind, size in sizes.most_common() if size >= 0.005 * total]
        return f"{names.get(self.field('general.file_type'), 'mixed')} ({', '.join(shares)})"
