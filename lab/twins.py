"""Untrained twins of a running model, made in place: what its architecture and its words give without what it learned.

Two kinds. `permuted`: the trained embeddings, norms behind the last layer and unembedding, and in every tensor of every layer the
entries change places, which keeps each tensor's scale and outliers. `reinitialised`: the model's own initial weights.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from lab import kept, statistics

KINDS = ("permuted", "reinitialised")  # in this order: the second spoils what the first keeps
SEEDS = 3  # twins of each kind


def impossible(model) -> str | None:
    """Why the model's weights cannot be changed in place; None where they can."""
    places = {parameter.device for parameter in model.parameters()}
    if any(place.type == "meta" for place in places):
        return "some of the model's weights stay on disk"
    if len(places) > 1:
        return "the model is spread over several devices"
    return None


def make_twins(model, seed: int, layers: int, count: int = SEEDS) -> Iterator[tuple[str, int]]:
    """Turn the model into one twin after another, and yield its kind and number: the trained weights are gone.

    `layers`: how many, from the first, have to be those of a twin.
    """
    kept.spend(model)
    for kind in KINDS:
        for number in range(count):
            if kind == "permuted":
                permute(model, seed, number, layers)
            else:
                reinitialise(model, seed, number, layers)
            yield kind, number


def permute(model, seed: int, number: int, layers: int) -> None:
    """Entries change places in every tensor of the first layers; permuted once more they are as well permuted.

    Every tensor has a generator of its own, so that threads may take them in any order.
    """

    @torch.no_grad()
    def shuffle(named: tuple[str, torch.Tensor]) -> None:
        name, tensor = named
        own = int(statistics.seeded(seed, f"twin {number}: {name}").initial_seed())
        draw = torch.Generator(tensor.device).manual_seed(own)
        kind = torch.int32 if tensor.numel() < 2**31 else torch.int64  # half of the memory to go through
        order = torch.randperm(tensor.numel(), generator=draw, device=tensor.device, dtype=kind)
        tensor.copy_(tensor.flatten().index_select(0, order).view_as(tensor))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(shuffle, model.get_decoder().layers[:layers].named_parameters()))


@torch.no_grad()
def reinitialise(model, seed: int, number: int, layers: int) -> None:
    """The model's own initial weights, drawn anew; of its layers those of the first ones."""
    for part in (*model.parameters(), *model.buffers(), *model.modules()):
        vars(part).pop("_is_hf_initialized", None)  # by which transformers keeps what was loaded
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(statistics.seeded(seed, f"twin {number}: initial weights").initial_seed()))
        later = {part for layer in model.get_decoder().layers[layers:] for part in layer.modules()}
        for module in model.modules():
            if module not in later:
                model._init_weights(module)
