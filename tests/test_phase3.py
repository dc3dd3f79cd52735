"""Phase 3 on models with a planted answer, its scores by full passes, who meets whom, what is fitted on what, its verdict."""

import json
import shutil
from fractions import Fraction
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from controls import BOTTLENECK, WIDTH, write_control
from scipy.linalg import sqrtm

import utils
import verdicts
from lab import checkpoints, models, questions, runs, statistics, subspaces
from reports import phase3 as page
from reports.page import CHOSEN

PATCHING = {"problems": 40, "noise": 0.5, "language_share": 0.1}  # of write_control
RANK = 6


@pytest.fixture(scope="module")
def phase3(script):
    return script("phase3_patching.py")


def run(script, name, model, out, *flags) -> None:
    script(name).main(["--model", str(model), "--out", str(out), "--device", "cpu", *map(str, flags)])


def read(out) -> tuple[dict, list[dict], np.ndarray]:
    """Results, samples and scores of a finished phase 3."""
    results = json.loads((out / "phase3_results.json").read_text())
    samples = [json.loads(line) for line in (out / "phase3_samples.jsonl").read_text().splitlines()]
    return results, samples, np.load(out / "phase3_scores.npy")


def hand_on(model, out, basis, *, site, method="weight", bottleneck=2, fitted_on=(), layers=None) -> None:
    """What phase 2 leaves behind for phase 3, with a Z of our own."""
    folder = checkpoints.find_model(str(model))
    k = len(basis)
    z = {"method": method, "layer": site - 1, "site": site, "k": k, "passed": False, "fitted_on": list(fitted_on)}
    results = {"script": "phase2", "model": folder.identity, "settings": {"layer": bottleneck}, "z": z, "tests": {}}
    results |= {"fingerprint": runs.short_hash(z), "z_dimensions": [1, k, k], "layer_chosen": "given"}
    if layers is None:
        layers = utils.random_subspaces(statistics.seeded(0, "layers"), folder.layers, k, folder.width)
    out.mkdir(exist_ok=True)
    (out / "phase2_results.json").write_text(json.dumps(results))
    np.save(out / "phase2_z_basis.npy", np.asarray(basis, np.float32))
    np.save(out / "phase2_layer_subspaces.npy", np.asarray(layers, np.float32))


def random_basis(k: int, width: int, seed: int = 0) -> torch.Tensor:
    return utils.random_subspaces(torch.Generator().manual_seed(seed), 1, k, width)[0]


@pytest.fixture(scope="module")
def planted(script, tmp_path_factory) -> SimpleNamespace:
    """1.py, phase 2 and phase 3 on a planted model."""
    path = tmp_path_factory.mktemp("planted")
    control = write_control(path / "model", "planted", rank=RANK, **PATCHING)
    for name in ("1.py", "phase2_z_extraction.py", "phase3_patching.py"):
        run(script, name, control.path, path / "out")
    results, samples, scores = read(path / "out")
    return SimpleNamespace(model=control.path, out=path / "out", results=results, samples=samples, scores=scores)


def test_a_planted_z_is_doubly_dissociated(planted):
    results, success = planted.results, planted.results["success"]
    assert results["settings"]["z"]["method"] == "weight"
    assert (results["settings"]["z"]["site"], results["settings"]["z"]["k"]) == (BOTTLENECK + 1, RANK)
    assert results["pairs"] >= 40
    assert results["energy"]["random"] == pytest.approx(RANK / WIDTH, abs=0.01)
    assert results["energy"]["z"] < results["energy"]["random"] < 0.9 < results["energy"]["centroid"]
    assert results["verdict"] == "double_dissociation"
    assert "weight_verdict" not in results  # the Z handed on is the weight-based one
    assert success["z"] == success["z_perp"] == success["full"] == 1
    assert success["none"] == 0
    # (recipient's, recipient's), (recipient's, donor's), (donor's, recipient's), (donor's answer, donor's language)
    outcomes = {"none": 0, "z": 2, "z_perp": 1, "full": 3, "centroid": 1, "centroid_perp": 2}
    for label, outcome in outcomes.items():
        assert results["winners"][label] == np.eye(4)[outcome].tolist(), label
    assert all(row["holds"] for row in results["claims"] if row["id"] in ("z", "z_perp", "weights"))
    for label in ("z_wrong_donor", "full_wrong_donor", "z_perp_erased"):
        assert 0.3 < success[label] < 0.7  # the recipient's answer is erased: a choice between two by chance
    paired = results["paired"]["z"]
    assert paired["lowest"] == paired["lowest_perp"] == 1
    assert max(paired[test] for test in ("unpatched", "wrong_donor", "erased", "full")) < 1e-5
    effect = results["effect"]
    assert effect["z"]["answer"] > 1 > 0.01 > abs(effect["z"]["language"])
    assert effect["z_perp"]["language"] > 1 > 0.01 > abs(effect["z_perp"]["answer"])


def test_random_subspaces_of_the_planted_size_are_near_chance(planted):
    results = planted.results
    assert results["success"]["random"] < 0.2
    assert results["success"]["random"] < results["success"]["random_matched"] < 0.8  # what varies here is the answer
    for name, row in results["null"].items():
        assert row["p"] == pytest.approx(1 / 201, rel=1e-3)  # not one of the draws does as well
        assert row["high"] < (0.95 if name == "random_matched" else 0.5)
        for record in (row, row["effect"]):
            assert {"draws", "low", "middle", "high", "p"} <= set(record)
            assert record["draws"] == 200
            assert record["low"] <= record["middle"] <= record["high"]
    draws = np.load(planted.out / "phase3_draws.npy")
    assert (draws.shape, draws.dtype) == ((3, 200, results["pairs"], 4), np.float32)
    inside, outside = (draws.argmax(-1) == target for target in (2, 1))
    assert inside[0].mean() == pytest.approx(results["success"]["random"], rel=1e-3)
    assert inside[1].mean() == pytest.approx(results["success"]["random_matched"], abs=1e-3)
    for rates, name in ((inside[0], "random"), (outside[2], "random_perp")):
        ends = {"low": (0.05, "nearest"), "middle": (0.5, "linear"), "high": (0.95, "nearest")}
        quantiles = {name: np.quantile(rates.mean(-1), share, method=how) for name, (share, how) in ends.items()}
        found = {key: results["null"][name][key] for key in quantiles}
        assert found == pytest.approx(quantiles, rel=1e-3)


def test_the_dose_that_moves_the_answer_is_the_planted_rank(planted):
    rows = {row["k"]: row for row in planted.results["dose"]}
    assert list(rows) == [1, 2, 4, RANK, 8, 16, 32, WIDTH]
    assert rows[1]["success"] < 0.3
    for k in (RANK, 8, 16):
        assert rows[k]["success"] == 1
        assert rows[k]["language"] == 0
    whole = {"answer": 1, "language": 1, "success": 0}
    assert {key: rows[WIDTH][key] for key in whole} == whole  # the full swap
    assert {key: rows[WIDTH][f"random_{key}"] for key in whole} == whole
    assert rows[RANK]["random_success"] < 0.3
    successes = [rows[k]["success"] for k in (1, 2, 4, RANK)]
    assert successes == sorted(successes)


def test_sites_of_the_planted_model(planted):
    """The first layer gathers the question; from then on every site carries it, and only the bottleneck's kernels read it."""
    rows = {row["site"]: row for row in planted.results["sites"]}
    assert [site for site, row in rows.items() if row["handed"]] == [BOTTLENECK + 1]
    assert rows[0]["full"] == rows[0]["z"] == 0  # the last token of every prompt is the same within a language
    for site in range(1, 7):
        assert rows[site]["full"] == rows[site]["z"] == rows[site]["z_perp"] == 1
        assert (rows[site]["layer_z"] == 1) == (site == BOTTLENECK + 1)
        assert 0.3 < rows[site]["full_wrong_donor"] < 0.7
        assert rows[site]["random"] < 0.3
    causal = planted.results["causal_site"]
    assert (causal["site"], causal["layer"], causal["support"]) == (BOTTLENECK + 1, BOTTLENECK, 1)
    controls = rows[BOTTLENECK + 1]["random"], rows[BOTTLENECK + 1]["layer_z_wrong_donor"]
    assert causal["gain"] == pytest.approx(1 - max(controls), abs=1e-3)
    assert causal["p_holm"] < 0.01


def test_same_language_donors_move_the_answer_through_z_alone_and_directions_agree(planted):
    shares = planted.results["same_language"]
    assert shares["none"] == [1, 0, 0, 0] == shares["z_perp"] == shares["centroid"]
    assert shares["z"] == [0, 0, 1, 0] == shares["full"] == shares["centroid_perp"]
    assert all(values[1] + values[3] == 0 for values in shares.values())  # nothing moves the language
    directions = planted.results["directions"]
    assert set(directions) == {"en_to_zh", "zh_to_en"}
    assert sum(row["pairs"] for row in directions.values()) == planted.results["pairs"]
    assert all(row["z"] == row["z_perp"] == row["full"] == 1 for row in directions.values())


def test_free_generation_agrees_with_the_candidates(planted):
    """Pair by pair: what is generated without candidates is the candidate that won."""
    order, scores = planted.results["conditions"], planted.scores
    for condition in ("none", "z", "z_perp", "full"):
        rows = [row for row in planted.samples if row.get("condition") == condition and "donor" in row]
        assert len(rows) == planted.results["pairs"] == scores.shape[1]
        for row, winner in zip(rows, scores[order.index(condition)].argmax(-1)):
            answer, language = ("recipient", "donor")[winner // 2], (row["language"], row["donor_language"])[winner % 2]
            assert (row["answer"], row["written_in"]) == (answer, language)
    generated = planted.results["generated"]
    assert generated["z"]["donor_answer_in_recipient_language"] == 1
    assert generated["z_perp"]["recipient_answer_in_donor_language"] == 1
    assert generated["full"]["donor_answer"] == generated["full"]["donor_language"] == 1
    assert generated["random"]["donor_answer_in_recipient_language"] < 0.3


def test_the_planted_z_rescues_wrong_answers_to_the_same_problem(planted):
    rows = planted.results["same_problem"]
    assert rows["z"]["wrong_before"] > 0
    assert rows["z"]["rescued"] == rows["z"]["wrong_before"] == rows["full"]["wrong_before"]
    only_z = rows["z"]["wrong_before"] - rows["random"]["rescued"]
    assert rows["p_rescue"] == pytest.approx(2 * 0.5**only_z, rel=1e-3)
    assert rows["z"]["answer_lost"] == rows["z"]["language_moved"] == 0
    assert rows["z_perp"]["rescued"] == rows["full"]["rescued"] == 0  # they leave the language that was asked in
    assert rows["z_perp"]["language_moved"] == rows["full"]["language_moved"] == rows["full"]["right_before"]
    solved, asked = planted.results["problems"]["solved"], planted.results["problems"]["asked"]
    everywhere = planted.results["problems"]["solved_everywhere"]
    assert rows["z"]["right_before"] == 2 * everywhere
    assert rows["z"]["wrong_before"] == sum(solved.values()) - 2 * everywhere
    assert everywhere <= min(solved.values()) <= asked == 40


def test_a_fresh_run_and_report_only_write_the_same_bytes(script, planted, tmp_path, monkeypatch):
    out = shutil.copytree(planted.out, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.glob("phase3*")}
    assert {"phase3_results.json", "phase3_output.md", *script("phase3_patching.py").ARRAYS} < set(before)
    run(script, "phase3_patching.py", planted.model, out, "--fresh")
    assert {path.name: path.read_bytes() for path in out.glob("phase3*")} == before
    for path in [*out.glob("phase3*.md"), *out.glob("phase3*.png")]:
        path.unlink()
    monkeypatch.setattr(checkpoints, "find_model", None)
    run(script, "phase3_patching.py", planted.model, out, "--report-only")
    assert {path.name: path.read_bytes() for path in out.glob("phase3*")} == before


@pytest.fixture
def saved(script, planted, tmp_path, monkeypatch):
    """A copy of the planted run that is judged and rendered again, without a model, from results changed as told."""
    out = shutil.copytree(planted.out, tmp_path / "out")
    monkeypatch.setattr(checkpoints, "find_model", None)

    def again(**changes) -> tuple[dict, str]:
        results = json.loads((out / "phase3_results.json").read_text()) | changes
        (out / "phase3_results.json").write_text(json.dumps(results))
        script("phase3_patching.py").main(["--out", str(out), "--report-only"])
        return json.loads((out / "phase3_results.json").read_text()), (out / "phase3_output.md").read_text()

    return again


def test_another_threshold_is_another_verdict_without_a_model(saved, monkeypatch, capsys):
    results, report = saved()
    assert results["verdict"] == "double_dissociation"
    assert all(results["tests"].values()) and results["answer_is_here"]
    assert capsys.readouterr().out.startswith("double_dissociation: Z 100.0%, Z⊥ 100.0% of ")
    monkeypatch.setattr(verdicts, "MAJORITY", 1.5)
    results, report = saved()
    assert results["verdict"] == "partial"
    assert [name for name, passed in results["tests"].items() if not passed] == [
        "z in at least half of the pairs",
        "z_perp in at least half of the pairs",
    ]
    assert {row["id"]: row["holds"] for row in results["claims"]}["weights"] is False
    assert "no double dissociation (`partial`)" in report
    monkeypatch.setattr(verdicts, "LEVEL", 1e-30)
    monkeypatch.setattr(verdicts, "FEW_PAIRS", 1000)
    results, report = saved()
    assert (results["verdict"], results["answer_is_here"]) == ("none", False)
    assert "Z does not beat: Haar-random k, covariance-matched random k, no swap, Z of a wrong donor." in report
    assert "These are too few pairs to tell." in report and "With fewer than 1000 pairs" in report
    assert "At this site even the whole stream does no better" in report


def test_an_exploratory_layer_is_called_so(saved):
    for chosen, words in CHOSEN.items():
        results, report = saved(layer_chosen=chosen)
        layer = results["settings"]["z"]["bottleneck"]
        assert f"; weight-based, multi-head, layer {layer}{words}) gives the donor's answer" in report
        assert ("The weights predict no layer, so nothing here tests a prediction" in report) is (
            chosen == "no_bottleneck"
        )


def test_the_page_takes_orders_and_sizes_from_the_file(planted, saved):
    backwards = {key: planted.results[key][::-1] for key in ("generated_conditions", "same_problem_conditions")}
    backwards |= {key: planted.results[key][::-1] for key in ("conditions", "site_swaps")}
    _, report = saved(**backwards, sweep_draws=77)
    lines = report.split("\n")

    def column(heading: str, first: str) -> list[str]:
        """First cells of the first table below a heading."""
        start = lines.index(next(line for line in lines[lines.index(heading) :] if line.startswith(f"| {first} |")))
        rows = lines[start + 2 :]
        return [row.split(" | ")[0][2:] for row in rows[: rows.index("")]]

    for heading, key in (("2 Conditions", "conditions"), ("7 Free generation", "generated_conditions")):
        assert column(f"## {heading}", "swapped") == [page.NAMES[label] for label in backwards[key]]
    assert column("## 8 Same problem", "swapped") == [
        page.NAMES[label] for label in backwards["same_problem_conditions"]
    ]
    assert "| site | random | layer's own Z, wrong donor | layer's own Z | Z⊥ | Z |" in report
    assert "beside 77 random bases" in report and "the mean of 77 Haar-random subspaces" in report


@pytest.fixture(scope="module")
def decoy(script, tmp_path_factory) -> tuple:
    """1.py on a decoy: the bottleneck's kernels span a random subspace, the answer runs elsewhere."""
    path = tmp_path_factory.mktemp("decoy")
    control = write_control(path / "model", "decoy", rank=RANK, seed=1, **PATCHING)
    run(script, "1.py", control.path, path / "out")
    return control, path / "out"


def test_a_decoy_is_refuted(script, decoy, tmp_path):
    control, one = decoy
    out = shutil.copytree(one, tmp_path / "out")
    run(script, "phase2_z_extraction.py", control.path, out, "--contingencies", "never")
    run(script, "phase3_patching.py", control.path, out)
    results, _, _ = read(out)
    assert results["settings"]["z"]["method"] == "weight"
    assert results["pairs"] >= 40
    assert results["verdict"] == "none"
    assert results["success"]["full"] == 1  # the answer is there, but not in what the bottleneck reads
    assert results["success"]["z"] < 0.3
    assert results["winners"]["z_perp"][3] > 0.7  # what is left outside the decoy carries answer and language
    assert not any(row["holds"] for row in results["claims"] if row["id"] in ("z", "z_perp", "weights"))
    report = (out / "phase3_output.md").read_text()
    assert "correlational at best" in report
    assert "This Z did not pass phase 2's test." in report


def test_a_fitted_z_passes_where_the_decoy_fails_and_only_on_other_problems(script, decoy, tmp_path):
    control, one = decoy
    out = shutil.copytree(one, tmp_path / "out")
    run(script, "phase2_z_extraction.py", control.path, out)
    run(script, "phase3_patching.py", control.path, out)
    results, samples, _ = read(out)
    assert results["settings"]["z"]["method"] == "centroid"
    assert results["verdict"] == "double_dissociation"
    assert results["success"]["z"] > 0.9 < results["success"]["z_perp"]
    assert results["weight_verdict"] == "none"
    assert results["success"]["weight"] < 0.3
    assert not next(row for row in results["claims"] if row["id"] == "weights")["holds"]
    fitted_on = set(json.loads((out / "phase2_results.json").read_text())["z"]["fitted_on"])
    problems = {
        problem.id: questions.problem_hash(problem)
        for problem in questions.load_problems([control.path / "problems.jsonl"], ["en", "zh"])
    }
    assert len(fitted_on) == 20
    assert fitted_on <= set(problems.values())
    asked = {row["id"] for row in samples} | {row["donor"] for row in samples if "donor" in row}
    assert len(asked) == 20 == results["problems"]["asked"] == results["problems"]["left_out_as_fitted"]
    assert not fitted_on & {problems[name] for name in asked}
    assert "its success is no evidence for a prediction from weights" in (out / "phase3_output.md").read_text()


def test_random_weights_solve_nothing_and_say_so(script, tmp_path):
    control = write_control(tmp_path / "model", "random", **PATCHING)
    for name, flags in (("1.py", ()), ("phase2_z_extraction.py", ("--contingencies", "never"))):
        run(script, name, control.path, tmp_path / "out", *flags)
    run(script, "phase3_patching.py", control.path, tmp_path / "out")
    results, samples, scores = read(tmp_path / "out")
    assert results["verdict"] == "none"
    assert results["pairs"] == 0
    assert set(results["success"].values()) == {0}
    assert all(row["p"] == 1 for row in results["null"].values())
    assert results["problems"]["solved_everywhere"] == 0  # by luck a word is right in one language
    assert results["directions"] == {}
    assert results["causal_site"] == {"site": None}
    assert scores.shape == (len(results["conditions"]), 0, 4)
    assert all(row["holds"] is None for row in results["claims"] if row["id"] != "rescue")
    assert not any(row["holds"] for row in results["claims"])
    assert sum("design" not in row for row in samples) == 80  # every problem was asked in both languages
    report = (tmp_path / "out" / "phase3_output.md").read_text()
    assert "0 of 40 problems are solved unpatched" in report
    assert "This says nothing about Z" in report


def test_exactly_one_solved_problem_makes_no_pair(script, planted, tmp_path):
    """One problem with its own answer among problems with each other's."""
    solved = [row["id"] for row in planted.samples if row.get("condition") == "none" and row["language"] == "en"]
    lines = [json.loads(line) for line in (planted.model / "problems.jsonl").read_text().splitlines()]
    chosen = [line for line in lines if line["id"] in solved][:7]
    answers = [(line["answer"], line["answer_text"]) for line in chosen]
    for line, (answer, words) in zip(chosen[1:], answers[2:] + answers[1:2]):
        line |= {"answer": answer, "answer_text": words}
    (tmp_path / "one.jsonl").write_text("\n".join(map(json.dumps, chosen)))
    out = shutil.copytree(planted.out, tmp_path / "out")
    run(script, "phase3_patching.py", planted.model, out, "--problems", tmp_path / "one.jsonl")
    results, samples, scores = read(out)
    assert results["problems"]["solved"] == {"en": 1, "zh": 1}
    assert results["problems"]["solved_everywhere"] == 1
    assert results["pairs"] == 0
    assert results["verdict"] == "none"
    assert results["success"]["z"] == 0
    assert scores.shape == (len(results["conditions"]), 0, 4)
    assert results["same_problem"]["z"]["right_before"] == 2
    assert {row["design"] for row in samples if "design" in row} == {"same_problem"}
    assert "1 of 7 problems are solved unpatched" in (out / "phase3_output.md").read_text()


NUMBERS = """40|forty|四十, 42|forty-two|四十二, 20|twenty|二十, 21|twenty-one|二十一, 7|seven|七, 8|eight|八, 30|thirty|三十,
31|thirty-one|三十一, 90|ninety|九十, 9|nine|九, 100|one hundred|一百, 3|three|三, 19|nineteen|十九, 4|four|四"""
NUMBERS = [
    row.strip().split("|") for row in NUMBERS.split(",")
]  # some of several tokens, some the beginning of another
NUMBERS = {int(value): (english, chinese) for value, english, chinese in NUMBERS}
UNSOLVED, FITTED = ("p-8", "zh"), "p-3"
SITE, SIZE, WEIGHT_LAYER = 3, 7, 1


@pytest.fixture(scope="module")
def patched(script, small, tmp_path_factory) -> SimpleNamespace:
    """Phase 3 on random weights, told that it had solved all problems but one; with all that it measured."""
    phase3, out = script("phase3_patching.py"), tmp_path_factory.mktemp("patched")
    lines = []
    for number, (english, chinese) in NUMBERS.items():
        words = {"en": english, "zh": chinese}
        question = {"en": f"Count to {number}." + " Then stop." * (number % 3), "zh": f"数到{number}。"}
        lines.append({"id": f"p-{number}", "answer": number, "question": question, "answer_text": words})
    (out / "problems.jsonl").write_text("\n".join(map(json.dumps, lines)))
    problems = {problem.id: problem for problem in questions.load_problems([out / "problems.jsonl"], ["en", "zh"])}
    shot = {"id": "shot", "answer": 2, "question": {"en": "Count to 2.", "zh": "数到2。"}}
    shot |= {"answer_text": {"en": "two", "zh": "二"}, "solution": {"en": "1 + 1 = 2.", "zh": "1加1是2。"}}
    (out / "shots.jsonl").write_text(json.dumps(shot))
    basis = random_basis(SIZE, 48)
    hand_on(
        small,
        out,
        basis,
        site=SITE,
        method="centroid",
        bottleneck=WEIGHT_LAYER,
        fitted_on=[questions.problem_hash(problems[FITTED])],
    )
    kept, real = SimpleNamespace(out=out, problems=problems, basis=basis), phase3.patch

    def all_but_one(samples, study):
        right = [(sample["id"], sample["language"]) != UNSOLVED for sample in samples]
        return torch.tensor(right).view(2, len(study.problems))

    def patch(study, pairs, tested):
        kept.study, kept.pairs, kept.tested = study, pairs, tested
        kept.measured = real(study, pairs, tested)
        return kept.measured

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(phase3, "solved", all_but_one)
        monkeypatch.setattr(phase3, "patch", patch)
        flags = ("--problems", out / "problems.jsonl", "--exemplars", out / "shots.jsonl", "--batch", 5)
        run(script, "phase3_patching.py", small, out, *flags)
    kept.results, kept.samples, kept.scores = read(out)
    kept.draws = np.load(out / "phase3_draws.npy")
    kept.model, kept.tokenizer = models.load_model(
        checkpoints.find_model(str(small)), torch.device("cpu"), torch.float32
    )
    languages = questions.load_languages(["en", "zh"])
    shots = {"en": "Question: Count to 2.\nAnswer: two\n\n", "zh": "问题：数到2。\n答案：二\n\n"}  # no worked solution
    kept.prompt = lambda name, language: shots[language] + questions.prompt_text(problems[name], language, languages)
    rows = [row for row in kept.samples if row.get("condition") == "none" and row["design"] == "different_problem"]
    kept.rows = [(row["id"], row["language"], row["donor"], row["donor_language"]) for row in rows]
    return kept


def last_stream(patched, name: str, language: str, site: int) -> torch.Tensor:
    ids = torch.tensor(patched.tokenizer(patched.prompt(name, language))["input_ids"])
    with torch.no_grad():
        return patched.model(ids[None], output_hidden_states=True).hidden_states[site][0, -1]


def hooked_logs(patched, ids: list[int], length: int, site: int, change: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (positions, vocabulary) of a full pass, the change added to the last of `length` prompt positions."""

    def add(_, args, output):
        output = output.clone()
        output[0, length - 1] += change
        return output

    module = patched.model.model.layers[site - 1] if site else patched.model.model.embed_tokens
    hook = module.register_forward_hook(add)
    with torch.no_grad():
        logs = patched.model(torch.tensor(ids)[None], use_cache=False).logits[0].log_softmax(-1)
    hook.remove()
    return logs


def full_pass_scores(patched, row: tuple, site: int, change: torch.Tensor) -> torch.Tensor:
    """The four candidates of a pair, one full pass each."""
    (name, language, donor, donor_language), scores = row, []
    prompt = patched.prompt(name, language)
    length = len(patched.tokenizer(prompt)["input_ids"])
    for problem in (name, donor):
        for spoken in (language, donor_language):
            word = patched.problems[problem].answer_text[spoken]
            ids = patched.tokenizer(prompt + (f" {word}" if spoken == "en" else word))["input_ids"]
            logs = hooked_logs(patched, ids, length, site, change)
            scores.append(sum(logs[place - 1, ids[place]] for place in range(length, len(ids))))
    return torch.stack(scores)


def difference(patched, place: int, site: int, third: bool = False) -> torch.Tensor:
    """The donor's stream (or that of the third problem, asked in the donor's language) less the recipient's."""
    name, language, donor, donor_language = patched.rows[place]
    if third:
        donor = patched.study.problems[patched.pairs[place].third].id
    return last_stream(patched, donor, donor_language, site) - last_stream(patched, name, language, site)


def agree(patched, scores, place: int, site: int, change: torch.Tensor) -> None:
    """The scores are those of full passes with the change added at the site."""
    expected = full_pass_scores(patched, patched.rows[place], site, change)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-3)


def test_scores_of_every_pair_are_those_of_full_hooked_passes(phase3, patched):
    assert patched.results["settings"]["z"]["site"] == SITE
    basis = torch.from_numpy(np.load(patched.out / "phase2_z_basis.npy"))
    weight = torch.from_numpy(np.load(patched.out / "phase2_layer_subspaces.npy"))[WEIGHT_LAYER]
    order = patched.results["conditions"]
    assert order == list(phase3.CONDITIONS)
    assert patched.scores.shape == (len(order), len(patched.rows), 4)
    assert patched.scores.dtype == np.float32
    lengths = {len(patched.tokenizer(words[0])["input_ids"]) for words in NUMBERS.values()}
    assert len(lengths) > 2  # answers of several tokens
    assert any(pair.third != pair.donor for pair in patched.pairs)
    for place in range(len(patched.rows)):
        for name, site, rows in (("z", SITE, basis), ("weight", WEIGHT_LAYER + 1, weight)):
            whole, third = difference(patched, place, site), difference(patched, place, site, third=True)
            inside, wrong = (rows.T @ (rows @ gap) for gap in (whole, third))
            swaps = {name: inside, f"{name}_perp": whole - inside, f"{name}_wrong_donor": wrong}
            swaps[f"{name}_perp_erased"] = whole - inside + wrong
            if name == "z":
                swaps |= {"none": 0 * whole, "full": whole, "full_wrong_donor": third}
            for condition, change in swaps.items():
                agree(patched, patched.scores[order.index(condition), place], place, site, change)
    means = patched.draws.mean(1)
    np.testing.assert_allclose(patched.scores[order.index("random")], means[0], atol=1e-4)
    np.testing.assert_allclose(patched.scores[order.index("random_matched")], means[1], atol=1e-4)


def some(patched) -> list[int]:
    """One pair of every fold and direction."""
    first = {(pair.fold, pair.direction): place for place, pair in reversed(list(enumerate(patched.pairs)))}
    assert len(first) == 4
    return list(first.values())


def test_every_draw_is_the_swap_of_its_subspace(patched):
    assert patched.draws.shape == (6, 200, len(patched.rows), 4)
    for place in some(patched):
        for first, tested in zip((0, 3), (patched.tested["z"], patched.tested["weight"])):
            site, space = tested.site, tested.folds[patched.pairs[place].fold]
            whole = difference(patched, place, site)
            for draw in (0, 199):
                haar, matched = (part[draw].T @ (part[draw] @ whole) for part in (space.random, space.random_matched))
                for null, change in enumerate((haar, matched, whole - haar), first):
                    agree(patched, patched.draws[null, draw, place], place, site, change)


def test_doses_sites_and_same_language_are_those_of_full_hooked_passes(phase3, patched):
    measured, study, basis = patched.measured, patched.study, patched.basis.float()
    bases, sizes = phase3.nested_bases(study), phase3.doses(SIZE, 48)
    layers = torch.from_numpy(np.load(patched.out / "phase2_layer_subspaces.npy"))
    assert measured["dose"].shape == (11, len(sizes), len(patched.rows), 4)
    rows = dict.fromkeys(phase3.SITES, 1) | {"random": 10}
    assert {name: scores.shape for name, scores in measured["sites"].items()} == {
        name: (6, count, len(patched.rows), 4) for name, count in rows.items()
    }
    for place in some(patched):
        space = patched.tested["z"].folds[patched.pairs[place].fold]
        whole = difference(patched, place, SITE)
        for start, index in ((0, 0), (0, sizes.index(SIZE)), (3, 2), (10, len(sizes) - 1)):
            rows = bases[start, : sizes[index]]
            agree(patched, measured["dose"][start, index, place], place, SITE, rows.T @ (rows @ whole))
        own_size = measured["dose"][0, sizes.index(SIZE), place]
        np.testing.assert_allclose(own_size, patched.scores[1, place], rtol=0, atol=1e-3)
        for site in (0, 1, SITE, 4):
            gap, third = difference(patched, place, site), difference(patched, place, site, third=True)
            layer = layers[max(site - 1, 0)]
            inside, own, wrong = basis.T @ (basis @ gap), layer.T @ (layer @ gap), layer.T @ (layer @ third)
            last = space.random[9].T @ (space.random[9] @ gap)
            changes = {"full": gap, "full_wrong_donor": third, "z": inside, "z_perp": gap - inside}
            changes |= {"layer_z": own, "layer_z_wrong_donor": wrong, "random": last}
            for name, change in changes.items():
                agree(patched, measured["sites"][name][site, -1, place], place, site, change)
        name, language, donor, _ = patched.rows[place]
        alike = last_stream(patched, donor, language, SITE) - last_stream(patched, name, language, SITE)
        for condition, change in (("z", basis.T @ (basis @ alike)), ("full", alike)):
            agree(patched, measured["same_language"][condition][0, place], place, SITE, change)


def test_shares_in_the_results_are_those_of_the_scores(patched):
    """On a model in which every outcome occurs."""
    outcomes = patched.scores.argmax(-1)
    targets = {"none": 2, "z": 2, "z_perp": 1, "full": 3, "pca": 2, "centroid": 1, "centroid_perp": 2, "weight": 2}
    for condition, target in targets.items():
        won = outcomes[patched.results["conditions"].index(condition)]
        assert patched.results["success"][condition] == pytest.approx((won == target).mean(), abs=1e-4)
        expected = [(won == index).mean() for index in range(4)]
        assert patched.results["winners"][condition] == pytest.approx(expected, abs=1e-4)
        for direction, row in patched.results["directions"].items():
            chosen = [f"{row[3]}_to_{row[1]}" == direction for row in patched.rows]
            assert row[condition] == pytest.approx((won[chosen] == target).mean(), abs=1e-4)
    rates = (patched.draws[0].argmax(-1) == 2).mean(-1)
    at_least = int((rates >= (outcomes[1] == 2).mean()).sum())
    assert patched.results["null"]["random"]["p"] == pytest.approx((1 + at_least) / 201, rel=1e-3)
    logs = patched.scores - patched.scores[:1]  # against no swap
    for condition in ("z", "z_perp", "full", "random"):
        moved = logs[patched.results["conditions"].index(condition)]
        effect = patched.results["effect"][condition]
        assert effect["answer"] == pytest.approx((moved[:, 2] - moved[:, 0]).mean(), abs=1e-3)
        assert effect["language"] == pytest.approx((moved[:, 1] - moved[:, 0]).mean(), abs=1e-3)


def test_what_is_handed_on_to_phase_3b(patched):
    lines = [json.loads(line) for line in (patched.out / "phase3_pairs.jsonl").read_text().splitlines()]
    streams = np.load(patched.out / "phase3_streams.npy")
    names = [problem.id for problem in patched.study.problems]
    assert (streams.shape, streams.dtype) == ((2, len(names), 48), np.float32)
    for language, spoken in enumerate(("en", "zh")):
        for place in (0, 5, len(names) - 1):
            expected = last_stream(patched, names[place], spoken, SITE)
            np.testing.assert_allclose(streams[language, place], expected, rtol=1e-4, atol=1e-4)
    assert [(names[line["recipient"]], line["recipient_language"]) for line in lines] == [
        row[:2] for row in patched.rows
    ]
    assert [(names[line["donor"]], line["donor_language"]) for line in lines] == [row[2:] for row in patched.rows]
    assert [names[place] for place in patched.results["usable"]] == [name for name in names if name != UNSOLVED[0]]
    for line, (name, language, donor, donor_language) in zip(lines, patched.rows):
        assert line["prompt"] == patched.prompt(name, language)
        texts = [
            patched.problems[problem].answer_text[spoken]
            for problem in (name, donor)
            for spoken in (language, donor_language)
        ]
        assert [patched.tokenizer.decode(tokens).strip() for tokens in line["candidates"]] == texts


def test_unsolved_and_fitted_problems_take_part_in_no_pair(patched):
    met = {name for row in patched.rows for name in (row[0], row[2])}
    assert UNSOLVED[0] not in met
    assert FITTED not in {row["id"] for row in patched.samples} | met
    assert patched.results["problems"] == {
        "asked": 13,
        "left_out_as_fitted": 1,
        "solved": {"en": 13, "zh": 12},
        "solved_everywhere": 12,
    }
    asked = [row for row in patched.samples if row.get("design") == "same_problem" and row["condition"] == "z"]
    assert len(asked) == 25  # a donor of the same problem needs to be solved in the donor's language only


def test_generation_under_a_patch_begins_with_the_patched_argmax(patched):
    """Of the full swap: the first token generated is the one that a full hooked pass gives."""
    rows = [row for row in patched.samples if row.get("condition") == "full" and row["design"] == "different_problem"]
    generated, checked = {(row["id"], row["language"]): row["output"] for row in rows}, 0
    for place in some(patched):
        row = patched.rows[place]
        ids = patched.tokenizer(patched.prompt(*row[:2]))["input_ids"]
        first = hooked_logs(patched, ids, len(ids), SITE, difference(patched, place, SITE))[-1].argmax()
        text = patched.tokenizer.decode([first])
        if text.strip() and "\N{REPLACEMENT CHARACTER}" not in text:
            assert generated[row[:2]].startswith(text)
            checked += 1
    assert checked


class LetterTokenizer:
    """A token per character."""

    def __call__(self, text: str, **_) -> dict:
        return {"input_ids": [ord(letter) for letter in text]}


def template(question: str, answer: str, script: str = "latin") -> dict:
    prompt = question + ": {question}\n" + answer + ":"
    return {"prompt": prompt, "answer": " {answer}", "separator": "", "script": script}


TEMPLATES = {"en": template("Q", "A"), "zh": template("问", "答", "han"), "de": template("F", "W")}
# the third and fourth are the same answer, the sixth begins with the fifth in one language only
WORDS = "cat 猫 Katze, dog 狗 Hund, cow 牛 Kuh, cow 牛 Kuh, tea 茶 Tee, teapot 壶 Kanne, red 红 rot, blue 蓝 blau, ink 墨 Tinte"
WORDS = [tuple(row.split()) for row in f"{WORDS}, oak 橡 Eiche".split(", ")]


def study_of(phase3, languages=("en", "zh"), words=WORDS, solved=None, seed=0, k=3, width=12, site=1, z=None):
    """A Study without a model: made-up problems and random streams."""
    places = [list(TEMPLATES).index(language) for language in languages]
    problems = []
    for index, row in enumerate(words):
        spoken = {name: row[place] for name, place in zip(languages, places)}
        problems.append(questions.Problem(str(index), "", row[0], dict.fromkeys(languages, f"{index}"), spoken))
    generator = torch.Generator().manual_seed(seed)
    layers = utils.random_subspaces(generator, 3, k, width).float()
    basis = layers[0] if z is None else z
    handed = subspaces.HandedZ(basis, layers, site, 2, set(), {"method": "weight"})
    model = SimpleNamespace(device=torch.device("cpu"))
    templates = {name: TEMPLATES[name] for name in languages}
    study = phase3.Study(model, LetterTokenizer(), templates, problems, [], handed, 4, seed)
    study.solved = torch.ones(len(languages), len(words), dtype=torch.bool) if solved is None else solved
    study.streams = torch.randn(len(languages), len(words), 4, width, generator=generator)
    return study


@pytest.mark.parametrize("languages", [("en", "zh"), ("en", "zh", "de")])
@pytest.mark.parametrize("seed", range(8))
def test_every_usable_problem_is_a_recipient_once_per_direction(phase3, languages, seed):
    solved = torch.rand(len(languages), len(WORDS), generator=torch.Generator().manual_seed(seed)) < 0.93
    study = study_of(phase3, languages, solved=solved, seed=seed)
    usable, folds = solved.all(0).tolist(), study.folds().tolist()
    assert abs(folds.count(0) - folds.count(1)) <= 1

    def differ(first: int, second: int) -> bool:
        both = list(zip(WORDS[first], WORDS[second]))[: len(languages)]
        return not any(one.startswith(other) or other.startswith(one) for one, other in both)

    met = {}
    for pair in phase3.make_pairs(study):
        assert usable[pair.recipient] and usable[pair.donor]
        assert differ(pair.recipient, pair.donor)
        assert folds[pair.recipient] == folds[pair.donor] == pair.fold
        assert usable[pair.third]
        assert differ(pair.third, pair.recipient) and differ(pair.third, pair.donor)
        assert pair.direction == (pair.donor_language, pair.recipient_language)
        met.setdefault(pair.direction, []).append(pair.recipient)
        spoken = [languages[pair.recipient_language], languages[pair.donor_language]]
        chosen = (study.problems[problem].answer_text for problem in (pair.recipient, pair.donor))
        candidates = [tuple(map(ord, f" {words[language]}")) for words in chosen for language in spoken]
        assert phase3.candidate_tokens(study, pair) == candidates
    assert set(met) == set(permutations(range(len(languages)), 2))  # six directions of three languages
    expected = [
        one
        for one in range(len(WORDS))
        if usable[one]
        and any(usable[other] and folds[one] == folds[other] and differ(one, other) for other in range(len(WORDS)))
    ]
    for recipients in met.values():
        assert sorted(recipients) == expected
    assert phase3.make_pairs(study) == phase3.make_pairs(study)


def test_donors_and_wrong_donors_are_many_and_change_with_direction_and_seed(phase3):
    """A control that asks about one problem over and over would speak of that problem alone."""
    donors, thirds = {}, {}
    for seed in (0, 1):
        for pair in phase3.make_pairs(study_of(phase3, seed=seed)):
            donors.setdefault((seed, pair.direction), {})[pair.recipient] = pair.donor
            thirds.setdefault((seed, pair.direction), set()).add(pair.third)
    assert len({tuple(sorted(chosen.items())) for chosen in donors.values()}) == 4
    assert all(len(set(chosen.values())) >= len(WORDS) // 2 for chosen in donors.values())
    assert all(len(chosen) >= len(WORDS) // 2 for chosen in thirds.values())


def test_without_a_third_problem_the_wrong_donor_is_the_donor(phase3):
    """The control then equals the swap; the recipient's own problem would leave the answer alone whatever Z is."""
    words = [("tea", "茶", "Tee")] * 5 + [("red", "红", "rot")] * 5  # two answers and no third
    pairs = phase3.make_pairs(study_of(phase3, words=words))
    assert pairs
    assert all(pair.third == pair.donor for pair in pairs)


def test_a_third_problem_of_the_other_fold_must_be_solved_too(phase3):
    """Where a fold has two answers only, the third comes from the other one."""
    words, folds = [("tea", "茶", "Tee")] * 10, study_of(phase3).folds().tolist()
    inside, outside = ([place for place in range(10) if folds[place] == fold] for fold in (0, 1))
    words[inside[0]], words[outside[0]] = ("red", "红", "rot"), ("ink", "墨", "Tinte")
    for known in (True, False):
        solved = torch.ones(2, 10, dtype=torch.bool)
        solved[1, outside[0]] = known
        pairs = [pair for pair in phase3.make_pairs(study_of(phase3, words=words, solved=solved)) if pair.fold == 0]
        assert len(pairs) == 10
        assert all((pair.third == outside[0]) == known for pair in pairs)


def test_the_prediction_is_the_bottlenecks_whole_z_at_its_output(phase3):
    """Whatever was chosen on activations, a layer, a site or a size, is set beside the weight-based Z."""
    primary = {"method": "weight", "layer": 2, "site": 3, "k": 3, "holds": True}
    found = []
    for change in ({}, {"method": "centroid"}, {"method": "sweep"}, {"layer": 1, "site": 2}, {"site": 2}, {"k": 2}):
        summary = primary | change
        handed = subspaces.HandedZ(
            torch.eye(summary["k"], 12), torch.zeros(4, 3, 12), summary["site"], 2, set(), summary
        )
        found.append(handed.predicted)
    assert found == [True, False, False, False, False, False]


def test_too_few_or_too_similar_problems_make_no_pair(phase3):
    one = torch.zeros(2, len(WORDS), dtype=torch.bool)
    assert phase3.make_pairs(study_of(phase3, solved=one)) == []
    one[:, 4] = True
    assert phase3.make_pairs(study_of(phase3, solved=one)) == []
    half = torch.ones(2, len(WORDS), dtype=torch.bool)
    half[1] = False  # solved in one language only
    assert phase3.make_pairs(study_of(phase3, solved=half)) == []
    assert phase3.make_pairs(study_of(phase3, words=[("cow", "牛", "Kuh")] * 10)) == []


def test_an_answer_keeps_its_tokens_where_the_prompts_end_would_merge_with_it(phase3):
    """A tokenizer that joins the colon to the space: the prompt's own tokens stay, the answer is read alone."""
    study = study_of(phase3)
    study.tokenizer = lambda text, **_: {"input_ids": [ord(letter) for letter in text.replace(": ", "+")]}
    assert study.answer(0, 0) == tuple(map(ord, " cat"))


def test_what_is_fitted_for_a_fold_depends_on_the_other_fold_alone(phase3):
    study = study_of(phase3)
    folds, site = study.folds(), study.z.site
    before = phase3.fold_subspaces(study, study.z.basis, site)
    assert len(before) == 2
    for changed in (0, 1):
        other = study_of(phase3)
        other.streams[:, folds == changed] = torch.randn_like(other.streams[:, folds == changed])
        after = phase3.fold_subspaces(other, study.z.basis, site)
        for name in ("pca", "language", "random_matched"):
            assert torch.equal(getattr(after[changed], name), getattr(before[changed], name)), name
            assert not torch.allclose(getattr(after[1 - changed], name), getattr(before[1 - changed], name)), name
        for fold in (0, 1):  # nothing is fitted here
            assert torch.equal(after[fold].random, before[0].random)
            assert torch.equal(after[fold].z, study.z.basis)


@pytest.mark.parametrize("site", [1, 3])
@pytest.mark.parametrize("languages", [("en", "zh"), ("en", "zh", "de")])
def test_fitted_subspaces_are_what_they_are_called(phase3, languages, site):
    study = study_of(phase3, languages)
    study.streams *= torch.logspace(0, -2, 12)
    folds, spaces = study.folds(), phase3.fold_subspaces(study, study.z.basis, site)
    for fold, space in enumerate(spaces):
        streams = study.streams[:, folds != fold, site].double()
        centred = (streams - streams.mean(1, keepdim=True)).flatten(0, 1)
        vectors = torch.linalg.eigh(centred.T @ centred)[1]
        torch.testing.assert_close((space.pca.double() @ vectors[:, -3:]).square().sum().item(), 3.0, atol=1e-5, rtol=0)
        means = streams.mean(1).float()
        assert space.language.shape == (len(languages) - 1, 12)
        for gap in means[1:] - means[0]:  # every difference of two languages' means lies inside
            torch.testing.assert_close(space.language.T @ (space.language @ gap), gap, rtol=1e-4, atol=1e-5)
        for bases in (space.pca[None], space.language[None], space.random, space.random_matched):
            eye = torch.eye(bases.shape[1]).expand(len(bases), -1, -1)
            torch.testing.assert_close(bases @ bases.mT, eye, atol=1e-5, rtol=0)
        assert space.random.shape == space.random_matched.shape == (200, 3, 12)
        draw = statistics.seeded(study.seed, "phase3: matched subspaces")  # the same numbers in both folds
        matched = utils.matched_subspaces(draw, 200, 3, centred).float()
        torch.testing.assert_close(space.random_matched, matched, atol=1e-4, rtol=0)

        def caught(bases: torch.Tensor, centred=centred) -> float:
            return ((centred.float() @ bases.mT).square().sum((1, 2)) / centred.square().sum()).mean().item()

        assert caught(space.random) == pytest.approx(3 / 12, abs=0.05)  # k / d
        assert caught(space.random_matched) > 1.8 * caught(space.random)  # as much variance as chance puts into them
        assert caught(space.pca[None]) > caught(space.random_matched)
    study.streams[0] += 5 * random_basis(1, 12, 9)[0].float()  # an offset between languages moves the centroid alone
    for before, after in zip(spaces, phase3.fold_subspaces(study, study.z.basis, site)):
        torch.testing.assert_close(after.pca.T @ after.pca, before.pca.T @ before.pca, atol=1e-4, rtol=0)
        torch.testing.assert_close(after.random_matched, before.random_matched, atol=1e-3, rtol=0)
        assert not torch.allclose(after.language.T @ after.language, before.language.T @ before.language, atol=0.01)


def test_a_pca_basis_has_no_more_directions_than_the_streams(phase3):
    study = study_of(phase3, k=9)  # five problems a fold and language, around two means: rank 8
    assert [len(space.pca) for space in phase3.fold_subspaces(study, study.z.basis, 1)] == [8, 8]


def test_matched_draws_are_gaussian_with_the_shrunken_covariance():
    centred = torch.randn(40, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centred[:, 5:], centred[:, 0] = 0, 100 * centred[:, 0]
    bases = utils.matched_subspaces(torch.Generator().manual_seed(1), 50, 3, centred)
    sigma = centred.T @ centred / 40
    sigma = 0.9 * sigma + 0.1 * sigma.trace() / 12 * torch.eye(12)
    draws = torch.randn(50, 3, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    draws = draws @ torch.from_numpy(sqrtm(sigma.numpy()).real)
    torch.testing.assert_close(draws @ bases.mT @ bases, draws, rtol=1e-6, atol=1e-6)  # they span the same
    torch.testing.assert_close(bases @ bases.mT, torch.eye(3).double().expand(50, 3, 3))
    assert bases[..., 0].square().sum(1).mean() > 0.9  # the one large direction is in nearly all of every draw
    assert (bases[0] - bases[1]).abs().max() > 0.1
    again = utils.matched_subspaces(torch.Generator().manual_seed(1), 50, 3, centred * 1.01)
    torch.testing.assert_close(again, bases)


def spaces_of(phase3, seed: int = 5) -> object:
    draws = utils.random_subspaces(torch.Generator().manual_seed(seed), 60, 3, 12).float()
    return phase3.Subspaces(draws[0], draws[2], random_basis(1, 12, seed - 2).float(), draws[3:30], draws[30:57])


def test_swaps_are_projections_that_add_up(phase3):
    space = spaces_of(phase3)
    gap, third = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(1))
    swaps = space.swaps(gap, 20, third)
    single, controls = phase3.SINGLE, phase3.CONTROLS
    counts = dict.fromkeys((*single, *controls), 1) | dict.fromkeys(phase3.NULLS, 20)
    assert {name: rows.shape for name, rows in swaps.items()} == {name: (7, n, 12) for name, n in counts.items()}
    row = {name: rows[:, 0] for name, rows in swaps.items()}
    assert torch.count_nonzero(row["none"]) == 0
    assert torch.equal(row["full"], gap)
    assert torch.equal(row["full_wrong_donor"], third)
    for name, basis in {"z": space.z, "centroid": space.language, "pca": space.pca}.items():
        projector = basis.double().T @ basis.double()
        torch.testing.assert_close(row[name].double(), gap.double() @ projector, atol=1e-5, rtol=0)
        if name != "pca":
            torch.testing.assert_close(row[name] + row[f"{name}_perp"], gap, atol=1e-6, rtol=1e-6)
            assert (row[f"{name}_perp"] @ basis.T).abs().max() < 1e-5
    torch.testing.assert_close(row["z_wrong_donor"], third @ space.z.T @ space.z, atol=1e-5, rtol=0)
    # Z's part of the third problem, the rest of the donor
    torch.testing.assert_close(row["z_perp_erased"] @ space.z.T, third @ space.z.T, atol=1e-5, rtol=0)
    torch.testing.assert_close(row["z_perp_erased"] - row["z_wrong_donor"], row["z_perp"], atol=1e-5, rtol=0)
    haar, matched, rest = (swaps[name] for name in ("random", "random_matched", "random_perp"))
    torch.testing.assert_close(haar + rest, gap[:, None].expand_as(haar), atol=1e-6, rtol=1e-6)
    for drawn, bases in ((haar, space.random), (matched, space.random_matched)):
        torch.testing.assert_close(drawn[:, 7], gap @ bases[7].T @ bases[7], atol=1e-5, rtol=0)
    for rows in space.swaps(0 * gap, 20).values():  # donor = recipient: exactly nothing is added
        assert torch.count_nonzero(rows) == 0
    without = {name: rows for name, rows in swaps.items() if name not in controls}
    torch.testing.assert_close(space.swaps(gap, 20), without)
    torch.testing.assert_close(space.swaps(gap), {name: swaps[name] for name in single})
    same = space.swaps(gap, third=gap)  # no third problem: the controls equal the swap
    for control, swap in (("z_wrong_donor", "z"), ("z_perp_erased", "full"), ("full_wrong_donor", "full")):
        torch.testing.assert_close(same[control], same[swap], atol=1e-6, rtol=1e-6)


def test_every_condition_names_its_partners(phase3):
    """Control and nulls of the weight-based Z are what Z's are, and every swap is one that is made."""
    conditions, made = phase3.CONDITIONS, {*phase3.SINGLE, *phase3.CONTROLS, *phase3.NULLS}
    for condition in conditions.values():
        assert (condition.swap or condition.name) in made
        assert condition.control is None or conditions[condition.control].target == condition.target
        if condition.subspace == "weight":
            own = conditions[condition.swap]
            assert (own.target, own.nulls) == (condition.target, condition.nulls)
            control = condition.control and conditions[condition.control]
            assert (control and control.swap) == own.control
    assert [conditions[name].subspace for names in phase3.TESTED.values() for name in names] == ["z"] * 2 + [
        "weight"
    ] * 2


def test_energies_are_shares_of_the_swapped_differences(phase3):
    study, spaces, expected = study_of(phase3), [spaces_of(phase3), spaces_of(phase3, 6)], {}
    pairs = phase3.make_pairs(study)
    for pair in pairs:
        gap = (
            study.streams[pair.donor_language, pair.donor, 1]
            - study.streams[pair.recipient_language, pair.recipient, 1]
        )
        for name, field in (("z", "z"), ("pca", "pca"), ("centroid", "language"), ("random", "random")):
            coordinates = getattr(spaces[pair.fold], field).reshape(-1, 12) @ gap  # 27 random draws: their mean
            part = coordinates.square().sum() / gap.square().sum() / (27 if name == "random" else 1)
            expected.setdefault(name, []).append(part.item())
    energy = phase3.energies(study, pairs, spaces)
    for name, values in expected.items():
        assert energy[name] == pytest.approx(np.mean(values), rel=1e-4)
    assert set(phase3.energies(study, [], spaces).values()) == {0}


@pytest.mark.parametrize("condition", ["none", "z", "z_perp", "full", "centroid", "centroid_perp", "random"])
def test_generation_swaps_in_the_subspaces_of_the_pairs_fold(phase3, condition):
    study = study_of(phase3)
    spaces = [spaces_of(phase3), spaces_of(phase3, 6)]
    pairs, asked = phase3.make_pairs(study), []
    study.ask = lambda *given: asked.append(given)
    phase3.answers_under(study, pairs, spaces, condition)
    ((recipients, vectors, site),) = asked
    assert site == study.z.site
    assert recipients == [(pair.recipient_language, pair.recipient) for pair in pairs]
    for pair, vector in zip(pairs, vectors):
        own = study.streams[pair.recipient_language, pair.recipient, site]
        gap = study.streams[pair.donor_language, pair.donor, site] - own
        space = spaces[pair.fold]
        inside = {"none": torch.zeros(1, 12), "full": torch.eye(12), "z": space.z, "random": space.random[0]}
        inside |= {"centroid": space.language}
        basis = inside[condition.removesuffix("_perp")]
        change = basis.T @ (basis @ gap)
        expected = own + (gap - change if condition.endswith("_perp") else change)
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=0)


def test_same_problem_donors_need_only_their_own_language_and_states_are_three(phase3):
    solved = torch.tensor([[True, True, False], [True, False, True]])
    study, spaces = study_of(phase3, words=WORDS[:3], solved=solved), [spaces_of(phase3)] * 2
    given = {(0, 0): "en", (0, 1): "en", (0, 2): "zh", (1, 0): "zh", (1, 1): None, (1, 2): "zh"}
    unpatched = [
        {"language": study.names[language], "correct_in": given[language, problem]}
        | {"correct": given[language, problem] is not None}
        for language, problem in study.asked
    ]
    study.ask = lambda recipients, *_: [{"id": problem, "language": language} for language, problem in recipients]
    rows = phase3.generate_same_problem(study, spaces, unpatched)
    assert {row["condition"] for row in rows} == set(phase3.SAME_PROBLEM)
    assert {row["design"] for row in rows} == {"same_problem"}
    rows = [(row["language"], row["id"], row["unpatched"]) for row in rows if row["condition"] == "z"]
    # donors in English: problems 0 and 1; in Chinese: 0 and 2, of which 2 was answered in the other language
    assert rows == [(1, 0, "right"), (1, 1, "wrong"), (0, 0, "right"), (0, 2, "other_form")]


@pytest.mark.parametrize("k", [1, 5, 12])
def test_nested_bases_are_complete_and_begin_with_z(phase3, k):
    z = random_basis(k, 12, 4).float()
    bases = phase3.nested_bases(study_of(phase3, z=z))
    assert bases.shape == (11, 12, 12)
    torch.testing.assert_close(bases @ bases.mT, torch.eye(12).expand(11, 12, 12), atol=1e-5, rtol=0)
    torch.testing.assert_close(bases[0, :k], z, atol=1e-5, rtol=0)
    if k < 12:  # the random ones do not know Z
        overlap = (bases[1:, :k] @ z.T).square().sum((1, 2)) / k
        assert overlap.max() < 0.95
    assert len({round(float(basis[0, 0]), 5) for basis in bases[1:]}) == 10


@pytest.mark.parametrize("k, width", [(6, 64), (78, 2048), (1, 1), (16, 48), (48, 48), (3, 100)])
def test_doses(phase3, k, width):
    sizes = phase3.doses(k, width)
    assert sizes == sorted(set(sizes))
    assert {1, k, width} <= set(sizes)
    assert sizes[-1] == width
    assert all(later <= 2 * earlier for earlier, later in zip(sizes, sizes[1:]))


WINS = np.eye(4)  # scores in which one candidate wins


def measured_of(
    phase3, pairs: int, z: int, z_perp: int, none=0, wrong=0, erased=0, as_good=0, matched=0, perp=0
) -> dict:
    """Scores in which the first pairs have their target: z of them under Z, ...

    `as_good` Haar draws and `matched` matched ones are as good as Z, `perp` complements as good as Z⊥.
    """

    def scores(count: int, target: int) -> np.ndarray:
        return WINS[[target] * count + [0] * (pairs - count)]

    rows = {"none": scores(none, 2), "z": scores(z, 2), "z_perp": scores(z_perp, 1), "full": scores(pairs, 3)}
    rows |= {"z_wrong_donor": scores(wrong, 2), "z_perp_erased": scores(erased, 1)}
    idle = scores(0, 0)
    labels = [label for label in phase3.CONDITIONS if "weight" not in label]
    draws = np.tile(idle, (3, phase3.DRAWS, 1, 1))
    draws[0, :as_good], draws[1, :matched], draws[2, :perp] = rows["z"], rows["z"], rows["z_perp"]
    stacked = np.stack([rows.get(label, idle) for label in labels])
    return {
        "labels": labels,
        "scores": stacked,
        "draws": {"z": dict(zip(phase3.NULLS, draws))},
        "same_language": {"z": idle},
    }


def summed_up(phase3, measured: dict, pairs: list) -> dict:
    """What a verdict is given about, from scores; nothing was rescued."""
    idle = dict.fromkeys(phase3.SAME_PROBLEM, {"rescued": 0, "wrong_before": 0}) | {"p_rescue": 1.0}
    orders = phase3.orders(measured["labels"])
    return {"pairs": len(pairs), "same_problem": idle} | orders | phase3.summarise(measured, pairs, ["en", "zh"])


def alike_pairs(phase3, count: int) -> list:
    return [phase3.Pair(index, index, 0, 1, 0, index) for index in range(count)]


def test_the_weight_based_z_is_compared_as_z_is(phase3):
    """With its own success, against its own draws: 30 of Z's reach Z, and as many of its own as are given."""
    own = measured_of(phase3, 16, 6, 6, as_good=30)
    for as_good, verdict in ((0, "double_dissociation"), (30, "none")):
        better = measured_of(phase3, 16, 9, 9, as_good=as_good)
        both = [(label.replace("z", "weight"), row) for label, row in zip(better["labels"], better["scores"])]
        both = [(label, row) for label, row in both if "weight" in label]
        labels, scores = own["labels"] + [label for label, _ in both], [*own["scores"], *(row for _, row in both)]
        measured = own | {"labels": labels, "scores": np.stack(scores)}
        measured["draws"] = {"z": own["draws"]["z"], "weight": better["draws"]["z"]}
        results = summed_up(phase3, measured, alike_pairs(phase3, 16))
        assert set(results["success"]) == set(phase3.CONDITIONS)
        assert results["null"]["random"]["p"] == pytest.approx(31 / 201)
        assert results["weight_null"]["random"]["p"] == pytest.approx((1 + as_good) / 201)
        assert [row["tests"] for row in results["weight_null"].values()] == ["weight", "weight", "weight_perp"]
        assert results["paired"]["weight"]["wrong_donor"] == pytest.approx(2 * 0.5**9)
        assert results["paired"]["weight"]["lowest"] == pytest.approx(9 / 16)
        judged = verdicts.phase3(results)
        assert (judged["verdict"], judged["weight_verdict"]) == ("none", verdict)
        assert judged["holds"]["weights"] == (verdict == "double_dissociation")


VERDICTS = [  # pairs, successes of Z and Z⊥; more; verdict
    ((64, 64, 64), {}, "double_dissociation"),
    ((64, 32, 32), {}, "double_dissociation"),  # half of the pairs is enough
    ((64, 31, 64), {}, "partial"),
    ((64, 64, 31), {}, "partial"),
    ((64, 0, 64), {}, "none"),
    # better than every draw, but one pair of many is no more than no swap might have
    ((64, 1, 64), {}, "none"),
    ((64, 6, 64), {}, "partial"),  # exact McNemar p of 6 : 0 is .03
    ((64, 40, 64), {"none": 40}, "none"),  # no swap has the outcome as often
    # a wrong donor does as much: the swap merely erases the recipient's answer
    ((64, 32, 64), {"wrong": 27}, "none"),
    ((64, 32, 64), {"wrong": 26}, "double_dissociation"),
    # and so for Z⊥ with Z erased
    ((64, 64, 32), {"erased": 27}, "partial"),
    ((64, 64, 32), {"erased": 26}, "double_dissociation"),
    # 5 % of the draws as good: p = 10 / 201 with 9 of them, 11 / 201 with 10
    ((64, 64, 64), {"as_good": 9, "matched": 9, "perp": 9}, "double_dissociation"),
    ((64, 64, 64), {"as_good": 10}, "none"),
    ((64, 64, 64), {"matched": 10}, "none"),
    ((64, 64, 64), {"perp": 10}, "partial"),
    ((0, 0, 0), {}, "none"),
]


@pytest.mark.parametrize("counts, more, verdict", VERDICTS)
def test_verdicts_from_scores(phase3, counts, more, verdict):
    results = summed_up(phase3, measured_of(phase3, *counts, **more), alike_pairs(phase3, counts[0]))
    judged = verdicts.phase3(results)
    assert judged["verdict"] == verdict
    assert "weight_verdict" not in judged
    expected = None if not counts[0] else verdict == "double_dissociation"
    assert judged["holds"]["weights"] == expected
    assert all(judged["tests"].values()) == (verdict == "double_dissociation")
    assert bool(judged["not_beaten"]) == (verdict == "none")


@pytest.mark.parametrize("z, z_perp", [(47, 64), (64, 47), (48, 48)])
def test_half_of_the_pairs_in_every_direction(phase3, z, z_perp):
    """The first 32 pairs run one way, the others the other: 47 of 64 are only 15 of the last 32."""
    pairs = [phase3.Pair(index, index, index // 32, 1 - index // 32, 0, index) for index in range(64)]
    results = summed_up(phase3, measured_of(phase3, 64, z, z_perp), pairs)
    lowest, lowest_perp = results["paired"]["z"]["lowest"], results["paired"]["z"]["lowest_perp"]
    assert (lowest, lowest_perp) == ((z - 32) / 32, (z_perp - 32) / 32)
    judged = verdicts.phase3(results)
    assert judged["verdict"] == ("partial" if 47 in (z, z_perp) else "double_dissociation")
    assert [judged["holds"][half] for half in ("z", "z_perp")] == [z != 47, z_perp != 47]


def test_summary_of_known_scores(phase3):
    pairs = [phase3.Pair(index, index, index % 2, 1 - index % 2, 0, index) for index in range(8)]
    results = phase3.summarise(measured_of(phase3, 8, 6, 4, none=1, wrong=2, erased=1, as_good=30), pairs, ["en", "zh"])
    expected = dict.fromkeys((label for label in phase3.CONDITIONS if "weight" not in label), 0)
    expected |= {"none": 1 / 8, "z": 0.75, "z_perp": 0.5, "full": 1, "random": 0.75 * 30 / 200}
    assert results["success"] == pytest.approx(expected | {"z_wrong_donor": 0.25, "z_perp_erased": 1 / 8})
    assert results["winners"]["z"] == [0.25, 0, 0.75, 0]
    assert {name: row["p"] for name, row in results["null"].items()} == pytest.approx(
        {"random": 31 / 201, "random_matched": 1 / 201, "random_perp": 1 / 201}
    )
    assert [row["tests"] for row in results["null"].values()] == ["z", "z", "z_perp"]
    # discordant pairs: 5 : 0, 4 : 0, 3 : 0, 8 : 0
    tests = {"unpatched": 2 * 0.5**5, "wrong_donor": 2 * 0.5**4, "erased": 2 * 0.5**3, "full": 2 * 0.5**8}
    assert results["paired"] == {"z": pytest.approx(tests | {"lowest": 0.75, "lowest_perp": 0.5})}
    assert "weight_null" not in results
    assert results["interval"]["z"] == pytest.approx(statistics.wilson_interval(6, 8))
    assert results["directions"]["zh_to_en"]["pairs"] == results["directions"]["en_to_zh"]["pairs"] == 4
    assert results["directions"]["zh_to_en"]["z"] == 0.75
    assert results["directions"]["zh_to_en"]["none"] == 0.25
    assert results["directions"]["en_to_zh"]["none"] == 0
    assert results["effect"]["none"] == {"answer": 0, "language": 0}
    # a win of (recipient, recipient) is worth -1 of each log-odds, a win of the other two +1 of one
    assert results["effect"]["z"]["answer"] == pytest.approx((0.75 - 0.25) - (1 / 8 - 7 / 8))
    assert results["effect"]["z"]["language"] == pytest.approx(-0.25 + 7 / 8)


PASSING = {"z": 0.9, "z_perp": 0.8, "none": 0.0, "z_wrong_donor": 0.1, "z_perp_erased": 0.1}  # successes
PASSING |= {"random": 0.005, "random_matched": 0.005, "random_perp": 0.005}  # p against the nulls
PASSING |= {"unpatched": 0.001, "wrong_donor": 0.001, "erased": 0.001, "lowest": 0.5, "lowest_perp": 0.5}  # paired
FAILING = {name: 0.0 if name in ("z", "z_perp", "lowest", "lowest_perp") else 1.0 for name in PASSING}
TABLE = [  # what differs; the tests that fail in moving the answer, in moving the language; verdict
    ({}, [], [], "double_dissociation"),
    ({"lowest": 0.4999}, [], [], "partial"),
    ({"lowest_perp": 0.4999}, [], [], "partial"),
    ({"random": 0.05}, ["random"], [], "none"),
    ({"random": 0.049}, [], [], "double_dissociation"),
    ({"random_matched": 0.06}, ["random_matched"], [], "none"),
    ({"unpatched": 0.06}, ["none"], [], "none"),
    ({"wrong_donor": 0.06}, ["z_wrong_donor"], [], "none"),
    ({"none": 0.95}, ["none"], [], "none"),  # significantly below no swap
    ({"z_wrong_donor": 0.95}, ["z_wrong_donor"], [], "none"),  # and below a wrong donor
    ({"random_perp": 0.05}, [], ["random_perp"], "partial"),
    ({"erased": 0.06}, [], ["z_perp_erased"], "partial"),
    ({"z_perp_erased": 0.85}, [], ["z_perp_erased"], "partial"),
    ({"random": 0.06, "erased": 0.06}, ["random"], ["z_perp_erased"], "none"),
    (FAILING, ["random", "random_matched", "none", "z_wrong_donor"], ["random_perp", "z_perp_erased"], "none"),
]


@pytest.mark.parametrize("changes, answer, language, verdict", TABLE)
@pytest.mark.parametrize("label, other", [("z", "weight"), ("weight", "z")])
def test_the_verdict_rule(phase3, changes, answer, language, verdict, label, other):
    """For one Z, beside another of which everything says the opposite."""
    results = {"success": {}, "paired": {}, "controls": phase3.orders(list(phase3.CONDITIONS))["controls"]}
    for name, values in ((other, PASSING if verdict == "none" else FAILING), (label, PASSING | changes)):
        successes = ("none", "z", "z_perp", "z_wrong_donor", "z_perp_erased")
        results["success"] |= {key.replace("z", name): values[key] for key in successes}
        tested = dict.fromkeys(phase3.RANDOM, name) | dict.fromkeys(phase3.COMPLEMENT, f"{name}_perp")
        rows = {null: {"p": values[null], "tests": tested[null]} for null in phase3.NULLS}
        results["null" if name == "z" else "weight_null"] = rows
        tests = ("unpatched", "wrong_donor", "erased", "lowest", "lowest_perp")
        results["paired"][name] = {key: values[key] for key in tests}
    found = verdicts.swap_tests(results, label)
    for half, failing in (("z", answer), ("z_perp", language)):
        assert [rival for rival, won in found[half].items() if not won] == [
            name.replace("z", label) for name in failing
        ]
    assert verdicts.dissociation(found) == verdict


@pytest.mark.parametrize(
    "z, random, wrong, holds", [(6, 0, 6, True), (5, 0, 5, None), (6, 6, 6, False), (0, 6, 6, False)]
)
def test_a_rescue_needs_six_wrong_answers_and_more_than_chance(phase3, z, random, wrong, holds):
    results = summed_up(phase3, measured_of(phase3, 16, 16, 16), alike_pairs(phase3, 16))
    rescued = {"z": z, "random": random}
    results["same_problem"] = {name: {"rescued": n, "wrong_before": wrong} for name, n in rescued.items()}
    only = (max(0, z - random), max(0, random - z))
    results["same_problem"]["p_rescue"] = statistics.mcnemar_p(*only)
    assert verdicts.phase3(results)["holds"]["rescue"] is holds


def test_the_last_line_has_the_deciding_numbers():
    success = {"z": 0.125, "z_perp": 0.4, "random": 0.081}
    results = {"success": success, "pairs": 96, "null": {"random": {"p": 0.4}}}
    results["problems"] = {"asked": 40, "solved_everywhere": 3}
    assert page.summary(results) == "Z 12.5%, Z⊥ 40.0% of 96 pairs; random 8.1% (p 0.4)"
    assert page.summary(results | {"pairs": 0}) == "0 pairs: 3 of 40 problems solved in every language"


def site_scores(phase3, wins: dict, pairs: int = 20) -> dict:
    """{swap: (sites, rows, pairs, 4)} in which Z's target wins the first pairs of {(site, swap): count}, no swap the others."""
    rows = dict.fromkeys(phase3.SITES, 1) | {"random": phase3.SWEEP_DRAWS}
    measured = {name: np.tile(WINS[0], (6, count, pairs, 1)) for name, count in rows.items()}
    for (site, name), count in wins.items():
        measured[name][site, :, :count] = WINS[2]
    return measured


def test_the_causal_site_is_where_the_layers_own_z_beats_both_controls(phase3):
    planted = {(3, "layer_z"): 20}
    chosen = phase3.causal_site(site_scores(phase3, planted), 0)
    assert (chosen["site"], chosen["layer"], chosen["gain"], chosen["support"]) == (3, 2, 1, 1)
    assert chosen["p_holm"] == pytest.approx(5 / 2000)  # the least that 1999 flips and five sites allow
    nothing = [{}, {(3, "z"): 20, (3, "full"): 20}, {(0, "layer_z"): 20}]  # no layer ends at the embeddings
    nothing += [planted | {(3, control): 20} for control in ("layer_z_wrong_donor", "random")]
    for wins in nothing:
        assert phase3.causal_site(site_scores(phase3, wins), 0) == {"site": None}
    assert phase3.causal_site(site_scores(phase3, {}, pairs=0), 0) == {"site": None}
    for control in ("layer_z_wrong_donor", "random"):  # another site does as well, but so does its control
        wins = {(3, "layer_z"): 15, (3, control): 4, (5, "layer_z"): 20, (5, control): 18}
        chosen = phase3.causal_site(site_scores(phase3, wins), 0)
        assert (chosen["site"], chosen["gain"]) == (3, pytest.approx(11 / 20))
        assert chosen["p_holm"] < 0.05
    assert phase3.causal_site(site_scores(phase3, {(2, "layer_z"): 1}), 0)["p_holm"] == 1
    assert phase3.causal_site(site_scores(phase3, planted | {(4, "layer_z"): 20}), 0)["support"] == 0  # a tie


def test_counts_of_generated_answers(phase3):
    def sample(answer: str, written_in: str | None) -> dict:
        return {"condition": "z", "answer": answer, "written_in": written_in, "language": "en", "donor_language": "zh"}

    given = [("donor", "en"), ("donor", "zh"), ("recipient", "zh"), ("other", None)]
    shares = phase3.generated_shares([sample(*row) for row in given])
    quarter = ("recipient_answer", "other_answer", "recipient_language")
    quarter += ("donor_answer_in_recipient_language", "recipient_answer_in_donor_language")
    assert shares["z"] == {"donor_answer": 0.5, "donor_language": 0.5} | dict.fromkeys(quarter, 0.25)
    assert set(shares["full"].values()) == {0}


def test_counts_of_the_same_problem(phase3):
    def rows(condition: str, given: list[tuple]) -> list[dict]:
        keys = ("written_in", "correct_in", "correct", "unpatched")
        head = {"condition": condition, "language": "en", "donor_language": "zh"}
        return [head | dict(zip(keys, row)) for row in given]

    once = [
        ("en", "en", True, "wrong"),  # rescued
        ("zh", "zh", True, "wrong"),  # right, in the other language: no rescue
        ("en", None, False, "wrong"),
        ("en", "en", True, "right"),
        ("zh", "zh", True, "right"),  # kept, language moved
        ("en", None, True, "right"),  # kept, in digits
        ("en", None, False, "right"),  # lost
        ("en", "en", True, "other_form"),  # neither wrong nor right before
        ("zh", None, False, "other_form"),
    ]
    expected = {"wrong_before": 3, "rescued": 1, "right_before": 4, "answer_lost": 1, "language_moved": 1}
    counts = phase3.same_problem_counts(rows("z", once) + rows("random", once))
    assert counts["z"] == counts["random"] == expected
    assert set(counts["full"].values()) == {0}
    assert counts["p_rescue"] == 1
    wrong, right = ("en", None, False, "wrong"), ("en", "en", True, "wrong")
    samples = rows("z", [right] * 8 + [wrong]) + rows("random", [right, *[wrong] * 7, right])
    assert phase3.same_problem_counts(samples)["p_rescue"] == pytest.approx(statistics.mcnemar_p(7, 1))


WRITTEN = {
    "en": ("nineteen", " Nineteen apples.", "the answer is 十九"),
    "zh": ("十九", "十九个苹果。", "答案是 ok"),
    None: ("好a", "19", "１９。", "", " \n", "?!"),
}


@pytest.mark.parametrize("language", WRITTEN)
def test_written_in(language):
    for text in WRITTEN[language]:
        for order in (["en", "zh"], ["zh", "en"]):
            assert questions.written_in(text, questions.load_languages(order)) == language, text
    assert (
        questions.written_in("cat", {name: TEMPLATES[name] for name in ("en", "de")}) is None
    )  # they share the script
    with pytest.raises(runs.UserError, match="en's script 'runic' is unknown; known: latin, han"):
        questions.written_in("cat", {"en": template("Q", "A", "runic")})


def word(english: str, chinese: str) -> questions.Problem:
    return questions.Problem("w", "", english, {}, {"en": english, "zh": chinese})


def number(value: int) -> questions.Problem:
    english, chinese = NUMBERS[value]
    return questions.Problem("n", "", Fraction(value), {}, {"en": english, "zh": chinese})


ANSWERED = [  # problem, outputs that answer it in English, in Chinese, in neither
    (
        word("cat", "猫"),
        (" cat", "Cat.", "cat cat cat", "cat 猫", "cat, since it is older"),
        ("猫", "\n 猫。", "猫 cat"),
        ("catfish", "a cat", "dog", "狗", "19", ""),
    ),
    (word("catfish", "鲶鱼"), (), (), ("cat",)),
    (word("c.t", "猫"), (), (), ("cat",)),
    (word("drei", "三"), ("drei Äpfel",), (), ("dreißig",)),
    (
        number(19),
        (" nineteen", "Nineteen.", "nineteen apples", "19 apples", "The answer is 19"),  # digits: by the script around
        ("十九", "十九个", "十九。", "19个"),
        ("19", "１９", "nine", "九", "", "nineteen or 20", "9 apples"),
    ),
    (number(9), (), (), ("nineteen", "十九")),
    (number(40), (), (), ("forty-two", "四十二")),
    (number(42), ("forty-two", "forty-two 苹果苹果苹果"), ("四十二",), ("forty",)),
    (number(100), ("one hundred",), (), ()),
]


@pytest.mark.parametrize("problem, english, chinese, neither", ANSWERED, ids=[str(row[0].answer) for row in ANSWERED])
def test_answered_in(phase3, problem, english, chinese, neither):
    for outputs, language in ((english, "en"), (chinese, "zh"), (neither, None)):
        for output in outputs:
            assert phase3.answered_in(problem, output, questions.load_languages(["en", "zh"])) == language, output


def test_solved_wants_the_language_that_was_asked_in(phase3):
    samples = [("en", "en"), ("en", "zh"), ("zh", None), ("zh", "zh")]
    samples = [{"language": asked, "correct_in": given} for asked, given in samples]
    assert phase3.solved(samples, study_of(phase3, words=WORDS[:2])).tolist() == [[True, False], [False, True]]


def refused(script, model, out, *flags) -> str:
    """The one line of a UserError; nothing may be written."""
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(runs.UserError) as caught:
        run(script, "phase3_patching.py", model, out, *flags)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_problems_without_answers_in_words(script, small, tmp_path):
    hand_on(small, tmp_path / "out", random_basis(4, 48), site=2)
    lines = [json.loads(line) for line in (small / "problems.jsonl").read_text().splitlines()[:6]]
    del lines[3]["answer_text"]["zh"]
    (tmp_path / "words.jsonl").write_text("\n".join(map(json.dumps, lines)))
    message = refused(script, small, tmp_path / "out", "--problems", tmp_path / "words.jsonl")
    assert f"problem {lines[3]['id']!r} has no answer_text for zh" in message
    assert "--problems" in message
    exemplar = {"id": "shot", "answer": 2, "question": {"en": "What is 1 + 1?", "zh": "1加1是多少？"}}
    (tmp_path / "shots.jsonl").write_text(json.dumps(exemplar))
    message = refused(script, small, tmp_path / "out", "--exemplars", tmp_path / "shots.jsonl")
    assert "'shot' has no answer_text for en, zh" in message
    assert "--exemplars" in message


def test_problems_that_z_was_fitted_on_are_no_problems(script, small, tmp_path):
    problems = questions.load_problems([small / "problems.jsonl"], ["en", "zh"], limit=8)
    hashes = [questions.problem_hash(problem) for problem in problems]
    hand_on(small, tmp_path / "out", random_basis(4, 48), site=2)
    assert "at least 4" in refused(script, small, tmp_path / "out", "--limit", 3)  # and too few from the start
    for left in (0, 3):
        hand_on(small, tmp_path / "out", random_basis(4, 48), site=2, method="centroid", fitted_on=hashes[left:])
        message = refused(script, small, tmp_path / "out", "--limit", 8)
        assert f"problems.jsonl: {left} problem(s) that Z was not fitted on; phase 3 needs at least 4" in message
        assert "--problems" in message


def test_phase2_missing_damaged_misshapen_or_foreign(script, small, families, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    assert "phase2_results.json is missing: run phase2_z_extraction.py" in refused(script, small, out)
    for name in ("phase2_z_basis.npy", "phase2_layer_subspaces.npy"):
        hand_on(small, out, random_basis(4, 48), site=2)
        array = np.load(out / name)
        (out / name).unlink()
        assert f"{name} is missing: run the script that writes it" in refused(script, small, out)
        (out / name).write_bytes(b"no array")
        assert f"{name} is damaged" in refused(script, small, out)
        np.save(out / name, array[..., 1:])
        message = refused(script, small, out)
        assert f"{name} has shape {array[..., 1:].shape}, expected {array.shape}" in message
        assert "--fresh" in message
    hand_on(small, out, random_basis(4, 48), site=2)
    other = families["llama"]
    message = refused(script, other, out)
    assert f"holds results of {small.name}" in message
    assert "--out" in message


def test_an_exemplar_must_not_be_a_problem(script, small, tmp_path):
    hand_on(small, tmp_path / "out", random_basis(4, 48), site=2)
    message = refused(script, small, tmp_path / "out", "--exemplars", small / "problems.jsonl")
    assert "is also a problem" in message
