"""Whatever a file or a flag holds, the scripts say in one line what is wrong with it, or read it."""

import argparse
import json
import shutil
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from conftest import ROOT, load_script
from hypothesis import given
from hypothesis import strategies as st
from mutations import TEXTS, Tally, changed, damaged, fuzzed, json_files, put, written

from lab import checkpoints, commands, questions, runs, subspaces

LANGUAGES = ["en", "zh"]
DATA = ROOT / "data"


def first_lines(name: str, count: int) -> list[str]:
    return (DATA / name).read_text(encoding="utf-8").splitlines()[:count]


LINES = first_lines("phase0.jsonl", 4)
RECORDS = [json.loads(line) for line in (*LINES, *first_lines("reasoning.jsonl", 3), *first_lines("contrast.jsonl", 3))]
TEMPLATES = {
    name: row
    for name, row in json.loads((DATA / "languages.json").read_text(encoding="utf-8")).items()
    if name in LANGUAGES
}


def used(problems: list, languages: dict) -> None:
    """What a script does with problems and templates before it runs a model, and with an output of it."""
    for problem in problems:
        for name in languages:
            text = questions.prompt_text(problem, name, languages, problems[:2])
            assert problem.question[name] in text
            text.encode()
            with suppress(questions.NoWords):
                questions.check_words(problem, languages)
            questions.grade(problem, f" {problem.answer}\n", name)
            questions.answered(problem, " 12.\n", name)
            questions.answer_language(problem.answer_text.get(name, "12"), problem, languages, problems)
        questions.problem_hash(problem)
        runs.json_lines([{"id": problem.id, "category": problem.category, "expected": str(problem.answer)}])


@st.composite
def problem_files(draw: st.DrawFn) -> bytes:
    """JSONL of a few problems, of which one line is changed, or the whole damaged."""
    lines = [written(record) for record in RECORDS]
    place = draw(st.integers(0, len(lines) - 1))
    lines[place] = draw(json_files(RECORDS[place]))
    content = b"\n".join(lines)
    return content if draw(st.integers(0, 3)) else draw(damaged(content))


def test_problems_in_jsonl(tmp_path):
    tally, languages = Tally(), questions.load_languages(LANGUAGES)

    @fuzzed
    @given(problem_files())
    def one(content: bytes) -> None:
        file = put(tmp_path / "problems.jsonl", content)

        def read() -> None:
            problems = questions.load_problems([file], LANGUAGES)
            used(problems, languages)
            assert set(questions.variants(SimpleNamespace(files=[file], problems=problems))) <= set(
                range(len(problems))
            )

        tally(read)

    one()
    tally.settle()


@st.composite
def tables(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """The two files of an MGSM set, of which one is changed."""
    rows = {name: [[record["question"][name], str(record["answer"])] for record in RECORDS[:4]] for name in LANGUAGES}
    which = draw(st.sampled_from(LANGUAGES))
    if draw(st.booleans()):
        rows[which] = draw(changed(rows[which], 1, st.sampled_from(TEXTS)))
    elif draw(st.booleans()):  # alike in both, so that they still agree
        place, answer = draw(st.integers(0, 3)), draw(st.sampled_from(TEXTS))
        for name in LANGUAGES:
            rows[name][place][1] = answer
    files = {name: "\n".join("\t".join(map(str, row)) for row in rows[name]) for name in LANGUAGES}
    files = {name: text.encode("utf-8", "surrogatepass") for name, text in files.items()}
    if not draw(st.integers(0, 2)):
        files[which] = draw(damaged(files[which]))
    return files["en"], files["zh"]


def test_problems_in_tables(tmp_path):
    tally, languages = Tally(), questions.load_languages(LANGUAGES)
    files = [tmp_path / f"mgsm_{name}.tsv" for name in LANGUAGES]

    @fuzzed
    @given(tables())
    def one(contents: tuple[bytes, bytes]) -> None:
        for file, content in zip(files, contents):
            put(file, content)
        tally(lambda: used(questions.load_problems(files, LANGUAGES), languages))

    one()
    tally.settle()


def test_templates(tmp_path, monkeypatch):
    tally, problems = Tally(), questions.load_problems([DATA / "phase0.jsonl"], LANGUAGES)[:3]
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    (tmp_path / "data").mkdir()

    @fuzzed
    @given(json_files(TEMPLATES))
    def one(content: bytes) -> None:
        put(tmp_path / "data" / "languages.json", content)
        tally(lambda: used(problems, questions.load_languages(LANGUAGES)))

    one()
    tally.settle()


class Reached(BaseException):
    """The flags were taken, and a model is looked for."""


PLAIN = [
    "tiny",
    "en",
    "zh",
    "de",
    "auto",
    "cpu",
    "1",
    "2",
    "0",
    "float32",
    "good.jsonl",
    "words.jsonl",
    "folder",
    "weight",
]
ODD_FLAGS = [
    "gone.jsonl",
    "-1",
    "1e3",
    "cuda:9",
    "cuda:-1",
    "meta",
    "a/b",
    "a/b/c",
    "~nobody_here/a",
    "~",
    "-",
    "--",
    "--out",
]
ODD_FLAGS += [text for text in TEXTS if text not in ("/", "../..")]
VALUES = st.sampled_from([*PLAIN, *PLAIN, *(text.replace("\ud800", "\udcff") for text in ODD_FLAGS)])
OUT = st.sampled_from(
    ["output", "folder", "deep/folder", "good.jsonl", "good.jsonl/a", "\udcff", "a\nb", "x" * 300, "~nobody_here"]
)
SENSIBLE = {
    "--model": "tiny",
    "--device": "cpu",
    "--languages": "en",
    "--problems": "good.jsonl",
    "--seed": "1",
    "--layer": "0",
}


def flags_of(name: str, monkeypatch) -> dict[str, int | str | None]:
    """A script's flags, and how many values each takes: None for one, 0 for none, "+" for some."""
    found = {}

    def kept(self, *_):
        found.update({action.option_strings[-1]: action.nargs for action in self._actions})
        raise Reached

    with monkeypatch.context() as patch, suppress(Reached):
        patch.setattr(commands.OneLineParser, "parse_args", kept)
        load_script(name).main([])
    return {flag: nargs for flag, nargs in found.items() if flag not in ("--help", "--version")}


@st.composite
def command_lines(draw: st.DrawFn, known: dict[str, dict]) -> tuple[str, list[str]]:
    """A script and some of its flags, most with values that they may have."""
    name, line = draw(st.sampled_from(sorted(known))), []
    flags = known[name] | ({} if draw(st.integers(0, 9)) else {"--nonsense": None})
    for flag in draw(st.lists(st.sampled_from(sorted(flags)), max_size=4, unique=True)):
        number = 0 if flags[flag] == 0 else draw(st.integers(1, 3)) if flags[flag] == "+" else 1
        number += not draw(st.integers(0, 29))
        values = [draw(OUT if flag == "--out" else VALUES) for _ in range(number)]
        if number and flag in SENSIBLE and draw(st.integers(0, 2)):
            values[0] = SENSIBLE[flag]
        line += [flag, *values]
    return name, line


def test_flags(tmp_path, monkeypatch):
    """Up to where a model would be looked for; what is refused has written nothing."""

    def reached(*_):
        raise Reached

    tally, known = Tally(), {name: flags_of(name, monkeypatch) for name in runs.SCRIPTS.values()}
    monkeypatch.setattr(checkpoints, "hub_snapshot", reached)
    monkeypatch.setattr(checkpoints, "load_config", reached)

    @fuzzed
    @given(command_lines(known))
    def one(given_line: tuple[str, list[str]]) -> None:
        (name, line), place = given_line, tmp_path / "place"
        shutil.rmtree(place, ignore_errors=True)
        (place / "folder").mkdir(parents=True)
        (place / "tiny").mkdir()
        (place / "good.jsonl").write_text("\n".join(LINES), encoding="utf-8")
        shutil.copy(ROOT / "data" / "words.jsonl", place)

        def read() -> None:
            with monkeypatch.context() as patch, suppress(Reached):
                patch.chdir(place)
                load_script(name).main(line)

        tally(read)
        written_there = [path for path in place.rglob("*") if path.is_file() and path.suffix != ".jsonl"]
        assert not written_there or "--models" in line  # of several models the failures are written

    one()
    tally.settle()


WIDTH, K = 4, 2
FOLDER = SimpleNamespace(layers=2, width=WIDTH, identity={"name": "a", "weights_hash": "b", "revision": None})
FITTED = {"fitted_on": ["a", "b"], "fitted_answers": ["3", "5"]}
Z = {"method": "weight", "layer": 1, "site": 2, "k": K, "passed": True, "holds": True, "position": "last"} | FITTED
RESULTS = {
    "script": "phase2",
    "tests": {"a": True},
    "verdict": "z_found",
    "model": FOLDER.identity,
    "settings": {"layer": 1, "languages": LANGUAGES, "fold_norm": False},
    "z": Z,
    "z_dimensions": [1, K],
    "layer_chosen": "bottleneck",
    "also": [{"method": "centroid", "layer": 1, "k": 1} | FITTED],
}
ARRAYS = {
    "phase2_z_basis.npy": np.eye(WIDTH, dtype=np.float32)[:K],
    "phase2_layer_subspaces.npy": np.eye(WIDTH, dtype=np.float32)[None, :K].repeat(2, 0),
    subspaces.CONTINGENCIES: np.eye(WIDTH, dtype=np.float32)[:1],
}


def handed_on(out: Path) -> None:
    """What phase 3 makes of the Z that phase 2 left there, before it runs a model."""
    runs.check_owner(out, FOLDER.identity)
    z = subspaces.load_z(out, FOLDER)
    assert z.basis.shape == (z.summary["k"], WIDTH) and 0 <= z.site <= FOLDER.layers
    assert np.isfinite(z.basis.numpy()).all()
    assert all(isinstance(text, str) for text in (*z.seen, *z.languages))
    runs.json_bytes(runs.significant(z.summary))  # raises where it could not be saved


def test_results_of_an_earlier_phase(tmp_path):
    tally = Tally()
    for name, array in ARRAYS.items():
        np.save(tmp_path / name, array)

    @fuzzed
    @given(json_files(RESULTS))
    def one(content: bytes) -> None:
        put(tmp_path / "phase2_results.json", content)
        tally(lambda: handed_on(tmp_path))

    one()
    tally.settle()


def test_the_layer_that_an_earlier_phase_chose(tmp_path):
    tally, flags = Tally(), argparse.Namespace(layer="auto", out=tmp_path, fold_norm=False, model=None)
    own = {"bottleneck": {"layer": 1}, "settings": {"fold_norm": False}, "verdict": "no_bottleneck"}
    results = {"script": "one", "tests": {}, "model": FOLDER.identity} | own

    def read() -> None:
        chosen = checkpoints.bottleneck_layer(flags, FOLDER)
        assert chosen.layer in range(FOLDER.layers) and isinstance(chosen.chosen, str)
        runs.saved_results(flags, SimpleNamespace(stem="one"))

    @fuzzed
    @given(json_files(results))
    def one(content: bytes) -> None:
        put(tmp_path / "one_results.json", content)
        tally(read)

    one()
    tally.settle()


def test_what_scripts_read_of_other_scripts(tmp_path):
    """Whatever is in the results that a script reads beside the Z, before it runs a model."""
    solved = {"rung": "words", "asked": 9, "solved": {"en": 5, "zh": 4}}
    own = {
        "one": {
            "bottleneck": {"lowest": {"layer": 1}, "window": [0, 1]},
            "weight_types": {"attention": ["W_Q"], "ffn": ["W_up"]},
        },
        "phase2": RESULTS,
        "phase3": {"settings": {"ladder": [{"limit": 9}]}, "tried": [solved]},
    }
    results = {stem: {"script": stem, "tests": {}, "model": FOLDER.identity} | parts for stem, parts in own.items()}
    flags = argparse.Namespace(out=tmp_path / "out", fold_norm=False, z_from=tmp_path, layer="auto")
    rungs, z = [SimpleNamespace(settings={"limit": 9})], SimpleNamespace(bottleneck=1)
    readers = {
        "one": lambda: (
            load_script("phase3_patching").pointed(tmp_path, FOLDER, z),
            load_script("2").saved_spectra(argparse.Namespace(out=tmp_path, fold_norm=False), FOLDER),
        ),
        "phase2": lambda: load_script("phase2_z_extraction").load_given(
            SimpleNamespace(arguments=flags, folder=FOLDER)
        ),
        "phase3": lambda: load_script("ablation").solved_before(tmp_path, FOLDER, rungs),
    }
    for name, array in ARRAYS.items():
        np.save(tmp_path / name, array)
    np.save(tmp_path / load_script("2").SPECTRA, np.zeros((2, 2, WIDTH)))
    tally = Tally()

    @fuzzed
    @given(st.sampled_from(sorted(own)).flatmap(lambda stem: st.tuples(st.just(stem), json_files(results[stem]))))
    def one(chosen: tuple[str, bytes]) -> None:
        stem, content = chosen
        put(tmp_path / f"{stem}_results.json", content)
        tally(readers[stem])

    one()
    tally.settle()


TINY = ROOT / "output" / "tiny"


def unpainted(report: runs.Report) -> runs.Report:
    """A script's report without arrays and pictures."""
    page = SimpleNamespace(claims=report.page.claims, summary=report.page.summary, render=lambda *_: {})
    return replace(report, arrays=(), page=page)


def test_reports_of_saved_results(tmp_path, monkeypatch):
    """Results judged again by --report-only, a script's own or a whole hunt's; what is refused leaves the file as it was."""
    reports = {stem: unpainted(load_script(name).REPORT) for stem, name in runs.SCRIPTS.items()}
    hunt, tally = load_script("hunt"), Tally()
    monkeypatch.setattr(hunt, "REPORT", reports["hunt"])
    saved = {file.relative_to(TINY): file.read_bytes() for file in TINY.rglob("*_results.json")}
    for name, content in saved.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        put(tmp_path / name, content)
    values = {name: json.loads(content) for name, content in saved.items()}
    files = st.sampled_from(sorted(saved)).flatmap(lambda name: st.tuples(st.just(name), json_files(values[name], 1)))

    @fuzzed
    @given(files, st.integers(0, 3))
    def one(chosen: tuple[Path, bytes], way: int) -> None:
        name, content = chosen
        file, stem, refused = put(tmp_path / name, content), name.name.partition("_")[0], tally.refused
        if stem == "hunt" or not way:
            tally(lambda: hunt.judge_again(argparse.Namespace(out=tmp_path, model=None)))
        else:
            tally(lambda: runs.render_again(argparse.Namespace(out=file.parent, model=None), reports[stem]))
        assert tally.refused == refused or file.read_bytes() == content
        put(file, saved[name])

    one()
    tally.settle()


@st.composite
def arrays(draw: st.DrawFn) -> tuple[str, bytes]:
    """An array's file: of another shape or type, with a head that lies, or damaged; or an archive instead."""
    name = draw(st.sampled_from(sorted(ARRAYS)))
    array, way = ARRAYS[name], draw(st.integers(0, 9))
    if way < 2:
        kinds = ["<f8", "<f2", ">f4", "<i8", "?", "<c8", "<U3", "S2", "<M8[s]", "V4"]
        array = np.zeros(array.shape, draw(st.sampled_from(kinds)))
    elif way == 2:
        array = draw(
            st.sampled_from([array[:1], array.T, array[None], array[0], np.float32(1), array * np.nan, array * 2])
        )
    content = runs.array_bytes(array)
    if way == 3:
        buffer = BytesIO()
        np.savez(buffer, z=array)
        content = buffer.getvalue()
    elif way == 4:
        old = draw(st.sampled_from([str(array.shape).encode(), b"'<f4'", b"False", b"'shape'", b"{"]))
        new = [
            b"(10**9, 4)",
            b"(9999999999, 4)",
            b"(2,4,",
            b"-1",
            b"(-1, 8)",
            b"'O'",
            b"True",
            b"[('a', '<f4')]",
            b"{{",
            b"",
        ]
        content = content.replace(old, draw(st.sampled_from(new)))
    return name, draw(damaged(content, 100)) if way > 5 else content


def test_arrays_of_an_earlier_phase(tmp_path):
    tally = Tally()
    for name, array in ARRAYS.items():
        np.save(tmp_path / name, array)
    put(tmp_path / "phase2_results.json", written(RESULTS))

    @fuzzed
    @given(arrays())
    def one(saved: tuple[str, bytes]) -> None:
        name, content = saved
        before = (tmp_path / name).read_bytes()
        put(tmp_path / name, content)
        try:
            tally(lambda: handed_on(tmp_path))
        finally:
            put(tmp_path / name, before)

    one()
    tally.settle()
