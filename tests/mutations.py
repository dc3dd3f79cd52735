"""Inputs for the fuzz tests: valid ones changed in structure, in text or in bytes; and the tally of what became of them."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path

import hypothesis
from hypothesis import strategies as st

from lab import runs

INPUTS = int(os.environ.get("FUZZ", "300"))  # of each surface
LONGEST = 1000  # characters of a message
SECONDS = 30  # after which an input counts as one that hangs
fuzzed = hypothesis.settings(
    max_examples=INPUTS,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate, hypothesis.Phase.shrink],
)

NUMBERS = [
    0,
    1,
    2,
    3,
    -1,
    0.5,
    2.5,
    255,
    2**31,
    -(2**31),
    10**9,
    2**63 - 1,
    2**63,
    -(2**63),
    2**64,
    10**30,
    1e-300,
    1e300,
]
UNFOUNDED = [float("nan"), float("inf"), float("-inf")]
TEXTS = [
    "",
    " ",
    "abc",
    "0",
    "-1",
    "nan",
    "None",
    "{}",
    "{question}",
    "{",
    "}",
    "\u2028",
    "a\nb",
    "a\tb",
    "\ud800",
    "\ufeff",
]
TEXTS += [
    "\x1b[31m",
    "١٢",
    "½",
    "１２",
    "5!",
    "一百五",
    "¬",
    "\u202e",
    "Ω",
    "é",
    "🦉",
    "../..",
    "/",
    "x" * 3000,
    "1" * 5000,
]
SHAPES = [None, True, False, [], {}, [[]], [1, 2], ["a"], {"a": 1}, {"en": "a", "zh": "b"}, [None], {"": None}]
ODD = st.sampled_from([*NUMBERS, *UNFOUNDED, *TEXTS, *SHAPES])
DEEP = 100_000  # levels of nesting


class Hangs(BaseException):
    """An input that takes longer than any should."""


class Tally:
    """How many inputs were accepted, and how many refused in one line; whatever else they lead to falls."""

    def __init__(self):
        self.accepted = self.refused = 0

    def __call__(self, read: Callable[[], object]) -> None:
        try:
            with in_time(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                read()
        except runs.UserError as error:
            line = str(error)
            assert line.strip() and len(line.splitlines()) == 1 and len(line) <= LONGEST, line
            self.refused += 1
        else:
            self.accepted += 1

    def settle(self) -> None:
        """A fuzz test whose inputs all end alike tests little: a fiftieth at least must end either way."""
        print(f"{self.accepted} accepted, {self.refused} refused")
        assert min(self.accepted, self.refused) >= (self.accepted + self.refused) / 50, vars(self)


@contextmanager
def in_time() -> Iterator[None]:
    """Raises Hangs where what is inside takes too long."""

    def end(*_):
        raise Hangs

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def holder(draw: st.DrawFn, value: object) -> tuple[object, object]:
    """(a dictionary or list somewhere in the value that is not empty, one of its keys)."""
    while True:
        key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        inner = value[key]
        if not isinstance(inner, dict | list) or not inner or not draw(st.integers(0, 3)):
            return value, key
        value = inner


@st.composite
def changed(draw: st.DrawFn, value: object, most: int = 2, odd: st.SearchStrategy = ODD) -> object:
    """A JSON value with up to `most` places of it deleted, replaced, doubled, renamed or nested."""
    root = {"": deepcopy(value)}
    for _ in range(draw(st.integers(0, most))):
        if not isinstance(root[""], dict | list) or not root[""]:
            break
        inside, key = holder(draw, root[""])
        way = draw(st.sampled_from(["replace", "replace", "delete", "near", "nest", "rename", "trade"]))
        if way == "delete":
            del inside[key]
        elif way == "near":
            inside[key] = near(draw, inside[key], odd)
        elif way == "nest":
            inside[key] = draw(st.sampled_from([[inside[key]], {"a": inside[key]}, str(inside[key])]))
        elif way == "rename" and isinstance(inside, dict):
            inside[draw(st.sampled_from([f"{key}_", key.upper(), "", "a\nb", "\ud800", "x" * 2000]))] = inside.pop(key)
        elif way == "trade":
            other, place = holder(draw, root[""])
            inside[key] = deepcopy(other[place])
        else:
            inside[key] = deepcopy(draw(odd))
    return root[""]


def near(draw: st.DrawFn, value: object, odd: st.SearchStrategy) -> object:
    """A value of the same type, a little off."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return draw(st.sampled_from([value + 1, value - 1, 2 * value, -value, float(value), *NUMBERS, *UNFOUNDED]))
    if isinstance(value, str):
        place, more = draw(st.integers(0, len(value))), draw(st.sampled_from(TEXTS))
        return draw(st.sampled_from([value[:place] + more + value[place:], value[:place], value + value, value + more]))
    if isinstance(value, list):
        return draw(st.sampled_from([value + value, value[:-1], value[::-1], [*value, None]]))
    return deepcopy(draw(odd))


@st.composite
def damaged(draw: st.DrawFn, content: bytes, first: int | None = None) -> bytes:
    """Bytes cut, flipped, replaced, doubled or taken out, in the `first` ones most often."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        end = min(first, len(content)) if first and draw(st.integers(0, 4)) else len(content)
        place = draw(st.integers(0, max(0, end - 1)))
        size = draw(st.sampled_from([1, 1, 2, 4, 8, 64]))
        way = draw(st.sampled_from(["flip", "flip", "write", "take", "double", "put", "cut"]))
        if way == "flip" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif way == "write":
            content[place : place + size] = draw(
                st.sampled_from([bytes(size), b"\xff" * size, (2**31).to_bytes(8, "little")])
            )
        elif way == "take":
            del content[place : place + size]
        elif way == "double":
            content[place:place] = content[place : place + size]
        elif way == "put":
            content[place:place] = draw(
                st.sampled_from([b"\xff\xfe", b"\x00", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b"\\"])
            )
        elif way == "cut" and not draw(st.integers(0, 2)):
            del content[place:]
    return bytes(content)


def written(value: object) -> bytes:
    """A value as JSON that may hold NaN and halves of characters."""
    return json.dumps(value).encode()


@st.composite
def json_files(draw: st.DrawFn, value: object, most: int = 2, odd: st.SearchStrategy = ODD) -> bytes:
    """The bytes of a JSON file of a changed value, and now and then of one that is no JSON, or nested beyond reason."""
    way = draw(st.integers(0, 19))
    if way == 0:
        return draw(damaged(written(value)))
    if way == 1:
        inside = deepcopy(value)
        if isinstance(inside, dict | list) and inside:
            place, key = holder(draw, inside)
            place[key] = "DEEP"
        bracket = draw(st.sampled_from([("[", "]"), ('{"a":', "}")]))
        deep = f"{bracket[0] * DEEP}1{bracket[1] * DEEP}"
        return written(inside).replace(b'"DEEP"', deep.encode())
    return written(draw(changed(value, most, odd)))


def put(path: Path, content: bytes) -> Path:
    """The file with that content, at a time of change of its own."""
    path.write_bytes(content)
    return path
