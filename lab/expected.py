"""How long a hunt will take, said before it starts: arithmetic of its parts over the speed of one matrix product."""

import time
from math import prod

import torch

from lab import checkpoints

TOKENS = {  # thousands that go once through every layer in a part, with the suite's own problems
    "phase 0": 20,
    "phase 2": 60,
    "phase 3": 110,
    "phase 3b": 10,
    "ablation": 40,
}
GRAMS = 2.2  # of a layer's matrices by 1.py and 2.py together, with what is taken from them: products of a matrix with itself
ROWS = 256  # tokens of the product that is timed
TIMED = 0.3  # seconds


def sentence(folder: checkpoints.ModelFolder, device: torch.device, dtype: torch.dtype) -> str:
    """What the user reads before the first part: minutes, and the parts that take most of them."""
    found = seconds(folder, device, dtype)
    whole = sum(found.values())
    most = sorted(found, key=found.get, reverse=True)[:2]
    share = " and ".join(f"{name} {found[name] / whole:.0%}" for name in most)
    return f"expect about {minutes(whole)} on this {device.type} with the suite's own problems ({share})"


def minutes(seconds: float) -> str:
    """A duration that is only roughly known."""
    if seconds < 90:
        return "a minute"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def seconds(folder: checkpoints.ModelFolder, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Part -> seconds; a user's own problems and a rung that is not solved change them."""
    every = checkpoints.parameter_shapes(folder.path, folder.config).values()
    matrices = [shape for shape in every if len(shape) > 1 and shape[0] != folder.config.vocab_size]
    once = 2 * sum(map(prod, matrices))  # operations for a token
    grams = sum(2 * prod(shape) * min(shape[-2:]) for shape in matrices)
    running = speed(device, dtype, folder.width, max(shape[-2] for shape in matrices))
    found = {part: 1000 * tokens * once / running for part, tokens in TOKENS.items()}
    return {
        "1.py and 2.py": GRAMS * grams / speed(torch.device("cpu"), torch.float64, folder.width, folder.width)
    } | found


def speed(device: torch.device, dtype: torch.dtype, width: int, wide: int) -> float:
    """Operations a second of a product of ROWS tokens with a matrix of these sides, measured now."""
    left, right = (torch.ones(shape, dtype=dtype, device=device) for shape in ((ROWS, width), (width, wide)))
    done, start = 0, time.monotonic()
    while (passed := time.monotonic() - start) < TIMED or done < 2:
        (left @ right)[0, 0].item()
        done += 1
    return 2 * ROWS * width * wide * done / passed
