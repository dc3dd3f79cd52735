"""The house: who may import whom, and how large anything may grow."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

from lab import runs

SCRIPTS = list(runs.SCRIPTS.values())
ROOMS = [
    "utils.py",
    *(f"{room}/{path.name}" for room in ("verdicts", "lab", "reports") for path in (ROOT / room).glob("*.py")),
]
PROJECT = [*SCRIPTS, *ROOMS]
LONGEST_FILE, LONGEST_FUNCTION = 500, 60


def imports(name: str) -> set[str]:
    """The project's files that a file imports, anywhere in it."""
    modules = [module.replace(".", "/") for module in runs.imported_names(ROOT / name)]
    files = {
        file for module in modules for file in (f"{module}.py", f"{module}/__init__.py") if (ROOT / file).is_file()
    }
    return files - {"lab/__init__.py", "reports/__init__.py"}


def functions(name: str) -> list:
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("stem", runs.SCRIPTS)
def test_a_script_sees_its_page_the_rules_and_the_instruments(stem):
    seen = imports(runs.SCRIPTS[stem])
    above = {"verdicts/__init__.py", f"reports/{stem}.py"}
    assert above | {"lab/runs.py"} <= seen
    assert all(file in above | {"utils.py"} or file.startswith("lab/") for file in seen), seen


def test_arrows_point_down_only():
    assert not imports("utils.py")
    assert all(file.startswith("verdicts/") for name in ROOMS if name.startswith("verdicts/") for file in imports(name))
    assert not imports("reports/page.py")
    for name in ROOMS:
        seen = imports(name)
        assert not seen & set(SCRIPTS), name
        if name.startswith("reports/") and name != "reports/page.py":
            whole = name.split("_")[0].removesuffix(".py")
            own = {
                f"{whole}_{part}.py" for part in ("figures", "tables", "opening", "beside", "beyond")
            }  # of a large page
            assert seen <= {"reports/page.py", "verdicts/__init__.py", *own}, name
        if name.startswith("lab/"):
            assert all(file == "utils.py" or file.startswith("lab/") for file in seen), name


def test_no_instrument_needs_itself():
    above = {name: imports(name) for name in ROOMS if name.startswith("lab/")}
    while above:
        lowest = [name for name, seen in above.items() if not seen & above.keys()]
        assert lowest, f"a circle among {sorted(above)}"
        for name in lowest:
            del above[name]


@pytest.mark.parametrize("name", PROJECT)
def test_files_and_functions_stay_small(name):
    lines = (ROOT / name).read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST_FILE, lines
    for node in functions(name):
        length = node.end_lineno - node.lineno + 1
        assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("name", PROJECT)
def test_every_public_function_of_the_instruments_is_documented(name):
    if name.startswith("lab/") or name == "utils.py":
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), node.name


def test_no_banners_and_no_page_that_knows_a_machine():
    for name in [*PROJECT, *(f"tests/{path.name}" for path in Path(__file__).parent.glob("*.py"))]:
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            assert not line.lstrip().startswith(("# ----", "# ====", "####")), f"{name}: {line}"
