"""How long a hunt will take, said before it starts: arithmetic of its parts over the speed of one matrix product."""

import time
from math import prod

import torch

from lab import checkpoints

TOKENS = {  # thousands that go once through every layer in a part, with the suite's own problems: from a hunt of a 0.5 B model
    "phase 0": 9,
    "phase 2": 35,
    "phase 3": 70,
    "phase 3b": 10,
    "ablation": 32,
}
STRUCTURE = "1.py and 2.py"  # on a CPU counted as in float64
GRAMS = (
    4  # of a layer's matrices by 1.py and 2.py together, with what is taken from them: products of a matrix with itself
)
STARTS = 100  # seconds of a hunt that no model's size changes: ten scripts start, draw subspaces and make pages
ROWS = 256  # tokens of the product that is timed
TIMED = 0.3  # seconds


def sentence(folder: checkpoints.ModelFolder, device: torch.device, dtype: torch.dtype) -> str:
    """What the user reads before the first part: minutes, and the parts that take most of them."""
    found = seconds(folder, device, dtype)
    whole = STARTS + sum(found.values())
    most = sorted(found, key=found.get, reverse=True)[:2]
    return f"expect about {minutes(whole)} on this {device.type} with the suite's own problems, most in {' and '.join(most)}"


def minutes(seconds: float) -> str:
    """A duration that is only roughly known."""
    whole = round(seconds / 60)
    return f"{whole} minute{'s' * (whole != 1)}" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def seconds(folder: checkpoints.ModelFolder, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Part -> seconds; a user's own problems and a rung that is not solved change them."""
    shapes = checkpoints.parameter_shapes(folder.path, folder.config)
    found = operations(shapes, folder.config.vocab_size)
    running = speed(device, dtype, folder.width, max(shape[-2] for shape in shapes.values() if len(shape) > 1))
    exact = torch.float64 if device.type == "cpu" else torch.float32
    at = {STRUCTURE: speed(device, exact, folder.width, folder.width)}
    return {part: count / at.get(part, running) for part, count in found.items()}


def operations(shapes: dict[str, tuple[int, ...]], vocabulary: int) -> dict[str, float]:
    """Part -> floating point operations, for a model whose parameters have these shapes."""
    matrices = [shape for shape in shapes.values() if len(shape) > 1 and shape[0] != vocabulary]
    once = 2 * sum(map(prod, matrices))  # for a token
    grams = sum(2 * prod(shape) * min(shape[-2:]) for shape in matrices)
    return {STRUCTURE: GRAMS * grams} | {part: 1000 * tokens * once for part, tokens in TOKENS.items()}


def speed(device: torch.device, dtype: torch.dtype, width: int, wide: int) -> float:
    """Operations a second of a product of ROWS tokens with a matrix of these sides, measured now."""
    left, right = (torch.ones(shape, dtype=dtype, device=device) for shape in ((ROWS, width), (width, wide)))
    done, start = 0, time.monotonic()
    while (passed := time.monotonic() - start) < TIMED or done < 2:
        (left @ right)[0, 0].item()
        done += 1
    return 2 * ROWS * width * wide * done / passed
