"""Fewer draws, steps and tokens than a user's run has, where what a test asks does not hang on their number.

with fewer.applied(fewer.DRAWS): ...                    in this process
[sys.executable, "-c", fewer.code(fewer.DRAWS, "hunt"), *flags]      the same in another one, where the scripts are found
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import ablation

DRAWS = {  # out of reach: verdicts that need a p below .005, and a bridge
    "phase0_behavioral": {
        "MAX_NEW_TOKENS": 20
    },  # planted models say their word at once, and no sentence that would end
    "phase2_z_extraction": {"DRAWS": 200},
    "phase3b_bridge": {"SHUFFLES": 20, "RANDOM_SUBSPACES": 5},
    "ablation": {"NULLS": {role: (name, 5) for role, (name, _) in ablation.NULLS.items()}},
    "lab.studies": {"ARD_STEPS": 10},
}
FEWEST = DRAWS | {"lab.dissociation": {"FULL_DRAWS": 20}}  # a dissociation is out of reach


@contextmanager
def applied(values: dict[str, dict]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, changes in values.items():
            for attribute, value in changes.items():
                patch.setattr(importlib.import_module(name), attribute, value)
        yield


def code(values: dict[str, dict], *scripts: str, after: str = "") -> str:
    """A program that runs scripts with these values and its own flags, and a line of code `after` each."""
    return f"""
import importlib
from lab import runs
for name, changes in {values}.items():
    vars(importlib.import_module(name)).update(changes)
for name in {scripts}:
    runs.run_script(importlib.import_module(name).main)
    {after}
"""
