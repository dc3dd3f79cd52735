"""The running model: loading it, generating with it, and reading and replacing its residual stream.

The residual stream at site s is the stream after s layers, s = 0..L.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial

import torch
from safetensors import SafetensorError

from lab import checkpoints, runs

SINK_FACTOR = 10  # a position whose norm exceeds this many medians of its prompt's is an attention sink


def load_tokenizer(folder: checkpoints.ModelFolder):
    """The model's tokenizer, padding left."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path)
    except Exception as error:  # missing files surface as OSError, ValueError, TypeError or a Rust exception
        raise runs.UserError(f"{folder.path}: no usable tokenizer ({runs.first_line(error)})") from None
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def placement(folder: checkpoints.ModelFolder, device: torch.device, dtype: torch.dtype) -> dict:
    """from_pretrained's arguments for a model that the chosen GPU does not hold: spread over all GPUs, then the CPU.

    Empty where it fits, on the CPU, and where a GPU was named by number. A tenth of the memory is left for activations.
    """
    if device.type != "cuda" or device.index is not None:
        return {}
    stored = getattr(folder.config, "dtype", None) or torch.float32
    size = sum(file.stat().st_size for file in folder.files) * dtype.itemsize / stored.itemsize
    return {"device_map": "auto"} if size > 0.9 * torch.cuda.mem_get_info(device)[0] else {}


def load_model(folder: checkpoints.ModelFolder, device: torch.device, dtype: torch.dtype):
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
        raise runs.UserError(f"{folder.path}: the model does not load ({runs.first_line(error)})") from None
    if info["missing_keys"]:
        raise runs.UserError(f"{folder.path}: tensor {min(info['missing_keys'])} is missing; is the download complete?")
    for name, tensor in model.named_parameters():
        if not tensor.is_meta and not torch.isfinite(tensor).all():  # meta: left on disk until a layer runs
            raise runs.UserError(f"{folder.path}: {name} holds NaN or infinite values; download or save it again")
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
        raise runs.UserError(
            f"a prompt of {max(lengths)} tokens plus {max_new_tokens} new ones exceeds this model's {room} positions"
        )
    order = sorted(range(len(prompts)), key=lambda index: (lengths[index], index))
    texts = {}
    for start in tqdm(runs.own_batches(len(order), batch), desc="generating", unit="batch", disable=None):
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
    return list(runs.gathered(texts).values())


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
    """Ends a forward pass at the last wanted site."""


@contextmanager
def edited_stream(model, edits: dict[int, Callable], scope: str = "prefill", stop: bool = False):
    """Hooks at the sites of `edits`: each edit gets the stream there, and what it returns (unless None) takes its place.

    The first forward pass inside is the prompts'. Scopes: `last` hands an edit their last position, (b, 1, d); `prefill`
    all prompt positions, (b, T, d); `all` these and, in later passes, every new token's. Pads on the left may be edited:
    nothing attends to them. With `stop` the pass ends at the last site. Site s is what module s reads, s = 0..L.

    with edited_stream(model, {5: lambda stream: 0 * stream}, "last"):
        model.generate(**inputs)
    """
    modules = [*model.model.layers, model.model.norm]

    def visitor(site: int, edit: Callable):
        passes = iter(["prompts"])

        def visit(_, args, kwargs):
            if next(passes, None) or scope == "all":
                stream = args[0] if args else kwargs["hidden_states"]
                places = stream[:, -1:] if scope == "last" else stream
                edited = edit(places)
                if edited is not None:
                    places.copy_(edited)
            if stop and site == max(edits):
                raise _LastSiteReached

        return visit

    hooks = []
    try:
        for site, edit in edits.items():
            hooks.append(modules[site].register_forward_pre_hook(visitor(site, edit), with_kwargs=True))
        with suppress(_LastSiteReached):
            yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def captured_sites(model, sites: Sequence[int]):
    """Fills the yielded dict, site -> residual stream (b, T, d), in one pass that ends at the last site.

    with captured_sites(model, (0, 5)) as streams:
        model(**inputs)
    streams[5]
    """
    streams = {}
    with edited_stream(model, {site: partial(streams.__setitem__, site) for site in sites}, stop=True):
        yield streams


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

    for start in tqdm(runs.own_batches(len(prompts), batch), desc="activations", unit="batch", disable=None):
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
