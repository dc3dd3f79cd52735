"""JSON and arrays as they are stored: whatever is wrong with them is a ValueError of one line."""

import json
import math
import re
from pathlib import Path

import numpy as np

HEADS = {(1, 0): "read_array_header_1_0", (2, 0): "read_array_header_2_0"}  # of a .npy file, by its version


def parsed(text: str, **options) -> object:
    """A JSON text's value; ValueError also for one nested too deeply to be read, and for half a character (\\ud800)."""
    try:
        value = json.loads(text, **options)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if re.search(r"\\ud[89a-f]", text, re.IGNORECASE):
        json.dumps(value, ensure_ascii=False, default=str).encode()
    return value


def no_constant(name: str) -> None:
    """Refuses NaN and Infinity, which no results hold."""
    raise ValueError(f"{name} is no number")


def read_array(path: Path) -> np.ndarray:
    """A .npy file's numbers; ValueError where its head says anything else than the file holds."""
    with open(path, "rb") as file:
        try:
            shape, _, dtype = getattr(np.lib.format, HEADS[np.lib.format.read_magic(file)])(file)
        except Exception as error:  # Python's parser reads it, and says so in many ways
            raise ValueError(f"its head cannot be read, {type(error).__name__}") from None
        if dtype.kind not in "biuf" or not dtype.isnative:
            raise ValueError(f"its entries are {dtype}, no numbers of this machine")
        if math.prod(shape) * dtype.itemsize != path.stat().st_size - file.tell():
            raise ValueError(f"it is too short or too long for shape {shape}")
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)
