"""Phase 3 on models with a planted answer: its scores by full passes, who meets whom, the ladder, and its verdicts."""

import json
import shutil
from types import SimpleNamespace

import fewer
import numpy as np
import pytest
import torch

import utils
import verdicts
from bench import control_runs
from bench.planted import ANSWERS, BOTTLENECK, LAYERS, PROBLEMS, RANK, WIDTH, Planted, write_planted
from lab import (
    answers,
    checkpoints,
    commands,
    designs,
    dissociation,
    ladder,
    learned,
    models,
    questions,
    runs,
    statistics,
    transfer,
)
from verdicts import dissociation as rules

SHARES = ("coverage", "leak", "complement_transfer", "complement_language", "d")
SCORED = 2 * designs.MOST
LITTLE_BESIDE = {
    f"lab.{name}": {"DRAWS": 3} for name in ("rivals", "contrasts", "formats")
}  # no verdict hangs on these


@pytest.fixture(scope="module")
def phase3(script):
    return script("phase3_patching.py")


def run(script, name, model, out, *flags) -> None:
    script(name).main(["--model", str(model), "--out", str(out), "--device", "cpu", *map(str, flags)])


def read(out) -> dict:
    return json.loads((out / "phase3_results.json").read_text())


def hand_on(model, out, basis, *, site, method="weight", bottleneck=2, fitted_on=(), layers=None, also=None) -> None:
    """What phase 2 leaves behind for phase 3, with a Z of our own; `also`: other contingencies' bases by name."""
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
    if also:
        others = [z | {"method": name, "k": len(rows), "layer": 0} for name, rows in also.items()]
        (out / "phase2_results.json").write_text(json.dumps(results | {"also": others}))
        np.save(out / "phase2_contingency_bases.npy", np.concatenate(list(map(np.asarray, also.values()))).astype("f4"))


def random_basis(k: int, width: int, seed: int = 0) -> torch.Tensor:
    return utils.random_subspaces(torch.Generator().manual_seed(seed), 1, k, width)[0]


@pytest.fixture(scope="module")
def planted(script, tmp_path_factory) -> SimpleNamespace:
    """1.py, phase 2 and phase 3 on a planted model, with what the searches for a learned Z were given and found."""
    path, searches = tmp_path_factory.mktemp("planted"), []
    truth = write_planted(path / "model", "planted")
    search = learned.Search.subspace

    def noted(self, site, k, inside, *rest):
        found = search(self, site, k, inside, *rest)
        searches.append(SimpleNamespace(site=site, k=k, inside=inside, found=found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned.Search, "subspace", noted)
        for name, *flags in (("1.py",), ("phase2_z_extraction.py",), ("phase3_patching.py", "--learned")):
            run(script, name, truth.path, path / "out", *flags)
    out, scores = path / "out", np.load(path / "out" / "phase3_scores.npy")
    return SimpleNamespace(model=truth.path, out=out, results=read(out), scores=scores, truth=truth, searches=searches)


def test_a_planted_z_is_doubly_dissociated(planted):
    results, on_paper = planted.results, planted.truth.profile
    weights = results["tested"]["weights"]
    assert (results["verdict"], results["decided_by"]) == ("double_dissociation", "weights")
    assert (weights["site"], weights["k"], weights["layer"]) == (BOTTLENECK + 1, RANK, BOTTLENECK)
    for name in SHARES:
        for end in ("value", "low", "high"):
            assert weights[name][end] == pytest.approx(on_paper[name], abs=0.01), (name, end)
    assert weights["iia_same"]["value"] == weights["iia_cross"]["value"] == 1
    assert weights["kappa"] == pytest.approx(1, abs=0.01)
    assert weights["judged_on"] == "all" and weights["seen"] is None
    assert all(row["holds"] for row in results["claims"])
    assert results["tests"] and all(results["tests"].values())


def test_a_planted_z_is_beyond_every_null(planted):
    """Haar and matched draws hold its share of the variance by chance or by design; seven other layers cannot give p < .05."""
    weights = planted.results["tested"]["weights"]
    assert set(weights["nulls"]) == {"haar", "matched", "layers"}
    haar, matched, layers = (weights["nulls"][name] for name in ("haar", "matched", "layers"))
    for null in (haar, matched):
        assert (null["draws"], null["gates"]) == (120, True)
        assert null["p"] == null["iia_cross_gain"]["p"] == pytest.approx(1 / 121, rel=1e-3)  # not one does as well
    assert abs(haar["middle"]) < 0.2 and haar["coverage"] == pytest.approx(RANK / WIDTH, abs=0.02)
    assert matched["within_share"] == pytest.approx(weights["within_share"], abs=0.05)
    assert matched["coverage"] > 3 * haar["coverage"]  # among what varies there is more of what acts
    assert (layers["draws"], layers["p"], layers["gates"]) == (LAYERS - 1, 1 / LAYERS, True)
    assert layers["outlier_p"] < 1e-3 and abs(layers["middle"]) < 0.2
    family = [row for row in planted.results["tested"].values() if row.get("p") is not None]
    assert weights["p"] == haar["p"]
    assert weights["p_holm"] == pytest.approx(len(family) / 121, rel=1e-3)  # all are as small: Holm counts each


def test_a_planted_z_passes_every_gate(planted):
    for name, row in planted.results["tested"].items():
        word, states = row["gates"]["word"], row["gates"]["manifold"]
        assert (word["dimensions"], word["left"]) == (RANK, RANK), name
        assert word["full"]["value"] == pytest.approx(1, abs=0.01)
        assert states["full"]["value"] == pytest.approx(1, abs=0.01)
        assert states["by_construction"] is (name == "learned")
        assert states["h"]["value"] == (None if name == "learned" else pytest.approx(1, abs=0.01))
        assert states["variance"] >= 0.99 and states["components"] <= states["states"] / 5
        if name != "learned":
            assert word["z"]["value"] == pytest.approx(1, abs=0.01)


def test_where_the_planted_answer_and_language_arrive(planted):
    """The language is in the last token from the embeddings on; layer 2 brings the answer."""
    results, arrives = planted.results, planted.truth.arrives
    sites = [row["site"] for row in results["curve"]]
    assert {0, arrives - 1, arrives, BOTTLENECK + 1, LAYERS - 2, LAYERS} <= set(sites) and sites == sorted(sites)
    assert results["carriers"]["language"] == sites
    assert results["carriers"]["answer"] == [site for site in sites if site >= arrives]
    assert results["carriers"]["joint"] == results["carriers"]["answer"]
    for row in results["curve"]:
        if row["site"] < arrives:
            assert row["iia_same"]["value"] == 0 and abs(row["t_same"]["value"]) < 0.01
        else:
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
    assert "layers" in tested["best_layer"]["nulls"] and "layers" not in tested["answer_means"]["nulls"]


def test_a_z_learned_for_its_effect_holds_on_unseen_answers_and_is_beyond_its_control(planted):
    tested = planted.results["tested"]
    row, control = tested["learned"], tested["learned"]["control"]
    assert (row["judged_on"], row["method"], row["layer"]) == ("test", "learned", None)
    assert row["site"] == tested["answer_means"]["site"]
    assert row["coverage"]["value"] >= 0.7 and row["seen"]["coverage"]["value"] > 0.9
    assert control["d_gain"]["low"] > 0
    assert control["d_gain"]["value"] == pytest.approx(row["d"]["value"] - control["d"]["value"], abs=1e-3)
    assert "shuffled" not in tested
    own, other = planted.searches
    for search in (own, other):
        assert (search.site, search.k) == (row["site"], RANK)
        gram = search.found @ search.found.T
        torch.testing.assert_close(gram, torch.eye(RANK, dtype=torch.float64), atol=1e-5, rtol=0)
        torch.testing.assert_close(utils.project(search.found, search.inside), search.found, atol=1e-5, rtol=0)
    assert len(own.inside) == row["gates"]["manifold"]["components"] < WIDTH / 2
    truth = planted.truth.answers
    assert utils.grassmann_similarity(own.found, truth) > utils.grassmann_similarity(other.found, truth)


SEARCHED = ("learned", "shuffled")
GATED = ("without_word", "z_without_word", "broad", "z_in_broad")  # conditions with few donors


def test_scores_are_those_of_full_hooked_passes(planted):
    """Z, its complement, the full swap, and both outside of the word's code: by a pass over the whole prompt, in two languages."""
    results, scores = planted.results, planted.scores
    model, tokenizer = models.load_model(checkpoints.find_model(str(planted.model)), torch.device("cpu"), torch.float32)
    lines = [json.loads(line) for line in (planted.out / "phase3_prompts.jsonl").read_text().splitlines()]
    prompts = {(line["language"], line["problem"]): line["prompt"] for line in lines}
    names, recipients = results["languages"], results["recipients"]
    (columns,) = zip(*results["answer_set"]["tokens"])  # of one token each
    z, word = planted.truth.answers.float(), planted.truth.parts["word"].float()

    def stream(language: int, place: int, site: int) -> tuple[list[int], torch.Tensor]:
        ids = tokenizer(prompts[names[language], recipients[place]["problem"]])["input_ids"]
        with models.captured_sites(model, [site]) as streams:
            model(torch.tensor([ids]))
        return ids, streams[site][0, -1]

    checked = 0
    for index, condition in enumerate(results["conditions"]):
        if "weights" not in condition["tested"] or condition["swap"] in ("broad", "z_in_broad"):
            continue
        for b, r, a in ((0, 0, 1), (1, 5, 1), (1, 20, 0)):
            i = results["few"][r][0] if condition["swap"] in GATED else results["blocks"][r][3]
            ids, own = stream(b, r, condition["site"])
            _, sent = stream(a, i, condition["site"])
            part = {"full": sent - own, "z": (sent - own) @ z.T @ z}
            part["complement"] = part["full"] - part["z"]
            part["without_word"] = part["full"] - part["full"] @ word.T @ word
            part["z_without_word"] = part["z"]  # the planted Z is orthogonal to the word's code

            def patch(where, vector=own + part[condition["swap"]]):
                return vector[None, None]

            with models.edited_stream(model, {condition["site"]: patch}, "last"):
                logits = model(torch.tensor([ids])).logits[0, -1]
            expected = logits[list(columns)].log_softmax(-1).detach().numpy()
            np.testing.assert_allclose(scores[index, b, r, a, i], expected, atol=1e-3)
            checked += 1
    assert checked == 15


def test_donors_are_of_the_recipients_half_and_answers_of_one_half_alone(planted):
    results, scores = planted.results, planted.scores
    recipients, blocks = results["recipients"], results["blocks"]
    columns = 2 * len({row["answer"] for row in recipients})
    assert columns == results["answer_set"]["columns"] > 1.5 * ANSWERS
    assert scores.shape == (len(results["conditions"]), 2, SCORED, 2, SCORED, columns) and scores.dtype == np.float32
    assert results["pairs"] == 4 * sum(map(len, blocks))
    halves = {half: {row["answer"] for row in recipients if row["half"] == half} for half in ("development", "test")}
    assert not halves["development"] & halves["test"] and min(map(len, halves.values())) >= 10
    for place, block in enumerate(blocks):
        given = [recipients[donor] for donor in block]
        assert {row["half"] for row in given} == {recipients[place]["half"]}
        assert len({row["answer"] for row in given} - {recipients[place]["answer"]}) == len(block) == 8
    for swaps, donors in (("full z complement".split(), blocks), (GATED, results["few"])):
        own = scores[[condition["swap"] in swaps for condition in results["conditions"]]]
        measured = np.zeros((SCORED, SCORED), bool)
        for place, given in enumerate(donors):
            assert set(given) <= set(blocks[place])
            measured[place, given] = True
        assert len(own) and (np.isfinite(own).all(-1) == measured[None, None, :, None, :]).all()
        total = np.exp(own[:, :, measured.nonzero()[0], :, measured.nonzero()[1]]).sum(-1)
        np.testing.assert_allclose(total, 1, atol=1e-4)


def by_hand(planted, name: str, donors: list) -> dict[str, tuple[float, float]]:
    """T and G of every condition of a subspace by the estimators' definition, with plain loops over recipients and donors."""
    results, found = planted.results, {}
    places = [row["answer_place"] for row in results["recipients"]]
    for index, condition in enumerate(results["conditions"]):
        if name in condition["tested"]:
            own = planted.scores[index].astype(float).reshape(2, SCORED, 2, SCORED, -1, 2)
            t, g = [], []
            for r, block in enumerate(donors):
                for b in (0, 1):
                    matrix = np.array([[own[b, r, b, i, places[j], b] for j in block] for i in block])
                    if len(block) > 1:
                        t.append(matrix.diagonal().mean() - matrix[~np.eye(len(block), dtype=bool)].mean())
                    mass = np.log(np.exp(own[b, r][:, block]).sum(-2))  # (a, donors, language)
                    lead = mass[..., 1 - b] - mass[..., b]
                    g.append((lead[1 - b] - lead[b]).mean() / 2)
            found[condition["swap"]] = np.mean(t), np.mean(g)
    return found


def test_the_profile_follows_from_the_saved_scores(planted):
    found = by_hand(planted, "weights", planted.results["blocks"])
    expected = [found["z"][0] / found["full"][0], found["z"][1] / found["full"][1]]
    expected += [found["complement"][0] / found["full"][0], found["complement"][1] / found["full"][1]]
    expected.append(expected[0] - expected[1] - expected[2] + expected[3])
    weights = planted.results["tested"]["weights"]
    assert [weights[name]["value"] for name in SHARES] == pytest.approx(expected, abs=1e-3)


def test_the_gates_follow_from_the_saved_scores(planted):
    """Of the same few donors above and below."""
    found = {swap: moved for swap, (moved, _) in by_hand(planted, "weights", planted.results["few"]).items()}
    word, states = (planted.results["tested"]["weights"]["gates"][name] for name in ("word", "manifold"))
    reached = found["broad"] / found["full"]
    expected = [found["without_word"] / found["full"], found["z_without_word"] / found["without_word"]]
    expected += [reached, found["z_in_broad"] / found["z"] / reached]
    measured = [word["full"], word["z"], states["full"], states["h"]]
    assert [record["value"] for record in measured] == pytest.approx(expected, abs=1e-3)


def test_a_condition_names_what_rests_on_it_once(planted):
    for condition in planted.results["conditions"]:
        assert len(set(condition["tested"])) == len(condition["tested"])


def test_a_fresh_run_writes_the_same_bytes(script, planted, tmp_path):
    """Also of what is learned, in few steps here: a search is drawn from the seed alone."""
    out, found = shutil.copytree(planted.out, tmp_path / "out"), []
    few = {"lab.learned": {"STEPS": 2}, "lab.dissociation": {"FULL_DRAWS": 2}}
    for _ in range(2):
        with fewer.applied(LITTLE_BESIDE | few):
            run(script, "phase3_patching.py", planted.model, out, "--fresh", "--learned", "--limit", 30)
        found.append({path.name: path.read_bytes() for path in out.glob("phase3*")})
    assert {"phase3_results.json", "phase3_output.md", *script("phase3_patching.py").ARRAYS} < set(found[0])
    assert "learned" in read(out)["tested"] and found[0] == found[1]


def test_report_only_writes_the_same_bytes_without_the_model(script, planted, tmp_path, monkeypatch):
    out = shutil.copytree(planted.out, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.glob("phase3*")}
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
    monkeypatch.setattr(rules, "MOVES", 1.5)
    script("phase3_patching.py").main(["--out", str(out), "--report-only"])
    results = read(out)
    assert results["verdict"] == "partial" == results["tested"]["weights"]["verdict"]
    assert {row["id"]: row["holds"] for row in results["claims"]} == {"z": False, "z_perp": True, "weights": False}


def test_the_batch_changes_nothing_but_rounding(script, planted, tmp_path, monkeypatch):
    """And without --learned the other subspaces are tested as with it; draws, of which no score is kept, are few here."""
    monkeypatch.setattr(dissociation, "FULL_DRAWS", 2)
    out = shutil.copytree(planted.out, tmp_path / "out")
    run(script, "phase3_patching.py", planted.model, out, "--batch", 5)
    results = read(out)
    assert set(results["tested"]) == set(planted.results["tested"]) - {"learned"}

    def named(conditions: list) -> dict:
        return {(row["swap"], row["site"], row["tested"][0]): index for index, row in enumerate(conditions)}

    own, with_learned = named(results["conditions"]), named(planted.results["conditions"])
    assert {name for name in with_learned if name not in own} == {name for name in with_learned if name[2] in SEARCHED}
    scores = np.load(out / "phase3_scores.npy")
    np.testing.assert_allclose(scores, planted.scores[[with_learned[name] for name in own]], atol=1e-3)


def patched(script, folder, kind: str, seed: int = 0) -> tuple[Planted, dict]:
    """Phase 3 on a model of a kind whose kernels it is handed as the bottleneck's Z, beside random ones of other layers."""
    truth = write_planted(folder / "model", kind, seed)
    layers = utils.random_subspaces(statistics.seeded(seed, "layers"), LAYERS, RANK, WIDTH)
    layers[BOTTLENECK] = truth.kernels
    place = {"site": BOTTLENECK + 1, "bottleneck": BOTTLENECK, "layers": layers}
    hand_on(truth.path, folder / "out", truth.kernels, **place)
    with fewer.applied(LITTLE_BESIDE):
        run(script, "phase3_patching.py", truth.path, folder / "out")
    return truth, read(folder / "out")


def test_a_decoy_is_refuted_while_what_is_fitted_finds_the_answer(script, tmp_path):
    """The bottleneck's kernels span a random subspace; the answer runs elsewhere, in the same directions in both languages."""
    _, results = patched(script, tmp_path, "decoy", seed=1)
    tested = results["tested"]
    assert results["carriers"]["joint"]
    assert tested["weights"]["place"] == "joint"
    for name in ("weights", "weights_at_carrier", "best_layer"):
        assert tested[name]["verdict"] == "none", name
        assert tested[name]["coverage"]["high"] < 0.5
        assert tested[name]["iia_cross"]["value"] < 0.2
        assert set(tested[name]["nulls"]) == {"haar"} and tested[name]["nulls"]["haar"]["draws"] == 20  # not worth more
        assert "gates" not in tested[name]
    assert (results["verdict"], results["decided_by"]) == ("double_dissociation", "answer_means")
    assert {row["id"]: row["holds"] for row in results["claims"]} == {"z": True, "z_perp": True, "weights": False}


def test_every_contingency_that_holds_is_swapped_in_one_family(script, tmp_path):
    """Phase 2 hands on a random subspace; another contingency is the code: found, corrected with all others, with more draws."""
    truth = write_planted(tmp_path / "model", "planted", 0)
    random = utils.random_subspaces(statistics.seeded(1, "others"), 2, RANK, WIDTH)
    layers = utils.random_subspaces(statistics.seeded(0, "layers"), LAYERS, RANK, WIDTH)
    also = {"previous_layer": random[1], "sweep": truth.kernels}
    place = {"site": BOTTLENECK + 1, "bottleneck": BOTTLENECK, "layers": layers, "method": "centroid", "also": also}
    hand_on(truth.path, tmp_path / "out", random[0], **place)
    with fewer.applied(LITTLE_BESIDE):
        run(script, "phase3_patching.py", truth.path, tmp_path / "out")
    results = read(tmp_path / "out")
    tested = results["tested"]
    assert set(rules.TESTED) - set(tested) == {"centroid", "ard_mmd", "learned"}
    assert results["decided_by"] == "sweep" and results["verdict"] == "double_dissociation"
    assert tested["sweep"]["method"] == "sweep" and tested["sweep"]["layer"] == 0
    assert tested["handed"]["verdict"] == tested["previous_layer"]["verdict"] == "none"
    draws = {row["nulls"]["haar"]["draws"] for name, row in tested.items() if row["coverage"]["value"] > 0.9}
    assert draws == {results["design"]["full_draws"]} == {140}  # 7 / 141 < .05
    ps = {name: row["p"] for name, row in tested.items()}
    assert len(ps) == 7 and {name: row["p_holm"] for name, row in tested.items()} == pytest.approx(
        dict(zip(ps, statistics.holm(list(ps.values())))), rel=1e-3
    )
    assert "contingency (b), best layer" in (tmp_path / "out" / "phase3_output.md").read_text()


def test_the_output_words_own_code_is_no_z(script, tmp_path):
    """Without a translation every subspace that holds the answer is that of the unembedding's rows, fitted ones too."""
    truth, results = patched(script, tmp_path, "answer_word")
    weights = results["tested"]["weights"]
    assert (weights["verdict"],) == truth.expected["weights"]
    assert (results["verdict"], results["decided_by"]) == ("answer_word", "weights")
    assert weights["coverage"]["low"] > 0.99 and weights["d"]["low"] > 1.98  # the profile alone cannot tell
    word = weights["gates"]["word"]
    assert (word["dimensions"], word["left"]) == (RANK, 0)
    assert abs(word["full"]["value"]) < 0.01
    assert results["tested"]["answer_means"]["verdict"] == "answer_word"
    assert {row["id"]: row["holds"] for row in results["claims"]} == {"z": False, "z_perp": False, "weights": False}


def test_directions_that_no_state_uses_are_an_illusion(script, tmp_path):
    truth, results = patched(script, tmp_path, "illusion")
    weights = results["tested"]["weights"]
    assert (weights["verdict"],) == truth.expected["weights"]
    assert weights["coverage"]["low"] > 0.99 and weights["d"]["low"] > 1.98  # the profile alone cannot tell
    states = weights["gates"]["manifold"]
    assert states["full"]["low"] > 0.99 and abs(states["h"]["value"]) < 0.05
    assert weights["gates"]["word"]["z"]["value"] == pytest.approx(1, abs=0.01)
    assert (results["verdict"], results["decided_by"]) == ("double_dissociation", "answer_means")
    assert {row["id"]: row["holds"] for row in results["claims"]} == {"z": True, "z_perp": True, "weights": False}


def test_random_weights_solve_nothing_and_say_so(script, tmp_path):
    _, results = patched(script, tmp_path, "random")
    out = tmp_path / "out"
    assert (results["verdict"], results["rung"], results["tested"]) == ("untestable", None, {})
    (row,) = results["tried"]
    assert row["outcome"] == "too_few_solved" and row["everywhere"] < 20
    for counts in results["unsolved"]["counts"].values():
        assert sum(counts.values()) == results["unsolved"]["asked"]
    assert all(row["holds"] is None for row in results["claims"])
    assert np.load(out / "phase3_scores.npy").size == np.load(out / "phase3_streams.npy").size == 0
    assert not list(out.glob("phase3*.png"))


# A subspace learned by gradients.


def search_on(truth: Planted, site: int) -> tuple[learned.Search, np.ndarray]:
    """A search with donors of all problems, and the problems' answers."""
    languages = questions.load_languages(["en", "zh"])
    model, tokenizer = models.load_model(checkpoints.find_model(str(truth.path)), torch.device("cpu"), torch.float32)
    asked, exemplars = (
        questions.load_problems([truth.path / f"{name}.jsonl"], list(languages)) for name in ("problems", "exemplars")
    )
    prompts = [[questions.prompt_text(problem, name, languages, exemplars) for problem in asked] for name in languages]
    known = answers.answer_set(tokenizer, asked, languages)
    places = np.array([known.place(problem) for problem in asked])
    flat = [text for own in prompts for text in own]
    streams = torch.stack([found[0, -1] for *_, found in models.residual_streams(model, tokenizer, flat, [site], 32)])
    asker = SimpleNamespace(model=model, tokenizer=tokenizer, batch=32)
    donors = transfer.donor_blocks(places, statistics.seeded(0, "donors"), 20)
    return learned.Search(asker, prompts, known.tokens, streams.unflatten(0, (2, -1)), donors), places


def searched(truth: Planted, inside: torch.Tensor, times: int = 1) -> list[torch.Tensor]:
    """What searches of one seed at the bottleneck's output find for the donors' own answers."""
    search, places = search_on(truth, BOTTLENECK + 1)
    target = lambda donor, language: 2 * places[donor] + language  # noqa: E731
    seeds = [statistics.seeded(0, "search") for _ in range(times)]
    return [search.subspace(BOTTLENECK + 1, RANK, inside, target, seed) for seed in seeds]


@pytest.mark.parametrize(
    "parts, least", [(("code", "nuisance"), 0.9), (None, 0.6)], ids=["two parts", "the whole space"]
)
def test_a_search_finds_what_acts(planted, parts, least):
    """Beside what varies more and does nothing; among all directions its steps bring it most of the way (chance is 6/128)."""
    truth = planted.truth
    inside = torch.eye(WIDTH) if parts is None else torch.cat([truth.parts[name] for name in parts])
    (basis,) = searched(truth, inside)
    assert basis.shape == (RANK, WIDTH)
    torch.testing.assert_close(basis @ basis.T, torch.eye(RANK, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(utils.project(basis, inside.double()), basis, atol=1e-5, rtol=0)
    assert utils.grassmann_similarity(basis, truth.answers) >= least


def test_a_search_is_drawn_from_its_seed(planted):
    first, second = searched(planted.truth, torch.cat([planted.truth.parts[name] for name in ("code", "nuisance")]), 2)
    assert torch.equal(first, second)


def test_a_search_has_no_more_dimensions_than_where_it_lies(planted, monkeypatch):
    monkeypatch.setattr(learned, "STEPS", 2)
    few = planted.truth.answers[:2]
    (basis,) = searched(planted.truth, few)
    assert utils.grassmann_similarity(basis, few) == pytest.approx(1, abs=1e-5) and basis.shape == few.shape


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


def test_the_best_answer_is_the_same_without_scoring_those_that_their_first_token_rules_out(small, monkeypatch):
    """Some prompts' best answer begins with their most probable first token, and others' with a less probable one."""
    model, tokenizer = models.load_model(checkpoints.find_model(str(small)), torch.device("cpu"), torch.float32)
    model.model.norm.weight.data *= 3  # random weights leave all tokens nearly alike
    several = [*[(11, then) for then in range(20, 28)], *[(12, 30, last) for last in range(40, 46)], (12, 31)]
    known = SimpleNamespace(tokens=[(10, 20), (10, 21), *several])
    texts = [json.loads(line)["question"]["en"] for line in (small / "problems.jsonl").read_text().splitlines()]
    asker, rung = ladder.Asker(model, tokenizer, {"en": {}}, 5), SimpleNamespace(known=known, name="a rung")
    whole = ladder.whole_answers(asker, rung, texts)
    scored = []
    likeliest = ladder.likeliest
    monkeypatch.setattr(ladder, "likeliest", lambda *given: scored.append(given) or likeliest(*given))
    found = ladder.by_first_token(asker, rung, texts)
    assert [row[0] for row in found.values()] == [row[0] for row in whole.values()] and list(found) == list(whole)
    assert all(row[1] is None for row in found.values())
    for own, other in zip(found.values(), whole.values()):
        torch.testing.assert_close(own[2], other[2], atol=1e-5, rtol=1e-4)
    assert {len(answers) for _, _, answers in scored} <= {2, 8, 7}
    assert len(texts) < sum(len(asked) for _, asked, _ in scored) < 3 * len(texts)


@pytest.mark.parametrize("kept", [19, 0], ids=["fewer than the precheck asks", "none that Z was not fitted on"])
def test_files_of_few_problems_are_no_crash(script, planted, tmp_path, kept):
    out = shutil.copytree(planted.out, tmp_path / "out")
    phase2 = json.loads((out / "phase2_results.json").read_text())
    problems = questions.load_problems([planted.model / "problems.jsonl"], ["en", "zh"])
    phase2["z"] |= {"fitted_on": [questions.problem_hash(problem) for problem in problems[kept:]]}
    (out / "phase2_results.json").write_text(json.dumps(phase2))
    run(script, "phase3_patching.py", planted.model, out)
    (row,) = read(out)["tried"]
    assert (row["problems"], row["asked"], row["left_out_as_fitted"]) == (kept, kept, PROBLEMS - kept)
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


def test_fits_share_no_first_token_with_a_test_answer():
    tokens = [(1,), (2,), (1, 5), (3,), (7,), (8,), (6, 1), (2, 4), (9,), (10,)]
    known = answers.AnswerSet(list("abcde"), ["en", "es"], tokens, [])
    problems = [SimpleNamespace(answer=answer) for answer in "abcde"]
    rung = SimpleNamespace(known=known, problems=problems)
    assert designs.unshared(rung, np.array([1, 2, 3]), np.array([0])).tolist() == [2]
    assert designs.unshared(rung, np.array([1, 2, 3]), np.array([4])).tolist() == [1, 2, 3]


@pytest.mark.parametrize("seen", [4, 8, 11])
def test_unseen_answers_are_judged_by_donors_of_their_kind(phase3, planted, seen):
    """A contrast with an answer that a Z was fitted on would be none, and few donors are soon none at all."""
    study, rung, measured, _ = control_runs.prepared(planted.model, planted.out, 0)
    test = sorted({rung.problems[problem].answer for problem in measured.design.scored[~measured.design.development]})
    fitted = {str(answer) for answer in test[:seen]}
    design = designs.make_design(study, rung, phase3.NEEDED, fitted, study.seeded)
    known = np.array([str(rung.problems[problem].answer) in fitted for problem in design.scored])
    assert (design.unseen == ~design.development & ~known).all()
    unseen = design.unseen
    if len(set(design.places[unseen])) > designs.FEW:
        assert not (design.blocks[unseen][:, ~unseen]).any() and not (design.few[unseen][:, ~unseen]).any()
        assert design.judges("unseen") >= unseen.sum() - 2
    assert design.judges("test") >= unseen.sum() - 2
    assert design.judges("all") == design.judges("development") + design.judges("test")


def test_problems_are_taken_from_all_of_a_file():
    assert designs.spread(np.arange(7)).tolist() == list(range(7))
    found = designs.spread(np.arange(100, 200))
    assert len(found) == designs.MOST and (found[0], found[-1]) == (100, 199)
    assert set(np.diff(found)) <= {5, 6}


def test_few_donors_have_different_answers():
    places = np.array([0, 0, 0, 1, 1, 2, 3, 4])
    blocks = transfer.donor_blocks(places, statistics.seeded(0, "blocks"))  # everybody with another answer
    for seed in range(10):
        few = designs.few_donors(blocks, places, statistics.seeded(seed, "few"))
        assert not (few & ~blocks).any()
        for row in few:
            given = places[row]
            assert len(set(given)) == len(given) <= designs.FEW
        assert few.sum() >= 2 * len(places) - 2  # nobody gives twice in one round


def test_rungs_come_from_data_unless_problems_are_named(script, phase3, small, tmp_path):
    arguments = commands.parser("", asks_problems=True).parse_args(["--model", str(small)])
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
    arguments.easier, arguments.limit = [runs.ROOT / "data" / f"{rung}.jsonl" for rung in ("sums", "successor")], 9
    below = phase3.easier_rungs(arguments, folder)  # data's own exemplars, not the model's
    assert [asked.settings["exemplars"][0] for asked in below] == ["sums_exemplars.jsonl", "successor_exemplars.jsonl"]
    assert [len(asked.problems) for asked in below] == [9, 9]


def test_a_limit_beyond_files_that_nobody_named_takes_all_of_these(phase3, small):
    given = ["--model", str(small), "--problems", str(runs.ROOT / "data" / "successor.jsonl"), "--limit", "80"]
    arguments = commands.parser("", asks_problems=True).parse_args(given)
    folder = checkpoints.find_model(str(small))
    ladder = questions.find_ladder(arguments, folder, phase3.RUNGS)
    others = questions.find_others(arguments, folder, phase3.RUNGS, ladder)
    assert [len(asked.problems) for asked in (*ladder, *others)] == [80, 60, 40]


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


def null(p: float, gain: float = 0.01, gates: bool = True, **more) -> dict:
    return {"draws": 120, "p": p, "iia_cross_gain": {"p": gain}, "gates": gates} | more


def gates(word=(1.0, 1.0), states=(1.0, 1.0), by_construction: bool = False) -> dict:
    """T(F')/T(F) and T(Z')/T(F'); T(P_B F)/T(F) and h, or no manifold."""
    told = states and dict(zip(("full", "h"), map(record, states))) | {"by_construction": by_construction}
    return {"word": dict(zip(("full", "z"), map(record, word))), "manifold": told}


PASSES = {
    "method": "answer_means",
    "place": "joint", "k": 30, "participation": 30.0, "p": 0.01, "p_holm": 0.04, "coverage": record(0.9), "leak": record(0.1),
    "complement_transfer": record(0.1), "complement_language": record(0.9), "d": record(1.6), "iia_cross": record(0.9),
    "full_iia_same": record(1.0), "nulls": {"haar": null(0.01)}, "gates": gates(),
}  # fmt: skip
NOTHING = record(None)


def with_null(name: str, *numbers, **more) -> dict:
    return {"nulls": PASSES["nulls"] | {name: null(*numbers, **more)}}


def judged(changes: dict) -> dict:
    return verdicts.phase3({"tested": {"weights": PASSES | changes}, "width": 400, "carriers": {"joint": [5]}})


@pytest.mark.parametrize(
    "changes, verdict",
    [
        ({}, "double_dissociation"),
        ({"k": 60}, "language_removed"),
        ({"k": 50}, "double_dissociation"),
        ({"k": 60, "participation": 41.0}, "double_dissociation"),
        ({"k": 60, "participation": 40.0}, "double_dissociation"),
        ({"k": 60, "coverage": record(0.2)}, "language_removed"),
        ({"coverage": record(0.6, 0.5, 0.7)}, "double_dissociation"),
        ({"coverage": record(0.6, 0.49, 0.7)}, "partial"),
        ({"iia_cross": record(0.5)}, "double_dissociation"),
        ({"iia_cross": record(0.49)}, "partial"),
        (with_null("haar", 0.01, 0.2), "partial"),
        (with_null("haar", 0.01, 0.05), "partial"),
        ({"leak": record(0.4, 0.3, 0.5)}, "partial"),
        ({"leak": record(0.4, 0.3, 0.49)}, "double_dissociation"),
        ({"complement_language": record(0.8, 0.6, 0.9)}, "double_dissociation"),
        ({"complement_language": record(0.79, 0.7, 0.9)}, "partial"),
        ({"complement_language": record(0.9, 0.59, 1.0)}, "partial"),
        ({"complement_transfer": record(0.4, 0.3, 0.49)}, "double_dissociation"),
        ({"complement_transfer": record(0.4, 0.3, 0.5)}, "partial"),
        ({"method": "weight"}, "partial"),  # other layers were not asked
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
    found = judged(changes)
    assert found["tested"]["weights"]["verdict"] == verdict == found["verdict"]
    open_verdict = verdict in ("inconclusive", "answer_only", "language_only", "untestable")
    open_verdict = open_verdict or (verdict == "partial" and not found["tested"]["weights"]["failed"])
    assert found["holds"]["weights"] is (None if open_verdict else verdict == "double_dissociation")


def with_gates(**own) -> dict:
    """Gates whose records have intervals: (value, low, high)."""
    word, states = own.get("word", {}), own.get("states", {})
    told = {"full": record(1.0), "h": record(1.0)} | {key: record(*ends) for key, ends in states.items()}
    kept = {"full": record(1.0), "z": record(1.0)} | {key: record(*ends) for key, ends in word.items()}
    return {"gates": {"word": kept, "manifold": told | {"by_construction": False}}}


@pytest.mark.parametrize(
    "test, fails, is_open",
    [
        ("moves the answer", {"coverage": record(0.4, 0.3, 0.49)}, {"coverage": record(0.6, 0.49, 0.7)}),
        ("wins with the donor's answer", {"iia_cross": record(0.4, 0.3, 0.49)}, {"iia_cross": record(0.4, 0.3, 0.5)}),
        ("wins with the donor's answer", with_null("haar", 0.01, 0.2) | {"iia_cross": record(0.4, 0.3, 0.5)}, None),
        ("leaves the language", {"leak": record(0.6, 0.5, 0.7)}, {"leak": record(0.6, 0.49, 0.7)}),
        (
            "its complement leaves the answer",
            {"complement_transfer": record(0.6, 0.5, 0.7)},
            {"complement_transfer": record(0.4, 0.3, 0.5)},
        ),
        (
            "its complement keeps the language",
            {"complement_language": record(0.7, 0.65, 0.79)},
            {"complement_language": record(0.9, 0.59, 1.0)},
        ),
        (
            "is not the output word's code",
            with_gates(word={"z": (0.46, 0.45, 0.49)}),
            with_gates(word={"z": (0.46, 0.4, 0.5)}),
        ),
        ("is not the output word's code", with_gates(word={"z": (0.46, 0.45, 0.49)}), with_gates(word={"z": (None,)})),
        (
            "acts among the model's own states",
            None,
            with_gates(states={"h": (0.6, 0.5, 0.7)}),
        ),  # a copy, or an illusion
        ("acts among the model's own states", None, with_gates(states={"full": (0.4,)})),  # None: not told
        (
            "beats other layers' weights",
            with_null("layers", 1 / 8, draws=7, outlier_p=0.2),
            with_null("layers", 1 / 3, draws=2, outlier_p=None),
        ),
        ("beats other layers' weights", with_null("layers", 2 / 3, draws=2, outlier_p=None), None),
    ],
)
def test_a_test_that_surely_fails_is_told_from_one_that_is_open(test, fails, is_open):
    """A Z that is partial by open tests alone is not said to be none; beside one that fails it is."""
    if fails:
        found = judged(fails)
        row = found["tested"]["weights"]
        assert (row["verdict"], row["failed"], row["open_tests"]) == ("partial", [test], [])
        assert found["holds"]["weights"] is False
    if is_open:
        found = judged(is_open)
        row = found["tested"]["weights"]
        assert (row["verdict"], row["failed"], row["open_tests"]) == ("partial", [], [test])
        assert found["holds"]["weights"] is None and False not in found["holds"].values()
        both = judged({"leak": record(0.6, 0.5, 0.7), **is_open})
        assert both["holds"]["weights"] is False or test == "leaves the language"
    assert judged({})["tested"]["weights"]["failed"] == judged({})["tested"]["weights"]["open_tests"] == []


def test_half_a_claim_is_open_where_an_interval_holds_its_bound():
    holds = judged({"leak": record(0.4, 0.3, 0.5)})["holds"]
    assert (holds["z"], holds["z_perp"]) == (None, True)
    holds = judged({"leak": record(0.4, 0.3, 0.5), "coverage": record(0.4)})["holds"]
    assert (holds["z"], holds["z_perp"]) == (False, True)
    holds = judged({"complement_language": record(0.79, 0.7, 0.9)})["holds"]
    assert (holds["z"], holds["z_perp"]) == (True, None)


@pytest.mark.parametrize(
    "word, coverage, verdict",
    [
        ((0.1, 1.0), 0.9, "double_dissociation"),
        ((0.099, 1.0), 0.9, "answer_word"),
        ((0.099, None), 0.9, "answer_word"),  # nothing is left to take a share of
        ((-0.01, 1.0), 0.9, "answer_word"),
        ((1.0, 0.5), 0.9, "double_dissociation"),
        ((1.0, 0.499), 0.9, "partial"),
        ((1.0, 0.45), 0.9, "partial"),  # half of its own coverage: as little as it has of the whole effect
        ((1.0, 0.449), 0.9, "answer_word"),
        ((1.0, 0.3), 0.6, "partial"),
        ((1.0, 0.299), 0.6, "answer_word"),
        ((1.0, 0.5), 1.4, "double_dissociation"),  # no share asks for more than half
        ((1.0, 0.499), 1.4, "answer_word"),
        ((1.0, None), 0.9, "partial"),
        ((None, None), 0.9, "partial"),
    ],
)
def test_the_gate_of_the_output_word(word, coverage, verdict):
    found = judged({"gates": gates(word=word), "coverage": record(coverage)})
    assert found["verdict"] == verdict
    assert found["tests"]["is not the output word's code"] is (verdict == "double_dissociation")
    explained = verdict == "answer_word"
    assert (found["holds"]["z"], found["holds"]["z_perp"]) == (not explained, not explained)


@pytest.mark.parametrize(
    "states, verdict",
    [
        ((1.0, 0.8), "double_dissociation"),
        ((1.0, 0.799), "partial"),
        ((1.0, 0.401), "partial"),
        ((1.0, 0.4), "illusion"),
        ((1.0, -0.1), "illusion"),
        ((0.9, 0.4), "illusion"),
        ((0.899, 0.4), "partial"),  # those states hold too little of what acts to tell
        ((0.899, 0.0), "partial"),
        ((0.5, 0.8), "double_dissociation"),
        ((0.499, 0.8), "partial"),
        ((0.499, 1.2), "partial"),
        ((1.0, None), "partial"),
        ((None, None), "partial"),
        (None, "partial"),
    ],
)
def test_the_gate_of_the_models_own_states(states, verdict):
    found = judged({"gates": gates(states=states)})
    assert found["verdict"] == verdict
    told = {"double_dissociation": True, "illusion": False}.get(verdict)
    if told is None and states and None not in states and states[0] >= 0.9:
        told = False
    assert found["tests"]["acts among the model's own states"] is told
    explained = verdict == "illusion"
    assert (found["holds"]["z"], found["holds"]["z_perp"]) == (not explained, not explained)


@pytest.mark.parametrize("reached, verdict", [(0.5, "double_dissociation"), (0.49, "partial"), (None, "partial")])
def test_what_was_sought_among_the_models_own_states_has_no_h(reached, verdict):
    found = judged({"gates": gates(states=(reached, None), by_construction=True)})
    assert found["verdict"] == verdict
    assert found["tests"]["acts among the model's own states"] is (True if verdict != "partial" else None)


@pytest.mark.parametrize("missing", [None, "nothing"])
def test_without_gates_nothing_is_a_dissociation_and_nothing_is_explained(missing):
    row = {
        name: value for name, value in (PASSES | {"gates": missing}).items() if (name, value) != ("gates", "nothing")
    }
    found = verdicts.phase3({"tested": {"weights": row}, "width": 400, "carriers": {"joint": [5]}})
    assert found["verdict"] == "partial"
    failed = [name for name, passed in found["tests"].items() if not passed]
    assert failed == ["is not the output word's code", "acts among the model's own states"]


def test_the_first_explanation_that_applies_is_the_verdict():
    """No null beaten, language_removed, answer_word, illusion, partial: each is found where those before it do not apply."""
    kinds = [
        ({"p_holm": 0.05, "coverage": record(0.45, 0.4, 0.49)}, {}, "none"),
        ({"k": 60}, {}, "language_removed"),
        ({}, {"word": (0.05, 0.1)}, "answer_word"),
        ({}, {"states": (1.0, 0.0)}, "illusion"),
        ({"leak": record(0.6)}, {}, "partial"),
        ({}, {}, "double_dissociation"),
    ]
    for place, (*_, verdict) in enumerate(kinds):
        changes, gated = {}, {}
        for change, gate, _ in kinds[place:]:
            changes, gated = change | changes, gate | gated
        assert judged(changes | {"gates": gates(**gated)})["verdict"] == verdict


@pytest.mark.parametrize(
    "changes, passes",
    [
        (with_null("layers", 1 / 8, draws=7, outlier_p=0.049), True),
        (with_null("layers", 1 / 8, draws=7, outlier_p=0.05), False),
        (with_null("layers", 1 / 8, draws=7, outlier_p=0.2), False),
        (with_null("layers", 1 / 3, draws=2, outlier_p=None), False),  # too few others to lie apart from
        (with_null("layers", 2 / 8, draws=7, outlier_p=0.001), False),
        (with_null("layers", 1 / 36, draws=35, outlier_p=0.01), True),
        (with_null("layers", 1 / 36, draws=35, outlier_p=0.2), False),
        (with_null("layers", 2 / 36, draws=35, outlier_p=0.01), False),
        (with_null("layers", 2 / 41, draws=40, outlier_p=0.01), True),
        (with_null("layers", 1 / 8, 0.9, draws=7, outlier_p=0.01), True),  # too few for a p of who wins
    ],
)
def test_a_z_from_weights_must_stand_out_among_layers(changes, passes):
    """It moves the answer all the same, so what is refuted is that these weights are special."""
    found = judged(changes)
    assert found["verdict"] == ("double_dissociation" if passes else "partial")
    too_few = found["tested"]["weights"]["open_tests"] == ["beats other layers' weights"]
    assert (found["holds"]["z"], found["holds"]["weights"]) == (True, None if too_few else passes)
    assert found["tests"]["beats other layers' weights"] is passes
    assert "beats other layers' weights" not in judged({})["tests"]


def test_the_matched_null_decides_who_wins_only_where_it_gates():
    """Its p of D is in the row's p already, which `Measured.against_nulls` takes over the nulls that gate."""
    assert judged(with_null("matched", 0.01, 0.049))["verdict"] == "double_dissociation"
    assert judged(with_null("matched", 0.01, 0.05))["verdict"] == "partial"
    assert judged(with_null("matched", 0.9, 0.9, gates=False))["verdict"] == "double_dissociation"


@pytest.mark.parametrize(
    "low, verdict", [(0.001, "double_dissociation"), (0.0, "partial"), (-0.2, "partial"), (None, "partial")]
)
def test_a_learned_z_must_beat_its_control(low, verdict):
    row = PASSES | {"control": {"d_gain": {"value": 0.5, "low": low, "high": 1.0}}}
    found = verdicts.phase3({"tested": {"learned": row}, "width": 400, "carriers": {"joint": [5]}})
    assert (found["verdict"], found["decided_by"]) == (verdict, "learned")
    assert found["tests"]["beats a search for other answers"] is ((low or 0) > 0)
    assert "beats a search for other answers" not in judged({})["tests"]


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
        ({"gates": gates(word=(0.05, None))}, False, False),
        ({"gates": gates(states=(1.0, 0.2))}, False, False),
        ({"gates": gates(states=(1.0, 0.6))}, True, True),
        ({"gates": None}, True, True),
        (with_null("layers", 2 / 8, draws=7, outlier_p=0.2) | {"coverage": record(0.1)}, False, True),
    ],
)
def test_each_half_of_the_claim_needs_what_moves_and_what_stays(changes, z, z_perp):
    holds = judged(changes)["holds"]
    assert (holds["z"], holds["z_perp"]) == (z, z_perp)


KINDS = {  # a row of every verdict, as they rank
    "double_dissociation": {}, "answer_word": {"gates": gates(word=(0.0, None))}, "illusion": {"gates": gates(states=(1.0, 0.0))},
    "language_removed": {"k": 60}, "partial": {"leak": record(0.6)}, "inconclusive": {"p_holm": 0.5},
    "none": {"p_holm": 0.5, "coverage": record(0.1)}, "answer_only": {"place": "answer"}, "language_only": {"place": "language"},
    "untestable": {"place": "none", "unmeasured": "no joint carrier"},
}  # fmt: skip


def test_the_phases_verdict_is_the_first_in_rank_and_the_first_subspaces_that_share_it():
    order = list(KINDS)
    for place, verdict in enumerate(order):
        for worse in order[place + 1 :]:
            tested = {"weights": PASSES | KINDS[worse], "answer_means": PASSES | KINDS[verdict]}
            found = verdicts.phase3({"tested": tested, "width": 400, "carriers": {"joint": [5]}})
            assert (found["verdict"], found["decided_by"]) == (verdict, "answer_means")
            assert found["tested"]["weights"]["verdict"] == worse
    assert verdicts.OPEN == ("inconclusive", "answer_only", "language_only", "untestable")
    for first, second in zip(verdicts.TESTED, verdicts.TESTED[1:]):
        tested = {second: PASSES, first: PASSES}
        assert verdicts.phase3({"tested": tested, "width": 400, "carriers": {"joint": [5]}})["decided_by"] == first


def test_without_a_joint_carrier_nothing_is_decided():
    none = PASSES | {"p_holm": 0.5, "coverage": record(0.1)}
    tested = {"weights": none, "best_layer": PASSES | {"leak": record(0.6)}, "answer_means": PASSES}
    found = verdicts.phase3({"tested": tested, "width": 400, "carriers": {"joint": [5]}})
    assert (found["verdict"], found["decided_by"]) == ("double_dissociation", "answer_means")
    assert found["holds"] == {"z": True, "z_perp": True, "weights": False}
    found = verdicts.phase3(
        {"tested": {"weights": PASSES | {"place": "answer"}}, "width": 400, "carriers": {"joint": []}}
    )
    assert (found["verdict"], found["decided_by"]) == ("untestable", None)
    assert found["holds"] == {"z": None, "z_perp": None, "weights": None}


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


def test_answers_that_z_was_fitted_on_are_the_development_half(phase3, planted):
    """Phase 2 fits on whole answers of the model's own problems: what is left would be too few, and none is needed to leave."""
    study, rung, _, _ = control_runs.prepared(planted.model, planted.out, 0)
    by_answer = sorted({str(problem.answer) for problem in rung.problems})
    seen = set(by_answer[: len(by_answer) // 2])
    hashes = {questions.problem_hash(problem) for problem in rung.problems if str(problem.answer) in seen}
    taken, tried = ladder.choose_rung(study, [rung.asked], phase3.NEEDED, hashes)
    assert taken.fitted == seen and tried[-1]["left_out_as_fitted"] == 0
    design = designs.make_design(study, taken, phase3.NEEDED, seen, study.seeded)
    known = np.array([str(taken.problems[problem].answer) in seen for problem in design.scored])
    assert (design.development == known).all() and (design.unseen == ~known).all()
    few = {questions.problem_hash(problem) for problem in rung.problems if str(problem.answer) in by_answer[:-2]}
    assert ladder.parted(rung.asked.problems, few)[1] == frozenset()
