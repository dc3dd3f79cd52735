"""Prompts that begin alike: what they share, few-shot exemplars, is run once, and its keys and values serve them all."""

import inspect
from collections.abc import Sequence

import torch

SHORTEST = 16  # tokens; a shorter beginning is not worth a pass of its own
KEPT = 4  # beginnings: of two languages, and room for others between


def batches(prompts: Sequence[Sequence[int]], size: int) -> list[tuple[list[int], int]]:
    """(indices of a batch's prompts, how many tokens they all begin with), for prompts given as token ids.

    Prompts that begin alike come together, and among them those of similar length. A common beginning leaves every prompt
    its last token, and counts as none where it is shorter than SHORTEST.
    """
    order = sorted(range(len(prompts)), key=lambda index: list(prompts[index]))
    shared = [common(prompts[one], prompts[other]) for one, other in zip(order, order[1:])]
    groups, start = [], 0
    for place in range(1, len(order) + 1):
        if place == len(order) or parted(shared, place - 1):
            groups.append((order[start:place], min(shared[start : place - 1], default=0)))
            start = place
    found = []
    for group, length in groups:
        length = min(length, *(len(prompts[index]) - 1 for index in group))
        group = sorted(group, key=lambda index: (len(prompts[index]), index))
        parts = [group[start : start + size] for start in range(0, len(group), size)]
        found += [(part, length if length >= SHORTEST else 0) for part in parts]
    return found


def parted(shared: Sequence[int], place: int) -> bool:
    """Whether neighbours belong to different groups: they share little, and one of them shares much with its other neighbour."""
    around = shared[max(0, place - 1) : place + 2]
    return shared[place] < SHORTEST <= max(around)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin alike with."""
    return next((place for place, pair in enumerate(zip(one, other)) if pair[0] != pair[1]), min(len(one), len(other)))


class Beginnings:
    """Keys and values of the beginnings that batches share; each is run when a batch first asks for it, the last few are kept.

    They are the model's as it is: one whose weights or hooks change needs new ones.
    """

    def __init__(self, model):
        self.model, self.kept = model, {}  # tokens -> a layer's keys and values each

    @torch.no_grad()
    def cache(self, ids: torch.Tensor, mask: torch.Tensor, length: int):
        """transformers' cache of the first `length` columns of a left-padded batch, ids and mask (b, T); None for no columns.

        The prompts begin with the same `length` tokens. A shorter one's padding pushes the last of these out of the columns;
        they are run again with what follows them.
        """
        from transformers import DynamicCache

        if not length:
            return None
        pads = (mask == 0).sum(1)
        tokens = ids[0, pads[0] : pads[0] + length]
        key = tuple(tokens.tolist())
        if key not in self.kept:
            self.kept[key] = self.run(tokens)
            for oldest in list(self.kept)[:-KEPT]:
                del self.kept[oldest]
        places = (torch.arange(length, device=ids.device) - pads[:, None]).clamp_min(
            0
        )  # (b, length); pads hold anything
        cache = DynamicCache()
        for number, layer in enumerate(self.kept[key]):
            rows = (part[0][:, places.to(part.device)].transpose(0, 1) for part in layer)
            cache.update(*rows, number)
        return cache

    def run(self, tokens: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Every layer's keys and values of a beginning (T,), (1, g, T, dh) each.

        What is new in it is run, behind the most that a kept one begins with alike.
        """
        from transformers import DynamicCache

        key, decoder = tokens.tolist(), self.model.get_decoder()
        whole = DynamicCache()  # one that knows no windows keeps all keys
        known = max(self.kept, key=lambda kept: common(kept, key), default=())
        alike = common(known, key)
        for number, layer in enumerate(self.kept[known] if alike else []):
            whole.update(*(part[:, :, :alike] for part in layer), number)
        if alike < len(key):
            decoder(input_ids=tokens[None, alike:], use_cache=True, **{cache_argument(decoder): whole})
        return [(layer.keys, layer.values) for layer in whole.layers]


def cache_argument(decoder) -> str:
    """What the decoder calls the keys and values that it is given."""
    return "cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values"
