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

import utils

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
    folder = utils.find_model(str(model))
    k = len(basis)
    z = {"method": method, "layer": site - 1, "site": site, "k": k, "holds": False, "fitted_on": list(fitted_on)}
    results = {"script": "phase2", "model": folder.identity, "settings": {"layer": bottleneck}, "z": z}
    results |= {"fingerprint": utils.short_hash(z), "z_dimensions": [1, k, k]}
    if layers is None:
        layers = utils.random_subspaces(utils.seeded(0, "layers"), folder.layers, k, folder.width)
    out.mkdir(exist_ok=True)
    (out / "phase2_results.json").write_text(json.dumps(results))
    np.save(out / "phase2_z_basis.npy", np.asarray(basis, np.float32))
    np.save(out / "phase2_layer_subspaces.npy", np.asarray(layers, np.float32))


def random_basis(k: int, width: int, seed: int = 0) -> torch.Tensor:
    return utils.random_subspaces(torch.Generator().manual_seed(seed), 1, k, width)[0]


# ---- models with a known answer -------------------------------------------------------------------------------------


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
    assert results["verdict"] == "double_dissociation"
    assert "weight_verdict" not in results  # the Z handed on is the weight-based one
    assert success["z"] == success["z_perp"] == success["full"] == 1
    assert success["none"] == 0
    # (recipient's, recipient's), (recipient's, donor's), (donor's, recipient's), (donor's answer, donor's language)
    assert results["winners"]["none"] == [1, 0, 0, 0]
    assert results["winners"]["z"] == [0, 0, 1, 0]
    assert results["winners"]["z_perp"] == [0, 1, 0, 0]
    assert results["winners"]["full"] == [0, 0, 0, 1]
    assert results["winners"]["centroid"] == [0, 1, 0, 0]
    assert results["winners"]["centroid_perp"] == [0, 0, 1, 0]
    assert all(row["holds"] for row in results["claims"] if row["id"] in ("z", "z_perp", "weights"))
    effect = results["effect"]
    assert effect["z"]["answer"] > 1 > 0.01 > abs(effect["z"]["language"])
    assert effect["z_perp"]["language"] > 1 > 0.01 > abs(effect["z_perp"]["answer"])


def test_random_subspaces_of_the_planted_size_are_near_chance(planted):
    results = planted.results
    assert results["success"]["random"] < 0.2
    assert results["success"]["random_matched"] < 0.3
    for row in results["null"].values():
        assert row["p"] == pytest.approx(1 / 201, rel=1e-3)  # not one of the draws does as well
        assert row["quantiles"][2] < 0.5
    draws = np.load(planted.out / "phase3_draws.npy")
    assert (draws.shape, draws.dtype) == ((3, 200, results["pairs"], 4), np.float32)
    inside, outside = (draws.argmax(-1) == target for target in (2, 1))
    assert inside[0].mean() == pytest.approx(results["success"]["random"], rel=1e-3)
    assert inside[1].mean() == pytest.approx(results["success"]["random_matched"], abs=1e-3)
    for rates, name in ((inside[0], "random"), (outside[2], "random_perp")):
        low, middle, high = np.quantile(rates.mean(-1), (0.05, 0.5, 0.95))
        assert results["null"][name]["quantiles"] == pytest.approx([low, middle, high], abs=1e-3)


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
        assert rows[site]["random"] < 0.3
    causal = planted.results["causal_site"]
    assert (causal["site"], causal["layer"], causal["support"]) == (BOTTLENECK + 1, BOTTLENECK, 1)
    assert causal["gain"] == pytest.approx(1 - rows[BOTTLENECK + 1]["random"], abs=1e-3)
    assert causal["p_holm"] < 0.01


def test_same_language_donors_move_the_answer_through_z_alone(planted):
    shares = planted.results["same_language"]
    assert shares["none"] == [1, 0, 0, 0] == shares["z_perp"] == shares["centroid"]
    assert shares["z"] == [0, 0, 1, 0] == shares["full"] == shares["centroid_perp"]
    assert all(values[1] + values[3] == 0 for values in shares.values())  # nothing moves the language


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
    assert rows["z"]["answer_lost"] == rows["z"]["language_moved"] == 0
    assert rows["z_perp"]["rescued"] == rows["full"]["rescued"] == 0  # they leave the language that was asked in
    assert rows["z_perp"]["language_moved"] == rows["full"]["language_moved"] == rows["full"]["right_before"]
    solved, asked = planted.results["problems"]["solved"], planted.results["problems"]["asked"]
    everywhere = planted.results["problems"]["solved_everywhere"]
    assert rows["z"]["right_before"] == 2 * everywhere
    assert rows["z"]["wrong_before"] == sum(solved.values()) - 2 * everywhere
    assert everywhere <= min(solved.values()) <= asked == 40


def test_pairs_are_reported_by_direction(planted):
    directions = planted.results["directions"]
    assert set(directions) == {"en_to_zh", "zh_to_en"}
    assert sum(row["pairs"] for row in directions.values()) == planted.results["pairs"]
    assert all(row["z"] == row["z_perp"] == row["full"] == 1 for row in directions.values())


def test_a_fresh_run_and_report_only_write_the_same_bytes(script, planted, tmp_path, monkeypatch):
    out = shutil.copytree(planted.out, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.glob("phase3*")}
    assert {"phase3_results.json", "phase3_output.md", *script("phase3_patching.py").ARRAYS} < set(before)
    run(script, "phase3_patching.py", planted.model, out, "--fresh")
    assert {path.name: path.read_bytes() for path in out.glob("phase3*")} == before
    for path in [*out.glob("phase3*.md"), *out.glob("phase3*.png")]:
        path.unlink()
    monkeypatch.setattr(utils, "find_model", None)
    run(script, "phase3_patching.py", "gone", out, "--report-only")
    assert {path.name: path.read_bytes() for path in out.glob("phase3*")} == before


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
        problem.id: utils.problem_hash(problem)
        for problem in utils.load_problems([control.path / "problems.jsonl"], ["en", "zh"])
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


# ---- scores against full passes -------------------------------------------------------------------------------------

NUMBERS = {  # some of several tokens, some the beginning of another
    40: ("forty", "四十"),
    42: ("forty-two", "四十二"),
    20: ("twenty", "二十"),
    21: ("twenty-one", "二十一"),
    7: ("seven", "七"),
    8: ("eight", "八"),
    30: ("thirty", "三十"),
    31: ("thirty-one", "三十一"),
    90: ("ninety", "九十"),
    9: ("nine", "九"),
    100: ("one hundred", "一百"),
    3: ("three", "三"),
    19: ("nineteen", "十九"),
    4: ("four", "四"),
}
UNSOLVED, FITTED = ("p-8", "zh"), "p-3"
SITE, SIZE = 3, 7


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
    problems = {problem.id: problem for problem in utils.load_problems([out / "problems.jsonl"], ["en", "zh"])}
    shot = {"id": "shot", "answer": 2, "question": {"en": "Count to 2.", "zh": "数到2。"}}
    shot |= {"answer_text": {"en": "two", "zh": "二"}, "solution": {"en": "1 + 1 = 2.", "zh": "1加1是2。"}}
    (out / "shots.jsonl").write_text(json.dumps(shot))
    basis = random_basis(SIZE, 48)
    hand_on(small, out, basis, site=SITE, method="centroid", fitted_on=[utils.problem_hash(problems[FITTED])])
    kept, real = SimpleNamespace(out=out, problems=problems, basis=basis), phase3.patch

    def all_but_one(samples, study):
        right = [(sample["id"], sample["language"]) != UNSOLVED for sample in samples]
        return torch.tensor(right).view(2, len(study.problems))

    def patch(study, pairs, spaces):
        kept.study, kept.pairs, kept.spaces = study, pairs, spaces
        kept.measured = real(study, pairs, spaces)
        return kept.measured

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(phase3, "solved", all_but_one)
        monkeypatch.setattr(phase3, "patch", patch)
        flags = ("--problems", out / "problems.jsonl", "--exemplars", out / "shots.jsonl", "--batch", 5)
        run(script, "phase3_patching.py", small, out, *flags)
    kept.results, kept.samples, kept.scores = read(out)
    kept.draws = np.load(out / "phase3_draws.npy")
    kept.model, kept.tokenizer = utils.load_model(utils.find_model(str(small)), torch.device("cpu"), torch.float32)
    languages = utils.load_languages(["en", "zh"])
    shots = {"en": "Question: Count to 2.\nAnswer: two\n\n", "zh": "问题：数到2。\n答案：二\n\n"}  # no worked solution
    kept.prompt = lambda name, language: shots[language] + utils.prompt_text(problems[name], language, languages)
    rows = [row for row in kept.samples if row.get("condition") == "none" and row["design"] == "different_problem"]
    kept.rows = [(row["id"], row["language"], row["donor"], row["donor_language"]) for row in rows]
    return kept


def last_stream(patched, name: str, language: str, site: int) -> torch.Tensor:
    ids = torch.tensor(patched.tokenizer(patched.prompt(name, language))["input_ids"])
    with torch.no_grad():
        return patched.model(ids[None], output_hidden_states=True).hidden_states[site][0, -1]


def full_pass_scores(patched, row: tuple, site: int, change: torch.Tensor) -> torch.Tensor:
    """The four candidates of a pair, one full pass each, the change added to the last prompt position by a hook."""
    name, language, donor, donor_language = row
    prompt, model, scores = patched.prompt(name, language), patched.model, []
    length = len(patched.tokenizer(prompt)["input_ids"])

    def add(_, args, output):
        stream = (output[0] if isinstance(output, tuple) else output).clone()
        stream[0, length - 1] += change
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    module = model.model.layers[site - 1] if site else model.model.embed_tokens
    for problem in (name, donor):
        for spoken in (language, donor_language):
            word = patched.problems[problem].answer_text[spoken]
            ids = torch.tensor(patched.tokenizer(prompt + (f" {word}" if spoken == "en" else word))["input_ids"])
            hook = module.register_forward_hook(add)
            with torch.no_grad():
                logs = model(ids[None], use_cache=False).logits[0].log_softmax(-1)
            hook.remove()
            scores.append(sum(logs[place - 1, ids[place]] for place in range(length, len(ids))))
    return torch.stack(scores)


def third_stream(patched, place: int, site: int) -> torch.Tensor:
    """The stream of a pair's third problem, asked in the donor's language."""
    return last_stream(patched, patched.study.problems[patched.pairs[place].third].id, patched.rows[place][3], site)


def difference(patched, row: tuple, site: int) -> torch.Tensor:
    """Donor's stream less recipient's."""
    return last_stream(patched, row[2], row[3], site) - last_stream(patched, row[0], row[1], site)


def test_scores_of_every_pair_are_those_of_full_hooked_passes(patched):
    assert patched.results["settings"]["z"]["site"] == SITE
    basis = torch.from_numpy(np.load(patched.out / "phase2_z_basis.npy"))
    weight = torch.from_numpy(np.load(patched.out / "phase2_layer_subspaces.npy"))[
        2
    ]  # the bottleneck that was handed on
    order = patched.results["conditions"]
    assert order[:9] == "none z z_perp full random random_matched pca centroid centroid_perp".split()
    assert order[9:] == "z_wrong_donor weight weight_perp weight_wrong_donor".split()
    assert patched.scores.shape == (len(order), len(patched.rows), 4)
    assert patched.scores.dtype == np.float32
    lengths = {len(patched.tokenizer(words[0])["input_ids"]) for words in NUMBERS.values()}
    assert len(lengths) > 2  # answers of several tokens
    for place, row in enumerate(patched.rows):
        whole = difference(patched, row, SITE)
        inside, other = (part.T @ (part @ whole) for part in (basis, weight))
        swaps = {"none": 0 * whole, "z": inside, "z_perp": whole - inside, "full": whole}
        swaps |= {"weight": other, "weight_perp": whole - other}
        third = third_stream(patched, place, SITE) - last_stream(patched, *row[:2], SITE)
        swaps |= {"z_wrong_donor": basis.T @ (basis @ third), "weight_wrong_donor": weight.T @ (weight @ third)}
        for condition, change in swaps.items():
            expected = full_pass_scores(patched, row, SITE, change)
            np.testing.assert_allclose(patched.scores[order.index(condition), place], expected, rtol=0, atol=1e-3)
    means = patched.draws.mean(1)
    np.testing.assert_allclose(patched.scores[order.index("random")], means[0], atol=1e-4)
    np.testing.assert_allclose(patched.scores[order.index("random_matched")], means[1], atol=1e-4)


def some(patched) -> list[int]:
    """One pair of every fold and direction."""
    first = {(pair.fold, pair.direction): place for place, pair in reversed(list(enumerate(patched.pairs)))}
    assert len(first) == 4
    return list(first.values())


def test_every_draw_is_the_swap_of_its_subspace(patched):
    for place in some(patched):
        row, space = patched.rows[place], patched.spaces[patched.pairs[place].fold]
        whole = difference(patched, row, SITE)
        for draw in (0, 1, 199):
            haar, matched = (part[draw].T @ (part[draw] @ whole) for part in (space.random, space.random_matched))
            for null, change in enumerate((haar, matched, whole - haar)):
                expected = full_pass_scores(patched, row, SITE, change)
                np.testing.assert_allclose(patched.draws[null, draw, place], expected, rtol=0, atol=1e-3)


def test_doses_sites_and_same_language_are_those_of_full_hooked_passes(phase3, patched):
    measured, study = patched.measured, patched.study
    bases, sizes = phase3.nested_bases(study), phase3.doses(SIZE, 48)
    layers = torch.from_numpy(np.load(patched.out / "phase2_layer_subspaces.npy"))
    basis = patched.basis.float()
    assert measured["dose"].shape == (11, len(sizes), len(patched.rows), 4)
    assert measured["sites"].shape == (6, 14, len(patched.rows), 4)
    for place in some(patched):
        row, space = patched.rows[place], patched.spaces[patched.pairs[place].fold]
        whole = difference(patched, row, SITE)
        for start, index in ((0, 0), (0, sizes.index(SIZE)), (3, 2), (10, len(sizes) - 1)):
            rows = bases[start, : sizes[index]]
            expected = full_pass_scores(patched, row, SITE, rows.T @ (rows @ whole))
            np.testing.assert_allclose(measured["dose"][start, index, place], expected, rtol=0, atol=1e-3)
        np.testing.assert_allclose(
            measured["dose"][0, sizes.index(SIZE), place], patched.scores[1, place], rtol=0, atol=1e-3
        )
        for site in (0, 1, SITE, 4):
            gap = difference(patched, row, site)
            inside, own = (part.T @ (part @ gap) for part in (basis, layers[max(site - 1, 0)]))
            last = space.random[9].T @ (space.random[9] @ gap)
            for index, change in ((0, gap), (1, inside), (2, gap - inside), (3, own), (13, last)):
                expected = full_pass_scores(patched, row, site, change)
                np.testing.assert_allclose(measured["sites"][site, index, place], expected, rtol=0, atol=1e-3)
        name, language, donor, _ = row
        alike = difference(patched, (name, language, donor, language), SITE)
        for condition, change in (("z", basis.T @ (basis @ alike)), ("full", alike)):
            expected = full_pass_scores(patched, row, SITE, change)
            np.testing.assert_allclose(measured["same_language"][condition][place], expected, rtol=0, atol=1e-3)


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
    assert [(row["id"], row["donor_language"]) for row in asked if not row["solved_unpatched"]] == [(UNSOLVED[0], "en")]


def test_generation_under_a_patch_begins_with_the_patched_argmax(patched):
    """Of the full swap: the first token generated is the one that a full hooked pass gives."""
    generated = {
        (row["id"], row["language"]): row["output"]
        for row in patched.samples
        if row.get("condition") == "full" and row["design"] == "different_problem"
    }
    checked = 0
    for place in some(patched):
        row = patched.rows[place]
        ids = torch.tensor(patched.tokenizer(patched.prompt(*row[:2]))["input_ids"])
        change = difference(patched, row, SITE)

        def add(_, args, output, change=change):
            output = output.clone()
            output[0, -1] += change
            return output

        hook = patched.model.model.layers[SITE - 1].register_forward_hook(add)
        with torch.no_grad():
            first = patched.model(ids[None], use_cache=False).logits[0, -1].argmax()
        hook.remove()
        text = patched.tokenizer.decode([first])
        if text.strip() and "\N{REPLACEMENT CHARACTER}" not in text:
            assert generated[row[:2]].startswith(text)
            checked += 1
    assert checked


def test_token_clouds_are_evenly_spaced_question_tokens(phase3, patched):
    clouds = phase3.token_clouds(patched.study)
    assert len(clouds) == 2 * len(patched.study.problems)
    for place in (0, 4, len(clouds) - 1):
        language, problem = patched.study.asked[place]
        name, spoken = patched.study.problems[problem].id, ("en", "zh")[language]
        prompt = patched.prompt(name, spoken)
        ids = torch.tensor(patched.tokenizer(prompt)["input_ids"])
        with torch.no_grad():
            stream = patched.model(ids[None], output_hidden_states=True).hidden_states[SITE][0]
        prefix, _, question = prompt.rpartition("\n\n")
        start = len(patched.tokenizer(prefix + "\n\n")["input_ids"])
        assert patched.tokenizer.decode(ids[start:]) == question
        kept = torch.linspace(start, len(ids) - 1, min(24, len(ids) - start)).round().long()
        assert clouds[place].shape == (len(kept), 48)
        torch.testing.assert_close(clouds[place], stream[kept], rtol=1e-4, atol=1e-4)


def test_token_clouds_leave_sinks_out(phase3, patched, monkeypatch):
    real, clouds = utils.residual_streams, phase3.token_clouds(patched.study)

    def with_sink(*given):
        for index, ids, streams in real(*given):
            streams = streams.clone()
            streams[0, -2] *= 1000
            yield index, ids, streams

    monkeypatch.setattr(utils, "residual_streams", with_sink)
    for cloud, without in zip(clouds, phase3.token_clouds(patched.study)):
        assert without.norm(dim=1).max() < 100
        assert len(without) == min(24, len(cloud) - 1 if len(cloud) < 24 else 24)
        assert torch.equal(cloud[-1], without[-1])


# ---- who meets whom -------------------------------------------------------------------------------------------------


class LetterTokenizer:
    """A token per character."""

    def __call__(self, text: str, **_) -> dict:
        return {"input_ids": [ord(letter) for letter in text]}


def template(question: str, answer: str, script: str = "latin") -> dict:
    return {
        "prompt": question + ": {question}\n" + answer + ":",
        "answer": " {answer}",
        "separator": "",
        "script": script,
    }


TEMPLATES = {"en": template("Q", "A"), "zh": template("问", "答", "han"), "de": template("F", "W")}
# the third and fourth are the same answer, the sixth begins with the fifth in one language only
WORDS = [
    ("cat", "猫", "Katze"),
    ("dog", "狗", "Hund"),
    ("cow", "牛", "Kuh"),
    ("cow", "牛", "Kuh"),
    ("tea", "茶", "Tee"),
    ("teapot", "壶", "Kanne"),
    ("red", "红", "rot"),
    ("blue", "蓝", "blau"),
    ("ink", "墨", "Tinte"),
    ("oak", "橡", "Eiche"),
]


def study_of(phase3, languages=("en", "zh"), words=WORDS, solved=None, seed=0, k=3, width=12, site=1, z=None):
    """A Study without a model: made-up problems and random streams."""
    places = [list(TEMPLATES).index(language) for language in languages]
    problems = [
        utils.Problem(
            str(index),
            "",
            row[0],
            dict.fromkeys(languages, f"{index}"),
            {name: row[p] for name, p in zip(languages, places)},
        )
        for index, row in enumerate(words)
    ]
    generator = torch.Generator().manual_seed(seed)
    layers = utils.random_subspaces(generator, 3, k, width).float()
    basis = layers[0] if z is None else z
    handed = phase3.HandedZ(basis, layers, site, 2, [], {"method": "weight"})
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
        both = [
            (first_word, second_word)
            for first_word, second_word in zip(WORDS[first][: len(languages)], WORDS[second][: len(languages)])
        ]
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


def test_donors_change_with_direction_and_seed_and_are_not_always_the_same(phase3):
    donors = {}
    for seed in (0, 1):
        for pair in phase3.make_pairs(study_of(phase3, seed=seed)):
            donors.setdefault((seed, pair.direction), {})[pair.recipient] = pair.donor
    assert len({tuple(sorted(chosen.items())) for chosen in donors.values()}) == 4
    assert all(len(set(chosen.values())) >= len(WORDS) // 2 for chosen in donors.values())


def test_wrong_donors_are_many(phase3):
    """A control that asks about one problem over and over would speak of that problem alone."""
    thirds = {}
    for pair in phase3.make_pairs(study_of(phase3)):
        thirds.setdefault(pair.direction, set()).add(pair.third)
    assert all(len(chosen) >= len(WORDS) // 2 for chosen in thirds.values())


def test_a_wrong_donor_is_never_the_recipients_own_problem(phase3):
    """That swap leaves the answer alone whatever Z is, so a pair without a third problem has no such control."""
    words = [("tea", "茶", "Tee")] * 5 + [("red", "红", "rot")] * 5  # two answers and no third
    for pair in phase3.make_pairs(study_of(phase3, words=words)):
        assert pair.third != pair.recipient


def test_too_few_or_too_similar_problems_make_no_pair(phase3):
    one = torch.zeros(2, len(WORDS), dtype=torch.bool)
    assert phase3.make_pairs(study_of(phase3, solved=one)) == []
    one[:, 4] = True
    assert phase3.make_pairs(study_of(phase3, solved=one)) == []
    half = torch.ones(2, len(WORDS), dtype=torch.bool)
    half[1] = False  # solved in one language only
    assert phase3.make_pairs(study_of(phase3, solved=half)) == []
    assert phase3.make_pairs(study_of(phase3, words=[("cow", "牛", "Kuh")] * 10)) == []


@pytest.mark.parametrize("languages", [("en", "zh"), ("en", "zh", "de")])
def test_candidates_are_both_answers_in_both_languages(phase3, languages):
    study = study_of(phase3, languages)
    for pair in phase3.make_pairs(study):
        spoken = [languages[pair.recipient_language], languages[pair.donor_language]]
        expected = [
            tuple(map(ord, f" {study.problems[problem].answer_text[language]}"))
            for problem in (pair.recipient, pair.donor)
            for language in spoken
        ]
        assert phase3.candidate_tokens(study, pair) == expected
        assert len(set(expected)) == 4


def test_an_answer_keeps_its_tokens_where_the_prompts_end_would_merge_with_it(phase3):
    """A tokenizer that joins the colon to the space: the prompt's own tokens stay, the answer is read alone."""

    class Joining(LetterTokenizer):
        def __call__(self, text, **_):
            ids = super().__call__(text)["input_ids"]
            joined = []
            for token in ids:
                if joined and (joined[-1], token) == (ord(":"), ord(" ")):
                    joined[-1] = 1000
                else:
                    joined.append(token)
            return {"input_ids": joined}

    study = study_of(phase3)
    study.tokenizer = Joining()
    assert study.answer(0, 0) == tuple(map(ord, " cat"))


# ---- subspaces and swaps --------------------------------------------------------------------------------------------


def clouds_of(study, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(0, -2, study.streams.shape[-1])
    return [torch.randn(9, study.streams.shape[-1], generator=generator) * spread + 1 for _ in study.asked]


def test_what_is_fitted_for_a_fold_depends_on_the_other_fold_alone(phase3, monkeypatch):
    study, folds = study_of(phase3), study_of(phase3).folds()
    clouds = clouds_of(study)
    monkeypatch.setattr(phase3, "token_clouds", lambda _: clouds)
    before = phase3.fold_subspaces(study)
    for changed in (0, 1):
        other = study_of(phase3)
        other.streams[:, folds == changed] = torch.randn_like(other.streams[:, folds == changed])
        fresh = clouds_of(study, seed=1)
        mixed = [
            fresh[place] if folds[problem] == changed else clouds[place]
            for place, (_, problem) in enumerate(study.asked)
        ]
        monkeypatch.setattr(phase3, "token_clouds", lambda _, mixed=mixed: mixed)
        after = phase3.fold_subspaces(other)
        for name in ("pca", "language", "random_matched"):
            assert torch.equal(getattr(after[changed], name), getattr(before[changed], name)), name
            assert not torch.allclose(getattr(after[1 - changed], name), getattr(before[1 - changed], name)), name
        for fold in (0, 1):  # nothing is fitted here
            assert torch.equal(after[fold].random, before[fold].random)
            assert torch.equal(after[fold].z, study.z.basis)


@pytest.mark.parametrize("languages", [("en", "zh"), ("en", "zh", "de")])
def test_fitted_subspaces_are_what_they_are_called(phase3, monkeypatch, languages):
    study = study_of(phase3, languages)
    clouds, folds = clouds_of(study), study.folds()
    monkeypatch.setattr(phase3, "token_clouds", lambda _: clouds)
    for fold, space in enumerate(phase3.fold_subspaces(study)):
        tokens = torch.cat([cloud for cloud, (_, p) in zip(clouds, study.asked) if folds[p] != fold]).double()
        values, vectors = torch.linalg.eigh(tokens.T.cov())
        torch.testing.assert_close((space.pca.double() @ vectors[:, -3:]).square().sum().item(), 3.0, atol=1e-5, rtol=0)
        means = study.streams[:, folds != fold, study.z.site].mean(1)
        assert space.language.shape == (len(languages) - 1, 12)
        for gap in means[1:] - means[0]:  # every difference of two languages' means lies inside
            torch.testing.assert_close(space.language.T @ (space.language @ gap), gap, rtol=1e-4, atol=1e-5)
        for bases in (space.pca[None], space.language[None], space.random, space.random_matched):
            eye = torch.eye(bases.shape[1]).expand(len(bases), -1, -1)
            torch.testing.assert_close(bases @ bases.mT, eye, atol=1e-5, rtol=0)
        assert space.random.shape == space.random_matched.shape == (200, 3, 12)

        def caught(bases: torch.Tensor, tokens=tokens) -> float:
            centred = (tokens - tokens.mean(0)).float()
            return ((centred @ bases.mT).square().sum((1, 2)) / centred.square().sum()).mean().item()

        assert caught(space.random) == pytest.approx(3 / 12, abs=0.05)  # k / d
        assert caught(space.random_matched) > 2 * caught(space.random)  # as much variance as chance puts into them
        assert caught(space.pca[None]) > caught(space.random_matched)


def test_matched_draws_stay_inside_the_tokens_span(phase3):
    flat = torch.zeros(40, 12, dtype=torch.float64)
    flat[:, :5] = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flat[:, 0] *= 100
    bases = phase3.matched_subspaces(flat - flat.mean(0), 3, torch.Generator().manual_seed(1))
    assert bases[..., 5:].abs().max() < 1e-9
    assert bases[..., 0].square().sum(1).min() > 0.9  # the one large direction is in nearly all of every draw
    assert (bases[0] - bases[1]).abs().max() > 0.1


def spaces_of(phase3, weight: bool) -> object:
    draws = utils.random_subspaces(torch.Generator().manual_seed(5), 60, 3, 12).float()
    language = random_basis(1, 12, 3).float()
    return phase3.Subspaces(draws[0], draws[1] if weight else None, draws[2], language, draws[3:30], draws[30:57])


@pytest.mark.parametrize("weight", [False, True])
def test_swaps_are_projections_that_add_up(phase3, weight):
    space = spaces_of(phase3, weight)
    gap = torch.randn(7, 12, generator=torch.Generator().manual_seed(1))
    labels = space.labels()
    swaps = space.swaps(gap, draws=20)
    assert swaps.shape == (7, len(labels) + 3 * 20, 12)
    row = {label: swaps[:, index] for index, label in enumerate(labels)}
    assert labels[:7] == ["none", "z", "z_perp", "full", "pca", "centroid", "centroid_perp"]
    assert labels[7:] == (["weight", "weight_perp"] if weight else [])
    assert torch.count_nonzero(row["none"]) == 0
    assert torch.equal(row["full"], gap)
    named = {"z": space.z, "centroid": space.language, "weight": space.weight}
    for name in ("z", "centroid", *(["weight"] if weight else [])):
        projector = named[name].double().T @ named[name].double()
        torch.testing.assert_close(row[name].double(), gap.double() @ projector, atol=1e-5, rtol=0)
        torch.testing.assert_close(row[name] + row[f"{name}_perp"], gap, atol=1e-6, rtol=1e-6)
        assert (row[f"{name}_perp"] @ named[name].T).abs().max() < 1e-5
    torch.testing.assert_close(
        row["pca"].double(), gap.double() @ (space.pca.T @ space.pca).double(), atol=1e-5, rtol=0
    )
    haar, matched, rest = swaps[:, len(labels) :].unflatten(1, (3, 20)).unbind(1)
    torch.testing.assert_close(haar + rest, gap[:, None].expand_as(haar), atol=1e-6, rtol=1e-6)
    for drawn, bases in ((haar, space.random), (matched, space.random_matched)):
        torch.testing.assert_close(drawn[:, 7], gap @ bases[7].T @ bases[7], atol=1e-5, rtol=0)
    assert torch.count_nonzero(space.swaps(0 * gap, draws=20)) == 0  # donor = recipient: exactly nothing is added
    assert space.swaps(gap).shape[1] == len(labels)


@pytest.mark.parametrize("condition", ["none", "z", "z_perp", "full", "centroid", "centroid_perp", "random"])
def test_generation_swaps_in_the_subspaces_of_the_pairs_fold(phase3, condition):
    study = study_of(phase3)
    spaces = [spaces_of(phase3, False), spaces_of(phase3, True)]
    spaces[1].weight = None
    spaces[1].language, spaces[1].random = random_basis(1, 12, 8).float(), spaces[1].random.flip(0)
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


def test_part_is_an_orthogonal_projection(phase3):
    bases = utils.random_subspaces(torch.Generator().manual_seed(2), 4, 5, 12)
    gap = torch.randn(6, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    inside = phase3.part(gap, bases)
    assert inside.shape == (6, 4, 12)
    for index in range(4):
        torch.testing.assert_close(phase3.part(inside[:, index], bases[index][None])[:, 0], inside[:, index])
        outside = gap - inside[:, index]
        torch.testing.assert_close((outside * inside[:, index]).sum(1), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(phase3.part(gap, torch.eye(12, dtype=torch.float64)[None])[:, 0], gap)


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


# ---- summing up and deciding ----------------------------------------------------------------------------------------

WINS = np.eye(4)[[0, 1, 2, 3]]  # scores in which one candidate wins


def measured_of(phase3, pairs: int, z: int, z_perp: int, none: int = 0, wrong: int = 0, as_good: int = 0) -> dict:
    """Scores in which the first pairs have their target: z of them under Z, ...; `as_good` Haar draws are as good as Z."""

    def scores(count: int, target: int) -> np.ndarray:
        return WINS[[target] * count + [0] * (pairs - count)]

    rows = {"none": scores(none, 2), "z": scores(z, 2), "z_perp": scores(z_perp, 1), "full": scores(pairs, 3)}
    idle = scores(0, 0)
    rows |= {"z_wrong_donor": scores(wrong, 2)}
    rows |= dict.fromkeys(("random", "random_matched", "pca", "centroid", "centroid_perp"), idle)
    draws = np.tile(idle, (3, phase3.DRAWS, 1, 1))
    draws[0, :as_good] = rows["z"]
    labels = [label for label in phase3.TARGETS if label in rows]
    stacked = np.stack([rows[label] for label in labels])
    return {"labels": labels, "scores": stacked, "draws": draws, "same_language": {"z": idle}}


def test_the_weight_based_z_is_compared_as_z_is(phase3):
    """With its own success, at the same draws: 30 of them reach Z, and 0 the better weight-based one."""
    pairs = [phase3.Pair(index, index, 0, 1, 0, index) for index in range(16)]
    measured, better = measured_of(phase3, 16, 6, 6, as_good=30), measured_of(phase3, 16, 9, 9)
    rows = dict(zip(better["labels"], better["scores"]))
    measured["labels"] += ["weight", "weight_perp", "weight_wrong_donor"]
    more = [rows[name] for name in ("z", "z_perp", "z_wrong_donor")]
    for extra, p in ((more, 1 / 201), ([measured["scores"][1], *more[1:]], 31 / 201)):
        results = phase3.summarise(measured | {"scores": np.stack([*measured["scores"], *extra])}, pairs, ["en", "zh"])
        assert results["null"]["random"]["p"] == pytest.approx(31 / 201)
        assert results["null"]["random"]["p_weight"] == pytest.approx(p)
        assert results["p_wrong_donor"]["weight"] < 0.05
        assert phase3.decide(results, "z") == "none"
        assert phase3.decide(results, "weight") == ("double_dissociation" if extra is more else "none")


def verdict_of(phase3, *counts, **more) -> str:
    pairs = [phase3.Pair(index, index, 0, 1, 0, index) for index in range(counts[0])]
    return phase3.decide(phase3.summarise(measured_of(phase3, *counts, **more), pairs, ["en", "zh"]), "z")


def test_verdicts_from_scores(phase3):
    assert verdict_of(phase3, 64, 64, 64) == "double_dissociation"
    assert verdict_of(phase3, 64, 32, 32) == "double_dissociation"  # half of the pairs is enough
    assert verdict_of(phase3, 64, 31, 64) == "partial"
    assert verdict_of(phase3, 64, 64, 31) == "partial"
    assert verdict_of(phase3, 64, 64, 0) == "partial"
    assert verdict_of(phase3, 64, 0, 64) == "none"
    # better than every draw, but one pair of many is no more than no swap might have
    assert verdict_of(phase3, 64, 1, 64) == "none"
    assert verdict_of(phase3, 64, 5, 64) == "none"
    assert verdict_of(phase3, 64, 6, 64) == "partial"  # exact McNemar p of 6 : 0 is .03
    # no swap has the outcome as often
    assert verdict_of(phase3, 64, 40, 64, none=40) == "none"
    assert verdict_of(phase3, 64, 20, 64, none=40) == "none"
    # a wrong donor does as much: the swap merely erases the recipient's answer
    assert verdict_of(phase3, 64, 40, 64, wrong=40) == "none"
    assert verdict_of(phase3, 64, 32, 64, wrong=27) == "none"
    assert verdict_of(phase3, 64, 32, 64, wrong=26) == "double_dissociation"
    # 5 % of the draws as good: p = 10 / 201 with 9 of them, 11 / 201 with 10
    assert verdict_of(phase3, 64, 64, 64, as_good=9) == "double_dissociation"
    assert verdict_of(phase3, 64, 64, 64, as_good=10) == "none"
    assert verdict_of(phase3, 0, 0, 0) == "none"


def test_summary_of_known_scores(phase3):
    pairs = [phase3.Pair(index, index, index % 2, 1 - index % 2, 0, index) for index in range(8)]
    results = phase3.summarise(measured_of(phase3, 8, 6, 4, none=1, wrong=2, as_good=30), pairs, ["en", "zh"])
    assert results["success"] == pytest.approx(
        {"none": 1 / 8, "z": 0.75, "z_perp": 0.5, "full": 1, "random": 0.75 * 30 / 200, "random_matched": 0}
        | {"pca": 0, "centroid": 0, "centroid_perp": 0, "z_wrong_donor": 0.25}
    )
    assert results["winners"]["z"] == [0.25, 0, 0.75, 0]
    assert results["null"]["random"]["p"] == pytest.approx(31 / 201)
    assert results["null"]["random_matched"]["p"] == pytest.approx(1 / 201)
    assert results["null"]["random_perp"]["tests"] == "z_perp"
    assert results["null"]["random_perp"]["p"] == pytest.approx(1 / 201)
    assert results["p_unpatched"]["z"] == pytest.approx(2 * 0.5**5)  # 5 : 0
    assert results["p_unpatched"]["z_perp"] == pytest.approx(2 * 0.5**4)
    assert results["p_wrong_donor"] == {"z": pytest.approx(2 * 0.5**4)}  # 4 : 0
    assert results["interval"]["z"] == pytest.approx(utils.wilson_interval(6, 8))
    assert results["directions"]["zh_to_en"]["pairs"] == results["directions"]["en_to_zh"]["pairs"] == 4
    assert results["directions"]["zh_to_en"]["z"] == 0.75
    assert results["directions"]["zh_to_en"]["none"] == 0.25
    assert results["directions"]["en_to_zh"]["none"] == 0
    assert results["effect"]["none"] == {"answer": 0, "language": 0}
    # a win of (recipient, recipient) is worth -1 of each log-odds, a win of the other two +1 of one
    assert results["effect"]["z"]["answer"] == pytest.approx((0.75 - 0.25) - (1 / 8 - 7 / 8))
    assert results["effect"]["z"]["language"] == pytest.approx(-0.25 + 7 / 8)


TABLE = [  # success of Z, its complement, no swap, a wrong donor; p of both nulls, no swap, a wrong donor; verdict
    ((0.9, 0.8, 0.0, 0.1), (0.005, 0.005, 0.001, 0.001), "double_dissociation"),
    ((0.5, 0.5, 0.0, 0.1), (0.005, 0.005, 0.001, 0.001), "double_dissociation"),
    ((0.4999, 0.9, 0.0, 0.1), (0.005, 0.005, 0.001, 0.001), "partial"),
    ((0.9, 0.4999, 0.0, 0.1), (0.005, 0.005, 0.001, 0.001), "partial"),
    ((0.9, 0.9, 0.0, 0.1), (0.005, 0.06, 0.001, 0.001), "none"),
    ((0.9, 0.9, 0.0, 0.1), (0.06, 0.005, 0.001, 0.001), "none"),
    ((0.9, 0.9, 0.0, 0.1), (0.05, 0.005, 0.001, 0.001), "none"),
    ((0.9, 0.9, 0.0, 0.1), (0.005, 0.005, 0.06, 0.001), "none"),
    ((0.9, 0.9, 0.0, 0.1), (0.005, 0.005, 0.001, 0.06), "none"),
    ((0.1, 0.9, 0.6, 0.0), (0.005, 0.005, 0.001, 0.001), "none"),  # significantly below no swap
    ((0.1, 0.9, 0.0, 0.6), (0.005, 0.005, 0.001, 0.001), "none"),  # and below a wrong donor
]


@pytest.mark.parametrize("success, ps, verdict", TABLE)
@pytest.mark.parametrize("label, other", [("z", "weight"), ("weight", "z")])
def test_the_verdict_rule(phase3, success, ps, verdict, label, other):
    """For one Z, beside another of which everything says the opposite."""
    keys = {"z": "p", "weight": "p_weight"}
    good = verdict == "none"
    null = {
        name: {keys[label]: p, keys[other]: 0.001 if good else 1.0} for name, p in zip(("random", "random_matched"), ps)
    }
    null["random_perp"] = {"p": 1.0, "p_weight": 1.0}
    rates = dict(zip((label, f"{label}_perp", "none", f"{label}_wrong_donor"), success))
    rates |= {other: float(good), f"{other}_perp": float(good), f"{other}_wrong_donor": float(not good)}
    opposite = 0.001 if good else 1.0
    results = {"success": rates, "null": null}
    results |= {"p_unpatched": {label: ps[2], other: opposite}, "p_wrong_donor": {label: ps[3], other: opposite}}
    assert phase3.decide(results, label) == verdict


def test_counts_of_generated_answers(phase3):
    def sample(condition, answer, written_in, design="different_problem", **more):
        row = {"condition": condition, "answer": answer, "written_in": written_in, "language": "en", "design": design}
        return row | {"donor_language": "zh"} | more

    samples = [
        sample("z", "donor", "en"),
        sample("z", "donor", "zh"),
        sample("z", "recipient", "zh"),
        sample("z", "other", None),
    ]
    row = phase3.generated_shares(samples)["z"]
    assert row == {
        "recipient_answer": 0.25,
        "donor_answer": 0.5,
        "other_answer": 0.25,
        "recipient_language": 0.25,
        "donor_language": 0.5,
        "donor_answer_in_recipient_language": 0.25,
        "recipient_answer_in_donor_language": 0.25,
    }
    assert set(phase3.generated_shares(samples)["full"].values()) == {0}
    samples = [
        {"condition": "z", "language": "en", "donor_language": "zh", "written_in": written, "correct_in": correct}
        | {"solved_unpatched": before}
        for written, correct, before in (
            ("en", "en", False),  # rescued
            ("zh", "zh", False),  # right, in the other language: no rescue
            ("en", None, False),
            ("en", "en", True),
            ("zh", "zh", True),  # kept, language moved
            ("en", None, True),  # lost
        )
    ]
    assert phase3.same_problem_counts(samples)["z"] == {
        "wrong_before": 3,
        "rescued": 1,
        "right_before": 3,
        "answer_lost": 1,
        "language_moved": 1,
    }


# ---- reading answers ------------------------------------------------------------------------------------------------

WRITTEN = {
    "nineteen": "en",
    " Nineteen apples.": "en",
    "十九": "zh",
    "十九个苹果。": "zh",
    "答案是 ok": "zh",
    "the answer is 十九": "en",
    "好a": None,
    "19": None,
    "１９。": None,
    "": None,
    " \n": None,
    "?!": None,
}


@pytest.mark.parametrize("text", WRITTEN)
def test_written_in(phase3, text):
    assert phase3.written_in(text, utils.load_languages(["en", "zh"])) == WRITTEN[text]
    assert phase3.written_in(text, utils.load_languages(["zh", "en"])) == WRITTEN[text]


def word(english: str, chinese: str) -> utils.Problem:
    return utils.Problem("w", "", english, {}, {"en": english, "zh": chinese})


def number(value: int) -> utils.Problem:
    english, chinese = NUMBERS[value]
    return utils.Problem("n", "", Fraction(value), {}, {"en": english, "zh": chinese})


ANSWERED = [
    (word("cat", "猫"), " cat", "en"),
    (word("cat", "猫"), "Cat.", "en"),
    (word("cat", "猫"), "cat cat cat", "en"),
    (word("cat", "猫"), "cat 猫", "en"),
    (word("cat", "猫"), "cat, since it is older", "en"),
    (word("cat", "猫"), "猫", "zh"),
    (word("cat", "猫"), "\n 猫。", "zh"),
    (word("cat", "猫"), "猫 cat", "zh"),
    (word("cat", "猫"), "catfish", None),
    (word("cat", "猫"), "a cat", None),
    (word("cat", "猫"), "dog", None),
    (word("cat", "猫"), "狗", None),
    (word("cat", "猫"), "19", None),
    (word("cat", "猫"), "", None),
    (word("catfish", "鲶鱼"), "cat", None),
    (word("c.t", "猫"), "cat", None),
    (number(19), " nineteen", "en"),
    (number(19), "Nineteen.", "en"),
    (number(19), "nineteen apples", "en"),
    (number(19), "十九", "zh"),
    (number(19), "十九个", "zh"),
    (number(19), "十九。", "zh"),
    (number(19), "19", None),
    (number(19), "１９", None),
    (number(19), "nine", None),
    (number(19), "九", None),
    (number(19), "", None),
    (number(9), "nineteen", None),
    (number(9), "十九", None),
    (number(40), "forty-two", None),
    (number(40), "四十二", None),
    (number(42), "forty-two", "en"),
    (number(42), "四十二", "zh"),
    (number(42), "forty", None),
    (number(100), "one hundred", "en"),
]


@pytest.mark.parametrize("problem, output, language", ANSWERED, ids=[f"{p.answer}:{o!r}" for p, o, _ in ANSWERED])
def test_answered_in(phase3, problem, output, language):
    assert phase3.answered_in(problem, output, utils.load_languages(["en", "zh"])) == language


@pytest.mark.parametrize("output", ["19 apples", "19个", "The answer is 19"])
def test_digits_are_no_answer_in_words(phase3, output):
    """Digits carry no language, whatever is written around them."""
    assert phase3.answered_in(number(19), output, utils.load_languages(["en", "zh"])) is None


def test_solved_wants_the_language_that_was_asked_in(phase3):
    study = study_of(phase3, words=WORDS[:2])
    samples = [
        {"language": "en", "correct_in": "en"},
        {"language": "en", "correct_in": "zh"},
        {"language": "zh", "correct_in": None},
        {"language": "zh", "correct_in": "zh"},
    ]
    assert phase3.solved(samples, study).tolist() == [[True, False], [False, True]]


# ---- bad input ------------------------------------------------------------------------------------------------------


def refused(script, model, out, *flags) -> str:
    """The one line of a UserError; nothing may be written."""
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(utils.UserError) as caught:
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
    problems = utils.load_problems([small / "problems.jsonl"], ["en", "zh"], limit=8)
    hashes = [utils.problem_hash(problem) for problem in problems]
    for left in (0, 3):
        hand_on(small, tmp_path / "out", random_basis(4, 48), site=2, method="centroid", fitted_on=hashes[left:])
        message = refused(script, small, tmp_path / "out", "--limit", 8)
        assert f"problems.jsonl: {left} problem(s) that Z was not fitted on; phase 3 needs at least 4" in message
        assert "--problems" in message


def test_too_few_problems(script, small, tmp_path):
    hand_on(small, tmp_path / "out", random_basis(4, 48), site=2)
    assert "at least 4" in refused(script, small, tmp_path / "out", "--limit", 3)


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
    assert "phase2_results.json is about another model" in message
    assert "--out" in message


def test_an_exemplar_must_not_be_a_problem(script, small, tmp_path):
    hand_on(small, tmp_path / "out", random_basis(4, 48), site=2)
    message = refused(script, small, tmp_path / "out", "--exemplars", small / "problems.jsonl")
    assert "is also a problem" in message
