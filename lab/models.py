"""The running model: loading it, generating with it, and reading and replacing its residual stream.

The residual stream at site s is the stream after s layers, s = 0..L.
"""

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from functools import partial

import torch

from lab import beginnings, checkpoints, ending, kept, progress, runs, tensors

SINK_FACTOR = 10  # a position whose norm exceeds this many medians of its prompt's is an attention sink
PROBE = "1 a"  # a text that every tokenizer reads
FINAL_NORMS = ("norm", "final_layer_norm")  # what decoders call the norm above their last layer


def load_tokenizer(folder: checkpoints.ModelFolder):
    """The model's tokenizer, padding left. What it puts before a text stays; what it would append is taken off.

    A prompt that ends in a special token asks for no answer, and one inside an answer makes it a wrong one. Raises
    UserError where there is no tokenizer, or one that reads nothing.
    """
    import transformers

    try:
        with checkpoints.silent_transformers():
            tokenizer = transformers.AutoTokenizer.from_pretrained(**folder.source)
        read, unknown = unmarked(tokenizer, PROBE), tokenizer.unk_token_id
    except Exception as error:  # missing files surface as OSError, ValueError, TypeError or a Rust exception
        raise runs.UserError(f"{folder.path}: no usable tokenizer ({runs.first_line(error)})") from None
    if set(read) <= {unknown}:  # transformers makes an empty one where files are missing
        raise runs.UserError(
            f"{folder.path}: no usable tokenizer, {PROBE!r} has no tokens in it: are tokenizer.json, or the vocabulary "
            "files of its class, beside the weights?"
        )
    append_nothing(folder, tokenizer, read)
    marked = not folder.path.is_dir() and folder.tensors.field("tokenizer.ggml.add_bos_token")
    if marked and not tokenizer("")["input_ids"]:
        raise runs.UserError(
            f"{folder.path}: texts begin with a token of their own there, which transformers {transformers.__version__} "
            "does not put before them; 5.23 does"
        )
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:  # any token will do: nothing attends to pads
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(read[0])
    return tokenizer


def unmarked(tokenizer, text: str) -> list[int]:
    """The text's own token ids."""
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # a long text is no prompt


def append_nothing(folder: checkpoints.ModelFolder, tokenizer, read: list[int]) -> None:
    """Makes the tokenizer put special tokens before a text only; `read` are the ids of PROBE. UserError where it cannot."""
    from tokenizers.processors import TemplateProcessing

    ids, size = tokenizer(PROBE)["input_ids"], len(read)
    if ids[-size:] == read:
        return
    start = next((place for place in range(len(ids)) if ids[place : place + size] == read), None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if start is not None and backend is not None:
        names = tokenizer.convert_ids_to_tokens(ids[:start])
        backend.post_processor = TemplateProcessing(single=[*names, "$A"], special_tokens=list(zip(names, ids)))
        if tokenizer(PROBE)["input_ids"] == ids[: start + size]:
            return
    raise runs.UserError(
        f"{folder.path}: its tokenizer makes {tokenizer.convert_ids_to_tokens(ids)} of {PROBE!r}, and what it appends cannot "
        "be taken off; save it with add_eos_token=False"
    )


def check_reading(tokenizer, texts: Mapping[str, Iterable[str]]) -> None:
    """UserError for the first language of whose letters the tokenizer knows none. `texts`: by language."""
    for language, own in texts.items():
        letters = "".join(letter if letter.isalpha() else " " for letter in " ".join(own))
        known = [token for token in unmarked(tokenizer, letters) if token != tokenizer.unk_token_id]
        if not tokenizer.decode(known).strip():
            raise runs.UserError(
                f"--languages {language}: this model's tokenizer makes nothing but unknown tokens of its letters; leave "
                "that language out, or use a model that was trained on it"
            )


def embedding_rows(model) -> int:
    """How many token ids the model knows. Its tokenizer may have more, which no text makes (Gemma 3's image token)."""
    return model.get_input_embeddings().weight.shape[0]


def check_tokens(model, tokens: Iterable[int]) -> None:
    """UserError for a token beyond the embedding."""
    highest, rows = max(tokens, default=0), embedding_rows(model)
    if highest >= rows:
        raise runs.UserError(
            f"the tokenizer makes token {highest} of a text asked here, but the model's embedding has {rows} rows: is it "
            "another model's tokenizer? Save the model's own beside its weights"
        )


def check_special_tokens(folder: checkpoints.ModelFolder, model, tokenizer) -> None:
    """UserError for a pad, beginning or end token beyond the embedding."""
    rows = embedding_rows(model)
    for name in ("pad", "bos", "eos"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None and number >= rows:
            raise runs.UserError(
                f"{folder.path}: the tokenizer's {name}_token {getattr(tokenizer, f'{name}_token')!r} is number {number}, "
                f"but the embedding has {rows} rows: name one that the model knows in tokenizer_config.json"
            )


def placement(folder: checkpoints.ModelFolder, device: torch.device, dtype: torch.dtype) -> dict:
    """from_pretrained's arguments for a model that the chosen GPU does not hold: spread over all GPUs, then the CPU.

    Empty where it fits, on the CPU, and where a GPU was named by number. A tenth of the memory is left for activations.
    """
    if device.type != "cuda" or device.index is not None:
        return {}
    if folder.path.is_dir():
        stored = getattr(folder.config, "dtype", None) or torch.float32
        parameters = sum(file.stat().st_size for file in folder.files) / stored.itemsize
    else:
        parameters = sum(map(math.prod, folder.tensors.shapes.values()))
    return {"device_map": "auto"} if parameters * dtype.itemsize > 0.9 * torch.cuda.mem_get_info(device)[0] else {}


def load_model(folder: checkpoints.ModelFolder, device: torch.device, dtype: torch.dtype):
    """(model in eval mode, tokenizer). Raises UserError where not just the folder's weights would run, all of them finite."""
    return kept.given(
        (folder.path, runs.short_hash(folder.identity)),
        (str(device), dtype),
        lambda: load_tokenizer(folder),
        lambda tokenizer: load_beside(tokenizer, folder, device, dtype),
    )


def load_beside(tokenizer, folder: checkpoints.ModelFolder, device: torch.device, dtype: torch.dtype):
    """The model in eval mode, its special tokens checked against the tokenizer's."""
    from transformers import GenerationConfig

    spread = placement(folder, device, dtype)
    model = load_weights(folder, dtype, spread)
    check_special_tokens(folder, model, tokenizer)
    for name, tensor in model.named_parameters():
        if not tensor.is_meta:  # left on disk until a layer runs
            tensors.finite(tensor, folder.path, name)
    end = model.generation_config.eos_token_id
    # a plain greedy configuration: a checkpoint's own may hold a repetition penalty, which changes greedy output
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id if end is None else end,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.eval().requires_grad_(False)
    if not spread:
        model.to(device)
        if device.type == "cpu":
            quicken(model)
    return model


def load_weights(folder: checkpoints.ModelFolder, dtype: torch.dtype, spread: dict):
    """The model as transformers loads it, a GGUF file's weights dequantised; UserError where it keeps or drops others."""
    import transformers

    options = {"dtype": dtype, "ignore_mismatched_sizes": True, "output_loading_info": True, **spread}
    if folder.path.is_dir():
        options["use_safetensors"] = True
    else:
        options["config"] = folder.config  # or the file's vocabulary is read once more, which takes seconds
        if hasattr(transformers, "GgufConfig"):  # without it there is no other way than to dequantise
            options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        with checkpoints.silent_transformers(), redirect_stderr(io.StringIO()):  # one of its bars knows no setting
            model, found = transformers.AutoModelForCausalLM.from_pretrained(**folder.source, **options)
    except Exception as error:  # what does not load surfaces as any type
        if ending.no_memory(error):
            raise
        raise runs.UserError(f"{folder.path}: the model does not load ({runs.first_line(error)})") from None
    for name, have, wanted in sorted(found["mismatched_keys"]):
        tensors.refuse_shape(folder.path, name, have, wanted)
    tensors.check_names(folder.path, found["missing_keys"], found["unexpected_keys"])
    if not folder.path.is_dir():  # or it counts as quantised, dense as it is, and is not cast
        model.hf_quantizer = None
        vars(model.config).pop("quantization_config", None)
    return model


class OneDnnLinear(torch.nn.Linear):
    """A linear layer whose float32 products on the CPU are oneDNN's: torch takes MKL's, at half the speed on an AMD CPU.

    Of the same precision, not of the same bits. Without gradients, which that operator does not have.
    """

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if states.dtype != torch.float32 or states.is_cuda or (torch.is_grad_enabled() and states.requires_grad):
            return super().forward(states)
        return torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, "none", [], "")


def quicken(model) -> None:
    """Lets oneDNN do the linear layers of a model in float32 on the CPU, where torch has it."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = OneDnnLinear


@torch.inference_mode()
def generate(
    model,
    tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch: int,
    during: Callable | None = None,
    ended: Callable[[int, str], bool] | None = None,
    last: bool = False,
) -> list[str]:
    """Greedy continuation of each prompt: its first non-blank line, or all up to where `ended` says so.

    Prompts that begin alike share a batch, padded left, and the run of what they begin with; the order of the result is the
    order of the prompts. `during` gets the indices of a batch's prompts and returns a context manager in which the batch is
    run from its first token (for a patch), or, where it changes the `last` position alone, behind what they begin with;
    `ended` gets a prompt's index and its text so far. UserError where a prompt and the new tokens are too long.
    """
    from transformers import StoppingCriteriaList

    rows = tokenizer(list(prompts))["input_ids"]
    check_tokens(model, (token for ids in rows for token in ids))
    longest = max(map(len, rows))
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
    if longest + max_new_tokens > room:
        raise runs.UserError(
            f"a prompt of {longest} tokens plus {max_new_tokens} new ones exceeds this model's {room} positions"
        )
    texts, shared = {}, beginnings.Beginnings(model)
    for chosen, length in progress.steps(runs.own_turns(beginnings.batches(rows, batch)), "generating", "batch"):
        inputs = tokenizer([prompts[index] for index in chosen], return_tensors="pt", padding=True).to(model.device)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        stop = StoppingCriteriaList([text_ended(tokenizer, ids.shape[1], chosen, ended or line_ended)])
        cache = shared.cache(ids, mask, 0 if during and not last else length)
        with during(chosen) if during else nullcontext():
            tokens = model.generate(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                max_new_tokens=max_new_tokens,
                stopping_criteria=stop,
            )
        for index, text in zip(chosen, tokenizer.batch_decode(tokens[:, ids.shape[1] :], skip_special_tokens=True)):
            texts[index] = text if ended else first_text_line(text)
    return list(runs.gathered(texts).values())


def text_ended(tokenizer, prompt_length: int, chosen: Sequence[int], ended: Callable[[int, str], bool]):
    """Stopping criterion, per row: `ended` of the prompt's index and the new text, asked until it is so."""
    done = [False] * len(chosen)

    def criterion(tokens: torch.Tensor, scores, **_) -> torch.Tensor:
        going_on = [row for row, over in enumerate(done) if not over]
        new = tokenizer.batch_decode(tokens[going_on, prompt_length:], skip_special_tokens=True)
        for row, text in zip(going_on, new):
            done[row] = ended(chosen[row], text)
        return torch.tensor(done, device=tokens.device)

    return criterion


def line_ended(_, text: str) -> bool:
    """Whether the text holds a line break after something that is not blank."""
    return "\n" in text.lstrip()


def first_text_line(text: str) -> str:
    """Leading white space kept, everything from the first line break after text cut."""
    body = text.lstrip()
    return text[: len(text) - len(body)] + body.split("\n")[0]


def site_modules(model) -> list[torch.nn.Module]:
    """What reads the stream at sites 0..L: the layers, then the final norm. UserError where these are not known."""
    decoder = model.get_decoder()
    norm = next((getattr(decoder, name) for name in FINAL_NORMS if hasattr(decoder, name)), None)
    if norm is None or not hasattr(decoder, "layers"):
        raise runs.UserError(
            f"{type(decoder).__name__} calls its layers or its final norm otherwise than is known here"
        )
    return [*decoder.layers, norm]


def logits(model, states: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
    """What the model makes of its normed final stream: (..., d) -> (..., vocabulary) float32, or only of some tokens (t,).

    The rows of some tokens are multiplied in float32, also where the model's own numbers are coarser.
    """
    head = model.get_output_embeddings()
    if tokens is None or head.weight.is_meta:  # left on disk until it runs
        found = head(states).float()
        found = found if tokens is None else found[..., tokens.to(found.device)]
    else:
        parts = (part if part is None else part[tokens.to(part.device)].float() for part in (head.weight, head.bias))
        found = torch.nn.functional.linear(states.to(head.weight.device).float(), *parts)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return found if cap is None else cap * (found / cap).tanh()


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
    modules = site_modules(model)

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
def captured_sites(model, sites: Sequence[float]):
    """Fills the yielded dict, site -> residual stream (b, T, d), in one pass that ends at the last site.

    Site s + ½, asked beside site s, is the stream in layer s once its attention has written, and before its FFN has.

    with captured_sites(model, (0, 5, 5.5)) as streams:
        model(**inputs)
    streams[5]
    """
    streams, hooks, modules = {}, [], site_modules(model)
    whole = [site for site in sites if site == int(site)]
    try:
        for site in set(sites) - set(whole):
            hooks.append(between_hook(modules[int(site)], int(site), streams))
        with edited_stream(model, {site: partial(streams.__setitem__, site) for site in whole}, stop=True):
            yield streams
    finally:
        for hook in hooks:
            hook.remove()


def between_hook(layer: torch.nn.Module, site: int, streams: dict):
    """The hook that puts the stream between a layer's attention and its FFN into `streams`, as site + ½.

    Where both read the layer's input (GPT-NeoX), it is that input and what attention adds to it.
    """

    def read(_, args, kwargs) -> None:
        streams[site + 0.5] = args[0] if args else kwargs["hidden_states"]

    if getattr(layer, "use_parallel_residual", False):

        def add(_, args, output) -> None:
            streams[site + 0.5] = streams[site] + (output[0] if isinstance(output, tuple) else output)

        return layer.attention.register_forward_hook(add)
    name = "pre_feedforward_layernorm" if hasattr(layer, "pre_feedforward_layernorm") else "post_attention_layernorm"
    if name == "post_attention_layernorm" and hasattr(layer, "post_feedforward_layernorm"):
        name = "mlp"  # OLMo 2 has norms behind its parts only
    return getattr(layer, name).register_forward_pre_hook(read, with_kwargs=True)


def padded_batch(tokenizer, prompts: Sequence[str], device) -> dict[str, torch.Tensor]:
    """Left-padded ids, mask and positions that start at each prompt's first token, (b, T) each on the device."""
    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True).to(device)
    mask = inputs["attention_mask"]
    return {
        "input_ids": inputs["input_ids"],
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp_min(0),
    }


@torch.inference_mode()
def residual_streams(
    model,
    tokenizer,
    prompts: Sequence[str],
    sites: Sequence[float],
    batch: int,
    skip: Sequence[int] | None = None,
    what: str = "activations",
) -> Iterator[tuple]:
    """Yield (index, token ids (T,), streams (sites, T, d) float32 on the CPU) for each prompt, pads removed.

    `skip`: how many tokens of each prompt's beginning are left off ids and streams. Prompts that begin alike share a batch,
    and the run of what they begin with. Under `accelerate launch` each process yields its share; what is made of them has to
    be `gathered`.
    """
    shared, rows = beginnings.Beginnings(model), tokenizer(list(prompts))["input_ids"]
    check_tokens(model, (token for ids in rows for token in ids))
    begun, before = None, None  # the last beginning and its streams
    for chosen, length in progress.steps(runs.own_turns(beginnings.batches(rows, batch)), what, "batch"):
        inputs = padded_batch(tokenizer, [prompts[index] for index in chosen], model.device)
        mask, beginning = inputs["attention_mask"], rows[chosen[0]][:length]
        if length and beginning != begun:
            begun, before = (
                beginning,
                site_streams(model, sites, input_ids=torch.tensor([beginning], device=model.device)),
            )
        cache = shared.cache(inputs["input_ids"], mask, length)
        new = {name: inputs[name][:, length:] for name in ("input_ids", "position_ids")}
        streams = site_streams(model, sites, cache, attention_mask=mask, **new)
        for index, stream, pads in zip(chosen, streams, (mask == 0).sum(1).tolist()):
            own, first = stream[:, max(0, pads - length) :], max(0, length - pads)  # the token that it begins with
            left = skip[index] if skip else 0
            if left < first:
                own, first = torch.cat([before[0][:, left:first], own], 1), left
            yield index, torch.tensor(rows[index][left:]), own[:, left - first :].float().cpu()


def site_streams(model, sites: Sequence[float], cache=None, **inputs) -> torch.Tensor:
    """Streams at the sites of one pass, (b, sites, T, d), behind what a cache holds."""
    decoder = model.get_decoder()
    given = {beginnings.cache_argument(decoder): cache} if cache else {}
    with captured_sites(model, sites) as streams:
        decoder(**inputs, use_cache=bool(given), **given)
    return torch.stack([streams[site].to(model.device) for site in sites], 1)


def sinks(stream: torch.Tensor) -> torch.Tensor:
    """Which positions of one prompt are attention sinks: norm above SINK_FACTOR medians. (..., T, d) -> (..., T) bool"""
    norms = stream.norm(dim=-1)
    return norms > SINK_FACTOR * norms.median(-1, keepdim=True).values


def spaced(keep: torch.Tensor, size: int) -> torch.Tensor:
    """`size` evenly spaced positions among those kept (T,): from the first to the last, of size 1 the first alone."""
    positions = keep.nonzero().flatten()
    return positions[torch.linspace(0, len(positions) - 1, size).round().long()]
