"""One control: a model with a known truth through 1.py, phase 2 and phase 3, and on some what subspaces that are none give."""

import contextlib
import importlib
import io
import tempfile
from pathlib import Path
from unittest import mock

import torch

import phase3_patching as phase3
import utils
from bench import planted
from lab import (
    checkpoints,
    commands,
    dissociation,
    formats,
    gates,
    ladder,
    models,
    questions,
    runs,
    statistics,
    subspaces,
    text,
)

SCRIPTS = ("1", "phase2_z_extraction", "phase3_patching")
NONE = {"Haar": 3, "other layer": 3, "decoy": 2, "other positions": 2}  # of each seed: subspaces that are no Z
CALIBRATED = {"Haar": 15, "other layer": 7, "decoy": 8}  # of each seed, of both sources
SOURCES = ("planted", "decoy")  # kinds in which nulls are calibrated: a layer stands out, or none does
MATCHED = 40  # draws matched on each of these: 1 or 0 above it in 41 are p < .05
REMOVED = "all but the language"
FORMATS = (formats.Format("other words", planted.other_text),)
MODELS = {  # a kind of bench/planted.py, and which twin of it
    "planted": ("planted", None),
    "copy": ("copy", None),
    "decoy": ("decoy", None),
    "late": ("late", None),
    "answer_word": ("answer_word", None),
    "illusion": ("illusion", None),
    "multi": ("multi", None),
    "one_format": ("one_format", None),
    "random": ("random", None),
    "twin, reinitialised": ("planted", "reinitialised"),
    "twin, permuted": ("planted", "permuted"),
}


def code_of_everything() -> str:
    """Hash of the code that measures: the scripts', the planted models' and this file's, without rules and pages."""
    files = [*(runs.ROOT / f"{script}.py" for script in SCRIPTS), Path(__file__)]
    return runs.short_hash([runs.code_hash(file) for file in files])


def run(case: str, seed: int) -> dict:
    """One model of a case, through the scripts: what phase 3 measured, and on some what subspaces that are none give."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path, out = Path(folder) / "model", Path(folder) / "out"
        kind, twin = MODELS[case]
        truth = planted.write_planted(path, kind, seed)
        path = planted.twins(path, seed)[twin] if twin else path
        for script in SCRIPTS:
            flags = ["--model", str(path), "--out", str(out), "--seed", str(seed), "--device", "cpu"]
            flags += ["--learned"] if case == "planted" and script == SCRIPTS[-1] else []
            module = importlib.import_module(script)
            with (
                mock.patch.object(module.page, "render", lambda *_: {}),  # a fifth of the time
                mock.patch.object(phase3, "beside", lambda *_: None),
                mock.patch(
                    "phase2_z_extraction.find_foils", lambda *_: text.Foils(None)
                ),  # bench/separation.py has these
                mock.patch.object(formats, "FORMATS", FORMATS),
            ):
                module.main(flags)
        results = runs.read_json(out / "phase3_results.json")
        row = {key: results[key] for key in ("width", "carriers", "tested", "rung")} | {"seed": seed, "case": case}
        row |= {"paper": {} if twin else truth.profile, "tried": [tried["outcome"] for tried in results["tried"]]}
        for tested in row["tested"].values():
            tested.pop("seen", None)
        if case in SOURCES:
            row |= among_none(truth, path, out, seed)
    return runs.significant(row)


def among_none(truth: planted.Planted, path: Path, out: Path, seed: int) -> dict:
    """Subspaces that are none at the bottleneck's output, tested in full; and how each null ranks more of them."""
    study, rung, measured, asked = prepared(path, out, seed)
    site, names = truth.bottleneck + 1, list(CALIBRATED)
    found = {kind: no_subspaces(kind, truth, study, measured, seed) for kind in {*NONE, *names}}
    manifold = phase3.broad_manifolds(study, rung, measured.design, asked, [site])[site]
    tests = [(kind, number, basis) for kind, count in NONE.items() for number, basis in enumerate(found[kind][:count])]
    removed = torch.linalg.svd(truth.language[None])[2][1:]
    tests.append((REMOVED, 0, removed))
    none = []
    for kind, number, basis in tests:
        others = (lambda _, b=basis: other_layers(truth, study, b)) if kind == "other layer" else None
        name = f"{kind} {number}"
        candidate = dissociation.Candidate(name, kind, lambda _, b=basis: b, lambda _: None, "all", site, others=others)
        row = measured.test(candidate)
        if dissociation.worth_it(row):
            row["gates"] = measured.gates(candidate, row, manifold)
        row["p_holm"] = row.get("p")
        none.append(row)
    ranks = [
        {"subspace": kind} | ranked(measured, other_layers(truth, study, basis), site, basis, seed)
        for kind in names
        for basis in found[kind][: CALIBRATED[kind]]
    ]
    return {"none": none, "ranks": ranks}


def prepared(path: Path, out: Path, seed: int) -> tuple:
    """Phase 3's instruments on a model that its script has run on."""
    arguments = arguments_of(path, out)
    folder = checkpoints.find_model(str(path))
    model, tokenizer = models.load_model(folder, torch.device("cpu"), torch.float32)
    z, languages = subspaces.load_z(out, folder), questions.load_languages(planted.LANGUAGES)
    study = phase3.Study(model, tokenizer, languages, arguments.batch, z, [z.bottleneck], seed)
    rungs = questions.find_ladder(arguments, folder, phase3.RUNGS)
    rung, _ = ladder.choose_rung(study, rungs, phase3.NEEDED, z.fitted_on)
    others = questions.find_others(arguments, folder, phase3.RUNGS, rungs)
    return study, rung, phase3.measure(study, rung), [*rungs, *others]


def arguments_of(path: Path, out: Path):
    """Phase 3's flags for a model and a folder."""
    parser = commands.parser(phase3.__doc__, asks_problems=True)
    return parser.parse_args(["--model", str(path), "--out", str(out), "--device", "cpu"])


def no_subspaces(kind: str, truth: planted.Planted, study, measured, seed: int) -> list[torch.Tensor]:
    """Subspaces (k, d) that are no Z.

    Decoys vary and say nothing: two to four directions of a problem's nuisance, which holds more of the variance at the last
    position than the answer does, the others of filler and question words, which hold none there; the last one is the
    nuisance itself. Other positions': principal components of states that are no last positions; these hold the code of the
    answer too, beside more else.
    """
    draw, k = statistics.seeded(seed, f"controls: {kind}"), planted.RANK
    count = max(NONE.get(kind, 0), CALIBRATED.get(kind, 0))
    if kind == "Haar":
        return list(utils.random_subspaces(draw, count, k, planted.WIDTH))
    if kind == "other layer":
        return [basis for layer, basis in enumerate(study.z.every_layer) if layer != truth.bottleneck]
    if kind == "decoy":
        varies, idle = truth.parts["nuisance"], torch.cat([truth.parts[name] for name in ("filler", "question")])
        sizes = [2 + number % 3 for number in range(count - 1)]
        parts = [[(varies, size), (idle, k - size)] for size in sizes]
        frames = [[utils.random_subspaces(draw, 1, size, len(of))[0] @ of for of, size in pair] for pair in parts]
        return [torch.cat(pair) for pair in frames] + [varies]
    prompts = measured.design.prompts[0]
    _, others = gates.broad_states(study.model, study.tokenizer, prompts, [truth.bottleneck + 1], study.batch, draw)
    components = torch.linalg.svd(others[0] - others[0].mean(0), full_matrices=False)[2]
    return [components[number * k : (number + 1) * k].double() for number in range(count)]


def ranked(measured: dissociation.Measured, others: torch.Tensor, site: int, basis: torch.Tensor, seed: int) -> dict:
    """p of a subspace's D against each null, and what `verdicts` asks of other layers."""
    donors, streams = measured.design.within("all", dissociation.DRAWN), measured.fitted[:, :, site]
    own = {name: float(values[0]) for name, values in measured.points(site, basis[None], "all", donors).items()}
    haar = measured.haar(site, len(basis), "all", dissociation.FULL_DRAWS)
    draw = statistics.seeded(seed, f"controls: matched {runs.array_hash(basis.numpy())}")
    matched = measured.points(site, gates.matched_draws(draw, MATCHED, basis, streams), "all", donors)
    layers = measured.points(site, others, "all", donors)
    found = {name: statistics.null_record(null["d"], own["d"]) for name, null in (("haar", haar), ("matched", matched))}
    found["layers"] = statistics.null_record(layers["d"], own["d"])
    found["layers"] |= {"outlier_p": statistics.outlier_p(own["d"], layers["d"])}
    return found | {"within_share": gates.shares(basis, streams)[0]}


def other_layers(truth: planted.Planted, study, basis: torch.Tensor) -> torch.Tensor:
    """The weight-based subspaces of all layers but the one that this one comes from, if it does. (n, k, d)

    Without the layer in which the answer's code is planted: nothing would ever be above that one.
    """
    other = (study.z.every_layer - basis.float()).abs().amax((1, 2)) > 1e-6
    other[truth.bottleneck] &= truth.kind != "planted"
    return study.z.every_layer[other]
