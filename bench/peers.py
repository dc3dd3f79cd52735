"""Other ways to put a vector into the last position's stream at a site: plain hooks, nnsight, TransformerLens, pyvene.

A way is made for a model and a site, then gets a prompt's tokens, then runs conditions, any number in one pass:

asked = WAYS["nnsight"](model, site)(ids)          ids (1, T) without pads
logits = asked(vectors)                            (c, d) -> (c, vocabulary) at the last position

Full ways run the whole prompt through the whole model for every condition. The others, for comparison, keep something of the
prompt that is worked out when they get its tokens. Each has what its library offers: logits at the last position only, no
cache that nothing reads. Libraries are imported where they are used, and each has a copy of the modules, as some replace or
wrap them; the parameters are the model's own.
"""

import copy
import functools
import tempfile
from collections.abc import Callable

import torch

from lab import models


def own_modules(model) -> torch.nn.Module:
    """The model with modules of its own around the same parameters."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def unpatched_streams(model, ids: torch.Tensor, site: int) -> torch.Tensor:
    """The prompt's stream at a site, (1, T, d)."""
    with models.captured_sites(model, [site]) as streams:
        model(input_ids=ids, use_cache=False)
    return streams[site].clone()


def hooked(model, site: int) -> Callable:
    """A hook of PyTorch's on what reads the site."""

    def asked(ids: torch.Tensor) -> Callable:
        def run(vectors: torch.Tensor) -> torch.Tensor:
            with models.edited_stream(model, {site: lambda _: vectors[:, None]}, "last"):
                return model(input_ids=rows(ids, vectors), use_cache=False, logits_to_keep=1).logits[:, -1]

        return run

    return asked


def hooked_behind_cache(model, site: int) -> Callable:
    """The same for the last token only, behind the prompt's keys and values: all layers, whole vocabulary."""
    from transformers import DynamicCache

    def asked(ids: torch.Tensor) -> Callable:
        prefix = model(input_ids=ids[:, :-1], use_cache=True, logits_to_keep=1).past_key_values

        @functools.lru_cache(1)
        def repeated(count: int) -> list[tuple]:
            return [
                tuple(part.repeat(count, 1, 1, 1) for part in (layer.keys, layer.values)) for layer in prefix.layers
            ]

        def run(vectors: torch.Tensor) -> torch.Tensor:
            cache = DynamicCache()
            for number, layer in enumerate(repeated(len(vectors))):
                cache.update(*layer, number)
            last = {"input_ids": rows(ids[:, -1:], vectors), "past_key_values": cache, "use_cache": True}
            with models.edited_stream(model, {site: lambda _: vectors[:, None]}, "last"):
                return model(**last, logits_to_keep=1).logits[:, -1]

        return run

    return asked


def nnsight(model, site: int) -> Callable:
    """The input of the layer is assigned to inside a trace."""
    from nnsight import NNsight

    wrapped = NNsight(own_modules(model))

    def asked(ids: torch.Tensor) -> Callable:
        def run(vectors: torch.Tensor) -> torch.Tensor:
            reader = [*wrapped.model.layers, wrapped.model.norm][site]
            inputs = {"input_ids": rows(ids, vectors), "use_cache": False, "logits_to_keep": 1}
            with wrapped.trace(**inputs):
                reader.input[:, -1] = vectors
                logits = wrapped.lm_head.output.save()
            return logits[:, -1]

        return run

    return asked


def nnsight_from_site(model, site: int) -> Callable:
    """Layers below the site are skipped; the prompt's stream at the site is kept."""
    from nnsight import NNsight

    wrapped = NNsight(own_modules(model))

    def asked(ids: torch.Tensor) -> Callable:
        kept = unpatched_streams(model, ids, site)

        def run(vectors: torch.Tensor) -> torch.Tensor:
            stream = torch.cat([kept[:, :-1].expand(len(vectors), -1, -1), vectors[:, None]], 1)
            inputs = {"input_ids": rows(ids, vectors), "use_cache": False, "logits_to_keep": 1}
            below = list(wrapped.model.layers)[:site]
            with wrapped.trace(**inputs):
                for layer in below:
                    layer.skip(stream)
                logits = wrapped.lm_head.output.save()
            return logits[:, -1]

        return run

    return asked


def lens_bridge(model, site: int) -> Callable:
    """TransformerLens from version 3 on: a bridge around transformers' model."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    lens = build_bridge_from_module(own_modules(model), type(model).__name__, hf_config=copy.deepcopy(model.config))

    def asked(ids: torch.Tensor) -> Callable:
        def run(vectors: torch.Tensor) -> torch.Tensor:
            with lens.hooks(fwd_hooks=[lens_hook(lens, site, vectors)]):
                return lens(rows(ids, vectors), use_cache=False, logits_to_keep=1)[:, -1]

        return run

    return asked


def lens_hooked(model, site: int) -> Callable:
    """TransformerLens up to version 3: HookedTransformer, the weights without processing."""
    lens = hooked_transformer(model)

    def asked(ids: torch.Tensor) -> Callable:
        def run(vectors: torch.Tensor) -> torch.Tensor:
            with lens.hooks(fwd_hooks=[lens_hook(lens, site, vectors)]):
                return lens_logits(lens, lens(rows(ids, vectors), stop_at_layer=lens.cfg.n_layers))

        return run

    return asked


def lens_from_site(model, site: int) -> Callable:
    """HookedTransformer's start_at_layer: the prompt's stream at the site is kept."""
    lens = hooked_transformer(model)

    def asked(ids: torch.Tensor) -> Callable:
        kept = unpatched_streams(model, ids, site)

        def run(vectors: torch.Tensor) -> torch.Tensor:
            stream = torch.cat([kept[:, :-1].expand(len(vectors), -1, -1), vectors[:, None]], 1)
            return lens_logits(lens, lens(stream, start_at_layer=site, stop_at_layer=lens.cfg.n_layers))

        return run

    return asked


def hooked_transformer(model):
    """As from_pretrained_no_processing makes it, but from a model that has no name on the hub."""
    from transformer_lens import HookedTransformer
    from transformer_lens import loading_from_pretrained as loading

    own = copy.deepcopy(model.config)
    own.architectures = [type(model).__name__]  # which a GGUF file does not name
    with tempfile.TemporaryDirectory() as folder:
        own.save_pretrained(folder)
        settings = {"hf_cfg": own.to_dict(), "device": str(model.device), "dtype": model.dtype}
        config = loading.get_pretrained_model_config(folder, **settings)
        weights = loading.get_pretrained_state_dict(folder, config, model, dtype=model.dtype)
    config.tokenizer_name = None  # or one is looked for there
    lens = HookedTransformer(config, None, move_to_device=False)
    off = (
        "fold_ln",
        "center_writing_weights",
        "center_unembed",
        "fold_value_biases",
        "refactor_factored_attn_matrices",
    )
    lens.load_and_process_state_dict(weights, **dict.fromkeys(off, False))
    lens.move_model_modules_to_device()
    return lens.eval().requires_grad_(False)


def lens_hook(lens, site: int, vectors: torch.Tensor) -> tuple[str, Callable]:
    """Name and hook that put the vectors at the last position."""

    def patch(stream: torch.Tensor, hook) -> torch.Tensor:
        stream[:, -1] = vectors
        return stream

    inside = site < lens.cfg.n_layers
    return (f"blocks.{site}.hook_resid_pre" if inside else f"blocks.{site - 1}.hook_resid_post"), patch


def lens_logits(lens, stream: torch.Tensor) -> torch.Tensor:
    """Logits of the last position only. (c, T, d) -> (c, vocabulary)"""
    return lens.unembed(lens.ln_final(stream[:, -1:]))[:, -1]


def pyvene(model, site: int) -> Callable:
    """A VanillaIntervention that gets its source representations."""
    import pyvene as library

    layers = model.config.get_text_config().num_hidden_layers
    place = (site, "block_input") if site < layers else (site - 1, "block_output")
    wanted = {"layer": place[0], "component": place[1], "intervention_type": library.VanillaIntervention}
    wrapped = library.IntervenableModel(library.IntervenableConfig([wanted]), model=own_modules(model))

    def asked(ids: torch.Tensor) -> Callable:
        def run(vectors: torch.Tensor) -> torch.Tensor:
            _, found = wrapped(
                {"input_ids": rows(ids, vectors), "logits_to_keep": 1},
                source_representations=vectors[:, None],
                unit_locations={"base": ids.shape[1] - 1},
                use_cache=False,
            )
            return found.logits[:, -1]

        return run

    return asked


def rows(ids: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """The prompt once for every condition."""
    return ids.expand(len(vectors), -1)


FULL = {
    "hooked pass": hooked,
    "nnsight": nnsight,
    "TransformerLens bridge": lens_bridge,
    "TransformerLens HookedTransformer": lens_hooked,
    "pyvene": pyvene,
}
KEPT = {  # what they keep of a prompt
    "nnsight, layers below skipped": nnsight_from_site,
    "HookedTransformer, start_at_layer": lens_from_site,
    "hooked pass of the last token behind a cache": hooked_behind_cache,
}
WAYS = FULL | KEPT
