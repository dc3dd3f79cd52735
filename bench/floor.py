"""How far a script that runs the model is above its floor: its time beside that of its matrix products and attentions alone.

Every product and attention that the script asks torch for is noted with shapes, strides and type, and how often; afterwards each
kind is timed by itself on random numbers, as many threads, and the best time counts. The sum is what any implementation with
these products has to spend; what the script takes above it is weights read and dequantised, norms, softmax, copies, Python, what
numpy and scipy do, the page and its figures. On the CPU; for 1.py and 2.py, whose work is scipy's, see bench/structure.py.
Noting is charged to the script: nothing to speak of where products take milliseconds, but a model as small as the embedded one
takes twice as long under it.

Run        python -m bench.floor phase3_patching.py --model MODEL --out FOLDER --fresh       the script's own flags follow it
"""

import argparse
import importlib
import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from lab import runs
from reports import page

NAMES = ("mm", "addmm", "bmm", "baddbmm", "mv", "linear", "_linear_pointwise", "mkldnn_linear")
PREFIXES = ("_scaled_dot_product", "_grouped_mm")
ROUNDS, BUDGET = 3, 2.0  # times that a kind is timed, or as often as these seconds allow


class Noted(TorchDispatchMode):
    """Counts what is asked of torch, by kind: (operation, what it was given with tensors as (shape, strides, type))."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = operation.overloadpacket.__name__
        if name in NAMES or name.startswith(PREFIXES):
            leaves, structure = tree_flatten((args, kwargs))
            self.counts[operation, structure, tuple(map(described, leaves))] += 1
        return operation(*args, **kwargs)


def described(leaf: object) -> object:
    """A tensor as what is needed to make one like it, in a tuple of its own; anything else as it is."""
    if isinstance(leaf, torch.Tensor):
        return torch.Tensor, tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device
    return leaf


def remade(leaf: object) -> object:
    """A tensor of random numbers as `described` says; positive, so that an attention mask hides nothing."""
    if not (isinstance(leaf, tuple) and leaf and leaf[0] is torch.Tensor):
        return leaf
    _, shape, strides, dtype, device = leaf
    places = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides)) if 0 not in shape else 0
    storage = torch.zeros(places, dtype=dtype, device=device)
    return (storage.uniform_() if dtype.is_floating_point else storage).as_strided(shape, strides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("script", choices=[name for name in runs.SCRIPTS.values() if name not in ("1.py", "2.py")])
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="the script's own")
    arguments = parser.parse_args()
    module = importlib.import_module(Path(arguments.script).stem)
    start = time.monotonic()
    with Noted() as noted:
        module.main(arguments.flags)
    whole = time.monotonic() - start
    memory, alone = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, Counter()
    for kind, count in noted.counts.items():
        alone[kind] = count * fastest(*kind)
    floor = alone.total()
    times = f"{whole:.1f} s, of which its products alone take {floor:.1f} s: {whole / floor:.2f} times the floor"
    print(f"{arguments.script}: {times}; {memory:.2f} GB at the most")
    rows = []
    for kind, seconds in alone.most_common(8):
        shapes = " with ".join("x".join(map(str, leaf[1])) for leaf in kind[2] if isinstance(leaf, tuple) and leaf)
        rows.append([kind[0].overloadpacket.__name__, shapes, str(noted.counts[kind]), f"{seconds:.1f} s"])
    print(page.table(["operation", "shapes", "times", "alone"], rows))


@torch.no_grad()
def fastest(operation: Callable, structure: object, leaves: tuple) -> float:
    """Seconds of one call, the best of a few."""
    args, kwargs = tree_unflatten([remade(leaf) for leaf in leaves], structure)
    best, begun = float("inf"), time.monotonic()
    for _ in range(ROUNDS):
        start = time.monotonic()
        operation(*args, **kwargs)
        best = min(best, time.monotonic() - start)
        if time.monotonic() - begun > BUDGET:
            break
    return best


if __name__ == "__main__":
    main()
