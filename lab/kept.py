"""The model loaded last, given again to scripts that run one after the other in one process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

import psutil
import torch

from lab import ending

# where Linux says what a container may take and has taken, in its newer and its older way
GROUPS = Path("/sys/fs/cgroup")
CONTAINERS = (
    (GROUPS, "memory.max", "memory.current"),
    (GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)

_kept: dict = {}  # inside `loaded`: model, tokenizer, what they are, and the weights of a model that was spent


@contextmanager
def loaded() -> Iterator[None]:
    """Inside, what was given last is given again for the same."""
    _kept["on"] = True
    try:
        yield
    finally:
        _kept.clear()


def given(whose: tuple, how: tuple, load_tokenizer: Callable, load: Callable) -> tuple:
    """(model, tokenizer): the kept ones of these weights, loaded in this way, or those that the two functions return.

    `load` gets the tokenizer.
    """
    if not _kept:
        tokenizer = load_tokenizer()
        return load(tokenizer), tokenizer
    if _kept.get("whose") != whose:
        _kept.update(whose=whose, model=None, weights=None, tokenizer=load_tokenizer())
    if _kept["model"] is None or _kept["how"] != how:
        _kept.update(model=None, weights=None)  # not two at a time
        _kept.update(how=how, model=load(_kept["tokenizer"]))
    if _kept["weights"] is not None:
        put_back(_kept["model"], _kept["weights"])
        _kept["weights"] = None
    return _kept["model"], _kept["tokenizer"]


def spend(model) -> None:
    """To be called before a model's weights are changed for good: given again, it has its own ones.

    They are copied where memory suffices, which saves reading them; or else the model is loaded anew.
    """
    if _kept.get("model") is model and _kept["weights"] is None:
        _kept["weights"] = copied(model)
        if _kept["weights"] is None:
            _kept["model"] = None


def copied(model) -> dict[str, torch.Tensor] | None:
    """A model's weights once more, in the machine's memory; None where that would take half of what is free, or fails."""
    own = weights(model)
    if 2 * sum(tensor.nbytes for tensor in own.values()) > free_memory():
        return None
    try:
        return {name: tensor.to("cpu", copy=True) for name, tensor in own.items()}
    except (MemoryError, RuntimeError) as error:
        if not ending.no_memory(error):
            raise
        return None


def free_memory() -> int:
    """Bytes that this process may still take: what is free of the machine's, or of its container's where that is less."""
    free = psutil.virtual_memory().available
    for folder, limit, used in CONTAINERS:
        with suppress(OSError, ValueError):  # not there, or "max"
            free = min(free, int((folder / limit).read_text()) - int((folder / used).read_text()))
    return free


@torch.no_grad()
def put_back(model, saved: dict[str, torch.Tensor]) -> None:
    """A model's weights are overwritten with what `copied` gave."""
    for name, tensor in weights(model).items():
        tensor.copy_(saved[name])


def weights(model) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, tied ones once."""
    return dict(chain(model.named_parameters(), model.named_buffers()))
