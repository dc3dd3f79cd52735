"""Phase 3 on models with a planted answer: its scores by full passes, who meets whom, the ladder, and its verdicts."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from controls import BOTTLENECK, write_control

import utils
import verdicts
from lab import answers, checkpoints, ladder, models, questions, runs, statistics, transfer

PATCHING = {"problems": 40, "noise": 0.5, "language_share": 0.1}  # of write_control
RANK = 6
SHARES = ("coverage", "leak", "complement_transfer", "complement_language", "d")


@pytest.fixture(scope="module")
def phase3(script):
    return script("phase3_patching.py")


def run(script, name, model, out, *flags) -> None:
    script(name).main(["--model", str(model), "--out", str(out), "--device", "cpu", *map(str, flags)])


def read(out) -> dict:
    return json.loads((out / "phase3_results.json").read_text())


def hand_on(model, out, basis, *, site, method="weight", bottleneck=2, fitted_on=(), layers=None) -> None:
    """What phase 2 leaves behind for phase 3, with a Z of our own."""
    folder = checkpoints.find_model(str(model))
    k = len(basis)
    z = {
        "method": method,
        "layer": site - 1,
        "site": site,
        "k": k,
        "passed": False,
        "fitted_on": list(fitted_on),
        "fitted_answers": [],
    }
    results = {
        "script": "phase2",
        "model": folder.identity,
        "settings": {"layer": bottleneck, "languages": ["en", "zh"]},
        "z": z,
        "tests": {},
    }
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
    scores = np.load(path / "out" / "phase3_scores.npy")
    return SimpleNamespace(
        model=control.path, out=path / "out", results=read(path / "out"), scores=scores, answers=control.answers
    )


def test_a_planted_z_is_doubly_dissociated(planted):
    results = planted.results
    weights = results["tested"]["weights"]
    assert (results["verdict"], results["decided_by"]) == ("double_dissociation", "weights")
    assert (weights["site"], weights["k"], weights["layer"]) == (BOTTLENECK + 1, RANK, BOTTLENECK)
    assert weights["coverage"]["low"] >= 0.9
    assert max(weights["leak"]["high"], weights["complement_transfer"]["high"]) <= 0.1
    assert weights["complement_language"]["low"] >= 0.9
    assert weights["d"]["low"] >= 1.8
    assert weights["iia_cross"]["value"] >= 0.9
    assert weights["kappa"] >= 0.9
    assert weights["p"] == pytest.approx(1 / 121, rel=1e-3)  # not one Haar subspace does as well
    assert abs(weights["haar"]["middle"]) < 0.2
    assert weights["judged_on"] == "all" and weights["seen"] is None
    assert all(row["holds"] for row in results["claims"])
    assert all(results["tests"].values())


def test_where_the_planted_answer_and_language_arrive(planted):
    """The first layer gathers the answer; the language is in every token, so at the last position from the start."""
    results = planted.results
    sites = [row["site"] for row in results["curve"]]
    assert {0, 1, 2, 4, 5, 6} <= set(sites) and sites == sorted(sites)
    assert results["carriers"]["answer"] == [site for site in sites if site]
    assert results["carriers"]["joint"] == results["carriers"]["answer"]
    first, *others = results["curve"]
    assert first["iia_same"]["value"] == 0 and abs(first["t_same"]["value"]) < 0.5
    for row in others:
        assert row["iia_same"]["value"] == 1 and row["t_same"]["low"] > 0.5
        assert row["t_same_share"]["low"] > 0.99  # what brings the answer is there at once, and stays
        assert row["donor_donor"]["value"] == 1  # the whole stream brings both


def test_rank_and_direction_are_what_counts(planted):
    """The answer means find the planted subspace too, on answers that they were not fitted on; a random layer does not."""
    tested = planted.results["tested"]
    assert tested["answer_means"]["verdict"] == "double_dissociation"
    assert tested["answer_means"]["judged_on"] == "test"
    assert tested["answer_means"]["seen"]["coverage"]["value"] > 0.9
    assert tested["best_layer"]["layer"] == BOTTLENECK


def test_scores_are_those_of_full_hooked_passes(planted):
    """Full swap, Z and its complement: some recipients and donors of both languages, by a pass over the whole prompt."""
    results, scores = planted.results, planted.scores
    model, tokenizer = models.load_model(checkpoints.find_model(str(planted.model)), torch.device("cpu"), torch.float32)
    lines = [json.loads(line) for line in (planted.out / "phase3_prompts.jsonl").read_text().splitlines()]
    prompts = {(line["language"], line["problem"]): line["prompt"] for line in lines}
    names, recipients = results["languages"], results["recipients"]
    (columns,) = zip(*results["answer_set"]["tokens"])  # of one token each
    z = planted.answers.float()

    def stream(language: int, place: int, site: int) -> tuple[list[int], torch.Tensor]:
        ids = tokenizer(prompts[names[language], recipients[place]["problem"]])["input_ids"]
        with models.captured_sites(model, [site]) as streams:
            model(torch.tensor([ids]))
        return ids, streams[site][0, -1]

    checked = 0
    for index, condition in enumerate(results["conditions"]):
        if "weights" not in condition["tested"]:
            continue
        for b, r, a in ((0, 0, 1), (1, 5, 1), (1, 20, 0)):
            i = results["blocks"][r][3]
            ids, own = stream(b, r, condition["site"])
            _, sent = stream(a, i, condition["site"])
            part = {"full": sent - own, "z": (sent - own) @ z.T @ z}
            part["complement"] = part["full"] - part["z"]

            def patch(where, vector=own + part[condition["swap"]]):
                return vector[None, None]

            with models.edited_stream(model, {condition["site"]: patch}, "last"):
                logits = model(torch.tensor([ids])).logits[0, -1]
            expected = logits[list(columns)].log_softmax(-1).detach().numpy()
            np.testing.assert_allclose(scores[index, b, r, a, i], expected, atol=1e-3)
            checked += 1
    assert checked == 9


def test_donors_are_of_the_recipients_half_and_answers_of_one_half_alone(planted):
    results, scores = planted.results, planted.scores
    recipients, blocks = results["recipients"], results["blocks"]
    assert scores.shape == (len(results["conditions"]), 2, 32, 2, 32, 64) and scores.dtype == np.float32
    assert results["pairs"] == 4 * sum(map(len, blocks))
    halves = {half: {row["answer"] for row in recipients if row["half"] == half} for half in ("development", "test")}
    assert not halves["development"] & halves["test"] and min(map(len, halves.values())) >= 10
    for place, block in enumerate(blocks):
        given = [recipients[donor] for donor in block]
        assert {row["half"] for row in given} == {recipients[place]["half"]}
        assert len({row["answer"] for row in given} - {recipients[place]["answer"]}) == len(block) == 8
    measured = np.zeros((32, 32), bool)
    for place, block in enumerate(blocks):
        measured[place, block] = True
    seen = np.isfinite(scores).all(-1)
    assert (seen == measured[None, None, :, None, :]).all()
    np.testing.assert_allclose(
        np.exp(scores[:, :, measured.nonzero()[0], :, measured.nonzero()[1]]).sum(-1), 1, atol=1e-4
    )


def test_the_profile_follows_from_the_saved_scores(planted):
    """Shares by the estimators' definition, with plain loops over recipients and donors."""
    results, scores, found = planted.results, planted.scores, {}
    places = [row["answer_place"] for row in results["recipients"]]
    for index, condition in enumerate(results["conditions"]):
        if "weights" in condition["tested"]:
            own = scores[index].astype(float).reshape(2, 32, 2, 32, -1, 2)
            t, g = [], []
            for r, block in enumerate(results["blocks"]):
                for b in (0, 1):
                    matrix = np.array([[own[b, r, b, i, places[j], b] for j in block] for i in block])
                    t.append(matrix.diagonal().mean() - matrix[~np.eye(len(block), dtype=bool)].mean())
                    mass = np.log(np.exp(own[b, r][:, block]).sum(-2))  # (a, donors, language)
                    lead = mass[..., 1 - b] - mass[..., b]
                    g.append((lead[1 - b] - lead[b]).mean() / 2)
            found[condition["swap"]] = np.mean(t), np.mean(g)
    expected = [found["z"][0] / found["full"][0], found["z"][1] / found["full"][1]]
    expected += [found["complement"][0] / found["full"][0], found["complement"][1] / found["full"][1]]
    expected.append(expected[0] - expected[1] - expected[2] + expected[3])
    weights = results["tested"]["weights"]
    assert [weights[name]["value"] for name in SHARES] == pytest.approx(expected, abs=1e-3)


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


def test_steps_named_in_the_docstring_are_the_reports_headings(phase3, planted):
    steps = phase3.__doc__.split("headings:")[1].strip().lower()
    lines = (planted.out / "phase3_output.md").read_text().splitlines()
    numbered = [line[3:].lower() for line in lines if line.startswith("## ") and line[3].isdigit()]
    assert "   ".join(numbered) == steps


def test_another_threshold_is_another_verdict_without_a_model(script, planted, tmp_path, monkeypatch):
    out = shutil.copytree(planted.out, tmp_path / "out")
    monkeypatch.setattr(checkpoints, "find_model", None)
    monkeypatch.setattr(verdicts, "MOVES", 1.5)
    script("phase3_patching.py").main(["--out", str(out), "--report-only"])
    results = read(out)
    assert results["verdict"] == "partial" == results["tested"]["weights"]["verdict"]
    assert {row["id"]: row["holds"] for row in results["claims"]} == {"z": False, "z_perp": True, "weights": False}


@pytest.mark.parametrize("batch", [1, 5])
def test_the_batch_changes_nothing_but_rounding(script, planted, tmp_path, batch):
    out = shutil.copytree(planted.out, tmp_path / "out")
    run(script, "phase3_patching.py", planted.model, out, "--batch", batch)
    np.testing.assert_allclose(np.load(out / "phase3_scores.npy"), planted.scores, atol=1e-3)


def test_a_decoy_is_refuted_while_what_is_fitted_finds_the_answer(script, tmp_path):
    """The bottleneck's kernels span a random subspace; the answer runs elsewhere, in the same directions in both languages."""
    control = write_control(tmp_path / "model", "decoy", rank=RANK, seed=1, **PATCHING)
    for name, *flags in (("1.py",), ("phase2_z_extraction.py", "--contingencies", "never"), ("phase3_patching.py",)):
        run(script, name, control.path, tmp_path / "out", *flags)
    results = read(tmp_path / "out")
    tested = results["tested"]
    assert results["carriers"]["joint"]
    assert tested["weights"]["place"] == "joint"
    for name in ("weights", "weights_at_carrier"):
        assert tested[name]["verdict"] == "none", name
        assert tested[name]["coverage"]["high"] < 0.5
        assert tested[name]["iia_cross"]["value"] < 0.2
    assert (results["verdict"], results["decided_by"]) == ("double_dissociation", "answer_means")
    assert {row["id"]: row["holds"] for row in results["claims"]} == {"z": True, "z_perp": True, "weights": False}


def test_random_weights_solve_nothing_and_say_so(script, tmp_path):
    control = write_control(tmp_path / "model", "random", **PATCHING)
    out = tmp_path / "out"
    for name in ("1.py", "phase2_z_extraction.py", "phase3_patching.py"):
        run(script, name, control.path, out)
    results = read(out)
    assert (results["verdict"], results["rung"], results["tested"]) == ("untestable", None, {})
    (row,) = results["tried"]
    assert row["outcome"] == "too_few_solved" and row["everywhere"] < 20
    for counts in results["unsolved"]["counts"].values():
        assert sum(counts.values()) == results["unsolved"]["asked"]
    assert all(row["holds"] is None for row in results["claims"])
    assert np.load(out / "phase3_scores.npy").size == np.load(out / "phase3_streams.npy").size == 0
    assert not list(out.glob("phase3*.png"))


# The ladder: files of known outcome, and what comes of each.


def ladder_of(phase3, monkeypatch, outcomes: dict) -> tuple:
    """`choose_rung` on rungs whose problems are solved as told: {rung: (problems, solved, different answers, mass)}"""
    asked_for = []
    rungs = []
    for name, (count, _, distinct, _) in outcomes.items():
        problems = [
            SimpleNamespace(id=f"{name}{n}", answer=n % distinct, question={"en": f"{name} {n}"}) for n in range(count)
        ]
        rungs.append(SimpleNamespace(files=[SimpleNamespace(stem=name)], problems=problems, exemplars=[1, 2]))

    def ask(study, rung, some):
        count, solved, _, mass = outcomes[rung.asked.files[0].stem]
        asked_for.append((rung.asked.files[0].stem, len(some)))
        for place in some:
            right = place * solved // count != (place + 1) * solved // count  # evenly spread
            column = 2 * rung.known.place(rung.problems[place])
            rung.found |= {(0, place): (column if right else -1, mass, None), (1, place): (column + 1, mass, None)}

    monkeypatch.setattr(ladder, "ask", ask)
    known = SimpleNamespace(left_out=[], languages=["en", "zh"], place=lambda problem: problem.answer)
    monkeypatch.setattr(answers, "answer_set", lambda *_: known)
    study = SimpleNamespace(
        tokenizer=None, languages={}, names=["en", "zh"], z=SimpleNamespace(fitted_on=set()), seed=0
    )
    rung, tried = ladder.choose_rung(study, rungs, phase3.NEEDED)
    return rung and rung.asked.files[0].stem, {row["rung"]: row for row in tried}, asked_for


def test_the_hardest_rung_that_is_solved_is_taken_and_hopeless_ones_are_asked_little(phase3, monkeypatch):
    taken, tried, asked = ladder_of(
        phase3, monkeypatch, {"words": (170, 3, 50, 0.9), "sums": (48, 40, 20, 0.9), "successor": (90, 80, 90, 0.9)}
    )
    assert taken == "sums" and list(tried) == ["words", "sums"]
    assert asked == [("words", 24), ("sums", 24), ("sums", 48)]
    assert tried["words"]["outcome"] == "too_few_solved" and tried["words"]["asked"] == 24
    assert tried["sums"]["solved"] == {"en": 40, "zh": 48} and tried["sums"]["everywhere"] == 40


@pytest.mark.parametrize(
    "rung, outcome",
    [((60, 19, 60, 0.9), "too_few_solved"), ((60, 40, 15, 0.9), "too_few_answers"), ((60, 40, 30, 0.49), "little_mass"),
     ((60, 20, 16, 0.5), "taken"), ((10, 10, 10, 0.9), "too_few_solved")],
)  # fmt: skip
def test_what_a_rung_needs(phase3, monkeypatch, rung, outcome):
    taken, tried, _ = ladder_of(phase3, monkeypatch, {"rung": rung})
    assert tried["rung"]["outcome"] == outcome
    assert (taken == "rung") is (outcome == "taken")


@pytest.mark.parametrize("kept", [22, 0], ids=["as many as the precheck asks", "none that Z was not fitted on"])
def test_files_of_few_problems_are_no_crash(script, planted, tmp_path, kept):
    out = shutil.copytree(planted.out, tmp_path / "out")
    phase2 = json.loads((out / "phase2_results.json").read_text())
    problems = questions.load_problems([planted.model / "problems.jsonl"], ["en", "zh"])
    phase2["z"] |= {"fitted_on": [questions.problem_hash(problem) for problem in problems[kept:]]}
    (out / "phase2_results.json").write_text(json.dumps(phase2))
    run(script, "phase3_patching.py", planted.model, out)
    (row,) = read(out)["tried"]
    assert (row["problems"], row["asked"], row["left_out_as_fitted"]) == (kept, kept, 40 - kept)
    assert row["outcome"] == "too_few_solved"


def test_answers_that_are_written_alike_in_both_languages_are_no_crash(script, planted, tmp_path):
    out = shutil.copytree(planted.out, tmp_path / "out")
    lines = [json.loads(line) for line in (planted.model / "problems.jsonl").read_text().splitlines()]
    for line in lines:
        for part in ("question", "answer_text"):
            line[part]["de"] = line[part]["en"]
    (tmp_path / "alike.jsonl").write_text("\n".join(map(json.dumps, lines[2:])))
    (tmp_path / "shots.jsonl").write_text("\n".join(map(json.dumps, lines[:2])))
    files = ("--problems", tmp_path / "alike.jsonl", "--exemplars", tmp_path / "shots.jsonl")
    run(script, "phase3_patching.py", planted.model, out, *files, "--languages", "en", "de")
    results = read(out)
    assert results["tried"][0]["outcome"] == "answers_are_written_alike" and results["verdict"] == "untestable"


def test_a_fitted_z_needs_the_languages_it_was_fitted_in(script, planted, tmp_path):
    out = shutil.copytree(planted.out, tmp_path / "out")
    phase2 = json.loads((out / "phase2_results.json").read_text())
    phase2["z"] |= {"fitted_on": ["0"]}
    phase2["settings"]["languages"] = ["en", "zh", "es"]
    (out / "phase2_results.json").write_text(json.dumps(phase2))
    with pytest.raises(runs.UserError, match="run both with the same --languages"):
        run(script, "phase3_patching.py", planted.model, out)


def test_fits_share_no_first_token_with_a_test_answer(phase3):
    tokens = [(1,), (2,), (1, 5), (3,), (7,), (8,), (6, 1), (2, 4), (9,), (10,)]
    known = answers.AnswerSet(list("abcde"), ["en", "es"], tokens, [])
    problems = [SimpleNamespace(answer=answer) for answer in "abcde"]
    rung = SimpleNamespace(known=known, problems=problems)
    assert phase3.unshared(rung, np.array([1, 2, 3]), np.array([0])).tolist() == [2]
    assert phase3.unshared(rung, np.array([1, 2, 3]), np.array([4])).tolist() == [1, 2, 3]


def test_few_donors_have_different_answers(phase3):
    places = np.array([0, 0, 0, 1, 1, 2, 3, 4])
    blocks = transfer.donor_blocks(places, statistics.seeded(0, "blocks"))  # everybody with another answer
    for seed in range(10):
        few = phase3.few_donors(blocks, places, statistics.seeded(seed, "few"))
        assert not (few & ~blocks).any()
        for row in few:
            given = places[row]
            assert len(set(given)) == len(given) <= phase3.FEW
        assert few.sum() >= 2 * len(places) - 2  # nobody gives twice in one round


def test_rungs_come_from_data_unless_problems_are_named(script, phase3, small, tmp_path):
    arguments = runs.command_line("", asks_problems=True).parse_args(["--model", str(small)])
    folder = checkpoints.find_model(str(small))
    assert [asked.files[0].parent for asked in questions.find_ladder(arguments, folder, phase3.RUNGS)] == [folder.path]
    bare = SimpleNamespace(path=tmp_path)
    ladder = questions.find_ladder(arguments, bare, phase3.RUNGS)
    assert [asked.files[0].stem for asked in ladder] == ["words", "sums", "successor", "reasoning", "antonyms"]
    assert all(
        asked.exemplars and asked.settings["exemplars"][0] == f"{asked.files[0].stem}_exemplars.jsonl"
        for asked in ladder
    )
    arguments.problems = [runs.ROOT / "data" / "antonyms.jsonl"]
    assert [asked.files[0].stem for asked in questions.find_ladder(arguments, bare, phase3.RUNGS)] == ["antonyms"]


@pytest.mark.parametrize(
    "output, kind",
    [
        (" nineteen\n", "words"),
        (" 19", "digits"),
        (" The answer is nineteen.", "words"),
        (" ninety", "wrong"),
        ("", "wrong"),
    ],
)
def test_kinds_of_free_answers(phase3, output, kind):
    problem = questions.load_problems([runs.ROOT / "data" / "sums.jsonl"], ["en", "zh"])[0]
    problem = type(problem)("x", "plus", type(problem.answer)(19), problem.question, {"en": "nineteen", "zh": "十九"})
    assert phase3.kind_of_answer(problem, output, "en") == kind


# Verdicts, from numbers alone.


def record(value, low=None, high=None) -> dict:
    return {"value": value, "low": value if low is None else low, "high": value if high is None else high}


PASSES = {
    "place": "joint", "k": 30, "participation": 30.0, "p": 0.01, "p_holm": 0.04, "coverage": record(0.9), "leak": record(0.1),
    "complement_transfer": record(0.1), "complement_language": record(0.9), "d": record(1.6), "iia_cross": record(0.9),
    "full_iia_same": record(1.0), "haar_iia_cross_gain": {"p": 0.01},
}  # fmt: skip
NOTHING = record(None)


@pytest.mark.parametrize(
    "changes, verdict",
    [
        ({}, "double_dissociation"),
        ({"k": 60}, "language_removed"),
        ({"k": 60, "participation": 41.0}, "double_dissociation"),
        ({"k": 60, "coverage": record(0.2)}, "language_removed"),
        ({"coverage": record(0.6, 0.49, 0.7)}, "partial"),
        ({"iia_cross": record(0.49)}, "partial"),
        ({"haar_iia_cross_gain": {"p": 0.2}}, "partial"),
        ({"leak": record(0.4, 0.3, 0.5)}, "partial"),
        ({"complement_language": record(0.79, 0.7, 0.9)}, "partial"),
        ({"complement_language": record(0.9, 0.59, 1.0)}, "partial"),
        ({"p_holm": 0.05, "coverage": record(0.1, 0.0, 0.49)}, "none"),
        ({"p_holm": 0.05, "coverage": record(0.4, 0.2, 0.5)}, "inconclusive"),
        ({"place": "answer"}, "answer_only"),
        ({"place": "language"}, "language_only"),
        ({"place": "none", "unmeasured": "the full swap carries nothing here"}, "untestable"),
        ({"unmeasured": "no joint carrier", "place": "none"}, "untestable"),
        ({"d": NOTHING, "leak": NOTHING, "complement_language": NOTHING, "p_holm": None}, "untestable"),
    ],
)
def test_the_verdict_of_a_subspace(changes, verdict):
    results = {"tested": {"weights": PASSES | changes}, "width": 400, "carriers": {"joint": [5]}}
    judged = verdicts.phase3(results)
    assert judged["tested"]["weights"]["verdict"] == verdict == judged["verdict"]
    open_verdict = verdict in ("inconclusive", "answer_only", "language_only", "untestable")
    assert judged["holds"]["weights"] is (None if open_verdict else verdict == "double_dissociation")


@pytest.mark.parametrize(
    "changes, z, z_perp",
    [
        ({}, True, True),
        ({"leak": record(0.95)}, False, True),
        ({"complement_transfer": record(0.95)}, True, False),
        ({"coverage": record(0.4)}, False, True),
        ({"complement_language": record(0.5)}, True, False),
        ({"k": 399}, False, False),
        ({"p_holm": 0.2, "coverage": record(0.1)}, False, False),
        ({"p_holm": 0.2}, None, None),
    ],
)
def test_each_half_of_the_claim_needs_what_moves_and_what_stays(changes, z, z_perp):
    judged = verdicts.phase3({"tested": {"weights": PASSES | changes}, "width": 400, "carriers": {"joint": [5]}})
    assert (judged["holds"]["z"], judged["holds"]["z_perp"]) == (z, z_perp)


def test_the_phases_verdict_is_the_best_subspaces_and_none_without_a_joint_carrier():
    none = PASSES | {"p_holm": 0.5, "coverage": record(0.1)}
    tested = {"weights": none, "best_layer": PASSES | {"leak": record(0.6)}, "answer_means": PASSES}
    judged = verdicts.phase3({"tested": tested, "width": 400, "carriers": {"joint": [5]}})
    assert (judged["verdict"], judged["decided_by"]) == ("double_dissociation", "answer_means")
    assert judged["holds"] == {"z": True, "z_perp": True, "weights": False}
    judged = verdicts.phase3(
        {"tested": {"weights": PASSES | {"place": "answer"}}, "width": 400, "carriers": {"joint": []}}
    )
    assert (judged["verdict"], judged["decided_by"]) == ("untestable", None)
    assert judged["holds"] == {"z": None, "z_perp": None, "weights": None}


# What is refused.


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


def test_results_of_an_older_phase_2_are_refused(script, small, tmp_path):
    hand_on(small, tmp_path / "out", random_basis(4, 48), site=2)
    results = json.loads((tmp_path / "out" / "phase2_results.json").read_text())
    del results["z"]["fitted_answers"]
    (tmp_path / "out" / "phase2_results.json").write_text(json.dumps(results))
    assert "an older edition wrote it: run phase 2 again" in refused(script, small, tmp_path / "out")


def test_an_exemplar_must_not_be_a_problem(script, small, tmp_path):
    hand_on(small, tmp_path / "out", random_basis(4, 48), site=2)
    message = refused(script, small, tmp_path / "out", "--exemplars", small / "problems.jsonl")
    assert "is also a problem" in message
